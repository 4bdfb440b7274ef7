"""How names, settings, times and findings are written: plain text, Markdown, and what a person would say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cxr_eval.report.results import one_line, plain
from cxr_eval.types import format_eps

SHOWN = 0.05
"""Corrected p-value below which a difference counts as shown."""
TINY = 1e-9
"""Difference of one seed that is rounding of sums, and no sign."""
FINDINGS = {
    "better": ("{who} better", "at best {high} and at worst {low}, a difference shown"),
    "higher": ("{who} higher", "at most {high} and at least {low}, a difference shown"),
    "seeds": ("seeds disagree", "from {low} to {high}, and the seeds disagree on which is higher"),
    "none": ("no difference shown", "from {low} to {high}, no difference shown"),
    "apart": ("not compared", "from {low} to {high}, not compared with each other"),
}
"""What a comparison of two trainers came to -> in a table's cell, in the summary's sentence."""


@dataclass(frozen=True)
class Finding:
    """What one comparison came to, and which trainer it speaks for, if any."""

    kind: Literal["better", "higher", "seeds", "none", "apart"]
    who: str = ""

    @property
    def said(self) -> str:
        """In a table's cell."""
        return FINDINGS[self.kind][0].format(who=self.who)

    def sentence(self, high: str, low: str) -> str:
        """In the summary, with the higher and the lower number."""
        return FINDINGS[self.kind][1].format(high=high, low=low)


def finding(line: Mapping[str, Any]) -> Finding:
    """What a line of differences.csv shows: nothing without a corrected p-value below 0.05, or where seeds have both signs."""
    value, p = float(line["value"]), float(line["p_holm"])
    if math.isnan(value):
        return Finding("apart")
    if math.isnan(p) or p >= SHOWN or value == 0:
        return Finding("none")
    if float(line["seeds_low"]) < -TINY and float(line["seeds_high"]) > TINY:
        return Finding("seeds")
    ahead = (value > 0) == (line["better"] != "lower")
    return Finding("higher" if line["better"] == "neither" else "better", line["trainer"] if ahead else line["against"])


DATASETS = {
    "chexlocalize": "CheXlocalize",
    "covid_qu_ex": "COVID-QU-Ex",
    "github_covid": "COVID-19 Image Data Collection",
    "ham10000": "HAM10000",
    "nih_chestxray14": "NIH ChestX-ray14",
    "phantom": "drawn X-rays",
    "rsna_pneumonia": "RSNA Pneumonia Detection Challenge",
    "siim_covid19": "SIIM-FISABIO-RSNA COVID-19",
}
"""What people call the data of a reader."""
LESIONS = frozenset({"ham10000"})
"""Readers of data that names no patients: each lesion counts as one."""
PROVENANCE = re.compile(r"(?P<readers>[a-z0-9_+]+):(?P<hash>[0-9a-f]{8})(?P<drawn> DRAWN IMAGES, NO PATIENTS)?")
"""How rows say on which images they were measured."""


def whose(data: Mapping[str, Any]) -> str:
    """What the images of one group have in common: a `patient`, or a `lesion` where the data names no patients."""
    return "lesion" if data["reader"]["name"] in LESIONS else "patient"


def dataset(provenance: str, data: Mapping[str, Any]) -> str:
    """Where images come from, in words: `NIH ChestX-ray14 (nih_chestxray14:ffa48457)`; text of another form as it is.

    data: that part of the manifest, which knows the settings of the readers.
    """
    told = []
    for part in provenance.split("; "):
        found = PROVENANCE.fullmatch(part)
        if found is None:
            told.append(part.strip(". "))
            continue
        names = [_dataset(name, _settings_of(name, data)) for name in found["readers"].split("+")]
        ends = ", no patient" if found["drawn"] else ""
        told.append(f"{' and '.join(names)} ({found['readers']}:{found['hash']}){ends}")
    return "; ".join(told)


def _settings_of(name: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the first reader of that name."""
    outside = [one for many in data["outside"].values() for one in (many if isinstance(many, list) else [many])]
    return next((reader["settings"] for reader in [data["reader"], *outside] if reader["name"] == name), {})


def _dataset(name: str, given: Mapping[str, Any]) -> str:
    """What a reader reads: a table by its file and by what was taken of it."""
    if name == "medmnist":
        return f"MedMNIST {given.get('set', '')}".strip()
    if name != "table":
        return DATASETS.get(name, name)
    where = given.get("where") or {}
    taken = [f"{column} {' or '.join(map(str, values))}" for column, values in where.items() if isinstance(values, list)]
    return f"table {given.get('csv') or given.get('root') or ''}".strip() + "".join(f", {one}" for one in taken)


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


def on_networks(scopes: Sequence[str], networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Scopes of warnings, with one for all networks that share a place: `all 9 networks, test, clean, gradcam`.

    networks: the cells of the manifest that were trained: model, trainer, seed. What holds for one network only stays as it
    is.
    """
    names = {f"{cell['model']} / {cell['trainer']} / seed {cell['seed']}": cell for cell in networks}
    at: dict[str, dict[str, str]] = {}
    for scope in scopes:
        name = next((name for name in names if scope == name or scope.startswith(f"{name}, ")), "")
        at.setdefault(scope.removeprefix(name) if name else scope, {})[name] = scope
    told: list[str] = []
    for place, by_name in at.items():
        if len(by_name) == 1:
            told += by_name.values()
        elif len(by_name) == len(names):
            told.append(f"all {len(names)} networks{place}")
        else:
            seeds: dict[str, list[str]] = {}
            for name in by_name:
                cell = names[name]
                seeds.setdefault(f"{cell['model']} / {cell['trainer']}", []).append(str(cell["seed"]))
            listed = "; ".join(f"{who} / seed{'s' * (len(of) > 1)} {', '.join(of)}" for who, of in seeds.items())
            told.append(f"{len(by_name)} of {len(names)} networks ({listed}){place}")
    return told


def with_needs(label: str, use: Mapping[str, Any]) -> str:
    """A trainer's label, and which trainer's networks its own start from or are fitted beside: `AMAT (reference standard)`."""
    kinds = (("from", "warm_start"), ("reference", "reference"))
    needs = ", ".join(f"{said} {use[kind]}" for said, kind in kinds if use.get(kind))
    return f"{label} ({needs})" if needs else label
