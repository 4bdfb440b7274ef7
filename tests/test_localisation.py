"""Localisation metrics by hand on tiny maps, and against Quantus where it is right."""

from collections.abc import Callable

import numpy as np
import pydantic
import pytest
import quantus
import torch
from sklearn.metrics import roc_auc_score

import cxr_eval.api as cxr
from cxr_eval.explain.localisation import (
    AttributionLocalisation,
    Localisation,
    LocalisationAUC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
    strongest_inside,
)

METRICS = [RelevanceMass, RelevanceRank, PointingGame, TopKIntersection, LocalisationAUC, AttributionLocalisation]
OPTIONS = {TopKIntersection: {"k": 2}}
"""What makes Quantus measure what we measure by default on maps of 6 x 7 pixels."""
SETTINGS = {AttributionLocalisation: {"weighted": False}}
"""What makes us measure what Quantus measures by default."""


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
        classes=2,
        seed=0,
    )


def by_quantus(metric: type[Localisation], maps: np.ndarray, masks: np.ndarray, **options: object) -> np.ndarray:
    options = {"abs": False, "normalise": False} | OPTIONS.get(metric, {}) | options
    measure = getattr(quantus, metric.quantus_name)(disable_warnings=True, return_aggregate=False, **options)
    a = np.asarray(maps, dtype=np.float64)[:, None]
    x = np.zeros_like(a)
    scores = measure(
        model=None, x_batch=x, y_batch=np.zeros(len(a), int), a_batch=a, s_batch=masks[:, None].astype(bool), channel_first=True
    )
    return np.asarray(scores, dtype=float)


def random_case(count: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 6, 7)) < 0.3
    masks[:, 0, 0] = True
    return rng.random((count, 6, 7)).astype(np.float32), masks


MAP = np.array([[[4.0, 3.0, 0.0], [2.0, 1.0, 0.0]]])
LEFT = np.array([[[True, False, False], [True, False, False]]])


def test_relevance_mass_is_the_share_inside():
    assert RelevanceMass().measure(explained(MAP, lesion=LEFT)) == {"relevance_mass[lesion]": pytest.approx([0.6])}


def test_relevance_rank_is_the_share_of_the_k_strongest_inside():
    # the two strongest pixels are 4 (inside) and 3 (outside)
    assert RelevanceRank().measure(explained(MAP, lesion=LEFT)) == {"relevance_rank[lesion]": pytest.approx([0.5])}


def test_of_equally_strong_pixels_the_share_inside_counts_and_without_ties_quantus_agrees():
    """A map clipped at its 100 largest pixels of 256, 25 of them in the region: Quantus calls that a hit."""
    clipped, region = np.zeros((1, 16, 16), dtype=np.float32), np.zeros((1, 16, 16), dtype=bool)
    clipped[0, :10, :10] = 1
    region[0, :5, :5] = True
    scores = PointingGame().measure(explained(clipped, lesion=region))
    assert scores["pointing_game[lesion]"].tolist() == [0.25]
    assert by_quantus(PointingGame, clipped, region).tolist() == [1]
    rng = np.random.default_rng(0)
    maps, masks = rng.random((40, 16, 16)).astype(np.float32), rng.random((40, 16, 16)) < 0.3
    ours = PointingGame().measure(explained(maps, lesion=masks))["pointing_game[lesion]"]
    assert ours.tolist() == by_quantus(PointingGame, maps, masks).tolist()


