"""Localisation accuracy: by hand on tiny maps, against COCO's IoU, and against the definition written out in loops."""

import numpy as np
import pycocotools.mask
import pydantic
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.iou import LocalisationAccuracy, dealt, ious, judged, middle_of_best

CLASSES = ("nodule", "mass")
CUTS = np.arange(0, 255, 5)


def explained(maps: np.ndarray, **regions: np.ndarray) -> cxr.Explained:
    maps = np.asarray(maps, dtype=np.float32)
    return cxr.Explained(
        model=torch.nn.Identity(),
        x=np.zeros((len(maps), 1, *maps.shape[1:]), dtype=np.float32),
        target=np.zeros(len(maps), dtype=np.int64),
        maps=maps,
        explain=lambda model, x, target: x[:, 0],
        region=lambda kind: np.asarray(regions[kind], dtype=bool),
        kinds=tuple(regions),
        classes=len(CLASSES),
        seed=0,
    )


def measured(
    metric: LocalisationAccuracy,
    maps: np.ndarray,
    regions: np.ndarray,
    targets: np.ndarray | None = None,
    patients: list[str] | None = None,
) -> dict[str, np.ndarray]:
    """Both steps, as a run takes them, in batches of 7."""
    targets = np.zeros(len(maps), dtype=np.int64) if targets is None else targets
    patients = [f"p{k}" for k in range(len(maps))] if patients is None else patients
    parts = [
        metric.measure(explained(maps[start : start + 7], finding=regions[start : start + 7]))
        for start in range(0, len(maps), 7)
    ]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return metric.settle(values, targets=targets, patients=patients, classes=CLASSES)


