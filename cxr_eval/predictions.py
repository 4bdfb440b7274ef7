"""The per-image table of predictions: whose image, what is true, what the network says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:  # rows read these tables where there is no torch
    import torch

    from cxr_eval.images import ImageSet, Index
from cxr_eval.types import LABEL, PROBABILITY


def prediction_table(images: ImageSet, index: Index, logits: torch.Tensor) -> pd.DataFrame:
    """One line an image: image_id, patient, label and predicted (class names), p_CLASS (softmax of the logits (N, K)).

    For several findings an image: columns label:FINDING (0, 1 or NaN) instead, no `predicted`, and sigmoids.
    """
    index = np.asarray(index, dtype=np.int64)
    rows = images.table.iloc[index]
    table = pd.DataFrame({"image_id": rows["image_id"].to_numpy(), "patient": rows["patient"].to_numpy()})
    names = np.array(images.classes)
    y = images.y[index]
    if y.ndim == 1:
        table["label"] = names[y]
        table["predicted"] = names[logits.argmax(dim=1).numpy()]
        probability = logits.double().softmax(dim=1).numpy()
    else:
        for k, name in enumerate(images.classes):
            table[LABEL + name] = y[:, k]
        probability = logits.double().sigmoid().numpy()
    for k, name in enumerate(images.classes):
        table[PROBABILITY + name] = probability[:, k]
    return table
