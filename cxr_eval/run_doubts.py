"""Doubts about a run and its networks, beside those of single attacks, images and explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from cxr_eval.choice import Choice
from cxr_eval.data.datasets import Datasets
from cxr_eval.plan import Plan
from cxr_eval.planned import PlannedPlugin
from cxr_eval.types import LABEL, PROBABILITY, Row, RowWarning, format_eps

FEWEST = 5
"""Images of a class below which it is no news that none of them is recognised."""

SAME = 0.9999
"""SSIM above which a corrupted image is the clean one."""


def idle(table: pd.DataFrame, scope: str) -> list[RowWarning]:
    """Doubts about a network that has given up classes: that attacks do not change its answer is then no robustness."""
    if "predicted" not in table:
        return _never_found(table, scope)
    if table["label"].nunique() < 2:
        return []
    said = table["predicted"].unique()
    if len(said) == 1:
        told = (
            f"The network calls all {len(table)} images '{said[0]}'. It has learned nothing, and that attacks do not change its"
            " answer is no robustness."
        )
        return [RowWarning("one_answer", "fail", scope, told)]
    right = set(table["label"][table["label"] == table["predicted"]])
    return [
        RowWarning(
            "class_given_up",
            "warn",
            scope,
            f"The network calls no image '{name}', although {count} are: its robust accuracy is that of the other classes."
            if name not in said
            else f"The network recognises none of the {count} images that are '{name}', and calls others so: its robust"
            " accuracy is that of the other classes.",
        )
        for name, count in table["label"].value_counts().items()
        if name not in said or (name not in right and count >= FEWEST)
    ]


def _never_found(table: pd.DataFrame, scope: str) -> list[RowWarning]:
    """Doubts about findings that a network finds in no image, although images have them."""
    names = [str(column).removeprefix(LABEL) for column in table if str(column).startswith(LABEL)]
    there = {name: count for name in names if (count := int((table[LABEL + name] == 1).sum()))}
    lost = [name for name in there if not (table[PROBABILITY + name] > 0.5).any()]
    if lost and len(lost) == len(there):
        told = (
            f"The network finds nothing in any of the {len(table)} images. It has learned nothing, and that attacks do not"
            " change its answer is no robustness."
        )
        return [RowWarning("one_answer", "fail", scope, told)]
    return [
        RowWarning(
            "class_given_up",
            "warn",
            scope,
            f"The network finds '{name}' in no image, although {there[name]} have it: its robust accuracy is that of the other"
            " findings.",
        )
        for name in lost
    ]


def partial_attacks(outcomes: Sequence[pd.DataFrame], scope: str) -> list[RowWarning]:
    """Notes for attacks that saw fewer images than others: the worst case or mARP does not know all of them."""
    seen = {str(table["attack"].iloc[0]): (table["image_id"].nunique(), bool(table["every"].all())) for table in outcomes}
    most, any_every = max(count for count, _ in seen.values()), any(every for _, every in seen.values())
    found = [
        RowWarning(
            "partial_attack",
            "note",
            f"{scope}, {name}",
            f"{name} was run on {count} of {most} attacked images; the worst case counts it for these images only"
            + (", and mARP leaves it out." if every else "."),
        )
        for name, (count, every) in seen.items()
        if count < most
    ]
    found += [
        RowWarning(
            "not_in_marp",
            "note",
            f"{scope}, {name}",
            f"mARP leaves {name} out, which skips images that are wrong already; `skip_broken: false` would count it.",
        )
        for name, (_, every) in seen.items()
        if any_every and not every
    ]
    largest = max(float(table["eps"].max()) for table in outcomes)
    found += [
        RowWarning(
            "partial_attack",
            "note",
            f"{scope}, {name}",
            f"{name} was not run beyond radius {format_eps(reach)}; the worst case at larger radii knows it only up to there.",
        )
        for table in outcomes
        for name, reach in [(str(table["attack"].iloc[0]), float(table["eps"].max()))]
        if reach < largest
    ]
    return found


def unchanged(corrupted: pd.DataFrame, scope: str) -> list[RowWarning]:
    """A note where a corruption changes nothing that one could see: withstanding it is no robustness. With a column ssim."""
    if not (corrupted["ssim"] > SAME).all():
        return []
    told = (
        f"At this image size the corruption changes no image to speak of (SSIM at least {corrupted['ssim'].min():.5f}): the"
        " scores are those of clean images."
    )
    return [RowWarning("nothing_changed", "note", scope, told)]


def silent(metrics: Sequence[PlannedPlugin], rows: Sequence[Row], scope: str) -> list[RowWarning]:
    """Warnings for explanation metrics that gave no number at all, as where there is no region to measure on."""
    measured = {row.metric.partition("[")[0] for row in rows}
    return [
        RowWarning(
            "nothing_measured",
            "warn",
            f"{scope}, {metric.label}",
            f"{metric.label} has no numbers: the images explained have no masks or boxes that it could be measured on.",
        )
        for metric in metrics
        if metric.label not in measured
    ]


def short_choices(planned: Plan, choices: Mapping[str, Choice]) -> list[RowWarning]:
    """Doubts about second stages that got fewer models than they asked for, because networks failed."""
    found = []
    for label, choice in choices.items():
        selection = planned.needs[label].models
        assert selection is not None
        assert selection.best is not None
        lost = [model for model in selection.always if model not in choice.models]
        if len(choice.models) < selection.best or lost:
            named = f"; {' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} not among them" if lost else ""
            told = (
                f"{label} was to fit {selection.best} models and fitted {len(choice.models)}, because networks of"
                f" {selection.of} failed{named}."
            )
            found.append(RowWarning("fewer_models", "warn", label, told))
    return found


def whole_run(planned: Plan, datasets: Datasets, failed: Sequence[str]) -> list[RowWarning]:
    """Doubts about the whole run, the loudest first."""
    found: list[RowWarning] = []
    if datasets.drawn:
        found.append(
            RowWarning(
                "drawn_images",
                "fail",
                "run",
                "The images are drawings of no patient. The numbers show that the tool works; they say nothing about any"
                " method on real chest X-rays.",
            )
        )
    found += [RowWarning("cell_failed", "warn", line.partition(": ")[0], line.partition(": ")[2]) for line in failed]
    found += datasets.warnings
    if planned.trains and len(planned.protocol.train.seeds) == 1:
        found.append(
            RowWarning(
                "one_seed",
                "note",
                "run",
                "Each network was trained once. The intervals say how the numbers vary over patients, not how they would vary"
                " if training were repeated.",
            )
        )
    return found
