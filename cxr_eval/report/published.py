"""Numbers that others published, and where in a report's tables they belong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PLACES = ("model", "trainer", "split", "condition", "explainer")
"""What a published number may be about; it holds for every value of a place that it does not name."""


@dataclass(frozen=True)
class Quote:
    """One published number; `place` names what it is about, beside its metric."""

    source: int
    """Which of the sources it comes from."""
    number: int
    """Which of all published numbers it is."""
    metric: str
    value: float
    place: Mapping[str, str]

    def holds(self, place: Mapping[str, str]) -> bool:
        """True if it was published for the number that stands at this place."""
        there = {"condition": "clean", "explainer": ""} | dict(place)
        return self.metric == there["metric"] and all(there[name] == wanted for name, wanted in self.place.items())


@dataclass(frozen=True)
class Source:
    """Who published numbers, and measured on which data."""

    cited: str
    short: str
    data: str

    @property
    def head(self) -> str:
        """Name of a column of its numbers."""
        return f"{self.short}, published"

    @property
    def said(self) -> str:
        """The full citation and the data, as they stand below a table."""
        return f"{self.head}: {self.cited.rstrip('. ')}. Measured on {self.data.rstrip('. ')}."


class Published:
    """All published numbers of a run's protocol, as its manifest lists them."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self.sources = tuple(Source(entry["source"], entry["short"], entry["data"]) for entry in entries)
        self.quotes = tuple(self._read(entries))

    @staticmethod
    def _read(entries: list[dict[str, Any]]) -> Iterator[Quote]:
        number = 0
        for source, entry in enumerate(entries):
            for numbers in entry["numbers"]:
                place = {name: str(numbers[name]) for name in PLACES if numbers.get(name) is not None}
                for metric, value in numbers["values"].items():
                    yield Quote(source, number, metric, float(value), place)
                    number += 1

    def find(self, source: int, place: Mapping[str, str]) -> Quote | None:
        """The published number of one source for a place, the one that says most about where it belongs."""
        fitting = [quote for quote in self.quotes if quote.source == source and quote.holds(place)]
        return max(fitting, key=lambda quote: len(quote.place), default=None)
