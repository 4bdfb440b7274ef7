"""Attacks that build on one another, in a run on few drawn images: what is computed, what is not again, and what is written."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cxr_eval import registry, runner
from cxr_eval.events import Event
from cxr_eval.gate import CHECK_COLUMNS
from cxr_eval.protocol_file import load
from cxr_eval.stats.comparisons import Comparison
from cxr_eval.store import Run

PROTOCOL = """
name: building
data:
  train: {reader: phantom, patients: 45, size: 48, seed: 3}
  size: 32
models: [small_cnn]
train: {epochs: 12, batch_size: 16, optimizer: {name: adam, lr: 3.0e-3}, select: {metric: last}}
trainers:
  - standard
  - {name: fgsm, eps: 0.02}
attacks:
  - {name: fgsm, eps: [0.01, 0.02]}
  - {name: pgd, eps: [0.01, 0.02], steps: 3, after: fgsm}
  - {name: pgd, label: borrowed, eps: 0.02, steps: 3, transfer_from: standard}
  - {name: universal, eps: 0.02, epochs: 1}
  - {name: pgd, label: long, norm: l2, eps: 0.5, steps: 3}
corruptions:
  - {name: gaussian_noise, severity: [1, 5]}
evaluate:
  resamples: 100
  min_patients: 2
  validity: {images: 8, steps: 4, restarts: 1}
  anatomy: {images: 6, steps: 2}
