"""Checks of a whole fit: what it takes, what it leaves alone, and that the same training gives the same weights."""

from __future__ import annotations

import io
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import torch

from cxr_eval.api import Batch, seeded
from cxr_eval.fitting import Progress
from cxr_eval.testing import toys
from cxr_eval.testing.subject import LAST, QUICK, Subject, blamed, checks, difference, expect, watch_steps, weights
from cxr_eval.training import Training

ONE_EPOCH = QUICK.model_copy(update={"epochs": 1})


def _global_states() -> dict[str, Any]:
    """The state of every global random generator, by whose it is."""
    numpy = np.random.get_state()
    states: dict[str, Any] = {"Python's": random.getstate(), "numpy's": (numpy[1].tobytes(), numpy[2:])}  # type: ignore[index]
    states["torch's"] = torch.get_rng_state().numpy().tobytes()
    for number in range(torch.cuda.device_count()):
        states[f"the GPU's ({number})"] = torch.cuda.get_rng_state(number).numpy().tobytes()
    return states


@checks("leaves the caller's data alone")
def check_leaves_the_callers_data_alone(subject: Subject) -> None:
    """Images and labels, for training and validation, are as they were; they may be read-only."""
    given = [*subject.images(), *subject.images(6, seed=1)]
    copies = [array.copy() for array in given]
    for read_only in (False, True):
        for array in given:
            array.flags.writeable = not read_only
        trainer = subject.trainer(toys.normed_network(), training=ONE_EPOCH)
        x, y, held_out, its_labels = given
        with blamed("fit fails on read-only arrays" if read_only else "fit fails"):
            trainer.fit(x, y, validation_data=(held_out, its_labels))
        names = ("the images", "the labels", "the validation images", "the validation labels")
        for name, array, copy in zip(names, given, copies, strict=True):
            expect(
                np.array_equal(array, copy),
                f"fit changed {name} of the caller; change batch.x, which is a copy, or a clone of your own",
            )


@checks("same seed, same weights")
def check_same_seed_gives_the_same_weights(subject: Subject) -> None:
    """Whatever the global random states are, which a fit leaves alone; all that is drawn in a step is drawn from `self.rng`."""
    states = []
    for seed in (1, 2):
        network = toys.normed_network()
        trainer = subject.trainer(network, seed=3)
        with seeded(seed):
            before = _global_states()
            trainer.fit(*subject.images())
            after = _global_states()
        for whose, state in before.items():
            expect(
                state == after[whose],
                f"fit drew from {whose} global random generator, or seeded it; draw from self.rng, a torch.Generator:"
                " torch.rand(shape, generator=self.rng, device=self.device)",
            )
        states.append(weights(network))
    found = difference(*states)
    expect(
        not found,
        f"two fits with seed 3 gave different weights ({found}); draw all random numbers from self.rng, and begin anew in"
        " on_fit_start what is kept from an earlier fit",
    )

    def step(_: Batch, go: Callable[[], torch.Tensor]) -> torch.Tensor:
        before = _global_states()
        loss = go()
        for whose, state in _global_states().items():
            expect(
                state == before[whose],
                f"a step drew from {whose} global random generator, so that dropout is another than under other trainers; draw"
                " from self.rng",
            )
        return loss

    trainer = subject.trainer(toys.plain_network(), training=ONE_EPOCH)  # no dropout, which draws from torch's
    watch_steps(trainer, step)
    trainer.fit(*subject.images())


@checks("labels in every form, same weights")
def check_labels_in_every_form_give_the_same_weights(subject: Subject) -> None:
    """Arrays and tensors, and for one class an image indices and one-hot rows."""
    x, y = subject.images(7)
    rows = np.eye(toys.CLASSES, dtype=np.float32)[y] if subject.task == "multiclass" else y
    forms = {
        "an array": y,
        "an array of float rows": rows,
        "a tensor": torch.as_tensor(y),
        "a tensor of rows": torch.as_tensor(rows),
    }
    expected: dict[str, torch.Tensor] = {}
    for form, labels in forms.items():
        network = toys.normed_network()
        trainer = subject.trainer(network, training=ONE_EPOCH)
        with blamed(f"fit fails on labels given as {form}"):
            trainer.fit(torch.as_tensor(x) if isinstance(labels, torch.Tensor) else x, labels)
        expected = expected or weights(network)
        found = difference(expected, weights(network))
        expect(
            not found,
            f"labels given as {form} gave other weights than as an array ({found}); take the labels from batch.y, which has one"
            " form, and leave those of the caller to super().fit",
        )


