"""Files as arrays: pictures in every format, slices of NIfTI volumes, and masks. DICOM has a file of its own."""

import re
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from cxr_eval.data.decoding import decode, decode_mask

RNG = np.random.default_rng(0)


def grey(height: int = 20, width: int = 30, top: int = 256, dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(0, top, (height, width)).astype(dtype)


def saved(array: np.ndarray, path: Path, **options: Any) -> str:
    Image.fromarray(array).save(path, **options)
    return str(path)


def test_grey_of_8_and_16_bits_is_read_pixel_by_pixel_as_pillow_reads_it(tmp_path: Path) -> None:
    for dtype, top in ((np.uint8, 256), (np.uint16, 65536)):
        array = grey(top=top, dtype=dtype)
        path = saved(array, tmp_path / "a.png")
        read = decode(path)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, array)
        np.testing.assert_array_equal(read, np.asarray(Image.open(path)))
        np.testing.assert_array_equal(decode(path, colour=True), array)  # grey stays one plane


def test_rows_come_first_unlike_with_monais_default(tmp_path: Path) -> None:
    from monai.data import PILReader

    array = np.zeros((20, 30), dtype=np.uint8)
    array[2, 25] = 255  # upper right
    path = saved(array, tmp_path / "a.png")
    assert decode(path)[2, 25] == 255
    reader = PILReader()
    turned, _ = reader.get_data(reader.read(path))
    assert turned.shape == (30, 20)  # the pitfall
    np.testing.assert_array_equal(decode(path), turned.T)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    array = np.zeros((20, 30), dtype=np.uint8)
    array[:10, :10] = 255  # upper left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    read = decode(saved(array, tmp_path / "a.jpg", exif=exif.tobytes(), quality=95))
    assert read.shape == (30, 20)
    np.testing.assert_array_equal(read > 128, np.rot90(array, -1) > 128)


def test_opaque_rgba_la_palette_and_bit_images_equal_the_grey_they_hold(tmp_path: Path) -> None:
    array = grey()
    image = Image.fromarray(array)
    for mode in ("RGB", "RGBA", "LA"):
        path = tmp_path / f"{mode}.png"
        image.convert(mode).save(path)
        np.testing.assert_array_equal(decode(str(path)), array)
    few = Image.fromarray((array // 16 * 17).astype(np.uint8))
    few.convert("P").save(tmp_path / "p.png")
    np.testing.assert_array_equal(decode(str(tmp_path / "p.png")), np.asarray(few))
    bits = array > 128
    np.testing.assert_array_equal(decode(saved(bits, tmp_path / "1.png")), bits * 255)


def test_palette_indices_are_not_taken_for_brightness(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 200, 200, 10, 10, 10])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png")
    assert decode(str(tmp_path / "p.png")).tolist() == [[200, 10]]


def test_transparent_pixels_are_black_and_colour_is_kept_with_three_channels(tmp_path: Path) -> None:
    array = np.zeros((2, 2, 4), dtype=np.uint8)
    array[0, 0] = (255, 255, 255, 0)
    array[0, 1] = (10, 20, 30, 255)
    path = saved(array, tmp_path / "a.png")
    assert decode(path, colour=True)[0].tolist() == [[0, 0, 0], [10, 20, 30]]
    assert decode(path)[0, 0] == 0


def test_floating_point_pixels_and_values_above_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(ValueError, match="floating-point pixels, expected 8 or 16 bits"):
        decode(str(tmp_path / "f.tiff"))
    Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)).save(tmp_path / "i.tiff")
    with pytest.raises(ValueError, match="pixels from 70000 to 70000, expected 0 to 65535"):
        decode(str(tmp_path / "i.tiff"))


def test_masks_are_true_where_not_black_and_jpeg_masks_from_half_of_white(tmp_path: Path) -> None:
    array = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    assert decode_mask(saved(array, tmp_path / "m.png")).tolist() == [[False, True], [True, True]]
    blocks = np.kron(np.array([[0, 255], [0, 0]]), np.ones((16, 16))).astype(np.uint8)
    read = decode_mask(saved(blocks, tmp_path / "m.jpg", quality=20))
    np.testing.assert_array_equal(read, blocks > 0)


