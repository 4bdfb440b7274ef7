"""How names, settings and times are written: plain text, Markdown, and what a person would say."""

from __future__ import annotations

import re
from typing import Any

from cxr_eval.report.results import one_line, plain
from cxr_eval.types import format_eps


def markdown(text: object) -> str:
    """Text as one line of Markdown that shows itself: nothing in it is markup, HTML or a column's end."""
    escaped = one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escaped)


def fence(text: str) -> str:
    """Text as a Markdown code block that it cannot end by itself."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}\n{plain(text).rstrip()}\n{ticks}"


def settings(values: dict[str, Any]) -> str:
    """Settings on one line: `eps = 8/255, steps = 10`; those that were not given are left out."""
    return ", ".join(f"{name} = {setting(name, value)}" for name, value in values.items() if value is not None) or "none"


def setting(name: str, value: Any) -> str:
    """One setting's value as the tables show it."""
    return _radius(name, value) or _value(value)


def _radius(name: str, value: Any) -> str:
    """A radius as the tables show it; nothing if the setting is none."""
    is_radius = isinstance(value, float) and (name.startswith("eps") or name in ("step", "delta", "update_step"))
    return format_eps(value) if is_radius else ""


def _value(value: Any) -> str:
    """A setting as YAML would have it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: `48 s`, `12 min 05 s`, `3 h 20 min`."""
    if seconds is None:
        return "not known"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
