"""Reader `nih_chestxray14` on drawn trees that imitate both releases, and on real images in the official layout."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydantic
import pytest
from PIL import Image

from cxr_eval.data import datasets, manifest
from cxr_eval.data.readers.nih_chestxray14 import FINDINGS, NihChestXray14
from cxr_eval.errors import DataError
from cxr_eval.protocol import Data
from cxr_eval.registry import find

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
ROWS = """00000001_000.png,Cardiomegaly|Effusion,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,No Finding,1,1,058Y,M,PA,2894,2729,0.143,0.143,
00000002_001.png,No Finding,0,2,006M,F,AP,2500,2048,0.168,0.168,
00000002_000.png,No Finding,1,2,412Y,F,AP,2500,2048,0.168,0.168,
00000003_000.png,Infiltration,0,3,012D,F,PA,2500,2048,0.168,0.168,
00000004_000.png,Pleural_Thickening|Hernia|Mass,0,4,,F,PA,2500,2048,0.168,0.168,
"""
NAMES = [line.split(",")[0] for line in ROWS.splitlines()]
TRAIN_VAL, TEST = NAMES[:2], NAMES[2:]
BOXES = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,\r\n"
    "00000001_000.png,Cardiomegaly,225.084745762712,547.019216763771,86.5,79.25\r\n"
    "00000001_000.png,Effusion,0,1,2,3\r\n"
    "00000003_000.png,Infiltrate,512,256,128,64\r\n"
    "00099999_000.png,Mass,1,2,3,4\r\n"
)


def draw(path: Path, side: int = 16, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (side, side)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The release of 2017 as on Kaggle, its images one pixel for 64 of the original."""
    root = tmp_path / "nih"
    for number, name in enumerate(NAMES):
        draw(root / f"images_{1 + number // 3:03d}" / "images" / name, mode="RGBA" if number == 1 else "L")
    (root / "Data_Entry_2017.csv").write_text(f"{HEADER_2017}\n{ROWS}")
    (root / "train_val_list.txt").write_text("\n".join(TRAIN_VAL))
    (root / "test_list.txt").write_text("\n".join(TEST) + "\n")
    (root / "BBox_List_2017.csv").write_text(BOXES, newline="")
    return root


def read(root: Path, **settings: Any) -> Any:
    return NihChestXray14(root=str(root), **settings).read(root / "cache").set_index("image_id", drop=False)


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name() -> None:
    assert find("readers", "nih_chestxray14") is NihChestXray14


def test_findings_patients_and_official_splits_are_read_from_the_first_release(root: Path) -> None:
    table, skipped = manifest.checked(read(root), reader="nih_chestxray14")
    assert not skipped
    assert table["image_id"].tolist() == NAMES
    assert manifest.findings(table) == FINDINGS
    assert len(FINDINGS) == 14
    positive = [{name for name in FINDINGS if row[f"label:{name}"] == 1} for _, row in table.iterrows()]
    assert positive == [
        {"Cardiomegaly", "Effusion"},
        set(),
        set(),
        set(),
        {"Infiltration"},
        {"Mass", "Pleural_Thickening", "Hernia"},
    ]
    assert table[[f"label:{name}" for name in FINDINGS]].notna().all(axis=None)
    assert table["patient"].tolist() == ["1", "1", "2", "2", "3", "4"]
    assert table["split"].tolist() == ["train"] * 2 + ["test"] * 4
    assert table["sex"].tolist() == ["M", "M", "F", "F", "F", "F"]
    assert table["view"].tolist() == ["PA", "PA", "AP", "AP", "PA", "PA"]
    assert table["left_out"].isna().all()
    assert table["listed_in"].tolist() == [f"{root / 'Data_Entry_2017.csv'}:{line}" for line in range(2, 8)]


def test_ages_may_be_in_years_months_or_days_and_impossible_ones_are_unknown(root: Path) -> None:
    ages = read(root)["age"].to_numpy(dtype=float)
    np.testing.assert_allclose(ages, [58, 58, 6 / 12, np.nan, 12 / 365.25, np.nan])  # 412Y and nothing


def second_release(root: Path, sex: str) -> None:
    (root / "Data_Entry_2017.csv").unlink()
    rows = re.sub(r",\n", "\n", ROWS).replace("058Y", "58").replace("006M", "0").replace("412Y", "95").replace("012D", "0")
    header = HEADER_2017.removesuffix(",").replace("Patient Gender", sex)
    (root / "Data_Entry_2017_v2020.csv").write_text(f"\ufeff{header}\n{rows}", encoding="utf-8")


