"""The report of a made-up run folder: its numbers, its words, what it does with names and with what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_eval.errors import RunError
from cxr_eval.report import gallery, pictures
from cxr_eval.report.render import render
from cxr_eval.report.results import Results, number, one_line, plain
from cxr_eval.report.tables import fill, localisation, main_table, robust_table
from cxr_eval.report.verdict import not_tested, verdict
from cxr_eval.report.words import duration, fence, markdown, settings
from cxr_eval.store import Audit, Gallery, Run, write_audit
from cxr_eval.types import Row, RowWarning, SkippedFile
from tests.fake_run import HOSTILE, Fake

SMALL = Fake(
    models=("resnet18",), trainers=("standard", "pgd"), seeds=(0,), attacks=("pgd",), images=1, corruptions=(), outside=()
)
FAILED_CHECK = RowWarning("x", "fail", "resnet18, standard, seed 0, pgd:0.02", "A check failed.")


class Page(HTMLParser):
    """Tables, tags and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._cell: list[str] | None = None
        self._caption = ""
        self._skip = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("style", "title", "script")
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("th", "td", "caption"):
            self._cell = []
        if tag == "span" and self._cell is not None:
            self._cell.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("style", "title", "script")
        if tag in ("th", "td", "caption") and self._cell is not None:
            text = " ".join("".join(self._cell).split())
            if tag == "caption":
                self._caption = text
                self.tables[text] = []
            else:
                self.tables[self._caption][-1].append(text)
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if not self._skip and data.strip():
            self.words.append(" ".join(data.split()))


def numbers_of_html(text: str) -> dict[tuple[str, str, str, int], str]:
    """(caption, group, line, column) -> number, interval and range, as printed."""
    found = {}
    for caption, lines in Page(text).tables.items():
        group = ""
        for line in lines[1:]:
            if len(line) == 1:
                group = line[0]
            for column, cell in enumerate(line[1:]):
                shown = cell.replace("★", "").replace("(best)", "").replace("†", "")
                found[caption, group, line[0], column] = " ".join(shown.split())
    return {key: cell for key, cell in found.items() if re.match(r"[\d.n/a—-]+( \[|$)", cell)}


