"""The drawn chest: how much each pixel of a frontal exposure absorbs, and where lungs and lesions lie.

Lengths are in half image sides: x runs from -1 (left edge of the picture, the patient's right) to 1, y from -1 (top) to 1.
A patient has numbers for each part; an exposure adds view, breath and pose. Parts are added up as absorption, as in a real
radiograph, so ribs, vessels and lesions lie over one another instead of hiding one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from cxr_eval.data.readers.phantom_patient import RIBS, Exposure, Opacity, Patient, Vessel

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LESION_THRESHOLD = 0.3
"""A pixel is lesion where its lesion weight (1 in the middle, 0 outside the soft edge) is above this, and it is lung."""


@dataclass(frozen=True)
class Chest:
    """What one exposure of one patient looks like before the detector: all arrays (size, size).

    absorption: 0 in air, about 0.5 in the lungs, 2 behind the heart. lung: lung that is not hidden by heart or diaphragm.
    lesion: where the weight of the opacities exceeds `LESION_THRESHOLD`, inside the lungs.
    """

    absorption: Array
    lung: Mask
    lesion: Mask


def draw(patient: Patient, exposure: Exposure, lesions: tuple[Opacity, ...], size: int) -> Chest:
    """One exposure of one patient, `size` pixels a side; a function of its arguments alone."""
    picture = _Canvas(exposure, size)
    x, y = picture.x, picture.y
    side = np.abs(x)
    lungs = _Lungs(patient, exposure)
    wall = lungs.wall(y)
    heart = _heart(patient, exposure, x, y)
    middle = _middle(patient, x, y)
    below = _ramp(y - lungs.diaphragm(x), 0.025)
    cavity = _ramp(wall - side, 0.03) * _ramp(side - lungs.inner(y), 0.03) * _ramp(y - patient.apex, 0.05)
    air = cavity * (1 - heart) * (1 - middle) * (1 - below)
    lung = _largest(air > 0.5, x)

    # Lungs are thick in their middle and thin at the wall and the tips; what lies behind heart and dome is thinner still.
    thickness = np.sqrt(np.clip(1 - ((side - 0.36) / (wall - 0.26)) ** 2, 0.1, 1)) * (
        0.62 + 0.38 * _ramp(y - patient.apex - 0.25, 0.5)
    )
    gas = thickness * cavity * (1 - 0.72 * np.maximum(heart, middle)) * (1 - 0.93 * below)
    body, torso = _body(patient, exposure, x, y)
    absorption = body * (1.3 + 0.3 * below * torso) - 0.95 * gas
    absorption += body * (0.2 * heart * cavity + 0.1 * middle)
    absorption += body * _soft_parts(patient, x, y, lungs)
    absorption += body * patient.bone * _bones(patient, exposure, x, y, wall)
    clear = np.ones_like(x)  # share of the lung that no opacity covers
    added = np.zeros_like(x)
    for opacity in lesions:
        weight = _opacity_weight(opacity, lungs, x, y) * (x * opacity.side > 0)
        clear *= 1 - weight
        added = np.maximum(added, opacity.density * weight)
    texture = _texture(patient.texture_seed, size)
    tree = picture.lines(patient.vessels) * (1 - below)
    # Vessels show against air alone: ground-glass leaves them visible, consolidation hides them.
    shown = gas * (1 - np.minimum(added / 0.7, 1))
    absorption += shown * (0.34 * tree + 0.035 * texture + 0.2 * _hilum(x, y))
    absorption += air * thickness * added * (1 + 0.06 * texture)
    return Chest(np.maximum(absorption, 0.0), lung, lung & (1 - clear > LESION_THRESHOLD))


class _Canvas:
    """Pixel centres in the patient's coordinates, and the way back for lines."""

    def __init__(self, exposure: Exposure, size: int) -> None:
        self._exposure, self._size = exposure, size
        axis = (np.arange(size) + 0.5) / size * 2 - 1
        u, v = np.meshgrid(axis - exposure.shift[0], axis - exposure.shift[1])
        c, s = math.cos(exposure.turn) / exposure.scale, math.sin(exposure.turn) / exposure.scale
        flat = c * u + s * v
        self.x: Array = flat * (1 - exposure.lean * np.sign(flat))
        self.y: Array = c * v - s * u

    def _pixel(self, point: tuple[float, float], zoom: int) -> tuple[float, float]:
        exposure = self._exposure
        x, y = point[0] / (1 - exposure.lean * math.copysign(1, point[0])), point[1]
        c, s = math.cos(exposure.turn) * exposure.scale, math.sin(exposure.turn) * exposure.scale
        half = self._size * zoom / 2
        return (c * x - s * y + exposure.shift[0] + 1) * half, (s * x + c * y + exposure.shift[1] + 1) * half

    def lines(self, vessels: tuple[Vessel, ...]) -> Array:
        """Vessels as smooth lines, in [0, 1]."""
        zoom = 3
        sheet = Image.new("L", (self._size * zoom, self._size * zoom))
        pen = ImageDraw.Draw(sheet)
        for vessel in sorted(vessels, key=lambda vessel: vessel.strength):  # the strong ones on top
            width = max(1, round(vessel.width * self._size * zoom / 2))
            ends = [self._pixel(vessel.start, zoom), self._pixel(vessel.end, zoom)]
            pen.line(ends, fill=round(255 * vessel.strength), width=width)
        return np.asarray(sheet.reduce(zoom), dtype=np.float64) / 255


