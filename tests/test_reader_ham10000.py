"""Reader `ham10000` on a small tree in every layout that copies have, and on real images laid out as distributed."""

import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_eval.data import manifest
from cxr_eval.data.datasets import load
from cxr_eval.data.readers.ham10000 import Ham10000
from cxr_eval.errors import DataError
from cxr_eval.protocol import Data
from cxr_eval.registry import find

KAGGLE = """lesion_id,image_id,dx,dx_type,age,sex,localization
HAM_1,ISIC_1,bkl,histo,80.0,male,scalp
HAM_1,ISIC_2,bkl,histo,80.0,male,scalp
HAM_2,ISIC_3,nv,follow_up,,unknown,back
HAM_3,ISIC_4,mel,consensus,45.0,female,face
"""
DATAVERSE = """"lesion_id"\t"image_id"\t"dx"\t"dx_type"\t"age"\t"sex"\t"localization"\t"dataset"
"HAM_1"\t"ISIC_1"\t"bkl"\t"histo"\t80\t"male"\t"scalp"\t"vidir_modern"
"HAM_1"\t"ISIC_2"\t"bkl"\t"histo"\t80\t"male"\t"scalp"\t"vidir_modern"
"HAM_2"\t"ISIC_3"\t"nv"\t"follow_up"\t\t"unknown"\t"back"\t"rosendahl"
"HAM_3"\t"ISIC_4"\t"mel"\t"consensus"\t45\t"female"\t"face"\t"rosendahl"
"""
MASKS = "HAM10000_segmentations_lesion_tschandl"


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "HAM10000_metadata.csv").write_text(KAGGLE)
    for number in (1, 2, 3, 4):
        draw(tmp_path / f"HAM10000_images_part_{1 + number // 3}" / f"ISIC_{number}.jpg", number)
    (tmp_path / MASKS).mkdir()
    for number in (1, 3):
        Image.new("L", (8, 6), 255).save(tmp_path / MASKS / f"ISIC_{number}_segmentation.png")
    return tmp_path


def read(root: Path) -> pd.DataFrame:
    table, _ = manifest.used(Ham10000(root=str(root)).read(root / "cache"), reader="ham10000")
    return manifest.checked(table, reader="ham10000")[0]


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name_and_keeps_colour() -> None:
    assert find("readers", "ham10000") is Ham10000
    assert Ham10000.colour


def test_diagnoses_are_classes_and_lesions_are_patients(root: Path) -> None:
    table = read(root)
    assert table["label"].tolist() == ["bkl", "bkl", "nv", "mel"]
    assert table["patient"].tolist() == ["HAM_1", "HAM_1", "HAM_2", "HAM_3"]
    assert table["image_id"].tolist() == ["ISIC_1", "ISIC_2", "ISIC_3", "ISIC_4"]
    assert table["image"][3] == str(root / "HAM10000_images_part_2" / "ISIC_4.jpg")
    assert table["sex"].tolist() == ["M", "M", None, "F"]
    assert table["age"].fillna(-1).tolist() == [80, 80, -1, 45]
    assert table["listed_in"][0] == f"{root / 'HAM10000_metadata.csv'}:2"
    assert not {"split", "site"} & set(table)  # the place on the body is not a hospital


def test_outlines_are_used_where_they_are_there(root: Path) -> None:
    assert read(root)["mask:lesion"].tolist() == [
        str(root / MASKS / "ISIC_1_segmentation.png"), None, str(root / MASKS / "ISIC_3_segmentation.png"), None
    ]  # fmt: skip
    shutil.rmtree(root / MASKS)
    assert "mask:lesion" not in read(root)


@pytest.mark.parametrize("name", ["HAM10000_metadata.tab", "HAM10000_metadata"])
def test_the_table_of_the_dataverse_gives_the_same_and_the_source_collection(root: Path, name: str) -> None:
    before = read(root)
    (root / "HAM10000_metadata.csv").unlink()
    (root / name).write_text(DATAVERSE)
    after = read(root)
    assert after["site"].tolist() == ["vidir_modern", "vidir_modern", "rosendahl", "rosendahl"]
    assert after.drop(columns=["site", "listed_in"]).equals(before.drop(columns="listed_in"))


def lower_case(root: Path) -> None:
    for part in ("1", "2"):  # the download of Kaggle holds every image twice
        shutil.copytree(root / f"HAM10000_images_part_{part}", root / f"ham10000_images_part_{part}")


def one_folder(root: Path) -> None:
    for path in sorted(root.glob("HAM10000_images_part_*/*.jpg")):
        (root / "images").mkdir(exist_ok=True)
        path.rename(root / "images" / path.name)


def index_column(root: Path) -> None:
    lines = KAGGLE.splitlines()
    text = "\n".join([f",{lines[0]}", *(f"{number},{line}" for number, line in enumerate(lines[1:]))])
    (root / "HAM10000_metadata.csv").write_text("\ufeff" + text, encoding="utf-8")


def inner_folder(root: Path) -> None:
    (root / "dataverse_files").mkdir()
    for path in [path for path in root.iterdir() if path.name != "dataverse_files"]:
        path.rename(root / "dataverse_files" / path.name)


