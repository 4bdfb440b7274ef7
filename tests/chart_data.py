"""Made-up results, curves, radii and gaps for tests of charts, and how numbers are read out of pictures."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import pandas as pd

from cxr_eval.report.figures import Picture
from cxr_eval.report.results import Results, Score
from cxr_eval.stats.curve_points import CURVE_COLUMNS
from tests.fake_run import Fake

NAN = math.nan
SVG = "{http://www.w3.org/2000/svg}"
MANY = tuple(f"trainer {k}" for k in range(9))


def results_of(fake: Fake) -> Results:
    return Results(pd.DataFrame(fake.rows()), fake.manifest(), fake.warnings)


def score_of(results: Results, **place: str) -> Score:
    """A number that the run has."""
    score = results.score(**place)
    assert score is not None
    return score


def written(picture: Picture) -> list[str]:
    """Texts of a picture as the page has it."""
    return [element.text or "" for element in ElementTree.fromstring(picture.inline).iter(f"{SVG}text")]


def marked(picture: Picture, marker: str) -> list[tuple[float, float]]:
    """Where a marker stands."""
    found = re.findall(re.escape(f'd="{marker}"') + r"[^>]*translate\(([\d.-]+) ([\d.-]+)\)", picture.inline)
    return [(float(x), float(y)) for x, y in found]


def curves(trainers: Sequence[str], classes: Sequence[str], *conditions: str, model: str = "resnet18") -> pd.DataFrame:
    """A made-up curves.csv: the ROC curve through (0.25, 0.75), two steps of precision, and three bins."""
    lines: list[tuple[Any, ...]] = []
    for trainer in trainers:
        for condition in ("clean", *conditions):
            where = (model, trainer, 0, "test", condition)
            for name in classes:
                lines += [(*where, "roc", name, x, y, NAN, NAN, 80) for x, y in ((0, 0), (0.25, 0.75), (1, 1))]
                lines += [(*where, "pr", name, x, y, NAN, NAN, 80) for x, y in ((0.5, 1.0), (1.0, 0.4))]
            bins = ((0.31, 0.2, 0.1, 0.35, 50), (0.62, 0.5, 0.4, 0.6, 27), (0.9667, NAN, NAN, NAN, 3))
            lines += [(*where, "reliability", "", *each) for each in bins]
    return pd.DataFrame(lines, columns=list(CURVE_COLUMNS))


def history(trainers: Sequence[str], epochs: int = 4, model: str = "resnet18") -> pd.DataFrame:
    """Radii that spread around 0.02."""
    return pd.DataFrame(
        [
            {"model": model, "trainer": trainer, "seed": 0, "epoch": float(k)}
            | {
                f"eps_{name}": 0.02 + k * by
                for name, by in (("q05", -4e-3), ("q25", -2e-3), ("median", 0), ("q75", 2e-3), ("q95", 4e-3))
            }
            for trainer in trainers
            for k in range(epochs)
        ]
    )


def gap_lines(trainers: Sequence[str], seeds: Sequence[int] = (0,), model: str = "resnet18") -> pd.DataFrame:
    """Gaps of sex (two values) in accuracy: the first trainer's has a small p-value."""
    lines = []
    for k, trainer in enumerate(trainers):
        for seed in seeds:
            for sign, value, against in ((1, "F", "M"), (-1, "M", "F")):
                gap = sign * (0.1 + 0.02 * k + 0.01 * seed)
                lines.append(
                    {"model": model, "trainer": trainer, "seed": seed, "split": "test", "condition": "clean", "column": "sex"}
                    | {"value": value, "against": against, "metric": "accuracy", "gap": gap, "gap_low": gap - 0.05}
                    | {"gap_high": gap + 0.05, "p_holm": 0.01 if k == 0 else 0.4}
                )
    return pd.DataFrame(lines)


ONE = Fake(models=("resnet18",), seeds=(0,), undefined=())
TITLES = {("clean", "accuracy"): "Accuracy, clean"}
