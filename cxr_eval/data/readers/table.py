"""Any folder of images with a CSV file that lists them: reader `table`."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BeforeValidator, model_validator

import cxr_eval.api as cxr

_NOTHING = ("", "nan", "na", "n/a", "<na>")
_SEX = {"f": "F", "female": "F", "m": "M", "male": "M"}
_SEX_UNKNOWN = ("o", "other", "u", "unknown", "not reported")

Cell = str | int | float | bool | None
Cells = Annotated[
    tuple[Cell, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, (list, tuple)) else (value,))
]


class Mask(cxr.Params):
    """Where masks of one kind are."""

    column: cxr.Names = cxr.Field(
        min_length=1, description="column with the mask's path; of several, the first that is not empty"
    )
    folder: str = cxr.Field("", description="folder that the paths are relative to, under `root`")


class Boxes(cxr.Params):
    """Where boxes are: a CSV file with one row a box, in pixels of the source image."""

    csv: str = cxr.Field("boxes.csv", description="CSV file, relative to `root`")
    image: str | None = cxr.Field(
        None, description="column with the image, written as in the table; named as there if not given"
    )
    x: str = cxr.Field("x", description="column with the left edge, pixels")
    y: str = cxr.Field("y", description="column with the upper edge, pixels")
    w: str = cxr.Field("w", description="column with the width, pixels")
    h: str = cxr.Field("h", description="column with the height, pixels")
    finding: str | None = cxr.Field(
        None, description="column with the class that a box shows; all boxes are one kind if not given"
    )
    where: dict[str, Cells] = cxr.Field(default_factory=dict, description="column: value or values; other boxes are left out")


def _as_mask(value: Any) -> Any:
    return value if isinstance(value, (dict, Mask)) else {"column": value}


def _as_columns(value: Any) -> Any:
    return {name: name for name in value} if isinstance(value, (list, tuple)) else value


class Table(cxr.Reader):
    """Images that a CSV file lists, one row an image.

    Every column is read as text. Empty cells and NaN, NA, N/A count as nothing. Rows keep the file's order. Colour is kept
    where pictures have any and the protocol asks for three channels.
    """

    colour = True

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder of the dataset")
        csv: str = cxr.Field("labels.csv", description="CSV file (comma, semicolon or tab), relative to `root`")
        image: str = cxr.Field("image", description="column with the image's path")
        folder: str = cxr.Field("", description="folder that the images' paths are relative to, under `root`")
        label: str | None = cxr.Field("label", description="column with the class; not read where `labels` is given")
        labels: Annotated[dict[str, str], BeforeValidator(_as_columns)] | None = cxr.Field(
            None, description="columns with 0, 1 or nothing (unknown), one a finding: a list, or finding: column"
        )
        patient: str | None = cxr.Field(
            "patient", description="column with the patient, the unit of splitting; null: every image counts as a patient"
        )
        prefix: str = cxr.Field("", description="put before each patient, so that numbers of two datasets do not meet")
        split: str | None = cxr.Field("split", description="column with train, val or test; read if it is there; null: never")
        sex: str | None = cxr.Field("sex", description="column with F or M; read if it is there")
        age: str | None = cxr.Field("age", description="column with years; read if it is there")
        view: str | None = cxr.Field("view", description="column with the view (PA, AP); read if it is there")
        site: str | None = cxr.Field("site", description="column with the hospital or source; read if it is there")
        slice: str | None = cxr.Field(None, description="column with the slice of a NIfTI volume that is the image, from 0")
        masks: dict[str, Annotated[Mask, BeforeValidator(_as_mask)]] = cxr.Field(
            default_factory=dict,
            description="kind: column, or columns, or {column, folder}; kinds are lesion, lung, devices, ...",
        )
        boxes: Boxes | None = cxr.Field(None, description="boxes around findings, in a CSV file of their own")
        where: dict[str, Cells] = cxr.Field(
            default_factory=dict, description="column: value or values; other rows are left out"
        )

        @model_validator(mode="after")
        def _one_task(self) -> Table.Params:
            if self.labels is not None and self.label is not None and "label" in self.model_fields_set:
                raise ValueError("give `label` (one class an image) or `labels` (several findings), not both")
            if self.labels is None and self.label is None:
                raise ValueError("give `label` (column with the class) or `labels` (columns with 0 or 1)")
            if self.slice is not None and self.boxes is not None:
                raise ValueError("`boxes` are drawn in pictures, not in slices of volumes; leave `slice` or `boxes` out")
            return self

    def check(self) -> None:
        """Refuse a root that is no folder.

        Raises:
            DataError: it is not there, or is a file.
        """
        if not Path(self.params.root).expanduser().is_dir():
            raise cxr.DataError(f"table: {self.params.root} is not a folder")

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest; `listed_in` holds file and line of each row."""
        p = self.params
        self.check()
        root = Path(p.root).expanduser()
        listed = _Csv(root / p.csv)
        images = listed.column(p.image, "image")
        rows = listed.rows(p.where)
        if not rows:
            raise cxr.DataError(f"{listed.path}: no row is left of {len(listed.cells)}; `where` asks for {_written(p.where)}")
        slices = [None] * len(images) if p.slice is None else listed.column(p.slice, "slice")
        names = [name if part is None else name and f"{name}#{part}" for name, part in zip(images, slices, strict=True)]
        self._images_named_once(listed, rows, names)
        manifest: dict[str, list[Any]] = {
            "image": [str((root / p.folder / str(images[row])).absolute()) for row in rows],
            "image_id": [(Path(p.folder) / str(names[row])).as_posix() for row in rows],
            **self._labels(listed, rows),
        }
        if p.slice is not None:
            manifest["slice"] = [
                None if slices[row] is None else _number(slices[row], "slice", "from 0", listed, row) for row in rows
            ]
        if p.patient is None:
            manifest["patient"] = [p.prefix + name for name in manifest["image_id"]]
        else:
            patients = listed.column(p.patient, "patient", hint="; or write `patient: null` if patients are not known")
            manifest["patient"] = [None if patients[row] is None else p.prefix + str(patients[row]) for row in rows]
        for setting in ("split", "sex", "age", "view", "site"):
            column = getattr(p, setting)
            if column is not None and (setting in p.model_fields_set or column in listed.names):
                cells = listed.column(column, setting)
                manifest[setting] = [_read_cell(setting, cells[row], listed, row) for row in rows]
        for kind, mask in p.masks.items():
            columns = [listed.column(name, f"masks.{kind}") for name in mask.column]
            first = [next((cells[row] for cells in columns if cells[row] is not None), None) for row in rows]
            manifest[f"mask:{kind}"] = [None if path is None else str((root / mask.folder / path).absolute()) for path in first]
        if p.boxes is not None:
            boxes = self._boxes(root, p.boxes)
            for column in sorted({column for each in boxes.values() for column in each}):
                manifest[column] = [tuple(boxes.get(str(images[row]), {}).get(column, ())) for row in rows]
            if not any(str(images[row]) in boxes for row in rows):
                raise cxr.DataError(
                    f"{root / p.boxes.csv}: none of its {len(boxes)} images is in {listed.path} (column '{p.image}');"
                    f" one is {next(iter(boxes), 'missing')}, there one is {images[rows[0]]}"
                )
        manifest["listed_in"] = [listed.place(row) for row in rows]
        return pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in manifest.items()})

    def _images_named_once(self, listed: _Csv, rows: list[int], names: list[str | None]) -> None:
        first: dict[str, int] = {}
        for row in rows:
            image = names[row]
            if image is None:
                raise cxr.DataError(f"{listed.place(row)}: column '{self.params.image}' is empty, expected the image's path")
            if image in first:
                raise cxr.DataError(
                    f"{listed.place(row)}: image {image} is listed a second time, first in line {listed.lines[first[image]]}"
                )
            first[image] = row

    def _labels(self, listed: _Csv, rows: list[int]) -> dict[str, list[Any]]:
        p = self.params
        if p.labels is None:
            cells = listed.column(str(p.label), "label")
            return {"label": [cells[row] for row in rows]}
        found: dict[str, list[Any]] = {}
        for name, column in p.labels.items():
            cells = listed.column(column, "labels")
            found[f"label:{name}"] = [_zero_or_one(cells[row], column, listed, row) for row in rows]
        return found

    def _boxes(self, root: Path, settings: Boxes) -> dict[str, dict[str, list[tuple[float, ...]]]]:
        """Boxes by image and manifest column."""
        listed = _Csv(root / settings.csv)
        images = listed.column(settings.image or self.params.image, "boxes.image")
        sides = [(side, listed.column(getattr(settings, side), f"boxes.{side}")) for side in ("x", "y", "w", "h")]
        findings = None if settings.finding is None else listed.column(settings.finding, "boxes.finding")
        boxes: dict[str, dict[str, list[tuple[float, ...]]]] = {}
        for row in listed.rows(settings.where):
            box = tuple(_number(cells[row], getattr(settings, side), "pixels", listed, row) for side, cells in sides)
            if box[2] <= 0 or box[3] <= 0:
                raise cxr.DataError(f"{listed.place(row)}: box is {box[2]:g} x {box[3]:g} pixels, expected sides above 0")
            finding = None if findings is None else findings[row]
            column = "boxes" if finding is None else f"boxes:{finding}"
            boxes.setdefault(str(images[row]), {}).setdefault(column, []).append(box)
        return boxes


