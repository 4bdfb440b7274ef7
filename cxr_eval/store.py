"""The run folder: everything computed is a file here, written whole, and a report reads nothing else.

    manifest.json            what identifies the run: protocol, data, versions, seeds, device, cells, settings, times
    protocol.yaml            the protocol as it was given, with the files that it includes in included/
    rows.csv                 one number a line
    warnings.json            stored doubts
    skipped.csv              images left out, and why
    counts.csv               images and patients by data set, split and class
    history.csv              training history of every cell
    gallery.json, gallery.npz  explained images shown in the report
    audit.json, audit.npz    what the audit of the images found; not in folders of older versions
    checks.csv               validity of attacks and self-tests, one check a line; likewise
    differences.csv          trainers compared on the same images, one number a line; likewise
    gaps.csv                 subgroups compared, one number a line; likewise
    curves.csv               points of reliability, ROC and precision-recall curves; likewise
    tables.json              by cell, the per-image tables that its numbers were made from; likewise
    cells/KEY/               one model x trainer x seed: weights.safetensors, history.csv, checkpoint.pt while training
    cells/KEY/EVALUATION/    one evaluation of it: per-image tables (parquet), maps (npz)
    report.html, report.md, figures/

A cell or evaluation counts as done when its `done.json` is there: it is written last and lists the other files.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.errors import RunError
from cxr_eval.types import ROW_COLUMNS, Row, RowWarning, SkippedFile

DONE = "done.json"
FILES = (
    *("protocol.yaml", "rows.csv", "warnings.json", "skipped.csv", "counts.csv", "history.csv"),
    *("gallery.json", "gallery.npz"),
)
"""What a report reads beside the manifest, which holds their hashes."""
INCLUDED = "included"
"""Folder of the files that the protocol includes."""
LATER_TABLES = ("checks", "differences", "gaps", "curves")
"""Tables that folders of older versions lack."""
NAMES_OF = {"gaps": ("column", "value"), "curves": ("figure", "series")}
"""Columns that hold names in one of these tables alone."""
TABLES = "tables.json"
AUDIT_FILES = ("audit.json", "audit.npz")
"""What the audit of the images found, where there was one."""
SCHEMA = 1
"""Version of the run folder's layout; raised when a reader of the old one would misread the new one."""

TEXT: dict[Hashable, type[str]] = dict.fromkeys(
    (
        *(field.name for field in fields(Row) if field.type not in ("int", "float")),
        *(field.name for field in fields(SkippedFile)),
        *("dataset", "class", "kind", "check", "title", "verdict", "numbers", "sentence", "against"),
    ),
    str,
)
"""Columns of the tables here that hold names, which pandas must not take for numbers."""


