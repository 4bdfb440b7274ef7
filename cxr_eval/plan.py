"""What one protocol will run: every plugin found, every setting checked, lists multiplied into cells."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from cxr_eval.complaints import Complaint, complaints, dotted, shown
from cxr_eval.errors import DataError, PluginError
from cxr_eval.marked_yaml import Key
from cxr_eval.params import Params
from cxr_eval.protocol import PluginUse, Protocol, Source
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.registry import SINGULAR, Kind, find, nearest, origin
from cxr_eval.types import format_eps

_MOST_CHOICES = 200  # one use that is more is a slip, such as a list in a list
_RESERVED = ("clean", "worst")  # conditions of rows that no attack may be called


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


@dataclass(frozen=True)
class PlannedCondition:
    """State of the images that are explained: clean if there is no attack."""

    label: str
    """`clean`, or `ATTACK:EPS` as in the rows."""
    attack: PlannedPlugin | None
    eps: float
    """Radius of the attack in pixel units; 0 if clean."""


@dataclass(frozen=True)
class Cell:
    """One model, fitted by one trainer, from one seed."""

    model: PlannedPlugin
    trainer: PlannedPlugin
    seed: int

    @property
    def label(self) -> str:
        """`resnet18, fgsm, seed 0`."""
        return f"{self.model.label}, {self.trainer.label}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Everything that one protocol runs, in the order in which it was written."""

    protocol: Protocol
    demonstration: bool
    reader: PlannedPlugin
    outside: Mapping[str, PlannedPlugin]
    models: tuple[PlannedPlugin, ...]
    trainers: tuple[PlannedPlugin, ...]
    attacks: tuple[PlannedPlugin, ...]
    corruptions: tuple[PlannedPlugin, ...]
    explainers: tuple[PlannedPlugin, ...]
    explanation_metrics: tuple[PlannedPlugin, ...]
    conditions: tuple[PlannedCondition, ...]
    cells: tuple[Cell, ...]
    """Models x trainers x seeds."""


@dataclass(frozen=True)
class _Choice:
    """One plugin use with one value for each setting that was given as a list of values."""

    use: PluginUse
    at: Key
    cls: type[Any]
    params: Params
    settings: dict[str, Any]


def plan(loaded: LoadedProtocol) -> Plan:
    """The plan of a protocol; nothing of it has run, but all plugins that it names are imported.

    Raises:
        ProtocolError: a plugin is unknown, cannot be imported or refuses its settings; two would have one label; a split or a
            radius does not fit. All faults are listed, by line.
    """
    protocol, found = loaded.protocol, list[Complaint]()
    data, explain = protocol.data, protocol.explain

    reader = _reader(data.train, ("data", "train"), "train", found)
    outside = {name: _reader(source, ("data", "outside", name), name, found) for name, source in data.outside.items()}
    found += [
        (("data", "outside", name), f"data.outside.{name}: {name} is a part of data.train; call this set something else")
        for name in ("train", "val", "test")
        if name in outside
    ]
    if data.train.when_missing is not None:
        _found("readers", data.train.when_missing, ("data", "train", "when_missing"), found)

    models = _planned("models", protocol.models, ("models",), found)
    trainers = _planned("trainers", protocol.trainers, ("trainers",), found)
    attacks = _planned("attacks", protocol.attacks, ("attacks",), found)
    corruptions = _planned("corruptions", protocol.corruptions, ("corruptions",), found)
    explainers = _planned("explainers", explain.methods if explain else (), ("explain", "methods"), found)
    metrics = _planned("explanation_metrics", explain.metrics if explain else (), ("explain", "metrics"), found)
    conditions = _conditions(explain.conditions if explain else (), found)

    tests = ("test", *data.outside)
    for at, planned in (*attacks, *corruptions):
        needed = ("eps", "images", "splits") if planned.kind == "attacks" else ("severity", "splits")
        if lacking := [field for field in needed if field not in planned.settings]:
            base = "AttackParams" if planned.kind == "attacks" else "CorruptionParams"
            found.append(
                (at, f"{dotted(at)}: {planned.name} has no '{lacking[0]}'; its Params must extend cxr_eval.api.{base}")
            )
        for field in ("eps", "severity", "splits"):
            found += _repeated((*at, field), planned.settings.get(field, []))
        found += [_split((*at, "splits"), split, tests) for split in planned.settings.get("splits", []) if split not in tests]
        if planned.label in _RESERVED:
            found.append((at, f"{dotted(at)}: '{planned.label}' means something else in tables; give it another label"))
    attack_labels = {planned.label for _, planned in attacks}
    found += [
        (at, f"{dotted(at)}: an attack and a corruption would both be called '{planned.label}'; give one a label")
        for at, planned in corruptions
        if planned.label in attack_labels
    ]
    if explain and explain.split not in tests:
        found.append(_split(("explain", "split"), explain.split, tests))
    found += _repeated(("train", "seeds"), protocol.train.seeds)

    if found or reader is None:
        raise loaded.refuse(found)
    return Plan(
        protocol=protocol,
        demonstration=loaded.demonstration,
        reader=reader,
        outside={name: planned for name, planned in outside.items() if planned},
        models=tuple(planned for _, planned in models),
        trainers=tuple(planned for _, planned in trainers),
        attacks=tuple(planned for _, planned in attacks),
        corruptions=tuple(planned for _, planned in corruptions),
        explainers=tuple(planned for _, planned in explainers),
        explanation_metrics=tuple(planned for _, planned in metrics),
        conditions=conditions,
        cells=tuple(
            Cell(model, trainer, seed)
            for (_, model), (_, trainer), seed in itertools.product(models, trainers, protocol.train.seeds)
        ),
    )


