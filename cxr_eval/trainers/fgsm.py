"""Adversarial training with the fast gradient sign method."""

from __future__ import annotations

import torch
from pydantic import model_validator

import cxr_eval.api as cxr


class FGSMTrainer(cxr.Trainer):
    """Loss on clean images plus a weighted loss on their FGSM images; with `fraction`, loss on batches perturbed in part."""

    source = (
        "Goodfellow et al., ICLR 2015, arXiv:1412.6572, section 6; arXiv:2311.14227 for chest X-rays with eps 0.02;"
        " with fraction Khakzar et al., MICCAI 2019, arXiv:1905.03767"
    )
    adversarial = True

    class Params(cxr.Params):
        eps: cxr.Radius = cxr.Field(0.02, description="L-inf radius, pixel units; 0.02 is the step size of arXiv:2311.14227")
        eps_min: cxr.Radius | None = cxr.Field(
            None,
            description="every minibatch draws one radius between this and eps; without it all have eps. 0.01 with eps 0.05"
            " are the radii of arXiv:2209.04326",
        )
        adversarial_weight: float = cxr.Field(
            0.2,
            gt=0,
            description="weight of the adversarial loss beside the clean loss; 0.2 is the default of neural structured"
            " learning, 1 the equal-weight form. The paper does not say: our choice. Has no place beside fraction",
        )
        fraction: float | None = cxr.Field(
            None,
            gt=0,
            le=1,
            description="share of every batch, drawn at random, that is perturbed; the loss is then that of the mixed batch"
            " alone. 0.5 with eps 0.005, started from a trained network (warm_start in a protocol), is arXiv:1905.03767, where"
            " half of the images are perturbed in each epoch; half of every batch is our choice. 1: no clean image",
        )
        random_start: bool = cxr.Field(False, description="start from a uniform point of the ball")

        @model_validator(mode="after")
        def _settings_fit(self) -> FGSMTrainer.Params:
            if self.eps_min is not None and self.eps_min > self.eps:
                raise ValueError(f"eps_min {self.eps_min:g} is above eps {self.eps:g}; exchange them, or leave eps_min out")
            if self.fraction is not None and self.adversarial_weight != type(self).model_fields["adversarial_weight"].default:
                raise ValueError("fraction trains on one mixed batch, which has no weights; leave adversarial_weight out")
            return self

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        p = self.params
        if p.fraction is not None:
            return self._loss_of_mixed_batch(batch)
        adversarial = self._attack(batch, slice(None))
        clean: torch.Tensor = self.criterion(self.model(batch.x), batch.y)
        attacked: torch.Tensor = self.criterion(self.model(adversarial), batch.y)
        return clean + float(p.adversarial_weight) * attacked

    def _loss_of_mixed_batch(self, batch: cxr.Batch) -> torch.Tensor:
        size = len(batch.x)
        count = max(1, round(self.params.fraction * size))
        if count == size:
            mixed = self._attack(batch, slice(None))
        else:
            chosen = torch.randperm(size, generator=self.rng, device=self.device)[:count]
            mixed = batch.x.index_copy(0, chosen, self._attack(batch, chosen))
        return self.criterion(self.model(mixed), batch.y)

    def _attack(self, batch: cxr.Batch, chosen: torch.Tensor | slice) -> torch.Tensor:
        p, eps = self.params, self.params.eps
        if p.eps_min is not None and p.eps_min < p.eps:
            eps = p.eps_min + (p.eps - p.eps_min) * torch.rand((), generator=self.rng, device=self.device)
        return cxr.fgsm(
            self.model,
            batch.x[chosen],
            batch.y[chosen],
            eps=eps,
            loss=self.batch_criterion(batch.y),
            rng=self.rng if p.random_start else None,
        )
