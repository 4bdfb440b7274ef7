"""The CheXlocalize protocol by hand, against the definition in loops, and Otsu's method against two libraries."""

import logging
from dataclasses import replace

import cv2
import numpy as np
import pydantic
import pytest
import torch
from skimage.filters import threshold_otsu

import cxr_eval.api as cxr
from cxr_eval.explain.chexlocalize_protocol import CheXlocalize, otsu, overlaps_above, probabilities, scaled
from tests.explained_case import conv_net

CLASSES = ("Mass", "Edema")


class FirstPixel(torch.nn.Module):
    """Logits (z, -z) for z = 10 times the first pixel less a half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = 10 * (x[:, 0, 0, 0] - 0.5)
        return torch.stack([z, -z], dim=1)


def explained(
    maps: np.ndarray,
    targets: np.ndarray,
    first: np.ndarray | None = None,
    kind: str = "finding",
    regions: np.ndarray | None = None,
) -> cxr.Explained:
    maps = np.asarray(maps, dtype=np.float32)
    x = np.full((len(maps), 1, *maps.shape[1:]), 0.5, dtype=np.float32)
    if first is not None:
        x[:, 0, 0, 0] = first
    return cxr.Explained(
        model=FirstPixel(),
        x=x,
        target=np.asarray(targets, dtype=np.int64),
        maps=maps,
        explain=lambda model, x, target: x[:, 0],
        region=lambda name: np.asarray(regions, dtype=bool),
        kinds=(kind,),
        classes=2,
        seed=0,
        task="multilabel",
    )


def bumps(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Maps with one noisy bump each, regions near them, classes, and first pixels."""
    rng = np.random.default_rng(seed)
    up, across = np.mgrid[:12, :12]
    middle = rng.integers(3, 9, (count, 2))
    far = (up - middle[:, :1, None]) ** 2 + (across - middle[:, 1:, None]) ** 2
    maps = np.exp(-far / rng.uniform(2, 30, (count, 1, 1))) + 0.2 * rng.random((count, 12, 12))
    box = middle + rng.integers(-2, 3, (count, 2))
    half = rng.integers(1, 4, (count, 1, 1))
    regions = (np.abs(up - box[:, :1, None]) <= half) & (np.abs(across - box[:, 1:, None]) <= half)
    return maps.astype(np.float32), regions, rng.integers(0, 2, count), rng.random(count).astype(np.float32)


def run(metric: CheXlocalize, tune: tuple, test: tuple, size: int = 100) -> dict[str, np.ndarray]:
    """As a run does it: tuned on one split, measured batch by batch on another, settled."""

    def batches(case: tuple) -> list[cxr.Explained]:
        maps, regions, targets, first = case
        places = [slice(start, start + size) for start in range(0, len(maps), size)]
        return [explained(maps[p], targets[p], first[p], regions=regions[p]) for p in places]

    metric.tuned = metric.tune(batches(tune))
    parts = [metric.measure(batch) for batch in batches(test)]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return metric.settle(values, targets=test[2], patients=[f"p{k}" for k in range(len(test[0]))], classes=CLASSES)


MAP = np.array([[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]])
BOTTOM = np.array([[[False, False, False], [True, True, True]]])


def test_iou_above_a_cut_by_hand_and_strictly_above():
    # scaled: 0 0.2 0.4 / 0.6 0.8 1; above 0.1: five pixels, three of them in the region of three
    cuts = np.array([[0.1, 0.5, 0.8, 0.9]])
    assert overlaps_above(MAP, BOTTOM, cuts)[0].tolist() == pytest.approx([3 / 5, 1, 1 / 3, 1 / 3])
    quarter = np.array([[[0.0, 1.0, 4.0, 4.0]]])
    region = np.array([[[False, True, True, True]]])
    assert overlaps_above(quarter, region, np.array([[0.25]]))[0].tolist() == pytest.approx([2 / 3])


