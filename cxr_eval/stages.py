"""Which trainers wait for which, and which models each of them fits: the order of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cxr_eval.complaints import Complaint, dotted
from cxr_eval.errors import nearest
from cxr_eval.marked_yaml import Key
from cxr_eval.planned import PlannedPlugin
from cxr_eval.protocol import Selection, TrainerUse


@dataclass(frozen=True)
class Needs:
    """What one trainer needs of others; labels of trainers, None for what it does not need."""

    warm_start: str | None = None
    """Its weights, of the same model and seed, are the ones that training starts from."""
    reference: str | None = None
    """The method looks at its predictions, of the same model and seed."""
    models: Selection | None = None
    """The models that it fits; all of them for None."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The trainers whose network of the same model and seed is needed."""
        return tuple(label for label in (self.warm_start, self.reference) if label is not None)

    @property
    def first(self) -> tuple[str, ...]:
        """The trainers that must be done before: those, and the one whose networks are compared."""
        return (*self.labels, self.models.of) if self.models and self.models.of is not None else self.labels


NOTHING = Needs()


def needs_of(
    uses: Sequence[TrainerUse],
    trainers: Sequence[tuple[Key, PlannedPlugin]],
    models: Sequence[str],
    found: list[Complaint],
) -> dict[str, Needs]:
    """What each trainer needs, by its label, and complaints about needs that cannot be met. models: their labels."""
    labels = [planned.label for _, planned in trainers]
    needs = {}
    for at, planned in trainers:
        use = uses[int(at[-1])]
        needs[planned.label] = Needs(use.warm_start, use.reference, use.models)
        named: list[tuple[Key, str | None]] = [(("warm_start",), use.warm_start), (("reference",), use.reference)]
        named += [(("models", "of"), use.models.of)] if use.models else []
        for field, label in named:
            if label is not None and label not in labels:
                found.append(((*at, *field), f"{dotted((*at, *field))}: {_no_trainer(label, labels)}"))
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
            return needs
    if models and all(label in needs for each in needs.values() for label in each.first):
        for at, planned in trainers:
            found += _models_that_are_not_there(at, planned.label, needs, models)
    return needs


def _no_trainer(label: str, labels: Sequence[str]) -> str:
    close = [each for each in labels if each.startswith(f"{label}(")]
    several = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    hint = several or nearest(label, labels) or f"; it has {', '.join(labels)}"
    return f"no trainer of this protocol is called '{label}'{hint}"


def _models_that_are_not_there(at: Key, label: str, needs: Mapping[str, Needs], models: Sequence[str]) -> list[Complaint]:
    selection, where = needs[label].models, (*at, "models")
    if selection is not None:
        for name in (*(selection.only or ()), *selection.always):
            if name not in models:
                hint = nearest(name, models) or f"; it has {', '.join(models)}"
                return [(where, f"{dotted(where)}: no model of this protocol is called '{name}'{hint}")]
        if selection.of is not None and (first := needs[selection.of].models) is not None and first.best is not None:
            return [
                (where, f"{dotted(where)}: {selection.of} fits chosen models itself; compare a trainer that fits all of them")
            ]
        if selection.best is not None and selection.best > (count := len(candidates(label, needs, models))):
            text = f"the best {selection.best} of {count} model{'' if count == 1 else 's'} that {selection.of} fits; lower best"
            return [(where, f"{dotted(where)}: {text}")]
        for name in selection.always:
            if name not in candidates(label, needs, models):
                return [(where, f"{dotted(where)}: {selection.of} does not fit '{name}'; take it out of always")]
    for needed in needs[label].labels:
        theirs = needs[needed].models
        if theirs is None or theirs == selection:
            continue
        lacking = set(candidates(label, needs, models)) - set(candidates(needed, needs, models))
        if theirs.best is not None or lacking:
            text = f"{label} needs {needed} on every model that it fits; give both the same 'models'"
            return [(where if selection else at, f"{dotted(at)}: {text}")]
    return []


def candidates(label: str, needs: Mapping[str, Needs], models: Sequence[str]) -> tuple[str, ...]:
    """Labels of the models that a trainer may fit; those of a second stage are some of them."""
    selection = needs[label].models
    if selection is None:
        return tuple(models)
    if selection.only is not None:
        return tuple(model for model in models if model in selection.only)
    assert selection.of is not None
    return candidates(selection.of, needs, models)


def _circle(label: str, needs: Mapping[str, Needs], before: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Labels from `label` back to itself, if what it needs leads there."""
    if label in before:
        return (*before, label) if label == before[0] else ()
    return next((way for each in needs.get(label, NOTHING).first if (way := _circle(each, needs, (*before, label)))), ())


def ordered(trainers: Iterable[PlannedPlugin], needs: Mapping[str, Needs]) -> list[PlannedPlugin]:
    """Trainers as they were written, but each after those that it needs."""
    waiting, result = {trainer.label: trainer for trainer in trainers}, list[PlannedPlugin]()
    while waiting:
        ready = next(t for label, t in waiting.items() if not any(each in waiting for each in needs[label].first))
        result.append(waiting.pop(ready.label))
    return result


def stage(label: str, needs: Mapping[str, Needs]) -> int:
    """0 for a trainer that waits for no choice of models, else how many choices come before it."""
    selection = needs[label].models
    own = 1 if selection is not None and selection.best is not None else 0
    return own + max((stage(each, needs) for each in needs[label].first), default=0)
