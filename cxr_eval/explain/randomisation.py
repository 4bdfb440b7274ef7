"""Whether a map knows what the network learned, and which class is explained: sanity checks by random weights and classes.

A method whose maps outlive the weights shows edges of the image. Random networks follow from the seed, one for all images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.correlation import rank_correlation
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.quantus_adapter import (
    FloatArray,
    MapParams,
    Sign,
    chunks,
    device_of,
    global_randomness_kept,
    informative,
    prepared,
    settled,
)
from cxr_eval.explain.similarity import map_ssim

RANDOMISATION = 1
"""Second part of the seed of random networks; keeps them apart from every network that training draws from the same seed."""

Order = Literal["top_down", "bottom_up", "independent"]


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


def cascade(model: torch.nn.Module, random: torch.nn.Module, *, order: Order, stages: int) -> Iterator[torch.nn.Module]:
    """Networks in which one layer after another takes the weights of a random copy; the same object each time, changed further.

    order: top_down from the output to the input, bottom_up the other way, independent: the others trained. stages: at most so
    many networks; layers, in the order in which the network names them, are then changed in groups of about equal number. The
    last network is the random one, but for independent.
    """
    layers = [
        name
        for name, module in model.named_modules()
        if hasattr(module, "reset_parameters") or next(module.parameters(recurse=False), None) is not None
    ]
    if order == "top_down":
        layers.reverse()
    network = copy.deepcopy(model)
    for group in np.array_split(np.arange(len(layers)), min(stages, len(layers))) if layers else ():
        if order == "independent":
            network = copy.deepcopy(model)
        with torch.no_grad():
            for place in group:
                source, layer = random.get_submodule(layers[place]), network.get_submodule(layers[place])
                for name, weight in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
                    weight.copy_(source.get_parameter(name) if name in layer._parameters else source.get_buffer(name))
        yield network


def mean_defined(values: FloatArray) -> FloatArray:
    """Mean of each row (N, K) over what is not NaN, (N,); NaN where all are."""
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1)
    mean = np.full(len(values), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


class Randomisation(MapMetric):
    """Base: new maps of the same images."""

    family = "randomisation"

    def remap(self, explained: cxr.Explained, network: torch.nn.Module, index: npt.NDArray[np.int64]) -> FloatArray:
        """Maps by a network for the images of `index`, as they are made, (M, H, W)."""
        device = device_of(explained.model)
        x, target = (torch.from_numpy(a[index]).to(device) for a in (explained.x, explained.target))
        return np.asarray(explained.explain(network, x, target).detach().cpu().numpy(), dtype=np.float64)


class ModelRandomisation(Randomisation):
    """Rank correlation of the map with that of the same network with all its weights random; lower is better.

    Every weight is drawn anew by its layer's own initialisation, weights that no layer can reset are shuffled. Written here,
    because Quantus seeds every layer alike (equal layers get equal weights) and leaves the second kind trained; for the same
    random network its last value is equal to this one. Costs one explanation an image.
    Source: Adebayo et al., NeurIPS 2018, arXiv:1810.03292 (model parameter randomisation), at the end of the cascade.
    """

    source = (
        "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, arXiv:1810.03292, cascading randomisation, last value"
    )
    better = "lower"
    name = "model_randomisation"
    quantus_name = "MPRT"

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        return {"layer_order": "top_down", "return_last_correlation": True, "skip_layers": True}

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        network = randomised(explained.model, explained.seed)
        values = np.full(len(maps), np.nan)
        for index in chunks(rows):
            values[index] = rank_correlation(maps[index], prepared(self.remap(explained, network, index), self.params.sign))
        return values


class CascadeParams(MapParams):
    """Settings of metrics that randomise a network layer by layer."""

    order: Order = cxr.Field(
        "top_down",
        description="top_down: from the output to the input, what was random stays random (the paper's cascade); bottom_up: the"
        " other way; independent: only the layers of one stage are random",
    )
    stages: int = cxr.Field(
        8, ge=1, le=10_000, description="random networks, one explanation each; layers are changed in so many equal groups"
    )


class ModelParameterRandomisation(Randomisation):
    """Mean rank correlation of the map with those of the network while its layers become random; lower is better.

    The untouched network, with which every map correlates fully, is no part of the mean, as it is in Quantus. The network that
    ends a cascade is that of model_randomisation. A stage whose map is constant or not finite does not count; NaN where all are
    so. Costs `stages` explanations an image.
    Source: Adebayo et al., NeurIPS 2018, arXiv:1810.03292 (cascading and independent randomisation).
    """

    source = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, arXiv:1810.03292, mean over the cascade"
    better = "lower"
    name = "model_parameter_randomisation"
    quantus_name = "MPRT"

    class Params(CascadeParams):
        pass

    params: CascadeParams

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        return {"return_average_correlation": True}

    def similarities(self, explained: cxr.Explained) -> FloatArray:
        """Rank correlation at each stage, (N, K); NaN where either map says nothing."""
        rows = informative(prepared(explained.maps, self.params.sign))
        random = randomised(explained.model, explained.seed)
        clean = np.zeros_like(explained.maps, dtype=np.float64)
        for index in chunks(rows):
            clean[index] = prepared(self.before(explained, index), self.params.sign)
        columns = []
        for network in cascade(explained.model, random, order=self.params.order, stages=self.params.stages):
            column = np.full(len(rows), np.nan)
            for index in chunks(rows):
                new = prepared(self.remap(explained, network, index), self.params.sign)
                column[index] = rank_correlation(clean[index], new)
            columns.append(column)
        return np.stack(columns, axis=1) if columns else np.full((len(rows), 0), np.nan)

    def before(self, explained: cxr.Explained, index: npt.NDArray[np.int64]) -> FloatArray:
        """Maps by the untouched network, (M, H, W)."""
        return explained.maps[index].astype(np.float64)

    def scores(self, explained: cxr.Explained) -> FloatArray:
        return mean_defined(self.similarities(explained))


class SmoothMPRT(ModelParameterRandomisation):
    """Mean rank correlation while layers become random, of maps that are averaged over noisy images; lower is better.

    Averaging takes the noise of gradients out of the comparison. Noise is Gaussian, `noise` times the image's range, the same
    for every image and network, and noisy images are clipped to [0, 1]; the last of the `samples` is the image itself. Quantus
    draws from numpy's global generator, does not clip, and makes its maps by its own explainers, not by the one that is tested.
    With one sample it is model_parameter_randomisation. Costs (`stages` + 1) x `samples` explanations an image.
    Source: Hedstroem et al., 2023, arXiv:2401.06465 (smooth MPRT).
    """

    source = "Hedstroem et al., Sanity Checks Revisited, XAI in Action at NeurIPS 2023, arXiv:2401.06465, sMPRT"
    name = "smooth_mprt"
    quantus_name = "SmoothMPRT"

    class Params(CascadeParams):
        samples: int = cxr.Field(
            8, ge=1, le=1000, description="images that a map is averaged over, the image itself one of them"
        )
        noise: float = cxr.Field(
            0.1, gt=0, le=1, description="standard deviation of the noise, as a share of the image's range"
        )

    params: Params

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        return {"nr_samples": self.params.samples, "return_average_correlation": True}

    def before(self, explained: cxr.Explained, index: npt.NDArray[np.int64]) -> FloatArray:
        return self.remap(explained, explained.model, index)

    def remap(self, explained: cxr.Explained, network: torch.nn.Module, index: npt.NDArray[np.int64]) -> FloatArray:
        x = explained.x[index]
        spread = self.params.noise * (x.max(axis=(1, 2, 3), keepdims=True) - x.min(axis=(1, 2, 3), keepdims=True))
        rng = np.random.RandomState(explained.seed)
        device = device_of(explained.model)
        target = torch.from_numpy(explained.target[index]).to(device)
        total = super().remap(explained, network, index)
        for _ in range(self.params.samples - 1):
            noisy = np.clip(x + spread * rng.standard_normal(x.shape[1:]), 0, 1).astype(np.float32)
            total += explained.explain(network, torch.from_numpy(noisy).to(device), target).detach().cpu().numpy()
        return total / self.params.samples


class EfficientMPRT(Randomisation):
    """Relative rise of the map's entropy when all weights are random; higher is better.

    Entropy of the histogram of the map's values, in `bins` bins between its least and largest; a map of the random network that
    is the same everywhere has none. NaN where the map of the trained network has none. Quantus starts from the same numbers,
    with another random network: it seeds every layer alike. Costs one explanation an image.
    Source: Hedstroem et al., 2023, arXiv:2401.06465 (efficient MPRT).
    """

    source = "Hedstroem et al., Sanity Checks Revisited, XAI in Action at NeurIPS 2023, arXiv:2401.06465, eMPRT"
    better = "higher"
    name = "efficient_mprt"
    quantus_name = "EfficientMPRT"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description="values counted: signed (as the method made them), positive or absolute")
        bins: int = cxr.Field(100, ge=2, le=100_000, description="bins of the histogram (Quantus: 100)")

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = settled(explained.maps, self.params.sign)
        rows = informative(maps)
        network = randomised(explained.model, explained.seed)
        values = np.full(len(maps), np.nan)
        for index in chunks(rows):
            before = histogram_entropy(maps[index], self.params.bins)
            after = histogram_entropy(settled(self.remap(explained, network, index), self.params.sign), self.params.bins)
            np.divide(after - before, before, out=before, where=before > 0)
            values[index] = before
        return values


def histogram_entropy(maps: FloatArray, bins: int) -> FloatArray:
    """Entropy of the histogram of each map (N, H, W) between its least and largest value, in nats, (N,); NaN if not finite."""
    entropy = np.full(len(maps), np.nan)
    for image, one in enumerate(maps):
        if np.isfinite(one).all():
            share = np.histogram(one, bins=bins)[0] / one.size
            entropy[image] = -(share[share > 0] * np.log(share[share > 0])).sum()
    return entropy


class RandomLogit(Randomisation):
    """Structural similarity of the map with that of another class of the same image; lower is better.

    A method that shows the same for every class explains none. The other class is drawn by its distance from the explained one,
    the same for every image. Similarity is that of pictures, each scaled to [0, 1] by itself: Quantus lays the rows of pixels
    end to end, divides by the largest of the batch, and seeds numpy for everyone. NaN where there is one class, and where the
    other class's map is constant or not finite. Costs `runs` explanations an image.
    Source: Sixt et al., ICML 2020, arXiv:1912.09818, section 3.
    """

    source = "Sixt et al., When Explanations Lie, ICML 2020, arXiv:1912.09818, random logit, SSIM"
    better = "lower"
    name = "random_logit"
    quantus_name = "RandomLogit"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description="maps compared: signed (as the method made them), positive or absolute")
        runs: int = cxr.Field(1, ge=1, description="other classes; all there are if fewer. The value is their mean")

    params: Params

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        return {"num_classes": explained.classes}

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        distances = np.random.RandomState(explained.seed).permutation(np.arange(1, explained.classes))[: self.params.runs]
        device = device_of(explained.model)
        found = np.full((len(maps), len(distances)), np.nan)
        for index in chunks(rows):
            x = torch.from_numpy(explained.x[index]).to(device)
            for place, distance in enumerate(distances):
                other = torch.from_numpy((explained.target[index] + distance) % explained.classes).to(device)
                made = explained.explain(explained.model, x, other).detach().cpu().numpy()
                found[index, place] = map_ssim(maps[index], settled(made, self.params.sign))
        return mean_defined(found)
