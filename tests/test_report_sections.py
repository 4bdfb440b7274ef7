"""The sections of a report as a whole, in both forms."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cxr_eval.report.render import render
from cxr_eval.report.tables import MOST_NUMBERS
from cxr_eval.types import RowWarning
from tests.evidence import (
    L2,
    NAN,
    REFERENCES,
    TWO,
    both_seeds,
    check,
    difference,
    gap,
    lead,
    referred,
    row,
)
from tests.report_pages import Page, numbers_of_html, numbers_of_markdown

WHOLE = replace(
    TWO,
    more_rows=(
        *L2,
        *both_seeds("ece", 0.1, better="lower"),
        *REFERENCES,
        *lead("lung", 0.1, "standard", "higher"),
        *both_seeds("accuracy", 0.8, subgroup="sex=F"),
        *both_seeds("robust_after_steps[1]", 0.5, condition="convergence:0.02"),
    ),
    later={
        "checks": pd.DataFrame([check("PASS"), check("FAIL", title="Outputs are logits")]),
        "differences": pd.DataFrame([difference("accuracy", 0.1, 0.01), difference("auroc", NAN, NAN, low=NAN, high=NAN)]),
        "gaps": pd.DataFrame([gap("F", -0.1, 0.01), gap("F", NAN, NAN, metric="auroc", note="withheld")]),
    },
)
SECTIONS = (
    "Overview",
    "Warnings",
    "Main results",
    "May the robust accuracies be believed?",
    "Robustness to attacks",
    "Trainers at a glance",
    "Differences between trainers",
    "Clinical scores",
    "Scores by class",
    "Corruptions",
    "Explanations",
    "What is read where",
    "Subgroups",
    "Tables as in the papers",
    "Training",
    "What was not tested",
    "Checklists and cards",
    "How it was made",
)
TIMES = "\u00d7"
ANSWERS = ("Which trainer?", "How sure?", "What was not tested?")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """HTML, Markdown and folder of a run that has everything."""
    folder = tmp_path_factory.mktemp("whole")
    written = render(WHOLE.write(folder))
    return written["html"].read_text(encoding="utf-8"), written["md"].read_text(encoding="utf-8"), folder


def test_sections_stand_in_order_in_both_forms(whole: tuple[str, str, Path]) -> None:
    html, md, _ = whole
    assert re.findall(r"<h2 id[^>]*>(.*?)</h2>", html) == [*ANSWERS, *SECTIONS]
    assert re.findall(r"^\*\*([^*]*\?)\*\* ", md, flags=re.MULTILINE) == list(ANSWERS)
    assert re.findall(r"^## (.*)$", md, flags=re.MULTILINE)[1:] == list(SECTIONS)


def test_both_forms_hold_the_same_tables_and_numbers_and_nothing_reads_nan(whole: tuple[str, str, Path]) -> None:
    html, md, folder = whole
    page, of_html, of_md = Page(html), numbers_of_html(html), numbers_of_markdown(md)
    cards = [(folder / f"{name}_card.md").read_text(encoding="utf-8") for name in ("model", "data")]
    for caption in page.tables:
        assert any(f"**{caption}**" in text.replace("\\", "") for text in (md, *cards))
    shared = {key for key in of_md if key in of_html and "[" in of_md[key]}
    assert len(shared) > 100
    assert {key: of_md[key] for key in shared} == {key: of_html[key] for key in shared}
    assert not re.search(r"\bnan\b", " ".join(page.words) + md)


def test_verdicts_of_checks_are_words_beside_their_colour(whole: tuple[str, str, Path]) -> None:
    html, md, _ = whole
    assert '<span class="level level-fail">failed</span>' in html
    assert "| **failed** |" in md


def test_every_figure_of_the_new_sections_is_a_file_beside_the_markdown(whole: tuple[str, str, Path]) -> None:
    _, md, folder = whole
    named = set(re.findall(r"\]\(figures/([^)]+)\)", md))
    assert {"bands-0-0.svg", "convergence-0-0-0.svg", "robust-0-0-t1-0.svg"} <= named
    assert {path.name for path in (folder / "figures").iterdir()} == named


def test_a_folder_of_an_older_version_lacks_the_new_sections_and_renders(tmp_path: Path) -> None:
    run = replace(TWO, attack_settings={}).write(tmp_path)
    rows = pd.read_csv(tmp_path / "rows.csv", dtype=str, keep_default_na=False)
    rows.drop(columns=["subgroup", "note"]).to_csv(tmp_path / "rows.csv", index=False, lineterminator="\n")
    text = render(run)["html"].read_text(encoding="utf-8")
    there = re.findall(r"<h2 id[^>]*>(.*?)</h2>", text)
    assert "Robustness to attacks" in there
    assert not {"Differences between trainers", "Clinical scores", "Subgroups", "What is read where", SECTIONS[3]} & set(there)


def test_names_and_sentences_of_the_new_tables_are_text_and_never_markup(tmp_path: Path) -> None:
    said = "<script>alert(1)</script> | [x](javascript:alert(1)) $x^2$"
    lines = [check("FAIL", title=said) | {"sentence": said}, check("FAIL", title=said, kind="self_test") | {"sentence": said}]
    fake = replace(
        WHOLE,
        more_rows=(
            *WHOLE.more_rows,
            *referred(f"randomised({said})", 0.3),
            *lead(said, 0.1, "fgsm", "higher"),
            *both_seeds("accuracy", 0.5, subgroup=f"site={said}"),
            row("ece", NAN, low=NAN, high=NAN, subgroup=f"site={said}", note=said),
            row("robust_accuracy", 0.2, condition=f"worst(hide {said}):0.02"),
            row(f"broken_by[pgd {said}]", 0.2, condition="worst:0.02"),
        ),
        later={
            "checks": pd.DataFrame(lines),
            "differences": pd.DataFrame([difference("accuracy", NAN, NAN, note=said)]),
            "gaps": pd.DataFrame([gap(said, -0.1, 0.01, column=said), gap(said, NAN, NAN, metric=said, note=said)]),
        },
    )
    written = render(fake.write(tmp_path))
    html, md = (path.read_text(encoding="utf-8") for path in written.values())
    assert not [tag for tag, _ in Page(html).tags if tag == "script"]
    assert said in " ".join(Page(html).words)
    outside_code = re.sub(r"^(`{3,})\n.*?^\1$", "", md, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside_code
    assert not re.search(r"(?<!\\)\]\(javascript", outside_code)
    for table in re.findall(r"(?:^\|.*\n)+", outside_code, flags=re.MULTILINE):  # no name ends a column
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    for figure in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text(encoding="utf-8")


def test_warnings_are_one_line_a_kind_with_their_number_and_the_worst_kinds_come_first(tmp_path: Path) -> None:
    many = [RowWarning("beaten", "warn", f"net / fgsm / seed {seed}", f"The map of seed {seed}.") for seed in range(4)]
    few = [RowWarning("idle", "fail", "run", "Nothing learned."), *(RowWarning("end", "note", "run", f"N{k}.") for k in (1, 2))]
    html, md = (
        path.read_text(encoding="utf-8") for path in render(replace(TWO, warnings=(*many, *few)).write(tmp_path)).values()
    )
    section = html[html.index('<h2 id="warnings">') : html.index('<h2 id="main-results">')]
    lines = [re.sub(r"<[^>]*>", "", line) for line in re.findall(r"<summary>(.*?)</summary>", section)]
    assert lines == [f"Failed check 1 {TIMES} Nothing learned.", f"Warning 4 {TIMES} The map of seed 0.", f"Note 2 {TIMES} N1."]
    assert "1 failed check, 1 warning, 1 note, one line a kind" in section
    opened = re.sub(r"<summary>.*?</summary>", "", section)
    assert re.findall(r"The map of seed \d|N\d\.", opened) == [*(f"The map of seed {seed}" for seed in range(4)), "N1.", "N2."]
    assert "Holds for: net / fgsm / seed 2 (beaten)" in opened
    assert md.count("The map of seed") == 4


def test_rendering_for_the_page_alone_gives_the_same_page(whole: tuple[str, str, Path], tmp_path: Path) -> None:
    alone = render(WHOLE.write(tmp_path), ("html",))["html"].read_text(encoding="utf-8")
    assert alone == whole[0]
    assert not (tmp_path / "figures").exists()


def test_a_table_of_many_lines_stands_folded_with_their_number_and_the_main_results_never(tmp_path: Path) -> None:
    trainers = tuple(f"t{k}" for k in range(MOST_NUMBERS // 3 + 1))  # three classes
    html = render(replace(TWO, trainers=trainers, seeds=(0,)).write(tmp_path), ("html",))["html"].read_text(encoding="utf-8")
    folded = re.findall(r"<summary>([^<]*) \((\d+) lines\)</summary>", html)
    assert ("Scores by class of net on “test”: clean images", str(3 * len(trainers))) in folded
    assert not [caption for caption, _ in folded if "Main results" in caption or "Robust accuracy by radius" in caption]
