"""Localisation metrics by hand on tiny maps, and against Quantus where it is right."""

from collections.abc import Callable

import numpy as np
import pydantic
import pytest
import quantus
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.localisation import Localisation, PointingGame, RelevanceMass, RelevanceRank

METRICS = [RelevanceMass, RelevanceRank, PointingGame]
QUANTUS = {
    RelevanceMass: quantus.RelevanceMassAccuracy,
    RelevanceRank: quantus.RelevanceRankAccuracy,
    PointingGame: quantus.PointingGame,
}


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


def by_quantus(metric: type[Localisation], maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    measure = QUANTUS[metric](abs=False, normalise=False, disable_warnings=True, return_aggregate=False)
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
    ours = metric().measure(explained(maps, lesion=masks))[f"{metric.name}[lesion]"]
    np.testing.assert_allclose(ours, by_quantus(metric, maps, masks), rtol=1e-12)


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
    scores = metric().measure(explained(np.zeros((2, 2, 3)), lesion=np.ones((2, 2, 3))))
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
    assert (metric.family, metric.better, metric.unit) == ("localisation", "higher", "fraction")
    assert metric.source
    assert all(field.description for field in metric.Params.model_fields.values())
    with pytest.raises(pydantic.ValidationError):
        metric(sign="signed")  # parts of a whole need one sign
