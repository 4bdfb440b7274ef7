"""What a network says while parts of an image are taken away, and the faithfulness metrics that are an area under it.

`outputs` is the one place where pixels go: all channels of a pixel together, and what fills it is fixed beforehand. Every
metric here says which pixels are absent in which of its steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import trapezoid

import cxr_eval.api as cxr
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.quantus_adapter import (
    BoolArray,
    Fill,
    FloatArray,
    MapParams,
    Output,
    Sign,
    device_of,
    filling,
    in_rows,
    informative,
    prepared,
)

IntArray = npt.NDArray[np.int64]
Absent = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From places of images (P,) and steps (P,) to the pixels that are absent, bool, (P, H, W) or broadcasting to it."""

PASSES = 64
"""Images in one forward pass, of all steps mixed; the fastest on CPUs, changes no number."""

FILL = (
    "what stands where a pixel is taken away: black (0), white (1), or the image's own mean a channel (no new edges to black)"
)
OUTPUT = "output watched: the probability (softmax, or sigmoid for findings that do not exclude each other) or the logit"
ORDER = "order of signed maps: signed (from most for to most against), positive, absolute"
STEPS = "parts that the pixels are taken away in; the divisor of the number of pixels nearest to it is taken"


def outputs(
    explained: cxr.Explained,
    image: IntArray,
    step: IntArray,
    absent: Absent,
    *,
    fill: Fill | torch.Tensor,
    output: Output,
) -> FloatArray:
    """The target's output of each pair (image, step), (P,), float64: the image without the pixels absent at that step.

    image, step: (P,). fill: a word, or pictures (M, C, H, W), of which step s takes number s modulo M.
    """
    device = device_of(explained.model)
    x = torch.from_numpy(np.ascontiguousarray(explained.x)).to(device)
    target = torch.from_numpy(explained.target).to(device)
    pictures = (torch.from_numpy(filling(explained.x, fill).copy()) if isinstance(fill, str) else fill).to(device)
    found = np.empty(len(image))
    with cxr.frozen(explained.model), torch.no_grad():
        for start in range(0, len(image), PASSES):
            part = slice(start, start + PASSES)
            i, s = torch.from_numpy(image[part]).to(device), torch.from_numpy(step[part]).to(device)
            instead = pictures[i if isinstance(fill, str) else s % len(pictures)]
            logits = explained.model(torch.where(absent(i, s)[:, None], instead, x[i]))
            values = logits.gather(1, target[i][:, None])[:, 0]
            if output == "probability" and explained.task == "multiclass":
                values = logits.softmax(dim=1).gather(1, target[i][:, None])[:, 0]
            elif output == "probability":
                values = values.sigmoid()
            found[part] = values.double().cpu().numpy()
    return found


def every_pair(rows: BoolArray, first: int, last: int) -> tuple[IntArray, IntArray]:
    """Each chosen image with each step from first to last, both included: image (P,), step (P,), image by image."""
    index = np.flatnonzero(rows)
    count = last + 1 - first
    return np.repeat(index, count), np.tile(np.arange(first, last + 1), len(index))


def up_to(order: npt.NDArray[np.int64], device: torch.device) -> Absent:
    """Absent at step s are the pixels whose number in order (N, H, W) is at most s."""
    number = torch.from_numpy(order).to(device)
    return lambda i, s: number[i] <= s[:, None, None]


def ranked(maps: FloatArray, seed: int) -> FloatArray:
    """Maps as ranks in [0, 1) without ties: equal pixels are ordered by one permutation drawn from the seed.

    Sorting leaves the order of ties to the machine, and raster order would always take the top of the image first.
    """
    flat = in_rows(maps)
    shuffle = np.random.RandomState(seed).permutation(flat.shape[1])
    order = shuffle[np.argsort(flat[:, shuffle], axis=1, kind="stable")]
    ranks = np.empty_like(flat)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(flat.shape[1]) / flat.shape[1], flat.shape), axis=1)
    return ranks.reshape(maps.shape)


def turns(maps: FloatArray, seed: int) -> IntArray:
    """When each pixel's turn comes, most relevant first, from 0, (N, H, W); ties as in `ranked`."""
    pixels = maps.shape[1] * maps.shape[2]
    # rint: ranks are whole numbers divided by the number of pixels
    return np.asarray(pixels - 1 - np.rint(ranked(maps, seed) * pixels), dtype=np.int64)


