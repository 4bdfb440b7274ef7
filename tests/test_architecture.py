"""The layers of the design hold, and no file outgrows its noun."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 400  # lines
SOURCES = sorted([*(ROOT / "cxr_eval").rglob("*.py"), *(ROOT / "plugins").glob("*/cxr_eval_*/**/*.py")])


def test_an_arrow_only_points_down():
    linter = Path(sys.executable).with_name("lint-imports")
    command = [linter, "--config", ROOT / "pyproject.toml", "--no-cache"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_tests_see_the_sources():
    assert ROOT / "cxr_eval" / "api.py" in SOURCES
    assert ROOT / "plugins" / "noise" / "cxr_eval_noise" / "__init__.py" in SOURCES
