"""Prepared data: a manifest's images and masks, decoded once into memory maps that are found again by their content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.data.manifest import MASK, file_digests, mask_kinds, place, threads
from cxr_eval.data.pictures import Array, Box, Frame, decode, decode_mask, draw_boxes, fit, fit_mask, is_wide
from cxr_eval.errors import DataError
from cxr_eval.images import Regions
from cxr_eval.types import SkippedFile

FORMAT = 1
"""Raised when the same files would be prepared to other pixels; part of the key."""

Progress = Callable[[int, int], None]
Fault = tuple[int, str, str]  # row of the manifest, column, reason
_BLOCK = 256  # images decoded before they are written: what is held in memory at once


@dataclass(frozen=True)
class Prepared:
    """Decoded images of one manifest, row for row.

    pixels: (N, C, size, size) uint8, or uint16 if any source has 16 bits; a read-only memory map.
    regions: masks by kind, and boxes as kind `box`; images whose mask is empty count as having none.
    table: the manifest rows of these images; `boxes` in pixels of the prepared image.
    digests: sha256 of each image file. hash: of everything that the pixels, regions and boxes follow from.
    """

    pixels: Array
    regions: dict[str, Regions]
    table: pd.DataFrame
    digests: tuple[str, ...]
    hash: str
    skipped: tuple[SkippedFile, ...]


def prepare(
    table: pd.DataFrame,
    *,
    size: int,
    channels: Literal[1, 3],
    resize: Literal["squash", "pad"],
    cache: Path,
    reader: str,
    skip: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Images of a checked manifest as memory maps in `cache`; decoded only if no equal ones are there.

    size: side of the prepared square, pixels. channels: 1 makes grey, 3 keeps colour or repeats grey. resize: squash ignores
    the aspect ratio, pad keeps it and adds black. Transparent pixels become black, EXIF rotation is applied; boxes are in
    pixels of the picture as it is then shown. progress: called with (images done, images in all).

    Raises:
        DataError: a file cannot be read, a mask has not its image's size, a box is outside its image; with `skip` such images
            are left out and listed instead, and it is an error only if none is left.
    """
    settings = {"size": size, "channels": channels, "resize": resize, "format": FORMAT}
    columns = ["image", *(MASK + kind for kind in mask_kinds(table))]
    paths = {column: [_text(path) for path in table[column]] for column in columns}
    boxes = [_boxes(value) for value in table.get("boxes", [None] * len(table))]
    known = file_digests([path for listed in paths.values() for path in listed if path], cache)
    content = [
        settings,
        boxes,
        {column: [path and known[path] for path in listed] for column, listed in paths.items()},
    ]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    folder = cache / "prepared" / key[:32]

    def stop(fault: Fault) -> DataError:
        row, column, reason = fault
        what = f"image {paths['image'][row]}" if column == "image" else f"{column.removeprefix(MASK)} mask {paths[column][row]}"
        return DataError(f"{place(table, row, reader)}: {what}: {reason}")

    if not folder.is_dir():
        files = [{column: path for column in columns if (path := paths[column][row])} for row in range(len(table))]
        one = partial(_prepare_one, size=size, channels=channels, pad=resize == "pad")
        _build(folder, files, boxes, one, shape=(channels, size, size), stop=None if skip else stop, progress=progress)
    elif progress is not None:
        progress(len(table), len(table))
    pixels, masks, record = _load(folder)
    faults: list[Fault] = [(row, column, reason) for row, column, reason in record["faults"]]
    if faults and not skip:
        raise stop(faults[0])
    if not len(pixels):
        raise DataError(f"{stop(faults[0])} (as all {len(table)} images, none can be used)")
    bad = {row for row, _, _ in faults}
    kept = [row for row in range(len(table)) if row not in bad]
    rows = table.iloc[kept].reset_index(drop=True)
    if "boxes" in rows:
        rows["boxes"] = pd.Series([tuple(tuple(box) for box in record["boxes"][i]) for i in range(len(kept))], dtype=object)
    return Prepared(
        pixels=pixels,
        regions={kind: Regions(masks[kind], np.asarray(record["regions"][kind], dtype=np.int64)) for kind in masks},
        table=rows,
        digests=tuple(known[str(paths["image"][row])] for row in kept),
        hash=key,
        skipped=tuple(SkippedFile(reader, str(table["image_id"].iloc[fault[0]]), str(stop(fault))) for fault in faults),
    )


def _text(path: object) -> str | None:
    return os.path.abspath(path) if isinstance(path, (str, os.PathLike)) else None


def _boxes(value: object) -> tuple[Box, ...]:
    if not isinstance(value, (tuple, list)):
        return ()
    return tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in value)


