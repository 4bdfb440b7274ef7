"""Runs a protocol: data, cells, rows, report; what is there already is not computed again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cxr_eval import cut_short
from cxr_eval.cells import CellName, CellWork
from cxr_eval.choice import Choice, choose
from cxr_eval.classifier import find_device
from cxr_eval.comparing import compare_trainers
from cxr_eval.data.audit import audit, enforce
from cxr_eval.data.datasets import Datasets, load
from cxr_eval.errors import PluginError, TrainingError
from cxr_eval.estimating.pieces import run_folder
from cxr_eval.evaluating import Evaluation, scores_of
from cxr_eval.events import Event, headline
from cxr_eval.facts import Facts
from cxr_eval.gate import CHECK_COLUMNS
from cxr_eval.panels import collect
from cxr_eval.plan import cell_count, plan
from cxr_eval.preflight import check
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.provenance import identify, provenance
from cxr_eval.report.formats import pdf
from cxr_eval.report.render import render
from cxr_eval.run_doubts import short_choices, whole_run
from cxr_eval.scoring import GAP_COLUMNS, curves_of
from cxr_eval.store import Run, content_key
from cxr_eval.types import Row, RowWarning

Tell = Callable[[Event], None]
KEPT = ("seconds", "parameters", "epochs", "best_epoch", "device", "torch")
"""What the manifest says of a cell's training."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind: its folder, the report, and a line for each cell that failed."""

    folder: Path
    report: Path
    failed: tuple[str, ...]


@dataclass(frozen=True)
class _Result:
    """One cell's part of the run."""

    work: CellWork
    rows: tuple[Row, ...]
    warnings: tuple[RowWarning, ...]
    checks: pd.DataFrame
    gaps: pd.DataFrame
    about: dict[str, Any]
    history: pd.DataFrame


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where prepared images are kept for all runs: CXR_EVAL_CACHE, or `cxr_eval` in the user's cache folder."""
    if environ.get("CXR_EVAL_CACHE"):
        return Path(environ["CXR_EVAL_CACHE"])
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr_eval"


