"""A made-up run of one network and two trainers, and numbers to add to it, for tests of what a report says beside scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cxr_eval.report.parts import Section
from cxr_eval.report.results import Results
from cxr_eval.report.tables import Cell, Table
from cxr_eval.types import Better, Row
from tests.fake_run import Fake
from tests.report_pages import results_of

NAN = float("nan")
TWO = Fake(
    models=("net",),
    trainers=("standard", "fgsm"),
    seeds=(0, 1),
    attacks=("pgd", "pgd_l2"),
    attack_settings={"pgd_l2": {"norm": "l2", "goal": "any"}},
    radii=("0.01", "0.02"),
    corruptions=("blur",),
    outside=(),
    explainers=("cam",),
    metrics=("relevance_mass[lung]", "complexity"),
    conditions=("clean", "pgd:0.02"),
    images=0,
    drawn=False,
)


def row(metric: str, value: float, **given: Any) -> Row:
    """One number of `net`, trained as standard, of seed 0 on clean test images, unless said otherwise."""
    better: Better = given.pop("better", "higher")
    place = {"trainer": "standard", "seed": 0, "split": "test", "condition": "clean", "explainer": "", "n": 40} | given
    ends = {"low": value - 0.1, "high": value + 0.1} if "low" not in given else {}
    return Row(model="net", metric=metric, value=value, unit="fraction", better=better, provenance="drawn", **place, **ends)


def both_seeds(metric: str, value: float, **given: Any) -> tuple[Row, Row]:
    """The same number in both seeds."""
    return row(metric, value, seed=0, **given), row(metric, value, seed=1, **given)


def with_rows(*rows: Row, **changes: Any) -> Results:
    """A made-up run that has these numbers too."""
    return results_of(replace(TWO, more_rows=rows, **changes))


def cells(table: Table | None) -> dict[tuple[str, str, str], Cell]:
    """(group, line, column) -> cell."""
    assert table is not None
    return {
        (group, line.heads[0], head.text): cell
        for group, lines in table.groups
        for line in lines
        for head, cell in zip(table.columns, line.cells, strict=True)
    }


def only(section: Section | None) -> Any:
    """The first part of a section that must be there."""
    assert section is not None
    return section.parts[0]


L2 = tuple(
    number
    for trainer, value in (("standard", 0.3), ("fgsm", 0.5))
    for eps in ("0", "0.5")
    for number in both_seeds("robust_accuracy", value, trainer=trainer, condition=f"worst(l2):{eps}")
)
HIDE = row("robust_accuracy", 0.2, condition="worst(hide covid):0.02")


def check(
    verdict_: str, *, trainer: str = "standard", seed: int = 0, title: str = "Gradients exist", kind: str = "validity"
) -> dict[str, Any]:
    """One line of checks.csv."""
    sentence = f"{title}: {verdict_.lower()}."
    about = {"model": "net", "trainer": trainer, "seed": seed, "split": "test", "kind": kind, "check": "polarity"}
    return about | {"title": title, "verdict": verdict_, "numbers": "{}", "sentence": sentence}


def difference(metric: str, value: float, p: float, **given: Any) -> dict[str, Any]:
    """One line of differences.csv: fgsm minus standard."""
    about = {"model": "net", "trainer": "fgsm", "against": "standard", "split": "test", "condition": "clean", "explainer": ""}
    ends = {"low": value - 0.02, "high": value + 0.02, "seeds_low": value - 0.01, "seeds_high": value + 0.01}
    numbers = {"metric": metric, "value": value, "p": p / 2, "n": 100, "patients": 80, "p_holm": p, "family": 4}
    return about | ends | numbers | {"unit": "fraction", "better": "higher", "note": ""} | given


def gap(value: str, difference: float, p: float, **given: Any) -> dict[str, Any]:
    """One line of gaps.csv: accuracy of women, trained as standard, seed 0, unless said otherwise."""
    place = {"model": "net", "trainer": "standard", "seed": 0, "split": "test", "condition": "clean", "column": "sex"}
    ends = {"gap_low": difference - 0.04, "gap_high": difference + 0.02, "p": p / 5, "p_holm": p, "comparisons": 5}
    scored = {"value": value, "against": "M", "metric": "accuracy", "n": 20, "patients": 15, "score": 0.5, "gap": difference}
    return place | scored | ends | {"low": 0.4, "high": 0.6, "note": NAN} | given


def referred(name: str, value: float, metric: str = "relevance_mass[lung]", **given: Any) -> list[Row]:
    """A reference's number for both trainers and seeds."""
    return [one for trainer in TWO.trainers for one in both_seeds(metric, value, explainer=name, trainer=trainer, **given)]


REFERENCES = [*referred("oracle", 0.99), *referred("edges", 0.2), *referred("randomised(cam)", 0.1), *referred("chance", 0.15)]


def lead(kind: str, value: float, trainer: str, better: Better) -> tuple[Row, Row]:
    return both_seeds(f"inside_minus_outside[{kind}]", value, trainer=trainer, better=better, condition=f"intact {kind}")
