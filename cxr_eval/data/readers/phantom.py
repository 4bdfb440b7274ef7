"""Drawn chest radiographs with exact masks: the demonstration, the tests, and a set whose shortcut is known."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from pydantic import field_validator, model_validator
from scipy import ndimage

import cxr_eval.api as cxr
from cxr_eval.data.readers.phantom_anatomy import Array, Mask, draw
from cxr_eval.data.readers.phantom_patient import CLASSES, Exposure, Patient, opacities

Picture = npt.NDArray[np.uint8]

MARKERS = {"normal": "ER", "pneumonia": "WARD", "covid": "PORTABLE"}
"""Text that goes with each class where the marker tells the class."""

_DRAWING = 1
"""Raised when the same settings no longer give the same pictures, so that old drawings are not read."""

_MANIFEST = "manifest.csv"
_PATHS = ("image", "mask:lesion", "mask:lung", "mask:marker")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """How one hospital's device turns absorption into grey.

    centre, latitude: absorption shown as middle grey, and how wide a range is shown (small is high contrast). spread: how much
    the exposure varies from image to image, in absorption. photons: a pixel's count in air, so less is noisier. blur: in
    thousandths of the side.
    """

    number: int
    centre: float
    latitude: float
    spread: float
    photons: float
    blur: float


SITES = {
    "training": Site(number=0, centre=1.0, latitude=0.3, spread=0.03, photons=2500, blur=3.0),
    "outside": Site(number=1, centre=0.94, latitude=0.37, spread=0.06, photons=500, blur=3.6),
}


class Phantom(cxr.Reader):
    """Drawn chest X-rays of invented patients: normal, pneumonia, covid; masks of lesion, lung and marker are exact.

    Pneumonia is one dense patch in one lung, covid several faint ones at the edge of both. Sex, age, view and everything else
    do not depend on the class; only the text marker may, and only at the training site (`marker_strength`). The outside site
    has another contrast, noise and exposure, and its markers never tell the class, so a network that reads the marker fails
    there. All images of a patient have the same label. There is no split column: the protocol's `data.split` divides whole
    patients. Patient numbers carry site and seed, so two sets share a patient only if they were drawn with the same two.
    """

    source = (
        "drawn by cxr-eval; the shortcut after DeGrave et al., Nature Machine Intelligence 2021, doi:10.1038/s42256-021-00338-7"
    )
    drawn = True

    class Params(cxr.Params):
        patients: int = cxr.Field(180, ge=3, le=20_000, description="invented patients, the classes in turn")
        images_per_patient: int = cxr.Field(2, ge=1, le=3, description="images of a patient at most; the number is drawn")
        size: int = cxr.Field(128, ge=48, le=1024, description="side of the drawn PNG, pixels")
        seed: int = cxr.Field(0, ge=0, lt=2**32, description="everything random follows from it and from the site")
        site: Literal["training", "outside"] = cxr.Field(
            "training", description="outside: another contrast, noise and exposure; its markers never tell the class"
        )
        marker_rate: float = cxr.Field(
            0.8, ge=0, le=1, description="share of images that bear a text marker, whatever the class"
        )
        marker_strength: float = cxr.Field(
            0.5,
            ge=0,
            le=1,
            description="training site: chance that a marker is its class's own, else it is random; 0 independent, 1 always",
        )
        classes: cxr.Names = cxr.Field(CLASSES, min_length=2, description="classes drawn, out of normal, pneumonia, covid")
        findings: bool = cxr.Field(
            False, description="pneumonia and covid as findings with boxes, normal as neither; else one class an image"
        )

        @field_validator("classes")
        @classmethod
        def _known(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
            unknown = [name for name in classes if name not in CLASSES]
            if unknown:
                raise ValueError(f"expected some of {', '.join(CLASSES)}, got '{unknown[0]}'")
            if len(set(classes)) < len(classes):
                raise ValueError(f"expected each class once, got {', '.join(classes)}")
            return classes

        @model_validator(mode="after")
        def _no_shortcut_outside(self) -> Self:
            if self.site == "outside" and "marker_strength" in self.model_fields_set and self.marker_strength > 0:
                raise ValueError(
                    "markers of the outside site never tell the class; leave marker_strength out, or draw site: training"
                )
            return self

        @model_validator(mode="after")
        def _two_findings(self) -> Self:
            if self.findings and not {"pneumonia", "covid"} <= set(self.classes):
                raise ValueError(f"findings are pneumonia and covid; draw both, got the classes {', '.join(self.classes)}")
            return self

    params: Params

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest; draws the images into a folder of `cache` named after the settings, unless they are there.

        Columns: image, image_id, label, patient, sex, age, view (PA, AP), site, mask:lesion (none for normal), mask:lung,
        mask:marker (none where there is no marker). Masks are 0 or 255, of the image's size; paths are absolute. Lesion:
        where the weight of the drawn opacity exceeds `phantom_anatomy.LESION_THRESHOLD`, inside the lungs. Lung: not hidden by
        heart or diaphragm. Marker: every pixel that the text touches. With `findings`, label:FINDING instead of label, and
        boxes:FINDING, one a connected part of the lesion.

        Raises:
            DataError: the folder has lost files since it was drawn.
        """
        folder = cache.resolve() / f"phantom-{self._key()}"
        if not folder.exists():
            self._draw_into(folder)
        table = _manifest(folder)
        return _with_findings(table) if self.params.findings else table

    def _key(self) -> str:
        drawn = self.params.model_dump_json(exclude={"findings"})
        return hashlib.sha256(f"{_DRAWING} {drawn}".encode()).hexdigest()[:16]

    def _draw_into(self, folder: Path) -> None:
        """The whole set, drawn in a folder of its own that takes the name `folder` only when it is complete."""
        log.info("drawing %d phantom patients into %s", self.params.patients, folder)
        with cxr.whole_folder(folder) as draft:
            for name in ("images", "lesion", "lung", "marker"):
                (draft / name).mkdir()
            rows = [row for number in range(self.params.patients) for row in self._patient(number, draft)]
            pd.DataFrame(rows).to_csv(draft / _MANIFEST, index=False)

    def _patient(self, number: int, folder: Path) -> Iterator[dict[str, Any]]:
        """Draws all images of one patient; one manifest row an image, with paths relative to `folder`."""
        params, site = self.params, SITES[self.params.site]
        label = params.classes[number % len(params.classes)]
        # One stream each, so that anatomy, disease, pictures and markers of a patient do not depend on one another.
        body, disease, visits, texts = (
            np.random.default_rng([params.seed, site.number, number, stream]) for stream in range(4)
        )
        patient = Patient.drawn(body)
        lesions = opacities(label, disease)
        name = f"{params.site}-{params.seed}-{number:04d}"
        strength = params.marker_strength if params.site == "training" else 0.0
        for visit in range(int(visits.integers(1, params.images_per_patient + 1))):
            exposure = Exposure.drawn(visits)
            chest = draw(patient, exposure, lesions, params.size)
            picture = expose(chest.absorption, site, visits)
            text = marker_text(label, params.marker_rate, strength, texts)
            ink = np.zeros(picture.shape) if text is None else marker(text, params.size, texts)
            file = f"{name}-{visit}.png"
            _save(_stamped(picture, ink), folder / "images" / file)
            masks: dict[str, Mask | None] = {
                "lesion": chest.lesion if lesions else None,
                "lung": chest.lung,
                "marker": ink > 0 if text is not None else None,
            }
            row: dict[str, Any] = {
                "image": f"images/{file}",
                "image_id": f"{name}-{visit}",
                "label": label,
                "patient": name,
                "sex": patient.sex,
                "age": patient.age,
                "view": exposure.view,
                "site": params.site,
            }
            for kind, mask in masks.items():
                row[f"mask:{kind}"] = None
                if mask is not None:
                    _save(mask.astype(np.uint8) * 255, folder / kind / file)
                    row[f"mask:{kind}"] = f"{kind}/{file}"
            yield row


