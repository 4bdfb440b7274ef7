"""The training loop: epochs, batch order, random streams, choice of the best epoch, checkpoint and resume."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cxr_eval.errors import TrainingError
from cxr_eval.images import ImageSource
from cxr_eval.seeds import stream
from cxr_eval.training import Optimizer, Training
from cxr_eval.validation import Validation

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """One training step's images.

    x: (B, C, H, W) float32 in [0, 1], augmented. y: (B,) int64, or (B, K) float32 with NaN for unknown findings.
    index: (B,) int64, rows in the training set, so that per-image state is a tensor indexed by it. epoch: from 0.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: torch.Tensor
    epoch: int


@dataclass(frozen=True)
class Progress:
    """Where training stands: epoch and batch count from 1 to their totals; `scores` are the last epoch's history row."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    scores: dict[str, float] = field(default_factory=dict)


def _seed(device: torch.device, seed: int) -> None:
    """Seed torch's own generator of the CPU and of one device; `torch.manual_seed` would seed all GPUs."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def build_optimizer(settings: Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The torch optimizer that the settings describe, over the parameters."""
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


class Batches(Protocol):
    """Where an epoch's batches come from; both doors of a trainer, `fit` and `fit_generator`, give one."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Batches of one epoch on the training device, not augmented."""
        ...

    def in_order(self) -> Iterator[Batch]:
        """Every image once, by its row in the training set.

        Raises:
            ValueError: the images come from a generator, which gives them in its own order.
        """
        ...


class Shuffled:
    """Every image once an epoch, in an order that follows from seed and epoch alone."""

    def __init__(self, images: ImageSource, y: torch.Tensor, batch_size: int, seed: int, device: torch.device) -> None:
        self.images, self.y, self.seed, self.device = images, y.to(device), seed, device
        sizes = [batch_size] * (len(images) // batch_size)
        left = len(images) % batch_size
        if left == 1 and sizes:
            sizes[-1] += 1  # BatchNorm cannot learn from one image alone
        elif left:
            sizes.append(left)
        self.sizes = sizes
        self.resident = self._on_device()

    def _on_device(self) -> torch.Tensor | None:
        """All images in device memory where that is a GPU's and they take less than half of what is free."""
        if self.device.type != "cuda" or not len(self.images):
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        if len(self.images) * self.images.take([0]).numel() * 4 > free / 2:
            return None
        resident = torch.empty((len(self.images), *self.images.take([0]).shape[1:]), device=self.device)
        for start in range(0, len(self.images), 256):  # the host never holds the whole set
            index = np.arange(start, min(start + 256, len(self.images)))
            resident[start : start + len(index)] = self.images.take(index).to(self.device)
        return resident

    def __len__(self) -> int:
        return len(self.sizes)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(stream(self.seed, "order", epoch)))
        yield from self._along(order, epoch)

    def in_order(self) -> Iterator[Batch]:
        yield from self._along(torch.arange(len(self.images)), 0)

    def _along(self, order: torch.Tensor, epoch: int) -> Iterator[Batch]:
        rows = torch.split(order.to(self.device), self.sizes)  # at once: a copy for each batch would make the host wait
        for index, row in zip(torch.split(order, self.sizes), rows, strict=True):
            x = self.images.take(index.numpy()).to(self.device) if self.resident is None else self.resident[row]
            yield Batch(x, self.y[row], row, epoch)


