"""Weights & Biases: one W&B run a run; online or offline as WANDB_MODE says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cxr_eval.trackers.tracker import Status, Tracker


class WandB(Tracker):
    """Writes as W&B's own variables say (WANDB_MODE, WANDB_ENTITY, WANDB_DIR); the project is WANDB_PROJECT or cxr-eval.

    The report and the tables are saved as files of the run.
    """

    needs: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "cxr-eval")
        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(project=project, name=name, config=dict(settings), settings=quiet)

    def scores(self, cell: str, step: int, scores: Mapping[str, float]) -> None:
        told: dict[str, float] = {f"{cell}/{name}": value for name, value in scores.items()}
        self._run.log(told | ({f"{cell}/epoch": step} if step else {}))

    def summary(self, scores: Mapping[str, float]) -> None:
        self._run.summary.update(dict(scores))

    def artifacts(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def end(self, status: Status) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "done" else 1)
