"""What is compared between the trainers of a run, and which comparisons are corrected for each other."""

import math

import numpy as np
import pandas as pd
import pytest

from cxr_eval.stats import scores
from cxr_eval.stats.comparisons import (
    COMPARED,
    Comparison,
    explanation_differences,
    prediction_differences,
    robust_differences,
    with_holm,
)
from tests.test_paired import CLASSES, FEW, predictions, values


def outcomes(broken, attack="pgd", radii=(0.01, 0.02), **more):
    label = ["covid"] * len(broken)
    parts = []
    for eps in radii:
        robust = np.array(broken) > eps
        parts.append(
            predictions(label, np.where(robust, "covid", "normal")).assign(
                attack=attack, eps=eps, clean_correct=np.array(broken) > 0, robust=robust, every=False, **more
            )
        )
    return pd.concat(parts, ignore_index=True)


def against(outcomes_of, resampling=FEW):
    return robust_differences(outcomes_of, [("a", "b")], resampling, model="m", split="t", classes=CLASSES)


def attacked(seed, every=True, **more):
    """An attack on 40 images at two radii, with probabilities of its own at each."""
    rng = np.random.default_rng(seed)
    made = outcomes([np.inf] * 40, **more)
    label = np.array(["covid", "normal"] * 40)
    covid = rng.random(80) + 0.3 * (label == "covid")
    return made.assign(label=label, every=every, p_covid=covid, p_normal=1 - covid)


def test_robustness_is_compared_by_attack_and_radius_and_in_the_worst_case():
    ours = [outcomes([np.inf, np.inf, 0.02, 0.01]), outcomes([np.inf, 1, 1, 1], "cw", (1.0,), norm="l2", goal="any")]
    theirs = [outcomes([0.01, 0.02, 0.02, 0.01]), outcomes([1, 1, 1, 1], "cw", (1.0,), norm="l2", goal="any")]
    found = against({("a", 0): ours, ("b", 0): theirs})
    assert {row.condition: (row.value, row.p) for row in found} == {
        "pgd:0.01": (pytest.approx(3 / 4 - 2 / 4), 1.0),
        "pgd:0.02": (pytest.approx(2 / 4), 0.5),  # two patients differ, both one way: 2 of 4
        "cw:1": (pytest.approx(1 / 4), 1.0),
        "worst:0.01": (pytest.approx(1 / 4), 1.0),
        "worst:0.02": (pytest.approx(2 / 4), 0.5),
        "worst(l2):1": (pytest.approx(1 / 4), 1.0),
    }
    assert {row.metric for row in found} == {"robust_accuracy"}


def test_auroc_under_attack_is_compared_by_attack_and_radius_and_not_in_the_worst_case():
    from sklearn import metrics

    ours, theirs = attacked(0), attacked(1)
    found = {row.condition: row for row in against({("a", 0): [ours], ("b", 0): [theirs]}) if row.metric == "auroc"}
    assert list(found) == ["pgd:0.01", "pgd:0.02"]
    for eps in (0.01, 0.02):
        one, other = (
            metrics.roc_auc_score(part["label"] == "covid", part["p_covid"])
            for part in (table[table["eps"] == eps] for table in (ours, theirs))
        )
        row = found[f"pgd:{eps}"]
        assert row.value == pytest.approx(one - other)
        assert (row.n, row.patients, row.better) == (40, 40, "higher")
        assert row.low < row.value < row.high


def test_findings_under_attack_are_compared_by_their_mean_auroc():
    def findings(seed):
        table = attacked(seed).drop(columns="label")
        return table.assign(**{"label:covid": [1.0, 0.0] * 40, "label:normal": [0.0, 0.0, 1.0, np.nan] * 20})

    ours, theirs = findings(0), findings(1)
    (row,) = [
        row for row in against({("a", 0): [ours], ("b", 0): [theirs]}) if (row.metric, row.condition[-2:]) == ("auroc", "02")
    ]
    areas = []
    for table in (ours, theirs):
        at = table[table["eps"] == 0.02]
        truth, given_ = at[["label:covid", "label:normal"]].to_numpy(), at[["p_covid", "p_normal"]]
        areas.append(scores.ranking_scores(truth, given_, CLASSES, np.ones((1, 40)))["auroc"][0])
    assert row.value == pytest.approx(areas[0] - areas[1])


@pytest.mark.parametrize("more", [{"every": False}, {"goal": "hide covid"}])
def test_auroc_is_not_compared_where_only_some_images_were_attacked(more):
    found = against({("a", 0): [attacked(0, **more)], ("b", 0): [attacked(1, **more)]})
    assert {row.metric for row in found} == {"robust_accuracy"}


