"""What a run computes of one cell, piece by piece in its order, and which of the pieces are there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from cxr_eval.anatomy import audit_region, audited_kinds
from cxr_eval.attacking import attacked
from cxr_eval.cells import CellName, CellWork
from cxr_eval.data.datasets import Datasets
from cxr_eval.explained_images import CLEAN
from cxr_eval.explanations import Explanations, Mapper
from cxr_eval.gate import gate, radius
from cxr_eval.plan import Plan, PlannedCondition
from cxr_eval.planned import PlannedPlugin
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.store import Run, Work, content_key

Kind = Literal["predictions", "corruptions", "attacks", "checks of attacks", "anatomy", "explanations"]


@dataclass(frozen=True)
class Piece:
    """One evaluation of one cell. label: what it is called; pieces of one label take as long for each of their images.

    images: how many images it looks at, those at several radii counted as often; 0 where the time does not depend on it.
    on_own_network: its time cannot be told from that of another network. compute: computes it, if it is not there.
    """

    kind: Kind
    label: str
    images: int
    compute: Callable[[], object]
    on_own_network: bool = False


class _Looked(Exception):  # noqa: N818  # an answer, no error
    def __init__(self, there: bool) -> None:
        self.there = there


class Look(CellWork):
    """A cell that is looked at: nothing of it is trained, computed or taken over from another run."""

    @property
    def trained(self) -> bool:
        """True: when its turn comes, the cells before it are trained."""
        return True

    @property
    def there(self) -> bool:
        """True if its weights are in this run or in one beside it."""
        return self._found(self.run.cell(self.key), None)

    def train_for_another(self) -> None:
        """Nothing."""

    @contextmanager
    def evaluation(self, content: dict[str, Any], what: str, *, say: bool = True) -> Iterator[Work]:
        """Never a block: whether the evaluation is there is told by an exception."""
        work = self.run.evaluation(self.key, content_key(content | {"cxr-eval": version("cxr-eval")}))
        raise _Looked(self._found(work, work.folder.name))
        yield work

    def has(self, piece: Piece) -> bool:
        """True if a piece of this cell is in this run or in one beside it."""
        try:
            piece.compute()
        except _Looked as looked:
            return looked.there
        return True  # it had nothing to compute

    def _found(self, work: Work, evaluation: str | None) -> bool:
        return work.done or any(True for _ in self.run.neighbours(self.key, evaluation))


class _Untested(Explanations):
    """Explanations for which every explainer and metric counts as sound: whether it is shows only in the run."""

    @cached_property
    def failed(self) -> frozenset[tuple[str, str]]:
        """None."""
        return frozenset()

    def value(self, mapper: Mapper, condition: PlannedCondition, metric: PlannedPlugin) -> object:
        """What one metric says, with the maps that were made last."""
        return self._measured(mapper, condition, metric)


def run_folder(loaded: LoadedProtocol, planned: Plan, datasets: Datasets, out: Path | None) -> Run:
    """The folder that a run of the protocol uses; `runs/NAME-HASH` if none is given."""
    key = content_key([content_key(loaded.resolved), datasets.hash])[:8]
    return Run(Path("runs") / f"{planned.protocol.name}-{key}" if out is None else out)


def looks(run: Run, planned: Plan, datasets: Datasets, device: str) -> dict[CellName, Look]:
    """All cells of a plan, to be looked at."""
    works: dict[CellName, Look] = {}
    for cell in planned.cells:
        warm_start, reference = (
            works[cell.model.label, label, cell.seed] if label else None
            for label in (cell.needs.warm_start, cell.needs.reference)
        )
        works[cell.model.label, cell.trainer.label, cell.seed] = Look(
            run, planned, cell, datasets, device, lambda event: None, warm_start, reference, works
        )
    return works


def pieces(work: CellWork) -> Iterator[Piece]:
    """Everything that is computed of one cell once it is trained, in the run's order."""
    planned, sets = work.plan, work.datasets.splits
    yield Piece("predictions", "predictions", len(sets["val"]), lambda: work.clean("val"))
    for split in ("test", *planned.outside):
        yield from _of_split(work, split)
    if planned.protocol.explain is not None:
        yield from _of_explanations(work)


