"""TRADES: its images are those of the published search, its step is ART's, its loss is eq. 5 by hand; beta 0 is standard."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.trainers.trades import TRADESTrainer
from cxr_eval.training import Training

from art.defences.trainer import AdversarialTrainerTRADESPyTorch  # isort: skip  # after ours, for logging


def batch_of(toys, n=12):
    x, y = (torch.as_tensor(v) for v in toys.images(n))
    return cxr.Batch(x, y, torch.arange(n), 0)


def trained(toys, trainer, make=None, training=None, **settings):
    x, y = toys.images(20)
    model = toys.build(make or toys.Bumpy)
    training = Training(epochs=2, batch_size=7) if training is None else training
    trainer(toys.ours(model), training=training, **settings).fit(x, y)
    return toys.state(model)


class Brightness(torch.nn.Module):
    """Logits (w s, 0) of an image whose pixels sum to s."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        seen = self.weight * x.flatten(1).sum(dim=1)
        return torch.stack([seen, torch.zeros_like(seen)], dim=1)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def divergence(z, moved):
    """KL of two Bernoulli variables with the logits z and moved."""
    p, q = sigmoid(z), sigmoid(moved)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_the_loss_of_two_images_is_eq_5_by_hand(toys):
    """Grey 0.25 and 0.5 on 64 pixels, w = 1/16: z = 1 and 2. With eps 1/8 all pixels together move z by 64 x 1/8 / 16 = 0.5.

    KL grows on both sides of z, and the starting noise decides the side.
    """
    model = Brightness(1 / 16)
    x = torch.cat([torch.full((1, 1, 8, 8), 0.25), torch.full((1, 1, 8, 8), 0.5)])
    batch = cxr.Batch(x, torch.tensor([0, 1]), torch.arange(2), 0)
    trainer = TRADESTrainer(toys.ours(model, classes=2), eps=0.125, steps=4, step=0.125, beta=6.0, seed=1)
    found = trainer.loss(batch)
    trainer.rng.manual_seed(1)
    sides = torch.sign((trainer.attack(x) - x).flatten(1).sum(dim=1)).tolist()
    cross_entropy = [-math.log(sigmoid(1)), -math.log(1 - sigmoid(2))]
    divergences = [divergence(1, 1 + 0.5 * sides[0]), divergence(2, 2 + 0.5 * sides[1])]
    expected = sum(cross_entropy) / 2 + 6 * sum(divergences) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)  # float32, sums of 64 pixels
    assert trainer.logged()["divergence"] == pytest.approx(sum(divergences) / 2, rel=1e-5)
    moved = (trainer.attack(x) - x).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.125))


def test_findings_diverge_as_bernoulli_variables_by_hand(toys):
    """Logits z = (1, 0) of one image; the second never moves. Averaged over findings as the loss is, so halved."""
    model = Brightness(1 / 16)
    x = torch.full((1, 1, 8, 8), 0.25)
    batch = cxr.Batch(x, torch.tensor([[1.0, float("nan")]]), torch.arange(1), 0)
    trainer = TRADESTrainer(toys.ours(model, classes=2, task="multilabel"), eps=0.125, steps=4, step=0.125, beta=2.0, seed=1)
    found = trainer.loss(batch)
    trainer.rng.manual_seed(1)
    side = float(torch.sign((trainer.attack(x) - x).sum()))
    expected = -math.log(sigmoid(1)) + 2 * divergence(1, 1 + 0.5 * side) / 2  # an unknown finding has no loss
    assert found.item() == pytest.approx(expected, rel=1e-5)  # float32, sums of 64 pixels


