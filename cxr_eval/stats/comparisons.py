"""Comparisons of the trainers of a run: predictions, robustness and explanations, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from cxr_eval.stats.attack_rows import ANY, attack_curve, threat, worst_curves
from cxr_eval.stats.explanation_rows import better_of
from cxr_eval.stats.intervals import Resampling
from cxr_eval.stats.paired import Measure, compare, holm, of_decisions, of_means, of_rankings
from cxr_eval.types import Better

Cells = Mapping[tuple[str, int], pd.DataFrame]
"""Per-image tables of one model, split and condition, by trainer and seed."""

Pairs = Sequence[tuple[str, str]]
"""Trainer, and the trainer that it is compared with."""

Images = Literal["clean", "attacked", "worst"]
"""Images without attack, those of one attack at one radius, and of several attacks together the worst for each."""

COMPARED: Mapping[Images, tuple[str, ...]] = {
    "clean": ("accuracy", "balanced_accuracy", "auroc", "mean_average_precision"),
    "attacked": ("robust_accuracy", "auroc"),
    "worst": ("robust_accuracy",),
}
"""Scores of predictions in which trainers are compared, as far as they exist: findings have no accuracy.

In the worst case there is none but robust accuracy: each image may have fallen to another attack, and probabilities under
different attacks are not one ranking.
"""

ATTACKED_SWAPS = 5
"""Swaps for each resample of AUROC under attack, whose family is as large as there are attacks, radii and pairs."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One difference of a run: `value` is `trainer` minus `against`, the mean over the seeds that both have.

    `low` and `high` bound its interval, `seeds_low` and `seeds_high` are the smallest and largest difference of a seed, `p` is
    the two-sided p-value of the swap test and `p_holm` the same after Holm's correction for a family of so many comparisons.
    `note` says why a number is withheld.
    """

    model: str
    trainer: str
    against: str
    split: str
    condition: str
    explainer: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    n: int
    patients: int
    seeds_low: float
    seeds_high: float
    unit: str
    better: Better
    note: str = ""
    p_holm: float = float("nan")
    family: int = 0


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons in the same order, with `p_holm` and `family`.

    A family is all comparisons of one metric on one split: all models, pairs, conditions, explainers and regions. Of
    predictions, clean images, those of all attacks and radii, and the worst cases are families apart: AUROC under attack does
    not make that of clean images dearer, and robust accuracy in the worst case follows from that against each attack.
    """
    families: dict[tuple[str, str, str], list[int]] = {}
    for place, one in enumerate(comparisons):
        images = "" if one.explainer else _images(one.condition)
        families.setdefault((one.split, one.metric.partition("[")[0], images), []).append(place)
    found = list(comparisons)
    for places in families.values():
        p = [comparisons[place].p for place in places]
        size = int(np.isfinite(p).sum())
        for place, adjusted in zip(places, holm(p), strict=True):
            found[place] = replace(comparisons[place], p_holm=adjusted, family=size)
    return found


def differences(
    tables: Cells,
    pairs: Pairs,
    measures: Sequence[Measure],
    resampling: Resampling,
    *,
    model: str,
    split: str,
    condition: str,
    explainer: str = "",
) -> list[Comparison]:
    """Comparisons of pairs of trainers of one model, split and condition, over the seeds that both have.

    A pair without a common seed, as where all cells of a trainer failed, has none. Where fewer patients than
    `resampling.min_patients` were seen by both, the numbers are withheld.

    Raises:
        ValueError: a trainer is compared with itself.
    """
    found = []
    for trainer, against in pairs:
        if trainer == against:
            raise ValueError(f"pairs: expected two trainers, got {trainer} twice")
        seeds = sorted({seed for name, seed in tables if name == trainer} & {seed for name, seed in tables if name == against})
        if not seeds:
            continue
        ours, theirs = ([tables[name, seed] for seed in seeds] for name in (trainer, against))
        for measure in measures:
            for metric, one in compare(ours, theirs, measure, resampling).items():
                note = resampling.withheld(one.patients)
                numbers = (one.value, one.low, one.high, one.p, min(one.by_seed), max(one.by_seed))
                value, low, high, p, seeds_low, seeds_high = (float("nan") if note else number for number in numbers)
                found.append(
                    Comparison(
                        model=model,
                        trainer=trainer,
                        against=against,
                        split=split,
                        condition=condition,
                        explainer=explainer,
                        metric=metric,
                        value=value,
                        low=low,
                        high=high,
                        p=p,
                        n=one.n,
                        patients=one.patients,
                        seeds_low=seeds_low,
                        seeds_high=seeds_high,
                        unit=measure.unit,
                        better=measure.better,
                        note=note,
                    )
                )
    return found


