"""Adversarial weight perturbation: PGD training at the weights nearby where the loss is highest."""

from __future__ import annotations

from functools import partial

import torch
from torch.func import functional_call

import cxr_eval.api as cxr
from cxr_eval.trainers.pgd import PGDTrainer


class AWPTrainer(PGDTrainer):
    """The loss of `pgd` at weights that one step of ascent has moved; its gradient changes the weights as they were."""

    source = "Wu et al., NeurIPS 2020, arXiv:2004.05884, AT-AWP"
    adversarial = True

    class Params(PGDTrainer.Params):
        steps: int = cxr.Field(10, ge=1, description="gradient steps of the images; 10 in the authors' code")
        gamma: float = cxr.Field(
            0.01,
            ge=0,
            description="length of a layer's perturbation over the length of its weights; 0.01 in the authors' AT-AWP code."
            " 0 is pgd",
        )
        warmup: int = cxr.Field(
            0, ge=0, description="epochs without perturbation at the start; 0 in the authors' AT-AWP code, 10 for TRADES"
        )

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        adversarial = self.attack(batch)
        if not self.params.gamma or batch.epoch < self.params.warmup:
            return self.mixture(self.model, adversarial, batch)
        moved = self.perturbed(adversarial, batch)
        return self.mixture(partial(functional_call, self.model, moved), adversarial, batch)

    def perturbed(self, adversarial: torch.Tensor, batch: cxr.Batch) -> dict[str, torch.Tensor]:
        """Every layer's weights w + v, v = gamma ||w|| g / ||g|| with g the gradient of the loss at w; gradients land on w.

        Layers' weights are the parameters of more than one axis that are called weight, as in the authors' code.
        """
        layers = {
            name: weight
            for name, weight in self.model.named_parameters()
            if weight.requires_grad and weight.ndim > 1 and "weight" in name
        }
        # copies of the buffers: BatchNorm learns once a step, from the forward pass at w + v
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        loss = self.mixture(partial(functional_call, self.model, buffers), adversarial, batch)
        gradients = torch.autograd.grad(loss, list(layers.values()), allow_unused=True)
        moved = {}
        for (name, weight), gradient in zip(layers.items(), gradients, strict=True):
            if gradient is not None:
                length = gradient.norm()
                scale = torch.where(length > 0, self.params.gamma * weight.detach().norm() / length, 0.0)
                moved[name] = weight + scale * gradient
        return moved
