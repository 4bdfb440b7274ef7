"""The COVID-19 image data collection on GitHub, as it is cloned: reader `github_covid`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pandas as pd

import cxr_eval.api as cxr
from cxr_eval.data.readers.listing import Row, listed

_COVID = "COVID-19"
_NO_FILE = "no file is named"
_NO_FINDING = "No Finding"
_UNDECIDED = ("todo", "unknown")
_METADATA = "metadata.csv"
_VOLUMES = (".nii", ".nii.gz")
_PNEUMONIAS = (  # causes that early tables give without the word; later ones write Pneumonia/Viral/SARS
    "aspiration", "bacterial", "chlamydophila", "e.coli", "fungal", "h1n1", "herpes", "influenza", "klebsiella", "legionella",
    "lipoid", "mers", "mers-cov", "mrsa", "mycoplasma", "nocardia", "pneumocystis", "sars", "streptococcus", "varicella",
    "viral",
)  # fmt: skip


class GithubCovid(cxr.Reader):
    """COVID-19 image data collection: figures of papers and web cases, gathered since January 2020.

    The label follows from `finding` alone, never from the PCR column, which has unclear answers. Flat findings of early tables
    (`COVID-19, ARDS`) and the hierarchy of later ones (`Pneumonia/Viral/COVID-19`) give the same classes. `site` is the host of
    `url`, the collection that the picture was taken from. Patient numbers that share a file count as one patient; a file listed
    again is left out, and one listed with two classes is left out altogether. There is no split column.
    """

    source = "Cohen et al., COVID-19 Image Data Collection, arXiv:2006.11988; github.com/ieee8023/covid-chestxray-dataset"

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder of the repository, with metadata.csv and images")
        labels: Literal["covid", "group", "finding"] = cxr.Field(
            "covid",
            description="covid: COVID-19 or other; group: COVID-19, pneumonia, No Finding, other; finding: its most exact name",
        )
        keep: cxr.Names = cxr.Field((), description="classes that are used; all if not given")
        views: cxr.Names = cxr.Field(
            ("PA", "AP", "AP Supine"), min_length=1, description="views that are used, as the table has them"
        )

    def check(self) -> None:
        """Refuse a root without the table.

        Raises:
            DataError: metadata.csv is not in it.
        """
        root = Path(self.params.root).expanduser()
        if not (root / _METADATA).is_file():
            raise cxr.DataError(f"github_covid: {root}: expected a folder holding {_METADATA} and images")

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest; CT, other views, undecided findings and repeated files are left out with the reason."""
        self.check()
        root = Path(self.params.root).expanduser()
        views = {view.casefold(): view for view in self.params.views}
        rows: list[dict[str, Any]] = []
        table = listed(root / _METADATA, columns=("patientid", "finding", "view", "filename"))
        for number, row in enumerate(table):
            file = f"{row['folder'] or 'images'}/{row['filename']}"
            rows.append(
                {
                    "image": str((root / file).absolute()),
                    "image_id": file,
                    "label": self._label(row["finding"]),
                    "patient": row["patientid"] or None,
                    "sex": row["sex"].upper() if row["sex"].upper() in ("F", "M") else None,
                    "age": _years(row["age"]),
                    "view": views.get(row["view"].casefold(), row["view"] or None),
                    "site": (urlsplit(row["url"]).hostname or "").removeprefix("www.") or None,
                    "listed_in": row.place,
                    "left_out": _left_out(row, views),
                }
            )
            if not row["filename"]:
                rows[-1]["image_id"] = f"row {number + 1}"
        _files_once(rows)
        _one_number_a_patient(rows)
        self._keep(rows, root / _METADATA)
        return pd.DataFrame(rows, dtype=object)

    def _label(self, finding: str) -> str | None:
        if not finding:
            return None
        if _COVID.casefold() in finding.casefold():
            return _COVID
        if self.params.labels == "covid":
            return "other"
        name = finding.split("/")[-1].split(",")[0].strip()
        if self.params.labels == "finding" or finding.casefold() == _NO_FINDING.casefold():
            return name
        lower = finding.casefold()
        return "pneumonia" if "pneumonia" in lower or name.casefold() in _PNEUMONIAS else "other"

    def _keep(self, rows: list[dict[str, Any]], path: Path) -> None:
        found = sorted({row["label"] for row in rows if row["left_out"] is None})
        unknown = [name for name in self.params.keep if name not in found]
        if unknown:
            raise cxr.DataError(f"{path}: keep: no image has the class '{unknown[0]}'; found: {', '.join(found) or 'none'}")
        for row in rows:
            if self.params.keep and row["left_out"] is None and row["label"] not in self.params.keep:
                row["left_out"] = f"class is {row['label']}"


def _left_out(row: Row, views: dict[str, str]) -> str | None:
    """Why a row is not a picture that can be used, whatever its class; None if it is one."""
    if not row["filename"]:
        return _NO_FILE
    if row["folder"].casefold() == "volumes" or row["filename"].casefold().endswith(_VOLUMES):
        return "it is a volume"
    if row["modality"] and row["modality"].casefold() != "x-ray":
        return f"modality is {row['modality']}"
    if row["view"].casefold() not in views:
        return f"view is {row['view'] or 'not given'}"
    if not row["finding"] or row["finding"].casefold() in _UNDECIDED:
        return f"finding is {row['finding'] or 'not given'}"
    return None


def _files_once(rows: list[dict[str, Any]]) -> None:
    """Leaves out what is listed again, and gives every row an image_id of its own."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["left_out"] is not None:
            continue
        kept = first.setdefault(row["image_id"], row)
        if kept is not row:
            row["left_out"] = "the file is listed again"
            if kept["label"] != row["label"]:
                kept["left_out"] = row["left_out"] = "the file is listed with two classes"
    seen: set[str] = set()
    for number, row in enumerate(
        sorted(rows, key=lambda row: row["left_out"] is not None)
    ):  # the used one keeps the plain name
        if row["image_id"] in seen:
            row["image_id"] += f" (again, {number})"
        seen.add(row["image_id"])


def _one_number_a_patient(rows: list[dict[str, Any]]) -> None:
    """Replaces patient numbers that share a file by the first of them."""
    known: dict[str, str] = {}
    owner: dict[str, str] = {}

    def first(patient: str) -> str:
        while patient in known:
            patient = known[patient]
        return patient

    for row in rows:
        if row["patient"] is not None and row["left_out"] != _NO_FILE:  # such rows share a path that names nothing
            this, other = first(row["patient"]), first(owner.setdefault(row["image"], row["patient"]))
            if this != other:
                known[this] = other
    for row in rows:
        row["patient"] = row["patient"] and first(row["patient"])


def _years(cell: str) -> float | None:
    """Age in years; None where the table has something else than a number."""
    try:
        age = float(cell)
    except ValueError:
        return None
    return age if age >= 0 and math.isfinite(age) else None
