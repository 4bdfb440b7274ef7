"""All rows and gaps of one cell, from its tables on disk and the manifest: the same when run and when verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd

from cxr_eval.facts import Facts
from cxr_eval.stats import scores
from cxr_eval.stats.attack_rows import Curve, worst_curves
from cxr_eval.stats.clinical_gaps import clinical_gaps
from cxr_eval.stats.clinical_rows import Decisions
from cxr_eval.stats.curve_points import curve_table, network_curves
from cxr_eval.stats.explanation_rows import SIMILARITY_UNITS
from cxr_eval.stats.gaps import Gap, gaps, with_holm
from cxr_eval.stats.intervals import FloatArray
from cxr_eval.stats.rows import Scorer
from cxr_eval.stats.subgroups import parts, values_of
from cxr_eval.tables import CellTables
from cxr_eval.types import Better, Row

GAP_COLUMNS = ("model", "trainer", "seed", "split", "condition", *(field.name for field in fields(Gap)))
"""Columns of gaps.csv."""

WORST = "worst"
"""The threat whose gaps are looked at: any wrong answer within an L-inf ball."""

SIMILARITY_BETTER: dict[str, Better] = dict.fromkeys(SIMILARITY_UNITS, "higher")


@dataclass(frozen=True)
class CellScores:
    """What the tables of one cell say; every number of the cell that a run reports is made here."""

    facts: Facts
    tables: CellTables
    model: str
    trainer: str
    seed: int

    def rows(self) -> list[Row]:
        """All rows, in the order in which rows.csv has them."""
        clean = self.tables.read("clean", split="val")
        found = self.scorer("val").operating_points(clean, self.decisions, split="val")
        for split in self.facts.splits:
            found += [*self._predictions(split), *self._subgroups(split), *self._attacks(split), *self._anatomy(split)]
        return [*found, *self._explanations()]

    def gaps(self) -> pd.DataFrame:
        """Gaps between the subgroups of each split, columns as in `GAP_COLUMNS`."""
        lines = [
            (self.model, self.trainer, self.seed, split, condition, *asdict(gap).values())
            for split in self.facts.splits
            for condition, gap in self._gaps(split)
        ]
        return pd.DataFrame(lines, columns=list(GAP_COLUMNS))

    def curves(self, *, networks: int) -> pd.DataFrame:
        """Points of the curves of each split, columns as in `CURVE_COLUMNS`. networks: cells times splits of the run."""
        return curve_table([self._curves(split, networks) for split in self.facts.splits])

    def scorer(self, split: str) -> Scorer:
        """Makes rows of one split."""
        drawn, said = self.facts.evaluate.resampling, self.facts.provenance(split)
        return Scorer(self.model, self.trainer, self.seed, self.facts.classes, drawn, said)

    @cached_property
    def decisions(self) -> Decisions:
        """How probabilities become decisions: thresholds from clean validation images."""
        settings = self.facts.evaluate
        return Decisions.chosen(
            self.tables.read("clean", split="val"),
            self.facts.classes,
            rule=settings.operating_point.rule,
            at_least=settings.operating_point.at_least,
            no_finding=settings.no_finding,
            net_benefit=settings.net_benefit,
        )

    def attacked(self, split: str) -> list[pd.DataFrame]:
        """The outcomes of every attack on a split, without attacks that no image was meant for."""
        there = self.tables.conditions("attack", split)
        tables = [self.tables.read("attack", split=split, condition=label) for label in there]
        return [table for table in tables if len(table)]

    def _predictions(self, split: str) -> Iterator[Row]:
        """Clean and corrupted images, and the change from the test set to an outside one."""
        here, clean = self.scorer(split), self.tables.read("clean", split=split)
        yield from here.predictions(clean, split=split, condition="clean")
        yield from here.clinical(clean, self.decisions, split=split, condition="clean")
        yield from here.confusion(clean, split=split, condition="clean")
        if split != "test":
            yield from here.change(self.tables.read("clean", split="test"), clean, split=split)
        for condition in self.tables.conditions("corrupted", split):
            table = self.tables.read("corrupted", split=split, condition=condition)
            yield from here.predictions(table, split=split, condition=condition)
            yield from here.similarity(table, split=split, condition=condition)
            yield from here.clinical(table, self.decisions, split=split, condition=condition, before=clean)

    def _attacks(self, split: str) -> Iterator[Row]:
        """Every attack, the worst case of each threat, and the search of the checks."""
        here, tables = self.scorer(split), self.attacked(split)
        for table in tables:
            yield from here.attack(table, split=split)
            yield from here.clinical_attacked(table, self.tables.read("clean", split=split), self.decisions, split=split)
        if not tables:
            return
        yield from here.worst_case(tables, split=split)
        yield from here.broken_by(tables, split=split)
        # images of another network: not all trainers have them, and a mean over other attacks is another number
        own = [table for table in tables if str(table["attack"].iloc[0]) not in self.facts.borrowed]
        yield from here.mean_robust_precision(own, split=split)
        settings = self.facts.evaluate.validity
        if settings is None:
            return
        for condition in self.tables.conditions("searched", split):
            searched = self.tables.read("searched", split=split, condition=condition)
            yield from here.convergence(
                searched,
                first_step=searched["first_step"],
                first_restart=searched["first_restart"],
                clean_correct=searched["clean_correct"],
                steps=settings.steps,
                restarts=settings.restarts,
                split=split,
                condition=condition,
            )

    def _anatomy(self, split: str) -> Iterator[Row]:
        """What is read inside and outside of each kind of region."""
        settings = self.facts.evaluate.anatomy
        if settings is None:
            return
        eps = self.facts.radius if settings.eps is None else settings.eps
        for kind in self.tables.conditions("anatomy", split):
            attacks = pd.DataFrame()
            if self.tables.has("anatomy attacks", split=split, condition=kind):
                attacks = self.tables.read("anatomy attacks", split=split, condition=kind)
            predictions = self.tables.read("anatomy", split=split, condition=kind)
            yield from self.scorer(split).anatomy(kind, predictions, attacks, split=split, eps=eps)

    def _explanations(self) -> Iterator[Row]:
        """What metrics say of the maps of explainers and references, and what a map without meaning scores."""
        split = self.facts.explained
        if split is None:
            return
        here, family, chance = self.scorer(split), self.facts.of_metrics("family"), self.facts.of_metrics("chance")
        places = [
            name
            for name in self.tables.labels("explanations", split)
            if family[name] == "localisation" and chance[name] == "share"
        ]
        better, units = self.facts.of_metrics("better"), self.facts.of_metrics("unit")
        for condition in self.facts.manifest["conditions"]:
            shares = self.tables.read("region shares", split=split)
            yield from here.chance(shares, places, split=split, condition=condition)
            for explainer in self.tables.explainers("explanations", split, condition):
                at = {"split": split, "condition": condition}
                values = self.tables.read("explanations", **at, explainer=explainer)
                yield from here.explanations(values, **at, better=better, units=units)
                if self.tables.has("similarity", **at, explainer=explainer):
                    alike = self.tables.read("similarity", **at, explainer=explainer)
                    yield from here.explanations(alike, **at, better=SIMILARITY_BETTER, units=SIMILARITY_UNITS)

    def _subgroups(self, split: str) -> Iterator[Row]:
        """Scores of each subgroup, on clean images and in the worst case."""
        here, clean, groups = self.scorer(split), self.tables.read("clean", split=split), self._groups(split)
        outcomes = self.attacked(split)
        for column in map(str, groups):
            for name, part in parts(clean, groups, column):
                scorer = replace(here, subgroup=name)
                yield from scorer.predictions(part, split=split, condition="clean")
                yield from scorer.clinical(part, self.decisions, split=split, condition="clean")
                of_part = [table[table["image_id"].isin(part["image_id"])] for table in outcomes]
                yield from scorer.worst_case([table for table in of_part if len(table)], split=split)

    def _gaps(self, split: str) -> Iterator[tuple[str, Gap]]:
        clean, groups, drawn = self.tables.read("clean", split=split), self._groups(split), self.facts.evaluate.resampling
        for gap in clinical_gaps(clean, groups, self.facts.classes, self.decisions, drawn):
            yield "clean", gap
        for curve in worst_curves(self.attacked(split)):
            for eps, condition in _telling(curve):
                for gap in _robust_gaps(curve, eps, groups, self.scorer(split)):
                    yield condition, gap

    def _curves(self, split: str, networks: int) -> pd.DataFrame:
        # images of another network: not all trainers have them
        own = [table for table in self.attacked(split) if str(table["attack"].iloc[0]) not in self.facts.borrowed]
        return network_curves(
            self.tables.read("clean", split=split),
            own,
            self.facts.classes,
            self.facts.evaluate.resampling,
            networks=networks,
            model=self.model,
            trainer=self.trainer,
            seed=self.seed,
            split=split,
        )

    def _groups(self, split: str) -> pd.DataFrame:
        return self.tables.read("subgroups", split=split).set_index("image_id")


def curves_of(cells: Sequence[CellScores], facts: Facts) -> pd.DataFrame:
    """Points of the curves of all cells of a run, which share the lines that one file may have."""
    networks = len(cells) * len(facts.splits)
    return curve_table([cell.curves(networks=networks) for cell in cells])


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
