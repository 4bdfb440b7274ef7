"""Tables as in the papers: which numbers stand in which cell, beside which published ones, and when a table is left out."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_eval.report import ablation, paper_figures, papers, sections
from cxr_eval.report.by_class import class_tables
from cxr_eval.report.figures import published_legend
from cxr_eval.report.render import render
from cxr_eval.report.results import Results
from cxr_eval.report.tables import Cell, Table, explanation_table, main_table, spoken
from cxr_eval.store import Run
from cxr_eval.types import Better, Row, RowWarning
from tests.fake_run import Fake

ONE = Fake(
    models=("net",),
    trainers=("standard", "fgsm"),
    seeds=(0,),
    attacks=("fgsm", "pgd"),
    radii=("0.01", "0.02"),
    corruptions=(),
    outside=("elsewhere",),
    explainers=("cam",),
    conditions=("clean",),
    classes=("Mass", "Nodule"),
    images=0,
)
WANG = {
    "source": "Wang et al., ChestX-ray8, CVPR 2017, table 7",
    "short": "Wang 2017",
    "data": "ChestX-ray8, ResNet-50, CAM boxes",
    "numbers": [{"values": {"localisation_accuracy[Mass@0.1]": 0.4, "localisation_accuracy[Mass@0.3]": 0.1529}}],
}
YANG = {
    "source": "Yang, Bennett, Duncan, arXiv:2311.14227",
    "short": "Yang 2023",
    "data": "COVID-QU-Ex",
    "numbers": [
        {"trainer": "standard", "split": "test", "condition": "clean", "values": {"accuracy": 0.9703}},
        {"trainer": "fgsm", "split": "test", "condition": "fgsm:0.02", "values": {"accuracy": 0.9503}},
    ],
}


def row(
    trainer: str,
    metric: str,
    value: float,
    *,
    split: str = "test",
    condition: str = "clean",
    explainer: str = "",
    model: str = "net",
    n: int = 100,
    better: Better = "higher",
) -> Row:
    """One number with an interval of 0.1 to either side."""
    ends = (value - 0.1, value + 0.1)
    return Row(model, trainer, 0, split, condition, explainer, metric, value, *ends, n, "fraction", better, "made:1")


def results_of(rows: list[Row], fake: Fake = ONE, **changes: Any) -> Results:
    """What a report reads of these rows."""
    return Results(pd.DataFrame(rows), fake.manifest() | changes, fake.warnings)


def cells(table: Table | None) -> list[list[str]]:
    """Group, line heads and what is printed in each cell; best ones with a star."""
    assert table is not None
    shown = [
        [name, *line.heads, *(cell.text + ("*" if cell.best else "") for cell in line.cells)]
        for name, lines in table.groups
        for line in lines
    ]
    assert all(len(line) == len(table.corner) + len(table.columns) for line in shown)
    return shown


def heads(table: Table | None) -> list[str]:
    assert table is not None
    return [head.text for head in table.columns]


# clean and attacked


def predictions(trainer: str, condition: str, accuracy: float) -> list[Row]:
    """Accuracy, and precision, recall and F1 that are 0.01, 0.02 and 0.03 below it."""
    names = ("accuracy", "precision", "balanced_accuracy", "f1")
    return [row(trainer, name, accuracy - 0.01 * k, condition=condition) for k, name in enumerate(names)]


def robust(trainer: str, condition: str, value: float) -> list[Row]:
    """Robust accuracy of one attack and of the worst case."""
    worst = "worst:" + condition.rpartition(":")[2]
    return [row(trainer, "robust_accuracy", value, condition=name) for name in (condition, worst)]


def test_standard_and_robust_trainers_stand_below_each_other_clean_beside_attacked() -> None:
    rows = [*predictions("standard", "clean", 0.9), *predictions("fgsm", "clean", 0.8)]
    rows += [*robust("standard", "fgsm:0.02", 0.1), *robust("fgsm", "fgsm:0.02", 0.7)]
    rows += [*predictions("standard", "fgsm:0.02", 0.2), *predictions("fgsm", "fgsm:0.02", 0.75)]
    (table,) = papers.attacked_tables(results_of(rows), "test")
    assert table.caption == "Clean images of “test” and the same attacked by fgsm"
    assert heads(table) == [
        f"{name}, {state}" for state in ("clean", "radius 0.02") for name in ("Accuracy", "Precision", "Recall", "F1")
    ]
    assert cells(table) == [
        ["net", "standard", "0.900*", "0.890*", "0.880*", "0.870*", "0.200", "0.190", "0.180", "0.170"],
        ["net", "fgsm", "0.800", "0.790", "0.780", "0.770", "0.750*", "0.740*", "0.730*", "0.720*"],
    ]


def test_an_attack_without_scores_of_predictions_has_no_table_of_them() -> None:
    rows = [*predictions("standard", "clean", 0.9), *predictions("fgsm", "clean", 0.8)]
    rows += [*robust("standard", "fgsm:0.02", 0.1), *robust("fgsm", "fgsm:0.02", 0.7)]
    assert papers.attacked_tables(results_of(rows), "test") == []


def test_a_model_with_one_trainer_is_compared_with_nothing() -> None:
    rows = [*predictions("standard", "clean", 0.9), *robust("standard", "fgsm:0.02", 0.1)]
    rows += [*predictions("standard", "fgsm:0.02", 0.2), *predictions("fgsm", "clean", 0.8)]
    assert papers.attacked_tables(results_of(rows), "test") == []


def test_an_attack_with_radii_of_its_own_shows_its_middle_and_its_largest() -> None:
    rows: list[Row] = []
    for trainer in ONE.trainers:
        rows += predictions(trainer, "clean", 0.9)
        for radius in ("0.1", "0.2", "0.3", "0.4", "0.5"):
            rows.append(row(trainer, "robust_accuracy", 0.5, condition=f"worst:{radius}"))
        for radius in ("0.001", "0.002", "0.004"):
            rows.append(row(trainer, "robust_accuracy", 0.5, condition=f"pgd:{radius}"))
            rows += predictions(trainer, f"pgd:{radius}", 0.6)
    (table,) = papers.attacked_tables(results_of(rows), "test")
    assert heads(table)[4::4] == ["Accuracy, radius 0.002", "Accuracy, radius 0.004"]


# inside and outside


def test_inside_and_outside_stand_beside_their_difference_and_mean() -> None:
    rows = []
    for trainer, inside, outside in (("standard", 0.82, 0.75), ("fgsm", 0.76, 0.81)):
        rows += [
            row(trainer, "auroc", inside, n=200),
            row(trainer, "auroc", outside, split="elsewhere"),
            row(trainer, "change[auroc]", outside - inside, split="elsewhere", n=300),
            row(trainer, "mean[auroc]", (inside + outside) / 2, split="elsewhere", n=300),
        ]
    entry = {
        "source": "Li et al., arXiv:2209.04326, table 1",
        "short": "Li 2022",
        "data": "SIIM, COVID",
        "numbers": [
            {"trainer": "standard", "split": "test", "values": {"auroc": 0.82}},
            {"trainer": "standard", "split": "elsewhere", "values": {"auroc": 0.75, "mean[auroc]": 0.78}},
        ],
    }
    (table,) = papers.outside_tables(results_of(rows, published=[entry]), "elsewhere")
    assert table.caption == "AUROC inside and on “elsewhere”"
    assert [(head.text, head.sub) for head in table.columns] == [
        ("Inside: “test”", "n = 200"),
        ("Li 2022, published", "Inside: “test”"),
        ("Outside: “elsewhere”", "n = 100"),
        ("Li 2022, published", "Outside: “elsewhere”"),
        ("Change, outside minus inside", "n = 300"),
        ("Mean of the two", "n = 300"),
        ("Li 2022, published", "Mean of the two"),
    ]
    assert cells(table) == [  # 0.75 - 0.82 = -0.07, (0.82 + 0.75) / 2 = 0.785; 0.81 - 0.76 = 0.05, (0.76 + 0.81) / 2 = 0.785
        ["net", "standard", "0.820*", "0.820", "0.750", "0.750", "-0.070", "0.785", "0.780"],
        ["net", "fgsm", "0.760", "", "0.810*", "", "0.050*", "0.785", ""],
    ]
    assert papers.outside_tables(results_of(rows), "test") == []


# localisation over T(IoU)


def localised(trainer: str, hits: dict[str, tuple[float, ...]]) -> list[Row]:
    """Localisation accuracy at T 0.1, 0.3 and so on, and the threshold behind it."""
    rows = [
        row(trainer, f"localisation_accuracy[threshold of {name}]", 0.4, explainer="cam", better="neither") for name in hits
    ]
    for name, values in hits.items():
        for k, value in enumerate(values):
            rows.append(row(trainer, f"localisation_accuracy[{name}@{0.1 + 0.2 * k:g}]", value, explainer="cam", n=20))
    return rows


LOCALISED = [
    *localised("standard", {"Nodule": (0.3, 0.2), "Mass": (0.5, 0.25)}),
    *localised("fgsm", {"Nodule": (0.2, 0.1), "Mass": (0.6, 0.25)}),
]


def test_localisation_accuracy_stands_by_finding_over_t_with_trainers_and_the_published_side_by_side() -> None:
    results = results_of(LOCALISED, published=[WANG])
    over, tuned = papers.threshold_tables(results, "net", "test", "cam", "localisation_accuracy")
    assert over is not None
    assert over.caption == "Localisation accuracy over T(IoU): cam, net, clean images of “test”"
    assert [(head.text, head.sub, head.published) for head in over.columns] == [
        ("standard", "n = 20", False),
        ("fgsm", "n = 20", False),
        ("Wang 2017, published", "", True),
    ]
    assert cells(over) == [
        ["Mass", "0.1", "0.500", "0.600*", "0.400"],
        ["Mass", "0.3", "0.250", "0.250", "0.153"],
        ["Nodule", "0.1", "0.300*", "0.200", ""],
        ["Nodule", "0.3", "0.200*", "0.100", ""],
    ]
    assert over.sources == (
        "Wang 2017, published: Wang et al., ChestX-ray8, CVPR 2017, table 7. Measured on ChestX-ray8, ResNet-50, CAM boxes.",
        "All other numbers were measured in this run, on made:1.",
    )
    assert tuned is not None
    assert cells(tuned) == [["Mean over folds", "Mass", "0.400", "0.400"], ["Mean over folds", "Nodule", "0.400", "0.400"]]


def test_a_class_with_too_few_patients_is_named_below_instead_of_lines_without_numbers() -> None:
    rows = [*LOCALISED, *localised("standard", {"Hernia": (math.nan, math.nan)})]
    over, _ = papers.threshold_tables(results_of(rows), "net", "test", "cam", "localisation_accuracy")
    assert over is not None
    assert [name for name, _ in over.groups] == ["Mass", "Nodule"]
    assert over.note.endswith(" Too few patients to tune a threshold on: Hernia.")


def test_published_numbers_have_no_interval_no_count_and_no_star() -> None:
    high = WANG | {"numbers": [{"values": {"localisation_accuracy[Mass@0.1]": 1.0}}]}
    over, _ = papers.threshold_tables(results_of(LOCALISED, published=[high]), "net", "test", "cam", "localisation_accuracy")
    assert over is not None
    shown = over.groups[0][1][0].cells
    assert tuple(replace(cell, exact=None) for cell in shown) == (
        Cell("0.500", "[0.400, 0.600]"),
        Cell("0.600", "[0.500, 0.700]", best=True),
        Cell("1.000", published=True),
    )
    assert [cell.exact.value for cell in shown if cell.exact] == [0.5, 0.6, 1.0]


def test_a_trainer_without_localisation_has_no_column_and_a_class_without_any_no_lines() -> None:
    results = results_of(localised("fgsm", {"Mass": (0.6,)}))
    over, _ = papers.threshold_tables(results, "net", "test", "cam", "localisation_accuracy")
    assert (heads(over), cells(over)) == (["fgsm"], [["Mass", "0.1", "0.600"]])


def test_metrics_by_threshold_stay_out_of_the_table_of_explanation_metrics() -> None:
    rows = [*LOCALISED, row("fgsm", "relevance_mass[finding]", 0.3, explainer="cam")]
    table = explanation_table(results_of(rows), "net")
    assert heads(table) == ["relevance mass in the finding's box or mask"]
    assert explanation_table(results_of(LOCALISED), "net") is None
    assert spoken("relevance_mass[lung]") == "relevance mass in lung"


def test_a_panel_a_class_has_a_line_a_trainer_and_a_dashed_one_a_source() -> None:
    results = results_of(LOCALISED, published=[YANG, WANG])
    mass, nodule = paper_figures.threshold_curves(results, "net", "test", "cam", "localisation_accuracy", "key")
    assert (mass.key, mass.title) == ("key-0", "Mass")
    assert mass.alt == (
        "Mass: localisation accuracy of net by cam over T(IoU) 0.1 to 0.3; "
        "standard from 0.500 to 0.250, fgsm from 0.600 to 0.250, Wang 2017, published from 0.400 to 0.153"
    )
    assert "Wang 2017, published" in mass.file
    assert "Yang" not in mass.file
    assert "published" not in nodule.file + nodule.alt
    assert [swatch.name for swatch in published_legend(results)] == ["Yang 2023, published", "Wang 2017, published"]
    (block,) = sections.as_papers(results)
    assert [part.cited for part in block.parts] == [(1,)]


# findings


def test_auroc_by_finding_has_trainers_as_columns_where_an_image_has_several_findings() -> None:
    rows = [row(trainer, "auroc[Mass]", 0.6 + 0.1 * k) for k, trainer in enumerate(ONE.trainers)]
    rows += [row(trainer, "auroc[Nodule]", 0.5, split="elsewhere", n=50) for trainer in ONE.trainers]
    wang = WANG | {"numbers": [{"split": "test", "values": {"auroc[Mass]": 0.6933}}]}
    table = papers.finding_table(results_of(rows, task="multilabel", published=[wang]), "net")
    assert heads(table) == ["standard", "fgsm", "Wang 2017, published"]
    assert cells(table) == [["“test”", "Mass", "0.600", "0.700*", "0.693"], ["“elsewhere”", "Nodule", "0.500", "0.500", ""]]
    assert papers.finding_table(results_of(rows), "net") is None


# mAP and mARP


def test_map_and_marp_stand_beside_accuracy_under_each_attack() -> None:
    rows = []
    for trainer, value in (("standard", 0.9), ("fgsm", 0.8)):
        rows += [row(trainer, "accuracy", value), row(trainer, "mean_average_precision", value + 0.01)]
        rows += [*robust(trainer, "fgsm:0.01", 0.3), *robust(trainer, "pgd:0.01", 0.2)]
        rows += [row(trainer, "accuracy", 0.35, condition="fgsm:0.01")]
        rows += [row(trainer, "mean_average_robust_precision", 1.2 - value, condition="attacked")]
    table = papers.precision_table(results_of(rows), "test")
    assert heads(table) == [
        "Accuracy, clean",
        "Mean average precision (mAP), clean",
        "Accuracy, fgsm 0.01",
        "Robust accuracy, pgd 0.01",
        "mARP",
    ]
    assert cells(table) == [
        ["net", "standard", "0.900*", "0.910*", "0.350", "0.200", "0.300"],
        ["net", "fgsm", "0.800", "0.810", "0.350", "0.200", "0.400*"],
    ]
    assert heads(main_table(results_of(rows), "test")) == [
        "Accuracy",
        "Mean average precision (mAP)",
        "Robust accuracy, radius 0.01",
        "mARP",
    ]
    without = [each for each in rows if each.condition != "attacked"]
    assert papers.precision_table(results_of(without), "test") is None


def test_a_failed_check_on_one_attack_forbids_the_mean_over_all_attacks() -> None:
    rows = [row(trainer, "mean_average_robust_precision", 0.5, condition="attacked") for trainer in ONE.trainers]
    rows += [entry for trainer in ONE.trainers for entry in robust(trainer, "pgd:0.01", 0.2)]
    fake = replace(ONE, warnings=(RowWarning("x", "fail", "net, fgsm, seed 0, pgd:0.01", "?"),), corruptions=("blur",))
    rows += [row("standard", "accuracy", 0.5, condition="blur:1")]
    fake = replace(fake, warnings=(*fake.warnings, RowWarning("y", "warn", "net, standard, seed 0, blur", "?")))
    results = results_of(rows, fake)
    key = {"model": "net", "split": "test", "metric": "mean_average_robust_precision", "condition": "attacked"}
    scores = [results.score(trainer=trainer, **key) for trainer in ("fgsm", "standard")]
    assert [score is not None and score.failed for score in scores] == [True, False]
    assert [score is not None and len(score.doubts) for score in scores] == [1, 0]


# settings varied


def ablated(settings: dict[str, dict[str, Any]], name: str = "sga", **needs: dict[str, Any]) -> Results:
    """Trainers of one plugin; the k-th has accuracy 0.1 * (k + 1)."""
    uses = [{"label": label, "name": name, "settings": values, **needs.get(label, {})} for label, values in settings.items()]
    rows = [row(label, "accuracy", 0.1 * (k + 1)) for k, label in enumerate(settings)]
    return results_of(rows, trainers=uses)


def test_two_settings_make_a_grid() -> None:
    results = ablated(
        {
            "dpaat": {"dynamic": True, "sync_weight": 1.0, "steps": 10},
            "no_sync": {"dynamic": True, "sync_weight": 0.0, "steps": 10},
            "fixed": {"dynamic": False, "sync_weight": 1.0, "steps": 10},
            "neither": {"dynamic": False, "sync_weight": 0.0, "steps": 10},
        },
        "dpaat",
    )
    (varied,) = ablation.ablations(results)
    assert varied.title == "dpaat: dynamic and sync_weight"
    (table,) = varied.tables
    assert table.caption == "Accuracy, “test”; dpaat: dynamic and sync_weight"
    assert table.corner == ("Model", "dynamic")
    assert heads(table) == ["sync_weight = 0.0", "sync_weight = 1.0"]
    assert cells(table) == [["net", "false", "0.400*", "0.300"], ["net", "true", "0.200", "0.100"]]


def test_settings_varied_around_a_centre_make_a_table_each() -> None:
    results = ablated(
        {
            "k_0": {"k": 0.0, "lam": 1.0},
            "sga": {"k": 0.1, "lam": 1.0},
            "k_20": {"k": 0.2, "lam": 1.0},
            "lam_0": {"k": 0.1, "lam": 0.0},
        }
    )
    by_k, by_lam = ablation.ablations(results)
    assert (by_k.title, by_lam.title) == ("sga: k at lam = 1.0", "sga: lam at k = 0.1")
    assert by_k.tables[0].corner == ("Model", "k", "Trainer")
    assert cells(by_k.tables[0]) == [
        ["net", "0.0", "k_0", "0.100"],
        ["net", "0.1", "sga", "0.200"],
        ["net", "0.2", "k_20", "0.300*"],
    ]
    assert cells(by_lam.tables[0]) == [["net", "0.0", "lam_0", "0.400*"], ["net", "1.0", "sga", "0.200"]]


def test_a_grid_with_a_hole_says_so_and_radii_stand_by_size() -> None:
    radii = {"4": 4 / 255, "16": 16 / 255, "8": 8 / 255}
    settings = {f"{name}_{steps}": {"eps": eps, "steps": steps} for name, eps in radii.items() for steps in (1, 10)}
    del settings["16_10"]
    (varied,) = ablation.ablations(ablated(settings, "pgd"))
    assert cells(varied.tables[0]) == [  # the order in which they were given: 4_1, 4_10, 16_1, 8_1, 8_10
        ["net", "4/255", "0.100", "0.200"],
        ["net", "8/255", "0.400", "0.500*"],
        ["net", "16/255", "0.300", "—"],
    ]


def test_trainers_that_differ_in_two_settings_at_once_are_no_ablation() -> None:
    assert list(ablation.ablations(ablated({"a": {"k": 0.1, "lam": 1.0}, "b": {"k": 0.2, "lam": 0.0}}))) == []
    assert list(ablation.ablations(ablated({"a": {"k": 0.1}, "b": {"k": 0.1}}))) == []


def test_the_trainer_that_training_starts_from_counts_as_a_setting() -> None:
    settings: dict[str, dict[str, Any]] = {"fresh": {"eps": 0.005}, "warm": {"eps": 0.005}}
    (varied,) = ablation.ablations(ablated(settings, "fgsm", warm={"warm_start": "standard"}))
    assert varied.title == "fgsm: warm_start"
    assert [line[1:3] for line in cells(varied.tables[0])] == [["none", "fresh"], ["standard", "warm"]]


def test_settings_are_judged_by_clean_robust_and_localisation_scores() -> None:
    fake = replace(ONE, settings={"standard": ("sga", {"k": 0.1}), "fgsm": ("sga", {"k": 0.2})})
    results = results_of(fake.rows(), fake)
    (varied,) = ablation.ablations(results)
    assert heads(varied.tables[0]) == [
        "Accuracy, “test”",
        "AUROC, “test”",
        "Mean average precision (mAP), “test”",
        "Accuracy, “elsewhere”",
        "AUROC, “elsewhere”",
        "Mean average precision (mAP), “elsewhere”",
        "Robust accuracy, “test”, radius 0.01",
        "Robust accuracy, “test”, radius 0.02",
        "mARP, “test”",
        "Relevance mass in lesion, cam",
    ]


# published numbers


def test_a_published_number_stands_beside_the_one_that_it_was_published_for() -> None:
    rows = [*predictions("standard", "clean", 0.9), *predictions("fgsm", "clean", 0.8)]
    table = main_table(results_of(rows, published=[YANG]), "test")
    assert (
        [(head.text, head.sub) for head in table.columns]
        if table
        else []
        == [
            ("Accuracy", "n = 100"),
            ("Yang 2023, published", "Accuracy"),
            ("Balanced accuracy", "n = 100"),
        ]
    )
    assert cells(table) == [["net", "standard", "0.900*", "0.970", "0.880*"], ["net", "fgsm", "0.800", "", "0.780"]]


def test_of_two_published_numbers_that_fit_the_one_that_names_more_is_shown() -> None:
    entry = YANG | {
        "numbers": [
            {"values": {"accuracy": 0.1}},
            {"model": "net", "trainer": "fgsm", "values": {"accuracy": 0.2}},
            {"model": "another", "values": {"accuracy": 0.3}},
        ]
    }
    rows = [*predictions("standard", "clean", 0.9), *predictions("fgsm", "clean", 0.8)]
    table = main_table(results_of(rows, published=[entry]), "test")
    assert [line[3] for line in cells(table)] == ["0.100", "0.200"]


def test_published_numbers_that_stand_nowhere_are_listed_with_the_reason() -> None:
    rows = [*predictions("standard", "clean", 0.9)]
    entry = YANG | {
        "numbers": [
            {"trainer": "standard", "condition": "clean", "values": {"accuracy": 0.97, "precision": 0.9995}},
            {"trainer": "fgsm", "condition": "fgsm:0.02", "values": {"accuracy": 0.9503}},
            {"values": {"kappa": 0.5}},
        ]
    }
    results = results_of(rows, published=[entry])
    table = main_table(results, "test")
    assert table is not None
    assert sections.unplaced(results, [table]) == [
        ["Yang 2023", "COVID-QU-Ex", "standard, clean", "precision", "1.000", "measured, see rows.csv"],
        ["Yang 2023", "COVID-QU-Ex", "fgsm, fgsm:0.02", "accuracy", "0.950", "not measured in this run"],
        ["Yang 2023", "COVID-QU-Ex", "any", "kappa", "0.500", "not measured in this run"],
    ]


# what is left out, and the whole page


def test_a_trainer_that_was_not_run_on_a_model_has_no_line_there() -> None:
    fake = replace(ONE, models=("a", "b"), fitted={"fgsm": ["b"]})
    table = main_table(results_of(fake.rows(), fake), "test")
    assert [line[:2] for line in cells(table)] == [["a", "standard"], ["b", "standard"], ["b", "fgsm"]]


def test_recall_under_attack_is_apart_from_recall_under_this_and_every_smaller_radius() -> None:
    first, attacked, *_ = class_tables(results_of(ONE.rows()), "net", "test")
    assert heads(first) == ["Recall", "Precision", "F1", "AUROC", "Average precision"]
    assert heads(attacked) == ["Robust recall", *heads(first)]
    assert attacked.note.startswith("Robust recall: share of the class that is right without attack")
    assert first.note == ""
    fake = replace(ONE, every=False)
    assert heads(class_tables(results_of(fake.rows(), fake), "net", "test")[1]) == ["Robust recall"]


CHOSEN = {
    "best": 2,
    "of": "standard",
    "by": "balanced_accuracy",
    "always": ["net_3"],
    "chosen": ["net_3", "net_0"],
    "scores": {"net_0": 0.9, "net_3": 0.5},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Seven models, two of them also with adversarial training, localisation by threshold and published numbers."""
    fake = replace(
        ONE,
        models=tuple(f"net_{k}" for k in range(7)),
        thresholds=("0.1", "0.3"),
        fitted={"fgsm": CHOSEN},
        images=1,
        side=16,
        changes={
            "published": [WANG, YANG],
            "data": ONE.manifest()["data"]
            | {
                "left_out": [
                    {"dataset": "train", "reader": "github_covid", "reason": "lateral view", "images": 12},
                ]
            },
        },
    )
    written = fake.write(tmp_path_factory.mktemp("papers"))
    render(written)
    return written


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_report_has_a_section_of_the_papers_tables(run: Run, name: str) -> None:
    text = (run.folder / name).read_text(encoding="utf-8")
    for said in (
        "Tables as in the papers",
        "Trainers on clean and on attacked images",
        "Inside and outside",
        "Localisation of findings over T(IoU)",
        "mAP and mARP",
        "Localisation accuracy over T(IoU): cam, ",
        "Wang 2017, published: Wang et al., ChestX-ray8, CVPR 2017, table 7. Measured on ChestX-ray8, ResNet-50, CAM boxes.",
        "fgsm: on the 2 best of 7 models by validation balanced accuracy of standard, always with net_3: net_3 (0.500), net_0",
        "lateral view",
    ):
        assert said in text.replace("\\", "")


