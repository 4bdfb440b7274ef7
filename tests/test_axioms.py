"""Axioms: methods that keep them by construction, networks with closed forms, and Quantus where it is right."""

from dataclasses import replace

import numpy as np
import pytest
import quantus
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.axioms import Completeness, InputInvariance, NonSensitivity, shifted, squares
from cxr_eval.explain.methods import IntegratedGradients, Saliency
from tests.explained_case import SIZE, Weighted, by_quantus, case, conv_net, explain_for_quantus, only, part


def linear() -> cxr.Explained:
    """Images of a linear network with the exact map: pixel times weight; some weights are zero."""
    weight = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    weight[0, :2] = 0
    explained = case(Weighted(weight))
    explained.target[:] = 1
    explained.x[:, :, 0, 0] = 0.5

    def exact(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (x * weight)[:, 0]

    return replace(explained, maps=exact(explained.model, torch.from_numpy(explained.x), torch.zeros(0)).numpy(), explain=exact)


# ---- completeness ----


def test_the_exact_map_of_a_linear_network_is_complete_and_quantus_finds_it_false():
    explained = linear()
    np.testing.assert_allclose(only(Completeness().measure(explained)), 0, atol=1e-5)
    theirs = by_quantus(quantus.Completeness, explained, perturb_baseline=0.0, normalise=True)
    assert theirs.tolist() == [0] * 6


def test_what_is_missing_from_the_sum_is_the_value():
    explained = linear()
    short = replace(explained, maps=explained.maps.copy())
    short.maps[:, 5, 5] += 0.25
    np.testing.assert_allclose(only(Completeness().measure(short)), 0.25, atol=1e-5)
    double = replace(explained, maps=2 * explained.maps)
    np.testing.assert_allclose(only(Completeness().measure(double)), np.abs(explained.maps.sum(axis=(1, 2))), rtol=1e-4)


@pytest.mark.parametrize("fill", ["black", "mean", "white"])
def test_the_sum_is_compared_with_what_the_image_adds_to_its_filling(fill: str):
    explained = linear()
    weight = explained.model.weight.detach().numpy()[0]
    start = {"black": 0.0, "white": 1.0, "mean": explained.x.mean(axis=(1, 2, 3), keepdims=True)[:, 0]}[fill]
    exact = replace(explained, maps=((explained.x[:, 0] - start) * weight).astype(np.float32))
    np.testing.assert_allclose(only(Completeness(fill=fill).measure(exact)), 0, atol=1e-5)


def test_integrated_gradients_are_complete_and_gradients_are_not():
    integrated = case(explainer=IntegratedGradients(steps=200))
    gradients = case(explainer=Saliency(absolute=False))
    assert (only(Completeness().measure(integrated)) < 5e-4).all()
    assert (only(Completeness().measure(gradients)) > 5e-3).all()


# ---- non-sensitivity ----


def test_squares_tile_the_image_and_are_at_most_one_a_pixel():
    assert squares(4, 6, 2).tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2
    assert squares(2, 3, 99).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_squares_of_an_uneven_image_differ_by_one_row_and_one_column():
    _, sizes = np.unique(squares(7, 5, 3), return_counts=True)
    assert sorted(sizes.tolist()) == [2, 2, 3, 4, 4, 4, 4, 6, 6]  # rows of 3, 2, 2 by columns of 2, 2, 1


def test_a_map_that_leaves_out_what_does_not_matter_is_never_wrong_and_one_that_does_the_opposite_always():
    explained = linear()
    explained = replace(explained, x=np.where(explained.x == 0, 0.5, explained.x).astype(np.float32))
    weight = explained.model.weight.detach().numpy()[0]
    metric = NonSensitivity(side=SIZE, fill="black", output="logit")
    right = replace(explained, maps=np.repeat((weight != 0)[None], 6, axis=0).astype(np.float32))
    assert only(metric.measure(right)).tolist() == [0] * 6
    wrong = replace(explained, maps=np.repeat((weight == 0)[None], 6, axis=0).astype(np.float32))
    assert only(metric.measure(wrong)).tolist() == [1] * 6
    # two rows of eight are without effect; with squares of 4 x 4 both upper ones have an effect through their lower rows
    assert only(NonSensitivity(side=2, fill="black", output="logit").measure(right)).tolist() == [0] * 6


def test_non_sensitivity_equals_the_count_of_quantus_pixel_by_pixel_on_one_image():
    explained = linear()
    maps = explained.maps.copy()
    maps[:, 4:] = 0
    explained = replace(explained, maps=maps)
    explained.x[:, :, 3, 3] = 0
    ours = only(NonSensitivity(side=SIZE, fill="black", output="logit").measure(explained))
    for image in range(6):
        alone = part(explained, [image])
        theirs = by_quantus(quantus.NonSensitivity, alone, perturb_baseline=0.0, abs=True, normalise=True)
        assert theirs[0] == pytest.approx(ours[image] * SIZE * SIZE)
    assert (ours > 0.3).all()


def test_quantus_fails_for_squares_of_several_pixels_and_lets_a_strong_map_change_another():
    explained = linear()
    with pytest.raises(ValueError, match="broadcast"):
        by_quantus(quantus.NonSensitivity, explained, features_in_step=4)
    loud = replace(explained, maps=explained.maps.copy())
    loud.maps[5] *= 1e8
    options = {"perturb_baseline": 0.0, "abs": True, "normalise": True}
    before, after = (by_quantus(quantus.NonSensitivity, e, **options)[0] for e in (explained, loud))
    assert before != after
    metric = NonSensitivity(side=SIZE, fill="black", output="logit")
    assert only(metric.measure(explained))[0] == only(metric.measure(loud))[0]


# ---- input invariance ----


def test_the_shifted_network_says_of_shifted_images_what_the_network_says_of_images():
    model, x = conv_net(), torch.from_numpy(case().x)
    network = shifted(model, -1.0)
    torch.testing.assert_close(network(x - 1), model(x))
    assert [name for name, _ in network.named_modules()] == [name for name, _ in model.named_modules()]
    assert not model._forward_pre_hooks


def test_the_gradient_is_invariant_and_pixel_times_weight_is_not():
    np.testing.assert_allclose(only(InputInvariance().measure(case(explainer=Saliency()))), 0, atol=1e-5)
    explained = linear()
    weight = explained.model.weight.detach().numpy()
    # (x - 1) w instead of x w: the change is w
    expected = np.linalg.norm(weight) / np.linalg.norm(explained.maps.reshape(6, -1), axis=1)
    np.testing.assert_allclose(only(InputInvariance().measure(explained)), expected, rtol=1e-5)
    half = only(InputInvariance(shift=0.5).measure(explained))
    np.testing.assert_allclose(half, expected / 2, rtol=1e-5)


def first_layer(bias: bool, padding: int, corner: bool = False) -> torch.nn.Module:
    """One convolution and a head, to which the first pixel of an image does not matter unless `corner`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        size = SIZE - 2 + 2 * padding
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 3, 3, padding=padding, bias=bias),
            torch.nn.Tanh(),
            torch.nn.Flatten(),
            torch.nn.Linear(3 * size * size, 3),
        )
    if not corner:
        with torch.no_grad():
            model[3].weight.view(3, 3, size, size)[..., : 1 + padding, : 1 + padding] = 0
    return model.eval()


def test_quantus_agrees_for_a_first_layer_with_bias_and_without_padding():
    explained = case(first_layer(bias=True, padding=0))
    call = {"explain_func": explain_for_quantus(explained)}
    assert by_quantus(quantus.InputInvariance, explained, call=call).tolist() == [1] * 6
    np.testing.assert_allclose(only(InputInvariance().measure(explained)), 0, atol=1e-5)
    pixels = replace(explained, explain=lambda model, x, target: x[:, 0], maps=explained.x[:, 0])
    call = {"explain_func": explain_for_quantus(pixels)}
    assert by_quantus(quantus.InputInvariance, pixels, call=call).tolist() == [0] * 6
    assert (only(InputInvariance().measure(pixels)) > 1).all()


def test_quantus_forgets_to_shift_the_first_pixel_and_we_do_not():
    seen: list[np.ndarray] = []
    explained = case(first_layer(bias=True, padding=0, corner=True))

    def explain(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(x.numpy() - explained.x)
        return explained.explain(model, x, target)

    watched = replace(explained, explain=explain)
    theirs = by_quantus(quantus.InputInvariance, watched, call={"explain_func": explain_for_quantus(watched)})
    np.testing.assert_allclose(only(InputInvariance().measure(watched)), 0, atol=1e-5)
    assert theirs.tolist() == [0] * 6
    by_them, by_us = seen
    assert (by_them[:, 0, 0, 0] == 0).all()
    np.testing.assert_allclose(by_them.reshape(6, -1)[:, 1:], -1, atol=1e-6)
    np.testing.assert_allclose(by_us, -1, atol=1e-6)


def test_quantus_fails_without_bias_and_blames_the_method_for_padding_and_we_do_neither():
    explained = case(first_layer(bias=False, padding=0))
    with pytest.raises(TypeError):
        by_quantus(quantus.InputInvariance, explained, call={"explain_func": explain_for_quantus(explained)})
    np.testing.assert_allclose(only(InputInvariance().measure(explained)), 0, atol=1e-5)
    explained = case(first_layer(bias=True, padding=1))
    theirs = by_quantus(quantus.InputInvariance, explained, call={"explain_func": explain_for_quantus(explained)})
    assert theirs.tolist() == [0] * 6
    np.testing.assert_allclose(only(InputInvariance().measure(explained)), 0, atol=1e-5)


# ---- the library's own numbers ----


def test_compat_gives_the_numbers_of_the_library_and_nan_where_it_fails(caplog: pytest.LogCaptureFixture):
    explained = linear()
    assert only(Completeness(compat="quantus").measure(explained)).tolist() == [0] * 6
    theirs = by_quantus(quantus.NonSensitivity, explained, abs=True, normalise=True, call={"softmax": True})
    np.testing.assert_array_equal(only(NonSensitivity(compat="quantus").measure(explained)), theirs)
    assert theirs.max() > 1  # a count, not a share
    without_bias = case(first_layer(bias=False, padding=0))
    assert np.isnan(only(InputInvariance(compat="quantus").measure(without_bias))).all()
    assert "InputInvariance" in caplog.text
    assert only(InputInvariance(compat="quantus").measure(case(first_layer(bias=True, padding=0)))).tolist() == [1] * 6