report: {formats: csv}
"""

pytestmark = pytest.mark.slow

Finished = tuple[runner.Outcome, list[Event], Path]


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def write(folder: Path, text: str = PROTOCOL) -> Path:
    path = folder / "protocol.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def go(path: Path, out: Path, *sets: str) -> tuple[runner.Outcome, list[Event]]:
    events: list[Event] = []
    return runner.run(load(path, sets=sets), out=out, device="cpu", on_event=events.append), events


def computed(events: list[Event]) -> list[str]:
    """What was trained and evaluated, as told, without the times."""
    told = [event.message for event in events if " / seed " in event.message]
    return sorted(re.sub(r",? (in )?\d+ s$", "", line) for line in told)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    path = write(folder)
    outcome, events = go(path, folder / "run")
    return outcome, events, path


def values(run: Run, trainer: str, metric: str, **at: object) -> dict[str, float]:
    rows = run.rows()
    rows = rows[(rows["trainer"] == trainer) & (rows["metric"] == metric) & (rows["subgroup"] == "")]
    for column, value in at.items():
        rows = rows[rows[column] == value]
    return rows.set_index("condition")["value"].to_dict()


def tables(folder: Path, attack: str) -> list[pd.DataFrame]:
    """Per-image tables of one attack as they are kept, cell by cell."""
    found = [pd.read_parquet(path) for path in sorted(folder.glob("cells/*/*/images.parquet"))]
    return [table for table in found if "attack" in table and table["attack"].iloc[0] == attack]


def test_a_run_with_attacks_that_build_on_each_other_is_whole(finished: Finished) -> None:
    outcome, _, _ = finished
    assert outcome.failed == ()
    robust = values(Run.open(outcome.folder), "fgsm", "robust_accuracy")
    attacked = {name for name in robust if not name.startswith(("inside", "outside"))}
    assert attacked == {
        *("fgsm:0", "fgsm:0.01", "fgsm:0.02", "pgd:0", "pgd:0.01", "pgd:0.02", "borrowed:0", "borrowed:0.02"),
        *("universal:0", "universal:0.02", "long:0", "long:0.5"),
        *("worst:0", "worst:0.01", "worst:0.02", "worst(l2):0", "worst(l2):0.5"),
    }


def test_an_attack_after_another_is_never_weaker_and_says_what_broke_each_image(finished: Finished) -> None:
    folder = finished[0].folder
    for trainer in ("standard", "fgsm"):
        robust = values(Run.open(folder), trainer, "robust_accuracy")
        for eps in ("0", "0.01", "0.02"):
            assert robust[f"worst:{eps}"] <= robust[f"pgd:{eps}"] <= robust[f"fgsm:{eps}"]
    after = pd.concat(tables(folder, "pgd"))
    broken = after[after["clean_correct"] & ~after["robust"]]
    assert set(broken["by"]) == {"fgsm", "pgd"}
    assert set(after.loc[after["robust"], "by"]) == {""}


def test_a_transfer_attack_is_made_on_the_other_network_and_not_run_on_the_one_it_comes_from(finished: Finished) -> None:
    folder = finished[0].folder
    assert not [name for name in values(Run.open(folder), "standard", "robust_accuracy") if name.startswith("borrowed")]
    assert len(tables(folder, "borrowed")) == 1
    (key,) = [json.loads(p.read_text())["source"] for p in folder.glob("cells/*/*/done.json") if '"source"' in p.read_text()]
    cells = {cell["trainer"]: cell["key"] for cell in Run.open(folder).manifest()["cells"]}
    assert key == cells["standard"]


def test_one_universal_perturbation_is_added_to_all_images(finished: Finished) -> None:
    for table in tables(finished[0].folder, "universal"):
        attacked = table[~table["carried"]]
        assert attacked["linf"].max() == pytest.approx(0.02, abs=1e-6)
        assert attacked["linf"].min() > 0.01  # clipped to [0, 1] here and there, never absent


def test_l2_radii_are_lengths_and_have_a_worst_case_of_their_own(finished: Finished) -> None:
    run = Run.open(finished[0].folder)
    for trainer in ("standard", "fgsm"):
        robust = values(run, trainer, "robust_accuracy")
        assert robust["worst(l2):0.5"] == robust["long:0.5"]
    for table in tables(finished[0].folder, "long"):
        assert table["l2"].max() <= 0.5 + 1e-5
        assert table["linf"].max() > 0.02
        assert set(table["norm"]) == {"l2"}


def test_corrupted_images_say_how_alike_they_still_are(finished: Finished) -> None:
    run = Run.open(finished[0].folder)
    alike = values(run, "standard", "ssim")
    assert set(alike) == {"gaussian_noise:1", "gaussian_noise:5"}
    assert 0 < alike["gaussian_noise:5"] < alike["gaussian_noise:1"] < 1
    assert values(run, "fgsm", "ssim") == alike  # the same noise for every network


def test_adding_an_attack_computes_it_alone(finished: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0].folder, tmp_path / "alone" / "run")
    added = "  - {name: fgsm, label: wide, eps: 0.03, after: pgd}\ncorruptions:"
    _, events = go(write(tmp_path, PROTOCOL.replace("corruptions:", added)), folder)
    # its radius is the largest now; the middle one, at which networks are checked, is still 0.02
    assert computed(events) == [f"small_cnn / {trainer} / seed 0: test, wide" for trainer in ("fgsm", "standard")]
    robust = values(Run.open(folder), "fgsm", "robust_accuracy")
    assert robust["worst:0.03"] == robust["wide:0.03"] <= robust["pgd:0.02"]


def test_a_run_again_computes_nothing_and_writes_the_same(finished: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0].folder, tmp_path / "alone" / "run")
    before = {name: (folder / name).read_bytes() for name in ("rows.csv", "checks.csv", "differences.csv")}
    _, events = go(finished[2], folder)
    assert computed(events) == []
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_another_label_computes_nothing_and_stands_in_every_table(finished: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0].folder, tmp_path / "alone" / "run")
    renamed = PROTOCOL.replace("label: long", "label: lengthy").replace("{name: universal", "{name: universal, label: same")
    _, events = go(write(tmp_path, renamed), folder)
    assert computed(events) == []
    run, before = Run.open(folder), Run.open(finished[0].folder)
    for trainer in ("standard", "fgsm"):
        robust, earlier = (values(each, trainer, "robust_accuracy") for each in (run, before))
        assert robust["lengthy:0.5"] == earlier["long:0.5"]
        assert robust["same:0.02"] == earlier["universal:0.02"]
        assert not {"long:0.5", "universal:0.02"} & set(robust)
        broken = set(run.rows().loc[lambda rows: rows["metric"].str.startswith("broken_by"), "metric"])
        assert "broken_by[lengthy]" in broken
        assert "broken_by[long]" not in broken
    assert {"lengthy:0.5", "same:0.02"} <= set(run.table("differences")["condition"])


def test_every_check_of_every_network_is_a_line_of_checks_csv(finished: Finished) -> None:
    checks = Run.open(finished[0].folder).table("checks")
    assert tuple(checks.columns) == CHECK_COLUMNS
    assert set(checks["kind"]) == {"validity"}
    assert set(checks["verdict"]) <= {"PASS", "WARN", "FAIL", "SKIP"}
    assert checks.groupby("trainer")["check"].nunique().nunique() == 1
    assert not checks.duplicated(["model", "trainer", "seed", "split", "kind", "check"]).any()
    assert checks["sentence"].str.endswith(".").all()
    transfer = checks[checks["check"] == "transfer_beats_white_box"].set_index("trainer")["verdict"]
    assert transfer["standard"] == "SKIP"  # the first network has no other to borrow images from
    assert all(isinstance(json.loads(numbers), dict) for numbers in checks["numbers"])
    assert set(checks["split"]) == {"test"}


def test_differences_csv_compares_the_second_trainer_with_the_first_in_everything(finished: Finished) -> None:
    run = Run.open(finished[0].folder)
    found = run.table("differences")
    assert tuple(found.columns) == tuple(Comparison.__dataclass_fields__)
    assert set(zip(found["trainer"], found["against"], strict=True)) == {("fgsm", "standard")}
    clean = found[found["condition"] == "clean"].set_index("metric")["value"]
    assert set(clean.index) == {"accuracy", "balanced_accuracy", "auroc", "mean_average_precision"}
    for metric in clean.index:
        ours, theirs = (values(run, trainer, metric)["clean"] for trainer in ("fgsm", "standard"))
        assert clean[metric] == pytest.approx(ours - theirs)
    robust = found[found["metric"] == "robust_accuracy"].set_index("condition")["value"].to_dict()
    ours, theirs = (values(run, trainer, "robust_accuracy") for trainer in ("fgsm", "standard"))
    assert set(robust) == {name for name in {*ours} & {*theirs} if not name.endswith((":0", "et:0.02")) and " " not in name}
    assert robust == {name: pytest.approx(ours[name] - theirs[name]) for name in robust}
    assert any(robust.values())
    assert (found["p_holm"] >= found["p"]).all()


def test_a_network_that_cannot_be_trained_fails_those_that_borrow_its_images_with_one_line(
    tmp_path: Path,
) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(
        "import cxr_eval.api as cxr\n\n\nclass FailingTrainer(cxr.Trainer):\n"
        "    def loss(self, batch):\n        raise cxr.TrainingError('no more disk')\n"
    )
    registry.register_file(plugin)
    text = PROTOCOL.replace("  - standard\n", "  - standard\n  - failing\n").replace("from: standard", "from: failing")
    try:
        outcome, _ = go(write(tmp_path, text), tmp_path / "run", "train.epochs=1", "corruptions=[]", "evaluate.anatomy=null")
    finally:
        registry.forget_files()
    said = "transfer_from: it needs the network of 'failing', whose training failed"
    assert outcome.failed == (
        f"small_cnn / standard / seed 0: {said}",
        "small_cnn / failing / seed 0: FailingTrainer: no more disk",
        f"small_cnn / fgsm / seed 0: {said}",
    )
    run = Run.open(outcome.folder)
    assert [cell["status"] for cell in run.manifest()["cells"]] == ["failed"] * 3
    assert run.table("differences").empty
    assert tuple(run.table("checks").columns) == CHECK_COLUMNS


FINDINGS = """
name: goals
data:
  train: {reader: phantom, patients: 45, size: 48, seed: 3, findings: true}
  size: 32
