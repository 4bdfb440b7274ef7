"""Explainers that do no better than maps which know nothing of the network, or nothing of what it learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_eval.stats.intervals import Resampling, interval, patient_weights
from cxr_eval.types import Better, RowWarning

JUDGED = ("localisation", "faithfulness")
"""Families of metrics in which an explainer that knows the network must do better than one that does not."""

PAIR = ["image_id", "target", "metric"]


def beaten(
    values: pd.DataFrame, *, explainers: Sequence[str], better: Mapping[str, Better], scope: str, resampling: Resampling
) -> list[RowWarning]:
    """A warning for each explainer, metric and one of two references that it does not beat: edges, and a random network's map.

    The warning has no numbers, so that a report can say it once for all networks; they stand in the rows of both.

    values: image_id, patient, target, explainer, metric, value of explainers and references on the same clean images, as
    `Explanations.values` gives them. explainers: labels of those that are judged. better: by full metric name
    (`relevance_mass[lesion]`); what is not named, or neither, is not judged. scope: cell, split and condition, for the warning.

    An explainer beats a reference in a metric if the 95 % bootstrap interval over patients of the mean difference, image by
    image, lies on the good side of 0. Images where either has no value are left out; with fewer patients left than numbers
    are given for (`resampling.min_patients`, at least two) nothing is said.
    """
    tables = {str(name): part for name, part in values.groupby("explainer", sort=False)}
    found = []
    for explainer in explainers:
        for reference, code, said in (
            ("edges", "not_better_than_edges", "the edges of the image"),
            (f"randomised({explainer})", "not_better_than_random_network", "its own map of a network with random weights"),
        ):
            if explainer not in tables or reference not in tables:
                continue
            found += [
                RowWarning(
                    code,
                    "warn",
                    f"{scope}, {explainer}, {metric}",
                    f"{explainer} is not better than {said} by {metric}: image by image, the 95% interval over patients of the"
                    " difference does not lie on the good side of 0, so by this measure its maps do not show what the network"
                    " learned.",
                )
                for metric in _lost(tables[explainer], tables[reference], better, resampling)
            ]
    return found


def _lost(table: pd.DataFrame, reference: pd.DataFrame, better: Mapping[str, Better], resampling: Resampling) -> list[str]:
    """Metrics in which an explainer does not beat a reference."""
    both = table.merge(reference, on=PAIR, suffixes=("", "_reference"), validate="one_to_one")
    both["gain"] = both["value"] - both["value_reference"]
    lost = []
    for metric, part in both[np.isfinite(both["gain"])].groupby("metric", sort=False):
        direction = {"higher": 1.0, "lower": -1.0}.get(better.get(str(metric), "neither"))
        if direction is None or part["patient"].nunique() < max(2, resampling.min_patients):
            continue
        gain: npt.NDArray[np.float64] = direction * part["gain"].to_numpy(dtype=np.float64)
        weights = patient_weights(part["patient"].astype(str).tolist(), resamples=resampling.resamples, seed=resampling.seed)
        low, _ = interval(weights @ gain / weights.sum(axis=1))
        if low <= 0:
            lost.append(str(metric))
    return lost
