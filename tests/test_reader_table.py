"""Reader `table`: any folder of images with a CSV file."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pydantic
import pytest
import yaml

from cxr_eval.data import manifest
from cxr_eval.data.readers.table import Table
from cxr_eval.errors import DataError
from cxr_eval.protocol import Protocol, Source
from cxr_eval.registry import find

CSV = """image,label,patient,split,sex,age,view,site,lung,lung2,note
a.png,well,001,train,F,57,PA,x,m/a.png,,"two
lines"
b.png,sick,001,train,male,057Y,AP,y,,m2/b.png,
c.png,sick,002,Test,unknown,,AP,y,,,NaN
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "labels.csv").write_text(CSV)
    return tmp_path


def read(root: Path, **settings: Any) -> pd.DataFrame:
    return Table(root=str(root), **settings).read(root / "cache")


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name() -> None:
    assert find("readers", "table") is Table


def test_columns_of_the_usual_names_are_read_without_any_setting(root: Path) -> None:
    table = read(root)
    assert table["image"].tolist() == [str(root / name) for name in ("a.png", "b.png", "c.png")]
    assert table["image_id"].tolist() == ["a.png", "b.png", "c.png"]
    assert table["label"].tolist() == ["well", "sick", "sick"]
    assert table["patient"].tolist() == ["001", "001", "002"]  # text: leading zeros stay
    assert table["split"].tolist() == ["train", "train", "test"]
    assert table["sex"].tolist() == ["F", "M", None]
    assert table["age"].tolist() == [57.0, 57.0, None]
    assert table["view"].tolist() == ["PA", "AP", "AP"]
    assert table["site"].tolist() == ["x", "y", "y"]
    assert table["listed_in"].tolist() == [f"{root / 'labels.csv'}:{line}" for line in (2, 4, 5)]  # a cell has two lines
    assert not {"boxes", "mask:lung"} & set(table)


def test_columns_are_left_alone_where_a_setting_is_null(root: Path) -> None:
    table = read(root, split=None, sex=None, patient=None)
    assert not {"split", "sex"} & set(table)
    assert table["patient"].tolist() == table["image_id"].tolist()


def test_a_prefix_keeps_patients_of_two_sets_apart(root: Path) -> None:
    assert read(root, prefix="here-")["patient"].tolist() == ["here-001", "here-001", "here-002"]
    assert read(root, prefix="here-", patient=None)["patient"].tolist()[0] == "here-a.png"


def test_images_may_be_in_a_folder(root: Path) -> None:
    table = read(root, folder="png")
    assert table["image"][0] == str(root / "png" / "a.png")
    assert table["image_id"][0] == "png/a.png"


def test_a_mask_kind_takes_the_first_of_several_columns_that_is_not_empty(root: Path) -> None:
    table = read(root, masks={"lung": ["lung", "lung2"], "lesion": {"column": "lung", "folder": "deep"}})
    assert table["mask:lung"].tolist() == [str(root / "m/a.png"), str(root / "m2/b.png"), None]
    assert table["mask:lesion"].tolist() == [str(root / "deep/m/a.png"), None, None]
    assert read(root, masks={"lung": "lung"})["mask:lung"].tolist() == [str(root / "m/a.png"), None, None]


def test_where_keeps_rows_by_text_number_or_emptiness(root: Path) -> None:
    assert read(root, where={"label": "sick", "site": ["y"]})["image_id"].tolist() == ["b.png", "c.png"]
    assert read(root, where={"patient": 1})["image_id"].tolist() == ["a.png", "b.png"]
    assert read(root, where={"age": [57.0]})["image_id"].tolist() == ["a.png"]
    assert read(root, where={"lung": None})["image_id"].tolist() == ["b.png", "c.png"]
    (root / "labels.csv").write_text("image,label,patient,ok\na,x,1,True\nb,y,2,false\n")
    assert read(root, where={"ok": True})["image_id"].tolist() == ["a"]


