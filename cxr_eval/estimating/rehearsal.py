"""Every method of a protocol tried on a few images: how long it takes, on a stand-in that counts passes or on the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cxr_eval.cascade import AttackNeeds
from cxr_eval.cells import CellWork
from cxr_eval.classifier import Classifier
from cxr_eval.data.datasets import Datasets
from cxr_eval.errors import CxrEvalError, raised_at
from cxr_eval.estimating.pieces import Kind, Piece, pieces
from cxr_eval.estimating.timing import (
    REPEATS,
    Passes,
    StandIn,
    Tally,
    TooLongError,
    few,
    finished,
    passes,
    step_seconds,
    sure_answer,
)
from cxr_eval.events import Event
from cxr_eval.gate import radius
from cxr_eval.plan import Plan
from cxr_eval.planned import PlannedPlugin, accept
from cxr_eval.store import Run, Work, write_parquet

_PATIENCE = 20.0  # seconds that one method may take on the stand-in
_PIXELS = 2**17  # of the images that a method is shown at once: a stand-in's own work must stay small
_LEAST, _BY_ITSELF = 8, 4  # images, on the stand-in and on a model
_RARE = 50  # passes
_QUICK = 2.0  # seconds below which a piece is timed once more, for the first time holds imports and the like
_SURE = ("attacks", "checks of attacks")

PieceKey = tuple[Kind, str]
"""Kind and label of pieces that take as long for each of their images."""


@dataclass(frozen=True)
class _Measured:
    """What one piece took: `seconds` for `images` (0 where it does not depend on them), and the passes of a stand-in."""

    seconds: float
    images: int
    tally: Tally | None = None


@dataclass
class _Rehearsed(CellWork):
    """A cell of few images in a folder of its own, with a network that nobody has trained."""

    network: Classifier | None = None

    def fitted(self) -> Classifier:
        """The network that stands for the trained one."""
        return self.untrained() if self.network is None else self.network

    @contextmanager
    def evaluation(self, content: dict[str, Any], what: str, *, say: bool = True) -> Iterator[Work]:
        """One evaluation; two that differ in their labels alone are computed twice, for each is to be timed."""
        with super().evaluation(content | {"called": what}, what, say=say) as work:
            yield work


class Rehearsal:
    """Times, measured once each for all cells that need them.

    unknown: what could not be timed, and why. smaller: something was timed on a smaller batch than the run's.
    """

    def __init__(
        self, planned: Plan, datasets: Datasets, device: str, used: torch.device, tell: Callable[[Event], None]
    ) -> None:
        self.planned, self.datasets, self.device, self.used, self.tell = planned, datasets, device, used, tell
        self.unknown: dict[str, str] = {}
        self.smaller = False
        self.filing = 0.0
        self.measured: dict[PieceKey, _Measured] = {}

    def passes(self, work: CellWork) -> Passes:
        """Passes through one model, at the size of batch that evaluations have."""
        self.tell(Event(step=f"timing {work.cell.model.label}"))
        size = self.planned.protocol.evaluate.batch_size
        found = passes(work.untrained(), self.datasets.splits["train"], size)
        self.smaller |= found.batch < size
        return found

    def training(self, work: CellWork, passed: Passes) -> float:
        """Seconds of all epochs of one cell, with the validation after each."""
        label, training = work.cell.trainer.label, self.planned.protocol.train
        self.tell(Event(step=f"timing {label} on {work.cell.model.label}"))
        try:
            seconds, size = step_seconds(work, passed)
        except TooLongError:
            self.unknown[f"training by {label}"] = "its loop does not tell of its batches"
            return 0.0
        except (Exception, SystemExit) as error:  # a plugin may fail in any way
            self.unknown[f"training by {label}"] = _said(error)
            return 0.0
        train, val = (len(self.datasets.splits[split]) for split in ("train", "val"))
        self.smaller |= size < min(training.batch_size, train)
        judged = passed.forward(training.batch_size) / training.batch_size
        if training.select.metric == "robust_accuracy":
            judged += training.select.steps * passed.gradient(training.batch_size) / training.batch_size
        return training.epochs * (train * seconds / size + val * judged + self.filing)

    def of(self, piece: Piece, passed: Passes) -> float:
        """Seconds of one piece on one model."""
        found = self.measured.get((piece.kind, piece.label))
        if found is None:  # it cannot be timed, or it is a region that none of the few images has
            alike = [each for (kind, _), each in self.measured.items() if kind == piece.kind == "anatomy"]
            if not alike:
                return 0.0
            found = alike[0]
        times = piece.images / found.images if found.images else 1.0
        if found.tally is None:
            slower = passed.gradient(1) / self.reference.gradient(1)
            return self.filing + max(0.0, found.seconds - self.filing) * times * slower
        size = min(self.planned.protocol.evaluate.batch_size, piece.images or 1)
        own = self.stand_in.seconds(found.tally, whole=found.images, size=found.images or 1)
        beside = max(0.0, found.seconds - own - self.filing)
        return self.filing + times * (beside + passed.seconds(found.tally, whole=found.images, size=size))

    def measure(self, folder: Path, wanted: set[PieceKey], work: CellWork) -> None:
        """All pieces that are wanted, each on few images: on a stand-in that counts, or where that says nothing, on a model."""
        measured = self.measured
        numbers = self.datasets.splits["train"].take([0]).numel()
        size = max(_LEAST, min(self.planned.protocol.evaluate.batch_size, _PIXELS // numbers))
        answers = sorted({_answer(attack) for attack in self.planned.attacks} or {1}, reverse=True)
        for number, answer in enumerate(answers):
            some = few(self.datasets, size, answer=answer)
            held = [attack for attack in self.planned.attacks if _answer(attack) == answer]
            keys = {(kind, label) for kind, label in wanted if kind in _SURE or _changed(kind, label)}
            if number:
                keys -= measured.keys()

            def sure(
                place: Path, some: Datasets = some, answer: int = answer, held: Sequence[PlannedPlugin] = held
            ) -> tuple[_Rehearsed, Tally | None]:
                rehearsed = self._scratch(place, work, some, size, attacks=held)
                return rehearsed, self._stand_in(rehearsed, sure_answer(some, answer))

            self._twice(folder / f"sure{answer}", sure, keys, measured)

        def shown(place: Path) -> tuple[_Rehearsed, Tally | None]:
            rehearsed = self._scratch(place, work, few(self.datasets, size), size)
            return rehearsed, self._stand_in(rehearsed, None)

        rehearsed, _ = shown(folder / "passes")
        self.filing = _filing(rehearsed)
        self.stand_in = passes(rehearsed.fitted(), rehearsed.datasets.splits["test"], size)
        own = {(piece.kind, piece.label) for piece in pieces(rehearsed) if piece.on_own_network}
        failed = self._twice(folder / "open", shown, {key for key in wanted - own if key not in measured}, measured)

        def itself(place: Path) -> tuple[_Rehearsed, Tally | None]:
            rehearsed = self._scratch(place, work, few(self.datasets, _BY_ITSELF), _BY_ITSELF)
            rehearsed.network = rehearsed.untrained()
            return rehearsed, None

        rehearsed, _ = itself(folder / "reference")
        self.reference = passes(rehearsed.fitted(), rehearsed.datasets.splits["test"], 2)
        again = {key for key in failed if key[0] == "explanations"}
        self._twice(folder / "own", itself, (wanted & own) | again, measured)
        for kind, label in measured:
            self.unknown.pop(_named(kind, label), None)

    def _twice(
        self,
        folder: Path,
        make: Callable[[Path], tuple[_Rehearsed, Tally | None]],
        wanted: set[PieceKey],
        measured: dict[PieceKey, _Measured],
    ) -> set[PieceKey]:
        """Time what is wanted, what is quick once more in another folder; what fails is returned."""
        first: dict[PieceKey, _Measured] = {}
        failed = self._timed(*make(folder / "1"), wanted, first)
        quick = {key for key, each in first.items() if each.seconds < _QUICK or _rarely(each.tally)}
        again: dict[PieceKey, _Measured] = {}
        if quick:
            self._timed(*make(folder / "2"), quick, again)
        measured |= first | {key: min(first[key], each, key=lambda found: found.seconds) for key, each in again.items()}
        return failed

    def _scratch(
        self, folder: Path, work: CellWork, datasets: Datasets, images: int, attacks: Sequence[PlannedPlugin] = ()
    ) -> _Rehearsed:
        """One cell of few images, whose attacks build on nothing else and try the largest radius only."""
        protocol = self.planned.protocol
        evaluate, explain = protocol.evaluate, protocol.explain
        validity, anatomy = evaluate.validity, evaluate.anatomy
        if validity is not None:
            # the radius of the checks follows from all radii, of which one is left
            validity = validity.model_copy(update={"images": min(images, validity.images), "eps": radius(self.planned)})
        if anatomy is not None:
            anatomy = anatomy.model_copy(update={"images": min(images, anatomy.images or images)})
        changed = {"evaluate": evaluate.model_copy(update={"validity": validity, "anatomy": anatomy})}
        if explain is not None:
            changed["explain"] = explain.model_copy(update={"images": min(images, explain.images)})  # type: ignore[assignment]
        alone = replace(
            self.planned,
            protocol=protocol.model_copy(update=changed),
            attacks=tuple(_largest(attack) for attack in attacks or self.planned.attacks),
            attack_needs={attack.label: AttackNeeds() for attack in self.planned.attacks},
        )
        return _Rehearsed(Run(folder / "run"), alone, work.cell, datasets, self.device, lambda event: None)

    def _stand_in(self, rehearsed: _Rehearsed, sure: torch.Tensor | None) -> Tally:
        tally, shape = Tally(), self.datasets.splits["train"].shape
        classes = len(self.datasets.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = StandIn(shape[0], classes, tally, sure)
        rehearsed.network = Classifier(
            network, input_shape=shape, nb_classes=classes, task=self.datasets.task, device=self.device
        )
        return tally

    def _timed(
        self, rehearsed: _Rehearsed, tally: Tally | None, wanted: set[PieceKey], measured: dict[PieceKey, _Measured]
    ) -> set[PieceKey]:
        """Time what is wanted and not measured yet; what fails is returned, and said to be unknown."""
        failed: set[PieceKey] = set()
        for piece in pieces(rehearsed):
            key = (piece.kind, piece.label)
            # maps are made in any case: metrics look at them
            needed = piece.label.startswith("maps, ") and key not in measured and rehearsed.plan.explanation_metrics
            if key in failed or (not needed and (key not in wanted or key in measured)):
                continue
            if piece.images == 0 and piece.kind in _SURE:
                continue
            self.tell(Event(step=f"timing {_named(*key)}"))
            if tally is not None:
                tally.start(_PATIENCE)
            before = finished(self.used)
            try:
                piece.compute()
            except (Exception, SystemExit) as error:  # a plugin may fail in any way
                failed.add(key)
                if key in wanted:
                    late = tally is not None and time.monotonic() > tally.deadline
                    why = f"more than {_PATIENCE:.0f} s on {piece.images} images" if late else _said(error)
                    self.unknown[_named(*key)] = why
                continue
            if key in wanted:
                counted = (
                    None if tally is None else replace(tally, forward=tally.forward.copy(), backward=tally.backward.copy())
                )
                measured[key] = _Measured(finished(self.used) - before, piece.images, counted)
        return failed


def _answer(attack: PlannedPlugin) -> int:
    """How images are labelled that an attack's goal is about: 0 for findings that are to be invented."""
    return 0 if attack.settings["goal"].startswith("invent") else 1