@checks("trains on a batch of one image")
def check_trains_on_a_batch_of_one_image(subject: Subject) -> None:
    """One image left over by the batches before it, one image a batch, and one image in all."""
    for n, batch_size in ((7, 3), (2, 1), (1, 3)):
        trainer = subject.trainer(toys.normed_network(), training=ONE_EPOCH.model_copy(update={"batch_size": batch_size}))
        with blamed(
            f"training on {n} images in batches of {batch_size} fails; a deviation, a part of a batch or a squeeze may have"
            " no meaning for one image"
        ):
            trainer.fit(*subject.images(n))


@checks("leaves the network ready to use")
def check_leaves_the_network_ready_to_use(subject: Subject) -> None:
    """After a fit every module is in evaluation mode, and the weights that could be trained before still can."""
    network = toys.normed_network()
    before = {name: weight.requires_grad for name, weight in network.named_parameters()}
    trainer = subject.fitted(network)
    training = [name or "the network itself" for name, module in network.named_modules() if module.training]
    expect(
        not training,
        f"after fit {training[:1]} is in training mode, so that predictions would change from call to call; leave the mode to"
        " super().fit, and use cxr.frozen around passes of your own",
    )
    changed = [name for name, weight in network.named_parameters() if weight.requires_grad != before[name]]
    expect(
        not changed,
        f"after fit {changed[:1]} has another requires_grad than before; freeze weights with cxr.frozen, which restores them",
    )
    expect(
        trainer.get_classifier().model is network,
        "after fit the classifier holds another network than the one that was handed over; train self.model itself",
    )


class _Interrupted(Exception):  # noqa: N818  # no error
    """Raised to stop a training half-way."""


@checks("resumes to the same weights", fits=True)
def check_resumes_to_the_same_weights(subject: Subject) -> None:
    """A training that was interrupted in its third epoch goes on from its checkpoint to the same weights and history."""
    training = QUICK.model_copy(update={"epochs": 4})

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 3:
            raise _Interrupted

    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = toys.normed_network(), toys.normed_network()
        expected = subject.fitted(whole, training=training).history
        checkpoint = Path(folder) / "checkpoint.pt"
        try:
            trainer = subject.trainer(toys.normed_network(), training=training)
            trainer.fit(*subject.images(), checkpoint=checkpoint, progress=interrupt)
        except _Interrupted:
            pass
        expect(checkpoint.exists(), "fit wrote no checkpoint; hand checkpoint and progress on to super().fit")
        trainer = subject.trainer(resumed, training=training)
        with blamed(
            "a training cannot go on from its own checkpoint; state_dict may hold tensors, numbers, text, lists and dicts"
        ):
            trainer.fit(*subject.images(), checkpoint=checkpoint)
    found = difference(weights(whole), weights(resumed))
    expect(
        not found,
        f"a resumed training gave other weights than one without interruption ({found}); what the method keeps from epoch to"
        " epoch must be in state_dict and taken back by load_state_dict",
    )
    same = len(expected) == len(trainer.history) and all(
        first.keys() == second.keys() and all(_same_number(first[name], second[name]) for name in first)
        for first, second in zip(expected, trainer.history, strict=True)
    )
    expect(same, "a resumed training has another history than one without interruption; log what follows from the state alone")


def _same_number(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


@checks("a scheduler steps once an epoch", fits=True)
def check_a_scheduler_steps_once_an_epoch(subject: Subject) -> None:
    """A torch scheduler given to `fit` halves the learning rate after each epoch, whatever the number of batches."""
    network = toys.plain_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.08)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    trainer = subject.trainer(network, training=None, optimizer=optimizer)
    trainer.fit(*subject.images(), batch_size=6, nb_epochs=3, scheduler=scheduler)
    found = [row["lr"] for row in trainer.history]
    expect(
        found == [0.08, 0.04, 0.02] and optimizer.param_groups[0]["lr"] == 0.01,
        f"expected the learning rates 0.08, 0.04, 0.02 in three epochs, got {', '.join(f'{lr:g}' for lr in found)}, and then"
        f" {optimizer.param_groups[0]['lr']:g} instead of 0.01; leave the scheduler to super().fit, which steps"
        " it once an epoch",
    )


