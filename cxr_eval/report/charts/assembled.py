"""Sections of a report that are made of charts alone."""

from __future__ import annotations

import pandas as pd

from cxr_eval.report.charts.calibration import reliability
from cxr_eval.report.charts.outside import slopes
from cxr_eval.report.charts.ranking import ranking_curves
from cxr_eval.report.charts.trade_off import FAILED, clean_against_robust
from cxr_eval.report.parts import Part, Section
from cxr_eval.report.results import Results
from cxr_eval.stats.curve_points import MOST_LINES, PR, ROC


def at_a_glance(results: Results) -> Section | None:
    """Trainers beside each other: right without attack against right under attack, and from the test set to outside ones."""
    parts = []
    for place, model in enumerate(results.models):
        pictures = []
        for number, split in enumerate(results.splits):
            made = clean_against_robust(results, model, split, f"trade-off-{number}-{place}")
            pictures += made
        pictures += slopes(results, model, f"slope-{place}")
        if pictures:
            parts.append(Part(model, pictures, [], []))
    if not parts:
        return None
    said = [
        "A marker or a line is a trainer, whiskers are 95 % intervals. Where whiskers overlap, see the table of differences."
        f" {FAILED}: a check failed on one of the two numbers."
    ]
    return Section("glance", "Trainers at a glance", said, parts)


def of_predictions(results: Results, curves: pd.DataFrame) -> Section | None:
    """Reliability, ROC and precision-recall by model and set; None where the run has no points of curves.

    curves: curves.csv, empty without it.
    """
    parts = []
    for number, split in enumerate(results.splits):
        for place, model in enumerate(results.models):
            key = f"{number}-{place}"
            pictures = reliability(results, curves, model, split, f"reliability-{key}")
            for figure in (ROC, PR):
                pictures += ranking_curves(results, curves, model, split, figure, f"{figure}-{key}")
            if pictures:
                parts.append(Part(f"{model} on “{split}”", pictures, [], []))
    if not parts:
        return None
    said = [
        "Reliability: in 15 bins of equal width, those of the calibration error, how often an answer is right against how sure"
        " the network was. Bars count images; whiskers are Wilson's 95 % intervals with the bin's patients as cases; a bin of"
        " too few patients has a count and no point. ROC and precision-recall: each class against all others.",
        "Dashed: under the attack that leaves least, at its largest radius. Where there are several seeds the first is drawn,"
        " and the numbers beside the curves are means over all. Curves with more than 100 steps are drawn with 100, or fewer"
        f" where many networks share the {MOST_LINES:,} lines of curves.csv.",
    ]
    return Section("curves", "Calibration and ranking", said, parts)
