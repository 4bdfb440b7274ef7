"""Differences between two trainers on the same images: how large, how sure, and whether chance could make them.

Both numbers hold the trained networks fixed: they say what other patients might have shown, not what other seeds might have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats import scores
from cxr_eval.stats.cell_rows import index, known_truth, probabilities, strata
from cxr_eval.stats.intervals import FloatArray, Patients, Resampling, Score, with_interval
from cxr_eval.types import PROBABILITY, Better

EXACT = 12
"""Patients in whom two trainers differ, up to which all ways of exchanging them are counted: 4096, few more than are drawn."""

BLOCK = 2**22
"""Numbers in one block of weights of the swap test."""

SWAPS = 2
"""Place of the swaps among the random numbers of one seed; the first two are those of the resamples."""


CHEAP = 20
"""Swaps for each resample, for scores that take next to no time: enough for a family of hundreds."""


@dataclass(frozen=True)
class Measure:
    """Scores in which two trainers are compared.

    of: a per-image table -> its score function. columns: what two trainers can differ in. ready: makes one trainer's table
    comparable with another's, before their images are exchanged.
    """

    of: Callable[[pd.DataFrame], Score]
    columns: tuple[str, ...]
    better: Better = "higher"
    unit: str = "fraction"
    ready: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    swaps: int = 1
    """Swaps for each resample of the interval: a p-value cannot be smaller than one swap in all, times the family it is in."""


@dataclass(frozen=True)
class Difference:
    """One score's difference, first trainer minus second: mean over seeds, interval, two-sided p-value, and by seed.

    n: images. patients: how many they are of.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    patients: int
    by_seed: tuple[float, ...]


def of_decisions(classes: Sequence[str], metrics: Sequence[str] = ("accuracy", "balanced_accuracy")) -> Measure:
    """Scores of `scores.decision_scores` of tables with one class an image. metrics: which of them."""

    def of(table: pd.DataFrame) -> Score:
        y, predicted = index(table["label"], classes), index(table["predicted"], classes)

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            found = scores.decision_scores(y, predicted, classes, weights)
            return {name: found[name] for name in metrics if name in found}

        return score

    return Measure(of, ("right",), ready=lambda table: table.assign(right=table["label"] == table["predicted"]))


def of_rankings(
    classes: Sequence[str], metrics: Sequence[str] = ("auroc", "mean_average_precision"), *, swaps: int = 1
) -> Measure:
    """AUROC and mean average precision, each the mean over the classes. metrics: which of them. swaps: as in `Measure`.

    Probabilities of two networks are not on one scale. What is exchanged is therefore the rank that an image has among all
    images of its network, by class; neither score changes by that.
    Source: Bandos, Rockette and Gur, Statistics in Medicine 2005, doi 10.1002/sim.2149.
    """
    columns = tuple(PROBABILITY + name for name in classes)

    def ready(table: pd.DataFrame) -> pd.DataFrame:
        given = pd.DataFrame(probabilities(table, classes), columns=list(columns), index=table.index)
        return table.assign(**given.where(np.isfinite(known_truth(table, classes))).rank())

    def of(table: pd.DataFrame) -> Score:
        truth, rank = known_truth(table, classes), probabilities(table, classes)

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            areas, precisions = scores.areas_by_class(truth, rank, weights)
            found = {"auroc": scores.over_classes(areas), "mean_average_precision": scores.over_classes(precisions)}
            return {name: found[name] for name in metrics if name in found}

        return score

    return Measure(of, columns, ready=ready, swaps=swaps)


def of_means(metric: str, *, column: str = "value", better: Better = "higher", unit: str = "fraction") -> Measure:
    """The mean of one column."""

    def of(table: pd.DataFrame) -> Score:
        values = table[column].to_numpy(dtype=np.float64)
        return lambda weights: {metric: scores.mean(values, weights)}

    return Measure(of, (column,), better, unit, swaps=CHEAP)


