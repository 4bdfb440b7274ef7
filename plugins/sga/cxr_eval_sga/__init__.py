"""Saliency guided training, plain (`sg`) and adversarial (`sga`): predictions that the least useful pixels cannot change."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_validator

import cxr_eval.api as cxr


class SaliencyGuidedTrainer(cxr.Trainer):
    """Loss on clean images plus a weighted divergence from the prediction without their least salient pixels."""

    source = "Ismail et al., NeurIPS 2021, arXiv:2111.14338; code ayaabdelsalam91/saliency_guided_training (925ad6f)"

    class Params(cxr.Params):
        k: float = cxr.Field(
            0.1,
            ge=0,
            le=1,
            description="share of pixels replaced, at least one if above 0; 0 replaces none. 0.1 in arXiv:2209.04326 and the"
            " default of Ismail's code",
        )
        lam: float = cxr.Field(
            1.0,
            ge=0,
            description="weight of the divergence, lambda of both papers; 0 is natural training. 1 in arXiv:2209.04326 and in"
            " Ismail's code",
        )
        saliency_target: Literal["label", "argmax"] = cxr.Field(
            "label",
            description="logit whose gradient ranks the pixels: label, as Ismail's code; argmax, the prediction (our choice)."
            " For findings the sum of logits, each with the sign of its known label, or of its prediction (our choice)",
        )
        gradient: Literal["signed", "absolute"] = cxr.Field(
            "signed",
            description="order of the pixels: smallest signed gradient first (arXiv:2209.04326, default of Ismail's code), or"
            " smallest absolute one (option of Ismail's code)",
        )
        mask: Literal["pixel", "element"] = cxr.Field(
            "pixel",
            description="pixel: all channels of a pixel together, ranked by the mean gradient over channels (Ismail's code for"
            " colour); element: each channel's value for itself (its code for MNIST)",
        )
        fill: Literal["uniform", "mean", "corner"] = cxr.Field(
            "uniform",
            description="new values: uniform between the smallest and largest of that image and channel (arXiv:2209.04326:"
            " random within the feature range; an option of Ismail's code), the channel's mean (its default for colour), or the"
            " channel's top-left pixel (its default for MNIST)",
        )
        kl_direction: Literal["clean_masked", "masked_clean"] = cxr.Field(
            "clean_masked",
            description="clean_masked: KL(f(X) || f(changed X)), both papers' form; masked_clean: the other way (our choice)",
        )
        detach: Literal["none", "clean"] = cxr.Field(
            "none",
            description="none: gradient through both predictions, as Ismail's code; clean: the divergence moves only the"
            " prediction of the changed image (our choice)",
        )

    @property
    def stays_within_eps(self) -> bool:
        unmasked: bool = self.params.k == 0  # a new pixel value may lie anywhere in the image's range
        return unmasked

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        p = self.params
        changed = self.counterpart(batch) if p.lam else batch.x
        clean = self.model(batch.x)
        loss: torch.Tensor = self.criterion(clean, batch.y)
        if changed is batch.x:  # KL(f(X) || f(X)) is 0
            return loss
        other = self.model(changed)
        fixed = clean.detach() if p.detach == "clean" else clean
        divergence = self.divergence(fixed, other) if p.kl_direction == "clean_masked" else self.divergence(other, fixed)
        self.log("divergence", divergence)
        weight: float = p.lam
        return loss + weight * divergence  # L(f(X), y) + lambda KL(f(X) || f(X~)), Ismail et al.'s objective

    def counterpart(self, batch: cxr.Batch) -> torch.Tensor:
        """Images whose prediction is to be that of the batch, without gradient; `batch.x` itself if nothing changes."""
        return self.masked(batch)

    def masked(self, batch: cxr.Batch) -> torch.Tensor:
        """X~: the images with their least salient pixels replaced, (B, C, H, W) in [0, 1]; `batch.x` itself for k 0."""
        p, x = self.params, batch.x
        if not p.k:
            return x
        with cxr.frozen(self.model):
            gradient = cxr.input_gradient(self.model, x, batch.y, loss=self._score)
        if p.gradient == "absolute":
            gradient = gradient.abs()
        if p.mask == "pixel":
            gradient = gradient.mean(dim=1, keepdim=True)
        flat = gradient.flatten(1)
        least = flat.topk(max(1, int(p.k * flat.shape[1])), largest=False).indices
        mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, least, True).view(gradient.shape)
        return torch.where(mask, self._fill(x), x)

    def _score(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Sum over images of the logit that stands for the target; for findings, of the evidence for all that are known."""
        by_label = self.params.saliency_target == "label"
        if self.task == "multiclass":
            target = y if by_label else logits.argmax(dim=1)
            return logits.gather(1, target[:, None]).sum()
        sign = torch.nan_to_num(2 * y - 1) if by_label else logits.detach().sign()
        return (sign * logits).sum()

    def _fill(self, x: torch.Tensor) -> torch.Tensor:
        """New values for all pixels, (B, C, H, W) or one an image and channel; only `uniform` draws."""
        if self.params.fill == "mean":
            return x.mean(dim=(2, 3), keepdim=True)
        if self.params.fill == "corner":
            return x[:, :, :1, :1]
        share = torch.rand(x.shape, generator=self.rng, device=self.device)
        return torch.lerp(x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True), share)


class SGATrainer(SaliencyGuidedTrainer):
    """Loss on clean images plus a weighted divergence from the prediction of their masked, then attacked images."""

    source = "Li et al., AdvML Frontiers at ICML 2022, arXiv:2209.04326"
    adversarial = True

    class Params(SaliencyGuidedTrainer.Params):
        eps: cxr.Radius = cxr.Field(
            0.05, description="largest L-inf radius of the FGSM step, pixel units; 0.05 in arXiv:2209.04326. 0 for both is sg"
        )
        eps_min: cxr.Radius = cxr.Field(
            0.01,
            description="smallest radius; each batch draws one, uniform between the two, as arXiv:2209.04326, with 0.01."
            " Equal to eps it draws none",
        )

        @model_validator(mode="after")
        def _radii_in_order(self) -> Self:
            if self.eps_min > self.eps:
                raise ValueError(
                    f"eps_min {self.eps_min:g} is larger than eps {self.eps:g}; lower it, to {self.eps:g} for one fixed radius"
                )
            return self

    def counterpart(self, batch: cxr.Batch) -> torch.Tensor:
        masked = self.masked(batch)
        if not self.params.eps:
            return masked
        # X' = clip(X~ + e sign(dL(f(X~), y) / dX~)), e ~ U(eps_min, eps)
        return cxr.fgsm(self.model, masked, batch.y, eps=self._radius(), loss=self.criterion)

    def _radius(self) -> float | torch.Tensor:
        smallest: float = self.params.eps_min
        largest: float = self.params.eps
        if smallest == largest:
            return largest
        return torch.empty((), device=self.device).uniform_(smallest, largest, generator=self.rng)
