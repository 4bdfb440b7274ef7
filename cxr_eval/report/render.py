"""Writes report.html and report.md into a run folder, from what is in the folder and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_eval.errors import RunError, nearest
from cxr_eval.protocol import FORMATS
from cxr_eval.report import audit, bands, figures, gallery_page, sections, tables, verdict
from cxr_eval.report.answers import answers
from cxr_eval.report.checklists import page as checklists
from cxr_eval.report.environment import environment
from cxr_eval.report.formats import json, latex, pdf
from cxr_eval.report.overview import CAPTION, overview
from cxr_eval.report.results import Results, number
from cxr_eval.report.threats import threat_model
from cxr_eval.report.words import dataset, duration, on_networks, settings, with_needs
from cxr_eval.store import FILES, Run, write_whole
from cxr_eval.types import Level

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
class Doubt:
    """One stored warning with all the numbers that it was stored for."""

    level: str
    code: str
    message: str
    scopes: list[str]


def render(run: Run, formats: Sequence[str] = ("html", "md"), *, out: Path | None = None) -> dict[str, Path]:
    """Paths of what was written, by format. `csv` names rows.csv, which every run has.

    out: where to write; the run folder if not given. report.md comes with figures/: its curves as SVG, its gallery as PNG; of
    LaTeX the path is that of a document with all tables. The same folder gives the same bytes.

    Raises:
        RunError: a format is unknown, a file of the run folder is missing, or PDF was asked for and no browser is there.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise RunError(f"report: expected formats among {', '.join(FORMATS)}, got '{unknown[0]}'{nearest(unknown[0], FORMATS)}")
    browser = pdf.browser() if "pdf" in formats else None  # before anything is written
    missing = [name for name in FILES if not (run.folder / name).is_file()]
    if missing:
        raise RunError(f"{run.folder}: {missing[0]} is missing; run the protocol again, what is computed is kept")
    out = run.folder if out is None else out
    written: dict[str, Path] = {}
    if "csv" in formats:
        written["csv"] = out / "rows.csv"
        if not written["csv"].is_file() or not written["csv"].samefile(run.folder / "rows.csv"):
            write_whole(written["csv"], (run.folder / "rows.csv").read_bytes())
    if not set(formats) - {"csv"}:
        return written
    content = page_content(run, [*formats, *(["html"] if browser else [])], out)
    if "md" in formats:
        _write_figures(out / "figures", content, own=out.resolve() == run.folder.resolve())
    for name, text in content["checklists"].files.items() if {"html", "md"} & set(formats) else ():
        write_whole(out / name, text)
    pages = {name: _page(name, content) for name in ("html", "md") if name in formats or (name == "html" and browser)}
    made = {name: page for name, page in pages.items() if name in formats}
    if "json" in formats:
        made["json"] = json.report_json(run, content).encode()
    if browser:
        made["pdf"] = pdf.printed(pages["html"], browser, content["manifest"]["finished"])
    for name, data in made.items():
        written[name] = out / f"report.{name}"
        write_whole(written[name], data)
    if "latex" in formats:
        written["latex"] = latex.write_tables(out, content["manifest"]["name"], content)
    return {name: written[name] for name in formats}


def _page(name: str, content: dict[str, Any]) -> bytes:
    """report.html or report.md."""
    return (environment(name).get_template(f"report.{name}.j2").render(content).rstrip() + "\n").encode()