@pytest.mark.parametrize("spoil", [np.zeros_like, np.ones_like, lambda a: a * np.nan, lambda a: a * np.inf])
@pytest.mark.parametrize("threshold", ["tuned", "otsu"])
def test_a_map_that_says_nothing_counts_as_a_miss(spoil, threshold):
    maps, regions, targets, first = bumps(10, 0)
    targets[:] = 0
    spoiled = maps.copy()
    spoiled[3] = spoil(maps[3])
    metric = CheXlocalize(threshold=threshold)
    before, after = (run(metric, (maps, regions, targets, first), (m, regions, targets, first)) for m in (maps, spoiled))
    for name in ("chexlocalize[Mass@miou]", "chexlocalize[Mass@hit rate]"):
        assert after[name][3] == 0
        assert np.delete(after[name], 3).tolist() == np.delete(before[name], 3).tolist()


def test_the_threshold_is_the_first_best_on_the_validation_images_class_by_class():
    # class 0: the region is what is above 0.5 and up to below 0.6; class 1: what is above 0.7
    maps = np.repeat(MAP, 2, axis=0)
    regions = np.concatenate([BOTTOM, [[[False, False, False], [False, True, True]]]])
    tuned = CheXlocalize().tune([explained(maps, np.array([0, 1]), regions=regions)])
    # 0.4 highlights 3, 4, 5 (0.4 itself is not above) and so does 0.5: the first is taken; 0.6 highlights 4 and 5
    assert {name: value for name, value in tuned.items() if "threshold" in name} == {"threshold 0": 0.4, "threshold 1": 0.6}


def test_batches_and_order_change_no_threshold_and_no_value():
    tune, test = bumps(40, 1), bumps(30, 2)
    whole, parts = run(CheXlocalize(), tune, test), run(CheXlocalize(), tune, test, size=7)
    assert whole.keys() == parts.keys()
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-6, err_msg=name)
    order = np.random.default_rng(0).permutation(40)
    assert CheXlocalize().tune([explained(tune[0][order], tune[2][order], tune[3][order], regions=tune[1][order])]) == (
        CheXlocalize().tune([explained(tune[0], tune[2], tune[3], regions=tune[1])])
    )


def by_definition(metric: CheXlocalize, tune: tuple, test: tuple) -> dict[str, list[float]]:
    """Everything with sets of pixels and loops."""

    def iou(one: np.ndarray, region: np.ndarray, t: float) -> float:
        one = one.astype(np.float64)
        lit = {p for p in np.ndindex(*one.shape) if (one[p] - one.min()) / (one.max() - one.min()) > t}
        box = {p for p in np.ndindex(*one.shape) if region[p]}
        return len(lit & box) / len(lit | box)

    found: dict[str, list[float]] = {}
    for k, name in enumerate(CLASSES):
        own = [i for i in range(len(tune[0])) if tune[2][i] == k]
        means = [np.mean([iou(tune[0][i], tune[1][i], t) for i in own]) for t in metric.params.grid]
        t = metric.params.grid[means.index(max(means))]
        sign = 1 if k == 0 else -1

        def probability(first: float, sign: int = sign) -> float:
            return 1 / (1 + np.exp(-sign * 10 * (float(first) - 0.5)))

        reached = sorted((probability(tune[3][i]) for i in own), reverse=True)
        cutoff = next(p for p in reached if sum(q >= p for q in reached) / len(reached) >= metric.params.sensitivity)
        columns: dict[str, list[float]] = {}
        for i in range(len(test[0])):
            overlap = iou(test[0][i], test[1][i], t)
            top = np.unravel_index(test[0][i].argmax(), test[0][i].shape)
            hit = float(test[1][i][top])
            there = probability(test[3][i]) >= cutoff - 1e-7
            for said, value, counts in (
                (f"{name}@miou", overlap, True),
                (f"{name}@hit rate", hit, True),
                (f"{name}@miou, found", overlap, there),
                (f"{name}@hit rate, found", hit, there),
                (f"threshold of {name}", t, True),
                (f"cut-off of {name}", cutoff, True),
            ):
                columns.setdefault(said, []).append(value if counts and test[2][i] == k else np.nan)
        found |= {f"chexlocalize[{said}]": column for said, column in columns.items()}
    return found


