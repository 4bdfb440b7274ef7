"""The run folder: files are whole or not there, half a cell is never done, and nothing is lost on the way through CSV."""

import dataclasses
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_eval import store
from cxr_eval.errors import RunError
from cxr_eval.store import Gallery, Run, Work, content_key, write_arrays, write_csv, write_json, write_parquet, write_whole
from cxr_eval.types import ROW_COLUMNS, Row, RowWarning, SkippedFile


class Crash(Exception):  # noqa: N818  # not an error: the machine goes down
    """The machine goes down."""


def row(**changes):
    values = {
        "model": "resnet18",
        "trainer": "pgd",
        "seed": 0,
        "split": "test",
        "condition": "clean",
        "explainer": "",
        "metric": "accuracy",
        "value": 0.1 + 0.2,
        "low": 1 / 3,
        "high": math.nan,
        "n": 7,
        "unit": "fraction",
        "better": "higher",
        "provenance": "phantom",
    }
    return Row(**(values | changes))


def written(folder, rows=(), **changes):
    content = {
        "manifest": {"name": "demo"},
        "protocol": "name: demo\n",
        "included": {},
        "rows": rows,
        "warnings": [],
        "skipped": [],
        "counts": pd.DataFrame({"dataset": ["phantom"], "split": ["test"], "class": ["covid"], "images": [3], "patients": [2]}),
        "history": pd.DataFrame({"model": ["m"], "epoch": [0.0], "train_loss": [0.1]}),
        "gallery": Gallery([{"image_id": "a", "clean": "k0"}], {"k0": np.arange(6, dtype=np.uint8).reshape(2, 3)}),
    }
    Run(folder).write(**(content | changes))
    return Run.open(folder)


# content keys


def test_a_content_key_is_fixed_for_good():
    assert (
        content_key({"model": "resnet18", "eps": [0.02, 8 / 255], "seed": 0, "weights": None, "flip": True})
        == "ccd262853f73a77f"
    )


text = st.text(st.characters(codec="utf-8"))


@given(
    st.dictionaries(text, st.none() | st.booleans() | st.integers() | text | st.floats(allow_nan=False, allow_infinity=False))
)
@settings(max_examples=60, deadline=None)
def test_a_content_key_does_not_depend_on_the_order_of_names_and_survives_json(content):
    key = content_key(content)
    assert len(key) == 16
    assert set(key) <= set("0123456789abcdef")
    assert content_key(dict(reversed(content.items()))) == key
    assert content_key(json.loads(json.dumps(content))) == key


