"""The images of a protocol decoded into the cache before a run needs them: `cxr-eval data prepare`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_eval.data.datasets import load
from cxr_eval.events import Event, printable
from cxr_eval.plan import plan
from cxr_eval.protocol_file import LoadedProtocol


@dataclass(frozen=True)
class Place:
    """One folder of prepared images. bytes: all its files; new: decoded now, and not found there."""

    folder: Path
    bytes: int
    new: bool


@dataclass(frozen=True)
class PreparedImages:
    """The images of a protocol in the cache. images: how many each split has; shape: of one image, (channels, side, side)."""

    images: dict[str, int]
    shape: tuple[int, int, int]
    places: tuple[Place, ...]
    left_out: int

    def record(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "images": self.images,
            "shape": list(self.shape),
            "left_out": self.left_out,
            "folders": [{"folder": str(each.folder), "bytes": each.bytes, "new": each.new} for each in self.places],
        }


def prepare(loaded: LoadedProtocol, *, cache: Path, on_event: Callable[[Event], None] = lambda event: None) -> PreparedImages:
    """Decode what is not decoded yet; where all of it is.

    Raises:
        CxrEvalError: the protocol is wrong, or the images cannot be loaded.
    """
    planned = plan(loaded)
    before = {*(cache / "prepared").glob("*")}
    datasets = load(
        planned.protocol.data,
        cache=cache,
        trained=planned.trains,
        progress=lambda done, total: on_event(Event(step="preparing images", done=done, total=total)),
    )
    maps = [images.pixels for images in datasets.splits.values()]
    folders = dict.fromkeys(Path(str(each.filename)).parent for each in maps if isinstance(each, np.memmap))
    places = [
        Place(folder, sum(path.stat().st_size for path in folder.iterdir() if path.is_file()), folder not in before)
        for folder in folders
    ]
    return PreparedImages(
        {name: len(images) for name, images in datasets.splits.items()},
        datasets.splits["train"].shape,
        tuple(places),
        len(datasets.skipped),
    )


def lines(found: PreparedImages) -> list[str]:
    """The same for a person."""
    channels, side, _ = found.shape
    each = ", ".join(f"{name} {count}" for name, count in found.images.items())
    grey = "grey" if channels == 1 else f"{channels} channels"
    told = [f"{sum(found.images.values())} images of {side} x {side} pixels, {grey}: {printable(each)}"]
    told += [f"{found.left_out} images cannot be used and were left out"] if found.left_out else []
    for place in found.places:
        told.append(f"{place.folder}: {size(place.bytes)}, {'decoded now' if place.new else 'was there already'}")
    return told


def size(count: int) -> str:
    """Bytes as a person says them: `812 kB`, `1.6 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
