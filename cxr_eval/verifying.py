"""A run looked over again: every hash, and every number made anew from its per-image tables, without torch and images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_eval.comparing import compare_trainers
from cxr_eval.errors import RunError
from cxr_eval.events import Event
from cxr_eval.facts import Facts
from cxr_eval.report.render import render
from cxr_eval.scoring import CellScores, curves_of
from cxr_eval.store import DONE, Run, file_hash
from cxr_eval.tables import CellTables
from cxr_eval.types import ROW_COLUMNS

MOST_TOLD = 5
"""Lines about numbers of one file that differ; more are counted."""

NEAR = 1e-9
"""How far numbers may be apart, relative to their size: other versions of numpy add in another order."""

REPORTS = "files of the reports are what the run's files give"
TABLES = ("rows", "differences", "gaps", "curves")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, how much of it, and what is wrong, a line each; none if nothing is."""

    what: str
    count: int
    wrong: tuple[str, ...]

    @property
    def line(self) -> str:
        """`ok       1,234 rows made again ...`."""
        return f"{'WRONG' if self.wrong else 'ok':7}  {self.count:,} {self.what}"


def verify(run: Run, *, on_event: Callable[[Event], None] = lambda event: None) -> list[Finding]:
    """What was looked at in a run folder, and what is wrong with it.

    Hashes: of the run's files (`Run.open` refuses one that changed), and of every file of cells and evaluations that numbers
    come from, as it was when it was computed. Numbers: rows.csv, differences.csv, gaps.csv and curves.csv, made again from
    these files; sizes of the sets and the training history likewise. Reports: report.html and report.md, where they are there,
    with their cards and figures, made again from the run's files. What this cannot show: that the tables are what the networks
    said; what warnings, checks, counts, audit and gallery said before someone changed them and their hash in the manifest; and
    whether the manifest tells the truth about device, dates and data, if the reports were written again from it. That only a
    new run shows.

    Raises:
        RunError: the folder is of a version that did not list its tables.
    """
    manifest = run.manifest()
    facts = Facts(manifest)
    cells = cells_of(run, facts)
    found = [Finding("files of the run are as it wrote them", len(manifest["files"]), ())]
    on_event(Event("hashes of cells", step="hashes"))
    found.append(_hashes(run, cells))
    if any(finding.wrong for finding in found):
        return found  # numbers from other tables say nothing
    rows: list[Any] = []
    gaps = []
    for place, cell in enumerate(cells):
        on_event(Event(step=f"{cell.model} / {cell.trainer} / seed {cell.seed}", done=place, total=len(cells)))
        rows += cell.rows()
        gaps.append(cell.gaps())
    made = {
        "rows": pd.DataFrame([[getattr(row, name) for name in ROW_COLUMNS] for row in rows], columns=list(ROW_COLUMNS)),
        "differences": compare_trainers(facts, cells),
        "gaps": pd.concat(gaps, ignore_index=True) if gaps else pd.DataFrame(),
        "curves": curves_of(cells, facts),
    }
    for name in TABLES:
        stored = run.rows() if name == "rows" else run.table(name)
        found.append(_compared(name, stored, made[name]))
    return [*found, _facts(run, manifest, cells), *_reports(run, manifest)]


def cells_of(run: Run, facts: Facts) -> list[CellScores]:
    """The cells of a run that were trained, with their tables.

    Raises:
        RunError: the folder is of a version that did not list them, or is a comparison of runs.
    """
    if "compared" in facts.manifest:
        folders = ", ".join(folder for _, _, folder in facts.manifest["compared"]["runs"])
        raise RunError(f"{run.folder}: a comparison, which has no tables of its own; name the runs that it compares: {folders}")
    record = run.tables()
    if not record and any(cell["status"] == "done" for cell in facts.manifest["cells"]):
        told = "written by a version that did not list its tables; run the protocol again, what is computed is kept"
        raise RunError(f"{run.folder}: {told}")
    return [
        CellScores(
            facts,
            CellTables.stored(run.cell(cell["key"]).folder, record.get(cell["key"], [])),
            cell["model"],
            cell["trainer"],
            int(cell["seed"]),
        )
        for cell in facts.manifest["cells"]
        if cell["status"] == "done"
    ]


