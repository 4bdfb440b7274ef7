"""TRADES: the clean loss, plus the divergence of the attacked prediction from the clean one."""

from __future__ import annotations

from typing import Literal

import torch

import cxr_eval.api as cxr

NOISE = 0.001
"""Standard deviation of the Gaussian start, pixel units; the authors' code."""


class TRADESTrainer(cxr.Trainer):
    """Loss on clean images plus `beta` times the divergence between clean predictions and the worst ones within eps."""

    source = "Zhang et al., ICML 2019, arXiv:1901.08573, eq. 5"
    adversarial = True

    class Params(cxr.Ball):
        eps: cxr.Distance = cxr.Field(
            8 / 255,
            description="radius in the norm, pixel units; 0.031 L-inf in the authors' code for CIFAR-10. An L2 ball needs a"
            " larger one to change an image as much",
        )
        steps: int = cxr.Field(10, ge=1, description="gradient steps; 10 in the authors' code")
        step: cxr.Distance | None = cxr.Field(
            None, description="length of a step, pixel units; 2.5 x eps / steps if not given, near the authors' 0.007"
        )
        beta: float = cxr.Field(
            6.0, ge=0, description="weight of the divergence, 1/lambda in the paper; 6 in the authors' code. 0 is standard"
        )
        start: Literal["gaussian", "uniform"] = cxr.Field(
            "gaussian",
            description="where the search starts: gaussian, Gaussian noise of 0.001 added to the image as in the authors' code;"
            " uniform, a uniform point of the ball",
        )

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        beta: float = self.params.beta
        adversarial = self.attack(batch.x) if beta else None
        clean = self.model(batch.x)
        loss: torch.Tensor = self.criterion(clean, batch.y)
        if adversarial is not None:
            divergence = self.divergence(clean, self.model(adversarial))
            self.log("divergence", divergence)
            loss = loss + beta * divergence  # eq. 5; gradients flow through both predictions
        return loss

    def attack(self, x: torch.Tensor) -> torch.Tensor:
        """The images within eps whose predictions diverge most from those of x: the inner maximisation of eq. 5."""
        p, start = self.params, None
        with cxr.frozen(self.model), torch.no_grad():
            clean = self.model(x)
        # no search starts at x itself: the divergence has no gradient there
        if p.start == "gaussian":
            noise = torch.randn(x.shape, generator=self.rng, device=x.device, dtype=x.dtype)
            start = (x + NOISE * noise).clamp(0, 1)
        return cxr.pgd(
            self.model,
            x,
            clean,
            eps=p.eps,
            step=2.5 * p.eps / p.steps if p.step is None else p.step,
            steps=p.steps,
            loss=lambda moved, at_x: self.divergence(at_x, moved),
            start=start,
            rng=self.rng if p.start == "uniform" else None,
            norm=p.norm,
        )
