"""Files of an unfinished preparation: they grow block by block, survive a kill, and belong to one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from cxr_eval.data.pictures import Array, Box

Fault = tuple[int, str, str]  # row of the manifest, column, reason
_JOURNAL = "journal.jsonl"
_CHUNK = 2**26  # bytes held in memory while stored pixels are widened


@dataclass
class Image:
    """One image as it is stored: pixels (C, S, S), masks packed to bits along their lines, boxes by column."""

    pixels: Array
    masks: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    boxes: dict[str, list[Box]] = field(default_factory=dict)


@dataclass
class Record:
    """What is stored of a manifest's first `done` rows.

    channels, bits: of the pixels. regions: for each kind and image its row in the masks, or -1. boxes: for each column and
    image. faults: rows that could not be prepared.
    """

    done: int = 0
    channels: int = 1
    bits: int = 8
    regions: dict[str, list[int]] = field(default_factory=dict)
    boxes: dict[str, list[list[Box]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of images stored."""
        return self.done - len(self.faults)

    @property
    def pixels(self) -> str:
        """Name of the file that holds the pixels."""
        return f"pixels-{self.channels}x{self.bits}.npy"

    def masks(self, kind: str) -> int:
        """Number of masks of one kind stored."""
        return max(self.regions.get(kind, []), default=-1) + 1

    def add(self, other: Record) -> None:
        """Go on with the next block."""
        self.done, self.channels, self.bits = other.done, other.channels, other.bits
        for column, listed in other.regions.items():
            self.regions.setdefault(column, []).extend(listed)
        for column, placed in other.boxes.items():
            self.boxes.setdefault(column, []).extend(placed)
        self.faults += [(row, column, reason) for row, column, reason in other.faults]


def read_record(folder: Path) -> tuple[Record, int]:
    """What the journal of a folder says is stored, and how many of its bytes say so (a kill may have cut its last line)."""
    path, record, length = folder / _JOURNAL, Record(), 0
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        try:
            block = Record(**json.loads(line))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        record.add(block)
        length += len(line)
    return record, length


def mask_file(number: int) -> str:
    """Name of the file that holds the masks of the kind `number`."""
    return f"mask-{number}.npy"


@contextmanager
def held(work: Path, done: Path) -> Iterator[bool]:
    """True while this process alone may fill `work`; False if `done` is there.

    Waits for a process that holds `work` and then looks again; the lock of one that died is free at once.
    """
    while not done.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        try:
            lock = (work / "lock").open("a")
        except FileNotFoundError:  # renamed or removed since the line above
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(lock.fileno()), os.stat(work / "lock"))
            except FileNotFoundError:
                continue
            if not same:
                continue
            if done.is_dir():  # finished while we waited; `work` was made anew by us
                shutil.rmtree(work)
                continue
            yield True
            return
    yield False


class Rows:
    """An .npy file that grows row by row, so that a full disk is an error and not a crash of the memory map."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, count: int = 0) -> None:
        """Go on after the first `count` rows of the file.

        Raises:
            ValueError: it has fewer.
        """
        self.path, self.shape, self.dtype, self.count = path, shape, np.dtype(dtype), count
        self.file = path.open("r+b" if count else "w+b")
        self.start = self._header()
        self.file.flush()
        end = self.start + count * self._bytes
        if os.fstat(self.file.fileno()).st_size < end:
            self.file.close()
            raise ValueError(f"{path}: shorter than its journal says")
        self.file.truncate(end)
        self.file.seek(end)

    @property
    def _bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def _header(self) -> int:
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, described)
        return self.file.tell()

    def add(self, rows: Sequence[Array] | Array) -> None:
        """Append rows."""
        for row in rows:
            assert row.shape == self.shape, (row.shape, self.shape)
            self.file.write(np.ascontiguousarray(row, dtype=self.dtype).tobytes())
            self.count += 1

    def chunks(self) -> Iterator[Array]:
        """All rows, some at a time."""
        some = max(1, _CHUNK // self._bytes)
        self.file.flush()
        with self.path.open("rb") as file:
            file.seek(self.start)
            while len(read := file.read(some * self._bytes)):
                yield np.frombuffer(read, self.dtype).reshape(-1, *self.shape)

    def save(self) -> None:
        """Have all rows on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Say in the file's header how many rows it has."""
        with self.file:
            self.file.seek(0)
            assert self._header() == self.start, "numpy keeps room in the header of an array that grows"
            self.save()


