"""What a tiny model reads off the pictures: the source, the view, the sex, the label; and the label off the source alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import interpolate

from cxr_eval.data.audit.looks import Looks
from cxr_eval.data.audit.records import Suspect, Table
from cxr_eval.images import ImageSet
from cxr_eval.types import RowWarning

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

SIDE = 24
"""Side of the pictures that the tiny model sees: too small for most disease, large enough for frame, field and exposure."""
PARTS = 48
"""Principal components kept."""
FOLDS = 5
MOST = 4000
"""Images that the tiny model is fitted on at most."""
LEAST = 20
"""Images of a value, from at least `FOLDS` patients, below which it is not asked for."""
FINDINGS = 14
"""Findings of a multi-label task that are asked for, the most frequent first."""
RECOGNISED = 0.5
"""Part of the way from chance to certainty from which on something counts as recognised."""
EXPLAINS = 0.25
"""Part of the way from chance to certainty from which on a column counts as telling the label."""
UNLIKELY = 0.05
"""Probability of the given label below which it is worth a second look."""
DOUBTS = 10
"""Label doubts that are listed, the least likely first."""
SEED = 0


@dataclass(frozen=True)
class Sample:
    """The images that the tiny model sees: rows in the looks, their features, patients and sets."""

    rows: Ints
    features: Floats
    patient: Texts
    split: Texts


@dataclass(frozen=True)
class Answer:
    """What was answered about `images` (positions in the sample), each by a model that never saw its patient.

    likely: (M, K) probabilities in the order of `values`, which are weighed alike; truth: (M,) index of the right one.
    """

    values: tuple[str, ...]
    images: Ints
    truth: Ints
    likely: Floats
    patients: int

    @property
    def score(self) -> float:
        """Balanced accuracy."""
        right = self.likely.argmax(axis=1) == self.truth
        return float(np.mean([right[self.truth == value].mean() for value in range(len(self.values))]))

    @property
    def chance(self) -> float:
        """Balanced accuracy without knowledge."""
        return 1 / len(self.values)

    @property
    def above(self) -> float:
        """How far the score is on the way from chance (0) to certainty (1)."""
        return (self.score - self.chance) / (1 - self.chance)

    def record(self) -> dict[str, object]:
        """Plain numbers for a table."""
        numbers = {"chance": self.chance, "score": self.score, "images": len(self.images), "patients": self.patients}
        return {"values": list(self.values), **numbers}


def sample(splits: Mapping[str, ImageSet], looks: Looks, *, most: int = MOST) -> Sample:
    """At most `most` images of some sets, in equal parts of the sets where they are too many; drawn by lot, fixed seed."""
    rng = np.random.default_rng(SEED)
    left, rows = most, []
    for number, name in enumerate(sorted(splits, key=lambda name: len(splits[name]))):
        mine = looks.of(name)
        mine = mine[~looks.flat[mine]]
        count = min(len(mine), left // (len(splits) - number))
        rows.append(np.sort(rng.permutation(mine)[:count]))
        left -= count
    picked = np.concatenate(rows)
    names = np.array(looks.splits, dtype=object)[looks.split[picked]]
    patients = [splits[name].table["patient"].iloc[row] for name, row in zip(names, looks.row[picked], strict=True)]
    return Sample(picked, _features(looks, picked), np.array(patients, dtype=object), names)


def _features(looks: Looks, rows: Ints) -> Floats:
    """(M, P): principal components of the small pictures, each with spread 1, and plain numbers of their grey."""
    small = torch.from_numpy(looks.small[rows].astype(np.float32))
    side = min(SIDE, small.shape[1])
    cells = interpolate(small[:, None], size=(side, side), mode="area").flatten(1).numpy()
    # fitted on all images without any label, so nothing of a label leaks between the folds
    parts = PCA(min(PARTS, *cells.shape), whiten=True, svd_solver="full").fit_transform(cells)
    numbers = StandardScaler().fit_transform(looks.numbers[rows])
    return np.nan_to_num(np.concatenate([parts, np.clip(numbers, -5, 5)], axis=1).astype(np.float64))


def ask(drawn: Sample, text: Texts) -> Answer | None:
    """What the tiny model answers about one text an image (None: not known), by cross-validation over whole patients.

    A multinomial logistic regression, all values weighed alike. None if fewer than two values have enough images and patients.
    """
    asked = _asked(drawn, text)
    if asked is None:
        return None
    values, images, truth, folds = asked
    likely = np.zeros((len(images), len(values)))
    for fitted, held in folds:
        model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=500, tol=1e-3)
        model.fit(drawn.features[images[fitted]], truth[fitted])
        likely[np.ix_(held, model.classes_)] = model.predict_proba(drawn.features[images[held]])
    return Answer(values, images, truth, likely, len(set(drawn.patient[images])))


def ask_column(drawn: Sample, text: Texts, column: Texts) -> Answer | None:
    """The same answer from a column alone: the value in which the column's entry is the most frequent, by its share."""
    shown = text.copy()
    shown[[cell is None for cell in column]] = None
    asked = _asked(drawn, shown)
    if asked is None:
        return None
    values, images, truth, folds = asked
    entries, code = np.unique(column[images].astype(str), return_inverse=True)
    if len(entries) < 2:
        return None
    likely = np.zeros((len(images), len(values)))
    for fitted, held in folds:
        counts = np.zeros((len(entries), len(values)))
        np.add.at(counts, (code[fitted], truth[fitted]), 1)
        shares = counts / np.maximum(1, counts.sum(axis=0)) + 1e-9
        likely[held] = (shares / shares.sum(axis=1, keepdims=True))[code[held]]
    return Answer(values, images, truth, likely, len(set(drawn.patient[images])))


