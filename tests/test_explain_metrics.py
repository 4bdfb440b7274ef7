"""Explanation metrics against closed forms, and against Quantus image by image where Quantus is right."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pydantic
import pytest
import quantus
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_eval.api as cxr
from cxr_eval.explain.localisation import PointingGame, RelevanceMass, RelevanceRank
from cxr_eval.explain.methods import GradCAM, Saliency
from cxr_eval.explain.metrics import (
    Complexity,
    FaithfulnessCorrelation,
    MaxSensitivity,
    ModelRandomisation,
    PixelFlipping,
    Sparseness,
    randomised,
    ranked,
    steps_that_divide,
)

OURS = [PixelFlipping, FaithfulnessCorrelation, MaxSensitivity, ModelRandomisation, Sparseness, Complexity]
ALL = [*OURS, RelevanceMass, RelevanceRank, PointingGame]
SIZE = 8


def conv_net(channels: int = 1, classes: int = 3, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 4, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(4, 4, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(4, 4, 3, padding=1),
            torch.nn.Tanh(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * SIZE * SIZE, classes),
        ).eval()


class Weighted(torch.nn.Module):
    """Logits (0, sum of weight times pixels)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = (x * self.weight).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(z), z], dim=1)


def case(
    model: torch.nn.Module | None = None,
    count: int = 6,
    channels: int = 1,
    explainer: cxr.Explainer | None = None,
    maps: np.ndarray | None = None,
    seed: int = 3,
) -> cxr.Explained:
    """Images in [0.2, 0.8] with one black pixel each, explained."""
    model = (conv_net(channels) if model is None else model).eval()
    explainer = Saliency() if explainer is None else explainer
    rng = np.random.default_rng(1)
    x = rng.uniform(0.2, 0.8, (count, channels, SIZE, SIZE)).astype(np.float32)
    x[:, :, 0, 0] = 0
    target = np.arange(count, dtype=np.int64) % 2
    masks = rng.random((count, SIZE, SIZE)) < 0.4
    if maps is None:
        maps = explainer.explain(model, torch.from_numpy(x), torch.from_numpy(target)).numpy()
    return cxr.Explained(
        model=model,
        x=x,
        target=target,
        maps=np.asarray(maps, dtype=np.float32),
        explain=explainer.explain,
        region=lambda kind: masks[: len(x)],
        kinds=("lesion",),
        classes=3,
        seed=seed,
    )


def part(explained: cxr.Explained, index: list[int]) -> cxr.Explained:
    masks = explained.region("lesion")[index]
    return replace(
        explained,
        x=explained.x[index],
        target=explained.target[index],
        maps=explained.maps[index],
        region=lambda kind: masks,
    )


def only(scores: dict[str, np.ndarray]) -> np.ndarray:
    (values,) = scores.values()
    return values


def by_quantus(
    metric: type, explained: cxr.Explained, *, seed: int | None = None, call: dict | None = None, **options
) -> np.ndarray:
    """Quantus itself, everything explicit, numpy's global generator seeded and put back."""
    state = np.random.get_state()
    try:
        if seed is not None:
            np.random.seed(seed)
        options = {"abs": False, "normalise": False, "return_aggregate": False, "disable_warnings": True} | options
        with torch.random.fork_rng(devices=[]):
            scores = metric(**options)(
                model=explained.model,
                x_batch=explained.x.copy(),
                y_batch=explained.target,
                a_batch=explained.maps[:, None].astype(np.float64),
                channel_first=True,
                **{"softmax": False, "batch_size": 64} | (call or {}),
            )
    finally:
        np.random.set_state(state)
    return np.asarray(scores, dtype=float)


