"""What a run tells while it goes on; the command line shows it, a notebook may ignore it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One step forward.

    `message` is a line worth keeping in a log, or empty for mere progress. `step` says what is being done, `done` of `total`
    how far it is; `cell` of `cells` counts the cells of the run.
    """

    message: str = ""
    step: str = ""
    done: int = 0
    total: int = 0
    cell: int = 0
    cells: int = 0

    def __str__(self) -> str:
        return self.message or f"{self.step} {self.done}/{self.total}"
