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

REGION_BETTER: dict[str, Better] = {
    "finding": "higher",
    "lesion": "higher",
    "box": "higher",
    "marker": "lower",
    "devices": "lower",
}
"""Where attribution should lie: on what is ill (so also on regions named like a class), and not on text or tubes.

Of other regions (lungs, heart) neither is better.
"""

AT = "@"
"""Before the threshold in names such as `localisation_accuracy[Mass@0.1]`."""

INSIDE, OUTSIDE = 0, 1
"""Seeds of the patients drawn. All sets have the first, so that the same patients are drawn for every trainer and differences
between them can be paired; of two sets that are compared the second has another, as their patients have nothing in common."""


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
        """Scores of one prediction an image: accuracy, precision, recall, F1, AUROC, average precision; by class and mean."""
        truth, probability = self._truth(table), self._probability(table)
        if "label" not in table:
            known = np.isfinite(truth)
            counts = {"auroc": known.any(axis=1).sum(), "mean_average_precision": known.any(axis=1).sum()}
            for k, name in enumerate(self.classes):
                counts |= dict.fromkeys((f"auroc[{name}]", f"average_precision[{name}]"), known[:, k].sum())
            rank = partial(scores.ranking_scores, truth, probability, self.classes)
            return self._rows(table, rank, split, condition, counts=counts)
        y = _index(table["label"], self.classes)
        predicted = _index(table["predicted"], self.classes)

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
        """Robust accuracy of one attack at radius 0 and at each radius tried, and the same by class as `robust_recall[CLASS]`.

        An image counts as robust if it is right clean and right at this and every smaller radius. Where every image was
        attacked at every radius, also the scores of `predictions` on the attacked images of each radius above 0; there an
        image counts as right if it is right at this radius. Elsewhere these would mix attacked images with others.
        """
        name = str(outcomes["attack"].iloc[0])
        broken = broken_at(outcomes)
        rows: list[Row] = []
        radii = {0.0: f"{name}:0"} | {float(eps): f"{name}:{format_eps(float(eps))}" for eps in sorted(set(outcomes["eps"]))}
        images = outcomes.drop_duplicates("image_id")
        every = bool(outcomes["every"].all())
        for eps, condition in radii.items():
            robust = (images["image_id"].map(broken) > eps).to_numpy()
            rows += self._share(images, robust, split, condition)
            for label in self.classes if "label" in images else ():
                of_class = (images["label"] == label).to_numpy()
                rows += self._share(images[of_class], robust[of_class], split, condition, f"robust_recall[{label}]")
            if every and eps > 0:
                rows += self.predictions(outcomes[outcomes["eps"] == eps], split=split, condition=condition)
        return rows

    def mean_robust_precision(self, outcomes: Sequence[pd.DataFrame], *, split: str) -> list[Row]:
        """mARP: mean over attacks and their radii above 0 of the mean average precision on attacked images.

        Condition `attacked`. Only attacks that attacked every image at every radius count, and of these only those that saw
        all images that any of them saw, so that all means are over the same images; without any there is no row. Each radius
        of each attack weighs the same.
        """
        every = [table for table in outcomes if table["every"].all()]
        seen = [set(table["image_id"]) for table in every]
        whole = set().union(*seen)
        first: pd.DataFrame | None = None
        attacked = []
        for table, images in zip(every, seen, strict=True):
            for _, at in table[table["eps"] > 0].groupby("eps") if images == whole else ():
                first = at if first is None else first
                attacked.append(self._probability(at.set_index("image_id").loc[first["image_id"]]))
        if first is None:
            return []
        truth = self._truth(first)

        def score(weights: FloatArray) -> dict[str, FloatArray]:
            precision = [scores.over_classes(scores.areas_by_class(truth, probability, weights)[1]) for probability in attacked]
            return {"mean_average_robust_precision": np.mean(precision, axis=0)}

        known = {"mean_average_robust_precision": int(np.isfinite(truth).any(axis=1).sum())}
        return self._rows(first, score, split, "attacked", counts=known)

    def change(self, inside: pd.DataFrame, outside: pd.DataFrame, *, split: str) -> list[Row]:
        """How much scores on clean images change from the test set to an outside set, `change[accuracy]`: below 0 is a loss.

        inside, outside: tables of predictions. split: the outside set's name. AUROC and mean average precision are means over
        the classes that are defined in both sets; `mean[auroc]` is the plain mean of both sets' AUROC. The interval holds both
        sets' patients to be drawn independently.
        """
        tables = (inside, outside)
        truths, probabilities = [self._truth(table) for table in tables], [self._probability(table) for table in tables]
        decided = [
            partial(scores.decision_scores, _index(table["label"], self.classes), _index(table["predicted"], self.classes))
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

        weights = [
            patient_weights(table["patient"].astype(str).tolist(), resamples=self.resamples, seed=seed)
            for table, seed in zip(tables, (INSIDE, OUTSIDE), strict=True)
        ]
        patients = min(table["patient"].nunique() for table in tables)
        found = with_interval(score, np.hstack(weights), patients=patients)
        shared = np.isfinite(truths[0]).any(axis=0) & np.isfinite(truths[1]).any(axis=0)
        images = sum(int(np.isfinite(truth[:, shared]).any(axis=1).sum()) for truth in truths)
        return self._written(found, split, "clean", dict.fromkeys(found, images))

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
                better=better[base] if not region or AT in region else self._better_on(region),
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

    def _better_on(self, region: str) -> Better:
        return "higher" if region in self.classes else REGION_BETTER.get(region, "neither")

    def _truth(self, table: pd.DataFrame) -> FloatArray:
        """(N, K): 1 and 0 where the class is the image's or not, NaN where that is not known."""
        if "label" in table:
            return scores.one_hot(_index(table["label"], self.classes), len(self.classes))
        return table[[LABEL + name for name in self.classes]].to_numpy(dtype=np.float64)

    def _probability(self, table: pd.DataFrame) -> FloatArray:
        """(N, K)."""
        return table[[PROBABILITY + name for name in self.classes]].to_numpy(dtype=np.float64)

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
        weights = patient_weights(patients, resamples=self.resamples, seed=INSIDE)
        found = with_interval(score, weights, patients=len(set(patients)), proportions=proportions)
        counts = dict.fromkeys(found, len(table)) | counts
        return self._written(found, split, condition, counts, explainer=explainer, better=better, unit=unit)

    def _written(
        self,
        found: Mapping[str, tuple[float, float, float]],
        split: str,
        condition: str,
        counts: Mapping[str, int],
        *,
        explainer: str = "",
        better: Better = "higher",
        unit: str = "fraction",
    ) -> list[Row]:
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
                n=int(counts[metric]),
                unit=unit,
                better=better,
                provenance=self.provenance,
            )
            for metric, (value, low, high) in found.items()
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
