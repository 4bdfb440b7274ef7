"""The command line: reads arguments, prints, exits. What it does is done elsewhere, and imported only when it is asked for."""

from __future__ import annotations

import json
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from cxr_eval.errors import CxrEvalError, PluginError

if TYPE_CHECKING:
    from cxr_eval.events import Event
    from cxr_eval.protocol_file import LoadedProtocol
    from cxr_eval.registry import Kind

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
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"expected auto, cpu, cuda or cuda:N, got '{value}'")
    return value


def _register(ctx: click.Context, param: click.Parameter, files: tuple[Path, ...]) -> tuple[Path, ...]:
    if files and not ctx.resilient_parsing:  # completing a word in the shell runs no plugin
        from cxr_eval import registry

        ctx.call_on_close(registry.forget_files)
        for file in files:
            registry.register_file(file)
    return files


_PROTOCOL = click.argument("protocol", type=click.Path(path_type=Path))
_SETS = click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="Override a setting: train.epochs=3, trainers.0.eps=8/255."
)
_FILES = click.option(
    "--plugin",
    "files",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    callback=_register,
    help="A Python file whose plugins hold as if they were installed.",
)
_KINDS = ("trainers", "readers", "models", "attacks", "corruptions", "explainers", "explanation_metrics")


@click.group(cls=_Group, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxr-eval", message="cxr-eval %(version)s")
def main() -> None:
    """Robustness and interpretability of chest X-ray classifiers: one protocol, one command, one report."""


@main.command()
@_PROTOCOL
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder; runs/NAME-HASH if not given.")
@_SETS
@_FILES
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
    _say_demonstration(loaded)
    from cxr_eval import runner

    try:
        with _progress(quiet) as on_event:
            outcome = runner.run(loaded, out=out, device=device, on_event=on_event)
    except KeyboardInterrupt:
        _say_interrupted(protocol, out, sets, files, device)
        raise click.exceptions.Exit(130) from None
    for failed in outcome.failed:
        click.echo(f"Failed: {failed}", err=True)
    click.echo(f"Report: {outcome.report}")
    raise click.exceptions.Exit(3 if outcome.failed else 0)


@main.command()
@_PROTOCOL
@_SETS
@_FILES
def validate(protocol: Path, sets: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Check PROTOCOL and say what it would run; nothing is run."""
    from cxr_eval import plan, protocol_file

    loaded = protocol_file.load(protocol, sets=sets)
    _say_demonstration(loaded)
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


@main.group()
def plugins() -> None:
    """List, describe, check and start plugins."""


@plugins.command("list")
@click.argument("kind", type=click.Choice(_KINDS), required=False, metavar="[KIND]")
@_FILES
def list_plugins(kind: str | None, files: tuple[Path, ...]) -> None:
    """Print the installed plugins, of one KIND if it is given; none of these is imported."""
    from cxr_eval import registry

    for each in registry.KINDS if kind is None else (cast("Kind", kind),):
        points = registry.installed(each)
        width = max(map(len, points), default=0)
        click.echo(each)
        for name, point in points.items():
            click.echo(f"  {name:{width}}  {registry.package_of(point)}")


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(_KINDS), help="Where two kinds have a plugin of that name.")
@_FILES
def describe(name: str, kind: str | None, files: tuple[Path, ...]) -> None:
    """Print what the plugin NAME does, its settings with bounds and defaults, its source, and how a protocol names it."""
    from cxr_eval import describe as description

    click.echo("\n\n".join(description.pages(name, cast("Kind | None", kind))))


@plugins.command()
@click.argument("name")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Check it with this setting: eps=8/255.")
@_FILES
def check(name: str, sets: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Check that the trainer NAME keeps the contract of a trainer, rule by rule, on a toy network."""
    cls = _trainer(name)
    settings = _settings(name, cls, sets)
    from cxr_eval import testing

    outcomes = testing.check_trainer(cls, settings)
    told: set[str] = set()
    for outcome in outcomes:
        click.echo(f"{outcome.status:7}  {outcome.rule}")
        if outcome.status != "ok":  # one fault may break many rules
            message = "as above" if outcome.message in told else outcome.message
            click.echo(textwrap.fill(message, 96, initial_indent=" " * 9, subsequent_indent=" " * 9, break_on_hyphens=False))
            told.add(outcome.message)
    statuses = [outcome.status for outcome in outcomes]
    counts = {word: statuses.count(word) for word in ("ok", "failed", "skipped")}
    counted = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    click.echo(f"{len(outcomes)} checks: {counted}")
    raise click.exceptions.Exit(1 if counts["failed"] else 0)


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["trainer"]), default="trainer", show_default=True, help="What the plugin is.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write, new or empty; cxr-eval-NAME if not given.")
def new(name: str, kind: str, out: Path | None) -> None:
    """Write a plugin called NAME, in a package of its own that can be installed as it is."""
    from cxr_eval import scaffold

    files = scaffold.new_trainer(name, out)
    folder = f"{'' if files[-1].is_absolute() else './'}{files[-1].parent}"  # pip takes a bare word for a name to look up
    click.echo("\n".join(["Wrote", *(f"  {file}" for file in files), "Next"]))
    for words in (["pip", "install", "-e", folder], ["cxr-eval", "plugins", "check", name], ["pytest", folder]):
        click.echo(f"  {shlex.join(words)}")