def page_content(run: Run, formats: Sequence[str], out: Path | None = None) -> dict[str, Any]:
    """Everything that the templates of these formats show; the figures are there for any. out: folder of what is written."""
    manifest = run.manifest()
    results = Results(run.rows(), manifest, run.warnings())
    skipped, history, counts = (run.table(name) for name in ("skipped", "history", "counts"))
    title = manifest["title"] or manifest["name"]
    notice = _notice(results)
    shown = gallery_page.content(
        run, results, title=title, notice=notice, html="html" in formats, sheets="md" in formats, out=out
    )
    main = [table for split in results.splits if (table := tables.main_table(results, split))]
    robust, by_class, corrupted = (list(make(results)) for make in (sections.robust, sections.by_class, sections.corrupted))
    explained = list(bands.explanations(results))
    papers = sections.as_papers(results)
    checks, differences, gaps, curves = (run.table(name) for name in ("checks", "differences", "gaps", "curves"))
    evidence = sections.evidence(results, checks, differences, gaps, curves)
    short, doubts = overview(results, differences), _doubts(results)
    parts = [*robust, *by_class, *corrupted, *explained, *(part for block in papers for part in block.parts)]
    parts += [part for section in evidence.values() if section for part in section.parts]
    all_tables = [*main, *(table for part in parts for table in [*part.tables, *part.folded])]
    all_tables += [table for block in papers for table in [*block.tables, *block.folded]]
    return {
        "manifest": manifest,
        "results": results,
        "checklists": checklists.section(run, results, notice=notice),
        "notice": notice,
        "title": title,
        "tested": verdict.tested(results),
        "data": dataset(manifest["provenance"], manifest["data"]),
        "answers": answers(results, differences, checks, short),
        "overview": short,
        "overview_caption": CAPTION,
        "verdict": verdict.verdict(results, differences),
        "not_tested": verdict.not_tested(results),
        "doubts": doubts,
        "doubts_said": _how_many(doubts),
        "levels": LEVELS,
        "skipped": skipped.to_dict("records"),
        "skipped_count": len(skipped),
        "failed": [cell for cell in manifest["cells"] if cell["status"] == "failed"],
        "audit": audit.section(run.audit()),
        "main": main,
        "evidence": evidence,
        "papers": papers,
        "unplaced": sections.unplaced(results, all_tables),
        "robust": robust,
        "by_class": by_class,
        "corrupted": corrupted,
        "explained": explained,
        "many": len(results.models) > sections.MOST_OPEN,
        "most_open": sections.MOST_OPEN,
        **shown,
        "threat_model": threat_model(results) if robust else "",
        "training": list(sections.training(results, history)),
        "legend": figures.legend(results),
        "published_legend": figures.published_legend(results),
        "facts": _facts(results),
        "left_out": [
            [left["dataset"], left["reader"], left["reason"], str(left["images"])]
            for left in manifest["data"].get("left_out", [])
        ],
        "uses": _uses(manifest),
        "networks": _networks(manifest),
        "counts": (list(map(str, counts.columns)), [[_count(value) for value in row] for row in counts.to_numpy()]),
        "protocol_text": (run.folder / "protocol.yaml").read_text(encoding="utf-8"),
    }


def _facts(results: Results) -> list[tuple[str, str]]:
    """What identifies the run."""
    manifest = results.manifest
    data, device, machine = manifest["data"], manifest["device"], manifest["machine"]
    sets = "; ".join(f"{name}: {_readers(readers)}" for name, readers in data["outside"].items())
    facts = [
        ("Run", manifest["name"]),
        ("Protocol", manifest["protocol"]["path"]),
        ("Changed on the command line", "; ".join(_changes(manifest["protocol"]))),
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
        ("Models by trainer", "; ".join(_chosen(use, results.models) for use in manifest["trainers"] if use.get("models"))),
        ("Training", settings(manifest["train"])),
        ("Evaluation", settings(manifest["evaluate"])),
        ("Device", f"{device['name']} ({device['kind']}), {verdict.plural(device['threads'], 'thread')}"),
        ("Machine", f"Python {machine['python']}, {machine['platform']}, {machine['processor']}"),
        ("Started, finished", f"{manifest['started']}, {manifest['finished']} ({duration(manifest['seconds'])})"),
    ]
    return [(name, value) for name, value in facts if value]


def _changes(protocol: dict[str, Any]) -> list[str]:
    """What the command line changed of a protocol."""
    return [*protocol["sets"], *(f"--only {each}" for each in protocol.get("only", ()))]


def _notice(results: Results) -> str:
    """What must stand on the first line: that a run is no whole one, and that no patient is behind its images."""
    smoke = [warning.message for warning in results.warnings if warning.code == "smoke_run"]
    return " ".join([*smoke, *([NOTICE] if verdict.is_drawn(results) else [])])


