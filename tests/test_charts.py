"""Charts of a report: their numbers are those of the rows, and nothing breaks them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.report.ablation import ablations
from cxr_eval.report.charts.assembled import at_a_glance, of_predictions
from cxr_eval.report.charts.calibration import reliability
from cxr_eval.report.charts.classes import confusion_matrices
from cxr_eval.report.charts.corrupted import corruption_maps
from cxr_eval.report.charts.gaps import OPEN_MARK, SHOWN_MARK, Spot, forest, forests
from cxr_eval.report.charts.outside import apart, slopes
from cxr_eval.report.charts.radii import radius_bands
from cxr_eval.report.charts.ranking import hardest, ranking_curves, steps
from cxr_eval.report.charts.trade_off import clean_against_robust
from cxr_eval.report.charts.varied import ablation_maps
from cxr_eval.report.drawing import PALETTE, trainer_stroke
from cxr_eval.report.figures import Picture
from cxr_eval.report.results import Results
from cxr_eval.stats.curve_points import CURVE_COLUMNS
from tests.chart_data import MANY, NAN, ONE, SVG, TITLES, curves, gap_lines, history, marked, results_of, score_of, written
from tests.fake_run import HOSTILE, Fake


def all_pictures(fake: Fake) -> list[Picture]:
    """Every chart of a run's first model."""
    results, model = results_of(fake), fake.models[0]
    made = curves(fake.trainers, fake.classes, *([f"{fake.attacks[0]}:{fake.radii[-1]}"] if fake.attacks else []), model=model)
    pictures = [
        *confusion_matrices(results, model, "test", "a"),
        *corruption_maps(results, model, "test", "b"),
        *clean_against_robust(results, model, "test", "c"),
        *slopes(results, model, "d"),
        *reliability(results, made, model, "test", "e"),
        *ranking_curves(results, made, model, "test", "roc", "f"),
        *ranking_curves(results, made, model, "test", "pr", "g"),
        *radius_bands(results, history(fake.trainers, model=model), model, "h"),
        *forests(results, gap_lines(fake.trainers, model=model), "sex", model, "test", TITLES, "i"),
    ]
    return pictures + [picture for varied in ablations(results) for picture in ablation_maps(varied, "j")]


def test_a_confusion_matrix_has_the_shares_of_the_rows() -> None:
    results = results_of(ONE)
    first = confusion_matrices(results, "resnet18", "test", "key")[0]
    shares = [text for text in written(first) if re.fullmatch(r"\d\.\d{3}", text)]
    expected = []
    for true in ONE.classes:
        for said in ONE.classes:
            metric = f"recall[{true}]" if said == true else f"called[{said}|{true}]"
            expected.append(score_of(results, model="resnet18", trainer="standard", split="test", metric=metric).text)
    assert shares == [*expected, "0.000", "1.000"]  # the ends of the scale
    assert first.title == "standard"
    assert f"of covid {expected[0]} right, 0.040 called normal, 0.040 called pneumonia" in first.alt
    assert written(first).count("n = 100") == 3


def test_of_many_classes_a_screen_reader_hears_the_most_common_error() -> None:
    fake = replace(ONE, classes=tuple("abcdefghijklmn"), trainers=("standard",))
    [picture] = confusion_matrices(results_of(fake), "resnet18", "test", "key")
    assert picture.alt.count("called") == 14
    assert "with the most common error" in picture.alt
    assert "0.04" in written(picture)  # two decimals where columns are many


def test_a_run_without_confusions_has_no_matrix() -> None:
    rows = pd.DataFrame(ONE.rows())
    without = rows[~rows["metric"].str.startswith("called[")]
    assert confusion_matrices(Results(without, ONE.manifest(), ()), "resnet18", "test", "key") == []


