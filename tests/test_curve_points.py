"""Points of reliability, ROC and PR curves: those of scikit-learn, few enough to keep, and none of too few patients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import binomtest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cxr_eval.stats import scores
from cxr_eval.stats.cell_rows import known_truth, probabilities
from cxr_eval.stats.clinical import BINS, calibration_error
from cxr_eval.stats.curve_points import (
    CURVE_COLUMNS,
    MOST_LINES,
    STEPS,
    curve_table,
    network_curves,
    points,
    pr_points,
    reliability_bins,
    roc_points,
    room,
    told_conditions,
    wilson,
)
from cxr_eval.stats.intervals import Resampling

NAN = float("nan")
ANYONE = Resampling(min_patients=0)
FINDINGS = ("Mass", 'a "b", <c>\nd')


def pr_area(made: npt.NDArray[np.float64]) -> float:
    """Area under steps."""
    return float(np.sum(np.diff(made[:, 0], prepend=0) * made[:, 1]))


def drawn(seed: int, n: int, ties: int = 0, share: float = 0.4) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Labels, and scores that know something of them; rounded to so many digits where ties are asked for."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < share
    positive[:2] = [True, False]
    score = 1 / (1 + np.exp(-rng.normal(positive * 1.2, 1.0)))
    return positive, np.round(score, ties) if ties else score


def multiclass(n: int = 60, seed: int = 0, *, images_each: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    given = rng.dirichlet([1.0, 1.0, 1.0], n)
    names = np.array(["covid", "normal", "pneumonia"])
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(n)],
            "patient": [f"p{k // images_each}" for k in range(n)],
            "label": names[rng.integers(0, 3, n)],
            "predicted": names[given.argmax(axis=1)],
            **{f"p_{name}": given[:, k] for k, name in enumerate(names)},
        }
    )


def findings(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient": [f"p{k}" for k in range(n)]})
    for name in FINDINGS:
        table[f"label:{name}"] = np.where(rng.random(n) < 0.1, NAN, rng.random(n) < 0.4)
        table[f"p_{name}"] = rng.random(n)
    return table


def attacked(
    table: pd.DataFrame, name: str, radii: tuple[float, ...], *, every: bool = True, goal: str = "any"
) -> pd.DataFrame:
    return pd.concat([table.assign(attack=name, eps=eps, every=every, goal=goal, norm="linf") for eps in radii])


def test_few_images_give_every_corner_of_the_curve() -> None:
    # scores 0.9 (+), 0.8 (-), 0.8 (+), 0.1 (-): thresholds pass 1+, then 1+ and 1- together, then 1-
    positive, score = [True, False, True, False], [0.9, 0.8, 0.8, 0.1]
    np.testing.assert_array_equal(roc_points(positive, score), [[0, 0], [0, 0.5], [0.5, 1], [1, 1]])
    np.testing.assert_allclose(pr_points(positive, score), [[0.5, 1], [1, 2 / 3]])


@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([0, 1, 2]))
def test_a_short_roc_curve_has_the_corners_of_scikit_learn(seed: int, n: int, ties: int) -> None:
    positive, score = drawn(seed, n, ties)
    x, y, _ = roc_curve(positive, score, drop_intermediate=False)
    ours = roc_points(positive, score)
    inside = {tuple(point) for point in np.stack([x, y], axis=1).round(9)}
    assert {tuple(point) for point in ours.round(9)} <= inside
    assert auc(ours[:, 0], ours[:, 1]) == pytest.approx(auc(x, y), abs=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 3000), st.sampled_from([0, 1, 2, 3]), st.sampled_from(STEPS))
def test_a_cut_roc_curve_keeps_its_area_and_stays_short(seed: int, n: int, ties: int, steps: int) -> None:
    positive, score = drawn(seed, n, ties)
    made = roc_points(positive, score, steps=steps)
    assert len(made) <= 101
    assert tuple(made[0]) == (0, 0)
    assert tuple(made[-1]) == (1, 1)
    assert (np.diff(made, axis=0) >= -1e-12).all()
    assert trapezoid(made[:, 1], made[:, 0]) == pytest.approx(roc_auc_score(positive, score), abs=0.005)
    x, y, _ = roc_curve(positive, score, drop_intermediate=False)
    # each point lies on the curve: at its share of the way along both axes the curve has the same two values
    way, there = (x + y) / 2, made.sum(axis=1) / 2
    np.testing.assert_allclose(made, np.stack([np.interp(there, way, x), np.interp(there, way, y)], axis=1), atol=1e-9)


def test_the_worst_staircase_changes_its_area_by_no_more_than_a_hundredth_of_half() -> None:
    # 100 stairs of 40 negatives, then 40 positives: each cut corner is a triangle of 0.01 x 0.01 / 2
    positive = np.tile(np.repeat([False, True], 40), 100)
    score = np.linspace(1, 0, len(positive))
    made = roc_points(positive, score)
    lost = trapezoid(made[:, 1], made[:, 0]) - roc_auc_score(positive, score)
    assert lost == pytest.approx(100 * 0.01 * 0.01 / 2, abs=1e-9)


def test_a_curve_that_few_steps_would_change_gets_more() -> None:
    # 25 stairs of 0.04: 25 steps would cut triangles of 0.04 x 0.04 / 2, which is 0.02 in all; 50 steps meet each corner
    positive = np.tile(np.repeat([False, True], 40), 25)
    score = np.linspace(1, 0, len(positive))
    made = roc_points(positive, score, steps=25)
    assert len(made) == 51
    assert trapezoid(made[:, 1], made[:, 0]) == pytest.approx(roc_auc_score(positive, score), abs=1e-9)


@given(st.integers(0, 10**6), st.integers(2, 3000), st.sampled_from([0, 1, 2]), st.sampled_from(STEPS))
def test_steps_of_a_precision_recall_curve_have_the_average_precision_as_their_area(
    seed: int, n: int, ties: int, steps: int
) -> None:
    positive, score = drawn(seed, n, ties)
    made = pr_points(positive, score, steps=steps)
    assert len(made) <= steps
    assert made[-1, 0] == pytest.approx(1)
    assert pr_area(made) == pytest.approx(average_precision_score(positive, score), abs=1e-9)
    if positive.sum() <= steps:
        precision, recall, _ = precision_recall_curve(positive, score)
        theirs = {(round(r, 9), round(p, 9)) for r, p in zip(recall, precision, strict=True)}
        assert {(round(r, 9), round(p, 9)) for r, p in made} <= theirs


def test_areas_are_those_of_the_rows() -> None:
    table = multiclass(200)
    made = points(table, ("covid", "normal", "pneumonia"), ANYONE)
    ones = np.ones((1, 200))
    for name in ("covid", "normal", "pneumonia"):
        positive, score = (table["label"] == name).to_numpy(), table[f"p_{name}"].to_numpy()
        roc, pr = (made[(made["figure"] == figure) & (made["series"] == name)] for figure in ("roc", "pr"))
        # cut at 101 points, and five decimals
        assert trapezoid(roc["y"], roc["x"]) == pytest.approx(scores.auroc(positive, score, ones)[0], abs=0.005)
        area = pr_area(pr[["x", "y"]].to_numpy())
        assert area == pytest.approx(scores.average_precision(positive, score, ones)[0], abs=1e-4)
        assert set(roc["n"]) == {200}


@pytest.mark.parametrize("score", [[0.1, NAN], [0.1, 0.2]])
def test_without_both_sides_or_with_a_nan_there_is_no_curve(score: list[float]) -> None:
    assert roc_points([True, True], score).shape == (0, 2)
    assert roc_points([], []).shape == pr_points([], []).shape == (0, 2)
    assert pr_points([False, False], score).shape == (0, 2)
    np.testing.assert_array_equal(pr_points([True, True], [0.1, 0.2]), [[0.5, 1], [1, 1]])


@pytest.mark.parametrize("make", [multiclass, findings])
def test_bins_add_up_to_the_calibration_error(make: object) -> None:
    table = make(300)  # type: ignore[operator]
    one_class = make is multiclass
    classes = ("covid", "normal", "pneumonia") if one_class else FINDINGS
    made = points(table, classes, ANYONE)
    bins = made[made["figure"] == "reliability"]
    truth, probability = known_truth(table, classes), probabilities(table, classes)
    error = calibration_error(truth, probability, np.ones((1, 300)), task="multiclass" if one_class else "multilabel")["ece"][0]
    errors = []
    for series in ("",) if one_class else FINDINGS:
        of = bins[bins["series"] == series]
        errors.append(np.sum(of["n"] * (of["y"] - of["x"]).abs()) / of["n"].sum())
    assert np.mean(errors) == pytest.approx(error, abs=2e-5)  # five decimals
    assert bins[bins["series"] == ""]["n"].sum() == (300 if one_class else np.isfinite(truth).sum())


def test_a_bin_counts_patients_for_its_interval_and_images_for_its_share() -> None:
    # ten images of five patients claim 0.62, six are so: share 0.6 of 10 images, Wilson for 5 cases
    so, claimed = np.array([1.0] * 6 + [0.0] * 4), np.full(10, 0.62)
    patients = np.array([f"p{k // 2}" for k in range(10)])
    [(x, y, low, high, n)] = reliability_bins(so, claimed, patients, ANYONE)
    ends = binomtest(3, 5).proportion_ci(method="wilson")  # 3 of 5 is 0.6 too
    assert (x, y, n) == (pytest.approx(0.62), pytest.approx(0.6), 10)
    assert (low, high) == pytest.approx((ends.low, ends.high))


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.99]))
def test_intervals_are_those_of_scipy(cases: int, share: float, level: float) -> None:
    right = round(share * cases)
    ends = binomtest(right, cases).proportion_ci(level, method="wilson")
    assert wilson(right / cases, cases, level) == pytest.approx((ends.low, ends.high), abs=1e-9)


def test_what_too_few_patients_stand_behind_is_not_told() -> None:
    table = multiclass(40)
    table.loc[:, "label"] = ["covid"] * 4 + ["normal"] * 36
    made = points(table, ("covid", "normal", "pneumonia"), Resampling(min_patients=5))
    assert set(made[made["figure"] == "roc"]["series"]) == {"normal"}  # four patients have covid, none pneumonia
    bins = made[made["figure"] == "reliability"]
    few = bins[bins["n"] < 5]  # one image a patient
    assert len(few)
    assert few[["y", "low", "high"]].isna().all().all()
    assert bins[bins["n"] >= 5]["y"].notna().all()
    middles = (np.arange(BINS) + 0.5) / BINS
    assert all(np.isclose(middles, x, atol=1e-5).any() for x in few["x"])


def test_curves_of_clean_images_and_of_whole_attacks_at_two_radii() -> None:
    clean = multiclass()
    tables = [
        attacked(clean, "pgd", (0.0, 0.01, 0.02, 0.04, 8 / 255)),
        attacked(clean, "part", (0.0, 0.01), every=False),
        attacked(clean, "aimed", (0.0, 0.01), goal="hide covid"),
        attacked(clean, "fgsm", (0.0, 0.02)),
    ]
    assert list(told_conditions(clean, tables)) == ["clean", "pgd:0.04", "fgsm:0.02", "pgd:8/255"]
    made = network_curves(
        clean, tables, ("covid", "normal", "pneumonia"), ANYONE, model="net", trainer="007", seed=3, split="test"
    )
    assert tuple(made.columns) == CURVE_COLUMNS
    assert list(dict.fromkeys(made["condition"])) == ["clean", "pgd:0.04", "fgsm:0.02", "pgd:8/255"]
    assert made[["model", "trainer", "seed", "split"]].drop_duplicates().to_numpy().tolist() == [["net", "007", 3, "test"]]
    assert curve_table([]).columns.tolist() == list(CURVE_COLUMNS)
    assert len(curve_table([made, made])) == 2 * len(made)


@pytest.mark.parametrize(
    ("networks", "classes", "conditions", "expected"),
    [
        (9, 14, 3, (50, 3)),  # 27 x (14 x 201 + 15 x 15 = 3039) = 82053 > 50000; 27 x (14 x 101 + 225 = 1639) = 44253
        (2, 3, 5, (100, 5)),
        (9, 14, 13, (25, 5)),  # 5555 lines each / (14 x 51 + 225 = 939) = 5.9
        (1000, 14, 3, (25, 1)),  # clean curves always stand
    ],
)
def test_the_file_of_a_run_is_bounded(networks: int, classes: int, conditions: int, expected: tuple[int, int]) -> None:
    assert room(networks, classes, 1 + classes, conditions) == expected


def test_fourteen_findings_of_nine_networks_stay_within_the_bound() -> None:
    names = tuple(f"finding {k}" for k in range(14))
    rng = np.random.default_rng(0)
    n = 800
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient": [f"p{k}" for k in range(n)]})
    table = pd.concat(
        [
            table,
            pd.DataFrame({f"label:{name}": (rng.random(n) < 0.3).astype(float) for name in names}),
            pd.DataFrame({f"p_{name}": rng.random(n) for name in names}),
        ],
        axis=1,
    )
    made = network_curves(table, [attacked(table, "pgd", (0.0, 0.01, 0.02))], names, ANYONE, networks=9)
    assert 9 * len(made) <= MOST_LINES
    assert len(made["condition"].unique()) == 3


def test_names_may_hold_anything_and_the_same_tables_give_the_same_points() -> None:
    table = findings()
    first, again = (points(table, FINDINGS, ANYONE) for _ in range(2))
    assert first.to_csv() == again.to_csv()
    assert set(first["series"]) == {"", *FINDINGS}


def test_no_images_are_no_curves() -> None:
    assert points(multiclass(60).iloc[:0], ("covid", "normal", "pneumonia"), ANYONE).empty
    nothing = findings().assign(**{f"label:{name}": NAN for name in FINDINGS})
    assert points(nothing, FINDINGS, ANYONE).empty
    table = multiclass().assign(p_covid=NAN)
    left = points(table, ("covid", "normal", "pneumonia"), ANYONE)
    assert set(left["series"]) <= {"normal", "pneumonia"}
