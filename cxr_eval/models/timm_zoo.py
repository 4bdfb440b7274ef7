"""Networks of timm by name, ready for images in [0, 1]; timm is an optional extra."""

from __future__ import annotations

import importlib.util
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import field_validator

import cxr_eval.api as cxr
from cxr_eval.models.adapt import named, normalised, too_small, try_out
from cxr_eval.models.weights import SUFFIXES, file_must_be_there, load_weights, names_file, read_weights

PRETRAINED = "pretrained"
PATIENCE = 10.0
"""Seconds that the server of the weights may take to answer at all."""


class Timm(cxr.Family):
    """Every network of timm (PyTorch Image Models); needs the extra: pip install 'cxr-eval[timm]'.

    Has families that torchvision lacks: timm/legacy_xception, timm/inception_resnet_v2, timm/resnetv2_50, timm/nasnetalarge,
    timm/tf_efficientnetv2_b0.
    """

    library = "timm"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names as timm.list_models prints them; none where timm is not installed."""
        if not _installed():
            return ()
        import timm

        return tuple(timm.list_models())

    @classmethod
    def member(cls, name: str) -> type[cxr.ModelBuilder]:
        """The builder of one network.

        Raises:
            KeyError: timm has no such network.
            PluginError: timm is not installed.
        """
        if not _installed():
            raise cxr.PluginError(f"timm/{name}: timm is not installed; pip install 'cxr-eval[timm]'")
        if name not in cls.names():
            raise KeyError(name)
        return _builder(name)


def _installed() -> bool:
    return importlib.util.find_spec("timm") is not None


@cache
def _builder(name: str) -> type[cxr.ModelBuilder]:
    class Settings(cxr.Params):
        weights: str | None = cxr.Field(
            None,
            description="a weights file (.safetensors, .pth, .pt; a head of another number of classes starts anew), or"
            " 'pretrained': what timm offers for this name, downloaded; random if not given",
        )

        @field_validator("weights")
        @classmethod
        def _known(cls, weights: str | None) -> str | None:
            import timm

            if weights is None or (weights == PRETRAINED and timm.is_model_pretrained(name)):
                return weights
            if weights == PRETRAINED:
                raise ValueError(f"timm has no trained weights of {name}; give a weights file or leave 'weights' out")
            if names_file(weights):
                return file_must_be_there(weights)
            raise ValueError(f"expected a weights file ({', '.join(SUFFIXES)}) or {PRETRAINED}, got '{weights}'")

    class Builder(cxr.ModelBuilder):
        source = f"timm {name}, https://huggingface.co/docs/timm"
        Params = Settings

        def build(self, *, channels: int, classes: int, size: int) -> torch.nn.Module:
            return _build(name, self.params.weights, channels=channels, classes=classes, size=size)

    return named(
        Builder,
        name,
        f"{name} of timm, its head made for the task's classes, normalised as its weights of timm expect.\n\n"
        "One channel: the first convolution of trained weights is summed over its three input channels.",
    )


def _build(name: str, weights: str | None, *, channels: int, classes: int, size: int) -> torch.nn.Module:
    import timm

    full = f"timm/{name}"
    about = timm.get_pretrained_cfg(name)
    hint = f"timm made it for {about.input_size[-1]} pixels; raise data.size"
    special: dict[str, Any] = {"img_size": size} if about.fixed_input_size else {}
    if weights == PRETRAINED:
        _must_be_in_reach(full, about)
    try:
        net = timm.create_model(name, pretrained=weights == PRETRAINED, in_chans=channels, num_classes=classes, **special)
    except OSError as error:
        raise _no_download(full, error) from error
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise too_small(full, size, error, hint) from error
    module = normalised(net, channels, tuple(about.mean), tuple(about.std))
    if weights is not None and weights != PRETRAINED:
        load_weights(module, read_weights(Path(weights).expanduser()), origin=weights)
    try_out(module, full, channels=channels, classes=classes, size=size, hint=hint)
    return module


def _must_be_in_reach(full: str, about: Any) -> None:
    """Refuse weights that no server answers for; the library itself asks for nearly a minute.

    Raises:
        PluginError: the server cannot be reached, and no copy was kept from an earlier download.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if not about.hf_hub_id or constants.HF_HUB_OFFLINE:
        return  # both answer at once
    repository = about.hf_hub_id.partition("@")[0]
    files = (about.hf_hub_filename,) if about.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return  # an answer, whatever it says
    except OSError as error:
        raise _no_download(full, error) from error


def _no_download(full: str, error: Exception) -> cxr.PluginError:
    reason = str(error).split("\n", 1)[0]
    return cxr.PluginError(
        f"{full}: its trained weights cannot be downloaded ({reason}); fetch them elsewhere and give the file's path as"
        " 'weights', or leave 'weights' out"
    )
