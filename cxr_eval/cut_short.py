"""A run cut short on the command line: fewer images, some of the cells, everything once; and the doubts that it stores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pydantic

from cxr_eval.errors import ProtocolError, nearest
from cxr_eval.planned import PlannedPlugin, accept
from cxr_eval.types import RowWarning

if TYPE_CHECKING:
    from cxr_eval.plan import Cell, Plan
    from cxr_eval.protocol_file import LoadedProtocol

ONLY = ("model", "trainer", "seed")
"""What `--only` may name."""
_LISTED = 6

_SMOKE: dict[str, int] = {
    "data.limit": 16,
    "train.epochs": 1,
    "train.select.steps": 1,
    "evaluate.resamples": 100,
    "evaluate.validity.images": 8,
    "evaluate.validity.steps": 4,
    "evaluate.validity.restarts": 1,
    "evaluate.anatomy.images": 4,
    "evaluate.anatomy.steps": 1,
    "explain.images": 2,
    "report.gallery": 1,
}
"""What a smoke run lowers in the protocol, and to what; nothing is raised."""

_SMOKE_OF_PLUGINS: dict[str, tuple[int, ...]] = {
    "binary_search_steps": (1,),
    "epochs": (1,),
    "images": (8,),  # of fewer patients than that, numbers are withheld
    "init_eval": (2,),
    "init_size": (10,),
    "max_eval": (10,),
    "max_iter": (1, 2),
    "nb_random_init": (1,),
    "nb_restarts": (1,),
    "num_random_init": (0, 1),
    "num_trial": (2,),
    "queries": (10,),
    "query_limit": (100,),
    "regions": (2,),
    "restarts": (1,),
    "runs": (1, 2),
    "samples": (1, 2),
    "segments": (4,),
    "sizes": (1, 2),
    "stages": (1, 2),
    "steps": (1, 2, 4),
}
"""Settings of plugins that cost time, and what a smoke run lowers them to: the first that the plugin accepts."""


def smoke(loaded: LoadedProtocol, planned: Plan) -> tuple[str, ...]:
    """The overrides, `KEY=VALUE`, that make everything of a protocol run once and tiny; what `--set` set is left as it is."""
    given = [tuple(each.partition("=")[0].strip().split(".")) for each in loaded.sets]
    wanted = [*_of_protocol(loaded.resolved), *_of_plugins(planned)]
    return tuple(
        f"{'.'.join(map(str, key))}={json.dumps(value)}"
        for key, value in wanted
        if not any(own == tuple(map(str, key))[: len(own)] for own in given)
    )


def _of_protocol(resolved: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, least in _SMOKE.items():
        *groups, name = path.split(".")
        within: Any = resolved
        for group in groups:
            within = within and within[group]
        if within and not (path == "train.select.steps" and within["metric"] != "robust_accuracy"):
            now = within[name]
            if now is None or now > least:
                yield (*groups, name), least
    if len(seeds := resolved["train"]["seeds"]) > 1:
        yield ("train", "seeds"), seeds[:1]


def _of_plugins(planned: Plan) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    conditions = [each for condition in planned.conditions for each in (condition.attack, condition.corruption) if each]
    kinds = (planned.trainers, planned.attacks, planned.explainers, planned.explanation_metrics, conditions)
    for plugins in kinds:
        for plugin in plugins:
            namesakes = [other for other in plugins if other.name == plugin.name]
            for name, choices in _SMOKE_OF_PLUGINS.items():
                # where plugins differ in a setting, it is what they are called by, and lists multiply into them
                if name not in plugin.settings or any(each.settings[name] != plugin.settings[name] for each in namesakes):
                    continue
                if plugins is conditions and name == "images":
                    continue
                least = _accepted(plugin, name, choices)
                if least is not None:
                    yield (*plugin.at, name), least


def _accepted(plugin: PlannedPlugin, name: str, choices: Sequence[int]) -> int | None:
    now = plugin.settings[name]
    for value in choices:
        if now is not None and (not isinstance(now, int) or now <= value):
            continue
        try:
            accept(plugin.cls, {**plugin.settings, name: value})
        except (pydantic.ValidationError, ValueError):
            continue
        return value
    return None


def kept(planned: Plan, only: Sequence[str]) -> Plan:
    """The plan with the cells that `--only` names and those that they need, and with the models and trainers of these.

    only: `trainer=LABEL`, `model=LABEL`, `seed=NUMBER`; of one key any, of several keys all must hold.

    Raises:
        ProtocolError: a key, a label or a seed that is not there, or no cell that fits all of them.
    """
    if not only:
        return planned
    wanted: dict[str, set[str]] = {}
    for each in only:
        key, known, value = _parsed(each, planned)
        wanted.setdefault(key, set()).update(label for label, name in known if value in (label, name))
    chosen = [cell for cell in planned.cells if all(_names(cell)[key] in labels for key, labels in wanted.items())]
    if not chosen:
        raise ProtocolError(f"--only {' --only '.join(only)}: no cell of this protocol is all of these; leave one out")
    cells = _with_needed(chosen, planned)
    models, trainers = ({_names(cell)[key] for cell in cells} for key in ("model", "trainer"))
    seeds = tuple(seed for seed in planned.protocol.train.seeds if seed in {cell.seed for cell in cells})
    train = planned.protocol.train.model_copy(update={"seeds": seeds})
    return replace(
        planned,
        protocol=planned.protocol.model_copy(update={"train": train}),
        models=tuple(model for model in planned.models if model.label in models),
        trainers=tuple(trainer for trainer in planned.trainers if trainer.label in trainers),
        cells=tuple(cells),
        left_out=tuple(cell.label for cell in planned.cells if cell not in cells),
    )


def _names(cell: Cell) -> dict[str, str]:
    return {"model": cell.model.label, "trainer": cell.trainer.label, "seed": str(cell.seed)}


def _parsed(each: str, planned: Plan) -> tuple[str, list[tuple[str, str]], str]:
    """Key, the labels with names that it may have, and the value."""
    key, equals, value = (part.strip() for part in each.partition("="))
    if not equals or key not in ONLY:
        hint = "" if key in ONLY else nearest(key, ONLY)
        raise ProtocolError(f"--only {each}: expected model=LABEL, trainer=LABEL or seed=NUMBER{hint}")
    if key == "seed":
        known = [(str(seed), str(seed)) for seed in planned.protocol.train.seeds]
    else:
        known = [(each.label, each.name) for each in (planned.models if key == "model" else planned.trainers)]
    if not any(value in pair for pair in known):
        labels = [label for label, _ in known]
        told = f"no {key} of this protocol is called '{value}'" if key != "seed" else f"no seed of this protocol is {value}"
        hint = (nearest(value, labels) if key != "seed" else "") or f"; it has {', '.join(labels)}"
        raise ProtocolError(f"--only {each}: {told}{hint}")
    return key, known, value


def _with_needed(chosen: Sequence[Cell], planned: Plan) -> list[Cell]:
    """Those cells and all whose networks they need, in the plan's order.

    Where models are chosen by another trainer's networks, all of these are needed: of fewer, others might be the best.
    """
    needed, waiting = list[int](), [planned.cells.index(cell) for cell in chosen]
    while waiting:
        at = waiting.pop()
        if at in needed:
            continue
        needed.append(at)
        cell = planned.cells[at]
        same = [(cell.model.label, label) for label in cell.needs.labels]
        same += [(need.model or cell.model.label, need.trainer) for need in planned.attack_needs.values() if need.trainer]
        compared = cell.needs.models.of if cell.needs.models is not None else None
        waiting += [
            number
            for number, other in enumerate(planned.cells)
            if other.trainer.label == compared or (other.seed == cell.seed and (other.model.label, other.trainer.label) in same)
        ]
    return [planned.cells[at] for at in sorted(needed)]


def doubts(loaded: LoadedProtocol, planned: Plan) -> list[RowWarning]:
    """Doubts about a whole run that was cut short on the command line; none about one that was not."""
    found = []
    if loaded.smoke:
        told = (
            "SMOKE RUN: everything ran once on a handful of images, to see that it runs. No number below says anything about"
            " any network or method."
        )
        found.append(RowWarning("smoke_run", "fail", "run", told))
    if planned.protocol.data.limit is not None and loaded.sources.get(("data", "limit"), "").startswith("--"):
        told = (
            f"At most {planned.protocol.data.limit} images of each split were used, as the command line asked. Networks were"
            " trained and judged on fewer images than the protocol names."
        )
        found.append(RowWarning("limited", "warn", "run", told))
    if planned.left_out:
        count, total = len(planned.left_out), len(planned.left_out) + len(planned.cells)
        listed = "; ".join(planned.left_out[:_LISTED]) + (f"; and {count - _LISTED} more" if count > _LISTED else "")
        told = f"--only {' --only '.join(loaded.only)} left out {count} of {total} cells of this protocol: {listed}."
        found.append(RowWarning("cells_left_out", "warn", "run", told))
    return found
