"""A run as a Python object: started from Python or opened from its folder, with rows, tables, figures and words."""

from __future__ import annotations

import textwrap
import webbrowser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from markupsafe import Markup

from cxr_eval.errors import ProtocolError, RunError, nearest
from cxr_eval.events import Event, printable
from cxr_eval.report import verdict
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import UNREPORTED, Results, plain
from cxr_eval.report.tables import Table, headline, main_table
from cxr_eval.store import Run
from cxr_eval.types import RowWarning

if TYPE_CHECKING:
    from cxr_eval.protocol_file import LoadedProtocol
    from cxr_eval.trackers import Tracker

WIDTH = 100
"""Columns of what is printed."""
PLACE = ("split", "condition", "explainer", "metric")
"""Levels of a pivot's columns."""

FORBIDDEN = "†"
"""Behind a number that a failed check says not to believe."""

Names = str | Iterable[str] | None
Sets = Mapping[str, Any] | Sequence[str]


@dataclass(frozen=True, repr=False)
class RunResult:
    """What one run left behind. A notebook shows its verdict and main table; everything else is an attribute."""

    run: Run
    failed: tuple[str, ...] = ()
    """A line for each network that could not be trained or evaluated."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    @property
    def report(self) -> Path | None:
        """The report to read, HTML where there is one; None if the protocol asked for none."""
        there = (self.folder / name for name in ("report.html", "report.md"))
        return next((path for path in there if path.is_file()), None)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Every number of the run: one row a model, trainer, seed, split, condition, explainer, metric and subgroup."""
        return self.run.rows()

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Trainers against each other on the same images."""
        return self.run.table("differences")

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """Subgroups against each other."""
        return self.run.table("gaps")

    @cached_property
    def checks(self) -> pd.DataFrame:
        """Whether attacks and explanations may be believed, one check a row."""
        return self.run.table("checks")

    @cached_property
    def history(self) -> pd.DataFrame:
        """Training, one row an epoch; empty where nothing was trained."""
        return self.run.table("history")

    @cached_property
    def warnings(self) -> pd.DataFrame:
        """Stored doubts about the numbers: code, level (note, warn, fail), scope, message."""
        columns = [field.name for field in fields(RowWarning)]
        return pd.DataFrame([asdict(warning) for warning in self.run.warnings()], columns=columns)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What identifies the run: data, plugins with their settings, versions, device."""
        return self.run.manifest()

    @cached_property
    def verdict(self) -> list[str]:
        """What the run may claim, in sentences; never more than its checks allow."""
        return verdict.verdict(self._results, self.differences if len(self.differences) else None)

    @cached_property
    def not_tested(self) -> list[str]:
        """What the numbers say nothing about."""
        return verdict.not_tested(self._results)

    @cached_property
    def figures(self) -> Mapping[str, Picture]:
        """The report's figures by key, in its order; each shows itself in a notebook and has `save(path)`."""
        from cxr_eval.report.render import page_content

        content = page_content(self.run, ())
        return {picture.key: picture for value in content.values() for picture in _pictures(value)}

    @cached_property
    def _results(self) -> Results:
        return Results(self.rows, self.manifest, self.run.warnings())

    def table(
        self, *metrics: str, split: Names = None, condition: Names = None, explainer: Names = None, subgroup: str = ""
    ) -> pd.DataFrame:
        """Models x trainers as rows, numbers with their 95 % intervals as text: `0.912 [0.874, 0.944]`, means over seeds.

        metrics: as rows.csv names them, `relevance_mass` for every `relevance_mass[...]`; if none is given, the main clean
        score, robust accuracy and calibration error. split, condition, explainer: names, or lists of them; all splits that were
        tested, clean images and the worst case over attacks, and all explainers, if not given. subgroup: such as `sex=F`. A
        number that a failed check says not to believe ends in †.

        Raises:
            RunError: the run has no number of that name.
        """
        results = self._results
        first = "accuracy" if not results.splits else headline(results, results.splits[0])
        known = {str(name) for name in self.rows["metric"]} | {str(name).partition("[")[0] for name in self.rows["metric"]}
        for name in metrics:
            if name not in known:
                raise RunError(f"{self.folder}: no metric '{name}'{nearest(name, known) or '; see the column metric of rows'}")
        wanted = metrics or (first, "robust_accuracy", "ece")
        chosen = {
            name: _listed(given) for name, given in (("split", split), ("condition", condition), ("explainer", explainer))
        }
        for name, names in chosen.items():
            for each in names or ():
                if each not in (there := set(map(str, self.rows[name]))):
                    raise RunError(
                        f"{self.folder}: no {name} '{each}'{nearest(each, there) or ': ' + ', '.join(sorted(there))}"
                    )
        cells: dict[tuple[str, str], dict[tuple[str, ...], str]] = {}
        for row in self.rows.to_dict("records"):
            place = {name: str(row[name]) for name in ("model", "trainer", *PLACE)}
            usual = place["split"] not in UNREPORTED if chosen["split"] is None else place["split"] in chosen["split"]
            of_condition = chosen["condition"] or ("clean", *(c for c in (place["condition"],) if c.startswith("worst")))
            if (
                row["subgroup"] == subgroup
                and usual
                and place["condition"] in of_condition
                and (chosen["explainer"] is None or place["explainer"] in chosen["explainer"])
                and (place["metric"] in wanted or place["metric"].partition("[")[0] in wanted)
            ):
                score = results.score(**place, subgroup=subgroup)
                at = tuple(place[name] for name in PLACE)
                if score is not None:
                    marked = f"{score.text} {score.interval}" + (f" {FORBIDDEN}" if score.failed else "")
                    cells.setdefault((place["model"], place["trainer"]), {})[at] = marked
        columns = list(dict.fromkeys(at for line in cells.values() for at in line))
        return pd.DataFrame(
            [[line.get(at, "") for at in columns] for line in cells.values()],
            index=pd.MultiIndex.from_tuples(list(cells), names=("model", "trainer")) if cells else None,
            columns=pd.MultiIndex.from_tuples(columns, names=PLACE) if columns else None,
        )

    def show(self) -> None:
        """Show the report: inside a notebook, or else in the browser.

        Raises:
            RunError: the run has no HTML report.
        """
        path = self.folder / "report.html"
        if not path.is_file():
            raise RunError(f"{self.folder}: has no report.html; write it with: cxr-eval report {self.folder}")
        try:
            from IPython import get_ipython
            from IPython.display import HTML, display
        except ImportError:
            get_ipython = None
        if get_ipython is not None and get_ipython() is not None:
            page = Markup.escape(path.read_text(encoding="utf-8"))
            display(HTML(f'<iframe srcdoc="{page}" style="width:100%;height:800px;border:0"></iframe>'))
        else:
            webbrowser.open(path.resolve().as_uri())

    def _headed(self) -> tuple[str, list[str]]:
        """Name and what was tested; then what drawn images or failed networks take away, and the verdict."""
        told = (
            ["Drawn images of no patient: the numbers say nothing about patients."] if verdict.is_drawn(self._results) else []
        )
        told += [f"Failed: {line}" for line in self.failed]
        return f"{self.manifest['name']}: {verdict.tested(self._results)}", told + self.verdict

    def _doubted(self) -> str:
        levels = self.warnings["level"]
        count = {level: int((levels == level).sum()) for level in ("fail", "warn", "note")}
        named = [("failed check", "fail"), ("warning", "warn"), ("note", "note")]
        told = [f"{count[level]} {noun}{'' if count[level] == 1 else 's'}" for noun, level in named if count[level]]
        return f"{', '.join(told)}: see .warnings" if told else "no warnings"

    def __repr__(self) -> str:
        first, told = self._headed()
        lines = textwrap.wrap(printable(first), WIDTH)
        for sentence in told:
            lines += textwrap.wrap(printable(sentence), WIDTH, initial_indent="  ", subsequent_indent="  ")
        return "\n".join([*lines, self._doubted(), printable(str(self.report or self.folder))])

    def _repr_html_(self) -> str:
        """The verdict and the main table, every name shown as text."""
        first, told = self._headed()
        parts = [f"<p><strong>{_text(first)}</strong></p>", "<ul>", *(f"<li>{_text(one)}</li>" for one in told), "</ul>"]
        tables = [table for split in self._results.splits if (table := main_table(self._results, split)) is not None]
        parts += [_html(table) for table in tables[:1]]
        parts.append(f"<p>{_text(self._doubted())}<br><code>{_text(str(self.report or self.folder))}</code></p>")
        return f"<div>{''.join(parts)}</div>"


