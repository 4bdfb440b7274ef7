"""Runs side by side: what differs between them, and all their numbers in one folder that is reported like a run."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_eval.comparing import compare_trainers
from cxr_eval.errors import RunError
from cxr_eval.facts import Facts
from cxr_eval.scoring import CellScores
from cxr_eval.store import Gallery, Run
from cxr_eval.types import ROW_COLUMNS, Row, RowWarning, SkippedFile
from cxr_eval.verifying import cells_of

MOST_RUNS = len(string.ascii_uppercase)
SETTINGS = ("task", "data", "train", "evaluate", "explain", "seeds", "conditions", "versions", "device", "machine")
"""Parts of a manifest that say how numbers were made, beside the plugins."""
PLUGINS = ("models", "trainers", "attacks", "corruptions", "explainers", "explanation_metrics")
MAPS = ("explainers", "explanation_metrics")
ABSENT = "-"


@dataclass(frozen=True)
class Combined:
    """Runs in one folder, and what differs between them: a header, then lines of what and how it is in each run."""

    run: Run
    differs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Side:
    """One of the runs, and how it is told from the others."""

    mark: str
    run: Run
    manifest: dict[str, Any]
    splits: Mapping[str, str]
    """What its splits are called here."""
    attacks: Mapping[str, str]
    """What its attacks and corruptions are called here."""

    def trainer(self, label: str) -> str:
        """What one of its trainers is called here."""
        return f"{self.mark}: {label}"

    def condition(self, condition: str) -> str:
        """What one of its conditions is called here."""
        name, colon, amount = condition.rpartition(":")
        return f"{self.attacks[name]}:{amount}" if colon and name in self.attacks else condition

    def scope(self, scope: str) -> str:
        """What a warning is about, with the names that hold here."""
        first, comma, rest = scope.partition(", ")
        parts = first.split(" / ")
        if len(parts) > 1:
            first = " / ".join([parts[0], self.trainer(parts[1]), *parts[2:]])
        elif first in self.manifest["data"]["splits"]:
            first = self.splits.get(first, first)
        elif first == "run":
            return "run"
        rest = ", ".join(self.splits.get(part, self.condition(part)) for part in rest.split(", ")) if comma else ""
        return first + comma + rest

    @cached_property
    def record(self) -> dict[str, list[dict[str, Any]]]:
        """Its tables, by the key of a cell."""
        return self.run.tables()


def combine(runs: Sequence[Run], out: Path) -> Combined:
    """Write the numbers of several runs into one folder, in which trainers are called `A: fgsm`, `B: fgsm` and so on.

    Sets with the same images keep their name, and networks are compared on them in pairs: every trainer with the one of the
    same name in the first run, or with the first run's first. Other sets, and attacks of the same name with other settings, are
    named by their run: their numbers are not of the same thing.

    Raises:
        RunError: there are fewer than two, the classes differ, or a run was written by a version that did not list its tables.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise RunError(f"expected 2 to {MOST_RUNS} runs to compare, got {len(runs)}")
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise RunError("expected different runs, got one twice")
    if (out / "cells").exists() or ((out / "manifest.json").exists() and "compared" not in Run.open(out).manifest()):
        raise RunError(f"{out}: holds a run, which the comparison would overwrite; choose another folder with --out")
    sides = list(_sides(runs))
    first = sides[0].manifest
    for side in sides:
        for what, ours, theirs in (
            ("classes", first["data"]["classes"], side.manifest["data"]["classes"]),
            ("task", first["task"], side.manifest["task"]),
        ):
            if ours != theirs:
                raise RunError(f"{side.run.folder}: {what} {theirs}, but {runs[0].folder} has {ours}; these cannot be compared")
    differs = tuple(_differs(sides))
    manifest = _manifest(sides, differs)
    shared, maps = set.intersection(*(set(side.attacks.values()) for side in sides)), _same_maps(sides)
    cells = [cell for side in sides for cell in _cells(side, Facts(manifest), shared, maps)]
    target = Run(out)
    with target.at_work():
        target.write(
            manifest=manifest,
            protocol="".join(f"--- # {side.mark}\n{_protocol(side.run)}" for side in sides),
            included={},
            rows=[row for side in sides for row in _rows(side)],
            warnings=[
                *_other_attacks(sides, shared),
                *_other_maps(sides, maps),
                *(warning for side in sides for warning in _warnings(side)),
            ],
            skipped=[SkippedFile(*line) for side in sides for line in side.run.table("skipped").itertuples(index=False)],
            counts=pd.concat([side.run.table("counts") for side in sides], ignore_index=True).drop_duplicates(),
            history=pd.concat([_named(side, side.run.table("history")) for side in sides], ignore_index=True),
            gallery=Gallery([], {}),
            later={
                "checks": _joined(sides, "checks"),
                "differences": compare_trainers(Facts(manifest), cells, list(_pairs(sides))),
                "gaps": _joined(sides, "gaps"),
                "curves": _joined(sides, "curves"),
            },
        )
    return Combined(target, differs)


