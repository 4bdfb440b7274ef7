"""What the validity checks look at, measured once for all of them, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.apgd import APGD
from cxr_eval.attacks.convergence import Convergence, Loss, convergence, logits_and_gradient, upward
from cxr_eval.attacks.doubts import CHANCE
from cxr_eval.attacks.gradient import right
from cxr_eval.attacks.seeds import image_seeds
from cxr_eval.perturb import project

FEWEST = 5
"""Images right without attack below which nothing is said: five on one side and none on the other are the fewest that a sign
test at 0.05 does not put down to chance (0.5^5 = 0.03)."""

MATTERS = 0.05
"""Share of the images right without attack that must differ before a difference beyond chance is reported: a search of a few
dozen steps leaves an image or two of a hundred at the very edge of the ball on honest networks too."""

STEPS = 40
"""Gradient steps of the two searches that the checks share."""

Verdict = Literal["PASS", "WARN", "FAIL", "SKIP"]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Check:
    """What one check found. `sentence` says it in words that a layman understands, with the numbers."""

    code: str
    title: str
    verdict: Verdict
    numbers: dict[str, float]
    sentence: str


def beyond_chance(one: int, other: int, n: int) -> bool:
    """Whether one side has more of n images than chance explains (one-sided sign test), and enough more to matter."""
    from scipy.stats import binomtest

    if one <= other or one - other < MATTERS * n:
        return False
    return bool(binomtest(one, one + other, alternative="greater").pvalue < CHANCE)


@dataclass(frozen=True)
class Subject:
    """A network, images, a threat, and what was measured on them; each measurement is made when first asked for."""

    classifier: cxr.Classifier
    x: torch.Tensor
    y: torch.Tensor
    eps: float
    norm: cxr.Norm
    seed: int
    batch_size: int
    surrogate: cxr.Classifier | None
    queries: int

    @cached_property
    def logits(self) -> torch.Tensor:
        """Logits (N, K) without attack."""
        return self.classifier.logits(self.x, self.batch_size)

    @cached_property
    def right(self) -> torch.Tensor:
        """Which images (N,) are right without attack; the attacks see only these."""
        return right(self.logits, self.y, self.classifier.task)

    @property
    def n(self) -> int:
        """How many images are right without attack."""
        return int(self.right.sum())

    @cached_property
    def clean(self) -> torch.Tensor:
        """The images that are right, (n, C, H, W)."""
        return self.x[self.right]

    @cached_property
    def labels(self) -> torch.Tensor:
        """Their labels."""
        return self.y[self.right]

    @cached_property
    def search(self) -> Convergence:
        """Steps along the gradient of the network's own loss, on the images that are right."""
        return self.search_at(self.eps, STEPS)

    @cached_property
    def broken(self) -> Bools:
        """Which of the images that are right (n,) the white box breaks: the search above, or one along the logit margin."""
        return self.with_margin(self.search, STEPS, self.eps)

    def search_at(self, eps: float, steps: int) -> Convergence:
        """The same search at any radius."""
        return convergence(
            self.classifier,
            self.clean,
            self.labels,
            eps=eps,
            norm=self.norm,
            steps=steps,
            restarts=1,
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def with_margin(self, search: Convergence, steps: int, eps: float) -> Bools:
        """Which images (n,) `search` has broken, or else APGD along the logit margin does."""
        broken = np.isfinite(search.first_step)
        if self.differentiable:
            broken |= self.broken_by(APGD(eps=[eps], norm=self.norm, loss="margin", steps=steps), ~broken, eps)
        return broken

    def broken_by(self, attack: cxr.Attack, which: Bools, eps: float, on: cxr.Classifier | None = None) -> Bools:
        """Which images (n,) of some an attack breaks; it works on the network `on`, or else on this one."""
        source, rows = self.classifier if on is None else on, np.flatnonzero(which)
        broken = np.zeros(self.n, dtype=bool)
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            images, labels = self.clean[part], self.labels[part]
            found = attack.perturb(source, images.to(source.device), labels.to(source.device), eps=eps, seed=self.seed).cpu()
            # the network is judged here and not the attack: where its gradients are no numbers, nothing was found
            found = torch.where(torch.isfinite(found), found, images)
            broken[part] = self.wrong(found, part, eps)
        return broken

    def wrong(self, found: torch.Tensor, rows: npt.NDArray[np.int64], eps: float) -> Bools:
        """Which of the images `found`, brought back into the ball around those that are right at `rows`, are wrong."""
        inside = project(found, self.clean[rows], eps, self.norm)
        logits = self.classifier.logits(inside, self.batch_size)
        judged: Bools = (~right(logits, self.labels[rows], self.classifier.task)).numpy()
        return judged

    @cached_property
    def differentiable(self) -> bool:
        """Whether the logits come from the images by steps that have a derivative at all, be it zero."""
        image = self.x[:1].to(self.classifier.device).requires_grad_(True)
        with cxr.frozen(self.classifier.model), torch.enable_grad():
            return bool(self.classifier.model(image).requires_grad)

    def stepped(self, part: float) -> Bools:
        """Which of the images that are right (n,) one step along the loss gradient breaks that is a part of the radius long."""
        moved = self.clean + part * self.eps * upward(self.gradients["ce"], self.norm)
        return self.wrong(moved, np.arange(self.n), self.eps)

    def gradient_lengths(self, loss: Loss) -> npt.NDArray[np.float64]:
        """Length of each loss gradient at the images that are right, (n,); NaN where it is not finite."""
        # in doubles: the square of a small float32 is zero long before the number itself
        length = torch.linalg.vector_norm(self.gradients[loss].double().flatten(1), dim=1)
        return torch.where(torch.isfinite(length), length, torch.nan).numpy()

    @cached_property
    def gradients(self) -> dict[Loss, torch.Tensor]:
        """Gradients of both losses at the images that are right, (n, C, H, W) each, on the CPU."""
        found: dict[Loss, torch.Tensor] = {}
        losses: tuple[Loss, ...] = ("ce", "margin")
        with cxr.frozen(self.classifier.model):
            for loss in losses:
                parts = [
                    logits_and_gradient(self.classifier, images.to(device), labels.to(device), loss)[1].cpu()
                    for device in [self.classifier.device]
                    for images, labels in zip(
                        torch.split(self.clean, self.batch_size), torch.split(self.labels, self.batch_size), strict=True
                    )
                    if len(images)
                ]
                found[loss] = torch.cat(parts) if parts else torch.empty_like(self.clean)
        return found


def one_finding(x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor, seed: int) -> torch.Tensor:
    """Labels (N, K) in which each image keeps one known finding, of those that the network answers rightly; the rest is NaN.

    x: images (N, C, H, W). y: findings (N, K), NaN unknown. logits: (N, K). The finding is drawn by lot, image by image; where
    no answer is right, one that is known is kept, and where none is known, none.
    Over all findings next to no image is right, and searches would have nothing to break.
    """
    known = ~torch.isnan(y)
    held = known & ((logits > 0) == (y > 0.5))
    kept = torch.full_like(y, torch.nan)
    for row, own in enumerate(image_seeds(x, seed)):
        among = torch.nonzero(held[row] if held[row].any() else known[row]).flatten()
        if len(among):
            k = int(among[int(np.random.default_rng(own).integers(len(among)))])
            kept[row, k] = y[row, k]
    return kept