class _Lungs:
    """Outline of the lungs: chest wall, inner edge, diaphragm."""

    def __init__(self, patient: Patient, exposure: Exposure) -> None:
        self._patient = patient
        lift = 0.32 * (1 - exposure.breath)
        self._domes = (patient.domes[0] - lift, patient.domes[1] - lift)
        self._base = self._domes[0] + patient.fall
        self._tip = 0.27  # distance of the lung tip from the midline

    def _down(self, y: Array) -> Array:
        return np.clip((y - self._patient.apex) / (self._base - self._patient.apex), 0, 1)

    def wall(self, y: Array) -> Array:
        """Distance of the chest wall from the midline."""
        down = self._down(y)
        rise = np.sqrt(np.clip(1 - (1 - np.minimum(down / 0.62, 1)) ** 2.3, 0, 1))
        return self._tip + (self._patient.chest - self._tip) * rise * (0.94 + 0.06 * down)

    def inner(self, y: Array) -> Array:
        """Distance of the lung's inner edge from the midline."""
        rise = np.sqrt(np.clip(1 - (1 - np.minimum(self._down(y) / 0.3, 1)) ** 2, 0, 1))
        edge: Array = self._tip - (self._tip - 0.07) * rise
        return edge

    def diaphragm(self, x: Array) -> Array:
        """y of the diaphragm: a dome that falls towards the chest wall and a little towards the heart."""
        top = self._domes[0] + (self._domes[1] - self._domes[0]) * _ramp(x, 0.4)
        out = np.clip((np.abs(x) - 0.27) / (self._patient.chest - 0.27), -1, 1)
        return top + self._patient.fall * np.where(out > 0, np.abs(out) ** 2.6, 0.15 * out**2)

    def place(self, opacity: Opacity) -> tuple[float, float]:
        """Centre of an opacity: x, y."""
        patient = self._patient
        x = opacity.side * opacity.reach * patient.chest
        bottom = float(self.diaphragm(np.array([x]))[0])
        y = patient.apex + opacity.depth * (bottom - patient.apex)
        return opacity.side * opacity.reach * float(self.wall(np.array([y]))[0]), y


def _largest(lung: Mask, x: Array) -> Mask:
    """The largest piece on each side: a heart that reaches the chest wall would cut off a few pixels of lung below it."""
    kept = np.zeros_like(lung)
    for half in (lung & (x < 0), lung & (x > 0)):
        pieces, _ = ndimage.label(half)
        counts = np.bincount(pieces.ravel())
        kept |= pieces == 1 + int(np.argmax(counts[1:]))
    return kept


