"""The one door for plugins: everything a plugin may import from cxr-eval, and nothing else."""

from cxr_eval.classifier import Classifier, last_conv
from cxr_eval.criteria import image_losses, plain_criterion
from cxr_eval.errors import CxrEvalError, DataError, PluginError, TrainingError
from cxr_eval.fitting import Batch
from cxr_eval.folders import whole_folder
from cxr_eval.images import ImageSet
from cxr_eval.params import Ball, Distance, Field, Names, Params, Radii, Radius, Severities, Whole
from cxr_eval.perturb import direction, fgsm, frozen, input_gradient, pgd, project, random_start
from cxr_eval.plugin import (
    Attack,
    AttackParams,
    Corruption,
    CorruptionParams,
    Explained,
    Explainer,
    ExplanationMetric,
    Family,
    ModelBuilder,
    Plugin,
    Reader,
)
from cxr_eval.seeds import seeded
from cxr_eval.trainer import Trainer
from cxr_eval.types import Norm, Task

API_VERSION = 1
"""Raised when a plugin written for the version before would no longer work."""

__all__ = [
    "API_VERSION",
    "Attack",
    "AttackParams",
    "Ball",
    "Batch",
    "Classifier",
    "Corruption",
    "CorruptionParams",
    "CxrEvalError",
    "DataError",
    "Distance",
    "Explained",
    "Explainer",
    "ExplanationMetric",
    "Family",
    "Field",
    "ImageSet",
    "ModelBuilder",
    "Names",
    "Norm",
    "Params",
    "Plugin",
    "PluginError",
    "Radii",
    "Radius",
    "Reader",
    "Severities",
    "Task",
    "Trainer",
    "TrainingError",
    "Whole",
    "direction",
    "fgsm",
    "frozen",
    "image_losses",
    "input_gradient",
    "last_conv",
    "pgd",
    "plain_criterion",
    "project",
    "random_start",
    "seeded",
    "whole_folder",
]
