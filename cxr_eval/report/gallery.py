"""The gallery: explained images, clean and attacked, with perturbation and maps, side by side across trainers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_eval.report import pictures
from cxr_eval.report.pictures import Floats, Layer
from cxr_eval.report.results import Results, number
from cxr_eval.store import Gallery

BUDGET = 10_000_000
"""Bytes that all pictures of the page may take: base64 and the rest of the page leave the file below 15 MB."""
SMALLEST = 96
"""Side in pixels below which an X-ray shows nothing; images are left out instead."""
LARGEST = 512
"""Side in pixels above which a browser would shrink the pictures anyway."""
SHEET_SIDE = 112
SAMPLE = 2
"""Entries drawn to find out how large all will be."""
TIMES = "\u00d7"


@dataclass(frozen=True)
class View:
    """One panel: a picture, perhaps a map over it; `said` is the caption, `alt` what it shows in words."""

    base: str
    over: str
    alt: str
    said: tuple[str, ...] = ()
    outlined: bool = True


@dataclass(frozen=True)
class Strip:
    """One line of panels, one a trainer; None where a trainer has none."""

    title: str
    sub: str
    views: tuple[View | None, ...]


@dataclass(frozen=True)
class Sheet:
    """The panels of one model and seed."""

    model: str
    seed: int
    trainers: tuple[str, ...]
    strips: tuple[Strip, ...]
    file: str
    """Name of the same panels as one PNG."""


@dataclass(frozen=True)
class Outline:
    """Border of one region: an SVG path, and the lines that it is made of."""

    kind: str
    path: str
    lines: list[Floats]


@dataclass
class Shown:
    """One image of the gallery; `layers` holds every picture once, by the id that views use."""

    key: str
    image_id: str
    label: str
    """The true class; empty where an image may have several findings."""
    split: str
    width: int
    height: int
    clean: View
    outlines: list[Outline]
    sheets: list[Sheet] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """All that the gallery shows, and how it was made to fit."""

    shown: tuple[Shown, ...]
    left_out: int
    side: int
    """Longest side of the pictures in pixels."""
    source_side: int
    """Longest side of the images as the networks saw them."""
    signed: bool
    """True if a map has values below 0."""
    regions: tuple[str, ...]


def build(gallery: Gallery, results: Results, *, budget: int = BUDGET, sheets: bool = True) -> Pictures:
    """Every entry's pictures, made smaller, and then fewer, until they fit the budget; `sheets`: also as single files."""
    entries = gallery.entries
    arrays = {name: gallery.arrays[name] for name in gallery.arrays}
    source = max((max(arrays[entry["clean"]].shape[:2]) for entry in entries), default=0)
    factors = _factors(entries, arrays)
    side, sample = min(source, LARGEST), entries[:SAMPLE]
    for _ in range(2):  # the sample tells the side without drawing everything twice
        size = _size(_shown(sample, arrays, factors, results, side)) * len(entries) / max(1, len(sample))
        if size > budget:
            side = max(SMALLEST, int(side * 0.95 * (budget / size) ** 0.5))
    shown = _shown(entries, arrays, factors, results, side)
    for _ in range(4):  # bytes do not shrink quite as pixels do, so a few steps
        size = _size(shown)
        if size <= budget or side <= SMALLEST:
            break
        side = max(SMALLEST, int(side * 0.97 * (budget / size) ** 0.5))
        shown = _shown(entries, arrays, factors, results, side)
    while len(shown) > 1 and _size(shown) > budget:
        shown.pop()
    if sheets:
        for entry in shown:
            _add_files(entry)
    kinds = dict.fromkeys(outline.kind for entry in shown for outline in entry.outlines)
    signed = any((arrays[name] < 0).any() for entry in entries for panel in entry["panels"] for name in panel["maps"].values())
    return Pictures(tuple(shown), len(entries) - len(shown), side, source, signed, tuple(kinds))


def _size(shown: list[Shown]) -> int:
    return sum(len(layer.png) for entry in shown for layer in entry.layers.values())


