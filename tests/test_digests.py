"""Hashes of files: read once, read again when a file changes, kept through an interruption."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxr_eval.data import digests
from cxr_eval.errors import DataError


def test_digests_are_read_once_and_again_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache, read = tmp_path / "a", tmp_path / "cache", []
    real = digests._digest
    monkeypatch.setattr(digests, "_digest", lambda path: read.append(path) or real(path))
    file.write_bytes(b"one")
    os.utime(file, ns=(10**18, 10**18))
    first = digests.file_digests([str(file)], cache)
    assert digests.file_digests([str(file)], cache) == first
    assert len(read) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(10**18 + 1, 10**18 + 1))
    assert digests.file_digests([str(file)], cache) != first
    assert len(read) == 2


def test_a_file_as_new_as_the_stored_digests_is_read_again(tmp_path: Path) -> None:
    file, cache = tmp_path / "a", tmp_path / "cache"
    file.write_bytes(b"one")
    first = digests.file_digests([str(file)], cache)
    stamp = (cache / "file-digests.json").stat().st_mtime_ns
    os.utime(file, ns=(stamp, stamp))
    digests.file_digests([str(file)], cache)
    os.utime(cache / "file-digests.json", ns=(stamp, stamp))
    file.write_bytes(b"two")
    os.utime(file, ns=(stamp, stamp))
    assert digests.file_digests([str(file)], cache) != first


def test_damaged_digests_only_cost_time(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = digests.file_digests([str(file)], tmp_path)
    (tmp_path / "file-digests.json").write_text("{")
    assert digests.file_digests([str(file)], tmp_path) == first


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'gone'}: cannot be read: No such file")):
        digests.file_digests([str(tmp_path / "gone")], tmp_path)


def test_an_interruption_costs_only_the_files_read_since_the_last_ones_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, cache, read = [tmp_path / name for name in "abcde"], tmp_path / "cache", list[str]()
    for file in files:
        file.write_bytes(file.name.encode())
        os.utime(file, ns=(10**18, 10**18))
    real = digests._digest

    def until_the_fourth(path: str) -> str:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(path)
        return real(path)

    monkeypatch.setattr(digests, "_KEPT", 2)
    monkeypatch.setattr(digests, "threads", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(digests, "_digest", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        digests.file_digests(map(str, files), cache)
    read.clear()
    monkeypatch.setattr(digests, "_digest", lambda path: read.append(path) or real(path))
    found = digests.file_digests(map(str, files), cache)
    assert read == [str(file) for file in files[2:]]
    assert found == {str(file): hashlib.sha256(file.name.encode()).hexdigest() for file in files}
