"""MedMNIST's sets of small pictures, from their npz files: reader `medmnist`."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

import cxr_eval.api as cxr

Array = npt.NDArray[Any]

_SPLITS = ("train", "val", "test")
_FORMAT = 1
"""Raised when the same file would be written to other pictures, so that old ones are not read."""

_FINDINGS = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax", "consolidation",
    "edema", "emphysema", "fibrosis", "pleural", "hernia",
)  # fmt: skip
_CLASSES = {  # names as MedMNIST gives them, but diagnoses of skin in the short form of HAM10000, where they come from
    "breastmnist": ("malignant", "normal or benign"),
    "chestmnist": _FINDINGS,
    "dermamnist": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
    "pneumoniamnist": ("normal", "pneumonia"),
}

log = logging.getLogger(__name__)


class MedMnist(cxr.Reader):
    """Any two-dimensional set of MedMNIST, in its own division into train, val and test.

    The file names no patients, so every image counts as its own patient: images of one patient may be on both sides of a split,
    and intervals are narrower than they should be. Labels are numbers in the file; the classes of pneumoniamnist, chestmnist,
    dermamnist and breastmnist have their names here, those of other sets are called by number. A set with several labels an
    image (chestmnist) gives one finding each. Colour is kept where the set has any.
    """

    source = "Yang et al., MedMNIST v2, Scientific Data 2023, doi:10.1038/s41597-022-01721-8; medmnist.com"
    colour = True

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder with the npz file")
        set: str = cxr.Field(
            "pneumoniamnist", pattern=r"^[a-z0-9]+$", description="name of the set: pneumoniamnist, chestmnist, ..."
        )
        resolution: Literal[28, 64, 128, 224] = cxr.Field(
            28, description="side of its pictures, pixels; from 64 on in a file SET_64.npz"
        )

    def check(self) -> None:
        """Refuse a root without the file.

        Raises:
            DataError: and what it must be called.
        """
        if not self._file().is_file():
            raise cxr.DataError(f"medmnist: {self._file()}: no such file; it is downloaded from medmnist.com under this name")

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest; writes the pictures as PNG into a folder of `cache` named after the content, unless they are there."""
        self.check()
        path, side = self._file(), self.params.resolution
        folder = cache.resolve() / f"{self.params.set}-{_key(path, side)}"
        if not folder.exists():
            _write(path, side, folder)
        return pd.concat([self._rows(split, _labels(path, split), folder) for split in _SPLITS], ignore_index=True)

    def _file(self) -> Path:
        name = self.params.set if self.params.resolution == 28 else f"{self.params.set}_{self.params.resolution}"
        return Path(self.params.root).expanduser() / f"{name}.npz"

    def _rows(self, split: str, labels: Array, folder: Path) -> pd.DataFrame:
        """The manifest rows of one split. labels: (N, 1) class numbers or (N, findings) 0 and 1."""
        names = _CLASSES.get(self.params.set)
        ids = [f"{split}/{number:06d}" for number in range(len(labels))]
        table = pd.DataFrame({"image": [str(folder / f"{name}.png") for name in ids], "image_id": ids, "patient": ids})
        table["split"] = split
        where = f"medmnist: {self._file()}: {split}_labels"
        if labels.shape[1] > 1:
            findings = names or tuple(map(str, range(labels.shape[1])))
            if len(findings) != labels.shape[1] or not np.isin(labels, (0, 1)).all():
                raise cxr.DataError(f"{where} is {labels.shape}, expected 0 or 1 for each of {len(findings)} findings")
            return table.assign(**{f"label:{name}": labels[:, column].astype(float) for column, name in enumerate(findings)})
        number = labels[:, 0]
        if names and not np.isin(number, range(len(names))).all():
            raise cxr.DataError(f"{where} is from {number.min()} to {number.max()}, expected 0 to {len(names) - 1}")
        return table.assign(label=[names[value] if names else str(value) for value in number.tolist()])


def _key(path: Path, side: int) -> str:
    """A name for the content of an npz file, from the checksums in its directory: large files would take long to hash."""
    if not zipfile.is_zipfile(path):
        raise cxr.DataError(f"medmnist: {path}: is not an npz file; download it again")
    with zipfile.ZipFile(path) as archive:
        parts = sorted((part.filename, part.file_size, part.CRC) for part in archive.infolist())
    return hashlib.sha256(f"{_FORMAT} {side} {parts}".encode()).hexdigest()[:16]


def _array(path: Path, name: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            if name not in loaded:
                raise cxr.DataError(f"medmnist: {path}: no array '{name}'; found: {', '.join(loaded.files) or 'none'}")
            return np.asarray(loaded[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise cxr.DataError(f"medmnist: {path}: '{name}' cannot be read: {' '.join(str(error).split())}") from None


def _images(path: Path, split: str, side: int) -> Array:
    """Pictures of one split, uint8 (N, side, side) or (N, side, side, 3)."""
    images = _array(path, f"{split}_images")
    if images.dtype != np.uint8 or images.shape[1:] not in ((side, side), (side, side, 3)):
        raise cxr.DataError(
            f"medmnist: {path}: {split}_images is {images.dtype} {images.shape}, expected uint8 (N, {side}, {side}[, 3]);"
            " volumes are not read, and other sides are named by `resolution`"
        )
    return images


def _labels(path: Path, split: str) -> Array:
    """Labels of one split, whole numbers (N, 1) or (N, findings)."""
    labels = _array(path, f"{split}_labels")
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or not labels.size:
        raise cxr.DataError(f"medmnist: {path}: {split}_labels is {labels.dtype} {labels.shape}, expected whole numbers (N, 1)")
    return labels.reshape(len(labels), -1)


def _write(path: Path, side: int, folder: Path) -> None:
    """All pictures, in a folder of their own that takes the name `folder` only when it is complete."""
    log.info("writing the pictures of %s into %s", path, folder)
    with cxr.whole_folder(folder) as draft:
        for split in _SPLITS:
            (draft / split).mkdir()
            images, labels = _images(path, split, side), _labels(path, split)
            if len(images) != len(labels):
                raise cxr.DataError(f"medmnist: {path}: {len(images)} images but {len(labels)} labels in split '{split}'")
            for number, picture in enumerate(images):
                Image.fromarray(picture).save(draft / split / f"{number:06d}.png", compress_level=1)
