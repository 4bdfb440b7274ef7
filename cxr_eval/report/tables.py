"""Tables of the report as plain records; the templates write the same records as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cxr_eval.report.exact import Exact, of_quote, of_score
from cxr_eval.report.published import Quote
from cxr_eval.report.results import ATTACKED, NOT_DEFINED, WORST, Results, Score, number
from cxr_eval.report.words import dataset
from cxr_eval.types import CHANCE

NOT_MEASURED = "—"
MOST_LINES = 12
"""Lines of a table of text that are shown without a click."""
MOST_NUMBERS = 24
"""Lines of a table of numbers that are shown without a click, but for the main results."""
MOST_RADII = 4
"""Radii in the main table; the tables under the curves have all."""

HEADLINES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1, mean of classes",
    "auroc": "AUROC",
    "mean_average_precision": "Mean average precision (mAP)",
    "mean_average_robust_precision": "mARP",
}
ROBUST_PRECISION = "mean_average_robust_precision"
LOCALISATION = ("relevance_mass", "pointing_game", "relevance_rank")
"""Metrics that may stand for localisation in the main table, the first that was measured."""
REGIONS = ("finding", "lesion", "box")
"""Regions that localisation is about, in order of preference; any other only where there is none of them."""
SPOKEN_REGIONS = {"finding": "the finding's box or mask"}
SPOKEN = {"map_ssim": "SSIM of maps", "auroc": "AUROC", "ssim": "SSIM", "f1": "F1", "ppv": "PPV", "npv": "NPV", "ece": "ECE"}
"""Metrics whose names are no words."""
DIRECTION = {"higher": "higher is better", "lower": "lower is better", "neither": "neither is better"}

Where = Mapping[str, str]


@dataclass(frozen=True)
class Cell:
    """One number with all that it needs: interval, range over seeds, images behind it (blank where the column says it)."""

    text: str
    interval: str = ""
    spread: str = ""
    n: str = ""
    best: bool = False
    doubt: bool = False
    """A warning names this number in particular."""
    published: bool = False
    """Not measured here: others published it."""
    note: str = ""
    """Why a number is withheld, or what a difference shows."""
    level: Literal["", "fail", "warn"] = ""
    """Colour of words that say that something is wrong."""
    exact: Exact | None = None


@dataclass(frozen=True)
class Head:
    """A column: its name, and what holds for all its numbers."""

    text: str
    sub: str = ""
    published: bool = False


@dataclass(frozen=True)
class Line:
    """One line: its names, then its cells."""

    heads: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Lines in named groups; `corner` names the groups and then the columns of line heads."""

    caption: str
    corner: tuple[str, ...]
    columns: tuple[Head, ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    note: str = ""
    sources: tuple[str, ...] = ()
    """Where published numbers in it come from, and on which data each side was measured."""
    quoted: frozenset[int] = frozenset()
    """Which published numbers stand in it."""

    @property
    def lines(self) -> int:
        """Lines of all groups."""
        return sum(len(lines) for _, lines in self.groups)

    @property
    def folded(self) -> bool:
        """True if the table is long."""
        return self.lines > MOST_NUMBERS


@dataclass(frozen=True)
class Words:
    """A table of text; `folded` ones are shown on demand."""

    caption: str
    heads: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""

    @property
    def folded(self) -> bool:
        """True if the table is long."""
        return len(self.rows) > MOST_LINES


@dataclass
class Layout:
    """What a table asks for: a number is looked up with the group's, the line's and the column's keys together."""

    caption: str
    corner: tuple[str, ...]
    columns: list[tuple[str, Where]]
    groups: Sequence[tuple[str, Where, Sequence[tuple[tuple[str, ...], Where]]]]
    contest: Callable[[int, tuple[str, ...]], Hashable] = field(default=lambda group, heads: 0)
    """Lines with the same value are compared with each other: all lines of the table if not given."""
    compare: Literal["column", "line", "block"] = "column"
    """Numbers are compared within a column, or within a line where columns are trainers, or all that contest as one block."""
    at: Callable[[dict[str, str]], dict[str, str] | None] = field(default=lambda where: where)
    """Turns a table's own keys into the place of a number in the results; None where there is none."""
    note: str = ""
    directions: bool = False
    """Say under each column which direction is better, and the unit of what is no fraction or plain number."""


def fill(results: Results, layout: Layout) -> Table | None:
    """The table with its numbers; None where none of them was measured.

    Columns, lines and groups without any number are left out. Published numbers stand beside those of
    the same place.
    """
    lines = [(group, heads, {**at, **where}) for group, (_, at, block) in enumerate(layout.groups) for heads, where in block]
    places = {
        (line, k): place
        for line, (_, _, where) in enumerate(lines)
        for k, (_, key) in enumerate(layout.columns)
        if (place := layout.at({**where, **key})) is not None
    }
    found = {spot: score for spot, place in places.items() if (score := results.score(**place)) is not None}
    if not found:
        return None
    kept = sorted({line for line, _ in found})
    best = _best(found, {line: layout.contest(*lines[line][:2]) for line in kept}, layout.compare)
    best = {spot for spot in best if _is_merit(results, places[spot], found[spot])}
    columns: list[Head] = []
    cells: dict[int, list[Cell]] = {line: [] for line in kept}
    quotes = _quotes(results, layout, places, found)
    for k in sorted({k for _, k in found}):
        known = [found[line, k] for line in kept if (line, k) in found]
        common = {score.images for score in known}
        unit = [] if known[0].unit in ("fraction", "1") else [f"unit {known[0].unit}"]
        sub = [DIRECTION[known[0].better], *unit] if layout.directions else []
        columns.append(Head(layout.columns[k][0], ", ".join(sub + ([f"n = {common.pop()}"] if len(common) == 1 else []))))
        alike = len({score.images for score in known}) == 1
        for line in kept:
            cells[line].append(_cell(found.get((line, k)), best=(line, k) in best, n=not alike))
        _add_quotes(results, columns, cells, quotes, k, known[0].unit)
    _add_quotes(results, columns, cells, quotes, None, next(iter(found.values())).unit)
    filled = tuple(
        (name, block)
        for number_, (name, _, _) in enumerate(layout.groups)
        if (block := tuple(Line(lines[line][1], tuple(cells[line])) for line in kept if lines[line][0] == number_))
    )
    shown = [quote for by_line in quotes.values() for quote in by_line.values()]
    said = [results.published.sources[source].said for source in sorted({quote.source for quote in shown})]
    if said:
        said.append(f"All other numbers were measured in this run, on {_data(results, found.values())}.")
    quoted = frozenset(quote.number for quote in shown)
    return Table(layout.caption, layout.corner, tuple(columns), filled, layout.note, tuple(said), quoted)


def _quotes(
    results: Results,
    layout: Layout,
    places: Mapping[tuple[int, int], Mapping[str, str]],
    found: Mapping[tuple[int, int], Score],
) -> dict[tuple[int | None, int], dict[int, Quote]]:
    """(column, source) -> line -> published number; column None where it holds for all trainers, and trainers are columns."""
    quotes: dict[tuple[int | None, int], dict[int, Quote]] = {}
    for line, k in sorted(found):
        for source in range(len(results.published.sources)):
            quote = results.published.find(source, places[line, k])
            if quote is not None and not places[line, k].get("subgroup"):
                column = None if layout.compare != "column" and "trainer" not in quote.place else k
                quotes.setdefault((column, source), {})[line] = quote
    return quotes


def _add_quotes(
    results: Results,
    columns: list[Head],
    cells: dict[int, list[Cell]],
    quotes: Mapping[tuple[int | None, int], dict[int, Quote]],
    column: int | None,
    unit: str,
) -> None:
    """Columns of published numbers, one a source, after the column that they belong to."""
    for source, about in enumerate(results.published.sources):
        if by_line := quotes.get((column, source)):
            columns.append(Head(about.head, "" if column is None else columns[-1].text, published=True))
            for line, mine in cells.items():
                text = number(by_line[line].value, unit) if line in by_line else ""
                mine.append(Cell(text, published=True, exact=of_quote(by_line.get(line), unit)))


def _data(results: Results, scores: Iterable[Score]) -> str:
    """On which data numbers were measured."""
    said = dict.fromkeys(dataset(score.provenance, results.manifest["data"]) for score in scores)
    return " and ".join(said) or "data that the run does not name"


def _cell(score: Score | None, *, best: bool, n: bool) -> Cell:
    if score is None:
        return Cell(NOT_MEASURED)
    interval, many = "" if score.text == NOT_DEFINED else score.interval, f"n = {score.images}" if n else ""
    return Cell(score.text, interval, score.spread, many, best, bool(score.doubts), note=score.note, exact=of_score(score))


def _best(found: Mapping[tuple[int, int], Score], contests: Mapping[int, Hashable], compare: str) -> set[tuple[int, int]]:
    """(line, column) of the best numbers of each contest, ties included; none where all are equal or a check failed on them."""
    entered: dict[Hashable, list[tuple[tuple[int, int], Score]]] = {}
    for (line, k), score in found.items():
        if score.text != NOT_DEFINED and not score.failed:
            contest = {"column": (contests[line], k), "line": line, "block": contests[line]}[compare]
            entered.setdefault(contest, []).append(((line, k), score))
    best: set[tuple[int, int]] = set()
    for scores in entered.values():
        if len({score.text for _, score in scores}) < 2 or scores[0][1].better == "neither":
            continue
        pick = max if scores[0][1].better == "higher" else min
        top = pick((score for _, score in scores), key=lambda score: score.value).text
        best |= {place for place, score in scores if score.text == top}
    return best


def _is_merit(results: Results, place: Where, score: Score) -> bool:
    """False where the best of a column is no merit of the network.

    So are references, and calling everyone ill; a net benefit that is not above those of treating nobody and everybody; the
    lead of a region that is read less than its surroundings; and being right where the region was blotted out.
    """
    name, _, of = place["metric"].partition("[")
    if name == "net_benefit":
        everybody = results.score(**{**place, "metric": f"net_benefit_treat_all[{of}"})
        return round(score.value, 3) > max(0.0, round(everybody.value, 3) if everybody else 0.0)
    if name == "inside_minus_outside":
        return score.value < 0 if score.better == "lower" else score.value > 0
    reference = place.get("explainer") in (CHANCE, *results.references)
    blotted = place.get("condition", "").startswith("without ")
    return not reference and not blotted and name != "net_benefit_treat_all" and of != "random pairs]"


def trainers_of(results: Results) -> list[tuple[tuple[str, ...], Where]]:
    """One line a trainer."""
    return [((trainer,), {"trainer": trainer}) for trainer in results.trainers]


def localisation(results: Results) -> list[tuple[str, str, str, str]]:
    """(split, condition, explainer, metric) that stand for localisation: clean where measured, a lesion where there is one."""
    for split, condition in sorted(results.explained(), key=lambda pair: pair[1] != "clean"):
        for name in LOCALISATION:
            there = [m for m in results.explanation_metrics() if m.partition("[")[0] == name]
            wanted = [f"{name}[{region}]" for region in REGIONS if f"{name}[{region}]" in there] or there
            for metric in wanted[:1]:
                found = [
                    (split, condition, explainer, metric)
                    for explainer in results.labels("explainers")
                    if results.measured(metric, split=split, condition=condition, explainer=explainer)
                ]
                if found:
                    return found
    return []


def spoken(metric: str) -> str:
    """A metric's name as a person says it: `relevance mass in lesion`."""
    name, bracket, region = metric.partition("[")
    region = region.removesuffix("]")
    return SPOKEN.get(name, name.replace("_", " ")) + (f" in {SPOKEN_REGIONS.get(region, region)}" if bracket else "")


def main_table(results: Results, split: str) -> Table | None:
    """Models x trainers on one set: clean scores, worst-case robust accuracy, localisation."""
    columns: list[tuple[str, Where]] = [
        (title, {"metric": metric, "condition": "clean"})
        for metric, title in HEADLINES.items()
        if metric not in ("f1", ROBUST_PRECISION)
    ]
    tried = [step for step in results.attacks(split).get(WORST, []) if step[0] > 0]
    if len(tried) > MOST_RADII:
        tried = [tried[round(k * (len(tried) - 1) / (MOST_RADII - 1))] for k in range(MOST_RADII)]
    columns += [
        (f"Robust accuracy, radius {written}", {"metric": "robust_accuracy", "condition": condition})
        for _, written, condition in tried
    ]
    columns += [(HEADLINES[ROBUST_PRECISION], {"metric": ROBUST_PRECISION, "condition": ATTACKED})]
    columns += [
        (f"{spoken(metric).capitalize()}, {explainer}", {"metric": metric, "condition": condition, "explainer": explainer})
        for at, condition, explainer, metric in localisation(results)
        if at == split
    ]
    groups = [(model, {"model": model, "split": split}, trainers_of(results)) for model in results.models]
    others = any(threat != WORST for threat in results.threats(split))
    over = "attacks on any answer within the L-inf radius" if others else "attacks tried"
    note = f"Robust accuracy: the worst case over all {over}, image by image." if tried else ""
    return fill(results, Layout(f"Main results on the set “{split}”", ("Model", "Trainer"), columns, groups, note=note))


def headline(results: Results, split: str) -> str:
    """The score that stands for all on a set: accuracy, or AUROC where an image may have several findings."""
    return next((metric for metric in ("accuracy", "auroc") if results.measured(metric, split=split)), "accuracy")


def explanation_table(results: Results, model: str) -> Table | None:
    """Every explanation metric of one model by explainer, state of the images and trainer."""
    sets = {split for split, _ in results.explained()}
    groups = []
    for explainer in results.labels("explainers"):
        for split, condition in results.explained():
            title = f"{explainer}, {condition}" + (f", {split}" if len(sets) > 1 else "")
            at = {"model": model, "explainer": explainer, "split": split, "condition": condition}
            groups.append((title, at, trainers_of(results)))
    columns: list[tuple[str, Where]] = [(spoken(metric), {"metric": metric}) for metric in results.explanation_metrics()]
    layout = Layout(
        caption=f"Explanation metrics of {model}",
        corner=("Explainer, images", "Trainer"),
        columns=columns,
        groups=groups,
        contest=lambda group, _: group,
        directions=True,
    )
    return fill(results, layout)
