"""Gaps between subgroups as intervals beside a line at zero; what is shown and what is not differ by shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cxr_eval.report.charts.heat import LETTER
from cxr_eval.report.differences import said_p, signed
from cxr_eval.report.drawing import (
    FAINT,
    INK,
    Frame,
    Point,
    Stroke,
    as_file,
    limits,
    line,
    marks,
    on_page,
    shortened,
    ticks,
    words,
)
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import NOT_DEFINED, Results, number, one_line
from cxr_eval.report.words import SHOWN

WIDE, LINE = 210.0, 13.0
"""Points: the width but for the names, and the height of a line."""
NAME_LENGTH = 25
MOST = 4
"""Pictures of one column, model and set: the first scores that have gaps."""
ZERO = Stroke(INK, 0.9)
SHOWN_MARK = Stroke(INK, 1.4, marker="M0-3.6L3.6 0L0 3.6L-3.6 0z")
"""A full diamond: the gap has a small corrected p-value."""
OPEN_MARK = Stroke(
    INK, 1.0, marker="M-2.8 0a2.8 2.8 0 1 0 5.6 0a2.8 2.8 0 1 0-5.6 0zM-1.8 0a1.8 1.8 0 1 1 3.6 0a1.8 1.8 0 1 1-3.6 0z"
)
"""A ring: it has none."""


@dataclass(frozen=True)
class Spot:
    """One gap, over seeds: mean, mean ends of the intervals, largest corrected p-value."""

    group: str
    name: str
    gap: float
    low: float
    high: float
    p: float

    @property
    def shown(self) -> bool:
        """True if it is not easily chance."""
        return self.p < SHOWN

    @property
    def text(self) -> str:
        """The gap in words."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        interval = f"[{number(self.low)}, {number(self.high)}]" if known else f"[{NOT_DEFINED}]"
        return f"{self.group}, {self.name} {signed(self.gap)} {interval} {said_p(self.p)}"


def forests(
    results: Results, gaps: pd.DataFrame, column: str, model: str, split: str, titles: Mapping[tuple[str, str], str], key: str
) -> list[Picture]:
    """A picture a score: each value of a column against the others, a line a trainer; at most four scores.

    gaps: gaps.csv. titles: what scores are called, by condition and metric, in the order in which they are shown. The largest
    gaps are left out, as they cannot be below 0; of two values one stands, as the other's gap is its negative.
    """
    if gaps.empty:
        return []
    mine = gaps[(gaps["column"].astype(str) == column) & (gaps["model"] == model) & (gaps["split"] == split)]
    pictures: list[Picture] = []
    for (condition, metric), title in titles.items():
        part = mine[(mine["condition"] == condition) & (mine["metric"] == metric)]
        spots = [spot for spot in _spots(results, part) if math.isfinite(spot.gap)]
        if spots and len(pictures) < MOST:
            of = f"{title} by {column}, {model} on “{split}”"
            pictures.append(forest(f"{key}-{len(pictures)}", title, of, spots))
    return pictures


def forest(key: str, title: str, of: str, spots: Sequence[Spot]) -> Picture:
    """Gaps with their intervals below each other, in named groups. Full diamonds have a corrected p-value below 0.05."""
    groups: dict[str, list[Spot]] = {}
    for spot in spots:
        groups.setdefault(spot.group, []).append(spot)
    of_name = dict.fromkeys(spot.name for spot in spots)
    names = dict(zip(of_name, shortened(list(of_name), NAME_LENGTH), strict=True))
    left = 14 + LETTER * max(map(len, names.values()))
    width = WIDE + left
    rows = len(spots) + len(groups)
    ends = limits([0.0, *(end for spot in spots for end in (spot.gap, spot.low, spot.high))])
    frame = Frame(left, 6, width - 54, 6 + LINE * rows, ends, (rows, 0))
    height = frame.bottom + 56
    drawn = []
    round_numbers = ticks(*frame.x, most=4)
    drawn += [words(frame.at(value, rows)[0], frame.bottom + 12, text) for value, text in round_numbers]
    row = 0
    for name, mine in groups.items():
        drawn.append(words(4, frame.at(0, row)[1] + 10, one_line(name, 40), anchor="start", more=' font-weight="600"'))
        row += 1
        drawn += [
            line([frame.at(value, row), frame.at(value, row + len(mine))], stroke)
            for value, stroke in [*((value, Stroke(FAINT, 0.6)) for value, _ in round_numbers), (0.0, ZERO)]
        ]
        for spot in mine:
            y = row + 0.5
            drawn.append(words(left - 6, frame.at(0, y)[1] + 3, names[spot.name], anchor="end"))
            stroke = SHOWN_MARK if spot.shown else OPEN_MARK
            if math.isfinite(spot.low) and math.isfinite(spot.high):
                drawn += _interval(
                    frame.at(spot.low, y), frame.at(spot.high, y), frame.at(spot.gap, y), stroke, hole=not spot.shown
                )
            drawn.append(marks([frame.at(spot.gap, y)], stroke))
            weight = ' font-weight="700"' if spot.shown else ""
            drawn.append(words(width - 6, frame.at(0, y)[1] + 3, signed(spot.gap), anchor="end", more=weight))
            row += 1
    drawn.append(words((frame.left + frame.right) / 2, frame.bottom + 27, "Gap, with its 95 % interval"))
    drawn += [marks([(12, height - 9)], SHOWN_MARK), words(20, height - 6, f"p < {SHOWN:g} after Holm", anchor="start")]
    drawn += [marks([(132, height - 9)], OPEN_MARK), words(140, height - 6, "no gap shown", anchor="start")]
    body = "".join(drawn)
    alt = f"Gaps of {of}, with 95 % intervals: {'; '.join(spot.text for spot in spots)}"
    alone = as_file(body, width, height, one_line(title, 48), [])
    return Picture(key, f"Gaps: {title}", alt, on_page(body, width, height), alone, keyed=False)


def _interval(low: Point, high: Point, middle: Point, stroke: Stroke, *, hole: bool) -> list[str]:
    """A line from low to high, with a hole where a ring stands."""
    if not hole:
        return [line([low, high], stroke)]
    return [line([low, (middle[0] - 2.8, low[1])], stroke), line([(middle[0] + 2.8, low[1]), high], stroke)]


def _spots(results: Results, part: pd.DataFrame) -> list[Spot]:
    """Gaps by what is compared and by trainer, means over seeds."""
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    seen: set[tuple[str, int, str]] = set()
    for line_ in part.to_dict("records"):
        trainer, seed, value, against = str(line_["trainer"]), int(line_["seed"]), str(line_["value"]), str(line_["against"])
        if (trainer, seed, value) in seen or (trainer, against, value) in found:
            continue  # the largest gap stands after the others; and of two values the second is the first's negative
        seen.add((trainer, seed, value))
        ends = {name: float(line_[name]) for name in ("gap", "gap_low", "gap_high", "p_holm")}
        found.setdefault((trainer, value, against), []).append(ends)
    compared = dict.fromkeys((value, against) for _, value, against in found)
    spots = []
    for value, against in compared:
        for trainer in results.trainers:
            known = [ends for ends in found.get((trainer, value, against), []) if math.isfinite(ends["gap"])]
            if known:
                gap, low, high = (
                    math.fsum(ends[name] for ends in known) / len(known) for name in ("gap", "gap_low", "gap_high")
                )
                values = [ends["p_holm"] for ends in known]
                p = math.nan if any(map(math.isnan, values)) else max(values)
                spots.append(Spot(f"{value} minus {against}", trainer, gap, low, high, p))
    return spots
