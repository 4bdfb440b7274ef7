"""Folders that are there completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft to write into, which takes the name `folder` when the block ends; nothing is left if it fails.

    Two processes may write the same content at once: who comes second finds the folder there and discards its own draft.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp's folders are closed to everyone else
        try:
            os.rename(draft, folder)  # never replaces a folder that holds something
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
