"""Faithfulness, robustness, randomisation and complexity of attribution maps, image by image.

A map that says nothing (constant once its signs are settled, or not finite) scores NaN. An image scores the same alone and
beside others: everything random is drawn once from the seed and is the same for every image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import trapezoid
from scipy.stats import rankdata

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import (
    Fill,
    FloatArray,
    MapParams,
    Output,
    Presence,
    Sign,
    chunks,
    device_of,
    global_randomness_kept,
    in_rows,
    informative,
    prepared,
    quantus_scores,
    settled,
    spread,
)

RANDOMISATION = 1
"""Second part of the seed of random networks; keeps them apart from every network that training draws from the same seed."""

UnsignedSign = Literal["positive", "absolute"]

FILL = (
    "what stands where a pixel is taken away: black (0), white (1), or the image's own mean a channel (no new edges to black)"
)
UNSIGNED = "signed maps: absolute (size) or positive (below 0 counts as 0); parts of a whole need one sign"
OUTPUT = "output watched: the probability (softmax, or sigmoid for findings that do not exclude each other) or the logit"


def rows_correlated(a: FloatArray, b: FloatArray) -> FloatArray:
    """Pearson correlation of each row of a with the same row of b, (N,); NaN where a row is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    correlation = np.full(len(a), np.nan)
    np.divide((a * b).sum(axis=1), norm, out=correlation, where=norm > 0)
    return correlation


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


def steps_that_divide(pixels: int, steps: int) -> int:
    """The number of equal steps nearest in ratio to `steps` into which so many pixels can be divided."""
    divisors = [d for d in range(1, pixels + 1) if pixels % d == 0]
    return min(divisors, key=lambda d: abs(np.log(d / steps)))


