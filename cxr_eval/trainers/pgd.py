"""Adversarial training with projected gradient descent."""

import torch

import cxr_eval.api as cxr


class PGDTrainer(cxr.Trainer):
    """Loss on PGD images; with `clean_weight`, a mixture of clean and attacked loss."""

    source = "Madry et al., ICLR 2018, arXiv:1706.06083, eq. 2.1"
    adversarial = True

    class Params(cxr.Params):
        eps: cxr.Radius = cxr.Field(8 / 255, description="L-inf radius, pixel units; 8/255 is the paper's radius on CIFAR-10")
        steps: int = cxr.Field(7, ge=1, description="gradient steps; 7 in the paper's training on CIFAR-10")
        step: cxr.Radius | None = cxr.Field(None, description="length of a step, pixel units; 2.5 x eps / steps if not given")
        random_start: bool = cxr.Field(True, description="start from a uniform point of the ball, as the paper does")
        clean_weight: float = cxr.Field(
            0.0,
            ge=0,
            le=1,
            description="share of the clean loss; 0 is Madry's form, 0.5 the SAT form of arXiv:2403.06798 (our choice)",
        )

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        p = self.params
        adversarial = cxr.pgd(
            self.model,
            batch.x,
            batch.y,
            eps=p.eps,
            step=2.5 * p.eps / p.steps if p.step is None else p.step,
            steps=p.steps,
            loss=self.criterion,
            rng=self.rng if p.random_start else None,
        )
        loss: torch.Tensor = self.criterion(self.model(adversarial), batch.y)
        if p.clean_weight:
            loss = (1 - p.clean_weight) * loss + p.clean_weight * self.criterion(self.model(batch.x), batch.y)
        return loss
