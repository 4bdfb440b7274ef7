"""The conformance kit: each check fails on a trainer that breaks its rule, for that reason, and no other check does."""

import importlib.util
import inspect
import random
import re
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
import torch
from cxr_eval_noise import NoiseTrainer

import cxr_eval.testing as kit
from cxr_eval.testing import CHECKS, check_trainer, parametrize_with_checks
from cxr_eval.testing.subject import Check, Subject
from cxr_eval.testing.toys import bright_rows, temptation
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer


def loaded(name, path):
    """A module from a file, known to Python by its name, as an installed plugin's is."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


broken = loaded("broken_trainers", Path(__file__).with_name("broken_trainers.py"))

ART = kit.check_is_an_art_trainer
DESCRIBED = kit.check_describes_itself_and_its_settings
UNKNOWN = kit.check_refuses_unknown_settings
API = kit.check_imports_the_public_api_only
LOSS = kit.check_the_loss_is_a_finite_scalar_with_gradient
VALID = kit.check_shows_the_network_valid_images_only
BATCHNORM = kit.check_batchnorm_learns_in_training_passes_only
DATA = kit.check_leaves_the_callers_data_alone
SEED = kit.check_same_seed_gives_the_same_weights
LABELS = kit.check_labels_in_every_form_give_the_same_weights
ONE = kit.check_trains_on_a_batch_of_one_image
FINDINGS = kit.check_findings_with_unknown_labels_train
READY = kit.check_leaves_the_network_ready_to_use
RESUMES = kit.check_resumes_to_the_same_weights
STATE = kit.check_its_state_survives_saving_and_loading
SCHEDULER = kit.check_a_scheduler_steps_once_an_epoch
VALIDATION = kit.check_never_trains_on_validation_images
LEARNS = kit.check_learns_a_separable_task
ROBUST = kit.check_withstands_attacks_if_it_says_so
GPU = kit.check_works_on_the_gpu

CASES = [
    # trainer, the check that must fail, its reason, the other checks that cannot but fail with it
    ("OtherKeywords", ART, "fit has no x and no y; keep ART's keyword names: x, y, validation_data", ()),
    ("OtherClassifier", ART, r"get_classifier\(\) gives another classifier", ()),
    ("TakesOursAlone", ART, "fails on a stock ART classifier: .*TypeError: ours, please", ()),
    ("PredictsOneNumber", ART, r"expected predict to give logits \(13, 3\), got \(13, 1\)", (LEARNS,)),
    ("NoDocstring", DESCRIBED, "the class has no docstring; say in one sentence", ()),
    ("NoSource", DESCRIBED, "the class has no source; name paper and equation", ()),
    ("Undescribed", DESCRIBED, "the setting 'weight' has no description; give it one with its unit", ()),
    ("BadDefault", DESCRIBED, "not valid by themselves: ValidationError: .* less than or equal to 10", None),
    ("TakesAnything", UNKNOWN, "'no_such_setting' was taken in silence; let Params be a subclass of cxr.Params", ()),
    ("OwnSettings", UNKNOWN, "expected a ValueError for the invented setting 'no_such_setting', got TypeError", ()),
    ("LossPerImage", LOSS, r"expected loss to give a scalar tensor, shape \(\), got shape \(6,\); take the mean", None),
    ("NumberForALoss", LOSS, r"expected loss to give a scalar tensor, shape \(\), got float", None),
    ("InfiniteLoss", LOSS, "expected a finite loss, got inf; look for a division by 0", None),
    ("DetachedLoss", LOSS, "the loss has no gradient; it was detached", None),
    (
        "LossOfTheImages",
        LOSS,
        "reaches no weight of the network; compute the loss from self.model",
        (BATCHNORM, FINDINGS, LEARNS),
    ),
    ("LeavesEvaluationMode", LOSS, "in another mode than it found it; attack inside cxr.frozen", (BATCHNORM,)),
    ("FreezesInTheLoss", LOSS, "leaves weights with another requires_grad; freeze them with cxr.frozen", (READY,)),
    ("BackwardInTheLoss", LOSS, r"leaves a gradient in the weights, .* use torch.autograd.grad", ()),
    ("StepWithoutALoss", LOSS, r"expected a step to give its loss as a scalar tensor, got shape \(6,\)", None),
    ("Unclamped", VALID, r"shown pixels from -0.\d+ to 1.\d+; expected \[0, 1\]: end with .clamp\(0, 1\)", ()),
    ("NotANumber", VALID, r"shown pixels from nan to nan; expected \[0, 1\]", ()),
    ("DoublePrecision", VALID, "was shown images of torch.float64; expected float32", ()),
    ("TooFar", VALID, r"an image 0.04 \(linf\) away from every image of the batch, .* radius 0.02 of eps_range\(\)", ()),
    ("LargestFirst", VALID, r"eps_range gives \[\(0.2, 0.1\)\]; expected the smallest radius first", ()),
    ("AttacksInTrainingMode", BATCHNORM, "learned from 2 forward passes, and the loss is made of 1; an attack", ()),
    ("StepsInTrainingMode", BATCHNORM, "learned from 3 forward passes, and the loss is made of 2; an attack", ()),
    ("MeasuresInTrainingMode", BATCHNORM, "learned from 2 forward passes, and the loss is made of 1; an attack", ()),
    ("TrainsInEvaluationMode", BATCHNORM, "in one step BatchNorm learned nothing, so the network is trained in evaluation", ()),
    ("MeasuresBetweenEpochs", BATCHNORM, "learned from 2 forward passes outside of a step; run the network inside", ()),
    ("WritesOnImages", DATA, "fit changed the validation images of the caller; change batch.x", ()),
    ("WritesOnLabels", DATA, "fit changed the validation labels of the caller", ()),
    ("Borrows", DATA, "fit fails on read-only arrays: .*ValueError: .*read-only", ()),
    (
        "NumpysNoise",
        SEED,
        "fit drew from numpy's global random generator, or seeded it; draw from self.rng",
        (LABELS, RESUMES, VALIDATION),
    ),
    ("PythonsNoise", SEED, "fit drew from Python's global random generator", (LABELS, RESUMES, VALIDATION)),
    ("TorchsNoise", SEED, "a step drew from torch's global random generator, so that dropout is another", ()),
    (
        "Unseeded",
        SEED,
        r"two fits with seed 3 gave different weights \(\w+.\w+ differs by up to \d",
        (LABELS, RESUMES, VALIDATION),
    ),
    ("OneHotOnly", LABELS, r"labels given as a tensor gave other weights than as an array \(", ()),
    ("ArraysOnly", LABELS, "fit fails on labels given as a tensor: .*AttributeError", ()),
    ("Deviates", ONE, "training on 2 images in batches of 1 fails; .*: TrainingError: .* not finite at epoch 1", ()),
    ("Halves", ONE, "training on 2 images in batches of 1 fails; a deviation, a part of a batch or a squeeze", ()),
    ("CrossEntropyAlways", FINDINGS, "training on findings fails; take the loss from self.criterion .*: TrainingError", ()),
    ("NotMasked", FINDINGS, "training on findings fails; .*: TrainingError: .* not finite", ()),
    ("UnknownGradient", FINDINGS, "after training on findings conv.weight is not finite; unknown findings are NaN", ()),
    ("DeafToFindings", FINDINGS, "training on findings changed no weight", ()),
    ("TakesFindings", FINDINGS, "leaves 'multilabel' out, and yet a trainer for findings can be made", ()),
    ("RefusesWithoutAWord", FINDINGS, "a message that does not name the task 'multilabel': no", ()),
    ("LeavesTrainingMode", READY, r"after fit \['the network itself'\] is in training mode", ()),
    ("LeavesFrozen", READY, r"after fit \['conv.weight'\] has another requires_grad than before", ()),
    ("SwapsTheNetwork", READY, "the classifier holds another network than the one that was handed over", ()),
    ("Forgets", RESUMES, r"gave other weights than one without interruption \(conv.weight differs by up to", ()),
    ("CountsCalls", RESUMES, "has another history than one without interruption", ()),
    ("DropsTheCheckpoint", RESUMES, "fit wrote no checkpoint; hand checkpoint and progress on to super", ()),
    ("ReadsBackwards", RESUMES, "cannot go on from its own checkpoint; state_dict may hold .*: KeyError: 'radii'", (STATE,)),
    ("StateOfNothing", STATE, "expected state_dict to give a dict, got NoneType", ()),
    ("StateOfCode", STATE, "cannot be saved and read again without running code; keep tensors", (RESUMES,)),
    ("ReadsBackwards", STATE, "load_state_dict fails on what state_dict gave: .*KeyError: 'radii'", (RESUMES,)),
    ("TakesNothingBack", STATE, "does not take back what state_dict gave: 'seen' differs; per-image values are rows", ()),
    ("StepsEachBatch", SCHEDULER, "expected the learning rates 0.08, 0.04, 0.02 in three epochs, got 0.08, 0.01, 0.00125", ()),
    ("DropsTheScheduler", SCHEDULER, "in three epochs, got 0.08, 0.08, 0.08, and then 0.08 instead of 0.01", ()),
    ("TrainsOnAll", VALIDATION, "was shown a validation image in training mode", ()),
    ("LearnsFromTheirNumber", VALIDATION, r"other validation images gave other weights although the last epoch is kept \(", ()),
    ("Unlearns", LEARNS, r"right on 0.\d\d of its own training images, expected at least 0.9", ()),
    ("Saturates", ROBUST, "the network is right on 0.00 .* of standard training on 0.00", ()),
    (
        "Pretends",
        ROBUST,
        r"under PGD of radius 0.0313725 \(linf\) the network is right on 0.00 .* of standard training on 0.00",
        (),
    ),
]
PROVED = [check for _, check, _, _ in CASES]


def failed(trainer, settings=None):
    """Rules that the trainer breaks, with the messages."""
    return {outcome.rule: outcome.message for outcome in check_trainer(trainer, settings) if outcome.status == "failed"}


@pytest.mark.parametrize(("name", "check", "message", "others"), CASES, ids=[f"{n}-{c.rule}" for n, c, _, _ in CASES])
def test_a_check_fails_on_a_trainer_that_breaks_its_rule(name, check, message, others):
    trainer = getattr(broken, name)
    with pytest.raises(AssertionError, match=message) as caught:
        check(trainer)
    assert str(caught.value).startswith(f"{name}: {check.rule}: ")
    found = failed(trainer)
    assert re.search(message, found[check.rule])
    if others is not None:  # None: nothing can be trained at all
        assert set(found) == {check.rule, *(other.rule for other in others)}


def test_every_check_is_proved_on_a_broken_trainer():
    assert set(CHECKS) - set(PROVED) == {API, GPU}  # each has a test of its own below


def test_a_trainer_that_is_not_ours_fails_without_a_traceback():
    with pytest.raises(AssertionError, match=r"expected a subclass of cxr_eval.api.Trainer, .* class Stranger\(cxr.Trainer\)"):
        ART(broken.Stranger)
    assert ART.rule in failed(broken.Stranger)
    assert SEED.rule in failed(broken.Stranger)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1.0, 2.0),
        (1, 1.0),
        ("a", "b"),
        ([1, 2], [1]),
        ([1, 2], [1, 3]),
        ({"a": 1}, {"b": 1}),
        ({"a": [1.0]}, {"a": [float("nan")]}),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.tensor([0.0, float("nan")])),
    ],
)
def test_states_that_differ_anywhere_are_told_apart(first, second):
    with pytest.raises(AssertionError, match=r"does not take back what state_dict gave: '[ra]\w*' differs"):
        STATE(type("Drifting", (broken.Drifts,), {"between": (first, second)}))
    for value in (first, second):
        STATE(type("Steady", (broken.Drifts,), {"between": (value, value)}))


# sound trainers


@parametrize_with_checks(NoiseTrainer)
def test_the_example_plugin_is_sound(check):
    check()


@parametrize_with_checks([(PGDTrainer, {"eps": 0.05, "steps": 3, "clean_weight": 0.5}), StandardTrainer])
def test_built_in_trainers_are_sound(check):
    check()


@parametrize_with_checks(
    [
        broken.Sound,
        (broken.Sound, {"weight": 2.0}),
        broken.Counted,
        broken.Distilled,
        broken.FindingsOnly,
        broken.ClassesOnly,
        broken.OwnStep,
        broken.Masked,
        (broken.InEuclid, {"eps": 0.05}),
        (broken.InEuclid, {"norm": "l2", "eps": 0.3}),
        (broken.InEuclid, {"norm": "l2", "eps": 0.5}),
    ]
)
def test_unusual_trainers_are_sound(check):
    check()


def test_a_ball_in_l2_is_measured_in_l2():
    with pytest.raises(AssertionError, match=r"an image 0.33\d* \(l2\) away from every image of the batch, .* radius 0.3 of"):
        VALID(broken.TooFarInEuclid, {"norm": "l2", "eps": 0.3})
    VALID(broken.InEuclid, {"norm": "l2", "eps": 0.3})


# imports


@pytest.mark.parametrize(
    ("line", "imported"),
    [
        ("from cxr_eval.fitting import Batch", "cxr_eval.fitting"),
        ("from cxr_eval import trainer", "cxr_eval.trainer"),
        ("import cxr_eval.perturb", "cxr_eval.perturb"),
        ("import cxr_eval", "cxr_eval"),
        ("def later():\n    from cxr_eval.perturb import pgd", "cxr_eval.perturb"),
        ("import importlib\nimportlib.import_module('cxr_eval.store')", "cxr_eval.store"),
        ("import torch, cxr_eval.types as t", "cxr_eval.types"),
    ],
)
def test_imports_of_anything_but_the_public_api_are_found(tmp_path, line, imported):
    file = tmp_path / "plugin_inside.py"
    body = 'class Inside(cxr.Trainer):\n    """Sound."""\n\n    def loss(self, batch):\n        return batch.x.sum()\n'
    file.write_text(f"import cxr_eval.api as cxr\n{line}\n\n{body}", encoding="utf-8")
    number = 1 + line.count("\n") + 1
    with pytest.raises(AssertionError, match=rf"plugin_inside.py:{number} imports {imported}, which may change without notice"):
        API(loaded("plugin_inside", file).Inside)


def test_imports_of_the_public_api_and_of_other_packages_are_allowed(tmp_path):
    file = tmp_path / "plugin_outside.py"
    allowed = [
        "import cxr_eval.api",
        "from cxr_eval import api",
        "from cxr_eval.api import Batch",
        "import cxr_eval.testing",
    ]
    body = "class Outside(cxr_eval.api.Trainer):\n    def loss(self, batch):\n        return batch.x.sum()\n"
    file.write_text("\n".join([*allowed, "import torch", "import cxr_eval_noise", body]), encoding="utf-8")
    API(loaded("plugin_outside", file).Outside)


@pytest.mark.parametrize("line", ["from . import radii", "from .radii import half", "import plugin_package.radii"])
def test_the_other_files_of_a_plugins_package_are_read_too(tmp_path, monkeypatch, line):
    package = tmp_path / "plugin_package"
    package.mkdir()
    body = "class Split(cxr.Trainer):\n    def loss(self, batch):\n        return batch.x.sum()\n"
    (package / "__init__.py").write_text(f"import cxr_eval.api as cxr\n{line}\n\n{body}", encoding="utf-8")
    (package / "radii.py").write_text("from cxr_eval.params import Radius\n\nhalf = Radius\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("plugin_package", "plugin_package.radii"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    module = importlib.import_module("plugin_package")
    with pytest.raises(AssertionError, match=r"radii.py:1 imports cxr_eval.params"):
        API(module.Split)


def test_files_of_a_package_may_import_each_other(tmp_path, monkeypatch):
    package = tmp_path / "plugin_in_circles"
    package.mkdir()
    body = "class Round(cxr.Trainer):\n    def loss(self, batch):\n        return batch.x.sum()\n"
    (package / "__init__.py").write_text(f"import cxr_eval.api as cxr\nfrom . import radii\n\n{body}", encoding="utf-8")
    (package / "radii.py").write_text("import plugin_in_circles\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    API(importlib.import_module("plugin_in_circles").Round)


def test_a_class_without_a_source_file_is_skipped():
    made = type("Made", (broken.Sound,), {"__module__": "no_such_module"})
    with pytest.raises(SkipTest, match="Made was defined without a source file"):
        API(made)


# the GPU


def test_without_a_gpu_its_check_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SkipTest, match="this machine has no GPU"):
        GPU(broken.Sound)
    outcome = check_trainer(broken.Sound)[-1]
    assert (outcome.rule, outcome.status, outcome.message) == ("works on the GPU", "skipped", "this machine has no GPU")


def test_a_gpu_that_fails_is_a_failed_check(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(AssertionError, match=r"training on the GPU fails; make new tensors with .*: DeviceError"):
        GPU(broken.Sound)


@pytest.mark.gpu
def test_tensors_on_the_cpu_fail_on_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    with pytest.raises(AssertionError, match=r"training on the GPU fails; make new .*device"):
        GPU(broken.OnTheProcessor)
    assert not failed(broken.OnTheProcessor).keys() - {GPU.rule}
    GPU(broken.Sound)


# what is skipped


def test_who_does_not_claim_to_withstand_attacks_is_not_attacked():
    with pytest.raises(SkipTest, match=r"Sound does not claim to withstand attacks \(adversarial = False\)"):
        ROBUST(broken.Sound)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.0}, r"radii above 0 and up to 0.15 \(linf\), the settings say 0$"),
        ({"eps": 0.2}, r"up to 0.15 \(linf\), the settings say 0.2"),
        ({"eps": 0.8, "norm": "l2"}, r"up to 0.75 \(l2\), the settings say 0.8"),
    ],
)
def test_a_radius_that_the_toy_images_cannot_show_is_skipped(settings, message):
    with pytest.raises(SkipTest, match=message):
        ROBUST(broken.InEuclid, settings)


# the doors


def test_outcomes_come_in_the_order_of_the_checks_each_with_its_rule():
    outcomes = check_trainer(broken.Sound)
    assert [outcome.rule for outcome in outcomes] == [check.rule for check in CHECKS]
    assert {outcome.rule for outcome in outcomes if outcome.status == "skipped"} <= {ROBUST.rule, GPU.rule}
    assert all(outcome.status == "ok" and not outcome.message for outcome in outcomes[:-2])


def test_rules_and_checks_have_names_of_their_own_and_every_check_is_public():
    assert len({check.rule for check in CHECKS}) == len({check.__name__ for check in CHECKS}) == len(CHECKS) == 20
    assert {name for name in kit.__all__ if name.startswith("check_")} - {"check_trainer"} == {c.__name__ for c in CHECKS}
    assert all(getattr(kit, check.__name__) is check and inspect.getdoc(check) for check in CHECKS)


def test_an_error_that_no_rule_foresees_is_a_failed_outcome_in_one_line():
    found = failed(broken.Sound, {"weight": 0.0})
    assert found[SEED.rule].startswith("ValueError: ")
    assert not any("\n" in message for message in found.values())


def test_a_check_keeps_the_cause_of_a_failure():
    with pytest.raises(AssertionError) as caught:
        ART(broken.TakesOursAlone)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_test_is_named_by_trainer_settings_and_rule():
    mark = parametrize_with_checks([broken.Sound, (PGDTrainer, {"eps": 0.05, "steps": 2})]).mark
    names, cases = mark.args
    assert names == "check"
    assert len(cases) == 2 * len(CHECKS)
    assert cases[0].id == "Sound: is an ART trainer"
    assert cases[len(CHECKS)].id == "PGDTrainer(eps=0.05, steps=2): is an ART trainer"
    one = parametrize_with_checks(broken.Sound, settings={"weight": 2.0}).mark.args[1]
    assert one[0].id == "Sound(weight=2.0): is an ART trainer"


def test_settings_reach_the_trainer():
    seen = []

    def look(subject: Subject) -> None:
        seen.append(subject.trainer(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))).params.weight)

    Check("settings arrive", look)(broken.Sound, {"weight": 2.5})
    assert seen == [2.5]


def test_the_kit_is_imported_without_pytest():
    script = "import sys, cxr_eval.testing; print([name for name in ('pytest', '_pytest') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_the_kit_leaves_the_global_random_states_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    check_trainer(PGDTrainer, {"steps": 2})
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


# the toy images


def test_the_toy_images_keep_to_their_range_and_reach_both_ends():
    x, y = bright_rows(30)
    assert (x.min(), x.max(), x.dtype) == (0.0, 1.0, np.float32)
    assert np.bincount(y).tolist() == [10, 10, 10]
    rows = x[:, 0, 1:7:2, 2:].mean(axis=2)  # rows 1, 3 and 5: the class's is brighter by 0.4
    assert (rows.argmax(axis=1) == y).all()


@pytest.mark.parametrize("eps", [0.001, 8 / 255, 0.15])
def test_the_tempting_feature_is_always_right_and_fainter_than_the_radius(eps):
    x, y = temptation(40, eps)
    assert x.min() >= 0
    assert x.max() <= 1
    chequered = (np.indices((6, 8)).sum(axis=0) % 2) * 2 - 1
    faint, plain = (x[:, 0, 2:] - 0.5) * chequered, x[:, 0, :2, :4] - 0.5
    sign = 2 * y - 1
    np.testing.assert_allclose(faint, 0.3 * eps * sign[:, None, None] * np.ones((6, 8)), atol=1e-7)  # float32 near 0.5
    np.testing.assert_allclose(np.abs(plain), 3 * eps, atol=1e-7)
    assert (np.sign(plain[:, 0, 0]) == sign).mean() == 0.9
    assert y.mean() == 0.5
