"""The summary's sentences: which of two trainers is called best, what is withheld, and how findings are said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from cxr_eval.report.verdict import verdict
from cxr_eval.report.words import finding, on_networks, with_needs
from tests.evidence import TWO, both_seeds, difference
from tests.report_pages import results_of


def accuracies(standard: float, fgsm: float, *more: dict[str, Any]) -> str:
    """The first sentence of a run whose trainers are that accurate, with these comparisons."""
    rows = [one for one in TWO.rows() if one.metric != "accuracy"]
    rows += [*both_seeds("accuracy", standard), *both_seeds("accuracy", fgsm, trainer="fgsm")]
    return verdict(results_of(TWO, rows), pd.DataFrame(list(more)) if more else None)[0]


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        (difference("accuracy", 0.1, 0.01), "better", "fgsm better"),
        (difference("accuracy", -0.1, 0.01), "better", "standard better"),
        (difference("ece", -0.1, 0.01, better="lower"), "better", "fgsm better"),
        (difference("threshold", -0.1, 0.01, better="neither"), "higher", "standard higher"),
        (difference("accuracy", 0.1, 0.05), "none", "no difference shown"),
        (difference("accuracy", 0.1, math.nan), "none", "no difference shown"),
        (difference("accuracy", 0.0, 0.01), "none", "no difference shown"),
        (difference("accuracy", 0.1, 0.01, seeds_low=-0.01, seeds_high=0.2), "seeds", "seeds disagree"),
        (difference("accuracy", 0.1, 0.01, seeds_low=0.0, seeds_high=0.2), "better", "fgsm better"),
        (difference("accuracy", 0.1, 0.01, seeds_low=-1e-17, seeds_high=0.2), "better", "fgsm better"),
        (difference("accuracy", 0.1, 0.2, seeds_low=-0.01, seeds_high=0.2), "none", "no difference shown"),
        (difference("accuracy", math.nan, math.nan), "apart", "not compared"),
    ],
)
def test_a_comparison_comes_to_the_same_words_everywhere(line: dict[str, Any], kind: str, said: str) -> None:
    assert (finding(line).kind, finding(line).said) == (kind, said)


def test_a_trainer_is_best_only_where_its_difference_from_the_worst_was_shown() -> None:
    low, high = "0.500 [0.400, 0.600] (standard)", "0.700 [0.600, 0.800] (fgsm)"
    start = "On clean images of “test” (n = 40), accuracy is"
    assert accuracies(0.5, 0.7, difference("accuracy", 0.2, 0.01)) == (
        f"{start} at best {high} and at worst {low}, a difference shown (p = 0.010)."
    )
    assert accuracies(0.5, 0.7, difference("accuracy", 0.2, 0.3)) == (
        f"{start} from {low} to {high}, no difference shown (p = 0.300)."
    )
    split = difference("accuracy", 0.2, 0.0001, seeds_low=-0.1, seeds_high=0.5)
    assert accuracies(0.5, 0.7, split) == (
        f"{start} from {low} to {high}, and the seeds disagree on which is higher (p < 0.001)."
    )


@pytest.mark.parametrize(
    "line",
    [
        difference("auroc", 0.2, 0.01),  # another metric
        difference("accuracy", 0.2, 0.01, condition="pgd:0.02"),
        difference("accuracy", -0.2, 0.01),  # over the seeds that both have, the other is better
        difference("accuracy", math.nan, math.nan, note="withheld: 2 patients, fewer than 5"),
    ],
)
def test_what_no_comparison_speaks_of_is_neither_best_nor_worst(line: dict[str, Any]) -> None:
    told = accuracies(0.5, 0.7, line)
    assert "not compared with each other, with overlapping intervals." in told
    assert " at best " not in told


def test_which_of_the_two_the_other_is_subtracted_from_does_not_matter() -> None:
    turned = difference("accuracy", -0.2, 0.01, trainer="standard", against="fgsm")
    assert accuracies(0.5, 0.7, turned) == accuracies(0.5, 0.7, difference("accuracy", 0.2, 0.01))


def withheld(metric: str, **given: Any) -> list[Any]:
    note = "withheld: 3 patients, fewer than 5"
    return [replace(one, value=math.nan, low=math.nan, high=math.nan, note=note) for one in both_seeds(metric, 0.5, **given)]


def test_a_withheld_number_is_called_withheld_and_one_without_value_not_defined() -> None:
    def told(*rows: Any) -> str:
        return verdict(results_of(TWO, [one for one in TWO.rows() if one.metric != "accuracy"] + list(rows)))[0]

    start = "On clean images of “test”, accuracy is"
    assert told(*withheld("accuracy"), *withheld("accuracy", trainer="fgsm")) == f"{start} withheld: fewer than 5 patients."
    nothing = [replace(one, note="") for trainer in TWO.trainers for one in withheld("accuracy", trainer=trainer)]
    assert told(*nothing) == f"{start} not defined."
    assert told(*both_seeds("accuracy", 0.5), *withheld("accuracy", trainer="fgsm")) == (
        "On clean images of “test” (n = 40), accuracy is 0.500 [0.400, 0.600] (standard), leaving out 1 number withheld: fewer"
        " than 5 patients."
    )


def test_a_score_that_a_set_lacks_is_not_measured() -> None:
    rows = [one for one in replace(TWO, outside=("far",)).rows() if (one.split, one.metric) != ("far", "accuracy")]
    assert verdict(results_of(replace(TWO, outside=("far",)), rows))[0].endswith("; on “far” it is not measured.")


NETWORKS = [{"model": "net", "trainer": trainer, "seed": seed} for trainer in ("a, b / c", "d") for seed in (1, 10)]


def test_what_holds_for_many_networks_is_said_once_with_their_number() -> None:
    all_ = [f"net / {trainer} / seed {seed}, test, cam" for trainer in ("a, b / c", "d") for seed in (1, 10)]
    assert on_networks(all_, NETWORKS) == ["all 4 networks, test, cam"]
    assert on_networks(all_[1:], NETWORKS) == [
        "3 of 4 networks (net / a, b / c / seed 10; net / d / seeds 1, 10), test, cam",
    ]
    apart = ["net / d / seed 1, test", "net / d / seed 10, far", "the whole run", "net / d / seed 100, test"]
    assert on_networks(apart, NETWORKS) == apart
    assert on_networks(["net / d / seed 1"], NETWORKS[2:3]) == ["net / d / seed 1"]


def test_a_trainer_that_needs_the_networks_of_others_says_which() -> None:
    assert with_needs("x", {"warm_start": "s", "reference": "r"}) == "x (from s, reference r)"
    assert with_needs("x", {"reference": "r"}) == "x (reference r)"
    assert with_needs("x", {"warm_start": None}) == "x"