@pytest.mark.parametrize("sex", ["Patient Gender", "Patient Sex"])
def test_the_second_release_with_eleven_cells_gives_the_same_images(root: Path, sex: str) -> None:
    before = read(root)
    second_release(root, sex)
    after = read(root)
    same = [column for column in before if column not in ("age", "listed_in")]
    assert after[same].equals(before[same])
    assert after["age"].tolist()[:5] == [58, 58, 0, 95, 0]


def test_of_two_tables_the_newer_is_read_unless_one_is_named(root: Path) -> None:
    table = (root / "Data_Entry_2017.csv").read_text().replace("Infiltration", "Pneumonia")
    (root / "Data_Entry_2017_v2020.csv").write_text(table)
    assert read(root).loc["00000003_000.png", "label:Pneumonia"] == 1
    assert read(root, csv="Data_Entry_2017.csv").loc["00000003_000.png", "label:Infiltration"] == 1
    with refused(f"{root} holds no entries.csv, the table of labels"):
        read(root, csv="entries.csv")


def test_boxes_become_a_column_a_finding_spelt_as_the_class_in_pixels_of_the_file(root: Path) -> None:
    table = read(root)
    boxed = {column for column in table if column.startswith("boxes:")}
    assert boxed == {f"boxes:{name}" for name in FINDINGS[:8]}
    # files of 16 pixels a side stand for 1024: 1/64
    [box] = table.loc["00000001_000.png", "boxes:Cardiomegaly"]
    assert box == pytest.approx((225.084745762712 / 64, 547.019216763771 / 64, 86.5 / 64, 79.25 / 64))
    assert table.loc["00000001_000.png", "boxes:Effusion"] == ((0, 1 / 64, 2 / 64, 3 / 64),)
    assert table.loc["00000003_000.png", "boxes:Infiltration"] == ((8, 4, 2, 1),)
    assert int(table[sorted(boxed)].notna().sum().sum()) == 3  # the fourth image is not in the table


def test_boxes_of_images_in_the_original_size_are_taken_as_they_are(root: Path) -> None:
    draw(root / "images_002" / "images" / "00000003_000.png", side=1024)
    assert read(root).loc["00000003_000.png", "boxes:Infiltration"] == ((512, 256, 128, 64),)


def test_a_damaged_image_keeps_its_boxes_and_is_left_to_common_code(root: Path) -> None:
    (root / "images_002" / "images" / "00000003_000.png").write_bytes(b"no PNG")
    assert read(root).loc["00000003_000.png", "boxes:Infiltration"] == ((512, 256, 128, 64),)


def test_without_the_list_of_boxes_there_are_none(root: Path) -> None:
    (root / "BBox_List_2017.csv").unlink()
    assert not [column for column in read(root) if column.startswith("boxes")]


def move_flat(root: Path) -> None:
    (root / "images").mkdir()
    for path in sorted(root.glob("images_*/images/*.png")):
        shutil.move(path, root / "images")


def move_beside_tables(root: Path) -> None:
    for path in sorted(root.glob("images_*/images/*.png")):
        shutil.move(path, root)


def move_without_inner(root: Path) -> None:
    for path in sorted(root.glob("images_*/images/*.png")):
        shutil.move(path, path.parents[1])


@pytest.mark.parametrize("move", [move_flat, move_beside_tables, move_without_inner])
def test_images_are_found_wherever_the_archives_were_unpacked(root: Path, move: Callable[[Path], None]) -> None:
    before = read(root)
    move(root)
    after = read(root)
    assert all(Path(path).is_file() for path in after["image"])
    assert after.drop(columns="image").equals(before.drop(columns="image"))


def test_a_missing_image_is_named_with_the_path_where_it_is_looked_for(root: Path) -> None:
    (root / "images_001/images/00000001_001.png").unlink()
    expected = f"image file {root / 'images/00000001_001.png'} not found; 5 of 6 listed images found"
    with refused(f"{root / 'Data_Entry_2017.csv'}:3: {expected}"):
        manifest.checked(read(root), reader="nih_chestxray14")
    _, [skipped] = manifest.checked(read(root), reader="nih_chestxray14", skip=True)
    assert skipped.reason == expected


def test_a_folder_without_any_listed_image_says_where_images_were_looked_for(root: Path) -> None:
    shutil.rmtree(root / "images_001")
    shutil.rmtree(root / "images_002")
    with refused(f"{root}: none of the 6 listed images is in images, in images_001/images to images_012/images or in the"):
        read(root)


def test_one_official_list_alone_can_be_asked_for_and_has_no_split_of_its_own(root: Path) -> None:
    test = read(root, official="test")
    assert "split" not in test
    assert test["left_out"].tolist() == ["not in test_list.txt"] * 2 + [None] * 4
    train = read(root, official="train_val")
    assert train["left_out"].tolist() == [None] * 2 + ["not in train_val_list.txt"] * 4


