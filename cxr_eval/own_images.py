"""Images and labels in memory as a `data` section: pictures and a table in the cache, read like any other dataset."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from cxr_eval.data.manifest import SPLITS
from cxr_eval.errors import DataError, nearest
from cxr_eval.folders import whole_folder
from cxr_eval.types import RowWarning

Array = npt.NDArray[Any]

FORMAT = 1
"""Raised when the same arrays would be written to other files."""
COLUMNS = ("sex", "age", "view", "site")
"""What may be told of each image beside its patient."""
KEYS = ("x", "y", "patient", "masks", *COLUMNS)
"""What a dict of one set may hold."""
MEANT = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "patients": "patient"}
"""Names that others use for what is called otherwise here."""
EXACT = 1e-3
"""Grey levels from which a value still counts as a whole number of them: float32 keeps a hundredth of that."""
NOTHING = ("", "nan", "na", "n/a", "<na>")
"""Cells that a table reads as nothing."""


@dataclass(frozen=True)
class _Set:
    """One set. pixels: (N, H, W) or (N, H, W, 3), uint8 or uint16. labels: (N,) texts, or (N, K) 0, 1 or NaN."""

    name: str
    pixels: Array
    labels: Array
    columns: dict[str, list[str]]
    masks: dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class OwnImages:
    """Arrays as the pipeline reads them. data: a `data` section. doubts: what was changed on the way."""

    data: dict[str, Any]
    doubts: tuple[RowWarning, ...]


def own_images(given: Mapping[str, Any], *, outputs: int, cache: Path) -> OwnImages:
    """A `data` section for arrays; its pictures are written into `cache` unless they are there.

    given: as `own_network.evaluate` takes it. outputs: logits of the network, of which one alone stands for two classes.

    Grey values that are whole numbers of 8 or 16 bits are kept exactly. Other grey values are rounded to 16 bits, which a
    stored note says; other colours are refused, for pictures in colour have 8 bits.

    Raises:
        DataError: an array is not as it must be; the message names it.
    """
    names = [str(name) for name in given if name != "classes"]
    for name in names:
        if name in (*KEYS, "patients"):
            raise DataError(
                f"data.{name}: belongs to one set: {{'test': {{'x': ..., 'y': ..., '{MEANT.get(name, name)}': ...}}}}"
            )
        if name in MEANT:
            raise DataError(f"data: a set called '{name}' would be an outside test set; did you mean '{MEANT[name]}'?")
    parts = {name: _parts(given[name], name) for name in names}
    labels = {name: _array(part["y"], f"data.{name}: y") for name, part in parts.items()}
    classes = _classes(given.get("classes"), labels, max(outputs, 2))
    doubts: list[RowWarning] = []
    sets = [_set(name, parts[name], labels[name], classes, doubts) for name in names]
    shapes = {each.name: each.pixels.shape[1:3] for each in sets}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {height} x {width}" for name, (height, width) in shapes.items())
        raise DataError(f"data: all sets must have images of one size, got {told}")
    _patients_of_all(sets)
    size, channels = shapes["test"][0], max(int(np.shape(part["x"])[1]) for part in parts.values())
    folder = cache.resolve() / "arrays" / _digest(sets, classes)
    if not folder.is_dir():
        with whole_folder(folder) as draft:
            _write(draft, sets, classes)
    outside = [each for each in sets if each.name not in SPLITS]
    data: dict[str, Any] = {
        "train": _source(folder, "main", [each for each in sets if each.name in SPLITS], classes),
        "classes": list(classes),
        "size": size,
        "channels": channels,
    }
    if outside:
        data["outside"] = {each.name: _source(folder, f"outside{k}", [each], classes) for k, each in enumerate(outside)}
    return OwnImages(data, tuple(doubts))


def is_arrays(given: Mapping[str, Any]) -> bool:
    """True for arrays, False for a `data` section, whose `train` names a reader."""
    train = given.get("train")
    return not (isinstance(train, Mapping) and "reader" in train)


def _parts(given: Any, name: str) -> dict[str, Any]:
    """What was given of one set, by name."""
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return {"x": given[0], "y": given[1]}
    if not isinstance(given, Mapping) or not {"x", "y"} <= set(given):
        raise DataError(f"data.{name}: expected (x, y) or a dict with x and y, got {type(given).__name__}")
    if unknown := [key for key in given if key not in KEYS]:
        raise DataError(f"data.{name}: nothing is called '{unknown[0]}'{nearest(str(unknown[0]), KEYS)}")
    return dict(given)


def _array(given: Any, what: str) -> Array:
    array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if array.dtype == object and not all(isinstance(each, str) for each in array.ravel()):
        raise DataError(f"{what}: expected numbers or texts, got a mixture")
    return array


def _classes(given: Any, labels: Mapping[str, Array], outputs: int) -> tuple[str, ...]:
    """Names of the network's outputs, in their order."""
    texts = next((name for name, y in labels.items() if y.dtype.kind in "OUS"), None)
    if given is None and texts is not None:
        raise DataError(
            f"data.{texts}: y holds names; give 'classes', their names in the order of the network's {outputs} outputs"
        )
    classes = tuple(map(str, range(outputs))) if given is None else tuple(map(str, given))
    if len(classes) != outputs:
        raise DataError(f"data.classes: {len(classes)} names for a network with {outputs} outputs")
    for name in classes:
        if name != name.strip() or name.casefold() in NOTHING or classes.count(name) > 1:
            raise DataError(f"data.classes: '{name}' cannot be a name: it must differ from the others, and be no blank or n/a")
    return classes


