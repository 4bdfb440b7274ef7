"""The manifest of a dataset: what a reader's table must hold.

Beside the columns that `cxr_eval.plugin.Reader` names, a reader may give `listed_in` (text such as `labels.csv:17`): the file
and line that a row comes from, which messages then name.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.errors import DataError, nearest
from cxr_eval.types import LABEL, SkippedFile, Task

SPLITS = ("train", "val", "test")
MASK = "mask:"
BOXES = "boxes:"


def place(table: pd.DataFrame, position: int, reader: str) -> str:
    """Where row `position` comes from, as the beginning of a message: `labels.csv:17` or `READER: image ID`."""
    row = table.iloc[position]
    listed = row.get("listed_in")
    return str(listed) if isinstance(listed, str) else f"{reader}: image {row['image_id']}"


def task_of(table: pd.DataFrame) -> Task:
    """multilabel for a manifest with `label:NAME` columns, else multiclass."""
    return "multilabel" if any(str(column).startswith(LABEL) for column in table.columns) else "multiclass"


def findings(table: pd.DataFrame) -> tuple[str, ...]:
    """Names of the `label:NAME` columns, in their order."""
    return tuple(str(column).removeprefix(LABEL) for column in table.columns if str(column).startswith(LABEL))


def box_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """The columns that hold boxes: `boxes`, and `boxes:NAME` for each finding NAME, in their order."""
    return tuple(str(column) for column in table.columns if column == "boxes" or str(column).startswith(BOXES))


def mask_kinds(table: pd.DataFrame) -> tuple[str, ...]:
    """Names of the `mask:KIND` columns, in their order."""
    return tuple(str(column).removeprefix(MASK) for column in table.columns if str(column).startswith(MASK))


def checked(table: pd.DataFrame, *, reader: str, skip: bool = False) -> tuple[pd.DataFrame, tuple[SkippedFile, ...]]:
    """The manifest with every row checked, and the images that `skip` left out.

    Text columns become text, `image_id` defaults to the image's path, the index to 0..N-1. With `skip`, an image without a
    label, a patient or a file is left out and listed; anything that concerns more than one image always stops.

    Raises:
        DataError: a column is missing, a value cannot be read, two rows have one image_id, or no image is left.
    """
    _columns(table, reader)
    table = table.reset_index(drop=True).copy()
    if "image_id" not in table:
        table["image_id"] = table["image"]
    for column in ("image", "image_id", "patient", "label", "split"):
        if column in table:
            table[column] = pd.Series(
                [None if pd.isna(value) else str(value) for value in table[column]], index=table.index, dtype=object
            )
    table["image_id"] = table["image_id"].where(table["image_id"].notna(), table["image"])
    _values(table, reader)
    faults = _faults(table)
    if faults and not skip:
        position, reason = min(faults.items())
        more = f" (and {len(faults) - 1} more images with a fault)" if len(faults) > 1 else ""
        raise DataError(f"{place(table, position, reader)}: {reason}{more}")
    skipped = tuple(SkippedFile(reader, str(table["image_id"].iloc[row]), reason) for row, reason in sorted(faults.items()))
    if len(faults) == len(table):
        raise DataError(
            f"{reader}: all {len(table)} images would be skipped; the first: {skipped[0].image}: {skipped[0].reason}"
        )
    return table.drop(index=list(faults)).reset_index(drop=True), skipped


def used(table: pd.DataFrame, *, reader: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows that the reader did not leave out, and how many it did by reason, the most frequent first.

    Raises:
        DataError: no row is left.
    """
    if "left_out" not in table:
        return table, {}
    left = table["left_out"].notna()
    reasons = {str(reason): int(count) for reason, count in table["left_out"][left].value_counts().items()}
    if left.all() and len(table):
        first = next(iter(reasons))
        raise DataError(
            f"{reader}: all {len(table)} images are left out, {reasons[first]} because {first}; change the settings"
        )
    return table[~left].drop(columns="left_out").reset_index(drop=True), reasons


