"""Two settings of a trainer varied together: each table of an ablation as a heat map."""

from __future__ import annotations

import math

from cxr_eval.report.ablation import Ablation
from cxr_eval.report.charts.heat import heat_map, together
from cxr_eval.report.figures import Picture
from cxr_eval.report.tables import NOT_MEASURED, Table

GRID = 2
"""Names in the corner of a table of two settings: model, and the setting that goes down."""


def ablation_maps(varied: Ablation, key: str) -> list[Picture]:
    """A picture for each table of two settings and each model; none for one setting, which a table shows better."""
    pictures: list[Picture] = []
    for table in varied.tables:
        if len(table.corner) == GRID:
            pictures += _of_table(table, f"{key}-{len(pictures)}")
    return pictures


def _of_table(table: Table, key: str) -> list[Picture]:
    columns = [k for k, head in enumerate(table.columns) if not head.published]
    heads = [table.columns[k].text.partition(" = ") for k in columns]
    found = {}
    for model, lines in table.groups:
        found[model] = {
            (row, column): _value(cell.text)
            for row, line in enumerate(lines)
            for column, cell in enumerate(line.cells[k] for k in columns)
            if cell.text != NOT_MEASURED
        }
    ends = together([value for cells in found.values() for value in cells.values()])
    score = table.caption.partition(";")[0]
    pictures = []
    for place, ((model, lines), cells) in enumerate(zip(table.groups, found.values(), strict=True)):
        said = "; ".join(
            f"{table.corner[1]} {line.heads[0]}: "
            + ", ".join(f"{head[0]} {head[2]} {line.cells[k].text}" for k, head in zip(columns, heads, strict=True))
            for line in lines
        )
        pictures.append(
            heat_map(
                f"{key}-{place}",
                f"{model}: {score}" if len(table.groups) > 1 else score,
                f"{table.caption}, {model}: {said}",
                cells,
                down=[line.heads[0] for line in lines],
                across=[head[2] for head in heads],
                y=table.corner[1],
                x=heads[0][0],
                ends=ends,
            )
        )
    return pictures


def _value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
