"""Doubts that tables and images raise before anything is trained: sources that tell the label, few patients, equal files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cxr_eval.data.prepared import Prepared
from cxr_eval.images import ImageSet
from cxr_eval.types import RowWarning

ALMOST_BLACK = 0.08
"""Mean grey below which images are in doubt; chest X-rays have about 0.3 to 0.6."""
FEW_PATIENTS = 10
"""Below this many patients of a class, one patient moves its accuracy by more than ten percentage points."""
SOURCE_TELLS_LABEL = 0.5
"""Cramer's V between site and class from which on the site counts as telling the class ("large" for Cohen, 1988)."""


def members(images: ImageSet) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """For each class the images that have it."""
    has = images.y == 1 if images.y.ndim == 2 else images.y[:, None] == np.arange(len(images.classes))
    return [(name, has[:, index]) for index, name in enumerate(images.classes)]


def doubts(splits: Mapping[str, ImageSet], prepared: Mapping[str, Prepared]) -> list[RowWarning]:
    """Every doubt about the splits; `prepared` holds the files behind them."""
    found: list[RowWarning] = []
    for name, each in prepared.items():
        pairs = zip(each.table["patient"], each.table["image_id"], strict=True)
        if all(str(patient).endswith(str(image)) for patient, image in pairs):
            told = (
                f"The dataset names no patients, so each of its {len(each.table)} images counts as one: pictures of one person"
                " may be on both sides of a split, and intervals are narrower than they should be."
            )
            found.append(RowWarning("patients_unknown", "warn", "run" if name == "train" else name, told))
    for split, images in splits.items():
        if split not in ("val", "test"):  # they are of the training source
            found += _source_is_label(split, images)
    for split, images in splits.items():
        if split not in ("train", "val"):
            found += _few_patients(split, images)
    found += _dark(splits["train"] if len(splits["train"]) else splits["test"])
    found += _label_conflict(splits, prepared)
    return found + _same_files(splits, prepared)


def _source_is_label(split: str, images: ImageSet) -> list[RowWarning]:
    """A doubt if the site of an image tells a class; the class for which this is most so is named."""
    if "site" not in images.table:
        return []
    called = "training images" if split == "train" else f"images in '{split}'"
    meant = (
        "A network may learn to recognise the place instead of the disease."
        if split == "train"
        else "Scores there may say how well places are told apart, not how well the disease is seen."
    )
    worst = (SOURCE_TELLS_LABEL, "")
    for column, (name, has) in enumerate(members(images)):
        known = images.table["site"].notna().to_numpy()
        if images.y.ndim == 2:
            known = known & ~np.isnan(images.y[:, column].astype(np.float32))
        sites, code = np.unique(images.table["site"][known].astype(str), return_inverse=True)
        table = np.stack([np.bincount(code[has[known] == value], minlength=len(sites)) for value in (True, False)], axis=1)
        strength = cramers_v(table.astype(np.float64))
        if strength > worst[0]:
            shares = table / table.sum(axis=0)
            site = int((shares[:, 0] - shares[:, 1]).argmax())
            told = (
                f"Where a picture was taken tells '{name}' from the rest (Cramer's V {strength:.2f} of 1):"
                f" {shares[site, 0]:.0%} of the {called} of '{name}' come from '{sites[site]}' but"
                f" {shares[site, 1]:.0%} of the others. {meant}"
            )
            worst = (strength, told)
    return [RowWarning("source_is_label", "warn", "run" if split == "train" else split, worst[1])] if worst[1] else []


def cramers_v(table: npt.NDArray[np.float64]) -> float:
    """How strongly rows and columns of a table of counts go together, 0 (not at all) to 1 (one tells the other).

    Corrected for chance, which without it makes many small sites look telling. 0 where a table has one row or column.
    Source: Bergsma, A bias-correction for Cramer's V and Tschuprow's T, J. Korean Stat. Soc. 2013,
    doi 10.1016/j.jkss.2012.10.002.
    """
    total = table.sum()
    rows, columns = table.shape
    if rows < 2 or columns < 2 or total < 2:
        return 0.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / total
    phi2 = ((table - expected) ** 2 / expected).sum() / total
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (total - 1))
    rows_, columns_ = rows - (rows - 1) ** 2 / (total - 1), columns - (columns - 1) ** 2 / (total - 1)
    smaller = min(rows_, columns_) - 1
    return float(min(1.0, np.sqrt(phi2 / smaller))) if smaller > 0 else 0.0


def _few_patients(split: str, images: ImageSet) -> list[RowWarning]:
    patients = {name: images.table["patient"][has].nunique() for name, has in members(images)}
    few = {name: count for name, count in patients.items() if count < FEW_PATIENTS and (count or split == "test")}
    if not few:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in few.items())
    told = (
        f"Fewer than {FEW_PATIENTS} patients of a class ({listed}) in '{split}': one can move its numbers by a tenth or more."
    )
    return [RowWarning("few_patients", "warn", split, told)]


def _dark(images: ImageSet) -> list[RowWarning]:
    """A doubt about images that are almost black, as 12-bit values in 16-bit files are: a radius means much more on them."""
    mean = float(images.take(np.linspace(0, len(images) - 1, min(len(images), 64)).astype(np.int64)).mean())
    if mean >= ALMOST_BLACK:
        return []
    told = (
        f"The mean grey of the {'training' if images.name == 'train' else 'test'} images is {mean:.3f} of 1: they are almost"
        " black, as 12-bit values in 16-bit files"
        " are. Any radius is then a large part of what there is to see; rescale the files."
    )
    return [RowWarning("dark_images", "warn", "run", told)]


def _label_conflict(splits: Mapping[str, ImageSet], prepared: Mapping[str, Prepared]) -> list[RowWarning]:
    """A doubt about files that are equal, byte for byte, and have different labels."""
    labels: dict[str, set[str]] = {}
    for name, images in splits.items():
        digests = prepared[name if name in prepared and name != "train" else "train"].digests
        for row, label in zip(images.rows, images.y, strict=True):
            labels.setdefault(digests[row], set()).add(str(np.asarray(label).tolist()))
    count = sum(len(found) > 1 for found in labels.values())
    if not count:
        return []
    told = f"{count} image files stand in the tables more than once, with different labels: one of the labels must be wrong."
    return [RowWarning("label_conflict", "warn", "run", told)]


def _same_files(splits: Mapping[str, ImageSet], prepared: Mapping[str, Prepared]) -> list[RowWarning]:
    digests = {
        split: [prepared[split if split in prepared and split != "train" else "train"].digests[row] for row in images.rows]
        for split, images in splits.items()
    }
    trained = set(digests.pop("train"))
    found: list[RowWarning] = []
    for split, listed in digests.items():
        count = sum(digest in trained for digest in listed)
        if count:
            told = f"{count} of the {len(listed)} images of '{split}' are also training images: its numbers are too good."
            found.append(RowWarning("shared_images", "warn", split, told))
    return found
