"""What attacks do to each image: one line an image and radius, judged by us."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import right
from cxr_eval.images import Index
from cxr_eval.perturb import input_gradient, project
from cxr_eval.predictions import prediction_table
from cxr_eval.types import RowWarning, Task, format_eps

ENDS_NEAR_ZERO = 0.1
"""Share of the images right without attack that may survive the largest radius while the curve still shows its end."""

BLIND = 0.1
"""Share of images without a loss gradient from which on attacks that follow it are in doubt."""

CHANCE = 0.05
"""Probability below which more images broken by one step than by many are not put down to chance."""

PREDICTED_SEPARATOR = "|"


def adversarial(
    classifier: cxr.Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    attack: cxr.Attack,
    eps: float,
    seed: int,
    batch_size: int,
) -> torch.Tensor:
    """The attack's images at one radius, (N, C, H, W) float32 on the CPU, clipped to the ball and to [0, 1].

    x: images, (N, C, H, W) float32 in [0, 1]. y: labels, (N,) class indices or (N, K) findings. Every image is attacked, also
    one that the network gets wrong; for eps 0 the images come back as they are.

    Raises:
        PluginError: the attack returns images of another shape, or numbers that are not finite.
    """
    if eps == 0 or len(x) == 0:
        return x.detach().clone().cpu()
    parts = []
    for start in range(0, len(x), batch_size):
        images = x[start : start + batch_size].to(classifier.device)
        labels = y[start : start + batch_size].to(classifier.device)
        found = attack.perturb(classifier, images, labels, eps=eps, seed=seed).detach().to(images.device, torch.float32)
        if found.shape != images.shape:
            raise cxr.PluginError(
                f"{type(attack).__name__}: expected attacked images {tuple(images.shape)}, got {tuple(found.shape)}"
            )
        lost = (~torch.isfinite(found)).flatten(1).any(dim=1)
        if lost.any():
            raise cxr.PluginError(
                f"{type(attack).__name__}: {int(lost.sum())} of {len(images)} attacked images at eps {format_eps(eps)} are not"
                " finite; change the attack's settings, or take another attack"
            )
        parts.append(project(found, images, eps).cpu())
    return torch.cat(parts)


def attack_outcomes(
    classifier: cxr.Classifier,
    images: cxr.ImageSet,
    index: Index,
    attack: cxr.Attack,
    *,
    name: str,
    batch_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """What one attack does to the images `index` at each of its radii: one line an image and radius.

    Radii are tried from small to large. An image counts as robust at a radius if the network is right about it without attack,
    at this radius and at every smaller one; so the curve never rises, and at radius 0 it is clean accuracy. An image that is
    wrong without attack, or was broken at a smaller radius, is not attacked again: its line carries the image that broke it
    (which lies in the larger ball too). With the attack's `skip_broken: false` every image is attacked at every radius, and its
    line says what came of it at this radius; an image that is no longer robust may then be called right again.

    Success is judged against the label, in evaluation mode and float32, on images that we clipped. An image's line depends on
    the other images only by float rounding (a network may sum in another order for another number of images), except for those
    attacks of ART that draw random numbers for a whole batch.

    Multi-label: an image is right if every known finding is on its side of 0.5, so one flipped finding breaks it.

    name: the attack's name in the table. progress: told after each batch how many images of how many are done, over all
    radii.

    Columns: those of `prediction_table` for the image judged (multi-label: `predicted` names findings, joined by `|`), attack,
    eps, steps (along the loss gradient; 0 if the attack does not follow it), clean_correct, robust, carried (not attacked
    again), every (True in all lines if every image was attacked at every radius), linf and l2 (distance of the image judged
    from the clean one in pixel units, over all pixels and channels), zero_gradient (right without attack, and no pixel of the
    clean image has a loss gradient; always False if the attack does not follow it).

    Raises:
        PluginError: the attack returns images of another shape, or numbers that are not finite.
        DataError: multi-label, and an image has no known label.
    """
    index = np.asarray(index, dtype=np.int64)
    y = images.targets(index)
    _all_known(images, index, y, classifier.task)
    batches = [np.arange(start, min(start + batch_size, len(index))) for start in range(0, len(index), batch_size)]
    logits = _over(batches, lambda rows: classifier.logits(images.take(index[rows]), batch_size), classifier.nb_classes)
    clean_correct = right(logits, y, classifier.task).numpy()
    steps = int(getattr(attack, "steps", 0))
    blind = np.zeros(len(index), dtype=bool)
    if steps > 0:
        for rows in batches:
            blind[rows] = _without_gradient(classifier, images.take(index[rows]), y[rows])
        blind &= clean_correct
    robust, linf, l2 = clean_correct.copy(), np.zeros(len(index)), np.zeros(len(index))
    tables = []
    radii = sorted(set(attack.params.eps))
    for tried, eps in enumerate(radii):
        attacked = robust.copy() if attack.params.skip_broken else np.ones(len(index), dtype=bool)
        for rows in batches:
            left = rows[attacked[rows]]
            if len(left):
                clean = images.take(index[left])
                found = adversarial(classifier, clean, y[left], attack, eps, seed, batch_size)
                logits[left] = classifier.logits(found, batch_size)
                robust[left] &= right(logits[left], y[left], classifier.task).numpy()
                distance = (found - clean).flatten(1)
                linf[left], l2[left] = distance.abs().amax(dim=1).numpy(), distance.norm(dim=1).numpy()
            if progress is not None:
                progress(tried * len(index) + int(rows[-1]) + 1, len(radii) * len(index))
        table = prediction_table(images, index, logits)
        if classifier.task == "multilabel":
            table["predicted"] = _findings(logits, images.classes)
        tables.append(
            table.assign(
                attack=name,
                eps=eps,
                steps=steps,
                clean_correct=clean_correct,
                robust=robust.copy(),
                carried=~attacked,
                every=not attack.params.skip_broken,
                linf=linf.copy(),
                l2=l2.copy(),
                zero_gradient=blind,
            )
        )
    return pd.concat(tables, ignore_index=True)


def doubts(outcomes: pd.DataFrame) -> list[RowWarning]:
    """Reasons not to believe the robust accuracies of one cell; `scope` is `ATTACK:EPS`, or the attack.

    outcomes: the tables of `attack_outcomes` of all the cell's attacks, one below the other.

    Source: Carlini et al., On Evaluating Adversarial Robustness, arXiv:1902.06705, section 4.3; Athalye et al., ICML 2018,
    arXiv:1802.00420, section 3.1.
    """
    if outcomes.empty:
        return []
    return [*_single_step_wins(outcomes), *_end_not_shown(outcomes), *_blind_attacks(outcomes)]


def _all_known(images: cxr.ImageSet, index: npt.NDArray[np.int64], y: torch.Tensor, task: Task) -> None:
    if task == "multilabel" and len(index):
        unknown = torch.isnan(y).all(dim=1).numpy()
        if unknown.any():
            first = images.table["image_id"].iloc[index[unknown][0]]
            raise cxr.DataError(
                f"{images.name}: {unknown.sum()} of {len(index)} images to be attacked have no known label, so no attack can be"
                f" judged on them; first: {first}; leave them out"
            )


def _over(
    batches: Sequence[npt.NDArray[np.int64]], logits: Callable[[npt.NDArray[np.int64]], torch.Tensor], classes: int
) -> torch.Tensor:
    return torch.cat([logits(rows) for rows in batches]) if batches else torch.empty(0, classes)


def _without_gradient(classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Which images (N,) have a loss gradient that is exactly zero in every pixel."""
    with cxr.frozen(classifier.model):
        gradient = input_gradient(classifier.model, x.to(classifier.device), y.to(classifier.device), loss=classifier.loss)
    zero: npt.NDArray[np.bool_] = (gradient == 0).flatten(1).all(dim=1).cpu().numpy()
    return zero


