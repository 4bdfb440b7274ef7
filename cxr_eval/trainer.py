"""The base of every trainer: an ART Trainer that owns the training loop, so that a plugin writes one loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pydantic
import torch

from cxr_eval.classifier import PyTorchClassifier as PyTorchClassifier
from cxr_eval.complaints import complaints
from cxr_eval.criteria import MaskedBCE, balanced_weights, divergences, image_losses, plain_criterion
from cxr_eval.errors import TrainingError
from cxr_eval.fitting import Augmentation, Batch, Batches, Fitting, Progress, Shuffled, build_optimizer
from cxr_eval.images import Images, as_source
from cxr_eval.inputs import Labels, as_labels, check_classifier, check_loss
from cxr_eval.params import Params as Settings
from cxr_eval.perturb import Loss
from cxr_eval.seeds import stream
from cxr_eval.training import Training
from cxr_eval.types import Task
from cxr_eval.validation import Validation

from art.defences.trainer import Trainer as ArtTrainer  # isort: skip  # after classifier, which keeps ART off our logging

COLUMNS = ("model", "trainer", "seed", "epoch", "lr", "train_loss")
"""Columns of the history that a trainer cannot log."""


class Trainer(ArtTrainer):  # type: ignore[misc]  # ART has no types
    """Subclass it, write `loss`, and it is a trainer: of cxr-eval, and of ART.

    A plugin may also override `on_fit_start`, `on_epoch_end`, and `state_dict` with `load_state_dict` for what must survive a
    resume; `log` puts a number into the training history. `self.model`, `self.device`, `self.criterion` and `self.rng` are
    there inside `loss`, with `losses`, `divergence` and `clean_batches`. For one seed every trainer sees the same batches: the
    plugin's noise (`self.rng`), the batch order and dropout are three separate random streams.
    """

    source: ClassVar[str] = ""
    """Paper with equation; printed by `plugins describe` and in the report."""

    adversarial: ClassVar[bool] = False
    """True if the trained network is meant to withstand attacks."""

    trains: ClassVar[bool] = True
    """False if it takes the network as it is, whose weights must then all be given."""

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel")
    """What the method is defined for: one class an image, or findings that may stand together, some of them unknown."""

    uses_reference: ClassVar[bool] = False
    """True if the method looks at a network that was trained before, `self.reference`."""

    Params: ClassVar[type[Settings]] = Settings

    def __init__(
        self,
        classifier: PyTorchClassifier,
        *,
        params: Settings | None = None,
        training: Training | None = None,
        seed: int = 0,
        reference: torch.nn.Module | PyTorchClassifier | None = None,
        **settings: Any,
    ) -> None:
        """Take any ART PyTorchClassifier for images in [0, 1], and the trainer's settings by name.

        training: the loop's settings. Without them the classifier's own optimizer is used, if it has one.
        seed: everything random in training follows from it.
        reference: a network trained before, from images in [0, 1] to logits, or a classifier around one, for the methods that
            look at one.

        Raises:
            ValueError: a setting is unknown, of another type, or out of its bounds; the classifier changes images before the
                network sees them, or has a loss that training would not use; the method is not defined for the classifier's
                task; a reference is missing or has no use.
        """
        super().__init__(classifier)
        check_classifier(classifier)
        if params is not None and settings:
            raise ValueError(f"expected params, or settings by name; got params and {', '.join(settings)}")
        self.params: Any = self._accepted(settings) if params is None else params
        self.training = Training() if training is None else training
        self.seed = seed
        self.model: torch.nn.Module = classifier.model
        self.device: torch.device = classifier.device
        self.task: Task = getattr(classifier, "task", "multiclass")
        if self.task not in self.tasks:
            raise ValueError(
                f"{type(self).__name__} is not defined for a {self.task} task, only for {' and '.join(self.tasks)}"
            )
        if isinstance(reference, PyTorchClassifier):
            reference = reference.model
        if reference is not None and not isinstance(reference, torch.nn.Module):
            raise ValueError(f"expected a network as reference, got {type(reference).__name__}")
        if self.uses_reference != (reference is not None):
            needs = (
                "needs reference=NETWORK, one that was trained before" if self.uses_reference else "has no use for a reference"
            )
            raise ValueError(f"{type(self).__name__} {needs}")
        self.reference: torch.nn.Module | None = reference
        self.classes: int = classifier.nb_classes
        self.rng = torch.Generator(self.device).manual_seed(seed)
        self.criterion: Loss = self._criterion(None)
        self.history: list[dict[str, float]] = []
        self.best_epoch = -1
        self._logged: dict[str, list[torch.Tensor | float]] = {}
        self._batches: Batches | None = None
        self._optimizer = classifier.optimizer if training is None else None

    @abstractmethod
    def loss(self, batch: Batch) -> torch.Tensor:
        """Loss of one batch, a finite scalar with gradient. The model is in training mode."""

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """One step of training; its loss, a scalar without gradient.

        Override it only if the step is not the gradient of one loss.

        Raises:
            TypeError: `loss` gave no scalar tensor with gradient.
        """
        optimizer.zero_grad(set_to_none=True)
        with self._precision():
            loss = self.loss(batch)
        check_loss(loss, f"{type(self).__name__}.loss")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def losses(self, logits: torch.Tensor, y: torch.Tensor, *, weighted: bool = True) -> torch.Tensor:
        """The criterion image by image, (N,) float32; for findings the mean over an image's known ones, 0 without any.

        weighted: with the criterion's weights and smoothing; False for the plain loss, which says how sure the network is of an
            image whatever its class weighs.
        The mean over images is the criterion itself only without class weights and unknown findings.
        """
        return image_losses(self.criterion if weighted else plain_criterion(self.task), logits.float(), y)

    def batch_criterion(self, y: torch.Tensor) -> Loss:
        """The criterion with the weights that this batch's labels give it, to be used on a part of the batch."""
        return self.criterion.of(y) if isinstance(self.criterion, MaskedBCE) else self.criterion

    def divergence(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Mean over images of KL(p || q) of two predictions, given as logits (N, K); gradients flow through both.

        p and q are the softmax of the logits; for findings Bernoulli variables, averaged over findings as the criterion is.
        """
        found = divergences(p, q, self.task).mean()
        over_findings = self.task == "multilabel" and self.training.finding_loss == "mean"
        return found / self.classes if over_findings else found

    def clean_batches(self) -> Iterator[Batch]:
        """Every training image once, by its row, as it is without augmentation; for use in `on_fit_start`.

        Raises:
            ValueError: the images come from a generator, which has no rows.
            RuntimeError: nothing is being fitted.
        """
        if self._batches is None:
            raise RuntimeError("clean_batches are those of a fit; call it in on_fit_start or later in a fit")
        return self._batches.in_order()

    @property
    def by_row(self) -> bool:
        """True if `batch.index` names an image from epoch to epoch; a generator gives images in its own order."""
        return not isinstance(self._batches, _Generated)

    def eps_range(self) -> tuple[float, float] | None:
        """Smallest and largest radius in force, for messages and checks: `eps_min` and `eps` of the settings, None without."""
        largest = getattr(self.params, "eps", None)
        if largest is None:
            return None
        smallest = getattr(self.params, "eps_min", None)
        return (largest if smallest is None else smallest), largest

    @property
    def stays_within_eps(self) -> bool:
        """False if images are changed by more than the radius before the network sees them, as by a mask."""
        return True

    def on_fit_start(self, n: int) -> None:
        """Called once before the first epoch with the number of training images."""

    def on_epoch_end(self, epoch: int) -> None:
        """Called after the last batch of an epoch (from 0), before validation."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text that must survive a resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def log(self, name: str, value: torch.Tensor | float) -> None:
        """Put a number into the history; its mean over the batches of an epoch is kept.

        Raises:
            ValueError: the history has a column of that name already, or it is not one number.
        """
        if name in COLUMNS or name.startswith("val_"):
            raise ValueError(f"'{name}' is a column of the history already; log it under another name")
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ValueError(f"log '{name}': expected one number, got a tensor of shape {tuple(value.shape)}; give its mean")
        self._logged.setdefault(name, []).append(value.detach() if isinstance(value, torch.Tensor) else value)

    def logged(self) -> dict[str, float]:
        """Means of what was logged since the last call, by name."""
        means = {name: float(torch.as_tensor(values).float().mean()) for name, values in self._logged.items()}
        self._logged.clear()
        return means

    def fit(
        self,
        x: Images,
        y: Labels,
        validation_data: tuple[Images, Labels] | None = None,
        batch_size: int | None = None,
        nb_epochs: int | None = None,
        *,
        scheduler: Any = None,
        augment: Augmentation | None = None,
        checkpoint: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Train the classifier; ART's signature and keyword names.

        x: (N, C, H, W) float32 in [0, 1], or anything that gives such rows (`ImageSet`).
        y: (N,) class indices, (N, K) one-hot, or (N, K) findings with NaN for unknown ones. The caller's data is not changed.
        validation_data: images that pick the best epoch; without them the last epoch is kept.
        scheduler: any object with `step()`, called once an epoch; without it the schedule of `training` holds.
        checkpoint: file written after each epoch; if it is there, training goes on from it, to the same weights.

        Raises:
            ValueError: images or labels of another type, shape or range.
            TypeError: a plugin's `loss` gives no scalar tensor with gradient.
            TrainingError: a loss is not finite.
        """
        training = self._settings(batch_size, nb_epochs)
        images, labels = as_source(x), self._labels(y, len(x))
        self.criterion = self._criterion(labels)
        validation = None
        if validation_data is not None:
            validation = Validation(
                as_source(validation_data[0]),
                self._labels(validation_data[1], len(validation_data[0])),
                self.task,
                self.classes,
                training.select,
                training.batch_size,
                self.criterion,
            )
        batches = Shuffled(images, labels, training.batch_size, self.seed, self.device)
        self._run(batches, len(images), training, validation, scheduler, augment, checkpoint, progress)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int | None = None,
        *,
        scheduler: Any = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Train from an ART DataGenerator; `size // batch_size` batches an epoch. `scheduler` and `progress` are as in `fit`.

        `batch.index` counts images within the epoch: it names an image only if the generator keeps its order.

        Raises:
            ValueError: images or labels of another type, shape or range; balanced class weights, which need all labels at once.
            TrainingError: a loss is not finite.
        """
        if self.training.class_weights == "balanced":
            raise ValueError("class_weights: balanced needs all labels at once; use fit instead of fit_generator")
        training = self._settings(generator.batch_size, nb_epochs)
        self.criterion = self._criterion(None)
        self._run(_Generated(generator, self), generator.size, training, None, scheduler, None, None, progress)

    def predict(self, x: npt.NDArray[np.float32], **kwargs: Any) -> npt.NDArray[np.float32]:
        """Logits (N, K) of the trained classifier."""
        predicted: npt.NDArray[np.float32] = self._classifier.predict(x, **kwargs)
        return predicted

    def _run(
        self,
        batches: Any,
        n: int,
        training: Training,
        validation: Validation | None,
        scheduler: Any,
        augment: Augmentation | None,
        checkpoint: Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        if n == 0:
            raise ValueError("expected at least one training image, got none")
        self._logged.clear()
        self._batches = batches
        self.rng.manual_seed(stream(self.seed, "start"))
        self.on_fit_start(n)
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = self._optimizer if self._optimizer is not None else build_optimizer(training.optimizer, weights)
        if getattr(scheduler, "optimizer", optimizer) is not optimizer:
            raise ValueError("the scheduler is of another optimizer than the one that trains; use training's schedule instead")
        fitting = Fitting(
            self, batches, training, optimizer, self.seed, n, validation, scheduler, augment, checkpoint, progress
        )
        try:
            self.history = fitting.run()
            self.best_epoch = fitting.best_epoch if fitting.best_epoch >= 0 else len(self.history) - 1
        except TrainingError as error:
            raise TrainingError(f"{type(self).__name__}: {error}") from error
        finally:
            self._batches = None  # a trainer that is kept must not keep a GPU's memory

    def _accepted(self, settings: dict[str, Any]) -> Settings:
        try:
            return self.Params.model_validate(settings)
        except pydantic.ValidationError as error:
            found = complaints(error, self.Params, at=(), owner=type(self).__name__)
            raise ValueError("; ".join(text for _, text in found)) from None

    def _precision(self) -> AbstractContextManager[Any]:
        half = self.training.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def _settings(self, batch_size: int | None, nb_epochs: int | None) -> Training:
        given = {"batch_size": batch_size, "epochs": nb_epochs}
        changes = {name: value for name, value in given.items() if value is not None}
        return type(self.training).model_validate(self.training.model_dump() | changes)

    def _labels(self, y: Labels, n: int) -> torch.Tensor:
        return as_labels(y, n, self.task, self.classes)

    def _criterion(self, labels: torch.Tensor | None) -> Loss:
        training = self.training
        if self.task == "multilabel":
            if training.class_weights != "none" or training.label_smoothing:
                raise ValueError("class_weights and label_smoothing are for one label an image; leave them out for findings")
            return MaskedBCE("image_sum" if training.finding_loss == "sum" else "mean", training.finding_weights)
        if training.finding_weights != "none" or training.finding_loss != "mean":
            raise ValueError("finding_weights and finding_loss are for findings; leave them out where images have one class")
        weight = None
        if labels is not None and training.class_weights == "balanced":
            weight = balanced_weights(labels, self.classes).to(self.device)
        return torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=training.label_smoothing)


class _Generated:
    """Batches of an ART DataGenerator."""

    def __init__(self, generator: Any, trainer: Trainer) -> None:
        self.generator, self.trainer = generator, trainer

    def __len__(self) -> int:
        return max(1, int(self.generator.size) // int(self.generator.batch_size))

    def epoch(self, epoch: int) -> Iterator[Batch]:
        seen = 0
        for _ in range(len(self)):
            x, y = self.generator.get_batch()
            images = as_source(x).take(np.arange(len(x))).to(self.trainer.device)
            labels = self.trainer._labels(y, len(x)).to(self.trainer.device)
            index = torch.arange(seen, seen + len(x), device=self.trainer.device)
            seen += len(x)
            yield Batch(images, labels, index, epoch)

    def in_order(self) -> Iterator[Batch]:
        raise ValueError(f"{type(self.trainer).__name__} must look at every training image first; use fit, not fit_generator")
