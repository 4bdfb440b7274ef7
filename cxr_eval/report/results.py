"""The numbers of a run as a report reads them: averaged over seeds, with the doubts that hold for them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from cxr_eval.params import parse_radius
from cxr_eval.report.published import Published
from cxr_eval.types import CHANCE, Better, RowWarning

NOT_DEFINED = "n/a"
WORST = "worst"
"""The worst case over all attacks on any answer within an L-inf radius, of which the main table and the verdict speak."""
OTHER_THREAT = re.compile(r"worst\(.+\)", re.DOTALL)
"""The worst case of another norm or goal: `worst(l2)`, `worst(hide Mass)`, `worst(l2 hide Mass)`."""
ATTACKED = "attacked"
"""Condition of numbers over all attacks and radii together."""
EN_DASH = "\u2013"
THRESHOLDED = re.compile(r"(?P<metric>[^\[]+)\[(?P<class>.+)@(?P<threshold>[0-9.]+)\]", re.DOTALL)
TUNED = re.compile(r"[^\[]+\[threshold of .+\]", re.DOTALL)
OF_MAPS = re.compile(r"(?P<metric>map_[a-z_]+)(\[(?P<which>kept|flipped|random pairs)\])?")
"""Names of what compares maps with maps."""
ROBUST = "robust_accuracy"
FROM_ROBUST = ("robust_recall", "broken_by", "mean_average_robust_precision")
"""Metrics that come from the same attacks, and share the doubts about robust accuracy."""
UNREPORTED = ("train", "val")
"""Splits that networks were fitted or chosen on: their scores are no result."""


def number(value: float, unit: str = "fraction") -> str:
    """A measured number as every table and sentence writes it: three decimals, whole counts, `n/a` where not defined."""
    if math.isnan(value):
        return NOT_DEFINED
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    text = f"{value:.0f}" if unit == "count" else f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text


def plain(text: str) -> str:
    """Text that shows itself only: control, direction and unpaired surrogate characters become U+FFFD, newlines stay."""
    if text.isprintable():  # nearly all texts, and thirty times faster than a look at each character
        return text
    shown = {"\n", "\t"}
    return "".join("\ufffd" if c not in shown and unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text)


def one_line(text: str, limit: int | None = None) -> str:
    """Plain text on one line, cut with an ellipsis where it is longer than `limit` characters."""
    text = " ".join(plain(text).split())
    return text if limit is None or len(text) <= limit else text[: limit - 1].rstrip() + "…"


@dataclass(frozen=True)
class Score:
    """One number of a model and trainer, over all seeds.

    value: mean over the seeds where it is defined. low, high: means of the seeds' 95 % interval ends (sampling of patients, a
    typical seed's; NaN if a seed has none). by_seed: what each seed gave. n: fewest and most images behind it.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[tuple[int, float], ...]
    seeds: int
    """Seeds that the run asked for."""
    n: tuple[int, int]
    unit: str
    better: Better
    doubts: tuple[RowWarning, ...]
    """Warnings that name this number in particular; those about the run or a whole set stand at the top of the report."""
    provenance: str
    """On which data it was measured."""
    note: str = ""
    """Why it is withheld, in some seed or in all."""

    @property
    def failed(self) -> bool:
        """True if a check says that this number is not to be believed."""
        return any(doubt.level == "fail" for doubt in self.doubts)

    @property
    def text(self) -> str:
        """The value as written."""
        return number(self.value, self.unit)

    @property
    def interval(self) -> str:
        """`[0.801, 0.880]`, or `[n/a]` where no interval can be given."""
        if math.isnan(self.low) or math.isnan(self.high):
            return f"[{NOT_DEFINED}]"
        return f"[{number(self.low, self.unit)}, {number(self.high, self.unit)}]"

    @property
    def lacking(self) -> int:
        """Seeds that do not have the number."""
        return self.seeds - sum(not math.isnan(value) for _, value in self.by_seed)

    @property
    def spread(self) -> str:
        """Range over the seeds, or how many of them have the number; nothing for a run of one seed."""
        values = [value for _, value in self.by_seed if not math.isnan(value)]
        if self.seeds < 2 or not values:
            return ""
        if len(values) < self.seeds:
            return f"{len(values)} of {self.seeds} seeds"
        between = " to " if min(values) < 0 else EN_DASH
        return f"seeds {number(min(values), self.unit)}{between}{number(max(values), self.unit)}"

    @property
    def images(self) -> str:
        """How many images the number rests on."""
        return str(self.n[0]) if self.n[0] == self.n[1] else f"{self.n[0]} to {self.n[1]}"