def _hashes(run: Run, cells: list[CellScores]) -> Finding:
    """Files of cells and of the evaluations that their numbers come from, against the hashes in their `done.json`."""
    wrong, count = list[str](), 0
    for cell in cells:
        used = dict.fromkeys(path.parent for path in cell.tables.files)
        for folder in (cell.tables.folder, *used):
            files, told = _listed(folder)
            wrong += told
            for name, entry in files.items():
                count += 1
                path = folder / name
                if not path.is_file():
                    wrong.append(f"{_within(path, run)}: missing")
                elif file_hash(path) != entry["sha256"]:
                    wrong.append(f"{_within(path, run)}: changed since it was computed")
        listed = {folder / name for folder in used for name in _listed(folder)[0]}
        wrong += [
            f"{_within(path, run)}: not among the files of its evaluation" for path in cell.tables.files if path not in listed
        ]
    return Finding("files of cells and evaluations have the hashes that they were given", count, _some(wrong))


def _listed(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What `done.json` lists, and what is wrong with it."""
    try:
        content = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return content["files"], []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, [f"{folder / DONE}: cannot be read ({type(error).__name__})"]


def _within(path: Path, run: Run) -> str:
    return str(path.relative_to(run.folder))


def _compared(name: str, stored: pd.DataFrame, made: pd.DataFrame) -> Finding:
    """A table of the run against the same made again, line by line."""
    what = f"lines of {name}.csv are what the per-image tables give"
    if len(stored) != len(made):
        return Finding(what, len(stored), (f"{name}.csv has {len(stored):,} lines; the tables give {len(made):,}",))
    wrong = []
    columns = list(map(str, made.columns))
    lacking = [column for column in columns if column not in stored]
    if lacking:
        return Finding(what, len(stored), (f"{name}.csv has no column '{lacking[0]}'",))
    lines = zip(stored[columns].itertuples(index=False), made.itertuples(index=False), strict=True)
    for number, (ours, theirs) in enumerate(lines, start=2):
        for column, before, after in zip(columns, ours, theirs, strict=True):
            if not _same(before, after):
                wrong.append(f"{name}.csv:{number}: {column} is {before}; the tables give {after}")
                break
    return Finding(what, len(stored), _some(wrong))


def _same(stored: Any, made: Any) -> bool:
    """Whether a value was stored as it is made now; text stands for itself, an empty field for None and NaN."""
    if isinstance(made, float) or isinstance(stored, float):
        ours, theirs = (float("nan") if value in ("", None) else float(value) for value in (stored, made))
        return math.isclose(ours, theirs, rel_tol=NEAR, abs_tol=NEAR) or (math.isnan(ours) and math.isnan(theirs))
    return str("" if stored is None else stored) == str("" if made is None else made)


def _facts(run: Run, manifest: dict[str, Any], cells: list[CellScores]) -> Finding:
    """Sizes of the sets in the manifest and the training history, against the tables of the cells."""
    wrong, count = list[str](), 0
    for cell in cells:
        for split in ("val", *cell.facts.splits):
            clean, said = cell.tables.read("clean", split=split), manifest["data"]["splits"][split]
            count += 2
            for what, made in (("images", len(clean)), ("patients", clean["patient"].nunique())):
                if said[what] != made:
                    wrong.append(f"manifest.json: '{split}' has {said[what]} {what}; the tables give {made}")
    history = run.table("history")
    for cell in cells:
        mine = history[(history["model"] == cell.model) & (history["trainer"] == cell.trainer) & (history["seed"] == cell.seed)]
        epochs = pd.read_csv(cell.tables.folder / "history.csv")
        count += len(epochs)
        told = _compared("history", mine, epochs).wrong
        wrong += [f"{cell.model} / {cell.trainer} / seed {cell.seed}: {line}" for line in told]
    return Finding("sizes of sets and epochs of training are what the cells give", count, _some(list(dict.fromkeys(wrong))))


def _some(wrong: list[str]) -> tuple[str, ...]:
    more = len(wrong) - MOST_TOLD
    return tuple(wrong[:MOST_TOLD] + ([f"and {more:,} more"] if more > 0 else []))


def _reports(run: Run, manifest: dict[str, Any]) -> Iterator[Finding]:
    """The reports in the folder, with their cards and figures, against the same made again."""
    there = [name for name in ("html", "md") if (run.folder / f"report.{name}").is_file()]
    if not there:
        return
    wrote = manifest["versions"].get("cxr-eval")
    if wrote != version("cxr-eval"):
        yield Finding(f"reports looked at: cxr-eval {wrote} wrote them, which shows them otherwise", 0, ())
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        render(run, there, out=Path(folder))
        made = {str(path.relative_to(folder)): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
        wrong = [
            f"{name}: not what the run's files give; write it again with: cxr-eval report {run.folder}"
            for name, path in made.items()
            if not (run.folder / name).is_file() or (run.folder / name).read_bytes() != path.read_bytes()
        ]
    yield Finding(REPORTS, len(made), _some(wrong))