def test_auroc_under_attack_has_swaps_enough_for_its_family():
    label = np.array(["covid", "normal"] * 40)
    ill = label == "covid"
    ours, theirs = (
        attacked(0).assign(p_covid=p, p_normal=1 - p) for p in (ill + np.arange(80) / 99, ~ill - np.arange(80) / 99)
    )
    rows = [row for row in against({("a", 0): [ours], ("b", 0): [theirs]}) if row.metric == "auroc"]
    assert [(row.value, row.p) for row in rows] == [(pytest.approx(1), 1 / (5 * 200 + 1))] * 2


def test_each_score_stands_where_the_table_of_what_is_compared_has_it():
    table = predictions(["covid", "normal"] * 10, ["covid", "normal"] * 10)
    clean = prediction_differences(
        {("a", 0): table, ("b", 0): table}, [("a", "b")], FEW, model="m", split="t", condition="clean", classes=CLASSES
    )
    assert tuple(row.metric for row in clean) == COMPARED["clean"]
    found = against({("a", 0): [attacked(0)], ("b", 0): [attacked(1)]})
    assert {row.metric for row in found if row.condition == "pgd:0.01"} == set(COMPARED["attacked"])
    assert {row.metric for row in found if row.condition == "worst:0.01"} == set(COMPARED["worst"])


def test_explanations_are_compared_over_images_for_which_both_have_a_value():
    def table(of, target=("covid", "normal", "covid")):
        return pd.DataFrame(
            {
                "image_id": ["a", "a", "b"],
                "patient": ["p", "p", "q"],
                "target": list(target),
                "explainer": "gradcam",
                "metric": "mass[devices]",
                "value": of,
            }
        )

    (row,) = explanation_differences(
        {("a", 0): table([0.5, 0.9, 0.2]), ("b", 0): table([0.1, np.nan, 0.3])},
        [("a", "b")],
        FEW,
        model="m",
        split="t",
        condition="pgd:0.02",
        classes=CLASSES,
        better={"mass": "higher"},
        units={"mass": "fraction"},
        chosen={"mass": ()},
    )
    assert row.value == pytest.approx((0.4 - 0.1) / 2)
    assert (row.n, row.patients, row.explainer, row.better) == (2, 2, "gradcam", "lower")


def test_settings_that_a_metric_chose_are_no_scores_and_are_not_compared():
    names = ["overlap[covid@miou]", "overlap[threshold of covid]", "overlap[cut-off of covid]", "other[threshold of covid]"]

    def table(value):
        return pd.concat([values([value, value + 0.1]).assign(explainer="cam", metric=name) for name in names])

    found = explanation_differences(
        {("a", 0): table(0.5), ("b", 0): table(0.2)},
        [("a", "b")],
        FEW,
        model="m",
        split="t",
        condition="clean",
        classes=CLASSES,
        better={"overlap": "higher", "other": "higher"},
        units={"overlap": "fraction", "other": "fraction"},
        chosen={"overlap": ("threshold of ", "cut-off of "), "other": ()},
    )
    assert [row.metric for row in found] == ["overlap[covid@miou]", "other[threshold of covid]"]


# several comparisons


def comparison(p, metric="accuracy", split="test", **more):
    about = {"model": "m", "trainer": "a", "against": "b", "condition": "clean", "explainer": ""} | more
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "seeds_low": 0.0, "seeds_high": 0.0, "n": 9, "patients": 9}
    return Comparison(**about, **nothing, split=split, metric=metric, p=p, unit="fraction", better="higher")


def test_a_family_is_all_comparisons_of_one_metric_on_one_split():
    found = with_holm(
        [
            comparison(0.01, "mass[lesion]", explainer="gradcam"),
            comparison(0.02, "mass[lung]", explainer="cam", condition="pgd:0.02"),
            comparison(math.nan, "mass[lung]", explainer="cam"),
            comparison(0.03, "auroc"),
            comparison(0.04, "mass[lesion]", explainer="cam", split="hospital"),
        ]
    )
    assert [one.family for one in found] == [2, 2, 2, 1, 1]
    assert [found[k].p_holm for k in (0, 1, 3, 4)] == pytest.approx([0.02, 0.02, 0.03, 0.04])
    assert math.isnan(found[2].p_holm)
    assert [one.p for one in found[:2]] == [0.01, 0.02]
    assert with_holm([]) == []


def test_clean_images_all_attacks_and_the_worst_cases_are_families_apart():
    found = with_holm(
        [
            comparison(0.01, "auroc"),
            comparison(0.01, "auroc", condition="pgd:0.01"),
            comparison(0.02, "auroc", condition="fgsm:0.02"),
            comparison(0.02, "robust_accuracy", condition="pgd:0.01"),
            comparison(0.03, "robust_accuracy", condition="worst:0.01"),
            comparison(0.04, "robust_accuracy", condition="worst(l2 hide covid):1"),
        ]
    )
    assert [one.family for one in found] == [1, 2, 2, 1, 2, 2]
    assert [one.p_holm for one in found] == pytest.approx([0.01, 0.02, 0.02, 0.02, 0.06, 0.06])