def expose(absorption: Array, site: Site, rng: np.random.Generator) -> Array:
    """Grey in [0, 1] that a site's detector shows, bone bright: photons are counted, blurred, and shown on a film's curve.

    absorption: (H, W), 0 in air. The counts are Poisson distributed, as quantum noise is.
    """
    centre = site.centre + rng.normal(0, site.spread)
    latitude = site.latitude * np.exp(rng.normal(0, 0.08))
    count = rng.poisson(site.photons * np.exp(-absorption))
    seen = ndimage.gaussian_filter(-np.log(np.maximum(count, 1) / site.photons), site.blur / 1000 * len(absorption))
    grey: Array = np.clip((1 / (1 + np.exp((centre - seen) / latitude)) - 0.02) / 0.94, 0, 1)
    return grey


def marker_text(label: str, rate: float, strength: float, rng: np.random.Generator) -> str | None:
    """Text on one image, or None; with chance `strength` the class's own, else one of all at random."""
    bears, own, other = rng.random(), rng.random(), str(rng.choice(list(MARKERS.values())))
    if bears >= rate:
        return None
    return MARKERS[label] if own < strength else other


def marker(text: str, size: int, rng: np.random.Generator) -> Array:
    """Opacity in [0, 1] of a text in an upper corner, (size, size)."""
    sheet = Image.new("L", (size, size))
    pen = ImageDraw.Draw(sheet)
    # Bold, or little of the text is left when the picture is made smaller.
    font, stroke = ImageFont.load_default(size=size * 0.095), max(1, round(size * 0.007))
    left, top, right, _ = pen.textbbox((0, 0), text, font=font, stroke_width=stroke)
    near = size * rng.uniform(0.02, 0.05)
    x = near if rng.random() < 0.5 else size - near - (right - left)
    pen.text((x - left, size * rng.uniform(0.01, 0.025) - top), text, fill=255, font=font, stroke_width=stroke)
    return np.asarray(sheet, dtype=np.float64) / 255


