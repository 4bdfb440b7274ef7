"""What a run would still compute, how long that takes and how much memory, measured on a few batches: `cxr-eval plan`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cxr_eval.cells import CellName
from cxr_eval.classifier import find_device
from cxr_eval.data.datasets import load
from cxr_eval.estimating.pieces import Look, Piece, looks, pieces, run_folder, weights
from cxr_eval.estimating.rehearsal import Rehearsal
from cxr_eval.estimating.timing import REPEATS, peak_bytes
from cxr_eval.events import Event
from cxr_eval.plan import Plan, plan
from cxr_eval.preflight import check
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.store import Run

Tell = Callable[[Event], None]

KINDS = ("training", "predictions", "corruptions", "attacks", "checks of attacks", "anatomy", "explanations")
SEARCHES = ("attacks", "checks of attacks")
"""Kinds of work that end early for images that break."""
EARLY = 20
"""How many times as fast searches are on networks that withstand little; measured on networks trained on clean images."""


@dataclass(frozen=True)
class Share:
    """What one kind of work takes. total, there: how much of it a run has and how much is there; seconds: of what is left."""

    kind: str
    total: int
    there: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What is left of a run and what it takes.

    folder: the run folder. cells, cells_there: how many there are, and how many are trained. peak_bytes: memory used at most
    while measuring. smaller: measured on smaller batches than the run's. unknown: what could not be timed, and why.
    early: training may stop early.
    """

    folder: Path
    cells: int
    cells_there: int
    shares: tuple[Share, ...]
    peak_bytes: int
    device: str
    smaller: bool
    early: bool
    unknown: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all that is left and could be timed, if no search ends before its last step."""
        return sum(share.seconds for share in self.shares)

    @property
    def seconds_low(self) -> float:
        """If all took half as long, and searches for wrong images found them at once."""
        searched = sum(share.seconds for share in self.shares if share.kind in SEARCHES)
        return (self.seconds - searched) / 2 + searched / EARLY

    @property
    def seconds_high(self) -> float:
        """If all took twice as long."""
        return 2 * self.seconds

    def record(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "folder": str(self.folder),
            "cells": self.cells,
            "cells_there": self.cells_there,
            "evaluations": sum(share.total for share in self.shares[1:]),
            "evaluations_there": sum(share.there for share in self.shares[1:]),
            "seconds": round(self.seconds, 1),
            "seconds_low": round(self.seconds_low, 1),
            "seconds_high": round(self.seconds_high, 1),
            "by_kind": [
                {"kind": share.kind, "total": share.total, "there": share.there, "seconds": round(share.seconds, 1)}
                for share in self.shares
            ],
            "peak_bytes": self.peak_bytes,
            "device": self.device,
            "batches_timed": REPEATS,
            "smaller_batches": self.smaller,
            "not_estimated": list(self.unknown),
        }


def estimate(
    loaded: LoadedProtocol,
    *,
    out: Path | None = None,
    device: str = "auto",
    cache: Path,
    on_event: Tell = lambda event: None,
) -> Estimate:
    """What is left of a run and what it takes; images are prepared in the cache, and nothing is written to the run folder.

    Raises:
        CxrEvalError: the protocol, a plugin, the data or the device is not as it must be.
    """
    planned = plan(loaded)
    used = find_device(device)
    datasets = load(
        planned.protocol.data,
        cache=cache,
        trained=planned.trains,
        progress=lambda done, total: on_event(Event(step="preparing images", done=done, total=total)),
    )
    run = run_folder(loaded, planned, datasets, out)
    works = looks(run, planned, datasets, device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        check(loaded, planned, datasets, [*works.values()])
        on_event(Event(step="looking for what is there"))
        listed = {name: [(piece, work.has(piece)) for piece in pieces(work)] for name, work in works.items()}
        return _Sum(planned, works, listed, Rehearsal(planned, datasets, device, used, on_event)).whole(run, used)


@dataclass(frozen=True)
class _Sum:
    """All cells of a plan with the pieces of each, and whether they are there."""

    planned: Plan
    works: Mapping[CellName, Look]
    listed: Mapping[CellName, Sequence[tuple[Piece, bool]]]
    rehearsal: Rehearsal

    def whole(self, run: Run, used: torch.device) -> Estimate:
        """The estimate of all cells."""
        likely = weights(self.works)
        untrained = {name for name, work in self.works.items() if not work.there}
        busy = [name for name in self.works if name in untrained or not all(there for _, there in self.listed[name])]
        models = {name[0]: self.works[name] for name in reversed(busy)}
        passed = {label: self.rehearsal.passes(models[label]) for label in dict.fromkeys(name[0] for name in busy)}
        if wanted := {(piece.kind, piece.label) for each in self.listed.values() for piece, there in each if not there}:
            with tempfile.TemporaryDirectory() as folder:
                self.rehearsal.measure(Path(folder), wanted, self.works[busy[0]])
        seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        steps: dict[tuple[str, str], float] = {}
        for name in busy:
            if name in untrained:
                if name[:2] not in steps:
                    steps[name[:2]] = self.rehearsal.training(self.works[name], passed[name[0]])
                seconds["training"] += likely[name] * steps[name[:2]]
            for piece, there in self.listed[name]:
                seconds[piece.kind] += 0.0 if there else likely[name] * self.rehearsal.of(piece, passed[name[0]])
        shares = [_share("training", [(likely[name], name not in untrained) for name in self.works], seconds)]
        for kind in KINDS[1:]:
            found = [(likely[name], there) for name in self.works for piece, there in self.listed[name] if piece.kind == kind]
            shares.append(_share(kind, found, seconds))
        return Estimate(
            folder=run.folder,
            cells=shares[0].total,
            cells_there=shares[0].there,
            shares=tuple(shares),
            peak_bytes=peak_bytes(used),
            device=str(used),
            smaller=self.rehearsal.smaller,
            early=self.planned.protocol.train.select.patience is not None,
            unknown=tuple(f"{label}: {why}" for label, why in self.rehearsal.unknown.items()),
        )


def _share(kind: str, found: Sequence[tuple[float, bool]], seconds: Mapping[str, float]) -> Share:
    """found: how likely each is part of the run, and whether it is there."""
    there = sum(there for _, there in found)
    return Share(kind, max(there, round(sum(weight for weight, _ in found))), there, seconds[kind])


def span(seconds: float) -> str:
    """A time as a person says it: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def lines(found: Estimate) -> list[str]:
    """The estimate for a person."""
    total, there = (sum(getattr(share, name) for share in found.shares[1:]) for name in ("total", "there"))
    told = [
        f"run folder        {found.folder}",
        f"cells             {found.cells}, of which {found.cells_there} are trained already",
        f"evaluations       {total}, of which {there} are there already",
        "",
        f"{'':18}{'all':>6}{'there':>7}  estimated",
    ]
    for share in found.shares:
        if share.total:
            often = "at most " if share.kind in SEARCHES or (share.kind == "training" and found.early) else ""
            time_left = "nothing left" if share.there == share.total else f"{often}{span(share.seconds)}"
            told.append(f"{share.kind:18}{share.total:6}{share.there:7}  {time_left}")
    if found.cells == found.cells_there and total == there:
        return [*told, "", "Everything is there: only scores and the report will be made again."]
    low, high = span(found.seconds_low), span(found.seconds_high)
    told += ["", f"total             at most {span(found.seconds)} on {found.device}; {low} to {high}"]
    told.append(f"peak memory       about {found.peak_bytes / 1e9:.1f} GB")
    told += [f"not estimated     {each}" for each in found.unknown]
    cut = " The batches were smaller than the run's, which needs more memory." if found.smaller else ""
    told += [
        "",
        f"Measured on {REPEATS} batches of each model and trainer, and methods on a few images; 0.5 to 2 times of it is usual."
        f"{cut} Attacks and their checks end early for images that break: on networks that withstand little they take a tenth"
        " of it, or less. Scores and the report come on top.",
    ]
    return told
