"""The audit of images: copies, odd pictures, odd regions, columns that tell the label, and what a tiny model recognises."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr_eval import registry
from cxr_eval.data import audit as package
from cxr_eval.data.audit import AuditResult, audit, columns, enforce, pixels, probe, regions
from cxr_eval.data.audit.duplicates import pairs
from cxr_eval.data.audit.looks import SIDE, Looks, count_marks, difference_hash, look
from cxr_eval.data.datasets import Datasets, load
from cxr_eval.data.readers.table import Table
from cxr_eval.errors import DataError
from cxr_eval.images import ImageSet, Regions
from cxr_eval.protocol import Audit, Data
from cxr_eval.types import RowWarning


def scenes(count: int, seed: int = 0, side: int = 64) -> np.ndarray:
    """Smooth pictures that share a bright middle and differ otherwise, (count, side, side) in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    chest = 0.75 * np.exp(-((y - 0.5) ** 2 + (x - 0.5) ** 2) * 8)
    coarse = torch.from_numpy(rng.normal(0, 0.06, (count, 1, 8, 8)))
    own = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")[:, 0].numpy()
    return np.clip(chest + own + 0.1, 0, 1)


def image_set(
    x: np.ndarray, *, y: Any = None, name: str = "train", classes: tuple[str, ...] = ("a", "b"), **table: Any
) -> ImageSet:
    """Pictures (N, H, W) or (N, 3, H, W) in [0, 1], each of a patient of its own unless `patient` says otherwise."""
    count = len(x)
    stored = np.rint(x * 255).astype(np.uint8).reshape(count, -1, *x.shape[-2:])
    labels = np.arange(count) % 2 if y is None else np.asarray(y)
    table = {"image_id": [f"{name}-{k}" for k in range(count)], "patient": [f"{name}-p{k}" for k in range(count)]} | table
    frame = pd.DataFrame(table | {"image": [f"{image}.png" for image in table["image_id"]]})
    return ImageSet(stored, np.arange(count), labels, frame, classes, name)


def people(*sets: ImageSet) -> np.ndarray:
    return np.concatenate([each.table["patient"].to_numpy(dtype=object) for each in sets])


# what is measured on every image


def test_each_bit_says_whether_a_cell_is_brighter_than_its_left_neighbour() -> None:
    ramp = torch.linspace(0, 1, 34).expand(1, 32, 34)  # 2 pixels a cell: every cell is brighter than the one before
    assert difference_hash(ramp).sum() == 256
    assert difference_hash(ramp.flip(2)).sum() == 0
    steps = torch.zeros(1, 16, 17)
    steps[0, 3, 5] = 1  # brighter than cell 4, and cell 6 is darker than it
    assert np.flatnonzero(difference_hash(steps)[0]).tolist() == [3 * 16 + 4]


def test_the_hash_does_not_change_with_brightness_or_contrast() -> None:
    x = torch.from_numpy(scenes(4)).float()
    assert np.array_equal(difference_hash(x), difference_hash(0.5 * x + 0.25))


def test_small_copies_have_mean_zero_and_length_one_and_flat_images_are_none() -> None:
    x = scenes(3)
    x[1] = 0.5
    looks = look({"train": image_set(x)})
    small = looks.small.astype(np.float64)
    assert small.shape == (3, SIDE, SIDE)
    assert looks.flat.tolist() == [False, True, False]
    assert np.allclose(small.mean(axis=(1, 2)), 0, atol=1e-5)
    assert np.allclose((small**2).sum(axis=(1, 2)), [1, 0, 1], atol=2e-3)  # 11 bits a pixel


def test_images_are_counted_while_they_are_read() -> None:
    told: list[tuple[int, int]] = []
    look({"train": image_set(scenes(70, side=16)), "test": image_set(scenes(3, side=16))}, lambda *at: told.append(at))
    assert told == [(64, 73), (70, 73), (73, 73)]


