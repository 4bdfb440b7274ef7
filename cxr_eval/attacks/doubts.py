"""Doubts that follow from what the attacks of one cell did to the same images."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from cxr_eval.types import RowWarning, format_eps

ENDS_NEAR_ZERO = 0.1
"""Share of the images right without attack that may survive the largest radius while the curve still shows its end."""

BLIND = 0.1
"""Share of images without a loss gradient from which on attacks that follow it are in doubt."""

CHANCE = 0.05
"""Probability below which more images broken by one step than by many are not put down to chance."""


def doubts(outcomes: pd.DataFrame, *, dependent: Collection[str] = ()) -> list[RowWarning]:
    """Reasons not to believe the robust accuracies of one cell; `scope` is `ATTACK:EPS`, or the attack.

    outcomes: the tables of `attack_outcomes` of the cell's attacks with one norm and goal, one below the other.
    dependent: attacks made on another network, or run only on what another has left, which are like no other.

    Source: Carlini et al., On Evaluating Adversarial Robustness, arXiv:1902.06705, section 4.3; Athalye et al., ICML 2018,
    arXiv:1802.00420, section 3.1.
    """
    if outcomes.empty:
        return []
    alike = outcomes[~outcomes["attack"].isin(list(dependent))]
    return [*_single_step_wins(alike), *_end_not_shown(outcomes), *_blind_attacks(outcomes)]


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
                            " its robust accuracy is too high; add an attack without gradients such as square.",
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
                    " square.",
                )
            )
    return found