def test_different_content_has_different_keys():
    contents = [
        {},
        [],
        None,
        0,
        0.5,
        "",
        "0",
        False,
        [0],
        [[0]],
        {"a": 0},
        {"a": "0"},
        {"b": 0},
        {"a": None},
        ["a", 0],
        "a0",
        1,
    ]
    assert len({content_key(content) for content in contents}) == len(contents)
    assert content_key((1, 2)) == content_key([1, 2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_has_no_key(bad):
    with pytest.raises(ValueError, match="Out of range float values"):
        content_key({"eps": [0.1, bad]})


@pytest.mark.parametrize("bad", [{1, 2}, Path("a"), np.float32(1), b"a", object()])
def test_what_is_not_plain_data_has_no_key(bad):
    with pytest.raises(TypeError, match="not JSON serializable"):
        content_key({"a": bad})


# whole files

WRITERS = [
    lambda path: write_whole(path, b"new"),
    lambda path: write_json(path, {"a": [1, "ü"]}),
    lambda path: write_csv(path, pd.DataFrame({"a": [1.5]})),
    lambda path: write_parquet(path, pd.DataFrame({"a": [1.5]})),
    lambda path: write_arrays(path, {"a": np.zeros(3)}),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("where", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_crash_while_writing_leaves_the_file_as_it_was(tmp_path, monkeypatch, write, where, before):
    path = tmp_path / "file.bin"
    if before is not None:
        path.write_bytes(before)

    def crash(*_):
        raise Crash

    monkeypatch.setattr(os, where, crash)
    with pytest.raises(Crash):
        write(path)
    monkeypatch.undo()
    assert (path.read_bytes() if path.exists() else None) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if before is None else ["file.bin"])
    write(path)
    assert path.read_bytes() not in (b"", before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": {1}})
    assert not list(tmp_path.iterdir())


def test_files_are_made_with_their_folders(tmp_path):
    for k, write in enumerate(WRITERS):
        write(tmp_path / str(k) / "deep" / "file.bin")
        assert (tmp_path / str(k) / "deep" / "file.bin").is_file()


def test_arrays_of_any_name_come_back(tmp_path):
    arrays = {"a b/ü": np.zeros((2, 3), dtype=np.float16), "../x": np.array([True]), "0": np.empty((0, 2))}
    write_arrays(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert set(found.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


# cells


def begun(folder, content=b"weights"):
    work = Work(folder)
    write_whole(work.begin() / "weights.bin", content)
    return work


def test_a_cell_is_done_when_it_says_so(tmp_path):
    work = begun(tmp_path / "cell")
    assert not work.done
    work.finish(seconds=1.5, what="x")
    assert work.done
    about = work.about()
    assert (about["seconds"], about["what"]) == (1.5, "x")
    assert about["files"]["weights.bin"]["bytes"] == 7
    assert about["files"]["weights.bin"]["sha256"] == store.file_hash(tmp_path / "cell" / "weights.bin")


def test_work_that_was_not_begun_is_not_done(tmp_path):
    assert not Work(tmp_path / "nothing").done


def test_a_cell_that_is_begun_again_is_not_done_but_keeps_its_checkpoint(tmp_path):
    work = begun(tmp_path / "cell")
    work.finish()
    (work.begin() / "checkpoint.pt").write_bytes(b"epoch 3")
    assert not work.done
    assert (work.begin() / "checkpoint.pt").read_bytes() == b"epoch 3"


@pytest.mark.parametrize("damage", ["cut", "gone", "mark cut", "mark empty"])
def test_a_cell_whose_files_are_not_whole_is_not_done(tmp_path, damage):
    work = begun(tmp_path / "cell")
    work.finish()
    mark = work.folder / store.DONE
    if damage == "cut":
        (work.folder / "weights.bin").write_bytes(b"wei")
    elif damage == "gone":
        (work.folder / "weights.bin").unlink()
    elif damage == "mark cut":
        mark.write_bytes(mark.read_bytes()[:10])
    else:
        mark.write_bytes(b"")
    assert not work.done


def test_a_crash_at_the_mark_leaves_the_cell_undone(tmp_path, monkeypatch):
    work = begun(tmp_path / "cell")

    def crash(*_):
        raise Crash

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(Crash):
        work.finish()
    monkeypatch.undo()
    assert not work.done
    work.finish()
    assert set(work.about()["files"]) == {"weights.bin"}


def test_evaluations_inside_a_cell_and_hidden_leftovers_are_not_its_files(tmp_path):
    work = begun(tmp_path / "cell")
    begun(tmp_path / "cell" / "0123").finish()
    (tmp_path / "cell" / ".weights.bin.x7").write_bytes(b"left over")
    work.finish()
    assert set(work.about()["files"]) == {"weights.bin"}


# work of other runs


def run_with_cell(folder, key="cell", content=b"weights"):
    run = Run(folder)
    work = run.cell(key)
    write_whole(work.begin() / "weights.bin", content)
    work.finish(seconds=1)
    return run


def test_finished_work_of_a_neighbour_is_found_and_taken_over(tmp_path):
    other = run_with_cell(tmp_path / "first")
    run = Run(tmp_path / "second")
    (found, *_) = run.neighbours("cell")
    run.cell("cell").adopt(found)
    assert run.cell("cell").done
    assert run.cell("cell").about() == other.cell("cell").about()
    assert sorted(path.name for path in (tmp_path / "second" / "cells").iterdir()) == ["cell"]
    assert not list(run.neighbours("cell", "evaluation"))


def test_what_is_not_finished_or_ones_own_is_no_neighbours_work(tmp_path):
    run = run_with_cell(tmp_path / "first")
    begun(tmp_path / "second" / "cells" / "cell")
    (tmp_path / "third").mkdir()
    assert not list(run.neighbours("cell"))


def test_taken_over_work_stays_whole_when_either_run_writes_again(tmp_path):
    other = run_with_cell(tmp_path / "first")
    run = Run(tmp_path / "second")
    run.cell("cell").adopt(other.cell("cell"))
    write_whole(run.cell("cell").begin() / "weights.bin", b"others!")
    assert (other.cell("cell").folder / "weights.bin").read_bytes() == b"weights"
    assert other.cell("cell").done


def test_work_is_copied_where_there_are_no_hard_links(tmp_path, monkeypatch):
    other = run_with_cell(tmp_path / "first")

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    run = Run(tmp_path / "second")
    run.cell("cell").adopt(other.cell("cell"))
    assert run.cell("cell").done
    (run.cell("cell").folder / "weights.bin").write_bytes(b"changed")
    assert (other.cell("cell").folder / "weights.bin").read_bytes() == b"weights"


def test_taking_over_replaces_an_unfinished_attempt_and_spares_its_evaluations(tmp_path):
    other = run_with_cell(tmp_path / "first")
    run = Run(tmp_path / "second")
    begun(tmp_path / "second" / "cells" / "cell", b"weiXXXX")  # of the same size
    begun(tmp_path / "second" / "cells" / "cell" / "evaluation").finish()
    run.cell("cell").adopt(other.cell("cell"))
    assert run.cell("cell").done
    assert (run.cell("cell").folder / "weights.bin").read_bytes() == b"weights"
    assert run.evaluation("cell", "evaluation").done


@pytest.mark.parametrize("attempt", [False, True])
def test_a_crash_while_taking_over_never_looks_done(tmp_path, monkeypatch, attempt):
    other = run_with_cell(tmp_path / "first")
    write_whole(other.cell("cell").begin() / "zzz.bin", b"last by name")
    other.cell("cell").finish()
    real = Path.replace
    for survived in itertools.count():
        run = Run(tmp_path / f"second{survived}")
        if attempt:
            begun(run.cell("cell").folder, b"weiXXXX")
            write_whole(run.cell("cell").folder / "zzz.bin", b"LAST BY NAME")
        moved = itertools.count()

        def replace(self, target, moved=moved, survived=survived):
            if next(moved) == survived:
                raise Crash
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        try:
            run.cell("cell").adopt(other.cell("cell"))
        except Crash:
            monkeypatch.undo()
            assert not run.cell("cell").done
            run.cell("cell").adopt(other.cell("cell"))
            assert run.cell("cell").done
            assert (run.cell("cell").folder / "weights.bin").read_bytes() == b"weights"
        else:
            assert survived == (3 if attempt else 1)
            break


# runs


def test_a_run_comes_back_as_it_was_written(tmp_path):
    warnings = [RowWarning("one_seed", "warn", "run", "Only one seed; differences between trainers may be chance.")]
    skipped = [SkippedFile("phantom", "0007", "cut off, 3 of 9 bytes")]
    run = written(tmp_path / "run", rows=[row(), row(condition="pgd:8/255")], warnings=warnings, skipped=skipped)
    manifest = run.manifest()
    assert set(manifest.pop("files")) == {*store.FILES, store.TABLES}
    assert manifest == {"schema": store.SCHEMA, "name": "demo"}
    assert (run.folder / "protocol.yaml").read_text() == "name: demo\n"
    assert run.warnings() == warnings
    assert run.table("skipped").to_dict("records") == [dataclasses.asdict(entry) for entry in skipped]
    assert run.table("counts")["images"].tolist() == [3]
    assert run.table("history")["train_loss"].tolist() == [0.1]
    assert list(run.rows().columns) == list(ROW_COLUMNS)
    assert run.rows()["condition"].tolist() == ["clean", "pgd:8/255"]
    gallery = run.gallery()
    assert gallery.entries == [{"image_id": "a", "clean": "k0"}]
    np.testing.assert_array_equal(gallery.arrays["k0"], np.arange(6).reshape(2, 3))
    gallery.arrays.close()


def test_a_run_without_rows_has_an_empty_table_with_all_columns(tmp_path):
    rows = written(tmp_path / "run").rows()
    assert rows.empty
    assert list(rows.columns) == list(ROW_COLUMNS)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_digit_of_a_row_survives(tmp_path, found):
    table = pd.DataFrame([dataclasses.asdict(row(value=a, low=b, high=c)) for a, b, c in found], columns=list(ROW_COLUMNS))
    write_csv(tmp_path / "rows.csv", table)
    again = Run(tmp_path).rows()
    for name, column in zip(("value", "low", "high"), zip(*found, strict=True), strict=True):
        np.testing.assert_array_equal(again[name].to_numpy(dtype=float), np.array(column))


HOSTILE = [
    "NA",
    "nan",
    "None",
    "",
    "007",
    "1e5",
    "True",
    " padded ",
    'quo"te, comma',
    "new\nline",
    "carriage\rreturn",
    "both\r\n",
    "ünïcode 胸部 🫁",
    "=1+1",
    "#comment",
    "'",
    "\\",
    "\t",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_back_as_text(tmp_path, name):
    text = dict.fromkeys(
        ("model", "trainer", "split", "condition", "explainer", "metric", "unit", "better", "provenance"), name
    )
    counts = pd.DataFrame({"dataset": [name], "split": [name], "class": [name], "images": [3], "patients": [2]})
    skipped = [SkippedFile(name, name, name)]
    warnings = [RowWarning(name, "note", name, name)]
    run = written(
        tmp_path / "run",
        rows=[row(**text)],
        counts=counts,
        skipped=skipped,
        warnings=warnings,
        history=pd.DataFrame({"model": [name], "trainer": [name], "seed": [0], "epoch": [1.0]}),
        gallery=Gallery([{"image_id": name}], {name or "empty": np.zeros(1)}),
    )
    assert run.rows()[list(text)].iloc[0].to_dict() == text
    assert run.warnings() == warnings
    assert run.gallery().entries == [{"image_id": name}]
    if name:  # an empty field of these tables is a missing one
        assert run.table("counts").iloc[0].to_dict() == {
            "dataset": name,
            "split": name,
            "class": name,
            "images": 3,
            "patients": 2,
        }
        assert run.table("skipped").iloc[0].tolist() == [name] * 3
        assert run.table("history")["model"].tolist() == [name]


def test_a_folder_that_is_not_there_is_no_run(tmp_path):
    with pytest.raises(RunError) as caught:
        Run.open(tmp_path / "nothing")
    assert str(caught.value) == f"{tmp_path / 'nothing'}: no such folder; expected a run folder"


def test_a_folder_without_a_manifest_is_no_run(tmp_path):
    with pytest.raises(RunError) as caught:
        Run.open(tmp_path)
    expected = f"{tmp_path}: no manifest.json; expected a run folder, or the run has not finished (run it again)"
    assert str(caught.value) == expected


@pytest.mark.parametrize("schema", [0, 2, None, "1"])
def test_a_run_of_another_layout_is_refused(tmp_path, schema):
    write_json(tmp_path / "manifest.json", {"schema": schema})
    with pytest.raises(RunError) as caught:
        Run.open(tmp_path)
    assert (
        str(caught.value) == f"{tmp_path}: run folder of layout {schema}, this version reads 1; use the version that wrote it"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe"])
def test_a_manifest_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError) as caught:
        Run.open(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'manifest.json'}: not a run's manifest; run it again"


def test_a_crash_while_a_run_is_written_leaves_no_run(tmp_path, monkeypatch):
    written(tmp_path / "run", rows=[row(value=0.25)])
    real = os.replace
    for survived in itertools.count():
        moved = itertools.count()

        def replace(source, target, moved=moved, survived=survived):
            if next(moved) == survived:
                raise Crash
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            run = written(tmp_path / "run", rows=[row(value=0.75)])
        except Crash:
            monkeypatch.undo()
            with pytest.raises(RunError, match="has not finished"):
                Run.open(tmp_path / "run")
        else:
            break
    assert survived == 10  # nine files and the manifest
    assert run.rows()["value"].tolist() == [0.75]


@pytest.mark.parametrize("name", store.FILES)
def test_a_run_whose_files_were_changed_or_cut_is_refused(tmp_path, name):
    run = written(tmp_path / "run", rows=[row()])
    Run.open(run.folder)
    (run.folder / name).write_bytes((run.folder / name).read_bytes()[:-1])
    with pytest.raises(RunError, match=f"{name}: missing, or changed since the run wrote it"):
        Run.open(run.folder)


def test_two_runs_do_not_work_in_one_folder(tmp_path):
    first, second = Run(tmp_path / "run"), Run(tmp_path / "run")
    with first.at_work(), pytest.raises(RunError, match="another run is at work in this folder"), second.at_work():
        pass
    with second.at_work():
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(RunError, match=r"cannot be written \(Not a directory\); choose another folder"),
        Run(tmp_path / "file" / "run").at_work(),
    ):
        pass


# the audit


def audit_of(value):
    return store.Audit(
        {"suspects": [{"image_id": "äöü"}], "tables": {"sets": []}}, {"p0": np.full((2, 3), value, dtype=np.uint8)}
    )


def test_an_audit_comes_back_as_it_was_written(tmp_path):
    found = written(tmp_path / "run", audit=audit_of(7)).audit()
    assert found.content == audit_of(7).content
    assert np.array_equal(found.arrays["p0"], np.full((2, 3), 7))


def test_a_run_without_an_audit_has_none_and_an_earlier_one_goes(tmp_path):
    assert written(tmp_path / "run").audit() is None
    written(tmp_path / "run", audit=audit_of(1))
    assert written(tmp_path / "run").audit() is None
    assert not (tmp_path / "run" / "audit.npz").exists()


def test_an_audit_that_was_changed_after_the_run_is_refused(tmp_path):
    run = written(tmp_path / "run", audit=audit_of(1))
    (run.folder / "audit.json").write_text("{}")
    with pytest.raises(RunError, match=r"audit\.json: missing, or changed since the run wrote it"):
        Run.open(run.folder)


def test_half_an_audit_is_none(tmp_path):
    store.write_audit(tmp_path, audit_of(1))
    (tmp_path / "audit.npz").unlink()
    assert store.read_audit(tmp_path) is None
