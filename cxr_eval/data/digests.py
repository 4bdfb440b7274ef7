"""Hashes of files, each read once: known ones are found again by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cxr_eval.errors import DataError

_KEPT = 4096  # files whose digests an interruption may cost


def threads() -> ThreadPoolExecutor:
    """A pool for work on files; Pillow and hashlib let go of the interpreter's lock."""
    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))


def file_digests(paths: Iterable[str], cache: Path) -> dict[str, str]:
    """sha256 by path. Known ones are kept in `cache` by path, size and time of change, so that a start reads no image.

    A file that changed at or after the time the digests were written is read again: a second change of equal size within one
    tick of the clock could not be seen.

    Raises:
        DataError: a file cannot be read.
    """
    store = cache / "file-digests.json"
    try:
        written = store.stat().st_mtime_ns
        known: dict[str, list[Any]] = json.loads(store.read_text(encoding="utf-8"))
        if not isinstance(known, dict) or not all(isinstance(entry, list) for entry in known.values()):
            written, known = 0, {}
    except (OSError, ValueError):  # none yet, closed to us, or damaged: that only costs the time to read the images
        written, known = 0, {}
    stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
    new = [path for path, stamp in stamps.items() if known.get(path, [])[:2] != stamp or stamp[1] >= written]
    with threads() as pool:
        for start in range(0, len(new), _KEPT):
            some = new[start : start + _KEPT]
            known |= {path: [*stamps[path], digest] for path, digest in zip(some, pool.map(_digest, some), strict=True)}
            _keep(known, store)
    return {path: known[path][2] for path in stamps}


def _keep(known: dict[str, list[Any]], store: Path) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=store.parent, prefix=".file-digests-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file)
        os.chmod(name, 0o644)  # mkstemp's files are closed to those who share the cache
        os.replace(name, store)
    finally:
        Path(name).unlink(missing_ok=True)


def _stamp(path: str) -> list[int]:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return [stat.st_size, stat.st_mtime_ns]


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
