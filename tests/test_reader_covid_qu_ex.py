"""Reader `covid_qu_ex` on drawn trees that imitate the download and its re-packed copies."""

import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_eval.data import datasets, manifest
from cxr_eval.data.readers.covid_qu_ex import CovidQuEx
from cxr_eval.errors import DataError
from cxr_eval.protocol import Data
from cxr_eval.registry import find

LUNG = "Lung Segmentation Data/Lung Segmentation Data"
INFECTION = "Infection Segmentation Data/Infection Segmentation Data"
FILES = {"COVID-19": "covid_{}.png", "Non-COVID": "non_COVID ({}).png", "Normal": "Normal ({}).png"}
SPLITS = {"Train": range(6), "Val": range(6, 9), "Test": range(9, 12)}
OTHER_SPLITS = {"Train": (0, 9), "Val": (1, 6), "Test": (2, 7)}  # the infection tree is divided otherwise


def draw(path: Path, value: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16)) if value is None else np.full((16, 16), value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, tree, splits in (("lung", LUNG, SPLITS), ("infection", INFECTION, OTHER_SPLITS)):
        for split, numbers in splits.items():
            for label, pattern in FILES.items():
                for number in numbers:
                    folder, file = tmp_path / tree / split / label, pattern.format(number)
                    draw(folder / "images" / file)
                    draw(folder / "lung masks" / file, 255)
                    if name == "infection":
                        draw(folder / "infection masks" / file, 255 if label == "COVID-19" else 0)
    return tmp_path


def read(root: Path, **settings: Any) -> Any:
    return CovidQuEx(root=str(root), **settings).read(root / "cache")


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name() -> None:
    assert find("readers", "covid_qu_ex") is CovidQuEx


def test_the_doubled_folders_of_the_download_are_found(root: Path) -> None:
    table, _ = manifest.checked(read(root), reader="covid_qu_ex")
    assert table.groupby(["split", "label"]).size().to_dict() == {
        (split, label): count for split, count in (("train", 6), ("val", 3), ("test", 3)) for label in FILES
    }
    assert (table["patient"] == table["image_id"]).all()
    assert table["image"].str.contains("Lung Segmentation Data").all()
    assert table["mask:lung"].notna().all()
    manifest.check_splits(table, tuple(sorted(FILES)), reader="covid_qu_ex")


def test_infection_masks_go_to_images_of_the_same_name_whatever_their_split(root: Path) -> None:
    table = read(root).set_index("image_id")
    with_mask = table[table["mask:lesion"].notna()]
    assert sorted(with_mask.index) == sorted(
        f"{label}/{FILES[label].format(n)[:-4]}" for label in FILES for n in (0, 9, 1, 6, 2, 7)
    )
    for image_id, row in with_mask.iterrows():
        assert Path(row["mask:lesion"]).stem == Path(row["image"]).stem == str(image_id).split("/")[1]
    assert with_mask.loc["COVID-19/covid_9", "split"] == "test"  # there it is in Train: the lung tree's split counts
    assert "Train" in with_mask.loc["COVID-19/covid_9", "mask:lesion"]


def test_the_infection_set_has_its_own_images_and_splits(root: Path) -> None:
    table = read(root, set="infection").set_index("image_id")
    assert len(table) == 18
    assert table["image"].str.contains("Infection Segmentation Data").all()
    assert table["mask:lung"].str.contains("Infection Segmentation Data").all()
    assert table["mask:lesion"].notna().all()
    assert table.loc["COVID-19/covid_9", "split"] == "train"


def repack_plain(root: Path) -> None:
    for tree in ("Lung Segmentation Data", "Infection Segmentation Data"):
        shutil.move(root / tree / tree, root / "x")
        shutil.rmtree(root / tree)
        shutil.move(root / "x", root / tree)


def repack_deeper(root: Path) -> None:
    (root / "COVID-QU-Ex_Dataset").mkdir()
    for tree in ("Lung Segmentation Data", "Infection Segmentation Data"):
        shutil.move(root / tree, root / "COVID-QU-Ex_Dataset" / tree)
    draw(root / "__MACOSX" / "Lung Segmentation Data" / "Train" / "x.png")


def repack_names(root: Path) -> None:
    for path in sorted(root.rglob("*"), key=lambda path: -len(path.parts)):
        if path.is_dir():
            path.rename(path.with_name(path.name.lower().replace(" ", "_").replace("-", "_")))


def repack_junk(root: Path) -> None:
    for folder in root.rglob("images"):
        (folder / "._covid_0.png").write_text("junk")
        (folder / "Thumbs.db").write_text("junk")


@pytest.mark.parametrize("repack", [repack_plain, repack_deeper, repack_names, repack_junk])
def test_re_packed_copies_give_the_same_images(root: Path, repack: Any) -> None:
    columns = ["image_id", "label", "patient", "split"]
    before = {kind: read(root, set=kind) for kind in ("lung", "infection")}
    repack(root)
    for kind, table in before.items():
        after = read(root, set=kind)
        assert after[columns].equals(table[columns])
        assert after["mask:lesion"].notna().equals(table["mask:lesion"].notna())


def test_root_may_be_one_of_the_trees(root: Path) -> None:
    table = read(root / "Lung Segmentation Data")
    assert len(table) == 36
    assert table["mask:lesion"].isna().all()
    assert len(read(root / INFECTION, set="infection")) == 18


def test_trees_without_telling_names_are_told_by_their_masks(root: Path) -> None:
    shutil.move(root / LUNG, root / "a")
    shutil.move(root / INFECTION, root / "b")
    assert len(read(root)) == 36
    assert len(read(root, set="infection")) == 18


def test_missing_lung_masks_are_missing_and_not_an_error(root: Path) -> None:
    shutil.rmtree(root / LUNG / "Train" / "Normal" / "lung masks")
    table = read(root)
    assert table["mask:lung"].isna().sum() == 6


EXPECTED = "expected a folder holding Train, Val and Test with COVID-19, Non-COVID, Normal"


def test_a_folder_that_is_not_this_dataset_says_what_was_expected_and_found(tmp_path: Path) -> None:
    with refused(f"covid_qu_ex: {tmp_path / 'gone'} is not a folder; {EXPECTED}"):
        read(tmp_path / "gone")
    with refused(f"covid_qu_ex: {tmp_path}: {EXPECTED} (in 'Lung Segmentation Data'); found: an empty folder"):
        read(tmp_path)
    for name in "abcdefghij":
        (tmp_path / name).mkdir()
    with refused("found: a, b, c, d, e, f, g, h, ..."):
        read(tmp_path)


def test_a_missing_tree_says_which_one_is_there(root: Path) -> None:
    with refused(f"(in 'Infection Segmentation Data'); found: lung data in {root / LUNG}; `set: lung` reads that"):
        read(root / "Lung Segmentation Data", set="infection")


def test_a_missing_class_folder_is_named(root: Path) -> None:
    shutil.rmtree(root / LUNG / "Val" / "Normal")
    with refused(f"{root / LUNG / 'Val'}: {EXPECTED}; 'Normal' is missing, found: COVID-19, Non-COVID"):
        read(root)


def test_a_class_without_pictures_is_named(root: Path) -> None:
    folder = root / LUNG / "Test" / "Normal"
    shutil.rmtree(folder / "images")
    with refused(f"{folder}: expected pictures in a folder 'images', found: lung masks"):
        read(root)


def test_a_tree_that_is_there_twice_is_refused(root: Path) -> None:
    shutil.copytree(root / LUNG, root / "Lung Segmentation Data (copy)")
    with refused("lung data is there twice"):
        read(root)


def test_an_image_in_two_splits_is_refused(root: Path) -> None:
    folder = root / LUNG
    shutil.copy(folder / "Train/COVID-19/images/covid_0.png", folder / "Test/COVID-19/images/covid_0.png")
    with refused("the same file name is in"):
        read(root)


def test_empty_and_missing_infection_masks_are_no_lesion_and_patients_are_said_to_be_unknown(root: Path) -> None:
    data = Data.model_validate({"train": {"reader": "covid_qu_ex", "root": str(root)}, "size": 16})
    loaded = datasets.load(data, cache=root / "cache")
    test = loaded.splits["test"]
    lesion = test.regions["lesion"].row >= 0
    assert test.table["image_id"][lesion].tolist() == ["COVID-19/covid_9"]
    assert test.region("lung").all()
    assert "patients_unknown" in {warning.code for warning in loaded.warnings}


def test_an_outside_infection_set_that_shares_images_with_training_is_refused(root: Path) -> None:
    infection = {"reader": "covid_qu_ex", "root": str(root), "set": "infection"}
    data = Data.model_validate(
        {"train": {"reader": "covid_qu_ex", "root": str(root)}, "outside": {"inf": infection}, "size": 16}
    )
    with refused("of the outside set 'inf' is also in split 'train'"):
        datasets.load(data, cache=root / "cache")
