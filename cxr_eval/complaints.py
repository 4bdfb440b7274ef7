"""What pydantic finds wrong with settings, in plain English."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import pydantic
from pydantic_core import ErrorDetails

from cxr_eval.errors import nearest
from cxr_eval.types import Key

Complaint = tuple[Key, str]
"""Where something is wrong, and what."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "path_type": "text",
    "bool_type": "true or false",
    "none_required": "nothing",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "dict_type": "a group of 'key: value' settings",
    "model_type": "a group of 'key: value' settings",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_pattern_mismatch": "{described}",
}


def dotted(key: Key) -> str:
    """`trainers[2].eps` for `("trainers", 2, "eps")`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def shown(value: Any) -> str:
    """A value as a message quotes it: `text 'abc'`, `3`, `true`, `a list of 2`, `nothing`."""
    if isinstance(value, str):
        return f"text '{value if len(value) <= 60 else value[:57] + '...'}'"
    if isinstance(value, dict):
        return "a group of settings"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "nothing" if value is None else json.dumps(value, default=str)


def complaints(
    error: pydantic.ValidationError,
    model: type[pydantic.BaseModel],
    *,
    at: Key = (),
    owner: str | None = None,
    beside: Iterable[str] = (),
) -> list[Complaint]:
    """Each error of `model`'s validation as a place and one line.

    at: where the validated settings stand in the protocol. owner: the plugin that has the settings; without it, they are the
    protocol's own. beside: what may stand beside the plugin's settings.
    """
    found = [_complaint(details, model, at, owner, beside) for details in error.errors(include_url=False)]
    return [complaint for complaint in found if complaint]


def _complaint(
    details: ErrorDetails, model: type[pydantic.BaseModel], at: Key, owner: str | None, beside: Iterable[str]
) -> Complaint | None:
    kind, loc, value, context = details["type"], details["loc"], details["input"], details.get("ctx", {})
    key = (*at, *loc)
    if kind in ("extra_forbidden", "missing"):
        where = f"{dotted(at)}: " if at else ""
        above = f"{where}{owner}" if owner and len(loc) == 1 else dotted(key[:-1]) or "a protocol"
        name = str(loc[-1])
        if kind == "missing":
            written = list(value) if isinstance(value, dict) else []
            instead = next((other for other in written if nearest(other, [name])), None)
            return key, f"{above} needs '{name}'" + (f", found '{instead}'" if instead else "")
        known = _settings_at(model, loc[:-1])
        hint = nearest(name, [*known, *(beside if len(loc) == 1 else ())]) or (
            f"; it has {', '.join(known)}" if known else "; it has no settings"
        )
        return key, f"{above} has no setting '{name}'{hint}"
    prefix = f"{dotted(key)}: " if key else ""
    if kind == "value_error":
        return key, f"{prefix}{context['error']}"
    if kind == "too_short" and isinstance(value, (list, tuple, dict)) and len(value) >= context["min_length"]:
        return None  # pydantic counts only the entries that are right, and the others have their own line
    if kind not in _EXPECTED:
        return key, f"{prefix}{details['msg']}, got {shown(value)}"
    described = _description(model, loc)
    expected = _EXPECTED[kind].format_map({**context, "described": described})
    hint = ""
    if kind == "literal_error" and isinstance(value, str):
        hint = nearest(value, context["expected"].replace(" or ", ", ").replace("'", "").split(", "))
    if kind == "model_type" and any(isinstance(part, int) for part in loc[-1:]):
        expected = "a name, or a group of settings with a name"
    got = f"{len(value)} characters" if kind in ("string_too_short", "string_too_long") else shown(value)
    return key, f"{prefix}expected {expected}, got {got}{hint}"


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _model_at(model: type[pydantic.BaseModel], loc: tuple[int | str, ...]) -> type[pydantic.BaseModel] | None:
    """The model whose settings stand at `loc`; entries of lists and of groups with free names are passed over."""
    here: type[pydantic.BaseModel] | None = model
    for part in loc:
        if here is not None and part in here.model_fields:
            here = next(_models(here.model_fields[str(part)].annotation), None)
    return here


def _settings_at(model: type[pydantic.BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    found = _model_at(model, loc)
    return list(found.model_fields) if found else []


def _description(model: type[pydantic.BaseModel], loc: tuple[int | str, ...]) -> str:
    field = found.model_fields.get(str(loc[-1])) if loc and (found := _model_at(model, loc[:-1])) else None
    return (field.description if field else None) or "text of another form"
