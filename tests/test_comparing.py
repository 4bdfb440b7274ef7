"""Which trainers of a run are compared, and over what."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_eval import comparing
from cxr_eval.comparing import compare_trainers, pairs
from cxr_eval.evaluation import Evaluate
from cxr_eval.stats.comparisons import Comparison

CLASSES = ("covid", "normal")
LABEL = ["covid", "covid", "covid", "normal", "normal", "normal"]


def named(label: str, **more: Any) -> Any:
    return SimpleNamespace(label=label, **more)


def plan(*trainers: str, against: Sequence[str] | None = None, explain: Any = None, **more: Any) -> Any:
    evaluate = Evaluate(resamples=100, min_patients=1, against=None if against is None else tuple(against))
    defaults = {"models": (named("m"),), "outside": {}, "attacks": (), "conditions": (), "explanation_metrics": ()}
    protocol = SimpleNamespace(evaluate=evaluate, explain=explain)
    return SimpleNamespace(trainers=[named(trainer) for trainer in trainers], protocol=protocol, **(defaults | more))


class Work:
    """A trained cell with its answers: `right`, how many of the first images it gets right, in every class."""

    def __init__(self, trainer: str, right: int, *, model: str = "m", seed: int = 0, robust: dict[str, int] | None = None):
        self.cell = SimpleNamespace(model=named(model), trainer=named(trainer), seed=seed)
        self.datasets = SimpleNamespace(classes=CLASSES)
        self.right, self.robust = right, robust or {}

    def clean(self, split: str) -> pd.DataFrame:
        other = {"covid": "normal", "normal": "covid"}
        said = [label if k % 3 < self.right else other[label] for k, label in enumerate(LABEL)]
        covid = np.array([0.9 if name == "covid" else 0.1 for name in said])
        return pd.DataFrame(
            {
                "image_id": [f"{split}{k}" for k in range(6)],
                "patient": [f"{split}{k}" for k in range(6)],
                "label": LABEL,
                "predicted": said,
                "p_covid": covid,
                "p_normal": 1 - covid,
            }
        )

    def outcomes(self, attacks: Sequence[Any], split: str) -> list[pd.DataFrame]:
        return [
            self.clean(split).assign(
                attack=attack.label, eps=0.02, clean_correct=True, robust=np.arange(6) < self.robust[attack.label]
            )
            for attack in attacks
            if attack.label in self.robust
        ]


@pytest.fixture(autouse=True)
def _attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "outcomes", lambda work, attacks, split: work.outcomes(attacks, split))


def test_all_are_compared_with_the_first_unless_said_otherwise() -> None:
    assert pairs(plan("a", "b", "c")) == [("b", "a"), ("c", "a")]
    assert pairs(plan("a", "b", "c", against=["b"])) == [("a", "b"), ("c", "b")]
    assert pairs(plan("a")) == []


def test_each_pair_is_compared_once_whoever_is_named() -> None:
    assert pairs(plan("a", "b", "c", against=["all"])) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs(plan("a", "b", "c", against=["a", "b"])) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs(plan("a", "b", "c", against=["a", "a"])) == [("b", "a"), ("c", "a")]


def test_one_trainer_alone_has_a_table_without_lines() -> None:
    found = compare_trainers(plan("a"), [Work("a", 3)])  # type: ignore[list-item]
    assert found.empty
    assert tuple(found.columns) == tuple(Comparison.__dataclass_fields__)
    assert compare_trainers(plan("a", "b"), []).empty


def test_a_difference_is_the_trainer_less_the_one_that_it_is_compared_with() -> None:
    works = [Work("a", 3), Work("b", 1)]
    found = compare_trainers(plan("a", "b"), works).set_index("metric")  # type: ignore[arg-type]
    # 2 of 6 right, 6 of 6 right
    assert found.loc["accuracy", "value"] == pytest.approx(2 / 6 - 1)
    assert (found.loc["accuracy", "trainer"], found.loc["accuracy", "against"]) == ("b", "a")
    assert (found["split"].unique().tolist(), found["condition"].unique().tolist()) == (["test"], ["clean"])
    # areas: 1/3 of covid at 0.9 and 2/3 of normal at 0.9: wins (1/3 * 1/3), ties 1/3 * 2/3 + 2/3 * 1/3, halves
    assert found.loc["auroc", "value"] == pytest.approx(1 / 9 + (4 / 9) / 2 - 1)


def test_every_model_and_outside_set_is_compared_and_one_family_holds_all_models() -> None:
    works = [Work(trainer, right, model=model) for model in "mn" for trainer, right in (("a", 3), ("b", 2))]
    planned = plan("a", "b", models=(named("m"), named("n")), outside={"other": ()})
    found = compare_trainers(planned, works)  # type: ignore[arg-type]
    accuracy = found[found["metric"] == "accuracy"]
    assert list(zip(accuracy["model"], accuracy["split"], strict=True)) == [
        *(("m", "test"), ("m", "other"), ("n", "test"), ("n", "other")),
    ]
    assert set(accuracy["family"]) == {2}
    assert (accuracy["p_holm"] >= accuracy["p"]).all()


def test_a_model_of_which_nothing_was_trained_is_left_out() -> None:
    planned = plan("a", "b", models=(named("m"), named("n")))
    found = compare_trainers(planned, [Work("a", 3), Work("b", 2), Work("a", 3, model="n")])  # type: ignore[list-item]
    assert set(found["model"]) == {"m"}


def test_only_seeds_that_both_trainers_have_count() -> None:
    works = [Work("a", 3, seed=0), Work("a", 0, seed=1), Work("b", 2, seed=0)]
    found = compare_trainers(plan("a", "b"), works).set_index("metric")  # type: ignore[arg-type]
    assert found.loc["accuracy", "value"] == pytest.approx(4 / 6 - 1)


def attack(label: str, *splits: str) -> Any:
    return named(label, settings={"splits": list(splits)})


def test_robustness_is_compared_where_both_were_attacked() -> None:
    works = [Work("a", 3, robust={"pgd": 2}), Work("b", 3, robust={"pgd": 5, "borrowed": 1})]
    planned = plan("a", "b", attacks=(attack("pgd", "test"), attack("borrowed", "test")), outside={"other": ()})
    found = compare_trainers(planned, works)  # type: ignore[arg-type]
    robust = found[found["metric"] == "robust_accuracy"]
    assert set(robust["split"]) == {"test"}
    values = robust.set_index("condition")["value"].to_dict()
    assert values["pgd:0.02"] == pytest.approx(5 / 6 - 2 / 6)
    assert "borrowed:0.02" not in values


class Maps:
    """Explanations of a cell, with the explainers that passed their self-tests there."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.explainers = tuple(named(label) for label in work.passed)

    def values(self, explainer: Any, condition: Any) -> pd.DataFrame:
        table = self.work.clean("test")[["image_id", "patient"]]
        value = self.work.right / 10 + np.arange(6) / 100
        value[-1] = math.nan
        return table.assign(explainer=explainer.label, metric="mass[lung]", value=value)


