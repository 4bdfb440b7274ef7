"""Sources of a protocol: renamed classes, fewer images, outside sets of several readers, images left out by reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from PIL import Image

from cxr_eval import registry
from cxr_eval.data.datasets import Datasets, load
from cxr_eval.data.readers.table import Table
from cxr_eval.errors import DataError
from cxr_eval.protocol import Data

SIZE = 16


def folder(
    root: Path, *, labels: tuple[str, ...] = ("sick", "well"), patients: int = 30, columns: Any = None
) -> dict[str, Any]:
    """A table source of drawn noise, one image a patient, classes in turn."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(len(root.name))
    names = [f"{number}.png" for number in range(patients)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE)).astype(np.uint8)).save(root / name)
    rows = {"image": names, "patient": range(patients)}
    rows |= columns or {"label": [labels[number % len(labels)] for number in range(patients)]}
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return {"reader": "table", "root": str(root)}


def loaded(tmp_path: Path, train: dict[str, Any], **data: Any) -> Datasets:
    return load(Data.model_validate({"train": train, "size": SIZE} | data), cache=tmp_path / "cache")


def test_classes_are_renamed_and_several_may_become_one(tmp_path):
    source = folder(tmp_path / "a", labels=("sick", "ill", "well"))
    found = loaded(tmp_path, source | {"rename": {"sick": "positive", "ill": "positive", "well": "negative"}})
    assert found.classes == ("negative", "positive")
    assert sum(int((images.y == 1).sum()) for images in found.splits.values()) == 20


def test_findings_are_renamed_with_their_regions(tmp_path, monkeypatch):
    class Boxed(Table):
        def read(self, cache: Path) -> pd.DataFrame:
            boxes = pd.Series([((1, 1, 4, 4),)] * 30, dtype=object)
            return super().read(cache).drop(columns="label").assign(**FINDINGS, **{"boxes:mass": boxes})

    FINDINGS = {"label:mass": [0.0, 1.0] * 15, "label:node": [1.0, 0.0, 0.0] * 10}
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Boxed if name == "table" else find(kind, name))
    source = folder(tmp_path / "a")
    found = loaded(tmp_path, source | {"rename": {"mass": "Mass"}})
    assert found.classes == ("Mass", "node")
    assert set(found.splits["test"].regions) == {"Mass", "box"}
    with pytest.raises(DataError, match="rename: two findings, or their regions, would be called 'node'; keep them apart"):
        loaded(tmp_path, source | {"rename": {"mass": "node"}})


def test_a_name_that_no_class_has_cannot_be_renamed(tmp_path):
    source = folder(tmp_path / "a") | {"rename": {"sik": "positive"}}
    with pytest.raises(DataError, match=r"^table: rename: no class or finding is called 'sik'; did you mean 'sick'\?$"):
        loaded(tmp_path, source)


def test_a_source_gives_no_more_images_than_asked_for_classes_in_their_proportions(tmp_path):
    source = folder(tmp_path / "a", labels=("sick", "sick", "well"))
    found = loaded(tmp_path, source | {"images": 21})
    assert sum(map(len, found.splits.values())) == 21
    assert sum(int((images.y == 1).sum()) for images in found.splits.values()) == 7  # well


def test_an_outside_set_may_come_from_several_readers(tmp_path, monkeypatch):
    home, a = folder(tmp_path / "h"), folder(tmp_path / "a", labels=("sick",))
    b = folder(tmp_path / "b", labels=("fine",)) | {"reader": "other", "images": 10, "rename": {"fine": "well"}}
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Table if name == "other" else find(kind, name))
    monkeypatch.setattr(registry, "origin", lambda kind, name: "pkg 1.0")
    found = loaded(tmp_path, home, outside={"away": [a | {"prefix": "a-"}, b]})
    away = found.splits["away"]
    assert len(away) == 40
    assert (away.y == found.classes.index("sick")).sum() == 30
    assert away.table["patient"].str.split("/").str[0].value_counts().to_dict() == {"table": 30, "other": 10}  # 7 is not 7
    counts = found.counts[found.counts["split"] == "away"]
    assert set(counts["dataset"]) == {"table and other"}
    assert dict(zip(counts["class"], counts["images"], strict=True)) == {"sick": 30, "well": 10}
    assert [(info.dataset, info.name) for info in found.readers] == [("train", "table"), ("away", "table"), ("away", "other")]


def test_two_folders_of_one_reader_have_different_patients_and_pictures(tmp_path):
    home, a, b = folder(tmp_path / "h"), folder(tmp_path / "a", labels=("sick",)), folder(tmp_path / "bb", labels=("well",))
    found = loaded(tmp_path, home | {"prefix": "h-"}, outside={"away": [a, b]})
    away = found.splits["away"]
    assert len(away) == 60
    assert away.table["patient"].nunique() == 60  # patient 7 of one folder is not patient 7 of the other
    assert set(away.table["patient"].str.split("/").str[0]) == {"table", "table 2"}


