"""Rows by hand on tables small enough to count."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_eval.stats.attack_rows import broken_at
from cxr_eval.stats.intervals import Resampling
from cxr_eval.stats.rows import Scorer

CLASSES = ("covid", "normal")


def scorer(classes=CLASSES, resamples=200, **settings):
    """A cell's scorer that withholds nothing, as most tables here have four patients."""
    resampling = Resampling(**{"resamples": resamples, "min_patients": 0} | settings)
    return Scorer("cnn", "fgsm", 3, classes, resampling, "phantom")


def predictions(label, predicted, patient=None, probability=None):
    n = len(label)
    covid = np.array([0.9 if name == "covid" else 0.2 for name in predicted] if probability is None else probability)
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(n)],
            "patient": [f"p{k}" for k in range(n)] if patient is None else patient,
            "label": label,
            "predicted": predicted,
            "p_covid": covid,
            "p_normal": 1 - covid,
        }
    )


def outcomes(clean, broken, radii, attack="pgd", every=False):
    """An attack's table: `broken` is the radius at which each image falls (inf: never)."""
    parts = []
    for eps in radii:
        robust = [c and b > eps for c, b in zip(clean, broken, strict=True)]
        part = predictions(["covid"] * len(clean), ["covid" if ok else "normal" for ok in robust])
        parts.append(part.assign(attack=attack, eps=eps, clean_correct=clean, robust=robust, every=every))
    return pd.concat(parts, ignore_index=True)


def attacked_everywhere(at, attack="pgd", label=("covid", "covid", "normal", "normal")):
    """A table of an attack that attacked every image at every radius; `at`: probability of covid of each image by radius."""
    parts = []
    for eps, probability in at.items():
        predicted = ["covid" if p > 0.5 else "normal" for p in probability]
        part = predictions(list(label), predicted, probability=probability)
        right = [one == other for one, other in zip(label, predicted, strict=True)]
        parts.append(part.assign(attack=attack, eps=eps, clean_correct=True, robust=right, every=True))
    return pd.concat(parts, ignore_index=True)


def values(rows, metric="robust_accuracy"):
    return {row.condition: row.value for row in rows if row.metric == metric}


def test_scores_of_predictions_by_hand():
    table = predictions(["covid", "covid", "covid", "normal"], ["covid", "covid", "normal", "normal"])
    rows = {row.metric: row for row in scorer().predictions(table, split="test", condition="clean")}
    assert {name: rows[name].value for name in ("accuracy", "recall[covid]", "recall[normal]", "balanced_accuracy")} == {
        "accuracy": 0.75,
        "recall[covid]": pytest.approx(2 / 3),
        "recall[normal]": 1.0,
        "balanced_accuracy": pytest.approx(5 / 6),
    }
    assert rows["precision[normal]"].value == 0.5
    assert rows["precision[covid]"].value == 1.0
    assert rows["f1[covid]"].value == pytest.approx(0.8)
    assert rows["auroc[covid]"].value == pytest.approx((1 + 1 + 0.5) / 3)
    assert rows["auroc"].value == pytest.approx(rows["auroc[covid]"].value)
    # covid: two of two at 0.9, then three of four at 0.2; normal: one of two at 0.8
    assert rows["average_precision[covid]"].value == pytest.approx(2 / 3 * 1 + 1 / 3 * 3 / 4)
    assert rows["average_precision[normal]"].value == pytest.approx(1 / 2)
    assert rows["mean_average_precision"].value == pytest.approx((11 / 12 + 1 / 2) / 2)
    assert rows["precision_weighted"].value == pytest.approx((3 * 1 + 1 * 0.5) / 4)
    assert rows["f1_weighted"].value == pytest.approx((3 * 0.8 + 1 * 2 / 3) / 4)
    row = rows["accuracy"]
    assert (row.model, row.trainer, row.seed, row.split, row.condition) == ("cnn", "fgsm", 3, "test", "clean")
    assert (row.n, row.unit, row.better, row.provenance, row.explainer) == (4, "fraction", "higher", "phantom", "")
    assert 0 <= row.low <= row.value <= row.high <= 1


def test_patients_not_images_are_the_unit_of_an_interval():
    label = ["covid", "normal"] * 20
    predicted = ["covid", "covid"] * 20  # accuracy 0.5 in every patient
    patient = [f"p{k // 2}" for k in range(40)]
    rows = {row.metric: row for row in scorer().predictions(predictions(label, predicted, patient), split="t", condition="c")}
    assert (rows["accuracy"].low, rows["accuracy"].high) == (0.5, 0.5)
    one = {row.metric: row for row in scorer().predictions(predictions(label, predicted, ["p"] * 40), split="t", condition="c")}
    assert one["accuracy"].value == 0.5
    assert math.isnan(one["accuracy"].low)
    assert math.isnan(one["accuracy"].high)


