"""The way in: `init` writes a protocol from answers, `data prepare` fills the cache."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_eval import plan, protocol_file
from cxr_eval.cli import main, start
from cxr_eval.errors import ProtocolError
from cxr_eval.starting.answers import joined, listed
from cxr_eval.starting.columns import Column, read_columns, unfit
from cxr_eval.starting.first_protocol import protocol_text, scalar, title_of
from cxr_eval.starting.interview import QUESTIONS

HEAD = "image,label,patient,sex,age,view,split\n"


def dataset(root: Path, *, header: str = HEAD, folder: str = "images", count: int = 40, encoding: str = "utf-8") -> Path:
    """Drawn noise: two pictures a patient, two classes."""
    (root / folder).mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    cut = ";" if ";" in header else ","
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 18), dtype=np.uint8)).save(root / folder / f"{number:03d}.png")
        side = ("train", "train", "train", "val", "test")[number // 2 % 5]
        cells = (
            f"{number:03d}.png",
            ("normal", "sick")[number % 2],
            f"p{number // 2}",
            "FM"[number // 2 % 2],
            20 + number,
            "PA",
            side,
        )
        rows.append(cut.join(map(str, cells[: header.count(cut) + 1])))
    (root / "labels.csv").write_text(header + "\n".join(rows) + "\n", encoding=encoding)
    return root


def init(*args: str, answers: str | None = None) -> Result:
    return CliRunner().invoke(main, ["init", *args], input=answers)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody sits there."""
    monkeypatch.setattr(start, "interactive", lambda: True)
    return home


def planned(path: Path) -> plan.Plan:
    return plan.plan(protocol_file.load(path))


def test_enter_to_every_question_writes_a_protocol_that_is_right(asked: Path) -> None:
    dataset(asked / "mine")
    result = init("p.yaml", answers="cpu\n\nmine\n" + "\n" * 30)
    assert result.exit_code == 0, result.output
    written = yaml.safe_load((asked / "p.yaml").read_text(encoding="utf-8"))
    assert written["data"]["train"] == {
        "reader": "table",
        "root": "mine",
        "csv": "labels.csv",
        "image": "image",
        "folder": "images",
        "label": "label",
        "patient": "patient",
        "split": "split",
        "sex": "sex",
        "age": "age",
        "view": "view",
    }
    assert written["data"]["classes"] == ["normal", "sick"]
    assert "split" not in written["data"]  # the table divides
    assert [trainer.label for trainer in planned(asked / "p.yaml").trainers] == ["standard", "pgd"]
    assert "p: 1 model x 2 trainers x 1 seed = 2 cells" in result.output
    assert result.output.endswith("Written: p.yaml\nNext: cxr-eval data check p.yaml, then cxr-eval run p.yaml\n")


def test_a_wrong_answer_is_refused_in_words_and_asked_again(asked: Path) -> None:
    dataset(asked / "mine")
    given = ["tpu", "cpu", "tabel", "table", "nowhere", "mine", "labels.csv", "imgae", "label", "image", "labels", "images"]
    given += ["both", "one", "view", "label", "normal, sik", "sick, normal", "sex", "patient", "", "view", "", "", "", ""]
    given += ["8", "128", "resnet18x", "small_cnn", "pgdd", "standard", "fgsm, fgsm", "fgsm", "8", "8/255", "gradcm", "-"]
    result = init("p.yaml", answers="\n".join(given) + "\n")
    assert result.exit_code == 0, result.output
    for said in (
        "'tpu' is none of them; did you mean '",
        "'tabel' is none of them; did you mean 'table'?",
        "'nowhere' is no folder; give the folder that holds the images",
        "labels.csv has no column 'imgae'; did you mean 'image'?",
        "column 'label' names some images twice; name another",
        "40 of the first 40 images that the table names are not there; first missing: mine/labels/000.png;"
        " give the folder in mine that the column's paths start from",
        "'both' is none of them; expected one, findings",
        "column 'view' holds only 'PA'; at least two classes are needed; name another",
        "column 'label' has no class 'sik'; did you mean 'sick'?",
        "expected a whole number of pixels from 16 to 1024, got '8'",
        "did you mean 'resnet18'?",
        "did you mean 'pgd'?",
        "expected each name once",
        "expected radii above 0 and up to 1, such as 2/255 or 0.01, got '8'",
        "did you mean 'gradcam'?",
    ):
        assert said in result.output, said
    written = yaml.safe_load((asked / "p.yaml").read_text(encoding="utf-8"))
    assert written["data"]["classes"] == ["sick", "normal"]
    assert "explain" not in written


