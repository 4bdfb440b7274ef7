"""What a run shows while it goes on: on a terminal that is really one, narrow or wide, and how long it says it will take."""

from __future__ import annotations

import io
import math
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from cxr_eval.cli.display import Display, Pace, fits_here, kept_line, left
from cxr_eval.events import Event, headline, printable
from cxr_eval.types import Row

PROGRAM = """
import sys, time, types
import cxr_eval
from cxr_eval.events import Event
module = types.ModuleType("cxr_eval.runner")
def run(loaded, *, out, device, on_event):
    on_event(Event("data: [red]20 images[/red] of patients :skull:"))
    cells = [f"resnet18_with_a_rather_long_label / {trainer} / seed 0" for trainer in ("standard", "pgd\\x1b[2J", "third")]
    for number, name in enumerate(cells[:2]):
        where = {"name": name, "cell": number, "cells": 3}
        on_event(Event(step="training", done=1, total=40, **where))
        on_event(Event(step="training", done=20, total=40, **where))
        on_event(Event(f"{name}: trained", **where))
        if number == 0:
            scores = {"accuracy": 0.9125, "robust_accuracy": 0.25, "seconds": 605.0}
            on_event(Event(scores=scores, ended="done", **where))
        else:
            on_event(Event(f"{name}: FAILED: loss is nan", ended="failed", **where))
    on_event(Event(step="attack on test", done=3, total=9, name=cells[2], cell=2, cells=3))
    sys.stderr.write("READY\\n")
    sys.stderr.flush()
    time.sleep(60 if "--out" in sys.argv else 0.6)
    return types.SimpleNamespace(folder="r", report="r/report.html", failed=())
module.run = run
sys.modules["cxr_eval.runner"] = cxr_eval.runner = module
from cxr_eval.cli import main
main()
"""
PROTOCOL = "name: small\ndata: {train: {reader: phantom}}\nmodels: [small_cnn]\ntrainers: [standard]\n"