@dataclass
class _Row:
    """One image as it is stored."""

    pixels: Array
    masks: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)


def _prepare_one(
    files: dict[str, str], boxes: tuple[Box, ...], *, size: int, channels: int, pad: bool, wide: bool
) -> _Row | tuple[str, str]:
    """One image as it is stored, or the column and the reason why it cannot be."""
    column = "image"
    try:
        picture = decode(files["image"], channels)
        frame = Frame(picture.shape[1], picture.shape[0], size, pad)
        placed = [frame.box(box) for box in boxes]
        if wide and picture.dtype == np.uint8:
            picture = picture.astype(np.uint16) * 257  # v / 255 = 257 v / 65535, exactly
        fitted = fit(picture, frame)
        row = _Row(fitted[None] if channels == 1 else np.moveaxis(fitted, -1, 0), boxes=placed)
        for column in [name for name in files if name != "image"]:
            mask = decode_mask(files[column])
            if mask.shape != picture.shape[:2]:
                (h, w), (height, width) = mask.shape, picture.shape[:2]
                return (
                    column,
                    f"is {w} x {h} pixels but its image {files['image']} is {width} x {height}; they must be equal",
                )
            row.masks[column.removeprefix(MASK)] = fit_mask(mask, frame)
    except Exception as error:  # Pillow raises many kinds (OSError, SyntaxError, zlib.error, ...) for a damaged file
        return column, " ".join(str(error).split()) or type(error).__name__
    if boxes:
        row.masks["box"] = draw_boxes(placed, size)
    return row


class _Rows:
    """An .npy file that grows row by row, so that a full disk is an error and not a crash of the memory map."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.file = path.open("wb")
        self.shape, self.dtype, self.count = shape, np.dtype(dtype), 0
        self.start = self._header()

    def _header(self) -> int:
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, described)
        return self.file.tell()

    def add(self, row: Array) -> int:
        """Append one row; its number."""
        assert row.shape == self.shape, (row.shape, self.shape)
        self.file.write(np.ascontiguousarray(row, dtype=self.dtype).tobytes())
        self.count += 1
        return self.count - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            self.file.seek(0)
            assert self._header() == self.start, "numpy keeps room in the header of an array that grows"
            self.file.flush()
            os.fsync(self.file.fileno())


def _build(
    folder: Path,
    files: list[dict[str, str]],
    boxes: list[tuple[Box, ...]],
    one: Callable[..., _Row | tuple[str, str]],
    *,
    shape: tuple[int, int, int],
    stop: Callable[[Fault], DataError] | None,
    progress: Progress | None,
) -> None:
    """Decode into a temporary folder and rename it: `folder` is whole or not there. Who comes second discards its own copy."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    kinds = sorted({column.removeprefix(MASK) for columns in files for column in columns} - {"image"})
    kinds += ["box"] if any(boxes) else []
    regions: dict[str, list[int]] = {kind: [] for kind in kinds}
    placed: list[list[Box]] = []
    faults: list[Fault] = []
    try:
        with threads() as pool, ExitStack() as open_files:
            wide = any(pool.map(is_wide, [columns["image"] for columns in files]))
            pixels = open_files.enter_context(_Rows(work / "pixels.npy", shape, np.uint16 if wide else np.uint8))
            masks = {
                kind: open_files.enter_context(_Rows(work / f"mask-{number}.npy", shape[1:], bool))
                for number, kind in enumerate(kinds)
            }
            for start in range(0, len(files), _BLOCK):
                block = slice(start, start + _BLOCK)
                for number, row in enumerate(pool.map(partial(one, wide=wide), files[block], boxes[block]), start):
                    if isinstance(row, tuple):
                        faults.append((number, *row))
                        if stop is not None:
                            raise stop(faults[0])
                    else:
                        pixels.add(row.pixels)
                        placed.append(row.boxes)
                        for kind in kinds:
                            drawn = row.masks.get(kind)
                            regions[kind].append(-1 if drawn is None or not drawn.any() else masks[kind].add(drawn))
                    if progress is not None:
                        progress(number + 1, len(files))
        with (work / "record.json").open("w", encoding="utf-8") as file:
            json.dump({"kinds": kinds, "regions": regions, "boxes": placed, "faults": faults}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _load(folder: Path) -> tuple[Array, dict[str, Array], dict[str, Any]]:
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        masks = {kind: np.load(folder / f"mask-{number}.npy", mmap_mode="r") for number, kind in enumerate(record["kinds"])}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: prepared images are damaged ({error}); delete this folder and run again") from error
    return pixels, masks, record
