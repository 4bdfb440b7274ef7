"""Pairs of pictures that show the same scene under two patients: found by hash, confirmed by correlation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_eval.data.audit.looks import Looks

Ints = npt.NDArray[np.int64]

BITS = 32
"""Of 256 bits of the hash, those that may differ between two pictures of one scene."""
TILE = 4096
"""Hashes compared at once with as many others: 64 MB."""
PAIRS = 8192
"""Pairs correlated at once: 256 MB."""


@dataclass(frozen=True)
class Pairs:
    """Pictures of the same scene: rows in the looks, `first` below `second`, with their correlation.

    compared: pictures that were compared; candidates: pairs that the hash let through.
    """

    first: Ints
    second: Ints
    correlation: npt.NDArray[np.float32]
    compared: int
    candidates: int


def pairs(looks: Looks, *, patient: npt.NDArray[np.object_], correlation: float) -> Pairs:
    """All pairs of different patients; flat pictures are left out, for they are all alike.

    patient: (N,) text. correlation: of the small pictures, from which on they show the same scene.
    """
    rows = np.flatnonzero(~looks.flat)
    _, person = np.unique(patient[rows].astype(str), return_inverse=True)
    found = []
    candidates = 0
    for first, second in _close(looks.bits[rows]):
        other = person[first] != person[second]
        first, second = rows[first[other]], rows[second[other]]
        candidates += len(first)
        for start in range(0, len(first), PAIRS):
            a, b = first[start : start + PAIRS], second[start : start + PAIRS]
            alike = np.einsum("nij,nij->n", looks.small[a].astype(np.float32), looks.small[b].astype(np.float32))
            # a correlation of 1 asked for is met by equal pictures, whose small copies have 11 bits a pixel
            sure = alike >= correlation - 1e-3 * (correlation == 1)
            found.append((a[sure], b[sure], alike[sure]))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)] if found else [np.zeros(0, np.int64)] * 3
    order = np.lexsort((columns[1], columns[0], -columns[2]))
    return Pairs(columns[0][order], columns[1][order], columns[2][order].astype(np.float32), len(rows), candidates)


def _close(bits: npt.NDArray[np.bool_]) -> Iterator[tuple[Ints, Ints]]:
    """Rows of hashes that differ in at most `BITS` bits, tile by tile."""
    # a product of signs is 256 - 2 x (bits that differ), exact in float32, and what a processor does fastest
    signs = np.where(bits, np.float32(1), np.float32(-1))
    least = bits.shape[1] - 2 * BITS
    for i in range(0, len(signs), TILE):
        for j in range(i, len(signs), TILE):
            first, second = np.nonzero(signs[i : i + TILE] @ signs[j : j + TILE].T >= least)
            first, second = first + i, second + j
            once = first < second
            yield first[once], second[once]
