"""Weights of a network: read from a file and fitted to the network without a silent gap."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import cxr_eval.api as cxr

SUFFIXES = (".safetensors", ".pth", ".pt")

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


class Normalised(torch.nn.Module):
    """A network behind its normalisation: takes images in [0, 1], gives (x - mean) / std to `net`.

    The mean and the standard deviation are buffers, so they are stored with the weights.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: torch.nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take a network and one mean and one standard deviation a channel, in pixel units of [0, 1]."""
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        logits: torch.Tensor = self.net((x - self.mean) / self.std)
        return logits


def names_file(weights: str) -> bool:
    """True if a `weights` setting is a path, not a name."""
    return weights.endswith(SUFFIXES)


def file_must_be_there(weights: str) -> str:
    """The path of a weights file that exists.

    Raises:
        ValueError: there is none.
    """
    if not Path(weights).expanduser().is_file():
        raise ValueError(f"no such weights file: {weights}")
    return weights


def read_weights(path: Path) -> State:
    """The tensors of a weights file by name, on the CPU; nothing in the file is executed.

    Raises:
        PluginError: the file is absent, damaged, or holds anything but a flat table of tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise cxr.PluginError(f"{path}: no such weights file; check the setting 'weights'") from None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).split("\n", 1)[0]
        raise cxr.PluginError(
            f"{path}: expected tensors of safetensors or torch.save(net.state_dict()), got {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        got = f"a table with {', '.join(map(repr, list(state)[:3]))}" if isinstance(state, Mapping) else type(state).__name__
        raise cxr.PluginError(f"{path}: expected a flat table of tensors, got {got}; save net.state_dict() alone")
    return dict(state)


def last_layer(net: torch.nn.Module) -> str:
    """Name of the layer that makes the logits, whatever the architecture calls it (fc, classifier.6, heads.head)."""
    names: list[str] = [name for name, part in net.named_modules() if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d))]
    return names[-1]


def first_conv(net: torch.nn.Module) -> str:
    """Name of the convolution that sees the image."""
    name: str = next(name for name, part in net.named_modules() if isinstance(part, torch.nn.Conv2d))
    return name


def load_weights(module: Normalised, state: State, *, origin: str, unused: Callable[[str], bool] = lambda name: False) -> None:
    """Put weights into a network; all of them must fit, but for the classification head.

    state: weights of the bare network, or of a whole `Normalised` as a run stores them. A head of another number of classes,
    or none, leaves the head as it is. A first convolution for three channels is summed over them for a network that takes one.
    origin: file or name that messages start with. unused: names that may be in the file although the network lacks them.

    Raises:
        PluginError: anything else is missing, unexpected, or of another shape.
    """
    expected = module.state_dict()
    whole = any(name.startswith("net.") for name in state)
    given = {name if whole else f"net.{name}": value for name, value in state.items() if not unused(name)}
    conv, head = f"{first_conv(module)}.weight", f"{last_layer(module)}."
    if conv in given and given[conv].ndim == 4 and given[conv].shape[1] == 3 and expected[conv].shape[1] == 1:
        given[conv] = given[conv].sum(dim=1, keepdim=True)
    in_head = [name for name in expected if name.startswith(head)]
    if any(name not in given or given[name].shape != expected[name].shape for name in in_head):
        given = {name: value for name, value in given.items() if name not in in_head}
        log.info("%s: the classification head %s starts anew", origin, head.removeprefix("net.").rstrip("."))
    else:
        in_head = []
    optional = {*in_head, *(() if whole else ("mean", "std"))}
    missing = [n for n in expected if n not in given and n not in optional and not n.endswith(".num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    reshaped = [name for name in given if name in expected and given[name].shape != expected[name].shape]
    faults = [
        f"{len(names)} {what} (first: {names[0].removeprefix('net.')})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if reshaped:
        name = reshaped[0]
        shapes = f"expected {tuple(expected[name].shape)}, got {tuple(given[name].shape)}"
        faults.append(f"{len(reshaped)} of another shape (first: {name.removeprefix('net.')}, {shapes})")
    if faults:
        raise cxr.PluginError(
            f"{origin}: these weights do not fit the network: {', '.join(faults)}; take a file of the same architecture, or"
            " leave 'weights' out"
        )
    module.load_state_dict(given, strict=False)