def open(folder: Path | str) -> RunResult:
    """A run folder as an object; needs neither torch nor the images.

    Raises:
        RunError: the folder is not a finished run, or was changed since.
    """
    run = Run.open(Path(folder).expanduser())
    failed = [cell for cell in run.manifest()["cells"] if cell["status"] == "failed"]
    return RunResult(run, tuple(f"{c['model']} / {c['trainer']} / seed {c['seed']}: {c['error']}" for c in failed))


def run(
    protocol: Path | str | Mapping[str, Any],
    *,
    out: Path | str | None = None,
    device: str = "auto",
    set: Sets = (),
    quiet: bool = False,
    track: str | Tracker | Sequence[str | Tracker] = (),
) -> RunResult:
    """Run a protocol, as `cxr-eval run` does; what is computed already is not computed again.

    >>> result = cxr_eval.run("protocol.yaml", set={"train.epochs": 3})
    >>> result.table("accuracy", "robust_accuracy")

    protocol: a YAML file, or its content as a dict. out: the run folder; `runs/NAME-HASH` if not given. device: auto, cpu, cuda
    or cuda:N. set: overrides, as a dict of dotted keys or as `KEY=VALUE` texts. quiet: print nothing. track: mlflow, wandb,
    tensorboard, a tracker of your own, or several of them.

    Raises:
        CxrEvalError: the protocol, a plugin, the data or the device is not as it must be. A network whose training fails does
            not raise: it is in `failed`, and the others are there.
    """
    from cxr_eval import protocol_file

    loaded = protocol_file.load(_source(protocol), sets=overrides(set))
    return carried_out(loaded, out=out, device=device, quiet=quiet, track=track)


