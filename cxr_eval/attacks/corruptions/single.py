"""Corruption of one image after another, each with random numbers of its own."""

from __future__ import annotations

from abc import abstractmethod

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.seeds import image_seeds


class SingleImage(cxr.Corruption):
    """A corruption that is written for one image.

    An image whose channels are all equal is one grey picture: it is corrupted once and stays grey. The random numbers follow
    from the seed and the image, not from the severity, so that a higher severity moves an image further the same way.
    """

    def corrupt(self, x: torch.Tensor, *, severity: int, seed: int) -> torch.Tensor:
        """Corrupted images, (N, C, H, W) in [0, 1], on the device of x; drawn and computed on the CPU, alike everywhere."""
        changed = []
        for image, own in zip(x.detach().cpu(), image_seeds(x, seed), strict=True):
            rng = torch.Generator().manual_seed(own)
            changed.append(self.change(grey_once(image), severity=severity, rng=rng).expand_as(image))
        return torch.stack(changed).to(x).clamp(0, 1) if changed else x.clone()

    @abstractmethod
    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The corrupted image, like `image` (C, H, W); `corrupt` clips it to [0, 1]. C is 1 for a grey picture."""


def grey_once(image: torch.Tensor) -> torch.Tensor:
    """The first channel (1, H, W) of an image (C, H, W) whose channels are all equal, else the image."""
    return image[:1] if bool((image == image[:1]).all()) else image


def uniform(rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """One number drawn from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def either(rng: torch.Generator) -> int:
    """-1 or 1, each by half."""
    return 1 if uniform(rng) < 0.5 else -1