class Terminal:
    """A pseudo-terminal with the program in it, and what a person would see on its screen."""

    def __init__(self, folder: Path, *words: str, columns: int, lines: int = 30, **environ: str) -> None:
        pyte = pytest.importorskip("pyte")
        (folder / "p.yaml").write_text(PROTOCOL)
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.outer, inner = pty.openpty()
        termios.tcsetwinsize(inner, (lines, columns))
        kept = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")
        }
        self.program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", "p.yaml", *words],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env=kept | {"TERM": "xterm-256color"} | environ,
            start_new_session=True,
            # what a shell starts in the background ignores interrupts, and so would what that starts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(inner)
        self.printed = b""

    def read(self, *until: str, seconds: float = 60) -> list[str]:
        """The screen's lines once all of `until` are on it, or once the program has ended."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if until and all(any(text in line for line in self.screen.display) for text in until):
                break
            if not select.select([self.outer], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(self.outer, 65536)
            except OSError:  # Linux ends a terminal that nobody writes to in this way
                break
            if not chunk:
                break
            self.printed += chunk
            self.stream.feed(chunk)
        return [line.rstrip() for line in self.screen.display]

    def end(self) -> int:
        """The exit code."""
        return self.program.wait(60)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self.outer)


def squeezed(lines: list[str]) -> str:
    """All text without spaces, for lines are broken where the terminal ends."""
    return "".join("".join(lines).split())


def at(lines: list[str], start: str) -> str:
    """The one line that starts so."""
    (found,) = [line for line in lines if line.startswith(start)]
    return found


@pytest.mark.parametrize("columns", [60, 120])
def test_a_terminal_shows_cells_bars_and_last_scores_and_keeps_the_messages(tmp_path: Path, columns: int) -> None:
    with Terminal(tmp_path, "--out", "here", columns=columns) as terminal:
        lines = terminal.read("attack on test", " failed")  # the last line is the first that is wiped
        assert at(lines, "small: 2 of 3 cells")
        assert at(lines, "resnet18_with_a_rather_long_label / third / seed 0")
        assert "━" in at(lines, "all cells")
        assert at(lines, "attack on test").endswith("3/9")
        table = lines.index(at(lines, "last cells"))
        assert lines[table].split() == ["last", "cells", "accuracy", "worst", "case", "time"]
        assert lines[table + 1].split()[-4:] == ["0.912", "0.250", "10", "min"]
        assert lines[table + 2].split()[-1] == "failed"
        assert [line.split(" / ")[1] for line in lines[table + 1 : table + 3]] == ["standard", "pgd\\x1b[2J"]
        assert all(len(line) <= columns for line in lines)
        assert "data:[red]20images[/red]ofpatients:skull:" in squeezed(lines)
        assert "/pgd\\x1b[2J/seed0:trained" in squeezed(lines)  # a name with control characters is text
        os.killpg(terminal.program.pid, signal.SIGINT)
        lines = [line for line in terminal.read() if line]
        assert terminal.end() == 130
        assert "Interrupted.Finishedcellsarekept.Togoon:cxr-evalrunp.yaml--outhere" in squeezed(lines)
        assert not [line for line in lines if line.startswith(("all cells", "last cells", "attack on test"))]
        assert "data:[red]20images[/red]" in squeezed(lines)
        assert terminal.printed.rstrip().rfind(b"\x1b[?25h") > terminal.printed.rfind(b"\x1b[?25l")  # the cursor is back


def test_a_run_that_ends_leaves_its_messages_and_the_reports_path(tmp_path: Path) -> None:
    with Terminal(tmp_path, columns=100) as terminal:
        lines = [line for line in terminal.read() if line]
        assert terminal.end() == 0
        assert lines[-1] == "Report: r/report.html"
        assert not [line for line in lines if line.startswith(("small:", "all cells", "last cells"))]
        assert len([line for line in lines if "FAILED: loss is nan" in line]) == 1


def test_without_colour_no_colour_is_printed(tmp_path: Path) -> None:
    with Terminal(tmp_path, columns=100) as coloured:
        coloured.read()
        assert coloured.end() == 0
    with Terminal(tmp_path, columns=100, NO_COLOR="1") as plain:
        plain.read()
        assert plain.end() == 0
    colours = [f"\x1b[{code}".encode() for code in ("31", "32", "35", "38;", "1;3")]
    assert any(colour in coloured.printed for colour in colours)
    assert not any(colour in plain.printed for colour in colours)


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(tmp_path: Path) -> None:
    with Terminal(tmp_path, columns=140, TERM="dumb") as terminal:
        lines = [line for line in terminal.read() if line]
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.printed
        assert lines[0] == "data: [red]20 images[/red] of patients :skull:"
        assert any(line.endswith("done: accuracy 0.912, worst case 0.250, time 10 min") for line in lines)
        assert lines[-1] == "Report: r/report.html"


def test_a_low_terminal_shows_fewer_cells(tmp_path: Path) -> None:
    with Terminal(tmp_path, columns=100, lines=7) as terminal:
        lines = terminal.read("attack on test")
        assert at(lines, "attack on test")
        assert not [line for line in lines if line.startswith("last cells")]
        terminal.read()
        assert terminal.end() == 0


def test_what_is_no_terminal_gets_no_display(capsys: pytest.CaptureFixture[str]) -> None:
    assert not fits_here()


# how long ----------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def pace() -> tuple[Pace, Clock]:
    clock = Clock()
    return Pace(clock), clock


def test_before_a_cell_is_finished_only_its_own_step_is_known() -> None:
    estimate, clock = pace()
    assert estimate.said() == ""
    estimate.see(Event(step="training", done=0, total=10, name="a", cells=4))
    assert estimate.said() == ""  # nothing is known yet
    clock.now = 20.0
    estimate.see(Event(step="training", done=2, total=10, name="a", cells=4))
    assert estimate.said() == "more than 80 s left"  # 20 s for 2 of 10, so 8 x 10 s for the rest
    assert estimate.share == 0.0


def test_finished_cells_say_how_long_those_to_come_take() -> None:
    estimate, clock = pace()
    estimate.see(Event(step="training", done=1, total=10, name="a", cells=4))
    clock.now = 600.0
    estimate.see(Event(name="a", ended="done", cells=4))
    assert (estimate.said(), estimate.share) == ("about 30 min left", 0.25)  # 3 cells, 10 min each
    estimate.see(Event(step="training", done=1, total=10, name="b", cell=1, cells=4))
    clock.now = 900.0
    assert (estimate.said(), estimate.share) == ("about 25 min left", 0.375)  # 5 of 10 min of the second: (1 + 0.5) / 4
    clock.now = 1500.0
    estimate.see(Event(step="training", done=4, total=10, name="b", cell=1, cells=4))
    # 900 s for 3 of its 10, so 6 x 300 s are left of the second, and 2 x 10 min of the others
    assert estimate.said() == "about 50 min left"
    assert estimate.share == pytest.approx((1 + 0.95) / 4)  # a cell that is late is not finished
    clock.now = 1800.0
    estimate.see(Event(name="b", ended="done", cell=1, cells=4))
    assert estimate.said() == "about 30 min left"  # 2 cells, (10 + 20) / 2 min each


def test_cells_that_were_there_already_or_failed_do_not_count() -> None:
    estimate, clock = pace()
    estimate.see(Event(step="pgd on test", done=1, total=2, name="a", cells=3))
    clock.now = 2.0
    estimate.see(Event(name="a", ended="done", cells=3))
    estimate.see(Event(step="training", done=1, total=2, name="b", cell=1, cells=3))
    clock.now = 3.0
    estimate.see(Event("b: FAILED", name="b", ended="failed", cell=1, cells=3))
    assert estimate.spent == []
    assert (estimate.said(), estimate.share) == ("", 2 / 3)


def test_training_that_goes_on_is_not_taken_for_fast() -> None:
    estimate, clock = pace()
    estimate.see(Event(step="training", done=50, total=60, name="a", cells=1))  # the checkpoint had 50
    clock.now = 10.0
    estimate.see(Event(step="training", done=51, total=60, name="a", cells=1))
    assert estimate.said() == "more than 2 min left"  # 10 s for one, so 90 s for nine


def test_nothing_is_left_of_a_finished_run() -> None:
    estimate, _ = pace()
    estimate.see(Event(name="a", ended="done", cells=1))
    assert (estimate.said(), estimate.share) == ("", 1.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89.4, "89 s"), (90, "2 min"), (5369, "89 min"), (5400, "1 h 30 min"), (12000, "3 h 20 min")],
)
def test_times_are_said_roughly(seconds: float, said: str) -> None:
    assert left(seconds) == said


def test_the_display_keeps_the_last_five_cells() -> None:
    shown = Display("small")
    for number in range(7):
        shown.see(Event(name=f"cell {number}", ended="done", cell=number, cells=7))
    assert [event.name for event in shown.last] == [f"cell {number}" for number in range(2, 7)]


def test_a_command_without_cells_shows_its_step_alone() -> None:
    shown, file = Display(""), io.StringIO()
    console = Console(file=file, width=60, color_system=None)
    console.print(shown)
    assert file.getvalue() == ""
    shown.see(Event(step="preparing images\n", done=3, total=12))
    console.print(shown)
    (line,) = file.getvalue().splitlines()
    assert line.split() == ["preparing", "images\\n", line.split()[2], "3/12"]
    shown.see(Event("hashes", step="hashes"))  # of a length that is not known
    console.print(shown)
    assert file.getvalue().splitlines()[-1].split()[0] == "hashes"


# events ------------------------------------------------------------------------------------------------------------------


def row(metric: str, value: float, condition: str = "clean", split: str = "test", **more: str) -> Row:
    given = {"model": "m", "trainer": "t", "seed": 0, "explainer": "", "low": value, "high": value, "n": 9, "unit": "1"}
    return Row(
        split=split, condition=condition, metric=metric, value=value, **(given | {"better": "higher", "provenance": "x"} | more)
    )


def test_the_headline_is_the_clean_score_and_the_worst_case_at_the_largest_radius() -> None:
    rows = [
        *(row("accuracy", 0.1, split="val"), row("accuracy", 0.2, "blur:3"), row("accuracy", 0.3, subgroup="sex F")),
        *(row("accuracy", 0.9), row("auroc", 0.95)),
        *(
            row("robust_accuracy", 0.0, "pgd:0.02"),
            row("robust_accuracy", 0.9, "worst:0"),
            row("robust_accuracy", 0.6, "worst:1/255"),
        ),
        *(row("robust_accuracy", 0.4, "worst:8/255"), row("robust_accuracy", 0.0, "worst(l2):0.5")),
    ]
    assert headline(rows) == {"accuracy": 0.9, "robust_accuracy": 0.4}
    assert headline([row("auroc", 0.8)]) == {"auroc": 0.8}
    assert headline([]) == {}
    assert math.isnan(headline([row("robust_accuracy", math.nan, "worst:0.1")])["robust_accuracy"])


def test_events_have_a_kind() -> None:
    kinds = [Event("said"), Event(step="training"), Event(name="a", ended="done"), Event("a: FAILED", name="a", ended="failed")]
    assert [event.kind for event in kinds] == ["message", "progress", "cell", "failed"]
    assert [str(event) for event in kinds[:2]] == ["said", "training 0/0"]
    assert str(Event(step="training", done=1, total=2, name="a")) == "a: training 1/2"


def test_a_line_is_one_line_whatever_a_name_holds() -> None:
    assert printable("a\x1b[2J\r\nb\x07ü\u202e") == "a\\x1b[2J\\r\\nb\\x07ü\\u202e"
    assert kept_line(Event("a\nb")) == "a\\nb"
    assert kept_line(Event(step="training", done=1, total=2)) == ""
    assert kept_line(Event(name="a\n", ended="done")) == "a\\n: done"