def test_a_corruption_map_has_the_scores_of_the_rows_by_severity() -> None:
    results = results_of(ONE)
    pictures = corruption_maps(results, "resnet18", "test", "key")
    assert [picture.title for picture in pictures] == list(ONE.trainers)
    at = {"model": "resnet18", "trainer": "standard", "split": "test", "metric": "accuracy"}
    texts = [score_of(results, **at, condition=c).text for c in ("clean", *(f"gaussian_noise:{k}" for k in range(1, 6)))]
    assert [text for text in written(pictures[0]) if re.fullmatch(r"0\.\d{3}", text)][:6] == texts
    assert f"gaussian_noise from {texts[0]} to {texts[-1]}" in pictures[0].alt
    assert corruption_maps(results_of(replace(ONE, corruptions=())), "resnet18", "test", "key") == []


def test_markers_stand_where_clean_and_robust_accuracy_are() -> None:
    results = results_of(ONE)
    pictures = clean_against_robust(results, "resnet18", "test", "key")
    assert [picture.title for picture in pictures] == ["“test”, radius 0.02", "“test”, radius 8/255"]
    places, scores = [], []
    for k, trainer in enumerate(ONE.trainers):
        place = re.search(
            re.escape(trainer_stroke(k).marker) + r'"[^>]*translate\(([\d.]+) ([\d.]+)\) scale', pictures[0].inline
        )
        assert place is not None
        places.append((float(place[1]), float(place[2])))
        at = {"model": "resnet18", "trainer": trainer, "split": "test", "metric": "robust_accuracy"}
        clean, robust = (score_of(results, **at, condition=condition) for condition in ("worst:0", "worst:0.02"))
        scores.append([clean.value, robust.value])
        assert f"{trainer} {clean.text} {clean.interval} and {robust.text} {robust.interval}" in pictures[0].alt
    # points keep their order and their distances: the same share of the way between the first and the last
    for axis in (0, 1):
        drawn, real = np.array(places)[:, axis], np.array(scores)[:, axis]
        shares = [(values - values[0]) / (values[-1] - values[0]) for values in (drawn, real)]
        np.testing.assert_allclose(shares[0], shares[1], atol=2e-3)  # hundredths of a point
    assert all(picture.keyed for picture in pictures)


def test_a_run_without_attacks_has_no_trade_off_and_one_trainer_is_a_picture_too() -> None:
    assert clean_against_robust(results_of(replace(ONE, attacks=())), "resnet18", "test", "key") == []
    assert len(clean_against_robust(results_of(replace(ONE, trainers=("pgd",))), "resnet18", "test", "key")) == 2


def test_a_slope_has_the_scores_of_both_sets_at_its_ends() -> None:
    results = results_of(ONE)
    accuracy, auroc = slopes(results, "resnet18", "key")
    assert (accuracy.title, auroc.title) == ("Accuracy, “test” to “kermany”", "AUROC, “test” to “kermany”")
    for trainer in ONE.trainers:
        at = {"model": "resnet18", "trainer": trainer, "metric": "accuracy"}
        inside, outside = (score_of(results, **at, split=split) for split in ("test", "kermany"))
        assert inside.text in written(accuracy)
        assert f"{outside.text} {trainer}" in written(accuracy)
        assert f"{trainer} {inside.text} {inside.interval} to {outside.text} {outside.interval}" in accuracy.alt
    assert slopes(results_of(replace(ONE, outside=())), "resnet18", "key") == []


@given(st.lists(st.floats(0, 200), max_size=12))
def test_words_beside_a_slope_do_not_overlap_and_keep_their_order(wanted: list[float]) -> None:
    placed = apart(wanted, 0, 200)
    order = sorted(range(len(wanted)), key=lambda k: (wanted[k], k))
    heights = [placed[k] for k in order]
    assert all(after - before >= 10 - 1e-9 for before, after in pairwise(heights))
    assert all(-1e-9 <= height <= 200 + 1e-9 for height in heights)


def test_words_that_have_room_stay_where_they_are_wanted() -> None:
    assert apart([100, 50], 0, 200) == [100, 50]
    assert apart([100, 104], 0, 200) == [97, 107]  # around their middle, 102
    assert apart([1, 1], 0, 200) == [0, 10]


