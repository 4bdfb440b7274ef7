"""The patient not where the network expects: turned, moved, nearer or farther."""

from __future__ import annotations

import math

import torch

from cxr_eval.attacks.corruptions.single import SingleImage, either, uniform

DEGREES = (2.0, 5.0, 10.0, 15.0, 20.0)
"""Angles by severity; ours. 2 degrees are in most radiographs; 10 are what training often draws as augmentation; 20 are a
patient who lies crooked in bed."""

SHIFT = (0.02, 0.04, 0.06, 0.08, 0.10)
"""Ways moved as shares of the sides, by severity; ours. 2 % is in most radiographs, at 10 % shoulder or diaphragm begin to
leave the picture."""

ZOOM = (1.01, 1.02, 1.03, 1.04, 1.06)
"""Sizes over the true one, by severity, or one over them; ours: a heart 16 cm from the detector instead of 10 cm, at 180 cm
from the tube, is larger by 3 to 4 %."""


class Rotation(SingleImage):
    """The picture turned about its middle, left or, as often, right; black where nothing was seen.

    At severity 5 the chest lies visibly crooked, and everything but the outermost corners is there as sharp as bilinear
    sampling leaves it: a radiologist reads all of it.
    """

    source = "rotation as an unintended change: Engstrom et al., ICML 2019, arXiv:1712.02779; degrees 2, 5, 10, 15, 20 are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The turned picture."""
        return moved(image, degrees=either(rng) * DEGREES[severity - 1])


class Position(SingleImage):
    """The patient off the middle, in a direction of each image's own, and a little larger or smaller; black where nothing was.

    At severity 5 a strip of up to an eighth at one side, or 9 % at two, is out of the picture: a shoulder, a costophrenic angle
    or the apex of a lung may be cut. What is seen is as plain as before.
    """

    source = "translation as an unintended change: Engstrom et al., ICML 2019, arXiv:1712.02779; shifts and sizes are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The moved picture."""
        height, width = image.shape[-2:]
        direction, nearer = uniform(rng, 0, 2 * math.pi), either(rng)
        way = SHIFT[severity - 1]
        return moved(
            image,
            right=way * width * math.cos(direction),
            down=way * height * math.sin(direction),
            zoom=ZOOM[severity - 1] ** nearer,
        )


def moved(
    image: torch.Tensor, *, degrees: float = 0.0, right: float = 0.0, down: float = 0.0, zoom: float = 1.0
) -> torch.Tensor:
    """The picture (C, H, W) turned clockwise and enlarged about its middle, then moved by pixels; bilinear, 0 outside.

    Not reflected or repeated edges: they would double anatomy or draw it long.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    result: torch.Tensor = functional.affine(
        image,
        angle=degrees,
        translate=[right, down],
        scale=zoom,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    return result