def compare(
    ours: Sequence[pd.DataFrame], theirs: Sequence[pd.DataFrame], measure: Measure, resampling: Resampling
) -> dict[str, Difference]:
    """Differences of two trainers in each score of a measure, by name.

    ours, theirs: one per-image table a seed, of the same seeds in the same order. Images that one of the tables lacks do not
    count. Where there are none, all numbers are NaN.

    The interval resamples the same patients for both trainers and all seeds. The p-value is that of a test that exchanges the
    two trainers' outcomes patient by patient: see `swap_test`.

    Raises:
        ValueError: there are no tables, or not as many of one trainer as of the other.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"expected one table a seed of both trainers, got {len(ours)} and {len(theirs)}")
    tables = [measure.ready(table) for table in _same_images([*ours, *theirs])]
    firsts, seconds = tables[: len(ours)], tables[len(ours) :]
    of_image = tables[0]["patient"].astype(str).tolist()
    patients = Patients.of(of_image, strata(tables[0]) if resampling.stratified else None)
    each = [(measure.of(first), measure.of(second)) for first, second in zip(firsts, seconds, strict=True)]
    by_seed = [_minus(one(whole), other(whole)) for one, other in each for whole in [np.ones((1, len(of_image)))]]
    found = with_interval(
        lambda weights: _mean([_minus(one(weights), other(weights)) for one, other in each]),
        patients.drawn(resampling.resamples, resampling.seed),
        patients=patients.count,
        level=resampling.level,
        accelerated=patients if resampling.kind == "bca" else None,
    )
    p = swap_test(firsts, seconds, measure, patients, resamples=measure.swaps * resampling.resamples, seed=resampling.seed)
    return {
        name: Difference(
            value, low, high, p[name], len(of_image), patients.count, tuple(float(seed[name][0]) for seed in by_seed)
        )
        for name, (value, low, high) in found.items()
    }


def swap_test(
    ours: Sequence[pd.DataFrame],
    theirs: Sequence[pd.DataFrame],
    measure: Measure,
    patients: Patients,
    *,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """Two-sided p-values, by score: how often exchanged trainers differ more than they do, and half of how often as much.

    If it made no difference which of two trainers saw a patient, the two could be exchanged for any patients: for all of a
    patient's images and all seeds together, each patient with probability 1/2. An exchange that differs more counts whole, one
    that differs exactly as much counts half (mid-p): whole, few possible values would make the test call too little different.
    What was observed counts whole itself, so that p is never 0 and a score without ties keeps its ordinary p-value:
    p = (1 + more + as much / 2) / (resamples + 1). Where the two differ in at most 12 patients, all ways of exchanging these
    are counted instead; the one in which all are exchanged is then the observed one with the other sign, and counts whole too.
    With one image a patient that p of accuracy is the mid-p of McNemar's test, plus 1 / 2**d for d discordant images. NaN where
    the difference does not exist; an exchange whose difference does not exist counts whole.

    ours, theirs: one table a seed, all with the same images in the same order, made ready. patients: whose those are.
    Source: Pitman, Journal of the Royal Statistical Society Supplement 1937, doi 10.2307/2984124; Phipson and Smyth, SAGMB
    2010, doi 10.2202/1544-6115.1585 (why 1 is added); Lancaster, Journal of the American Statistical Association 1961,
    56:223-234 (mid-p); Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2013, doi
    10.1186/1471-2288-13-91 (for McNemar's test); the patient as the unit as in the intervals.
    """
    both = [measure.of(pd.concat(pair, ignore_index=True)) for pair in zip(ours, theirs, strict=True)]

    def difference(swapped: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
        """swapped: (R, P) -> (R,)."""
        images = swapped[:, patients.of_image]
        first = np.hstack([~images, images]).astype(np.float64)
        return _mean([_minus(score(first), score(1 - first)) for score in both])

    apart = np.flatnonzero(np.bincount(patients.of_image, weights=_differs(ours, theirs, measure), minlength=patients.count))
    exact = len(apart) <= EXACT
    observed = difference(np.zeros((1, patients.count), dtype=bool))
    rng = np.random.default_rng((seed, SWAPS))
    count = 2 ** len(apart) if exact else resamples
    own = min(2, count) if exact else 1  # what was observed, and the same with the other sign
    large = dict.fromkeys(observed, 0.0)
    rows = max(1, BLOCK // (2 * max(1, len(patients.of_image))))
    for at in range(0, count, rows):
        pattern = np.arange(at, min(at + rows, count))
        swapped = np.zeros((len(pattern), patients.count), dtype=bool)
        # who does not differ need not be exchanged
        swapped[:, apart] = (
            pattern[:, None] >> np.arange(len(apart)) & 1 if exact else rng.integers(0, 2, (len(pattern), len(apart)))
        )
        for name, values in difference(swapped).items():
            large[name] += _as_large(values, float(observed[name][0]))
    return {
        name: float("nan")
        if not np.isfinite(value[0])
        else (large[name] + own / 2) / count  # all ways hold it too, and there it counted half
        if exact
        else (own + large[name]) / (count + own)
        for name, value in observed.items()
    }


def _as_large(values: FloatArray, observed: float) -> float:
    """How many values are further from 0 than the observed one, and half of how many are as far; NaN is further.

    Values that differ by less than rounding are the same sum in another order.
    """
    rounding = 1e-9 * abs(observed) + 1e-12
    beyond = np.abs(values) - abs(observed)
    nearer, further = beyond < -rounding, ~(beyond <= rounding)
    return float(further.sum() + (~nearer & ~further).sum() / 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction for having made as many comparisons; NaN stays NaN and does not count.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none falls below one before it, and none exceeds 1.
    Source: Holm, Scandinavian Journal of Statistics 1979, 6:65-70.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return [float(value) for value in adjusted]


def _same_images(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The tables with the images that all of them have, in one order; an image may stand there once for each target."""
    by = ["image_id"]
    if any(table["image_id"].duplicated().any() for table in tables):
        by.append("target")
    keyed = [table.set_index(by, drop=False).rename_axis(index=[f"_{name}" for name in by]) for table in tables]
    shared = keyed[0].index
    for table in keyed[1:]:
        shared = shared.intersection(table.index)
    order = shared.sort_values()
    return [table.loc[order].reset_index(drop=True) for table in keyed]


def _differs(ours: Sequence[pd.DataFrame], theirs: Sequence[pd.DataFrame], measure: Measure) -> FloatArray:
    """(N,): 1 where any seed's outcome is not the same for both trainers."""
    differs = np.zeros(len(ours[0]), dtype=bool)
    for first, second in zip(ours, theirs, strict=True):
        for column in measure.columns:
            one, other = first[column].to_numpy(dtype=np.float64), second[column].to_numpy(dtype=np.float64)
            differs |= ~((one == other) | (np.isnan(one) & np.isnan(other)))
    return differs.astype(np.float64)


def _minus(one: dict[str, FloatArray], other: dict[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: values - other[name] for name, values in one.items()}


def _mean(of_seeds: Sequence[dict[str, FloatArray]]) -> dict[str, FloatArray]:
    return {name: np.mean([seed[name] for seed in of_seeds], axis=0) for name in of_seeds[0]}
