"""What a report marks best and what it says once: no star without merit, one warning for many networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_eval.report import anatomy, bands, clinical, differences
from cxr_eval.report.render import render
from cxr_eval.report.tables import main_table
from cxr_eval.types import RowWarning
from tests.evidence import REFERENCES, TWO, both_seeds, cells, difference, lead, only, with_rows
from tests.report_pages import results_of


def test_the_table_of_differences_says_that_seeds_disagree() -> None:
    lines = [difference("accuracy", 0.1, 0.01, seeds_low=-0.01, seeds_high=0.2), difference("auroc", 0.1, 0.01)]
    found = cells(only(differences.section(results_of(TWO), pd.DataFrame(lines))).tables[0])
    assert found["net", "fgsm minus standard", "Accuracy, clean"].note == "seeds disagree"
    assert found["net", "fgsm minus standard", "AUROC, clean"].note == "fgsm better"


def test_the_report_says_a_warning_once_for_all_networks(tmp_path: Path) -> None:
    warnings = tuple(
        RowWarning(
            "not_better_than_edges", "warn", f"net / {trainer} / seed {seed}, test, clean, cam, complexity", "No better."
        )
        for trainer in TWO.trainers
        for seed in TWO.seeds
    )
    md = render(replace(TWO, warnings=warnings).write(tmp_path))["md"].read_text(encoding="utf-8")
    assert md.count("No better.") == 1
    assert "No better. Holds for: all 4 networks, test, clean, cam, complexity" in md


def test_the_networks_of_a_trainer_that_needs_others_say_which(tmp_path: Path) -> None:
    trainers = [use | {"warm_start": "standard" if use["label"] == "fgsm" else None} for use in TWO.manifest()["trainers"]]
    md = render(replace(TWO, changes={"trainers": trainers}).write(tmp_path))["md"].read_text(encoding="utf-8")
    assert "| net | fgsm (from standard) | 0 | done |" in md
    assert "| net | standard | 0 | done |" in md


def test_maps_that_know_nothing_of_the_network_and_pairs_of_other_images_are_never_best() -> None:
    varied = [
        *REFERENCES,
        *both_seeds("relevance_mass[lung]", 0.3, explainer="chance", trainer="fgsm"),
    ]
    pairs = [
        one
        for trainer, value in (("standard", 0.3), ("fgsm", 0.6))
        for metric, condition in (("map_ssim[random pairs]", "clean"), ("map_ssim", "pgd:0.02"))
        for one in both_seeds(metric, value, explainer="cam", trainer=trainer, condition=condition)
    ]
    results = with_rows(*varied, *pairs)
    main = {place: cell.best for place, cell in cells(main_table(results, "test")).items() if "chance" in place[2]}
    assert main
    assert not any(main.values())
    alike = {(line, column): cell.best for (_, line, column), cell in cells(bands.under_attack(results, "net")).items()}
    (lot,) = {column for _, column in alike if "drawn by lot" in column}
    assert not any(best for (_, column), best in alike.items() if column == lot)
    assert any(alike.values())


@pytest.mark.parametrize(
    ("better", "standard", "fgsm", "best"),
    [
        ("higher", 0.3, 0.1, "standard"),
        ("higher", -0.3, -0.1, ""),
        ("lower", 0.3, -0.1, "fgsm"),
        ("lower", 0.3, 0.1, ""),
    ],
)
def test_reading_the_wrong_side_a_little_less_is_not_marked_best(better: Any, standard: float, fgsm: float, best: str) -> None:
    numbers = [*lead("lung", standard, "standard", better), *lead("lung", fgsm, "fgsm", better)]
    table = only(anatomy.section(with_rows(*numbers))).tables[0]
    marked = [line for (_, line, column), cell in cells(table).items() if cell.best and column == "Inside minus outside"]
    assert marked == [best] * bool(best)


def test_a_net_benefit_is_best_only_where_it_is_above_treating_nobody_and_everybody() -> None:
    def starred(standard: float, fgsm: float, everybody: tuple[float, float]) -> list[str]:
        numbers = [
            one
            for trainer, value, all_ in (("standard", standard, everybody[0]), ("fgsm", fgsm, everybody[1]))
            for metric, of in (("net_benefit", value), ("net_benefit_treat_all", all_))
            for one in both_seeds(f"{metric}[disease@0.1]", of, trainer=trainer)
        ]
        (table,) = only(clinical.section(with_rows(*numbers))).tables
        return [f"{trainer}, {column}" for (_, trainer, column), cell in cells(table).items() if cell.best]

    assert starred(0.4, 0.1, (0.3, 0.3)) == ["standard, Net benefit, clean images"]
    assert starred(0.2, 0.1, (0.3, 0.3)) == []  # both do less good than calling everyone ill
    assert starred(1.0, 0.9, (1.0, 1.0)) == []  # every image has the disease
    assert starred(0.0, -0.1, (-0.5, -0.5)) == []  # no more than treating nobody
    assert starred(0.4, 0.4, (0.3, 0.2)) == []  # calling everyone ill is no network's merit
    assert starred(0.0003, -0.1, (-0.5, -0.5)) == []  # what reads 0.000 is not above 0
