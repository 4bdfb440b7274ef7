"""The report as JSON, LaTeX and PDF: the same numbers as on the page, in files that other programs accept."""

from __future__ import annotations

import importlib.resources
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cxr_eval.cli import main
from cxr_eval.errors import RunError
from cxr_eval.report.formats import latex, pdf
from cxr_eval.report.formats.latex import escape
from cxr_eval.report.formats.listed import listed
from cxr_eval.report.overview import CAPTION
from cxr_eval.report.render import render
from cxr_eval.report.results import number, one_line
from cxr_eval.report.tables import Words
from cxr_eval.store import Run
from cxr_eval.types import RowWarning
from tests.evidence import NAN, TWO, both_seeds, check, difference, gap
from tests.fake_run import HOSTILE, Fake
from tests.report_pages import SMALL, Page

PUBLISHED = [
    {"source": "Wang et al., table 7", "short": "Wang 2017", "data": "ChestX-ray8", "numbers": [{"values": {"accuracy": 0.97}}]}
]
WHOLE = replace(
    TWO,
    failed=((TWO.models[0], TWO.trainers[-1], TWO.seeds[-1]),),
    warnings=(RowWarning("x", "fail", f"{TWO.models[0]}, {TWO.trainers[0]}, seed 0, pgd:0.02", "A check failed."),),
    more_rows=(*both_seeds("accuracy", 0.8, subgroup="sex=F"), *both_seeds("ece", 0.1, better="lower")),
    later={
        "checks": pd.DataFrame([check("PASS"), check("FAIL", title="Outputs are logits")]),
        "differences": pd.DataFrame([difference("accuracy", 0.1, 0.01), difference("auroc", NAN, NAN, low=NAN, high=NAN)]),
        "gaps": pd.DataFrame([gap("F", -0.1, 0.01), gap("F", NAN, NAN, metric="auroc", note="withheld")]),
    },
    changes={"published": PUBLISHED},
)
NAMES = (
    *(name.replace("\ud800", "") for name in HOSTILE),
    "a_b&c%d#e$f^g~h",
    r"\input{/etc/passwd}",
    "}{",
    "ÄÖÜäöüß ąęłżš -- ''quoted'' ``so''",
    "--x <<y>>",
)
COLUMNS = ("text", "interval", "spread", "count", "note")
Shown = dict[tuple[str, str, str, int], str]
"""(caption, group, first head of the line, column) -> number with all that stands beside it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that has everything, in every format that needs no browser."""
    return render(WHOLE.write(tmp_path_factory.mktemp("whole")), ("html", "md", "csv", "json", "latex"))


@pytest.fixture(scope="module")
def report(whole: dict[str, Path]) -> dict[str, Any]:
    """report.json of the same run."""
    found: dict[str, Any] = json.loads(whole["json"].read_text(encoding="utf-8"))
    return found


def schema() -> dict[str, Any]:
    """The schema that the package brings."""
    text = (importlib.resources.files("cxr_eval.report") / "schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def squeezed(text: str) -> str:
    """A cell's text without the marks of its format; LaTeX has a minus sign where the others have a hyphen."""
    return " ".join(re.sub(r"[★†;*]|\(best\)", " ", text).replace("−", "-").split())  # noqa: RUF001


def head_of(column: dict[str, Any]) -> str:
    """A column's head, and after a sign between them what holds for all its numbers."""
    return f"{column['text']}␟{column['sub']}"


def cells_of(report: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str, int], dict[str, Any]]]:
    """Every cell of the tables in report.json."""
    for table in report["tables"]:
        for group in table["groups"]:
            for line in group["lines"]:
                for column, cell in enumerate(line["cells"], start=len(line["heads"]) - 1):
                    yield (table["caption"], group["name"], line["heads"][0], column), cell


def shown_by_json(report: dict[str, Any]) -> Shown:
    return {key: squeezed(" ".join(cell[name] for name in COLUMNS)) for key, cell in cells_of(report)}


