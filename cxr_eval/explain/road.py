"""ROAD: whether the network still says the class when its most relevant pixels are guessed from their surroundings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import field_validator

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import FloatArray, MapParams, Sign, chunks, device_of, informative, prepared
from cxr_eval.explain.removal import ORDER, PASSES, FaithfulnessMetric, turns

RESIDUAL = 1e-6
"""Where the linear system, of weights 1 and 2, counts as solved: largest residual; grey values are then right to 0.00001."""

FALL = 1e-4
"""Share of the residual that a solution in float32 may leave, well above its rounding; the next round takes up the rest."""

ROUNDS, STEPS = 100, 1000
"""Most solutions in float32, two or three being usual, and most steps of each, 20 being usual however wide the holes."""

EVERY = 2
"""Steps from one look at the residual to the next."""

WIDTHS = (4, 16, 64, 256)
"""Pixels from hat to hat; a line of less than two of them has no hats of that width."""


def around(u: torch.Tensor) -> torch.Tensor:
    """Sum over the 3 x 3 pixels around each inner pixel of u (..., H + 2, W + 2): 4 itself, 2 beside it, 1 at its corners."""
    # (1 2 1) is (1 1) twice, along rows and along columns
    u = u[..., 1:] + u[..., :-1]
    u = u[..., 1:] + u[..., :-1]
    u = u[..., 1:, :] + u[..., :-1, :]
    return u[..., 1:, :] + u[..., :-1, :]


def edged(u: torch.Tensor) -> torch.Tensor:
    """u (..., H, W) with a border of one black pixel."""
    return torch.nn.functional.pad(u, (1, 1, 1, 1))


def dot(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Sum of products over the pixels of each channel, (N, C, 1, 1)."""
    return (u * v).sum(dim=(2, 3), keepdim=True)


def hats(pixels: int) -> torch.Tensor:
    """Functions on a line, (pixels, functions): 1 in one place, straight down to 0 at the next ones, of every width."""
    place = torch.arange(pixels) + 0.5
    found = [torch.zeros(pixels, 0)]
    for count in (round(pixels / width) for width in WIDTHS if pixels >= 2 * width):
        tops = (torch.arange(count) + 0.5) * (pixels / count)
        inside = place.clamp(tops[0], tops[-1])  # flat from the last hat to the edge
        found.append((1 - (inside[:, None] - tops).abs() * (count / pixels)).clamp(min=0))
    return torch.cat(found, dim=1)


