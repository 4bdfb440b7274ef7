"""The audit of a protocol's images before anything is trained: copies, confounded sources, odd pictures, odd labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from cxr_eval.data.audit import columns, pixels, probe, regions
from cxr_eval.data.audit.duplicates import Pairs, pairs
from cxr_eval.data.audit.looks import Looks, look
from cxr_eval.data.audit.records import AuditResult, Picture, Suspect, Table
from cxr_eval.data.datasets import Datasets
from cxr_eval.data.manifest import SPLITS
from cxr_eval.errors import DataError
from cxr_eval.images import ImageSet
from cxr_eval.protocol import Audit
from cxr_eval.store import content_key, read_audit, write_audit
from cxr_eval.types import RowWarning

__all__ = ["AuditResult", "Suspect", "audit", "enforce"]

VERSION = 2
"""Raised when the same images would be found otherwise; part of the key."""
LISTED = 100
"""Suspects of one kind that are listed at most; how many there are is told in any case."""
PICTURE_SIDE = 160
"""Longest side of the pictures of suspects, pixels."""
ORDER = (
    *("near_duplicate_labels", "near_duplicates_across", "inverted_images", "flat_images", "region_doubt", "label_doubt"),
    *("near_duplicates", "burned_in"),
)
"""Kinds of suspects, worst first."""
TOLD = {
    "near_duplicate_labels": ("warn", "{} of the same picture under two patients with different labels: one must be wrong."),
    "near_duplicates": (
        "note",
        "{} of the same picture under two patients; they may be one person, or one case published twice.",
    ),
    "inverted_images": ("warn", "{} inverted: black and white seem to be exchanged."),
    "flat_images": ("warn", "{} of one grey value: nothing can be learned from them, and any answer on them is a guess."),
    "region_doubt": ("note", "{} with a region that cannot mean what it says; localisation scores suffer from them."),
    "label_doubt": ("note", "{}, those whose label a tiny model holds for least likely: worth a second look, no more."),
    "burned_in": (
        "note",
        "{} with bright signs near the borders, as letters and side markers are: a network can read them too.",
    ),
}
"""Level and message of each kind of suspect; pairs across sets are told set by set."""
PAIRED = ("near_duplicate_labels", "near_duplicates_across", "near_duplicates")


def audit(
    datasets: Datasets, settings: Audit, *, cache: Path, progress: Callable[[int, int], None] | None = None
) -> AuditResult:
    """Everything that is odd about the images of a protocol; found again in `cache` if images and settings are the same.

    progress: called with (images read, images in all).
    """
    about = {
        "version": VERSION,
        "data": datasets.hash,
        "shapes": {name: images.shape for name, images in datasets.splits.items()},
        "settings": settings.model_dump(mode="json", exclude={"errors"}),
        "readers": [[info.dataset, info.name] for info in datasets.readers],
        "warnings": [[warning.code, warning.scope, warning.message] for warning in datasets.warnings],
        "left_out": [asdict(each) for each in datasets.left_out],
        "skipped": [[skipped.reader, skipped.image, skipped.reason] for skipped in datasets.skipped],
    }
    folder = cache / "audit" / content_key(about)
    stored = read_audit(folder)
    if stored is not None:
        return AuditResult.restored(stored)
    found = _audited(datasets, settings, progress)
    write_audit(folder, found.stored())
    return found


def enforce(result: AuditResult, errors: Sequence[str]) -> None:
    """Stop where a finding was made that the protocol does not put up with.

    Raises:
        DataError: with the finding's message, and the first image concerned.
    """
    for warning in (*result.loaded, *result.warnings):
        if warning.code in errors:
            first = next((each for each in result.suspects if each.code == warning.code), None)
            named = "" if first is None else f" The first: {_named(first)}."
            raise DataError(
                f"{warning.code} ({warning.scope}): {warning.message}{named} Mend the data, or take '{warning.code}' out of"
                " data.audit.errors; cxr-eval data check shows all findings with pictures"
            )


def _named(suspect: Suspect) -> str:
    first = f"'{suspect.image_id}' of '{suspect.split}'"
    return f"{first} and '{suspect.other_image_id}' of '{suspect.other_split}'" if suspect.other_image_id else first


def _audited(datasets: Datasets, settings: Audit, progress: Callable[[int, int], None] | None) -> AuditResult:
    splits = {name: images for name, images in datasets.splits.items() if len(images)}  # without training none are needed
    datasets = replace(datasets, splits=splits)
    people = _people(datasets)
    looks = look(splits, progress)
    known = columns.columns(splits, looks)
    together = columns.associations(splits, known)
    reversals = columns.reversals(together)
    suspects = [*pixels.suspects(splits, looks), *regions.suspects(splits)]
    tables: dict[str, Table] = {
        "sets": _sets(datasets, looks),
        "left_out": [asdict(each) for each in datasets.left_out],
        "patients_across": _patients_across(people),
        "counts": columns.counts(splits, known),
        "associations": columns.told(together),
        "reversals": reversals,
        "regions": regions.sizes(splits),
        "recognised": [],
        "label_from": [],
        "duplicates": [],
    }
    if settings.duplicates:
        alike = pairs(looks, patient=np.concatenate([*people.values()]), correlation=settings.correlation)
        suspects += _copies(splits, looks, alike)
        tables["duplicates"] = _copy_counts(suspects, alike)
    if settings.probe:
        suspects += _probe(splits, looks, known, tables)
    suspects.sort(key=lambda each: ORDER.index(each.code))
    count = Counter(each.code for each in suspects)
    tables["found"] = [{"code": code, "count": count[code], "listed": min(count[code], LISTED)} for code in ORDER]
    warnings = [
        *_across(suspects),
        *_told(count),
        *pixels.inverted_sets(splits, looks),
        *columns.tells_label(together),
        *columns.reversed_warnings(reversals),
        *probe.recognised_warnings(tables["recognised"], tables["label_from"]),
    ]
    listed = [each for code in ORDER for each in [each for each in suspects if each.code == code][:LISTED]]
    shown, pictures = _pictures(splits, listed, settings.pictures)
    return AuditResult(tuple(warnings), datasets.warnings, datasets.skipped, tables, shown, pictures)


def _sets(datasets: Datasets, looks: Looks) -> Table:
    """One record a set: where it comes from, how many images and patients, their size, type, file formats and grey."""
    readers = {info.dataset: info.name for info in datasets.readers}
    rows: Table = []
    for name, images in datasets.splits.items():
        channels, height, width = images.shape
        formats = Counter(Path(str(path)).suffix.lower().lstrip(".") or "none" for path in images.table["image"])
        grey = looks.numbers[looks.of(name), 0]
        rows.append(
            {
                "split": name,
                "reader": readers.get(name, readers["train"]),
                "images": len(images),
                "patients": int(images.table["patient"].nunique()),
                "height": height,
                "width": width,
                "channels": channels,
                "type": str(images.pixels.dtype),
                "formats": dict(formats.most_common()),
                "grey_mean": float(grey.mean()),
                "grey_std": float(grey.std()),
            }
        )
    return rows


def _people(datasets: Datasets) -> dict[str, npt.NDArray[np.object_]]:
    """For each set its patients' ids behind the reader's name: the same id of another reader is another person."""
    readers: dict[str, list[str]] = {}
    for info in datasets.readers:
        readers.setdefault(info.dataset, []).append(info.name)
    found = {}
    for name, images in datasets.splits.items():
        of_set = readers.get(name, readers["train"])
        start = f"{of_set[0]}/" if len(of_set) == 1 else ""  # ids of several sources have it already
        found[name] = (start + images.table["patient"].astype(str)).to_numpy(dtype=object)
    return found


def _patients_across(people: Mapping[str, npt.NDArray[np.object_]]) -> Table:
    """Patients that two sets have in common; loading refuses those that would make numbers too good."""
    patients = {name: set(ids) for name, ids in people.items()}
    names = list(people)
    return [
        {"split": a, "other": b, "patients": len(patients[a] & patients[b])}
        for place, a in enumerate(names)
        for b in names[place + 1 :]
    ]


def _copies(splits: Mapping[str, ImageSet], looks: Looks, alike: Pairs) -> Iterator[Suspect]:
    for first, second, correlation in zip(alike.first, alike.second, alike.correlation, strict=True):
        a, b = (looks.splits[looks.split[row]] for row in (first, second))
        i, j = looks.row[first], looks.row[second]
        same = str(splits[a].y[i].tolist()) == str(splits[b].y[j].tolist())
        across = a != b and ({a, b} & {"train", "val"})
        code = "near_duplicate_labels" if not same else "near_duplicates_across" if across else "near_duplicates"
        why = f"Correlation {min(1, correlation):.4f}, different patients" + ("." if same else " and different labels.")
        yield Suspect(a, str(splits[a].table["image_id"].iloc[i]), code, why, b, str(splits[b].table["image_id"].iloc[j]))


def _copy_counts(suspects: Sequence[Suspect], alike: Pairs) -> Table:
    """Pairs by the two sets that they lie in; the first record says how many pictures were compared."""
    copies = [each for each in suspects if each.code in PAIRED]
    count = Counter((each.split, each.other_split) for each in copies)
    different = Counter((each.split, each.other_split) for each in copies if each.code == "near_duplicate_labels")
    rows: Table = [{"split": a, "other": b, "pairs": n, "different_labels": different[a, b]} for (a, b), n in count.items()]
    return [{"compared": alike.compared, "candidates": alike.candidates, "pairs": len(alike.first)}, *rows]


def _across(suspects: Sequence[Suspect]) -> Iterator[RowWarning]:
    """A doubt for each set that holds pictures which another patient has in the training or validation images."""
    fitted = ("train", "val")
    copies = [each for each in suspects if each.code in PAIRED and each.split != each.other_split]
    held: dict[str, set[str]] = {}
    for each in copies:
        ends = [(each.split, each.image_id), (each.other_split, each.other_image_id)]
        for (split, image), (other, _) in (ends, ends[::-1]):
            if other == "train" or (other == "val" and split not in fitted):
                held.setdefault(split, set()).add(image)
    for split, images in held.items():
        told = (
            f"{_many(len(images), 'image')} of '{split}' also {'is' if len(images) == 1 else 'are'} in the images that networks"
            " are fitted or chosen on, under another patient: its numbers are too good."
        )
        yield RowWarning("near_duplicates_across", "warn", split, told)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _told(count: Mapping[str, int]) -> Iterator[RowWarning]:
    for code, (level, message) in TOLD.items():
        if count[code]:
            what = _many(count[code], "pair" if code in PAIRED else "image")
            yield RowWarning(code, "warn" if level == "warn" else "note", "run", message.format(what))


def _probe(
    splits: Mapping[str, ImageSet],
    looks: Looks,
    known: Mapping[str, Mapping[str, probe.Texts]],
    tables: dict[str, Table],
) -> Iterator[Suspect]:
    """Label doubts; fills the tables of what the tiny model recognises, and of what tells the label."""
    main = {name: splits[name] for name in SPLITS if name in splits}
    drawn = probe.sample(main, looks)
    texts = {name: _at(looks, drawn, columns_) for name, columns_ in known.items()}
    for name in ("site", "view", "sex"):
        answer = probe.ask(drawn, texts[name]) if name in texts else None
        if answer is not None:
            tables["recognised"].append({"column": name, "scope": "run", **answer.record()})
    for name, images in splits.items():
        if name in main or _is_part(images, main):
            continue
        both = probe.sample({**main, name: images}, looks)
        answer = probe.ask(both, np.where(both.split == name, name, "training source").astype(object))
        if answer is not None:
            tables["recognised"].append({"column": "set", "scope": name, **answer.record()})
    answers = {}
    for target, text in probe.label_texts(main, looks, drawn).items():
        answer = probe.ask(drawn, text)
        if answer is not None:
            answers[target] = answer
            tables["label_from"].append({"target": target, "from": "picture", **answer.record()})
        for name, column in texts.items():
            alone = probe.ask_column(drawn, text, column)
            if alone is not None:
                tables["label_from"].append({"target": target, "from": name, **alone.record()})
    yield from probe.label_doubts(main, looks, drawn, answers)


def _is_part(images: ImageSet, main: Mapping[str, ImageSet]) -> bool:
    """True if most of an outside set's images are also in the training source: no picture tells the two apart then."""
    have = {pair for each in main.values() for pair in zip(each.table["patient"], each.table["image_id"], strict=True)}
    return sum(pair in have for pair in zip(images.table["patient"], images.table["image_id"], strict=True)) > len(images) / 2