def _set(name: str, part: Mapping[str, Any], y: Array, classes: tuple[str, ...], doubts: list[RowWarning]) -> _Set:
    pixels = _pixels(_array(part["x"], f"data.{name}: x"), name, doubts)
    count = len(pixels)
    labels = _labels(y, name, count, classes)
    columns: dict[str, list[str]] = {}
    for key in ("patient", *COLUMNS):
        if key in part:
            cells = list(part[key].tolist() if isinstance(part[key], torch.Tensor) else part[key])
            if len(cells) != count:
                raise DataError(f"data.{name}: {key}: {len(cells)} values for {count} images")
            columns[key] = ["" if each is None else str(each) for each in cells]
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    if not isinstance(part.get("masks", {}), Mapping):
        raise DataError(f"data.{name}: masks: expected {{KIND: array}} such as {{'lesion': ...}}")
    for kind, given in part.get("masks", {}).items():
        mask = _array(given, f"data.{name}: masks.{kind}")
        if mask.shape != pixels.shape[:3]:
            raise DataError(f"data.{name}: masks.{kind}: expected shape {pixels.shape[:3]}, got {mask.shape}")
        masks[str(kind)] = mask.astype(bool)
    return _Set(name, pixels, labels, columns, masks)


def _pixels(x: Array, name: str, doubts: list[RowWarning]) -> Array:
    """Pictures as they can be stored: (N, H, W) where all channels are equal, or (N, H, W, 3); uint8 or uint16."""
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3] or not len(x):
        raise DataError(f"data.{name}: x: expected square images (N, C, S, S) with 1 or 3 channels, got shape {x.shape}")
    grey = bool((x == x[:, :1]).all())
    shown = x[:, 0] if grey else np.moveaxis(x, 1, -1)
    if shown.dtype == np.uint8 or (grey and shown.dtype == np.uint16):
        return shown
    if shown.dtype.kind != "f" or not (shown.min() >= 0 and shown.max() <= 1):  # also where one is NaN
        low, high = (float(each) for each in (shown.min(), shown.max()))
        raise DataError(
            f"data.{name}: x: expected floats in [0, 1] or uint8, got {shown.dtype} from {low:g} to {high:g}; the network's own"
            " normalisation belongs inside it"
        )
    for levels, dtype in ((255, np.uint8), (65535, np.uint16)):
        scaled = shown.astype(np.float64) * levels
        whole = np.rint(scaled)
        if np.abs(scaled - whole).max() <= EXACT * levels / 255 and (grey or levels == 255):
            return whole.astype(dtype)
    if not grey:
        raise DataError(
            f"data.{name}: x: colours are stored in 8 bits, and these have other values; round them,"
            " x = (x * 255).round() / 255, so that the network is judged on what it is shown"
        )
    told = (
        "The given images were rounded to 16 bits, which changes a pixel by at most 1/131070; the network was evaluated on the"
        " rounded images."
    )
    doubts.append(RowWarning("images_rounded", "note", name, told))
    return np.rint(shown.astype(np.float64) * 65535).astype(np.uint16)


