"""What a small network makes of the drawn chests: it learns the lesions, is fooled by little, and falls for the marker."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr_eval.data.readers.phantom import Phantom
from cxr_eval.data.readers.phantom_patient import CLASSES

pytestmark = pytest.mark.slow

Set = tuple[torch.Tensor, torch.Tensor, pd.DataFrame]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Two threads are slower than one on images this small, and their sums are not the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def small_net() -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 32), (32, 32)):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 16, 3))


def logits(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net((x - 0.5) / 0.25)


def trained(images: Set, seed: int, epochs: int = 10) -> torch.nn.Module:
    x, y, _ = images
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        net = small_net()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(8):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits(net, x[index]), y[index]).backward()
                optimizer.step()
    return net.eval().requires_grad_(False)


def balanced_accuracy(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    found = logits(net, x).argmax(1)
    return float(np.mean([(found[y == k] == k).float().mean() for k in range(3)]))


def attacked(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int = 10) -> torch.Tensor:
    moved = x.clone()
    with one_thread():
        for _ in range(steps):
            moved.requires_grad_()
            (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits(net, moved), y), moved)
            moved = (moved.detach() + eps / 4 * slope.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return moved


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Set]:
    cache = tmp_path_factory.mktemp("networks")

    @functools.cache
    def load(**settings: object) -> Set:
        table = Phantom(**settings).read(cache)
        x = np.stack([np.asarray(Image.open(path).reduce(2)) for path in table.image])
        return torch.from_numpy(x).float()[:, None] / 255, torch.tensor([CLASSES.index(name) for name in table.label]), table

    return load


@pytest.fixture(scope="module")
def honest(images: Callable[..., Set]) -> torch.nn.Module:
    """Trained where the marker says nothing about the class."""
    return trained(images(patients=168, marker_strength=0.0, seed=SEED), SEED)


@pytest.fixture(scope="module")
def misled(images: Callable[..., Set]) -> torch.nn.Module:
    """Trained where the marker always tells the class."""
    return trained(images(patients=168, marker_strength=1.0, marker_rate=1.0, seed=SEED), SEED)


SEED = 0
OTHERS = {"patients": 90, "seed": SEED + 100}
BARE = {**OTHERS, "marker_rate": 0.0}
TIED = {**OTHERS, "marker_rate": 1.0, "marker_strength": 1.0}


def pasted(bare: Set, tied: Set) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures with the text of an image of the next class, their true labels, and which image lent the text."""
    x, y, _ = bare
    ink = torch.stack([torch.tensor(np.asarray(Image.open(path).reduce(2))) for path in tied[2]["mask:marker"]])[:, None] > 99
    lender = torch.empty_like(y)
    for k in range(3):
        taker, giver = torch.nonzero(y == k)[:, 0], torch.nonzero(y == (k + 1) % 3)[:, 0]
        lender[taker] = giver[torch.arange(len(taker)) % len(giver)]
    return torch.where(ink[lender], tied[0][lender], x), y, lender


def test_a_network_learns_the_lesions(images, honest):
    x, y, _ = images(**BARE)
    assert 0.65 < balanced_accuracy(honest, x, y) < 0.99


def test_a_small_perturbation_fools_it(images, honest):
    x, y, _ = images(**BARE)
    assert balanced_accuracy(honest, attacked(honest, x, y, 0.02), y) < balanced_accuracy(honest, x, y) - 0.3


def test_a_network_learns_the_shortcut_and_fails_outside(images, honest, misled):
    own_x, own_y, _ = images(**TIED)
    out_x, out_y, _ = images(**OTHERS, site="outside")
    assert balanced_accuracy(misled, own_x, own_y) > 0.85
    assert balanced_accuracy(misled, out_x, out_y) < 0.5
    assert balanced_accuracy(honest, out_x, out_y) > balanced_accuracy(misled, out_x, out_y) + 0.25


def test_the_marker_of_another_class_flips_the_misled_network_and_not_the_honest_one(images, honest, misled):
    x, y, lender = pasted(images(**BARE), images(**TIED))
    followed = [float((logits(net, x).argmax(1) == y[lender]).float().mean()) for net in (misled, honest)]
    assert followed[0] > 0.75
    assert followed[0] > followed[1] + 0.5