def explain_for_quantus(explained: cxr.Explained) -> Callable:
    def explain(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
        maps = explained.explain(model, torch.as_tensor(inputs).float(), torch.as_tensor(targets))
        return maps.numpy()[:, None].astype(np.float64)

    return explain


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
        (MaxSensitivity, "lower"),
        (ModelRandomisation, "lower"),
        (Sparseness, "higher"),
        (Complexity, "lower"),
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


@pytest.mark.parametrize("metric", [PixelFlipping, FaithfulnessCorrelation, MaxSensitivity, ModelRandomisation])
def test_the_same_seed_gives_the_same_values(metric: type[cxr.ExplanationMetric]):
    np.testing.assert_array_equal(only(metric().measure(case())), only(metric().measure(case())))


@pytest.mark.parametrize("metric", [FaithfulnessCorrelation, MaxSensitivity, ModelRandomisation])
def test_another_seed_gives_other_values(metric: type[cxr.ExplanationMetric]):
    assert (only(metric().measure(case(seed=3))) != only(metric().measure(case(seed=4)))).all()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (PixelFlipping(steps=16), 17),
        (FaithfulnessCorrelation(runs=10), 11),
        (MaxSensitivity(samples=5), 5),
        (ModelRandomisation(), 1),
        (Sparseness(), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_metric_costs_the_forward_passes_it_says(metric: cxr.ExplanationMetric, expected: int):
    model, seen = conv_net(), []
    explained = case(model)  # explained before anything is counted
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))  # goes with copies too
    metric.measure(explained)
    assert sum(seen) == expected * 6


# ---- pixel flipping ----


def test_pixel_flipping_of_a_linear_network_has_a_closed_form():
    # four pixels of 64 carry the output, a quarter each; in 16 steps of four, the first step takes them all
    weight = torch.zeros(1, SIZE, SIZE)
    weight[0, 2, :4] = 1
    explained = case(Weighted(weight), count=2)
    explained.target[:] = 1
    explained.x[:] = 0.25
    best = replace(explained, maps=np.repeat(weight.numpy(), 2, axis=0))
    metric = PixelFlipping(steps=16, fill="black", output="logit")
    np.testing.assert_allclose(metric.curves(best), [[1] + [0] * 16] * 2)
    np.testing.assert_allclose(only(metric.measure(best)), 0.5 / 16)
    worst = replace(explained, maps=-best.maps)
    np.testing.assert_allclose(only(metric.measure(worst)), 1 - 0.5 / 16)


def test_pixel_flipping_equals_quantus_image_by_image():
    explained = case(explainer=Saliency(absolute=False))
    curves = by_quantus(quantus.PixelFlipping, explained, features_in_step=4, perturb_baseline="black", call={"softmax": True})
    ours = PixelFlipping(steps=16, fill="black").curves(explained)  # the darkest pixel of these images is black
    np.testing.assert_allclose(ours[:, 1:], curves, rtol=1e-5)
    with torch.no_grad():
        untouched = explained.model(torch.from_numpy(explained.x)).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours[:, 0], untouched[np.arange(6), explained.target], rtol=1e-5)


@pytest.mark.skipif(hasattr(np, "trapz"), reason="this numpy still has trapz")
def test_quantus_cannot_integrate_its_curve_with_this_numpy_and_we_can():
    with pytest.raises(AttributeError, match="trapz"):
        by_quantus(quantus.PixelFlipping, case(), features_in_step=4, return_auc_per_sample=True)


def test_quantus_lets_the_mean_drift_while_pixels_are_replaced_and_we_do_not():
    maps = np.random.default_rng(0).random((6, SIZE, SIZE))
    explained = case(Weighted(torch.ones(1, SIZE, SIZE)), maps=maps)
    explained.target[:] = 1
    theirs = by_quantus(quantus.PixelFlipping, explained, features_in_step=4, perturb_baseline="mean")
    ours = PixelFlipping(steps=16, fill="mean", output="logit").curves(explained)
    total = explained.x.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ours[:, -1], total, rtol=1e-5)  # every pixel at the mean: the sum is what it was
    assert (np.abs(theirs[:, -1] - total) > 0.01).all()


