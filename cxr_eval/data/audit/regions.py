"""How large the known regions are, and those that cannot mean what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cxr_eval.data.audit.records import Suspect, Table
from cxr_eval.images import ImageSet, Regions

FULL = 0.95
"""Share of the image from which on a region says nothing about where."""
TINY = 5
"""Pixels below which a region is lost in the prepared image."""
BLOCK = 256


def areas(known: Regions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The images that have a region of one kind, and its share of each of them."""
    index = np.flatnonzero(known.row >= 0)
    blocks = (known.take(index[start : start + BLOCK]) for start in range(0, len(index), BLOCK))
    return index, np.concatenate([np.zeros(0), *(block.mean(axis=(1, 2)) for block in blocks)])


def sizes(splits: Mapping[str, ImageSet]) -> Table:
    """For each set and kind: images that have such a region, and its smallest, median and largest share of the image."""
    found: Table = []
    for name, images in splits.items():
        for kind, known in images.regions.items():
            index, share = areas(known)
            if len(index):
                least, median, largest = (float(value) for value in np.quantile(share, [0, 0.5, 1]))
                record = {"split": name, "kind": kind, "images": len(index), "least": least, "median": median}
                found.append({**record, "largest": largest})
    return found


def suspects(splits: Mapping[str, ImageSet]) -> Iterator[Suspect]:
    """Regions that fill the image or are all but empty, and lesions that lie outside the lungs of the same image."""
    for name, images in splits.items():
        for kind, known in images.regions.items():
            pixels = int(np.prod(images.shape[1:]))
            for row, share in zip(*areas(known), strict=True):
                image = str(images.table["image_id"].iloc[row])
                if share > FULL:
                    yield Suspect(name, image, "region_doubt", f"The region '{kind}' fills {share:.0%} of the image.")
                elif share * pixels < TINY - 0.5:
                    why = f"The region '{kind}' has {round(share * pixels)} of {pixels} pixels."
                    yield Suspect(name, image, "region_doubt", why)
        if {"lesion", "lung"} <= set(images.regions):
            yield from _outside_lungs(name, images)


def _outside_lungs(name: str, images: ImageSet) -> Iterator[Suspect]:
    both = np.flatnonzero((images.regions["lesion"].row >= 0) & (images.regions["lung"].row >= 0))
    for start, end in pairwise([*range(0, len(both), BLOCK), len(both)]):
        block = both[start:end]
        common = (images.region("lesion", block) & images.region("lung", block)).any(axis=(1, 2))
        for row in block[~common]:
            why = "The region 'lesion' lies wholly outside the region 'lung'."
            yield Suspect(name, str(images.table["image_id"].iloc[row]), "region_doubt", why)
