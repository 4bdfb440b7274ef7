"""The validity gate in a run: whether the robust accuracies of one network may be believed, checked once and kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.attacks.checks_subject import one_finding
from cxr_eval.attacks.convergence import convergence
from cxr_eval.attacks.validity import Check, battery
from cxr_eval.cells import CellWork
from cxr_eval.images import ImageSet
from cxr_eval.plan import Plan
from cxr_eval.seeds import stream
from cxr_eval.store import write_json, write_parquet
from cxr_eval.tables import Part
from cxr_eval.types import format_eps

CHECK_COLUMNS = ("model", "trainer", "seed", "split", "kind", "check", "title", "verdict", "numbers", "sentence")
"""Columns of checks.csv; `numbers` is JSON."""


@dataclass(frozen=True)
class Gate:
    """What the checks say of one network, and when each image broke in one long search.

    searched: image_id, patient, first_step, first_restart, clean_correct, one line an image.
    """

    checks: tuple[Check, ...]
    searched: pd.DataFrame


def radius(plan: Plan) -> float | None:
    """The L-inf radius of the checks: as the protocol says, or the middle one of all that attacks try; None without any."""
    return plan.protocol.evaluate.radius_of_checks(attack.settings for attack in plan.attacks)


def gate(work: CellWork, split: str) -> Gate | None:
    """The checks of one network on one split, computed once; None where the protocol leaves them out or attacks nothing, and
    where nothing is known of the images."""
    settings, eps = work.plan.protocol.evaluate.validity, radius(work.plan)
    if settings is None or eps is None:
        return None
    images = work.datasets.splits[split]
    index, size = _known(images, images.draw(min(settings.images, len(images)))), work.plan.protocol.evaluate.batch_size
    if len(index) == 0:
        return None
    surrogate = _surrogate(work)
    content = {
        "kind": "validity",
        "images": work.datasets.hashes[split],
        "index": index.tolist(),
        "eps": eps,
        "steps": settings.steps,
        "restarts": settings.restarts,
        "surrogate": None if surrogate is None else surrogate.key,
        "batch_size": size,
    }
    content |= {"findings": "one each"} if images.y.ndim == 2 else {}
    with work.evaluation(content, f"{split}, whether attacks can be believed") as evaluation:
        if not evaluation.done:
            x, y = images.take(index), images.targets(index)
            work.progress(f"validity on {split}", 0, 1)
            checks = battery(
                work.classifier,
                x,
                y,
                eps=eps,
                seed=stream(work.cell.seed, "validity"),
                batch_size=size,
                surrogate=None if surrogate is None else surrogate.fitted(),
            )
            found = convergence(
                work.classifier,
                x,
                y if y.ndim == 1 else one_finding(x, y, work.classifier.logits(x, size), stream(work.cell.seed, "validity")),
                eps=eps,
                steps=settings.steps,
                restarts=settings.restarts,
                seed=stream(work.cell.seed, "validity"),
                batch_size=size,
            )
            about = images.table.iloc[index]
            searched = pd.DataFrame(
                {
                    "image_id": about["image_id"].to_numpy(),
                    "patient": about["patient"].to_numpy(),
                    "first_step": found.first_step,
                    "first_restart": found.first_restart,
                    "clean_correct": found.clean_correct,
                }
            )
            folder = evaluation.begin()
            write_json(folder / "checks.json", [asdict(check) for check in checks])
            write_parquet(folder / "searched.parquet", searched)
    stored = json.loads((evaluation.folder / "checks.json").read_text(encoding="utf-8"))
    part = Part(evaluation.folder.name, "searched.parquet")
    return Gate(
        tuple(_elsewhere(Check(**entry), split) for entry in stored),
        work.tables.add("searched", [part], split=split, condition=f"convergence:{format_eps(eps)}"),
    )


def _known(images: ImageSet, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Images with a known label: no answer to the others is wrong, so that no search could break them."""
    unknown = np.isnan(images.y[index].astype(np.float64)).reshape(len(index), -1).all(axis=1)
    known: npt.NDArray[np.int64] = index[~unknown]
    return known


def _elsewhere(check: Check, split: str) -> Check:
    """A check of an outside set: images that are darker or lighter look as if they had been prepared in another way."""
    if split == "test" or (check.code, check.verdict) != ("preprocessing_outside", "FAIL"):
        return check
    said = "Or the images of this set are darker or lighter than those that it learned from."
    return replace(check, verdict="WARN", sentence=f"{check.sentence} {said}")


def _surrogate(work: CellWork) -> CellWork | None:
    """The cell of the same model and seed that the plan trains last before this one: a network for transferred images."""
    before = None
    for cell in work.plan.cells:
        if cell == work.cell:
            break
        if (cell.model.label, cell.seed) == (work.cell.model.label, work.cell.seed):
            other = work.others.get((cell.model.label, cell.trainer.label, cell.seed))
            before = other if other is not None and other.trained else before
    return before


def check_lines(work: CellWork, split: str, kind: str, checks: Iterable[Check]) -> pd.DataFrame:
    """Checks of one cell as lines of checks.csv."""
    cell = work.cell
    about = (cell.model.label, cell.trainer.label, cell.seed, split, kind)
    lines = [(*about, check.code, check.title, check.verdict, json.dumps(check.numbers), check.sentence) for check in checks]
    return pd.DataFrame(lines, columns=list(CHECK_COLUMNS))
