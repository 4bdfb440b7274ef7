"""A finished run is looked over again: nothing wrong where nothing was changed, and every change found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from cxr_eval.cli import main
from cxr_eval.errors import RunError
from cxr_eval.facts import Facts
from cxr_eval.store import Run, file_hash, write_json
from cxr_eval.verifying import Finding, cells_of, verify
from tests.fake_run import Fake
from tests.finished_runs import finished_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    patch = pytest.MonkeyPatch()
    patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield finished_run(tmp_path_factory.mktemp("original"), "train.seeds=0")
    patch.undo()


@pytest.fixture
def run(original: Run, tmp_path: Path) -> Run:
    """A copy that may be changed."""
    shutil.copytree(original.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def rehashed(run: Run, name: str) -> Run:
    """The run after a file was changed by one who knows where its hash stands."""
    manifest = run.manifest()
    manifest["files"][name] = file_hash(run.folder / name)
    write_json(run.folder / "manifest.json", manifest)
    return Run.open(run.folder)


def table(run: Run, kind: str, condition: str = "") -> Path:
    """The first file of one kind of table of the first cell."""
    tables = cells_of(run, Facts(run.manifest()))[0].tables
    sources = [entry for entry in tables.record if (entry["kind"], entry["condition"]) == (kind, condition)]
    part = sources[0]["parts"][0]
    return tables.folder / part["evaluation"] / part["file"]


def relisted(path: Path) -> None:
    """The evaluation of a changed file, told by one who knows where its hash stands."""
    done = path.with_name("done.json")
    content = json.loads(done.read_text())
    content["files"][path.name] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    done.write_text(json.dumps(content))


def wrong(found: list[Finding]) -> list[str]:
    return [line for finding in found for line in finding.wrong]


def test_an_untouched_run_is_what_its_tables_give_to_the_last_digit(run: Run) -> None:
    found = verify(run)
    assert wrong(found) == []
    assert [finding.what.split(" are ")[0].split(" have ")[0] for finding in found] == [
        "files of the run",
        "files of cells and evaluations",
        "lines of rows.csv",
        "lines of differences.csv",
        "lines of gaps.csv",
        "lines of curves.csv",
        "sizes of sets and epochs of training",
        "files of the reports",
    ]
    assert found[-1].count > 2, "report.html and report.md with cards and figures"
    assert len(run.rows()) in [finding.count for finding in found]
    assert found[2].line.startswith("ok       ")


def test_nothing_of_torch_or_of_plugins_is_needed(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from cxr_eval.store import Run; from cxr_eval.verifying import verify;"
        f"found = verify(Run.open(Path({str(run.folder)!r})));"
        "assert not any(finding.wrong for finding in found);"
        "heavy = {'torch', 'art', 'monai', 'quantus', 'captum'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_number_changed_in_rows_is_found_though_its_hash_was_changed_too(run: Run) -> None:
    path = run.folder / "rows.csv"
    lines = path.read_text().splitlines(keepends=True)
    place = next(k for k, line in enumerate(lines) if ",fgsm:0.02,,robust_accuracy," in line)
    value = run.rows()["value"].iloc[place - 1]
    better = min(1.0, value + 0.05)
    lines[place] = lines[place].replace(f"robust_accuracy,{value}", f"robust_accuracy,{better}")
    path.write_text("".join(lines))
    found = wrong(verify(rehashed(run, "rows.csv")))
    assert found[0] == f"rows.csv:{place + 1}: value is {better}; the tables give {value}"


def test_a_row_left_out_is_found(run: Run) -> None:
    path = run.folder / "rows.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    count = len(lines) - 1
    assert f"rows.csv has {count - 1:,} lines; the tables give {count:,}" in wrong(verify(rehashed(run, "rows.csv")))


@pytest.mark.parametrize("name", ["differences", "gaps"])
def test_a_changed_p_value_is_found(run: Run, name: str) -> None:
    path = run.folder / f"{name}.csv"
    stored = pd.read_csv(path, keep_default_na=False)
    place = next(k for k, p in enumerate(stored["p"]) if p != "")
    stored["p"] = [0.001 if k == place else p for k, p in enumerate(stored["p"])]
    stored.to_csv(path, index=False)
    (told,) = wrong(verify(rehashed(run, path.name)))[:1]
    assert told.startswith(f"{name}.csv:{place + 2}: p is 0.001; the tables give ")


@pytest.mark.parametrize(
    ("kind", "condition"), [("clean", ""), ("attack", "pgd"), ("explanations", "clean"), ("corrupted", "gaussian_noise:5")]
)
def test_a_table_that_changed_is_found_by_its_hash(run: Run, kind: str, condition: str) -> None:
    path = table(run, kind, condition)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    found = wrong(verify(run))
    assert found == [f"{path.relative_to(run.folder)}: changed since it was computed"]


def test_a_table_changed_with_its_hash_is_found_by_the_numbers_that_it_gives(run: Run) -> None:
    path = table(run, "attack", "fgsm")
    changed = pd.read_parquet(path)
    changed["robust"] = False
    changed.to_parquet(path, index=False)
    relisted(path)
    assert any(line.startswith("rows.csv:") and "the tables give 0.0" in line for line in wrong(verify(run)))


def test_a_table_that_is_missing_is_named(run: Run) -> None:
    path = table(run, "searched", "convergence:0.02")
    path.unlink()
    assert wrong(verify(run)) == [f"{path.relative_to(run.folder)}: missing"]


def test_weights_that_changed_are_found(run: Run) -> None:
    weights = next(run.folder.glob("cells/*/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert wrong(verify(run)) == [f"{weights.relative_to(run.folder)}: changed since it was computed"]


def test_an_evaluation_without_its_record_is_named(run: Run) -> None:
    table(run, "clean").with_name("done.json").unlink()
    assert any("done.json: cannot be read" in line for line in wrong(verify(run)))


def test_a_report_that_was_edited_is_found(run: Run) -> None:
    page = run.folder / "report.html"
    page.write_text(page.read_text().replace("Main results", "Glorious results"))
    (told,) = wrong(verify(run))
    assert told == f"report.html: not what the run's files give; write it again with: cxr-eval report {run.folder}"


def test_many_wrong_numbers_are_counted(run: Run) -> None:
    path = run.folder / "rows.csv"
    rows = run.rows()
    rows["n"] += 1
    rows.to_csv(path, index=False)
    found = wrong(verify(rehashed(run, "rows.csv")))
    assert len([line for line in found if line.startswith("rows.csv:")]) == 5
    assert f"and {len(rows) - 5:,} more" in found


def test_a_folder_of_a_version_that_listed_no_tables_says_what_to_do(tmp_path: Path) -> None:
    old = Fake().write(tmp_path)
    with pytest.raises(RunError, match="did not list its tables; run the protocol again, what is computed is kept"):
        verify(old)


def test_a_card_or_a_figure_that_was_edited_is_found(run: Run) -> None:
    card, figure = run.folder / "model_card.md", next((run.folder / "figures").glob("*.svg"))
    card.write_text(card.read_text() + "It is safe.")
    figure.write_text("<svg/>")
    found = wrong(verify(run))
    assert {line.partition(":")[0] for line in found} == {"model_card.md", f"figures/{figure.name}"}


def test_sets_that_grew_and_a_history_that_improved_are_found_though_their_hashes_were_changed(run: Run) -> None:
    manifest = run.manifest()
    images = manifest["data"]["splits"]["test"]["images"]
    manifest["data"]["splits"]["test"]["images"] = 3600
    write_json(run.folder / "manifest.json", manifest)
    history = pd.read_csv(run.folder / "history.csv")
    history["train_loss"] = 0.001
    history.to_csv(run.folder / "history.csv", index=False)
    found = wrong(verify(rehashed(run, "history.csv")))
    assert f"manifest.json: 'test' has 3600 images; the tables give {images}" in found
    assert any("history.csv:" in line and "train_loss is 0.001" in line for line in found)


def test_a_manifest_that_lost_a_part_is_told_in_one_line(run: Run) -> None:
    manifest = run.manifest()
    del manifest["data"]["classes"]
    write_json(run.folder / "manifest.json", manifest)
    for command in ("verify", "report"):
        result = CliRunner().invoke(main, [command, str(run.folder)])
        assert result.exit_code == 2
        (told,) = [line for line in result.stderr.splitlines() if "manifest.json" in line]
        assert "cannot be read as a run's (KeyError: 'classes'): it was changed, or cxr-eval is at fault" in told
