"""Rows of explanations: means of their metrics over images, and what a map without meaning scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cxr_eval.stats import scores
from cxr_eval.stats.cell_rows import CellRows
from cxr_eval.stats.intervals import FloatArray
from cxr_eval.types import CHANCE, Better, Row

REGION_BETTER: dict[str, Better] = {
    "finding": "higher",
    "lesion": "higher",
    "box": "higher",
    "marker": "lower",
    "devices": "lower",
}
"""Where attribution should lie: on what is ill (so also on regions named like a class), and not on text or tubes.

Of other regions (lungs, heart) neither is better.
"""

SIMILARITY_UNITS = {"map_ssim": "1", "map_rank_correlation": "1", "map_top_overlap": "fraction"}
"""Metrics that compare maps with maps, and what they are measured in; all are higher for more similar maps."""

AT = "@"
"""Before the threshold in names such as `localisation_accuracy[Mass@0.1]`."""


class ExplanationRows(CellRows):
    """Rows of explanations of one cell."""

    def explanations(
        self, table: pd.DataFrame, *, split: str, condition: str, better: dict[str, Better], units: dict[str, str]
    ) -> list[Row]:
        """Means of explanation metrics over images. table: image_id, patient, explainer, metric, value (NaN: not defined).

        better, units: by metric name without the region in brackets.
        """
        rows: list[Row] = []
        for (explainer, metric), part in table.groupby(["explainer", "metric"], sort=False):
            defined = part[np.isfinite(part["value"].to_numpy(dtype=np.float64))]
            values = defined["value"].to_numpy(dtype=np.float64)
            name = str(metric)
            rows += self._rows(
                defined,
                partial(_mean_of, name, values),
                split,
                condition,
                explainer=str(explainer),
                better=better_of(name, self.classes, better),
                unit=units[name.partition("[")[0]],
                shares=[name] if set(values) <= {0.0, 1.0} else [],
            )
        return rows

    def chance(self, shares: pd.DataFrame, metrics: Sequence[str], *, split: str, condition: str) -> list[Row]:
        """What a map without meaning scores on average: the region's share of the image, as explainer `chance`.

        shares: image_id, patient, and a column a region kind with its share of the image (NaN: none). metrics: labels of
        localisation metrics.
        """
        rows: list[Row] = []
        for kind in shares.columns.difference(["image_id", "patient"]):
            known = shares[shares[kind].notna()]
            values = known[kind].to_numpy(dtype=np.float64)
            for name in (f"{metric}[{kind}]" for metric in metrics):
                score = partial(_mean_of, name, values)
                rows += self._rows(known, score, split, condition, explainer=CHANCE, better="neither")
        return rows


def better_of(metric: str, classes: Sequence[str], better: Mapping[str, Better]) -> Better:
    """Which direction of an explanation metric is better: by its region, or else by the metric itself.

    better: by metric name without the region in brackets.
    """
    base, _, region = metric.removesuffix("]").partition("[")
    if not region or AT in region or region == "kept":
        return better[base]
    return "higher" if region in classes else REGION_BETTER.get(region, "neither")


def _mean_of(name: str, values: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
    return {name: scores.mean(values, weights)}