class _Csv:
    """A CSV file as text cells: `cells[row][column]`, None where empty; `lines[row]` is its line in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                header = file.readline()
                file.seek(0)
                reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
                self.names = [name.strip() for name in next(reader, [])]
                self.cells: list[list[str | None]] = []
                self.lines: list[int] = []
                line = reader.line_num + 1
                for cells in reader:
                    if cells:
                        self._add(cells, line)
                    line = reader.line_num + 1
        except FileNotFoundError:
            raise cxr.DataError(f"{path}: no such file; `csv` names the table, relative to `root`") from None
        except UnicodeDecodeError as error:
            raise cxr.DataError(f"{path}: is not UTF-8 text ({error.reason}); save it as CSV UTF-8") from None
        except (OSError, csv.Error) as error:
            raise cxr.DataError(f"{path}: cannot be read: {error}") from None
        if not self.cells:
            raise cxr.DataError(f"{path}: holds no row below its header")
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise cxr.DataError(f"{path}:1: two columns are called '{twice}'")

    def _add(self, cells: list[str], line: int) -> None:
        if len(cells) != len(self.names):
            raise cxr.DataError(f"{self.path}:{line}: {len(cells)} cells, expected {len(self.names)} as in the header")
        self.cells.append([None if cell.strip().casefold() in _NOTHING else cell.strip() for cell in cells])
        self.lines.append(line)

    def place(self, row: int) -> str:
        return f"{self.path}:{self.lines[row]}"

    def column(self, name: str, setting: str, hint: str = "") -> list[str | None]:
        """Cells of one column.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.names:
            close = _nearest(name, self.names)
            found = close or f"; found: {', '.join(self.names)}"
            raise cxr.DataError(f"{self.path}: no column '{name}' (setting `{setting}`){found}{hint}")
        index = self.names.index(name)
        return [cells[index] for cells in self.cells]

    def rows(self, where: dict[str, tuple[Cell, ...]]) -> list[int]:
        """Rows that `where` keeps; each value it names must occur, so that a misspelt one is not an empty class."""
        kept = list(range(len(self.cells)))
        for name, wanted in where.items():
            cells = self.column(name, "where")
            for value in wanted:
                _known(value, cells, f"{self.path}: where: column '{name}'")
            match = {cell: any(_same(cell, value) for value in wanted) for cell in set(cells)}
            kept = [row for row in kept if match[cells[row]]]
        return kept


