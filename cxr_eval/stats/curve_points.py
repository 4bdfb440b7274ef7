"""Points of curves from per-image tables: reliability, ROC and precision-recall, few enough to keep and to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats.attack_rows import ANY, threat
from cxr_eval.stats.cell_rows import known_truth, probabilities
from cxr_eval.stats.clinical import BINS
from cxr_eval.stats.intervals import FloatArray, Resampling
from cxr_eval.types import format_eps

RELIABILITY, ROC, PR = "reliability", "roc", "pr"
"""Names of the figures."""
ALL = ""
"""Series over all classes: the predicted class, or all findings together."""
POINTS = ("figure", "series", "x", "y", "low", "high", "n")
CURVE_COLUMNS = ("model", "trainer", "seed", "split", "condition", *POINTS)
"""Columns of curves.csv."""
STEPS = (100, 50, 25)
"""Into how many steps a curve is cut that has more corners; fewer where many networks share the file."""
MOST_LINES = 50_000
"""Lines of curves.csv of a run, about 5 MB."""
CLOSE = 0.005
"""By how much cutting a ROC curve may change the area below it."""
DIGITS = 5

NAN = float("nan")


def network_curves(
    clean: pd.DataFrame,
    outcomes: Sequence[pd.DataFrame],
    classes: Sequence[str],
    resampling: Resampling,
    *,
    networks: int = 1,
    model: str = "",
    trainer: str = "",
    seed: int = 0,
    split: str = "",
) -> pd.DataFrame:
    """Curves of one network on one set, columns as in `CURVE_COLUMNS`: clean, and at the radii that reports speak of.

    clean: its table of clean images. outcomes: its attacks' tables; those that attacked every image on any answer have curves
    under attack, at their largest and middle radius. networks: cells times sets that share one file. Together they get no more
    than `MOST_LINES` lines: curves are cut into fewer steps, and where that is not enough, middle radii and then the last
    attacks are left out, for all networks alike. Clean curves always stand.
    """
    conditions = told_conditions(clean, outcomes)
    bins = 1 if "label" in clean else 1 + len(classes)
    steps, told = room(networks, len(classes), bins, len(conditions))
    found = [
        points(table, classes, resampling, steps=steps).assign(condition=condition)
        for condition, table in list(conditions.items())[:told]
    ]
    together = pd.concat(found, ignore_index=True).assign(model=model, trainer=trainer, seed=seed, split=split)
    return together[list(CURVE_COLUMNS)]


def room(networks: int, classes: int, bins: int, conditions: int) -> tuple[int, int]:
    """Steps of a curve, and how many conditions have curves, so that a run's file stays within `MOST_LINES`.

    bins: reliability curves of one condition. It follows from counts alone, so that all networks of a run are told alike.
    """
    share = MOST_LINES / max(1, networks)
    for steps in STEPS:
        lines = classes * (2 * steps + 1) + bins * BINS
        if conditions * lines <= share:
            return steps, conditions
    return STEPS[-1], max(1, int(share // lines))


def told_conditions(clean: pd.DataFrame, outcomes: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables that have curves, by condition, those that matter most first: clean, the largest radii, the middle ones."""
    whole = [table for table in outcomes if len(table) and table["every"].all() and threat(table)[1] == ANY]
    found = {"clean": clean}
    for place in (0, 1):
        for table in whole:
            tried = sorted(float(eps) for eps in table["eps"].unique() if eps > 0)
            telling = tried[::-1] if len(tried) < 3 else [tried[-1], tried[len(tried) // 2]]
            for eps in telling[place : place + 1]:
                found[f"{table['attack'].iloc[0]}:{format_eps(eps)}"] = table[table["eps"] == eps]
    return found


def points(table: pd.DataFrame, classes: Sequence[str], resampling: Resampling, *, steps: int = STEPS[0]) -> pd.DataFrame:
    """Points of all curves of one table of predictions, columns as in `POINTS`.

    `reliability`: a line a bin of equal width, of the 15 that the calibration error has, without empty ones. x: the mean
    probability that is claimed, y: the share that is so, low and high: Wilson's interval with the bin's patients as its cases
    (images of one patient may be wrong together), n: images. series: empty for the predicted class (of several findings an
    image: for all of them together), else the finding.

    `roc`: x is 1 - specificity, y sensitivity, straight from point to point. `pr`: x is recall, y the precision on the way
    there from the point before; drawn in steps, the area is the average precision. n: images with a known label of the class.

    What too few patients stand behind is withheld: a curve of a class that fewer than `resampling.min_patients` patients
    have is left out; a bin with fewer has its middle as x, and no y.
    Source: Guo et al., ICML 2017, arXiv:1706.04599, figure 1 (reliability); Wilson, JASA 1927, doi 10.2307/2276774; Davis and
    Goadrich, ICML 2006, doi 10.1145/1143844.1143874, section 4: between points of a PR curve nothing is straight.
    """
    truth, given = known_truth(table, classes), probabilities(table, classes)
    patients = np.asarray(table["patient"], dtype=str)
    lines: list[tuple[str, str, float, float, float, float, int]] = []
    for series, so, claimed, of_whom in _claims(truth, given, patients, classes, one_class="label" in table):
        bins = reliability_bins(so, claimed, of_whom, resampling)
        lines += [(RELIABILITY, series, *ends, n) for *ends, n in bins]  # type: ignore[misc]
    for k, name in enumerate(classes):
        known = np.isfinite(truth[:, k])
        positive = truth[known, k] > 0.5
        if resampling.withheld(len(np.unique(patients[known][positive]))):
            continue
        for figure, make in ((ROC, roc_points), (PR, pr_points)):
            made = make(positive, given[known, k], steps=steps)
            lines += [(figure, name, float(x), float(y), NAN, NAN, int(known.sum())) for x, y in made]
    found = pd.DataFrame(lines, columns=list(POINTS))
    ends = ["x", "y", "low", "high"]
    return found.assign(**found[ends].astype(np.float64).round(DIGITS))


def roc_points(positive: npt.ArrayLike, score: npt.ArrayLike, *, steps: int = STEPS[0]) -> FloatArray:
    """Points (M, 2) of the ROC curve from (0, 0) to (1, 1): shares of the negatives and of the positives that pass a threshold.

    positive: (N,) bool. score: (N,). All corners where there are at most steps + 1; else the points of the curve at equal
    steps along both axes together. Between two of these it leaves the straight line by at most a triangle with legs of
    1 / steps, which is 0.005 in all for 100 steps; where fewer change the area by more than that, more are taken. (0, 2) where
    one side is missing or a score is NaN.
    """
    from scipy.integrate import trapezoid

    passed = _passed(positive, score)
    if passed is None or not (passed[-1] > 0).all():
        return np.empty((0, 2))
    true, false = passed.T
    across, up = np.diff(false), np.diff(true)
    turns = np.append(across[:-1] * up[1:] != across[1:] * up[:-1], True)  # whole numbers: exact
    corner = np.append(True, turns)
    x, y = false[corner] / false[-1], true[corner] / true[-1]
    if len(x) <= steps + 1:
        return np.stack([x, y], axis=1)
    along, cut = (x + y) / 2, np.empty((0, 2))
    exact = trapezoid(y, x)
    for count in (steps, *(more for more in reversed(STEPS) if more > steps)):
        at = np.linspace(0, 1, count + 1)
        cut = np.stack([np.interp(at, along, x), np.interp(at, along, y)], axis=1)
        if abs(trapezoid(cut[:, 1], cut[:, 0]) - exact) <= CLOSE:
            break
    return cut


def pr_points(positive: npt.ArrayLike, score: npt.ArrayLike, *, steps: int = STEPS[0]) -> FloatArray:
    """Steps (M, 2) of the precision-recall curve: recall at the end of each, and its precision; the area is that of all steps.

    positive: (N,) bool. score: (N,). All steps where there are at most so many; else steps of equal length in recall, each with
    the mean precision over it, which leaves the area as it is. (0, 2) where no image is positive or a score is NaN.
    """
    passed = _passed(positive, score)
    if passed is None or not passed[-1, 0]:
        return np.empty((0, 2))
    true, false = passed[1:].T
    adds = np.diff(passed[:, 0]) > 0
    recall, precision = true[adds] / true[-1], true[adds] / (true[adds] + false[adds])
    if len(recall) > steps:
        area = np.append(0, np.cumsum(np.diff(recall, prepend=0) * precision))
        at = np.linspace(0, 1, steps + 1)
        precision = np.diff(np.interp(at, np.append(0, recall), area)) * steps
        recall = at[1:]
    return np.stack([recall, precision], axis=1)


def reliability_bins(
    so: FloatArray, claimed: FloatArray, patients: npt.NDArray[np.str_], resampling: Resampling
) -> list[tuple[float, float, float, float, int]]:
    """x, y, low, high and n of each bin that has images; nothing if a probability is NaN.

    so: (N,) 1 or 0. claimed: (N,) probabilities. patients: (N,). Sums of n |y - x| / sums of n are the calibration error.
    """
    if np.isnan(claimed).any():
        return []
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, claimed, side="left") - 1, 0, BINS - 1)
    found = []
    for k in np.unique(place):
        inside = place == k
        n, of_whom = int(inside.sum()), len(np.unique(patients[inside]))
        if resampling.withheld(of_whom):
            found.append((float(edges[k] + edges[k + 1]) / 2, NAN, NAN, NAN, n))
            continue
        share = float(so[inside].mean())
        found.append((float(claimed[inside].mean()), share, *wilson(share, of_whom, resampling.level), n))
    return found


