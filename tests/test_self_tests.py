"""Plugins that do what they say pass; plugins broken in one way fail that check, with a sentence that says so."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.cam import CAM
from cxr_eval.explain.complexity import Sparseness
from cxr_eval.explain.fullgrad import FullGrad
from cxr_eval.explain.iou import LocalisationAccuracy
from cxr_eval.explain.localisation import PointingGame, RelevanceMass
from cxr_eval.explain.methods import GradCAM, IntegratedGradients, Saliency
from cxr_eval.explain.removal import PixelFlipping
from cxr_eval.explain.stability import MaxSensitivity
from cxr_eval.planned import PlannedPlugin
from cxr_eval.self_tests import SelfTest, failed_labels, self_tests


def planned(kind: Any, cls: Any, **settings: Any) -> PlannedPlugin:
    params = cls.Params(**settings)
    return PlannedPlugin(kind, "subject", "subject", cls, params, params.model_dump(mode="json"), "p 1")


def tried(toys: ModuleType, cls: Any, *, count: int = 4, model: Any = None, **settings: Any) -> dict[str, SelfTest]:
    """Records of one plugin by check."""
    classifier = toys.ours(model or toys.build(toys.plain))
    x = torch.from_numpy(toys.images(6)[0])[:count]
    explainer = issubclass(cls, cxr.Explainer)
    subject = planned("explainers" if explainer else "explanation_metrics", cls, **settings)
    records = self_tests([subject] if explainer else [], [] if explainer else [subject], classifier, x, kinds=("lesion",))
    assert all(record.kind == "self_test" and record.label == "subject" for record in records)
    assert all(record.sentence.startswith("subject: ") for record in records)
    return {record.check: record for record in records}


def verdicts(records: dict[str, SelfTest]) -> dict[str, str]:
    return {check: record.verdict for check, record in records.items()}


EXPLAINERS: list[tuple[Any, dict[str, Any]]] = [
    (Saliency, {}),
    (Saliency, {"absolute": False, "channels": "sum"}),
    (IntegratedGradients, {}),
    (IntegratedGradients, {"baseline": "white"}),
    (IntegratedGradients, {"baseline": "mean", "absolute": True}),
    (GradCAM, {}),
    (GradCAM, {"relu": False}),
    (FullGrad, {}),
]


@pytest.mark.parametrize(("cls", "settings"), EXPLAINERS)
def test_our_explainers_pass(toys: ModuleType, cls: Any, settings: dict[str, Any]) -> None:
    assert verdicts(tried(toys, cls, **settings)) == {"maps": "PASS", "batch": "PASS", "polarity": "PASS"}


class Pooled(torch.nn.Module):
    """As CAM wants it: one linear layer on an averaged map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.conv(x)).mean(dim=(2, 3)))
        return logits


def test_an_explainer_that_takes_few_networks_is_tried_on_the_toy_that_it_takes(toys: ModuleType) -> None:
    records = tried(toys, CAM, model=toys.build(Pooled))
    assert verdicts(records) == {"maps": "PASS", "batch": "PASS", "polarity": "PASS"}
    assert set(records["polarity"].numbers) == {"bright"}


class Reversed(Saliency):
    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -super().explain(model, x, target)


class Everywhere(Saliency):
    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x[:, 0])


class AcrossTheBatch(Saliency):
    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        maps = super().explain(model, x, target)
        return maps / maps.max()


class Undefined(Saliency):
    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        maps = super().explain(model, x, target)
        maps[0, 0, 0] = torch.nan
        return maps


class Coloured(Saliency):
    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().explain(model, x, target)[:, None]


class Raising(Saliency):
    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of luck\nand more lines")


BROKEN: list[tuple[Any, str, str]] = [
    (Reversed, "polarity", "are not higher on the one patch that decides than beside it: high must be important"),
    (Everywhere, "polarity", "are not higher on the one patch that decides"),
    (AcrossTheBatch, "batch", "of its size when images stand beside it"),
    (Undefined, "maps", "of the numbers in its maps are finite, expected all"),
    (Coloured, "maps", "its maps have shape (4, 1, 8, 8), expected (4, 8, 8)"),
    (Raising, "maps", "it stopped with test_self_tests.py:"),
]


@pytest.mark.parametrize(("cls", "check", "said"), BROKEN)
def test_a_broken_explainer_fails_the_check_that_it_breaks(toys: ModuleType, cls: Any, check: str, said: str) -> None:
    record = tried(toys, cls)[check]
    assert record.verdict == "FAIL"
    assert said in record.sentence
    assert "\n" not in record.sentence
    assert failed_labels([record]) == {("explainers", "subject")}


@pytest.mark.parametrize("cls", [IntegratedGradients, GradCAM])
def test_a_reversed_explainer_fails_whatever_the_method(toys: ModuleType, cls: Any) -> None:
    class Turned(cls):  # type: ignore[misc]
        def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            maps: torch.Tensor = -super().explain(model, x, target)
            return maps

    for settings in ({}, {"baseline": "white"}) if cls is IntegratedGradients else ({}, {"relu": False}):
        assert tried(toys, Turned, **settings)["polarity"].verdict == "FAIL"


def test_one_image_has_nothing_to_stand_beside(toys: ModuleType) -> None:
    record = tried(toys, Saliency, count=1)["batch"]
    assert record.verdict == "SKIP"
    assert "there is one image only" in record.sentence