def content_key(content: Any) -> str:
    """Sixteen hexadecimal digits that follow from plain data (dicts, lists, text, numbers) and from nothing else."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there completely or not at all: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Plain data as JSON that a person can read."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """A table as CSV; numbers keep every digit, missing ones stay empty."""
    write_whole(path, table.to_csv(index=False, lineterminator="\n").encode())


def _read_csv(path: Path, *, exact: Sequence[str] = (), text: Sequence[str] = ()) -> pd.DataFrame:
    """A table that `write_csv` wrote: names stay text (class `007`, model `NA`); numbers in `exact` have every digit.

    text: columns that hold names in this table alone.
    """
    # parsed by Python: pandas before version 3 reads the last digit of one number in ten wrong
    table = pd.read_csv(
        path,
        dtype=TEXT | dict.fromkeys((*exact, *text), str),
        keep_default_na=False,
        na_values={} if exact else [""],
        lineterminator="\n",  # else a name with a carriage return would end its line
    )
    table = table.fillna({name: "" for name in TEXT if name in table})
    for column in exact:
        table[column] = [float(text or "nan") for text in table[column]]
    return table


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """A table as parquet."""
    content = table.to_parquet(index=False)
    assert content is not None
    write_whole(path, content)


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Named arrays as one compressed npz file."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # numpy's stub knows no mapping of arrays
    write_whole(path, content.getvalue())


class Work:
    """One folder of computed files that is either done or to be done again: a cell, or one evaluation of a cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def done(self) -> bool:
        """True if the work was finished and every file that it wrote is still there with its size."""
        if not (self.folder / DONE).is_file():
            return False
        try:
            files = self.about()["files"]
        except ValueError:  # a machine that lost its power may keep the name and not the content
            return False
        return all(
            (self.folder / name).is_file() and (self.folder / name).stat().st_size == entry["bytes"]
            for name, entry in files.items()
        )

    def begin(self) -> Path:
        """The folder, made if need be, with what an unfinished attempt left (a checkpoint) still in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / DONE).unlink(missing_ok=True)
        return self.folder

    def finish(self, **about: Any) -> None:
        """Mark the work as done, with whatever is worth knowing about it; sizes and hashes of its files are added."""
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)}
            for path in sorted(self.folder.iterdir())
            if path.is_file() and path.name != DONE and not path.name.startswith(".")
        }
        write_json(self.folder / DONE, about | {"files": files})

    def about(self) -> dict[str, Any]:
        """What `finish` was told, with `files`."""
        content: dict[str, Any] = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        return content

    def adopt(self, other: Work) -> None:
        """Take over finished work of another run: hard links where the file system has them, copies elsewhere."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=f".{self.folder.name}."))
        part.chmod(0o755)
        for name in [*other.about()["files"], DONE]:
            try:
                os.link(other.folder / name, part / name)
            except OSError:
                shutil.copy2(other.folder / name, part / name)
        if self.folder.exists():  # an unfinished attempt; its nested evaluations are not ours to drop
            for path in sorted(part.iterdir(), key=lambda path: path.name == DONE):  # the mark last
                path.replace(self.folder / path.name)
            shutil.rmtree(part)  # not rmdir: a hard link that replaces another of the same file stays where it was
        else:
            part.replace(self.folder)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Gallery:
    """Explained images for the report; `entries` name arrays in `arrays`.

    An entry, one an image or, where findings are explained, one an image and class, has image_id, split, label, `clean` (key of
    (H, W) or (H, W, 3) uint8), `regions` ({kind: key of (H, W) bool}) and
    `panels`: one a model, trainer and condition, of one seed a model, each with model, trainer, seed, condition, predicted,
    probability (of the predicted class), probability_label, `perturbation` (key of float16 shaped like clean, attacked minus
    clean; null where clean), `largest` (size of its largest value; folders of older versions lack it) and
    `maps` ({explainer: key of (H, W) float16, each divided by its largest size, in steps of 1/127}).
    """

    entries: list[dict[str, Any]]
    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Audit:
    """What the audit of the images found.

    content: warnings, loaded, skipped and suspects as lists of records, and tables, a dict of such lists. arrays: small
    pictures (h, w) or (h, w, 3) uint8 by the keys that suspects name.
    """

    content: dict[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]


def write_audit(folder: Path, audit: Audit) -> None:
    """`audit.npz` and then `audit.json`, so that the second is there only with the first."""
    write_arrays(folder / "audit.npz", audit.arrays)
    write_json(folder / "audit.json", audit.content)


def read_audit(folder: Path) -> Audit | None:
    """What `write_audit` wrote, None where it did not; pictures are loaded as they are asked for."""
    if not all((folder / name).is_file() for name in AUDIT_FILES):
        return None
    content = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    return Audit(content, np.load(folder / "audit.npz", allow_pickle=False))


