"""Tables of the report as plain records; the templates write the same records as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from cxr_eval.report.results import NOT_DEFINED, WORST, Results, Score

NOT_MEASURED = "—"
MOST_RADII = 4
"""Radii in the main table; the tables under the curves have all."""

HEADLINES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1, mean of classes",
    "auroc": "AUROC",
}
LOCALISATION = ("relevance_mass", "pointing_game", "relevance_rank")
"""Metrics that may stand for localisation in the main table, the first that was measured."""
REGIONS = ("lesion", "box")
"""Regions that localisation is about, in order of preference; any other only where there is none of them."""
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


@dataclass(frozen=True)
class Head:
    """A column: its name, and what holds for all its numbers."""

    text: str
    sub: str = ""


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


@dataclass
class Layout:
    """What a table asks for: a number is looked up with the group's, the line's and the column's keys together."""

    caption: str
    corner: tuple[str, ...]
    columns: list[tuple[str, Where]]
    groups: Sequence[tuple[str, Where, Sequence[tuple[tuple[str, ...], Where]]]]
    contest: Callable[[int, tuple[str, ...]], Hashable] = field(default=lambda group, heads: 0)
    """Lines with the same value are compared with each other: all lines of the table if not given."""
    find: Callable[[Results, dict[str, str]], Score | None] = field(default=lambda results, where: results.score(**where))
    note: str = ""
    directions: bool = False
    """Say under each column which direction is better, and the unit."""


def fill(results: Results, layout: Layout) -> Table | None:
    """The table with its numbers; None where none of them was measured. Columns without any number are left out."""
    lines = [(group, heads, {**at, **where}) for group, (_, at, block) in enumerate(layout.groups) for heads, where in block]
    grid = [[layout.find(results, {**where, **key}) for _, key in layout.columns] for _, _, where in lines]
    kept = [k for k in range(len(layout.columns)) if any(scores[k] is not None for scores in grid)]
    if not kept:
        return None
    columns, cells = [], [[] for _ in lines]  # type: ignore[var-annotated]
    for k in kept:
        column = [scores[k] for scores in grid]
        known = [score for score in column if score is not None]
        common = {score.images for score in known}
        best = _best(column, [layout.contest(group, heads) for group, heads, _ in lines])
        for place, score in enumerate(column):
            cells[place].append(_cell(score, best=place in best, n=len(common) > 1))
        sub = [DIRECTION[known[0].better], f"unit {known[0].unit}"] if layout.directions else []
        columns.append(Head(layout.columns[k][0], ", ".join(sub + ([f"n = {common.pop()}"] if len(common) == 1 else []))))
    filled = [Line(heads, tuple(cells[place])) for place, (_, heads, _) in enumerate(lines)]
    groups = tuple(
        (name, tuple(line for line, (group, _, _) in zip(filled, lines, strict=True) if group == number))
        for number, (name, _, _) in enumerate(layout.groups)
    )
    return Table(layout.caption, layout.corner, tuple(columns), groups, layout.note)


def _cell(score: Score | None, *, best: bool, n: bool) -> Cell:
    if score is None:
        return Cell(NOT_MEASURED)
    interval = "" if score.text == NOT_DEFINED else score.interval
    return Cell(score.text, interval, score.spread, f"n = {score.images}" if n else "", best, bool(score.doubts))


def _best(scores: Sequence[Score | None], contests: Sequence[Hashable]) -> set[int]:
    """Places of the best numbers of each contest, ties included; none where all are equal or a check failed on them."""
    found: set[int] = set()
    for contest in dict.fromkeys(contests):
        entered = [
            (place, score)
            for place, score in enumerate(scores)
            if contests[place] == contest and score is not None and score.text != NOT_DEFINED and not score.failed
        ]
        if len({score.text for _, score in entered}) < 2 or entered[0][1].better == "neither":
            continue
        pick = max if entered[0][1].better == "higher" else min
        top = pick((score for _, score in entered), key=lambda score: score.value).text
        found |= {place for place, score in entered if score.text == top}
    return found


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
    return name.replace("_", " ") + (f" in {region.removesuffix(']')}" if bracket else "")


def main_table(results: Results, split: str) -> Table | None:
    """Models x trainers on one set: clean scores, worst-case robust accuracy, localisation."""
    columns: list[tuple[str, Where]] = [
        (title, {"metric": metric, "condition": "clean"}) for metric, title in HEADLINES.items() if metric != "f1"
    ]
    tried = [step for step in results.attacks(split).get(WORST, []) if step[0] > 0]
    if len(tried) > MOST_RADII:
        tried = [tried[round(k * (len(tried) - 1) / (MOST_RADII - 1))] for k in range(MOST_RADII)]
    columns += [
        (f"Robust accuracy, radius {written}", {"metric": "robust_accuracy", "condition": condition})
        for _, written, condition in tried
    ]
    columns += [
        (f"{spoken(metric).capitalize()}, {explainer}", {"metric": metric, "condition": condition, "explainer": explainer})
        for at, condition, explainer, metric in localisation(results)
        if at == split
    ]
    groups = [(model, {"model": model, "split": split}, trainers_of(results)) for model in results.models]
    note = "Robust accuracy: the worst case over all attacks tried, image by image." if tried else ""
    return fill(results, Layout(f"Main results on the set “{split}”", ("Model", "Trainer"), columns, groups, note=note))


