"""Faithfulness metrics against closed forms, and against Quantus image by image where Quantus is right."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import captum.metrics
import numpy as np
import pydantic
import pytest
import quantus
import torch
from scipy.stats import spearmanr

import cxr_eval.api as cxr
from cxr_eval.explain.infidelity import Infidelity
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.methods import Saliency
from cxr_eval.explain.removal import (
    IROF,
    PixelFlipping,
    RegionPerturbation,
    Selectivity,
    patch_numbers,
    ranked,
    steps_that_divide,
)
from cxr_eval.explain.removal_correlation import (
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    Monotonicity,
    MonotonicityCorrelation,
    SensitivityN,
)
from cxr_eval.explain.road import ROAD, energies, hats, imputed
from tests.explained_case import SIZE, Weighted, by_quantus, case, conv_net, only, part

METRICS: list[type[MapMetric]] = [
    PixelFlipping,
    RegionPerturbation,
    Selectivity,
    IROF,
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    SensitivityN,
    Monotonicity,
    MonotonicityCorrelation,
    ROAD,
    Infidelity,
]


def slopes(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def linear(weight: torch.Tensor, count: int = 6) -> cxr.Explained:
    """A linear network, its second output explained."""
    explained = case(Weighted(weight), count=count)
    explained.target[:] = 1
    return explained


# ---- what every metric keeps to ----


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("channels", [1, 3])
def test_values_are_finite_float64_one_an_image_and_named(metric: type[MapMetric], channels: int):
    scores = metric().measure(case(channels=channels))
    assert list(scores) == [metric.name]
    values = only(scores)
    assert values.dtype == np.float64
    assert values.shape == (6,)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_describes_itself(metric: type[MapMetric]):
    assert metric.source
    assert metric.family == "faithfulness"
    assert hasattr(quantus, metric.quantus_name)
    assert all(field.description for field in metric.Params.model_fields.values())
    with pytest.raises(pydantic.ValidationError):
        metric(unknown=1)


@pytest.mark.parametrize("metric", METRICS)
def test_an_image_scores_the_same_whatever_stands_beside_it(metric: type[MapMetric]):
    together = case(count=40)
    together.maps[7] *= 1e8  # a strong map must not dwarf the others
    everyone = only(metric().measure(together))
    for chosen in ([3], [12, 5, 7], [39, 0, 1, 2, 21]):
        # other batch sizes take other convolution kernels: float32
        np.testing.assert_allclose(only(metric().measure(part(together, chosen))), everyone[chosen], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spoil", [np.zeros_like, np.ones_like, lambda a: a * np.nan, lambda a: a * np.inf])
def test_a_map_that_says_nothing_scores_nan_and_harms_no_other(metric: type[MapMetric], spoil: Callable):
    explained = case()
    clean = only(metric().measure(explained))
    with np.errstate(invalid="ignore"):  # infinity times zero, on purpose
        explained.maps[2] = spoil(explained.maps[2])
    scores = only(metric().measure(explained))
    assert np.isnan(scores[2])
    np.testing.assert_allclose(np.delete(scores, 2), np.delete(clean, 2), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_to_measure_gives_nan_or_nothing(metric: type[MapMetric]):
    assert np.isnan(only(metric().measure(case(maps=np.zeros((6, SIZE, SIZE)))))).all()
    assert only(metric().measure(part(case(), []))).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
def test_black_images_are_measured_or_nan_and_never_fail(metric: type[MapMetric]):
    explained = case()
    explained.x[:] = 0
    values = only(metric().measure(explained))
    if metric in (Infidelity, SensitivityN, IROF, FaithfulnessCorrelation, FaithfulnessEstimate):
        assert np.isnan(values).all()  # nothing can be taken away
    else:
        assert np.isfinite(values).all()


@pytest.mark.parametrize("metric", METRICS)
def test_measuring_leaves_everything_as_it_was_and_prints_nothing(metric: type[MapMetric], capsys: pytest.CaptureFixture[str]):
    explained = case()
    explained.model.train()
    explained.model[0].weight.requires_grad_(False)
    x, maps = explained.x.copy(), explained.maps.copy()
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    for compat in ("corrected", "quantus"):
        metric(compat=compat).measure(explained)
        assert all(module.training for module in explained.model.modules())
        assert [weight.requires_grad for weight in explained.model.parameters()] == [False] + [True] * 7
        assert np.array_equal(explained.x, x)
        assert np.array_equal(explained.maps, maps)
        assert np.array_equal(np.random.get_state()[1], states[0])
        assert torch.equal(torch.get_rng_state(), states[1])
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("metric", METRICS)
def test_findings_that_do_not_exclude_each_other_are_watched_one_by_one(metric: type[MapMetric]):
    assert np.isfinite(only(metric().measure(replace(case(), task="multilabel")))).all()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (RegionPerturbation(patch=2, regions=5), 6),
        (RegionPerturbation(patch=2), 17),
        (Selectivity(patch=2), 17),
        (Selectivity(patch=3), 10),  # the last patch of a row has two columns
        (FaithfulnessEstimate(steps=8), 9),
        (SensitivityN(sizes=3, runs=4), 3 * 5),
        (Monotonicity(steps=16), 16),
        (MonotonicityCorrelation(steps=16, samples=3), 49),
        (ROAD(percentages=(10, 50)), 2),
        (Infidelity(patch=2), 17),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_metric_costs_the_forward_passes_it_says(metric: MapMetric, expected: int):
    model, seen = conv_net(), []
    explained = case(model)  # explained before anything is counted
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    metric.measure(explained)
    assert sum(seen) == expected * 6


# ---- patches: region perturbation, selectivity ----


def test_patches_are_numbered_row_by_row_and_the_last_ones_are_smaller():
    assert patch_numbers(3, 5, 2).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_region_perturbation_and_selectivity_of_a_linear_network_have_closed_forms():
    # of four patches of 4 x 4 one carries the output 16 x 0.25 = 4; the curve is 4, 0, 0, 0, 0
    weight = torch.zeros(1, SIZE, SIZE)
    weight[0, :4, 4:] = 1
    explained = linear(weight, count=2)
    explained.x[:] = 0.25
    best = replace(explained, maps=np.repeat(weight.numpy(), 2, axis=0))
    settings = {"patch": 4, "fill": "black", "output": "logit"}
    np.testing.assert_allclose(only(RegionPerturbation(**settings).measure(best)), 4 * 4 / 5)
    np.testing.assert_allclose(only(RegionPerturbation(regions=1, **settings).measure(best)), 4 / 2)
    np.testing.assert_allclose(only(Selectivity(**settings).measure(best)), 4 * 0.5 / 4)
    worst = replace(explained, maps=-best.maps)
    # the patch that matters goes last: 4, 4, 4, 4, 0
    np.testing.assert_allclose(only(RegionPerturbation(**settings).measure(worst)), 4 / 5)
    np.testing.assert_allclose(only(Selectivity(**settings).measure(worst)), 4 * 3.5 / 4)


def test_region_perturbation_equals_quantus_image_by_image():
    explained = case(explainer=Saliency(absolute=False))
    falls = by_quantus(quantus.RegionPerturbation, explained, patch_size=2, regions_evaluation=9, call={"softmax": True})
    ours = only(RegionPerturbation(patch=2, regions=9, fill="black").measure(explained))
    np.testing.assert_allclose(ours, falls.sum(axis=1) / 10, rtol=1e-4, atol=1e-7)  # the tenth is the untouched image: no fall


def test_selectivity_equals_quantus_image_by_image():
    explained = case(explainer=Saliency(absolute=False))
    curves = by_quantus(quantus.Selectivity, explained, patch_size=2, call={"softmax": True})
    with torch.no_grad():
        untouched = explained.model(torch.from_numpy(explained.x)).softmax(dim=1).numpy()[np.arange(6), explained.target]
    curves = np.concatenate([untouched[:, None], curves], axis=1)
    np.testing.assert_allclose(
        only(Selectivity(patch=2, fill="black").measure(explained)), np.trapezoid(curves, dx=1 / 16, axis=1), rtol=1e-5
    )


# ---- IROF ----


def test_irof_of_a_network_that_sees_the_left_half_has_a_closed_form():
    # SLIC makes four superpixels of two flat halves, two of each; the output hangs on the left ones
    weight = torch.zeros(1, SIZE, SIZE)
    weight[0, :, :4] = 4.0
    explained = linear(weight, count=2)
    explained.x[:, :, :, :4], explained.x[:, :, :, 4:] = 1.0, 0.0
    found = []
    for maps in (weight.numpy(), -weight.numpy()):
        alone = replace(explained, maps=np.repeat(maps, 2, axis=0))
        found.append(only(IROF(segments=4, fill="black").measure(alone)))
    # softmax of (0, 4 a pixel) is 1, and 0.5 when all of the left is gone: 1, 1, .5, .5, .5 and 1, 1, 1, 1, .5 in four steps
    np.testing.assert_allclose(found[0], 1 - (1 + 0.75 + 0.5 + 0.5) / 4)
    np.testing.assert_allclose(found[1], 1 - (1 + 1 + 1 + 0.75) / 4)


def test_irof_equals_quantus_image_by_image_where_its_baseline_is_a_number():
    explained = case(explainer=Saliency(absolute=False))
    ours = only(IROF(fill="black").measure(explained))
    for place in range(6):
        alone = part(explained, [place])
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Quantus: a superpixel that was black already
            patch.setattr("quantus.helpers.utils.calculate_auc", lambda values, batched: values)
            # number of superpixels minus the curve: the curve, which begins after the first one
            difference = by_quantus(quantus.IROF, alone, perturb_baseline=0.0, call={"softmax": True})[0]
        count = len(difference)
        curve = np.concatenate([[1], count - difference])
        assert ours[place] == pytest.approx(1 - np.trapezoid(curve, dx=1 / count), abs=1e-5)


def test_an_image_that_is_one_superpixel_has_no_irof():
    explained = case()
    explained.x[2] = 0.5
    assert np.isnan(only(IROF().measure(explained))).tolist() == [False, False, True, False, False, False]


# ---- sensitivity-n, faithfulness estimate ----


def test_sensitivity_n_of_one_size_is_the_faithfulness_correlation():
    explained = case(explainer=Saliency(absolute=False))
    one = SensitivityN(sizes=1, most=0.02, runs=20, fill="mean")  # 1 of 64 pixels
    assert one.set_sizes(64) == [1]
    expected = only(FaithfulnessCorrelation(share=1 / 64, runs=20).measure(explained))
    np.testing.assert_array_equal(only(one.measure(explained)), expected)


def test_sensitivity_n_is_the_mean_over_sizes_from_one_pixel_to_the_largest_share():
    metric = SensitivityN(sizes=3, runs=20)
    assert metric.set_sizes(64) == [1, 7, 51]  # 51 = 0.8 x 64, 7 = the root of 51
    explained = case(explainer=Saliency(absolute=False))
    by_size = [
        only(FaithfulnessCorrelation(share=n / 64, runs=20, fill="black").measure(explained)) for n in metric.set_sizes(64)
    ]
    np.testing.assert_allclose(only(metric.measure(explained)), np.mean(by_size, axis=0), rtol=1e-6)


@pytest.mark.parametrize("metric", [SensitivityN, FaithfulnessEstimate])
def test_the_exact_attribution_of_a_linear_network_correlates_fully(metric: type[MapMetric]):
    explained = linear(slopes())
    exact = (explained.x * slopes().numpy())[:, 0]
    settings = {"fill": "black", "output": "logit"}
    np.testing.assert_allclose(only(metric(**settings).measure(replace(explained, maps=exact))), 1, atol=1e-4)
    np.testing.assert_allclose(only(metric(**settings).measure(replace(explained, maps=-exact))), -1, atol=1e-4)


@pytest.mark.parametrize("metric", [SensitivityN, FaithfulnessEstimate, MonotonicityCorrelation, Infidelity])
def test_a_network_that_never_moves_has_no_correlation(metric: type[MapMetric]):
    maps = np.random.default_rng(0).random((6, SIZE, SIZE))
    values = only(metric().measure(case(Weighted(torch.zeros(1, SIZE, SIZE)), maps=maps)))
    if metric is Infidelity:
        np.testing.assert_allclose(values, 0)  # the best scale is 0: the map then says the truth
    else:
        assert np.isnan(values).all()


def test_faithfulness_estimate_equals_quantus_image_by_image():
    explained = case(explainer=Saliency(absolute=False))
    theirs = by_quantus(quantus.FaithfulnessEstimate, explained, features_in_step=4, call={"softmax": True})
    ours = only(FaithfulnessEstimate(steps=16, fill="black").measure(explained))
    np.testing.assert_allclose(ours, theirs, atol=2e-4)  # float32 outputs that differ in the fourth digit


# ---- monotonicity ----


def test_monotonicity_of_a_linear_network_is_whether_all_slopes_help():
    explained = linear(slopes().abs())
    helped = replace(explained, maps=np.repeat(slopes().abs().numpy(), 6, axis=0))
    settings = {"fill": "black", "output": "logit"}
    assert only(Monotonicity(**settings).measure(helped)).tolist() == [1] * 6
    weight = slopes().abs()
    weight[0, 7, 7] = -3  # the most relevant pixel speaks against; in 64 steps it comes last
    hurt = replace(linear(weight), maps=np.repeat(weight.numpy(), 6, axis=0))
    assert only(Monotonicity(steps=64, **settings).measure(hurt)).tolist() == [0] * 6
    np.testing.assert_allclose(only(Monotonicity(steps=64, count="steps", **settings).measure(hurt)), 62 / 63)


def test_monotonicity_puts_pixels_in_as_the_reference_implementation_does():
    # AI Explainability 360, monotonicity_metric, with one pixel a step
    explained = case()
    for place in range(6):
        x, order = explained.x[place].ravel(), np.argsort(np.abs(explained.maps[place].ravel()), kind="stable")
        filled, outputs = np.zeros_like(x), []
        for pixel in order:
            filled[pixel] = x[pixel]
            with torch.no_grad():
                logits = explained.model(torch.from_numpy(filled).view(1, 1, SIZE, SIZE))
            outputs.append(float(logits.softmax(dim=1)[0, explained.target[place]]))
        ours = only(Monotonicity(steps=64, count="steps", fill="black").measure(part(explained, [place])))
        assert ours[0] == pytest.approx((np.diff(outputs) >= 0).mean(), abs=1.5 / 63)  # equal outputs may round apart


def test_monotonicity_correlation_equals_quantus_with_the_same_noise():
    explained = case(explainer=Saliency(absolute=False))
    metric = MonotonicityCorrelation(steps=16, samples=5)
    noise = metric.noise((1, SIZE, SIZE), explained.seed).numpy().reshape(5, -1)
    drawn = []

    def perturb(arr: np.ndarray, indices: np.ndarray, **_: object) -> np.ndarray:
        changed, rows = arr.copy(), np.arange(len(arr))[:, None]
        changed[rows, indices] = noise[len(drawn) % 5][indices]
        drawn.append(1)
        return changed

    theirs = by_quantus(
        quantus.MonotonicityCorrelation,
        explained,
        abs=True,
        features_in_step=4,
        nr_samples=5,
        perturb_func=perturb,
        call={"softmax": True},
    )
    np.testing.assert_allclose(only(metric.measure(explained)), theirs, atol=0.02)  # ranks of nearly equal effects may swap


def test_monotonicity_correlation_of_a_linear_network_is_that_of_its_squared_slopes():
    # one pixel a group: the effect of pixel i is w_i^2 times the mean of (noise - x)^2
    explained = replace(linear(slopes()), maps=np.repeat(slopes().abs().numpy(), 6, axis=0))
    metric = MonotonicityCorrelation(steps=64, samples=3, output="logit")
    noise = metric.noise((1, SIZE, SIZE), explained.seed).numpy()
    effect = slopes().numpy() ** 2 * ((noise[:, None] - explained.x) ** 2).mean(axis=0)
    expected = [spearmanr(np.abs(slopes().numpy()).ravel(), one.ravel()).statistic for one in effect]
    np.testing.assert_allclose(only(metric.measure(explained)), expected, atol=2e-3)  # float32: ties of tiny effects


# ---- ROAD ----


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 0.99])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_guessed_as_quantus_guesses_them(share: float, channels: int):
    rng = np.random.default_rng(0)
    x = rng.random((4, channels, 12, 10)).astype(np.float32)
    missing = np.zeros((4, 120), dtype=bool)
    for row in missing:
        row[rng.permutation(120)[: max(1, int(share * 120))]] = True
    ours = imputed(torch.from_numpy(x), torch.from_numpy(missing).view(4, 12, 10)).numpy()
    for place in range(4):
        theirs = quantus.functions.perturb_func.noisy_linear_imputation(x[place], np.flatnonzero(missing[place]), noise=0.0)
        np.testing.assert_allclose(ours[place], theirs, atol=1e-6)
    known = ~missing.reshape(4, 1, 12, 10).repeat(channels, axis=1)
    np.testing.assert_array_equal(ours[known], x[known])


def test_where_the_guessing_begins_changes_nothing():
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    few = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    many = few | (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2)) < 0.7)
    torch.testing.assert_close(imputed(x, many, imputed(x, few)), imputed(x, many), atol=1e-5, rtol=0)
    torch.testing.assert_close(imputed(x[:1], many[:1]), imputed(x, many)[:1], atol=1e-9, rtol=0)


def test_a_slope_is_guessed_across_a_hole_of_any_width():
    # a plane is everywhere the weighted mean of its neighbours, so that the frame alone tells all of it
    x = (torch.arange(70)[:, None] / 140 + torch.arange(90) / 180).float()[None, None]
    hole = torch.zeros(1, 70, 90, dtype=torch.bool)
    hole[:, 1:-1, 1:-1] = True
    torch.testing.assert_close(imputed(x * ~hole, hole), x.double(), atol=1e-5, rtol=0)


def test_a_narrow_winding_hole_is_guessed_as_quantus_guesses_it():
    # walls from alternate sides leave one path of a pixel's width, which the hats know nothing of
    x = np.random.default_rng(0).random((1, 1, 32, 32)).astype(np.float32)
    missing = np.ones((1, 32, 32), dtype=bool)
    for number, row in enumerate(range(1, 32, 2)):
        missing[0, row, :-1] = False
        missing[0, row] = missing[0, row, :: 1 - 2 * (number % 2)]
    ours = imputed(torch.from_numpy(x), torch.from_numpy(missing)).numpy()[0]
    theirs = quantus.functions.perturb_func.noisy_linear_imputation(x[0], np.flatnonzero(missing), noise=0.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_hats_of_one_width_add_up_to_one_and_a_short_line_has_none():
    assert hats(7).shape == (7, 0)
    # four of every 4 pixels; round(16 / 4) = 4, and 16 holds less than two of 16
    torch.testing.assert_close(hats(16).sum(dim=1), torch.ones(16))
    # 64: sixteen narrow ones and four wide ones
    torch.testing.assert_close(hats(64)[:, 16:].sum(dim=1), torch.ones(64))


def test_the_energy_of_a_hat_is_that_of_the_system_without_known_pixels():
    # by hand: u A u = sum over pairs of neighbours of weight x (difference)^2
    rows, columns = hats(16), hats(9)
    for one, other in ((0, 0), (2, 1)):
        u = rows[:, one, None] * columns[:, other]
        beside = (u[1:] - u[:-1]).square().sum() + (u[:, 1:] - u[:, :-1]).square().sum()
        corners = (u[1:, 1:] - u[:-1, :-1]).square().sum() + (u[1:, :-1] - u[:-1, 1:]).square().sum()
        # rtol: the difference of two numbers thirty times as large, in float32
        torch.testing.assert_close(energies(rows, columns)[one, other], 2 * beside + corners, rtol=2e-5, atol=0)


def test_road_equals_quantus_accuracies_over_the_images():
    explained = case(count=12, explainer=Saliency(absolute=False))
    with torch.no_grad():
        explained.target[:] = explained.model(torch.from_numpy(explained.x)).argmax(dim=1).numpy()
    percentages = [5, 30, 60, 90]
    theirs = quantus.ROAD(percentages=list(percentages), noise=0.0, normalise=False, disable_warnings=True)(
        model=explained.model,
        x_batch=explained.x.copy(),
        y_batch=explained.target,
        a_batch=explained.maps[:, None].astype(np.float64),
        channel_first=True,
    )
    metric = ROAD(percentages=tuple(percentages), noise=0.0)
    hits = metric.hits(explained)
    assert hits.mean(axis=0).tolist() == pytest.approx([theirs[p] for p in percentages])
    np.testing.assert_array_equal(only(metric.measure(explained)), hits.mean(axis=1))


def test_road_of_a_class_that_is_said_by_its_own_probability():
    maps = np.random.default_rng(0).random((6, SIZE, SIZE))
    explained = replace(linear(torch.ones(1, SIZE, SIZE)), task="multilabel", maps=maps)
    assert only(ROAD().measure(explained)).tolist() == [1] * 6  # the sum of grey values stays above 0
    explained = replace(linear(-torch.ones(1, SIZE, SIZE)), task="multilabel", maps=maps)
    assert only(ROAD().measure(explained)).tolist() == [0] * 6


@pytest.mark.parametrize(
    ("percentages", "message"), [((0,), "0 is not a per cent from 1 to 99"), ((50, 50), "a per cent is listed twice")]
)
def test_percentages_that_make_no_sense_are_refused(percentages: tuple[int, ...], message: str):
    with pytest.raises(pydantic.ValidationError, match=message):
        ROAD(percentages=percentages)


# ---- infidelity ----


def test_the_slopes_of_a_linear_network_are_not_infidel_at_any_scale():
    explained = replace(linear(slopes()), maps=np.repeat(slopes().numpy(), 6, axis=0))
    for fill in ("black", "mean", "white"):
        np.testing.assert_allclose(only(Infidelity(patch=2, scale="none", fill=fill).measure(explained)), 0, atol=1e-9)
        strong = replace(explained, maps=explained.maps * 7)
        np.testing.assert_allclose(only(Infidelity(patch=2, fill=fill).measure(strong)), 0, atol=1e-9)
    assert (only(Infidelity(patch=2, scale="none").measure(strong)) > 0.01).all()


def from_the_whole_image(x: np.ndarray) -> Callable:
    def perturb(arr: np.ndarray, indices: np.ndarray, **_: object) -> np.ndarray:
        whole = x.reshape(len(x), -1).copy()
        whole[np.arange(len(x))[:, None], indices] = 0
        return whole

    return perturb


def test_infidelity_equals_quantus_that_begins_each_patch_from_the_whole_image():
    explained = case(explainer=Saliency(absolute=False))
    theirs = by_quantus(
        quantus.Infidelity,
        explained,
        perturb_patch_sizes=[2],
        n_perturb_samples=1,
        perturb_func=from_the_whole_image(explained.x),
    )
    np.testing.assert_allclose(only(Infidelity(patch=2, scale="none").measure(explained)), theirs, rtol=1e-4)


@pytest.mark.parametrize("scale", ["best", "none"])
def test_infidelity_equals_captum_that_is_given_every_patch(scale: str):
    explained = case(explainer=Saliency(absolute=False))
    numbers = patch_numbers(SIZE, SIZE, 2)
    masks = torch.from_numpy(np.stack([numbers == k for k in range(16)])[:, None])

    def every_patch(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        change = inputs * masks
        return change, inputs - change

    ours = only(Infidelity(patch=2, scale=scale).measure(explained))
    for place in range(6):
        with torch.no_grad():
            theirs = captum.metrics.infidelity(
                explained.model,
                every_patch,
                torch.from_numpy(explained.x[place : place + 1]),
                torch.from_numpy(explained.maps[place : place + 1, None]),
                target=int(explained.target[place]),
                n_perturb_samples=16,
                max_examples_per_batch=16,
                normalize=scale == "best",
            )
        assert ours[place] == pytest.approx(float(theirs), rel=1e-3)


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
