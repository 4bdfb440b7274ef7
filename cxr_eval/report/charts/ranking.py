"""ROC and precision-recall curves by class: clean images as a full line, attacked ones dashed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cxr_eval.report.charts.trade_off import DIAGONAL, SQUARE, square
from cxr_eval.report.drawing import PALETTE, Point, Stroke, as_file, line, marks, on_page, shortened, trainer_stroke, words
from cxr_eval.report.figures import MOST_TOGETHER, WIDTH, Picture, axes
from cxr_eval.report.results import Results, one_line
from cxr_eval.report.threats import said_condition
from cxr_eval.stats.curve_points import PR, ROC

AREA = {ROC: ("auroc", "AUROC"), PR: ("average_precision", "AP")}
"""Metric that is the area below a figure's curves."""
AXES = {ROC: ("1 \u2212 specificity", "Sensitivity"), PR: ("Recall (sensitivity)", "Precision")}
NAMES = {ROC: "ROC", PR: "Precision and recall"}
QUARTERS = [(0.25 * k, f"{0.25 * k:.2f}") for k in range(5)]
ATTACKED = (3.5, 2.2)
"""Dashes of attacked images, in widths of the line."""
AT = (0.2, 0.5, 0.8)
"""Where a curve has markers, as shares of its length along both axes."""
KEY_LENGTH, KEY_LINE = 21, 12.0


@dataclass(frozen=True)
class Ranked:
    """One line of the key below a picture, and its curves: clean, and attacked where there is one."""

    name: str
    stroke: Stroke
    clean: Sequence[Point]
    attacked: Sequence[Point]
    areas: tuple[str, str]


def ranking_curves(results: Results, curves: pd.DataFrame, model: str, split: str, figure: str, key: str) -> list[Picture]:
    """A picture a class with a line a trainer; with more than six trainers a picture a trainer with a line a class.

    curves: curves.csv. figure: `roc` or `pr`. Of several seeds the first is drawn; the areas below are those of the tables,
    over all seeds. Of more than seven classes a picture of a trainer has the first seven, and says so.
    """
    mine = (
        curves[(curves["model"] == model) & (curves["split"] == split) & (curves["figure"] == figure)]
        if len(curves)
        else curves
    )
    if mine.empty:
        return []
    mine = mine[mine["seed"] == mine.groupby(["trainer"])["seed"].transform("min")]
    known = {
        (str(trainer), str(name), str(condition)): list(zip(part["x"], part["y"], strict=True))
        for (trainer, name, condition), part in mine.groupby(["trainer", "series", "condition"], sort=False)
    }
    attack = hardest(results, model, split, {condition for _, _, condition in known})
    trainers = [trainer for trainer in results.trainers if any(place[0] == trainer for place in known)]
    classes = [name for name in results.classes if any(place[1] == name for place in known)]
    if len(trainers) > MOST_TOGETHER:
        shown = classes[: len(PALETTE)]
        pages = [(trainer, [(name, k, trainer, name) for k, name in enumerate(shown)]) for trainer in trainers]
    else:
        pages = [(name, [(t, results.trainers.index(t), t, name) for t in trainers]) for name in classes]
    cut = len(trainers) > MOST_TOGETHER and len(classes) > len(PALETTE)
    few = f"first {len(PALETTE)} of {len(classes)} classes" if cut else ""
    pictures: list[Picture] = []
    for title, lines in pages:
        ranked = [
            Ranked(
                said,
                replace(trainer_stroke(place), dash=(), width=1.4),
                known.get((trainer, name, "clean"), []),
                known.get((trainer, name, attack), []),
                _areas(results, model, trainer, split, figure, name, attack),
            )
            for said, place, trainer, name in lines
            if (trainer, name, "clean") in known
        ]
        if ranked:
            of = f"{model} on “{split}”" + ("" if not attack else f", clean and under {said_condition(results, attack)}")
            pictures.append(_picture(f"{key}-{len(pictures)}", title, of, figure, ranked, attack != "", few))
    return pictures


