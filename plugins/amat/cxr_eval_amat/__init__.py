"""AMAT: adaptive-margin adversarial training."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import model_validator

import cxr_eval.api as cxr
from cxr_eval_amat.huber import location_and_scale

QUANTILES = {"eps_q05": 0.05, "eps_q25": 0.25, "eps_median": 0.5, "eps_q75": 0.75, "eps_q95": 0.95}
HALVINGS = 10
"""Halvings that find the boundary for `refine`; 10 in the authors' code."""


class AMATTrainer(cxr.Trainer):
    """PGD training with a margin of its own for each image, which grows as long as the network stands the attack.

    An image is correct where its loss, without class weights, is at most the threshold that a network trained before gives.
    Outside of `fit` there is no threshold: every image is correct, and its margin is the first one.
    """

    source = "Ma & Liang, 2022, arXiv:2206.01736, and its authors' code; margins of single images: IMA, arXiv:2005.09147"
    adversarial = True
    uses_reference = True
    margins: torch.Tensor | None = None
    """Margin of each training image, (n,) float64: the float32 of an attack is then that of a fixed radius."""
    threshold: torch.Tensor
    """Largest loss of an image that counts as correct."""

    class Params(cxr.Ball):
        eps: cxr.Distance = cxr.Field(
            8 / 255,
            description="largest margin, in the norm, pixel units. The authors' norm is l2; linf with 8/255 is our choice, the"
            " radius of the methods that AMAT is compared with",
        )
        delta: cxr.Distance | None = cxr.Field(
            None, description="first margin, and what a margin grows by; eps / 10 if not given, as in the authors' code"
        )
        steps: int = cxr.Field(20, ge=1, description="gradient steps; 20 in the authors' code")
        alpha: float = cxr.Field(
            4.0,
            gt=0,
            description="the steps' whole length over the margin; 4 in the authors' code for classification (IMA), 5 for"
            " landmarks (AMAT)",
        )
        beta: float = cxr.Field(
            0.5, ge=0, le=1, description="share of the attacked loss; 0.5 in the authors' code. 0: no attack, margins stay"
        )
        z: float = cxr.Field(
            2.0,
            description="threshold: Huber location + z x Huber scale of the reference's losses on the training images; 1, 2 and"
            " 3 in the authors' code, 2 in the names of its files",
        )
        refine: bool = cxr.Field(
            False,
            description="the margin of a correct image whose attack succeeds becomes the mean of itself and the distance to the"
            " boundary, as in the authors' code for IMA and segmentation; without it, it stays, as for landmarks",
        )
        average: Literal["batch", "subset"] = cxr.Field(
            "batch",
            description="batch: the sums of the three losses are divided by the batch size, as in the authors' code for"
            " classification (IMA); subset: each is the mean over its own images, as for landmarks (AMAT), so that a few wrong"
            " images weigh as much as all others",
        )

        @model_validator(mode="after")
        def _delta_fits(self) -> AMATTrainer.Params:
            if self.growth > self.eps:
                raise ValueError(f"delta {self.growth:g} is above eps {self.eps:g}, the largest margin; lower delta")
            if self.growth == 0:
                raise ValueError("delta 0 leaves every margin at 0; give delta and eps above 0")
            return self

        @property
        def growth(self) -> float:
            """First margin, and what a margin grows by."""
            return self.eps / 10 if self.delta is None else self.delta

    def on_fit_start(self, n: int) -> None:
        """Give every image the first margin, and take the threshold from the reference.

        Raises:
            ValueError: the images come from a generator; the reference's losses are not finite.
        """
        self.margins = torch.full((n,), self.params.growth, dtype=torch.float64, device=self.device)
        assert self.reference is not None
        found = []
        with cxr.frozen(self.reference), torch.no_grad():
            for batch in self.clean_batches():
                found.append(self._plain(self.reference(batch.x), batch.y)[_known(batch.y)])
        losses = torch.cat(found)
        if not len(losses) or not bool(losses.isfinite().all()):
            raise ValueError("expected finite losses of the reference on the training images; name another reference")
        location, scale = location_and_scale(losses)
        self.threshold = torch.tensor(location + self.params.z * scale, dtype=torch.float64, device=self.device)

    def on_epoch_end(self, epoch: int) -> None:
        assert self.margins is not None
        self.log("eps_mean", self.margins.mean())
        levels = torch.tensor(list(QUANTILES.values()), dtype=torch.float64, device=self.device)
        for name, quantile in zip(QUANTILES, torch.quantile(self.margins, levels), strict=True):
            self.log(name, quantile)
        self.log("threshold", self.threshold)

    def state_dict(self) -> dict[str, Any]:
        return {"margins": self.margins, "threshold": self.threshold}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.margins, self.threshold = state["margins"].to(self.device), state["threshold"].to(self.device)

    def eps_range(self) -> tuple[float, float]:
        if self.margins is None:
            return self.params.growth, self.params.growth
        return float(self.margins.min()), float(self.margins.max())

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        p, margins = self.params, self.margins
        beta: float = p.beta
        first = torch.full(batch.index.shape, p.growth, dtype=torch.float64, device=self.device)
        margin = first if margins is None else margins[batch.index]
        adversarial = self.attack(batch, margin) if beta else None
        logits, known = self.model(batch.x), _known(batch.y)
        clean, correct = self.losses(logits, batch.y), self._is_correct(logits, batch.y) & known
        self.log("correct_fraction", correct.double().mean())
        loss = self._mean(clean, ~correct & known) + self._mean(clean, correct)
        if adversarial is None:
            return loss
        logits = self.model(adversarial)
        attacked, stood = self.losses(logits, batch.y), correct & self._is_correct(logits, batch.y)
        self.log("expanded_fraction", stood.double().mean())
        if margins is not None:  # at once: every image comes once an epoch, so no new margin is used before the next
            margins[batch.index] = self._next(batch, adversarial, margin, stood, correct & ~stood)
        return (1 - beta) * loss + beta * self._mean(attacked, correct)

    def attack(self, batch: cxr.Batch, margin: torch.Tensor) -> torch.Tensor:
        """Images within margins (B,) that have a higher loss; the start is a random one, nearer than the margin by delta."""
        p = self.params
        near = torch.minimum((margin - p.growth).clamp(min=p.growth), margin)
        return cxr.pgd(
            self.model,
            batch.x,
            batch.y,
            eps=margin,
            step=p.alpha * margin / p.steps,
            steps=p.steps,
            loss=self.criterion,
            start=cxr.random_start(batch.x, near, self.rng, p.norm),
            norm=p.norm,
        )

    def _plain(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of each image, (B,), that says how sure the network is of it: no class weight stands in it."""
        return self.losses(logits.detach(), y, weighted=False)

    def _is_correct(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        losses = self._plain(logits, y)
        return torch.ones_like(losses, dtype=torch.bool) if self.margins is None else losses <= self.threshold

    def _mean(self, losses: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        count = chosen.sum().clamp(min=1) if self.params.average == "subset" else len(losses)
        return (losses * chosen).sum() / count

    def _next(
        self, batch: cxr.Batch, adversarial: torch.Tensor, margin: torch.Tensor, stood: torch.Tensor, fell: torch.Tensor
    ) -> torch.Tensor:
        """Margins (B,) from now on: wider where a correct image stood the attack; a wrong image keeps its own."""
        p = self.params
        moved = torch.where(stood, margin + p.growth, margin)
        if p.refine:
            moved = torch.where(fell, (margin + self._distance(batch, adversarial)) / 2, moved)
        return moved.clamp(0, p.eps)

    def _distance(self, batch: cxr.Batch, adversarial: torch.Tensor) -> torch.Tensor:
        """How far each image is from the boundary on the way to its adversarial image, (B,) float64."""
        change = adversarial - batch.x
        low = torch.zeros(len(change), 1, 1, 1, device=self.device)
        high = torch.ones_like(low)
        with cxr.frozen(self.model), torch.no_grad():
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                correct = self._is_correct(self.model(batch.x + middle * change), batch.y).view_as(low)
                low, high = torch.where(correct, middle, low), torch.where(correct, high, middle)
        order = 2 if self.params.norm == "l2" else torch.inf
        length = torch.linalg.vector_norm(change.flatten(1), ord=order, dim=1)
        distance: torch.Tensor = ((low + high) / 2).flatten().double() * length
        return distance


def _known(y: torch.Tensor) -> torch.Tensor:
    """Which images have a label, (B,); without one a loss says nothing."""
    return ~y.isnan().all(dim=1) if y.is_floating_point() else torch.ones_like(y, dtype=torch.bool)
