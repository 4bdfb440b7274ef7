"""Checks of a manifest, division by patient, limits and file digests."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.data import divide, manifest
from cxr_eval.errors import DataError
from cxr_eval.protocol import Split


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Twelve images of six patients in three splits, two classes."""
    rows = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"x")
        rows.append(
            {
                "image": str(path),
                "image_id": f"i{number}",
                "label": "sick" if number % 2 else "well",
                "patient": f"p{number // 2}",
                "split": ("train", "val", "test")[number // 4],
                "listed_in": f"labels.csv:{number + 2}",
            }
        )
    return pd.DataFrame(rows, dtype=object)


def changed(table: pd.DataFrame, row: int, column: str, value: Any) -> pd.DataFrame:
    table = table.copy()
    if column not in table:
        table[column] = pd.Series([None] * len(table), dtype=object)
    table.at[row, column] = value
    return table


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_a_good_manifest_passes_unchanged(table: pd.DataFrame) -> None:
    checked, skipped = manifest.checked(table, reader="r")
    pd.testing.assert_frame_equal(checked, table)
    assert skipped == ()
    assert manifest.classes_of(checked, None, reader="r") == ("sick", "well")
    assert manifest.classes_of(checked, ("well", "sick"), reader="r") == ("well", "sick")
    manifest.check_splits(checked, ("sick", "well"), reader="r")


def test_image_id_defaults_to_the_path(table: pd.DataFrame) -> None:
    checked, _ = manifest.checked(table.drop(columns="image_id"), reader="r")
    assert checked["image_id"].tolist() == table["image"].tolist()


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("patient", "r: the manifest has no column 'patient'; did you mean 'patients'?"),
        ("image", "r: the manifest has no column 'image'; did you mean 'images'?"),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(table: pd.DataFrame, column: str, text: str) -> None:
    with refused(text):
        manifest.checked(table.rename(columns={column: column + "s", "image_id": "number"}), reader="r")


def test_a_missing_column_without_a_near_name_lists_the_columns(table: pd.DataFrame) -> None:
    with refused("no column 'patient': image, image_id, label, split, listed_in"):
        manifest.checked(table.drop(columns="patient"), reader="r")


def test_labels_are_needed_and_of_one_kind(table: pd.DataFrame) -> None:
    with refused("r: the manifest has neither a column 'label' nor columns 'label:NAME'"):
        manifest.checked(table.drop(columns="label"), reader="r")
    with refused("a task is one or the other"):
        manifest.checked(table.assign(**{"label:a": 1.0}), reader="r")


def test_an_empty_manifest_is_refused(table: pd.DataFrame) -> None:
    with refused("r: the manifest lists no image"):
        manifest.checked(table.iloc[:0], reader="r")


def test_the_mask_kind_box_is_kept_for_boxes(table: pd.DataFrame) -> None:
    with refused("the region kind 'box' has a meaning of its own; give the masks or boxes another name"):
        manifest.checked(table.assign(**{"mask:box": None}), reader="r")


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("image", None, "labels.csv:5: no image is named"),
        ("image_id", "i0", "labels.csv:5: image i0 is listed a second time, first in labels.csv:2"),
        ("split", "Testing", "labels.csv:5: split is 'Testing', expected train, val or test"),
        ("sex", "x", "labels.csv:5: sex is 'x', expected F, M or nothing"),
        ("age", "old", "labels.csv:5: age is 'old', expected years as a number >= 0, or nothing"),
        ("age", -1, "labels.csv:5: age is -1, expected years"),
        ("boxes", "1 2 3 4", "labels.csv:5: boxes is '1 2 3 4', expected (x, y, w, h) in pixels with w and h above 0"),
        ("boxes", ((0, 0, 3, 0),), "labels.csv:5: boxes is ((0, 0, 3, 0),)"),
        ("boxes", ((0, 0, 3),), "labels.csv:5: boxes is ((0, 0, 3),)"),
        ("boxes", (("a", 0, 3, 1),), "labels.csv:5: boxes is"),
    ],
)
def test_unreadable_values_name_file_and_row_and_always_stop(
    table: pd.DataFrame, column: str, value: Any, text: str, skip: bool
) -> None:
    with refused(text):
        manifest.checked(changed(table, 3, column, value), reader="r", skip=skip)


def test_a_finding_is_zero_one_or_unknown(table: pd.DataFrame) -> None:
    many = table.drop(columns="label").assign(**{"label:a": 1.0, "label:b": [0.0] * 11 + [np.nan]})
    checked, _ = manifest.checked(many, reader="r")
    assert checked["label:b"].dtype == np.float32
    assert manifest.task_of(checked) == "multilabel"
    with refused("labels.csv:6: label:a is 2, expected 0, 1 or nothing (unknown)"):
        manifest.checked(changed(many.astype({"label:a": object}), 4, "label:a", 2), reader="r")