def test_all_values_are_those_of_the_definition():
    tune, test = bumps(40, 1), bumps(30, 2)
    metric = CheXlocalize(sensitivity=0.6)
    ours, slow = run(metric, tune, test), by_definition(metric, tune, test)
    assert ours.keys() == slow.keys()
    for name, values in slow.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, err_msg=name)
    assert np.isfinite(ours["chexlocalize[Mass@miou, found]"]).sum() < np.isfinite(ours["chexlocalize[Mass@miou]"]).sum()


def test_the_cut_off_is_frozen_on_the_validation_images_or_set():
    _, regions, _, _ = bumps(10, 0)
    maps, targets = regions.astype(np.float32), np.zeros(10, dtype=np.int64)
    first = np.linspace(0.05, 0.95, 10).astype(np.float32)
    tuned = CheXlocalize(sensitivity=0.3).tune([explained(maps, targets, first, regions=regions)])
    # three of ten are at or above the third highest probability
    expected = 1 / (1 + np.exp(-10 * (first[7] - 0.5)))
    assert tuned["cutoff 0"] == pytest.approx(expected, rel=1e-5)
    found = run(CheXlocalize(sensitivity=0.3), (maps, regions, targets, first), (maps, regions, targets, first))
    assert np.isfinite(found["chexlocalize[Mass@hit rate, found]"]).tolist() == [False] * 7 + [True] * 3
    fixed = run(CheXlocalize(cutoff=0.5), (maps, regions, targets, first), (maps, regions, targets, first))
    assert np.isfinite(fixed["chexlocalize[Mass@hit rate, found]"]).tolist() == [False] * 5 + [True] * 5
    assert set(fixed["chexlocalize[cut-off of Mass]"]) == {0.5}


def test_a_map_that_is_the_region_has_one_everywhere():
    maps, regions, targets, first = bumps(20, 3)
    found = run(CheXlocalize(), (maps, regions, targets, first), (regions.astype(float), regions, targets, first))
    for name in CLASSES:
        for what in ("miou", "hit rate", "miou, found"):
            values = found[f"chexlocalize[{name}@{what}]"]
            assert set(values[np.isfinite(values)]) == {1}


def test_a_hit_is_shared_among_the_largest_pixels():
    maps = np.array([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]])
    region = np.array([[[True, False, False], [False, False, True]]])
    measured = CheXlocalize().measure(explained(maps, np.array([0]), regions=region))
    assert measured["chexlocalize[hit]"].tolist() == [0.25]


def test_test_images_change_no_threshold_and_validation_images_no_hit():
    tune, test, other = bumps(40, 1), bumps(30, 2), bumps(40, 5)
    first, second = run(CheXlocalize(), tune, test), run(CheXlocalize(), other, test)
    np.testing.assert_array_equal(first["chexlocalize[Mass@hit rate]"], second["chexlocalize[Mass@hit rate]"])
    third = run(CheXlocalize(), tune, other)
    assert np.nanmax(first["chexlocalize[threshold of Mass]"]) == np.nanmax(third["chexlocalize[threshold of Mass]"])


def test_a_class_that_no_validation_image_shows_has_hits_and_no_overlap_and_says_so(caplog: pytest.LogCaptureFixture):
    maps, regions, targets, first = bumps(20, 3)
    alone = np.zeros(20, dtype=np.int64)
    with caplog.at_level(logging.WARNING):
        found = run(CheXlocalize(), (maps, regions, alone, first), (maps, regions, targets, first))
    assert caplog.messages == ["chexlocalize: no validation image has a region of Edema; nothing that needs one is told"]
    assert np.isfinite(found["chexlocalize[Edema@hit rate]"]).sum() == (targets == 1).sum()
    for what in ("Edema@miou", "Edema@miou, found", "Edema@hit rate, found", "threshold of Edema", "cut-off of Edema"):
        assert np.isnan(found[f"chexlocalize[{what}]"]).all()
    assert np.isfinite(found["chexlocalize[Mass@miou]"]).any()


def test_validation_images_without_such_regions_tune_nothing():
    maps, regions, targets, first = bumps(6, 3)
    assert CheXlocalize().tune([explained(maps, targets, first, kind="lung", regions=regions)]) == {}
    assert CheXlocalize().tune([explained(maps, targets, first, regions=np.zeros_like(regions))]) == {}
    assert CheXlocalize().tune([]) == {}


