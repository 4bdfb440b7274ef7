"""`--log-json`: what a run tells, one JSON object a line, for programs that follow it."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import click

from cxr_eval.errors import CxrEvalError
from cxr_eval.events import Event

STDOUT = "-"
_START = b'{"time": "'
_OFTEN = 1.0  # seconds between two lines of progress within one step


@dataclass
class Log:
    """A log of JSON lines. Every object has all of these, where nothing is known empty, 0 or {}:

    time: UTC, ISO 8601 with milliseconds. kind: `message` (a line to keep), `progress`, `cell` (a cell is finished), `failed`
    (a cell failed), `end`. message: the line. name: the cell that it is about. cell, cells: how many cells were finished
    before, and how many there are. step, done, total: what is being done, and how far it is. scores: numbers by name; those of
    a finished cell are `accuracy` or `auroc` on clean test images, `robust_accuracy` in the worst case, `seconds`; a number
    that is not given is null.

    Progress within one step is written at most once a second, and its beginning and end always. The last object is
    `{"time", "kind": "end", "exit_code", "folder", "report"}`; folder and report are null if there is no report. A log that
    does not end with it is of a run that was killed.
    """

    file: IO[str] | None
    clock: Callable[[], float] = time.monotonic
    about: dict[str, Any] = field(default_factory=lambda: {"folder": None, "report": None})
    """What the last object says beside the exit code."""
    _step: tuple[str, str] = ("", "")
    _written: float = 0.0

    def __call__(self, event: Event) -> None:
        """Write one event."""
        if event.kind == "progress":
            now, step = self.clock(), (event.name, event.step)
            if step == self._step and now - self._written < _OFTEN and event.done < event.total:
                return
            self._step, self._written = step, now
        self._write(
            kind=event.kind,
            message=event.message,
            name=event.name,
            cell=event.cell,
            cells=event.cells,
            step=event.step,
            done=event.done,
            total=event.total,
            scores={name: value if math.isfinite(value) else None for name, value in event.scores.items()},
        )

    def end(self, exit_code: int) -> None:
        """Write the last object."""
        self._write(kind="end", exit_code=exit_code, **self.about)

    def _write(self, **content: Any) -> None:
        if self.file is not None:
            told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **content}
            self.file.write(json.dumps(told, ensure_ascii=False) + "\n")
            self.file.flush()


@contextmanager
def opened(path: str | None) -> Iterator[Log]:
    """A log into a file, which is written anew, or for `-` to the standard output; without a path it goes nowhere.

    However the command ends, the log ends with its exit code.
    """
    if path is None:
        yield Log(None)
        return
    if (there := Path(path)).is_file() and not _is_log(there):
        told = f"{path} is there and is no log, so it is not overwritten; name another file"
        raise click.BadParameter(told, param_hint="'--log-json'")
    try:
        place = click.open_file(path, "w", encoding="utf-8")  # takes - for the standard output, and leaves that open
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be written: {error.strerror}", param_hint="'--log-json'") from None
    with place as file:
        log = Log(file)
        try:
            yield log
        except BaseException as error:
            log.end(_exit_code(error))
            raise
        log.end(0)


def _is_log(path: Path) -> bool:
    """True if nothing is lost with a file: it is empty, or an earlier log."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_START))
    except OSError:  # opening it to write says why
        return True
    return start in (b"", _START)


def _exit_code(error: BaseException) -> int:
    """What the program ends with because of an error."""
    if isinstance(error, (CxrEvalError, click.ClickException, click.exceptions.Exit)):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    # nobody reads on: click ends with 1
    return 2 if isinstance(error, OSError) and error.errno != errno.EPIPE else 1
