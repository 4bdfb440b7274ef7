"""Structural similarity: by hand, against scikit-image, and where it has no window of eleven pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxr_eval.attacks.similarity import ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_image_is_wholly_similar_to_itself() -> None:
    x = noise(3, 1, 20, 30)
    assert torch.equal(ssim(x, x), torch.ones(3))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_even_pictures_are_wholly_similar(value: float) -> None:
    x = torch.full((2, 1, 16, 16), value)
    assert torch.equal(ssim(x, x), torch.ones(2))


def test_even_pictures_are_compared_by_their_greys() -> None:
    a, b = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.25)
    # (2 * 0.5 * 0.25 + 0.0001) / (0.25 + 0.0625 + 0.0001) = 0.2501 / 0.3126; both deviations are 0, their factor 1
    assert ssim(a, b).item() == pytest.approx(0.2501 / 0.3126, abs=1e-4)
    # black and white: 0.0001 / 1.0001
    assert ssim(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)).item() == pytest.approx(0.0001 / 1.0001, abs=1e-5)


def test_one_window_is_the_formula_written_out() -> None:
    a, b = noise(1, 1, 7, 7), noise(1, 1, 7, 7, seed=1)
    x, y = a.double().flatten(), b.double().flatten()
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    luminance = (2 * x.mean() * y.mean() + 1e-4) / (x.mean() ** 2 + y.mean() ** 2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (x.var(correction=0) + y.var(correction=0) + 9e-4)
    assert ssim(a, b).item() == pytest.approx((luminance * structure).item(), abs=1e-5)


@pytest.mark.parametrize(("size", "window"), [((40, 25), None), ((11, 11), None), ((10, 30), 7), ((7, 8), 7), ((5, 20), 5)])
def test_it_is_scikit_images(size: tuple[int, int], window: int | None) -> None:
    from skimage import metrics

    a = noise(3, 2, *size)
    b = (a + 0.2 * noise(3, 2, *size, seed=1)).clamp(0, 1)
    gaussian = {"gaussian_weights": True, "sigma": 1.5} if window is None else {"win_size": window}
    expected = [
        metrics.structural_similarity(
            one.double().numpy(), two.double().numpy(), data_range=1, channel_axis=0, use_sample_covariance=False, **gaussian
        )
        for one, two in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ssim(a, b), expected, atol=2e-5)  # float32 variances beside 0.0009


def test_images_are_compared_one_by_one_and_either_way() -> None:
    a, b = noise(4, 1, 16, 16), noise(4, 1, 16, 16, seed=1)
    together = ssim(a, b)
    assert together.shape == (4,)
    assert together.dtype == torch.float32
    assert type(together) is torch.Tensor
    torch.testing.assert_close(ssim(a[2:3], b[2:3])[0], together[2])
    torch.testing.assert_close(ssim(b, a), together)


def test_a_negative_is_unlike() -> None:
    x = noise(1, 1, 32, 32)
    assert ssim(x, 1 - x).item() < -0.5


def test_no_images_have_no_similarities() -> None:
    assert ssim(torch.empty(0, 1, 16, 16), torch.empty(0, 1, 16, 16)).shape == (0,)


def test_a_single_pixel_is_compared_by_its_grey() -> None:
    assert ssim(torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 0.25)).item() == pytest.approx(0.2501 / 0.3126)


@pytest.mark.parametrize(("a", "b"), [((2, 1, 8, 8), (2, 1, 8, 9)), ((8, 8), (8, 8))])
def test_other_shapes_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected two batches of images of one shape \(N, C, H, W\), got"):
        ssim(torch.zeros(a), torch.zeros(b))