def test_an_image_without_a_region_has_no_value():
    maps, regions, targets, first = bumps(20, 3)
    targets[:] = 0
    empty = regions.copy()
    empty[4] = False
    found = run(CheXlocalize(), (maps, regions, targets, first), (maps, empty, targets, first))
    for values in found.values():
        assert np.isnan(values[4])
    none = run(CheXlocalize(), (maps, regions, targets, first), (maps, np.zeros_like(regions), targets, first))
    assert none == {}


def test_no_images_give_no_values():
    maps, regions, targets, first = (part[:0] for part in bumps(2, 0))
    measured = CheXlocalize().measure(explained(maps, targets, first, regions=regions))
    assert all(values.shape == (0,) for values in measured.values())
    assert CheXlocalize().settle(measured, targets=targets, patients=[], classes=CLASSES) == {}


def test_otsu_cuts_where_two_libraries_cut():
    maps, _, _, _ = bumps(40, 6)
    for one in maps.astype(np.float64):
        levels = (255 * scaled(one[None])[0]).astype(np.uint8)
        ours = scaled(one[None])[0] > otsu(one)
        np.testing.assert_array_equal(ours, levels > threshold_otsu(levels))
        np.testing.assert_array_equal(ours, cv2.threshold(levels, 0, 1, cv2.THRESH_OTSU)[1] > 0)


def test_otsu_needs_no_validation_images():
    maps, regions, targets, first = bumps(20, 3)
    nothing = tuple(part[:0] for part in (maps, regions, targets, first))
    found = run(CheXlocalize(threshold="otsu", cutoff=0.5), nothing, (maps, regions, targets, first))
    np.testing.assert_array_equal(np.isfinite(found["chexlocalize[Mass@miou]"]), targets == 0)
    assert len(set(found["chexlocalize[threshold of Mass]"][targets == 0])) > 1


def test_probabilities_follow_the_task():
    case = explained(np.repeat(MAP, 2, axis=0), np.array([0, 1]), np.array([0.6, 0.6]), regions=np.repeat(BOTTOM, 2, axis=0))
    # z = 1: sigmoid(1) and sigmoid(-1)
    np.testing.assert_allclose(probabilities(case), [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-5)
    exclusive = replace(case, task="multiclass")
    np.testing.assert_allclose(probabilities(exclusive), [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], rtol=1e-5)


def test_the_network_and_the_maps_are_left_as_they_were():
    maps, regions, targets, first = bumps(4, 3)
    case = explained(maps, targets, first, regions=regions)
    before = case.maps.copy()
    model = conv_net().train()
    CheXlocalize().measure(case)
    assert np.array_equal(case.maps, before)
    small = replace(case, model=model, x=np.zeros((4, 1, 8, 8), dtype=np.float32))
    probabilities(small)
    assert model.training


def test_another_kind_of_region_may_be_measured_and_an_absent_one_is_refused():
    with pytest.raises(
        cxr.PluginError, match="chexlocalize: no regions of kind 'finding'; these images have: lesion; choose one"
    ):
        CheXlocalize().check(("lesion",))
    with pytest.raises(cxr.PluginError, match="no regions of kind 'lung'; these images have: finding"):
        CheXlocalize(region="lung").measure(explained(MAP, np.array([0]), regions=BOTTOM))
    assert CheXlocalize(region="lesion").tune([explained(MAP, np.array([0]), kind="lesion", regions=BOTTOM)])


def test_thresholds_that_highlight_nothing_are_refused():
    with pytest.raises(pydantic.ValidationError, match="is above 1; expected numbers from 0 to below 1"):
        CheXlocalize(grid=(0.5, 1.0))
    assert CheXlocalize(grid=[0.5, 0.2, 0.5]).params.grid == (0.2, 0.5)


def test_it_describes_itself():
    metric = CheXlocalize
    assert (metric.family, metric.better, metric.unit, metric.chance) == ("localisation", "higher", "fraction", "unknown")
    assert metric.tuned_on == "val"
    assert metric().tuned == {}
    assert metric.source
    assert all(field.description for field in metric.Params.model_fields.values())
