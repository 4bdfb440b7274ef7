"""Reader `rsna_pneumonia` on drawn trees that imitate the download."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from cxr_eval.data import datasets, manifest
from cxr_eval.data.readers.rsna_pneumonia import CLASSES, RsnaPneumonia
from cxr_eval.errors import DataError
from cxr_eval.protocol import Data
from cxr_eval.registry import find

IMAGES = ("0004cfab-14fd", "00436515-870c", "00704310-78a8", "008c19e8-a820")
LABELS = """patientId,x,y,width,height,Target
0004cfab-14fd,,,,,0
00436515-870c,264.0,152.0,213.0,379.0,1
00436515-870c,562.0,152.0,256.0,453.0,1
00704310-78a8,323.0,577.0,160.0,104.5,1
008c19e8-a820,,,,,0
"""
CLASS_INFO = """patientId,class
0004cfab-14fd,No Lung Opacity / Not Normal
00436515-870c,Lung Opacity
00436515-870c,Lung Opacity
00704310-78a8,Lung Opacity
008c19e8-a820,Normal
"""


def dicom(path: Path, **header: str) -> None:
    """A chest X-ray as the challenge stores it, but of 16 x 16 pixels."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    file.Modality, file.PhotometricInterpretation = "CR", "MONOCHROME2"
    file.Rows = file.Columns = 16
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 1, 8, 8, 7, 0
    file.PixelData = np.arange(256, dtype=np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with pydicom.config.disable_value_validation():  # the challenge's ages lack the unit that DICOM asks for
        for name, value in header.items():
            setattr(file, name, value)
        file.save_as(path, enforce_file_format=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "rsna"
    headers: list[dict[str, str]] = [
        {"PatientSex": "F", "PatientAge": "51", "ViewPosition": "PA"},
        {"PatientSex": "M", "PatientAge": "057Y", "ViewPosition": "AP"},
        {"PatientSex": "O", "PatientAge": "151", "ViewPosition": ""},
        {},
    ]
    for image, header in zip(IMAGES, headers, strict=True):
        dicom(root / "stage_2_train_images" / f"{image}.dcm", **header)
    (root / "stage_2_train_labels.csv").write_text(LABELS)
    (root / "stage_2_detailed_class_info.csv").write_text(CLASS_INFO)
    return root


def read(root: Path, **settings: Any) -> Any:
    return RsnaPneumonia(root=str(root), **settings).read(root / "cache")


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name() -> None:
    assert find("readers", "rsna_pneumonia") is RsnaPneumonia


def test_several_rows_of_an_image_are_its_boxes(root: Path) -> None:
    table, skipped = manifest.checked(read(root), reader="rsna_pneumonia")
    assert not skipped
    assert table["image_id"].tolist() == list(IMAGES)
    assert table["image"].tolist() == [str(root / "stage_2_train_images" / f"{image}.dcm") for image in IMAGES]
    assert table["patient"].tolist() == list(IMAGES)
    assert table["label"].tolist() == ["No Lung Opacity", "Lung Opacity", "Lung Opacity", "No Lung Opacity"]
    assert table["boxes:Lung Opacity"].tolist() == [
        None,
        ((264, 152, 213, 379), (562, 152, 256, 453)),
        ((323, 577, 160, 104.5),),
        None,
    ]
    assert table["listed_in"].tolist() == [f"{root / 'stage_2_train_labels.csv'}:{line}" for line in (2, 3, 5, 6)]
    assert not {"split", "sex", "age", "view"} & set(table)


def test_the_three_classes_of_the_second_table_keep_the_boxes_under_the_name_of_their_class(root: Path) -> None:
    table = read(root, labels="class")
    assert table["label"].tolist() == [CLASSES[1], CLASSES[0], CLASSES[0], CLASSES[2]]
    assert table["boxes:Lung Opacity"].notna().tolist() == (table["label"] == "Lung Opacity").tolist()


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_re_export_with_another_delimiter_gives_the_same_images(root: Path, delimiter: str) -> None:
    before = read(root, labels="class")
    for name in ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"):
        text = (root / name).read_text().replace(",", delimiter)
        (root / name).write_text(f"\ufeff{text}", encoding="utf-8", newline="\r\n")
    assert read(root, labels="class").equals(before)


def test_the_table_of_classes_is_needed_for_classes_only(root: Path) -> None:
    (root / "stage_2_detailed_class_info.csv").unlink()
    assert len(read(root)) == 4
    with refused(f"rsna_pneumonia: {root / 'stage_2_detailed_class_info.csv'} is not there"):
        read(root, labels="class")


def test_an_image_without_a_class_is_left_to_common_code(root: Path) -> None:
    (root / "stage_2_detailed_class_info.csv").write_text(CLASS_INFO.replace("008c19e8-a820,Normal\n", ""))
    with refused(f"{root / 'stage_2_train_labels.csv'}:6: no label"):
        manifest.checked(read(root, labels="class"), reader="rsna_pneumonia")


def test_sex_age_and_view_come_from_the_headers_when_asked_for(root: Path) -> None:
    table, _ = manifest.checked(read(root, headers=True), reader="rsna_pneumonia")
    assert table["sex"].tolist() == ["F", "M", None, None]
    np.testing.assert_array_equal(table["age"].to_numpy(dtype=float), [51, 57, np.nan, np.nan])  # no one is 151
    assert table["view"].tolist() == ["PA", "AP", None, None]


def test_missing_and_damaged_files_have_no_header_and_are_named_by_common_code(root: Path) -> None:
    (root / "stage_2_train_images" / f"{IMAGES[0]}.dcm").write_bytes(b"no DICOM")
    missing = root / "stage_2_train_images" / f"{IMAGES[1]}.dcm"
    missing.unlink()
    table = read(root, headers=True)
    assert table.loc[:1, ["sex", "age", "view"]].isna().all(axis=None)
    with refused(f"image file {missing} not found; 3 of 4 listed images found"):
        manifest.checked(table, reader="rsna_pneumonia")


def test_boxes_lie_on_the_decoded_image_and_are_the_region_of_their_class(tmp_path: Path) -> None:
    rows = []
    for number in range(24):
        dicom(tmp_path / "stage_2_train_images" / f"image{number}.dcm", PatientID=str(number))
        rows.append(f"image{number}," + ("4,8,6,2,1" if number % 2 else ",,,,0"))
    (tmp_path / "stage_2_train_labels.csv").write_text("\n".join([LABELS.partition("\n")[0], *rows]))
    data = Data.model_validate({"train": {"reader": "rsna_pneumonia", "root": str(tmp_path)}, "size": 16})
    loaded = datasets.load(data, cache=tmp_path / "cache")
    test = loaded.splits["test"]
    positive = (test.table["label"] == "Lung Opacity").to_numpy()
    assert 0 < positive.sum() < len(test)
    assert ((test.regions["Lung Opacity"].row >= 0) == positive).all()
    wanted = np.zeros((16, 16), dtype=bool)
    wanted[8:10, 4:10] = True
    assert (test.region("Lung Opacity")[positive] == wanted).all()
    grey = test.pixels[0, 0]
    assert grey[0, 0] == 0
    assert grey[15, 15] == np.iinfo(grey.dtype).max  # the DICOM's ramp from 0 to 255, neither inverted nor transposed
    assert grey[0, 1] < grey[1, 0]


def change(file: str, old: str, new: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return act


TARGETS, INFO = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            change(TARGETS, "patientId,x", "id,x"),
            f"{TARGETS}:1: expected the columns patientId, x, y, width, height, Target, got id,x,y,",
        ),
        (change(TARGETS, ",,,,,0", ",,,,0"), f"{TARGETS}:2: 5 cells, expected 6"),
        (change(TARGETS, ",,,,,0", ",,,,,2"), f"{TARGETS}:2: Target is '2', expected 0 or 1"),
        (
            change(TARGETS, "562.0,152.0,256.0,453.0,1", ",,,,0"),
            f"{TARGETS}:4: Target of 00436515-870c is 0, in line 3 1",
        ),
        (change(TARGETS, ",,,,,0", ",1,2,3,4,0"), f"{TARGETS}:2: a box (1, 2, 3, 4) with Target 0, expected empty cells"),
        (change(TARGETS, "562.0,", ","), f"{TARGETS}:4: box is (, 152.0, 256.0, 453.0), expected x, y, width and height"),
        (change(TARGETS, "256.0", "0"), f"{TARGETS}:4: box is (562.0, 152.0, 0, 453.0), expected x, y, width and height"),
        (change(TARGETS, "562.0", "inf"), f"{TARGETS}:4: box is (inf, 152.0, 256.0, 453.0), expected x, y, width and height"),
        (change(TARGETS, LABELS.partition("\n")[2], ""), f"{TARGETS}: holds no row below its header"),
        (lambda root: (root / TARGETS).write_bytes(b"\xff\xfe") and None, f"{TARGETS}: is not UTF-8 text"),
        (
            change(INFO, "Normal\n", "Healthy\n"),
            f"{INFO}:2: unknown class 'No Lung Opacity / Not Healthy'; expected Lung Opacity, No Lung Opacity / Not Normal,",
        ),
        (
            change(INFO, "870c,Lung Opacity", "870c,Normal"),
            f"{INFO}:3: class of 00436515-870c is Normal, but its Target in {TARGETS} is 1",
        ),
        (
            change(INFO, "00704310-78a8,Lung Opacity", "0004cfab-14fd,Normal"),
            f"{INFO}:5: class of 0004cfab-14fd is Normal, in a line before No Lung Opacity / Not Normal",
        ),
    ],
)
def test_a_damaged_table_is_one_line_with_its_place(root: Path, act: Callable[[Path], None], message: str) -> None:
    act(root)
    with refused(f"{root}/{message}"):
        read(root, labels="class")


def test_a_root_that_is_not_this_dataset_is_named(root: Path, tmp_path: Path) -> None:
    with refused(f"rsna_pneumonia: {tmp_path / 'gone'} is not a folder; expected stage_2_train_labels.csv and"):
        read(tmp_path / "gone")
    shutil.rmtree(root / "stage_2_train_images")
    with refused(f"{root / 'stage_2_train_images'} is not a folder; expected one .dcm file an image in it"):
        read(root)
    (root / TARGETS).unlink()
    with refused(f"rsna_pneumonia: {root / TARGETS} is not there"):
        read(root)
