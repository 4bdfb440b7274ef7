"""What one protocol will run: every plugin found, every setting checked, lists multiplied into cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from cxr_eval.cascade import AttackNeeds, attack_needs, in_order
from cxr_eval.complaints import Complaint, complaints, dotted, shown
from cxr_eval.cut_short import kept
from cxr_eval.errors import DataError, nearest
from cxr_eval.marked_yaml import Key
from cxr_eval.planned import PlannedPlugin, accept, found_class, planned_uses, record, word
from cxr_eval.plugin import AttackParams, CorruptionParams
from cxr_eval.protocol import REFERENCES, PluginUse, Protocol, Selection, Source
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.registry import Kind, installed
from cxr_eval.stages import NOTHING, Needs, candidates, needs_of, ordered, stage
from cxr_eval.types import CHANCE, format_eps

_RESERVED = ("clean", "worst", "attacked", "convergence")  # conditions of rows that no attack may be called
_RESERVED_STARTS = ("worst(", "intact ", "without ", "only ", "inside ", "outside ", "marker of ")


@dataclass(frozen=True)
class PlannedCondition:
    """State of the images that are explained: clean if there is neither an attack nor a corruption."""

    label: str
    """`clean`, `ATTACK:EPS` or `CORRUPTION:SEVERITY`, as in the rows."""
    attack: PlannedPlugin | None = None
    eps: float = 0.0
    """Radius of the attack in pixel units; 0 without one."""
    corruption: PlannedPlugin | None = None
    severity: int = 0
    """Severity of the corruption; 0 without one."""


@dataclass(frozen=True)
class Cell:
    """One model, fitted by one trainer, from one seed."""

    model: PlannedPlugin
    trainer: PlannedPlugin
    seed: int
    needs: Needs = NOTHING

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
    outside: Mapping[str, tuple[PlannedPlugin, ...]]
    models: tuple[PlannedPlugin, ...]
    trainers: tuple[PlannedPlugin, ...]
    attacks: tuple[PlannedPlugin, ...]
    """Each behind the attack that it comes after."""
    corruptions: tuple[PlannedPlugin, ...]
    explainers: tuple[PlannedPlugin, ...]
    explanation_metrics: tuple[PlannedPlugin, ...]
    conditions: tuple[PlannedCondition, ...]
    needs: Mapping[str, Needs]
    """What each trainer needs, by its label."""
    attack_needs: Mapping[str, AttackNeeds]
    """What each attack builds on, by its label."""
    cells: tuple[Cell, ...]
    """Models x trainers x seeds, each after those that it needs. Of a second stage, all models that may be chosen."""
    left_out: tuple[str, ...] = ()
    """Labels of the cells that the command line left out."""

    @property
    def trains(self) -> bool:
        """False if every network is taken as it is."""
        return any(trainer.cls.trains for trainer in self.trainers)


def plan(loaded: LoadedProtocol) -> Plan:
    """The plan of a protocol; nothing of it has run, but all plugins that it names are imported.

    Raises:
        ProtocolError: a plugin is unknown, cannot be imported or refuses its settings; two would have one label; a split or a
            radius does not fit. All faults are listed, by line.
    """
    protocol, found = loaded.protocol, list[Complaint]()
    data, explain = protocol.data, protocol.explain

    reader = _reader(data.train, ("data", "train"), "train", found)
    outside = {
        name: tuple(_reader(source, at, name, found) for at, source in _places(("data", "outside", name), sources))
        for name, sources in data.outside.items()
    }
    found += [
        (("data", "outside", name), f"data.outside.{name}: {name} is a part of data.train; call this set something else")
        for name in ("train", "val", "test")
        if name in outside
    ]
    if data.train.when_missing is not None:
        found_class("readers", data.train.when_missing, ("data", "train", "when_missing"), found)

    models = planned_uses("models", protocol.models, ("models",), found)
    trainers = planned_uses("trainers", protocol.trainers, ("trainers",), found)
    needs = needs_of(protocol.trainers, trainers, [planned.label for _, planned in models], found)
    attacks = planned_uses("attacks", protocol.attacks, ("attacks",), found)
    trainer_labels, model_labels = ([planned.label for _, planned in each] for each in (trainers, models))
    sound = [(at, attack) for at, attack in attacks if set(AttackParams.model_fields) <= set(attack.settings)]
    fits = {label: candidates(label, needs, model_labels) for label in trainer_labels} if not found else {}
    builds_on = attack_needs(protocol.attacks, sound, fits, trainer_labels, model_labels, found)
    found += [
        (at, f"{dotted(at)}: no trainer fits '{planned.label}'; take it out, or name it in the 'models' of a trainer")
        for at, planned in models
        if fits and not any(planned.label in fitted for fitted in fits.values())
    ]
    corruptions = planned_uses("corruptions", protocol.corruptions, ("corruptions",), found)
    explainers = planned_uses("explainers", explain.methods if explain else (), ("explain", "methods"), found)
    metrics = planned_uses("explanation_metrics", explain.metrics if explain else (), ("explain", "metrics"), found)
    conditions = _conditions(explain.conditions if explain else (), found)

    tests = ("test", *data.outside)
    for at, planned in (*attacks, *corruptions):
        found += _lacking(planned)
        for field in ("eps", "severity", "splits"):
            found += _repeated((*at, field), planned.settings.get(field, []))
        found += [_split((*at, "splits"), split, tests) for split in planned.settings.get("splits", []) if split not in tests]
        if planned.label in _RESERVED or planned.label.startswith(_RESERVED_STARTS):
            found.append((at, f"{dotted(at)}: '{planned.label}' means something else in tables; give it another label"))
    attack_labels = {planned.label for _, planned in attacks}
    found += [
        (at, f"{dotted(at)}: an attack and a corruption would both be called '{planned.label}'; give one a label")
        for at, planned in corruptions
        if planned.label in attack_labels
    ]
    found += [
        (at, f"{dotted(at)}: '{planned.label}' means something else in tables; give it another label")
        for at, planned in explainers
        if planned.label in (*REFERENCES, CHANCE) or planned.label.startswith("randomised(")
    ]
    for name in explain.references if explain else ():
        if name not in REFERENCES:
            place: Key = ("explain", "references")
            found.append((place, f"{dotted(place)}: expected {', '.join(REFERENCES)}, got '{name}'{nearest(name, REFERENCES)}"))
    for name in protocol.evaluate.against or ():
        if name not in ("all", *trainer_labels):
            place = ("evaluate", "against")
            hint = nearest(name, trainer_labels)
            found.append((place, f"{dotted(place)}: no trainer of this protocol is called '{name}'{hint}"))
    if explain and explain.split not in tests:
        found.append(_split(("explain", "split"), explain.split, tests))
    found += _repeated(("train", "seeds"), protocol.train.seeds)
    found += _repeated(("explain", "references"), explain.references if explain else ())

    if found or reader is None:
        raise loaded.refuse(found)
    whole = Plan(
        protocol=protocol,
        demonstration=loaded.demonstration,
        reader=reader,
        outside={name: tuple(planned for planned in readers if planned) for name, readers in outside.items()},
        models=tuple(planned for _, planned in models),
        trainers=tuple(planned for _, planned in trainers),
        attacks=tuple(in_order([planned for _, planned in attacks], builds_on)),
        corruptions=tuple(planned for _, planned in corruptions),
        explainers=tuple(planned for _, planned in explainers),
        explanation_metrics=tuple(planned for _, planned in metrics),
        conditions=conditions,
        needs=needs,
        attack_needs=builds_on,
        cells=_cells(
            [planned for _, planned in models],
            ordered([planned for _, planned in trainers], needs),
            needs,
            protocol.train.seeds,
        ),
    )
    return kept(whole, loaded.only)


def _cells(
    models: Sequence[PlannedPlugin], trainers: Sequence[PlannedPlugin], needs: Mapping[str, Needs], seeds: Iterable[int]
) -> tuple[Cell, ...]:
    """Stage by stage, because models are chosen when all cells that they are chosen by are done; within one, model by model."""
    stages = {trainer.label: stage(trainer.label, needs) for trainer in trainers}
    fits = {trainer.label: candidates(trainer.label, needs, [model.label for model in models]) for trainer in trainers}
    return tuple(
        Cell(model, trainer, seed, needs[trainer.label])
        for number in sorted(set(stages.values()))
        for model in models
        for trainer in trainers
        if stages[trainer.label] == number and model.label in fits[trainer.label]
        for seed in seeds
    )


def _places(at: Key, sources: Sequence[Source]) -> list[tuple[Key, Source]]:
    """Sources with their places; one alone is written without a list."""
    return [(at if len(sources) == 1 else (*at, number), source) for number, source in enumerate(sources)]


def _lacking(planned: PlannedPlugin) -> list[Complaint]:
    """What an attack or a corruption lacks of the settings that all of them have."""
    needed = AttackParams if planned.kind == "attacks" else CorruptionParams
    if lacking := [field for field in needed.model_fields if field not in planned.settings]:
        text = f"{planned.name} has no '{lacking[0]}'; its Params must extend cxr_eval.api.{needed.__name__}"
        return [(planned.at, f"{dotted(planned.at)}: {text}")]
    return []


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
    return record("readers", source.reader, label, cls, accepted, at)


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
        return PlannedCondition("clean")
    kind: Kind = "corruptions" if use.name in installed("corruptions") else "attacks"
    cls = found_class(kind, use.name, (*at, "name"), found)
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
    planned = record(kind, use.name, use.label or use.name, cls, accepted, at)
    if lacking := _lacking(planned):
        found += lacking
        return None
    field, noun = ("eps", "radius") if kind == "attacks" else ("severity", "severity")
    amounts = planned.settings.get(field, [])
    if len(amounts) != 1:
        found.append(((*at, field), f"{dotted((*at, field))}: expected one {noun}, got {shown(amounts)}"))
        return None
    if kind == "corruptions":
        return PlannedCondition(f"{planned.label}:{amounts[0]}", corruption=planned, severity=amounts[0])
    return PlannedCondition(f"{planned.label}:{format_eps(amounts[0])}", attack=planned, eps=amounts[0])


def describe(plan: Plan) -> tuple[str, ...]:
    """Lines that say what will run: cells, attacks with their radii, explanations."""
    protocol, explain, seeds = plan.protocol, plan.protocol.explain, plan.protocol.train.seeds
    train, data = protocol.train, protocol.data
    total = cell_count(plan)
    counts = [(len(plan.models), "model"), (len(plan.trainers), "trainer"), (len(seeds), "seed"), (total, "cell")]
    models, trainers, runs, cells = (f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    whole = total == len(plan.models) * len(plan.trainers) * len(seeds)
    outside = "".join(
        f"; outside: {name} ({' and '.join(planned.name for planned in readers)})" for name, readers in plan.outside.items()
    )
    pixels = f"{data.size} x {data.size} pixels, {'grey' if data.channels == 1 else '3 channels'}"
    pixels += f", at most {data.limit} images of each split" if data.limit is not None else ""
    step = f"batches of {train.batch_size}, {train.optimizer.name}, lr {train.optimizer.lr:g}"
    lines = [
        f"{protocol.name}: "
        + (f"{models} x {trainers} x {runs} = {cells}" if whole else f"{models}, {trainers}, {runs}: {cells}"),
        f"data         {plan.reader.name}, {pixels}{outside}",
        f"models       {_labels(plan.models)}",
        f"trainers     {', '.join(_with_needs(trainer.label, plan.needs) for trainer in plan.trainers)}",
        f"seeds        {', '.join(map(str, seeds))}",
        f"training     at most {train.epochs} epochs, {step}",
    ]
    lines += [f"attack       {_attack(attack, plan.attack_needs[attack.label])}" for attack in plan.attacks]
    lines += [f"corruption   {_spread(corruption, 'severity')}" for corruption in plan.corruptions]
    if explain:
        lines += [
            f"explain      {_labels(plan.explainers)}",
            f"             on {explain.images} images of {explain.split}: {', '.join(c.label for c in plan.conditions)}",
        ]
        lines += [f"             measured by {_labels(plan.explanation_metrics)}"] if plan.explanation_metrics else []
    lines += [f"left out     {'; '.join(plan.left_out)}"] if plan.left_out else []
    return tuple(lines)


def _with_needs(label: str, needs: Mapping[str, Needs]) -> str:
    start, reference, models = needs[label].warm_start, needs[label].reference, needs[label].models
    told = label + (f" from {start}" if start else "") + (f" with {reference} as reference" if reference else "")
    return told + (f" on {selected(models)}" if models else "")


def selected(models: Selection) -> str:
    """A selection of models as a person says it."""
    if models.only is not None:
        return " and ".join(models.only)
    among = f", {' and '.join(models.always)} among them" if models.always else ""
    return f"the {models.best} best models by validation {models.by.replace('_', ' ')} of {models.of}{among}"


def cell_count(plan: Plan) -> int:
    """How many cells will be run; of a second stage, those that will be chosen."""
    fitted = 0
    for trainer in plan.trainers:
        cells = [cell for cell in plan.cells if cell.trainer.label == trainer.label]
        models, seeds = plan.needs[trainer.label].models, len({cell.seed for cell in cells})
        fitted += len(cells) if models is None or models.best is None else min(len(cells), models.best * seeds)
    return fitted


def _attack(attack: PlannedPlugin, needs: AttackNeeds) -> str:
    told = _spread(attack, "eps")
    told += f", after {needs.after}" if needs.after else ""
    return told + (f", transferred from {' on '.join(filter(None, (needs.trainer, needs.model)))}" if needs.trainer else "")


def _labels(plugins: Iterable[PlannedPlugin]) -> str:
    return ", ".join(plugin.label for plugin in plugins)


def _spread(plugin: PlannedPlugin, field: str) -> str:
    values = ", ".join(word(field, value) for value in plugin.settings[field])
    return f"{plugin.label}, {field} {values}, on {', '.join(plugin.settings['splits'])}"
