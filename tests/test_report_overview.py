"""The table of the first screen, which columns of wide tables are folded, and what data are called."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_eval.data import readers
from cxr_eval.report.overview import CAPTION, MOST_COLUMNS, MOST_LINES, WIDEST, Overview, narrow, overview, robust_condition
from cxr_eval.report.render import render
from cxr_eval.report.tables import Cell, Head, Line, Table
from cxr_eval.report.words import DATASETS, dataset
from cxr_eval.types import RowWarning
from tests.evidence import TWO, both_seeds, difference, referred
from tests.fake_run import Fake
from tests.report_pages import results_of

FULL = replace(
    TWO,
    outside=("far",),
    metrics=("relevance_mass[lesion]",),
    more_rows=(
        *both_seeds("ece", 0.1, better="lower"),
        *both_seeds("ece", 0.2, better="lower", trainer="fgsm"),
        *referred("chance", 0.15, "relevance_mass[lesion]"),
    ),
)
WORSE = difference("accuracy", -0.1, 0.01)


def made(fake: Fake = FULL, *lines: dict[str, Any]) -> Overview:
    found = overview(results_of(fake), pd.DataFrame(list(lines)))
    assert found is not None
    return found


def column(table: Overview, title: str) -> dict[str, Any]:
    """Trainer -> number of one column."""
    (place,) = [k for k, head in enumerate(table.columns) if head.text == title]
    return {line.trainer: line.cells[place] for line in table.lines}


def test_the_overview_has_clean_robust_outside_calibration_and_localisation_with_what_holds_for_each() -> None:
    assert [(head.text, head.sub) for head in made().columns] == [
        ("Accuracy, clean", "n = 100"),
        ("Robust accuracy, radius 0.02", "worst case, n = 100"),
        ("Accuracy on “far”", "n = 80"),
        ("Calibration error (ECE)", "lower is better, n = 40"),
        ("Relevance mass in lesion, cam", "map without meaning 0.150, n = 44"),
    ]


def test_every_number_of_the_overview_is_that_of_the_results_with_its_interval_and_no_seeds() -> None:
    score = results_of(FULL).score(model="net", trainer="fgsm", split="test", metric="accuracy")
    assert score is not None
    cell = column(made(), "Accuracy, clean")["fgsm"].cell
    assert (cell.text, cell.interval, cell.spread, cell.n) == (score.text, score.interval, "", "")


def test_columns_without_numbers_are_left_out_and_a_run_without_any_has_no_overview() -> None:
    bare = replace(TWO, attacks=(), explainers=(), outside=())
    assert [head.text for head in made(bare).columns] == ["Accuracy, clean"]
    assert overview(results_of(TWO, [])) is None
    rows = [row for row in FULL.rows() if row.metric.startswith("auroc")]
    found = overview(results_of(FULL, rows))
    assert found is not None
    assert [head.text for head in found.columns] == ["AUROC, clean", "AUROC on “far”"]


@pytest.mark.parametrize(
    ("radii", "middle"),
    [
        (("0.02",), "0.02"),
        (("0.01", "0.02"), "0.02"),
        (("0.01", "0.02", "0.04"), "0.02"),
        (("0.1", "0.2", "0.3", "0.4"), "0.3"),
    ],
)
def test_the_worst_case_is_that_of_the_middle_radius_and_of_an_even_number_the_upper(radii: Any, middle: str) -> None:
    assert robust_condition(results_of(replace(TWO, radii=radii))) == f"worst:{middle}"


def test_without_an_attack_there_is_no_worst_case() -> None:
    assert robust_condition(results_of(replace(TWO, attacks=()))) == ""
    assert robust_condition(results_of(TWO, [])) == ""


@pytest.mark.parametrize(
    ("line", "mark", "said"),
    [
        (WORSE, "▼", "worse than standard, p = 0.010"),
        (difference("accuracy", 0.1, 0.0001), "▲", "better than standard, p < 0.001"),
        (difference("accuracy", 0.1, 0.05), "", "no difference shown, p = 0.050"),
        (difference("accuracy", 0.1, 0.01, seeds_low=-0.1, seeds_high=0.3), "◇", "seeds disagree, p = 0.010"),
        (difference("accuracy", math.nan, math.nan), "", ""),
        (difference("accuracy", 0.1, 0.01, trainer="standard", against="fgsm"), "▼", "worse than standard, p = 0.010"),
    ],
)
def test_a_mark_says_what_the_comparison_with_the_reference_came_to(line: dict[str, Any], mark: str, said: str) -> None:
    table = made(FULL, line)
    marked = column(table, "Accuracy, clean")
    assert (marked["fgsm"].mark, marked["fgsm"].said) == (mark, said)
    assert (marked["standard"].mark, marked["standard"].said) == ("", "")
    assert table.reference == "standard"


def test_the_reference_is_the_first_that_the_protocol_compares_with() -> None:
    turned = replace(FULL, changes={"evaluate": {"against": ["fgsm"]}})
    table = made(turned, WORSE | {"trainer": "standard", "against": "fgsm"})
    assert table.reference == "fgsm"
    assert column(table, "Accuracy, clean")["standard"].mark == "▼"
    assert made(FULL).reference == ""


def test_the_legend_explains_the_marks_that_occur_and_names_what_was_not_compared() -> None:
    table = made(FULL, WORSE)
    assert table.legend == (
        ("★", "best of a column"),
        ("▼", "worse than “standard”, p < 0.05 after Holm"),
        ("no mark", "no difference shown"),
    )
    assert table.uncompared == (
        "not compared with “standard”: Robust accuracy, radius 0.02; Accuracy on “far”; Calibration error (ECE); Relevance mass"
        " in lesion, cam"
    )
    assert made(FULL).legend == (("★", "best of a column"),)
    assert made(FULL).uncompared == ""


def test_a_number_that_a_failed_check_forbids_has_neither_star_nor_mark() -> None:
    fake = replace(FULL, warnings=(RowWarning("x", "fail", "net / standard / seed 0, test, accuracy", "?"),))
    free, forbidden = column(made(), "Accuracy, clean"), column(made(fake, WORSE), "Accuracy, clean")
    assert free["standard"].cell.best
    assert not free["standard"].failed
    assert not forbidden["standard"].cell.best
    assert forbidden["standard"].failed
    assert ("✕", "a check failed: not to be believed") in made(fake, WORSE).legend
    lost = replace(FULL, warnings=(RowWarning("x", "fail", "net / fgsm / seed 0, test, accuracy", "?"),))
    marked = column(made(lost, WORSE), "Accuracy, clean")["fgsm"]
    assert (marked.mark, marked.said, marked.failed) == ("", "", True)
    assert "Accuracy, clean" not in made(lost, WORSE).uncompared  # it was compared, but that counts for nothing


def test_of_many_lines_the_best_by_the_first_column_are_shown_and_all_stand_folded_by_model(tmp_path: Path) -> None:
    failed = RowWarning("x", "fail", "net_0 / standard / seed 0, test, accuracy", "?")
    fake = replace(
        Fake(seeds=(0,), radii=("0.02",), images=0, drawn=False, warnings=(failed,)),
        models=tuple(f"net_{k}" for k in range(21)),
        trainers=("standard", "fgsm", "pgd", "trades"),
    )
    table = made(fake)
    assert (len(table.first), len(table.lines), table.folded) == (MOST_LINES, 84, True)
    values = [float(line.cells[0].cell.text) for line in table.first]
    assert values == sorted(values, reverse=True)
    assert ("net_0", "standard") not in {(line.model, line.trainer) for line in table.first}
    assert not made(FULL).folded
    html, md = (path.read_text(encoding="utf-8") for path in render(fake.write(tmp_path)).values())
    assert "<summary>Show all 84 lines</summary>" in html
    shown = html[html.index('<h2 id="overview">') : html.index('<h2 id="warnings">')]
    assert len(re.findall(r'<tr class="group">', shown)) == 21
    assert md[md.index("## Overview") : md.index("## Warnings")].count("\n| net\\_") == 84


def test_both_forms_of_the_overview_hold_the_same_numbers_and_marks(tmp_path: Path) -> None:
    fake = replace(FULL, later={"differences": pd.DataFrame([WORSE])})
    html, md = (path.read_text(encoding="utf-8") for path in render(fake.write(tmp_path)).values())
    page = html[html.index('<h2 id="overview">') : html.index('<h2 id="warnings">')]
    text = md[md.index("## Overview") : md.index("## Warnings")]
    assert CAPTION in page
    assert CAPTION in text
    number = re.compile(r"\d\.\d{3} ?[★▲▼◇]?|\[\d\.\d{3}, \d\.\d{3}\]")
    found = [
        [re.sub(r"[ *]", "", each) for each in number.findall(re.sub(r"\*\*|<[^>]*>|\(\w+[^)]*\)", "", part))]
        for part in (page[page.index("<tbody>") : page.index("</tbody>")], text[text.index("| net |") : text.index("\n\n★")])
    ]
    assert len(found[0]) == 2 * 2 * 5  # a number and an interval of two trainers in five columns
    assert found[0] == found[1]


def table_of(columns: int, published: tuple[int, ...] = ()) -> Table:
    heads = tuple(Head(f"c{k}", published=k in published) for k in range(columns))
    line = Line(("a",), tuple(Cell(str(k)) for k in range(columns)))
    return Table("T", ("Model", "Trainer"), heads, (("net", (line,)),), note="N", sources=("S",))


def test_a_table_that_is_wider_than_a_page_keeps_its_first_columns_and_folds_the_others() -> None:
    assert narrow(table_of(WIDEST)) == (table_of(WIDEST), None)
    first, further = narrow(table_of(WIDEST + 3))
    assert further is not None
    assert [head.text for head in first.columns] == [f"c{k}" for k in range(MOST_COLUMNS)]
    assert [head.text for head in (*first.columns, *further.columns)] == [f"c{k}" for k in range(WIDEST + 3)]
    assert [cell.text for cell in further.groups[0][1][0].cells] == [str(k) for k in range(MOST_COLUMNS, WIDEST + 3)]
    assert (first.caption, first.note, further.caption, further.note) == ("T", "N", "T: further columns", "")


def test_published_numbers_stay_beside_those_that_they_are_compared_with() -> None:
    first, further = narrow(table_of(10, published=(MOST_COLUMNS, MOST_COLUMNS + 1)))
    assert [head.text for head in first.columns][-2:] == [f"c{MOST_COLUMNS}", f"c{MOST_COLUMNS + 1}"]
    assert further is not None
    assert len(further.columns) == 2
    assert narrow(table_of(8, published=(6, 7)))[1] is None


READ = {"reader": {"name": "nih_chestxray14", "settings": {}}, "outside": {}}


@pytest.mark.parametrize(
    ("provenance", "reader", "said"),
    [
        ("nih_chestxray14:ffa48457", READ, "NIH ChestX-ray14 (nih_chestxray14:ffa48457)"),
        ("phantom:ba53e79a DRAWN IMAGES, NO PATIENTS", READ, "drawn X-rays (phantom:ba53e79a), no patient"),
        ("phantom:ba53e79a; ham10000:1b68c197", READ, "drawn X-rays (phantom:ba53e79a); HAM10000 (ham10000:1b68c197)"),
        ("my_reader:0123abcd", READ, "my_reader (my_reader:0123abcd)"),
        ("drawn X-rays (phantom), no patient", READ, "drawn X-rays (phantom), no patient"),
        ("<i>x</i>:0123abcd", READ, "<i>x</i>:0123abcd"),
        (
            "medmnist:0123abcd",
            {"reader": {"name": "medmnist", "settings": {"set": "chestmnist"}}, "outside": {}},
            "MedMNIST chestmnist (medmnist:0123abcd)",
        ),
        (
            "table+nih_chestxray14:0123abcd",
            {
                "reader": READ["reader"],
                "outside": {
                    "far": [{"name": "table", "settings": {"csv": "a.csv", "where": {"site": ["b", "c"], "label": ["d"]}}}]
                },
            },
            "table a.csv, site b or c, label d and NIH ChestX-ray14 (table+nih_chestxray14:0123abcd)",
        ),
    ],
)
def test_data_are_called_by_the_name_that_people_know(provenance: str, reader: Any, said: str) -> None:
    assert dataset(provenance, reader) == said


def test_every_reader_of_a_dataset_has_its_name() -> None:
    folder = Path(readers.__path__[0])
    known = {path.stem for path in folder.glob("*.py")} - {"__init__", "listing", "phantom_anatomy", "phantom_patient"}
    assert known - {"table", "medmnist"} == set(DATASETS)
