"""What a report says of the checks of attacks, of self-tests, and of differences between trainers."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from cxr_eval.report import differences, validity
from cxr_eval.report.figures import convergence_curves
from cxr_eval.report.tables import main_table
from cxr_eval.report.verdict import verdict
from cxr_eval.types import RowWarning
from tests.evidence import (
    NAN,
    TWO,
    cells,
    check,
    difference,
    only,
    results_of,
    row,
    with_rows,
)


def test_the_matrix_of_checks_shows_the_worst_of_the_seeds_in_words() -> None:
    lines = [
        check("PASS"),
        check("WARN", seed=1),
        check("PASS", trainer="fgsm"),
        check("PASS", trainer="fgsm", seed=1),
        check("FAIL", title="Outputs are logits"),
        check("FAIL", title="Outputs are logits", seed=1),
        check("SKIP", trainer="fgsm", title="Outputs are logits"),
    ]
    section = validity.section(results_of(TWO), pd.DataFrame(lines))
    part = only(section)
    found = cells(part.tables[0])
    assert {key[1:]: (cell.text, cell.spread, cell.level) for key, cell in found.items()} == {
        ("Gradients exist", "standard"): ("doubtful", "1 of 2 seeds", "warn"),
        ("Gradients exist", "fgsm"): ("passed", "", ""),
        ("Outputs are logits", "standard"): ("failed", "", "fail"),
        ("Outputs are logits", "fgsm"): ("not tried", "", ""),
    }
    (words,) = part.words
    assert words.rows == [
        ["failed", "Outputs are logits", "standard, seed 0; standard, seed 1", "Outputs are logits: fail."],
        ["doubtful", "Gradients exist", "standard, seed 1", "Gradients exist: warn."],
        ["not tried", "Outputs are logits", "fgsm, seed 0", "Outputs are logits: skip."],
    ]
    assert section is not None
    assert "7 on 4 networks, of which 2 failed, 1 doubtful, 1 not tried, 3 passed." in section.said[0]
    assert "is not claimed at the top" in section.said[0]


def test_a_check_that_lacks_for_one_trainer_is_not_measured_there() -> None:
    lines = [check("PASS"), check("PASS", trainer="fgsm", title="Outputs are logits")]
    part = only(validity.section(results_of(TWO), pd.DataFrame(lines)))
    assert cells(part.folded[0])["net", "Gradients exist", "fgsm"].text == "—"


@pytest.mark.parametrize(("verdict_", "folded"), [("PASS", True), ("SKIP", True), ("WARN", False), ("FAIL", False)])
def test_the_matrix_of_checks_stands_open_only_where_one_found_something(verdict_: str, folded: bool) -> None:
    part = only(validity.section(results_of(TWO), pd.DataFrame([check("PASS", title="Gradients exist"), check(verdict_)])))
    assert [bool(part.tables), bool(part.folded)] == [not folded, folded]


def test_self_tests_that_all_passed_are_one_line_and_others_a_table() -> None:
    passed = [check("PASS", kind="self_test", title="explainer cam", seed=seed) for seed in (0, 1)]
    part = only(validity.section(results_of(TWO), pd.DataFrame(passed)))
    assert part.said.endswith("all 2 tests passed.")
    assert not part.words
    wrong = [*passed, *(check("FAIL", kind="self_test", title="explainer cam", seed=seed) for seed in (0, 1))]
    section = validity.section(results_of(TWO), pd.DataFrame(wrong))
    part = only(section)
    assert part.said.endswith("2 of 4 tests passed. What failed was not used.")
    assert part.words[0].rows == [["failed", "explainer cam: polarity", "explainer cam: fail.", "2"]]
    assert section is not None
    assert section.title == "May the explanations be believed?"


def test_the_curve_over_steps_says_its_numbers_in_words() -> None:
    at = {"condition": "convergence:0.02"}
    rows = [row(f"robust_after_steps[{n}]", value, **at) for n, value in ((10, 0.25), (1, 0.75), (2, 0.5))]
    (picture,) = convergence_curves(with_rows(*rows), "net", "test", "key")
    assert picture.title == "Radius 0.02, over steps"
    assert picture.alt.endswith("robust accuracy of net after 1 to 10 steps; standard from 0.750 to 0.250")


def test_a_failed_check_of_the_attacks_takes_the_number_out_of_the_verdict_and_of_the_contest() -> None:
    scope = "net / fgsm / seed 1, test, robust_accuracy"
    results = with_rows(warnings=(RowWarning("softmax_outputs", "fail", scope, "?"),))
    clean, robust, *_ = verdict(results)
    assert "(fgsm)" in clean
    assert "leaving out" not in clean
    assert robust.count("leaving out 1 number on which a check failed") == 2  # at two radii
    assert "(fgsm)" not in robust
    table = main_table(results, "test")
    assert table is not None
    robust_columns = [head.text for head in table.columns if head.text.startswith("Robust accuracy")]
    found = cells(table)
    assert robust_columns
    for column in robust_columns:
        assert found["net", "fgsm", column].doubt
        assert not found["net", "fgsm", column].best
    believed = cells(main_table(results_of(TWO), "test"))
    assert all(believed["net", "fgsm", column].best for column in robust_columns)


def test_a_difference_has_its_interval_its_seeds_its_p_value_and_words() -> None:
    lines = [
        difference("accuracy", 0.1, 0.01),
        difference("auroc", -0.1, 0.0001),
        difference("balanced_accuracy", 0.1, 0.2),
        difference("robust_accuracy", 0.25, 0.04, condition="worst:0.02"),
        difference("mean_average_precision", NAN, NAN, low=NAN, high=NAN, note="withheld: 3 patients, fewer than 5"),
    ]
    section = differences.section(results_of(TWO), pd.DataFrame(lines))
    found = cells(only(section).tables[0])

    def shown(column: str) -> tuple[str, str, str, str, str]:
        cell = found["net", "fgsm minus standard", column]
        return cell.text, cell.interval, cell.spread, cell.n, cell.note

    assert shown("Accuracy, clean") == ("+0.100", "[0.080, 0.120]", "seeds 0.090 to 0.110", "p = 0.010", "fgsm better")
    assert shown("AUROC, clean") == ("-0.100", "[-0.120, -0.080]", "seeds -0.110 to -0.090", "p < 0.001", "standard better")
    assert shown("Balanced accuracy, clean")[3:] == ("p = 0.200", "no difference shown")
    assert shown("Robust accuracy, worst case, radius 0.02")[0] == "+0.250"
    assert shown("Mean average precision (mAP), clean") == ("n/a", "", "", "", "withheld: 3 patients, fewer than 5")
    heads = {head.text: head.sub for head in only(section).tables[0].columns}
    assert heads["Accuracy, clean"] == "n = 100, 80 patients, family of 4, higher is better"


def test_where_lower_is_better_the_lower_trainer_is_called_better_and_where_neither_is_none() -> None:
    lines = [
        difference("complexity", -0.2, 0.001, explainer="cam", better="lower"),
        difference("relevance_mass[lung]", -0.2, 0.001, explainer="cam", better="neither"),
        difference("randomisation", 0.0, NAN, explainer="cam"),
        difference("map_ssim", 0.3, 0.001, explainer="cam"),
        difference("accuracy", 0.1, 0.01),
    ]
    part = only(differences.section(results_of(TWO), pd.DataFrame(lines)))
    (folded,) = part.folded
    found = {column: cell for (_, _, column), cell in cells(folded).items()}
    assert {column: cell.note for column, cell in found.items()} == {
        "Complexity": "fgsm better",
        "Relevance mass in lung": "standard higher",
        "Randomisation": "no difference shown",
    }
    assert found["Randomisation"].n == "no test"


def test_robust_differences_by_attack_stand_folded_and_one_seed_has_no_range() -> None:
    lines = [difference("accuracy", 0.1, 0.01), difference("robust_accuracy", 0.2, 0.01, condition="pgd:0.02")]
    part = only(differences.section(results_of(replace(TWO, seeds=(0,))), pd.DataFrame(lines)))
    assert cells(part.tables[0])["net", "fgsm minus standard", "Accuracy, clean"].spread == ""
    assert cells(part.folded[0])["net", "fgsm minus standard", "pgd, radius 0.02"].text == "+0.200"