def _findings(logits: torch.Tensor, classes: tuple[str, ...]) -> list[str]:
    """Names of the findings on the far side of 0, joined."""
    return [
        PREDICTED_SEPARATOR.join(name for name, there in zip(classes, row, strict=True) if there)
        for row in (logits > 0).tolist()
    ]


def _single_step_wins(outcomes: pd.DataFrame) -> list[RowWarning]:
    """At one radius, one step breaks more images than many steps do: the steps are misled."""
    from scipy.stats import binomtest

    found = []
    for eps, at in outcomes.groupby("eps"):
        kinds = {name: part.set_index("image_id")["robust"] for name, part in at.groupby("attack")}
        steps = at.groupby("attack")["steps"].first()
        for single in steps.index[steps == 1]:
            for many in steps.index[steps > 1]:
                one, more = kinds[single].align(kinds[many], join="inner")
                only_one, only_more = int((more & ~one).sum()), int((one & ~more).sum())
                if only_one <= only_more:
                    continue
                if binomtest(only_one, only_one + only_more, alternative="greater").pvalue < CHANCE:
                    found.append(
                        RowWarning(
                            "single_step_wins",
                            "warn",
                            f"{many}:{format_eps(float(eps))}",  # type: ignore[arg-type]
                            f"{single}, which takes one step, breaks {only_one} images that {many} leaves robust with"
                            f" {steps[many]} steps, and only {only_more} the other way: the network misleads gradients, and"
                            " its robust accuracy is too high; add an attack without gradients such as art/SquareAttack.",
                        )
                    )
    return found


def _end_not_shown(outcomes: pd.DataFrame) -> list[RowWarning]:
    """At the largest radius too many images are still robust to every attack."""
    largest = outcomes["eps"].max()
    robust = outcomes[outcomes["eps"] == largest].groupby("image_id")[["clean_correct", "robust"]].all()
    right_clean = int(robust["clean_correct"].sum())
    left = int(robust["robust"].sum())
    if right_clean == 0 or left <= ENDS_NEAR_ZERO * right_clean:
        return []
    return [
        RowWarning(
            "end_not_shown",
            "note",
            f"worst:{format_eps(float(largest))}",
            f"At the largest radius tried, {format_eps(float(largest))}, more than {ENDS_NEAR_ZERO:.0%} of the images that are"
            " right without attack withstand every attack: the radius at which the network fails is not shown; only a larger"
            " radius tells a robust network from an attack that does not work.",
        )
    ]


def _blind_attacks(outcomes: pd.DataFrame) -> list[RowWarning]:
    """Attacks that follow a gradient which many images do not have."""
    found = []
    following = outcomes[outcomes["steps"] > 0]
    for name, part in following[following["eps"] > 0].groupby("attack"):
        first = part[(part["eps"] == part["eps"].min()) & part["clean_correct"]]
        blind = int(first["zero_gradient"].sum())
        if len(first) and blind >= BLIND * len(first):
            found.append(
                RowWarning(
                    "no_gradient",
                    "warn",
                    str(name),
                    f"{blind} of {len(first)} images have no loss gradient at all, so {name} cannot find out where to go and"
                    " its robust accuracy is too high; look for saturated outputs, or add an attack without gradients such as"
                    " art/SquareAttack.",
                )
            )
    return found