def _asked(drawn: Sample, text: Texts) -> tuple[tuple[str, ...], Ints, Ints, list[tuple[Ints, Ints]]] | None:
    """Values with enough images and patients, the images that have them, their truth, and the folds."""
    frame = pd.DataFrame({"value": text, "patient": drawn.patient}).dropna(subset=["value"])
    enough = frame.groupby("value")["patient"].agg(["size", "nunique"])
    values = tuple(sorted(str(value) for value in enough.index[(enough["size"] >= LEAST) & (enough["nunique"] >= FOLDS)]))
    if len(values) < 2:
        return None
    images = np.flatnonzero([cell in values for cell in text]).astype(np.int64)
    truth = np.array([values.index(cell) for cell in text[images]], dtype=np.int64)
    _, group = np.unique(drawn.patient[images].astype(str), return_inverse=True)
    folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED).split(truth, truth, group))
    if any(len(set(truth[fitted])) < len(values) for fitted, _ in folds):
        return None  # a few patients have nearly all images of a value
    return values, images, truth, folds


def label_texts(splits: Mapping[str, ImageSet], looks: Looks, drawn: Sample) -> dict[str, Texts]:
    """The label of each image of the sample as text; in multi-label tasks one a finding, `no NAME` where it is absent."""
    first = next(iter(splits.values()))
    y = np.stack([splits[name].y[row] for name, row in zip(drawn.split, looks.row[drawn.rows], strict=True)])
    if y.ndim == 1:
        return {"label": np.array([first.classes[label] for label in y], dtype=object)}
    common = np.argsort(-np.nansum(y, axis=0), kind="stable")[:FINDINGS]
    return {
        first.classes[k]: np.array(
            [None if np.isnan(cell) else first.classes[k] if cell else f"no {first.classes[k]}" for cell in y[:, k]],
            dtype=object,
        )
        for k in common
    }


def label_doubts(
    splits: Mapping[str, ImageSet], looks: Looks, drawn: Sample, answers: Mapping[str, Answer]
) -> Iterator[Suspect]:
    """The images whose label the tiny model holds for least likely, at most `DOUBTS`, each below `UNLIKELY`."""
    found = []
    for answer in answers.values():
        if answer.above < EXPLAINS:  # who knows little has no say
            continue
        given = answer.likely[np.arange(len(answer.truth)), answer.truth]
        found += [(float(given[k]), int(answer.images[k]), answer, k) for k in np.flatnonzero(given < UNLIKELY).tolist()]
    for likely, position, answer, place in sorted(found, key=lambda each: each[:2])[:DOUBTS]:
        name, row = str(drawn.split[position]), looks.row[drawn.rows[position]]
        other = answer.values[int(answer.likely[place].argmax())]
        why = (
            f"Labelled '{answer.values[answer.truth[place]]}', which a tiny model holds for {likely:.1%} likely; it says"
            f" '{other}'. Worth a second look."
        )
        yield Suspect(name, str(splits[name].table["image_id"].iloc[row]), "label_doubt", why)


def recognised_warnings(recognised: Table, label_from: Table) -> Iterator[RowWarning]:
    """A doubt for each column that a picture tells and that tells the label, and a note on sets that a picture tells."""
    for row in recognised:
        if (row["score"] - row["chance"]) / (1 - row["chance"]) < RECOGNISED:
            continue
        tiny = f"a tiny model ({SIDE} x {SIDE} pixels) tells"
        score = f"with balanced accuracy {row['score']:.2f} (chance {row['chance']:.2f})"
        if row["column"] == "set":
            told = f"{tiny.capitalize()} pictures of '{row['values'][0]}' from those of '{row['values'][1]}' {score}."
            yield RowWarning("sets_differ", "note", row["scope"], told)
            continue
        said = [each for each in label_from if each["from"] == row["column"] and each["target"] != "set"]
        most = max(said, key=lambda each: (each["score"] - each["chance"]) / (1 - each["chance"]), default=None)
        if most is None or (most["score"] - most["chance"]) / (1 - most["chance"]) < EXPLAINS:
            continue
        what = {"site": "source"}.get(row["column"], row["column"])
        label = "the label" if most["target"] == "label" else f"'{most['target']}'"
        told = (
            f"{tiny.capitalize()} a picture's {what} {score}, and the {what} alone tells {label} with balanced accuracy"
            f" {most['score']:.2f} (chance {most['chance']:.2f}). So a network may be right by recognising the {what}: numbers"
            " on images where both coincide say little about the disease."
        )
        yield RowWarning(f"{what}_recognised", "warn", "run", told)