def test_where_a_picture_comes_from_is_its_site_and_a_doubt_if_it_tells_the_label(tmp_path):
    home, a, b = folder(tmp_path / "h"), folder(tmp_path / "a", labels=("sick",)), folder(tmp_path / "bb", labels=("well",))
    found = loaded(tmp_path, home | {"prefix": "h-"}, outside={"away": [a, b]})
    assert found.splits["away"].table["site"].value_counts().to_dict() == {"table": 30, "table 2": 30}
    doubt = next(warning for warning in found.warnings if warning.code == "source_is_label")
    assert doubt.scope == "away"
    assert "100% of the images in 'away' of 'sick' come from 'table' but 0% of the others" in doubt.message
    assert "how well places are told apart" in doubt.message


def test_labels_that_are_numbers_are_renamed_too(tmp_path, monkeypatch):
    class Numbers(Table):
        def read(self, cache: Path) -> pd.DataFrame:
            table = super().read(cache)
            return table.assign(label=[number % 2 for number in range(len(table))])

    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Numbers if name == "table" else find(kind, name))
    found = loaded(tmp_path, folder(tmp_path / "a") | {"rename": {"0": "well", "1": "sick"}})
    assert found.classes == ("sick", "well")


def test_images_that_cannot_be_used_are_a_finding(tmp_path):
    source = folder(tmp_path / "a")
    (tmp_path / "a" / "3.png").write_bytes(b"no picture")
    found = loaded(tmp_path, source, on_error="skip")
    warning = next(each for each in found.warnings if each.code == "bad_files")
    assert warning.message.startswith("1 images cannot be used and were left out; the first: 3.png: ")


def test_an_outside_set_needs_a_source():
    with pytest.raises(pydantic.ValidationError, match="at least 1"):
        Data.model_validate({"train": {"reader": "table"}, "outside": {"a": []}})


def test_findings_that_the_audit_does_not_know_are_refused_when_the_protocol_is_read():
    with pytest.raises(pydantic.ValidationError, match="no finding is called 'near_duplicate'; did you mean 'near_duplicates'"):
        Data.model_validate({"train": {"reader": "table"}, "audit": {"errors": ["near_duplicate"]}})


def test_two_sources_of_one_set_cannot_give_the_same_image(tmp_path):
    home, a = folder(tmp_path / "h"), folder(tmp_path / "a") | {"prefix": "a-"}
    with pytest.raises(
        DataError, match=r"data\.outside\.away: two of its sources give the image table/0\.png; an image is tested once"
    ):
        loaded(tmp_path, home, outside={"away": [a, a]})


def test_two_sources_of_one_set_must_agree_on_the_task(tmp_path):
    home, a = folder(tmp_path / "h"), folder(tmp_path / "a") | {"prefix": "a-"}
    b = folder(tmp_path / "b", columns={"sick": [0, 1] * 15}) | {"labels": ["sick"], "prefix": "b-"}
    with pytest.raises(
        DataError, match=r"data\.outside\.away: one of its sources gives classes, another findings; they must agree"
    ):
        loaded(tmp_path, home, outside={"away": [a, b]})


class Choosy(Table):
    """A reader that leaves every third image out."""

    def read(self, cache: Path) -> pd.DataFrame:
        table = super().read(cache)
        reason = [("view is lateral" if number % 3 == 0 else None) for number in range(len(table))]
        return table.assign(
            left_out=pd.Series(reason, dtype=object), image=table["image"].where(pd.Series(reason).isna(), "gone.png")
        )


def test_images_that_a_reader_leaves_out_are_counted_by_reason_and_need_no_file(tmp_path, monkeypatch):
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Choosy if name == "table" else find(kind, name))
    found = loaded(tmp_path, folder(tmp_path / "a"))
    assert [(left.dataset, left.reader, left.reason, left.images) for left in found.left_out] == [
        ("train", "table", "view is lateral", 10)
    ]
    assert sum(map(len, found.splits.values())) == 20


def test_a_reader_that_leaves_everything_out_is_an_error_that_says_why(tmp_path, monkeypatch):
    class Nothing(Table):
        def read(self, cache: Path) -> pd.DataFrame:
            return super().read(cache).assign(left_out="modality is CT")

    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Nothing if name == "table" else find(kind, name))
    with pytest.raises(DataError, match="table: all 30 images are left out, 30 because modality is CT; change the settings"):
        loaded(tmp_path, folder(tmp_path / "a"))


def test_a_patient_of_another_reader_may_have_the_same_number(tmp_path, monkeypatch):
    """Number 17 of one dataset is not number 17 of another; of the same reader it is the same person."""
    home, away = folder(tmp_path / "h"), folder(tmp_path / "a")
    with pytest.raises(DataError, match=r"patient '.*' of the outside set 'away' is also in split"):
        loaded(tmp_path, home, outside={"away": away})
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Table if name == "other" else find(kind, name))
    monkeypatch.setattr(registry, "origin", lambda kind, name: "pkg 1.0")
    assert len(loaded(tmp_path, home, outside={"away": away | {"reader": "other"}}).splits["away"]) == 30