def _changed(kind: str, label: str) -> bool:
    return kind == "explanations" and label.startswith("images, ") and label != "images, clean"


def _rarely(tally: Tally | None) -> bool:
    """True if a stand-in was hardly asked, so that a long time was that of imports."""
    return tally is not None and sum(tally.forward.values()) < _RARE


def _filing(rehearsed: _Rehearsed) -> float:
    """Seconds to write any evaluation, however small."""
    times = []
    for number in range(REPEATS):
        before = time.perf_counter()
        with rehearsed.evaluation({"kind": "nothing", "number": number}, "nothing", say=False) as work:
            write_parquet(work.begin() / "values.parquet", pd.DataFrame({"value": [0.0]}))
        times.append(time.perf_counter() - before)
    return sorted(times)[REPEATS // 2]


def _largest(attack: PlannedPlugin) -> PlannedPlugin:
    """The attack with its largest radius alone."""
    params = accept(attack.cls, attack.settings | {"eps": [max(attack.settings["eps"])]})
    return replace(attack, params=params, settings=params.model_dump(mode="json"))


def _named(kind: str, label: str) -> str:
    return label if label == kind else f"{kind}, {label}"


def _said(error: BaseException) -> str:
    if isinstance(error, CxrEvalError):
        return str(error).partition("\n")[0]
    return f"{raised_at(error)}{type(error).__name__}: {str(error).partition(chr(10))[0]}"
