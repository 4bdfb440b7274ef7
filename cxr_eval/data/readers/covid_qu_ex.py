"""COVID-QU-Ex as it is downloaded: reader `covid_qu_ex`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pandas as pd

import cxr_eval.api as cxr

_CLASSES = {"covid19": "COVID-19", "covid": "COVID-19", "noncovid": "Non-COVID", "normal": "Normal"}
_SPLITS = ("train", "val", "test")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_DEPTH = 6  # folders between `root` and the one with Train, Val and Test; re-packed archives add one or two
_EXPECTED = "expected a folder holding Train, Val and Test with COVID-19, Non-COVID, Normal"

Kind = Literal["lung", "infection"]


class CovidQuEx(cxr.Reader):
    """COVID-QU-Ex: 33,920 chest X-rays with lung masks, 5,826 of them with infection masks.

    The dataset names no patients, so every image counts as its own patient: images of one patient may be on both sides of a
    split, and intervals are narrower than they should be. Its two trees, "Lung Segmentation Data" (all images) and "Infection
    Segmentation Data" (some of the same images), are split differently; images and splits come from one tree only, and of the
    other no more than the infection masks, by class and file name. An image without infection mask, or with an empty one,
    has no lesion.
    """

    source = "Tahir et al., COVID-QU-Ex Dataset, Kaggle, doi 10.34740/kaggle/dsv/3122958"

    class Params(cxr.Params):
        root: str = cxr.Field(min_length=1, description="folder of the unpacked download")
        set: Literal["lung", "infection"] = cxr.Field(
            "lung",
            description="tree that images and splits come from: lung (all 33,920) or infection (5,826, lesions outlined)",
        )

    def check(self) -> None:
        """Refuse a root that is no folder.

        Raises:
            DataError: it is not there, or is a file.
        """
        root = Path(self.params.root).expanduser()
        if not root.is_dir():
            raise cxr.DataError(f"covid_qu_ex: {root} is not a folder; {_EXPECTED}")

    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest with `mask:lung` and `mask:lesion`; patient is the image."""
        self.check()
        root = Path(self.params.root).expanduser()
        trees = _trees(root)
        if self.params.set not in trees:
            found = ", ".join(f"{kind} data in {tree}" for kind, tree in trees.items()) or _inside(root)
            wanted = f"{self.params.set.capitalize()} Segmentation Data"
            hint = f"; `set: {next(iter(trees))}` reads that" if trees else ""
            raise cxr.DataError(f"covid_qu_ex: {root}: {_EXPECTED} (in '{wanted}'); found: {found}{hint}")
        infections = _infection_masks(trees["infection"]) if "infection" in trees else {}
        rows: list[dict[str, str | None]] = []
        seen: dict[str, str] = {}
        for split, label, folder in _class_folders(trees[self.params.set]):
            lungs = _pictures(_part(folder, "lungmasks"))
            for stem, path in _pictures(_part(folder, "images")).items():
                image_id = f"{label}/{stem}"
                if image_id in seen:
                    raise cxr.DataError(
                        f"covid_qu_ex: {path}: the same file name is in {seen[image_id]}; an image has one split"
                    )
                seen[image_id] = path
                rows.append(
                    {
                        "image": path,
                        "image_id": image_id,
                        "label": label,
                        "patient": image_id,
                        "split": split,
                        "mask:lung": lungs.get(stem),
                        "mask:lesion": infections.get(image_id),
                    }
                )
        return pd.DataFrame(rows, dtype=object)


def _plain(name: str) -> str:
    """A name without case, spaces, hyphens and underscores, in which copies of the dataset differ."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _folders(folder: Path) -> dict[str, Path]:
    """Visible sub folders by plain name, sorted."""
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return {_plain(name): folder / name for name in found if not name.startswith((".", "__"))}


def _inside(folder: Path) -> str:
    names = sorted(entry.name for entry in os.scandir(folder))
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "an empty folder"


def _trees(root: Path) -> dict[Kind, Path]:
    """The folders that hold Train, Val and Test: at most one with lung data and one with infection data."""
    found: dict[Kind, Path] = {}
    level = [root]
    for _ in range(_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            inside = _folders(folder)
            if not set(_SPLITS) <= set(inside):
                deeper += inside.values()
                continue
            kind = _kind(root, folder)
            if kind in found:
                raise cxr.DataError(f"covid_qu_ex: {root}: {kind} data is there twice, in {found[kind]} and {folder}; keep one")
            found[kind] = folder
        level = deeper
    return found


def _kind(root: Path, folder: Path) -> Kind:
    for part in (*reversed(folder.relative_to(root).parts), root.name):
        if "infection" in _plain(part):
            return "infection"
        if "lung" in _plain(part):
            return "lung"
    return "infection" if any("infectionmasks" in _folders(inside) for _, _, inside in _class_folders(folder)) else "lung"


def _class_folders(tree: Path) -> list[tuple[str, str, Path]]:
    """(split, class, folder) for the nine folders of a tree.

    Raises:
        DataError: one is not there, or holds no images.
    """
    found: list[tuple[str, str, Path]] = []
    for split in _SPLITS:
        folder = _folders(tree)[split]
        classes = {_CLASSES[name]: path for name, path in _folders(folder).items() if name in _CLASSES}
        for label in dict.fromkeys(_CLASSES.values()):
            if label not in classes:
                raise cxr.DataError(f"covid_qu_ex: {folder}: {_EXPECTED}; '{label}' is missing, found: {_inside(folder)}")
            if not _pictures(_part(classes[label], "images")):
                raise cxr.DataError(
                    f"covid_qu_ex: {classes[label]}: expected pictures in a folder 'images', found: {_inside(classes[label])}"
                )
            found.append((split, label, classes[label]))
    return found


def _part(folder: Path, name: str) -> Path | None:
    return _folders(folder).get(name)


def _pictures(folder: Path | None) -> dict[str, str]:
    """Absolute paths of the pictures in a folder by file name without suffix, sorted."""
    if folder is None:
        return {}
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    return {os.path.splitext(name)[0]: str((folder / name).absolute()) for name in names if name.casefold().endswith(_SUFFIXES)}


def _infection_masks(tree: Path) -> dict[str, str]:
    """Infection masks of all splits by CLASS/NAME."""
    return {
        f"{label}/{stem}": path
        for _, label, folder in _class_folders(tree)
        for stem, path in _pictures(_part(folder, "infectionmasks")).items()
    }
