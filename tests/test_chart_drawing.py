"""How charts are drawn: readable without colours, in the dark, with long names and with many trainers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.report.charts.heat import heat_map, together
from cxr_eval.report.charts.trade_off import clean_against_robust
from cxr_eval.report.drawing import HEAT, ON_HEAT, PALETTE, heat, on_page, shortened, trainer_stroke
from cxr_eval.report.figures import MOST_TOGETHER, Curve, panel
from tests.chart_data import MANY, NAN, ONE, SVG, results_of, written


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_letters_can_be_read_on_every_cell_light_and_dark() -> None:
    for place, ground in enumerate(HEAT):
        assert contrast(ground, heat((place + 0.5) / len(HEAT))[1]) >= 4.5
        # the dark page turns the scale round, and with it the letters of both ends
        letters = dict(zip(ON_HEAT, (ON_HEAT[2], ON_HEAT[1], ON_HEAT[0]), strict=True))[heat((place + 0.5) / len(HEAT))[1]]
        assert contrast(HEAT[len(HEAT) - 1 - place], letters) >= 4.5


def test_the_scale_goes_from_light_to_dark_and_its_ends_are_its_first_and_last_colours() -> None:
    shades = [luminance(colour) for colour in HEAT]
    assert shades == sorted(shades, reverse=True)
    assert [heat(share)[0] for share in (-1, 0, 1, 2)] == [HEAT[0], HEAT[0], HEAT[-1], HEAT[-1]]


def test_the_page_may_change_each_colour_of_the_scale() -> None:
    page = on_page(f'<rect fill="{HEAT[3]}"/><text fill="{ON_HEAT[2]}"/>', 1, 1)
    assert f'fill="var(--heat-3,{HEAT[3]})"' in page
    assert f'fill="var(--on-heat-high,{ON_HEAT[2]})"' in page


def test_a_cell_without_a_number_says_so_and_has_no_colour() -> None:
    picture = heat_map("k", "t", "a", {(0, 0): NAN, (0, 1): 0.5}, down=["r"], across=["x", "y"], y="Y", x="X", ends=(0, 1))
    assert "n/a" in written(picture)
    assert "nan" not in picture.inline + picture.file
    assert picture.inline.count("<rect") == 1 + len(HEAT)  # the other cell, and the scale


def test_a_map_of_one_number_and_one_of_none_are_drawn() -> None:
    for values in ({(0, 0): 0.3}, {}):
        picture = heat_map(
            "k", "t", "a", values, down=["r"][: len(values)], across=["x"][: len(values)], y="Y", x="X", ends=(0.3, 0.3)
        )
        ElementTree.fromstring(picture.file)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.4, 0.9], (0.4, 0.9)),
        ([0.85, 0.9], (0.7, 0.9)),
        ([0.05, 0.1], (0.0, 0.1)),
        ([-0.3, 0.1], (-0.3, 0.1)),
        ([NAN], (0, 1)),
    ],
)
def test_small_differences_are_not_made_to_look_large(values: list[float], ends: tuple[float, float]) -> None:
    assert together(values) == pytest.approx(ends)


def test_many_trainers_get_a_small_plot_each_with_the_others_in_grey() -> None:
    lines = [Curve(k, name, (0, 1), (0.9, 0.1 * k), (0.8, 0.0), (1.0, 0.2)) for k, name in enumerate(MANY)]
    few, many = (
        panel("k", "t", "a", curves_, x="Severity", y="score", fraction=True) for curves_ in (lines[:MOST_TOGETHER], lines)
    )
    assert set(MANY) <= set(written(many))
    assert not set(MANY) & set(written(few))
    assert (few.keyed, many.keyed) == (True, False)
    assert many.inline.count("fill-opacity") == len(MANY)  # each band once
    grey = re.findall(r'stroke="var\(--line\)" stroke-width="1"', many.inline)
    assert len(grey) == len(MANY) * (len(MANY) - 1)


def test_published_curves_stand_in_every_small_plot_and_in_the_legend() -> None:
    lines = [Curve(k, name, (0, 1), (0.9, 0.1)) for k, name in enumerate(MANY)] + [
        Curve(0, "paper", (0, 1), (0.5, 0.5), published=True)
    ]
    picture = panel("k", "t", "a", lines, x="T(IoU)", y="score", fraction=True)
    assert picture.keyed
    assert picture.inline.count('stroke="var(--ink)"') == len(MANY)
    assert "paper" in [element.text for element in ElementTree.fromstring(picture.file).iter(f"{SVG}text")]


def test_where_colours_begin_again_markers_differ() -> None:
    looks = {(trainer_stroke(k).colour, trainer_stroke(k).marker) for k in range(len(PALETTE) ** 2)}
    assert len(looks) == len(PALETTE) ** 2


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["standard", "pgd"], ["standard", "pgd"]),
        (["dpaat(dynamic=true a=1)", "dpaat(dynamic=false a=1)"], ["…true a=1)", "…false a=1)"]),
        (["fgsm(the_eps=0.005)", "fgsm(the_eps=0.02)", "a"], ["…0.005)", "…0.02)", "a"]),  # not “…05)”
        (["abcdefghijklmn1", "abcdefghijklmn2"], ["abcdefghij 1", "abcdefghij 2"]),
        (["same name that is long"] * 2, ["same name t…"] * 2),
    ],
)
def test_shortened_names_stay_apart(names: list[str], short: list[str]) -> None:
    assert shortened(names, 12) == short


@given(st.lists(st.text("ab (=.", max_size=20), max_size=12))
def test_short_names_are_never_alike_and_never_too_long(names: list[str]) -> None:
    short = shortened(names, 9)
    assert all(len(name) <= 9 for name in short)
    whole = [" ".join(name.split()) for name in names]
    assert len({(a, b) for a, b in zip(whole, short, strict=True)}) == len(set(whole))
    for j in range(len(names)):
        assert all(short[j] != short[k] or whole[j] == whole[k] for k in range(j))


def test_a_notebook_shows_a_picture_and_saves_it(tmp_path: Path) -> None:
    picture = clean_against_robust(results_of(ONE), "resnet18", "test", "key")[0]
    assert picture._repr_svg_() == picture.file
    path = picture.save(tmp_path / "new" / "a.svg")
    assert path.read_text(encoding="utf-8") == picture.file
    assert picture.save(str(tmp_path / "b.svg")).is_file()
    with pytest.raises(ValueError, match=r"a\.png: a picture is saved as SVG; choose a name that ends in \.svg"):
        picture.save(tmp_path / "a.png")
