"""Uncertainty by resampling patients: several images of one patient are not several independent cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, patient].astype(np.float64)


def interval(samples: FloatArray, *, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values; (nan, nan) where fewer than 95 % of them are defined."""
    defined = samples[np.isfinite(samples)]
    if len(samples) == 0 or len(defined) < MIN_DEFINED * len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def with_interval(
    score: Callable[[FloatArray], dict[str, FloatArray]], weights: FloatArray, *, patients: int
) -> dict[str, tuple[float, float, float]]:
    """Each score's plain value and the ends of its interval, by name.

    score: weights (R, N) -> values (R,) by name. patients: how many there are; with fewer than two no interval is given.
    """
    plain = score(np.ones((1, weights.shape[1])))
    resampled = score(weights) if patients >= MIN_PATIENTS else {}
    empty = np.empty(0)
    return {name: (float(value[0]), *interval(resampled.get(name, empty))) for name, value in plain.items()}