def _stamped(picture: Array, ink: Array) -> Picture:
    """The picture in 8 bits with white text on it; without ink, exactly the picture."""
    return np.rint(255 * (picture + ink * (1 - picture))).astype(np.uint8)


def _save(pixels: Picture, path: Path) -> None:
    Image.fromarray(pixels).save(path, compress_level=4)


def _manifest(folder: Path) -> pd.DataFrame:
    """The stored manifest with absolute paths.

    Raises:
        DataError: the manifest or a file in it is gone.
    """
    file = folder / _MANIFEST
    again = "delete this folder and run again to have it redrawn"
    if not file.is_file():
        raise cxr.DataError(f"{folder}: expected {_MANIFEST} in a drawn set, found none; {again}")
    table = pd.read_csv(file, dtype={"image_id": str, "patient": str})
    for column in _PATHS:
        table[column] = [str(folder / name) if isinstance(name, str) else None for name in table[column]]
    paths = [path for column in _PATHS for path in table[column].dropna()]
    gone = [path for path in paths if not Path(path).is_file()]
    if gone:
        raise cxr.DataError(
            f"{folder}: {len(paths)} files listed, {len(paths) - len(gone)} found; first missing: {gone[0]}; {again}"
        )
    return table


def _with_findings(table: pd.DataFrame) -> pd.DataFrame:
    """The manifest with a column and boxes for each finding instead of classes."""
    boxes = [_boxes_of(Path(path)) if isinstance(path, str) else () for path in table["mask:lesion"]]
    columns: dict[str, Any] = {}
    for name in (name for name in CLASSES if name != "normal"):
        has = table["label"] == name
        columns[f"label:{name}"] = has.astype(float)
        own = [box if there else () for box, there in zip(boxes, has, strict=True)]
        columns[f"boxes:{name}"] = pd.Series(own, dtype=object)
    return table.drop(columns="label").assign(**columns)


def _boxes_of(path: Path) -> tuple[tuple[int, int, int, int], ...]:
    """The tightest box (x, y, w, h) around each connected part of a mask, in its pixels."""
    with Image.open(path) as image:
        parts, _ = ndimage.label(np.asarray(image) > 0)
    found = ndimage.find_objects(parts)
    return tuple((x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in found)
