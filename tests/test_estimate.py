"""What `plan` says of a run: what it has, what is there already, and what the rest takes."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cxr_eval import runner
from cxr_eval.attacks.gradient import PGD
from cxr_eval.classifier import Classifier
from cxr_eval.cli import main
from cxr_eval.data.datasets import load
from cxr_eval.errors import DeviceError
from cxr_eval.estimating import rehearsal
from cxr_eval.estimating.estimate import EARLY, Estimate, Share, estimate, lines, span
from cxr_eval.estimating.pieces import looks, pieces, run_folder, weights
from cxr_eval.estimating.timing import Line, Passes, StandIn, Tally, few, passes, sure_answer
from cxr_eval.plan import plan
from cxr_eval.protocol_file import LoadedProtocol
from cxr_eval.protocol_file import load as load_protocol
from cxr_eval.store import Run

PROTOCOL = """
name: tiny
data:
  train: {reader: phantom, patients: 40, size: 48, seed: 3}
  size: 16
models: [{name: small_cnn, widths: [4, 4, 4, 4]}]
train: {epochs: 1, batch_size: 16, select: {metric: last}}
trainers:
  - standard
  - {name: fgsm, eps: 0.02}
attacks:
  - {name: fgsm, eps: [0.01, 0.02]}
  - {name: pgd, eps: [0.02], steps: 3, after: fgsm}
  - {name: fgsm, label: borrowed, eps: 0.02, images: 6, transfer_from: standard}
corruptions:
  - {name: blur, severity: [1, 3]}
explain:
  methods: [saliency]
  metrics: [sparseness, {name: max_sensitivity, samples: 2}]
  conditions: [clean, {name: fgsm, eps: 0.02}]
  references: [random, randomised]
  images: 4
