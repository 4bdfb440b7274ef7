"""The evaluation of a network that is finished already: any `torch.nn.Module`, or a checkpoint of one."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import cxr_eval.api as cxr
from cxr_eval import registry
from cxr_eval.errors import DataError, PluginError, ProtocolError, nearest
from cxr_eval.models.weights import read_weights
from cxr_eval.notebook import RunResult, Sets, carried_out, overrides
from cxr_eval.own_images import is_arrays, own_images
from cxr_eval.perturb import frozen
from cxr_eval.types import RowWarning

if TYPE_CHECKING:
    from cxr_eval.trackers import Tracker

PLUGIN = "own_network"
"""What the protocol calls a network that was handed over; tables show its own name."""
USED = ("name", "title", "cite", "attacks", "corruptions", "explain", "evaluate", "report")
"""Keys of a protocol that hold for a network that is finished."""
UNUSED = ("data", "models", "train", "trainers", "demonstration")
"""Keys of whole protocols that do not."""
QUICK: dict[str, Any] = {"attacks": [{"name": "quick", "eps": ["4/255", "8/255"]}]}
"""What is asked where no protocol is given."""
MAPS: dict[str, Any] = {"methods": ["saliency"], "metrics": ["relevance_mass", "pointing_game"]}
"""What is explained then, where there are masks."""
IN_CHECKPOINTS = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs keep the weights."""
PROBES = 4

Network = torch.nn.Module | Path | str


def evaluate(
    model: Network,
    data: Mapping[str, Any] | Path | str,
    protocol: Mapping[str, Any] | Path | str | None = None,
    *,
    build: Callable[[], torch.nn.Module] | None = None,
    name: str = "model",
    out: Path | str | None = None,
    device: str = "auto",
    set: Sets = (),
    quiet: bool = False,
    track: str | Tracker | Sequence[str | Tracker] = (),
) -> RunResult:
    """Evaluate a finished network as a run evaluates its own: the same attacks, checks, rows and report. Nothing is trained.

    >>> result = cxr_eval.evaluate(model, {"test": (x, y), "val": (x_val, y_val), "classes": ["normal", "pneumonia"]})
    >>> result

    model: takes images (N, C, S, S) float32 in [0, 1] and gives logits (N, K), or one logit for two classes. It is copied, and
    the copy is used in evaluation mode. A network that wants normalised images goes behind its normalisation,
    `torch.nn.Sequential(Normalize(mean, std), network)`, so that radii are in pixel units. One that ends in a softmax or a
    sigmoid must lose that layer: probabilities hide gradients, and the checks of the attacks then fail. Or the path of a
    checkpoint (.safetensors, .pth, .pt), with `build`, which returns the network that its weights go into.

    data: sets by name, `{"test": (x, y), "val": (x, y), "OTHER": (x, y)}`; every further name is an outside test set, and
    `train` only helps to doubt the data. Instead of (x, y) a set may be a dict with x, y, and patient, sex, age, view, site
    (one value an image) and masks ({KIND: (N, S, S)}). x: (N, C, S, S) floats in [0, 1] or uint8, C 1 or 3, S 16 to 1024. y:
    class numbers or names (N,), or findings (N, K) with 0, 1 or NaN. `classes`: names of the outputs in their order. Or a
    protocol's `data` section, as a dict or as a YAML file.

    Thresholds are chosen on `val`, and universal perturbations made on it. Without `val`, whole patients of the test images are
    set apart for that (`data.split`; about a fifth) and not tested on, which a stored note says. Without patients every image
    counts as one, which a stored warning says.

    protocol: what is asked, as a dict or a YAML file: attacks, corruptions, explain, evaluate, report. Of a whole protocol
    these keys are used and no others. Without it: `quick` attacks at 4/255 and 8/255, and where masks are given, saliency maps
    with relevance mass and the pointing game.

    name: the network's name in tables. out, device, set, quiet and track are as in `run`.

    Raises:
        CxrEvalError: the network, the data or the protocol is not as it must be.
    """
    from cxr_eval import protocol_file
    from cxr_eval.runner import cache_folder

    network = _network(model, build)
    asked, section = _asked(protocol), _section(data)
    doubts: tuple[RowWarning, ...] = ()
    if is_arrays(section):
        own = own_images(section, outputs=_outputs(network, section), cache=cache_folder())
        section, doubts = own.data, own.doubts
        if protocol is None and "masks" in section["train"]:
            asked["explain"] = MAPS | ({"target": "predicted"} if "labels" in section["train"] else {})
    whole = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "network",
        **asked,
        "data": section,
        "models": [{"name": PLUGIN, "label": name}],
        "trainers": [{"name": "none", "label": "as given"}],
    }
    sets = overrides(set)
    images = protocol_file.load(whole, sets=sets).protocol.data
    digest = fingerprint(network, (images.channels, images.size, images.size))
    whole["models"][0]["digest"] = digest  # so that another network is another protocol, with a run folder of its own
    with registry.lent("models", PLUGIN, _builder(network), digest):
        loaded = protocol_file.load(whole, sets=sets)
        return carried_out(loaded, out=out, device=device, quiet=quiet, track=track, doubts=doubts)


