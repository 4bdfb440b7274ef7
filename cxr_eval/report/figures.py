"""Curves as SVG: over the radius of attacks, the severity of corruptions, and the epochs of training."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cxr_eval.report.drawing import (
    FAINT,
    Frame,
    Stroke,
    area,
    as_file,
    limits,
    line,
    marks,
    on_page,
    published_stroke,
    shortened,
    swatch,
    ticks,
    trainer_stroke,
    unbroken,
    words,
)
from cxr_eval.report.results import WORST, Results, number, one_line
from cxr_eval.report.tables import HEADLINES, headline, spoken
from cxr_eval.report.threats import norm_of, worst_title
from cxr_eval.store import write_whole
from cxr_eval.types import format_eps

WIDTH, HEIGHT = 295.0, 216.0
"""Points; it fits a telephone."""
GRID = Stroke(FAINT, 0.6)
GREY = Stroke(FAINT, 1.0)
"""How the others are drawn behind the one that a small plot is about."""
WHOLE = ("Severity", "Epoch", "Steps", "Restarts")
"""Axes that have whole numbers only."""
NAME_LENGTH = 28
MOST_TOGETHER = 6
"""Trainers above which each gets a small plot of its own, in front of the others in grey."""
SMALL_LENGTH = 25
"""Letters of the name above a small plot."""
RADIUS = {"linf": "Radius (pixel units of [0, 1])", "l2": "Radius (length of the whole change)"}
"""What the axis of a norm says."""
COUNTED = re.compile(r"robust_after_(?P<unit>steps|restarts)\[(?P<count>\d+)\]")


@dataclass(frozen=True)
class Picture:
    """One panel: `inline` follows the page's light or dark colours, `file` stands alone with its own legend."""

    key: str
    title: str
    alt: str
    inline: str
    file: str
    keyed: bool = True
    """Trainers are told apart by the lines of the legend; not so where their names stand in the picture."""

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self.file

    def save(self, path: Path | str) -> Path:
        """Write the picture as a file that stands alone; its path.

        Raises:
            ValueError: the name does not end in .svg.
        """
        path = Path(path)
        if path.suffix != ".svg":
            raise ValueError(f"{path}: a picture is saved as SVG; choose a name that ends in .svg")
        write_whole(path, self.file.encode())
        return path


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
    return [_swatch(f"line-{style}", trainer, trainer_stroke(style)) for style, trainer in enumerate(results.trainers)]


def published_legend(results: Results) -> list[Swatch]:
    """Line of every source of published numbers."""
    sources = enumerate(results.published.sources)
    return [_swatch(f"published-{style}", source.head, published_stroke(style)) for style, source in sources]


def _swatch(key: str, name: str, stroke: Stroke) -> Swatch:
    return Swatch(key, name, on_page(swatch(stroke), 30, 12))


def robust_curves(results: Results, model: str, split: str, key: str, threat: str = WORST) -> list[Picture]:
    """Robust accuracy over the radius, one panel for a worst case and one for each of its attacks; radius 0: no attack."""
    pictures = []
    axis = RADIUS[norm_of(threat)]
    for place, (attack, series) in enumerate(results.of_threat(split, threat).items()):
        title, named = (worst_title(WORST), worst_title(threat)) if attack == threat else (attack, attack)
        steps = [(radius, condition) for radius, _, condition in series]
        at = {"model": model, "split": split, "metric": "robust_accuracy"}
        curves = score_curves(results, at, [(radius, {"condition": condition}) for radius, condition in steps])
        radii = [radius for radius, _ in steps]
        over = f"radius {format_eps(min(radii))} to {format_eps(max(radii))}"
        alt = f"{named}: robust accuracy of {model} over {over}; {ends(curves)}"
        pictures.append(panel(f"{key}-{place}", title, alt, curves, x=axis, y="Robust accuracy", fraction=True))
    return pictures


