"""Explanations of one cell: the images explained, their maps and what metrics say of them, each computed once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr_eval.attacks.suite import adversarial
from cxr_eval.cells import CellWork, identity
from cxr_eval.errors import PluginError, ProtocolError
from cxr_eval.images import ImageSet
from cxr_eval.plan import PlannedCondition
from cxr_eval.planned import PlannedPlugin
from cxr_eval.plugin import Explained, Explainer, ExplanationMetric
from cxr_eval.predictions import prediction_table
from cxr_eval.protocol import Explain
from cxr_eval.seeds import stream
from cxr_eval.store import write_arrays, write_parquet
from cxr_eval.types import PROBABILITY

FloatArray = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
VALUES = ("image_id", "patient", "target", "metric", "value")

FINDING = "finding"
"""Region kind of the explained class's own region, where findings are explained."""


@dataclass
class Explanations:
    """What is explained of one cell; every piece is an evaluation of its own, so that one metric more computes one metric.

    What is explained is a pair of an image and a class: one an image, or, where findings are explained, one for each class that
    the image has a region of. Images are attacked once, whatever the number of their pairs.
    """

    work: CellWork
    _exact: tuple[tuple[str, str], FloatArray] = (("", ""), np.empty(0, dtype=np.float32))
    """The maps made last, with their explainer and condition."""

    @property
    def settings(self) -> Explain:
        """The protocol's `explain`."""
        explain = self.work.plan.protocol.explain
        assert explain is not None
        return explain

    @cached_property
    def images(self) -> tuple[ImageSet, Indices]:
        """The split whose images are explained, and which of them, in order."""
        images = self.work.datasets.splits[self.settings.split]
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
            target = table[[PROBABILITY + name for name in images.classes]].to_numpy().argmax(axis=1)
        else:
            target = images.targets(index).numpy()
        return np.arange(len(index)), np.asarray(target, dtype=np.int64)

    def region(self, kind: str, rows: Indices, target: Indices) -> npt.NDArray[np.bool_]:
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

    def condition(self, condition: PlannedCondition) -> tuple[pd.DataFrame, FloatArray | None]:
        """Predictions on the images in one condition, and their perturbation (N, C, H, W); None where clean."""
        images, index = self.images
        with self.work.evaluation(
            {"kind": "condition", **self._state(condition)}, f"images to explain, {condition.label}"
        ) as work:
            if not work.done:
                x = images.take(index)
                attacked = self._attacked(x, condition)
                logits = self.work.classifier.logits(attacked, self.work.plan.protocol.evaluate.batch_size)
                folder = work.begin()
                write_parquet(folder / "images.parquet", prediction_table(images, index, logits))
                if condition.attack is not None:
                    write_arrays(folder / "perturbation.npz", {"perturbation": (attacked - x).numpy()})
        table = pd.read_parquet(work.folder / "images.parquet")
        if condition.attack is None:
            return table, None
        with np.load(work.folder / "perturbation.npz", allow_pickle=False) as arrays:
            return table, arrays["perturbation"]

    def maps(self, explainer: PlannedPlugin, condition: PlannedCondition) -> FloatArray:
        """Attribution maps (P, H, W) float32, one a pair, each up to float16 rounding of its own scale."""
        content = {"kind": "maps", "explainer": identity(explainer), **self._state(condition), "target": self.settings.target}
        with self.work.evaluation(content, f"{explainer.label}, {condition.label}") as work:
            if not work.done:
                found = self._explained(explainer, condition)
                scale = np.abs(found).max(axis=(1, 2), initial=0.0)
                scale[scale == 0] = 1.0
                shape = (found / scale[:, None, None]).astype(np.float16)
                write_arrays(work.begin() / "maps.npz", {"maps": shape, "scale": scale.astype(np.float32)})
        with np.load(work.folder / "maps.npz", allow_pickle=False) as arrays:
            maps: FloatArray = arrays["maps"].astype(np.float32) * arrays["scale"][:, None, None]
        return maps

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
        return table

    def values(self, explainer: PlannedPlugin, condition: PlannedCondition) -> pd.DataFrame:
        """What all metrics say: one line a pair and metric, with target (the class explained), explainer, metric, value."""
        tables = [self._measured(explainer, condition, metric) for metric in self.work.plan.explanation_metrics]
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(VALUES))
        return table.assign(explainer=explainer.label)

    def _explained(self, explainer: PlannedPlugin, condition: PlannedCondition) -> FloatArray:
        """Maps as the explainer gave them: metrics compare them with new ones, so they must not be rounded."""
        if self._exact[0] != (explainer.label, condition.label):
            method: Explainer = explainer.cls(explainer.params)
            model, device = self.work.classifier.model, self.work.classifier.device
            parts: list[FloatArray] = []
            pairs = len(self.pairs(condition)[0])
            for x, target, _ in self._batches(condition):
                self.work.progress(f"{explainer.label}, {condition.label}", sum(map(len, parts)), pairs)
                explained = method.explain(model, x.to(device), torch.from_numpy(target).to(device))
                parts.append(explained.float().cpu().numpy())
            self._exact = ((explainer.label, condition.label), np.concatenate(parts))
        return self._exact[1]

    def _measured(self, explainer: PlannedPlugin, condition: PlannedCondition, metric: PlannedPlugin) -> pd.DataFrame:
        content = {
            "kind": "explanation metric",
            "metric": identity(metric),
            "explainer": identity(explainer),
            **self._state(condition),
            "target": self.settings.target,
        }
        with self.work.evaluation(content, f"{explainer.label}, {condition.label}, {metric.label}", say=False) as work:
            if not work.done:
                write_parquet(work.begin() / "values.parquet", self._measure(explainer, condition, metric))
        table = pd.read_parquet(work.folder / "values.parquet")
        return table.assign(metric=[labelled(name, metric) for name in table["metric"]])

    def _measure(self, explainer: PlannedPlugin, condition: PlannedCondition, planned: PlannedPlugin) -> pd.DataFrame:
        images, index = self.images
        method: Explainer = explainer.cls(explainer.params)
        metric: ExplanationMetric = planned.cls(planned.params)
        maps = self._explained(explainer, condition)
        found: dict[str, npt.NDArray[np.float64]] = {}
        done = 0
        for x, target, rows in self._batches(condition):
            self.work.progress(f"{planned.label} of {explainer.label}, {condition.label}", done, len(maps))
            explained = Explained(
                model=self.work.classifier.model,
                x=x.numpy(),
                target=target,
                maps=maps[done : done + len(x)],
                explain=method.explain,
                region=lambda kind, rows=rows, target=target: self.region(kind, rows, target),  # type: ignore[misc]
                kinds=self.kinds,
                classes=len(images.classes),
                task=self.work.datasets.task,
                seed=stream(self.work.cell.seed, "metrics"),
            )
            for name, values in sized(metric.measure(explained), len(x), planned).items():
                found.setdefault(name, np.full(len(maps), np.nan))[done : done + len(x)] = values
            done += len(x)
        places, targets = self.pairs(condition)
        about = images.table.iloc[index[places]]
        patients = about["patient"].to_numpy()
        settled = metric.settle(found, targets=targets, patients=patients.astype(str).tolist(), classes=images.classes)
        settled = sized(settled, len(maps), planned)
        columns = {"image_id": about["image_id"].to_numpy(), "patient": patients, "target": np.array(images.classes)[targets]}
        tables = [pd.DataFrame({name: pd.Series(dtype=float if name == "value" else str) for name in VALUES})]
        tables += [pd.DataFrame(columns | {"metric": name, "value": values}) for name, values in settled.items()]
        return pd.concat(tables[1:] or tables, ignore_index=True)

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

    def _attacked(self, x: torch.Tensor, condition: PlannedCondition) -> torch.Tensor:
        if condition.attack is None:
            return x
        images, index = self.images
        return adversarial(
            self.work.classifier,
            x,
            images.targets(index),
            condition.attack.cls(condition.attack.params),
            eps=condition.eps,
            seed=stream(self.work.cell.seed, "attack", condition.attack.name),
            batch_size=self.work.plan.protocol.evaluate.batch_size,
        )

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