def widened(pixels: Array, channels: int, bits: int) -> Array:
    """Pixels (..., C, S, S) with this many channels and bits; every value as bright as it was, exactly."""
    if bits == 16 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * 257  # v / 255 = 257 v / 65535
    return np.repeat(pixels, channels, axis=-3) if pixels.shape[-3] < channels else pixels


class Growing:
    """Pixels, masks and journal of one folder. Opened again after a kill they go on after the last whole block.

    Pixels begin with one channel of 8 bits; the first coloured or 16-bit picture widens all that is stored.
    """

    def __init__(self, work: Path, kinds: Sequence[str], size: int) -> None:
        self.work, self.kinds, self.size = work, tuple(kinds), size
        self.record, length = read_record(work)
        try:
            self._open(length)
        except (OSError, ValueError):  # not what this class left behind, such as a copy that was cut: begin anew
            for path in work.glob("*.npy"):
                path.unlink()
            self.record = Record()
            self._open(0)

    def _open(self, length: int) -> None:
        with ExitStack() as stack:
            self.pixels = self._pixels(self.record, self.record.images)
            stack.callback(self.pixels.file.close)
            self.masks = {}
            for number, kind in enumerate(self.kinds):
                shape = (self.size, -(-self.size // 8))
                self.masks[kind] = Rows(self.work / mask_file(number), shape, np.uint8, self.record.masks(kind))
                stack.callback(self.masks[kind].file.close)
            self.journal = (self.work / _JOURNAL).open("r+b" if length else "w+b")
            stack.callback(self.journal.close)
            self.journal.truncate(length)
            self.journal.seek(length)
            self.files = stack.pop_all()

    def _pixels(self, record: Record, count: int) -> Rows:
        shape = (record.channels, self.size, self.size)
        return Rows(self.work / record.pixels, shape, np.uint16 if record.bits == 16 else np.uint8, count)

    def add(self, images: Sequence[Image], faults: Sequence[Fault]) -> None:
        """Append one block; when this returns, a kill cannot take it away."""
        block = Record(
            done=self.record.done + len(images) + len(faults),
            channels=max([self.record.channels, *(image.pixels.shape[0] for image in images)]),
            bits=max([self.record.bits, *(image.pixels.dtype.itemsize * 8 for image in images)]),
            faults=list(faults),
        )
        narrow = self.pixels
        if block.pixels != self.record.pixels:
            self.pixels = self._pixels(block, 0)
            self.files.callback(self.pixels.file.close)
            for chunk in narrow.chunks():
                self.pixels.add(widened(chunk, block.channels, block.bits))
        self.pixels.add([widened(image.pixels, block.channels, block.bits) for image in images])
        self.pixels.save()
        for kind, masks in self.masks.items():
            before = masks.count
            block.regions[kind] = []
            for image in images:
                packed = image.masks.get(kind)
                block.regions[kind].append(-1 if packed is None else masks.count)
                masks.add([] if packed is None else [packed])
            if masks.count > before:
                masks.save()
        for column in dict.fromkeys(column for image in images for column in image.boxes):
            block.boxes[column] = [image.boxes[column] for image in images]
        self.journal.write(json.dumps(asdict(block)).encode() + b"\n")
        self.journal.flush()
        os.fsync(self.journal.fileno())
        self.record.add(block)
        if narrow is not self.pixels:
            narrow.file.close()
            narrow.path.unlink()

    def finish(self) -> None:
        """Make the files whole."""
        self.pixels.close()
        for masks in self.masks.values():
            masks.close()
        for path in self.work.glob("pixels-*.npy"):  # a kill between two files may have left a narrower one
            if path.name != self.record.pixels:
                path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()
