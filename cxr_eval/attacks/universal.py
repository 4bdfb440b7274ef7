"""One perturbation for all images, made on other images than those it is added to."""

from __future__ import annotations

import torch
from torch.nn import functional

import cxr_eval.api as cxr

STEP_REACH = 2.5
"""Steps together reach 2.5 radii, as those of PGD do, so that the perturbation can still turn back."""


class Universal(cxr.Attack):
    """One perturbation, the same for every image; it shows what an attacker can do who never sees the image.

    `craft` makes it, batch by batch, by gradient steps that raise the mean loss of other images; single images do not dominate,
    because a loss above `clip` counts for no more and has no gradient. `perturb` adds it and clips to [0, 1].
    """

    source = "Shafahi et al., AAAI 2020, arXiv:1811.11304, algorithm 1"
    norms = ("linf", "l2")
    crafted = True

    class Params(cxr.AttackParams):
        epochs: int = cxr.Field(5, ge=1, description="passes over the images that the perturbation is made on")
        batch_size: int = cxr.Field(64, ge=1, description="of these images, how many a gradient step looks at")
        clip: float = cxr.Field(9.0, gt=0, description="cross-entropy of an image above which it counts for no more")
        step: float | None = cxr.Field(
            None, gt=0, le=2, description="length of a step as a share of eps; 2.5 / steps if not given, at most 1"
        )

    perturbation: torch.Tensor | None = None
    """What is added to every image, (C, H, W) on the CPU; None before `craft`."""

    radius: float = 0.0
    """The radius that it was made for, in pixel units of the norm."""

    def craft(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> None:
        """Make the perturbation on images x (N, C, H, W) with labels y; `seed` decides their order.

        Raises:
            PluginError: there are no such images.
        """
        if len(x) == 0:
            raise cxr.PluginError(
                "universal: expected other images to make the perturbation on, got none; give the validation split images that"
                " the goal is about"
            )
        settings: Universal.Params = self.params
        size = settings.batch_size
        steps = settings.epochs * -(-len(x) // size)
        step = eps * (min(STEP_REACH / steps, 1.0) if settings.step is None else settings.step)
        order = torch.Generator().manual_seed(seed)
        change = torch.zeros(x.shape[1:], device=classifier.device)
        with cxr.frozen(classifier.model):
            for _ in range(settings.epochs):
                for rows in torch.split(torch.randperm(len(x), generator=order), size):
                    change.requires_grad_(True)
                    images, labels = x[rows].to(classifier.device), y[rows].to(classifier.device)
                    logits = classifier.model((images + change).clamp(0, 1))
                    loss = _losses(logits, labels, classifier.task).clamp(max=settings.clip).mean()
                    (gradient,) = torch.autograd.grad(loss, change)
                    gradient = torch.nan_to_num(gradient)
                    change = change.detach()
                    if settings.norm == "linf":
                        change = (change + step * gradient.sign()).clamp(-eps, eps)
                    else:
                        change = change + step * gradient / gradient.norm().clamp(min=1e-12)
                        change = change * (eps / change.norm().clamp(min=1e-12)).clamp(max=1)
        self.perturbation, self.radius = change.cpu(), eps

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """The images with the perturbation added, clipped to [0, 1]; `y` and `seed` have no effect.

        Raises:
            PluginError: the perturbation has not been made, or for another radius or size of image.
        """
        images = x.to(classifier.device)
        if eps == 0:
            return images.clone()
        if self.perturbation is None:
            raise cxr.PluginError("universal: the perturbation has not been made; call craft with other images first")
        if eps != self.radius or self.perturbation.shape != x.shape[1:]:
            made, asked = (" x ".join(map(str, shape)) for shape in (self.perturbation.shape, x.shape[1:]))
            raise cxr.PluginError(
                f"universal: the perturbation was made for radius {self.radius:g} and images of {made}, asked for {eps:g} and"
                f" {asked}; call craft again"
            )
        return (images + self.perturbation.to(images.device)).clamp(0, 1)


def _losses(logits: torch.Tensor, y: torch.Tensor, task: cxr.Task) -> torch.Tensor:
    """Cross-entropy of each image, (N,); for findings the mean of the known ones, 0 where none is known."""
    if task == "multiclass":
        return functional.cross_entropy(logits, y, reduction="none")
    known = ~torch.isnan(y)
    losses = functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(y), reduction="none")
    return torch.where(known, losses, 0.0).sum(dim=1) / known.sum(dim=1).clamp(min=1)
