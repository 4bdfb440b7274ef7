"""Training losses that ART does not have: over findings, some of them unknown; image by image; between two predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch.nn import functional

from cxr_eval.types import Task

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits (N, K) and labels to one loss."""

Positives = Literal["none", "batch", "per_class"]
Reduction = Literal["mean", "sum", "image_sum", "none"]


class MaskedBCE(torch.nn.Module):
    """Binary cross-entropy of logits (N, K) over the labels that are known.

    Targets (N, K) are 0, 1 or NaN; NaN means unknown and counts for nothing, also in the gradient. Not a subclass of torch's
    BCE losses: ART would reduce their targets to class indices.
    """

    def __init__(self, reduction: Reduction = "mean", positives: Positives = "none") -> None:
        """Choose how losses are averaged, and what a positive label weighs.

        reduction: mean over known labels; sum; image_sum, the sum over an image's findings and then the mean over images;
            none, (N,), the sum over each image's findings.
        positives: none weighs all labels alike; batch multiplies the loss of every positive by beta = negatives / positives
            among the known labels of the batch; per_class has one beta a finding. Without any positive beta is 1.

        Source of beta: Khakzar et al., MICCAI 2019, arXiv:1905.03767; one number a batch, or one a finding, is not said.
        """
        super().__init__()
        self.reduction, self.positives = reduction, positives
        self.beta: torch.Tensor | None = None

    def of(self, target: torch.Tensor) -> MaskedBCE:
        """The same loss with the beta of this batch, to be used on a part of it."""
        fixed = MaskedBCE(self.reduction, self.positives)
        fixed.beta = self._beta(target)
        return fixed

    def _beta(self, target: torch.Tensor) -> torch.Tensor:
        axes = (0,) if self.positives == "per_class" else (0, 1)
        positive, negative = ((target == value).sum(dim=axes).float() for value in (1, 0))
        return torch.where(positive > 0, negative / positive.clamp(min=1), 1.0)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        known, label = ~torch.isnan(target), torch.nan_to_num(target).to(logits.dtype)
        loss = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        if self.positives != "none":
            beta = self._beta(target) if self.beta is None else self.beta
            loss = loss * torch.where(label == 1, beta, 1.0)
        loss = torch.where(known, loss, 0.0)
        if self.reduction == "none":
            return loss.sum(dim=1)
        if self.reduction == "image_sum":
            return loss.sum(dim=1).mean()
        return loss.sum() if self.reduction == "sum" else loss.sum() / known.sum().clamp(min=1)


def image_losses(
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """The loss of each image, (N,), with the criterion's weights and smoothing; for findings the mean of the known ones.

    Of losses other than cross-entropy and `MaskedBCE`: what they say of each image alone.
    """
    if isinstance(criterion, MaskedBCE):
        sums = MaskedBCE("none", criterion.positives)
        sums.beta = criterion.beta
        found: torch.Tensor = sums(logits, y)
        return found if criterion.reduction == "image_sum" else found / (~torch.isnan(y)).sum(dim=1).clamp(min=1)
    if not isinstance(criterion, torch.nn.CrossEntropyLoss):
        return torch.stack([criterion(logits[i : i + 1], y[i : i + 1]) for i in range(len(y))])
    return functional.cross_entropy(
        logits, y, weight=criterion.weight, label_smoothing=criterion.label_smoothing, reduction="none"
    )


def divergences(p: torch.Tensor, q: torch.Tensor, task: Task) -> torch.Tensor:
    """Kullback-Leibler divergence KL(p || q) of each image's predictions, (N,), from two sets of logits (N, K).

    Gradients flow through both. For one class an image p and q are the softmax; for findings, each a Bernoulli variable, it is
    the sum over all findings, also those whose label is unknown: no label stands in it.
    """
    p, q = p.float(), q.float()
    if task == "multiclass":
        return functional.kl_div(q.log_softmax(dim=1), p.log_softmax(dim=1), log_target=True, reduction="none").sum(dim=1)
    present, absent = functional.logsigmoid(p), functional.logsigmoid(-p)
    terms = p.sigmoid() * (present - functional.logsigmoid(q)) + (-p).sigmoid() * (absent - functional.logsigmoid(-q))
    return terms.sum(dim=1)


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