def shown_by_html(text: str) -> dict[tuple[str, str, str, str], str]:
    """The numbers of a page by the heads of their columns: of wide tables some columns stand apart."""
    found = {}
    for caption, lines in Page(text).tables.items():
        group = ""
        for line in lines[1:]:
            group = line[0] if len(line) == 1 else group
            for head, cell in zip(lines[0][1:], line[1:], strict=False):
                found[caption.removesuffix(": further columns"), group, line[0], head] = squeezed(cell)
    return found


def shown_by_markdown(text: str) -> dict[tuple[str, str, str, str], str]:
    """The same of a Markdown report."""
    found, caption, heads = {}, "", [""]
    lines = text.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("**") and line.endswith("**"):
            caption = line.strip("*").replace("\\", "").removesuffix(": further columns")
        elif line.startswith("| ") and " --- " not in line:
            group, name, *cells = (part.strip().replace("\\", "") for part in line.strip("|").split(" |"))
            heads = cells if " --- " in after else heads
            found |= {(caption, group, name, head): squeezed(cell) for head, cell in zip(heads, cells, strict=False)}
    return found


# a reader of the LaTeX that we write; it refuses every command and sign that it does not know ------------------------------

SIGNS = {
    r"\textbackslash": "\\",
    r"\textasciicircum": "^",
    r"\textasciitilde": "~",
    r"\textless": "<",
    r"\textgreater": ">",
    r"\textbar": "|",
    r"\textasciigrave": "`",
    r"\char34": '"',
    r"\allowbreak": "",
    r"\strut": "",
    r"\raggedright": "",
    r"\raggedleft": "",
    r"\itshape": "",
    r"\scriptsize": "",
    r"\dag": "†",
    r"\leq": "≤",
    r"\geq": "≥",
    r"\rightarrow": "→",
    r"\star": "★",
    r"\triangle": "▲",
    r"\bigtriangledown": "▼",
    r"\varepsilon": "ε",
    r"\\": " ",
}
TOKEN = re.compile(r"\\char34|\\[A-Za-z]+|\\.|[{}]|[^\\{}]", re.DOTALL)


def read(tex: str) -> str:
    """What a piece of LaTeX prints."""
    tokens = TOKEN.findall(tex)
    assert "".join(tokens) == tex
    text, rest = _read(tokens, 0)
    assert rest == len(tokens), f"a brace too many: {tex}"
    return text


def _read(tokens: list[str], at: int, *, within: bool = False) -> tuple[str, int]:
    out = ""
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token == "}":
            if within:
                return out, at
            return out, at - 1
        if token == "{":
            inner, at = _read(tokens, at, within=True)
            out += inner
        elif token in (r"\textbf", r"\textit", r"\ensuremath", r"\textsuperscript"):
            assert tokens[at] == "{"
            inner, at = _read(tokens, at + 1, within=True)
            inner = "-" if (token, inner) == (r"\ensuremath", "") else inner
            out += f"⟨{inner}⟩" if token == r"\textsuperscript" else "−" if (token, inner) == (r"\ensuremath", "-") else inner  # noqa: RUF001
        elif token == r"\unicodetext":
            code, at = _read(tokens, at + 1, within=True)
            letter, at = _read(tokens, at + 1, within=True)
            assert int(code, 16) == ord(letter)
            out += letter
        elif token == r"\symbol":
            code, at = _read(tokens, at + 1, within=True)
            out += chr(int(code))
        elif token == r"\parbox":
            at = next(k for k in range(at, len(tokens)) if tokens[k] == "{")  # after [b]
            _, at = _read(tokens, at + 1, within=True)  # its width
        elif token.startswith("\\"):
            known = token[1] if token[1:] in ("{", "}", "$", "&", "#", "%", "_") else SIGNS.get(token)
            assert known is not None, f"unknown command {token}"
            out += known
            if token[1].isalpha() and tokens[at : at + 1] == [" "]:
                at += 1  # a space ends the name of a command
        else:
            assert token not in "&%#$^_~\n", f"a bare {token!r}"
            out += token
    assert not within, "a brace is not closed"
    return out, at


