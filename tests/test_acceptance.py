"""What a pipeline may require of a run's numbers, and what it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cxr_eval.acceptance import Verdict, judge, parse
from cxr_eval.errors import ProtocolError
from cxr_eval.store import Run
from cxr_eval.types import Row, RowWarning
from tests.fake_run import Fake

NAN = float("nan")
ROW = Row("m", "t", 0, "test", "clean", "", "accuracy", 0.8, 0.7, 0.9, 50, "fraction", "higher", "drawn")
SMALL = Fake(
    models=("m",), trainers=("t", "u"), seeds=(0,), attacks=("pgd",), corruptions=(), outside=("other",), explainers=("cam",)
)


def run(folder: Path, *rows: Row, warnings: tuple[RowWarning, ...] = ()) -> Run:
    """A run that has these numbers and no others."""

    class Only(Fake):
        def rows(self) -> list[Row]:
            return list(rows)

    return Only(**{name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__} | {"warnings": warnings}).write(folder)


def judged(run: Run, text: str) -> Verdict:
    return judge(run, [parse(text)])[0]


BOTH = (ROW, replace(ROW, trainer="u", value=0.6, low=0.5, high=0.65))


def test_a_requirement_is_met_if_every_network_meets_it(tmp_path: Path) -> None:
    of_both = run(tmp_path, *BOTH)
    found = judged(of_both, "accuracy@clean >= 0.6")
    assert found.met
    assert found.line == "met      accuracy@clean >= 0.6: closest is m, u with 0.600"
    found = judged(of_both, "accuracy@clean > 0.6")
    assert not found.met
    assert found.line == "NOT MET  accuracy@clean > 0.6: m, u: 0.600"


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("accuracy@clean <= 0.8", True),
        ("accuracy@clean < 0.8", False),
        ("low(accuracy@clean) >= 0.5", True),
        ("low(accuracy@clean) > 0.5", False),
        ("high(accuracy@clean) < 0.91", True),
        ("  accuracy@clean>=.75  for   trainer=t and model=m and split=test ", True),
        ("accuracy@clean >= 0.75 for trainer=u", False),
    ],
)
def test_bounds_operators_and_selectors(tmp_path: Path, text: str, met: bool) -> None:
    assert judged(run(tmp_path, *BOTH), text).met is met


def test_the_number_is_the_mean_over_seeds_as_reports_show_it(tmp_path: Path) -> None:
    rows = [replace(ROW, seed=seed, value=value) for seed, value in ((0, 0.5), (1, 0.7))]
    of_seeds = run(tmp_path, *rows)
    assert judged(of_seeds, "accuracy@clean >= 0.6 for trainer=t").met
    assert not judged(of_seeds, "accuracy@clean > 0.6 for trainer=t").met


def test_radii_are_compared_as_numbers_and_regions_classes_and_thresholds_belong_to_the_metric(tmp_path: Path) -> None:
    at = {"trainer": "t", "condition": "worst:8/255", "metric": "robust_recall[a@0.1]"}
    there = run(tmp_path, replace(ROW, **at), replace(ROW, **at | {"trainer": "u"}))
    assert judged(there, "robust_recall[a@0.1]@worst:8/255 >= 0.8").met
    assert judged(there, "robust_recall[a@0.1]@worst:0.0313725490196 >= 0.8").met


def test_a_number_that_is_lacking_withheld_or_forbidden_meets_nothing(tmp_path: Path) -> None:
    lacking = run(tmp_path / "a", ROW)
    assert judged(lacking, "accuracy@clean >= 0").line == "NOT MET  accuracy@clean >= 0: m, u: not measured"
    withheld = run(tmp_path / "b", replace(ROW, value=NAN, low=NAN, high=NAN, note="fewer than 5 patients"), BOTH[1])
    assert judged(withheld, "accuracy@clean >= 0").line.endswith("m, t: no number (fewer than 5 patients)")
    alone = run(tmp_path / "c", replace(ROW, low=NAN, high=NAN), BOTH[1])
    assert judged(alone, "low(accuracy@clean) >= 0").line.endswith("m, t: no low is defined")
    doubt = RowWarning("one_answer", "fail", "m / t / seed 0, test", "It has learned nothing.")
    forbidden = run(tmp_path / "d", *BOTH, warnings=(doubt,))
    found = judged(forbidden, "accuracy@clean >= 0.1")
    assert found.line.endswith("m, t: 0.800, which a failed check forbids to believe")
    assert not found.met


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("accuracy@clean = 1", "expected METRIC@CONDITION OP VALUE, such as"),
        ("accuracy@clean => 0.5", "expected one of >=, <=, >, < between name and number"),
        ("accuracy@clean != 0.5", "expected METRIC@CONDITION OP VALUE"),
        ("accuracy > 0.5", "'accuracy' has no condition, such as @clean"),
        ("@clean > 0.5", "'@clean' has no condition"),
        ("accuracy@clean > many", "expected a number after >, got 'many'"),
        ("accuracy@clean > nan", "expected a number after >, got 'nan'"),
        ("lw(accuracy@clean) > 0", "expected low or high, got 'lw'; did you mean 'low'?"),
        ("accuracy@clean > 0 for traner=t", "got 'traner=t'; did you mean 'trainer'?"),
        ("accuracy@clean > 0 for t", "expected KEY=VALUE with KEY among model, trainer, split, explainer, subgroup, got 't'"),
        ("", "expected METRIC@CONDITION OP VALUE"),
    ],
)
def test_what_is_no_requirement_is_refused_before_anything_runs(text: str, told: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("acuracy@clean > 0", "the run has no metric 'acuracy'; did you mean 'accuracy'?"),
        ("accuracy@pgd:0.02 > 0", "no accuracy at 'pgd:0.02'; there is: clean"),
        ("accuracy@clean > 0 for trainer=x", "the run has no trainer 'x'; it has: t, u"),
        ("accuracy@clean > 0 for split=oter", "the run has no split 'oter'"),
        ("relevance_mass[lesion]@clean > 0", "name one with 'for explainer=...': cam"),
    ],
)
def test_a_number_that_no_network_has_is_wrong_input_and_not_a_failed_requirement(tmp_path: Path, text: str, told: str) -> None:
    maps = replace(ROW, metric="relevance_mass[lesion]", explainer="cam")
    with pytest.raises(ProtocolError) as caught:
        judged(run(tmp_path, *BOTH, maps), text)
    assert told in str(caught.value)


def test_a_number_that_some_seed_lacks_meets_nothing(tmp_path: Path) -> None:
    of_seeds = replace(SMALL, seeds=(0, 1))

    class Only(Fake):
        def rows(self) -> list[Row]:
            return [*BOTH, replace(BOTH[1], seed=1)]

    made = Only(**{name: getattr(of_seeds, name) for name in SMALL.__dataclass_fields__}).write(tmp_path)
    found = judged(made, "accuracy@clean >= 0")
    assert found.line == "NOT MET  accuracy@clean >= 0: m, t: 0.800, of 1 of 2 seeds only"


def test_a_smoke_run_meets_nothing(tmp_path: Path) -> None:
    doubt = RowWarning("smoke_run", "fail", "run", "SMOKE RUN")
    found = judged(run(tmp_path, *BOTH, warnings=(doubt,)), "accuracy@clean >= 0.1 for trainer=t")
    assert found.line.endswith("m, t: 0.800, of a smoke run, whose numbers say nothing")
    assert not found.met
