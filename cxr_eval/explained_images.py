"""The images of one cell that are explained: which they are, in which condition, and which of their classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr_eval.attacks.gradient import right
from cxr_eval.attacks.suite import adversarial, aimed, craft
from cxr_eval.cells import CellWork, identity
from cxr_eval.errors import ProtocolError
from cxr_eval.images import ImageSet
from cxr_eval.plan import PlannedCondition
from cxr_eval.planned import PlannedPlugin
from cxr_eval.plugin import Attack, Corruption
from cxr_eval.predictions import prediction_table
from cxr_eval.protocol import Explain
from cxr_eval.seeds import stream
from cxr_eval.store import write_arrays, write_parquet
from cxr_eval.tables import Part
from cxr_eval.types import PROBABILITY

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

CLEAN = PlannedCondition("clean")

FINDING = "finding"
"""Region kind of the explained class's own region, where findings are explained."""


@dataclass
class ExplainedImages:
    """What is explained of one cell, and the images' predictions in each condition, each computed once and kept.

    What is explained is a pair of an image and a class: one an image, or, where findings are explained, one for each class that
    the image has a region of. Images are attacked once, whatever the number of their pairs.
    """

    work: CellWork
    split: str = ""
    """The split whose images are explained; that of the protocol's `explain` if not given."""

    @property
    def settings(self) -> Explain:
        """The protocol's `explain`."""
        explain = self.work.plan.protocol.explain
        assert explain is not None
        return explain

    @cached_property
    def images(self) -> tuple[ImageSet, Indices]:
        """The split whose images are explained, and which of them, in order."""
        images = self.work.datasets.splits[self.split or self.settings.split]
        if self.settings.target != "finding":
            return images, images.draw(self.settings.images, first=("lesion", "box"))
        index = images.draw(self.settings.images, first=images.classes)
        return images, index[_marked(images)[index].any(axis=1)]

    def pairs(self, condition: PlannedCondition) -> tuple[Indices, Indices]:
        """What is explained in one condition: places in the order of `images`, and the class that is explained, both (P,)."""
        images, index = self.images
        if self.settings.target == "finding":
            return self._findings
        if self.settings.target == "predicted":
            table, _ = self.condition(condition)
            target = _probabilities(table, images).argmax(axis=1)
        else:
            target = images.targets(index).numpy()
        return np.arange(len(index)), np.asarray(target, dtype=np.int64)

    def kept(self, condition: PlannedCondition, clean: PlannedCondition) -> BoolArray:
        """Pairs (P,) whose prediction is in one condition what it is on clean images.

        Of classes that exclude each other: the same class is the likeliest. Of findings: the class explained on the clean image
        is on the same side of 0.5.
        """
        images, _ = self.images
        places, target = self.pairs(clean)
        before, after = (_probabilities(self.condition(each)[0], images)[places] for each in (clean, condition))
        if self.work.datasets.task == "multiclass":
            return np.asarray(before.argmax(axis=1) == after.argmax(axis=1), dtype=bool)
        rows = np.arange(len(places))
        return np.asarray((before[rows, target] > 0.5) == (after[rows, target] > 0.5), dtype=bool)

    def region(self, kind: str, rows: Indices, target: Indices) -> BoolArray:
        """Masks (M, H, W) of one kind for pairs of rows of the split and classes, both (M,)."""
        images, _ = self.images
        if self.settings.target != "finding" or kind != FINDING:
            return images.region(kind, rows)
        masks = np.zeros((len(rows), *images.shape[1:]), dtype=bool)
        for k in np.unique(target):
            masks[target == k] = images.region(images.classes[k], rows[target == k])
        return masks

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of region that metrics and the gallery see."""
        return region_kinds(self.images[0], self.settings)

    def region_shares(self) -> pd.DataFrame:
        """Share of the image that each region kind covers: image_id, patient and a column a kind, NaN where there is none.

        One line an image; where findings are explained, one a pair.
        """
        images, index = self.images
        places, target = self._findings if self.settings.target == "finding" else (np.arange(len(index)), np.zeros_like(index))
        rows = index[places]
        table = images.table.iloc[rows][["image_id", "patient"]].reset_index(drop=True)
        for kind in self.kinds:
            share = self.region(kind, rows, target).mean(axis=(1, 2))
            table[kind] = np.where(share > 0, share, np.nan)
        content = {"kind": "region shares", **self._state(CLEAN), "target": self.settings.target, "kinds": list(self.kinds)}
        with self.work.evaluation(content, "region shares", say=False) as work:
            if not work.done:
                write_parquet(work.begin() / "images.parquet", table)
        return self.work.tables.add("region shares", [Part(work.folder.name, "images.parquet")], split=images.name)

    def condition(self, condition: PlannedCondition) -> tuple[pd.DataFrame, FloatArray | None]:
        """Predictions on the images in one condition, and how they were changed (N, C, H, W); None where clean."""
        images, index = self.images
        clean = condition.attack is None and condition.corruption is None
        with self.work.evaluation(
            {"kind": "condition", **self._state(condition)}, f"images to explain, {condition.label}"
        ) as work:
            if not work.done:
                x = images.take(index)
                changed = x if clean else self._changed(x, condition)
                logits = self.work.classifier.logits(changed, self.work.plan.protocol.evaluate.batch_size)
                folder = work.begin()
                write_parquet(folder / "images.parquet", prediction_table(images, index, logits))
                if not clean:
                    write_arrays(folder / "perturbation.npz", {"perturbation": (changed - x).numpy()})
        table = pd.read_parquet(work.folder / "images.parquet")
        if clean:
            return table, None
        with np.load(work.folder / "perturbation.npz", allow_pickle=False) as arrays:
            return table, arrays["perturbation"]

    def _batches(self, condition: PlannedCondition) -> Iterator[tuple[torch.Tensor, Indices, Indices]]:
        """Images of a condition, the class that is explained, and their rows in the split, pair by pair."""
        images, index = self.images
        _, perturbation = self.condition(condition)
        x = images.take(index)
        if perturbation is not None:
            x = (x + torch.from_numpy(perturbation)).clamp(0, 1)
        places, target = self.pairs(condition)
        size = self.work.plan.protocol.evaluate.batch_size
        for start in range(0, len(places), size):
            part = places[start : start + size]
            yield x[part], target[start : start + size], index[part]

    @cached_property
    def _findings(self) -> tuple[Indices, Indices]:
        images, index = self.images
        places, target = np.nonzero(_marked(images)[index])
        return places, target

    def _changed(self, x: torch.Tensor, condition: PlannedCondition) -> torch.Tensor:
        if condition.corruption is not None:
            corruption: Corruption = condition.corruption.cls(condition.corruption.params)
            return corruption.corrupt(x, severity=condition.severity, seed=0)  # the same noise for every network
        assert condition.attack is not None
        return self._attacked(x, condition.attack, condition.eps)

    def _attacked(self, x: torch.Tensor, planned: PlannedPlugin, eps: float) -> torch.Tensor:
        """Images as the attack leaves them; those that its goal is not about stay as they are."""
        images, index = self.images
        classifier, size = self.work.classifier, self.work.plan.protocol.evaluate.batch_size
        attack: Attack = planned.cls(planned.params)
        seed = stream(self.work.cell.seed, "attack", planned.name)
        meant, y = aimed(images, index, attack.params.goal)
        places = np.flatnonzero(np.isin(index, meant))  # a row is drawn once, so the order is that of `meant`
        attacked, left = x.clone(), np.ones(len(places), dtype=bool)
        for _, stage in attack.stages(classifier):
            if stage.crafted:
                craft(stage, classifier, self.work.datasets.splits["val"], eps=eps, seed=seed)
            here = places[left]
            attacked[here] = adversarial(classifier, x[here], y[left], stage, eps=eps, seed=seed, batch_size=size)
            left[left] = right(classifier.logits(attacked[here], size), y[left], classifier.task).numpy()
            if not left.any():
                break
        return attacked

    def _state(self, condition: PlannedCondition) -> dict[str, Any]:
        """What makes the images that are explained, for keys."""
        images, index = self.images
        state: dict[str, Any] = {
            "images": self.work.datasets.hashes[images.name],
            "index": index.tolist(),
            "eps": condition.eps,
        }
        if condition.attack is not None:
            size = self.work.plan.protocol.evaluate.batch_size
            state |= {"attack": identity(condition.attack, "eps", "images"), "batch_size": size}
        if condition.corruption is not None:
            state |= {"corruption": identity(condition.corruption, "severity"), "severity": condition.severity}
        return state


def region_kinds(images: ImageSet, settings: Explain) -> tuple[str, ...]:
    """Kinds of region that metrics see; where findings are explained, `finding` instead of those that are classes.

    Raises:
        ProtocolError: findings are to be explained, and no image has a region of a class.
    """
    if settings.target != "finding":
        return tuple(images.regions)
    if not _marked(images).any():
        have, classes = ", ".join(images.regions) or "none", ", ".join(images.classes)
        raise ProtocolError(
            f"explain.target: 'finding' needs boxes or masks that are named like a class ({classes}); the images of"
            f" {images.name} have: {have}; use label or predicted"
        )
    return (FINDING, *(kind for kind in images.regions if kind not in (FINDING, *images.classes)))


def _probabilities(table: pd.DataFrame, images: ImageSet) -> npt.NDArray[np.float64]:
    """(N, K)."""
    return table[[PROBABILITY + name for name in images.classes]].to_numpy(dtype=np.float64)


def _marked(images: ImageSet) -> BoolArray:
    """Which images have a region of which class, (N, K)."""
    marked = np.zeros((len(images), len(images.classes)), dtype=bool)
    for k, name in enumerate(images.classes):
        if name in images.regions:
            rows = np.flatnonzero(images.regions[name].row >= 0)
            marked[rows, k] = images.region(name, rows).any(axis=(1, 2))
    return marked
