"""One slice of a NIfTI file as a picture.

It lies as ITK-SNAP shows it, by the directions that the header gives: the patient's left on the right side (in sagittal planes
the back), posterior at the bottom of an axial slice, feet at the bottom of the others. A picture that ITK wrote as NIfTI comes
out as it was. A header without directions (both codes 0) has the first axis across and the second down.
"""

from __future__ import annotations

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from cxr_eval.data.pictures import Array


def is_nifti(path: str) -> bool:
    """True for `.nii` and `.nii.gz`."""
    return path.lower().endswith((".nii", ".nii.gz"))


def plane(path: str, number: int | None) -> Array:
    """The values of slice `number` along the third axis as (H, W); None for a file that holds one picture.

    Raises:
        ValueError: there is no such slice, none is named and there are several, or the values are not finite numbers.
        OSError: the file is damaged.
    """
    try:
        image = nibabel.load(path)
        shape = tuple(image.shape)
    except ImageFileError:
        raise ValueError("is no NIfTI file, or is damaged") from None
    depth = shape[2] if len(shape) > 2 else 1
    if len(shape) < 2 or any(length != 1 for length in shape[3:]):
        raise ValueError(f"NIfTI file of {' x '.join(map(str, shape))} values, expected a picture or one volume")
    if number is None and depth > 1:
        raise ValueError(f"NIfTI volume of {depth} slices; say in the column 'slice' which one the image is")
    if number is not None and number >= depth:
        raise ValueError(f"slice {number} does not exist, the NIfTI file has {depth}, counted from 0")
    values = np.asarray(image.dataobj[(slice(None), slice(None), number or 0, *[0] * len(shape[3:]))[: len(shape)]])
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError("NIfTI file with values that are no finite numbers")
    return _upright(values, image)


def _upright(values: Array, image: nibabel.Nifti1Image) -> Array:
    if int(image.header["qform_code"]) == int(image.header["sform_code"]) == 0:
        return values.T
    axes = nibabel.io_orientation(image.affine)[:2]  # for both axes: along left-right, front-back or feet-head, and its sign
    if not np.isfinite(axes).all():
        raise ValueError("NIfTI file whose affine matrix gives an axis no direction")
    for axis, sign in enumerate(axes[:, 1]):
        if sign > 0:  # NIfTI counts towards right, front and head; a picture runs to the left, the back and the feet
            values = np.flip(values, axis)
    return values.T if axes[0, 0] < axes[1, 0] else values
