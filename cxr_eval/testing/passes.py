"""Checks of what happens in a step: the loss, the images that the network sees, and when BatchNorm learns from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cxr_eval.api import Batch, Trainer
from cxr_eval.testing import toys
from cxr_eval.testing.subject import QUICK, Subject, checks, difference, expect, watch_steps, weights

ROUNDING = 1e-6
"""By how much an image may lie outside its ball: float32 keeps seven digits."""


def _flags(network: torch.nn.Module) -> tuple[list[bool], list[bool], list[bool]]:
    """Mode of every module; requires_grad and absence of a gradient of every weight."""
    every = list(network.parameters())
    modes = [module.training for module in network.modules()]
    return modes, [weight.requires_grad for weight in every], [weight.grad is None for weight in every]


@checks("the loss is a finite scalar with gradient")
def check_the_loss_is_a_finite_scalar_with_gradient(subject: Subject) -> None:
    """Within a fit, `loss` gives a finite scalar whose gradient reaches the weights, and it leaves no trace in the network."""
    for network in (toys.normed_network(), toys.plain_network()):
        trainer = subject.trainer(network, training=QUICK.model_copy(update={"epochs": 1}))
        looked = False

        def step(batch: Batch, go: Callable[[], torch.Tensor], trainer: Trainer = trainer) -> torch.Tensor:
            nonlocal looked
            if not looked:
                _look_at_the_loss(trainer, batch)
            looked = True
            taken = go()
            expect(
                isinstance(taken, torch.Tensor) and taken.shape == (),
                f"expected a step to give its loss as a scalar tensor, got {_kind(taken)}",
            )
            return taken

        watch_steps(trainer, step)
        trainer.fit(*subject.images())


def _look_at_the_loss(trainer: Trainer, batch: Batch) -> None:
    network = trainer.model
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = None
    before = _flags(network)
    loss = trainer.loss(batch)
    expect(
        isinstance(loss, torch.Tensor) and loss.shape == (),
        f"expected loss to give a scalar tensor, shape (), got {_kind(loss)}; take the mean over the batch",
    )
    expect(
        bool(torch.isfinite(loss)),
        f"expected a finite loss, got {float(loss.detach()):g}; look for a division by 0 or a log of 0",
    )
    modes, tracked, empty = _flags(network)
    expect(
        modes == before[0],
        "loss leaves the network in another mode than it found it; attack inside cxr.frozen(self.model), which restores it",
    )
    expect(
        tracked == before[1],
        "loss leaves weights with another requires_grad; freeze them with cxr.frozen(self.model), which restores them",
    )
    expect(
        empty == before[2],
        "loss leaves a gradient in the weights, which the step would take twice; use torch.autograd.grad or cxr.input_gradient"
        " instead of backward()",
    )
    expect(loss.requires_grad, "the loss has no gradient; it was detached, or computed under torch.no_grad()")
    reached = torch.autograd.grad(loss, trained, allow_unused=True)
    expect(
        any(gradient is not None for gradient in reached),
        "the gradient of the loss reaches no weight of the network; compute the loss from self.model(...)",
    )


def _kind(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _images(args: tuple[Any, ...], keywords: dict[str, Any]) -> torch.Tensor:
    """What a forward pass was given, by place or by name."""
    images: torch.Tensor = [*args, *keywords.values()][0]
    return images.detach()


@checks("shows the network valid images only")
def check_shows_the_network_valid_images_only(subject: Subject) -> None:
    """All that the network sees in a fit is float32 in [0, 1], and within the radius in force of an image of the batch."""
    network = toys.normed_network()
    trainer = subject.trainer(network)
    shown: list[torch.Tensor] = []

    def look(module: torch.nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        x = _images(args, keywords)
        expect(x.dtype == torch.float32, f"the network was shown images of {x.dtype}; expected float32")
        low, high = float(x.min()), float(x.max())
        expect(
            low >= 0 and high <= 1,  # also where one is NaN
            f"the network was shown pixels from {low:g} to {high:g}; expected [0, 1]: end with .clamp(0, 1)",
        )
        shown.append(x.clone())

    def step(batch: Batch, go: Callable[[], torch.Tensor]) -> torch.Tensor:
        shown.clear()
        x, radii = batch.x.clone(), [trainer.eps_range()]
        loss = go()
        radii.append(trainer.eps_range())
        _expect_within(trainer, shown, x, radii)
        return loss

    network.register_forward_pre_hook(look, with_kwargs=True)
    watch_steps(trainer, step)
    trainer.fit(*subject.images())


def _expect_within(
    trainer: Trainer, shown: list[torch.Tensor], x: torch.Tensor, radii: list[tuple[float, float] | None]
) -> None:
    known = [pair for pair in radii if pair is not None]
    expect(all(low <= high for low, high in known), f"eps_range gives {known[:1]}; expected the smallest radius first")
    if not known or not trainer.stays_within_eps:
        return
    largest = max(high for _, high in known)
    norm = getattr(trainer.params, "norm", "linf")
    for images in shown:
        change = (images.double().unsqueeze(1) - x.double().unsqueeze(0)).flatten(2)
        distance = float(torch.linalg.vector_norm(change, ord=2 if norm == "l2" else torch.inf, dim=2).min(dim=1).values.max())
        expect(
            distance <= largest + ROUNDING,
            f"the network was shown an image {distance:g} ({norm}) away from every image of the batch, expected at most the"
            f" radius {largest:g} of eps_range(); end with cxr.project, or say so by stays_within_eps = False",
        )


@dataclass
class _Pass:
    """One forward pass in training mode: whether its output got a gradient before and after `loss` had returned."""

    on_search: bool
    during: bool = False
    after: bool = False


@checks("BatchNorm learns in training passes only")
def check_batchnorm_learns_in_training_passes_only(subject: Subject) -> None:
    """In each step BatchNorm learns, at most once a forward pass that the loss is made of, and never outside of steps."""
    network = toys.normed_network()
    trainer = subject.trainer(network)
    inner = trainer.loss
    passes: list[_Pass] = []
    stage = {"loss": "not called"}
    learned = 0

    def loss(batch: Batch) -> torch.Tensor:
        stage["loss"] = "running"
        value = inner(batch)
        stage["loss"] = "returned"
        return value

    def look(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if module is not network or not module.training or not output.requires_grad:
            return
        found = _Pass(on_search=any(isinstance(x, torch.Tensor) and x.requires_grad for x in args))
        passes.append(found)

        def mark(_: torch.Tensor) -> None:
            found.after |= stage["loss"] == "returned"
            found.during = True

        output.register_hook(mark)  # type: ignore[no-untyped-call]

    def lessons() -> int:
        counted = network.norm.num_batches_tracked  # read each time: it is another tensor after a move to the GPU
        assert counted is not None
        return int(counted)

    def step(batch: Batch, go: Callable[[], torch.Tensor]) -> torch.Tensor:
        nonlocal learned
        _expect_no_learning_outside(learned, lessons())
        passes.clear()
        stage["loss"] = "not called"
        before = lessons()
        taken = go()
        # a step of its own need not call loss: there a pass with an image gradient is taken for an attack
        own = stage["loss"] == "not called"
        in_loss = sum(one.during and not one.on_search if own else one.after for one in passes)
        learned = lessons()
        expect(
            learned - before <= in_loss,
            f"in one step BatchNorm learned from {learned - before} forward passes, and the loss is made of {in_loss}; an"
            " attack or a measurement ran in training mode: use cxr.pgd or cxr.fgsm, or stand inside cxr.frozen(self.model)",
        )
        expect(
            learned > before,
            "in one step BatchNorm learned nothing, so the network is trained in evaluation mode; take the predictions of the"
            " loss in the mode that the network is handed over in",
        )
        return taken

    trainer.loss = loss  # type: ignore[method-assign]  # of this object alone
    network.register_forward_hook(look)
    watch_steps(trainer, step)
    trainer.fit(*subject.images())
    _expect_no_learning_outside(learned, lessons())


def _expect_no_learning_outside(before: int, after: int) -> None:
    expect(
        after == before,
        f"BatchNorm learned from {after - before} forward passes outside of a step; run the network inside"
        " cxr.frozen(self.model) in on_fit_start and on_epoch_end",
    )


@checks("never trains on validation images")
def check_never_trains_on_validation_images(subject: Subject) -> None:
    """Where the last epoch is kept, other validation images give the same weights; none is shown in training mode."""
    states = []
    for seed in (5, 6):
        network = toys.normed_network()
        trainer = subject.trainer(network)
        held_out = subject.images(9, seed=seed)
        hidden = torch.as_tensor(held_out[0])

        def look(
            module: torch.nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], hidden: torch.Tensor = hidden
        ) -> None:
            same = (_images(args, keywords).cpu().unsqueeze(1) == hidden.unsqueeze(0)).flatten(2).all(dim=2)
            expect(
                not (module.training and bool(same.any())),
                "the network was shown a validation image in training mode; validation images may pick the epoch and nothing"
                " else",
            )

        network.register_forward_pre_hook(look, with_kwargs=True)
        trainer.fit(*subject.images(), validation_data=held_out)
        states.append(weights(network))
    found = difference(*states)
    expect(
        not found,
        f"other validation images gave other weights although the last epoch is kept ({found}); leave validation_data to"
        " super().fit",
    )
