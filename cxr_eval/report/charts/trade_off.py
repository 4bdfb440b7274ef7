"""What training against attacks costs and gains: right without attack against right under attack, a marker a trainer."""

from __future__ import annotations

import math
from dataclasses import replace

from cxr_eval.report.drawing import INK, Frame, Stroke, as_file, limits, line, marks, on_page, ticks, trainer_stroke, words
from cxr_eval.report.figures import NAME_LENGTH, WIDTH, Picture, axes
from cxr_eval.report.results import WORST, Results, Score, one_line
from cxr_eval.report.tables import HEADLINES, headline

DIAGONAL = Stroke(INK, 0.8, (3.0, 3.0), opacity=0.6)
FAILED = "\u2715"
"""Beside a marker that a failed check forbids to believe."""
SQUARE = 292.0
"""Height of a picture with a square frame, in points."""


def square(ends: tuple[float, float]) -> Frame:
    """A frame as high as it is wide, with the same values on both axes."""
    return Frame(left=50, top=9, right=WIDTH - 9, bottom=SQUARE - 36, x=ends, y=ends)


def clean_against_robust(results: Results, model: str, split: str, key: str) -> list[Picture]:
    """Right without attack (x) against right in the worst case (y), one picture a radius that sentences speak of.

    Whiskers are 95 % intervals. On the diagonal attacks cost nothing. x is robust accuracy at radius 0, of the same images,
    or the headline score where that was not measured.
    """
    pictures: list[Picture] = []
    for radius, written, condition in results.telling_radii(split):
        if radius <= 0:
            continue
        found: list[tuple[int, str, Score, Score]] = []
        for place, trainer in enumerate(results.trainers):
            at = {"model": model, "trainer": trainer, "split": split}
            robust = results.score(**at, metric="robust_accuracy", condition=condition)
            clean = results.score(**at, metric="robust_accuracy", condition=f"{WORST}:0")
            clean = clean or results.score(**at, metric=headline(results, split))
            if clean and robust and math.isfinite(clean.value) and math.isfinite(robust.value):
                found.append((place, trainer, clean, robust))
        if found:
            same = results.measured("robust_accuracy", split=split, condition=f"{WORST}:0")
            x = "Right without attack" if same else HEADLINES[headline(results, split)]
            pictures.append(_scatter(f"{key}-{len(pictures)}", model, split, written, x, found))
    return pictures


def _scatter(key: str, model: str, split: str, radius: str, x: str, found: list[tuple[int, str, Score, Score]]) -> Picture:
    across, up = (
        limits(end for _, _, *pair in found for end in (pair[k].value, pair[k].low, pair[k].high)) for k in (0, 1)
    )  # fmt: skip
    frame = replace(square(across), y=up)
    drawn = [axes(frame, x, f"Right in the worst case, radius {radius}", ticks(*frame.y))]
    start, end = max(across[0], up[0]), min(across[1], up[1])
    if start < end:
        drawn.append(line([frame.at(start, start), frame.at(end, end)], DIAGONAL))
        right, top = frame.at(end, end)
        side, anchor = (right - 7, "end") if right - frame.left > 110 else (right + 7, "start")
        drawn.append(words(side, top + 9, "attacks cost nothing", anchor=anchor, more=' font-size="7.5"'))
    for place, _, clean, robust in found:
        thin = Stroke(trainer_stroke(place).colour, 1.1, opacity=0.75)
        if math.isfinite(clean.low) and math.isfinite(clean.high):
            drawn.append(line([frame.at(clean.low, robust.value), frame.at(clean.high, robust.value)], thin))
        if math.isfinite(robust.low) and math.isfinite(robust.high):
            drawn.append(line([frame.at(clean.value, robust.low), frame.at(clean.value, robust.high)], thin))
    for place, _, clean, robust in found:  # markers above all whiskers
        at = frame.at(clean.value, robust.value)
        drawn.append(marks([at], trainer_stroke(place), 1.5))
        if clean.failed or robust.failed:
            drawn.append(words(at[0] + 9, at[1] - 5, FAILED))
    body = "".join(drawn)
    said = "; ".join(
        f"{name} {c.text} {c.interval} and {r.text} {r.interval}"
        + (", on which a check failed" if c.failed or r.failed else "")
        for _, name, c, r in found
    )
    title = f"“{split}”, radius {radius}"
    alt = f"{x} against right in the worst case at radius {radius}, {model} on “{split}”, with 95 % intervals: {said}"
    names = [
        (one_line(name, NAME_LENGTH), Stroke(marker=stroke.marker, colour=stroke.colour, width=0))
        for place, name, _, _ in found
        for stroke in [trainer_stroke(place)]
    ]
    return Picture(
        key, title, alt, on_page(body, WIDTH, SQUARE), as_file(body, WIDTH, SQUARE, one_line(f"{model}, {title}", 40), names)
    )