@pytest.mark.parametrize(
    ("place", "ground", "count"),
    [
        ((slice(4, 12), slice(4, 10)), 0.1, 1),  # 48 of 10,000 pixels at the border, on dark ground
        ((slice(46, 54), slice(46, 52)), 0.1, 0),  # in the middle: no letter
        ((slice(4, 12), slice(4, 10)), 0.6, 0),  # on bright ground: bone
        ((slice(4, 5), slice(4, 6)), 0.1, 0),  # two pixels: noise
        ((slice(0, 25), slice(0, 25)), 0.1, 0),  # 25 of 100 high: a corner, no letter
    ],
)
def test_letters_are_small_bright_signs_on_dark_ground_near_the_border(place: Any, ground: float, count: int) -> None:
    grey = np.full((100, 100), ground, dtype=np.float32)
    grey[place] = 1
    assert count_marks(grey) == count


# copies


def test_copies_under_another_patient_are_found_whatever_their_brightness() -> None:
    x = scenes(30)
    x[20] = 0.6 * x[3] + 0.2
    x[21] = np.clip(x[4] + np.random.default_rng(1).normal(0, 0.004, x[4].shape), 0, 1)
    images = image_set(x)
    found = pairs(look({"train": images}), patient=people(images), correlation=0.985)
    assert sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(3, 20), (4, 21)]
    assert (found.correlation > 0.99).all()
    assert found.compared == 30


def test_two_pictures_of_one_patient_are_no_copies_and_neither_are_flat_ones() -> None:
    x = scenes(12)
    x[5], x[6], x[7] = x[1], 0.5, 0.2
    patient = [f"p{k}" for k in range(12)]
    patient[5] = patient[1]
    images = image_set(x, patient=patient)
    found = pairs(look({"train": images}), patient=people(images), correlation=0.985)
    assert len(found.first) == 0
    assert found.compared == 10


def test_pairs_are_those_that_a_plain_correlation_of_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_eval.data.audit.duplicates.TILE", 7)  # several tiles, the last one smaller
    monkeypatch.setattr("cxr_eval.data.audit.duplicates.PAIRS", 3)
    x = scenes(40, seed=2)
    x[25:30] = np.clip(x[:5] + np.random.default_rng(3).normal(0, 0.01, x[:5].shape), 0, 1)
    x[39] = x[0]
    images = image_set(x)
    found = pairs(look({"train": images}), patient=people(images), correlation=0.985)
    plain = np.corrcoef(np.rint(x * 255).reshape(40, -1))  # at 64 pixels nothing is shrunk
    first, second = np.nonzero(np.triu(plain >= 0.985, 1))
    assert len(first) == 7  # 0 is there three times
    assert set(zip(found.first, found.second, strict=True)) == set(zip(first, second, strict=True))
    assert np.allclose(found.correlation, plain[found.first, found.second], atol=1e-3)


# odd pictures


def test_inverted_pictures_are_found_and_no_others() -> None:
    x = scenes(60)
    x[[7, 11, 30, 41, 59]] = 1 - x[[7, 11, 30, 41, 59]]
    images = {"train": image_set(x)}
    found = [each for each in pixels.suspects(images, look(images)) if each.code == "inverted_images"]
    assert [each.image_id for each in found] == [f"train-{k}" for k in (7, 11, 30, 41, 59)]
    assert re.search(r"correlation with the set's median picture is -0\.\d\d", found[0].why)


def test_a_set_whose_pictures_are_all_inverted_is_told_as_a_whole() -> None:
    images = {"train": image_set(scenes(30)), "away": image_set(1 - scenes(30, seed=1), name="away")}
    looks = look(images)
    (warning,) = pixels.inverted_sets(images, looks)
    assert (warning.code, warning.scope) == ("inverted_set", "away")
    assert [each for each in pixels.suspects(images, looks) if each.code == "inverted_images"] == []


