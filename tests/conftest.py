"""Fixtures that several test files use; one thread for all, because tiny networks only wait for each other on more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for processes that tests start

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real chest X-rays; tests that need it are skipped where it is absent."""
    if not (SHARED_DATA / "all_cxr.csv").is_file():
        pytest.skip("needs the real images at ../shared/data")
    return SHARED_DATA


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    """The module `toys.py` beside this file."""
    return _beside("toys")


@pytest.fixture(scope="session")
def layouts() -> ModuleType:
    """The module `official_layouts.py` beside this file."""
    return _beside("official_layouts")


def _beside(name: str) -> ModuleType:
    """A module beside this file; `--import-mode=importlib` gives tests no way to import each other."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
