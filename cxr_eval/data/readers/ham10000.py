"""HAM10000 as it is downloaded: reader `ham10000`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import cxr_eval.api as cxr
from cxr_eval.data.readers.listing import Row, files, listed

_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_METADATA = ("ham10000_metadata", "ham10000_metadata.csv", "ham10000_metadata.tab", "ham10000_metadata.tsv")
_MASK = "_segmentation.png"
_SEX = {"female": "F", "male": "M"}
_EXPECTED = "expected a folder holding HAM10000_metadata.csv and HAM10000_images_part_1, HAM10000_images_part_2"


class Ham10000(cxr.Reader):
    """HAM10000: 10,015 dermatoscopic photographs of 7,470 pigmented skin lesions, seven diagnoses.

    Images of one lesion stay together: the lesion counts as the patient, because patients are not named. The classes are the
    diagnoses `dx`. The outlines of lesions that were published later are used where they are there. `site` is the source
    collection, which only the table of the Dataverse has. There is no split column.
    """

    source = "Tschandl et al., Scientific Data 2018, doi:10.1038/sdata.2018.161; outlines doi:10.1038/s41591-020-0942-0"
    colour = True

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder of the unpacked download; images may be in any folders below")

    def check(self) -> None:
        """Refuse a root that is no folder.

        Raises:
            DataError: it is not there, or is a file.
        """
        root = Path(self.params.root).expanduser()
        if not root.is_dir():
            raise cxr.DataError(f"ham10000: {root} is not a folder; {_EXPECTED}")

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest, with `mask:lesion` where there are outlines; images that the table does not list are left out."""
        self.check()
        root = Path(self.params.root).expanduser()
        path = _metadata(root)
        images = _by_name(root, ".jpg")
        masks = _by_name(root, _MASK)
        rows: list[dict[str, Any]] = []
        first: dict[str, str] = {}
        diagnosis: dict[str, tuple[str, str]] = {}
        for row in listed(path, columns=("lesion_id", "image_id", "dx", "age", "sex")):
            image, lesion, label = row["image_id"], row["lesion_id"], row["dx"]
            if not image:
                raise cxr.DataError(f"{row.place}: no image is named")
            if image in first:
                raise cxr.DataError(
                    f"{row.place}: image {image} is listed a second time, first in {first[image]}; the table is of a copy with"
                    " images added by augmentation, take the one from doi:10.7910/DVN/DBW86T"
                )
            if label and label not in _CLASSES:
                raise cxr.DataError(f"{row.place}: dx is '{label}', expected one of {', '.join(_CLASSES)}")
            known, place = diagnosis.setdefault(lesion, (label, row.place))
            if lesion and known != label:
                raise cxr.DataError(f"{row.place}: lesion {lesion} is '{label}' here and '{known}' in {place}")
            first[image] = row.place
            rows.append(
                {
                    "image": str(images.pop(image, root / "HAM10000_images_part_1" / f"{image}.jpg").absolute()),
                    "image_id": image,
                    "label": label or None,
                    "patient": lesion or None,
                    "sex": _SEX.get(row["sex"].casefold()),
                    "age": _years(row),
                    "site": row["dataset"] or None,
                    "mask:lesion": str(masks[image].absolute()) if image in masks else None,
                    "listed_in": row.place,
                }
            )
        for image, picture in images.items():
            rows.append({"image": str(picture.absolute()), "image_id": image, "left_out": f"it is not in {path.name}"})
        return pd.DataFrame(rows, dtype=object).dropna(axis="columns", how="all")


def _metadata(root: Path) -> Path:
    """The one file that lists the images.

    Raises:
        DataError: there is none, or more than one.
    """
    found = [path for path in files(root, "") if path.name.casefold() in _METADATA]
    if not found:
        raise cxr.DataError(f"ham10000: {root}: no HAM10000_metadata.csv (or .tab); {_EXPECTED}")
    if len(found) > 1:
        raise cxr.DataError(f"ham10000: {root}: the table is there twice, {found[0]} and {found[1]}; keep one")
    return found[0]


def _by_name(root: Path, suffix: str) -> dict[str, Path]:
    """Files by name without suffix; of copies in several folders the first.

    Raises:
        DataError: two of one name have not the same number of bytes.
    """
    found: dict[str, Path] = {}
    for path in files(root, suffix):
        name = path.name[: -len(suffix)]
        if name in found and path.stat().st_size != found[name].stat().st_size:
            raise cxr.DataError(f"ham10000: {path} differs from {found[name]}; keep one of the two folders")
        found.setdefault(name, path)
    return found


def _years(row: Row) -> float | None:
    try:
        return float(row["age"]) if row["age"] else None
    except ValueError:
        raise cxr.DataError(f"{row.place}: age is '{row['age']}', expected years as a number, or nothing") from None
