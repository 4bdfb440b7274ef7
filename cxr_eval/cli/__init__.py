"""The command line: reads arguments, prints, exits. What it does is done elsewhere, and imported only when it is asked for."""

from __future__ import annotations

import errno
import json
import re
import shlex
from pathlib import Path
from typing import Any

import click

from cxr_eval.cli.data import data
from cxr_eval.cli.options import FILES, PROTOCOL, SETS, progress, say_demonstration
from cxr_eval.cli.plugins import plugins
from cxr_eval.errors import CxrEvalError

_EXIT_CODES = """
\b
Exit codes:
  0    done
  1    a plugin did not pass its checks
  2    the protocol, the data or the command is wrong; nothing was run
  3    done, but some cells failed
  130  interrupted; the same command goes on from there
"""


class _Group(click.Group):
    """Every error of ours is one message and its exit code, and an interrupt says how to go on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CxrEvalError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly where nobody reads on
                raise
            where = f"{error.filename}: " if error.filename else ""
            told = (
                f"{where}{error.strerror or error}; make it readable or writable, or free the disk. Prepared images are kept in"
            )
            click.echo(f"{told} CXR_EVAL_CACHE", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"expected auto, cpu, cuda or cuda:N, got '{value}'")
    return value


@click.group(cls=_Group, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxr-eval", message="cxr-eval %(version)s")
def main() -> None:
    """Robustness and interpretability of chest X-ray classifiers: one protocol, one command, one report."""


@main.command()
@PROTOCOL
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder; runs/NAME-HASH if not given.")
@SETS
@FILES
@click.option(
    "--device", callback=_device, metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
@click.option("--quiet", is_flag=True, help="Print the report's path only; a demonstration is still said.")
def run(protocol: Path, out: Path | None, sets: tuple[str, ...], files: tuple[Path, ...], device: str, quiet: bool) -> None:
    """Run PROTOCOL and write its report.

    What a run folder already holds is not computed again.
    """
    from cxr_eval import protocol_file

    loaded = protocol_file.load(protocol, sets=sets)
    say_demonstration(loaded)
    from cxr_eval import runner

    try:
        with progress(quiet) as on_event:
            outcome = runner.run(loaded, out=out, device=device, on_event=on_event)
    except KeyboardInterrupt:
        _say_interrupted(protocol, out, sets, files, device)
        raise click.exceptions.Exit(130) from None
    for failed in outcome.failed:
        click.echo(f"Failed: {failed}", err=True)
    click.echo(f"Report: {outcome.report}")
    raise click.exceptions.Exit(3 if outcome.failed else 0)


@main.command()
@PROTOCOL
@SETS
@FILES
def validate(protocol: Path, sets: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Check PROTOCOL and say what it would run; nothing is run."""
    from cxr_eval import plan, protocol_file

    loaded = protocol_file.load(protocol, sets=sets)
    say_demonstration(loaded)
    for line in plan.describe(plan.plan(loaded)):
        click.echo(line)


@main.command()
def schema() -> None:
    """Print the JSON Schema of a protocol, for editors that complete YAML."""
    from cxr_eval import protocol_file

    click.echo(json.dumps(protocol_file.json_schema(), indent=2))


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write the report of the run folder RUN again."""
    from cxr_eval.report.render import render
    from cxr_eval.store import Run

    for path in render(Run.open(folder), ("html", "md", "csv")).values():
        click.echo(f"Report: {path}")


def _say_interrupted(protocol: Path, out: Path | None, sets: tuple[str, ...], files: tuple[Path, ...], device: str) -> None:
    words = ["cxr-eval", "run", str(protocol), *(["--out", str(out)] if out else [])]
    words += [word for each in sets for word in ("--set", each)]
    words += [word for file in files for word in ("--plugin", str(file))]
    words += ["--device", device] if device != "auto" else []
    click.echo(f"Interrupted. Finished cells are kept. To go on: {shlex.join(words)}", err=True)


main.add_command(data)
main.add_command(plugins)
