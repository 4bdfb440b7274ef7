"""Explanations of one cell: the maps of explainers and of references, and what metrics say of them, computed once and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr_eval.cells import identity
from cxr_eval.errors import PluginError
from cxr_eval.explain.randomisation import randomised
from cxr_eval.explain.references import OF_THE_IMAGE, REGIONS
from cxr_eval.explain.similarity import SIMILARITIES
from cxr_eval.explained_images import CLEAN, ExplainedImages, FloatArray, Indices
from cxr_eval.plan import PlannedCondition
from cxr_eval.planned import PlannedPlugin
from cxr_eval.plugin import Explained, Explainer, ExplanationMetric
from cxr_eval.seeds import stream
from cxr_eval.self_tests import IMAGES, SelfTest, failed_labels, self_tests
from cxr_eval.store import write_arrays, write_json, write_parquet
from cxr_eval.tables import Part

VALUES = ("image_id", "patient", "target", "metric", "value")

RANDOM_PAIRS = 50
"""Pairs of different images whose maps say how alike maps are that have nothing to do with each other."""

ASKS_THE_EXPLAINER = ("robustness", "randomisation")
"""Families of metrics that explain other images or networks, which a mask cannot."""


@dataclass(frozen=True)
class Reference:
    """Maps that a method's are compared with, measured like an explainer's."""

    name: str
    """One of the protocol's `explain.references`."""
    of: PlannedPlugin | None = None
    """The explainer that is shown a network with random weights; None for all but `randomised`."""

    @property
    def label(self) -> str:
        """What rows call it: `edges`, `randomised(gradcam)`."""
        return self.name if self.of is None else f"{self.name}({self.of.label})"


Mapper = PlannedPlugin | Reference
"""What makes maps."""


