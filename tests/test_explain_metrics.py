"""Explanation metrics against closed forms, and against Quantus image by image where Quantus is right."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_eval.api as cxr
from cxr_eval.explain.axioms import Completeness, InputInvariance, NonSensitivity
from cxr_eval.explain.complexity import Complexity, EffectiveComplexity, Sparseness
from cxr_eval.explain.localisation import (
    AttributionLocalisation,
    LocalisationAUC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
)
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.methods import Saliency
from cxr_eval.explain.quantus_adapter import MapParams
from cxr_eval.explain.randomisation import (
    EfficientMPRT,
    ModelParameterRandomisation,
    ModelRandomisation,
    RandomLogit,
    SmoothMPRT,
)
from cxr_eval.explain.relative_stability import (
    RelativeInputStability,
    RelativeOutputStability,
    RelativeRepresentationStability,
)
from cxr_eval.explain.removal import PixelFlipping
from cxr_eval.explain.removal_correlation import FaithfulnessCorrelation
from cxr_eval.explain.stability import AvgSensitivity, Continuity, LocalLipschitz, MaxSensitivity
from tests.explained_case import SIZE, case, conv_net, only, part

STABILITY = [
    MaxSensitivity,
    AvgSensitivity,
    LocalLipschitz,
    Continuity,
    RelativeInputStability,
    RelativeOutputStability,
    RelativeRepresentationStability,
]
RANDOM_NETWORKS = [ModelRandomisation, ModelParameterRandomisation, SmoothMPRT, EfficientMPRT]
OURS = [
    PixelFlipping,
    FaithfulnessCorrelation,
    *STABILITY,
    *RANDOM_NETWORKS,
    RandomLogit,
    Sparseness,
    Complexity,
    EffectiveComplexity,
    Completeness,
    NonSensitivity,
    InputInvariance,
]
LOCALISATION = [RelevanceMass, RelevanceRank, PointingGame, TopKIntersection, AttributionLocalisation, LocalisationAUC]
ALL = [*OURS, *LOCALISATION]


# ---- what every metric keeps to ----


@pytest.mark.parametrize("metric", ALL)
def test_a_metric_describes_itself(metric: type[cxr.ExplanationMetric]):
    assert metric.source
    assert metric.family
    for field in metric.Params.model_fields.values():
        assert not field.is_required()
        assert field.description
    with pytest.raises(pydantic.ValidationError):
        metric(unknown=1)


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        (PixelFlipping, "lower"),
        (FaithfulnessCorrelation, "higher"),
        *((metric, "lower") for metric in (*STABILITY, RandomLogit)),
        *((metric, "lower") for metric in (ModelRandomisation, ModelParameterRandomisation, SmoothMPRT)),
        (EfficientMPRT, "higher"),
        (Sparseness, "higher"),
        (Complexity, "lower"),
        (EffectiveComplexity, "lower"),
        *((metric, "lower") for metric in (Completeness, NonSensitivity, InputInvariance)),
        *((metric, "higher") for metric in LOCALISATION),
    ],
)
def test_a_metric_says_which_direction_is_better(metric: type[cxr.ExplanationMetric], better: str):
    assert metric.better == better


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_values_are_finite_float64_one_an_image(metric: type[cxr.ExplanationMetric], channels: int):
    values = only(metric().measure(case(channels=channels)))
    assert values.dtype == np.float64
    assert values.shape == (6,)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("metric", ALL)
@settings(max_examples=6, deadline=None)
@given(chosen=st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True))
def test_an_image_scores_the_same_whatever_stands_beside_it(metric: type[cxr.ExplanationMetric], chosen: list[int]):
    together = case(count=40)
    together.maps[7] *= 1e8  # a strong map must not dwarf the others
    everyone = only(metric().measure(together))
    # other batch sizes take other convolution kernels: float32
    np.testing.assert_allclose(only(metric().measure(part(together, chosen))), everyone[chosen], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("spoil", [np.zeros_like, np.ones_like, lambda a: a * np.nan, lambda a: a * np.inf])
def test_a_map_that_says_nothing_scores_nan_and_harms_no_other(metric: type[cxr.ExplanationMetric], spoil: Callable):
    explained = case()
    clean = only(metric().measure(explained))
    with np.errstate(invalid="ignore"):  # infinity times zero, on purpose
        explained.maps[2] = spoil(explained.maps[2])
    scores = only(metric().measure(explained))
    assert np.isnan(scores[2])
    np.testing.assert_allclose(np.delete(scores, 2), np.delete(clean, 2), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("metric", ALL)
def test_maps_that_all_say_nothing_give_nan(metric: type[cxr.ExplanationMetric]):
    assert np.isnan(only(metric().measure(case(maps=np.zeros((6, SIZE, SIZE)))))).all()


@pytest.mark.parametrize("metric", ALL)
def test_no_images_give_no_values(metric: type[cxr.ExplanationMetric]):
    assert only(metric().measure(part(case(), []))).shape == (0,)


@pytest.mark.parametrize("metric", OURS)
def test_maps_that_are_all_negative_are_measured(metric: type[cxr.ExplanationMetric]):
    explainer = Saliency(absolute=False)
    explained = case(explainer=explainer)
    negative = replace(
        explained,
        maps=-np.abs(explained.maps),
        explain=lambda model, x, target: -explainer.explain(model, x, target).abs(),
    )
    assert np.isfinite(only(metric().measure(negative))).all()


@pytest.mark.parametrize("metric", ALL)
def test_measuring_leaves_everything_as_it_was_and_prints_nothing(
    metric: type[cxr.ExplanationMetric], capsys: pytest.CaptureFixture[str]
):
    explained = case()
    explained.model.train()
    explained.model[0].weight.requires_grad_(False)
    explained.model[3].eval()
    modes = [module.training for module in explained.model.modules()]
    flags = [weight.requires_grad for weight in explained.model.parameters()]
    weights = {name: value.clone() for name, value in explained.model.state_dict().items()}
    x, maps = explained.x.copy(), explained.maps.copy()
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    metric().measure(explained)
    assert [module.training for module in explained.model.modules()] == modes
    assert [weight.requires_grad for weight in explained.model.parameters()] == flags
    assert all(torch.equal(value, weights[name]) for name, value in explained.model.state_dict().items())
    assert all(weight.grad is None for weight in explained.model.parameters())
    assert np.array_equal(explained.x, x)
    assert np.array_equal(explained.maps, maps)
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("metric", OURS)
def test_the_same_seed_gives_the_same_values(metric: type[cxr.ExplanationMetric]):
    np.testing.assert_array_equal(only(metric().measure(case())), only(metric().measure(case())))


@pytest.mark.parametrize(
    "metric", [FaithfulnessCorrelation, *(metric for metric in STABILITY if metric is not Continuity), *RANDOM_NETWORKS]
)
def test_another_seed_gives_other_values(metric: type[cxr.ExplanationMetric]):
    assert (only(metric().measure(case(seed=3))) != only(metric().measure(case(seed=4)))).all()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (PixelFlipping(steps=16), 17),
        (FaithfulnessCorrelation(runs=10), 11),
        (MaxSensitivity(samples=5), 5),
        (AvgSensitivity(samples=5), 5),
        (LocalLipschitz(samples=5), 5),
        (Continuity(reach=1, steps=5), 4),  # of five moves the middle one is none
        (RelativeInputStability(samples=5), 5 + 6),
        (RelativeOutputStability(samples=5), 5 + 6),
        (RelativeRepresentationStability(samples=5, layer="2"), 5 + 6),
        (ModelRandomisation(), 1),
        (ModelParameterRandomisation(stages=3), 3),
        (SmoothMPRT(stages=3, samples=2), 4 * 2),
        (EfficientMPRT(), 1),
        (RandomLogit(runs=2), 2),
        (Sparseness(), 0),
        (Completeness(), 2),
        (NonSensitivity(side=3), 10),
        (InputInvariance(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_metric_costs_the_forward_passes_it_says(metric: cxr.ExplanationMetric, expected: int):
    model, seen = conv_net(), []
    explained = case(model)  # explained before anything is counted
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))  # goes with copies too
    metric.measure(explained)
    assert sum(seen) == expected * 6


def test_positive_and_absolute_policies_differ_on_signed_maps():
    explained = case(explainer=Saliency(absolute=False))
    for metric in (
        Sparseness,
        Complexity,
        ModelRandomisation,
        MaxSensitivity,
        PixelFlipping,
        FaithfulnessCorrelation,
        RandomLogit,
    ):
        positive, absolute = (only(metric(sign=sign).measure(explained)) for sign in ("positive", "absolute"))
        assert (positive != absolute).all(), metric


@pytest.mark.parametrize("metric", ALL)
def test_a_metric_is_as_stated_unless_it_is_asked_for_the_numbers_of_quantus(metric: type[cxr.ExplanationMetric]):
    assert metric().params.compat == "corrected"
    assert metric(compat="quantus").params.compat == "quantus"


def test_a_metric_that_quantus_has_not_fails_nothing(caplog: pytest.LogCaptureFixture):
    class Unknown(MapMetric):
        family = "complexity"
        name = "unknown"
        quantus_name = "Unknown"

        class Params(MapParams):
            pass

        def scores(self, explained: cxr.Explained) -> np.ndarray:
            return np.zeros(len(explained.x))

    assert only(Unknown().measure(case())).tolist() == [0] * 6
    assert np.isnan(only(Unknown(compat="quantus").measure(case()))).all()
    assert "Unknown" in caplog.text
