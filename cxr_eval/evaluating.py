"""Everything that is measured of one cell: tables from its network, the rows that they make, and the doubts about these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from cxr_eval.anatomy import audit_region, audited_kinds
from cxr_eval.attacking import outcomes
from cxr_eval.attacks.doubts import doubts
from cxr_eval.attacks.validity import Check, as_warnings
from cxr_eval.cells import CellWork
from cxr_eval.explanation_doubts import JUDGED, beaten
from cxr_eval.explanations import Explanations, Mapper
from cxr_eval.facts import Facts
from cxr_eval.gate import CHECK_COLUMNS, check_lines, gate
from cxr_eval.plan import Plan
from cxr_eval.planned import PlannedPlugin
from cxr_eval.registry import SINGULAR
from cxr_eval.run_doubts import idle, partial_attacks, silent, unchanged
from cxr_eval.scoring import CellScores
from cxr_eval.self_tests import SelfTest
from cxr_eval.stats.anatomy_rows import anatomy_doubts
from cxr_eval.stats.attack_rows import worst_name
from cxr_eval.types import Row, RowWarning


@dataclass(frozen=True)
class Measured:
    """What was measured of one cell. checks, gaps: lines of checks.csv and gaps.csv."""

    rows: tuple[Row, ...]
    warnings: tuple[RowWarning, ...]
    checks: pd.DataFrame
    gaps: pd.DataFrame


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one trained cell; what was computed before is read."""

    work: CellWork
    facts: Facts

    @property
    def planned(self) -> Plan:
        """What the run is to do."""
        return self.work.plan

    @property
    def splits(self) -> tuple[str, ...]:
        """The test split and the outside test sets."""
        return ("test", *self.planned.outside)

    @cached_property
    def explanations(self) -> Explanations:
        """The explanations of this cell."""
        return Explanations(self.work)

    def whole(self) -> Measured:
        """Tables of everything, and what they say."""
        self.work.clean("val")
        checks = [lines for split in self.splits for lines in self._compute(split)]
        if self.planned.protocol.explain is not None:
            self._explain()
            checks.append(_self_tests(self.work, self.explanations.images[0].name, self.explanations.tried))
        scores = scores_of(self.work, self.facts)
        rows = scores.rows()
        warnings = [doubt for split in self.splits for doubt in self._doubts(split, scores.attacked(split), rows)]
        if self.planned.protocol.explain is not None:
            warnings += self._explanation_doubts(rows)
        lines = pd.concat(checks) if checks else pd.DataFrame(columns=list(CHECK_COLUMNS))
        return Measured(tuple(rows), tuple(warnings), lines, scores.gaps())

    def _compute(self, split: str) -> Iterator[pd.DataFrame]:
        """Every table of one split, and lines of the checks of its attacks."""
        self.work.clean(split)
        self.work.subgroups(split)
        for corruption in _on(self.planned.corruptions, split):
            for severity in corruption.settings["severity"]:
                self.work.corrupted(corruption, split, severity)
        attacked = outcomes(self.work, _on(self.planned.attacks, split), split)
        checked = gate(self.work, split) if attacked else None
        if checked is not None:
            yield check_lines(self.work, split, "validity", checked.checks)
        settings = self.planned.protocol.evaluate.anatomy
        if settings is not None:
            eps = self.facts.radius if settings.eps is None else settings.eps
            for kind in audited_kinds(self.work.datasets.splits[split], settings):
                audit_region(self.work, split, kind, eps)

    def _explain(self) -> None:
        """Maps of every explainer and of the references, and what metrics say of them."""
        self.explanations.region_shares()
        for condition in self.planned.conditions:
            clean = condition.attack is None and condition.corruption is None
            mappers: tuple[Mapper, ...] = (
                *self.explanations.explainers,
                *(self.explanations.references if clean else ()),
            )
            for mapper in mappers:
                self.explanations.maps(mapper, condition)
                self.explanations.values(mapper, condition)
                if mapper in self.explanations.explainers and len(self.planned.conditions) > 1:
                    self.explanations.similarities(mapper, condition)

    def _doubts(self, split: str, attacked: Sequence[pd.DataFrame], rows: Sequence[Row]) -> Iterator[RowWarning]:
        """About predictions, attacks and what is read where, on one split. attacked: outcomes of its attacks."""
        scope, tables = f"{self.work.name}, {split}", self.work.tables
        yield from idle(tables.read("clean", split=split), scope)
        for condition in tables.conditions("corrupted", split):
            yield from unchanged(tables.read("corrupted", split=split, condition=condition), f"{scope}, {condition}")
        yield from self._attack_doubts(split, attacked, scope)
        classes = 0 if self.facts.task == "multilabel" else len(self.facts.classes)
        for kind in tables.conditions("anatomy", split):
            conditions = set(tables.read("anatomy", split=split, condition=kind)["condition"])
            read = [row for row in rows if row.split == split and row.condition in conditions]
            yield from anatomy_doubts(read, kind, scope=scope, classes=classes)

    def _attack_doubts(self, split: str, attacked: Sequence[pd.DataFrame], scope: str) -> Iterator[RowWarning]:
        needs = self.planned.attack_needs
        there = {str(table["attack"].iloc[0]) for table in attacked}
        for attack in _on(self.planned.attacks, split):
            if attack.label not in there and needs[attack.label].trainer is None:
                goal = attack.settings["goal"]
                told = f"{attack.label} attacked no image of '{split}': none is what its goal '{goal}' is about."
                yield RowWarning("partial_attack", "note", f"{scope}, {attack.label}", told)
        if not attacked:
            return
        for norm, goal in dict.fromkeys((table["norm"].iloc[0], table["goal"].iloc[0]) for table in attacked):
            alike = [table for table in attacked if (table["norm"].iloc[0], table["goal"].iloc[0]) == (norm, goal)]
            yield from partial_attacks(alike, scope)
        dependent = [label for label, each in needs.items() if each.trainer or each.after]
        for (norm, goal), threat in pd.concat(attacked, ignore_index=True).groupby(["norm", "goal"], sort=False):
            worst = worst_name(str(norm), str(goal))
            for doubt in doubts(threat, dependent=dependent):
                yield replace(doubt, scope=f"{scope}, {re.sub('^worst:', f'{worst}:', doubt.scope)}")
        checked = gate(self.work, split)
        if checked is not None:
            yield from as_warnings(checked.checks, f"{scope}, robust_accuracy")

    def _explanation_doubts(self, rows: Sequence[Row]) -> Iterator[RowWarning]:
        """About explainers and metrics that fail their self-tests, that say nothing, or that a reference beats."""
        explanations, tables = self.explanations, self.work.tables
        split = explanations.settings.split
        scope = f"{self.work.name}, {split}"
        for test in explanations.tried:
            if test.verdict == "FAIL":
                yield RowWarning("self_test_failed", "fail", f"{scope}, {test.label}", f"Not used: {test.sentence}")
        judged = {metric.label for metric in explanations.metrics if metric.cls.family in JUDGED}
        for condition in self.planned.conditions:
            measured = [
                row
                for row in rows
                if (row.split, row.condition, row.subgroup) == (split, condition.label, "")
                and row.explainer in tables.explainers("explanations", split, condition.label)
            ]
            yield from silent(explanations.metrics, measured, f"{scope}, {condition.label}")
            if condition.attack is not None or condition.corruption is not None:
                continue
            mappers = tables.explainers("explanations", split, condition.label)
            values = [
                tables.read("explanations", split=split, condition=condition.label, explainer=mapper) for mapper in mappers
            ]
            if values:
                yield from beaten(
                    pd.concat(values, ignore_index=True),
                    explainers=[explainer.label for explainer in explanations.explainers],
                    better={row.metric: row.better for row in measured if row.metric.partition("[")[0] in judged},
                    scope=f"{scope}, clean",
                    resampling=self.planned.protocol.evaluate.resampling,
                )


def scores_of(work: CellWork, facts: Facts) -> CellScores:
    """What the tables of a cell say."""
    cell = work.cell
    return CellScores(facts, work.tables, cell.model.label, cell.trainer.label, cell.seed)


def _self_tests(work: CellWork, split: str, tests: Iterable[SelfTest]) -> pd.DataFrame:
    """Self-tests as lines of checks.csv."""
    checks = [
        Check(test.check, f"{SINGULAR[test.plugin]} {test.label}", test.verdict, test.numbers, test.sentence)  # type: ignore[index]
        for test in tests
    ]
    return check_lines(work, split, "self_test", checks)


def _on(plugins: Iterable[PlannedPlugin], split: str) -> list[PlannedPlugin]:
    return [plugin for plugin in plugins if split in plugin.settings["splits"]]
