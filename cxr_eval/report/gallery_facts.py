"""What the gallery is searched by: answers that an attack flipped, relevance outside of the region, maps that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr_eval.report.pictures import Values, says_something
from cxr_eval.report.results import number

CLEAN = "clean"
COMPARED = 64
"""Longest side in pixels of the maps whose ranks are compared: larger ones are averaged, which keeps noise from deciding."""


@dataclass(frozen=True)
class Answer:
    """What a network says of one image, and whether it is right."""

    said: str
    """The class that it names; where an image may have several findings, the finding if it says so, else nothing."""
    confidence: float
    """In what it names, or in the finding."""
    right: bool
    truth: float | None
    """Probability of the true class; None where none is known."""

    @property
    def words(self) -> tuple[str, ...]:
        """As they stand below the picture."""
        if self.right:
            return f"{self.said} {number(self.confidence)}", "✓ right"
        if self.said:
            return f"{self.said} {number(self.confidence)}", *self._wrong()
        return f"probability {number(self.confidence)}", "✗ wrong, finding missed"

    def _wrong(self) -> tuple[str, ...]:
        return ("✗ wrong",) if self.truth is None else (f"✗ wrong, true class {number(self.truth)}",)


def answer(panel: dict[str, Any], label: str) -> Answer | None:
    """The answer in one panel; None where none was kept."""
    truth = panel["probability_label"]
    if panel["predicted"] is not None:
        return Answer(str(panel["predicted"]), float(panel["probability"]), str(panel["predicted"]) == label, truth)
    if truth is None or not label:
        return None
    found = float(truth) > 0.5
    return Answer(label if found else "", float(truth), found, float(truth))


@dataclass(frozen=True)
class Facts:
    """What is known of one image and one network; None where it is not."""

    flipped: tuple[str, ...] | None
    """Conditions in which the answer is another than on the clean image."""
    wrong: bool | None
    """True if the answer on the clean image is wrong."""
    mass: float | None
    """Share of the clean map's positive relevance that lies in the region."""
    change: float | None
    """1 less the rank correlation of the clean map with that of the condition which changed it most, in [0, 2]."""
    loss: float | None
    """Confidence in the true class that the worst condition takes away."""


def facts(
    panels: Sequence[dict[str, Any]], label: str, load: Callable[[str], Values], region: npt.NDArray[Any] | None
) -> Facts:
    """Of one trainer's panels of one image: the first explainer's map, the region that it should lie in (None: none is known).

    load: the array of a name.
    """
    clean = next((panel for panel in panels if panel["condition"] == CLEAN), None)
    changed = [panel for panel in panels if panel["condition"] != CLEAN]
    if clean is None:
        return Facts(None, None, None, None, None)
    before = answer(clean, label)
    after = [(panel["condition"], told) for panel in changed if (told := answer(panel, label))]
    losses = [before.truth - told.truth for _, told in after if before and before.truth is not None and told.truth is not None]
    name = next(iter(clean["maps"]), "")
    there = load(clean["maps"][name]) if name else None
    others = [load(panel["maps"][name]) for panel in changed if name and name in panel["maps"]]
    changes = [change for other in others if there is not None and (change := map_change(there, other)) is not None]
    return Facts(
        flipped=tuple(name for name, told in after if told.said != before.said) if before and after else None,
        wrong=None if before is None or not label else not before.right,
        mass=None if there is None or region is None else mass(there, region),
        change=max(changes, default=None),
        loss=max(losses, default=None),
    )


def mass(values: Values, region: npt.NDArray[Any]) -> float | None:
    """Share of the positive relevance of a map (H, W) that lies in the region (H, W); None where there is none, or no map."""
    if not says_something(values):
        return None
    positive = np.maximum(values.astype(np.float32), 0)
    whole = float(positive.sum(dtype=np.float64))
    return float(positive[region.astype(bool)].sum(dtype=np.float64)) / whole if whole > 0 else None


def map_change(a: Values, b: Values) -> float | None:
    """1 less the rank correlation of two maps (H, W), 0 for equal ones; None where one of them says nothing."""
    small = [_averaged(values.astype(np.float32)) for values in (a, b)]
    if not all(map(says_something, small)):
        return None
    first, second = map(_ranks, small)
    return float(1 - (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def _ranks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Ranks of all pixels less their mean; equal ones share theirs. scipy's function asks for torch, and reports do without."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(count) - (count - 1) / 2
    return np.asarray(ranks[place.ravel()] - (values.size + 1) / 2, dtype=np.float64)


def _averaged(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    factor = -(-max(values.shape) // COMPARED)
    if factor == 1 or not np.isfinite(values).all():
        return values
    return np.asarray(Image.fromarray(values).reduce(factor))
