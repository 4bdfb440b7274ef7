"""Huber's proposal 2: location and scale of numbers of which some are outliers."""

from __future__ import annotations

import math

import torch

CLIP = 1.5
"""Deviations beyond this many scales count as this many; default of the library that AMAT's authors use."""

_WITHIN = math.erf(CLIP / math.sqrt(2))
_DENSITY = math.exp(-(CLIP**2) / 2) / math.sqrt(2 * math.pi)
EXPECTED = _WITHIN + CLIP**2 * (1 - _WITHIN) - 2 * CLIP * _DENSITY
"""Mean of min(z^2, CLIP^2) of a standard normal z, so that the scale of normal numbers is their standard deviation."""

TOLERANCE = 1e-8
ITERATIONS = 10_000


def location_and_scale(values: torch.Tensor) -> tuple[float, float]:
    """Location m and scale s of numbers (N,): sum psi((x - m) / s) = 0 and sum psi((x - m) / s)^2 = (N - 1) EXPECTED.

    psi clips to [-CLIP, CLIP]. The search starts at the median and the median absolute deviation. The scale is 0 where nearly
    all numbers are equal.

    Source: Huber, Robust Statistics, 1981, section 6.4; the search: Venables & Ripley, Modern Applied Statistics, section 5.5.
    """
    values = values.detach().double().cpu()
    median = values.quantile(0.5)
    deviations = (values - median).abs()
    location, scale = median, deviations.quantile(0.5) / 0.6744897501960817  # of a normal, a half lies within 0.674 sd
    if not scale > 0:
        scale = deviations.mean()  # more than half are equal: any other start does
    spread = deviations.max()
    for _ in range(ITERATIONS):
        if not scale > TOLERANCE * spread:
            return float(location), 0.0
        new_location = values.clamp(location - CLIP * scale, location + CLIP * scale).mean()
        within = (values - location).abs() <= CLIP * scale
        squares = torch.where(within, (values - new_location) ** 2, (CLIP * scale) ** 2)
        new_scale = (squares.sum() / ((len(values) - 1) * EXPECTED)).sqrt()
        change = max(abs(new_location - location), abs(new_scale - scale))
        location, scale = new_location, new_scale
        if change <= TOLERANCE * scale:
            break
    return float(location), float(scale)
