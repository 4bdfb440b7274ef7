"""A table of numbers as coloured cells that keep their numbers, so that it can be read without the colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cxr_eval.report.drawing import FAINT, HEAT, Stroke, as_file, box, heat, line, on_page, shortened, words
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import NOT_DEFINED, number, one_line

NAME_LENGTH = 16
LETTER = 5.4
"""Width of a letter in points, by which room for names is made."""
CELL, LINE = 30.0, 21.0
"""Points: the least width of a cell, and its height."""
LEAST = 0.2
"""Between the ends of a scale, for scores from 0 to 1."""
NARROW = 292.0
"""Points that cells are stretched to where they need less."""


def heat_map(
    key: str,
    title: str,
    alt: str,
    values: Mapping[tuple[int, int], float],
    *,
    down: Sequence[str],
    across: Sequence[str],
    y: str,
    x: str,
    ends: tuple[float, float],
    subs: Sequence[str] = (),
    strong: Mapping[tuple[int, int], bool] | None = None,
) -> Picture:
    """A cell a line and column; where there is no value there is no cell, and a NaN is a cell without colour.

    values: by place in `down` and `across`. ends: values of the two ends of the scale, which is drawn below. subs: what stands
    below each name of a line in small letters. strong: cells whose numbers are bold.
    """
    names, heads = shortened(down, NAME_LENGTH), shortened(across, NAME_LENGTH)
    left = 24 + LETTER * max([4, *map(len, names), *(0.75 * len(sub) for sub in subs)])
    wide = max(CELL, min(64.0, (NARROW - left - 6) / max(1, len(heads))))
    upright = LETTER * max(map(len, heads), default=0) > wide - 3
    top = 20 + (LETTER * max(map(len, heads)) if upright else 9)
    width, below = left + wide * len(heads) + 6, top + LINE * len(names)
    height = below + 30
    drawn = [words(left + wide * len(heads) / 2, 11, x), words(10, (top + below) / 2, y, upwards=True)]
    for k, head in enumerate(heads):
        middle = left + wide * (k + 0.5)
        drawn.append(
            words(middle + 3, top - 5, head, upwards=True, anchor="start") if upright else words(middle, top - 5, head)
        )
    for k, name in enumerate(names):
        at = top + LINE * (k + 0.5)
        small = one_line(subs[k], NAME_LENGTH + 4) if subs else ""
        drawn.append(words(left - 5, at + (0 if small else 3), name, anchor="end"))
        drawn += [words(left - 5, at + 8, small, anchor="end", more=' font-size="7"')] if small else []
    for (row, column), value in values.items():
        corner = left + wide * column, top + LINE * row
        drawn.append(_cell(*corner, wide, value, ends, len(heads), bold=bool(strong and strong.get((row, column)))))
    drawn.append(_scale(left, below + 9, ends))
    body = "".join(drawn)
    alone = as_file(body, width, height, one_line(title, 60), [])
    return Picture(key, title, alt, on_page(body, width, height), alone, keyed=False)


def together(values: Sequence[float]) -> tuple[float, float]:
    """Ends of one scale for several maps, so far apart that small differences are not made to look large."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    return min(low, max(0.0, high - LEAST)), high


def _cell(left: float, top: float, wide: float, value: float, ends: tuple[float, float], columns: int, *, bold: bool) -> str:
    middle, base = left + wide / 2, top + LINE / 2 + 3
    if not math.isfinite(value):
        edge = Stroke(FAINT, 0.8)
        outline = [
            (left + 1, top + 1),
            (left + wide - 1, top + 1),
            (left + wide - 1, top + LINE - 1),
            (left + 1, top + LINE - 1),
        ]
        return line([*outline, outline[0]], edge) + words(middle, base, NOT_DEFINED)
    low, high = ends
    ground, letters = heat((value - low) / (high - low) if high > low else 0.5)
    said = number(value) if columns <= 8 else f"{value:.2f}"
    more = ' font-weight="700"' if bold else ""
    return box(left + 0.5, top + 0.5, wide - 1, LINE - 1, ground) + words(middle, base, said, colour=letters, more=more)


def _scale(left: float, top: float, ends: tuple[float, float]) -> str:
    """The colours with the values of their ends."""
    low, high = map(number, ends)
    start = left + LETTER * len(low) + 4
    cells = "".join(box(start + 11 * k, top, 11, 9, colour) for k, colour in enumerate(HEAT))
    return words(left, top + 8, low, anchor="start") + cells + words(start + 11 * len(HEAT) + 4, top + 8, high, anchor="start")
