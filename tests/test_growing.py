"""Preparations that are killed, resumed, harmed, or run by two processes at once."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_eval.data import growing, prepared
from cxr_eval.data.growing import Rows, held, widened
from cxr_eval.data.prepared import Prepared, prepare
from cxr_eval.errors import DataError

RNG = np.random.default_rng(0)
COUNT = 12


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Grey pictures, a 16-bit one at 4, a coloured one at 7, a damaged one at 9, some with masks and boxes."""
    rows = []
    for number in range(COUNT):
        array = RNG.integers(0, 256, (20, 30)).astype(np.uint8)
        if number == 4:
            array = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
        if number == 7:
            array = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(array).save(path)
        if number == 9:
            path.write_text("no picture")
        mask = tmp_path / f"m{number}.png"
        Image.fromarray(RNG.integers(0, 2, (20, 30)).astype(np.uint8) * 255).save(mask)
        boxes = ((number, 2, 5, 6),) if number % 4 == 0 else None
        rows.append((str(path), f"{number}.png", str(mask) if number % 3 == 0 else None, boxes))
    return pd.DataFrame(rows, columns=["image", "image_id", "mask:lung", "boxes:Mass"], dtype=object)


def prepared_in(cache: Path, table: pd.DataFrame, **other: Any) -> Prepared:
    options = {"size": 19, "channels": 3, "resize": "squash", "colour": True, "cache": cache, "reader": "r", "skip": True}
    return prepare(table, **options | other)