def test_a_reliability_diagram_has_counts_points_and_the_calibration_error_of_the_rows() -> None:
    rows = pd.DataFrame(ONE.rows())
    first = rows[(rows["metric"] == "accuracy") & (rows["condition"] == "clean") & (rows["split"] == "test")]
    ece = first.assign(metric="ece", value=0.123, better="lower")
    results = Results(pd.concat([rows, ece]), ONE.manifest(), ())
    pictures = reliability(results, curves(ONE.trainers, ONE.classes, "pgd:8/255"), "resnet18", "test", "key")
    assert [picture.title for picture in pictures] == [f"Reliability: {trainer}" for trainer in ONE.trainers]
    texts = written(pictures[0])
    assert [text for text in texts if text in ("50", "27", "3")] == ["50", "27", "3"]
    assert {"ECE 0.123", "attacked"} <= set(texts)
    assert "claimed 0.310, so 0.200 (n = 50), claimed 0.620, so 0.500 (n = 27), 1 bin of too few patients" in pictures[0].alt
    assert "under pgd, radius 8/255: claimed" in pictures[0].alt
    marker = re.escape(trainer_stroke(0).marker)
    assert len(re.findall(marker + r'"[^>]*translate', pictures[0].inline)) == 2  # the third bin has no point


def test_ranking_curves_have_the_areas_of_the_rows_and_attacked_ones_are_dashed() -> None:
    results = results_of(ONE)
    made = curves(ONE.trainers, ONE.classes, "pgd:0.02", "pgd:8/255")
    for figure, metric, said in (("roc", "auroc", "ROC"), ("pr", "average_precision", "Precision and recall")):
        pictures = ranking_curves(results, made, "resnet18", "test", figure, "key")
        assert [picture.title for picture in pictures] == [f"{said}: {name}" for name in ONE.classes]
        at = {"model": "resnet18", "trainer": "fgsm", "split": "test", "metric": f"{metric}[covid]"}
        clean, attacked = (score_of(results, **at, condition=condition).text for condition in ("clean", "pgd:8/255"))
        assert {clean, attacked} <= set(written(pictures[0]))
        assert f"fgsm {clean}, attacked {attacked}" in pictures[0].alt
        dashed = re.findall(r'stroke="var\(--series-0\)"[^>]*stroke-dasharray', pictures[0].inline)
        assert len(dashed) == 1
        assert "pgd, radius 8/255" in pictures[0].alt


def test_more_trainers_than_a_picture_holds_have_one_each_with_a_line_a_class() -> None:
    fake = replace(ONE, trainers=MANY)
    pictures = ranking_curves(results_of(fake), curves(MANY, fake.classes), "resnet18", "test", "roc", "key")
    assert [picture.title for picture in pictures] == [f"ROC: {trainer}" for trainer in MANY]
    assert set(fake.classes) <= set(written(pictures[0]))
    assert "AUROC, clean" in written(pictures[0])


def test_of_more_classes_than_colours_a_picture_of_a_trainer_says_how_many_it_has() -> None:
    fake = replace(ONE, trainers=MANY, classes=tuple("abcdefghi"))
    picture = ranking_curves(results_of(fake), curves(MANY, fake.classes), "resnet18", "test", "pr", "key")[0]
    assert "AP, clean; first 7 of 9 classes" in written(picture)
    assert "first 7 of 9 classes; AP of a 0.9" in picture.alt
    assert "h" not in written(picture)


def test_the_curve_of_precision_stays_on_its_steps() -> None:
    assert steps([(0.5, 1.0), (1.0, 0.4)]) == [(0.0, 1.0), (0.5, 1.0), (0.5, 0.4), (1.0, 0.4)]
    assert steps([]) == []


def test_of_several_attacks_the_one_that_leaves_least_is_drawn() -> None:
    results = results_of(ONE)  # pgd leaves less than fgsm at the same radius
    assert hardest(results, "resnet18", "test", {"fgsm:0.02", "fgsm:8/255", "pgd:0.02", "pgd:8/255"}) == "pgd:8/255"
    assert hardest(results, "resnet18", "test", {"fgsm:0.02", "pgd:0.005"}) == "fgsm:0.02"
    assert hardest(results, "resnet18", "test", set()) == ""


