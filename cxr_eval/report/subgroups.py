"""Scores of men and women, the young and the old, views and sites apart, and how far each is from the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from cxr_eval.report.charts.gaps import forests
from cxr_eval.report.clinical import SCORES
from cxr_eval.report.differences import said_p, signed
from cxr_eval.report.exact import Exact
from cxr_eval.report.parts import Part, Section
from cxr_eval.report.results import NOT_DEFINED, Results, number
from cxr_eval.report.tables import (
    DIRECTION,
    HEADLINES,
    NOT_MEASURED,
    Cell,
    Head,
    Layout,
    Line,
    Table,
    Where,
    fill,
    headline,
    spoken,
    trainers_of,
)
from cxr_eval.report.threats import said_condition, telling
from cxr_eval.report.words import SHOWN

LOWER = ("missed_disease", "false_alarm")
"""Scores of which less is better."""
LARGEST = "Largest gap"
SAID = (
    "The same networks on parts of the same images."
    " A gap is the score of a subgroup minus that of what it is compared with, with its 95 % interval from resampling patients"
    " and the p-value of a permutation test, which asks whether it could be chance which patients belong to the subgroup;"
    " corrected as Holm does for all comparisons of that score by one network on these images, over all columns. The largest"
    " gap, of the best against the worst, cannot be below 0: only its p-value tells it from chance. A gap may follow from how"
    " many of a subgroup are ill: sensitivity, specificity and AUROC depend on that least, accuracy most."
)
SCORED = "The same networks on parts of the same images."
SEEDS = " Of several seeds: the mean gap, the mean ends of the intervals, and the largest p-value."

Record = dict[str, Any]
Place = tuple[str, str]
"""Condition and metric."""
Compared = dict[str, dict[tuple[str, Place], list[Record]]]
"""What is compared (`F minus M`) -> trainer and place -> a line a seed."""


def section(results: Results, gaps: pd.DataFrame) -> Section | None:
    """Tables by column (sex, age, view, site), model and set: gaps, then scores; None where no subgroup was scored.

    gaps: gaps.csv, empty without it.
    """
    lines = [{str(name): value for name, value in line.items()} for line in gaps.to_dict("records")]
    columns = dict.fromkeys([*results.subgroups, *(str(line["column"]) for line in lines)])
    parts, told = [], []
    for number_, column in enumerate(columns):
        for split in results.splits:
            for model in results.models:
                mine = [line for line in lines if (str(line["column"]), line["model"], line["split"]) == (column, model, split)]
                compared = _compared(mine)
                told += [known for by_place in compared.values() for found in by_place.values() if (known := _known(found))]
                gap_table = _gap_table(results, compared, f"Gaps by {column}: {model} on “{split}”", column)
                scores = [*_tables(results, column, model, split)]
                shown = [*([gap_table] if gap_table else []), *scores[:1]]
                if shown:
                    key = f"gaps-{number_}-{results.splits.index(split)}-{results.models.index(model)}"
                    pictures = forests(results, gaps, column, model, split, _pictured(results, split), key)
                    parts.append(Part(f"{column[:1].upper()}{column[1:]}: {model} on “{split}”", pictures, shown, scores[1:]))
    if not parts:
        return None
    said = [_summary(results, told), SAID + (SEEDS if len(results.seeds) > 1 else "")] if told else [SCORED]
    return Section("subgroups", "Subgroups", said, parts)


def _summary(results: Results, told: Sequence[Sequence[Record]]) -> str:
    small = sum(_p(found) < SHOWN for found in told)
    seeds = " in every seed that has it" if len(results.seeds) > 1 else ""
    if small:
        verb, what = ("has", "a reason") if small == 1 else ("have", "reasons")
        how_many = (
            f"{small} {verb} a corrected p-value below {SHOWN:g}{seeds}: {what} to look. The correction holds for one score of"
            " one network; over all networks and scores a few may still be chance."
        )
    else:
        how_many = f"none has a corrected p-value below {SHOWN:g}{seeds}. These images may be too few to show any."
    return f"Of {len(told)} {'gap that was' if len(told) == 1 else 'gaps that were'} measured, {how_many}"


def _compared(lines: Sequence[Record]) -> Compared:
    """Lines by what is compared, the largest gaps last; of two values, whose gaps are each other's negatives, one stands."""
    found: Compared = {}
    largest: Compared = {LARGEST: {}}
    seen: set[tuple[Any, ...]] = set()
    mirrored: set[tuple[Any, ...]] = set()
    for line in lines:
        value, against = str(line["value"]), str(line["against"])
        network = (line["trainer"], line["seed"], line["condition"], line["metric"])
        key = (line["trainer"], (line["condition"], line["metric"]))
        if (*network, value) in seen:  # each value has one line, and the best of them one more
            largest[LARGEST].setdefault(key, []).append(line)
        elif (*network, against, value) not in mirrored:
            mirrored.add((*network, value, against))
            found.setdefault(f"{value} minus {against}", {}).setdefault(key, []).append(line)
        seen.add((*network, value))
    return found | (largest if largest[LARGEST] else {})


