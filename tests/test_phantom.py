"""The drawn chests: exact masks, seeded, and a shortcut and a weakness that a network really falls for."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic
import pytest
from PIL import Image
from scipy import ndimage

from cxr_eval import folders
from cxr_eval.data.readers import phantom
from cxr_eval.data.readers.phantom import MARKERS, SITES, Phantom, expose, marker_text
from cxr_eval.data.readers.phantom_anatomy import draw
from cxr_eval.data.readers.phantom_patient import CLASSES, Exposure, Patient, opacities
from cxr_eval.errors import DataError

SMALL = {"patients": 12, "size": 64}


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def mask(path: str) -> np.ndarray:
    return pixels(path) > 0


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return Phantom(patients=48, size=128, marker_rate=0.7).read(tmp_path_factory.mktemp("phantom"))


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_the_manifest_has_the_columns_that_a_reader_promises(table):
    assert list(table) == [
        *("image", "image_id", "label", "patient", "sex", "age", "view", "site"),
        *("mask:lesion", "mask:lung", "mask:marker"),
    ]
    assert table.image_id.is_unique
    assert set(table.sex) == {"F", "M"}
    assert set(table["view"]) == {"PA", "AP"}
    assert set(table.site) == {"training"}
    assert table.age.between(18, 90).all()
    assert all(Path(path).is_absolute() for path in table.image)


def test_the_reader_says_that_no_patient_ever_had_these_images():
    assert Phantom.drawn is True


def test_classes_take_turns_so_patients_are_balanced(table):
    assert table.groupby("label").patient.nunique().to_dict() == dict.fromkeys(CLASSES, 16)


def test_a_patient_keeps_label_sex_and_age_over_several_images(table):
    by_patient = table.groupby("patient")
    assert (by_patient[["label", "sex", "age"]].nunique() == 1).all(axis=None)
    assert set(by_patient.size()) == {1, 2}


def test_images_of_a_patient_differ_but_the_pneumonia_stays_in_its_place(table):
    pairs = [group for _, group in table[table.label == "pneumonia"].groupby("patient") if len(group) == 2]
    places = []
    for pair in pairs:
        first, second = (pixels(path) for path in pair.image)
        assert (first != second).mean() > 0.5
        places.append([ndimage.center_of_mass(mask(path)) for path in pair["mask:lesion"]])
    moved = [np.hypot(*np.subtract(a, b)) for a, b in places]
    assert max(moved) < 0.2 * 128  # pose and breath move it
    assert np.mean(moved) < 0.3 * np.mean([np.hypot(*np.subtract(a, b)) for (a, _), (_, b) in itertools.pairwise(places)])


def test_fewer_patients_are_the_first_of_more(tmp_path):
    few, more = (Phantom(**{**SMALL, "patients": n}).read(tmp_path) for n in (6, 9))
    for a, b in zip(few.image, more.image, strict=False):
        assert Path(a).read_bytes() == Path(b).read_bytes()


def test_a_subset_of_classes_is_drawn_on_request(tmp_path):
    assert set(Phantom(**SMALL, classes=["normal", "covid"]).read(tmp_path).label) == {"normal", "covid"}


def test_two_sites_and_two_seeds_share_no_patient(tmp_path):
    sets = [set(Phantom(**SMALL, **settings).read(tmp_path).patient) for settings in ({}, {"seed": 1}, {"site": "outside"})]
    assert len(set.union(*sets)) == sum(map(len, sets))


# --- drawing and storing --------------------------------------------------------------------------------------------


def test_same_settings_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        Phantom(**SMALL).read(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_another_seed_gives_other_pictures(tmp_path):
    first, second = (Phantom(**SMALL, seed=seed).read(tmp_path) for seed in (0, 1))
    assert (pixels(first.image[0]) != pixels(second.image[0])).mean() > 0.5


def test_a_second_call_reads_without_drawing(tmp_path, monkeypatch):
    first = Phantom(**SMALL).read(tmp_path)
    monkeypatch.setattr(phantom, "draw", _refuse)
    pd.testing.assert_frame_equal(Phantom(**SMALL).read(tmp_path), first)


def test_an_interrupted_drawing_is_redrawn(tmp_path, monkeypatch):
    calls = 0

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(phantom, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Phantom(**SMALL).read(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
    Phantom(**SMALL).read(tmp_path / "a")
    Phantom(**SMALL).read(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_what_a_killed_process_left_behind_is_not_taken_for_a_drawing(tmp_path):
    name = f"phantom-{Phantom(**SMALL)._key()}"
    left = tmp_path / f"{name}.abc.part"
    left.mkdir()
    (left / "manifest.csv").write_text("image,label\n")
    assert len(Phantom(**SMALL).read(tmp_path)) >= SMALL["patients"]


def test_two_processes_that_draw_at_once_agree(tmp_path, monkeypatch):
    rename = os.rename

    def beaten(source, target):
        with monkeypatch.context() as patch:
            patch.setattr(folders.os, "rename", rename)
            Phantom(**SMALL).read(tmp_path)  # the other process is done first
        rename(source, target)

    monkeypatch.setattr(folders.os, "rename", beaten)
    table = Phantom(**SMALL).read(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == [Path(table.image[0]).parents[1].name]


def test_a_drawing_that_cannot_take_its_name_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.os, "rename", _refuse)
    with pytest.raises(OSError, match="not now"):
        Phantom(**SMALL).read(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lost_files_are_named(tmp_path):
    table = Phantom(**SMALL).read(tmp_path)
    Path(table.image[2]).unlink()
    with pytest.raises(
        DataError, match=r"files listed, \d+ found; first missing: .*-\d\.png; delete this folder and run again"
    ):
        Phantom(**SMALL).read(tmp_path)


def test_a_lost_manifest_is_named(tmp_path):
    folder = Path(Phantom(**SMALL).read(tmp_path).image[0]).parents[1]
    (folder / "manifest.csv").unlink()
    with pytest.raises(DataError, match=r"expected manifest\.csv in a drawn set, found none; delete this folder"):
        Phantom(**SMALL).read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patient": 10}, "Extra inputs are not permitted"),
        ({"patients": 2}, "greater than or equal to 3"),
        ({"images_per_patient": 4}, "less than or equal to 3"),
        ({"size": 32}, "greater than or equal to 48"),
        ({"site": "elsewhere"}, "'training' or 'outside'"),
        ({"marker_strength": 1.5}, "less than or equal to 1"),
        ({"classes": ["normal", "flu"]}, "expected some of normal, pneumonia, covid, got 'flu'"),
        ({"classes": ["covid", "covid"]}, "expected each class once, got covid, covid"),
        ({"classes": "covid"}, "at least 2"),
        ({"site": "outside", "marker_strength": 0.9}, "markers of the outside site never tell the class"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        Phantom(**settings)


# --- masks ----------------------------------------------------------------------------------------------------------


def test_images_and_masks_are_8_bit_grey_of_one_size(table):
    for column in ("image", "mask:lung", "mask:lesion", "mask:marker"):
        for path in table[column].dropna().head(12):
            with Image.open(path) as picture:
                assert picture.mode == "L"
            assert pixels(path).shape == (128, 128)
            assert column == "image" or set(np.unique(pixels(path))) == {0, 255}


def test_normal_images_have_no_lesion_and_all_others_have_one(table):
    assert (table["mask:lesion"].isna() == (table.label == "normal")).all()
    assert all(mask(path).sum() > 40 for path in table["mask:lesion"].dropna())


def test_a_lesion_lies_inside_the_lungs(table):
    for row in table[table.label != "normal"].to_dict("records"):
        assert not (mask(row["mask:lesion"]) & ~mask(row["mask:lung"])).any()


def test_pneumonia_is_in_one_lung_and_covid_in_both(table):
    for row in table.to_dict("records"):
        lungs, count = ndimage.label(mask(row["mask:lung"]))
        assert count == 2, row["image_id"]  # heart and mediastinum part them
        if row["label"] != "normal":
            touched = set(np.unique(lungs[mask(row["mask:lesion"])]))
            assert len(touched) == {"pneumonia": 1, "covid": 2}[row["label"]], row["image_id"]


def test_covid_lies_further_out_than_pneumonia(table):
    reach: dict[str, list[float]] = {"pneumonia": [], "covid": []}
    for row in table[table.label != "normal"].to_dict("records"):
        columns = np.flatnonzero(mask(row["mask:lung"]).any(axis=0))
        across = np.nonzero(mask(row["mask:lesion"]))[1]
        reach[row["label"]].append(np.abs(across - columns.mean()).mean() / (np.ptp(columns) / 2))
    assert np.mean(reach["covid"]) > np.mean(reach["pneumonia"]) + 0.1


def test_ground_glass_is_fainter_than_consolidation():
    added: dict[str, list[float]] = {"pneumonia": [], "covid": []}
    for seed in range(12):
        for label, values in added.items():
            rng = np.random.default_rng(seed)
            patient, exposure, lesions = Patient.drawn(rng), Exposure.drawn(rng), opacities(label, rng)
            ill, well = draw(patient, exposure, lesions, 128), draw(patient, exposure, (), 128)
            values.append((ill.absorption - well.absorption)[ill.lesion].mean())
    assert np.mean(added["pneumonia"]) > 1.5 * np.mean(added["covid"]) > 0.1


@pytest.mark.parametrize("label", ["pneumonia", "covid"])
def test_the_lesion_mask_is_where_the_drawing_changes_most(label):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        patient, exposure, lesions = Patient.drawn(rng), Exposure.drawn(rng), opacities(label, rng)
        ill, well = draw(patient, exposure, lesions, 128), draw(patient, exposure, (), 128)
        change = ill.absorption - well.absorption
        assert not well.lesion.any()
        assert (ill.lung == well.lung).all()
        assert (change[ill.lesion] > 0).mean() > 0.98  # a vessel hidden by consolidation may lose more than it gains
        away = ndimage.distance_transform_edt(~ill.lesion) > 0.09 * 128  # widest soft edge below the threshold
        assert (change[away & ill.lung] == 0).all()
        assert change[ill.lesion].mean() > 5 * np.abs(change[~ill.lesion & ill.lung]).mean()


def test_the_marker_mask_is_where_the_text_changes_the_picture(tmp_path):
    without, with_text = (Phantom(**SMALL, marker_rate=rate).read(tmp_path) for rate in (0.0, 1.0))
    assert without["mask:marker"].isna().all()
    assert with_text["mask:marker"].notna().all()
    for bare, path, text in zip(without.image, with_text.image, with_text["mask:marker"], strict=True):
        changed = pixels(bare) != pixels(path)
        assert changed.sum() > 10
        assert not (changed & ~mask(text)).any()
        assert changed.sum() > 0.7 * mask(text).sum()  # the rest: hardly any ink, or white already


# --- anatomy, view and site -----------------------------------------------------------------------------------------


def test_lungs_are_dark_and_bone_and_heart_are_bright(table):
    for row in table[table.label == "normal"].head(10).to_dict("records"):
        picture, lung = pixels(row["image"]).astype(float), mask(row["mask:lung"])
        assert picture[80:95, 60:68].mean() > picture[lung].mean() + 80


def test_the_heart_looks_bigger_in_ap_than_in_pa():
    patient = Patient.drawn(np.random.default_rng(0))
    pa = Exposure(view="PA", breath=1.0, shift=(0.0, 0.0), turn=0.0, scale=1.0, lean=0.0)
    ap = dataclasses.replace(pa, view="AP")
    assert draw(patient, ap, (), 128).lung.sum() < draw(patient, pa, (), 128).lung.sum()


def test_a_shallow_breath_makes_smaller_lungs():
    patient = Patient.drawn(np.random.default_rng(0))
    deep = Exposure(view="PA", breath=1.0, shift=(0.0, 0.0), turn=0.0, scale=1.0, lean=0.0)
    shallow = dataclasses.replace(deep, breath=0.7)
    assert draw(patient, shallow, (), 128).lung.sum() < 0.9 * draw(patient, deep, (), 128).lung.sum()


def test_sites_differ_in_contrast(tmp_path):
    contrast = {}
    for site in SITES:
        table = Phantom(patients=30, marker_rate=0.0, site=site).read(tmp_path)
        steps = []
        for row in table[table.label == "normal"].to_dict("records"):
            picture, lung = pixels(row["image"]).astype(float), mask(row["mask:lung"])
            steps.append(picture[70:100, 60:68].mean() - picture[lung].mean())  # heart and spine against lung
        contrast[site] = np.mean(steps)
    assert contrast["training"] > 1.1 * contrast["outside"]


def test_sites_differ_in_noise_relative_to_contrast():
    noise = {}
    for name, site in SITES.items():
        grey = expose(np.full((128, 128), site.centre), dataclasses.replace(site, spread=0.0), np.random.default_rng(0))
        noise[name] = grey.std() * site.latitude  # a flat field, as acceptance tests of detectors use
    assert noise["outside"] > 1.5 * noise["training"]


def test_noise_falls_with_the_square_root_of_the_photons():
    def spread(photons: float) -> float:
        site = dataclasses.replace(SITES["training"], photons=photons, blur=0.0, spread=0.0)
        return float(expose(np.ones((200, 200)), site, np.random.default_rng(0)).std())

    assert spread(1000) / spread(4000) == pytest.approx(2, rel=0.03)  # 40,000 pixels: sampling error of a std below 0.5 %


# --- the marker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_marker_strength_is_the_chance_that_a_text_is_its_class_own(strength):
    rng = np.random.default_rng(0)
    for label in CLASSES:
        texts = [marker_text(label, 0.6, strength, rng) for _ in range(4000)]
        borne = [text for text in texts if text is not None]
        assert len(borne) / 4000 == pytest.approx(0.6, abs=0.04)  # five standard errors
        own = np.mean([text == MARKERS[label] for text in borne])
        assert own == pytest.approx(strength + (1 - strength) / 3, abs=0.05)


def test_texts_tell_the_class_at_the_training_site_when_tied(tmp_path):
    table = Phantom(**SMALL, marker_rate=1.0, marker_strength=1.0).read(tmp_path)
    widths: dict[str, set[int]] = {name: set() for name in CLASSES}
    for label, path in zip(table.label, table["mask:marker"], strict=True):
        widths[label].add(int(np.ptp(np.flatnonzero(mask(path).any(axis=0)))))
    assert max(widths["normal"]) < min(widths["pneumonia"])
    assert max(widths["pneumonia"]) < min(widths["covid"])


def test_markers_of_the_outside_site_do_not_depend_on_the_class(tmp_path):
    first, second = (Phantom(**SMALL, site="outside", classes=order).read(tmp_path) for order in (CLASSES, CLASSES[::-1]))
    assert (first.label != second.label).any()
    for a, b in zip(first["mask:marker"], second["mask:marker"], strict=True):
        assert (isinstance(a, str) and isinstance(b, str) and (pixels(a) == pixels(b)).all()) or (pd.isna(a) and pd.isna(b))


def _refuse(*args: object, **kwargs: object) -> None:
    raise OSError("not now")


def test_findings_are_columns_with_a_box_around_every_part_of_the_lesion(tmp_path: Path) -> None:
    classes = phantom.Phantom(patients=6, size=64).read(tmp_path)
    table = phantom.Phantom(patients=6, size=64, findings=True).read(tmp_path)
    assert table["image"].tolist() == classes["image"].tolist()  # the same pictures, drawn once
    assert "label" not in table
    for name in ("pneumonia", "covid"):
        assert (table[f"label:{name}"] == 1).tolist() == (classes["label"] == name).tolist()
        assert [bool(boxes) for boxes in table[f"boxes:{name}"]] == (classes["label"] == name).tolist()
    for row in table.itertuples():
        boxes = table.loc[row.Index, "boxes:pneumonia"] + table.loc[row.Index, "boxes:covid"]
        if not boxes:
            continue
        lesion = np.asarray(Image.open(table.loc[row.Index, "mask:lesion"])) > 0
        inside = np.zeros_like(lesion)
        for x, y, w, h in boxes:
            inside[y : y + h, x : x + w] = True
            assert lesion[y, x : x + w].any()  # no row or column of a box is empty at its edge
            assert lesion[y : y + h, x].any()
            assert lesion[y + h - 1, x : x + w].any()
            assert lesion[y : y + h, x + w - 1].any()
        assert not (lesion & ~inside).any()


def test_findings_need_both_of_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="findings are pneumonia and covid; draw both, got the classes normal, covid"):
        phantom.Phantom(findings=True, classes=("normal", "covid"))
