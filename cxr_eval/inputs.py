"""What a trainer is given, checked at the door: classifiers, labels, and the loss that a plugin writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_eval.classifier import Classifier, PyTorchClassifier
from cxr_eval.types import Task

Labels = npt.NDArray[Any] | torch.Tensor


def as_labels(y: Labels, n: int, task: Task, classes: int) -> torch.Tensor:
    """Labels of n images on the CPU as a loss takes them: (N,) int64, or findings (N, K) float32 with NaN for unknown ones.

    Raises:
        ValueError: another number, shape or value.
    """
    # a copy: pandas gives arrays that are read-only
    labels = torch.as_tensor(np.array(y) if isinstance(y, np.ndarray) else y).cpu()
    if len(labels) != n:
        raise ValueError(f"expected {n} labels, one an image, got {len(labels)}")
    if task == "multilabel":
        if labels.ndim != 2 or labels.shape[1] != classes:
            raise ValueError(f"expected findings (N, {classes}), got shape {tuple(labels.shape)}")
        wrong = labels[~((labels == 0) | (labels == 1) | labels.isnan())]
        if len(wrong):
            raise ValueError(f"expected findings 0, 1 or NaN (unknown), got {float(wrong[0]):g}")
        return labels.float()
    if labels.ndim == 2 and labels.shape[1] == classes and _is_one_hot(labels):
        labels = labels.int().argmax(dim=1)
    if labels.ndim != 1 or labels.dtype.is_floating_point or not bool(((labels >= 0) & (labels < classes)).all()):
        raise ValueError(f"expected class indices (N,) from 0 to {classes - 1}, or one-hot rows (N, {classes})")
    return labels.long()


def _is_one_hot(labels: torch.Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(dim=1) == 1).all())


def check_loss(loss: Any, whose: str) -> None:
    """Refuse what is no loss, without a look at its value: that would make the host wait for a GPU.

    loss: what a plugin's `loss` gave. whose: its name, for the message.

    Raises:
        TypeError: it is no tensor, no scalar, or has no gradient.
    """
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"{whose}: expected a scalar tensor, got {type(loss).__name__}; return self.criterion(logits, batch.y)")
    if loss.shape != ():
        raise TypeError(f"{whose}: expected a scalar tensor, got shape {tuple(loss.shape)}; take its mean")
    if not loss.requires_grad:
        raise TypeError(f"{whose}: expected a loss with gradient; it was detached, or computed under torch.no_grad()")


def check_classifier(classifier: PyTorchClassifier) -> None:
    """Refuse a classifier whose network does not see the images themselves, where radii would mean something else.

    Raises:
        ValueError: it is no ART PyTorchClassifier, changes images, clips to another range, or has another loss than training.
    """
    if not isinstance(classifier, PyTorchClassifier):
        raise ValueError(
            f"expected an ART PyTorchClassifier, got {type(classifier).__name__}; wrap a network by"
            " cxr_eval.api.Classifier(network, input_shape=(C, H, W), nb_classes=K)"
        )
    shift = classifier.preprocessing
    identity = shift is None or (not np.any(np.asarray(shift.mean)) and np.all(np.asarray(shift.std) == 1))
    if classifier.preprocessing_defences or not identity:
        raise ValueError("the classifier changes images before the network; make normalisation the network's first layer")
    if classifier.clip_values is None or [float(np.min(v)) for v in classifier.clip_values] != [0.0, 1.0]:
        raise ValueError(f"expected a classifier with clip_values (0, 1), got {classifier.clip_values}")
    loss = classifier.loss
    plain = isinstance(loss, torch.nn.CrossEntropyLoss) and loss.weight is None and not loss.label_smoothing
    if not isinstance(classifier, Classifier) and not plain:  # ours says by its task what it is trained with
        raise ValueError(
            f"expected a classifier whose loss is CrossEntropyLoss(), got {loss}; for findings or one logit use"
            " cxr_eval.api.Classifier, for class weights and smoothing the training's settings"
        )