def _split(at: Key, split: str, tests: Sequence[str]) -> Complaint:
    known = "test" if len(tests) == 1 else f"test or an outside set ({', '.join(tests[1:])})"
    return at, f"{dotted(at)}: expected {known}, got '{split}'{nearest(split, tests)}"


def _repeated(at: Key, values: Sequence[Any]) -> list[Complaint]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    return [(at, f"{dotted(at)}: {_word(at[-1], twice[0])} is listed twice")] if twice else []


def _found(kind: Kind, name: str, at: Key, found: list[Complaint]) -> type[Any] | None:
    try:
        return find(kind, name)
    except PluginError as error:
        place = at[:-1] if at[-1] == "name" else at  # `- fgsm` has no `name` written
        found.append((at, f"{dotted(place)}: {error}"))
        return None


def _accepted(cls: type[Any], settings: dict[str, Any]) -> Params:
    # As JSON, so that a list may become a tuple and text a path, and nothing else changes its type.
    accepted: Params = cls.Params.model_validate_json(json.dumps(settings))
    return accepted


def _reader(source: Source, at: Key, label: str, found: list[Complaint]) -> PlannedPlugin | None:
    cls = _found("readers", source.reader, (*at, "reader"), found)
    if cls is None:
        return None
    try:
        accepted = _accepted(cls, source.settings)
        cls(accepted).check()
    except pydantic.ValidationError as error:
        found += complaints(error, cls.Params, at=at, owner=source.reader)
        return None
    except DataError as error:
        found.append(((*at, "root"), f"{dotted(at)}: {error}"))
        return None
    return _record("readers", source.reader, label, cls, accepted)


def _record(kind: Kind, name: str, label: str, cls: type[Any], accepted: Params) -> PlannedPlugin:
    return PlannedPlugin(kind, name, label, cls, accepted, accepted.model_dump(mode="json"), origin(kind, name))


def _choices(kind: Kind, use: PluginUse, at: Key, found: list[Complaint]) -> list[_Choice]:
    """One use, or as many as its lists of values multiply into.

    A list that the plugin accepts is one value. A list for a setting that takes one value stands for several uses.
    """
    cls = _found(kind, use.name, (*at, "name"), found)
    if cls is None:
        return []
    settings = use.settings
    try:
        accepted = _accepted(cls, settings)
        return [_Choice(use, at, cls, accepted, accepted.model_dump(mode="json"))]
    except pydantic.ValidationError as error:
        varied = [name for name in settings if _takes_one(cls, settings, name, error)]
        if not varied:
            found += complaints(error, cls.Params, at=at, owner=use.name)
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
            accepted = _accepted(cls, one)
            choices.append(_Choice(use, at, cls, accepted, accepted.model_dump(mode="json")))
        except pydantic.ValidationError as error:
            found += complaints(error, cls.Params, at=at, owner=use.name)
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
        _accepted(cls, settings)
    except pydantic.ValidationError as error:
        return all(details["loc"][:1] != (name,) for details in error.errors(include_url=False))
    return True


