"""Requirements on a run's numbers, for pipelines: `robust_accuracy@pgd:0.02 >= 0.6` is met by all networks, or it is not."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cxr_eval.errors import ProtocolError, nearest
from cxr_eval.params import parse_radius
from cxr_eval.report.results import Results, Score, number
from cxr_eval.store import Run

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
SELECTORS = ("model", "trainer", "split", "explainer", "subgroup")
BOUNDS = ("low", "high")

_FORM = re.compile(
    r"\s*(?:(?P<bound>[a-z]+)\((?P<bounded>.+)\)|(?P<plain>.+?))"
    r"\s*(?P<operator>>=|<=|>|<)\s*(?P<value>\S+)(?:\s+for\s+(?P<where>.+))?\s*",
    re.DOTALL,
)
_AND = re.compile(r"\s+and\s+(?=[a-z]+=)")
_EXPECTED = (
    "expected METRIC@CONDITION OP VALUE, such as 'robust_accuracy@pgd:0.02 >= 0.6' or"
    " 'low(accuracy@clean) > 0.8 for split=test'"
)


@dataclass(frozen=True)
class Requirement:
    """One requirement. bound: which end of the interval is meant; empty for the number itself."""

    text: str
    metric: str
    condition: str
    operator: str
    value: float
    bound: str = ""
    where: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether one requirement is met, and in one line by what."""

    requirement: Requirement
    met: bool
    line: str


