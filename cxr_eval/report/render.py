"""Writes report.html and report.md into a run folder, from what is in the folder and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from cxr_eval.errors import RunError
from cxr_eval.report import figures, gallery, pictures, tables, verdict
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import Results, one_line, plain
from cxr_eval.report.tables import Table
from cxr_eval.store import FILES, Run, write_whole
from cxr_eval.types import Level, format_eps

FORMATS = ("html", "md", "csv")
LEVELS: dict[Level, str] = {"fail": "Failed check", "warn": "Warning", "note": "Note"}
NOTICE = (
    "DEMONSTRATION: these are drawn images of no patient. The numbers below say nothing about any clinic, "
    "any disease or any medical device."
)
KINDS = {
    "models": "Model",
    "trainers": "Trainer",
    "attacks": "Attack",
    "corruptions": "Corruption",
    "explainers": "Explainer",
    "explanation_metrics": "Explanation metric",
}


@dataclass(frozen=True)
class Part:
    """Curves and tables of one model on one set; `folded` tables are shown on demand."""

    title: str
    pictures: list[Picture]
    tables: list[Table]
    folded: list[Table]


@dataclass(frozen=True)
class Doubt:
    """One stored warning with all the numbers that it was stored for."""

    level: str
    code: str
    message: str
    scopes: list[str]


def render(run: Run, formats: Sequence[str] = ("html", "md")) -> dict[str, Path]:
    """Paths of what was written, by format. `csv` names rows.csv, which every run has.

    report.md comes with figures/: its curves as SVG, its gallery as PNG. The same folder gives the same bytes.

    Raises:
        RunError: a format is unknown, or a file of the run folder is missing.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise RunError(f"report: expected formats among {', '.join(FORMATS)}, got '{unknown[0]}'")
    missing = [name for name in FILES if not (run.folder / name).is_file()]
    if missing:
        raise RunError(f"{run.folder}: {missing[0]} is missing; run the protocol again, what is computed is kept")
    written: dict[str, Path] = {"csv": run.folder / "rows.csv"} if "csv" in formats else {}
    if not {"html", "md"} & set(formats):
        return written
    content = _content(run, sheets="md" in formats)
    if "md" in formats:
        _write_figures(run.folder / "figures", content)
    for name in (name for name in ("html", "md") if name in formats):
        path = run.folder / f"report.{name}"
        text = _environment(name).get_template(f"report.{name}.j2").render(content)
        write_whole(path, (text.rstrip() + "\n").encode())
        written[name] = path
    return written


def _environment(format_name: str) -> jinja2.Environment:
    html = format_name == "html"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cxr_eval.report"),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"md": markdown, "fence": fence, "pick": pick}
    # only text that we made ourselves: SVG from numbers, our own style sheet
    environment.filters["made_here"] = Markup
    return environment


def _shown(value: object) -> object:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def markdown(text: object) -> str:
    """Text as one line of Markdown that shows itself: nothing in it is markup, HTML or a column's end."""
    escaped = one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escaped)


