"""Scores by Quantus 0.6, image by image; the only file that imports it and knows what is wrong in it.

What is neutralised in `quantus_scores`, so that an image's score is its own (docs/methods/explanations.md lists it):

- normalisation divides by the maximum of the whole batch: maps come prepared (`prepared`) and Quantus is told to leave them;
- `abs` has a different default in each metric: signs are settled before Quantus sees anything;
- one constant, empty or all-negative batch raises: undefined maps are taken out first;
- attributions are changed in place: Quantus gets copies; global random states are put back.

With `compat: quantus` nothing of this is done (`library_scores`): the numbers are the library's, faults included.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import Any, Literal, TypeVar
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import trapezoid

import cxr_eval.api as cxr

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)
Sign = Literal["positive", "absolute", "signed"]
Output = Literal["probability", "logit"]
Fill = Literal["black", "mean", "white"]

IMAGES = 32
"""Images in one call; bounds the memory, changes no number."""


class MapParams(cxr.Params):
    """The settings that every explanation metric has."""

    compat: Literal["corrected", "quantus"] = cxr.Field(
        "corrected",
        description="corrected: as stated here; quantus: what Quantus 0.6's own class gives for the batch with its own"
        " defaults, faults included, to compare with numbers published from it; of our settings only budgets then count",
    )

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


def quantus_scores(metric: str, settings: dict[str, object], *, maps: FloatArray, masks: BoolArray | None = None) -> FloatArray:
    """Scores of one Quantus metric that looks at maps alone, (M,); one call, one batch.

    maps: prepared and informative, (M, H, W). masks: bool (M, H, W), none empty.
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
    with global_randomness_kept():
        scores = measure(
            model=None,
            x_batch=np.zeros((count, 1, height, width), dtype=np.float32),
            y_batch=np.zeros(count, dtype=np.int64),
            a_batch=maps[:, None].copy(),
            s_batch=None if masks is None else masks[:, None],
            channel_first=True,
            softmax=False,
            batch_size=count,
        )
    return np.asarray(scores, dtype=np.float64)


def integrable_curves() -> AbstractContextManager[object]:
    """While it lasts, Quantus can integrate a curve: its own way, np.trapz, is gone from numpy 2.4."""

    def calculate_auc(values: npt.ArrayLike, dx: int = 1, batched: bool = False) -> npt.NDArray[np.float64]:
        return np.asarray(trapezoid(np.asarray(values), dx=dx, axis=1 if batched else -1))

    return mock.patch("quantus.helpers.utils.calculate_auc", calculate_auc)


def library_scores(
    metric: str,
    explained: cxr.Explained,
    settings: Mapping[str, object],
    *,
    masks: BoolArray | None = None,
    call: Mapping[str, object] | None = None,
) -> FloatArray:
    """What Quantus' own class says of each image, (N,), with its own defaults, errors included; NaN for all if it fails.

    metric: name of the class. settings: of its constructor, on top of its defaults; nothing is aggregated over images. masks:
    bool (N, H, W), any. call: more arguments of the call. Maps, images and network are given as they are, in batches of the
    library's own size. A curve becomes its area (`get_auc_score` before the mean); a number of the whole batch, or the mean
    of several such as ROAD has, is that of every image. Why the library failed is logged.
    """
    count = len(explained.x)
    if not count:
        return np.zeros(0)
    import quantus

    def explain_func(
        model: torch.nn.Module, inputs: npt.ArrayLike, targets: npt.ArrayLike, **_: object
    ) -> npt.NDArray[np.float32]:
        device = device_of(model)
        x = torch.as_tensor(inputs, dtype=torch.float32, device=device)
        maps = explained.explain(model, x, torch.as_tensor(targets, dtype=torch.int64, device=device))
        return maps.detach().cpu().numpy()[:, None]

    fixed: dict[str, object] = {"return_aggregate": False, "disable_warnings": True, "display_progressbar": False}
    with (
        cxr.frozen(explained.model),
        global_randomness_kept(),
        integrable_curves(),
        redirect_stdout(io.StringIO()),  # advice on settings
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of divisions by zero, which are in the numbers
        np.random.seed(explained.seed % 2**32)
        torch.manual_seed(explained.seed)
        try:
            scores = getattr(quantus, metric)(**fixed | dict(settings))(
                model=explained.model,
                x_batch=explained.x.copy(),
                y_batch=explained.target.copy(),
                a_batch=explained.maps[:, None].copy(),
                s_batch=None if masks is None else masks[:, None].copy(),
                channel_first=True,
                explain_func=explain_func,
                device=str(device_of(explained.model)),
                **dict(call or {}),
            )
            return one_an_image(scores, count)
        except Exception as error:  # of any kind: what its assertions and indexing raise is not declared
            log.warning("Quantus' %s gives no value for %d images: %s: %s", metric, count, type(error).__name__, error)
            return np.full(count, np.nan)


def one_an_image(scores: Any, count: int) -> FloatArray:
    """What a Quantus metric returned, as one number for each of so many images, (count,); see `library_scores`.

    Raises:
        ValueError: there are neither as many numbers as images nor one for all.
    """
    if isinstance(scores, Mapping):
        scores = np.mean([np.broadcast_to(np.asarray(of_one, dtype=np.float64), count) for of_one in scores.values()], axis=0)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim == 2:
        values = np.asarray(trapezoid(values, axis=1))
    return np.broadcast_to(values, count).copy()
