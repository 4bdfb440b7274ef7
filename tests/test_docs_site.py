"""The documentation site builds without a warning and without network, and every link in it leads somewhere."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
pytest.importorskip("furo")

ROOT = Path(__file__).parents[1]
NO_NETWORK = """
import socket, sys
def refused(*_): raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


class Page(HTMLParser):
    """What a page links to, loads, and names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names.update({given[key] for key in ("id", "name") if key in given})
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and "href" in given and given.get("rel") != "canonical":
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The site of `docs`, as CONTRIBUTING says, in a process that reaches nothing outside."""
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(out.parent / "trees"), str(docs), str(out)]
    return subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *words], capture_output=True, text=True, encoding="utf-8", check=False
    )


def copied(folder: Path) -> Path:
    """The pages and what they include, in a folder of their own."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("plugins", "protocols"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", folder)
    return folder / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(copied(folder), folder / "html")
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def leading_nowhere(pages: dict[Path, Page]) -> Iterator[str]:
    """Links and files of the site itself that are not there."""
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.is_file():
                yield f"{path.name}: {target}: no such file"
            elif parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in pages[file].names:
                yield f"{path.name}: {target}: no such place"


@pytest.mark.slow
def test_every_link_of_the_built_site_leads_somewhere(pages: dict[Path, Page]) -> None:
    assert len(pages) > 30
    assert list(leading_nowhere(pages)) == []


@pytest.mark.slow
def test_a_page_loads_nothing_from_outside(pages: dict[Path, Page]) -> None:
    outside = {target for page in pages.values() for target in page.loaded if urlsplit(target).netloc}
    assert outside == set()


@pytest.mark.slow
def test_links_to_the_outside_are_whole_addresses(pages: dict[Path, Page]) -> None:
    outside = sorted({target for page in pages.values() for target in page.links if urlsplit(target).scheme})
    print("\n".join(outside))  # noqa: T201  # listed for whoever wants to look; the tests reach no network
    assert outside
    assert [target for target in outside if not re.fullmatch(r"https?://[^/\s]+\.[^/\s]+(/\S*)?", target)] == []


@pytest.mark.slow
def test_every_page_is_in_the_table_of_contents(site: Path) -> None:
    sources = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    sidebar = Page((site / "index.html").read_text(encoding="utf-8")).links
    listed = {Path(unquote(urlsplit(link).path)) for link in sidebar} | {Path("index.html")}
    assert sources - listed == set()


@pytest.mark.slow
def test_every_public_name_has_an_entry(pages: dict[Path, Page]) -> None:
    import cxr_eval
    import cxr_eval.api

    (page,) = (page for path, page in pages.items() if path.name == "api.html")
    named = {name.rpartition(".")[2] for name in page.names if name.startswith("cxr_eval.")}
    assert {*cxr_eval.__all__} - {"__version__"} - named == set()
    assert {*cxr_eval.api.__all__} - named == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[a page](no-such-page.md)", "no-such-page"),
        ("[a place](protocols.md#no-such-place)", "no-such-place"),
        ("[a file](../protocols/no_such.yaml)", "no_such.yaml"),
        ("![a picture](pictures/no_such.svg)", "no_such.svg"),
    ],
)
def test_a_broken_link_fails_the_build(line: str, told: str, tmp_path: Path) -> None:
    docs = copied(tmp_path)
    for page in docs.rglob("*.md"):  # a small site: what is tested is the link
        if page.name != "protocols.md":
            page.unlink()
    (docs / "protocols.md").write_text("# Protocols\n\n## Attacks\n", encoding="utf-8")
    index = "# Site\n\n[whole](protocols.md#attacks)\n\n```{toctree}\nprotocols\n```\n"
    (docs / "index.md").write_text(index, encoding="utf-8")
    assert build(docs, tmp_path / "whole").returncode == 0
    (docs / "index.md").write_text(f"{index}\n{line}\n", encoding="utf-8")
    built = build(docs, tmp_path / "broken")
    assert built.returncode != 0
    assert told in built.stderr


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    here, there = tmp_path / "a.html", tmp_path / "b.html"
    for path, text in ((here, '<a href="b.html#x">1</a><a href="b.html#y">2</a><a href="c.html">3</a>'), (there, '<p id="x">')):
        path.write_text(text, encoding="utf-8")
    found = leading_nowhere({path: Page(path.read_text(encoding="utf-8")) for path in (here, there)})
    assert list(found) == ["a.html: b.html#y: no such place", "a.html: c.html: no such file"]
