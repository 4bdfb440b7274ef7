"""FGSM and PGD: closed form on a linear network, ART bit for bit, restarts, seeds."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import FGSM, PGD, right
from cxr_eval.attacks.seeds import batch_seed, image_seeds, uniform_noise, uniform_start
from cxr_eval.models.small_cnn import SmallCNN


class Linear(torch.nn.Module):
    """Two classes, margin w.x + b."""

    def __init__(self, seed: int = 0, pixels: int = 16) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.w = torch.nn.Parameter(torch.randn(pixels, generator=rng))
        self.b = torch.nn.Parameter(-0.5 * self.w.detach().sum())

    def margin(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.w + self.b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = self.margin(x)
        return torch.stack((-margin / 2, margin / 2), dim=1)


def small(classes: int = 3, task: str = "multiclass") -> cxr.Classifier:
    torch.manual_seed(0)
    net = SmallCNN(widths=[4, 6, 6, 8]).build(channels=1, classes=classes, size=16)
    return cxr.Classifier(net, input_shape=(1, 16, 16), nb_classes=classes, device="cpu", task=task)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.floats(0.001, 0.1))
def test_on_a_linear_network_an_image_falls_exactly_if_its_margin_is_within_eps_times_the_l1_norm(
    seed: int, eps: float
) -> None:
    net = Linear(seed)
    classifier = cxr.Classifier(net, input_shape=(1, 4, 4), nb_classes=2, device="cpu")
    # pixels far from 0 and 1, so that only the ball bounds the attack
    x = 0.4 + 0.2 * torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    margin = net.margin(x).detach()
    y = (margin > 0).long()
    reach = eps * net.w.detach().abs().sum()
    clear = (margin.abs() - reach).abs() > 1e-4  # float32 decides the others
    for attack in (FGSM(eps=eps), PGD(eps=eps, steps=5), PGD(eps=eps, steps=5, random_start=False)):
        attacked = attack.perturb(classifier, x, y, eps=eps, seed=0)
        falls = net(attacked).argmax(1) != y
        assert torch.equal(falls[clear], (margin.abs() < reach)[clear])


@pytest.mark.parametrize("eps", [0.01, 8 / 255, 0.3])
def test_fgsm_gives_arts_images_bit_for_bit(eps: float) -> None:
    classifier = small()
    x, y = torch.rand(6, 1, 16, 16), torch.arange(6) % 3
    ours = FGSM(eps=eps).perturb(classifier, x, y, eps=eps, seed=0)
    assert np.array_equal(ours.numpy(), FastGradientMethod(classifier, eps=eps).generate(x.numpy(), y.numpy()))


@pytest.mark.parametrize("eps", [0.01, 8 / 255, 0.3])
def test_pgd_without_random_start_gives_arts_images_bit_for_bit(eps: float) -> None:
    classifier = small()
    x, y = torch.rand(6, 1, 16, 16), torch.arange(6) % 3
    ours = PGD(eps=eps, steps=7, random_start=False).perturb(classifier, x, y, eps=eps, seed=0)
    arts = ProjectedGradientDescentPyTorch(classifier, eps=eps, eps_step=2.5 / 7 * eps, max_iter=7, verbose=False)
    assert np.array_equal(ours.numpy(), arts.generate(x.numpy(), y.numpy()))


def test_pgd_with_one_step_as_long_as_the_radius_is_fgsm_bit_for_bit() -> None:
    classifier = small()
    x, y = torch.rand(6, 1, 16, 16), torch.arange(6) % 3
    one = PGD(eps=0.05, steps=1, step=1.0, random_start=False).perturb(classifier, x, y, eps=0.05, seed=0)
    assert torch.equal(one, FGSM(eps=0.05).perturb(classifier, x, y, eps=0.05, seed=0))


@pytest.mark.parametrize("attack", [FGSM(eps=0.1), PGD(eps=0.1, steps=4, restarts=2)])
def test_attacked_images_stay_in_the_ball_and_in_0_1_and_the_model_is_left_as_it_was(attack: cxr.Attack) -> None:
    classifier = small()
    classifier.model.train()
    x = torch.rand(5, 1, 16, 16)
    before, weights = x.clone(), [weight.clone() for weight in classifier.model.parameters()]
    attacked = attack.perturb(classifier, x, torch.tensor([0, 1, 2, 0, 1]), eps=0.1, seed=0)
    assert (attacked - x).abs().max() <= 0.1 + 1e-6  # float32
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert torch.equal(x, before)
    assert classifier.model.training
    assert all(weight.requires_grad and weight.grad is None for weight in classifier.model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(weights, classifier.model.parameters(), strict=True))


def test_the_seed_decides_the_random_start_and_the_global_generator_is_left_alone() -> None:
    classifier, x, y = small(), torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    state = torch.get_rng_state()
    attack = PGD(eps=0.05, steps=2)
    first, again, other = (attack.perturb(classifier, x, y, eps=0.05, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_starts_at_the_same_place_alone_and_in_any_batch() -> None:
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(uniform_noise(x, 3, 1)[2:4], uniform_noise(x[2:4], 3, 1))
    assert image_seeds(x, 1)[3] == image_seeds(x[3:], 1)[0]
    assert len({*image_seeds(x, 1), *image_seeds(x, 2), batch_seed(x, 1), batch_seed(x[1:], 1)}) == 12
    assert uniform_noise(x, 0).abs().max() <= 1


class Trap(torch.nn.Module):
    """One pixel p; wrong in a narrow pit that the gradient leads away from, unless the search starts in it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = x.flatten(1)[:, 0]
        margin = torch.where((p > 0.54) & (p < 0.56), -1 - 0 * p, 1 + (p - 0.5))
        return torch.stack((margin, -margin), dim=1)