@checks("works on the GPU")
def check_works_on_the_gpu(subject: Subject) -> None:
    """On the first GPU an epoch gives finite weights that are still there."""
    if not torch.cuda.is_available():
        raise SkipTest("this machine has no GPU")
    device = "cuda"
    network = toys.normed_network()
    with blamed("training on the GPU fails; make new tensors with device=self.device and draw them from self.rng"):
        Subject(subject.cls, subject.settings, device).fitted(network)
    for name, tensor in network.state_dict().items():
        expect(tensor.device.type == device, f"after fit {name} is on the {tensor.device.type}, expected on the GPU")
        expect(bool(torch.isfinite(tensor).all()), f"after fit on the GPU {name} is not finite")


@checks("findings with unknown labels train", fits=True)
def check_findings_with_unknown_labels_train(subject: Subject) -> None:
    """Findings, some of them unknown and for one image all, give finite weights; a method without findings refuses them."""
    network = toys.normed_network()
    if "multilabel" not in subject.cls.tasks:
        try:
            subject.trainer(network, task="multilabel")
        except ValueError as error:
            expect(
                "multilabel" in str(error),
                f"findings are refused by a message that does not name the task 'multilabel': {error}",
            )
            return
        raise AssertionError(
            "tasks leaves 'multilabel' out, and yet a trainer for findings can be made; call super().__init__, which refuses it"
        )
    x, _ = toys.bright_rows(13)
    rng = np.random.default_rng(0)
    findings = rng.integers(0, 2, size=(13, toys.CLASSES)).astype(np.float32)
    findings[rng.random(findings.shape) < 0.3] = np.nan
    findings[4] = np.nan
    before = weights(network)
    trainer = subject.trainer(network, task="multilabel")
    with blamed(
        "training on findings fails; take the loss from self.criterion or self.losses, which leave unknown ones (NaN) out, or"
        " leave 'multilabel' out of tasks"
    ):
        trainer.fit(x, findings)
    for name, tensor in network.state_dict().items():
        expect(
            bool(torch.isfinite(tensor).all()),
            f"after training on findings {name} is not finite; unknown findings are NaN in batch.y: mask them before they are"
            " multiplied, or use self.losses",
        )
    moved = any(not torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    expect(moved, "training on findings changed no weight; the loss must have a gradient for findings too")


@checks("its state survives saving and loading")
def check_its_state_survives_saving_and_loading(subject: Subject) -> None:
    """`load_state_dict` takes back what `state_dict` gave, also from a file that may hold no code."""
    first = subject.fitted(toys.normed_network())
    state = first.state_dict()
    expect(isinstance(state, dict), f"expected state_dict to give a dict, got {type(state).__name__}")
    file = io.BytesIO()
    with blamed(
        "what state_dict gives cannot be saved and read again without running code; keep tensors, numbers, text, lists and"
        " dicts of them"
    ):
        torch.save(state, file)
        file.seek(0)
        loaded = torch.load(file, map_location=first.device, weights_only=True)
    other = subject.trainer(toys.normed_network(), seed=1, training=Training(epochs=1, batch_size=4, select=LAST))
    other.fit(*subject.images())
    with blamed("load_state_dict fails on what state_dict gave"):
        other.load_state_dict(loaded)
    found = _unlike(first.state_dict(), other.state_dict())
    expect(
        not found,
        f"load_state_dict does not take back what state_dict gave: {found} differs; per-image values are rows of the training"
        " set, as batch.index names them",
    )


def _unlike(first: Any, second: Any, where: str = "the state") -> str:
    """The first place in which two nested states differ; empty if they are equal, NaN included."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        equal = first.dtype == second.dtype and torch.equal(torch.nan_to_num(first), torch.nan_to_num(second))
        return "" if equal and torch.equal(first.isnan(), second.isnan()) else where
    if type(first) is not type(second):
        return where
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return where
        return next(filter(None, (_unlike(first[key], second[key], repr(key)) for key in first)), "")
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return where
        return next(filter(None, (_unlike(*pair, where) for pair in zip(first, second, strict=True))), "")
    if isinstance(first, float):
        return "" if _same_number(first, second) else where
    return "" if first == second else where
