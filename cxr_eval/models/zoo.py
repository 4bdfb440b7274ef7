"""Networks of torchvision and MONAI by name, ready for images in [0, 1]."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import field_validator

import cxr_eval.api as cxr
from cxr_eval.models.adapt import named, normalised, take_grey, too_small, try_out
from cxr_eval.models.weights import SUFFIXES, Normalised, State, file_must_be_there, load_weights, names_file, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# trained by Google on (x - 0.5) / 0.5; torchvision converts inside the network (transform_input), which we leave off
HALF = ("googlenet", "inception_v3")

# weights of side outputs that help to train these two and that no one asks for logits
SIDE_OUTPUTS = ("aux1.", "aux2.", "AuxLogits.")

SIDE_OUTPUTS_TOLD = """

Its side outputs, which only help to train it, are left out: it gives plain logits in training too, and a weights file may
have them or not."""

# torchvision's stored DenseNet weights use names of 2017: norm.1.weight for norm1.weight
OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var|num_batches_tracked))$"
)

MONAI_SOURCE = "MONAI, monai.networks.nets.{}, https://docs.monai.io/en/stable/networks.html"


class Torchvision(cxr.Family):
    """Every classification network of torchvision."""

    library = "torchvision"

    bare: ClassVar[bool] = True

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names as torchvision.models.list_models prints them, such as resnet18."""
        from torchvision import models

        return tuple(models.list_models(module=models))

    @classmethod
    def member(cls, name: str) -> type[cxr.ModelBuilder]:
        """The builder of one network.

        Raises:
            KeyError: torchvision has no such classification network.
        """
        if name not in cls.names():
            raise KeyError(name)
        return _torchvision_builder(name)


def weight_names(name: str) -> dict[str, Any]:
    """torchvision's stored weights of one architecture by name; those without a trained classifier are left out."""
    from torchvision import models

    members = models.get_model_weights(name).__members__
    return {known: weights for known, weights in members.items() if not known.endswith("_FEATURES")}


def torchvision_params(name: str) -> type[cxr.Params]:
    """Settings of a builder that starts from torchvision's weights of one architecture."""

    class Settings(cxr.Params):
        weights: str | None = cxr.Field(
            None,
            description="a weights file (.safetensors, .pth, .pt; a head of another number of classes starts anew), or a name"
            " of torchvision's such as DEFAULT, which is downloaded; random if not given",
        )

        @field_validator("weights")
        @classmethod
        def _known(cls, weights: str | None) -> str | None:
            if weights is None or weights in weight_names(name):
                return weights
            if names_file(weights):
                return file_must_be_there(weights)
            known = ", ".join(weight_names(name))
            raise ValueError(f"expected a weights file ({', '.join(SUFFIXES)}) or one of {known}, got '{weights}'")

    return Settings


@cache
def _torchvision_builder(name: str) -> type[cxr.ModelBuilder]:
    class Builder(cxr.ModelBuilder):
        source = f"torchvision.models.{name}, https://docs.pytorch.org/vision/stable/models.html"
        Params = torchvision_params(name)

        def build(self, *, channels: int, classes: int, size: int) -> torch.nn.Module:
            return _build_torchvision(name, self.params.weights, channels=channels, classes=classes, size=size)

    return named(
        Builder,
        name,
        f"{name} of torchvision, its head made for the task's classes.\n\n"
        "One channel: the first convolution is summed over its three input channels, so that it answers a grey image as the\n"
        "original answers the same image in three channels." + (SIDE_OUTPUTS_TOLD if name in HALF else ""),
    )


def _build_torchvision(name: str, weights: str | None, *, channels: int, classes: int, size: int) -> Normalised:
    from torchvision import models

    known = weight_names(name)
    chosen = known.get(weights or "DEFAULT", known["DEFAULT"])
    preset = chosen.transforms()
    hint = f"torchvision's weights were made for at least {max(chosen.meta['min_size'])} pixels; raise data.size"
    special: dict[str, Any] = {}
    if name in HALF:
        special = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        special = {"image_size": size}
    elif name.startswith("maxvit_"):
        special = {"input_size": (size, size)}
    try:
        net = models.get_model(name, weights=None, num_classes=classes, **special)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise too_small(name, size, error, hint) from error
    if channels == 1:
        take_grey(net)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name in HALF else (tuple(preset.mean), tuple(preset.std))
    module = normalised(net, channels, mean, std)
    if weights is not None:
        state = read_or_download(name, weights, known)
        if name.startswith("vit_"):
            state = _resize_positions(name, state, size=size, patch=net.patch_size)
        load_weights(module, state, origin=weights, unused=lambda key: key.removeprefix("net.").startswith(SIDE_OUTPUTS))
    try_out(module, name, channels=channels, classes=classes, size=size, hint=hint)
    return module