def run(
    loaded: LoadedProtocol,
    *,
    out: Path | None = None,
    device: str = "auto",
    on_event: Tell = lambda event: None,
    doubts: Sequence[RowWarning] = (),
) -> Outcome:
    """Run a protocol into a folder (`runs/NAME-HASH` if none is given) and write its report.

    What is in the folder already, or in a run beside it, is not computed again. An interrupted run goes on where it stopped.
    doubts: what the caller knows against the images or the networks, stored with the others.

    Raises:
        CxrEvalError: the protocol, a plugin, the data or the device is not as it must be; nothing is half done.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    planned = plan(loaded)
    if "pdf" in planned.protocol.report.formats:
        pdf.browser()  # said before hours of work, not after
    used = find_device(device)
    datasets = load(
        planned.protocol.data,
        cache=cache_folder(),
        trained=planned.trains,
        progress=lambda done, total: on_event(Event(step="preparing images", done=done, total=total)),
    )
    on_event(Event(_data_line(datasets)))
    audited = audit(
        datasets,
        planned.protocol.data.audit,
        cache=cache_folder(),
        progress=lambda done, total: on_event(Event(step="looking at images", done=done, total=total)),
    )
    enforce(audited, planned.protocol.data.audit.errors)
    protocol_key = content_key(loaded.resolved)
    folder = run_folder(loaded, planned, datasets, out)

    facts = Facts(identify(loaded, protocol_key, planned, datasets, used, {}))
    results: list[_Result] = []
    total = cell_count(planned)

    def tell(event: Event) -> None:
        on_event(replace(event, cell=len(results), cells=total))

    works: dict[CellName, CellWork] = {}
    for cell in planned.cells:
        warm_start, reference = (
            works[cell.model.label, label, cell.seed] if label else None
            for label in (cell.needs.warm_start, cell.needs.reference)
        )
        works[cell.model.label, cell.trainer.label, cell.seed] = CellWork(
            folder, planned, cell, datasets, device, tell, warm_start, reference, works
        )
    # float32 means float32: without this, GPUs round the factors of convolutions to ten bits
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        check(loaded, planned, datasets, [*works.values()])
        with folder.at_work():
            choices: dict[str, Choice] = {}
            for work in works.values():
                if _fits(work, [result.work for result in results if not result.about["error"]], choices, tell):
                    results.append(_cell(folder, work, facts))
            failed = tuple(f"{result.work.name}: {result.about['error']}" for result in results if result.about["error"])
            manifest = identify(loaded, protocol_key, planned, datasets, used, choices) | {
                "cells": [result.about for result in results],
                "started": started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 1),
            }
            trained = [result.work for result in results if not result.about["error"]]
            tables = {work.key: work.tables.record for work in trained}
            whole = Facts(manifest)
            cells = [scores_of(work, whole) for work in trained]
            on_event(Event("comparing trainers"))
            folder.write(
                manifest=manifest,
                protocol=loaded.portable,
                included=loaded.included,
                rows=[row for result in results for row in result.rows],
                warnings=[
                    *cut_short.doubts(loaded, planned),
                    *whole_run(planned, datasets, failed),
                    *doubts,
                    *audited.warnings,
                    *short_choices(planned, choices),
                    *(warning for result in results for warning in result.warnings),
                ],
                audit=audited.stored(),
                skipped=datasets.skipped,
                counts=datasets.counts,
                history=pd.concat([result.history for result in results], ignore_index=True),
                gallery=collect(trained, planned.protocol.report.gallery),
                later={
                    "checks": _lines([result.checks for result in results], CHECK_COLUMNS),
                    "differences": compare_trainers(whole, cells),
                    "gaps": _lines([result.gaps for result in results], GAP_COLUMNS),
                    "curves": curves_of(cells, whole),
                },
                tables=tables,
            )
            on_event(Event("writing the report"))
            written = render(folder, planned.protocol.report.formats)
    report = written.get("html") or written.get("md") or next(iter(written.values()), folder.folder / "rows.csv")
    return Outcome(folder.folder, report, failed)


def _fits(work: CellWork, done: Sequence[CellWork], choices: dict[str, Choice], tell: Tell) -> bool:
    """True if a cell belongs to the run; in a second stage the models are chosen as soon as the first of its cells comes."""
    label, selection = work.cell.trainer.label, work.cell.needs.models
    if selection is None or selection.best is None:
        return True
    if label not in choices:
        compared = [other for other in done if other.cell.trainer.label == selection.of]
        seeds = Counter(other.cell.model.label for other in compared)
        whole = [other for other in compared if seeds[other.cell.model.label] == len(work.plan.protocol.train.seeds)]
        choices[label] = choose(selection, whole)
        tell(Event(choices[label].said(label, selection)))
    return work.cell.model.label in choices[label].models


def _cell(folder: Run, work: CellWork, facts: Facts) -> _Result:
    """Train and evaluate one cell; what fails in it fails this cell alone, and what it finished is kept."""
    cell = work.cell
    about: dict[str, Any] = {
        "model": cell.model.label,
        "trainer": cell.trainer.label,
        "seed": cell.seed,
        "key": work.key,
        "error": None,
    }
    started = time.monotonic()
    try:
        work.train()
        measured = Evaluation(work, facts).whole()
    except (TrainingError, PluginError) as error:
        work.tell(Event(f"{work.name}: FAILED: {error}", name=work.name, ended="failed"))
        nothing = {"status": "failed", "error": str(error)} | dict.fromkeys(KEPT)
        return _Result(
            work,
            (),
            (),
            pd.DataFrame(),
            pd.DataFrame(),
            about | nothing,
            pd.DataFrame(columns=["model", "trainer", "seed", "epoch"]),
        )
    finally:
        work.release()
    seconds = {"seconds": round(time.monotonic() - started, 1)}
    work.tell(Event(name=work.name, scores=headline(measured.rows) | seconds, ended="done"))
    trained = folder.cell(work.key)
    kept = {name: trained.about()[name] for name in KEPT}
    history = pd.read_csv(trained.folder / "history.csv")
    for place, name in enumerate(("model", "trainer", "seed")):
        history.insert(place, name, about[name])
    found = measured.rows, measured.warnings, measured.checks, measured.gaps
    return _Result(work, *found, about | kept | {"status": "done"}, history)


def _lines(tables: Iterable[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Lines of all cells, one below the other."""
    there = [table for table in tables if len(table)]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame(columns=list(columns))


def _data_line(datasets: Datasets) -> str:
    sizes = ", ".join(f"{name} {len(images)}" for name, images in datasets.splits.items())
    return f"data: {provenance(datasets)}: {sizes} images; classes {', '.join(datasets.classes)}"
