"""Random affine changes of training images, one map a picture, in one pass on the images' device."""

from __future__ import annotations

import math

import torch

from cxr_eval.protocol import Augment


def affine(x: torch.Tensor, settings: Augment, generator: torch.Generator) -> torch.Tensor:
    """Images changed by one random flip, rotation, shear, change of size and shift each.

    x: images, (N, C, H, W) float in [0, 1]; what comes back has the same shape, range, type and device. Settings that change
    nothing return `x` itself and draw nothing; else six numbers an image are drawn whatever the settings, so that runs that
    differ in one setting share the other draws. What comes into view from outside the picture repeats the edge ("nearest"
    fill, as in arXiv:2311.14227): zeros would draw a black edge that says how far a picture was turned, reflection would
    double anatomy.
    """
    moves = settings.rotate or settings.shift or settings.shear or settings.scale
    if not (moves or settings.flip) or len(x) == 0:
        return x
    drawn = torch.rand((len(x), 6), generator=generator, device=generator.device).to(x.device)
    flip, *signed = drawn.unbind(1)
    if settings.flip:
        x = torch.where((flip < 0.5)[:, None, None, None], x.flip(-1), x)
    if not moves:
        return x
    turn, skew, size, right, down = (2 * values - 1 for values in signed)  # [-1, 1)
    angle = turn * math.radians(settings.rotate)
    slope = torch.tan(skew * math.radians(settings.shear))
    scale = 1 + size * settings.scale
    height, width = x.shape[-2:]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # The map from output to input positions, in units of half a side; pictures that are not square need the ratio of the sides.
    theta = torch.stack(
        [
            torch.stack([cos, (cos * slope - sin) * (height / width), -2 * right * settings.shift], dim=1),
            torch.stack([sin * (width / height), sin * slope + cos, -2 * down * settings.shift], dim=1),
        ],
        dim=1,
    )
    grid = torch.nn.functional.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.clamp(0, 1)  # four float weights may add up to 1 + 1e-7
