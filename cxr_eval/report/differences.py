"""Differences between trainers on the same images, with intervals and corrected p-values, as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from cxr_eval.report.exact import Exact
from cxr_eval.report.parts import Part, Section
from cxr_eval.report.results import NOT_DEFINED, OF_MAPS, THRESHOLDED, TUNED, Results, number
from cxr_eval.report.tables import DIRECTION, HEADLINES, NOT_MEASURED, Cell, Head, Line, Table, spoken
from cxr_eval.report.threats import said_condition, telling
from cxr_eval.report.words import finding

SAID = (
    "Each line is one trainer minus another on the same images and the same seeds: the mean difference of the seeds, its 95 %"
    " interval from resampling patients, the smallest and largest difference of a seed, and the p-value of a swap test,"
    " corrected as Holm does for all comparisons of that metric on that set (a family; its size stands in the column head;"
    " robust accuracy in the worst case is a family apart from that against each attack).",
    "A trainer is called better where the corrected p-value is below 0.05 and no seed says the opposite of another. “No"
    " difference shown” does not say that there is none: these images may be too few to show it.",
)

FORBIDDEN = "a check failed on one of the two: not to be believed"

Record = dict[str, Any]
Key = tuple[str, str, str]
"""Condition, explainer, metric."""
Lines = dict[tuple[str, str], dict[Key, Record]]
"""(trainer, against) -> what was compared."""


def section(results: Results, differences: pd.DataFrame) -> Section | None:
    """Tables of differences by model and set; None where nothing was compared."""
    parts = []
    compared = differences.fillna({"explainer": "", "note": ""}).to_dict("records")
    for split in results.splits:
        for model in results.models:
            lines: Lines = {}
            for line in compared:
                if (line["model"], line["split"]) == (model, split):
                    key = (line["condition"], line["explainer"], line["metric"])
                    lines.setdefault((line["trainer"], line["against"]), {})[key] = {str(k): v for k, v in line.items()}
            main = _main(results, lines, model, split)
            folded = [*_attacks(results, lines, model, split), *_explanations(results, lines, model, split)]
            if main or folded:
                parts.append(Part(f"{model} on “{split}”", [], [main] if main else folded, folded if main else []))
    return Section("differences", "Differences between trainers", list(SAID), parts) if parts else None


def _main(results: Results, lines: Lines, model: str, split: str) -> Table | None:
    columns: list[tuple[str, Key]] = [(f"{title}, clean", ("clean", "", metric)) for metric, title in HEADLINES.items()]
    columns += [
        (f"Robust accuracy, {said_condition(results, condition)}", (condition, "", "robust_accuracy"))
        for condition in telling(results, split)
    ]
    groups = [(model, "", lambda key: key)]
    return _table(
        results, f"Differences between trainers: {model} on “{split}”", ("Model", "Difference"), columns, groups, lines
    )


def _attacks(results: Results, lines: Lines, model: str, split: str) -> Iterator[Table]:
    shown = telling(results, split)
    conditions = dict.fromkeys(key[0] for by_key in lines.values() for key in by_key if key[2] == "robust_accuracy")
    columns: list[tuple[str, Key]] = [
        (said_condition(results, condition), (condition, "", "robust_accuracy"))
        for condition in conditions
        if condition not in shown
    ]
    caption = f"Differences of robust accuracy by attack and radius: {model} on “{split}”"
    table = _table(results, caption, ("Model", "Difference"), columns, [(model, "", lambda key: key)], lines)
    if table:
        yield table


def _explanations(results: Results, lines: Lines, model: str, split: str) -> Iterator[Table]:
    keys = list(dict.fromkeys(key for by_key in lines.values() for key in by_key if key[1]))
    apart = (THRESHOLDED, TUNED, OF_MAPS)
    metrics = dict.fromkeys(key[2] for key in keys if not any(pattern.fullmatch(key[2]) for pattern in apart))
    columns: list[tuple[str, Key]] = [
        (said[:1].upper() + said[1:], ("", "", metric)) for metric in metrics for said in [spoken(metric)]
    ]
    groups: list[tuple[str, str, Callable[[Key], Key]]] = [
        (f"{explainer}, {said_condition(results, condition)}", "", lambda key, c=condition, e=explainer: (c, e, key[2]))  # type: ignore[misc]
        for condition, explainer in dict.fromkeys(key[:2] for key in keys)
    ]
    caption = f"Differences of explanation metrics: {model} on “{split}”"
    table = _table(results, caption, ("Explainer, images", "Difference"), columns, groups, lines)
    if table:
        yield table


def _table(
    results: Results,
    caption: str,
    corner: tuple[str, str],
    columns: Sequence[tuple[str, Key]],
    groups: Sequence[tuple[str, str, Callable[[Key], Key]]],
    lines: Lines,
) -> Table | None:
    """Lines `trainer minus against`, those with a comparison only. groups: name, and the key within."""
    known = {key for by_key in lines.values() for key in by_key}
    kept = [(title, key) for title, key in columns if any(of(key) in known for _, _, of in groups)]
    if not kept:
        return None
    filled = []
    for name, _, of in groups:
        block = tuple(
            Line((f"{trainer} minus {against}",), tuple(_cell(results, by_key.get(of(key))) for _, key in kept))
            for (trainer, against), by_key in lines.items()
            if any(of(key) in by_key for _, key in kept)
        )
        if block:
            filled.append((name, block))
    heads = []
    for title, key in kept:
        found = [by_key[of(key)] for by_key in lines.values() for _, _, of in groups if of(key) in by_key]
        heads.append(Head(title, ", ".join([*_common(found), DIRECTION[found[0]["better"]]])))
    return Table(caption, corner, tuple(heads), tuple(filled))


def _common(found: Sequence[Record]) -> Iterator[str]:
    images, patients = {int(line["n"]) for line in found}, {int(line["patients"]) for line in found}
    yield f"n = {images.pop()}" if len(images) == 1 else f"n = {min(images)} to {max(images)}"
    yield f"{patients.pop()} patients" if len(patients) == 1 else f"{min(patients)} to {max(patients)} patients"
    yield f"family of {max(int(line['family']) for line in found)}"


def _cell(results: Results, line: Record | None) -> Cell:
    if line is None:
        return Cell(NOT_MEASURED)
    value, unit, note = float(line["value"]), line["unit"], line["note"]
    if math.isnan(value):
        return Cell(NOT_DEFINED, note=note)
    place = {name: line[name] for name in ("model", "split", "condition", "explainer", "metric")}
    both = [results.score(**place, trainer=line[name]) for name in ("trainer", "against")]
    if any(score is not None and score.failed for score in both):
        note = FORBIDDEN
    low, high, p = float(line["low"]), float(line["high"]), float(line["p_holm"])
    exact = Exact(value, low, high, (int(line["n"]), int(line["n"])), unit, line["better"])
    interval = NOT_DEFINED if math.isnan(low) or math.isnan(high) else f"{number(low, unit)}, {number(high, unit)}"
    ends = [number(float(line[name]), unit) for name in ("seeds_low", "seeds_high")]
    spread = f"seeds {ends[0]} to {ends[1]}" if len(results.seeds) > 1 else ""
    return Cell(signed(value, unit), f"[{interval}]", spread, said_p(p), note=note or finding(line).said, exact=exact)


def said_p(p: float) -> str:
    """A p-value as it is written."""
    return "no test" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def signed(value: float, unit: str = "fraction") -> str:
    """A difference as it is written, with its sign."""
    text = number(value, unit)
    return f"+{text}" if value > 0 and float(text) > 0 else text
