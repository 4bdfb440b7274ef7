"""Trackers: a run's scores in MLflow, Weights & Biases or TensorBoard, none of which can make the run fail."""

from cxr_eval.trackers.tracked import Tracked, tracking
from cxr_eval.trackers.tracker import Status, Tracker, known, made

__all__ = ["Status", "Tracked", "Tracker", "known", "made", "tracking"]
