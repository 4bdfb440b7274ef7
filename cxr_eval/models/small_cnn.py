"""A small convolutional network for demonstrations and tests."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BeforeValidator

import cxr_eval.api as cxr
from cxr_eval.models.weights import Normalised

MIDDLE_GREY = 0.5
GREY_SPREAD = 0.25  # X-rays fill [0, 1] with a standard deviation of about a quarter


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Width = Annotated[int, cxr.Field(ge=1)]


class SmallCNN(cxr.ModelBuilder):
    """Four 3x3 convolutions, global average pooling and a linear head; no BatchNorm, no in-place operation.

    Without BatchNorm it learns within a few dozen steps and gives an image the same logits whatever batch it stands in.
    """

    source = (
        "four layers in the manner of Lin et al., Network In Network, ICLR 2014, arXiv:1312.4400, sec. 3.2 (global pooling)"
    )

    class Params(cxr.Params):
        widths: Annotated[tuple[Width, Width, Width, Width], BeforeValidator(_listed)] = cxr.Field(
            (16, 32, 64, 64), description="channels of the four convolutions; the default has about 60 000 weights"
        )

    def build(self, *, channels: int, classes: int, size: int) -> torch.nn.Module:
        """A network from (N, channels, size, size) in [0, 1] to logits (N, classes).

        Raises:
            PluginError: images are smaller than 8 pixels.
        """
        if size < 8:
            raise cxr.PluginError(f"small_cnn: needs images of at least 8 x 8 pixels, got {size} x {size}; raise data.size")
        widths: tuple[int, ...] = self.params.widths
        layers: list[torch.nn.Module] = []
        for place, (before, after) in enumerate(zip((channels, *widths), widths, strict=False)):
            conv = torch.nn.Conv2d(before, after, 3, padding=1)
            # torch's default shrinks the signal by about 0.4 a layer, which nothing restores without BatchNorm
            torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            torch.nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, torch.nn.ReLU()]
            if place < 3:
                layers.append(torch.nn.MaxPool2d(2))
        net = torch.nn.Sequential(
            *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(widths[-1], classes)
        )
        return Normalised(net, (MIDDLE_GREY,) * channels, (GREY_SPREAD,) * channels)
