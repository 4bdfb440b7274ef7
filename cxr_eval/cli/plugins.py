"""`cxr-eval plugins`: list, describe, check and start plugins."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from cxr_eval.cli.completion import plugin_names
from cxr_eval.cli.options import FILES, settings
from cxr_eval.errors import PluginError

if TYPE_CHECKING:
    from cxr_eval.registry import Kind

KINDS = ("trainers", "readers", "models", "attacks", "corruptions", "explainers", "explanation_metrics")


@click.group()
def plugins() -> None:
    """List, describe, check and start plugins."""


@plugins.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False, metavar="[KIND]")
@FILES
def list_plugins(kind: str | None, files: tuple[Path, ...]) -> None:
    """Print the installed plugins, of one KIND if it is given; none of these is imported.

    NAME/... is a family, several plugins under one name; `plugins describe NAME` lists them.
    """
    from cxr_eval import registry
    from cxr_eval.cli.families import is_family

    for each in registry.KINDS if kind is None else (cast("Kind", kind),):
        points = registry.installed(each)
        # a family is several plugins under one name
        shown = {f"{name}/..." if is_family(point) else name: point for name, point in points.items()}
        width = max(map(len, shown), default=0)
        click.echo(each)
        for name, point in shown.items():
            click.echo(f"  {name:{width}}  {registry.package_of(point)}")


@plugins.command()
@click.argument("name", shell_complete=plugin_names())
@click.option("--kind", type=click.Choice(KINDS), help="Where two kinds have a plugin of that name.")
@FILES
def describe(name: str, kind: str | None, files: tuple[Path, ...]) -> None:
    """Print what the plugin NAME does, its settings with bounds and defaults, its source, and how a protocol names it."""
    from cxr_eval import describe as description

    click.echo("\n\n".join(description.pages(name, cast("Kind | None", kind))))


@plugins.command()
@click.argument("name", shell_complete=plugin_names("trainers"))
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Check it with this setting: eps=8/255.")
@FILES
def check(name: str, sets: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Check that the trainer NAME keeps the contract of a trainer, rule by rule, on a toy network."""
    cls = _trainer(name)
    given = settings(name, cls, sets)
    from cxr_eval import testing

    outcomes = testing.check_trainer(cls, given)
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
