"""Where Quantus' faithfulness metrics are wrong: what they say, that `compat: quantus` says the same, and what we say."""

from dataclasses import replace

import numpy as np
import pytest
import quantus
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.infidelity import Infidelity
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.methods import Saliency
from cxr_eval.explain.quantus_adapter import integrable_curves
from cxr_eval.explain.removal import IROF, PixelFlipping, RegionPerturbation, Selectivity
from cxr_eval.explain.removal_correlation import (
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    Monotonicity,
    MonotonicityCorrelation,
    SensitivityN,
)
from cxr_eval.explain.road import ROAD
from cxr_eval.explain.sufficiency import Consistency, Sufficiency
from tests.explained_case import SIZE, case, only, part

pytestmark = pytest.mark.filterwarnings("ignore")  # Quantus: divisions by zero, perturbations that change nothing


def library(metric: type, explained: cxr.Explained, **settings: object):
    """Quantus' own class with its own defaults, but for numbers image by image and less talk."""
    np.random.seed(explained.seed)
    with integrable_curves():
        return metric(**{"return_aggregate": False, "disable_warnings": True} | settings)(
            model=explained.model,
            x_batch=explained.x.copy(),
            y_batch=explained.target.copy(),
            a_batch=explained.maps[:, None].copy(),
            channel_first=True,
            device="cpu",
        )


@pytest.fixture(autouse=True)
def _global_generator_kept():
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def signed_case(count: int = 6) -> cxr.Explained:
    return case(count=count, explainer=Saliency(absolute=False))


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (FaithfulnessEstimate(steps=16), quantus.FaithfulnessEstimate, {"features_in_step": 4}),
        (Monotonicity(steps=16), quantus.Monotonicity, {"features_in_step": 4}),
        (
            MonotonicityCorrelation(steps=16, samples=3),
            quantus.MonotonicityCorrelation,
            {"features_in_step": 4, "nr_samples": 3},
        ),
        # 15 passes: 16 steps; its numbers are those of steps: their mean
        (SensitivityN(sizes=3, runs=4), quantus.SensitivityN, {"features_in_step": 4, "return_aggregate": True}),
        (Infidelity(patch=2), quantus.Infidelity, {"perturb_patch_sizes": [2]}),
        (IROF(), quantus.IROF, {}),
        (Sufficiency(), quantus.Sufficiency, {}),
        (Consistency(), quantus.Consistency, {}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else None,
)
def test_compat_gives_the_numbers_of_the_library(ours: cxr.ExplanationMetric, theirs: type, settings: dict):
    explained = signed_case()
    expected = np.asarray(library(theirs, explained, **settings), dtype=float)
    compat = type(ours)(**ours.params.model_dump() | {"compat": "quantus"})
    # ten equal numbers of infidelity and their mean may differ in the last digit
    np.testing.assert_allclose(only(compat.measure(explained)), np.broadcast_to(expected, 6), rtol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (PixelFlipping(steps=16, compat="quantus"), quantus.PixelFlipping, {"features_in_step": 4}),
        (RegionPerturbation(patch=4, compat="quantus"), quantus.RegionPerturbation, {"patch_size": 4}),
        (Selectivity(patch=4, compat="quantus"), quantus.Selectivity, {"patch_size": 4}),
    ],
    ids=["pixel_flipping", "region_perturbation", "selectivity"],
)
def test_compat_of_a_curve_is_the_area_that_the_library_takes_the_mean_of(ours: MapMetric, theirs: type, settings: dict):
    explained = signed_case()
    curves = np.asarray(library(theirs, explained, **settings), dtype=float)
    np.testing.assert_allclose(only(ours.measure(explained)), np.trapezoid(curves, axis=1), rtol=1e-6)


def test_faithfulness_correlation_of_the_library_fails_for_small_images_and_fails_nothing_else(
    caplog: pytest.LogCaptureFixture,
):
    assert np.isnan(only(FaithfulnessCorrelation(compat="quantus").measure(signed_case()))).all()
    assert "'subset_size' must be smaller than input size. [224 >= 64]" in caplog.text


def test_quantus_monotonicity_says_yes_to_everything_for_it_puts_nothing_in():
    explained = replace(case(), maps=np.random.default_rng(0).random((6, SIZE, SIZE)).astype(np.float32))
    assert library(quantus.Monotonicity, explained) == [True] * 6
    assert only(Monotonicity(steps=64, compat="quantus").measure(explained)).tolist() == [1] * 6
    assert only(Monotonicity(steps=64).measure(explained)).tolist() == [0] * 6


