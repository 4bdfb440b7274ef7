"""Pictures that are not sharp: out of focus, or of a patient who moved."""

from __future__ import annotations

import math

import torch

from cxr_eval.attacks.corruptions.single import SingleImage, uniform

BLUR_SIGMA = (0.004, 0.008, 0.012, 0.016, 0.022)
"""Standard deviations as shares of the shorter side, by severity; 0.9 to 4.9 pixels of 224. ImageNet-C's 1, 2, 3, 4, 6 pixels
of 224 are 0.0045, 0.009, 0.013, 0.018, 0.027; ours ends lower, at about 8 mm of a chest, so that opacities of 2 cm remain."""

MOTION_LENGTH = (0.01, 0.02, 0.035, 0.05, 0.07)
"""Ways moved as shares of the shorter side, by severity; ours. 0.01 is 3 mm or so of a chest, a heartbeat; 0.07 is 2 to 3 cm, a
deep breath or a restless child."""

_STEPS_A_PIXEL = 8
"""Points along the way for each pixel of it; more change the picture by less than one grey level of 255."""


class Blur(SingleImage):
    """A Gaussian blur, its width a share of the shorter side, so that it takes the same anatomy at any size.

    Edges go on outside the picture; MONAI's GaussianSmooth takes black there, which darkens the rim. Below a quarter of a pixel
    nothing changes. At severity 5 heart, diaphragm, effusions and opacities of 2 cm are plain, vessels, ribs' edges and nodules
    below 1 cm are gone.
    """

    source = "Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3 (kind); widths are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The blurred picture; nothing in it is random."""
        from scipy import ndimage

        sigma = BLUR_SIGMA[severity - 1] * min(image.shape[-2:])
        return torch.from_numpy(ndimage.gaussian_filter(image.double().numpy(), sigma, axes=(1, 2), mode="nearest"))


class Motion(SingleImage):
    """A patient who moved evenly along a straight line while the picture was taken; each image has its own direction.

    At severity 5 edges across the direction are smeared over 2 to 3 cm of a chest and small nodules are gone; heart size,
    effusions and opacities larger than that are read, and edges along the direction are sharp.
    """

    source = "Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3 (kind); lengths are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The mean of the picture over the way."""
        length = MOTION_LENGTH[severity - 1] * min(image.shape[-2:])
        kernel = line_kernel(length, uniform(rng, 0, math.pi)).to(image.dtype)
        half = len(kernel) // 2
        channels = image[:, None]
        # edges go on outside: black would come in from the rim
        padded = torch.nn.functional.pad(channels, (half, half, half, half), mode="replicate")
        return torch.nn.functional.conv2d(padded, kernel[None, None])[:, 0]


def line_kernel(length: float, angle: float) -> torch.Tensor:
    """Weights (K, K) that average over a line through the middle, float64, K odd, sum 1, alike when turned by 180 degrees.

    length: pixels. angle: radians from the horizontal. Each of the points along the line gives its weight to the four pixels
    around it, as bilinear sampling does.
    """
    points = _STEPS_A_PIXEL * math.ceil(length) + 1
    half = math.ceil(length / 2)
    along = torch.linspace(-length / 2, length / 2, points, dtype=torch.float64)
    side = torch.arange(-half, half + 1, dtype=torch.float64)
    # hat functions: bilinear weights of every point on every row and column
    columns = (1 - (along * math.cos(angle) - side[:, None]).abs()).clamp(min=0)
    rows = (1 - (along * math.sin(angle) - side[:, None]).abs()).clamp(min=0)
    weights = rows @ columns.T
    return weights / weights.sum()
