"""Faithfulness metrics that compare the relevance of pixels with what the output does when they go or come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from scipy.stats import rankdata

import cxr_eval.api as cxr
from cxr_eval.explain.correlation import rows_correlated
from cxr_eval.explain.quantus_adapter import (
    Fill,
    FloatArray,
    MapParams,
    Output,
    Sign,
    device_of,
    in_rows,
    informative,
    prepared,
)
from cxr_eval.explain.removal import (
    FILL,
    OUTPUT,
    STEPS,
    FaithfulnessMetric,
    IntArray,
    every_pair,
    outputs,
    steps_that_divide,
    turns,
    up_to,
)

SUMMED = "relevance that is summed: signed (the paper), positive or absolute"


def groups_of(maps: FloatArray, steps: int, seed: int) -> IntArray:
    """Pixels by relevance in so many equal groups: the group of each, from 1 (most relevant), (N, H, W)."""
    return np.asarray(1 + turns(maps, seed) // (maps.shape[1] * maps.shape[2] // steps), dtype=np.int64)


def sums_of(maps: FloatArray, groups: IntArray, steps: int) -> FloatArray:
    """Sum of relevance in each group, (N, steps)."""
    member = groups - 1 + steps * np.arange(len(maps))[:, None, None]
    sums = np.bincount(member.ravel(), weights=maps.ravel(), minlength=len(maps) * steps)
    return np.asarray(sums.reshape(len(maps), steps), dtype=np.float64)


def random_sets(pixels: int, size: int, runs: int, seed: int) -> IntArray:
    """So many random sets of pixels, none twice in a set, (runs, size); the same for every image."""
    draw = np.random.RandomState(seed)
    return np.stack([draw.choice(pixels, size, replace=False) for _ in range(runs)])


def set_correlation(explained: cxr.Explained, maps: FloatArray, taken: IntArray, *, fill: Fill, output: Output) -> FloatArray:
    """Correlation (N,) over sets of pixels (runs, size) of their relevance with the fall of the output when they go."""
    rows = informative(maps)
    absent = np.zeros((len(taken) + 1, maps.shape[1] * maps.shape[2]), dtype=bool)
    np.put_along_axis(absent[1:], taken, True, axis=1)
    masks = torch.from_numpy(absent).view(-1, *maps.shape[1:]).to(device_of(explained.model))
    pairs = every_pair(rows, 0, len(taken))
    watched = outputs(explained, *pairs, lambda i, s: masks[s], fill=fill, output=output).reshape(-1, len(taken) + 1)
    relevance = np.stack([in_rows(maps)[rows][:, pixel].sum(axis=1) for pixel in taken], axis=1)
    found = np.full(len(maps), np.nan)
    found[rows] = rows_correlated(relevance, watched[:, :1] - watched[:, 1:])
    return found


class FaithfulnessCorrelation(FaithfulnessMetric):
    """Correlation between the relevance of a random set of pixels and the fall of the output when it is taken away.

    Quantus draws the sets from numpy's global generator for the whole batch, so that an image's score depends on its
    neighbours; here the sets are the same for every image. For one image of one channel and the same draws the two are equal.
    NaN where the output never changes. Costs `runs` + 1 forward passes an image.
    Source: Bhatt et al., IJCAI 2020, arXiv:2005.00631, definition of faithfulness.
    """

    source = "Bhatt et al., IJCAI 2020, arXiv:2005.00631, faithfulness; same random sets for every image"
    better = "higher"
    name = "faithfulness_correlation"
    quantus_name = "FaithfulnessCorrelation"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=SUMMED)
        runs: int = cxr.Field(32, ge=2, le=1000, description="random sets of pixels, one forward pass each")
        share: float = cxr.Field(0.05, gt=0, lt=1, description="share of the pixels in a set (Quantus: 224 pixels at any size)")
        fill: Fill = cxr.Field("mean", description=FILL)
        output: Output = cxr.Field("logit", description=OUTPUT + "; a saturated probability hardly moves")

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        pixels = maps.shape[1] * maps.shape[2]
        taken = random_sets(pixels, max(1, round(self.params.share * pixels)), self.params.runs, explained.seed)
        return set_correlation(explained, maps, taken, fill=self.params.fill, output=self.params.output)

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {"nr_runs": self.params.runs}


class SensitivityN(FaithfulnessMetric):
    """Correlation of relevance and fall of the output over random sets of n pixels, mean over several n; higher is better.

    n grows in equal ratios from 1 pixel to the share `most` of them. For one n this is `faithfulness_correlation`. An n whose
    sets never change the output, or all have the same relevance, does not count; NaN where none counts. Costs `sizes` times
    (`runs` + 1) forward passes an image.
    Source: Ancona et al., ICLR 2018, arXiv:1711.06104 (there 100 sets an n, n up to 80 % of the features).
    """

    source = "Ancona et al., ICLR 2018, arXiv:1711.06104, sensitivity-n; mean over n, the same random sets for every image"
    better = "higher"
    name = "sensitivity_n"
    quantus_name = "SensitivityN"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=SUMMED)
        sizes: int = cxr.Field(6, ge=1, le=100, description="values of n")
        runs: int = cxr.Field(16, ge=2, le=1000, description="random sets an n, one forward pass each (the paper: 100)")
        most: float = cxr.Field(0.8, gt=0, lt=1, description="largest n as a share of the pixels (the paper: 0.8)")
        fill: Fill = cxr.Field("black", description=FILL + "; black is the paper's")
        output: Output = cxr.Field("logit", description=OUTPUT + "; the logit is the paper's")

    params: Params

    def set_sizes(self, pixels: int) -> list[int]:
        """The values of n, rising; fewer than asked where an image has too few pixels to tell them apart."""
        largest = max(1, int(self.params.most * pixels))
        return [int(n) for n in np.unique(np.geomspace(1, largest, self.params.sizes).round())]

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        pixels = maps.shape[1] * maps.shape[2]
        by_size = np.stack(
            [
                set_correlation(
                    explained,
                    maps,
                    random_sets(pixels, n, self.params.runs, explained.seed),
                    fill=self.params.fill,
                    output=self.params.output,
                )
                for n in self.set_sizes(pixels)
            ]
        )
        counted = np.isfinite(by_size)
        found = np.full(len(maps), np.nan)
        np.divide(np.where(counted, by_size, 0).sum(axis=0), counted.sum(axis=0), out=found, where=counted.any(axis=0))
        return found

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        steps = steps_that_divide(pixels, len(self.set_sizes(pixels)) * (self.params.runs + 1))
        # without the mean its numbers are those of steps, not of images
        return {"features_in_step": pixels // steps, "return_aggregate": True}


class FaithfulnessEstimate(FaithfulnessMetric):
    """Correlation of the relevance of pixels with the fall of the output when they alone are taken away; higher is better.

    The paper takes each feature away alone; here `steps` groups of pixels of like relevance, each alone. NaN where the output
    never changes. Costs `steps` + 1 forward passes an image.
    Source: Alvarez-Melis and Jaakkola, NeurIPS 2018, arXiv:1806.07538 (faithfulness).
    """

    source = "Alvarez-Melis and Jaakkola, NeurIPS 2018, arXiv:1806.07538, faithfulness; pixels in groups of like relevance"
    better = "higher"
    name = "faithfulness_estimate"
    quantus_name = "FaithfulnessEstimate"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=SUMMED)
        steps: int = cxr.Field(32, ge=2, le=65536, description="groups of pixels; the divisor of their number nearest to it")
        fill: Fill = cxr.Field("mean", description=FILL)
        output: Output = cxr.Field("probability", description=OUTPUT + "; the probability is the paper's")

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        steps = steps_that_divide(maps.shape[1] * maps.shape[2], self.params.steps)
        groups = groups_of(maps, steps, explained.seed)
        number = torch.from_numpy(groups).to(device_of(explained.model))
        watched = outputs(
            explained,
            *every_pair(rows, 0, steps),
            lambda i, s: number[i] == s[:, None, None],
            fill=self.params.fill,
            output=self.params.output,
        ).reshape(-1, steps + 1)
        found = np.full(len(maps), np.nan)
        found[rows] = rows_correlated(sums_of(maps, groups, steps)[rows], watched[:, :1] - watched[:, 1:])
        return found

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {"features_in_step": pixels // steps_that_divide(pixels, self.params.steps)}


class Monotonicity(FaithfulnessMetric):
    """Whether the output never falls while pixels are put into an empty image, least relevant first: 1 or 0; higher is better.

    With `count: steps` the share of steps at which it does not fall: of many steps one nearly always does. The empty image is
    `fill` everywhere and is not a step itself. Costs `steps` forward passes an image.
    Source: Arya et al., AI Explainability 360, arXiv:1909.03012, monotonicity (after Luss et al., arXiv:1905.12698).
    """

    source = "Arya et al., AI Explainability 360, arXiv:1909.03012, monotonicity; pixels in groups of like relevance"
    better = "higher"
    name = "monotonicity"
    quantus_name = "Monotonicity"

    class Params(MapParams):
        steps: int = cxr.Field(32, ge=2, le=4096, description="forward passes an image, " + STEPS)
        count: Literal["all", "steps"] = cxr.Field(
            "all", description="all: 1 if no step lowers the output, else 0 (the paper); steps: the share of steps that do not"
        )
        fill: Fill = cxr.Field("mean", description="what the empty image is: " + FILL)
        output: Output = cxr.Field("probability", description=OUTPUT)

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        steps = steps_that_divide(maps.shape[1] * maps.shape[2], self.params.steps)
        # absent are the most relevant groups: all but the last at step 1, none at the last step
        left = up_to(groups_of(maps, steps, explained.seed), device_of(explained.model))
        watched = outputs(
            explained,
            *every_pair(rows, 1, steps),
            lambda i, s: left(i, steps - s),
            fill=self.params.fill,
            output=self.params.output,
        ).reshape(-1, steps)
        kept = np.diff(watched, axis=1) >= 0
        found = np.full(len(maps), np.nan)
        found[rows] = kept.all(axis=1) if self.params.count == "all" else kept.mean(axis=1)
        return found

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {"features_in_step": pixels // steps_that_divide(pixels, self.params.steps)}


class MonotonicityCorrelation(FaithfulnessMetric):
    """Rank correlation of the relevance of pixels with how much the output varies when they are random; higher is better.

    A group's effect is the mean squared change of the output over `samples` pictures of uniform noise put in its place, the
    same for every group and image. The paper divides it by the squared output of the untouched image, which changes no rank.
    NaN where no group has an effect. Costs `steps` times `samples` + 1 forward passes an image.
    Source: Nguyen and Rodríguez Martínez, arXiv:2007.07584 (monotonicity).
    """

    source = "Nguyen and Rodríguez Martínez, arXiv:2007.07584, monotonicity; pixels in groups of like relevance"
    better = "higher"
    name = "monotonicity_correlation"
    quantus_name = "MonotonicityCorrelation"

    class Params(MapParams):
        steps: int = cxr.Field(32, ge=2, le=4096, description="groups of pixels; the divisor of their number nearest to it")
        samples: int = cxr.Field(4, ge=1, le=1000, description="noise pictures a group, one forward pass each (Quantus: 100)")
        output: Output = cxr.Field("probability", description=OUTPUT)

    params: Params

    def noise(self, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        """Noise pictures, uniform in [0, 1], (samples, C, H, W); shape: (C, H, W)."""
        return torch.from_numpy(np.random.RandomState(seed).uniform(size=(self.params.samples, *shape)).astype(np.float32))

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        steps, samples = steps_that_divide(maps.shape[1] * maps.shape[2], self.params.steps), self.params.samples
        groups = groups_of(maps, steps, explained.seed)
        number = torch.from_numpy(groups).to(device_of(explained.model))
        # step 0 is the untouched image, from then on `samples` steps belong to one group
        watched = outputs(
            explained,
            *every_pair(rows, 0, steps * samples),
            lambda i, s: number[i] == torch.div(s + samples - 1, samples, rounding_mode="floor")[:, None, None],
            fill=self.noise(explained.x.shape[1:], explained.seed),
            output=self.params.output,
        ).reshape(-1, steps * samples + 1)
        effect = ((watched[:, 1:] - watched[:, :1]) ** 2).reshape(-1, steps, samples).mean(axis=2)
        found = np.full(len(maps), np.nan)
        relevance = sums_of(maps, groups, steps)[rows]
        if rows.any():
            found[rows] = rows_correlated(rankdata(relevance, axis=1), rankdata(effect, axis=1))
        return found

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        steps = steps_that_divide(pixels, self.params.steps)
        return {"features_in_step": pixels // steps, "nr_samples": self.params.samples}
