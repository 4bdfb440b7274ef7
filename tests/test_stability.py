"""Stability of maps against closed forms, and against Quantus image by image for the same noise."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import quantus
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.methods import Saliency
from cxr_eval.explain.relative_stability import (
    RelativeInputStability,
    RelativeOutputStability,
    RelativeRepresentationStability,
    relative_lengths,
)
from cxr_eval.explain.stability import AvgSensitivity, Continuity, LocalLipschitz, MaxSensitivity, translated
from tests.explained_case import SIZE, Weighted, by_quantus, case, conv_net, explain_for_quantus, only, part

RELATIVE = [RelativeInputStability, RelativeOutputStability, RelativeRepresentationStability]


def bright(explainer: cxr.Explainer | None = None) -> cxr.Explained:
    """Explained images without black pixels: Quantus does not clip, and divides by the pixel."""
    explained = case(explainer=Saliency(absolute=False) if explainer is None else explainer)
    explained.x[:, :, 0, 0] = 0.5
    maps = explained.explain(explained.model, torch.from_numpy(explained.x), torch.from_numpy(explained.target)).numpy()
    return replace(explained, maps=maps)


def the_same_noise(radius: float) -> dict:
    """Settings that make Quantus draw uniform noise from numpy's generator, as ours is drawn for one image."""

    def noise(arr: np.ndarray, **_: object) -> np.ndarray:
        return (arr + np.random.uniform(-radius, radius, arr.shape)).astype(np.float32)

    return {"perturb_func": noise}


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


# ---- avg-sensitivity ----


def test_avg_sensitivity_is_the_mean_of_what_max_sensitivity_is_the_largest_of():
    explained = bright()
    one = only(AvgSensitivity(samples=1).measure(explained))
    np.testing.assert_allclose(one, only(MaxSensitivity(samples=1).measure(explained)))
    assert (only(AvgSensitivity(samples=6).measure(explained)) < only(MaxSensitivity(samples=6).measure(explained))).all()


def test_avg_sensitivity_equals_quantus_image_by_image():
    explained = bright()
    ours = only(AvgSensitivity(radius=0.05, samples=6).measure(explained))
    for image in range(6):
        theirs = by_quantus(
            quantus.AvgSensitivity,
            part(explained, [image]),
            seed=explained.seed,
            nr_samples=6,
            lower_bound=0.05,
            call={"explain_func": explain_for_quantus(explained)},
        )
        assert ours[image] == pytest.approx(theirs[0], rel=1e-4)


# ---- local Lipschitz ----


def test_the_lipschitz_estimate_of_the_image_itself_is_one_over_its_largest_pixel():
    explained = replace(bright(), explain=lambda model, x, target: x[:, 0])
    explained = replace(explained, maps=explained.x[:, 0])
    # |map - map'| = |x - x'| for every noise, and maps are divided by the largest of the clean one
    np.testing.assert_allclose(only(LocalLipschitz().measure(explained)), 1 / explained.x.max(axis=(1, 2, 3)), rtol=1e-5)


def test_the_lipschitz_estimate_equals_quantus_on_maps_of_unit_size_and_not_where_quantus_looks_at_the_neighbours():
    explained = bright()
    ours = only(LocalLipschitz(radius=0.05, samples=6).measure(explained))
    call = {"explain_func": explain_for_quantus(explained)}
    options = {"seed": explained.seed, "nr_samples": 6, **the_same_noise(0.05), "call": call}
    for image in range(6):
        alone = part(explained, [image])
        theirs = by_quantus(quantus.LocalLipschitzEstimate, alone, **options)[0]
        assert ours[image] * np.abs(alone.maps).max() == pytest.approx(theirs, rel=1e-4)
    loud = replace(explained, maps=explained.maps * np.array([1, 1, 1, 1, 1, 100], dtype=np.float32)[:, None, None])
    theirs = [by_quantus(quantus.LocalLipschitzEstimate, e, normalise=True, **options)[0] for e in (explained, loud)]
    assert abs(theirs[0] - theirs[1]) > 0.1 * theirs[0]
    assert only(LocalLipschitz(radius=0.05, samples=6).measure(loud))[0] == ours[0]


def test_an_image_that_noise_cannot_move_has_no_lipschitz_estimate():
    explained = bright()
    stuck = replace(explained, x=np.zeros_like(explained.x), explain=lambda model, x, target: x[:, 0])
    metric = LocalLipschitz(samples=2)
    metric.variants = lambda x, seed: iter([x, x])  # every draw is clipped away
    assert np.isnan(only(metric.measure(stuck))).all()


# ---- continuity ----


def test_moving_an_image_by_hand():
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 1, 4)
    assert translated(x, 1).ravel().tolist() == [0, 1, 2, 3]
    assert translated(x, -1).ravel().tolist() == [2, 3, 4, 0]
    assert translated(x, 0).ravel().tolist() == [1, 2, 3, 4]
    assert translated(x, 4).ravel().tolist() == [0, 0, 0, 0]


