"""How much a map changes relative to what else changes: the image, the output, or the features of a layer."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import FloatArray, device_of
from cxr_eval.explain.stability import Noise, NoiseParams, lengths, quotient


def relative_lengths(before: npt.NDArray[Any], after: npt.NDArray[Any], floor: float) -> FloatArray:
    """Length of each image's change (N, ...), every number of it over its own size before, (N,).

    No number is divided by less than `floor` times the largest of its image; NaN where all are zero.
    """
    a = before.reshape(len(before), -1).astype(np.float64)
    b = after.reshape(len(after), -1).astype(np.float64)
    size = np.abs(a)
    largest = size.max(axis=1, keepdims=True, initial=0)
    divisor = np.where(largest > 0, np.maximum(size, floor * largest), np.nan)
    return np.asarray(np.linalg.norm((b - a) / divisor, axis=1))


def answered(logits: torch.Tensor, *, target: npt.NDArray[np.int64], task: cxr.Task) -> npt.NDArray[Any]:
    """What a network answers, (N,): the class of the highest logit, or whether the explained finding is there."""
    values = logits.detach().cpu().numpy()
    if task == "multiclass":
        return np.asarray(values.argmax(axis=1))
    return np.asarray(values[np.arange(len(values)), target] > 0)


class RelativeStability(Noise):
    """Base: largest relative change of the map over the change of something else, among noisy images of the same answer.

    The answer is the class of the highest logit or, for findings that do not exclude each other, the side of 0 on which the
    explained finding's logit is. Noisy images of another answer do not count (the paper's constraint); NaN where there are only
    such. Quantus gives NaN as soon as one of its images changes the answer, which happens to a fragile network most often. A
    network that changes its answer often has fewer images to be the largest of: read the value beside its robust accuracy.

    Each pixel's change is relative to the pixel, but to no less than `floor` times the image's largest: with Quantus' 0.000001,
    and only for those that are exactly zero, black pixels and pixels without relevance decide alone. Where none is
    near zero the two are equal.
    """

    class Params(NoiseParams):
        floor: float = cxr.Field(
            0.01,
            gt=0,
            le=1,
            description="least number, as a share of its image's or map's largest, that a change is divided by (our choice)",
        )

    params: Params

    @abstractmethod
    def seen(self, model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, FloatArray]:
        """Logits (M, K), and what the map's change is compared with, (M, ...)."""

    def distances(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """How far the second is from the first, (M,); 0 where nothing changed."""
        return relative_lengths(before, after, self.params.floor)

    def ratios(self, explained: cxr.Explained, index: npt.NDArray[np.int64], maps: FloatArray) -> Iterator[FloatArray]:
        device = device_of(explained.model)
        target, task = explained.target[index], explained.task
        with cxr.frozen(explained.model), torch.no_grad():
            logits, before = self.seen(explained.model, torch.from_numpy(explained.x[index]).to(device))
        answer = answered(logits, target=target, task=task)
        for x in self.variants(explained.x[index], explained.seed):
            change = relative_lengths(maps, self.remap(explained, index, x), self.params.floor)
            with cxr.frozen(explained.model), torch.no_grad():
                new_logits, after = self.seen(explained.model, torch.from_numpy(x).to(device))
            ratio = quotient(change, self.distances(before, after))
            ratio[answered(new_logits, target=target, task=task) != answer] = np.nan
            yield ratio


class RelativeInputStability(RelativeStability):
    """Largest relative change of the map over the relative change of the image, among noisy images of the same answer.

    Costs `samples` explanations and `samples` + 1 forward passes an image; lower is more stable.
    Source: Agarwal et al., 2022, arXiv:2203.06877, eq. 2.
    """

    source = "Agarwal et al., Rethinking Stability for Attribution-based Explanations, 2022, arXiv:2203.06877, RIS"
    name = "relative_input_stability"
    quantus_name = "RelativeInputStability"

    def seen(self, model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, FloatArray]:
        return model(x), x.cpu().numpy().astype(np.float64)


class RelativeOutputStability(RelativeStability):
    """Largest relative change of the map over the length of the logits' change, among noisy images of the same answer.

    An image whose logits do not change at all does not count. Costs `samples` explanations and `samples` + 1 forward passes an
    image; lower is more stable.
    Source: Agarwal et al., 2022, arXiv:2203.06877, eq. 5.
    """

    source = "Agarwal et al., Rethinking Stability for Attribution-based Explanations, 2022, arXiv:2203.06877, ROS"
    name = "relative_output_stability"
    quantus_name = "RelativeOutputStability"

    def seen(self, model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, FloatArray]:
        logits: torch.Tensor = model(x)
        return logits, logits.cpu().numpy().astype(np.float64)

    def distances(self, before: FloatArray, after: FloatArray) -> FloatArray:
        return lengths(after - before)


class RelativeRepresentationStability(RelativeStability):
    """Largest relative change of the map over that of the features of one layer, among noisy images of the same answer.

    Quantus takes the outputs of all layers at once by default, in which a large layer outvotes the others; for one layer and
    features that are not near zero the two are equal. Costs `samples` explanations and `samples` + 1 forward passes an image;
    lower is more stable.
    Source: Agarwal et al., 2022, arXiv:2203.06877, eq. 3.
    """

    source = "Agarwal et al., Rethinking Stability for Attribution-based Explanations, 2022, arXiv:2203.06877, RRS"
    name = "relative_representation_stability"
    quantus_name = "RelativeRepresentationStability"

    class Params(RelativeStability.Params):
        layer: str | None = cxr.Field(
            None, description="name of the layer; the last convolutional map, that of Grad-CAM, if not given"
        )

    params: Params

    def seen(self, model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, FloatArray]:
        """Logits (M, K) and features (M, ...).

        Raises:
            PluginError: the network has no such layer, or no convolution and none is named.
        """
        features: list[FloatArray] = []

        def remember(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
            features.append(output.detach().cpu().numpy().astype(np.float64))

        hook = self.watched(model, x).register_forward_hook(remember)
        try:
            logits = model(x)
        finally:
            hook.remove()
        return logits, features[-1]

    def watched(self, model: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
        """The layer whose features are compared.

        Raises:
            PluginError: there is none of that name, or no convolution and none is named.
        """
        name = self.params.layer
        if name is None:
            try:
                return cxr.last_conv(model, x)
            except ValueError as error:
                raise cxr.PluginError(f"{self.name}: {error}") from error
        layers: dict[str, torch.nn.Module] = dict(model.named_modules())
        if name not in layers:
            close = difflib.get_close_matches(name, layers, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "leave 'layer' out to take the last convolution"
            raise cxr.PluginError(f"{self.name}: {type(model).__name__} has no layer '{name}'; {hint}")
        return layers[name]