def fields(row: str) -> list[str]:
    """The columns of a line: parted by & where no brace is open."""
    found, depth, before = [""], 0, ""
    for letter in row:
        depth += (letter == "{" and before != "\\") - (letter == "}" and before != "\\")
        if letter == "&" and before != "\\" and depth == 0:
            found.append("")
        else:
            found[-1] += letter
        before = "" if (letter, before) == ("\\", "\\") else letter
    return [each.strip() for each in found]


def shown_by_latex(text: str) -> Shown:
    """The numbers of one file."""
    (caption,) = re.findall(r"^\\caption\{(.*)\}\\label\{tab:[a-z0-9-]+\}", text, re.MULTILINE)
    caption = read(caption)
    below = next((line for line in text.splitlines() if line.startswith(r"\noindent\parbox{\linewidth}")), "")
    notes = dict(re.findall(r"\\textsuperscript\{([a-z]+)\}~((?:(?! \\textsuperscript\{).)*)\.(?= |\}$)", below))
    found: dict[tuple[str, str, str, int], list[str]] = {}
    group, heads, first, count, lying, in_body = "", [""], 0, 0, False, False
    for line in text.splitlines():
        begun = re.match(r"\\begin\{(?:tabular|longtable)\}\{@\{\}((?:p\{\d+pt\})+)(r+)@\{\}\}$", line)
        if begun:
            first, count = first + count, len(begun[2])
            width, in_body = begun[1].count("{"), False
        elif line in (r"\midrule", r"\endfoot"):
            in_body = True
        elif line in (r"\endfirsthead", r"\endhead", r"\bottomrule", r"\end{tabular}", r"\end{longtable}"):
            in_body = False
        elif in_body:
            assert re.search(r" \\\\\*?$", line), line
            row = re.sub(r" \\\\\*?$", "", line)
            named = re.match(
                r"(?:\\addlinespace )?\\multicolumn\{(\d+)\}\{@\{\}l@\{\}\}\{\\makebox\[0pt\]\[l\]\{(.*)\}\}$", row
            )
            if named:
                assert int(named[1]) == width + count
                group, lying = read(named[2]), False
                continue
            columns = fields(row)
            assert len(columns) == width + count, line
            if not lying:
                heads = [read(each) for each in columns[:width]]
            for place, cell in enumerate(columns[width:]):
                mark = re.search(r"\\textsuperscript\{(?:\\dag,?)?([a-z]+)\}", cell)
                shown = re.sub(r"⟨.*⟩", "", read(cell))
                entry = found.setdefault((caption, group, heads[0], width - 1 + first + place), ["", ""])
                entry[0] += f" {shown}"
                entry[1] = read(notes[mark[1]]) if mark else entry[1]
            lying = line.endswith(r"\\*")
    return {key: squeezed(" ".join(parts)) for key, parts in found.items()}


def latex_files(whole: dict[str, Path]) -> dict[str, str]:
    """Text by name of every table's file."""
    files = sorted(whole["latex"].parent.glob("*.tex"))
    return {path.stem: path.read_text(encoding="utf-8") for path in files if path != whole["latex"]}


# the same numbers everywhere ----------------------------------------------------------------------------------------------


def test_every_format_shows_every_number_in_the_same_words(whole: dict[str, Path], report: dict[str, Any]) -> None:
    html, md = (whole[name].read_text(encoding="utf-8") for name in ("html", "md"))
    ours = shown_by_json(report)
    assert len(ours) > 250
    heads = {table["caption"]: table["corner"][2:] for table in report["tables"]}
    plain = {table["caption"]: [*heads[table["caption"]], *map(head_of, table["columns"])] for table in report["tables"]}
    in_brackets = {caption: [re.sub("␟(.+)", r" (\1)", head).rstrip("␟") for head in of] for caption, of in plain.items()}
    page, text = shown_by_html(html), shown_by_markdown(md)
    papers: Shown = {}
    for tex in latex_files(whole).values():
        papers |= shown_by_latex(tex)
    for key, shown in ours.items():
        assert papers[key].rstrip(".") == shown.rstrip("."), key
        if key[0] != CAPTION:
            assert page[*key[:3], plain[key[0]][key[3]].replace("␟", " ").strip()] == shown, key
            assert text[*key[:3], in_brackets[key[0]][key[3]]] == shown, key
    assert set(papers) == set(ours)


