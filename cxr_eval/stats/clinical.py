"""Scores that a clinic asks for: decisions at frozen thresholds, calibration, and whether acting on them does more good.

Functions take `weights` (R, N) and return (R,) values by name, as in `scores`; what is not defined is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxr_eval.errors import nearest
from cxr_eval.stats import scores
from cxr_eval.stats.cases import Cases, cases, shares
from cxr_eval.stats.intervals import FloatArray
from cxr_eval.types import Task

BINS = 15
"""Bins of the calibration error, as many as Guo et al. take."""

NOTHING_FOUND = ("normal", "no finding", "no findings", "negative", "healthy", "negative for pneumonia")
DISEASE = "disease"


def no_finding_class(classes: Sequence[str], named: str | None = None) -> str | None:
    """The class that means nothing was found: the one named, else the first that is called so, else None.

    Names that are known: normal, no finding, negative, healthy, negative for pneumonia; however written, `No_Finding` too.
    Where findings can stand together there mostly is none, and nothing found means that no finding is positive.

    Raises:
        ValueError: no class is called as named.
    """
    if named is not None:
        if named not in classes:
            raise ValueError(
                f"no_finding: no class is called '{named}'{nearest(named, classes) or ': they are ' + ', '.join(classes)}"
            )
        return named
    return next((name for name in classes if name.casefold().replace("_", " ").strip() in NOTHING_FOUND), None)


def operating_cases(
    known_positive: npt.ArrayLike, probability: npt.ArrayLike, classes: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, Cases]:
    """What `operating_scores` counts by class: an image is called positive where its probability reaches the threshold.

    Without a threshold (NaN), and where a probability is NaN, nothing is counted.
    """
    truth, given = np.asarray(known_positive, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    found: dict[str, Cases] = {}
    for k, name in enumerate(classes):
        known = np.isfinite(truth[:, k])
        judged = known & (np.isfinite(thresholds[name]) and not np.isnan(given[known, k]).any())
        positive, called = truth[:, k] > 0.5, given[:, k] >= thresholds[name]
        found |= {
            f"sensitivity[{name}]": cases(called, judged & positive),
            f"specificity[{name}]": cases(~called, judged & ~positive),
            f"ppv[{name}]": cases(positive, judged & called),
            f"npv[{name}]": cases(~positive, judged & ~called),
        }
    return found


def operating_scores(
    known_positive: npt.ArrayLike,
    probability: npt.ArrayLike,
    classes: Sequence[str],
    thresholds: Mapping[str, float],
    weights: FloatArray,
) -> dict[str, FloatArray]:
    """Sensitivity, specificity, positive and negative predictive value of each class against all others at its threshold.

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K). thresholds: by class, as
    `operating_points` chose them; NaN for none. `sensitivity` and `specificity` are plain means over the classes that have
    them. Predictive values hold for the share of disease in these images, not for another clinic's.
    """
    found = shares(operating_cases(known_positive, probability, classes, thresholds), weights)
    for mean in ("sensitivity", "specificity"):
        found[mean] = scores.over_classes(np.stack([found[f"{mean}[{name}]"] for name in classes]))
    return found


def calibration_error(
    known_positive: npt.ArrayLike, probability: npt.ArrayLike, weights: FloatArray, *, task: Task
) -> dict[str, FloatArray]:
    """Expected calibration error `ece`: the mean gap between what is claimed and what is so, 0 to 1.

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K). Over 15 bins of equal width, each closed
    at its upper end. multiclass: the probability of the predicted class against how often it is right; multilabel: each
    finding's probability against how often it is there, mean over the findings with known labels. NaN if a probability is.
    Source: Guo et al., ICML 2017, arXiv:1706.04599, eq. 3.
    """
    truth, given = np.asarray(known_positive, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    known = np.isfinite(truth)
    if not len(given) or np.isnan(given[known]).any():
        return {"ece": np.full(len(weights), np.nan)}
    if task == "multiclass":
        at = np.arange(len(given)), given.argmax(axis=1)
        return {"ece": _calibration_error(truth[at], given[at], weights)}
    errors = [_calibration_error(truth[:, k], given[:, k], weights) for k in range(truth.shape[1])]
    return {"ece": scores.over_classes(np.stack(errors))}


def brier_score(
    known_positive: npt.ArrayLike, probability: npt.ArrayLike, weights: FloatArray, *, task: Task
) -> dict[str, FloatArray]:
    """`brier`: the mean squared error of the probabilities.

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K). multiclass: summed over the classes, 0 to
    2, mean over images; multilabel: mean over all known labels, 0 to 1. NaN if a probability is.
    Source: Brier, Monthly Weather Review 1950, 78:1-3.
    """
    truth, given = np.asarray(known_positive, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    known = np.isfinite(truth)
    if np.isnan(given[known]).any():
        return {"brier": np.full(len(weights), np.nan)}
    squared: FloatArray = np.where(known, (given - truth) ** 2, 0.0).sum(axis=1)
    of: FloatArray = known.sum(axis=1, dtype=np.float64)
    return shares({"brier": Cases(squared, np.minimum(of, 1) if task == "multiclass" else of)}, weights)


def _calibration_error(so: FloatArray, claimed: FloatArray, weights: FloatArray) -> FloatArray:
    """so: (N,) 1, 0 or NaN (left out). claimed: (N,) probabilities."""
    known = np.isfinite(so)
    place = np.searchsorted(np.linspace(0, 1, BINS + 1), claimed[known], side="left") - 1
    gap = np.zeros((len(so), BINS))
    gap[np.flatnonzero(known), np.clip(place, 0, BINS - 1)] = so[known] - claimed[known]
    drawn = weights @ known.astype(np.float64)
    error: FloatArray = np.divide(np.abs(weights @ gap).sum(axis=1), drawn, out=np.full_like(drawn, np.nan), where=drawn > 0)
    return error


def net_benefit(
    known_positive: npt.ArrayLike,
    probability: npt.ArrayLike,
    classes: Sequence[str],
    weights: FloatArray,
    *,
    thresholds: Sequence[float],
    no_finding: str | None,
    task: Task,
) -> dict[str, FloatArray]:
    """Net benefit of acting where the probability is the threshold or more: `net_benefit[disease@0.1]`.

    TP/n - FP/n * t/(1 - t): a threshold t says that t/(1 - t) needless actions are worth one that helps. To never act has 0:
    a network below that, or below `net_benefit_of_all`, does harm at t. multiclass: of any disease, with probability 1 minus
    that of the class `no_finding`; without such a class, and for multilabel, of each class or finding but that one. Unknown
    labels are left out. thresholds: each between 0 and 1. NaN if a probability is.
    Source: Vickers and Elkin, Medical Decision Making 2006, doi 10.1177/0272989X06295361.
    """
    found: dict[str, Cases] = {}
    for name, (truth, given) in _diseases(known_positive, probability, classes, no_finding, task).items():
        for t in thresholds:
            found[f"net_benefit[{name}@{t:g}]"] = _benefit(truth, np.where(np.isnan(given), np.nan, given >= t), t)
    return shares(found, weights)


def net_benefit_of_all(
    known_positive: npt.ArrayLike,
    classes: Sequence[str],
    weights: FloatArray,
    *,
    thresholds: Sequence[float],
    no_finding: str | None,
    task: Task,
) -> dict[str, FloatArray]:
    """Net benefit of always acting, `net_benefit_treat_all[disease@0.1]`; see `net_benefit`."""
    found: dict[str, Cases] = {}
    for name, (truth, _) in _diseases(known_positive, known_positive, classes, no_finding, task).items():
        for t in thresholds:
            found[f"net_benefit_treat_all[{name}@{t:g}]"] = _benefit(truth, np.ones(len(truth)), t)
    return shares(found, weights)


def _benefit(truth: FloatArray, acted: FloatArray, t: float) -> Cases:
    """What acting brings in each image. truth: (N,) 1, 0 or NaN. acted: (N,) 1 or 0, or NaN where that is not known."""
    known = np.isfinite(truth)
    if np.isnan(acted[known]).any():
        return Cases(np.zeros(len(truth)), np.zeros(len(truth)))
    gain = np.where(known, np.nan_to_num(acted) * np.where(truth > 0.5, 1.0, -t / (1 - t)), 0.0)
    return Cases(gain, known.astype(np.float64))


def _diseases(
    known_positive: npt.ArrayLike, probability: npt.ArrayLike, classes: Sequence[str], no_finding: str | None, task: Task
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Truth and probability (N,) of what may be acted on, by name."""
    truth, given = np.asarray(known_positive, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    if task == "multiclass" and no_finding is not None:
        k = list(classes).index(no_finding)
        return {DISEASE: (1 - truth[:, k], 1 - given[:, k])}
    return {name: (truth[:, k], given[:, k]) for k, name in enumerate(classes) if name != no_finding}
