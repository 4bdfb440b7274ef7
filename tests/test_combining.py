"""Runs side by side: what differs stands first, shared images are compared in pairs, and unlike things are not mixed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from cxr_eval.combining import combine
from cxr_eval.errors import RunError
from cxr_eval.report.render import render
from cxr_eval.store import Run
from cxr_eval.verifying import verify
from tests.finished_runs import PROTOCOL, finished_run

pytestmark = pytest.mark.slow

OTHER = (
    PROTOCOL.replace("name: small\n", "name: other\n")
    .replace(
        "  - {name: fgsm, eps: 0.02}\nattacks", "  - {name: fgsm, eps: 0.05}\n  - {name: pgd, eps: 0.02, steps: 2}\nattacks"
    )
    .replace("{name: pgd, eps: [0.01, 0.02], steps: 3, after: fgsm}", "{name: pgd, eps: [0.01, 0.02], steps: 6, after: fgsm}")
    .replace("patients: 12, size: 48, seed: 4", "patients: 12, size: 48, seed: 5")
    .replace("label: flipping, steps: 4", "label: flipping, steps: 2")
    .replace("seeds: [0, 1]", "seeds: 0")
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Run]]:
    patch = pytest.MonkeyPatch()
    patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield [finished_run(tmp_path_factory.mktemp(name), text=text) for name, text in (("first", PROTOCOL), ("second", OTHER))]
    patch.undo()


@pytest.fixture(scope="module")
def combined(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, tuple[tuple[str, ...], ...]]:
    found = combine(runs, tmp_path_factory.mktemp("combined") / "both")
    return found.run, found.differs


def test_what_differs_is_listed_and_what_is_the_same_is_not(combined: tuple[Run, tuple[tuple[str, ...], ...]]) -> None:
    header, *lines = combined[1]
    assert header == ("", "A: small", "B: other")
    told = {line[0]: line[1:] for line in lines}
    assert told["trainers.fgsm.eps"] == ("0.02", "0.05")
    assert told["attacks.pgd.steps"] == ("3", "6")
    assert told["trainers.pgd.steps"] == ("-", "2")
    assert told["seeds"] == ("[0, 1]", "[0]")
    assert "train.epochs" not in told
    assert "versions.numpy" not in told


def test_every_number_of_both_runs_is_there_under_the_name_of_its_run(
    runs: list[Run], combined: tuple[Run, tuple[tuple[str, ...], ...]]
) -> None:
    rows = combined[0].rows()
    assert len(rows) == sum(len(run.rows()) for run in runs)
    assert set(rows["trainer"]) == {"A: standard", "A: fgsm", "B: standard", "B: fgsm", "B: pgd"}
    before = runs[1].rows().query("trainer == 'fgsm' and split == 'test' and condition == 'clean' and metric == 'accuracy'")
    after = rows.query("trainer == 'B: fgsm' and split == 'test' and condition == 'clean' and metric == 'accuracy'")
    assert after["value"].tolist() == before["value"].tolist()


def test_sets_and_attacks_that_are_not_the_same_are_named_by_their_run(
    combined: tuple[Run, tuple[tuple[str, ...], ...]],
) -> None:
    rows = combined[0].rows()
    assert set(rows["split"]) == {"val", "test", "elsewhere", "elsewhere of B"}
    assert set(rows.loc[rows["trainer"] == "A: fgsm", "split"]) == {"val", "test", "elsewhere"}
    conditions = set(rows["condition"])
    assert {"fgsm:0.02", "pgd:0.02", "pgd of B:0.02"} <= conditions
    assert "pgd:0.02" not in set(rows.loc[rows["trainer"] == "B: fgsm", "condition"])


def test_networks_are_compared_in_pairs_on_the_images_that_both_saw(
    runs: list[Run], combined: tuple[Run, tuple[tuple[str, ...], ...]]
) -> None:
    found = combined[0].table("differences")
    pairs = set(zip(found["trainer"], found["against"], strict=True))
    assert pairs == {("B: standard", "A: standard"), ("B: fgsm", "A: fgsm"), ("B: pgd", "A: standard")}
    assert set(found["split"]) == {"test"}  # the outside sets have other images
    fgsm = found.query("trainer == 'B: fgsm' and metric == 'accuracy' and condition == 'clean'").iloc[0]
    values = [
        run.rows().query(
            "trainer == 'fgsm' and seed == 0 and split == 'test' and condition == 'clean' and metric == 'accuracy'"
        )
        for run in runs
    ]
    first, second = (rows[rows["subgroup"] == ""]["value"].item() for rows in values)
    assert fgsm["value"] == pytest.approx(second - first)
    same = found.query("trainer == 'B: standard' and metric == 'accuracy' and condition == 'clean'").iloc[0]
    assert (same["value"], same["p"]) == (0, 1)  # the same network


def test_the_worst_case_is_compared_over_the_attacks_that_both_runs_have(
    combined: tuple[Run, tuple[tuple[str, ...], ...]],
) -> None:
    found = combined[0].table("differences").query("trainer == 'B: standard' and metric == 'robust_accuracy'")
    assert set(found["condition"]) == {"fgsm:0.01", "fgsm:0.02", "long:0.5", "worst:0.01", "worst:0.02", "worst(l2):0.5"}
    assert set(found["value"]) == {0}  # the network, the images and these attacks are the same
    warnings = {warning.code: warning.message for warning in combined[0].warnings()}
    assert warnings["other_attacks"].startswith(
        "The runs were attacked differently (A by fgsm, pgd, borrowed, long; B by fgsm, pgd, borrowed, long)"
    )


def test_the_report_says_first_what_differs(combined: tuple[Run, tuple[tuple[str, ...], ...]]) -> None:
    page = render(combined[0], ("html",))["html"].read_text(encoding="utf-8")
    assert 0 < page.index("What differs between the runs") < page.index('id="main-results"')
    assert "attacks.pgd.steps" in page


def test_runs_that_cannot_be_compared_are_refused_in_one_line(runs: list[Run], tmp_path: Path) -> None:
    for few in ([], runs[:1]):
        with pytest.raises(RunError, match="expected 2 to 26 runs to compare, got"):
            combine(few, tmp_path / "none")
    with pytest.raises(RunError, match="expected different runs, got one twice"):
        combine([runs[0], runs[0]], tmp_path / "none")
    text = PROTOCOL.replace("size: 32\nmodels", "classes: [pneumonia, covid, normal]\n  size: 32\nmodels")
    fewer = finished_run(tmp_path / "fewer", "train.epochs=1", "train.seeds=0", text=text)
    with pytest.raises(RunError, match=r"classes .* but .* has .*; these cannot be compared"):
        combine([runs[0], fewer], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_rows_of_a_comparison_can_be_read_back_as_they_were_written(combined: tuple[Run, tuple[tuple[str, ...], ...]]) -> None:
    again = Run.open(combined[0].folder)
    pd.testing.assert_frame_equal(again.rows(), combined[0].rows())


def test_a_comparison_is_verified_through_its_runs(combined: tuple[Run, tuple[tuple[str, ...], ...]], runs: list[Run]) -> None:
    with pytest.raises(RunError) as caught:
        verify(combined[0])
    assert "a comparison, which has no tables of its own; name the runs that it compares: " in str(caught.value)
    assert str(runs[1].folder) in str(caught.value)


def test_a_run_is_never_overwritten_by_a_comparison(runs: list[Run]) -> None:
    before = (runs[0].folder / "manifest.json").read_bytes()
    with pytest.raises(RunError, match="holds a run, which the comparison would overwrite; choose another folder with --out"):
        combine(runs, runs[0].folder)
    assert (runs[0].folder / "manifest.json").read_bytes() == before


def test_maps_that_were_made_or_measured_in_another_way_are_not_compared(
    combined: tuple[Run, tuple[tuple[str, ...], ...]],
) -> None:
    metrics = {name.partition("[")[0] for name in combined[0].table("differences")["metric"]}
    assert "relevance_mass" in metrics
    assert "flipping" not in metrics
    warnings = {warning.code: warning.message for warning in combined[0].warnings()}
    assert warnings["other_explanations"].startswith("flipping: not made in the same way in all runs")