def test_more_restarts_find_more_and_a_broken_image_is_kept() -> None:
    classifier = cxr.Classifier(Trap(), input_shape=(1, 1, 1), nb_classes=2, device="cpu")
    x, y = 0.5 + 1e-3 * torch.rand(30, 1, 1, 1), torch.zeros(30, dtype=torch.long)
    broken = []
    for restarts in (1, 4, 16):
        attack = PGD(eps=0.1, steps=1, step=1e-6, restarts=restarts)
        attacked = attack.perturb(classifier, x, y, eps=0.1, seed=0)
        broken.append(~right(classifier.logits(attacked), y, "multiclass"))
    assert broken[0].sum() < broken[1].sum() < broken[2].sum()
    assert (broken[0] <= broken[1]).all()  # a later restart never mends what an earlier one broke
    assert (broken[1] <= broken[2]).all()


def test_where_no_restart_breaks_an_image_the_one_with_the_highest_loss_is_kept() -> None:
    classifier = small()
    x = torch.rand(6, 1, 16, 16)
    y = classifier.logits(x).argmax(1)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    best = torch.full((6,), -torch.inf)
    for restarts in (1, 2, 5):
        attacked = PGD(eps=1e-4, steps=1, restarts=restarts).perturb(classifier, x, y, eps=1e-4, seed=0)
        now = loss(classifier.logits(attacked), y)
        assert (now >= best - 1e-6).all()  # float32
        best = now