def test_a_grey_picture_of_three_planes_is_one_plane_and_one_coloured_pixel_makes_three(tmp_path: Path) -> None:
    array = np.repeat(grey()[..., None], 3, axis=-1)
    assert decode(saved(array, tmp_path / "a.png"), colour=True).tolist() == array[..., 0].tolist()
    array[3, 4] = (10, 20, 30)
    np.testing.assert_array_equal(decode(saved(array, tmp_path / "b.png"), colour=True), array)
    assert decode(str(tmp_path / "b.png")).shape == (20, 30)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_no_format_is_turned_or_mirrored(tmp_path: Path, suffix: str) -> None:
    array = grey()
    np.testing.assert_array_equal(decode(saved(array, tmp_path / f"a{suffix}")), array)


def test_a_jpeg_is_not_turned_or_mirrored_either(tmp_path: Path) -> None:
    array = np.zeros((24, 40), dtype=np.uint8)
    array[:8, :16] = 200
    read = decode(saved(array, tmp_path / "a.jpg", quality=95))
    assert np.abs(read.astype(int) - array).max() <= 8  # noise of the compression


def test_a_tiff_whose_white_is_zero_is_inverted_with_8_and_16_bits(tmp_path: Path) -> None:
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        array = grey(top=top, dtype=dtype)
        path = Path(saved(array, tmp_path / "a.tif"))
        entry = b"\x06\x01\x03\x00\x01\x00\x00\x00"  # tag 262, one short
        written = path.read_bytes()
        assert written.count(entry + b"\x01\x00") == 1  # black is zero
        path.write_bytes(written.replace(entry + b"\x01\x00", entry + b"\x00\x00"))
        np.testing.assert_array_equal(decode(str(path)), top - array if top == 255 else 65535 - array)


def test_a_tiff_of_several_pages_is_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(grey()) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"^TIFF with 3 pages, expected one picture a file$"):
        decode(str(tmp_path / "a.tif"))


# NIfTI

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # as ITK writes a picture: the axes run to the left, the back and the head


def volume(path: Path, values: np.ndarray, affine: Any = LPS) -> str:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return str(path)


def stretched(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    return np.rint((values - values.min()) / (values.max() - values.min()) * 65535).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_picture_that_itk_wrote_as_nifti_comes_out_as_it_was(tmp_path: Path, suffix: str) -> None:
    array = grey(top=4000, dtype=np.int16)  # (20, 30), rows first; ITK stores (x, y)
    read = decode(volume(tmp_path / f"a{suffix}", array.T))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, stretched(array))
    np.testing.assert_array_equal(decode(volume(tmp_path / f"b{suffix}", array.T[..., None])), stretched(array))


def test_a_radiograph_lies_upright_whatever_way_its_axes_run(tmp_path: Path) -> None:
    array = grey(top=4000, dtype=np.int16)
    right_front_head = volume(tmp_path / "a.nii", array.T[::-1, ::-1], np.eye(4))
    np.testing.assert_array_equal(decode(right_front_head), stretched(array))
    rows_first = np.array([[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)
    np.testing.assert_array_equal(decode(volume(tmp_path / "b.nii", array, rows_first)), stretched(array))
    # a coronal picture: the second axis runs to the head
    coronal = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=float)
    np.testing.assert_array_equal(decode(volume(tmp_path / "c.nii", array.T[:, ::-1], coronal)), stretched(array))
    # a sagittal one: the first axis runs to the back, the second to the head
    sagittal = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=float)
    np.testing.assert_array_equal(decode(volume(tmp_path / "d.nii", array.T[:, ::-1], sagittal)), stretched(array))


def test_without_directions_the_first_axis_runs_across_and_the_second_down(tmp_path: Path) -> None:
    array = grey(top=4000, dtype=np.int16)
    path = volume(tmp_path / "a.nii", array.T, None)
    read = nibabel.load(path)
    assert int(read.header["sform_code"]) == int(read.header["qform_code"]) == 0
    np.testing.assert_array_equal(decode(path), stretched(array))