models: [small_cnn]
train: {epochs: 12, batch_size: 16, optimizer: {name: adam, lr: 3.0e-3}, select: {metric: last}}
trainers: [standard]
attacks:
  - {name: pgd, label: any, eps: 0.02, steps: 3}
  - {name: pgd, label: hidden, eps: [0.02, 0.1], steps: 3, goal: hide covid}
  - {name: pgd, label: invented, eps: 0.1, steps: 3, goal: invent covid}
  - {name: fgsm, label: invented more, eps: 0.1, goal: invent covid, after: invented}
evaluate: {resamples: 100, min_patients: 2, validity: {images: 8, steps: 4, restarts: 1}, anatomy: {images: 6, steps: 2}}
report: {formats: csv}
"""


@pytest.fixture(scope="module")
def of_findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("findings")
    outcome, _ = go(write(folder, FINDINGS), folder / "run")
    assert outcome.failed == ()
    return outcome.folder


def test_a_finding_is_hidden_where_it_is_and_invented_where_it_is_not(of_findings: Path) -> None:
    (hidden,), (invented,) = tables(of_findings, "hidden"), tables(of_findings, "invented")
    assert set(hidden["label:covid"]) == {1.0}
    assert set(invented["label:covid"]) == {0.0}
    (every,) = tables(of_findings, "any")
    assert set(hidden["image_id"]) | set(invented["image_id"]) == set(every["image_id"])
    assert not set(hidden["image_id"]) & set(invented["image_id"])
    # right under a goal is right about this finding: on the side of its label
    for table, there in ((hidden, True), (invented, False)):
        said = table["predicted"].str.split("|").map(lambda names: "covid" in names)
        assert (said == there)[table["robust"]].all()
        assert (said != there)[~table["robust"]].all()


def test_each_goal_is_a_threat_with_a_worst_case_of_its_own(of_findings: Path) -> None:
    robust = values(Run.open(of_findings), "standard", "robust_accuracy")
    assert robust["worst(hide covid):0.1"] == robust["hidden:0.1"] <= robust["hidden:0.02"] <= robust["hidden:0"]
    assert robust["worst(invent covid):0.1"] == robust["invented more:0.1"] <= robust["invented:0.1"]
    assert robust["worst:0.02"] == robust["any:0.02"]
    codes = [(warning.code, warning.scope) for warning in Run.open(of_findings).warnings()]
    assert "partial_attack" not in [code for code, _ in codes]


def test_regions_of_findings_are_audited_by_their_areas(of_findings: Path) -> None:
    rows = Run.open(of_findings).rows()
    lead = rows[rows["metric"].str.startswith("inside_minus_outside")]
    assert "inside_minus_outside[lung]" in set(lead["metric"])
    assert not rows["metric"].str.startswith("follows_marker").any()
    conditions = set(rows["condition"])
    assert {"intact lung", "without lung", "only lung", "inside lung:0.1", "outside lung:0.1"} <= conditions
