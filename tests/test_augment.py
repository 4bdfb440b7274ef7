"""Random affine changes of training images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.data.augment import affine
from cxr_eval.protocol import Augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.rand((n, 1, size, size), generator=generator(1))


def test_settings_that_change_nothing_return_the_same_object_and_draw_nothing() -> None:
    x, rng = images(), generator()
    before = rng.get_state()
    assert affine(x, Augment(), rng) is x
    assert torch.equal(rng.get_state(), before)


def test_an_empty_batch_stays_empty() -> None:
    x = torch.zeros((0, 1, 8, 8))
    assert affine(x, Augment(rotate=10, flip=True), generator()).shape == x.shape


def test_flip_alone_turns_about_half_of_the_images_exactly() -> None:
    x = images(400, 8)
    flipped = affine(x, Augment(flip=True), generator())
    turned = (flipped == x.flip(-1)).flatten(1).all(1)
    assert (turned | (flipped == x).flatten(1).all(1)).all()
    assert 160 < turned.sum() < 240  # 4 standard deviations around 200


def test_flip_is_left_right_and_never_upside_down() -> None:
    x = torch.zeros((50, 1, 4, 4))
    x[:, :, 0, 0] = 1
    where = affine(x, Augment(flip=True), generator()).nonzero()
    assert set(where[:, 2].tolist()) == {0}
    assert set(where[:, 3].tolist()) == {0, 3}


def test_the_same_generator_gives_the_same_images_and_each_image_its_own_map() -> None:
    x = images(1).expand(3, -1, -1, -1)
    settings = Augment(rotate=10, shift=0.1, shear=10, scale=0.1, flip=True)
    first, second = affine(x, settings, generator()), affine(x, settings, generator())
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_runs_that_differ_in_one_setting_share_the_other_draws() -> None:
    x = images(8)
    x[:, :, :, 0] = 1
    flips = (affine(x, Augment(flip=True), generator()) == x).flatten(1).all(1)
    rng = generator()
    affine(x, Augment(flip=True, rotate=5, shift=0.1), rng)
    other = generator()
    affine(x, Augment(shear=5), other)
    assert torch.equal(rng.get_state(), other.get_state())
    assert flips.any()
    assert not flips.all()


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 1, 48, 96)])
def test_rotation_turns_a_point_by_at_most_the_given_angle_and_keeps_its_distance(shape: tuple[int, int, int, int]) -> None:
    x = torch.zeros(shape)
    height, width = shape[-2:]
    x[..., height // 2 - 1 : height // 2 + 1, width // 2 + 15 : width // 2 + 17] = 1  # a dot 16 pixels right of the centre
    angles = []
    for seed in range(30):
        moved = affine(x, Augment(rotate=40), generator(seed))[0, 0]
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        dy = float((moved * rows).sum() / moved.sum()) - height / 2
        dx = float((moved * columns).sum() / moved.sum()) - width / 2
        assert (dx**2 + dy**2) ** 0.5 == pytest.approx(16, abs=0.3)  # bilinear blur of a 2 x 2 dot
        angles.append(float(torch.atan2(torch.tensor(dy), torch.tensor(dx)).rad2deg()))
    assert max(abs(angle) for angle in angles) <= 40.5
    assert min(angles) < -15
    assert max(angles) > 15


def test_shift_moves_by_at_most_its_share_of_the_side() -> None:
    x = torch.zeros((60, 1, 40, 40))
    x[:, :, 20, 20] = 1
    moved = affine(x, Augment(shift=0.1), generator())
    place = (moved * torch.arange(40.0)).sum((1, 2, 3)) / moved.sum((1, 2, 3)) - 20
    assert place.abs().max() <= 4 + 1e-3  # float32 sums over 40 pixels
    assert place.min() < -2
    assert place.max() > 2


def test_the_edge_is_repeated_where_nothing_is_known() -> None:
    x = torch.full((20, 1, 16, 16), 0.7)
    moved = affine(x, Augment(rotate=45, shift=0.3, shear=20, scale=0.3), generator())
    torch.testing.assert_close(moved, x, rtol=0, atol=1e-6)  # four weights that add up to 1


@given(
    st.integers(0, 10_000),
    st.floats(0, 180),
    st.floats(0, 0.5),
    st.floats(0, 45),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_values_stay_in_range_and_shape_and_type_are_kept(
    seed: int, rotate: float, shift: float, shear: float, scale: float, flip: bool
) -> None:
    x = (torch.rand((3, 2, 9, 12), generator=generator(seed)) > 0.5).float()
    moved = affine(x, Augment(rotate=rotate, shift=shift, shear=shear, scale=scale, flip=flip), generator(seed))
    assert moved.shape == x.shape
    assert moved.dtype == torch.float32
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_the_callers_images_are_left_as_they_were() -> None:
    x = images()
    before = x.clone()
    affine(x, Augment(rotate=10, flip=True), generator())
    assert torch.equal(x, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_images_from_a_cpu_generator() -> None:
    x = images()
    settings = Augment(rotate=10, shift=0.1, flip=True)
    on_gpu = affine(x.cuda(), settings, generator())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), affine(x, settings, generator()), rtol=0, atol=1e-4)
