"""How strong each severity is, in closed form or by another implementation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from cxr_eval.attacks.corruptions import (
    Blur,
    Collimation,
    Contrast,
    Exposure,
    Gamma,
    GaussianNoise,
    Grid,
    Marker,
    Motion,
    Position,
    QuantumNoise,
    Rotation,
    Scatter,
)
from cxr_eval.attacks.corruptions.beam import ABSORPTION, GRID_AMPLITUDE, GRID_PERIOD, PHOTONS, SCATTER_RATIO
from cxr_eval.attacks.corruptions.grey import CONTRAST_FACTOR, GAMMA, exposed
from cxr_eval.attacks.corruptions.noise import NOISE_STD
from cxr_eval.attacks.corruptions.overlay import label
from cxr_eval.attacks.corruptions.placement import DEGREES, SHIFT, ZOOM, moved
from cxr_eval.attacks.corruptions.sharpness import BLUR_SIGMA, line_kernel

SEVERITIES = (1, 2, 3, 4, 5)
EACH = pytest.mark.parametrize("severity", SEVERITIES)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(*size: int, seed: int = 0) -> np.ndarray:
    """A picture without sharp edges, float64 in [0, 1]."""
    drawn = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 3)
    return (drawn - drawn.min()) / np.ptp(drawn)


def batch(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float32))[None, None]


# --- noise ------------------------------------------------------------------------------------------------------------


@EACH
def test_the_noise_has_the_standard_deviation_that_its_severity_states(severity: int) -> None:
    x = 0.5 + 1e-3 * noise(4, 1, 64, 64)  # equal images would get equal noise
    added = GaussianNoise().corrupt(x, severity=severity, seed=0) - x
    # 16384 draws: a standard error of 0.55 %; severity 5 loses less than 1 % to clipping
    assert added.std().item() == pytest.approx(NOISE_STD[severity - 1], rel=0.03)
    assert abs(added.mean().item()) < 4 * NOISE_STD[severity - 1] / np.sqrt(added.numel())


def test_a_coloured_picture_has_noise_of_its_own_in_each_channel() -> None:
    x = 0.4 + 0.2 * noise(1, 3, 64, 64)
    for corruption in (GaussianNoise(), QuantumNoise()):
        added = (corruption.corrupt(x, severity=3, seed=0) - x)[0].flatten(1)
        assert torch.corrcoef(added).triu(diagonal=1).abs().max() < 0.06  # 4096 draws: a standard error of 0.016


@pytest.mark.parametrize("grey", [0.2, 0.5])
@EACH
def test_quantum_noise_is_that_of_the_photons_counted(severity: int, grey: float) -> None:
    x = torch.full((1, 1, 128, 128), grey)
    added = QuantumNoise().corrupt(x, severity=severity, seed=0) - x
    photons = PHOTONS[severity - 1] * math.exp(-ABSORPTION * grey)
    # log(count) has standard deviation 1 / sqrt(photons) to first order; 3.5 % more where 20 photons are expected
    assert added.std().item() == pytest.approx(1 / math.sqrt(photons) / ABSORPTION, rel=0.02 + 1 / photons)


def test_a_pixel_without_photons_is_white() -> None:
    white = QuantumNoise().corrupt(torch.ones(1, 1, 64, 64), severity=5, seed=0)
    # 2 photons are expected: 13.5 % of pixels get none and 27 % one, both shown as log(200) / log(100) = 1.15, clipped to 1;
    # two photons are grey log(100) / log(100) = 1 and three log(200 / 3) / log(100) = 0.912
    assert (white > 0.999).float().mean().item() == pytest.approx(stats.poisson.cdf(2, 2), abs=0.03)
    assert ((white - 0.912).abs() < 1e-3).float().mean().item() == pytest.approx(stats.poisson.pmf(3, 2), abs=0.03)


# --- grey -------------------------------------------------------------------------------------------------------------


@EACH
def test_contrast_leaves_the_mean_and_a_stated_share_of_the_deviation(severity: int) -> None:
    x = noise(3, 2, 16, 16)
    flat = Contrast().corrupt(x, severity=severity, seed=0)
    torch.testing.assert_close(flat.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(flat.std((2, 3)), CONTRAST_FACTOR[severity - 1] * x.std((2, 3)))


def test_a_stop_more_darkens_middle_grey_as_the_films_curve_says() -> None:
    # gradient 4 / ln 100 = 0.8686; twice the dose: 1 / (1 + 2**0.8686) = 1 / 2.8259
    values = exposed(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), 1.0)
    np.testing.assert_allclose(values, [0, 1 / 2.8259, 1], atol=1e-5)


def test_doses_multiply() -> None:
    x = noise(100).double()
    torch.testing.assert_close(exposed(exposed(x, 1.5), -0.5), exposed(x, 1.0))
    torch.testing.assert_close(exposed(exposed(x, 4.0), -4.0), x)


def test_images_are_exposed_too_much_or_too_little_by_the_stops_of_the_severity() -> None:
    x = 0.5 + 1e-6 * torch.arange(32.0)[:, None, None, None].expand(-1, 1, 4, 4)
    values = Exposure().corrupt(x, severity=2, seed=0)[:, 0, 0, 0]
    darker = values < 0.5
    assert 6 <= darker.sum() <= 26  # 32 coins: fewer or more once in 4000 seeds
    torch.testing.assert_close(values[darker], torch.full_like(values[darker], 1 / 2.8259), atol=1e-4, rtol=0)
    torch.testing.assert_close(values[~darker], torch.full_like(values[~darker], 1 - 1 / 2.8259), atol=1e-4, rtol=0)


@EACH
def test_gamma_is_monais_curve_where_the_picture_runs_from_0_to_1(severity: int) -> None:
    from monai.transforms import AdjustContrast

    x = noise(1, 1, 16, 16)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    out = Gamma().corrupt(x, severity=severity, seed=0)
    gamma = GAMMA[severity - 1]
    both = [torch.as_tensor(AdjustContrast(exponent)(x)).as_subclass(torch.Tensor) for exponent in (gamma, 1 / gamma)]
    assert min((out - curve).abs().max().item() for curve in both) < 1e-5


def test_gamma_goes_by_black_and_white_and_not_by_the_pictures_extremes() -> None:
    out = Gamma().corrupt(torch.tensor([0.25, 0.5]).reshape(1, 1, 1, 2), severity=5, seed=0).flatten()
    expected = [[0.25**2.2, 0.5**2.2], [0.25 ** (1 / 2.2), 0.5 ** (1 / 2.2)]]
    assert any(np.allclose(out, values, atol=1e-6) for values in expected)


# --- beam -------------------------------------------------------------------------------------------------------------


def test_an_even_picture_keeps_its_grey_under_scatter() -> None:
    x = torch.full((1, 1, 40, 50), 0.7)
    torch.testing.assert_close(Scatter().corrupt(x, severity=5, seed=0), x)


@EACH
def test_scatter_adds_its_share_of_the_blurred_signal(severity: int) -> None:
    x = torch.zeros(1, 1, 60, 200)
    x[..., 100:] = 1.0  # signal 1 at the left, 0.01 at the right
    at = np.arange(200) + 0.5 - 100
    blurred = 1 - 0.99 * stats.norm.cdf(at, scale=0.1 * 60)
    direct, ratio = np.where(at < 0, 1.0, 0.01), SCATTER_RATIO[severity - 1]
    expected = -np.log((direct + ratio * blurred) / (1 + ratio)) / math.log(100)
    got = Scatter().corrupt(x, severity=severity, seed=0)[0, 0, 30].numpy()
    near = np.abs(at) < 12  # two standard deviations; the blur ends at three
    np.testing.assert_allclose(got[near], expected[near], atol=8e-3)


@EACH
def test_the_grids_lines_have_amplitude_period_and_angle_as_stated(severity: int) -> None:
    x = 0.5 + 1e-6 * torch.arange(6.0)[:, None, None, None].expand(-1, 1, 224, 224)
    lines = Grid().corrupt(x, severity=severity, seed=0) - x
    assert lines.abs().max().item() == pytest.approx(GRID_AMPLITUDE[severity - 1], rel=0.01)
    # a sine has standard deviation amplitude / sqrt(2)
    assert lines.std().item() == pytest.approx(GRID_AMPLITUDE[severity - 1] / math.sqrt(2), rel=0.02)
    for image in lines[:, 0]:
        strength = np.abs(np.fft.fft2(image.numpy()))
        down, right = (np.fft.fftfreq(224)[place] for place in np.unravel_index(strength.argmax(), strength.shape))
        period, angle = 1 / math.hypot(down, right), math.degrees(math.atan2(abs(down), abs(right)))
        assert 224 * GRID_PERIOD[0] - 0.2 <= period <= 224 * GRID_PERIOD[1] + 0.2  # frequencies lie 1 / 224 apart
        assert min(angle, 90 - angle) <= 6


def test_the_grids_lines_are_never_too_fine_for_the_pixels() -> None:
    x = 0.5 + 1e-3 * noise(8, 1, 16, 16)
    assert ((Grid().corrupt(x, severity=5, seed=0) - x).abs().amax((1, 2, 3)) > 0.08).all()


# --- sharpness --------------------------------------------------------------------------------------------------------


@EACH
def test_an_edge_is_blurred_to_the_normal_distribution(severity: int) -> None:
    x = torch.zeros(1, 1, 224, 300)
    x[..., 150:] = 1.0
    got = Blur().corrupt(x, severity=severity, seed=0)[0, 0, 100]
    expected = stats.norm.cdf(np.arange(300) + 0.5 - 150, scale=BLUR_SIGMA[severity - 1] * 224)
    np.testing.assert_allclose(got, expected, atol=0.02 if severity == 1 else 5e-3)  # sums stand for integrals


def test_blur_and_motion_leave_an_even_picture_alone_up_to_its_rim() -> None:
    x = torch.full((1, 1, 60, 40), 0.6)
    for corruption in (Blur(), Motion()):
        torch.testing.assert_close(corruption.corrupt(x, severity=5, seed=0), x)


def test_motion_over_four_pixels_spreads_a_point_evenly_over_them() -> None:
    # 33 points an eighth of a pixel apart; an inner pixel gets 8 of them, an end 1 + 7/8 + ... + 1/8 = 4.5
    kernel = line_kernel(4.0, 0.0)
    np.testing.assert_allclose(kernel[2], np.array([4.5, 8, 8, 8, 4.5]) / 33, atol=1e-12)
    assert kernel[[0, 1, 3, 4]].abs().max() < 1e-12
    torch.testing.assert_close(line_kernel(4.0, math.pi / 2), kernel.T)


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_motion_goes_along_its_direction_and_not_across(angle: float) -> None:
    kernel = line_kernel(20.0, angle)
    side = torch.arange(len(kernel)).double() - len(kernel) // 2
    down, right = torch.meshgrid(side, side, indexing="ij")
    along, across = right * math.cos(angle) + down * math.sin(angle), down * math.cos(angle) - right * math.sin(angle)
    assert kernel.sum().item() == pytest.approx(1)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    # a line of length 20 has variance 20**2 / 12; bilinear weights add at most 1/4 in each of two directions
    assert (kernel * along**2).sum().item() == pytest.approx(20**2 / 12, abs=1.0)
    assert (kernel * across**2).sum().item() <= 0.5


# --- placement --------------------------------------------------------------------------------------------------------


def test_a_shift_by_whole_pixels_moves_them_and_leaves_black() -> None:
    image = noise(2, 7, 9)
    out = moved(image, right=3, down=-2)
    torch.testing.assert_close(out[:, :5, 3:], image[:, 2:, :-3], atol=2e-6, rtol=0)  # positions are float32
    assert out[:, 5:].abs().max() < 2e-6
    assert out[:, :, :3].abs().max() < 2e-6


@EACH
def test_rotation_is_scipys_to_the_left_or_to_the_right(severity: int) -> None:
    picture = smooth(50, 80)
    out = Rotation().corrupt(batch(picture), severity=severity, seed=0)[0, 0].numpy()
    both = [
        ndimage.rotate(picture, sign * DEGREES[severity - 1], reshape=False, order=1, mode="grid-constant") for sign in (-1, 1)
    ]
    assert min(np.abs(out - turned).max() for turned in both) < 1e-4


def test_images_turn_both_ways() -> None:
    picture = smooth(40, 40)
    x = batch(picture) * torch.linspace(0.9, 1, 16)[:, None, None, None]
    right = moved(x[0], degrees=DEGREES[4])
    out = Rotation().corrupt(x, severity=5, seed=0) / x.amax((2, 3), keepdim=True)
    to_the_right = (out - right / x[0].max()).abs().amax((1, 2, 3)) < 1e-4
    assert 1 <= to_the_right.sum() <= 15


def test_a_change_of_size_is_scipys() -> None:
    picture = smooth(41, 60)
    middle = (np.array(picture.shape) - 1) / 2
    expected = ndimage.affine_transform(picture, np.eye(2) / 1.06, middle - middle / 1.06, order=1, mode="grid-constant")
    np.testing.assert_allclose(moved(batch(picture)[0], zoom=1.06)[0], expected, atol=1e-4)


@EACH
def test_the_middle_moves_by_the_stated_share_in_any_direction_and_changes_its_size(severity: int) -> None:
    rows, columns = np.mgrid[:80, :80] - 39.5
    blob = np.exp(-(rows**2 + columns**2) / (2 * 5.0**2))
    x = batch(blob) * torch.linspace(0.9, 1, 12)[:, None, None, None]
    out = Position().corrupt(x, severity=severity, seed=0)[:, 0].double().numpy()
    mass = out.sum((1, 2))
    down, right = ((out * place).sum((1, 2)) / mass for place in (rows, columns))
    np.testing.assert_allclose(np.hypot(down, right), 80 * SHIFT[severity - 1], rtol=0.01)
    assert len({(a > 0, b > 0) for a, b in zip(down, right, strict=True)}) >= 3
    grown = mass / x.double().sum((1, 2, 3)).numpy()  # an area, so the square of the size
    zoom = ZOOM[severity - 1] ** 2
    assert np.minimum(np.abs(grown - zoom), np.abs(grown - 1 / zoom)).max() < 5e-3  # bilinear sampling


# --- overlay ----------------------------------------------------------------------------------------------------------


def test_collimation_leaves_a_window_of_the_stated_share_with_straight_edges() -> None:
    # sides times sqrt(0.95) = 0.9747, ..., sqrt(0.75) = 0.8660: of 64 x 96 pixels
    sides = {1: (62, 94), 2: (61, 91), 3: (59, 89), 4: (57, 86), 5: (55, 83)}
    x = 0.1 + 0.8 * noise(6, 1, 64, 96)
    for severity, (height, width) in sides.items():
        out = Collimation().corrupt(x, severity=severity, seed=0)
        seen = out > 0
        assert torch.equal(out[seen], x[seen])
        assert torch.equal(seen.any(3).sum(2).flatten(), torch.full((6,), height))
        assert torch.equal(seen.any(2).sum(2).flatten(), torch.full((6,), width))
        assert torch.equal(seen.sum((1, 2, 3)), torch.full((6,), height * width))
    assert len({tuple(image.any(1).nonzero()[0].tolist()) for image in seen[:, 0]}) > 1  # not all in one place


def test_collimation_only_grows_with_severity() -> None:
    x = 0.1 + 0.8 * noise(8, 1, 60, 60)
    black = [Collimation().corrupt(x, severity=severity, seed=0) == 0 for severity in SEVERITIES]
    for less, more in itertools.pairwise(black):
        assert bool((more | ~less).all())


def test_a_letter_is_drawn_by_its_strokes() -> None:
    # in a label of 18 x 14 pixels each of the 11 strokes of L and the 18 of R is 2 x 2, and the ground around them 2 wide
    for name, strokes in (("L", 11), ("R", 18)):
        drawn = label(name, 18)
        assert drawn.shape == (18, 14)
        assert (drawn > 0.99).sum() == (drawn[2:16, 2:12] > 0.99).sum() == 4 * strokes
        assert drawn.sum().item() == pytest.approx(4 * strokes)


@pytest.mark.parametrize("height", [1, 5, 12, 40])
def test_a_letter_of_any_size_has_its_share_of_white(height: int) -> None:
    for name, strokes in (("L", 11), ("R", 18)):
        assert label(name, height).mean().item() == pytest.approx(strokes / 63, rel=1e-4)
    assert label("L", 0).shape == (1, 1)


def test_r_stands_at_the_left_of_the_picture_and_l_at_the_right_both_on_top() -> None:
    x = 0.1 + 0.5 * noise(16, 1, 100, 120)
    out = Marker().corrupt(x, severity=2, seed=0)
    at_left = []
    for image, before in zip(out[:, 0], x[:, 0], strict=True):
        changed = (image != before).nonzero()
        (top, left), (bottom, right) = changed.amin(0).tolist(), changed.amax(0).tolist()
        # 9 % of 100 pixels high, 7/9 of that wide, 3 % of 100 from the edges
        assert (top, bottom) == (3, 11)
        assert (left, right) in {(3, 9), (110, 116)}
        at_left.append(left == 3)
        drawn = label("R" if at_left[-1] else "L", 9)
        torch.testing.assert_close(image[3:12, left : right + 1], drawn)
        assert len(changed) == drawn.numel()
    assert 1 <= sum(at_left) <= 15
