"""How much a map changes when its image is moved a little.

Noise is uniform in a cube, the same for every image, and changed images are clipped to [0, 1]: a network never sees anything
else. A new map that is not finite makes the image's value NaN. The network's own changes are part of what is measured, unless a
class says otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.quantus_adapter import (
    FloatArray,
    MapParams,
    Sign,
    chunks,
    device_of,
    informative,
    settled,
)

Images = npt.NDArray[np.float32]


def lengths(change: npt.NDArray[Any]) -> FloatArray:
    """Euclidean length of each image's change (N, ...), (N,)."""
    return np.asarray(np.linalg.norm(change.reshape(len(change), -1).astype(np.float64), axis=1))


def quotient(above: FloatArray, below: FloatArray) -> FloatArray:
    """Each number over its divisor, (N,); NaN where the divisor is 0."""
    ratio = np.full(len(above), np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def largest_defined(ratios: FloatArray) -> FloatArray:
    """Largest of each row (N, K) that is not NaN, (N,); NaN where all are."""
    values: FloatArray = np.where(np.isnan(ratios), -np.inf, ratios).max(axis=1, initial=-np.inf)
    return np.where(values == -np.inf, np.nan, values)


def translated(x: Images, by: int) -> Images:
    """Images (N, C, H, W) moved to the right by so many pixels, to the left if below 0; what comes in is black."""
    width = x.shape[3]
    moved = np.zeros_like(x)
    moved[..., max(by, 0) : width + min(by, 0)] = x[..., max(-by, 0) : width - max(by, 0)]
    return moved


class Neighbourhood(MapMetric):
    """Base: the maps of changed images beside the map of the image itself."""

    family = "robustness"
    better = "lower"

    @abstractmethod
    def variants(self, x: Images, seed: int) -> Iterator[Images]:
        """Changed images, each time all of x (N, C, H, W)."""

    @abstractmethod
    def ratios(self, explained: cxr.Explained, index: npt.NDArray[np.int64], maps: FloatArray) -> Iterator[FloatArray]:
        """For each variant of the images of `index`, one number an image; `maps` are theirs, signs settled."""

    def over_variants(self, ratios: FloatArray) -> FloatArray:
        """The value of each image, (N,), from the numbers of its variants (N, K)."""
        return largest_defined(ratios)

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = settled(explained.maps, self.params.sign)
        rows = informative(maps)
        values = np.full(len(rows), np.nan)
        for index in chunks(rows):
            values[index] = self.over_variants(np.stack(list(self.ratios(explained, index, maps[index])), axis=1))
        values[np.isinf(values)] = np.nan
        return values

    def remap(self, explained: cxr.Explained, index: npt.NDArray[np.int64], x: Images) -> FloatArray:
        """Maps of changed images (M, C, H, W), signs settled; infinite where they are not finite, so that this is not lost."""
        device = device_of(explained.model)
        target = torch.from_numpy(explained.target[index]).to(device)
        made = explained.explain(explained.model, torch.from_numpy(x).to(device), target)
        maps = settled(made.detach().cpu().numpy(), self.params.sign)
        maps[~np.isfinite(maps)] = np.inf
        return maps


class NoiseParams(MapParams):
    """Settings of metrics that add noise to the image."""

    sign: Sign = cxr.Field("signed", description="maps compared: signed (as the method made them), positive or absolute")
    radius: cxr.Radius = cxr.Field(0.02, gt=0, description="L-inf radius of the noise, pixel units of [0, 1]")
    samples: int = cxr.Field(8, ge=1, le=1000, description="noisy images an image, one explanation each")


class Noise(Neighbourhood):
    """Base: the variants are noisy images."""

    class Params(NoiseParams):
        pass

    params: NoiseParams

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        return {"nr_samples": self.params.samples}

    def variants(self, x: Images, seed: int) -> Iterator[Images]:
        rng, radius = np.random.RandomState(seed), self.params.radius
        for _ in range(self.params.samples):
            noise = rng.uniform(-radius, radius, x[0].size).reshape(x.shape[1:])
            yield np.clip(x + noise, 0, 1).astype(np.float32)


class Sensitivity(Noise):
    """Base: the relative change of the map, its length over the length of the map."""

    def ratios(self, explained: cxr.Explained, index: npt.NDArray[np.int64], maps: FloatArray) -> Iterator[FloatArray]:
        size = lengths(maps)
        for x in self.variants(explained.x[index], explained.seed):
            yield quotient(lengths(self.remap(explained, index, x) - maps), size)


class MaxSensitivity(Sensitivity):
    """Largest relative change of the map when the image is moved a little; lower is more robust.

    Costs `samples` explanations an image.
    Source: Yeh et al., NeurIPS 2019, arXiv:1901.09392 (max-sensitivity), relative to the map's norm as in Quantus.
    """

    source = "Yeh et al., NeurIPS 2019, arXiv:1901.09392, max-sensitivity, relative to the map's norm; Quantus"
    name = "max_sensitivity"
    quantus_name = "MaxSensitivity"


class AvgSensitivity(Sensitivity):
    """Mean relative change of the map when the image is moved a little; lower is more robust.

    Costs `samples` explanations an image.
    Source: Yeh et al., NeurIPS 2019, arXiv:1901.09392 (sensitivity), the mean in place of the largest, as in Quantus.
    """

    source = "Yeh et al., NeurIPS 2019, arXiv:1901.09392, mean instead of largest, relative to the map's norm; Quantus"
    name = "avg_sensitivity"
    quantus_name = "AvgSensitivity"

    def over_variants(self, ratios: FloatArray) -> FloatArray:
        return np.asarray(ratios.mean(axis=1), dtype=np.float64)


class LocalLipschitz(Noise):
    """Largest change of the map over the change of the image, both Euclidean lengths; lower is more robust.

    Both maps are divided by the largest size of the image's own clean map, so that explainers of different units can be
    compared; Quantus divides each by the largest of its batch, so that the number depends on the neighbours and a map that
    grows as a whole seems not to change. Without that division, for the same noise, the two are equal. A noisy image that is
    equal to the image (all clipped) does not count. Costs `samples` explanations an image.
    Source: Alvarez-Melis and Jaakkola, 2018, arXiv:1806.08049, eq. 2.
    """

    source = "Alvarez-Melis and Jaakkola, On the Robustness of Interpretability Methods, 2018, arXiv:1806.08049, eq. 2"
    name = "local_lipschitz"
    quantus_name = "LocalLipschitzEstimate"

    def ratios(self, explained: cxr.Explained, index: npt.NDArray[np.int64], maps: FloatArray) -> Iterator[FloatArray]:
        clean = explained.x[index]
        largest = np.abs(maps).max(axis=(1, 2))
        for x in self.variants(clean, explained.seed):
            change = lengths(self.remap(explained, index, x) - maps) / largest
            yield quotient(change, lengths(x - clean))


class Continuity(Neighbourhood):
    """Largest change of the map over the change of the image when the image is moved sideways; lower is more continuous.

    The sum of the sizes of all changes of the map, divided by the largest size of the clean map, over the Euclidean length of
    the image's change. What comes in from the side is black. Quantus moves by a fixed number of whole pixels, none at all for
    an image narrower than half its steps, and divides maps by the largest of the batch; for the same moves and maps the two are
    equal. Costs `steps` explanations an image.
    Source: Montavon et al., Digital Signal Processing 2018, arXiv:1706.07979, section 7.1.
    """

    source = "Montavon et al., Methods for interpreting deep networks, DSP 2018, arXiv:1706.07979, sec. 7.1, continuity"
    name = "continuity"
    quantus_name = "Continuity"

    class Params(MapParams):
        sign: Sign = cxr.Field("absolute", description="maps compared: absolute (size), signed (as made) or positive")
        reach: float = cxr.Field(
            0.1,
            gt=0,
            le=1,
            description="farthest move to either side, as a share of the width less one pixel (Quantus: 1, out of the picture;"
            " a tenth is about as far as patients stand off the centre)",
        )
        steps: int = cxr.Field(
            8,
            ge=2,
            le=1000,
            description="moves tried, evenly from the left to the right, rounded to pixels; one explanation each",
        )

    params: Params

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        return {"nr_steps": self.params.steps}

    def variants(self, x: Images, seed: int) -> Iterator[Images]:
        farthest = max(1, round(self.params.reach * (x.shape[3] - 1)))
        moves = np.unique(np.linspace(-farthest, farthest, self.params.steps).round().astype(int))
        for by in moves[moves != 0]:
            yield translated(x, int(by))

    def ratios(self, explained: cxr.Explained, index: npt.NDArray[np.int64], maps: FloatArray) -> Iterator[FloatArray]:
        clean = explained.x[index]
        largest = np.abs(maps).max(axis=(1, 2))
        for x in self.variants(clean, explained.seed):
            change = np.abs(self.remap(explained, index, x) - maps).sum(axis=(1, 2)) / largest
            yield quotient(change, lengths(x - clean))