def test_an_explainer_that_takes_no_toy_is_not_failed_for_it(toys: ModuleType) -> None:
    record = tried(toys, GradCAM, layer="2")["polarity"]  # a layer of the real network
    assert record.verdict == "SKIP"
    assert "it does not take the toy networks (gradcam: Textured has no layer '2'" in record.sentence
    assert failed_labels([record]) == frozenset()


METRICS = [RelevanceMass, PointingGame, LocalisationAccuracy, PixelFlipping, Sparseness, MaxSensitivity]


@pytest.mark.parametrize("cls", METRICS)
def test_our_metrics_pass(toys: ModuleType, cls: Any) -> None:
    settings = {"region": "lesion"} if cls is LocalisationAccuracy else {}
    polarity = "PASS" if cls.family in ("localisation", "faithfulness") else "SKIP"
    assert verdicts(tried(toys, cls, **settings)) == {"polarity": polarity, "scale": "PASS", "batch": "PASS"}


@pytest.mark.parametrize("fill", ["black", "mean", "white"])
@pytest.mark.parametrize("output", ["probability", "logit"])
def test_the_toy_tells_right_maps_from_wrong_ones_whatever_stands_for_a_missing_pixel(
    toys: ModuleType, fill: str, output: str
) -> None:
    assert tried(toys, PixelFlipping, fill=fill, output=output)["polarity"].verdict == "PASS"


class Metric(cxr.ExplanationMetric):
    """Share of a map's size in the region."""

    family = "localisation"

    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        mass = np.abs(explained.maps)
        return {"subject": (mass * explained.region("lesion")).sum(axis=(1, 2)) / mass.sum(axis=(1, 2))}


class WrongWay(Metric):
    better = "lower"


class Sized(Metric):
    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        return {"subject": np.abs(explained.maps).sum(axis=(1, 2))}


class SizedByDefinition(Sized):
    scale_free = False


class OfTheBatch(Metric):
    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        values = super().measure(explained)["subject"] * np.arange(1, len(explained.x) + 1)
        return {"subject": values / values.mean()}


class Alone(Metric):
    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        values = super().measure(explained)["subject"]
        return {"subject": values if len(values) > 1 else np.full(1, np.nan)}


class Named(Metric):
    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        return {f"subject[{len(explained.x)}]": super().measure(explained)["subject"]}


class Blind(Metric):
    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        return {"subject": np.ones(len(explained.x))}


class Stopping(Metric):
    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        raise KeyError("lungs")


BROKEN_METRICS: list[tuple[Any, str, str, str]] = [
    (WrongWay, "polarity", "FAIL", "the map of what decides scores worse than its reverse, where lower is better"),
    (Blind, "polarity", "SKIP", "it does not tell the map of what decides from its reverse"),
    (Sized, "scale", "FAIL", "a map ten times as large changes its value by 9"),
    (SizedByDefinition, "scale", "SKIP", "by its definition the size of a map counts"),
    (OfTheBatch, "batch", "FAIL", "when images stand beside it"),
    (Alone, "batch", "FAIL", "a value changes by inf when"),
    (Named, "batch", "FAIL", "it gives other names for an image alone"),
    (Stopping, "scale", "FAIL", "it stopped with test_self_tests.py:"),
]


@pytest.mark.parametrize(("cls", "check", "verdict", "said"), BROKEN_METRICS)
def test_a_broken_metric_fails_the_check_that_it_breaks(
    toys: ModuleType, cls: Any, check: str, verdict: str, said: str
) -> None:
    record = tried(toys, cls)[check]
    assert (record.verdict, record.plugin) == (verdict, "explanation_metrics")
    assert said in record.sentence
    assert failed_labels([record]) == ({("explanation_metrics", "subject")} if verdict == "FAIL" else frozenset())


class Tuned(Metric):
    tuned_on = "val"

    def tune(self, batches: Any) -> dict[str, float]:
        return {"factor": 1.0 + sum(len(each.x) for each in batches)}

    def measure(self, explained: cxr.Explained) -> dict[str, Any]:
        return {"subject": super().measure(explained)["subject"] * self.tuned["factor"]}


def test_a_metric_that_is_tuned_is_tuned_before_it_is_tried(toys: ModuleType) -> None:
    assert verdicts(tried(toys, Tuned)) == {"polarity": "PASS", "scale": "PASS", "batch": "PASS"}


def test_a_sound_metric_passes_all(toys: ModuleType) -> None:
    assert verdicts(tried(toys, Metric)) == {"polarity": "PASS", "scale": "PASS", "batch": "PASS"}


def test_numbers_of_the_library_are_not_judged(toys: ModuleType) -> None:
    records = tried(toys, RelevanceMass, compat="quantus")
    assert verdicts(records) == {"polarity": "SKIP", "scale": "SKIP", "batch": "SKIP"}
    assert "compat: quantus asks for the library's numbers" in records["batch"].sentence


def test_nothing_is_left_changed(toys: ModuleType) -> None:
    model = toys.build(toys.Bumpy).train()
    classifier = toys.ours(model)
    before, flags, state = toys.state(model), toys.flags(model), torch.random.get_rng_state()
    numbers = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    x = torch.from_numpy(toys.images(4)[0])
    self_tests([planned("explainers", GradCAM)], [planned("explanation_metrics", RelevanceMass)], classifier, x)
    assert toys.same(before, toys.state(model))
    assert toys.flags(model) == flags
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # type: ignore[index]
