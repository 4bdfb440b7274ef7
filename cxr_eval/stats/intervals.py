"""Uncertainty by resampling patients: several images of one patient are not several independent cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Score = Callable[[FloatArray], dict[str, FloatArray]]
"""Weights (R, N), how often each of N images counts -> values (R,) by name."""

MIN_PATIENTS = 2
MIN_DEFINED = 0.95  # share of resamples in which the score must exist, or the interval would describe other data
BLOCK = 2**21
"""Numbers in one block of weights, where each patient is left out in turn."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made from resampled patients, and how few patients are too few to say anything.

    resamples: of the patients, drawn with replacement. kind: `percentile`, or `bca` (bias-corrected and accelerated).
    stratified: patients are drawn class by class, as many of each as there are; images with several findings have no one
    class, and their patients are drawn from all. min_patients: a number behind which fewer stand is withheld. level: of the
    intervals.
    """

    resamples: int = 1000
    seed: int = 0
    kind: Literal["percentile", "bca"] = "percentile"
    stratified: bool = True
    min_patients: int = 5
    level: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what no interval can be made from.

        Raises:
            ValueError: a setting is out of its bounds.
        """
        if self.resamples < 1:
            raise ValueError(f"resamples: expected 1 or more, got {self.resamples}")
        if self.kind not in ("percentile", "bca"):
            raise ValueError(f"kind: expected percentile or bca, got {self.kind!r}")
        if self.min_patients < 0:
            raise ValueError(f"min_patients: expected 0 or more, got {self.min_patients}")
        if not 0 < self.level < 1:
            raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {self.level}")

    def withheld(self, patients: int) -> str:
        """Why a number behind which so many patients stand is not told; empty if it may be, or if nobody stands behind it."""
        if patients == 0 or patients >= self.min_patients:
            return ""
        return f"withheld: {patients} {'patient' if patients == 1 else 'patients'}, fewer than {self.min_patients}"


@dataclass(frozen=True, eq=False)
class Patients:
    """Whose each image is, and from which others each patient is drawn.

    of_image: (N,), the patient of each image, from 0. stratum: (P,), the stratum of each patient, from 0. A patient who is
    alone in a stratum is drawn once in every resample: nothing can be learnt about the spread of such patients.
    """

    of_image: npt.NDArray[np.int64]
    stratum: npt.NDArray[np.int64]

    @classmethod
    def of(cls, patients: Sequence[str], labels: Sequence[str] | None = None) -> Patients:
        """From the patient of each image, and where patients are drawn by class, the label of each image.

        A patient's stratum is the set of the labels of all his images; those who would be alone in theirs have one together.
        """
        names, of_image = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        if labels is None:
            return cls(of_image, np.zeros(len(names), dtype=np.int64))
        classes, label = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        has = np.zeros((len(names), len(classes)), dtype=np.uint8)
        has[of_image, label] = 1
        if not len(names):
            return cls(of_image, np.zeros(0, dtype=np.int64))
        stratum = np.unique(has, axis=0, return_inverse=True)[1].reshape(-1)
        alone = np.bincount(stratum)[stratum] == 1
        stratum[alone] = stratum.max() + 1
        return cls(of_image, np.unique(stratum, return_inverse=True)[1].astype(np.int64))

    @property
    def count(self) -> int:
        """How many patients there are."""
        return len(self.stratum)

    def beside(self, other: Patients) -> Patients:
        """The patients of two sets of images, the other's after these; nobody is in both."""
        first = 1 + int(self.stratum.max(initial=-1))
        return Patients(np.r_[self.of_image, self.count + other.of_image], np.r_[self.stratum, first + other.stratum])

    def drawn(self, resamples: int, seed: Sequence[int] | int) -> FloatArray:
        """How often each image counts in each resample, (resamples, N)."""
        if self.count == 0:
            return np.zeros((resamples, 0))
        sizes = np.bincount(self.stratum)
        place = np.argsort(np.argsort(self.stratum, kind="stable"))  # of each patient, among the strata one after the other
        seeds = (seed,) if isinstance(seed, int) else tuple(seed)
        counts = _drawn(tuple(int(size) for size in sizes), resamples, seeds)
        return counts[:, place[self.of_image]].astype(np.float64)

    def left_out(self) -> Iterator[FloatArray]:
        """Weights with each patient left out in turn, in blocks of (patients, N)."""
        step = max(1, BLOCK // max(1, len(self.of_image)))
        for at in range(0, self.count, step):
            patient = np.arange(at, min(at + step, self.count))
            yield (self.of_image[None, :] != patient[:, None]).astype(np.float64)


def patient_weights(patients: Sequence[str], *, resamples: int, seed: int, labels: Sequence[str] | None = None) -> FloatArray:
    """How often each image counts in each resample, (resamples, N): patients are drawn with replacement, whole.

    labels: class of each image, where patients are drawn class by class.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 6, with patients as units (cluster bootstrap).
    """
    return Patients.of(patients, labels).drawn(resamples, seed)


@lru_cache(maxsize=16)  # drawing takes longer than most scores, and a cell asks for the same few counts at every radius
def _drawn(strata: tuple[int, ...], resamples: int, seed: tuple[int, ...]) -> npt.NDArray[np.unsignedinteger]:
    """How often each patient is drawn, (resamples, patients), stratum after stratum; strata: patients in each."""
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, sum(strata)), dtype=np.min_scalar_type(max(strata)))
    starts = np.cumsum((0, *strata))
    for row in counts:  # counting what is drawn takes a tenth of the time of multinomial counts
        for start, size in zip(starts, strata, strict=False):
            row[start : start + size] = np.bincount(rng.integers(0, size, size), minlength=size)
    return counts


