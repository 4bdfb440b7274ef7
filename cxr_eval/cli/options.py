"""What the commands share: arguments and options, the settings of a plugin, the display of progress."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxr_eval.cli.completion import protocol_files
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


def _seeds(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[int, ...]:
    words = [word.strip() for each in given for word in each.split(",")]
    if wrong := [word for word in words if not (word.isascii() and word.isdecimal())]:
        raise click.BadParameter(f"expected whole numbers such as 0 or 0,1,2, got '{wrong[0]}'")
    return tuple(map(int, words))


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"expected auto, cpu, cuda or cuda:N, got '{value}'")
    return value


PROTOCOL = click.argument("protocol", type=click.Path(path_type=Path), shell_complete=protocol_files)
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
DEVICE = click.option(
    "--device", callback=_device, metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
GATES = click.option(
    "--gate",
    "gates",
    metavar="EXPRESSION",
    multiple=True,
    help="What must hold of the results, such as 'robust_accuracy@pgd:0.02 >= 0.6' or 'low(accuracy@clean) > 0.8 for"
    " trainer=fgsm'; exit code 1 if it does not.",
)
LIMIT = click.option("--limit", type=click.IntRange(min=2), metavar="N", help="At most N images of each split, drawn by class.")
SMOKE = click.option("--smoke", is_flag=True, help="Everything once and tiny, to see that it runs; the report says so first.")
ONLY = click.option(
    "--only",
    metavar="KEY=VALUE",
    multiple=True,
    help="Only these cells and those that they need: trainer=fgsm, model=resnet18, seed=0.",
)
SEEDS = click.option(
    "--seed", "seeds", metavar="N", multiple=True, callback=_seeds, help="Train from this seed, or from 0,1,2."
)


def cut_short(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that cut a run short: `--limit`, `--smoke`, `--only`, `--seed`."""
    for option in (SEEDS, ONLY, SMOKE, LIMIT):
        command = option(command)
    return command


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


def load_protocol(
    path: Path, sets: tuple[str, ...], *, limit: int | None, smoke: bool, only: tuple[str, ...], seeds: tuple[int, ...]
) -> LoadedProtocol:
    """The protocol as the command line changes it."""
    from cxr_eval import protocol_file

    given = (*sets, *([f"data.limit={limit}"] if limit is not None else []), *([f"train.seeds={[*seeds]}"] if seeds else []))
    loaded = protocol_file.load(path, sets=given, only=only)
    if not smoke:
        return loaded
    from cxr_eval import cut_short, plan

    whole = protocol_file.load(path, sets=given)  # the plugins of all cells: they are told apart by their settings
    return protocol_file.load(path, sets=given, only=only, smoke=cut_short.smoke(whole, plan.plan(whole)))


def demonstration(loaded: LoadedProtocol) -> str:
    """One sentence that says what stands in for images that are not there; nothing where they are there."""
    if not loaded.demonstration:
        return ""
    unset, reader = " and ".join(loaded.unset), loaded.protocol.data.train.reader
    return (
        f"DEMONSTRATION. {unset} {'is' if len(loaded.unset) == 1 else 'are'} not set, so '{reader}' stands in for the images"
        " that the protocol names. The numbers say nothing about patients."
    )


def framed(told: str) -> str:
    """A text in a frame."""
    lines = textwrap.wrap(told, 76)
    return "\n".join(["+" + "-" * 78 + "+", *(f"| {line:76} |" for line in lines), "+" + "-" * 78 + "+"])


def say_demonstration(loaded: LoadedProtocol) -> None:
    """Print what stands in for images that are not there."""
    if told := demonstration(loaded):
        click.echo(framed(told))


def progress(quiet: bool, title: str = "") -> AbstractContextManager[Callable[[Event], None]]:
    """What shows the events of a command: nothing, its messages line by line, or on a terminal a live display below them.

    title: what the display is headed by.
    """
    from cxr_eval.cli import display

    if quiet:
        return nullcontext(lambda event: None)
    return display.live(title) if display.fits_here() else nullcontext(display.line_by_line)
