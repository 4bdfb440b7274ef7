"""Random seeds that follow an image, not its place in a batch."""

from __future__ import annotations

import zlib

import numpy as np
import torch

import cxr_eval.api as cxr


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


def uniform_start(x: torch.Tensor, eps: float, norm: cxr.Norm, *salt: int) -> torch.Tensor:
    """Images moved to a uniform point of the ball of radius eps and clipped to [0, 1], each from its own seed.

    x: (N, C, H, W) in [0, 1]. eps: radius in `norm`. The same points on every device.
    """
    noise = uniform_noise(x, *salt) if norm == "linf" else torch.stack([_in_ball(x[0], s) for s in image_seeds(x, *salt)])
    return cxr.project(x + eps * noise.to(x.device), x, eps, norm)


def _in_ball(image: torch.Tensor, seed: int) -> torch.Tensor:
    """A uniform point of the L2 ball of radius 1, shaped like the image, on the CPU."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(image.shape, generator=rng, dtype=image.dtype)
    length = torch.rand(1, generator=rng, dtype=image.dtype).pow(1 / image.numel())
    inside: torch.Tensor = noise / torch.linalg.vector_norm(noise) * length
    return inside


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
