"""The models that a second stage fits: those on which another trainer did best on validation images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cxr_eval.cells import CellWork
from cxr_eval.protocol import Selection
from cxr_eval.stats import scores
from cxr_eval.types import LABEL, PROBABILITY


@dataclass(frozen=True)
class Choice:
    """What was chosen, in the protocol's order, and the validation score of every model that could have been."""

    models: tuple[str, ...]
    scores: Mapping[str, float]

    def said(self, label: str, selection: Selection) -> str:
        """One line for the terminal."""
        listed = ", ".join(f"{model} {self.scores[model]:.3f}" for model in self.models)
        return f"{label}: the {len(self.models)} best of {len(self.scores)} models by validation {selection.by}: {listed}"


def choose(selection: Selection, works: Iterable[CellWork]) -> Choice:
    """The models with the highest score, ties in the protocol's order; those in `always` come first.

    works: the trained cells of the trainer that is compared, all seeds of a model or none. A model whose score is not defined
    comes last.
    """
    assert selection.best is not None
    by_model: dict[str, list[float]] = {}
    for work in works:
        by_model.setdefault(work.cell.model.label, []).append(_score(work, selection.by))
        work.release()
    means = {model: sum(values) / len(values) for model, values in by_model.items()}
    order = list(means)
    ranked = sorted(
        order,
        key=lambda model: (
            model not in selection.always,
            -means[model] if math.isfinite(means[model]) else math.inf,
            order.index(model),
        ),
    )
    kept = set(ranked[: selection.best])
    return Choice(tuple(model for model in order if model in kept), means)


def _score(work: CellWork, by: str) -> float:
    """Score of one cell on clean validation images, the one that the report gives on test images."""
    table, classes = work.clean("val"), work.datasets.classes
    weights = np.ones((1, len(table)))
    if by == "auroc":
        if "label" in table:
            truth = scores.one_hot([classes.index(label) for label in table["label"]], len(classes))
        else:
            truth = table[[LABEL + name for name in classes]].to_numpy(dtype=np.float64)
        probability = table[[PROBABILITY + name for name in classes]].to_numpy(dtype=np.float64)
        return float(scores.ranking_scores(truth, probability, classes, weights)["auroc"][0])
    y, predicted = ([classes.index(label) for label in table[column]] for column in ("label", "predicted"))
    return float(scores.decision_scores(y, predicted, classes, weights)[by][0])