@dataclass
class Explanations(ExplainedImages):
    """What is explained of one cell; every piece is an evaluation of its own, so that one metric more computes one metric."""

    _exact: tuple[tuple[str, str], FloatArray] = field(default=(("", ""), np.empty(0, dtype=np.float32)), init=False)
    """The maps made last, with their explainer and condition."""

    @cached_property
    def tried(self) -> tuple[SelfTest, ...]:
        """What came of the self-tests of the protocol's explainers and metrics, on this network."""
        planned, (images, index) = self.work.plan, self.images
        content = {
            "kind": "self-tests",
            "explainers": [identity(each) for each in planned.explainers],
            "metrics": [identity(each) for each in planned.explanation_metrics],
            "labels": [each.label for each in (*planned.explainers, *planned.explanation_metrics)],
            "images": self.work.datasets.hashes[images.name],
            "index": index[:IMAGES].tolist(),
            "kinds": list(self.kinds),
        }
        with self.work.evaluation(content, "self-tests of explainers and metrics", say=False) as work:
            if not work.done:
                x = images.take(index[:IMAGES])
                found = self_tests(planned.explainers, planned.explanation_metrics, self.work.classifier, x, kinds=self.kinds)
                write_json(work.begin() / "tests.json", [asdict(each) for each in found])
        stored = json.loads((work.folder / "tests.json").read_text(encoding="utf-8"))
        return tuple(SelfTest(**each) for each in stored)

    @cached_property
    def failed(self) -> frozenset[tuple[str, str]]:
        """Kind and label of explainers and metrics that failed their self-tests, which are not used."""
        return failed_labels(self.tried)

    @property
    def explainers(self) -> tuple[PlannedPlugin, ...]:
        """The protocol's explainers that may be used."""
        return tuple(each for each in self.work.plan.explainers if ("explainers", each.label) not in self.failed)

    @property
    def metrics(self) -> tuple[PlannedPlugin, ...]:
        """The protocol's explanation metrics that may be used."""
        planned = self.work.plan.explanation_metrics
        return tuple(each for each in planned if ("explanation_metrics", each.label) not in self.failed)

    @property
    def references(self) -> tuple[Reference, ...]:
        """What the explainers are compared with, on clean images."""
        found = [Reference(name) for name in self.settings.references if name != "randomised"]
        if "randomised" in self.settings.references:
            found += [Reference("randomised", explainer) for explainer in self.explainers]
        return tuple(found)

    def maps(self, explainer: Mapper, condition: PlannedCondition) -> FloatArray:
        """Attribution maps (P, H, W) float32, one a pair, each up to float16 rounding of its own scale; NaN where undefined."""
        content = {"kind": "maps", "explainer": _identity(explainer), **self._state(condition), "target": self.settings.target}
        with self.work.evaluation(content, f"{explainer.label}, {condition.label}") as work:
            if not work.done:
                found = self._explained(explainer, condition)
                scale = np.abs(found).max(axis=(1, 2), initial=0.0)
                scale[scale == 0] = 1.0
                shape = (found / scale[:, None, None]).astype(np.float16)
                write_arrays(work.begin() / "maps.npz", {"maps": shape, "scale": scale.astype(np.float32)})
        with np.load(work.folder / "maps.npz", allow_pickle=False) as arrays:
            maps: FloatArray = arrays["maps"].astype(np.float32) * arrays["scale"][:, None, None]
        return maps

    def values(self, explainer: Mapper, condition: PlannedCondition) -> pd.DataFrame:
        """What all metrics say: one line a pair and metric, with target (the class explained), explainer, metric, value."""
        parts = [self._measured(explainer, condition, metric) for metric in self.metrics]
        if not parts:
            return _empty().assign(explainer=explainer.label)
        return self.work.tables.add(
            "explanations", parts, split=self.images[0].name, condition=condition.label, explainer=explainer.label
        )

    def similarities(self, explainer: Mapper, condition: PlannedCondition) -> pd.DataFrame:
        """How alike maps of changed images are to those of the same pairs on clean images: a table like that of `values`.

        Each metric of `SIMILARITIES` over all pairs, and in brackets over those whose prediction was `kept` and `flipped` (NaN
        for the others). The class explained is the same on both sides, but for `explain.target: predicted`, where it is what
        the network predicts on either. On clean images there is nothing to compare with: `[random pairs]` then compares maps of
        different images drawn by lot, one line a pair of images under the first one's name.
        """
        content = {
            "kind": "map similarity",
            "explainer": _identity(explainer),
            **self._state(condition),
            "target": self.settings.target,
        }
        with self.work.evaluation(content, f"{explainer.label}, {condition.label}, similarity of maps", say=False) as work:
            if not work.done:
                clean = condition.attack is None and condition.corruption is None
                table = self._random_pairs(explainer) if clean else self._against_clean(explainer, condition)
                write_parquet(work.begin() / "values.parquet", table)
        return self.work.tables.add(
            "similarity",
            [Part(work.folder.name, "values.parquet")],
            split=self.images[0].name,
            condition=condition.label,
            explainer=explainer.label,
        )

    def explained(self, explainer: Mapper, condition: PlannedCondition) -> Iterator[Explained]:
        """What metrics look at, batch by batch in the order of `pairs`."""
        images, _ = self.images
        maps, done = self._explained(explainer, condition), 0
        for x, target, rows in self._batches(condition):
            yield Explained(
                model=self.work.classifier.model,
                x=x.numpy(),
                target=target,
                maps=maps[done : done + len(x)],
                explain=self._method(explainer),
                region=lambda kind, rows=rows, target=target: self.region(kind, rows, target),  # type: ignore[misc]
                kinds=self.kinds,
                classes=len(images.classes),
                task=self.work.datasets.task,
                seed=stream(self.work.cell.seed, "metrics"),
            )
            done += len(x)

    def _method(self, explainer: Mapper) -> Any:
        """The function from a network, images and targets to maps."""
        if isinstance(explainer, PlannedPlugin):
            method: Explainer = explainer.cls(explainer.params)
            return method.explain
        if explainer.of is not None:
            method = explainer.of.cls(explainer.of.params)
            return lambda model, x, target: method.explain(self._random_network, x, target)
        if explainer.name in REGIONS:
            return _undefined
        drawn = OF_THE_IMAGE[explainer.name]
        seeded = "seed" in drawn.Params.model_fields
        return (drawn(seed=stream(self.work.cell.seed, "references")) if seeded else drawn()).explain

    @cached_property
    def _random_network(self) -> torch.nn.Module:
        """The cell's network with weights drawn anew, the same for all explainers."""
        return randomised(self.work.classifier.model, stream(self.work.cell.seed, "references"))

    def _explained(self, explainer: Mapper, condition: PlannedCondition) -> FloatArray:
        """Maps as the explainer gave them: metrics compare them with new ones, so they must not be rounded."""
        if self._exact[0] != (explainer.label, condition.label):
            if isinstance(explainer, Reference) and explainer.name in REGIONS:
                found = self._masks(REGIONS[explainer.name], condition)
            else:
                found = self._made(explainer, condition)
            self._exact = ((explainer.label, condition.label), found)
        return self._exact[1]

    def _made(self, explainer: Mapper, condition: PlannedCondition) -> FloatArray:
        explain, model, device = self._method(explainer), self.work.classifier.model, self.work.classifier.device
        parts: list[FloatArray] = [np.empty((0, *self.images[0].shape[1:]), dtype=np.float32)]
        pairs = len(self.pairs(condition)[0])
        for x, target, _ in self._batches(condition):
            self.work.progress(f"{explainer.label}, {condition.label}", sum(map(len, parts)), pairs)
            found = explain(model, x.to(device), torch.from_numpy(target).to(device))
            parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)

    def _masks(self, kinds: tuple[str, ...], condition: PlannedCondition) -> FloatArray:
        """The mask of each pair, of the first of the kinds that it has; NaN where it has none."""
        images, index = self.images
        places, target = self.pairs(condition)
        found = np.full((len(places), *images.shape[1:]), np.nan, dtype=np.float32)
        left = np.ones(len(places), dtype=bool)
        for kind in kinds:
            masks = self.region(kind, index[places], target)
            here = left & masks.any(axis=(1, 2))
            found[here], left[here] = masks[here], False
        return found

    def _measured(self, explainer: Mapper, condition: PlannedCondition, metric: PlannedPlugin) -> Part:
        """What one metric says, measured once and kept."""
        content = {
            "kind": "explanation metric",
            "metric": identity(metric),
            "explainer": _identity(explainer),
            **self._state(condition),
            "target": self.settings.target,
        }
        if metric.cls.tuned_on:
            content["tuned_on"] = Explanations(self.work, metric.cls.tuned_on)._state(CLEAN)
        with self.work.evaluation(content, f"{explainer.label}, {condition.label}, {metric.label}", say=False) as work:
            if not work.done:
                write_parquet(work.begin() / "values.parquet", self._measure(explainer, condition, metric))
        return Part(work.folder.name, "values.parquet", metric.label)

    def _measure(self, explainer: Mapper, condition: PlannedCondition, planned: PlannedPlugin) -> pd.DataFrame:
        images, index = self.images
        metric: ExplanationMetric = planned.cls(planned.params)
        places, targets = self.pairs(condition)
        if isinstance(explainer, Reference) and explainer.name in REGIONS and metric.family in ASKS_THE_EXPLAINER:
            return self._table(condition, {planned.name: np.full(len(places), np.nan)})
        if metric.tuned_on:
            metric.tuned = self._tuned(explainer, planned, metric)
        found: dict[str, npt.NDArray[np.float64]] = {}
        done = 0
        for explained in self.explained(explainer, condition):
            count = len(explained.x)
            self.work.progress(f"{planned.label} of {explainer.label}, {condition.label}", done, len(places))
            for name, values in sized(metric.measure(explained), count, planned).items():
                found.setdefault(name, np.full(len(places), np.nan))[done : done + count] = values
            done += count
        patients = images.table["patient"].iloc[index[places]].astype(str).tolist()
        settled = sized(metric.settle(found, targets=targets, patients=patients, classes=images.classes), len(places), planned)
        if isinstance(explainer, Reference):  # a mask that is not there highlights nothing, but it is no map that fails
            there = np.isfinite(self._explained(explainer, condition)).all(axis=(1, 2))
            settled = {name: np.where(there, values, np.nan) for name, values in settled.items()}
        return self._table(condition, {named(name, planned): values for name, values in settled.items()})

    def _tuned(self, explainer: Mapper, planned: PlannedPlugin, metric: ExplanationMetric) -> Mapping[str, float]:
        """What a metric chooses on clean images of another split, once for all conditions."""
        other = Explanations(self.work, metric.tuned_on)
        content = {
            "kind": "tuned explanation metric",
            "metric": identity(planned),
            "explainer": _identity(explainer),
            **other._state(CLEAN),
            "target": self.settings.target,
        }
        with self.work.evaluation(content, f"{explainer.label}, {planned.label} on {metric.tuned_on}", say=False) as work:
            if not work.done:
                write_json(work.begin() / "tuned.json", dict(metric.tune(other.explained(explainer, CLEAN))))
        tuned: dict[str, float] = json.loads((work.folder / "tuned.json").read_text(encoding="utf-8"))
        return tuned

    def _against_clean(self, explainer: Mapper, condition: PlannedCondition) -> pd.DataFrame:
        clean, changed = self.maps(explainer, CLEAN), self.maps(explainer, condition)
        kept = self.kept(condition, CLEAN)
        found: dict[str, npt.NDArray[np.float64]] = {}
        for name, measure in SIMILARITIES.items():
            values = measure(clean, changed)
            found |= {
                name: values,
                f"{name}[kept]": np.where(kept, values, np.nan),
                f"{name}[flipped]": np.where(kept, np.nan, values),
            }
        return self._table(condition, found)

    def _random_pairs(self, explainer: Mapper) -> pd.DataFrame:
        maps, (places, _) = self.maps(explainer, CLEAN), self.pairs(CLEAN)
        first, second = random_pairs(places)
        found = {f"{name}[random pairs]": measure(maps[first], maps[second]) for name, measure in SIMILARITIES.items()}
        return self._table(CLEAN, found, first)

    def _table(
        self, condition: PlannedCondition, found: Mapping[str, npt.NDArray[np.float64]], chosen: Indices | None = None
    ) -> pd.DataFrame:
        """Values (M,) by metric name of all pairs, or of those chosen (M,), as one line a pair and metric."""
        images, index = self.images
        places, targets = self.pairs(condition)
        chosen = np.arange(len(places)) if chosen is None else chosen
        about = images.table.iloc[index[places[chosen]]]
        columns = {
            "image_id": about["image_id"].to_numpy(),
            "patient": about["patient"].to_numpy(),
            "target": np.array(images.classes)[targets[chosen]],
        }
        tables = [pd.DataFrame(columns | {"metric": name, "value": values}) for name, values in found.items()]
        return pd.concat(tables or [_empty()], ignore_index=True)