def test_without_the_lists_common_code_divides_and_a_list_asked_for_is_missed(root: Path) -> None:
    (root / "test_list.txt").unlink()
    with refused(f"nih_chestxray14: {root / 'test_list.txt'} is not there; it comes with the images. Only `official: all`"):
        read(root)
    (root / "train_val_list.txt").unlink()
    assert "split" not in read(root)
    with refused(f"{root / 'train_val_list.txt'} is not there"):
        read(root, official="test")


def test_normal_images_of_the_test_list_one_a_patient_can_be_picked(root: Path) -> None:
    table = read(root, labels="no_finding", official="test", keep=["No Finding"], one_per_patient=True)
    assert not manifest.findings(table)
    assert table["label"].tolist() == ["Finding"] + ["No Finding"] * 3 + ["Finding"] * 2
    assert table["left_out"].tolist() == [
        "not in test_list.txt",
        "not in test_list.txt",
        None,  # 00000002_001.png is the first follow-up, although 00000002_000.png has the lower name
        "another image of the patient is taken",
        "label is not No Finding",
        "label is not No Finding",
    ]


def test_one_image_a_patient_is_chosen_among_those_that_other_settings_leave(root: Path) -> None:
    table = read(root, labels="no_finding", keep=["No Finding"], one_per_patient=True)
    assert table["image_id"][table["left_out"].isna()].tolist() == ["00000001_001.png", "00000002_001.png"]


def test_classes_are_kept_by_known_names_and_only_where_an_image_has_one_class(root: Path) -> None:
    with pytest.raises(pydantic.ValidationError, match="`keep` needs labels: no_finding"):
        read(root, keep=["No Finding"])
    with pytest.raises(pydantic.ValidationError, match="keep: expected No Finding or Finding, got 'Normal'"):
        read(root, labels="no_finding", keep=["Normal"])


def change(file: str, old: str, new: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        text = (root / file).read_bytes().decode()
        assert old in text
        (root / file).write_bytes(text.replace(old, new).encode())

    return act


def damage(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).write_bytes(b"\xff\xfe\x00bad") and None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            change("Data_Entry_2017.csv", HEADER_2017, "Path,Sex,Age"),
            "Data_Entry_2017.csv:1: expected the header Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,"
            "Patient Gender,View Position,..., got Path,Sex,Age",
        ),
        (change("Data_Entry_2017.csv", ROWS, ""), "Data_Entry_2017.csv: holds no row below its header"),
        (damage("Data_Entry_2017.csv"), "Data_Entry_2017.csv: is not UTF-8 text"),
        (
            change("Data_Entry_2017.csv", "2500,2048,0.168,0.168,\n00000003", "2500,2048\n00000003"),
            "Data_Entry_2017.csv:5: 9 cells, expected 11, or 12 with the last one empty",
        ),
        (
            change("Data_Entry_2017.csv", "Infiltration", "Infiltration|Cough"),
            "Data_Entry_2017.csv:6: unknown label 'Cough'; expected No Finding, Atelectasis,",
        ),
        (
            change("Data_Entry_2017.csv", "Infiltration", "No Finding|Infiltration"),
            "Data_Entry_2017.csv:6: 'No Finding' stands beside a finding in 'No Finding|Infiltration'",
        ),
        (
            change("Data_Entry_2017.csv", "Infiltration,0,3,", "Infiltration,0,,"),
            "Data_Entry_2017.csv:6: Patient ID is empty, expected a number; take the table as it was distributed",
        ),
        (change("BBox_List_2017.csv", BOXES, ""), "BBox_List_2017.csv:1: expected the header Image Index,Finding Label,"),
        (
            change("Data_Entry_2017.csv", "412Y", "old"),
            "Data_Entry_2017.csv:5: age is 'old', expected years, or 058Y, 006M, 012D",
        ),
        (change("test_list.txt", NAMES[5], NAMES[0]), f"test_list.txt:4: {NAMES[0]} is also in train_val_list.txt"),
        (
            change("test_list.txt", NAMES[5], ""),
            "Data_Entry_2017.csv:7: 00000004_000.png is neither in train_val_list.txt nor in test_list.txt",
        ),
        (
            change("BBox_List_2017.csv", "Effusion,0,1,2", "Effusion,0,one,2"),
            "BBox_List_2017.csv:3: expected image, finding, x, y, w, h with numbers in pixels, got 00000001_000.png,Effusion,",
        ),
        (change("BBox_List_2017.csv", "Effusion,0,1,2,3", "Effusion"), "BBox_List_2017.csv:3: expected image, finding, x, y,"),
        (
            change("BBox_List_2017.csv", "Infiltrate", "Edema"),
            "BBox_List_2017.csv:4: unknown finding 'Edema'; expected Atelectasis, Cardiomegaly,",
        ),
    ],
)
def test_a_damaged_table_or_list_is_one_line_with_its_place(root: Path, act: Callable[[Path], None], message: str) -> None:
    act(root)
    with refused(f"{root}/{message}"):
        read(root)


