"""The per-image tables of one cell: what all its rows are made from, each found again by what it is of.

A run records here which file of which evaluation it used for what. From the same record, read from the run folder, the rows can
be made again, without torch and without the images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from cxr_eval.errors import RunError
from cxr_eval.types import STAGE_SEPARATOR

Kind = Literal[
    "clean",
    "corrupted",
    "subgroups",
    "attack",
    "searched",
    "anatomy",
    "anatomy attacks",
    "region shares",
    "explanations",
    "similarity",
]
"""What a table is of.

clean, corrupted: predictions on a split; condition `CORRUPTION:SEVERITY` of the second. subgroups: the subgroup of each image
of a split. attack: outcomes; the condition is the attack's label. searched: when each image broke in the search of the
validity checks; condition `convergence:EPS`. anatomy, anatomy attacks: of one kind of region, which is the condition. region
shares: of the images that are explained. explanations, similarity: values of metrics in one condition, by explainer.
"""


@dataclass(frozen=True)
class Part:
    """One file of one evaluation of the cell.

    label: what the protocol calls the attack, or the metric, in it; it may have been computed under another name.
    """

    evaluation: str
    file: str
    label: str = ""


@dataclass(frozen=True)
class Source:
    """Of what one table is, and the files that it is read from, one below the other."""

    kind: Kind
    split: str
    condition: str
    explainer: str
    parts: tuple[Part, ...]


class CellTables:
    """The tables of one cell, in the order in which the run used them first.

    folder: the cell's, with one folder an evaluation.
    """

    def __init__(self, folder: Path, sources: Iterable[Source] = ()) -> None:
        self.folder = folder
        self._sources = {(each.kind, each.split, each.condition, each.explainer): each for each in sources}

    @classmethod
    def stored(cls, folder: Path, record: Iterable[Mapping[str, Any]]) -> CellTables:
        """The tables that a manifest lists.

        Raises:
            RunError: the list is not one.
        """
        try:
            sources = [Source(**{**entry, "parts": tuple(Part(**part) for part in entry["parts"])}) for entry in record]
            unknown = [source.kind for source in sources if source.kind not in get_args(Kind)]
        except (TypeError, KeyError) as error:
            raise RunError(f"{folder}: the manifest's list of its tables cannot be read ({error})") from None
        if unknown:
            raise RunError(f"{folder}: the manifest lists tables of '{unknown[0]}', which this version does not know")
        return cls(folder, sources)

    def renamed(self, splits: Mapping[str, str], labels: Mapping[str, str], maps: Collection[str]) -> CellTables:
        """The same files under other names of splits, attacks and corruptions; what is of others than `labels` is left out.

        maps: explainers and explanation metrics; values of other explainers and by other metrics are left out too.
        """
        found = []
        for source in self._sources.values():
            condition, parts = source.condition, source.parts
            if source.kind in ("explanations", "similarity"):
                parts = tuple(part for part in parts if not part.label or part.label in maps)
                if not parts or source.explainer not in maps:
                    continue
            if source.kind == "attack":
                if condition not in labels:
                    continue
                condition = labels[condition]
                parts = tuple(replace(part, label=condition) for part in parts)
            elif source.kind in ("corrupted", "explanations", "similarity") and ":" in condition:
                name, _, amount = condition.rpartition(":")
                if name not in labels:
                    continue
                condition = f"{labels[name]}:{amount}"
            found.append(replace(source, split=splits.get(source.split, source.split), condition=condition, parts=parts))
        return CellTables(self.folder, found)

    @property
    def record(self) -> list[dict[str, Any]]:
        """What `stored` takes, as plain data."""
        return [asdict(source) for source in self._sources.values()]

    @property
    def files(self) -> Iterator[Path]:
        """All files, each once."""
        seen = dict.fromkeys(part for source in self._sources.values() for part in source.parts)
        yield from dict.fromkeys(self.folder / part.evaluation / part.file for part in seen)

    def add(self, kind: Kind, parts: Iterable[Part], *, split: str, condition: str = "", explainer: str = "") -> pd.DataFrame:
        """Record that a table is read from these files, and read it."""
        self._sources[kind, split, condition, explainer] = Source(kind, split, condition, explainer, tuple(parts))
        return self.read(kind, split=split, condition=condition, explainer=explainer)

    def has(self, kind: Kind, *, split: str, condition: str = "", explainer: str = "") -> bool:
        """True if there is such a table."""
        return (kind, split, condition, explainer) in self._sources

    def conditions(self, kind: Kind, split: str) -> list[str]:
        """Conditions of which there are tables of one kind on one split, in the order of their use."""
        return list(
            dict.fromkeys(each.condition for each in self._sources.values() if (each.kind, each.split) == (kind, split))
        )

    def explainers(self, kind: Kind, split: str, condition: str) -> list[str]:
        """Explainers of which there are tables of one kind, split and condition, in the order of their use."""
        return [
            each.explainer
            for each in self._sources.values()
            if (each.kind, each.split, each.condition) == (kind, split, condition)
        ]

    def labels(self, kind: Kind, split: str) -> list[str]:
        """What the protocol calls the attacks or metrics that tables of one kind on one split are of."""
        found = [each for each in self._sources.values() if (each.kind, each.split) == (kind, split)]
        return list(dict.fromkeys(part.label for each in found for part in each.parts))

    def read(self, kind: Kind, *, split: str, condition: str = "", explainer: str = "") -> pd.DataFrame:
        """One table.

        Raises:
            KeyError: the run had none of this.
            RunError: its file is missing or no table.
        """
        source = self._sources[kind, split, condition, explainer]
        tables = [self._part(kind, part) for part in source.parts]
        table = pd.concat(tables, ignore_index=True) if len(tables) != 1 else tables[0]
        return table.assign(explainer=explainer) if explainer else table

    def _part(self, kind: Kind, part: Part) -> pd.DataFrame:
        path = self.folder / part.evaluation / part.file
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are one of these
            why = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            raise RunError(f"{path}: {why}; run the protocol again to restore it") from error
        if not part.label:
            return table
        if kind == "attack":
            return relabelled(table, part.label)
        return table.assign(metric=[part.label + "".join(name.partition("[")[1:]) for name in table["metric"]])


def relabelled(outcomes: pd.DataFrame, label: str) -> pd.DataFrame:
    """An attack's table under the attack's present label; it may have been made under another."""
    if outcomes.empty or (old := str(outcomes["attack"].iloc[0])) == label:
        return outcomes
    stages = [stage for stage in str(outcomes["stages"].iloc[0]).split(STAGE_SEPARATOR) if stage]
    renamed = {old: label} | {f"{old} {stage}": f"{label} {stage}" for stage in stages}
    return outcomes.assign(attack=label, by=outcomes["by"].replace(renamed))
