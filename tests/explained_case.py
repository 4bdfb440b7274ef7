"""Images of a few pixels with their maps, as explanation metrics see them, and Quantus itself beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.methods import Saliency

SIZE = 8


def conv_net(channels: int = 1, classes: int = 3, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 4, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(4, 4, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(4, 4, 3, padding=1),
            torch.nn.Tanh(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * SIZE * SIZE, classes),
        ).eval()


class Weighted(torch.nn.Module):
    """Logits (0, sum of weight times pixels)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = (x * self.weight).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(z), z], dim=1)


def case(
    model: torch.nn.Module | None = None,
    count: int = 6,
    channels: int = 1,
    explainer: cxr.Explainer | None = None,
    maps: np.ndarray | None = None,
    seed: int = 3,
) -> cxr.Explained:
    """Images in [0.2, 0.8] with one black pixel each, explained."""
    model = (conv_net(channels) if model is None else model).eval()
    explainer = Saliency() if explainer is None else explainer
    rng = np.random.default_rng(1)
    x = rng.uniform(0.2, 0.8, (count, channels, SIZE, SIZE)).astype(np.float32)
    x[:, :, 0, 0] = 0
    target = np.arange(count, dtype=np.int64) % 2
    masks = rng.random((count, SIZE, SIZE)) < 0.4
    if maps is None:
        maps = explainer.explain(model, torch.from_numpy(x), torch.from_numpy(target)).numpy()
    return cxr.Explained(
        model=model,
        x=x,
        target=target,
        maps=np.asarray(maps, dtype=np.float32),
        explain=explainer.explain,
        region=lambda kind: masks[: len(x)],
        kinds=("lesion",),
        classes=3,
        seed=seed,
    )


def part(explained: cxr.Explained, index: list[int]) -> cxr.Explained:
    masks = explained.region("lesion")[index]
    return replace(
        explained,
        x=explained.x[index],
        target=explained.target[index],
        maps=explained.maps[index],
        region=lambda kind: masks,
    )


def only(scores: dict[str, np.ndarray]) -> np.ndarray:
    (values,) = scores.values()
    return values


def by_quantus(
    metric: type, explained: cxr.Explained, *, seed: int | None = None, call: dict | None = None, **options
) -> np.ndarray:
    """Quantus itself, everything explicit, numpy's global generator seeded and put back."""
    state = np.random.get_state()
    try:
        if seed is not None:
            np.random.seed(seed)
        options = {"abs": False, "normalise": False, "return_aggregate": False, "disable_warnings": True} | options
        with torch.random.fork_rng(devices=[]):
            scores = metric(**options)(
                model=explained.model,
                x_batch=explained.x.copy(),
                y_batch=explained.target,
                a_batch=explained.maps[:, None].astype(np.float64),
                channel_first=True,
                **{"softmax": False, "batch_size": 64} | (call or {}),
            )
    finally:
        np.random.set_state(state)
    return np.asarray(scores, dtype=float)


def explain_for_quantus(explained: cxr.Explained) -> Callable:
    def explain(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
        maps = explained.explain(model, torch.as_tensor(inputs).float(), torch.as_tensor(targets))
        return maps.numpy()[:, None].astype(np.float64)

    return explain
