"""Which way wrong answers go: disease missed, disease invented, one disease taken for another; and what an attack turned so.

All are shares of cases; see `cases`. For one class an image there is a class that means nothing was found. Where findings can
stand together, nothing found means that none is positive, and a finding is called positive above a probability of 1/2, the
side that attacks are judged by.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr_eval.stats.cases import Cases, cases
from cxr_eval.stats.intervals import FloatArray


def of_classes(
    label: Sequence[str], predicted: Sequence[str], no_finding: str, before: Sequence[str] | None = None
) -> dict[str, Cases]:
    """Wrong answers where an image has one class.

    label, predicted: (N,) class names; before: what was predicted without the attack, for the last two.

    `missed_disease`: of the images with a disease, those called `no_finding`. `disease_confused`: of these, those called
    another disease. `false_alarm`: of the images without, those called some disease. `flipped_to_no_finding`: of the images
    with a disease that were right without attack, those that the attack has called `no_finding`. `flipped_to_disease`: of the
    images without disease that were right without attack, those that the attack has called some disease.
    """
    true, said = np.asarray(label, dtype=str), np.asarray(predicted, dtype=str)
    ill, nothing = true != no_finding, said == no_finding
    found = {
        "missed_disease": cases(nothing, ill),
        "false_alarm": cases(~nothing, ~ill),
        "disease_confused": cases(~nothing & (said != true), ill),
    }
    if before is not None:
        right = np.asarray(before, dtype=str) == true
        found |= {
            "flipped_to_no_finding": cases(nothing, ill & right),
            "flipped_to_disease": cases(~nothing, ~ill & right),
        }
    return found


def of_findings(
    known_positive: npt.ArrayLike,
    probability: npt.ArrayLike,
    findings: Sequence[str],
    no_finding: str | None = None,
    before: npt.ArrayLike | None = None,
) -> dict[str, Cases]:
    """Wrong answers where findings can stand together.

    known_positive: (N, K) with 1, 0 or NaN (unknown, left out). probability: (N, K), and before: the same without the attack.
    no_finding: a finding that means that there is none; it is left out.

    `missed[FINDING]`: of the images with a finding, those in which it is not found. `missed_disease`: the same over all
    positive labels together. `false_alarm`: of the images whose known findings are all negative, those in which some of these
    is found. `flipped_to_no_finding`: of the positive labels that were found without attack, those that the attack hides.
    `flipped_to_disease`: of the images without a finding in which none was found, those in which the attack has some found.
    A probability that is NaN finds nothing.
    """
    kept = [k for k, name in enumerate(findings) if name != no_finding]
    truth, found = np.asarray(known_positive, dtype=np.float64)[:, kept], _found(probability, kept)
    positive, known = truth > 0.5, np.isfinite(truth)
    healthy = known.any(axis=1) & ~positive.any(axis=1)
    alarmed = (found & known).any(axis=1)
    counted = {f"missed[{findings[k]}]": cases(~found[:, j], positive[:, j]) for j, k in enumerate(kept)}
    counted |= {"missed_disease": _labels(~found, positive), "false_alarm": cases(alarmed, healthy)}
    if before is not None:
        found_before = _found(before, kept)
        quiet = healthy & ~(found_before & known).any(axis=1)
        counted |= {
            "flipped_to_no_finding": _labels(~found, positive & found_before),
            "flipped_to_disease": cases(alarmed, quiet),
        }
    return counted


def _found(probability: npt.ArrayLike, kept: Sequence[int]) -> npt.NDArray[np.bool_]:
    given: FloatArray = np.asarray(probability, dtype=np.float64)[:, kept]
    found: npt.NDArray[np.bool_] = given > 0.5
    return found


def _labels(happened: npt.NDArray[np.bool_], possible: npt.NDArray[np.bool_]) -> Cases:
    """Labels (N, K), counted by image."""
    return Cases((happened & possible).sum(axis=1).astype(np.float64), possible.sum(axis=1).astype(np.float64))