def test_the_first_screen_has_the_numbers_of_the_overview_in_json(whole: dict[str, Path], report: dict[str, Any]) -> None:
    (table,) = (table for table in report["tables"] if table["caption"] == CAPTION)
    lines = [line["cells"] for group in table["groups"] for line in group["lines"]]
    page = Page(whole["html"].read_text(encoding="utf-8")).tables[CAPTION][1:]
    after = whole["md"].read_text(encoding="utf-8").partition(f"**{CAPTION}**")[2].split("\n\n")
    text = [
        [part.strip() for part in line.strip("|").split(" |")]
        for line in "\n".join(after[:9]).splitlines()
        if line.startswith("| ")
    ]
    assert len(lines) == len(page) == len(WHOLE.trainers)
    for cells, by_page, by_text in zip(lines, page, text[2:], strict=False):
        assert len(cells) == len(by_page) - 1 == len(by_text) - 2 >= 4
        for cell, *shown in zip(cells, by_page[1:], by_text[2:], strict=True):
            assert all(squeezed(each).startswith(cell["text"]) for each in shown)
            assert all(cell["interval"] in each for each in shown)


def test_every_table_of_numbers_of_the_page_is_in_json_and_latex_once(whole: dict[str, Path], report: dict[str, Any]) -> None:
    html = whole["html"].read_text(encoding="utf-8")
    captions = re.findall(r'<table class="numbers[^"]*">\s*<caption><span>(.*?)</span>', html)
    wanted = [caption for caption in captions if not caption.endswith(": further columns")]
    assert [table["caption"] for table in report["tables"]] == wanted
    keys = [table["key"] for table in report["tables"]]
    assert len(set(keys)) == len(keys)
    assert sorted(keys) == sorted(latex_files(whole))


def test_a_number_of_a_table_has_all_digits_and_is_written_as_shown(report: dict[str, Any]) -> None:
    checked = 0
    for key, cell in cells_of(report):
        if cell["value"] is None:
            assert cell["reason"], key
            continue
        assert number(cell["value"], cell["unit"]) == cell["text"].removeprefix("+"), key
        if None not in (cell["low"], cell["high"]):
            ends = ", ".join(number(cell[end], cell["unit"]) for end in ("low", "high"))
            assert cell["interval"] == f"[{ends}]", key
            checked += 1
        assert cell["doubt"] == bool(cell["doubts"]), key
    assert checked > 200


def test_a_number_of_a_table_is_the_mean_of_its_rows(report: dict[str, Any]) -> None:
    model, trainer = WHOLE.models[0], WHOLE.trainers[0]
    place = {"model": model, "trainer": trainer, "split": "test", "condition": "clean", "explainer": "", "metric": "accuracy"}
    rows = [row for row in report["rows"] if place.items() <= row.items() and not row["subgroup"]]
    assert len(rows) == len(WHOLE.seeds) == 2
    caption = "Main results on the set “test”"
    cell = dict(cells_of(report))[caption, model, trainer, 0]
    assert cell["value"] == pytest.approx((rows[0]["value"] + rows[1]["value"]) / 2, rel=1e-15)
    assert cell["n"] == [100, 100]


def test_rows_in_json_are_the_rows_of_the_run_digit_by_digit(whole: dict[str, Path], report: dict[str, Any]) -> None:
    rows = Run(whole["json"].parent).rows()
    assert len(report["rows"]) == len(rows)
    for name in ("value", "low", "high"):
        ours = [math.nan if row[name] is None else row[name] for row in report["rows"]]
        assert pd.Series(ours).equals(rows[name].reset_index(drop=True))


