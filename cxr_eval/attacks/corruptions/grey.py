"""The same anatomy in other greys: less contrast, another exposure of the film, another display curve."""

from __future__ import annotations

import math

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.corruptions.beam import ABSORPTION
from cxr_eval.attacks.corruptions.single import SingleImage, either

CONTRAST_FACTOR = (0.8, 0.6, 0.4, 0.2, 0.1)
"""Share of contrast that is left, by severity. 0.8 passes for another display setting; 0.4, 0.2 and 0.1 are severities 1, 3 and
4 of ImageNet-C (0.4, 0.3, 0.2, 0.1, 0.05)."""

EXPOSURE_STOPS = (0.5, 1.0, 2.0, 3.0, 4.0)
"""Factors of two in dose, by severity; ours. Half a stop is 41 %, within what an automatic exposure control lets pass; one stop
is a deviation index of 3 (AAPM report 116: 10 lg of the ratio to the target); four stops, 16 times, leave a lung of grey 0.2
about a seventh of its contrast, near what is left at severity 5 of `contrast`."""

FILM_GRADIENT = 4 / ABSORPTION
"""Exponent of the film's curve; its slope in middle grey, a quarter of it, is then that of the straight line in `beam`."""

GAMMA = (1.1, 1.22, 1.5, 1.8, 2.2)
"""Exponents of the display curve, by severity. 1.1 passes for another monitor; 1.22 is 2.2 / 1.8, the curves of two usual kinds
of monitor; 2.2 is a whole curve too much or too little, as where a picture was saved linear and shown as sRGB."""


class Contrast(cxr.Corruption):
    """Every pixel moved towards the image's mean grey, so that a share of the contrast is left.

    MONAI has no such transform: its AdjustContrast is a gamma curve over the least and the greatest value of all images that
    it gets at once. At severity 5 everything is there, a tenth as strong: a reader who sets the window sees the finding, one
    who does not sees a grey haze.
    """

    source = "Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 3 (kind); factors 0.8, 0.6, 0.4, 0.2, 0.1 are ours"

    def corrupt(self, x: torch.Tensor, *, severity: int, seed: int) -> torch.Tensor:
        """Flat images, (N, C, H, W) in [0, 1]; nothing in it is random, so `seed` has no effect."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        return (mean + CONTRAST_FACTOR[severity - 1] * (x - mean)).clamp(0, 1)


class Exposure(SingleImage):
    """Too much or too little dose on a film: 2**stops times the light, darker or, as often, brighter.

    The film's curve is logistic in the logarithm of the dose, x = 1 / (1 + (dose / middle)**FILM_GRADIENT), so black and white
    stay and no value is cut off. At severity 5 lungs are nearly black or heart and spine nearly white; dense opacities are seen
    at once, faint ones only by a reader who sets the window.
    """

    source = "Hurter and Driffield 1890 (the film's curve, here logistic); stops 0.5, 1, 2, 3, 4 are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture at another dose."""
        return exposed(image, either(rng) * EXPOSURE_STOPS[severity - 1])


class Gamma(SingleImage):
    """Another display curve, x**gamma or, as often, x**(1/gamma): dark places lose or gain contrast.

    Over [0, 1] whatever an image's least and greatest value is; MONAI's AdjustContrast would go by those. At severity 5 the
    lungs are dark or milky, and every structure keeps its place and edges: a radiologist reads it after a turn of the window.
    """

    source = "IEC 61966-2-1 (the exponent 2.2 of displays); exponents 1.1, 1.22, 1.5, 1.8, 2.2 are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture on the other curve."""
        return torch.pow(image, GAMMA[severity - 1] ** either(rng))


def exposed(image: torch.Tensor, stops: float) -> torch.Tensor:
    """The picture at 2**stops times the dose, values in [0, 1] in any shape: more dose is darker.

    From x = 1 / (1 + e) with e = (dose / middle)**FILM_GRADIENT, and 2**stops times the dose: x / (x + (1 - x) * factor).
    """
    factor = math.pow(2.0, stops * FILM_GRADIENT)
    return image / (image + (1 - image) * factor)
