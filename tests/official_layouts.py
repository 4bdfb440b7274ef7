"""The real images of ../shared/data laid out as their datasets are distributed, so that readers are run unchanged on them."""

import csv
from pathlib import Path

from PIL import Image

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def nih(shared: Path, root: Path, limit: int | None = None) -> list[dict[str, str]]:
    """Lays out NIH ChestX-ray14 in `root` and returns the rows of labels.csv that it holds.

    Two folders of images, table of 2020, both official lists, and the NIH's own boxes in pixels of the original, while the
    images have 320 pixels a side. `limit`: at most so many images, half of them with a box while there are any.
    """
    source = shared / "nih_chestxray"
    rows = _rows(source / "labels.csv")
    boxes = [row for row in _rows(source / "boxes.csv") if row["annotation"] == "NIH_BBox_List_2017"]
    if limit is not None:
        boxed = {row["filename"] for row in boxes}
        first = _spread([row for row in rows if row["filename"] in boxed], limit // 2)
        rest = _spread([row for row in rows if row["filename"] not in boxed], limit - len(first))
        rows = sorted(first + rest, key=lambda row: row["filename"])
    taken = {row["filename"]: row["original_filename"] for row in rows}
    half = (len(rows) + 1) // 2
    for folder, part in (("images_001", rows[:half]), ("images_002", rows[half:])):
        (root / folder / "images").mkdir(parents=True)
        for row in part:
            with Image.open(source / "images" / row["filename"]) as image:
                image.save(root / folder / "images" / row["original_filename"], compress_level=1)
    entries = [
        f"{row['original_filename']},{row['finding']},{row['follow_up']},{row['patient_id'].removeprefix('nih:')},"
        f"{row['age']},{row['sex']},{row['view']},{row['original_width']},{row['original_height']},0.143,0.143"
        for row in rows
    ]
    _write(root / "Data_Entry_2017_v2020.csv", [NIH_HEADER, *entries])
    for name, splits in (("train_val_list.txt", ("train", "val")), ("test_list.txt", ("test",))):
        _write(root / name, [row["original_filename"] for row in rows if row["split"] in splits])
    lines = [
        f"{taken[row['filename']]},{row['finding']}," + ",".join(row[side] for side in ("x_1024", "y_1024", "w_1024", "h_1024"))
        for row in boxes
        if row["filename"] in taken
    ]
    _write(root / "BBox_List_2017.csv", ["Image Index,Finding Label,Bbox [x,y,w,h],,,", *lines], end="\r\n")
    return rows


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _spread(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """At most `count` rows, evenly over the list."""
    return [rows[number * len(rows) // count] for number in range(count)] if count < len(rows) else rows


def _write(path: Path, lines: list[str], end: str = "\n") -> None:
    path.write_text(end.join(lines) + end, encoding="utf-8", newline="")


def ham10000(shared: Path, root: Path, limit: int | None = None) -> list[dict[str, str]]:
    """Lays out HAM10000 in `root` as Kaggle and the Dataverse have it, and returns the rows of labels.csv that it holds.

    Two folders of images, the table without a column `dataset`, the outlines. Images have 200 x 150 pixels, a third of the
    original's sides. `limit`: at most so many images, evenly over labels.csv.
    """
    source = shared / "ham10000"
    rows = _rows(source / "labels.csv")
    rows = rows if limit is None else _spread(rows, limit)
    masks = root / "HAM10000_segmentations_lesion_tschandl"
    masks.mkdir(parents=True)
    parts = [root / f"HAM10000_images_part_{number}" for number in (1, 2)]
    for images in parts:
        images.mkdir()
    for number, row in enumerate(rows):
        images = parts[2 * number // len(rows)]
        (images / row["filename"]).symlink_to((source / "images" / row["filename"]).resolve())
        (masks / f"{Path(row['filename']).stem}_segmentation.png").symlink_to((source / row["mask"]).resolve())
    names = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
    entries = [row | {"image_id": Path(row["filename"]).stem, "dx": row["label"]} for row in rows]
    _write(root / "HAM10000_metadata.csv", [",".join(names), *(",".join(row[name] for name in names) for row in entries)])
    return rows


def github_covid(shared: Path, root: Path) -> list[dict[str, str]]:
    """Lays out the COVID-19 image data collection in `root` and returns the rows of labels.csv, all of which it holds.

    The table has the columns of mid-2020, with flat findings and without the clinical ones that no reader uses.
    """
    source = shared / "covid_chestxray"
    rows = _rows(source / "labels.csv")
    (root / "images").mkdir(parents=True)
    names = ("patientid", "offset", "sex", "age", "finding", "view", "modality", "folder", "filename", "doi", "url", "license")
    with (root / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, ""])
        for row in rows:
            (root / "images" / row["filename"]).symlink_to((source / "images" / row["filename"]).resolve())
            number = row["patient_id"].removeprefix("cohen:")
            told = (number, row["offset_days"], row["sex"], row["age"], row["finding"], row["view"])
            kept = ("X-ray", "images", row["filename"], row["source_doi"], row["source_url"], row["licence"])
            writer.writerow([*told, *kept, ""])
    return rows
