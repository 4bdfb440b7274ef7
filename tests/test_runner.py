"""A run from protocol to report on few drawn images: what it writes, and what it does not compute again."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_eval import cells, explanations, registry, run_doubts, runner
from cxr_eval.errors import CxrEvalError, DataError, DeviceError, PluginError, ProtocolError
from cxr_eval.events import Event
from cxr_eval.planned import PlannedPlugin
from cxr_eval.protocol_file import load
from cxr_eval.store import Run
from cxr_eval.types import ROW_COLUMNS

PROTOCOL = """
name: tiny
data:
  train: {reader: phantom, patients: 45, size: 48, seed: 3}
  outside:
    other: {reader: phantom, patients: 12, size: 48, site: outside, seed: 4}
  size: 32
  channels: 1
  augment: {flip: true}
models: [small_cnn]
train: {epochs: 2, batch_size: 16, optimizer: {name: adam, lr: 1.0e-3}, select: {metric: balanced_accuracy}}
trainers:
  - standard
  - {name: fgsm, eps: 0.02}
attacks:
  - {name: fgsm, eps: [0.01, 0.02]}
  - {name: pgd, eps: [0.01, 0.02], steps: 3, splits: [test, other]}
  - {name: art/SquareAttack, eps: 0.02, max_iter: 5, images: 6}
corruptions:
  - {name: gaussian_noise, severity: 3}
explain:
  methods: [saliency, gradcam]
  metrics: [relevance_mass, sparseness]
  conditions: [clean, {name: pgd, eps: 0.02, steps: 3}]
  images: 6
