"""Intervals from resampled patients: closed forms, whole patients, and coverage by simulation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_eval.stats import scores
from cxr_eval.stats.intervals import Patients, Resampling, accelerated_interval, interval, patient_weights, with_interval


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


# strata


def test_patients_drawn_class_by_class_leave_each_class_its_size():
    patients = ["a", "b", "c", "d", "e", "a"]
    labels = ["covid", "covid", "normal", "normal", "normal", "covid"]
    weights = patient_weights(patients, resamples=300, seed=0, labels=labels)
    np.testing.assert_array_equal(weights[:, [0, 1]].sum(axis=1), np.full(300, 2.0))  # patients a and b
    np.testing.assert_array_equal(weights[:, [2, 3, 4]].sum(axis=1), np.full(300, 3.0))
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    assert (weights == 0).any(axis=0).all()  # nobody is always drawn


def test_a_patient_alone_in_a_stratum_is_always_drawn():
    # c has images of both classes, as nobody else
    weights = patient_weights(["a", "b", "c", "c"], resamples=50, seed=0, labels=["x", "x", "x", "y"])
    np.testing.assert_array_equal(weights[:, 2:], np.ones((50, 2)))
    assert len(np.unique(weights[:, 0])) == 3


def test_patients_drawn_class_by_class_do_not_depend_on_the_order_of_images():
    patients, labels = np.array(["b", "a", "d", "c", "a", "e"]), np.array(["x", "y", "y", "x", "x", "y"])
    order = np.array([4, 2, 0, 5, 3, 1])
    weights = patient_weights(patients, resamples=50, seed=3, labels=labels)
    again = patient_weights(patients[order], resamples=50, seed=3, labels=labels[order])
    np.testing.assert_array_equal(again, weights[:, order])


def test_the_interval_of_class_by_class_draws_has_the_spread_within_classes_only():
    # all covid right and all normal wrong: accuracy is then the share of covid, which is not drawn
    right = np.arange(60) < 20
    labels = np.where(right, "covid", "normal")
    patients = [f"p{k:02}" for k in range(60)]
    strict = patient_weights(patients, resamples=200, seed=0, labels=labels)
    free = patient_weights(patients, resamples=200, seed=0)
    ends = [with_interval(lambda w: {"a": scores.mean(right, w)}, weights, patients=60)["a"] for weights in (strict, free)]
    assert ends[0][1] == ends[0][2] == pytest.approx(1 / 3)
    assert ends[1][1] < 1 / 3 < ends[1][2]


# bias-corrected and accelerated


def bca(patients, score, resamples=2000, labels=None):
    whose = Patients.of(patients, labels)
    return with_interval(score, whose.drawn(resamples, 0), patients=whose.count, accelerated=whose)


def test_bca_by_hand():
    # of 1000 samples 0.000 ... 0.999 the value 0.4 lies above 400 and equals one: z0 = normal quantile of 0.4005;
    # without a patient 1, 2 or 6: the mean is 3, so pulls are 2/3 of (2, 1, -3), a = sum of cubes / (6 sum of squares^1.5)
    samples = np.arange(1000) / 1000
    acceleration = (8 + 1 - 27) / (6 * (4 + 1 + 9) ** 1.5)
    bias = stats.norm.ppf(0.4005)
    ends = []
    for level in (0.025, 0.975):
        z = bias + stats.norm.ppf(level)
        ends.append(stats.norm.cdf(bias + z / (1 - acceleration * z)) * 0.999)  # quantile of evenly spaced samples
    found = accelerated_interval(0.4, samples, np.array([1.0, 2.0, 6.0]), np.zeros(3, dtype=int))
    assert found == pytest.approx(tuple(ends))


def test_without_bias_and_skew_bca_is_the_percentile_interval():
    samples = np.linspace(-1, 1, 1001)
    found = accelerated_interval(0.0, samples, np.array([-1.0, 0.0, 1.0]), np.zeros(3, dtype=int))
    assert found == pytest.approx(interval(samples))


@pytest.mark.parametrize("statistic", [np.mean, np.std])
def test_bca_is_scipys_for_the_same_resamples(statistic):
    values = np.random.default_rng(0).exponential(1.0, 60)
    weights = Patients.of([f"p{k:02}" for k in range(60)]).drawn(2000, 0)
    samples = np.array([statistic(np.repeat(values, w.astype(int))) for w in weights])
    left_out = np.array([statistic(np.delete(values, k)) for k in range(60)])
    found = accelerated_interval(float(statistic(values)), samples, left_out, np.zeros(60, dtype=int))
    drawn = SimpleNamespace(bootstrap_distribution=samples)
    expected = stats.bootstrap((values,), statistic, n_resamples=0, bootstrap_result=drawn, method="BCa").confidence_interval
    assert found == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_bca_is_scipys_within_what_two_draws_differ():
    values = np.random.default_rng(0).exponential(1.0, 60)
    _, low, high = bca([f"p{k:02}" for k in range(60)], lambda w: {"m": scores.mean(values, w)}, resamples=20_000)["m"]
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(11))
    # in standard errors, 4 times what an end of 20,000 draws differs by, twice: 0.02 through z0, 0.04 as a quantile near 0.995
    chance = 4 * math.hypot(0.02, 0.04) * math.sqrt(2) * expected.standard_error
    assert low == pytest.approx(expected.confidence_interval.low, abs=chance)
    assert high == pytest.approx(expected.confidence_interval.high, abs=chance)


def test_each_stratum_weighs_in_the_acceleration_by_its_own_size():
    # strata of 2 and 3 patients: deviations from their own means, times 1/2 and 2/3
    left_out, stratum = np.array([1.0, 3.0, 0.0, 3.0, 6.0]), np.array([0, 0, 1, 1, 1])
    pull = np.array([1 / 2 * 1, 1 / 2 * -1, 2 / 3 * 3, 0, 2 / 3 * -3])
    skewed = np.r_[pull[:2], [2 / 3 * 4, 2 / 3 * 1, 2 / 3 * -5]]
    samples = np.linspace(-1, 1, 1001)
    assert accelerated_interval(0.0, samples, left_out, stratum) == pytest.approx(interval(samples))  # no skew
    acceleration = (skewed**3).sum() / (6 * (skewed**2).sum() ** 1.5)
    z = stats.norm.ppf([0.025, 0.975])
    expected = 2 * stats.norm.cdf(z / (1 - acceleration * z)) - 1
    found = accelerated_interval(0.0, samples, np.array([1.0, 3.0, 0.0, 3.0, 9.0]), stratum)
    assert found == pytest.approx(tuple(expected))


def test_there_is_no_bca_interval_where_it_is_not_defined():
    whole = np.linspace(0, 1, 1000)
    left_out, one = np.array([0.4, 0.5, 0.6]), np.zeros(3, dtype=int)
    nowhere = pytest.approx((np.nan, np.nan), nan_ok=True)
    assert np.isfinite(accelerated_interval(0.5, whole, left_out, one)).all()
    assert accelerated_interval(2.0, whole, left_out, one) == nowhere  # all samples below the value
    assert accelerated_interval(0.5, whole, np.array([0.4, np.nan, 0.6]), one) == nowhere  # not without the second patient
    assert accelerated_interval(0.5, whole, np.full(3, 0.5), one) == nowhere  # nobody makes a difference
    assert accelerated_interval(0.5, np.r_[whole, np.full(60, np.nan)], left_out, one) == nowhere
    assert accelerated_interval(0.5, np.empty(0), left_out, one) == nowhere


def test_a_share_of_none_or_all_has_the_exact_interval_with_bca_too():
    whose = Patients.of(["a", "b", "c"])
    found = with_interval(
        lambda w: {"all": scores.mean([1, 1, 1], w)}, whose.drawn(50, 0), patients=3, proportions={"all": 3}, accelerated=whose
    )
    assert found["all"] == (1.0, pytest.approx(0.025 ** (1 / 3)), 1.0)


def test_the_only_positive_patient_cannot_be_left_out_of_auroc():
    positive = np.arange(20) == 0
    labels = np.where(positive, "covid", "normal")
    found = bca([f"p{k:02}" for k in range(20)], lambda w: {"a": scores.auroc(positive, np.arange(20) % 7, w)}, 100, labels)
    assert found["a"][0] == pytest.approx(2 / 19 * 0.5)
    assert np.isnan(found["a"][1:]).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["percentile", "bca"]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_interval_of_a_mean_holds_the_mean_and_is_the_same_in_any_order(seed, kind, stratified):
    rng = np.random.default_rng(seed)
    values = rng.random(30)
    patients, labels = np.array([f"p{k % 12}" for k in range(30)]), np.array([f"c{k % 2}" for k in range(30)])
    ends = []
    for order in (np.arange(30), rng.permutation(30)):
        whose = Patients.of(patients[order], labels[order] if stratified else None)
        ends += [
            with_interval(
                lambda w, order=order: {"m": scores.mean(values[order], w)},
                whose.drawn(200, 0),
                patients=12,
                accelerated=whose if kind == "bca" else None,
            )["m"]
        ]
    value, low, high = ends[0]
    assert low <= value <= high
    assert ends[1] == pytest.approx(ends[0], rel=1e-9)


def test_blocks_of_patients_left_out_are_all_of_them(monkeypatch):
    whose = Patients.of(["b", "a", "b", "c"])
    expected = [[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]
    np.testing.assert_array_equal(np.vstack(list(whose.left_out())), expected)
    monkeypatch.setattr("cxr_eval.stats.intervals.BLOCK", 5)
    assert [len(block) for block in whose.left_out()] == [1, 1, 1]
    np.testing.assert_array_equal(np.vstack(list(whose.left_out())), expected)


def test_patients_of_two_sets_have_nothing_in_common():
    both = Patients.of(["a", "b", "c", "d"], ["x", "y", "x", "y"]).beside(Patients.of(["b", "a", "b"]))
    assert both.of_image.tolist() == [0, 1, 2, 3, 5, 4, 5]
    first, second = both.stratum[:2]
    assert both.stratum.tolist() == [first, second, first, second, 2, 2]
    assert {first, second} == {0, 1}
    assert Patients.of([]).beside(Patients.of(["a"])).stratum.tolist() == [0]
    assert Patients.of([], []).count == 0


def test_patients_who_would_be_alone_in_their_strata_are_drawn_from_each_other():
    patients = Patients.of(list("abcdef"), ["x", "x", "x", "y", "z", "w"])
    assert patients.stratum[:3].tolist() == [patients.stratum[0]] * 3
    assert patients.stratum[3:].tolist() == [patients.stratum[3]] * 3
    assert patients.stratum[0] != patients.stratum[3]
    drawn = patients.drawn(200, 0)
    assert (drawn[:, 3:].sum(axis=1) == 3).all()
    assert drawn[:, 3].max() > 1  # not the same in every resample


# settings


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"resamples": 0}, "resamples: expected 1 or more, got 0"),
        ({"kind": "bcb"}, "kind: expected percentile or bca, got 'bcb'"),
        ({"min_patients": -1}, "min_patients: expected 0 or more, got -1"),
        ({"level": 95}, "level: expected a number between 0 and 1, such as 0.95, got 95"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting, said):
    with pytest.raises(ValueError, match=said):
        Resampling(**setting)


def test_what_is_withheld():
    assert Resampling().withheld(5) == ""
    assert Resampling().withheld(4) == "withheld: 4 patients, fewer than 5"
    assert Resampling().withheld(1) == "withheld: 1 patient, fewer than 5"
    assert Resampling().withheld(0) == ""  # there is nothing to withhold
    assert Resampling(min_patients=0).withheld(1) == ""


def test_levels_other_than_95_percent():
    weights = patient_weights(["a", "b", "c"], resamples=100, seed=0)
    found = with_interval(lambda w: {"all": scores.mean([1, 1, 1], w)}, weights, patients=3, proportions={"all": 3}, level=0.9)
    assert found["all"][1] == pytest.approx(0.05 ** (1 / 3))


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
