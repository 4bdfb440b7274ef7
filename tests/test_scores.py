"""Scores against scikit-learn for any weighting, and NaN where they are not defined."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from cxr_eval.stats import scores


@st.composite
def weighted(draw, classes=3, distinct=None):
    """Labels, decisions, scores with ties, and whole-numbered weights as a bootstrap draws them, some of them 0."""
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 5, 1000])) if distinct is None else distinct
    return (
        rng.integers(0, classes, n),
        rng.integers(0, classes, n),
        rng.integers(0, levels, (n, classes)) / levels,
        rng.integers(0, 4, (3, n)).astype(np.float64),
    )


@given(weighted())
@settings(max_examples=150, deadline=None)
def test_auroc_is_scikit_learns_for_every_weighting(case):
    y, _, score, weights = case
    found = scores.auroc(y == 0, score[:, 0], weights)
    for value, w in zip(found, weights, strict=True):
        drawn = w > 0
        if len(np.unique(y[drawn] == 0)) < 2:
            assert np.isnan(value)
        else:
            expected = metrics.roc_auc_score(y[drawn] == 0, score[drawn, 0], sample_weight=w[drawn])
            assert value == pytest.approx(expected, abs=1e-12)


@given(weighted())
@settings(max_examples=50, deadline=None)
def test_auroc_is_the_chance_that_a_positive_image_scores_higher(case):
    y, _, score, weights = case
    value = scores.auroc(y == 0, score[:, 0], weights[:1])[0]
    wins = total = 0.0
    for i, j in itertools.product(np.flatnonzero(y == 0), np.flatnonzero(y != 0)):
        pair = weights[0, i] * weights[0, j]
        wins += pair * ((score[i, 0] > score[j, 0]) + 0.5 * (score[i, 0] == score[j, 0]))
        total += pair
    assert value == pytest.approx(wins / total if total else np.nan, nan_ok=True)


def test_auroc_of_ties_by_hand():
    # positives score 1, 2, 2; negatives 1, 2: wins 0.5 + 0 + 1 + 0.5 + 1 + 0.5 of 6 pairs
    found = scores.auroc([True, True, True, False, False], [1, 2, 2, 1, 2], np.ones((1, 5)))
    assert found[0] == pytest.approx(3.5 / 6)
    assert scores.auroc([True, False], [0.3, 0.3], np.ones((1, 2)))[0] == 0.5


@given(weighted(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_average_precision_is_scikit_learns_for_every_weighting(case, whole):
    y, _, score, weights = case
    weights = weights if whole else weights * np.random.default_rng(len(y)).random(weights.shape)
    found = scores.average_precision(y == 0, score[:, 0], weights)
    for value, w in zip(found, weights, strict=True):
        drawn = w > 0
        if not (y[drawn] == 0).any():
            assert np.isnan(value)
        else:
            expected = metrics.average_precision_score(y[drawn] == 0, score[drawn, 0], sample_weight=w[drawn])
            assert value == pytest.approx(expected, abs=1e-12)


@given(weighted())
@settings(max_examples=50, deadline=None)
def test_auroc_is_scikit_learns_for_weights_that_are_no_counts(case):
    y, _, score, weights = case
    weights = weights * np.random.default_rng(len(y)).random(weights.shape)
    for value, w in zip(scores.auroc(y == 0, score[:, 0], weights), weights, strict=True):
        drawn = w > 0
        if len(np.unique(y[drawn] == 0)) < 2:
            assert np.isnan(value)
        else:
            expected = metrics.roc_auc_score(y[drawn] == 0, score[drawn, 0], sample_weight=w[drawn])
            assert value == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand():
    # from the highest score: yes (1/1), no, yes (2/3), no, yes (3/5); each yes adds a third of the recall
    found = scores.average_precision([True, False, True, False, True], [5, 4, 3, 2, 1], np.ones((1, 5)))
    assert found[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_images_of_equal_score_pass_the_threshold_of_average_precision_together():
    # score 2: two of three are positive, precision 2/3 for two thirds of the recall; score 1: precision 3/5 for the rest
    found = scores.average_precision([True, True, True, False, False], [1, 2, 2, 1, 2], np.ones((1, 5)))
    assert found[0] == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 5)
    # all at once: the share of positives, in whatever order the images stand
    assert scores.average_precision([True, False, False, False], [0.3] * 4, np.ones((1, 4)))[0] == 0.25
    assert scores.average_precision([False, False, False, True], [0.3] * 4, np.ones((1, 4)))[0] == 0.25


def test_average_precision_without_positives_is_not_defined_and_without_negatives_is_1():
    assert np.isnan(scores.average_precision([False, False], [0.1, 0.2], np.ones((2, 2)))).all()
    assert np.isnan(scores.average_precision([], [], np.ones((2, 0)))).all()
    found = scores.average_precision([True, True, False], [0.1, 0.2, 0.3], np.array([[1.0, 2, 0], [0, 0, 1], [0, 0, 0]]))
    np.testing.assert_array_equal(found, [1.0, np.nan, np.nan])


def test_an_image_without_a_score_leaves_neither_area_defined():
    positive, score = [True, False, True], [0.2, np.nan, 0.4]
    assert np.isnan(scores.auroc(positive, score, np.ones((2, 3)))).all()
    assert np.isnan(scores.average_precision(positive, score, np.ones((2, 3)))).all()


def test_areas_are_the_same_for_any_number_of_weightings_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    positive, score, weights = rng.random(40) < 0.3, np.round(rng.random(40), 1), rng.integers(0, 3, (57, 40)).astype(float)
    together = scores.auroc(positive, score, weights), scores.average_precision(positive, score, weights)
    monkeypatch.setattr(scores, "BLOCK", 100)  # two weightings a block, and one left over
    np.testing.assert_array_equal(scores.auroc(positive, score, weights), together[0])
    np.testing.assert_array_equal(scores.average_precision(positive, score, weights), together[1])


@pytest.mark.parametrize("positive", [[], [True], [False, False], [True, True]])
def test_auroc_of_one_side_is_not_defined(positive):
    assert np.isnan(scores.auroc(positive, [0.5] * len(positive), np.ones((2, len(positive))))).all()


def sklearn_decisions(y, predicted, classes, w):
    """What scikit-learn says of decisions, where it is defined; NaN elsewhere."""
    labels = np.arange(classes)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        y, predicted, labels=labels, sample_weight=w, zero_division=np.nan
    )
    true, said = np.bincount(y, w, classes), np.bincount(predicted, w, classes)
    recall, precision = np.where(true > 0, recall, np.nan), np.where(said > 0, precision, np.nan)
    f1 = np.where(true + said > 0, f1, np.nan)
    return precision, recall, f1


@given(weighted())
@settings(max_examples=100, deadline=None)
def test_decision_scores_are_scikit_learns_for_every_weighting(case):
    y, predicted, _, weights = case
    names = ("a", "b", "c")
    found = scores.decision_scores(y, predicted, names, weights)
    for r, w in enumerate(weights):
        if not w.any():
            assert all(np.isnan(value[r]) for value in found.values())
            continue
        precision, recall, f1 = sklearn_decisions(y, predicted, 3, w)
        assert found["accuracy"][r] == pytest.approx(metrics.accuracy_score(y, predicted, sample_weight=w))
        assert found["balanced_accuracy"][r] == pytest.approx(recall.mean(), nan_ok=True)
        assert found["precision"][r] == pytest.approx(precision.mean(), nan_ok=True)
        assert found["f1"][r] == pytest.approx(f1.mean(), nan_ok=True)
        images = np.bincount(y, w, 3)
        there = images > 0
        for name, by_class in (("precision", precision), ("f1", f1)):
            expected = np.average(by_class[there], weights=images[there])
            assert found[f"{name}_weighted"][r] == pytest.approx(expected, nan_ok=True)
        if np.isfinite(precision[there]).all():
            average = {"average": "weighted", "sample_weight": w, "zero_division": 0}
            assert found["precision_weighted"][r] == pytest.approx(metrics.precision_score(y, predicted, **average))
            assert found["f1_weighted"][r] == pytest.approx(metrics.f1_score(y, predicted, **average))
        for k, name in enumerate(names):
            assert found[f"precision[{name}]"][r] == pytest.approx(precision[k], nan_ok=True)
            assert found[f"recall[{name}]"][r] == pytest.approx(recall[k], nan_ok=True)
            assert found[f"f1[{name}]"][r] == pytest.approx(f1[k], nan_ok=True)
        np.testing.assert_allclose(
            scores.confusion(y, predicted, 3, weights)[r],
            metrics.confusion_matrix(y, predicted, labels=[0, 1, 2], sample_weight=w),
        )


def test_balanced_accuracy_without_a_class_is_not_defined_rather_than_flattering():
    found = scores.decision_scores([0, 0, 1], [0, 0, 1], ("a", "b", "c"), np.ones((1, 3)))
    assert found["accuracy"][0] == 1
    assert np.isnan(found["balanced_accuracy"][0])
    assert np.isnan(found["precision[c]"][0])


@given(weighted())
@settings(max_examples=50, deadline=None)
def test_micro_averages_and_weighted_recall_are_the_accuracy(case):
    y, predicted, _, _ = case
    accuracy = scores.decision_scores(y, predicted, ("a", "b", "c"), np.ones((1, len(y))))["accuracy"][0]
    for score in (metrics.precision_score, metrics.recall_score, metrics.f1_score):
        assert score(y, predicted, labels=[0, 1, 2], average="micro") == pytest.approx(accuracy)
    assert metrics.recall_score(y, predicted, average="weighted", zero_division=0) == pytest.approx(accuracy)


def test_a_class_that_is_never_called_leaves_weighted_precision_undefined_if_it_has_images():
    never = scores.decision_scores([0, 0, 1], [0, 0, 0], ("a", "b", "c"), np.ones((1, 3)))
    assert np.isnan(never["precision_weighted"][0])
    assert never["f1_weighted"][0] == pytest.approx((2 * 0.8 + 0) / 3)  # F1 of a: 2 x 2 / (2 + 3)
    absent = scores.decision_scores([0, 0, 1], [0, 1, 1], ("a", "b", "c"), np.ones((1, 3)))
    assert absent["precision_weighted"][0] == pytest.approx((2 * 1 + 1 * 0.5) / 3)


@given(weighted())
@settings(max_examples=60, deadline=None)
def test_ranking_scores_average_the_classes_where_they_are_defined(case):
    y, _, probability, weights = case
    found = scores.ranking_scores(scores.one_hot(y, 3), probability, ("a", "b", "c"), weights)
    for area, one, mean in (
        (scores.auroc, "auroc", "auroc"),
        (scores.average_precision, "average_precision", "mean_average_precision"),
    ):
        by_class = np.stack([found[f"{one}[{name}]"] for name in "abc"])
        for k, name in enumerate("abc"):
            np.testing.assert_array_equal(found[f"{one}[{name}]"], area(y == k, probability[:, k], weights))
        for r in range(3):
            defined = by_class[np.isfinite(by_class[:, r]), r]
            assert found[mean][r] == pytest.approx(defined.mean() if len(defined) else np.nan, nan_ok=True)


def test_unknown_findings_are_left_out_of_their_areas_only():
    truth = np.array([[1, np.nan], [0, 1], [np.nan, 0], [0, 1]])
    probability = np.array([[0.9, 0.1], [0.2, 0.6], [0.99, 0.8], [0.95, 0.9]])
    found = scores.ranking_scores(truth, probability, ("a", "b"), np.ones((1, 4)))
    assert found["auroc[a]"][0] == pytest.approx(0.5)  # 0.9 against 0.2 and 0.95
    assert found["auroc[b]"][0] == pytest.approx(0.5)  # 0.6 and 0.9 against 0.8
    assert found["average_precision[a]"][0] == pytest.approx(0.5)  # one of two at 0.9
    assert found["average_precision[b]"][0] == pytest.approx((1 + 2 / 3) / 2)  # one of one at 0.9, two of three at 0.6
    assert found["mean_average_precision"][0] == pytest.approx((0.5 + 5 / 6) / 2)
    nothing = scores.ranking_scores(np.full((4, 2), np.nan), probability, ("a", "b"), np.ones((1, 4)))
    assert all(np.isnan(value).all() for value in nothing.values())


@given(weighted())
@settings(max_examples=60, deadline=None)
def test_a_weighting_is_the_score_of_the_repeated_images(case):
    y, predicted, probability, weights = case
    repeated = np.repeat(np.arange(len(y)), weights[0].astype(int))
    plain = np.ones((1, len(repeated)))
    names = ("a", "b", "c")
    first = scores.decision_scores(y, predicted, names, weights[:1])
    second = scores.decision_scores(y[repeated], predicted[repeated], names, plain)
    first |= scores.ranking_scores(scores.one_hot(y, 3), probability, names, weights[:1])
    second |= scores.ranking_scores(scores.one_hot(y[repeated], 3), probability[repeated], names, plain)
    for name in first:
        assert first[name][0] == pytest.approx(second[name][0], nan_ok=True)


def test_means_leave_out_what_is_not_defined():
    values = [1.0, np.nan, 3.0, np.inf]
    weights = np.array([[1, 1, 1, 1], [3, 5, 1, 2], [0, 4, 0, 1]], dtype=float)
    np.testing.assert_allclose(scores.mean(values, weights), [2.0, 1.5, np.nan])
    assert np.isnan(scores.mean([], np.ones((1, 0)))).all()


def test_one_hot_rows():
    np.testing.assert_array_equal(scores.one_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])
