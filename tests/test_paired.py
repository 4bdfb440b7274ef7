"""Differences between trainers on the same images: by hand, against the exact binomial test, and what may not matter."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_eval.stats import scores
from cxr_eval.stats.comparisons import differences, prediction_differences
from cxr_eval.stats.intervals import Patients, Resampling
from cxr_eval.stats.paired import compare, holm, of_decisions, of_means, of_rankings, swap_test

CLASSES = ("covid", "normal")
FEW = Resampling(resamples=200, min_patients=0)


def values(of, patient=None):
    """A table of one value an image."""
    n = len(of)
    return pd.DataFrame(
        {
            "image_id": [f"i{k:03}" for k in range(n)],
            "patient": [f"p{k:03}" for k in range(n)] if patient is None else patient,
            "value": of,
        }
    )


def predictions(label, predicted, probability=None, patient=None):
    covid = np.array([0.9 if name == "covid" else 0.2 for name in predicted] if probability is None else probability)
    return values(covid, patient).assign(label=label, predicted=predicted, p_covid=covid, p_normal=1 - covid)


def mean_difference(one, other, resampling=FEW, patient=None):
    return compare([values(one, patient)], [values(other, patient)], of_means("m"), resampling)["m"]


# p-values


def test_p_of_three_patients_by_hand():
    # differences 1, 2 and 3: of the 8 ways of signs only +++ and --- give a sum as large as 6
    found = mean_difference([1.0, 2.0, 3.0, 7.0], [0.0, 0.0, 0.0, 7.0])
    assert found.value == pytest.approx(6 / 4)
    assert found.p == 2 / 8
    # differences 1, 2 and -1: the sum is 2; sums of the 8 ways are 2, 4, 2, 0, and these with the other sign.
    # 4 and -4 count whole, what was observed and its other sign too, the other 2 and -2 half
    assert mean_difference([1.0, 2.0, 0.0], [0.0, 0.0, 1.0]).p == (2 + 2 + 2 / 2) / 8


def test_a_patients_images_are_exchanged_together():
    # two patients with two images each: sums 1 + 2 and 3 + 4; as images the p would be 2 / 16
    assert mean_difference([1.0, 2.0, 3.0, 4.0], [0.0] * 4, patient=["a", "a", "b", "b"]).p == 2 / 4


def test_trainers_that_do_not_differ_have_a_p_of_one():
    found = mean_difference([0.1, 0.7, 0.4], [0.1, 0.7, 0.4])
    assert (found.value, found.p) == (0, 1)
    assert math.isnan(found.low)  # all resamples agree, so that nothing is known of the spread


def mid_p(better, worse):
    """McNemar's mid-p, as in equation 2 of the supplement of Fagerland, Lydersen and Laake 2013."""
    n, fewer = better + worse, min(better, worse)
    point = stats.binom.pmf(fewer, n, 0.5)
    return 1 - point / 2 if better == worse else 2 * stats.binom.cdf(fewer, n, 0.5) - point


def test_mid_p_is_that_of_the_paper():
    # table 1 there: 1 and 7 discordant of 21 children. Exact 2 x 9 / 256 = 0.070, less 8 / 256
    assert mid_p(1, 7) == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize(("better", "worse"), [(1, 0), (3, 1), (7, 2), (6, 6), (12, 0)])
def test_the_exact_p_of_accuracy_is_mcnemars_mid_p_and_the_share_of_one_way_of_exchanging(better, worse):
    label = ["covid"] * 20
    ours = ["normal"] * worse + ["covid"] * (20 - worse)
    theirs = ["covid"] * worse + ["normal"] * better + ["covid"] * (20 - worse - better)
    found = compare([predictions(label, ours)], [predictions(label, theirs)], of_decisions(CLASSES), FEW)["accuracy"]
    # what was observed and its other sign are 2 of 2**d ways, and count whole: half of them more than in the mid-p
    assert found.p == pytest.approx(mid_p(better, worse) + 1 / 2 ** (better + worse), rel=1e-12)
    assert found.p <= stats.binomtest(better, better + worse).pvalue + 1e-12
    assert found.value == pytest.approx((better - worse) / 20)


def test_accuracies_without_a_discordant_image_have_a_p_of_one():
    table = predictions(["covid"] * 20, ["covid"] * 12 + ["normal"] * 8)
    assert compare([table], [table], of_decisions(CLASSES), FEW)["accuracy"].p == 1