def _labels(y: Array, name: str, count: int, classes: tuple[str, ...]) -> Array:
    if len(y) != count:
        raise DataError(f"data.{name}: {count} images but {len(y)} labels")
    if y.ndim == 2:
        if y.shape[1] != len(classes):
            raise DataError(f"data.{name}: y: {y.shape[1]} findings for a network with {len(classes)} outputs")
        known = y.astype(np.float64)
        if not np.isin(known[~np.isnan(known)], (0, 1)).all():
            raise DataError(f"data.{name}: y: expected 0, 1 or NaN (unknown) for each finding")
        return known
    if y.ndim != 1:
        raise DataError(f"data.{name}: y: expected (N,) classes or (N, K) findings, got shape {y.shape}")
    if y.dtype.kind in "OUS":
        if unknown := [each for each in y.tolist() if each not in classes]:
            raise DataError(
                f"data.{name}: y: '{unknown[0]}' is not one of {', '.join(classes)}{nearest(str(unknown[0]), classes)}"
            )
        return y.astype(str)
    if not np.isin(y, range(len(classes))).all():
        raise DataError(f"data.{name}: y: expected class numbers 0 to {len(classes) - 1}, got {y.min():g} to {y.max():g}")
    return np.array(classes)[y.astype(np.int64)]


def _patients_of_all(sets: Sequence[_Set]) -> None:
    """Refuse patients of some sets only: an image that counts as its own patient beside real ones would hide that."""
    main = [each for each in sets if each.name in SPLITS]
    known = [each.name for each in main if "patient" in each.columns]
    lacking = [each.name for each in main if "patient" not in each.columns]
    if known and lacking:
        raise DataError(f"data.{lacking[0]}: has no 'patient', but {known[0]} has; give both or none")


def _digest(sets: Sequence[_Set], classes: tuple[str, ...]) -> str:
    """Sixteen digits that follow from everything that is written."""
    digest = hashlib.sha256(json.dumps([FORMAT, classes]).encode())
    for each in sets:
        about = [each.name, each.labels.tolist(), each.columns, sorted(each.masks), each.pixels.shape, str(each.pixels.dtype)]
        digest.update(json.dumps(about, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(each.pixels).tobytes())
        for kind in sorted(each.masks):
            digest.update(np.packbits(each.masks[kind]).tobytes())
    return digest.hexdigest()[:16]


def _write(folder: Path, sets: Sequence[_Set], classes: tuple[str, ...]) -> None:
    """Pictures and masks as PNG, and a table for the sets of one source."""
    outside = [each for each in sets if each.name not in SPLITS]
    tables = {
        "main": [each for each in sets if each.name in SPLITS],
        **{f"outside{k}": [each] for k, each in enumerate(outside)},
    }
    for table, members in tables.items():
        lines: list[dict[str, str]] = []
        for each in members:
            place = f"{table}/{each.name}" if each.name in SPLITS else table
            (folder / place).mkdir(parents=True)
            for row, picture in enumerate(each.pixels):
                line = {"image": f"{place}/{row:06d}.png"}
                Image.fromarray(picture).save(folder / line["image"], compress_level=1)
                for k, kind in enumerate(sorted(each.masks)):
                    if each.masks[kind][row].any():
                        line[f"mask {kind}"] = f"{place}/{row:06d}.mask{k}.png"
                        Image.fromarray(each.masks[kind][row].astype(np.uint8) * 255).save(folder / line[f"mask {kind}"])
                line |= _told(each.labels[row], classes) | {key: cells[row] for key, cells in each.columns.items()}
                lines.append(line | ({"split": each.name} if each.name in SPLITS else {}))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), restval="")
        writer.writeheader()
        writer.writerows(lines)
        (folder / f"{table}.csv").write_text(text.getvalue(), encoding="utf-8", newline="")


def _told(label: Any, classes: tuple[str, ...]) -> dict[str, str]:
    if isinstance(label, str):
        return {"label": label}
    return {f"finding {name}": "" if np.isnan(value) else f"{value:.0f}" for name, value in zip(classes, label, strict=True)}


def _source(folder: Path, table: str, sets: Sequence[_Set], classes: tuple[str, ...]) -> dict[str, Any]:
    """The source of one table, as a protocol names it."""
    kinds = sorted({kind for each in sets for kind, mask in each.masks.items() if mask.any()})
    source: dict[str, Any] = {"reader": "table", "root": str(folder), "csv": f"{table}.csv"}
    source["patient"] = "patient" if any("patient" in each.columns for each in sets) else None
    if kinds:
        source["masks"] = {kind: f"mask {kind}" for kind in kinds}
    if sets[0].labels.ndim == 2:
        source["labels"] = {name: f"finding {name}" for name in classes}
    return source