def _gap_table(results: Results, compared: Compared, caption: str, column: str) -> Table | None:
    """Lines: what is compared x trainer; columns: clean scores, then robust accuracy in the worst cases."""
    there = list(dict.fromkeys(place for by_place in compared.values() for _, place in by_place))
    places = sorted(there, key=lambda place: (place[0] != "clean", there.index(place)))
    if not places:
        return None
    groups = tuple(
        (name, block)
        for name, by_place in compared.items()
        if (
            block := tuple(
                Line((trainer,), tuple(_cell(results, name, by_place.get((trainer, place))) for place in places))
                for trainer in results.trainers
                if any((trainer, place) in by_place for place in places)
            )
        )
    )
    sizes = {place: _sizes(compared, place) for place in places}
    heads = tuple(
        Head(_title(results, *place), ", ".join([DIRECTION["lower" if place[1] in LOWER else "higher"], *_family(of)]))
        for place, of in sizes.items()
    )
    family = "; ".join(f"corrected for {said} a score" for said in _family(set().union(*sizes.values())))
    return Table(", ".join(filter(None, (caption, family))), (column.capitalize(), "Trainer"), heads, groups)


def _sizes(compared: Compared, place: Place) -> set[int]:
    """Comparisons that the p-values of a column were corrected for, where there are any."""
    lines = [line for by_place in compared.values() for (_, at), found in by_place.items() if at == place for line in found]
    return {int(line["comparisons"]) for line in lines} - {0}


def _family(sizes: set[int]) -> list[str]:
    """How many comparisons, in words; nothing where there are none."""
    if not sizes:
        return []
    low, high = min(sizes), max(sizes)
    return [f"{low} to {high} comparisons" if low < high else "1 comparison" if low == 1 else f"{low} comparisons"]


def _cell(results: Results, name: str, lines: Sequence[Record] | None) -> Cell:
    if not lines:
        return Cell(NOT_MEASURED)
    known = _known(lines)
    note = "; ".join(dict.fromkeys(str(line["note"]) for line in lines if _text(line["note"])))
    if not known:
        return Cell(NOT_DEFINED, note=note)
    gap, low, high = (_mean([float(line[end]) for line in known]) for end in ("gap", "gap_low", "gap_high"))
    interval = NOT_DEFINED if math.isnan(low) or math.isnan(high) else f"{number(low)}, {number(high)}"
    some = f"{len(known)} of {len(results.seeds)} seeds" if len(known) < len(results.seeds) else ""
    if name == LARGEST:
        pairs = dict.fromkeys(f"{line['value']} over {line['against']}" for line in known if line["value"] != line["against"])
        said = "; ".join(pairs) or "none: all alike"
    else:
        said = _words(known[0], gap) if _p(known) < SHOWN else ""
    images = [int(line["n"]) for line in known]
    exact = Exact(gap, low, high, (min(images), max(images)))
    told = "; ".join(filter(None, (said, note)))
    return Cell(signed(gap), f"[{interval}]", some, said_p(_p(known)), note=told, exact=exact)


def _words(line: Record, gap: float) -> str:
    """Which subgroup is worse off."""
    worse = (gap < 0) != (line["metric"] in LOWER)
    return f"{line['value'] if worse else line['against']} worse"


def _known(lines: Sequence[Record]) -> list[Record]:
    return [line for line in lines if math.isfinite(float(line["gap"]))]


def _p(lines: Sequence[Record]) -> float:
    """The largest corrected p-value; NaN if a seed has none."""
    values = [float(line["p_holm"]) for line in lines]
    return math.nan if any(map(math.isnan, values)) else max(values)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _text(value: Any) -> bool:
    """True for words: an empty cell of a table is read as NaN."""
    return isinstance(value, str) and bool(value)


def _tables(results: Results, column: str, model: str, split: str) -> Iterator[Table]:
    """First the headline score and robust accuracy; then every other number of the subgroups."""
    there = {place[3:] for place in results.subgroup_places(column) if (place[0], place[2]) == (model, split)}
    worst = telling(results, split)[:1]
    first = [("clean", headline(results, split)), *((condition, "robust_accuracy") for condition in worst)]
    rest = sorted(place for place in there if place not in first)
    for places, title in ((first, "Scores"), (rest, "Other scores")):
        columns: list[tuple[str, Where]] = [
            (_title(results, condition, metric), {"condition": condition, "metric": metric})
            for condition, metric in places
            if (condition, metric) in there
        ]
        groups = [
            (subgroup.partition("=")[2] or "not known", {"model": model, "split": split, "subgroup": subgroup}, lines)
            for lines in [trainers_of(results)]
            for subgroup in results.subgroups.get(column, ())
        ]
        caption, corner = f"{title} by {column}: {model} on “{split}”", (column.capitalize(), "Trainer")
        layout = Layout(caption, corner, columns, groups, contest=lambda group, _: group, directions=True)
        if columns and (table := fill(results, layout)):
            yield table


def _pictured(results: Results, split: str) -> dict[Place, str]:
    """Scores whose gaps may have a picture, with their titles, those that matter most first."""
    places = [
        ("clean", headline(results, split)),
        *((condition, "robust_accuracy") for condition in telling(results, split)[:1]),
    ]
    places += [("clean", metric) for metric in LOWER]
    return {place: _title(results, *place) for place in places}


def _title(results: Results, condition: str, metric: str) -> str:
    named = HEADLINES.get(metric) or SCORES.get(metric) or spoken(metric)
    where = "clean" if condition == "clean" else said_condition(results, condition)
    return f"{named[:1].upper()}{named[1:]}, {where}"