def test_findings_are_zero_one_or_unknown(root: Path) -> None:
    (root / "labels.csv").write_text("image,patient,Mass,fluid\na,1,1,0.0\nb,2,1.0,\nc,3,0,NaN\n")
    table = read(root, labels=["Mass", "fluid"])
    assert table["label:Mass"].tolist() == [1, 1, 0]
    assert table["label:fluid"].tolist() == [0, None, None]
    assert list(read(root, labels={"effusion": "fluid"}).filter(like="label")) == ["label:effusion"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spreadsheet_exports_are_read(root: Path, separator: str, encoding: str) -> None:
    text = "image,label,patient\na,wéll,1\n\nb,sick,2\n".replace(",", separator)
    (root / "labels.csv").write_text(text, encoding=encoding)
    table = read(root)
    assert table["label"].tolist() == ["wéll", "sick"]
    assert table["listed_in"][1].endswith(":4")


def test_boxes_come_from_their_own_file(root: Path) -> None:
    (root / "boxes.csv").write_text(
        "image,x,y,w,h,by\nb.png,1,2,3,4,me\nb.png,5,6,7,8.5,me\nc.png,1,1,1,1,you\nz.png,1,1,1,1,me\n"
    )
    assert read(root, boxes={})["boxes"].tolist() == [(), ((1, 2, 3, 4), (5, 6, 7, 8.5)), ((1, 1, 1, 1),)]
    assert read(root, boxes={"where": {"by": "me"}})["boxes"][2] == ()


def test_boxes_that_say_their_finding_show_where_that_class_is(root: Path) -> None:
    (root / "boxes.csv").write_text("image,x,y,w,h,what\nb.png,1,2,3,4,sick\nb.png,5,6,7,8,well\nc.png,1,1,1,1,\n")
    table = read(root, boxes={"finding": "what"})
    assert table["boxes:sick"].tolist() == [(), ((1, 2, 3, 4),), ()]
    assert table["boxes:well"].tolist() == [(), ((5, 6, 7, 8),), ()]
    assert table["boxes"].tolist() == [(), (), ((1, 1, 1, 1),)]
    with refused("boxes.csv: no column 'wha' (setting `boxes.finding`); did you mean 'what'?"):
        read(root, boxes={"finding": "wha"})


def test_slices_of_one_volume_are_images_of_their_own(root: Path) -> None:
    (root / "labels.csv").write_text("image,label,patient,part\nv.nii.gz,well,1,0\nv.nii.gz,sick,1,17\nc.png,sick,2,\n")
    table = read(root, slice="part")
    assert table["slice"].tolist() == [0, 17, None]
    assert table["image_id"].tolist() == ["v.nii.gz#0", "v.nii.gz#17", "c.png"]
    assert table["image"][0] == table["image"][1] == str(root / "v.nii.gz")
    with refused("labels.csv:2: slice is 'well', expected a number (from 0)"):
        read(root, slice="label")
    (root / "labels.csv").write_text("image,label,patient,part\nv.nii.gz,well,1,3\nv.nii.gz,sick,1,3\n")
    with refused("labels.csv:3: image v.nii.gz#3 is listed a second time, first in line 2"):
        read(root, slice="part")


def test_colour_is_kept() -> None:
    assert Table.colour


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"root": "gone"}, "table: gone is not a folder"),
        ({"csv": "gone.csv"}, "gone.csv: no such file; `csv` names the table, relative to `root`"),
        ({"image": "imgae"}, "labels.csv: no column 'imgae' (setting `image`); did you mean 'image'?"),
        ({"site": "zzz"}, "labels.csv: no column 'zzz' (setting `site`); found: image, label, patient"),
        ({"patient": "patients"}, "did you mean 'patient'?; or write `patient: null` if patients are not known"),
        ({"masks": {"lung": ["lung", "lungs"]}}, "no column 'lungs' (setting `masks.lung`); did you mean 'lung'?"),
        ({"where": {"labl": "sick"}}, "no column 'labl' (setting `where`); did you mean 'label'?"),
        (
            {"where": {"label": ["sick", "wel"]}},
            "labels.csv: where: column 'label' has not the value 'wel'; did you mean 'well'?",
        ),
        ({"where": {"site": 3}}, "where: column 'site' has not the value '3'; found: x, y"),
        ({"where": {"label": None}}, "where: column 'label' has not an empty cell; found: sick, well"),
        ({"where": {"label": "well", "site": "y"}}, "no row is left of 3; `where` asks for label: well, site: y"),
        ({"labels": ["label", "site"]}, "labels.csv:2: label is 'well', expected 0, 1 or nothing (unknown)"),
        ({"age": "view"}, "labels.csv:2: age is 'PA', expected a number (years)"),
        ({"sex": "view"}, "labels.csv:2: sex is 'PA', expected F, M or nothing"),
        ({"image": "lung"}, "labels.csv:4: column 'lung' is empty, expected the image's path"),
        ({"image": "view"}, "labels.csv:5: image AP is listed a second time, first in line 4"),
        ({"boxes": {}}, "boxes.csv: no such file"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_row_and_nearest_name(root: Path, settings: dict[str, Any], text: str) -> None:
    with refused(text) as error:
        Table(**{"root": str(root)} | settings).read(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label,patient\n", "labels.csv: holds no row below its header"),
        ("", "labels.csv: holds no row below its header"),
        ("image,label,label\na,b,c\n", "labels.csv:1: two columns are called 'label'"),
        ("image,label,patient\na,b,c\na,b\n", "labels.csv:3: 2 cells, expected 3 as in the header"),
        ('image,label,patient\na,b,"c\n', "labels.csv: cannot be read: unexpected end of data"),
        ("image,label,patient\na,wéll,c\n", "labels.csv: is not UTF-8 text"),
    ],
)
def test_a_damaged_csv_file_is_named(root: Path, text: str, message: str) -> None:
    (root / "labels.csv").write_text(text, encoding="latin-1")
    with refused(message):
        read(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x,y,w,h\na.png,1,b,3,4\n", "boxes.csv:2: y is 'b', expected a number (pixels)"),
        ("image,x,y,w,h\na.png,1,2,0,4\n", "boxes.csv:2: box is 0 x 4 pixels, expected sides above 0"),
        ("image,x,y,w\na.png,1,2,0\n", "boxes.csv: no column 'h' (setting `boxes.h`)"),
        ("image,x,y,w,h\nq.png,1,2,3,4\n", "boxes.csv: none of its 1 images is in"),
    ],
)
def test_damaged_boxes_are_named(root: Path, text: str, message: str) -> None:
    (root / "boxes.csv").write_text(text)
    with refused(message):
        read(root, boxes={})


