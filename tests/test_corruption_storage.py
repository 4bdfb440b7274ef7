"""Compression, grey levels and pixels by severity: the standard's own arithmetic, Pillow, levels counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage

from cxr_eval.attacks.corruptions import JPEG, BitDepth, Resize
from cxr_eval.attacks.corruptions.storage import QUALITY, RESOLUTION

EACH = pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])

LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Steps at quality 50: ISO/IEC 10918-1, table K.1."""


def smooth(*size: int, seed: int = 0) -> np.ndarray:
    """A picture without sharp edges, float64 in [0, 1]."""
    drawn = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 3)
    return (drawn - drawn.min()) / np.ptp(drawn)


def batch(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float32))[None, None]


@EACH
def test_jpeg_rounds_the_cosine_transform_of_each_block_to_the_standards_table(severity: int) -> None:
    picture = np.rint(255 * smooth(48, 72))
    quality = QUALITY[severity - 1]
    share = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = np.clip((LUMINANCE * int(share) + 50) // 100, 1, 255)
    expected = np.empty_like(picture)
    for top in range(0, 48, 8):
        for left in range(0, 72, 8):
            waves = fft.dctn(picture[top : top + 8, left : left + 8] - 128, norm="ortho")
            block = fft.idctn(np.rint(waves / table) * table, norm="ortho") + 128
            expected[top : top + 8, left : left + 8] = np.clip(np.rint(block), 0, 255)
    got = 255 * JPEG().corrupt(batch(picture / 255), severity=severity, seed=0)[0, 0].numpy()
    # Pillow's encoder computes in whole numbers: a wave close to half a step may fall the other way in a few of the 54 blocks
    assert (np.abs(got - expected) > 2.01).mean() < 0.1
    assert np.abs(got - picture).mean() > 1.5 * np.abs(got - expected).mean()


def test_three_channels_are_stored_as_one_coloured_picture_and_two_as_two() -> None:
    x = torch.from_numpy(np.stack([smooth(32, 40, seed=seed) for seed in range(3)]).astype(np.float32))[None]
    coloured = JPEG().corrupt(x, severity=5, seed=0)
    assert (coloured - x).abs().mean() < 0.1
    alone = JPEG().corrupt(x[:, :1], severity=5, seed=0)
    assert not torch.allclose(coloured[:, :1], alone, atol=0.01)  # colours share one file
    assert torch.equal(JPEG().corrupt(x[:, :2], severity=5, seed=0)[:, :1], alone)


def test_few_bits_are_whole_levels_from_black_to_white() -> None:
    x = torch.tensor([0.0, 0.07, 0.2, 0.49, 0.93, 1.0]).reshape(1, 1, 2, 3)
    # times 7: 0, 0.49, 1.4, 3.43, 6.51, 7
    out = BitDepth().corrupt(x, severity=5, seed=0).flatten()
    torch.testing.assert_close(out, torch.tensor([0, 0, 1, 3, 7, 7]) / 7)


@EACH
def test_each_severity_halves_the_grey_levels(severity: int) -> None:
    levels = BitDepth().corrupt(torch.linspace(0, 1, 4096).reshape(1, 1, 64, 64), severity=severity, seed=0).unique()
    assert len(levels) == {1: 128, 2: 64, 3: 32, 4: 16, 5: 8}[severity]


@EACH
def test_a_change_of_size_and_back_is_pillows(severity: int) -> None:
    picture = smooth(60, 90).astype(np.float32)
    share = RESOLUTION[severity - 1]
    small = Image.fromarray(picture).resize((round(share * 90), round(share * 60)), Image.Resampling.BILINEAR)
    expected = np.asarray(small.resize((90, 60), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(Resize().corrupt(batch(picture), severity=severity, seed=0)[0, 0], expected, atol=1e-4)


def test_an_even_picture_stays_as_it_is_when_made_smaller_and_back() -> None:
    x = torch.full((1, 1, 60, 40), 0.6)
    torch.testing.assert_close(Resize().corrupt(x, severity=5, seed=0), x)
