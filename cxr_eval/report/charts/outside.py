"""From the test set to images from elsewhere: a slope a trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cxr_eval.report.charts.heat import LETTER
from cxr_eval.report.drawing import (
    FAINT,
    Frame,
    Stroke,
    as_file,
    limits,
    line,
    marks,
    on_page,
    shortened,
    trainer_stroke,
    words,
)
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import Results, Score, one_line
from cxr_eval.report.tables import HEADLINES

WIDE, HIGH = 250.0, 236.0
"""Points: the width but for the names, and the height."""
LETTERS = 25
"""Letters of a trainer's name beside the end of its line."""
APART = 10.0
"""Points between two lines of words."""
SLOPED = ("accuracy", "auroc")

Sloped = list[tuple[int, str, Score, Score]]
"""Place and name of a trainer, its score inside and its score outside."""


def slopes(results: Results, model: str, key: str) -> list[Picture]:
    """Accuracy and AUROC on the test set (left) and on each outside set (right), clean images, a line a trainer.

    Numbers stand at both ends, whiskers are 95 % intervals.
    """
    pictures: list[Picture] = []
    inside = "test"
    for outside in (split for split in results.splits if split != inside):
        for metric in SLOPED:
            found: Sloped = []
            for place, trainer in enumerate(results.trainers):
                at = {"model": model, "trainer": trainer, "metric": metric}
                ends = [results.score(**at, split=split) for split in (inside, outside)]
                known = [score for score in ends if score is not None and math.isfinite(score.value)]
                if len(known) == 2:
                    found.append((place, trainer, known[0], known[1]))
            if found:
                pictures.append(_slope(f"{key}-{len(pictures)}", model, HEADLINES[metric], outside, found))
    return pictures


def _slope(key: str, model: str, score: str, outside: str, found: Sloped) -> Picture:
    height = max(HIGH, 60 + APART * len(found))
    ends = limits(end for _, _, *pair in found for one in pair for end in (one.value, one.low, one.high))
    names = shortened([name for _, name, _, _ in found], LETTERS)
    width = WIDE + LETTER * max(map(len, names))
    frame = Frame(left=62, top=24, right=WIDE - 58, bottom=height - 12, x=(0, 1), y=ends)
    drawn = []
    for x, name in ((0, "test"), (1, outside)):
        across = frame.at(x, 0)[0]
        drawn.append(line([(across, frame.top), (across, frame.bottom)], Stroke(FAINT, 0.8)))
        drawn.append(words(across, 14, one_line(name, 20), more=' font-weight="600"'))
    for place, _, *pair in found:
        colour = trainer_stroke(place).colour
        for x, one in enumerate(pair):
            if math.isfinite(one.low) and math.isfinite(one.high):
                beside = (place - (len(found) - 1) / 2) * 2.2 / 120  # whiskers of several trainers stand beside each other
                drawn.append(
                    line([frame.at(x + beside, one.low), frame.at(x + beside, one.high)], Stroke(colour, 1, opacity=0.6))
                )
    for place, _, *pair in found:
        ends_at = [frame.at(x, one.value) for x, one in enumerate(pair)]
        drawn.append(line(ends_at, trainer_stroke(place)) + marks(ends_at, trainer_stroke(place), 1.2))
    for x, said in enumerate(
        ([one.text for *_, one, _ in found], [f"{other.text} {name}" for name, (*_, other) in zip(names, found, strict=True)])
    ):
        wanted = [frame.at(x, pair[x].value)[1] for _, _, *pair in found]
        side, anchor = (frame.left - 16, "end") if x == 0 else (frame.right + 16, "start")
        for (place, _, *_), want, y, text in zip(found, wanted, apart(wanted, frame.top, frame.bottom), said, strict=True):
            edge = frame.left - 6 if x == 0 else frame.right + 6
            drawn.append(line([(edge, want), (side + (2 if x == 0 else -2), y)], Stroke(trainer_stroke(place).colour, 0.6)))
            drawn.append(words(side, y + 3, text, anchor=anchor))
    body = "".join(drawn)
    told = "; ".join(f"{name} {one.text} {one.interval} to {other.text} {other.interval}" for _, name, one, other in found)
    alt = f"{score} of {model} on clean images, from “test” to “{outside}”, with 95 % intervals: {told}"
    alone = as_file(body, width, height, one_line(f"{model}: {score}", 40), [])
    return Picture(key, f"{score}, “test” to “{outside}”", alt, on_page(body, width, height), alone, keyed=False)


def apart(wanted: Sequence[float], top: float, bottom: float, gap: float = APART) -> list[float]:
    """Heights near those wanted, at least a gap from each other and between top and bottom where there is room."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    groups: list[list[int]] = []
    for k in order:  # those that would overlap stand together around their middle
        groups.append([k])
        while (
            len(groups) > 1
            and _middle(wanted, groups[-1]) - _middle(wanted, groups[-2]) < gap * (len(groups[-1]) + len(groups[-2])) / 2
        ):
            last = groups.pop()
            groups[-1] += last
    heights = [_middle(wanted, group) + gap * (k - (len(group) - 1) / 2) for group in groups for k in range(len(group))]
    for k in range(len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + gap if k else top)
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], heights[k + 1] - gap if k + 1 < len(heights) else bottom)
    placed = dict(zip(order, heights, strict=True))
    return [placed[k] for k in range(len(wanted))]


def _middle(wanted: Sequence[float], group: Sequence[int]) -> float:
    return sum(wanted[k] for k in group) / len(group)
