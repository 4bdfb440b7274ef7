"""A trainer class with settings, on the toy task that its checks need; and what a check is."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import numpy as np
import numpy.typing as npt
import torch

from cxr_eval.api import Batch, Classifier, Task, Trainer
from cxr_eval.errors import raised_at
from cxr_eval.testing import toys
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Select, Training

Settings = Mapping[str, Any]

LAST = Select(metric="last")
QUICK = Training(epochs=2, batch_size=6, select=LAST)
"""Two epochs; of the 13 images that most checks take, one joins the second batch of six."""


class Check:
    """One rule as a function of a trainer class: returns if the rule holds, and raises if it does not.

    Raises:
        AssertionError: the trainer breaks the rule; the message says what was expected, what happened, and the likely cure.
        unittest.SkipTest: the rule says nothing about this trainer, or cannot be checked here; the message says why.
    """

    def __init__(self, rule: str, body: Callable[[Subject], None], fits: bool = False) -> None:
        self.rule, self.body, self.fits = rule, body, fits
        self.__name__, self.__doc__ = body.__name__, body.__doc__

    def __call__(self, trainer_cls: type[Trainer], settings: Settings | None = None, device: str = "cpu") -> None:
        if self.fits and not getattr(trainer_cls, "trains", True):
            raise SkipTest(f"{trainer_cls.__name__} takes networks as they are (trains = False)")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # networks of a few hundred weights: more threads only wait for each other
        try:
            self.body(Subject(trainer_cls, dict(settings or {}), device))
        except AssertionError as error:
            raise AssertionError(f"{trainer_cls.__name__}: {self.rule}: {error}") from error.__cause__
        finally:
            torch.set_num_threads(threads)


def checks(rule: str, *, fits: bool = False) -> Callable[[Callable[[Subject], None]], Check]:
    """Turn a function of a subject into the check of a rule, named by a few words that the command line prints.

    fits: the rule is about what training does, and says nothing of a trainer that takes networks as they are.
    """
    return lambda body: Check(rule, body, fits)


def expect(holds: bool, message: str) -> None:
    """An assertion that also holds under `python -O`."""
    if not holds:
        raise AssertionError(message)


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Any error inside breaks the rule that is being checked, with the error as the reason."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Place, type and message of an error, without line breaks."""
    return f"{raised_at(error)}{type(error).__name__}: {' '.join(str(error).split())}"


@dataclass(frozen=True)
class Subject:
    """What one check is run on."""

    cls: type[Trainer]
    settings: dict[str, Any]
    device: str

    @property
    def task(self) -> Task:
        """The task of all checks that are about neither: one class an image, where the method knows it."""
        return "multiclass" if "multiclass" in self.cls.tasks else "multilabel"

    def images(self, n: int = 13, seed: int = 0) -> tuple[toys.Images, npt.NDArray[Any]]:
        """Images with a bright row a class, and labels as the task has them."""
        x, y = toys.bright_rows(n, seed)
        return x, self.labels(y)

    def labels(self, y: toys.Indices, classes: int = toys.CLASSES) -> npt.NDArray[Any]:
        """Class indices as the task has them: themselves, or findings of which one is present."""
        return y if self.task == "multiclass" else np.eye(classes, dtype=np.float32)[y]

    def trainer(
        self,
        network: torch.nn.Module,
        *,
        task: Task | None = None,
        classes: int = toys.CLASSES,
        training: Training | None = QUICK,
        optimizer: torch.optim.Optimizer | None = None,
        seed: int = 0,
        settings: Settings | None = None,
        reference: torch.nn.Module | None = None,
    ) -> Trainer:
        """The trainer around the network; one that looks at a reference gets a network of a few standard epochs."""
        task = self.task if task is None else task
        classifier = Classifier(
            network,
            input_shape=(1, toys.SIZE, toys.SIZE),
            nb_classes=classes,
            optimizer=optimizer,
            task=task,
            device=self.device,
        )
        return self.around(classifier, task, training=training, seed=seed, settings=settings, reference=reference)

    def around(
        self,
        classifier: Any,
        task: Task,
        *,
        training: Training | None = None,
        seed: int = 0,
        settings: Settings | None = None,
        reference: torch.nn.Module | None = None,
    ) -> Trainer:
        """The trainer around any ART classifier of the toy networks."""
        given: dict[str, Any] = dict(self.settings if settings is None else settings)
        if self.cls.uses_reference:
            given["reference"] = copy.deepcopy(_reference(task, self.device) if reference is None else reference)
        return self.cls(classifier, training=training, seed=seed, **given)

    def fitted(self, network: torch.nn.Module, n: int = 13, **keywords: Any) -> Trainer:
        """The trainer after its two epochs."""
        trainer = self.trainer(network, **keywords)
        trainer.fit(*self.images(n))
        return trainer


@functools.cache
def _reference(task: Task, device: str) -> torch.nn.Module:
    """A network of a few standard epochs on the images with bright rows; copied before anyone gets it."""
    network = toys.plain_network()
    training = Training.model_validate({"epochs": 5, "batch_size": 12, "optimizer": {"lr": 0.02}, "select": LAST})
    Subject(StandardTrainer, {}, device).trainer(network, task=task, training=training).fit(*_reference_images(task))
    return network


def _reference_images(task: Task) -> tuple[toys.Images, npt.NDArray[Any]]:
    x, y = toys.bright_rows(36)
    return x, y if task == "multiclass" else np.eye(toys.CLASSES, dtype=np.float32)[y]


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> str:
    """The first tensor in which two states of one network differ, and by how much; empty if they are equal bit for bit."""
    for name, tensor in first.items():
        if not torch.equal(tensor, second[name]):
            return f"{name} differs by up to {float((tensor.double() - second[name].double()).abs().max()):g}"
    return ""


def watch_steps(trainer: Trainer, around: Callable[[Batch, Callable[[], torch.Tensor]], torch.Tensor]) -> None:
    """Let `around(batch, go)` stand around each step of this trainer; `go()` takes the step and gives its loss."""
    inner = trainer.step

    def step(batch: Batch, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        return around(batch, lambda: inner(batch, optimizer))

    trainer.step = step  # type: ignore[method-assign]  # of this object alone
