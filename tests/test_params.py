"""Settings are frozen, never change their type silently, and a radius is in pixel units."""

import math

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.params import Field, Names, Params, Radii, Radius, Severities, Whole, parse_radius


class Settings(Params):
    eps: Radius = Field(0.1, description="a radius")
    radii: Radii = Field((0.1,), description="radii")
    names: Names = Field(("a",), description="names")
    whole: Whole = Field((0,), description="whole numbers")
    severity: Severities = Field((1,), description="severities")
    share: float = Field(0.5, description="a number")
    count: int = Field(1, description="a whole number")


def test_settings_are_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().count = 2


def test_unknown_settings_are_refused():
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        Settings(epsilon=0.1)


@pytest.mark.parametrize(
    "wrong", [{"count": "3"}, {"count": 3.0}, {"count": True}, {"share": "0.5"}, {"share": True}, {"share": math.nan}]
)
def test_no_value_changes_its_type_silently(wrong):
    with pytest.raises(pydantic.ValidationError):
        Settings(**wrong)


def test_defaults_are_checked_as_well():
    class Wrong(Params):
        eps: Radius = Field(8.0, description="not in pixel units")

    with pytest.raises(pydantic.ValidationError, match="did you mean 8/255"):
        Wrong()


@pytest.mark.parametrize(
    ("written", "radius"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.02", 0.02), (0.031372549, 8 / 255), ("0", 0.0), (1, 1.0), (0.3, 0.3)],
)
def test_a_radius_is_a_number_or_a_fraction(written, radius):
    assert Settings(eps=written).eps == radius


@given(st.integers(0, 255))
def test_a_fraction_is_the_nearest_float(levels):
    assert parse_radius(f"{levels}/255") == levels / 255


@pytest.mark.parametrize("written", ["abc", "8/0", "1/2/3", "", "1.5/2", "0x10", "1/" + "9" * 5000, "9" * 400 + "/1"])
def test_text_that_is_no_radius_is_refused(written):
    with pytest.raises(pydantic.ValidationError, match=r"expected a number such as 0\.02 or a fraction such as 8/255"):
        Settings(eps=written)


@pytest.mark.parametrize("written", ["1e999999999", "inf", "nan", "-8/255", -0.1, True, None, [0.1]])
def test_what_is_no_radius_at_all_is_refused_at_once(written):
    with pytest.raises(pydantic.ValidationError):
        Settings(eps=written)


@pytest.mark.parametrize("written", [8, 8.0, "8"])
def test_a_radius_in_grey_levels_is_refused_with_what_was_meant(written):
    with pytest.raises(pydantic.ValidationError, match="cannot exceed 1; did you mean 8/255"):
        Settings(eps=written)


@pytest.mark.parametrize("written", [["8/255", 0.1], ("8/255", 0.1)])
def test_radii_are_a_list(written):
    assert Settings(radii=written).radii == (8 / 255, 0.1)


def test_one_value_stands_for_a_list_of_one():
    settings = Settings(radii="8/255", names="b", whole=3, severity=2)
    assert (settings.radii, settings.names, settings.whole, settings.severity) == ((8 / 255,), ("b",), (3,), (2,))


@pytest.mark.parametrize("wrong", [{"radii": []}, {"whole": []}, {"severity": []}, {"severity": 6}, {"severity": [0]}])
def test_a_list_may_not_be_empty_nor_a_severity_out_of_its_scale(wrong):
    with pytest.raises(pydantic.ValidationError):
        Settings(**wrong)


def test_settings_are_plain_data_that_reads_back_the_same():
    settings = Settings(radii=["8/255"], names=["a", "b"])
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
