"""Every table of the report once, in the page's order and with a key, so that all formats show the same tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from cxr_eval.report.overview import CAPTION, Overview
from cxr_eval.report.parts import Block, Part, Section
from cxr_eval.report.tables import Line, Table, Words

ORDER = (
    *("overview", "main", "glance", "validity", "robust", "differences", "clinical", "curves", "by_class", "corrupted"),
    *("explained", "anatomy", "subgroups", "papers", "training", "audit"),
)
"""Parts of the report with tables, in the page's order; what is not named here comes last."""
WITHOUT = ("manifest", "results", "gallery", "doubts", "answers", "checklists", "protocol_text")
"""What has no table, and is long."""
LONGEST = 60
"""Characters of a key, which names a file."""


@dataclass(frozen=True)
class Placed:
    """A table, the name that no other table of the run has, and the headings that it stands under."""

    key: str
    headings: tuple[str, ...]
    table: Table | Words


def listed(content: Mapping[str, Any]) -> list[Placed]:
    """All tables of numbers and of words that a report's content holds.

    A key is made of the caption alone: lower case ASCII letters, digits and hyphens, with a number where captions are alike.
    """
    named = {**content, **content.get("evidence", {})}
    named.pop("evidence", None)
    order = [*(name for name in ORDER if name in named), *(name for name in named if name not in (*ORDER, *WITHOUT))]
    found: list[Placed] = []
    seen: set[int] = set()
    keys: set[str] = set()
    for name in order:
        for headings, table in _tables(named[name], ()):
            if id(table) not in seen:
                seen.add(id(table))
                key = _key(table.caption, keys)
                keys.add(key)
                found.append(Placed(key, headings, table))
    return found


def _tables(value: Any, headings: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Table | Words]]:
    if isinstance(value, Overview):
        yield headings, _overview(value)
    elif isinstance(value, (Table, Words)):
        yield headings, value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tables(inner, headings)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tables(inner, headings)
    elif is_dataclass(value) and not isinstance(value, type):
        below = (*headings, value.title) if isinstance(value, (Part, Block, Section)) else headings
        for each in fields(value):
            yield from _tables(getattr(value, each.name), below)


def _overview(short: Overview) -> Table:
    """The table of the first screen in the form of the others; what a comparison came to is said in words."""
    groups: dict[str, list[Line]] = {}
    for line in short.lines:
        cells = [replace(marked.cell, note="; ".join(filter(None, (marked.said, marked.cell.note)))) for marked in line.cells]
        groups.setdefault(line.model, []).append(Line((line.trainer,), tuple(cells)))
    return Table(CAPTION, ("Model", "Trainer"), short.columns, tuple((model, tuple(of)) for model, of in groups.items()))


def _key(caption: str, taken: set[str]) -> str:
    ascii_only = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode()
    base = re.sub(r"[^a-z0-9]+", "-", ascii_only.lower())[:LONGEST].strip("-") or "table"
    number, key = 1, base
    while key in taken:
        number += 1
        key = f"{base}-{number}"
    return key
