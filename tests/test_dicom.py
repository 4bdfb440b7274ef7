"""DICOM radiographs: the order of steps, polarity, codecs, and files that are refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import MPEG2MPML, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from cxr_eval.data import dicom
from cxr_eval.data.decoding import decode, decode_mask
from cxr_eval.data.prepared import prepare
from cxr_eval.errors import DataError

RNG = np.random.default_rng(0)


def values(bits: int = 12, *, signed: bool = False, height: int = 20, width: int = 30) -> np.ndarray:
    """Random stored values that use the whole range of `bits`, not square."""
    low = -(2 ** (bits - 1)) if signed else 0
    found = RNG.integers(low, low + 2**bits, (height, width))
    found[0, :2] = low, low + 2**bits - 1
    return found.astype(np.int16 if signed else np.uint8 if bits <= 8 else np.uint16)


def written(path: Path, stored: np.ndarray, bits: int = 12, **tags: Any) -> str:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"  # digital X-ray, for presentation
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return str(path)


def lookup(first: int, entries: np.ndarray, bits: int, kind: str = "OW") -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first % 65536, bits]
    if kind == "bytes":
        item.add_new(0x00283006, "OW", entries.astype("u1").tobytes())
    else:
        item.add_new(0x00283006, kind, entries.astype("<u2").tobytes() if kind == "OW" else entries.tolist())
    return item


def stretched(shown: np.ndarray) -> np.ndarray:
    shown = shown.astype(float)
    return np.rint((shown - shown.min()) / (shown.max() - shown.min()) * 65535)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_values_are_stretched_from_the_smallest_to_the_largest_and_never_turned(
    tmp_path: Path, bits: int, signed: bool
) -> None:
    stored = values(bits, signed=signed)
    read = decode(written(tmp_path / "a.dcm", stored, bits))
    assert read.shape == (20, 30)
    assert read.dtype == np.uint16
    low = -(2 ** (bits - 1)) if signed else 0
    np.testing.assert_array_equal(read, np.rint((stored.astype(float) - low) / (2**bits - 1) * 65535))
    np.testing.assert_array_equal(read.argmax(), stored.argmax())


WINDOWED: list[dict[str, Any]] = [
    {},
    {"RescaleSlope": "2", "RescaleIntercept": "-1000"},
    {"RescaleSlope": "0.37", "RescaleIntercept": "-11.5"},
    {"WindowCenter": "1500", "WindowWidth": "900"},
    {"WindowCenter": ["1500", "10"], "WindowWidth": ["900", "5"]},  # the first of several
    {"WindowCenter": "1500", "WindowWidth": "900", "RescaleSlope": "-1.5", "RescaleIntercept": "4000"},
    {"WindowCenter": "1500", "WindowWidth": "900", "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": "1500", "WindowWidth": "900", "VOILUTFunction": "SIGMOID"},
    {"VOILUTSequence": [lookup(0, np.arange(4096) ** 2 // 512, 16)]},
    {"VOILUTSequence": [lookup(700, np.arange(1024)[::-1], 10, "US")], "WindowCenter": "1500", "WindowWidth": "900"},
    {"ModalityLUTSequence": [lookup(0, np.arange(4096) ** 2 // 512, 16)], "WindowCenter": "9000", "WindowWidth": "9000"},
]


@pytest.mark.parametrize("tags", WINDOWED, ids=lambda tags: "+".join(tags) or "plain")
@pytest.mark.parametrize("signed", [False, True])
def test_modality_and_then_voi_are_what_pydicom_makes_of_the_whole_picture(
    tmp_path: Path, tags: dict[str, Any], signed: bool
) -> None:
    path = written(tmp_path / "a.dcm", values(signed=signed), **tags)
    data = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    np.testing.assert_array_equal(decode(path), stretched(shown))


def test_a_window_in_closed_form(tmp_path: Path) -> None:
    stored = np.array([[0, 100, 149, 150], [151, 199, 250, 255]], dtype=np.uint8)
    path = written(tmp_path / "a.dcm", stored, 8, WindowCenter="150.5", WindowWidth="101")
    # LINEAR: below 150.5 - 0.5 - 100/2 = 100 black, above 200 white, between them (v - 150) / 100 + 0.5
    share = np.array([[0, 0, 0.49, 0.5], [0.51, 0.99, 1, 1]])
    np.testing.assert_array_equal(decode(path), np.rint(share * 65535))


def test_rescaled_whole_values_are_looked_up_without_a_doubt(tmp_path: Path) -> None:
    stored, table = values(), np.arange(5000) % 4096
    tags = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "VOILUTSequence": [lookup(-1024, table, 12)]}
    np.testing.assert_array_equal(decode(written(tmp_path / "a.dcm", stored, **tags)), stretched(table[stored]))


@pytest.mark.parametrize("kind", ["OW", "bytes"])
def test_a_lookup_table_of_8_bit_entries_does_not_wrap_as_it_does_in_pydicom(tmp_path: Path, kind: str) -> None:
    stored, table = values(), np.arange(4096) // 16
    path = written(tmp_path / "a.dcm", stored, VOILUTSequence=[lookup(0, table, 8, kind)])
    np.testing.assert_array_equal(decode(path), stretched(table[stored]))


def test_low_values_are_white_in_monochrome1_after_the_window(tmp_path: Path) -> None:
    stored = values()
    window = {"WindowCenter": "1000", "WindowWidth": "900"}
    shown = decode(written(tmp_path / "a.dcm", stored, **window)).astype(int)
    inverted = decode(written(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1", **window))
    assert np.abs(65535 - shown - inverted).max() <= 1  # both are rounded
    assert stored.flat[inverted.argmax()] <= 551


def test_inverse_presentation_says_the_same_as_monochrome1_and_both_invert_once(tmp_path: Path) -> None:
    stored = values()
    said = [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ]
    for tags in said:
        np.testing.assert_array_equal(decode(written(tmp_path / "a.dcm", stored, **tags)), stretched(-stored.astype(int)))
    np.testing.assert_array_equal(
        decode(written(tmp_path / "a.dcm", stored, PresentationLUTShape="IDENTITY")), stretched(stored)
    )


def test_bits_above_those_stored_are_no_part_of_the_picture(tmp_path: Path) -> None:
    stored = values()
    overlaid = stored.copy()
    overlaid[5:9, 3:20] |= 0x8000
    np.testing.assert_array_equal(decode(written(tmp_path / "a.dcm", overlaid)), stretched(stored))


def test_a_picture_of_one_value_is_black(tmp_path: Path) -> None:
    assert not decode(written(tmp_path / "a.dcm", np.full((4, 5), 900, dtype=np.uint16))).any()


def test_a_rescaling_that_is_named_but_empty_is_none(tmp_path: Path) -> None:
    stored = values()
    path = written(tmp_path / "a.dcm", stored, RescaleSlope="1", RescaleIntercept=None)
    np.testing.assert_array_equal(decode(path), stretched(stored))


def test_a_file_without_the_suffix_is_known_by_its_beginning(tmp_path: Path) -> None:
    stored = values()
    np.testing.assert_array_equal(decode(written(tmp_path / "image", stored)), stretched(stored))


@pytest.mark.parametrize("codec", [RLELossless, JPEG2000Lossless])
def test_compressed_files_give_the_same_pixels(tmp_path: Path, codec: str) -> None:
    plain = written(tmp_path / "a.dcm", values(height=70, width=90))
    data = pydicom.dcmread(plain)
    data.compress(codec)
    data.save_as(tmp_path / "b.dcm")
    np.testing.assert_array_equal(decode(str(tmp_path / "b.dcm")), decode(plain))


@pytest.mark.parametrize("name", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_pydicoms_own_files_give_one_picture_in_every_syntax(name: str) -> None:
    same = [str(get_testdata_file(file)) for file in ("MR_small.dcm", f"MR_small_{name}.dcm")]
    with dicom.quiet():
        np.testing.assert_array_equal(decode(same[0]), decode(same[1]))


def test_lossy_jpeg_of_12_bits_is_read() -> None:
    path = str(get_testdata_file("JPGExtended.dcm"))
    np.testing.assert_array_equal(decode(path), stretched(pydicom.dcmread(path).pixel_array))


def test_pydicoms_warnings_do_not_reach_the_user(tmp_path: Path) -> None:
    stored = values()
    path = written(tmp_path / "a.dcm", stored, PixelData=stored.tobytes() + bytes(100))
    with pytest.raises(UserWarning, match="excess padding"):  # warnings are errors here
        decode(path)
    with dicom.quiet():
        np.testing.assert_array_equal(decode(path), stretched(stored))


# refused


def not_dicom(folder: Path) -> tuple[str, str]:
    (folder / "a.dcm").write_bytes(b"x" * 500)
    return str(folder / "a.dcm"), "is no DICOM file: the letters DICM are missing after the first 128 bytes"


def no_pixels(folder: Path) -> tuple[str, str]:
    path = Path(written(folder / "a.dcm", values()))
    path.write_bytes(path.read_bytes()[:-1300])
    return str(path), "DICOM file without pixel data"


def colour(folder: Path) -> tuple[str, str]:
    path = written(folder / "a.dcm", np.zeros((4, 5, 3), np.uint8), 8, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    return path, "DICOM file with RGB pixels, expected a grey radiograph: MONOCHROME1 or MONOCHROME2"


def palette(folder: Path) -> tuple[str, str]:
    path = str(get_testdata_file("examples_palette.dcm"))
    return path, "DICOM file with PALETTE COLOR pixels, expected a grey radiograph: MONOCHROME1 or MONOCHROME2"


def frames(folder: Path) -> tuple[str, str]:
    stored = np.zeros((4, 5), np.uint8)
    path = written(folder / "a.dcm", stored, 8, NumberOfFrames=3, PixelData=stored.tobytes() * 3)
    return path, "DICOM file with 3 frames, expected one picture a file"


def wide(folder: Path) -> tuple[str, str]:
    return written(folder / "a.dcm", np.zeros((4, 5), np.uint32), 32), "DICOM file with 32 bits a pixel, expected 8 or 16"


def window_beside(folder: Path) -> tuple[str, str]:
    path = written(folder / "a.dcm", values(), WindowCenter="20000", WindowWidth="100")
    return path, "its window or lookup table gives every pixel the same value; nothing would be left to see"


def short_table(folder: Path) -> tuple[str, str]:
    table = lookup(0, np.arange(100), 12)
    table.LUTDescriptor = [4096, 0, 12]
    path = written(folder / "a.dcm", values(), VOILUTSequence=[table])
    return path, "DICOM file whose VOI lookup table has 200 of its 4096 entries"


def no_syntax(folder: Path) -> tuple[str, str]:
    path = Path(written(folder / "a.dcm", values()))
    data = pydicom.dcmread(path)
    del data.file_meta.TransferSyntaxUID
    data.save_as(path, implicit_vr=False, little_endian=True)
    return str(path), "DICOM file that does not say how its pixels are stored (no TransferSyntaxUID)"


def film(folder: Path) -> tuple[str, str]:
    path = written(folder / "a.dcm", values())
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = MPEG2MPML
    data.PixelData = pydicom.encaps.encapsulate([data.PixelData])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    return path, f"DICOM file compressed as '{MPEG2MPML.name}', which holds no picture that can be read"


REFUSED = [not_dicom, no_pixels, colour, palette, frames, wide, window_beside, short_table, no_syntax, film]


@pytest.mark.parametrize("harm", REFUSED)
def test_what_is_no_radiograph_is_refused_in_one_line(tmp_path: Path, harm: Any) -> None:
    path, reason = harm(tmp_path)
    with dicom.quiet(), pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        decode(path)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "a.dcm", values()))
    path.write_bytes(path.read_bytes()[:-300])
    with dicom.quiet(), pytest.raises(ValueError, match="number of bytes of pixel data is less than expected"):
        decode(str(path))


def test_a_missing_codec_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.dcm", values())
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.PixelData = pydicom.encaps.encapsulate([data.PixelData])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    monkeypatch.setattr(Decoder, "is_available", property(lambda _: False))
    reason = f"DICOM file compressed as '{JPEGLosslessSV1.name}', which needs: pip install 'cxr-eval[dicom]'"
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        decode(path)


def test_a_missing_codec_stops_even_where_bad_files_are_skipped_and_is_forgotten_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is sound: left out once, it would stay left out after the codec was installed."""
    plain, packed = written(tmp_path / "a.dcm", values()), written(tmp_path / "b.dcm", values())
    data = pydicom.dcmread(packed)
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    data.save_as(packed)
    table = pd.DataFrame({"image": [plain, packed], "image_id": ["a", "b"]}, dtype=object)
    asked = {"size": 16, "channels": 1, "resize": "squash", "colour": False, "cache": tmp_path / "cache", "reader": "r"}
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "is_available", property(lambda _: False))
        with pytest.raises(DataError, match=r"b\.dcm: DICOM file compressed as .* needs: pip install 'cxr-eval\[dicom\]'"):
            prepare(table, **asked, skip=True)
    assert len(prepare(table, **asked, skip=True).pixels) == 2


def test_a_mask_is_never_dicom(tmp_path: Path) -> None:
    path = written(tmp_path / "a.dcm", values())
    with pytest.raises(ValueError, match=r"^is DICOM, expected a mask as a picture or NIfTI$"):
        decode_mask(path)
