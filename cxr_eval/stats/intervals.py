"""Uncertainty by resampling patients: several images of one patient are not several independent cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
MIN_PATIENTS = 2
MIN_DEFINED = 0.95  # share of resamples in which the score must exist, or the interval would describe other data


def patient_weights(patients: Sequence[str], *, resamples: int, seed: int) -> FloatArray:
    """How often each image counts in each resample, (resamples, N): patients are drawn with replacement, whole.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 6, with patients as units (cluster bootstrap).
    """
    _, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    count = int(patient.max()) + 1 if len(patient) else 0
    if count == 0:
        return np.zeros((resamples, 0))
    return _drawn(count, resamples, seed)[:, patient].astype(np.float64)


@lru_cache(maxsize=16)  # drawing takes longer than most scores, and a cell asks for the same few counts at every radius
def _drawn(patients: int, resamples: int, seed: int) -> npt.NDArray[np.unsignedinteger]:
    """How often each patient is drawn, (resamples, patients)."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    return drawn.astype(np.min_scalar_type(patients))


def interval(samples: FloatArray, *, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values; (nan, nan) where fewer than 95 % of them are defined."""
    defined = samples[np.isfinite(samples)]
    if len(samples) == 0 or len(defined) < MIN_DEFINED * len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def with_interval(
    score: Callable[[FloatArray], dict[str, FloatArray]],
    weights: FloatArray,
    *,
    patients: int,
    proportions: Mapping[str, int] | None = None,
) -> dict[str, tuple[float, float, float]]:
    """Each score's plain value and the ends of its interval, by name.

    score: weights (R, N) -> values (R,) by name. patients: how many there are; with fewer than two no interval is given.
    proportions: for scores that are shares of images, how many patients have such images. Where all resamples agree on 0 or
    1 (or on -1, a difference), the bootstrap knows nothing: a share then gets the exact binomial interval over its patients,
    another score none.
    """
    plain = score(np.ones((1, weights.shape[1])))
    resampled = score(weights) if patients >= MIN_PATIENTS else {}
    found: dict[str, tuple[float, float, float]] = {}
    for name, value in plain.items():
        low, high = interval(resampled.get(name, np.empty(0)))
        if low == high and value[0] in (-1.0, 0.0, 1.0):  # -1 and 0 may also be the difference of two such scores
            low, high = exact_at_the_end(float(value[0]), (proportions or {}).get(name, 0))
        found[name] = (float(value[0]), low, high)
    return found


def exact_at_the_end(share: float, patients: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of a share of 0 or 1 of `patients`; (nan, nan) for any other share.

    Source: Clopper and Pearson, Biometrika 1934, doi 10.1093/biomet/26.4.404.
    """
    if patients < MIN_PATIENTS or share not in (0.0, 1.0):
        return float("nan"), float("nan")
    reach = 1 - ((1 - level) / 2) ** (1 / patients)
    return (0.0, reach) if share == 0 else (1 - reach, 1.0)
