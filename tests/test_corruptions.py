"""Noise and contrast: strength by severity, bounds, seeds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_eval.api as cxr
from cxr_eval.attacks.corruptions import CONTRAST_FACTOR, NOISE_STD, Contrast, GaussianNoise

BOTH = [GaussianNoise, Contrast]


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_the_noise_has_the_standard_deviation_that_its_severity_states(severity: int) -> None:
    x = 0.5 + 1e-3 * torch.rand(4, 1, 64, 64)  # equal images would get equal noise
    noise = GaussianNoise().corrupt(x, severity=severity, seed=0) - x
    # 16384 draws: a standard error of 0.55 %; severity 5 loses less than 1 % to clipping
    assert noise.std().item() == pytest.approx(NOISE_STD[severity - 1], rel=0.03)
    assert abs(noise.mean().item()) < 4 * NOISE_STD[severity - 1] / np.sqrt(noise.numel())


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_contrast_leaves_the_mean_and_a_stated_share_of_the_deviation(severity: int) -> None:
    x = torch.rand(3, 2, 16, 16)
    flat = Contrast().corrupt(x, severity=severity, seed=0)
    torch.testing.assert_close(flat.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(flat.std((2, 3)), CONTRAST_FACTOR[severity - 1] * x.std((2, 3)))


@pytest.mark.parametrize("corruption", BOTH)
def test_each_severity_moves_images_further_than_the_one_before(corruption: type[cxr.Corruption]) -> None:
    x = 0.25 + 0.5 * torch.rand(4, 1, 16, 16)
    moved = [(corruption().corrupt(x, severity=severity, seed=1) - x).abs().mean().item() for severity in (1, 2, 3, 4, 5)]
    assert moved == sorted(moved)
    assert moved[0] > 0


@pytest.mark.parametrize("corruption", BOTH)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**40), severity=st.integers(1, 5), channels=st.sampled_from([1, 3]))
def test_corrupted_images_stay_plain_float32_images_in_0_1(
    corruption: type[cxr.Corruption], seed: int, severity: int, channels: int
) -> None:
    x = torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(seed % 1000))
    before = x.clone()
    out = corruption().corrupt(x, severity=severity, seed=seed)
    assert type(out) is torch.Tensor
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("corruption", BOTH)
def test_an_image_is_corrupted_alike_alone_and_in_any_batch(corruption: type[cxr.Corruption]) -> None:
    x = torch.rand(5, 1, 8, 8)
    together = corruption().corrupt(x, severity=3, seed=7)
    for place in (0, 3):
        torch.testing.assert_close(corruption().corrupt(x[place : place + 1], severity=3, seed=7)[0], together[place])


def test_noise_follows_the_seed_and_leaves_the_global_generators_alone() -> None:
    x = torch.rand(2, 1, 8, 8)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (GaussianNoise().corrupt(x, severity=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_no_images_stay_no_images() -> None:
    assert GaussianNoise().corrupt(torch.empty(0, 1, 4, 4), severity=1, seed=0).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("severity", [0, 6])
def test_a_severity_outside_1_to_5_is_refused(severity: int) -> None:
    with pytest.raises(ValueError, match="severity"):
        Contrast(severity=severity)
