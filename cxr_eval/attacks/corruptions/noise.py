"""Electronic noise: the same in bright and dark places."""

from __future__ import annotations

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.corruptions.single import grey_once
from cxr_eval.attacks.seeds import image_seeds

NOISE_STD = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Standard deviations by severity, pixel units of [0, 1]. Doubling from 2.5 grey levels of 255, about what a good digital
radiograph has and the eye misses, to between severities 2 and 3 of ImageNet-C (0.08, 0.12, 0.18, 0.26, 0.38)."""


class GaussianNoise(cxr.Corruption):
    """Independent Gaussian noise in every pixel, clipped to [0, 1]: MONAI's RandGaussianNoise, one seed an image.

    A grey picture in several channels gets the same noise in all of them, as one detector gives. At severity 5 heart,
    diaphragm and dense opacities are still plain; fine interstitial lines and small nodules are lost in the grain.
    """

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
            noisy.append(torch.as_tensor(noise(grey_once(image))).as_subclass(torch.Tensor).expand_as(image))
        return torch.stack(noisy).to(x.dtype).clamp(0, 1) if noisy else x.clone()
