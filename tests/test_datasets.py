"""Datasets of a protocol: splits, labels, limits, hash, counts, warnings and messages."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr_eval.data.datasets import Datasets, load
from cxr_eval.data.doubts import cramers_v
from cxr_eval.errors import DataError, PluginError
from cxr_eval.protocol import Data

SIZE = 16


class Folder:
    """A folder of drawn images with its CSV file; `rows` may be changed before `write`."""

    def __init__(self, root: Path, seed: int = 0, patients: int = 60) -> None:
        self.root, self.rng = root, np.random.default_rng(seed)
        root.mkdir(parents=True)
        self.rows = []
        for patient in range(patients):
            for image in range(1 + patient % 2):
                name = f"{patient}_{image}.png"
                Image.fromarray(self.rng.integers(0, 256, (SIZE, SIZE)).astype(np.uint8)).save(root / name)
                label = "sick" if patient % 3 == 0 else "well"
                self.rows.append({"image": name, "label": label, "patient": f"{root.name}-{patient}"})

    def source(self, **settings: Any) -> dict[str, Any]:
        pd.DataFrame(self.rows).to_csv(self.root / "labels.csv", index=False)
        return {"reader": "table", "root": str(self.root), **settings}

    def set(self, column: str, cells: Any) -> None:
        for number, row in enumerate(self.rows):
            row[column] = cells(number, row)


@pytest.fixture
def home(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "home")


@pytest.fixture
def away(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "away", seed=1, patients=24)


def loaded(home: Folder, **data: Any) -> Datasets:
    train = data.pop("train", None) or home.source()
    return load(Data.model_validate({"train": train, "size": SIZE} | data), cache=home.root / "cache")


def refused(text: str, kind: type[Exception] = DataError) -> Any:
    return pytest.raises(kind, match=re.escape(text))


def codes(found: Datasets) -> set[str]:
    return {warning.code for warning in found.warnings}


def third(number: int, row: dict[str, Any]) -> str:
    """Splits by patient: of ten patients seven, one, two."""
    return ("val", "test", "test", *["train"] * 7)[int(row["patient"].split("-")[1]) // 3 % 10]


def test_images_labels_and_patients_stay_together(home: Folder) -> None:
    found = loaded(home)
    assert list(found.splits) == ["train", "val", "test"]
    assert found.classes == ("sick", "well")
    assert found.task == "multiclass"
    assert sum(map(len, found.splits.values())) == len(home.rows) == 90
    for name, images in found.splits.items():
        assert (images.name, images.classes) == (name, found.classes)
        assert images.y.dtype == np.int64
        assert [found.classes[label] for label in images.y] == images.table["label"].tolist()
        for row in (0, len(images) - 1):
            pixels = np.asarray(Image.open(home.root / images.table["image_id"][row]))
            assert torch.equal(images.take([row])[0, 0], torch.from_numpy(pixels.astype(np.float32) / np.float32(255)))
    patients = [set(images.table["patient"]) for images in found.splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 60
    assert not found.drawn
    assert [(info.dataset, info.name, info.drawn) for info in found.readers] == [("train", "table", False)]
    assert found.readers[0].package.startswith("cxr-eval ")


def test_splits_of_the_manifest_are_kept(home: Folder) -> None:
    home.set("split", third)
    found = loaded(home)
    for name, images in found.splits.items():
        assert set(images.table["split"]) == {name}
    assert "val_from_train" not in codes(found)


def test_without_validation_images_some_training_patients_are_set_apart_and_it_is_said(home: Folder) -> None:
    home.set("split", lambda number, row: third(number, row).replace("val", "train"))
    found = loaded(home)
    assert not set(found.splits["train"].table["patient"]) & set(found.splits["val"].table["patient"])
    (warning,) = [warning for warning in found.warnings if warning.code == "val_from_train"]
    assert (warning.level, warning.scope) == ("note", "val")
    assert f"{len(found.splits['val'])} of its" in warning.message
    before = {row["image"] for row in home.rows if row["split"] == "test"}
    assert set(found.splits["test"].table["image_id"]) == before


def test_counts_list_images_and_patients_by_split_and_class(home: Folder, away: Folder) -> None:
    found = loaded(home, outside={"away": away.source()})
    assert list(found.counts.columns) == ["dataset", "split", "class", "images", "patients"]
    assert found.counts["images"].sum() == len(home.rows) + len(away.rows)
    row = found.counts.set_index(["split", "class"]).loc[("away", "sick")]
    assert (row["dataset"], row["images"], row["patients"]) == ("table", 12, 8)


def test_an_outside_set_is_one_split_whatever_its_own_splits_and_may_lack_classes(home: Folder, away: Folder) -> None:
    away.set("split", third)
    found = loaded(home, outside={"away": away.source(where={"label": "sick"})})
    images = found.splits["away"]
    assert len(images) == 12
    assert set(images.table["split"]) == {"away"}
    assert set(images.y) == {0}
    assert images.classes == found.classes


def test_findings_become_targets_with_unknown_ones_as_nan(home: Folder, away: Folder) -> None:
    for folder in (home, away):
        folder.set("fluid", lambda number, _: number % 2)
        folder.set("mass", lambda number, _: [0, 1, ""][number % 3])
        folder.set("other", lambda number, _: 0)
    settings = {"labels": ["mass", "fluid", "other"]}
    found = loaded(
        home, train=home.source(**settings), classes=["mass", "fluid"], outside={"away": away.source(labels=["fluid"])}
    )
    assert found.task == "multilabel"
    train = found.splits["train"]
    assert train.y.dtype == np.float32
    assert train.y.shape == (len(train), 2)
    np.testing.assert_array_equal(train.y[:, 1], train.table["label:fluid"])
    assert np.isnan(train.y[:, 0]).any()
    assert np.isnan(found.splits["away"].y[:, 0]).all()
    counts = found.counts.set_index(["split", "class"])["images"]
    assert counts[("away", "fluid")] == np.nansum(found.splits["away"].y[:, 1])
    assert counts[("away", "mass")] == 0


def test_a_limit_holds_for_every_split_and_keeps_classes(home: Folder, away: Folder) -> None:
    full = loaded(home, outside={"away": away.source()})
    found = loaded(home, outside={"away": away.source()}, limit=8)
    for name, images in found.splits.items():
        assert len(images) == 8
        assert set(images.y) == {0, 1}
        assert set(images.table["image_id"]) <= set(full.splits[name].table["image_id"])
    assert found.hash != full.hash


def test_the_hash_follows_images_labels_patients_and_splits_but_not_row_order_of_files_elsewhere(
    home: Folder, tmp_path: Path
) -> None:
    first = loaded(home).hash
    assert loaded(home).hash == first
    copy = Folder(tmp_path / "elsewhere" / "home")
    assert loaded(copy).hash == first
    seen = {first, loaded(home, split={"seed": 1}).hash, loaded(home, classes=["well", "sick"]).hash}
    home.rows[0]["label"] = "well"
    seen.add(loaded(home).hash)
    home.set("sex", lambda number, _: "FM"[number % 2])
    seen.add(loaded(home).hash)
    Image.new("L", (SIZE, SIZE)).save(home.root / "5_0.png")
    seen.add(loaded(home).hash)
    assert len(seen) == 6


def test_masks_and_boxes_reach_every_split(home: Folder) -> None:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[2:5, 3:9] = 255
    Image.fromarray(mask).save(home.root / "mask.png")
    home.set("mask", lambda number, _: "mask.png" if number % 4 == 0 else "")
    (home.root / "boxes.csv").write_text("image,x,y,w,h\n0_0.png,3,2,6,3\n")
    found = loaded(home, train=home.source(masks={"lesion": "mask"}, boxes={}))
    count = 0
    for images in found.splits.values():
        for row, path in enumerate(images.table["mask:lesion"]):
            expected = mask > 0 if isinstance(path, str) else np.zeros_like(mask, dtype=bool)
            np.testing.assert_array_equal(images.region("lesion", [row])[0], expected)
        boxed = images.table["image_id"] == "0_0.png"
        count += boxed.sum()
        np.testing.assert_array_equal(images.region("box")[boxed], (mask > 0)[None].repeat(boxed.sum(), 0))
        assert not images.region("box")[~boxed].any()
    assert count == 1


def test_progress_runs_over_all_sets(home: Folder, away: Folder) -> None:
    steps: list[tuple[int, int]] = []
    data = Data.model_validate({"train": home.source(), "outside": {"away": away.source()}, "size": SIZE})
    total = len(home.rows) + len(away.rows)
    load(data, cache=home.root / "cache", progress=lambda *step: steps.append(step))
    assert steps == [(done, total) for done in range(1, total + 1)]


def test_skipping_lists_bad_images_of_all_sets(home: Folder, away: Folder) -> None:
    home.rows[3]["label"] = ""
    (home.root / "10_0.png").write_text("broken")
    (away.root / "1_0.png").unlink()
    outside = {"away": away.source()}
    with refused("labels.csv:5: no label"):
        loaded(home, outside=outside)
    found = loaded(home, outside=outside, on_error="skip")
    assert [file.image for file in found.skipped] == [home.rows[3]["image"], "1_0.png", "10_0.png"]
    assert sum(map(len, found.splits.values())) == len(home.rows) + len(away.rows) - 3


def test_skipping_does_not_excuse_an_empty_split(home: Folder) -> None:
    home.set("split", third)
    for row in home.rows:
        if row["split"] == "val":
            (home.root / row["image"]).write_text("broken")
    with refused("split 'val' is empty"):
        loaded(home, on_error="skip")


# messages


def test_a_reader_that_is_unknown_or_wrongly_set_is_one_line(home: Folder) -> None:
    with refused("no reader 'tabel'; did you mean 'table'?", PluginError):
        loaded(home, train={"reader": "tabel"})
    with refused("data.train: reader 'table' has no setting 'roott'; did you mean 'root'?", PluginError):
        loaded(home, train=home.source(roott="x"))
    with refused("data.train: reader 'table' needs the setting 'root'", PluginError):
        loaded(home, train={"reader": "table"})
    with refused("data.outside.b: reader 'table' setting 'csv': Input should be a valid string, got 3", PluginError):
        loaded(home, outside={"b": home.source(csv=3)})
    with refused("reader 'table' give `label` (one class an image) or `labels`", PluginError):
        loaded(home, train=home.source(label="a", labels=["b"]))


def test_an_outside_set_cannot_have_a_splits_name(home: Folder) -> None:
    with refused("data.outside: a set cannot be called 'test'"):
        loaded(home, outside={"test": home.source()})


def test_a_split_given_for_some_images_only_is_refused(home: Folder) -> None:
    home.set("split", lambda number, row: "" if number == 4 else third(number, row))
    with refused("labels.csv:6: no split, while other images have one; expected train, val or test"):
        loaded(home)


def test_a_patient_in_two_splits_is_refused(home: Folder) -> None:
    home.set("split", lambda number, _: ("train", "val", "test")[number % 3])
    with refused("all images of a patient belong to one split"):
        loaded(home)


def test_an_outside_set_with_another_class_or_task_is_refused(home: Folder, away: Folder) -> None:
    away.rows[2]["label"] = "wel"
    with refused("labels.csv:4: label 'wel' is not one of the classes sick, well; did you mean 'well'?"):
        loaded(home, outside={"away": away.source()})
    away.set("mass", lambda number, _: number % 2)
    away.set("fluid", lambda number, _: number % 2)
    with refused("data.outside.away: labels are multilabel, those of data.train are multiclass; they must agree"):
        loaded(home, outside={"away": away.source(labels=["mass", "fluid"])})


def test_an_outside_set_with_other_findings_is_refused(home: Folder, away: Folder) -> None:
    for folder in (home, away):
        folder.set("mass", lambda number, _: number % 2)
        folder.set("fluid", lambda number, _: number // 2 % 2)
    train, outside = home.source(labels=["mass", "fluid"]), {"away": away.source(labels={"masss": "mass"})}
    with refused("data.outside.away: finding 'masss' is not one of data.train's: fluid, mass; did you mean 'mass'?"):
        loaded(home, train=train, outside=outside)
    with refused("data.outside.away: has none of the findings mass, fluid"):
        loaded(home, train=train, outside=outside, classes=["mass", "fluid"])


def test_a_training_patient_in_an_outside_set_is_refused_and_a_prefix_helps(home: Folder, away: Folder) -> None:
    train = loaded(home).splits["train"].table["patient"][0]
    away.rows[0]["patient"] = train
    with refused(f"labels.csv:2: patient '{train}' of the outside set 'away' is also in split 'train'"):
        loaded(home, outside={"away": away.source()})
    loaded(home, outside={"away": away.source(prefix="away-")})


# warnings


def warning(found: Datasets, code: str) -> Any:
    (only,) = [warning for warning in found.warnings if warning.code == code]
    return only


def test_images_of_training_that_are_also_tested_on_are_counted(home: Folder, away: Folder) -> None:
    image = loaded(home).splits["train"].table["image_id"][0]
    (away.root / "0_0.png").write_bytes((home.root / image).read_bytes())
    found = warning(loaded(home, outside={"away": away.source()}), "shared_images")
    assert (found.level, found.scope) == ("warn", "away")
    assert found.message.startswith("1 of the 36 images of 'away' are also training images")


def test_unknown_patients_are_said(home: Folder, away: Folder) -> None:
    outside = {"away": away.source(patient=None, prefix="x")}
    found = warning(loaded(home, outside=outside), "patients_unknown")
    assert found.scope == "away"
    assert "each of its 36 images counts as one" in found.message
    assert "patients_unknown" not in codes(loaded(home))


def test_one_image_a_patient_is_not_taken_for_unknown_patients(home: Folder) -> None:
    home.set("patient", lambda number, _: f"case {number}")
    assert "patients_unknown" not in codes(loaded(home))


def test_a_site_that_tells_the_class_is_said_with_numbers(home: Folder) -> None:
    home.set("site", lambda number, row: "A" if row["label"] == "sick" or number % 5 == 0 else "B")
    found = warning(loaded(home), "source_is_label")
    assert "Where a picture was taken tells 'sick' from the rest (Cramer's V 0." in found.message
    assert "100% of the training images of 'sick' come from 'A'" in found.message


def test_a_site_that_does_not_tell_the_class_or_is_each_images_own_is_no_warning(home: Folder) -> None:
    home.set("site", lambda number, row: "AB"[int(row["patient"].split("-")[1]) // 3 % 2])
    assert "source_is_label" not in codes(loaded(home))
    home.set("site", lambda number, _: f"site {number}")
    assert "source_is_label" not in codes(loaded(home))


def test_a_site_that_tells_a_finding_is_said(home: Folder) -> None:
    home.set("mass", lambda number, row: int(row["label"] == "sick") if number % 7 else "")
    home.set("fluid", lambda number, _: number % 2)
    home.set("site", lambda number, row: "A" if row["label"] == "sick" else "B")
    assert (
        "tells 'mass' from the rest"
        in warning(loaded(home, train=home.source(labels=["mass", "fluid"])), "source_is_label").message
    )


def test_few_patients_of_a_class_in_a_test_set_are_said(home: Folder, away: Folder) -> None:
    found = loaded(home, outside={"away": away.source()})
    few = {warning.scope: warning.message for warning in found.warnings if warning.code == "few_patients"}
    assert few["test"].startswith("Fewer than 10 patients of a class (sick 4, well 8) in 'test'")
    assert few["away"].startswith("Fewer than 10 patients of a class (sick 8) in 'away'")


def test_cramers_v_is_1_for_a_perfect_and_0_for_no_relation() -> None:
    assert cramers_v(np.diag([50.0, 50.0])) == pytest.approx(1, abs=1e-12)
    assert cramers_v(np.full((3, 2), 20.0)) == 0
    assert cramers_v(np.array([[30.0, 70.0]])) == 0
    assert cramers_v(np.zeros((0, 2))) == 0
    assert cramers_v(np.concatenate([np.tile([1.0, 0.0], (50, 1)), np.tile([0.0, 1.0], (50, 1))])) < 0.1  # a site an image


@given(st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=3), min_size=2, max_size=5))
def test_cramers_v_is_never_above_the_uncorrected_one_of_scipy(counts: list[list[int]]) -> None:
    from scipy.stats.contingency import association

    table = np.asarray(counts, dtype=np.float64)
    small = table.sum() < 20  # the correction also shrinks the greatest possible value, which tells in tiny tables only
    assert 0 <= cramers_v(table) <= association(np.asarray(counts), method="cramer") + (1 if small else 0.05)


# real images and drawn ones


@pytest.mark.real_data
def test_real_images_are_loaded_with_the_numbers_of_their_readme(shared_data: Path, tmp_path: Path) -> None:
    common = {"reader": "table", "image": "filename", "folder": "images", "patient": "group"}
    covid = common | {
        "root": str(shared_data / "covid_chestxray"),
        "where": {"label": ["covid", "pneumonia"]},
        "masks": {"lesion": "mask_infection", "lung": ["mask_lung_rad", "mask_lung_v7", "mask_lung_vae"]},
    }
    data = Data.model_validate({"train": covid, "size": 64, "resize": "pad"})
    found = load(data, cache=tmp_path)
    counts = found.counts.set_index(["split", "class"])["images"].to_dict()
    assert counts == {
        ("train", "covid"): 66, ("train", "pneumonia"): 34, ("val", "covid"): 14, ("val", "pneumonia"): 8,
        ("test", "covid"): 35, ("test", "pneumonia"): 21,
    }  # fmt: skip
    lesion, lung = (found.splits["test"].regions[kind] for kind in ("lesion", "lung"))
    both = (lesion.row >= 0) & (lung.row >= 0)
    inside = (found.splits["test"].region("lesion") & found.splits["test"].region("lung"))[both].sum()
    assert inside / found.splits["test"].region("lesion")[both].sum() > 0.9  # masks of two kinds lie on each other
    assert found.splits["test"].take(range(3)).shape == (3, 1, 64, 64)


@pytest.mark.real_data
def test_the_whole_real_collection_warns_that_covid_is_one_source(shared_data: Path, tmp_path: Path) -> None:
    settings = {"csv": "all_cxr.csv", "image": "path", "patient": "group", "site": "dataset"}
    train = {"reader": "table", "root": str(shared_data), **settings}
    found = load(Data.model_validate({"train": train, "size": 32, "limit": 200}), cache=tmp_path)
    assert [len(images) for images in found.splits.values()] == [200, 200, 200]
    message = warning(found, "source_is_label").message
    assert "tells 'covid' from the rest" in message
    assert "100% of the training images of 'covid' come from 'covid_chestxray'" in message
