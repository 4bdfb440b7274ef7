"""What the commands share: arguments and options, the settings of a plugin, the display of progress."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxr_eval.errors import PluginError

if TYPE_CHECKING:
    from cxr_eval.events import Event
    from cxr_eval.protocol_file import LoadedProtocol


def _register(ctx: click.Context, param: click.Parameter, files: tuple[Path, ...]) -> tuple[Path, ...]:
    if files and not ctx.resilient_parsing:  # completing a word in the shell runs no plugin
        from cxr_eval import registry

        ctx.call_on_close(registry.forget_files)
        for file in files:
            registry.register_file(file)
    return files


PROTOCOL = click.argument("protocol", type=click.Path(path_type=Path))
SETS = click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="Override a setting: train.epochs=3, trainers.0.eps=8/255."
)
FILES = click.option(
    "--plugin",
    "files",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    callback=_register,
    help="A Python file whose plugins hold as if they were installed.",
)


def settings(name: str, cls: type[Any], sets: tuple[str, ...]) -> dict[str, Any]:
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


def say_demonstration(loaded: LoadedProtocol) -> None:
    if not loaded.demonstration:
        return
    unset, reader = " and ".join(loaded.unset), loaded.protocol.data.train.reader
    text = (
        f"DEMONSTRATION. {unset} {'is' if len(loaded.unset) == 1 else 'are'} not set, so '{reader}' stands in for the images"
        " that the protocol names. The numbers say nothing about patients."
    )
    lines = textwrap.wrap(text, 76)
    click.echo("\n".join(["+" + "-" * 78 + "+", *(f"| {line:76} |" for line in lines), "+" + "-" * 78 + "+"]))


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Event], None]]:
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
