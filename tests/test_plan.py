"""A plan finds every plugin and checks every setting before anything runs, and multiplies lists into cells."""

import dataclasses
import json
import sys
import uuid
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal

import pydantic
import pytest

from cxr_eval import registry
from cxr_eval.errors import DataError, ProtocolError
from cxr_eval.params import Field, Names, Params, Radius, Severities
from cxr_eval.plan import Plan, describe, plan
from cxr_eval.plugin import AttackParams
from cxr_eval.protocol_file import load


class NoSettings:
    Params = Params
    uses_reference = False


class Drawn:
    Params = Params

    def __init__(self, params):
        self.params = params

    def check(self):
        pass


class Table(Drawn):
    class Params(Params):
        root: Path = Field(description="folder")
        key: uuid.UUID | None = Field(None, description="a type that the messages have no words for")
        box: tuple[int, int] = Field((1, 2), description="two whole numbers")

    def check(self):
        if self.params.root == Path("nowhere"):
            raise DataError("table: nowhere is not a folder")


class Trainer:
    uses_reference = False

    class Params(Params):
        eps: Radius = Field("8/255", description="radius")
        steps: int = Field(7, ge=1, description="steps")
        mode: Literal["a", "b"] = Field("a", description="mode")
        layers: list[int] = Field([1], min_length=1, description="layers")
        start: bool = Field(True, description="random start")

        @pydantic.model_validator(mode="after")
        def _enough(self):
            if self.mode == "b" and self.steps < 2:
                raise ValueError("mode b needs two steps")
            return self


class Curious(NoSettings):
    uses_reference = True


class Attack:
    norms = ("linf", "l2")
    transfers = True

    class Params(AttackParams):
        steps: int = Field(10, ge=1, description="steps")


class LinfOnly(Attack):
    norms = ("linf",)


class Stopping(Attack):
    transfers = False


class Corruption:
    class Params(Params):
        severity: Severities = Field((1, 2, 3, 4, 5), description="severities")
        splits: Names = Field(("test",), description="splits")


POINTS = {
    "readers": {"phantom": Drawn, "table": Table},
    "models": {"small": NoSettings, "large": NoSettings},
    "trainers": {"standard": NoSettings, "fgsm": Trainer, "pgd": Trainer, "amat": Curious},
    "attacks": {"fgsm": Attack, "pgd": Attack, "linf_only": LinfOnly, "stopping": Stopping, "foreign": NoSettings},
    "corruptions": {"contrast": Corruption, "foreign": NoSettings},
    "explainers": {"gradcam": NoSettings},
    "explanation_metrics": {"sparseness": NoSettings},
}

