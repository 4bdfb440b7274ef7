"""Shares of cases: of the images in which something could happen, in how many it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_eval.stats.intervals import FloatArray


class Cases(NamedTuple):
    """happened, possible: (N,), how often in each image; what happened may be weighed, as in the net benefit."""

    happened: FloatArray
    possible: FloatArray


def cases(happened: npt.ArrayLike, possible: npt.ArrayLike) -> Cases:
    """Images (N,) in which something could happen (bool), and of these those in which it did."""
    could = np.asarray(possible, dtype=bool)
    return Cases((could & np.asarray(happened, dtype=bool)).astype(np.float64), could.astype(np.float64))


def shares(of: Mapping[str, Cases], weights: FloatArray) -> dict[str, FloatArray]:
    """Each share (R,) by name; NaN where it could not happen in any image drawn. weights: (R, N)."""
    if not of:
        return {}
    happened = weights @ np.stack([one.happened for one in of.values()], axis=1)
    possible = weights @ np.stack([one.possible for one in of.values()], axis=1)
    share = np.divide(happened, possible, out=np.full_like(possible, np.nan), where=possible > 0)
    return {name: share[:, k] for k, name in enumerate(of)}
