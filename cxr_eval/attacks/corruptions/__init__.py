"""Changes that no one intended, in five severities: noise, light, sharpness, place, marks in the picture, and storage."""

from cxr_eval.attacks.corruptions.beam import Grid, QuantumNoise, Scatter
from cxr_eval.attacks.corruptions.grey import Contrast, Exposure, Gamma
from cxr_eval.attacks.corruptions.noise import GaussianNoise
from cxr_eval.attacks.corruptions.overlay import Collimation, Marker
from cxr_eval.attacks.corruptions.placement import Position, Rotation
from cxr_eval.attacks.corruptions.sharpness import Blur, Motion
from cxr_eval.attacks.corruptions.storage import JPEG, BitDepth, Resize

__all__ = [
    "JPEG",
    "BitDepth",
    "Blur",
    "Collimation",
    "Contrast",
    "Exposure",
    "Gamma",
    "GaussianNoise",
    "Grid",
    "Marker",
    "Motion",
    "Position",
    "QuantumNoise",
    "Resize",
    "Rotation",
    "Scatter",
]
