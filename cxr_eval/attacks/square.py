"""Random squares, kept where they bring the network nearer to a wrong answer: the Square Attack, without gradients."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import margin, right
from cxr_eval.attacks.seeds import image_seeds

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the squares' share of the image is halved (section 5 of the paper)."""

TILES = 5
"""Windows along the shorter side of an image that the search in an L2 ball starts with."""

DRAWN_AHEAD = 100
"""Queries for which random numbers are drawn at once; a whole run would fill the memory."""


class Square(cxr.Attack):
    """Random search over squares (L-inf) or windows of bumps (L2) on the ball's surface; it needs no gradient.

    A change is kept if it raises the lead of a wrong answer. An image's squares follow from the seed and the image alone. It
    departs from the authors' program in two things: squares reach the last row and column too, and a square that would change
    nothing gets the opposite signs instead of newly drawn ones.
    """

    source = "Andriushchenko et al., ECCV 2020, arXiv:1912.00049, algorithms 1 to 3"
    transfers = False
    norms = ("linf", "l2")

    class Params(cxr.AttackParams):
        queries: int = cxr.Field(1000, ge=1, description="images shown to the network, for each image attacked")
        p_init: float = cxr.Field(0.8, gt=0, le=1, description="share of the image that the first squares change")

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """For each image the first wrong one found, or else the one where a wrong answer came nearest; (N, C, H, W) in [0, 1].

        An image that is wrong itself comes back as it is.
        """
        settings, images, labels = self.params, x.to(classifier.device), y.to(classifier.device)
        found = images.clone()
        if eps == 0 or len(images) == 0:
            return found
        channels = images.shape[1]
        propose = _squares if settings.norm == "linf" else _windows
        numbers = 2 + channels if settings.norm == "linf" else 5 + channels
        with cxr.frozen(classifier.model), torch.no_grad():
            left = right(classifier.model(images), labels, classifier.task).nonzero()[:, 0]
            draws = [np.random.default_rng(own) for own in image_seeds(images, seed)]
            clean, label = images[left], labels[left]
            best, highest = clean.clone(), torch.full((len(left),), -torch.inf, device=images.device)
            ahead = torch.empty(len(left), 0, numbers)
            for query in range(settings.queries):
                if len(left) == 0:
                    break
                if query == 0:
                    tried = _stripes(clean, eps, draws, left) if settings.norm == "linf" else _bumps(clean, eps, draws, left)
                else:
                    place = (query - 1) % DRAWN_AHEAD
                    if place == 0:
                        ahead = _drawn(draws, left, DRAWN_AHEAD, numbers)
                    share = _share(settings.p_init, query - 1, settings.queries)
                    tried = propose(clean, best, eps, share, ahead[:, place])
                logits = classifier.model(tried)
                lead = margin(logits, label, classifier.task)
                broken = ~right(logits, label, classifier.task)
                better = broken | (lead > highest)
                best[better], highest[better] = tried[better], lead[better]
                if broken.any():
                    found[left[broken]] = best[broken]
                    stay = ~broken
                    left, clean, label, best, highest = left[stay], clean[stay], label[stay], best[stay], highest[stay]
                    ahead = ahead[stay.cpu()]
            found[left] = best
        return found


def _share(p_init: float, iteration: int, queries: int) -> float:
    """Share of the image that one square changes."""
    scaled = int(iteration / queries * 10_000)
    return p_init * 0.5 ** sum(scaled > bound for bound in HALVINGS)


