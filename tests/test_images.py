"""Images, labels and masks by row."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.images import ImageSet, ImageSource, Regions


def image_set(pixels, y=None, regions=None, rows=None):
    rows = np.arange(len(pixels)) if rows is None else np.asarray(rows)
    y = np.arange(len(rows)) % 2 if y is None else y
    table = pd.DataFrame({"image_id": [f"i{row}" for row in rows], "patient": [f"p{row // 2}" for row in rows]})
    return ImageSet(pixels, rows, y, table, ("a", "b"), "test", regions or {})


def grey(n=6, dtype=np.uint8, size=3):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (n, 1, size, size)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_scaled_by_their_types_maximum(dtype):
    top = np.iinfo(dtype).max
    pixels = np.array([0, 1, top // 2, top], dtype=dtype).reshape(1, 1, 2, 2)
    found = image_set(pixels).take([0])
    assert found.dtype == torch.float32
    expected = np.array([0, 1, top // 2, top], dtype=np.float32) / np.float32(top)
    np.testing.assert_array_equal(found.numpy().ravel(), expected)
    assert found.min() == 0
    assert found.max() == 1


def test_floats_are_taken_as_they_are_and_copied():
    pixels = np.random.default_rng(0).random((3, 1, 2, 2)).astype(np.float32)
    images = image_set(pixels)
    taken = images.take(np.array([2, 0]))
    np.testing.assert_array_equal(taken.numpy(), pixels[[2, 0]])
    taken.zero_()
    assert pixels[2].any()


def test_rows_name_the_pixels_of_a_set_in_its_own_order():
    pixels = grey()
    images = image_set(pixels, rows=[4, 1, 5])
    assert len(images) == 3
    assert images.shape == (1, 3, 3)
    np.testing.assert_array_equal(images.take([0, 2]).numpy(), pixels[[4, 5]].astype(np.float32) / np.float32(255))
    assert isinstance(images, ImageSource)
    with pytest.raises(IndexError):
        images.take([3])


def test_pixels_may_be_a_memory_map_that_cannot_be_written(tmp_path):
    np.save(tmp_path / "pixels.npy", grey())
    np.save(tmp_path / "y.npy", np.arange(6) % 2)
    pixels, y = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("pixels", "y"))
    images = image_set(pixels, y=y)
    assert images.take([1, 2]).shape == (2, 1, 3, 3)
    labels = images.targets()
    labels[:] = 7  # a copy
    assert images.targets([1]).tolist() == [1]


def test_targets_are_indices_or_findings():
    images = image_set(grey())
    assert images.targets().dtype == torch.int64
    assert images.targets([3, 0]).tolist() == [1, 0]
    findings = np.array([[1, np.nan], [0, 1]], dtype=np.float32)
    found = image_set(grey(2), y=findings).targets([1, 0])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), findings[[1, 0]])


def lesions():
    masks = np.zeros((2, 3, 3), dtype=bool)
    masks[0, 0, 0] = masks[1, 2, 2] = True
    return Regions(masks, np.array([-1, 0, -1, 1, -1, -1]))


def test_masks_are_empty_where_an_image_has_none():
    images = image_set(grey(), regions={"lesion": lesions()})
    found = images.region("lesion", [3, 0, 1])
    assert found.dtype == bool
    assert [tuple(np.argwhere(mask).ravel()) for mask in found] == [(2, 2), (), (0, 0)]
    assert images.region("lesion").sum() == 2
    assert images.region("lung").shape == (6, 3, 3)
    assert not images.region("lung", [1]).any()


def test_a_mask_that_is_taken_can_be_changed():
    regions = lesions()
    regions.take([1])[:] = False
    assert regions.take([1]).any()


@given(st.integers(1, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_masks_packed_to_bits_are_the_masks_they_were(size, count, random):
    masks = np.array([random.random() < 0.5 for _ in range(count * size * size)], dtype=bool).reshape(count, size, size)
    rows = np.array([*range(count), -1, -1])
    packed = Regions(np.packbits(masks, axis=-1), rows)
    found = packed.take(np.arange(count + 2)[::-1])
    assert found.dtype == bool
    np.testing.assert_array_equal(found, Regions(masks, rows).take(np.arange(count + 2)[::-1]))


def test_images_with_a_packed_mask_come_first_too():
    packed = Regions(np.packbits(lesions().array, axis=-1), lesions().row)
    assert set(image_set(grey(), regions={"lesion": packed}).draw(2, first=("lesion",)).tolist()) == {1, 3}


# channels


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_stored_channel_is_repeated_when_images_are_taken(dtype):
    pixels = grey() if dtype == np.uint8 else np.random.default_rng(0).random((6, 1, 3, 3)).astype(np.float32)
    once = image_set(pixels)
    images = replace(once, channels=3)
    assert images.shape == (3, 3, 3)
    taken = images.take([4, 1])
    assert taken.is_contiguous()
    for channel in range(3):
        np.testing.assert_array_equal(taken[:, channel].numpy(), once.take([4, 1])[:, 0].numpy())
    taken[:, 0] = 0.5  # a copy, each channel its own
    assert not (taken[:, 1] == 0.5).all()
    assert images.region("lesion").shape == (6, 3, 3)


def test_three_stored_channels_are_taken_as_they_are():
    pixels = np.concatenate([grey()] * 3, axis=1)
    images = replace(image_set(pixels), channels=3)
    np.testing.assert_array_equal(images.take([2]).numpy(), image_set(pixels).take([2]).numpy())


def test_colour_is_not_taken_as_grey():
    with pytest.raises(ValueError, match="expected pixels to take with 1 channels, got 3"):
        replace(image_set(np.concatenate([grey()] * 3, axis=1)), channels=1)


# draw


def test_all_images_are_drawn_in_order_without_a_number():
    assert image_set(grey()).draw(None).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_draw_takes_the_classes_in_turn_and_grows_by_its_end():
    y = np.array([0] * 8 + [1] * 3 + [2])
    images = image_set(grey(12), y=y)
    whole = images.draw(12)
    assert sorted(whole.tolist()) == list(range(12))
    assert y[whole].tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 0, 0, 0, 0]
    for count in range(1, 12):
        assert images.draw(count).tolist() == whole[:count].tolist()
    assert images.draw(50).tolist() == whole.tolist()
    assert images.draw(12, seed=1).tolist() != whole.tolist()


def test_images_with_a_mask_come_first():
    images = image_set(grey(), regions={"lesion": lesions(), "lung": Regions(np.ones((1, 3, 3), dtype=bool), np.zeros(6, int))})
    assert set(images.draw(2, first=("lesion",)).tolist()) == {1, 3}
    assert len(images.draw(6, first=("lesion", "nothing"))) == 6


@pytest.mark.parametrize("masks", [np.zeros((2, 3, 3), dtype=bool), np.zeros((0, 3, 3), dtype=bool)])
def test_empty_masks_do_not_come_first(masks):
    rows = np.array([-1, 0, 1, -1, -1, -1]) if len(masks) else np.full(6, -1)
    images = image_set(grey(), regions={"lesion": Regions(masks, rows)})
    assert images.draw(3, first=("lesion",)).tolist() == images.draw(3).tolist()


def test_findings_are_drawn_too():
    y = np.array([[1, 0], [0, 1], [np.nan, np.nan], [0, 1]], dtype=np.float32)
    assert sorted(image_set(grey(4), y=y).draw(4).tolist()) == [0, 1, 2, 3]
