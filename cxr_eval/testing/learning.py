"""Checks that a trained network can do what it was trained for."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import SkipTest

import numpy as np
import torch

from cxr_eval.api import Norm, Task, Trainer, pgd
from cxr_eval.criteria import plain_criterion
from cxr_eval.testing import toys
from cxr_eval.testing.subject import LAST, Settings, Subject, checks, expect
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

LEARNED = 0.9
"""Accuracy on its own training images that every method must reach; guessing gives a third."""

RADIUS = 8 / 255
"""L-inf radius of the toy task where the settings give none."""

L2_RADII = 5
"""How many L-inf radii the L2 radius of the same toy task has; see `toys.temptation`."""

LEAD = 0.1
"""By how much more robust accuracy a method must have than standard training, which has about none."""


@checks("learns a separable task", fits=True)
def check_learns_a_separable_task(subject: Subject) -> None:
    """Three classes, each with its own bright row, are learned in a few epochs."""
    training = Training.model_validate({"epochs": 20, "batch_size": 12, "optimizer": {"lr": 0.02}, "select": LAST})
    trainer = subject.trainer(toys.plain_network(), training=training)
    x, y = toys.bright_rows(36)
    trainer.fit(x, subject.labels(y))
    accuracy = float((np.asarray(trainer.predict(x)).argmax(axis=1) == y).mean())
    expect(
        accuracy >= LEARNED,
        f"after 20 epochs the network is right on {accuracy:.2f} of its own training images, expected at least {LEARNED}: one"
        " bright row a class, 36 images, Adam 0.02; look for a loss of the wrong sign, or for images changed beyond"
        " recognition by these settings",
    )


@checks("withstands attacks if it says so")
def check_withstands_attacks_if_it_says_so(subject: Subject) -> None:
    """On images with a feature that is fainter than the radius, it keeps to the plain one, and standard training does not."""
    cls = subject.cls
    if not cls.adversarial:
        raise SkipTest(f"{cls.__name__} does not claim to withstand attacks (adversarial = False)")
    settings = dict(subject.settings)
    norm: Norm = getattr(cls.Params.model_validate(settings), "norm", "linf")
    radius = RADIUS * (L2_RADII if norm == "l2" else 1)
    if "eps" in cls.Params.model_fields:
        settings = _with_radius(cls, settings, radius)
        radius = float(cls.Params.model_validate(settings).model_dump()["eps"])
    faint = radius / L2_RADII if norm == "l2" else radius
    if not 0 < faint <= toys.LARGEST_TEMPTATION:
        largest = toys.LARGEST_TEMPTATION * (L2_RADII if norm == "l2" else 1)
        raise SkipTest(f"the toy images are for radii above 0 and up to {largest:g} ({norm}), the settings say {radius:g}")

    def robust_accuracy(trainer_cls: type[Trainer], chosen: Settings, epochs: int = 30) -> tuple[float, torch.nn.Module]:
        x, y = toys.temptation(60, faint)
        network = toys.tempted_network(faint)
        training = {"epochs": epochs, "batch_size": 30, "optimizer": {"lr": 0.02}, "select": LAST}
        trainer = Subject(trainer_cls, dict(chosen), subject.device).trainer(
            network,
            task=subject.task,
            classes=2,
            training=Training.model_validate(training),
            reference=reference if trainer_cls.uses_reference else None,
        )
        trainer.fit(x, subject.labels(y, classes=2))
        images, classes = torch.as_tensor(x, device=trainer.device), torch.as_tensor(y, device=trainer.device)
        targets = torch.as_tensor(subject.labels(y, classes=2), device=trainer.device)
        right = torch.ones_like(classes, dtype=torch.bool)
        for loss in (plain_criterion(subject.task), partial(_margin, subject.task)):  # one alone can be blinded
            attacked = pgd(network, images, targets, eps=radius, step=radius / 4, steps=20, loss=loss, norm=norm)
            with torch.no_grad():
                right &= network(attacked).argmax(dim=1) == classes
        return float(right.float().mean()), network

    _, reference = robust_accuracy(StandardTrainer, {}, epochs=2)
    natural, _ = robust_accuracy(StandardTrainer, {})
    found, _ = robust_accuracy(cls, settings)
    expect(
        found >= natural + LEAD,
        f"under PGD of radius {radius:g} ({norm}) the network is right on {found:.2f} of the toy images, one of standard"
        f" training on {natural:.2f}; expected at least {LEAD:g} more: see that the attacked images reach the loss and that the"
        " attack raises it, or leave adversarial = False",
    )


def _with_radius(cls: type[Trainer], settings: dict[str, Any], radius: float) -> dict[str, Any]:
    """The settings with the toy task's radius where they give none; as they are if they fit the trainer's own radius only."""
    try:
        cls.Params.model_validate({"eps": radius, **settings})
    except ValueError:
        return settings
    return {"eps": radius, **settings}


def _margin(task: Task, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How far wrong answers are ahead of right ones, summed; unlike the cross-entropy's, its gradient outlives large logits."""
    if task == "multilabel":
        return ((1 - 2 * y) * logits).sum()
    true = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
    return (logits.masked_fill(true, -torch.inf).amax(dim=1) - logits[true]).sum()
