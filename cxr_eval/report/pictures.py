"""Pictures made of arrays: grey and colour images, attribution maps as see-through layers, outlines of regions."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import contourpy
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating]

LEVELS = 32
"""Steps of a map's layer: more cannot be told apart over an X-ray and would double the file."""
CLIP = 99.5
"""Percentile of a map's size that is shown as its maximum, so that one pixel does not hide all others."""
OPAQUE = 0.85
"""Opacity of a map's maximum."""
FOR, AGAINST = ("inferno", 0.35, 0.97), ("Blues", 0.45, 1.0)
"""Colours of what speaks for the class and against it: colour map, first and last place in it; uniform to the eye."""


EXACT = 128
"""Longest side in pixels up to which a photograph keeps every grey level."""
QUALITY = 95
"""Of a larger photograph as JPEG: a fifth of the bytes and a tenth of the time of PNG, and off by a grey level or two."""
FAST = 3
"""Effort of zlib for layers, of which a gallery has thousands: a third of the time of the usual 6, a tenth more bytes."""


@dataclass(frozen=True)
class Layer:
    """One picture as a file."""

    data: bytes
    suffix: str = "png"

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        kind = "jpeg" if self.suffix == "jpg" else self.suffix
        return f"data:image/{kind};base64," + base64.b64encode(self.data).decode()

    def rgba(self) -> Image.Image:
        """The picture to be drawn over another."""
        return Image.open(io.BytesIO(self.data)).convert("RGBA")


def picture(pixels: Bytes, side: int) -> Layer:
    """An image (H, W) or (H, W, 3) uint8 with its longest side at most `side`, every level kept."""
    return _layer(_shrunk(Image.fromarray(pixels), side))


def photograph(pixels: Bytes, side: int) -> Layer:
    """The same for one of many: as JPEG where it is large enough that nobody counts its pixels."""
    image = _shrunk(Image.fromarray(pixels), side)
    if max(image.size) <= EXACT:
        return _layer(image)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return Layer(stream.getvalue(), "jpg")


def attacked(clean: Bytes, perturbation: Values, side: int) -> Layer:
    """The attacked image: clean + perturbation, in [0, 1]."""
    changed = clean + perturbation.astype(np.float32) * np.float32(255)
    return photograph(np.rint(np.clip(changed, 0, 255)).astype(np.uint8), side)


def perturbation_picture(perturbation: Values, factor: float, side: int) -> Layer:
    """A perturbation times `factor` around mid-grey; in 32 steps, for more would only make the file larger."""
    steps = np.rint(np.clip(perturbation.astype(np.float32) * np.float32(factor), -0.5, 0.5) * LEVELS)
    shades = np.rint((steps / LEVELS + 0.5) * 255).astype(np.uint8)
    return _layer(_shrunk(Image.fromarray(shades), side), compress_level=FAST)


def map_layer(values: Values, side: int) -> Layer | None:
    """A map (H, W) as a see-through layer, scaled to its own maximum; None where it says nothing (constant or not finite)."""
    values = values.astype(np.float32)
    if not says_something(values):
        return None
    size = np.abs(values)
    largest = float(np.percentile(size, CLIP)) or float(size.max())
    steps = np.clip(values / np.float32(largest), -1, 1)
    if max(steps.shape) > side:
        steps = np.clip(np.asarray(_shrunk(Image.fromarray(steps), side)), -1, 1)
    levels = np.rint(steps * (LEVELS - 1)).astype(np.int16)
    layer = Image.fromarray(np.where(levels < 0, LEVELS - 1 - levels, levels).astype(np.uint8))
    colours, opacity = _palette()
    layer.putpalette(colours)
    return _layer(layer, transparency=opacity, compress_level=FAST)


def says_something(values: Values) -> bool:
    """True if a map is finite and not constant."""
    return bool(np.isfinite(values).all() and np.ptp(values) > 0)


@cache
def _palette() -> tuple[bytes, bytes]:
    """Colours and opacities of a map's levels: what speaks for the class from nothing to all, then what speaks against it."""
    palette = np.concatenate([_ramp(*FOR, LEVELS), _ramp(*AGAINST, LEVELS)[1:]])
    return palette[:, :3].astype(np.uint8).tobytes(), palette[:, 3].astype(np.uint8).tobytes()


def gradient(*, against: bool = False) -> str:
    """A map's colours from nothing to its maximum, as CSS stops for the legend."""
    stops = _ramp(*(AGAINST if against else FOR), 9)
    return ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f} / {a / 255:.2f})" for r, g, b, a in stops)


def _ramp(name: str, first: float, last: float, count: int) -> Floats:
    """(count, 4) colours 0 to 255 with opacity growing from 0; the square root shows weak relevance too."""
    place = np.linspace(0, 1, count)
    colours: Floats = np.asarray(mpl.colormaps[name](first + (last - first) * place), dtype=np.float64) * 255
    colours[:, 3] = 255 * OPAQUE * np.sqrt(place)
    return colours


def outline(mask: npt.NDArray[np.bool_]) -> list[Floats]:
    """Borders of a mask as closed lines, each (M, 2) of x, y in pixels with (0, 0) the image's top left corner."""
    padded = np.pad(mask.astype(np.float64), 1)
    lines = contourpy.contour_generator(z=padded, line_type=contourpy.LineType.Separate).lines(0.5)
    return [_straightened(np.asarray(line, dtype=np.float64) - 0.5) for line in lines]


def path(lines: list[Floats]) -> str:
    """Closed lines as an SVG path."""
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in line) + "Z" for line in lines)


def _straightened(line: Floats) -> Floats:
    """The line without the points that lie between two others on a straight piece."""
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return line[turns] if turns.any() else line


def sheet(panels: list[list[tuple[Layer, Layer | None] | None]], lines: list[Floats], width: int, side: int) -> bytes:
    """Panels in lines and columns as one PNG, outlines drawn in; for documents that cannot lay pictures over each other.

    panels: (image, map or None), or None for an empty place. width: pixels that the outlines count in.
    """
    gap, columns = 6, max(len(line) for line in panels)
    canvas = Image.new("RGB", (columns * (side + gap) + gap, len(panels) * (side + gap) + gap), "white")
    for i, row in enumerate(panels):
        for j, panel in enumerate(row):
            if panel is None:
                continue
            base = panel[0].rgba().resize((side, side))
            if panel[1] is not None:
                base.alpha_composite(panel[1].rgba().resize((side, side)))
            draw = ImageDraw.Draw(base)
            for line in lines:
                points = [(float(x), float(y)) for x, y in np.vstack([line, line[:1]]) * side / width]
                draw.line(points, fill="black", width=3)
                draw.line(points, fill="white", width=1)
            canvas.paste(base.convert("RGB"), (gap + j * (side + gap), gap + i * (side + gap)))
    return _layer(canvas).data


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image with its longest side at most `side`."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX)


def _layer(image: Image.Image, **options: Any) -> Layer:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return Layer(stream.getvalue())
