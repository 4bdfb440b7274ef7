"""Random seeds that follow an image, not its place in a batch."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def image_seeds(x: torch.Tensor, *salt: int) -> tuple[int, ...]:
    """One seed an image, each from the image's own pixels and `salt`, so that other images in the batch do not matter.

    x: images, (N, C, H, W). salt: whole numbers >= 0, such as the run's seed and the number of a restart.
    """
    pixels = np.ascontiguousarray(x.detach().cpu().numpy())
    return tuple(_mixed(zlib.crc32(image.tobytes()), *salt) for image in pixels)


def batch_seed(x: torch.Tensor, *salt: int) -> int:
    """One seed for a whole batch, from all its pixels and `salt`."""
    return _mixed(zlib.crc32(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes()), *salt)


def uniform_noise(x: torch.Tensor, *salt: int) -> torch.Tensor:
    """Uniform noise in [-1, 1) shaped like x, drawn for each image from its own seed; the same numbers on every device."""
    drawn = [
        torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=x.dtype) for seed in image_seeds(x, *salt)
    ]
    return torch.stack(drawn).to(x.device) * 2 - 1


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
