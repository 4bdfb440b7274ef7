"""Networks of a few hundred weights and images of 8 x 8 pixels, which the checks train in milliseconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

SIZE = 8
CLASSES = 3

Images = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class NormedNetwork(torch.nn.Module):
    """Everything whose state can go wrong: BatchNorm, dropout, a weight that its owner froze."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.conv2 = torch.nn.Conv2d(4, 6, 3, padding=1, stride=2)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(6 * SIZE * SIZE // 4, CLASSES)
        self.head.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.conv2(torch.relu(self.norm(self.conv(x)))))
        logits: torch.Tensor = self.head(self.drop(maps.flatten(1)))
        return logits


def normed_network() -> NormedNetwork:
    """The same network with BatchNorm and dropout each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return NormedNetwork()


def plain_network() -> torch.nn.Module:
    """The same network without BatchNorm and dropout each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(4, 6, 3, padding=1, stride=2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(6 * SIZE * SIZE // 4, CLASSES),
        )


def bright_rows(n: int, seed: int = 0) -> tuple[Images, Indices]:
    """Grey noise with one bright row a class, (n, 1, 8, 8) from 0 to 1 with both ends met, and class indices (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % CLASSES)
    x = rng.uniform(0.0, 0.6, size=(n, 1, SIZE, SIZE)).astype(np.float32)
    x[np.arange(n), 0, 2 * y + 1, :] += np.float32(0.4)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.0, 1.0  # whatever is added or taken away leaves [0, 1]
    return x, y.astype(np.int64)


LARGEST_TEMPTATION = 0.15
"""The largest radius whose temptation keeps to [0, 1]."""


def temptation(n: int, eps: float, seed: int = 0) -> tuple[Images, Indices]:
    """Images of two classes with a feature that is always right and fainter than eps, and a plain one that is right in 9 of 10.

    Faint: a chequered pattern of 0.3 eps in the lower six rows, of opposite sign for the two classes, without noise. Plain: a
    corner of 2 x 4 pixels that is bright or dark by 3 eps. Who learns the faint one is right on all images and wrong on all
    under an L-inf attack of radius eps; who withstands it keeps to the plain one, also where training drew its radii from
    half of eps on. In L2 the faint feature is gone after sqrt(48) x 0.3 eps = 2.1 eps, the plain one after sqrt(8) x 3 eps =
    8.5 eps: a radius of 5 eps lies between.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    sign = 2 * y - 1
    chequered = (np.indices((SIZE - 2, SIZE)).sum(axis=0) % 2) * 2 - 1
    misleading = np.where(np.arange(n) // 2 % 10 == 0, -1, 1)  # one image in ten of either class
    x = np.full((n, 1, SIZE, SIZE), 0.5)
    x[:, 0, 2:, :] += 0.3 * eps * sign[:, None, None] * chequered
    x[:, 0, :2, :4] += 3 * eps * (sign * misleading)[:, None, None]
    x[:, 0, :2, 4:] += rng.uniform(-3 * eps, 3 * eps, size=(n, 2, SIZE - 4))
    return x.astype(np.float32), y.astype(np.int64)


class TemptedNetwork(torch.nn.Module):
    """Two layers that see the images of `temptation` alike for every radius."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(SIZE * SIZE, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers((x - 0.5) / (10 * self.eps))
        return logits


def tempted_network(eps: float) -> TemptedNetwork:
    """The same network for `temptation` each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return TemptedNetwork(eps)