def _trainer(name: str) -> type[Any]:
    from cxr_eval import registry

    family = name.partition("/")[0]
    kinds = [kind for kind in registry.KINDS if family in registry.installed(kind)]
    if kinds and "trainers" not in kinds:
        raise PluginError(f"the {registry.SINGULAR[kinds[0]]} '{name}' cannot be checked; only trainers can, so far")
    return registry.find("trainers", name)


def _settings(name: str, cls: type[Any], sets: tuple[str, ...]) -> dict[str, Any]:
    """The settings given as `KEY=VALUE`, as the plugin's `Params` hold them."""
    import pydantic

    from cxr_eval.complaints import complaints
    from cxr_eval.marked_yaml import parse, plain

    given: dict[str, Any] = {}
    for each in sets:
        key, equals, text = each.partition("=")
        if not equals or not key.strip():
            raise PluginError(f"--set {each}: expected KEY=VALUE, such as eps=8/255")
        node, found = parse(text, lambda _, each=each: f"--set {each}")  # type: ignore[misc]
        if found:
            raise PluginError(": ".join(found[0]))
        given[key.strip()] = plain(node)
    try:
        accepted = cls.Params.model_validate_json(json.dumps(given))  # as JSON, in which a tuple is a list
    except pydantic.ValidationError as error:
        texts = [text for _, text in complaints(error, cls.Params, owner=name)]
        raise PluginError("\n".join(f"--set: {text}" for text in texts)) from None
    return {key: getattr(accepted, key) for key in given}


def _say_demonstration(loaded: LoadedProtocol) -> None:
    if not loaded.demonstration:
        return
    unset, reader = " and ".join(loaded.unset), loaded.protocol.data.train.reader
    text = (
        f"DEMONSTRATION. {unset} {'is' if len(loaded.unset) == 1 else 'are'} not set, so '{reader}' stands in for the images"
        " that the protocol names. The numbers say nothing about patients."
    )
    lines = textwrap.wrap(text, 76)
    click.echo("\n".join(["+" + "-" * 78 + "+", *(f"| {line:76} |" for line in lines), "+" + "-" * 78 + "+"]))


def _say_interrupted(protocol: Path, out: Path | None, sets: tuple[str, ...], files: tuple[Path, ...], device: str) -> None:
    words = ["cxr-eval", "run", str(protocol), *(["--out", str(out)] if out else [])]
    words += [word for each in sets for word in ("--set", each)]
    words += [word for file in files for word in ("--plugin", str(file))]
    words += ["--device", device] if device != "auto" else []
    click.echo(f"Interrupted. Finished cells are kept. To go on: {shlex.join(words)}", err=True)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """What shows the events of a run: nothing, its messages, or on a terminal a bar below them."""
    if quiet:
        yield lambda event: None
    elif not sys.stdout.isatty():
        yield lambda event: click.echo(event.message) if event.message else None
    else:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task("starting", total=None)

            def show(event: Event) -> None:
                if event.message:
                    progress.console.print(event.message, markup=False, highlight=False)
                where = f"cell {event.cell + 1} of {event.cells}: " if event.cells else ""
                if event.step:
                    progress.update(task, description=where + event.step, completed=event.done, total=event.total or None)

            yield show


if __name__ == "__main__":
    main(prog_name="cxr-eval")
