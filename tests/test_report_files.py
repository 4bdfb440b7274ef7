"""The files of a report: what is missing and what is hostile in a run folder, what is written, and pictures of the gallery."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_eval.errors import RunError
from cxr_eval.report import gallery, pictures
from cxr_eval.report.render import render
from cxr_eval.report.results import one_line, plain
from cxr_eval.report.tables import fill, localisation, main_table
from cxr_eval.report.verdict import verdict
from cxr_eval.report.words import duration, fence, markdown, settings
from cxr_eval.store import Audit, Gallery, Run, write_audit
from cxr_eval.types import RowWarning, SkippedFile
from tests.fake_run import HOSTILE, Fake
from tests.report_pages import SMALL, Page, reported, results_of, usual


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return usual(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def md(run: Run) -> str:
    return (run.folder / "report.md").read_text(encoding="utf-8")


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
    assert "AUROC is from 0." in verdict(results)[0]


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
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "b", "i")]
    assert [tag for tag, _ in page.tags].count("script") == 1  # ours
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
    for _, attrs in page.tags:  # gallery.html is linked where there is one; here all images fit the page
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert "@import" not in html
    (policy,) = (attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


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
    with pytest.raises(RunError, match="report: expected formats among html, md, csv, json, latex, pdf, got 'docx'"):
        render(SMALL.write(tmp_path), ("docx",))


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
