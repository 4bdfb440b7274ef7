"""Linear networks, whose robust accuracy is known in closed form at every radius, and their images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.suite import attack_outcomes

CLASSES = ("normal", "pneumonia")


class Linear(torch.nn.Module):
    """Two classes; the margin of class 1 is w.x + b."""

    def __init__(self, w: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__()
        self.w, self.b = torch.nn.Parameter(w), torch.nn.Parameter(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = x.flatten(1) @ self.w + self.b
        return torch.stack((-margin / 2, margin / 2), dim=1)


def image_set(x: torch.Tensor, y: torch.Tensor, classes: tuple[str, ...] = CLASSES) -> cxr.ImageSet:
    n = len(x)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient": [f"p{k // 2}" for k in range(n)]})
    return cxr.ImageSet(x.numpy(), np.arange(n), y.numpy(), table, classes, "test")


def linear(seed: int, n: int = 60) -> tuple[cxr.Classifier, cxr.ImageSet, torch.Tensor, torch.Tensor]:
    """A linear classifier, images with one label in six wrong, their margins (negative where wrong) and the reach of eps 1."""
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(16, generator=rng)
    net = Linear(w, -0.5 * w.sum())
    x = 0.4 + 0.2 * torch.rand(n, 1, 4, 4, generator=rng)
    with torch.no_grad():
        margin = x.flatten(1) @ w + net.b
    y = (margin > 0).long()
    y[::6] = 1 - y[::6]
    signed = torch.where(y == 1, margin, -margin)
    return cxr.Classifier(net, input_shape=(1, 4, 4), nb_classes=2, device="cpu"), image_set(x, y), signed, w.abs().sum()


def outcomes_of(classifier: cxr.Classifier, images: cxr.ImageSet, attack: cxr.Attack, **changes: object) -> pd.DataFrame:
    settings_ = {"name": "attack", "batch_size": 16, "seed": 0, **changes}
    index = settings_.pop("index", np.arange(len(images)))
    return attack_outcomes(classifier, images, index, attack, **settings_)
