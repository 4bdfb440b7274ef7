"""Prepared data: a manifest's images and masks, decoded once into memory maps that are found again by their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cxr_eval.data.decoding import decode, decode_mask
from cxr_eval.data.dicom import MissingCodecError, quiet
from cxr_eval.data.digests import file_digests, threads
from cxr_eval.data.growing import Fault, Growing, Image, Record, held, mask_file, read_record
from cxr_eval.data.manifest import BOXES, MASK, box_columns, mask_kinds, place
from cxr_eval.data.pictures import Array, Box, Frame, draw_boxes, fit, fit_mask
from cxr_eval.errors import DataError
from cxr_eval.images import Regions
from cxr_eval.types import SkippedFile

FORMAT = 2
"""Raised when the same files would be prepared to other pixels; part of the key."""

Progress = Callable[[int, int], None]
_BLOCK = 256  # images decoded before they are written, where they are small: what a kill can take away
_BLOCK_BYTES = 2**27  # of their pixels: what is held in memory at once


@dataclass(frozen=True)
class Prepared:
    """Decoded images of one manifest, row for row.

    pixels: (N, C, size, size), a read-only memory map; C is 1 unless a coloured picture was met that was to stay so, uint8
    unless a picture with 16 bits was met (then all are uint16, each as bright as before).
    regions: masks by kind, boxes of `boxes:NAME` as kind NAME, and all boxes as kind `box`; images whose mask is empty count as
    having none.
    table: the manifest rows of these images; boxes in pixels of the prepared image.
    digests: sha256 of each image file, and which slice of it. hash: of all that the pixels, regions and boxes follow from.
    """

    pixels: Array
    regions: dict[str, Regions]
    table: pd.DataFrame
    digests: tuple[str, ...]
    hash: str
    skipped: tuple[SkippedFile, ...]


@dataclass(frozen=True)
class _Source:
    """What one image is made from: files by column, boxes by column, and the slice of a NIfTI volume."""

    files: dict[str, str]
    boxes: dict[str, tuple[Box, ...]]
    slice: int | None


def prepare(
    table: pd.DataFrame,
    *,
    size: int,
    channels: Literal[1, 3],
    resize: Literal["squash", "pad"],
    colour: bool,
    cache: Path,
    reader: str,
    skip: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Images of a checked manifest as memory maps in `cache`; decoded only if no equal ones are there.

    size: side of the prepared square, pixels. colour: with three channels, coloured pictures stay so; else all become grey.
    Grey is stored once for any number of channels. resize: squash ignores the aspect ratio, pad keeps it and adds black.
    Transparent pixels become black, EXIF rotation is applied; boxes are in pixels of the picture as it is then shown.
    progress: called with (images done, images in all).

    A call that was killed goes on where it stopped. While another process prepares the same images, this one waits.

    Raises:
        DataError: a file cannot be read, a mask has not its image's size, a box is outside its image; with `skip` such images
            are left out and listed instead, and it is an error only if none is left.
    """
    colour = colour and channels == 3
    sources = _sources(table)
    known = file_digests([path for source in sources for path in source.files.values()], cache)
    settings = {"size": size, "colour": colour, "resize": resize, "format": FORMAT}
    content = [
        settings,
        [[{name: known[path] for name, path in each.files.items()}, each.boxes, each.slice] for each in sources],
    ]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    folder = cache / "prepared" / key[:32]
    kinds = _kinds(sources)

    def stop(fault: Fault) -> DataError:
        row, column, reason = fault
        what = "image" if column == "image" else f"{column.removeprefix(MASK)} mask"
        return DataError(f"{place(table, row, reader)}: {what} {sources[row].files[column]}: {reason}")

    with held(folder.with_name(f".{folder.name}"), folder) as mine:
        if mine:
            one = partial(_prepare_one, size=size, colour=colour, pad=resize == "pad")
            _build(folder, sources, one, kinds=kinds, size=size, stop=None if skip else stop, progress=progress)
        elif progress is not None:
            progress(len(table), len(table))
    pixels, masks, record = _load(folder, kinds)
    if record.faults and not skip:
        raise stop(record.faults[0])
    if not len(pixels):
        raise DataError(f"{stop(record.faults[0])} (as all {len(table)} images, none can be used)")
    bad = {row for row, _, _ in record.faults}
    kept = [row for row in range(len(table)) if row not in bad]
    rows = table.iloc[kept].reset_index(drop=True)
    for column in box_columns(table):
        placed = record.boxes.get(column, [[]] * len(kept))
        rows[column] = pd.Series([tuple(tuple(box) for box in boxes) for boxes in placed], dtype=object)
    at = [sources[row] for row in kept]
    return Prepared(
        pixels=pixels,
        regions={kind: Regions(masks[kind], np.asarray(record.regions[kind], dtype=np.int64)) for kind in kinds},
        table=rows,
        digests=tuple(known[each.files["image"]] + ("" if each.slice is None else f"/{each.slice}") for each in at),
        hash=key,
        skipped=tuple(SkippedFile(reader, str(table["image_id"].iloc[fault[0]]), str(stop(fault))) for fault in record.faults),
    )


