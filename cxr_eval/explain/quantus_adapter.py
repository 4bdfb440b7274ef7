"""Scores by Quantus 0.6, image by image; the only file that imports it and knows what is wrong in it.

What is neutralised here, so that an image's score is its own (docs/methods.md lists it):

- normalisation divides by the maximum of the whole batch: maps come prepared (`prepared`) and Quantus is told to leave them;
- `abs` and `softmax` have a different default in each metric: signs and outputs are settled before Quantus sees anything;
- one constant, empty or all-negative batch raises: undefined maps are taken out first, a sentinel keeps the rest going;
- perturbations draw from numpy's global generator for the whole batch: ours draw the same for every image, from the seed;
- baselines such as `mean` drift while pixels are replaced, and colour channels of one pixel are replaced apart: Quantus
  perturbs a mask of which pixels are present, and `Presence` fills the absent ones;
- the area under a curve calls np.trapz, which numpy 2.4 no longer has: curves are asked for and integrated by us;
- attributions are changed in place: Quantus gets copies; global random states are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)
Sign = Literal["positive", "absolute", "signed"]
Output = Literal["probability", "logit"]
Fill = Literal["black", "mean", "white"]

IMAGES = 32
"""Images in one call; bounds the memory, changes no number."""


class MapParams(cxr.Params):
    """The setting that every explanation metric has."""

    sign: Sign = cxr.Field(
        "absolute", description="signed maps: positive (below 0 counts as 0), absolute (size), signed (as the method made it)"
    )


def settled(maps: npt.NDArray[Any], sign: Sign) -> FloatArray:
    """A float64 copy of maps (N, H, W) with signs as the setting says."""
    a: FloatArray = np.array(maps, dtype=np.float64)
    if sign == "positive":
        a[a < 0] = 0
    elif sign == "absolute":
        np.absolute(a, out=a)
    return a


def prepared(maps: npt.NDArray[Any], sign: Sign) -> FloatArray:
    """A copy of maps (N, H, W), signs settled, each divided by its own largest size; an all-zero map stays zero."""
    a = settled(maps, sign)
    largest = np.abs(a).max(axis=(1, 2), keepdims=True, initial=0)
    usable = np.isfinite(largest) & (largest > 0)
    np.divide(a, largest, out=a, where=usable)
    return a


def informative(maps: npt.NDArray[Any]) -> BoolArray:
    """Which of the maps (N, H, W) say anything, (N,): finite and not the same everywhere."""
    finite = np.isfinite(maps).all(axis=(1, 2))
    differs = (maps != maps[:, :1, :1]).any(axis=(1, 2))
    return np.asarray(finite & differs, dtype=bool)


def in_rows(maps: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Maps (N, H, W) as rows (N, H x W), also where N is 0."""
    return maps.reshape(len(maps), maps.shape[1] * maps.shape[2])


def spread(scores: npt.ArrayLike, rows: BoolArray) -> FloatArray:
    """Scores of the images in `rows` put in their place among all, (N,); NaN elsewhere."""
    values = np.full(len(rows), np.nan)
    values[rows] = scores
    return values


def chunks(rows: BoolArray) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the chosen images, at most `IMAGES` at a time."""
    index = np.flatnonzero(rows)
    yield from (index[start : start + IMAGES] for start in range(0, len(index), IMAGES))


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the network's weights are; the CPU for one without weights."""
    weight = next(model.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def filling(x: npt.NDArray[np.float32], fill: Fill) -> npt.NDArray[np.float32]:
    """What stands where a pixel is taken away, shaped like x (N, C, H, W): 0, 1, or the image's own mean a channel."""
    if fill == "mean":
        return np.broadcast_to(x.mean(axis=(2, 3), keepdims=True), x.shape)
    return np.full_like(x, 0.0 if fill == "black" else 1.0)


class Presence(torch.nn.Module):
    """From a mask (N, 1, H, W) of present pixels to outputs (N, K) for x with the absent pixels filled.

    The network is held by its call alone: as a submodule, Quantus would search it for softmax layers and replace them.
    """

    def __init__(
        self, model: torch.nn.Module, x: npt.NDArray[np.float32], *, fill: Fill, output: Output, task: cxr.Task
    ) -> None:
        super().__init__()
        self.call: Callable[[torch.Tensor], torch.Tensor] = model.__call__
        self.device = device_of(model)
        self.x = torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
        self.fill = torch.from_numpy(np.ascontiguousarray(filling(x, fill))).to(self.device)
        self.output, self.task = output, task
        self.eval()

    def forward(self, present: torch.Tensor) -> torch.Tensor:
        logits = self.call(torch.where(present.to(self.device) > 0.5, self.x, self.fill))
        if self.output == "logit":
            return logits
        return logits.softmax(dim=1) if self.task == "multiclass" else logits.sigmoid()


@contextmanager
def global_randomness_kept() -> Iterator[None]:
    """The global random states of numpy and torch are after the block what they were before it."""
    state = np.random.get_state()
    # asking a GPU that nothing has used yet would start it, and no process could be forked afterwards
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]  # untyped in torch
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(state)


def quantus_scores(
    metric: str,
    settings: dict[str, object],
    *,
    maps: FloatArray,
    masks: BoolArray | None = None,
    images: npt.NDArray[np.float32] | None = None,
    target: npt.NDArray[np.int64] | None = None,
    model: torch.nn.Module | None = None,
    explain: Callable[[npt.NDArray[np.float32]], FloatArray] | None = None,
) -> FloatArray:
    """Scores of one Quantus metric, (M,), or (M, steps) where it gives a curve; one call, one batch.

    maps: prepared and informative, (M, H, W). masks: bool (M, H, W), none empty. images: what the metric perturbs,
    (M, C, H, W); nothing by default. explain: maps (M, H, W), prepared alike, of changed images. model: from such images
    to outputs, in evaluation mode.
    """
    if not len(maps):
        return np.zeros(0)
    import quantus  # here, not above: it brings matplotlib and OpenCV along, which reading a protocol does not need

    fixed: dict[str, object] = {
        "abs": False,
        "normalise": False,
        "return_aggregate": False,
        "disable_warnings": True,  # would print advice on settings and sleep a second
        "display_progressbar": False,
    }
    measure = getattr(quantus, metric)(**fixed | settings)
    count, height, width = maps.shape
    a = maps[:, None].copy()
    x = np.zeros((count, 1, height, width), dtype=np.float32) if images is None else images.copy()
    y = np.zeros(count, dtype=np.int64) if target is None else target
    explain_func: Callable[..., FloatArray] | None = None
    if explain is not None:
        # Quantus refuses a batch whose new maps are all zero, all equal or all negative, though each is a true answer:
        # one image more, whose map is a ramp, keeps that from happening; its own score is dropped
        ramp = np.linspace(0, 1, height * width).reshape(1, 1, height, width)
        a, x, y = np.concatenate([a, ramp]), np.concatenate([x, x[:1]]), np.concatenate([y, y[:1]])

        def explain_func(model: object, inputs: npt.NDArray[np.float32], targets: object) -> FloatArray:
            return np.concatenate([explain(inputs[:count])[:, None], ramp])

    with global_randomness_kept():
        scores = measure(
            model=model,
            x_batch=x,
            y_batch=y,
            a_batch=a,
            s_batch=None if masks is None else masks[:, None],
            channel_first=True,
            explain_func=explain_func,
            softmax=False,
            batch_size=len(x),
        )
    return np.asarray(scores, dtype=np.float64)[:count]
