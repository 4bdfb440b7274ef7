"""A run cut short on the command line: which cells it keeps, what a smoke run lowers, and that it can be taken for no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cxr_eval import cut_short
from cxr_eval.cli.options import load_protocol
from cxr_eval.data import datasets
from cxr_eval.plan import Plan, cell_count, describe, plan
from cxr_eval.protocol_file import LoadedProtocol, load
from cxr_eval.store import Run, content_key

PROTOCOL = """name: tiny
data:
  train: {reader: phantom, patients: 60, size: 48, seed: 3}
  size: 32
models: [small_cnn, {name: small_cnn, label: small, widths: [4, 8, 8, 8]}]
train: {epochs: 3, batch_size: 16, seeds: [0, 1]}
trainers:
  - standard
  - {name: fgsm, eps: 0.02}
  - {name: pgd, eps: 0.02, steps: 5, warm_start: fgsm}
  - {name: trades, eps: 0.02, models: {best: 1, of: fgsm}}
attacks:
  - {name: pgd, eps: 0.02, steps: 10, restarts: 2}
explain:
  methods: [saliency]
  metrics: [{name: pixel_flipping, steps: 8}]
  conditions: [clean, {name: pgd, eps: 0.02, steps: 10}]
"""
TRANSFER = "  - {name: fgsm, label: from_standard, eps: 0.02, transfer_from: standard}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "p.yaml"
    written.write_text(PROTOCOL)
    return written


def kept(path: Path, *only: str) -> Plan:
    return plan(load(path, only=only))


def labels(planned: Plan) -> list[str]:
    return [cell.label for cell in planned.cells]


# cells -------------------------------------------------------------------------------------------------------------------


def test_one_cell_alone_where_it_needs_no_other(path: Path) -> None:
    planned = kept(path, "trainer=standard", "model=small", "seed=1")
    assert labels(planned) == ["small, standard, seed 1"]
    assert ([each.label for each in planned.models], [each.label for each in planned.trainers]) == (["small"], ["standard"])
    assert planned.protocol.train.seeds == (1,)
    assert cell_count(planned) == 1
    # 2 models x 2 seeds x 4 trainers are 16 cells with those that may be chosen
    assert len(planned.left_out) == 15
    assert describe(planned)[0] == "tiny: 1 model x 1 trainer x 1 seed = 1 cell"


def test_a_cell_comes_with_the_one_that_it_starts_from(path: Path) -> None:
    assert labels(kept(path, "trainer=pgd", "model=small", "seed=1")) == ["small, fgsm, seed 1", "small, pgd, seed 1"]


def test_a_chosen_cell_comes_with_all_that_it_is_chosen_by(path: Path) -> None:
    planned = kept(path, "trainer=trades", "model=small", "seed=1")
    compared = [f"{model}, fgsm, seed {seed}" for model in ("small_cnn", "small") for seed in (0, 1)]
    assert labels(planned) == [*compared, "small, trades, seed 1"]
    assert cell_count(planned) == 5
    assert cell_count(kept(path)) == 2 * 2 * 3 + 2  # three trainers fit both models, trades the better one


def test_attacks_bring_the_network_that_makes_their_images(path: Path) -> None:
    path.write_text(PROTOCOL.replace("explain:", f"{TRANSFER}explain:"))
    planned = kept(path, "trainer=fgsm", "model=small", "seed=0")
    assert labels(planned) == ["small, standard, seed 0", "small, fgsm, seed 0"]


def test_without_only_nothing_is_left_out(path: Path) -> None:
    assert kept(path).left_out == ()
    assert cut_short.doubts(load(path), kept(path)) == []


def test_a_part_of_a_run_has_a_folder_of_its_own(path: Path) -> None:
    keys = {content_key(load(path, only=only).resolved) for only in ((), ("seed=0",), ("seed=1",), ("seed=0", "seed=1"))}
    assert len(keys) == 4
    same = [load(path, only=only).resolved for only in (("seed=0", "seed=1"), ("seed=1", "seed=0"))]
    assert same[0] == same[1]


def test_cells_left_out_are_a_warning_that_names_them(path: Path) -> None:
    loaded = load(path, only=("seed=0",))
    (doubt,) = cut_short.doubts(loaded, plan(loaded))
    assert (doubt.code, doubt.level, doubt.scope) == ("cells_left_out", "warn", "run")
    # trades needs the networks of both seeds of fgsm, and of the others one seed of two is left out: 2 x 3 of 16
    assert doubt.message == (
        "--only seed=0 left out 6 of 16 cells of this protocol: small_cnn, standard, seed 1; small_cnn, pgd, seed 1;"
        " small, standard, seed 1; small, pgd, seed 1; small_cnn, trades, seed 1; small, trades, seed 1."
    )
    few = load(path, only=("trainer=standard", "model=small", "seed=0"))
    assert cut_short.doubts(few, plan(few))[0].message.endswith("; and 9 more.")


# images ------------------------------------------------------------------------------------------------------------------


def test_limited_images_are_other_images_for_every_key(path: Path, tmp_path: Path) -> None:
    whole, part = (
        datasets.load(load(path, sets=sets).protocol.data, cache=tmp_path / "cache") for sets in ((), ("data.limit=8",))
    )
    assert all(len(images) <= 8 < len(whole.splits[name]) for name, images in part.splits.items())
    for name in ("train", "val", "test"):
        assert whole.contents[name] != part.contents[name]
        assert whole.hashes[name] != part.hashes[name]
        assert set(part.splits[name].y) == set(whole.splits[name].y)  # no class is lost


def test_a_limit_of_the_command_line_is_a_warning_and_one_of_the_protocol_is_not(path: Path) -> None:
    loaded = load(path, sets=("data.limit=12",))
    (doubt,) = cut_short.doubts(loaded, plan(loaded))
    assert (doubt.code, doubt.level, doubt.scope) == ("limited", "warn", "run")
    assert doubt.message == (
        "At most 12 images of each split were used, as the command line asked. Networks were trained and judged on fewer images"
        " than the protocol names."
    )
    path.write_text(PROTOCOL.replace("  size: 32\n", "  size: 32\n  limit: 12\n"))
    loaded = load(path)
    assert cut_short.doubts(loaded, plan(loaded)) == []


# smoke -------------------------------------------------------------------------------------------------------------------


def smoked(path: Path, *sets: str, only: tuple[str, ...] = ()) -> LoadedProtocol:
    return load_protocol(path, sets, limit=None, smoke=True, only=only, seeds=())


def test_a_smoke_run_lowers_what_costs_time_and_nothing_else(path: Path) -> None:
    loaded = smoked(path)
    assert set(loaded.sets) == {
        *("data.limit=16", "train.epochs=1", "train.seeds=[0]", "evaluate.resamples=100", "explain.images=2"),
        *("evaluate.validity.images=8", "evaluate.validity.steps=4", "evaluate.validity.restarts=1"),
        *("evaluate.anatomy.images=4", "evaluate.anatomy.steps=1", "report.gallery=1"),
        *("trainers.2.steps=1", "trainers.3.steps=1"),
        *("attacks.0.images=8", "attacks.0.steps=1", "attacks.0.restarts=1"),
        *("explain.metrics.0.steps=1", "explain.conditions.1.steps=1"),
    }
    before, after = plan(load(path)), plan(loaded)
    for kind in ("models", "trainers", "attacks", "corruptions", "explainers", "explanation_metrics"):
        assert [each.label for each in getattr(after, kind)] == [each.label for each in getattr(before, kind)]
    assert [condition.label for condition in after.conditions] == [condition.label for condition in before.conditions]
    assert content_key(loaded.resolved) != content_key(load(path).resolved)


def test_a_smoke_run_raises_nothing_and_leaves_what_was_set(path: Path) -> None:
    path.write_text(
        PROTOCOL.replace("steps: 10, restarts: 2", "steps: 1, images: 3").replace("  size: 32\n", "  size: 32\n  limit: 9\n")
    )
    loaded = smoked(path, "train.epochs=2", "evaluate.validity={images: 20}")
    assert loaded.protocol.data.limit == 9
    assert loaded.protocol.train.epochs == 2
    assert loaded.protocol.evaluate.validity is not None
    assert loaded.protocol.evaluate.validity.images == 20
    assert loaded.protocol.attacks[0].settings == {"eps": 0.02, "steps": 1, "images": 3}


def test_settings_that_tell_plugins_apart_are_left_as_they_are(path: Path) -> None:
    path.write_text(
        PROTOCOL.replace("steps: 5, warm_start: fgsm", "steps: [2, 3]").replace(
            "steps: 10, restarts", "steps: [5, 9], restarts"
        )
    )
    after = plan(smoked(path, only=("trainer=pgd(steps=3)",)))
    assert [trainer.label for trainer in after.trainers] == ["pgd(steps=3)"]
    assert [attack.label for attack in after.attacks] == ["pgd(steps=5)", "pgd(steps=9)"]
    assert [attack.settings["restarts"] for attack in after.attacks] == [1, 1]


def test_a_smoke_run_that_has_nothing_to_lower_is_one_all_the_same(path: Path) -> None:
    tiny = smoked(path)
    again = load(path, sets=tiny.sets, smoke=())
    assert again.smoke
    (smoke, limited) = cut_short.doubts(again, plan(again))
    assert (smoke.code, smoke.level, smoke.scope) == ("smoke_run", "fail", "run")
    assert smoke.message.startswith("SMOKE RUN: everything ran once on a handful of images")
    assert limited.code == "limited"


@pytest.mark.parametrize("name", ["covid_robust", "dpaat_ham10000", "interpretable_nih14", "sga_ood"])
def test_protocols_of_ours_have_a_smoke_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(__file__).parents[1] / "protocols" / f"{name}.yaml"
    for variable in re.findall(r"\$\{([A-Z0-9_]+)\}", file.read_text(encoding="utf-8")):
        monkeypatch.delenv(variable, raising=False)  # so that the demonstration is what is in force
    before, after = plan(load(file)), plan(smoked(file))
    assert after.demonstration
    assert len(after.cells) * len(before.protocol.train.seeds) == len(before.cells)
    assert [attack.label for attack in after.attacks] == [attack.label for attack in before.attacks]


@pytest.mark.slow
def test_a_smoke_run_of_some_cells_says_so_in_its_folder_and_report(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr_eval import runner

    monkeypatch.setenv("CXR_EVAL_CACHE", str(tmp_path / "cache"))
    loaded = smoked(path, only=("trainer=standard", "model=small"))
    events = []
    outcome = runner.run(loaded, out=tmp_path / "run", device="cpu", on_event=events.append)
    run = Run.open(outcome.folder)
    assert [warning.code for warning in run.warnings()][:3] == ["smoke_run", "limited", "cells_left_out"]
    assert set(run.rows()["trainer"]) == {"standard"}
    assert set(run.rows()["seed"]) == {0}
    manifest = run.manifest()
    assert "data.limit=16" in manifest["protocol"]["sets"]
    assert (manifest["seeds"], [model["label"] for model in manifest["models"]]) == ([0], ["small"])
    assert all(count["images"] <= 16 for count in manifest["data"]["splits"].values())
    text = outcome.report.read_text(encoding="utf-8")
    assert "SMOKE RUN: everything ran once" in text
    assert "data.limit=16" in text
    ended = [event for event in events if event.kind == "cell"]
    assert [(event.name, event.cell, event.cells, set(event.scores)) for event in ended] == [
        ("small / standard / seed 0", 0, 1, {"accuracy", "robust_accuracy", "seconds"})
    ]
    trained = [event for event in events if event.step == "training" and event.scores]
    assert trained[-1].done == trained[-1].total
    assert json.dumps(dict(trained[-1].scores))
