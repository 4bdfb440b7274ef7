"""ART's attacks by name: each runs, keeps its hands off everything, and says why where it cannot."""

import importlib.util
import inspect
import random
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.art import ATTACKS, LEFT_OUT, Art
from cxr_eval.attacks.suite import adversarial
from cxr_eval.models.small_cnn import SmallCNN

QUICK: dict[str, dict[str, Any]] = {
    "AutoAttack": {},
    "AutoConjugateGradient": {"max_iter": 4, "nb_random_init": 1},
    "AutoProjectedGradientDescent": {"max_iter": 4, "nb_random_init": 1},
    "BasicIterativeMethod": {"max_iter": 4},
    "BoundaryAttack": {"max_iter": 5, "num_trial": 3, "sample_size": 3, "init_size": 20},
    "CarliniL2Method": {"max_iter": 3, "binary_search_steps": 3, "initial_const": 10.0, "learning_rate": 0.1},
    "CarliniLInfMethod": {"max_iter": 5, "initial_const": 1.0, "largest_const": 4.0, "learning_rate": 0.1},
    "DeepFool": {"max_iter": 10},
    "ElasticNet": {"max_iter": 4, "binary_search_steps": 2, "initial_const": 10.0, "learning_rate": 0.1},
    "FastGradientMethod": {},
    "HopSkipJump": {"max_iter": 2, "max_eval": 20, "init_eval": 5, "init_size": 20},
    "MomentumIterativeMethod": {"max_iter": 4},
    "NewtonFool": {"max_iter": 5, "eta": 0.5},
    "ProjectedGradientDescent": {"max_iter": 4, "num_random_init": 1},
    "ProjectedGradientDescentNumpy": {"max_iter": 4},
    "ProjectedGradientDescentPyTorch": {"max_iter": 4},
    "RescalingAutoConjugateGradient": {"max_iter": 4, "nb_random_init": 1},
    "SignOPTAttack": {"max_iter": 2, "num_trial": 10, "k": 5, "query_limit": 500},
    "SquareAttack": {"max_iter": 20},
    "ZooAttack": {"max_iter": 3, "nb_parallel": 16, "use_resize": False, "use_importance": False, "learning_rate": 0.3},
}
"""One line an attack, with settings that finish in a second."""

WEAK = {"ZooAttack"}
"""Too short a search here to break anything."""

EPS = 0.5
EPS_OF = {"linf": EPS, "l2": 4.0}

MINIMAL = [name for name, facts in ATTACKS.items() if facts.minimal]


def fragile(classes: int = 3, task: str = "multiclass", size: int = 8) -> tuple[cxr.Classifier, torch.Tensor, torch.Tensor]:
    """A tiny network that answers with every class, images, and the labels that it gives them."""
    torch.manual_seed(1)
    net = SmallCNN(widths=[4, 4, 4, 6]).build(channels=1, classes=classes, size=size)
    classifier = cxr.Classifier(net, input_shape=(1, size, size), nb_classes=classes, device="cpu", task=task)
    x = torch.rand(6, 1, size, size)
    with torch.no_grad():
        net.net[-1].bias -= classifier.logits(x).median(0).values
    logits = classifier.logits(x)
    return classifier, x, (logits > 0).float() if task == "multilabel" else logits.argmax(1)


@pytest.fixture
def multiprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package that ART's AutoAttack imports and, without parallel workers, never uses."""
    if importlib.util.find_spec("multiprocess") is None:
        module = types.ModuleType("multiprocess")
        module.__spec__ = ModuleSpec("multiprocess", None)
        monkeypatch.setitem(sys.modules, "multiprocess", module)