def robust_table(results: Results, model: str, split: str) -> Table | None:
    """Robust accuracy of one model at every radius, in the worst case and by attack."""
    attacks = results.attacks(split)
    radii = sorted({(radius, written) for series in attacks.values() for radius, written, _ in series})
    columns: list[tuple[str, Where]] = [
        ("Radius 0 (no attack)" if radius == 0 else f"Radius {written}", {"amount": written}) for radius, written in radii
    ]
    at = {"model": model, "split": split, "metric": "robust_accuracy"}
    groups = [
        ("Worst case over all attacks" if name == WORST else name, {**at, "attack": name}, trainers_of(results))
        for name in attacks
    ]

    def find(results: Results, where: dict[str, str]) -> Score | None:
        condition = f"{where.pop('attack')}:{where.pop('amount')}"
        return results.score(**where, condition=condition)

    caption = f"Robust accuracy of {model} on “{split}” by radius"
    return fill(results, Layout(caption, ("Attack", "Trainer"), columns, groups, lambda group, _: group, find))


def class_tables(results: Results, model: str, split: str) -> list[Table]:
    """Recall, precision, F1 and AUROC by class: on clean images, and under each attack at a middle and the largest radius."""
    conditions = [("clean", "clean images")]
    radii = {written for _, written, _ in results.telling_radii(split)}
    for attack, series in results.attacks(split).items():
        if attack != WORST:
            conditions += [(condition, f"{attack}, radius {written}") for _, written, condition in series if written in radii]
    columns: list[tuple[str, Where]] = [
        (title, {"measure": name})
        for name, title in (("recall", "Recall"), ("precision", "Precision"), ("f1", "F1"), ("auroc", "AUROC"))
    ]

    def find(results: Results, where: dict[str, str]) -> Score | None:
        return results.score(**where | {"metric": f"{where.pop('measure')}[{where.pop('of')}]"})

    tables = []
    for condition, title in conditions:
        at = {"model": model, "split": split, "condition": condition}
        groups = [(name, {**at, "of": name}, trainers_of(results)) for name in results.classes]
        caption = f"Scores by class of {model} on “{split}”: {title}"
        table = fill(results, Layout(caption, ("Class", "Trainer"), columns, groups, lambda group, _: group, find))
        tables += [table] if table else []
    return tables


def confusion_table(results: Results, model: str, split: str) -> Table | None:
    """Which class the images of each true class are called, as shares of the true class; clean images."""

    def find(results: Results, where: dict[str, str]) -> Score | None:
        said, true = where.pop("said"), where.pop("true")
        return results.score(**where, metric=f"recall[{true}]" if said == true else f"called[{said}|{true}]")

    if not any(results.measured(f"recall[{name}]", split=split) for name in results.classes):
        return None
    columns: list[tuple[str, Where]] = [(f"Called {name}", {"said": name}) for name in results.classes]
    at = {"model": model, "split": split, "condition": "clean"}
    groups = [(f"True class {name}", {**at, "true": name}, trainers_of(results)) for name in results.classes]
    caption = f"Confusion of {model} on “{split}”: share of each true class by the class it is called, clean images"
    return fill(results, Layout(caption, ("True class", "Trainer"), columns, groups, lambda group, _: group, find))


def headline(results: Results, split: str) -> str:
    """The score that stands for all on a set: accuracy, or AUROC where an image may have several findings."""
    return next((metric for metric in ("accuracy", "auroc") if results.measured(metric, split=split)), "accuracy")


def corruption_table(results: Results, model: str, split: str) -> Table | None:
    """The headline score of one model under each corruption and severity; severity 0 is the clean image."""
    corruptions, metric = results.corruptions(split), headline(results, split)
    severities = dict.fromkeys(written for series in corruptions.values() for _, written, _ in series)
    columns: list[tuple[str, Where]] = [("Clean", {"amount": ""})]
    columns += [(f"Severity {written}", {"amount": written}) for written in sorted(severities, key=float)]

    def find(results: Results, where: dict[str, str]) -> Score | None:
        corruption, amount = where.pop("corruption"), where.pop("amount")
        return results.score(**where, condition=f"{corruption}:{amount}" if amount else "clean")

    at = {"model": model, "split": split, "metric": metric}
    groups = [(name, {**at, "corruption": name}, trainers_of(results)) for name in corruptions]
    caption = f"{HEADLINES[metric]} of {model} on “{split}” under corruption"
    return fill(results, Layout(caption, ("Corruption", "Trainer"), columns, groups, lambda group, _: group, find))


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
