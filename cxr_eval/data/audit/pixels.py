"""Suspects that the grey values of single images show: flat, inverted, written on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from cxr_eval.data.audit.looks import LEAST_MARKS, Looks
from cxr_eval.data.audit.records import Suspect
from cxr_eval.images import ImageSet
from cxr_eval.types import RowWarning

OPPOSED = -0.2
"""Correlation with the set's median picture below which an image counts as inverted; other views have about 0 to 0.5."""
TYPICAL = 1000
"""Images that the median picture of a set is made of at most."""
FEW = 20
"""Images from which on a set has a median picture of its own; smaller ones are compared with the training images'."""


def suspects(splits: Mapping[str, ImageSet], looks: Looks) -> Iterator[Suspect]:
    """Flat, inverted and written-on images; the last two in grey images only, for photographs are not aligned."""
    typical = {name: _median(looks, looks.of(name)) for name in splits}
    for name, images in splits.items():
        rows = looks.of(name)
        usual = typical[name] if len(rows) >= FEW else typical[_main(splits)]
        alike = against(looks, rows, usual)
        for position, row in enumerate(rows):
            image = str(images.table["image_id"].iloc[position])
            if looks.flat[row]:
                yield Suspect(name, image, "flat_images", "All pixels have one grey value: there is nothing to see.")
            elif alike[position] < OPPOSED and not looks.colour[row]:
                why = f"Looks inverted: its correlation with the set's median picture is {alike[position]:.2f}."
                yield Suspect(name, image, "inverted_images", why)
            elif looks.marks[row] >= LEAST_MARKS:
                signs = "A small bright sign" if looks.marks[row] == 1 else f"{looks.marks[row]} small bright signs"
                yield Suspect(name, image, "burned_in", f"{signs} on dark ground near the borders.")


def inverted_sets(splits: Mapping[str, ImageSet], looks: Looks) -> Iterator[RowWarning]:
    """A doubt about each set whose median picture is the opposite of the training images'."""
    main = _main(splits)
    called = "training" if main == "train" else "test"
    usual = _median(looks, looks.of(main))
    for name in splits:
        rows = looks.of(name)
        if name != main and len(rows) >= FEW and not looks.colour[rows].any():
            alike = float((_median(looks, rows) * usual).sum())
            if alike < OPPOSED:
                told = (
                    f"The median picture of '{name}' is the opposite of the {called} images' (correlation {alike:.2f}):"
                    " black and white seem to be exchanged in one of the two."
                )
                yield RowWarning("inverted_set", "warn", name, told)


def _main(splits: Mapping[str, ImageSet]) -> str:
    """The set that the others are compared with: the training images, or without any the test images."""
    return "train" if "train" in splits else "test"


def against(looks: Looks, rows: npt.NDArray[np.int64], picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Correlation of some images with one picture, block by block; 0 for flat ones."""
    blocks = np.array_split(rows, max(1, len(rows) // 1024))
    return np.concatenate([np.einsum("nij,ij->n", looks.small[block].astype(np.float32), picture) for block in blocks]).astype(
        np.float64
    )


def _median(looks: Looks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Median of a set's small pictures, mean 0 and length 1; zeros where there is none."""
    rows = rows[~looks.flat[rows]]
    picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), TYPICAL)).astype(np.int64)]
    if not len(picked):
        return np.zeros(looks.small.shape[1:], dtype=np.float32)
    median = np.median(looks.small[picked].astype(np.float32), axis=0)
    median -= median.mean()
    return np.asarray(median / max(1e-6, float(np.linalg.norm(median))), dtype=np.float32)