def carried_out(
    loaded: LoadedProtocol,
    *,
    out: Path | str | None,
    device: str,
    quiet: bool,
    track: str | Tracker | Sequence[str | Tracker],
    doubts: Sequence[RowWarning] = (),
) -> RunResult:
    """The result of a loaded protocol. doubts: what is known against its images or networks, stored with the run."""
    from cxr_eval import runner
    from cxr_eval.cli import options
    from cxr_eval.trackers import Tracker, tracking

    chosen = [track] if isinstance(track, (str, Tracker)) else list(track)
    with options.progress(quiet, loaded.protocol.name) as show:
        if told := options.demonstration(loaded):
            show(Event(told))
        with tracking(chosen, loaded, show) as tell:
            folder = None if out is None else Path(out).expanduser()
            outcome = runner.run(loaded, out=folder, device=device, on_event=tell, doubts=doubts)
            tell.done(outcome.folder, outcome.failed)
    return RunResult(Run(outcome.folder), outcome.failed)


def overrides(given: Sets) -> list[str]:
    """Overrides as `KEY=VALUE` texts.

    Raises:
        ProtocolError: one text where a list or a dict was expected.
    """
    if isinstance(given, str):
        raise ProtocolError(f"set: expected a dict or a list of KEY=VALUE, got the text '{given}'; write set=['{given}']")
    if not isinstance(given, Mapping):
        return [str(each) for each in given]
    from cxr_eval.marked_yaml import written

    return [f"{key}={_flow(yaml.safe_load(written({'value': value}, f'set: {key}'))['value'])}" for key, value in given.items()]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _source(protocol: Path | str | Mapping[str, Any]) -> Path | Mapping[str, Any]:
    """A path or a dict; a text with line ends is a protocol's content, which is refused."""
    if isinstance(protocol, Mapping):
        return protocol
    if isinstance(protocol, str) and "\n" in protocol:
        raise ProtocolError(
            "protocol: expected a path or a dict, got YAML text; save it to a file, or give yaml.safe_load(text)"
        )
    if not isinstance(protocol, (str, Path)):
        raise ProtocolError(f"protocol: expected a path or a dict, got {type(protocol).__name__}")
    return Path(protocol).expanduser()


def _pictures(value: Any) -> Iterator[Picture]:
    """Every picture in a part of the report's content, in its order."""
    if isinstance(value, Picture):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _pictures(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _pictures(inner)
    elif is_dataclass(value) and not isinstance(value, (type, RowWarning)):
        for field in fields(value):
            yield from _pictures(getattr(value, field.name))


def _listed(names: Names) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _text(words: str) -> str:
    return str(Markup.escape(plain(words)))


def _html(table: Table) -> str:
    """A report's table in plain HTML; the best of a column in bold."""
    heads = [*table.corner, *(column.text for column in table.columns)]
    doubted = False
    lines = [f"<caption>{_text(table.caption)}</caption>", "<tr>", *(f"<th>{_text(head)}</th>" for head in heads), "</tr>"]
    for group, block in table.groups:
        for line in block:
            cells = [f"<th>{_text(name)}</th>" for name in (group, *line.heads)]
            for cell in line.cells:
                shown = f"<strong>{_text(cell.text)}</strong>" if cell.best else _text(cell.text)
                shown += f"<sup>{FORBIDDEN}</sup>" if cell.doubt else ""
                doubted = doubted or cell.doubt
                cells.append(f"<td>{shown}{f' <small>{_text(cell.interval)}</small>' if cell.interval else ''}</td>")
            lines.append(f"<tr>{''.join(cells)}</tr>")
    notes = [table.note, f"{FORBIDDEN} A warning names this number." if doubted else ""]
    return f"<table>{''.join(lines)}</table><p>{_text(' '.join(filter(None, notes)))}</p>"
