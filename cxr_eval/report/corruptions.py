"""What corruptions cost, and how visible they are, as one table a model and set."""

from __future__ import annotations

from collections.abc import Hashable

from cxr_eval.report.results import Results
from cxr_eval.report.tables import HEADLINES, Layout, Table, Where, fill, headline, trainers_of

SIZE = "ssim"
ALIKE = "Likeness to the clean image (SSIM)"


def corruption_table(results: Results, model: str, split: str) -> Table | None:
    """The headline score of one model under each corruption and severity, and how like the clean image the images are."""
    corruptions, metric = results.corruptions(split), headline(results, split)
    severities = dict.fromkeys(written for series in corruptions.values() for _, written, _ in series)
    columns: list[tuple[str, Where]] = [("Clean", {"amount": ""})]
    columns += [(f"Severity {written}", {"amount": written}) for written in sorted(severities, key=float)]

    def at_severity(where: dict[str, str]) -> dict[str, str]:
        corruption, amount = where.pop("corruption"), where.pop("amount")
        return where | {"condition": f"{corruption}:{amount}" if amount else "clean"}

    def same_score(group: int, heads: tuple[str, ...]) -> Hashable:
        return group, heads[0] == ALIKE

    lines = trainers_of(results)
    sized = [
        ((ALIKE,), {"trainer": trainer, "metric": SIZE})
        for trainer in _sized(results, model, split)[:1]  # images are the same for every trainer
    ]
    at = {"model": model, "split": split, "metric": metric}
    groups = [(name, {**at, "corruption": name}, [*lines, *sized]) for name in corruptions]
    caption = f"{HEADLINES[metric]} of {model} on “{split}” under corruption"
    note = (
        "SSIM: structural similarity of corrupted and clean images, 1 if they are the same; the lower, the stronger the"
        " corruption. Severities of two corruptions are comparable by it only roughly."
        if sized
        else ""
    )
    return fill(results, Layout(caption, ("Corruption", "Trainer"), columns, groups, same_score, at=at_severity, note=note))


def _sized(results: Results, model: str, split: str) -> list[str]:
    """Trainers for which the size of corruptions was measured."""
    there = {place["trainer"] for place in results.places_of(model, split) if place["metric"] == SIZE}
    return [trainer for trainer in results.trainers if trainer in there]