def test_a_small_set_is_compared_with_the_training_pictures() -> None:
    images = {"train": image_set(scenes(30)), "away": image_set(1 - scenes(3, seed=1), name="away")}
    found = [each.split for each in pixels.suspects(images, look(images)) if each.code == "inverted_images"]
    assert found == ["away"] * 3


def test_colour_photographs_are_never_called_inverted_or_written_on() -> None:
    grey = scenes(30)
    grey[3] = 1 - grey[3]
    grey[:, 2:8, 2:6] = 1
    coloured = np.stack([grey, 0.6 * grey, 0.8 * grey], axis=1)
    images = {"train": image_set(coloured)}
    assert list(pixels.suspects(images, look(images))) == []


def test_flat_and_written_on_images_are_listed() -> None:
    x = scenes(30)
    x[2] = 0.3
    x[9, :14, :14] = 0.05
    x[9, 3:9, 3:7] = 1
    images = {"train": image_set(x)}
    found = {each.code: each for each in pixels.suspects(images, look(images))}
    assert found["flat_images"].image_id == "train-2"
    assert found["burned_in"].image_id == "train-9"
    assert found["burned_in"].why == "A small bright sign on dark ground near the borders."


# regions


def with_regions(**masks: np.ndarray) -> ImageSet:
    """One image with a mask of each kind, packed as prepared images have them."""
    images = image_set(scenes(1))
    known = {kind: Regions(np.packbits(mask[None], axis=-1), np.zeros(1, dtype=np.int64)) for kind, mask in masks.items()}
    return ImageSet(images.pixels, images.rows, images.y, images.table, images.classes, "train", known)


def mask(rows: slice, columns_: slice) -> np.ndarray:
    drawn = np.zeros((64, 64), dtype=bool)
    drawn[rows, columns_] = True
    return drawn


@pytest.mark.parametrize(
    ("masks", "why"),
    [
        ({"lung": mask(slice(0, 64), slice(1, 64))}, "The region 'lung' fills 98% of the image."),  # 63 of 64 columns
        ({"lesion": mask(slice(8, 10), slice(8, 10))}, "The region 'lesion' has 4 of 4096 pixels."),
        (
            {"lesion": mask(slice(0, 8), slice(0, 8)), "lung": mask(slice(20, 40), slice(20, 40))},
            "The region 'lesion' lies wholly outside the region 'lung'.",
        ),
    ],
)
def test_regions_that_cannot_mean_what_they_say_are_listed(masks: dict[str, np.ndarray], why: str) -> None:
    assert [each.why for each in regions.suspects({"train": with_regions(**masks)})] == [why]


def test_ordinary_regions_are_not_listed_and_their_sizes_are() -> None:
    images = {"train": with_regions(lesion=mask(slice(20, 28), slice(20, 28)), lung=mask(slice(16, 48), slice(16, 48)))}
    assert list(regions.suspects(images)) == []
    assert [(row["kind"], row["images"], row["median"]) for row in regions.sizes(images)] == [
        ("lesion", 1, 64 / 4096),
        ("lung", 1, 1024 / 4096),
    ]


# columns


@pytest.mark.parametrize(
    ("year", "band"), [(0, "0-17"), (17.5, "0-17"), (18, "18-39"), (79, "60-79"), (80, "80+"), (413, None), (np.nan, None)]
)
def test_ages_become_bands_and_impossible_ones_stay_unknown(year: float, band: str | None) -> None:
    images = image_set(scenes(1, side=16), age=[year])
    assert columns.column(images, "age", np.zeros(1, dtype=np.int64)).tolist() == [band]


def viewed(ap_of_a: int, ap_of_b: int, *, of: int = 100, name: str = "train") -> ImageSet:
    """`of` images of each class, some of them AP, the others PA."""
    view = ["AP"] * ap_of_a + ["PA"] * (of - ap_of_a) + ["AP"] * ap_of_b + ["PA"] * (of - ap_of_b)
    return image_set(np.zeros((2 * of, 16, 16)), y=[0] * of + [1] * of, name=name, view=view)


