"""Rows of attacks: what is left at each radius, against one attack, against all together, and who broke what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats import scores
from cxr_eval.stats.cell_rows import BoolArray
from cxr_eval.stats.intervals import FloatArray
from cxr_eval.stats.prediction_rows import PredictionRows
from cxr_eval.types import Row, format_eps

STEPS = (1, 2, 5, 10, 20, 50, 100)
"""Steps after which a curve over steps has a point."""

LINF, ANY = "linf", "any"
"""Norm and goal of tables that name none."""


@dataclass(frozen=True)
class Curve:
    """Which images withstand at each radius: against one attack, or all of one threat together.

    images: one line an image. broken: (N,), the radius at which each is no longer right, inf if never. radii: from 0 on, with
    the condition that rows of this radius have.
    """

    images: pd.DataFrame
    broken: FloatArray
    radii: Mapping[float, str]

    def robust(self, eps: float) -> BoolArray:
        """Which images (N,) withstand this radius and all smaller ones."""
        withstands: BoolArray = self.broken > eps
        return withstands


class AttackRows(PredictionRows):
    """Rows of attacks on one cell.

    Their tables have, beside what those of predictions have: attack, eps, clean_correct, robust, every, and may have `norm`
    (linf or l2), `goal` (any, `hide FINDING`, `invent FINDING`) and `by` (what broke the image: `ATTACK`, `ATTACK STAGE`, or
    empty). A table without norm and goal is of linf and any.
    """

    def attack(self, outcomes: pd.DataFrame, *, split: str) -> list[Row]:
        """Robust accuracy of one attack at radius 0 and at each radius tried, and the same by class as `robust_recall[CLASS]`.

        An image counts as robust if it is right clean and right at this and every smaller radius. Where every image was
        attacked at every radius, also the scores of `predictions` on the attacked images of each radius above 0; there an
        image counts as right if it is right at this radius. Elsewhere these would mix attacked images with others, and under a
        goal, which attacks only images with or without one finding, they would be of images that were chosen by it.
        """
        curve = attack_curve(outcomes)
        images = curve.images
        whole = bool(outcomes["every"].all()) and threat(outcomes)[1] == ANY
        rows: list[Row] = []
        for eps, condition in curve.radii.items():
            robust = curve.robust(eps)
            rows += self._share(images, robust, split, condition)
            for label in self.classes if "label" in images else ():
                of_class = (images["label"] == label).to_numpy()
                rows += self._share(images[of_class], robust[of_class], split, condition, f"robust_recall[{label}]")
            if whole and eps > 0:
                rows += self.predictions(outcomes[outcomes["eps"] == eps], split=split, condition=condition)
        return rows

    def worst_case(self, outcomes: Sequence[pd.DataFrame], *, split: str) -> list[Row]:
        """Robust accuracy against all attacks of one threat together, per image, at every radius that any of them tried.

        A threat is a norm and a goal, and its conditions are `worst:EPS` for linf and any wrong answer, and otherwise
        `worst(l2):EPS`, `worst(hide Mass):EPS` or `worst(l2 hide Mass):EPS`. Every image that any attack was run on counts, and
        for it every attack and radius tried on it. A radius that an attack did not try is judged by its smaller ones. Under a
        goal the number is the share of the images whose finding is neither hidden nor invented.
        """
        return [
            row
            for curve in worst_curves(outcomes)
            for eps, condition in curve.radii.items()
            for row in self._share(curve.images, curve.robust(eps), split, condition)
        ]

    def broken_by(self, outcomes: Sequence[pd.DataFrame], *, split: str) -> list[Row]:
        """Share of images that each attack was the first to break, `broken_by[ATTACK]` or `broken_by[ATTACK STAGE]`.

        By threat and radius above 0, under the conditions of `worst_case`. An image goes to the attack with the smallest
        radius, of several at that radius to the one that stands first in `outcomes`. With robust accuracy and the share of
        images that are wrong without attack these shares add up to 1.
        """
        rows: list[Row] = []
        for tables, curve in zip(_threats(outcomes).values(), worst_curves(outcomes), strict=True):
            names = curve.images["image_id"].to_numpy()
            breaker = np.full(len(names), "", dtype=object)
            labels: list[str] = []
            for table in tables:
                who = _breakers(table)
                labels += _breaker_labels(table)
                at = broken_at(table).reindex(names).to_numpy()
                first = (breaker == "") & (at == curve.broken) & np.isfinite(at) & (at > 0)
                breaker[first] = who.reindex(names).to_numpy(dtype=object)[first]
            for eps, condition in curve.radii.items():
                if eps > 0:
                    fallen = ~curve.robust(eps)
                    holds: dict[str, npt.ArrayLike] = {
                        f"broken_by[{label}]": fallen & (breaker == label) for label in dict.fromkeys(labels)
                    }
                    rows += self._shares(curve.images, holds, split, condition, better="neither")
        return rows

    def convergence(
        self,
        table: pd.DataFrame,
        *,
        first_step: npt.ArrayLike,
        first_restart: npt.ArrayLike,
        clean_correct: npt.ArrayLike,
        steps: int,
        restarts: int,
        split: str,
        condition: str,
    ) -> list[Row]:
        """What is left after so many steps of the first restart, and after so many restarts: `robust_after_steps[20]`.

        table: one line an image attacked, with `image_id` and `patient`. first_step, first_restart: (N,), from 1 on, the step
        of the first restart and the restart at which each image broke, inf if never. clean_correct: (N,), right without attack.
        steps, restarts: how many were made; points beyond them are not shown.
        """
        right = np.asarray(clean_correct, dtype=bool)
        step, restart = np.asarray(first_step, dtype=np.float64), np.asarray(first_restart, dtype=np.float64)
        holds: dict[str, npt.ArrayLike] = {
            f"robust_after_steps[{made}]": right & (step > made) for made in STEPS if made <= steps
        }
        holds |= {f"robust_after_restarts[{made}]": right & (restart > made) for made in range(1, restarts + 1)}
        return self._shares(table, holds, split, condition)

    def mean_robust_precision(self, outcomes: Sequence[pd.DataFrame], *, split: str) -> list[Row]:
        """mARP: mean over attacks and their radii above 0 of the mean average precision on attacked images.

        Condition `attacked`. Only attacks on any answer that attacked every image at every radius count, and of these only
        those that saw all images that any of them saw, so that all means are over the same images; without any there is no
        row. Each radius of each attack weighs the same.
        """
        every = [table for table in outcomes if table["every"].all() and threat(table) == (LINF, ANY)]
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

        known = np.asarray(np.isfinite(truth).any(axis=1), dtype=bool)
        name = "mean_average_robust_precision"
        return self._rows(first, score, split, "attacked", images={name: known}, counts={name: int(known.sum())})


def threat(outcomes: pd.DataFrame) -> tuple[str, str]:
    """Norm and goal of one attack's table."""
    norm, goal = (
        str(outcomes[name].iloc[0]) if name in outcomes and len(outcomes) else absent
        for name, absent in (("norm", LINF), ("goal", ANY))
    )
    return norm, goal


