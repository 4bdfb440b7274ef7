"""What is measured on every image in one pass: its hash, a small standardised copy, plain numbers, marks near its borders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from cxr_eval.images import ImageSet

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SIDE = 64
"""Side of the small copies, pixels."""
HASH_SIDE = 16
BLOCK = 64
"""Images read at once: 64 of 512 x 512 pixels in three channels are 200 MB."""
FLAT = 1 / 255
"""Standard deviation of the grey below which an image shows nothing: one step of 8 bits."""
COLOUR = 0.01
"""Mean distance of the channels from grey from which on an image counts as a colour photograph."""
NUMBERS = 18
"""Plain statistics of each image."""
BRIGHT, AROUND = 0.8, 0.4
"""Grey of letters after shrinking, and of what is around them at most; bones have grey on both sides."""
MARK = (0.0002, 0.03)
"""Share of the image that one letter, word or sign takes, least and most."""
TALL, WIDE = 0.15, 0.35
"""Height and width of a letter or word at most, shares of the image's."""
BORDER = 0.25
"""Marks are looked for in this share of the image at each border."""
LEAST_MARKS = 1
"""Bright signs from which an image counts as written on; letters run together when an image shrinks."""
MARKS_FROM = 64
"""Side in pixels below which letters cannot be seen."""


@dataclass(frozen=True)
class Looks:
    """Measurements of N images, split after split.

    split: (N,) index into `splits`; row: (N,) place in that split. bits: (N, 256) difference hash. small: (N, S, S) float16,
    each with mean 0 and length 1 (zeros where flat). numbers: (N, 18) float32, plain statistics of the grey. marks: (N,)
    bright signs near the borders, 0 in colour images. flat, colour: (N,).
    """

    splits: tuple[str, ...]
    split: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    bits: Bools
    small: npt.NDArray[np.float16]
    numbers: Floats
    marks: npt.NDArray[np.int64]
    flat: Bools
    colour: Bools

    def of(self, *names: str) -> npt.NDArray[np.int64]:
        """Rows here of the images of some splits."""
        return np.flatnonzero(np.isin(self.split, [self.splits.index(name) for name in names]))


def look(splits: Mapping[str, ImageSet], progress: Callable[[int, int], None] | None = None) -> Looks:
    """Measurements of all images, read in blocks. progress: called with (images read, images in all)."""
    total = sum(map(len, splits.values()))
    side = min(SIDE, *(min(images.shape[1:]) for images in splits.values()))
    small = np.zeros((total, side, side), dtype=np.float16)
    bits = np.zeros((total, HASH_SIDE**2), dtype=bool)
    numbers = np.zeros((total, NUMBERS), dtype=np.float32)
    marks = np.zeros(total, dtype=np.int64)
    flat, colour = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    done = 0
    for images in splits.values():
        for start in range(0, len(images), BLOCK):
            taken = images.take(np.arange(start, min(start + BLOCK, len(images))))
            grey = taken.mean(dim=1)
            here = slice(done, done + len(grey))
            colour[here] = ((taken - grey[:, None]).abs().mean(dim=(1, 2, 3)) > COLOUR).numpy()
            bits[here] = difference_hash(grey)
            small[here], flat[here] = _standardised(grey, side)
            numbers[here] = _numbers(grey)
            if min(grey.shape[1:]) >= MARKS_FROM:
                pairs = zip(grey.numpy(), colour[here], strict=True)
                marks[here] = [0 if coloured else count_marks(each) for each, coloured in pairs]
            done += len(grey)
            if progress is not None:
                progress(done, total)
    lengths = [len(images) for images in splits.values()]
    return Looks(
        splits=tuple(splits),
        split=np.repeat(np.arange(len(lengths)), lengths),
        row=np.concatenate([np.arange(length) for length in lengths]),
        bits=bits,
        small=small,
        numbers=numbers,
        marks=marks,
        flat=flat,
        colour=colour,
    )


def _shrunk(grey: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(M, height, width), each pixel the mean of those that it stands for."""
    return interpolate(grey[:, None], size=(height, width), mode="area")[:, 0]


def difference_hash(grey: torch.Tensor) -> Bools:
    """(M, 256): whether each of 16 x 17 cells is brighter than its left neighbour; the same for a scaled or brighter copy.

    grey: (M, H, W) float32. Source: Krawetz, Kind of Like That, hackerfactor.com 2013 (dHash, there with 8 x 9 cells).
    """
    cells = _shrunk(grey, HASH_SIDE, HASH_SIDE + 1)
    return (cells[:, :, 1:] > cells[:, :, :-1]).flatten(1).numpy()


def _standardised(grey: torch.Tensor, side: int) -> tuple[npt.NDArray[np.float16], Bools]:
    flat = (grey.flatten(1).std(dim=1) < FLAT).numpy()
    cells = _shrunk(grey, side, side)
    cells = cells - cells.mean(dim=(1, 2), keepdim=True)
    length = cells.flatten(1).norm(dim=1).clamp_min(1e-6)
    unit = (cells / length[:, None, None]).numpy()
    unit[flat] = 0
    return unit.astype(np.float16), flat


def _numbers(grey: torch.Tensor) -> Floats:
    """Plain statistics of the grey: what exposure, frame and sharpness look like, whatever is in the picture.

    Mean, spread, share of black and of white pixels; seven percentiles; mean of each of four sides; logarithm of the mean step
    to the right, downwards, and of the mean second difference.
    """
    pixels = grey.flatten(1)
    plain = [pixels.mean(1), pixels.std(1), (pixels < 0.02).float().mean(1), (pixels > 0.98).float().mean(1)]
    some = pixels[:, :: max(1, pixels.shape[1] // 4096)]
    points = torch.quantile(some, torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]), dim=1).T
    edge = max(1, grey.shape[1] // 16)
    sides = [grey[:, :edge], grey[:, -edge:], grey[:, :, :edge], grey[:, :, -edge:]]
    right, down = grey.diff(dim=2), grey.diff(dim=1)
    steps = [right.abs(), down.abs(), right.diff(dim=2).abs()]
    columns = [*plain, *(side.mean(dim=(1, 2)) for side in sides), *((step.mean(dim=(1, 2)) + 1e-4).log() for step in steps)]
    return torch.cat([torch.stack(columns, dim=1), points], dim=1).numpy()


def count_marks(grey: Floats) -> int:
    """Small bright signs on dark ground near the borders of one image (H, W): burned-in letters, side markers."""
    bright = grey >= BRIGHT
    edge = [max(1, round(length * BORDER)) for length in grey.shape]
    bright[edge[0] : -edge[0], edge[1] : -edge[1]] = False
    if not bright.any():
        return 0
    labels, count = ndimage.label(bright, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    low, high = max(3, MARK[0] * grey.size), MARK[1] * grey.size
    found = 0
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        tall, broad = (part.stop - part.start for part in place)
        if low <= areas[number - 1] <= high and tall <= TALL * grey.shape[0] and broad <= WIDE * grey.shape[1]:
            wide = tuple(slice(max(0, part.start - 2), part.stop + 2) for part in place)
            around = grey[wide][labels[wide] != number]
            found += bool(np.median(around) <= AROUND)
    return found
