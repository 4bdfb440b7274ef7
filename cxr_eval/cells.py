"""Training of one cell (model x trainer x seed) and its predictions, each computed once and kept in the run folder."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import safetensors.torch
import torch

from cxr_eval.attacks.similarity import ssim
from cxr_eval.classifier import Classifier
from cxr_eval.data.augment import affine
from cxr_eval.data.datasets import Datasets
from cxr_eval.errors import PluginError, TrainingError, raised_at
from cxr_eval.events import Event
from cxr_eval.fitting import Progress
from cxr_eval.images import ImageSet
from cxr_eval.plan import Cell, Plan
from cxr_eval.planned import PlannedPlugin
from cxr_eval.plugin import Corruption
from cxr_eval.predictions import prediction_table
from cxr_eval.seeds import stream
from cxr_eval.stats.subgroups import subgroup_values
from cxr_eval.store import Run, Work, content_key, file_hash, write_csv, write_parquet, write_whole
from cxr_eval.tables import CellTables, Part
from cxr_eval.trainer import COLUMNS, Trainer
from cxr_eval.training import Training

_TRACEBACK = "error.txt"

CellName = tuple[str, str, int]
"""Labels of model and trainer, and the seed."""


@dataclass
class CellWork:
    """One cell of a run: it trains what is not trained and evaluates what is not evaluated."""

    run: Run
    plan: Plan
    cell: Cell
    datasets: Datasets
    device: str
    tell: Callable[[Event], None]
    warm_start: CellWork | None = None
    """The cell whose weights training starts from."""
    reference: CellWork | None = None
    """The cell whose network the trainer looks at."""
    others: Mapping[CellName, CellWork] = field(default_factory=dict)
    """All cells of the run, on whose networks transfer attacks are made."""
    key: str = field(init=False)
    tables: CellTables = field(init=False)
    """The per-image tables that were used of this cell."""
    failure: str = field(default="", init=False)
    """Why it could not be trained; it is not tried twice."""

    def __post_init__(self) -> None:
        protocol = self.plan.protocol
        training = protocol.train.model_dump(mode="json", exclude={"seeds"})
        needed = {"warm_start": self.warm_start, "reference": self.reference}
        self.key = content_key(
            {
                "cxr-eval": version("cxr-eval"),
                "train": self.datasets.contents["train"],
                "val": self.datasets.contents["val"],
                "classes": list(self.datasets.classes),
                "augment": protocol.data.augment.model_dump(mode="json"),
                "model": identity(self.cell.model),
                "trainer": identity(self.cell.trainer),
                "training": training,
                "seed": self.cell.seed,
            }
            | {name: work.key for name, work in needed.items() if work is not None}
        )
        self.tables = CellTables(self.run.cell(self.key).folder)

    @property
    def name(self) -> str:
        """The cell as a person calls it."""
        return f"{self.cell.model.label} / {self.cell.trainer.label} / seed {self.cell.seed}"

    @property
    def trained(self) -> bool:
        """True if this cell's weights are there."""
        return self._there(self.run.cell(self.key), None)

    def train(self) -> None:
        """Weights and history of this cell, unless they are there already.

        Raises:
            TrainingError: the cell cannot be trained, or one that it needs was not.
        """
        if self.trained:
            return
        if self.failure:
            raise TrainingError(self.failure)
        try:
            for need in (self.warm_start, self.reference):
                if need is not None:
                    need.train_for_another()
            self._fit()
        except (TrainingError, PluginError) as error:
            self.failure = str(error)
            raise

    def train_for_another(self) -> None:
        """`train`, for a cell that needs this network.

        Raises:
            TrainingError: it could not be trained.
        """
        try:
            self.train()
        except (TrainingError, PluginError) as error:
            raise TrainingError(f"it needs the network of '{self.cell.trainer.label}', whose training failed") from error

    def _fit(self) -> None:
        work = self.run.cell(self.key)
        folder = work.begin()
        started = time.monotonic()
        classifier = self.untrained() if self.warm_start is None else self.warm_start.fitted()
        reference = None if self.reference is None else self.reference.fitted()
        trainer = self.trainer(classifier, reference)
        train, val = self.datasets.splits["train"], self.datasets.splits["val"]
        augment = self.plan.protocol.data.augment
        try:
            trainer.fit(
                train,
                train.y,
                validation_data=(val, val.y),
                augment=lambda x, rng: affine(x, augment, rng),
                checkpoint=folder / "checkpoint.pt",
                progress=self._training_progress,
            )
        except TrainingError:
            raise
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; the other cells go on
            write_whole(folder / _TRACEBACK, traceback.format_exc().encode())
            said = f"{raised_at(error)}{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            left = (folder / _TRACEBACK).relative_to(self.run.folder)
            raise TrainingError(f"{type(trainer).__name__}: {said}; the whole of it is in {left}") from error
        (folder / _TRACEBACK).unlink(missing_ok=True)
        # copies: safetensors refuses tensors that share memory, as tied weights do
        weights = {
            name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in classifier.model.state_dict().items()
        }
        write_whole(folder / "weights.safetensors", safetensors.torch.save(weights))
        write_csv(folder / "history.csv", pd.DataFrame(trainer.history, columns=None if trainer.history else [*COLUMNS[3:]]))
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        seconds = time.monotonic() - started
        parameters = sum(weight.numel() for weight in classifier.model.parameters())
        work.finish(
            seconds=seconds,
            parameters=parameters,
            epochs=len(trainer.history),
            best_epoch=trainer.best_epoch,
            device=str(classifier.device),
            torch=torch.__version__,
        )
        did = f"trained {len(trainer.history)} epochs in {seconds:.0f} s" if trainer.trains else "the network is taken as it is"
        self.tell(Event(f"{self.name}: {did}", name=self.name))

    def trainer(self, classifier: Classifier, reference: Classifier | None = None) -> Trainer:
        """The trainer of this cell around a classifier; without a reference the network itself stands for one.

        Raises:
            PluginError: the trainer cannot work on this task, or with the protocol's training settings.
        """
        planned, settings = self.cell.trainer, self.plan.protocol.train.model_dump(exclude={"seeds"})
        looked_at = (reference or classifier).model if planned.cls.uses_reference else None
        training = Training.model_validate(settings)
        try:
            made: Trainer = planned.cls(
                classifier, params=planned.params, training=training, seed=self.cell.seed, reference=looked_at
            )
        except ValueError as error:
            raise PluginError(f"{planned.label}: {error}") from error
        except (Exception, SystemExit) as error:  # a plugin may fail in any way
            said = f"{raised_at(error)}{type(error).__name__}: {error}"
            raise PluginError(f"{planned.label}: {said}") from error
        return made

    def clean(self, split: str) -> pd.DataFrame:
        """Predictions on one split."""
        images = self.datasets.splits[split]
        key = {"kind": "predictions", "images": self.datasets.hashes[split]}
        with self.evaluation(key, f"{split}, clean") as work:
            if not work.done:
                index = np.arange(len(images))
                table = prediction_table(images, index, self._logits(images, index, lambda x: x))
                write_parquet(work.begin() / "images.parquet", table)
        return self.tables.add("clean", [Part(work.folder.name, "images.parquet")], split=split)

    def corrupted(self, planned: PlannedPlugin, split: str, severity: int) -> pd.DataFrame:
        """Predictions on corrupted images of one split, with `ssim`, how alike each still is to the one without corruption."""
        images = self.datasets.splits[split]
        key = {
            "kind": "corruption",
            "corruption": identity(planned, "severity"),
            "severity": severity,
            "images": self.datasets.hashes[split],
            "ssim": True,
        }
        with self.evaluation(key, f"{split}, {planned.label}:{severity}") as work:
            if not work.done:
                corruption: Corruption = planned.cls(planned.params)
                index, alike = np.arange(len(images)), list[torch.Tensor]()

                def corrupt(x: torch.Tensor) -> torch.Tensor:
                    changed = corruption.corrupt(x, severity=severity, seed=0)  # the same noise for every network
                    alike.append(ssim(x, changed))
                    return changed

                table = prediction_table(images, index, self._logits(images, index, corrupt))
                write_parquet(work.begin() / "images.parquet", table.assign(ssim=torch.cat(alike).numpy()))
        condition = f"{planned.label}:{severity}"
        return self.tables.add("corrupted", [Part(work.folder.name, "images.parquet")], split=split, condition=condition)

    def subgroups(self, split: str) -> pd.DataFrame:
        """The subgroup of each image of one split: image_id, and a column for each that the protocol asks for and is there."""
        settings = self.plan.protocol.evaluate
        key = {
            "kind": "subgroups",
            "images": self.datasets.hashes[split],
            "columns": list(settings.subgroups),
            "age_bands": list(settings.age_bands),
        }
        with self.evaluation(key, f"{split}, subgroups", say=False) as work:
            if not work.done:
                found = subgroup_values(self.datasets.splits[split].table, settings.subgroups, settings.age_bands)
                write_parquet(work.begin() / "images.parquet", found.reset_index())
        return self.tables.add("subgroups", [Part(work.folder.name, "images.parquet")], split=split)

    @cached_property
    def classifier(self) -> Classifier:
        """The trained classifier; loaded only if something has to be computed with it."""
        return self.fitted()

    def fitted(self) -> Classifier:
        """A new classifier with this cell's trained weights."""
        classifier = self.untrained()
        weights = safetensors.torch.load_file(self.run.cell(self.key).folder / "weights.safetensors")
        classifier.model.load_state_dict(weights)
        return classifier

    def release(self) -> None:
        """Let go of the network; it is loaded again if it is needed."""
        self.__dict__.pop("classifier", None)

    def untrained(self) -> Classifier:
        """The classifier before training, with the same first weights for every trainer of one model and seed.

        Raises:
            PluginError: the network cannot take these images, or its weights file does not fit.
        """
        train = self.datasets.splits["train"]
        channels, size, _ = train.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self.cell.seed, "weights", self.cell.model.name))
            try:
                model = self.cell.model.cls(self.cell.model.params).build(
                    channels=channels, classes=len(self.datasets.classes), size=size
                )
            except PluginError:
                raise
            except (Exception, SystemExit) as error:  # a plugin may fail in any way
                said = f"{raised_at(error)}{type(error).__name__}: {error}"
                raise PluginError(f"{self.cell.model.label}: {said}") from error
        return Classifier(
            model,
            input_shape=train.shape,
            nb_classes=len(self.datasets.classes),
            task=self.datasets.task,
            device=self.device,
        )

    def _logits(
        self, images: ImageSet, index: npt.NDArray[np.int64], change: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        size = self.plan.protocol.evaluate.batch_size
        parts = []
        for start in range(0, len(index), size):
            parts.append(self.classifier.logits(change(images.take(index[start : start + size])), size))
        return torch.cat(parts)

    @contextmanager
    def evaluation(self, content: dict[str, Any], what: str, *, say: bool = True) -> Iterator[Work]:
        """One evaluation: found in this run or in one beside it, or computed inside the block and marked done after.

        content: everything that its numbers depend on. what: the same for a person, told when it is done, if `say`.
        """
        work = self.run.evaluation(self.key, content_key(content | {"cxr-eval": version("cxr-eval")}))
        there = self._there(work, work.folder.name)
        started = time.monotonic()
        yield work
        if not there:
            work.finish(
                what=what,
                **content,
                seconds=time.monotonic() - started,
                device=str(self.classifier.device),
                torch=torch.__version__,
            )
            if say:
                self.tell(Event(f"{self.name}: {what}, {time.monotonic() - started:.0f} s", name=self.name))

    def _there(self, work: Work, evaluation: str | None) -> bool:
        if work.done:
            return True
        for other in self.run.neighbours(self.key, evaluation):
            work.adopt(other)
            if evaluation is None:
                self.tell(Event(f"{self.name}: trained already in {other.folder.parents[1]}, taken from there", name=self.name))
            return True
        return False

    def progress(self, step: str, done: int, total: int) -> None:
        """Tell how far a step of this cell is."""
        self.tell(Event(step=step, done=done, total=total, name=self.name))

    def _training_progress(self, progress: Progress) -> None:
        done = (progress.epoch - 1) * progress.batches + progress.batch
        total = progress.epochs * progress.batches
        self.tell(Event(step="training", done=done, total=total, name=self.name, scores=progress.scores))


def identity(planned: PlannedPlugin, *apart: str) -> dict[str, Any]:
    """What makes a plugin's result: its name, the package version it comes from, and its settings but those named `apart`.

    Which splits a plugin is used on never belongs to it: it is part of the images. A file counts by its content.
    """
    settings = {name: _content(value) for name, value in planned.settings.items() if name not in ("splits", *apart)}
    return {"name": planned.name, "settings": settings, "origin": planned.origin}


def _content(value: Any) -> Any:
    """A setting, or the hash of the file that it names."""
    if isinstance(value, dict):
        return {name: _content(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_content(inner) for inner in value]
    path = os.path.expanduser(value) if isinstance(value, str) else ""
    return f"sha256:{file_hash(Path(path))}" if os.path.isfile(path) else value
