"""The table of the first screen: every model and trainer in a handful of numbers, and what tables leave out of sight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from cxr_eval.report.differences import said_p
from cxr_eval.report.results import Results
from cxr_eval.report.tables import HEADLINES, Cell, Head, Layout, Table, fill, headline, localisation, spoken, trainers_of
from cxr_eval.report.threats import said_condition
from cxr_eval.report.verdict import PLACE, Compared, candidates_of, comparisons
from cxr_eval.report.words import finding
from cxr_eval.types import CHANCE

CAPTION = "Models and trainers in short, with 95 % intervals"
MOST_LINES = 12
"""Lines of the overview that are shown without a click."""
WIDEST, MOST_COLUMNS = 7, 6
"""Columns of a table of numbers that are shown whole; of a wider one those that are shown without a click."""
Mark = Literal["", "▲", "▼", "◇"]
MARKS: dict[Mark, str] = {
    "▲": "better than {reference}, p < 0.05 after Holm",
    "▼": "worse than {reference}, p < 0.05 after Holm",
    "◇": "p < 0.05, but the seeds disagree on the sign",
}


@dataclass(frozen=True)
class Marked:
    """One number, what its comparison with the reference trainer came to, and whether a check forbids it."""

    cell: Cell
    mark: Mark = ""
    said: str = ""
    """The mark in words, for those who do not see it."""
    failed: bool = False
    compared: bool = False


@dataclass(frozen=True)
class OverviewLine:
    """One model and trainer."""

    model: str
    trainer: str
    cells: tuple[Marked, ...]


@dataclass(frozen=True)
class Overview:
    """Models x trainers; `first` are the lines shown without a click, `lines` all of them."""

    columns: tuple[Head, ...]
    lines: tuple[OverviewLine, ...]
    first: tuple[OverviewLine, ...]
    legend: tuple[tuple[str, str], ...]
    """(mark, what it means) of the marks that occur."""
    uncompared: str
    reference: str
    """The trainer that all others are compared with; nothing where none was."""
    models: int

    @property
    def folded(self) -> bool:
        """True if there are more lines than are shown without a click."""
        return len(self.first) < len(self.lines)

    @property
    def findings(self) -> list[str]:
        """What each comparison with the reference came to, a mark each."""
        return [marked.mark for line in self.lines for marked in line.cells if marked.said]


@dataclass(frozen=True)
class _Column:
    title: str
    sub: tuple[str, ...]
    where: dict[str, str]


def reference(results: Results, compared: Compared) -> str:
    """The trainer that others are compared with: the first that the protocol names, else the first; none if never compared."""
    named = (results.manifest.get("evaluate") or {}).get("against") or []
    trainer = next((name for name in named if name in results.trainers), next(iter(results.trainers), ""))
    return trainer if any(trainer in key[len(PLACE) :] for key in compared) else ""


def robust_condition(results: Results) -> str:
    """The worst case that the first screen speaks of: at the middle radius, of an even number the upper; else nothing."""
    for split in results.splits[:1]:
        for threat in results.threats(split):
            tried = [condition for radius, _, condition in results.of_threat(split, threat)[threat] if radius > 0]
            if tried:
                return tried[len(tried) // 2]
    return ""


def overview(results: Results, differences: pd.DataFrame | None = None) -> Overview | None:
    """Clean headline score, worst case, outside sets, calibration and localisation of all; None where nothing was measured."""
    if not results.splits:
        return None
    columns = list(_columns(results))
    table = fill(
        results,
        Layout(
            "",
            ("Model", "Trainer"),
            [(column.title, column.where) for column in columns],
            [(model, {"model": model}, trainers_of(results)) for model in results.models],
        ),
    )
    if table is None:
        return None
    compared = comparisons(differences)
    against = reference(results, compared)
    kept = [k for k, head in enumerate(table.columns) if not head.published]
    by_title = {column.title: column for column in columns}
    shown = [by_title[table.columns[k].text] for k in kept]
    lines = tuple(
        OverviewLine(
            model,
            line.heads[0],
            tuple(
                _marked(results, line.cells[k], {"model": model, "trainer": line.heads[0], **column.where}, compared, against)
                for k, column in zip(kept, shown, strict=True)
            ),
        )
        for model, block in table.groups
        for line in block
    )
    heads = tuple(
        replace(table.columns[k], sub=", ".join(filter(None, [*column.sub, _count(results, column, table.columns[k])])))
        for k, column in zip(kept, shown, strict=True)
    )
    apart = [
        column.title
        for k, column in enumerate(shown)
        if not any(line.cells[k].compared for line in lines) and len(results.trainers) > 1
    ]
    legend = tuple(_legend(lines, against))
    said = f"not compared with “{against}”: {'; '.join(apart)}" if against and apart else ""
    return Overview(heads, lines, _first(results, lines), legend, said, against, len({line.model for line in lines}))


def _columns(results: Results) -> Iterator[_Column]:
    first, *outside = results.splits
    metric = headline(results, first)
    title = HEADLINES[metric]
    yield _Column(f"{title}, clean", (), {"split": first, "condition": "clean", "metric": metric})
    condition = robust_condition(results)
    if condition:
        threat, _, radius = said_condition(results, condition).rpartition(", ")
        yield _Column(
            f"Robust accuracy, {radius}", (threat,), {"split": first, "condition": condition, "metric": "robust_accuracy"}
        )
    for split in outside:
        yield _Column(f"{title} on “{split}”", (), {"split": split, "condition": "clean", "metric": headline(results, split)})
    yield _Column("Calibration error (ECE)", ("lower is better",), {"split": first, "condition": "clean", "metric": "ece"})
    places = [place for place in localisation(results) if place[2] != CHANCE]
    for split, state, explainer, measured in places[:1]:
        chance = {
            candidate.score.text for candidate in candidates_of(results, split, measured, state, CHANCE) if candidate.defined
        }
        without = (f"map without meaning {chance.pop()}",) if len(chance) == 1 else ()
        on = "" if state == "clean" else f" on {state} images"
        where = {"split": split, "condition": state, "metric": measured, "explainer": explainer}
        yield _Column(f"{spoken(measured).capitalize()}, {explainer}{on}", without, where)


def _marked(results: Results, cell: Cell, where: dict[str, str], compared: Compared, against: str) -> Marked:
    score = results.score(**where)
    failed = bool(score and score.failed)
    other = results.score(**(where | {"trainer": against})) if against else None
    place = tuple(where.get(name, "") for name in PLACE)
    line = compared.get((*place, *sorted((where["trainer"], against)))) if against else None
    # the seeds stand in the main results, unless some lack this number, and n in the head
    slim = replace(cell, spread=cell.spread if score and score.lacking else "", n="")
    found = None if line is None or where["trainer"] == against else finding(line)
    if line is None or found is None or found.kind == "apart":
        return Marked(slim, failed=failed)
    if failed or (other is not None and other.failed):
        return Marked(slim, failed=failed, compared=True)
    mark: Mark = "◇" if found.kind == "seeds" else "" if not found.who else "▲" if found.who == where["trainer"] else "▼"
    said = {"▲": f"better than {against}", "▼": f"worse than {against}"}.get(mark, found.said)
    return Marked(slim, mark, f"{said}, {said_p(float(line['p_holm']))}", compared=True)


def _count(results: Results, column: _Column, head: Head) -> str:
    """How many images the numbers of a column rest on; where they differ, from the fewest to the most."""
    if head.sub:
        return head.sub
    where = {"condition": "clean", "explainer": ""} | column.where
    found = candidates_of(results, where["split"], where["metric"], where["condition"], where["explainer"])
    counts = [count for candidate in found for count in candidate.score.n]
    return f"n = {min(counts)} to {max(counts)}"


def _legend(lines: tuple[OverviewLine, ...], against: str) -> Iterator[tuple[str, str]]:
    cells = [marked for line in lines for marked in line.cells]
    if any(marked.cell.best for marked in cells):
        yield "★", "best of a column"
    for mark, said in MARKS.items():
        if any(marked.mark == mark for marked in cells):
            yield mark, said.format(reference=f"“{against}”")
    if against and any(marked.said for marked in cells):
        yield "no mark", "no difference shown"
    if any(marked.failed for marked in cells):
        yield "✕", "a check failed: not to be believed"
    if any(marked.cell.doubt and not marked.failed for marked in cells):
        yield "†", "a warning names this number"


def _first(results: Results, lines: tuple[OverviewLine, ...]) -> tuple[OverviewLine, ...]:
    """All lines in their order if they are few, else the best by the first column, those without a number to believe last."""
    if len(lines) <= MOST_LINES:
        return lines
    metric = headline(results, results.splits[0])

    def merit(line: OverviewLine) -> float:
        score = results.score(model=line.model, trainer=line.trainer, split=results.splits[0], metric=metric)
        return score.value if score and not score.failed and score.value == score.value else -1.0

    return tuple(sorted(lines, key=merit, reverse=True)[:MOST_LINES])


def narrow(table: Table) -> tuple[Table, Table | None]:
    """A table of the first columns, which fits a page, and one of the others; itself and None where it is narrow."""
    if len(table.columns) <= WIDEST:
        return table, None
    at = MOST_COLUMNS
    while at < len(table.columns) and table.columns[at].published:
        at += 1  # published numbers stay beside those that they are compared with
    if at == len(table.columns):
        return table, None

    def part(columns: slice, **changes: Any) -> Table:
        groups = tuple((name, tuple(replace(line, cells=line.cells[columns]) for line in of)) for name, of in table.groups)
        return replace(table, columns=table.columns[columns], groups=groups, **changes)

    return part(slice(at)), part(slice(at, None), caption=f"{table.caption}: further columns", note="", sources=())