FAULTS = [
    ("label", None, "no label"),
    ("patient", np.nan, "no patient"),
    ("image", "gone.png", "image file gone.png not found; 11 of 12 listed images found"),
    ("mask:lung", "gone.png", "lung mask gone.png not found"),
]


@pytest.mark.parametrize(("column", "value", "reason"), FAULTS)
def test_faults_of_one_image_stop_or_are_skipped_and_listed(table: pd.DataFrame, column: str, value: Any, reason: str) -> None:
    bad = changed(table, 3, column, value)
    with refused(f"labels.csv:5: {reason}"):
        manifest.checked(bad, reader="r")
    checked, skipped = manifest.checked(bad, reader="r", skip=True)
    assert checked["image_id"].tolist() == [f"i{number}" for number in range(12) if number != 3]
    assert [(file.reader, file.image, file.reason) for file in skipped] == [("r", "i3", reason)]


def test_an_image_of_which_no_finding_is_known_is_a_fault(table: pd.DataFrame) -> None:
    many = table.drop(columns="label").assign(**{"label:a": [1.0] * 11 + [np.nan], "label:b": [0.0] * 11 + [np.nan]})
    with refused("labels.csv:13: no finding is known, every label is empty"):
        manifest.checked(many, reader="r")


def test_several_faults_are_counted_and_all_faults_are_an_error_even_when_skipping(table: pd.DataFrame) -> None:
    with refused("labels.csv:2: no label (and 11 more images with a fault)"):
        manifest.checked(table.assign(label=None), reader="r")
    with refused("r: all 12 images would be skipped; the first: i0: no label"):
        manifest.checked(table.assign(label=None), reader="r", skip=True)


def test_rows_without_a_place_in_a_file_are_named_by_reader_and_image(table: pd.DataFrame) -> None:
    with refused("r: image i3: no label"):
        manifest.checked(changed(table, 3, "label", None).drop(columns="listed_in"), reader="r")


def test_a_label_outside_the_classes_lists_the_classes(table: pd.DataFrame) -> None:
    text = "labels.csv:3: label 'sick' is not one of the classes well, sickk; did you mean 'sickk'? (6 of 12 images have such"
    with refused(text):
        manifest.classes_of(table, ("well", "sickk"), reader="r")


def test_one_class_only_is_refused(table: pd.DataFrame) -> None:
    with refused("r: all 12 images have the label 'well'; at least two classes are needed"):
        manifest.classes_of(table.assign(label="well"), None, reader="r")


def test_findings_asked_for_must_be_there_and_two(table: pd.DataFrame) -> None:
    many = table.drop(columns="label").assign(**{"label:oedema": 1.0, "label:mass": 0.0})
    assert manifest.classes_of(many, None, reader="r") == ("mass", "oedema")
    with refused("r: no finding 'odema'; did you mean 'oedema'?; found: mass, oedema"):
        manifest.classes_of(many, ("odema", "mass"), reader="r")
    with refused("only one finding, 'mass'"):
        manifest.classes_of(many.drop(columns="label:oedema"), None, reader="r")


def test_a_patient_in_two_splits_is_named_with_both(table: pd.DataFrame) -> None:
    text = "labels.csv:6: patient 'p0' is in split 'val' and, labels.csv:2, in 'train'"
    with refused(text):
        manifest.check_splits(changed(table, 4, "patient", "p0"), ("sick", "well"), reader="r")


def test_an_empty_split_is_refused(table: pd.DataFrame) -> None:
    with refused("r: split 'val' is empty"):
        manifest.check_splits(table[table["split"] != "val"], ("sick", "well"), reader="r")


def test_train_needs_every_class_and_a_test_two(table: pd.DataFrame) -> None:
    with refused("r: split 'train' has no image of class 'third', only of sick, well"):
        manifest.check_splits(table, ("sick", "well", "third"), reader="r")
    with refused("r: split 'test' has no image of class 'sick', only of well"):
        manifest.check_splits(
            table.assign(label=table["label"].where(table["split"] != "test", "well")), ("sick", "well"), reader="r"
        )


def test_train_needs_images_with_and_without_each_finding(table: pd.DataFrame) -> None:
    many = table.drop(columns="label").assign(**{"label:a": [0.0, 1.0] * 6, "label:b": 0.0})
    with refused("r: split 'train' has no image that is known to be with the finding 'b'"):
        manifest.check_splits(many, ("a", "b"), reader="r")
    with refused("known to be without the finding 'b'"):
        manifest.check_splits(many.assign(**{"label:b": 1.0}), ("a", "b"), reader="r")


