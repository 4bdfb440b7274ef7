"""The fixtures of `tests/` for the plugins' own tests, which pytest would not find beside them."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("core_fixtures", Path(__file__).parents[1] / "tests" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

shared_data = _fixtures.shared_data
toys = _fixtures.toys
