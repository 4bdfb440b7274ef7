"""Rows by hand on tables small enough to count."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_eval.stats.rows import Scorer, broken_at

CLASSES = ("covid", "normal")


def scorer(classes=CLASSES, resamples=200):
    return Scorer("cnn", "fgsm", 3, classes, resamples, "phantom")


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


def outcomes(clean, broken, radii, attack="pgd"):
    """An attack's table: `broken` is the radius at which each image falls (inf: never)."""
    parts = []
    for eps in radii:
        robust = [c and b > eps for c, b in zip(clean, broken, strict=True)]
        part = predictions(["covid"] * len(clean), ["covid" if ok else "normal" for ok in robust])
        parts.append(part.assign(attack=attack, eps=eps, clean_correct=clean, robust=robust))
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
    assert set(rows) == {"auroc[covid]", "auroc[normal]", "auroc"}
    assert rows["auroc[covid]"].value == 0.5
    assert math.isnan(rows["auroc[normal]"].value)
    assert rows["auroc"].value == 0.5
    assert {name: row.n for name, row in rows.items()} == {"auroc[covid]": 3, "auroc[normal]": 1, "auroc": 3}
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
    assert "accuracy" not in {row.metric for row in rows}
    assert values(rows, "recall[covid]") == {"pgd:0": 0.75, "pgd:0.01": 0.75, "pgd:0.02": 0.5, "pgd:0.04": 0.25}
    images = {row.metric: row.n for row in rows if row.metric.startswith("recall")}
    assert images.pop("recall[covid]") == 4
    assert set(images.values()) == {0}  # of the other classes there is no image
    assert all(row.n == 4 for row in rows if not row.metric.startswith("recall"))


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


# explanations


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
