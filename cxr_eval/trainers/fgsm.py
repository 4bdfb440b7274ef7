"""Adversarial training with the fast gradient sign method."""

import torch

import cxr_eval.api as cxr


class FGSMTrainer(cxr.Trainer):
    """Loss on clean images plus a weighted loss on their FGSM images."""

    source = "Goodfellow et al., ICLR 2015, arXiv:1412.6572, section 6; arXiv:2311.14227 for chest X-rays with eps 0.02"
    adversarial = True

    class Params(cxr.Params):
        eps: cxr.Radius = cxr.Field(0.02, description="L-inf radius, pixel units; 0.02 is the step size of arXiv:2311.14227")
        adversarial_weight: float = cxr.Field(
            0.2,
            gt=0,
            description="weight of the adversarial loss beside the clean loss; 0.2 is the default of neural structured"
            " learning,"
            " 1 the equal-weight form. The paper does not say: our choice",
        )
        random_start: bool = cxr.Field(False, description="start from a uniform point of the ball")

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        rng = self.rng if self.params.random_start else None
        adversarial = cxr.fgsm(self.model, batch.x, batch.y, eps=self.params.eps, loss=self.criterion, rng=rng)
        weight: float = self.params.adversarial_weight
        clean = self.criterion(self.model(batch.x), batch.y)
        attacked = self.criterion(self.model(adversarial), batch.y)
        return clean + weight * attacked