def make(name: str, **settings: Any) -> cxr.Attack:
    return Art.member(name)(**{"eps": EPS, **QUICK[name], **settings})


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in sorted(ATTACKS) for norm in ATTACKS[name].norms])
@pytest.mark.usefixtures("multiprocess")
def test_the_attack_runs_and_leaves_everything_as_it_was(name: str, norm: str, capfd: pytest.CaptureFixture[str]) -> None:
    # ART's SquareAttack divides by 0 in an L2 ball on images of less than 20 pixels
    classifier, x, y = fragile(size=20 if (name, norm) == ("SquareAttack", "l2") else 8)
    classifier.model.train()
    before = x.clone()
    random_state = np.random.RandomState
    numpy_state, python_state, torch_state = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    eps = EPS_OF[norm]
    attacked = adversarial(classifier, x, y, make(name, norm=norm, eps=eps), eps, seed=0, batch_size=4)
    assert attacked.shape == x.shape
    assert attacked.dtype == torch.float32
    change = (attacked - x).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    assert change.max() <= eps * (1 + 1e-5)  # float32
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (classifier.logits(attacked).argmax(1) != y).any() or name in WEAK
    assert classifier.model.training
    assert all(weight.requires_grad and weight.grad is None for weight in classifier.model.parameters())
    assert torch.equal(x, before)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.RandomState is random_state
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"AutoAttack"}))
def test_the_same_seed_gives_the_same_images(name: str) -> None:
    classifier, x, y = fragile()
    attack = make(name)
    first, again = (attack.perturb(classifier, x[:3], y[:3], eps=EPS, seed=4) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", [name for name, facts in ATTACKS.items() if facts.alone])
def test_attacks_that_draw_numbers_image_by_image_give_an_image_the_same_alone(name: str) -> None:
    classifier, x, y = fragile()
    attack = make(name)
    together = attack.perturb(classifier, x[:3], y[:3], eps=EPS, seed=0)
    assert torch.equal(together[2:], attack.perturb(classifier, x[2:3], y[2:3], eps=EPS, seed=0))


def test_every_attack_that_art_has_is_offered_or_left_out_with_a_reason() -> None:
    from art.attacks import EvasionAttack, evasion

    theirs = {name for name, kind in vars(evasion).items() if isinstance(kind, type) and issubclass(kind, EvasionAttack)}
    assert theirs <= set(ATTACKS) | set(LEFT_OUT)
    assert set(ATTACKS) <= theirs
    assert not set(ATTACKS) & set(LEFT_OUT)
    assert set(Art.names()) == set(ATTACKS) == set(QUICK)


def test_settings_are_arts_with_arts_defaults_and_words() -> None:
    fields = Art.member("SquareAttack").Params.model_fields
    assert set(fields) == {*cxr.AttackParams.model_fields, "max_iter", "p_init", "nb_restarts"}
    assert fields["max_iter"].default == 100
    assert fields["p_init"].description == "Initial fraction of elements"
    assert "norm" in Art.member("HopSkipJump").Params.model_fields
    assert all(field.description for name in ATTACKS for field in Art.member(name).Params.model_fields.values())


def test_sources_name_the_paper() -> None:
    assert Art.member("SquareAttack").source == "ART SquareAttack, https://arxiv.org/abs/1912.00049"
    assert all(Art.member(name).source.startswith("ART ") and Art.member(name).__doc__ for name in ATTACKS)


def test_the_step_is_a_quarter_of_the_radius_unless_set() -> None:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    classifier, x, y = fragile()
    for settings, eps, step in (({}, 0.08, 0.02), ({"eps_step": "2/255"}, 0.08, 2 / 255), ({"norm": "l2"}, 6.0, 1.5)):
        ours = make("ProjectedGradientDescentPyTorch", eps=eps, **settings).perturb(classifier, x, y, eps=eps, seed=0)
        norm = 2 if "norm" in settings else np.inf
        arts = ProjectedGradientDescentPyTorch(classifier, norm=norm, eps=eps, eps_step=step, max_iter=4, verbose=False)
        assert np.array_equal(ours.numpy(), arts.generate(x.numpy(), y.numpy()))


@pytest.mark.parametrize("name", [name for name, facts in ATTACKS.items() if facts.findings])
def test_attacks_offered_for_findings_give_our_own_images_there(name: str) -> None:
    from cxr_eval.attacks.gradient import PGD

    classifier, x, y = fragile(4, "multilabel")
    y[0, 1] = torch.nan
    attacked = make(name, max_iter=1, eps_step=0.1, eps=0.1, **({"num_random_init": 0} if "Projected" in name else {}))
    ours = PGD(eps=0.1, steps=1, step=1.0, random_start=False).perturb(classifier, x, y, eps=0.1, seed=0)
    torch.testing.assert_close(attacked.perturb(classifier, x, y, eps=0.1, seed=0), ours)


@pytest.mark.parametrize("name", ["FastGradientMethod", "DeepFool", "SquareAttack"])
def test_attacks_that_would_take_the_largest_finding_for_the_label_are_refused(name: str) -> None:
    classifier, x, y = fragile(4, "multilabel")
    with pytest.raises(cxr.PluginError, match=rf"art/{name}: cannot attack findings .* use pgd, fgsm, or one of art/: Basic"):
        make(name).perturb(classifier, x, y, eps=0.1, seed=0)


@pytest.mark.usefixtures("multiprocess")
@pytest.mark.parametrize(
    ("name", "settings"), [("AutoAttack", {}), ("AutoProjectedGradientDescent", {"loss_type": "difference_logits_ratio"})]
)
def test_the_ratio_loss_is_refused_for_two_classes(name: str, settings: dict[str, str]) -> None:
    classifier, x, y = fragile(2)
    with pytest.raises(cxr.PluginError, match=rf"art/{name}: .* needs at least 3 classes, this network has 2; use art/Auto"):
        make(name, **settings).perturb(classifier, x, y, eps=0.1, seed=0)


@pytest.mark.parametrize("loss", ["cross_entropy", "difference_logits_ratio"])
def test_the_losses_that_art_brings_work_with_three_classes(loss: str) -> None:
    classifier, x, y = fragile()
    attacked = make("AutoProjectedGradientDescent", loss_type=loss).perturb(classifier, x, y, eps=EPS, seed=0)
    assert (classifier.logits(attacked).argmax(1) != y).any()


def test_autoattack_without_the_package_that_it_needs_is_refused_when_the_run_is_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "multiprocess" else find_spec(name))
    with pytest.raises(ValueError, match=r"needs the package 'multiprocess'.*pip install multiprocess"):
        Art.member("AutoAttack")(eps=0.1)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("SquareAttack", {"max_iters": 5}, "max_iters"),
        ("SquareAttack", {"max_iter": 2.5}, "max_iter"),
        ("SquareAttack", {"p_init": 3.0}, r"art/SquareAttack: ART refuses these settings: .*[0, 1]"),
        ("ProjectedGradientDescent", {"max_iter": -1}, "ART refuses these settings"),
        ("ProjectedGradientDescent", {"targeted": True}, "targeted"),
        ("ProjectedGradientDescent", {"norm": 2}, "norm"),
        ("ProjectedGradientDescent", {"eps_step": 8}, "did you mean 8/255"),
        ("AutoProjectedGradientDescent", {"loss_type": "hinge"}, "loss_type"),
        ("HopSkipJump", {"norm": 1}, "norm"),
    ],
)
def test_settings_that_art_does_not_take_are_refused_when_the_run_is_planned(
    name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Art.member(name)(eps=0.1, **settings)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("AdversarialPatch", "patch"),
        ("GeoDA", "working folder"),
        ("DPatch", "patch"),
        ("UniversalPerturbation", "take universal, which makes it on other images"),
    ],
)
def test_an_attack_that_is_left_out_says_why(name: str, reason: str) -> None:
    with pytest.raises(cxr.PluginError, match=f"art/{name}: left out, because it .*{reason}"):
        Art.member(name)