def test_quantus_takes_colour_channels_apart_and_we_take_whole_pixels():
    explained = case(channels=3)
    ours = PixelFlipping(steps=16, fill="black", output="logit").curves(explained)
    assert ours.shape == (6, 17)
    theirs = by_quantus(quantus.PixelFlipping, explained, features_in_step=4, perturb_baseline="black")
    assert theirs.shape == (6, 48)
    order = np.argsort(-explained.maps.reshape(6, -1), axis=1)
    for image in range(6):
        x = explained.x[image].copy().reshape(3, -1)
        x[:, order[image, :12]] = 0
        with torch.no_grad():
            expected = explained.model(torch.from_numpy(x).view(1, 3, SIZE, SIZE))[0, explained.target[image]]
        assert ours[image, 3] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("output", "task", "squash"),
    [
        ("probability", "multiclass", None),
        ("probability", "multilabel", torch.sigmoid),
        ("logit", "multiclass", lambda z: z),
        ("logit", "multilabel", lambda z: z),
    ],
)
def test_pixel_flipping_watches_the_output_that_is_set(output: str, task: cxr.Task, squash: Callable | None):
    explained = replace(case(), task=task)
    with torch.no_grad():
        logits = explained.model(torch.from_numpy(explained.x))
    expected = (logits.softmax(dim=1) if squash is None else squash(logits)).numpy()[np.arange(6), explained.target]
    np.testing.assert_allclose(PixelFlipping(output=output).curves(explained)[:, 0], expected, rtol=1e-5)


def test_a_softmax_inside_the_network_is_left_alone():
    # Quantus would take it out of a copy of the network when asked for logits
    model = torch.nn.Sequential(conv_net(), torch.nn.Softmax(dim=1)).eval()
    curve = PixelFlipping(output="logit").curves(case(model))
    assert ((curve > 0) & (curve < 1)).all()


@pytest.mark.parametrize(
    ("pixels", "wanted", "steps"), [(64 * 64, 32, 32), (224 * 224, 32, 32), (100 * 100, 32, 40), (7 * 13, 32, 13), (97, 32, 97)]
)
def test_steps_are_the_divisor_nearest_to_the_setting(pixels: int, wanted: int, steps: int):
    assert steps_that_divide(pixels, wanted) == steps
    assert pixels % steps == 0


def test_ranks_keep_the_order_and_break_ties_by_the_seed():
    maps = np.array([[[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]]])
    ranks = ranked(maps, seed=0)
    assert sorted(ranks.ravel() * 6) == pytest.approx(range(6))
    assert ranks[0, 0, 1] == pytest.approx(5 / 6)
    assert ranks[0, 1, 1] == pytest.approx(4 / 6)
    assert np.array_equal(ranked(maps, seed=0), ranks)
    assert any(not np.array_equal(ranked(maps, seed=seed), ranks) for seed in range(1, 5))


# ---- faithfulness correlation ----


def test_faithfulness_correlation_of_the_exact_attribution_is_one():
    weight = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    explained = case(Weighted(weight))
    explained.target[:] = 1
    for fill, start in (("black", 0.0), ("white", 1.0), ("mean", explained.x.mean(axis=(2, 3), keepdims=True))):
        exact = ((explained.x - start) * weight.numpy())[:, 0].astype(np.float32)
        metric = FaithfulnessCorrelation(fill=fill, share=0.2)
        np.testing.assert_allclose(only(metric.measure(replace(explained, maps=exact))), 1, atol=1e-5)
        np.testing.assert_allclose(only(metric.measure(replace(explained, maps=-exact))), -1, atol=1e-5)


def test_faithfulness_correlation_is_nan_where_the_output_never_moves():
    explained = case(Weighted(torch.zeros(1, SIZE, SIZE)), maps=np.random.default_rng(0).random((6, SIZE, SIZE)))
    assert np.isnan(only(FaithfulnessCorrelation().measure(explained))).all()


def test_faithfulness_correlation_equals_quantus_image_by_image():
    explained = case(explainer=Saliency(absolute=False))
    ours = only(FaithfulnessCorrelation(runs=20, share=6 / 64, fill="black").measure(explained))
    # a number for a baseline: for the word "black" Quantus draws, unused, from the generator that the sets are drawn from
    for image in range(6):
        alone = part(explained, [image])
        theirs = by_quantus(
            quantus.FaithfulnessCorrelation, alone, seed=explained.seed, nr_runs=20, subset_size=6, perturb_baseline=0.0
        )
        assert ours[image] == pytest.approx(theirs[0], abs=1e-5)


