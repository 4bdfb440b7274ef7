"""A run in a notebook: five lines from a protocol to tables, figures and words, and the same from a folder."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import cxr_eval
from cxr_eval.errors import ProtocolError, RunError
from cxr_eval.marked_yaml import written
from cxr_eval.notebook import RunResult, overrides
from cxr_eval.protocol_file import load
from cxr_eval.report.figures import Picture
from cxr_eval.report.render import render
from tests.fake_run import HOSTILE, Fake
from tests.report_pages import FAILED_CHECK, SMALL, Page

ROOT = Path(__file__).parents[1]
STUDY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "train": {"reader": "phantom", "patients": 40, "size": 48},
        "size": 32,
        "audit": {"duplicates": False, "probe": False},
    },
    "models": ["small_cnn"],
    "train": {"epochs": 1, "batch_size": 16},
    "trainers": ["standard", {"name": "fgsm", "eps": "8/255"}],
    "attacks": [{"name": "fgsm", "eps": ["4/255", "8/255"]}],
    "evaluate": {"resamples": 100, "anatomy": None, "validity": None},
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def opened(fake: Fake, folder: Path, formats: tuple[str, ...] = ("html", "md")) -> RunResult:
    run = fake.write(folder / "run")
    render(run, formats)
    return cxr_eval.open(run.folder)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return opened(replace(SMALL, seeds=(0, 1), drawn=False), tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return cxr_eval.run(STUDY, out=tmp_path_factory.mktemp("ran") / "run", device="cpu", quiet=True)


def test_five_lines_give_rows_a_table_figures_and_words(ran: RunResult) -> None:
    assert set(ran.rows["trainer"]) == {"standard", "fgsm"}
    assert ran.table("accuracy").index.tolist() == [("small_cnn", "standard"), ("small_cnn", "fgsm")]
    assert ran.figures
    assert ran.report == ran.folder / "report.html"
    assert ran.failed == ()
    assert len(ran.history) == 2
    assert str(ran.folder / "report.html") in repr(ran)


def test_a_dict_is_run_as_the_file_of_the_same_words(ran: RunResult, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    again = cxr_eval.run(file, out=tmp_path / "run", device="cpu", quiet=True)
    assert again.rows.equals(ran.rows)
    assert again.manifest["protocol"]["hash"] == ran.manifest["protocol"]["hash"]
    kept = yaml.safe_load((ran.folder / "protocol.yaml").read_text(encoding="utf-8"))
    assert kept == STUDY


def test_an_opened_run_is_the_one_that_ran(ran: RunResult) -> None:
    again = cxr_eval.open(str(ran.folder))
    assert repr(again) == repr(ran)
    assert again.rows.equals(ran.rows)
    assert list(again.figures) == list(ran.figures)


def test_opening_a_run_needs_no_torch(made_up: RunResult) -> None:
    script = (
        f"import sys, cxr_eval; result = cxr_eval.open({str(made_up.folder)!r}); result.table(); result.figures; repr(result)\n"
        "print([name for name in ('torch', 'art', 'monai', 'quantus') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=False)
    assert ran.stdout.strip() == "[]", ran.stderr


def test_settings_are_overridden_by_dict_or_by_list(tmp_path: Path) -> None:
    settings = {
        "train.epochs": 3,
        "trainers.1.eps": "4/255",
        "train.optimizer": {"name": "sgd", "lr": 1e-05},
        "train.seeds": (0, 2),
    }
    texts = overrides(settings)
    assert texts[:2] == ["train.epochs=3", "trainers.1.eps=4/255"]
    by_dict = load(STUDY, sets=texts).protocol
    assert (by_dict.train.epochs, by_dict.train.optimizer.lr, by_dict.train.seeds) == (3, 1e-05, (0, 2))
    assert by_dict.trainers[1].settings == {"eps": "4/255"}
    assert overrides(["train.epochs=3"]) == ["train.epochs=3"]
    said = r"^set: expected a dict or a list of KEY=VALUE, got the text 'a=1'; write set=\['a=1'\]$"
    with pytest.raises(ProtocolError, match=said):
        cxr_eval.run(STUDY, set="a=1")
    with pytest.raises(ProtocolError, match=r"^set: train.epochs: value: expected text, a number, a list or a dict, got set$"):
        overrides({"train.epochs": {1}})


@pytest.mark.parametrize(
    "value",
    [
        *("yes", "8/255", "1e-3x", "a: b", "# no", " x ", "", "ü\n'\""),
        *(None, True, 3, 2.5e-7, [], [1, "2"], {"on": "off"}),
    ],
)
def test_what_a_dict_holds_is_what_is_read(value: Any) -> None:
    from cxr_eval.marked_yaml import parse, plain

    tree, found = parse(written({"key": value}, "protocol"), lambda line: "protocol")
    assert plain(tree) == {"key": value}
    assert found == []


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        (
            "name: tiny\ndata: {}\n",
            "protocol: expected a path or a dict, got YAML text; save it to a file, or give yaml.safe_load(text)",
        ),
        (3, "protocol: expected a path or a dict, got int"),
        ("nowhere.yaml", "nowhere.yaml: there is no such file"),
        (STUDY | {"models": []}, "protocol: models: "),
        (STUDY | {"modells": ["x"]}, "protocol: a protocol has no setting 'modells'; did you mean 'models'?"),
        (
            STUDY | {"trainers": [{"name": "fgsm", "epsilon": 1}]},
            "protocol: trainers[0]: fgsm has no setting 'epsilon'; did you mean 'eps'?",
        ),
        (STUDY | {"cite": pd.DataFrame()}, "protocol: cite: expected text, a number, a list or a dict, got DataFrame"),
        (
            STUDY | {"train": {"seeds": [0, object()]}},
            "protocol: train.seeds[1]: expected text, a number, a list or a dict, got object",
        ),
        ({3: "x"}, "protocol: expected names as keys, got 3"),
    ],
)
def test_a_protocol_that_is_not_one_is_refused_in_one_line(protocol: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as refused:
        cxr_eval.run(protocol, out=tmp_path / "run", quiet=True)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert ":1:" not in str(refused.value)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no manifest.json; expected a run folder"):
        cxr_eval.open(tmp_path)


def test_the_table_has_the_reports_numbers_with_their_intervals(made_up: RunResult) -> None:
    table = made_up.table("accuracy", "robust_accuracy", split="test")
    rows = made_up.rows
    mine = rows.query(
        "trainer == 'pgd' and split == 'test' and metric == 'accuracy' and condition == 'clean' and subgroup == ''"
    )
    assert len(mine) == 2
    value, low, high = (mine[name].mean() for name in ("value", "low", "high"))
    shown = table.loc[("resnet18", "pgd"), ("test", "clean", "", "accuracy")]
    assert shown == f"{value:.3f} [{low:.3f}, {high:.3f}]"
    page = Page((made_up.folder / "report.html").read_text(encoding="utf-8"))
    cells = [" ".join(cell.split()) for table_ in page.tables.values() for line in table_ for cell in line]
    assert any(shown in cell for cell in cells)
    assert {condition.partition(":")[0] for _, condition, _, _ in table.columns} == {"clean", "worst"}


def test_conditions_splits_and_explainers_are_chosen_by_name(made_up: RunResult) -> None:
    table = made_up.table("robust_accuracy", condition="pgd:0.02")
    assert table.columns.tolist() == [("test", "pgd:0.02", "", "robust_accuracy")]
    places = made_up.table("relevance_mass", explainer=["gradcam"])
    assert {(explainer, metric.partition("[")[0]) for _, _, explainer, metric in places.columns} == {
        ("gradcam", "relevance_mass")
    }


def test_a_name_that_is_not_there_is_refused_with_the_nearest(made_up: RunResult) -> None:
    for given, said in (
        ({"split": "tets"}, "no split 'tets'; did you mean 'test'?"),
        ({"condition": ["clean", "pgd:9"]}, "no condition 'pgd:9'"),
        ({"explainer": "grad"}, "no explainer 'grad'"),
    ):
        with pytest.raises(RunError, match=re.escape(said)):
            made_up.table("accuracy", **given)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=re.escape("no metric 'acuracy'; did you mean 'accuracy'?")):
        made_up.table("acuracy")


def test_a_number_that_a_failed_check_forbids_is_marked(tmp_path: Path) -> None:
    result = opened(replace(SMALL, warnings=(FAILED_CHECK,)), tmp_path)
    table = result.table("robust_accuracy", condition="pgd:0.02")
    assert table.loc[("resnet18", "standard")].item().endswith("] †")
    assert not table.loc[("resnet18", "pgd")].item().endswith("†")
    assert "1 failed check" in repr(result)


def test_nothing_measured_is_an_empty_table_and_still_words(tmp_path: Path) -> None:
    failed = (("resnet18", "standard", 0), ("resnet18", "pgd", 0))
    result = opened(replace(SMALL, failed=failed), tmp_path)
    assert result.table().empty
    assert "Nothing was measured" in repr(result)
    assert repr(result).count("Failed: resnet18 / ") == 2
    assert "Nothing was measured" in result._repr_html_()


def test_every_figure_of_the_report_is_an_object_that_shows_and_saves_itself(made_up: RunResult, tmp_path: Path) -> None:
    page = (made_up.folder / "report.md").read_text(encoding="utf-8")
    in_report = set(re.findall(r"figures/([^)]+)\.svg", page))
    assert in_report <= set(made_up.figures)
    for key, figure in made_up.figures.items():
        assert isinstance(figure, Picture)
        assert ElementTree.fromstring(figure._repr_svg_()).tag.endswith("svg"), key
    name = next(iter(in_report))
    saved = made_up.figures[name].save(tmp_path / "figure.svg")
    assert saved.read_bytes() == (made_up.folder / "figures" / f"{name}.svg").read_bytes()


def test_the_verdict_is_the_reports(made_up: RunResult) -> None:
    page = " ".join(" ".join(Page((made_up.folder / "report.html").read_text(encoding="utf-8")).words).split())
    assert made_up.verdict
    assert all(sentence in page for sentence in made_up.verdict)
    assert any("human readers" in sentence for sentence in made_up.not_tested)


def test_the_words_say_what_where_and_how_doubtful(made_up: RunResult) -> None:
    lines = repr(made_up).splitlines()
    assert lines[0].startswith(f"{made_up.manifest['name']}: 1 model x 2 trainers x 2 seeds")
    assert lines[-1] == str(made_up.folder / "report.html")
    assert lines[-2] == "no warnings"
    assert all(len(line) <= 100 for line in lines[:-1])


def test_drawn_images_are_said_first(tmp_path: Path) -> None:
    said = "Drawn images of no patient: the numbers say nothing about patients."
    result = opened(replace(SMALL, drawn=True), tmp_path)
    assert f"  {said}" in repr(result).splitlines()
    assert f"<li>{said}</li>" in result._repr_html_()


def test_the_notebook_shows_the_main_table_with_the_reports_numbers(made_up: RunResult) -> None:
    shown = Page(made_up._repr_html_())
    (table,) = shown.tables.values()
    assert table[0][:3] == ["Model", "Trainer", "Accuracy"]
    (text,) = made_up.table("accuracy", condition="clean", split="test").loc[("resnet18", "standard")]
    assert table[1][:3] == ["resnet18", "standard", text]


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\ud800" not in name])
def test_hostile_names_are_shown_as_text(name: str, tmp_path: Path) -> None:
    result = opened(replace(SMALL, trainers=("standard", name), title=name), tmp_path, ("md",))
    page = result._repr_html_()
    assert "<script" not in page
    tags = {tag for tag, _ in Page(page).tags}
    assert tags <= {"div", "p", "strong", "ul", "li", "table", "caption", "tr", "th", "td", "small", "sup", "br", "code"}
    assert all(line.isprintable() for line in repr(result).splitlines())
    assert result.report == result.folder / "report.md"


def test_show_opens_the_report_in_the_browser_outside_of_notebooks(
    made_up: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", asked.append)
    made_up.show()
    assert asked == [(made_up.folder / "report.html").resolve().as_uri()]
    without = opened(SMALL, tmp_path, ("md",))
    with pytest.raises(RunError, match=r"has no report.html; write it with: cxr-eval report "):
        without.show()


def test_show_puts_the_report_into_a_notebook(made_up: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    class Display:
        shown: list[str] = []  # noqa: RUF012

        @staticmethod
        def HTML(text: str) -> str:  # noqa: N802  # IPython's name
            return text

        @classmethod
        def display(cls, text: str) -> None:
            cls.shown.append(text)

    class IPython:
        @staticmethod
        def get_ipython() -> object:
            return object()

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    monkeypatch.setitem(sys.modules, "IPython.display", Display)
    made_up.show()
    (shown,) = Display.shown
    ((tag, about),) = Page(shown).tags
    assert tag == "iframe"
    assert about["srcdoc"] == (made_up.folder / "report.html").read_text(encoding="utf-8")


def test_progress_is_told_line_by_line_unless_it_is_to_be_quiet(
    ran: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cxr_eval.run(STUDY, out=ran.folder, device="cpu")
    assert "data: phantom:" in capsys.readouterr().out
    cxr_eval.run(STUDY, out=ran.folder, device="cpu", quiet=True)
    assert capsys.readouterr().out == ""


def test_a_demonstration_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    missing = {"reader": "table", "root": "${NO_SUCH_FOLDER}", "when_missing": "phantom"}
    study: Mapping[str, Any] = STUDY | {
        "data": STUDY["data"] | {"train": missing},
        "demonstration": {"data": {"train": {"patients": 40}}},
    }
    cxr_eval.run(study, out=tmp_path / "run", device="cpu", set={"attacks": []})
    assert capsys.readouterr().out.startswith("DEMONSTRATION. NO_SUCH_FOLDER is not set, so 'phantom' stands in for the images")


def test_star_import_leaves_pythons_own_open_alone() -> None:
    names: dict[str, Any] = {}
    exec("from cxr_eval import *", names)
    assert "open" not in names
    assert {"run", "evaluate", "RunResult"} <= set(names)
    assert {"run", "open", "evaluate"} <= set(dir(cxr_eval))


@pytest.mark.slow
def test_the_readmes_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- notebook -->\n```python\n(.*?)```\n<!-- end -->", page, re.DOTALL)
    assert blocks
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks):
        file = tmp_path / f"lines{number}.py"
        file.write_text(block, encoding="utf-8")
        runpy.run_path(str(file))
    assert "tiny: 1 model x 2 trainers" in capsys.readouterr().out
    assert (tmp_path / "robust.svg").is_file()
