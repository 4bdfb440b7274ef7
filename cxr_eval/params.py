"""Frozen, described settings: the base class of every plugin's `Params` and of the protocol itself."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic import BeforeValidator, ConfigDict, model_validator

Field = pydantic.Field


class Params(pydantic.BaseModel):
    """Settings of one plugin: frozen, no unknown names, no silent change of type (`"3"` is not 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: Any) -> Any:
    """A YAML list, or one value alone, as the tuple that a setting of several values holds."""
    value = _as_tuple(value)
    return value if isinstance(value, tuple) else (value,)


def parse_radius(value: Any) -> Any:
    """A radius as YAML gives it: a number, or text such as `8/255`, as a float.

    Raises:
        ValueError: the text is not a number or a fraction of two whole numbers.
    """
    if isinstance(value, float) and math.isfinite(value) and abs(value * 255 - round(value * 255)) < 1e-6:
        return round(value * 255) / 255  # 0.031372549 is 8/255: results of both would have one name
    if not isinstance(value, str):
        return value
    above, slash, below = value.replace(" ", "").partition("/")
    try:  # not Fraction: its "1e999999999" takes all memory
        return int(above) / int(below) if slash else float(above)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError("expected a number such as 0.02 or a fraction such as 8/255") from None


def _pixel_radius(value: Any) -> Any:
    value = parse_radius(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 1:
        raise ValueError(_too_large(value))
    return value


def _too_large(value: float) -> str:
    meant = f"; did you mean {value:g}/255?" if value <= 255 else ""
    return f"is in pixel units of [0, 1] and cannot exceed 1{meant}"


Radius = Annotated[float, BeforeValidator(_pixel_radius), Field(ge=0, le=1)]
"""An L-inf radius in pixel units of [0, 1]; may be written `8/255`; `8` is refused."""

Distance = Annotated[float, BeforeValidator(parse_radius), Field(ge=0)]
"""A radius in a norm that is a setting too: of an L2 ball it may exceed 1. May be written `8/255`; see `Ball`."""

Radii = Annotated[tuple[Radius, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
"""One radius or a list of them."""

Distances = Annotated[tuple[Distance, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
"""One radius or a list of them, in a norm that is a setting too; see `Ball`."""

Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
"""One name or a list of them."""

Labels = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""A list of names."""

Numbers = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]
"""A list of numbers."""

Whole = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_one_or_more), Field(min_length=1)]
"""One whole number from 0 on, or a list of them."""

Severities = Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], BeforeValidator(_one_or_more), Field(min_length=1)]
"""One severity of a corruption, 1 to 5, or a list of them."""


class Ball(Params):
    """Settings of a method whose radius is L-inf or L2; every setting of type `Distance` is a radius in that norm."""

    eps: Distance
    norm: Literal["linf", "l2"] = Field(
        "linf", description="linf: largest change of a pixel; l2: Euclidean length of the whole change, which may exceed 1"
    )

    @model_validator(mode="after")
    def _radii_fit_the_norm(self) -> Ball:
        if self.norm == "l2" and "eps" not in self.model_fields_set:
            raise ValueError(
                "norm l2 needs eps; the default is an L-inf radius, next to nothing as a length over a whole image"
            )
        for name, field in type(self).model_fields.items():
            # also in `Distance | None` and `Distances`
            marks = [*field.metadata, *(mark for part in get_args(field.annotation) for mark in get_args(part))]
            if self.norm != "linf" or not any(getattr(mark, "func", None) is parse_radius for mark in marks):
                continue
            value = getattr(self, name)
            for radius in value if isinstance(value, tuple) else (value,):
                if radius is not None and radius > 1:
                    raise ValueError(f"{name} {_too_large(radius)}")
        return self