def _readers(readers: dict[str, Any] | list[dict[str, Any]]) -> str:
    """The readers of one set, put one below the other."""
    return " and ".join(map(_reader, readers if isinstance(readers, list) else [readers]))


def _reader(reader: dict[str, Any]) -> str:
    """A reader and its settings."""
    return f"{reader['name']} ({settings(reader['settings'])})" if reader["settings"] else str(reader["name"])


def _chosen(use: dict[str, Any], models: Sequence[str]) -> str:
    """On which models one trainer was run, and how they were chosen."""
    among, label = use["models"], use["label"]
    if isinstance(among, list):
        return f"{label}: on {len(among)} of {len(models)} models, as the protocol says: {', '.join(among)}"
    by = f"the {among['best']} best of {len(models)} models by validation {among['by'].replace('_', ' ')} of {among['of']}"
    always = f", always with {', '.join(among['always'])}" if among.get("always") else ""
    if "chosen" not in among:
        return f"{label}: on none, for {by}{always} could not be chosen"
    scores = among.get("scores", {})
    chosen = ", ".join(f"{name} ({number(scores[name])})" if name in scores else name for name in among["chosen"])
    return f"{label}: on {by}{always}: {chosen}"


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
    uses = {use["label"]: use for use in manifest["trainers"]}
    for cell in manifest["cells"]:
        kept = "" if cell["best_epoch"] is None else str(int(cell["best_epoch"]) + 1)
        size = "" if cell["parameters"] is None else f"{int(cell['parameters']):,}"
        epochs = "" if cell["epochs"] is None else str(cell["epochs"])
        end = [epochs, kept, size, duration(cell["seconds"]), cell["key"]]
        trainer = with_needs(cell["trainer"], uses[cell["trainer"]])
        rows.append([cell["model"], trainer, str(cell["seed"]), cell["status"], *end])
    return rows


def _doubts(results: Results) -> list[list[Doubt]]:
    """Warnings by kind, the worst kinds first; those that differ only in scope together, and in the network only in one."""
    found: dict[tuple[str, str], dict[str, Doubt]] = {}
    order = list(LEVELS)
    for warning in sorted(results.warnings, key=lambda warning: order.index(warning.level)):
        kind = found.setdefault((warning.level, warning.code), {})
        doubt = kind.setdefault(warning.message, Doubt(warning.level, warning.code, warning.message, []))
        scope = "the whole run" if warning.scope == "run" else warning.scope
        if scope not in doubt.scopes:
            doubt.scopes.append(scope)
    trained = [cell for cell in results.manifest["cells"] if cell["status"] != "failed"]
    return [[replace(doubt, scopes=on_networks(doubt.scopes, trained)) for doubt in kind.values()] for kind in found.values()]


def _how_many(doubts: list[list[Doubt]]) -> str:
    """How many kinds of warnings there are of each level: `1 failed check, 3 warnings`."""
    counts = {level: sum(kind[0].level == level for kind in doubts) for level in LEVELS}
    return ", ".join(verdict.plural(count, LEVELS[level].lower()) for level, count in counts.items() if count)


def _count(value: object) -> str:
    """A value of the counts table: whole numbers without `.0`, nothing where there is none."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)


def _write_figures(folder: Path, content: dict[str, Any], *, own: bool) -> None:
    """The figures of report.md; those of an earlier report that this one lacks go, where the folder is the run's own."""
    files = {name: data for entry in content["gallery"].shown for name, data in entry.files.items()}
    files |= content["audit"].files if content["audit"] else {}
    parts = [*content["robust"], *content["by_class"], *content["corrupted"], *content["explained"], *content["training"]]
    parts += [part for section in content["evidence"].values() if section for part in section.parts]
    parts += [part for block in content["papers"] for part in block.parts]
    files |= {f"{picture.key}.svg": picture.file.encode() for part in parts for picture in part.pictures}
    for old in [*folder.glob("*.svg"), *folder.glob("*.png")] if own else []:
        if old.name not in files:
            old.unlink()
    for name, data in files.items():
        write_whole(folder / name, data)