def rank_correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Spearman correlation of each map of a with the same map of b (N, H, W), (N,); NaN where one is constant or not finite."""
    known = np.asarray(np.isfinite(a).all(axis=(1, 2)) & np.isfinite(b).all(axis=(1, 2)), dtype=bool)
    return spread(rows_correlated(*(rankdata(in_rows(maps[known]), axis=1) for maps in (a, b))), known)


def by_map(metric: str, explained: cxr.Explained, sign: Sign) -> FloatArray:
    """Scores (N,) of a Quantus metric that looks at the maps alone."""
    maps = prepared(explained.maps, sign)
    rows = informative(maps)
    # abs changes nothing any more; without it Quantus prints that it is missing
    return spread(quantus_scores(metric, {"abs": True}, maps=maps[rows]), rows)


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A copy of the network in which no weight has kept what it learned; the same one on every device.

    Layers draw their own initialisation, each from where the last one left the stream; weights that no layer can reset
    (class tokens, layer scales) are shuffled.
    """
    # not the seed itself: training began from it, and a network is still alike its own first weights
    own_seed = int(np.random.SeedSequence((seed, RANDOMISATION)).generate_state(1)[0])
    device = device_of(model)
    network = copy.deepcopy(model).cpu()
    with global_randomness_kept(), torch.no_grad():
        torch.manual_seed(own_seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
                continue
            for weight in module.parameters(recurse=False):
                weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
    return network.to(device)


class PixelFlipping(cxr.ExplanationMetric):
    """Area under the target's output while pixels are taken away, most relevant first; lower is more faithful.

    The share of pixels taken away runs from 0 to 1, the untouched image included, so that the area is the mean output.
    All channels of a pixel go together. Costs `steps` + 1 forward passes an image.
    Source: Bach et al., PLOS ONE 2015, e0130140; Samek et al., IEEE TNNLS 2017, arXiv:1509.06321; Quantus.
    """

    source = "Bach et al., PLOS ONE 2015, e0130140; Samek et al., TNNLS 2017, arXiv:1509.06321; Quantus"
    family = "faithfulness"
    better = "lower"

    class Params(MapParams):
        sign: Sign = cxr.Field(
            "signed", description="order of signed maps: signed (from most for to most against), positive, absolute"
        )
        steps: int = cxr.Field(
            32, ge=1, le=4096, description="forward passes an image; the divisor of the number of pixels nearest to it is taken"
        )
        fill: Fill = cxr.Field("mean", description=FILL)
        output: Output = cxr.Field("probability", description=OUTPUT)

    params: Params

    def curves(self, explained: cxr.Explained) -> FloatArray:
        """The target's output from the untouched image to the one without any of its pixels, (N, steps + 1)."""
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        pixels = maps.shape[1] * maps.shape[2]
        steps = steps_that_divide(pixels, self.params.steps)
        curves = np.full((len(maps), steps + 1), np.nan)
        with cxr.frozen(explained.model), torch.no_grad():
            for index in chunks(rows):
                present = np.ones((len(index), 1, *maps.shape[1:]), dtype=np.float32)
                target = explained.target[index]
                model = Presence(
                    explained.model, explained.x[index], fill=self.params.fill, output=self.params.output, task=explained.task
                )
                curves[index, 0] = model(torch.from_numpy(present)).cpu().numpy()[np.arange(len(index)), target]
                curves[index, 1:] = quantus_scores(
                    "PixelFlipping",
                    # 0 takes a pixel of the mask away; the curve is integrated here: Quantus calls np.trapz, which is gone
                    {"features_in_step": pixels // steps, "perturb_baseline": 0.0, "return_auc_per_sample": False},
                    maps=ranked(maps[index], explained.seed),
                    images=present,
                    target=target,
                    model=model,
                )
        return curves

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        curves = self.curves(explained)
        return {"pixel_flipping": np.asarray(trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1), dtype=np.float64)}


class FaithfulnessCorrelation(cxr.ExplanationMetric):
    """Correlation between the relevance of a random set of pixels and the fall of the output when it is taken away.

    Written here: Quantus draws the sets from numpy's global generator for the whole batch, so that an image's score depends
    on its neighbours. For one image of one channel and the same draws the two are equal. The sets are the same for every
    image. NaN where the output never changes. Costs `runs` + 1 forward passes an image.
    Source: Bhatt et al., IJCAI 2020, arXiv:2005.00631, definition of faithfulness.
    """

    source = "Bhatt et al., IJCAI 2020, arXiv:2005.00631, faithfulness; same random sets for every image"
    family = "faithfulness"
    better = "higher"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description="relevance that is summed: signed (the paper), positive or absolute")
        runs: int = cxr.Field(32, ge=2, le=1000, description="random sets of pixels, one forward pass each")
        share: float = cxr.Field(0.05, gt=0, lt=1, description="share of the pixels in a set (Quantus: 224 pixels at any size)")
        fill: Fill = cxr.Field("mean", description=FILL)
        output: Output = cxr.Field("logit", description=OUTPUT + "; a saturated probability hardly moves")

    params: Params

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        pixels = maps.shape[1] * maps.shape[2]
        size = max(1, round(self.params.share * pixels))
        draw = np.random.RandomState(explained.seed)
        taken = np.stack([draw.choice(pixels, size, replace=False) for _ in range(self.params.runs)])
        present = np.ones((self.params.runs + 1, pixels), dtype=np.float32)
        np.put_along_axis(present[1:], taken, 0, axis=1)
        masks = torch.from_numpy(present).view(-1, 1, 1, *maps.shape[1:])
        values = np.full(len(maps), np.nan)
        with cxr.frozen(explained.model), torch.no_grad():
            for index in chunks(rows):
                model = Presence(
                    explained.model, explained.x[index], fill=self.params.fill, output=self.params.output, task=explained.task
                )
                goal = torch.from_numpy(explained.target[index]).to(model.device)[:, None]
                outputs = torch.cat([model(mask).gather(1, goal) for mask in masks], dim=1).cpu().numpy().astype(np.float64)
                falls = outputs[:, :1] - outputs[:, 1:]
                relevance = np.stack([in_rows(maps[index])[:, pixel].sum(axis=1) for pixel in taken], axis=1)
                values[index] = rows_correlated(relevance, falls)
        return {"faithfulness_correlation": values}


def same_noise(radius: float, seed: int) -> Callable[..., npt.NDArray[np.float32]]:
    """Quantus' `perturb_func`: adds uniform noise, one draw a call for all images (N, pixels), and clips to [0, 1]."""
    rng = np.random.RandomState(seed)

    def perturb(arr: npt.NDArray[np.float32], **_: object) -> npt.NDArray[np.float32]:
        moved: npt.NDArray[np.float32] = np.clip(arr + rng.uniform(-radius, radius, arr.shape[1]), 0, 1).astype(np.float32)
        return moved

    return perturb