def read_or_download(name: str, weights: str, known: dict[str, Any]) -> State:
    """Weights of one of torchvision's architectures: from a file, or by one of the names in `known`.

    Raises:
        PluginError: the file cannot be read, or the download fails.
    """
    if weights not in known:
        state = read_weights(Path(weights).expanduser())
    else:
        try:
            state = known[weights].get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise cxr.PluginError(
                f"{name}: weights {weights} cannot be downloaded ({error}); fetch {known[weights].url} elsewhere and give the"
                " file's path as 'weights'"
            ) from error
    if name.startswith("densenet"):
        state = {OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    return state


def _resize_positions(name: str, state: State, *, size: int, patch: int) -> State:
    """A vision transformer's position table for images of another size, by bicubic interpolation as torchvision does."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    key = next((key for key in state if key.endswith("encoder.pos_embedding")), None)
    if key is None or state[key].ndim != 3 or state[key].shape[1] == (size // patch) ** 2 + 1:
        return state
    try:
        table = interpolate_embeddings(size, patch, {"encoder.pos_embedding": state[key]})
    except ValueError as error:
        raise cxr.PluginError(f"{name}: the position table of these weights cannot be resized: {error}") from error
    return {**state, key: table["encoder.pos_embedding"]}


class _MonaiParams(cxr.Params):
    weights: str | None = cxr.Field(
        None, description="a weights file (.safetensors, .pth, .pt); nothing is downloaded; random if not given"
    )

    @field_validator("weights")
    @classmethod
    def _a_file(cls, weights: str | None) -> str | None:
        if weights is None:
            return None
        if not names_file(weights):
            raise ValueError(f"expected a weights file ({', '.join(SUFFIXES)}), got '{weights}'")
        return file_must_be_there(weights)


class _DenseNetParams(_MonaiParams):
    dropout_prob: float = cxr.Field(0.0, ge=0, lt=1, description="dropout after each dense layer")


class _EfficientNetParams(_MonaiParams):
    model_name: Literal[
        "efficientnet-b0",
        "efficientnet-b1",
        "efficientnet-b2",
        "efficientnet-b3",
        "efficientnet-b4",
        "efficientnet-b5",
        "efficientnet-b6",
        "efficientnet-b7",
        "efficientnet-b8",
    ] = cxr.Field("efficientnet-b0", description="width and depth, as the paper counts them")


class _ResNetParams(_MonaiParams):
    conv1_t_stride: Literal[1, 2] = cxr.Field(
        2, description="stride of the first convolution; 2 as in the paper, MONAI's own default is 1 and four times the work"
    )


_MONAI: dict[str, type[_MonaiParams]] = {
    **{f"DenseNet{depth}": _DenseNetParams for depth in (121, 169, 201, 264)},
    "EfficientNetBN": _EfficientNetParams,
    **{f"resnet{depth}": _ResNetParams for depth in (10, 18, 34, 50, 101, 152, 200)},
    **{f"SEResNet{depth}": _MonaiParams for depth in (50, 101, 152)},
    **{f"SEResNext{depth}": _MonaiParams for depth in (50, 101)},
    "SENet154": _MonaiParams,
}


class Monai(cxr.Family):
    """MONAI's networks that classify 2D images, trained from scratch or from a file."""

    library = "monai"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names as in monai.networks.nets, such as DenseNet121."""
        return tuple(_MONAI)

    @classmethod
    def member(cls, name: str) -> type[cxr.ModelBuilder]:
        """The builder of one network.

        Raises:
            KeyError: MONAI has no such network, or it does not classify 2D images.
        """
        return _monai_builder(name, _MONAI[name])


@cache
def _monai_builder(name: str, settings: type[_MonaiParams]) -> type[cxr.ModelBuilder]:
    class Builder(cxr.ModelBuilder):
        source = MONAI_SOURCE.format(name)
        Params = settings

        def build(self, *, channels: int, classes: int, size: int) -> torch.nn.Module:
            own: _MonaiParams = self.params
            return _build_monai(name, own, channels=channels, classes=classes, size=size)

    return named(Builder, name, f"{name} of MONAI in two dimensions.")


def _build_monai(name: str, settings: _MonaiParams, *, channels: int, classes: int, size: int) -> Normalised:
    from monai.networks import nets

    own = settings.model_dump(exclude={"weights"})
    if isinstance(settings, _DenseNetParams):
        sizes: dict[str, Any] = {"in_channels": channels, "out_channels": classes}
    elif isinstance(settings, _ResNetParams):
        sizes = {"n_input_channels": channels, "num_classes": classes}
    else:
        sizes = {"in_channels": channels, "num_classes": classes}
    # pretrained is True by default in some of them and would download
    net = getattr(nets, name)(spatial_dims=2, pretrained=False, **sizes, **own)
    module = normalised(net, channels, IMAGENET_MEAN, IMAGENET_STD)
    if settings.weights is not None:
        load_weights(module, read_weights(Path(settings.weights).expanduser()), origin=settings.weights)
    try_out(module, name, channels=channels, classes=classes, size=size, hint="raise data.size")
    return module