def test_an_end_of_input_writes_nothing(asked: Path) -> None:
    dataset(asked / "mine")
    result = init("p.yaml", answers="cpu\n")
    assert (result.exit_code, (asked / "p.yaml").exists()) == (130, False)
    assert "Nothing was written." in result.output


def test_without_a_terminal_it_says_which_flags_are_missing(home: Path) -> None:
    dataset(home / "mine")
    result = init("--root", "mine", "--reader", "table", "--label", "label")
    assert (result.exit_code, (home / "protocol.yaml").exists()) == (2, False)
    assert result.output == (
        "Nobody can be asked here, and these flags are missing: --computer, --csv, --image, --folder, --task, --classes,"
        " --patient, --split, --sex, --age, --view, --site, --size, --models, --trainers, --attacks, --eps, --methods."
        " Give them, or take the usual answers with --yes.\n"
    )


def test_what_has_no_usual_answer_is_asked_for_in_spite_of_yes(home: Path) -> None:
    result = init("--yes")
    assert (result.exit_code, result.output) == (2, "There is no usual answer for: --root. Give these flags.\n")


def test_every_answer_may_be_a_flag(home: Path) -> None:
    dataset(home / "mine")
    flags = {
        "computer": "gpu",
        "reader": "table",
        "root": "mine",
        "csv": "labels.csv",
        "image": "image",
        "folder": "images",
        "task": "one",
        "label": "label",
        "classes": "sick, normal",
        "patient": "patient",
        "split": "-",
        "sex": "-",
        "age": "age",
        "view": "-",
        "site": "-",
        "size": "64",
        "models": "small_cnn, resnet18",
        "trainers": "standard, trades",
        "attacks": "strong",
        "eps": "1e-3, 2 / 255",
        "methods": "gradcam",
    }
    assert set(flags) | {"labels"} == {question.name for question in QUESTIONS}
    result = init("out.yaml", *(word for name, value in flags.items() for word in (f"--{name}", value)))
    assert result.exit_code == 0, result.output
    written = yaml.safe_load((home / "out.yaml").read_text(encoding="utf-8"))
    assert written["data"]["train"]["sex"] is None  # or the reader would take the column of that name
    assert written["data"]["split"] == {"val": 0.15, "test": 0.2, "seed": 0}
    assert written["attacks"] == [{"name": "strong", "eps": [0.001, "2/255"]}]
    assert written["trainers"] == ["standard", {"name": "trades", "eps": "2/255"}]
    assert len(planned(home / "out.yaml").cells) == 2 * 2 * 3


def test_a_wrong_flag_is_named(home: Path) -> None:
    dataset(home / "mine")
    result = init("--root", "mine", "--yes", "--label", "lable")
    assert (result.exit_code, result.output) == (2, "--label: labels.csv has no column 'lable'; did you mean 'label'?\n")
    result = init("--root", "mine", "--yes", "--labels", "a, b")
    assert (result.exit_code, result.output) == (2, "--labels: nothing asks for this with the other answers; take it out\n")


def test_a_protocol_that_is_there_is_kept_unless_forced(home: Path) -> None:
    dataset(home / "mine")
    (home / "p.yaml").write_text("mine")
    result = init("p.yaml", "--root", "mine", "--yes")
    assert result.output == "p.yaml: is there already; name another file, or overwrite it with --force\n"
    assert (result.exit_code, (home / "p.yaml").read_text()) == (2, "mine")
    assert init("p.yaml", "--root", "mine", "--yes", "--force").exit_code == 0
    assert (home / "p.yaml").read_text() != "mine"


def test_a_folder_that_is_not_there_is_refused_before_anything_is_asked(home: Path) -> None:
    result = init("nowhere/p.yaml", "--yes")
    told = "nowhere/p.yaml: its folder is not there; make it, or name another file\n"
    assert (result.exit_code, result.output) == (2, told)


def test_without_a_patient_column_it_says_so_loudly_in_the_file_and_on_the_screen(home: Path) -> None:
    dataset(home / "mine", header="image,label\n")
    result = init("p.yaml", "--root", "mine", "--yes")
    assert result.exit_code == 0, result.output
    assert "PATIENTS ARE NOT KNOWN. Every image will count as a patient" in result.output
    text = (home / "p.yaml").read_text(encoding="utf-8")
    assert "# PATIENTS ARE NOT KNOWN: `patient: null` counts every image as a patient of its own." in text
    assert yaml.safe_load(text)["data"]["train"]["patient"] is None


