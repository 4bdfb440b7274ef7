"""Attacks that follow the loss gradient with fixed steps: FGSM and PGD; and what attacks judge an image by."""

from __future__ import annotations

import torch
from pydantic import model_validator

import cxr_eval.api as cxr
from cxr_eval.attacks.seeds import uniform_start

STEP_REACH = 2.5
"""Steps together reach 2.5 radii, so that any point of the ball can be reached from any other (Madry et al., section 5)."""


def right(logits: torch.Tensor, y: torch.Tensor, task: cxr.Task) -> torch.Tensor:
    """Which images (N,) a network gets right; logits that are not finite are wrong.

    multiclass: the largest logit is the label's. multilabel: every known finding is on its side of 0; NaN labels do not count.
    """
    finite = torch.isfinite(logits).all(dim=1)
    if task == "multiclass":
        return finite & (logits.argmax(dim=1) == y)
    agrees = (logits > 0) == (y > 0.5)
    return finite & (agrees | torch.isnan(y)).all(dim=1)


def leads(logits: torch.Tensor, y: torch.Tensor, task: cxr.Task) -> torch.Tensor:
    """By how much each wrong answer leads the right one, (N, K); above 0 it wins, -inf where there is no wrong answer.

    multiclass: the class's logit minus the label's, -inf at the label. multilabel: the finding's logit, signed so that the
    label's side is below 0; -inf where the label is NaN.
    """
    if task == "multilabel":
        return torch.where(torch.isnan(y), -torch.inf, (1 - 2 * torch.nan_to_num(y)) * logits)
    label = y[:, None]
    return (logits - logits.gather(1, label)).scatter(1, label, -torch.inf)


def margin(logits: torch.Tensor, y: torch.Tensor, task: cxr.Task) -> torch.Tensor:
    """The largest lead of a wrong answer, (N,): above 0 the image is wrong, below 0 right; -inf without a known finding."""
    return leads(logits, y, task).amax(dim=1)


class FGSM(cxr.Attack):
    """One gradient step as long as the radius: the gradient's sign in L-inf, the gradient itself in L2."""

    source = "Goodfellow et al., ICLR 2015, arXiv:1412.6572, section 4"
    norms = ("linf", "l2")
    steps = 1

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """Adversarial images for x; nothing in it is random, so `seed` has no effect."""
        images, labels = x.to(classifier.device), y.to(classifier.device)
        return cxr.pgd(
            classifier.model, images, labels, eps=eps, step=eps, steps=1, loss=classifier.loss, norm=self.params.norm
        )


class PGD(cxr.Attack):
    """Gradient steps within the ball, from random starts; the best of them, image by image.

    Steps follow the gradient's sign in L-inf and the gradient itself in L2. A restart ends with its last image. Each image
    keeps the first restart that makes the network wrong about its label, or else the one with the highest loss.
    Its random starts follow from the seed and the image alone.
    """

    source = "Madry et al., ICLR 2018, arXiv:1706.06083, eq. 2.1 and section 5 (step size)"
    norms = ("linf", "l2")

    class Params(cxr.AttackParams):
        steps: int = cxr.Field(20, ge=1, description="gradient steps a restart")
        step: float | None = cxr.Field(
            None,
            gt=0,
            le=2,
            description="length of a step as a share of eps; 2.5 / steps if not given (Madry et al., section 5)",
        )
        restarts: int = cxr.Field(1, ge=1, description="searches an image, each from its own random start")
        random_start: bool = cxr.Field(True, description="start anywhere in the ball; false starts at the image")

        @model_validator(mode="after")
        def _restarts_differ(self) -> PGD.Params:
            if self.restarts > 1 and not self.random_start:
                raise ValueError(f"{self.restarts} restarts without random_start are the same search; set restarts to 1")
            return self

    @property
    def steps(self) -> int:
        """Gradient steps a restart."""
        steps: int = self.params.steps
        return steps

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """Adversarial images for x, (N, C, H, W) on the classifier's device."""
        settings: PGD.Params = self.params
        step = (STEP_REACH / settings.steps if settings.step is None else settings.step) * eps
        images, labels = x.to(classifier.device), y.to(classifier.device)
        chosen = images.clone()
        highest = torch.full((len(images),), -torch.inf, device=images.device)
        left = torch.arange(len(images), device=images.device)
        with cxr.frozen(classifier.model):
            for restart in range(settings.restarts):
                if len(left) == 0:
                    break
                clean, label = images[left], labels[left]
                start = None
                if settings.random_start:
                    start = uniform_start(clean, eps, settings.norm, seed, restart)
                attacked = cxr.pgd(
                    classifier.model,
                    clean,
                    label,
                    eps=eps,
                    step=step,
                    steps=settings.steps,
                    loss=classifier.loss,
                    start=start,
                    norm=settings.norm,
                )
                if settings.restarts == 1:
                    return attacked  # there is nothing to choose from, so no pass to judge it by
                with torch.no_grad():
                    logits = classifier.model(attacked)
                    loss = cxr.image_losses(classifier.loss, logits, label)
                wrong = ~right(logits, label, classifier.task)
                better = wrong | (loss > highest[left])
                if restart == 0:
                    better = torch.ones_like(better)  # also where the loss is NaN
                chosen[left[better]] = attacked[better]
                highest[left] = torch.maximum(highest[left], loss)
                left = left[~wrong]
        return chosen
