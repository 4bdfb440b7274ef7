r"""The report's tables for papers: one file a table, with rules of booktabs, and one document that shows them all.

A file is put into a document with `\input`; the document needs the packages booktabs and longtable and nothing else. Names show
themselves: nothing in them is a command. Letters that pdflatex has no glyph for stand as `[U+6F22]`; lualatex and xelatex show
them, in a font that has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_eval.report.formats.listed import Placed, listed
from cxr_eval.report.results import one_line
from cxr_eval.report.tables import Cell, Line, Table
from cxr_eval.store import write_whole

MARK = "% Written by cxr-eval report"
"""First words of every file; only files that begin so are taken away when the report is written again."""
ALL = "all_tables.tex"
"""No key has an underscore."""
WIDTH = 455
"""Points that a table may be wide: A4 with margins of 25 mm. Wider ones go on below with their further columns."""
HEADS = 80
"""Points for a column of line heads."""
COLUMN, LETTER, GAP = 54, 3.7, 6
"""Points of the narrowest column of numbers, of a letter of 7 points at its widest usual, and between columns."""
TALLEST = 40
"""Lines of print above which a table may break over pages."""
UNICODE = r"\providecommand{\unicodetext}[2]{\ifdefined\Umathchar#2\else\allowbreak[U+#1]\fi}"
"""A letter that only LuaTeX and XeTeX can print: its number, then itself."""

COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_\allowbreak{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\char34{}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "−": r"\ensuremath{-}",  # noqa: RUF001
    "→": r"\ensuremath{\rightarrow}",
    "★": r"\ensuremath{\star}",
    "▲": r"\ensuremath{\triangle}",
    "▼": r"\ensuremath{\bigtriangledown}",
    "ε": r"\ensuremath{\varepsilon}",
}
JOINED = "-',"
"""Letters of which two would be printed as one other sign."""
UNPRINTED = frozenset("\xad«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ")
"""Letters among the Latin ones that pdflatex refuses in one of its usual encodings, OT1 and T1."""
PRINTED = frozenset({*map(chr, range(0xA1, 0x180)), *"–—‘’“”…†‡•"} - UNPRINTED)  # noqa: RUF001
"""Letters beyond ASCII that every LaTeX since 2020 prints as they are."""


@dataclass(frozen=True)
class _Block:
    """Columns of a table that stand side by side, by their places."""

    columns: tuple[int, ...]


def write_tables(out: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write `tables/KEY.tex` for every table of numbers, and `tables/all_tables.tex`, whose path is returned."""
    folder = out / "tables"
    files = {
        f"{placed.key}.tex": latex(placed, placed.table, name) for placed in listed(content) if isinstance(placed.table, Table)
    }
    files[ALL] = _document(name, list(files))
    for old in folder.glob("*.tex"):
        if old.name not in files and _is_ours(old):
            old.unlink()
    for file, text in files.items():
        write_whole(folder / file, text.encode())
    return folder / ALL


