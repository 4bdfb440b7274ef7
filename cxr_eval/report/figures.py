"""Curves as SVG: over the radius of attacks, the severity of corruptions, and the epochs of training."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_eval.report.results import WORST, Results, number, one_line
from cxr_eval.report.tables import HEADLINES, headline
from cxr_eval.types import format_eps

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000")
"""Okabe and Ito's colours for the colour-blind, without black and yellow, which vanish on one of the two grounds."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PUBLISHED = ((0, (4, 3)), (0, (1, 1.6)), (0, (8, 2)))
"""Dashes of published curves, in the colour of the text and without markers."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
INK, FAINT = "#1b1f24", "#c9ced6"
SIZE = (4.1, 3.0)
"""Inches; drawn at 96 pixels an inch it fits a telephone."""
WHOLE = ("Severity", "Epoch")
"""Axes that have whole numbers only."""
NAME_LENGTH = 28
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, small, in the page's own font
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


@dataclass(frozen=True)
class Picture:
    """One panel: `inline` follows the page's light or dark colours, `file` stands alone with its own legend."""

    key: str
    title: str
    alt: str
    inline: str
    file: str


@dataclass(frozen=True)
class Curve:
    """One line of a panel; low and high bound a band where they are given."""

    style: int
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mark: float | None = None
    """x of the one point to mark; every point if not given."""
    published: bool = False
    """Not measured here; `style` then counts the sources."""


@dataclass(frozen=True)
class Swatch:
    """How one trainer or published source is drawn, for the legend above the panels."""

    key: str
    name: str
    svg: str


def legend(results: Results) -> list[Swatch]:
    """Line, colour and marker of every trainer."""
    return [_swatch(f"line-{style}", trainer, _line(style)) for style, trainer in enumerate(results.trainers)]


def published_legend(results: Results) -> list[Swatch]:
    """Line of every source of published numbers."""
    sources = enumerate(results.published.sources)
    return [_swatch(f"published-{style}", source.head, _published_line(style)) for style, source in sources]


