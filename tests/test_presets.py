"""Three strengths: what they are made of, that each attack sees only what is left, closed forms, and AutoAttack's count."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.attacks.apgd import APGD
from cxr_eval.attacks.gradient import FGSM, margin, right
from cxr_eval.attacks.presets import Quick, Standard, Strong
from cxr_eval.attacks.square import Square
from cxr_eval.attacks.suite import attack_outcomes

SIDE = 10
DUAL = {"linf": 1, "l2": 2}
PRESETS = {"quick": Quick, "standard": Standard, "strong": Strong}


def linear(classes: int, task: str = "multiclass", seed: int = 0) -> cxr.Classifier:
    """Logits w_k.(x - 0.5) of images 4 x 4."""
    layer = torch.nn.Linear(16, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 16, generator=torch.Generator().manual_seed(seed)))
        layer.bias.copy_(-0.5 * layer.weight.sum(dim=1))
    net = torch.nn.Sequential(torch.nn.Flatten(), layer)
    return cxr.Classifier(net, input_shape=(1, 4, 4), nb_classes=classes, device="cpu", task=task)


def middling(n: int = 60) -> torch.Tensor:
    """Images whose pixels are so far from 0 and 1 that only the ball bounds an attack."""
    return 0.4 + 0.2 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def drawn(n: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed pattern for each class, in noise."""
    pattern = torch.rand(classes, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    noise = torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return (0.375 + 0.25 * pattern[y] + 0.15 * noise).clamp(0, 1), y


def trained(classes: int, eps: float) -> cxr.Classifier:
    """A small network that tells the patterns apart; trained on images attacked within eps, where it is not 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1, stride=2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * SIDE * SIDE // 4, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, classes),
        )
    optimizer, (x, y) = torch.optim.Adam(net.parameters(), 3e-3), drawn(1000, classes, seed=1)
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        batch = torch.randint(len(x), (64,), generator=rng)
        images = cxr.pgd(net, x[batch], y[batch], eps=eps, step=eps / 2, steps=3 if eps else 0)
        optimizer.zero_grad()
        functional.cross_entropy(net(images), y[batch]).backward()
        optimizer.step()
    return cxr.Classifier(net, input_shape=(1, SIDE, SIDE), nb_classes=classes, device="cpu")


def robust(classifier: cxr.Classifier, attack: cxr.Attack, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    (eps,) = attack.params.eps
    return right(classifier.logits(attack.perturb(classifier, x, y, eps=eps, seed=0)), y, classifier.task)


def names(attack: cxr.Attack, classifier: cxr.Classifier) -> tuple[str, ...]:
    return tuple(name for name, _ in attack.stages(classifier))


@pytest.mark.parametrize("classes", [2, 3, 4, 11])
def test_quick_and_standard_are_the_same_attacks_for_every_network(classes: int) -> None:
    for task in ("multiclass", "multilabel"):
        assert names(Quick(eps=0.1), linear(classes, task)) == ("fgsm", "pgd")
        assert names(Standard(eps=0.1), linear(classes, task)) == ("apgd_ce", "apgd_margin")


@pytest.mark.parametrize(
    ("classes", "task", "goal", "middle", "losses"),
    [
        (2, "multiclass", "any", ("apgd_ce", "apgd_margin"), ["ce", "margin"]),
        (3, "multiclass", "any", ("apgd_ce", "apgd_dlr", "apgd_targeted"), ["ce", "dlr", "targeted_margin"]),
        (4, "multiclass", "any", ("apgd_ce", "apgd_dlr", "apgd_targeted"), ["ce", "dlr", "targeted_dlr"]),
        (14, "multilabel", "any", ("apgd_ce", "apgd_margin", "apgd_targeted"), ["ce", "margin", "targeted_margin"]),
        (14, "multilabel", "hide Mass", ("apgd_ce", "apgd_margin"), ["ce", "margin"]),
    ],
)
def test_strong_takes_the_losses_that_the_network_has_classes_for(
    classes: int, task: str, goal: str, middle: tuple[str, ...], losses: list[str]
) -> None:
    classifier, attack = linear(classes, task), Strong(eps=0.1, goal=goal)
    assert names(attack, classifier) == ("fgsm", *middle, "fmn", "square")
    searches = [stage for _, stage in attack.stages(classifier) if isinstance(stage, APGD)]
    assert [stage.params.loss for stage in searches] == losses
    for stage in searches:
        stage.check(classifier)  # refuses none
        assert stage.params.targets == 9


@pytest.mark.parametrize("preset", PRESETS.values())
def test_every_attack_has_the_radii_the_norm_and_the_goal_of_the_whole(preset: type[cxr.Attack]) -> None:
    attack = preset(eps=[0.5, 2.0], norm="l2", goal="hide Mass", images=7, splits=["test", "outside"], skip_broken=False)
    for _, stage in attack.stages(linear(3, "multilabel")):
        for name in cxr.AttackParams.model_fields:
            assert getattr(stage.params, name) == getattr(attack.params, name)
        assert "l2" in stage.norms
    assert preset.norms == ("linf", "l2")


@pytest.mark.parametrize(("preset", "steps"), [(Quick, 10), (Standard, 50), (Strong, 100)])
def test_a_preset_takes_as_many_steps_as_its_longest_search(preset: type[cxr.Attack], steps: int) -> None:
    attack = preset(eps=0.1)
    assert attack.steps == steps
    assert steps == max(getattr(stage, "steps", 0) for _, stage in attack.stages(linear(4)))


def test_queries_are_those_of_the_square_attack_and_the_only_setting() -> None:
    _, square = Strong(eps=0.1, queries=77).stages(linear(4))[-1]
    assert isinstance(square, Square)
    assert square.params.queries == 77
    assert Strong(eps=0.1).params.queries == 5000
    for preset, own in ((Quick, set()), (Standard, set()), (Strong, {"queries"})):
        assert set(preset.Params.model_fields) - set(cxr.AttackParams.model_fields) == own


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("preset", ["standard", "strong"])
def test_two_linear_classes_an_image_falls_exactly_within_eps_times_the_dual_norm(preset: str, norm: str) -> None:
    classifier, x = linear(2, seed=4), middling()
    logits, weight = classifier.logits(x), classifier.model[1].weight.detach()
    y = logits.argmax(dim=1)
    distance = -margin(logits, y, "multiclass") / (weight[1] - weight[0]).norm(p=DUAL[norm])
    eps = float(distance.median())
    settings = {"queries": 50} if preset == "strong" else {}
    clear = (distance - eps).abs() > 1e-3 * eps
    assert clear.sum() >= 55
    assert torch.equal(
        robust(classifier, PRESETS[preset](eps=eps, norm=norm, **settings), x, y)[clear], (distance > eps)[clear]
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_three_linear_findings_an_image_falls_exactly_with_its_nearest_known_finding(norm: str) -> None:
    classifier, x = linear(3, "multilabel", seed=4), middling()
    logits, weight = classifier.logits(x), classifier.model[1].weight.detach()
    y = (logits > 0).float()
    y[::4, 2] = torch.nan
    distance = torch.where(torch.isnan(y), torch.inf, logits.abs() / weight.norm(p=DUAL[norm], dim=1)).amin(dim=1)
    eps = float(distance.median())
    clear = (distance - eps).abs() > 1e-3 * eps
    assert clear.sum() >= 55
    assert torch.equal(robust(classifier, Strong(eps=eps, norm=norm, queries=50), x, y)[clear], (distance > eps)[clear])


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, *kinds: type[cxr.Attack]) -> Iterator[list[tuple[str, int]]]:
    """Which attack was shown how many images."""
    shown: list[tuple[str, int]] = []
    with monkeypatch.context() as patch:
        for kind in kinds:
            perturb = kind.perturb

            def watch(self, classifier, x, y, *, eps, seed, perturb=perturb):
                shown.append((getattr(self.params, "loss", type(self).__name__), len(x)))
                return perturb(self, classifier, x, y, eps=eps, seed=seed)

            patch.setattr(kind, "perturb", watch)
        yield shown


def test_each_attack_sees_what_none_before_it_has_broken_and_none_runs_when_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier, x = linear(4, seed=1), middling()
    y = classifier.logits(x).argmax(dim=1)
    alone = robust(classifier, FGSM(eps=0.03), x, y)
    assert 0 < alone.sum() < 60
    with watched(monkeypatch, FGSM, APGD, Square) as shown:
        left = robust(classifier, Strong(eps=0.03, queries=20), x, y)
    counts = [count for _, count in shown]
    assert [name for name, _ in shown] == ["FGSM", "ce", "dlr", "targeted_dlr", "Square"]
    assert counts[:2] == [60, int(alone.sum())]
    assert counts == sorted(counts, reverse=True)
    assert left.sum() <= counts[-1]
    with watched(monkeypatch, FGSM, APGD, Square) as shown:
        assert not robust(classifier, Strong(eps=0.45), x, (y + 1) % 4).any()  # wrong without attack
    assert shown[0] == ("FGSM", 60)
    assert len(shown) <= 2  # one step may set a few right


def test_what_is_not_broken_ends_where_the_nearest_wrong_answer_leads_most() -> None:
    classifier, x = linear(4, seed=1), middling()
    y, eps = classifier.logits(x).argmax(dim=1), 0.005
    attack = Strong(eps=eps, queries=20)
    ended = margin(classifier.logits(attack.perturb(classifier, x, y, eps=eps, seed=0)), y, "multiclass")
    left = ended < 0
    assert left.sum() > 30
    each = []
    for _, stage in attack.stages(classifier):
        found = cxr.project(stage.perturb(classifier, x, y, eps=eps, seed=0), x, eps)
        each.append(margin(classifier.logits(found), y, "multiclass"))
    torch.testing.assert_close(ended[left], torch.stack(each).amax(dim=0)[left], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("preset", PRESETS)
def test_images_stay_in_the_ball_also_those_of_attacks_that_do_not_know_it(preset: str, norm: str) -> None:
    classifier = linear(3)
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    settings = {"queries": 20} if preset == "strong" else {}
    attacked = PRESETS[preset](eps=0.05, norm=norm, **settings).perturb(classifier, x, torch.arange(20) % 3, eps=0.05, seed=0)
    change = (attacked - x).flatten(1)
    assert (change.abs().amax(dim=1) if norm == "linf" else change.norm(dim=1)).max() <= 0.05 + 1e-6  # float32
    assert attacked.min() >= 0
    assert attacked.max() <= 1 + 1e-6  # float32


def test_the_suite_says_which_attack_broke_an_image_and_finds_what_the_preset_finds() -> None:
    classifier, x = linear(4, seed=1), middling()
    y = classifier.logits(x).argmax(dim=1)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(60)], "patient": [f"p{k}" for k in range(60)]})
    images = cxr.ImageSet(x.numpy(), np.arange(60), y.numpy(), table, tuple("abcd"), "test")
    attack = Strong(eps=0.03, queries=20)
    outcomes = attack_outcomes(classifier, images, np.arange(60), attack, name="strong", batch_size=60, seed=0)
    assert set(outcomes["by"]) - {""} <= {f"strong {name}" for name in names(attack, classifier)}
    assert (outcomes["by"] == "strong fgsm").sum() == 60 - int(robust(classifier, FGSM(eps=0.03), x, y).sum())
    assert outcomes["robust"].to_numpy().tolist() == robust(classifier, attack, x, y).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "trained_with"), [(4, 0.0), (4, 0.03), (10, 0.0), (10, 0.03)])
def test_strong_leaves_as_many_images_robust_as_autoattack(classes: int, trained_with: float) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    classifier, (x, y), eps = trained(classes, trained_with), drawn(200, classes, seed=2), 0.05
    with torch.random.fork_rng(devices=[]):
        theirs = torchattacks.AutoAttack(classifier.model, norm="Linf", eps=eps, version="standard", n_classes=classes, seed=0)
        for attack in theirs._autoattack.attacks[:3]:
            attack.steps = 100  # as in the paper; it takes 10 unless told
        theirs._autoattack.attacks[3].n_queries = 500
        standing = right(classifier.logits(theirs(x, y)), y, "multiclass")
    ours = robust(classifier, Strong(eps=eps, queries=500), x, y)
    assert 10 < standing.sum() < 190
    assert abs(int(ours.sum()) - int(standing.sum())) <= 1
