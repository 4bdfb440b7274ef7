"""Clinical scores: by hand, against scikit-learn, and which way wrong answers go under attack."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from cxr_eval.stats import flips
from cxr_eval.stats.cases import shares
from cxr_eval.stats.clinical import (
    brier_score,
    calibration_error,
    net_benefit,
    net_benefit_of_all,
    no_finding_class,
    operating_scores,
)
from cxr_eval.stats.clinical_rows import ClinicalRows, Decisions
from cxr_eval.stats.intervals import Resampling

CLASSES = ("covid", "normal", "pneumonia")
ONCE = np.ones((1, 4))


def once(n):
    return np.ones((1, n))


def value(found):
    return {name: pytest.approx(float(of[0]), nan_ok=True) for name, of in found.items()}


@st.composite
def weighted(draw, classes=2, unknown=False):
    """Labels, probabilities with ties and at bin edges, and whole-numbered weights, some of them 0."""
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([3, 15, 1000]))
    truth = rng.integers(0, 2, (n, classes)).astype(np.float64)
    if unknown:
        truth[rng.random((n, classes)) < 0.3] = np.nan
    return truth, rng.integers(0, levels + 1, (n, classes)) / levels, rng.integers(0, 4, (3, n)).astype(np.float64)


# decisions at frozen thresholds


@given(weighted(unknown=True), st.floats(0.1, 0.9))
@settings(max_examples=50, deadline=None)
def test_decisions_at_a_threshold_are_scikit_learns_for_every_weighting(case, at):
    truth, probability, weights = case
    found = operating_scores(truth, probability, ["a", "b"], {"a": at, "b": at}, weights)
    for k, name in enumerate(["a", "b"]):
        for r, w in enumerate(weights):
            drawn = np.isfinite(truth[:, k]) & (w > 0)
            y, called = truth[drawn, k] > 0.5, probability[drawn, k] >= at
            if not drawn.any():  # scikit-learn takes no empty input
                assert np.isnan(
                    [found[f"{metric}[{name}]"][r] for metric in ("sensitivity", "specificity", "ppv", "npv")]
                ).all()
                continue
            for metric, expected in (
                ("sensitivity", metrics.recall_score(y, called, sample_weight=w[drawn], zero_division=np.nan)),
                ("specificity", metrics.recall_score(~y, ~called, sample_weight=w[drawn], zero_division=np.nan)),
                ("ppv", metrics.precision_score(y, called, sample_weight=w[drawn], zero_division=np.nan)),
                ("npv", metrics.precision_score(~y, ~called, sample_weight=w[drawn], zero_division=np.nan)),
            ):
                assert found[f"{metric}[{name}]"][r] == pytest.approx(expected, nan_ok=True)


def test_decisions_by_hand_with_the_threshold_itself_called_positive():
    truth = np.array([[1], [1], [0], [0]])
    found = value(operating_scores(truth, np.array([[0.5], [0.2], [0.5], [0.1]]), ["a"], {"a": 0.5}, ONCE))
    assert found == {
        "sensitivity[a]": 1 / 2,
        "specificity[a]": 1 / 2,
        "ppv[a]": 1 / 2,
        "npv[a]": 1 / 2,
        "sensitivity": 1 / 2,
        "specificity": 1 / 2,
    }


def test_a_class_without_threshold_or_positives_or_with_a_lost_probability_does_not_count_in_the_mean():
    truth = np.array([[1, 1, 0, 1], [0, 0, 0, 0]])
    probability = np.array([[0.9, 0.9, 0.9, np.nan], [0.1, 0.1, 0.1, 0.1]])
    at = {"a": 0.5, "lost": float("nan"), "absent": 0.5, "nan": 0.5}
    found = operating_scores(truth, probability, list(at), at, once(2))
    assert np.isnan([found[f"sensitivity[{name}]"][0] for name in ("lost", "absent", "nan")]).all()
    assert np.isnan([found[f"npv[{name}]"][0] for name in ("lost", "nan")]).all()
    assert found["sensitivity"][0] == 1
    assert found["specificity"][0] == pytest.approx((1 + 1 / 2) / 2)


# calibration


def naive_error(so, claimed, w):
    """Bins of (m/15, (m+1)/15], one at a time, the first with 0."""
    total = 0.0
    edges = np.linspace(0, 1, 16)
    for m in range(15):
        here = (claimed > edges[m]) & (claimed <= edges[m + 1]) | ((m == 0) & (claimed == 0))
        if w[here].sum():
            total += w[here].sum() * abs(np.average(so[here], weights=w[here]) - np.average(claimed[here], weights=w[here]))
    return total / w.sum() if w.sum() else np.nan


@given(weighted(classes=1, unknown=True))
@settings(max_examples=150, deadline=None)
def test_the_calibration_error_of_a_finding_is_the_mean_gap_of_its_bins(case):
    truth, probability, weights = case
    known = np.isfinite(truth[:, 0])
    found = calibration_error(truth, probability, weights, task="multilabel")["ece"]
    expected = [naive_error(truth[known, 0], probability[known, 0], w[known]) for w in weights]
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_calibration_error_of_classes_looks_at_the_predicted_class_alone():
    # claimed 0.9, 0.9 (one right) and 0.6 (right): 2/3 * |1/2 - 0.9| + 1/3 * |1 - 0.6|
    truth = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]])
    probability = np.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.2, 0.2, 0.6]])
    found = calibration_error(truth, probability, once(3), task="multiclass")["ece"]
    assert found[0] == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4)


def test_a_calibrated_network_has_no_error_and_a_sure_one_that_is_wrong_has_all():
    truth = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    assert calibration_error(truth, np.tile([0.75, 0.25], (4, 1)), ONCE, task="multiclass")["ece"][0] == pytest.approx(0)
    assert calibration_error(1 - truth, truth, ONCE, task="multiclass")["ece"][0] == 1
    assert brier_score(1 - truth, truth, ONCE, task="multiclass")["brier"][0] == 2
    assert brier_score(1 - truth, truth, ONCE, task="multilabel")["brier"][0] == 1


@given(weighted(classes=1))
@settings(max_examples=100, deadline=None)
def test_the_brier_score_of_a_finding_is_scikit_learns(case):
    truth, probability, weights = case
    found = brier_score(truth, probability, weights, task="multilabel")["brier"]
    for score, w in zip(found, weights, strict=True):
        if w.sum():
            assert score == pytest.approx(
                metrics.brier_score_loss(truth[:, 0], probability[:, 0], sample_weight=w, labels=[0, 1])
            )
        else:
            assert np.isnan(score)


def test_the_brier_score_of_classes_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, probability = rng.integers(0, 3, 20), rng.dirichlet(np.ones(3), 20)
    found = brier_score(np.eye(3)[y], probability, once(20), task="multiclass")["brier"]
    assert found[0] == pytest.approx(metrics.brier_score_loss(y, probability, labels=[0, 1, 2], scale_by_half=False))


def test_the_brier_score_of_findings_is_the_mean_over_known_labels():
    truth, probability = np.array([[1, np.nan], [0, 1]]), np.array([[0.5, np.nan], [0.1, 0.8]])
    assert brier_score(truth, probability, once(2), task="multilabel")["brier"][0] == pytest.approx((0.25 + 0.01 + 0.04) / 3)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_calibration_without_images_or_with_lost_probabilities_does_not_exist(task):
    for truth, probability in ((np.zeros((0, 2)), np.zeros((0, 2))), (np.eye(2), np.full((2, 2), np.nan))):
        assert np.isnan(calibration_error(truth, probability, once(len(truth)), task=task)["ece"]).all()
        assert np.isnan(brier_score(truth, probability, once(len(truth)), task=task)["brier"]).all()


# net benefit


def test_net_benefit_by_hand():
    # four images, two ill; at 0.2 acted on are two ill and one healthy: 2/4 - 1/4 * 0.2/0.8; at 0.5 one ill: 1/4
    label = np.array([0, 0, 1, 1])
    probability = np.array([[0.7, 0.3], [0.3, 0.7], [0.25, 0.75], [0.1, 0.9]])
    given = {"thresholds": (0.2, 0.5), "no_finding": "normal", "task": "multiclass"}
    found = value(net_benefit(np.eye(2)[label], probability, ["covid", "normal"], ONCE, **given))
    assert found == {"net_benefit[disease@0.2]": 0.5 - 0.25 * 0.25, "net_benefit[disease@0.5]": 0.25}
    # all: 2/4 - 2/4 * t/(1 - t)
    of_all = value(net_benefit_of_all(np.eye(2)[label], ["covid", "normal"], ONCE, **given))
    assert of_all == {"net_benefit_treat_all[disease@0.2]": 0.5 - 0.5 * 0.25, "net_benefit_treat_all[disease@0.5]": 0.0}


def test_a_perfect_network_has_the_share_of_disease_as_net_benefit_and_one_sure_of_disease_that_of_acting_always():
    truth = np.eye(3)[[0, 1, 1, 2]]
    given = {"thresholds": (0.1, 0.3), "no_finding": "normal", "task": "multiclass"}
    assert set(map(float, np.ravel([*net_benefit(truth, truth, CLASSES, ONCE, **given).values()]))) == {0.5}
    always = net_benefit(truth, np.eye(3)[[0, 0, 0, 0]], CLASSES, ONCE, **given)
    for name, of in net_benefit_of_all(truth, CLASSES, ONCE, **given).items():
        assert always[name.replace("_treat_all", "")] == pytest.approx(of)


def test_net_benefit_is_told_by_finding_without_unknown_labels_and_without_the_finding_that_means_none():
    truth = np.array([[1, 0, 1], [np.nan, 1, 0], [0, 0, 0]])
    probability = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.9, 0.9, 0.5]])
    found = net_benefit(
        truth,
        probability,
        ["Mass", "Edema", "No Finding"],
        once(3),
        thresholds=(0.5,),
        no_finding="No Finding",
        task="multilabel",
    )
    assert value(found) == {"net_benefit[Mass@0.5]": 1 / 2 - 1 / 2, "net_benefit[Edema@0.5]": -1 / 3}


def test_net_benefit_with_a_lost_probability_or_without_images_does_not_exist():
    given = {"thresholds": (0.5,), "no_finding": None, "task": "multilabel"}
    lost = net_benefit(np.ones((2, 1)), np.array([[0.5], [np.nan]]), ["a"], once(2), **given)
    assert np.isnan(lost["net_benefit[a@0.5]"]).all()
    assert np.isnan(net_benefit(np.zeros((0, 1)), np.zeros((0, 1)), ["a"], once(0), **given)["net_benefit[a@0.5]"]).all()


# the class that means nothing was found


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("COVID-19", "Normal"), "Normal"),
        (("covid", "No_Finding"), "No_Finding"),
        (("Negative for Pneumonia", "Typical Appearance"), "Negative for Pneumonia"),
        (("Abnormal", "HEALTHY"), "HEALTHY"),
        (("melanoma", "nevus"), None),
        (("abnormal", "not normal"), None),
    ],
)
def test_the_class_that_means_nothing_was_found_is_known_by_its_name(classes, expected):
    assert no_finding_class(classes) == expected


def test_the_class_that_is_named_wins_and_must_be_there():
    assert no_finding_class(("normal", "nevus"), "nevus") == "nevus"
    with pytest.raises(ValueError, match=r"no_finding: no class is called 'Nevus'; did you mean 'nevus'\?"):
        no_finding_class(("melanoma", "nevus"), "Nevus")
    with pytest.raises(ValueError, match=r"no_finding: no class is called 'x': they are melanoma, nevus"):
        no_finding_class(("melanoma", "nevus"), "x")


# which way errors go

LABEL = ["covid", "covid", "covid", "covid", "normal", "normal", "normal", "pneumonia"]
BEFORE = ["covid", "covid", "covid", "normal", "normal", "normal", "covid", "pneumonia"]
AFTER = ["covid", "normal", "pneumonia", "normal", "normal", "pneumonia", "covid", "normal"]


def test_directions_of_errors_by_hand():
    found = value(shares(flips.of_classes(LABEL, AFTER, "normal", BEFORE), once(8)))
    assert found == {
        "missed_disease": 3 / 5,  # ill: the four covid and the pneumonia; called normal: two covid and the pneumonia
        "false_alarm": 2 / 3,
        "disease_confused": 1 / 5,
        "flipped_to_no_finding": 2 / 4,  # ill and right before: three covid and the pneumonia
        "flipped_to_disease": 1 / 2,  # healthy and right before: two
    }


def test_without_a_table_of_before_nothing_is_said_to_have_been_flipped():
    assert set(flips.of_classes(LABEL, AFTER, "normal")) == {"missed_disease", "false_alarm", "disease_confused"}


def test_disease_missed_confused_and_found_add_up():
    counted = shares(flips.of_classes(LABEL, AFTER, "normal"), once(8))
    found = np.mean([a == b for a, b in zip(LABEL, AFTER, strict=True) if a != "normal"])
    assert counted["missed_disease"][0] + counted["disease_confused"][0] + found == pytest.approx(1)


def test_directions_of_errors_by_hand_where_findings_stand_together():
    truth = np.array([[1, 1], [1, 0], [0, 0], [0, np.nan], [np.nan, np.nan]])
    before = np.array([[0.9, 0.9], [0.9, 0.1], [0.1, 0.1], [0.1, 0.9], [0.9, 0.9]])
    after = np.array([[0.1, 0.9], [0.5, 0.1], [0.1, 0.6], [0.1, 0.9], [0.9, 0.9]])
    found = value(shares(flips.of_findings(truth, after, ["Mass", "Edema"], None, before), once(5)))
    assert found == {
        "missed[Mass]": 1.0,  # a probability of exactly 1/2 does not find it
        "missed[Edema]": 0.0,
        "missed_disease": 2 / 3,
        "false_alarm": 1 / 2,  # the fourth image's second finding is unknown and does not count
        "flipped_to_no_finding": 2 / 3,
        "flipped_to_disease": 1 / 2,
    }


def test_a_finding_that_means_none_is_no_disease():
    truth, after = np.array([[0, 1], [1, 0]]), np.array([[0.1, 0.1], [0.9, 0.1]])
    found = value(shares(flips.of_findings(truth, after, ["Mass", "No Finding"], "No Finding"), once(2)))
    assert found == {"missed[Mass]": 0.0, "missed_disease": 0.0, "false_alarm": 0.0}


def test_without_ill_or_healthy_images_there_is_no_share():
    found = shares(flips.of_classes(["covid"], ["covid"], "normal", ["normal"]), once(1))
    assert np.isnan([found["false_alarm"][0], found["flipped_to_no_finding"][0], found["flipped_to_disease"][0]]).all()
    assert found["missed_disease"][0] == 0


# rows


def rows_of(classes=CLASSES, **settings):
    resampling = Resampling(**{"resamples": 100, "min_patients": 0} | settings)
    return ClinicalRows(model="m", trainer="t", seed=0, classes=classes, resampling=resampling, provenance="p")


def table(label, predicted, classes=CLASSES):
    n = len(label)
    given = {f"p_{name}": np.where(np.array(predicted) == name, 0.8, 0.1) for name in classes}
    who = {"image_id": [f"i{k}" for k in range(n)], "patient": [f"p{k}" for k in range(n)]}
    return pd.DataFrame(who | {"label": label, "predicted": predicted} | given)


def outcomes(predicted, eps=(0.01,), every=False, **columns):
    given = table(LABEL, predicted)
    return pd.concat(
        [given.assign(attack="pgd", eps=at, clean_correct=True, robust=False, every=every, **columns) for at in eps]
    )


def test_decisions_are_chosen_on_validation_images_once():
    chosen = Decisions.chosen(table(LABEL, BEFORE), CLASSES, rule="sensitivity", at_least=0.5)
    # probabilities are 0.1 and 0.8: half-way
    assert chosen.thresholds == {"covid": pytest.approx(0.45), "normal": pytest.approx(0.45), "pneumonia": pytest.approx(0.45)}
    assert chosen.no_finding == "normal"
    rows = rows_of().operating_points(table(LABEL, BEFORE), chosen, split="val")
    assert [(row.metric, row.split, row.n, row.better, row.unit) for row in rows] == [
        (f"threshold[{name}]", "val", 8, "neither", "1") for name in CLASSES
    ]
    assert rows[0].value == pytest.approx(0.45)
    assert np.isnan(rows[0].low)


def test_clinical_rows_say_which_images_stand_behind_them_and_what_is_better():
    decisions = Decisions.chosen(table(LABEL, BEFORE), CLASSES)
    rows = {row.metric: row for row in rows_of().clinical(table(LABEL, BEFORE), decisions, split="test", condition="clean")}
    said = {name: (row.n, row.better, row.unit) for name, row in rows.items()}
    assert said["sensitivity[covid]"] == (4, "higher", "fraction")
    assert said["specificity[covid]"] == (4, "higher", "fraction")
    assert said["ppv[normal]"] == (3, "higher", "fraction")  # called so
    assert said["sensitivity"] == (8, "higher", "fraction")
    assert said["ece"] == (8, "lower", "fraction")
    assert said["brier"] == (8, "lower", "1")
    assert said["net_benefit[disease@0.1]"] == (8, "higher", "1")
    assert said["net_benefit_treat_all[disease@0.5]"] == (8, "neither", "1")
    assert said["missed_disease"] == (5, "lower", "fraction")
    assert said["false_alarm"] == (3, "lower", "fraction")
    assert "flipped_to_disease" not in said
    assert rows["sensitivity[covid]"].value == 3 / 4
    assert rows["sensitivity[covid]"].low < 3 / 4 < rows["sensitivity[covid]"].high


def test_a_share_that_all_resamples_agree_on_gets_the_exact_interval_of_its_patients():
    rows = rows_of().directions(table(LABEL, LABEL), Decisions({}, "normal"), split="test", condition="clean")
    missed = next(row for row in rows if row.metric == "missed_disease")
    # none of five patients: 1 - 0.025 ** (1/5)
    assert (missed.value, missed.low, missed.high) == (0, 0, pytest.approx(1 - 0.025 ** (1 / 5)))


def test_numbers_of_few_patients_are_withheld():
    decisions = Decisions.chosen(table(LABEL, BEFORE), CLASSES)
    found = rows_of(min_patients=5).clinical(table(LABEL, BEFORE), decisions, split="test", condition="clean")
    rows = {row.metric: row for row in found}
    assert rows["sensitivity[covid]"].note == "withheld: 4 patients, fewer than 5"
    assert np.isnan(rows["sensitivity[covid]"].value)
    assert rows["false_alarm"].note == "withheld: 3 patients, fewer than 5"
    assert rows["missed_disease"].note == rows["ece"].note == ""


def test_an_attack_that_skips_broken_images_has_directions_alone_at_each_radius_above_0():
    rows = rows_of().clinical_attacked(
        outcomes(AFTER, (0.0, 0.01, 2 / 255)), table(LABEL, BEFORE), Decisions({}, "normal"), split="test"
    )
    assert {row.condition for row in rows} == {"pgd:2/255", "pgd:0.01"}
    assert {row.metric for row in rows} == {
        *("missed_disease", "false_alarm", "disease_confused", "flipped_to_no_finding", "flipped_to_disease")
    }
    assert {row.value for row in rows if row.metric == "flipped_to_no_finding"} == {2 / 4}


def test_the_clean_table_is_joined_by_image():
    clean = table([*LABEL, "covid"], [*BEFORE, "normal"]).sample(frac=1, random_state=0)
    rows = rows_of().clinical_attacked(outcomes(AFTER), clean, Decisions({}, "normal"), split="test")
    assert {row.metric: row.value for row in rows}["flipped_to_no_finding"] == 2 / 4


def test_an_attack_on_every_image_has_all_clinical_scores_and_one_with_a_goal_has_none():
    decisions = Decisions.chosen(table(LABEL, BEFORE), CLASSES)
    rows = rows_of().clinical_attacked(outcomes(AFTER, every=True), table(LABEL, BEFORE), decisions, split="test")
    assert {"sensitivity", "ece", "net_benefit[disease@0.3]", "flipped_to_disease"} <= {row.metric for row in rows}
    aimed = outcomes(AFTER, goal="hide Mass")
    assert rows_of().clinical_attacked(aimed, table(LABEL, BEFORE), decisions, split="test") == []


def test_classes_without_one_that_means_nothing_found_have_no_directions_and_a_net_benefit_each():
    classes = ("melanoma", "nevus")
    given = table(["nevus", "melanoma", "nevus"], ["nevus", "melanoma", "melanoma"], classes)
    rows = rows_of(classes).clinical(given, Decisions.chosen(given, classes), split="test", condition="clean")
    metrics_of = {row.metric for row in rows}
    assert "net_benefit[melanoma@0.5]" in metrics_of
    assert "missed_disease" not in metrics_of


def test_rows_of_findings_count_known_labels():
    classes = ("Mass", "Edema")
    given = pd.DataFrame(
        {
            "image_id": ["a", "b", "c"],
            "patient": ["1", "2", "3"],
            "label:Mass": [1.0, 0.0, np.nan],
            "label:Edema": [0.0, 1.0, np.nan],
            "p_Mass": [0.9, 0.2, 0.5],
            "p_Edema": [0.1, 0.2, 0.5],
        }
    )
    decisions = Decisions.chosen(given, classes)
    found = rows_of(classes).clinical(given, decisions, split="test", condition="fog:3", before=given)
    rows = {row.metric: row for row in found}
    assert rows["ece"].n == rows["brier"].n == rows["net_benefit[Mass@0.1]"].n == 2
    assert rows["missed[Edema]"].value == 1
    assert rows["missed_disease"].n == 2
    assert rows["flipped_to_no_finding"].value == 0
