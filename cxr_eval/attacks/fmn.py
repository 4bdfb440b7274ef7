"""The nearest wrong image that gradient steps find: the fast minimum-norm attack."""

from __future__ import annotations

import math

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import margin, right

ROUNDING = 1e-5
"""Share of the clean image's largest logit by which a wrong image must be wrong: less may come right in another batch."""


class FMN(cxr.Attack):
    """The nearest wrong image, found by gradient steps in a ball that shrinks around wrong images and grows around right ones.

    It starts at the image and nothing in it is random. Distances are measured in `norm`; the radii asked for do not matter.
    An image counts as wrong only if it is so by more than rounding, so that it stays wrong in any batch.
    """

    source = "Pintor et al., NeurIPS 2021, arXiv:2102.12827, algorithm 1"
    transfers = False
    norms = ("linf", "l2")
    minimal = True

    class Params(cxr.AttackParams):
        steps: int = cxr.Field(100, ge=1, description="gradient steps")
        gamma_initial: float = cxr.Field(0.05, gt=0, lt=1, description="share by which a step first grows or shrinks the ball")
        gamma_final: float = cxr.Field(0.001, gt=0, lt=1, description="the same at the end; between, it falls as a cosine")
        alpha_initial: float = cxr.Field(1.0, gt=0, description="length of the first step (Euclidean, pixel units)")
        alpha_final: float = cxr.Field(0.01, gt=0, description="the same at the end; between, it falls as a cosine")

    @property
    def steps(self) -> int:
        """Gradient steps."""
        steps: int = self.params.steps
        return steps

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """The nearest wrong images found, (N, C, H, W) in [0, 1]; the clean image where none was, or where it is wrong itself.

        `eps` and `seed` have no effect.
        """
        settings, images, labels = self.params, x.to(classifier.device), y.to(classifier.device)
        nearest = images.clone()
        with cxr.frozen(classifier.model):
            with torch.no_grad():
                logits = classifier.model(images)
            left = right(logits, labels, classifier.task).nonzero()[:, 0]
            if len(left) == 0:
                return nearest
            clean, label, slack = images[left], labels[left], ROUNDING * logits[left].abs().amax(dim=1)
            tried, found = clean.clone(), clean.clone()
            # no wrong image is farther away than the farthest corner of [0, 1]
            farthest = _lengths(torch.maximum(clean, 1 - clean), settings.norm)
            best, radius = farthest.clone(), farthest.clone()
            broken = torch.zeros(len(left), dtype=torch.bool, device=clean.device)
            for step in range(settings.steps + 1):
                last = step == settings.steps  # only judged
                tried.requires_grad_(not last)
                logits = classifier.model(tried)
                lead = margin(logits, label, classifier.task)
                distance = _lengths(tried.detach() - clean, settings.norm)
                # beyond rounding, or exactly tied
                wrong = ~right(logits, label, classifier.task) & ~((lead > 0) & (lead < slack))
                nearer = wrong & ((distance < best) | ~broken)
                found = torch.where(nearer[:, None, None, None], tried.detach(), found)
                best = torch.where(nearer, distance, best)
                broken |= wrong
                if last:
                    break
                (gradient,) = torch.autograd.grad(lead.sum(), tried)
                gradient = torch.nan_to_num(gradient)
                cosine = (1 + math.cos(math.pi * step / settings.steps)) / 2
                gamma = settings.gamma_final + (settings.gamma_initial - settings.gamma_final) * cosine
                alpha = settings.alpha_final + (settings.alpha_initial - settings.alpha_final) * cosine
                # to the boundary, were the margin linear: over the gradient's length in the dual norm; and on, beyond rounding
                # of logits (slack) and of pixels (gamma_final), so that a linear network's boundary is crossed, not met
                dual = _lengths(gradient, "l1" if settings.norm == "linf" else "l2").clamp(min=1e-12)
                reach = (2 * slack - lead.detach()).clamp(min=0) / dual
                outside = torch.where(broken, radius * (1 + gamma), (distance + reach) * (1 + settings.gamma_final))
                radius = torch.where(wrong, torch.minimum(radius * (1 - gamma), best), outside)
                radius = torch.minimum(torch.nan_to_num(radius, nan=torch.inf), farthest)
                length = _lengths(gradient, "l2").clamp(min=1e-12)[:, None, None, None]
                moved = tried.detach() + alpha * gradient / length
                tried = _within(moved - clean, radius, settings.norm).add(clean).clamp(0, 1)
            nearest[left] = found
        return nearest


def _lengths(change: torch.Tensor, norm: str) -> torch.Tensor:
    """Length of each image's change, (N,), in linf, l2 or l1."""
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    lengths: torch.Tensor = torch.linalg.vector_norm(change.flatten(1), ord=order, dim=1)
    return lengths


def _within(change: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
    """Changes (N, C, H, W) projected to balls of radius (N,)."""
    bound = radius[:, None, None, None]
    if norm == "linf":
        return change.clamp(-bound, bound)
    length = _lengths(change, norm)[:, None, None, None]
    return change * (bound / length.clamp(min=1e-12)).clamp(max=1)
