"""`cxr-eval data describe`: what a reader finds in a dataset, said and as JSON."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from cxr_eval.cli import main


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_EVAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of three patients; one mask is empty, one cannot be read, one image is not there."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        Image.fromarray(np.full((8, 8), 100, dtype=np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "full.png")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / "empty.png")
    (folder / "broken.png").write_bytes(b"no picture")
    pd.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png", "d.png", "e.png"],
            "label": ["sick", "well", "sick", "well", "well"],
            "patient": ["p", "p", "q", "r", "s"],
            "split": ["train", "train", "test", "train", "train"],
            "mask": ["full.png", "empty.png", "broken.png", None, None],
            "view": ["PA", "AP", "PA", None, "PA"],
            "age": [30, 40, 55, None, 90],
        }
    ).to_csv(folder / "labels.csv", index=False)
    pd.DataFrame({"image": ["a.png", "a.png", "c.png"], "x": 1, "y": 1, "w": 2, "h": 2}).to_csv(
        folder / "boxes.csv", index=False
    )
    return folder


SETTINGS = ("--set", "masks={lesion: mask}", "--set", "boxes={csv: boxes.csv, x: x, y: y, w: w, h: h}")


def described(*arguments: str):
    return CliRunner().invoke(main, ["data", "describe", *arguments], catch_exceptions=False)


def test_it_says_images_patients_classes_masks_boxes_and_what_cannot_be_used(root):
    result = described("table", "--root", str(root), *SETTINGS)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "table: 4 images, 3 patients, multiclass",
        "train: 3 images, 2 patients: sick 1, well 2",
        "test: 1 images, 1 patients: sick 1",
        "views: PA 2, AP 1, not known 1",
        "ages: 3 known, 30 to 55, median 40",
        "masks of lesion: 1 that are not empty",
        "boxes of findings not named: 3 on 2 images",
        f"cannot be used: e.png: image file {root / 'e.png'} not found; 4 of 5 listed images found",
        f"cannot be used: c.png: lesion mask {root / 'broken.png'}: cannot identify image file '{root / 'broken.png'}'",
    ]


def test_json_holds_the_same_and_nothing_else_is_printed(root):
    found = json.loads(described("table", "--root", str(root), *SETTINGS, "--json").output)
    assert found["images"] == 4
    assert found["splits"]["train"] == {"images": 3, "patients": 2, "classes": {"sick": 1, "well": 2}}
    assert found["masks"] == {"lesion": 1}
    assert found["boxes"] == {"findings not named": {"boxes": 3, "images": 2}}
    assert [fault["image"] for fault in found["faults"]] == ["e.png", "c.png"]
    assert found["left_out"] == {}


def test_findings_and_drawn_images_are_said(tmp_path):
    lines = described("phantom", "--set", "patients=6", "--set", "size=48", "--set", "findings=true").output.splitlines()
    assert lines[0].startswith("phantom: ")
    assert lines[0].endswith("images of no patient, drawn, 6 patients, multilabel")
    assert any(line.startswith("without a split: ") for line in lines)
    assert any(line.startswith("boxes of pneumonia: ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel"], "no reader 'tabel'; did you mean 'table'?"),
        (["table", "--root", "/nowhere"], "table: /nowhere is not a folder"),
        (["table", "--root", "a", "--set", "root=b"], "--root and --set root=... name two folders; give one of them"),
        (["phantom", "--set", "patient=3"], "--set: phantom has no setting 'patient'; did you mean 'patients'?"),
        (["phantom", "--root", "x"], "--set: phantom has no setting 'root'; it has patients, "),
    ],
)
def test_what_cannot_be_described_is_one_line_and_exit_code_2(arguments, message):
    result = described(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
