"""Files as arrays: PNG, JPEG, BMP and TIFF pictures, DICOM radiographs, slices of NIfTI volumes, and masks.

Pictures are read by MONAI's PILReader with `reverse_indexing=False`, because its default turns arrays into (W, H), away from
masks and boxes. The reader is called itself, not through `LoadImage`, which would need the global `set_track_meta(False)` to
give plain arrays, and hides why a file cannot be read.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cxr_eval.data import dicom, nifti
from cxr_eval.data.pictures import Array, to_16_bit

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes for 16-bit grey
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF's tag, and its value for inverted grey


def decode(path: str, *, colour: bool = False, number: int | None = None) -> Array:
    """A picture as (H, W), or (H, W, 3) if it is coloured and `colour` asks for it; uint8, or uint16 for wider grey.

    DICOM and NIfTI give uint16 from their smallest to their largest value. number: the slice of a NIfTI volume.

    Raises:
        OSError, ValueError, SyntaxError: the file is no picture or several, is damaged, or has floating-point pixels.
    """
    if nifti.is_nifti(path):
        values = nifti.plane(path, number)
        return to_16_bit(values, float(values.min()), float(values.max()))
    if number is not None:
        raise ValueError(f"slice {number} is named, but only NIfTI volumes (.nii, .nii.gz) have slices")
    return dicom.decode(path) if dicom.is_dicom(path) else _picture(path, colour=colour)


def decode_mask(path: str, *, number: int | None = None) -> npt.NDArray[np.bool_]:
    """A mask as (H, W) bool: every pixel that is not 0, or in a JPEG, whose black is noisy, from half of white on.

    number: the slice, if the mask is a NIfTI volume.

    Raises:
        OSError, ValueError, SyntaxError: as `decode`; or the file is DICOM.
    """
    if nifti.is_nifti(path):
        return np.asarray(nifti.plane(path, number) != 0)
    if dicom.is_dicom(path):
        raise ValueError("is DICOM, expected a mask as a picture or NIfTI")
    grey = _picture(path, colour=False)
    return grey >= 128 if Path(path).suffix.lower() in (".jpg", ".jpeg") else grey > 0


def _picture(path: str, *, colour: bool) -> Array:
    from monai.data import PILReader  # imports all of MONAI, seconds: only where something is decoded

    reader = PILReader(converter=partial(_shown, colour=colour), reverse_indexing=False)
    read, _ = reader.get_data(reader.read(path))
    array = np.asarray(read)
    if array.dtype == np.uint8:
        grey = array.ndim == 3 and (array == array[..., :1]).all()
        return array[..., 0] if grey else array
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(f"pixels from {array.min()} to {array.max()}, expected 0 to 65535")
    return array.astype(np.uint16)


def _shown(image: Image.Image, *, colour: bool) -> Image.Image:
    """The picture as a viewer shows it on black: upright, without palette or transparency."""
    with image:  # closes the file also if decoding fails
        inverted = False
        if image.format == "TIFF":
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise ValueError(f"TIFF with {pages} pages, expected one picture a file")
            inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # type: ignore[attr-defined]  # of a TIFF
        upright = ImageOps.exif_transpose(image)
    if upright.mode in _WIDE:  # Pillow inverts 8 bits itself, 16 it does not
        return Image.fromarray(65535 - np.asarray(upright)) if inverted else upright
    if upright.mode == "F":
        raise ValueError("floating-point pixels, expected 8 or 16 bits")
    if upright.mode in _ALPHA or "transparency" in upright.info:
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB" if colour else "L")
