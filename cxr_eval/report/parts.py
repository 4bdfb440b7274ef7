"""What sections of the report are made of: parts, each with curves, tables and text about one thing."""

from __future__ import annotations

from dataclasses import dataclass, field

from cxr_eval.report.figures import Picture
from cxr_eval.report.tables import Table, Words


@dataclass(frozen=True)
class Part:
    """Curves and tables of one model on one set; `folded` tables are shown on demand."""

    title: str
    pictures: list[Picture]
    tables: list[Table]
    folded: list[Table]
    cited: tuple[int, ...] = ()
    """Sources of published numbers that have curves here."""
    said: str = ""
    words: list[Words] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """Tables of one kind, as a paper shows them; `parts` where there are many or curves beside them."""

    title: str
    said: str
    tables: list[Table]
    folded: list[Table] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A section of its own: what it is about in a few sentences, then its parts."""

    key: str
    title: str
    said: list[str]
    parts: list[Part]