def convergence_curves(results: Results, model: str, split: str, key: str) -> list[Picture]:
    """Robust accuracy after so many steps of a search, and after so many restarts, one line a trainer; flat: converged."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for place in results.places_of(model, split):
        if counted := COUNTED.fullmatch(place["metric"]):
            found.setdefault((place["condition"], counted["unit"]), {})[int(counted["count"])] = place["metric"]
    pictures: list[Picture] = []
    for (condition, unit), metrics in found.items():
        at = {"model": model, "split": split, "condition": condition}
        curves = score_curves(results, at, [(float(count), {"metric": metrics[count]}) for count in sorted(metrics)])
        if curves:
            title = f"Radius {condition.rpartition(':')[2]}, over {unit}"
            alt = f"{title}: robust accuracy of {model} after 1 to {max(metrics)} {unit}; {ends(curves)}"
            said = {"x": unit.capitalize(), "y": "Robust accuracy"}
            pictures.append(panel(f"{key}-{len(pictures)}", title, alt, curves, **said, fraction=True))
    return pictures


def corruption_curves(results: Results, model: str, split: str, key: str) -> list[Picture]:
    """The headline score over severity, one panel a corruption; severity 0 is the clean image."""
    metric = headline(results, split)
    pictures = []
    for place, (corruption, series) in enumerate(results.corruptions(split).items()):
        steps = [(0.0, "clean"), *((severity, condition) for severity, _, condition in series)]
        at = {"model": model, "split": split, "metric": metric}
        curves = score_curves(results, at, [(severity, {"condition": condition}) for severity, condition in steps])
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
            when, _, what = measure.partition("_")
            title = f"{'Validation' if when == 'val' else 'Training'}: {spoken(what)}"
            alt = f"{title} of {model} over {max(max(c.x) for c in curves):g} epochs, {len(curves)} lines"
            pictures.append(panel(f"{key}-{len(pictures)}", title, alt, curves, x="Epoch", y=spoken(what)))
    return pictures


def score_curves(results: Results, at: Mapping[str, str], steps: Sequence[tuple[float, Mapping[str, str]]]) -> list[Curve]:
    """A line a trainer. at: what holds for all its points; steps: x of each point and what else names its number."""
    curves = []
    for style, trainer in enumerate(results.trainers):
        found = [(x, results.score(**{**at, **more, "trainer": trainer})) for x, more in steps]
        known = [(x, score) for x, score in found if score is not None and not math.isnan(score.value)]
        if known:
            x, scores = zip(*known, strict=True)
            y, low, high = (tuple(getattr(score, end) for score in scores) for end in ("value", "low", "high"))
            curves.append(Curve(style, trainer, x, y, low, high))
    return curves


def ends(curves: Sequence[Curve]) -> str:
    """Where each curve starts and ends, in words."""
    return ", ".join(f"{curve.name} from {number(curve.y[0])} to {number(curve.y[-1])}" for curve in curves)


def panel(key: str, title: str, alt: str, curves: Sequence[Curve], *, x: str, y: str, fraction: bool = False) -> Picture:
    """Curves in one frame, or in a small frame a trainer where there are many; `fraction`: y runs from 0 to 1."""
    if len({curve.style for curve in curves if not curve.published}) > MOST_TOGETHER:
        return _small_panels(key, title, alt, curves, x=x, y=y, fraction=fraction)
    grey = x == RADIUS["linf"]
    frame = replace(_frame(curves, fraction), left=42, top=38 if grey else 9, right=WIDTH - 9, bottom=HEIGHT - 36)
    drawn = [axes(frame, x, _first_large(y), _levels(frame, fraction)), grey_levels(frame) if grey else ""]
    drawn += [_band(frame, curve) for curve in curves]
    drawn += [_line(frame, curve) for curve in curves]
    body = "".join(drawn)
    names = dict.fromkeys((one_line(curve.name, NAME_LENGTH), _stroke(curve)) for curve in curves)
    alone = as_file(body, WIDTH, HEIGHT, one_line(title, NAME_LENGTH), list(names))
    return Picture(key, title, alt, on_page(body, WIDTH, HEIGHT), alone)


def _small_panels(
    key: str, title: str, alt: str, curves: Sequence[Curve], *, x: str, y: str, fraction: bool = False
) -> Picture:
    """A small frame a trainer, two beside each other: its curves and the published ones, before all others in grey."""
    styles = list(dict.fromkeys(curve.style for curve in curves if not curve.published))
    ends = _frame(curves, fraction)
    wide, high, left, gap = 118.0, 82.0, 40.0, 34.0
    rows = math.ceil(len(styles) / 2)
    height = rows * (high + gap) + 20
    drawn = []
    heads = {curve.style: curve.name for curve in curves if not curve.published}
    short = shortened([heads[style] for style in styles], SMALL_LENGTH)
    for place, style in enumerate(styles):
        column, row = place % 2, place // 2
        frame = replace(
            ends,
            left=left + column * (wide + 12),
            right=left + column * (wide + 12) + wide,
            top=17 + row * (high + gap),
            bottom=17 + row * (high + gap) + high,
        )
        lowest = place + 2 >= len(styles)
        drawn.append(axes(frame, "", "", _levels(frame, fraction, most=3), said=(column == 0, lowest), whole=x in WHOLE))
        mine = [curve for curve in curves if curve.style == style and not curve.published]
        others = [curve for curve in curves if curve.published or curve.style != style]
        drawn += [_line(frame, curve, GREY) for curve in others if not curve.published]
        drawn += [_line(frame, curve) for curve in others if curve.published]
        drawn += [_band(frame, curve) for curve in mine] + [_line(frame, curve) for curve in mine]
        drawn += [marks([(frame.left + 4, frame.top - 8)], _stroke(mine[0]))]
        drawn += [words(frame.left + 11, frame.top - 5, short[place], anchor="start", more=' font-size="8"')]
    drawn.append(words(left + wide + 6, height - 6, x))
    drawn.append(words(9, 17 + (rows * (high + gap) - gap) / 2, _first_large(y), upwards=True))
    body = "".join(drawn)
    names = dict.fromkeys((one_line(curve.name, NAME_LENGTH), _stroke(curve)) for curve in curves if curve.published)
    alone = as_file(body, WIDTH, height, one_line(title, NAME_LENGTH), list(names))
    return Picture(key, title, alt, on_page(body, WIDTH, height), alone, keyed=bool(names))


def _frame(curves: Sequence[Curve], fraction: bool) -> Frame:
    """A frame for all curves, whose place is still to be said."""
    across = limits(value for curve in curves for value in curve.x)
    up = (-0.02, 1.02) if fraction else limits(v for curve in curves for v in (*curve.y, *curve.low, *curve.high))
    return Frame(0, 0, 1, 1, across, up)


def _levels(frame: Frame, fraction: bool, *, most: int = 5) -> list[tuple[float, str]]:
    """Values of y that have a line."""
    if not fraction:
        return ticks(*frame.y, most=most)
    return [(0.25 * k, f"{0.25 * k:.2f}") for k in range(0, 5, 1 if most > 4 else 2)]


def _first_large(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stroke(curve: Curve) -> Stroke:
    return published_stroke(curve.style) if curve.published else trainer_stroke(curve.style)


def axes(
    frame: Frame,
    x: str,
    y: str,
    levels: Sequence[tuple[float, str]],
    *,
    said: tuple[bool, bool] = (True, True),
    whole: bool = False,
) -> str:
    """Lines at the levels of y, two sides of the frame, round numbers along x, and what the axes say.

    said: whether the levels, and the numbers along x, are written.
    """
    drawn = []
    for value, text in levels:
        _, height = frame.at(frame.x[0], value)
        drawn.append(line([(frame.left, height), (frame.right, height)], GRID))
        drawn += [words(frame.left - 4, height + 3, text, anchor="end")] if said[0] else []
    corner = [(frame.left, frame.top), (frame.left, frame.bottom), (frame.right, frame.bottom)]
    drawn.append(line(corner, Stroke(FAINT, 0.8)))
    wide = frame.right - frame.left
    for value, text in ticks(*frame.x, whole=whole or x in WHOLE, most=5 if wide > 150 else 3) if said[1] else ():
        drawn.append(words(frame.at(value, frame.y[0])[0], frame.bottom + 12, text))
    if x:
        drawn.append(words((frame.left + frame.right) / 2, frame.bottom + 27, x))
    if y:
        drawn.append(words(10, (frame.top + frame.bottom) / 2, y, upwards=True))
    return "".join(drawn)


def grey_levels(frame: Frame) -> str:
    """Radii above the frame in grey levels."""
    low, high = (255 * end for end in frame.x)
    levels = [words(frame.at(value / 255, frame.y[0])[0], frame.top - 6, said) for value, said in ticks(low, high)]
    return "".join([*levels, words((frame.left + frame.right) / 2, frame.top - 21, "Radius in grey levels of 255")])


def _line(frame: Frame, curve: Curve, stroke: Stroke | None = None) -> str:
    stroke = stroke or _stroke(curve)
    runs = unbroken(curve.x, curve.y)
    marked = [k for run in runs for k in run if curve.mark is None or curve.x[k] == curve.mark]
    lines = (line([frame.at(curve.x[k], curve.y[k]) for k in run], stroke) for run in runs)
    return "".join(lines) + marks((frame.at(curve.x[k], curve.y[k]) for k in marked), stroke)


def _band(frame: Frame, curve: Curve) -> str:
    if not curve.low:
        return ""
    outlines = [
        [frame.at(curve.x[k], curve.high[k]) for k in run] + [frame.at(curve.x[k], curve.low[k]) for k in reversed(run)]
        for run in unbroken(curve.x, curve.low, curve.high)
    ]
    return "".join(area(outline, _stroke(curve).colour, 0.13) for outline in outlines)