def test_continuity_of_the_image_itself_by_hand():
    x = np.zeros((1, 1, 2, 4), dtype=np.float32)
    x[0, 0, 0, 1] = 0.5
    explained = replace(case(count=1), x=x, maps=x[:, 0], explain=lambda model, x, target: x[:, 0])
    # moved by one pixel: two pixels change by 0.5 each. Map: (0.5 + 0.5) / 0.5 = 2; image: sqrt(0.25 + 0.25)
    assert only(Continuity(reach=0.1).measure(explained))[0] == pytest.approx(2 / np.sqrt(0.5))


def test_continuity_equals_quantus_for_its_own_moves():
    explained = case(explainer=Saliency())  # with a black pixel: Quantus' black is the darkest pixel of the image
    call = {"explain_func": explain_for_quantus(explained)}
    theirs = by_quantus(quantus.Continuity, explained, nr_steps=2 * SIZE - 1, abs=True, call=call)  # -7, -6, ..., 7
    ours = only(Continuity(reach=1, steps=2 * SIZE - 1).measure(explained))
    np.testing.assert_allclose(ours * explained.maps.max(axis=(1, 2)), theirs, rtol=1e-4)


def test_quantus_moves_a_narrow_image_out_of_the_picture_28_times_and_we_move_it_by_a_tenth():
    seen: list[np.ndarray] = []
    explained = case()

    def explain(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(x.numpy())
        return explained.explain(model, x, target)

    watched = replace(explained, explain=explain)
    by_quantus(quantus.Continuity, watched, call={"explain_func": explain_for_quantus(watched)})
    assert len(seen) == 29
    assert all((x == 0).all() for x in seen[1:])
    seen.clear()
    Continuity().measure(watched)
    assert len(seen) == 2  # one pixel to the left, one to the right
    assert all((x > 0).any() for x in seen)


# ---- relative stability ----


def test_relative_length_by_hand():
    before, after = np.array([[2.0, 0.0, 4.0]]), np.array([[3.0, 1.0, 4.0]])
    # floor 0.25: nothing is divided by less than 1: (1/2, 1/1, 0)
    np.testing.assert_allclose(relative_lengths(before, after, 0.25), [np.sqrt(0.25 + 1)])
    assert np.isnan(relative_lengths(np.zeros((1, 3)), after, 0.25)).all()


def test_input_stability_of_the_image_itself_is_one():
    explained = replace(bright(), explain=lambda model, x, target: x[:, 0])
    explained = replace(explained, maps=explained.x[:, 0])
    values = only(RelativeInputStability().measure(explained))  # of those with a draw that keeps the answer
    np.testing.assert_allclose(values[np.isfinite(values)], 1, rtol=1e-6)
    assert np.isfinite(values).any()


@pytest.mark.parametrize("metric", RELATIVE)
def test_relative_stability_equals_quantus_where_every_draw_keeps_the_answer(metric: type):
    model = conv_net()
    with torch.no_grad():
        model[7].bias[0] += 5  # sure of its class
    explained = replace(bright(), model=model)
    offset = replace(explained, maps=explained.maps + 1, explain=lambda *args: Saliency(absolute=False).explain(*args) + 1)
    settings = {"layer": "4"} if metric is RelativeRepresentationStability else {}
    ours = only(metric(radius=0.01, samples=4, floor=1e-9, **settings).measure(offset))
    theirs = getattr(quantus, metric.quantus_name)
    settings = {"layer_names": ["4"]} if metric is RelativeRepresentationStability else {}
    call = {"explain_func": explain_for_quantus(offset)}
    for image in range(6):
        alone = part(offset, [image])
        value = by_quantus(theirs, alone, seed=offset.seed, nr_samples=4, **the_same_noise(0.01), call=call, **settings)[0]
        assert ours[image] == pytest.approx(value, rel=2e-3)  # float32 in Quantus


def test_quantus_reads_features_that_an_in_place_layer_has_overwritten_and_we_do_not():
    explained = bright()
    theirs = quantus.PyTorchModel(explained.model, channel_first=True).get_hidden_representations(explained.x, ["0"])
    metric = RelativeRepresentationStability(layer="0")
    with torch.no_grad():
        before = explained.model[0](torch.from_numpy(explained.x)).numpy()
        ours = metric.seen(explained.model, torch.from_numpy(explained.x))[1]
    np.testing.assert_array_equal(ours, before)
    np.testing.assert_array_equal(theirs.reshape(before.shape), np.maximum(before, 0))
    assert (before < 0).any()


@pytest.mark.parametrize("metric", RELATIVE)
def test_quantus_has_no_value_where_one_draw_changes_the_answer_and_we_take_the_others(metric: type):
    explained = bright()
    with torch.no_grad():
        logits = explained.model(torch.from_numpy(explained.x))
    lead = (logits[0].sort().values[-1] - logits[0].sort().values[-2]).item()
    with torch.no_grad():
        explained.model[7].bias[int(logits[0].argmax())] -= lead * (1 - 1e-3)  # image 0 is on the border
    alone = part(explained, [0])
    call = {"explain_func": explain_for_quantus(alone)}
    theirs = by_quantus(getattr(quantus, metric.quantus_name), alone, seed=3, nr_samples=12, **the_same_noise(0.05), call=call)
    assert np.isnan(theirs).all()
    assert np.isfinite(only(metric(radius=0.05, samples=12).measure(alone))).all()


def test_where_every_draw_changes_the_answer_there_is_no_value():
    class Parity(torch.nn.Module):
        """Answers 0 on exactly these images and 1 on all others."""

        def __init__(self, known: np.ndarray) -> None:
            super().__init__()
            self.known = torch.from_numpy(known.copy())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            known = torch.stack([(self.known == one).flatten(1).all(dim=1).any() for one in x]).float()
            return torch.stack([known, 1 - known, 0 * known], dim=1)

    explained = bright()
    explained = replace(explained, model=Parity(explained.x), explain=lambda model, x, target: x[:, 0])
    assert np.isnan(only(RelativeInputStability().measure(explained))).all()


def test_findings_that_do_not_exclude_each_other_keep_their_answer_by_their_own_sign():
    explained = bright()
    with torch.no_grad():
        explained.model[7].bias.fill_(50)  # all findings there, whatever is highest
    several = replace(explained, task="multilabel")
    assert np.isfinite(only(RelativeInputStability(radius=0.3).measure(several))).all()


def test_black_pixels_do_not_decide_alone():
    explained = case()
    explained.x[:, :, :4] = 0
    dark = replace(explained, explain=lambda model, x, target: 0.5 + x[:, 0])
    dark = replace(dark, maps=0.5 + dark.x[:, 0])
    dark = replace(dark, model=Weighted(torch.zeros(1, SIZE, SIZE)).eval())  # one answer, whatever the noise
    ours = only(RelativeInputStability().measure(dark))
    call = {"explain_func": explain_for_quantus(dark)}
    theirs = by_quantus(quantus.RelativeInputStability, dark, nr_samples=8, **the_same_noise(0.02), call=call)
    assert (theirs < 1e-4).all()  # everything over a change of 0.01 / 0.000001
    assert (ours > 1e-2).all()


def test_an_output_that_does_not_move_has_no_output_stability():
    explained = replace(bright(), model=Weighted(torch.zeros(1, SIZE, SIZE)), explain=lambda model, x, target: x[:, 0])
    assert np.isnan(only(RelativeOutputStability().measure(explained))).all()


def test_the_layer_is_named_or_the_last_convolution():
    explained = bright()
    metric = RelativeRepresentationStability
    assert metric().watched(explained.model, torch.from_numpy(explained.x)) is explained.model[4]
    np.testing.assert_array_equal(only(metric(layer="4").measure(explained)), only(metric().measure(explained)))
    assert (only(metric(layer="0").measure(explained)) != only(metric().measure(explained))).any()


def test_a_layer_that_is_not_there_is_refused():
    explained = bright()
    with pytest.raises(cxr.PluginError, match=r"stability: Sequential has no layer '44'; did you mean '4'\?"):
        RelativeRepresentationStability(layer="44").measure(explained)
    with pytest.raises(cxr.PluginError, match="has no layer 'features'; leave 'layer' out to take the last convolution"):
        RelativeRepresentationStability(layer="features").measure(explained)
    linear = replace(explained, model=Weighted(torch.zeros(1, SIZE, SIZE)), explain=lambda model, x, target: x[:, 0])
    with pytest.raises(cxr.PluginError, match="relative_representation_stability: Weighted runs no convolution"):
        RelativeRepresentationStability().measure(linear)


# ---- the library's own numbers ----


@pytest.mark.parametrize("metric", [MaxSensitivity, AvgSensitivity, LocalLipschitz, *RELATIVE])
def test_compat_gives_the_numbers_of_the_library_with_our_number_of_samples(metric: type):
    explained = case()
    values = only(metric(compat="quantus", samples=3).measure(explained))
    state = np.random.get_state()
    np.random.seed(explained.seed)
    call = getattr(quantus, metric.quantus_name)(nr_samples=3, disable_warnings=True, return_aggregate=False)
    theirs = call(
        model=explained.model,
        x_batch=explained.x.copy(),
        y_batch=explained.target,
        a_batch=explained.maps[:, None].copy(),
        channel_first=True,
        explain_func=explain_for_quantus(explained),
    )
    np.random.set_state(state)
    np.testing.assert_allclose(values, theirs, rtol=1e-4)
    assert not np.allclose(values, only(metric(samples=3).measure(explained)), rtol=1e-2, equal_nan=True)


def test_compat_of_continuity_gives_the_numbers_of_the_library():
    explained = case()
    values = only(Continuity(compat="quantus", steps=5).measure(explained))
    call = {"explain_func": explain_for_quantus(explained)}
    theirs = by_quantus(quantus.Continuity, explained, abs=True, normalise=True, nr_steps=5, call=call)
    np.testing.assert_allclose(values, theirs, rtol=1e-4)
