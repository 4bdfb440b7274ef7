"""Whether probabilities can be taken as such: what is claimed against what is so, with how many images stand behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cxr_eval.report.charts.ranking import ATTACKED, QUARTERS, hardest
from cxr_eval.report.charts.trade_off import DIAGONAL
from cxr_eval.report.drawing import FAINT, Frame, as_file, box, line, marks, on_page, trainer_stroke, unbroken, words
from cxr_eval.report.figures import WIDTH, Picture, axes
from cxr_eval.report.results import Results, number, one_line
from cxr_eval.report.threats import said_condition
from cxr_eval.stats.clinical import BINS
from cxr_eval.stats.curve_points import ALL, RELIABILITY

HEIGHT = 330.0
COUNTS = 44.0
"""Height of the counts in points."""
OPEN = "M-2.3 0a2.3 2.3 0 1 0 4.6 0a2.3 2.3 0 1 0-4.6 0zM-1.3 0a1.3 1.3 0 1 1 2.6 0a1.3 1.3 0 1 1-2.6 0z"
"""Outline of a ring: a bin of attacked images."""


@dataclass(frozen=True)
class Bin:
    """One bin: what is claimed, what is so with its interval, and of how many images."""

    x: float
    y: float
    low: float
    high: float
    n: int


def reliability(results: Results, curves: pd.DataFrame, model: str, split: str, key: str) -> list[Picture]:
    """A picture a trainer: full with counts for clean images, dashed for the hardest attack that has curves.

    curves: curves.csv. The probability of the predicted class; where images have several findings, of all of them together.
    Of several seeds the first is drawn.
    """
    if curves.empty:
        return []
    mine = curves[
        (curves["model"] == model)
        & (curves["split"] == split)
        & (curves["figure"] == RELIABILITY)
        & (curves["series"].fillna(ALL) == ALL)
    ]
    attack = hardest(results, model, split, set(map(str, mine["condition"])))
    pictures: list[Picture] = []
    for place, trainer in enumerate(results.trainers):
        part = mine[mine["trainer"] == trainer]
        part = part[part["seed"] == part["seed"].min()]
        clean, attacked = (_bins(part[part["condition"] == condition]) for condition in ("clean", attack))
        if clean:
            score = results.score(model=model, trainer=trainer, split=split, metric="ece")
            error = "" if score is None else f"ECE {score.text}"
            of = f"Reliability of {model} by {trainer} on “{split}”{f', {error}' if error else ''}: {_said(clean)}"
            of += f"; under {said_condition(results, attack)}: {_said(attacked)}" if attacked else ""
            pictures.append(_picture(f"{key}-{len(pictures)}", place, trainer, of, error, clean, attacked))
    return pictures


def _bins(part: pd.DataFrame) -> list[Bin]:
    return [
        Bin(float(x), float(y), float(low), float(high), int(n))
        for x, y, low, high, n in zip(*(part[name] for name in ("x", "y", "low", "high", "n")), strict=True)
    ]


def _said(bins: Sequence[Bin]) -> str:
    known = [each for each in bins if math.isfinite(each.y)]
    few = len(bins) - len(known)
    said = [f"claimed {number(each.x)}, so {number(each.y)} (n = {each.n})" for each in known]
    return ", ".join([*said, *([f"{few} {'bin' if few == 1 else 'bins'} of too few patients"] if few else [])])


def _picture(
    key: str, place: int, trainer: str, alt: str, error: str, clean: Sequence[Bin], attacked: Sequence[Bin]
) -> Picture:
    frame = Frame(left=42, top=9, right=WIDTH - 9, bottom=HEIGHT - 36 - COUNTS - 8, x=(0, 1), y=(-0.02, 1.02))
    below = replace(frame, top=HEIGHT - 36 - COUNTS, bottom=HEIGHT - 36, y=(0, 1.25 * max(each.n for each in clean)))
    drawn = [axes(frame, "", "Share that is so", QUARTERS, said=(True, False))]
    drawn += [
        axes(below, "Probability that is claimed", "", []),
        words(10, (below.top + below.bottom) / 2, "Images", upwards=True),
    ]
    drawn.append(line([frame.at(0, 0), frame.at(1, 1)], DIAGONAL))
    wide = (frame.right - frame.left) / BINS
    for each in clean:
        left = frame.left + wide * min(BINS - 1, max(0, math.ceil(each.x * BINS) - 1))
        _, top = below.at(0, each.n)
        drawn.append(box(left + 1, top, wide - 2, below.bottom - top, FAINT))
        drawn.append(words(left + wide / 2, top - 2, str(each.n), more=' font-size="6.5"'))
    stroke = replace(trainer_stroke(place), dash=())
    for bins, drawn_as in ((attacked, replace(stroke, dash=ATTACKED, marker=OPEN, width=1.2)), (clean, stroke)):
        for each in bins:
            if math.isfinite(each.low) and math.isfinite(each.high):
                whisker = replace(drawn_as, width=1.0, dash=(), opacity=0.6)
                drawn.append(line([frame.at(each.x, each.low), frame.at(each.x, each.high)], whisker))
        for run in unbroken([each.x for each in bins], [each.y for each in bins]):
            path = [frame.at(bins[k].x, bins[k].y) for k in run]
            drawn.append(line(path, drawn_as) + marks(path, drawn_as, 1.2))
    drawn += [words(frame.left + 8, frame.top + 12, error, anchor="start")] if error else []
    if attacked:
        y = frame.top + (24 if error else 12)
        drawn.append(line([(frame.left + 8, y - 3), (frame.left + 28, y - 3)], replace(stroke, dash=ATTACKED, width=1.2)))
        drawn.append(words(frame.left + 33, y, "attacked", anchor="start"))
    body = "".join(drawn)
    alone = as_file(body, WIDTH, HEIGHT, one_line(f"Reliability: {trainer}", 40), [])
    return Picture(key, f"Reliability: {trainer}", alt, on_page(body, WIDTH, HEIGHT), alone, keyed=False)
