"""The delimited text files that datasets come with: rows by column name, each with its file and line."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cxr_eval.api as cxr

if TYPE_CHECKING:
    from _csv import Reader as Cells


@dataclass(frozen=True)
class Row:
    """One row of a file. place: `labels.csv:17`, for messages; cells: stripped text by plain column name."""

    place: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        """The cell of a column; empty text where the file has no such column or the row is shorter."""
        return self.cells.get(column, "")


def plain(name: str) -> str:
    """A column's name as releases agree on it: no case, no spaces around it, `_` for those inside."""
    return "_".join(name.casefold().split())


@contextmanager
def delimited(path: Path) -> Iterator[Cells]:
    """The cells of a file, row by row from its header on, with the comma, semicolon or tab that the header is written with.

    Raises:
        DataError: the file cannot be read, or is not UTF-8 text; also if that shows only while rows are taken.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            yield csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
    except UnicodeDecodeError as error:
        raise cxr.DataError(f"{path}: is not UTF-8 text ({error.reason}); take the file as it was distributed") from None
    except (OSError, csv.Error) as error:
        raise cxr.DataError(f"{path}: cannot be read: {error}") from None


def listed(path: Path, *, columns: tuple[str, ...]) -> list[Row]:
    """Rows below the header of a file with comma, semicolon or tab; blank lines are none.

    columns: plain names that the header must have; it may have others, unnamed ones too. Cells missing at a row's end count as
    empty.

    Raises:
        DataError: the file cannot be read, is not UTF-8 text, holds no row, lacks a column, or has a row with more cells.
    """
    with delimited(path) as reader:
        names = [plain(name) for name in next(reader, [])]
        missing = [name for name in columns if name not in names]
        if missing:
            raise cxr.DataError(f"{path}:1: expected columns {', '.join(columns)}; '{missing[0]}' is not in: {_shown(names)}")
        rows: list[Row] = []
        line = reader.line_num + 1  # where a row begins: quoted cells may hold line breaks
        for cells in reader:
            if any(cells[len(names) :]):
                raise cxr.DataError(f"{path}:{line}: {len(cells)} cells, expected {len(names)} as in the header")
            if any(cells):
                named = zip(names, cells, strict=False)  # spreadsheets leave out empty cells at a row's end
                rows.append(Row(f"{path}:{line}", {name: cell.strip() for name, cell in named if name}))
            line = reader.line_num + 1
    if not rows:
        raise cxr.DataError(f"{path}: holds no row below its header")
    return rows


def files(root: Path, suffix: str) -> Iterator[Path]:
    """Files below a folder that end so, in any case, sorted by folder and name; hidden ones and `__MACOSX` are left out."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield from (Path(folder, name) for name in sorted(names) if name.casefold().endswith(suffix) and name[0] != ".")


def _shown(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if any(names) else "an empty line"
