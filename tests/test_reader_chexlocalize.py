"""Reader `chexlocalize` on drawn trees that imitate the download; pycocotools makes the run-length texts."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cxr_eval.data import manifest
from cxr_eval.data.readers.chexlocalize import TASKS, CheXlocalize
from cxr_eval.errors import DataError, PluginError
from cxr_eval.registry import find

coco = pytest.importorskip("pycocotools.mask")

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
FRONTAL, LATERAL, CLEAR = (
    "patient64741/study1/view1_frontal",
    "patient64741/study1/view2_lateral",
    "patient64742/study1/view1_frontal",
)
ROWS = f"""CheXpert-v1.0/valid/{FRONTAL}.jpg,Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
CheXpert-v1.0/valid/{LATERAL}.jpg,Male,73,Lateral,,0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
CheXpert-v1.0/valid/{CLEAR}.jpg,Female,40,Frontal,PA,1.0,0.0,0.0,0.0,0.0,-1.0,,0.0,0.0,0.0,0.0,0.0,0.0,0.0
"""
HEIGHT, WIDTH = 40, 52  # not square: a transposed mask is seen
CONTOURS = {
    "Airspace Opacity": [[[4, 5], [20, 5], [20, 30], [4, 30]], [[30.4, 10.2], [45.7, 12.1], [38.3, 33.9]]],
    "Cardiomegaly": [[[10, 10], [30, 12], [25, 38]]],
}
WRITTEN = [{"Lung Opacity": "Airspace Opacity"}.get(task, task) for task in TASKS]


def drawn(contours: Any) -> Any:
    sheet = Image.new("1", (WIDTH, HEIGHT))
    for contour in contours:
        ImageDraw.Draw(sheet).polygon([tuple(point) for point in contour], outline=1, fill=1)
    return np.asarray(sheet)


def runs(mask: Any) -> dict[str, Any]:
    """A mask as the dataset stores it."""
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(text["size"]), "counts": text["counts"].decode()}


def pixels(path: str) -> Any:
    with Image.open(path) as mask:
        return np.asarray(mask)


def lay(root: Path, name: str) -> None:
    """One of the two sets: labels, images and both files of outlines; only outlined images are in these."""
    for image in (FRONTAL, LATERAL, CLEAR):
        path = root / "CheXpert" / name / f"{image}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (WIDTH, HEIGHT), 128).save(path)
    (root / "CheXpert" / f"{name}_labels.csv").write_text(f"{HEADER}\n{ROWS}")
    (root / "CheXlocalize").mkdir(exist_ok=True)
    keys = [image.replace("/", "_") for image in (FRONTAL, LATERAL)]
    write(root, name, "segmentations", {key: {task: runs(drawn(CONTOURS.get(task, []))) for task in WRITTEN} for key in keys})
    write(root, name, "annotations", {key: {"img_size": [HEIGHT, WIDTH], **CONTOURS} for key in keys})


def write(root: Path, name: str, kind: str, content: Any) -> None:
    (root / "CheXlocalize" / f"gt_{kind}_{name}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lay(tmp_path / "cxl", "test")
    return tmp_path / "cxl"


def read(root: Path, **settings: Any) -> Any:
    return CheXlocalize(root=str(root), **settings).read(root / "cache").set_index("image_id", drop=False)


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name() -> None:
    assert find("readers", "chexlocalize") is CheXlocalize


def test_labels_patients_and_views_are_read_and_the_beginning_of_paths_does_not_count(root: Path) -> None:
    table = read(root)
    assert table["image"].tolist() == [str(root / "CheXpert/test" / f"{name}.jpg") for name in (FRONTAL, LATERAL, CLEAR)]
    assert all(Path(path).is_file() for path in table["image"])
    assert table["patient"].tolist() == ["patient64741", "patient64741", "patient64742"]
    assert table["split"].tolist() == ["test"] * 3
    assert table["sex"].tolist() == ["M", "M", "F"]
    assert table["age"].tolist() == [73, 73, 40]
    assert table["view"].tolist() == ["AP", "lateral", "PA"]
    assert table["listed_in"].tolist() == [f"{root / 'CheXpert/test_labels.csv'}:{line}" for line in (2, 3, 4)]
    assert [column for column in table if column.startswith("label:")] == [f"label:{task}" for task in TASKS]
    positive = ("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity")
    assert table.iloc[0][[f"label:{task}" for task in TASKS]].tolist() == [float(task in positive) for task in TASKS]
    clear = table.iloc[2]
    assert clear["label:Edema"] is None  # -1: the labellers were not certain
    assert clear["label:Consolidation"] is None
    assert clear["label:Cardiomegaly"] == 0


def test_laterals_are_left_out_unless_they_are_asked_for(root: Path) -> None:
    assert read(root)["left_out"].tolist() == [None, "view is lateral", None]
    assert read(root, laterals=True)["left_out"].tolist() == [None] * 3


def test_masks_are_those_that_pycocotools_encoded_and_only_where_something_is_outlined(root: Path) -> None:
    table, skipped = manifest.checked(read(root, laterals=True), reader="chexlocalize")
    assert not skipped
    assert manifest.mask_kinds(table) == TASKS
    for row in (0, 1):
        for task in TASKS:
            contours = CONTOURS.get({"Lung Opacity": "Airspace Opacity"}.get(task, task))
            path = table[f"mask:{task}"].iloc[row]
            assert (path is None) == (contours is None)
            if contours is not None:
                mask = pixels(path)
                assert mask.shape == (HEIGHT, WIDTH)
                assert (mask == drawn(contours)).all()
    assert table.iloc[2][[f"mask:{task}" for task in TASKS]].isna().all()
    square = pixels(table["mask:Lung Opacity"].iloc[0])[5:31, 4:21]  # edges included: 26 x 17 pixels
    assert square.all()


def test_contours_give_the_masks_of_the_segmentations(root: Path) -> None:
    columns = [f"mask:{task}" for task in TASKS]
    by_runs, by_contours = read(root)[columns], read(root, outlines="contours")[columns]
    assert by_runs.isna().equals(by_contours.isna())
    pairs = [
        (one, other)
        for one, other in zip(by_runs.to_numpy().ravel(), by_contours.to_numpy().ravel(), strict=True)
        if one is not None
    ]
    assert len(pairs) == 4
    assert all(one != other and (pixels(one) == pixels(other)).all() for one, other in pairs)


def test_contours_need_no_pycocotools_and_segmentations_say_how_to_get_it(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert read(root, outlines="contours")["mask:Cardiomegaly"].notna().sum() == 2
    with pytest.raises(
        PluginError, match=re.escape("needs pycocotools; pip install 'cxr-eval[chexlocalize]', or set outlines:")
    ):
        CheXlocalize(root=str(root)).check()


def test_masks_are_written_once_and_anew_when_the_outlines_change(root: Path) -> None:
    path = Path(read(root).iloc[0]["mask:Cardiomegaly"])
    written = path.stat().st_mtime_ns
    assert Path(read(root).iloc[0]["mask:Cardiomegaly"]) == path
    assert path.stat().st_mtime_ns == written
    assert [entry.name for entry in (root / "cache").iterdir()] == [path.parent.name]  # no half-written folder is left
    write(root, "test", "segmentations", {FRONTAL.replace("/", "_"): {"Edema": runs(drawn(CONTOURS["Cardiomegaly"]))}})
    after = read(root).iloc[0]
    assert after["mask:Cardiomegaly"] is None
    assert Path(after["mask:Edema"]).parent != path.parent


def test_a_mask_that_is_gone_from_the_cache_is_missed(root: Path) -> None:
    path = Path(read(root).iloc[0]["mask:Cardiomegaly"])
    path.unlink()
    with refused(f"Cardiomegaly mask {path} not found"):
        manifest.checked(read(root), reader="chexlocalize")


def test_outlines_of_other_images_than_those_in_the_label_table_are_refused(root: Path) -> None:
    key = "patient00001_study1_view1_frontal"
    write(root, "test", "segmentations", {key: {"Edema": GOOD}})
    told = f"none of its 1 images is in the label table; one is {key}, there one is {FRONTAL.replace('/', '_')}"
    with refused(f"{root / SEGMENTATIONS}: {told}"):
        read(root)
    write(root, "test", "segmentations", {})
    with refused("none of its 0 images is in the label table; one is missing, there one is"):
        read(root)


def test_the_validation_set_is_read_on_request_and_is_a_test_split_too(root: Path) -> None:
    with refused(f"chexlocalize: {root / 'CheXpert/val_labels.csv'} is not there"):
        read(root, set="val")
    lay(root, "val")
    table = read(root, set="val")
    assert table["image"].str.contains("/CheXpert/val/").all()
    assert (table["split"] == "test").all()


def test_a_label_table_without_sex_age_and_view_is_read_too(root: Path) -> None:
    path = root / "CheXpert/test_labels.csv"
    lines = [line.split(",") for line in f"{HEADER}\n{ROWS}".splitlines()]
    path.write_text("\n".join(",".join([cells[0].replace("CheXpert-v1.0/valid", "test"), *cells[5:]]) for cells in lines))
    table = read(root)
    assert table[["sex", "age"]].isna().all(axis=None)
    assert table["view"].tolist() == [None, "lateral", None]
    assert table["label:Lung Opacity"].tolist() == [1, 1, 0]


def test_the_name_of_opacities_in_the_label_table_may_be_that_of_the_outlines(root: Path) -> None:
    before = read(root)
    path = root / "CheXpert/test_labels.csv"
    path.write_text(path.read_text().replace("Lung Opacity", "Airspace Opacity"))
    assert read(root).equals(before)


def test_a_missing_image_is_named_by_common_code(root: Path) -> None:
    gone = root / "CheXpert/test" / f"{CLEAR}.jpg"
    gone.unlink()
    with refused(f"{root / 'CheXpert/test_labels.csv'}:4: image file {gone} not found; 2 of 3 listed images found"):
        manifest.checked(read(root), reader="chexlocalize")


KEY = FRONTAL.replace("/", "_")
GOOD = runs(drawn(CONTOURS["Cardiomegaly"]))
SEGMENTATIONS = "CheXlocalize/gt_segmentations_test.json"


@pytest.mark.parametrize(
    "counts",
    [GOOD["counts"][:-2], GOOD["counts"] + "5", "", "1", "zzzzzz", "PVWX6PVWX6", "0o", "é"],
    ids=["cut", "too long", "empty", "one run", "short", "twice", "negative", "not ascii"],
)
def test_runs_that_do_not_fill_the_image_are_refused(root: Path, counts: str) -> None:
    write(root, "test", "segmentations", {KEY: {"Edema": {"size": [HEIGHT, WIDTH], "counts": counts}}})
    message = f"{root / SEGMENTATIONS}: {KEY}: Edema: the run-length text does not fill 40 x 52 pixels; the file is damaged"
    with refused(message):
        read(root)
    assert list((root / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("outlines", "message"),
    [
        ({KEY: {"Edema": 3}}, f"{KEY}: Edema: expected size and counts, a run-length text"),
        ({KEY: {"Edema": {"size": [40, 52]}}}, f"{KEY}: Edema: expected size and counts, a run-length text"),
        (
            {KEY: {"Edema": GOOD | {"size": [40, -52]}}},
            f"{KEY}: Edema: size is [40, -52], expected [height, width] in whole pixels up to 20000",
        ),
        ({KEY: {"Edema": GOOD | {"size": [10**6, 10**6]}}}, f"{KEY}: Edema: size is [1000000, 1000000], expected"),
        ({KEY: {"Cough": GOOD}}, f"{KEY}: unknown finding 'Cough'; expected Enlarged Cardiomediastinum,"),
        (
            {"../../x": {"Edema": GOOD}},
            "expected an object with one object an image, such as patient64622_study1_view1_frontal",
        ),
        ([], "expected an object with one object an image"),
        ({KEY: []}, "expected an object with one object an image"),
    ],
)
def test_a_damaged_outline_is_one_line_with_image_and_finding(root: Path, outlines: Any, message: str) -> None:
    write(root, "test", "segmentations", outlines)
    with refused(f"{root / SEGMENTATIONS}: {message}"):
        read(root)


@pytest.mark.parametrize("contours", [3, [3], [[[1, 2, 3]]], [[["a", 1]]], [[[1, 2]]]])
def test_a_damaged_contour_is_one_line_with_image_and_finding(root: Path, contours: Any) -> None:
    write(root, "test", "annotations", {KEY: {"img_size": [HEIGHT, WIDTH], "Edema": contours}})
    with refused(f"{KEY}: Edema: expected contours, each a list of two or more [x, y] in pixels"):
        read(root, outlines="contours")
    write(root, "test", "annotations", {KEY: {"Edema": []}})
    with refused(f"{KEY}: size is None, expected [height, width] in whole pixels"):
        read(root, outlines="contours")


def test_a_mask_that_is_not_of_its_images_size_is_refused(root: Path) -> None:
    Image.new("L", (26, 20)).save(root / "CheXpert/test" / f"{FRONTAL}.jpg")
    with refused(f"is 52 x 40 pixels, {root / 'CheXpert/test' / FRONTAL}.jpg is 26 x 20; masks fit the images of the full"):
        read(root)


def test_a_damaged_image_is_left_to_common_code(root: Path) -> None:
    (root / "CheXpert/test" / f"{FRONTAL}.jpg").write_bytes(b"no JPEG")
    assert read(root).iloc[0]["mask:Cardiomegaly"] is not None


def change(old: str, new: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        path = root / "CheXpert/test_labels.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return act


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (change("Edema,", "Oedema,"), "CheXpert/test_labels.csv:1: no column 'Edema'; found: Path, Sex, Age,"),
        (change(ROWS, ""), "CheXpert/test_labels.csv: holds no row below its header"),
        (
            change("view1_frontal.jpg", "view1.jpg"),
            "CheXpert/test_labels.csv:2: Path is 'CheXpert-v1.0/valid/patient64741/study1/view1.jpg', expected"
            " .../patientNNNNN/studyN/viewN_frontal.jpg or _lateral",
        ),
        (
            change(",AP,0.0,1.0", ",AP,0.0,yes"),
            "CheXpert/test_labels.csv:2: Enlarged Cardiomediastinum is 'yes', expected 0, 1, -1 (uncertain) or nothing",
        ),
        (
            lambda root: (root / "CheXpert/test_labels.csv").write_bytes(b"\xff\xfe") and None,
            "CheXpert/test_labels.csv: is not UTF-8 text",
        ),
        (lambda root: (root / SEGMENTATIONS).write_text("{") and None, f"{SEGMENTATIONS}: is not JSON"),
        (lambda root: (root / SEGMENTATIONS).unlink(), f"{SEGMENTATIONS} is not there"),
        (
            lambda root: shutil.rmtree(root / "CheXpert/test"),
            "CheXpert/test is not a folder; expected patientNNNNN/studyN/viewN_frontal.jpg",
        ),
    ],
)
def test_a_damaged_tree_is_one_line_with_its_place(root: Path, act: Callable[[Path], None], message: str) -> None:
    act(root)
    with refused(f"{root}/{message}"):
        read(root)


def test_outlines_that_cannot_be_read_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bytes:
        raise OSError("input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with refused(f"{root / SEGMENTATIONS}: cannot be read: input/output error"):
        read(root)


def test_a_root_that_is_not_a_folder_is_named(tmp_path: Path) -> None:
    with refused(f"chexlocalize: {tmp_path / 'gone'} is not a folder; expected the folders CheXpert and CheXlocalize in it"):
        read(tmp_path / "gone")