@pytest.mark.parametrize(("restarts", "passes"), [(1, 4), (3, 3 * (4 + 1))])
def test_pgd_judges_its_last_images_only_where_it_has_restarts_to_choose_from(restarts: int, passes: int) -> None:
    classifier, x = small(), torch.rand(6, 1, 16, 16)
    y = classifier.logits(x).argmax(1)
    seen: list[int] = []
    with classifier.model.register_forward_hook(lambda _, given, __: seen.append(len(given[0]))):
        PGD(eps=1e-6, steps=4, restarts=restarts).perturb(classifier, x, y, eps=1e-6, seed=0)  # breaks nothing
    assert seen == [6] * passes


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_of_restarts_that_break_nothing_each_image_keeps_the_one_whose_own_loss_is_highest_one_by_one(task: str) -> None:
    classifier, x = small(4, task), torch.rand(8, 1, 16, 16)
    logits = classifier.logits(x)
    y = logits.argmax(1) if task == "multiclass" else (logits > 0).float()
    if task == "multilabel":
        y[::2, 0] = torch.nan
    attacked = PGD(eps=1e-3, steps=2, step=0.25, restarts=4).perturb(classifier, x, y, eps=1e-3, seed=0)
    ends = [
        cxr.pgd(
            classifier.model,
            x,
            y,
            eps=1e-3,
            step=0.25e-3,
            steps=2,
            loss=classifier.loss,
            start=uniform_start(x, 1e-3, "linf", 0, restart),
        )
        for restart in range(4)
    ]
    with torch.no_grad():
        losses = torch.stack(
            [
                torch.stack([classifier.loss(answer[i : i + 1], y[i : i + 1]) for i in range(8)])
                for answer in map(classifier.model, ends)
            ]
        )
    assert len(set(losses.argmax(dim=0).tolist())) > 1
    expected = torch.stack([ends[best][i] for i, best in enumerate(losses.argmax(dim=0).tolist())])
    assert torch.equal(attacked, expected)


def test_restarts_are_compared_by_any_loss_image_by_image() -> None:
    loss = torch.nn.MultiMarginLoss()
    classifier = cxr.Classifier(small().model, loss, input_shape=(1, 16, 16), nb_classes=3, device="cpu")
    x, y = torch.rand(3, 1, 16, 16), torch.arange(3)
    logits = classifier.logits(x)
    expected = [loss(logits[i : i + 1], y[i : i + 1]).item() for i in range(3)]
    assert cxr.image_losses(loss, logits, y).tolist() == expected
    assert PGD(eps=0.1, steps=2, restarts=2).perturb(classifier, x, y, eps=0.1, seed=0).shape == x.shape


def test_a_finding_that_is_unknown_is_neither_attacked_nor_judged() -> None:
    classifier = small(4, "multilabel")
    x = torch.rand(3, 1, 16, 16)
    y = (classifier.logits(x) > 0).float()
    unknown = y.clone()
    unknown[:, 1:] = torch.nan
    for attack in (FGSM(eps=0.2), PGD(eps=0.2, steps=3)):
        attacked = attack.perturb(classifier, x, unknown, eps=0.2, seed=0)
        assert torch.isfinite(attacked).all()
        moved = classifier.logits(attacked)[:, 0] - classifier.logits(x)[:, 0]
        assert (moved * (1 - 2 * y[:, 0]) > 0).all()  # away from the label of the one known finding


def test_right_judges_labels_findings_and_broken_outputs() -> None:
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    assert right(logits, torch.tensor([1, 1, 0, 0]), "multiclass").tolist() == [True, False, False, False]
    findings = torch.tensor([[1.0, 0.0], [1.0, torch.nan], [1.0, 1.0]])
    assert right(torch.tensor([[1.0, -1.0]] * 3), findings, "multilabel").tolist() == [True, True, False]


def test_a_restart_stays_where_it_is_if_the_loss_is_nan() -> None:
    class NotANumber(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] * torch.nan

    classifier = cxr.Classifier(NotANumber(), input_shape=(1, 2, 2), nb_classes=2, device="cpu")
    attacked = PGD(eps=0.1, steps=1).perturb(classifier, torch.rand(3, 1, 2, 2), torch.zeros(3).long(), eps=0.1, seed=0)
    assert attacked.shape == (3, 1, 2, 2)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": 0.1, "restarts": 3, "random_start": False}, "3 restarts without random_start are the same search"),
        ({"eps": 0.1, "steps": 0}, "steps"),
        ({"eps": 0.1, "step": 0.0}, "step"),
        ({"steps": 3}, "eps"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(**settings_)


def test_attacks_skip_broken_images_unless_told_otherwise() -> None:
    assert FGSM(eps=0.1).params.skip_broken
    assert not PGD(eps=0.1, skip_broken=False).params.skip_broken


def test_attacks_say_how_many_gradient_steps_they_take() -> None:
    assert FGSM(eps=0.1).steps == 1
    assert PGD(eps=0.1, steps=7).steps == 7