def middle_and_largest(series: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """The middle radius of an attack (of an even number the upper one) and the largest, without radius 0."""
    tried = [step for step in series if step[0] > 0]
    return tried if len(tried) < 3 else [tried[len(tried) // 2], tried[-1]]


class Results:
    """Looks numbers up; models, trainers and sets stand in the protocol's order."""

    def __init__(self, rows: pd.DataFrame, manifest: Mapping[str, Any], warnings: Iterable[RowWarning]) -> None:
        self.manifest = manifest
        self.warnings = tuple(warnings)
        self.published = Published(manifest.get("published", []))
        self._by_subgroup: dict[str, dict[tuple[str, str, str, str, str, str], list[dict[str, Any]]]]
        self._by_subgroup = defaultdict(lambda: defaultdict(list))
        names = list(map(str, rows.columns))
        for values in zip(*(rows[name].tolist() for name in rows.columns), strict=True):
            row = dict(zip(names, values, strict=True))
            key = (row["model"], row["trainer"], row["split"], row["condition"], row["explainer"], row["metric"])
            self._by_subgroup[row.get("subgroup") or ""][key].append(row)
        self._found = self._by_subgroup[""]

    def labels(self, kind: str) -> tuple[str, ...]:
        """Labels of the plugins of one kind (`models`, `trainers`, ...); of explainers also `chance`, if there are rows."""
        chance = (CHANCE,) if kind == "explainers" and any(key[4] == CHANCE for key in self._found) else ()
        return (*(str(plugin["label"]) for plugin in self.manifest[kind]), *chance)

    @cached_property
    def references(self) -> tuple[str, ...]:
        """What stands in the explainers' place and is none of the protocol's: `edges`, `randomised(gradcam)`."""
        known = {"", *self.labels("explainers")}
        return tuple(dict.fromkeys(key[4] for key in self._found if key[4] not in known))

    @cached_property
    def subgroups(self) -> dict[str, tuple[str, ...]]:
        """Column (`sex`) -> subgroups (`sex=F`) that have numbers, in the order of the rows."""
        found: dict[str, tuple[str, ...]] = {}
        for subgroup in filter(None, self._by_subgroup):
            column = subgroup.partition("=")[0]
            found[column] = (*found.get(column, ()), subgroup)
        return found

    def subgroup_places(self, column: str) -> set[tuple[str, str, str, str, str]]:
        """(model, trainer, split, condition, metric) of which subgroups of a column have numbers."""
        return {
            (model, trainer, split, condition, metric)
            for subgroup in self.subgroups.get(column, ())
            for model, trainer, split, condition, _, metric in self._by_subgroup[subgroup]
        }

    @cached_property
    def places(self) -> tuple[dict[str, str], ...]:
        """Where the run has numbers: model, trainer, split, condition, explainer and metric of each."""
        names = ("model", "trainer", "split", "condition", "explainer", "metric")
        return tuple(dict(zip(names, key, strict=True)) for key in self._found)

    @cached_property
    def _by_network(self) -> dict[tuple[str, str], list[dict[str, str]]]:
        found: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        for place in self.places:
            found[place["model"], place["split"]].append(place)
        return dict(found)

    def places_of(self, model: str, split: str) -> list[dict[str, str]]:
        """Those of `places` that are about one model on one set."""
        return self._by_network.get((model, split), [])

    @property
    def smoke(self) -> bool:
        """True if everything ran once on a handful of images, so that no number says anything."""
        return any(warning.code == "smoke_run" for warning in self.warnings)

    @property
    def models(self) -> tuple[str, ...]:
        return self.labels("models")

    @property
    def trainers(self) -> tuple[str, ...]:
        return self.labels("trainers")

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.manifest["seeds"])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest["data"]["classes"])

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Sets with results: the test split, then the outside test sets."""
        there = {key[2] for key in self._found} - set(UNREPORTED)
        order = ("test", *self.manifest["data"]["outside"])
        return tuple(name for name in order if name in there) + tuple(sorted(there - set(order)))

    @cached_property
    def _conditions(self) -> dict[str, dict[str, dict[str, str]]]:
        """split -> attack or corruption -> its radius or severity as text -> condition."""
        found: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        robust = {(key[2], key[3]) for key in self._found if key[5] == "robust_accuracy"}
        corruptions = self.labels("corruptions")
        for _, _, split, condition, explainer, _ in self._found:
            name, colon, amount = condition.rpartition(":")
            if colon and not explainer and ((split, condition) in robust or name in corruptions):
                found[split][name][amount] = condition
        return found

    def _series(self, split: str, name: str) -> list[tuple[float, str, str]]:
        amounts = self._conditions[split].get(name, {})
        return sorted((float(parse_radius(amount)), amount, condition) for amount, condition in amounts.items())

    def threat_of(self, attack: str) -> str:
        """What the worst case is called that an attack counts for: `worst`, `worst(l2 hide Mass)`."""
        settings: dict[str, Any] = next((use["settings"] for use in self.manifest["attacks"] if use["label"] == attack), {})
        different = [
            str(settings[name]) for name, usual in (("norm", "linf"), ("goal", "any")) if settings.get(name, usual) != usual
        ]
        return f"{WORST}({' '.join(different)})" if different else WORST

    def threats(self, split: str) -> tuple[str, ...]:
        """Worst cases that a set has numbers of, that of any answer within an L-inf radius first."""
        named = dict.fromkeys([WORST, *map(self.threat_of, self.labels("attacks"))])
        named |= dict.fromkeys(name for name in self._conditions[split] if OTHER_THREAT.fullmatch(name))
        return tuple(name for name in named if self._series(split, name))

    def of_threat(self, split: str, threat: str) -> dict[str, list[tuple[float, str, str]]]:
        """(radius, radius as written, condition) of one worst case, then of each attack that counts for it."""
        names = (threat, *(label for label in self.labels("attacks") if self.threat_of(label) == threat))
        return {name: series for name in names if (series := self._series(split, name))}

    def attacks(self, split: str) -> dict[str, list[tuple[float, str, str]]]:
        """(radius, radius as written, condition) from small to large by attack; the worst case over all of them comes first."""
        names = (WORST, *self.labels("attacks"))
        return {name: series for name in names if (series := self._series(split, name))}

    def corruptions(self, split: str) -> dict[str, list[tuple[float, str, str]]]:
        """(severity, severity as written, condition) by corruption."""
        return {name: series for name in self.labels("corruptions") if (series := self._series(split, name))}

    def telling_radii(self, split: str, threat: str = WORST) -> list[tuple[float, str, str]]:
        """The middle and the largest radius of a worst case, which sentences and short tables speak of."""
        return middle_and_largest(self._series(split, threat))

    def explained(self) -> list[tuple[str, str]]:
        """(split, condition) in which maps were measured, in the protocol's order."""
        there = {(key[2], key[3]) for key in self._found if key[4]}
        order = {condition: place for place, condition in enumerate(self.manifest["conditions"])}
        return sorted(there, key=lambda pair: (pair[0], order.get(pair[1], len(order)), pair[1]))

    def explanation_metrics(self) -> tuple[str, ...]:
        """Metrics of maps, regions included, as the protocol orders them.

        Those by threshold, and those that compare maps with each other, have tables of their own.
        """
        there = dict.fromkeys(key[5] for key in self._found if key[4])
        apart = (THRESHOLDED, TUNED, OF_MAPS)
        there = {name: None for name in there if not any(pattern.fullmatch(name) for pattern in apart)}
        order = {label: place for place, label in enumerate(self.labels("explanation_metrics"))}
        return tuple(sorted(there, key=lambda name: order.get(name.partition("[")[0], len(order))))

    @cached_property
    def by_threshold(self) -> dict[tuple[str, str], dict[str, dict[str, list[str]]]]:
        """(split, explainer) -> metric -> class -> thresholds as written.

        Of metrics of maps of clean images that are named `METRIC[CLASS@THRESHOLD]`.
        """
        found: dict[tuple[str, str], dict[str, dict[str, list[str]]]] = {}
        for _, _, split, condition, explainer, metric in self._found:
            named = THRESHOLDED.fullmatch(metric)
            if named and explainer in self.labels("explainers") and condition == "clean":
                by_class = found.setdefault((split, explainer), {}).setdefault(named["metric"], {})
                thresholds = by_class.setdefault(named["class"], [])
                if named["threshold"] not in thresholds:
                    thresholds.append(named["threshold"])
        return found

    def score(
        self,
        *,
        model: str,
        trainer: str,
        split: str,
        metric: str,
        condition: str = "clean",
        explainer: str = "",
        subgroup: str = "",
    ) -> Score | None:
        """One number, or None if the run did not measure it; of all images if no subgroup is named."""
        known = self._by_subgroup.get(subgroup, {})
        rows = known.get((model, trainer, split, condition, explainer, metric))
        if not rows:
            return None
        defined = [row for row in rows if not math.isnan(row["value"])]
        places = {"model": model, "trainer": trainer, "split": split, "explainer": explainer, "metric": metric}
        places["subgroup"] = subgroup
        return Score(
            value=_mean([row["value"] for row in defined]),
            low=_mean([row["low"] for row in defined]),
            high=_mean([row["high"] for row in defined]),
            by_seed=tuple((int(row["seed"]), float(row["value"])) for row in rows),
            seeds=len(self.seeds),
            n=(min(int(row["n"]) for row in rows), max(int(row["n"]) for row in rows)),
            unit=rows[0]["unit"],
            better=rows[0]["better"],
            doubts=tuple(
                warning
                for warning, scope in self._scopes
                if set(scope) - {"split"} and warning.level != "note" and _holds(scope, places, condition, self._threats)
            ),
            provenance="; ".join(dict.fromkeys(str(row["provenance"]) for row in rows)),
            note="; ".join(dict.fromkeys(str(row["note"]) for row in rows if row.get("note"))),
        )

    def measured(self, metric: str, *, split: str, condition: str = "clean", explainer: str = "") -> bool:
        """True if any network has this number."""
        return any((m, t, split, condition, explainer, metric) in self._found for m in self.models for t in self.trainers)

    @cached_property
    def _threats(self) -> dict[str, str]:
        """Attack -> the worst case that it counts for."""
        return {label: self.threat_of(label) for label in self.labels("attacks")}

    @cached_property
    def _scopes(self) -> list[tuple[RowWarning, dict[str, str]]]:
        """What each warning's scope names, by the dimension of a row; empty for the whole run."""
        known: dict[str, set[str]] = {
            "model": set(self.models),
            "trainer": set(self.trainers),
            "split": {*UNREPORTED, "test", *self.manifest["data"]["outside"]},
            "condition": {key[3] for key in self._found} | {*self.labels("attacks"), *self.labels("corruptions")},
            "explainer": {*self.labels("explainers"), *self.references},
            "metric": {key[5] for key in self._found} | set(self.labels("explanation_metrics")),
            "subgroup": set(filter(None, self._by_subgroup)),
        }
        found = []
        for warning in self.warnings:
            scope: dict[str, str] = {}
            # a name may be a trainer's and an attack's; scopes name the trainer first, as cells do
            for token in re.split(r", | / ", warning.scope):
                dimension = next((d for d, names in known.items() if d not in scope and token in names), None)
                if dimension is not None:
                    scope[dimension] = token
            found.append((warning, scope))
        return found


def _holds(scope: Mapping[str, str], places: Mapping[str, str], condition: str, threats: Mapping[str, str]) -> bool:
    """True if a warning's scope covers a number; numbers over several attacks share the doubts of every attack in them."""
    for dimension, name in scope.items():
        if dimension == "condition":
            attack, _, amount = condition.rpartition(":")
            doubted, doubted_amount = (name, "") if name in threats else name.rpartition(":")[::2]
            joins = attack == threats.get(doubted) and doubted_amount in ("", amount)
            if not (name in (condition, attack) or joins or (condition == ATTACKED and doubted in threats)):
                return False
        elif name not in (places[dimension], places[dimension].partition("[")[0]) and not (
            dimension == "metric" and name == ROBUST and places[dimension].partition("[")[0] in FROM_ROBUST
        ):
            return False
    return True


def _mean(values: list[float]) -> float:
    """Mean; NaN of nothing, and of anything that holds a NaN."""
    return math.fsum(values) / len(values) if values and not any(map(math.isnan, values)) else math.nan