def _sides(runs: Sequence[Run]) -> Iterator[_Side]:
    manifests = [run.manifest() for run in runs]
    hashes: dict[str, str] = {}
    settings: dict[str, dict[str, Any]] = {}
    for mark, run, manifest in zip(string.ascii_uppercase, runs, manifests, strict=False):
        splits, attacks = {}, {}
        for name, about in manifest["data"]["splits"].items():
            same = hashes.setdefault(name, about["hash"]) == about["hash"]
            splits[name] = name if same else f"{name} of {mark}"
        for use in (*manifest["attacks"], *manifest["corruptions"]):
            own = {key: value for key, value in use["settings"].items() if key not in ("eps", "severity", "splits")}
            own |= {key: use.get(key) for key in ("name", "after", "transfer_from")}
            same = settings.setdefault(use["label"], own) == own
            attacks[use["label"]] = use["label"] if same else f"{use['label']} of {mark}"
        yield _Side(mark, run, manifest, splits, attacks)


def _pairs(sides: Sequence[_Side]) -> Iterator[tuple[str, str]]:
    """Every trainer of the later runs with its namesake in the first run, or with the first run's first trainer."""
    first = [use["label"] for use in sides[0].manifest["trainers"]]
    for side in sides[1:]:
        for use in side.manifest["trainers"]:
            against = use["label"] if use["label"] in first else first[0]
            yield side.trainer(use["label"]), sides[0].trainer(against)


def _same_maps(sides: Sequence[_Side]) -> set[str]:
    """Explainers and explanation metrics with the same settings in all runs; none where other answers were explained."""
    if len({str((side.manifest["explain"] or {}).get("target")) for side in sides}) > 1:
        return set()
    told = [{use["label"]: (use["name"], use["settings"]) for kind in MAPS for use in side.manifest[kind]} for side in sides]
    return {label for label, use in told[0].items() if all(other.get(label) == use for other in told[1:])}


def _cells(side: _Side, facts: Facts, attacks: Collection[str], maps: Collection[str]) -> Iterator[CellScores]:
    """The cells of one run under the names that hold here, with the attacks that all runs have: of these is the worst case."""
    shared = {old: new for old, new in side.attacks.items() if new in attacks}
    for cell in cells_of(side.run, Facts(side.manifest)):
        yield CellScores(
            facts, cell.tables.renamed(side.splits, shared, maps), cell.model, side.trainer(cell.trainer), cell.seed
        )