def steps_that_divide(pixels: int, steps: int) -> int:
    """The number of equal steps nearest in ratio to `steps` into which so many pixels can be divided."""
    divisors = [d for d in range(1, pixels + 1) if pixels % d == 0]
    return min(divisors, key=lambda d: abs(np.log(d / steps)))


def patch_numbers(height: int, width: int, patch: int) -> IntArray:
    """Which square patch each pixel lies in, row by row from 0, (H, W); those at the right and lower edge may be smaller."""
    columns = -(-width // patch)
    return (np.arange(height)[:, None] // patch) * columns + np.arange(width)[None, :] // patch


def patch_turns(maps: FloatArray, numbers: IntArray, seed: int) -> IntArray:
    """When each pixel's patch comes, from 1, largest sum of relevance first, (N, H, W). numbers: the patches, (H, W)."""
    count = int(numbers.max()) + 1
    member = np.zeros((numbers.size, count))
    member[np.arange(numbers.size), numbers.ravel()] = 1
    order = turns((in_rows(maps) @ member)[:, None], seed)[:, 0]
    return np.asarray(1 + order[:, numbers], dtype=np.int64)


class FaithfulnessMetric(MapMetric):
    """A faithfulness metric; what its namesake in Quantus may cost depends on the size of the images."""

    family = "faithfulness"

    @abstractmethod
    def budget_for(self, pixels: int) -> Mapping[str, object]:
        """Settings of the library's class that make it cost about what ours costs, for images of so many pixels."""

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        return self.budget_for(explained.x.shape[2] * explained.x.shape[3])


class PixelFlipping(FaithfulnessMetric):
    """Area under the target's output while pixels are taken away, most relevant first; lower is more faithful.

    The share of pixels taken away runs from 0 to 1, the untouched image included, so that the area is the mean output.
    All channels of a pixel go together. Costs `steps` + 1 forward passes an image.
    Source: Bach et al., PLOS ONE 2015, e0130140; Samek et al., IEEE TNNLS 2017, arXiv:1509.06321.
    """

    source = "Bach et al., PLOS ONE 2015, e0130140; Samek et al., TNNLS 2017, arXiv:1509.06321"
    better = "lower"
    name = "pixel_flipping"
    quantus_name = "PixelFlipping"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=ORDER)
        steps: int = cxr.Field(32, ge=1, le=4096, description="forward passes an image, " + STEPS)
        fill: Fill = cxr.Field("mean", description=FILL)
        output: Output = cxr.Field("probability", description=OUTPUT)

    params: Params

    def curves(self, explained: cxr.Explained) -> FloatArray:
        """The target's output from the untouched image to the one without any of its pixels, (N, steps + 1)."""
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        pixels = maps.shape[1] * maps.shape[2]
        steps = steps_that_divide(pixels, self.params.steps)
        order = 1 + turns(maps, explained.seed) // (pixels // steps)
        found = np.full((len(maps), steps + 1), np.nan)
        found[rows] = outputs(
            explained,
            *every_pair(rows, 0, steps),
            up_to(order, device_of(explained.model)),
            fill=self.params.fill,
            output=self.params.output,
        ).reshape(-1, steps + 1)
        return found

    def scores(self, explained: cxr.Explained) -> FloatArray:
        curves = self.curves(explained)
        return np.asarray(trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1), dtype=np.float64)

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {"features_in_step": pixels // steps_that_divide(pixels, self.params.steps)}


def patch_curves(explained: cxr.Explained, params: PatchParams, most: int | None = None) -> FloatArray:
    """The target's output from the untouched image to the one without its `most` (or all) first patches, (N, L + 1)."""
    maps = prepared(explained.maps, params.sign)
    rows = informative(maps)
    numbers = patch_numbers(maps.shape[1], maps.shape[2], params.patch)
    last = min(int(numbers.max()) + 1, most or numbers.size)
    found = np.full((len(maps), last + 1), np.nan)
    found[rows] = outputs(
        explained,
        *every_pair(rows, 0, last),
        up_to(patch_turns(maps, numbers, explained.seed), device_of(explained.model)),
        fill=params.fill,
        output=params.output,
    ).reshape(-1, last + 1)
    return found


class PatchParams(MapParams):
    """Settings of metrics that take away square patches, most relevant first."""

    sign: Sign = cxr.Field("signed", description=ORDER)
    patch: int = cxr.Field(8, ge=1, description="side of a patch in pixels; those at the right and lower edge may be smaller")
    fill: Fill = cxr.Field("mean", description=FILL)
    output: Output = cxr.Field("probability", description=OUTPUT)


class RegionPerturbation(FaithfulnessMetric):
    """Mean fall of the target's output over the most relevant patches taken away one by one (AOPC); higher is more faithful.

    AOPC = 1 / (L + 1) sum over k from 0 to L of f(x) - f(x without the first k patches). The paper fills with random noise,
    which would make the score random; here the fill is fixed. Costs min(`regions`, number of patches) + 1 forward passes an
    image. Source: Samek et al., IEEE TNNLS 2017, arXiv:1509.06321 (AOPC).
    """

    source = "Samek et al., TNNLS 2017, arXiv:1509.06321 (AOPC); fixed fill"
    better = "higher"
    name = "region_perturbation"
    quantus_name = "RegionPerturbation"

    class Params(PatchParams):
        regions: int = cxr.Field(100, ge=1, description="patches taken away, L in the paper (100 there), one forward pass each")

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        curves = patch_curves(explained, self.params, self.params.regions)
        return np.asarray((curves[:, :1] - curves).mean(axis=1), dtype=np.float64)

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {"patch_size": self.params.patch, "regions_evaluation": self.params.regions}


class Selectivity(FaithfulnessMetric):
    """Area under the target's output while patches are taken away, most relevant first, to the last; lower is better.

    The share of patches taken away runs from 0 to 1, the untouched image included. Costs one forward pass a patch, and one.
    Source: Montavon et al., Digital Signal Processing 2018, arXiv:1706.07979 (explanation selectivity).
    """

    source = "Montavon et al., Digital Signal Processing 2018, arXiv:1706.07979, explanation selectivity"
    better = "lower"
    name = "selectivity"
    quantus_name = "Selectivity"

    class Params(PatchParams):
        pass

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        curves = patch_curves(explained, self.params)
        return np.asarray(trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1), dtype=np.float64)

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {"patch_size": self.params.patch}


