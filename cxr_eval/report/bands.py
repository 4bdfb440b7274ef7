"""What a metric of maps is worth: explainers beside maps that know nothing of the network, and maps under attack."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from cxr_eval.report.drawing import (
    FAINT,
    INK,
    Frame,
    Stroke,
    as_file,
    limits,
    line,
    marks,
    on_page,
    ticks,
    trainer_stroke,
    words,
)
from cxr_eval.report.figures import Picture
from cxr_eval.report.parts import Part
from cxr_eval.report.results import OF_MAPS, Results, Score, one_line
from cxr_eval.report.tables import DIRECTION, Layout, Table, Where, explanation_table, fill, spoken, trainers_of
from cxr_eval.report.threats import said_condition
from cxr_eval.types import CHANCE

WIDTH, ROW = 310.0, 18.5
"""Points: of a strip, and of one of its lines."""
NAME_ROOM, NAME_LENGTH = 108.0, 20
"""Room for the names of the lines in points, and how long a name may be in characters."""
TICK = "M-.8-4.5h1.6v9h-1.6z"
"""Outline of a reference's mark."""
WHICH = {"": "all images", "kept": "answer kept", "flipped": "answer flipped", "random pairs": "two images drawn by lot, clean"}

Strip = dict[str, list[tuple[int, Score]]]
"""Name of a line -> its scores, each with the place of its trainer."""


def explanations(results: Results) -> Iterator[Part]:
    """Metrics of maps by model: strips with references, tables of explainers, of references, and of maps under attack."""
    for number, model in enumerate(results.models):
        table, under = explanation_table(results, model), under_attack(results, model)
        shown = [each for each in (table, under) if each]
        references = reference_table(results, model)
        if shown or references:
            yield Part(
                model,
                strips(results, model, f"bands-{number}"),
                shown,
                [references] if references else [],
                said=_said(results) if references else "",
            )


def _said(results: Results) -> str:
    """How the strips are read, naming the references that there are."""
    meanings = {
        "oracle": "the known region itself",
        "random": "noise",
        "centre": "a blob in the middle",
        "edges": "the edges of the image",
        "lungs": "the lungs",
        "constant": "the same everywhere",
    }
    named = [f"{name} ({meanings[name]})" for name in results.references if name in meanings]
    if any(name not in meanings for name in results.references):
        named.append("randomised (the explainer on a network with random weights)")
    return (
        "Clean images. Dots with intervals are explainers, one a trainer; grey ticks are maps that know nothing of what the"
        f" network learned: {', '.join(named)}. The known region itself says how far the number can go; an explainer that is no"
        " better than the other ticks has shown nothing, however good its number looks."
    )


def strips(results: Results, model: str, key: str) -> list[Picture]:
    """One strip a metric that some reference has: x is the value, a line an explainer or a reference."""
    pictures: list[Picture] = []
    for split in dict.fromkeys(split for split, condition in results.explained() if condition == "clean"):
        for metric in results.explanation_metrics():
            at = {"model": model, "split": split, "metric": metric, "condition": "clean"}
            explainers = tuple(name for name in results.labels("explainers") if name != CHANCE)
            named = _scores(results, at, explainers)
            grey = _scores(results, at, (*results.references, CHANCE))
            if named and grey:
                pictures.append(_strip(f"{key}-{len(pictures)}", spoken(metric), model, results.trainers, named, grey))
    return pictures


def _scores(results: Results, at: Where, explainers: Sequence[str]) -> Strip:
    found: Strip = {}
    for explainer in explainers:
        scores = [(k, results.score(**at, trainer=trainer, explainer=explainer)) for k, trainer in enumerate(results.trainers)]
        known = [(k, score) for k, score in scores if score is not None and math.isfinite(score.value)]
        if known:
            found[explainer] = known
    return found


def _strip(key: str, title: str, model: str, trainers: Sequence[str], named: Strip, grey: Strip) -> Picture:
    better = DIRECTION[next(iter(named.values()))[0][1].better]
    said = [f"{name} on {trainers[k]} {score.text} {score.interval}" for name, known in named.items() for k, score in known]
    said += [f"reference {name} {_range(known)}" for name, known in grey.items()]
    alt = f"{title[:1].upper()}{title[1:]} of {model}, {better}: {'; '.join(said)}"
    body, height = _drawn(better, named, grey)
    names = [(one_line(trainer, NAME_LENGTH), trainer_stroke(k)) for k, trainer in enumerate(trainers)]
    alone = as_file(body, WIDTH, height, one_line(f"{model}: {title}", 60), names)
    return Picture(key, f"{title[:1].upper()}{title[1:]}", alt, on_page(body, WIDTH, height), alone)


