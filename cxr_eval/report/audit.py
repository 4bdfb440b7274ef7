"""The audit of the images as people read it: a section of the report, and a page of its own for `data check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_eval.report import pictures
from cxr_eval.report.environment import environment
from cxr_eval.report.results import number
from cxr_eval.report.tables import Words
from cxr_eval.report.verdict import plural
from cxr_eval.store import Audit, write_whole

SIDE = 160
"""Longest side of a suspect's picture, pixels."""
LISTED = 30
"""Suspects of one kind without a picture that are listed; audit.json has more."""
LEVELS = {"fail": "Failed check", "warn": "Warning", "note": "Note"}
KINDS = {
    "near_duplicate_labels": "Same picture, two patients, different labels",
    "near_duplicates_across": "Same picture, two patients, on two sides of a split",
    "near_duplicates": "Same picture, two patients",
    "inverted_images": "Inverted images",
    "flat_images": "Images that show nothing",
    "region_doubt": "Regions in doubt",
    "label_doubt": "Labels worth a second look",
    "burned_in": "Letters and markers in the picture",
}
"""Kinds of suspects, worst first."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One small picture: a name, its data URI, what is under it, and the file that Markdown shows."""

    said: str
    uri: str
    file: str
    png: bytes


@dataclass(frozen=True)
class Case:
    """One suspect with its picture, or a pair with both."""

    why: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Kind:
    """All suspects of one kind: those with pictures, and a table of those without."""

    title: str
    said: str
    cases: list[Case]
    others: Words | None


@dataclass(frozen=True)
class Section:
    """What the templates show."""

    sentences: list[str]
    tables: list[Words]
    kinds: list[Kind]

    @property
    def files(self) -> dict[str, bytes]:
        """Pictures as PNG files, by the names that the Markdown text uses."""
        return {each.file: each.png for kind in self.kinds for case in kind.cases for each in case.pictures}


def section(audit: Audit | None) -> Section | None:
    """The audit as a section of the report; None where there was none."""
    if audit is None:
        return None
    tables = audit.content["tables"]
    return Section(list(_sentences(tables)), [table for table in _tables(tables) if table.rows], list(_kinds(audit)))


def write(
    folder: Path, audit: Audit, *, title: str, notice: str = "", formats: Sequence[str] = ("html", "md")
) -> dict[str, Path]:
    """Paths of the stand-alone pages by format: data.html, and data.md with figures/.

    title: the protocol's. notice: a line at the top, such as that the images are drawn; none if empty.
    """
    shown = section(audit)
    assert shown is not None
    content = {
        "title": title,
        "notice": notice,
        "audit": shown,
        "findings": _findings(audit.content),
        "levels": LEVELS,
        "skipped": [[each["reader"], each["image"], each["reason"]] for each in audit.content["skipped"]],
        "left_out": [[str(each[key]) for key in ("dataset", "reader", "reason", "images")] for each in _left_out(audit)],
    }
    written: dict[str, Path] = {}
    for name in formats:
        path = folder / f"data.{name}"
        text = environment(name).get_template(f"audit.{name}.j2").render(content)
        write_whole(path, (text.rstrip() + "\n").encode())
        written[name] = path
    if "md" in formats:
        for file in (folder / "figures").glob("audit-*.png"):
            file.unlink()
        for file_name, png in shown.files.items():
            write_whole(folder / "figures" / file_name, png)
    return written


def _left_out(audit: Audit) -> list[Record]:
    found: list[Record] = audit.content["tables"]["left_out"]
    return found


def _findings(content: Record) -> list[Record]:
    """All doubts, worst first; what loading found before what the audit found."""
    order = list(LEVELS)
    return sorted([*content["loaded"], *content["warnings"]], key=lambda each: order.index(each["level"]))


def _sentences(tables: Record) -> Iterator[str]:
    shared = [row for row in tables["patients_across"] if row["patients"]]
    if tables["patients_across"]:
        yield "No patient is in two sets." if not shared else "Some patients are in two sets; see the table."
    if tables["duplicates"]:
        about = tables["duplicates"][0]
        pairs = {0: "no pair shows", 1: "1 pair shows"}.get(about["pairs"], f"{about['pairs']:,} pairs show")
        yield f"{about['compared']:,} pictures were compared with each other: {pairs} the same scene under two patients."
    else:
        yield "Copies under two patients were not looked for."
    if not tables["recognised"] and not tables["label_from"]:
        yield "No tiny model was asked, or there were too few images for it."