def test_an_empty_label_or_patient_is_left_to_the_common_check_which_names_file_and_row(root: Path) -> None:
    for name in ("a.png", "b.png"):
        (root / name).touch()
    (root / "labels.csv").write_text("image,label,patient\na.png,x,1\nb.png,,2\n")
    with refused(f"{root / 'labels.csv'}:3: no label"):
        manifest.checked(read(root), reader="table")
    (root / "labels.csv").write_text("image,label,patient\na.png,x,1\nb.png,y,\n")
    with refused(f"{root / 'labels.csv'}:3: no patient"):
        manifest.checked(read(root), reader="table")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"label": "a", "labels": ["b"]}, "give `label` .* or `labels` .*, not both"),
        ({"label": None}, "give `label` .* or `labels`"),
        ({"roott": "x"}, "roott"),
        ({"masks": {"lung": []}}, "at least 1 item"),
        ({"csv": 3}, "valid string"),
        ({"slice": "part", "boxes": {}}, "leave `slice` or `boxes` out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=text):
        Table(**{"root": "x"} | settings)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Table.Params.model_fields.values())


EXAMPLE = Path(__file__).parents[1] / "protocols" / "own_images.yaml"


def test_the_example_protocol_is_valid_as_it_stands() -> None:
    protocol = Protocol.model_validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    Table.Params.model_validate(protocol.data.train.settings)


def test_the_settings_that_the_example_shows_as_comments_are_valid_too() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    shown = "\n".join(line[6:] for line in lines if re.match(r" {4}# [a-z]+: \S", line))
    settings = yaml.safe_load(shown)
    assert {"labels", "split", "sex", "age", "view", "site", "where", "rename", "masks", "boxes"} <= set(settings)
    source = Source.model_validate({"reader": "table", "root": "x"} | settings)
    Table.Params.model_validate(source.settings)
    assert source.rename == {"pneu": "pneumonia"}