BASE = """name: small
data:
  train: {reader: phantom}
  outside: {nih: {reader: table, root: /nih}}
models: [small]
trainers: [standard]
"""
"""Six lines; what a test adds starts on line 7."""


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    module, points = ModuleType("fake"), []
    for kind, plugins in POINTS.items():
        for name, cls in plugins.items():
            setattr(module, f"{kind}_{name}", cls)
            package = SimpleNamespace(name="pkg", version="1.0", read_text=lambda name: None)
            points.append(EntryPoint(name, f"fake:{kind}_{name}", f"cxr_eval.{kind}")._for(package))
    points.append(EntryPoint("broken", "no_such_module:X", "cxr_eval.trainers")._for(package))
    monkeypatch.setitem(sys.modules, "fake", module)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    monkeypatch.setattr(registry, "_sound", lambda kind, point, cls: cls)  # these are only what a plan looks at
    registry.installed.cache_clear()
    yield
    registry.installed.cache_clear()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Plans a text that is read as `p.yaml`."""
    monkeypatch.chdir(tmp_path)

    def made(text: str, *sets: str) -> Plan:
        Path("p.yaml").write_text(text)
        return plan(load(Path("p.yaml"), sets=sets, environ={}))

    return made


@pytest.fixture
def refusal(made):
    """The message with which a text is refused."""

    def refusal(text: str, *sets: str) -> str:
        with pytest.raises(ProtocolError) as caught:
            made(text, *sets)
        return str(caught.value)

    return refusal


def with_trainers(*trainers: str) -> str:
    return BASE.replace("[standard]", f"[{', '.join(trainers)}]")


def labels(plugins) -> list[str]:
    return [planned.label for planned in plugins]


def test_every_plugin_is_found_with_its_settings_and_origin(made):
    planned = made(BASE.replace("[standard]", "[{name: pgd, eps: 4/255}]"))
    trainer = planned.trainers[0]
    assert (trainer.kind, trainer.name, trainer.label, trainer.origin) == ("trainers", "pgd", "pgd", "pkg 1.0")
    assert trainer.cls is Trainer
    assert trainer.params == Trainer.Params(eps=4 / 255)
    assert trainer.settings == {"eps": 4 / 255, "steps": 7, "mode": "a", "layers": [1], "start": True}
    assert json.loads(json.dumps(trainer.settings)) == trainer.settings
    assert planned.reader.name == "phantom"
    assert planned.outside["nih"][0].settings == {"root": "/nih", "key": None, "box": [1, 2]}


def test_a_list_may_become_a_tuple_and_a_text_a_path_and_nothing_else_changes(made, refusal):
    planned = made(BASE.replace("root: /nih", "root: /nih, box: [3, 4]"))
    assert planned.outside["nih"][0].params == Table.Params(root=Path("/nih"), box=(3, 4))
    assert refusal(BASE.replace("root: /nih", "root: 3")) == "p.yaml:4: data.outside.nih.root: expected text, got 3"


def test_cells_are_models_times_trainers_times_seeds_in_the_order_written(made):
    planned = made(BASE.replace("[small]", "[small, large]") + "train: {seeds: [3, 1]}\n", "trainers=[standard, fgsm]")
    assert [cell.label for cell in planned.cells] == [
        f"{model}, {trainer}, seed {seed}"
        for model in ("small", "large")
        for trainer in ("standard", "fgsm")
        for seed in (3, 1)
    ]


# Trainers that need the network of another -------------------------------------------------------------------------------


def test_a_trainer_comes_after_those_that_it_needs_wherever_they_were_written(made):
    text = with_trainers(
        "{name: amat, reference: pgd}",
        "{name: fgsm, label: late, warm_start: pgd}",
        "standard",
        "{name: pgd, warm_start: standard}",
    )
    planned = made(text, "train.seeds=[0, 1]", "models=[small, large]")
    assert labels(planned.trainers) == ["amat", "late", "standard", "pgd"]
    order = ["standard", "pgd", "amat", "late"]
    assert [cell.trainer.label for cell in planned.cells] == 2 * [label for label in order for _ in range(2)]
    assert {cell.trainer.label: (cell.needs.warm_start, cell.needs.reference) for cell in planned.cells} == {
        "standard": (None, None),
        "pgd": ("standard", None),
        "amat": (None, "pgd"),
        "late": ("pgd", None),
    }
    assert "trainers     amat with pgd as reference, late from pgd, standard, pgd from standard" in describe(planned)


@pytest.mark.parametrize(
    ("trainers", "said"),
    [
        (
            ["standard", "{name: fgsm, warm_start: standrd}"],
            "trainers[1].warm_start: no trainer of this protocol is called 'standrd'; did you mean 'standard'?",
        ),
        (
            ["{name: pgd, eps: [0.01, 0.02]}", "{name: fgsm, warm_start: pgd(eps=0.03)}"],
            "trainers[1].warm_start: no trainer of this protocol is called 'pgd(eps=0.03)'; did you mean 'pgd(eps=0.02)'?",
        ),
        (["{name: fgsm, warm_start: fgsm}"], "trainers[0]: fgsm cannot need its own network; name another trainer"),
        (
            ["standard", "{name: fgsm, warm_start: pgd}", "{name: pgd, warm_start: fgsm}"],
            "trainers[1]: trainers that wait for each other: fgsm -> pgd -> fgsm; let one of them start without",
        ),
        (["amat"], "trainers[0]: amat needs 'reference: NAME', a trainer of this protocol whose network it looks at"),
        (
            ["standard", "{name: fgsm, reference: standard}"],
            "trainers[1].reference: fgsm looks at no other network; did you mean warm_start?",
        ),
        (
            ["standard", "{name: fgsm, warmstart: standard}"],
            "trainers[1]: fgsm has no setting 'warmstart'; did you mean 'warm_start'?",
        ),
        (["{name: fgsm, warm_start: 3}"], "trainers[0].warm_start: expected text, got 3"),
    ],
)
def test_needs_that_cannot_be_met_are_refused_with_their_line(refusal, trainers, said):
    assert refusal(with_trainers(*trainers)) == f"p.yaml:6: {said}"


def test_a_plan_is_frozen(made):
    with pytest.raises(dataclasses.FrozenInstanceError):
        made(BASE).cells = ()


def test_a_plan_says_whether_it_is_a_demonstration(made):
    text = BASE.replace("{reader: phantom}", '{reader: table, root: "${NOT_SET}", when_missing: phantom}')
    assert made(text).demonstration
    assert not made(text, "data.train.root=/x").demonstration


# Lists multiply ----------------------------------------------------------------------------------------------------------


def test_a_list_for_a_setting_of_one_value_multiplies_the_use(made):
    planned = made(with_trainers("{name: fgsm, eps: [0.01, 8/255]}", "standard"))
    assert labels(planned.trainers) == ["fgsm(eps=0.01)", "fgsm(eps=8/255)", "standard"]
    assert [trainer.settings["eps"] for trainer in planned.trainers[:2]] == [0.01, 8 / 255]
    assert len(planned.cells) == 3


def test_a_list_that_the_plugin_accepts_is_one_value(made):
    planned = made(with_trainers("{name: fgsm, layers: [1, 2]}") + "attacks: [{name: pgd, eps: [0.01, 0.02]}]\n")
    assert labels(planned.trainers) == ["fgsm"]
    assert planned.attacks[0].settings["eps"] == [0.01, 0.02]


def test_several_lists_multiply_with_each_other_in_the_order_written(made):
    planned = made(with_trainers("{name: pgd, steps: [3, 5], mode: [a, b], start: [true]}"))
    assert labels(planned.trainers) == [
        "pgd(steps=3 mode=a)",
        "pgd(steps=3 mode=b)",
        "pgd(steps=5 mode=a)",
        "pgd(steps=5 mode=b)",
    ]


def test_an_attack_multiplies_by_a_setting_of_one_value_but_not_by_its_radii(made):
    planned = made(BASE + "attacks: [{name: pgd, eps: [0.01, 0.02], steps: [5, 10]}]\n")
    assert labels(planned.attacks) == ["pgd(steps=5)", "pgd(steps=10)"]
    assert all(attack.settings["eps"] == [0.01, 0.02] for attack in planned.attacks)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            "{name: fgsm, eps: [0.01, 8]}",
            "trainers[0].eps: is in pixel units of [0, 1] and cannot exceed 1; did you mean 8/255?",
        ),
        ("{name: fgsm, steps: [1, 0]}", "trainers[0].steps: expected a number of at least 1, got 0"),
        ("{name: fgsm, steps: []}", "trainers[0].steps: expected a whole number, got a list of 0"),
        ("{name: fgsm, steps: [a, b]}", "trainers[0].steps: expected a whole number, got a list of 2"),
        ("{name: fgsm, layers: []}", "trainers[0].layers: expected a list of at least 1, got a list of 0"),
        ("{name: fgsm, mode: [a, c]}", "trainers[0].mode: expected 'a' or 'b', got text 'c'"),
        ("{name: fgsm, eps: [0.01, 0.02], epsilon: 1}", "trainers[0]: fgsm has no setting 'epsilon'; did you mean 'eps'?"),
        ("{name: fgsm, mode: [a, b], steps: 1}", "trainers[0]: mode b needs two steps"),
        (f"{{name: fgsm, steps: {list(range(1, 300))}}}", "trainers[0]: its lists multiply into 299 trainers; at most 200 fit"),
    ],
)
def test_a_wrong_value_in_a_list_is_refused(refusal, use, message):
    assert refusal(with_trainers(use)) == f"p.yaml:6: {message}"


# Labels ------------------------------------------------------------------------------------------------------------------


def test_namesakes_are_told_apart_by_the_settings_in_which_they_differ(made):
    planned = made(with_trainers("fgsm", "{name: fgsm, eps: 0.02}", "pgd"))
    assert labels(planned.trainers) == ["fgsm(eps=8/255)", "fgsm(eps=0.02)", "pgd"]


def test_radii_and_truth_values_are_written_in_labels_as_in_protocols(made):
    attacks = "attacks: [{name: pgd, eps: 0.01}, {name: pgd, eps: [0.01, 8/255]}]\n"
    assert labels(made(BASE + attacks).attacks) == ["pgd(eps=0.01)", "pgd(eps=0.01,8/255)"]
    planned = made(with_trainers("fgsm", "{name: fgsm, start: false}"))
    assert labels(planned.trainers) == ["fgsm(start=true)", "fgsm(start=false)"]


def test_a_label_is_used_as_it_is_and_leaves_its_namesake_the_name(made):
    planned = made(with_trainers("fgsm", "{name: fgsm, eps: 0.02, label: weak}"))
    assert labels(planned.trainers) == ["fgsm", "weak"]


def test_a_label_on_a_use_that_multiplies_is_followed_by_what_differs(made):
    planned = made(with_trainers("{name: fgsm, eps: [0.01, 0.02], label: weak}"))
    assert labels(planned.trainers) == ["weak(eps=0.01)", "weak(eps=0.02)"]


@pytest.mark.parametrize(
    "trainers",
    [["fgsm", "fgsm"], ["fgsm", "{name: fgsm, eps: 8/255}"], ["fgsm", "{name: pgd, label: fgsm}"]],
)
def test_two_that_would_have_one_label_are_refused(refusal, trainers):
    assert refusal(with_trainers(*trainers)) == ("p.yaml:6: trainers[1]: two trainers would be called 'fgsm'; give one a label")


def test_no_attack_is_called_as_another_condition_of_the_tables(refusal):
    assert refusal(BASE + "attacks: [{name: pgd, eps: 0.01, label: worst}]\n") == (
        "p.yaml:7: attacks[0]: 'worst' means something else in tables; give it another label"
    )
    assert refusal(BASE + "attacks: [{name: pgd, eps: 0.01}]\ncorruptions: [{name: contrast, label: pgd}]\n") == (
        "p.yaml:8: corruptions[0]: an attack and a corruption would both be called 'pgd'; give one a label"
    )


# What is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("attacks: [fgms]", "attacks[0]: no attack 'fgms'; did you mean 'fgsm'?"),
        ("attacks: [{name: fgsm}]", "attacks[0]: fgsm needs 'eps'"),
        ("attacks: [{name: fgsm, epsilon: 0.1}]", "attacks[0]: fgsm needs 'eps', found 'epsilon'"),
        ("attacks: [{name: fgsm, eps: 0.1, step: 3}]", "attacks[0]: fgsm has no setting 'step'; did you mean 'steps'?"),
        ("attacks: [{name: fgsm, eps: [0.1, 8]}]", "cannot exceed 1; did you mean 8/255?"),
        ("attacks: [{name: fgsm, eps: [0.1, 0.2, 0.1]}]", "attacks[0].eps: 0.1 is listed twice"),
        (
            "attacks: [{name: fgsm, eps: 0.1, splits: val}]",
            "attacks[0].splits: expected test or an outside set (nih), got 'val'",
        ),
        (
            "attacks: [{name: fgsm, eps: 0.1, splits: [test, nhi]}]",
            "attacks[0].splits: expected test or an outside set (nih), got 'nhi'; did you mean 'nih'?",
        ),
        ("corruptions: [{name: contrast, severity: [1, 1]}]", "corruptions[0].severity: 1 is listed twice"),
        (
            "corruptions: [{name: contrast, splits: train}]",
            "corruptions[0].splits: expected test or an outside set (nih), got 'train'",
        ),
        ("attacks: [foreign]", "attacks[0]: foreign has no 'eps'; its Params must extend cxr_eval.api.AttackParams"),
        (
            "corruptions: [foreign]",
            "corruptions[0]: foreign has no 'severity'; its Params must extend cxr_eval.api.CorruptionParams",
        ),
        ("train: {seeds: [0, 1, 0]}", "train.seeds: 0 is listed twice"),
        ("explain: {methods: [gradcm]}", "explain.methods[0]: no explainer 'gradcm'; did you mean 'gradcam'?"),
        (
            "explain: {methods: [gradcam], metrics: [{name: sparseness, x: 1}]}",
            "explain.metrics[0]: sparseness has no setting 'x'; it has no settings",
        ),
        ("explain: {methods: [gradcam], split: val}", "explain.split: expected test or an outside set (nih), got 'val'"),
        (
            "explain: {methods: [gradcam], conditions: [cln]}",
            "explain.conditions[0]: no attack 'cln'; see: cxr-eval plugins list attacks",
        ),
        ("explain: {methods: [gradcam], conditions: [{name: clean, eps: 0}]}", "explain.conditions[0]: clean has no settings"),
        ("explain: {methods: [gradcam], conditions: [pgd]}", "explain.conditions[0]: pgd needs 'eps'"),
        (
            "explain: {methods: [gradcam], conditions: [{name: pgd, eps: [0.1, 0.2]}]}",
            "explain.conditions[0].eps: expected one radius, got a list of 2",
        ),
        (
            "explain: {methods: [gradcam], conditions: [{name: pgd, eps: 0.1, splits: nih}]}",
            "explain.conditions[0].splits: explain.split says which images are explained; take this out",
        ),
        (
            "explain: {methods: [gradcam], conditions: [{name: pgd, eps: 0.1, images: 5}]}",
            "explain.conditions[0].images: explain.images says which images are explained; take this out",
        ),
        (
            "explain: {methods: [gradcam], conditions: [clean, clean]}",
            "explain.conditions[1]: two conditions would be called 'clean'; give one a label",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(refusal, added, message):
    lines = refusal(f"{BASE}{added}\n").splitlines()
    assert any(line.startswith("p.yaml:7: ") and line.endswith(message) for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[standard]",
            "[broken]",
            "p.yaml:6: trainers[0]: trainer 'broken' of pkg 1.0 cannot be imported: ModuleNotFound",
        ),
        ("reader: phantom", "reader: phantm", "p.yaml:3: data.train.reader: no reader 'phantm'; did you mean 'phantom'?"),
        ("reader: phantom", "reader: phantom, root: /x", "p.yaml:3: data.train: phantom has no setting 'root'"),
        ("reader: phantom", "reader: phantom, when_missing: fantom", "p.yaml:3: data.train.when_missing: no reader 'fantom'"),
        ("root: /nih", "root: nowhere", "p.yaml:4: data.outside.nih: table: nowhere is not a folder"),
        ("root: /nih", "rot: /nih", "p.yaml:4: data.outside.nih: table needs 'root', found 'rot'"),
        ("/nih", "/nih, key: x", "p.yaml:4: data.outside.nih.key: Input should be a valid UUID"),
        ("nih:", "val:", "p.yaml:4: data.outside.val: val is a part of data.train; call this set something else"),
        ("[small]", "[smal]", "p.yaml:5: models[0]: no model 'smal'; did you mean 'small'?"),
    ],
)
def test_a_plugin_that_is_not_there_or_refuses_is_named_with_its_line(refusal, old, new, message):
    assert refusal(BASE.replace(old, new)).startswith(message)


def test_all_faults_are_listed_by_line(refusal):
    text = BASE.replace("[small]", "[smal]").replace("[standard]", "[{name: fgsm, epsilon: 1}]") + "train: {seeds: [0, 0]}\n"
    assert refusal(text) == (
        "p.yaml:5: models[0]: no model 'smal'; did you mean 'small'?\n"
        "p.yaml:6: trainers[0]: fgsm has no setting 'epsilon'; did you mean 'eps'?\n"
        "p.yaml:7: train.seeds: 0 is listed twice"
    )


def test_a_wrong_set_is_named_as_it_was_given(refusal):
    assert refusal(BASE, "trainers.0=fgsm", "trainers.0.epss=0.1") == (
        "--set trainers.0.epss=0.1: trainers[0]: fgsm has no setting 'epss'; did you mean 'eps'?"
    )


# Conditions and description ----------------------------------------------------------------------------------------------


def test_conditions_are_clean_or_an_attack_with_one_radius(made):
    conditions = "[clean, {name: pgd, eps: 8/255}, {name: pgd, eps: 8/255, steps: 5, label: short}]"
    planned = made(f"{BASE}explain: {{methods: [gradcam], conditions: {conditions}}}\n").conditions
    assert [condition.label for condition in planned] == ["clean", "pgd:8/255", "short:8/255"]
    assert (planned[0].attack, planned[0].eps) == (None, 0.0)
    assert planned[2].attack.settings["steps"] == 5
    assert planned[1].eps == 8 / 255


def test_a_protocol_without_explanations_plans_none(made):
    planned = made(BASE)
    assert planned.explainers == planned.explanation_metrics == planned.conditions == ()


def test_the_description_says_what_will_run(made):
    text = """train: {seeds: [0, 1], epochs: 5}
