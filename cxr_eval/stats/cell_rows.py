"""What all rows of one cell share: where they belong, their intervals, and which of them are withheld."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats import scores
from cxr_eval.stats.intervals import FloatArray, Patients, Resampling, Score, with_interval
from cxr_eval.types import LABEL, PROBABILITY, Better, Row

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CellRows:
    """Turns per-image tables of one cell (model x trainer x seed) into rows.

    Tables have one line an image (attack tables: one an image and radius) with `image_id`, `patient`, `label` (class name; or
    one column `label:FINDING` each), `predicted` (class name) and `p_CLASS`, the probability given to each class. subgroup:
    `COLUMN=VALUE` where the tables hold only such images.

    A number behind which fewer patients stand than `resampling.min_patients` is withheld: value and interval are NaN, the
    row's note says why, and `n` stays. Behind a score of one class stand the patients with images of this class, behind the
    precision of a class those with images that are called so, and behind any other number all patients of its images.
    """

    model: str
    trainer: str
    seed: int
    classes: tuple[str, ...]
    resampling: Resampling
    provenance: str
    subgroup: str = ""

    def _truth(self, table: pd.DataFrame) -> FloatArray:
        """(N, K): 1 and 0 where the class is the image's or not, NaN where that is not known."""
        return known_truth(table, self.classes)

    def _probability(self, table: pd.DataFrame) -> FloatArray:
        """(N, K)."""
        return probabilities(table, self.classes)

    def _share(
        self,
        table: pd.DataFrame,
        holds: npt.ArrayLike,
        split: str,
        condition: str,
        metric: str = "robust_accuracy",
        better: Better = "higher",
    ) -> list[Row]:
        return self._shares(table, {metric: holds}, split, condition, better=better)

    def _shares(
        self, table: pd.DataFrame, holds: Mapping[str, npt.ArrayLike], split: str, condition: str, *, better: Better = "higher"
    ) -> list[Row]:
        """Rows of shares of all images of the table, by metric."""
        values = {metric: np.asarray(of, dtype=np.float64) for metric, of in holds.items()}

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            return {metric: scores.mean(of, weights) for metric, of in values.items()}

        return self._rows(table, score, split, condition, better=better, shares=values.keys())

    def _rows(
        self,
        table: pd.DataFrame,
        score: Score,
        split: str,
        condition: str,
        *,
        explainer: str = "",
        better: Better = "higher",
        unit: str = "fraction",
        images: Mapping[str, BoolArray] | None = None,
        counts: Mapping[str, int] | None = None,
        shares: Collection[str] = (),
    ) -> list[Row]:
        """Rows of all scores.

        images: which images (N,) stand behind a score, where these are not all. counts: how many images a row names, where
        these are not all. shares: scores that are shares of their images.
        """
        of_patient = table["patient"].astype(str)
        patients = Patients.of(of_patient.tolist(), strata(table) if self.resampling.stratified else None)
        behind = {name: len(np.unique(patients.of_image[chosen])) for name, chosen in (images or {}).items()}
        found = with_interval(
            score,
            patients.drawn(self.resampling.resamples, self.resampling.seed),
            patients=patients.count,
            proportions={name: behind.get(name, patients.count) for name in shares},
            level=self.resampling.level,
            accelerated=patients if self.resampling.kind == "bca" else None,
        )
        counts = dict.fromkeys(found, len(table)) | dict(counts or {})
        behind = dict.fromkeys(found, patients.count) | behind
        return self._written(found, split, condition, counts, behind, explainer=explainer, better=better, unit=unit)

    def _written(
        self,
        found: Mapping[str, tuple[float, float, float]],
        split: str,
        condition: str,
        counts: Mapping[str, int],
        behind: Mapping[str, int],
        *,
        explainer: str = "",
        better: Better = "higher",
        unit: str = "fraction",
    ) -> list[Row]:
        """counts: images by metric. behind: patients by metric."""
        rows = []
        for metric, (value, low, high) in found.items():
            note = self.resampling.withheld(behind[metric])
            nan = float("nan")
            rows.append(
                Row(
                    model=self.model,
                    trainer=self.trainer,
                    seed=self.seed,
                    split=split,
                    condition=condition,
                    explainer=explainer,
                    metric=metric,
                    value=nan if note else value,
                    low=nan if note else low,
                    high=nan if note else high,
                    n=int(counts[metric]),
                    unit=unit,
                    better=better,
                    provenance=self.provenance,
                    subgroup=self.subgroup,
                    note=note,
                )
            )
        return rows


def known_truth(table: pd.DataFrame, classes: Sequence[str]) -> FloatArray:
    """(N, K): 1 and 0 where the class is the image's or not, NaN where that is not known."""
    if "label" in table:
        return scores.one_hot(index(table["label"], classes), len(classes))
    return table[[LABEL + name for name in classes]].to_numpy(dtype=np.float64)


def probabilities(table: pd.DataFrame, classes: Sequence[str]) -> FloatArray:
    """(N, K): the probability given to each class."""
    return table[[PROBABILITY + name for name in classes]].to_numpy(dtype=np.float64)


def strata(table: pd.DataFrame) -> list[str] | None:
    """The class of each image, by which patients are drawn; None where an image has no one class."""
    return table["label"].astype(str).tolist() if "label" in table else None


def index(names: pd.Series[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Places (N,) of class names in `classes`."""
    place = {name: k for k, name in enumerate(classes)}
    return np.asarray(names.map(place), dtype=np.int64)
