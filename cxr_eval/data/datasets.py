"""The datasets of a protocol: read, checked, divided, limited and prepared, with the doubts that their tables raise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.data import manifest
from cxr_eval.data.divide import divide, limited, split_by_patient
from cxr_eval.data.doubts import doubts, members
from cxr_eval.data.manifest import SPLITS
from cxr_eval.data.prepared import FORMAT, Prepared, Progress, prepare
from cxr_eval.data.sources import LeftOut, ReaderInfo, Table, joined, read, sources_of
from cxr_eval.errors import DataError, nearest
from cxr_eval.images import ImageSet, Regions
from cxr_eval.protocol import Data
from cxr_eval.types import LABEL, RowWarning, SkippedFile, Task


@dataclass(frozen=True)
class Datasets:
    """All images of a protocol.

    splits: train, val, test, and each outside set by its name. left_out: what readers did not take. hashes: for each split,
    identify its pixels, regions, labels and patients; hash: all of them together. contents: for each split, identify what
    training on it depends on.
    counts: columns dataset (reader), split, class, images, patients; in multi-label tasks an image counts for each finding that
    it has.
    drawn: True if any reader made its images instead of finding them.
    """

    splits: dict[str, ImageSet]
    classes: tuple[str, ...]
    task: Task
    hashes: dict[str, str]
    contents: dict[str, str]
    readers: tuple[ReaderInfo, ...]
    skipped: tuple[SkippedFile, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[RowWarning, ...]
    drawn: bool
    counts: pd.DataFrame

    @property
    def hash(self) -> str:
        """Identifies all images of the protocol."""
        return hashlib.sha256(json.dumps(self.hashes, sort_keys=True).encode()).hexdigest()


def load(data: Data, *, cache: Path, progress: Progress | None = None, trained: bool = True) -> Datasets:
    """Read, check, divide, limit and prepare every dataset of a protocol.

    All rows that an outside set's reader gives are used, whatever their split; a reader's `where` narrows them. progress:
    called with (images prepared, images in all) over all sets. trained: False if all networks are taken as they are; training
    images are then not needed, and none are set apart.

    Raises:
        DataError: a dataset is not as its reader expects, a split is empty, or a patient is on both sides.
        PluginError: a reader is unknown or its settings are wrong.
    """
    given = {name: tuple(read(source, name, data, cache) for source in sources) for name, sources in sources_of(data).items()}
    readers = {name: " and ".join(dict.fromkeys(table.info.name for table in tables)) for name, tables in given.items()}
    tables = {name: joined(parts, name) for name, parts in given.items()}
    main = data.train.reader
    classes = manifest.classes_of(tables["train"], data.classes, reader=main)
    task = manifest.task_of(tables["train"])
    warnings: list[RowWarning] = []
    tables["train"] = _divided(tables["train"], data, warnings, trained)
    manifest.check_splits(tables["train"], classes, reader=main, trained=trained)
    for name in data.outside:
        for part in given[name]:
            if part.info.name == main:
                _no_patient_twice(tables["train"], part, name)
        tables[name] = _outside(tables[name], name, classes, task, data, readers[name])
    if data.limit is not None:
        for name, table in tables.items():
            kept = [limited(part, data.limit, data.split.seed) for _, part in table.groupby("split", sort=False)]
            tables[name] = pd.concat(kept, ignore_index=True)
    colour = {name: any(part.colour for part in parts) for name, parts in given.items()}
    prepared = _prepare_all(tables, data, cache, readers, colour, progress)
    parts = [part for name in given for part in given[name]]
    skipped = [file for part in parts for file in part.skipped]
    skipped += [file for each in prepared.values() for file in each.skipped]
    manifest.check_splits(prepared["train"].table, classes, reader=main, trained=trained)
    splits = {
        split: _image_set(each, split, classes, task, data.channels)
        for each in prepared.values()
        for split in dict.fromkeys(SPLITS if each is prepared["train"] else each.table["split"])
    }
    if skipped:
        told = f"{len(skipped)} images cannot be used and were left out; the first: {skipped[0].image}: {skipped[0].reason}"
        warnings.append(RowWarning("bad_files", "warn", "run", told))
    warnings += doubts(splits, prepared)
    return Datasets(
        splits=splits,
        classes=classes,
        task=task,
        hashes=_hashes(splits, prepared),
        contents=_contents(splits, prepared, data),
        readers=tuple(part.info for part in parts),
        skipped=tuple(skipped),
        left_out=tuple(left for part in parts for left in part.left_out),
        warnings=tuple(warnings),
        drawn=any(part.info.drawn for part in parts),
        counts=_counts(splits, readers),
    )


def _divided(table: pd.DataFrame, data: Data, warnings: list[RowWarning], trained: bool) -> pd.DataFrame:
    """The training source's table with a split in every row."""
    reader = data.train.reader
    if "split" not in table or table["split"].isna().all():
        drawn = split_by_patient(table, data.split)
        return table.assign(split=drawn if trained else drawn.replace("train", "test"))
    if table["split"].isna().any():
        empty = int(table["split"].isna().to_numpy().argmax())
        raise DataError(
            f"{manifest.place(table, empty, reader)}: no split, while other images have one; expected train, val or test"
        )
    origin = "train" if "train" in set(table["split"]) else "test"
    if "val" in set(table["split"]) or (trained and origin == "test"):
        return table
    divided = table[table["split"] == origin]
    share = data.split.val / (1 - data.split.test)  # of what is left for training, as large as without given splits
    table = table.copy()
    table.loc[divided.index, "split"] = divide(divided, {"val": share}, data.split.seed).replace("train", origin)
    count = int((table["split"] == "val").sum())
    kind = "training" if origin == "train" else "test"
    told = (
        f"The dataset has no validation images; {count} of its {len(divided)} {kind} images (whole patients) were set apart"
        + ("." if origin == "train" else " for thresholds, and nothing is tested on them.")
    )
    warnings.append(RowWarning(f"val_from_{origin}", "note", "val", told))
    return table


