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
import pydantic

from cxr_eval import registry
from cxr_eval.data import manifest
from cxr_eval.data.manifest import FINDING, SPLITS
from cxr_eval.data.prepared import Prepared, Progress, prepare
from cxr_eval.errors import DataError, PluginError
from cxr_eval.images import ImageSet, Regions
from cxr_eval.plugin import Reader
from cxr_eval.protocol import Data, Source
from cxr_eval.types import RowWarning, SkippedFile, Task

FEW_PATIENTS = 10
"""Below this many patients of a class, one patient moves its accuracy by more than ten percentage points."""
SOURCE_TELLS_LABEL = 0.5
"""Cramer's V between site and class from which on the site counts as telling the class ("large" for Cohen, 1988)."""


@dataclass(frozen=True)
class ReaderInfo:
    """Where one set came from: `train` or an outside set's name, reader, its package and version, its source, drawn or not."""

    dataset: str
    name: str
    package: str
    source: str
    drawn: bool


@dataclass(frozen=True)
class Datasets:
    """All images of a protocol.

    splits: train, val, test, and each outside set by its name. hashes: for each split, identify its pixels, regions, labels and
    patients; hash: all of them together.
    counts: columns dataset (reader), split, class, images, patients; in multi-label tasks an image counts for each finding that
    it has.
    drawn: True if any reader made its images instead of finding them.
    """

    splits: dict[str, ImageSet]
    classes: tuple[str, ...]
    task: Task
    hashes: dict[str, str]
    readers: tuple[ReaderInfo, ...]
    skipped: tuple[SkippedFile, ...]
    warnings: tuple[RowWarning, ...]
    drawn: bool
    counts: pd.DataFrame

    @property
    def hash(self) -> str:
        """Identifies all images of the protocol."""
        return hashlib.sha256(json.dumps(self.hashes, sort_keys=True).encode()).hexdigest()


def load(data: Data, *, cache: Path, progress: Progress | None = None) -> Datasets:
    """Read, check, divide, limit and prepare every dataset of a protocol.

    All rows that an outside set's reader gives are used, whatever their split; a reader's `where` narrows them. progress:
    called with (images prepared, images in all) over all sets.

    Raises:
        DataError: a dataset is not as its reader expects, a split is empty, or a patient is on both sides.
        PluginError: a reader is unknown or its settings are wrong.
    """
    for name in data.outside:
        if name in SPLITS:
            raise DataError(f"data.outside: a set cannot be called '{name}', the name of a split; choose another name")
    skip = data.on_error == "skip"
    sources = {"train": data.train, **data.outside}
    readers = {name: _reader(source, name) for name, source in sources.items()}
    tables: dict[str, pd.DataFrame] = {}
    skipped: list[SkippedFile] = []
    for name, reader in readers.items():
        table = _narrowed(reader.read(cache), data.classes)
        tables[name], left_out = manifest.checked(table, reader=sources[name].reader, skip=skip)
        skipped += left_out
    main = data.train.reader
    classes = manifest.classes_of(tables["train"], data.classes, reader=main)
    task = manifest.task_of(tables["train"])
    warnings: list[RowWarning] = []
    tables["train"] = _divided(tables["train"], data, warnings)
    manifest.check_splits(tables["train"], classes, reader=main)
    for name in data.outside:
        tables[name] = _outside(tables[name], name, classes, task, data)
        _no_patient_twice(tables["train"], tables[name], name, sources[name].reader)
    if data.limit is not None:
        for name, table in tables.items():
            parts = [manifest.limited(part, data.limit, data.split.seed) for _, part in table.groupby("split", sort=False)]
            tables[name] = pd.concat(parts, ignore_index=True)
    prepared = _prepare_all(tables, data, cache, {name: source.reader for name, source in sources.items()}, progress)
    skipped += [file for each in prepared.values() for file in each.skipped]
    manifest.check_splits(prepared["train"].table, classes, reader=main)
    splits = {
        split: _image_set(each, split, classes, task)
        for each in prepared.values()
        for split in dict.fromkeys(SPLITS if each is prepared["train"] else each.table["split"])
    }
    warnings += _warnings(splits, prepared)
    infos = tuple(
        ReaderInfo(name, sources[name].reader, registry.origin("readers", sources[name].reader), reader.source, reader.drawn)
        for name, reader in readers.items()
    )
    return Datasets(
        splits=splits,
        classes=classes,
        task=task,
        hashes=_hashes(splits, prepared),
        readers=infos,
        skipped=tuple(skipped),
        warnings=tuple(warnings),
        drawn=any(info.drawn for info in infos),
        counts=_counts(splits, {name: source.reader for name, source in sources.items()}),
    )