def _tables(tables: Record) -> Iterator[Words]:
    yield Words(
        "Sets",
        ("Set", "Reader", "Images", "Patients", "As networks see them", "Files", "Mean grey"),
        [
            [
                *(row["split"], row["reader"], f"{row['images']:,}", f"{row['patients']:,}"),
                f"{row['width']} by {row['height']}, {plural(row['channels'], 'channel')}, {row['type']}",
                ", ".join(f"{count:,} {name}" for name, count in row["formats"].items()),
                f"{number(row['grey_mean'])} ± {number(row['grey_std'])}",
            ]
            for row in tables["sets"]
        ],
        "Mean grey of 1, and how much it varies from image to image.",
    )
    shared = [[row["split"], row["other"], f"{row['patients']:,}"] for row in tables["patients_across"] if row["patients"]]
    note = "Allowed only where neither set is fitted on, such as an outside set that is a part of the test images."
    yield Words("Patients in two sets", ("Set", "Set", "Patients"), shared, note)
    yield _counts(tables["counts"])
    yield Words(
        "What a tiny model tells from the picture alone",
        ("What", "Values", "Balanced accuracy", "Chance", "Images", "Patients"),
        [[_what(row), ", ".join(row["values"]), *_score(row)] for row in tables["recognised"]],
        "24 by 24 pixels and plain numbers of the grey, logistic regression, cross-validated over whole patients.",
    )
    yield Words(
        "How well the label can be told",
        ("Label", "From", "Balanced accuracy", "Chance", "Images", "Patients"),
        [
            [
                ", ".join(row["values"]),
                "the picture (tiny model)" if row["from"] == "picture" else f"{row['from']} alone",
                *_score(row),
            ]
            for row in tables["label_from"]
        ],
        "A network must be well above what view, sex, age or source alone tell, or it may know no more than they do.",
    )
    yield Words(
        "Associations that turn round between training and another set",
        ("Set", "Column", "Value", "Class", "Training: in class, others", "There: in class, others"),
        [
            [
                *(row["split"], row["column"], row["value"], row["class"]),
                f"{row['train_in']:.0%}, {row['train_out']:.0%}",
                f"{row['there_in']:.0%}, {row['there_out']:.0%}",
            ]
            for row in tables["reversals"]
        ],
        "What helps in training misleads there.",
    )
    strong = sorted(tables["associations"], key=lambda row: (row["split"] != "train", -row["strength"]))
    yield Words(
        "What goes together with the label",
        ("Set", "Column", "Class", "Cramer's V", "Most telling value", "In class", "In others"),
        [
            [
                *(row["split"], row["column"], row["class"], f"{row['strength']:.2f}", row["value"]),
                *(f"{row['share_in']:.0%}", f"{row['share_out']:.0%}"),
            ]
            for row in strong
        ],
        "0: not at all, 1: one tells the other; from 0.3 on it is a warning.",
    )
    yield Words(
        "Known regions",
        ("Set", "Region", "Images", "Smallest", "Median", "Largest"),
        [
            [row["split"], row["kind"], f"{row['images']:,}", *(f"{row[key]:.1%}" for key in ("least", "median", "largest"))]
            for row in tables["regions"]
        ],
        "Share of the image.",
    )
    copies = [
        [row["split"], row["other"], f"{row['pairs']:,}", f"{row['different_labels']:,}"] for row in tables["duplicates"][1:]
    ]
    yield Words("Same picture under two patients", ("Set", "Set", "Pairs", "With different labels"), copies)


def _counts(records: list[Record]) -> Words:
    classes = list(records[0]["classes"]) if records else []
    rows = [
        [row["column"], row["value"], row["split"], f"{row['images']:,}", f"{row['patients']:,}"]
        + [f"{row['classes'][name]:,}" for name in classes]
        for row in records
    ]
    return Words("Images by what the tables say", ("Column", "Value", "Set", "Images", "Patients", *classes), rows)


def _what(row: Record) -> str:
    return f"set “{row['scope']}”" if row["column"] == "set" else str(row["column"])


def _score(row: Record) -> list[str]:
    return [number(row["score"]), number(row["chance"]), f"{row['images']:,}", f"{row['patients']:,}"]


def _kinds(audit: Audit) -> Iterator[Kind]:
    counts = {row["code"]: row for row in audit.content["tables"]["found"]}
    for code, title in KINDS.items():
        suspects = [each for each in audit.content["suspects"] if each["code"] == code]
        if not suspects:
            continue
        cases = [Case(each["why"], tuple(_pictures(audit, each))) for each in suspects if each["picture"]]
        bare = [each for each in suspects if not each["picture"]][:LISTED]
        names = [[_name(each, ""), _name(each, "other_"), each["why"]] for each in bare]
        count, told = counts[code]["count"], len(cases) + len(bare)
        said = f"{count:,} found" + ("." if told == count else f", {told} of them here.")
        yield Kind(title, said, cases, Words("Without picture", ("Image", "and", "Why"), names) if bare else None)


def _name(suspect: Record, which: str) -> str:
    image = suspect[f"{which}image_id"]
    return f"{image} ({suspect[f'{which}split']})" if image else ""


def _pictures(audit: Audit, suspect: Record) -> Iterator[Picture]:
    for which in ("", "other_"):
        key = suspect[f"{which}picture"]
        if key:
            layer = pictures.picture(audit.arrays[key], SIDE)
            yield Picture(_name(suspect, which), layer.uri, f"audit-{key}.png", layer.data)