def wilson(share: float, cases: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of so many independent cases.

    Source: Wilson, JASA 1927, doi 10.2307/2276774.
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    stretch = 1 + z * z / cases
    middle = (share + z * z / (2 * cases)) / stretch
    half = z / stretch * float(np.sqrt(share * (1 - share) / cases + (z / (2 * cases)) ** 2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _claims(
    truth: FloatArray, given: FloatArray, patients: npt.NDArray[np.str_], classes: Sequence[str], *, one_class: bool
) -> Iterator[tuple[str, FloatArray, FloatArray, npt.NDArray[np.str_]]]:
    """Series, what is so, what is claimed, and of whom; unknown labels left out."""
    if one_class:
        if len(given):
            at = np.arange(len(given)), given.argmax(axis=1)
            yield ALL, truth[at], given[at], patients
        return
    known = np.isfinite(truth)
    yield ALL, truth[known], given[known], np.broadcast_to(patients[:, None], truth.shape)[known]
    for k, name in enumerate(classes):
        yield name, truth[known[:, k], k], given[known[:, k], k], patients[known[:, k]]


def _passed(positive: npt.ArrayLike, score: npt.ArrayLike) -> npt.NDArray[np.int64] | None:
    """Positive and negative images (T + 1, 2) that pass each threshold, from none to all; None without images or with a NaN."""
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    if not len(score) or np.isnan(score).any():
        return None
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    true = np.cumsum(positive[order])[last]
    return np.concatenate([np.zeros((1, 2), dtype=np.int64), np.stack([true, last + 1 - true], axis=1)])


def curve_table(networks: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All networks' curves as curves.csv has them."""
    return pd.concat(networks, ignore_index=True) if networks else pd.DataFrame(columns=list(CURVE_COLUMNS))
