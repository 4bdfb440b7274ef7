"""Infidelity: how far a map is from saying what the output does when a patch goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import Fill, FloatArray, MapParams, Output, Sign, device_of, filling, informative, settled
from cxr_eval.explain.removal import FILL, OUTPUT, FaithfulnessMetric, every_pair, outputs, patch_numbers


class Infidelity(FaithfulnessMetric):
    """Mean squared difference between what the map says of a patch taken away and the fall of the output; lower is better.

    The map is read as a slope: of a patch it says the sum of relevance times change, the change of a pixel being the mean over
    channels. Each patch is taken from the whole image. With `scale: best` the map is first multiplied by the one number that
    serves it best, for maps have no unit; with `none` a map twice as strong is another map. NaN where no pixel changes, such as
    a black image with `fill: black`. Costs one forward pass a patch, and one.
    Source: Yeh et al., NeurIPS 2019, arXiv:1901.09392, definition 2.1, square removal; the best scale as captum has it.
    """

    source = "Yeh et al., NeurIPS 2019, arXiv:1901.09392, definition 2.1, square removal"
    better = "lower"
    name = "infidelity"
    quantus_name = "Infidelity"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description="maps read: signed (the paper), positive or absolute")
        patch: int = cxr.Field(8, ge=1, description="side of a patch in pixels; (size / patch) squared forward passes an image")
        scale: Literal["best", "none"] = cxr.Field(
            "best", description="best: the map times the number that makes the score smallest; none: the map as it is (Quantus)"
        )
        fill: Fill = cxr.Field("black", description=FILL)
        output: Output = cxr.Field("logit", description=OUTPUT)

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        said, fell = self.claims(explained)
        moves = (said**2).sum(axis=1) > 0
        if self.params.scale == "best":
            scale = np.full(len(said), np.nan)
            np.divide((said * fell).sum(axis=1), (said**2).sum(axis=1), out=scale, where=moves)
            said = said * scale[:, None]
        return np.where(moves, ((said - fell) ** 2).mean(axis=1), np.nan)

    def claims(self, explained: cxr.Explained) -> tuple[FloatArray, FloatArray]:
        """What the map says that each patch does, and the fall of the output when it goes, each (N, patches)."""
        maps = settled(explained.maps, self.params.sign)
        rows = informative(maps)
        numbers = patch_numbers(maps.shape[1], maps.shape[2], self.params.patch)
        count = int(numbers.max()) + 1
        where = torch.from_numpy(numbers).to(device_of(explained.model))
        watched = outputs(
            explained,
            *every_pair(rows, 0, count),
            lambda i, s: where == s[:, None, None] - 1,
            fill=self.params.fill,
            output=self.params.output,
        ).reshape(-1, count + 1)
        change = (explained.x.astype(np.float64) - filling(explained.x, self.params.fill)).mean(axis=1)
        said, fell = np.full((2, len(maps), count), np.nan)
        fell[rows] = watched[:, :1] - watched[:, 1:]
        for place in np.flatnonzero(rows):
            said[place] = np.bincount(numbers.ravel(), weights=(maps[place] * change[place]).ravel(), minlength=count)
        return said, fell

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        # the ten times that Quantus repeats itself are alike: nothing in it is random
        return {"perturb_patch_sizes": [self.params.patch], "n_perturb_samples": 1}
