"""The gallery: explained images, clean and attacked, with perturbation and maps, side by side across trainers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cxr_eval.report import pictures
from cxr_eval.report.gallery_facts import Facts, answer, facts
from cxr_eval.report.pictures import Bytes, Floats, Layer, Values
from cxr_eval.report.results import Results, number
from cxr_eval.store import Gallery

BUDGET = 8_000_000
"""Bytes that all pictures of the page may take: as base64 a third more, and with the rest of the page less than 15 MB."""
LARGEST = 512
"""Side in pixels above which a browser would shrink the pictures anyway."""
SMALLEST = 96
"""Side in pixels below which an X-ray shows nothing: one image's pictures are not made smaller to fit the page."""
SHEETS = 6
"""Images whose panels are PNG sheets for Markdown as well, the first ones of the page."""
SHEET_SIDE = 112
THREADS = min(4, os.cpu_count() or 1)
"""Decompressing and encoding let other threads work."""
TIMES = "\u00d7"


@dataclass(frozen=True)
class View:
    """One panel: a picture, perhaps a map over it; `said` is the caption, `alt` what it shows in words."""

    kind: str
    """`image`, `perturbation`, or `map` and the explainer's label."""
    base: str
    over: str
    alt: str
    said: tuple[str, ...] = ()
    outlined: bool = True


@dataclass(frozen=True)
class Strip:
    """One kind of panel in one condition, of every trainer; None where a trainer has none."""

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
    facts: tuple[Facts, ...]
    """One a trainer."""
    file: str
    """Name of the same panels as one PNG."""

    def conditions(self, trainer: int) -> Iterator[tuple[str, list[tuple[str, View]]]]:
        """Of one trainer, by its place: every condition with its panels and what each is called."""
        for title in dict.fromkeys(strip.title for strip in self.strips):
            there = [(strip.sub, view) for strip in self.strips if strip.title == title and (view := strip.views[trainer])]
            if there:
                yield title, there


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
    """PNG sheets by name."""
    signed: bool = False
    """True if a map has values below 0."""

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return sum(len(layer.data) for layer in self.layers.values())

    def file(self, name: str) -> str:
        """Name of a picture as a file of its own."""
        return f"{name}.{self.layers[name].suffix}"


@dataclass(frozen=True)
class Pictures:
    """All that the gallery shows."""

    shown: tuple[Shown, ...]
    """Images on the page, with their pictures."""
    beside: tuple[Shown, ...]
    """All images, their pictures saved elsewhere; none where the page holds all."""
    count: int
    """Images that there are."""
    side: int
    """Longest side of the pictures in pixels."""
    source_side: int
    """Longest side of the images as the networks saw them."""

    @property
    def entries(self) -> tuple[Shown, ...]:
        """Every image that is shown somewhere."""
        return self.beside or self.shown

    @property
    def signed(self) -> bool:
        """True if a map has values below 0."""
        return any(entry.signed for entry in self.entries)

    @property
    def regions(self) -> tuple[str, ...]:
        """Kinds of outlines; relevance is counted in the first."""
        return tuple(dict.fromkeys(outline.kind for entry in self.entries for outline in entry.outlines))