def test_the_drawn_p_of_accuracy_is_near_mcnemars_mid_p():
    label, right, wrong = ["covid"] * 60, ["covid"], ["normal"]
    ours, theirs = wrong * 8 + right * 52, right * 8 + wrong * 20 + right * 32
    many = Resampling(resamples=20_000)
    found = compare([predictions(label, ours)], [predictions(label, theirs)], of_decisions(CLASSES), many)["accuracy"]
    expected = mid_p(20, 8)
    reach = 4 * math.sqrt(expected * (1 - expected) / 20_000)  # 4 standard errors
    assert found.p == pytest.approx(expected, abs=reach)
    assert abs(found.p - stats.binomtest(20, 28).pvalue) > reach
    assert found.p != expected


def test_sums_in_another_order_are_ties():
    # 0.1, 0.2, 0.3 and 0.3 with all signs: of 16 sums 6 are 0.3 or -0.3, of which two were observed, and 6 are larger
    tenths = mean_difference([0.1, 0.2, -0.3, 0.3], [0.0] * 4).p
    assert tenths == (6 + 2 + 4 / 2) / 16
    assert tenths == mean_difference([1.0, 2.0, -3.0, 3.0], [0.0] * 4).p


@given(st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_where_no_other_exchange_is_as_large_all_that_are_as_large_count_whole(count, seed):
    change = np.random.default_rng(seed).normal(size=count)
    sums = [abs(np.dot(change, signs)) for signs in itertools.product((-1, 1), repeat=count)]
    expected = np.mean([total >= abs(change.sum()) - 1e-9 for total in sums])
    assert mean_difference(change, np.zeros(count)).p == pytest.approx(expected)


def test_a_drawn_p_is_never_zero():
    found = mean_difference(np.ones(30), np.zeros(30), Resampling(resamples=99))
    assert found.p == 1 / (20 * 99 + 1)  # twenty swaps for each resample


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_the_exact_p_counts_all_signs(change):
    change = np.array(change, dtype=float)
    apart = change[change != 0]
    sums = np.array([abs(np.dot(apart, signs)) for signs in itertools.product((-1, 1), repeat=len(apart))])
    observed = abs(change.sum())
    own = min(2, len(sums))
    expected = ((sums > observed).sum() + own + ((sums == observed).sum() - own) / 2) / len(sums)
    assert mean_difference(change, np.zeros(len(change))).p == pytest.approx(expected)


def test_the_p_of_means_is_scipys_permutation_test():
    rng = np.random.default_rng(0)
    one, other = rng.random(40), rng.random(40) + 0.08
    found = mean_difference(one, other, Resampling(resamples=10_000))
    expected = stats.permutation_test(
        (one, other),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples",
        n_resamples=10_000,
        rng=np.random.default_rng(1),
    )
    assert found.value == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=4 * math.sqrt(2 * 0.25 / 10_000))  # both are drawn


def test_exchanging_auroc_by_hand():
    # two positive and two negative images; ours ranks all positives above, theirs all below: AUROC 1 and 0.
    # exchanged patients mix ranks: as 4 and 3 against 2 and 1, and the other way round
    label = ["covid", "covid", "normal", "normal"]
    ours = predictions(label, label, [0.9, 0.8, 0.3, 0.2])
    theirs = predictions(label, label, [0.1, 0.2, 0.5, 0.6])
    found = compare([ours], [theirs], of_rankings(CLASSES), FEW)["auroc"]
    assert found.value == pytest.approx(1)
    ranks = np.array([[4, 3, 2, 1], [1, 2, 3, 4]])
    large = 0
    for swap in itertools.product((0, 1), repeat=4):
        area = []
        for who in (np.array(swap), 1 - np.array(swap)):
            score = ranks[who, np.arange(4)]
            area.append(np.mean([[(p > q) + 0.5 * (p == q) for q in score[2:]] for p in score[:2]]))
        large += abs(area[0] - area[1]) >= 1
    assert found.p == large / 16


def test_the_scale_of_a_networks_probabilities_does_not_change_the_p_of_its_ranking():
    rng = np.random.default_rng(0)
    label = ["covid", "normal"] * 10
    one, other = rng.random(20), rng.random(20)
    squeezed = predictions(label, label, 0.9 + other**3 / 10)
    plain = predictions(label, label, other)
    ours = predictions(label, label, one)
    measure = of_rankings(CLASSES)
    assert compare([ours], [squeezed], measure, FEW) == compare([ours], [plain], measure, FEW)


