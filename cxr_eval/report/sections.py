"""What each section of the report holds: curves and tables by model and set, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from cxr_eval.report import (
    ablation,
    anatomy,
    clinical,
    differences,
    figures,
    paper_figures,
    papers,
    subgroups,
    validity,
)
from cxr_eval.report.by_class import class_tables, confusion_table
from cxr_eval.report.charts.assembled import at_a_glance, of_predictions
from cxr_eval.report.charts.classes import confusion_matrices
from cxr_eval.report.charts.corrupted import corruption_maps
from cxr_eval.report.charts.radii import radius_bands
from cxr_eval.report.charts.varied import ablation_maps
from cxr_eval.report.corruptions import corruption_table
from cxr_eval.report.parts import Block, Part, Section
from cxr_eval.report.published import Quote
from cxr_eval.report.results import WORST, Results, number
from cxr_eval.report.tables import Table
from cxr_eval.report.threats import breakers_table, robust_tables, said_threat

MOST_OPEN = 6
"""Models above which what a section has of each stands folded, so that the page can still be overlooked."""


def robust(results: Results) -> Iterator[Part]:
    """Robust accuracy over the radius, and what broke how many images, a part a threat."""
    for split_number, split in enumerate(results.splits):
        for model_number, model in enumerate(results.models):
            for threat_number, threat in enumerate(results.threats(split)):
                numbers = robust_tables(results, model, split, threat)
                if numbers:
                    broken = breakers_table(results, model, split, threat)
                    key = f"robust-{split_number}-{model_number}" + (f"-t{threat_number}" if threat != WORST else "")
                    curves = figures.robust_curves(results, model, split, key, threat)
                    title = f"{model} on “{split}”" + (f": {said_threat(threat)}" if threat != WORST else "")
                    yield Part(title, curves, numbers[:1], [*numbers[1:], *([broken] if broken else [])])


def by_class(results: Results) -> Iterator[Part]:
    """Scores by class, and the confusion of classes."""
    for split_number, split in enumerate(results.splits):
        for model_number, model in enumerate(results.models):
            found = class_tables(results, model, split)
            confusion = confusion_table(results, model, split)
            clean = [*found[:1], *([confusion] if confusion else [])]
            if clean:
                matrices = confusion_matrices(results, model, split, f"confusion-{split_number}-{model_number}")
                yield Part(f"{model} on “{split}”", matrices, clean, found[1:])


def corrupted(results: Results) -> Iterator[Part]:
    """The headline score over the severity of corruptions."""
    for split_number, split in enumerate(results.splits):
        if not results.corruptions(split):
            continue
        for model_number, model in enumerate(results.models):
            table = corruption_table(results, model, split)
            if table:
                key = f"corruption-{split_number}-{model_number}"
                curves = figures.corruption_curves(results, model, split, key)
                maps = corruption_maps(results, model, split, f"corruption-map-{split_number}-{model_number}")
                yield Part(f"{model} on “{split}”", [*curves, *maps], [table], [])


def evidence(
    results: Results, checks: pd.DataFrame, compared: pd.DataFrame, gaps: pd.DataFrame, curves: pd.DataFrame
) -> dict[str, Section | None]:
    """Sections that a run may have or lack, by key. The tables are the files of their names, empty without them."""
    return {
        "glance": at_a_glance(results),
        "curves": of_predictions(results, curves),
        "validity": validity.section(results, checks),
        "differences": differences.section(results, compared),
        "clinical": clinical.section(results),
        "anatomy": anatomy.section(results),
        "subgroups": subgroups.section(results, gaps),
    }


def training(results: Results, history: pd.DataFrame) -> Iterator[Part]:
    """Losses and validation scores over the epochs."""
    for number_, model in enumerate(results.models):
        curves = figures.training_curves(results, history, model, f"training-{number_}")
        curves += radius_bands(results, history, model, f"radii-{number_}")
        if curves:
            yield Part(model, curves, [], [])


def as_papers(results: Results) -> list[Block]:
    """The tables that papers on robust training show, those that the run has numbers for."""
    blocks = [*_attacked(results), *_outside(results), *_thresholds(results), *_findings(results)]
    return [*blocks, *_precision(results), *_ablations(results)]


def _attacked(results: Results) -> Iterator[Block]:
    found = [table for split in results.splits for table in papers.attacked_tables(results, split)]
    if found:
        said = "What training against attacks costs on clean images, and what it saves on attacked ones."
        yield Block("Trainers on clean and on attacked images", said, found)


def _outside(results: Results) -> Iterator[Block]:
    found = [papers.outside_tables(results, split) for split in results.splits]
    if any(found):
        said = "The test split comes from the source of the training images; an outside set does not."
        shown, folded = ([table for of_set in found for table in of_set[part]] for part in (slice(1), slice(1, None)))
        yield Block("Inside and outside", said, shown, folded)


def _thresholds(results: Results) -> Iterator[Block]:
    parts: list[Part] = []
    for (split, explainer), metrics in results.by_threshold.items():
        for metric in metrics:
            for model in results.models:
                over, tuned = papers.threshold_tables(results, model, split, explainer, metric)
                key = f"threshold-{len(parts)}"
                curves = paper_figures.threshold_curves(results, model, split, explainer, metric, key)
                if over:
                    title = f"{model}, {explainer}, “{split}”"
                    parts.append(Part(title, curves, [over], [tuned] if tuned else [], _cited(results, over)))
    if parts:
        said = "How often a map, cut at a threshold, covers what it should; the larger T(IoU), the closer the fit must be."
        yield Block("Localisation of findings over T(IoU)", said, [], parts=parts)


def _cited(results: Results, table: Table) -> tuple[int, ...]:
    """Sources that published numbers of a table for no trainer in particular."""
    quotes = [quote for quote in results.published.quotes if quote.number in table.quoted]
    return tuple(sorted({quote.source for quote in quotes if "trainer" not in quote.place}))


def _findings(results: Results) -> Iterator[Block]:
    found = [table for model in results.models if (table := papers.finding_table(results, model))]
    if found:
        yield Block("AUROC by finding", "Each finding against all images without it.", found)


def _precision(results: Results) -> Iterator[Block]:
    found = [table for split in results.splits if (table := papers.precision_table(results, split))]
    if found:
        said = "Average precision asks whether images of a class are ranked above the others, also under attack."
        yield Block("mAP and mARP", said, found)


def _ablations(results: Results) -> Iterator[Block]:
    found = [varied for varied in ablation.ablations(results) if varied.tables or varied.folded]
    parts = [
        Part(varied.title, ablation_maps(varied, f"ablation-{place}"), varied.tables, varied.folded)
        for place, varied in enumerate(found)
    ]
    if parts:
        said = "Trainers that differ in nothing but one setting, or two."
        yield Block("Settings varied", said, [], parts=parts)


def unplaced(results: Results, shown: Iterable[Table]) -> list[list[str]]:
    """Published numbers that stand in no table, and why: source, data, place, metric, number, reason."""
    placed = {quote for table in shown for quote in table.quoted}
    return [
        [source.short, source.data, ", ".join(quote.place.values()) or "any", quote.metric, number(quote.value), why]
        for quote in results.published.quotes
        if quote.number not in placed
        for source in [results.published.sources[quote.source]]
        for why in ["measured, see rows.csv" if _measured(results, quote) else "not measured in this run"]
    ]


def _measured(results: Results, quote: Quote) -> bool:
    return any(quote.holds(place) for place in results.places)