def test_quantus_faithfulness_depends_on_the_neighbours_and_ours_does_not():
    explained = case()
    alone = part(explained, [1])
    options = {"nr_runs": 20, "subset_size": 6, "seed": 0}
    theirs = by_quantus(quantus.FaithfulnessCorrelation, explained, **options)[1]
    assert abs(theirs - by_quantus(quantus.FaithfulnessCorrelation, alone, **options)[0]) > 1e-3
    metric = FaithfulnessCorrelation()
    assert only(metric.measure(explained))[1] == pytest.approx(only(metric.measure(alone))[0], abs=1e-5)


# ---- max-sensitivity ----


def test_the_saliency_of_a_linear_network_is_not_sensitive():
    explained = case(Weighted(torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))))
    explained.target[:] = 1
    explained = replace(explained, maps=np.repeat(explained.model.weight.detach().abs().numpy(), 6, axis=0))
    assert only(MaxSensitivity().measure(explained)).tolist() == [0] * 6


def test_max_sensitivity_of_the_image_itself_has_a_closed_form_bound():
    # the map is the image: the change is the noise, whose largest norm is radius times the square root of the pixels
    explained = replace(case(), explain=lambda model, x, target: x[:, 0])
    explained = replace(explained, maps=explained.x[:, 0])
    values = only(MaxSensitivity(radius=0.1, samples=50).measure(explained))
    norms = np.linalg.norm(explained.maps.reshape(6, -1), axis=1)
    assert (values <= 0.1 * SIZE / norms).all()
    assert (
        values >= 0.1 * SIZE / np.sqrt(3) / norms * 0.95
    ).all()  # the root mean square of uniform noise; the maximum is above


def test_max_sensitivity_equals_quantus_image_by_image():
    explained = case(explainer=Saliency(absolute=False))
    explained.x[:, :, 0, 0] = 0.5  # inside [0, 1] with its noise: Quantus does not clip
    maps = explained.explain(explained.model, torch.from_numpy(explained.x), torch.from_numpy(explained.target)).numpy()
    explained = replace(explained, maps=maps)
    ours = only(MaxSensitivity(radius=0.05, samples=6).measure(explained))
    for image in range(6):
        alone = part(explained, [image])
        theirs = by_quantus(
            quantus.MaxSensitivity,
            alone,
            seed=explained.seed,
            nr_samples=6,
            lower_bound=0.05,
            call={"explain_func": explain_for_quantus(explained)},
        )
        assert ours[image] == pytest.approx(theirs[0], rel=1e-4)


def test_quantus_explains_images_outside_zero_to_one_from_other_noise_in_a_batch_and_we_do_not():
    explained = case()
    seen: list[torch.Tensor] = []

    def explain(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return explained.explain(model, x, target)

    watched = replace(explained, explain=explain)
    options = {"nr_samples": 3, "lower_bound": 0.3, "call": {"explain_func": explain_for_quantus(watched)}, "seed": 0}
    theirs = by_quantus(quantus.MaxSensitivity, watched, **options)[1]
    assert min(float(x.min()) for x in seen) < 0
    assert abs(theirs - by_quantus(quantus.MaxSensitivity, part(watched, [1]), **options)[0]) > 1e-3
    seen.clear()
    ours = only(MaxSensitivity(radius=0.3, samples=3).measure(watched))[1]
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in seen)
    assert ours == pytest.approx(only(MaxSensitivity(radius=0.3, samples=3).measure(part(watched, [1])))[0], rel=1e-3)


