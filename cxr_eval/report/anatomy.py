"""What the networks read inside and outside of known regions, as tables: scores with parts of the picture taken away."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from cxr_eval.report.parts import Part, Section
from cxr_eval.report.results import Results
from cxr_eval.report.tables import HEADLINES, Layout, Table, Where, fill, spoken, trainers_of
from cxr_eval.types import CHANCE

LEAD = "inside_minus_outside"
KIND = re.compile(rf"{LEAD}\[(?P<kind>.+)\]", re.DOTALL)
FOLLOWS = "follows_marker"
MASS = "relevance_mass"
RANKED = "Trainers are ranked by inside minus outside, the best first; none is marked best that reads more on the wrong side."
MAPS = (
    " Relevance mass is the share of a map that lies in the region: it says something only against the share of the image that"
    " the region has. Where maps and scores disagree, trust the scores."
)


def section(results: Results) -> Section | None:
    """One part a model and set, one table a kind of region; None where no region was audited."""
    parts = [part for split in results.splits for model in results.models for part in _part(results, model, split)]
    if not parts:
        return None
    said = (
        "Parts of the picture are taken away, and the scores say what the network had read there. “Only” keeps the region and"
        " blots out the rest, “without” blots out the region; inside minus outside is the score of the first minus that of"
        " the second. A network that diagnoses from the surroundings of the lungs, or from letters burned into the picture,"
        " shows it here, whatever its maps look like. Blotting out leaves an outline, which a network may read too."
    )
    return Section("anatomy", "What is read where", [said], parts)


def _part(results: Results, model: str, split: str) -> Iterator[Part]:
    kinds = dict.fromkeys(
        named["kind"] for place in results.places_of(model, split) if (named := KIND.fullmatch(place["metric"]))
    )
    tables = [
        table for kind in kinds for table in (_region(results, model, split, kind), _follows(results, model, split, kind))
    ]
    found = [table for table in tables if table]
    if found:
        yield Part(f"{model} on “{split}”", [], found, [])


def _region(results: Results, model: str, split: str, kind: str) -> Table | None:
    metric = f"{LEAD}[{kind}]"
    score = next(
        (name for name in ("balanced_accuracy", "auroc") if results.measured(name, split=split, condition=f"intact {kind}")),
        "accuracy",
    )
    columns: list[tuple[str, Where]] = [("Inside minus outside", {"metric": metric, "condition": f"intact {kind}"})]
    columns += [
        (f"{HEADLINES[score]}, {title}", {"metric": score, "condition": f"{part} {kind}"})
        for part, title in (("intact", "intact"), ("only", f"only the {kind}"), ("without", f"without the {kind}"))
    ]
    conditions = dict.fromkeys(place["condition"] for place in results.places_of(model, split))
    columns += [
        (f"Robust accuracy, attack {part} the {kind}, radius {written}", {"metric": "robust_accuracy", "condition": condition})
        for part in ("inside", "outside")
        for condition in conditions
        if condition.startswith(f"{part} {kind}:")
        for written in [condition.rpartition(":")[2]]
    ]
    mass = f"{MASS}[{kind}]"
    columns += [
        (
            "Share of the image (relevance mass by chance)"
            if explainer == CHANCE
            else f"{spoken(MASS).capitalize()}, {explainer}",
            {"metric": mass, "condition": "clean", "explainer": explainer},
        )
        for explainer in results.labels("explainers")
    ]
    at = {"model": model, "split": split}
    mapped = any(results.measured(mass, split=split, explainer=explainer) for explainer in results.labels("explainers"))
    layout = Layout(
        f"Inside and outside of the {kind}: {model} on “{split}”, images that have a {kind}",
        ("Model", "Trainer, ranked"),
        columns,
        [(model, at, _ranked(results, at, metric, kind))],
        directions=True,
        note=RANKED + (MAPS if mapped else ""),
    )
    return fill(results, layout)


def _ranked(results: Results, at: Where, metric: str, kind: str) -> Sequence[tuple[tuple[str, ...], Where]]:
    """Trainers, those first that read most inside the region (least, where inside is worse); without a number last."""

    def place(line: tuple[tuple[str, ...], Where]) -> float:
        score = results.score(**at, **line[1], metric=metric, condition=f"intact {kind}")
        if score is None or math.isnan(score.value):
            return math.inf
        return score.value if score.better == "lower" else -score.value

    return sorted(trainers_of(results), key=place)


def _follows(results: Results, model: str, split: str, kind: str) -> Table | None:
    at = {"model": model, "split": split}
    layout = Layout(
        f"Images given the {kind} of another class: {model} on “{split}”",
        ("Model", "Trainer"),
        [
            (f"Called {name} more often", {"metric": f"{FOLLOWS}[{name}]", "condition": f"{kind} of {name}"})
            for name in results.classes
        ],
        [(model, at, trainers_of(results))],
        directions=True,
        note=f"By how much the share of images of other classes that are called a class rises when their {kind} is replaced"
        f" by one of that class. 0: the network does not read the {kind}.",
    )
    return fill(results, layout)
