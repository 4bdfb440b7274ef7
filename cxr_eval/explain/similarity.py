"""How alike two attribution maps are, image by image: structure, ranks, and the most relevant pixels.

Maps are compared as their method made them, signs and all. Two maps of which one says nothing (constant or not finite) are not
compared: NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from cxr_eval.explain.correlation import rank_correlation
from cxr_eval.explain.quantus_adapter import BoolArray, FloatArray, in_rows, informative, spread

TOP = 0.05
"""Share of the pixels that count as the most relevant."""

DEVIATION = 1.5
"""Standard deviation of SSIM's Gaussian window in pixels (Wang et al., section III-B)."""

WINDOW = 11
"""Side of SSIM's window in pixels (likewise)."""

STEADY = (0.01, 0.03)
"""K1 and K2 of SSIM (likewise), which keep flat places from dividing by 0."""


def map_ssim(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> FloatArray:
    """Structural similarity of each map of a with the same map of b (N, H, W), each scaled to [0, 1] by itself, (N,).

    1: equal but for scale and offset. The mean over the places whose whole window lies in the map; of a map that is smaller
    than the window, over all places, its borders mirrored.
    Source: Wang et al., IEEE TIP 2004, doi 10.1109/TIP.2003.819861, eq. 13 and section III-B.
    """
    a, b, known = _both(a, b)
    return spread(np.array([_ssim(*pair) for pair in zip(_unit(a), _unit(b), strict=True)]), known)


def map_rank_correlation(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> FloatArray:
    """Spearman correlation of the pixels of each map of a with those of the same map of b (N, H, W), (N,)."""
    a, b, known = _both(a, b)
    return spread(rank_correlation(a, b), known)


def map_top_overlap(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], *, share: float = TOP) -> FloatArray:
    """Share of the most relevant pixels of each map of a that are so in the same map of b (N, H, W) too, (N,) in [0, 1].

    Pixels that tie at the cut share the places left among them, so that no order of sorting decides; two equal maps have 1.
    Source: Ghorbani et al., AAAI 2019, arXiv:1710.10547, section 2 (top-k intersection).
    """
    a, b, known = _both(a, b)
    if not len(a):
        return spread([], known)
    size = max(1, round(share * a.shape[1] * a.shape[2]))
    return spread(np.minimum(_top(a, size), _top(b, size)).sum(axis=1) / size, known)


SIMILARITIES: Mapping[str, Callable[[npt.NDArray[np.generic], npt.NDArray[np.generic]], FloatArray]] = {
    "map_ssim": map_ssim,
    "map_rank_correlation": map_rank_correlation,
    "map_top_overlap": map_top_overlap,
}
"""By the name that rows have; all are higher for more similar maps."""


def _both(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> tuple[FloatArray, FloatArray, BoolArray]:
    """The pairs of maps that both say something, and which of all they are, (N,)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    known = np.asarray(informative(a) & informative(b), dtype=bool)
    return a[known], b[known], known


def _unit(maps: FloatArray) -> FloatArray:
    """Informative maps, each from 0 to 1."""
    low, high = (end(maps, axis=(1, 2), keepdims=True) for end in (np.min, np.max)) if len(maps) else (0.0, 1.0)
    return np.asarray((maps - low) / (high - low), dtype=np.float64)


def _top(maps: FloatArray, size: int) -> FloatArray:
    """How far each pixel is among the `size` largest, in [0, 1], (N, H x W); the sum over a map is `size`."""
    a = in_rows(maps)
    cut = np.partition(a, a.shape[1] - size, axis=1)[:, a.shape[1] - size, None]
    above, tied = a > cut, a == cut
    places = (size - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
    return np.asarray(above + tied * places, dtype=np.float64)


def _ssim(a: FloatArray, b: FloatArray) -> float:
    from scipy.ndimage import gaussian_filter

    reach = WINDOW // 2

    def blurred(x: FloatArray) -> FloatArray:
        return np.asarray(gaussian_filter(x, DEVIATION, radius=reach), dtype=np.float64)

    c1, c2 = (k**2 for k in STEADY)  # of the range 1
    mean_a, mean_b = blurred(a), blurred(b)
    spread_a, spread_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    together = blurred(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + c1) * (2 * together + c2) / ((mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2))
    whole = alike if min(a.shape) < WINDOW else alike[reach:-reach, reach:-reach]
    return float(whole.mean())