def associated(**sets: ImageSet) -> columns.Found:
    texts = {name: columns.column(images, "view", np.zeros(len(images), dtype=np.int64)) for name, images in sets.items()}
    return columns.associations(sets, {"view": texts})


def test_an_association_has_the_shares_of_the_class_and_of_the_others() -> None:
    found = associated(train=viewed(80, 30))["view", "train", "a"]
    assert found.values == ("AP", "PA")
    assert found.shares.tolist() == [[0.8, 0.3], [0.2, 0.7]]
    assert np.allclose(found.difference, [0.5, -0.5])
    # phi2 = 0.5^2 / (4 x 0.55 x 0.45) x 4 / 4 = (80 x 70 - 30 x 20)^2 / (110 x 90 x 100 x 100) = 0.2525, less 1 / 199 for
    # chance; divided by 2 - 1 / 199 - 1
    assert found.strength == pytest.approx(np.sqrt((25e6 / 99e6 - 1 / 199) / (1 - 1 / 199)), rel=1e-12)


def test_a_view_that_tells_the_class_is_a_warning_and_one_that_hardly_does_is_none() -> None:
    (warning,) = columns.tells_label(associated(train=viewed(80, 30)))
    assert (warning.code, warning.level) == ("view_is_label", "warn")
    assert "80% of the training images of 'a' are 'AP' but 30% of the others" in warning.message
    assert list(columns.tells_label(associated(train=viewed(60, 40)))) == []


def test_an_association_that_turns_round_in_another_set_is_a_warning() -> None:
    rows = columns.reversals(
        associated(train=viewed(71, 42), away=viewed(10, 60, name="away"), same=viewed(70, 40, name="same"))
    )
    (row,) = [row for row in rows if row["class"] == "a"]
    assert (row["split"], row["value"]) == ("away", "AP")
    assert [row[key] for key in ("train_in", "train_out", "there_in", "there_out")] == [0.71, 0.42, 0.1, 0.6]
    (warning,) = columns.reversed_warnings(rows)
    assert (warning.code, warning.scope) == ("association_reversed", "away")
    assert "71% of 'a' and 42% of the others have view 'AP', in 'away' 10% and 60%" in warning.message


def test_a_difference_that_chance_explains_does_not_turn_round() -> None:
    # 0.16 apart in 25 patients a side: a standard error of 0.14
    assert columns.reversals(associated(train=viewed(80, 30), away=viewed(10, 14, of=25, name="away"))) == []


def test_columns_that_few_images_know_are_left_alone() -> None:
    assert associated(train=viewed(10, 2, of=19)) == {}
    assert associated(train=viewed(0, 0)) == {}


def test_counts_are_by_value_set_and_class() -> None:
    images = viewed(3, 1, of=4)
    table = columns.counts({"train": images}, {"view": {"train": images.table["view"].to_numpy(dtype=object)}})
    assert [(row["value"], row["images"], row["classes"]) for row in table] == [
        ("AP", 4, {"a": 3, "b": 1}),
        ("PA", 4, {"a": 1, "b": 3}),
    ]


# the tiny model


def probed(images: ImageSet) -> tuple[Looks, probe.Sample]:
    looks = look({"train": images})
    return looks, probe.sample({"train": images}, looks)


def test_the_tiny_model_recognises_a_darker_source_and_not_a_coin() -> None:
    x = scenes(200)
    x[::2] *= 0.8
    _, drawn = probed(image_set(x))
    site = np.array(["dark", "bright"], dtype=object)[drawn.rows % 2]
    recognised = probe.ask(drawn, site)
    assert recognised is not None
    assert recognised.score > 0.97
    assert recognised.chance == 0.5
    coin = probe.ask(drawn, np.array(["heads", "tails"], dtype=object)[np.random.default_rng(0).integers(0, 2, 200)])
    assert coin is not None
    assert abs(coin.score - 0.5) < 0.15  # standard error of 200 tosses: 0.035; the fits add some