def test_where_art_itself_fails_the_attack_and_the_images_are_named() -> None:
    classifier, x, y = fragile()
    # its first square is as large as the image, and then there is no place left to draw
    with pytest.raises(cxr.PluginError, match=r"art/SquareAttack: ART fails on images of 1 x 8 x 8: ValueError: .*; change"):
        make("SquareAttack", p_init=0.99).perturb(classifier, x, y, eps=0.01, seed=0)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_offers_the_norms_that_arts_own_knows_and_takes_the_first_unless_told(name: str) -> None:
    from art.attacks import evasion

    member = Art.member(name)
    takes = inspect.signature(getattr(evasion, name).__init__).parameters
    assert ("norm" in takes) == (set(member.norms) == {"linf", "l2"})
    assert member.minimal == ("eps" not in takes)
    assert member.Params.model_fields["norm"].default == member.norms[0]
    assert member.norms[0] == "linf" or "searches in no other norm" in member.Params.model_fields["norm"].description


@pytest.mark.parametrize("name", MINIMAL)
def test_an_attack_without_a_radius_gives_wrong_images_or_clean_ones_whatever_the_radius(name: str) -> None:
    classifier, x, y = fragile()
    y[0] = (y[0] + 1) % 3  # wrong without attack
    attack = make(name)
    found = attack.perturb(classifier, x, y, eps=0.01, seed=0)
    moved = (found != x).flatten(1).any(dim=1)
    assert not moved[0]
    assert (classifier.logits(found).argmax(1) != y)[moved].all()
    assert moved.any() or name in WEAK
    assert torch.equal(found, attack.perturb(classifier, x, y, eps=0.5, seed=0))


def test_an_attack_without_a_radius_gives_arts_images_bit_for_bit() -> None:
    from art.attacks.evasion import CarliniL2Method

    classifier, x, y = fragile()
    ours = make("CarliniL2Method").perturb(classifier, x, y, eps=0.5, seed=0)
    arts = CarliniL2Method(classifier, verbose=False, batch_size=len(x), **QUICK["CarliniL2Method"])
    assert np.array_equal(ours.numpy(), arts.generate(x.numpy(), y.numpy()))


@pytest.mark.parametrize(("norm", "arts"), [("linf", np.inf), ("l2", 2)])
def test_hop_skip_jump_searches_in_the_norm_of_the_radius(norm: str, arts: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from art.attacks.evasion import HopSkipJump

    seen = []
    monkeypatch.setattr(HopSkipJump, "generate", lambda self, x, y: seen.append(self.norm) or x)
    classifier, x, y = fragile()
    make("HopSkipJump", norm=norm).perturb(classifier, x[:1], y[:1], eps=0.5, seed=0)
    assert seen == [arts]


def test_an_unknown_attack_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Art.member("SquareAtack")


def test_radius_zero_gives_the_images_back() -> None:
    classifier, x, y = fragile()
    assert torch.equal(make("ProjectedGradientDescent").perturb(classifier, x, y, eps=0.0, seed=0), x)


def test_attacks_say_how_many_gradient_steps_they_take() -> None:
    steps = {name: make(name).steps for name in ("FastGradientMethod", "BasicIterativeMethod", "SquareAttack")}
    assert steps == {"FastGradientMethod": 1, "BasicIterativeMethod": 4, "SquareAttack": 0}
