"""How a network is fitted, whatever the trainer: epochs, optimizer, schedule, choice of the best epoch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from cxr_eval.params import Field, Params, Radius


class Optimizer(Params):
    """The optimizer, in torch's own terms."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="torch.optim class")
    lr: float = Field(1e-3, gt=0, description="learning rate at the start")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty; decoupled for adamw")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; the others ignore it")


class Schedule(Params):
    """The learning rate over epochs; it steps once an epoch."""

    name: Literal["constant", "cosine", "step"] = Field("constant", description="shape of the learning rate over epochs")
    warmup: int = Field(0, ge=0, description="epochs of linear warm-up before the shape starts")
    step_size: int = Field(10, ge=1, description="epochs between two steps of `step`")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each step of `step`")

    def factor(self, epoch: int, epochs: int) -> float:
        """Learning rate of `epoch` (from 0) of `epochs`, relative to the start value."""
        if epoch < self.warmup:
            return (epoch + 1) / (self.warmup + 1)
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup) / max(1, epochs - self.warmup)))
        if self.name == "step":
            return float(self.gamma ** ((epoch - self.warmup) // self.step_size))
        return 1.0


class Select(Params):
    """Which epoch's weights are kept, and when training stops early; judged on validation images only."""

    metric: Literal["loss", "weighted_loss", "accuracy", "balanced_accuracy", "auroc", "robust_accuracy", "last"] = Field(
        "loss",
        description="validation score that picks the best epoch; weighted_loss has the training loss's weights and smoothing,"
        " loss has none; `last` keeps the last epoch",
    )
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without improvement; never if not given")
    eps: Radius | None = Field(None, description="radius of the PGD attack behind robust_accuracy, which needs it")
    steps: int = Field(10, ge=1, description="steps of that attack")

    @model_validator(mode="after")
    def _nothing_is_missing_or_idle(self) -> Select:
        if self.metric == "robust_accuracy" and self.eps is None:
            raise ValueError("robust_accuracy needs 'eps', the radius of its attack")
        if self.metric != "robust_accuracy" and self.eps is not None:
            raise ValueError(f"eps is the radius behind robust_accuracy; {self.metric} does not use it")
        if self.metric == "last" and self.patience is not None:
            raise ValueError("patience waits for a better score, and 'last' has none; leave one of them out")
        return self


class Training(Params):
    """Settings of the loop that every trainer shares."""

    epochs: int = Field(20, ge=1, description="passes over the training images at most")
    batch_size: int = Field(64, ge=1, description="images a step; one left-over image joins the batch before it")
    optimizer: Optimizer = Field(Optimizer(), description="optimizer and its settings")
    schedule: Schedule = Field(Schedule(), description="learning rate over epochs")
    select: Select = Field(Select(), description="choice of the best epoch, early stopping")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: each class weighs n / (classes x images of the class) in the loss, on training images"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over the classes")
    finding_weights: Literal["none", "batch", "per_class"] = Field(
        "none",
        description="for findings: batch weighs positives by negatives / positives of the batch, per_class finding by finding",
    )
    finding_loss: Literal["mean", "sum"] = Field(
        "mean", description="for findings: mean of all known ones, or their sum within an image and then the mean over images"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="arithmetic of training steps; evaluation is always float32"
    )
    channels_last: bool = Field(False, description="memory layout of training steps; faster on CPUs and GPUs with bfloat16")
