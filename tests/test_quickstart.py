"""A first user's path: docs/quickstart.md, word for word, in one shell in an empty folder.

Files are saved where the page says so, commands are run in its order, and what it shows of their output must come, line by line
in that order; `...` stands for anything. Exempt are blocks marked `not run`: the installation, which the tests stand on.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "quickstart.md"
_BLOCK = re.compile(r"(?:<!-- (?P<mark>file|not run): (?P<what>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of code. language: console, text, or that of a file. mark, what: what the comment before it says."""

    language: str
    text: str
    mark: str
    what: str


def blocks(page: str) -> list[Block]:
    return [Block(m["language"], m["text"], m["mark"] or "", m["what"] or "") for m in _BLOCK.finditer(page)]


def script(page: str) -> str:
    """One shell script: files are written, commands run; a line of its own ends the output of each block."""
    lines = ["set -e", "exec 2>&1"]
    for number, block in enumerate(blocks(page)):
        if block.mark == "file":
            lines.append(f"printf %s {shlex.quote(block.text)} > {shlex.quote(block.what)}")
        elif block.language == "console" and block.mark != "not run":
            lines += [block.text.rstrip("\n"), f"echo '== end of {number}'"]
    return "\n".join(lines) + "\n"


def missing(shown: str, printed: str) -> str | None:
    """The first line shown that is not printed, in order; None if all are."""
    rest = iter(printed.splitlines())
    for line in shown.splitlines():
        if line == "...":
            continue
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        if not any(pattern.fullmatch(each.rstrip()) for each in rest):
            return line
    return None


def faults(page: str, output: str) -> list[str]:
    """What is shown below a command and was not printed by it; `output` of the page's script."""
    found = []
    parts = re.split(r"== end of (\d+)\n", output)
    of = dict(zip(parts[1::2], parts[::2], strict=False))  # what stands before each end
    listed = blocks(page)
    for number, block in enumerate(listed):
        if block.language == "text":
            before = max(n for n in range(number) if listed[n].language == "console")
            if (line := missing(block.text, of.get(str(before), ""))) is not None:
                found.append(f"not printed: {line}")
    return found


@pytest.mark.slow
def test_the_quickstart_is_true_word_for_word(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    folder, cache = tmp_path / "anywhere", tmp_path / "cache"
    folder.mkdir()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CXR_EVAL_CACHE": str(cache),
    }
    done = subprocess.run(
        ["bash", "-c", script(page)], cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert faults(page, done.stdout) == [], done.stdout
    assert (folder / "runs" / "first" / "report.html").stat().st_size > 10_000


def test_only_the_installation_is_not_run() -> None:
    listed = blocks(PAGE.read_text(encoding="utf-8"))
    assert [block.text.split()[:2] for block in listed if block.mark == "not run"] == [["pip", "install"]]
    assert {block.language for block in listed if not block.mark} == {"console", "text"}  # every file has its name


PAGE_OF_ONE = """
<!-- file: a.txt -->
```yaml
one
```

```console
cat a.txt
echo $((1 + 1)) apples
```

```text
one
2 app...
```
"""


def run(page: str, folder: Path) -> str:
    return subprocess.run(["bash", "-c", script(page)], cwd=folder, capture_output=True, text=True, check=False).stdout


def test_a_page_that_is_true_has_no_faults(tmp_path: Path) -> None:
    assert run(PAGE_OF_ONE, tmp_path) == "one\n2 apples\n== end of 1\n"
    assert faults(PAGE_OF_ONE, run(PAGE_OF_ONE, tmp_path)) == []


@pytest.mark.parametrize("shown", ["2 pears", "2 apples\none", "apples"])
def test_what_is_shown_and_not_printed_is_a_fault(shown: str, tmp_path: Path) -> None:
    wrong = PAGE_OF_ONE.replace("2 app...", shown)
    assert faults(wrong, run(wrong, tmp_path)) == [f"not printed: {shown.splitlines()[-1]}"]


def test_output_of_an_earlier_command_does_not_count(tmp_path: Path) -> None:
    page = "```console\necho early\n```\n```console\necho late\n```\n```text\nearly\n```\n"
    assert faults(page, run(page, tmp_path)) == ["not printed: early"]