@pytest.mark.parametrize("new", [torch.zeros_like, torch.ones_like, lambda a: -a])
def test_quantus_gives_up_when_all_new_maps_are_alike_and_we_measure_them(new: Callable):
    explained = replace(case(), explain=lambda model, x, target: new(torch.ones(len(x), SIZE, SIZE)))
    with pytest.raises(AssertionError):
        by_quantus(quantus.MaxSensitivity, explained, nr_samples=2, call={"explain_func": explain_for_quantus(explained)})
    values = only(MaxSensitivity(samples=2).measure(explained))
    change = explained.maps - new(torch.ones(SIZE, SIZE)).numpy()
    expected = np.linalg.norm(change.reshape(6, -1), axis=1) / np.linalg.norm(explained.maps.reshape(6, -1), axis=1)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_new_maps_that_are_not_finite_give_nan():
    def explain(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        maps = x[:, 0].clone()
        maps[1, 0, 0] = torch.nan
        return maps

    values = only(MaxSensitivity().measure(replace(case(), explain=explain)))
    assert np.isnan(values).tolist() == [False, True, False, False, False, False]


# ---- model randomisation ----


def last_network_of_quantus(model: torch.nn.Module) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        *_, (_, network) = quantus.PyTorchModel(model, channel_first=True).get_random_layer_generator(order="top_down", seed=42)
    return network


def test_model_randomisation_equals_the_last_value_of_quantus(monkeypatch: pytest.MonkeyPatch):
    explained = case(explainer=Saliency(absolute=False))
    call = {"explain_func": explain_for_quantus(explained)}
    theirs = by_quantus(quantus.MPRT, explained, abs=True, seed=None, return_last_correlation=True, skip_layers=True, call=call)
    network = last_network_of_quantus(explained.model)
    monkeypatch.setattr("cxr_eval.explain.metrics.randomised", lambda model, seed: network)
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


# ---- complexity ----


def test_sparseness_of_one_pixel_and_of_k_equal_pixels_is_the_gini_index():
    maps = np.zeros((2, SIZE, SIZE))
    maps[0, 3, 3] = 5
    maps[1, :2] = -2
    # Quantus adds 1e-7 to each of the 64 pixels
    np.testing.assert_allclose(only(Sparseness().measure(case(count=2, maps=maps))), [1 - 1 / 64, 1 - 16 / 64], atol=1e-5)


def test_complexity_of_one_pixel_and_of_k_equal_pixels_is_the_log_of_their_number():
    maps = np.zeros((2, SIZE, SIZE))
    maps[0, 3, 3] = 5
    maps[1, :2] = -2
    np.testing.assert_allclose(only(Complexity().measure(case(count=2, maps=maps))), [0, np.log(16)], atol=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [(Sparseness, quantus.Sparseness), (Complexity, quantus.Complexity)])
def test_complexity_metrics_equal_quantus_image_by_image(ours: type[cxr.ExplanationMetric], theirs: type):
    explained = case(explainer=Saliency(absolute=False))
    values = only(ours().measure(explained))
    for image in range(6):
        alone = by_quantus(theirs, part(explained, [image]), abs=True, normalise=True)
        assert values[image] == pytest.approx(alone[0], rel=1e-9)


def test_quantus_lets_a_strong_map_change_the_sparseness_of_another_and_we_do_not():
    explained = case()
    explained.maps[1] *= 1e8
    theirs = by_quantus(quantus.Sparseness, explained, abs=True, normalise=True)[0]
    alone = by_quantus(quantus.Sparseness, part(explained, [0]), abs=True, normalise=True)[0]
    assert abs(theirs - alone) > 0.1
    assert only(Sparseness().measure(explained))[0] == pytest.approx(alone, rel=1e-9)


def test_quantus_changes_the_maps_it_is_given_and_we_do_not():
    explained = case()
    a = explained.maps[:, None].astype(np.float64)
    before = a.copy()
    metric = quantus.Sparseness(abs=False, normalise=False, disable_warnings=True)
    metric(model=None, x_batch=explained.x, y_batch=explained.target, a_batch=a, channel_first=True)
    assert not np.array_equal(a, before)
    Sparseness().measure(explained)
    assert np.array_equal(explained.maps, before[:, 0].astype(np.float32))


def test_positive_and_absolute_policies_differ_on_signed_maps():
    explained = case(explainer=Saliency(absolute=False))
    for metric in (Sparseness, Complexity, ModelRandomisation, MaxSensitivity, PixelFlipping, FaithfulnessCorrelation):
        positive, absolute = (only(metric(sign=sign).measure(explained)) for sign in ("positive", "absolute"))
        assert (positive != absolute).all(), metric
