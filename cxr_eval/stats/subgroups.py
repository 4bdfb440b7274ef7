"""Subgroups of images: by sex, age and site of the patient, and by view."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats.intervals import FloatArray

UNKNOWN = "unknown"


def subgroup_values(manifest: pd.DataFrame, columns: Sequence[str], age_bands: Sequence[float]) -> pd.DataFrame:
    """The subgroup of each image as text, by image_id, one column each: `F`; `18-39`; `PA`; a site; `unknown`.

    manifest: image_id, and any of sex, age (years), view and site. columns: those wanted; one that is not there, or in which
    all images have one value, is left out. age_bands: ages at which bands begin, from small to large: (18, 40, 65) makes
    0-17, 18-39, 40-64 and 65+.
    """
    found = pd.DataFrame(index=pd.Index(manifest["image_id"].astype(str), name="image_id"))
    for column in columns:
        if column not in manifest:
            continue
        if column == "age":
            values = _bands(pd.to_numeric(manifest["age"], errors="coerce").to_numpy(dtype=np.float64), age_bands)
        else:
            values = [UNKNOWN if pd.isna(value) else str(value).strip() or UNKNOWN for value in manifest[column]]
        if len(set(values)) > 1:
            found[column] = values
    return found


def _bands(ages: FloatArray, begins: Sequence[float]) -> list[str]:
    starts = [0.0, *begins]
    names = [
        f"{low:g}-{high - 1:g}" if high % 1 == 0 else f"{low:g} to <{high:g}" for low, high in zip(starts, begins, strict=False)
    ]
    names.append(f"{starts[-1]:g}+")
    places = np.searchsorted(np.asarray(begins, dtype=np.float64), ages, side="right")
    return [names[place] if np.isfinite(age) else UNKNOWN for place, age in zip(places, ages, strict=True)]


def values_of(table: pd.DataFrame, groups: pd.DataFrame, column: str) -> npt.NDArray[np.str_]:
    """The subgroup (N,) of each line of a per-image table; unknown for an image that `groups` does not have."""
    found = groups[column].reindex(table["image_id"].astype(str)).fillna(UNKNOWN)
    return np.asarray(found, dtype=str)


def parts(table: pd.DataFrame, groups: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each subgroup as rows name it, `sex=F`, and its part of a per-image table; ages from young to old, unknown last."""
    values = values_of(table, groups, column)
    for value in in_order(values):
        yield f"{column}={value}", table[values == value]


def in_order(values: npt.NDArray[np.str_]) -> list[str]:
    """The different values: by the number they begin with, as ages do, then by the alphabet, unknown last."""

    def place(value: str) -> tuple[bool, float, str]:
        number = re.match(r"\d+(\.\d+)?", value)
        return value == UNKNOWN, float(number.group()) if number else float("inf"), value

    return sorted((str(value) for value in np.unique(values)), key=place)
