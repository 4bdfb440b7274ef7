"""Which trainers of a run are compared, and over what."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_eval.comparing import compare_trainers, pairs
from cxr_eval.evaluation import Evaluate
from cxr_eval.facts import Facts
from cxr_eval.stats.comparisons import Comparison

CLASSES = ("covid", "normal")
LABEL = ["covid", "covid", "covid", "normal", "normal", "normal"]


def plan(*trainers: str, against: Sequence[str] | None = None, **more: Any) -> Facts:
    """What a manifest says of a run of these trainers."""
    evaluate = Evaluate(resamples=100, min_patients=1, against=None if against is None else tuple(against))
    manifest: dict[str, Any] = {
        "data": {"classes": CLASSES, "outside": more.get("outside", {})},
        "evaluate": evaluate.model_dump(mode="json"),
        "trainers": [{"label": trainer} for trainer in trainers],
        "models": [{"label": model} for model in more.get("models", ("m",))],
        "explainers": [{"label": name} for name in ("grad", "cam")],
        "explain": {"split": "test"} if "chosen" in more else None,
        "conditions": ["clean"],
        "explanation_metrics": [{"label": "mass", "better": "higher", "unit": "fraction", "chosen": more.get("chosen", ())}],
    }
    return Facts(manifest)


class Cell:
    """The tables of a cell: `right`, how many of the first images it gets right, in every class.

    robust: how many images withstand each attack. passed: the explainers that may be used on it.
    """

    def __init__(self, trainer: str, right: int, *passed: str, model: str = "m", seed: int = 0, robust: Any = None) -> None:
        self.trainer, self.model, self.seed = trainer, model, seed
        self.right, self.robust, self.passed, self.tables = right, robust or {}, passed, self

    def has(self, kind: str, *, split: str) -> bool:
        return True

    def read(self, kind: str, *, split: str, condition: str = "", explainer: str = "") -> pd.DataFrame:
        return self.clean(split) if kind == "clean" else self.values(explainer)

    def explainers(self, kind: str, split: str, condition: str) -> Sequence[str]:
        return (*self.passed, "edges")

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

    def attacked(self, split: str) -> list[pd.DataFrame]:
        of = {"attack": "", "eps": 0.02, "every": True, "clean_correct": True}
        return [
            self.clean(split).assign(**of | {"attack": attack}, robust=np.arange(6) < count)
            for attack, count in (self.robust if split == "test" else {}).items()
        ]

    def values(self, explainer: str) -> pd.DataFrame:
        table = self.clean("test")[["image_id", "patient"]]
        value = self.right / 10 + np.arange(6) / 100
        value[-1] = math.nan
        made = table.assign(explainer=explainer, value=value)
        return pd.concat([made.assign(metric=name) for name in ("mass[lung]", "mass[threshold of covid]")])


def test_all_are_compared_with_the_first_unless_said_otherwise() -> None:
    assert pairs(plan("a", "b", "c")) == [("b", "a"), ("c", "a")]
    assert pairs(plan("a", "b", "c", against=["b"])) == [("a", "b"), ("c", "b")]
    assert pairs(plan("a")) == []


def test_each_pair_is_compared_once_whoever_is_named() -> None:
    assert pairs(plan("a", "b", "c", against=["all"])) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs(plan("a", "b", "c", against=["a", "b"])) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert pairs(plan("a", "b", "c", against=["a", "a"])) == [("b", "a"), ("c", "a")]


def test_one_trainer_alone_has_a_table_without_lines() -> None:
    found = compare_trainers(plan("a"), [Cell("a", 3)])
    assert found.empty
    assert tuple(found.columns) == tuple(Comparison.__dataclass_fields__)
    assert compare_trainers(plan("a", "b"), []).empty


def test_a_difference_is_the_trainer_less_the_one_that_it_is_compared_with() -> None:
    works = [Cell("a", 3), Cell("b", 1)]
    found = compare_trainers(plan("a", "b"), works).set_index("metric")
    # 2 of 6 right, 6 of 6 right
    assert found.loc["accuracy", "value"] == pytest.approx(2 / 6 - 1)
    assert (found.loc["accuracy", "trainer"], found.loc["accuracy", "against"]) == ("b", "a")
    assert (found["split"].unique().tolist(), found["condition"].unique().tolist()) == (["test"], ["clean"])
    # areas: 1/3 of covid at 0.9 and 2/3 of normal at 0.9: wins (1/3 * 1/3), ties 1/3 * 2/3 + 2/3 * 1/3, halves
    assert found.loc["auroc", "value"] == pytest.approx(1 / 9 + (4 / 9) / 2 - 1)


def test_every_model_and_outside_set_is_compared_and_one_family_holds_all_models() -> None:
    works = [Cell(trainer, right, model=model) for model in "mn" for trainer, right in (("a", 3), ("b", 2))]
    planned = plan("a", "b", models=("m", "n"), outside={"other": ()})
    found = compare_trainers(planned, works)
    accuracy = found[found["metric"] == "accuracy"]
    assert list(zip(accuracy["model"], accuracy["split"], strict=True)) == [
        *(("m", "test"), ("m", "other"), ("n", "test"), ("n", "other")),
    ]
    assert set(accuracy["family"]) == {2}
    assert (accuracy["p_holm"] >= accuracy["p"]).all()


def test_a_model_of_which_nothing_was_trained_is_left_out() -> None:
    planned = plan("a", "b", models=("m", "n"))
    found = compare_trainers(planned, [Cell("a", 3), Cell("b", 2), Cell("a", 3, model="n")])
    assert set(found["model"]) == {"m"}


def test_only_seeds_that_both_trainers_have_count() -> None:
    works = [Cell("a", 3, seed=0), Cell("a", 0, seed=1), Cell("b", 2, seed=0)]
    found = compare_trainers(plan("a", "b"), works).set_index("metric")
    assert found.loc["accuracy", "value"] == pytest.approx(4 / 6 - 1)


def test_robustness_is_compared_where_both_were_attacked() -> None:
    works = [Cell("a", 3, robust={"pgd": 2}), Cell("b", 3, robust={"pgd": 5, "borrowed": 1})]
    planned = plan("a", "b", outside={"other": ()})
    found = compare_trainers(planned, works)
    robust = found[found["metric"] == "robust_accuracy"]
    assert set(robust["split"]) == {"test"}
    values = robust.set_index("condition")["value"].to_dict()
    assert values["pgd:0.02"] == pytest.approx(5 / 6 - 2 / 6)
    assert "borrowed:0.02" not in values


def test_auroc_is_compared_under_attack_as_on_clean_images_and_in_a_family_of_its_own() -> None:
    works = [Cell("a", 3, robust={"pgd": 2, "fgsm": 3}), Cell("b", 1, robust={"pgd": 5, "fgsm": 3})]
    planned = plan("a", "b")
    found = compare_trainers(planned, works)
    areas = found[found["metric"] == "auroc"].set_index("condition")
    assert list(areas.index) == ["clean", "pgd:0.02", "fgsm:0.02"]  # none in the worst case
    # this work gives the same answers with and without attack: 1/9 + (4/9) / 2, less 1
    assert areas["value"].tolist() == pytest.approx([1 / 9 + (4 / 9) / 2 - 1] * 3)
    assert areas["family"].tolist() == [1, 2, 2]


def test_explanations_are_compared_by_explainer_and_references_are_not() -> None:
    found = compare_trainers(plan("a", "b", chosen=()), [Cell("a", 3, "grad", "cam"), Cell("b", 1, "grad")])
    maps = found[found["metric"] == "mass[lung]"]
    assert maps["explainer"].tolist() == ["grad"]
    assert maps["value"].item() == pytest.approx(0.1 - 0.3)
    assert maps["n"].item() == 5
    assert maps["better"].item() == "neither"


def test_what_a_metric_says_it_chose_is_not_compared() -> None:
    found = {}
    for chosen in ((), ("threshold of ",)):
        table = compare_trainers(plan("a", "b", chosen=chosen), [Cell("a", 3, "grad"), Cell("b", 1, "grad")])
        found[chosen] = set(table.loc[table["explainer"] == "grad", "metric"])
    assert found == {(): {"mass[lung]", "mass[threshold of covid]"}, ("threshold of ",): {"mass[lung]"}}


def test_a_network_whose_explainers_all_failed_is_compared_in_everything_else() -> None:
    found = compare_trainers(plan("a", "b", chosen=()), [Cell("a", 3, "grad"), Cell("b", 1)])
    assert "accuracy" in set(found["metric"])
    assert "mass[lung]" not in set(found["metric"])


def test_other_pairs_than_the_protocols_may_be_asked_for() -> None:
    cells = [Cell("a", 3), Cell("b", 2), Cell("c", 1)]
    found = compare_trainers(plan("a", "b", "c"), cells, [("c", "b")]).set_index("metric")
    assert set(zip(found["trainer"], found["against"], strict=True)) == {("c", "b")}
    assert found.loc["accuracy", "value"] == pytest.approx(2 / 6 - 4 / 6)
