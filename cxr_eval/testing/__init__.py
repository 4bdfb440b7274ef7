"""The conformance kit: whether a trainer keeps its contract, one check a rule.

`parametrize_with_checks` is for a plugin's own tests, `check_trainer` for programs; each check also works alone:
`check_same_seed_gives_the_same_weights(NoiseTrainer, {"sigma": 0.2})`.
"""

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
from cxr_eval.testing.kit import CHECKS, Outcome, check_trainer, parametrize_with_checks
from cxr_eval.testing.learning import check_learns_a_separable_task, check_withstands_attacks_if_it_says_so
from cxr_eval.testing.passes import (
    check_batchnorm_learns_in_training_passes_only,
    check_never_trains_on_validation_images,
    check_shows_the_network_valid_images_only,
    check_the_loss_is_a_finite_scalar_with_gradient,
)
from cxr_eval.testing.subject import Check

__all__ = [
    "CHECKS",
    "Check",
    "Outcome",
    "check_a_scheduler_steps_once_an_epoch",
    "check_batchnorm_learns_in_training_passes_only",
    "check_describes_itself_and_its_settings",
    "check_findings_with_unknown_labels_train",
    "check_imports_the_public_api_only",
    "check_is_an_art_trainer",
    "check_its_state_survives_saving_and_loading",
    "check_labels_in_every_form_give_the_same_weights",
    "check_learns_a_separable_task",
    "check_leaves_the_callers_data_alone",
    "check_leaves_the_network_ready_to_use",
    "check_never_trains_on_validation_images",
    "check_refuses_unknown_settings",
    "check_resumes_to_the_same_weights",
    "check_same_seed_gives_the_same_weights",
    "check_shows_the_network_valid_images_only",
    "check_the_loss_is_a_finite_scalar_with_gradient",
    "check_trainer",
    "check_trains_on_a_batch_of_one_image",
    "check_withstands_attacks_if_it_says_so",
    "check_works_on_the_gpu",
    "parametrize_with_checks",
]
