"""How pictures, masks and boxes lie in the prepared square.

Pictures are resized by Pillow's antialiased bilinear filter, masks by nearest pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
Box = tuple[float, float, float, float]


def to_16_bit(values: Array, low: float, high: float) -> npt.NDArray[np.uint16]:
    """Values as uint16, `low` as 0 and `high` as 65535; 0 where there is nothing between them."""
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint16)
    share = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(share, 0, 1) * 65535).astype(np.uint16)


@dataclass(frozen=True)
class Frame:
    """Where a picture of `width` x `height` pixels lies in the prepared square."""

    width: int
    height: int
    size: int
    pad: bool

    @property
    def inner(self) -> tuple[int, int]:
        """(width, height) of the picture in the square, pixels."""
        if not self.pad:
            return self.size, self.size
        scale = self.size / max(self.width, self.height)
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of the picture's upper left corner in the square."""
        return (self.size - self.inner[0]) // 2, (self.size - self.inner[1]) // 2

    def place(self, inner: Array) -> Array:
        """The square with the resized picture (h, w[, C]) in it and zeros around."""
        if inner.shape[:2] == (self.size, self.size):
            return inner
        (x, y), square = self.corner, np.zeros((self.size, self.size, *inner.shape[2:]), dtype=inner.dtype)
        square[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
        return square

    def box(self, box: Box) -> Box:
        """A box of the picture in pixels of the square, cut at the picture's edge.

        Raises:
            ValueError: nothing of it lies in the picture.
        """
        left, top = max(box[0], 0.0), max(box[1], 0.0)
        right, bottom = min(box[0] + box[2], float(self.width)), min(box[1] + box[3], float(self.height))
        if right <= left or bottom <= top:
            raise ValueError(f"box {box} is outside the image of {self.width} x {self.height} pixels")
        across, down = self.inner[0] / self.width, self.inner[1] / self.height
        x, y = self.corner
        return left * across + x, top * down + y, (right - left) * across, (bottom - top) * down


def fit(array: Array, frame: Frame) -> Array:
    """A picture (H, W[, 3]) in its frame, antialiased bilinear; unchanged where the size is already right."""
    if array.shape[:2] == frame.inner[::-1]:
        return frame.place(array)
    if array.dtype == np.uint8:
        return frame.place(np.asarray(Image.fromarray(array).resize(frame.inner, Image.Resampling.BILINEAR)))
    planes = array[..., None] if array.ndim == 2 else array
    resized = [
        np.asarray(Image.fromarray(planes[..., c].astype(np.float32)).resize(frame.inner, Image.Resampling.BILINEAR))
        for c in range(planes.shape[-1])
    ]
    whole = np.clip(np.rint(np.stack(resized, axis=-1)), 0, 65535).astype(np.uint16)
    return frame.place(whole[..., 0] if array.ndim == 2 else whole)


def fit_mask(mask: npt.NDArray[np.bool_], frame: Frame) -> npt.NDArray[np.bool_]:
    """A mask (H, W) in its frame, by the pixel that lies under each prepared pixel's centre."""
    width, height = frame.inner
    rows = (2 * np.arange(height) + 1) * frame.height // (2 * height)  # whole numbers: nothing to round
    columns = (2 * np.arange(width) + 1) * frame.width // (2 * width)
    return frame.place(mask[rows][:, columns])


def draw_boxes(boxes: Iterable[Box], size: int) -> npt.NDArray[np.bool_]:
    """Boxes as a mask (size, size): pixels whose centre is inside, and of a box between centres the pixel that it is in."""
    mask = np.zeros((size, size), dtype=bool)
    for x, y, w, h in boxes:
        mask[_span(y, h, size), _span(x, w, size)] = True
    return mask


def _span(start: float, length: float, size: int) -> slice:
    tie = 0.5 + 1e-6  # an edge on a pixel's centre must not be decided by the last bit of a float
    first, last = int(np.ceil(start - tie)), int(np.ceil(start + length - tie))
    if last <= first:
        first = min(int(start + length / 2), size - 1)
        last = first + 1
    return slice(first, last)