def _factors(entries: list[dict[str, Any]], arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """How much the perturbations of each condition are amplified: one factor for all trainers, so they can be compared."""
    largest: dict[str, float] = {}
    for entry in entries:
        for panel in entry["panels"]:
            if panel["perturbation"] is not None:
                size = float(np.abs(arrays[panel["perturbation"]].astype(np.float64)).max())
                largest[panel["condition"]] = max(largest.get(panel["condition"], 0.0), size)
    return {condition: float(f"{0.5 / size:.2g}") if size > 0 else 1.0 for condition, size in largest.items()}


def _shown(
    entries: list[dict[str, Any]],
    arrays: Mapping[str, npt.NDArray[Any]],
    factors: Mapping[str, float],
    results: Results,
    side: int,
) -> list[Shown]:
    return [_Drawing(f"g{k}", entry, arrays, factors, results, side).shown() for k, entry in enumerate(entries)]


@dataclass
class _Drawing:
    """One entry being drawn."""

    key: str
    entry: dict[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]
    factors: Mapping[str, float]
    results: Results
    side: int
    layers: dict[str, Layer] = field(default_factory=dict)

    def shown(self) -> Shown:
        """The entry with all its sheets."""
        clean = self.arrays[self.entry["clean"]]
        label = self.entry["label"]
        shown = Shown(
            key=self.key,
            image_id=str(self.entry["image_id"]),
            label="" if label is None else str(label),
            split=str(self.entry["split"]),
            width=clean.shape[1],
            height=clean.shape[0],
            clean=View(self._keep(pictures.picture(clean, self.side)), "", "Clean image with the outlines of its regions"),
            outlines=[
                Outline(str(kind), pictures.path(lines), lines)
                for kind, name in self.entry["regions"].items()
                if (lines := pictures.outline(self.arrays[name]))
            ],
            layers=self.layers,
        )
        panels = self.entry["panels"]
        for model in self.results.models:
            cells = Counter(panel["seed"] for panel in panels if panel["model"] == model)
            if cells:  # one seed a model: the first of those that most trainers have
                seed = max(cells, key=lambda seed: (cells[seed], -self.results.seeds.index(seed)))
                mine = [panel for panel in panels if panel["model"] == model and panel["seed"] == seed]
                shown.sheets.append(self._sheet(shown, model, int(seed), mine, f"{self.key}-{len(shown.sheets)}.png"))
        return shown

    def _sheet(self, shown: Shown, model: str, seed: int, panels: list[dict[str, Any]], file: str) -> Sheet:
        there = {panel["trainer"] for panel in panels}
        trainers = tuple(trainer for trainer in self.results.trainers if trainer in there)
        strips: list[Strip] = []
        for condition in dict.fromkeys(panel["condition"] for panel in panels):
            by_trainer = {panel["trainer"]: panel for panel in panels if panel["condition"] == condition}
            drawn = [self._panel(shown, by_trainer[t]) if t in by_trainer else {} for t in trainers]
            for title in dict.fromkeys(title for column in drawn for title in column):
                strips.append(Strip(condition, title, tuple(column.get(title) for column in drawn)))
        return Sheet(model, seed, trainers, tuple(strips), file)

    def _panel(self, shown: Shown, panel: dict[str, Any]) -> dict[str, View]:
        """The views of one trainer in one condition, by title: image, perturbation, a map an explainer."""
        clean = self.arrays[self.entry["clean"]]
        who = f"{panel['model']}, {panel['trainer']}, {panel['condition']}"
        base, views = shown.clean.base, {}
        if panel["perturbation"] is not None:
            change = self.arrays[panel["perturbation"]].astype(np.float64)
            if change.ndim != clean.ndim:  # a grey image in three channels, each changed in its own way
                clean, change = np.broadcast_arrays(np.atleast_3d(clean), np.atleast_3d(change))
            base = self._keep(pictures.attacked(clean, change, self.side))
            factor = self.factors[panel["condition"]]
            amplified = self._keep(pictures.perturbation_picture(change, factor, self.side))
            size = f"largest change {number(float(np.abs(change).max()))}"
            views[f"perturbation {TIMES}{factor:g}"] = View(
                amplified, "", f"Perturbation: {who}; {size}", (size,), outlined=False
            )
        answer = _answer(panel, shown.label)
        image = View(base, "", "; ".join([f"Image: {who}", *answer]), answer)
        views = {"image": image} | views
        for explainer, name in panel["maps"].items():
            layer = pictures.map_layer(self.arrays[name].astype(np.float64), self.side)
            alt = f"{explainer} map: {who}"
            if layer is None:
                views[explainer] = View(base, "", f"{alt}; the map says nothing", ("no map: constant or not finite",))
            else:
                views[explainer] = View(base, self._keep(layer), alt)
        return views

    def _keep(self, layer: Layer) -> str:
        name = f"{self.key}-{len(self.layers)}"
        self.layers[name] = layer
        return name


def _answer(panel: dict[str, Any], label: str) -> tuple[str, ...]:
    """What the network says, whether it is right, and how likely it holds the truth to be."""
    if panel["predicted"] is None:
        return ()
    right = str(panel["predicted"]) == label
    said = f"{panel['predicted']} {number(float(panel['probability']))}"
    if right:
        return said, "✓ right"
    return said, f"✗ wrong, true class {number(float(panel['probability_label']))}"


def _add_files(shown: Shown) -> None:
    """Each sheet as one PNG."""
    lines = [line for outline in shown.outlines for line in outline.lines]
    for sheet in shown.sheets:
        panels = [
            [(shown.layers[view.base], shown.layers.get(view.over)) if view else None for view in strip.views]
            for strip in sheet.strips
        ]
        if panels:
            shown.files[sheet.file] = pictures.sheet(panels, lines, max(shown.width, shown.height), SHEET_SIDE)
