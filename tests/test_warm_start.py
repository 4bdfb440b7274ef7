"""Cells that need the network of another cell: of the same model and seed, trained before, shared."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from cxr_eval import registry, runner
from cxr_eval.events import Event
from cxr_eval.protocol_file import load
from cxr_eval.store import Run

PROTOCOL = """
name: tiny
data:
  train: {reader: phantom, patients: 40, size: 48, seed: 3}
  size: 32
models: [small_cnn]
train: {epochs: 2, batch_size: 16, optimizer: {name: adam, lr: 1.0e-3}, select: {metric: last}, seeds: [0, 1]}
trainers:
  - {name: fgsm, label: late, eps: 0.005, warm_start: standard}
  - standard
  - {name: fgsm, label: fresh, eps: 0.005}
evaluate: {resamples: 100}
report: {formats: [md]}
"""
CONV = "net.0.weight"


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def go(folder: Path, text: str = PROTOCOL, *sets: str) -> tuple[runner.Outcome, list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    path, events = folder / "protocol.yaml", list[Event]()
    path.write_text(text, encoding="utf-8")
    outcome = runner.run(load(path, sets=sets), out=folder / "run", device="cpu", on_event=events.append)
    return outcome, [event.message for event in events if event.message]


def cells(outcome: runner.Outcome) -> dict[tuple[str, int], dict]:
    return {(cell["trainer"], cell["seed"]): cell for cell in Run.open(outcome.folder).manifest()["cells"]}


def weights(outcome: runner.Outcome, trainer: str, seed: int) -> dict[str, torch.Tensor]:
    key = cells(outcome)[trainer, seed]["key"]
    return safetensors.torch.load_file(outcome.folder / "cells" / key / "weights.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return go(tmp_path_factory.mktemp("warm") / "here")


def test_a_cell_is_trained_after_the_one_that_it_starts_from(finished):
    outcome, said = finished
    assert outcome.failed == ()
    trained = [line.split(":")[0] for line in said if ": trained " in line]
    assert trained == [f"small_cnn / {name} / seed {seed}" for name in ("standard", "late", "fresh") for seed in (0, 1)]
    assert "warm\\_start = standard" in (outcome.folder / "report.md").read_text(encoding="utf-8")


def test_training_starts_from_the_weights_of_the_same_model_and_seed(finished, tmp_path, monkeypatch):
    outcome, _ = finished
    starts = []
    fgsm = registry.find("trainers", "fgsm")
    fit = fgsm.fit

    def remember(trainer, *args, **settings):
        starts.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
        fit(trainer, *args, **settings)

    monkeypatch.setattr(fgsm, "fit", remember)
    again, _ = go(tmp_path / "apart")  # nothing beside it to take over
    for seed in (0, 1):
        late, standard = weights(again, "late", seed), weights(again, "standard", seed)
        assert all(torch.equal(starts[seed][name], standard[name]) for name in standard)
        assert all(torch.equal(late[name], tensor) for name, tensor in weights(outcome, "late", seed).items())
        assert not torch.equal(late[CONV], weights(again, "fresh", seed)[CONV])
    assert not torch.equal(starts[2][CONV], starts[0][CONV])  # fresh starts from drawn weights


def test_a_cell_is_another_one_when_its_start_is(finished, tmp_path):
    outcome, _ = finished
    text = PROTOCOL.replace("  - standard\n", "  - {name: noise, label: standard, sigma: 0.05}\n")
    other, _ = go(tmp_path / "other", text, "train.seeds=0")
    mine, theirs = cells(outcome), cells(other)
    assert mine["late", 0]["key"] != theirs["late", 0]["key"]
    assert mine["fresh", 0]["key"] == theirs["fresh", 0]["key"]


def test_a_cell_whose_start_failed_fails_with_the_reason_and_the_others_go_on(tmp_path):
    text = PROTOCOL.replace("  - standard\n", "  - {name: breaks, label: standard}\n")

    class Breaks(registry.find("trainers", "standard")):
        def loss(self, batch):
            return super().loss(batch) * float("nan")

    find, origin = registry.find, registry.origin
    patch = pytest.MonkeyPatch()
    patch.setattr("cxr_eval.planned.find", lambda kind, name: Breaks if name == "breaks" else find(kind, name))
    patch.setattr("cxr_eval.planned.origin", lambda kind, name: "test" if name == "breaks" else origin(kind, name))
    try:
        outcome, _ = go(tmp_path / "run", text, "train.seeds=0")
    finally:
        patch.undo()
    told = {name: cell["error"] for (name, _), cell in cells(outcome).items()}
    assert told["standard"].startswith("Breaks: the loss is not finite at epoch 1, batch 1 of ")
    assert told["late"] == "it needs the network of 'standard', whose training failed"
    assert told["fresh"] is None
    assert len(outcome.failed) == 2