def _drawn(draws: list[np.random.Generator], left: torch.Tensor, *shape: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), (len(left), *shape), for each image from its own generator."""
    return torch.from_numpy(np.stack([draws[place].random(shape) for place in left.tolist()]))


def _signs(uniform: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0).to(x.device, x.dtype)


def _corners(uniform: torch.Tensor, room: int) -> torch.Tensor:
    """First rows (or columns) in 0..room."""
    return (uniform * (room + 1)).long()


def _covered(x: torch.Tensor, top: torch.Tensor, left: torch.Tensor, side: int) -> torch.Tensor:
    """The pixels of one square an image, bool (N, 1, H, W)."""
    rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    down = (rows >= top[:, None]) & (rows < top[:, None] + side)
    across = (columns >= left[:, None]) & (columns < left[:, None] + side)
    return (down[:, None, :, None] & across[:, None, None, :]).to(x.device)


def _stripes(clean: torch.Tensor, eps: float, draws: list[np.random.Generator], left: torch.Tensor) -> torch.Tensor:
    """Images with vertical stripes of +eps and -eps, one pixel wide."""
    signs = _signs(_drawn(draws, left, clean.shape[1], 1, clean.shape[3]), clean)
    return (clean + eps * signs).clamp(0, 1)


def _squares(clean: torch.Tensor, best: torch.Tensor, eps: float, share: float, uniform: torch.Tensor) -> torch.Tensor:
    """The best images, each with one square of +eps or -eps a channel (algorithm 2)."""
    height, width = clean.shape[2:]
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    square = _covered(clean, _corners(uniform[:, 0], height - side), _corners(uniform[:, 1], width - side), side)
    signs = _signs(uniform[:, 2:], clean)[:, :, None, None]
    tried = torch.where(square, (clean + eps * signs).clamp(0, 1), best)
    same = ((tried - best).abs() < 1e-7).flatten(1).all(dim=1)
    opposite = torch.where(square, (clean - eps * signs).clamp(0, 1), best)
    return torch.where(same[:, None, None, None], opposite, tried)


@cache
def _pyramid(height: int, width: int) -> torch.Tensor:
    """A bump of length 1, (height, width): centred rectangles that grow row by row, the n-th weighing 1 / n^2 (eq. 2)."""
    bump = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for n in range(max(height // 2 + 1, width // 2 + 1)):
        above, before = row - n, column - n
        bump[max(above, 0) : above + 2 * n + 1, max(before, 0) : before + 2 * n + 1] += 1 / (n + 1) ** 2
    normed: torch.Tensor = bump / torch.linalg.vector_norm(bump)
    return normed


@cache
def _bump(side: int) -> torch.Tensor:
    """A bump above and its negative below, of length 1, (side, side)."""
    if side == 1:
        return torch.ones(1, 1)
    both = torch.cat((_pyramid(side // 2, side), -_pyramid(side - side // 2, side)))
    normed: torch.Tensor = both / torch.linalg.vector_norm(both)
    return normed


def _turned(side: int, uniform: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Bumps (N, 1, side, side), lying or standing."""
    bump = _bump(side).to(x.device, x.dtype)
    return torch.where((uniform < 0.5).to(x.device)[:, None, None, None], bump, bump.T)


def _on_sphere(clean: torch.Tensor, change: torch.Tensor, eps: float) -> torch.Tensor:
    """Images changed as far as the radius, clipped to [0, 1]."""
    length: torch.Tensor = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    changed: torch.Tensor = (clean + eps * change / length).clamp(0, 1)
    return changed


def _bumps(clean: torch.Tensor, eps: float, draws: list[np.random.Generator], left: torch.Tensor) -> torch.Tensor:
    """Images tiled with bumps, eps away."""
    channels, height, width = clean.shape[1:]
    side = max(min(height, width) // TILES, 1)
    down, across = height // side, width // side
    top, start = (height - down * side) // 2, (width - across * side) // 2
    uniform = _drawn(draws, left, down * across, 1 + channels)
    change = torch.zeros_like(clean)
    for tile in range(down * across):
        row, column = top + tile // across * side, start + tile % across * side
        signs = _signs(uniform[:, tile, 1:], clean)[:, :, None, None]
        change[:, :, row : row + side, column : column + side] = _turned(side, uniform[:, tile, 0], clean) * signs
    return _on_sphere(clean, change, eps)


def _windows(clean: torch.Tensor, best: torch.Tensor, eps: float, share: float, uniform: torch.Tensor) -> torch.Tensor:
    """The best images, each with the change of one window moved into another (algorithm 3)."""
    channels, height, width = clean.shape[1:]
    side = max(round(math.sqrt(share * height * width)), 3) // 2 * 2 + 1
    largest = min(height, width)
    side = min(side, largest if largest % 2 else max(largest - 1, 1))
    tops, lefts = _corners(uniform[:, (0, 2)], height - side), _corners(uniform[:, (1, 3)], width - side)
    into = _covered(clean, tops[:, 0], lefts[:, 0], side)
    out_of = _covered(clean, tops[:, 1], lefts[:, 1], side)
    change = best - clean
    spent = change.square().flatten(1).sum(dim=1)[:, None, None, None]
    moved = (change * (into | out_of)).square().sum(dim=(2, 3), keepdim=True)
    budget = ((eps**2 - spent).clamp(min=0) / channels + moved).sqrt()
    image = torch.arange(len(clean))[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    rows = (tops[:, :1] + torch.arange(side))[:, None, :, None]
    columns = (lefts[:, :1] + torch.arange(side))[:, None, None, :]
    window = tuple(place.to(clean.device) for place in (image, channel, rows, columns))
    old = change[window]
    old = old / _channel_lengths(old)
    new = _turned(side, uniform[:, 4], clean) * _signs(uniform[:, 5:], clean)[:, :, None, None] + old
    new = new / _channel_lengths(new) * budget
    change = torch.where(out_of, 0, change)
    change[window] = new
    return _on_sphere(clean, change, eps)


def _channel_lengths(change: torch.Tensor) -> torch.Tensor:
    """L2 length in each channel, (N, C, 1, 1), never 0."""
    lengths: torch.Tensor = torch.linalg.vector_norm(change, dim=(2, 3), keepdim=True)
    return lengths.clamp(min=1e-10)
