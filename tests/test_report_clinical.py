"""What a report says of clinical scores, withheld numbers and corruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cxr_eval.report import clinical
from cxr_eval.report.corruptions import ALIKE, corruption_table
from cxr_eval.report.render import render
from tests.evidence import (
    NAN,
    TWO,
    both_seeds,
    cells,
    only,
    results_of,
    row,
    with_rows,
)


def test_clinical_scores_stand_clean_and_in_the_worst_case_by_class_and_with_their_direction() -> None:
    numbers = [
        *both_seeds("missed_disease", 0.1, better="lower"),
        *both_seeds("missed_disease", 0.4, better="lower", condition="worst:0.02"),
        *both_seeds("missed_disease", 0.3, better="lower", trainer="fgsm", condition="worst:0.02"),
        *both_seeds("missed_disease", 0.35, better="lower", condition="pgd:0.02"),
        *both_seeds("sensitivity[covid]", 0.9),
        *both_seeds("net_benefit[disease@0.1]", 0.4),
        *both_seeds("net_benefit_treat_all[disease@0.1]", 0.5),
    ]
    part = only(clinical.section(with_rows(*numbers)))
    whole, by_class, benefit = part.tables
    found = cells(whole)
    assert found["clean images", "standard", "Disease missed"].text == "0.100"
    assert found["worst case, radius 0.02", "standard", "Disease missed"].text == "0.400"
    assert found["worst case, radius 0.02", "fgsm", "Disease missed"].best
    assert whole.columns[0].sub == "lower is better, n = 40"
    assert cells(by_class)["covid", "standard", "Sensitivity"].text == "0.900"
    saved = cells(benefit)
    assert saved["disease at 0.1", "standard", "Net benefit, clean images"].text == "0.400"
    assert saved["disease at 0.1", "standard", "Calling everyone ill, clean images"].text == "0.500"
    assert cells(part.folded[-1])["pgd, radius 0.02", "standard", "Disease missed"].text == "0.350"


def test_without_clinical_scores_of_the_worst_case_those_of_the_attacks_stand_beside_the_clean_ones() -> None:
    numbers = [
        *both_seeds("missed_disease", 0.1, better="lower"),
        *both_seeds("missed_disease", 0.3, better="lower", condition="pgd:0.01"),
        *both_seeds("missed_disease", 0.35, better="lower", condition="pgd:0.02"),
        *both_seeds("missed_disease", 0.2, better="lower", condition="blur:5"),
    ]
    part = only(clinical.section(with_rows(*numbers)))
    assert [name for name, _ in part.tables[0].groups] == ["clean images", "pgd, radius 0.01", "pgd, radius 0.02"]
    assert [name for name, _ in part.folded[0].groups] == ["blur, severity 5"]


def test_a_withheld_number_shows_why_where_it_would_stand(tmp_path: Path) -> None:
    why = "withheld: 1 patient, fewer than 5"
    kept = tuple(replace(one, value=NAN, low=NAN, high=NAN, note=why) for one in both_seeds("ppv", 0.5, low=NAN, high=NAN))
    results = with_rows(*kept)
    found = cells(only(clinical.section(results)).tables[0])
    cell = found["clean images", "standard", "Positive predictive value"]
    assert (cell.text, cell.interval, cell.note) == ("n/a", "", why)
    for path in render(replace(TWO, more_rows=kept).write(tmp_path)).values():
        assert why in path.read_text(encoding="utf-8")


def test_the_table_of_corruptions_shows_how_like_the_clean_image_they_leave_it() -> None:
    sizes = [row("ssim", 1 - 0.1 * severity, condition=f"blur:{severity}", trainer="fgsm") for severity in (1, 5)]
    table = corruption_table(with_rows(*sizes), "net", "test")
    found = cells(table)
    assert found["blur", ALIKE, "Severity 1"].text == "0.900"
    assert found["blur", ALIKE, "Clean"].text == "—"
    assert not any(cell.best for key, cell in found.items() if key[1] == ALIKE)
    without = corruption_table(results_of(TWO), "net", "test")
    assert without is not None
    assert without.note == ""
