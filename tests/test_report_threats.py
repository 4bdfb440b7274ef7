"""What a report says of each threat: its tables, its words, and what broke images first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxr_eval.report.tables import main_table
from cxr_eval.report.threats import breakers_table, robust_tables, said_condition, said_threat, threat_model
from cxr_eval.report.verdict import not_tested, verdict
from cxr_eval.types import RowWarning
from tests.evidence import (
    HIDE,
    L2,
    TWO,
    cells,
    results_of,
    row,
    with_rows,
)


def test_another_threat_has_its_own_table_and_leaves_the_main_table_and_the_verdict_alone() -> None:
    plain, results = results_of(TWO), with_rows(*L2, HIDE)
    assert results.threats("test") == ("worst", "worst(l2)", "worst(hide covid)")
    of_l2 = robust_tables(results, "net", "test", "worst(l2)")
    assert [table.caption for table in of_l2] == [
        "Robust accuracy by radius: net on “test”: any wrong answer, L2",
        "Robust accuracy by attack and radius: net on “test”: any wrong answer, L2",
    ]
    assert [name for table in of_l2 for name, _ in table.groups] == [
        "Worst case over all attacks: any wrong answer, L2",
        "pgd_l2",
    ]
    usual = robust_tables(results, "net", "test")
    assert [name for table in usual for name, _ in table.groups] == ["Worst case over all attacks", "pgd"]
    before, after = main_table(plain, "test"), main_table(results, "test")
    assert before is not None
    assert after is not None
    assert before.groups == after.groups
    assert "any answer within the L-inf radius" in after.note
    told = verdict(results)[1]
    assert told.startswith("Robust accuracy in the worst case over 1 attack (pgd) on any answer within L-inf radii, an upper")
    assert "other threats (any wrong answer, L2; hide covid, L-inf) have tables of their own" in told


@pytest.mark.parametrize(
    ("threat", "said"),
    [
        ("worst", "any wrong answer, L-inf"),
        ("worst(l2)", "any wrong answer, L2"),
        ("worst(hide Mass)", "hide Mass, L-inf"),
        ("worst(l2 hide Mass)", "hide Mass, L2"),
        ("worst(l2x)", "l2x, L-inf"),
    ],
)
def test_a_threat_is_said_in_words(threat: str, said: str) -> None:
    assert said_threat(threat) == said


def test_states_of_images_are_said_as_a_person_says_them() -> None:
    results = with_rows(*L2)
    said = [
        said_condition(results, name) for name in ("clean", "worst:0.02", "worst(l2):0.5", "pgd:0.02", "blur:3", "only lung")
    ]
    assert said == [
        "clean images",
        "worst case, radius 0.02",
        "worst case (any wrong answer, L2), radius 0.5",
        "pgd, radius 0.02",
        "blur, severity 3",
        "only lung",
    ]


def test_a_warning_about_an_attack_marks_the_worst_case_of_its_own_threat_only() -> None:
    results = with_rows(*L2, warnings=(RowWarning("x", "warn", "net, standard, pgd_l2", "?"),))
    at = {"model": "net", "trainer": "standard", "split": "test", "metric": "robust_accuracy"}
    doubted = {name: results.score(**at, condition=name) for name in ("worst:0.02", "worst(l2):0.5", "pgd:0.02", "pgd_l2:0.02")}
    assert {name: bool(score and score.doubts) for name, score in doubted.items()} == {
        "worst:0.02": False,
        "worst(l2):0.5": True,
        "pgd:0.02": False,
        "pgd_l2:0.02": True,
    }


def test_the_threat_model_names_norms_and_goals() -> None:
    assert "wants any wrong answer, knows" in threat_model(results_of(replace(TWO, attack_settings={})))
    assert "L2" not in threat_model(results_of(replace(TWO, attack_settings={})))
    told = threat_model(with_rows(*L2, HIDE))
    assert "wants any wrong answer or to hide covid" in told
    assert "(L-inf norm, pixel units of [0, 1]), or make a change whose Euclidean length" in told


def test_what_was_not_tested_knows_the_norms_and_what_was_scored() -> None:
    little = " ".join(not_tested(results_of(TWO)))
    assert "the checks of the attacks were not run" in little
    assert "Calibration, decision thresholds, and differences between sexes, ages, views and sites." in little
    more = with_rows(
        *L2,
        row("ece", 0.1),
        row("threshold[covid]", 0.4),
        row("accuracy", 0.8, subgroup="sex=F"),
        row("robust_after_steps[1]", 0.5),
    )
    told = " ".join(not_tested(more))
    assert "L-inf up to radius 0.02 (5.1 of 255 grey levels) and L2 up to radius 0.5:" in told
    assert "Differences between ages, views and sites." in told
    assert "Calibration" not in told
    assert "not run" not in told


def test_what_broke_images_first_stands_under_the_attack_and_its_stage_in_the_order_of_the_protocol() -> None:
    share = {"condition": "worst:0.02", "better": "neither"}
    results = with_rows(
        row("broken_by[pgd_l2 square]", 0.1, seed=0, **share),
        row("broken_by[gone]", 0.05, seed=0, **share),
        row("broken_by[pgd]", 0.25, seed=0, **share),
        row("broken_by[pgd]", 0.15, seed=1, **share),
    )
    table = breakers_table(results, "net", "test")
    found = cells(table)
    group = "Radius 0.02"
    assert table is not None
    assert [head.text for head in table.columns] == ["pgd", "pgd_l2: square", "gone"]
    assert found[group, "standard", "pgd"].text == "0.200"  # (0.25 + 0.15) / 2
    assert found[group, "standard", "pgd_l2: square"].spread == "1 of 2 seeds"
    assert not any(cell.best for cell in found.values())
