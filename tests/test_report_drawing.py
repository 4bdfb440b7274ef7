"""Figures of a report: round numbers on axes, places of values, gaps where there is no number, one drawing in two forms."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.ticker import MaxNLocator

from cxr_eval.report.drawing import MOST_LETTERS, PALETTE, Frame, Stroke, as_file, limits, line, ticks, trainer_stroke, unbroken
from cxr_eval.report.figures import Curve, Picture, panel

NAN, INF = float("nan"), float("inf")
SVG = "{http://www.w3.org/2000/svg}"


def written(svg: str) -> list[str]:
    """Texts of a drawing, in the order in which they are drawn."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def drawn(*curves: Curve, x: str = "Severity", fraction: bool = True, title: str = "Title") -> Picture:
    return panel("key", title, "words", curves, x=x, y="score", fraction=fraction)


@pytest.mark.parametrize(
    ("low", "high", "whole", "said"),
    [
        (0, 0.02, False, ["0.000", "0.005", "0.010", "0.015", "0.020"]),
        (-0.5, 1, False, ["\u22120.5", "0.0", "0.5", "1.0"]),  # 1.5 / 5 = 0.3, rounded up to 0.5
        (1, 4, True, ["1", "2", "3", "4"]),  # 3 / 5 = 0.6, but no half epochs
        (0, 2e-7, False, ["0.0e+00", "5.0e\u221208", "1.0e\u221207", "1.5e\u221207", "2.0e\u221207"]),
        (999_999.4, 1_000_000.6, False, ["9.9999950e+05", "1.0000000e+06", "1.0000005e+06"]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, whole: bool, said: list[str]) -> None:
    assert [text for _, text in ticks(low, high, whole=whole)] == said


@given(st.integers(-1000, 1000), st.integers(1, 10**6))
def test_round_numbers_are_those_of_matplotlib(start: int, length: int) -> None:
    low, span = start * math.sqrt(2), length * math.pi / 100  # irrational: no end that is itself a round number
    ours = np.array([value for value, _ in ticks(low, low + span)])
    theirs = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, low + span)
    inside = theirs[(theirs > low - 1e-9) & (theirs < low + span)]
    np.testing.assert_allclose(ours, inside, atol=1e-9 * span)


def test_an_axis_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ticks: expected low < high, got 1 and 1"):
        ticks(1, 1)


@pytest.mark.parametrize(
    ("values", "ends"),
    [([0, 1], (-0.05, 1.05)), ([2, NAN, INF], (1.9, 2.1)), ([0, 0], (-0.05, 0.05)), ([], (0, 1)), ([NAN], (0, 1))],
)
def test_an_axis_holds_all_values_with_a_margin(values: list[float], ends: tuple[float, float]) -> None:
    assert limits(values) == pytest.approx(ends)


def test_a_value_stands_at_its_share_of_the_frame_and_one_outside_on_the_edge() -> None:
    frame = Frame(left=10, top=20, right=110, bottom=220, x=(0, 4), y=(0, 1))
    assert frame.at(1, 0.25) == (35, 170)  # 10 + 100 / 4; 220 - 200 / 4
    assert frame.at(9, -3) == (110, 220)


def test_a_line_has_a_gap_where_there_is_no_number() -> None:
    assert unbroken((0, 1, 2, 3, 4), (1, NAN, 1, 1, INF)) == [[0], [2, 3]]
    assert line([(1, 2)], Stroke()) == ""  # one point alone is a marker
    curve = Curve(0, "standard", (0, 1, 2, 3), (0.1, NAN, 0.3, 0.4), (0.0, NAN, 0.2, NAN), (0.2, NAN, 0.4, NAN))
    svg = drawn(curve).file
    assert "nan" not in svg
    assert svg.count(f'stroke="{PALETTE[0]}"') == 1 + 1  # the line from 2 to 3, and the legend
    assert svg.count("translate(") == 3 + 2  # three points; the legend's marker and place


def test_only_the_epoch_that_was_kept_is_marked() -> None:
    svg = drawn(Curve(1, "pgd", (1, 2, 3), (3, 2, 1), mark=2), x="Epoch", fraction=False).inline
    assert svg.count("translate(") == 1


def test_curves_without_any_number_are_an_empty_frame() -> None:
    picture = drawn(Curve(0, "standard", (0, 1), (NAN, INF)), fraction=False)
    assert "nan" not in picture.file + picture.inline
    assert "inf" not in picture.file + picture.inline
    assert written(picture.inline)[-2:] == ["Severity", "Score"]


def test_radii_stand_in_pixel_units_below_and_in_grey_levels_above() -> None:
    svg = drawn(Curve(0, "standard", (0, 8 / 255), (0.9, 0.1)), x="Radius (pixel units of [0, 1])").inline
    texts = written(svg)
    assert texts[texts.index("Radius in grey levels of 255") - 5 : -1].count("8") == 1
    places = {text: float(x) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*>([^<]+)</text>', svg)}
    # 0 to 8/255 fill the frame but for 5 % at each side: 0.03 is 7.65 grey levels
    assert places["0.03"] == pytest.approx(places["0"] + (places["8"] - places["0"]) * 7.65 / 8, abs=0.02)


def test_the_page_has_its_own_colours_and_the_file_those_for_the_colour_blind() -> None:
    picture = drawn(Curve(2, "pgd", (0, 1), (0.5, 0.4)))
    assert "var(--series-2)" in picture.inline
    assert "#" not in picture.inline.replace("http://www.w3.org", "")
    assert PALETTE[2] in picture.file
    assert "var(" not in picture.file


def test_names_are_text_and_colours_in_them_stay() -> None:
    name = "<b> & #0072b2"
    picture = drawn(Curve(0, name, (0, 1), (0.5, 0.4)), title=name)
    assert written(picture.file)[0] == name
    assert written(picture.file)[-1] == name


def test_a_trainer_with_several_lines_stands_in_the_legend_of_a_file_once_and_long_names_below_each_other() -> None:
    seeds = [Curve(0, "standard", (0, 1), (0.5, 0.4)), Curve(0, "standard", (0, 1), (0.6, 0.4))]
    assert written(drawn(*seeds).file).count("standard") == 1
    short, long = "a" * MOST_LETTERS, "a" * (MOST_LETTERS + 1)
    heights = {}
    for name in (short, long):
        svg = as_file("", 295, 216, "", [(name, trainer_stroke(0)), ("b", trainer_stroke(1))])
        heights[name] = len(set(re.findall(r'<g transform="translate\([\d.]+ ([\d.]+)\)', svg)))
    assert heights == {short: 1, long: 2}


def test_trainers_beyond_the_palette_begin_it_again_with_other_dashes() -> None:
    first, again = trainer_stroke(0), trainer_stroke(len(PALETTE))
    assert first.colour == again.colour
    assert first.dash != again.dash