def test_a_finding_counts_its_known_images():
    table = pd.DataFrame(
        {
            "image_id": list("abcd"),
            "patient": list("abcd"),
            "label:covid": [1.0, 0.0, np.nan, 0.0],
            "label:normal": [np.nan, np.nan, np.nan, 1.0],
            "p_covid": [0.9, 0.1, 0.5, 0.95],
            "p_normal": [0.1, 0.2, 0.3, 0.4],
        }
    )
    rows = {row.metric: row for row in scorer().predictions(table, split="test", condition="clean")}
    assert set(rows) == {
        *("auroc[covid]", "auroc[normal]", "auroc"),
        *("average_precision[covid]", "average_precision[normal]", "mean_average_precision"),
    }
    assert rows["auroc[covid]"].value == 0.5
    assert math.isnan(rows["auroc[normal]"].value)
    assert rows["auroc"].value == 0.5
    assert rows["average_precision[covid]"].value == 0.5  # 0.9 is the one positive, 0.95 the negative above it
    assert rows["average_precision[normal]"].value == 1.0
    assert rows["mean_average_precision"].value == 0.75
    images = {"[covid]": 3, "[normal]": 1, "": 3}
    assert {name: row.n for name, row in rows.items()} == {
        name + of: n for of, n in images.items() for name in ("auroc", "average_precision" if of else "mean_average_precision")
    }
    assert scorer().confusion(table, split="test", condition="clean") == []


def test_shares_of_a_class_called_another_by_hand():
    table = predictions(["covid", "covid", "covid", "normal"], ["covid", "covid", "normal", "normal"])
    rows = {row.metric: row for row in scorer().confusion(table, split="test", condition="clean")}
    assert {name: row.value for name, row in rows.items()} == {
        "called[normal|covid]": pytest.approx(1 / 3),
        "called[covid|normal]": 0,
    }
    assert {row.better for row in rows.values()} == {"lower"}


def test_a_class_without_images_is_called_nothing():
    rows = scorer().confusion(predictions(["covid", "covid"], ["covid", "normal"]), split="test", condition="clean")
    by_name = {row.metric: row.value for row in rows}
    assert by_name["called[normal|covid]"] == 0.5
    assert math.isnan(by_name["called[covid|normal]"])


# attacks


def test_robust_accuracy_by_hand():
    table = outcomes([True, True, True, False], [0.02, np.inf, 0.04, 0.0], [0.01, 0.02, 0.04])
    rows = scorer().attack(table, split="test")
    assert values(rows) == {"pgd:0": 0.75, "pgd:0.01": 0.75, "pgd:0.02": 0.5, "pgd:0.04": 0.25}
    assert {row.metric for row in rows} == {"robust_accuracy", "robust_recall[covid]", "robust_recall[normal]"}
    assert values(rows, "robust_recall[covid]") == {"pgd:0": 0.75, "pgd:0.01": 0.75, "pgd:0.02": 0.5, "pgd:0.04": 0.25}
    images = {row.metric: row.n for row in rows if row.metric.startswith("robust_recall")}
    assert images.pop("robust_recall[covid]") == 4
    assert set(images.values()) == {0}  # of the other classes there is no image
    assert all(row.n == 4 for row in rows if not row.metric.startswith("robust_recall"))


def test_an_image_once_broken_stays_broken_at_larger_radii():
    table = outcomes([True, True], [np.inf, np.inf], [0.01, 0.02, 0.03])
    table.loc[(table["eps"] == 0.02) & (table["image_id"] == "i0"), "robust"] = False  # and "robust" again at 0.03
    assert values(scorer().attack(table, split="test")) == {"pgd:0": 1, "pgd:0.01": 1, "pgd:0.02": 0.5, "pgd:0.03": 0.5}
    assert values(scorer().worst_case([table], split="test"))["worst:0.03"] == 0.5


def test_radius_zero_is_one_row():
    table = outcomes([True, False], [np.inf, 0.0], [0.0, 0.1])
    for rows, name in ((scorer().attack(table, split="t"), "pgd"), (scorer().worst_case([table], split="t"), "worst")):
        shares = [row.condition for row in rows if row.metric == "robust_accuracy"]
        assert shares == [f"{name}:0", f"{name}:0.1"]
        assert values(rows)[f"{name}:0"] == 0.5


def test_radii_are_written_as_people_write_them():
    table = outcomes([True], [np.inf], [8 / 255, 0.02, 1e-4])
    conditions = [row.condition for row in scorer().attack(table, split="t") if row.metric == "robust_accuracy"]
    assert conditions == ["pgd:0", "pgd:0.0001", "pgd:0.02", "pgd:8/255"]


def test_the_worst_case_of_two_attacks_with_different_radii():
    clean = [True, True, True, True, False]
    pgd = outcomes(clean, [0.02, np.inf, np.inf, np.inf, 0.0], [0.01, 0.02, 0.04])
    square = outcomes(clean, [np.inf, 0.01, 0.03, np.inf, 0.0], [0.01, 0.03], attack="square")
    rows = scorer().worst_case([pgd, square], split="test")
    # image 0 falls to pgd at 0.02, image 1 to square at 0.01, image 2 to square at 0.03
    expected = {"worst:0": 0.8, "worst:0.01": 0.6, "worst:0.02": 0.4, "worst:0.03": 0.2, "worst:0.04": 0.2}
    assert values(rows) == pytest.approx(expected)
    assert values(scorer().worst_case([square, pgd], split="test")) == pytest.approx(expected)


