"""Gaps between subgroups in the scores that a clinic asks for, of one network on one set of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cxr_eval.stats import flips, scores
from cxr_eval.stats.cases import cases, shares
from cxr_eval.stats.cell_rows import known_truth, probabilities
from cxr_eval.stats.clinical import operating_cases
from cxr_eval.stats.clinical_rows import Decisions
from cxr_eval.stats.gaps import Gap, gaps, with_holm
from cxr_eval.stats.intervals import FloatArray, Resampling
from cxr_eval.stats.subgroups import values_of
from cxr_eval.types import Better

BETTER: dict[str, Better] = {
    "accuracy": "higher",
    "auroc": "higher",
    "sensitivity": "higher",
    "specificity": "higher",
    "missed_disease": "lower",
    "false_alarm": "lower",
}
"""All scores in which subgroups are compared; each is a fraction."""


def clinical_gaps(
    table: pd.DataFrame, groups: pd.DataFrame, classes: Sequence[str], decisions: Decisions, resampling: Resampling
) -> list[Gap]:
    """Gaps of every column of `groups`, with Holm's correction over all columns, metric by metric.

    table: a table of predictions, one line an image. groups: of `subgroup_values`. Metrics: accuracy (one class an image);
    AUROC, sensitivity and specificity at the frozen thresholds, each the mean over the classes for which it exists in the whole
    table; missed_disease and false_alarm, where it is known what means that nothing was found. A subgroup for which it does not
    exist for one of these classes has no mean: it would be that of other things than the mean of its others.
    """
    truth, given = known_truth(table, classes), probabilities(table, classes)
    once = np.ones((1, len(table)))
    operating = operating_cases(truth, given, classes, decisions.thresholds)
    means: dict[str, Callable[[FloatArray], FloatArray]] = {
        "auroc": lambda weights: scores.areas_by_class(truth, given, weights)[0],
        "sensitivity": lambda weights: _stacked("sensitivity", shares(operating, weights), classes),
        "specificity": lambda weights: _stacked("specificity", shares(operating, weights), classes),
    }
    present = {name: np.isfinite(of(once)[:, 0]) for name, of in means.items()}
    if "label" in table:
        counted = {"accuracy": cases(table["label"] == table["predicted"], np.ones(len(table)))}
        nothing = decisions.no_finding
        directions = {} if nothing is None else flips.of_classes(table["label"].tolist(), table["predicted"].tolist(), nothing)
    else:
        counted, directions = {}, flips.of_findings(truth, given, classes, decisions.no_finding)
    counted |= {name: of for name, of in directions.items() if name in BETTER}

    def score(weights: FloatArray) -> dict[str, FloatArray]:
        of_classes = {name: of(weights)[present[name]].mean(axis=0) for name, of in means.items() if present[name].any()}
        found = shares(counted, weights) | of_classes
        return {name: found[name] for name in BETTER if name in found}

    known = np.asarray(np.isfinite(truth).any(axis=1), dtype=bool)
    images = dict.fromkeys(means, known) | {name: np.asarray(of.possible > 0, dtype=bool) for name, of in counted.items()}
    compare = partial(gaps, table, score=score, resampling=resampling, images=images, shares=tuple(counted))
    columns = [str(column) for column in groups]
    return with_holm([gap for column in columns for gap in compare(values_of(table, groups, column), column=column)])


def _stacked(metric: str, found: dict[str, FloatArray], classes: Sequence[str]) -> FloatArray:
    return np.stack([found[f"{metric}[{name}]"] for name in classes])