attacks: [{name: pgd, eps: [0.01, 8/255], splits: [test, nih]}]
corruptions: [{name: contrast, severity: [1, 3]}]
explain: {methods: [gradcam], metrics: [sparseness], conditions: [clean, {name: pgd, eps: 0.01}], images: 20}
"""
    assert describe(made(with_trainers("standard", "fgsm") + text)) == (
        "small: 1 model x 2 trainers x 2 seeds = 4 cells",
        "data         phantom, 224 x 224 pixels, grey; outside: nih (table)",
        "models       small",
        "trainers     standard, fgsm",
        "seeds        0, 1",
        "training     at most 5 epochs, batches of 64, adam, lr 0.001",
        "attack       pgd, eps 0.01, 8/255, on test, nih",
        "corruption   contrast, severity 1, 3, on test",
        "explain      gradcam",
        "             on 20 images of test: clean, pgd:0.01",
        "             measured by sparseness",
    )


# Attacks that build on others --------------------------------------------------------------------------------------------


def test_an_attack_that_comes_after_another_stands_behind_it_in_the_plan(made):
    planned = made(
        BASE
        + "attacks:\n  - {name: pgd, eps: 0.01, after: fgsm}\n  - {name: fgsm, eps: 0.01}\n"
        + "  - {name: fgsm, eps: 0.1, label: last}\n"
    )
    assert [attack.label for attack in planned.attacks] == ["fgsm", "pgd", "last"]
    assert planned.attack_needs["pgd"].after == "fgsm"
    assert planned.attack_needs["fgsm"].after is None
    assert "attack       pgd, eps 0.01, on test, after fgsm" in describe(planned)


def test_a_transfer_attack_names_the_trainer_and_may_name_the_model(made):
    planned = made(
        BASE.replace("trainers: [standard]", "trainers: [standard, fgsm]")
        + "attacks:\n  - {name: fgsm, eps: 0.1, label: a, transfer_from: standard}\n"
        + "  - {name: fgsm, eps: 0.1, label: b, transfer_from: {trainer: standard, model: small}}\n"
    )
    assert (planned.attack_needs["a"].trainer, planned.attack_needs["a"].model) == ("standard", None)
    assert (planned.attack_needs["b"].trainer, planned.attack_needs["b"].model) == ("standard", "small")
    assert "attack       b, eps 0.1, on test, transferred from standard on small" in describe(planned)


def test_a_condition_may_be_a_corruption_of_one_severity(made):
    planned = made(BASE + "explain: {methods: [gradcam], conditions: [clean, {name: contrast, severity: 3}]}\n")
    clean, flat = planned.conditions
    assert (clean.label, clean.attack, clean.corruption) == ("clean", None, None)
    assert (flat.label, flat.severity, flat.attack) == ("contrast:3", 3, None)
    assert flat.corruption.name == "contrast"


AFTER = "attacks:\n  - {name: fgsm, eps: 0.1}\n  - {name: pgd, eps: 0.1, after: fgsm"


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (AFTER + "s}", "p.yaml:9: attacks[1].after: no attack of this protocol is called 'fgsms'; did you mean 'fgsm'?"),
        (AFTER + ", norm: l2}", "p.yaml:9: attacks[1].after: pgd and fgsm must have the same 'norm', got l2 and linf"),
        (AFTER + ", images: 3}", "p.yaml:9: attacks[1].after: pgd and fgsm must have the same 'images', got 3 and None"),
        (
            AFTER + ", goal: hide Mass}",
            "p.yaml:9: attacks[1].after: pgd and fgsm must have the same 'goal', got hide Mass and any",
        ),
        (AFTER + ", splits: [test, nih]}", "p.yaml:9: attacks[1].after: fgsm is not run on 'nih'; add it to its splits"),
        (
            AFTER + ", skip_broken: false}",
            "p.yaml:9: attacks[1].after: pgd: skip_broken: false attacks every image; take it or `after` out",
        ),
        (
            "attacks:\n  - {name: fgsm, eps: 0.1, after: pgd}\n  - {name: pgd, eps: 0.1, after: fgsm}",
            "p.yaml:8: attacks[0]: attacks that wait for each other: fgsm -> pgd -> fgsm; let one of them come first",
        ),
        (
            "attacks: [{name: fgsm, eps: 0.1, transfer_from: standart}]",
            "p.yaml:7: attacks[0].transfer_from: no trainer of this protocol is called 'standart'; did you mean 'standard'?",
        ),
        (
            "attacks: [{name: fgsm, eps: 0.1, transfer_from: {trainer: standard, model: smal}}]",
            "p.yaml:7: attacks[0].transfer_from.model: no model of this protocol is called 'smal'; did you mean 'small'?",
        ),
        (
            "attacks: [{name: fgsm, eps: 0.1, transfer_from: standard}]",
            "p.yaml:7: attacks[0].transfer_from: every network would be attacked from itself; take it out, or name another"
            " trainer or model",
        ),
        (
            "attacks: [{name: stopping, eps: 0.1, transfer_from: standard}]",
            "p.yaml:7: attacks[0].transfer_from: stopping stops where the other network is wrong, and its images hardly"
            " transfer; use pgd",
        ),
        (
            "explain: {methods: [gradcam], references: [edges, edges]}",
            "p.yaml:7: explain.references: edges is listed twice",
        ),
        (
            "attacks: [{name: fgsm, eps: 0.1, label: inside lung}]",
            "p.yaml:7: attacks[0]: 'inside lung' means something else in tables; give it another label",
        ),
        (
            "attacks: [{name: fgsm, eps: 0.1, splits: []}]",
            "p.yaml:7: attacks[0].splits: expected a list of at least 1, got a list of 0",
        ),
        ("attacks: [{name: fgsm, eps: [8/255, 0.031372549]}]", "p.yaml:7: attacks[0].eps: 8/255 is listed twice"),
        (
            "attacks: [{name: linf_only, eps: 0.1, norm: l2}]",
            "p.yaml:7: attacks[0].norm: linf_only keeps to linf radii, got l2; use another attack for this norm",
        ),
        (
            "attacks: [{name: fgsm, eps: 0.1, label: worst(l2)}]",
            "p.yaml:7: attacks[0]: 'worst(l2)' means something else in tables; give it another label",
        ),
        (
            "explain: {methods: [{name: gradcam, label: edges}]}",
            "p.yaml:7: explain.methods[0]: 'edges' means something else in tables; give it another label",
        ),
        (
            "explain: {methods: [gradcam], references: [edgs]}",
            "p.yaml:7: explain.references: expected oracle, random, centre, edges, lungs, constant, randomised, got 'edgs';"
            " did you mean 'edges'?",
        ),
        (
            "evaluate: {against: [standart]}",
            "p.yaml:7: evaluate.against: no trainer of this protocol is called 'standart'; did you mean 'standard'?",
        ),
        (
            "explain: {methods: [gradcam], conditions: [{name: contrast}]}",
            "p.yaml:7: explain.conditions[0].severity: expected one severity, got a list of 5",
        ),
    ],
)
def test_what_attacks_and_explanations_cannot_build_on_is_refused_with_its_line(refusal, added, message):
    assert message in refusal(BASE + added + "\n").splitlines()