def _same(cell: str | None, value: Cell) -> bool:
    if cell is None or value is None:
        return cell is None and value is None
    if isinstance(value, bool):
        return cell.casefold() == str(value).casefold()
    if isinstance(value, str):
        return cell == value
    try:
        return float(cell) == value
    except ValueError:
        return False


def _known(value: Cell, cells: Iterable[str | None], where: str) -> None:
    found = set(cells)
    if not any(_same(cell, value) for cell in found):
        names = sorted(cell for cell in found if cell is not None)
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        shown = "an empty cell" if value is None else f"the value '{value}'"
        raise cxr.DataError(f"{where} has not {shown}{_nearest(str(value), names) or f'; found: {listed}'}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _written(where: dict[str, tuple[Cell, ...]]) -> str:
    return ", ".join(f"{name}: {' or '.join(str(value) for value in values)}" for name, values in where.items())


def _read_cell(setting: str, cell: str | None, listed: _Csv, row: int) -> str | float | None:
    if cell is None or setting in ("view", "site"):
        return cell
    if setting == "split":
        return cell.casefold()
    if setting == "age":
        return _number(cell.removesuffix("Y"), "age", "years", listed, row)  # 057Y in DICOM headers
    if cell.casefold() in _SEX_UNKNOWN:
        return None
    if cell.casefold() not in _SEX:
        raise cxr.DataError(f"{listed.place(row)}: sex is '{cell}', expected F, M or nothing")
    return _SEX[cell.casefold()]


def _number(cell: str | None, column: str, unit: str, listed: _Csv, row: int) -> float:
    try:
        return float(cell or "")
    except ValueError:
        raise cxr.DataError(f"{listed.place(row)}: {column} is '{cell or ''}', expected a number ({unit})") from None


def _zero_or_one(cell: str | None, column: str, listed: _Csv, row: int) -> float | None:
    if cell is None:
        return None
    value = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}.get(cell)
    if value is None:
        raise cxr.DataError(f"{listed.place(row)}: {column} is '{cell}', expected 0, 1 or nothing (unknown)")
    return value
