"""Automatic doubt about robust accuracies: what a network must pass before attacks on it may be believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks import checks_outputs as outputs
from cxr_eval.attacks import checks_searches as searches
from cxr_eval.attacks.checks_subject import Check as Check
from cxr_eval.attacks.checks_subject import Subject, one_finding
from cxr_eval.attacks.checks_subject import Verdict as Verdict
from cxr_eval.types import Level, RowWarning

MOST_IMAGES = 100
"""Images looked at: enough for a sign test to see a difference of 5 %, few enough for a laptop."""

QUERIES = 300
"""Random tries of the search without gradients on each image that is left."""

CHECKS: tuple[Callable[[Subject], Check], ...] = (
    outputs.preprocessing_outside,
    outputs.softmax_outputs,
    outputs.random_predictions,
    outputs.zero_gradients,
    outputs.vanishing_gradients,
    outputs.quantised_input,
    outputs.too_few_classes,
    searches.single_step_beats_many,
    searches.single_step_only,
    searches.more_iterations_help,
    searches.noise_as_strong,
    searches.black_box_beats_white_box,
    searches.transfer_beats_white_box,
    searches.curve_not_monotone,
    searches.large_eps_not_zero,
)
"""In the order in which they are run and told; what a network must pass first stands first."""

OF_ALL_LABELS = (outputs.preprocessing_outside, outputs.too_few_classes)
"""Checks that count right answers; of several findings an image the others look at one that is answered rightly."""


def battery(
    classifier: cxr.Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    norm: cxr.Norm = "linf",
    seed: int = 0,
    batch_size: int = 64,
    surrogate: cxr.Classifier | None = None,
    queries: int = QUERIES,
) -> tuple[Check, ...]:
    """What each check of `CHECKS` says about robust accuracies of this network at this radius, in their order.

    x: images, (N, C, H, W) float32 in [0, 1]; the first 100 are looked at. y: class indices (N,) or findings (N, K),
    NaN unknown; each image is then attacked in one finding that the network answers rightly, drawn by lot.
    eps: radius in `norm`, pixel units. surrogate: another network for the same task, on which images are made too. queries:
    random tries of the search without gradients.
    A check compares image by image and speaks only beyond chance (one-sided exact sign test at 0.05) and beyond 5 % of the
    images that are right without attack. PASS means that this doubt found nothing; it is no proof.

    Cost an image, at most: 209 + `queries` forward passes, 164 of them with a backward pass; 22 more with a surrogate. An image
    leaves a search once it is broken, and only images that the searches along gradients leave are searched without them.

    Raises:
        ValueError: there are no images, or eps is not above 0 (L-inf: nor at most 1).

    Source: Carlini et al., arXiv:1902.06705; Athalye et al., ICML 2018, arXiv:1802.00420; the flags of AutoAttack, Croce and
    Hein, ICML 2020, arXiv:2003.01690.
    """
    if len(x) == 0:
        raise ValueError("expected at least one image to check the network on, got none")
    if not eps > 0 or (norm == "linf" and eps > 1):
        raise ValueError(f"expected a radius above 0{' and at most 1' if norm == 'linf' else ''}, got {eps:g}")
    subject = Subject(
        classifier,
        x[:MOST_IMAGES].detach().cpu().float(),
        y[:MOST_IMAGES].detach().cpu(),
        eps,
        norm,
        seed,
        batch_size,
        surrogate,
        queries,
    )
    judged = subject
    if classifier.task == "multilabel":
        judged = replace(subject, y=one_finding(subject.x, subject.y, subject.logits, seed))
    return tuple(check(subject if check in OF_ALL_LABELS else judged) for check in CHECKS)


def as_warnings(checks: Sequence[Check], scope: str) -> list[RowWarning]:
    """The checks that failed or warned, as stored doubts about the rows `scope`, the worst first."""
    levels: dict[str, Level] = {"FAIL": "fail", "WARN": "warn"}
    return [
        RowWarning(check.code, level, scope, check.sentence)
        for verdict, level in levels.items()
        for check in checks
        if check.verdict == verdict
    ]
