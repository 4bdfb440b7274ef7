"""FullGrad: the target's logit divided among the pixels and the biases of all layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import cxr_eval.api as cxr
from cxr_eval.explain.methods import IMAGES, in_chunks

NOISE_SEED = 0
"""Of the noise of `variant: smooth`; every image gets the same, so that its map does not depend on its neighbours."""


class FullGrad(cxr.Explainer):
    """Gradient times input and gradient times bias of every layer, each scaled to [0, 1] an image, summed.

    The parts sum to the target's logit, exactly so for networks of convolutions, BatchNorm, ReLU, max and average pooling
    (completeness); other activations and normalisations have offsets of their own that no part holds. The input is the image
    behind the network's normalisation, as in the authors' code. Parts without rows and columns (of linear layers) do not enter
    the map.
    Source: Srinivas and Fleuret, NeurIPS 2019, arXiv:1905.00780; psi and the variants as in idiap/fullgrad-saliency.
    """

    source = (
        "Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019, arXiv:1905.00780"
    )

    class Params(cxr.Params):
        variant: Literal["full", "simple", "smooth"] = cxr.Field(
            "full",
            description="full: the paper; simple: gradients of the layers without their biases; smooth: parts averaged over"
            " noisy copies of the image (both of the authors' code)",
        )
        samples: int = cxr.Field(25, ge=1, le=1000, description="noisy copies of `smooth` (the authors' code: 25)")
        spread: float = cxr.Field(
            0.15,
            gt=0,
            le=1,
            description="deviation of the noise of `smooth`, as a share of the image's range (the authors' code: 0.15)",
        )

    params: Params

    def decompose(
        self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The parts of each target's logit: the input's, (N, C, H, W), and one a call that adds a bias, shaped as its output.

        Of `variant: simple`, the latter are gradients alone. x: (N, C, H, W). target: (N,).
        """
        leaf = x.detach().clone().requires_grad_(True)
        with cxr.frozen(model):
            return _decompose(model, leaf, target, times_bias=self.params.variant != "simple")

    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Maps >= 0, float32 (N, H, W). One forward and one backward pass an image, `samples` of them if smooth."""

        def attribute(part: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            if self.params.variant == "smooth":
                parts = self._averaged(model, part.detach(), goal)
            else:
                inputs, biases = _decompose(model, part, goal, times_bias=self.params.variant == "full")
                parts = [inputs, *biases]
            return sum((_spread_out(each, part.shape[2:]) for each in parts if each.ndim == 4), torch.zeros_like(part[:, 0]))

        with cxr.frozen(model):
            return in_chunks(attribute, x, target, size=IMAGES)

    def _averaged(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        """Signed parts, the input's summed over channels, averaged over noisy copies of the images."""
        rng = torch.Generator().manual_seed(NOISE_SEED)
        flat = x.flatten(1)
        scale = self.params.spread * (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
        total: list[torch.Tensor] = []
        for _ in range(self.params.samples):
            noise = torch.randn(x.shape[1:], generator=rng).to(x)
            inputs, biases = _decompose(model, (x + scale * noise).requires_grad_(True), target, times_bias=True)
            parts = [inputs.sum(dim=1, keepdim=True) if inputs.ndim == 4 else inputs, *biases]
            total = [before + part for before, part in zip(total, parts, strict=True)] if total else parts
        return [part / self.params.samples for part in total]


def _spread_out(part: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """psi: size of a part (N, C, h, w), scaled to [0, 1] an image, enlarged and summed over channels, (N, H, W)."""
    flat = part.abs().flatten(1)
    flat = flat - flat.amin(dim=1, keepdim=True)
    flat = flat / (flat.amax(dim=1, keepdim=True) + 1e-6)
    scaled = flat.view_as(part)
    return functional.interpolate(scaled, size=size, mode="bilinear", align_corners=True).sum(dim=1)


def _decompose(
    model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor, *, times_bias: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Parts of the logits of a frozen model; x is a leaf that requires its gradient."""
    biases = _Biases()
    entry, leave = _watch_entry(model, x)
    try:
        with torch.enable_grad(), biases:
            scalar = model(x).gather(1, target[:, None]).sum()  # raw logits; no image sees another's
        image = entry()
        gradients = torch.autograd.grad(scalar, [image, *biases.outputs], allow_unused=True)
    finally:
        leave()
    first = torch.zeros_like(image) if gradients[0] is None else gradients[0]
    parts = []
    for output, bias, gradient in zip(biases.outputs, biases.added, gradients[1:], strict=True):
        gradient = torch.zeros_like(output) if gradient is None else gradient
        parts.append((gradient * bias if times_bias else gradient).detach())
    return (first * image).detach(), parts


def _watch_entry(model: torch.nn.Module, x: torch.Tensor) -> tuple[Callable[[], torch.Tensor], Callable[[], None]]:
    """The image as the first layer sees it, behind the normalisation, once the model has run; and how to stop watching.

    It is the last tensor of the image's shape that a module takes up to the first one without children.
    """
    seen, reached = [x], [False]

    def remember(module: torch.nn.Module, inputs: tuple[object, ...]) -> None:
        if reached[0]:
            return
        if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].shape == x.shape:
            seen[0] = inputs[0]
        reached[0] = not any(True for _ in module.children())

    hooks = [module.register_forward_pre_hook(remember) for module in model.modules()]

    def leave() -> None:
        for hook in hooks:
            hook.remove()

    return lambda: seen[0], leave


class _Biases(TorchFunctionMode):
    """Every call that adds a fixed offset while it is entered: its output and the offset, broadcasting over the output.

    Calls and not modules: a module may run twice, never, or follow its own addition by an activation. What is handed on is a
    copy of the output, so that a ReLU in place does not overwrite what the gradient is taken at.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[torch.Tensor] = []
        self.added: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        read = _OFFSETS.get(func)
        offset = None if read is None else read(*args, **(kwargs or {}))
        if offset is None or not output.requires_grad:  # no gradient: it does not depend on the image
            return output
        shape = [1] * output.ndim
        shape[-1 if func is functional.linear else 1] = -1
        self.outputs.append(output)
        self.added.append(offset.detach().view(shape))
        return output.clone()


def _of_bias(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *_: Any, **__: Any) -> Any:
    return bias


def _of_batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor | None:
    """beta - mean * gamma / sqrt(var + eps); none where the batch's own statistics are taken, which are no fixed offset."""
    if training or running_mean is None or running_var is None:
        return None
    shift = -running_mean / torch.sqrt(running_var + eps)
    shift = shift if weight is None else shift * weight
    return shift if bias is None else shift + bias


_OFFSETS: dict[Callable[..., Any], Callable[..., torch.Tensor | None]] = {
    functional.conv2d: _of_bias,
    functional.linear: _of_bias,
    functional.batch_norm: _of_batch_norm,
}