# values and intervals


def test_differences_of_all_scores_are_those_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(2)
    label = rng.choice(CLASSES, 60)
    tables = [predictions(label, rng.choice(CLASSES, 60), rng.random(60)) for _ in range(2)]
    found = prediction_differences(
        {("a", 0): tables[0], ("b", 0): tables[1]}, [("a", "b")], FEW, model="m", split="t", condition="clean", classes=CLASSES
    )
    for name, of in {
        "accuracy": lambda t: metrics.accuracy_score(label, t["predicted"]),
        "balanced_accuracy": lambda t: metrics.balanced_accuracy_score(label, t["predicted"]),
        "auroc": lambda t: metrics.roc_auc_score(label == "covid", t["p_covid"]),
        "mean_average_precision": lambda t: np.mean(
            [metrics.average_precision_score(label == c, t[f"p_{c}"]) for c in CLASSES]
        ),
    }.items():
        (row,) = [row for row in found if row.metric == name]
        assert row.value == pytest.approx(of(tables[0]) - of(tables[1]))
        assert row.low < row.value < row.high
        assert (row.model, row.trainer, row.against, row.split, row.condition) == ("m", "a", "b", "t", "clean")
        assert (row.n, row.patients, row.unit, row.better, row.note, row.explainer) == (60, 60, "fraction", "higher", "", "")


def test_the_interval_of_a_difference_of_means_is_that_of_the_differences():
    rng = np.random.default_rng(0)
    base = rng.random(200)
    change = rng.normal(0.05, 0.1, 200)
    found = mean_difference(base + change, base, Resampling(resamples=8000))
    reach = 1.96 * change.std() / math.sqrt(200)  # far narrower than that of two sets drawn apart: base cancels
    assert found.low == pytest.approx(change.mean() - reach, abs=0.0015)
    assert found.high == pytest.approx(change.mean() + reach, abs=0.0015)


def test_bca_intervals_of_differences_are_scipys():
    rng = np.random.default_rng(0)
    change = rng.exponential(1.0, 80)
    found = mean_difference(change, np.zeros(80), Resampling(resamples=10_000, kind="bca"))
    expected = stats.bootstrap((change,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(5))
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.02)  # two draws of 10,000
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.02)


def test_seeds_are_averaged_and_exchanged_together():
    ours = [values([1.0, 2.0, 3.0]), values([3.0, 2.0, 1.0])]
    theirs = [values([0.0, 0.0, 0.0]), values([1.0, 1.0, 1.0])]
    found = compare(ours, theirs, of_means("m"), FEW)["m"]
    assert found.by_seed == (pytest.approx(2), pytest.approx(1))
    assert found.value == pytest.approx(1.5)
    assert found.p == 2 / 8  # mean differences of the patients: 1.5 each
    (row,) = differences(
        {("a", 0): ours[0], ("a", 1): ours[1], ("a", 2): ours[0], ("b", 1): theirs[1], ("b", 0): theirs[0]},
        [("a", "b")],
        [of_means("m")],
        FEW,
        model="m",
        split="t",
        condition="clean",
    )
    assert (row.value, row.seeds_low, row.seeds_high) == (pytest.approx(1.5), pytest.approx(1), pytest.approx(2))


def test_the_order_of_images_and_tables_does_not_matter():
    rng = np.random.default_rng(0)
    label = rng.choice(CLASSES, 40)
    patient = [f"p{k // 2}" for k in range(40)]
    one, other = (predictions(label, rng.choice(CLASSES, 40), rng.random(40), patient) for _ in range(2))
    for measure in (of_decisions(CLASSES), of_rankings(CLASSES)):
        first = compare([one], [other], measure, FEW)
        again = compare([one.sample(frac=1, random_state=1)], [other.sample(frac=1, random_state=2)], measure, FEW)
        assert first == again
        turned = compare([other], [one], measure, FEW)
        for name, found in first.items():
            assert turned[name].value == pytest.approx(-found.value)
            assert turned[name].p == pytest.approx(found.p)


