"""MLflow: one MLflow run a run, one metric a network and score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cxr_eval.trackers.tracker import Status, Tracker

_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_MOST = 100  # settings a request, and no more of a setting's text than MLflow takes
_LONGEST = 500


class MLflow(Tracker):
    """Writes where MLflow's own environment variables say, such as MLFLOW_TRACKING_URI; the experiment is the protocol's name.

    Set MLFLOW_EXPERIMENT_NAME for another experiment.
    """

    needs: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"

    def __init__(self) -> None:
        self._client: Any = None
        self._run = ""

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        import os

        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", name)
        found = self._client.get_experiment_by_name(wanted)
        experiment = found.experiment_id if found else self._client.create_experiment(wanted)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        params = [Param(_name(key), value[:_LONGEST]) for key, value in settings.items()]
        for start in range(0, len(params), _MOST):
            self._client.log_batch(self._run, params=params[start : start + _MOST])

    def scores(self, cell: str, step: int, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._client.log_metric(self._run, _name(f"{cell}/{name}"), value, step=step)

    def summary(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._client.log_metric(self._run, _name(name), value)

    def artifacts(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._run, str(path))

    def end(self, status: Status) -> None:
        if self._client is not None:
            self._client.set_terminated(self._run, status=_STATUS[status])


def _name(text: str) -> str:
    """A name that MLflow takes: letters, digits, - . _ / and single spaces; `worst:8/255` is `worst-8-255`."""
    parts = [re.sub(r"[^\w\-. ]+", "-", part).strip(" .") for part in re.split(r" / |(?<!\d)/|/(?!\d)", text)]
    return "/".join(" ".join(part.split()) or "-" for part in parts)[:250]
