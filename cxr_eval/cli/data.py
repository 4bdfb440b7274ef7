"""`cxr-eval data`: what a dataset holds, and what is doubtful in the images of a protocol."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cxr_eval.cli.options import FILES, PROTOCOL, SETS, progress, say_demonstration, settings
from cxr_eval.errors import PluginError


@click.group()
def data() -> None:
    """Look at datasets before anything is trained on them."""


@data.command()
@click.argument("reader")
@click.option("--root", help="Folder of the dataset, for readers that have one.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Read it with this setting: labels=study.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@FILES
def describe(reader: str, root: str | None, sets: tuple[str, ...], as_json: bool, files: tuple[Path, ...]) -> None:
    """Print what READER finds: images, patients, classes, masks, boxes, and what it leaves out and why."""
    from cxr_eval import registry

    if root is not None and any(each.partition("=")[0].strip() == "root" for each in sets):
        raise PluginError("--root and --set root=... name two folders; give one of them")
    cls = registry.find("readers", reader)
    given = settings(reader, cls, (*sets, *([f"root={json.dumps(root)}"] if root is not None else [])))
    from cxr_eval.data.contents import contents, lines
    from cxr_eval.runner import cache_folder

    with progress(as_json) as on_event:
        found = contents(reader, cls(**given), cache=cache_folder(), on_event=on_event)
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(found)))


@data.command()
@PROTOCOL
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the report; checks/NAME if not given.")
@SETS
@FILES
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(protocol: Path, out: Path | None, sets: tuple[str, ...], files: tuple[Path, ...], as_json: bool) -> None:
    """Audit the images of PROTOCOL; nothing is trained.

    Patients and pictures on two sides of a split, unreadable files, suspects, and how far the source of a picture tells its
    label. Exit code 2 if one of the findings that data.audit.errors names is there.
    """
    from cxr_eval import protocol_file

    loaded = protocol_file.load(protocol, sets=sets)
    if not as_json:
        say_demonstration(loaded)
    from cxr_eval import checking
    from cxr_eval.runner import cache_folder

    with progress(as_json) as on_event:
        checked = checking.check(loaded, out=out, cache=cache_folder(), on_event=on_event)
    if as_json:
        click.echo(json.dumps(checked.findings, indent=2, ensure_ascii=False))
    else:
        for finding in checked.findings:
            click.echo(f"{finding['level']:5} {finding['code']}: {finding['message']}")
        click.echo(f"Report: {checked.report}")
    if checked.stopped:
        click.echo(f"data.audit.errors: found {', '.join(checked.stopped)}", err=True)
        raise click.exceptions.Exit(2)


@data.command()
@PROTOCOL
@SETS
@FILES
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prepare(protocol: Path, sets: tuple[str, ...], files: tuple[Path, ...], as_json: bool) -> None:
    """Decode all images of PROTOCOL into the cache, where runs find them; say where they are and how large.

    The cache is the folder that CXR_EVAL_CACHE names, or cxr_eval in the user's cache folder. What is there already is not
    decoded again.
    """
    from cxr_eval import protocol_file

    loaded = protocol_file.load(protocol, sets=sets)
    if not as_json:
        say_demonstration(loaded)
    from cxr_eval import preparing
    from cxr_eval.runner import cache_folder

    with progress(as_json) as on_event:
        found = preparing.prepare(loaded, cache=cache_folder(), on_event=on_event)
    click.echo(json.dumps(found.record(), indent=2, ensure_ascii=False) if as_json else "\n".join(preparing.lines(found)))
