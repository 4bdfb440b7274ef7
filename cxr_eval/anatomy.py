"""Which parts of the picture a network reads: parts taken away, and attacks that may change one part only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr_eval.attacks.gradient import STEP_REACH, right
from cxr_eval.cells import CellWork
from cxr_eval.evaluation import Anatomy
from cxr_eval.images import ImageSet
from cxr_eval.perturb import pgd
from cxr_eval.predictions import prediction_table
from cxr_eval.store import write_parquet
from cxr_eval.tables import Part

MARKER = "marker"
"""Kind of region that is put on other images too: burned-in letters, which a network may take for the diagnosis."""

Change = tuple[str, torch.Tensor]
"""Name of a condition, and images (M, C, H, W) in it."""


@dataclass(frozen=True)
class Audited:
    """What a network makes of images with one kind of region: predictions by condition, and attacks kept to a part of them.

    predictions: columns of `prediction_table` and `condition`: `intact KIND`, `without KIND`, `only KIND`, and for markers
    `KIND of CLASS`: every image with the marker of an image of that class in place of its own, the images of the class in turn.
    attacks: image_id, patient, label (or label:FINDING), condition (`inside KIND`, `outside KIND`), clean_correct, robust;
    without images that have no known label.
    """

    kind: str
    predictions: pd.DataFrame
    attacks: pd.DataFrame


def audited_kinds(images: ImageSet, settings: Anatomy) -> tuple[str, ...]:
    """Kinds of region that a set has masks of; without the regions that are named like a class."""
    there = [kind for kind in images.regions if kind not in images.classes and len(_marked(images, kind))]
    return tuple(kind for kind in there if settings.regions is None or kind in settings.regions)


def audit_region(work: CellWork, split: str, kind: str, eps: float | None) -> Audited:
    """One kind of region on one split, computed once and kept. eps: radius of the attacks; None leaves them out."""
    images, settings = work.datasets.splits[split], work.plan.protocol.evaluate.anatomy
    assert settings is not None
    index = _marked(images, kind)
    if settings.images is not None:
        drawn = images.draw(len(images))  # the classes in turn
        index = drawn[np.isin(drawn, index)][: settings.images]
    content = {
        "kind": "anatomy",
        "region": kind,
        "images": work.datasets.hashes[split],
        "index": index.tolist(),
        "fill": settings.fill,
        "eps": eps,
        "steps": settings.steps,
    }
    with work.evaluation(content, f"{split}, what is read inside and outside of {kind}") as evaluation:
        if not evaluation.done:
            size = work.plan.protocol.evaluate.batch_size
            shown, attacked = list[pd.DataFrame](), list[pd.DataFrame]()
            donors = _donors(images, index) if kind == MARKER else {}
            for start in range(0, len(index), size):
                rows = index[start : start + size]
                x, mask = images.take(rows), torch.from_numpy(images.region(kind, rows))[:, None]
                lent = {name: lenders[np.arange(start, start + len(rows)) % len(lenders)] for name, lenders in donors.items()}
                for condition, changed in _changes(images, x, mask, kind, settings, lent):
                    logits = work.classifier.logits(changed, size)
                    shown.append(prediction_table(images, rows, logits).assign(condition=condition))
                if eps is not None:
                    attacked += _attacked(work, images, rows, x, mask, kind, eps, settings.steps)
                work.progress(f"anatomy of {kind} on {split}", start + len(rows), len(index))
            folder = evaluation.begin()
            write_parquet(folder / "predictions.parquet", pd.concat(shown, ignore_index=True))
            if attacked:
                write_parquet(folder / "attacks.parquet", pd.concat(attacked, ignore_index=True))
    folder, attacks = evaluation.folder, pd.DataFrame()
    if (folder / "attacks.parquet").is_file():
        attacks = work.tables.add("anatomy attacks", [Part(folder.name, "attacks.parquet")], split=split, condition=kind)
    predictions = work.tables.add("anatomy", [Part(folder.name, "predictions.parquet")], split=split, condition=kind)
    return Audited(kind, predictions, attacks)


def _marked(images: ImageSet, kind: str) -> npt.NDArray[np.int64]:
    """Rows with a region of this kind that is neither empty nor the whole image."""
    rows = np.flatnonzero(images.regions[kind].row >= 0)
    share = images.region(kind, rows).mean(axis=(1, 2))
    marked: npt.NDArray[np.int64] = rows[(share > 0) & (share < 1)]
    return marked


def _donors(images: ImageSet, index: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """By class, the rows of its images in `index`, whose markers the others get; of findings none."""
    of_class = {name: index[images.y[index] == k] for k, name in enumerate(images.classes if images.y.ndim == 1 else ())}
    return {name: rows for name, rows in of_class.items() if len(rows)}


def _changes(
    images: ImageSet,
    x: torch.Tensor,
    mask: torch.Tensor,
    kind: str,
    settings: Anatomy,
    lent: dict[str, npt.NDArray[np.int64]],
) -> Iterator[Change]:
    """The images as they are, without the region, with nothing else, and with the markers of the rows `lent` (M,) by class."""
    filling = x.mean(dim=(2, 3), keepdim=True).expand_as(x) if settings.fill == "mean" else torch.zeros_like(x)
    without = torch.where(mask, filling, x)
    yield f"intact {kind}", x
    yield f"without {kind}", without
    yield f"only {kind}", torch.where(mask, x, filling)
    for name, lenders in lent.items():
        place = torch.from_numpy(images.region(kind, lenders))[:, None]
        yield f"{kind} of {name}", torch.where(place, images.take(lenders), without)


def _attacked(
    work: CellWork,
    images: ImageSet,
    rows: npt.NDArray[np.int64],
    x: torch.Tensor,
    mask: torch.Tensor,
    kind: str,
    eps: float,
    steps: int,
) -> Iterator[pd.DataFrame]:
    """Which images withstand PGD that may change only the pixels inside, or only those outside of the region."""
    classifier, y = work.classifier, images.targets(rows)
    if y.ndim == 2:
        # an image of which nothing is known would count as robust: no answer to it is wrong
        known = ~torch.isnan(y).all(dim=1)
        if not known.any():
            return
        rows, x, mask, y = rows[known.numpy()], x[known], mask[known], y[known]
    correct = right(classifier.logits(x), y, classifier.task)
    device = classifier.device
    for condition, part in ((f"inside {kind}", mask), (f"outside {kind}", ~mask)):
        found = pgd(
            classifier.model,
            x.to(device),
            y.to(device),
            eps=eps * part.to(device, torch.float32),
            step=STEP_REACH / steps * eps,
            steps=steps,
            loss=classifier.loss,
        )
        logits = classifier.logits(found)
        robust = correct & right(logits, y, classifier.task)
        about = prediction_table(images, rows, logits)
        columns = [name for name in about if not str(name).startswith("p_")]
        yield about[columns].assign(condition=condition, clean_correct=correct.numpy(), robust=robust.numpy())
