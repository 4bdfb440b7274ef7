"""The columns of a CSV file of labels, and what each of them may hold by its name and its content."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cxr_eval.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".dicom", ".nii", ".nii.gz")
"""How names of image files end."""

_NOTHING = ("", "nan", "na", "n/a", "<na>")
_TRIED = 50  # images looked for in each folder
_FOLDERS = 200  # folders below the root in which images are looked for
_CLASSES = 30  # values of a column that may still be classes

_NAMES = {
    "image": r"image|img|file|path|dicom|picture|scan",
    "label": r"label|class|diagnos|finding|categor|target|disease|outcome|^dx$|^y$",
    "patient": r"patient|subject|person|case_?id|^pid$|^mrn$|lesion_id",
    "split": r"split|fold|^set$|subset|partition",
    "sex": r"sex|gender|geschlecht",
    "age": r"^age|_age|patient.?age|alter|years",
    "view": r"view|position|projection|orientation",
    "site": r"site|hospital|source|institut|cent(er|re)|clinic|klinik|scanner|device",
}
"""What columns are often called, by what they hold."""

_SEX = ("f", "female", "m", "male", "o", "other", "u", "unknown", "not reported")
_SPLIT = ("train", "val", "test")


@dataclass(frozen=True)
class Column:
    """One column: its name, and the cells that are not empty, as text in the file's order."""

    name: str
    cells: tuple[str, ...]

    @cached_property
    def values(self) -> tuple[str, ...]:
        """What it holds, each once, in the order in which it is first met."""
        return tuple(dict.fromkeys(self.cells))

    def all_are(self, test: Callable[[str], bool]) -> bool:
        """True if it holds something and all of it passes."""
        return bool(self.values) and all(map(test, self.values))


@dataclass(frozen=True)
class Columns:
    """A file of labels with its columns, and how many rows there are below the header."""

    path: Path
    columns: tuple[Column, ...]
    rows: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns."""
        return tuple(column.name for column in self.columns)

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def fitting(self, use: str) -> tuple[str, ...]:
        """Names of the columns that may be used so, the likeliest first: those that are also called so.

        use: image, label, patient, split, sex, age, view, site.
        """
        called = re.compile(_NAMES[use], re.IGNORECASE)
        found = [column for column in self.columns if not unfit(use, column, self.rows)]
        sure = [column for column in found if called.search(column.name)]
        if use in ("sex", "split"):  # told by their content alone
            sure += [column for column in found if column not in sure]
        elif use == "image":
            sure += [column for column in found if column not in sure and column.all_are(_is_image)]
            sure.sort(key=lambda column: not column.all_are(_is_image))
        return tuple(column.name for column in sure)

    @property
    def findings(self) -> tuple[str, ...]:
        """Columns that hold 0 and 1 and nothing else."""
        return tuple(
            column.name
            for column in self.columns
            if not unfit("finding", column, self.rows) and column.name not in self.fitting("patient")
        )


def read_columns(path: Path) -> Columns:
    """The columns of a CSV file with comma, semicolon or tab.

    Raises:
        DataError: it cannot be read, is not UTF-8 text, or is no table.
    """
    from cxr_eval.data.readers.listing import delimited  # here, not above: it loads torch

    with delimited(path) as reader:
        names = [name.strip() for name in next(reader, [])]
        cells: list[list[str]] = [[] for _ in names]
        rows = 0
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise DataError(f"{path}:{reader.line_num}: {len(row)} cells, expected {len(names)} as in the header")
            rows += 1
            for held, cell in zip(cells, row, strict=True):
                if cell.strip().casefold() not in _NOTHING:
                    held.append(cell.strip())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: two columns are called '{twice}'; rename one")
    if not rows:
        raise DataError(f"{path}: holds no row below its header; expected one row an image")
    return Columns(path, tuple(Column(name, tuple(held)) for name, held in zip(names, cells, strict=True)), rows)


def unfit(use: str, column: Column, rows: int) -> str:
    """Why a column cannot be used so, or nothing. use: as in `Columns.fitting`, or finding. rows: of the file."""
    if not column.values:
        return "is empty"
    if use == "image":
        if len(column.cells) < rows:
            return f"is empty in {rows - len(column.cells)} of {rows} rows"
        return "" if len(column.values) == rows else "names some images twice"
    if use == "label":
        if len(column.cells) < rows:
            return f"is empty in {rows - len(column.cells)} of {rows} rows"
        if len(column.values) < 2:
            return f"holds only '{column.values[0]}'; at least two classes are needed"
        many = len(column.values) > _CLASSES or (rows > 4 and len(column.values) > rows / 2)
        return f"holds {len(column.values)} different values, too many for classes" if many else ""
    if use == "patient":
        return "" if len(column.cells) == rows else f"is empty in {rows - len(column.cells)} of {rows} rows"
    tests: dict[str, tuple[Callable[[str], bool], str]] = {
        "finding": (lambda cell: cell in ("0", "0.0", "1", "1.0"), "0, 1 or nothing (unknown)"),
        "split": (lambda cell: cell.casefold() in _SPLIT, "train, val or test"),
        "sex": (lambda cell: cell.casefold() in _SEX, "F or M"),
        "age": (_is_age, "years"),
    }
    if use == "split" and len(column.cells) < rows:
        return f"is empty in {rows - len(column.cells)} of {rows} rows"
    if use in tests:
        test, wanted = tests[use]
        wrong = next((cell for cell in column.values if not test(cell)), None)
        return "" if wrong is None else f"holds '{_short(wrong)}', expected {wanted}"
    return "" if len(column.values) <= _CLASSES else f"holds {len(column.values)} different values, too many for subgroups"


def image_folders(root: Path, column: Column) -> list[str]:
    """Folders below `root`, relative to it, in which the images of a column are; `.` for the root itself."""
    tried = column.values[:_TRIED]
    return [folder for folder in _below(root) if all(os.path.isfile(root / folder / name) for name in tried)]


def missing_image(folder: Path, column: Column) -> tuple[int, int, str]:
    """How many of the first images are not in a folder, how many were looked for, and the first that is missing."""
    tried = column.values[:_TRIED]
    missing = [name for name in tried if not os.path.isfile(folder / name)]
    return len(missing), len(tried), missing[0] if missing else ""


def tables(root: Path) -> list[str]:
    """CSV files of a folder, sorted; one called labels.csv first."""
    found = sorted(path.name for path in root.iterdir() if path.suffix.casefold() in (".csv", ".tsv") and path.is_file())
    return sorted(found, key=lambda name: name.casefold() != "labels.csv")


def _below(root: Path) -> Iterable[str]:
    found = ["."]
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found += [os.path.relpath(os.path.join(folder, name), root) for name in folders]
        if len(found) > _FOLDERS:
            break
    return found[:_FOLDERS]


def _is_image(cell: str) -> bool:
    return cell.casefold().endswith(IMAGES)


def _is_age(cell: str) -> bool:
    try:
        return 0 <= float(cell.removesuffix("Y")) <= 130  # 057Y in DICOM headers
    except ValueError:
        return False


def _short(cell: str) -> str:
    return cell if len(cell) <= 40 else f"{cell[:40]}..."