def test_the_worst_case_counts_every_image_with_the_attacks_that_were_run_on_it():
    pgd = outcomes([True, True, True], [0.01, np.inf, np.inf], [0.01])
    few = outcomes([True, True, True], [np.inf, np.inf, 0.01], [0.01], attack="square")
    rows = scorer().worst_case([pgd, few[few["image_id"] != "i0"]], split="test")
    assert values(rows) == {"worst:0": 1.0, "worst:0.01": pytest.approx(1 / 3)}  # i0 falls to pgd, i2 to square
    assert {row.n for row in rows} == {3}
    assert values(scorer().worst_case([few[few["image_id"] == "i1"], pgd], split="test"))["worst:0.01"] == pytest.approx(2 / 3)


def test_the_radius_at_which_each_image_falls():
    table = outcomes([True, True, False], [0.02, np.inf, 0.0], [0.01, 0.02, 0.04])
    assert broken_at(table).to_dict() == {"i0": 0.02, "i1": np.inf, "i2": 0.0}


@st.composite
def attacked(draw):
    """Several attacks on the same images, whose outcomes need not be in order."""
    n = draw(st.integers(1, 8))
    clean = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    tables = []
    for k in range(draw(st.integers(1, 3))):
        radii = draw(st.lists(st.sampled_from([0.0, 0.01, 0.02, 8 / 255, 0.1, 1.0]), min_size=1, max_size=4, unique=True))
        table = outcomes(clean, [np.inf] * n, radii, attack=f"a{k}")
        held = draw(st.lists(st.booleans(), min_size=len(table), max_size=len(table)))
        held = np.array(held) | (table["eps"] == 0).to_numpy()  # at radius 0 there is no attack
        tables.append(table.assign(robust=table["robust"] & held))
    return clean, tables


@given(attacked())
@settings(max_examples=60, deadline=None)
def test_a_curve_starts_at_clean_accuracy_never_rises_and_the_worst_is_below_all(case):
    clean, tables = case
    few = scorer(resamples=100)
    worst = values(few.worst_case(tables, split="t"))
    curves = [values(few.attack(table, split="t")) for table in tables]
    for curve in [worst, *curves]:
        shares = list(curve.values())
        assert shares[0] == pytest.approx(np.mean(clean))
        assert all(a >= b for a, b in itertools.pairwise(shares))
    for curve in curves:
        for condition, share in curve.items():
            assert worst["worst:" + condition.partition(":")[2]] <= share


def test_findings_have_a_robust_accuracy_too():
    table = outcomes([True, True], [0.01, np.inf], [0.01]).drop(columns=["label", "predicted"])
    table = table.assign(**{"label:covid": [1.0, 0.0], "label:normal": [0.0, np.nan]})
    rows = scorer().attack(table, split="test")
    assert values(rows) == {"pgd:0": 1.0, "pgd:0.01": 0.5}
    assert {row.metric for row in rows} == {"robust_accuracy"}  # AUROC would need every image attacked


# scores of all predictions under attack