def _columns(table: pd.DataFrame, reader: str) -> None:
    if len(table) == 0:
        raise DataError(f"{reader}: the manifest lists no image")
    for column in ("image", "patient"):
        if column not in table:
            close = nearest(column, map(str, table.columns))
            raise DataError(
                f"{reader}: the manifest has no column '{column}'{close or ': ' + ', '.join(map(str, table.columns))}"
            )
    if "label" not in table and not findings(table):
        raise DataError(f"{reader}: the manifest has neither a column 'label' nor columns 'label:NAME'")
    if "label" in table and findings(table):
        raise DataError(f"{reader}: the manifest has a column 'label' and columns 'label:NAME'; a task is one or the other")
    for kept in ("box", "finding"):
        if MASK + kept in table or BOXES + kept in table:
            raise DataError(
                f"{reader}: the region kind '{kept}' has a meaning of its own; give the masks or boxes another name"
            )
    for column in box_columns(table):
        name = column.removeprefix(BOXES)
        if column != name and MASK + name in table:
            raise DataError(f"{reader}: '{name}' has boxes and masks; a finding has one or the other")


def _values(table: pd.DataFrame, reader: str) -> None:
    """What cannot be mended by leaving one image out: it shows that a wrong column was named."""

    def stop(bad: npt.NDArray[np.bool_], column: str, expected: str) -> None:
        if bad.any():
            position = int(bad.argmax())
            raise DataError(
                f"{place(table, position, reader)}: {column} is {table[column].iloc[position]!r}, expected {expected}"
            )

    if table["image"].isna().any():
        raise DataError(f"{place(table, int(table['image'].isna().argmax()), reader)}: no image is named")
    twice = table["image_id"].duplicated().to_numpy()
    if twice.any():
        second = int(twice.argmax())
        name = table["image_id"].iloc[second]
        first = int((table["image_id"] == name).argmax())
        raise DataError(
            f"{place(table, second, reader)}: image {name} is listed a second time, first in {place(table, first, reader)}"
        )
    if "split" in table:
        stop((table["split"].notna() & ~table["split"].isin(SPLITS)).to_numpy(), "split", "train, val or test")
    if "sex" in table:
        stop((table["sex"].notna() & ~table["sex"].isin(("F", "M"))).to_numpy(), "sex", "F, M or nothing")
    if "age" in table:
        age = pd.to_numeric(table["age"], errors="coerce")
        stop((table["age"].notna() & ~((age >= 0) & np.isfinite(age))).to_numpy(), "age", "years as a number >= 0, or nothing")
        table["age"] = age
    for finding in findings(table):
        column = LABEL + finding
        value = pd.to_numeric(table[column], errors="coerce")
        stop((table[column].notna() & ~value.isin((0, 1))).to_numpy(), column, "0, 1 or nothing (unknown)")
        table[column] = value.astype(np.float32)
    if "slice" in table:
        number = pd.to_numeric(table["slice"], errors="coerce")
        stop(
            (table["slice"].notna() & ~((number >= 0) & (number % 1 == 0))).to_numpy(),
            "slice",
            "a whole number from 0, or nothing",
        )
        table["slice"] = number
    for column in box_columns(table):
        bad = np.array([not _is_boxes(value) for value in table[column]])
        stop(bad, column, "(x, y, w, h) in pixels with w and h above 0")


def _is_boxes(value: object) -> bool:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return True
    if not isinstance(value, (tuple, list)):
        return False
    try:
        boxes = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return boxes.size == 0 or (
        boxes.ndim == 2 and boxes.shape[1] == 4 and bool(np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all())
    )


def _faults(table: pd.DataFrame) -> dict[int, str]:
    """Reason by row position for images that cannot be used but do not speak against the others."""
    faults: dict[int, str] = {}
    labels = table[[LABEL + finding for finding in findings(table)]] if findings(table) else table[["label"]]
    for position in np.flatnonzero(labels.isna().all(axis=1)).tolist():
        faults[position] = "no label" if task_of(table) == "multiclass" else "no finding is known, every label is empty"
    for position in np.flatnonzero(table["patient"].isna()).tolist():
        faults.setdefault(position, "no patient")
    images = table["image"].tolist()
    closed = [position for position, path in enumerate(images) if _closed(path)]
    for position in closed:
        faults[position] = f"image file {images[position]} cannot be read: permission denied"
    missing = [position for position, path in enumerate(images) if position not in faults and not os.path.isfile(path)]
    for position in missing:
        found = f"{len(images) - len(missing)} of {len(images)} listed images found"
        faults.setdefault(position, f"image file {images[position]} not found; {found}")
    for kind in mask_kinds(table):
        for position, path in enumerate(table[MASK + kind].tolist()):
            if isinstance(path, (str, os.PathLike)) and not os.path.isfile(path):
                faults.setdefault(position, f"{kind} mask {path} not found")
    return faults


