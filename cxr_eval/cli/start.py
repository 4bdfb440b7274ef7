"""`cxr-eval init` and `cxr-eval plan`: a first protocol, and what a protocol would run and take."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from cxr_eval.cli.options import DEVICE, FILES, PROTOCOL, SETS, cut_short, framed, load_protocol, progress, say_demonstration
from cxr_eval.errors import CxrEvalError, ProtocolError
from cxr_eval.events import printable
from cxr_eval.starting.answers import Answers, joined
from cxr_eval.starting.interview import QUESTIONS, Question, write

_NO_PATIENT = (
    "PATIENTS ARE NOT KNOWN. Every image will count as a patient of its own: intervals are then too narrow, and if a patient"
    " has several images, the same patient may be trained and tested on. Name the column with --patient if there is one."
)


@click.command()
@PROTOCOL
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder; runs/NAME-HASH if not given.")
@SETS
@cut_short
@FILES
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(protocol: Path, out: Path | None, device: str, as_json: bool, **given: Any) -> None:
    """Say what PROTOCOL would run, what of it is there already, and what the rest takes.

    Time and memory are measured on a few batches of each model and trainer. Images are prepared in the cache; the run folder is
    left as it is.
    """
    given.pop("files")
    loaded = load_protocol(protocol, given.pop("sets"), **given)
    if not as_json:
        say_demonstration(loaded)
    from cxr_eval.estimating import estimate
    from cxr_eval.runner import cache_folder

    with progress(as_json) as on_event:
        found = estimate.estimate(loaded, out=out, device=device, cache=cache_folder(), on_event=on_event)
    click.echo(json.dumps(found.record(), indent=2, ensure_ascii=False) if as_json else "\n".join(estimate.lines(found)))


def _questions(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a flag for each question."""
    for question in reversed(QUESTIONS):
        command = click.option(question.flag, metavar="ANSWER", help=f"{question.ask}. {question.why}")(command)
    return command


def interactive() -> bool:
    """True if somebody can be asked."""
    return sys.stdin.isatty()


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="protocol.yaml")
@_questions
@click.option("--yes", is_flag=True, help="Take the usual answer to every question that has no flag.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def init(file: Path, yes: bool, force: bool, **flags: str | None) -> None:
    """Write a commented protocol for your data to FILE: protocol.yaml if not given.

    Asks about the data and offers what fits; each answer may be given as a flag instead. In a list, commas stand between the
    names; - means that there is none. FILE is written once it is found to be right, and is never overwritten without --force.
    """
    if file.exists() and not force:
        raise ProtocolError(f"{file}: is there already; name another file, or overwrite it with --force")
    if not file.absolute().parent.is_dir():
        raise ProtocolError(f"{file}: its folder is not there; make it, or name another file")
    try:
        answers = _answers(flags, yes)
    except click.Abort:
        click.echo("\nNothing was written.", err=True)
        raise click.exceptions.Exit(130) from None
    told = write(file, answers)
    click.echo("\n".join(told))
    if answers.get("patient", "known") is None:
        click.echo(framed(_NO_PATIENT), err=True)
    click.echo(f"Written: {file}")
    click.echo(f"Next: cxr-eval data check {shlex.quote(str(file))}, then cxr-eval run {shlex.quote(str(file))}")


def _answers(flags: Mapping[str, str | None], yes: bool) -> Answers:
    """An answer to every question that the answers before it leave open."""
    answers: Answers = {}
    missing: list[str] = []
    for question in QUESTIONS:
        try:
            if not question.when(answers):
                continue
            given = flags[question.name]
            if given is None and not yes and interactive():
                answers[question.name] = _asked(question, answers)
                continue
            usual = question.default(answers) if given is None else None
        except KeyError:  # it follows from an answer that is missing
            continue
        if given is None and (usual is None or not yes):
            missing.append(question.flag)
        given = usual if given is None else given  # also where a flag is missing: the next flags follow from its answer
        if given is None:
            continue
        try:
            answers[question.name] = question.read(given, answers)
        except KeyError:
            continue
        except CxrEvalError as error:
            raise ProtocolError(f"{question.flag}: {error}") from None
    if missing and yes:
        raise ProtocolError(f"There is no usual answer for: {', '.join(missing)}. Give these flags.")
    if missing:
        told = f"Nobody can be asked here, and these flags are missing: {', '.join(missing)}."
        raise ProtocolError(f"{told} Give them, or take the usual answers with --yes.")
    if unused := [q.flag for q in QUESTIONS if flags[q.name] is not None and q.name not in answers]:
        raise ProtocolError(f"{', '.join(unused)}: nothing asks for this with the other answers; take it out")
    return answers


def _asked(question: Question, answers: Answers) -> Any:
    """The answer of a person, asked again until it can be used."""
    click.echo(f"\n{question.why}")
    if choices := question.choices(answers):
        click.echo(f"  Fits: {printable(joined(choices))}")
    default = question.default(answers)
    while True:
        text = str(click.prompt(question.ask, default=None if default is None else printable(default), type=str)).strip()
        # what is shown of a default may be escaped
        text = default if default is not None and text == printable(default) else text
        try:
            return question.read(text, answers)
        except CxrEvalError as error:
            click.echo(printable(str(error)))