def _reader(source: Source, name: str) -> Reader:
    where = "data.train" if name == "train" else f"data.outside.{name}"
    plugin: type[Reader] = registry.find("readers", source.reader)
    try:
        return plugin(plugin.Params.model_validate(source.settings))
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        setting = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            close = registry.nearest(setting, plugin.Params.model_fields)
            told = f"has no setting '{setting}'{close}"
        elif problem["type"] == "missing":
            told = f"needs the setting '{setting}'"
        else:
            told = f"setting '{setting}': " if setting else ""
            told += problem["msg"].removeprefix("Value error, ") + (f", got {problem['input']!r}" if setting else "")
        raise PluginError(f"{where}: reader '{source.reader}' {told}") from None


def _narrowed(table: pd.DataFrame, classes: tuple[str, ...] | None) -> pd.DataFrame:
    """The table without findings that the protocol does not ask for; as it is if that would leave none."""
    found = manifest.findings(table)
    if classes is None or not set(found) & set(classes):
        return table
    return table.drop(columns=[FINDING + finding for finding in found if finding not in classes])


def _divided(table: pd.DataFrame, data: Data, warnings: list[RowWarning]) -> pd.DataFrame:
    """The training source's table with a split in every row."""
    reader = data.train.reader
    if "split" not in table or table["split"].isna().all():
        return table.assign(split=manifest.split_by_patient(table, data.split))
    if table["split"].isna().any():
        empty = int(table["split"].isna().to_numpy().argmax())
        raise DataError(
            f"{manifest.place(table, empty, reader)}: no split, while other images have one; expected train, val or test"
        )
    if "val" in set(table["split"]) or "train" not in set(table["split"]):
        return table
    training = table[table["split"] == "train"]
    share = data.split.val / (1 - data.split.test)  # of what is left for training, as large as without given splits
    table = table.copy()
    table.loc[training.index, "split"] = manifest.divide(training, {"val": share}, data.split.seed)
    count = int((table["split"] == "val").sum())
    told = (
        f"The dataset has no validation images; {count} of its {len(training)} training images (whole patients) were set apart."
    )
    warnings.append(RowWarning("val_from_train", "note", "val", told))
    return table


def _outside(table: pd.DataFrame, name: str, classes: tuple[str, ...], task: Task, data: Data) -> pd.DataFrame:
    """An outside set's table, all of it in the split `name`, with the training classes only."""
    reader = data.outside[name].reader
    if manifest.task_of(table) != task:
        raise DataError(
            f"data.outside.{name}: labels are {manifest.task_of(table)}, those of data.train are {task}; they must agree"
        )
    if task == "multiclass":
        manifest.check_labels(table, classes, reader=reader)
    else:
        unknown = [finding for finding in manifest.findings(table) if finding not in classes]
        if unknown and data.classes is None:
            close = registry.nearest(unknown[0], classes)
            listed = ", ".join(classes)
            raise DataError(f"data.outside.{name}: finding '{unknown[0]}' is not one of data.train's: {listed}{close}")
        if len(unknown) == len(manifest.findings(table)):
            raise DataError(f"data.outside.{name}: has none of the findings {', '.join(classes)}")
    return table.assign(split=name)


def _no_patient_twice(main: pd.DataFrame, table: pd.DataFrame, name: str, reader: str) -> None:
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
    tables: Mapping[str, pd.DataFrame], data: Data, cache: Path, readers: Mapping[str, str], progress: Progress | None
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
            cache=cache,
            reader=readers[name],
            skip=data.on_error == "skip",
            progress=tell,
        )
        done += len(table)
    return prepared


