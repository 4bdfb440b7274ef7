"""The page that teaches to read a report says what reports say: its quotations, sections, checks and pictures are real."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cxr_eval
from cxr_eval.attacks.validity import battery
from tests import toys

ROOT = Path(__file__).parents[1]
CODE = Path(cxr_eval.__file__).parent
PAGE = (ROOT / "docs" / "reading-a-report.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^ *> (.*)$", PAGE, re.MULTILINE)
SAYS = [*(CODE / "report").rglob("*.py"), CODE / "run_doubts.py"]
TEMPLATES = sorted((CODE / "report" / "templates").glob("*.html.j2"))


def words(text: str) -> str:
    return " ".join(text.split())


def texts() -> Iterator[str]:
    """All text that the report is made of: string constants of the code, and the templates without tags."""
    for source in SAYS:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield words(node.value)
    for template in TEMPLATES:
        yield words(re.sub(r"<[^>]+>", "", template.read_text(encoding="utf-8")))


SAID = list(texts())


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_the_page_quotes_stands_in_the_report(quoted: str) -> None:
    assert any(words(quoted) in said for said in SAID)


def test_the_page_quotes() -> None:
    assert len(QUOTED) > 10


def test_every_section_of_the_report_is_told() -> None:
    pages = [path.read_text(encoding="utf-8") for path in TEMPLATES if not path.name.startswith("audit.")]
    titles = [title for page in pages for title in re.findall(r'<h2 id="[^"]+">([^<{]+)</h2>', page)]
    made = [
        title for path in SAYS for title in re.findall(r'return Section\("\w+", "([^"]+)"', path.read_text(encoding="utf-8"))
    ]
    assert len(titles) > 8
    assert len(made) > 3
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE)).lower()
    assert [title for title in [*titles, *made] if title.lower() not in headings] == []


def test_every_check_is_told_by_its_title() -> None:
    x, y = toys.images(6)
    checks = battery(toys.ours(toys.build(toys.plain)), torch.from_numpy(x), torch.from_numpy(y), eps=0.02, queries=2)
    assert [check.title for check in checks if f"\n| {check.title} | " not in PAGE] == []


def test_pictures_of_the_page_are_there_and_small() -> None:
    pictures = [ROOT / "docs" / target for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)]
    assert pictures
    assert sum(picture.stat().st_size for picture in pictures) < 150_000
