"""Sufficiency and consistency: closed forms by hand, over all images of a split, batch by batch."""

from dataclasses import replace

import numpy as np
import pydantic
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.sufficiency import Agreement, Consistency, Sufficiency, pooled
from tests.explained_case import SIZE, Weighted, case, part


def corner(row: int, column: int) -> np.ndarray:
    """A map of one bright quarter."""
    a = np.zeros((SIZE, SIZE), dtype=np.float32)
    a[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
    return a


def told(maps: list[np.ndarray], said: list[int], task: cxr.Task = "multiclass") -> cxr.Explained:
    """Images with such maps, of which a network says class 0 or 1."""
    explained = case(Weighted(torch.ones(1, SIZE, SIZE)), count=len(maps), maps=np.stack(maps))
    explained.x[:] = np.where(np.array(said)[:, None, None, None] == 1, 0.5, -0.5)
    explained.target[:] = 1
    return replace(explained, task=task)


def settled(metric: Agreement, explained: cxr.Explained, size: int = 100) -> np.ndarray:
    """The metric's values, measured so many images at a time."""
    count = len(explained.x)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, size):
        for name, values in metric.measure(part(explained, list(range(start, min(start + size, count))))).items():
            assert values.dtype == np.float64
            assert values.shape == (min(size, count - start),)
            found.setdefault(name, []).append(values)
    together = {name: np.concatenate(values) for name, values in found.items()}
    scores = metric.settle(together, targets=explained.target, patients=["a"] * count, classes=("no", "yes"))
    assert list(scores) == [metric.name]
    return scores[metric.name]


METRICS = [Sufficiency(grid=2), Consistency(grid=2, top=1)]


@pytest.mark.parametrize("metric", METRICS, ids=["sufficiency", "consistency"])
def test_the_share_of_like_maps_that_are_told_alike_is_counted_by_hand(metric: Agreement):
    one, other, third = corner(0, 0), corner(1, 1), corner(0, 1)
    # four of one kind, told 1 1 1 0: each of the first three has two of three beside it, the last none; two of the other,
    # told apart; the last has no like
    explained = told([one, other, one, 5 * one, one, other, third], [1, 1, 1, 1, 0, 0, 1])
    np.testing.assert_allclose(settled(metric, explained), [2 / 3, 0, 2 / 3, 2 / 3, 0, 0, np.nan])


@pytest.mark.parametrize("metric", METRICS, ids=["sufficiency", "consistency"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_change_nothing(metric: Agreement, size: int):
    maps = [corner(*place) for place in [(0, 0), (1, 1), (0, 0), (0, 1), (1, 1), (0, 0)]]
    explained = told(maps, [1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(settled(metric, explained, size), settled(metric, explained))


@pytest.mark.parametrize("metric", METRICS, ids=["sufficiency", "consistency"])
def test_maps_that_say_nothing_are_nobodys_like(metric: Agreement):
    flat = np.ones((SIZE, SIZE), dtype=np.float32)
    broken = corner(0, 0) * np.float32(np.nan)
    explained = told([corner(0, 0), flat, corner(0, 0), broken, flat], [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(settled(metric, explained), [1, np.nan, 1, np.nan, np.nan])
    assert settled(metric, part(explained, [0])).tolist() == pytest.approx([np.nan], nan_ok=True)


@pytest.mark.parametrize("metric", METRICS, ids=["sufficiency", "consistency"])
def test_maps_of_different_findings_are_not_compared(metric: Agreement):
    explained = told([corner(0, 0)] * 4, [1, 1, 1, 0], task="multilabel")
    explained.target[:] = [1, 1, 0, 1]
    # the third is alone with its finding; the fourth is told otherwise
    np.testing.assert_allclose(settled(metric, explained), [1 / 2, 1 / 2, np.nan, 0])


def test_maps_are_similar_from_the_correlation_that_is_set():
    mixed = corner(0, 0) + corner(0, 1)  # over four cells (1 1 0 0) and (1 0 0 0): correlation 1 / sqrt(3) = 0.577
    explained = told([corner(0, 0), mixed], [1, 1])
    assert settled(Sufficiency(grid=2, similar=0.57), explained).tolist() == [1, 1]
    assert np.isnan(settled(Sufficiency(grid=2, similar=0.58), explained)).all()


def test_the_most_relevant_cells_count_in_any_order():
    first, second = 2 * corner(0, 0) + corner(1, 1), corner(0, 0) + 2 * corner(1, 1)
    explained = told([first, second], [1, 1])
    assert settled(Consistency(grid=2, top=2), explained).tolist() == [1, 1]
    assert np.isnan(settled(Consistency(grid=2, top=1), explained)).all()


def test_cells_that_are_all_the_most_relevant_ones_are_refused():
    with pytest.raises(pydantic.ValidationError, match="top 4 are all cells of the grid"):
        Consistency(grid=2, top=4)


def test_a_grid_averages_maps_of_any_size():
    assert pooled(np.arange(16.0).reshape(1, 4, 4), 2).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert pooled(np.zeros((0, 5, 7)), 2).shape == (0, 4)


def test_the_numbers_of_quantus_are_kept_as_they_are():
    explained = told([corner(0, 0)] * 3, [1, 1, 0])
    assert settled(Sufficiency(compat="quantus"), explained).tolist() == [0, 0, 0]
