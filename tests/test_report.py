"""The report of a made-up run folder: its numbers, what is best and what is doubted, and its verdict."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cxr_eval.report.overview import CAPTION
from cxr_eval.report.render import render
from cxr_eval.report.results import number
from cxr_eval.report.tables import main_table
from cxr_eval.report.threats import robust_tables
from cxr_eval.report.verdict import not_tested, verdict
from cxr_eval.store import Run
from cxr_eval.types import Row, RowWarning, SkippedFile
from tests.fake_run import Fake
from tests.report_pages import SMALL, numbers_of_html, numbers_of_markdown, reported, results_of, usual


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return usual(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def md(run: Run) -> str:
    return (run.folder / "report.md").read_text(encoding="utf-8")


# numbers


def test_numbers_of_the_main_table_are_the_means_of_rows_csv_over_seeds(run: Run, html: str) -> None:
    rows = pd.read_csv(run.folder / "rows.csv", keep_default_na=False, na_values=[""])
    columns = ["accuracy", "balanced_accuracy", "auroc"]
    printed = numbers_of_html(html)
    for split in ("test", "kermany"):
        for (model, trainer), part in rows[(rows["split"] == split) & (rows["condition"] == "clean")].groupby(
            ["model", "trainer"]
        ):
            for column, metric in enumerate(columns):
                of_metric = part[part["metric"] == metric]
                value, low, high = (f"{of_metric[end].mean():.3f}" for end in ("value", "low", "high"))
                cell = printed[f"Main results on the set “{split}”", model, trainer, column]
                assert cell.startswith(f"{value} [{low}, {high}]")
                if len(of_metric) == 2:
                    assert cell.endswith(f"seeds {of_metric['value'].min():.3f}–{of_metric['value'].max():.3f}")  # noqa: RUF001
                else:
                    assert cell.endswith("1 of 2 seeds")


def test_every_robust_accuracy_is_printed_as_it_stands_in_rows_csv(run: Run, html: str) -> None:
    rows = pd.read_csv(run.folder / "rows.csv", keep_default_na=False, na_values=[""])
    robust = rows[rows["metric"] == "robust_accuracy"]
    printed = numbers_of_html(html)
    radii = ["0", "0.005", "0.01", "0.02", "8/255"]
    groups = robust.groupby(["model", "trainer", "condition"])
    for (model, trainer, condition), part in groups:
        attack, _, radius = condition.rpartition(":")
        group, by = ("Worst case over all attacks", "radius") if attack == "worst" else (attack, "attack and radius")
        cell = printed[f"Robust accuracy by {by}: {model} on “test”", group, trainer, radii.index(radius)]
        assert cell.startswith(f"{part['value'].mean():.3f} [")
    assert len(groups) == 2 * 3 * 3 * 5


def test_html_and_markdown_print_the_same_numbers(html: str, md: str) -> None:
    of_html, of_md = (
        {key: cell for key, cell in found.items() if key[0] != CAPTION}  # its lines have two names, and one line no group
        for found in (numbers_of_html(html), numbers_of_markdown(md))
    )
    shared = {key for key in of_md if key[0] in {caption for caption, *_ in of_html} and "[" in of_md[key]}
    assert len(shared) > 300
    assert {key: of_md[key] for key in shared} == {key: cell for key, cell in of_html.items() if "[" in cell}


def test_a_number_that_is_not_defined_is_printed_as_such_and_explained(html: str, md: str) -> None:
    of_class = {key: cell for key, cell in numbers_of_html(html).items() if "clean images" in key[0] and key[1] == "covid"}
    assert [cell for key, cell in of_class.items() if key[3] == 1] == [
        "n/a"
    ] * 12  # precision; two sets, two models, three trainers
    assert "n/a: not defined" in html
    assert "n/a: not defined" in md


def test_one_seed_prints_no_interval_between_seeds(tmp_path: Path) -> None:
    html, md = reported(SMALL, tmp_path)
    assert not re.search(r"seeds \d", html + md)
    assert "from one seed" in html
    assert "with one seed" in html


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.12345, "fraction", "0.123"),
        (-0.0001, "1", "0.000"),
        (-0.25, "1", "-0.250"),
        (12.0, "count", "12"),
        (float("nan"), "1", "n/a"),
        (float("inf"), "1", "infinite"),
        (float("-inf"), "1", "-infinite"),
    ],
)
def test_one_function_writes_all_numbers(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_the_mean_over_seeds_leaves_out_the_seeds_where_the_number_is_not_defined() -> None:
    def row(seed: int, value: float, low: float) -> Row:
        return Row(
            "resnet18", "pgd", seed, "test", "clean", "", "accuracy", value, low, 0.9, 10 + seed, "fraction", "higher", ""
        )

    nan = float("nan")
    score = results_of(Fake(seeds=(0, 1, 2)), [row(0, 0.5, 0.4), row(1, 0.7, 0.6), row(2, nan, nan)]).score(
        model="resnet18", trainer="pgd", split="test", metric="accuracy"
    )
    assert score is not None
    assert (score.text, score.interval, score.spread, score.images) == ("0.600", "[0.500, 0.900]", "2 of 3 seeds", "10 to 12")


def test_a_number_without_interval_says_so() -> None:
    rows = [replace(row, low=float("nan"), high=float("nan")) for row in SMALL.rows()]
    table = main_table(results_of(SMALL, rows), "test")
    assert table is not None
    assert {cell.interval for _, lines in table.groups for line in lines for cell in line.cells} == {"[n/a]"}


# best, doubts


def best_of(fake: Fake, caption: str = "main") -> list[tuple[str, int]]:
    """(trainer, column) marked as best."""
    results = results_of(fake)
    table = main_table(results, "test") if caption == "main" else robust_tables(results, "resnet18", "test")[0]
    assert table is not None
    return [
        (line.heads[0], column)
        for _, lines in table.groups[:1]
        for line in lines
        for column, cell in enumerate(line.cells)
        if cell.best
    ]


def test_the_best_of_each_column_is_marked_in_words_too(html: str, md: str) -> None:
    assert best_of(SMALL)[:3] == [("standard", 0), ("standard", 1), ("standard", 2)]
    assert ("pgd", 6) in best_of(SMALL)
    assert '★</span><span class="hidden"> (best)</span>' in html
    assert "** ★" in md


def test_a_number_that_failed_a_check_is_never_marked_best() -> None:
    doubt = RowWarning("x", "fail", "resnet18, pgd, seed 0, pgd:0.02", "A check failed.")
    column = 4 + SMALL.radii.index("0.02")
    assert ("pgd", column) in best_of(SMALL)
    assert ("pgd", column) not in best_of(replace(SMALL, warnings=(doubt,)))


def test_nothing_is_best_where_all_are_equal() -> None:
    rows = [replace(row, value=0.5) for row in SMALL.rows()]
    table = main_table(results_of(SMALL, rows), "test")
    assert table is not None
    assert not any(cell.best for _, lines in table.groups for line in lines for cell in line.cells)


@pytest.mark.parametrize(
    ("scope", "condition", "trainer", "holds"),
    [
        ("resnet18, pgd, seed 0, pgd:0.02", "pgd:0.02", "pgd", True),
        ("resnet18, pgd, seed 0, pgd:0.02", "worst:0.02", "pgd", True),
        ("resnet18, pgd, seed 0, pgd:0.02", "pgd:0.01", "pgd", False),
        ("resnet18, pgd, seed 0, pgd:0.02", "pgd:0.02", "standard", False),
        ("resnet18, standard, seed 0, pgd", "pgd:0.01", "standard", True),
        ("resnet18, standard, seed 0, pgd", "worst:0.01", "standard", True),
        ("resnet18 / standard / seed 0, test, worst:0.01", "worst:0.01", "standard", True),
        ("resnet18 / standard / seed 0", "pgd:0.01", "standard", True),
        ("resnet18 / standard / seed 0, kermany, pgd", "pgd:0.01", "standard", False),
        ("test", "pgd:0.02", "pgd", False),
        ("kermany", "pgd:0.02", "pgd", False),
        ("run", "pgd:0.02", "pgd", False),
    ],
)
def test_a_warning_marks_the_numbers_in_its_scope_and_the_worst_case_with_them(
    scope: str, condition: str, trainer: str, holds: bool
) -> None:
    fake = replace(SMALL, outside=("kermany",), warnings=(RowWarning("x", "warn", scope, "?"),))
    score = results_of(fake).score(
        model="resnet18", trainer=trainer, split="test", condition=condition, metric="robust_accuracy"
    )
    assert score is not None
    assert bool(score.doubts) == holds


def test_all_warnings_are_printed_by_level_with_what_they_hold_for(html: str, md: str) -> None:
    for text in (html, md):
        assert "A check failed." in text
        assert text.index("A check failed.") < text.index("One hospital only.")
        assert "resnet18, standard, seed 0, pgd:0.02" in text
        assert "the whole run" in text


def test_failed_networks_and_skipped_files_are_listed(html: str, md: str) -> None:
    for text in (html, md):
        assert "Networks that failed: 1 of 12" in text
        assert "the loss is not finite at epoch 3, batch 12 of 40" in text
        assert "images/9.png" in text
    assert "1 of which failed" in html


def test_every_skipped_file_is_listed(tmp_path: Path) -> None:
    skipped = tuple(SkippedFile("table", f"picture-{number}.png", "not an image") for number in range(300))
    written = Fake(skipped=skipped).write(tmp_path)
    render(written)
    for name in ("report.html", "report.md"):
        text = (written.folder / name).read_text(encoding="utf-8")
        assert all(f"picture-{number}.png" in text or f"picture\\-{number}.png" in text for number in range(300))


# verdict


def test_the_verdict_names_highest_and_lowest_in_three_sentences_at_most() -> None:
    sentences = verdict(results_of(replace(SMALL, drawn=False)))
    assert len(sentences) == 3
    assert sentences[0] == (
        "On clean images of “test” (n = 100), accuracy is from 0.874 [0.829, 0.919] (pgd) "
        "to 0.910 [0.867, 0.953] (standard), not compared with each other, with overlapping intervals."
    )
    assert sentences[1].startswith(
        "Robust accuracy in the worst case over 1 attack (pgd), an upper bound: at radius 8/255 (n = 100) it is"
    )
    assert "; at radius 0.02 (n = 100) it is from" in sentences[1]
    assert sentences[2].startswith("On clean images (n = 44), the relevance mass in lesion of attribution maps is from")


def test_the_verdict_leaves_out_what_failed_a_check() -> None:
    one = verdict(results_of(replace(SMALL, warnings=(RowWarning("x", "fail", "standard, pgd:0.02", "?"),))))[1]
    assert "leaving out 1 number on which a check failed" in one
    both = tuple(RowWarning("x", "fail", f"{trainer}, pgd", "?") for trainer in SMALL.trainers)
    all_ = verdict(results_of(replace(SMALL, warnings=both)))[1]
    assert all_.count("not claimed, because a check failed") == 2
    assert not re.search(r"0\.\d{3}", all_)


def test_the_verdict_mentions_warnings_on_the_numbers_it_gives() -> None:
    doubted = verdict(results_of(replace(SMALL, warnings=(RowWarning("x", "warn", "standard, accuracy", "?"),))))
    assert doubted[0].endswith("with overlapping intervals, with warnings.")


def test_the_verdict_of_drawn_images_says_that_they_are_drawn() -> None:
    assert verdict(results_of(SMALL))[0].startswith("On drawn images of no patient (n = 100), ")


def test_a_run_without_any_number_claims_nothing(tmp_path: Path) -> None:
    fake = replace(SMALL, failed=tuple(("resnet18", trainer, 0) for trainer in SMALL.trainers), images=0)
    assert verdict(results_of(fake, [])) == ["Nothing was measured: every network failed."]
    html, md = reported(fake, tmp_path)
    assert "Networks that failed: 2 of 2" in html
    assert "Nothing was measured." in md


def test_what_was_not_tested_follows_from_the_protocol() -> None:
    little = " ".join(not_tested(results_of(replace(SMALL, attacks=(), explainers=()))))
    for words in (
        "none was run",
        "Other hospitals",
        "with one seed",
        "what the networks look at",
        "Calibration",
        "Corruptions",
    ):
        assert words in little
    attacked = " ".join(not_tested(results_of(SMALL)))
    assert "up to radius 8/255 (8 of 255 grey levels)" in attacked
    assert "do without gradients" in attacked
    assert "no randomisation metric" in attacked
    black_box = " ".join(not_tested(results_of(replace(SMALL, attacks=("art/SquareAttack",)))))
    assert "do without gradients" not in black_box
    more = " ".join(not_tested(results_of(replace(SMALL, outside=("kermany",), seeds=(0, 1), conditions=("clean",)))))
    assert "Attacks on the sets kermany" in more
    assert "Explanations of attacked images." in more
    assert "Other hospitals" not in more
    assert "one seed" not in more
