"""What every corruption keeps to: range, shape, seeds, one image at a time, severities that go one way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cxr_eval.api as cxr
from cxr_eval.attacks import corruptions
from cxr_eval.attacks.corruptions import Contrast
from cxr_eval.attacks.similarity import ssim
from cxr_eval.data.readers.phantom import Phantom

ALL = [getattr(corruptions, name) for name in corruptions.__all__]
RANDOM = [
    *(corruptions.GaussianNoise, corruptions.QuantumNoise, corruptions.Exposure, corruptions.Gamma, corruptions.Motion),
    *(corruptions.Collimation, corruptions.Rotation, corruptions.Position, corruptions.Marker, corruptions.Grid),
]
FIXED = [corruption for corruption in ALL if corruption not in RANDOM]
SEVERITIES = (1, 2, 3, 4, 5)

Kind = type[cxr.Corruption]


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Drawn chests, (6, 1, 128, 128), without markers: one more on top of them would be white on white."""
    table = Phantom(patients=6, images_per_patient=1, size=128, marker_rate=0.0).read(Path(tmp_path_factory.mktemp("phantom")))
    return torch.stack([torch.from_numpy(np.asarray(Image.open(path), np.float32) / 255)[None] for path in table.image])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_there_are_sixteen_corruptions_each_with_its_source() -> None:
    assert len(ALL) == 16
    assert all(issubclass(corruption, cxr.Corruption) for corruption in ALL)
    assert all(corruption.source and "severity 5" in corruption.__doc__ for corruption in ALL)


@pytest.mark.parametrize("corruption", ALL)
def test_each_severity_moves_every_chest_further_and_makes_chests_less_alike(corruption: Kind, chests: torch.Tensor) -> None:
    out = [corruption().corrupt(chests, severity=severity, seed=1) for severity in SEVERITIES]
    far = torch.stack([(image - chests).square().mean((1, 2, 3)) for image in out])
    assert (far[0] > 0).all()
    assert (far.diff(dim=0) > 0).all()
    alike = torch.stack([ssim(image, chests).mean() for image in out])
    assert alike[0] < 1
    assert (alike.diff() <= 0).all()


@pytest.mark.parametrize("corruption", ALL)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**40), severity=st.integers(1, 5), channels=st.sampled_from([1, 2, 3]))
def test_corrupted_images_stay_plain_float32_images_in_0_1(corruption: Kind, seed: int, severity: int, channels: int) -> None:
    x = noise(2, channels, 8, 8, seed=seed % 1000)
    before = x.clone()
    out = corruption().corrupt(x, severity=severity, seed=seed)
    assert type(out) is torch.Tensor
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("corruption", ALL)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 90), (91, 37)])
def test_pictures_of_any_shape_are_corrupted(corruption: Kind, size: tuple[int, int]) -> None:
    x = noise(2, 1, *size)
    for severity in SEVERITIES:
        out = corruption().corrupt(x, severity=severity, seed=3)
        assert out.shape == x.shape
        assert bool(((out >= 0) & (out <= 1)).all())


@pytest.mark.parametrize("corruption", ALL)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_even_pictures_give_numbers(corruption: Kind, value: float) -> None:
    out = corruption().corrupt(torch.full((1, 1, 32, 32), value), severity=5, seed=0)
    assert bool(((out >= 0) & (out <= 1)).all())


@pytest.mark.parametrize("corruption", ALL)
def test_an_image_is_corrupted_alike_alone_and_in_any_batch(corruption: Kind) -> None:
    x = noise(5, 1, 32, 24)
    together = corruption().corrupt(x, severity=3, seed=7)
    for place in (0, 3):
        alone = corruption().corrupt(x[place : place + 1], severity=3, seed=7)[0]
        torch.testing.assert_close(alone, together[place])
    torch.testing.assert_close(corruption().corrupt(x.flip(0), severity=3, seed=7), together.flip(0))


@pytest.mark.parametrize("corruption", ALL)
def test_a_grey_picture_in_three_channels_stays_grey(corruption: Kind, chests: torch.Tensor) -> None:
    x = chests[:2].expand(-1, 3, -1, -1)
    for severity in SEVERITIES:
        out = corruption().corrupt(x, severity=severity, seed=2)
        assert torch.equal(out[:, 1], out[:, 0])
        assert torch.equal(out[:, 2], out[:, 0])
        assert not torch.equal(out, x)


@pytest.mark.parametrize("corruption", RANDOM)
def test_what_is_random_follows_the_seed_and_leaves_the_global_generators_alone(corruption: Kind) -> None:
    x = noise(8, 1, 48, 48)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (corruption().corrupt(x, severity=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("corruption", FIXED)
def test_what_is_not_random_does_not_depend_on_the_seed(corruption: Kind) -> None:
    x = noise(2, 1, 48, 48)
    assert torch.equal(corruption().corrupt(x, severity=4, seed=1), corruption().corrupt(x, severity=4, seed=2))


@pytest.mark.parametrize("corruption", ALL)
def test_no_images_stay_no_images(corruption: Kind) -> None:
    assert corruption().corrupt(torch.empty(0, 1, 4, 4), severity=1, seed=0).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("severity", [0, 6])
def test_a_severity_outside_1_to_5_is_refused(severity: int) -> None:
    with pytest.raises(ValueError, match="severity"):
        Contrast(severity=severity)