def test_a_slice_counts_along_the_third_axis_and_is_stretched_by_itself(tmp_path: Path) -> None:
    slices = RNG.integers(0, 3000, (5, 20, 30)).astype(np.int16)
    slices[2] //= 10
    path = volume(tmp_path / "a.nii.gz", np.moveaxis(slices, 0, -1).swapaxes(0, 1))
    np.testing.assert_array_equal(decode(path, number=2), stretched(slices[2]))
    np.testing.assert_array_equal(decode(path, number=4), stretched(slices[4]))


def test_a_rescaled_nifti_gives_its_real_values(tmp_path: Path) -> None:
    array = grey(top=4000, dtype=np.int16)
    path = Path(volume(tmp_path / "a.nii", array.T))
    header = bytearray(path.read_bytes())
    header[112:120] = struct.pack("<ff", -2.0, 7.0)  # scl_slope, scl_inter
    path.write_bytes(header)
    np.testing.assert_array_equal(decode(str(path)), stretched(-2.0 * array + 7.0))


def test_nifti_masks_are_true_where_not_zero_in_the_slice_of_their_image(tmp_path: Path) -> None:
    masks = np.zeros((30, 20, 3), dtype=np.uint8)
    masks[25, 2, 1] = 1
    masks[..., 2] = 1  # a mask of everything is everything, not black
    path = volume(tmp_path / "m.nii.gz", masks)
    assert not decode_mask(path, number=0).any()
    assert np.argwhere(decode_mask(path, number=1)).tolist() == [[2, 25]]
    assert decode_mask(path, number=2).all()


def nifti_without_a_slice(folder: Path) -> tuple[str, int | None, str]:
    reason = "NIfTI volume of 4 slices; say in the column 'slice' which one the image is"
    return volume(folder / "a.nii", np.zeros((5, 6, 4), dtype=np.int16)), None, reason


def nifti_without_this_slice(folder: Path) -> tuple[str, int | None, str]:
    reason = "slice 4 does not exist, the NIfTI file has 4, counted from 0"
    return volume(folder / "a.nii", np.zeros((5, 6, 4), dtype=np.int16)), 4, reason


def nifti_of_several_volumes(folder: Path) -> tuple[str, int | None, str]:
    reason = "NIfTI file of 5 x 6 x 4 x 2 values, expected a picture or one volume"
    return volume(folder / "a.nii", np.zeros((5, 6, 4, 2), dtype=np.int16)), 1, reason


def nifti_with_nan(folder: Path) -> tuple[str, int | None, str]:
    values = np.full((5, 6), np.nan, dtype=np.float32)
    return volume(folder / "a.nii", values), None, "NIfTI file with values that are no finite numbers"


def nifti_without_direction(folder: Path) -> tuple[str, int | None, str]:
    image = nibabel.Nifti1Image(np.ones((5, 6), dtype=np.float32), None)
    image.set_sform(np.diag([0.0, -1.0, 1.0, 1.0]), 2)
    nibabel.save(image, folder / "a.nii")
    return str(folder / "a.nii"), None, "NIfTI file whose affine matrix gives an axis no direction"


def not_nifti(folder: Path) -> tuple[str, int | None, str]:
    (folder / "a.nii").write_text("no volume")
    return str(folder / "a.nii"), None, "is no NIfTI file, or is damaged"


def picture_with_a_slice(folder: Path) -> tuple[str, int | None, str]:
    reason = "slice 0 is named, but only NIfTI volumes (.nii, .nii.gz) have slices"
    return saved(grey(), folder / "a.png"), 0, reason


@pytest.mark.parametrize(
    "harm",
    [
        nifti_without_a_slice,
        nifti_without_this_slice,
        nifti_of_several_volumes,
        nifti_with_nan,
        nifti_without_direction,
        not_nifti,
        picture_with_a_slice,
    ],
)
def test_what_is_no_one_slice_is_refused_in_one_line(tmp_path: Path, harm: Any) -> None:
    path, number, reason = harm(tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        decode(path, number=number)


def test_a_volume_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz"):
        path = Path(volume(tmp_path / f"a{suffix}", RNG.integers(0, 3000, (40, 50)).astype(np.int16)))
        path.write_bytes(path.read_bytes()[:-1500])
        with pytest.raises((OSError, ValueError, EOFError)):
            decode(str(path))