def _marked(images: ImageSet) -> npt.NDArray[np.bool_]:
    """Which images have a region of which class, (N, K)."""
    marked = np.zeros((len(images), len(images.classes)), dtype=bool)
    for k, name in enumerate(images.classes):
        if name in images.regions:
            rows = np.flatnonzero(images.regions[name].row >= 0)
            marked[rows, k] = images.region(name, rows).any(axis=(1, 2))
    return marked


def sized(found: dict[str, npt.NDArray[np.float64]], count: int, metric: PlannedPlugin) -> dict[str, npt.NDArray[np.float64]]:
    """What a metric measured of `count` images, as it is.

    Raises:
        PluginError: it is not one value an image.
    """
    for name, values in found.items():
        if np.shape(values) != (count,):
            told = f"measured '{name}' of shape {np.shape(values)} for {count} images; expected ({count},)"
            raise PluginError(f"{metric.name}: {told}")
    return found


def labelled(name: str, metric: PlannedPlugin) -> str:
    """A metric's name with the protocol's label for it, for a protocol may use one metric twice, with other settings.

    Raises:
        PluginError: the metric gave another name than its own, alone or with a region in brackets.
    """
    base, bracket, region = name.partition("[")
    if base != metric.name:
        raise PluginError(f"{metric.name}: measured '{name}'; expected '{metric.name}' or '{metric.name}[REGION]'")
    return metric.label + bracket + region
