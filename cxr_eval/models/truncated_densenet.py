"""DenseNet-121 without its third and fourth dense block: finer class activation maps."""

from __future__ import annotations

import logging
from typing import ClassVar

import torch

import cxr_eval.api as cxr
from cxr_eval.models.adapt import normalised, take_grey, try_out
from cxr_eval.models.weights import Normalised, State, load_weights
from cxr_eval.models.zoo import IMAGENET_MEAN, IMAGENET_STD, read_or_download, torchvision_params, weight_names

FULL = "densenet121"

LEFT_OUT = ("features.transition2.", "features.denseblock3.", "features.transition3.", "features.denseblock4.")

# has 512 channels here and 1,024 in the full network
LAST_NORM = "features.norm5."

log = logging.getLogger(__name__)


class TruncatedDenseNet121(cxr.ModelBuilder):
    """DenseNet-121 of torchvision without dense blocks 3 and 4 and transitions 2 and 3.

    Two dense blocks, BatchNorm, ReLU, global average pooling and one linear layer over 512 channels. For an image of 224 x 224
    the last feature map, and so the class activation map, is 28 x 28 (the full network: 7 x 7).
    Weights of the full network fill the layers that are kept; the last BatchNorm and the head start anew.

    One channel: the first convolution is summed over its three input channels.
    Source: Khakzar et al., MICCAI 2019, arXiv:1905.03767.
    """

    source = (
        "Khakzar, Albarqouni, Navab, Learning Interpretable Features via Adversarially Robust Optimization, MICCAI 2019,"
        " arXiv:1905.03767"
    )

    Params: ClassVar[type[cxr.Params]] = torchvision_params(FULL)

    def build(self, *, channels: int, classes: int, size: int) -> torch.nn.Module:
        """A network from (N, channels, size, size) in [0, 1] to logits (N, classes).

        Raises:
            PluginError: the images are too small, the weights do not fit, or they cannot be downloaded.
        """
        from torchvision.models import DenseNet

        name = "truncated_densenet121"
        weights: str | None = self.params.weights
        net = DenseNet(growth_rate=32, block_config=(6, 12), num_init_features=64, num_classes=classes)
        if channels == 1:
            take_grey(net)
        module = normalised(net, channels, IMAGENET_MEAN, IMAGENET_STD)
        if weights is not None:
            state = read_or_download(FULL, weights, weight_names(FULL))
            load_weights(module, _kept(state, module, weights), origin=weights)
        try_out(module, name, channels=channels, classes=classes, size=size, hint="it needs 5 pixels at least; raise data.size")
        return module


def _kept(state: State, module: Normalised, origin: str) -> State:
    """Of the full network's weights those that the truncated one has, its own last BatchNorm beside them."""
    prefix = "net." if any(name.startswith("net.") for name in state) else ""
    kept = {name: value for name, value in state.items() if not name.removeprefix(prefix).startswith(LEFT_OUT)}
    if len(kept) == len(state):
        return state
    log.info(
        "%s: weights of the full %s; %s are left out, %s starts anew",
        origin,
        FULL,
        ", ".join(sorted(part.removesuffix(".") for part in LEFT_OUT)),
        LAST_NORM.removesuffix("."),
    )
    own = {f"{prefix}{name}": value for name, value in module.net.state_dict().items() if name.startswith(LAST_NORM)}
    return kept | own
