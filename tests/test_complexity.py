"""How few pixels carry a map: closed forms, and Quantus image by image."""

import numpy as np
import pytest
import quantus

import cxr_eval.api as cxr
from cxr_eval.explain.complexity import Complexity, EffectiveComplexity, Sparseness
from cxr_eval.explain.methods import Saliency
from tests.explained_case import SIZE, by_quantus, case, only, part


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


def test_effective_complexity_counts_the_pixels_above_a_share_of_the_largest():
    maps = np.zeros((2, SIZE, SIZE))
    maps[0, 0, :4] = 100, 1.01, 0.99, -50
    maps[1] = -1
    maps[1, 0, 0] = 0
    values = only(EffectiveComplexity(least=0.01).measure(case(count=2, maps=maps)))
    assert values.tolist() == [3, 63]
    positive = only(EffectiveComplexity(least=0.01, sign="positive").measure(case(count=2, maps=maps)))
    assert positive.tolist() == pytest.approx([2, np.nan], nan_ok=True)


def test_effective_complexity_equals_quantus_on_one_image_and_quantus_lets_a_strong_neighbour_empty_it():
    explained = case(explainer=Saliency(absolute=False))
    ours = only(EffectiveComplexity(least=0.3).measure(explained))
    options = {"eps": 0.3, "abs": True, "normalise": True}
    for image in range(6):
        assert by_quantus(quantus.EffectiveComplexity, part(explained, [image]), **options).tolist() == [ours[image]]
    explained.maps[5] *= 1e8
    assert by_quantus(quantus.EffectiveComplexity, explained, **options)[:5].tolist() == [0] * 5
    assert only(EffectiveComplexity(least=0.3).measure(explained)).tolist() == ours.tolist()


@pytest.mark.parametrize("metric", [Sparseness, Complexity, EffectiveComplexity])
def test_compat_gives_the_numbers_of_the_library(metric: type[cxr.ExplanationMetric]):
    explained = case(explainer=Saliency(absolute=False))
    explained.maps[5] *= 1e4
    theirs = by_quantus(getattr(quantus, metric.quantus_name), explained, abs=True, normalise=True)
    values = only(metric(compat="quantus").measure(explained))
    np.testing.assert_allclose(values, theirs, rtol=1e-5)
    if metric is not Complexity:  # which does not care about the scale of the map
        assert not np.allclose(values, only(metric().measure(explained)), rtol=1e-3)
