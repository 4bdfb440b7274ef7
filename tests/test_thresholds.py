"""Decision thresholds: against scikit-learn's ROC curve, by hand, and what happens where there is nothing to choose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from cxr_eval.stats.thresholds import operating_points


def threshold(positive, score, **settings):
    truth, given = np.array(positive, dtype=np.float64)[:, None], np.array(score, dtype=np.float64)[:, None]
    return operating_points(truth, given, ["a"], **settings)["a"]


def rates(positive, score, at):
    positive, called = np.array(positive, dtype=bool), np.array(score) >= at
    return called[positive].mean(), (~called)[~positive].mean()


@st.composite
def judged(draw):
    """Labels with both sides and probabilities, some with many ties, some 0 or 1."""
    n = draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 7, 1000]))
    positive = rng.permutation(np.r_[True, False, rng.random(n - 2) < 0.4])
    return positive, rng.integers(0, levels + 1, n) / levels


@given(judged())
@settings(max_examples=200, deadline=None)
def test_youdens_threshold_reaches_the_best_point_of_scikit_learns_curve(case):
    positive, score = case
    false, true, _ = roc_curve(positive, score, drop_intermediate=False)
    sensitivity, specificity = rates(positive, score, threshold(positive, score))
    assert sensitivity + specificity - 1 == pytest.approx(max(true - false), abs=1e-12)


@given(judged(), st.sampled_from([0.05, 0.5, 0.8, 0.9, 0.99]))
@settings(max_examples=200, deadline=None)
def test_a_wanted_sensitivity_or_specificity_is_reached_at_the_least_cost_of_the_other(case, wanted):
    positive, score = case
    false, true, _ = roc_curve(positive, score, drop_intermediate=False)
    sensitivity, specificity = rates(positive, score, threshold(positive, score, rule="sensitivity", at_least=wanted))
    assert sensitivity >= wanted
    assert specificity == pytest.approx(max((1 - false)[true >= wanted]))
    sensitivity, specificity = rates(positive, score, threshold(positive, score, rule="specificity", at_least=wanted))
    assert specificity >= wanted
    assert sensitivity == pytest.approx(max(true[1 - false >= wanted]))


def test_a_threshold_lies_half_way_between_two_probabilities():
    # sensitivity 1 and specificity 1 between 0.3 and 0.7
    assert threshold([0, 0, 1, 1], [0.1, 0.3, 0.7, 0.8]) == pytest.approx(0.5)


def test_of_equally_good_thresholds_the_middle_one_is_taken():
    # 0.2: 3/3 + 1/3; 0.6: 2/3 + 2/3; 0.85: 1/3 + 3/3
    positive, score = [0, 1, 0, 1, 0, 1], [0.1, 0.3, 0.5, 0.7, 0.8, 0.9]
    sums = {at: sum(rates(positive, score, at)) for at in (0.2, 0.6, 0.85)}
    assert list(sums.values()) == pytest.approx([4 / 3] * 3)
    assert threshold(positive, score) == pytest.approx(0.6)


def test_of_two_equally_good_thresholds_the_lower_is_taken_which_misses_less():
    positive, score = [0, 1, 0, 1], [0.1, 0.3, 0.5, 0.7]
    # 0.2: 1 + 1/2; 0.6: 1/2 + 1
    assert threshold(positive, score) == pytest.approx(0.2)


def test_a_network_that_says_the_same_of_all_images_calls_all_positive():
    assert threshold([0, 1, 1], [0.4, 0.4, 0.4]) == pytest.approx(0.2)
    assert threshold([0, 1, 1], [0.0, 0.0, 0.0]) == 0


def test_neighbouring_floats_are_told_apart_and_nothing_reaches_a_threshold_above_one():
    below = np.nextafter(1.0, 0.0)
    assert threshold([0, 1], [below, 1.0]) == 1.0
    assert threshold([1, 0], [0.5, 1.0], rule="specificity") > 1.0


def test_the_order_of_images_changes_nothing():
    rng = np.random.default_rng(0)
    positive, score = rng.random(40) < 0.5, rng.integers(0, 9, 40) / 8
    shuffled = rng.permutation(40)
    assert threshold(positive, score) == threshold(positive[shuffled], score[shuffled])


def test_classes_are_judged_one_by_one_and_unknown_labels_left_out():
    truth = np.array([[1, np.nan], [0, 1], [np.nan, 1], [1, 1], [0, np.nan]])
    probability = np.array([[0.9, np.nan], [0.2, 0.5], [0.3, 0.2], [0.8, 0.1], [0.1, 0.2]])
    found = operating_points(truth, probability, ["a", "b"])
    assert found["a"] == pytest.approx(0.5)  # 0.3 has no known label: half-way between 0.2 and 0.8
    assert np.isnan(found["b"])  # no negative image


@pytest.mark.parametrize("rule", ["youden", "sensitivity", "specificity"])
def test_without_images_of_both_sides_or_with_a_lost_probability_there_is_no_threshold(rule):
    assert np.isnan(threshold([1, 1], [0.2, 0.3], rule=rule))
    assert np.isnan(threshold([0, 0], [0.2, 0.3], rule=rule))
    assert np.isnan(threshold([], [], rule=rule))
    assert np.isnan(threshold([1, 0], [0.2, np.nan], rule=rule))


def test_an_unknown_rule_or_share_is_refused():
    with pytest.raises(ValueError, match=r"rule: expected youden, sensitivity, specificity, got 'best'"):
        threshold([0, 1], [0, 1], rule="best")
    with pytest.raises(ValueError, match=r"at_least: expected a number between 0 and 1, such as 0.9, got 1.0"):
        threshold([0, 1], [0, 1], at_least=1.0)
