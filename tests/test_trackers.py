"""Trackers take a run's scores down, and nothing that goes wrong in one reaches the run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import cxr_eval
from cxr_eval.cli import main
from cxr_eval.errors import PluginError
from cxr_eval.events import Event
from cxr_eval.protocol_file import LoadedProtocol, load
from cxr_eval.trackers import Status, Tracked, Tracker, known, made, tracking
from cxr_eval.trackers.tracked import summary
from tests.fake_run import Fake
from tests.report_pages import results_of

STUDY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "train": {"reader": "phantom", "patients": 40, "size": 48},
        "size": 32,
        "audit": {"duplicates": False, "probe": False},
    },
    "models": ["small_cnn"],
    "train": {"epochs": 2, "batch_size": 16},
    "trainers": ["standard", {"name": "fgsm", "eps": "8/255"}],
    "evaluate": {"resamples": 100, "anatomy": None},
}
METHODS = ("start", "scores", "summary", "artifacts", "end")


class Notes(Tracker):
    """Remembers what it was told; raises in one method if asked to."""

    def __init__(self, broken: str = "", error: type[BaseException] = ConnectionError) -> None:
        self.broken, self.error = broken, error
        self.told: list[tuple[Any, ...]] = []

    def _take(self, *told: Any) -> None:
        self.told.append(told)
        if told[0] == self.broken:
            raise self.error("no answer\nfrom the server")

    def start(self, name: str, settings: Mapping[str, str]) -> None:
        self._take("start", name, settings)

    def scores(self, cell: str, step: int, scores: Mapping[str, float]) -> None:
        self._take("scores", cell, step, scores)

    def summary(self, scores: Mapping[str, float]) -> None:
        self._take("summary", scores)

    def artifacts(self, paths: Sequence[Path]) -> None:
        self._take("artifacts", paths)

    def end(self, status: Status) -> None:
        self._take("end", status)

    def of(self, method: str) -> list[tuple[Any, ...]]:
        return [told[1:] for told in self.told if told[0] == method]


@pytest.fixture
def loaded() -> LoadedProtocol:
    return load(STUDY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Fake(images=0).write(tmp_path_factory.mktemp("finished")).folder


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def go_through(tracker: Tracker, loaded: LoadedProtocol, folder: Path) -> list[Event]:
    """A run in events: two epochs and the end of a cell."""
    events: list[Event] = []
    with tracking([tracker], loaded, events.append) as tell:
        tell(Event("data: 40 images"))
        tell(Event(step="training", done=1, total=4, name="cnn / fgsm / seed 0"))
        tell(
            Event(
                step="training", done=2, total=4, name="cnn / fgsm / seed 0", scores={"train_loss": 0.7, "val_auroc": math.nan}
            )
        )
        tell(Event(step="training", done=4, total=4, name="cnn / fgsm / seed 0", scores={"train_loss": 0.5}))
        tell(Event(name="cnn / fgsm / seed 0", ended="done", scores={"accuracy": 0.9, "robust_accuracy": math.nan}))
        tell.done(folder)
    return events


def test_epochs_are_counted_and_a_finished_network_has_step_0(loaded: LoadedProtocol, finished: Path) -> None:
    notes = Notes()
    go_through(notes, loaded, finished)
    cell = "cnn / fgsm / seed 0"
    assert notes.of("scores") == [(cell, 1, {"train_loss": 0.7}), (cell, 2, {"train_loss": 0.5}), (cell, 0, {"accuracy": 0.9})]


def test_a_tracker_is_told_of_the_protocol_first_and_of_the_end_last(loaded: LoadedProtocol, finished: Path) -> None:
    notes = Notes()
    go_through(notes, loaded, finished)
    assert [told[0] for told in notes.told] == ["start", "scores", "scores", "scores", "summary", "artifacts", "end"]
    ((name, settings),) = notes.of("start")
    assert name == "tiny"
    assert settings["trainers.1.eps"] == "8/255"
    assert settings["data.train.reader"] == "phantom"
    assert settings["train.seeds"] == "[0]"
    assert notes.of("end") == [("done",)]


def test_events_go_on_to_whoever_shows_them(loaded: LoadedProtocol, finished: Path) -> None:
    events = go_through(Notes(), loaded, finished)
    assert [event.message for event in events if event.message] == ["data: 40 images"]
    assert len(events) == 5


def test_the_files_that_are_there_are_handed_over(loaded: LoadedProtocol, finished: Path) -> None:
    notes = Notes()
    go_through(notes, loaded, finished)
    ((paths,),) = notes.of("artifacts")
    assert {path.name for path in paths} >= {"rows.csv", "manifest.json", "protocol.yaml"}
    assert all(path.is_file() for path in paths)


def test_the_summary_has_clean_scores_and_worst_cases_as_means_over_seeds() -> None:
    results = results_of(Fake(models=("net",), trainers=("standard",), outside=()))
    scores = dict(summary(results))
    clean = results.score(model="net", trainer="standard", split="test", metric="accuracy")
    worst = results.score(model="net", trainer="standard", split="test", metric="robust_accuracy", condition="worst:0.02")
    assert clean is not None
    assert worst is not None
    assert len(clean.by_seed) == 2
    assert scores["net/standard/test/clean/accuracy"] == clean.value == sum(value for _, value in clean.by_seed) / 2
    assert scores["net/standard/test/worst:0.02/robust_accuracy"] == worst.value
    assert not any("pgd" in name or "val/" in name for name in scores)
    assert all(math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
@pytest.mark.parametrize("method", METHODS)
def test_a_tracker_that_fails_is_told_of_once_and_asked_no_more(
    method: str, error: type[BaseException], loaded: LoadedProtocol, finished: Path
) -> None:
    broken, sound = Notes(method, error), Notes()
    events: list[Event] = []
    with tracking([broken, sound], loaded, events.append) as tell:
        for _ in range(2):
            tell(Event(name="cell", scores={"train_loss": 0.5}))
        tell.done(finished)
    told = [event.message for event in events if event.message]
    assert told == [f"Notes takes nothing down any more ({error.__name__}: no answer from the server); the run goes on"]
    assert broken.told[-1][0] == method
    assert len(broken.of(method)) == 1
    assert [each[0] for each in sound.told] == ["start", "scores", "scores", "summary", "artifacts", "end"]


def test_an_interrupted_run_ends_as_interrupted(loaded: LoadedProtocol) -> None:
    notes = Notes()
    with pytest.raises(KeyboardInterrupt), tracking([notes], loaded, lambda event: None):
        raise KeyboardInterrupt
    assert notes.of("end") == [("interrupted",)]
    assert notes.of("summary") == []


def test_a_run_that_stops_ends_as_failed(loaded: LoadedProtocol) -> None:
    notes = Notes()
    with pytest.raises(ValueError, match="no data"), tracking([notes], loaded, lambda event: None):
        raise ValueError("no data")
    assert notes.of("end") == [("failed",)]


def test_a_run_with_a_failed_network_ends_as_failed(loaded: LoadedProtocol, finished: Path) -> None:
    notes = Notes()
    with tracking([notes], loaded, lambda event: None) as tell:
        tell.done(finished, ["net / fgsm / seed 0: the loss is not finite"])
    assert notes.of("end") == [("failed",)]


def test_without_trackers_nothing_is_read(loaded: LoadedProtocol, tmp_path: Path) -> None:
    with tracking([], loaded, lambda event: None) as tell:
        tell.done(tmp_path / "nowhere")
    assert isinstance(tell, Tracked)


def test_a_wrong_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"^no tracker 'mlfow'; did you mean 'mlflow'\?$"):
        made("mlfow")
    with pytest.raises(PluginError, match=r"^no tracker 'x'; there are: mlflow, tensorboard, wandb$"):
        made("x")


def test_a_tracker_whose_library_is_not_installed_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_eval.trackers.tracker.find_spec", lambda name: None)
    said = r"^the tracker 'wandb' needs wandb, which is not installed; pip install 'cxr-eval\[wandb\]'$"
    with pytest.raises(PluginError, match=said):
        cxr_eval.run(STUDY, track="wandb", quiet=True)


def test_three_trackers_come_with_the_package() -> None:
    assert tuple(known()) == ("mlflow", "tensorboard", "wandb")


def test_the_command_line_refuses_an_unknown_tracker_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    result = CliRunner().invoke(main, ["run", str(file), "--out", str(tmp_path / "run"), "--track", "wandbb"])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].endswith("no tracker 'wandbb'; did you mean 'wandb'?")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line_has_a_run_taken_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr("cxr_eval.trackers.tracked.made", lambda name: notes)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    result = CliRunner().invoke(
        main, ["run", str(file), "--out", str(tmp_path / "run"), "--device", "cpu", "--track", "mlflow"]
    )
    assert result.exit_code == 0, result.output
    assert notes.of("end") == [("done",)]
    ((paths,),) = notes.of("artifacts")
    assert tmp_path / "run" / "report.html" in paths


@pytest.mark.slow
def test_a_run_whose_trackers_fail_writes_the_same_numbers(tmp_path: Path) -> None:
    notes, broken = Notes(), Notes("scores")
    result = cxr_eval.run(STUDY, out=tmp_path / "a", device="cpu", quiet=True, track=[broken, notes])
    plain = cxr_eval.run(STUDY, out=tmp_path / "b" / "c", device="cpu", quiet=True)
    assert result.rows.equals(plain.rows)
    assert not any("Notes" in message for message in result.warnings["message"])
    steps = [step for cell, step, _ in notes.of("scores") if "fgsm" in cell]
    assert steps == [1, 2, 0]
    ((scores,),) = notes.of("summary")
    assert scores["small_cnn/standard/test/clean/accuracy"] == pytest.approx(
        float(result.rows.query("trainer == 'standard' and metric == 'accuracy' and split == 'test'")["value"].iloc[0])
    )


def test_mlflow_keeps_scores_settings_and_files(
    loaded: LoadedProtocol, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}" if _has("sqlalchemy") else tmp_path.as_uri()
    )
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(None)
    monkeypatch.chdir(tmp_path)
    events = go_through(made("mlflow"), loaded, finished)
    assert [event.message for event in events if event.message] == ["data: 40 images"]
    client = mlflow.tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["trainers.1.eps"] == "8/255"
    losses = client.get_metric_history(run.info.run_id, "cnn/fgsm/seed 0/train_loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 0.7), (2, 0.5)]
    assert "resnet18/pgd/test/worst-8-255/robust_accuracy" in run.data.metrics
    assert "rows.csv" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_tensorboard_keeps_scores(
    loaded: LoadedProtocol, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("CXR_EVAL_TENSORBOARD", str(tmp_path / "board"))
    for _ in range(2):
        events = go_through(made("tensorboard"), loaded, finished)
        assert [event.message for event in events if event.message] == ["data: 40 images"]
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == ["tiny-1", "tiny-2"]
    read = EventAccumulator(str(tmp_path / "board" / "tiny-1"))
    read.Reload()
    losses = read.Scalars("cnn / fgsm / seed 0/train_loss")
    assert [(each.step, pytest.approx(each.value)) for each in losses] == [(1, 0.7), (2, 0.5)]
    assert "summary/resnet18/pgd/test/worst:0.02/robust_accuracy" in read.Tags()["scalars"]


@pytest.mark.slow
def test_wandb_offline_keeps_a_run(
    loaded: LoadedProtocol, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    events = go_through(made("wandb"), loaded, finished)
    assert [event.message for event in events if event.message] == ["data: 40 images"]
    wandb.teardown()  # its own process writes the file, and is done with it when it has ended
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"robust_accuracy" in kept.read_bytes()


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