def junk(root: Path) -> None:
    (root / "__MACOSX").mkdir()
    draw(root / "__MACOSX" / "ISIC_1.jpg", 99)
    (root / "HAM10000_images_part_1" / "._ISIC_1.jpg").write_text("junk")
    (root / "hmnist_28_28_L.csv").write_text("pixel0000,label\n1,2\n")


@pytest.mark.parametrize("change", [lower_case, one_folder, index_column, inner_folder, junk])
def test_copies_in_other_layouts_give_the_same_images(root: Path, change: Any) -> None:
    columns = ["image_id", "label", "patient", "sex"]
    before = read(root)[columns]
    change(root)
    assert read(root)[columns].equals(before)


def test_images_that_the_table_does_not_list_are_left_out_with_the_reason(root: Path) -> None:
    draw(root / "ISIC2018_Task3_Test_Images" / "ISIC_9.jpg", 9)
    table, reasons = manifest.used(Ham10000(root=str(root)).read(root), reader="ham10000")
    assert reasons == {"it is not in HAM10000_metadata.csv": 1}
    assert len(table) == 4


def test_two_folders_with_different_pictures_of_one_name_are_refused(root: Path) -> None:
    Image.new("RGB", (600, 450)).save(root / "ISIC_1.jpg")
    with refused("ISIC_1.jpg differs from"):
        read(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HAM_3,ISIC_4", "HAM_3,ISIC_3", "csv:5: image ISIC_3 is listed a second time, first in"),
        ("HAM_3,ISIC_4", "HAM_3,", "csv:5: no image is named"),
        ("mel", "melanoma", "csv:5: dx is 'melanoma', expected one of akiec, bcc, bkl, df, mel, nv, vasc"),
        ("HAM_2,ISIC_3", "HAM_1,ISIC_3", "csv:4: lesion HAM_1 is 'nv' here and 'bkl' in"),
        ("45.0", "45 years", "csv:5: age is '45 years', expected years as a number, or nothing"),
        ("image_id", "image", "csv:1: expected columns lesion_id, image_id, dx, age, sex; 'image_id' is not in"),
        ("HAM_3,ISIC_4,mel", "HAM_3,ISIC_4,", "csv:5: no label"),
        ("HAM_3,ISIC_4", ",ISIC_4", "csv:5: no patient"),
        ("ISIC_4", "ISIC_5", "csv:5: image file"),
    ],
)
def test_a_row_that_is_not_as_distributed_is_named(root: Path, old: str, new: str, message: str) -> None:
    (root / "HAM10000_metadata.csv").write_text(KAGGLE.replace(old, new, 1))
    with refused(message) as error:
        read(root)
    assert "\n" not in str(error.value)


def test_a_table_with_augmented_images_is_called_that(root: Path) -> None:
    (root / "HAM10000_metadata.csv").write_text(KAGGLE + KAGGLE.splitlines()[1] + "\n")
    with refused("the table is of a copy with images added by augmentation"):
        read(root)


def test_a_folder_without_the_table_or_with_two_is_refused(root: Path) -> None:
    (root / "HAM10000_metadata").write_text(DATAVERSE)
    with refused("the table is there twice"):
        read(root)
    (root / "HAM10000_metadata").unlink()
    (root / "HAM10000_metadata.csv").unlink()
    with refused("no HAM10000_metadata.csv (or .tab); expected a folder holding"):
        read(root)
    with refused("nowhere is not a folder"):
        Ham10000(root=str(root / "nowhere")).check()


@pytest.mark.real_data
def test_real_images_laid_out_as_distributed_give_the_counts_of_their_readme(
    shared_data: Path, layouts: ModuleType, tmp_path: Path
) -> None:
    listed = layouts.ham10000(shared_data, tmp_path)
    table = read(tmp_path)
    assert table["label"].tolist() == [row["label"] for row in listed]
    assert table["label"].value_counts().to_dict() == {
        "nv": 601, "mel": 500, "bkl": 500, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115
    }  # fmt: skip  # bcc, akiec, vasc and df are those of the whole set
    assert table["patient"].nunique() == 1826
    assert table["mask:lesion"].notna().all()
    assert table["sex"].isna().sum() == 5
    assert table["age"].isna().sum() == 7


@pytest.mark.real_data
def test_real_images_keep_their_colour_and_lesions_their_split(shared_data: Path, layouts: ModuleType, tmp_path: Path) -> None:
    layouts.ham10000(shared_data, tmp_path / "set", limit=140)
    source = {"reader": "ham10000", "root": str(tmp_path / "set")}
    data = load(Data.model_validate({"train": source, "size": 32, "channels": 3}), cache=tmp_path / "cache")
    tables = [images.table for images in data.splits.values()]
    assert sum(map(len, tables)) == 140
    assert sum(table["patient"].nunique() for table in tables) == pd.concat(tables)["patient"].nunique()
    first = data.splits["train"].take(range(8))
    assert first.shape == (8, 3, 32, 32)
    assert float((first[:, 0] - first[:, 2]).abs().max()) > 0.1  # skin is not grey
