"""What hides anatomy: borders of the collimator, and letters."""

from __future__ import annotations

import math

import torch

from cxr_eval.attacks.corruptions.single import SingleImage, either, uniform

COLLIMATED = (0.05, 0.10, 0.15, 0.20, 0.25)
"""Shares of the picture that are black, by severity; ours. 5 % are borders that many radiographs have; at 25 % the window that
is left has 87 % of each side, as much as a chest fills."""

LABEL_HEIGHT = (0.06, 0.09, 0.12, 0.16, 0.20)
"""Heights of the label as shares of the shorter side, by severity; ours. The letter takes 7/9 of it: from 1.5 cm of a chest, as
lead letters have, to one that reaches from the corner over the shoulder."""

LETTERS = {
    "L": ("X....", "X....", "X....", "X....", "X....", "X....", "XXXXX"),
    "R": ("XXXX.", "X...X", "X...X", "XXXX.", "X.X..", "X..X.", "X...X"),
}
"""Strokes of the letters, 7 rows of 5."""

_MARGIN = 0.03
"""Distance of the label from the edges, as a share of the shorter side."""


class Collimation(SingleImage):
    """Black borders with straight edges around a window of the picture's own shape; where it lies follows from the image.

    At severity 5 the window has 87 % of each side: the middle of the chest is untouched, up to 13 % are hidden at one side, so
    that a shoulder, a lateral lung edge or a costophrenic angle may be lost.
    """

    source = "borders that a collimator leaves; shares 0.05, 0.10, 0.15, 0.20, 0.25 of the picture are ours"

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture inside the window, black outside."""
        side = math.sqrt(1 - COLLIMATED[severity - 1])
        height, width = (max(1, round(side * length)) for length in image.shape[-2:])
        top = round(uniform(rng) * (image.shape[-2] - height))
        left = round(uniform(rng) * (image.shape[-1] - width))
        seen = torch.zeros_like(image)
        seen[:, top : top + height, left : left + width] = image[:, top : top + height, left : left + width]
        return seen


class Marker(SingleImage):
    """A white letter on a black label in an upper corner: R at the left, as a film is hung, or L at the right, each by half.

    At severity 5 the label takes 20 % of the shorter side and hides a shoulder, the lateral end of a clavicle and perhaps the
    outermost apex; everything else is untouched.
    """

    source = (
        "markers as shortcuts: DeGrave et al., Nature Machine Intelligence 2021, doi:10.1038/s42256-021-00338-7; sizes ours"
    )

    def change(self, image: torch.Tensor, *, severity: int, rng: torch.Generator) -> torch.Tensor:
        """The picture with the label on it."""
        height, width = image.shape[-2:]
        shorter = min(height, width)
        at_left = either(rng) > 0
        sticker = label("R" if at_left else "L", round(LABEL_HEIGHT[severity - 1] * shorter))
        margin = min(round(_MARGIN * shorter), height - sticker.shape[0], width - sticker.shape[1])
        left = margin if at_left else width - margin - sticker.shape[1]
        marked = image.clone()
        marked[:, margin : margin + sticker.shape[0], left : left + sticker.shape[1]] = sticker
        return marked


def label(name: str, height: int) -> torch.Tensor:
    """The white letter L or R on black with one stroke's width of ground around it, (height, 7/9 of it) in [0, 1].

    Each side has at least 1 pixel; a pixel has the share of it that is white, so that no stroke is lost in a small label.
    """
    strokes = torch.tensor([[float(mark == "X") for mark in row] for row in LETTERS[name]])
    cells = torch.nn.functional.pad(strokes, (1, 1, 1, 1))
    rows, columns = (_shares(max(1, round(height * length / 9)), length) for length in cells.shape)
    return rows @ cells @ columns.T


def _shares(pixels: int, cells: int) -> torch.Tensor:
    """Share of each pixel that each cell takes, (pixels, cells), where both divide one length evenly; rows add up to 1."""
    pixel = torch.arange(pixels)[:, None] * cells / pixels
    cell = torch.arange(cells)
    ends = torch.minimum(pixel + cells / pixels, cell + 1)
    return (ends - torch.maximum(pixel, cell)).clamp(min=0) * pixels / cells