def test_tables_that_a_spreadsheet_saved_with_semicolons_are_read_too(root: Path) -> None:
    before = read(root)
    rows = ROWS.replace(",", ";")
    header = HEADER_2017.replace("[Width,Height]", "[Width;Height]").replace("[x,y]", "[x;y]").replace(",", ";")
    (root / "Data_Entry_2017.csv").write_text(f"\ufeff{header}\r\n{rows}", encoding="utf-8")
    (root / "BBox_List_2017.csv").write_text(BOXES.replace(",", ";"))
    assert read(root).equals(before)


def test_a_root_that_is_not_this_dataset_is_named(tmp_path: Path) -> None:
    with refused(f"nih_chestxray14: {tmp_path / 'gone'} is not a folder; expected the unpacked download of ChestX-ray14"):
        read(tmp_path / "gone")
    with refused(f"{tmp_path} holds no Data_Entry_2017_v2020.csv and no Data_Entry_2017.csv, the table of labels"):
        read(tmp_path)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, layouts: ModuleType) -> Any:
    root = tmp_path_factory.mktemp("nih")
    return root, layouts.nih(shared_data, root)


@pytest.mark.real_data
@pytest.mark.slow
def test_real_images_in_the_official_layout_give_the_counts_of_their_table(official: Any) -> None:
    root, rows = official
    table, skipped = manifest.checked(read(root), reader="nih_chestxray14")
    assert not skipped
    assert len(table) == len(rows) == 1629
    wanted = Counter(name for row in rows for name in row["finding"].split("|"))
    assert {name: int(table[f"label:{name}"].sum()) for name in FINDINGS} == {name: wanted[name] for name in FINDINGS}
    assert table["split"].tolist() == ["test" if row["split"] == "test" else "train" for row in rows]
    assert table["age"].tolist() == [float(row["age"]) for row in rows]
    assert table["patient"].nunique() == len({row["patient_id"] for row in rows})
    normal = read(root, labels="no_finding", official="test", keep=["No Finding"], one_per_patient=True)
    kept = {row["patient_id"] for row in rows if row["split"] == "test" and row["finding"] == "No Finding"}
    assert int(normal["left_out"].isna().sum()) == len(kept)


@pytest.mark.real_data
@pytest.mark.slow
def test_boxes_of_real_images_are_those_measured_in_the_small_files(official: Any, shared_data: Path) -> None:
    root, _ = official
    table = read(root)
    with (shared_data / "nih_chestxray" / "boxes.csv").open() as file:
        header, *lines = [line.rstrip("\n").split(",") for line in file]
    wanted = [dict(zip(header, cells, strict=True)) for cells in lines if cells[3] == "NIH_BBox_List_2017"]
    assert int(table[[f"boxes:{name}" for name in FINDINGS[:8]]].notna().sum().sum()) == len(wanted) == 60
    for row in wanted:
        finding = row["finding"].replace("Infiltrate", "Infiltration")
        [box] = table.loc[row["filename"].replace(".jpg", ".png"), f"boxes:{finding}"]
        assert box == pytest.approx([float(row[side]) for side in "xywh"], abs=0.021)  # 0.05 of an original pixel, and 0.005


@pytest.mark.real_data
def test_a_limited_layout_is_loaded_with_a_region_for_each_boxed_finding(
    tmp_path: Path, shared_data: Path, layouts: ModuleType
) -> None:
    rows = layouts.nih(shared_data, tmp_path, limit=60)
    assert len(rows) == 60
    source = {"reader": "nih_chestxray14", "root": str(tmp_path)}
    data = Data.model_validate({"train": source, "classes": ["Pneumonia", "Infiltration"], "size": 32})
    loaded = datasets.load(data, cache=tmp_path / "cache")
    assert loaded.task == "multilabel"
    assert sum(len(each) for each in loaded.splits.values()) == 60
    assert len(loaded.splits["test"]) == sum(row["split"] == "test" for row in rows)
    test = loaded.splits["test"]
    boxed = test.regions["Pneumonia"].row >= 0
    assert boxed.sum() > 5
    assert test.table["label:Pneumonia"][boxed].eq(1).all()
    assert test.region("Pneumonia")[boxed].any(axis=(1, 2)).all()
