"""The gallery as pages show it: its section of report.html, and gallery.html beside it where that cannot hold every image."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cxr_eval.errors import RunError
from cxr_eval.report import gallery, pictures
from cxr_eval.report.environment import environment
from cxr_eval.report.gallery import SHEETS, Pictures, Shown, View
from cxr_eval.report.gallery_facts import COMPARED, Facts
from cxr_eval.report.results import Results, number
from cxr_eval.report.sections import MOST_OPEN
from cxr_eval.store import Run, write_whole

PAGE, FOLDER = "gallery.html", "gallery"
"""What stands beside report.html where it cannot hold every image."""
RULE = (
    "The images were chosen by lot from the explained ones before any network saw them: the classes in turn, images with a"
    " known region first. Every trainer has the same ones."
)


def content(
    run: Run,
    results: Results,
    *,
    title: str,
    notice: str,
    html: bool,
    sheets: bool,
    out: Path | None = None,
    budget: int = gallery.BUDGET,
) -> dict[str, Any]:
    """What templates show of the gallery; where `html` is made and the page cannot hold every image, gallery.html is written.

    sheets: the first images are PNG files for Markdown too. out: folder of the page, the run's if not given.

    Raises:
        RunError: another folder than the run's has a `gallery` that no report made.
    """
    out = run.folder if out is None else out
    stored = run.gallery()
    if not html:
        stored = type(stored)(stored.entries[:SHEETS], stored.arrays)
    out.mkdir(parents=True, exist_ok=True)
    if html and out.resolve() != run.folder.resolve() and (out / FOLDER).exists() and not (out / PAGE).exists():
        raise RunError(f"{out / FOLDER}: is there already and is no report's; choose another folder with --out")
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{FOLDER}.") as name:
        made, new = Path(name) / FOLDER, False

        def save(file: str, data: bytes) -> None:
            (made / file).write_bytes(data)

        made.mkdir()
        shown = gallery.build(
            stored, results, budget=budget, sheets=SHEETS if sheets else 0, save=save if html else None
        )  # fmt: skip
        found = _content(shown, results)
        new = bool(shown.beside)
        if html:
            _replace(out, made if new else None)
    if new:
        about = {"title": title, "notice": notice, "many": len(results.models) > MOST_OPEN, "gallery_files": True}
        text = environment("html").get_template("gallery_page.html.j2").render(found | about)
        write_whole(out / PAGE, (text.rstrip() + "\n").encode())
    return found


def _replace(folder: Path, made: Path | None) -> None:
    """New pictures in the place of those of an earlier report; None: there are none any more."""
    (folder / PAGE).unlink(missing_ok=True)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    if made is not None:
        made.rename(folder / FOLDER)


def _content(shown: Pictures, results: Results) -> dict[str, Any]:
    script, digest = _script()
    return {
        "gallery": shown,
        "gallery_choices": Choices(shown, results),
        "gallery_script": script,
        "gallery_script_hash": digest,
        "ramp": pictures.gradient(),
        "ramp_against": pictures.gradient(against=True),
    }


def _script() -> tuple[Markup, str]:
    """The page's script, and how its content security policy names it."""
    text = (resources.files("cxr_eval.report") / "templates" / "gallery.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


@dataclass(frozen=True)
class Choices:
    """What the gallery can be searched by, and how its numbers are called."""

    pictures: Pictures
    results: Results

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """True classes, in the task's order; empty text where an image has none."""
        there = {entry.label for entry in self.pictures.entries}
        return tuple(dict.fromkeys([*(name for name in self.results.classes if name in there), *sorted(there)]))

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Models that have panels."""
        return tuple(dict.fromkeys(sheet.model for entry in self.pictures.entries for sheet in entry.sheets))

    @cached_property
    def trainers(self) -> tuple[str, ...]:
        """Trainers that have panels."""
        there = {trainer for entry in self.pictures.entries for sheet in entry.sheets for trainer in sheet.trainers}
        return tuple(name for name in self.results.trainers if name in there)

    @cached_property
    def kinds(self) -> dict[str, int]:
        """Kinds of panels, by number: the image, the perturbation, then explainers."""
        views = (view for strip in self._strips() for view in strip.views if view)
        return {kind: k for k, kind in enumerate(dict.fromkeys(["image", "perturbation", *(view.kind for view in views)]))}

    @cached_property
    def changed(self) -> bool:
        """True if there is a perturbation."""
        return any(view.kind == "perturbation" for strip in self._strips() for view in strip.views if view)

    @cached_property
    def known(self) -> list[Facts]:
        """What is known of every image and network."""
        return [facts for entry in self.pictures.entries for sheet in entry.sheets for facts in sheet.facts]

    def _strips(self) -> Iterator[gallery.Strip]:
        return (strip for entry in self.pictures.entries for sheet in entry.sheets for strip in sheet.strips)

    def kind(self, view: View) -> int:
        """A view's kind by number."""
        return self.kinds[view.kind]

    @property
    def layers(self) -> list[tuple[int, str]]:
        """Panels that can be taken out of the page, by number."""
        return [(k, kind.removeprefix("map ")) for kind, k in self.kinds.items() if k > 1 or (k == 1 and self.changed)]

    @property
    def lists(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Lists to choose from: name, what it is called, values with their words; those with one choice are left out."""
        several = len(self.trainers) * len(self.models) > 1
        one = "any network shown" if several else "the network"
        lists = [("label", "Class", self.labels), ("model", "Model", self.models), ("trainer", "Trainer", self.trainers)]
        found = [
            (name, said, [("", "all"), *((str(k), value or "not one") for k, value in enumerate(values))])
            for name, said, values in lists
            if len(values) > 1
        ]
        flips, wrongs = ({getattr(facts, name) is not None for facts in self.known} for name in ("flipped", "wrong"))
        said = [("", "all")]
        if True in flips:
            said += [("flipped", f"flipped: {one}"), ("kept", f"kept: {'every network shown' if several else 'the network'}")]
        if True in wrongs:
            said += [("wrong", f"wrong on the clean image: {one}")]
        orders = [
            ("mass", f"least relevance in {self.region} first"),
            ("change", "largest map change first"),
            ("loss", "largest loss of confidence first"),
        ]
        order = [pair for pair in orders if any(getattr(facts, pair[0]) is not None for facts in self.known)]
        found += [("answer", "Answer", said)] if len(said) > 1 else []
        return [*found, ("order", "Order", [("", "as chosen"), *order])] if order else found

    @property
    def region(self) -> str:
        """The kind of region that relevance is counted in."""
        return self.pictures.regions[0] if self.pictures.regions else ""

    @property
    def explainer(self) -> str:
        """The explainer whose maps are compared and located."""
        return next((kind.removeprefix("map ") for kind, k in self.kinds.items() if k == 2), "")

    @property
    def measures(self) -> list[tuple[str, str]]:
        """What the numbers beside a trainer mean."""
        found = [
            ("flipped", "flipped by", "The answer is another under this change than on the clean image."),
            (
                "mass",
                f"relevance in {self.region}",
                f"Share of the positive relevance of the clean {self.explainer} map that lies there.",
            ),
            (
                "change",
                "map change",
                f"1 less the rank correlation of the {self.explainer} maps of the clean and the changed image, those above"
                f" {COMPARED} pixels averaged; 0: the same order, 1: unrelated. The largest over the changes.",
            ),
            (
                "loss",
                "confidence lost",
                "Probability of the true class that the change took away; the largest over the changes.",
            ),
        ]
        return [(name, said) for key, name, said in found if any(getattr(facts, key) is not None for facts in self.known)]

    def said(self, facts: Facts) -> list[tuple[str, bool]]:
        """What stands beside a trainer, and whether it is bad news."""
        found = []
        if facts.wrong:
            found.append(("wrong on the clean image", True))
        if facts.flipped is not None:
            found.append((f"flipped by {', '.join(facts.flipped)}", True) if facts.flipped else ("answer kept", False))
        if facts.loss is not None:
            found.append((f"confidence lost {number(facts.loss)}", False))
        if facts.mass is not None:
            found.append((f"relevance in {self.region} {number(facts.mass)}", False))
        if facts.change is not None:
            found.append((f"map change {number(facts.change)}", False))
        return found

    def told(self, count: int, files: bool) -> list[str]:
        """What the reader must know before the pictures; count: images on this page, files: their pictures are beside it."""
        shown, among = self.pictures, f"{count} of {self.pictures.count}" if count < self.pictures.count else str(count)
        seeds = ", one seed a model" if len(self.results.seeds) > 1 else ""
        first = f"{among} image{'s' if shown.count != 1 else ''}, the trainers one below the other{seeds}. {RULE}"
        names = [entry.image_id for entry in shown.entries]
        if len(set(names)) < len(names):
            first += " An image stands here once for each of its findings that has a region."
        second = "Examples are not evidence; the tables are."
        if shown.side < shown.source_side and not files:
            second += f" Pictures are shown at {shown.side} of {shown.source_side} pixels to keep this file small."
        if shown.side > pictures.EXACT:
            second += (
                f" Images are JPEG of quality {pictures.QUALITY}, a grey level or two off; perturbations and maps have"
                f" {pictures.LEVELS} steps."
            )
        return [first, second]

    @staticmethod
    def data(value: float | None) -> str:
        """A number for the script; empty where none is known."""
        return "" if value is None else f"{value:.4f}"

    @staticmethod
    def panels(entry: Shown, *, each: bool = False) -> int:
        """Most panels that one trainer has of an image, of all conditions together or of each."""
        lines = [[len(views) for _, views in sheet.conditions(k)] for sheet in entry.sheets for k in range(len(sheet.trainers))]
        return max((max(line) if each else sum(line) for line in lines if line), default=1)
