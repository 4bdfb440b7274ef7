"""The real images of ../shared/data laid out as their datasets are distributed, so that readers are run unchanged on them.

python tests/official_layouts.py {nih,nih_opacities,ham10000,github_covid,covid_qu_ex,siim_covid19} SHARED_DATA NEW_FOLDER
"""

import csv
import hashlib
import sys
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def nih_opacities(shared: Path, root: Path) -> list[dict[str, str]]:
    """As `nih`, and on images labelled Pneumonia the boxes of RSNA's radiologists around lung opacities as Pneumonia.

    They replace the NIH's Pneumonia box where an image has both; a finding may then have several boxes.
    """
    rows = nih(shared, root)
    labelled = {row["filename"]: row["original_filename"] for row in rows if "Pneumonia" in row["finding"]}
    boxes = [row for row in _rows(shared / "nih_chestxray" / "boxes.csv") if row["filename"] in labelled]
    opacities = [row for row in boxes if row["annotation"] == "RSNA_2018_lung_opacity"]
    read = {labelled[row["filename"]] for row in opacities}
    header, *lines = (root / "BBox_List_2017.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not (line.split(",")[1] == "Pneumonia" and line.split(",")[0] in read)]
    added = [
        f"{labelled[row['filename']]},Pneumonia," + ",".join(row[side] for side in ("x_1024", "y_1024", "w_1024", "h_1024"))
        for row in opacities
    ]
    _write(root / "BBox_List_2017.csv", [header, *kept, *added], end="\r\n")
    return rows


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


def covid_qu_ex(shared: Path, root: Path, limit: int | None = None) -> list[dict[str, str]]:
    """Lays out adults with covid, other pneumonia and neither as COVID-QU-Ex, and returns their rows of all_cxr.csv.

    Both trees in their doubled folders, PNG of 256 x 256 pixels, lung masks where there are any; the infection tree has all
    images with an infection mask and one of each class and split with an empty one. `limit`: at most so many images of a class
    and split.
    """
    classes = {"covid": "COVID-19", "pneumonia": "Non-COVID", "normal": "Normal"}
    listed = [
        row
        for row in _rows(shared / "all_cxr.csv")
        if row["dataset"] in ("covid_chestxray", "nih_chestxray") and row["label"] in classes
    ]
    kinds = sorted({(row["label"], row["split"]) for row in listed})
    parts = {kind: [row for row in listed if (row["label"], row["split"]) == kind] for kind in kinds}
    rows = [row for part in parts.values() for row in (part if limit is None else _spread(part, limit))]
    empty = {row["path"] for part in parts.values() for row in part[:1]}  # the second tree has all classes, most without lesion
    for row in rows:
        for tree in ("Lung", "Infection") if row["lesion_mask"] or row["path"] in empty else ("Lung",):
            name = f"{tree} Segmentation Data"
            folder = root / name / name / row["split"].capitalize() / classes[row["label"]]
            file = f"{row['dataset']}_{Path(row['path']).stem}.png"
            _square(shared / row["path"], folder / "images" / file)
            if row["lung_mask"]:
                _square(shared / row["lung_mask"], folder / "lung masks" / file, Image.Resampling.NEAREST)
            if tree == "Infection" and row["lesion_mask"]:
                _square(shared / row["lesion_mask"], folder / "infection masks" / file, Image.Resampling.NEAREST)
            elif tree == "Infection":
                (folder / "infection masks").mkdir(exist_ok=True)
                Image.new("L", (256, 256)).save(folder / "infection masks" / file)
    return rows


def _square(source: Path, target: Path, method: Image.Resampling = Image.Resampling.BILINEAR) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        image.convert("L").resize((256, 256), method).save(target, compress_level=1)


def siim_covid19(shared: Path, root: Path, limit: int | None = None) -> list[dict[str, str]]:
    """Lays out NIH images that RSNA's radiologists read as SIIM-FISABIO-RSNA COVID-19, and returns their rows of labels.csv.

    Uncompressed MONOCHROME1 DICOM files in folders of study and series; a Normal image is `Negative for Pneumonia`, one with
    Lung Opacity a `Typical Appearance` with its boxes. It is not that dataset: no image shows COVID-19 by intent. `limit`: at
    most so many images.
    """
    source = shared / "nih_chestxray"
    rows = [row for row in _rows(source / "labels.csv") if row["rsna_class"] in ("Normal", "Lung Opacity")]
    rows = rows if limit is None else _spread(sorted(rows, key=lambda row: row["rsna_class"]), limit)
    boxes: dict[str, list[dict[str, float]]] = {}
    for row in _rows(source / "boxes.csv"):
        if row["annotation"] == "RSNA_2018_lung_opacity":
            sides = {"x": "x", "y": "y", "width": "w", "height": "h"}
            boxes.setdefault(row["filename"], []).append({side: float(row[key]) for side, key in sides.items()})
    images, studies = ["id,boxes,label,StudyInstanceUID"], []
    for row in rows:
        image, study, series = (hashlib.sha256(f"{kind}{row['filename']}".encode()).hexdigest()[:12] for kind in "abc")
        path = root / "train" / study / series / f"{image}.dcm"
        path.parent.mkdir(parents=True)
        with Image.open(source / "images" / row["filename"]) as picture:
            _dicom(255 - np.asarray(picture.convert("L")), path)
        found = boxes.get(row["filename"], [])
        ends = [f"opacity 1 {b['x']} {b['y']} {b['x'] + b['width']} {b['y'] + b['height']}" for b in found]
        images.append(f'{image}_image,"{found if found else ""}",{" ".join(ends) or "none 1 0 0 1 1"},{study}')
        sick = row["rsna_class"] == "Lung Opacity"
        studies.append(f"{study}_study,{int(not sick)},{int(sick)},0,0")
    header = "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance"
    _write(root / "train_image_level.csv", images)
    _write(root / "train_study_level.csv", [header, *studies])
    return rows


def _dicom(pixels: np.ndarray, path: Path) -> None:
    """An uncompressed 8-bit MONOCHROME1 file."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = ComputedRadiographyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 8, 8, 7
    data.PixelRepresentation, data.PhotometricInterpretation = 0, "MONOCHROME1"
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    data.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    layouts = {each.__name__: each for each in (nih, nih_opacities, ham10000, github_covid, covid_qu_ex, siim_covid19)}
    layouts[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
