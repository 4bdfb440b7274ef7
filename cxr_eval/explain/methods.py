"""Attribution maps by captum: saliency, integrated gradients and Grad-CAM, each the same alone and in a batch."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Literal

import captum.attr
import torch
from torch.nn import functional

import cxr_eval.api as cxr

IMAGES = 32
"""Images explained in one pass; bounds the memory, changes no number."""

PATH_IMAGES = 128
"""Points on all integration paths of one pass (images times steps)."""


def in_chunks(
    attribute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, target: torch.Tensor, *, size: int
) -> torch.Tensor:
    """Maps (N, H, W) float32 without gradient, made `size` images at a time; the caller's x is neither changed nor held.

    A fresh leaf is handed on, because captum marks the tensor it is given.
    """
    if not len(x):
        return x.new_zeros((0, *x.shape[2:]))
    pairs = zip(torch.split(x.detach(), size), torch.split(target, size), strict=True)
    return torch.cat([attribute(part.clone().requires_grad_(True), goal).detach().float() for part, goal in pairs])


def _clipped(maps: torch.Tensor, deviations: float) -> torch.Tensor:
    """Maps (N, H, W) with sizes clipped at mean + deviations x standard deviation and scaled to at most 1; signs are kept.

    A map that is zero everywhere stays so.
    """
    size = maps.abs()
    limit = size.mean(dim=(1, 2), keepdim=True) + deviations * size.std(dim=(1, 2), correction=0, keepdim=True)
    clipped = size.minimum(limit)
    largest = clipped.amax(dim=(1, 2), keepdim=True)
    return maps.sign() * clipped / torch.where(largest == 0, 1, largest)


class Saliency(cxr.Explainer):
    """The gradient of the target's logit with respect to the pixels.

    Source: Simonyan et al., ICLR workshop 2014, arXiv:1312.6034, section 3.1; `clip` after Khakzar et al., MICCAI 2019,
    arXiv:1905.03767.
    """

    source = "Simonyan et al., Deep Inside Convolutional Networks, ICLR workshop 2014, arXiv:1312.6034, sec. 3.1"

    class Params(cxr.Params):
        absolute: bool = cxr.Field(True, description="size of the gradient; false keeps its sign (Simonyan: size)")
        channels: Literal["max", "sum"] = cxr.Field(
            "max", description="over colour channels: the value of largest size (Simonyan, sec. 3.1), or the sum"
        )
        clip: float | None = cxr.Field(
            None,
            gt=0,
            description="sizes are clipped at their mean plus this many standard deviations, image by image, and the largest is"
            " scaled to 1 (Khakzar et al. 2019: 3); as they are if not given",
        )

    params: Params

    @property
    def sign(self) -> Literal["positive", "signed"]:
        return "positive" if self.params.absolute else "signed"

    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Gradient maps, float32 (N, H, W); >= 0 if `absolute`. One forward and one backward pass an image."""
        method = captum.attr.Saliency(model)

        def attribute(part: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            gradient: torch.Tensor = method.attribute(part, target=goal, abs=self.params.absolute)
            if self.params.channels == "sum":
                made = gradient.sum(dim=1)
            else:
                made = gradient.gather(1, gradient.abs().argmax(dim=1, keepdim=True)).squeeze(1)
            return made if self.params.clip is None else _clipped(made, self.params.clip)

        with cxr.frozen(model):
            return in_chunks(attribute, x, target, size=IMAGES)


class IntegratedGradients(cxr.Explainer):
    """The gradient of the target's logit, averaged along the line from a baseline to the image, times their difference.

    Sums over the pixels to logit(image) - logit(baseline) up to the integration error (completeness).
    Source: Sundararajan et al., ICML 2017, arXiv:1703.01365, eq. 1; Gauss-Legendre quadrature by captum.
    """

    source = "Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, arXiv:1703.01365, eq. 1"

    class Params(cxr.Params):
        steps: int = cxr.Field(32, ge=2, le=1000, description="points on the path (the paper: 20 to 300), Gauss-Legendre")
        baseline: Literal["black", "mean", "white"] = cxr.Field(
            "black", description="where the path starts: pixels at 0 (the paper), each image's own mean a channel, or at 1"
        )
        absolute: bool = cxr.Field(False, description="size of the attribution; false keeps its sign (the paper)")

    params: Params

    @property
    def sign(self) -> Literal["positive", "signed"]:
        return "positive" if self.params.absolute else "signed"

    def baseline(self, x: torch.Tensor) -> torch.Tensor:
        """Start of each image's path, shaped like x."""
        if self.params.baseline == "mean":
            return x.mean(dim=(2, 3), keepdim=True).expand_as(x)
        return torch.full_like(x, 0.0 if self.params.baseline == "black" else 1.0)

    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Attributions summed over channels, float32 (N, H, W). `steps` forward and backward passes an image."""
        method = captum.attr.IntegratedGradients(model)

        def attribute(part: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            attributions: torch.Tensor = method.attribute(
                part, baselines=self.baseline(part.detach()), target=goal, n_steps=self.params.steps, method="gausslegendre"
            )
            summed = attributions.sum(dim=1)
            return summed.abs() if self.params.absolute else summed

        with cxr.frozen(model):
            return in_chunks(attribute, x, target, size=max(1, PATH_IMAGES // self.params.steps))


class GradCAM(cxr.Explainer):
    """Channels of the last convolutional feature map, weighted by the mean gradient of the target's logit.

    A map that is zero everywhere is a true answer: no channel speaks for the target.
    Source: Selvaraju et al., ICCV 2017, arXiv:1610.02391, eq. 1 and 2; bilinear enlargement to the image.
    """

    source = "Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391, eq. 1 and 2"

    class Params(cxr.Params):
        layer: str | None = cxr.Field(
            None, description="name of a layer with (N, C, H, W) output; without it the last convolutional feature map"
        )
        relu: bool = cxr.Field(True, description="keep only what speaks for the target (eq. 2); false keeps both signs")

    params: Params

    @property
    def sign(self) -> Literal["positive", "signed"]:
        return "positive" if self.params.relu else "signed"

    def layer(self, model: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
        """The layer that is explained.

        Raises:
            PluginError: the network has no layer of that name, or none is named and it runs no convolution.
        """
        name = self.params.layer
        if name is None:
            try:
                return cxr.last_conv(model, x[:1])
            except ValueError as error:
                raise cxr.PluginError(f"gradcam: {error}") from error
        layers = dict(model.named_modules())
        if not name or name not in layers:
            close = difflib.get_close_matches(name, layers, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "; leave 'layer' out to take the last convolution"
            raise cxr.PluginError(f"gradcam: {type(model).__name__} has no layer '{name}'{hint}")
        found: torch.nn.Module = layers[name]
        return found

    def check(self, model: torch.nn.Module, x: torch.Tensor) -> None:
        """Refuse a network without the layer.

        Raises:
            PluginError: the layer is not there, or there is no convolution.
        """
        self.layer(model, x)

    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Class activation maps, float32 (N, H, W); >= 0 if `relu`. One forward and a part of a backward pass an image.

        Raises:
            PluginError: the layer is not there, does not run, or its output is not (N, C, H, W).
        """
        if not len(x):
            return x.new_zeros((0, *x.shape[2:]))
        with cxr.frozen(model):
            layer = self.layer(model, x)
            method = captum.attr.LayerGradCam(model, layer)

            def attribute(part: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
                # detached: the gradient then ends at the layer and the layers before it are spared
                try:
                    cam = method.attribute(part.detach(), target=goal, relu_attributions=self.params.relu)
                except AssertionError as error:  # captum: the hook on the layer was never called
                    raise cxr.PluginError(
                        f"gradcam: layer '{self.params.layer}' does not run when the network does; name a convolution"
                    ) from error
                if not isinstance(cam, torch.Tensor) or cam.ndim != 4:
                    got = "several tensors" if not isinstance(cam, torch.Tensor) else f"{cam.ndim} axes"
                    raise cxr.PluginError(
                        f"gradcam: layer '{self.params.layer}' must put out (N, C, H, W), got {got}; name a convolution"
                    )
                enlarged = functional.interpolate(cam, size=part.shape[2:], mode="bilinear", align_corners=False)
                return enlarged.squeeze(1)

            return in_chunks(attribute, x, target, size=IMAGES)
