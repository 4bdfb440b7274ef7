"""All checks of a trainer, in order, by two doors: a function for the command line, a parametrisation for pytest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal
from unittest import SkipTest

from cxr_eval.api import Trainer
from cxr_eval.testing.definition import (
    check_describes_itself_and_its_settings,
    check_imports_the_public_api_only,
    check_is_an_art_trainer,
    check_refuses_unknown_settings,
)
from cxr_eval.testing.fits import (
    check_a_scheduler_steps_once_an_epoch,
    check_findings_with_unknown_labels_train,
    check_its_state_survives_saving_and_loading,
    check_labels_in_every_form_give_the_same_weights,
    check_leaves_the_callers_data_alone,
    check_leaves_the_network_ready_to_use,
    check_resumes_to_the_same_weights,
    check_same_seed_gives_the_same_weights,
    check_trains_on_a_batch_of_one_image,
    check_works_on_the_gpu,
)
from cxr_eval.testing.learning import check_learns_a_separable_task, check_withstands_attacks_if_it_says_so
from cxr_eval.testing.passes import (
    check_batchnorm_learns_in_training_passes_only,
    check_never_trains_on_validation_images,
    check_shows_the_network_valid_images_only,
    check_the_loss_is_a_finite_scalar_with_gradient,
)
from cxr_eval.testing.subject import Check, Settings, one_line

if TYPE_CHECKING:
    import pytest

CHECKS: tuple[Check, ...] = (
    check_is_an_art_trainer,
    check_describes_itself_and_its_settings,
    check_refuses_unknown_settings,
    check_imports_the_public_api_only,
    check_the_loss_is_a_finite_scalar_with_gradient,
    check_shows_the_network_valid_images_only,
    check_batchnorm_learns_in_training_passes_only,
    check_leaves_the_callers_data_alone,
    check_same_seed_gives_the_same_weights,
    check_labels_in_every_form_give_the_same_weights,
    check_trains_on_a_batch_of_one_image,
    check_findings_with_unknown_labels_train,
    check_leaves_the_network_ready_to_use,
    check_resumes_to_the_same_weights,
    check_its_state_survives_saving_and_loading,
    check_a_scheduler_steps_once_an_epoch,
    check_never_trains_on_validation_images,
    check_learns_a_separable_task,
    check_withstands_attacks_if_it_says_so,
    check_works_on_the_gpu,
)
"""Every check, those of the class first; `check.rule` is its name in a few words."""


@dataclass(frozen=True)
class Outcome:
    """What became of one rule; `message` says why it failed or was skipped, in one line."""

    rule: str
    status: Literal["ok", "failed", "skipped"]
    message: str = ""


def check_trainer(trainer_cls: type[Trainer], settings: Settings | None = None, device: str = "cpu") -> list[Outcome]:
    """The outcome of every check, in order; a few seconds in all.

    settings: the trainer's own, as in a protocol; its defaults without them.
    device: cpu, cuda or cuda:N.
    """
    return [_outcome(check, trainer_cls, settings, device) for check in CHECKS]


def _outcome(check: Check, trainer_cls: type[Trainer], settings: Settings | None, device: str) -> Outcome:
    try:
        check(trainer_cls, settings, device)
    except SkipTest as skip:
        return Outcome(check.rule, "skipped", str(skip))
    except AssertionError as error:
        said = " ".join(str(error).split()).removeprefix(f"{trainer_cls.__name__}: {check.rule}: ")
        return Outcome(check.rule, "failed", said)
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        return Outcome(check.rule, "failed", one_line(error))
    return Outcome(check.rule, "ok")


Subjects = type[Trainer] | Sequence[type[Trainer] | tuple[type[Trainer], Settings]]


def parametrize_with_checks(trainers: Subjects, settings: Settings | None = None, device: str = "cpu") -> pytest.MarkDecorator:
    """Turn a test with the argument `check` into one test a rule.

    >>> @parametrize_with_checks(NoiseTrainer, settings={"sigma": 0.2})
    ... def test_is_a_sound_trainer(check):
    ...     check()

    trainers: a trainer class, or a list of classes and of (class, settings).
    settings: of the one class.
    """
    import pytest

    subjects = (
        [(trainers, settings or {})]
        if isinstance(trainers, type)
        else [one if isinstance(one, tuple) else (one, settings or {}) for one in trainers]
    )
    cases = []
    for trainer_cls, chosen in subjects:
        given = ", ".join(f"{name}={value}" for name, value in chosen.items())
        label = f"{trainer_cls.__name__}({given})" if given else trainer_cls.__name__
        cases += [pytest.param(partial(check, trainer_cls, chosen, device), id=f"{label}: {check.rule}") for check in CHECKS]
    return pytest.mark.parametrize("check", cases)
