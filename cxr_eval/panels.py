"""The report's gallery: the first explained images of every cell, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_eval.cells import CellWork
from cxr_eval.explanations import Explanations
from cxr_eval.store import Gallery
from cxr_eval.types import PROBABILITY

STEPS = 127
"""Steps of a stored map from nothing to its largest size: four times as fine as it is shown, and half the bytes."""


def collect(works: Sequence[CellWork], count: int) -> Gallery:
    """Panels of the first `count` explained images, of one seed a model: the first of those that most of its trainers have.

    Which images these are follows from the data and no network: `ImageSet.draw` takes those with a known region first, the
    classes in turn, and in each class by lot. Where findings are explained, the first `count` pairs of an image and a class.
    """
    if not works or works[0].plan.protocol.explain is None or count == 0:
        return Gallery([], {})
    explanations = Explanations(works[0])
    images, index = explanations.images
    places, target = explanations.pairs(works[0].plan.conditions[0])
    rows = index[places]
    finding = explanations.settings.target == "finding"
    arrays: dict[str, npt.NDArray[Any]] = {}
    entries: list[dict[str, Any]] = []
    for place, row in enumerate(rows[:count]):
        about = images.table.iloc[row]
        arrays[f"clean{place}"] = _as_picture(np.rint(images.take([row])[0].numpy() * 255).astype(np.uint8))
        regions = {}
        for kind in explanations.kinds:
            mask = explanations.region(kind, rows[place : place + 1], target[place : place + 1])[0]
            if mask.any():
                regions[kind] = f"{kind}{place}"
                arrays[f"{kind}{place}"] = mask
        label = None if images.y.ndim == 2 else images.classes[int(images.y[row])]
        if finding:
            label = images.classes[int(target[place])]
        entries.append(
            {
                "image_id": str(about["image_id"]),
                "split": images.name,
                "label": label,
                "clean": f"clean{place}",
                "regions": regions,
                "panels": [],
            }
        )
    for number, work in enumerate(shown(works)):
        _add_panels(work, number, entries, arrays)
    return Gallery(entries, arrays)


def shown(works: Sequence[CellWork]) -> list[CellWork]:
    """The cells whose panels are kept, in order: of each model the seed that most trainers have, the first of equals."""
    chosen: dict[str, int] = {}
    for model in dict.fromkeys(work.cell.model.label for work in works):
        seeds = Counter(work.cell.seed for work in works if work.cell.model.label == model)
        chosen[model] = max(seeds, key=seeds.__getitem__)
    return [work for work in works if work.cell.seed == chosen[work.cell.model.label]]


def _add_panels(work: CellWork, number: int, entries: list[dict[str, Any]], arrays: dict[str, npt.NDArray[Any]]) -> None:
    explanations = Explanations(work)
    for state, condition in enumerate(work.plan.conditions):
        table, perturbation = explanations.condition(condition)
        maps = {explainer.label: explanations.maps(explainer, condition) for explainer in explanations.explainers}
        places, _ = explanations.pairs(condition)
        for place, entry in enumerate(entries):
            row = table.iloc[places[place]]
            predicted = row.get("predicted")
            key = f"{number}.{state}.{place}"
            if perturbation is not None:
                arrays[f"perturbation{key}"] = _as_picture(perturbation[places[place]].astype(np.float16))
            for order, (_, found) in enumerate(maps.items()):
                largest = float(np.abs(found[place]).max())
                steps = np.rint(found[place] / (largest or 1.0) * STEPS)
                arrays[f"map{key}.{order}"] = (steps / STEPS).astype(np.float16)
            entry["panels"].append(
                {
                    "model": work.cell.model.label,
                    "trainer": work.cell.trainer.label,
                    "seed": work.cell.seed,
                    "condition": condition.label,
                    "predicted": predicted,
                    "probability": None if predicted is None else float(row[PROBABILITY + predicted]),
                    "probability_label": None if entry["label"] is None else float(row[PROBABILITY + entry["label"]]),
                    "perturbation": None if perturbation is None else f"perturbation{key}",
                    "largest": None if perturbation is None else float(np.abs(perturbation[places[place]]).max()),
                    "maps": {label: f"map{key}.{order}" for order, label in enumerate(maps)},
                }
            )


def _as_picture(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(C, H, W) as (H, W) if grey, also when grey is repeated in three channels, else (H, W, C)."""
    grey = len(image) == 1 or all(np.array_equal(image[0], channel) for channel in image[1:])
    return image[0] if grey else np.moveaxis(image, 0, -1)
