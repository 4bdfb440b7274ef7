"""Gaussian-noise training: the smallest useful cxr-eval trainer plugin."""

import torch

import cxr_eval.api as cxr


class NoiseTrainer(cxr.Trainer):
    """Cross-entropy on images with additive Gaussian noise, clamped to valid pixels."""

    source = "Cohen et al., Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, sec. 3.3"

    class Params(cxr.Params):
        sigma: float = cxr.Field(0.1, ge=0, le=1, description="noise std, in pixel units of [0, 1]")

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        noise = torch.randn(batch.x.shape, generator=self.rng, device=self.device)
        noisy = (batch.x + self.params.sigma * noise).clamp(0, 1)
        return self.criterion(self.model(noisy), batch.y)  # the task's loss; unknown labels are masked
