"""Trainers of a run compared on the same images: differences with intervals and p-values, over all that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

import pandas as pd

from cxr_eval.attacking import outcomes
from cxr_eval.cells import CellWork
from cxr_eval.explanations import Explanations
from cxr_eval.plan import Plan
from cxr_eval.stats.comparisons import (
    Comparison,
    Pairs,
    explanation_differences,
    prediction_differences,
    robust_differences,
    with_holm,
)


def pairs(planned: Plan) -> list[tuple[str, str]]:
    """Each trainer with each that it is compared with: those that `evaluate.against` names, or the first; each pair once."""
    labels = [trainer.label for trainer in planned.trainers]
    named = planned.protocol.evaluate.against or labels[:1]
    against = labels if "all" in named else list(dict.fromkeys(named))
    found: list[tuple[str, str]] = []
    for other in against:
        found += [(label, other) for label in labels if label != other and (other, label) not in found]
    return found


def compare_trainers(planned: Plan, works: Sequence[CellWork]) -> pd.DataFrame:
    """All comparisons of trainers, one a line, columns as in `Comparison`. works: the cells that were trained."""
    compared = pairs(planned)
    found = [one for model in planned.models for one in _of_model(planned, model.label, works, compared)] if compared else []
    return pd.DataFrame([asdict(one) for one in with_holm(found)], columns=[field.name for field in fields(Comparison)])


def _of_model(planned: Plan, model: str, works: Sequence[CellWork], compared: Pairs) -> Iterator[Comparison]:
    settings = planned.protocol.evaluate
    drawn = settings.resampling
    ours = {(work.cell.trainer.label, work.cell.seed): work for work in works if work.cell.model.label == model}
    if not ours:
        return
    classes = next(iter(ours.values())).datasets.classes
    for split in ("test", *planned.outside):
        yield from prediction_differences(
            {cell: work.clean(split) for cell, work in ours.items()},
            compared,
            drawn,
            model=model,
            split=split,
            condition="clean",
            classes=classes,
        )
        attacks = [attack for attack in planned.attacks if split in attack.settings["splits"]]
        attacked = {cell: outcomes(work, attacks, split) for cell, work in ours.items()}
        yield from robust_differences(
            {cell: tables for cell, tables in attacked.items() if tables}, compared, drawn, model=model, split=split
        )
    if planned.protocol.explain is None:
        return
    metrics = planned.explanation_metrics
    for condition in planned.conditions:
        tables = {}
        for cell, work in ours.items():
            explanations = Explanations(work)
            measured = [explanations.values(explainer, condition) for explainer in explanations.explainers]
            if measured:  # on some network all explainers may fail their self-tests
                tables[cell] = pd.concat(measured, ignore_index=True)
        yield from explanation_differences(
            tables,
            compared,
            drawn,
            model=model,
            split=planned.protocol.explain.split,
            condition=condition.label,
            classes=classes,
            better={metric.label: metric.cls.better for metric in metrics},
            units={metric.label: metric.cls.unit for metric in metrics},
        )
