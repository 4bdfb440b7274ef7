"""No training: networks that are finished already."""

from __future__ import annotations

from typing import Any

import torch

import cxr_eval.api as cxr


class NoneTrainer(cxr.Trainer):
    """Takes the network as it is: no epoch, no history.

    All weights must be given, by a file or by whoever hands the network over; one with a layer that is drawn by lot is refused
    before anything runs. Training images are not needed. Where no validation images are given either, whole patients of the
    test set are set apart for thresholds.
    """

    source = "nothing is trained; evaluation of a finished network"

    trains = False

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        """The task's loss on clean images, which nothing here lowers."""
        loss: torch.Tensor = self.criterion(self.model(batch.x), batch.y)
        return loss

    def fit(self, x: Any, y: Any, validation_data: Any = None, batch_size: Any = None, nb_epochs: Any = None, **_: Any) -> None:
        """Leave the network as it is, in evaluation mode."""
        self.model.eval()

    def fit_generator(self, generator: Any, nb_epochs: Any = None, **_: Any) -> None:
        """Leave the network as it is, in evaluation mode."""
        self.model.eval()
