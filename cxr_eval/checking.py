"""The audit of a protocol's images by itself: `cxr-eval data check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_eval.data.audit import audit
from cxr_eval.data.datasets import load
from cxr_eval.errors import RunError
from cxr_eval.events import Event
from cxr_eval.plan import plan
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.report import audit as page
from cxr_eval.report.render import NOTICE
from cxr_eval.store import write_audit


@dataclass(frozen=True)
class Checked:
    """What an audit left behind: its findings as plain records, the page, and the codes that the protocol calls errors."""

    findings: tuple[dict[str, Any], ...]
    report: Path
    stopped: tuple[str, ...]


def check(
    loaded: LoadedProtocol,
    *,
    out: Path | None = None,
    cache: Path,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Checked:
    """Audit the images of a protocol into a folder (`checks/NAME` if none is given); nothing is trained.

    Raises:
        CxrEvalError: the protocol is wrong, or the images cannot be loaded.
    """
    planned = plan(loaded)
    datasets = load(
        planned.protocol.data,
        cache=cache,
        trained=planned.trains,
        progress=lambda done, total: on_event(Event(step="preparing images", done=done, total=total)),
    )
    settings = planned.protocol.data.audit
    found = audit(
        datasets,
        settings,
        cache=cache,
        progress=lambda done, total: on_event(Event(step="looking at images", done=done, total=total)),
    )
    folder = Path("checks") / planned.protocol.name if out is None else out
    if (folder / "manifest.json").exists():
        raise RunError(f"{folder}: holds a run, whose audit would be overwritten; choose another folder with --out")
    stored = found.stored()
    write_audit(folder, stored)
    written = page.write(
        folder,
        stored,
        title=planned.protocol.title or planned.protocol.name,
        notice=NOTICE if datasets.drawn else "",
    )
    findings = (*found.loaded, *found.warnings)
    stopped = tuple(dict.fromkeys(finding.code for finding in findings if finding.code in settings.errors))
    return Checked(tuple(asdict(finding) for finding in findings), written["html"], stopped)
