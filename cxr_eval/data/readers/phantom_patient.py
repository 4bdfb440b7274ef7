"""Invented patients: the numbers behind anatomy, disease and exposure, drawn at random."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CLASSES = ("normal", "pneumonia", "covid")
RIBS = 11

_LEFT, _RIGHT = 1.0, -1.0  # the patient's left lies on the right of the picture, as radiographs are shown


@dataclass(frozen=True)
class Opacity:
    """One patch of a lesion, placed within its lung so that it stays there in every exposure.

    side: 1 is the patient's left (right of the picture), -1 the right. depth: 0 at the apex, 1 at the diaphragm. reach: 0 at
    the midline, 1 at the chest wall. radius: in half image sides. softness: share of the radius over which the edge fades.
    density: absorption added in the middle. wobble: amplitudes and phases of the outline.
    """

    side: float
    depth: float
    reach: float
    radius: float
    aspect: float
    softness: float
    density: float
    wobble: tuple[float, float, float]


@dataclass(frozen=True)
class Vessel:
    """One piece of a lung vessel: from a point to a point, with its width and its absorption in [0, 1]."""

    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    strength: float


@dataclass(frozen=True)
class Patient:
    """Anatomy that stays the same over all images of one patient."""

    sex: str
    age: int
    chest: float  # half width of the rib cage
    apex: float  # y of the lung tips
    domes: tuple[float, float]  # y of the top of the right and the left diaphragm
    fall: float  # how far the diaphragm falls to the costophrenic angle
    heart: float  # size of the heart, 1 on average
    tilt: float  # heart axis, radians
    knob: float  # radius of the aortic arch
    mediastinum: float  # half width
    bone: float  # absorption of ribs and clavicles
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    rib_jitter: tuple[float, ...]
    clavicle: float  # y of the inner end
    fat: float  # chest wall, in half image sides
    breast: float  # absorption, 0 in men
    breast_drop: float
    bubble: float  # air in the stomach, 0 where there is none
    vessels: tuple[Vessel, ...]
    texture_seed: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Patient:
        """A patient with natural variation; sex and age shape heart, aorta, bone, breasts and breadth."""
        sex = str(rng.choice(["F", "M"]))
        age = int(np.clip(rng.normal(55, 17), 18, 90))
        old = (age - 55) / 35
        male = 1.0 if sex == "M" else 0.0
        dome = 0.43 + 0.03 * male - 0.02 * old + rng.normal(0, 0.04)
        return cls(
            sex=sex,
            age=age,
            chest=0.66 + 0.03 * male + rng.normal(0, 0.02),
            apex=-0.74 + rng.normal(0, 0.025),
            domes=(dome, dome + abs(rng.normal(0.06, 0.025))),
            fall=rng.uniform(0.2, 0.32),
            heart=1 + 0.06 * old + rng.normal(0, 0.07),
            tilt=0.55 + rng.normal(0, 0.1),
            knob=0.085 + 0.015 * old + abs(rng.normal(0, 0.01)),
            mediastinum=0.105 + 0.01 * old + rng.normal(0, 0.01),
            bone=0.27 + 0.03 * male - 0.06 * old + rng.normal(0, 0.03),
            rib_spacing=rng.uniform(0.135, 0.155),
            rib_phase=rng.uniform(0, 1),
            rib_slope=0.24 + 0.05 * old + rng.normal(0, 0.03),
            rib_jitter=tuple(rng.normal(0, 0.035, RIBS).tolist()),
            clavicle=-0.5 + rng.normal(0, 0.03),
            fat=abs(rng.normal(0.17, 0.04)),
            breast=(1 - male) * rng.uniform(0.12, 0.3),
            breast_drop=rng.uniform(0.2, 0.36) + 0.03 * old,
            bubble=float(rng.uniform(0.2, 0.5)) if rng.random() < 0.7 else 0.0,
            vessels=(*_tree(rng, _RIGHT), *_tree(rng, _LEFT)),
            texture_seed=int(rng.integers(2**31)),
        )


@dataclass(frozen=True)
class Exposure:
    """How one image was taken."""

    view: str
    breath: float  # 1 is a full breath; less lifts the diaphragm and broadens the heart
    shift: tuple[float, float]
    turn: float  # radians
    scale: float
    lean: float  # rotation about the patient's long axis: one side looks wider

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Exposure:
        """PA in three of five images; AP ones are magnified, less deeply breathed and less straight."""
        view = "PA" if rng.random() < 0.6 else "AP"
        ap = view == "AP"
        return cls(
            view=view,
            breath=float(np.clip(rng.normal(0.86 if ap else 1.0, 0.06), 0.7, 1.1)),
            shift=(float(rng.normal(0, 0.02)), float(np.clip(rng.normal(0.065, 0.025), 0.02, 0.12))),
            turn=float(rng.normal(0, 0.035 if ap else 0.02)),
            scale=float(rng.normal(1.11 if ap else 1.07, 0.025)),
            lean=float(rng.normal(0, 0.04 if ap else 0.02)),
        )


def opacities(label: str, rng: np.random.Generator) -> tuple[Opacity, ...]:
    """Lesions of one patient: none; one consolidation in one lung; ground-glass at the edge of both lungs, mostly low.

    label: normal, pneumonia or covid.
    """
    if label == "normal":
        return ()
    if label == "pneumonia":
        return (
            Opacity(
                side=float(rng.choice([_RIGHT, _LEFT])),
                depth=float(rng.uniform(0.35, 0.8)),
                reach=float(rng.uniform(0.5, 0.72)),
                radius=float(rng.uniform(0.17, 0.28)),
                aspect=float(rng.uniform(0.75, 1.3)),
                softness=float(rng.uniform(0.5, 0.8)),
                density=float(rng.uniform(0.42, 0.8)),
                wobble=_wobble(rng),
            ),
        )
    return tuple(
        Opacity(
            side=side,
            depth=0.3 + 0.6 * float(rng.beta(2.5, 1.3)),
            reach=float(rng.uniform(0.76, 0.92)),
            radius=float(rng.uniform(0.1, 0.18)),
            aspect=float(rng.uniform(1.0, 1.7)),
            softness=float(rng.uniform(0.6, 0.9)),
            density=float(rng.uniform(0.2, 0.38)),
            wobble=_wobble(rng),
        )
        for side in (_RIGHT, _LEFT)
        for _ in range(rng.integers(2, 5))
    )


def _wobble(rng: np.random.Generator) -> tuple[float, float, float]:
    return float(rng.uniform(0.08, 0.2)), float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 2 * math.pi))


def _tree(rng: np.random.Generator, side: float) -> tuple[Vessel, ...]:
    """Branching vessels of one lung, from its root outwards."""
    pieces: list[Vessel] = []
    root = (side * 0.17, -0.03 if side < 0 else -0.08)
    # angles from straight up (0) to straight down (pi), turned outwards
    heads = [(root, angle + rng.normal(0, 0.2), 0.034, 1.0) for angle in (0.35, 0.8, 1.3, 1.75, 2.15, 2.5, 2.85)]
    while heads:
        (px, py), angle, width, strength = heads.pop()
        if width < 0.008:
            continue
        length = rng.uniform(0.04, 0.09)
        end = (px + side * math.sin(angle) * length, py - math.cos(angle) * length)
        pieces.append(Vessel((px, py), end, width, strength))
        thinner = width * rng.uniform(0.78, 0.9)
        heads.append((end, angle + rng.normal(0, 0.26), thinner, strength * 0.85))
        if rng.random() < 0.45:
            heads.append((end, angle + rng.choice([-1, 1]) * rng.uniform(0.35, 0.7), thinner * 0.8, strength * 0.8))
    return tuple(pieces)