class Trainable(Protocol):
    """What the loop needs from a trainer."""

    model: torch.nn.Module
    device: torch.device
    rng: torch.Generator
    params: Any

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> torch.Tensor: ...
    def eps_range(self) -> tuple[float, float] | None: ...
    def on_epoch_end(self, epoch: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def logged(self) -> dict[str, float]: ...


@dataclass
class Fitting:
    """One training from the first to the last epoch; `run` leaves the best weights in the trainer's model."""

    trainer: Trainable
    batches: Batches
    training: Training
    optimizer: torch.optim.Optimizer
    seed: int
    images: int
    validation: Validation | None = None
    scheduler: Any = None
    augment: Augmentation | None = None
    checkpoint: Path | None = None
    progress: Callable[[Progress], None] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] | None = None

    def run(self) -> list[dict[str, float]]:
        """History, one row an epoch: epoch, lr, train_loss, what the trainer logged, validation scores.

        Raises:
            TrainingError: a loss is not finite; names epoch and batch.
        """
        base = [float(group["lr"]) for group in self.optimizer.param_groups]
        start = self._resume()
        layout = torch.channels_last if self.training.channels_last else torch.contiguous_format
        model = self.trainer.model.to(memory_format=layout)
        for epoch in range(start, self.training.epochs):
            if self._patience_lost(epoch):
                break
            if self.scheduler is None:
                factor = self.training.schedule.factor(epoch, self.training.epochs)
                for group, lr in zip(self.optimizer.param_groups, base, strict=True):
                    group["lr"] = lr * factor
            row = {"epoch": float(epoch), "lr": float(self.optimizer.param_groups[0]["lr"])}
            row["train_loss"] = self._epoch(epoch, layout)
            if self.scheduler is not None:
                self.scheduler.step()
            self.trainer.on_epoch_end(epoch)
            row |= self.trainer.logged()
            self._judge(epoch, row)
            self.history.append(row)
            self._save(epoch)
            self._tell(epoch, len(self.batches), row)
        model.to(memory_format=torch.contiguous_format)
        if self.best_weights is not None:
            model.load_state_dict(self.best_weights)
        model.eval()
        return self.history

    def _epoch(self, epoch: int, layout: torch.memory_format) -> float:
        trainer, device = self.trainer, self.trainer.device
        trainer.rng.manual_seed(stream(self.seed, "noise", epoch))
        augment_rng = torch.Generator(device).manual_seed(stream(self.seed, "augment", epoch))
        total, seen = torch.zeros((), device=device), 0
        first_bad = torch.full((), len(self.batches), device=device)  # on the device: no step waits for the host
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            _seed(device, stream(self.seed, "dropout", epoch))
            trainer.model.train()
            for number, batch in enumerate(self.batches.epoch(epoch)):
                x = batch.x if self.augment is None else self.augment(batch.x, augment_rng)
                batch = Batch(x.contiguous(memory_format=layout), batch.y, batch.index, epoch)
                loss = trainer.step(batch, self.optimizer).float()
                first_bad = torch.where(torch.isfinite(loss), first_bad, first_bad.clamp(max=number))
                total, seen = total + loss * len(x), seen + len(x)
                self._tell(epoch, number + 1, {})
        if int(first_bad) < len(self.batches):
            radii = trainer.eps_range()
            eps = "" if radii is None else f" (eps {radii[0]:.4g}..{radii[1]:.4g})"
            raise TrainingError(
                f"the loss is not finite at epoch {epoch + 1}, batch {int(first_bad) + 1} of {len(self.batches)}{eps};"
                f" lower the learning rate{'' if radii is None else ' or the radius'}"
            )
        return float(total) / max(1, seen)

    def _judge(self, epoch: int, row: dict[str, float]) -> None:
        if self.validation is None:
            return
        row |= self.validation.score(self.trainer.model, self.trainer.device)
        if self.validation.select.metric == "last":
            return
        improved, value = self.validation.better(row, self.best)
        if improved:
            self.best, self.best_epoch = value, epoch
            self.best_weights = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in self.trainer.model.state_dict().items()
            }

    def _patience_lost(self, epoch: int) -> bool:
        patience = self.training.select.patience
        return patience is not None and self.best_epoch >= 0 and epoch - self.best_epoch > patience

    def _tell(self, epoch: int, batch: int, row: dict[str, float]) -> None:
        if self.progress is not None:
            self.progress(Progress(epoch + 1, self.training.epochs, batch, len(self.batches), row))

    def _save(self, epoch: int) -> None:
        if self.checkpoint is None:
            return
        state = {
            "epoch": epoch,
            "model": self.trainer.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "trainer": self.trainer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "settings": self._identity(),
            "history": self.history,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        part = self.checkpoint.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.checkpoint)

    def _identity(self) -> str:
        """What a resumed training must share with the one that wrote the checkpoint; more epochs may follow."""
        open_end = self.training.schedule.name != "cosine"  # a cosine's shape follows from the number of epochs
        settings = self.training.model_dump_json(exclude={"epochs"} if open_end else None)
        name, params = type(self.trainer).__qualname__, repr(self.trainer.params)
        return f"{name} {params}, seed {self.seed}, {self.images} images in {len(self.batches)} batches, {settings}"

    def _resume(self) -> int:
        """The epoch to go on with: 0, or the one after the checkpoint's.

        Raises:
            ValueError: the checkpoint is of a training with other settings.
        """
        if self.checkpoint is None:
            return 0
        if self.scheduler is not None and not hasattr(self.scheduler, "state_dict"):
            raise ValueError("a scheduler without state_dict cannot survive a resume; give one that has it, or no checkpoint")
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, map_location=self.trainer.device, weights_only=True)
        if state["settings"] != self._identity():
            raise ValueError(f"{self.checkpoint}: checkpoint of a training with other settings; delete it or name another file")
        self.trainer.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.trainer.load_state_dict(state["trainer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.history, self.best, self.best_epoch = state["history"], state["best"], state["best_epoch"]
        self.best_weights = state["best_weights"]
        return int(state["epoch"]) + 1
