"""What an audit found, as plain records that a file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_eval.store import Audit as Stored
from cxr_eval.types import RowWarning, SkippedFile

Picture = npt.NDArray[np.uint8]
Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Suspect:
    """One image, or a pair of images, worth a look.

    split, image_id: which one. code: as in the warnings. why: one sentence. other_split, other_image_id: the second of a pair,
    empty where there is none. picture, other_picture: keys of small pictures, empty where none is shown.
    """

    split: str
    image_id: str
    code: str
    why: str
    other_split: str = ""
    other_image_id: str = ""
    picture: str = ""
    other_picture: str = ""


@dataclass(frozen=True)
class AuditResult:
    """Everything that an audit found.

    warnings: the audit's own doubts. loaded: those that loading raised before. skipped: files left out. tables: records by
    the table's name (sets, left_out, patients_across, counts, associations, reversals, recognised, label_from, regions,
    duplicates, found). suspects: images worth a look, worst first. pictures: (h, w) or (h, w, 3) uint8, at most 160 pixels a
    side, by key.
    """

    warnings: tuple[RowWarning, ...]
    loaded: tuple[RowWarning, ...]
    skipped: tuple[SkippedFile, ...]
    tables: Mapping[str, Table]
    suspects: tuple[Suspect, ...]
    pictures: Mapping[str, Picture] = field(default_factory=dict)

    def stored(self) -> Stored:
        """The same as plain data, for `audit.json` and `audit.npz`."""
        parts = {name: [asdict(each) for each in getattr(self, name)] for name in ("warnings", "loaded", "skipped", "suspects")}
        return Stored({**parts, "tables": dict(self.tables)}, self.pictures)

    @classmethod
    def restored(cls, stored: Stored) -> AuditResult:
        """What `stored` gave."""
        content = stored.content
        return cls(
            warnings=tuple(RowWarning(**each) for each in content["warnings"]),
            loaded=tuple(RowWarning(**each) for each in content["loaded"]),
            skipped=tuple(SkippedFile(**each) for each in content["skipped"]),
            tables=content["tables"],
            suspects=tuple(Suspect(**each) for each in content["suspects"]),
            pictures={name: stored.arrays[name] for name in stored.arrays},
        )
