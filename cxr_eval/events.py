"""What a run tells while it goes on; the command line shows it, a notebook may ignore it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cxr_eval.types import Row

Kind = Literal["message", "progress", "cell", "failed"]


def printable(line: str) -> str:
    """One line that does to a terminal what it says: line ends and control characters of names are escaped."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in line)


@dataclass(frozen=True, slots=True)
class Event:
    """One step forward.

    `message` is a line worth keeping in a log, or empty for mere progress. `name` is the cell that it is about, empty where it
    is about the run. `step` says what is being done, `done` of `total` how far it is. `cell` says how many of the `cells` of
    the run were finished before. `scores` are numbers by name: of an epoch that ended, or of a finished cell (`headline` and
    seconds). `ended` says that the cell is finished, and how.
    """

    message: str = ""
    step: str = ""
    done: int = 0
    total: int = 0
    cell: int = 0
    cells: int = 0
    name: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    ended: Literal["", "done", "failed"] = ""

    @property
    def kind(self) -> Kind:
        """`cell` and `failed` for a cell that is finished, `message` for a line to keep, `progress` for the rest."""
        if self.ended:
            return "failed" if self.ended == "failed" else "cell"
        return "message" if self.message else "progress"

    def __str__(self) -> str:
        return self.message or ": ".join(filter(None, (self.name, f"{self.step} {self.done}/{self.total}")))


def headline(rows: Iterable[Row]) -> dict[str, float]:
    """The numbers that a display shows of a finished cell, by metric, those that there are.

    `accuracy` (of findings `auroc`) on clean test images, and `robust_accuracy` on them in the worst case of the first threat,
    at its largest radius: robust accuracy never rises with the radius, so that is the lowest. NaN where it is withheld.
    """
    own = [row for row in rows if row.split == "test" and not row.subgroup and not row.explainer]
    clean = {row.metric: row.value for row in own if row.condition == "clean"}
    worst = [row for row in own if row.metric == "robust_accuracy" and row.condition.startswith("worst")]
    first = [row.value for row in worst if row.condition.partition(":")[0] == worst[0].condition.partition(":")[0]]
    given = [value for value in first if not math.isnan(value)]
    found = {metric: clean[metric] for metric in ("accuracy", "auroc") if metric in clean}
    return dict([*found.items()][:1]) | ({"robust_accuracy": min(given, default=math.nan)} if first else {})