def parse(text: str) -> Requirement:
    """A requirement as it is written: `[low|high(]METRIC@CONDITION[)] OP VALUE [for KEY=VALUE [and KEY=VALUE ...]]`.

    OP is >=, <=, > or <. KEY is model, trainer, split, explainer or subgroup. The number is the mean over the seeds, as reports
    show it; `low` and `high` are the ends of its interval. Without a model or trainer all of them must meet it; without a split
    the test set's.

    Raises:
        ProtocolError: it is not of this form.
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise ProtocolError(f"--gate '{text}': {_EXPECTED}")
    bound = found["bound"] or ""
    name = found["bounded"] or found["plain"]
    if bound and bound not in BOUNDS:
        raise ProtocolError(f"--gate '{text}': expected {' or '.join(BOUNDS)}, got '{bound}'{nearest(bound, BOUNDS)}")
    metric, at, condition = name.rpartition("@")
    if not at or not metric.strip() or not condition.strip():
        raise ProtocolError(f"--gate '{text}': {_EXPECTED}; '{name.strip()}' has no condition, such as @clean")
    if condition.rstrip().endswith(("=", "<", ">", "!")):  # `=>`, `<>`, `!=`: part of it would be taken for the condition
        raise ProtocolError(f"--gate '{text}': expected one of {', '.join(OPERATORS)} between name and number; {_EXPECTED}")
    try:
        value = float(parse_radius(found["value"]))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ProtocolError(f"--gate '{text}': expected a number after {found['operator']}, got '{found['value']}'")
    where = dict(_selected(text, found["where"]))
    return Requirement(text.strip(), metric.strip(), condition.strip(), found["operator"], value, bound, where)


def _selected(text: str, where: str | None) -> Iterator[tuple[str, str]]:
    for each in _AND.split(where.strip()) if where else ():
        key, equals, value = each.partition("=")
        if not equals or key not in SELECTORS:
            expected = ", ".join(SELECTORS)
            raise ProtocolError(
                f"--gate '{text}': expected KEY=VALUE with KEY among {expected}, got '{each}'{nearest(key, SELECTORS)}"
            )
        yield key, value.strip()


def judge(run: Run, requirements: Sequence[Requirement]) -> list[Verdict]:
    """Which requirements a run meets.

    One is met if every network that it is about meets it. A number that is not there, or in some seed is not there or withheld,
    or on which a check of validity failed meets nothing, nor does any of a smoke run.

    Raises:
        ProtocolError: a requirement names a model, trainer, split, metric or condition that the run does not have.
    """
    results = Results(run.rows(), run.manifest(), run.warnings())
    return [_judged(results, requirement) for requirement in requirements]


def _judged(results: Results, requirement: Requirement) -> Verdict:
    where = {"split": "test"} | requirement.where
    condition = _condition(results, requirement)
    known = {"model": results.models, "trainer": results.trainers, "split": results.splits}
    for key, names in known.items():
        if key in where and where[key] not in names:
            there = ", ".join(names) or "none"
            hint = nearest(where[key], names)
            raise ProtocolError(f"--gate '{requirement.text}': the run has no {key} '{where[key]}'{hint}; it has: {there}")
    scores = {
        f"{model}, {trainer}": results.score(
            model=model,
            trainer=trainer,
            split=where["split"],
            metric=requirement.metric,
            condition=condition,
            explainer=where.get("explainer", ""),
            subgroup=where.get("subgroup", ""),
        )
        for model in results.models
        for trainer in results.trainers
        if where.get("model", model) == model and where.get("trainer", trainer) == trainer and _trained(results, model, trainer)
    }
    seeds = {f"{cell['model']}, {cell['trainer']}": 0 for cell in results.manifest["cells"]}
    for cell in results.manifest["cells"]:
        seeds[f"{cell['model']}, {cell['trainer']}"] += 1
    if not any(scores.values()):
        raise ProtocolError(f"--gate '{requirement.text}': {_absent(results, requirement, where)}")
    missed = {
        who: why for who, score in scores.items() if (why := _missed(requirement, score, smoke=results.smoke, seeds=seeds[who]))
    }
    shown = requirement.text
    if missed:
        return Verdict(requirement, False, f"NOT MET  {shown}: " + "; ".join(f"{who}: {why}" for who, why in missed.items()))
    worst = (min if requirement.operator in (">", ">=") else max)(
        scores.items(),
        key=lambda pair: _of(requirement, pair[1]),  # type: ignore[arg-type]
    )
    return Verdict(requirement, True, f"met      {shown}: closest is {worst[0]} with {number(_of(requirement, worst[1]))}")  # type: ignore[arg-type]


def _trained(results: Results, model: str, trainer: str) -> bool:
    """True if the run has a cell of this model and trainer, failed or not."""
    return any((cell["model"], cell["trainer"]) == (model, trainer) for cell in results.manifest["cells"])


def _of(requirement: Requirement, score: Score) -> float:
    return float(getattr(score, requirement.bound)) if requirement.bound else score.value


def _missed(requirement: Requirement, score: Score | None, *, smoke: bool, seeds: int) -> str:
    """Why a number does not meet a requirement; nothing if it does."""
    if score is None:
        return "not measured"
    value = _of(requirement, score)
    if math.isnan(value):
        return f"no number ({score.note})" if score.note else f"no {requirement.bound or 'number'} is defined"
    if smoke:
        return f"{number(value)}, of a smoke run, whose numbers say nothing"
    if score.failed:
        return f"{number(value)}, which a failed check forbids to believe"
    known = sum(not math.isnan(each) for _, each in score.by_seed)
    if known < seeds:
        return f"{number(value)}, of {known} of {seeds} seeds only"
    return "" if OPERATORS[requirement.operator](value, requirement.value) else number(value)


def _condition(results: Results, requirement: Requirement) -> str:
    """The condition as the run spells it: 0.0313725 is 8/255."""
    there = {place["condition"] for place in results.places}
    name, colon, amount = requirement.condition.rpartition(":")
    if requirement.condition in there or not colon:
        return requirement.condition
    for other in there:
        other_name, _, other_amount = other.rpartition(":")
        if other_name == name and _radius(other_amount) == _radius(amount):
            return other
    return requirement.condition


def _radius(text: str) -> Any:
    try:
        return round(float(parse_radius(text)), 7)
    except ValueError:
        return text


def _absent(results: Results, requirement: Requirement, where: dict[str, str]) -> str:
    """Which part of the name is not in the run, and what comes nearest."""
    places = [place for place in results.places if place["split"] == where["split"]]
    metrics = sorted({place["metric"] for place in places})
    if requirement.metric not in metrics:
        return f"the run has no metric '{requirement.metric}'{nearest(requirement.metric, metrics)}"
    conditions = sorted({place["condition"] for place in places if place["metric"] == requirement.metric})
    if _condition(results, requirement) not in conditions:
        return f"no {requirement.metric} at '{requirement.condition}'; there is: {', '.join(conditions)}"
    of = {
        key: sorted({place[key] for place in places if place["metric"] == requirement.metric} - {""}) for key in ("explainer",)
    }
    said = f"; name one with 'for explainer=...': {', '.join(of['explainer'])}" if of["explainer"] else ""
    return f"no {requirement.metric} at '{requirement.condition}' is of what it names{said}"
