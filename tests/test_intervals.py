"""Intervals from resampled patients: closed forms, whole patients, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from cxr_eval.stats import scores
from cxr_eval.stats.intervals import interval, patient_weights, with_interval


def test_patients_are_resampled_whole():
    patients = ["b", "a", "b", "c", "a", "b"]
    weights = patient_weights(patients, resamples=200, seed=0)
    assert weights.shape == (200, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), np.full(200, 3.0))  # as many patients as there are
    assert len({tuple(row) for row in weights}) > 5


def test_the_same_patients_are_drawn_whatever_the_order_of_their_images():
    patients = np.array(["b", "a", "d", "c", "a"])
    order = np.array([4, 2, 0, 3, 1])
    weights = patient_weights(patients, resamples=50, seed=3)
    np.testing.assert_array_equal(patient_weights(patients[order], resamples=50, seed=3), weights[:, order])
    assert not np.array_equal(weights, patient_weights(patients, resamples=50, seed=4))


def test_drawing_again_gives_the_same_patients_and_weights_that_may_be_changed():
    first = patient_weights(["a", "b", "a", "c"], resamples=20, seed=7)
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(patient_weights(["a", "b", "a", "c"], resamples=20, seed=7), kept)


def test_counts_of_many_patients_do_not_overflow():
    weights = patient_weights([str(k) for k in range(300)], resamples=5, seed=0)
    np.testing.assert_array_equal(weights.sum(axis=1), np.full(5, 300.0))
    single = patient_weights(["a"] * 3, resamples=5, seed=0)
    np.testing.assert_array_equal(single, np.ones((5, 3)))


def test_a_patients_count_is_binomial():
    weights = patient_weights([str(k) for k in range(10)], resamples=20_000, seed=0)
    counts = np.bincount(weights[:, 3].astype(int), minlength=11)[:6] / 20_000
    np.testing.assert_allclose(counts, stats.binom(10, 0.1).pmf(np.arange(6)), atol=0.015)  # 4 standard errors of a share


def test_the_interval_of_a_share_is_that_of_a_binomial():
    n, right = 100, 80
    values = np.arange(n) < right
    weights = patient_weights([str(k) for k in range(n)], resamples=20_000, seed=0)
    found = with_interval(lambda w: {"accuracy": scores.mean(values, w)}, weights, patients=n)["accuracy"]
    low, high = stats.binom(n, right / n).ppf([0.025, 0.975]) / n
    assert found[0] == pytest.approx(0.8)
    assert found[1] == pytest.approx(low, abs=0.0101)  # one image either way
    assert found[2] == pytest.approx(high, abs=0.0101)


def test_repeated_images_of_the_same_patients_do_not_narrow_the_interval():
    values = np.arange(50) % 5 > 0
    patients = [str(k) for k in range(50)]

    def width(copies):
        weights = patient_weights(patients * copies, resamples=4000, seed=0)
        return with_interval(lambda w: {"a": scores.mean(np.tile(values, copies), w)}, weights, patients=50)["a"]

    assert width(1) == pytest.approx(width(10))
    alone = patient_weights([str(k) for k in range(500)], resamples=4000, seed=0)
    naive = with_interval(lambda w: {"a": scores.mean(np.tile(values, 10), w)}, alone, patients=500)["a"]
    assert (naive[2] - naive[1]) < 0.5 * (width(10)[2] - width(10)[1])


@pytest.mark.parametrize("patients", [[], ["a"], ["a", "a", "a"]])
def test_fewer_than_two_patients_have_no_interval(patients):
    weights = patient_weights(patients, resamples=100, seed=0)
    assert weights.shape == (100, len(patients))
    values = np.ones(len(patients))
    value, low, high = with_interval(lambda w: {"a": scores.mean(values, w)}, weights, patients=len(set(patients)))["a"]
    assert value == pytest.approx(1.0 if patients else np.nan, nan_ok=True)
    assert np.isnan([low, high]).all()


def test_a_score_that_most_resamples_cannot_have_has_no_interval():
    # one positive image among twenty: about a third of the resamples draw none, so AUROC often does not exist
    positive = np.arange(20) == 0
    weights = patient_weights([str(k) for k in range(20)], resamples=1000, seed=0)
    found = with_interval(lambda w: {"auroc": scores.auroc(positive, np.arange(20.0), w)}, weights, patients=20)["auroc"]
    assert found[0] == 0.0
    assert np.isnan(found[1:]).all()


def test_the_interval_holds_from_95_percent_of_defined_values_on():
    samples = np.r_[np.linspace(0, 1, 951), np.full(49, np.nan)]
    assert interval(samples) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval(np.r_[np.linspace(0, 1, 949), np.full(51, np.nan)])).all()
    assert np.isnan(interval(np.empty(0))).all()
    assert interval(np.linspace(0, 1, 101), level=0.5) == pytest.approx((0.25, 0.75))


def test_a_share_of_none_or_all_has_the_exact_binomial_interval():
    weights = patient_weights(["a", "b", "c"], resamples=100, seed=0)
    both = with_interval(
        lambda w: {"all": scores.mean([1, 1, 1], w), "none": scores.mean([0, 0, 0], w)},
        weights,
        patients=3,
        proportions={"all": 3, "none": 3},
    )
    reach = 1 - 0.025 ** (1 / 3)  # Clopper and Pearson: (1 - p)^3 = 0.025
    assert both["none"] == (0.0, 0.0, pytest.approx(reach))
    assert both["all"] == (1.0, pytest.approx(1 - reach), 1.0)
    assert stats.beta.ppf(0.975, 1, 3) == pytest.approx(reach)  # by scipy's beta distribution


def test_a_difference_on_which_all_resamples_agree_has_no_interval():
    weights = patient_weights(["a", "b", "c"], resamples=100, seed=0)
    for change in (-1.0, 0.0, 1.0):
        value, low, high = with_interval(lambda w, change=change: {"d": scores.mean([change] * 3, w)}, weights, patients=3)["d"]
        assert value == change
        assert np.isnan([low, high]).all()


def test_a_score_at_its_end_that_is_no_share_has_no_interval():
    weights = patient_weights(["a", "b", "c"], resamples=100, seed=0)
    value, low, high = with_interval(lambda w: {"auroc": scores.mean([1, 1, 1], w)}, weights, patients=3)["auroc"]
    assert value == 1.0
    assert math.isnan(low)
    assert math.isnan(high)
    inside = with_interval(lambda w: {"a": scores.mean([0.4, 0.4], w)}, weights[:, :2], patients=2)["a"]
    assert inside == pytest.approx((0.4, 0.4, 0.4))


@pytest.mark.slow
@pytest.mark.parametrize("images_a_patient", [1, 4])
def test_95_percent_intervals_cover_the_truth_about_95_percent_of_the_time(images_a_patient):
    """Accuracy of 150 patients, each with their own difficulty, so that images of one patient go together."""
    rng = np.random.default_rng(0)
    patients = np.repeat([str(k) for k in range(150)], images_a_patient)
    weights = patient_weights(patients, resamples=1000, seed=0)
    truth, covered, trials = 0.7, 0, 2000
    for _ in range(trials):
        difficulty = np.repeat(rng.beta(3.5, 1.5, 150), images_a_patient)  # mean 0.7
        right = rng.random(len(patients)) < difficulty
        _, low, high = with_interval(lambda w, right=right: {"a": scores.mean(right, w)}, weights, patients=150)["a"]
        covered += low <= truth <= high
    assert 0.93 <= covered / trials <= 0.97


@pytest.mark.slow
def test_intervals_that_take_images_for_patients_cover_too_little():
    """The same simulation without clusters: it is why patients are resampled."""
    rng = np.random.default_rng(0)
    weights = patient_weights([str(k) for k in range(600)], resamples=1000, seed=0)
    covered, trials = 0, 300
    for _ in range(trials):
        right = rng.random(600) < np.repeat(rng.beta(3.5, 1.5, 150), 4)
        _, low, high = with_interval(lambda w, right=right: {"a": scores.mean(right, w)}, weights, patients=600)["a"]
        covered += low <= 0.7 <= high
    assert covered / trials < 0.93
