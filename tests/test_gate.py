"""The validity gate of one cell: at which radius, on which images, with which other network; kept and told line by line."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval import gate as gates
from cxr_eval.attacks.convergence import convergence
from cxr_eval.attacks.validity import CHECKS, Check
from cxr_eval.evaluation import Evaluate, Validity
from cxr_eval.gate import CHECK_COLUMNS, _elsewhere, check_lines, gate, radius
from cxr_eval.seeds import stream
from cxr_eval.store import Run, content_key
from cxr_eval.tables import CellTables

_spec = importlib.util.spec_from_file_location("linear_networks", Path(__file__).with_name("linear_networks.py"))
assert _spec is not None
assert _spec.loader is not None
linear_networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(linear_networks)

NETWORK, IMAGES, MARGIN, REACH = linear_networks.linear(0)
"""A linear classifier, 60 images, their margins, and by how much a radius of 1 lowers each."""


def attack(*eps: float, norm: str = "linf") -> Any:
    return SimpleNamespace(settings={"norm": norm, "eps": list(eps)})


def planned(*attacks: Any, batch_size: int = 16, **settings: Any) -> Any:
    small = {"images": 20, "steps": 4, "restarts": 2}
    validity = None if settings.get("validity", 0) is None else Validity(**(small | settings))
    protocol = SimpleNamespace(evaluate=Evaluate(validity=validity, batch_size=batch_size))
    return SimpleNamespace(protocol=protocol, attacks=attacks, cells=[])


class Work:
    """As much of a cell as the gate asks for."""

    def __init__(self, folder: Path, plan: Any, images: cxr.ImageSet = IMAGES, *, model: str = "m", **cell: Any) -> None:
        about = {"trainer": "t", "seed": 0} | cell
        self.cell = SimpleNamespace(
            model=SimpleNamespace(label=model), trainer=SimpleNamespace(label=about["trainer"]), seed=about["seed"]
        )
        self.plan, self.others, self.trained = plan, dict[Any, Any](), True
        self.key = f"key of {about['trainer']}"
        self.datasets = SimpleNamespace(splits={"test": images}, hashes={"test": "h"})
        self.classifier, self.run, self.computed = NETWORK, Run(folder), list[str]()
        self.tables = CellTables(self.run.cell("cell").folder)

    def fitted(self) -> cxr.Classifier:
        return NETWORK

    def progress(self, *told: object) -> None:
        pass

    @contextmanager
    def evaluation(self, content: dict[str, Any], what: str) -> Iterator[Any]:
        work = self.run.evaluation("cell", content_key(content))
        there = work.done
        yield work
        if not there:
            work.finish(what=what)
            self.computed.append(what)


def checked(work: Any) -> gates.Gate:
    found = gate(work, "test")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("attacks", "settings", "expected"),
    [
        ([attack(0.01)], {}, 0.01),
        ([attack(0.0, 0.01, 0.03, 0.02)], {}, 0.02),  # of three above 0 the middle one
        ([attack(0.01, 0.02)], {}, 0.02),  # of two the larger one
        ([attack(0.03, 0.01), attack(0.01, 0.02), attack(0.02)], {}, 0.02),  # each counts once
        ([attack(0.01), attack(3.0, norm="l2")], {}, 0.01),
        ([attack(3.0, norm="l2")], {}, None),
        ([attack(0.0)], {}, None),
        ([], {}, None),
        ([attack(0.01)], {"eps": 0.05}, 0.05),
        ([], {"eps": 0.05}, 0.05),
        ([attack(0.01)], {"validity": None}, 0.01),  # the audit of regions takes it too
    ],
)
def test_networks_are_checked_at_the_middle_radius_of_all_attacks_unless_told(attacks, settings, expected) -> None:
    assert radius(planned(*attacks, **settings)) == expected


def test_nothing_is_checked_where_the_protocol_says_so_or_attacks_nothing(tmp_path: Path) -> None:
    for plan in (planned(attack(0.01), validity=None), planned(), planned(attack(1.0, norm="l2"))):
        work = Work(tmp_path, plan)
        assert gate(work, "test") is None  # type: ignore[arg-type]
        assert work.computed == []


def test_an_honest_network_passes_every_check_that_has_enough_images(tmp_path: Path) -> None:
    work = Work(tmp_path, planned(attack(0.02)))
    found = checked(work)
    assert [check.code for check in found.checks] == [each.__name__ for each in CHECKS]
    assert {check.verdict for check in found.checks} <= {"PASS", "SKIP"}
    assert work.tables.conditions("searched", "test") == ["convergence:0.02"]


def test_the_search_breaks_the_images_whose_margin_is_within_reach(tmp_path: Path) -> None:
    eps = 0.05
    found = checked(Work(tmp_path, planned(attack(eps), images=60))).searched
    margin = pd.Series(MARGIN.numpy(), index=IMAGES.table["image_id"]).loc[found["image_id"]].to_numpy()
    assert len(found) == 60
    assert (found["clean_correct"] == (margin > 0)).all()
    # four steps of a quarter of the radius reach exactly the corner; pixels lie in [0.4, 0.6], so none is clipped
    reach = eps * float(REACH)
    clear = np.abs(margin - reach) > 1e-4
    assert (np.isfinite(found["first_step"]) == (margin < reach))[clear].all()
    needed = np.ceil(np.clip(margin, 0, None) / (reach / 4))
    fallen = clear & (margin < 0.99 * reach) & (np.abs(margin / (reach / 4) % 1) > 0.01)
    assert (found["first_step"].to_numpy() == needed)[fallen].all()
    patients = IMAGES.table.set_index("image_id")["patient"]
    assert (found["patient"].to_numpy() == patients.loc[found["image_id"]].to_numpy()).all()


def test_as_many_images_as_asked_are_checked_or_all_that_there_are(tmp_path: Path) -> None:
    for asked, expected in ((8, 8), (500, 60)):
        found = checked(Work(tmp_path, planned(attack(0.02), images=asked)))
        assert len(found.searched) == expected
        assert found.searched["image_id"].is_unique


def test_the_search_is_that_of_the_cells_own_seed(tmp_path: Path) -> None:
    found = checked(Work(tmp_path, planned(attack(0.05)), seed=3)).searched
    index = IMAGES.draw(20)
    again = convergence(
        NETWORK, IMAGES.take(index), IMAGES.targets(index), eps=0.05, steps=4, restarts=2, seed=stream(3, "validity")
    )
    np.testing.assert_array_equal(found["first_step"], again.first_step)
    np.testing.assert_array_equal(found["first_restart"], again.first_restart)


def test_checks_are_made_once_and_again_where_anything_is_different(tmp_path: Path) -> None:
    first = Work(tmp_path, planned(attack(0.02)))
    made = checked(first)
    assert len(first.computed) == 1
    again = Work(tmp_path, planned(attack(0.02)))
    read = checked(again)
    assert again.computed == []
    assert [asdict(check) for check in read.checks] == [asdict(check) for check in made.checks]
    pd.testing.assert_frame_equal(read.searched, made.searched)
    for plan in (planned(attack(0.03)), planned(attack(0.02), steps=5), planned(attack(0.02), images=9)):
        other = Work(tmp_path, plan)
        checked(other)
        assert len(other.computed) == 1


def cells_of(plan: Any, folder: Path, *names: tuple[str, str, int]) -> list[Work]:
    """Cells in the order of the plan, each knowing the others."""
    works = [Work(folder, plan, model=model, trainer=trainer, seed=seed) for model, trainer, seed in names]
    plan.cells = [work.cell for work in works]
    by_name = dict(zip(names, works, strict=True))
    for work in works:
        work.others = by_name
    return works


@pytest.mark.parametrize(
    ("untrained", "expected"),
    [((), "key of c"), (("c",), "key of a"), (("a", "c"), None)],
)
def test_images_are_borrowed_from_the_last_network_before_of_the_same_model_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: tuple[str, ...], expected: str | None
) -> None:
    names = [("m", "a", 0), ("m", "b", 1), ("n", "b", 0), ("m", "c", 0), ("m", "own", 0), ("m", "later", 0)]
    works = cells_of(planned(attack(0.02)), tmp_path, *names)
    for work in works:
        work.trained = work.cell.trainer.label not in untrained
    borrowed: list[Any] = []
    monkeypatch.setattr(gates, "battery", lambda *_, surrogate, **__: borrowed.append(surrogate) or ())
    asked: list[str] = []
    for work in works:
        work.fitted = lambda work=work: asked.append(work.key) or NETWORK  # type: ignore[method-assign]
    checked(works[4])
    assert asked == ([] if expected is None else [expected])
    assert borrowed == [None if expected is None else NETWORK]


def findings(y: list[list[float]]) -> cxr.ImageSet:
    return replace(
        linear_networks.image_set(IMAGES.take(range(len(y))), torch.zeros(len(y), dtype=torch.int64)),
        y=np.array(y, dtype=np.float32),
    )


NAN = float("nan")


def test_images_of_which_nothing_is_known_are_not_checked(tmp_path: Path) -> None:
    work = Work(tmp_path, planned(attack(0.02)), findings([[0, 1], [NAN, NAN], [NAN, 0], [1, 0]]))
    work.classifier = cxr.Classifier(NETWORK.model, input_shape=(1, 4, 4), nb_classes=2, task="multilabel", device="cpu")
    assert set(checked(work).searched["image_id"]) == {"i0", "i2", "i3"}
    nothing = Work(tmp_path, planned(attack(0.02)), findings([[NAN, NAN]] * 3))
    assert gate(nothing, "test") is None  # type: ignore[arg-type]


def test_a_check_is_a_line_that_says_whose_it_is(tmp_path: Path) -> None:
    work = Work(tmp_path, planned(), trainer="fgsm", seed=2)
    checks = [
        Check("zero_gradients", "Gradients", "PASS", {"images": 3.0}, "Fine."),
        Check("noise", "Noise", "FAIL", {}, "Not so."),
    ]
    lines = check_lines(work, "test", "validity", checks)  # type: ignore[arg-type]
    assert tuple(lines.columns) == CHECK_COLUMNS
    assert lines.iloc[0].tolist() == [
        *("m", "fgsm", 2, "test", "validity", "zero_gradients", "Gradients", "PASS", '{"images": 3.0}', "Fine."),
    ]
    assert [json.loads(numbers) for numbers in lines["numbers"]] == [{"images": 3.0}, {}]
    assert check_lines(work, "test", "validity", []).empty  # type: ignore[arg-type]


def test_another_preparation_is_a_doubt_only_where_the_images_are_of_another_set() -> None:
    failed = Check("preprocessing_outside", "Images are prepared as the network expects", "FAIL", {}, "It does better so.")
    assert _elsewhere(failed, "test") is failed
    there = _elsewhere(failed, "other_site")
    assert there.verdict == "WARN"
    assert there.sentence == (
        "It does better so. Or the images of this set are darker or lighter than those that it learned from."
    )
    other = Check("zero_gradients", "Gradients exist", "FAIL", {}, "None.")
    assert _elsewhere(other, "other_site") is other