def test_scores_of_attacked_images_where_every_image_was_attacked():
    table = attacked_everywhere({0.01: [0.9, 0.8, 0.7, 0.1], 0.02: [0.9, 0.2, 0.7, 0.3]})
    rows = scorer().attack(table, split="test")
    at = {(row.condition, row.metric): row.value for row in rows}
    assert at["pgd:0.01", "accuracy"] == 0.75
    assert at["pgd:0.01", "mean_average_precision"] == 1.0
    assert at["pgd:0.02", "recall[covid]"] == 0.5
    assert at["pgd:0.02", "precision[covid]"] == 0.5
    assert at["pgd:0.02", "auroc"] == pytest.approx(0.5)  # of four pairs 0.9 wins two
    # covid: 1/1 at 0.9, 2/4 at 0.2; normal (0.1, 0.8, 0.3, 0.7): 0.7 is second, 0.3 third
    assert at["pgd:0.02", "average_precision[covid]"] == pytest.approx((1 + 2 / 4) / 2)
    assert at["pgd:0.02", "average_precision[normal]"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    plain = scorer().predictions(table[table["eps"] == 0.02], split="test", condition="pgd:0.02")
    robust = {"robust_accuracy", "robust_recall[covid]", "robust_recall[normal]"}
    attacked = [row for row in rows if row.condition == "pgd:0.02" and row.metric not in robust]
    assert [repr(row) for row in attacked] == [repr(row) for row in plain]  # NaN is not equal to itself


def test_clean_images_have_no_scores_under_attack():
    rows = scorer().attack(attacked_everywhere({0.0: [0.9, 0.8, 0.7, 0.1], 0.02: [0.9, 0.2, 0.7, 0.3]}), split="test")
    robust = {"robust_accuracy", "robust_recall[covid]", "robust_recall[normal]"}
    assert {row.metric for row in rows if row.condition == "pgd:0"} == robust


def test_recall_under_attack_is_of_this_radius_and_robust_recall_of_all_up_to_it():
    table = attacked_everywhere({0.01: [0.9, 0.2, 0.1, 0.1], 0.02: [0.9, 0.9, 0.1, 0.1]})
    rows = scorer().attack(table, split="test")
    assert values(rows, "recall[covid]") == {"pgd:0.01": 0.5, "pgd:0.02": 1.0}
    assert values(rows, "robust_recall[covid]") == {"pgd:0": 1.0, "pgd:0.01": 0.5, "pgd:0.02": 0.5}
    assert values(rows, "accuracy")["pgd:0.02"] == 1.0
    assert values(rows)["pgd:0.02"] == 0.75


def test_findings_have_ranking_scores_under_attack_where_every_image_was_attacked():
    table = attacked_everywhere({0.01: [0.9, 0.8, 0.7, 0.1]}).drop(columns=["label"])
    table = table.assign(
        **{"label:covid": [1.0, 0.0, 1.0, np.nan], "label:normal": [0.0, 0.0, np.nan, 1.0], "predicted": "a|b"}
    )
    rows = scorer().attack(table, split="test")
    assert values(rows, "average_precision[covid]") == {"pgd:0.01": pytest.approx((1 + 2 / 3) / 2)}
    assert values(rows, "average_precision[normal]") == {"pgd:0.01": 1.0}
    assert "accuracy" not in {row.metric for row in rows}
    assert {row.n for row in rows if row.metric == "average_precision[covid]"} == {3}


def test_marp_by_hand():
    # of covid and normal: all apart, precision 1; then 3/4 and 7/12 as above; then upside down, (1/3 + 2/4) / 2 each
    pgd = attacked_everywhere({0.0: [0.9, 0.8, 0.2, 0.1], 0.01: [0.9, 0.8, 0.2, 0.1], 0.02: [0.9, 0.2, 0.7, 0.3]})
    square = attacked_everywhere({0.04: [0.1, 0.2, 0.8, 0.9]}, attack="square")
    few = scorer(resamples=50)
    (row,) = few.mean_robust_precision([pgd, square], split="test")
    assert (row.condition, row.metric, row.split, row.n) == ("attacked", "mean_average_robust_precision", "test", 4)
    assert (row.better, row.unit, row.explainer) == ("higher", "fraction", "")
    assert row.value == pytest.approx((1 + (3 / 4 + 7 / 12) / 2 + 5 / 12) / 3)
    single = values(few.attack(pgd, split="test"), "mean_average_precision")
    single |= values(few.attack(square, split="test"), "mean_average_precision")
    assert row.value == pytest.approx(np.mean(list(single.values())))
    (again,) = few.mean_robust_precision([square.iloc[::-1], pgd], split="test")
    assert again.value == pytest.approx(row.value)


def test_the_interval_of_marp_draws_the_same_patients_for_all_attacks():
    label = ("covid", "normal") * 10
    rng = np.random.default_rng(0)
    probability = rng.random(20)
    one = attacked_everywhere({0.01: probability}, label=label)
    other = attacked_everywhere({0.01: probability, 0.02: probability}, "square", label)
    (single,) = scorer().mean_robust_precision([one], split="test")
    (three,) = scorer().mean_robust_precision([one, other], split="test")
    # three times the same images: with patients drawn apart, the mean of three would have the narrower interval
    assert (three.low, three.high) == (pytest.approx(single.low), pytest.approx(single.high))
    assert single.low < single.value < single.high


def test_marp_counts_attacks_on_all_images_of_which_each_was_attacked_at_every_radius():
    whole = attacked_everywhere({0.01: [0.9, 0.2, 0.7, 0.3]})
    part = attacked_everywhere({0.01: [0.1, 0.2, 0.8, 0.9]}, attack="square")
    part = part[part["image_id"] != "i0"]
    skipping = outcomes([True] * 6, [0.01] * 6, [0.01], attack="fgsm")
    few = scorer(resamples=20)
    (alone,) = few.mean_robust_precision([whole], split="test")
    assert few.mean_robust_precision([skipping, part, whole], split="test") == [alone]
    assert few.mean_robust_precision([skipping], split="test") == []
    assert few.mean_robust_precision([], split="test") == []
    assert few.mean_robust_precision([attacked_everywhere({0.0: [0.9, 0.2, 0.7, 0.3]})], split="test") == []
    apart = [part, whole[whole["image_id"] != "i1"]]
    assert few.mean_robust_precision(apart, split="test") == []  # neither saw all that were attacked


def test_marp_of_findings_leaves_out_what_is_not_known():
    table = attacked_everywhere({0.01: [0.9, 0.8, 0.7, 0.1]}).drop(columns=["label"])
    table = table.assign(**{"label:covid": [1.0, 0.0, 1.0, np.nan], "label:normal": np.nan})
    (row,) = scorer(resamples=20).mean_robust_precision([table], split="test")
    assert row.value == pytest.approx((1 + 2 / 3) / 2)
    assert row.n == 3


# threats


def test_the_worst_case_is_told_threat_by_threat():
    clean = [True, True, True, False]
    pgd = outcomes(clean, [0.01, np.inf, np.inf, 0], [0.01]).assign(norm="linf", goal="any")
    old = outcomes(clean, [np.inf, 0.01, np.inf, 0], [0.01], attack="square")  # names neither norm nor goal
    l2 = outcomes(clean, [np.inf, np.inf, 2.0, 0], [2.0], attack="cw").assign(norm="l2", goal="any")
    hide = outcomes(clean[:2], [0.01, np.inf], [0.01], attack="hide").assign(norm="linf", goal="hide covid")
    both = outcomes(clean[:2], [1.0, 1.0], [1.0], attack="hide2").assign(norm="l2", goal="hide covid")
    rows = scorer().worst_case([pgd, l2, hide, old, both], split="test")
    assert values(rows) == {
        "worst:0": 0.75,
        "worst:0.01": 0.25,  # pgd breaks the first image, square the second
        "worst(l2):0": 0.75,
        "worst(l2):2": 0.5,
        "worst(hide covid):0": 1.0,
        "worst(hide covid):0.01": 0.5,
        "worst(l2 hide covid):0": 1.0,
        "worst(l2 hide covid):1": 0.0,
    }
    assert {row.n for row in rows if "hide" in row.condition} == {2}


def test_marp_and_scores_under_attack_are_of_attacks_on_any_answer():
    whole = attacked_everywhere({0.01: [0.9, 0.2, 0.7, 0.3]})
    hide = attacked_everywhere({0.01: [0.1, 0.2, 0.8, 0.9]}, attack="hide").assign(goal="hide covid")
    few = scorer(resamples=20)
    assert few.mean_robust_precision([hide], split="test") == []
    (alone,) = few.mean_robust_precision([whole], split="test")
    assert few.mean_robust_precision([hide, whole.assign(goal="any", norm="l2"), whole], split="test") == [alone]
    assert few.mean_robust_precision([whole.assign(norm="l2")], split="test") == []  # radii of two norms have no mean
    assert "accuracy" in {row.metric for row in few.attack(whole, split="test")}
    assert "accuracy" not in {row.metric for row in few.attack(hide, split="test")}


def test_who_broke_what_by_hand():
    # image 0 falls to pgd at 0.01, image 1 to both at 0.02, image 2 to square at 0.01 (and pgd at 0.02), 3 to none, 4 is wrong
    clean = [True, True, True, True, False]
    pgd = outcomes(clean, [0.01, 0.02, 0.02, np.inf, 0], [0.01, 0.02])
    square = outcomes(clean, [np.inf, 0.02, 0.01, np.inf, 0], [0.01, 0.02], attack="square")
    rows = scorer().broken_by([pgd, square], split="test")
    assert {(row.condition, row.metric): row.value for row in rows} == {
        ("worst:0.01", "broken_by[pgd]"): pytest.approx(0.2),
        ("worst:0.01", "broken_by[square]"): pytest.approx(0.2),
        ("worst:0.02", "broken_by[pgd]"): pytest.approx(0.4),
        ("worst:0.02", "broken_by[square]"): pytest.approx(0.2),
    }
    assert {(row.better, row.unit, row.n) for row in rows} == {("neither", "fraction", 5)}
    turned = scorer().broken_by([square, pgd], split="test")
    assert {row.metric: row.value for row in turned if row.condition == "worst:0.02"} == {
        "broken_by[square]": pytest.approx(0.4),
        "broken_by[pgd]": pytest.approx(0.2),
    }


def test_stages_are_told_apart_and_an_attack_that_broke_nothing_has_a_zero():
    strong = outcomes([True, True, True], [0.01, 0.02, np.inf], [0.01, 0.02], attack="strong")
    strong["by"] = ["strong apgd", "", "", "strong apgd", "strong square", ""]
    strong["stages"] = "fgsm|apgd|square"
    weak = outcomes([True, True, True], [np.inf] * 3, [0.02], attack="weak").assign(by="", stages="")
    rows = scorer().broken_by([weak, strong], split="test")
    assert {(row.condition, row.metric): row.value for row in rows} == {
        ("worst:0.01", "broken_by[weak]"): 0,
        ("worst:0.01", "broken_by[strong fgsm]"): 0,
        ("worst:0.02", "broken_by[strong fgsm]"): 0,
        ("worst:0.01", "broken_by[strong apgd]"): pytest.approx(1 / 3),
        ("worst:0.01", "broken_by[strong square]"): 0,
        ("worst:0.02", "broken_by[weak]"): 0,
        ("worst:0.02", "broken_by[strong apgd]"): pytest.approx(1 / 3),
        ("worst:0.02", "broken_by[strong square]"): pytest.approx(1 / 3),
    }


@given(attacked())
@settings(max_examples=40, deadline=None)
def test_broken_withstood_and_wrong_without_attack_are_all_images(case):
    clean, tables = case
    few = scorer(resamples=20)
    left = values(few.worst_case(tables, split="t"))
    broken = few.broken_by(tables, split="t")
    for condition in left.keys() - {"worst:0"}:
        parts = sum(row.value for row in broken if row.condition == condition)
        assert parts + left[condition] + 1 - np.mean(clean) == pytest.approx(1)


def test_what_is_left_after_steps_and_restarts_by_hand():
    table = predictions(["covid"] * 4, ["covid"] * 4)
    rows = scorer().convergence(
        table,
        first_step=[1, 12, np.inf, np.inf],
        first_restart=[1, 1, 2, np.inf],
        clean_correct=[True, True, True, False],
        steps=40,
        restarts=2,
        split="test",
        condition="pgd:0.02",
    )
    assert {row.metric: row.value for row in rows} == {
        "robust_after_steps[1]": 0.5,
        "robust_after_steps[2]": 0.5,
        "robust_after_steps[5]": 0.5,
        "robust_after_steps[10]": 0.5,
        "robust_after_steps[20]": 0.25,
        "robust_after_restarts[1]": 0.25,
        "robust_after_restarts[2]": 0.0,
    }
    assert {(row.better, row.n, row.condition, row.split) for row in rows} == {("higher", 4, "pgd:0.02", "test")}


# withheld numbers, subgroups and kinds of intervals


def test_numbers_behind_which_few_patients_stand_are_withheld():
    label = ["covid"] * 6 + ["normal"] * 4
    predicted = ["covid"] * 8 + ["normal"] * 2
    patient = [f"p{k}" for k in range(6)] + ["q0", "q0", "q1", "q2"]
    table = predictions(label, predicted, patient)
    rows = {row.metric: row for row in scorer(min_patients=5).predictions(table, split="test", condition="clean")}
    withheld = {name: row.note for name, row in rows.items() if row.note}
    three = "withheld: 3 patients, fewer than 5"
    assert withheld == {
        **dict.fromkeys(("recall[normal]", "f1[normal]", "auroc[normal]", "average_precision[normal]"), three),
        "precision[normal]": "withheld: 2 patients, fewer than 5",  # those that are called normal
    }
    for name in withheld:
        assert np.isnan([rows[name].value, rows[name].low, rows[name].high]).all()
    assert rows["recall[normal]"].n == 4
    assert rows["recall[covid]"].value == 1.0
    assert rows["accuracy"].value == pytest.approx(0.8)
    called = {row.metric: row for row in scorer(min_patients=5).confusion(table, split="test", condition="clean")}
    assert called["called[covid|normal]"].note == three
    assert called["called[normal|covid]"].value == 0


def test_a_whole_set_of_few_patients_is_withheld_too():
    table = outcomes([True] * 3, [0.01, np.inf, np.inf], [0.01])
    rows = scorer(min_patients=5).attack(table, split="test")
    (robust,) = [row for row in rows if row.metric == "robust_accuracy" and row.condition == "pgd:0.01"]
    assert math.isnan(robust.value)
    assert robust.note == "withheld: 3 patients, fewer than 5"
    assert robust.n == 3
    (nobody,) = [row for row in rows if row.metric == "robust_recall[normal]" and row.condition == "pgd:0.01"]
    assert (nobody.n, nobody.note) == (0, "")  # there is nothing to withhold
    inside, outside = predictions(["covid", "normal"] * 5, ["covid"] * 10), predictions(["covid", "normal"], ["covid"] * 2)
    for pair in ((inside, outside), (outside, inside)):
        notes = {row.note for row in scorer(min_patients=5).change(*pair, split="t")}
        assert notes == {"withheld: 2 patients, fewer than 5"}


def test_a_finding_is_withheld_where_few_patients_have_it():
    n = 20
    table = predictions(["covid"] * n, ["covid"] * n).drop(columns=["label"])
    rare = np.r_[np.ones(4), np.zeros(n - 4)]
    table = table.assign(**{"label:covid": rare, "label:normal": 1 - rare})
    rows = {row.metric: row for row in scorer(min_patients=5).predictions(table, split="t", condition="c")}
    assert {name for name, row in rows.items() if row.note} == {"auroc[covid]", "average_precision[covid]"}
    assert rows["auroc[covid]"].n == n


def test_explanation_metrics_of_few_patients_are_withheld():
    table = pd.DataFrame(
        {"image_id": list("abcd"), "patient": list("ppqr"), "explainer": "cam", "metric": "sparseness", "value": 0.5}
    )
    (row,) = scorer(min_patients=4).explanations(
        table, split="t", condition="c", better={"sparseness": "neither"}, units={"sparseness": "1"}
    )
    assert (row.n, row.note) == (4, "withheld: 3 patients, fewer than 4")
    assert math.isnan(row.value)


def test_a_subgroup_is_written_into_each_row():
    of_women = replace(scorer(), subgroup="sex=F")
    table = predictions(["covid", "normal"], ["covid", "normal"])
    assert {row.subgroup for row in of_women.predictions(table, split="t", condition="c")} == {"sex=F"}
    assert {row.subgroup for row in of_women.change(table, table, split="t")} == {"sex=F"}
    assert {row.subgroup for row in scorer().predictions(table, split="t", condition="c")} == {""}


def test_bca_and_draws_by_class_change_intervals_and_no_values():
    rng = np.random.default_rng(0)
    label = list(rng.choice(CLASSES, 60))
    table = predictions(label, list(rng.choice(CLASSES, 60)), probability=rng.random(60))
    found = {}
    for settings_of in ({}, {"kind": "bca"}, {"stratified": False}, {"kind": "bca", "stratified": False}, {"level": 0.8}):
        one = scorer(**settings_of)
        rows = one.predictions(table, split="t", condition="c") + one.change(table.iloc[:30], table.iloc[30:], split="t")
        found[str(settings_of)] = rows
        assert all(row.low < row.value < row.high for row in rows if row.metric in ("accuracy", "auroc", "change[auroc]"))
    plain = found.pop("{}")
    for rows in found.values():
        assert [row.value for row in rows] == [row.value for row in plain]
        assert [row.low for row in rows] != [row.low for row in plain]


# from the test set to an outside set


def test_changes_by_hand():
    inside = predictions(["covid", "covid", "normal", "normal"], ["covid", "covid", "normal", "covid"])
    outside = predictions(["covid", "normal", "normal"], ["normal", "normal", "covid"])
    rows = scorer().change(inside, outside, split="hospital")
    found = {row.metric: row.value for row in rows}
    # accuracy 3/4 and 1/3; recalls 1 and 1/2, then 0 and 1/2; AUROC (1 + 1/2) / 2 and (1/2 + 0) / 2
    assert found.pop("change[accuracy]") == pytest.approx(1 / 3 - 3 / 4)
    assert found.pop("change[balanced_accuracy]") == pytest.approx(1 / 4 - 3 / 4)
    assert found.pop("change[auroc]") == pytest.approx(1 / 4 - 3 / 4)
    assert found.pop("mean[auroc]") == pytest.approx((1 / 4 + 3 / 4) / 2)
    # inside: covid two of three at 0.9, normal one of one at 0.8 and two of four;
    # outside: covid one of three at 0.2, normal one of two at 0.8, then two of three at 0.1
    covid, normal = (2 / 3, 1 / 3), ((1 + 2 / 4) / 2, 1 / 4 + 1 / 3)
    assert found.pop("change[mean_average_precision]") == pytest.approx(((covid[1] - covid[0]) + (normal[1] - normal[0])) / 2)
    assert found == {}
    assert {(row.split, row.condition, row.better, row.n, row.unit) for row in rows} == {
        ("hospital", "clean", "higher", 7, "fraction")
    }


def test_changes_are_the_differences_of_the_scores_where_both_sets_have_all_classes():
    rng = np.random.default_rng(0)
    inside, outside = (
        predictions(list(rng.choice(CLASSES, n)), list(rng.choice(CLASSES, n)), probability=rng.random(n)) for n in (40, 30)
    )
    before, after = (
        {row.metric: row.value for row in scorer(resamples=5).predictions(table, split="t", condition="clean")}
        for table in (inside, outside)
    )
    for row in scorer(resamples=5).change(inside, outside, split="hospital"):
        kind, name = row.metric.removesuffix("]").split("[")
        expected = after[name] - before[name] if kind == "change" else (after[name] + before[name]) / 2
        assert row.value == pytest.approx(expected)


def test_the_interval_of_a_change_is_that_of_two_independent_sets():
    # shares 80 of 100 and 60 of 100: the standard error of the difference is sqrt(0.8 x 0.2 / 100 + 0.6 x 0.4 / 100)
    n = 100
    inside = predictions(["covid"] * n, ["covid"] * 80 + ["normal"] * 20)
    outside = predictions(["covid"] * n, ["covid"] * 60 + ["normal"] * 40)
    rows = {row.metric: row for row in scorer(resamples=4000).change(inside, outside, split="hospital")}
    accuracy = rows["change[accuracy]"]
    reach = 1.96 * math.sqrt(0.8 * 0.2 / n + 0.6 * 0.4 / n)
    assert accuracy.value == pytest.approx(-0.2)
    assert accuracy.low == pytest.approx(-0.2 - reach, abs=0.015)  # one image either way, and chance of 4000 draws
    assert accuracy.high == pytest.approx(-0.2 + reach, abs=0.015)
    assert math.isnan(rows["change[auroc]"].value)


def test_the_same_set_twice_has_no_change_but_an_interval():
    table = predictions(["covid", "normal"] * 20, ["covid", "covid", "normal", "normal"] * 10)
    rows = {row.metric: row for row in scorer().change(table, table, split="again")}
    assert rows["change[accuracy]"].value == 0
    assert rows["change[accuracy]"].low < 0 < rows["change[accuracy]"].high


def test_a_change_on_which_all_resamples_agree_or_of_one_patient_has_no_interval():
    right, wrong = predictions(["covid"] * 5, ["covid"] * 5), predictions(["covid"] * 5, ["normal"] * 5)
    lost = {row.metric: row for row in scorer().change(right, wrong, split="t")}["change[accuracy]"]
    assert lost.value == -1
    assert math.isnan(lost.low)
    one = predictions(["covid", "normal"] * 4, ["covid", "covid"] * 4, patient=["p"] * 8)
    many = predictions(["covid", "normal"] * 4, ["covid", "normal", "covid", "covid"] * 2)
    for pair in ((one, many), (many, one)):
        row = {row.metric: row for row in scorer().change(*pair, split="t")}["change[accuracy]"]
        assert abs(row.value) == 0.25
        assert math.isnan(row.low)
        assert math.isnan(row.high)


def test_a_class_that_one_set_lacks_does_not_count_in_changes_of_auroc():
    three = ("covid", "normal", "tb")
    rng = np.random.default_rng(1)

    def table(labels):
        p = rng.random((len(labels), 3))
        return pd.DataFrame(
            {"image_id": range(len(labels)), "patient": range(len(labels)), "label": labels, "predicted": "tb"}
        ).assign(**{f"p_{name}": p[:, k] for k, name in enumerate(three)})

    inside, outside = table(["covid", "normal", "tb"] * 8), table(["covid", "normal"] * 8)
    few = scorer(three, resamples=20)
    before, after = (
        {row.metric: row.value for row in few.predictions(t, split="t", condition="clean")} for t in (inside, outside)
    )
    found = {row.metric: row.value for row in few.change(inside, outside, split="t")}
    both = np.mean([after[f"auroc[{name}]"] - before[f"auroc[{name}]"] for name in ("covid", "normal")])
    assert found["change[auroc]"] == pytest.approx(both)
    assert math.isnan(found["change[balanced_accuracy]"])
    assert found["change[accuracy]"] == pytest.approx(0 - 1 / 3)


def test_changes_of_findings_are_over_the_findings_known_in_both_sets():
    def table(covid, normal, probability):
        n = len(covid)
        return pd.DataFrame(
            {
                "image_id": range(n),
                "patient": range(n),
                "label:covid": covid,
                "label:normal": normal,
                "p_covid": probability,
                "p_normal": probability,
            }
        )

    inside = table([1.0, 0.0, np.nan], [1.0, 0.0, 0.0], [0.9, 0.2, 0.5])
    outside = table([1.0, 0.0, 0.0], [np.nan] * 3, [0.5, 0.9, 0.1])
    rows = {row.metric: row for row in scorer(resamples=20).change(inside, outside, split="t")}
    assert {name: row.value for name, row in rows.items()} == {
        "change[auroc]": pytest.approx(0.5 - 1),
        "change[mean_average_precision]": pytest.approx(0.5 - 1),
        "mean[auroc]": pytest.approx(0.75),
    }
    assert {row.n for row in rows.values()} == {2 + 3}


# explanations


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("hit[covid]", "higher"),  # a region named like a class says where that finding is
        ("hit[finding]", "higher"),
        ("hit[box]", "higher"),
        ("hit[devices]", "lower"),
        ("hit[lung]", "neither"),
        ("hit[covid@0.1]", "higher"),
        ("distance[covid@0.1]", "lower"),  # at a threshold, the metric's own direction
        ("distance[lung@t]", "lower"),
        ("distance", "lower"),
    ],
)
def test_which_direction_is_better_follows_the_region_or_the_metric(name, better):
    table = pd.DataFrame({"image_id": ["a"], "patient": ["p"], "explainer": "gradcam", "metric": name, "value": [0.5]})
    (row,) = scorer().explanations(
        table,
        split="test",
        condition="clean",
        better={"hit": "higher", "distance": "lower"},
        units={"hit": "fraction", "distance": "px"},
    )
    assert row.metric == name
    assert row.better == better
    assert row.unit == {"hit": "fraction", "distance": "px"}[name.partition("[")[0]]


