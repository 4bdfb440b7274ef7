"""Lines, markers, words and axes as SVG text: once in the page's own colours, once as a file that stands alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count, groupby, takewhile

from cxr_eval.report.results import one_line

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000")
"""Okabe and Ito's colours for the colour-blind, without black and yellow, which vanish on one of the two grounds."""
INK, FAINT = "#1b1f24", "#c9ced6"
HEAT = ("#f2f7fb", "#dceaf5", "#c1dbee", "#9fc8e4", "#78b0d6", "#4e94c4", "#2b77ad", "#125c92", "#04406b")
"""One blue from light to dark, for numbers from low to high; the dark page has them the other way round."""
ON_HEAT = ("#0b0e12", "#0b0e13", "#fdfefe")
"""Letters on the light end, in the middle and on the dark end; three colours, since the dark page changes them apart."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
LETTERS = 9.0
"""Height of the letters in points."""
MARKERS = (
    "M-2.3 0a2.3 2.3 0 1 0 4.6 0a2.3 2.3 0 1 0-4.6 0z",  # disc
    "M-2.2-2.2h4.4v4.4h-4.4z",  # square
    "M0-2.7L2.6 2.2H-2.6z",  # upwards
    "M0-3L3 0L0 3L-3 0z",  # diamond
    "M0 2.7L2.6-2.2H-2.6z",  # downwards
    "M-.9-2.6h1.8v1.7h1.7v1.8h-1.7v1.7h-1.8v-1.7h-1.7v-1.8h1.7z",  # plus
    "M-2.5-1.3L-1.3-2.5L0-1.2L1.3-2.5L2.5-1.3L1.2 0L2.5 1.3L1.3 2.5L0 1.2L-1.3 2.5L-2.5 1.3L-1.2 0z",  # cross
)
"""Outlines around the origin, in points."""
DASHES = ((), (5.0, 1.5), (1.5, 1.2), (6.0, 1.5, 1.5, 1.5))
PUBLISHED = ((4.0, 3.0), (1.0, 1.6), (8.0, 2.0))
"""Dashes of published curves, in the colour of the text and without markers."""
MOST_LETTERS = 22
"""Names in the legend of a file above which it has one column instead of two."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Stroke:
    """How a line is drawn."""

    colour: str = INK
    width: float = 1.7
    dash: Sequence[float] = ()
    """Lengths of dashes and gaps, in widths of the line."""
    marker: str = ""
    """Outline drawn at its points."""
    opacity: float = 1.0

    @property
    def said(self) -> str:
        """Attributes of a path."""
        dash = f' stroke-dasharray="{" ".join(_short(part * self.width) for part in self.dash)}"' if self.dash else ""
        faint = f' stroke-opacity="{_short(self.opacity)}"' if self.opacity < 1 else ""
        return f'fill="none" stroke="{self.colour}" stroke-width="{_short(self.width)}"{dash}{faint}'


