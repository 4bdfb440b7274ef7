"""Decision thresholds, chosen on validation images once and frozen for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cxr_eval.stats.intervals import FloatArray

Rule = Literal["youden", "sensitivity", "specificity"]


def operating_points(
    known_positive: npt.ArrayLike,
    probability: npt.ArrayLike,
    classes: Sequence[str],
    *,
    rule: Rule = "youden",
    at_least: float = 0.9,
) -> dict[str, float]:
    """The threshold of each class against all others: an image is positive where its probability is that or more.

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K). `youden`: the largest sum of sensitivity
    and specificity; of several equally good thresholds the middle one, of an even number the lower of the two in the middle,
    as a miss is the worse mistake. `sensitivity`: the highest threshold that reaches `at_least`; `specificity`: the lowest.

    Thresholds lie half-way between two neighbouring probabilities, or outside all of them, where everything or nothing is
    positive: a network no better than chance gets such a one. NaN for a class without positive or without negative images,
    and where a probability is NaN.

    Raises:
        ValueError: no such rule, or `at_least` is not between 0 and 1.
    Source: Youden, Cancer 1950, 3:32-35.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule: expected {', '.join(get_args(Rule))}, got {rule!r}")
    if not 0 < at_least < 1:
        raise ValueError(f"at_least: expected a number between 0 and 1, such as 0.9, got {at_least}")
    truth = np.asarray(known_positive, dtype=np.float64).reshape(-1, len(classes))
    given = np.asarray(probability, dtype=np.float64).reshape(-1, len(classes))
    known = np.isfinite(truth)
    return {
        name: _threshold(truth[known[:, k], k] > 0.5, given[known[:, k], k], rule, at_least) for k, name in enumerate(classes)
    }


def _threshold(positive: npt.NDArray[np.bool_], score: FloatArray, rule: Rule, at_least: float) -> float:
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives or np.isnan(score).any():
        return float("nan")
    distinct, place = np.unique(score, return_inverse=True)
    # k of 0 to M: the k lowest distinct scores are negative
    missed = np.append(0, np.cumsum(np.bincount(place, weights=positive))).astype(np.int64)
    spared = np.append(0, np.cumsum(np.bincount(place, weights=~positive))).astype(np.int64)
    found = positives - missed
    if rule == "youden":
        both = found * negatives + spared * positives  # whole numbers: equal sums must not differ by rounding
        best = np.flatnonzero(both == both.max())
        k = int(best[(len(best) - 1) // 2])
    elif rule == "sensitivity":
        k = int(np.flatnonzero(found / positives >= at_least)[-1])
    else:
        k = int(np.flatnonzero(spared / negatives >= at_least)[0])
    below = 0.0 if k == 0 else float(distinct[k - 1])
    above = 1.0 if k == len(distinct) else float(distinct[k])
    if k == 0:
        return below + (above - below) / 2
    # of two neighbouring floats the middle may be the lower one, whose images are to be negative
    return max(below + (above - below) / 2, float(np.nextafter(below, 2.0)))
