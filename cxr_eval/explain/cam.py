"""Class activation maps of networks that end in global average pooling and one linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.explain.methods import IMAGES, in_chunks


@dataclass(frozen=True)
class _Head:
    """Where a network's logits come from: `linear` of the spatial mean of the map that `layer` puts out.

    relu: a ReLU stands between that is a call in the network's forward and no layer (DenseNet). weight: (K, C), a row a logit.
    """

    layer: torch.nn.Module
    relu: bool
    weight: torch.Tensor


class CAM(cxr.Explainer):
    """Channels of the last feature map, weighted by the linear head's weights for the target: sum over k of w[c, k] A_k.

    Signed: the mean over the map, plus the head's bias, is the target's logit. Needs a network whose logits are one linear
    layer of a globally average-pooled feature map, such as torchvision's ResNet, DenseNet, MobileNetV2, EfficientNet,
    GoogLeNet and Inception v3, and truncated_densenet121.
    Source: Zhou et al., CVPR 2016, arXiv:1512.04150, eq. 2; bilinear enlargement to the image.
    """

    source = "Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, arXiv:1512.04150, eq. 2"

    class Params(cxr.Params):
        relu: bool = cxr.Field(False, description="keep only what speaks for the target; false keeps both signs (the paper)")

    params: Params

    @property
    def sign(self) -> Literal["positive", "signed"]:
        return "positive" if self.params.relu else "signed"

    def check(self, model: torch.nn.Module, x: torch.Tensor) -> None:
        """Refuse a network without such a head.

        Raises:
            PluginError: the logits are not one linear layer of a pooled feature map larger than 1 x 1.
        """
        _find_head(model, x)

    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Class activation maps, float32 (N, H, W); >= 0 if `relu`. One forward pass an image.

        Raises:
            PluginError: the logits are not one linear layer of a pooled feature map larger than 1 x 1.
        """
        if not len(x):
            return x.new_zeros((0, *x.shape[2:]))
        head = _find_head(model, x)
        seen: list[torch.Tensor] = []
        hook = head.layer.register_forward_hook(lambda _, __, output: seen.append(output.clone()))

        def attribute(part: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            seen.clear()
            with torch.no_grad():
                model(part)
                features = seen[-1].relu() if head.relu else seen[-1]
                cam = torch.einsum("nc,nchw->nhw", head.weight[goal], features)  # eq. 2
                cam = cam.relu() if self.params.relu else cam
                enlarged = functional.interpolate(cam[:, None], size=part.shape[2:], mode="bilinear", align_corners=False)
            return enlarged.squeeze(1)

        try:
            with cxr.frozen(model):
                return in_chunks(attribute, x, target, size=IMAGES)
        finally:
            hook.remove()


def _find_head(model: torch.nn.Module, x: torch.Tensor) -> _Head:
    """The head, found by running two images and looking for the map whose spatial mean the last linear layer takes.

    By numbers, because pooling, ReLU, dropout and flattening may be layers or mere calls in the network's forward.
    x: images of the shape that the network takes, (N, C, H, W); their values do not matter.

    Raises:
        PluginError: there is none; the message says what there is instead.
    """
    maps: dict[torch.nn.Module, torch.Tensor] = {}  # clones: a ReLU in place may follow
    linears: list[tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]] = []

    def remember(module: torch.nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if isinstance(module, torch.nn.Linear) and isinstance(output, torch.Tensor) and isinstance(inputs[0], torch.Tensor):
            linears.append((module, inputs[0], output))
        elif isinstance(output, torch.Tensor) and output.ndim == 4:
            maps.pop(module, None)  # a layer that runs twice stands where it ran last
            maps[module] = output.clone()

    # noise, not images: of a black one all features may be zero, and then every map has the mean that is looked for
    noise = torch.rand((2, *x.shape[1:]), generator=torch.Generator().manual_seed(0)).to(x)
    hooks = [module.register_forward_hook(remember) for module in model.modules()]
    try:
        with cxr.frozen(model), torch.no_grad():
            logits = model(noise)
    finally:
        for hook in hooks:
            hook.remove()
    if not linears:
        raise _refusal("runs no linear layer")
    linear, pooled, output = linears[-1]
    weight = linear.weight.detach()
    if output.shape == (2, 1) and logits.shape == (2, 2) and torch.equal(logits, torch.cat((-output, output), 1) / 2):
        weight = torch.cat((-weight, weight)) / 2  # one logit z for two classes, as (-z/2, z/2)
    elif output.shape != logits.shape or not torch.equal(output, logits):
        raise _refusal("changes what its last linear layer puts out")
    if pooled.ndim != 2:
        raise _refusal(f"gives its last linear layer {pooled.ndim} axes")
    found: list[tuple[torch.nn.Module, bool, bool]] = []
    for layer, features in maps.items():
        for relu in (False, True):
            mean = (features.relu() if relu else features).mean(dim=(2, 3))
            # float32 means of up to some ten thousand values, summed in another order
            if mean.shape == pooled.shape and torch.allclose(mean, pooled, rtol=1e-4, atol=1e-5 * float(pooled.abs().max())):
                found.append((layer, relu, features.shape[2] * features.shape[3] > 1))
                break
    if not found:
        raise _refusal(f"gives its last linear layer {pooled.shape[1]} values that are no feature map's spatial means")
    unpooled = [(layer, relu) for layer, relu, is_map in found if is_map]
    if not unpooled:
        raise _refusal(
            f"gives its last linear layer a 1 x 1 map: images of {x.shape[-2]} x {x.shape[-1]} pixels are too small for it, or"
            " a layer follows the pooling",
            "raise data.size or use gradcam",
        )
    layer, relu = unpooled[-1]
    return _Head(layer, relu, weight)


def _refusal(found: str, remedy: str = "use gradcam") -> cxr.PluginError:
    return cxr.PluginError(
        "cam: expected logits that are one linear layer of a globally average-pooled feature map, but this network"
        f" {found}; {remedy}"
    )
