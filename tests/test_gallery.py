"""The gallery: what it is searched by, which images fit the page, what stands beside it, and what it says of itself."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_eval.errors import RunError
from cxr_eval.report import gallery, gallery_page, pictures
from cxr_eval.report.environment import environment
from cxr_eval.report.gallery_facts import Answer, answer, facts, map_change, mass
from cxr_eval.store import Gallery, Run
from tests.fake_run import HOSTILE, Fake
from tests.report_pages import SMALL, results_of

MANY = replace(SMALL, images=5, side=48)


def panel(condition: str, truth: float | None, predicted: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "condition": condition,
        "predicted": predicted,
        "probability": None if predicted is None else 0.6,
        "probability_label": truth,
        "maps": {},
    } | more


def content(run: Run, fake: Fake, **more: Any) -> dict[str, Any]:
    return gallery_page.content(run, results_of(fake), **({"title": "T", "notice": "", "html": True, "sheets": False} | more))


# what is known of an image and a network


def test_relevance_is_counted_where_it_is_positive() -> None:
    values = np.array([[3.0, 1.0], [-5.0, 0.0]])
    region = np.array([[True, False], [True, False]])
    assert mass(values, region) == 0.75  # 3 of 3 + 1; what speaks against the class is no relevance
    assert mass(-np.abs(values), region) is None  # none is positive
    assert mass(np.ones((2, 2)), region) is None  # the map says nothing
    assert mass(np.array([[1.0, np.nan], [0, 0]]), region) is None


def test_a_map_that_keeps_its_order_has_not_changed_and_one_that_turns_it_round_has_changed_by_two() -> None:
    values = np.arange(16.0).reshape(4, 4)
    assert map_change(values, np.exp(values)) == pytest.approx(0)
    assert map_change(values, -values) == pytest.approx(2)
    assert map_change(values, np.zeros((4, 4))) is None


def test_the_change_of_a_map_is_one_less_its_rank_correlation() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.random((2, 20, 20))
    assert map_change(a, b) == pytest.approx(1 - spearmanr(a.ravel(), b.ravel()).statistic)


def test_large_maps_are_averaged_before_their_ranks_are_compared() -> None:
    small = np.random.default_rng(0).random((2, 64, 64))
    large = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2)
    noise = np.tile([[0.3, -0.3], [-0.3, 0.3]], (64, 64))  # means nothing in a block of four
    assert map_change(large[0] + noise, large[1]) == pytest.approx(map_change(small[0], small[1]), abs=1e-4)


def test_an_answer_is_flipped_by_the_conditions_in_which_it_is_another_than_on_the_clean_image() -> None:
    panels = [panel("clean", 0.9, "a"), panel("fgsm:0.1", 0.7, "a"), panel("pgd:0.1", 0.2, "b"), panel("blur:3", 0.4, "c")]
    known = facts(panels, "a", {}.__getitem__, None)
    assert known.flipped == ("pgd:0.1", "blur:3")
    assert known.wrong is False
    assert known.loss == pytest.approx(0.7)  # 0.9 - 0.2, the worst condition
    assert (known.mass, known.change) == (None, None)


def test_a_wrong_answer_that_stays_the_same_is_wrong_and_kept() -> None:
    known = facts([panel("clean", 0.3, "b"), panel("pgd:0.1", 0.1, "b")], "a", {}.__getitem__, None)
    assert (known.flipped, known.wrong) == ((), True)


def test_a_finding_is_flipped_where_its_probability_passes_one_half() -> None:
    known = facts([panel("clean", 0.8), panel("pgd:0.1", 0.4), panel("fgsm:0.1", 0.6)], "mass", {}.__getitem__, None)
    assert (known.flipped, known.wrong) == (("pgd:0.1",), False)
    assert answer(panel("clean", 0.8), "mass") == Answer("mass", 0.8, True, 0.8)
    assert answer(panel("clean", 0.4), "mass") == Answer("", 0.4, False, 0.4)
    assert Answer("", 0.4, False, 0.4).words == ("probability 0.400", "✗ wrong, finding missed")


def test_nothing_is_known_without_answers_maps_or_a_clean_image() -> None:
    nothing = facts([panel("clean", None), panel("pgd:0.1", None)], "", {}.__getitem__, None)
    assert nothing == facts([panel("pgd:0.1", 0.5, "a")], "a", {}.__getitem__, None)
    assert set(vars(nothing).values()) == {None}


def test_facts_are_of_the_first_explainer_and_the_condition_that_changed_its_map_most() -> None:
    up, down = np.arange(4.0).reshape(2, 2), -np.arange(4.0).reshape(2, 2)
    maps = {"u": up, "d": down}
    panels = [
        panel("clean", 0.9, "a", maps={"first": "u", "second": "d"}),
        panel("x", 0.9, "a", maps={"first": "u", "second": "u"}),
        panel("y", 0.9, "a", maps={"first": "d", "second": "d"}),
    ]
    known = facts(panels, "a", maps.__getitem__, np.array([[False, False], [False, True]]))
    assert known.change == pytest.approx(2)
    assert known.mass == 0.5  # 3 of 0 + 1 + 2 + 3


# pictures


def test_a_small_photograph_keeps_every_level_and_a_large_one_nearly() -> None:
    levels = np.add.outer(np.arange(200), np.arange(200)).astype(np.uint8) // 2
    small = pictures.photograph(levels[: pictures.EXACT, : pictures.EXACT], 512)
    assert small.suffix == "png"
    np.testing.assert_array_equal(np.asarray(small.rgba())[..., 0], levels[: pictures.EXACT, : pictures.EXACT])
    large = pictures.photograph(levels, 512)
    assert (large.suffix, large.uri[:23]) == ("jpg", "data:image/jpeg;base64,")
    smooth = np.abs(np.asarray(large.rgba())[..., 0].astype(int) - levels)[:, :50]
    assert smooth.max() <= 4


# what fits the page


def test_the_page_holds_the_first_images_that_fit_and_all_are_saved_where_not_all_do() -> None:
    results, made, saved = results_of(MANY), MANY.gallery(), dict[str, bytes]()
    whole = gallery.build(made, results, save=saved.__setitem__)
    assert (len(whole.shown), whole.beside, saved) == (5, (), {})
    budget = sum(entry.size for entry in whole.shown[:2]) + whole.shown[2].size // 2
    some = gallery.build(made, results, budget=budget, save=saved.__setitem__)
    assert [entry.key for entry in some.shown] == ["g0", "g1"]
    assert [entry.key for entry in some.beside] == [entry.key for entry in whole.shown]
    assert saved == {entry.file(name): layer.data for entry in whole.shown for name, layer in entry.layers.items()}
    assert some.count == 5


def test_one_image_that_is_too_large_is_shown_smaller_but_not_below_what_can_be_seen() -> None:
    fake = replace(SMALL, side=160)
    whole = gallery.build(fake.gallery(), results_of(fake))
    half = gallery.build(fake.gallery(), results_of(fake), budget=whole.shown[0].size // 2)
    assert gallery.SMALLEST <= half.side < whole.side == 160
    assert half.shown[0].size <= whole.shown[0].size // 2
    least = gallery.build(fake.gallery(), results_of(fake), budget=1)
    assert (least.side, len(least.shown)) == (gallery.SMALLEST, 1)


def test_only_the_first_images_have_sheets_for_markdown() -> None:
    fake = replace(SMALL, images=gallery.SHEETS + 2, side=16)
    shown = gallery.build(fake.gallery(), results_of(fake)).shown
    assert [bool(entry.files) for entry in shown] == [True] * gallery.SHEETS + [False] * 2


def test_a_stored_largest_change_stands_for_looking_at_every_perturbation() -> None:
    made = replace(SMALL, side=16).gallery()
    made.entries[0]["panels"][1]["largest"] = 0.05
    made.entries[0]["panels"][3]["largest"] = 0.04
    (shown,) = gallery.build(made, results_of(SMALL)).shown
    assert {strip.sub for strip in shown.sheets[0].strips} >= {f"perturbation {gallery.TIMES}10"}  # 0.5 / 0.05


def test_an_empty_mask_is_no_region() -> None:
    made = replace(SMALL, side=16).gallery()
    arrays = dict(made.arrays) | {made.entries[0]["regions"]["lesion"]: np.zeros((16, 16), dtype=bool)}
    (shown,) = gallery.build(Gallery(made.entries, arrays), results_of(SMALL)).shown
    assert [outline.kind for outline in shown.outlines] == ["lung"]
    assert {known.mass for known in shown.sheets[0].facts} == {None}


# files


def test_a_gallery_that_fits_has_no_page_of_its_own_and_an_earlier_one_goes(tmp_path: Path) -> None:
    run = MANY.write(tmp_path)
    content(run, MANY, budget=1)
    first = {path.name for path in tmp_path.iterdir()}
    assert {"gallery.html", "gallery"} <= first
    content(run, MANY)
    assert {path.name for path in tmp_path.iterdir()} == first - {"gallery.html", "gallery"}


def test_the_page_of_all_images_names_the_files_beside_it_and_nothing_else(tmp_path: Path) -> None:
    run = MANY.write(tmp_path)
    content(run, MANY, budget=1)
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    named = set(re.findall(r'src="(gallery/[^"]+)"', page))
    there = {f"gallery/{path.name}" for path in (tmp_path / "gallery").iterdir()}
    assert named == there
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".gallery")]
    assert page.count("<article") == 5
    assert "data:image" not in page


def test_the_same_run_gives_the_same_gallery_byte_for_byte(tmp_path: Path) -> None:
    def written() -> dict[str, bytes]:
        run = Run(tmp_path)
        content(run, MANY, budget=1)
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    MANY.write(tmp_path)
    assert written() == written()


def test_a_report_without_a_page_draws_its_sheets_only(tmp_path: Path) -> None:
    fake = replace(SMALL, images=gallery.SHEETS + 2, side=16)
    found = content(fake.write(tmp_path), fake, html=False, sheets=True, budget=1)
    assert not (tmp_path / "gallery.html").exists()
    assert found["gallery"].count == gallery.SHEETS


def test_the_script_is_the_one_that_the_policy_of_the_page_allows(tmp_path: Path) -> None:
    content(MANY.write(tmp_path), MANY, budget=1)
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "script-src 'unsafe-inline'" not in policy[1]


def test_hostile_names_are_text_in_the_page_of_all_images(tmp_path: Path) -> None:
    names = tuple(name.replace("\ud800", "") for name in HOSTILE)
    fake = replace(
        MANY, models=names[:1], trainers=names[1:3], classes=names[:3], explainers=(names[0], names[4]), images=2, side=16
    )
    run = fake.write(tmp_path)
    content(run, fake, budget=1, title=names[0], notice=names[1])
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert" in page
    assert not re.search(r'(style|data-\w+)="[^"]*(alert|named)', page)


# words


def choices(fake: Fake, made: Gallery | None = None) -> gallery_page.Choices:
    results = results_of(fake)
    return gallery_page.Choices(gallery.build(made or fake.gallery(), results), results)


def test_the_lists_offer_what_there_is_and_no_list_has_one_choice() -> None:
    offered = {name: [text for _, text in options] for name, _, options in choices(MANY).lists}
    assert offered["label"] == ["all", "covid", "normal", "pneumonia"]
    assert offered["trainer"] == ["all", "standard", "pgd"]
    assert "model" not in offered  # there is one
    assert offered["answer"] == [
        "all",
        "flipped: any network shown",
        "kept: every network shown",
        "wrong on the clean image: any network shown",
    ]
    assert offered["order"] == [
        "as chosen",
        "least relevance in lesion first",
        "largest map change first",
        "largest loss of confidence first",
    ]
    one = replace(MANY, trainers=("pgd",), conditions=("clean",), attacks=(), images=1)
    assert [name for name, _, _ in choices(one).lists] == ["answer", "order"]
    nothing = one.gallery()
    entry = nothing.entries[0] | {"label": None, "regions": {}}
    silent = {"predicted": None, "probability": None, "probability_label": None}
    entry["panels"] = [each | silent for each in entry["panels"]]
    assert choices(one, Gallery([entry], nothing.arrays)).lists == []


def test_the_page_says_how_images_were_chosen_and_how_many_it_shows() -> None:
    few = gallery.build(MANY.gallery(), results_of(MANY), budget=1)
    made = gallery_page.Choices(few, results_of(MANY))
    first, second = made.told(1, files=False)
    assert first.startswith("1 of 5 images")
    assert gallery_page.RULE in first
    assert "Examples are not evidence" in second


def test_an_image_with_several_findings_says_why_it_stands_there_more_than_once() -> None:
    made = MANY.gallery()
    twice = Gallery([made.entries[0], made.entries[1] | {"image_id": made.entries[0]["image_id"]}], made.arrays)
    assert "once for each of its findings" in choices(MANY, twice).told(2, files=False)[0]
    assert "once for each of its findings" not in choices(MANY).told(5, files=False)[0]


def test_smaller_and_compressed_pictures_are_said_to_be_so() -> None:
    fake = replace(SMALL, side=600)
    told = " ".join(choices(fake).told(1, files=False))
    assert "shown at 512 of 600 pixels" in told
    assert "JPEG of quality 95" in told


def test_every_number_beside_a_trainer_is_explained() -> None:
    made = choices(MANY)
    explained = [name for name, _ in made.measures]
    said = [text for known in made.known for text, _ in made.said(known)]
    assert {text for text in said if not text.startswith((*explained, "answer kept"))} == set()
    assert explained == ["flipped by", "relevance in lesion", "map change", "confidence lost"]


def test_a_trainer_that_was_wrong_from_the_start_is_said_to_be_so() -> None:
    made = MANY.gallery()
    entry = made.entries[0]
    entry["panels"] = [each | {"predicted": "normal"} for each in entry["panels"]]
    (known, *_) = choices(MANY, Gallery([entry], made.arrays)).known
    assert ("wrong on the clean image", True) in choices(MANY).said(known)
    assert ("answer kept", False) in choices(MANY).said(known)


def test_the_section_is_silent_without_a_gallery() -> None:
    fake = replace(SMALL, images=0)
    results = results_of(fake)
    shown = gallery.build(fake.gallery(), results)
    assert (shown.shown, shown.beside, shown.count) == ((), (), 0)
    text = environment("html").get_template("gallery.html.j2").render(gallery=shown, gallery_choices=None)
    assert text.strip() == ""


def test_a_report_elsewhere_has_its_gallery_there_and_takes_no_foreign_folder(tmp_path: Path) -> None:
    fake = Fake(images=3)
    run, out = fake.write(tmp_path / "run"), tmp_path / "elsewhere"
    (out / "gallery").mkdir(parents=True)
    (out / "gallery" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(RunError, match="gallery: is there already and is no report's; choose another folder with --out"):
        gallery_page.content(run, results_of(fake), title="T", notice="", html=True, sheets=False, out=out, budget=1)
    assert (out / "gallery" / "holiday.jpg").read_bytes() == b"mine"
    other = tmp_path / "other"
    gallery_page.content(run, results_of(fake), title="T", notice="", html=True, sheets=False, out=other, budget=1)
    assert (other / "gallery.html").is_file()
    assert not (run.folder / "gallery.html").exists()