def energies(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """u A u of each product u of two hats, A being the system of an image without known pixels, (row hats, column hats)."""

    def line(u: torch.Tensor) -> torch.Tensor:
        u = torch.nn.functional.pad(u, (0, 0, 1, 1))
        return u[:-2] + 2 * u[1:-1] + u[2:]

    sides = (rows, columns)
    own = [(line(torch.ones_like(u[:, :1])) * u * u).sum(dim=0) for u in sides]
    both = [(u * line(u)).sum(dim=0) for u in sides]
    return own[0][:, None] * own[1] - both[0][:, None] * both[1]


class Holes:
    """The linear systems of the missing pixels, one an image, and approximate solutions of them in float32.

    Conjugate gradients on all images together, each of which stops by itself. The preconditioner adds hats of several widths
    to the inverse of the diagonal, so that wide holes hardly take more steps than narrow ones.
    Source: Bramble, Pasciak and Xu, Mathematics of Computation 1990, 55:1-22 (parallel multilevel preconditioners).
    """

    def __init__(self, missing: torch.Tensor, diagonal: torch.Tensor) -> None:
        """missing: (N, 1, H, W). diagonal: what `around` says of an image of ones, (1, 1, H, W)."""
        self.missing, self.diagonal = missing.float(), diagonal.float()
        self.inverse = self.missing / (self.diagonal - 4)
        self.rows, self.columns = (hats(size).to(missing.device) for size in missing.shape[2:])
        known = self.missing * (self.diagonal - around(edged(self.missing)))  # weights of the known neighbours
        alone = energies(self.rows, self.columns)
        energy = alone + self.rows.square().T @ known @ self.columns.square()
        # 1 / energy, less where known pixels are scattered below the hat: single pixels do there, and hats would only hinder
        self.share = alone / energy.square()

    def preconditioned(self, rest: torch.Tensor) -> torch.Tensor:
        """A rough solution for rest (N, C, H, W), 0 at known pixels."""
        coarse = (self.rows.T @ rest @ self.columns).mul_(self.share)
        return (rest * self.inverse).addcmul_(self.missing, self.rows @ coarse @ self.columns.T)

    def solved(self, rest: torch.Tensor, enough: torch.Tensor) -> torch.Tensor:
        """What to add to grey values to bring the residual from rest (N, C, H, W) below enough (N, C, 1, 1)."""
        found = torch.zeros_like(rest)
        ahead = self.preconditioned(rest)
        size = dot(rest, ahead)
        border = edged(ahead)
        direction = border[..., 1:-1, 1:-1]
        for done in range(STEPS):
            if done % EVERY == 0:
                going = rest.abs().amax(dim=(2, 3), keepdim=True) > enough
                if not going.any():
                    break
            unsolved = going & (size > 0)  # one that is solved would divide 0 by 0
            moved = around(border).addcmul_(self.diagonal, direction, value=-1).mul_(self.missing)
            length = torch.where(unsolved, size / dot(direction, moved), 0)  # below 0, as moved is minus A times direction
            found.addcmul_(length, direction, value=-1)
            rest = rest.addcmul(length, moved, value=-1)
            ahead = self.preconditioned(rest)
            new = dot(rest, ahead)
            direction.mul_(torch.where(unsolved, new / size, 0)).add_(ahead)
            size = new
        return found


def imputed(x: torch.Tensor, missing: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """x (N, C, H, W) with the missing pixels (N, H, W) at the weighted mean of their neighbours, all at once; float64.

    Neighbours at the corners weigh half of the others, those beyond the edge nothing. Solved in float32 again and again for
    the residual in float64; an image that is solved stays as it is. start: where to begin, such as the answer for fewer
    missing pixels; x itself by default. Some pixel must be known.
    Source: Rong et al., ICML 2022, arXiv:2202.00449 (noisy linear imputation, without the noise).
    """
    x, missing = x.double(), missing[:, None]
    diagonal = around(edged(torch.ones_like(x[:1, :1])))
    holes = Holes(missing, diagonal)
    u = torch.where(missing, x if start is None else start, x)
    for _ in range(ROUNDS):
        rest = around(edged(u)).addcmul_(diagonal, u, value=-1).mul_(missing)
        largest = rest.abs().amax(dim=(2, 3), keepdim=True)
        if not (largest > RESIDUAL).any():
            break
        # a little below the limit: float32 is not sure where it stands
        u += holes.solved(rest.float(), (largest * FALL).clamp(min=0.7 * RESIDUAL).float())
    return u


class ROAD(FaithfulnessMetric):
    """Share of the steps at which the network still says the class while its most relevant pixels are guessed; lower is better.

    At each step a larger share of the pixels is replaced by what their surroundings suggest, plus a little noise, the same for
    every image, clipped to [0, 1]. The mean over images is the mean of the accuracies that Quantus gives, one a percentage.
    The class counts as said where it has the largest output, or for findings that do not exclude each other a probability
    above one half. Costs one forward pass a percentage.
    Source: Rong et al., ICML 2022, arXiv:2202.00449, ROAD, most relevant first.
    """

    source = "Rong et al., ICML 2022, arXiv:2202.00449, ROAD, most relevant first, mean over percentages"
    better = "lower"
    unit = "fraction"
    name = "road"
    quantus_name = "ROAD"

    class Params(MapParams):
        sign: Sign = cxr.Field("signed", description=ORDER)
        percentages: cxr.Whole = cxr.Field(
            (10, 20, 30, 40, 50, 60, 70, 80, 90), description="per cent of the pixels replaced, 1 to 99, one forward pass each"
        )
        noise: float = cxr.Field(
            0.01, ge=0, description="standard deviation of the noise, pixel units of [0, 1] (the paper: 0.01)"
        )

        @field_validator("percentages")
        @classmethod
        def _some_stay(cls, percentages: tuple[int, ...]) -> tuple[int, ...]:
            if wrong := [p for p in percentages if not 1 <= p <= 99]:
                raise ValueError(f"{wrong[0]} is not a per cent from 1 to 99")
            if len(set(percentages)) < len(percentages):
                raise ValueError("a per cent is listed twice")
            return tuple(sorted(percentages))

    params: Params

    def hits(self, explained: cxr.Explained) -> FloatArray:
        """Whether the network says the class at each percentage, from small to large, 1 or 0, (N, percentages)."""
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        pixels = maps.shape[1] * maps.shape[2]
        order = turns(maps, explained.seed)
        device = device_of(explained.model)
        noise = np.random.RandomState(explained.seed).standard_normal(explained.x.shape[1:]) * self.params.noise
        noisy = torch.from_numpy(noise).to(device)
        found = np.full((len(maps), len(self.params.percentages)), np.nan)
        with cxr.frozen(explained.model), torch.no_grad():
            for index in chunks(rows):
                x = torch.from_numpy(explained.x[index]).to(device)
                turn = torch.from_numpy(order[index]).to(device)
                target = torch.from_numpy(explained.target[index]).to(device)
                filled = x.double()
                together = max(1, PASSES // len(index))
                for first in range(0, len(self.params.percentages), together):
                    seen = []
                    for percentage in self.params.percentages[first : first + together]:
                        missing = turn < int(pixels * percentage / 100)
                        filled = imputed(x, missing, filled)
                        seen.append((filled + noisy * missing[:, None]).clamp(0, 1).float())
                    told = said(explained.model(torch.cat(seen)), target.repeat(len(seen)), explained.task)
                    found[index, first : first + len(seen)] = told.view(len(seen), -1).T.cpu().numpy()
        return found

    def scores(self, explained: cxr.Explained) -> FloatArray:
        return np.asarray(self.hits(explained).mean(axis=1), dtype=np.float64)

    def budget_for(self, pixels: int) -> Mapping[str, object]:
        return {"percentages": list(self.params.percentages)}


def said(logits: torch.Tensor, target: torch.Tensor, task: cxr.Task) -> torch.Tensor:
    """Whether the class is said, bool (N,): by the largest of the logits (N, K), or by its own above 0."""
    if task == "multiclass":
        return logits.argmax(dim=1) == target
    return logits.gather(1, target[:, None])[:, 0] > 0