def _outside(table: pd.DataFrame, name: str, classes: tuple[str, ...], task: Task, data: Data, reader: str) -> pd.DataFrame:
    """An outside set's table, all of it in the split `name`, with the training classes only."""
    if manifest.task_of(table) != task:
        raise DataError(
            f"data.outside.{name}: labels are {manifest.task_of(table)}, those of data.train are {task}; they must agree"
        )
    if task == "multiclass":
        manifest.check_labels(table, classes, reader=reader)
    else:
        unknown = [finding for finding in manifest.findings(table) if finding not in classes]
        if unknown and data.classes is None:
            close = nearest(unknown[0], classes)
            listed = ", ".join(classes)
            raise DataError(f"data.outside.{name}: finding '{unknown[0]}' is not one of data.train's: {listed}{close}")
        if len(unknown) == len(manifest.findings(table)):
            raise DataError(f"data.outside.{name}: has none of the findings {', '.join(classes)}")
    return table.assign(split=name)


def _no_patient_twice(main: pd.DataFrame, part: Table, name: str) -> None:
    """Refuse an outside set with patients of the training source; ids of another reader say nothing about these."""
    table, reader = part.rows, part.info.name
    used = main[main["split"] != "test"].drop_duplicates("patient").set_index("patient")["split"]
    shared = table["patient"].isin(used.index).to_numpy()
    if shared.any():
        first = int(shared.argmax())
        patient = table["patient"].iloc[first]
        raise DataError(
            f"{manifest.place(table, first, reader)}: patient '{patient}' of the outside set '{name}' is also in split "
            f"'{used[patient]}'; leave such patients out, or if they are different people, give their ids a prefix"
        )


def _prepare_all(
    tables: Mapping[str, pd.DataFrame],
    data: Data,
    cache: Path,
    readers: Mapping[str, str],
    colour: Mapping[str, bool],
    progress: Progress | None,
) -> dict[str, Prepared]:
    total = sum(len(table) for table in tables.values())
    done = 0
    prepared: dict[str, Prepared] = {}
    for name, table in tables.items():
        before = done

        def tell(count: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count, total)

        prepared[name] = prepare(
            table,
            size=data.size,
            channels=data.channels,
            resize=data.resize,
            colour=colour[name],
            cache=cache,
            reader=readers[name],
            skip=data.on_error == "skip",
            progress=tell,
        )
        done += len(table)
    return prepared


def _image_set(prepared: Prepared, split: str, classes: tuple[str, ...], task: Task, channels: int) -> ImageSet:
    rows = np.flatnonzero((prepared.table["split"] == split).to_numpy()).astype(np.int64)
    table = prepared.table.iloc[rows].drop(columns="listed_in", errors="ignore").reset_index(drop=True)
    y: npt.NDArray[Any]
    if task == "multiclass":
        y = table["label"].map({name: index for index, name in enumerate(classes)}).to_numpy(dtype=np.int64)
    else:
        y = np.full((len(rows), len(classes)), np.nan, dtype=np.float32)  # a finding that the set does not know stays unknown
        for index, name in enumerate(classes):
            if LABEL + name in table:
                y[:, index] = table[LABEL + name].to_numpy(dtype=np.float32)
    regions = {kind: Regions(known.array, known.row[rows]) for kind, known in prepared.regions.items()}
    return ImageSet(prepared.pixels, rows, y, table, classes, split, regions, channels)


def _counts(splits: Mapping[str, ImageSet], readers: Mapping[str, str]) -> pd.DataFrame:
    rows = [
        (readers.get(split, readers["train"]), split, name, int(has.sum()), int(images.table["patient"][has].nunique()))
        for split, images in splits.items()
        for name, has in members(images)
    ]
    return pd.DataFrame(rows, columns=["dataset", "split", "class", "images", "patients"])


def _hashes(splits: Mapping[str, ImageSet], prepared: Mapping[str, Prepared]) -> dict[str, str]:
    """For each split a hash of all that results on it can depend on; the place of the files is not part of it."""
    found: dict[str, str] = {}
    for name, images in splits.items():
        each = prepared[name if name in prepared and name != "train" else "train"]
        table = images.table
        columns = [column for column in ("image_id", "patient", "sex", "age", "view", "site") if column in table]
        cells = {column: [None if pd.isna(cell) else str(cell) for cell in table[column]] for column in columns}
        labels = [[None if pd.isna(cell) else float(cell) for cell in np.atleast_1d(row)] for row in images.y]
        content = [each.hash, images.rows.tolist(), images.classes, labels, cells]
        found[name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return found


def _contents(splits: Mapping[str, ImageSet], prepared: Mapping[str, Prepared], data: Data) -> dict[str, str]:
    """For each split a hash of all that training on it can depend on: pixels, labels, order; no regions, no other split."""
    found: dict[str, str] = {}
    for name, images in splits.items():
        each = prepared[name if name in prepared and name != "train" else "train"]
        labels = [[None if pd.isna(cell) else float(cell) for cell in np.atleast_1d(row)] for row in images.y]
        files = [each.digests[row] for row in images.rows]
        made = [FORMAT, data.size, data.channels, data.resize, images.pixels.shape[1], str(images.pixels.dtype)]
        found[name] = hashlib.sha256(json.dumps([made, files, images.classes, labels]).encode()).hexdigest()
    return found
