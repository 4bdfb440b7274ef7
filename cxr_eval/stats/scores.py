"""Scores of predictions, each computed for many weightings of the images at once.

Every function takes `weights` (R, N): one row a weighting of the N images (how often a bootstrap resample drew each), and
returns (R,) values. A row of ones gives the plain score. A score that is not defined (a class without images) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BLOCK = 2**19
"""Numbers worked on at once; a few such blocks fit into a processor's cache, which makes areas several times faster."""


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """part / whole, NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _weighted(by_class: FloatArray, images: FloatArray) -> FloatArray:
    """Mean (R,) of a score by class (R, K), each class weighing as many images (R, K) as it has."""
    return _ratio(np.where(images > 0, by_class * images, 0.0).sum(axis=1), images.sum(axis=1))


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

    positive: (N,) bool. score: (N,), higher means more likely positive. NaN where one of the two sides is missing, and
    everywhere if a score is NaN.
    Source: Hanley and McNeil, Radiology 1982, doi 10.1148/radiology.143.1.7063747.
    """
    return _areas(positive, score, weights)[0]


def average_precision(positive: npt.ArrayLike, score: npt.ArrayLike, weights: FloatArray) -> FloatArray:
    """Area under the steps of the precision-recall curve: precision at each score, weighted by the positives it adds.

    positive: (N,) bool. score: (N,), higher means more likely positive; images of equal score pass the threshold together.
    The precision is not interpolated. NaN where no image is positive, and everywhere if a score is NaN.
    Source: Davis and Goadrich, ICML 2006, doi 10.1145/1143844.1143874; scikit-learn's average_precision_score.
    """
    return _areas(positive, score, weights)[1]


def _areas(positive: npt.ArrayLike, score: npt.ArrayLike, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """AUROC and average precision; each needs the same sums, and these take all the time."""
    from scipy.sparse import csr_array

    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    areas = np.full((2, len(weights)), np.nan)
    if not positive.any() or np.isnan(score).any():
        return areas[0], areas[1]
    # only scores that some positive image has add to either area; images of equal score are counted together
    threshold = np.unique(-score[positive])
    place = np.searchsorted(threshold, -score)  # of the first threshold that lets an image pass; none lets the last pass
    count = len(threshold)
    reaches = np.append(threshold, np.nan)[place] == -score
    images = np.arange(len(score))
    # from one threshold to the next: negative images that pass now, then positive ones; last, those that never pass
    passing = csr_array((np.ones(len(score)), (2 * place + positive, images)), shape=(2 * count + 2, len(score)))
    tied = np.flatnonzero(reaches & ~positive)
    ties = csr_array((np.ones(len(tied)), (place[tied], tied)), shape=(count, len(score)))
    columns = max(16, min(256, BLOCK // (2 * count)))
    for at in range(0, len(weights), columns):
        block = np.ascontiguousarray(weights[at : at + columns].T)
        passed = passing @ block
        never = passed[2 * count]
        reached = passed[: 2 * count].reshape(count, 2, -1)
        added = reached[:, 1].copy()
        for step in range(1, count):  # along rows; a cumsum down the columns takes five times as long
            reached[step] += reached[step - 1]
        false, true = reached[:, 0], reached[:, 1]
        all_true, all_false = true[-1], false[-1] + never
        wins = np.einsum("tr,tr->r", added, all_false - false)
        if len(tied):
            wins += 0.5 * np.einsum("tr,tr->r", added, ties @ block)
        areas[0, at : at + columns] = _ratio(wins, all_true * all_false)
        # a score whose images are not in the resample adds nothing, and may be the first
        precision = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
        areas[1, at : at + columns] = _ratio(np.einsum("tr,tr->r", added, precision), all_true)
    return areas[0], areas[1]


def decision_scores(
    y: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[str], weights: FloatArray
) -> dict[str, FloatArray]:
    """Scores of class decisions: accuracy; precision, recall and F1 by class, as plain and as weighted means over the classes.

    balanced_accuracy is the mean recall. `precision_weighted` and `f1_weighted` weigh each class by its images. Recall so
    weighted, and precision, recall and F1 over all decisions together (micro), are the accuracy, as an image has one class.
    Precision of a class that is never predicted is NaN, and so are its means (the weighted one if the class has images).
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
        "precision_weighted": _weighted(precision, true),
        "f1_weighted": _weighted(f1, true),
    }
    for k, name in enumerate(classes):
        scores |= {f"recall[{name}]": recall[:, k], f"precision[{name}]": precision[:, k], f"f1[{name}]": f1[:, k]}
    return scores


def ranking_scores(
    known_positive: npt.ArrayLike, probability: npt.ArrayLike, classes: Sequence[str], weights: FloatArray
) -> dict[str, FloatArray]:
    """AUROC and average precision of each class against all others, and their plain means over the classes that have them.

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K).
    """
    areas, precisions = areas_by_class(known_positive, probability, weights)
    scores = {f"auroc[{name}]": area for name, area in zip(classes, areas, strict=True)} | {"auroc": over_classes(areas)}
    scores |= {f"average_precision[{name}]": area for name, area in zip(classes, precisions, strict=True)}
    return scores | {"mean_average_precision": over_classes(precisions)}


def areas_by_class(
    known_positive: npt.ArrayLike, probability: npt.ArrayLike, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """AUROC and average precision of each class against all others, each (K, R).

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K).
    """
    truth, probability = np.asarray(known_positive, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    areas = np.empty((2, truth.shape[1], len(weights)))
    for k in range(truth.shape[1]):
        known = np.isfinite(truth[:, k])
        drawn = weights if known.all() else weights[:, known]
        areas[:, k] = _areas(truth[known, k] > 0.5, probability[known, k], drawn)
    return areas[0], areas[1]


def over_classes(by_class: FloatArray) -> FloatArray:
    """Plain mean (R,) over the classes of (K, R) that are defined; NaN where none is."""
    present = np.isfinite(by_class)
    return _ratio(np.where(present, by_class, 0.0).sum(axis=0), present.sum(axis=0).astype(np.float64))


def one_hot(y: npt.ArrayLike, classes: int) -> FloatArray:
    """Class indices (N,) as (N, K) zeros and ones."""
    return np.eye(classes)[np.asarray(y, dtype=np.int64)]