# JSON ---------------------------------------------------------------------------------------------------------------------


def test_the_json_report_fits_its_schema(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(report)
    assert report["schema"] == "cxr-eval report 1"
    assert report["run"]["protocol"]["hash"] == "0123456789abcdef"
    assert [warning["code"] for warning in report["warnings"]] == ["x"]
    assert [line["verdict"] for line in report["checks"]] == ["PASS", "FAIL"]


@pytest.mark.parametrize(
    "broken",
    [
        {"schema": "cxr-eval report 2"},
        {"verdict": "one sentence"},
        {"extra": 1},
        {"warnings": [{"code": "x", "level": "loud", "scope": "run", "message": "m"}]},
    ],
)
def test_the_schema_refuses_what_is_no_report(report: dict[str, Any], broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(report | broken)


def test_a_number_that_is_not_defined_is_null_with_its_reason(report: dict[str, Any]) -> None:
    missing = [row for row in report["rows"] if row["value"] is None]
    assert {row["metric"] for row in missing} == set(WHOLE.undefined)
    assert all(row["note"] == "not defined" and row["low"] is None for row in missing)
    assert [line["note"] for line in report["gaps"] if line["gap"] is None] == ["withheld"]
    without = {key: value for key, value in missing[0].items() if key != "note"} | {"note": ""}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(report | {"rows": [without]})


def test_an_infinite_number_is_null_and_called_infinite(tmp_path: Path) -> None:
    fake = replace(SMALL, more_rows=(both_seeds("odds", math.inf)[0],))
    text = render(fake.write(tmp_path), ("json",))["json"].read_text(encoding="utf-8")
    (line,) = (row for row in json.loads(text)["rows"] if row["metric"] == "odds")
    assert (line["value"], line["note"]) == (None, "infinite")
    assert "Infinity" not in text
    assert "NaN" not in text


def test_the_same_run_gives_the_same_files_byte_for_byte(tmp_path: Path) -> None:
    run = SMALL.write(tmp_path / "run")
    ones, others = (render(run, ("json", "latex", "csv"), out=tmp_path / name) for name in ("one", "other"))
    assert list(ones) == list(others) == ["json", "latex", "csv"]
    first, second = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in sorted((tmp_path / n).rglob("*.*"))} for n in ("one", "other")
    )
    assert first == second
    assert (tmp_path / "one" / "rows.csv").read_bytes() == (run.folder / "rows.csv").read_bytes()


