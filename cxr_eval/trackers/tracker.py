"""What a tracker is, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from cxr_eval.errors import PluginError, nearest

Status = Literal["done", "failed", "interrupted"]
"""How a run ended: all cells done; some or all failed; stopped by a person."""

GROUP = "cxr_eval.trackers"


class Tracker:
    """Takes down one run somewhere else. A method that raises ends the tracking and never the run.

    Methods are called in this order: `start`, `scores` as often as there are any, `summary`, `artifacts`, `end`; of a run that
    stopped early `summary` and `artifacts` are not.
    """

    needs: ClassVar[str] = ""
    """Module that it works with, which cxr-eval does not bring."""

    extra: ClassVar[str] = ""
    """Extra of cxr-eval that installs it."""

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        """A run begins. name: the protocol's. settings: what the protocol says, each setting under its dotted key."""

    def scores(self, cell: str, step: int, scores: Mapping[str, float]) -> None:
        """Numbers of one network by name, none of them NaN. step: epochs of training done, from 1; 0 for a finished cell."""

    def summary(self, scores: Mapping[str, float]) -> None:
        """The main numbers at the end, named `MODEL/TRAINER/SPLIT/CONDITION/METRIC`, means over seeds, none of them NaN."""

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Files worth keeping: the report and the tables that are there."""

    def end(self, status: Status) -> None:
        """The run is over."""


def known() -> dict[str, EntryPoint]:
    """Trackers that are installed, by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def made(name: str) -> Tracker:
    """The tracker of that name.

    Raises:
        PluginError: there is none, or what it works with is not installed.
    """
    points = known()
    if name not in points:
        raise PluginError(f"no tracker '{name}'{nearest(name, points) or '; there are: ' + ', '.join(points)}")
    cls = points[name].load()
    if cls.needs and find_spec(cls.needs) is None:
        raise PluginError(
            f"the tracker '{name}' needs {cls.needs}, which is not installed; pip install 'cxr-eval[{cls.extra}]'"
        )
    tracker: Tracker = cls()
    return tracker
