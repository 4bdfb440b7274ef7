"""The manifest of a dataset: what a reader's table must hold, and the division of its patients.

Beside the columns that `cxr_eval.plugin.Reader` names, a reader may give `listed_in` (text such as `labels.csv:17`): the file
and line that a row comes from, which messages then name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.errors import DataError, nearest
from cxr_eval.protocol import Split
from cxr_eval.types import LABEL, SkippedFile, Task

SPLITS = ("train", "val", "test")
MASK = "mask:"


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
    if f"{MASK}box" in table:
        raise DataError(f"{reader}: the mask kind 'box' is kept for the column 'boxes'; give the masks another name")


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
    if "boxes" in table:
        stop(
            np.array([not _is_boxes(value) for value in table["boxes"]]), "boxes", "(x, y, w, h) in pixels with w and h above 0"
        )


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
    missing = [position for position, path in enumerate(images) if not os.path.isfile(path)]
    for position in missing:
        found = f"{len(images) - len(missing)} of {len(images)} listed images found"
        faults.setdefault(position, f"image file {images[position]} not found; {found}")
    for kind in mask_kinds(table):
        for position, path in enumerate(table[MASK + kind].tolist()):
            if isinstance(path, (str, os.PathLike)) and not os.path.isfile(path):
                faults.setdefault(position, f"{kind} mask {path} not found")
    return faults


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


def check_splits(table: pd.DataFrame, classes: tuple[str, ...], *, reader: str) -> None:
    """Splits can be trained on and tested: whole patients, none empty, every class in train, two or more in val and test.

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
    for split in SPLITS:
        rows = table[table["split"] == split]
        if rows.empty:
            raise DataError(
                f"{reader}: split '{split}' is empty; give it images, or no split column at all to divide by patient"
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


def strata(table: pd.DataFrame) -> pd.Series:
    """For each image its class, or in multi-label tasks its rarest finding (empty text where it has none)."""
    if task_of(table) == "multiclass":
        return table["label"]
    names = findings(table)
    positive = table[[LABEL + name for name in names]].to_numpy() == 1
    rarest_first = np.argsort(positive.sum(axis=0), kind="stable")
    ordered = positive[:, rarest_first]
    chosen = np.where(ordered.any(axis=1), rarest_first[ordered.argmax(axis=1)], len(names))
    return pd.Series([(*names, "")[index] for index in chosen], index=table.index, dtype=object)


def split_by_patient(table: pd.DataFrame, split: Split) -> pd.Series:
    """For each image train, val or test: whole patients, stratified by class, the same for any order of the rows.

    A patient counts for the rarest class among the images. A class with three or more such patients comes into every split; one
    with two into train and test; one with one into train.
    """
    return divide(table, {"test": split.test, "val": split.val}, split.seed)


def divide(table: pd.DataFrame, shares: Mapping[str, float], seed: int) -> pd.Series:
    """For each image the name of its split; `shares` of the patients by name, the rest is train."""
    kind = strata(table)
    pairs = pd.DataFrame({"patient": table["patient"], "kind": kind}).drop_duplicates()
    pairs["size"] = pairs.groupby("kind")["patient"].transform("size")
    rarest = pairs.sort_values(["size", "kind"]).drop_duplicates("patient")
    chosen: dict[str, str] = {}
    for _, patients in rarest.groupby("kind")["patient"]:
        drawn = sorted(patients, key=lambda patient: _draw(seed, patient))
        start = 0
        for later, (name, share) in zip(range(len(shares) - 1, -1, -1), shares.items(), strict=True):
            kept = 1 + (later if len(drawn) > len(shares) else 0)  # train, and each split still to come, keep one
            count = min(max(1, int(len(drawn) * share + 0.5)), len(drawn) - start - kept)
            chosen.update(dict.fromkeys(drawn[start : start + max(count, 0)], name))
            start += max(count, 0)
    return table["patient"].map(lambda patient: chosen.get(patient, "train")).rename("split")


def limited(table: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """At most `limit` images of the table, classes in their proportions (each at least once where there is room)."""
    if len(table) <= limit:
        return table
    kind = strata(table)
    names, code = np.unique(kind.to_numpy(dtype=str), return_inverse=True)
    counts = np.bincount(code)
    exact = counts * limit / len(table)
    quota = np.floor(exact).astype(np.int64)
    if len(names) <= limit:
        quota = np.maximum(quota, 1)
    while quota.sum() < limit:  # largest remainder first
        quota[np.where(quota < counts, exact - quota, -np.inf).argmax()] += 1
    while quota.sum() > limit:
        quota[np.where(quota > 1, quota - exact, -np.inf).argmax()] -= 1
    order = table["image_id"].map(lambda name: _draw(seed, name))
    rank = order.groupby(code).rank(method="first").to_numpy()
    return table[rank <= quota[code]].reset_index(drop=True)


def _draw(seed: int, name: str) -> str:
    # a hash, not a generator: what is drawn must not depend on the order in which files were listed
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def threads() -> ThreadPoolExecutor:
    """A pool for work on files; Pillow and hashlib let go of the interpreter's lock."""
    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))


def file_digests(paths: Iterable[str], cache: Path) -> dict[str, str]:
    """sha256 by path. Known ones are kept in `cache` by path, size and time of change, so that a start reads no image.

    A file that changed at or after the time the digests were written is read again: a second change of equal size within one
    tick of the clock could not be seen.

    Raises:
        DataError: a file cannot be read.
    """
    store = cache / "file-digests.json"
    try:
        written = store.stat().st_mtime_ns
        known: dict[str, list[Any]] = json.loads(store.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none yet, or damaged: that only costs the time to read the images
        written, known = 0, {}
    stamps: dict[str, list[int]] = {}
    try:
        for path in dict.fromkeys(paths):
            stat = os.stat(path)
            stamps[path] = [stat.st_size, stat.st_mtime_ns]
        new = [path for path, stamp in stamps.items() if known.get(path, [])[:2] != stamp or stamp[1] >= written]
        with threads() as pool:
            known |= {path: [*stamps[path], digest] for path, digest in zip(new, pool.map(_digest, new), strict=True)}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if new:
        cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache, prefix=".file-digests-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file)
        os.replace(name, store)
    return {path: known[path][2] for path in stamps}


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
