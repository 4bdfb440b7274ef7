"""`cxr-eval run` and `cxr-eval validate`: from a protocol to its report, or to what it would run."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxr_eval.cli import log, options
from cxr_eval.errors import ProtocolError
from cxr_eval.events import Event, printable

if TYPE_CHECKING:
    from cxr_eval.acceptance import Requirement


@click.command()
@options.PROTOCOL
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder; runs/NAME-HASH if not given.")
@options.SETS
@options.cut_short
@options.FILES
@options.DEVICE
@options.GATES
@click.option(
    "--track", "trackers", metavar="NAME", multiple=True, help="Take scores down elsewhere too: mlflow, wandb, tensorboard."
)
@click.option("--log-json", metavar="FILE", help="Write what happens to FILE, one JSON object a line; - prints nothing else.")
@click.option("--quiet", is_flag=True, help="Print the report's path only; a demonstration is still said.")
def run(protocol: Path, out: Path | None, gates: tuple[str, ...], device: str, quiet: bool, **given: Any) -> None:
    """Run PROTOCOL and write its report.

    What a run folder already holds is not computed again.
    """
    sets, files, log_json, trackers = (given.pop(name) for name in ("sets", "files", "log_json", "trackers"))
    alone = log_json == log.STDOUT
    with log.opened(log_json) as logged:

        def say(told: str, shown: str | None = None) -> None:
            logged(Event(told))
            if not alone:
                click.echo(told if shown is None else shown)

        requirements = _requirements(gates)  # before anything runs
        loaded = options.load_protocol(protocol, sets, **given)
        if told := options.demonstration(loaded):
            say(told, options.framed(told))
        if loaded.smoke:
            changed = f"Smoke run: {'; '.join(loaded.sets)}"
            say(changed, textwrap.fill(changed, 100, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))
        try:
            from cxr_eval import runner  # takes seconds, in which somebody may interrupt
            from cxr_eval.trackers import tracking

            with options.progress(quiet or alone, loaded.protocol.name) as show:

                def tell(event: Event) -> None:
                    logged(event)
                    show(event)

                with tracking(trackers, loaded, tell) as tracked:
                    outcome = runner.run(loaded, out=out, device=device, on_event=tracked)
                    tracked.done(outcome.folder, outcome.failed)
        except KeyboardInterrupt:
            again = _again(protocol, out, sets, files, device, gates, log_json, quiet, trackers=trackers, **given)
            click.echo(f"Interrupted. Finished cells are kept. To go on: {again}", err=True)
            raise click.exceptions.Exit(130) from None
        for failed in outcome.failed:
            click.echo(f"Failed: {printable(failed)}", err=True)
        try:
            unmet = bool(requirements) and not _met(outcome.folder, requirements, say)
        except ProtocolError as error:
            if not outcome.failed:
                raise
            click.echo(str(error), err=True)  # what it names may be missing because cells failed
            unmet = True
        finally:  # a requirement that names what is not there must not hide the report
            logged.about |= {"folder": str(outcome.folder), "report": str(outcome.report)}
            if not alone:
                click.echo(f"Report: {outcome.report}")
        raise click.exceptions.Exit(3 if outcome.failed else 1 if unmet else 0)


def _requirements(gates: tuple[str, ...]) -> list[Requirement]:
    if not gates:
        return []
    from cxr_eval import acceptance

    return [acceptance.parse(gate) for gate in gates]


def _met(folder: Path, requirements: list[Requirement], say: Callable[[str], None]) -> bool:
    """Say of each requirement whether it is met; True if all are."""
    from cxr_eval import acceptance
    from cxr_eval.store import Run

    verdicts = acceptance.judge(Run.open(folder), requirements)
    for verdict in verdicts:
        say(verdict.line)
    return all(verdict.met for verdict in verdicts)


def _again(
    protocol: Path,
    out: Path | None,
    sets: tuple[str, ...],
    files: tuple[Path, ...],
    device: str,
    gates: tuple[str, ...],
    log_json: str | None,
    quiet: bool,
    *,
    limit: int | None,
    smoke: bool,
    only: tuple[str, ...],
    seeds: tuple[int, ...],
    trackers: tuple[str, ...],
) -> str:
    """The command that goes on with an interrupted run."""
    words = ["cxr-eval", "run", str(protocol), *(["--out", str(out)] if out else [])]
    words += [word for each in sets for word in ("--set", each)]
    words += ["--limit", str(limit)] if limit is not None else []
    words += ["--smoke"] if smoke else []
    words += [word for each in only for word in ("--only", each)]
    words += ["--seed", ",".join(map(str, seeds))] if seeds else []
    words += [word for file in files for word in ("--plugin", str(file))]
    words += ["--device", device] if device != "auto" else []
    words += [word for gate in gates for word in ("--gate", gate)]
    words += [word for name in trackers for word in ("--track", name)]
    words += ["--log-json", log_json] if log_json else []
    return shlex.join([*words, *(["--quiet"] if quiet else [])])


@click.command()
@options.PROTOCOL
@options.SETS
@options.cut_short
@options.FILES
def validate(protocol: Path, sets: tuple[str, ...], files: tuple[Path, ...], **given: Any) -> None:
    """Check PROTOCOL and say what it would run; nothing is run."""
    loaded = options.load_protocol(protocol, sets, **given)
    options.say_demonstration(loaded)
    from cxr_eval import plan

    for line in plan.describe(plan.plan(loaded)):
        click.echo(line)