def trainer_stroke(place: int) -> Stroke:
    """Line, colour and marker of a trainer, by its place in the protocol."""
    colours = len(PALETTE)
    # where colours begin again markers are shifted by one, so that a marker tells trainers apart where no line does
    marker = MARKERS[(place + place // colours) % len(MARKERS)]
    return Stroke(PALETTE[place % colours], dash=DASHES[place % len(DASHES)], marker=marker)


def published_stroke(place: int) -> Stroke:
    """Line of a source of published numbers, by its place among them."""
    return Stroke(INK, 1.3, PUBLISHED[place % len(PUBLISHED)])


@dataclass(frozen=True)
class Frame:
    """Where a plot stands, in points from the upper left corner, and which values its edges have."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    """Values at the left and the right edge."""
    y: tuple[float, float]
    """Values at the lower and the upper edge."""

    def at(self, x: float, y: float) -> Point:
        """Place of a value; one outside of the frame stands on its edge."""
        across, up = (
            min(1.0, max(0.0, (value - low) / (high - low))) for value, (low, high) in ((x, self.x), (y, self.y))
        )  # fmt: skip
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def limits(values: Iterable[float], margin: float = 0.05) -> tuple[float, float]:
    """Ends of an axis that holds all values that are numbers, with a margin; (0, 1) where there are none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = (high - low) * margin if high - low > 1e-9 * max(abs(low), abs(high)) else max(abs(low) * margin, margin)
    return low - room, high + room


def ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[tuple[float, str]]:
    """Round numbers from low to high, at most `most` steps apart, each as it is written.

    Raises:
        ValueError: low is not below high.
    """
    if not low < high:
        raise ValueError(f"ticks: expected low < high, got {low} and {high}")
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(part * power for part in (1, 2, 5, 10) if part * power >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    values = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    largest = max(map(abs, values), default=0.0)
    place = math.floor(math.log10(step) + 1e-9)
    if step < 1e-5 or largest >= 1e6:
        digits = max(0, math.floor(math.log10(largest) + 1e-9) - place) if largest else 0
        return [(value, f"{value:.{digits}e}".replace("-", "\u2212")) for value in values]
    return [(value, f"{value + 0.0:.{max(0, -place)}f}".replace("-", "\u2212")) for value in values]


def words(
    x: float, y: float, said: str, *, anchor: str = "middle", upwards: bool = False, more: str = "", colour: str = INK
) -> str:
    """Text whose baseline is at (x, y)."""
    turned = f' transform="rotate(-90 {_short(x)} {_short(y)})"' if upwards else ""
    return (
        f'<text x="{_short(x)}" y="{_short(y)}" text-anchor="{anchor}" fill="{colour}"{turned}{more}>'
        f"{escape(one_line(said))}</text>"
    )


def line(points: Sequence[Point], stroke: Stroke) -> str:
    """A line through points, without its markers."""
    return f'<path d="{_through(points)}" {stroke.said}/>' if len(points) > 1 else ""


def marks(points: Iterable[Point], stroke: Stroke, size: float = 1.0) -> str:
    """The stroke's marker at each point, so many times as large."""
    if not stroke.marker:
        return ""
    larger = f" scale({_short(size)})" if size != 1 else ""
    return "".join(
        f'<path d="{stroke.marker}" fill="{stroke.colour}" transform="translate({_short(x)} {_short(y)}){larger}"/>'
        for x, y in points
    )


def area(points: Sequence[Point], colour: str, opacity: float) -> str:
    """A filled outline without a line."""
    return f'<path d="{_through(points)}z" fill="{colour}" fill-opacity="{_short(opacity)}"/>'


def box(x: float, y: float, width: float, height: float, colour: str, more: str = "") -> str:
    """A filled rectangle, by its upper left corner."""
    size = f'width="{_short(width)}" height="{_short(height)}"'
    return f'<rect x="{_short(x)}" y="{_short(y)}" {size} fill="{colour}"{more}/>'


def heat(share: float) -> tuple[str, str]:
    """Ground and letters of a cell whose number stands at a share from 0 to 1 of the scale."""
    place = min(len(HEAT) - 1, max(0, math.floor(share * len(HEAT))))
    return HEAT[place], ON_HEAT[place // 3]


def unbroken(x: Sequence[float], *series: Sequence[float]) -> list[list[int]]:
    """Runs of places at which every series is a number: where one is not, a line has a gap."""
    known = [(k, all(map(math.isfinite, at))) for k, at in enumerate(zip(x, *series, strict=True))]
    return [[k for k, _ in run] for there, run in groupby(known, key=lambda pair: pair[1]) if there]


def shortened(names: Sequence[str], limit: int) -> list[str]:
    """Names of at most so many letters, and no two alike that were not.

    Where cut names would be alike, all that are too long lose the words that they begin with together, and where that is not
    enough their ends are numbered.
    """
    whole = [one_line(name) for name in names]
    short = [one_line(name, limit) for name in whole]
    if len(set(short)) == len(set(whole)):
        return short
    long = {name for name in whole if len(name) > limit}
    shared = sum(1 for _ in takewhile(lambda at: len(set(at)) == 1, zip(*long, strict=False)))
    first = next(iter(long))[:shared]
    start = max((first.rfind(end) + 1 for end in " =(,[/"), default=0)
    short = [
        one_line("…" + name[start:], limit) if name in long and start else cut for name, cut in zip(whole, short, strict=True)
    ]
    alike = [
        k
        for k, name in enumerate(whole)
        if any(cut == short[k] and other != name for cut, other in zip(short, whole, strict=True))
    ]
    numbered: dict[str, str] = {}
    for k in alike:
        tries = (f" {number}" for number in count(k + 1))
        cuts = (short[k][: limit - len(number)] + number for number in tries)
        taken = {*short, *numbered.values()}
        numbered.setdefault(whole[k], next(cut for cut in cuts if cut not in taken))
    short = [numbered.get(name, cut) for name, cut in zip(whole, short, strict=True)]
    return short


def swatch(stroke: Stroke) -> str:
    """A short piece of a line, for legends: 30 wide and 12 high, in points."""
    return line([(0.5, 6), (29.5, 6)], stroke) + marks([(15, 6)], stroke)


def on_page(body: str, width: float, height: float) -> str:
    """The drawing for the page: colours become the page's variables."""
    for place, colour in enumerate(PALETTE):
        body = body.replace(f'"{colour}"', f'"var(--series-{place})"')
    for place, colour in enumerate(HEAT):
        body = body.replace(f'"{colour}"', f'"var(--heat-{place},{colour})"')
    for name, colour in zip(("low", "middle", "high"), ON_HEAT, strict=True):
        body = body.replace(f'"{colour}"', f'"var(--on-heat-{name},{colour})"')
    body = body.replace(f'"{INK}"', '"var(--ink)"').replace(f'"{FAINT}"', '"var(--line)"')
    return f"{_svg(0, width, height)}{body}</svg>"


def as_file(body: str, width: float, height: float, title: str, names: Sequence[tuple[str, Stroke]]) -> str:
    """The drawing with its title above and its legend below, on white."""
    columns = 2 if all(len(name) <= MOST_LETTERS for name, _ in names) else 1
    above, lines = 20.0, math.ceil(len(names) / columns)
    below = 6.0 + 14.0 * lines if names else 0.0
    legend = "".join(
        f'<g transform="translate({_short(12 + width * (k % columns) / 2)} {_short(height + 14 * (k // columns))})">'
        f"{swatch(stroke)}{words(36, 9, name, anchor='start')}</g>"
        for k, (name, stroke) in enumerate(names)
    )
    ground = f'<rect y="{-above:g}" width="{_short(width)}" height="{_short(height + above + below)}" fill="#ffffff"/>'
    head = words(width / 2, -7, title, more=' font-weight="600" font-size="10"')
    return f"{_svg(-above, width, height + above + below)}{ground}{head}{body}{legend}</svg>\n"


def _svg(top: float, width: float, height: float) -> str:
    wide, high = _short(width), _short(height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}pt" height="{high}pt" viewBox="0 {top:g} {wide} {high}"'
        f' font-family="{FONT}" font-size="{LETTERS:g}" stroke-linejoin="round">'
    )


def _through(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points)


def _short(value: float) -> str:
    """Two decimals, which is finer than any screen shows."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
