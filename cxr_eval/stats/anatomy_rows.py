"""Rows of the anatomy audit: what is left of a network's scores when parts of the picture are taken away, and what follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats import scores
from cxr_eval.stats.cell_rows import index
from cxr_eval.stats.explanation_rows import REGION_BETTER
from cxr_eval.stats.intervals import FloatArray
from cxr_eval.stats.prediction_rows import PredictionRows
from cxr_eval.types import Better, Row, RowWarning, format_eps

BODY = ("lung", "lungs", "heart")
"""Regions that a diagnosis should be read from."""

LEAD = "inside_minus_outside"
FOLLOWS = "follows_marker"


class AnatomyRows(PredictionRows):
    """Rows of the anatomy audit of one cell."""

    def anatomy(
        self, kind: str, predictions: pd.DataFrame, attacks: pd.DataFrame, *, split: str, eps: float | None
    ) -> list[Row]:
        """Scores of images with one kind of region, part by part.

        predictions: per-image tables with a column `condition`: `intact KIND`, `without KIND`, `only KIND`, `KIND of CLASS`.
        attacks: label, condition (`inside KIND`, `outside KIND`), robust.

        Rows: the scores of `predictions` in each condition; `inside_minus_outside[KIND]` (condition `intact KIND`): balanced
        accuracy (findings: mean AUROC) of the region alone minus that of everything but the region, so that a network that
        reads the lungs is high and one that reads their surroundings is low or negative; `follows_marker[CLASS]` (condition
        `KIND of CLASS`): how much the share of other classes' images that are called CLASS rises when their marker is replaced
        by one of that class; robust accuracy where an attack may change the inside or the outside alone.

        Balanced accuracy is the mean recall of the classes that have such regions in at least `resampling.min_patients`
        patients; where that leaves a class out, or all, the row's note says so.
        """
        parts = {str(condition): part for condition, part in predictions.groupby("condition", sort=False)}
        rows = [row for condition, part in parts.items() for row in self.predictions(part, split=split, condition=condition)]
        intact = parts[f"intact {kind}"]
        if "label" in intact:  # not every class need have such regions, and the mean over all classes would be NaN
            rows = [row for row in rows if row.metric != "balanced_accuracy"]
            for condition, part in parts.items():
                score = partial(_as_balanced_accuracy, self._single_score(part))
                rows += self._noted(intact, self._rows(part, score, split, condition))
        rows += self._lead(kind, intact, parts[f"only {kind}"], parts[f"without {kind}"], split)
        for name in self.classes if "label" in intact else ():
            if (condition := f"{kind} of {name}") in parts:
                rows += self._follows(name, intact, parts[condition], split, condition)
        if len(attacks) and eps is not None:
            for attacked, part in attacks.groupby("condition", sort=False):
                rows += self._share(part, part["robust"], split, f"{attacked}:{format_eps(eps)}")
        return rows

    def _lead(self, kind: str, intact: pd.DataFrame, only: pd.DataFrame, without: pd.DataFrame, split: str) -> list[Row]:
        inside, outside = self._single_score(only), self._single_score(without)
        name = f"{LEAD}[{kind}]"

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            return {name: inside(weights) - outside(weights)}

        better: Better = "higher" if kind in BODY else REGION_BETTER.get(kind, "neither")
        return self._noted(intact, self._rows(intact, score, split, f"intact {kind}", better=better))

    def _noted(self, table: pd.DataFrame, rows: list[Row]) -> list[Row]:
        """Rows of means over classes, with a note of the classes that have too few patients to count."""
        few = self._too_few(table)
        if not few:
            return rows
        least, patients = self.resampling.min_patients, ", ".join(f"{name} has {count}" for name, count in few.items())
        if len(few) == table["label"].nunique():
            said = f"withheld: no class has as many patients as {least}"
        else:
            said = f"without {', '.join(few)}: fewer than {least} patients ({patients})"
        return [row if row.note else replace(row, note=said) for row in rows]

    def _too_few(self, table: pd.DataFrame) -> dict[str, int]:
        """Patients by class, of the classes that have some but fewer than numbers are given for."""
        if "label" not in table:
            return {}
        patients = table.groupby("label")["patient"].nunique()
        return {
            name: int(patients[name]) for name in self.classes if name in patients and self.resampling.withheld(patients[name])
        }

    def _single_score(self, table: pd.DataFrame) -> partial[FloatArray]:
        if "label" in table:
            predicted, few = index(table["predicted"], self.classes), self._too_few(table)
            counted = [name for name in self.classes if name not in few]
            return partial(_balanced, index(table["label"], self.classes), predicted, self.classes, counted)
        return partial(_mean_auroc, self._truth(table), self._probability(table))

    def _follows(self, name: str, intact: pd.DataFrame, pasted: pd.DataFrame, split: str, condition: str) -> list[Row]:
        others = (intact["label"] != name).to_numpy()
        before, after = ((table["predicted"] == name).to_numpy()[others] for table in (intact, pasted))
        rise = after.astype(np.float64) - before
        metric = f"{FOLLOWS}[{name}]"

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            return {metric: scores.mean(rise, weights)}

        shares = [metric] if (rise == 1).all() else []  # all turned: resamples agree, and the bootstrap has no interval
        return self._rows(intact[others], score, split, condition, better="lower", shares=shares)


def anatomy_doubts(rows: Sequence[Row], kind: str, *, scope: str, classes: int) -> list[RowWarning]:
    """What a network reads that it should not, beyond chance: the surroundings of the lungs, or burned-in letters.

    rows: those of `AnatomyRows.anatomy` for one kind of region. classes: how many exclude each other; 0 for findings.
    """
    by_place = {(row.condition, row.metric): row for row in rows}
    there = sum(
        row.condition == f"intact {kind}" and row.metric.startswith("recall[") and row.n > 0 and not row.note for row in rows
    )
    metric, said, chance = ("balanced_accuracy", "balanced accuracy", 1 / max(1, there)) if classes else ("auroc", "AUROC", 0.5)
    found = []
    part, code = (f"without {kind}", "reads_without_lung") if kind in BODY[:2] else (f"only {kind}", "reads_marker")
    row = by_place.get((part, metric)) if kind in BODY[:2] or REGION_BETTER.get(kind) == "lower" else None
    if row is not None and _beyond(row, chance):
        shown = f"nothing but the {kind}" if part.startswith("only") else f"the {kind} taken away"
        interval = f" [{row.low:.3f}, {row.high:.3f}]" if math.isfinite(row.low) else ""
        found.append(
            RowWarning(
                code,
                "warn",
                f"{scope}, {part}",
                f"With {shown} the network still has a {said} of {row.value:.3f}{interval} where chance is"
                f" {chance:.3f}: it reads something that is no sign of disease"
                + (", or the outline that is left." if part.startswith("without") else "."),
            )
        )
    found += [
        RowWarning(
            "follows_marker",
            "warn",
            f"{scope}, {row.condition}",
            f"With the {kind} of another class in place of their own, {row.value:.1%} more of the images are called"
            f" '{row.metric.removeprefix(FOLLOWS)[1:-1]}': the network reads the {kind}.",
        )
        for row in rows
        if row.metric.startswith(FOLLOWS) and _beyond(row, 0)
    ]
    return found


def _beyond(row: Row, chance: float) -> bool:
    """Whether a score lies above chance; where all resamples agree on a perfect one, it has no interval and needs none."""
    return row.low > chance or (row.value == 1 > chance and math.isnan(row.low))


def _as_balanced_accuracy(score: partial[FloatArray], weights: FloatArray) -> dict[str, FloatArray]:
    return {"balanced_accuracy": score(weights)}


def _balanced(
    y: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[str], counted: Sequence[str], weights: FloatArray
) -> FloatArray:
    """Mean recall over those of the counted classes that there are: only ill images have lesions. NaN without any."""
    decided = scores.decision_scores(y, predicted, classes, weights)
    if not counted:
        return np.full(len(weights), np.nan)
    return scores.over_classes(np.stack([decided[f"recall[{name}]"] for name in counted]))


def _mean_auroc(truth: FloatArray, probability: FloatArray, weights: FloatArray) -> FloatArray:
    return scores.over_classes(scores.areas_by_class(truth, probability, weights)[0])