def _range(known: Sequence[tuple[int, Score]]) -> str:
    texts = [score.text for _, score in sorted(known, key=lambda pair: pair[1].value)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _drawn(said: str, named: Strip, grey: Strip) -> tuple[str, float]:
    """The strip and its height: explainers, as many rows high as the most trainers need, then a row a reference."""
    rows = 0.5 + 0.5 * max(len(known) for known in named.values())
    full = rows * len(named) + len(grey)
    scores = [score for known in (*named.values(), *grey.values()) for _, score in known]
    frame = Frame(
        left=NAME_ROOM,
        top=5,
        right=WIDTH - 11,
        bottom=5 + ROW * full,
        x=limits((end for score in scores for end in (score.value, score.low, score.high)), 0.06),
        y=(full, 0),
    )
    drawn = []
    for value, text in ticks(*frame.x):
        across, _ = frame.at(value, full)
        drawn += [
            line([(across, frame.top), (across, frame.bottom)], Stroke(FAINT, 0.6)),
            words(across, frame.bottom + 12, text),
        ]
    top = 0.0
    for name, known in named.items():
        drawn.append(_name(frame, top + rows / 2, name))
        for place, (k, score) in enumerate(known):
            y, stroke = top + rows * (place + 0.75) / (len(known) + 0.5), trainer_stroke(k)
            if math.isfinite(score.low) and math.isfinite(score.high):
                drawn.append(line([frame.at(score.low, y), frame.at(score.high, y)], Stroke(stroke.colour, 1.5)))
            drawn.append(marks([frame.at(score.value, y)], stroke))
        top += rows
        drawn.append(line([frame.at(frame.x[0], top), frame.at(frame.x[1], top)], Stroke(FAINT, 0.8)))
    for name, known in grey.items():
        drawn.append(_name(frame, top + 0.5, name))
        values = [score.value for _, score in known]
        middle, ends = sum(values) / len(values), sorted({min(values), max(values)})
        drawn.append(line([frame.at(middle, 0), frame.at(middle, top + 0.5)], Stroke(INK, 0.8, (2, 2), opacity=0.35)))
        drawn.append(line([frame.at(value, top + 0.5) for value in ends], Stroke(INK, 1.2, opacity=0.4)))
        drawn.append(marks([frame.at(value, top + 0.5) for value in ends], Stroke(INK, marker=TICK)))
        top += 1
    edge = [(frame.left, frame.top), (frame.left, frame.bottom), (frame.right, frame.bottom)]
    drawn += [line(edge, Stroke(FAINT, 0.8)), words((frame.left + frame.right) / 2, frame.bottom + 27, said)]
    return "".join(drawn), frame.bottom + 36


def _name(frame: Frame, row: float, name: str) -> str:
    """What a line of the strip is about."""
    return words(frame.left - 5, frame.at(frame.x[0], row)[1] + 3, one_line(name, NAME_LENGTH), anchor="end")


def reference_table(results: Results, model: str) -> Table | None:
    """The explanation metrics of maps that know nothing of what the network learned; none of them is ever best."""
    splits = dict.fromkeys(split for split, condition in results.explained() if condition == "clean")
    groups = [
        (
            name + (f", {split}" if len(splits) > 1 else ""),
            {"model": model, "explainer": name, "split": split, "condition": "clean"},
            trainers_of(results),
        )
        for name in results.references
        for split in splits
    ]
    layout = Layout(
        f"References: metrics of maps that know nothing of {model}, clean images",
        ("Reference", "Trainer"),
        [(spoken(metric), {"metric": metric}) for metric in results.explanation_metrics()],
        groups,
        contest=lambda group, heads: (group, heads),
        directions=True,
        note="Maps of the image alone are the same for every trainer; metrics that ask the network still differ.",
    )
    return fill(results, layout)


def under_attack(results: Results, model: str) -> Table | None:
    """How alike maps of changed images are to those of the clean ones, beside maps of two different images."""
    here = [place for split in results.splits for place in results.places_of(model, split) if place["explainer"]]
    metrics = dict.fromkeys(match["metric"] for place in here if (match := OF_MAPS.fullmatch(place["metric"])))
    columns: list[tuple[str, Where]] = [
        (f"{spoken(metric)}, {said}".capitalize() if metric != "map_ssim" else f"{spoken(metric)}, {said}", where)
        for metric in metrics
        for which, said in WHICH.items()
        for where in [{"metric": f"{metric}[{which}]" if which else metric, "which": which}]
    ]

    def against(where: dict[str, str]) -> dict[str, str]:
        return where | {"condition": "clean"} if where.pop("which") == "random pairs" else where

    sets = {split for split, _ in results.explained()}
    groups = [
        (
            f"{explainer}, {said_condition(results, condition)}" + (f", {split}" if len(sets) > 1 else ""),
            {"model": model, "explainer": explainer, "split": split, "condition": condition},
            trainers_of(results),
        )
        for explainer in results.labels("explainers")
        for split, condition in results.explained()
        if condition != "clean"
    ]
    layout = Layout(
        f"Explanations under attack and corruption: likeness of the maps of {model} to those of the clean images",
        ("Explainer, images", "Trainer"),
        columns,
        groups,
        contest=lambda group, _: group,
        at=against,
        directions=True,
        note="Apart for images whose predicted class the change kept and flipped. A map that changes while the answer stays,"
        " down to the likeness of two different images, explains nothing that one could rely on; one that does not change while"
        " the answer flips did not explain the answer.",
    )
    return fill(results, layout)