def _manifest(sides: Sequence[_Side], differs: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """The first run's, with the plugins and cells of all."""
    manifests = [side.manifest for side in sides]
    first = manifests[0]
    names = " and ".join(f"{side.mark} ({side.manifest['name']})" for side in sides)
    splits = {side.splits[name]: about for side in sides for name, about in side.manifest["data"]["splits"].items()}
    outside = {side.splits[name]: readers for side in sides for name, readers in side.manifest["data"]["outside"].items()}
    outside |= {name: [side.manifest["data"]["reader"]] for side in sides if (name := side.splits["test"]) != "test"}
    return {
        **{name: value for name, value in first.items() if name not in ("schema", "files")},
        "name": "comparison",
        "title": f"Comparison of the runs {names}",
        "demonstration": any(manifest["demonstration"] for manifest in manifests),
        "drawn": any(manifest["drawn"] for manifest in manifests),
        "provenance": "; ".join(dict.fromkeys(manifest["provenance"] for manifest in manifests)),
        "data": {**first["data"], "splits": splits, "outside": outside},
        **{kind: list(_together(sides, kind)) for kind in PLUGINS},
        "conditions": list(dict.fromkeys(side.condition(name) for side in sides for name in side.manifest["conditions"])),
        "seeds": sorted({seed for manifest in manifests for seed in manifest["seeds"]}),
        "explain": next((manifest["explain"] for manifest in manifests if manifest["explain"]), None),
        "cells": [{**cell, "trainer": side.trainer(cell["trainer"])} for side in sides for cell in side.manifest["cells"]],
        "started": min(manifest["started"] for manifest in manifests),
        "finished": max(manifest["finished"] for manifest in manifests),
        "seconds": sum(manifest["seconds"] for manifest in manifests),
        "published": [],
        "compared": {
            "runs": [[side.mark, side.manifest["name"], str(side.run.folder)] for side in sides],
            "differs": [list(line) for line in differs],
        },
    }


def _together(sides: Sequence[_Side], kind: str) -> Iterator[dict[str, Any]]:
    """Plugins of all runs under the names that hold here, each once; of one attack with all radii."""
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        for use in side.manifest[kind]:
            label = side.trainer(use["label"]) if kind == "trainers" else side.attacks.get(use["label"], use["label"])
            before = found.setdefault(label, {**use, "label": label})
            for name in ("eps", "severity", "splits"):
                if isinstance(before["settings"].get(name), list):
                    values = [*before["settings"][name], *use["settings"].get(name, [])]
                    both = list(dict.fromkeys(values)) if name == "splits" else sorted(set(values))
                    before["settings"] = {**before["settings"], name: both}
    yield from found.values()


def _differs(sides: Sequence[_Side]) -> Iterator[tuple[str, ...]]:
    """What is not the same in all runs."""
    names = [str(side.manifest["name"]) for side in sides]
    names = names if len(set(names)) == len(names) else [side.run.folder.resolve().name for side in sides]
    yield ("", *(f"{side.mark}: {name}" for side, name in zip(sides, names, strict=True)))
    told = [dict(_facts(side.manifest)) for side in sides]
    for name in dict.fromkeys(name for facts in told for name in facts):
        values = [facts.get(name, ABSENT) for facts in told]
        if len(set(values)) > 1:
            yield (name, *values)


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything that numbers depend on, as `train.epochs`, `attacks.pgd.steps`."""
    yield "protocol", f"{manifest['protocol']['path']} ({manifest['protocol']['hash']})"
    for part in SETTINGS:
        yield from _flat(part, manifest.get(part))
    for kind in PLUGINS:
        for use in manifest[kind]:
            place = f"{kind}.{use['label']}"
            yield place, f"{use['name']} of {use['origin']}"
            yield from _flat(place, use["settings"])


def _flat(place: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(f"{place}.{name}", inner)
    else:
        yield place, str(value)


def _rows(side: _Side) -> Iterator[Row]:
    for values in side.run.rows()[list(ROW_COLUMNS)].itertuples(index=False):
        row = Row(*values)
        yield replace(
            row,
            trainer=side.trainer(row.trainer),
            split=side.splits.get(row.split, row.split),
            condition=side.condition(row.condition),
        )


def _warnings(side: _Side) -> Iterator[RowWarning]:
    for warning in side.run.warnings():
        message = f"{side.mark}: {warning.message}" if warning.scope == "run" else warning.message
        yield replace(warning, scope=side.scope(warning.scope), message=message)


def _other_attacks(sides: Sequence[_Side], shared: Collection[str]) -> Iterator[RowWarning]:
    """A doubt where the runs were not attacked in the same way."""
    of = {side.mark: [use["label"] for use in side.manifest["attacks"]] for side in sides}
    own = {side.mark: [label for label in of[side.mark] if side.attacks[label] not in shared] for side in sides}
    if any(own.values()):
        said = "; ".join(f"{mark} by {', '.join(labels) or 'none'}" for mark, labels in of.items())
        told = (
            f"The runs were attacked differently ({said}), so their worst cases are not of the same attacks. Differences"
            " between runs are over the attacks that all of them have."
        )
        yield RowWarning("other_attacks", "warn", "run", told)


def _other_maps(sides: Sequence[_Side], maps: Collection[str]) -> Iterator[RowWarning]:
    """A doubt where explainers or metrics of one name are not the same in the runs."""
    of = [{use["label"] for kind in MAPS for use in side.manifest[kind]} for side in sides]
    other = [label for label in sorted(set.union(*of)) if label not in maps and sum(label in labels for labels in of) > 1]
    if other:
        told = (
            f"{', '.join(other)}: not made in the same way in all runs (see what differs), so numbers of that name are not of"
            " one thing. They stand side by side and are not compared."
        )
        yield RowWarning("other_explanations", "warn", "run", told)


def _joined(sides: Sequence[_Side], name: str) -> pd.DataFrame:
    tables = [table for side in sides if len(table := _named(side, side.run.table(name)))]
    return pd.concat(tables, ignore_index=True) if tables else sides[0].run.table(name)


def _named(side: _Side, table: pd.DataFrame) -> pd.DataFrame:
    """A table of one run with the names that hold here."""
    changes: dict[str, Any] = {}
    if "trainer" in table:
        changes["trainer"] = [side.trainer(label) for label in table["trainer"]]
    if "split" in table:
        changes["split"] = [side.splits.get(name, name) for name in table["split"]]
    if "condition" in table:
        changes["condition"] = [side.condition(name) for name in table["condition"]]
    return table.assign(**changes)


def _protocol(run: Run) -> str:
    return (run.folder / "protocol.yaml").read_text(encoding="utf-8").rstrip() + "\n"