def files(cache: Path) -> dict[str, bytes]:
    """What a finished preparation left on the disk."""
    (folder,) = (cache / "prepared").iterdir()
    assert not folder.name.startswith(".")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a preparation that nothing interrupted, two images a block."""
    monkeypatch.setattr(prepared, "_BLOCK", 2)
    prepared_in(tmp_path / "whole", table)
    found = files(tmp_path / "whole")
    assert sorted(found) == ["journal.jsonl", "mask-0.npy", "mask-1.npy", "mask-2.npy", "pixels-3x16.npy"]
    return found


def test_an_interruption_at_any_image_costs_at_most_one_block(
    table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    for last in range(1, COUNT + 1):
        cache = tmp_path / f"cache{last}"

        def interrupt(done: int, _: int, last: int = last) -> None:
            if done == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepared_in(cache, table, progress=interrupt)
        seen: list[int] = []
        prepared_in(cache, table, progress=lambda done, _, seen=seen: seen.append(done))
        assert seen == list(range((last - 1) // 2 * 2 + 1, COUNT + 1))
        assert files(cache) == whole


def test_an_interruption_between_any_two_writes_loses_nothing(
    table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync
    for last in itertools.count(1):
        cache, calls = tmp_path / f"cache{last}", itertools.count(1)

        def interrupt(file: int, last: int = last, calls: Any = calls) -> None:
            if next(calls) == last:
                raise KeyboardInterrupt
            flush(file)

        monkeypatch.setattr(growing.os, "fsync", interrupt)
        try:
            prepared_in(cache, table)
        except KeyboardInterrupt:
            monkeypatch.setattr(growing.os, "fsync", flush)
            prepared_in(cache, table)
            assert files(cache) == whole
        else:
            break
    assert last > 3 * COUNT // 2  # pixels, masks and journal of each block


def test_a_line_that_a_kill_cut_is_not_believed(table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    for harm in (lambda text: text[:-1], lambda text: text[:-20], lambda text: text + b'{"done": 3', lambda _: b"x\n"):
        cache = tmp_path / "cache"
        with pytest.raises(KeyboardInterrupt):
            prepared_in(cache, table, progress=interrupt)
        (journal,) = (cache / "prepared").glob(".*/journal.jsonl")
        journal.write_bytes(harm(journal.read_bytes()))
        prepared_in(cache, table)
        assert files(cache) == whole
        shutil.rmtree(cache)


def test_files_that_are_shorter_than_the_journal_says_are_made_anew(
    table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    for name in ("pixels-1x16.npy", "mask-0.npy", "mask-1.npy"):
        cache = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            prepared_in(cache, table, progress=interrupt)
        (file,) = (cache / "prepared").glob(f".*/{name}")
        file.write_bytes(file.read_bytes()[:-1])
        seen: list[int] = []
        prepared_in(cache, table, progress=lambda done, _, seen=seen: seen.append(done))
        assert seen[0] == 1
        assert files(cache) == whole


def test_what_was_begun_with_skip_is_no_way_round_stop(table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == COUNT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared_in(tmp_path / "cache", table, progress=interrupt)
    with pytest.raises(DataError, match=r"r: image 9.png: image .*9.png: cannot identify image file"):
        prepared_in(tmp_path / "cache", table, skip=False)


def test_a_changed_file_is_not_taken_from_an_unfinished_preparation(table: pd.DataFrame, tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == COUNT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared_in(tmp_path / "cache", table, progress=interrupt)
    Image.fromarray(np.full((19, 19), 77, dtype=np.uint8)).save(table["image"][0])
    table.loc[0, "mask:lung"] = None
    done = prepared_in(tmp_path / "cache", table)
    assert (done.pixels[0] == 77 * 257).all()


ELSEWHERE = """
import os, signal, sys, time
from pathlib import Path
import pandas as pd
from cxr_eval.data import prepared
prepared._BLOCK = 2
table, cache, mode, at = pd.read_pickle(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
def progress(done, total):
    print(done, flush=True)
    if done == at and mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if done == at and mode == "wait":
        sys.stdin.readline()
print("ready", flush=True)
options = dict(size=19, channels=3, resize="squash", colour=True, reader="r", skip=True)
prepared.prepare(table, cache=cache, progress=progress, **options)
"""


def elsewhere(table: pd.DataFrame, cache: Path, mode: str, at: int) -> subprocess.Popen[str]:
    table.to_pickle(cache.with_suffix(".pkl"))
    command = [sys.executable, "-c", ELSEWHERE, str(cache.with_suffix(".pkl")), str(cache), mode, str(at)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_process_is_followed_by_one_that_goes_on(table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]) -> None:
    for at in (6, 8):
        with elsewhere(table, tmp_path / "cache", "die", at) as process:
            printed, _ = process.communicate(timeout=120)
        assert process.returncode == -9
        assert int(printed.split()[-1]) == at
    assert int(printed.split()[1]) == 5  # where the first was killed, less its unfinished block
    prepared_in(tmp_path / "cache", table)
    assert files(tmp_path / "cache") == whole


@pytest.mark.slow
def test_of_two_processes_one_waits_and_uses_what_the_other_made(
    table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    cache = tmp_path / "cache"
    with elsewhere(table, cache, "wait", 3) as first:
        assert [first.stdout.readline() for _ in range(4)] == ["ready\n", "1\n", "2\n", "3\n"]
        with elsewhere(table, cache, "go", 0) as second:
            assert second.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=1)
            first.communicate("go on\n", timeout=120)
            printed, _ = second.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0)
    assert printed.split() == [str(COUNT)]  # nothing was left to decode
    assert files(cache) == whole


@pytest.mark.slow
def test_a_process_that_waits_takes_over_from_one_that_dies(
    table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    cache = tmp_path / "cache"
    with elsewhere(table, cache, "wait", 5) as first:
        assert [first.stdout.readline() for _ in range(6)][-1] == "5\n"
        with elsewhere(table, cache, "go", 0) as second:
            assert second.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=1)
            first.kill()
            printed, _ = second.communicate(timeout=120)
    assert printed.split() == [str(number) for number in range(5, COUNT + 1)]
    assert files(cache) == whole


@pytest.mark.slow
def test_processes_that_start_at_once_give_the_bytes_of_one(
    table: pd.DataFrame, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    cache = tmp_path / "cache"
    running = [elsewhere(table, cache, "go", 0) for _ in range(3)]
    for process in running:
        process.communicate(timeout=120)
    assert [process.returncode for process in running] == [0, 0, 0]
    assert files(cache) == whole


# parts


def test_a_folder_that_is_done_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    with held(tmp_path / ".work", tmp_path / "done") as mine:
        assert not mine
    assert not (tmp_path / ".work").exists()


def test_who_waited_for_a_folder_that_was_given_up_holds_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, lock = tmp_path / ".work", growing.fcntl.flock
    taken: list[int] = []

    def given_up(file: Any, how: int) -> None:
        if not taken:
            shutil.rmtree(work)  # by the process that held it, while this one waited
        taken.append(how)
        lock(file, how)

    monkeypatch.setattr(growing.fcntl, "flock", given_up)
    with held(work, tmp_path / "done") as mine:
        assert mine
        assert (work / "lock").is_file()
    assert len(taken) == 2


def test_who_waited_for_a_folder_that_was_finished_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, done, lock = tmp_path / ".work", tmp_path / "done", growing.fcntl.flock

    def finished(file: Any, how: int) -> None:
        done.mkdir()  # by another process, just before this one made a new folder to work in
        lock(file, how)

    monkeypatch.setattr(growing.fcntl, "flock", finished)
    with held(work, done) as mine:
        assert not mine
    assert not work.exists()


def test_rows_go_on_after_a_count_and_forget_what_came_after(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (5, 3, 4)).astype(np.uint8)
    rows = Rows(tmp_path / "a.npy", (3, 4), np.uint8)
    rows.add(array)
    rows.file.close()
    rows = Rows(tmp_path / "a.npy", (3, 4), np.uint8, count=2)
    rows.add(array[4:])
    rows.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array[[0, 1, 4]])


def test_widening_changes_no_brightness() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    wide = widened(pixels, 3, 16)
    assert wide.shape == (1, 3, 16, 16)
    for channel in range(3):
        np.testing.assert_array_equal(wide[:, channel] / np.float32(65535), pixels[:, 0] / np.float32(255))
    assert widened(pixels, 1, 8) is pixels
    np.testing.assert_array_equal(widened(wide, 3, 16), wide)
