"""A library's network made ready for our images: normalisation in front, one channel, nothing in place, tried out."""

from __future__ import annotations

import torch

import cxr_eval.api as cxr
from cxr_eval.models.weights import Normalised, first_conv


def normalised(net: torch.nn.Module, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalised:
    """The network behind its normalisation; one channel takes the average of the three means and deviations."""
    if channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    for part in net.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]  # explanations read the outputs that it would overwrite
    return Normalised(net, mean, std)


def try_out(module: Normalised, name: str, *, channels: int, classes: int, size: int, hint: str) -> None:
    """Run one black image of size x size through a network, and leave it in training mode.

    Raises:
        PluginError: it cannot take the image, or does not give logits (1, classes).
    """
    try:
        with torch.no_grad():
            logits = module.eval()(torch.zeros(1, channels, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise too_small(name, size, error, hint) from error
    finally:
        module.train()
    if logits.shape != (1, classes):
        raise cxr.PluginError(f"{name}: expected logits (1, {classes}), got {tuple(logits.shape)}; take another network")


def too_small(name: str, size: int, error: Exception, hint: str) -> cxr.PluginError:
    """The error for a network that failed on images of this size; `hint` says what to do."""
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    return cxr.PluginError(f"{name}: cannot take images of {size} x {size} pixels ({reason}); {hint}")


def take_grey(net: torch.nn.Module) -> None:
    """Replace the first convolution by one for one channel, its weights summed over the input channels.

    Random weights too: the first layer then answers a grey image as strongly as the architecture's initialisation meant it to.
    """
    name = first_conv(net)
    conv = net.get_submodule(name)
    assert isinstance(conv, torch.nn.Conv2d)
    grey = torch.nn.Conv2d(
        1,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )
    with torch.no_grad():
        grey.weight.copy_(conv.weight.sum(dim=1, keepdim=True))
        if conv.bias is not None and grey.bias is not None:
            grey.bias.copy_(conv.bias)
    net.set_submodule(name, grey)


def named(builder: type[cxr.ModelBuilder], name: str, doc: str) -> type[cxr.ModelBuilder]:
    """The builder of one member of a family, under the member's name and with its own page."""
    builder.__name__ = builder.__qualname__ = name
    builder.__doc__ = doc
    return builder
