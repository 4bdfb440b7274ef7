"""What attacks do to each image: one line an image and radius, judged by us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import right
from cxr_eval.images import Index
from cxr_eval.perturb import input_gradient, project
from cxr_eval.predictions import prediction_table
from cxr_eval.types import PROBABILITY, STAGE_SEPARATOR, Task, format_eps

PREDICTED_SEPARATOR = "|"

CRAFTED_ON = 1000
"""Images at most on which an attack is made that works on other images."""

IndexArray = npt.NDArray[np.int64]


def adversarial(
    classifier: cxr.Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    attack: cxr.Attack,
    eps: float,
    seed: int,
    batch_size: int,
) -> torch.Tensor:
    """The attack's images at one radius, (N, C, H, W) float32 on the CPU, clipped to the ball and to [0, 1].

    x: images, (N, C, H, W) float32 in [0, 1]. y: labels, (N,) class indices or (N, K) findings. Every image is attacked, also
    one that the network gets wrong; for eps 0 the images come back as they are.

    Raises:
        PluginError: the attack returns images of another shape, or numbers that are not finite.
    """
    return _searched(classifier, x, y, attack, eps, eps, seed, batch_size)


def _searched(
    classifier: cxr.Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    attack: cxr.Attack,
    eps: float,
    ball: float,
    seed: int,
    batch_size: int,
) -> torch.Tensor:
    """`adversarial`, with another radius for the ball that images are clipped to."""
    if eps == 0 or len(x) == 0:
        return x.detach().clone().cpu()
    parts = []
    for start in range(0, len(x), batch_size):
        images = x[start : start + batch_size].to(classifier.device)
        labels = y[start : start + batch_size].to(classifier.device)
        found = attack.perturb(classifier, images, labels, eps=eps, seed=seed).detach().to(images.device, torch.float32)
        if found.shape != images.shape:
            raise cxr.PluginError(
                f"{type(attack).__name__}: expected attacked images {tuple(images.shape)}, got {tuple(found.shape)}"
            )
        lost = (~torch.isfinite(found)).flatten(1).any(dim=1)
        if lost.any():
            raise cxr.PluginError(
                f"{type(attack).__name__}: {int(lost.sum())} of {len(images)} attacked images at eps {format_eps(eps)} are not"
                " finite; change the attack's settings, or take another attack"
            )
        parts.append(project(found, images, ball, attack.params.norm).cpu())
    return torch.cat(parts)


def aimed(images: cxr.ImageSet, index: Index, goal: str) -> tuple[IndexArray, torch.Tensor]:
    """Which of the images a goal is about, and their labels as the attack sees them: what does not matter is NaN.

    goal: any; `hide FINDING`: images with the finding, which shall no longer be found; `invent FINDING`: images without it.

    Raises:
        PluginError: the images have no findings that can stand together, or not this one.
    """
    index = np.asarray(index, dtype=np.int64)
    y = images.targets(index)
    if goal == "any":
        return index, y
    what, _, finding = goal.partition(" ")
    if y.ndim == 1:
        raise cxr.PluginError(
            f"goal: '{goal}' is for several findings an image; these images have one class each: use any (the direction of"
            " wrong answers is reported)"
        )
    if finding not in images.classes:
        raise cxr.PluginError(f"goal: '{goal}': no finding is called '{finding}'; they are {', '.join(images.classes)}")
    place = images.classes.index(finding)
    wanted = float(what == "hide")
    meant = (y[:, place] == wanted).numpy()
    labels = torch.full((int(meant.sum()), y.shape[1]), torch.nan)
    labels[:, place] = wanted
    return index[meant], labels


def craft(attack: cxr.Attack, classifier: cxr.Classifier, images: cxr.ImageSet, *, eps: float, seed: int) -> None:
    """Prepare an attack that is made on other images than those it is judged on. images: the others."""
    if attack.crafted and eps > 0:
        index, y = aimed(images, images.draw(len(images)), attack.params.goal)
        attack.craft(classifier, images.take(index[:CRAFTED_ON]), y[:CRAFTED_ON], eps=eps, seed=seed)


def attack_outcomes(
    classifier: cxr.Classifier,
    images: cxr.ImageSet,
    index: Index,
    attack: cxr.Attack,
    *,
    name: str,
    batch_size: int,
    seed: int,
    source: cxr.Classifier | None = None,
    crafting: cxr.ImageSet | None = None,
    before: pd.DataFrame | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """What one attack does to the images `index` at each of its radii: one line an image and radius.

    A cascade: an image that is broken is not attacked again, at any larger radius or by any later stage of the attack (unless
    `skip_broken` is false: then each radius starts anew). An attack that finds nearest wrong images runs once for all radii.

    source: the network that the attack sees, if it is not the one that is judged (a transfer attack). crafting: images that
    attacks are made on which work on others. before: the table of an attack that came before, of the same images or more; what
    it broke is not attacked again (without its column zero_gradient if it saw another network). progress: told how many of all
    lines are done.

    Columns: those of `prediction_table` for the image judged (multi-label: `predicted` names findings, joined by `|`), attack,
    norm, goal, eps, steps (along the loss gradient; 0 if the attack does not follow it), stages (their names, joined by `|`;
    empty for an attack without), clean_correct, robust, by (what broke
    the image first: `ATTACK`, or `ATTACK STAGE`; empty if nothing did), carried (not attacked again), every (True in all lines
    if every image was attacked at every radius), linf and l2 (distance of the image judged from the clean one in pixel units,
    over all pixels and channels), zero_gradient (right without attack, and no pixel of the clean image has a loss gradient;
    always False if the attack does not follow it).

    Raises:
        PluginError: the attack returns images of another shape, or numbers that are not finite.
        DataError: multi-label, and an image has no known label.
    """
    index, y = aimed(images, index, attack.params.goal)
    _all_known(images, index, y, classifier.task)
    cascade = _Cascade(classifier, source or classifier, images, index, y, name, batch_size, seed)
    steps = int(getattr(attack, "steps", 0))
    earlier = None if before is None else _Earlier.of(before, images.table["image_id"].iloc[index])
    blind = np.zeros(len(index), dtype=bool)
    if steps > 0:
        blind = cascade.without_gradient() if earlier is None or earlier.blind is None else earlier.blind
    tables = []
    radii = sorted(set(attack.params.eps))
    for tried, eps in enumerate(radii):
        if earlier is not None:
            cascade.give_up(earlier.radius <= eps, earlier.by)
        attacked = cascade.robust.copy() if attack.params.skip_broken else np.ones(len(index), dtype=bool)
        pending = attacked.copy()
        stages = attack.stages(cascade.attacker)
        for number, (stage_name, stage) in enumerate(stages):
            if crafting is not None and pending.any():
                craft(stage, cascade.attacker, crafting, eps=eps, seed=seed)
            for rows in _batches(np.flatnonzero(pending), batch_size):
                pending[rows] = cascade.attack(stage_name, stage, rows, eps, radii[-1])
                if progress is not None:
                    at = (number * len(index) + int(rows[-1]) + 1) // len(stages)
                    progress(tried * len(index) + at, len(radii) * len(index))
        table = cascade.table().assign(
            attack=name,
            norm=attack.params.norm,
            goal=attack.params.goal,
            eps=eps,
            steps=steps,
            stages=STAGE_SEPARATOR.join(stage for stage, _ in stages),
            carried=~attacked,
            every=not attack.params.skip_broken,
            zero_gradient=blind,
        )
        tables.append(table if earlier is None else earlier.put_into(table, eps))
        if progress is not None:
            progress((tried + 1) * len(index), len(radii) * len(index))
    return pd.concat(tables, ignore_index=True)


class _Cascade:
    """What is known of each image, (N,), while one stage and radius follows another."""

    def __init__(
        self,
        classifier: cxr.Classifier,
        attacker: cxr.Classifier,
        images: cxr.ImageSet,
        index: IndexArray,
        y: torch.Tensor,
        name: str,
        batch_size: int,
        seed: int,
    ) -> None:
        self.classifier, self.attacker, self.images, self.index, self.y = classifier, attacker, images, index, y
        self.name, self.batch_size, self.seed = name, batch_size, seed
        logits = [self._logits(images.take(index[rows])) for rows in _batches(np.arange(len(index)), batch_size)]
        self.logits = torch.cat(logits) if logits else torch.empty(0, classifier.nb_classes)
        self.clean_correct = right(self.logits, y, classifier.task).numpy()
        self.robust = self.clean_correct.copy()
        self.by = np.full(len(index), "", dtype=object)
        self.linf, self.l2 = np.zeros(len(index)), np.zeros(len(index))
        self.nearest: dict[str, _Nearest] = {}

    def give_up(self, rows: npt.NDArray[np.bool_], by: npt.NDArray[np.object_]) -> None:
        """Count images (N,) as broken by others."""
        gone = rows & self.robust
        self.robust[gone], self.by[gone] = False, by[gone]

    def attack(self, stage_name: str, stage: cxr.Attack, rows: IndexArray, eps: float, largest: float) -> npt.NDArray[np.bool_]:
        """Run one stage at one radius on some rows (M,): which of them are still right."""
        clean = self.images.take(self.index[rows])
        if stage.minimal and eps > 0:
            good = self._look_up(stage_name, stage, rows, clean, eps, largest)
        else:
            found = adversarial(self.attacker, clean, self.y[rows], stage, eps, self.seed, self.batch_size)
            self.logits[rows] = self._logits(found)
            self.linf[rows], self.l2[rows] = _distances(found - clean)
            good = np.asarray(right(self.logits[rows], self.y[rows], self.classifier.task), dtype=bool)
        broken = rows[~good & self.robust[rows]]
        self.robust[broken], self.by[broken] = False, f"{self.name} {stage_name}".rstrip()
        return good

    def _look_up(
        self, stage_name: str, stage: cxr.Attack, rows: IndexArray, clean: torch.Tensor, eps: float, largest: float
    ) -> npt.NDArray[np.bool_]:
        """Which rows (M,) have no wrong image within eps; each is searched for once, whatever the number of radii."""
        known = self.nearest.setdefault(stage_name, _Nearest(len(self.index), self.logits.shape[1]))
        new = ~known.tried[rows]
        if new.any():
            here = rows[new]
            found = _searched(self.attacker, clean[new], self.y[here], stage, largest, float("inf"), self.seed, self.batch_size)
            known.logits[here] = self._logits(found)
            known.linf[here], known.l2[here] = _distances(found - clean[new])
            known.wrong[here] = ~right(known.logits[here], self.y[here], self.classifier.task).numpy()
            known.tried[here] = True
        distance = known.linf if stage.params.norm == "linf" else known.l2
        within: npt.NDArray[np.bool_] = known.wrong[rows] & (distance[rows] <= eps)
        taken = rows[within]
        self.logits[taken], self.linf[taken], self.l2[taken] = known.logits[taken], known.linf[taken], known.l2[taken]
        return ~within

    def without_gradient(self) -> npt.NDArray[np.bool_]:
        """Which images (N,) are right and have a loss gradient that is exactly zero in every pixel."""
        zero = np.zeros(len(self.index), dtype=bool)
        device = self.attacker.device
        with cxr.frozen(self.attacker.model):
            for rows in _batches(np.flatnonzero(self.clean_correct), self.batch_size):
                x, y = self.images.take(self.index[rows]).to(device), self.y[rows].to(device)
                gradient = input_gradient(self.attacker.model, x, y, loss=self.attacker.loss)
                zero[rows] = (gradient == 0).flatten(1).all(dim=1).cpu().numpy()
        return zero

    def table(self) -> pd.DataFrame:
        """One line an image: what is predicted of the image judged, and what became of it."""
        table = prediction_table(self.images, self.index, self.logits)
        if self.classifier.task == "multilabel":
            table["predicted"] = _findings(self.logits, self.images.classes)
        return table.assign(
            clean_correct=self.clean_correct,
            robust=self.robust.copy(),
            by=self.by.astype(str),
            linf=self.linf.copy(),
            l2=self.l2.copy(),
        )

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier.logits(x, self.batch_size)


class _Nearest:
    """The nearest wrong images that an attack found, once for all radii: their answers and distances, by image (N,)."""

    def __init__(self, images: int, classes: int) -> None:
        self.tried, self.wrong = np.zeros(images, dtype=bool), np.zeros(images, dtype=bool)
        self.logits = torch.zeros(images, classes)
        self.linf, self.l2 = np.zeros(images), np.zeros(images)


@dataclass(frozen=True)
class _Earlier:
    """What an attack that came before broke, by image (N,): at which radius (inf if never), by what, and its table's line."""

    radius: npt.NDArray[np.float64]
    by: npt.NDArray[np.object_]
    lines: pd.DataFrame
    blind: npt.NDArray[np.bool_] | None
    """Which images have no gradient, where it followed that of the network that this attack sees too."""

    @classmethod
    def of(cls, table: pd.DataFrame, image_ids: pd.Series[str]) -> _Earlier:
        """From the table of `attack_outcomes`.

        Raises:
            PluginError: it lacks some of the images.
        """
        missing = set(image_ids) - set(table["image_id"])
        if missing:
            raise cxr.PluginError(f"after: the attack before saw {len(missing)} images fewer; give both the same 'images'")
        broken = table[table["clean_correct"] & ~table["robust"]].sort_values("eps", kind="stable")
        lines = broken.drop_duplicates("image_id").set_index("image_id").reindex(image_ids.to_numpy())
        by = lines["by"].fillna("").to_numpy(dtype=object)
        blind = None
        if "zero_gradient" in table and (table["steps"] > 0).all():
            known = table.drop_duplicates("image_id").set_index("image_id")["zero_gradient"]
            blind = known.reindex(image_ids.to_numpy()).to_numpy(dtype=bool)
        return cls(lines["eps"].fillna(np.inf).to_numpy(dtype=np.float64), by, lines, blind)

    def put_into(self, table: pd.DataFrame, eps: float) -> pd.DataFrame:
        """The table with the images that broke before as they were judged then."""
        columns = [name for name in table if name in ("predicted", "linf", "l2") or str(name).startswith(PROBABILITY)]
        # what this attack broke at a smaller radius stays its own
        theirs = np.isfinite(self.radius) & (self.radius <= eps) & (table["by"].to_numpy() == self.by)
        for column in columns:
            table[column] = table[column].where(~theirs, pd.Series(self.lines[column].to_numpy(), index=table.index))
        return table


def _all_known(images: cxr.ImageSet, index: IndexArray, y: torch.Tensor, task: Task) -> None:
    if task == "multilabel" and len(index):
        unknown = torch.isnan(y).all(dim=1).numpy()
        if unknown.any():
            first = images.table["image_id"].iloc[index[unknown][0]]
            raise cxr.DataError(
                f"{images.name}: {unknown.sum()} of {len(index)} images to be attacked have no known label, so no attack can be"
                f" judged on them; first: {first}; leave them out"
            )


def _batches(rows: IndexArray, size: int) -> Iterator[IndexArray]:
    yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _distances(change: torch.Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """L-inf and L2 length of each change (N, C, H, W), (N,) each."""
    flat = change.flatten(1)
    return flat.abs().amax(dim=1).double().numpy(), flat.norm(dim=1).double().numpy()


def _findings(logits: torch.Tensor, classes: tuple[str, ...]) -> list[str]:
    """Names of the findings on the far side of 0, joined."""
    return [
        PREDICTED_SEPARATOR.join(name for name, there in zip(classes, row, strict=True) if there)
        for row in (logits > 0).tolist()
    ]
