"""What a map should satisfy by definition: it accounts for the output, leaves out what does not matter, ignores an offset."""

from __future__ import annotations

import copy

import numpy as np
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.quantus_adapter import (
    Fill,
    FloatArray,
    MapParams,
    Output,
    Sign,
    chunks,
    device_of,
    informative,
    prepared,
    settled,
)
from cxr_eval.explain.removal import FILL, OUTPUT, every_pair, outputs
from cxr_eval.explain.stability import lengths, quotient

SIGN = "maps as the method made them (signed), or their size (absolute) or positive part"


class Completeness(MapMetric):
    """How far the sum of the map is from what the image adds to the output over an image without any pixel; lower is better.

    The absolute difference, in units of the output: 0 for a map that accounts for all of it, as integrated gradients do up to
    their steps. Only for methods that claim completeness does the number mean something, and maps are taken as they are, for
    their scale is the claim. Quantus asks whether the two are equal bit for bit, after dividing the map by the largest of the
    batch: no map ever is. Costs 2 forward passes an image.
    Source: Sundararajan et al., ICML 2017, arXiv:1703.01365, proposition 1.
    """

    source = "Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, arXiv:1703.01365, completeness"
    family = "axiomatic"
    better = "lower"
    scale_free = False
    name = "completeness"
    quantus_name = "Completeness"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=SIGN)
        fill: Fill = cxr.Field("black", description=FILL)
        output: Output = cxr.Field("logit", description=OUTPUT)

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = settled(explained.maps, self.params.sign)
        rows = informative(maps)
        image, step = every_pair(rows, 0, 1)
        found = outputs(
            explained,
            image,
            step,
            lambda _, s: (s == 1)[:, None, None],
            fill=self.params.fill,
            output=self.params.output,
        ).reshape(-1, 2)
        values = np.full(len(maps), np.nan)
        values[rows] = np.abs(maps[rows].sum(axis=(1, 2)) - (found[:, 0] - found[:, 1]))
        return values


class NonSensitivity(MapMetric):
    """Share of the image's squares on which map and network disagree whether they matter at all; lower is better.

    A square is without relevance if none of its pixels has more than `least` of the map's largest size, and without effect if
    the output moves by less than `change` when it is taken away. With squares of one pixel and one channel this is Quantus'
    count over the number of pixels, where each map is divided by its own largest size; Quantus divides by that of the batch,
    and fails for squares of more than one pixel. Costs `side` x `side` + 1 forward passes an image.
    Source: Nguyen and Martinez, 2020, arXiv:2007.07584, section 3 (non-sensitivity).
    """

    source = "Nguyen and Martinez, On quantitative aspects of model interpretability, 2020, arXiv:2007.07584, non-sensitivity"
    family = "axiomatic"
    better = "lower"
    unit = "fraction"
    name = "non_sensitivity"
    quantus_name = "NonSensitivity"

    class Params(MapParams):
        side: int = cxr.Field(8, ge=1, le=1024, description="squares a side, at most one a pixel; each is one forward pass")
        least: float = cxr.Field(
            1e-5, gt=0, lt=1, description="share of the map's largest size below which a pixel has no relevance (Quantus)"
        )
        change: float = cxr.Field(1e-5, gt=0, description="move of the output below which a square has no effect (Quantus)")
        fill: Fill = cxr.Field("mean", description=FILL)
        output: Output = cxr.Field("probability", description=OUTPUT)

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        values = np.full(len(maps), np.nan)
        if not rows.any():
            return values
        square = squares(maps.shape[1], maps.shape[2], self.params.side)
        count = int(square.max()) + 1
        image, step = every_pair(rows, 0, count)
        number = torch.from_numpy(square).to(device_of(explained.model))
        found = outputs(
            explained,
            image,
            step,
            lambda _, s: number == s[:, None, None] - 1,  # step 0 is the untouched image
            fill=self.params.fill,
            output=self.params.output,
        ).reshape(-1, count + 1)
        without_effect = np.abs(found[:, 1:] - found[:, :1]) < self.params.change
        strongest = np.stack([np.abs(maps[rows][:, square == k]).max(axis=1) for k in range(count)], axis=1)
        values[rows] = (without_effect != (strongest < self.params.least)).mean(axis=1)
        return values


def squares(height: int, width: int, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Number of the square that each pixel lies in, (height, width), of about side x side equal ones, at most one a pixel."""
    down, across = (np.arange(length) * min(side, length) // length for length in (height, width))
    return np.asarray(down[:, None] * min(side, width) + across[None, :], dtype=np.int64)


class InputInvariance(MapMetric):
    """Relative change of the map when image and network are shifted against each other by a constant; lower is better.

    The shifted network takes the constant off before anything else, so that it says of a shifted image what the network says of
    the image: nothing in the map should change. Quantus moves it into the bias of the first layer instead, which fails where
    that layer has none (ResNet) and is not exact at padded borders, forgets to shift the first pixel, and asks whether all
    pixels are close. 0 where Quantus says True for a network to which none of this matters. Costs one explanation an image.
    Source: Kindermans et al., 2017, arXiv:1711.00867, section 3.
    """

    source = "Kindermans et al., The (Un)reliability of saliency methods, 2017, arXiv:1711.00867, input invariance"
    family = "axiomatic"
    better = "lower"
    name = "input_invariance"
    quantus_name = "InputInvariance"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=SIGN)
        shift: float = cxr.Field(-1.0, description="constant added to every pixel (the paper: from [0, 1] to [-1, 0])")

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = settled(explained.maps, self.params.sign)
        rows = informative(maps)
        network = shifted(explained.model, self.params.shift)
        device = device_of(explained.model)
        values = np.full(len(maps), np.nan)
        for index in chunks(rows):
            x = torch.from_numpy(explained.x[index]).to(device) + self.params.shift
            made = explained.explain(network, x, torch.from_numpy(explained.target[index]).to(device))
            change = settled(made.detach().cpu().numpy(), self.params.sign) - maps[index]
            values[index] = quotient(lengths(change), lengths(maps[index]))
        values[~np.isfinite(values)] = np.nan
        return values


def shifted(model: torch.nn.Module, shift: float) -> torch.nn.Module:
    """A copy of the network that says of images plus `shift` what the network says of images; its layers keep their names."""
    network = copy.deepcopy(model)
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0] - shift, *inputs[1:]))
    return network