def _ramp(distance: Array, width: float) -> Array:
    """0 to 1 over `width` around distance 0, smooth at both ends."""
    t = np.clip(distance / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _ellipse(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Array:
    """Distance from the edge of an ellipse, positive inside, near the edge in the units of x and y."""
    c, s = math.cos(turn), math.sin(turn)
    dx, dy = x - centre[0], y - centre[1]
    rho = np.hypot((c * dx + s * dy) / radii[0], (c * dy - s * dx) / radii[1])
    return (1 - rho) * min(radii)


def _heart(patient: Patient, exposure: Exposure, x: Array, y: Array) -> Array:
    # The heart lies in front: the source behind the cassette (PA) magnifies it less than one before the chest (AP).
    size = patient.heart * (1.12 if exposure.view == "AP" else 1.0) * (1 + 0.3 * (1 - exposure.breath))
    low = patient.domes[0] - 0.32 * (1 - exposure.breath)
    ventricle = _ellipse(x, y, (0.11 * size, low - 0.09), (0.38 * size, 0.24 * size), patient.tilt)
    atrium = _ellipse(x, y, (-0.06, low - 0.15), (0.15 * size, 0.26))
    trunk = _ellipse(x, y, (0.06, low - 0.38), (0.13 * size, 0.24))
    return _ramp(np.maximum(np.maximum(ventricle, atrium), trunk) + 0.01, 0.06)


def _middle(patient: Patient, x: Array, y: Array) -> Array:
    """Mediastinum with the aortic arch."""
    band = patient.mediastinum + 0.03 * _ramp(-0.45 - y, 0.3) - np.abs(x)
    knob = _ellipse(x, y, (0.09, -0.27), (patient.knob, patient.knob * 1.1))
    return _ramp(np.maximum(band, knob), 0.04)


def _body(patient: Patient, exposure: Exposure, x: Array, y: Array) -> tuple[Array, Array]:
    """Thickness of the body relative to its middle, and the part of it that is trunk."""
    side = np.abs(x)
    width = patient.chest + patient.fat + 0.05 * _ramp(-y, 0.6)
    shoulder = y + 0.84 - 0.3 * np.clip((side - 0.17) / 0.83, 0, 1) ** 1.5
    trunk = _ramp(width - side, 0.03) * _ramp(shoulder, 0.04)
    neck = _ramp(0.2 + 0.9 * np.clip(y + 0.97, 0, 1) ** 2 - side, 0.04) * _ramp(-0.5 - y, 0.2)
    near = 0.84 if exposure.view == "AP" else 0.93  # arms hang down in AP images, and are turned out in PA ones
    arm = _ramp(side - near - 0.1 * (y + 0.3), 0.03) * _ramp(shoulder, 0.04)
    round_trunk = np.clip(1 - (side / (width + 0.08)) ** 2, 0.04, 1) ** 0.35
    round_arm = 0.62 * np.clip(1 - ((side - near - 0.2) / 0.24) ** 2, 0.04, 1) ** 0.5
    thickness = np.maximum(np.maximum(trunk * round_trunk, arm * round_arm), 0.72 * neck)
    return thickness, trunk


def _soft_parts(patient: Patient, x: Array, y: Array, lungs: _Lungs) -> Array:
    """Breasts, windpipe and stomach."""
    side = np.abs(x)
    breast = _ellipse(side, y, (0.43, patient.breast_drop), (0.27, 0.24))
    windpipe = _ramp(0.034 - np.abs(x + 0.012 * (y + 0.9)), 0.03) * _ramp(-0.2 - y, 0.1)
    fork = _ramp(0.026 - np.abs(side - 0.9 * (y + 0.22)), 0.03) * _ramp(y + 0.22, 0.05) * _ramp(-0.07 - y, 0.08)
    floor = lungs.diaphragm(np.array([0.33]))[0]
    bubble = _ramp(_ellipse(x, y, (0.33, float(floor) + 0.13), (0.14, 0.07)), 0.05)
    # the fold under the breast is its sharp edge; upwards it fades into the chest wall
    fold = _ramp(breast, 0.05) * np.clip(0.5 + (y - patient.breast_drop) / 0.4, 0, 1)
    return patient.breast * 2.0 * fold - 0.45 * windpipe - 0.3 * fork - patient.bubble * bubble


def _bones(patient: Patient, exposure: Exposure, x: Array, y: Array, wall: Array) -> Array:
    """Ribs, spine, clavicles, shoulder blades and upper arms; 1 is the absorption of one rib."""
    side = np.abs(x)
    out = np.clip((side - 0.04) / (wall - 0.04), 0, 1.2)
    cage = _ramp(wall + 0.03 - side, 0.03) * _ramp(side - 0.06, 0.03) * _ramp(y - patient.apex - 0.02, 0.08)
    back = patient.rib_slope * out**2.4 - 0.06 * np.sin(np.pi * np.minimum(out, 1))
    front = patient.rib_slope + 0.5 * (1 - out) - 0.1 * (1 - out) ** 2
    bones = 0.8 * cage * _ribs(patient, y - back, 0.19) * (1 - 0.2 * out)
    bones += 0.42 * cage * _ribs(patient, y - front, 0.23) * _ramp(out - 0.45, 0.2)  # cartilage towards the midline is unseen

    level = np.clip((side - 0.06) / 0.66, -0.1, 1.1)
    high = 0.06 if exposure.view == "AP" else 0.0
    centre = patient.clavicle - high - 0.19 * level + 0.035 * np.sin(2 * np.pi * level)
    bones += 1.5 * _bar(y - centre, 0.03 + 0.012 * np.abs(level - 0.4)) * _ramp(level, 0.06) * _ramp(1.02 - level, 0.08)

    edge = 0.63 if exposure.view == "AP" else 0.72  # arms turned forward move the blades off the lungs in PA images
    blade = _ramp(side - edge - 0.12 * (y + 0.3) ** 2, 0.03) * _ramp(0.16 - np.abs(side - edge - 0.1), 0.1)
    blade *= _ramp(y + 0.62, 0.1) * _ramp(0.02 - y + 0.4 * (edge - side), 0.1)
    head = _ramp(_ellipse(side, y, (0.9, -0.5), (0.11, 0.12)), 0.04)
    shaft = _bar(side - 0.93 - 0.1 * (y + 0.4), 0.06) * _ramp(y + 0.5, 0.1)
    spine = _ramp(0.085 - side, 0.03) * (0.7 + 0.3 * np.cos(2 * np.pi * (y / 0.12 + patient.rib_phase)))
    return bones + 0.5 * blade + 1.1 * np.maximum(head, shaft) + 0.55 * spine


def _ribs(patient: Patient, height: Array, half: float) -> Array:
    """All ribs of one course at once: a profile along `height` that repeats with the patient's spacing, jittered rib by rib."""
    place = (height - patient.apex - 0.04) / patient.rib_spacing + 0.3 * patient.rib_phase
    number = np.floor(place)
    known = (number >= 0) & (number < RIBS)
    jitter = np.asarray(patient.rib_jitter)[np.clip(number, 0, RIBS - 1).astype(int)]
    return np.where(known, _bar(place - number - 0.5 + jitter, half), 0.0)


def _bar(offset: Array, half: Array | float) -> Array:
    """Cross-section of a bone: dense cortex at both edges, lighter marrow between."""
    inside = np.clip(1.25 - np.abs(offset) / half, 0, 0.5) / 0.5
    return inside * (0.65 + 0.35 * np.clip(np.abs(offset) / half, 0, 1) ** 2)


def _hilum(x: Array, y: Array) -> Array:
    """The roots of the lungs, the left one a little higher."""
    right = np.exp(-(((x + 0.19) / 0.06) ** 2) - ((y + 0.02) / 0.13) ** 2)
    left = np.exp(-(((x - 0.19) / 0.06) ** 2) - ((y + 0.07) / 0.11) ** 2)
    return right + left


def _texture(seed: int, size: int) -> Array:
    """Fine grain of the lung, mean 0 and standard deviation 1, the same for all images of a patient."""
    noise = np.random.default_rng(seed).standard_normal((size, size))
    band: Array = ndimage.gaussian_filter(noise, size / 110) - ndimage.gaussian_filter(noise, size / 32)
    grain: Array = band / band.std()
    return grain


def _opacity_weight(opacity: Opacity, lungs: _Lungs, x: Array, y: Array) -> Array:
    """1 in the middle of a patch, 0 outside, over a soft and uneven edge."""
    cx, cy = lungs.place(opacity)
    dx, dy = (x - cx) * math.sqrt(opacity.aspect), (y - cy) / math.sqrt(opacity.aspect)
    angle = np.arctan2(dy, dx)
    amplitude, first, second = opacity.wobble
    outline = 1 + amplitude * (np.sin(2 * angle + first) + 0.7 * np.sin(3 * angle + second))
    rho = np.hypot(dx, dy) / (opacity.radius * outline)
    return _ramp(1 - rho, opacity.softness)
