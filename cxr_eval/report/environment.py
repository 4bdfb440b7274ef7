"""How templates are filled: nothing in a name is markup, and a value that is missing is an error."""

from __future__ import annotations

from typing import Any

import jinja2
from markupsafe import Markup

from cxr_eval.report.overview import narrow
from cxr_eval.report.results import plain
from cxr_eval.report.words import fence, markdown


def environment(format_name: str) -> jinja2.Environment:
    """The templates of one format, html or md, with the filters that they use."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("cxr_eval.report"),
        autoescape=format_name == "html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= {"md": markdown, "fence": fence, "pick": pick, "narrow": narrow}
    # only text that we made ourselves: SVG from numbers, our own style sheet
    made.filters["made_here"] = Markup
    return made


def _shown(value: object) -> object:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def pick(record: Any, *names: Any) -> list[Any]:
    """Some values of a record or a list, in that order."""
    return [record[name] for name in names]
