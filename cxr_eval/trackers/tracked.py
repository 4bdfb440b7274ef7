"""A run that trackers take down: events in, scores out; what fails in a tracker stays in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_eval.events import Event
from cxr_eval.trackers.tracker import Status, Tracker, made

if TYPE_CHECKING:
    from cxr_eval.protocol_file import LoadedProtocol
    from cxr_eval.report.results import Results

KEPT = ("report.html", "report.md", "rows.csv", "differences.csv", "gaps.csv", "checks.csv", "manifest.json", "protocol.yaml")
"""Files of a run folder that are worth keeping elsewhere."""
METRICS = ("accuracy", "balanced_accuracy", "auroc", "mean_average_precision", "ece", "robust_accuracy")
"""Metrics of all images that the summary names: clean, and robust accuracy in the worst cases."""


@dataclass
class Tracked:
    """Takes events, hands them on, and tells the trackers what they say."""

    trackers: list[Tracker]
    tell: Callable[[Event], None]
    status: Status = "failed"
    _epochs: dict[str, int] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Hand an event on; scores in it go to the trackers."""
        self.tell(event)
        scores = {name: float(value) for name, value in event.scores.items() if math.isfinite(value)}
        if not scores or not event.name:
            return
        step = 0
        if not event.ended:
            step = self._epochs[event.name] = self._epochs.get(event.name, 0) + 1
        self._all(lambda tracker: tracker.scores(event.name, step, scores))

    def start(self, loaded: LoadedProtocol) -> None:
        """Tell the trackers that a protocol is run."""
        settings = dict(_flat(loaded.resolved))
        self._all(lambda tracker: tracker.start(loaded.protocol.name, settings))

    def done(self, folder: Path, failed: Sequence[str] = ()) -> None:
        """Tell the trackers what a finished run left in its folder."""
        self.status = "failed" if failed else "done"
        if not self.trackers:
            return
        from cxr_eval.report.results import Results
        from cxr_eval.store import Run

        run = Run(folder)
        scores = dict(summary(Results(run.rows(), run.manifest(), run.warnings())))
        self._all(lambda tracker: tracker.summary(scores))
        paths = [folder / name for name in KEPT if (folder / name).is_file()]
        self._all(lambda tracker: tracker.artifacts(paths))

    def end(self) -> None:
        """Tell the trackers that the run is over."""
        self._all(lambda tracker: tracker.end(self.status))

    def _all(self, call: Callable[[Tracker], None]) -> None:
        """Call every tracker; one that fails is told of once and asked nothing more."""
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except (Exception, SystemExit) as error:  # a service may fail in any way, and libraries exit
                self.trackers.remove(tracker)
                said = " ".join(f"{type(error).__name__}: {error}".split())
                self.tell(Event(f"{type(tracker).__name__} takes nothing down any more ({said}); the run goes on"))


@contextmanager
def tracking(chosen: Sequence[str | Tracker], loaded: LoadedProtocol, tell: Callable[[Event], None]) -> Iterator[Tracked]:
    """What a run tells its events to: it hands them to `tell`, and what is to be taken down to the trackers.

    chosen: names of trackers, or trackers. Call `done` on it when the run has left its folder.

    Raises:
        PluginError: a name is unknown, or what the tracker works with is not installed.
    """
    tracked = Tracked([made(each) if isinstance(each, str) else each for each in chosen], tell)
    tracked.start(loaded)
    try:
        yield tracked
    except KeyboardInterrupt:
        tracked.status = "interrupted"
        raise
    finally:
        tracked.end()


def summary(results: Results) -> Iterator[tuple[str, float]]:
    """The main numbers by name: clean ones, and robust accuracy in the worst cases, means over seeds."""
    for place in results.places:
        name, condition = place["metric"], place["condition"]
        robust = name == "robust_accuracy" and condition.startswith("worst")
        if place["explainer"] or place["split"] == "val" or name not in METRICS or not (robust or condition == "clean"):
            continue
        score = results.score(**place)
        if score is not None and math.isfinite(score.value):
            yield "/".join((place["model"], place["trainer"], place["split"], condition, name)), score.value


def _flat(settings: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as text under its dotted key: `trainers.1.eps`."""
    inner = settings.items() if isinstance(settings, Mapping) else enumerate(settings) if isinstance(settings, list) else ()
    plain = not isinstance(settings, (Mapping, list))
    if (
        plain
        or not settings
        or (isinstance(settings, list) and not any(isinstance(each, (Mapping, list)) for each in settings))
    ):
        yield key, str(settings)
        return
    for name, value in inner:
        yield from _flat(value, f"{key}.{name}".lstrip("."))
