"""Trainers of a run compared on the same images: differences with intervals and p-values, over all that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

import pandas as pd

from cxr_eval.facts import Facts
from cxr_eval.scoring import CellScores
from cxr_eval.stats.comparisons import (
    Comparison,
    Pairs,
    explanation_differences,
    prediction_differences,
    robust_differences,
    with_holm,
)


def pairs(facts: Facts) -> list[tuple[str, str]]:
    """Each trainer with each that it is compared with: those that `evaluate.against` names, or the first; each pair once."""
    labels = facts.labels("trainers")
    named = facts.evaluate.against or labels[:1]
    against = labels if "all" in named else list(dict.fromkeys(named))
    found: list[tuple[str, str]] = []
    for other in against:
        found += [(label, other) for label in labels if label != other and (other, label) not in found]
    return found


def compare_trainers(facts: Facts, cells: Sequence[CellScores], compared: Pairs | None = None) -> pd.DataFrame:
    """All comparisons of trainers, one a line, columns as in `Comparison`.

    cells: those that were trained. compared: which trainers with which; those of `pairs` if not given.
    """
    compared = pairs(facts) if compared is None else compared
    found = [one for model in facts.labels("models") for one in _of_model(facts, model, cells, compared)] if compared else []
    return pd.DataFrame([asdict(one) for one in with_holm(found)], columns=[field.name for field in fields(Comparison)])


def _of_model(facts: Facts, model: str, cells: Sequence[CellScores], compared: Pairs) -> Iterator[Comparison]:
    ours = {(cell.trainer, cell.seed): cell for cell in cells if cell.model == model}
    if not ours:
        return
    drawn, classes = facts.evaluate.resampling, facts.classes
    for split in facts.splits:
        there = {name: cell.tables for name, cell in ours.items() if cell.tables.has("clean", split=split)}
        clean = {name: tables.read("clean", split=split) for name, tables in there.items()}
        yield from prediction_differences(clean, compared, drawn, model=model, split=split, condition="clean", classes=classes)
        attacked = {name: tables for name, cell in ours.items() if (tables := cell.attacked(split))}
        yield from robust_differences(attacked, compared, drawn, model=model, split=split, classes=classes)
    if facts.explained is None:
        return
    for condition in facts.manifest["conditions"]:
        explained = {name: table for name, cell in ours.items() if (table := _explained(facts, cell, condition)) is not None}
        yield from explanation_differences(
            explained,
            compared,
            drawn,
            model=model,
            split=facts.explained,
            condition=condition,
            classes=classes,
            better=facts.of_metrics("better"),
            units=facts.of_metrics("unit"),
            chosen=facts.of_metrics("chosen"),
        )


def _explained(facts: Facts, cell: CellScores, condition: str) -> pd.DataFrame | None:
    """Values of the metrics of all explainers of one cell, without references; None where all failed their self-tests."""
    assert facts.explained is not None
    at = {"split": facts.explained, "condition": condition}
    there = cell.tables.explainers("explanations", **at)
    found = [cell.tables.read("explanations", **at, explainer=name) for name in there if name in facts.labels("explainers")]
    return pd.concat(found, ignore_index=True) if found else None
