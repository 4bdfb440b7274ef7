"""Subgroups and gaps between their scores: by hand, with chance alone, and where there is nothing to compare."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from cxr_eval.stats import scores
from cxr_eval.stats.clinical_gaps import clinical_gaps
from cxr_eval.stats.clinical_rows import Decisions
from cxr_eval.stats.gaps import Gap, gaps, with_holm
from cxr_eval.stats.intervals import Resampling
from cxr_eval.stats.subgroups import parts, subgroup_values, values_of

CLASSES = ("covid", "normal", "pneumonia")
FEW = Resampling(resamples=200, min_patients=1)


def manifest(**columns):
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"image_id": [f"i{k}" for k in range(n)]} | columns)


def images(right, patient=None):
    n = len(right)
    of = [f"p{k:03}" for k in range(n)] if patient is None else patient
    return pd.DataFrame({"image_id": [f"i{k:03}" for k in range(n)], "patient": of, "right": np.asarray(right, float)})


def accuracy(table):
    right = table["right"].to_numpy()
    return lambda weights: {"accuracy": scores.mean(right, weights)}


def found(right, values, resampling=FEW, patient=None, **settings):
    table = images(right, patient)
    return gaps(table, values, accuracy(table), resampling, column="sex", **settings)


# who belongs to which


def test_ages_fall_into_bands_and_what_is_missing_is_unknown():
    ages = [0, 17, 17.9, 18, 39, 40, 64.5, 65, 101, np.nan]
    values = subgroup_values(manifest(age=ages), ["age"], (18, 40, 65))
    assert values["age"].tolist() == [*["0-17"] * 3, *["18-39"] * 2, *["40-64"] * 2, *["65+"] * 2, "unknown"]
    assert values.index.tolist() == [f"i{k}" for k in range(10)]


def test_bands_that_begin_within_a_year_say_so():
    assert subgroup_values(manifest(age=[0.2, 3]), ["age"], (0.5,))["age"].tolist() == ["0 to <0.5", "0.5+"]


def test_columns_that_are_missing_or_have_one_value_are_left_out():
    table = manifest(sex=["F", None, "M"], view=["PA", "PA", "PA"], site=[None, None, None])
    values = subgroup_values(table, ["sex", "age", "view", "site"], (18, 40, 65))
    assert values.columns.tolist() == ["sex"]
    assert values["sex"].tolist() == ["F", "unknown", "M"]


def test_empty_text_is_unknown():
    assert subgroup_values(manifest(view=["", " AP "]), ["view"], ())["view"].tolist() == ["unknown", "AP"]


def test_parts_come_in_order_with_every_image_once_and_images_nobody_knows_among_the_unknown():
    groups = subgroup_values(manifest(age=[70, 5, 30, np.nan, 5]), ["age"], (10, 65))
    table = pd.DataFrame({"image_id": ["i4", "i0", "new", "i2", "i3", "i1"]})
    found = {name: part["image_id"].tolist() for name, part in parts(table, groups, "age")}
    assert found == {"age=0-9": ["i4", "i1"], "age=10-64": ["i2"], "age=65+": ["i0"], "age=unknown": ["new", "i3"]}
    assert list(found) == ["age=0-9", "age=10-64", "age=65+", "age=unknown"]


def test_an_attack_table_with_a_line_a_radius_keeps_all_lines():
    groups = subgroup_values(manifest(sex=["F", "M"]), ["sex"], ())
    table = pd.DataFrame({"image_id": ["i0", "i1", "i0", "i1"]})
    assert values_of(table, groups, "sex").tolist() == ["F", "M", "F", "M"]


# gaps


def test_a_gap_between_two_values_by_hand():
    (gap,) = found([1, 1, 1, 0, 1, 0, 0, 0], ["F"] * 4 + ["M"] * 4)
    assert (gap.value, gap.against, gap.n, gap.patients) == ("F", "M", 4, 4)
    assert (gap.score, gap.gap) == (3 / 4, 3 / 4 - 1 / 4)
    assert gap.gap_low < 1 / 2 < gap.gap_high
    assert gap.low < 3 / 4 < gap.high


def test_of_two_values_one_gap_is_told_as_the_other_is_the_same_with_the_other_sign():
    right, values = [1, 1, 1, 0, 1, 0, 0, 0, 1], ["F"] * 4 + ["M"] * 5
    many = Resampling(resamples=4000, min_patients=1)
    (gap,), (turned,) = (found(right, named, many) for named in (values, ["N" if v == "F" else v for v in values]))
    assert (turned.value, turned.against, turned.gap) == ("M", "N", -gap.gap)
    assert turned.p == pytest.approx(gap.p, abs=0.04)  # 4 standard errors of two shares of 4000 draws
    assert (turned.gap_low, turned.gap_high) == pytest.approx((-gap.gap_high, -gap.gap_low))
    # beside a column of three, whose four lines are four comparisons, it is one
    three = found(right, ["a", "b", "c"] * 3, many)
    assert [one.comparisons for one in with_holm([gap, *three])] == [5] * 5


def test_more_values_are_compared_with_all_others_and_the_largest_gap_comes_last():
    right, values = [1, 1, 1, 1, 0, 0, 0, 1], ["a", "a", "b", "b", "b", "b", "c", "unknown"]
    each = found(right, values)
    assert [(gap.value, gap.against) for gap in each] == [
        *(("a", "others"), ("b", "others"), ("c", "others"), ("unknown", "others"), ("a", "c"))
    ]
    # a 2/2 against 3/6; b 2/4 against 3/4; c 0/1 against 5/7; unknown 1/1 against 4/7; a against c 1 - 0
    assert [gap.gap for gap in each] == pytest.approx([1 / 2, -1 / 4, -5 / 7, 3 / 7, 1])


def test_p_is_close_to_that_of_all_ways_to_exchange_patients():
    right, values = [1, 1, 1, 1, 0, 1, 0, 0, 0], ["F"] * 5 + ["M"] * 4
    observed = 4 / 5 - 1 / 4
    large = 0
    for women in itertools.combinations(range(9), 5):
        hits = sum(right[k] for k in women)
        large += abs(hits / 5 - (5 - hits) / 4) >= observed - 1e-12
    exact = large / math.comb(9, 5)
    p = found(right, values, Resampling(resamples=4000, min_patients=1))[0].p
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_images_of_one_patient_are_exchanged_together():
    # two patients of 50 images: of the two ways to exchange them both are as large, though of 100 patients few would be
    right, values = [1] * 50 + [0] * 50, ["F"] * 50 + ["M"] * 50
    assert found(right, values, patient=["p"] * 50 + ["q"] * 50)[0].p == 1
    assert found(right, values)[0].p == 1 / 201


def test_a_patient_with_images_of_several_values_exchanges_these():
    # in each of eight patients the PA image is right and the AP image wrong: only 2 of 2**8 exchanges are as large
    patient = [f"p{k // 2}" for k in range(16)]
    both = found([1, 0] * 8, ["PA", "AP"] * 8, Resampling(resamples=2000, min_patients=1), patient=patient)
    assert both[0].gap == -1
    assert both[0].patients == 8
    assert both[0].p == pytest.approx(2 / 256, abs=0.006)  # 3 standard deviations of 2000 draws


def test_chance_alone_gives_a_p_below_5_percent_in_no_more_than_about_5_percent():
    rng = np.random.default_rng(0)
    resampling = Resampling(resamples=99, min_patients=1)
    low = 0
    for _ in range(200):
        patient = np.sort(rng.integers(0, 25, 60)).astype(str)
        of_patient = dict(zip(np.unique(patient), rng.integers(0, 2, 25), strict=False))
        values = ["FM"[of_patient[name]] for name in patient]
        skill = dict(zip(np.unique(patient), rng.random(25), strict=False))
        if len(set(values)) == 2:
            low += found([rng.random() < skill[name] for name in patient], values, resampling, patient=patient)[0].p <= 0.05
    assert low <= 20  # of 200 at 5 %: 10 expected, 3 standard deviations above are 19


def test_a_planted_gap_is_found_and_its_interval_leaves_zero_out():
    rng = np.random.default_rng(1)
    right = np.r_[rng.random(100) < 0.9, rng.random(100) < 0.5]
    gap = found(right, ["F"] * 100 + ["M"] * 100)[0]
    assert gap.p == 1 / 201
    assert gap.gap_low > 0


def test_the_order_of_images_changes_nothing():
    rng = np.random.default_rng(2)
    table = images(rng.random(30) < 0.7, [f"p{k // 2:02}" for k in range(30)])
    values = np.array(["a", "b", "c"])[rng.integers(0, 3, 30)]
    shuffled = rng.permutation(30)
    moved = table.iloc[shuffled].reset_index(drop=True)
    one = gaps(table, values, accuracy(table), FEW, column="site")
    other = gaps(moved, values[shuffled], accuracy(moved), FEW, column="site")
    assert [(gap.value, gap.against, gap.p) for gap in one] == [(gap.value, gap.against, gap.p) for gap in other]
    for name in ("score", "low", "high", "gap", "gap_low", "gap_high"):
        assert [getattr(gap, name) for gap in one] == pytest.approx([getattr(gap, name) for gap in other], nan_ok=True)


def test_where_all_are_alike_there_is_no_gap_and_no_doubt_about_chance():
    both = found([1] * 6, ["F", "M"] * 3)
    assert both[0].gap == 0
    assert both[0].p == 1
    # the bootstrap knows nothing where all resamples agree
    assert np.isnan([both[0].low, both[0].high, both[0].gap_low, both[0].gap_high]).all()


def test_a_share_that_all_resamples_agree_on_gets_the_exact_interval_of_its_patients():
    both = found([1] * 6 + [1, 0, 1], ["F"] * 6 + ["M"] * 3, shares=["accuracy"])
    assert (both[0].low, both[0].high) == (pytest.approx(0.025 ** (1 / 6)), 1)


def test_one_patient_has_a_score_and_a_gap_without_intervals():
    gap = found([1, 0, 1, 1], ["F", "M", "M", "M"])[0]
    assert (gap.patients, gap.score, gap.gap) == (1, 1, pytest.approx(1 / 3))
    assert np.isnan([gap.low, gap.high, gap.gap_low, gap.gap_high]).all()


def test_one_patient_who_is_drawn_in_every_resample_has_no_interval_either():
    # alone with a label, and so in each resample: all of them agree on 1/2
    table = images([1, 0, 1, 1, 0, 1], ["p", "p", "q", "r", "s", "t"]).assign(label=["covid"] * 2 + ["normal"] * 4)
    gap = gaps(table, ["F"] * 2 + ["M"] * 4, accuracy(table), FEW, column="sex")[0]
    assert (gap.patients, gap.score) == (1, 1 / 2)
    assert np.isnan([gap.low, gap.high, gap.gap_low, gap.gap_high]).all()


def test_one_value_alone_has_no_gaps():
    assert found([1, 0], ["F", "F"]) == []
    assert found([], []) == []


def test_few_patients_are_withheld_and_what_is_compared_with_them_too():
    resampling = Resampling(resamples=100, min_patients=3)
    (one,), (many,) = (found([1, 0, 1, 1, 0], [alone, *"MMMM"], resampling) for alone in "FN")
    assert (one.value, one.note) == ("F", "withheld: 1 patient, fewer than 3")
    assert np.isnan([one.score, one.gap, one.p]).all()
    assert (many.value, many.score) == ("M", 1 / 2)
    assert many.note == "gap withheld: 1 patient, fewer than 3"
    assert np.isnan([many.gap, many.gap_low, many.p]).all()
    assert [gap.value for gap in found([1, 0, 1], ["F", "M", "M"], resampling)] == ["F"]


def test_withheld_and_unknown_values_are_not_in_the_largest_gap():
    values = ["a"] * 4 + ["b"] * 4 + ["c"] + ["unknown"] * 4
    each = found([1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0], values, Resampling(resamples=100, min_patients=2))
    assert (each[-1].value, each[-1].against, each[-1].gap) == ("a", "b", 1 / 4)


def test_behind_a_metric_stand_the_images_it_is_about():
    table = images([1, 1, 0, 1, 0, 1])
    ill = np.array([True, True, False, True, False, False])
    for values, expected in (
        ("FFFMMM", (2, 2, "gap withheld: 1 patient, fewer than 2")),
        ("NNNMMM", (1, 1, "withheld: 1 patient, fewer than 2")),
    ):
        (gap,) = gaps(table, list(values), accuracy(table), Resampling(min_patients=2), column="sex", images={"accuracy": ill})
        assert (gap.n, gap.patients, gap.note) == expected


def test_a_score_that_does_not_exist_has_no_gap():
    table = images([1, 1, 0, 1])
    only_first = np.array([1.0, 0.0, np.nan, np.nan])
    of_first = gaps(table, ["F", "F", "M", "M"], lambda weights: {"m": scores.mean(only_first, weights)}, FEW, column="sex")[0]
    assert of_first.score == 1 / 2
    of_second = gaps(table, ["N", "N", "M", "M"], lambda weights: {"m": scores.mean(only_first, weights)}, FEW, column="sex")[0]
    assert np.isnan([of_second.score, of_first.gap, of_first.p, of_second.p]).all()


def test_bias_corrected_intervals_are_made_when_asked_for():
    rng = np.random.default_rng(3)
    right, values = rng.random(60) < 0.8, ["F"] * 30 + ["M"] * 30
    plain, corrected = (
        found(right, values, Resampling(resamples=400, min_patients=1, kind=kind))[0] for kind in ("percentile", "bca")
    )
    assert plain.gap == corrected.gap
    assert (plain.low, plain.high) != (corrected.low, corrected.high)
    assert corrected.low < corrected.score < corrected.high


# clinical scores


def predictions(label, predicted):
    given = {f"p_{name}": np.where(np.array(predicted) == name, 0.8, 0.1) for name in CLASSES}
    table = images([a == b for a, b in zip(label, predicted, strict=True)])
    return table.assign(label=label, predicted=predicted, **given)


def test_clinical_gaps_by_hand():
    label = ["covid", "covid", "normal", "normal"] * 2
    said = ["covid", "normal", "normal", "normal", "covid", "covid", "covid", "normal"]
    table = predictions(label, said)
    groups = pd.DataFrame({"sex": ["F"] * 4 + ["M"] * 4}, index=table["image_id"])
    each = clinical_gaps(table, groups, CLASSES, Decisions({"covid": 0.5, "normal": 0.5, "pneumonia": 0.5}, "normal"), FEW)
    women = {gap.metric: (gap.score, gap.gap, gap.n) for gap in each if gap.value == "F"}
    assert women == {
        "accuracy": (3 / 4, 0, 4),
        # covid: pairs 1, 1, 1/2, 1/2 of 4; normal the same; there is no pneumonia
        "auroc": (3 / 4, 0, 4),
        "sensitivity": ((1 / 2 + 1) / 2, 0, 4),
        "specificity": (pytest.approx((1 + 1 / 2 + 1) / 3), 0, 4),  # that of pneumonia exists, and is 1
        "missed_disease": (1 / 2, 1 / 2, 2),
        "false_alarm": (0, -1 / 2, 2),
    }
    assert all(gap.comparisons == 1 and gap.p_holm == gap.p for gap in each)


def test_a_mean_over_classes_does_not_exist_for_a_subgroup_that_lacks_one():
    label = ["covid", "normal", "pneumonia", "covid", "normal", "normal"]
    table = predictions(label, label)
    for first in "FN":
        groups = pd.DataFrame({"sex": [first] * 3 + ["M"] * 3}, index=table["image_id"])
        each = clinical_gaps(table, groups, CLASSES, Decisions(dict.fromkeys(CLASSES, 0.5)), FEW)
        assert {gap.metric: (gap.value, gap.score) for gap in each if gap.metric in ("sensitivity", "accuracy")} == {
            "accuracy": (min(first, "M"), 1),
            "sensitivity": (min(first, "M"), 1 if first == "F" else pytest.approx(np.nan, nan_ok=True)),
        }
        assert "missed_disease" not in {gap.metric for gap in each}


def test_clinical_gaps_of_findings_have_no_accuracy_and_leave_unknown_labels_out():
    table = images([0] * 6).assign(**{"label:Mass": [1, 0, 1, 0, np.nan, 1], "p_Mass": [0.9, 0.1, 0.2, 0.7, 0.9, 0.8]})
    groups = pd.DataFrame({"view": ["lateral", "lateral", "lateral", "PA", "PA", "PA"]}, index=table["image_id"])
    each = clinical_gaps(table, groups, ["Mass"], Decisions({"Mass": 0.5}), FEW)
    frontal = {gap.metric: (gap.score, gap.n) for gap in each if gap.value == "PA"}
    assert frontal == {
        "auroc": (1, 2),
        "sensitivity": (1, 2),
        "specificity": (0, 2),
        "missed_disease": (0, 1),
        "false_alarm": (1, 1),
    }


# how many comparisons were made


def gap_of(value, against, p, metric="accuracy", column="sex"):
    nan = float("nan")
    return Gap(column, value, against, metric, 1, 1, nan, nan, nan, nan, nan, nan, p)


def test_all_columns_and_classes_of_a_metric_are_one_family():
    each = with_holm(
        [
            *(gap_of("F", "M", 0.02), gap_of("PA", "others", 0.01, column="view")),
            *(gap_of("AP", "others", float("nan"), column="view"), gap_of("F", "M", 0.04, "recall[covid]")),
            gap_of("F", "M", 0.03, "recall[normal]"),
        ]
    )
    # accuracy: 0.01 x 2, 0.02 x 1; recall of both classes: 0.03 x 2, then 0.04 x 1 but not below that before it
    assert [gap.p_holm for gap in each] == pytest.approx([0.02, 0.02, np.nan, 0.06, 0.06], nan_ok=True)
    assert [gap.comparisons for gap in each] == [2, 2, 2, 2, 2]
