"""Scores as a clinic reads them: what is missed and what is called ill, at a stated threshold, clean and under attack."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from cxr_eval.report.parts import Part, Section
from cxr_eval.report.results import WORST, Results, middle_and_largest
from cxr_eval.report.tables import Layout, Table, Where, fill, trainers_of
from cxr_eval.report.threats import said_condition, telling

SCORES = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "missed_disease": "Disease missed",
    "missed": "Missed",
    "disease_confused": "Disease confused with another",
    "false_alarm": "False alarms",
    "flipped_to_no_finding": "Flipped to no finding",
    "flipped_to_disease": "Flipped to disease",
    "threshold": "Decision threshold",
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
}
BENEFIT = re.compile(r"net_benefit(?P<all>_treat_all)?\[(?P<of>.+)@(?P<at>[0-9.]+)\]", re.DOTALL)


def section(results: Results) -> Section | None:
    """Clinical scores by model and set, clean and in the worst cases; None where the run has none."""
    parts = [part for split in results.splits for model in results.models for part in _part(results, model, split)]
    if not parts:
        return None
    said = (
        "What the scores mean for a patient: sensitivity, specificity and predictive values at the decision threshold that was"
        " fixed before these images were seen; how often the network's own answer, the most probable class, misses disease or"
        " calls a healthy person ill (a class may be found at its threshold and yet never be the answer); how far probabilities"
        " can be taken as such; and"
        " whether acting on the answers does more good than calling everyone ill (net benefit, at a stated weight of a missed"
        " disease against a false alarm)."
    )
    return Section("clinical", "Clinical scores", [said], parts)


def _part(results: Results, model: str, split: str) -> Iterator[Part]:
    shown = ["clean", *_attacked(results, model, split)]
    others = [condition for condition in _others(results, split) if condition not in shown]
    tables = [_whole(results, model, split, shown, "")]
    tables += [_of_classes(results, model, split, "clean"), _benefit(results, model, split, shown)]
    folded = [_of_classes(results, model, split, condition) for condition in [*shown[1:], *others]]
    folded.append(_whole(results, model, split, others, " by attack and corruption"))
    found, more = ([table for table in kind if table] for kind in (tables, folded))
    if found or more:
        yield Part(f"{model} on “{split}”", [], found, more)


def _attacked(results: Results, model: str, split: str) -> list[str]:
    """Worst cases at their middle and largest radius; where those have no clinical scores, the attacks that have."""
    scored = {place["condition"] for place in results.places_of(model, split) if place["metric"].partition("[")[0] in SCORES}
    worst = [condition for condition in telling(results, split) if condition in scored]
    of_attacks = [
        condition
        for attack, series in results.attacks(split).items()
        for _, _, condition in middle_and_largest(series)
        if attack != WORST and condition in scored
    ]
    return worst or of_attacks


def _others(results: Results, split: str) -> Iterator[str]:
    """Each attack at its largest radius, each corruption at its largest severity."""
    for series in [*results.attacks(split).values(), *results.corruptions(split).values()]:
        yield series[-1][2]


def _whole(results: Results, model: str, split: str, conditions: Sequence[str], by: str) -> Table | None:
    groups = [
        (said_condition(results, condition), {"model": model, "split": split, "condition": condition}, lines)
        for lines in [trainers_of(results)]
        for condition in conditions
    ]
    layout = Layout(
        f"Clinical scores{by}: {model} on “{split}”",
        ("Images", "Trainer"),
        [(title, {"metric": metric}) for metric, title in SCORES.items()],
        groups,
        contest=lambda group, _: group,
        directions=True,
    )
    return fill(results, layout)


def _of_classes(results: Results, model: str, split: str, condition: str) -> Table | None:
    def of_class(where: dict[str, str]) -> dict[str, str]:
        return where | {"metric": f"{where.pop('measure')}[{where.pop('of')}]"}

    at = {"model": model, "split": split, "condition": condition}
    columns: list[tuple[str, Where]] = [(title, {"measure": metric}) for metric, title in SCORES.items()]
    layout = Layout(
        f"Clinical scores by class: {model} on “{split}”, {said_condition(results, condition)}",
        ("Class", "Trainer"),
        columns,
        [(name, {**at, "of": name}, trainers_of(results)) for name in (*results.classes, "disease")],
        contest=lambda group, _: group,
        at=of_class,
        directions=True,
    )
    return fill(results, layout)


def _benefit(results: Results, model: str, split: str, conditions: Sequence[str]) -> Table | None:
    found = dict.fromkeys(
        (named["of"], named["at"]) for place in results.places_of(model, split) if (named := BENEFIT.fullmatch(place["metric"]))
    )
    columns: list[tuple[str, Where]] = [
        (f"{title}, {said_condition(results, condition)}", {"condition": condition, "measure": measure})
        for condition in conditions
        for measure, title in (("net_benefit", "Net benefit"), ("net_benefit_treat_all", "Calling everyone ill"))
    ]

    def at_threshold(where: dict[str, str]) -> dict[str, str]:
        return where | {"metric": f"{where.pop('measure')}[{where.pop('of')}]"}

    at = {"model": model, "split": split}
    layout = Layout(
        f"Net benefit: {model} on “{split}”",
        ("Threshold", "Trainer"),
        columns,
        [(f"{of} at {level}", {**at, "of": f"{of}@{level}"}, trainers_of(results)) for of, level in found],
        contest=lambda group, _: group,
        at=at_threshold,
        note="Share of patients rightly treated minus that of patients needlessly treated, the second weighted by the odds of"
        " the threshold; higher is better, and a network that is not above both 0 and calling everyone ill is of no use there"
        " and never marked best.",
    )
    return fill(results, layout)
