"""What one protocol will run: every plugin found, every setting checked, lists multiplied into cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from cxr_eval.complaints import Complaint, complaints, dotted, shown
from cxr_eval.errors import DataError, nearest
from cxr_eval.marked_yaml import Key
from cxr_eval.planned import PlannedPlugin, accept, found_class, planned_uses, record, word
from cxr_eval.protocol import PluginUse, Protocol, Source, TrainerUse
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.types import format_eps

_RESERVED = ("clean", "worst")  # conditions of rows that no attack may be called


@dataclass(frozen=True)
class PlannedCondition:
    """State of the images that are explained: clean if there is no attack."""

    label: str
    """`clean`, or `ATTACK:EPS` as in the rows."""
    attack: PlannedPlugin | None
    eps: float
    """Radius of the attack in pixel units; 0 if clean."""


@dataclass(frozen=True)
class Needs:
    """Labels of the trainers whose networks, of the same model and seed, one trainer needs; None for those it does not."""

    warm_start: str | None = None
    """Its weights are the ones that training starts from."""
    reference: str | None = None
    """The method looks at its predictions."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that are needed."""
        return tuple(label for label in (self.warm_start, self.reference) if label is not None)


@dataclass(frozen=True)
class Cell:
    """One model, fitted by one trainer, from one seed."""

    model: PlannedPlugin
    trainer: PlannedPlugin
    seed: int
    needs: Needs = Needs()

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
    needs: Mapping[str, Needs]
    """What each trainer needs, by its label."""
    cells: tuple[Cell, ...]
    """Models x trainers x seeds, each after those that it needs."""


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
        found_class("readers", data.train.when_missing, ("data", "train", "when_missing"), found)

    models = planned_uses("models", protocol.models, ("models",), found)
    trainers = planned_uses("trainers", protocol.trainers, ("trainers",), found)
    needs = _needs(protocol.trainers, trainers, found)
    attacks = planned_uses("attacks", protocol.attacks, ("attacks",), found)
    corruptions = planned_uses("corruptions", protocol.corruptions, ("corruptions",), found)
    explainers = planned_uses("explainers", explain.methods if explain else (), ("explain", "methods"), found)
    metrics = planned_uses("explanation_metrics", explain.metrics if explain else (), ("explain", "metrics"), found)
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
        needs=needs,
        cells=tuple(
            Cell(model, trainer, seed, needs[trainer.label])
            for _, model in models
            for trainer in _ordered([trainer for _, trainer in trainers], needs)
            for seed in protocol.train.seeds
        ),
    )


def _needs(
    uses: Sequence[TrainerUse], trainers: Sequence[tuple[Key, PlannedPlugin]], found: list[Complaint]
) -> dict[str, Needs]:
    labels = [planned.label for _, planned in trainers]
    needs = {}
    for at, planned in trainers:
        use = uses[int(at[-1])]
        needs[planned.label] = Needs(use.warm_start, use.reference)
        for field, label in (("warm_start", use.warm_start), ("reference", use.reference)):
            if label is not None and label not in labels:
                close = [each for each in labels if each.startswith(f"{label}(")]
                several = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
                hint = several or nearest(label, labels) or f"; it has {', '.join(labels)}"
                text = f"no trainer of this protocol is called '{label}'{hint}"
                found.append(((*at, field), f"{dotted((*at, field))}: {text}"))
        if planned.cls.uses_reference and use.reference is None:
            text = f"{planned.name} needs 'reference: NAME', a trainer of this protocol whose network it looks at"
            found.append((at, f"{dotted(at)}: {text}"))
        if use.reference is not None and not planned.cls.uses_reference:
            text = f"{planned.name} looks at no other network; did you mean warm_start?"
            found.append(((*at, "reference"), f"{dotted((*at, 'reference'))}: {text}"))
    for at, planned in trainers:
        if circle := _circle(planned.label, needs):
            way = " -> ".join(circle)
            itself = f"{planned.label} cannot need its own network; name another trainer"
            text = itself if len(circle) == 2 else f"trainers that wait for each other: {way}; let one of them start without"
            found.append((at, f"{dotted(at)}: {text}"))
            break
    return needs


def _circle(label: str, needs: Mapping[str, Needs], before: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Labels from `label` back to itself, if what it needs leads there."""
    if label in before:
        return (*before, label) if label == before[0] else ()
    nothing = Needs()
    return next((way for each in needs.get(label, nothing).labels if (way := _circle(each, needs, (*before, label)))), ())


def _ordered(trainers: Iterable[PlannedPlugin], needs: Mapping[str, Needs]) -> list[PlannedPlugin]:
    """Trainers as they were written, but each after those that it needs."""
    waiting, ordered = {trainer.label: trainer for trainer in trainers}, list[PlannedPlugin]()
    while waiting:
        ready = next(t for label, t in waiting.items() if not any(each in waiting for each in needs[label].labels))
        ordered.append(waiting.pop(ready.label))
    return ordered


def _split(at: Key, split: str, tests: Sequence[str]) -> Complaint:
    known = "test" if len(tests) == 1 else f"test or an outside set ({', '.join(tests[1:])})"
    return at, f"{dotted(at)}: expected {known}, got '{split}'{nearest(split, tests)}"


def _repeated(at: Key, values: Sequence[Any]) -> list[Complaint]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    return [(at, f"{dotted(at)}: {word(at[-1], twice[0])} is listed twice")] if twice else []


def _reader(source: Source, at: Key, label: str, found: list[Complaint]) -> PlannedPlugin | None:
    cls = found_class("readers", source.reader, (*at, "reader"), found)
    if cls is None:
        return None
    try:
        accepted = accept(cls, source.settings)
        cls(accepted).check()
    except pydantic.ValidationError as error:
        found += complaints(error, cls.Params, at=at, owner=source.reader)
        return None
    except DataError as error:
        found.append(((*at, "root"), f"{dotted(at)}: {error}"))
        return None
    return record("readers", source.reader, label, cls, accepted)


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
    cls = found_class("attacks", use.name, (*at, "name"), found)
    if cls is None:
        return None
    for name in ("images", "splits"):
        if name in use.settings:
            where = "explain.images" if name == "images" else "explain.split"
            found.append(((*at, name), f"{dotted((*at, name))}: {where} says which images are explained; take this out"))
    try:
        accepted = accept(cls, use.settings)
    except pydantic.ValidationError as error:
        found += complaints(error, cls.Params, at=at, owner=use.name)
        return None
    planned = record("attacks", use.name, use.label or use.name, cls, accepted)
    radii = planned.settings.get("eps", [])
    if len(radii) != 1:
        found.append(((*at, "eps"), f"{dotted((*at, 'eps'))}: expected one radius, got {shown(radii)}"))
        return None
    return PlannedCondition(f"{planned.label}:{format_eps(radii[0])}", planned, radii[0])


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
        f"trainers     {', '.join(_with_needs(trainer.label, plan.needs) for trainer in plan.trainers)}",
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


def _with_needs(label: str, needs: Mapping[str, Needs]) -> str:
    start, reference = needs[label].warm_start, needs[label].reference
    return label + (f" from {start}" if start else "") + (f" with {reference} as reference" if reference else "")


def _labels(plugins: Iterable[PlannedPlugin]) -> str:
    return ", ".join(plugin.label for plugin in plugins)


def _spread(plugin: PlannedPlugin, field: str) -> str:
    values = ", ".join(word(field, value) for value in plugin.settings[field])
    return f"{plugin.label}, {field} {values}, on {', '.join(plugin.settings['splits'])}"