def test_published_cells_are_set_apart_in_both_formats(run: Run) -> None:
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert '<th scope="col" class="pub">Wang 2017, published</th>' in html
    assert '<td class="v pub">0.400</td>' in html
    md = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "| Wang 2017, published |" in md
    assert "| *0.400* |" in md


def test_curves_over_t_are_files_of_the_markdown_report(run: Run) -> None:
    md = (run.folder / "report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"figures/(threshold-[^)]+\.svg)", md))
    assert named == {f"threshold-{model}-{finding}.svg" for model in range(7) for finding in range(2)}
    assert named == {path.name for path in (run.folder / "figures").glob("threshold-*")}


def test_with_many_models_what_each_has_stands_folded(run: Run) -> None:
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert '<details class="part"><summary>net_6 on “test”</summary>' in html
    assert "<h3>net_6 on “test”</h3>" not in html
    assert '<details class="part"><summary>net_6, cam, “test”</summary>' in html


@pytest.mark.parametrize(
    ("among", "said"),
    [
        (["net"], "fgsm: on 1 of 1 models, as the protocol says: net"),
        (
            {"best": 1, "of": "standard", "by": "accuracy", "always": []},
            "fgsm: on none, for the 1 best of 1 models by validation accuracy of standard could not be chosen",
        ),
    ],
)
def test_how_it_was_made_says_on_which_models_a_trainer_was_run(among: Any, said: str, tmp_path: Path) -> None:
    text = render(replace(ONE, fitted={"fgsm": among}).write(tmp_path), ("html",))["html"].read_text(encoding="utf-8")
    assert said in text


def test_a_run_without_any_of_these_numbers_has_no_such_section(tmp_path: Path) -> None:
    fake = replace(ONE, trainers=("standard",), outside=(), every=False)
    written = render(fake.write(tmp_path))
    for path in written.values():
        assert "Tables as in the papers" not in path.read_text(encoding="utf-8")
