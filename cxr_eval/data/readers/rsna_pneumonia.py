"""RSNA Pneumonia Detection Challenge as it is downloaded: reader `rsna_pneumonia`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydicom

import cxr_eval.api as cxr
from cxr_eval.data.readers.listing import delimited

OPACITY = "Lung Opacity"
CLASSES = (OPACITY, "No Lung Opacity / Not Normal", "Normal")

_TARGETS = {"0": "No Lung Opacity", "1": OPACITY}
_LABELS = "stage_2_train_labels.csv"
_CLASS_INFO = "stage_2_detailed_class_info.csv"
_IMAGES = "stage_2_train_images"
_LABEL_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_CLASS_COLUMNS = ("patientId", "class")
_TAGS = ["PatientSex", "PatientAge", "ViewPosition"]
_OLDEST = 120  # years; five headers say 148 to 155

Box = tuple[float, float, float, float]


class RsnaPneumonia(cxr.Reader):
    """RSNA Pneumonia Detection Challenge: 26,684 frontal chest X-rays in DICOM, 9,555 boxes around lung opacities.

    The challenge's patientId names an image. The images come from NIH ChestX-ray14, where a patient may have several, so images
    of one person may be on both sides of a split. There are no official splits with labels; common code divides.
    """

    source = (
        "Shih et al., Augmenting the NIH Chest Radiograph Dataset with Expert Annotations of Possible Pneumonia,"
        " Radiology: Artificial Intelligence 2019, doi:10.1148/ryai.2019180041"
    )

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description=f"folder with {_LABELS} and {_IMAGES}")
        labels: Literal["target", "class"] = cxr.Field(
            "target",
            description=f"target: {_TARGETS['1']} or {_TARGETS['0']}; class: {', '.join(CLASSES)} (from {_CLASS_INFO})",
        )
        headers: bool = cxr.Field(
            False, description="read sex, age and view from the DICOM headers: 26,684 files are opened at every start"
        )

    params: Params

    def check(self) -> None:
        """Refuse a root without the images' folder or a table that the settings need.

        Raises:
            DataError: one of them is not there.
        """
        root = self._root()
        if not root.is_dir():
            raise cxr.DataError(f"rsna_pneumonia: {root} is not a folder; expected {_LABELS} and {_IMAGES} in it")
        for name in (_LABELS, *((_CLASS_INFO,) if self.params.labels == "class" else ())):
            if not (root / name).is_file():
                raise cxr.DataError(f"rsna_pneumonia: {root / name} is not there")
        if not (root / _IMAGES).is_dir():
            raise cxr.DataError(f"rsna_pneumonia: {root / _IMAGES} is not a folder; expected one .dcm file an image in it")

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest with `boxes:Lung Opacity`, in pixels of the DICOM image; patient is the image."""
        self.check()
        root = self._root()
        targets, boxes, lines = _targets(root / _LABELS)
        if self.params.labels == "target":
            labels: dict[str, str] = {image: _TARGETS[target] for image, target in targets.items()}
        else:
            labels = _classes(root / _CLASS_INFO, targets)
        folder = (root / _IMAGES).absolute()
        manifest = pd.DataFrame(
            {
                "image": [f"{folder}/{image}.dcm" for image in targets],
                "image_id": list(targets),
                "label": [labels.get(image) for image in targets],
                "patient": list(targets),
                f"boxes:{OPACITY}": [tuple(boxes[image]) if image in boxes else None for image in targets],
                "listed_in": [f"{root / _LABELS}:{lines[image]}" for image in targets],
            },
            dtype=object,
        )
        if self.params.headers:
            headers = pd.DataFrame([_header(path) for path in manifest["image"]], columns=["sex", "age", "view"], dtype=object)
            manifest = pd.concat([manifest, headers], axis=1)
        return manifest

    def _root(self) -> Path:
        return Path(self.params.root).expanduser()


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells of `columns`) of a table with commas, or with the semicolons or tabs of a re-export.

    Raises:
        DataError: the file cannot be read, or has other columns.
    """
    with delimited(path) as reader:
        names = [name.strip() for name in next(reader, [])]
        if not set(columns) <= set(names):
            raise cxr.DataError(f"{path}:1: expected the columns {', '.join(columns)}, got {','.join(names)[:100]}")
        places = [names.index(column) for column in columns]
        for cells in reader:
            if cells and len(cells) != len(names):
                raise cxr.DataError(f"{path}:{reader.line_num}: {len(cells)} cells, expected {len(names)}")
            if cells:
                yield reader.line_num, [cells[place].strip() for place in places]


def _targets(path: Path) -> tuple[dict[str, str], dict[str, list[Box]], dict[str, int]]:
    """Target (0 or 1), boxes and first line of each image; an image has one row a box, or one without a box."""
    targets: dict[str, str] = {}
    boxes: dict[str, list[Box]] = {}
    lines: dict[str, int] = {}
    for line, (image, *sides, target) in _rows(path, _LABEL_COLUMNS):
        if target not in _TARGETS:
            raise cxr.DataError(f"{path}:{line}: Target is '{target}', expected 0 or 1")
        if targets.setdefault(image, target) != target:
            raise cxr.DataError(f"{path}:{line}: Target of {image} is {target}, in line {lines[image]} {targets[image]}")
        lines.setdefault(image, line)
        if target == "1":
            boxes.setdefault(image, []).append(_box(path, line, sides))
        elif any(sides):
            raise cxr.DataError(f"{path}:{line}: a box ({', '.join(sides)}) with Target 0, expected empty cells")
    if not targets:
        raise cxr.DataError(f"{path}: holds no row below its header")
    return targets, boxes, lines


def _box(path: Path, line: int, sides: list[str]) -> Box:
    try:
        x, y, width, height = map(float, sides)
        if min(width, height) > 0 and math.isfinite(x + y + width + height):
            return x, y, width, height
    except ValueError:
        pass
    raise cxr.DataError(f"{path}:{line}: box is ({', '.join(sides)}), expected x, y, width and height in pixels")


def _classes(path: Path, targets: dict[str, str]) -> dict[str, str]:
    """Class of each image; an image has as many rows as in the table of targets.

    Raises:
        DataError: a class is unknown, or does not go with the target or the class of another row.
    """
    classes: dict[str, str] = {}
    for line, (image, name) in _rows(path, _CLASS_COLUMNS):
        if name not in CLASSES:
            raise cxr.DataError(f"{path}:{line}: unknown class '{name}'; expected {', '.join(CLASSES)}")
        if classes.setdefault(image, name) != name:
            raise cxr.DataError(f"{path}:{line}: class of {image} is {name}, in a line before {classes[image]}")
        if image in targets and (name == OPACITY) != (targets[image] == "1"):
            raise cxr.DataError(f"{path}:{line}: class of {image} is {name}, but its Target in {_LABELS} is {targets[image]}")
    return classes


def _header(path: str) -> tuple[str | None, float | None, str | None]:
    """Sex, age in years and view of one image, None where they are not said or the file cannot be read."""
    try:
        with pydicom.config.disable_value_validation():  # ages are without the unit that DICOM asks for
            header: Any = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            sex, view = (str(header.get(name) or "") for name in ("PatientSex", "ViewPosition"))
            written = str(header.get("PatientAge") or "").upper().removesuffix("Y")
    except Exception:  # missing and damaged files are named where images are decoded, for all readers alike
        return None, None, None
    age = float(written) if written.isdigit() and int(written) <= _OLDEST else None
    return sex if sex in ("F", "M") else None, age, view or None