def _swatch(key: str, name: str, line: dict[str, Any]) -> Swatch:
    figure = Figure(figsize=(0.42, 0.16), facecolor="none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.plot([0.02, 0.5, 0.98], [0.5] * 3, **line, markevery=[1])
    return Swatch(key, name, _inline(_svg(figure, f"swatch-{key}")))


def robust_curves(results: Results, model: str, split: str, key: str) -> list[Picture]:
    """Robust accuracy over the radius, one panel for the worst case and one an attack; radius 0 is clean accuracy."""
    pictures = []
    for place, (attack, series) in enumerate(results.attacks(split).items()):
        title = "Worst case over all attacks" if attack == WORST else attack
        steps = [(radius, condition) for radius, _, condition in series]
        curves = _score_curves(results, model, split, "robust_accuracy", steps)
        radii = [radius for radius, _ in steps]
        over = f"radius {format_eps(min(radii))} to {format_eps(max(radii))}"
        alt = f"{title}: robust accuracy of {model} over {over}; {ends(curves)}"
        pictures.append(panel(f"{key}-{place}", title, alt, curves, x="Radius", y="Robust accuracy", fraction=True))
    return pictures


def corruption_curves(results: Results, model: str, split: str, key: str) -> list[Picture]:
    """The headline score over severity, one panel a corruption; severity 0 is the clean image."""
    metric = headline(results, split)
    pictures = []
    for place, (corruption, series) in enumerate(results.corruptions(split).items()):
        steps = [(0.0, "clean"), *((severity, condition) for severity, _, condition in series)]
        curves = _score_curves(results, model, split, metric, steps)
        alt = f"{corruption}: {HEADLINES[metric]} of {model} over severity 0 to {steps[-1][0]:g}; {ends(curves)}"
        pictures.append(panel(f"{key}-{place}", corruption, alt, curves, x="Severity", y=HEADLINES[metric], fraction=True))
    return pictures


def training_curves(results: Results, history: pd.DataFrame, model: str, key: str) -> list[Picture]:
    """Training loss and validation scores over the epochs, a line a cell; the kept epoch is marked."""
    if history.empty:
        return []
    measures = ["train_loss", *sorted(str(name) for name in history.columns if str(name).startswith("val_"))]
    kept = {(cell["model"], cell["trainer"], cell["seed"]): cell.get("best_epoch") for cell in results.manifest["cells"]}
    pictures: list[Picture] = []
    for measure in (name for name in measures if name in history.columns):
        curves = []
        for style, trainer in enumerate(results.trainers):
            mine = history[(history["model"].astype(str) == model) & (history["trainer"].astype(str) == trainer)]
            for seed, part in mine.groupby("seed", sort=True):
                best = kept.get((model, trainer, seed))
                part = part[pd.to_numeric(part[measure]).notna()]
                if len(part):
                    epochs = tuple(float(epoch) + 1 for epoch in part["epoch"])
                    mark = None if best is None else float(best) + 1
                    curves.append(Curve(style, trainer, epochs, tuple(map(float, part[measure])), mark=mark))
        if curves:
            title = measure.replace("val_", "Validation: ").replace("train_", "Training: ").replace("_", " ")
            alt = f"{title} of {model} over {max(max(c.x) for c in curves):g} epochs, {len(curves)} lines"
            pictures.append(panel(f"{key}-{len(pictures)}", title, alt, curves, x="Epoch", y=title.partition(": ")[2]))
    return pictures


def _score_curves(results: Results, model: str, split: str, metric: str, steps: Sequence[tuple[float, str]]) -> list[Curve]:
    curves = []
    for style, trainer in enumerate(results.trainers):
        found = [
            (at, score)
            for at, condition in steps
            if (score := results.score(model=model, trainer=trainer, split=split, metric=metric, condition=condition))
        ]
        known = [(at, score) for at, score in found if not math.isnan(score.value)]
        if known:
            x, scores = zip(*known, strict=True)
            y, low, high = (tuple(getattr(score, end) for score in scores) for end in ("value", "low", "high"))
            curves.append(Curve(style, trainer, x, y, low, high))
    return curves


def ends(curves: Sequence[Curve]) -> str:
    """Where each curve starts and ends, in words."""
    return ", ".join(f"{curve.name} from {number(curve.y[0])} to {number(curve.y[-1])}" for curve in curves)


def _line(style: int) -> dict[str, Any]:
    return {
        "color": PALETTE[style % len(PALETTE)],
        "linestyle": DASHES[style % len(DASHES)],
        "marker": MARKERS[style % len(MARKERS)],
        "linewidth": 1.7,
        "markersize": 4.5,
        "markeredgewidth": 0,
    }


def _published_line(style: int) -> dict[str, Any]:
    return {"color": INK, "linestyle": PUBLISHED[style % len(PUBLISHED)], "linewidth": 1.3}


def panel(key: str, title: str, alt: str, curves: Sequence[Curve], *, x: str, y: str, fraction: bool = False) -> Picture:
    """Curves drawn twice, for the page and as a file; `fraction`: y runs from 0 to 1."""
    drawn = []
    for alone in (False, True):
        with mpl.rc_context(STYLE):
            below = 0.12 + 0.2 * math.ceil(len({curve.name for curve in curves}) / 2) if alone else 0.0
            above = 0.3 if alone else 0.0
            width, height = SIZE[0], SIZE[1] + below + above
            figure = Figure(figsize=(width, height), facecolor="white" if alone else "none")
            # fixed margins: panels side by side line up, and drawing takes half the time of an automatic layout
            top = 0.52 if x == "Radius" else 0.12
            axes = figure.add_axes(
                (0.58 / width, (0.5 + below) / height, (width - 0.7) / width, (SIZE[1] - 0.5 - top) / height), facecolor="none"
            )
            _draw(axes, curves)
            axes.set(xlabel=f"{x} (pixel units of [0, 1])" if x == "Radius" else x, ylabel=y[:1].upper() + y[1:])
            axes.grid(axis="y", linewidth=0.6)
            axes.tick_params(length=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=x in WHOLE, steps=[1, 2, 5, 10]))
            if fraction:
                axes.set_ylim(-0.02, 1.02)
                axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
            if x == "Radius":
                levels = axes.secondary_xaxis("top", functions=(_times_255, _over_255))
                levels.set_xlabel("Radius in grey levels of 255", labelpad=5)
                levels.tick_params(length=0)
                levels.spines["top"].set_visible(False)
            if alone:
                names = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
                figure.suptitle(one_line(title, NAME_LENGTH), fontsize=10, y=1 - 0.06 / height)
                figure.legend(names.values(), names.keys(), loc="lower center", ncols=2)
            drawn.append(_svg(figure, f"{key}-{'file' if alone else 'page'}"))
    return Picture(key, title, alt, _inline(drawn[0]), drawn[1])


def _draw(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        every = None if curve.mark is None else [place for place, x in enumerate(curve.x) if x == curve.mark]
        name = one_line(curve.name, NAME_LENGTH)
        # a leading underscore would hide the name from the legend
        label = f" {name}" if name.startswith("_") else name
        line = _published_line(curve.style) if curve.published else _line(curve.style)
        axes.plot(curve.x, curve.y, label=label, markevery=every, **line)
        if curve.low:
            axes.fill_between(
                curve.x, curve.low, curve.high, color=PALETTE[curve.style % len(PALETTE)], alpha=0.13, linewidth=0
            )


def _times_255(radius: Any) -> Any:
    return radius * 255


def _over_255(grey: Any) -> Any:
    return grey / 255


def _svg(figure: Figure, salt: str) -> str:
    """The figure as SVG text that depends on nothing but what is drawn; `salt` keeps its ids apart from other figures'."""
    text = StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": salt}), warnings.catch_warnings():
        # the browser draws the letters, with fonts that have them
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(text, metadata=metadata)  # type: ignore[no-untyped-call]
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    return svg.replace("'DejaVu Sans'", FONT)


def _inline(svg: str) -> str:
    """The SVG for the page: colours become the page's variables, and its style sheet, which would rule the page, goes."""
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    for place, colour in enumerate(PALETTE):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg.replace(INK, "var(--ink)").replace(FAINT, "var(--line)")
