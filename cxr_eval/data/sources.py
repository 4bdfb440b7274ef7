"""What the readers of a protocol give: tables with checked rows, renamed labels, and only as many images as were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pydantic

from cxr_eval import registry
from cxr_eval.data import manifest
from cxr_eval.data.divide import limited
from cxr_eval.data.manifest import BOXES, MASK, SPLITS
from cxr_eval.errors import DataError, PluginError, nearest
from cxr_eval.plugin import Reader
from cxr_eval.protocol import Data, Source
from cxr_eval.types import LABEL, SkippedFile


@dataclass(frozen=True)
class ReaderInfo:
    """Where one set came from: `train` or an outside set's name, reader, its package and version, its source, drawn or not."""

    dataset: str
    name: str
    package: str
    source: str
    drawn: bool


@dataclass(frozen=True)
class LeftOut:
    """Images that a reader did not take from a dataset, and why."""

    dataset: str
    reader: str
    reason: str
    images: int


@dataclass(frozen=True)
class Table:
    """The rows that one source gives to a set."""

    rows: pd.DataFrame
    info: ReaderInfo
    root: str
    colour: bool
    skipped: tuple[SkippedFile, ...]
    left_out: tuple[LeftOut, ...]


def sources_of(data: Data) -> dict[str, tuple[Source, ...]]:
    """Every source by its set: `train`, then the outside sets.

    Raises:
        DataError: an outside set is called like a split.
    """
    for name in data.outside:
        if name in SPLITS:
            raise DataError(f"data.outside: a set cannot be called '{name}', the name of a split; choose another name")
    return {"train": (data.train,), **data.outside}


def read(source: Source, dataset: str, data: Data, cache: Path) -> Table:
    """One source's rows: read, checked, renamed, and at most `images` of them.

    Raises:
        DataError: the dataset is not as its reader expects.
        PluginError: the reader is unknown or its settings are wrong.
    """
    reader = make_reader(source, "data.train" if dataset == "train" else f"data.outside.{dataset}")
    table, reasons = manifest.used(reader.read(cache), reader=source.reader)
    table, skipped = manifest.checked(
        _narrowed(_renamed(table, source), data.classes), reader=source.reader, skip=data.on_error == "skip"
    )
    if source.images is not None:
        table = limited(table, source.images, data.split.seed)
    info = ReaderInfo(
        dataset, source.reader, registry.origin("readers", source.reader), type(reader).source, type(reader).drawn
    )
    left_out = tuple(LeftOut(dataset, source.reader, reason, count) for reason, count in reasons.items())
    root = str(Path(str(source.settings.get("root", ""))).expanduser().absolute())
    return Table(table, info, root, type(reader).colour, skipped, left_out)


def make_reader(source: Source, where: str) -> Reader:
    """The reader of a source with its settings. where: the place that messages name.

    Raises:
        PluginError: it is unknown or refuses its settings.
    """
    plugin: type[Reader] = registry.find("readers", source.reader)
    try:
        return plugin(plugin.Params.model_validate(source.settings))
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        setting = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            close = nearest(setting, plugin.Params.model_fields)
            told = f"has no setting '{setting}'{close}"
        elif problem["type"] == "missing":
            told = f"needs the setting '{setting}'"
        else:
            told = f"setting '{setting}': " if setting else ""
            told += problem["msg"].removeprefix("Value error, ") + (f", got {problem['input']!r}" if setting else "")
        raise PluginError(f"{where}: reader '{source.reader}' {told}") from None


def joined(tables: tuple[Table, ...], name: str) -> pd.DataFrame:
    """All rows of an outside set, one source below the other.

    With several sources ids start with the reader's name, and with a number from its second folder on, for the patients of two
    datasets are different people; rows without a site get the reader's name as site, because where a picture comes from may
    then tell its label.

    Raises:
        DataError: two sources give one image, or one gives classes and another findings.
    """
    if len(tables) == 1:
        return tables[0].rows
    if len({manifest.task_of(table.rows) for table in tables}) > 1:
        raise DataError(f"data.outside.{name}: one of its sources gives classes, another findings; they must agree")
    parts = []
    roots: dict[str, list[str]] = {}
    for table in tables:
        known = roots.setdefault(table.info.name, [])
        known += [] if table.root in known else [table.root]
        number = known.index(table.root) + 1
        called = table.info.name if number == 1 else f"{table.info.name} {number}"
        ids = {column: f"{called}/" + table.rows[column] for column in ("image_id", "patient")}
        site = table.rows["site"].fillna(called) if "site" in table.rows else called
        parts.append(table.rows.assign(**ids, site=site))
    rows = pd.concat(parts, ignore_index=True)
    twice = rows["image_id"].duplicated().to_numpy()
    if twice.any():
        image = rows["image_id"].iloc[int(twice.argmax())]
        raise DataError(f"data.outside.{name}: two of its sources give the image {image}; an image is tested once")
    return rows


def _renamed(table: pd.DataFrame, source: Source) -> pd.DataFrame:
    """The table with classes and findings called as the source says."""
    if source.rename is None:
        return table
    found = manifest.findings(table)
    known = found or tuple(sorted({str(label) for label in table["label"].dropna()} if "label" in table else ()))
    for old in source.rename:
        if old not in known:
            close = nearest(old, known) or f"; found: {', '.join(known)}"
            raise DataError(f"{source.reader}: rename: no class or finding is called '{old}'{close}")
    columns = {start + old: start + new for old, new in source.rename.items() for start in (LABEL, BOXES, MASK)}
    renamed = table.rename(columns=columns)
    if renamed.columns.duplicated().any():
        twice = str(renamed.columns[renamed.columns.duplicated()][0]).partition(":")[2]
        raise DataError(f"{source.reader}: rename: two findings, or their regions, would be called '{twice}'; keep them apart")
    if not found:
        renamed["label"] = [source.rename.get(str(label), label) for label in renamed["label"]]
    return renamed


def _narrowed(table: pd.DataFrame, classes: tuple[str, ...] | None) -> pd.DataFrame:
    """The table without findings that the protocol does not ask for; as it is if that would leave none."""
    found = manifest.findings(table)
    if classes is None or not set(found) & set(classes):
        return table
    return table.drop(columns=[LABEL + finding for finding in found if finding not in classes])