def test_of_several_seeds_the_first_is_drawn() -> None:
    made = curves(("standard",), ("covid",))
    both = pd.concat([made.assign(seed=3, y=made["y"] / 2), made.assign(seed=1)])
    results = results_of(ONE)
    first, alone = (ranking_curves(results, table, "resnet18", "test", "roc", "key") for table in (both, made))
    assert first == alone


def test_radii_are_drawn_for_trainers_that_log_them() -> None:
    results = results_of(replace(ONE, settings={"fgsm": ("dpaat", {"eps": 8 / 255, "norm": "linf"})}))
    [picture] = radius_bands(results, history(("fgsm",)), "resnet18", "key")
    assert picture.title == "Radii of images: fgsm"
    assert "median 0.020 (0.020 to 0.020) in the first, 0.020 (0.008 to 0.032) in the last" in picture.alt
    assert "dashed: eps = 8/255" in written(picture)
    assert picture.inline.count("fill-opacity") == 2
    assert radius_bands(results, ONE.history(), "resnet18", "key") == []
    assert radius_bands(results, pd.DataFrame(), "resnet18", "key") == []
    gone = history(("fgsm",)).assign(eps_median=NAN)
    assert radius_bands(results, gone, "resnet18", "key") == []


def test_one_epoch_of_radii_is_a_marker() -> None:
    [picture] = radius_bands(results_of(ONE), history(("pgd",), 1), "resnet18", "key")
    assert trainer_stroke(2).marker in picture.inline
    assert "nan" not in picture.inline


def test_gaps_have_the_numbers_of_their_table_and_two_values_one_line() -> None:
    results = results_of(ONE)
    [picture] = forests(results, gap_lines(ONE.trainers), "sex", "resnet18", "test", TITLES, "key")
    texts = written(picture)
    assert [text for text in texts if text.startswith(("+", "-"))] == ["+0.100", "+0.120", "+0.140"]
    assert "F minus M" in texts
    assert "M minus F" not in texts
    assert "F minus M, standard +0.100 [0.050, 0.150] p = 0.010" in picture.alt


def test_a_gap_that_is_shown_has_another_shape() -> None:
    [picture] = forests(results_of(ONE), gap_lines(ONE.trainers), "sex", "resnet18", "test", TITLES, "key")
    assert len(marked(picture, SHOWN_MARK.marker)) == 1 + 1  # one gap, and the key
    assert len(marked(picture, OPEN_MARK.marker)) == 2 + 1


def test_the_largest_gap_is_left_out_and_seeds_are_averaged() -> None:
    lines = gap_lines(("standard",), seeds=(0, 1))
    largest = lines[lines["value"] == "F"].assign(gap=0.9)
    [picture] = forests(results_of(ONE), pd.concat([lines, largest]), "sex", "resnet18", "test", TITLES, "key")
    assert [text for text in written(picture) if text.startswith(("+", "-"))] == ["+0.105"]  # (0.10 + 0.11) / 2
    assert forests(results_of(ONE), pd.DataFrame(), "sex", "resnet18", "test", TITLES, "key") == []
    assert forests(results_of(ONE), lines.assign(gap=NAN), "sex", "resnet18", "test", TITLES, "key") == []


def test_a_gap_without_interval_or_p_value_is_a_ring_alone() -> None:
    picture = forest("k", "t", "of", [Spot("F minus M", "pgd", 0.1, NAN, NAN, NAN)])
    assert "nan" not in picture.inline
    assert len(marked(picture, OPEN_MARK.marker)) == 2
    assert "+0.100 [n/a]" in picture.alt


