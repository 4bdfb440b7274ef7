"""What a command shows while it is at work: lines, or on a terminal a display that stays below them."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from cxr_eval.events import Event, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

HEADS = {"accuracy": "accuracy", "auroc": "AUROC", "robust_accuracy": "worst case", "seconds": "time"}
"""What a finished cell's scores are called, in the order in which they are shown."""
_MOST_CELLS = 5


def fits_here() -> bool:
    """True if what is printed goes to a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def line_by_line(event: Event) -> None:
    """Print an event as one line without any control character, if it is one to keep."""
    if line := kept_line(event):
        click.echo(line)


def kept_line(event: Event) -> str:
    """The line that an event leaves behind: its message, or what a finished cell reached; nothing for mere progress."""
    if event.kind != "cell":
        return printable(event.message)
    reached = [f"{HEADS.get(name, name)} {_value(name, value)}" for name, value in _shown(event.scores).items()]
    return printable(f"{event.name}: done" + (f": {', '.join(reached)}" if reached else ""))


def left(seconds: float) -> str:
    """A time that is only roughly known: `5 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shown(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in HEADS if name in scores}


def _value(name: str, value: float) -> str:
    if math.isnan(value):
        return "not given"
    return left(value) if name == "seconds" else f"{value:.3f}"


@dataclass
class Pace:
    """How long a run will still take, from its finished cells and the step that it is in.

    A cell whose network was there already says nothing about one that is not, so only those that were trained count.
    """

    clock: Callable[[], float] = time.monotonic
    spent: list[float] = field(default_factory=list)
    """Seconds of the finished cells that were trained."""
    finished: int = 0
    cells: int = 0
    _name: str = ""
    _since: float = 0.0
    _trained: bool = False
    _step: tuple[str, str] = ("", "")
    _step_since: float = 0.0
    _step_first: int = 0
    _step_left: float | None = None

    def see(self, event: Event) -> None:
        """Take note of one event."""
        now = self.clock()
        self.finished, self.cells = max(self.finished, event.cell), event.cells or self.cells
        if event.name and event.name != self._name:
            self._name, self._since, self._trained = event.name, now, False
        if event.ended:
            if self._trained and event.ended == "done":
                self.spent.append(now - self._since)
            self.finished, self._name, self._step_left = event.cell + 1, "", None
        elif event.step:
            if (event.name, event.step) != self._step:
                # what is done when a step is first heard of took its time before, or in an earlier run
                self._step, self._step_since, self._step_first = (event.name, event.step), now, event.done
            self._trained |= event.step == "training"
            done = event.done - self._step_first
            self._step_left = (now - self._step_since) * (event.total - event.done) / done if done > 0 else None

    @property
    def share(self) -> float:
        """Share of the run that is done, 0 to 1."""
        if not self.cells:
            return 0.0
        within = 0.0
        if self._name and self.spent:
            within = min((self.clock() - self._since) / max(self._mean, 1e-9), 0.95)
        return min((self.finished + within) / self.cells, 1.0)

    def said(self) -> str:
        """`about 12 min left`; nothing where nothing is known yet."""
        if not self.cells or self.finished >= self.cells:
            return ""
        if not self.spent:
            return f"more than {left(self._step_left)} left" if self._step_left else ""
        so_far = self.clock() - self._since if self._name else 0.0
        current = max(self._mean - so_far, self._step_left or 0.0)
        return f"about {left(current + self._mean * (self.cells - self.finished - 1))} left"

    @property
    def _mean(self) -> float:
        return sum(self.spent) / len(self.spent)


@dataclass
class Display:
    """The state of a run as a terminal shows it: the cell and its step, bars, the last finished cells with their scores."""

    title: str
    pace: Pace = field(default_factory=Pace)
    last: list[Event] = field(default_factory=list)
    """The last finished cells."""
    now: Event = field(default_factory=Event)
    """The last event with a step."""

    def see(self, event: Event) -> None:
        """Take note of one event."""
        self.pace.see(event)
        if event.ended:
            self.last = [*self.last, event][-_MOST_CELLS:]
            self.now = Event()
        elif event.step:
            self.now = event

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pace, now = self.pace, self.now
        counted = f"{pace.finished} of {pace.cells} cells" if pace.cells else ""
        if head := ": ".join(filter(None, (self.title, ", ".join(filter(None, (counted, pace.said())))))):
            yield Text(printable(head), style="bold", no_wrap=True, overflow="ellipsis")
        if now.name:
            yield Text(_end_of(printable(now.name), options.max_width), no_wrap=True)
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True, overflow="ellipsis", width=options.max_width // 3)
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True, justify="right")
        if pace.cells:
            bars.add_row(Text("all cells"), ProgressBar(1.0, pace.share), Text(f"{100 * pace.share:.0f} %"))
        if now.step:
            count = f"{now.done}/{now.total}" if now.total else ""
            # of a length that is not known, a bar that moves and says nothing
            bar = ProgressBar(now.total or None, now.done, pulse=not now.total)
            bars.add_row(Text(printable(now.step)), bar, Text(count))
        if bars.row_count:
            bars.width = max(options.max_width - 2, 1)  # room for ^C, which else wraps and leaves a line behind
            yield bars
        room = options.size.height - 6
        if self.last and room > 1:
            yield _table(self.last[-room + 1 :], options.max_width)


def _table(cells: list[Event], width: int) -> Table:
    """The last finished cells, one a line, with their scores."""
    from rich.table import Table
    from rich.text import Text

    shown = [name for name in HEADS if any(name in cell.scores for cell in cells)]
    room = width - sum(max(len(HEADS[name]), len("not given")) + 1 for name in shown) - 1
    table = Table(box=None, padding=(0, 1, 0, 0), expand=False, header_style="dim")
    table.add_column("last cells", no_wrap=True)
    for name in shown or ["failed"]:
        table.add_column(HEADS.get(name, ""), justify="right", no_wrap=True)
    for cell in cells:
        values = [Text(_value(name, cell.scores[name]) if name in cell.scores else "") for name in shown]
        if cell.ended == "failed":
            values[:1] = [Text("failed", style="red")]
        table.add_row(Text(_end_of(printable(cell.name), room)), *values)
    return table


def _end_of(name: str, width: int) -> str:
    """A cell's name in so many columns; trainer and seed stand at its end, so that is what is kept."""
    return name if len(name) <= width else f"…{name[len(name) - max(width, 2) + 1 :]}"


@contextmanager
def live(title: str) -> Iterator[Callable[[Event], None]]:
    """What shows events on this terminal; at the end, however it comes, nothing of it is left but the lines."""
    from rich.console import Console
    from rich.live import Live

    console, shown = Console(highlight=False, emoji=False, markup=False), Display(title)
    with Live(shown, console=console, transient=True, refresh_per_second=4) as display:

        def show(event: Event) -> None:
            shown.see(event)
            if line := kept_line(event) if event.kind != "cell" else "":
                display.console.print(line)

        yield show