def hardest(results: Results, model: str, split: str, there: set[str]) -> str:
    """Of the attacks that have curves the one that leaves least at its largest radius, mean over trainers; empty for none."""
    left: dict[str, float] = {}
    for series in results.attacks(split).values():
        largest = [condition for _, _, condition in series if condition in there][-1:]
        for condition in largest:
            at = {"model": model, "split": split, "metric": "robust_accuracy", "condition": condition}
            scores = [results.score(**at, trainer=trainer) for trainer in results.trainers]
            values = [score.value for score in scores if score is not None and math.isfinite(score.value)]
            if values:
                left[condition] = math.fsum(values) / len(values)
    return min(left, key=lambda condition: left[condition], default="")


def steps(points: Sequence[Point]) -> list[Point]:
    """The line of a precision-recall curve: at each recall the precision on the way there."""
    found: list[Point] = []
    before = 0.0
    for recall, precision in points:
        found += [(before, precision), (recall, precision)]
        before = recall
    return found


def _areas(results: Results, model: str, trainer: str, split: str, figure: str, name: str, attack: str) -> tuple[str, str]:
    """The areas below both curves as tables have them."""
    at = {"model": model, "trainer": trainer, "split": split, "metric": f"{AREA[figure][0]}[{name}]"}
    scores = [results.score(**at, condition=condition) if condition else None for condition in ("clean", attack)]
    return tuple("" if score is None else score.text for score in scores)  # type: ignore[return-value]


def _picture(key: str, title: str, of: str, figure: str, ranked: Sequence[Ranked], attacked: bool, few: str) -> Picture:
    frame, area = square((-0.01, 1.01)), AREA[figure][1]
    height = SQUARE + 8 + KEY_LINE * (1 + len(ranked))
    drawn = [axes(frame, *AXES[figure], QUARTERS)]
    drawn += [line([frame.at(0, 0), frame.at(1, 1)], DIAGONAL)] if figure == ROC else []
    for each in ranked:
        for points, stroke in ((each.attacked, replace(each.stroke, dash=ATTACKED)), (each.clean, each.stroke)):
            path = [frame.at(*point) for point in (steps(points) if figure == PR else points)]
            drawn.append(line(path, stroke) + marks(_along(path), stroke))
    top = SQUARE + 8
    said = (f"{area}: clean, attacked (dashed)" if attacked else f"{area}, clean") + (f"; {few}" if few else "")
    drawn.append(words(frame.left, top, said, anchor="start", more=' font-weight="600"'))
    short = shortened([each.name for each in ranked], KEY_LENGTH)
    for k, each in enumerate(ranked):
        y = top + KEY_LINE * (k + 1)
        drawn.append(line([(frame.left, y - 3), (frame.left + 20, y - 3)], each.stroke))
        drawn.append(marks([(frame.left + 10, y - 3)], each.stroke))
        drawn.append(words(frame.left + 26, y, short[k], anchor="start"))
        drawn += [words(frame.left + 172 + 40 * place, y, text, anchor="end") for place, text in enumerate(each.areas) if text]
    body = "".join(drawn)
    told = "; ".join(f"{each.name} {_told(each.areas)}" for each in ranked)
    alt = f"{NAMES[figure]} curves, {title}: {of}{f', {few}' if few else ''}; {area} of {told}"
    alone = as_file(body, WIDTH, height, one_line(f"{NAMES[figure]}: {title}", 40), [])
    return Picture(key, f"{NAMES[figure]}: {title}", alt, on_page(body, WIDTH, height), alone, keyed=False)


def _told(areas: tuple[str, str]) -> str:
    clean, attacked = areas
    return f"{clean or 'not known'}" + (f", attacked {attacked}" if attacked else "")


def _along(path: Sequence[Point]) -> Iterator[Point]:
    """Places on a line at shares of its length across and down together."""
    if len(path) < 2:
        return
    x, y = np.array(path).T
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    for share in AT:
        yield float(np.interp(share * length[-1], length, x)), float(np.interp(share * length[-1], length, y))