def test_the_gradient_flows_through_both_predictions_by_hand(toys):
    """d KL / dw = s p (1 - p) (z - z') + s' (q - p): the first part is that of the clean prediction.

    One image of grey 0.25, label 0: s = 16, w = 1/16, z = 1; s' = 16 +- 8 with eps 1/8.
    """
    model = Brightness(1 / 16)
    x = torch.full((1, 1, 8, 8), 0.25)
    trainer = TRADESTrainer(toys.ours(model, classes=2), eps=0.125, steps=2, step=0.125, beta=6.0, seed=1)
    (found,) = torch.autograd.grad(trainer.loss(cxr.Batch(x, torch.tensor([0]), torch.arange(1), 0)), [model.weight])
    trainer.rng.manual_seed(1)
    s = float(trainer.attack(x).sum())
    assert abs(s - 16) == pytest.approx(8)
    p, q = sigmoid(1), sigmoid(s / 16)
    kept = 16 * p * (1 - p) * (1 - s / 16)
    assert abs(6 * kept) > 1
    expected = 16 * (p - 1) + 6 * (kept + s * (q - p))
    assert found.item() == pytest.approx(expected, rel=1e-5)  # float32, sums of 64 pixels


def searched(model, x):
    """The published search written out: noise of 0.001, sign steps of 0.01 along KL(p || q), the ball of 0.05, then [0, 1]."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    moved = (x + 0.001 * noise).clamp(0, 1)
    p = functional.softmax(model(x), dim=1).detach()
    for _ in range(6):
        moved = moved.detach().requires_grad_(True)
        (p * (p.log() - functional.log_softmax(model(moved), dim=1))).sum().backward()
        moved = (moved + 0.01 * moved.grad.sign()).detach()
        moved = torch.min(torch.max(moved, x - 0.05), x + 0.05).clamp(0, 1)
    return moved


def from_torchattacks(model, x, y):
    """Its TPGD; not among the packages of the tests, because it pins an old `requests`."""
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # it draws its noise from the global generator
        return torchattacks.TPGD(model, eps=0.05, alpha=0.01, steps=6)(x, y)


@pytest.mark.parametrize("make", ["plain", "Bumpy"])
@pytest.mark.parametrize(
    "theirs", [lambda model, x, y: searched(model, x), from_torchattacks], ids=["written out", "torchattacks"]
)
def test_its_images_are_those_of_the_search_as_published(toys, make, theirs):
    model = toys.build(getattr(toys, make)).eval()
    with torch.no_grad():  # an untrained network's p - q is smaller than its rounding, which would decide the gradient's sign
        next(module for module in model.modules() if isinstance(module, torch.nn.Linear)).weight.mul_(10)
    batch = batch_of(toys)
    ours = TRADESTrainer(toys.ours(model), step=0.01, eps=0.05, steps=6)
    ours.rng.manual_seed(7)
    expected = theirs(model, batch.x, batch.y)
    torch.testing.assert_close(ours.attack(batch.x), expected, rtol=0, atol=1e-6)  # another order of the clamps
    assert float((expected - batch.x).abs().min(dim=1).values.max()) > 0.04


@pytest.mark.parametrize(("norm", "eps", "step"), [("linf", 0.05, 0.01), ("l2", 0.5, 0.1)])
@pytest.mark.parametrize("start", ["gaussian", "uniform"])
def test_the_attack_raises_the_divergence_within_the_ball(toys, norm, eps, step, start):
    model = toys.build(toys.Bumpy).eval()
    batch = batch_of(toys)
    trainer = TRADESTrainer(toys.ours(model), norm=norm, eps=eps, step=step, steps=10, start=start)
    with torch.no_grad():
        clean = model(batch.x)
        random = cxr.random_start(batch.x, eps, torch.Generator().manual_seed(0), norm)
        found = [float(trainer.divergence(clean, model(x))) for x in (batch.x, random, trainer.attack(batch.x))]
    assert found[0] == pytest.approx(0, abs=1e-7)  # float32
    assert found[2] > 2 * found[1]
    change = (trainer.attack(batch.x) - batch.x).flatten(1)
    assert float(change.norm(dim=1, p=2 if norm == "l2" else float("inf")).max()) <= eps + 1e-6  # float32


def test_a_step_is_two_and_a_half_radii_over_the_steps_if_not_given(toys):
    batch = batch_of(toys)
    found = []
    for settings in ({}, {"step": 2.5 * 0.05 / 4}):
        trainer = TRADESTrainer(toys.ours(toys.build(toys.plain)), eps=0.05, steps=4, **settings)
        found.append(trainer.attack(batch.x))
    assert torch.equal(*found)


def test_without_beta_it_is_standard_bit_for_bit_and_draws_nothing(toys):
    assert toys.same(trained(toys, TRADESTrainer, beta=0.0), trained(toys, StandardTrainer))
    trainer = TRADESTrainer(toys.ours(toys.build(toys.plain)), beta=0.0)
    before = trainer.rng.get_state()
    trainer.loss(batch_of(toys))
    assert torch.equal(trainer.rng.get_state(), before)


def test_without_a_radius_only_batchnorm_sees_a_difference(toys):
    """KL(p || p) = 0 and its gradient is 0: without BatchNorm and dropout the weights are those of standard training."""
    still, standard = (
        trained(toys, trainer, make=toys.plain, **settings)
        for trainer, settings in ((TRADESTrainer, {"eps": 0.0, "step": 0.01}), (StandardTrainer, {}))
    )
    for name, tensor in still.items():
        torch.testing.assert_close(tensor, standard[name], rtol=0, atol=1e-5)  # float32: p - q is not exactly 0 in its gradient


class Given:
    """An attack for ART that returns images made before, whatever the order it asks in."""

    def __init__(self, x, adversarial):
        self.x, self.adversarial = x, adversarial

    def generate(self, x, y=None):
        rows = [int(np.abs(self.x - image).sum(axis=(1, 2, 3)).argmin()) for image in x]
        return self.adversarial[rows]


def test_one_step_is_one_step_of_arts_trades_trainer(toys, monkeypatch):
    x, y = toys.images(24)
    states = []
    for kind in ("art", "ours"):
        model = toys.build(toys.Bumpy)
        model.drop.p = 0.0  # its draws are from different streams
        classifier = toys.arts(model, optimizer=toys.sgd(model))
        start = toys.state(model)
        trainer = TRADESTrainer(classifier, eps=0.05, steps=3, beta=6.0, start="gaussian")
        given = Given(x, trainer.attack(torch.as_tensor(x)).numpy())
        if kind == "art":
            before = np.random.get_state()
            np.random.seed(0)
            arts = AdversarialTrainerTRADESPyTorch(classifier, given, beta=6.0)
            arts.fit(x, np.eye(3, dtype=np.float32)[y], batch_size=24, nb_epochs=1)
            np.random.set_state(before)
        else:
            monkeypatch.setattr(trainer, "attack", lambda x, given=given: torch.as_tensor(given.generate(x.numpy())))
            trainer.fit(x, y, batch_size=24, nb_epochs=1)
        states.append(toys.state(model))
    assert not toys.same(states[0], start)
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=1e-6)  # float32; the images' order in the sum differs


def test_bfloat16_attacks_and_trains(toys):
    training = Training(epochs=1, batch_size=7, precision="bfloat16", channels_last=True)
    state = trained(toys, TRADESTrainer, training=training, eps=0.05, steps=2)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    exact = trained(toys, TRADESTrainer, training=Training(epochs=1, batch_size=7), eps=0.05, steps=2)
    assert not toys.same(state, exact)


def test_findings_whose_labels_are_all_unknown_still_diverge(toys):
    """No label stands in the divergence, so it has a gradient where the loss has none."""
    model = toys.build(toys.plain)
    x, _ = toys.images(6)
    batch = cxr.Batch(torch.as_tensor(x), torch.full((6, 3), float("nan")), torch.arange(6), 0)
    trainer = TRADESTrainer(toys.ours(model, task="multilabel"), eps=0.05, steps=3)
    loss = trainer.loss(batch)
    weights = list(model.parameters())
    assert loss.item() > 0
    assert any(bool(gradient.any()) for gradient in torch.autograd.grad(loss, weights))