def numbers_of_markdown(text: str) -> dict[tuple[str, str, str, int], str]:
    """The same of a Markdown report."""
    found, caption = {}, ""
    for line in text.splitlines():
        if line.startswith("**") and line.endswith("**"):
            caption = line.strip("*").replace("\\", "")
        if line.startswith("| ") and " --- " not in line:
            group, name, *cells = (part.strip().replace("\\", "") for part in line.strip("|").split(" |"))
            for column, cell in enumerate(cells):
                shown = cell.replace("*", "").replace("★", "").replace("†", "").replace(";", "")
                found[caption, group, name, column] = " ".join(shown.split())
    return {key: cell for key, cell in found.items() if re.match(r"[\d.n/a—-]+( \[|$)", cell)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two models, three trainers, two seeds; one cell failed."""
    fake = Fake(
        failed=(("densenet121", "pgd", 1),),
        warnings=(FAILED_CHECK, RowWarning("one_source", "warn", "run", "One hospital only.")),
        skipped=(SkippedFile("phantom", "images/9.png", "not an image"),),
    )
    written = fake.write(tmp_path_factory.mktemp("run"))
    render(written)
    return written


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def md(run: Run) -> str:
    return (run.folder / "report.md").read_text(encoding="utf-8")


def results_of(fake: Fake, rows: list[Row] | None = None) -> Results:
    """What a report reads of a made-up run, without its folder."""
    return Results(pd.DataFrame(fake.rows() if rows is None else rows), fake.manifest(), fake.warnings)


def reported(fake: Fake, folder: Path) -> tuple[str, str]:
    """HTML and Markdown of a made-up run."""
    written = render(fake.write(folder))
    return written["html"].read_text(encoding="utf-8"), written["md"].read_text(encoding="utf-8")


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
        group = "Worst case over all attacks" if attack == "worst" else attack
        cell = printed[f"Robust accuracy of {model} on “test” by radius", group, trainer, radii.index(radius)]
        assert cell.startswith(f"{part['value'].mean():.3f} [")
    assert len(groups) == 2 * 3 * 3 * 5


def test_html_and_markdown_print_the_same_numbers(html: str, md: str) -> None:
    of_html, of_md = numbers_of_html(html), numbers_of_markdown(md)
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
    table = main_table(results, "test") if caption == "main" else robust_table(results, "resnet18", "test")
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


def test_the_verdict_names_best_and_worst_in_three_sentences_at_most() -> None:
    sentences = verdict(results_of(replace(SMALL, drawn=False)))
    assert len(sentences) == 3
    assert sentences[0] == (
        "On clean images of “test” (n = 100), accuracy is at best 0.910 [0.867, 0.953] (standard) "
        "and at worst 0.874 [0.829, 0.919] (pgd), with overlapping intervals."
    )
    assert sentences[1].startswith(
        "Robust accuracy in the worst case over 1 attack (pgd), an upper bound: at radius 8/255 (n = 100) it is"
    )
    assert "; at radius 0.02 (n = 100) it is at best" in sentences[1]
    assert sentences[2].startswith("On clean images (n = 44), the relevance mass in lesion of attribution maps is at best")


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


# what is missing, what is hostile


def test_the_first_line_says_loudly_that_images_are_drawn(html: str, md: str) -> None:
    assert Page(html).words[0].startswith("DEMONSTRATION: these are drawn images of no patient")
    assert md.splitlines()[0].startswith("**DEMONSTRATION: these are drawn images of no patient")


def test_a_run_on_real_images_has_no_demonstration_notice(tmp_path: Path) -> None:
    html, md = reported(replace(SMALL, drawn=False), tmp_path)
    assert "DEMONSTRATION" not in html + md
    assert Page(html).words[0] == "Skip to the results"
    assert md.startswith("# Which training")


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (replace(SMALL, images=0), "Explanation metrics of resnet18"),
        (replace(SMALL, attacks=(), conditions=("clean",)), "No attack was run"),
        (replace(SMALL, explainers=(), images=0), "No explanations were made"),
        (replace(SMALL, metrics=()), "the gallery shows pictures, not evidence"),
        (replace(SMALL, title=None), "# fake"),
    ],
    ids=["no gallery", "no attacks", "no explanations", "no explanation metrics", "no title"],
)
def test_what_a_protocol_leaves_out_is_said_in_a_sentence(fake: Fake, said: str, tmp_path: Path) -> None:
    html, md = reported(fake, tmp_path)
    assert said in md
    assert said.removeprefix("# ") in html


def test_a_task_with_several_findings_an_image_shows_auroc(tmp_path: Path) -> None:
    rows = [row for row in SMALL.rows() if row.metric.startswith("auroc")]
    results = results_of(SMALL, rows)
    table = main_table(results, "test")
    assert table is not None
    assert [head.text for head in table.columns] == ["AUROC"]
    assert "AUROC is at best" in verdict(results)[0]


def test_localisation_prefers_the_lesion_and_falls_back_to_what_there_is() -> None:
    assert localisation(results_of(SMALL))[0] == ("test", "clean", "gradcam", "relevance_mass[lesion]")
    lungs = replace(SMALL, metrics=("pixel_flipping", "pointing_game[lung]"))
    assert localisation(results_of(lungs))[0][3] == "pointing_game[lung]"
    assert localisation(results_of(replace(SMALL, metrics=("pixel_flipping",)))) == []


def test_names_are_shown_as_text_and_never_as_markup(tmp_path: Path) -> None:
    fake = replace(
        SMALL,
        models=HOSTILE[:1],
        # a lone surrogate cannot be written to a file at all, so names on disk have none
        trainers=(HOSTILE[1], HOSTILE[2].replace("\ud800", "")),
        attacks=HOSTILE[3:4],
        explainers=HOSTILE[4:],
        classes=(HOSTILE[0], HOSTILE[1], HOSTILE[3]),
        conditions=("clean",),
        title=HOSTILE[0],
        warnings=(RowWarning("code", "warn", HOSTILE[3], HOSTILE[0]),),
        skipped=(SkippedFile(HOSTILE[0], HOSTILE[1], HOSTILE[3]),),
    )
    html, md = reported(fake, tmp_path)
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "b", "i")]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    text = " ".join(page.words)
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[4]):
        assert one_line(name) in text
    assert "{{ 7*7 }}" in text
    for character in "\x00\x1b\u202e":
        assert character not in html + md
    outside_code = re.sub(r"^(`{3,})\n.*?^\1$", "", md, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside_code
    assert not re.search(r"(?<!\\)\]\(javascript", outside_code)
    tables = re.findall(r"(?:^\|.*\n)+", outside_code, flags=re.MULTILINE)
    assert len(tables) > 10
    for table in tables:  # no name ends a column
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    for figure in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text(encoding="utf-8")


def test_text_shows_itself_only() -> None:
    assert plain("a\x00b\u202ec\ud800\nd") == "a\ufffdb\ufffdc\ufffd\nd"
    assert one_line(" a\n b\t c ") == "a b c"
    assert one_line("n" * 300, 10) == "n" * 9 + "…"
    assert markdown("a|b <i> [c](d) `e` *f* $g$\nh & \\") == ("a\\|b &lt;i&gt; \\[c\\](d) \\`e\\` \\*f\\* \\$g\\$ h &amp; \\\\")
    assert fence("a\n````\nb\n") == "`````\na\n````\nb\n`````"
    assert settings({"eps": 0.02, "steps": 10}) == "eps = 0.02, steps = 10"
    assert settings({"optimizer": {"name": "adam", "lr": 0.001}, "eps": (0.01, 0.02), "images": None, "flip": True}) == (
        "optimizer = {name: adam, lr: 0.001}, eps = [0.01, 0.02], flip = true"
    )
    assert settings({}) == "none"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "not known"), (4.25, "4.2 s"), (725, "12 min 05 s"), (12_000, "3 h 20 min")]
)
def test_times_are_said_as_a_person_says_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


# the files


def test_rendering_twice_gives_the_same_bytes(run: Run) -> None:
    files = [run.folder / "report.html", run.folder / "report.md", *sorted((run.folder / "figures").iterdir())]
    before = [path.read_bytes() for path in files]
    render(Run.open(run.folder))
    assert [path.read_bytes() for path in files] == before


def test_the_page_is_one_file_that_asks_for_nothing_outside_itself(html: str) -> None:
    page = Page(html)
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert "@import" not in html
    (policy,) = (attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_reference_within_the_page_has_its_target_once(html: str) -> None:
    page = Page(html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {
        attrs[name] for _, attrs in page.tags for name in ("href", "xlink:href") if (attrs.get(name) or "").startswith("#")
    }
    assert {str(name).removeprefix("#") for name in wanted} <= set(ids)


def test_every_picture_has_words(html: str) -> None:
    pictured = [attrs for _, attrs in Page(html).tags if attrs.get("role") == "img"]
    assert len(pictured) > 50
    assert all(attrs["aria-label"] for attrs in pictured)
    answers = [attrs["aria-label"] for attrs in pictured if "Image: " in str(attrs["aria-label"])]
    assert any("✗ wrong, true class 0.055" in str(answer) for answer in answers)
    assert any("✓ right" in str(answer) for answer in answers)


def test_markdown_names_only_figures_that_are_there_and_old_ones_go(run: Run, md: str) -> None:
    named = set(re.findall(r"\]\(figures/([^)]+)\)", md))
    stale = run.folder / "figures" / "robust-9-9-9.svg"
    stale.write_text("old")
    render(run)
    assert {path.name for path in (run.folder / "figures").iterdir()} == named


AUDIT_TABLES = (
    "sets",
    "patients_across",
    "counts",
    "recognised",
    "label_from",
    "reversals",
    "associations",
    "regions",
    "duplicates",
)


def test_the_audit_of_the_images_stands_after_the_results_where_the_run_has_one(tmp_path: Path) -> None:
    run = SMALL.write(tmp_path)
    suspect = {"code": "inverted_images", "why": "nearly black", "split": "test", "image_id": "7.png", "picture": "p7"}
    suspect |= {"other_split": "", "other_image_id": "", "other_picture": ""}
    tables: dict[str, list[dict[str, object]]] = {key: [] for key in AUDIT_TABLES} | {
        "found": [{"code": "inverted_images", "count": 1}]
    }
    content = {"tables": tables, "suspects": [suspect], "warnings": [], "skipped": [], "loaded": []}
    write_audit(run.folder, Audit(content, {"p7": np.zeros((8, 8), dtype=np.uint8)}))
    html, md = (path.read_text(encoding="utf-8") for path in render(run).values())
    for text in (html, md):
        assert text.index("Audit of the images") < text.index("Copies under two patients were not looked for.")
        assert text.index("nearly black") > text.index("Main results on the set")
    assert '<a href="#audit">Audit of the images</a>' in html
    assert "figures/audit-p7.png" in md
    assert (tmp_path / "figures" / "audit-p7.png").is_file()


def test_a_run_folder_without_an_audit_has_no_section_of_it(html: str, md: str) -> None:
    assert "Audit of the images" not in html + md


def test_formats_that_are_asked_for_are_written_and_no_others(tmp_path: Path) -> None:
    run = SMALL.write(tmp_path)
    assert render(run, ("csv",)) == {"csv": tmp_path / "rows.csv"}
    assert not (tmp_path / "report.html").exists()
    assert render(run, ("html",)) == {"html": tmp_path / "report.html"}
    assert not (tmp_path / "figures").exists()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="report: expected formats among html, md, csv, got 'pdf'"):
        render(SMALL.write(tmp_path), ("pdf",))


def test_a_run_folder_that_lost_a_file_is_refused_by_name(tmp_path: Path) -> None:
    run = SMALL.write(tmp_path)
    (tmp_path / "history.csv").unlink()
    with pytest.raises(RunError, match=r"history\.csv is missing; run the protocol again"):
        render(run)


def test_a_report_is_rendered_without_torch_art_and_monai(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    code = (
        "import sys\n"
        "for name in ('torch', 'art', 'monai', 'quantus', 'torchvision', 'captum'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from cxr_eval.report.render import render\n"
        "from cxr_eval.store import Run\n"
        f"print(sorted(render(Run.open(Path({str(tmp_path)!r})))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['html', 'md']", done.stderr


# pictures


def test_a_perturbation_of_nothing_is_mid_grey_and_larger_ones_are_clipped() -> None:
    change = np.array([[0.0, 0.02], [-0.02, 0.04]])
    shown = np.asarray(pictures.perturbation_picture(change, 25, 2).rgba())[..., 0]
    np.testing.assert_array_equal(shown, [[128, 255], [0, 255]])


def test_an_attacked_image_is_the_clean_one_plus_the_perturbation_in_valid_pixels() -> None:
    clean = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    shown = np.asarray(pictures.attacked(clean, np.array([[-0.1, 2 / 255], [-2 / 255, 0.1]]), 2).rgba())[..., 0]
    np.testing.assert_array_equal(shown, [[0, 102], [198, 255]])


def test_a_map_layer_is_clear_at_zero_and_most_opaque_at_its_maximum() -> None:
    layer = pictures.map_layer(np.linspace(0, 1, 100).reshape(10, 10), 10)
    assert layer is not None
    opacity = np.asarray(layer.rgba())[..., 3].ravel()
    assert opacity[0] == 0
    assert opacity[-1] == round(255 * pictures.OPAQUE) or opacity[-1] == int(255 * pictures.OPAQUE)
    assert (np.diff(opacity.astype(int)) >= 0).all()


def test_what_speaks_against_a_class_has_another_colour() -> None:
    layer = pictures.map_layer(np.array([[-1.0, 0.0], [0.0, 1.0]]), 2)
    assert layer is not None
    shown = np.asarray(layer.rgba()).astype(int)
    assert shown[0, 0, 2] > shown[0, 0, 0]  # blue
    assert shown[1, 1, 0] > shown[1, 1, 2]  # yellow


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.ones((4, 4)), np.full((4, 4), np.nan)])
def test_a_map_that_says_nothing_has_no_layer(values: np.ndarray[Any, Any]) -> None:
    assert pictures.map_layer(values, 4) is None


def test_the_outline_of_a_block_runs_around_it_also_at_the_edge_of_the_image() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[0:3, 2:5] = True
    (line,) = pictures.outline(mask)
    assert (line.min(axis=0) == [2.0, 0.0]).all()
    assert (line.max(axis=0) == [5.0, 3.0]).all()
    assert pictures.path([line]).startswith("M")
    assert pictures.path([line]).endswith("Z")
    assert pictures.outline(np.zeros((8, 8), dtype=bool)) == []


def test_pictures_shrink_and_then_drop_out_to_fit_the_budget() -> None:
    fake = replace(SMALL, images=4, side=160)
    results, made = results_of(fake), fake.gallery()

    def size(shown: gallery.Pictures) -> int:
        return sum(len(layer.png) for entry in shown.shown for layer in entry.layers.values())

    whole = gallery.build(made, results)
    assert (whole.side, whole.left_out) == (160, 0)
    smaller = gallery.build(made, results, budget=size(whole) // 2)
    assert gallery.SMALLEST <= smaller.side < 160
    assert smaller.left_out == 0
    assert size(smaller) <= size(whole) // 2
    fewer = gallery.build(made, results, budget=size(whole) // 8)
    assert fewer.side == gallery.SMALLEST
    assert fewer.left_out > 0
    assert len(fewer.shown) + fewer.left_out == 4


def test_one_factor_amplifies_the_perturbations_of_all_trainers(html: str) -> None:
    assert len(set(re.findall(r"perturbation ×([\d.]+)", html))) == 1  # noqa: RUF001
    assert "perturbation ×25" in html  # noqa: RUF001  # 0.5 / 0.02


def test_no_table_is_made_of_nothing() -> None:
    from cxr_eval.report.tables import Layout

    layout = Layout(
        "",
        ("", ""),
        [("A", {"metric": "nothing"})],
        [("", {"model": "resnet18", "trainer": "pgd", "split": "test"}, [((), {})])],
    )
    assert fill(results_of(SMALL), layout) is None


def test_the_gallery_shows_colour_perturbations_on_grey_images_and_findings_without_one_answer() -> None:
    made = replace(SMALL, side=16).gallery()
    panel = made.entries[0]["panels"][1]
    arrays = dict(made.arrays) | {panel["perturbation"]: np.full((16, 16, 3), 0.01, dtype=np.float16)}
    entry = made.entries[0] | {
        "label": None,
        "panels": [panel | {"predicted": None, "probability": None, "probability_label": None}],
    }
    (shown,) = gallery.build(Gallery([entry], arrays), results_of(SMALL)).shown
    assert shown.label == ""
    (sheet,) = shown.sheets
    views = {strip.sub: strip.views[0] for strip in sheet.strips}
    assert views["image"] is not None
    assert views["image"].said == ()
    assert np.asarray(shown.layers[views["image"].base].rgba()).shape == (16, 16, 4)


def test_the_gallery_shows_one_seed_of_each_model_the_first_that_most_trainers_have() -> None:
    fake = replace(SMALL, seeds=(7, 3), side=16)
    made = fake.gallery()
    panels = made.entries[0]["panels"]
    both = panels[1:] + [panel | {"seed": 3} for panel in panels]
    (shown,) = gallery.build(Gallery([made.entries[0] | {"panels": both}], made.arrays), results_of(fake)).shown
    assert [sheet.seed for sheet in shown.sheets] == [3]
    both = panels + [panel | {"seed": 3} for panel in panels]
    (shown,) = gallery.build(Gallery([made.entries[0] | {"panels": both}], made.arrays), results_of(fake)).shown
    assert [sheet.seed for sheet in shown.sheets] == [7]