def people(labels: list[tuple[int, int]]) -> pd.DataFrame:
    """One row an image: (patient, class)."""
    rows = [(f"i{n}", f"p{patient}", f"c{label}") for n, (patient, label) in enumerate(labels)]
    return pd.DataFrame(rows, columns=["image_id", "patient", "label"])


images_of_people = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=120)


@given(images_of_people, st.integers(0, 5), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_no_patient_is_ever_in_two_splits_and_the_rows_order_does_not_matter(
    labels: list[tuple[int, int]], seed: int, val: float, test: float
) -> None:
    table, split = people(labels), Split(val=val, test=test, seed=seed)
    drawn = divide.split_by_patient(table, split)
    assert set(drawn) <= set(manifest.SPLITS)
    assert (drawn.groupby(table["patient"]).nunique() == 1).all()
    shuffled = table.sample(frac=1, random_state=seed)
    again = divide.split_by_patient(shuffled, split)
    pd.testing.assert_series_equal(again.sort_index(), drawn)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(0, 5), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_each_class_with_three_patients_comes_into_every_split(classes: list[int], seed: int, val: float, test: float) -> None:
    table = people(list(enumerate(classes)))
    drawn = divide.split_by_patient(table, Split(val=val, test=test, seed=seed))
    for name, rows in table.groupby("label"):
        expected = {1: {"train"}, 2: {"train", "test"}}.get(len(rows), set(manifest.SPLITS))
        assert set(drawn[rows.index]) == expected, name


def test_shares_of_patients_are_those_asked_for() -> None:
    table = people([(n, n % 2) for n in range(1000)])
    drawn = divide.split_by_patient(table, Split(val=0.15, test=0.2, seed=1))
    assert drawn.groupby(table["label"]).value_counts().unstack().to_numpy().tolist() == [[100, 325, 75]] * 2


def test_another_seed_divides_otherwise() -> None:
    table = people([(n, n % 2) for n in range(100)])
    assert not divide.split_by_patient(table, Split(seed=0)).equals(divide.split_by_patient(table, Split(seed=1)))


def test_findings_are_divided_by_the_rarest_of_a_patient() -> None:
    rows = [(f"i{n}", f"p{n}", 1.0, float(n < 3), 0.0) for n in range(60)]
    table = pd.DataFrame(rows, columns=["image_id", "patient", "label:common", "label:rare", "label:none"])
    assert divide.strata(table).value_counts().to_dict() == {"common": 57, "rare": 3}
    assert set(divide.split_by_patient(table, Split())[:3]) == set(manifest.SPLITS)
    assert set(divide.strata(table.assign(**{"label:common": 0.0, "label:rare": np.nan}))) == {""}


@given(images_of_people, st.integers(2, 60), st.integers(0, 3))
def test_a_limit_keeps_proportions_and_each_class_where_there_is_room(
    labels: list[tuple[int, int]], limit: int, seed: int
) -> None:
    table = people(labels)
    kept = divide.limited(table, limit, seed)
    assert len(kept) == min(limit, len(table))
    counts, all_counts = kept["label"].value_counts(), table["label"].value_counts()
    if len(all_counts) <= limit:
        assert set(counts.index) == set(all_counts.index)
    for name, count in counts.items():
        assert count <= all_counts[name]
        assert abs(count - all_counts[name] * len(kept) / len(table)) < len(all_counts)
    again = divide.limited(table.sample(frac=1, random_state=seed), limit, seed)
    assert set(again["image_id"]) == set(kept["image_id"])


def test_a_file_that_may_not_be_opened_is_a_fault_of_its_image(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = table["image"][3]
    access = os.access
    monkeypatch.setattr(manifest.os, "access", lambda path, mode: path != closed and access(path, mode))
    with refused(f"image file {closed} cannot be read: permission denied"):
        manifest.checked(table, reader="r")
    kept, skipped = manifest.checked(table, reader="r", skip=True)
    assert len(kept) == len(table) - 1
    assert [(file.image, file.reason) for file in skipped] == [("i3", f"image file {closed} cannot be read: permission denied")]


def test_a_file_in_a_folder_that_may_not_be_opened_is_one_too(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = table["image"][0]
    stat = os.stat

    def refuse(path: str, **settings: Any) -> os.stat_result:
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **settings)

    monkeypatch.setattr(manifest.os, "stat", refuse)
    with refused(f"image file {closed} cannot be read: permission denied"):
        manifest.checked(table, reader="r")