def interval(samples: FloatArray, *, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values; (nan, nan) where fewer than 95 % of them are defined."""
    defined = samples[np.isfinite(samples)]
    if len(samples) == 0 or len(defined) < MIN_DEFINED * len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def accelerated_interval(
    value: float, samples: FloatArray, left_out: FloatArray, stratum: npt.NDArray[np.int64], *, level: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (BCa) of bootstrap values.

    left_out: (P,), the score without each patient. stratum: (P,), from which patients each was drawn. There is no interval,
    (nan, nan), and never a percentile interval in its place, where fewer than 95 % of the samples are defined, where the score
    does not exist without some patient, where it is the same without any patient, or where all samples lie on one side of it.
    A sample equal to the value counts half on either side. Of several strata each patient weighs as its own stratum's size
    says.
    Source: Efron, JASA 1987, doi 10.1080/01621459.1987.10478410; DiCiccio and Efron, Statistical Science 1996,
    doi 10.1214/ss/1032280214; the acceleration from the jackknife as in Efron and Tibshirani 1993, section 14.3.
    """
    from scipy.special import ndtr, ndtri

    nowhere = float("nan"), float("nan")
    defined = samples[np.isfinite(samples)]
    if len(samples) == 0 or len(defined) < MIN_DEFINED * len(samples) or not np.isfinite(left_out).all():
        return nowhere
    near = 1e-12 * max(1.0, abs(value))  # the same sum in another order
    equal = np.abs(defined - value) <= near
    bias = ndtri((np.sum((defined < value) & ~equal) + 0.5 * np.sum(equal)) / len(defined))
    sizes = np.bincount(stratum)
    mean = np.bincount(stratum, weights=left_out) / sizes
    pull = (1 - 1 / sizes[stratum]) * (mean[stratum] - left_out)
    spread = np.sum(pull**2)
    if not np.isfinite(bias) or np.abs(pull).max(initial=0.0) <= near:
        return nowhere
    acceleration = np.sum(pull**3) / (6 * spread**1.5)
    normal = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(defined, ndtr(bias + normal / (1 - acceleration * normal)))
    return float(low), float(high)


def with_interval(
    score: Score,
    weights: FloatArray,
    *,
    patients: int,
    proportions: Mapping[str, int] | None = None,
    level: float = 0.95,
    accelerated: Patients | None = None,
) -> dict[str, tuple[float, float, float]]:
    """Each score's plain value and the ends of its interval, by name.

    score: weights (R, N) -> values (R,) by name. patients: how many there are; with fewer than two no interval is given.
    proportions: for scores that are shares of images, how many patients have such images. Where all resamples agree on 0 or
    1 (or on -1, a difference), the bootstrap knows nothing: a share then gets the exact binomial interval over its patients,
    another score none. accelerated: whose the images are, for BCa intervals; percentile intervals without.
    """
    plain = score(np.ones((1, weights.shape[1])))
    resampled = score(weights) if patients >= MIN_PATIENTS else {}
    without: dict[str, FloatArray] = {}
    if accelerated is not None and resampled:
        parts = [score(block) for block in accelerated.left_out()]
        without = {name: np.concatenate([part[name] for part in parts]) for name in plain}
    found: dict[str, tuple[float, float, float]] = {}
    for name, values in plain.items():
        value, samples = float(values[0]), resampled.get(name, np.empty(0))
        low, high = interval(samples, level=level)
        if low == high and value in (-1.0, 0.0, 1.0):  # -1 and 0 may also be the difference of two such scores
            low, high = exact_at_the_end(value, (proportions or {}).get(name, 0), level=level)
        elif accelerated is not None and without:
            low, high = accelerated_interval(value, samples, without[name], accelerated.stratum, level=level)
        found[name] = (value, low, high)
    return found


def exact_at_the_end(share: float, patients: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of a share of 0 or 1 of `patients`; (nan, nan) for any other share.

    Source: Clopper and Pearson, Biometrika 1934, doi 10.1093/biomet/26.4.404.
    """
    if patients < MIN_PATIENTS or share not in (0.0, 1.0):
        return float("nan"), float("nan")
    reach = 1 - ((1 - level) / 2) ** (1 / patients)
    return (0.0, reach) if share == 0 else (1 - reach, 1.0)
