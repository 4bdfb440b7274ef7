"""Training losses that ART does not have: binary cross-entropy over findings, some of them unknown."""

from __future__ import annotations

import torch
from torch.nn import functional

from cxr_eval.types import Task


class MaskedBCE(torch.nn.Module):
    """Mean binary cross-entropy of logits (N, K) over the labels that are known.

    Targets (N, K) are 0, 1 or NaN; NaN means unknown and counts for nothing, also in the gradient. Not a subclass of torch's
    BCE losses: ART would reduce their targets to class indices.
    """

    def __init__(self, reduction: str = "mean", weight: torch.Tensor | None = None) -> None:
        """`weight`: (K,), the weight of each finding. `reduction`: mean (over known labels), sum, or none, (N,) per image."""
        super().__init__()
        self.reduction = reduction
        self.weight: torch.Tensor | None
        self.register_buffer("weight", weight)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        known = ~torch.isnan(target)
        loss = functional.binary_cross_entropy_with_logits(
            logits, torch.nan_to_num(target).to(logits.dtype), weight=self.weight, reduction="none"
        )
        loss = torch.where(known, loss, 0.0)
        if self.reduction == "none":
            return loss.sum(dim=1)
        if self.reduction == "sum":
            return loss.sum()
        return loss.sum() / known.sum().clamp(min=1)


def plain_criterion(task: Task) -> torch.nn.Module:
    """The loss that attacks raise and validation reports: no weights, no smoothing."""
    return torch.nn.CrossEntropyLoss() if task == "multiclass" else MaskedBCE()


def balanced_weights(y: torch.Tensor, classes: int) -> torch.Tensor:
    """Class weights n / (classes x images of the class), (K,) float32, for class indices y (N,).

    Raises:
        ValueError: a class has no image.
    """
    counts = torch.bincount(y, minlength=classes).float()
    if (counts == 0).any():
        raise ValueError(f"class {int((counts == 0).nonzero()[0])} has no training image, so it cannot be balanced")
    return len(y) / (classes * counts)
