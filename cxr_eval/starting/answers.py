"""How the answers of `cxr-eval init` are read: each is checked against the person's own files, and refused in words."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cxr_eval.errors import PluginError, ProtocolError, nearest
from cxr_eval.events import printable
from cxr_eval.starting.columns import Columns, image_folders, missing_image, read_columns, tables, unfit
from cxr_eval.starting.first_protocol import scalar

NONE = "-"
"""What a person answers where there is no such column."""

Answers = dict[str, Any]
"""What was answered, by question; `table` holds the columns of the CSV file, `columns` their names."""


def listed(text: str) -> list[str]:
    """The parts of a text with commas; a part in quotes may hold one."""
    found = next(csv.reader([text], skipinitialspace=True), [])
    return [part.strip() for part in found if part.strip()]


def joined(parts: Sequence[str]) -> str:
    """The text that `listed` takes apart again."""
    return ", ".join(f'"{part}"'.replace('"', '""')[1:-1] if '"' in part or "," in part else part for part in parts)


def one_of(known: Callable[[], Sequence[str]]) -> Callable[[str, Answers], str]:
    def read(text: str, _: Answers) -> str:
        names = known()
        if text not in names:
            hint = nearest(text, names) or (f"; expected {', '.join(names)}" if len(names) < 30 else "")
            raise ProtocolError(f"'{printable(text)}' is none of them{hint}")
        return text

    return read


def plugins(kind: str, *, least: int = 1) -> Callable[[str, Answers], list[str]]:
    def read(text: str, _: Answers) -> list[str]:
        from cxr_eval import registry

        names = [] if text == NONE and not least else listed(text)
        for name in names:
            try:
                registry.find(kind, name)  # type: ignore[arg-type]
            except PluginError as error:
                raise ProtocolError(str(error).partition("\n")[0]) from None
        if len(names) < least:
            raise ProtocolError("expected at least one name")
        if len(set(names)) < len(names):
            raise ProtocolError("expected each name once")
        return names

    return read


def plugin_names(kind: str) -> Sequence[str]:
    from cxr_eval import registry

    return [name for name in registry.names(kind) if "/" not in name]  # type: ignore[arg-type]


def read_root(text: str, answers: Answers) -> str:
    folder = Path(text).expanduser()
    if not text or not folder.is_dir():
        raise ProtocolError(f"'{printable(text)}' is no folder; give the folder that holds the images")
    scalar(text)
    return text


def read_csv(text: str, answers: Answers) -> str:
    scalar(text)
    answers["columns"] = {}
    answers["table"] = read_columns(Path(answers["root"]).expanduser() / text)
    answers["columns"] = answers["table"].names
    return text


def csv_files(answers: Answers) -> Sequence[str]:
    return tables(Path(answers["root"]).expanduser())


def column(use: str, *, optional: bool = False) -> Callable[[str, Answers], str | None]:
    def read(text: str, answers: Answers) -> str | None:
        table: Columns = answers["table"]
        if optional and text == NONE and NONE not in table.names:
            return None
        if text not in table.names:
            named = ", ".join(map(printable, table.names))
            hint = nearest(text, table.names) or f"; it has {named}"
            raise ProtocolError(f"{table.path.name} has no column '{printable(text)}'{printable(hint)}")
        if why := unfit(use, table[text], table.rows):
            raise ProtocolError(
                f"column '{printable(text)}' {printable(why)}; name another{f', or {NONE}' if optional else ''}"
            )
        scalar(text)
        return text

    return read


def fitting(use: str) -> Callable[[Answers], Sequence[str]]:
    return lambda answers: answers["table"].fitting(use)


def first_of(choices: Callable[[Answers], Sequence[str]], otherwise: str | None = None) -> Callable[[Answers], str | None]:
    return lambda answers: next(iter(choices(answers)), otherwise)


def folders(answers: Answers) -> Sequence[str]:
    return image_folders(Path(answers["root"]).expanduser(), answers["table"][answers["image"]])


def read_folder(text: str, answers: Answers) -> str:
    scalar(text)
    folder = Path(answers["root"]).expanduser() / text
    missing, tried, first = missing_image(folder, answers["table"][answers["image"]])
    if missing:
        what = f"the first {tried} images" if tried > 1 else "the one image"
        told = f"{missing} of {what} that the table names are not there; first missing: {folder / first}"
        raise ProtocolError(printable(f"{told}; give the folder in {answers['root']} that the column's paths start from"))
    return text


def read_findings(text: str, answers: Answers) -> list[str]:
    names = listed(text)
    for name in names:
        column("finding")(name, answers)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ProtocolError("expected two columns or more, each once")
    return names


def read_classes(text: str, answers: Answers) -> list[str]:
    found = answers["table"][answers["label"]].values
    names = listed(text)
    for name in names:
        if name not in found:
            hint = nearest(name, found) or f"; it holds {', '.join(found)}"
            raise ProtocolError(printable(f"column '{answers['label']}' has no class '{name}'{hint}"))
    if len(names) < 2 or len(set(names)) < len(names):
        raise ProtocolError("expected two classes or more, each once")
    answers["left_out"] = [name for name in found if name not in names]
    for name in names:
        scalar(name)
    return names


def found_classes(answers: Answers) -> Sequence[str]:
    values = sorted(answers["table"][answers["label"]].values)
    # what most tables and figures begin with
    return sorted(values, key=lambda name: name.casefold() not in ("normal", "no finding", "negative", "healthy", "0"))


def read_size(text: str, _: Answers) -> int:
    if not (text.isascii() and text.isdecimal() and 16 <= int(text) <= 1024):
        raise ProtocolError(f"expected a whole number of pixels from 16 to 1024, got '{printable(text)}'")
    return int(text)


def read_radii(text: str, _: Answers) -> list[str]:
    from cxr_eval.params import parse_radius  # here, not above: the list of commands needs nothing of this

    values: dict[float, str] = {}
    for radius in listed(text):
        try:
            value = float(parse_radius(radius))
        except ValueError:
            value = -1.0
        if not 0 < value <= 1:
            raise ProtocolError(f"expected radii above 0 and up to 1, such as 2/255 or 0.01, got '{printable(radius)}'")
        # YAML reads 1e-3 as text
        values[value] = radius.replace(" ", "") if "/" in radius else f"{value:.12f}".rstrip("0").rstrip(".")
    if not values:
        raise ProtocolError("expected at least one radius, such as 2/255")
    return [values[value] for value in sorted(values)]


def has_gpu(_: Answers) -> str:
    return "gpu" if shutil.which("nvidia-smi") else "cpu"  # torch would be asked for seconds


def has_root(answers: Answers) -> bool:
    from cxr_eval import registry

    return "root" in registry.find("readers", answers["reader"]).Params.model_fields


def by_computer(of_gpu: str, of_cpu: str) -> Callable[[Answers], str]:
    return lambda answers: of_gpu if answers["computer"] == "gpu" else of_cpu


def of_table(answers: Answers) -> bool:
    return bool(answers["reader"] == "table")