def random_pairs(images: Indices, *, count: int = RANDOM_PAIRS) -> tuple[Indices, Indices]:
    """Places of at most `count` pairs of maps of different images, none twice, both (M,); the same for every network.

    images: (P,), the image that each map is of.
    """
    drawn = np.random.default_rng(0).integers(0, max(1, len(images)), (20 * count, 2))
    drawn = np.sort(drawn[images[drawn[:, 0]] != images[drawn[:, 1]]] if len(images) else drawn[:0], axis=1)
    _, once = np.unique(drawn, axis=0, return_index=True)
    pairs = drawn[np.sort(once)[:count]]
    return pairs[:, 0], pairs[:, 1]


def _identity(explainer: Mapper) -> dict[str, Any]:
    """What makes the maps, for keys."""
    if isinstance(explainer, PlannedPlugin):
        return identity(explainer)
    return {"reference": explainer.name} | ({} if explainer.of is None else {"of": identity(explainer.of)})


def _undefined(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """NaN: a mask is not a function of the image, so there is none of another image or network."""
    return torch.full((len(x), *x.shape[2:]), torch.nan, device=x.device)


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=float if name == "value" else str) for name in VALUES})


def sized(found: dict[str, npt.NDArray[np.float64]], count: int, metric: PlannedPlugin) -> dict[str, npt.NDArray[np.float64]]:
    """What a metric measured of `count` images, as it is.

    Raises:
        PluginError: it is not one value an image.
    """
    for name, values in found.items():
        if np.shape(values) != (count,):
            told = f"measured '{name}' of shape {np.shape(values)} for {count} images; expected ({count},)"
            raise PluginError(f"{metric.name}: {told}")
    return found


def named(name: str, metric: PlannedPlugin) -> str:
    """The name of what a metric measured, as it is.

    Raises:
        PluginError: it is not the metric's own, alone or with a region in brackets.
    """
    if name.partition("[")[0] != metric.name:
        raise PluginError(f"{metric.name}: measured '{name}'; expected '{metric.name}' or '{metric.name}[REGION]'")
    return name