def test_a_spreadsheet_with_semicolons_a_byte_order_mark_and_umlauts_is_read(home: Path) -> None:
    header = "Bilddatei;Diagnose (früh);Patientin\n"
    dataset(home / "Köln", header=header, folder="Röntgen bilder", encoding="utf-8-sig")
    flags = ("--image", "Bilddatei", "--patient", "Patientin")
    result = init("p.yaml", "--root", "Köln", *flags, "--yes")
    assert result.exit_code == 0, result.output
    source = yaml.safe_load((home / "p.yaml").read_text(encoding="utf-8"))["data"]["train"]
    assert source["label"] == "Diagnose (früh)"
    assert (source["root"], source["folder"]) == ("Köln", "Röntgen bilder")


def test_columns_of_zeros_and_ones_are_findings(home: Path) -> None:
    root = dataset(home / "mine", header="image\n")
    lines = (root / "labels.csv").read_text().splitlines()
    rows = [f"{name},{k % 2},{'' if k % 5 == 0 else k // 2 % 2},{k // 2}" for k, name in enumerate(lines[1:])]
    (root / "labels.csv").write_text("\n".join(['image,"effusion, left",mass,patient', *rows]))
    result = init("p.yaml", "--root", "mine", "--yes")
    assert result.exit_code == 0, result.output
    written = yaml.safe_load((home / "p.yaml").read_text())
    assert written["data"]["train"]["labels"] == {"effusion, left": "effusion, left", "mass": "mass"}
    assert written["explain"]["target"] == "predicted"


def test_classes_that_are_left_out_leave_their_rows_out(home: Path) -> None:
    root = dataset(home / "mine")
    text = (
        (root / "labels.csv")
        .read_text()
        .replace("010.png,normal", "010.png,unclear")
        .replace("012.png,normal", "012.png,unclear")
    )
    (root / "labels.csv").write_text(text)
    result = init("p.yaml", "--root", "mine", "--classes", "normal, sick", "--yes")
    assert result.exit_code == 0, result.output
    source = yaml.safe_load((home / "p.yaml").read_text())["data"]["train"]
    assert source["where"] == {"label": ["normal", "sick"]}


def test_images_that_are_not_there_are_said(home: Path) -> None:
    root = dataset(home / "mine")
    for path in (root / "images").iterdir():
        path.unlink()
    result = init("p.yaml", "--root", "mine", "--folder", "images", "--yes")
    told = "--folder: 40 of the first 40 images that the table names are not there; first missing: mine/images/000.png; give"
    assert result.exit_code == 2
    assert result.output.startswith(told)


def test_a_variable_in_a_name_is_refused(home: Path) -> None:
    dataset(home / "${HOME}")
    result = init("--root", "${HOME}", "--yes")
    told = "--root: '${HOME}': '${' starts a variable in a protocol; rename the file or the column\n"
    assert (result.exit_code, result.output) == (2, told)
    with pytest.raises(ProtocolError, match=r"'a\\xff|is not UTF-8 text; rename the file"):
        scalar("a\udcff")


def test_hostile_columns_and_folders_read_back_as_they_are(home: Path) -> None:
    hostile = 'x" # : {a: [b]} \x1b[31m <script>&'
    root = dataset(home / "no: {way}, really #1" / ("l" * 200), folder="a 'quoted' & \"double\"")
    lines = (root / "labels.csv").read_text().splitlines()
    quoted = '"' + hostile.replace('"', '""') + '"'
    (root / "labels.csv").write_text(
        "\n".join([f"image,{quoted},patient", *(",".join(line.split(",")[:3]) for line in lines[1:])])
    )
    place = str(root.relative_to(home))
    result = init("p.yaml", "--root", place, "--label", hostile, "--yes")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    source = yaml.safe_load((home / "p.yaml").read_text(encoding="utf-8"))["data"]["train"]
    assert (source["root"], source["label"], source["folder"]) == (place, hostile, "a 'quoted' & \"double\"")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_reads_back_from_yaml_as_it_is(text: str) -> None:
    if "${" in text:
        return
    assert "\n" not in scalar(text)
    assert yaml.safe_load(f"{{key: [{scalar(text)}, {scalar(text)}]}}") == {"key": [text, text]}


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=9),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=200)
def test_a_list_of_answers_is_taken_apart_as_it_was_joined(parts: list[str]) -> None:
    assert listed(joined(parts)) == parts


@pytest.mark.parametrize(
    ("file", "name"), [("my images", "my-images"), ("", "my-images"), ("--", "my-images"), ("ä1", "1"), ("x" * 300, "x" * 80)]
)
def test_the_name_of_the_protocol_follows_from_the_file(file: str, name: str) -> None:
    assert title_of(file) == name


