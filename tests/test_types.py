"""Records, and radii as people write them."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.params import parse_radius
from cxr_eval.types import ROW_COLUMNS, Row, RowWarning, format_eps


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (1.0, "1"),
        (0.02, "0.02"),
        (0.2, "0.2"),  # not 51/255
        (0.005, "0.005"),
        (8 / 255, "8/255"),
        (1 / 255, "1/255"),
        (254 / 255, "254/255"),
        (0.0001, "0.0001"),
        (0.00390625, "0.00390625"),
        (0.12345678901234, "0.12345678901234"),
        (1e-05, "1e-05"),
    ],
)
def test_a_radius_is_written_as_a_person_writes_it(eps, text):
    assert format_eps(eps) == text


@given(st.floats(0, 1))
def test_a_radius_that_is_written_and_read_again_is_the_same(eps):
    assert parse_radius(format_eps(eps)) == pytest.approx(eps, abs=1e-8)  # a whole grey level is written as such


@given(st.integers(0, 255))
def test_a_grey_level_comes_back_exactly(level):
    assert parse_radius(format_eps(level / 255)) == level / 255


@given(st.floats(0, 1), st.floats(0, 1))
def test_two_radii_that_differ_are_written_differently(first, second):
    if abs(first - second) > 1e-8:
        assert format_eps(first) != format_eps(second)


def test_a_row_has_the_columns_of_the_table_in_order():
    assert (
        *("model", "trainer", "seed", "split", "condition", "explainer", "metric"),
        *("value", "low", "high", "n", "unit", "better", "provenance", "subgroup", "note"),
    ) == ROW_COLUMNS


def test_records_cannot_be_changed():
    warning = RowWarning("one_seed", "warn", "run", "Only one seed.")
    with pytest.raises(dataclasses.FrozenInstanceError):
        warning.level = "note"
    assert dataclasses.fields(Row)[0].name == "model"