# real images: counts as in the README beside them

COMMON: dict[str, Any] = {"image": "filename", "folder": "images", "patient": "group"}
REAL = {
    "covid_chestxray": (
        COMMON | {"masks": {"lesion": "mask_infection", "lung": ["mask_lung_rad", "mask_lung_v7", "mask_lung_vae"]}},
        {
            ("train", "covid"): 66, ("train", "pneumonia"): 34, ("train", "normal"): 3, ("train", "other"): 1,
            ("val", "covid"): 14, ("val", "pneumonia"): 8, ("val", "other"): 1,
            ("test", "covid"): 35, ("test", "pneumonia"): 21, ("test", "normal"): 1, ("test", "other"): 2,
        },
    ),
    "nih_chestxray": (
        COMMON | {"boxes": {"where": {"annotation": "RSNA_2018_lung_opacity"}}},
        {
            ("train", "normal"): 382, ("train", "pneumonia"): 271, ("train", "other"): 320,
            ("val", "normal"): 76, ("val", "pneumonia"): 67, ("val", "other"): 61,
            ("test", "normal"): 151, ("test", "pneumonia"): 178, ("test", "other"): 123,
        },
    ),
    "montgomery_shenzhen": (
        COMMON | {"masks": {"lung": "mask_lung"}},
        {
            ("train", "normal"): 233, ("train", "other"): 224, ("val", "normal"): 43, ("val", "other"): 42,
            ("test", "normal"): 83, ("test", "other"): 79,
        },
    ),
    "kermany_pneumonia": (
        COMMON,
        {
            ("train", "normal"): 1180, ("train", "pneumonia"): 1180, ("val", "normal"): 161, ("val", "pneumonia"): 161,
            ("test", "normal"): 234, ("test", "pneumonia"): 390,
        },
    ),
}  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_folders_hold_what_their_readme_counts(shared_data: Path, tmp_path: Path, name: str) -> None:
    settings, counts = REAL[name]
    table, skipped = manifest.checked(Table(root=str(shared_data / name), **settings).read(tmp_path), reader="table")
    assert skipped == ()
    assert table.groupby(["split", "label"]).size().to_dict() == counts
    special = {"covid_chestxray": ("covid", "pneumonia"), "montgomery_shenzhen": ("normal", "other")}
    classes = special.get(name, ("normal", "pneumonia"))
    manifest.check_splits(table[table["label"].isin(classes)], classes, reader="table")
    if name == "covid_chestxray":
        assert table[table["mask:lesion"].notna()].groupby("split").size().to_dict() == {"test": 21, "train": 15, "val": 8}
        rad = table["mask:lung"].str.contains("lung_rad", na=False)
        assert rad.sum() == 44
        assert rad[table["mask:lesion"].notna()].all()
    if name == "nih_chestxray":
        assert sum(map(len, table["boxes"])) == 237
        assert table[table["boxes"].map(bool)].groupby("split").size().to_dict() == {"test": 73, "train": 51, "val": 31}
    if name == "montgomery_shenzhen":
        assert table["mask:lung"].notna().all()
        assert table["site"].value_counts().to_dict() == {"Shenzhen": 566, "Montgomery": 138}


@pytest.mark.real_data
def test_all_real_chest_x_rays_are_read_at_once(shared_data: Path, tmp_path: Path) -> None:
    settings = {"csv": "all_cxr.csv", "image": "path", "patient": "group", "site": "dataset"}
    masks = {"lung": "lung_mask", "lesion": "lesion_mask"}
    table, _ = manifest.checked(Table(root=str(shared_data), masks=masks, **settings).read(tmp_path), reader="table")
    assert table["site"].value_counts().to_dict() == {
        "kermany_pneumonia": 3306, "nih_chestxray": 1629, "montgomery_shenzhen": 704, "covid_chestxray": 186
    }  # fmt: skip
    assert table["mask:lesion"].notna().sum() == 44
    manifest.check_splits(table, manifest.classes_of(table, None, reader="table"), reader="table")