def _image_set(prepared: Prepared, split: str, classes: tuple[str, ...], task: Task) -> ImageSet:
    rows = np.flatnonzero((prepared.table["split"] == split).to_numpy()).astype(np.int64)
    table = prepared.table.iloc[rows].drop(columns="listed_in", errors="ignore").reset_index(drop=True)
    y: npt.NDArray[Any]
    if task == "multiclass":
        y = table["label"].map({name: index for index, name in enumerate(classes)}).to_numpy(dtype=np.int64)
    else:
        y = np.full((len(rows), len(classes)), np.nan, dtype=np.float32)  # a finding that the set does not know stays unknown
        for index, name in enumerate(classes):
            if FINDING + name in table:
                y[:, index] = table[FINDING + name].to_numpy(dtype=np.float32)
    regions = {kind: Regions(known.array, known.row[rows]) for kind, known in prepared.regions.items()}
    return ImageSet(prepared.pixels, rows, y, table, classes, split, regions)


def _members(images: ImageSet) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """For each class the images that have it."""
    has = images.y == 1 if images.y.ndim == 2 else images.y[:, None] == np.arange(len(images.classes))
    return [(name, has[:, index]) for index, name in enumerate(images.classes)]


def _counts(splits: Mapping[str, ImageSet], readers: Mapping[str, str]) -> pd.DataFrame:
    rows = [
        (readers.get(split, readers["train"]), split, name, int(has.sum()), int(images.table["patient"][has].nunique()))
        for split, images in splits.items()
        for name, has in _members(images)
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


def _warnings(splits: Mapping[str, ImageSet], prepared: Mapping[str, Prepared]) -> list[RowWarning]:
    found: list[RowWarning] = []
    for name, each in prepared.items():
        pairs = zip(each.table["patient"], each.table["image_id"], strict=True)
        if all(str(patient).endswith(str(image)) for patient, image in pairs):
            told = (
                f"The dataset names no patients, so each of its {len(each.table)} images counts as one: pictures of one person"
                " may be on both sides of a split, and intervals are narrower than they should be."
            )
            found.append(RowWarning("patients_unknown", "warn", "run" if name == "train" else name, told))
    found += _source_is_label(splits["train"])
    for split, images in splits.items():
        if split not in ("train", "val"):
            found += _few_patients(split, images)
    return found + _same_files(splits, prepared)


def _source_is_label(train: ImageSet) -> list[RowWarning]:
    """A doubt if the site of a training image tells a class; the class for which this is most so is named."""
    if "site" not in train.table:
        return []
    worst = (SOURCE_TELLS_LABEL, "")
    for column, (name, has) in enumerate(_members(train)):
        known = train.table["site"].notna().to_numpy()
        if train.y.ndim == 2:
            known = known & ~np.isnan(train.y[:, column].astype(np.float32))
        sites, code = np.unique(train.table["site"][known].astype(str), return_inverse=True)
        table = np.stack([np.bincount(code[has[known] == value], minlength=len(sites)) for value in (True, False)], axis=1)
        strength = cramers_v(table.astype(np.float64))
        if strength > worst[0]:
            shares = table / table.sum(axis=0)
            site = int((shares[:, 0] - shares[:, 1]).argmax())
            told = (
                f"Where a picture was taken tells '{name}' from the rest (Cramer's V {strength:.2f} of 1):"
                f" {shares[site, 0]:.0%} of the training images of '{name}' come from '{sites[site]}' but"
                f" {shares[site, 1]:.0%} of the others. A network may learn to recognise the place instead of the disease."
            )
            worst = (strength, told)
    return [RowWarning("source_is_label", "warn", "run", worst[1])] if worst[1] else []


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
    patients = {name: images.table["patient"][has].nunique() for name, has in _members(images)}
    few = {name: count for name, count in patients.items() if count < FEW_PATIENTS and (count or split == "test")}
    if not few:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in few.items())
    told = (
        f"Fewer than {FEW_PATIENTS} patients of a class ({listed}) in '{split}': one can move its numbers by a tenth or more."
    )
    return [RowWarning("few_patients", "warn", split, told)]


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
