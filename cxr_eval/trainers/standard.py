"""Natural training: the reference that every other trainer is compared with."""

import torch

import cxr_eval.api as cxr


class StandardTrainer(cxr.Trainer):
    """The task's loss on clean images."""

    source = "empirical risk minimisation; ST of arXiv:2403.06798, NT of arXiv:2209.04326"

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        loss: torch.Tensor = self.criterion(self.model(batch.x), batch.y)
        return loss
