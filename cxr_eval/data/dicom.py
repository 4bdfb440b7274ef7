"""DICOM radiographs as 16-bit grey, as a viewing station shows them.

Read by pydicom itself: MONAI's PydicomReader turns arrays into (W, H), and applies of all below only the rescaling.

Stored values -> modality LUT or rescaling -> VOI LUT or window, the first where there are several -> inverted where the file
says that low values are white (MONOCHROME1, or PresentationLUTShape INVERSE, which says the same: once for both) -> the
smallest value in the picture to 0, the largest to 65535. All of these look at one pixel at a time, so they are done once for
each stored value and looked up for the pixels: equal to pydicom's functions, in a fraction of their time and memory.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder

from cxr_eval.data.pictures import Array, to_16_bit
from cxr_eval.errors import DataError

_GREY = ("MONOCHROME1", "MONOCHROME2")
_PREFIX = 128  # bytes before the letters DICM


class MissingCodecError(DataError, ValueError):
    """The file is sound, but this installation cannot read it: no reason to leave it out."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings about values that no pixel depends on, such as malformed identifiers.

    To be entered before threads decode and left after them: Python keeps its warning filters for the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pydicom\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def is_dicom(path: str) -> bool:
    """True for `.dcm` and `.dicom`, and under any other name for a file that begins as DICOM files do."""
    if Path(path).suffix.lower() in (".dcm", ".dicom"):
        return True
    with open(path, "rb") as file:
        return file.read(_PREFIX + 4)[_PREFIX:] == b"DICM"


def decode(path: str) -> npt.NDArray[np.uint16]:
    """A radiograph as (H, W) uint16, from 0 for its darkest value to 65535 for its brightest.

    Raises:
        ValueError: the file is damaged, holds colour, several frames or no picture, or is compressed by a codec that is not
            installed.
    """
    try:
        data = pydicom.dcmread(path)
    except InvalidDicomError:
        raise ValueError("is no DICOM file: the letters DICM are missing after the first 128 bytes") from None
    _check(data)
    stored = data.pixel_array
    first, last = int(stored.min()), int(stored.max())
    values = _viewed(np.arange(first, last + 1, dtype=np.int64), data)
    index = np.subtract(stored, first, dtype=np.int32)
    present = np.zeros(len(values), dtype=bool)
    present[index] = True
    low, high = float(values[present].min()), float(values[present].max())
    if low == high and first != last:
        raise ValueError("its window or lookup table gives every pixel the same value; nothing would be left to see")
    if data.PhotometricInterpretation == "MONOCHROME1" or data.get("PresentationLUTShape") == "INVERSE":
        values = high + low - values.astype(np.float64)
    picture: npt.NDArray[np.uint16] = to_16_bit(values, low, high)[index]
    return picture


def _check(data: pydicom.Dataset) -> None:
    kind = data.get("PhotometricInterpretation")
    frames, bits = int(data.get("NumberOfFrames") or 1), data.get("BitsAllocated")
    if "PixelData" not in data:
        raise ValueError("DICOM file without pixel data")
    if kind not in _GREY or data.get("SamplesPerPixel", 1) != 1:
        raise ValueError(f"DICOM file with {kind or 'unnamed'} pixels, expected a grey radiograph: {' or '.join(_GREY)}")
    if frames > 1:
        raise ValueError(f"DICOM file with {frames} frames, expected one picture a file")
    if bits not in (8, 16):
        raise ValueError(f"DICOM file with {bits} bits a pixel, expected 8 or 16")
    for name in ("RescaleSlope", "RescaleIntercept"):
        if name in data and data[name].value is None:
            del data[name]  # named and empty means absent, but pydicom would calculate with it
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ValueError("DICOM file that does not say how its pixels are stored (no TransferSyntaxUID)")
    if syntax.is_compressed and not syntax.is_deflated:
        try:
            installed = get_decoder(syntax).is_available
        except NotImplementedError:
            raise ValueError(f"DICOM file compressed as '{syntax.name}', which holds no picture that can be read") from None
        if not installed:
            raise MissingCodecError(f"DICOM file compressed as '{syntax.name}', which needs: pip install 'cxr-eval[dicom]'")


def _viewed(values: npt.NDArray[np.int64], data: pydicom.Dataset) -> Array:
    """Stored values as they are shown, before polarity."""
    rescaled: Array = apply_modality_lut(values, data)
    tables = data.get("VOILUTSequence")
    if tables and tables[0].get("LUTDescriptor") and tables[0].get("LUTData"):
        return _looked_up(np.rint(rescaled).astype(np.int64), tables[0], little_endian=data.original_encoding[1] is not False)
    return np.asarray(apply_voi_lut(rescaled, data))


def _looked_up(values: npt.NDArray[np.int64], table: pydicom.Dataset, *, little_endian: bool) -> Array:
    """Values through a VOI LUT. pydicom's own lookup counts in the table's type: with 8-bit entries it wraps above 255."""
    entries, first, _ = table.LUTDescriptor
    entries = entries or 2**16  # DICOM PS3.3 C.11.2.1.1: 0 stands for 65536
    if first >= 2**15 and values.min() < 0:  # rescaled values have a sign that the file's pixels, and so its numbers, have not
        first -= 2**16
    listed = table.LUTData
    if isinstance(listed, bytes):
        wide = len(listed) >= 2 * entries
        listed = np.frombuffer(listed, ("<u2" if little_endian else ">u2") if wide else "u1")
    shown = np.atleast_1d(np.asarray(listed, dtype=np.int64))[:entries]
    if len(shown) < entries:
        raise ValueError(f"DICOM file whose VOI lookup table has {len(shown)} of its {entries} entries")
    return np.asarray(shown[np.clip(values - first, 0, entries - 1)])