class MaxSensitivity(cxr.ExplanationMetric):
    """Largest relative change of the map when the image is moved a little; lower is more robust.

    Noise is uniform in a cube, the same for every image, and changed images are clipped to [0, 1]: a network never sees
    anything else. Costs `samples` explanations an image.
    Source: Yeh et al., NeurIPS 2019, arXiv:1901.09392 (max-sensitivity), relative to the map's norm; Quantus.
    """

    source = "Yeh et al., NeurIPS 2019, arXiv:1901.09392, max-sensitivity, relative to the map's norm; Quantus"
    family = "robustness"
    better = "lower"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description="maps compared: signed (as the method made them), positive or absolute")
        radius: cxr.Radius = cxr.Field(0.02, gt=0, description="L-inf radius of the noise, pixel units of [0, 1]")
        samples: int = cxr.Field(8, ge=1, le=1000, description="noisy images an image, one explanation each")

    params: Params

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        rows = informative(prepared(explained.maps, self.params.sign))
        values = np.full(len(rows), np.nan)
        for index in chunks(rows):
            target = explained.target[index]
            remap = partial(self.remap, explained, target)
            values[index] = quantus_scores(
                "MaxSensitivity",
                {
                    "nr_samples": self.params.samples,
                    "perturb_func": same_noise(self.params.radius, explained.seed),
                    "return_nan_when_prediction_changes": False,
                },
                # not `prepared`: dividing each map by its own size would hide that the map as a whole grew
                maps=settled(explained.maps[index], self.params.sign),
                images=explained.x[index],
                target=target,
                explain=remap,
            )
        values[np.isinf(values)] = np.nan
        return {"max_sensitivity": values}

    def remap(self, explained: cxr.Explained, target: npt.NDArray[np.int64], x: npt.NDArray[np.float32]) -> FloatArray:
        """Maps of changed images, signs settled; infinite where they are not finite, which Quantus would pass over."""
        device = device_of(explained.model)
        maps = explained.explain(explained.model, torch.from_numpy(x).to(device), torch.from_numpy(target).to(device))
        a = settled(maps.cpu().numpy(), self.params.sign)
        a[~np.isfinite(a)] = np.inf
        return a


class ModelRandomisation(cxr.ExplanationMetric):
    """Rank correlation of the map with that of the same network with all its weights random; lower is better.

    A method whose maps outlive the weights shows edges of the image, not what was learned. Every weight is drawn anew by its
    layer's own initialisation, weights that no layer can reset are shuffled. Written here, because Quantus seeds every layer
    alike (equal layers get equal weights), leaves the second kind trained, and averages the untouched network in; for the same
    random network its last value is equal to this one. Costs one explanation an image.
    Source: Adebayo et al., NeurIPS 2018, arXiv:1810.03292 (model parameter randomisation), at the end of the cascade.
    """

    source = (
        "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, arXiv:1810.03292, cascading randomisation, last value"
    )
    family = "randomisation"
    better = "lower"

    class Params(MapParams):
        pass

    params: Params

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        device = device_of(explained.model)
        network = randomised(explained.model, explained.seed)
        values = np.full(len(maps), np.nan)
        for index in chunks(rows):
            x, target = torch.from_numpy(explained.x[index]).to(device), torch.from_numpy(explained.target[index]).to(device)
            other = prepared(explained.explain(network, x, target).cpu().numpy(), self.params.sign)
            values[index] = rank_correlation(maps[index], other)
        return {"model_randomisation": values}


class Sparseness(cxr.ExplanationMetric):
    """Gini index of the map: 0 if every pixel matters alike, towards 1 if one pixel matters alone.

    Source: Chalasani et al., ICML 2020, arXiv:1810.06583; Quantus.
    """

    source = "Chalasani et al., ICML 2020, arXiv:1810.06583, Gini index; Quantus"
    family = "complexity"
    better = "higher"

    class Params(MapParams):
        sign: UnsignedSign = cxr.Field("absolute", description=UNSIGNED)

    params: Params

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        return {"sparseness": by_map("Sparseness", explained, self.params.sign)}


class Complexity(cxr.ExplanationMetric):
    """Entropy of the map as a distribution over pixels, in nats: 0 for one pixel, log(H x W) if every pixel matters alike.

    Source: Bhatt et al., IJCAI 2020, arXiv:2005.00631, definition of complexity; Quantus.
    """

    source = "Bhatt et al., IJCAI 2020, arXiv:2005.00631, complexity; Quantus"
    family = "complexity"
    better = "lower"
    unit = "nats"

    class Params(MapParams):
        sign: UnsignedSign = cxr.Field("absolute", description=UNSIGNED)

    params: Params

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        return {"complexity": by_map("Complexity", explained, self.params.sign)}
