"""One plugin use of a protocol as the plugins it stands for: found, its settings checked, its lists multiplied."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from cxr_eval.complaints import Complaint, complaints, dotted
from cxr_eval.errors import PluginError
from cxr_eval.marked_yaml import Key
from cxr_eval.params import Params
from cxr_eval.protocol import PluginUse
from cxr_eval.registry import SINGULAR, Kind, find, origin
from cxr_eval.types import format_eps

_MOST_CHOICES = 200  # one use that is more is a slip, such as a list in a list


@dataclass(frozen=True)
class PlannedPlugin:
    """One plugin with settings that it has accepted."""

    kind: Kind
    name: str
    label: str
    """Its name in tables; differs from that of every other plugin of its kind in the plan."""
    cls: type[Any]
    params: Params
    settings: dict[str, Any]
    """All settings, defaults included, as plain JSON data."""
    origin: str
    """Distribution and version that the plugin comes from."""
    at: Key = field(default=(), compare=False)
    """Where the protocol names it, for complaints."""


@dataclass(frozen=True)
class _Choice:
    """One plugin use with one value for each setting that was given as a list of values."""

    use: PluginUse
    at: Key
    cls: type[Any]
    params: Params
    settings: dict[str, Any]


def found_class(kind: Kind, name: str, at: Key, found: list[Complaint]) -> type[Any] | None:
    """The plugin's class, or a complaint."""
    try:
        return find(kind, name)
    except PluginError as error:
        place = at[:-1] if at[-1] == "name" else at  # `- fgsm` has no `name` written
        found.append((at, f"{dotted(place)}: {error}"))
        return None


def accept(cls: type[Any], settings: dict[str, Any]) -> Params:
    """Settings as the plugin holds them.

    Raises:
        pydantic.ValidationError: it does not take them.
    """
    # As JSON, so that a list may become a tuple and text a path, and nothing else changes its type.
    accepted: Params = cls.Params.model_validate_json(json.dumps(settings))
    return accepted


def record(kind: Kind, name: str, label: str, cls: type[Any], accepted: Params, at: Key) -> PlannedPlugin:
    """The plugin with the settings that it has accepted."""
    return PlannedPlugin(kind, name, label, cls, accepted, accepted.model_dump(mode="json"), origin(kind, name), at)


def _choices(kind: Kind, use: PluginUse, at: Key, found: list[Complaint]) -> list[_Choice]:
    """One use, or as many as its lists of values multiply into.

    A list that the plugin accepts is one value. A list for a setting that takes one value stands for several uses.
    """
    cls = found_class(kind, use.name, (*at, "name"), found)
    if cls is None:
        return []
    settings = use.settings
    try:
        accepted = accept(cls, settings)
        return [_Choice(use, at, cls, accepted, accepted.model_dump(mode="json"))]
    except pydantic.ValidationError as error:
        varied = [name for name in settings if _takes_one(cls, settings, name, error)]
        if not varied:
            found += complaints(error, cls.Params, at=at, owner=use.name, beside=type(use).model_fields)
            return []
    count = math.prod(len(settings[name]) for name in varied)
    if count > _MOST_CHOICES:
        found.append(
            (at, f"{dotted(at)}: its lists multiply into {count} {kind.replace('_', ' ')}; at most {_MOST_CHOICES} fit")
        )
        return []
    choices = []
    for picks in itertools.product(*(range(len(settings[name])) for name in varied)):
        one = {**settings, **{name: settings[name][pick] for name, pick in zip(varied, picks, strict=True)}}
        try:
            accepted = accept(cls, one)
            choices.append(_Choice(use, at, cls, accepted, accepted.model_dump(mode="json")))
        except pydantic.ValidationError as error:
            found += complaints(error, cls.Params, at=at, owner=use.name, beside=type(use).model_fields)
    return choices


def _takes_one(cls: type[Any], settings: dict[str, Any], name: str, error: pydantic.ValidationError) -> bool:
    """True if `name` was given a list, takes one value, and takes at least one of those in the list."""
    values = settings[name]
    refused = any(
        details["loc"] == (name,) and (details["type"].endswith("_type") or details["type"] == "literal_error")
        for details in error.errors(include_url=False)
    )
    return isinstance(values, list) and refused and any(_takes(cls, {**settings, name: value}, name) for value in values)


def _takes(cls: type[Any], settings: dict[str, Any], name: str) -> bool:
    try:
        accept(cls, settings)
    except pydantic.ValidationError as error:
        return all(details["loc"][:1] != (name,) for details in error.errors(include_url=False))
    return True


def planned_uses(kind: Kind, uses: Iterable[PluginUse], at: Key, found: list[Complaint]) -> list[tuple[Key, PlannedPlugin]]:
    """All plugins that the uses stand for, each with the place of its use, and complaints about those that do not fit."""
    choices = [choice for index, use in enumerate(uses) for choice in _choices(kind, use, (*at, index), found)]
    planned: dict[str, tuple[Key, PlannedPlugin]] = {}
    for choice in choices:
        label = _label(choice, choices)
        if label in planned:
            text = f"two {SINGULAR[kind]}s would be called '{label}'; give one a label"
            found.append((choice.at, f"{dotted(choice.at)}: {text}"))
            continue
        planned[label] = choice.at, record(kind, choice.use.name, label, choice.cls, choice.params, choice.at)
    return list(planned.values())


def _label(choice: _Choice, choices: Sequence[_Choice]) -> str:
    """The label or name alone if that is enough, else with the settings in which its namesakes differ."""
    if choice.use.label is not None:
        namesakes = [other for other in choices if other.at == choice.at]
    else:
        namesakes = [other for other in choices if other.use.label is None and other.use.name == choice.use.name]
    differing = [
        name for name, value in choice.settings.items() if any(other.settings.get(name) != value for other in namesakes)
    ]
    inside = " ".join(f"{name}={word(name, choice.settings[name])}" for name in differing)
    return (choice.use.label or choice.use.name) + (f"({inside})" if inside else "")


def word(name: str | int, value: Any) -> str:
    """A setting's value as labels and lists show it; a radius as `8/255`."""
    if isinstance(value, list):
        return ",".join(word(name, part) for part in value)
    if name == "eps" and isinstance(value, float):
        return format_eps(value)
    return value if isinstance(value, str) else json.dumps(value)
