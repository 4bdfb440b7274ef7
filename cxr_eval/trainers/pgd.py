"""Adversarial training with projected gradient descent."""

from __future__ import annotations

from collections.abc import Callable

import torch

import cxr_eval.api as cxr


class PGDTrainer(cxr.Trainer):
    """Loss on PGD images; with `clean_weight`, a mixture of clean and attacked loss."""

    source = "Madry et al., ICLR 2018, arXiv:1706.06083, eq. 2.1"
    adversarial = True

    class Params(cxr.Ball):
        eps: cxr.Distance = cxr.Field(
            8 / 255,
            description="radius in the norm, pixel units; 8/255 is the paper's L-inf radius on CIFAR-10. An L2 ball needs a"
            " larger one to change an image as much",
        )
        steps: int = cxr.Field(7, ge=1, description="gradient steps; 7 in the paper's training on CIFAR-10")
        step: cxr.Distance | None = cxr.Field(None, description="length of a step, pixel units; 2.5 x eps / steps if not given")
        random_start: bool = cxr.Field(True, description="start from a uniform point of the ball, as the paper does")
        clean_weight: float = cxr.Field(
            0.0,
            ge=0,
            lt=1,
            description="share of the clean loss; 0 is Madry's form, 0.5 the SAT form of arXiv:2403.06798 (our choice); 1 would"
            " be standard",
        )

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        return self.mixture(self.model, self.attack(batch), batch)

    def attack(self, batch: cxr.Batch) -> torch.Tensor:
        """The batch's images within eps that have a higher loss."""
        p = self.params
        return cxr.pgd(
            self.model,
            batch.x,
            batch.y,
            eps=p.eps,
            step=2.5 * p.eps / p.steps if p.step is None else p.step,
            steps=p.steps,
            loss=self.criterion,
            rng=self.rng if p.random_start else None,
            norm=p.norm,
        )

    def mixture(
        self, network: Callable[[torch.Tensor], torch.Tensor], adversarial: torch.Tensor, batch: cxr.Batch
    ) -> torch.Tensor:
        """The attacked loss of a network, and its clean loss where that has a weight."""
        weight: float = self.params.clean_weight
        loss: torch.Tensor = self.criterion(network(adversarial), batch.y)
        if weight:
            loss = (1 - weight) * loss + weight * self.criterion(network(batch.x), batch.y)
        return loss