evaluate: {resamples: 100, validity: {images: 8, steps: 4, restarts: 1}, anatomy: {images: 4, steps: 1}}
report: {formats: [md], gallery: 0}
"""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("cache")
    patch.setenv("CXR_EVAL_CACHE", str(folder))
    yield folder
    patch.undo()


def protocol(folder: Path, *sets: str, text: str = PROTOCOL) -> LoadedProtocol:
    (folder / "tiny.yaml").write_text(text)
    return load_protocol(folder / "tiny.yaml", sets=sets)


def estimated(folder: Path, cache: Path, *sets: str, out: Path | None = None, text: str = PROTOCOL) -> Estimate:
    return estimate(protocol(folder, *sets, text=text), out=out or folder / "runs" / "a", device="cpu", cache=cache)


FAST = ("attacks=[]", "corruptions=[]", "explain=null", "evaluate.anatomy=null", "trainers=[standard]")


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    runner.run(protocol(folder), out=folder / "runs" / "a", device="cpu")
    return folder


def test_of_a_finished_run_everything_is_there(finished: Path, cache: Path) -> None:
    found = estimated(finished, cache)
    assert [(share.kind, share.total, share.there) for share in found.shares] == [
        ("training", 2, 2),
        ("predictions", 4, 4),  # val and test of each of 2 cells
        ("corruptions", 4, 4),
        ("attacks", 5, 5),  # of the first cell 2, for what is borrowed is its own
        ("checks of attacks", 2, 2),
        ("anatomy", 6, 6),  # lesion, lung, marker
        # of a cell: shares, 2 conditions, self-tests; maps: 1 + 2 references and 1 attacked; 2 metrics of each; 2 similarities
        ("explanations", 36, 36),
    ]
    assert (found.cells, found.cells_there, found.seconds) == (2, 2, 0.0)
    assert lines(found)[-1] == "Everything is there: only scores and the report will be made again."


def test_what_a_run_beside_has_is_there_too(finished: Path, cache: Path) -> None:
    found = estimated(finished, cache, out=finished / "runs" / "b")
    assert found.cells_there == 2
    assert all(share.total == share.there for share in found.shares)
    assert not (finished / "runs" / "b").exists()


@pytest.mark.slow
def test_what_is_missing_is_counted_and_timed_and_the_folder_is_left_as_it_is(
    finished: Path, cache: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "a"
    shutil.copytree(finished / "runs" / "a", run)
    for done in run.glob("cells/*/*/done.json"):
        if json.loads(done.read_text())["kind"] in ("corruption", "validity"):
            shutil.rmtree(done.parent)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = {share.kind: share for share in estimated(tmp_path, cache).shares}
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    left = {kind for kind, share in found.items() if share.there < share.total}
    assert left == {kind for kind, share in found.items() if share.seconds > 0} == {"corruptions", "checks of attacks"}


def test_a_new_run_is_estimated_and_nothing_is_written(tmp_path: Path, cache: Path) -> None:
    found = estimated(tmp_path, cache, *FAST)
    shares = {share.kind: share for share in found.shares if share.total}
    assert {kind: (share.total, share.there) for kind, share in shares.items()} == {"training": (1, 0), "predictions": (2, 0)}
    assert all(share.seconds > 0 for share in shares.values())
    assert (found.unknown, found.smaller) == ((), False)
    assert found.peak_bytes > 1e8  # torch alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.slow
def test_everything_of_a_new_run_is_estimated(tmp_path: Path, cache: Path) -> None:
    found = estimated(tmp_path, cache)
    assert found.unknown == ()
    assert all(share.seconds > 0 for share in found.shares)
    assert not (tmp_path / "runs").exists()


def test_twice_the_epochs_take_twice_the_training(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "step_seconds", lambda work, passed: (0.5, 10))
    monkeypatch.setattr(rehearsal, "passes", lambda classifier, images, size: Passes(Line(0.0, 0.01), Line(0.0, 0.03), size))
    monkeypatch.setattr(rehearsal, "_filing", lambda rehearsed: 0.0)
    once, twice = (estimated(tmp_path, cache, *FAST, f"train.epochs={epochs}").shares[0].seconds for epochs in (3, 6))
    images = load(protocol(tmp_path).protocol.data, cache=cache).splits
    # 0.05 s an image for a step, and 0.01 s an image for validation
    assert once == pytest.approx(3 * (0.05 * len(images["train"]) + 0.01 * len(images["val"])))
    assert twice == pytest.approx(2 * once)


class Broken(PGD):
    """An attack that fails."""

    def perturb(self, classifier, x, y, *, eps, seed):
        raise RuntimeError("no luck")


def test_what_cannot_be_timed_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PGD, "perturb", Broken.perturb)
    attacks = "attacks=[{name: pgd, eps: 0.02}]"
    found = estimated(tmp_path, cache, *FAST[1:], attacks, "evaluate.validity=null")
    (said,) = found.unknown
    assert said.startswith("attacks, pgd: ")
    assert "no luck" in said
    assert f"not estimated     {said}" in lines(found)
    assert found.record()["not_estimated"] == [said]


def test_a_method_that_takes_too_long_is_given_up(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_PATIENCE", 0.0)
    found = estimated(tmp_path, cache, *FAST[1:], "attacks=[{name: pgd, eps: 0.02}]", "evaluate.validity=null")
    assert [said.partition(" on ")[0] for said in found.unknown] == [
        "attacks, pgd: more than 0 s",
        "predictions: more than 0 s",
    ]


def test_a_trainer_that_fails_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_seconds(work: object, passed: object) -> tuple[float, int]:
        raise RuntimeError("no gradient")

    monkeypatch.setattr(rehearsal, "step_seconds", step_seconds)
    (said,) = estimated(tmp_path, cache, *FAST).unknown
    assert said.startswith("training by standard: ")
    assert said.endswith("RuntimeError: no gradient")


def test_passes_are_counted_by_the_number_of_images() -> None:
    tally = Tally()
    network = StandIn(1, 3, tally)
    with torch.no_grad():
        network(torch.rand(5, 1, 16, 16))
    x = torch.rand(2, 1, 16, 16, requires_grad=True)
    torch.autograd.grad(network(x).sum(), x)
    assert (tally.forward, tally.backward) == (Counter({5: 1, 2: 1}), Counter({2: 1}))


def test_the_stand_in_counts_the_steps_of_an_attack_and_withstands_it(tmp_path: Path, cache: Path) -> None:
    datasets = load(protocol(tmp_path).protocol.data, cache=cache)
    images, tally = few(datasets, 6, answer=1).splits["test"], Tally()
    network = StandIn(1, len(datasets.classes), tally, sure_answer(datasets, 1))
    classifier = Classifier(
        network, input_shape=images.shape, nb_classes=len(datasets.classes), task="multiclass", device="cpu"
    )
    x, y = images.take(range(6)), images.targets()
    found = PGD(eps=1.0, steps=7, restarts=2).perturb(classifier, x, y, eps=1.0, seed=0)
    assert (found != x).any()
    assert (classifier.logits(found).argmax(dim=1) == y).all()
    assert tally.backward == Counter({6: 14})  # 7 steps x 2 restarts, all on all images


def test_seconds_of_passes_follow_from_the_tally() -> None:
    # forward 1 s + 1 s an image, to the gradient 2 s + 3 s an image
    found = Passes(Line(1.0, 1.0), Line(2.0, 3.0), 4)
    tally = Tally(Counter({4: 2, 1: 3}), Counter({4: 1}))
    # 2 batches of 4 in batches of 8: 8 images at 9/8 s; 3 of one image at 2 s; back: 4 images at (26 - 9)/8 s
    assert found.seconds(tally, whole=4, size=8) == pytest.approx(8 * 9 / 8 + 3 * 2 + 4 * 17 / 8)


def test_a_network_is_timed_and_left_as_it_was(tmp_path: Path, cache: Path) -> None:
    datasets = load(protocol(tmp_path).protocol.data, cache=cache)
    images = datasets.splits["test"]
    network = StandIn(1, 3, Tally())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    classifier = Classifier(network, input_shape=images.shape, nb_classes=3, task="multiclass", device="cpu")
    found = passes(classifier, images, 8)
    assert found.batch == 8
    assert found.forward(8) > 0
    assert found.gradient(8) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_of_a_second_stage_only_the_chosen_cells_count(tmp_path: Path, cache: Path) -> None:
    models = "[{name: small_cnn, label: a}, {name: small_cnn, label: b}, {name: small_cnn, label: c}]"
    sets = (f"models={models}", "trainers=[standard, {name: fgsm, eps: 0.02, models: {best: 1, of: standard}}]", "attacks=[]")
    loaded = protocol(tmp_path, *sets)
    planned = plan(loaded)
    works = looks(Run(tmp_path / "none"), planned, load(loaded.protocol.data, cache=cache), "cpu")
    assert {name[:2]: round(weight, 3) for name, weight in weights(works).items()} == {
        **{(model, "standard"): 1.0 for model in "abc"},
        **{(model, "fgsm"): 0.333 for model in "abc"},
    }


def test_pieces_that_look_at_images_say_how_many(tmp_path: Path, cache: Path) -> None:
    loaded = protocol(tmp_path)
    datasets = load(loaded.protocol.data, cache=cache)
    *_, last = looks(Run(tmp_path / "none"), plan(loaded), datasets, "cpu").values()
    found = {piece.label: piece.images for piece in pieces(last) if piece.kind in ("attacks", "checks of attacks")}
    count = len(datasets.splits["test"])
    assert found == {"fgsm": 2 * count, "pgd": count, "borrowed": 6, "checks": 8}  # two radii; one; `images: 6`


def test_without_out_the_folder_is_that_of_the_run(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = protocol(tmp_path, *FAST, "report.formats=[csv]")
    folder = run_folder(loaded, plan(loaded), load(loaded.protocol.data, cache=cache), None).folder
    assert runner.run(loaded, device="cpu").folder == folder


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "under 1 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (172800, "2.0 days")],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_the_lines_say_what_is_sure_and_what_is_not() -> None:
    shares = (Share("training", 2, 1, 60.0), Share("attacks", 4, 0, 200.0), Share("anatomy", 2, 2, 0.0))
    found = Estimate(
        Path("runs/x"), 2, 1, shares, 2_000_000_000, "cpu", smaller=True, early=True, unknown=("attacks, odd: no",)
    )
    # half of 60 s and a twentieth of 200 s; twice 260 s
    assert (EARLY, found.seconds_low, found.seconds_high) == (20, 40.0, 520.0)
    assert lines(found)[:-1] == [
        "run folder        runs/x",
        "cells             2, of which 1 are trained already",
        "evaluations       6, of which 2 are there already",
        "",
        "                     all  there  estimated",
        "training               2      1  at most 60 s",
        "attacks                4      0  at most 3 min",
        "anatomy                2      2  nothing left",
        "",
        "total             at most 4 min on cpu; 40 s to 9 min",
        "peak memory       about 2.0 GB",
        "not estimated     attacks, odd: no",
        "",
    ]
    assert "The batches were smaller than the run's, which needs more memory." in lines(found)[-1]


def test_plan_prints_lines_or_json(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    protocol(finished)
    result = CliRunner().invoke(main, ["plan", "tiny.yaml", "--out", "runs/a", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[:2] == ["run folder        runs/a", "cells             2, of which 2 are trained already"]
    result = CliRunner().invoke(main, ["plan", "tiny.yaml", "--out", "runs/a", "--device", "cpu", "--json"])
    record = json.loads(result.output)
    assert (record["cells_there"], record["evaluations"], record["evaluations_there"], record["seconds"]) == (2, 57, 57, 0)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DeviceError, match="device 'gpu': expected auto, cpu, cuda or cuda:N"):
        estimate(protocol(tmp_path), device="gpu", cache=cache)