class IROF(FaithfulnessMetric):
    """Area over the target's output, as a share of what it was, while superpixels go, most relevant first; higher is better.

    The share of superpixels taken away runs from 0 to 1, so that the number of them does not enter the score: 0 if nothing
    falls, towards 1 if all falls at once. Superpixels are ordered by mean relevance. NaN where the image is one superpixel or
    its own output is 0. Costs one forward pass a superpixel, and one.
    Source: Rieger and Hansen, IROF, ICLR workshop 2020, arXiv:2003.08747; SLIC of scikit-image.
    """

    source = "Rieger and Hansen, IROF, arXiv:2003.08747; superpixels by SLIC (scikit-image)"
    better = "higher"
    name = "irof"
    quantus_name = "IROF"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=ORDER)
        segments: int = cxr.Field(100, ge=2, description="superpixels asked of SLIC, which makes about as many")
        fill: Fill = cxr.Field("mean", description=FILL)

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        order = np.zeros(maps.shape, dtype=np.int64)
        count = np.zeros(len(maps), dtype=np.int64)
        for place in np.flatnonzero(rows):
            order[place], count[place] = self._turns(explained.x[place], maps[place], explained.seed)
        chosen = np.flatnonzero(count > 1)
        image = np.repeat(chosen, count[chosen] + 1)
        step = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(count[place] + 1) for place in chosen)])
        watched = outputs(
            explained, image, step, up_to(order, device_of(explained.model)), fill=self.params.fill, output="probability"
        )
        found = np.full(len(maps), np.nan)
        for place in chosen:
            curve = watched[image == place]
            if curve[0] > 0:
                found[place] = 1 - trapezoid(curve / curve[0], dx=1 / count[place])
        return found

    def _turns(self, x: npt.NDArray[np.float32], a: FloatArray, seed: int) -> tuple[IntArray, int]:
        """When the superpixel of each pixel (H, W) comes, from 1, and how many there are."""
        from skimage.segmentation import slic  # here, not above: reading a protocol does not need it

        if (x == x[:, :1, :1]).all():  # SLIC divides by the range of values
            return np.zeros(a.shape, dtype=np.int64), 1
        segments = slic(np.moveaxis(x, 0, -1).astype(np.float64), n_segments=self.params.segments, start_label=0)
        _, numbers = np.unique(segments, return_inverse=True)
        numbers = numbers.ravel()
        means = np.bincount(numbers, weights=a.ravel()) / np.bincount(numbers)
        order = turns(means[None, None], seed)[0, 0]
        return 1 + order[numbers].reshape(a.shape), len(means)

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {}