def test_a_patient_is_never_in_the_fold_that_answers_about_it() -> None:
    x = scenes(200)
    _, drawn = probed(image_set(x, patient=[f"p{k // 4}" for k in range(200)]))
    asked = probe._asked(drawn, np.array(["u", "v"], dtype=object)[drawn.rows // 4 % 2])
    assert asked is not None
    for fitted, held in asked[3]:
        assert not set(drawn.patient[fitted]) & set(drawn.patient[held])


def test_the_label_from_a_column_alone_is_its_most_frequent_one_weighed_by_class() -> None:
    # of 60 a 45 are from X; of 180 b 60 are: X says a (0.75 > 0.33), Y says b; balanced accuracy (45/60 + 120/180) / 2
    label = np.array(["a"] * 60 + ["b"] * 180, dtype=object)
    site = np.array(["X"] * 45 + ["Y"] * 15 + ["X"] * 60 + ["Y"] * 120, dtype=object)
    drawn = probe.Sample(np.arange(240), np.zeros((240, 1)), np.arange(240).astype(str).astype(object), np.full(240, "train"))
    answer = probe.ask_column(drawn, label, site)
    assert answer is not None
    assert answer.score == pytest.approx((45 / 60 + 120 / 180) / 2, abs=1e-12)


def test_nothing_is_asked_where_images_or_patients_are_too_few() -> None:
    _, drawn = probed(image_set(scenes(60)))
    assert probe.ask(drawn, np.array(["u"] * 45 + ["v"] * 15, dtype=object)) is None
    _, drawn = probed(image_set(scenes(60), patient=["one"] * 30 + [f"p{k}" for k in range(30)]))
    assert probe.ask(drawn, np.array(["u"] * 30 + ["v"] * 30, dtype=object)) is None


def test_a_large_set_is_sampled_and_the_sample_is_always_the_same() -> None:
    images = {"train": image_set(scenes(90, side=16)), "test": image_set(scenes(20, side=16), name="test")}
    looks = look(images)
    first, again = (probe.sample(images, looks, most=50) for _ in range(2))
    assert np.array_equal(first.rows, again.rows)
    assert pd.Series(first.split).value_counts().to_dict() == {"train": 30, "test": 20}


def test_labels_that_the_tiny_model_cannot_believe_are_listed_and_only_if_it_knows_something() -> None:
    x = scenes(200)
    x[::2] *= 0.6
    y = np.arange(200) % 2
    y[[10, 31]] = 1 - y[[10, 31]]
    images = image_set(x, y=y)
    looks, drawn = probed(images)
    texts = probe.label_texts({"train": images}, looks, drawn)
    answer = probe.ask(drawn, texts["label"])
    assert answer is not None
    found = list(probe.label_doubts({"train": images}, looks, drawn, {"label": answer}))
    assert {each.image_id for each in found} == {"train-10", "train-31"}
    assert found[0].why.startswith("Labelled '")
    ignorant = probe.Answer(answer.values, answer.images, answer.truth, answer.likely[::-1].copy() * 0 + [0.99, 0.01], 200)
    assert list(probe.label_doubts({"train": images}, looks, drawn, {"label": ignorant})) == []


def test_findings_are_asked_for_one_by_one_and_unknown_ones_are_left_out() -> None:
    y = np.array([[1, np.nan], [0, 1], [1, 0]], dtype=np.float32)
    images = image_set(scenes(3), y=y, classes=("fluid", "mass"))
    texts = probe.label_texts({"train": images}, *probed(images))
    assert texts["fluid"].tolist() == ["fluid", "no fluid", "fluid"]
    assert texts["mass"].tolist() == [None, "mass", "no mass"]


def row(column: str, score: float, chance: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"column": column, "score": score, "chance": chance, "scope": "run", "values": ["u", "v"], **more}


def test_a_source_is_a_warning_only_if_the_picture_tells_it_and_it_tells_the_label() -> None:
    label = [{"target": "label", "from": "site", "score": 0.8, "chance": 1 / 3}]
    (warning,) = probe.recognised_warnings([row("site", 0.96)], label)
    assert warning.code == "source_recognised"
    assert "tells a picture's source with balanced accuracy 0.96 (chance 0.50)" in warning.message
    assert "the source alone tells the label with balanced accuracy 0.80 (chance 0.33)" in warning.message
    assert list(probe.recognised_warnings([row("site", 0.7)], label)) == []
    assert list(probe.recognised_warnings([row("site", 0.96)], [{**label[0], "score": 0.4}])) == []


def test_sets_that_a_picture_tells_apart_are_a_note() -> None:
    (warning,) = probe.recognised_warnings([row("set", 0.99, scope="away")], [])
    assert (warning.code, warning.level, warning.scope) == ("sets_differ", "note", "away")


# all together


class Folder:
    """Pictures on disk with a table, `scenes` of which a third is sick."""

    def __init__(self, root: Path, count: int = 120, seed: int = 0) -> None:
        self.root = root
        root.mkdir()
        self.x = scenes(count, seed=seed)
        self.table = pd.DataFrame(
            {
                "image": [f"{k}.png" for k in range(count)],
                "label": ["sick" if k % 3 == 0 else "well" for k in range(count)],
                "patient": [f"{root.name}-{k}" for k in range(count)],
                "split": [("train", "train", "train", "val", "test")[k % 5] for k in range(count)],
            }
        )

    def source(self) -> dict[str, Any]:
        for name, picture in zip(self.table["image"], self.x, strict=True):
            Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(self.root / name)
        self.table.to_csv(self.root / "labels.csv", index=False)
        return {"reader": "table", "root": str(self.root)}


@pytest.fixture
def home(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "home")


def loaded(home: Folder, **data: Any) -> Datasets:
    return load(Data.model_validate({"train": home.source(), "size": 64} | data), cache=home.root / "cache")


def audited(home: Folder, *, data: dict[str, Any] | None = None, **settings: Any) -> AuditResult:
    return audit(loaded(home, **(data or {})), Audit(**settings), cache=home.root / "cache")


def codes(result: AuditResult) -> set[str]:
    return {warning.code for warning in result.warnings}


def test_ordinary_pictures_raise_no_doubt(home: Folder) -> None:
    result = audited(home)
    assert result.warnings == ()
    assert result.suspects == ()
    assert result.tables["duplicates"] == [
        {"compared": 120, "candidates": result.tables["duplicates"][0]["candidates"], "pairs": 0}
    ]
    assert all(row["patients"] == 0 for row in result.tables["patients_across"])
    assert [row["split"] for row in result.tables["sets"]] == ["train", "val", "test"]
    assert result.tables["sets"][0]["formats"] == {"png": 72}


def test_copies_across_a_split_are_told_for_the_set_whose_numbers_they_spoil(home: Folder) -> None:
    home.x[4] = 0.9 * home.x[1]  # 4 is a test image, 1 a training image; both well
    home.x[9] = home.x[0]  # 9 is a test image and well? 9 % 3 == 0: sick, as 0 is
    home.x[14] = home.x[3]  # 14 is a test image and well, 3 a validation image and sick
    result = audited(home)
    across = [warning for warning in result.warnings if warning.code == "near_duplicates_across"]
    assert [warning.scope for warning in across] == ["test"]
    assert across[0].message.startswith("3 images of 'test' also are in the images that networks are fitted or chosen on")
    (labels,) = [each for each in result.suspects if each.code == "near_duplicate_labels"]
    assert {labels.image_id, labels.other_image_id} == {"3.png", "14.png"}
    assert "near_duplicate_labels" in codes(result)
    first = next(each for each in result.suspects if each.code == "near_duplicates_across")
    assert result.pictures[first.picture].shape == (64, 64)
    assert np.abs(result.pictures[first.picture].astype(int) - result.pictures[first.other_picture]).mean() < 12


def test_copies_within_one_set_are_a_note(home: Folder) -> None:
    home.x[6] = home.x[1]
    home.table.loc[6, "label"] = home.table.loc[1, "label"]
    result = audited(home)
    assert [(warning.code, warning.level) for warning in result.warnings] == [("near_duplicates", "note")]
    assert result.warnings[0].message.startswith("1 pair of the same picture under two patients")


def test_copies_are_not_looked_for_and_no_model_is_asked_if_the_protocol_says_so(home: Folder) -> None:
    home.x[6] = home.x[1]
    result = audited(home, duplicates=False, probe=False)
    assert result.suspects == ()
    assert result.tables["duplicates"] == result.tables["recognised"] == result.tables["label_from"] == []


def test_a_source_that_tells_the_label_and_shows_in_the_picture_is_told(home: Folder) -> None:
    home.table["site"] = ["north" if label == "sick" else "south" for label in home.table["label"]]
    home.x[home.table["site"] == "north"] *= 0.7
    result = audited(home)
    assert "source_recognised" in codes(result)
    (site,) = result.tables["recognised"]
    assert site["score"] > 0.95
    alone = next(row for row in result.tables["label_from"] if row["from"] == "site")
    assert alone["score"] == 1
    assert "source_is_label" in {warning.code for warning in result.loaded}


def test_an_outside_set_is_compared_with_the_training_source_unless_it_is_a_part_of_it(home: Folder, tmp_path: Path) -> None:
    away = Folder(tmp_path / "away", count=40, seed=5)
    away.x = 0.6 * away.x
    source = home.source()
    result = audited(home, data={"outside": {"away": away.source(), "part": {**source, "where": {"split": "test"}}}})
    assert [row["scope"] for row in result.tables["recognised"] if row["column"] == "set"] == ["away"]
    assert "sets_differ" in codes(result)
    shared = {(each["split"], each["other"]): each["patients"] for each in result.tables["patients_across"]}
    assert (shared["test", "part"], shared["train", "away"]) == (24, 0)


def test_an_audit_is_found_again_and_other_settings_are_another_audit(home: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    home.x[5] = 1 - home.x[5]
    found = loaded(home)
    cache = home.root / "cache"
    first = audit(found, Audit(), cache=cache)
    monkeypatch.setattr(package, "look", lambda *_: pytest.fail("the images are read again"))
    again = audit(found, Audit(errors=("inverted_images",)), cache=cache)
    assert (again.warnings, again.suspects, again.loaded, again.skipped) == (
        first.warnings,
        first.suspects,
        first.loaded,
        first.skipped,
    )
    assert again.tables == first.tables
    assert all(np.array_equal(again.pictures[key], first.pictures[key]) for key in first.pictures)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        audit(found, Audit(correlation=0.99), cache=cache)


def test_pictures_are_as_many_as_asked_for_the_kinds_in_turn(home: Folder) -> None:
    home.x[[6, 7, 8]] = 1 - home.x[[6, 7, 8]]
    home.x[20:24] = 0.4
    result = audited(home, pictures=3)
    shown = [each.code for each in result.suspects if each.picture]
    assert sorted(shown) == ["flat_images", "inverted_images", "inverted_images"]
    assert len(result.pictures) == 3
    assert len(result.suspects) >= 7
    assert audited(home, pictures=0).pictures == {}


def test_equal_numbers_of_another_reader_are_other_people(home: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two datasets that count patients 0, 1, 2: nobody is in both, and a copied picture is a copy."""
    away = Folder(home.root.parent / "away", seed=1)
    away.x[:5] = home.x[:5]
    for folder in (home, away):
        folder.table["patient"] = [str(k) for k in range(len(folder.table))]
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Table if name == "other" else find(kind, name))
    monkeypatch.setattr(registry, "origin", lambda kind, name: "pkg 1.0")
    result = audited(home, data={"outside": {"away": away.source() | {"reader": "other"}}})
    assert all(row["patients"] == 0 for row in result.tables["patients_across"])
    copies = [each for each in result.suspects if each.code.startswith("near_duplicate")]
    assert {each.other_image_id for each in copies} == {f"{k}.png" for k in range(5)}


@pytest.mark.parametrize("other", [{"channels": 3}, {"audit": {"correlation": 0.99}}, {"outside": True}])
def test_other_images_or_settings_are_audited_anew(home: Folder, other: dict[str, Any]) -> None:
    cache = home.root / "audit-cache"

    def kept(**data: Any) -> int:
        if data.pop("outside", False):
            data["outside"] = {"away": Folder(home.root.parent / "away", seed=1).source()}
        protocol = Data.model_validate({"train": home.source(), "size": 64} | data)
        audit(load(protocol, cache=home.root / "cache"), protocol.audit, cache=cache)
        return len(list((cache / "audit").iterdir()))

    assert (kept(), kept(), kept(**other)) == (1, 1, 2)


def test_a_finding_that_the_protocol_calls_an_error_stops_with_the_first_image(home: Folder) -> None:
    home.x[4] = home.x[1]
    result = audited(home)
    with pytest.raises(
        DataError, match=r"^near_duplicates_across \(test\): 1 image of 'test' also is in .* The first: '1\.png' of"
    ) as told:
        enforce(result, ("flat_images", "near_duplicates_across"))
    assert "'4.png' of 'test'. Mend the data, or take 'near_duplicates_across' out of data.audit.errors" in str(told.value)
    enforce(result, ("flat_images",))


def test_what_loading_found_can_stop_a_run_too() -> None:
    doubt = RowWarning("few_patients", "warn", "test", "Fewer than 10.")
    with pytest.raises(DataError, match=r"^few_patients \(test\): Fewer than 10\. Mend"):
        enforce(AuditResult((), (doubt,), (), {}, ()), ("few_patients",))


# real images


def real(shared_data: Path, **changes: Any) -> dict[str, Any]:
    source = {"reader": "table", "root": str(shared_data), "csv": "all_cxr.csv", "image": "path", "label": "label"}
    return source | {"patient": "patient_id", "split": "split", "site": "dataset", "view": "view"} | changes


@pytest.mark.real_data
@pytest.mark.slow
def test_the_known_copies_among_real_images_are_found_and_no_others(shared_data: Path, tmp_path: Path) -> None:
    known = pd.read_csv(shared_data / "near_duplicate_pairs.csv")
    found = load(Data.model_validate({"train": real(shared_data), "size": 64}), cache=tmp_path)
    result = audit(found, Audit(probe=False), cache=tmp_path)
    copies = {frozenset((each.image_id, each.other_image_id)) for each in result.suspects if each.other_image_id}
    assert copies == {frozenset(pair) for pair in zip(known["a"], known["b"], strict=True)}


@pytest.mark.real_data
@pytest.mark.slow
def test_real_images_that_are_inverted_by_hand_are_found_and_the_source_is_recognised(
    shared_data: Path, tmp_path: Path
) -> None:
    where = {"dataset": ["covid_chestxray", "nih_chestxray"], "label": ["covid", "pneumonia", "normal"]}
    found = load(Data.model_validate({"train": real(shared_data, where=where), "size": 64}), cache=tmp_path)
    train = found.splits["train"]
    pixels_ = np.array(train.pixels)
    chosen = [10, 100, 300, 500, 700]
    pixels_[train.rows[chosen]] = 255 - pixels_[train.rows[chosen]]
    for name, images in found.splits.items():
        found.splits[name] = ImageSet(pixels_, images.rows, images.y, images.table, images.classes, name)
    result = audit(found, Audit(duplicates=False), cache=tmp_path)
    inverted = {each.image_id for each in result.suspects if each.code == "inverted_images"}
    assert inverted == set(train.table["image_id"].iloc[chosen])
    assert "source_recognised" in codes(result)
