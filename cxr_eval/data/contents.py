"""What a dataset holds, as its reader finds it: images, patients, classes, masks, boxes, and what was left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_eval.data import manifest
from cxr_eval.data.decoding import decode_mask
from cxr_eval.data.dicom import quiet
from cxr_eval.data.digests import threads
from cxr_eval.data.manifest import BOXES, MASK, box_columns, findings, mask_kinds
from cxr_eval.events import Event
from cxr_eval.plugin import Reader
from cxr_eval.types import LABEL

_ALL = "all"
_MOST_SHOWN = 10


def contents(
    name: str, reader: Reader, *, cache: Path, on_event: Callable[[Event], None] = lambda event: None
) -> dict[str, Any]:
    """What `reader` finds, as plain data; every mask is opened, no image is.

    Raises:
        DataError: the dataset is not as the reader expects, or no image of it can be used.
    """
    table, left_out = manifest.used(reader.read(cache), reader=name)
    table, skipped = manifest.checked(table, reader=name, skip=True)
    filled, damaged = _filled_masks(table, on_event)
    return {
        "reader": name,
        "source": reader.source,
        "drawn": reader.drawn,
        "task": manifest.task_of(table),
        "images": len(table),
        "patients": int(table["patient"].nunique()),
        "splits": _by_split(table),
        "views": _counts(table, "view"),
        "sexes": _counts(table, "sex"),
        "sites": _counts(table, "site"),
        "ages": _ages(table),
        "masks": {kind: int(mask.sum()) for kind, mask in filled.items()},
        "boxes": {_finding(column): _boxes(table[column]) for column in box_columns(table)},
        "left_out": left_out,
        "faults": [{"image": file.image, "reason": file.reason} for file in skipped] + damaged,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same for a person."""
    kind = "images of no patient, drawn" if found["drawn"] else "images"
    told = [f"{found['reader']}: {found['images']} {kind}, {found['patients']} patients, {found['task']}"]
    told += [f"source: {found['source']}"] if found["source"] else []
    for split, about in found["splits"].items():
        classes = ", ".join(f"{name} {count}" for name, count in about["classes"].items())
        where = "without a split" if split == _ALL else split
        told.append(f"{where}: {about['images']} images, {about['patients']} patients: {classes}")
    for title in ("views", "sexes", "sites"):
        if found[title]:
            told.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in found[title].items()))
    if found["ages"]:
        ages = found["ages"]
        told.append(f"ages: {ages['known']} known, {ages['youngest']:.3g} to {ages['oldest']:.3g}, median {ages['median']:.3g}")
    told += [f"masks of {name}: {count} that are not empty" for name, count in found["masks"].items() if count]
    told += [
        f"boxes of {name}: {about['boxes']} on {about['images']} images"
        for name, about in found["boxes"].items()
        if about["boxes"]
    ]
    told += [f"left out: {count}: {reason}" for reason, count in found["left_out"].items()]
    faults = found["faults"]
    told += [f"cannot be used: {fault['image']}: {fault['reason']}" for fault in faults[:_MOST_SHOWN]]
    told += [f"cannot be used: {len(faults) - _MOST_SHOWN} more"] if len(faults) > _MOST_SHOWN else []
    return told


def _by_split(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Images, patients and images by class, by split; all together where the reader gives no split."""
    split = table["split"].fillna(_ALL) if "split" in table else pd.Series(_ALL, index=table.index)
    order = [name for name in (*manifest.SPLITS, _ALL) if (split == name).any()]
    return {
        name: {
            "images": len(part),
            "patients": int(part["patient"].nunique()),
            "classes": _classes(part),
        }
        for name in order
        for part in [table[split == name]]
    }


def _classes(part: pd.DataFrame) -> dict[str, int]:
    if names := findings(part):
        return {name: int((part[LABEL + name] == 1).sum()) for name in names}
    return {str(name): int(count) for name, count in part["label"].value_counts().sort_index().items()}


def _counts(table: pd.DataFrame, column: str) -> dict[str, int]:
    if column not in table:
        return {}
    counts = table[column].fillna("not known").value_counts()
    return {str(name): int(count) for name, count in counts.items()}


def _ages(table: pd.DataFrame) -> dict[str, float]:
    known = table["age"].dropna().to_numpy(dtype=np.float64) if "age" in table else np.empty(0)
    if not len(known):
        return {}
    return {
        "known": len(known),
        "youngest": float(known.min()),
        "median": float(np.median(known)),
        "oldest": float(known.max()),
    }


def _finding(column: str) -> str:
    return column.removeprefix(BOXES) if column.startswith(BOXES) else "findings not named"


def _boxes(column: pd.Series) -> dict[str, int]:
    counts = [len(boxes) if isinstance(boxes, (tuple, list)) else 0 for boxes in column]
    return {"boxes": sum(counts), "images": sum(count > 0 for count in counts)}


def _filled_masks(table: pd.DataFrame, on_event: Callable[[Event], None]) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    """By kind, which images have a mask that is not empty; and the masks that cannot be read, which count as none."""
    filled = {kind: np.zeros(len(table), dtype=bool) for kind in mask_kinds(table)}
    damaged: list[dict[str, str]] = []
    listed = [
        (kind, row, str(path))
        for kind in filled
        for row, path in enumerate(table[MASK + kind])
        if isinstance(path, str) or (path is not None and not pd.isna(path))
    ]
    with quiet(), threads() as pool:
        for number, ((kind, row, path), looked) in enumerate(zip(listed, pool.map(_is_filled, listed), strict=True)):
            if isinstance(looked, str):
                damaged.append({"image": str(table["image_id"].iloc[row]), "reason": f"{kind} mask {path}: {looked}"})
            filled[kind][row] = looked is True
            if number % 100 == 0:
                on_event(Event(step="opening masks", done=number, total=len(listed)))
    return filled, damaged


def _is_filled(listed: tuple[str, int, str]) -> bool | str:
    try:
        return bool(decode_mask(listed[2]).any())
    except Exception as error:  # Pillow raises many kinds for a damaged file
        return " ".join(str(error).split()) or type(error).__name__
