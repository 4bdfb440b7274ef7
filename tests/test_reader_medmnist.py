"""Reader `medmnist` on small npz files in the form of MedMNIST's."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from PIL import Image

from cxr_eval.data import manifest
from cxr_eval.data.datasets import load
from cxr_eval.data.readers.medmnist import MedMnist
from cxr_eval.errors import DataError
from cxr_eval.protocol import Data
from cxr_eval.registry import find

COUNTS = {"train": 6, "val": 3, "test": 4}


def arrays(side: int = 28, *, colour: bool = False, findings: int = 1, classes: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    """Random pictures; labels 0, 1, 2, ... in turn, as uint8 (N, 1) or (N, findings)."""
    rng = np.random.default_rng(side)
    made: dict[str, np.ndarray[Any, Any]] = {}
    for split, count in COUNTS.items():
        shape = (count, side, side, 3) if colour else (count, side, side)
        made[f"{split}_images"] = rng.integers(0, 256, shape).astype(np.uint8)
        number = np.arange(count)[:, None]
        made[f"{split}_labels"] = ((number + np.arange(findings)) % classes).astype(np.uint8)
    return made


def save(root: Path, name: str, made: dict[str, np.ndarray[Any, Any]]) -> Path:
    np.savez(root / f"{name}.npz", **made)  # type: ignore[arg-type]
    return root


def read(root: Path, **settings: Any) -> pd.DataFrame:
    return MedMnist(root=str(root), **settings).read(root / "cache")


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name_and_keeps_colour() -> None:
    assert find("readers", "medmnist") is MedMnist
    assert MedMnist.colour


def test_classes_have_names_and_splits_are_those_of_the_file(tmp_path: Path) -> None:
    table, _ = manifest.checked(read(save(tmp_path, "pneumoniamnist", arrays())), reader="medmnist")
    assert table["label"].tolist()[:4] == ["normal", "pneumonia", "normal", "pneumonia"]
    assert table.groupby("split").size().to_dict() == COUNTS
    assert table["image_id"].tolist()[6:9] == ["val/000000", "val/000001", "val/000002"]
    assert (table["patient"] == table["image_id"]).all()
    manifest.check_splits(table, ("normal", "pneumonia"), reader="medmnist")


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("side", [28, 64])
def test_every_picture_is_the_one_of_the_file_pixel_for_pixel(tmp_path: Path, side: int, colour: bool) -> None:
    made = arrays(side, colour=colour)
    save(tmp_path, "breastmnist" if side == 28 else "breastmnist_64", made)
    table = read(tmp_path, set="breastmnist", resolution=side)
    for split in COUNTS:
        for number, path in enumerate(table[table["split"] == split]["image"]):
            with Image.open(path) as picture:
                assert np.array_equal(np.asarray(picture), made[f"{split}_images"][number])


def test_several_labels_an_image_are_findings_in_the_order_of_the_nih(tmp_path: Path) -> None:
    table, _ = manifest.checked(read(save(tmp_path, "chestmnist", arrays(findings=14)), set="chestmnist"), reader="medmnist")
    assert manifest.findings(table)[:2] == ("atelectasis", "cardiomegaly")
    assert manifest.findings(table)[12:] == ("pleural", "hernia")
    assert table["label:atelectasis"].tolist()[:4] == [0, 1, 0, 1]
    assert table["label:cardiomegaly"].tolist()[:4] == [1, 0, 1, 0]


def test_diagnoses_of_skin_are_called_as_in_ham10000(tmp_path: Path) -> None:
    table = read(save(tmp_path, "dermamnist", arrays(colour=True, classes=7)), set="dermamnist")
    assert table["label"].tolist()[:6] == ["akiec", "bcc", "bkl", "df", "mel", "nv"]


def test_a_set_without_names_here_has_its_class_numbers(tmp_path: Path) -> None:
    assert set(read(save(tmp_path, "octmnist", arrays(classes=4)), set="octmnist")["label"]) == {"0", "1", "2", "3"}
    table = read(save(tmp_path, "newmnist", arrays(findings=3)), set="newmnist")
    assert manifest.findings(table) == ("0", "1", "2")


def test_pictures_are_written_once_for_one_content(tmp_path: Path) -> None:
    save(tmp_path, "pneumoniamnist", arrays())
    first = read(tmp_path)["image"]
    Path(first[0]).write_bytes(b"mine")
    assert read(tmp_path)["image"].equals(first)
    assert Path(first[0]).read_bytes() == b"mine"
    changed = arrays()
    changed["test_images"][0, 0, 0] ^= 1
    save(tmp_path, "pneumoniamnist", changed)
    assert not set(read(tmp_path)["image"]) & set(first)


def test_a_file_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    made = arrays()
    made["test_images"] = made["test_images"].astype(np.float32)
    with refused("test_images is float32"):
        read(save(tmp_path, "pneumoniamnist", made))
    assert list((tmp_path / "cache").iterdir()) == []


def test_who_comes_second_takes_the_pictures_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "pneumoniamnist", arrays())
    first = read(tmp_path)["image"]
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as if the other process finished after this one looked
    assert read(tmp_path)["image"].equals(first)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def without_labels(made: dict[str, Any]) -> None:
    del made["val_labels"]


def volumes(made: dict[str, Any]) -> None:
    made["train_images"] = np.zeros((6, 28, 28, 28), np.uint8)


def other_side(made: dict[str, Any]) -> None:
    made["val_images"] = np.zeros((3, 64, 64), np.uint8)


def too_few_labels(made: dict[str, Any]) -> None:
    made["val_labels"] = made["val_labels"][:2]


def third_class(made: dict[str, Any]) -> None:
    made["val_labels"] = made["val_labels"] + 1


def fractions(made: dict[str, Any]) -> None:
    made["val_labels"] = made["val_labels"] / 2


def several_labels(made: dict[str, Any]) -> None:
    made["val_labels"] = np.zeros((3, 5), np.uint8)


def objects(made: dict[str, Any]) -> None:
    made["val_labels"] = np.array([None, 1, 2], dtype=object)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_labels, "no array 'val_labels'; found: train_images"),
        (volumes, "train_images is uint8 (6, 28, 28, 28), expected uint8 (N, 28, 28[, 3]); volumes are not read"),
        (other_side, "val_images is uint8 (3, 64, 64), expected uint8 (N, 28, 28[, 3])"),
        (too_few_labels, "3 images but 2 labels in split 'val'"),
        (third_class, "val_labels is from 1 to 2, expected 0 to 1"),
        (fractions, "val_labels is float64 (3, 1), expected whole numbers (N, 1)"),
        (several_labels, "val_labels is (3, 5), expected 0 or 1 for each of 2 findings"),
        (objects, "'val_labels' cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    made = arrays()
    damage(made)
    with refused(message) as error:
        read(save(tmp_path, "pneumoniamnist", made))
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_npz_is_named(tmp_path: Path) -> None:
    with refused("pneumoniamnist_64.npz: no such file; it is downloaded from medmnist.com under this name"):
        MedMnist(root=str(tmp_path), resolution=64).check()
    (tmp_path / "pneumoniamnist.npz").write_text("<html>not found</html>")
    with refused("pneumoniamnist.npz: is not an npz file; download it again"):
        read(tmp_path)


def test_a_set_is_a_plain_name() -> None:
    with pytest.raises(pydantic.ValidationError, match="should match pattern"):
        MedMnist(root="x", set="../x")


def test_pictures_are_prepared_with_their_splits_and_colour(tmp_path: Path) -> None:
    made = arrays(colour=True)
    save(tmp_path, "breastmnist", made)
    source = {"reader": "medmnist", "root": str(tmp_path), "set": "breastmnist"}
    data = load(Data.model_validate({"train": source, "size": 28, "channels": 3}), cache=tmp_path / "cache")
    assert {name: len(images) for name, images in data.splits.items()} == COUNTS
    expected = made["val_images"][1].transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(data.splits["val"].take([1])[0].numpy(), expected)
