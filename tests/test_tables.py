"""The record of the tables that a cell's numbers come from: written, read back, and read under other names."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from cxr_eval.errors import RunError
from cxr_eval.tables import CellTables, Part, relabelled

OUTCOMES = pd.DataFrame(
    {
        "image_id": ["a", "b", "c"],
        "attack": "old",
        "by": ["old first", "", "other"],
        "stages": "first|second",
        "robust": [False, True, False],
    }
)
VALUES = pd.DataFrame({"image_id": ["a", "b"], "metric": ["mass[lung]", "mass"], "value": [0.1, 0.2]})


def stored(folder: Path, name: str, table: pd.DataFrame) -> str:
    (folder / name).mkdir()
    table.to_parquet(folder / name / "t.parquet", index=False)
    return name


def test_an_attack_is_read_under_its_present_label_and_so_is_what_broke_each_image(tmp_path: Path) -> None:
    part = Part(stored(tmp_path, "e", OUTCOMES), "t.parquet", "new")
    table = CellTables(tmp_path).add("attack", [part], split="test", condition="new")
    assert table["attack"].tolist() == ["new"] * 3
    assert table["by"].tolist() == ["new first", "", "other"]
    assert relabelled(OUTCOMES, "old") is OUTCOMES


def test_metrics_are_read_under_their_labels_one_below_the_other_with_the_explainer(tmp_path: Path) -> None:
    stored(tmp_path, "e", VALUES)
    parts = [Part("e", "t.parquet", "first"), Part("e", "t.parquet", "second")]
    tables = CellTables(tmp_path)
    table = tables.add("explanations", parts, split="test", condition="clean", explainer="cam")
    assert table["metric"].tolist() == ["first[lung]", "first", "second[lung]", "second"]
    assert set(table["explainer"]) == {"cam"}
    assert tables.labels("explanations", "test") == ["first", "second"]
    assert list(tables.files) == [tmp_path / "e" / "t.parquet"]


def test_the_record_read_back_gives_the_same_tables_in_the_same_order(tmp_path: Path) -> None:
    stored(tmp_path, "e", VALUES)
    tables = CellTables(tmp_path)
    for condition in ("blur:3", "blur:1"):
        tables.add("corrupted", [Part("e", "t.parquet")], split="test", condition=condition)
    tables.add("clean", [Part("e", "t.parquet")], split="test")
    again = CellTables.stored(tmp_path, json.loads(json.dumps(tables.record)))
    assert again.record == tables.record
    assert again.conditions("corrupted", "test") == ["blur:3", "blur:1"]
    assert (again.has("clean", split="test"), again.has("clean", split="val")) == (True, False)
    pd.testing.assert_frame_equal(again.read("clean", split="test"), VALUES)


def test_other_names_hold_for_splits_attacks_and_conditions_and_what_has_none_is_left_out(tmp_path: Path) -> None:
    stored(tmp_path, "e", OUTCOMES), stored(tmp_path, "v", VALUES)
    tables = CellTables(tmp_path)
    for label in ("old", "own"):
        tables.add("attack", [Part("e", "t.parquet", label)], split="test", condition=label)
        tables.add("explanations", [Part("v", "t.parquet", "m")], split="test", condition=f"{label}:0.02", explainer="cam")
    tables.add("explanations", [Part("v", "t.parquet", "m")], split="test", condition="clean", explainer="cam")
    renamed = tables.renamed({"test": "test of B"}, {"old": "old of B"}, {"cam", "m"})
    other = tables.renamed({}, {}, {"cam"})
    assert other.conditions("explanations", "test") == []  # another metric of that name
    assert renamed.conditions("attack", "test of B") == ["old of B"]
    assert renamed.conditions("explanations", "test of B") == ["old of B:0.02", "clean"]
    assert renamed.conditions("attack", "test") == []
    assert set(renamed.read("attack", split="test of B", condition="old of B")["attack"]) == {"old of B"}


def test_a_record_that_is_none_or_names_what_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="list of its tables cannot be read"):
        CellTables.stored(tmp_path, [{"kind": "clean"}])
    entry = {"kind": "dirty", "split": "test", "condition": "", "explainer": "", "parts": []}
    with pytest.raises(RunError, match="lists tables of 'dirty', which this version does not know"):
        CellTables.stored(tmp_path, [entry])
    tables = CellTables.stored(tmp_path, [entry | {"kind": "clean", "parts": [{"evaluation": "e", "file": "t.parquet"}]}])
    with pytest.raises(RunError, match=r"t\.parquet: missing; run the protocol again to restore it"):
        tables.read("clean", split="test")
    stored(tmp_path, "e", VALUES)
    (tmp_path / "e" / "t.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(RunError, match="cannot be read"):
        tables.read("clean", split="test")
