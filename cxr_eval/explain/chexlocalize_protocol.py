"""The CheXlocalize protocol: overlap and hits of each finding, with thresholds that are frozen on the validation images."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator, field_validator

import cxr_eval.api as cxr
from cxr_eval.explain.localisation import FINDING, known, strongest_inside
from cxr_eval.explain.quantus_adapter import BoolArray, FloatArray, Sign, device_of, in_rows, informative, settled, spread

log = logging.getLogger(__name__)

GREY = 255
"""Levels above 0 into which Otsu's method sorts a map's pixels."""


class CheXlocalize(cxr.ExplanationMetric):
    """Mean IoU and hit rate of each finding, over all images that have it and over those in which the network finds it.

    A map is scaled to [0, 1] by its own least and largest value; pixels above the threshold of the class explained are what it
    highlights. A hit is a largest pixel that lies in the region; of several, the share that does (the authors: the first).
    A map that is constant or not finite highlights nothing, IoU 0, and hits nothing: left out, it would raise the share of the
    others.

    Values, of the images in which the class is explained: `chexlocalize[CLASS@miou]` and `chexlocalize[CLASS@hit rate]`, the
    same of the images whose probability reaches the class's cut-off, `chexlocalize[CLASS@miou, found]` and
    `chexlocalize[CLASS@hit rate, found]`, and `chexlocalize[threshold of CLASS]` and `chexlocalize[cut-off of CLASS]`.

    A threshold is the smallest of those that reach the highest mean IoU on the validation images, class by class; with
    `threshold: otsu`, each map has its own, by Otsu's method. A cut-off is the highest that `sensitivity` of the validation
    images with the finding reach, or the number that is set: the authors tune theirs by the IoU over all images, with those of
    healthy patients, whose maps nobody asks for here. A class without a region in the validation images has no threshold and
    no cut-off, and what needs them is NaN. Costs 1 forward pass an image.
    Source: Saporta et al., Nature Machine Intelligence 2022, doi 10.1038/s42256-022-00536-x; the authors' code.
    """

    source = (
        "Saporta et al., Benchmarking saliency methods for chest X-ray interpretation, Nature Machine Intelligence 2022,"
        " doi 10.1038/s42256-022-00536-x; grid and strict comparison of the authors' code"
    )
    family = "localisation"
    better = "higher"
    unit = "fraction"
    chance = "unknown"
    tuned_on = "val"
    chosen = ("threshold of ", "cut-off of ")
    name = "chexlocalize"

    class Params(cxr.Params):
        region: str = cxr.Field(
            FINDING, description="kind of region that a map must lie on; finding: that of the class explained"
        )
        threshold: Literal["tuned", "otsu"] = cxr.Field(
            "tuned", description="where a map is cut: tuned on the validation images for each class, or by Otsu's method"
        )
        grid: Annotated[
            tuple[float, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
        ] = cxr.Field(
            (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
            min_length=1,
            description="thresholds tried on the validation images, from 0 to below 1 (the authors' own)",
        )
        cutoff: float | None = cxr.Field(
            None, ge=0, le=1, description="probability from which a finding counts as found; from `sensitivity` if not given"
        )
        sensitivity: float = cxr.Field(
            0.8, gt=0, le=1, description="share of the validation images with the finding that the cut-off lets through"
        )
        sign: Sign = cxr.Field(
            "signed", description="signed maps: signed (as made), positive (below 0 counts as 0), absolute (size)"
        )

        @field_validator("grid")
        @classmethod
        def _rises(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
            if wrong := [t for t in grid if not 0 <= t < 1]:
                raise ValueError(f"no pixel of a scaled map is above {wrong[0]:g}; expected numbers from 0 to below 1")
            return tuple(sorted(set(grid)))

    params: Params

    def check(self, kinds: tuple[str, ...]) -> None:
        """Refuse images without the regions that maps must lie on.

        Raises:
            PluginError: `region` names another kind than these.
        """
        known(self.name, self.params.region, kinds)

    def tune(self, batches: Iterable[cxr.Explained]) -> dict[str, float]:
        """Threshold and cut-off of each class by its place, `threshold K` and `cutoff K`; none of classes without a region."""
        overlaps: defaultdict[int, list[FloatArray]] = defaultdict(list)
        reached: defaultdict[int, list[float]] = defaultdict(list)
        for explained in batches:
            if self.params.region not in explained.kinds:
                continue  # no validation image has such a region: nothing is tuned, and what needs it is NaN
            maps, regions = settled(explained.maps, self.params.sign), explained.region(self.params.region)
            cuts = np.tile(np.array(self.params.grid), (len(maps), 1))
            probability = probabilities(explained)
            for image, found in enumerate(overlaps_above(maps, regions, cuts)):
                if regions[image].any():
                    overlaps[int(explained.target[image])].append(found)
                    reached[int(explained.target[image])].append(float(probability[image]))
        tuned: dict[str, float] = {}
        for k, found in sorted(overlaps.items()):
            tuned[f"threshold {k}"] = self.params.grid[int(np.mean(found, axis=0).argmax())]  # the first of equally good ones
            highest = sorted(reached[k], reverse=True)
            tuned[f"cutoff {k}"] = highest[math.ceil(self.params.sensitivity * len(highest)) - 1]
        return tuned

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        """IoU, hit and probability of each image, (N,), NaN where there is no region; named `NAME[...]` for `settle`.

        Raises:
            PluginError: the setting `region` names a kind that these images do not have.
        """
        self.check(explained.kinds)
        maps, regions = settled(explained.maps, self.params.sign), explained.region(self.params.region)
        there, useful = regions.any(axis=(1, 2)), informative(maps)
        hits = spread(strongest_inside(maps[useful], regions[useful], np.ones(int(useful.sum()), dtype=np.int64)), useful)
        hits[~useful] = 0
        cuts = np.array([self._threshold(k, one) for k, one in zip(explained.target, maps, strict=True)])
        return {
            f"{self.name}[iou]": overlaps_above(maps, regions, cuts.reshape(-1, 1))[:, 0],
            f"{self.name}[hit]": np.where(there, hits, np.nan),
            f"{self.name}[probability]": np.where(there, probabilities(explained), np.nan),
            f"{self.name}[threshold]": np.where(there & np.isfinite(cuts), cuts, np.nan),
        }

    def settle(
        self,
        values: dict[str, FloatArray],
        *,
        targets: npt.NDArray[np.int64],
        patients: Sequence[str],
        classes: tuple[str, ...],
    ) -> dict[str, FloatArray]:
        """IoU, hit, both where the finding is found, threshold and cut-off by class, (N,); NaN where another is explained."""
        iou, hit, probability, cuts = (values[f"{self.name}[{what}]"] for what in ("iou", "hit", "probability", "threshold"))
        settled_values: dict[str, FloatArray] = {}
        for k in np.unique(targets):
            rows = (targets == k) & np.isfinite(hit)
            if not rows.any():
                continue
            cutoff = self.params.cutoff if self.params.cutoff is not None else self.tuned.get(f"cutoff {k}", math.nan)
            untuned = self.params.threshold == "tuned" and f"threshold {k}" not in self.tuned
            if untuned or math.isnan(cutoff):
                log.warning("%s: no validation image has a region of %s; nothing that needs one is told", self.name, classes[k])
            found = rows & (probability >= cutoff)
            for said, column, which in (
                (f"{classes[k]}@miou", iou, rows),
                (f"{classes[k]}@hit rate", hit, rows),
                (f"{classes[k]}@miou, found", iou, found),
                (f"{classes[k]}@hit rate, found", hit, found),
                (f"threshold of {classes[k]}", cuts, rows),
                (f"cut-off of {classes[k]}", np.full(len(targets), cutoff), rows),
            ):
                settled_values[f"{self.name}[{said}]"] = np.where(which, column, np.nan)
        return settled_values

    def _threshold(self, target: int, one: FloatArray) -> float:
        """Where a map (H, W), scaled to [0, 1], is cut; NaN where nothing was tuned, infinite where nothing is highlighted."""
        return otsu(one) if self.params.threshold == "otsu" else self.tuned.get(f"threshold {target}", math.nan)


def probabilities(explained: cxr.Explained) -> FloatArray:
    """Probability of the class explained, (N,): softmax, or sigmoid for findings that do not exclude each other."""
    device = device_of(explained.model)
    with cxr.frozen(explained.model), torch.no_grad():
        logits = explained.model(torch.from_numpy(np.ascontiguousarray(explained.x)).to(device))
    every = logits.softmax(dim=1) if explained.task == "multiclass" else logits.sigmoid()
    return np.asarray(every.cpu().numpy()[np.arange(len(explained.x)), explained.target], dtype=np.float64)


def scaled(maps: FloatArray) -> FloatArray:
    """Informative maps (N, H, W) from 0 to 1, each by its own least and largest value."""
    low, high = maps.min(axis=(1, 2), keepdims=True, initial=np.inf), maps.max(axis=(1, 2), keepdims=True, initial=-np.inf)
    return np.asarray((maps - low) / (high - low), dtype=np.float64)


def overlaps_above(maps: FloatArray, regions: BoolArray, cuts: FloatArray) -> FloatArray:
    """Intersection over union, (N, K), of regions and of what maps (N, H, W), scaled to [0, 1], have above cuts (N, K).

    0 for a map that is constant or not finite; NaN where a region (N, H, W) is empty, and where a cut is NaN.
    """
    useful = informative(maps)
    overlaps = np.zeros(cuts.shape)
    bright, inside = in_rows(scaled(maps[useful])), in_rows(regions)[useful]
    for k in range(cuts.shape[1]):
        above = bright > cuts[useful, k, None]
        union = (above | inside).sum(axis=1)
        overlaps[useful, k] = (above & inside).sum(axis=1) / np.maximum(union, 1)
    overlaps[~regions.any(axis=(1, 2))] = np.nan
    overlaps[np.isnan(cuts)] = np.nan
    return overlaps


def otsu(one: FloatArray) -> float:
    """Threshold of a map (H, W), scaled to [0, 1], that parts its grey levels best; infinite if it is constant or not finite.

    Source: Otsu, IEEE Transactions on Systems, Man, and Cybernetics 1979, doi 10.1109/TSMC.1979.4310076, eq. 18.
    """
    if not informative(one[None])[0]:
        return math.inf
    levels = (GREY * scaled(one[None])[0]).astype(np.int64)
    share = np.bincount(levels.ravel(), minlength=GREY + 1) / levels.size
    below, mass = np.cumsum(share), np.cumsum(share * np.arange(GREY + 1))
    between = (mass[-1] * below - mass)[:-1] ** 2 / (below * (1 - below))[:-1].clip(min=1e-12)
    # a level is all values up to the next one: what is above a level begins there
    return math.nextafter((int(between.argmax()) + 1) / GREY, 0)
