"""The numbers behind the cells of tables, with all their digits, for formats that machines read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cxr_eval.report.published import Quote
from cxr_eval.report.results import Score
from cxr_eval.types import Better


@dataclass(frozen=True)
class Exact:
    """One number as it was computed; NaN where it is not defined, infinity where it has no bound."""

    value: float
    low: float = math.nan
    high: float = math.nan
    images: tuple[int, int] | None = None
    """Fewest and most images behind it in a seed; None where the run does not know."""
    unit: str = "fraction"
    better: Better = "neither"
    doubts: tuple[str, ...] = ()
    """Codes of the warnings that name it."""


def of_score(score: Score) -> Exact:
    """A score of the results: mean over seeds, and the mean ends of their intervals."""
    codes = tuple(dict.fromkeys(doubt.code for doubt in score.doubts))
    return Exact(score.value, score.low, score.high, score.n, score.unit, score.better, codes)


def of_quote(quote: Quote | None, unit: str) -> Exact | None:
    """A published number, which has neither interval nor images; None where there is none."""
    return None if quote is None else Exact(quote.value, unit=unit)
