"""Rows of one cell from its per-image tables: every reported number is computed here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats import scores
from cxr_eval.stats.intervals import FloatArray, patient_weights, with_interval
from cxr_eval.types import CHANCE, LABEL, PROBABILITY, Better, Row, format_eps

REGION_BETTER: dict[str, Better] = {"lesion": "higher", "box": "higher", "marker": "lower", "devices": "lower"}
"""Where attribution should lie: on what is ill, and not on text or tubes. Of other regions (lungs, heart) neither is better."""


@dataclass(frozen=True)
class Scorer:
    """Turns per-image tables of one cell (model x trainer x seed) into rows.

    Tables have one line an image (attack tables: one an image and radius) with `image_id`, `patient`, `label` (class name; or
    one column `label:FINDING` each), `predicted` (class name) and `p_CLASS`, the probability given to each class.
    """

    model: str
    trainer: str
    seed: int
    classes: tuple[str, ...]
    resamples: int
    provenance: str

    def predictions(self, table: pd.DataFrame, *, split: str, condition: str) -> list[Row]:
        """Scores of one prediction an image: accuracy, precision, recall, F1, AUROC; by class and averaged."""
        probability = table[[PROBABILITY + name for name in self.classes]].to_numpy(dtype=np.float64)
        if "label" not in table:
            truth = table[[LABEL + name for name in self.classes]].to_numpy(dtype=np.float64)
            known = dict(zip((f"auroc[{name}]" for name in self.classes), np.isfinite(truth).sum(axis=0), strict=True))
            known["auroc"] = np.isfinite(truth).any(axis=1).sum()
            rank = partial(scores.ranking_scores, truth, probability, self.classes)
            return self._rows(table, rank, split, condition, counts=known)
        y = _index(table["label"], self.classes)
        predicted = _index(table["predicted"], self.classes)
        truth = scores.one_hot(y, len(self.classes))

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            decided = scores.decision_scores(y, predicted, self.classes, weights)
            return decided | scores.ranking_scores(truth, probability, self.classes, weights)

        members = {f"recall[{name}]": y == k for k, name in enumerate(self.classes)}
        return self._rows(table, score, split, condition, shares={"accuracy": np.ones(len(y), dtype=bool)} | members)

    def confusion(self, table: pd.DataFrame, *, split: str, condition: str) -> list[Row]:
        """Share of each true class that is called each other class, `called[covid|pneumonia]`: pneumonia called covid."""
        if "label" not in table:
            return []
        y, predicted = _index(table["label"], self.classes), _index(table["predicted"], self.classes)

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

        shares = {f"called[{said}|{true}]": y == k for k, true in enumerate(self.classes) for said in self.classes}
        return self._rows(table, score, split, condition, better="lower", shares=shares)

    def attack(self, outcomes: pd.DataFrame, *, split: str) -> list[Row]:
        """Robust accuracy of one attack at radius 0 and at each radius tried, and the same by class as `recall[CLASS]`.

        An image counts as robust if it is right clean and right at this and every smaller radius. Precision and AUROC under
        attack are not given: they would need every image attacked at every radius, also those that are wrong already.
        """
        name = str(outcomes["attack"].iloc[0])
        broken = broken_at(outcomes)
        rows: list[Row] = []
        radii = {0.0: f"{name}:0"} | {float(eps): f"{name}:{format_eps(float(eps))}" for eps in sorted(set(outcomes["eps"]))}
        images = outcomes.drop_duplicates("image_id")
        for eps, condition in radii.items():
            robust = (images["image_id"].map(broken) > eps).to_numpy()
            rows += self._share(images, robust, split, condition)
            for label in self.classes if "label" in images else ():
                of_class = (images["label"] == label).to_numpy()
                rows += self._share(images[of_class], robust[of_class], split, condition, f"recall[{label}]")
        return rows

    def worst_case(self, outcomes: Sequence[pd.DataFrame], *, split: str) -> list[Row]:
        """Robust accuracy against all attacks together, per image: `worst:EPS` for every radius that any attack tried.

        Every image that any attack was run on counts, and for it every attack and radius tried on it. A radius that an attack
        did not try is judged by its smaller ones.
        """
        broken = [broken_at(table) for table in outcomes]
        together = pd.concat(broken, axis=1).min(axis=1)
        first = pd.concat(outcomes).drop_duplicates("image_id").set_index("image_id").loc[together.index].reset_index()
        rows: list[Row] = []
        for eps in sorted({0.0} | {float(eps) for table in outcomes for eps in table["eps"].unique()}):
            rows += self._share(first, together.to_numpy() > eps, split, f"worst:{format_eps(eps)}")
        return rows

    def explanations(
        self, table: pd.DataFrame, *, split: str, condition: str, better: dict[str, Better], units: dict[str, str]
    ) -> list[Row]:
        """Means of explanation metrics over images. table: image_id, patient, explainer, metric, value (NaN: not defined).

        better, units: by metric name without the region in brackets.
        """
        rows: list[Row] = []
        for (explainer, metric), part in table.groupby(["explainer", "metric"], sort=False):
            defined = part[np.isfinite(part["value"].to_numpy(dtype=np.float64))]
            values = defined["value"].to_numpy(dtype=np.float64)
            base, _, region = str(metric).removesuffix("]").partition("[")
            hits = np.ones(len(values), dtype=bool) if set(values) <= {0.0, 1.0} else None
            rows += self._rows(
                defined,
                lambda w, values=values, metric=str(metric): {metric: scores.mean(values, w)},  # type: ignore[misc]
                split,
                condition,
                explainer=str(explainer),
                better=REGION_BETTER.get(region, "neither") if region else better[base],
                unit=units[base],
                shares=None if hits is None else {str(metric): hits},
            )
        return rows

    def chance(self, shares: pd.DataFrame, metrics: Sequence[str], *, split: str, condition: str) -> list[Row]:
        """What a map without meaning scores on average: the region's share of the image, as explainer `chance`.

        shares: image_id, patient, and a column a region kind with its share of the image (NaN: none). metrics: labels of
        localisation metrics.
        """
        rows: list[Row] = []
        for kind in shares.columns.difference(["image_id", "patient"]):
            known = shares[shares[kind].notna()]
            values = known[kind].to_numpy(dtype=np.float64)
            for name in (f"{metric}[{kind}]" for metric in metrics):
                score = partial(_mean_of, name, values)
                rows += self._rows(known, score, split, condition, explainer=CHANCE, better="neither")
        return rows

    def _share(
        self, table: pd.DataFrame, holds: npt.ArrayLike, split: str, condition: str, metric: str = "robust_accuracy"
    ) -> list[Row]:
        values = np.asarray(holds, dtype=np.float64)
        everyone = {metric: np.ones(len(table), dtype=bool)}
        return self._rows(table, lambda w: {metric: scores.mean(values, w)}, split, condition, shares=everyone)

    def _rows(
        self,
        table: pd.DataFrame,
        score: Callable[[FloatArray], dict[str, FloatArray]],
        split: str,
        condition: str,
        *,
        explainer: str = "",
        better: Better = "higher",
        unit: str = "fraction",
        counts: Mapping[str, int] | None = None,
        shares: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    ) -> list[Row]:
        """Rows of all scores.

        counts: images behind a score, where they are not the whole table. shares: for scores that are shares of images, which
        images (N,) those are.
        """
        patients = table["patient"].astype(str).tolist()
        counts = dict(counts or {}) | {name: int(images.sum()) for name, images in (shares or {}).items()}
        proportions = {name: table["patient"][images].nunique() for name, images in (shares or {}).items()}
        # one seed for all: the same patients are drawn for every trainer, so differences between them can be paired
        weights = patient_weights(patients, resamples=self.resamples, seed=0)
        return [
            Row(
                model=self.model,
                trainer=self.trainer,
                seed=self.seed,
                split=split,
                condition=condition,
                explainer=explainer,
                metric=metric,
                value=value,
                low=low,
                high=high,
                n=int(counts.get(metric, len(table))),
                unit=unit,
                better=better,
                provenance=self.provenance,
            )
            for metric, (value, low, high) in with_interval(
                score, weights, patients=len(set(patients)), proportions=proportions
            ).items()
        ]


def broken_at(outcomes: pd.DataFrame) -> pd.Series[float]:
    """Smallest radius at which each image is no longer right, by image_id: 0 if wrong clean, inf if never broken."""
    broken = outcomes["eps"].where(~outcomes["robust"].astype(bool), np.inf)
    broken = broken.where(outcomes["clean_correct"].astype(bool), 0.0)
    return broken.groupby(outcomes["image_id"].to_numpy(), sort=False).min()


def _mean_of(name: str, values: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
    return {name: scores.mean(values, weights)}


def _index(names: pd.Series[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    place = {name: k for k, name in enumerate(classes)}
    return np.asarray(names.map(place), dtype=np.int64)