def _at(looks: Looks, drawn: probe.Sample, texts: Mapping[str, probe.Texts]) -> probe.Texts:
    """A column's text for the images of a sample."""
    return np.array([texts[name][row] for name, row in zip(drawn.split, looks.row[drawn.rows], strict=True)], dtype=object)


def _pictures(
    splits: Mapping[str, ImageSet], suspects: Sequence[Suspect], most: int
) -> tuple[tuple[Suspect, ...], dict[str, Picture]]:
    """The suspects, at most `most` of them with pictures, the kinds in turn; and the pictures."""
    kinds = [[place for place, each in enumerate(suspects) if each.code == code] for code in ORDER]
    turns = [place for turn in zip_longest(*kinds) for place in turn if place is not None][:most]
    row = {name: {str(image): k for k, image in enumerate(images.table["image_id"])} for name, images in splits.items()}
    keys: dict[tuple[str, str], str] = {}
    pictures: dict[str, Picture] = {}

    def key(split: str, image: str) -> str:
        if not image:
            return ""
        if (split, image) not in keys:
            keys[split, image] = f"p{len(keys)}"
            pictures[keys[split, image]] = _picture(splits[split], row[split][image])
        return keys[split, image]

    shown = list(suspects)
    for place in turns:
        each = suspects[place]
        shown[place] = replace(
            each, picture=key(each.split, each.image_id), other_picture=key(each.other_split, each.other_image_id)
        )
    return tuple(shown), pictures


def _picture(images: ImageSet, row: int) -> Picture:
    """One image at most `PICTURE_SIDE` pixels a side, (h, w) uint8, or (h, w, 3) where it has colour."""
    image = images.take([row])
    scale = min(1.0, PICTURE_SIDE / max(image.shape[2:]))
    size = [max(1, round(length * scale)) for length in image.shape[2:]]
    small = (interpolate(image, size=size, mode="area")[0] * 255).round().to(torch.uint8).numpy()
    grey = len(small) == 1 or bool((small == small[:1]).all())
    return np.ascontiguousarray(small[0] if grey else np.moveaxis(small, 0, -1))