def _closed(path: str) -> bool:
    """True if the file, or a folder above it, may not be opened."""
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, PermissionError)
    return not os.access(path, os.R_OK)


def classes_of(table: pd.DataFrame, wanted: tuple[str, ...] | None, *, reader: str) -> tuple[str, ...]:
    """The task's classes: `wanted` if the manifest agrees, else those found, sorted.

    Raises:
        DataError: there is only one class, or a label or wanted finding is unknown.
    """
    if task_of(table) == "multilabel":
        found = findings(table)
        for name in wanted or ():
            if name not in found:
                raise DataError(f"{reader}: no finding '{name}'{nearest(name, found)}; found: {', '.join(sorted(found))}")
        classes = wanted or tuple(sorted(found))
        if len(classes) < 2:
            raise DataError(f"{reader}: only one finding, '{classes[0]}'; use `label` for a task with two classes")
        return classes
    found = tuple(sorted(table["label"].unique()))
    if len(found) < 2:
        raise DataError(f"{reader}: all {len(table)} images have the label '{found[0]}'; at least two classes are needed")
    if wanted is not None:
        check_labels(table, wanted, reader=reader)
    folded = {name.strip().casefold(): name for name in found}
    for name in found:
        if wanted is None and (other := folded[name.strip().casefold()]) != name:
            raise DataError(
                f"{reader}: labels '{name}' and '{other}' differ in spelling only; use one of them, or name data.classes"
            )
    return wanted or found


def check_labels(table: pd.DataFrame, classes: tuple[str, ...], *, reader: str) -> None:
    """Every label is one of `classes`.

    Raises:
        DataError: one is not; the message lists the classes.
    """
    listed = ", ".join(classes)
    if task_of(table) == "multilabel":
        return
    unknown = ~table["label"].isin(classes).to_numpy()
    if unknown.any():
        position = int(unknown.argmax())
        label = table["label"].iloc[position]
        raise DataError(
            f"{place(table, position, reader)}: label '{label}' is not one of the classes {listed}{nearest(label, classes)}"
            f" ({int(unknown.sum())} of {len(table)} images have such a label; leave them out with `where` or `rename` them)"
        )


def check_splits(table: pd.DataFrame, classes: tuple[str, ...], *, reader: str, trained: bool = True) -> None:
    """Splits can be trained on and tested: whole patients, none empty, every class in train, two or more in val and test.

    trained: False if no network is trained, so that `train` may be anything.

    Raises:
        DataError: one of these does not hold.
    """
    per_patient = table.groupby("patient", sort=False)["split"].transform("nunique").to_numpy()
    if (per_patient > 1).any():
        first = int((per_patient > 1).argmax())
        patient, split = table["patient"].iloc[first], table["split"].iloc[first]
        other = int(((table["patient"] == patient) & (table["split"] != split)).to_numpy().argmax())
        raise DataError(
            f"{place(table, other, reader)}: patient '{patient}' is in split '{table['split'].iloc[other]}' and, "
            f"{place(table, first, reader)}, in '{split}'; all images of a patient belong to one split"
        )
    for split in SPLITS if trained else SPLITS[1:]:
        rows = table[table["split"] == split]
        if rows.empty:
            raise DataError(
                f"{reader}: split '{split}' is empty; give it images, or no split column at all, or where patients are drawn by"
                " lot a larger share in data.split"
            )
        if task_of(table) == "multiclass":
            absent = [name for name in classes if name not in set(rows["label"])]
            if absent and (split == "train" or len(absent) == len(classes) - 1):
                seen = ", ".join(name for name in classes if name not in absent)
                raise DataError(f"{reader}: split '{split}' has no image of class '{absent[0]}', only of {seen}")
        elif split == "train":
            for name in classes:
                known = set(rows[LABEL + name].dropna())
                if known != {0, 1}:
                    lacks = "without" if 0 not in known else "with"
                    raise DataError(f"{reader}: split 'train' has no image that is known to be {lacks} the finding '{name}'")
