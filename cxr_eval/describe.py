"""A plugin's page: what it does, where it comes from, its settings with bounds and defaults, how a protocol names it."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from typing import Any

from pydantic_core import to_jsonable_python

from cxr_eval.errors import PluginError, nearest
from cxr_eval.params import Params
from cxr_eval.protocol_file import SettingsSchema
from cxr_eval.registry import KINDS, SINGULAR, Kind, find, installed, load, names, origin, package_of
from cxr_eval.types import format_eps

_PLACES: dict[Kind, str] = {
    "trainers": "trainers:\n  - {use}",
    "readers": "data:\n  train: {use}",
    "models": "models:\n  - {use}",
    "attacks": "attacks:\n  - {use}",
    "corruptions": "corruptions:\n  - {use}",
    "explainers": "explain:\n  methods:\n    - {use}",
    "explanation_metrics": "explain:\n  metrics:\n    - {use}",
}
_KINDS_OF_VALUE = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "nothing",
    "object": "group of settings",
}
_FRACTION_SHOWN = '"8/255"'  # the schema of a radius has it as an example
_NOT_TEXT = ("yes", "no", "on", "off", "true", "false", "null")
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def pages(name: str, kind: Kind | None = None) -> list[str]:
    """The page of each plugin called `name`; a trainer and an attack may share a name.

    Raises:
        PluginError: there is none of that name and kind, or it cannot be imported.
    """
    kinds = KINDS if kind is None else (kind,)
    family, _, member = name.partition("/")
    registered = [each for each in kinds if family in installed(each)]
    if member and len(registered) > 1:  # families of two kinds may share a name, as those of ART's attacks and trainers do
        registered = [each for each in registered if _has(each, family, member)]
    found = registered or [each for each in kinds if name in names(each)]  # a bare member: families are imported to be asked
    if not found:
        known = [other for each in kinds for other in names(each)]
        raise PluginError(f"no {SINGULAR[kind] if kind else 'plugin'} '{name}'{nearest(name, known)}")
    return ["\n".join(_page(each, name)) for each in found]


def _has(kind: Kind, family: str, member: str) -> bool:
    """Whether a family has the member.

    Raises:
        PluginError: it left the member out, and says why.
    """
    loaded = load(kind, installed(kind)[family])
    try:
        return hasattr(loaded, "member") and bool(loaded.member(member))
    except KeyError:
        return False


def _page(kind: Kind, name: str) -> list[str]:
    point = installed(kind).get(name)
    family: Any = None if point is None else load(kind, point)
    if point is not None and hasattr(family, "member"):
        written = "NAME" if family.bare else f"{name}/NAME"
        return [
            f"{SINGULAR[kind]} family {name} ({package_of(point)})",
            "",
            *_doc(family),
            "",
            f"Members, each written {written}:",
        ] + [f"  {member}" for member in family.names()]
    cls = find(kind, name)
    source = _wrapped(f"Source: {cls.source}") if getattr(cls, "source", "") else []
    schema = cls.Params.model_json_schema(schema_generator=SettingsSchema)
    settings = [line for field in cls.Params.model_fields for line in _setting(field, cls.Params, schema)]
    return [
        f"{SINGULAR[kind]} {name} ({origin(kind, name)})",
        "",
        *_doc(cls),
        *source,
        *(["", *_trainer(cls)] if kind == "trainers" else []),
        "",
        *(["Settings", *settings] if settings else ["It has no settings."]),
        "",
        "In a protocol",
        *(f"  {line}" for line in example(kind, name, cls.Params, getattr(cls, "uses_reference", False)).splitlines()),
    ]


def _trainer(cls: type[Any]) -> list[str]:
    """What a trainer is for and what it needs, beside its settings."""
    return [
        f"Tasks: {', '.join(cls.tasks)}",
        f"Adversarial: {'yes' if cls.adversarial else 'no'}",
        f"Reference: {'needs a network that was trained before' if cls.uses_reference else 'none'}",
    ]


def _doc(cls: type[Any]) -> list[str]:
    return (inspect.getdoc(cls) or "It does not describe itself.").splitlines()


def _setting(name: str, model: type[Params], schema: dict[str, Any]) -> list[str]:
    field = model.model_fields[name]
    words = _words(schema["properties"][name], schema)
    default = "required" if field.is_required() else f"default {_default(name, model, schema)}"
    lines = [f"  {name}: {words}; {default}"]
    return [*lines, *_wrapped(field.description, "      ")] if field.description else lines


def _wrapped(text: str, indent: str = "") -> list[str]:
    wrapper = textwrap.TextWrapper(96, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    wrapper.break_long_words = False
    return wrapper.wrap(text)


def _default(name: str, model: type[Params], schema: dict[str, Any]) -> str:
    value = to_jsonable_python(model.model_fields[name].get_default(call_default_factory=True, validated_data={}))
    is_radius = _FRACTION_SHOWN in json.dumps(schema["properties"].get(name, {}))
    return "none" if value is None else _yaml(value, is_radius)


def _yaml(value: Any, is_radius: bool = False) -> str:
    """A value as a protocol writes it."""
    if isinstance(value, list):
        return f"[{', '.join(_yaml(part, is_radius) for part in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(part, is_radius)}" for name, part in value.items()) + "}"
    if isinstance(value, float) and is_radius:
        return format_eps(value)
    if isinstance(value, float) and "e" in repr(value):
        mantissa, _, exponent = repr(value).partition("e")  # YAML reads 1e-05 as text
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w/.-]*|\d+/\d+", value) and value.lower() not in _NOT_TEXT
    return str(value) if plain else json.dumps(value)


def _words(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """What may be written for one setting, in words."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    if "anyOf" in field:
        parts = field["anyOf"]
        if any(_FRACTION_SHOWN in json.dumps(part.get("examples")) for part in parts):
            bounded = any("maximum" in part for part in parts)
            return f"radius, {'0 to 1' if bounded else 'at least 0'} (0.02 or 8/255)"
        words = [_words(part, schema) for part in parts]
        lists = [part.get("type") == "array" and part.get("items") in parts[:1] for part in parts]
        words = ["a list of such" if is_list else word for word, is_list in zip(words, lists, strict=True)]
        return ", or ".join(dict.fromkeys(words))
    if "enum" in field or "const" in field:
        return " or ".join(_yaml(value) for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        inner = _words(field["items"], schema) if field.get("items") else "values"
        return f"list of {inner.replace('whole number', 'whole numbers', 1)}"
    if {"minimum", "maximum"} <= field.keys():
        bounds = f"{field['minimum']:g} to {field['maximum']:g}"
    else:
        bounds = " and ".join(f"{word} {field[key]:g}" for key, word in _BOUNDS.items() if key in field)
    return f"{_KINDS_OF_VALUE.get(str(field.get('type')), 'text')} {bounds}".strip()


def example(kind: Kind, name: str, model: type[Params], uses_reference: bool = False) -> str:
    """Lines of a protocol that name the plugin: settings without a default, or else the first of those that have one.

    uses_reference: whether it is a trainer that looks at the network of another one.
    """
    schema = model.model_json_schema(schema_generator=SettingsSchema)
    fields = model.model_fields
    needed = {field: _yaml(_sample(schema["properties"][field], schema)) for field in fields if fields[field].is_required()}
    optional = {
        field: written for field in fields if field not in needed and (written := _default(field, model, schema)) != "none"
    }
    settings = "".join(f", {field}: {value}" for field, value in (needed or dict([*optional.items()][:1])).items())
    if kind == "readers":
        return _PLACES[kind].format(use="{reader: " + name + settings + "}")
    if uses_reference:
        return _PLACES[kind].format(use="standard\n  - {name: " + name + ", reference: standard" + settings + "}")
    return _PLACES[kind].format(use="{name: " + name + settings + "}" if settings else name)


def _sample(field: dict[str, Any], schema: dict[str, Any]) -> Any:
    """A value that a setting without a default would take."""
    if field.get("examples"):
        return field["examples"][0]
    if "$ref" in field:
        group = schema["$defs"][field["$ref"].rpartition("/")[2]]
        return {name: _sample(group["properties"][name], schema) for name in group.get("required", [])}
    if "anyOf" in field:
        parts = field["anyOf"]
        return "8/255" if _FRACTION_SHOWN in json.dumps(parts) else _sample(parts[0], schema)
    if "enum" in field:
        return field["enum"][0]
    kind = field.get("type")
    if kind == "array":
        return [_sample(field.get("items", {}), schema)] * max(1, field.get("minItems", 1))
    if kind == "integer":
        return field.get("minimum", field.get("exclusiveMinimum", 0) + 1)
    if kind == "number":
        return field.get("minimum", field.get("maximum", 1))
    return {"boolean": True, "object": {}}.get(str(kind), "...")