def test_quantus_sensitivity_n_correlates_images_with_each_other_and_we_correlate_within_each():
    explained = signed_case()
    theirs = np.asarray(library(quantus.SensitivityN, explained, features_in_step=4))
    assert theirs.shape == (12,)  # one a step, of 0.8 x 16, not one an image
    ours = only(SensitivityN().measure(explained))
    np.testing.assert_allclose(only(SensitivityN().measure(part(explained, [2])))[0], ours[2], rtol=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        library(quantus.SensitivityN, part(explained, [2]), features_in_step=4)
    assert np.isnan(only(SensitivityN(compat="quantus").measure(part(explained, [2])))).all()


def test_quantus_infidelity_takes_patches_upon_patches_and_we_take_each_from_the_whole_image():
    explained = signed_case()
    theirs = np.asarray(library(quantus.Infidelity, explained, perturb_patch_sizes=[2], n_perturb_samples=1))
    ours = only(Infidelity(patch=2, scale="none").measure(explained))
    assert (np.abs(theirs / ours - 1) > 0.5).all()


def test_the_ten_samples_of_quantus_infidelity_are_one():
    explained = signed_case()
    ten, one = (library(quantus.Infidelity, explained, perturb_patch_sizes=[2], n_perturb_samples=n) for n in (10, 1))
    np.testing.assert_allclose(ten, one, rtol=1e-6)


def test_quantus_irof_depends_on_the_neighbours_and_grows_with_the_number_of_superpixels():
    explained = signed_case()
    theirs = np.asarray(library(quantus.IROF, explained))
    alone = np.concatenate([library(quantus.IROF, part(explained, [place])) for place in range(6)])
    assert np.abs(theirs - alone).max() > 0.005
    ours = only(IROF().measure(explained))
    np.testing.assert_allclose([only(IROF().measure(part(explained, [place])))[0] for place in range(6)], ours, atol=1e-6)
    assert (np.abs(ours) <= 1).all()


def test_quantus_irof_refuses_colour_and_we_do_not():
    explained = case(channels=3)
    with pytest.raises(AssertionError):
        library(quantus.IROF, explained)
    assert np.isnan(only(IROF(compat="quantus").measure(explained))).all()
    assert np.isfinite(only(IROF().measure(explained))).all()


def test_quantus_road_refuses_colour_and_we_do_not():
    explained = case(channels=3)
    with pytest.raises(IndexError):
        library(quantus.ROAD, explained)
    assert np.isnan(only(ROAD(compat="quantus").measure(explained))).all()
    assert np.isfinite(only(ROAD().measure(explained))).all()


def test_quantus_road_looks_at_the_first_batch_only_and_compat_does_too():
    explained = case(count=70)
    first = part(explained, list(range(64)))
    settings = {"percentages": [20, 60]}
    theirs = library(quantus.ROAD, explained, **settings)
    assert theirs == library(quantus.ROAD, first, **settings)
    compat = only(ROAD(percentages=(20, 60), compat="quantus").measure(explained))
    np.testing.assert_allclose(compat, np.full(70, np.mean(list(theirs.values()))))
    assert len(np.unique(only(ROAD(percentages=(20, 60)).measure(explained)))) > 1


def test_quantus_monotonicity_correlation_fails_where_one_class_is_improbable_and_we_do_not():
    explained = signed_case()
    with torch.no_grad():
        explained.model[7].bias[1] -= 30
    with pytest.raises(ValueError, match="NumPy boolean array indexing"):
        library(quantus.MonotonicityCorrelation, explained, features_in_step=8, nr_samples=2)
    assert np.isnan(only(MonotonicityCorrelation(compat="quantus").measure(explained))).all()
    assert np.isfinite(only(MonotonicityCorrelation(steps=8).measure(explained))).all()


def test_quantus_sufficiency_is_zero_as_soon_as_one_pixel_is_alike_in_all_maps():
    explained = case()  # no map knows anything of the corner, which is black
    explained.maps[:, 0, 0] = 0
    assert np.asarray(library(quantus.Sufficiency, explained)).tolist() == [0] * 6
    assert only(Sufficiency(compat="quantus").measure(explained)).tolist() == [0] * 6


def test_quantus_consistency_compares_the_signs_of_five_pixels():
    explained = case()
    explained.maps[:, 0, :5] = 1.0  # alike in the first five pixels, whatever the rest says
    with torch.no_grad():
        said = explained.model(torch.from_numpy(explained.x)).argmax(dim=1).numpy()
    share = [(said == one).sum() - 1 for one in said]
    np.testing.assert_allclose(library(quantus.Consistency, explained), np.array(share) / 5, atol=1e-6)
