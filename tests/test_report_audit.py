"""The audit as people read it: its page and its section say what was found, and names in it are text."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_eval.report.audit import section, write
from cxr_eval.report.environment import environment
from cxr_eval.store import Audit, read_audit, write_audit


def suspect(code: str, image: str, **more: str) -> dict[str, str]:
    empty = dict.fromkeys(("other_split", "other_image_id", "picture", "other_picture"), "")
    return {"split": "train", "image_id": image, "code": code, "why": f"Because of {code}.", **empty, **more}


def fake(**changes: Any) -> Audit:
    """An audit with a pair, an inverted image without picture, a reversal and a recognised source."""
    pair = suspect("near_duplicates", "one", other_split="test", other_image_id="two", picture="p0", other_picture="p1")
    answer = {"values": ["a", "b"], "chance": 0.5, "score": 0.9612, "images": 1200, "patients": 80}
    tables: dict[str, Any] = {
        "sets": [
            *({"split": split, "reader": "table", "images": 1000, "patients": 90} for split in ("train", "test")),
        ],
        "left_out": [{"dataset": "train", "reader": "table", "reason": "a lateral view", "images": 7}],
        "patients_across": [{"split": "train", "other": "test", "patients": 0}],
        "counts": [
            {"column": "view", "value": "AP", "split": "train", "images": 9, "patients": 8, "classes": {"a": 4, "b": 5}}
        ],
        "associations": [
            {
                "column": "view",
                "split": "train",
                "class": "a",
                "strength": 0.31,
                "value": "AP",
                "share_in": 0.7,
                "share_out": 0.4,
            }
        ],
        "reversals": [
            {
                "column": "view",
                "split": "away",
                "class": "a",
                "value": "AP",
                "train_in": 0.71,
                "train_out": 0.42,
                "there_in": 0.1,
                "there_out": 0.6,
            }
        ],
        "regions": [{"split": "train", "kind": "lung", "images": 5, "least": 0.1, "median": 0.25, "largest": 0.5}],
        "recognised": [{"column": "site", "scope": "run", **answer}, {"column": "set", "scope": "away", **answer}],
        "label_from": [{"target": "label", "from": "site", **answer}],
        "duplicates": [
            {"compared": 2000, "candidates": 3, "pairs": 1},
            {"split": "train", "other": "test", "pairs": 1, "different_labels": 0},
        ],
        "found": [
            *(
                {"code": code, "count": count, "listed": count}
                for code, count in (("near_duplicates", 1), ("inverted_images", 40))
            ),
        ],
    }
    for row in tables["sets"]:
        row |= {"height": 64, "width": 64, "channels": 1, "type": "uint8", "formats": {"png": 1000}}
        row |= {"grey_mean": 0.5, "grey_std": 0.1}
    content: dict[str, Any] = {
        "warnings": [{"code": "near_duplicates", "level": "note", "scope": "run", "message": "A note of the audit."}],
        "loaded": [{"code": "few_patients", "level": "warn", "scope": "test", "message": "A warning of loading."}],
        "skipped": [{"reader": "table", "image": "three", "reason": "cannot be read"}],
        "suspects": [pair, *(suspect("inverted_images", f"i{k}") for k in range(40))],
        "tables": tables | changes.pop("tables", {}),
    }
    return Audit(content | changes, {"p0": np.zeros((40, 64), np.uint8), "p1": np.full((40, 64, 3), 200, np.uint8)})


def text_of(page: str) -> str:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            found.append(data)

    Reader().feed(page[page.index("<main") :])
    return " ".join(" ".join(found).split())


@pytest.fixture
def pages(tmp_path: Path) -> tuple[str, str]:
    written = write(tmp_path, fake(), title="demo")
    return written["html"].read_text(encoding="utf-8"), written["md"].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "said",
    [
        "A warning of loading. Holds for: test (few_patients)",
        "A note of the audit. Holds for: all sets (near_duplicates)",
        "table three cannot be read",
        "train table a lateral view 7",
        "No patient is in two sets.",
        "2,000 pictures were compared with each other: 1 pair shows the same scene under two patients.",
        "train table 1,000 90 64 by 64, 1 channel, uint8 1,000 png 0.500 ± 0.100",
        "view AP train 9 8 4 5",
        "site a, b 0.961 0.500 1,200 80",
        "set “away” a, b 0.961",
        "a, b site alone 0.961",
        "away view AP a 71%, 42% 10%, 60%",
        "train view a 0.31 AP 70% 40%",
        "train lung 5 10.0% 25.0% 50.0%",
        "one (train) ; two (test) . Because of near_duplicates.",
        "40 found, 30 of them here.",
        "i0 (train)",
    ],
)
def test_the_page_says(pages: tuple[str, str], said: str) -> None:
    assert said in text_of(pages[0])


def test_both_pages_have_the_same_numbers_and_warnings_come_first(pages: tuple[str, str]) -> None:
    page, markdown = pages
    for said in ("1,000 png", "71%, 42%", "10%, 60%", "0.961", "lateral view", "30 of them here"):
        assert said in markdown
    assert page.index("A warning of loading") < page.index("A note of the audit")
    assert markdown.index("A warning of loading") < markdown.index("A note of the audit")


def test_pictures_are_in_the_page_and_beside_the_markdown(tmp_path: Path) -> None:
    written = write(tmp_path, fake(), title="demo")
    page = written["html"].read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is asked of the network
    names = re.findall(r"\]\(figures/([^)]+)\)", written["md"].read_text(encoding="utf-8"))
    assert names == ["audit-p0.png", "audit-p1.png"]
    with Image.open(tmp_path / "figures" / "audit-p1.png") as picture:
        assert (picture.size, picture.getpixel((5, 5))) == ((64, 40), (200, 200, 200))


def test_pictures_of_an_earlier_audit_go_and_other_figures_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("audit-p9.png", "curve.png"):
        (tmp_path / "figures" / name).write_bytes(b"old")
    write(tmp_path, fake(), title="demo")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["audit-p0.png", "audit-p1.png", "curve.png"]


def test_the_notice_of_drawn_images_comes_first(tmp_path: Path) -> None:
    written = write(tmp_path, fake(), title="demo", notice="DRAWN IMAGES")
    assert written["md"].read_text(encoding="utf-8").startswith("**DRAWN IMAGES**")
    assert '<p class="notice" role="note">DRAWN IMAGES</p>' in written["html"].read_text(encoding="utf-8")


def test_names_that_try_to_be_markup_are_text(tmp_path: Path) -> None:
    hostile = "</td><script>alert(1)</script>|`[x](y)\n# z"
    audit = fake(suspects=[suspect("inverted_images", hostile)])
    written = write(tmp_path, audit, title=hostile)
    assert "<script" not in written["html"].read_text(encoding="utf-8")
    markdown = written["md"].read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "\n# z" not in markdown
    assert r"\[x\](y)" in markdown


def test_an_audit_that_found_nothing_says_so_and_that_it_is_no_proof(tmp_path: Path) -> None:
    nothing = {"recognised": [], "label_from": [], "duplicates": [], "left_out": []}
    audit = fake(tables=nothing, warnings=[], loaded=[], skipped=[], suspects=[])
    text = text_of(write(tmp_path, audit, title="demo")["html"].read_text(encoding="utf-8"))
    for said in (
        "No check raised a doubt. That is no proof.",
        "Every file could be read.",
        "Copies under two patients were not looked for.",
        "No tiny model was asked, or there were too few images for it.",
    ):
        assert said in text


@pytest.mark.parametrize(("pairs", "said"), [(0, "no pair shows"), (1, "1 pair shows"), (1234, "1,234 pairs show")])
def test_pairs_are_counted_in_words(pairs: int, said: str) -> None:
    shown = section(fake(tables={"duplicates": [{"compared": 10, "candidates": 2, "pairs": pairs}]}))
    assert shown is not None
    assert f"10 pictures were compared with each other: {said} the same scene" in shown.sentences[1]


def test_shared_patients_are_listed() -> None:
    shown = section(fake(tables={"patients_across": [{"split": "test", "other": "part", "patients": 66}]}))
    assert shown is not None
    assert shown.sentences[0] == "Some patients are in two sets; see the table."
    assert next(table.rows for table in shown.tables if table.caption == "Patients in two sets") == [["test", "part", "66"]]


def test_a_folder_without_an_audit_has_no_section() -> None:
    assert section(None) is None
    for name in ("html", "md"):
        assert environment(name).get_template(f"audit_section.{name}.j2").render(audit=None).strip() == ""


def test_what_is_stored_is_what_is_shown(tmp_path: Path) -> None:
    write_audit(tmp_path, fake())
    stored = read_audit(tmp_path)
    shown = section(stored)
    assert shown is not None
    files = shown.files
    assert list(files) == ["audit-p0.png", "audit-p1.png"]
    assert Image.open(io.BytesIO(files["audit-p0.png"])).size == (64, 40)
    assert [kind.title for kind in shown.kinds] == ["Same picture, two patients", "Inverted images"]
