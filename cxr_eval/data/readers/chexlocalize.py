"""CheXlocalize as it is downloaded: reader `chexlocalize`."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw

import cxr_eval.api as cxr
from cxr_eval.data.readers.listing import delimited

TASKS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)
"""The ten findings that were outlined, called as in CheXpert's label tables."""

_OTHER_NAMES = {"Airspace Opacity": "Lung Opacity"}  # the outlines' files call it so
_OUTLINES = {"segmentations": "gt_segmentations_{}.json", "contours": "gt_annotations_{}.json"}
_VALUES = {"": None, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1": None, "-1.0": None}  # -1 is uncertain
_SEX = {"Male": "M", "Female": "F"}
_INDEX = "masks.json"
_FORMAT = 1  # raised when masks are written otherwise, so that old ones are not read
_LARGEST = 20_000  # pixels a side: a damaged size must not take all memory

Mask = npt.NDArray[np.bool_]

log = logging.getLogger(__name__)


class CheXlocalize(cxr.Reader):
    """CheXlocalize: CheXpert's validation and test images (234 and 668), ten findings outlined by radiologists.

    It is an evaluation set: every image has the split test. A mask is there where a finding is outlined; `mask:Lung Opacity` is
    called `Airspace Opacity` in the outlines' files. Lateral views are left out unless asked for.
    """

    source = "Saporta et al., Nature Machine Intelligence 2022, doi:10.1038/s42256-022-00536-x"

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder with the folders CheXpert and CheXlocalize")
        set: Literal["val", "test"] = cxr.Field("test", description="CheXpert's images read: val (234) or test (668)")
        laterals: bool = cxr.Field(False, description="take lateral views too; they are left out if not")
        outlines: Literal["segmentations", "contours"] = cxr.Field(
            "segmentations",
            description="file that masks are made from: gt_segmentations (needs pycocotools) or gt_annotations, drawn here",
        )

    params: Params

    def check(self) -> None:
        """Refuse a root without the images, labels and outlines of the set, and masks that no library here can decode.

        Raises:
            DataError: a folder or file is not there.
            PluginError: the outlines need pycocotools.
        """
        root = self._root()
        if not root.is_dir():
            raise cxr.DataError(f"chexlocalize: {root} is not a folder; expected the folders CheXpert and CheXlocalize in it")
        for path in (self._labels(), self._outlines()):
            if not path.is_file():
                raise cxr.DataError(f"chexlocalize: {path} is not there")
        if not self._images().is_dir():
            raise cxr.DataError(
                f"chexlocalize: {self._images()} is not a folder; expected patientNNNNN/studyN/viewN_frontal.jpg"
            )
        if self.params.outlines == "segmentations":
            _coco()

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest with ten columns `label:FINDING` and `mask:FINDING`; masks are written into `cache` once."""
        self.check()
        rows = _listed(self._labels(), self._images())
        masks = _masks(self._outlines(), self.params.outlines, {_key(row["image_id"]): row["image"] for row in rows}, cache)
        for row in rows:
            lateral = row.pop("lateral")
            row["split"] = "test"
            row["left_out"] = "view is lateral" if lateral and not self.params.laterals else None
            outlined = masks.get(_key(row["image_id"]), {})
            row |= {f"mask:{task}": outlined.get(task) for task in TASKS}
        return pd.DataFrame(rows, dtype=object)

    def _root(self) -> Path:
        return Path(self.params.root).expanduser().absolute()

    def _labels(self) -> Path:
        return self._root() / "CheXpert" / f"{self.params.set}_labels.csv"

    def _images(self) -> Path:
        return self._root() / "CheXpert" / self.params.set

    def _outlines(self) -> Path:
        return self._root() / "CheXlocalize" / _OUTLINES[self.params.outlines].format(self.params.set)


def _coco() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise cxr.PluginError(
            "chexlocalize: outlines: segmentations needs pycocotools; pip install 'cxr-eval[chexlocalize]', or set"
            " outlines: contours"
        ) from None
    return mask


def _key(image_id: str) -> str:
    """How the outlines' files call an image: patient64622_study1_view1_frontal."""
    return image_id.removesuffix(".jpg").replace("/", "_")


def _listed(path: Path, images: Path) -> list[dict[str, Any]]:
    """A row for each image of a label table.

    Only the end of the written path counts: its beginning is CheXpert-v1.0/valid in one release and another folder in the next.

    Raises:
        DataError: a column is missing, or a cell cannot be read.
    """
    with delimited(path) as reader:
        names = next(reader, [])
        written = {_OTHER_NAMES.get(name, name): name for name in names}
        absent = [name for name in ("Path", *TASKS) if name not in written]
        if absent:
            raise cxr.DataError(f"{path}:1: no column '{absent[0]}'; found: {', '.join(written)}")
        rows = [
            _row(f"{path}:{reader.line_num}", dict(zip(names, cells, strict=False)), written, images)
            for cells in reader
            if cells
        ]
    if not rows:
        raise cxr.DataError(f"{path}: holds no row below its header")
    return rows


def _row(place: str, cells: dict[str, str], written: dict[str, str], images: Path) -> dict[str, Any]:
    def cell(name: str) -> str:
        return cells.get(written.get(name, name), "").strip()

    match = re.search(r"(patient\d+)/study\d+/view\d+_(frontal|lateral)\.jpg$", cell("Path"))
    if match is None:
        raise cxr.DataError(
            f"{place}: Path is '{cell('Path')}', expected .../patientNNNNN/studyN/viewN_frontal.jpg or _lateral"
        )
    row: dict[str, Any] = {
        "image": str(images / match[0]),
        "image_id": match[0],
        "patient": match[1],
        "sex": _SEX.get(cell("Sex")),
        "age": float(cell("Age")) if cell("Age").replace(".", "", 1).isdigit() else None,
        "view": "lateral" if match[2] == "lateral" else cell("AP/PA") or None,
        "listed_in": place,
        "lateral": match[2] == "lateral",
    }
    for task in TASKS:
        if cell(task) not in _VALUES:
            raise cxr.DataError(f"{place}: {task} is '{cell(task)}', expected 0, 1, -1 (uncertain) or nothing")
        row[f"label:{task}"] = _VALUES[cell(task)]
    return row


def _masks(path: Path, kind: str, images: dict[str, str], cache: Path) -> dict[str, dict[str, str]]:
    """Paths of the masks, by image and finding; findings that are not outlined have none.

    They are written into a folder named after the content of the file with the outlines, which takes its name when it is
    complete.

    Raises:
        DataError: the file cannot be read, an outline is damaged, or is not of its image's size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise cxr.DataError(f"{path}: cannot be read: {error}") from None
    folder = cache.resolve() / f"chexlocalize-{hashlib.sha256(f'{_FORMAT} {kind} '.encode() + content).hexdigest()[:16]}"
    if not folder.exists():
        log.info("writing the masks of %s into %s", path, folder)
        with cxr.whole_folder(folder) as draft:
            written = {
                key: _write(draft, f"{path}: {key}", key, outlines, kind, images.get(key))
                for key, outlines in _parsed(path, content).items()
            }
            (draft / _INDEX).write_text(json.dumps(written), encoding="utf-8")
    # an index and not the files found: a mask that was deleted from the cache must be missed, not taken for no outline
    index: dict[str, dict[str, str]] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    if not index.keys() & images.keys():
        raise cxr.DataError(
            f"{path}: none of its {len(index)} images is in the label table; one is {next(iter(index), 'missing')}, there one"
            f" is {next(iter(images))}"
        )
    return {key: {task: str(folder / file) for task, file in masks.items()} for key, masks in index.items()}


def _parsed(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    try:
        outlines: dict[str, dict[str, Any]] = json.loads(content)
    except ValueError as error:
        raise cxr.DataError(f"{path}: is not JSON: {error}") from None
    known = isinstance(outlines, dict) and all(
        isinstance(each, dict) and re.fullmatch(r"patient\d+_study\d+_view\d+_(frontal|lateral)", key)
        for key, each in outlines.items()
    )
    if not known:
        raise cxr.DataError(f"{path}: expected an object with one object an image, such as patient64622_study1_view1_frontal")
    return outlines


def _write(folder: Path, place: str, key: str, outlines: dict[str, Any], kind: str, image: str | None) -> dict[str, str]:
    """Files by finding with the masks of one image that are not empty, one bit a pixel."""
    files: dict[str, str] = {}
    for written, outline in outlines.items():
        task = _OTHER_NAMES.get(written, written)
        if written == "img_size":
            continue
        if task not in TASKS:
            raise cxr.DataError(f"{place}: unknown finding '{written}'; expected {', '.join(TASKS)}")
        where = f"{place}: {written}"
        if kind == "segmentations":
            mask = _decoded(where, outline)
        else:
            mask = _drawn(where, outline, _size(place, outlines.get("img_size")))
        if mask is not None:
            _same_size(where, mask, image)
            files[task] = f"{key}-{task}.png"
            Image.fromarray(mask).save(folder / files[task], compress_level=1)
    return files


def _size(where: str, size: Any) -> tuple[int, int]:
    """(height, width) in pixels."""
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side <= _LARGEST for side in size):
        return size[0], size[1]
    raise cxr.DataError(f"{where}: size is {size!r}, expected [height, width] in whole pixels up to {_LARGEST}")


def _decoded(where: str, outline: Any) -> Mask | None:
    """A mask (H, W) from COCO's run-length text, None if it is empty.

    Raises:
        DataError: the runs do not fill the size.
    """
    coco = _coco()
    if not isinstance(outline, dict) or not isinstance(counts := outline.get("counts"), str):
        raise cxr.DataError(f"{where}: expected size and counts, a run-length text")
    height, width = _size(where, outline.get("size"))
    if counts == _empty(height, width):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0 and NumPy 2: __array__ without copy
            pixels = coco.decode({"size": [height, width], "counts": counts})
            whole = coco.encode(pixels)["counts"].decode("ascii")
    except ValueError:
        whole = None
    # runs too short for the size are decoded without complaint, and the rest is whatever was in memory
    if whole != counts:
        raise cxr.DataError(f"{where}: the run-length text does not fill {height} x {width} pixels; the file is damaged")
    return np.asarray(pixels, dtype=np.bool_)


@functools.cache
def _empty(height: int, width: int) -> str:
    return str(_coco().encode(np.zeros((height, width), dtype=np.uint8, order="F"))["counts"].decode("ascii"))


def _drawn(where: str, contours: Any, size: tuple[int, int]) -> Mask | None:
    """A mask (H, W) from contours [[x, y], ...], filled with their edge as the dataset's own code does; None if it is empty."""
    sheet = Image.new("1", size[::-1])
    try:
        for contour in contours:
            ImageDraw.Draw(sheet).polygon([(float(x), float(y)) for x, y in contour], fill=1, outline=1)
    except (TypeError, ValueError):
        raise cxr.DataError(f"{where}: expected contours, each a list of two or more [x, y] in pixels") from None
    mask = np.asarray(sheet)
    return mask if mask.any() else None


def _same_size(where: str, mask: Mask, image: str | None) -> None:
    """Refuse a mask that is not of its image's size; missing and damaged images are named where images are decoded."""
    try:
        with Image.open(image or "") as picture:
            width, height = picture.size
    except OSError:
        return
    if (width, height) != mask.shape[::-1]:
        raise cxr.DataError(
            f"{where}: is {mask.shape[1]} x {mask.shape[0]} pixels, {image} is {width} x {height}; masks fit the images of the"
            " full size only, not those of CheXpert-v1.0-small"
        )
