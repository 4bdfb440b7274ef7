"""Reader `github_covid` on tables as early and late versions of the repository have them, and on real images of it."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from cxr_eval.data import manifest
from cxr_eval.data.readers.github_covid import GithubCovid
from cxr_eval.errors import DataError
from cxr_eval.registry import find

LATE = """patientid,offset,sex,age,finding,RT_PCR_positive,view,modality,folder,filename,url,license,clinical_notes,
2,0,M,65,Pneumonia/Viral/COVID-19,Y,PA,X-ray,images,a.jpeg,https://www.nejm.org/doi/x,,"a note
of two lines",
2,3,m,65.5,Pneumonia/Viral/COVID-19,Unclear,AP Supine,X-ray,images,b.jpg,https://radiopaedia.org/cases/1,,,
3,,F,,Pneumonia/Viral/COVID-19,Y,L,X-ray,images,c.jpg,,,,
3,,F,,Pneumonia/Viral/COVID-19,Y,Axial,CT,images,d.jpg,,,,
3,,F,,Pneumonia/Viral/COVID-19,Y,Axial,CT,volumes,e.nii.gz,,,,
4,,,aged,Pneumonia/Viral/SARS,,AP,X-ray,images,f.png,not a link,,,
5,,F,40,No Finding,Y,PA,X-ray,images,g.jpg,,,,
6,,F,41,todo,,PA,X-ray,images,h.jpg,,,,
6,,F,41,Unknown,,PA,X-ray,images,i.jpg,,,,
6,,F,41,,,PA,X-ray,images,j.jpg,,,,
6,,F,41,Tuberculosis,,ap,X-ray,images,k.jpg,,,,
6,,F,41,Tuberculosis,,,X-ray,images,l.jpg,,,,
6,,F,41,Tuberculosis,,PA,X-ray,images,,,,,
7,,F,41,Pneumonia/Bacterial/Staphylococcus/MRSA,,PA,X-ray,images,m.jpg,,,,
"""
EARLY = """Patientid, offset ,sex,age,finding,view,filename, url,clinical notes
2,0,M,65,COVID-19,PA,a.jpeg,https://www.nejm.org/doi/x,n
2,0,M,65,"COVID-19, ARDS",PA,b.jpg,,n
3,0,M,65,SARS,PA,c.jpg,,n
4,0,M,65,ARDS,PA,d.jpg,,n
5,0,M,65,No Finding,PA,e.jpg,,n
6,0,M,65,Mycoplasma Bacterial Pneumonia,PA,f.jpg,,n
7,0,M,65,COVID-19,Axial,g.nii.gz,,n
8,0,M,65,COVID-19,Axial,h.jpg,,n
"""


def write(root: Path, text: str) -> Path:
    (root / "metadata.csv").write_text(text, encoding="utf-8")
    return root


def read(root: Path, **settings: Any) -> pd.DataFrame:
    return GithubCovid(root=str(root), **settings).read(root / "cache")


def labels(table: pd.DataFrame) -> dict[str, str]:
    used, _ = manifest.used(table, reader="github_covid")
    return {Path(name).stem: label for name, label in zip(used["image_id"], used["label"], strict=True)}


def refused(text: str) -> Any:
    return pytest.raises(DataError, match=re.escape(text))


def test_it_is_registered_under_its_name() -> None:
    assert find("readers", "github_covid") is GithubCovid


def test_frontal_x_rays_are_used_and_the_others_are_counted_by_reason(tmp_path: Path) -> None:
    table, reasons = manifest.used(read(write(tmp_path, LATE)), reader="github_covid")
    assert table["image_id"].tolist() == [f"images/{name}" for name in ("a.jpeg", "b.jpg", "f.png", "g.jpg", "k.jpg", "m.jpg")]
    assert reasons == {
        "view is L": 1, "modality is CT": 1, "it is a volume": 1, "finding is todo": 1, "finding is Unknown": 1,
        "finding is not given": 1, "view is not given": 1, "no file is named": 1,
    }  # fmt: skip


def test_everything_known_of_a_patient_is_read(tmp_path: Path) -> None:
    table, _ = manifest.used(read(write(tmp_path, LATE)), reader="github_covid")
    assert table["patient"].tolist() == ["2", "2", "4", "5", "6", "7"]
    assert table["sex"].tolist() == ["M", "M", None, "F", "F", "F"]
    assert table["age"].tolist() == [65, 65.5, None, 40, 41, 41]
    assert table["view"].tolist() == ["PA", "AP Supine", "AP", "PA", "AP", "PA"]
    assert table["site"].tolist() == ["nejm.org", "radiopaedia.org", None, None, None, None]
    assert table["image"][0] == str(tmp_path / "images" / "a.jpeg")
    assert table["listed_in"].tolist()[:2] == [f"{tmp_path / 'metadata.csv'}:{line}" for line in (2, 4)]  # a cell has two lines


def test_the_finding_makes_the_label_not_the_pcr_test(tmp_path: Path) -> None:
    table = read(write(tmp_path, LATE))
    assert labels(table) == {"a": "COVID-19", "b": "COVID-19", "f": "other", "g": "other", "k": "other", "m": "other"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"labels": "group"}, ["COVID-19", "COVID-19", "pneumonia", "No Finding", "other", "pneumonia"]),
        ({"labels": "finding"}, ["COVID-19", "COVID-19", "SARS", "No Finding", "Tuberculosis", "MRSA"]),
    ],
)
def test_the_hierarchy_gives_groups_and_findings(tmp_path: Path, settings: dict[str, Any], expected: list[str]) -> None:
    assert list(labels(read(write(tmp_path, LATE), **settings)).values()) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["COVID-19", "COVID-19", "other", "other", "other", "other"]),
        ({"labels": "group"}, ["COVID-19", "COVID-19", "pneumonia", "other", "No Finding", "pneumonia"]),
        ({"labels": "finding"}, ["COVID-19", "COVID-19", "SARS", "ARDS", "No Finding", "Mycoplasma Bacterial Pneumonia"]),
    ],
)
def test_flat_findings_of_early_tables_give_the_same_classes(
    tmp_path: Path, settings: dict[str, Any], expected: list[str]
) -> None:
    table = read(write(tmp_path, EARLY), **settings)
    assert list(labels(table).values()) == expected
    assert table["image"][0] == str(tmp_path / "images" / "a.jpeg")
    assert table["site"][0] == "nejm.org"
    assert table["left_out"].dropna().tolist() == ["it is a volume", "view is Axial"]


def test_only_the_classes_asked_for_are_kept(tmp_path: Path) -> None:
    used, reasons = manifest.used(read(write(tmp_path, LATE), keep=["COVID-19"]), reader="github_covid")
    assert set(used["label"]) == {"COVID-19"}
    assert reasons["class is other"] == 4
    with refused("metadata.csv: keep: no image has the class 'covid'; found: COVID-19, other"):
        read(tmp_path, keep=["covid"])


def test_other_views_may_be_asked_for(tmp_path: Path) -> None:
    assert list(labels(read(write(tmp_path, LATE), views=["L"]))) == ["c"]


ROWS = """patientid,finding,view,filename
1,COVID-19,PA,a.jpg
2,SARS,PA,b.jpg
3,"{again}",PA,a.jpg
3,SARS,PA,c.jpg
4,SARS,PA,c.jpg
4,SARS,PA,d.jpg
"""


def test_a_file_listed_again_is_used_once_and_its_patients_are_one(tmp_path: Path) -> None:
    table = read(write(tmp_path, ROWS.format(again="COVID-19, ARDS")))
    used, reasons = manifest.used(table, reader="github_covid")
    assert used["image_id"].tolist() == ["images/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg"]
    assert used["patient"].tolist() == ["1", "2", "1", "1"]  # 3 shares a.jpg with 1, and 4 shares c.jpg with 3
    assert reasons == {"the file is listed again": 2}
    assert table["image_id"].is_unique


def test_a_file_listed_with_two_classes_is_not_used_at_all(tmp_path: Path) -> None:
    used, reasons = manifest.used(read(write(tmp_path, ROWS.format(again="SARS"))), reader="github_covid")
    assert "images/a.jpg" not in set(used["image_id"])
    assert reasons == {"the file is listed with two classes": 2, "the file is listed again": 1}


def test_a_folder_without_the_table_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with refused(f"github_covid: {tmp_path}: expected a folder holding metadata.csv and images"):
        GithubCovid(root=str(tmp_path)).check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "patientid,finding,filename\n1,x,y\n",
            "metadata.csv:1: expected columns patientid, finding, view, filename; 'view' is",
        ),
        ("", "'patientid' is not in: an empty line"),
        ("patientid,finding,view,filename\n", "metadata.csv: holds no row below its header"),
        (
            "patientid,finding,view,filename\n1,COVID-19, ARDS,PA,a.jpg\n",
            "metadata.csv:2: 5 cells, expected 4 as in the header",
        ),
        ('patientid,finding,view,filename\n1,"x,y,z\n', "metadata.csv: cannot be read: unexpected end of data"),
    ],
)
def test_another_table_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with refused(message) as error:
        read(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_empty_cells_at_the_end_of_a_row_may_be_missing_or_more(tmp_path: Path) -> None:
    text = "patientid,finding,view,filename,url\n1,COVID-19,PA,a.jpg\n\n2,COVID-19,PA,b.jpg,,,\n"
    table = read(write(tmp_path, text))
    assert table["patient"].tolist() == ["1", "2"]
    assert table["site"].tolist() == [None, None]


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes("patientid,finding,view,filename\n1,é,PA,a\n".encode("latin-1"))
    with refused("metadata.csv: is not UTF-8 text"):
        read(tmp_path)


@pytest.mark.real_data
def test_real_images_laid_out_as_distributed_give_the_counts_of_their_readme(
    shared_data: Path, layouts: ModuleType, tmp_path: Path
) -> None:
    listed = layouts.github_covid(shared_data, tmp_path)
    used, reasons = manifest.used(read(tmp_path, labels="group"), reader="github_covid")
    table, skipped = manifest.checked(used, reader="github_covid")
    assert reasons == {}
    assert skipped == ()
    ours = {"COVID-19": "covid", "pneumonia": "pneumonia", "No Finding": "normal", "other": "other"}
    assert [ours[label] for label in table["label"]] == [row["label"] for row in listed]
    assert table["label"].value_counts().to_dict() == {"COVID-19": 115, "pneumonia": 63, "other": 4, "No Finding": 4}
    assert table["patient"].nunique() == 109
    assert table["view"].value_counts().to_dict() == {"PA": 130, "AP": 31, "AP Supine": 25}
