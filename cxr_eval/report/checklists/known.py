"""What a run folder tells: its numbers, checks, audit and counts, and what the authors stated about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from cxr_eval.report.results import Results, Score, number, one_line
from cxr_eval.report.tables import headline, localisation
from cxr_eval.report.verdict import is_drawn, plural, same_collection
from cxr_eval.report.words import whose
from cxr_eval.store import Run

FITTED = ("train", "val")
UNKNOWN = ("", "not known", "unknown")
"""How the audit and the subgroups name what no column says."""
LONGEST = 600
"""Characters of what the authors stated that an item quotes; the cards quote all of it."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """A run as checklists and cards read it; every table may be empty and the audit may lack."""

    results: Results
    checks: list[Record]
    differences: pd.DataFrame
    gaps: pd.DataFrame
    counts: pd.DataFrame
    skipped: pd.DataFrame
    audit: Mapping[str, Any] | None
    """Content of audit.json."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.results.manifest

    @property
    def data(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest["data"]
        return found

    @cached_property
    def about(self) -> dict[str, str]:
        """What the authors stated in the protocol, by key; nothing in manifests that know no such statements."""
        stated: Mapping[str, Any] = self.manifest.get("about") or {}
        return {key: str(text).strip() for key, text in stated.items() if text and str(text).strip()}

    def stated(self, key: str) -> str:
        """A statement of the authors, marked as theirs; empty if they made none."""
        return f"Stated by the authors: “{one_line(self.about[key], LONGEST)}”." if key in self.about else ""

    @property
    def drawn(self) -> bool:
        """True if no patient stands behind the images."""
        return is_drawn(self.results)

    @cached_property
    def codes(self) -> dict[str, int]:
        """Code -> how many warnings the run stored under it."""
        found: dict[str, int] = {}
        for warning in self.results.warnings:
            found[warning.code] = found.get(warning.code, 0) + 1
        return found

    @cached_property
    def tables(self) -> Mapping[str, Any]:
        """Tables of the audit; empty without one."""
        found: Mapping[str, Any] = self.audit["tables"] if self.audit else {}
        return found

    @property
    def splits(self) -> Mapping[str, Mapping[str, Any]]:
        """Set -> its images, patients and hash."""
        found: Mapping[str, Mapping[str, Any]] = self.data["splits"]
        return found

    def size(self, split: str) -> str:
        """`386 images of 287 patients`; drawn images have no patients."""
        about = self.splits[split]
        of = f"{about['patients']:,} drawn patients" if self.drawn else f"{plural(about['patients'], 'patient')}"
        return f"{plural(about['images'], 'image')} of {of}"

    @cached_property
    def patients_unknown(self) -> bool:
        """True if images of a set name no patient, so that every image, or every lesion, stood for one."""
        return "patients_unknown" in self.codes or whose(self.data) != "patient"

    def shared(self, one: str, other: str) -> int | None:
        """Patients that two sets have in common; None if that was not counted."""
        pairs = {
            frozenset((row["split"], row["other"])): int(row["patients"]) for row in self.tables.get("patients_across", ())
        }
        return pairs.get(frozenset((one, other)))

    def same_source(self, name: str) -> bool:
        """True if an outside set is read from the collection of the training images."""
        return same_collection(self.data, name)

    @cached_property
    def attacked(self) -> list[str]:
        """Sets with robust accuracies."""
        return [split for split in self.results.splits if self.results.threats(split)]

    @cached_property
    def worst_cases(self) -> list[Score]:
        """Worst-case robust accuracies at all radii."""
        return [
            score
            for split in self.attacked
            for threat in self.results.threats(split)
            for _, _, condition in self.results.of_threat(split, threat)[threat]
            for score in self.scores("robust_accuracy", split=split, condition=condition)
        ]

    @cached_property
    def validity(self) -> list[Record]:
        """Lines of checks.csv that are about attacks."""
        return [line for line in self.checks if line["kind"] == "validity"]

    def scores(self, metric: str, *, split: str, condition: str = "clean", explainer: str = "") -> list[Score]:
        """One number of every model and trainer that has it."""
        found = (
            self.results.score(model=m, trainer=t, split=split, metric=metric, condition=condition, explainer=explainer)
            for m in self.results.models
            for t in self.results.trainers
        )
        return [score for score in found if score is not None]

    def with_interval(self, metric: str, *, split: str, condition: str = "clean") -> tuple[int, int]:
        """How many of a metric's numbers are defined, and how many of those have an interval."""
        defined = [score for score in self.scores(metric, split=split, condition=condition) if score.value == score.value]
        return len(defined), sum(score.low == score.low and score.high == score.high for score in defined)

    def of_subgroups(self, metric: str) -> tuple[int, int]:
        """How many of a metric's numbers of subgroups on clean images are defined, and how many of those have an interval."""
        found = [
            score
            for subgroups in self.results.subgroups.values()
            for subgroup in subgroups
            for m in self.results.models
            for t in self.results.trainers
            for split in self.results.splits
            if (score := self.results.score(model=m, trainer=t, split=split, metric=metric, subgroup=subgroup)) is not None
        ]
        defined = [score for score in found if score.value == score.value]
        return len(defined), sum(score.low == score.low and score.high == score.high for score in defined)

    def has(self, metric: str) -> bool:
        """True if the run measured it on a set that is reported, `metric[...]` included."""
        return any(
            place["split"] not in FITTED and place["metric"].partition("[")[0] == metric and not place["explainer"]
            for place in self.results.places
        )

    @property
    def headline(self) -> str:
        """The score that stands for all on the test images."""
        return headline(self.results, "test")

    @cached_property
    def localised(self) -> list[tuple[str, str, Score]]:
        """(explainer, metric, score) where maps were measured against known regions and the number is defined."""
        return [
            (explainer, metric, score)
            for split, condition, explainer, metric in localisation(self.results)
            for score in self.scores(metric, split=split, condition=condition, explainer=explainer)
            if score.value == score.value
        ]

    @cached_property
    def groups(self) -> dict[str, list[Record]]:
        """Column (`sex`, `age`, `view`, `site`) -> the audit's counts of its values by set."""
        found: dict[str, list[Record]] = {}
        for row in self.tables.get("counts", ()):
            found.setdefault(str(row["column"]), []).append(row)
        return found

    def settings(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Label and settings of every plugin of a kind."""
        return [(str(use["label"]), use["settings"]) for use in self.manifest[kind]]

    @property
    def done(self) -> list[Mapping[str, Any]]:
        """Cells whose networks were trained."""
        return [cell for cell in self.manifest["cells"] if cell["status"] != "failed"]


def known(run: Run, results: Results) -> Known:
    """What a run folder tells."""
    audit = run.audit()
    checks = run.table("checks").fillna("").to_dict("records")
    return Known(
        results,
        [{str(name): value for name, value in line.items()} for line in checks],
        run.table("differences"),
        run.table("gaps"),
        run.table("counts"),
        run.table("skipped"),
        audit.content if audit else None,
    )


def span(scores: list[Score]) -> str:
    """`0.612`, or `0.412 to 0.612` of several; says so where a check failed on one of them."""
    values = sorted(score.value for score in scores if score.value == score.value)
    if not values:
        return number(float("nan"))
    low, high = number(values[0]), number(values[-1])
    failed = " (a check failed on some)" if any(score.failed for score in scores) else ""
    return (low if low == high else f"{low} to {high}") + failed
