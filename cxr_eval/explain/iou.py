"""Localisation accuracy: how many findings a map, cut at a threshold, lies on well enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, field_validator

import cxr_eval.api as cxr
from cxr_eval.explain.localisation import FINDING, known
from cxr_eval.explain.quantus_adapter import BoolArray, FloatArray, Sign, in_rows, informative, settled

LEVELS = 255
"""Largest value of a scaled map."""


class LocalisationAccuracy(cxr.ExplanationMetric):
    """Share of findings that a map finds: cut at its class's threshold t, it overlaps the region with IoU above T.

    A map is scaled to [0, 255] by its own least and largest value, pixels of t and more are what it highlights, and their
    intersection over union with the region must exceed T. Values: `localisation_accuracy[CLASS@T]` for each T, and
    `localisation_accuracy[threshold of CLASS]`, the thresholds t / 255 that were used.

    Each class has its own t. Its patients are dealt out into folds of about equally many images; a fold tunes t on its own
    images, by the mean accuracy over all T (of equally good ones the middle one), and judges all others with it. An image is
    so judged `folds` - 1 times, never with a t that it or its patient had a part in, and its value is the mean of that. A
    class with fewer patients than folds has no values (NaN).

    A map that is constant or not finite highlights nothing, IoU 0: left out, it would raise the share of the others. The
    region's share of the image is what a map that highlights everything (t = 0) reaches as IoU.
    Source: Khakzar et al., MICCAI 2019, arXiv:1905.03767, the localisation experiment.
    """

    source = (
        "Khakzar et al., MICCAI 2019, arXiv:1905.03767, localisation by thresholded maps; T grid of Wang et al., ChestX-ray8,"
        " CVPR 2017"
    )
    family = "localisation"
    better = "higher"
    unit = "fraction"
    chance = "unknown"
    chosen = ("threshold of ",)
    name = "localisation_accuracy"

    class Params(cxr.Params):
        region: str = cxr.Field(
            FINDING, description="kind of region that a map must lie on; finding: that of the class explained"
        )
        thresholds: Annotated[
            tuple[float, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
        ] = cxr.Field(
            (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
            min_length=1,
            description="T: a finding counts as found above this IoU, from 0 to below 1 (our choice: those of Wang et al.)",
        )
        step: int = cxr.Field(
            5, ge=1, le=LEVELS, description="values of t tried: 0, step, 2 step, ... below 255 (5: our choice)"
        )
        folds: int = cxr.Field(
            5, ge=2, description="parts of each class's patients; t is tuned on one, judged on the others (paper: 5)"
        )
        seed: int = cxr.Field(0, ge=0, description="lot that deals patients out into folds; the same for every network")
        sign: Sign = cxr.Field(
            "signed", description="signed maps: signed (as made), positive (below 0 counts as 0), absolute (size)"
        )

        @field_validator("thresholds")
        @classmethod
        def _shares(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
            if wrong := [t for t in thresholds if not 0 <= t < 1]:
                raise ValueError(f"an IoU above {wrong[0]:g} cannot be; expected numbers from 0 to below 1")
            names = [f"{t:g}" for t in thresholds]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{twice[0]} is listed twice")
            return thresholds

    params: Params

    @property
    def cuts(self) -> npt.NDArray[np.int64]:
        """Values of t that are tried, (K,)."""
        return np.arange(0, LEVELS, self.params.step)

    def check(self, kinds: tuple[str, ...]) -> None:
        """Refuse images without the regions that maps must lie on.

        Raises:
            PluginError: `region` names another kind than these.
        """
        known(self.name, self.params.region, kinds)

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        """IoU at each t, (N,) in [0, 1], NaN where there is no region; named `NAME[t]` for `settle`.

        Raises:
            PluginError: the setting `region` names a kind that these images do not have.
        """
        self.check(explained.kinds)
        overlaps = ious(settled(explained.maps, self.params.sign), explained.region(self.params.region), self.cuts)
        return {self._iou(t): overlaps[:, k] for k, t in enumerate(self.cuts)}

    def settle(
        self,
        values: dict[str, FloatArray],
        *,
        targets: npt.NDArray[np.int64],
        patients: Sequence[str],
        classes: tuple[str, ...],
    ) -> dict[str, FloatArray]:
        """Mean hit of each image at each T, and mean threshold in [0, 1], (N,); NaN where another class is explained."""
        overlaps = np.stack([values[self._iou(t)] for t in self.cuts], axis=1)
        limits, whose = np.array(self.params.thresholds), np.asarray(patients, dtype=str)
        found: dict[str, FloatArray] = {}
        for k in np.unique(targets):
            rows = np.flatnonzero((targets == k) & np.isfinite(overlaps[:, 0]))
            if not len(rows):
                continue
            fold = dealt(whose[rows], self.params.folds, self.params.seed)
            hits, used = judged(overlaps[rows], fold, limits, self.params.folds)
            columns = [(f"{classes[k]}@{limit:g}", hits[:, place]) for place, limit in enumerate(limits)]
            for said, column in [*columns, (f"threshold of {classes[k]}", used * self.params.step / LEVELS)]:
                found[f"{self.name}[{said}]"] = np.full(len(targets), np.nan)
                found[f"{self.name}[{said}]"][rows] = column
        return found

    def _iou(self, t: int) -> str:
        return f"{self.name}[{t}]"


def ious(maps: FloatArray, regions: BoolArray, cuts: npt.NDArray[np.int64]) -> FloatArray:
    """Intersection over union, (N, K), of regions and of what maps (N, H, W), scaled to [0, 255], have at cuts (K,) or above.

    cuts: rising from 0. 0 for a map that is constant or not finite; NaN where a region (N, H, W) is empty.
    """
    useful = informative(maps)
    values, inside = in_rows(maps)[useful], in_rows(regions)
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    scaled = LEVELS * (values - low) / (high - low)
    bins = len(cuts)
    # a pixel at or above a cut is one whose last cut passed is that or a higher one: two histograms serve all cuts
    passed = np.searchsorted(cuts, scaled, side="right") - 1 + bins * np.arange(len(values))[:, None]
    everywhere = np.bincount(passed.ravel(), minlength=passed.shape[0] * bins).reshape(-1, bins)
    within = np.bincount(passed[inside[useful]], minlength=passed.shape[0] * bins).reshape(-1, bins)
    highlighted, met = (np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] for counts in (everywhere, within))
    size = inside.sum(axis=1)
    overlaps = np.zeros((len(maps), bins))
    overlaps[useful] = met / (highlighted + size[useful, None] - met)
    overlaps[size == 0] = np.nan
    return overlaps


def dealt(patients: npt.NDArray[np.str_], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each image, (N,): whole patients by lot, each to the fold that has the fewest images so far."""
    names, whose, images = np.unique(patients, return_inverse=True, return_counts=True)
    fold, filled = np.zeros(len(names), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for patient in np.random.default_rng(seed).permutation(len(names)):
        fold[patient] = filled.argmin()
        filled[fold[patient]] += images[patient]
    return fold[whose]


def judged(overlaps: FloatArray, fold: npt.NDArray[np.int64], limits: FloatArray, folds: int) -> tuple[FloatArray, FloatArray]:
    """Mean hit (M, T) and mean place of the cut used (M,) of each image, over the folds that it is not in.

    overlaps: IoU (M, K) at each cut. A hit is an overlap above a limit (T,). NaN where a fold is empty: nothing tunes it.
    """
    hits = overlaps[:, :, None] > limits
    found = np.full((len(fold), len(limits)), np.nan)
    used = np.full(len(fold), np.nan)
    if len(np.unique(fold)) < folds:
        return found, used
    best = np.array([middle_of_best(hits[fold == k].sum(axis=(0, 2))) for k in range(folds)])
    for own in range(folds):
        others = np.delete(best, own)
        found[fold == own] = hits[fold == own][:, others].mean(axis=1)
        used[fold == own] = others.mean()
    return found, used


def middle_of_best(scores: npt.NDArray[np.int64]) -> int:
    """Place of the largest score (K,); of several the middle one, and the smaller of two in the middle."""
    best = np.flatnonzero(scores == scores.max())
    return int(best[(len(best) - 1) // 2])
