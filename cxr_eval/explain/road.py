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

ROUNDS = 5000
"""Most steps of conjugate gradients; the worst hole of 64 x 64 pixels takes 250, and they grow with the width of holes."""

EVERY = 4
"""Steps from one look at the residual to the next."""


def around(u: torch.Tensor) -> torch.Tensor:
    """Sum over the 3 x 3 pixels around each inner pixel of u (..., H + 2, W + 2): 4 itself, 2 beside it, 1 at its corners."""
    # (1 2 1) is (1 1) twice, along rows and along columns
    u = u[..., 1:] + u[..., :-1]
    u = u[..., 1:] + u[..., :-1]
    u = u[..., 1:, :] + u[..., :-1, :]
    return u[..., 1:, :] + u[..., :-1, :]


def imputed(x: torch.Tensor, missing: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """x (N, C, H, W) with the missing pixels (N, H, W) at the weighted mean of their neighbours, all at once; float64.

    Neighbours at the corners weigh half of the others, those beyond the edge nothing. Conjugate gradients on all images
    together; each stops by itself, so that no image changes another. start: where they begin, such as the answer for fewer
    missing pixels; x itself by default. Some pixel must be known.
    Source: Rong et al., ICML 2022, arXiv:2202.00449 (noisy linear imputation, without the noise).
    """
    edge = torch.nn.functional.pad
    x, m = edge(x.double(), (1, 1, 1, 1)), edge(missing[:, None].double(), (1, 1, 1, 1))
    inner = (..., slice(1, -1), slice(1, -1))
    diagonal = torch.ones_like(m)
    diagonal[inner] = around(edge(torch.ones_like(m[inner]), (1, 1, 1, 1)))
    weight = diagonal - 4  # of the neighbours that there are: 12, less at the edges
    u = torch.lerp(x, x if start is None else edge(start, (1, 1, 1, 1)), m)
    rest = torch.zeros_like(u)
    rest[inner] = (around(u) - (diagonal * u)[inner]) * m[inner]
    inverse = m / weight
    direction = rest * inverse
    size = torch.linalg.vecdot(rest.flatten(2), direction.flatten(2))[..., None, None]
    moved = torch.zeros_like(u)
    for done in range(ROUNDS):
        if done % EVERY == 0:
            going = rest.abs().amax(dim=(2, 3), keepdim=True) > RESIDUAL
            if not going.any():
                break
        unsolved = going & (size > 0)  # one that is solved would divide 0 by 0
        torch.mul(diagonal, direction, out=moved)
        moved[inner].sub_(around(direction)).mul_(m[inner])
        length = torch.where(unsolved, size / torch.linalg.vecdot(direction.flatten(2), moved.flatten(2))[..., None, None], 0)
        u.addcmul_(length, direction)
        rest.addcmul_(length, moved, value=-1)
        ahead = rest * inverse
        new = torch.linalg.vecdot(rest.flatten(2), ahead.flatten(2))[..., None, None]
        direction = torch.addcmul(ahead, torch.where(unsolved, new / size, 0), direction)
        size = new
    return u[inner]


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
