"""How the radii of training images spread over the epochs, for trainers that give each image its own."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from cxr_eval.report.drawing import (
    INK,
    Frame,
    Stroke,
    area,
    as_file,
    limits,
    line,
    marks,
    on_page,
    ticks,
    trainer_stroke,
    words,
)
from cxr_eval.report.figures import HEIGHT, NAME_LENGTH, RADIUS, WIDTH, Picture, axes
from cxr_eval.report.results import Results, number, one_line
from cxr_eval.types import format_eps

QUANTILES = ("eps_q05", "eps_q25", "eps_median", "eps_q75", "eps_q95")
"""Columns of history.csv that trainers with a radius an image log."""
START = Stroke(INK, 0.9, (3.0, 3.0), opacity=0.7)


def radius_bands(results: Results, history: pd.DataFrame, model: str, key: str) -> list[Picture]:
    """Median radius over the epochs, with the middle half and the middle nine tenths as bands; a picture a trainer and seed.

    history: history.csv. The dashed line is the trainer's own setting `eps`; a marker stands at the epoch that was kept.
    """
    if history.empty or not set(QUANTILES) <= set(history.columns):
        return []
    kept = {(cell["model"], cell["trainer"], cell["seed"]): cell.get("best_epoch") for cell in results.manifest["cells"]}
    uses = {use["label"]: use["settings"] for use in results.manifest["trainers"]}
    pictures: list[Picture] = []
    for place, trainer in enumerate(results.trainers):
        mine = history[(history["model"].astype(str) == model) & (history["trainer"].astype(str) == trainer)]
        numbers = mine[["epoch", "seed", *QUANTILES]].apply(pd.to_numeric).dropna(subset=list(QUANTILES))
        for seed, part in numbers.groupby("seed", sort=True):
            name = f"{trainer}, seed {seed:g}" if len(results.seeds) > 1 else trainer
            best = kept.get((model, trainer, int(float(str(seed)))))
            pictures.append(_picture(f"{key}-{len(pictures)}", name, model, place, part, uses.get(trainer, {}), best))
    return pictures


def _picture(
    key: str, name: str, model: str, place: int, part: pd.DataFrame, settings: dict[str, Any], best: int | None
) -> Picture:
    epochs = [float(epoch) + 1 for epoch in part["epoch"]]
    low, lower, median, upper, high = ([float(value) for value in part[column]] for column in QUANTILES)
    eps = settings.get("eps")
    start = [float(eps)] if isinstance(eps, (int, float)) and math.isfinite(eps) else []
    ends = limits([0.0, *low, *high, *start])
    frame = Frame(left=50, top=9, right=WIDTH - 9, bottom=HEIGHT - 36, x=limits(epochs), y=(0.0, 1.1 * ends[1]))
    stroke = trainer_stroke(place)
    drawn = [axes(frame, "Epoch", RADIUS.get(str(settings.get("norm", "linf")), "Radius"), ticks(*frame.y))]
    for lowest, highest, opacity in ((low, high, 0.15), (lower, upper, 0.25)):
        outline = list(zip(epochs, highest, strict=True)) + list(zip(epochs, lowest, strict=True))[::-1]
        drawn.append(area([frame.at(*point) for point in outline], stroke.colour, opacity))
    drawn += [line([frame.at(frame.x[0], value), frame.at(frame.x[1], value)], START) for value in start]
    drawn.append(line([frame.at(*point) for point in zip(epochs, median, strict=True)], Stroke(stroke.colour, 1.7)))
    chosen = [k for k, epoch in enumerate(epochs) if len(epochs) == 1 or (best is not None and epoch == best + 1)]
    drawn.append(marks([frame.at(epochs[k], median[k]) for k in chosen], stroke, 1.3))
    drawn += [words(frame.left + 6, frame.top + 10, f"dashed: eps = {format_eps(value)}", anchor="start") for value in start]
    body = "".join(drawn)
    first, last = (f"{number(median[k])} ({number(low[k])} to {number(high[k])})" for k in (0, -1))
    alt = (
        f"Radii of the training images of {model} by {name} over {epochs[-1]:g} epochs: median {first} in the first,"
        f" {last} in the last; in brackets what the middle nine tenths of the images have"
    )
    title = f"Radii of images: {name}"
    alone = as_file(body, WIDTH, HEIGHT, one_line(title, NAME_LENGTH + 12), [])
    return Picture(key, title, alt, on_page(body, WIDTH, HEIGHT), alone, keyed=False)
