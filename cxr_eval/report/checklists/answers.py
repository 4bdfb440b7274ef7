"""What a checklist's item comes to: answered by the run, in part, or left to the authors; never more than the run shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["answered", "partly", "not provided"]
SIGNS: dict[State, str] = {"answered": "✓", "partly": "◐", "not provided": "–"}  # noqa: RUF001
"""Beside the word, so that neither colour nor sign alone says it."""
PLACES = {
    "warnings": "Warnings",
    "main-results": "Main results",
    "validity": "Can it be believed?",
    "robustness": "Robustness to attacks",
    "differences": "Differences",
    "clinical": "Clinical scores",
    "classes": "Scores by class",
    "corruptions": "Corruptions",
    "explanations": "Explanations",
    "gallery": "Gallery",
    "anatomy": "What is read where",
    "subgroups": "Subgroups",
    "papers": "Tables as in the papers",
    "training": "Training",
    "audit": "Audit of the images",
    "not-tested": "What was not tested",
    "how": "How it was made",
    "checklists": "Checklists and cards",
}
"""Sections of the report that an answer may lead to, by the name of their anchor."""


@dataclass(frozen=True)
class Answer:
    """How one item is answered: a state, a sentence or two made from the run's facts, and the section that shows it."""

    state: State
    said: str
    anchor: str = ""

    @property
    def sign(self) -> str:
        """What stands beside the state's word."""
        return SIGNS[self.state]

    @property
    def place(self) -> str:
        """Name of the section, for the link's text; nothing if none shows it."""
        return PLACES[self.anchor] if self.anchor else ""


def answered(said: str, anchor: str) -> Answer:
    """The run shows it."""
    return Answer("answered", said, anchor)


def partly(said: str, lacks: str, anchor: str) -> Answer:
    """The run shows a part of it; `lacks` is what is not there."""
    return Answer("partly", f"{said} What lacks: {lacks}.", anchor)


def missing(said: str = "", add: str = "") -> Answer:
    """The run shows nothing of it. said: what the run has instead. add: what only the authors can give."""
    return Answer("not provided", " ".join(filter(None, (said, f"For the authors to add: {add}." if add else ""))))


def listed(names: list[str] | tuple[str, ...], most: int = 6) -> str:
    """`a, b and c`; of more than `most` the first, and how many others."""
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"