def bumps(count: int, seed: int = 0, size: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Maps with one noisy bump each, boxes near the bumps, classes, and patients with one to three images."""
    rng = np.random.default_rng(seed)
    up, across = np.mgrid[:size, :size]
    middle = rng.integers(3, size - 3, (count, 2))
    far = (up - middle[:, :1, None]) ** 2 + (across - middle[:, 1:, None]) ** 2
    maps = np.exp(-far / rng.uniform(2, 30, (count, 1, 1))) + 0.3 * rng.random((count, size, size))
    box = middle + rng.integers(-2, 3, (count, 2))
    half = rng.integers(1, 5, (count, 1, 1))
    masks = (np.abs(up - box[:, :1, None]) <= half) & (np.abs(across - box[:, 1:, None]) <= half)
    return (
        maps.astype(np.float32),
        masks,
        rng.integers(0, 2, count),
        [f"p{k}" for k in np.sort(rng.integers(0, count // 2, count))],
    )


MAP = np.array([[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]])
BOTTOM = np.array([[[False, False, False], [True, True, True]]])


def test_iou_at_each_cut_by_hand():
    # scaled to [0, 255]: 0 51 102 / 153 204 255; the region is the lower row
    cuts = np.array([0, 51, 52, 153, 154, 255])
    # highlighted: 6, 5, 4, 3, 2, 1 pixels; in the region: 3, 3, 3, 3, 2, 1; its size: 3
    expected = [3 / 6, 3 / 5, 3 / 4, 3 / 3, 2 / 3, 1 / 3]
    assert ious(MAP, BOTTOM, cuts).tolist() == [expected]


def test_the_range_of_a_map_does_not_matter():
    cuts = np.array([0, 51, 52, 153, 154])
    for maps in (MAP * 1e-9, MAP * 51, MAP * 1e30):  # factors that keep a scaled value from being rounded below its cut
        np.testing.assert_array_equal(ious(maps, BOTTOM, CUTS), ious(MAP, BOTTOM, CUTS))
    assert ious(MAP - 3, BOTTOM, cuts).tolist() == ious(MAP, BOTTOM, cuts).tolist()


def test_iou_is_that_of_coco():
    maps, masks, _, _ = bumps(40)
    ours = ious(maps, masks, CUTS)
    for one, mask, values in zip(maps.astype(np.float64), masks, ours, strict=True):
        scaled = 255 * (one - one.min()) / (one.max() - one.min())
        box = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        cut = [pycocotools.mask.encode(np.asfortranarray((scaled >= t).astype(np.uint8))) for t in CUTS]
        np.testing.assert_array_equal(values, pycocotools.mask.iou(cut, [box], [0])[:, 0])


@pytest.mark.parametrize("spoil", [np.zeros_like, np.ones_like, lambda a: a * np.nan, lambda a: a * np.inf])
def test_a_map_that_says_nothing_overlaps_with_nothing_and_harms_no_other(spoil):
    maps, masks, _, _ = bumps(5)
    clean = ious(maps, masks, CUTS)
    maps[2] = spoil(maps[2] + 1)
    found = ious(maps, masks, CUTS)
    assert found[2].tolist() == [0.0] * len(CUTS)
    assert np.delete(found, 2, axis=0).tolist() == np.delete(clean, 2, axis=0).tolist()


def test_an_image_without_a_region_has_no_iou_also_where_its_map_says_nothing():
    maps, masks, _, _ = bumps(3)
    masks[1:] = False
    maps[2] = 0
    assert np.isnan(ious(maps, masks, CUTS)).all(axis=1).tolist() == [False, True, True]


@pytest.mark.parametrize("scores", [[0, 3, 3, 3, 1], [2, 3, 1, 3, 3]])
def test_of_several_best_cuts_the_middle_one_is_taken(scores):
    assert middle_of_best(np.array(scores)) == (2 if scores[2] == 3 else 3)


def test_of_two_best_cuts_the_smaller_one_is_taken():
    assert middle_of_best(np.array([0, 4, 4, 1])) == 1


def test_hits_and_thresholds_of_two_folds_by_hand():
    # two cuts, one limit; fold 0: images 0 and 1, fold 1: image 2
    overlaps = np.array([[0.6, 0.2], [0.6, 0.9], [0.3, 0.8]])
    # fold 0: hits above 0.5 are 2 at the first cut, 1 at the second, so it uses the first: image 2 has 0.3, no hit
    # fold 1: 0 and 1, so it uses the second: image 0 has 0.2, no hit; image 1 has 0.9, a hit
    found, used = judged(overlaps, np.array([0, 0, 1]), np.array([0.5]), 2)
    assert found[:, 0].tolist() == [0.0, 1.0, 0.0]
    assert used.tolist() == [1.0, 1.0, 0.0]


def test_an_iou_that_equals_the_limit_is_no_hit():
    found, _ = judged(np.full((2, 1), 3 / 10), np.array([0, 1]), np.array([0.2, 0.3]), 2)
    assert found.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_patients_are_dealt_out_whole_into_folds_of_about_equally_many_images():
    rng = np.random.default_rng(3)
    patients = np.array([f"p{k}" for k in rng.integers(0, 60, 200)])
    fold = dealt(patients, 5, 0)
    assert all(len(set(fold[patients == name])) == 1 for name in set(patients))
    sizes = np.bincount(fold, minlength=5)
    most = max(np.unique(patients, return_counts=True)[1])
    assert sizes.max() - sizes.min() <= most
    order = rng.permutation(200)
    assert dealt(patients[order], 5, 0).tolist() == fold[order].tolist()
    assert dealt(patients, 5, 1).tolist() != fold.tolist()


def by_definition(
    metric: LocalisationAccuracy, maps: np.ndarray, masks: np.ndarray, targets: np.ndarray, patients: list[str]
) -> dict[str, list[float]]:
    """Everything with sets of pixels and loops; only who is in which fold is taken from us."""
    limits, folds = metric.params.thresholds, metric.params.folds

    def iou(row: int, t: int) -> float:
        low, high = float(maps[row].min()), float(maps[row].max())
        lit = {(i, j) for i, j in np.ndindex(*maps[row].shape) if 255 * (float(maps[row][i, j]) - low) / (high - low) >= t}
        box = {(i, j) for i, j in np.ndindex(*masks[row].shape) if masks[row][i, j]}
        return len(lit & box) / len(lit | box)

    found: dict[str, list[float]] = {}
    for k, name in enumerate(CLASSES):
        rows = [row for row in range(len(maps)) if targets[row] == k]
        fold = dict(zip(rows, dealt(np.array([patients[row] for row in rows]), folds, metric.params.seed), strict=True))
        table = {(row, t): iou(row, int(t)) for row in rows for t in metric.cuts}
        chosen = []
        for f in range(folds):
            scores = {t: sum(table[row, t] > T for row in rows if fold[row] == f for T in limits) for t in metric.cuts}
            best = sorted(t for t in scores if scores[t] == max(scores.values()))
            chosen.append(best[(len(best) - 1) // 2])
        for T in limits:
            values = [np.nan] * len(maps)
            for row in rows:
                hits = [table[row, chosen[f]] > T for f in range(folds) if f != fold[row]]
                values[row] = sum(hits) / len(hits)
            found[f"localisation_accuracy[{name}@{T:g}]"] = values
        used = [np.nan] * len(maps)
        for row in rows:
            others = [chosen[f] / 255 for f in range(folds) if f != fold[row]]
            used[row] = sum(others) / len(others)
        found[f"localisation_accuracy[threshold of {name}]"] = used
    return found


@pytest.mark.parametrize("settings", [{}, {"folds": 3, "seed": 4, "step": 17, "thresholds": (0.0, 0.25, 0.9)}])
def test_accuracy_and_thresholds_are_those_of_the_definition(settings):
    metric = LocalisationAccuracy(**settings)
    maps, masks, targets, patients = bumps(50, seed=1, size=9)
    ours, slow = measured(metric, maps, masks, targets, patients), by_definition(metric, maps, masks, targets, patients)
    assert ours.keys() == slow.keys()
    for name, values in slow.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-12, err_msg=name)
    assert len({round(value, 3) for value in ours["localisation_accuracy[threshold of mass]"] if np.isfinite(value)}) > 1


def test_a_threshold_never_depends_on_the_patient_that_it_judges():
    metric = LocalisationAccuracy()
    maps, masks, targets, patients = bumps(60, seed=2)
    before = measured(metric, maps, masks, targets, patients)
    moved = 0
    for changed in range(0, 60, 4):
        other = maps.copy()
        other[changed] = np.roll(masks[changed], 1, axis=1) + 0.1 * maps[changed]  # another map, with another best threshold
        after = measured(metric, other, masks, targets, patients)
        name = f"localisation_accuracy[threshold of {CLASSES[targets[changed]]}]"
        same = [k for k in range(60) if patients[k] == patients[changed] and targets[k] == targets[changed]]
        assert after[name][same].tolist() == before[name][same].tolist()
        moved += not np.array_equal(after[name], before[name], equal_nan=True)
    assert moved >= 3  # the others' thresholds do depend on it


def test_what_a_map_of_one_class_says_changes_no_number_of_another():
    metric = LocalisationAccuracy()
    maps, masks, targets, patients = bumps(60, seed=2)
    before = measured(metric, maps, masks, targets, patients)
    maps[targets == 0] = maps[targets == 0][::-1]
    after = measured(metric, maps, masks, targets, patients)
    for name in before:
        if "mass" in name:
            np.testing.assert_array_equal(after[name], before[name])


def test_a_map_that_is_the_mask_finds_everything_below_one():
    _, masks, _, _ = bumps(30)
    found = measured(LocalisationAccuracy(thresholds=(0.0, 0.5, 0.999)), masks.astype(float), masks)
    for limit in ("0", "0.5", "0.999"):
        assert found[f"localisation_accuracy[nodule@{limit}]"].tolist() == [1.0] * 30
    # every t from 5 to 250 is as good, places 1 to 50 of 51: the middle is place 25, t = 125
    np.testing.assert_allclose(found["localisation_accuracy[threshold of nodule]"], 125 / 255, rtol=1e-12)


def test_random_maps_find_what_a_map_that_highlights_everything_finds():
    rng = np.random.default_rng(0)
    masks = np.zeros((200, 20, 20), dtype=bool)
    masks[:100, 5:15, 5:13] = True  # 80 of 400 pixels
    masks[100:, 5:15, 5:9] = True  # 40 of 400
    found = measured(LocalisationAccuracy(thresholds=(0.05, 0.15, 0.25)), rng.random((200, 20, 20)), masks)
    # with t = 0, IoU is the share: 0.2 and 0.1; random pixels of a share q give less, s q / (s + q - s q) <= s
    assert found["localisation_accuracy[nodule@0.05]"].mean() == 1.0
    assert found["localisation_accuracy[nodule@0.15]"].mean() == pytest.approx(0.5, abs=0.02)
    assert found["localisation_accuracy[nodule@0.25]"].mean() == 0.0


def test_a_constant_map_counts_as_a_miss():
    _, masks, _, _ = bumps(20)
    maps = masks.astype(float)
    maps[::2] = 0.0
    found = measured(LocalisationAccuracy(), maps, masks)
    assert found["localisation_accuracy[nodule@0.1]"].tolist() == [0.0, 1.0] * 10


def test_a_class_with_fewer_patients_than_folds_has_no_values():
    maps, masks, _, _ = bumps(12)
    targets = np.array([0] * 6 + [1] * 6)
    patients = [f"p{k}" for k in (0, 1, 2, 3, 3, 3, 0, 1, 2, 3, 4, 4)]  # four of the first class, five of the second
    found = measured(LocalisationAccuracy(), maps, masks, targets, patients)
    assert np.isnan(found["localisation_accuracy[nodule@0.1]"]).all()
    assert np.isnan(found["localisation_accuracy[threshold of nodule]"]).all()
    assert np.isfinite(found["localisation_accuracy[mass@0.1]"]).tolist() == [False] * 6 + [True] * 6


def test_a_class_none_of_whose_images_has_a_region_has_no_names():
    maps, masks, _, _ = bumps(12)
    targets = np.array([0] * 6 + [1] * 6)
    masks[targets == 1] = False
    found = measured(LocalisationAccuracy(), maps, masks, targets)
    assert found
    assert not [name for name in found if "mass" in name]


def test_an_image_without_a_region_tunes_nothing_and_has_no_value():
    maps, masks, _, _ = bumps(20)
    masks[[3, 8]] = False
    found = measured(LocalisationAccuracy(), maps, masks)["localisation_accuracy[nodule@0.3]"]
    kept = [k for k in range(20) if k not in (3, 8)]
    names = [f"p{k}" for k in kept]
    alone = measured(LocalisationAccuracy(), maps[kept], masks[kept], patients=names)["localisation_accuracy[nodule@0.3]"]
    assert np.isnan(found[[3, 8]]).all()
    assert found[kept].tolist() == alone.tolist()


def test_signs_are_settled_as_the_setting_says():
    maps = np.array([[[-4.0, 0.0, 2.0]]])
    region = np.array([[[True, False, False]]])

    def at(sign: str, t: int) -> float:
        values = LocalisationAccuracy(sign=sign).measure(explained(maps, finding=region))
        return values[f"localisation_accuracy[{t}]"][0]

    # at 50: signed 0 170 255, two pixels, none of them in the region; absolute 255 0 127.5, two, one of them the region
    assert [at("signed", 50), at("absolute", 50), at("positive", 50)] == [0.0, 1 / 2, 0.0]


def test_another_kind_of_region_may_be_measured_and_an_absent_one_is_refused():
    maps, masks, _, _ = bumps(4)
    metric = LocalisationAccuracy(region="lesion")
    values = metric.measure(explained(maps, lesion=masks))
    np.testing.assert_array_equal(values["localisation_accuracy[0]"], masks.mean(axis=(1, 2)))
    with pytest.raises(cxr.PluginError, match="localisation_accuracy: no regions of kind 'lesion'; these images have: lung"):
        metric.check(("lung",))
    only = "no regions of kind 'finding'; these images have: lesion; choose one of them by its setting, or use explain.target"
    with pytest.raises(cxr.PluginError, match=only):
        LocalisationAccuracy().measure(explained(maps, lesion=masks))


def test_maps_are_left_alone():
    maps, masks, _, _ = bumps(4)
    case = explained(maps - 0.5, finding=masks)
    before = case.maps.copy()
    for sign in ("signed", "positive", "absolute"):
        LocalisationAccuracy(sign=sign).measure(case)
    assert np.array_equal(case.maps, before)


def test_it_describes_itself():
    metric = LocalisationAccuracy
    assert (metric.family, metric.better, metric.unit, metric.chance) == ("localisation", "higher", "fraction", "unknown")
    assert metric.source
    assert all(field.description for field in metric.Params.model_fields.values())
    assert metric(thresholds=[0.5]).params.thresholds == (0.5,)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ((0.5, 1.0), "an IoU above 1 cannot be; expected numbers from 0 to below 1"),
        ((-0.1,), "expected numbers from 0 to below 1"),
        ((0.1, 0.5, 0.1000000001), "0.1 is listed twice"),
    ],
)
def test_thresholds_that_say_nothing_are_refused(thresholds, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        LocalisationAccuracy(thresholds=thresholds)
