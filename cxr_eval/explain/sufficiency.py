"""Whether images that are explained alike are told alike: sufficiency and consistency."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import model_validator

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import (
    BoolArray,
    FloatArray,
    MapParams,
    Sign,
    chunks,
    device_of,
    informative,
    library_scores,
    prepared,
)

ROWS = 256
"""Images compared with all others at once; bounds the memory, changes no number."""


def pooled(maps: FloatArray, grid: int) -> FloatArray:
    """Mean of each map (N, H, W) in each cell of a grid, (N, grid x grid); cells of any image cover it evenly."""
    means = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps)[:, None], grid)
    return np.asarray(means.numpy().reshape(len(maps), grid * grid), dtype=np.float64)


def decisions(explained: cxr.Explained, rows: BoolArray) -> FloatArray:
    """What the network says of each chosen image, (N,): its class, or 1 or 0 for the finding explained; NaN elsewhere."""
    found = np.full(len(rows), np.nan)
    device = device_of(explained.model)
    with cxr.frozen(explained.model), torch.no_grad():
        for index in chunks(rows):
            logits = explained.model(torch.from_numpy(explained.x[index]).to(device)).cpu().numpy()
            if explained.task == "multiclass":
                found[index] = logits.argmax(axis=1)
            else:
                found[index] = logits[np.arange(len(index)), explained.target[index]] > 0
    return found


class Agreement(cxr.ExplanationMetric):
    """Base: the share of the other images with a like map of which the network says the same, (N,); NaN without any.

    All images of the split are compared, not those of one batch; so an image's value depends on the other images, and on
    nothing else. Where findings do not exclude each other, only maps of the same finding are compared.
    """

    name: ClassVar[str]
    library = "quantus"
    quantus_name: ClassVar[str]

    @abstractmethod
    def traits(self, maps: FloatArray) -> FloatArray:
        """What is kept of each informative map (M, H, W) to compare it by, (M, traits)."""

    @abstractmethod
    def alike(self, some: FloatArray, all_: FloatArray) -> BoolArray:
        """Which of all maps are like some, by their traits, (some, all)."""

    @abstractmethod
    def count(self) -> int:
        """How many traits a map has."""

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        """What `settle` needs, `NAME[...]`, each (N,); with `compat: quantus` the values of this batch."""
        if self.params.compat == "quantus":
            return {self.name: library_scores(self.quantus_name, explained, {})}
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        traits = np.full((len(maps), self.count()), np.nan)
        traits[rows] = self.traits(maps[rows])
        apart = explained.target if explained.task == "multilabel" else np.zeros(len(maps))
        found = {self._part(place): traits[:, place] for place in range(self.count())}
        return found | {
            self._part("said"): decisions(explained, rows),
            self._part("group"): np.asarray(apart, dtype=np.float64),
        }

    def settle(
        self,
        values: dict[str, FloatArray],
        *,
        targets: npt.NDArray[np.int64],
        patients: Sequence[str],
        classes: tuple[str, ...],
    ) -> dict[str, FloatArray]:
        """The share for each image, (N,)."""
        if self.params.compat == "quantus":
            return values
        traits = np.stack([values[self._part(place)] for place in range(self.count())], axis=1)
        said, group = values[self._part("said")], values[self._part("group")]
        known = np.flatnonzero(np.isfinite(said))
        found = np.full(len(said), np.nan)
        for start in range(0, len(known), ROWS):
            some = known[start : start + ROWS]
            near = self.alike(traits[some], traits[known]) & (group[some, None] == group[known]) & (some[:, None] != known)
            same = near & (said[some, None] == said[known])
            share = np.full(len(some), np.nan)
            np.divide(same.sum(axis=1), near.sum(axis=1), out=share, where=near.any(axis=1))
            found[some] = share
        return {self.name: found}

    def _part(self, what: str | int) -> str:
        return f"{self.name}[{what}]"


class Sufficiency(Agreement):
    """Share of the images with a similar map of which the network says the same; higher is better. One forward pass an image.

    Maps are similar if their means over a grid correlate by at least `similar`. Quantus takes the standardised distance of all
    pixels within a batch, which is undefined as soon as one pixel is alike in all maps, and then says 0. NaN for an image whose
    map is like no other, or is even over the grid.
    Source: Dasgupta et al., ICML 2022, arXiv:2202.00734, sufficiency, with images near each other in place of equal ones.
    """

    source = "Dasgupta et al., ICML 2022, arXiv:2202.00734, sufficiency; similar: correlation of maps averaged over a grid"
    family = "faithfulness"
    better = "higher"
    unit = "fraction"
    name = "sufficiency"
    quantus_name = "Sufficiency"

    class Params(MapParams):
        grid: int = cxr.Field(8, ge=2, le=16, description="cells along each side that maps are averaged over")
        similar: float = cxr.Field(0.8, gt=0, le=1, description="smallest correlation of two maps that count as similar")

    params: Params

    def count(self) -> int:
        return int(self.params.grid**2)

    def traits(self, maps: FloatArray) -> FloatArray:
        """Means over the grid, centred and of length 1: products are correlations; NaN for a map that is even over the grid."""
        means = pooled(maps, self.params.grid)
        means -= means.mean(axis=1, keepdims=True)
        length = np.sqrt((means**2).sum(axis=1, keepdims=True))
        found = np.full_like(means, np.nan)
        # rounding leaves something of even maps
        np.divide(means, length, out=found, where=length > 1e-12)
        return found

    def alike(self, some: FloatArray, all_: FloatArray) -> BoolArray:
        # rounding: equal maps correlate by 1 - 1e-16
        return np.asarray(some @ all_.T >= self.params.similar - 1e-9, dtype=bool)


class Consistency(Agreement):
    """Share of the images with the same most relevant places of which the network says the same; higher is better.

    Two maps are the same if the `top` cells of a grid with the largest mean are. Quantus' default compares the signs of the
    first five pixels of the top row, which are alike in all maps that have one sign. NaN for an image whose places no other
    image has. One forward pass an image.
    Source: Dasgupta et al., ICML 2022, arXiv:2202.00734, consistency; maps made few by a grid.
    """

    source = "Dasgupta et al., ICML 2022, arXiv:2202.00734, consistency; same: the most relevant cells of a grid"
    family = "robustness"
    better = "higher"
    unit = "fraction"
    name = "consistency"
    quantus_name = "Consistency"

    class Params(MapParams):
        sign: Sign = cxr.Field("positive", description="signed maps: positive (below 0 counts as 0), absolute, or signed")
        grid: int = cxr.Field(4, ge=2, le=16, description="cells along each side that maps are averaged over")
        top: int = cxr.Field(2, ge=1, le=16, description="cells that must be the same, in any order")

        @model_validator(mode="after")
        def _fewer_than_cells(self) -> Consistency.Params:
            if self.top >= self.grid**2:
                raise ValueError(
                    f"top {self.top} are all cells of the grid, and of every map the same; expected less than {self.grid**2}"
                )
            return self

    params: Params

    def count(self) -> int:
        return int(self.params.top)

    def traits(self, maps: FloatArray) -> FloatArray:
        """Numbers of the cells with the largest mean, rising; of equal means the first in reading order."""
        means = pooled(maps, self.params.grid)
        # rounding must not choose among equal cells
        top = np.argsort(-means.round(12), axis=1, kind="stable")[:, : self.params.top]
        return np.asarray(np.sort(top, axis=1), dtype=np.float64)

    def alike(self, some: FloatArray, all_: FloatArray) -> BoolArray:
        return np.asarray((some[:, None] == all_[None]).all(axis=2), dtype=bool)
