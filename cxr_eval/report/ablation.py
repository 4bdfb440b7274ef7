"""What one or two settings of a trainer do: tables of trainers that differ in nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

from cxr_eval.report.results import ATTACKED, Results
from cxr_eval.report.tables import HEADLINES, ROBUST_PRECISION, Layout, Table, Where, fill, headline, localisation, spoken
from cxr_eval.report.words import setting


@dataclass(frozen=True)
class Family:
    """Trainers of one plugin: by label, the settings in which any two of them differ."""

    name: str
    axes: tuple[str, ...]
    members: Mapping[str, Mapping[str, str]]

    def alike(self, axes: tuple[str, ...]) -> list[dict[str, Mapping[str, str]]]:
        """Members that differ in these settings only, together."""
        groups: dict[tuple[str, ...], dict[str, Mapping[str, str]]] = {}
        for label, values in self.members.items():
            rest = tuple(values[axis] for axis in self.axes if axis not in axes)
            groups.setdefault(rest, {})[label] = values
        return list(groups.values())

    def said(self, group: Mapping[str, Mapping[str, str]], axes: tuple[str, ...]) -> str:
        """At which values the other settings stay, where any does."""
        values = next(iter(group.values()))
        fixed = ", ".join(f"{axis} = {values[axis]}" for axis in self.axes if axis not in axes)
        return f" at {fixed}" if fixed else ""


def families(results: Results) -> list[Family]:
    """Trainers of the same plugin with different settings; which trainer they start from or need counts as one."""
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for use in results.manifest["trainers"]:
        needs = {name: use.get(name) for name in ("warm_start", "reference")}
        by_name.setdefault(use["name"], {})[use["label"]] = {**use["settings"], **needs}
    found = []
    for name, uses in by_name.items():
        names = dict.fromkeys(axis for values in uses.values() for axis in values)
        written = {label: {axis: setting(axis, values.get(axis)) for axis in names} for label, values in uses.items()}
        axes = tuple(axis for axis in names if len({values[axis] for values in written.values()}) > 1)
        if axes:
            found.append(Family(name, axes, written))
    return found


@dataclass(frozen=True)
class Ablation:
    """Tables about one or two settings; `folded` are of scores that say less about training against attacks."""

    title: str
    tables: list[Table]
    folded: list[Table]


def ablations(results: Results) -> Iterator[Ablation]:
    """A grid a score for two settings, one table for one setting.

    Two settings make a grid where more was tried than one setting after the other around a common centre.
    """
    for family in families(results):
        seen: set[tuple[str, frozenset[str]]] = set()
        for pair in combinations(family.axes, 2):
            for group in family.alike(pair):
                down, across = (_ordered(values[axis] for values in group.values()) for axis in pair)
                spots = {(values[pair[0]], values[pair[1]]): label for label, values in group.items()}
                if min(len(down), len(across)) > 1 and len(spots) >= len(down) + len(across):
                    seen |= {
                        (axis, frozenset(part))
                        for axis in pair
                        for part in family.alike((axis,))
                        if part.keys() <= group.keys()
                    }
                    title = f"{family.name}: {pair[0]} and {pair[1]}{family.said(group, pair)}"
                    found = _grids(results, pair, spots, title)
                    telling = (headline(results, "test"), "robust_accuracy", ROBUST_PRECISION)
                    shown, folded = (
                        [table for metric, table in found if (metric in telling) == told] for told in (True, False)
                    )
                    yield Ablation(title, shown, folded)
        for axis in family.axes:
            for group in family.alike((axis,)):
                if len(group) > 1 and (axis, frozenset(group)) not in seen:
                    title = f"{family.name}: {axis}{family.said(group, (axis,))}"
                    table = _sweep(results, axis, group, title)
                    yield Ablation(title, [table] if table else [], [])


def _ordered(values: Any) -> list[str]:
    """Different values, numbers by size."""
    return sorted(set(values), key=_size)


def _size(value: str) -> tuple[float, str]:
    above, _, below = value.partition("/")
    try:
        return float(above) / float(below or 1), ""
    except ValueError:
        return float("inf"), value


def _sweep(results: Results, axis: str, group: Mapping[str, Mapping[str, str]], title: str) -> Table | None:
    labels = sorted(group, key=lambda label: _size(group[label][axis]))
    lines: list[tuple[tuple[str, ...], Where]] = [((group[label][axis], label), {"trainer": label}) for label in labels]
    layout = Layout(
        f"One setting varied: {title}",
        ("Model", axis, "Trainer"),
        scores_of(results),
        [(model, {"model": model}, lines) for model in results.models],
        contest=lambda group, _: group,
    )
    return fill(results, layout)


def _grids(
    results: Results, pair: tuple[str, str], spots: Mapping[tuple[str, str], str], title: str
) -> list[tuple[str, Table]]:
    down, across = (_ordered(spot[end] for spot in spots) for end in (0, 1))
    tables = []
    for said, key in scores_of(results):
        layout = Layout(
            f"{said}; {title}",
            ("Model", pair[0]),
            [(f"{pair[1]} = {value}", {"across": value}) for value in across],
            [(model, {"model": model, **key}, [((value,), {"down": value}) for value in down]) for model in results.models],
            contest=lambda group, _: group,
            compare="block",
            at=partial(_trainer_at, spots),
        )
        tables += [(key["metric"], table)] if (table := fill(results, layout)) else []
    return tables


def _trainer_at(spots: Mapping[tuple[str, str], str], where: dict[str, str]) -> dict[str, str] | None:
    trainer = spots.get((where.pop("down"), where.pop("across")))
    return None if trainer is None else where | {"trainer": trainer}


def scores_of(results: Results) -> list[tuple[str, Where]]:
    """What settings are judged by: scores on clean images, robust accuracy, mARP, localisation."""
    scores: list[tuple[str, Where]] = [
        (f"{HEADLINES[metric]}, “{split}”", {"split": split, "metric": metric})
        for split in results.splits
        for metric in ("accuracy", "auroc", "mean_average_precision")
        if results.measured(metric, split=split)
    ]
    for split in results.splits:
        scores += [
            (f"Robust accuracy, “{split}”, radius {written}", {"split": split, "metric": "robust_accuracy", "condition": at})
            for _, written, at in results.telling_radii(split)
        ]
        if results.measured(ROBUST_PRECISION, split=split, condition=ATTACKED):
            key = {"split": split, "metric": ROBUST_PRECISION, "condition": ATTACKED}
            scores.append((f"{HEADLINES[ROBUST_PRECISION]}, “{split}”", key))
    scores += [
        (
            f"{spoken(metric).capitalize()}, {explainer}",
            {"split": split, "condition": condition, "explainer": explainer, "metric": metric},
        )
        for split, condition, explainer, metric in localisation(results)
    ]
    return scores