def worst_name(norm: str, goal: str) -> str:
    """What the worst case of a threat is called, without the radius: `worst`, or `worst(l2 hide Mass)`."""
    different = [said for said, usual in ((norm, LINF), (goal, ANY)) if said != usual]
    return f"worst({' '.join(different)})" if different else "worst"


def attack_curve(outcomes: pd.DataFrame) -> Curve:
    """Which images withstand one attack at radius 0 and at each radius tried."""
    name = str(outcomes["attack"].iloc[0])
    images = outcomes.drop_duplicates("image_id")
    broken = np.asarray(broken_at(outcomes).loc[images["image_id"]], dtype=np.float64)
    return Curve(images, broken, _conditions(name, [outcomes]))


def worst_curves(outcomes: Sequence[pd.DataFrame]) -> Iterator[Curve]:
    """Which images withstand all attacks of a threat together, threat by threat in the order of their first attacks."""
    for (norm, goal), tables in _threats(outcomes).items():
        together = pd.concat([broken_at(table) for table in tables], axis=1).min(axis=1)
        first = pd.concat(tables).drop_duplicates("image_id").set_index("image_id").loc[together.index].reset_index()
        yield Curve(first, together.to_numpy(dtype=np.float64), _conditions(worst_name(norm, goal), tables))


def broken_at(outcomes: pd.DataFrame) -> pd.Series[float]:
    """Smallest radius at which each image is no longer right, by image_id: 0 if wrong clean, inf if never broken."""
    broken = outcomes["eps"].where(~outcomes["robust"].astype(bool), np.inf)
    broken = broken.where(outcomes["clean_correct"].astype(bool), 0.0)
    return broken.groupby(outcomes["image_id"].to_numpy(), sort=False).min()


def _threats(outcomes: Sequence[pd.DataFrame]) -> dict[tuple[str, str], list[pd.DataFrame]]:
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for table in outcomes:
        found.setdefault(threat(table), []).append(table)
    return found


def _conditions(name: str, tables: Sequence[pd.DataFrame]) -> dict[float, str]:
    radii = {0.0} | {float(eps) for table in tables for eps in table["eps"].unique()}
    return {eps: f"{name}:{format_eps(eps)}" for eps in sorted(radii)}


def _breakers(outcomes: pd.DataFrame) -> pd.Series[str]:
    """Attack, and stage where it has stages, that broke each image at its smallest radius, by image_id."""
    fallen = outcomes[~outcomes["robust"].astype(bool)].sort_values("eps", kind="stable").drop_duplicates("image_id")
    return pd.Series(_said(fallen), index=fallen["image_id"].to_numpy(), dtype=object)


def _breaker_labels(outcomes: pd.DataFrame) -> list[str]:
    """The attack, or each of its stages; and what came before it, where that broke an image of this table."""
    attack, stages = str(outcomes["attack"].iloc[0]), str(outcomes["stages"].iloc[0]) if "stages" in outcomes else ""
    own = [f"{attack} {stage}" for stage in stages.split("|")] if stages else [attack]
    fallen = outcomes[~outcomes["robust"].astype(bool) & outcomes["clean_correct"].astype(bool)]
    return list(dict.fromkeys([*own, *_said(fallen)]))


def _said(fallen: pd.DataFrame) -> list[str]:
    attacks = fallen["attack"].astype(str)
    return (fallen["by"].where(fallen["by"] != "", attacks) if "by" in fallen else attacks).astype(str).tolist()
