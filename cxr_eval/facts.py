"""What scoring needs to know of a run beside its tables: a part of the manifest, so that it can be read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cxr_eval.errors import RunError
from cxr_eval.evaluation import Evaluate
from cxr_eval.types import Task


@dataclass(frozen=True)
class Facts:
    """One run's settings and plugins as its manifest tells them.

    manifest: all of it, or at least data, task, evaluate, explain, conditions and the plugins.
    """

    manifest: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the networks' answers."""
        return tuple(self.manifest["data"]["classes"])

    @property
    def task(self) -> Task:
        """Whether classes exclude each other."""
        task: Task = self.manifest["task"]
        return task

    @cached_property
    def evaluate(self) -> Evaluate:
        """How networks were evaluated."""
        try:
            return Evaluate.model_validate_json(json.dumps(self.manifest["evaluate"]))
        except ValueError as error:
            raise RunError(f"the manifest's 'evaluate' is not one of this version: {str(error).splitlines()[0]}") from None

    @property
    def splits(self) -> tuple[str, ...]:
        """The test split and the outside test sets."""
        return ("test", *self.manifest["data"]["outside"])

    def provenance(self, split: str) -> str:
        """On which images numbers of a split were measured."""
        said: str = self.manifest["data"]["splits"][split]["provenance"]
        return said

    def labels(self, kind: str) -> tuple[str, ...]:
        """Labels of the plugins of one kind (`models`, `attacks`, ...), in the order of the protocol."""
        return tuple(str(plugin["label"]) for plugin in self.manifest[kind])

    @cached_property
    def borrowed(self) -> frozenset[str]:
        """Attacks whose images are made on another network."""
        return frozenset(str(attack["label"]) for attack in self.manifest["attacks"] if attack["transfer_from"] is not None)

    @cached_property
    def radius(self) -> float | None:
        """The L-inf radius of the checks; None where nothing is attacked."""
        return self.evaluate.radius_of_checks([attack["settings"] for attack in self.manifest["attacks"]])

    def of_metrics(self, name: str) -> dict[str, Any]:
        """One property (better, unit, family, chance, chosen) of every explanation metric, by label."""
        return {str(metric["label"]): metric[name] for metric in self.manifest["explanation_metrics"]}

    @property
    def explained(self) -> str | None:
        """The split whose images are explained; None where none is."""
        explain = self.manifest["explain"]
        return None if explain is None else str(explain["split"])
