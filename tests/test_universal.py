"""The universal perturbation: closed form on a linear network, the same for every image, clipped losses, refusals."""

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import right
from cxr_eval.attacks.universal import Universal
from tests.test_fmn import Linear, grey, lengths, trained
from tests.toys import images, ours

NORMS = ("linf", "l2")


def made(
    classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, eps: float, norm: str = "linf", seed: int = 0, **more: object
) -> Universal:
    attack = Universal(eps=eps, norm=norm, **more)
    attack.craft(classifier, x, y, eps=eps, seed=seed)
    return attack


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("more", [{}, {"step": 0.5}, {"epochs": 1, "batch_size": 7}])
def test_against_one_class_of_a_linear_network_it_is_the_closed_form(norm: str, more: dict[str, float]) -> None:
    net, eps = Linear(), 0.1
    attack = made(ours(net, classes=2), grey(30), torch.ones(30).long(), eps, norm, **more)
    # z_1 - z_0 = (w_1 - w_0) . x + b falls fastest along -(w_1 - w_0), or along its signs
    w = (net.w[1] - net.w[0]).detach().reshape(1, 8, 8)
    best = -eps * w.sign() if norm == "linf" else -eps * w / w.norm()
    torch.testing.assert_close(attack.perturbation, best, rtol=1e-4, atol=1e-6)  # float32


@pytest.mark.parametrize("norm", NORMS)
def test_every_image_gets_the_same_perturbation_whatever_others_are_attacked(norm: str) -> None:
    classifier, x, y = trained()
    attack = made(classifier, x[:20], y[:20], 0.05, norm)
    shown = grey(8)
    attacked = attack.perturb(classifier, shown, torch.zeros(8).long(), eps=0.05, seed=0)
    torch.testing.assert_close(attacked - shown, attack.perturbation.expand(8, -1, -1, -1), rtol=0, atol=1e-6)  # float32
    again = attack.perturb(classifier, shown[3:4], torch.ones(1).long(), eps=0.05, seed=9)
    assert torch.equal(again, attacked[3:4])


@pytest.mark.parametrize("norm", NORMS)
def test_it_keeps_to_the_ball_and_to_0_1(norm: str) -> None:
    classifier, x, y = trained()
    eps = 0.3 if norm == "linf" else 2.0
    attack = made(classifier, x, y, eps, norm, step=1.5)
    assert float(lengths(attack.perturbation[None], norm)) <= eps * (1 + 1e-5)  # float32
    attacked = attack.perturb(classifier, x, y, eps=eps, seed=0)
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_it_breaks_more_other_images_than_noise_of_the_same_size() -> None:
    classifier, x, y = trained()
    attack = made(classifier, *(torch.as_tensor(part) for part in images(100, seed=2)), 0.25)
    broken = (~right(classifier.logits(attack.perturb(classifier, x, y, eps=0.25, seed=0)), y, "multiclass")).sum()
    noise = [
        (x + 0.25 * torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)).sign()).clamp(0, 1)
        for seed in range(10)
    ]
    by_noise = [(~right(classifier.logits(each), y, "multiclass")).sum() for each in noise]
    assert broken > max(by_noise)
    assert broken >= 10


def test_an_image_whose_loss_is_above_the_clip_counts_for_nothing() -> None:
    net = Linear()
    net.w.data = torch.stack((torch.zeros(64), torch.ones(64)))
    net.b.data = torch.tensor([0.0, -32.0])  # z_1 - z_0 = sum(x) - 32
    classifier = ours(net, classes=2)
    x = torch.full((2, 1, 8, 8), 0.55)  # z_1 - z_0 = 3.2: probability of class 1 is 0.961
    y = torch.tensor([1, 0])  # losses 0.040 and 3.24, pulls 0.039 down and 0.961 up
    free = made(classifier, x, y, 0.01, clip=100.0)
    clipped = made(classifier, x, y, 0.01, clip=1.0)
    torch.testing.assert_close(free.perturbation, torch.full((1, 8, 8), 0.01))
    torch.testing.assert_close(clipped.perturbation, torch.full((1, 8, 8), -0.01))


def test_findings_that_are_unknown_do_not_count() -> None:
    net, eps = Linear(3), 0.05
    y = torch.full((12, 3), torch.nan)
    y[:, 1] = 1.0
    y[0] = torch.nan
    attack = made(ours(net, classes=3, task="multilabel"), grey(12), y, eps)
    torch.testing.assert_close(attack.perturbation, -eps * net.w[1].detach().sign().reshape(1, 8, 8))


def test_the_seed_decides_the_order_and_everything_is_left_as_it_was() -> None:
    classifier, x, y = trained()
    classifier.model.train()
    state, before = torch.get_rng_state(), x.clone()
    first, again, other = (made(classifier, x, y, 0.1, seed=seed, batch_size=3, norm="l2").perturbation for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert classifier.model.training
    assert all(weight.requires_grad and weight.grad is None for weight in classifier.model.parameters())


def test_without_a_gradient_the_perturbation_is_zero() -> None:
    net = Linear()
    net.w.data.zero_()
    for norm in NORMS:
        attack = made(ours(net, classes=2), grey(4), torch.zeros(4).long(), 0.1, norm)
        assert torch.equal(attack.perturbation, torch.zeros(1, 8, 8))


def test_before_it_is_made_nothing_can_be_attacked() -> None:
    attack, x = Universal(eps=0.1), grey(2)
    assert attack.perturbation is None
    with pytest.raises(cxr.PluginError, match="universal: the perturbation has not been made; call craft with other images"):
        attack.perturb(ours(Linear(), classes=2), x, torch.zeros(2).long(), eps=0.1, seed=0)
    assert torch.equal(attack.perturb(ours(Linear(), classes=2), x, torch.zeros(2).long(), eps=0.0, seed=0), x)


def test_for_another_radius_or_size_it_must_be_made_again() -> None:
    classifier, x, y = trained()
    attack = made(classifier, x, y, 0.1)
    with pytest.raises(cxr.PluginError, match=r"made for radius 0\.1 and images of 1 x 8 x 8, asked for 0\.2 and 1 x 8 x 8"):
        attack.perturb(classifier, x, y, eps=0.2, seed=0)
    with pytest.raises(cxr.PluginError, match=r"asked for 0\.1 and 1 x 4 x 8; call craft again"):
        attack.perturb(classifier, x[:, :, :4], y, eps=0.1, seed=0)
    attack.craft(classifier, x, y, eps=0.2, seed=0)
    assert attack.perturb(classifier, x, y, eps=0.2, seed=0).shape == x.shape


def test_it_cannot_be_made_of_no_images() -> None:
    classifier, x, y = trained()
    with pytest.raises(cxr.PluginError, match="universal: expected other images to make the perturbation on, got none"):
        made(classifier, x[:0], y[:0], 0.1)


def test_it_says_that_it_is_made_on_other_images() -> None:
    assert Universal.crafted
    assert Universal.norms == NORMS
    assert not Universal.minimal


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch_size": 0}, {"clip": 0.0}, {"step": np.nan}, {"norm": "l1"}])
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Universal(eps=0.1, **settings)
