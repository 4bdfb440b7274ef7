"""Changes that no one intended: Gaussian noise and loss of contrast, in five severities."""

from __future__ import annotations

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.seeds import image_seeds

NOISE_STD = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Standard deviations by severity, pixel units of [0, 1]. Doubling from 2.5 grey levels of 255, about what a good digital
radiograph has and the eye misses, to between severities 2 and 3 of ImageNet-C (0.08, 0.12, 0.18, 0.26, 0.38)."""

CONTRAST_FACTOR = (0.8, 0.6, 0.4, 0.2, 0.1)
"""Share of contrast that is left, by severity. 0.8 passes for another display setting; 0.4, 0.2 and 0.1 are severities 1, 3
and 4 of ImageNet-C (0.4, 0.3, 0.2, 0.1, 0.05)."""


class GaussianNoise(cxr.Corruption):
    """Independent Gaussian noise in every pixel, clipped to [0, 1]: MONAI's RandGaussianNoise, one seed an image."""

    source = (
        "Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3 (kind); std 0.01, 0.02, 0.04, 0.08, 0.16 are ours"
    )

    def corrupt(self, x: torch.Tensor, *, severity: int, seed: int) -> torch.Tensor:
        """Noisy images, (N, C, H, W) in [0, 1]; the noise follows from seed, severity and the image alone."""
        from monai.transforms import RandGaussianNoise

        # sample_std would draw a weaker noise for most images
        noise = RandGaussianNoise(prob=1.0, mean=0.0, std=NOISE_STD[severity - 1], sample_std=False)
        noisy = []
        for image, own in zip(x, image_seeds(x, seed, severity), strict=True):
            noise.set_random_state(seed=own)
            # MONAI's own tensor class would slow down and leak into everything computed from it
            noisy.append(torch.as_tensor(noise(image)).as_subclass(torch.Tensor))
        return torch.stack(noisy).to(x.dtype).clamp(0, 1) if noisy else x.clone()


class Contrast(cxr.Corruption):
    """Every pixel moved towards the image's mean grey, so that a share of the contrast is left.

    MONAI has no such transform: its AdjustContrast is a gamma curve over the least and the greatest value of all images that
    it gets at once.
    """

    source = "Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3 (kind); factors 0.8, 0.6, 0.4, 0.2, 0.1 are ours"

    def corrupt(self, x: torch.Tensor, *, severity: int, seed: int) -> torch.Tensor:
        """Flat images, (N, C, H, W) in [0, 1]; nothing in it is random, so `seed` has no effect."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        return (mean + CONTRAST_FACTOR[severity - 1] * (x - mean)).clamp(0, 1)
