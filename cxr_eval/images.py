"""Images of one split with their labels, regions and patients, as training, attacks and explanations read them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

Index = npt.NDArray[np.int64] | Sequence[int]


@runtime_checkable
class ImageSource(Protocol):
    """Anything a trainer can read images from by row, so that a set need not fit into memory."""

    def __len__(self) -> int: ...

    def take(self, index: Index) -> torch.Tensor:
        """Rows as float32 (M, C, H, W) in [0, 1] on the CPU."""
        ...


Images = npt.NDArray[np.float32] | torch.Tensor | ImageSource
"""What a trainer takes as images."""


class ArrayImages:
    """Images in memory, read by row like an `ImageSet`."""

    def __init__(self, x: npt.NDArray[np.float32] | torch.Tensor) -> None:
        """x: (N, C, H, W) float32 in [0, 1].

        Raises:
            ValueError: another type, shape or range.
        """
        with warnings.catch_warnings():  # pandas and memory maps give arrays that are read-only, and nothing here writes
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            images = torch.as_tensor(x)
        if images.dtype != torch.float32 or images.ndim != 4:
            raise ValueError(f"expected images (N, C, H, W) float32 in [0, 1], got {tuple(images.shape)} {images.dtype}")
        if len(images) and not (float(images.min()) >= 0 and float(images.max()) <= 1):  # also where one is NaN
            raise ValueError(f"expected images in [0, 1], got {float(images.min()):g} to {float(images.max()):g}")
        self.images = images.detach()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Index) -> torch.Tensor:
        """Rows as float32 (M, C, H, W); copies, so that nothing changes the caller's images."""
        return self.images[torch.as_tensor(index)].cpu()


def as_source(x: Images) -> ImageSource:
    """Anything `fit` takes as images, read by row."""
    if isinstance(x, (np.ndarray, torch.Tensor)):
        return ArrayImages(x)
    if not isinstance(x, ImageSource):
        raise ValueError(f"expected images as an array, a tensor or an ImageSet, got {type(x).__name__}")
    return x


@dataclass(frozen=True)
class Regions:
    """Masks of one kind (lesion, lung, box, marker): stored only for the images that have one."""

    array: npt.NDArray[Any]
    """(M, H, W) bool, or square masks packed to bits along their lines (`np.packbits`), (M, S, ceil(S / 8)) uint8; may be a
    memory map."""
    row: npt.NDArray[np.int64]
    """(N,), for each image its row in `array`, or -1 where it has no mask of this kind."""

    def take(self, index: Index) -> npt.NDArray[np.bool_]:
        """Masks of the images in `index`, (len(index), H, W) bool; all False where an image has none."""
        rows = self.row[np.asarray(index, dtype=np.int64)]
        known = rows >= 0
        stored = np.asarray(self.array[rows[known]])
        if stored.dtype == np.uint8:
            stored = np.unpackbits(stored, axis=-1, count=stored.shape[1]).view(bool)
        masks = np.zeros((len(rows), *stored.shape[1:]), dtype=bool)
        masks[known] = stored
        return masks


@dataclass(frozen=True)
class ImageSet:
    """The images of one split.

    pixels: (P, C, H, W) uint8, uint16 or float32 in [0, 1]; integers are scaled by their type's maximum when they are taken.
    rows: (N,) int64, the rows of `pixels` that belong to this set, in order.
    y: (N,) int64 class index, or (N, K) float32 with 0, 1 or NaN (unknown) for multi-label tasks.
    table: N manifest rows in the same order (image_id, patient, label, sex, age, view, site, ...).
    regions: masks by kind, indexed like `y`.
    channels: what images stored with one channel are repeated to when they are taken; as they are stored without it.
    """

    pixels: npt.NDArray[np.generic]
    rows: npt.NDArray[np.int64]
    y: npt.NDArray[np.generic]
    table: pd.DataFrame
    classes: tuple[str, ...]
    name: str
    regions: Mapping[str, Regions] = field(default_factory=dict)
    channels: int | None = None

    def __post_init__(self) -> None:
        stored = self.pixels.shape[1]
        if stored not in (1, self.channels or stored):
            raise ValueError(f"expected pixels to take with {self.channels} channels, got {stored}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return self.channels or channels, height, width

    def take(self, index: Index) -> torch.Tensor:
        """Rows `index` of this set as float32 (M, C, H, W) in [0, 1]."""
        picked = np.ascontiguousarray(self.pixels[self.rows[np.asarray(index, dtype=np.int64)]])
        if np.issubdtype(picked.dtype, np.integer):
            taken = torch.from_numpy(picked.astype(np.float32) / np.float32(np.iinfo(picked.dtype).max))
        else:
            taken = torch.from_numpy(picked.astype(np.float32, copy=False))
        return taken.expand(-1, self.shape[0], -1, -1).contiguous()

    def targets(self, index: Index | None = None) -> torch.Tensor:
        """Labels of the rows `index` (all rows without it), int64 (M,) or float32 (M, K)."""
        picked = self.y if index is None else self.y[np.asarray(index, dtype=np.int64)]
        return torch.from_numpy(np.array(picked))  # a copy: pandas and memory maps give arrays that are read-only

    def region(self, kind: str, index: Index | None = None) -> npt.NDArray[np.bool_]:
        """Masks of one kind for the rows `index` (all rows without it), bool (M, H, W); all False where there is none."""
        index = np.arange(len(self)) if index is None else index
        if kind not in self.regions:
            return np.zeros((len(index), *self.shape[1:]), dtype=bool)
        return self.regions[kind].take(index)

    def draw(self, count: int | None, *, first: Sequence[str] = (), seed: int = 0) -> npt.NDArray[np.int64]:
        """Indices of at most `count` images, the classes in turn, and in each class by lot; all images in order for None.

        Images with a mask that is not empty of one of the kinds `first` come before the others. The order is fixed by `seed`,
        and fewer images are always the beginning of more.
        """
        if count is None:
            return np.arange(len(self))
        known = [kind for kind in first if kind in self.regions and len(self.regions[kind].array)]
        marked = np.zeros(len(self), dtype=bool)
        for kind in known:
            regions = self.regions[kind]
            filled = np.asarray(regions.array.any(axis=(1, 2)))
            marked |= (regions.row >= 0) & filled[np.maximum(regions.row, 0)]
        label = self.y if self.y.ndim == 1 else np.nan_to_num(self.y.astype(np.float64)).argmax(axis=1)
        lot = np.random.default_rng(seed).permutation(len(self))
        turn = np.zeros(len(self), dtype=np.int64)
        for mark in (True, False):
            for k in np.unique(label):
                members = lot[(label[lot] == k) & (marked[lot] == mark)]
                turn[members] = np.arange(len(members))
        return np.lexsort((label, turn, ~marked))[:count].astype(np.int64)