def _of_split(work: CellWork, split: str) -> Iterator[Piece]:
    planned, images = work.plan, work.datasets.splits[split]
    yield Piece("predictions", "predictions", len(images), lambda: work.clean(split))
    for corruption in planned.corruptions:
        if split not in corruption.settings["splits"]:
            continue
        for severity in corruption.settings["severity"]:
            compute = _given(work.corrupted, corruption, split, severity)
            yield Piece("corruptions", corruption.label, len(images), compute)
    attacks = [attack for attack in planned.attacks if split in attack.settings["splits"]]
    own = (work.cell.model.label, work.cell.trainer.label)
    for attack in attacks:
        needs = planned.attack_needs[attack.label]
        if (needs.model or own[0], needs.trainer) == own:
            continue  # its images are this network's own
        count = min(len(images), attack.settings["images"] or len(images))
        radii = sum(eps > 0 for eps in attack.settings["eps"])
        yield Piece("attacks", attack.label, count * radii, _given(attacked, work, attack, split))
    evaluate = planned.protocol.evaluate
    if attacks and evaluate.validity is not None and radius(planned) is not None:
        count = min(len(images), evaluate.validity.images)
        yield Piece("checks of attacks", "checks", count, lambda: gate(work, split))
    if evaluate.anatomy is not None:
        eps = radius(planned) if evaluate.anatomy.eps is None else evaluate.anatomy.eps
        for kind in audited_kinds(images, evaluate.anatomy):
            count = int((images.regions[kind].row >= 0).sum())
            count = min(count, evaluate.anatomy.images or count)
            yield Piece("anatomy", kind, count, _given(audit_region, work, split, kind, eps))


def _of_explanations(work: CellWork) -> Iterator[Piece]:
    planned, whole = work.plan, _Untested(work)
    yield Piece("explanations", "region shares", 0, whole.region_shares)
    # pairs of images and findings are known before; else there is one an image
    finding = whole.settings.target == "finding"
    pairs = len(whole.pairs(CLEAN)[0]) if finding else len(whole.images[1])
    for condition in planned.conditions:
        clean = condition.attack is None and condition.corruption is None
        changed = condition.label.rpartition(":")[0] or "clean"
        yield Piece("explanations", f"images, {changed}", len(whole.images[1]), _given(whole.condition, condition))
        mappers: tuple[Mapper, ...] = (*whole.explainers, *(whole.references if clean else ()))
        for mapper in mappers:
            of_network = isinstance(mapper, PlannedPlugin) or mapper.of is not None
            compute = _given(whole.maps, mapper, condition)
            yield Piece("explanations", f"maps, {mapper.label}", pairs, compute, of_network)
            for metric in planned.explanation_metrics:
                layers = metric.cls.family == "randomisation"  # it goes through the network layer by layer
                compute = _given(whole.value, mapper, condition, metric)
                yield Piece("explanations", f"{metric.label} of {mapper.label}", pairs, compute, of_network and layers)
            if mapper in whole.explainers and len(planned.conditions) > 1:
                compute = _given(whole.similarities, mapper, condition)
                yield Piece("explanations", f"similarity, {mapper.label}", pairs, compute, of_network)
    # their time depends on the network, not on the images; other explanations than `whole`, which counts them as passed
    yield Piece("explanations", "self-tests", 0, lambda: Explanations(work).tried, on_own_network=True)


def _given(function: Callable[..., object], *args: Any) -> Callable[[], object]:
    return lambda: function(*args)


def weights(works: Mapping[CellName, Look]) -> dict[CellName, float]:
    """How likely each cell is part of the run, in [0, 1]: of a second stage, only some of the models are chosen."""
    found = dict.fromkeys(works, 1.0)
    for label in {name[1] for name in works}:
        ours = {name: work for name, work in works.items() if name[1] == label}
        selection = next(iter(ours.values())).cell.needs.models
        if selection is None or selection.best is None:
            continue
        there = [name for name, work in ours.items() if work.there]
        wanted = selection.best * len({name[2] for name in ours})
        left = [name for name in ours if name not in there]
        found |= dict.fromkeys(left, max(0, min(len(left), wanted - len(there))) / max(1, len(left)))
    return found