def test_only_images_that_all_tables_have_count():
    one, other = values([1.0, 2.0, 3.0, 9.0]), values([0.0, 0.0, 0.0])
    found = compare([one], [other], of_means("m"), FEW)["m"]
    assert (found.n, found.value) == (3, pytest.approx(2))
    nothing = compare([one.iloc[:1]], [other.iloc[1:]], of_means("m"), FEW)["m"]
    assert (nothing.n, nothing.patients) == (0, 0)
    assert np.isnan([nothing.value, nothing.low, nothing.high, nothing.p]).all()


def test_a_score_that_does_not_exist_has_no_difference():
    label = ["covid"] * 20
    tables = [predictions(label, label, np.linspace(0.1, end, 20)) for end in (0.5, 0.9)]
    found = compare([tables[0]], [tables[1]], of_rankings(CLASSES), FEW)["auroc"]
    assert np.isnan([found.value, found.low, found.high, found.p]).all()


def test_findings_are_compared_over_what_is_known():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (30, 2)).astype(float)
    truth[:5, 0] = np.nan

    def table():
        p = rng.random((30, 2))
        return (
            values(p[:, 0])
            .assign(p_covid=p[:, 0], p_normal=p[:, 1])
            .assign(**{"label:covid": truth[:, 0], "label:normal": truth[:, 1]})
        )

    tables = {("a", 0): table(), ("b", 0): table()}
    found = prediction_differences(tables, [("a", "b")], FEW, model="m", split="t", condition="clean", classes=CLASSES)
    assert [row.metric for row in found] == ["auroc", "mean_average_precision"]
    areas = [
        scores.ranking_scores(truth, t[["p_covid", "p_normal"]], CLASSES, np.ones((1, 30)))["auroc"][0] for t in tables.values()
    ]
    assert found[0].value == pytest.approx(areas[0] - areas[1])
    assert 0 < found[0].p <= 1


def test_as_many_tables_are_needed_of_both():
    with pytest.raises(ValueError, match="expected one table a seed of both trainers, got 1 and 2"):
        compare([values([1.0])], [values([1.0])] * 2, of_means("m"), FEW)
    with pytest.raises(ValueError, match="got 0 and 0"):
        compare([], [], of_means("m"), FEW)


def test_a_trainer_is_not_compared_with_itself():
    with pytest.raises(ValueError, match="pairs: expected two trainers, got a twice"):
        differences({}, [("a", "a")], [], FEW, model="m", split="t", condition="c")


def test_a_trainer_without_cells_is_compared_with_none():
    tables = {("a", 0): values([1.0]), ("b", 1): values([1.0])}
    pairs = [("a", "b"), ("a", "c")]
    assert differences(tables, pairs, [of_means("m")], FEW, model="m", split="t", condition="c") == []


def test_differences_on_few_patients_are_withheld():
    tables = {("a", 0): values([1.0, 2.0, 3.0]), ("b", 0): values([0.0] * 3)}
    (row,) = differences(tables, [("a", "b")], [of_means("m")], Resampling(resamples=100), model="m", split="t", condition="c")
    assert row.note == "withheld: 3 patients, fewer than 5"
    assert (row.n, row.patients) == (3, 3)
    assert np.isnan([row.value, row.low, row.high, row.p, row.seeds_low, row.seeds_high]).all()


# several comparisons


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, then 0.03 x 2 = 0.06 (not below 0.06), 0.5 x 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.04, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_a_p_that_does_not_exist_stays_so_and_does_not_count():
    adjusted = holm([0.01, np.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert np.isnan(holm([np.nan])).all()


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_never_makes_a_p_smaller(p):
    adjusted = holm(p)
    assert all(p[k] <= adjusted[k] <= min(1, len(p) * p[k]) + 1e-12 for k in range(len(p)))
    in_order = [adjusted[k] for k in np.argsort(p, kind="stable")]
    assert in_order == sorted(in_order)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_rule_rejects(p, level):
    rejected = set()
    for step, k in enumerate(np.argsort(p, kind="stable")):
        if p[k] * (len(p) - step) > level:
            break
        rejected.add(int(k))
    assert {k for k, adjusted in enumerate(holm(p)) if adjusted <= level} == rejected


def test_swaps_follow_from_the_seed():
    rng = np.random.default_rng(0)
    one, other = values(rng.random(40)), values(rng.random(40))
    patients = Patients.of(one["patient"].tolist())

    def p(seed):
        return swap_test([one], [other], of_means("m"), patients, resamples=300, seed=seed)["m"]

    assert p(3) == p(3)
    assert len({p(seed) for seed in range(5)}) > 1