def explained(trainer: str, right: int, *passed: str) -> Any:
    work: Any = Work(trainer, right)
    work.passed = passed
    return work


def test_explanations_are_compared_by_explainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "Explanations", Maps)
    metric = named("mass", cls=SimpleNamespace(better="higher", unit="fraction"))
    planned = plan("a", "b", explain=SimpleNamespace(split="test"), conditions=(named("clean"),), explanation_metrics=(metric,))
    found = compare_trainers(planned, [explained("a", 3, "grad", "cam"), explained("b", 1, "grad")])
    maps = found[found["metric"] == "mass[lung]"]
    assert maps["explainer"].tolist() == ["grad"]
    assert maps["value"].item() == pytest.approx(0.1 - 0.3)
    assert maps["n"].item() == 5
    assert maps["better"].item() == "neither"


def test_a_network_whose_explainers_all_failed_is_compared_in_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "Explanations", Maps)
    metric = named("mass", cls=SimpleNamespace(better="higher", unit="fraction"))
    planned = plan("a", "b", explain=SimpleNamespace(split="test"), conditions=(named("clean"),), explanation_metrics=(metric,))
    found = compare_trainers(planned, [explained("a", 3, "grad"), explained("b", 1)])
    assert "accuracy" in set(found["metric"])
    assert "mass[lung]" not in set(found["metric"])