evaluate: {resamples: 100}
report: {gallery: 2}
"""


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
    outcome = runner.run(load(path, sets=sets), out=out, device="cpu", on_event=events.append)
    return outcome, events


def messages(events: list[Event]) -> list[str]:
    return [event.message for event in events if event.message]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[runner.Outcome, list[Event], Path]:
    folder = tmp_path_factory.mktemp("finished")
    path = write(folder)
    outcome, events = go(path, folder / "run")
    return outcome, events, path


def test_a_run_writes_rows_report_and_manifest(finished: tuple[runner.Outcome, list[Event], Path]) -> None:
    outcome, _, path = finished
    run = Run.open(outcome.folder)
    rows = run.rows()
    assert tuple(rows.columns) == ROW_COLUMNS
    assert outcome.failed == ()
    assert outcome.report == outcome.folder / "report.html"
    assert outcome.report.stat().st_size > 10_000
    assert (outcome.folder / "report.md").is_file()
    assert (outcome.folder / "protocol.yaml").read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
    assert set(rows["trainer"]) == {"standard", "fgsm"}
    assert set(rows["split"]) == {"test", "other", "val"}  # thresholds are of validation images
    conditions = set(rows["condition"])
    assert {
        "clean",
        "fgsm:0.01",
        "pgd:0.02",
        "worst:0",
        "worst:0.02",
        "art/SquareAttack:0.02",
        "gaussian_noise:3",
    } <= conditions
    explained = rows[rows["metric"] == "relevance_mass[lesion]"]
    references = {"oracle", "random", "centre", "edges", "lungs", "constant", "randomised(saliency)", "randomised(gradcam)"}
    assert set(explained["explainer"]) == {"saliency", "gradcam", "chance"} | references
    assert set(explained["condition"]) == {"clean", "pgd:0.02"}


def test_every_row_of_a_drawn_run_says_so(finished: tuple[runner.Outcome, list[Event], Path]) -> None:
    run = Run.open(finished[0].folder)
    assert run.rows()["provenance"].str.contains("DRAWN IMAGES, NO PATIENTS").all()
    assert run.manifest()["drawn"] is True
    assert run.warnings()[0].code == "drawn_images"


def test_robust_accuracy_never_rises_and_starts_at_clean_accuracy(
    finished: tuple[runner.Outcome, list[Event], Path],
) -> None:
    rows = Run.open(finished[0].folder).rows()
    for trainer in ("standard", "fgsm"):
        mine = rows[(rows["trainer"] == trainer) & (rows["split"] == "test") & (rows["subgroup"] == "")]
        clean = mine[(mine["condition"] == "clean") & (mine["metric"] == "accuracy")]["value"].item()
        robust = mine[mine["metric"] == "robust_accuracy"].set_index("condition")["value"]
        for attack in ("fgsm", "pgd"):
            curve = [robust[f"{attack}:{eps}"] for eps in ("0", "0.01", "0.02")]
            assert curve[0] == pytest.approx(clean, abs=0)
            assert curve == sorted(curve, reverse=True)


def test_the_manifest_names_what_identifies_the_run(finished: tuple[runner.Outcome, list[Event], Path]) -> None:
    manifest = Run.open(finished[0].folder).manifest()
    assert manifest["versions"]["torch"]
    assert manifest["device"]["kind"] == "cpu"
    assert manifest["data"]["splits"]["train"]["patients"] > 0
    assert [cell["status"] for cell in manifest["cells"]] == ["done", "done"]
    assert manifest["attacks"][1]["settings"]["steps"] == 3
    assert len(manifest["protocol"]["hash"]) == 16


def test_the_same_command_again_computes_nothing(finished: tuple[runner.Outcome, list[Event], Path]) -> None:
    outcome, first, path = finished
    before = (outcome.folder / "rows.csv").read_bytes()
    weights = {p: p.stat().st_mtime_ns for p in outcome.folder.rglob("weights.safetensors")}
    _, again = go(path, outcome.folder)
    assert any("trained" in line for line in messages(first))
    assert not [line for line in messages(again) if "seed" in line]
    assert (outcome.folder / "rows.csv").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in outcome.folder.rglob("weights.safetensors")} == weights


def test_another_attack_does_not_train_again_even_in_a_new_folder(
    finished: tuple[runner.Outcome, list[Event], Path],
) -> None:
    outcome, _, path = finished
    other = outcome.folder.parent / "other"
    more, events = go(path, other, "attacks.0.eps=[0.01, 0.02, 0.03]")
    told = [line for line in messages(events) if "seed" in line]
    assert len(told) == 4
    assert sum("trained already in" in line for line in told) == 2
    assert sum("test, fgsm" in line for line in told) == 2  # one attack a cell
    assert "fgsm:0.03" in set(Run.open(more.folder).rows()["condition"])


def test_a_half_written_evaluation_is_computed_again(
    finished: tuple[runner.Outcome, list[Event], Path], tmp_path: Path
) -> None:
    copy = tmp_path / "alone" / "run"
    shutil.copytree(finished[0].folder, copy)
    before = (copy / "rows.csv").read_bytes()
    table = next(copy.glob("cells/*/*/images.parquet"))
    table.write_bytes(table.read_bytes()[:100])
    _, events = go(finished[2], copy)
    assert len([line for line in messages(events) if "seed" in line]) == 1
    assert (copy / "rows.csv").read_bytes() == before


def test_a_killed_training_goes_on_and_ends_with_the_same_numbers(
    finished: tuple[runner.Outcome, list[Event], Path], tmp_path: Path
) -> None:
    path, out = finished[2], tmp_path / "run"

    def kill(event: Event) -> None:
        if "training" in event.step and event.done > event.total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(load(path), out=out, device="cpu", on_event=kill)
    assert list(out.glob("cells/*/checkpoint.pt"))
    assert not list(out.glob("cells/*/done.json"))
    go(path, out)
    assert (out / "rows.csv").read_bytes() == (finished[0].folder / "rows.csv").read_bytes()
    assert not list(out.glob("cells/*/checkpoint.pt"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on_and_says_how(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "run"
    command = [sys.executable, "-m", "cxr_eval.cli", "run", str(path), "--out", str(out), "--device", "cpu"]
    long = ["--set", "train.epochs=500", "--set", "attacks=[]", "--set", "explain=null"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    process = subprocess.Popen([*command, *long], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not list(out.glob("cells/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint after two minutes"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "Interrupted. Finished cells are kept. To go on: cxr-eval run " in told
    assert "--set train.epochs=500" in told
    assert not list(out.glob("cells/*/done.json"))


def test_a_cell_that_cannot_be_trained_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path)
    outcome, _ = go(path, tmp_path / "run", "trainers=[standard, {name: fgsm, adversarial_weight: 1.0e+39}]", "explain=null")
    assert len(outcome.failed) == 1
    assert "not finite at epoch 1, batch" in outcome.failed[0]
    run = Run.open(outcome.folder)
    assert set(run.rows()["trainer"]) == {"standard"}
    assert [cell["status"] for cell in run.manifest()["cells"]] == ["done", "failed"]
    assert "cell_failed" in [warning.code for warning in run.warnings()]


def test_a_trainer_that_crashes_fails_its_cell_alone_and_leaves_its_traceback(tmp_path: Path) -> None:
    plugin = tmp_path / "crashing.py"
    plugin.write_text(
        "import cxr_eval.api as cxr\n\n\nclass CrashingTrainer(cxr.Trainer):\n"
        "    def loss(self, batch):\n        return batch.x @ batch.x.flatten()\n"
    )
    registry.register_file(plugin)
    try:
        outcome, _ = go(write(tmp_path), tmp_path / "run", "trainers=[crashing, standard]", "explain=null", "attacks=[]")
    finally:
        registry.forget_files()
    run = Run.open(outcome.folder)
    assert [cell["status"] for cell in run.manifest()["cells"]] == ["failed", "done"]
    (left,) = outcome.folder.glob("cells/*/error.txt")
    assert len(outcome.failed) == 1
    assert outcome.failed[0].startswith("small_cnn / crashing / seed 0: CrashingTrainer: crashing.py:6: RuntimeError: ")
    assert outcome.failed[0].endswith(f"; the whole of it is in {left.relative_to(outcome.folder)}")
    assert "return batch.x @ batch.x.flatten()" in left.read_text()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def on_fit_start(self, n):\n        raise cxr.DataError('no masks')",
            "FailingTrainer: failing.py:6: DataError: no masks; the whole",
        ),
        (
            "def on_fit_start(self, n):\n        self.log('model', 1.0)",
            "ValueError: 'model' is a column of the history already",
        ),
    ],
)
def test_whatever_a_trainer_raises_fails_its_cell_alone(tmp_path: Path, body: str, message: str) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(
        "import cxr_eval.api as cxr\n\n\nclass FailingTrainer(cxr.Trainer):\n"
        f"    {body}\n\n    def loss(self, batch):\n        return self.criterion(self.model(batch.x), batch.y)\n"
    )
    registry.register_file(plugin)
    try:
        outcome, _ = go(write(tmp_path), tmp_path / "run", "trainers=[failing, standard]", "explain=null", "attacks=[]")
    finally:
        registry.forget_files()
    assert [cell["status"] for cell in Run.open(outcome.folder).manifest()["cells"]] == ["failed", "done"]
    assert message in outcome.failed[0]


def test_a_trainer_that_cannot_be_made_is_refused_before_training_with_its_name(tmp_path: Path) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(
        "import cxr_eval.api as cxr\n\n\nclass FailingTrainer(cxr.Trainer):\n"
        "    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n        self.nothing.there\n\n"
        "    def loss(self, batch):\n        return self.criterion(self.model(batch.x), batch.y)\n"
    )
    registry.register_file(plugin)
    try:
        with pytest.raises(
            ProtocolError, match=r"trainers\[1\]: failing: failing.py:7: AttributeError: .* no attribute 'nothing'"
        ):
            go(write(tmp_path), tmp_path / "run", "trainers=[standard, failing]")
    finally:
        registry.forget_files()
    assert not (tmp_path / "run").exists()


def test_mistakes_are_found_before_anything_is_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ProtocolError, match=r"protocol.yaml:14: trainers\[1\]: .*'epsilon'; did you mean 'eps'"):
        go(write(tmp_path, PROTOCOL.replace("name: fgsm, eps: 0.02", "name: fgsm, epsilon: 0.02")), tmp_path / "run")
    with pytest.raises(DeviceError, match="device 'gpu': expected auto, cpu, cuda or cuda:N"):
        runner.run(load(write(tmp_path)), out=tmp_path / "run", device="gpu")
    with pytest.raises(ProtocolError, match="covid_qu_ex: nowhere is not a folder; expected a folder holding Train"):
        go(path, tmp_path / "run", "data.train={reader: covid_qu_ex, root: nowhere}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a folder holding Train"):
        go(path, tmp_path / "run", f"data.train={{reader: covid_qu_ex, root: {tmp_path / 'empty'}}}")
    assert not (tmp_path / "run").exists()


def test_runs_of_one_protocol_get_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, PROTOCOL[: PROTOCOL.index("attacks:")])
    first = runner.run(load(path, sets=["train.epochs=1"]), device="cpu")
    second = runner.run(load(path, sets=["train.epochs=1", "train.seeds=1"]), device="cpu")
    assert first.folder.parent == Path("runs")
    assert first.folder.name.startswith("tiny-")
    assert first.folder != second.folder


def test_a_report_is_rendered_again_without_torch(finished: tuple[runner.Outcome, list[Event], Path]) -> None:
    folder = finished[0].folder
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    code = (
        "import sys\n"
        "for name in ('torch', 'art', 'monai', 'quantus'): sys.modules[name] = None\n"
        "from cxr_eval.cli import main\n"
        f"main(['report', {str(folder)!r}])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert (folder / "report.html").read_bytes() == before


def test_the_gallery_shows_the_same_images_for_every_trainer(
    finished: tuple[runner.Outcome, list[Event], Path],
) -> None:
    gallery = Run.open(finished[0].folder).gallery()
    assert len(gallery.entries) == 2
    for entry in gallery.entries:
        panels = {(panel["trainer"], panel["condition"]) for panel in entry["panels"]}
        assert panels == {(t, c) for t in ("standard", "fgsm") for c in ("clean", "pgd:0.02")}
        assert np.abs(gallery.arrays[entry["panels"][1]["perturbation"]]).max() <= 0.02 + 1e-3  # float16
    assert json.dumps(gallery.entries)
    assert isinstance(Run.open(finished[0].folder).table("history"), pd.DataFrame)


def official(folder: Path) -> Path:
    """A folder laid out as COVID-QU-Ex is distributed, with three drawn pictures a class and split."""
    rng = np.random.default_rng(0)
    tree = folder / "Lung Segmentation Data" / "Lung Segmentation Data"
    for split in ("Train", "Val", "Test"):
        for name in ("COVID-19", "Non-COVID", "Normal"):
            for number in range(3):
                path = tree / split / name / "images" / f"{name} ({split}{number}).png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(path)
    return folder


def test_the_main_job_runs_on_the_official_layout(tmp_path: Path) -> None:
    loaded = load(
        Path(__file__).parents[1] / "protocols" / "covid_robust.yaml",
        sets=[
            "data.size=32",
            "models=[small_cnn]",
            "train.epochs=1",
            "train.seeds=0",
            "trainers=[standard]",
            "attacks=[{name: fgsm, eps: 0.02}]",
            "corruptions=[]",
            "explain=null",
        ],
        environ={"COVID_QU_EX": str(official(tmp_path / "COVID-QU-Ex"))},
    )
    outcome = runner.run(loaded, out=tmp_path / "run", device="cpu")
    run = Run.open(outcome.folder)
    assert run.manifest()["demonstration"] is False
    assert run.rows()["provenance"].str.startswith("covid_qu_ex:").all()
    assert run.manifest()["data"]["classes"] == ["Normal", "Non-COVID", "COVID-19"]


def test_maps_are_made_without_metrics_and_metrics_may_be_used_twice(tmp_path: Path) -> None:
    path = write(tmp_path)
    small = ["trainers=[standard]", "attacks=[]", "corruptions=[]", "train.epochs=1", "explain.conditions=[clean]"]
    outcome, _ = go(path, tmp_path / "bare", *small, "explain.metrics=[]")
    assert len(Run.open(outcome.folder).gallery().entries) == 2
    twice = "explain.metrics=[{name: pixel_flipping, steps: [2, 4]}, {name: sparseness, label: gini}]"
    outcome, _ = go(path, tmp_path / "twice", *small, twice)
    found = set(Run.open(outcome.folder).rows()["metric"])
    assert {"pixel_flipping(steps=2)", "pixel_flipping(steps=4)", "gini"} <= found
    assert "sparseness" not in found


def test_one_metric_more_computes_one_metric(finished: tuple[runner.Outcome, list[Event], Path], tmp_path: Path) -> None:
    copy = tmp_path / "alone" / "run"
    shutil.copytree(finished[0].folder, copy)
    before = set(copy.glob("cells/*/*/values.parquet"))
    _, events = go(finished[2], copy, "explain.metrics=[relevance_mass, sparseness, complexity]")
    added = set(copy.glob("cells/*/*/values.parquet")) - before
    # two cells; two explainers in two conditions, and eight references on clean images
    assert len(added) == 2 * (2 * 2 + 8)
    assert all(set(pd.read_parquet(path)["metric"]) == {"complexity"} for path in added)
    assert not [line for line in messages(events) if "seed" in line]


def test_the_batch_size_of_evaluation_changes_no_number(
    finished: tuple[runner.Outcome, list[Event], Path], tmp_path: Path
) -> None:
    without = "attacks=[{name: fgsm, eps: [0.01, 0.02]}, {name: pgd, eps: [0.01, 0.02], steps: 3}]"
    tables = []
    for size in (64, 5):
        outcome, _ = go(finished[2], tmp_path / f"of{size}", without, f"evaluate.batch_size={size}")
        tables.append(Run.open(outcome.folder).rows().drop(columns=["value", "low", "high"]).assign(
            value=Run.open(outcome.folder).rows()["value"].round(3)))  # fmt: skip  # float32, another order of sums
    pd.testing.assert_frame_equal(*tables)


def test_what_is_not_trained_on_does_not_train_again(
    finished: tuple[runner.Outcome, list[Event], Path], tmp_path: Path
) -> None:
    copy = tmp_path / "alone" / "run"
    shutil.copytree(finished[0].folder, copy)
    _, events = go(finished[2], copy, "data.outside.other.patients=9")
    assert not [line for line in messages(events) if "trained" in line]


def test_a_weights_file_counts_by_its_content(tmp_path: Path) -> None:
    planned = PlannedPlugin("models", "m", "m", object, None, {"weights": str(tmp_path / "w.pth"), "splits": ["test"]}, "p 1")
    keys = []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "w.pth").write_bytes(content)
        keys.append(cells.identity(planned)["settings"]["weights"])
    assert keys[0] == keys[2] != keys[1]
    assert "splits" not in cells.identity(planned)["settings"]


def test_a_metric_that_gives_another_name_is_refused() -> None:
    metric = PlannedPlugin("explanation_metrics", "sparseness", "gini", object, None, {}, "p 1")
    for name in ("sparseness", "sparseness[lung]"):
        assert explanations.named(name, metric) == name
    with pytest.raises(PluginError, match=r"sparseness: measured 'spread'; expected 'sparseness' or 'sparseness\[REGION\]'"):
        explanations.named("spread", metric)


MULTILABEL = """
name: findings
data:
  train: {reader: table, root: ROOT, image: image, labels: [effusion, mass], patient: patient}
  size: 32
