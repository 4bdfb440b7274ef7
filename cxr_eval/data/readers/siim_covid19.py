"""SIIM-FISABIO-RSNA COVID-19 Detection as it is downloaded: reader `siim_covid19`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import model_validator

import cxr_eval.api as cxr
from cxr_eval.data.readers.listing import Row, files, listed, plain

_IMAGES, _STUDIES = "train_image_level.csv", "train_study_level.csv"
_NEGATIVE = "Negative for Pneumonia"
_APPEARANCES = (_NEGATIVE, "Typical Appearance", "Indeterminate Appearance", "Atypical Appearance")
_EXPECTED = f"expected a folder holding train, {_IMAGES} and {_STUDIES}"

Box = tuple[float, float, float, float]


class SiimCovid19(cxr.Reader):
    """SIIM-FISABIO-RSNA COVID-19: 6,334 chest radiographs (DICOM) of 6,054 studies, opacities boxed by radiologists.

    Patients are not named; the study counts as the patient, so a person with two studies may be on both sides of a split. A
    study may hold several images; each has the label of its study, also where only a sibling has boxes. Boxes are in the pixels
    of the DICOM image. They say where the image's own class is (`boxes:pneumonia`, or with `labels: study` for instance
    `boxes:Typical Appearance`), or stand in `boxes` where the class is negative. The unlabelled images in `test` are not read.
    """

    source = "Lakhani et al., The 2021 SIIM-FISABIO-RSNA Machine Learning COVID-19 Challenge, doi:10.31219/osf.io/532ek"

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder of the unpacked download, with train and the two CSV files")
        labels: Literal["binary", "study"] = cxr.Field(
            "binary", description="binary: two classes by `positive`; study: the four appearances that studies are graded by"
        )
        positive: Literal["study", "opacity"] = cxr.Field(
            "study",
            description="binary: pneumonia where the study is not 'Negative for Pneumonia', or opacity where the image has one",
        )

        @model_validator(mode="after")
        def _positive_of_two(self) -> SiimCovid19.Params:
            if self.labels == "study" and "positive" in self.model_fields_set:
                raise ValueError("`positive` is for `labels: binary`; leave one of them out")
            return self

    def check(self) -> None:
        """Refuse a root without the training images or their tables.

        Raises:
            DataError: what is missing.
        """
        root = Path(self.params.root).expanduser()
        if not root.is_dir():
            raise cxr.DataError(f"siim_covid19: {root} is not a folder; {_EXPECTED}")
        for name in ("train", _IMAGES, _STUDIES):
            if not (root / name).exists():
                raise cxr.DataError(f"siim_covid19: {root}: '{name}' is missing; {_EXPECTED}")

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest with boxes by class; DICOM files that the table does not list are left out."""
        self.check()
        root = Path(self.params.root).expanduser()
        appearances = _appearances(root / _STUDIES)
        found = _dicom_files(root / "train")
        rows: list[dict[str, Any]] = []
        for row in listed(root / _IMAGES, columns=("id", "boxes", "label", "studyinstanceuid")):
            image, study = row["id"].removesuffix("_image"), row["studyinstanceuid"]
            if image == row["id"]:
                raise cxr.DataError(f"{row.place}: id is '{row['id']}', expected the image's name followed by _image")
            if study not in appearances:
                raise cxr.DataError(f"{row.place}: study '{study}' is not in {root / _STUDIES}")
            boxes = _boxes(row)
            label, negative = self._label(appearances[study], opacity=bool(boxes))
            rows.append(
                {
                    "image": str(found.pop(image, root / "train" / study / "SERIES" / f"{image}.dcm").absolute()),
                    "image_id": image,
                    "label": label,
                    "patient": study,
                    "listed_in": row.place,
                    "boxes" if negative else f"boxes:{label}": boxes or None,
                }
            )
        for image, path in found.items():
            rows.append({"image": str(path.absolute()), "image_id": image, "left_out": f"it is not in {_IMAGES}"})
        return pd.DataFrame(rows, dtype=object).dropna(axis="columns", how="all")

    def _label(self, appearance: str, *, opacity: bool) -> tuple[str, bool]:
        """The class, and whether it is the negative one."""
        if self.params.labels == "study":
            return appearance, appearance == _NEGATIVE
        if self.params.positive == "opacity":
            return ("opacity", False) if opacity else ("negative", True)
        return ("negative", True) if appearance == _NEGATIVE else ("pneumonia", False)


def _appearances(path: Path) -> dict[str, str]:
    """The one appearance of each study."""
    found: dict[str, str] = {}
    for row in listed(path, columns=("id", *map(plain, _APPEARANCES))):
        marked = [name for name in _APPEARANCES if row[plain(name)] in ("1", "1.0")]
        if len(marked) != 1:
            raise cxr.DataError(f"{row.place}: {len(marked)} of the four appearances are 1, expected one")
        found[row["id"].removesuffix("_study")] = marked[0]
    return found


def _dicom_files(train: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files(train, ".dcm"):
        if path.stem in found:
            raise cxr.DataError(f"siim_covid19: {path}: the same image is in {found[path.stem]}; keep one")
        found[path.stem] = path
    return found


def _boxes(row: Row) -> tuple[Box, ...]:
    """Boxes (x, y, w, h) of an image, from a list of dictionaries written as Python does; none where the cell is empty."""
    expected = "expected a list such as [{'x': 1.0, 'y': 2.0, 'width': 3.0, 'height': 4.0}] or nothing"
    try:
        written = ast.literal_eval(row["boxes"]) if row["boxes"] else []
        boxes = tuple((float(b["x"]), float(b["y"]), float(b["width"]), float(b["height"])) for b in written)
    except (ValueError, SyntaxError, TypeError, KeyError):
        raise cxr.DataError(f"{row.place}: boxes cannot be read, {expected}") from None
    if row["label"].startswith("opacity") != bool(boxes):
        raise cxr.DataError(
            f"{row.place}: {len(boxes)} boxes, but label begins with '{row['label'][:7]}'; opacity has boxes, none has not"
        )
    return boxes
