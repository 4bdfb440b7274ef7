"""Rows of what a clinic asks for: decisions at frozen thresholds, calibration, net benefit, and which way errors go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from cxr_eval.stats import flips
from cxr_eval.stats.attack_rows import ANY, threat
from cxr_eval.stats.cases import Cases, shares
from cxr_eval.stats.cell_rows import CellRows, known_truth, probabilities
from cxr_eval.stats.clinical import (
    brier_score,
    calibration_error,
    net_benefit,
    net_benefit_of_all,
    no_finding_class,
    operating_cases,
    operating_scores,
)
from cxr_eval.stats.intervals import Score
from cxr_eval.stats.thresholds import Rule, operating_points
from cxr_eval.types import Better, Row, Task, format_eps


@dataclass(frozen=True)
class Decisions:
    """How probabilities become decisions, the same for all images of a network.

    thresholds: by class, chosen on validation images; NaN for none. no_finding: the class that means nothing was found.
    net_benefit: threshold probabilities at which net benefit is given.
    """

    thresholds: Mapping[str, float]
    no_finding: str | None = None
    net_benefit: tuple[float, ...] = (0.1, 0.3, 0.5)

    @classmethod
    def chosen(
        cls,
        validation: pd.DataFrame,
        classes: Sequence[str],
        *,
        rule: Rule = "youden",
        at_least: float = 0.9,
        no_finding: str | None = None,
        net_benefit: tuple[float, ...] = (0.1, 0.3, 0.5),
    ) -> Decisions:
        """From the table of clean validation images. no_finding: the class as a protocol names it, if it does.

        Raises:
            ValueError: no such rule, or no such class.
        """
        truth, probability = known_truth(validation, classes), probabilities(validation, classes)
        thresholds = operating_points(truth, probability, classes, rule=rule, at_least=at_least)
        return cls(thresholds, no_finding_class(classes, no_finding), net_benefit)


class ClinicalRows(CellRows):
    """Rows of clinical scores of one cell."""

    def operating_points(self, validation: pd.DataFrame, decisions: Decisions, *, split: str) -> list[Row]:
        """The frozen thresholds, `threshold[CLASS]`: numbers to look up, without intervals. validation: what chose them."""
        found = {f"threshold[{name}]": (decisions.thresholds[name], np.nan, np.nan) for name in self.classes}
        known = np.isfinite(self._truth(validation))
        counts = {f"threshold[{name}]": int(known[:, k].sum()) for k, name in enumerate(self.classes)}
        behind = dict.fromkeys(found, validation["patient"].astype(str).nunique())
        return self._written(found, split, "clean", counts, behind, better="neither", unit="1")

    def clinical(
        self, table: pd.DataFrame, decisions: Decisions, *, split: str, condition: str, before: pd.DataFrame | None = None
    ) -> list[Row]:
        """Clinical scores of one prediction an image: clean, corrupted or attacked.

        Sensitivity, specificity and predictive values at the frozen thresholds; calibration; net benefit; and which way
        errors go. before: the clean table of the same split, with these images and perhaps more, where `table` is not it.
        """
        truth, probability, task = self._truth(table), self._probability(table), _task(table)
        counted = operating_cases(truth, probability, self.classes, decisions.thresholds)
        decided = partial(operating_scores, truth, probability, self.classes, decisions.thresholds)
        error = partial(calibration_error, truth, probability, task=task)
        brier = partial(brier_score, truth, probability, task=task)
        at, nothing = decisions.net_benefit, decisions.no_finding
        benefit = partial(net_benefit, truth, probability, self.classes, thresholds=at, no_finding=nothing, task=task)
        of_all = partial(net_benefit_of_all, truth, self.classes, thresholds=at, no_finding=nothing, task=task)
        rows = self._of_cases(table, decided, counted, split, condition)
        rows += self._of_known(table, error, split, condition, better="lower")
        rows += self._of_known(table, brier, split, condition, better="lower", unit="1")
        rows += self._of_known(table, benefit, split, condition, unit="1")
        rows += self._of_known(table, of_all, split, condition, better="neither", unit="1")
        return rows + self.directions(table, decisions, split=split, condition=condition, before=before)

    def clinical_attacked(self, outcomes: pd.DataFrame, clean: pd.DataFrame, decisions: Decisions, *, split: str) -> list[Row]:
        """Clinical scores of one attack at each radius above 0, condition `ATTACK:EPS`.

        outcomes: the attack's table. clean: the clean table of the split. Which way errors go is told for every attack on any
        answer: an image that is not attacked again stands there with the image that broke it. The other scores are told only
        where every image was attacked at every radius; see `AttackRows.attack`. Under a goal there are none, as its images
        are chosen by the finding.
        """
        if threat(outcomes)[1] != ANY:
            return []
        rows: list[Row] = []
        for eps in sorted(float(tried) for tried in outcomes["eps"].unique() if tried > 0):
            at = outcomes[outcomes["eps"] == eps]
            condition = f"{at['attack'].iloc[0]}:{format_eps(eps)}"
            of = self.clinical if at["every"].all() else self.directions
            rows += of(at, decisions, split=split, condition=condition, before=clean)
        return rows

    def directions(
        self, table: pd.DataFrame, decisions: Decisions, *, split: str, condition: str, before: pd.DataFrame | None = None
    ) -> list[Row]:
        """Which way errors go: `missed_disease`, `false_alarm` and so on; see `flips`. before: as in `clinical`.

        Without a class that means nothing was found there are none, unless findings can stand together.
        """
        earlier = None if before is None else before.set_index("image_id").loc[table["image_id"]]
        if _task(table) == "multilabel":
            counted = flips.of_findings(
                self._truth(table),
                self._probability(table),
                self.classes,
                decisions.no_finding,
                None if earlier is None else self._probability(earlier),
            )
        elif decisions.no_finding is None:
            return []
        else:
            counted = flips.of_classes(
                table["label"].tolist(),
                table["predicted"].tolist(),
                decisions.no_finding,
                None if earlier is None else earlier["predicted"].tolist(),
            )
        return self._of_cases(table, partial(shares, counted), counted, split, condition, better="lower")

    def _of_cases(
        self,
        table: pd.DataFrame,
        score: Score,
        counted: Mapping[str, Cases],
        split: str,
        condition: str,
        *,
        better: Better = "higher",
    ) -> list[Row]:
        """Rows of shares of cases, and of means of them; behind a share stand the images in which it could happen."""
        images = {name: np.asarray(one.possible > 0, dtype=bool) for name, one in counted.items()}
        counts = {name: int(of.sum()) for name, of in images.items()}
        return self._rows(table, score, split, condition, better=better, images=images, counts=counts, shares=counted.keys())

    def _of_known(
        self,
        table: pd.DataFrame,
        score: Score,
        split: str,
        condition: str,
        *,
        better: Better = "higher",
        unit: str = "fraction",
    ) -> list[Row]:
        """Rows of scores behind which stand the images with a known label, for one `[FINDING@...]` with one of that finding."""
        known = np.isfinite(self._truth(table))
        images = {}
        for metric in score(np.ones((1, len(table)))):
            name = metric.partition("[")[2].rpartition("@")[0]
            of = known[:, self.classes.index(name)] if name in self.classes else known.any(axis=1)
            images[metric] = np.asarray(of, dtype=bool)
        counts = {metric: int(of.sum()) for metric, of in images.items()}
        return self._rows(table, score, split, condition, better=better, unit=unit, images=images, counts=counts)


def _task(table: pd.DataFrame) -> Task:
    return "multiclass" if "label" in table else "multilabel"
