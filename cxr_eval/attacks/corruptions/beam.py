"""What the X-ray beam does: it counts photons, scatters in the body, and passes a grid.

Grey is taken as linear in the logarithm of the signal, bone bright: a pixel of grey x had exp(-ABSORPTION * x) of the photons
of a black one, as digital detectors present it before contrast is worked on.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from cxr_eval.attacks.corruptions.single import SingleImage, either, uniform

ABSORPTION = math.log(100)
"""Logarithm of the signal in black over that in white; ours: 100 to 1."""

PHOTONS = (51_200, 12_800, 3_200, 800, 200)
"""Photons a pixel where the picture is black, by severity; ours. The dose falls to a quarter each time, so the noise doubles,
as `gaussian_noise` does. In grey 0.8 it runs from 0.006, which no one sees, to about 0.1, where 5 photons are left a pixel."""

SCATTER_RATIO = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Scattered over direct signal where the picture is even, by severity; ours, on top of what the picture has. 0.05 is hardly
seen; 1 is less than half of what a bedside chest without a grid has on average (2.3: Baydush and Floyd, RSNA 1997)."""

SCATTER_WIDTH = 0.1
"""Standard deviation of the scattered signal as a share of the shorter side; ours. Its full width at half maximum is then 0.24
of the side; Love and Kruger found 50 to 150 of 512 pixels to fit measured scatter best, with exponential kernels."""

GRID_AMPLITUDE = (0.01, 0.02, 0.04, 0.07, 0.10)
"""Half the grey between a line of the grid and the next gap, by severity; ours. 2.5 grey levels of 255 are hardly seen; 0.10 is
the contrast of a rib."""

GRID_PERIOD = (1 / 56, 1 / 28)
"""Bounds of the lines' period as a share of the shorter side; ours: 4 to 8 pixels of 224, as lines too fine for the pixels come
out of scaling down."""

_FINEST = 3.0
"""Shortest period in pixels; at 2 a line may fall between the pixels and show nothing."""

_TILT = math.radians(5)
"""Largest angle between the lines and the picture's sides."""


class QuantumNoise(SingleImage):
    """Too little dose: photons are counted, Poisson, so that bright places with little signal are noisier than the lungs.

    Per pixel of the image as the network gets it. At severity 5 the mediastinum, the spine and the upper abdomen are grain;
    lungs, heart border and opacities in the lungs are plain, small nodules and lines behind the heart are lost.
    """

    source = "Poisson statistics of photons; 51200, 12800, 3200, 800, 200 photons a pixel and the grey scale are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture of the counted photons; none counted shows as one."""
        photons = PHOTONS[severity - 1]
        counts = torch.poisson(photons * torch.exp(-ABSORPTION * image), generator=rng)
        return -torch.log(counts.clamp(min=1) / photons) / ABSORPTION


class Scatter(SingleImage):
    """Scattered X-rays: a wide blur of the signal is added to it, and the whole is brought back to the same dose.

    Takes most contrast where little direct signal arrives. At severity 5 lungs and their opacities have about half their
    contrast; the heart is grey, and what lies behind heart and diaphragm is seen no more.
    """

    source = "scatter as a convolution, Love and Kruger, Medical Physics 1987, doi:10.1118/1.596126; width and ratios are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture with scatter; nothing in it is random."""
        from scipy import ndimage

        ratio, width = SCATTER_RATIO[severity - 1], SCATTER_WIDTH * min(image.shape[-2:])
        direct = np.exp(-ABSORPTION * image.double().numpy())
        # the edge goes on outside the picture: black or nothing there would brighten or darken the rim
        scattered = ndimage.gaussian_filter(direct, width, axes=(1, 2), mode="nearest", truncate=3.0)
        grey = -np.log((direct + ratio * scattered) / (1 + ratio)) / ABSORPTION
        return torch.from_numpy(grey)


class Grid(SingleImage):
    """Lines of an anti-scatter grid, a sine in the logarithm of the signal, nearly upright or nearly level.

    Period (1/56 to 1/28 of the shorter side), angle and phase follow from the image. At severity 5 stripes as strong as ribs
    lie over everything; heart, lungs and opacities wider than a few stripes are read through them, fine lines are not.
    """

    source = "stripes of a grid that is not moved, IEC 60627 (the grid); amplitudes, periods and angles are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture with stripes over it."""
        height, width = image.shape[-2:]
        upright, tilt, phase = either(rng) > 0, uniform(rng, -_TILT, _TILT), uniform(rng, 0, 2 * math.pi)
        period = max(_FINEST, min(height, width) * uniform(rng, *GRID_PERIOD))
        across = tilt if upright else tilt + math.pi / 2
        down, right = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
        lines = torch.sin(2 * math.pi / period * (right * math.cos(across) + down * math.sin(across)) + phase)
        return image + GRID_AMPLITUDE[severity - 1] * lines
