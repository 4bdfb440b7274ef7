"""Settings of the documentation site: `sphinx-build -W --keep-going -b html docs OUT`, without network.

Docstrings of cxr-eval are plain text: what comes out, then a line for each argument, `Raises:`, `Source:`. What is below makes
lists of these lines, and shows `name` as code.
"""

import ast
import inspect
import re
import textwrap
from importlib.metadata import version as installed
from typing import get_args

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

project = "cxr-eval"
author = "the authors of cxr-eval"
version = release = installed("cxr-eval")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
myst_heading_anchors = 3  # links name headings as they do where the pages are read as files
autodoc_default_options = {"no-value": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"cxr-eval {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

_CODE = re.compile(r"(`+)(.+?)\1")


def _escaped(text: str) -> str:
    """A line of a docstring as reStructuredText: nothing in it is markup but `code`."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [re.sub(r"([\\*|_`])", r"\\\1", text[end : code.start()]), f"``{code.group(2)}``"]
        end = code.end()
    return "".join(parts) + re.sub(r"([\\*|_`])", r"\\\1", text[end:])


def _arguments(thing: object) -> list[str]:
    try:
        return list(inspect.signature(thing).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []


def _listed(paragraph: str, names: list[str]) -> list[str]:
    """A paragraph, with the arguments that it describes, and what is raised, as a list."""
    if paragraph.startswith("Raises:\n"):
        raised = re.split(r"^(?=\w)", textwrap.dedent(paragraph.partition("\n")[2]), flags=re.MULTILINE)
        return ["Raises:", "", *(f"- {_escaped(' '.join(each.split()))}" for each in raised if each.strip())]
    if paragraph.startswith(">>> "):
        return paragraph.splitlines()
    if paragraph.startswith("    "):
        return ["::", "", *paragraph.splitlines()]
    known = "|".join(map(re.escape, [*names, "Source"]))
    begins = rf"(?:^|(?<=[.;] ))(?=(?:{known})(?:, (?:{known}))*: )"
    lines = []
    sentences = re.split(r"(?<=\.)\n(?=[A-Z])", paragraph)  # what begins a line says nothing of the argument before
    for each in (part for sentence in sentences for part in re.split(begins, " ".join(sentence.split()))):
        told = re.fullmatch(rf"((?:{known})(?:, (?:{known}))*): (.*)", each.strip())
        if told is None:
            lines += [_escaped(each.strip()), ""]
        else:
            lines += [f"- **{_escaped(told.group(1))}**: {_escaped(told.group(2))}", ""]
    return lines


def _read(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText, line by line in place."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    lines[:] = [line for paragraph in paragraphs for line in [*_listed(paragraph, _arguments(thing)), ""]]


def _told_elsewhere(app: Sphinx, page: str, text: list[str]) -> None:
    """Bring what modules say of `Radius` and other names that are no classes to the module that plugins import them from."""
    if page != "api":
        return
    import cxr_eval.api  # needs torch, and other pages do not

    told = ModuleAnalyzer.for_module("cxr_eval.api")
    told.analyze()
    for node in ast.parse(told.code).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            there = ModuleAnalyzer.for_module(node.module).find_attr_docs()
            for name in (each.name for each in node.names):
                if not inspect.isclass(thing := getattr(cxr_eval.api, name)) and not inspect.isfunction(thing):
                    told.attr_docs["", name] = there.get(("", name), [", ".join(f"`{each}`" for each in get_args(thing))])


def _skipped(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Settings' classes inside plugins are listed by the module already."""
    return True if what == "class" and name == "Params" else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _told_elsewhere)
    app.connect("autodoc-process-docstring", _read)
    app.connect("autodoc-skip-member", _skipped)
