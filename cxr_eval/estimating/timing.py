"""How long a network takes, and how often a method asks it: passes timed on the network itself, and counted on a stand-in."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from cxr_eval.cells import CellWork
from cxr_eval.classifier import Classifier
from cxr_eval.data.augment import affine
from cxr_eval.data.datasets import Datasets
from cxr_eval.fitting import Progress
from cxr_eval.images import ImageSet, Index, Regions
from cxr_eval.perturb import frozen, input_gradient

REPEATS = 3
"""Batches behind each time; one more goes first and is not timed."""
_LONGEST = 4.0  # seconds that one timed batch may take; a smaller one is timed instead, and its time multiplied

_SHORT = 0.1  # seconds: what takes less is timed more often, because other programs disturb it


class TooLongError(Exception):
    """Something that is timed has taken longer than it may."""


@dataclass
class Tally:
    """How many passes through a network there were, by the number of images in each.

    forward: through the network; backward: back through it, whatever for. deadline: of `time.monotonic`; a pass after it fails.
    """

    forward: Counter[int] = field(default_factory=Counter)
    backward: Counter[int] = field(default_factory=Counter)
    deadline: float = float("inf")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tally:
        return self  # copies of a network are asked as well

    def start(self, seconds: float) -> None:
        """Count from 0, for so many seconds at most."""
        self.forward.clear()
        self.backward.clear()
        self.deadline = time.monotonic() + seconds


class StandIn(torch.nn.Module):
    """A network that costs next to nothing and counts how often it is asked.

    sure: each answer, (K,) logits, that no small change of an image overturns; without it answers follow from the image.
    Forward: images (N, C, H, W) to logits (N, K).
    """

    def __init__(self, channels: int, classes: int, tally: Tally, sure: torch.Tensor | None = None) -> None:
        super().__init__()
        self.tally = tally
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 7, stride=4, padding=3),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1),
            torch.nn.ReLU(),
        )
        self.head = torch.nn.Linear(8, classes)
        self.scale = 1.0 if sure is None else 0.01  # small beside the answer, and yet with a gradient everywhere
        self.register_buffer("sure", torch.zeros(classes) if sure is None else sure)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if time.monotonic() > self.tally.deadline:
            raise TooLongError
        count = len(x)
        self.tally.forward[count] += 1
        logits: torch.Tensor = self.scale * self.head(self.features(x).mean(dim=(2, 3))) + self.sure
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count(count))  # type: ignore[no-untyped-call]
        return logits

    def _count(self, count: int) -> None:
        self.tally.backward[count] += 1


@dataclass(frozen=True)
class Line:
    """Seconds of one pass: `start` and then `each` for every image."""

    start: float
    each: float

    def __call__(self, images: int) -> float:
        return self.start + self.each * images


@dataclass(frozen=True)
class Passes:
    """Seconds of passes through one network. gradient: forward and back again to the image. batch: the largest batch timed."""

    forward: Line
    gradient: Line
    batch: int

    def seconds(self, tally: Tally, *, whole: int, size: int) -> float:
        """How long all passes of a tally take. Those of `whole` images or more are batches, `size` images each in the run."""
        total = 0.0
        for line, counted, less in ((self.forward, tally.forward, 0.0), (self.gradient, tally.backward, 1.0)):
            for count, times in counted.items():
                at = max(size, count) if count >= whole else count
                total += times * count * (line(at) - less * self.forward(at)) / at
        return total


def finished(device: torch.device) -> float:
    """The time when everything given to a device so far is done, seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _median(once: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the median of `REPEATS`, or more where they are short, after one that is not timed."""
    once()
    times = list[float]()
    while len(times) < REPEATS or (sum(times) < _SHORT and len(times) < 10 * REPEATS):
        before = finished(device)
        once()
        times.append(finished(device) - before)
    return float(np.median(times))


def passes(classifier: Classifier, images: ImageSet, size: int) -> Passes:
    """Passes of one image and of a batch of `size`, or of fewer where so many take too long, and the line through both."""
    device, model = classifier.device, classifier.model

    def timed(count: int) -> tuple[float, float]:
        rows = np.resize(np.arange(len(images)), count)
        x, y = images.take(rows).to(device), images.targets(rows).to(device)

        def forward() -> None:
            with frozen(model), torch.no_grad():
                model(x)

        def gradient() -> None:
            with frozen(model):
                input_gradient(model, x, y, loss=classifier.loss)

        return _median(forward, device), _median(gradient, device)

    one = timed(1)
    batch = max(2, min(size, int(_LONGEST / max(one[1], 1e-9))))
    many = timed(batch)
    lines = [
        Line(max(0.0, a - each), each) for a, b in zip(one, many, strict=True) for each in [max(0.0, (b - a) / (batch - 1))]
    ]
    return Passes(lines[0], lines[1], batch)


class _EnoughError(Exception):
    pass


def step_seconds(work: CellWork, passed: Passes) -> tuple[float, int]:
    """Seconds of one training step of a cell's trainer in its own loop, and on how many images."""
    training = work.plan.protocol.train
    step = passed.gradient(1) - passed.gradient.start
    size = min(training.batch_size, max(2, int(_LONGEST / max(step, 1e-9))), len(work.datasets.splits["train"]))
    settings = {"batch_size": size, "epochs": 1}
    protocol = work.plan.protocol.model_copy(update={"train": training.model_copy(update=settings)})
    cut = replace(work, plan=replace(work.plan, protocol=protocol))
    classifier = work.untrained()
    trainer = cut.trainer(classifier, classifier if cut.reference is None else work.untrained())
    whole, count = work.datasets.splits["train"], (REPEATS + 1) * size
    images = subset(whole, np.resize(whole.draw(count), count))
    ends: list[float] = []

    def at(progress: Progress) -> None:
        ends.append(finished(classifier.device))
        slow = len(ends) > 1 and ends[-1] - ends[0] > 2 * _LONGEST
        if len(ends) > REPEATS or slow:
            raise _EnoughError

    augment = work.plan.protocol.data.augment
    with suppress(_EnoughError):
        trainer.fit(images, images.y, augment=lambda x, rng: affine(x, augment, rng), progress=at)
    if len(ends) < 2:
        raise TooLongError
    return float(np.median(np.diff(ends))), size


def subset(images: ImageSet, index: Index) -> ImageSet:
    """Some of the images of a set, in the order of `index`."""
    rows = np.asarray(index, dtype=np.int64)
    regions = {kind: Regions(held.array, held.row[rows]) for kind, held in images.regions.items()}
    table = images.table.iloc[rows].reset_index(drop=True)
    return replace(images, rows=images.rows[rows], y=images.y[rows], table=table, regions=regions)


def few(datasets: Datasets, count: int, *, answer: int | None = None) -> Datasets:
    """At most `count` images of each set, those with regions first.

    answer: what all of them are labelled, the first class or, for findings, 0 or 1 in all of them; as they are without it.
    """
    splits = {}
    for name, images in datasets.splits.items():
        small = subset(images, images.draw(count, first=tuple(images.regions)))
        splits[name] = small if answer is None else replace(small, y=np.full_like(small.y, 0 if small.y.ndim == 1 else answer))
    return replace(datasets, splits=splits)


def sure_answer(datasets: Datasets, answer: int) -> torch.Tensor:
    """Logits (K,) of a network that is right and sure about images labelled by `few`."""
    if datasets.task == "multilabel":
        return torch.full((len(datasets.classes),), 5.0 if answer else -5.0)
    return torch.tensor([5.0] + [0.0] * (len(datasets.classes) - 1))


def peak_bytes(device: torch.device) -> int:
    """Memory used at most so far: of a GPU what torch took of it, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo
