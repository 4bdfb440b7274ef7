"""Sanity checks of maps by random networks and classes, against closed forms and against Quantus for the same networks."""

from dataclasses import replace

import numpy as np
import pytest
import quantus
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.methods import GradCAM, Saliency
from cxr_eval.explain.randomisation import (
    EfficientMPRT,
    ModelParameterRandomisation,
    ModelRandomisation,
    RandomLogit,
    SmoothMPRT,
    cascade,
    histogram_entropy,
    mean_defined,
    randomised,
)
from cxr_eval.explain.similarity import map_ssim
from tests.explained_case import SIZE, by_quantus, case, conv_net, explain_for_quantus, only, part

# ---- all weights at once ----


def last_network_of_quantus(model: torch.nn.Module) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        *_, (_, network) = quantus.PyTorchModel(model, channel_first=True).get_random_layer_generator(order="top_down", seed=42)
    return network


def test_model_randomisation_equals_the_last_value_of_quantus(monkeypatch: pytest.MonkeyPatch):
    explained = case(explainer=Saliency(absolute=False))
    call = {"explain_func": explain_for_quantus(explained)}
    theirs = by_quantus(quantus.MPRT, explained, abs=True, seed=None, return_last_correlation=True, skip_layers=True, call=call)
    network = last_network_of_quantus(explained.model)
    monkeypatch.setattr("cxr_eval.explain.randomisation.randomised", lambda model, seed: network)
    np.testing.assert_allclose(only(ModelRandomisation().measure(explained)), theirs, atol=1e-6)


def test_quantus_averages_the_untouched_network_in():
    explained = case()
    call = {"explain_func": explain_for_quantus(explained)}
    metric = quantus.MPRT(disable_warnings=True, abs=True, normalise=False)
    with torch.random.fork_rng(devices=[]):
        layers = metric(
            model=explained.model,
            x_batch=explained.x,
            y_batch=explained.target,
            a_batch=explained.maps[:, None].astype(np.float64),
            channel_first=True,
            softmax=False,
            **call,
        )
    average = by_quantus(quantus.MPRT, explained, abs=True, return_average_correlation=True, call=call)
    np.testing.assert_allclose(average, np.mean(list(layers.values()), axis=0))
    np.testing.assert_allclose(layers["original"], 1)
    assert (np.mean([values for name, values in layers.items() if name != "original"], axis=0) < average).all()


def test_quantus_gives_equal_layers_equal_weights_and_we_do_not():
    model = conv_net()
    theirs, ours = last_network_of_quantus(model), randomised(model, seed=3)
    assert torch.equal(theirs[2].weight, theirs[4].weight)
    assert not torch.equal(ours[2].weight, ours[4].weight)


def test_no_weight_survives_randomisation():
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.arange(50.0))  # of no layer that can be reset
            self.norm = torch.nn.BatchNorm1d(50)
            self.last = torch.nn.Linear(50, 2)

    model = Scaled()
    torch.nn.init.normal_(model.norm.weight)
    model.norm.running_mean.fill_(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = randomised(model, seed=0)
    for name, weight in network.named_parameters():
        if name != "norm.bias":  # begins at zero and was never trained here
            assert not torch.equal(weight, before[name]), name
    assert sorted(network.scale.tolist()) == list(range(50))
    assert float(network.norm.running_mean.abs().sum()) == 0
    assert torch.equal(last_network_of_quantus(model).scale, model.scale)  # Quantus leaves such weights trained
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_random_network_is_not_the_one_that_training_began_with(seed: int):
    model = conv_net(seed=seed)
    assert not torch.equal(randomised(model, seed)[0].weight, model[0].weight)


def test_a_method_that_ignores_the_network_correlates_fully():
    explained = replace(case(), explain=lambda model, x, target: x[:, 0])
    explained = replace(explained, maps=explained.x[:, 0])
    np.testing.assert_allclose(only(ModelRandomisation().measure(explained)), 1)


def test_a_constant_map_of_the_random_network_scores_nan_for_that_image():
    def explain(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        maps = x[:, 0].clone()
        maps[1] = 0
        return maps

    values = only(ModelRandomisation().measure(replace(case(), explain=explain)))
    assert np.isnan(values).tolist() == [False, True, False, False, False, False]


def test_grad_cam_is_measured_on_the_random_networks_own_layer():
    explained = case(explainer=GradCAM(relu=False))
    values = only(ModelRandomisation().measure(explained))
    assert (np.abs(values[np.isfinite(values)]) < 0.99).any()


# ---- layer by layer ----


def changed(model: torch.nn.Module, network: torch.nn.Module) -> list[str]:
    """Names of the layers whose weights are not the model's."""
    layers = dict(network.named_modules())
    return [
        name
        for name, layer in model.named_modules()
        if name
        and any(
            not torch.equal(weight, layers[name].get_parameter(own)) for own, weight in layer.named_parameters(recurse=False)
        )
    ]


@pytest.mark.parametrize(
    ("order", "stages", "expected"),
    [
        ("top_down", 9, [["7"], ["4", "7"], ["2", "4", "7"], ["0", "2", "4", "7"]]),
        ("bottom_up", 9, [["0"], ["0", "2"], ["0", "2", "4"], ["0", "2", "4", "7"]]),
        ("independent", 9, [["0"], ["2"], ["4"], ["7"]]),
        ("top_down", 2, [["4", "7"], ["0", "2", "4", "7"]]),
        ("bottom_up", 3, [["0", "2"], ["0", "2", "4"], ["0", "2", "4", "7"]]),
        ("independent", 1, [["0", "2", "4", "7"]]),
    ],
)
def test_layers_become_random_in_the_order_that_is_set(order: str, stages: int, expected: list[list[str]]):
    model = conv_net()
    random = randomised(model, 3)
    seen = [changed(model, network) for network in cascade(model, random, order=order, stages=stages)]
    assert seen == expected


def test_the_cascade_ends_at_the_random_network_buffers_and_loose_weights_included():
    class Loose(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.arange(50.0))
            self.norm = torch.nn.BatchNorm1d(50)
            self.last = torch.nn.Linear(50, 2)

    model = Loose()
    model.norm.running_mean.fill_(3)
    random = randomised(model, 0)
    *_, network = cascade(model, random, order="top_down", stages=2)
    assert all(torch.equal(value, random.state_dict()[name]) for name, value in network.state_dict().items())
    assert float(model.norm.running_mean[0]) == 3


def test_a_network_without_weights_has_no_stages_and_no_value():
    assert list(cascade(torch.nn.Identity(), torch.nn.Identity(), order="top_down", stages=3)) == []
    explained = replace(case(), model=torch.nn.Identity(), explain=lambda model, x, target: x[:, 0])
    assert np.isnan(only(ModelParameterRandomisation().measure(explained))).all()


def test_the_last_stage_of_the_cascade_is_model_randomisation_and_one_stage_is_all_of_it():
    explained = case()
    last = only(ModelRandomisation().measure(explained))
    stages = ModelParameterRandomisation(stages=4).similarities(explained)
    assert stages.shape == (6, 4)
    np.testing.assert_array_equal(stages[:, -1], last)
    np.testing.assert_array_equal(only(ModelParameterRandomisation(stages=1).measure(explained)), last)
    np.testing.assert_allclose(only(ModelParameterRandomisation(stages=4).measure(explained)), stages.mean(axis=1))


@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_the_stages_equal_quantus_for_the_same_random_layers_and_quantus_averages_the_untouched_network_in(
    order: str, monkeypatch: pytest.MonkeyPatch
):
    explained = case(explainer=Saliency(absolute=False))
    network = last_network_of_quantus(explained.model)  # every layer is seeded alike: the same weights in any order
    monkeypatch.setattr("cxr_eval.explain.randomisation.randomised", lambda model, seed: network)
    ours = ModelParameterRandomisation(order=order, stages=4)
    call = {"explain_func": explain_for_quantus(explained)}
    average = by_quantus(quantus.MPRT, explained, abs=True, layer_order=order, return_average_correlation=True, call=call)
    stages = ours.similarities(explained)
    np.testing.assert_allclose(average, (1 + stages.sum(axis=1)) / 5, atol=1e-6)  # four stages, and 1 for the untouched
    np.testing.assert_allclose(only(ours.measure(explained)), stages.mean(axis=1))
    assert (average > only(ours.measure(explained))).all()


def test_a_stage_without_a_map_does_not_count():
    assert mean_defined(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])).tolist() == pytest.approx([2.0, np.nan], nan_ok=True)
    assert mean_defined(np.zeros((2, 0))).tolist() == pytest.approx([np.nan, np.nan], nan_ok=True)


# ---- averaged over noise ----


def test_smooth_mprt_with_one_sample_is_the_plain_cascade():
    explained = case()
    plain = only(ModelParameterRandomisation(stages=3).measure(explained))
    np.testing.assert_allclose(only(SmoothMPRT(stages=3, samples=1).measure(explained)), plain, rtol=1e-6)
    assert (only(SmoothMPRT(stages=3, samples=4).measure(explained)) != plain).any()


def test_smooth_mprt_shows_the_explainer_images_in_zero_to_one_and_each_network_the_same():
    seen: list[torch.Tensor] = []
    explained = case()

    def explain(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return explained.explain(model, x, target)

    SmoothMPRT(stages=2, samples=3, noise=0.5).measure(replace(explained, explain=explain))
    assert len(seen) == 3 * 3
    assert min(float(x.min()) for x in seen) == 0
    assert max(float(x.max()) for x in seen) == 1
    for place in range(3):
        assert torch.equal(seen[place], seen[3 + place])
        assert torch.equal(seen[place], seen[6 + place])
    assert torch.equal(seen[0], torch.from_numpy(explained.x))


# ---- entropy ----


def test_entropy_of_a_histogram_by_hand():
    maps = np.array([[[0.0, 0.0, 1.0, 1.0]], [[0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]], [[np.nan, 0.0, 0.0, 0.0]]])
    quarter = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(histogram_entropy(maps, 10), [np.log(2), 0, quarter, np.nan], atol=1e-12)


def test_efficient_mprt_equals_quantus_for_the_same_random_network(monkeypatch: pytest.MonkeyPatch):
    explained = case(explainer=Saliency(absolute=False))
    network = last_network_of_quantus(explained.model)
    monkeypatch.setattr("cxr_eval.explain.randomisation.randomised", lambda model, seed: network)
    call = {"explain_func": explain_for_quantus(explained), "softmax": True}
    theirs = by_quantus(quantus.EfficientMPRT, explained, call=call)
    np.testing.assert_allclose(only(EfficientMPRT().measure(explained)), theirs, rtol=1e-6)


def test_a_random_network_whose_map_is_flat_has_lost_all_entropy():
    explained = case()
    flat = replace(explained, explain=lambda model, x, target: torch.zeros(len(x), SIZE, SIZE))
    assert only(EfficientMPRT().measure(flat)).tolist() == [-1] * 6


# ---- another class ----


def test_a_method_that_ignores_the_class_is_fully_similar_and_one_that_turns_round_is_not():
    explained = replace(case(), explain=lambda model, x, target: x[:, 0])
    explained = replace(explained, maps=explained.x[:, 0])
    np.testing.assert_allclose(only(RandomLogit().measure(explained)), 1)
    turned = replace(explained, explain=lambda model, x, target: -x[:, 0])
    assert (only(RandomLogit().measure(turned)) < 0).all()


def test_every_other_class_is_asked_at_most_once_and_never_the_explained_one():
    seen: list[torch.Tensor] = []

    def explain(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(target.clone())
        return x[:, 0]

    explained = replace(case(), explain=explain)
    RandomLogit(runs=7).measure(explained)
    assert len(seen) == 2
    classes = np.sort(np.stack([*(goal.numpy() for goal in seen), explained.target], axis=1), axis=1)
    assert classes.tolist() == [[0, 1, 2]] * 6


def test_one_class_leaves_nothing_to_compare_with():
    assert np.isnan(only(RandomLogit().measure(replace(case(), classes=1)))).all()


def test_random_logit_equals_quantus_given_our_similarity_of_pictures_and_two_classes():
    explained = replace(case(conv_net(classes=2), explainer=Saliency(absolute=False)), classes=2)

    def similarity(a: np.ndarray, b: np.ndarray, batched: bool) -> np.ndarray:
        return map_ssim(a.reshape(-1, SIZE, SIZE), b.reshape(-1, SIZE, SIZE))

    options = {"num_classes": 2, "call": {"explain_func": explain_for_quantus(explained)}}
    theirs = by_quantus(quantus.RandomLogit, explained, similarity_func=similarity, **options)
    ours = only(RandomLogit().measure(explained))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    rows_end_to_end = by_quantus(quantus.RandomLogit, explained, **options)
    assert (np.abs(rows_end_to_end - ours) > 1e-3).all()


def test_quantus_needs_a_thousand_classes_and_seeds_numpy_for_everyone():
    explained = case()
    call = {"explain_func": explain_for_quantus(explained)}
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        by_quantus(quantus.RandomLogit, explained, call=call)
    state = np.random.get_state()
    try:
        np.random.seed(7)
        metric = quantus.RandomLogit(num_classes=3, disable_warnings=True)
        metric(
            model=explained.model,
            x_batch=explained.x,
            y_batch=explained.target,
            a_batch=explained.maps[:, None],
            channel_first=True,
            **call,
        )
        theirs = np.random.get_state()[1].copy()
        np.random.seed(42)
        np.random.randint(0, 2, 6)
        assert np.array_equal(theirs, np.random.get_state()[1])
    finally:
        np.random.set_state(state)


# ---- the library's own numbers ----


def library(metric: str, explained: cxr.Explained, **options: object) -> np.ndarray:
    """Quantus' class with its own defaults and maps as they are."""
    state = np.random.get_state()
    try:
        np.random.seed(explained.seed)
        with torch.random.fork_rng(devices=[]):
            scores = getattr(quantus, metric)(disable_warnings=True, **options)(
                model=explained.model,
                x_batch=explained.x.copy(),
                y_batch=explained.target,
                a_batch=explained.maps[:, None].copy(),
                channel_first=True,
                explain_func=explain_for_quantus(explained),
            )
    finally:
        np.random.set_state(state)
    return np.asarray(scores, dtype=float)


def test_compat_gives_the_numbers_of_the_library():
    explained = case()
    compat = {metric: only(metric(compat="quantus").measure(explained)) for metric in (ModelRandomisation, RandomLogit)}
    last = library("MPRT", explained, layer_order="top_down", return_last_correlation=True, skip_layers=True)
    np.testing.assert_allclose(compat[ModelRandomisation], last, rtol=1e-5)
    np.testing.assert_allclose(compat[RandomLogit], library("RandomLogit", explained, num_classes=3), rtol=1e-5)
    average = only(ModelParameterRandomisation(compat="quantus").measure(explained))
    np.testing.assert_allclose(average, library("MPRT", explained, return_average_correlation=True), rtol=1e-5)
    efficient = only(EfficientMPRT(compat="quantus").measure(explained))
    np.testing.assert_allclose(efficient, library("EfficientMPRT", explained), rtol=1e-5)
    for metric, values in compat.items():
        assert not np.allclose(values, only(metric().measure(explained)), rtol=1e-2)


def test_compat_of_smooth_mprt_is_what_quantus_explains_itself_whatever_the_explainer():
    explained = case()
    other = replace(explained, explain=lambda model, x, target: -x[:, 0])
    ours, theirs = SmoothMPRT(samples=2), SmoothMPRT(compat="quantus", samples=2)
    np.testing.assert_array_equal(only(theirs.measure(explained)), only(theirs.measure(other)))
    assert (only(ours.measure(explained)) != only(ours.measure(other))).all()


def test_the_same_image_alone_has_the_same_random_logit_and_in_quantus_another_class():
    explained = case()
    alone = part(explained, [5])
    metric = RandomLogit()
    assert only(metric.measure(alone))[0] == pytest.approx(only(metric.measure(explained))[5], rel=1e-5)
    together, single = (library("RandomLogit", e, num_classes=3, normalise=False)[-1] for e in (explained, alone))
    assert abs(together - single) > 1e-3
