"""The report as one JSON file for programs: what identifies the run, what it says, every table, and every number behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from cxr_eval.report.formats.listed import Placed, listed
from cxr_eval.report.results import NOT_DEFINED
from cxr_eval.report.tables import NOT_MEASURED, Cell, Table, Words
from cxr_eval.store import Run
from cxr_eval.types import ROW_COLUMNS

SCHEMA = "cxr-eval report 1"
"""Form of the file, described in schema.json; the number is raised when a program that reads the old form would misread it."""
RUN = (
    *("name", "title", "cite", "demonstration", "drawn", "provenance", "task", "protocol", "data", "seeds", "conditions"),
    *("models", "trainers", "attacks", "corruptions", "explainers", "explanation_metrics", "train", "evaluate", "explain"),
    *("cells", "published", "compared", "versions", "device", "machine", "started", "finished", "seconds"),
)
"""Facts of the manifest that stand in the report, where the manifest has them."""
PER_LINE = ("warnings", "rows", "differences", "gaps", "checks")
"""Lists that have one record a line in the file, so that two reports can be compared line by line."""
Record = dict[str, Any]


def report_json(run: Run, content: Mapping[str, Any]) -> str:
    """The text of report.json. Numbers have every digit; one that is not defined is null, with the reason in `note`."""
    manifest = run.manifest()
    tables = listed(content)
    report = {
        "schema": SCHEMA,
        "run": _plain({name: manifest[name] for name in RUN if name in manifest}),
        "answers": [{"question": each.question, "lead": each.lead, "said": list(each.said)} for each in content["answers"]],
        "verdict": list(content["verdict"]),
        "not_tested": list(content["not_tested"]),
        "warnings": [asdict(warning) for warning in run.warnings()],
        "tables": [_table(placed, placed.table) for placed in tables if isinstance(placed.table, Table)],
        "words": [_words(placed, placed.table) for placed in tables if isinstance(placed.table, Words)],
        "rows": list(_records(run.rows()[list(ROW_COLUMNS)], ("value",))),
        "differences": list(_records(run.table("differences"), ("value",))),
        "gaps": list(_records(run.table("gaps"), ("score", "gap"))),
        "checks": [line | {"numbers": _numbers(line["numbers"])} for line in _records(run.table("checks"), ())],
    }
    return _written(report)


def _table(placed: Placed, table: Table) -> Record:
    return {
        "key": placed.key,
        "headings": list(placed.headings),
        "caption": table.caption,
        "corner": list(table.corner),
        "columns": [{"text": head.text, "sub": head.sub, "published": head.published} for head in table.columns],
        "groups": [
            {
                "name": name,
                "lines": [{"heads": list(line.heads), "cells": [_cell(cell) for cell in line.cells]} for line in lines],
            }
            for name, lines in table.groups
        ],
        "note": table.note,
        "sources": list(table.sources),
    }


def _cell(cell: Cell) -> Record:
    """The texts as every format shows them, then the number itself."""
    shown = {
        "text": cell.text,
        "interval": cell.interval,
        "spread": cell.spread,
        "count": cell.n,
        "note": cell.note,
        "best": cell.best,
        "doubt": cell.doubt,
        "published": cell.published,
        "level": cell.level,
    }
    exact = cell.exact
    if exact is None:
        numbers: Record = {"value": None, "low": None, "high": None, "n": None, "unit": None, "better": None, "doubts": []}
        why = {"": "no number", NOT_MEASURED: "not measured", NOT_DEFINED: "not defined"}.get(cell.text, "in words")
    else:
        numbers = {"value": exact.value, "low": exact.low, "high": exact.high, "n": exact.images and list(exact.images)}
        numbers |= {"unit": exact.unit, "better": exact.better, "doubts": list(exact.doubts)}
        why = _why(exact.value)
    finite = {name: _finite(value) for name, value in numbers.items()}
    return shown | finite | {"reason": "" if finite["value"] is not None else cell.note or why}


def _words(placed: Placed, table: Words) -> Record:
    return {
        "key": placed.key,
        "headings": list(placed.headings),
        "caption": table.caption,
        "heads": list(table.heads),
        "rows": [list(map(str, row)) for row in table.rows],
        "note": table.note,
    }


def _records(table: pd.DataFrame, numbers: tuple[str, ...]) -> Iterator[Record]:
    """One a line of a table of the run folder, its columns in their order; `note` says why one of `numbers` is null."""
    names = list(map(str, table.columns))
    columns = [table[name].tolist() for name in table.columns]
    for values in zip(*columns, strict=True):
        record = {name: _finite(value) for name, value in zip(names, values, strict=True)}
        if "note" in record:
            missing = [value for name, value in zip(names, values, strict=True) if name in numbers and record[name] is None]
            record["note"] = record["note"] or (_why(missing[0]) if missing else "")
        yield record


def _why(value: Any) -> str:
    """Why a number is null where nothing else says it."""
    if isinstance(value, float) and math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return "not defined"


def _numbers(text: Any) -> Any:
    """Numbers of a check, stored as the text of a JSON object."""
    try:
        return _plain(json.loads(text))
    except (TypeError, ValueError):
        return {}


def _plain(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return _finite(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _written(report: Mapping[str, Any]) -> str:
    parts = []
    for name, value in report.items():
        if name in PER_LINE and value:
            text = "[\n" + ",\n".join(f"    {_line(record)}" for record in value) + "\n  ]"
        else:
            text = json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False).replace("\n", "\n  ")
        parts.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=True, allow_nan=False)
