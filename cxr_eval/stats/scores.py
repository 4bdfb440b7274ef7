"""Scores of predictions, each computed for many weightings of the images at once.

Every function takes `weights` (R, N): one row a weighting of the N images (how often a bootstrap resample drew each), and
returns (R,) values. A row of ones gives the plain score. A score that is not defined (a class without images) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """part / whole, NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def mean(values: npt.ArrayLike, weights: FloatArray) -> FloatArray:
    """Weighted mean of the values (N,) that are finite; NaN where none is left."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    return _ratio(weights[:, known] @ values[known], weights[:, known].sum(axis=1))


def confusion(y: npt.ArrayLike, predicted: npt.ArrayLike, classes: int, weights: FloatArray) -> FloatArray:
    """Weighted counts (R, K, K): first the true class, then the predicted one. y, predicted: (N,) class indices."""
    cell = np.asarray(y) * classes + np.asarray(predicted)
    one_hot = np.eye(classes * classes)[cell]
    counts: FloatArray = (weights @ one_hot).reshape(len(weights), classes, classes)
    return counts


def auroc(positive: npt.ArrayLike, score: npt.ArrayLike, weights: FloatArray) -> FloatArray:
    """Area under the ROC curve: the chance that a positive image scores higher than a negative one, ties counting half.

    positive: (N,) bool. score: (N,), higher means more likely positive. NaN where one of the two sides is missing.
    Source: Hanley and McNeil, Radiology 1982, doi 10.1148/radiology.143.1.7063747.
    """
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    order = np.argsort(score, kind="stable")
    value, group = np.unique(score[order], return_inverse=True)
    starts = np.searchsorted(group, np.arange(len(value)))
    if len(order) == 0:
        return np.full(len(weights), np.nan)
    ranked = weights[:, order]
    positives = np.add.reduceat(ranked * positive[order], starts, axis=1)
    negatives = np.add.reduceat(ranked * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    wins = (positives * (below + 0.5 * negatives)).sum(axis=1)
    return _ratio(wins, positives.sum(axis=1) * negatives.sum(axis=1))


def decision_scores(
    y: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[str], weights: FloatArray
) -> dict[str, FloatArray]:
    """Scores of class decisions: accuracy, and precision, recall and F1 by class and as plain means over the classes.

    balanced_accuracy is the mean recall. Precision of a class that is never predicted is NaN, and so is its mean.
    """
    counts = confusion(y, predicted, len(classes), weights)
    right = np.diagonal(counts, axis1=1, axis2=2)
    true, said = counts.sum(axis=2), counts.sum(axis=1)
    recall, precision, f1 = _ratio(right, true), _ratio(right, said), _ratio(2 * right, true + said)
    scores = {
        "accuracy": _ratio(right.sum(axis=1), counts.sum(axis=(1, 2))),
        "balanced_accuracy": recall.mean(axis=1),
        "precision": precision.mean(axis=1),
        "f1": f1.mean(axis=1),
    }
    for k, name in enumerate(classes):
        scores |= {f"recall[{name}]": recall[:, k], f"precision[{name}]": precision[:, k], f"f1[{name}]": f1[:, k]}
    return scores


def ranking_scores(
    known_positive: npt.ArrayLike, probability: npt.ArrayLike, classes: Sequence[str], weights: FloatArray
) -> dict[str, FloatArray]:
    """AUROC of each class against all others, and their plain mean over the classes where it is defined.

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K).
    """
    truth, probability = np.asarray(known_positive, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    scores: dict[str, FloatArray] = {}
    for k, name in enumerate(classes):
        known = np.isfinite(truth[:, k])
        scores[f"auroc[{name}]"] = auroc(truth[known, k] > 0.5, probability[known, k], weights[:, known])
    by_class = np.stack(list(scores.values()), axis=1)
    present = np.isfinite(by_class)
    scores["auroc"] = _ratio(np.where(present, by_class, 0.0).sum(axis=1), present.sum(axis=1).astype(np.float64))
    return scores


def one_hot(y: npt.ArrayLike, classes: int) -> FloatArray:
    """Class indices (N,) as (N, K) zeros and ones."""
    return np.eye(classes)[np.asarray(y, dtype=np.int64)]
