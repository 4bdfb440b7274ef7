"""Validation scores of a network in training: they pick the epoch that is kept and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cxr_eval.criteria import plain_criterion
from cxr_eval.errors import TrainingError
from cxr_eval.images import ImageSource
from cxr_eval.perturb import Loss, frozen, pgd
from cxr_eval.stats import scores
from cxr_eval.training import Select
from cxr_eval.types import Task

OF_FINDINGS = ("loss", "weighted_loss", "auroc", "last")
"""What may select an epoch where images have several findings."""


@dataclass(frozen=True)
class Validation:
    """Images that are never trained on. y: (N,) int64, or (N, K) float32 with NaN for multi-label tasks."""

    images: ImageSource
    y: torch.Tensor
    task: Task
    classes: int
    select: Select
    batch_size: int
    weighted: Loss | None = None
    """The training loss, for `weighted_loss`; weights that follow from a batch follow from all validation images."""

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise ValueError("expected at least one validation image, got none")
        metric = self.select.metric
        if self.task == "multilabel" and metric not in OF_FINDINGS:
            raise ValueError(f"select: {metric} is for one label an image; for several use loss, weighted_loss or auroc")

    def score(self, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """Loss, accuracy, balanced accuracy, AUROC; and robust accuracy where it is what selects."""
        robust = self.select.metric == "robust_accuracy"
        criterion = plain_criterion(self.task)
        clean, attacked = [], []
        for x, y in self._batches(device):
            with frozen(model), torch.no_grad():
                clean.append(model(x).float().cpu())
            if robust:
                attacked.append(self._still_right(model, x, y, criterion).cpu())
        logits = torch.cat(clean)
        found = {"val_loss": float(criterion(logits, self.y))}
        if self.select.metric == "weighted_loss":
            assert self.weighted is not None
            found["val_weighted_loss"] = float(self.weighted(logits.to(device), self.y.to(device)))
        every = np.ones((1, len(self.y)))
        if self.task == "multilabel":
            names = [str(k) for k in range(self.classes)]
            found["val_auroc"] = float(scores.ranking_scores(self.y.numpy(), logits.numpy(), names, every)["auroc"][0])
            return found
        labels, probability = self.y.numpy(), logits.softmax(dim=1).numpy()
        names = [str(k) for k in range(self.classes)]
        decided = scores.decision_scores(labels, probability.argmax(axis=1), names, every)
        ranked = scores.ranking_scores(scores.one_hot(labels, self.classes), probability, names, every)
        found |= {f"val_{name}": float(decided[name][0]) for name in ("accuracy", "balanced_accuracy")}
        found["val_auroc"] = float(ranked["auroc"][0])
        if robust:
            found["val_robust_accuracy"] = float(torch.cat(attacked).double().mean())
        return found

    def better(self, score: dict[str, float], best: float | None) -> tuple[bool, float]:
        """Whether the score beats the best so far, and its value, turned so that higher is better.

        Raises:
            TrainingError: the score that selects is NaN.
        """
        value = score[f"val_{self.select.metric}"]
        if math.isnan(value):  # nothing beats it and it beats nothing, so the first epoch would be kept in silence
            raise TrainingError(
                f"val_{self.select.metric}, which selects the epoch, is not defined on the validation images;"
                " every class needs some, or select by another metric"
            )
        value = -value if self.select.metric in ("loss", "weighted_loss") else value
        return best is None or value > best, value

    def _still_right(self, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Loss) -> torch.Tensor:
        eps, steps = self.select.eps, self.select.steps
        assert eps is not None
        adversarial = pgd(model, x, y, eps=eps, step=2.5 * eps / steps, steps=steps, loss=loss)
        with frozen(model), torch.no_grad():
            right: torch.Tensor = (model(x).argmax(dim=1) == y) & (model(adversarial).argmax(dim=1) == y)
        return right

    def _batches(self, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(self.images), self.batch_size):
            index = np.arange(start, min(start + self.batch_size, len(self.images)))
            yield self.images.take(index).to(device), self.y[torch.from_numpy(index)].to(device)
