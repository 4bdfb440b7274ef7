"""What a report says of subgroups: their scores and the gaps between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from cxr_eval.report import subgroups
from cxr_eval.report.tables import Table, main_table
from cxr_eval.report.verdict import verdict
from tests.evidence import (
    NAN,
    TWO,
    both_seeds,
    cells,
    gap,
    only,
    results_of,
    row,
    with_rows,
)


def test_numbers_of_subgroups_stay_out_of_everything_but_their_own_tables() -> None:
    apart = (row("accuracy", 0.01, subgroup="sex=F"), row("f1", 0.02, subgroup="sex=F", split="elsewhere"))
    assert main_table(with_rows(*apart), "test") == main_table(results_of(TWO), "test")
    assert with_rows(*apart).splits == ("test",)
    assert verdict(with_rows(*apart)) == verdict(results_of(TWO))


def gap_table(*lines: dict[str, Any], **changes: Any) -> Table:
    """The first table of the first part that these gaps make."""
    table = only(subgroups.section(with_rows(**changes), pd.DataFrame(lines))).tables[0]
    assert isinstance(table, Table)
    return table


def shown(table: Table, *place: str) -> tuple[str, str, str, str, str]:
    cell = cells(table)[place[0], place[1], place[2]]
    return cell.text, cell.interval, cell.spread, cell.n, cell.note


def test_a_gap_is_the_mean_of_the_seeds_with_their_mean_interval_and_largest_p_value() -> None:
    table = gap_table(gap("F", -0.1, 0.001), gap("F", -0.2, 0.04, seed=1), gap("F", 0.1, 0.001, trainer="fgsm"))
    # (-0.1 - 0.2) / 2; (-0.14 - 0.24) / 2; (-0.08 - 0.18) / 2
    assert shown(table, "F minus M", "standard", "Accuracy, clean") == (
        "-0.150", "[-0.190, -0.130]", "", "p = 0.040", "F worse"
    )  # fmt: skip
    assert shown(table, "F minus M", "fgsm", "Accuracy, clean") == (
        "+0.100", "[0.060, 0.120]", "1 of 2 seeds", "p = 0.001", "M worse"
    )  # fmt: skip


def test_two_values_are_compared_once_and_less_of_what_is_bad_is_better() -> None:
    missed = {"metric": "missed_disease"}
    table = gap_table(gap("F", 0.1, 0.01, **missed), gap("M", -0.1, 0.01, against="F", **missed))
    assert [name for name, _ in table.groups] == ["F minus M"]
    assert shown(table, "F minus M", "standard", "Disease missed, clean")[4] == "F worse"
    assert table.columns[0].sub == "lower is better, 5 comparisons"


def test_the_largest_gaps_stand_last_and_name_the_values_that_differ() -> None:
    ages = {"column": "age", "against": "others"}
    lines = [
        line
        for seed, low, high in ((0, "0-17", "65+"), (1, "65+", "0-17"))
        for line in (
            *(gap(value, 0.01, 1.0, seed=seed, **ages) for value in ("0-17", "18-64", "65+")),
            gap(high, 0.3, 0.5, seed=seed, column="age", against=low),
        )
    ]
    alike = [gap(value, 0.0, 1.0, trainer="fgsm", **ages) for value in ("0-17", "18-64")]
    alike.append(gap("18-64", 0.0, 1.0, trainer="fgsm", column="age", against="18-64"))
    table = gap_table(*lines, *alike)
    assert [name for name, _ in table.groups] == ["0-17 minus others", "18-64 minus others", "65+ minus others", "Largest gap"]
    assert shown(table, "Largest gap", "standard", "Accuracy, clean")[3:] == ("p = 0.500", "65+ over 0-17; 0-17 over 65+")
    assert shown(table, "Largest gap", "fgsm", "Accuracy, clean") == (
        "0.000", "[-0.040, 0.020]", "1 of 2 seeds", "p = 1.000", "none: all alike"
    )  # fmt: skip


def test_a_value_that_is_called_others_hides_none_that_comes_after_it() -> None:
    ages = {"column": "site", "against": "others"}
    table = gap_table(*(gap(value, 0.1, 1.0, **ages) for value in ("others", "rural", "urban")))
    assert [name for name, _ in table.groups] == ["others minus others", "rural minus others", "urban minus others"]


def test_a_withheld_gap_says_why_and_robust_accuracy_comes_after_clean_scores() -> None:
    why = "withheld: 3 patients, fewer than 5"
    robust = {"condition": "worst:0.02", "metric": "robust_accuracy", "comparisons": 4}
    undefined = gap("F", NAN, NAN, metric="auroc", comparisons=0)
    table = gap_table(gap("F", NAN, NAN, note=why, **robust), gap("F", -0.1, 0.3), undefined)
    assert [head.text for head in table.columns] == [
        "Accuracy, clean", "AUROC, clean", "Robust accuracy, worst case, radius 0.02"
    ]  # fmt: skip
    assert [head.sub for head in table.columns] == [
        "higher is better, 5 comparisons", "higher is better", "higher is better, 4 comparisons"
    ]  # fmt: skip
    assert table.caption == "Gaps by sex: net on “test”, corrected for 4 to 5 comparisons a score"
    assert shown(table, "F minus M", "standard", "Robust accuracy, worst case, radius 0.02") == ("n/a", "", "", "", why)
    assert shown(table, "F minus M", "standard", "AUROC, clean") == ("n/a", "", "", "", "")
    assert shown(table, "F minus M", "standard", "Accuracy, clean")[3:] == ("p = 0.300", "")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (0.2, "Of 2 gaps that were measured, none has a corrected p-value below 0.05 in every seed that has it."),
        (
            0.03,
            "Of 2 gaps that were measured, 1 has a corrected p-value below 0.05 in every seed that has it: a reason to look",
        ),
    ],
)
def test_the_sentence_above_counts_the_gaps_whose_largest_p_value_is_small(second: float, said: str) -> None:
    lines = [gap("F", -0.1, 0.001), gap("F", -0.2, second, seed=1), gap("F", 0.1, 0.9, metric="auroc")]
    section = subgroups.section(with_rows(), pd.DataFrame([*lines, gap("F", NAN, NAN, metric="specificity")]))
    assert section is not None
    assert section.said[0].startswith(said)
    alone = subgroups.section(results_of(replace(TWO, seeds=(0,))), pd.DataFrame(lines[:1]))
    assert alone is not None
    assert alone.said[0] == (
        "Of 1 gap that was measured, 1 has a corrected p-value below 0.05: a reason to look. The correction holds for one score"
        " of one network; over all networks and scores a few may still be chance."
    )
    assert "seeds" not in alone.said[1]


def test_scores_of_subgroups_stand_below_their_gaps_and_without_gaps_alone() -> None:
    numbers = [
        *both_seeds("accuracy", 0.8, subgroup="sex=F", n=21),
        *both_seeds("accuracy", 0.9, subgroup="sex=M", n=19),
        *both_seeds("robust_accuracy", 0.4, subgroup="sex=F", condition="worst:0.01"),
        *both_seeds("recall[covid]", 0.7, subgroup="sex=F"),
        *both_seeds("accuracy", 0.7, subgroup="age=65+"),
    ]
    section = subgroups.section(with_rows(*numbers), pd.DataFrame([gap("F", 0.1, 0.2), gap("a", 0.1, 0.2, column="view")]))
    assert section is not None
    assert [part.title for part in section.parts] == ["Sex: net on “test”", "Age: net on “test”", "View: net on “test”"]
    assert [len(part.tables) for part in section.parts] == [2, 1, 1]
    found = cells(section.parts[0].tables[1])
    assert (found["F", "standard", "Accuracy, clean"].text, found["F", "standard", "Accuracy, clean"].n) == ("0.800", "n = 21")
    assert found["F", "standard", "Robust accuracy, worst case, radius 0.01"].text == "0.400"
    assert cells(section.parts[0].folded[0])["F", "standard", "Recall in covid, clean"].text == "0.700"
    without = subgroups.section(with_rows(*numbers), pd.DataFrame())
    assert without is not None
    assert without.said == ["The same networks on parts of the same images."]
    assert subgroups.section(results_of(TWO), pd.DataFrame()) is None


def test_a_published_number_is_none_of_a_subgroup() -> None:
    published = {"source": "A", "short": "A", "data": "B", "numbers": [{"values": {"accuracy": 0.5}}]}
    fake = replace(TWO, changes={"published": [published]}, more_rows=(row("accuracy", 0.8, subgroup="sex=F"),))
    (table,) = only(subgroups.section(results_of(fake), pd.DataFrame())).tables
    assert not table.quoted