def test_means_of_explanation_metrics_leave_out_what_is_not_defined():
    table = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "a", "b"],
            "patient": ["p", "q", "r", "p", "q"],
            "explainer": "gradcam",
            "metric": ["relevance_mass[lesion]"] * 3 + ["sparseness"] * 2,
            "value": [0.2, np.nan, 0.4, np.nan, np.nan],
        }
    )
    rows = scorer().explanations(
        table,
        split="test",
        condition="clean",
        better={"relevance_mass": "higher", "sparseness": "neither"},
        units={"relevance_mass": "fraction", "sparseness": "1"},
    )
    mass, sparse = rows
    assert (mass.metric, mass.explainer, mass.better, mass.unit, mass.n) == (
        "relevance_mass[lesion]",
        "gradcam",
        "higher",
        "fraction",
        2,
    )
    assert mass.value == pytest.approx(0.3)
    assert 0.2 <= mass.low <= mass.high <= 0.4
    assert (sparse.n, sparse.better, sparse.unit) == (0, "neither", "1")
    assert math.isnan(sparse.value)
    assert math.isnan(sparse.low)


def test_two_calls_draw_the_same_patients():
    table = predictions(["covid", "normal"] * 10, ["covid"] * 20)
    first = scorer().predictions(table, split="test", condition="clean")
    again = scorer().predictions(table.iloc[::-1], split="test", condition="clean")
    for one, two in zip(first, again, strict=True):
        assert one.metric == two.metric
        np.testing.assert_allclose([one.value, one.low, one.high], [two.value, two.low, two.high], rtol=1e-12)