def prediction_differences(
    tables: Cells,
    pairs: Pairs,
    resampling: Resampling,
    *,
    model: str,
    split: str,
    condition: str,
    classes: Sequence[str],
) -> list[Comparison]:
    """Comparisons of predictions of clean images, in the scores of `COMPARED`."""
    decided = all("label" in table for table in tables.values())
    measures = [of_decisions(classes, COMPARED["clean"])] if decided else []
    return differences(
        tables,
        pairs,
        [*measures, of_rankings(classes, COMPARED["clean"])],
        resampling,
        model=model,
        split=split,
        condition=condition,
    )


def robust_differences(
    outcomes: Mapping[tuple[str, int], Sequence[pd.DataFrame]],
    pairs: Pairs,
    resampling: Resampling,
    *,
    model: str,
    split: str,
    classes: Sequence[str],
) -> list[Comparison]:
    """Comparisons against each attack at each radius above 0, and in the worst case of each threat.

    outcomes: the tables of all attacks on one split, by trainer and seed. At radius 0 robust accuracy is clean accuracy. AUROC
    is compared where it has a row: an attack on any answer attacked every image at every radius.
    """
    robust: dict[str, dict[tuple[str, int], pd.DataFrame]] = {}
    ranked: dict[str, dict[tuple[str, int], pd.DataFrame]] = {}
    for cell, tables in outcomes.items():
        curves = [attack_curve(table) for table in tables]
        for curve in [*curves, *worst_curves(tables)]:
            for eps, condition in curve.radii.items():
                if eps > 0:
                    robust.setdefault(condition, {})[cell] = curve.images.assign(robust=curve.robust(eps))
        for table, curve in zip(tables, curves, strict=True):
            if table["every"].all() and threat(table)[1] == ANY:
                for eps, condition in curve.radii.items():
                    if eps > 0:
                        ranked.setdefault(condition, {})[cell] = table[table["eps"] == eps]
    withstood = of_means("robust_accuracy", column="robust")
    ranking = of_rankings(classes, COMPARED["attacked"], swaps=ATTACKED_SWAPS)
    return [
        one
        for by_condition, measure in ((robust, withstood), (ranked, ranking))
        for condition, cells in by_condition.items()
        for one in differences(cells, pairs, [measure], resampling, model=model, split=split, condition=condition)
        if one.metric in COMPARED[_images(condition)]
    ]


def explanation_differences(
    tables: Cells,
    pairs: Pairs,
    resampling: Resampling,
    *,
    model: str,
    split: str,
    condition: str,
    classes: Sequence[str],
    better: Mapping[str, Better],
    units: Mapping[str, str],
    chosen: Mapping[str, Sequence[str]],
) -> list[Comparison]:
    """Comparisons of explanation metrics, over the images for which both trainers have a value.

    tables: image_id, patient, explainer, metric, value. better, units: by metric name without the region in brackets. chosen:
    likewise, how what stands in brackets begins where a metric gives settings that it chose, as tuned thresholds are; these
    are no scores, and are not compared.
    """
    groups: dict[tuple[str, str], dict[tuple[str, int], pd.DataFrame]] = {}
    for cell, table in tables.items():
        for (explainer, metric), part in table.groupby(["explainer", "metric"], sort=False):
            base, _, inside = str(metric).partition("[")
            if inside.startswith(tuple(chosen[base])):
                continue
            defined = part[np.isfinite(part["value"].to_numpy(dtype=np.float64))]
            groups.setdefault((str(explainer), str(metric)), {})[cell] = defined
    here = partial(differences, pairs=pairs, resampling=resampling, model=model, split=split, condition=condition)
    return [
        one
        for (explainer, metric), cells in groups.items()
        for measure in [of_means(metric, better=better_of(metric, classes, better), unit=units[metric.partition("[")[0]])]
        for one in here(cells, measures=[measure], explainer=explainer)
    ]


def _images(condition: str) -> Images:
    """Which images a condition of predictions is of."""
    if condition == "clean":
        return "clean"
    return "worst" if condition.startswith(("worst:", "worst(")) else "attacked"
