"""NIH ChestX-ray14 as it is downloaded: reader `nih_chestxray14`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import model_validator

import cxr_eval.api as cxr
from cxr_eval.data.readers.listing import delimited

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""In the order of the dataset's papers; boxes were drawn for the first eight."""

BOXED = FINDINGS[:8]
NO_FINDING = "No Finding"
_LABELS = (NO_FINDING, "Finding")
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_BOXES = "BBox_List_2017.csv"
_BOX_NAMES = {"Infiltrate": "Infiltration"}
_SIDE = 1024.0  # pixels; boxes are measured in images of this side
_HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
_OLDEST = 120  # years; ages such as 412Y are slips of the pen
_PER_YEAR = {"Y": 1.0, "M": 12.0, "D": 365.25}

Row = tuple[int, list[str]]


class NihChestXray14(cxr.Reader):
    """NIH ChestX-ray14: 112,120 frontal chest X-rays of 30,805 patients, 14 findings mined from reports, 984 boxes.

    The official lists give the splits train and test, and common code takes whole patients of train for val. Boxes are those
    of BBox_List_2017.csv; without that file there are none.
    """

    source = "Wang et al., ChestX-ray8, CVPR 2017, arXiv:1705.02315; https://nihcc.app.box.com/v/ChestXray-NIHCC"

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder with the tables and lists, and with images or images_001, ...")
        csv: str | None = cxr.Field(
            None, description=f"table of labels, relative to `root`; if not given, {_TABLES[0]}, else {_TABLES[1]}"
        )
        labels: Literal["findings", "no_finding"] = cxr.Field(
            "findings", description="findings: 14 findings, each 0 or 1; no_finding: one class, No Finding or Finding"
        )
        official: Literal["all", "train_val", "test"] = cxr.Field(
            "all", description="images taken: all, in the official splits, or those of one official list, without a split"
        )
        keep: cxr.Names = cxr.Field((), description="classes taken where labels is no_finding; all if empty")
        one_per_patient: bool = cxr.Field(
            False, description="take the first follow-up of each patient among the images that the other settings leave"
        )

        @model_validator(mode="after")
        def _classes_kept(self) -> Self:
            if self.keep and self.labels == "findings":
                raise ValueError("`keep` needs labels: no_finding; with findings an image has no one class")
            unknown = [name for name in self.keep if name not in _LABELS]
            if unknown:
                raise ValueError(f"keep: expected {' or '.join(_LABELS)}, got '{unknown[0]}'")
            return self

    params: Params

    def check(self) -> None:
        """Refuse a root without the dataset's table and lists.

        Raises:
            DataError: the folder, the table or a list is not there.
        """
        root = self._root()
        if not root.is_dir():
            raise cxr.DataError(f"nih_chestxray14: {root} is not a folder; expected the unpacked download of ChestX-ray14")
        self._table(root)
        lists = [root / name for name in _LISTS.values()]
        absent = [path for path in lists if not path.is_file()]
        if absent and (self.params.official != "all" or len(absent) == 1):
            raise cxr.DataError(
                f"nih_chestxray14: {absent[0]} is not there; it comes with the images. Only `official: all` without both lists"
                " goes on, with splits of its own"
            )

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest with `label:FINDING` columns or `label`, and `boxes:FINDING` in pixels of the files."""
        self.check()
        root = self._root()
        path = self._table(root)
        lines, table = _entries(path)
        manifest = pd.DataFrame(
            {
                "image": _paths(root, table["image"]),
                "image_id": table["image"],
                "patient": table["patient"],
                "sex": table["sex"].where(table["sex"] != "", None),
                "age": _ages(path, lines, table["age"]),
                "view": table["view"].where(table["view"] != "", None),
                "listed_in": [f"{path}:{line}" for line in lines],
            },
        )
        positive = _findings(path, lines, table["labels"])
        if self.params.labels == "findings":
            for place, finding in enumerate(FINDINGS):
                manifest[f"label:{finding}"] = positive[:, place]
        else:
            manifest["label"] = np.where(positive.any(axis=1), _LABELS[1], _LABELS[0])
        listed = _official(root, manifest)
        if listed is not None and self.params.official == "all":
            manifest["split"] = listed
        manifest["left_out"] = self._left_out(manifest, listed, table["follow_up"])
        if (root / _BOXES).is_file():
            for finding, boxes in _boxes(root / _BOXES, manifest).items():
                manifest[f"boxes:{finding}"] = boxes
        return manifest

    def _root(self) -> Path:
        return Path(self.params.root).expanduser()

    def _table(self, root: Path) -> Path:
        names = _TABLES if self.params.csv is None else (self.params.csv,)
        for name in names:
            if (root / name).is_file():
                return root / name
        raise cxr.DataError(f"nih_chestxray14: {root} holds no {' and no '.join(names)}, the table of labels")

    def _left_out(self, manifest: pd.DataFrame, listed: pd.Series | None, follow_up: pd.Series) -> pd.Series:
        """Why a row is not used, None where it is."""
        reason = pd.Series([None] * len(manifest), dtype=object)
        if listed is not None and self.params.official != "all":
            wanted = "train" if self.params.official == "train_val" else "test"
            reason[listed != wanted] = f"not in {_LISTS[wanted]}"
        if self.params.keep:
            reason[reason.isna() & ~manifest["label"].isin(self.params.keep)] = f"label is not {' or '.join(self.params.keep)}"
        if self.params.one_per_patient:
            # in the table of 2020 file names and follow-ups are not in the same order
            order = pd.DataFrame({"number": pd.to_numeric(follow_up, errors="coerce"), "name": manifest["image_id"]})
            kept = order[reason.isna()].sort_values(["number", "name"])
            first = ~manifest["patient"].loc[kept.index].duplicated()
            reason[first.index[~first]] = "another image of the patient is taken"
        return reason


def _rows(path: Path) -> Iterator[Row]:
    """(line, stripped cells) of a CSV file, empty lines left out.

    Raises:
        DataError: the file cannot be read as text.
    """
    with delimited(path) as reader:
        yield from ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells)


def _entries(path: Path) -> tuple[list[int], pd.DataFrame]:
    """Lines and cells of a table of labels, by position: its bracketed names hold commas, so names do not fit the cells."""
    rows = _rows(path)
    header = ",".join(next(rows, (1, [""]))[1])
    if not header.replace("Patient Sex", "Patient Gender").startswith(_HEADER):
        raise cxr.DataError(f"{path}:1: expected the header {_HEADER},..., got {header[:100]}")
    lines: list[int] = []
    cells: list[list[str]] = []
    for line, row in rows:
        if len(row) != 11 and not (len(row) == 12 and row[11] == ""):
            raise cxr.DataError(f"{path}:{line}: {len(row)} cells, expected 11, or 12 with the last one empty")
        if not row[3]:
            raise cxr.DataError(f"{path}:{line}: Patient ID is empty, expected a number; take the table as it was distributed")
        lines.append(line)
        cells.append(row[:7])
    if not cells:
        raise cxr.DataError(f"{path}: holds no row below its header")
    return lines, pd.DataFrame(cells, columns=["image", "labels", "follow_up", "patient", "age", "sex", "view"], dtype=object)


def _paths(root: Path, names: pd.Series) -> list[str]:
    """Where each image is, or where it would be looked for first.

    Raises:
        DataError: none of them is there.
    """
    parts = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name.startswith("images_"))
    folders = [root / "images", *(root / part / inner for part in parts for inner in ("images", "")), root]
    found: dict[str, str] = {}
    for folder in folders:
        if folder.is_dir():
            start = f"{folder.absolute()}{os.sep}"
            with os.scandir(folder) as entries:
                for entry in entries:
                    found.setdefault(entry.name, start + entry.name)
    if not any(name in found for name in names):
        raise cxr.DataError(
            f"nih_chestxray14: {root}: none of the {len(names)} listed images is in images, in images_001/images to"
            f" images_012/images or in the folder itself; the first is {names.iloc[0]}"
        )
    missing = f"{(root / 'images').absolute()}{os.sep}"
    return [found.get(name) or missing + name for name in names]


def _findings(path: Path, lines: list[int], labels: pd.Series) -> Any:
    """1 where an image has a finding, (N, 14) float32."""
    written, first, code = np.unique(labels.to_numpy(dtype=str), return_index=True, return_inverse=True)
    positive = np.zeros((len(written), len(FINDINGS)), dtype=np.float32)
    for row, joined in enumerate(written.tolist()):
        for name in joined.split("|"):
            if name in FINDINGS:
                positive[row, FINDINGS.index(name)] = 1
            elif joined != NO_FINDING:
                if name == NO_FINDING:
                    raise cxr.DataError(f"{path}:{lines[first[row]]}: '{NO_FINDING}' stands beside a finding in '{joined}'")
                known = ", ".join((NO_FINDING, *FINDINGS))
                raise cxr.DataError(f"{path}:{lines[first[row]]}: unknown label '{name}'; expected {known}, joined by |")
    return positive[code]


def _ages(path: Path, lines: list[int], written: pd.Series) -> pd.Series:
    """Years; 058Y, 006M and 012D in the first release, whole years later, NaN where no person is so old."""
    units = written.str.upper().str.extract(r"^(?P<number>\d+(?:\.\d+)?)(?P<unit>[YMD]?)$")
    bad = (units["number"].isna() & (written != "")).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise cxr.DataError(f"{path}:{lines[row]}: age is '{written.iloc[row]}', expected years, or 058Y, 006M, 012D")
    years = pd.to_numeric(units["number"]) / units["unit"].map(_PER_YEAR).fillna(1.0)
    return years.where(years <= _OLDEST)


def _official(root: Path, manifest: pd.DataFrame) -> pd.Series | None:
    """train or test for each image by the official lists; None without them.

    Raises:
        DataError: an image is in none of the lists, or in both.
    """
    if not (root / _LISTS["train"]).is_file():
        return None
    split: dict[str, str] = {}
    for name, file in _LISTS.items():
        for line, (image, *_) in _rows(root / file):
            if split.setdefault(image, name) != name:
                raise cxr.DataError(f"{root / file}:{line}: {image} is also in {_LISTS[split[image]]}")
    listed = manifest["image_id"].map(split)
    if listed.isna().any():
        row = int(listed.isna().to_numpy().argmax())
        raise cxr.DataError(
            f"{manifest['listed_in'].iloc[row]}: {manifest['image_id'].iloc[row]} is neither in {_LISTS['train']} nor in"
            f" {_LISTS['test']}; tables and lists must be of one download"
        )
    return listed


def _boxes(path: Path, manifest: pd.DataFrame) -> dict[str, list[Any]]:
    """For each of the eight findings the boxes of every image, None where it has none; in pixels of the image's file.

    Six cells a row by position, under a header of nine. Boxes of images that are not listed are not read.
    """
    place = {name: row for row, name in enumerate(manifest["image_id"])}
    columns: dict[str, list[Any]] = {finding: [None] * len(manifest) for finding in BOXED}
    rows = _rows(path)
    header = ",".join(next(rows, (1, [""]))[1])
    if not header.startswith("Image Index,Finding Label"):
        raise cxr.DataError(
            f"{path}:1: expected the header Image Index,Finding Label,Bbox [x,y,w,h], got {header[:60] or 'nothing'}"
        )
    for line, cells in rows:
        try:
            image, written, x, y, w, h = cells[0], cells[1], *map(float, cells[2:6])
        except (ValueError, IndexError):
            raise cxr.DataError(
                f"{path}:{line}: expected image, finding, x, y, w, h with numbers in pixels, got {','.join(cells)}"
            ) from None
        finding = _BOX_NAMES.get(written, written)
        if finding not in columns:
            raise cxr.DataError(f"{path}:{line}: unknown finding '{written}'; expected {', '.join(BOXED)}")
        if image in place:
            row = place[image]
            across, down = _scale(manifest["image"].iloc[row])
            columns[finding][row] = (*(columns[finding][row] or ()), (x * across, y * down, w * across, h * down))
    return columns


def _scale(image: str) -> tuple[float, float]:
    """Pixels of a file for each pixel of the original, across and down; copies of the dataset are often made smaller."""
    try:
        with Image.open(image) as picture:
            return picture.width / _SIDE, picture.height / _SIDE
    except Exception:  # no file, or a damaged one: whoever decodes it says so, for all images alike
        return 1.0, 1.0
