"""How alike two maps are, by hand and against scikit-image, scipy and plain counting."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from cxr_eval.explain.similarity import SIMILARITIES, map_rank_correlation, map_ssim, map_top_overlap

RNG = np.random.default_rng(0)
A, B = RNG.random((2, 4, 20, 24))


def unit(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


def test_ssim_is_that_of_scikit_image_with_the_windows_of_the_paper() -> None:
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [structural_similarity(unit(a), unit(b), **settings) for a, b in zip(A, B, strict=True)]
    np.testing.assert_allclose(map_ssim(A, B), expected, atol=1e-12)


def test_rank_correlation_is_scipys() -> None:
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(A, B, strict=True)]
    np.testing.assert_allclose(map_rank_correlation(A, B), expected)


def test_top_overlap_counts_the_pixels_that_both_have_among_their_largest() -> None:
    size = round(0.05 * 20 * 24)  # 24
    expected = [
        len(set(np.argsort(a.ravel())[-size:]) & set(np.argsort(b.ravel())[-size:])) / size for a, b in zip(A, B, strict=True)
    ]
    np.testing.assert_allclose(map_top_overlap(A, B), expected)


def test_pixels_that_tie_share_the_places_left() -> None:
    a, b = np.zeros((2, 1, 4, 5))
    a[0, 0, 0], b[0, 0, 0] = 2.0, 2.0
    a[0, 1], b[0, 2] = 1.0, 1.0
    # 4 of 20 pixels: one place is for the largest, 3 are for five that tie, 3/5 each, and those are others in b
    np.testing.assert_allclose(map_top_overlap(a, b, share=0.2), [1 / 4])
    # in b as in a: 1 + 5 x 3/5 of 4
    np.testing.assert_allclose(map_top_overlap(a, a, share=0.2), [1.0])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_map_is_like_itself_at_any_scale(name: str) -> None:
    measure = SIMILARITIES[name]
    np.testing.assert_allclose(measure(A, A), 1.0)
    np.testing.assert_allclose(measure(A, 7 * A + 3), 1.0)
    np.testing.assert_allclose(measure(A, B), measure(B, A))
    assert (measure(A, B) < 0.5).all()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_neighbours_do_not_matter_and_maps_that_say_nothing_are_not_compared(name: str) -> None:
    measure = SIMILARITIES[name]
    a = A.copy()
    a[0], a[2] = 0.25, np.nan
    values = measure(a, B)
    assert np.isnan(values[[0, 2]]).all()
    np.testing.assert_array_equal(values[[1, 3]], [measure(A[k : k + 1], B[k : k + 1])[0] for k in (1, 3)])
    assert np.isnan(measure(B, a)[[0, 2]]).all()
    assert measure(A[:0], B[:0]).shape == (0,)


def test_maps_smaller_than_the_window_are_compared_too() -> None:
    a, b = RNG.random((2, 2, 6, 6))
    values = map_ssim(a, b)
    assert ((values > -1) & (values < 1)).all()
    np.testing.assert_allclose(map_ssim(a, a), 1.0)