def _sources(table: pd.DataFrame) -> list[_Source]:
    columns = ["image", *(MASK + kind for kind in mask_kinds(table))]
    paths = {column: [_text(path) for path in table[column]] for column in columns}
    boxes = {column: [_boxes(value) for value in table[column]] for column in box_columns(table)}
    boxes = {column: listed for column, listed in boxes.items() if any(listed)}
    slices = table.get("slice", [None] * len(table))
    return [
        _Source(
            files={column: path for column, listed in paths.items() if (path := listed[row])},
            boxes={column: listed[row] for column, listed in boxes.items()},
            slice=None if pd.isna(number) else int(number),
        )
        for row, number in enumerate(slices)
    ]


def _text(path: object) -> str | None:
    return os.path.abspath(path) if isinstance(path, (str, os.PathLike)) else None


def _boxes(value: object) -> tuple[Box, ...]:
    if not isinstance(value, (tuple, list)):
        return ()
    return tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in value)


def _kinds(sources: Sequence[_Source]) -> tuple[str, ...]:
    """Every kind of region that some image may have, sorted; `box` last."""
    masks = {column.removeprefix(MASK) for source in sources for column in source.files} - {"image"}
    columns = {column for source in sources for column in source.boxes}
    named = {column.removeprefix(BOXES) for column in columns} - {"boxes"}
    return (*sorted(masks | named), *(["box"] if columns else []))


def _prepare_one(source: _Source, *, size: int, colour: bool, pad: bool) -> Image | tuple[str, str]:
    """One image as it is stored, or the column and the reason why it cannot be."""
    column = "image"
    try:
        picture = decode(source.files["image"], colour=colour, number=source.slice)
        frame = Frame(picture.shape[1], picture.shape[0], size, pad)
        boxes = {name: [frame.box(box) for box in listed] for name, listed in source.boxes.items()}
        fitted = fit(picture, frame)
        masks: dict[str, Array] = {}
        for column in [name for name in source.files if name != "image"]:
            mask = decode_mask(source.files[column], number=source.slice)
            if mask.shape != picture.shape[:2]:
                (h, w), (height, width) = mask.shape, picture.shape[:2]
                named = f"its image {source.files['image']} is {width} x {height}"
                return column, f"is {w} x {h} pixels but {named}; they must be equal"
            masks[column.removeprefix(MASK)] = fit_mask(mask, frame)
    except MissingCodecError as error:  # also with `skip`: kept as a fault, it would be found again when the codec is there
        raise DataError(f"{source.files[column]}: {error}") from None
    except Exception as error:  # libraries raise many kinds (OSError, SyntaxError, zlib.error, ...) for a damaged file
        return column, " ".join(str(error).split()) or type(error).__name__
    masks |= {name.removeprefix(BOXES): draw_boxes(listed, size) for name, listed in boxes.items() if name != "boxes"}
    masks["box"] = draw_boxes((box for listed in boxes.values() for box in listed), size)
    return Image(
        pixels=fitted[None] if fitted.ndim == 2 else np.moveaxis(fitted, -1, 0),
        masks={kind: np.packbits(mask, axis=-1) for kind, mask in masks.items() if mask.any()},
        boxes=boxes,
    )


def _build(
    folder: Path,
    sources: Sequence[_Source],
    one: Callable[[_Source], Image | tuple[str, str]],
    *,
    kinds: Sequence[str],
    size: int,
    stop: Callable[[Fault], DataError] | None,
    progress: Progress | None,
) -> None:
    """Decode into a hidden folder and rename it: `folder` is whole or not there."""
    work = folder.with_name(f".{folder.name}")
    block = max(1, min(_BLOCK, _BLOCK_BYTES // (size * size * 6)))
    with Growing(work, kinds, size) as growing, quiet(), threads() as pool:
        if growing.record.faults and stop is not None:
            raise stop(growing.record.faults[0])
        for start in range(growing.record.done, len(sources), block):
            images: list[Image] = []
            faults: list[Fault] = []
            for number, image in enumerate(pool.map(one, sources[start : start + block]), start):
                if isinstance(image, Image):
                    images.append(image)
                else:
                    faults.append((number, *image))
                    if stop is not None:  # whole blocks stay: `on_error: skip` goes on from there
                        raise stop(faults[0])
                if progress is not None:
                    progress(number + 1, len(sources))
            growing.add(images, faults)
        growing.finish()
    work.rename(folder)  # with the lock in it: who comes now must not find an unfinished folder without one
    (folder / "lock").unlink()


def _load(folder: Path, kinds: Sequence[str]) -> tuple[Array, dict[str, Array], Record]:
    try:
        record, _ = read_record(folder)
        pixels = np.load(folder / record.pixels, mmap_mode="r")
        masks = {kind: np.load(folder / mask_file(number), mmap_mode="r") for number, kind in enumerate(kinds)}
        if len(pixels) != record.images:
            raise ValueError(f"{len(pixels)} of {record.images} images")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: prepared images are damaged ({error}); delete this folder and run again") from error
    return pixels, masks, record