def build(
    gallery: Gallery,
    results: Results,
    *,
    budget: int = BUDGET,
    sheets: int = SHEETS,
    save: Callable[[str, bytes], None] | None = None,
) -> Pictures:
    """The first entries whose pictures fit the budget, in their order, and at least one.

    sheets: of how many of them the panels are PNG sheets too. save: where not all fit, is given every picture of every entry as
    a file, from several threads; None: the others are left out.
    """
    drawing = _Drawings(gallery, results)
    side = min(drawing.source, LARGEST)
    drawn: list[Shown] = []
    beside: list[Shown] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in _batches(len(gallery.entries), 2 * THREADS):
            drawn += pool.map(lambda k: drawing.shown(k, side), batch)
            if sum(entry.size for entry in drawn) > budget:
                break
        shown, size = 0, 0
        while shown < len(drawn) and (size := size + drawn[shown].size) <= budget:
            shown += 1
        if save is not None and shown < len(gallery.entries):

            def saved(k: int) -> Shown:
                entry = drawn[k] if k < len(drawn) else drawing.shown(k, side)
                return _saved(entry, save)

            beside += pool.map(saved, range(len(gallery.entries)))
        page = drawn[:shown]
        if drawn and not page:
            first, side = drawing.fitting(0, side, budget)
            page = [first]
    for entry in page[:sheets]:
        _add_files(entry)
    return Pictures(tuple(page), tuple(beside), len(gallery.entries), side, drawing.source)


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(count, start + size)) for start in range(0, count, size))


def _saved(entry: Shown, save: Callable[[str, bytes], None]) -> Shown:
    """The entry without its bytes, which are saved."""
    for name, layer in entry.layers.items():
        save(entry.file(name), layer.data)
    return replace(entry, layers={name: replace(layer, data=b"") for name, layer in entry.layers.items()})


class _Drawings:
    """Entries of a gallery, each drawn on its own."""

    def __init__(self, gallery: Gallery, results: Results) -> None:
        self.entries, self.arrays, self.results = gallery.entries, gallery.arrays, results
        self.source = max((max(self.arrays[entry["clean"]].shape[:2]) for entry in self.entries), default=0)
        self.factors = self._factors()
        kinds = dict.fromkeys(str(kind) for entry in self.entries for kind in entry["regions"])
        self.region = next(iter(kinds), "")
        """The kind of region that localisation is counted in."""

    def _factors(self) -> dict[str, float]:
        """How much the perturbations of each condition are amplified: one factor for all trainers, so they can be compared."""
        largest: dict[str, float] = {}
        panels = [panel for entry in self.entries for panel in entry["panels"] if panel["perturbation"] is not None]
        with ThreadPoolExecutor(THREADS) as pool:
            sizes = pool.map(self._largest, panels)
            for panel, size in zip(panels, sizes, strict=True):
                largest[panel["condition"]] = max(largest.get(panel["condition"], 0.0), size)
        return {condition: float(f"{0.5 / size:.2g}") if size > 0 else 1.0 for condition, size in largest.items()}

    def _largest(self, panel: dict[str, Any]) -> float:
        """The largest change of one pixel; folders of older versions do not say it."""
        known = panel.get("largest")
        return float(np.abs(self.arrays[panel["perturbation"]]).max()) if known is None else float(known)

    def shown(self, place: int, side: int) -> Shown:
        """One entry with its pictures."""
        return _Drawing(f"g{place}", self.entries[place], self, side).shown()

    def fitting(self, place: int, side: int, budget: int) -> tuple[Shown, int]:
        """One entry whose pictures are as large as the budget allows, and their side."""
        shown = self.shown(place, side)
        while shown.size > budget and side > SMALLEST:
            side = max(SMALLEST, int(side * 0.97 * min(0.97, (budget / shown.size) ** 0.5)))
            shown = self.shown(place, side)
        return shown, side


