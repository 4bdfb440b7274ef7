"""Reader `siim_covid19` on a small tree laid out as the download; files are empty where only the tables matter."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cxr_eval.data import manifest
from cxr_eval.data.datasets import load
from cxr_eval.data.readers.siim_covid19 import SiimCovid19
from cxr_eval.errors import DataError
from cxr_eval.protocol import Data
from cxr_eval.registry import find

IMAGES = """id,boxes,label,StudyInstanceUID
aaa1_image,"[{'x': 789.28836, 'y': 582.43035, 'width': 1026.65662, 'height': 1917.30292}, {'x': 2245.91208, 'y': 591.20528,\
 'width': 1094.66162, 'height': 1761.54944}]",opacity 1 789.28836 582.43035 1815.94498 2499.73327 opacity 1 2245.91208\
 591.20528 3340.5737 2352.75472,s1
aaa2_image,,none 1 0 0 1 1,s1
bbb1_image,,none 1 0 0 1 1,s2
ccc1_image,"[{'x': 5, 'y': 6.5, 'width': 7, 'height': 8}]",opacity 1 5 6.5 12 14.5,s3
ddd1_image,,none 1 0 0 1 1,s4
"""
STUDIES = """id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance
s1_study,0,1,0,0
s2_study,1,0,0,0
s3_study,0,0,1,0
s4_study,0,0,0,1
"""
FIRST = ((789.28836, 582.43035, 1026.65662, 1917.30292), (2245.91208, 591.20528, 1094.66162, 1761.54944))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train_image_level.csv").write_text(IMAGES)
    (tmp_path / "train_study_level.csv").write_text(STUDIES)
    for name in ("s1/r1/aaa1", "s1/r2/aaa2", "s2/r1/bbb1", "s3/r1/ccc1", "s4/r1/ddd1"):
        path = tmp_path / "train" / f"{name}.dcm"
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "test" / "s9" / "r1").mkdir(parents=True)
    (tmp_path / "test" / "s9" / "r1" / "zzz1.dcm").touch()
    return tmp_path


def read(root: Path, **settings: Any) -> pd.DataFrame:
    return SiimCovid19(root=str(root), **settings).read(root / "cache")


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def boxed(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        column: {row["image_id"]: row[column] for _, row in table.iterrows() if isinstance(row[column], tuple)}
        for column in manifest.box_columns(table)
    }


def test_it_is_registered_under_its_name() -> None:
    assert find("readers", "siim_covid19") is SiimCovid19


def test_a_study_that_is_not_negative_is_positive_with_all_its_images(root: Path) -> None:
    table, _ = manifest.checked(read(root), reader="siim_covid19")
    assert table.set_index("image_id")["label"].to_dict() == {
        "aaa1": "pneumonia", "aaa2": "pneumonia", "bbb1": "negative", "ccc1": "pneumonia", "ddd1": "pneumonia"
    }  # fmt: skip
    assert table["patient"].tolist() == ["s1", "s1", "s2", "s3", "s4"]
    assert table["image"][1] == str(root / "train" / "s1" / "r2" / "aaa2.dcm")
    assert table["listed_in"][3] == f"{root / 'train_image_level.csv'}:5"
    assert "split" not in table


def test_boxes_say_where_the_positive_class_is_in_pixels_of_the_image(root: Path) -> None:
    assert boxed(read(root)) == {"boxes:pneumonia": {"aaa1": FIRST, "ccc1": ((5.0, 6.5, 7.0, 8.0),)}}


def test_an_image_without_opacity_may_be_the_negative_class(root: Path) -> None:
    table = read(root, positive="opacity")
    assert table["label"].tolist() == ["opacity", "negative", "negative", "opacity", "negative"]
    assert set(boxed(table)) == {"boxes:opacity"}


def test_the_four_appearances_are_classes_and_have_boxes_of_their_own(root: Path) -> None:
    table = read(root, labels="study")
    assert table["label"].tolist() == [
        "Typical Appearance", "Typical Appearance", "Negative for Pneumonia", "Indeterminate Appearance", "Atypical Appearance"
    ]  # fmt: skip
    assert {column: list(boxes) for column, boxes in boxed(table).items()} == {
        "boxes:Typical Appearance": ["aaa1"], "boxes:Indeterminate Appearance": ["ccc1"]
    }  # fmt: skip


def test_boxes_in_a_negative_study_are_boxes_of_no_class(root: Path) -> None:
    (root / "train_study_level.csv").write_text(STUDIES.replace("s3_study,0,0,1,0", "s3_study,1,0,0,0"))
    for labels in ("binary", "study"):
        assert list(boxed(read(root, labels=labels))["boxes"]) == ["ccc1"]


def test_images_that_no_table_lists_are_left_out_with_the_reason(root: Path) -> None:
    (root / "train" / "s1" / "r1" / "eee1.dcm").touch()
    table, reasons = manifest.used(read(root), reader="siim_covid19")
    assert reasons == {"it is not in train_image_level.csv": 1}
    assert len(table) == 5


def test_an_image_that_was_not_downloaded_is_named(root: Path) -> None:
    (root / "train" / "s3" / "r1" / "ccc1.dcm").unlink()
    with refused(f"train_image_level.csv:5: image file {root / 'train' / 's3' / 'SERIES' / 'ccc1.dcm'} not found"):
        manifest.checked(read(root), reader="siim_covid19")


def test_an_image_in_two_series_is_refused(root: Path) -> None:
    (root / "train" / "s1" / "r2" / "aaa1.dcm").touch()
    with refused("aaa1.dcm: the same image is in"):
        read(root)


@pytest.mark.parametrize("name", ["train_image_level.csv", "train_study_level.csv", "train"])
def test_what_is_missing_in_the_folder_is_named_before_anything_is_read(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    with refused(f"siim_covid19: {root}: '{name}' is missing; expected a folder holding train, train_image_level.csv"):
        SiimCovid19(root=str(root)).check()
    with refused("nowhere is not a folder"):
        SiimCovid19(root=str(root / "nowhere")).check()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bbb1_image", "bbb1", "train_image_level.csv:4: id is 'bbb1', expected the image's name followed by _image"),
        ("1 1,s2", "1 1,s8", "train_image_level.csv:4: study 's8' is not in"),
        ("'height': 8}]", "'height': 8}", "train_image_level.csv:5: boxes cannot be read, expected a list such as"),
        ("'height': 8}]", "'depth': 8}]", "train_image_level.csv:5: boxes cannot be read"),
        ("[{'x': 5,", "[{'x': print(),", "train_image_level.csv:5: boxes cannot be read"),
        ("opacity 1 5", "none 1 5", "train_image_level.csv:5: 1 boxes, but label begins with 'none 1 '"),
        ("none 1 0 0 1 1,s2", "opacity 1 0 0 1 1,s2", "train_image_level.csv:4: 0 boxes, but label begins with 'opacity'"),
        ("StudyInstanceUID", "Study", "train_image_level.csv:1: expected columns id, boxes, label, studyinstanceuid"),
    ],
)
def test_a_row_that_is_not_as_distributed_is_named(root: Path, old: str, new: str, message: str) -> None:
    (root / "train_image_level.csv").write_text(IMAGES.replace(old, new))
    with refused(message) as error:
        read(root)
    assert "\n" not in str(error.value)


def test_a_study_has_one_appearance(root: Path) -> None:
    (root / "train_study_level.csv").write_text(STUDIES.replace("s3_study,0,0,1,0", "s3_study,0,1,1,0"))
    with refused("train_study_level.csv:4: 2 of the four appearances are 1, expected one"):
        read(root)


def test_a_box_without_area_is_refused_by_the_common_check(root: Path) -> None:
    (root / "train_image_level.csv").write_text(IMAGES.replace("'height': 8}", "'height': 0}"))
    with refused("train_image_level.csv:5: boxes:pneumonia is ((5.0, 6.5, 7.0, 0.0),), expected (x, y, w, h)"):
        manifest.checked(read(root), reader="siim_covid19")


def test_the_key_of_the_binary_task_is_refused_for_the_other() -> None:
    with pytest.raises(pydantic.ValidationError, match="`positive` is for `labels: binary`"):
        SiimCovid19(root="x", labels="study", positive="study")


def write_dicom(path: Path, uid: str, number: int) -> None:
    """A 40 x 20 pixel radiograph with the 12-digit ids of the download where DICOM has its own kind."""
    made = Dataset()
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    made.Rows, made.Columns, made.SamplesPerPixel = 20, 40, 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelData = np.random.default_rng(number).integers(0, 4096, (20, 40)).astype("<u2").tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ids are no valid UIDs, as in the download
        made.SOPInstanceUID = made.StudyInstanceUID = uid
        made.save_as(path, enforce_file_format=True)


def test_boxes_become_the_region_of_their_class_in_prepared_images(tmp_path: Path) -> None:
    images, studies = [IMAGES.splitlines()[0]], [STUDIES.splitlines()[0]]
    for number in range(12):
        study, positive = f"{number:012x}", number % 2
        boxes = "\"[{'x': 10, 'y': 5, 'width': 20, 'height': 10}]\"" if positive else ""
        images.append(f"{number + 256:012x}_image,{boxes},{'opacity 1 10 5 30 15' if positive else 'none 1 0 0 1 1'},{study}")
        studies.append(f"{study}_study,{1 - positive},{positive},0,0")
        folder = tmp_path / "train" / study / "series"
        folder.mkdir(parents=True)
        write_dicom(folder / f"{number + 256:012x}.dcm", f"{number + 256:012x}", number)
    (tmp_path / "train_image_level.csv").write_text("\n".join(images))
    (tmp_path / "train_study_level.csv").write_text("\n".join(studies))
    source = {"reader": "siim_covid19", "root": str(tmp_path)}
    data = load(Data.model_validate({"train": source, "size": 20}), cache=tmp_path / "cache")
    expected = np.zeros((20, 20), dtype=bool)
    expected[5:15, 5:15] = True  # 40 x 20 pixels become 20 x 20: x 10 to 30 is 5 to 15, y stays
    for split in data.splits.values():
        drawn = split.region("pneumonia")
        for row, label in enumerate(split.table["label"]):
            assert np.array_equal(drawn[row], expected if label == "pneumonia" else np.zeros_like(expected))
