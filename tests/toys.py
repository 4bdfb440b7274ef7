"""Networks of a few hundred weights and images of a few pixels: what the tests of the core train and attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_eval.classifier import Classifier, PyTorchClassifier

SIZE = 8


class Bumpy(torch.nn.Module):
    """Everything whose state can go wrong: BatchNorm, dropout, a weight that was frozen by its owner."""

    def __init__(self, classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.conv2 = torch.nn.Conv2d(4, 6, 3, padding=1, stride=2)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(6 * SIZE * SIZE // 4, classes)
        self.head.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.drop(torch.relu(self.conv2(x)).flatten(1)))


def plain(classes: int = 3, channels: int = 1) -> torch.nn.Module:
    """A network without BatchNorm, dropout or in-place operation."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * SIZE * SIZE // 4, classes),
    )


def build(make: Any = Bumpy, seed: int = 0, **settings: Any) -> torch.nn.Module:
    """The same network for the same seed; a stated seed, no trace in the global one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(**settings)


def images(n: int, classes: int = 3, channels: int = 1, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Grey noise with one bright row per class, which a few epochs learn; every class has n / classes images, mixed."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = rng.uniform(0.0, 0.6, size=(n, channels, SIZE, SIZE)).astype(np.float32)
    x[np.arange(n), :, 2 * y + 1, :] += np.float32(0.4)
    return x, y.astype(np.int64)


def findings(n: int, count: int = 3, seed: int = 0) -> npt.NDArray[np.float32]:
    """Findings (n, count): 0, 1, and about a third of them unknown."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, size=(n, count)).astype(np.float32)
    y[rng.random(y.shape) < 0.33] = np.nan
    return y


def ours(model: torch.nn.Module, classes: int = 3, channels: int = 1, **settings: Any) -> Classifier:
    """Our classifier around the network, on the CPU."""
    return Classifier(model, input_shape=(channels, SIZE, SIZE), nb_classes=classes, device="cpu", **settings)


def arts(model: torch.nn.Module, classes: int = 3, channels: int = 1, **settings: Any) -> PyTorchClassifier:
    """ART's own classifier around the network, on the CPU."""
    settings = {"loss": torch.nn.CrossEntropyLoss(), "clip_values": (0.0, 1.0), "device_type": "cpu"} | settings
    return PyTorchClassifier(model=model, input_shape=(channels, SIZE, SIZE), nb_classes=classes, **settings)


def sgd(model: torch.nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    """SGD with momentum over what may be trained."""
    return torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=lr, momentum=0.9)


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def flags(model: torch.nn.Module) -> tuple[list[bool], list[bool], list[bool]]:
    """Mode of every module, requires_grad and absence of a gradient of every weight."""
    weights = list(model.parameters())
    modes = [module.training for module in model.modules()]
    return modes, [weight.requires_grad for weight in weights], [weight.grad is None for weight in weights]