def test_two_settings_varied_are_a_map_with_the_numbers_of_their_table() -> None:
    names = tuple(f"t{k}" for k in range(4))
    settings = {f"t{2 * i + j}": ("dpaat", {"eps": 0.01 * (1 + i), "steps": 5 * (1 + j)}) for i in range(2) for j in range(2)}
    results = results_of(replace(ONE, trainers=names, settings=settings))
    [varied] = [each for each in ablations(results) if len(each.tables[0].corner) == 2]
    pictures = ablation_maps(varied, "key")
    assert len(pictures) == len(varied.tables)
    for table, picture in zip(varied.tables, pictures, strict=True):
        numbers = [cell.text for line in table.groups[0][1] for cell in line.cells]
        assert [text for text in written(picture) if re.fullmatch(r"\d\.\d{3}", text)][:4] == numbers
        assert {"eps", "steps"} <= set(written(picture))
        assert f"eps 0.01: steps 5 {numbers[0]}, steps 10 {numbers[1]}" in picture.alt


def test_one_setting_varied_has_no_map() -> None:
    settings = {f"t{k}": ("dpaat", {"eps": 0.01 * (1 + k)}) for k in range(3)}
    results = results_of(replace(ONE, trainers=("t0", "t1", "t2"), settings=settings))
    assert [ablation_maps(varied, "key") for varied in ablations(results)] == [[]]


def test_sections_hold_their_charts_with_keys_of_their_own() -> None:
    results = results_of(replace(ONE, models=("resnet18", "densenet121")))
    both = pd.concat([curves(ONE.trainers, ONE.classes, model=model) for model in results.models])
    sections = [at_a_glance(results), of_predictions(results, both)]
    pictures = [picture for section in sections if section for part in section.parts for picture in part.pictures]
    assert len({picture.key for picture in pictures}) == len(pictures) == 2 * (2 + 2) + 2 * (3 + 2 * 3)
    assert of_predictions(results, pd.DataFrame()) is None
    assert of_predictions(results, curves((), ())) is None
    assert at_a_glance(results_of(replace(ONE, attacks=(), outside=()))) is None


NAMES = tuple(name.replace("\ud800", "") for name in HOSTILE)  # a file of UTF-8 cannot hold half a letter
HOSTILE_RUN = replace(ONE, models=(NAMES[0],), trainers=NAMES, classes=NAMES, outside=(), settings={})


@pytest.mark.parametrize(
    "fake",
    [
        ONE,
        HOSTILE_RUN,
        replace(ONE, trainers=MANY),
        replace(ONE, undefined=("accuracy", "robust_accuracy", "recall[covid]", "auroc[covid]", "auroc")),
        replace(ONE, trainers=("pgd",), classes=("normal",), radii=("0.02",)),
        replace(ONE, failed=(("resnet18", "pgd", 0),)),
        replace(ONE, attacks=(), corruptions=(), outside=()),
    ],
    ids=["plain", "hostile", "many", "undefined", "one of each", "failed", "bare"],
)
def test_every_chart_is_whole_says_its_numbers_and_comes_out_the_same(fake: Fake) -> None:
    pictures = all_pictures(fake)
    assert pictures == all_pictures(fake)
    for picture in pictures:
        assert len(picture.alt) > len(picture.title)
        for svg in (picture.inline, picture.file):
            tree = ElementTree.fromstring(svg)
            assert {element.tag.removeprefix(SVG) for element in tree.iter()} <= {"svg", "g", "path", "text", "rect"}
            numbers = " ".join(
                value for element in tree.iter() for name, value in element.attrib.items() if name != "font-family"
            )
            assert not re.search(r"\b(nan|inf)\b", numbers)
        assert "var(" not in picture.file
        for colour in PALETTE:
            assert f'"{colour}"' not in picture.inline


@pytest.mark.parametrize(
    "make", [at_a_glance, lambda results: of_predictions(results, pd.DataFrame(columns=list(CURVE_COLUMNS)))]
)
def test_a_run_without_rows_has_no_charts(make: Callable[[Results], object]) -> None:
    empty = pd.DataFrame(ONE.rows()).iloc[:0]
    assert make(Results(empty, ONE.manifest(), ())) is None