def fingerprint(network: torch.nn.Module, shape: tuple[int, int, int]) -> str:
    """Twelve digits that identify a network: its modules, its weights, and what it answers on four images of noise.

    The answers stand for what neither modules nor weights show, such as a temperature that is a plain number.

    Raises:
        PluginError: it holds what is no tensor, or cannot take images of that shape.
    """
    digest = hashlib.sha256(repr(network).encode())
    for key, tensor in network.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise PluginError(f"{_called(network)}: its state_dict holds '{key}', which is no tensor and cannot be stored")
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for module in network.modules():
        code = getattr(getattr(type(module), "forward", None), "__code__", None)
        digest.update(b"" if code is None else code.co_code)
    place = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    noise = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0)).to(place)
    try:
        with frozen(network), torch.no_grad():
            answer = network(noise).float().cpu()
    except Exception as error:
        raise PluginError(f"{_called(network)}: cannot take images {(PROBES, *shape)}: {_why(error)}") from error
    digest.update(",".join(f"{value:.4g}" for value in answer.flatten().tolist()).encode())
    return digest.hexdigest()[:12]


def _network(model: Network, build: Callable[[], torch.nn.Module] | None) -> torch.nn.Module:
    """The network, with a checkpoint's weights in it."""
    if isinstance(model, torch.nn.Module):
        if build is not None:
            raise PluginError("build: is for a checkpoint; the model is a network already, leave build out")
        return model
    if not isinstance(model, (str, Path)):
        raise PluginError(f"model: expected a torch.nn.Module or the path of a checkpoint, got {type(model).__name__}")
    if build is None:
        raise PluginError(
            f"{model}: a checkpoint holds weights only; give build=, a function that returns the network for them"
        )
    network = build()
    if not isinstance(network, torch.nn.Module):
        raise PluginError(f"build: expected a torch.nn.Module, got {type(network).__name__}")
    path = Path(model).expanduser()
    given = _in_checkpoint(path)
    expected = network.state_dict()
    given = _without_prefix(given, expected)
    missing = [key for key in expected if key not in given and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in given if key not in expected]
    reshaped = [key for key in expected if key in given and given[key].shape != expected[key].shape]
    found = [("missing", missing), ("not in the network", unexpected), ("of another shape", reshaped)]
    faults = [f"{len(keys)} {what} (first: {keys[0]})" for what, keys in found if keys]
    if faults:
        raise PluginError(f"{path}: these weights do not fit the network of build: {', '.join(faults)}")
    network.load_state_dict(given, strict=False)
    return network