def test_a_run_of_an_older_version_without_later_tables_fits_the_schema_too(tmp_path: Path) -> None:
    run = SMALL.write(tmp_path)
    report = json.loads(render(run, ("json",))["json"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(report)
    assert report["differences"] == report["gaps"] == report["checks"] == []


def test_a_run_in_which_every_network_failed_is_written_in_every_format(tmp_path: Path) -> None:
    fake = replace(SMALL, failed=tuple((m, t, s) for m in SMALL.models for t in SMALL.trainers for s in SMALL.seeds), images=0)
    written = render(fake.write(tmp_path), ("json", "latex"))
    report = json.loads(written["json"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(report)
    assert report["tables"] == report["rows"] == []
    assert report["answers"][0]["lead"] == "None: nothing was measured."
    assert "This run has no tables." in written["latex"].read_text(encoding="utf-8")


# keys ---------------------------------------------------------------------------------------------------------------------


def test_tables_are_listed_once_in_the_pages_order_with_keys_of_their_own() -> None:
    one, two, three = (Words(caption, ("A",), [["a"]]) for caption in ("Größe: <b>", "Groesse – B", "grosse b"))  # noqa: RUF001
    content = {"training": [three], "main": [one, one], "evidence": {"clinical": two}, "later": {"x": [Words("漢", (), [])]}}
    found = listed(content)
    assert [placed.table.caption for placed in found] == [one.caption, two.caption, three.caption, "漢"]
    assert [placed.key for placed in found] == ["groe-b", "groesse-b", "grosse-b", "table"]
    assert [placed.key for placed in listed({"main": [one, replace(one), replace(one)]})] == [
        "groe-b",
        "groe-b-2",
        "groe-b-3",
    ]


# LaTeX --------------------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=()), max_size=80))
def test_any_text_shows_itself_in_latex(text: str) -> None:
    assert read(escape(text)) == one_line(text)


@pytest.mark.parametrize("text", NAMES)
def test_hostile_names_show_themselves_in_latex(text: str) -> None:
    assert read(escape(text)) == one_line(text)
    assert "\n" not in escape(text)


def test_letters_that_would_be_printed_as_another_sign_are_kept_apart() -> None:
    assert escape("a--b ''c'' ,,") == "a-{}-b '{}'c'{}' ,{},"


def test_letters_that_pdflatex_has_no_sign_for_are_named_by_their_number() -> None:
    assert escape("漢") == r"\unicodetext{6F22}{漢}"
    assert escape("Größe ≥ 5 – ok") == r"Größe \ensuremath{\geq} 5 – ok"  # noqa: RUF001


def test_long_words_may_break() -> None:
    assert escape("n" * 30) == r"\allowbreak{}".join(["n" * 12, "n" * 12, "n" * 6])


def test_the_best_number_is_bold_and_a_published_one_slanted(whole: dict[str, Path], report: dict[str, Any]) -> None:
    tex = "".join(latex_files(whole).values())
    best = [cell for _, cell in cells_of(report) if cell["best"]]
    assert tex.count(r"\textbf{") == len(best) + sum(bool(cell["level"]) for _, cell in cells_of(report) if not cell["best"])
    assert r"\textit{0.970}" in tex
    assert "Wang 2017, published: Wang et al., table 7. Measured on ChestX-ray8." in tex


def test_a_wide_table_goes_on_below_and_a_long_one_over_pages(whole: dict[str, Path]) -> None:
    files = latex_files(whole)
    assert any(text.count(r"\begin{tabular}") > 1 for text in files.values())
    long = [text for text in files.values() if r"\begin{longtable}" in text]
    assert long
    for text in long:
        # longtable counts each of its kind, also one whose caption has no number
        assert text.count(r"\begin{longtable}") == text.count(r"\addtocounter{table}{-1}") + 1
        assert r"\begin{table}" not in text


def test_files_of_an_earlier_report_go_and_those_of_others_stay(tmp_path: Path) -> None:
    run = SMALL.write(tmp_path)
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "theirs.tex").write_text("a table of the paper", encoding="utf-8")
    (folder / "old.tex").write_text(f"{latex.MARK} of the run x\n", encoding="utf-8")
    render(run, ("latex",))
    names = {path.name for path in folder.iterdir()}
    assert "theirs.tex" in names
    assert "old.tex" not in names
    assert latex.ALL in names


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pdflatex", "lualatex"])
def test_latex_accepts_every_table_with_hostile_names(tmp_path: Path, engine: str) -> None:
    found = shutil.which(engine)
    if found is None:
        pytest.skip(f"needs {engine}")
    fake = Fake(
        models=NAMES[:2],
        trainers=NAMES[2:7],
        seeds=(0, 1),
        classes=(*NAMES[7:9], "normal"),
        images=1,
        title=NAMES[1],
        outside=(),
    )
    fake.undefined = (f"precision[{NAMES[7]}]",)
    tables = render(fake.write(tmp_path), ("latex",))["latex"]
    done = subprocess.run(
        [found, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", tables.name],
        cwd=tables.parent,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


# PDF ----------------------------------------------------------------------------------------------------------------------


def test_pdf_without_selenium_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selenium", None)
    run = SMALL.write(tmp_path)
    result = CliRunner().invoke(main, ["report", str(tmp_path), "--format", "html,pdf"])
    assert result.exit_code == 2
    told = (
        "report.pdf needs selenium; install it with: pip install 'cxr-eval[pdf]', or leave pdf out and print report.html from a"
        " browser\n"
    )
    assert result.stderr == told
    assert not (run.folder / "report.html").exists()


def test_pdf_without_a_browser_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("selenium")
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    with pytest.raises(RunError) as raised:
        render(SMALL.write(tmp_path), ("pdf",))
    told = "report.pdf needs Chromium or Chrome; install one of them so that it is on PATH, or leave pdf out and print"
    assert str(raised.value) == f"{told} report.html from a browser"


def test_a_browser_that_does_not_start_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("selenium")
    if shutil.which("chromedriver") is None:
        pytest.skip("needs chromedriver")
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 7\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(pdf, "BROWSERS", (str(broken),))
    with pytest.raises(RunError, match=r"^report\.pdf: .*chromium did not print the page \(.*\); leave pdf out") as raised:
        render(SMALL.write(tmp_path / "run"), ("pdf",))
    assert "\n" not in str(raised.value)


def test_the_pdf_says_that_it_was_made_when_the_run_ended_and_counts_its_nodes_from_one() -> None:
    text = "/ID (node000{}) (node000{}) (node000{})\n/CreationDate (D:{}+00'00')\n/ModDate (D:{}Z)"
    data = text.format("00452", "00017", "00452", "20300102030405", "20300102030406").encode()
    settled = text.format("00001", "00002", "00001", "20260102043405", "20260102043405").encode()
    assert pdf._settled(data, "2026-01-02T05:34:05+01:00") == settled


@pytest.mark.browser
@pytest.mark.slow
def test_the_pdf_has_every_section_unfolded_and_is_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("selenium")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None or shutil.which("pdftotext") is None:
        pytest.skip("needs chromium, chromedriver and pdftotext")
    run = WHOLE.write(tmp_path)
    path = render(run, ("pdf",))["pdf"]
    first = path.read_bytes()
    assert first.startswith(b"%PDF-")
    assert not (tmp_path / "report.html").exists()
    assert render(run, ("pdf",))["pdf"].read_bytes() == first
    printed = subprocess.run(["pdftotext", "-layout", str(path), "-"], capture_output=True, text=True, check=True).stdout
    words = " ".join(printed.split())
    report = json.loads(render(run, ("json",))["json"].read_text(encoding="utf-8"))
    numbers = {cell["text"] for _, cell in cells_of(report)}
    assert [text for text in numbers if text not in words] == []
    assert "The protocol as it was given" in words


# the command --------------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_formats_that_it_is_given_where_it_is_told(tmp_path: Path) -> None:
    SMALL.write(tmp_path / "run")
    out = tmp_path / "out"
    given = ["--format", "json, latex", "--format", "csv", "--format", "json", "--out", str(out)]
    result = CliRunner().invoke(main, ["report", str(tmp_path / "run"), *given])
    assert result.exit_code == 0, result.output
    assert result.stdout == "".join(f"Report: {out / name}\n" for name in ("report.json", "tables/all_tables.tex", "rows.csv"))
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "rows.csv", "tables"]
    assert not (tmp_path / "run" / "report.json").exists()


def test_the_command_without_formats_writes_html_markdown_and_csv(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.stdout == "".join(f"Report: {tmp_path / name}\n" for name in ("report.html", "report.md", "rows.csv"))


def test_the_command_names_the_nearest_format_for_an_unknown_one(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    result = CliRunner().invoke(main, ["report", str(tmp_path), "--format", "html,latx"])
    told = "report: expected formats among html, md, csv, json, latex, pdf, got 'latx'; did you mean 'latex'?\n"
    assert (result.exit_code, result.stderr) == (2, told)
    assert not (tmp_path / "report.html").exists()


def test_figures_of_others_stay_in_a_folder_that_is_not_the_runs(tmp_path: Path) -> None:
    run, theirs = SMALL.write(tmp_path / "run"), tmp_path / "out" / "figures" / "theirs.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"x")
    written = render(run, ("md",), out=tmp_path / "out")
    assert written == {"md": tmp_path / "out" / "report.md"}
    assert theirs.exists()
    assert len(list(theirs.parent.iterdir())) > 1
