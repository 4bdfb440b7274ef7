"""Rows of predictions: scores of one set of images, and how they change from one set to another."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from cxr_eval.stats import scores
from cxr_eval.stats.cell_rows import BoolArray, CellRows, index, strata
from cxr_eval.stats.intervals import FloatArray, Patients, with_interval
from cxr_eval.types import Row

INSIDE, OUTSIDE = 0, 1
"""Places of two sets that are compared. All sets alone have the first, so that the same patients are drawn for every trainer
and differences between them can be paired; the second draws others, as the patients of both have nothing in common."""


class PredictionRows(CellRows):
    """Rows of predictions of one cell."""

    def predictions(self, table: pd.DataFrame, *, split: str, condition: str) -> list[Row]:
        """Scores of one prediction an image: accuracy, precision, recall, F1, AUROC, average precision; by class and mean."""
        truth, probability = self._truth(table), self._probability(table)
        images: dict[str, BoolArray] = {}
        for k, name in enumerate(self.classes):
            images |= dict.fromkeys((f"auroc[{name}]", f"average_precision[{name}]"), truth[:, k] == 1)
        if "label" not in table:
            known = np.isfinite(truth)
            of_any = np.asarray(known.any(axis=1), dtype=bool)
            images |= dict.fromkeys(("auroc", "mean_average_precision"), of_any)
            counts = dict.fromkeys(("auroc", "mean_average_precision"), int(of_any.sum()))
            for k, name in enumerate(self.classes):
                counts |= dict.fromkeys((f"auroc[{name}]", f"average_precision[{name}]"), int(known[:, k].sum()))
            rank = partial(scores.ranking_scores, truth, probability, self.classes)
            return self._rows(table, rank, split, condition, images=images, counts=counts)
        y = index(table["label"], self.classes)
        predicted = index(table["predicted"], self.classes)

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            decided = scores.decision_scores(y, predicted, self.classes, weights)
            return decided | scores.ranking_scores(truth, probability, self.classes, weights)

        counts = {}
        for k, name in enumerate(self.classes):
            images |= {f"precision[{name}]": predicted == k} | dict.fromkeys((f"recall[{name}]", f"f1[{name}]"), y == k)
            counts[f"recall[{name}]"] = int((y == k).sum())
        shares = ("accuracy", *(f"recall[{name}]" for name in self.classes))
        return self._rows(table, score, split, condition, images=images, counts=counts, shares=shares)

    def confusion(self, table: pd.DataFrame, *, split: str, condition: str) -> list[Row]:
        """Share of each true class that is called each other class, `called[covid|pneumonia]`: pneumonia called covid."""
        if "label" not in table:
            return []
        y, predicted = index(table["label"], self.classes), index(table["predicted"], self.classes)

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            counts = scores.confusion(y, predicted, len(self.classes), weights)
            with np.errstate(invalid="ignore"):
                shares = counts / counts.sum(axis=2, keepdims=True)
            return {
                f"called[{said}|{true}]": shares[:, i, j]
                for i, true in enumerate(self.classes)
                for j, said in enumerate(self.classes)
                if i != j
            }

        images = {f"called[{said}|{true}]": y == k for k, true in enumerate(self.classes) for said in self.classes}
        counts = {name: int(of.sum()) for name, of in images.items()}
        return self._rows(table, score, split, condition, better="lower", images=images, counts=counts, shares=images.keys())

    def similarity(self, table: pd.DataFrame, *, split: str, condition: str) -> list[Row]:
        """How alike changed images still are to the images without the change, `ssim`: the mean of the column of that name."""
        return self._rows(table, partial(_mean_ssim, table["ssim"].to_numpy(dtype=np.float64)), split, condition, unit="1")

    def change(self, inside: pd.DataFrame, outside: pd.DataFrame, *, split: str) -> list[Row]:
        """How much scores on clean images change from the test set to an outside set, `change[accuracy]`: below 0 is a loss.

        inside, outside: tables of predictions. split: the outside set's name. AUROC and mean average precision are means over
        the classes that are defined in both sets; `mean[auroc]` is the plain mean of both sets' AUROC. The interval holds both
        sets' patients to be drawn independently; behind the numbers stand the patients of the smaller set.
        """
        tables = (inside, outside)
        truths, probabilities = [self._truth(table) for table in tables], [self._probability(table) for table in tables]
        decided = [
            partial(scores.decision_scores, index(table["label"], self.classes), index(table["predicted"], self.classes))
            for table in tables
            if "label" in table
        ]

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            drawn = np.split(weights, [len(inside)], axis=1)
            (rank, precision), (rank_outside, precision_outside) = (
                scores.areas_by_class(truth, probability, w)
                for truth, probability, w in zip(truths, probabilities, drawn, strict=True)
            )
            found = {
                "change[auroc]": scores.over_classes(rank_outside - rank),
                "change[mean_average_precision]": scores.over_classes(precision_outside - precision),
                "mean[auroc]": scores.over_classes((rank + rank_outside) / 2),
            }
            if not decided:
                return found
            before, after = (of(self.classes, w) for of, w in zip(decided, drawn, strict=True))
            return {f"change[{name}]": after[name] - before[name] for name in ("accuracy", "balanced_accuracy")} | found

        settings = self.resampling
        first, second = (
            Patients.of(table["patient"].astype(str).tolist(), strata(table) if settings.stratified else None)
            for table in tables
        )
        weights = [one.drawn(settings.resamples, (settings.seed, place)) for one, place in ((first, INSIDE), (second, OUTSIDE))]
        patients = min(first.count, second.count)
        both = first.beside(second) if settings.kind == "bca" else None
        found = with_interval(score, np.hstack(weights), patients=patients, level=settings.level, accelerated=both)
        shared = np.isfinite(truths[0]).any(axis=0) & np.isfinite(truths[1]).any(axis=0)
        images = sum(int(np.isfinite(truth[:, shared]).any(axis=1).sum()) for truth in truths)
        return self._written(found, split, "clean", dict.fromkeys(found, images), dict.fromkeys(found, patients))


def _mean_ssim(values: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
    return {"ssim": scores.mean(values, weights)}
