"""Which patients are in which split, and which images are taken of many: by lot, by class, whatever the order of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxr_eval.data.manifest import findings, task_of
from cxr_eval.protocol import Split
from cxr_eval.types import LABEL


def strata(table: pd.DataFrame) -> pd.Series:
    """For each image its class, or in multi-label tasks its rarest finding (empty text where it has none)."""
    if task_of(table) == "multiclass":
        return table["label"]
    names = findings(table)
    positive = table[[LABEL + name for name in names]].to_numpy() == 1
    rarest_first = np.argsort(positive.sum(axis=0), kind="stable")
    ordered = positive[:, rarest_first]
    chosen = np.where(ordered.any(axis=1), rarest_first[ordered.argmax(axis=1)], len(names))
    return pd.Series([(*names, "")[index] for index in chosen], index=table.index, dtype=object)


def split_by_patient(table: pd.DataFrame, split: Split) -> pd.Series:
    """For each image train, val or test: whole patients, stratified by class, the same for any order of the rows.

    A patient counts for the rarest class among the images. A class with three or more such patients comes into every split; one
    with two into train and test; one with one into train.
    """
    return divide(table, {"test": split.test, "val": split.val}, split.seed)


def divide(table: pd.DataFrame, shares: Mapping[str, float], seed: int) -> pd.Series:
    """For each image the name of its split; `shares` of the patients by name, the rest is train."""
    kind = strata(table)
    pairs = pd.DataFrame({"patient": table["patient"], "kind": kind}).drop_duplicates()
    pairs["size"] = pairs.groupby("kind")["patient"].transform("size")
    rarest = pairs.sort_values(["size", "kind"]).drop_duplicates("patient")
    chosen: dict[str, str] = {}
    for _, patients in rarest.groupby("kind")["patient"]:
        drawn = sorted(patients, key=lambda patient: _draw(seed, patient))
        start = 0
        for later, (name, share) in zip(range(len(shares) - 1, -1, -1), shares.items(), strict=True):
            kept = 1 + (later if len(drawn) > len(shares) else 0)  # train, and each split still to come, keep one
            count = min(max(1, int(len(drawn) * share + 0.5)), len(drawn) - start - kept)
            chosen.update(dict.fromkeys(drawn[start : start + max(count, 0)], name))
            start += max(count, 0)
    return table["patient"].map(lambda patient: chosen.get(patient, "train")).rename("split")


def limited(table: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """At most `limit` images of the table, classes in their proportions (each at least once where there is room)."""
    if len(table) <= limit:
        return table
    kind = strata(table)
    names, code = np.unique(kind.to_numpy(dtype=str), return_inverse=True)
    counts = np.bincount(code)
    exact = counts * limit / len(table)
    quota = np.floor(exact).astype(np.int64)
    if len(names) <= limit:
        quota = np.maximum(quota, 1)
    while quota.sum() < limit:  # largest remainder first
        quota[np.where(quota < counts, exact - quota, -np.inf).argmax()] += 1
    while quota.sum() > limit:
        quota[np.where(quota > 1, quota - exact, -np.inf).argmax()] -= 1
    order = table["image_id"].map(lambda name: _draw(seed, name))
    rank = order.groupby(code).rank(method="first").to_numpy()
    return table[rank <= quota[code]].reset_index(drop=True)


def _draw(seed: int, name: str) -> str:
    # a hash, not a generator: what is drawn must not depend on the order in which files were listed
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
