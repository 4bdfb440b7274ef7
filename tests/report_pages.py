"""A made-up run with its report, and how tests read numbers and tags out of report pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from cxr_eval.report.render import render
from cxr_eval.report.results import Results
from cxr_eval.store import Run
from cxr_eval.types import Row, RowWarning, SkippedFile
from tests.fake_run import Fake

SMALL = Fake(
    models=("resnet18",), trainers=("standard", "pgd"), seeds=(0,), attacks=("pgd",), images=1, corruptions=(), outside=()
)
FAILED_CHECK = RowWarning("x", "fail", "resnet18, standard, seed 0, pgd:0.02", "A check failed.")


class Page(HTMLParser):
    """Tables, tags and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._cell: list[str] | None = None
        self._caption = ""
        self._skip = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("style", "title", "script")
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("th", "td", "caption"):
            self._cell = []
        if tag == "span" and self._cell is not None:
            self._cell.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("style", "title", "script")
        if tag in ("th", "td", "caption") and self._cell is not None:
            text = " ".join("".join(self._cell).split())
            if tag == "caption":
                self._caption = text
                self.tables[text] = []
            else:
                self.tables[self._caption][-1].append(text)
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if not self._skip and data.strip():
            self.words.append(" ".join(data.split()))


def numbers_of_html(text: str) -> dict[tuple[str, str, str, int], str]:
    """(caption, group, line, column) -> number, interval and range, as printed."""
    found = {}
    for caption, lines in Page(text).tables.items():
        group = ""
        for line in lines[1:]:
            if len(line) == 1:
                group = line[0]
            for column, cell in enumerate(line[1:]):
                shown = cell.replace("★", "").replace("(best)", "").replace("†", "")
                found[caption, group, line[0], column] = " ".join(shown.split())
    return {key: cell for key, cell in found.items() if re.match(r"[\d.n/a—-]+( \[|$)", cell)}


def numbers_of_markdown(text: str) -> dict[tuple[str, str, str, int], str]:
    """The same of a Markdown report."""
    found, caption = {}, ""
    for line in text.splitlines():
        if line.startswith("**") and line.endswith("**"):
            caption = line.strip("*").replace("\\", "")
        if line.startswith("| ") and " --- " not in line:
            group, name, *cells = (part.strip().replace("\\", "") for part in line.strip("|").split(" |"))
            for column, cell in enumerate(cells):
                shown = cell.replace("*", "").replace("★", "").replace("†", "").replace(";", "")
                found[caption, group, name, column] = " ".join(shown.split())
    return {key: cell for key, cell in found.items() if re.match(r"[\d.n/a—-]+( \[|$)", cell)}


def usual(folder: Path) -> Run:
    """Two models, three trainers, two seeds, with its report; one cell failed."""
    fake = Fake(
        failed=(("densenet121", "pgd", 1),),
        warnings=(FAILED_CHECK, RowWarning("one_source", "warn", "run", "One hospital only.")),
        skipped=(SkippedFile("phantom", "images/9.png", "not an image"),),
    )
    written = fake.write(folder)
    render(written)
    return written


def results_of(fake: Fake, rows: list[Row] | None = None) -> Results:
    """What a report reads of a made-up run, without its folder."""
    return Results(pd.DataFrame(fake.rows() if rows is None else rows), fake.manifest(), fake.warnings)


def reported(fake: Fake, folder: Path) -> tuple[str, str]:
    """HTML and Markdown of a made-up run."""
    written = render(fake.write(folder))
    return written["html"].read_text(encoding="utf-8"), written["md"].read_text(encoding="utf-8")