def fence(text: str) -> str:
    """Text as a Markdown code block that it cannot end by itself."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}\n{plain(text).rstrip()}\n{ticks}"


def settings(values: dict[str, Any]) -> str:
    """Settings on one line: `eps = 8/255, steps = 10`; those that were not given are left out."""
    given = {name: value for name, value in values.items() if value is not None}
    return ", ".join(f"{name} = {_radius(name, value) or _value(value)}" for name, value in given.items()) or "none"


def _radius(name: str, value: Any) -> str:
    """A radius as the tables show it; nothing if the setting is none."""
    is_radius = isinstance(value, float) and (name.startswith("eps") or name in ("step", "delta", "update_step"))
    return format_eps(value) if is_radius else ""


def _value(value: Any) -> str:
    """A setting as YAML would have it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: `48 s`, `12 min 05 s`, `3 h 20 min`."""
    if seconds is None:
        return "not known"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def pick(record: dict[str, Any], *names: str) -> list[Any]:
    """Some values of a record, in that order."""
    return [record[name] for name in names]


def _content(run: Run, *, sheets: bool) -> dict[str, Any]:
    """Everything that the templates show."""
    manifest = run.manifest()
    results = Results(run.rows(), manifest, run.warnings())
    skipped, history, counts = (run.table(name) for name in ("skipped", "history", "counts"))
    shown = gallery.build(run.gallery(), results, sheets=sheets)
    clean_tables = [table for split in results.splits if (table := tables.main_table(results, split))]
    return {
        "manifest": manifest,
        "results": results,
        "notice": NOTICE if verdict.is_drawn(results) else "",
        "title": manifest["title"] or manifest["name"],
        "tested": verdict.tested(results),
        "verdict": verdict.verdict(results),
        "not_tested": verdict.not_tested(results),
        "doubts": _doubts(results),
        "levels": LEVELS,
        "skipped": skipped.to_dict("records"),
        "skipped_count": len(skipped),
        "failed": [cell for cell in manifest["cells"] if cell["status"] == "failed"],
        "main": clean_tables,
        "robust": list(_robust(results)),
        "by_class": list(_by_class(results)),
        "corrupted": list(_corrupted(results)),
        "explained": [table for model in results.models if (table := tables.explanation_table(results, model))],
        "gallery": shown,
        "ramp": pictures.gradient(),
        "ramp_against": pictures.gradient(against=True),
        "training": list(_training(results, history)),
        "legend": figures.legend(results),
        "facts": _facts(results),
        "uses": _uses(manifest),
        "networks": _networks(manifest),
        "counts": (list(map(str, counts.columns)), [[_count(value) for value in row] for row in counts.to_numpy()]),
        "protocol_text": (run.folder / "protocol.yaml").read_text(encoding="utf-8"),
    }


def _robust(results: Results) -> Iterator[Part]:
    for split_number, split in enumerate(results.splits):
        for model_number, model in enumerate(results.models):
            table = tables.robust_table(results, model, split)
            if table:
                key = f"robust-{split_number}-{model_number}"
                curves = figures.robust_curves(results, model, split, key)
                yield Part(f"{model} on “{split}”", curves, [table], [])


def _by_class(results: Results) -> Iterator[Part]:
    for split in results.splits:
        for model in results.models:
            by_class = tables.class_tables(results, model, split)
            confusion = tables.confusion_table(results, model, split)
            clean = [*by_class[:1], *([confusion] if confusion else [])]
            if clean:
                yield Part(f"{model} on “{split}”", [], clean, by_class[1:])


def _corrupted(results: Results) -> Iterator[Part]:
    for split_number, split in enumerate(results.splits):
        if not results.corruptions(split):
            continue
        for model_number, model in enumerate(results.models):
            table = tables.corruption_table(results, model, split)
            if table:
                key = f"corruption-{split_number}-{model_number}"
                curves = figures.corruption_curves(results, model, split, key)
                yield Part(f"{model} on “{split}”", curves, [table], [])


def _training(results: Results, history: pd.DataFrame) -> Iterator[Part]:
    for number_, model in enumerate(results.models):
        curves = figures.training_curves(results, history, model, f"training-{number_}")
        if curves:
            yield Part(model, curves, [], [])


def _facts(results: Results) -> list[tuple[str, str]]:
    """What identifies the run."""
    manifest = results.manifest
    data, device, machine = manifest["data"], manifest["device"], manifest["machine"]
    sets = "; ".join(f"{name}: {_reader(reader)}" for name, reader in data["outside"].items())
    facts = [
        ("Run", manifest["name"]),
        ("Protocol", manifest["protocol"]["path"]),
        ("Changed on the command line", "; ".join(manifest["protocol"]["sets"])),
        ("Protocol hash", manifest["protocol"]["hash"]),
        ("Data hash", data["hash"]),
        ("Reader", _reader(data["reader"])),
        ("Outside test sets", sets or "none"),
        ("Task and classes", f"{manifest['task']}: {', '.join(results.classes)}"),
        (
            "Images as networks saw them",
            f"{data['size']} by {data['size']} pixels, {verdict.plural(data['channels'], 'channel')}",
        ),
        ("Seeds", ", ".join(map(str, manifest["seeds"]))),
        ("Training", settings(manifest["train"])),
        ("Evaluation", settings(manifest["evaluate"])),
        ("Device", f"{device['name']} ({device['kind']}), {verdict.plural(device['threads'], 'thread')}"),
        ("Machine", f"Python {machine['python']}, {machine['platform']}, {machine['processor']}"),
        ("Started, finished", f"{manifest['started']}, {manifest['finished']} ({duration(manifest['seconds'])})"),
    ]
    return [(name, value) for name, value in facts if value]


def _reader(reader: dict[str, Any]) -> str:
    """A reader and its settings."""
    return f"{reader['name']} ({settings(reader['settings'])})" if reader["settings"] else str(reader["name"])


def _uses(manifest: dict[str, Any]) -> list[list[str]]:
    """Every plugin: kind, label (and name where it differs), settings, source, package."""
    return [
        [title, label if label == name else f"{label} ({name})", settings(_said(use)), use["source"], use["origin"]]
        for kind, title in KINDS.items()
        for use in manifest[kind]
        for label, name in [(use["label"], use["name"])]
    ]


def _said(use: dict[str, Any]) -> dict[str, Any]:
    """What the protocol says of one plugin: its settings, and the trainers whose networks it needs."""
    needs = {name: use[name] for name in ("warm_start", "reference") if use.get(name) is not None}
    return {**use["settings"], **needs}


def _networks(manifest: dict[str, Any]) -> list[list[str]]:
    """Every cell, with what its training took."""
    rows = []
    for cell in manifest["cells"]:
        kept = "" if cell["best_epoch"] is None else str(int(cell["best_epoch"]) + 1)
        size = "" if cell["parameters"] is None else f"{int(cell['parameters']):,}"
        epochs = "" if cell["epochs"] is None else str(cell["epochs"])
        end = [epochs, kept, size, duration(cell["seconds"]), cell["key"]]
        rows.append([cell["model"], cell["trainer"], str(cell["seed"]), cell["status"], *end])
    return rows


def _doubts(results: Results) -> list[Doubt]:
    """Warnings by level, worst first; those that differ only in scope together."""
    found: dict[tuple[str, str, str], Doubt] = {}
    order = list(LEVELS)
    for warning in sorted(results.warnings, key=lambda warning: order.index(warning.level)):
        key = (warning.level, warning.code, warning.message)
        doubt = found.setdefault(key, Doubt(*key, []))
        scope = "the whole run" if warning.scope == "run" else warning.scope
        if scope not in doubt.scopes:
            doubt.scopes.append(scope)
    return list(found.values())


def _count(value: object) -> str:
    """A value of the counts table: whole numbers without `.0`, nothing where there is none."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)


def _write_figures(folder: Path, content: dict[str, Any]) -> None:
    """The figures of report.md; those of an earlier report that this one lacks go."""
    files = {name: data for entry in content["gallery"].shown for name, data in entry.files.items()}
    for section in ("robust", "corrupted", "training"):
        files |= {f"{picture.key}.svg": picture.file.encode() for part in content[section] for picture in part.pictures}
    for old in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if old.name not in files:
            old.unlink()
    for name, data in files.items():
        write_whole(folder / name, data)
