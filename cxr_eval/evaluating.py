"""Everything that is measured of one cell: rows, the doubts about them, and the checks behind these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd

from cxr_eval.anatomy import audit_region, audited_kinds
from cxr_eval.attacking import outcomes
from cxr_eval.attacks.doubts import doubts
from cxr_eval.attacks.validity import Check, as_warnings
from cxr_eval.cells import CellWork
from cxr_eval.data.datasets import Datasets
from cxr_eval.explanation_doubts import JUDGED, beaten
from cxr_eval.explanations import SIMILARITY_BETTER, SIMILARITY_UNITS, Explanations, Mapper
from cxr_eval.gate import check_lines, gate, radius
from cxr_eval.plan import Plan
from cxr_eval.planned import PlannedPlugin
from cxr_eval.provenance import provenance
from cxr_eval.registry import SINGULAR
from cxr_eval.run_doubts import idle, partial_attacks, silent, unchanged
from cxr_eval.self_tests import SelfTest
from cxr_eval.stats.anatomy_rows import anatomy_doubts
from cxr_eval.stats.attack_rows import worst_name
from cxr_eval.stats.clinical_rows import Decisions
from cxr_eval.stats.rows import Scorer
from cxr_eval.subgrouping import subgroup_rows
from cxr_eval.types import Row, RowWarning


@dataclass
class Measured:
    """What was measured of one cell. checks, gaps: lines of checks.csv and gaps.csv."""

    rows: list[Row] = field(default_factory=list)
    warnings: list[RowWarning] = field(default_factory=list)
    checks: list[pd.DataFrame] = field(default_factory=list)
    gaps: list[pd.DataFrame] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one trained cell, part by part; what was computed before is read."""

    work: CellWork
    datasets: Datasets
    measured: Measured = field(default_factory=Measured)

    @property
    def planned(self) -> Plan:
        """What the run is to do."""
        return self.work.plan

    def whole(self) -> Measured:
        """All parts."""
        self.measured.rows += self.scorer("val").operating_points(self.work.clean("val"), self.decisions, split="val")
        for split in ("test", *self.planned.outside):
            self.predictions(split)
            self.attacks(split)
            self.anatomy(split)
        if self.planned.protocol.explain is not None:
            self.explanations()
        return self.measured

    def scorer(self, split: str) -> Scorer:
        """Makes rows of one split."""
        cell = self.work.cell
        drawn = self.planned.protocol.evaluate.resampling
        said = provenance(self.datasets, split)
        return Scorer(cell.model.label, cell.trainer.label, cell.seed, self.datasets.classes, drawn, said)

    @cached_property
    def decisions(self) -> Decisions:
        """How probabilities become decisions: thresholds from clean validation images."""
        settings = self.planned.protocol.evaluate
        return Decisions.chosen(
            self.work.clean("val"),
            self.datasets.classes,
            rule=settings.operating_point.rule,
            at_least=settings.operating_point.at_least,
            no_finding=settings.no_finding,
            net_benefit=settings.net_benefit,
        )

    def predictions(self, split: str) -> None:
        """Clean and corrupted images, and the change from the test set to an outside one."""
        here, clean, found = self.scorer(split), self.work.clean(split), self.measured
        found.warnings += idle(clean, f"{self.work.name}, {split}")
        found.rows += here.predictions(clean, split=split, condition="clean")
        found.rows += here.clinical(clean, self.decisions, split=split, condition="clean")
        found.rows += here.confusion(clean, split=split, condition="clean")
        if split != "test":
            found.rows += here.change(self.work.clean("test"), clean, split=split)
        for corruption in _on(self.planned.corruptions, split):
            for severity in corruption.settings["severity"]:
                table, condition = self.work.corrupted(corruption, split, severity), f"{corruption.label}:{severity}"
                found.rows += here.predictions(table, split=split, condition=condition)
                found.rows += here.similarity(table, split=split, condition=condition)
                found.warnings += unchanged(table, f"{self.work.name}, {split}, {condition}")
                found.rows += here.clinical(table, self.decisions, split=split, condition=condition, before=clean)

    def attacks(self, split: str) -> None:
        """Every attack, the worst case of each threat, whether they may be believed, and subgroups clean and attacked."""
        here, found, scope = self.scorer(split), self.measured, f"{self.work.name}, {split}"
        tables = outcomes(self.work, _on(self.planned.attacks, split), split)
        rows, gaps = subgroup_rows(self.work, here, self.decisions, tables, split=split)
        found.rows += rows
        found.gaps.append(gaps)
        found.warnings += self._without_images(tables, split)
        for table in tables:
            found.rows += here.attack(table, split=split)
            found.rows += here.clinical_attacked(table, self.work.clean(split), self.decisions, split=split)
        if not tables:
            return
        found.rows += here.worst_case(tables, split=split)
        found.rows += here.broken_by(tables, split=split)
        needs = self.planned.attack_needs
        # images of another network: not all trainers have them, and a mean over other attacks is another number
        own = [table for table in tables if needs[_label(table)].trainer is None]
        found.rows += here.mean_robust_precision(own, split=split)
        for norm, goal in dict.fromkeys((table["norm"].iloc[0], table["goal"].iloc[0]) for table in tables):
            alike = [table for table in tables if (table["norm"].iloc[0], table["goal"].iloc[0]) == (norm, goal)]
            found.warnings += partial_attacks(alike, scope)
        dependent = [label for label, each in needs.items() if each.trainer or each.after]
        for (norm, goal), threat in pd.concat(tables, ignore_index=True).groupby(["norm", "goal"], sort=False):
            worst = worst_name(str(norm), str(goal))
            for doubt in doubts(threat, dependent=dependent):
                found.warnings.append(replace(doubt, scope=f"{scope}, {re.sub('^worst:', f'{worst}:', doubt.scope)}"))
        checked = gate(self.work, split)
        if checked is None:
            return
        found.checks.append(check_lines(self.work, split, "validity", checked.checks))
        found.warnings += as_warnings(checked.checks, f"{scope}, robust_accuracy")
        settings = self.planned.protocol.evaluate.validity
        assert settings is not None
        found.rows += here.convergence(
            checked.searched,
            first_step=checked.searched["first_step"],
            first_restart=checked.searched["first_restart"],
            clean_correct=checked.searched["clean_correct"],
            steps=settings.steps,
            restarts=settings.restarts,
            split=split,
            condition=checked.condition,
        )

    def _without_images(self, tables: Sequence[pd.DataFrame], split: str) -> list[RowWarning]:
        """Notes for attacks that no image was meant for."""
        there = {_label(table) for table in tables}
        return [
            RowWarning(
                "partial_attack",
                "note",
                f"{self.work.name}, {split}, {attack.label}",
                f"{attack.label} attacked no image of '{split}': none is what its goal '{attack.settings['goal']}' is about.",
            )
            for attack in _on(self.planned.attacks, split)
            if attack.label not in there and self.planned.attack_needs[attack.label].trainer is None
        ]

    def anatomy(self, split: str) -> None:
        """What is read inside and outside of each kind of region."""
        settings = self.planned.protocol.evaluate.anatomy
        if settings is None:
            return
        here, images = self.scorer(split), self.datasets.splits[split]
        eps = radius(self.planned) if settings.eps is None else settings.eps
        for kind in audited_kinds(images, settings):
            audited = audit_region(self.work, split, kind, eps)
            rows = here.anatomy(kind, audited.predictions, audited.attacks, split=split, eps=eps)
            self.measured.rows += rows
            classes = 0 if self.datasets.task == "multilabel" else len(self.datasets.classes)
            self.measured.warnings += anatomy_doubts(rows, kind, scope=f"{self.work.name}, {split}", classes=classes)

    def explanations(self) -> None:
        """Maps of every explainer and of the references, and what metrics say of them."""
        explanations, found = Explanations(self.work), self.measured
        split = explanations.settings.split
        here, scope = self.scorer(split), f"{self.work.name}, {split}"
        found.checks.append(_self_tests(self.work, split, explanations.tried))
        found.warnings += [
            RowWarning("self_test_failed", "fail", f"{scope}, {test.label}", f"Not used: {test.sentence}")
            for test in explanations.tried
            if test.verdict == "FAIL"
        ]
        better = {metric.label: metric.cls.better for metric in explanations.metrics}
        units = {metric.label: metric.cls.unit for metric in explanations.metrics}
        places = [
            metric.label
            for metric in explanations.metrics
            if metric.cls.family == "localisation" and metric.cls.chance == "share"
        ]
        judged = {metric.label for metric in explanations.metrics if metric.cls.family in JUDGED}
        for condition in self.planned.conditions:
            clean = condition.attack is None and condition.corruption is None
            label = condition.label
            found.rows += here.chance(explanations.region_shares(), places, split=split, condition=label)
            tables, rows = [], []
            mappers: tuple[Mapper, ...] = (*explanations.explainers, *(explanations.references if clean else ()))
            for mapper in mappers:
                explanations.maps(mapper, condition)
                tables.append(explanations.values(mapper, condition))
                rows += here.explanations(tables[-1], split=split, condition=label, better=better, units=units)
                if mapper in explanations.explainers and len(self.planned.conditions) > 1:
                    alike = explanations.similarities(mapper, condition)
                    rows += here.explanations(
                        alike, split=split, condition=label, better=SIMILARITY_BETTER, units=SIMILARITY_UNITS
                    )
            found.rows += rows
            found.warnings += silent(explanations.metrics, rows, f"{scope}, {label}")
            if clean and tables:
                found.warnings += beaten(
                    pd.concat(tables, ignore_index=True),
                    explainers=[explainer.label for explainer in explanations.explainers],
                    better={row.metric: row.better for row in rows if row.metric.partition("[")[0] in judged},
                    scope=f"{scope}, clean",
                    resampling=self.planned.protocol.evaluate.resampling,
                )


def _self_tests(work: CellWork, split: str, tests: Iterable[SelfTest]) -> pd.DataFrame:
    """Self-tests as lines of checks.csv."""
    checks = [
        Check(test.check, f"{SINGULAR[test.plugin]} {test.label}", test.verdict, test.numbers, test.sentence)  # type: ignore[index]
        for test in tests
    ]
    return check_lines(work, split, "self_test", checks)


def _on(plugins: Iterable[PlannedPlugin], split: str) -> list[PlannedPlugin]:
    return [plugin for plugin in plugins if split in plugin.settings["splits"]]


def _label(outcomes: pd.DataFrame) -> str:
    """Which attack a table is of."""
    return str(outcomes["attack"].iloc[0])
