"""What tables say beside the label (site, view, sex, age), and how it goes together with the label, set by set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.data.audit.looks import LEAST_MARKS, MARKS_FROM, Looks
from cxr_eval.data.audit.records import Table
from cxr_eval.data.doubts import cramers_v, members
from cxr_eval.images import ImageSet
from cxr_eval.types import RowWarning

Bools = npt.NDArray[np.bool_]

NAMES = ("site", "view", "sex", "age", "marks")
SAID = {
    "site": "Where a picture was taken",
    "view": "The view",
    "sex": "The patient's sex",
    "age": "The patient's age",
    "marks": "Writing in the picture",
}
AGES = (0, 18, 40, 60, 80)
"""First years of the age bands."""
TELLS = 0.3
"""Cramer's V from which on view, sex, age or writing count as telling the class ("medium" for Cohen, 1988)."""
REVERSED = 0.15
"""Difference of shares, in both sets, from which on an association that changes its sign is told."""
SURE = 3.0
"""Standard errors by which both differences must be away from 0."""
KNOWN = 20
"""Images of a class and of the others, with the column known, below which an association is not looked at."""


def column(images: ImageSet, name: str, marks: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    """One column as text, None where unknown: ages as bands, marks as written or not. marks: bright signs in each image."""
    if name == "marks":
        if min(images.shape[1:]) < MARKS_FROM:
            return np.full(len(images), None, dtype=object)
        return np.where(marks >= LEAST_MARKS, "with writing", "without").astype(object)
    if name not in images.table:
        return np.full(len(images), None, dtype=object)
    if name == "age":
        years = pd.to_numeric(images.table["age"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        return np.array([_band(year) for year in years], dtype=object)
    return np.array([None if pd.isna(cell) else str(cell) for cell in images.table[name]], dtype=object)


def _band(year: float) -> str | None:
    if not 0 <= year <= 120:  # NaN, and the typing errors that public tables have (413 years)
        return None
    start = max(first for first in AGES if first <= year)
    return f"{start}+" if start == AGES[-1] else f"{start}-{AGES[AGES.index(start) + 1] - 1}"


def columns(splits: Mapping[str, ImageSet], looks: Looks) -> dict[str, dict[str, npt.NDArray[np.object_]]]:
    """For each column that any set knows, its text in each set."""
    marks = {name: looks.marks[looks.of(name)] for name in splits}
    found = {each: {name: column(images, each, marks[name]) for name, images in splits.items()} for each in NAMES}
    return {each: texts for each, texts in found.items() if any(cell is not None for text in texts.values() for cell in text)}


def counts(splits: Mapping[str, ImageSet], known: Mapping[str, Mapping[str, npt.NDArray[np.object_]]]) -> Table:
    """For each column, value and set: images, patients, and images by class."""
    found: Table = []
    for name, texts in known.items():
        values = sorted({str(cell) for text in texts.values() for cell in text if cell is not None})
        for value in [*values, None]:
            for split, images in splits.items():
                rows = np.array([cell == value for cell in texts[split]], dtype=bool)
                if rows.any() or (value is not None and split == "train"):
                    record = {"column": name, "value": "not known" if value is None else value, "split": split}
                    by_class = {label: int((has & rows).sum()) for label, has in members(images)}
                    patients = int(images.table["patient"][rows].nunique())
                    found.append({**record, "images": int(rows.sum()), "patients": patients, "classes": by_class})
    return found


@dataclass(frozen=True)
class Association:
    """How one column goes together with one class in one set.

    strength: Cramer's V. values: of the column, in order; shares: for each value, its share of the class and of the rest.
    patients: of the class and of the rest.
    """

    strength: float
    values: tuple[str, ...]
    shares: npt.NDArray[np.float64]
    patients: tuple[int, int]

    @property
    def difference(self) -> npt.NDArray[np.float64]:
        """For each value its share of the class less that of the rest."""
        return np.asarray(self.shares[:, 0] - self.shares[:, 1])

    @property
    def errors(self) -> npt.NDArray[np.float64]:
        """Standard error of each difference, each patient counted once."""
        # one more of each kind, so that a share of 0 or 1 in a few patients is not certain
        counts = self.shares * self.patients
        shares = (counts + 1) / (np.array(self.patients) + 2)
        return np.asarray(np.sqrt((shares * (1 - shares) / np.array(self.patients)).sum(axis=1)))


def association(images: ImageSet, label: int, text: npt.NDArray[np.object_]) -> Association | None:
    """A column against one class; None where fewer than `KNOWN` images of a side have it, or it has one value."""
    has = members(images)[label][1]
    known = np.array([cell is not None for cell in text], dtype=bool)
    if images.y.ndim == 2:
        known &= ~np.isnan(images.y[:, label].astype(np.float32))
    if min((has & known).sum(), (~has & known).sum()) < KNOWN:
        return None
    values, code = np.unique(text[known].astype(str), return_inverse=True)
    if len(values) < 2:
        return None
    table = np.stack([np.bincount(code[has[known] == side], minlength=len(values)) for side in (True, False)], axis=1)
    patient = images.table["patient"].to_numpy()[known]
    patients = tuple(len(set(patient[has[known] == side])) for side in (True, False))
    strength = cramers_v(table.astype(np.float64))
    return Association(strength, tuple(values.tolist()), table / table.sum(axis=0), (patients[0], patients[1]))


Found = dict[tuple[str, str, str], Association]
"""Associations by column, set and class."""


def associations(splits: Mapping[str, ImageSet], known: Mapping[str, Mapping[str, npt.NDArray[np.object_]]]) -> Found:
    """Every column against every class in every set where both are known often enough."""
    return {
        (name, split, label): found
        for name, texts in known.items()
        for split, images in splits.items()
        for number, label in enumerate(images.classes)
        if (found := association(images, number, texts[split])) is not None
    }


def told(found: Found) -> Table:
    """Every association as a record, with the value that tells most."""
    rows: Table = []
    for (name, split, label), each in found.items():
        most = int(np.abs(each.difference).argmax())
        record = {"column": name, "split": split, "class": label, "strength": each.strength, "value": each.values[most]}
        rows.append({**record, "share_in": float(each.shares[most, 0]), "share_out": float(each.shares[most, 1])})
    return rows


def tells_label(found: Found) -> Iterator[RowWarning]:
    """A doubt for each column, but the site, that tells a class of the training images; loading doubts the site."""
    for name in NAMES[1:]:
        of_training = [(key[2], each) for key, each in found.items() if key[:2] == (name, "train")]
        label, worst = max(of_training, key=lambda pair: pair[1].strength, default=("", None))
        if worst is not None and worst.strength >= TELLS:
            most = int(np.abs(worst.difference).argmax())
            inside, outside = worst.shares[most]
            told = (
                f"{SAID[name]} tells '{label}' from the rest (Cramer's V {worst.strength:.2f} of 1): {inside:.0%} of the"
                f" training images of '{label}' are '{worst.values[most]}' but {outside:.0%} of the others. A network may"
                " learn that instead of the disease."
            )
            yield RowWarning(f"{name}_is_label", "warn", "run", told)


def reversals(found: Found) -> Table:
    """Associations of the training images that have the opposite sign in another set; for each column and set the largest.

    As for Simpson's paradox: what helps in training misleads there.
    """
    largest: dict[tuple[str, str], tuple[float, dict[str, object]]] = {}
    for (name, split, label), there in found.items():
        here = found.get((name, "train", label))
        if split == "train" or here is None:
            continue
        for value in sorted(set(here.values) & set(there.values)):
            i, j = here.values.index(value), there.values.index(value)
            a, b = float(here.difference[i]), float(there.difference[j])
            sure = abs(a) >= SURE * here.errors[i] and abs(b) >= SURE * there.errors[j]
            size = min(abs(a), abs(b))
            if a * b < 0 and sure and size >= REVERSED and size > largest.get((name, split), (0.0, {}))[0]:
                record = {"column": name, "split": split, "class": label, "value": value}
                shares = [float(share) for share in (*here.shares[i], *there.shares[j])]
                names = ("train_in", "train_out", "there_in", "there_out")
                largest[name, split] = (size, {**record, **dict(zip(names, shares, strict=True))})
    return [record for _, record in largest.values()]


def reversed_warnings(rows: Table) -> Iterator[RowWarning]:
    """A doubt for each reversal."""
    for row in rows:
        shares = [f"{row[key]:.0%}" for key in ("train_in", "train_out", "there_in", "there_out")]
        told = (
            f"In training {shares[0]} of '{row['class']}' and {shares[1]} of the others have {row['column']} '{row['value']}',"
            f" in '{row['split']}' {shares[2]} and {shares[3]}: what a network may learn from the {row['column']} is wrong"
            f" there, and the numbers on '{row['split']}' suffer from it."
        )
        yield RowWarning("association_reversed", "warn", str(row["split"]), told)
