"""Second stages: a trainer fits the models on which another did best on validation images, chosen while the protocol runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from cxr_eval import choice, registry, runner
from cxr_eval.errors import ProtocolError
from cxr_eval.events import Event
from cxr_eval.plan import cell_count, describe, plan
from cxr_eval.protocol import Selection
from cxr_eval.protocol_file import load
from cxr_eval.store import Run

PROTOCOL = """name: staged
data: {train: {reader: phantom, patients: 40, size: 48, seed: 3}, size: 32}
models:
  - {name: small_cnn, label: wide}
  - {name: small_cnn, label: narrow, widths: [2, 2, 2, 2]}
  - {name: small_cnn, label: middle, widths: [8, 8, 16, 16]}
train: {epochs: 3, batch_size: 16, optimizer: {name: adam, lr: 3.0e-3}, select: {metric: last}, seeds: [0, 1]}
trainers:
  - {name: fgsm, eps: 0.005, models: {best: 2, of: standard, by: accuracy}}
  - standard
  - {name: noise, models: [narrow]}
evaluate: {resamples: 100}
report: {formats: [md]}
"""


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def loaded(folder: Path, *sets: str, text: str = PROTOCOL):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, sets=sets)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, events = tmp_path_factory.mktemp("staged"), list[Event]()
    outcome = runner.run(loaded(folder), out=folder / "run", device="cpu", on_event=events.append)
    return outcome, events


def test_cells_of_a_second_stage_come_after_all_that_they_are_chosen_by(tmp_path):
    planned = plan(loaded(tmp_path))
    order = [(cell.model.label, cell.trainer.label) for cell in planned.cells if cell.seed == 0]
    first = [("wide", "standard"), ("narrow", "standard"), ("narrow", "noise"), ("middle", "standard")]
    assert order == [*first, *((model, "fgsm") for model in ("wide", "narrow", "middle"))]  # any of them may be chosen
    assert cell_count(planned) == (3 + 1 + 2) * 2
    lines = describe(planned)
    assert lines[0] == "staged: 3 models, 3 trainers, 2 seeds: 12 cells"
    assert lines[3] == "trainers     fgsm on the 2 best models by validation accuracy of standard, standard, noise on narrow"


def test_the_models_with_the_highest_validation_score_are_fitted_and_no_other(finished):
    outcome, events = finished
    assert outcome.failed == ()
    manifest = Run.open(outcome.folder).manifest()
    about = {trainer["label"]: trainer["models"] for trainer in manifest["trainers"]}
    assert about["standard"] is None
    assert about["noise"] == ["narrow"]
    scores, chosen = about["fgsm"]["scores"], about["fgsm"]["chosen"]
    by_hand = {}
    for cell in manifest["cells"]:
        if cell["trainer"] == "standard":
            tables = [
                pd.read_parquet(done.parent / "images.parquet")
                for done in (outcome.folder / "cells" / cell["key"]).glob("*/done.json")
                if json.loads(done.read_text())["what"] == "val, clean"
            ]
            assert len(tables) == 1
            by_hand.setdefault(cell["model"], []).append(float((tables[0]["label"] == tables[0]["predicted"]).mean()))
    assert {model: np.mean(values) for model, values in by_hand.items()} == pytest.approx(scores)
    best = sorted(scores, key=lambda model: -scores[model])[:2]
    assert set(chosen) == set(best)
    assert {cell["model"] for cell in manifest["cells"] if cell["trainer"] == "fgsm"} == set(chosen)
    assert {cell["model"] for cell in manifest["cells"] if cell["trainer"] == "noise"} == {"narrow"}
    said = [
        event.message for event in events if event.message.startswith("fgsm: the 2 best of 3 models by validation accuracy: ")
    ]
    assert len(said) == 1
    assert max(event.cells for event in events) == 12


def test_a_second_run_chooses_the_same_and_computes_nothing(finished, tmp_path):
    outcome, _ = finished
    events = list[Event]()
    again = runner.run(loaded(tmp_path), out=outcome.folder, device="cpu", on_event=events.append)
    assert again.failed == ()
    assert not [event.message for event in events if " trained " in event.message or ", clean, " in event.message]


class Works:
    """A trained cell whose validation table is given."""

    def __init__(self, model: str, table: pd.DataFrame, classes: tuple[str, ...]) -> None:
        self.cell = type("Cell", (), {"model": type("Model", (), {"label": model})})
        self.datasets = type("Datasets", (), {"classes": classes})
        self.table = table

    def clean(self, split: str) -> pd.DataFrame:
        assert split == "val"
        return self.table

    def release(self) -> None:
        pass


def table(seed: int, count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    sick = rng.random(count)
    return pd.DataFrame(
        {
            "label": np.where(rng.random(count) < 0.3, "sick", "well"),
            "predicted": np.where(sick > 0.5, "sick", "well"),
            "p_well": 1 - sick,
            "p_sick": sick,
        }
    )


@pytest.mark.parametrize("by", ["accuracy", "balanced_accuracy", "auroc"])
def test_the_score_is_the_mean_over_seeds_of_what_scikit_learn_says(by):
    works = [
        Works(model, table(10 * number + seed), ("well", "sick")) for number, model in enumerate("abc") for seed in range(2)
    ]

    def score(each: pd.DataFrame) -> float:
        if by == "auroc":
            return float(roc_auc_score(each["label"] == "sick", each["p_sick"]))  # of two classes both have the same area
        if by == "accuracy":
            return float((each["label"] == each["predicted"]).mean())
        return float(balanced_accuracy_score(each["label"], each["predicted"]))

    expected = {m: np.mean([score(table(10 * n + s)) for s in range(2)]) for n, m in enumerate("abc")}
    found = choice.choose(Selection(best=1, of="standard", by=by), works)
    assert dict(found.scores) == pytest.approx(expected)
    assert found.models == (max(expected, key=expected.__getitem__),)


def test_findings_are_compared_by_auroc_over_known_labels():
    truth = pd.DataFrame({"label:a": [1, 0, 1, np.nan], "label:b": [0, 0, 1, 1], "p_a": [0.9, 0.1, 0.8, 0.5]})
    works = [
        Works(name, truth.assign(p_b=p_b), ("a", "b"))
        for name, p_b in (("x", [0.9, 0.8, 0.1, 0.2]), ("y", [0.1, 0.2, 0.8, 0.9]))
    ]
    found = choice.choose(Selection(best=1, of="standard", by="auroc"), works)
    assert found.scores == {"x": 0.5, "y": 1.0}  # a: 1 in both; b: 0 and 1
    assert found.models == ("y",)


def test_models_in_always_are_chosen_whatever_their_score_and_ties_go_by_order():
    perfect, poor = table(0).assign(predicted=lambda t: t["label"]), table(0).assign(predicted="sick")
    works = [Works("a", perfect, ("well", "sick")), Works("b", perfect, ("well", "sick")), Works("c", poor, ("well", "sick"))]
    assert choice.choose(Selection(best=1, of="s"), works).models == ("a",)
    assert choice.choose(Selection(best=2, of="s", always=("c",)), works).models == ("a", "c")


def test_a_model_whose_score_is_not_defined_comes_last():
    one_class = table(0).assign(label="well")
    works = [Works("a", one_class, ("well", "sick")), Works("b", table(1), ("well", "sick"))]
    assert choice.choose(Selection(best=1, of="s", by="auroc"), works).models == ("b",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{best: 4, of: standard}", "trainers[0].models: the best 4 of 3 models that standard fits; lower best"),
        ("{best: 1, of: noise}", None),
        ("{best: 2, of: noise}", "trainers[0].models: the best 2 of 1 model that noise fits; lower best"),
        ("{best: 1, of: noise, always: [wide]}", "trainers[0].models: noise does not fit 'wide'; take it out of always"),
        (
            "{best: 1, of: standrad}",
            "trainers[0].models.of: no trainer of this protocol is called 'standrad'; did you mean 'standard'?",
        ),
        ("{best: 1, of: fgsm}", "trainers[0]: fgsm cannot need its own network; name another trainer"),
        (
            "{best: 1, of: second}",
            "trainers[0].models: second fits chosen models itself; compare a trainer that fits all of them",
        ),
        ("[wied]", "trainers[0].models: no model of this protocol is called 'wied'; did you mean 'wide'?"),
        ("[wide, wide]", "trainers[0].models: expected each model once, got wide, wide"),
        ("{best: 1}", "trainers[0].models: best needs 'of', the label of the trainer whose networks are compared"),
        ("{of: standard}", "trainers[0].models: expected a list of models, or {best: N, of: TRAINER}"),
        (
            "{only: [wide], of: standard}",
            "trainers[0].models: 'of' and 'always' are for {best: N, of: TRAINER}; take them out, or 'only'",
        ),
        (
            "{best: 1, of: standard, always: [wide, middle]}",
            "trainers[0].models: 'always' names 2 models and best is 1; raise best",
        ),
        ("wide", "trainers[0].models: expected a group of 'key: value' settings, got text 'wide'"),
        (
            "{best: 2, of: standard}, warm_start: noise",
            "trainers[0]: fgsm needs noise on every model that it fits; give both the same 'models'",
        ),
        ("[narrow], warm_start: noise", None),
        ("[wide], warm_start: noise", "trainers[0]: fgsm needs noise on every model that it fits; give both the same 'models'"),
    ],
)
def test_a_selection_that_cannot_be_met_is_refused_with_its_line(tmp_path, change, message):
    text = PROTOCOL.replace("{best: 2, of: standard, by: accuracy}", change)
    if "second" in change:
        text = text.replace(
            "  - standard\n", "  - standard\n  - {name: awp, label: second, eps: 0.01, models: {best: 2, of: standard}}\n"
        )
    if message is None:
        plan(loaded(tmp_path, text=text))
        return
    with pytest.raises(ProtocolError) as refused:
        plan(loaded(tmp_path, text=text))
    assert str(refused.value).splitlines() == [f"{tmp_path / 'p.yaml'}:9: {message}"]


def test_fewer_models_than_asked_for_are_said(tmp_path, monkeypatch):
    standard = registry.find("trainers", "standard")
    loss = standard.loss

    def narrow_fails(self, batch):
        if self.model.net[0].out_channels == 2:
            raise RuntimeError("too narrow")
        return loss(self, batch)

    monkeypatch.setattr(standard, "loss", narrow_fails)
    text = (
        PROTOCOL.replace("  - {name: noise, models: [narrow]}\n", "")
        .replace("best: 2", "best: 3")
        .replace("seeds: [0, 1]", "seeds: [0]")
    )
    text = text.replace("epochs: 3", "epochs: 1").replace("by: accuracy}", "by: accuracy, always: [narrow]}")
    outcome = runner.run(loaded(tmp_path, text=text), out=tmp_path / "run", device="cpu")
    assert len(outcome.failed) == 1
    warning = next(each for each in Run.open(outcome.folder).warnings() if each.code == "fewer_models")
    assert warning.message == (
        "fgsm was to fit 3 models and fitted 2, because networks of standard failed; narrow is not among them."
    )


def test_findings_cannot_be_chosen_by_accuracy(tmp_path):
    text = PROTOCOL.replace("seed: 3}", "seed: 3, findings: true}")
    with pytest.raises(ProtocolError, match=r"trainers\[0\]\.models\.by: accuracy is for one class an image; .* use auroc"):
        runner.run(loaded(tmp_path, text=text), out=tmp_path / "run", device="cpu")