def test_pointing_game_is_a_hit_where_the_strongest_pixel_lies_inside():
    scores = PointingGame().measure(explained(np.concatenate([MAP, MAP]), lesion=np.concatenate([LEFT, ~LEFT])))
    assert scores["pointing_game[lesion]"].tolist() == [1, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_every_kind_of_region_is_measured_under_its_name(metric: type[Localisation]):
    scores = metric().measure(explained(MAP, lesion=LEFT, box=~LEFT))
    assert list(scores) == [f"{metric.name}[lesion]", f"{metric.name}[box]"]
    only = metric(regions=("box",)).measure(explained(MAP, lesion=LEFT, box=~LEFT))
    assert list(only) == [f"{metric.name}[box]"]


@pytest.mark.parametrize("metric", METRICS)
def test_images_without_regions_give_no_values(metric: type[Localisation]):
    assert metric().measure(explained(MAP)) == {}


def test_a_region_kind_that_is_not_there_is_refused():
    with pytest.raises(cxr.PluginError, match=r"pointing_game: no regions of kind 'leson'; these images have: lesion"):
        PointingGame(regions=("leson",)).measure(explained(MAP, lesion=LEFT))
    with pytest.raises(cxr.PluginError, match=r"no regions of kind 'lesion'; these images have: none"):
        PointingGame(regions=("lesion",)).measure(explained(MAP))


@pytest.mark.parametrize("metric", METRICS)
def test_random_maps_equal_quantus_image_by_image(metric: type[Localisation]):
    maps, masks = random_case()
    ours = metric(**SETTINGS.get(metric, {})).measure(explained(maps, lesion=masks))[f"{metric.name}[lesion]"]
    np.testing.assert_allclose(ours, by_quantus(metric, maps, masks), rtol=1e-8)  # Quantus adds 1e-9 to some divisors


@pytest.mark.parametrize("metric", METRICS)
def test_an_image_scores_the_same_alone(metric: type[Localisation]):
    maps, masks = random_case()
    maps[3] *= 1e6  # a strong map must not dwarf the others
    together = metric().measure(explained(maps, lesion=masks))[f"{metric.name}[lesion]"]
    for index in range(len(maps)):
        part = slice(index, index + 1)
        alone = metric().measure(explained(maps[part], lesion=masks[part]))[f"{metric.name}[lesion]"]
        assert alone[0] == together[index]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spoil", [np.zeros_like, np.ones_like, lambda a: -a, lambda a: a * np.nan, lambda a: a * np.inf])
def test_a_map_that_says_nothing_scores_nan_and_harms_no_other(metric: type[Localisation], spoil: Callable):
    maps, masks = random_case(4)
    clean = metric().measure(explained(maps, lesion=masks))[f"{metric.name}[lesion]"]
    maps[2] = spoil(maps[2])
    scores = metric().measure(explained(maps, lesion=masks))[f"{metric.name}[lesion]"]
    assert np.isnan(scores[2])
    assert np.delete(scores, 2).tolist() == np.delete(clean, 2).tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_all_maps_saying_nothing_give_nan(metric: type[Localisation]):
    scores = metric().measure(explained(np.zeros((2, 2, 3)), lesion=np.eye(2, 3)[None].repeat(2, axis=0)))
    assert np.isnan(scores[f"{metric.name}[lesion]"]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_an_image_without_a_region_scores_nan(metric: type[Localisation]):
    maps, masks = random_case(3)
    masks[1] = False
    scores = metric().measure(explained(maps, lesion=masks))[f"{metric.name}[lesion]"]
    assert np.isnan(scores).tolist() == [False, True, False]


def test_quantus_counts_an_image_without_a_region_as_a_hit_and_we_do_not():
    maps, masks = random_case(2)
    masks[:] = False
    assert by_quantus(PointingGame, maps, masks).tolist() == [1, 1]
    assert np.isnan(PointingGame().measure(explained(maps, lesion=masks))["pointing_game[lesion]"]).all()


def test_quantus_counts_a_constant_map_as_a_hit_and_we_do_not():
    maps, masks = random_case(2)
    maps[0] = 0.5
    assert by_quantus(PointingGame, maps, masks)[0] == 1
    assert np.isnan(PointingGame().measure(explained(maps, lesion=masks))["pointing_game[lesion]"][0])


def test_quantus_gives_signed_maps_a_share_outside_zero_to_one_and_we_do_not():
    maps = np.array([[[3.0, -2.0, 0.0], [-2.0, 2.0, 0.0]]])
    assert by_quantus(RelevanceMass, maps, LEFT)[0] == 1  # (3 - 2) / 1, though 2 of 5 speak for it elsewhere
    assert by_quantus(RelevanceMass, maps, ~LEFT)[0] == 0
    positive = RelevanceMass().measure(explained(maps, lesion=LEFT))["relevance_mass[lesion]"]
    absolute = RelevanceMass(sign="absolute").measure(explained(maps, lesion=LEFT))["relevance_mass[lesion]"]
    assert positive == pytest.approx([3 / 5])
    assert absolute == pytest.approx([5 / 9])


def test_quantus_lets_the_sort_order_rank_tied_pixels_and_we_take_the_expectation():
    maps = np.zeros((2, 4, 5))
    maps[:, 0, 0] = 1  # one pixel is relevant, the rest ties at zero, as in many Grad-CAMs
    masks = np.zeros((2, 4, 5), dtype=bool)
    masks[0, :2] = True  # the first pixel and nine of the tied
    masks[1, 2:] = True
    masks[1, 0, 0], masks[1, 3, 4] = True, False  # as large and as well met, in another place
    ours = RelevanceRank().measure(explained(maps, lesion=masks))["relevance_rank[lesion]"]
    np.testing.assert_allclose(ours, (1 + 9 * 9 / 19) / 10, rtol=1e-12)
    theirs = by_quantus(RelevanceRank, maps, masks)
    assert theirs[0] != theirs[1]


def test_the_expectation_over_ties_is_the_mean_over_random_orders():
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 3, (1, 5, 5)).astype(float)
    masks = rng.random((1, 5, 5)) < 0.4
    drawn = [by_quantus(RelevanceRank, maps + rng.random(maps.shape) * 1e-6, masks)[0] for _ in range(3000)]
    ours = RelevanceRank().measure(explained(maps, lesion=masks))["relevance_rank[lesion]"][0]
    assert abs(np.mean(drawn) - ours) < 4 * np.std(drawn) / np.sqrt(3000)  # four standard errors


@pytest.mark.parametrize("metric", METRICS)
def test_localisation_leaves_maps_and_random_states_alone(metric: type[Localisation], capsys: pytest.CaptureFixture[str]):
    maps, masks = random_case()
    case = explained(maps, lesion=masks)
    before, states = case.maps.copy(), (np.random.get_state()[1].copy(), torch.get_rng_state())
    metric().measure(case)
    assert np.array_equal(case.maps, before)
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("metric", METRICS)
def test_localisation_describes_itself(metric: type[Localisation]):
    assert (metric.family, metric.better) == ("localisation", "higher")
    assert metric.unit == ("1" if metric is AttributionLocalisation else "fraction")
    assert metric.source
    assert all(field.description for field in metric.Params.model_fields.values())
    with pytest.raises(pydantic.ValidationError):
        metric(sign="signed")  # parts of a whole need one sign


# ---- a fixed number of pixels ----


def test_top_k_by_hand():
    # of six pixels a third: 4 (inside) and 3 (outside)
    assert TopKIntersection(top=1 / 3).measure(explained(MAP, lesion=LEFT))["topk_intersection[lesion]"].tolist() == [0.5]
    # all six, two of them inside
    assert TopKIntersection(top=1).measure(explained(MAP, lesion=LEFT))["topk_intersection[lesion]"] == pytest.approx([1 / 3])
    # less than one pixel is one: the strongest
    assert TopKIntersection(top=0.01).measure(explained(MAP, lesion=LEFT))["topk_intersection[lesion]"].tolist() == [1]


def test_of_tied_pixels_at_the_cut_the_share_inside_counts():
    maps = np.array([[[2.0, 1.0, 1.0, 1.0, 0.0]]])
    masks = np.array([[[True, True, False, False, False]]])
    # one above the cut (inside), one place left for three tied, one of them inside: (1 + 1/3) / 2
    assert strongest_inside(maps, masks, np.array([2])).tolist() == pytest.approx([2 / 3])


def test_quantus_refuses_to_look_at_a_thousand_pixels_of_a_small_map():
    maps, masks = random_case()
    with pytest.raises(ValueError, match="must be smaller than input size"):
        by_quantus(TopKIntersection, maps, masks, k=1000)


# ---- attribution localisation ----


def test_attribution_localisation_is_the_mass_over_the_share_by_hand():
    # 6 of 10 inside a region of 2 of 6 pixels
    values = AttributionLocalisation().measure(explained(MAP, lesion=LEFT))["attribution_localisation[lesion]"]
    assert values.tolist() == pytest.approx([0.6 / (2 / 6)])


def test_noise_is_localised_as_by_chance():
    rng = np.random.default_rng(0)
    maps, masks = rng.random((300, 12, 12)), np.zeros((300, 12, 12), dtype=bool)
    masks[:, 2:6, 3:8] = True
    values = AttributionLocalisation().measure(explained(maps, lesion=masks))["attribution_localisation[lesion]"]
    assert abs(values.mean() - 1) < 4 * values.std() / np.sqrt(300)  # four standard errors


def test_regions_larger_than_the_limit_have_no_value():
    masks = np.concatenate([LEFT, ~LEFT])
    case = explained(np.concatenate([MAP, MAP]), lesion=masks)
    values = AttributionLocalisation(max_size=0.5).measure(case)["attribution_localisation[lesion]"]
    assert np.isfinite(values).tolist() == [True, False]


def test_the_weights_of_quantus_depend_on_how_many_images_there_are_and_ours_do_not():
    maps, masks = random_case(4)
    four = by_quantus(AttributionLocalisation, maps, masks, weighted=True)
    three = by_quantus(AttributionLocalisation, maps[:3], masks[:3], weighted=True)
    np.testing.assert_allclose(three, 2 * four[:3], rtol=1e-6)  # divided by the pixels of all images but two
    with np.errstate(divide="ignore"), pytest.warns(UserWarning, match="max size"):
        assert np.isinf(by_quantus(AttributionLocalisation, maps[:2], masks[:2], weighted=True)).all()
    ours = [AttributionLocalisation().measure(explained(maps[:n], lesion=masks[:n])) for n in (4, 2)]
    name = "attribution_localisation[lesion]"
    np.testing.assert_array_equal(ours[0][name][:2], ours[1][name])


# ---- area under the curve ----


def test_the_auc_is_the_chance_of_a_pixel_inside_to_be_the_stronger_by_hand():
    # inside 4 and 2, outside 3, 0, 1, 0: 4 beats all four, 2 beats three
    assert LocalisationAUC().measure(explained(MAP, lesion=LEFT))["localisation_auc[lesion]"].tolist() == [7 / 8]


def test_the_auc_is_that_of_scikit_learn_ties_included():
    rng = np.random.default_rng(1)
    maps, masks = rng.integers(0, 4, (20, 5, 6)).astype(np.float32), rng.random((20, 5, 6)) < 0.4
    ours = LocalisationAUC().measure(explained(maps, lesion=masks))["localisation_auc[lesion]"]
    theirs = [roc_auc_score(mask.ravel(), one.ravel()) for one, mask in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_region_that_is_the_whole_image_has_no_auc():
    values = LocalisationAUC().measure(explained(MAP, lesion=np.ones_like(LEFT)))["localisation_auc[lesion]"]
    assert np.isnan(values).all()


# ---- the pointing game ----


def test_a_weighted_hit_counts_less_in_a_large_region_and_quantus_raises_an_error():
    case = explained(MAP, lesion=LEFT, rest=~LEFT)
    assert PointingGame(weighted=True).measure(case) == {
        "pointing_game[lesion]": pytest.approx([1 - 2 / 6]),
        "pointing_game[rest]": [0],
    }
    with pytest.raises(TypeError):
        by_quantus(PointingGame, MAP, LEFT, weighted=True)


# ---- the library's own numbers ----


@pytest.mark.parametrize("metric", METRICS)
def test_compat_gives_the_numbers_of_the_library(metric: type[Localisation]):
    maps, masks = random_case(4)
    maps[1] *= -1  # signs are left to the library
    settings = SETTINGS.get(metric, {})
    values = metric(compat="quantus", **settings).measure(explained(maps, lesion=masks))[f"{metric.name}[lesion]"]
    measure = getattr(quantus, metric.quantus_name)(disable_warnings=True, return_aggregate=False, **OPTIONS.get(metric, {}))
    theirs = measure(
        model=None,
        x_batch=np.zeros((4, 1, 6, 7), dtype=np.float32),
        y_batch=np.zeros(4, dtype=int),
        a_batch=maps[:, None].copy(),
        s_batch=masks[:, None],
        channel_first=True,
    )
    np.testing.assert_allclose(values, np.asarray(theirs, dtype=float), rtol=1e-6)


def test_compat_counts_images_without_a_region_as_hits_and_fails_where_the_library_does(caplog: pytest.LogCaptureFixture):
    maps, masks = random_case(3)
    masks[1] = False
    case = explained(maps, lesion=masks)
    assert PointingGame(compat="quantus").measure(case)["pointing_game[lesion]"][1] == 1
    assert np.isnan(PointingGame(compat="quantus", weighted=True).measure(case)["pointing_game[lesion]"]).all()
    assert "Quantus' PointingGame gives no value for 3 images: TypeError" in caplog.text
    two = explained(maps[:2], lesion=masks[:2])
    assert np.isinf(AttributionLocalisation(compat="quantus").measure(two)["attribution_localisation[lesion]"][0])
