"""TensorBoard: event files in `tensorboard/` of the working folder, one folder a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cxr_eval.trackers.tracker import Status, Tracker


class TensorBoard(Tracker):
    """Writes into CXR_EVAL_TENSORBOARD, or `tensorboard` in the working folder, each run into a folder of its own."""

    needs: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        above = Path(os.environ.get("CXR_EVAL_TENSORBOARD", "tensorboard"))
        number = 1 + sum(1 for _ in above.glob(f"{name}-*"))
        self._writer = SummaryWriter(str(above / f"{name}-{number}"))
        self._writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def scores(self, cell: str, step: int, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._writer.add_scalar(f"{cell}/{name}" if step else f"finished/{cell}/{name}", value, step)

    def summary(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._writer.add_scalar(f"summary/{name}", value, 0)

    def artifacts(self, paths: Sequence[Path]) -> None:
        self._writer.add_text("files", "\n".join(f"    {path}" for path in paths))

    def end(self, status: Status) -> None:
        if self._writer is not None:
            self._writer.add_text("status", status)
            self._writer.close()