def _planned(kind: Kind, uses: Iterable[PluginUse], at: Key, found: list[Complaint]) -> list[tuple[Key, PlannedPlugin]]:
    choices = [choice for index, use in enumerate(uses) for choice in _choices(kind, use, (*at, index), found)]
    planned: dict[str, tuple[Key, PlannedPlugin]] = {}
    for choice in choices:
        label = _label(choice, choices)
        if label in planned:
            text = f"two {SINGULAR[kind]}s would be called '{label}'; give one a label"
            found.append((choice.at, f"{dotted(choice.at)}: {text}"))
            continue
        planned[label] = choice.at, _record(kind, choice.use.name, label, choice.cls, choice.params)
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
    inside = " ".join(f"{name}={_word(name, choice.settings[name])}" for name in differing)
    return (choice.use.label or choice.use.name) + (f"({inside})" if inside else "")


def _word(name: str | int, value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_word(name, part) for part in value)
    if name == "eps" and isinstance(value, float):
        return format_eps(value)
    return value if isinstance(value, str) else json.dumps(value)


def _conditions(uses: Sequence[PluginUse], found: list[Complaint]) -> tuple[PlannedCondition, ...]:
    planned: dict[str, PlannedCondition] = {}
    for index, use in enumerate(uses):
        at: Key = ("explain", "conditions", index)
        condition = _condition(use, at, found)
        if condition is None:
            continue
        if condition.label in planned:
            text = f"two conditions would be called '{condition.label}'; give one a label"
            found.append((at, f"{dotted(at)}: {text}"))
        planned[condition.label] = condition
    return tuple(planned.values())


def _condition(use: PluginUse, at: Key, found: list[Complaint]) -> PlannedCondition | None:
    if use.name == "clean":
        if use.settings or use.label:
            found.append((at, f"{dotted(at)}: clean has no settings"))
        return PlannedCondition("clean", None, 0.0)
    cls = _found("attacks", use.name, (*at, "name"), found)
    if cls is None:
        return None
    for name in ("images", "splits"):
        if name in use.settings:
            where = "explain.images" if name == "images" else "explain.split"
            found.append(((*at, name), f"{dotted((*at, name))}: {where} says which images are explained; take this out"))
    try:
        accepted = _accepted(cls, use.settings)
    except pydantic.ValidationError as error:
        found += complaints(error, cls.Params, at=at, owner=use.name)
        return None
    record = _record("attacks", use.name, use.label or use.name, cls, accepted)
    radii = record.settings.get("eps", [])
    if len(radii) != 1:
        found.append(((*at, "eps"), f"{dotted((*at, 'eps'))}: expected one radius, got {shown(radii)}"))
        return None
    return PlannedCondition(f"{record.label}:{format_eps(radii[0])}", record, radii[0])


def describe(plan: Plan) -> tuple[str, ...]:
    """Lines that say what will run: cells, attacks with their radii, explanations."""
    protocol, explain, seeds = plan.protocol, plan.protocol.explain, plan.protocol.train.seeds
    train, data = protocol.train, protocol.data
    counts = [(len(plan.models), "model"), (len(plan.trainers), "trainer"), (len(seeds), "seed"), (len(plan.cells), "cell")]
    models, trainers, runs, cells = (f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    outside = "".join(f"; outside: {name} ({planned.name})" for name, planned in plan.outside.items())
    pixels = f"{data.size} x {data.size} pixels, {'grey' if data.channels == 1 else '3 channels'}"
    step = f"batches of {train.batch_size}, {train.optimizer.name}, lr {train.optimizer.lr:g}"
    lines = [
        f"{protocol.name}: {models} x {trainers} x {runs} = {cells}",
        f"data         {plan.reader.name}, {pixels}{outside}",
        f"models       {_labels(plan.models)}",
        f"trainers     {_labels(plan.trainers)}",
        f"seeds        {', '.join(map(str, seeds))}",
        f"training     at most {train.epochs} epochs, {step}",
    ]
    lines += [f"attack       {_spread(attack, 'eps')}" for attack in plan.attacks]
    lines += [f"corruption   {_spread(corruption, 'severity')}" for corruption in plan.corruptions]
    if explain:
        lines += [
            f"explain      {_labels(plan.explainers)}",
            f"             on {explain.images} images of {explain.split}: {', '.join(c.label for c in plan.conditions)}",
        ]
        lines += [f"             measured by {_labels(plan.explanation_metrics)}"] if plan.explanation_metrics else []
    return tuple(lines)


def _labels(plugins: Iterable[PlannedPlugin]) -> str:
    return ", ".join(plugin.label for plugin in plugins)


def _spread(plugin: PlannedPlugin, field: str) -> str:
    values = ", ".join(_word(field, value) for value in plugin.settings[field])
    return f"{plugin.label}, {field} {values}, on {', '.join(plugin.settings['splits'])}"