def _in_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file, also where a training program keeps them under a key beside other things."""
    try:
        return read_weights(path)
    except PluginError as error:
        if path.suffix == ".safetensors" or not path.is_file():
            raise
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            raise error from None
        inner = next((content[key] for key in IN_CHECKPOINTS if isinstance(content, Mapping) and key in content), None)
        if not isinstance(inner, Mapping) or not all(isinstance(value, torch.Tensor) for value in inner.values()):
            raise
        return dict(inner)


def _without_prefix(given: dict[str, torch.Tensor], expected: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights without the name of a module that held the network in training (`module.`, `model.`, `net.`)."""
    for prefix in ("module.", "model.", "net."):
        if given and all(key.startswith(prefix) for key in given) and not any(key.startswith(prefix) for key in expected):
            return {key.removeprefix(prefix): value for key, value in given.items()}
    return given


def _builder(network: torch.nn.Module) -> type[cxr.ModelBuilder]:
    """The network as a model plugin."""
    try:
        kept = copy.deepcopy(network)
    except Exception as error:
        raise PluginError(f"{_called(network)}: cannot be copied: {_why(error)}; give a checkpoint and build") from error

    class OwnNetwork(cxr.ModelBuilder):
        source = f"a network that was handed over: {type(network).__module__}.{type(network).__qualname__}"

        class Params(cxr.Params):
            digest: str = cxr.Field(description="identifies modules, weights and answers of the network")

        def build(self, *, channels: int, classes: int, size: int) -> torch.nn.Module:
            return copy.deepcopy(kept).cpu()

    return OwnNetwork


def _outputs(network: torch.nn.Module, data: Mapping[str, Any]) -> int:
    """How many outputs the network gives for a test image."""
    given = data.get("test")
    x = given.get("x") if isinstance(given, Mapping) else given[0] if isinstance(given, (tuple, list)) and given else None
    if x is None:
        names = [str(key) for key in data]
        hint = next(filter(None, (nearest(key, ["test"]) for key in names)), "")
        raise DataError(
            "data: expected a set 'test' as (x, y), or a data section with train: {reader: ...}; got"
            f" {', '.join(names) or 'nothing'}{hint}"
        )
    shape = tuple(np.shape(x))
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or not shape[0]:
        raise DataError(f"data.test: x: expected square images (N, C, S, S) with 1 or 3 channels, got shape {shape}")
    place = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    try:
        with frozen(network), torch.no_grad():
            answer = network(torch.zeros(1, *shape[1:], device=place))
    except Exception as error:
        raise PluginError(f"{_called(network)}: cannot take images {(1, *shape[1:])}: {_why(error)}") from error
    if not isinstance(answer, torch.Tensor) or answer.numel() == 0 or answer.shape not in ((1,), (1, answer.numel())):
        got = f"shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise PluginError(f"{_called(network)}: expected logits (1, K) for one image, got {got}")
    return answer.numel()


def _section(data: Mapping[str, Any] | Path | str) -> dict[str, Any]:
    """The data as a dict; of a YAML file its `data` section, or all of it where it is one."""
    if isinstance(data, Mapping):
        return dict(data)
    if not isinstance(data, (str, Path)):
        raise DataError(f"data: expected a dict or the path of a YAML file, got {type(data).__name__}")
    from cxr_eval.protocol_file import read

    whole = read(Path(data).expanduser())
    section = whole.get("data", whole)
    if not isinstance(section, dict) or is_arrays(section):
        raise DataError(f"{data}: expected a data section with train: {{reader: ...}}")
    return section


def _asked(protocol: Mapping[str, Any] | Path | str | None) -> dict[str, Any]:
    """What a protocol asks of a finished network."""
    if protocol is None:
        return dict(QUICK)
    if isinstance(protocol, (str, Path)):
        from cxr_eval.protocol_file import read

        protocol = read(Path(protocol).expanduser())
    if not isinstance(protocol, Mapping):
        raise ProtocolError(f"protocol: expected a dict or the path of a YAML file, got {type(protocol).__name__}")
    for key in protocol:
        if key not in (*USED, *UNUSED):
            raise ProtocolError(f"protocol: nothing is called '{key}'{nearest(str(key), USED) or ': ' + ', '.join(USED)}")
    return {key: value for key, value in protocol.items() if key in USED}


def _called(network: torch.nn.Module) -> str:
    return type(network).__name__


def _why(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