@dataclass
class _Drawing:
    """One entry being drawn."""

    key: str
    entry: dict[str, Any]
    every: _Drawings
    side: int
    layers: dict[str, Layer] = field(default_factory=dict)
    signed: bool = False

    def shown(self) -> Shown:
        """The entry with all its sheets."""
        clean = self.every.arrays[self.entry["clean"]]
        label = self.entry["label"]
        masks = {str(kind): self.every.arrays[name] for kind, name in self.entry["regions"].items()}
        regions = {kind: mask for kind, mask in masks.items() if mask.any()}
        shown = Shown(
            key=self.key,
            image_id=str(self.entry["image_id"]),
            label="" if label is None else str(label),
            split=str(self.entry["split"]),
            width=clean.shape[1],
            height=clean.shape[0],
            clean=View("image", self._keep(pictures.photograph(clean, self.side)), "", "Clean image"),
            outlines=[
                Outline(kind, pictures.path(lines), lines)
                for kind, mask in regions.items()
                for lines in [pictures.outline(mask)]
            ],
            layers=self.layers,
        )
        panels, region = self.entry["panels"], regions.get(self.every.region)
        for model in self.every.results.models:
            cells = Counter(panel["seed"] for panel in panels if panel["model"] == model)
            if cells:  # one seed a model: the first of those that most trainers have
                seed = max(cells, key=lambda seed: (cells[seed], -self.every.results.seeds.index(seed)))
                mine = [panel for panel in panels if panel["model"] == model and panel["seed"] == seed]
                shown.sheets.append(self._sheet(shown, clean, mine, f"{self.key}-{len(shown.sheets)}.png", region))
        shown.signed = self.signed
        return shown

    def _sheet(self, shown: Shown, clean: Bytes, panels: list[dict[str, Any]], file: str, region: Bytes | None) -> Sheet:
        there = {panel["trainer"] for panel in panels}
        trainers = tuple(trainer for trainer in self.every.results.trainers if trainer in there)
        known, columns = [], []
        for trainer in trainers:
            mine = [panel for panel in panels if panel["trainer"] == trainer]
            loaded = {name: self.every.arrays[name] for panel in mine for name in panel["maps"].values()}
            known.append(facts(mine, shown.label, loaded.__getitem__, region))
            columns.append({panel["condition"]: self._panel(shown, clean, panel, loaded) for panel in mine})
        strips = [
            Strip(condition, title, tuple(column.get(condition, {}).get(title) for column in columns))
            for condition in dict.fromkeys(panel["condition"] for panel in panels)
            for title in dict.fromkeys(title for column in columns for title in column.get(condition, {}))
        ]
        return Sheet(panels[0]["model"], int(panels[0]["seed"]), trainers, tuple(strips), tuple(known), file)

    def _panel(self, shown: Shown, clean: Bytes, panel: dict[str, Any], maps: Mapping[str, Values]) -> dict[str, View]:
        """The views of one trainer in one condition, by title: image, perturbation, a map an explainer."""
        who = f"{panel['model']}, {panel['trainer']}, {panel['condition']}"
        base, views = shown.clean.base, {}
        if panel["perturbation"] is not None:
            change = self.every.arrays[panel["perturbation"]]
            if change.ndim != clean.ndim:  # a grey image in three channels, each changed in its own way
                clean, change = np.broadcast_arrays(np.atleast_3d(clean), np.atleast_3d(change))
            base = self._keep(pictures.attacked(clean, change, self.side))
            factor = self.every.factors[panel["condition"]]
            amplified = self._keep(pictures.perturbation_picture(change, factor, self.side))
            size = f"largest change {number(float(np.abs(change).max()))}"
            alt = f"Perturbation: {who}; {size}"
            views[f"perturbation {TIMES}{factor:g}"] = View("perturbation", amplified, "", alt, (size,), outlined=False)
        told = answer(panel, shown.label)
        said = told.words if told else ()
        views = {"image": View("image", base, "", "; ".join([f"Image: {who}", *said]), said)} | views
        for explainer, name in panel["maps"].items():
            self.signed = self.signed or bool((maps[name] < 0).any())
            layer = pictures.map_layer(maps[name], self.side)
            alt = f"{explainer} map: {who}"
            if layer is None:
                nothing = ("no map: constant or not finite",)
                views[explainer] = View(f"map {explainer}", base, "", f"{alt}; the map says nothing", nothing)
            else:
                views[explainer] = View(f"map {explainer}", base, self._keep(layer), alt)
        return views

    def _keep(self, layer: Layer) -> str:
        name = f"{self.key}-{len(self.layers)}"
        self.layers[name] = layer
        return name


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