class Run:
    """One run folder, to write and to read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run, to read.

        Raises:
            RunError: the folder is not a finished run, or was written by a newer version.
        """
        run = cls(folder)
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder; expected a run folder")
        if not (folder / "manifest.json").is_file():
            raise RunError(f"{folder}: no manifest.json; expected a run folder, or the run has not finished (run it again)")
        try:
            schema = run.manifest().get("schema")
        except (ValueError, AttributeError):
            raise RunError(f"{folder / 'manifest.json'}: not a run's manifest; run it again") from None
        if schema != SCHEMA:
            raise RunError(
                f"{folder}: run folder of layout {schema}, this version reads {SCHEMA}; use the version that wrote it"
            )
        for name, digest in run.manifest().get("files", {}).items():
            if not (folder / name).is_file() or file_hash(folder / name) != digest:
                raise RunError(
                    f"{folder / name}: missing, or changed since the run wrote it; run the protocol again to restore it"
                )
        return run

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the folder to oneself.

        Raises:
            RunError: another run is at work in it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be written ({error.strerror}); choose another folder with --out") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"{self.folder}: another run is at work in this folder; wait for it, or choose another"
                ) from None
            yield

    def cell(self, key: str) -> Work:
        """The training of one cell."""
        return Work(self.folder / "cells" / key)

    def evaluation(self, cell: str, key: str) -> Work:
        """One evaluation of a cell."""
        return Work(self.folder / "cells" / cell / key)

    def neighbours(self, cell: str, evaluation: str | None = None) -> Iterable[Work]:
        """The same finished work in run folders beside this one."""
        parts = ("cells", cell) if evaluation is None else ("cells", cell, evaluation)
        for folder in sorted(self.folder.parent.glob("*/manifest.json")) + sorted(self.folder.parent.glob("*/cells")):
            work = Work(folder.parent.joinpath(*parts))
            if folder.parent != self.folder and work.done:
                yield work

    def write(
        self,
        *,
        manifest: dict[str, Any],
        protocol: str,
        included: Mapping[str, str],
        rows: Iterable[Row],
        warnings: Iterable[RowWarning],
        skipped: Iterable[SkippedFile],
        counts: pd.DataFrame,
        history: pd.DataFrame,
        gallery: Gallery,
        audit: Audit | None = None,
        later: Mapping[str, pd.DataFrame] | None = None,
        tables: Mapping[str, Any] | None = None,
    ) -> None:
        """Everything a report needs; the manifest last, for it makes the folder a run.

        included: texts of the files that the protocol includes, by name. later: tables named in `LATER_TABLES`. tables: by the
        key of a cell, the record of its per-image tables.
        """
        (self.folder / "manifest.json").unlink(missing_ok=True)  # no new rows under an old manifest
        write_whole(self.folder / "protocol.yaml", protocol.encode())
        for name, text in included.items():
            write_whole(self.folder / INCLUDED / name, text.encode())
        values = [[getattr(row, name) for name in ROW_COLUMNS] for row in rows]
        write_csv(self.folder / "rows.csv", pd.DataFrame(values, columns=list(ROW_COLUMNS)))
        write_json(self.folder / "warnings.json", [asdict(warning) for warning in warnings])
        skipped_columns = list(SkippedFile.__dataclass_fields__)
        write_csv(self.folder / "skipped.csv", pd.DataFrame([asdict(s) for s in skipped], columns=skipped_columns))
        write_csv(self.folder / "counts.csv", counts)
        write_csv(self.folder / "history.csv", history)
        write_json(self.folder / "gallery.json", gallery.entries)
        write_arrays(self.folder / "gallery.npz", gallery.arrays)
        for name in AUDIT_FILES:
            (self.folder / name).unlink(missing_ok=True)  # an earlier audit is not of these images
        if audit is not None:
            write_audit(self.folder, audit)
        for name in LATER_TABLES:
            (self.folder / f"{name}.csv").unlink(missing_ok=True)
        for name, table in (later or {}).items():
            write_csv(self.folder / f"{name}.csv", table)
        write_json(self.folder / TABLES, tables or {})
        written = (*FILES, TABLES) if audit is None else (*FILES, TABLES, *AUDIT_FILES)
        written = (*written, *(f"{name}.csv" for name in later or {}))
        files = {name: file_hash(self.folder / name) for name in (*written, *(f"{INCLUDED}/{name}" for name in included))}
        write_json(self.folder / "manifest.json", {"schema": SCHEMA} | manifest | {"files": files})

    def manifest(self) -> dict[str, Any]:
        """What identifies the run."""
        content: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        return content

    def rows(self) -> pd.DataFrame:
        """One measured number a line, columns as in `types.Row`."""
        rows = _read_csv(self.folder / "rows.csv", exact=("value", "low", "high"))
        lacking = [field.name for field in fields(Row) if field.name not in rows]  # written before there was such a column
        return rows.assign(**dict.fromkeys(lacking, ""))

    def warnings(self) -> list[RowWarning]:
        """Stored doubts."""
        return [RowWarning(**entry) for entry in json.loads((self.folder / "warnings.json").read_text(encoding="utf-8"))]

    def table(self, name: str) -> pd.DataFrame:
        """`skipped`, `counts`, `history` or one of `LATER_TABLES` as it was written; empty if an older version did not."""
        path = self.folder / f"{name}.csv"
        if name in LATER_TABLES and not path.is_file():
            return pd.DataFrame()
        return _read_csv(path, text=NAMES_OF.get(name, ()))

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """By the key of a cell, the record of its per-image tables; empty if an older version wrote none."""
        path = self.folder / TABLES
        found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def gallery(self) -> Gallery:
        """Explained images, loaded array by array as they are asked for."""
        entries = json.loads((self.folder / "gallery.json").read_text(encoding="utf-8"))
        return Gallery(entries, np.load(self.folder / "gallery.npz", allow_pickle=False))

    def audit(self) -> Audit | None:
        """What the audit of the images found; None in a folder without one."""
        return read_audit(self.folder)