@pytest.mark.parametrize(
    ("use", "cells", "why"),
    [
        ("sex", ("F", "m", "7"), "holds '7', expected F or M"),
        ("age", ("12", "300"), "holds '300', expected years"),
        ("age", ("057Y", "3.5"), ""),
        ("split", ("train", "holdout", "test"), "holds 'holdout', expected train, val or test"),
        ("split", ("train", "test"), "is empty in 1 of 3 rows"),
        ("finding", ("0", "1", "2"), "holds '2', expected 0, 1 or nothing (unknown)"),
        ("image", ("a.png", "a.png", "b.png"), "names some images twice"),
        ("image", ("a.png",), "is empty in 2 of 3 rows"),
        ("label", ("a", "a", "a"), "holds only 'a'; at least two classes are needed"),
        ("label", ("a", "b"), "is empty in 1 of 3 rows"),
        ("label", ("a", "b", "a"), ""),
        ("patient", ("a", "b"), "is empty in 1 of 3 rows"),
        ("view", tuple(map(str, range(31))), "holds 31 different values, too many for subgroups"),
        ("site", (), "is empty"),
        ("sex", ("x" * 50,), f"holds '{'x' * 40}...', expected F or M"),
    ],
)
def test_what_a_column_cannot_hold_is_said(use: str, cells: tuple[str, ...], why: str) -> None:
    assert unfit(use, Column("c", cells), 3) == why


def test_many_different_values_are_no_classes() -> None:
    assert unfit("label", Column("c", tuple(map(str, range(31))) * 4), 124) == "holds 31 different values, too many for classes"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no row below its header"),
        ("a,a\n1,2\n", ":1: two columns are called 'a'; rename one"),
        ("a,b\n1,2\n3\n", ":3: 1 cells, expected 2 as in the header"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(Exception, match=told):
        read_columns(tmp_path / "t.csv")


def test_a_network_that_a_trainer_looks_at_is_named(home: Path) -> None:
    result = init("p.yaml", "--reader", "phantom", "--trainers", "standard, amat", "--yes")
    assert result.exit_code == 0, result.output
    trainers = yaml.safe_load((home / "p.yaml").read_text())["trainers"]
    assert trainers[1] == {"name": "amat", "eps": "2/255", "reference": "standard"}


def test_what_the_answers_make_wrong_is_refused_and_nothing_is_written(home: Path) -> None:
    result = init("p.yaml", "--reader", "phantom", "--trainers", "amat", "--yes")
    assert (result.exit_code, (home / "p.yaml").exists()) == (2, False)
    assert result.output.startswith("p.yaml:")
    assert result.output.endswith("Nothing was written.\n")


def test_every_reader_makes_a_protocol_that_reads_as_yaml() -> None:
    answers = {
        "computer": "gpu",
        "reader": "ham10000",
        "root": "/data/ham",
        "size": 224,
        "models": ["resnet18"],
        "trainers": ["standard"],
        "attacks": ["quick"],
        "eps": ["1/255"],
        "methods": [],
    }
    written = yaml.safe_load(protocol_text("ham", "p.yaml", answers, {"radius": [], "reference": []}))
    assert written["data"]["train"] == {"reader": "ham10000", "root": "/data/ham"}
    assert written["train"]["seeds"] == [0, 1, 2]


PHANTOM = (
    "{name: x, data: {train: {reader: phantom, patients: 30, size: 48}, size: 16}, models: [small_cnn], trainers: [standard]}"
)


def test_prepare_says_where_images_are_and_whether_they_were_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EVAL_CACHE", str(home / "cache"))
    (home / "p.yaml").write_text(PHANTOM)
    first, second = (CliRunner().invoke(main, ["data", "prepare", "p.yaml"]).output for _ in range(2))
    (folder,) = (home / "cache" / "prepared").iterdir()
    told = f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e3:.0f} kB"
    assert first.splitlines()[-1] == f"{told}, decoded now"
    assert second.splitlines()[-1] == f"{told}, was there already"
    assert second.splitlines()[-2].endswith("images of 16 x 16 pixels, grey: " + second.splitlines()[-2].partition("grey: ")[2])
    record = json.loads(CliRunner().invoke(main, ["data", "prepare", "p.yaml", "--json"]).output)
    assert record["shape"] == [1, 16, 16]
    assert record["folders"] == [
        {"folder": str(folder), "bytes": sum(path.stat().st_size for path in folder.iterdir()), "new": False}
    ]
    assert not (home / "runs").exists()


@pytest.mark.slow
def test_what_init_writes_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EVAL_CACHE", str(home / "cache"))
    dataset(home / "mine", count=80)
    assert init("p.yaml", "--root", "mine", "--computer", "cpu", "--split", "-", "--size", "32", "--yes").exit_code == 0
    result = CliRunner().invoke(main, ["run", "p.yaml", "--smoke", "--out", "out", "--device", "cpu", "--quiet"])
    assert result.exit_code == 0, result.output
    assert (home / "out" / "report.html").is_file()