models: [small_cnn]
train: {epochs: 2, batch_size: 16, select: {metric: auroc}}
trainers: [standard, {name: pgd, eps: 0.01, steps: 2}]
attacks:
  - {name: pgd, eps: 0.02, steps: 3}
explain: {methods: [saliency], metrics: [pixel_flipping], images: 4, target: predicted}
evaluate: {resamples: 100}
"""


def findings(folder: Path) -> Path:
    """Pictures with two findings, some of them unknown: a bright left half is an effusion, a bright lower half a mass."""
    rng = np.random.default_rng(0)
    lines = ["image,patient,effusion,mass"]
    for number in range(60):
        left, low = rng.integers(0, 2, 2)
        picture = rng.integers(60, 120, (32, 32))
        picture[:, :16] += 90 * left
        picture[16:] += 40 * low
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,p{number},{left},{'' if number % 7 == 0 else low}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return write(folder, MULTILABEL.replace("ROOT", str(folder)))


def test_several_findings_an_image_run_to_the_report(tmp_path: Path) -> None:
    outcome, _ = go(findings(tmp_path), tmp_path / "run")
    assert outcome.failed == ()
    run = Run.open(outcome.folder)
    rows = run.rows()
    assert run.manifest()["task"] == "multilabel"
    assert {"auroc", "auroc[effusion]", "auroc[mass]", "robust_accuracy", "pixel_flipping"} <= set(rows["metric"])
    mass = rows[(rows["metric"] == "auroc[mass]") & (rows["condition"] == "clean")]
    everyone = rows[(rows["metric"] == "auroc[effusion]") & (rows["condition"] == "clean")]
    assert (mass["n"].to_numpy() <= everyone["n"].to_numpy()).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("explain.target=label", "explain.target: 'label' is for one class an image"),
        ("train.select.metric=accuracy", "train.select.metric: accuracy is for one class an image"),
        ("train.class_weights=balanced", "train.class_weights: balanced is for one class an image"),
        ("attacks=[{name: art/SquareAttack, eps: 0.02}]", "cannot attack findings that can stand together"),
        (
            "attacks=[{name: art/ProjectedGradientDescent, eps: 0.02, num_random_init: 2}]",
            "judges several starts by the largest",
        ),
        (
            "trainers=[standard, art/AdversarialTrainerTRADESPyTorch]",
            r"trainers\[1\]: art/AdversarialTrainerTRADESPyTorch: .* is not defined for a multilabel task, only for multiclass",
        ),
    ],
)
def test_what_several_findings_do_not_allow_is_refused_before_training(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(CxrEvalError, match=message):
        go(findings(tmp_path), tmp_path / "run", change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("explain.methods=[{name: gradcam, layer: nowhere}]", "has no layer 'nowhere'"),
        ("explain.metrics=[{name: relevance_mass, regions: lesoin}]", "no regions of kind 'lesoin'; these images have: lesion"),
        ("models=[inception_v3]", "inception_v3"),
        ("attacks=[{name: art/FastGradientMethod, eps: 0.02, num_random_init: 2}]", "ART gives the clean image back"),
        ("train.finding_weights=batch", "train.finding_weights: batch is for several findings an image"),
    ],
)
def test_what_the_images_or_networks_do_not_allow_is_refused_before_training(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(CxrEvalError, match=message):
        go(write(tmp_path), tmp_path / "run", change)
    assert not (tmp_path / "run").exists()


def test_a_network_that_gives_one_answer_is_doubted() -> None:
    table = pd.DataFrame({"label": ["a", "b"], "predicted": ["a", "a"]})
    (doubt,) = run_doubts.idle(table, "m / t / seed 0, test")
    assert (doubt.code, doubt.level) == ("one_answer", "fail")
    assert doubt.message.startswith("The network calls all 2 images 'a'.")
    assert run_doubts.idle(table.assign(predicted=["a", "b"]), "x") == []


def test_a_class_that_is_never_called_is_doubted() -> None:
    table = pd.DataFrame({"label": ["a", "b", "c", "c"], "predicted": ["a", "b", "a", "b"]})
    (doubt,) = run_doubts.idle(table, "m / t / seed 0, test")
    assert (doubt.code, doubt.level) == ("class_given_up", "warn")
    assert doubt.message == "The network calls no image 'c', although 2 are: its robust accuracy is that of the other classes."


def test_an_attack_that_marp_does_not_know_is_said():
    def outcomes(name: str, images: int, every: bool) -> pd.DataFrame:
        return pd.DataFrame({"attack": name, "image_id": [str(k) for k in range(images)], "every": every, "eps": 0.1})

    notes = run_doubts.partial_attacks([outcomes("a", 4, True), outcomes("b", 4, False), outcomes("c", 2, True)], "cell")
    assert [(note.code, note.scope) for note in notes] == [("partial_attack", "cell, c"), ("not_in_marp", "cell, b")]
    assert notes[0].message.endswith("for these images only, and mARP leaves it out.")
    assert notes[1].message == (
        "mARP leaves b out, which skips images that are wrong already; `skip_broken: false` would count it."
    )
    assert run_doubts.partial_attacks([outcomes("b", 4, False)], "cell") == []  # no mARP, nothing to miss


def test_a_model_that_cannot_be_built_is_one_line_that_names_it(tmp_path, monkeypatch):
    def broken(self, **sizes):
        raise RuntimeError("no such layer")

    monkeypatch.setattr(registry.find("models", "small_cnn"), "build", broken)
    with pytest.raises(ProtocolError, match=r"protocol.yaml:10: models\[0\]: small_cnn: .*RuntimeError: no such layer$"):
        go(write(tmp_path), tmp_path / "run")
