"""Curves as the papers draw them: a metric of maps by class over its threshold, with what others published."""

from __future__ import annotations

from cxr_eval.report.figures import Curve, Picture, ends, panel, score_curves
from cxr_eval.report.papers import classes_of, thresholds_of
from cxr_eval.report.results import Results
from cxr_eval.report.tables import spoken


def threshold_curves(results: Results, model: str, split: str, explainer: str, metric: str, key: str) -> list[Picture]:
    """The metric over T(IoU), one panel a class, one line a trainer with its interval as a band, one dashed line a source.

    Source: Khakzar, Albarqouni, Navab, arXiv:1905.03767, figure 3.
    """
    by_class = results.by_threshold[split, explainer][metric]
    pictures = []
    for place, name in enumerate(classes_of(results, by_class)):
        steps = [(float(t), f"{metric}[{name}@{t}]") for t in thresholds_of(by_class[name])]
        at = {"model": model, "split": split, "explainer": explainer}
        curves = score_curves(results, at, [(t, {"metric": name_at}) for t, name_at in steps])
        if curves:
            curves += _published(results, at, steps)
            said = spoken(metric)
            over = f"T(IoU) {steps[0][0]:g} to {steps[-1][0]:g}"
            alt = f"{name}: {said} of {model} by {explainer} over {over}; {ends(curves)}"
            pictures.append(panel(f"{key}-{place}", name, alt, curves, x="T(IoU)", y=said, fraction=True))
    return pictures


def _published(results: Results, at: dict[str, str], steps: list[tuple[float, str]]) -> list[Curve]:
    """A line a source: what it published for no trainer in particular."""
    curves = []
    for style, source in enumerate(results.published.sources):
        found = [(t, results.published.find(style, {**at, "trainer": "", "metric": metric})) for t, metric in steps]
        known = [(t, quote.value) for t, quote in found if quote is not None]
        if known:
            x, y = zip(*known, strict=True)
            curves.append(Curve(style, source.head, x, y, published=True))
    return curves
