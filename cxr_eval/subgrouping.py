"""Subgroups of one cell's images: every score of each, and the gaps between them, on clean images and under attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial

import numpy as np
import pandas as pd

from cxr_eval.cells import CellWork
from cxr_eval.stats import scores
from cxr_eval.stats.attack_rows import Curve, worst_curves
from cxr_eval.stats.clinical_gaps import clinical_gaps
from cxr_eval.stats.clinical_rows import Decisions
from cxr_eval.stats.gaps import Gap, gaps, with_holm
from cxr_eval.stats.intervals import FloatArray
from cxr_eval.stats.rows import Scorer
from cxr_eval.stats.subgroups import parts, subgroup_values, values_of
from cxr_eval.types import Row

GAP_COLUMNS = ("model", "trainer", "seed", "split", "condition", *(field.name for field in fields(Gap)))
"""Columns of gaps.csv."""

WORST = "worst"
"""The threat whose gaps are looked at: any wrong answer within an L-inf ball."""


def subgroup_rows(
    work: CellWork, here: Scorer, decisions: Decisions, outcomes: Sequence[pd.DataFrame], *, split: str
) -> tuple[list[Row], pd.DataFrame]:
    """Rows of each subgroup of a split, and its gaps, one a line. outcomes: tables of the attacks on it."""
    settings = work.plan.protocol.evaluate
    images, clean = work.datasets.splits[split].table, work.clean(split)
    groups = subgroup_values(images, settings.subgroups, settings.age_bands)
    rows: list[Row] = []
    for column in map(str, groups):
        for name, part in parts(clean, groups, column):
            scorer = replace(here, subgroup=name)
            rows += scorer.predictions(part, split=split, condition="clean")
            rows += scorer.clinical(part, decisions, split=split, condition="clean")
            of_part = [table[table["image_id"].isin(part["image_id"])] for table in outcomes]
            rows += scorer.worst_case([table for table in of_part if len(table)], split=split)
    found = [("clean", gap) for gap in clinical_gaps(clean, groups, here.classes, decisions, settings.resampling)]
    for curve in worst_curves(outcomes):
        for eps, condition in _telling(curve):
            found += [(condition, gap) for gap in _robust_gaps(curve, eps, groups, here)]
    cell = work.cell
    lines = [
        (cell.model.label, cell.trainer.label, cell.seed, split, condition, *asdict(gap).values()) for condition, gap in found
    ]
    return rows, pd.DataFrame(lines, columns=list(GAP_COLUMNS))


def _telling(curve: Curve) -> list[tuple[float, str]]:
    """The middle and the largest radius above 0, of the threat whose gaps are looked at."""
    tried = [(eps, name) for eps, name in curve.radii.items() if eps > 0 and name.partition(":")[0] == WORST]
    return tried if len(tried) < 3 else [tried[len(tried) // 2], tried[-1]]


def _robust_gaps(curve: Curve, eps: float, groups: pd.DataFrame, here: Scorer) -> list[Gap]:
    robust = np.asarray(curve.robust(eps), dtype=np.float64)

    def score(weights: FloatArray) -> dict[str, FloatArray]:
        return {"robust_accuracy": scores.mean(robust, weights)}

    compare = partial(gaps, curve.images, score=score, resampling=here.resampling, shares=("robust_accuracy",))
    columns = map(str, groups)
    return with_holm([gap for column in columns for gap in compare(values_of(curve.images, groups, column), column=column)])