def latex(placed: Placed, table: Table, name: str) -> str:
    """One table as LaTeX: groups of lines, and under each number its interval, range over seeds and count in small type."""
    notes = _Notes()
    blocks = list(_blocks(table))
    bodies = [list(_body(table, block, notes)) for block in blocks]
    is_long = sum(len(body) for body in bodies) > TALLEST
    caption = rf"\caption{{{escape(table.caption)}}}\label{{tab:{placed.key}}}"
    lines = [f"{MARK} of the run {one_line(name)}; needs the packages booktabs and longtable.", UNICODE]
    if is_long:
        lines += [r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}"]
        for place, (block, body) in enumerate(zip(blocks, bodies, strict=True)):
            title = caption if not place else rf"\caption*{{Table~\ref{{tab:{placed.key}}}, further columns}}"
            lines += _long(table, block, body, title, counted=not place)
        lines += [*_below(table, notes), r"\par\endgroup"]
    else:
        lines += [r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}", caption + r"\par\smallskip"]
        for place, (block, body) in enumerate(zip(blocks, bodies, strict=True)):
            lines += [r"\par\medskip"] if place else []
            lines += [rf"\begin{{tabular}}{{{_spec(table, block)}}}", r"\toprule", _heads(table, block), r"\midrule"]
            lines += [*body, r"\bottomrule", r"\end{tabular}"]
        lines += [*_below(table, notes), r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text on one line that shows itself; long words may break."""
    return "".join(_letters(one_line(text)))


def minus(text: str) -> str:
    """The text of a number with a minus sign for the hyphen before a digit."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)  # noqa: RUF001


def _letters(text: str) -> Iterator[str]:
    run, before = 0, ""
    for letter in text:
        if letter == before and letter in JOINED:
            yield "{}"
        before = letter
        run = 0 if letter in " -_/" else run + 1
        if run > 12:
            run = 1
            yield r"\allowbreak{}"
        if letter in COMMANDS:
            yield COMMANDS[letter]
        elif letter.isascii() or letter in PRINTED:
            yield letter
        else:
            code = ord(letter)
            # LuaTeX takes the replacement character for a fault in the file
            itself = rf"\symbol{{{code}}}" if code == 0xFFFD else letter
            yield rf"\unicodetext{{{code:04X}}}{{{itself}}}"


class _Notes:
    """Notes to numbers, each once, by the letter that stands beside the number."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.doubted = False

    def mark(self, note: str) -> str:
        """The letters of a note: a, b, ..., z, aa, ab, ..."""
        if note not in self.found:
            place, letters = len(self.found) + 1, ""
            while place:
                place, last = divmod(place - 1, 26)
                letters = chr(ord("a") + last) + letters
            self.found[note] = letters
        return self.found[note]


def _blocks(table: Table) -> Iterator[_Block]:
    """Columns in the order of the table, as many side by side as the page is wide."""
    room = WIDTH - (len(table.corner) - 1) * (HEADS + GAP)
    taken, columns = 0.0, list[int]()
    for place in range(len(table.columns)):
        cells = [line.cells[place] for _, lines in table.groups for line in lines]
        longest = max((len(text) for cell in cells for text in _layers(cell)), default=0)
        width = max(COLUMN, LETTER * longest) + GAP
        if columns and taken + width > room:
            yield _Block(tuple(columns))
            taken, columns = 0.0, []
        taken += width
        columns.append(place)
    if columns:
        yield _Block(tuple(columns))


def _layers(cell: Cell) -> tuple[str, str, str, str]:
    """What stands in the lines of print of one cell."""
    return cell.text, cell.interval, cell.spread, cell.n


def _spec(table: Table, block: _Block) -> str:
    heads = rf"p{{{HEADS}pt}}" * (len(table.corner) - 1)
    return f"@{{}}{heads}{'r' * len(block.columns)}@{{}}"


def _heads(table: Table, block: _Block) -> str:
    names = [_box(name, HEADS, r"\raggedright") for name in table.corner[1:]]
    for place in block.columns:
        head = table.columns[place]
        sub = rf"\\{{\scriptsize {escape(head.sub)}}}" if head.sub else ""
        text = rf"\textit{{{escape(head.text)}}}" if head.published else escape(head.text)
        names.append(rf"\parbox[b]{{{COLUMN}pt}}{{\raggedleft\strut {text}{sub}\strut}}")
    return " & ".join(names) + r" \\"


def _box(text: str, width: int, align: str) -> str:
    return rf"\parbox[b]{{{width}pt}}{{{align}\strut {escape(text)}\strut}}"


def _body(table: Table, block: _Block, notes: _Notes) -> Iterator[str]:
    """Lines of print: the group's name, then of each line the numbers, and under them what belongs to them."""
    width = len(table.corner) - 1 + len(block.columns)
    for place, (name, lines) in enumerate(table.groups):
        gap = r"\addlinespace " if place else ""
        text = rf"\parbox[t]{{{WIDTH - 2 * HEADS}pt}}{{\raggedright\itshape {escape(name)}\strut}}"
        # without width, for a long name must not widen the last column
        yield rf"{gap}\multicolumn{{{width}}}{{@{{}}l@{{}}}}{{\makebox[0pt][l]{{{text}}}}} \\*"
        for line in lines:
            yield from _line(line, block, notes)


def _line(line: Line, block: _Block, notes: _Notes) -> Iterator[str]:
    cells = [line.cells[place] for place in block.columns]
    heads = [rf"\raggedright {escape(head)}" for head in line.heads]
    printed = [" & ".join([*heads, *(_number(cell, notes) for cell in cells)])]
    for layer in range(1, 4):
        texts = [_layers(cell)[layer] for cell in cells]
        if any(texts):
            empty = [""] * len(line.heads)
            printed.append(" & ".join([*empty, *(rf"{{\scriptsize {escape(minus(text))}}}" if text else "" for text in texts)]))
    for text in printed[:-1]:
        yield rf"{text} \\*"
    yield rf"{printed[-1]} \\"


def _number(cell: Cell, notes: _Notes) -> str:
    text = escape(minus(cell.text))
    if cell.best or cell.level:
        text = rf"\textbf{{{text}}}"
    elif cell.published and cell.text:
        text = rf"\textit{{{text}}}"
    marks = ([r"\dag"] if cell.doubt else []) + ([notes.mark(cell.note)] if cell.note else [])
    notes.doubted = notes.doubted or cell.doubt
    return text + (rf"\textsuperscript{{{','.join(marks)}}}" if marks else "")


def _below(table: Table, notes: _Notes) -> Iterator[str]:
    """What is said below a table: its note, its sources, and what the marks beside numbers mean."""
    told = [table.note, *table.sources]
    told += ["In square brackets: 95 % interval. Bold: best of its kind."] if _any(table, "best") else []
    texts = [escape(text) for text in told if text]
    texts += [r"\textsuperscript{\dag}~a warning of the report names this number."] if notes.doubted else []
    texts += [rf"\textsuperscript{{{mark}}}~{escape(note.rstrip('.'))}." for note, mark in notes.found.items()]
    if texts:
        yield r"\par\smallskip"
        yield rf"\noindent\parbox{{\linewidth}}{{\raggedright\scriptsize {' '.join(texts)}}}"


def _any(table: Table, name: str) -> bool:
    return any(getattr(cell, name) for _, lines in table.groups for line in lines for cell in line.cells)


def _long(table: Table, block: _Block, body: Sequence[str], title: str, *, counted: bool) -> Iterator[str]:
    """A table that breaks over pages, with its heads on each."""
    yield rf"\begin{{longtable}}{{{_spec(table, block)}}}"
    yield rf"{title} \\"
    heads = [r"\toprule", _heads(table, block), r"\midrule"]
    yield from [*heads, r"\endfirsthead", *heads, r"\endhead", r"\bottomrule", r"\endfoot"]
    yield from body
    yield r"\end{longtable}"
    if not counted:  # longtable counts even where the caption has no number
        yield r"\addtocounter{table}{-1}"


def _document(name: str, files: Sequence[str]) -> str:
    """A document that shows all tables, and which packages they need."""
    shown = [rf"\input{{{file}}}" + "\n" + r"\clearpage" for file in files]
    return "\n".join(
        [
            f"{MARK} of the run {one_line(name)}: all its tables in one document.",
            r"\documentclass[10pt,a4paper]{article}",
            r"\usepackage[margin=25mm]{geometry}",
            r"\usepackage{iftex}",
            r"\ifPDFTeX\usepackage[T1]{fontenc}\usepackage{lmodern}\fi",
            r"\usepackage{booktabs,longtable}",
            r"\begin{document}",
            *(shown or ["This run has no tables."]),
            r"\end{document}",
            "",
        ]
    )


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK.encode()
