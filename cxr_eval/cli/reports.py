"""`cxr-eval report`, `compare` and `verify`: a run written out again, runs side by side, and one looked over again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxr_eval.cli.options import GATES, progress
from cxr_eval.errors import RunError

if TYPE_CHECKING:
    from cxr_eval.acceptance import Verdict

RUN = click.Path(path_type=Path)


@contextmanager
def _as_written(*folders: Path) -> Iterator[None]:
    """A manifest is not among the files whose hashes it lists: what was changed in it shows when it is read."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        where = ", ".join(str(folder / "manifest.json") for folder in folders)
        told = f"cannot be read as a run's ({type(error).__name__}: {error})"
        raise RunError(
            f"{where}: {told}: it was changed, or cxr-eval is at fault; run the protocol again to restore it"
        ) from error


@click.command()
@click.argument("folder", metavar="RUN", type=RUN)
@click.option(
    "--format",
    "formats",
    metavar="FORMAT,...",
    multiple=True,
    help="html, md, csv, json, latex, pdf; html,md,csv if not given. pdf needs the extra 'pdf' and a Chromium or Chrome.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write; the run folder if not given.")
def report(folder: Path, formats: tuple[str, ...], out: Path | None) -> None:
    """Write the report of the run folder RUN again; every format shows the same numbers."""
    from cxr_eval.report.render import render
    from cxr_eval.store import Run

    wanted = list(dict.fromkeys(word.strip() for each in formats for word in each.split(",")))
    run = Run.open(folder)
    with _as_written(folder):
        written = render(run, wanted or ("html", "md", "csv"), out=out)
    for path in written.values():
        click.echo(f"Report: {path}")


@click.command()
@click.argument("folders", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write; comparisons/NAMES if not given."
)
@GATES
@click.option("--quiet", is_flag=True, help="Print the report's path and the requirements only.")
def compare(folders: tuple[Path, ...], out: Path | None, gates: tuple[str, ...], quiet: bool) -> None:
    """Report two or more run folders side by side: what differs between them, and all their numbers.

    Networks are compared in pairs on the images that the runs share. One RUN alone is only held against the requirements.
    """
    from cxr_eval import acceptance
    from cxr_eval.store import Run

    required = [acceptance.parse(text) for text in gates]
    runs = [Run.open(folder) for folder in folders]
    if len(runs) > 1:
        from cxr_eval.combining import combine
        from cxr_eval.report.render import render

        combined = combine(runs, out or Path("comparisons") / "-".join(run.folder.resolve().name for run in runs))
        if not quiet:
            for line in _columns(combined.differs):
                click.echo(line)
        written = render(combined.run, ("html", "md"))
        click.echo(f"Report: {written['html']}")
        runs = [combined.run]
    elif not required:
        raise click.UsageError("expected two runs or more to compare, or one and --gate")
    raise click.exceptions.Exit(say_verdicts(acceptance.judge(runs[0], required)))


@click.command()
@click.argument("folder", metavar="RUN", type=RUN)
@click.option("--quiet", is_flag=True, help="Print what is wrong only.")
def verify(folder: Path, quiet: bool) -> None:
    """Check all hashes of the run folder RUN and make every number again from its per-image tables; without torch."""
    from cxr_eval.store import Run
    from cxr_eval.verifying import REPORTS
    from cxr_eval.verifying import verify as look_over

    with _as_written(folder), progress(quiet) as on_event:
        found = look_over(Run.open(folder), on_event=on_event)
    for finding in found:
        if finding.wrong or not quiet:
            click.echo(finding.line)
        for line in finding.wrong:
            click.echo(f"         {line}")
    wrong = sum(bool(finding.wrong) for finding in found)
    if wrong:
        told = "run the protocol again to restore it, what is intact is kept"
        if {finding.what for finding in found if finding.wrong} == {REPORTS}:
            told = f"only its reports differ; another version may have written them. Write them again: cxr-eval report {folder}"
        click.echo(f"{folder}: not as it was written; {told}", err=True)
    elif not quiet:
        click.echo(f"{folder}: rows, differences, gaps and curves are what the per-image tables give")
    raise click.exceptions.Exit(1 if wrong else 0)


def say_verdicts(verdicts: list[Verdict]) -> int:
    """Print which requirements are met; the exit code."""
    for verdict in verdicts:
        click.echo(verdict.line)
    return 0 if all(verdict.met for verdict in verdicts) else 1


def _columns(lines: tuple[tuple[str, ...], ...]) -> list[str]:
    """Lines of words in columns, the first of them a header."""
    if len(lines) == 1:
        return ["Nothing that the runs say of themselves differs."]
    width = max(len(line[0]) for line in lines)
    found = ["What differs"]
    for line in lines:
        shown = "  |  ".join(value if len(value) <= 60 else f"{value[:59]}…" for value in line[1:])
        found.append(f"  {line[0]:{width}}  {shown}")
    return found
