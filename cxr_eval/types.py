"""Records that travel between the layers; none of them needs torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Task = Literal["multiclass", "multilabel"]
Norm = Literal["linf", "l2"]
"""linf: the largest change of any pixel; l2: the Euclidean length of the whole change, over pixels and channels."""
Better = Literal["higher", "lower", "neither"]
Level = Literal["note", "warn", "fail"]

LABEL = "label:"
"""Prefix of the columns that hold one finding each (0, 1 or NaN), in manifests and per-image tables."""

CHANCE = "chance"
"""Explainer of rows that say what a map without meaning scores."""

STAGE_SEPARATOR = "|"
"""Between the stages of an attack in the column `stages` of its tables."""

PROBABILITY = "p_"
"""Prefix of the columns of per-image tables that hold the probability given to each class."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number of a run.

    `condition` is `clean`, `ATTACK:EPS` (`pgd:0.02`, `worst:8/255`, `worst(l2):0.5`), `attacked` (the mean over all of them),
    `CORRUPTION:SEVERITY` or a change of what the anatomy shows (`without lung`). `low` and `high` bound the 95 % interval (NaN
    where none can be given), `n` counts the images behind the number, `unit` is what the value is measured in (`fraction`, `1`
    for a pure number, `count`). `provenance` says on which data it was measured. `subgroup` is `COLUMN=VALUE` (`sex=F`), or
    empty for all images. `note` says why a number is withheld.
    """

    model: str
    trainer: str
    seed: int
    split: str
    condition: str
    explainer: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    better: Better
    provenance: str
    subgroup: str = ""
    note: str = ""


ROW_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Row))


@dataclass(frozen=True, slots=True)
class RowWarning:
    """A stored doubt about some rows: printed above them and never dropped.

    `code` is a short stable name (`one_seed`), `scope` says which rows are meant (`fgsm, seed 0, pgd:0.02`, or `run`),
    `message` is one sentence that a layman understands.
    """

    code: str
    level: Level
    scope: str
    message: str


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """One image that `data.on_error: skip` left out, and why."""

    reader: str
    image: str
    reason: str


Key = tuple[str | int, ...]
"""Where a value stands in a protocol: `("trainers", 2, "eps")`."""


def format_eps(eps: float) -> str:
    """Epsilon as a person writes it: `8/255` where it is a whole number of grey levels, else the shortest decimal.

    A decimal with at most three digits after the point wins (`0.2`, not `51/255`).
    """
    if round(eps, 3) == eps:
        return f"{eps:g}"
    levels = eps * 255
    if abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return repr(float(eps))
