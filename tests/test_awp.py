"""AWP: one step by hand and as ART's trainer does it; without perturbation, or before its time, it is pgd."""

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.trainers.awp import AWPTrainer
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.training import Training

from art.attacks.evasion import ProjectedGradientDescentPyTorch  # isort: skip  # after ours, for logging
from art.defences.trainer import AdversarialTrainerAWPPyTorch  # isort: skip  # likewise

ATTACK = {"eps": 0.05, "steps": 3, "step": 0.02, "random_start": False}


def trained(toys, trainer, training=None, **settings):
    x, y = toys.images(20)
    model = toys.build(toys.Bumpy)
    training = Training(epochs=2, batch_size=7) if training is None else training
    trainer(toys.ours(model), training=training, **settings).fit(x, y)
    return toys.state(model)


class Linear(torch.nn.Module):
    """Logits W x of an image of two pixels; the bias has one axis and is never perturbed."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
            self.layer.bias.zero_()

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_one_step_on_a_linear_network_by_hand(toys):
    """x = (1, 1), label 0, no radius: logits (3, 4), p = softmax = (0.2689, 0.7311).

    d CE / dW = (p - e0) x = [[-0.7311, -0.7311], [0.7311, 0.7311]], of length 4^0.5 x 0.7311; ||W|| = 5, so with gamma 0.1
    v = 0.1 x 5 / 2 x [[-1, -1], [1, 1]] = [[-0.25, -0.25], [0.25, 0.25]]. At W + v the logits are (2.5, 4.5),
    p = (0.1192, 0.8808), and the step of SGD with lr 1 takes W to W - [[-0.8808, -0.8808], [0.8808, 0.8808]].
    """
    model = Linear()
    classifier = cxr.Classifier(model, input_shape=(1, 1, 2), nb_classes=2, device="cpu")
    trainer = AWPTrainer(classifier, eps=0.0, steps=1, gamma=0.1)
    batch = cxr.Batch(torch.ones(1, 1, 1, 2), torch.tensor([0]), torch.arange(1), 0)
    loss = trainer.step(batch, torch.optim.SGD(model.parameters(), lr=1.0))
    p = 1 / (1 + np.exp(4.5 - 2.5))
    assert loss.item() == pytest.approx(-np.log(p), rel=1e-6)  # float32
    q = 1 - p
    expected = torch.tensor([[3 + q, q], [-q, 4 - q]], dtype=torch.float32)
    torch.testing.assert_close(model.layer.weight.detach(), expected, rtol=0, atol=1e-6)  # float32
    torch.testing.assert_close(model.layer.bias.detach(), torch.tensor([q, -q], dtype=torch.float32), rtol=0, atol=1e-6)


def test_every_layer_moves_by_gamma_of_its_own_length_uphill(toys):
    model = toys.build(toys.Bumpy)
    model.drop.p = 0.0  # the loss is to be the same function twice
    trainer = AWPTrainer(toys.ours(model), gamma=0.05, **ATTACK)
    x, y = (torch.as_tensor(v) for v in toys.images(12))
    batch = cxr.Batch(x, y, torch.arange(12), 0)
    model.train()
    adversarial = trainer.attack(batch)
    moved = trainer.perturbed(adversarial, batch)
    weights = dict(model.named_parameters())
    assert set(moved) == {"conv.weight", "conv2.weight", "head.weight"}  # no bias, no BatchNorm, no frozen weight
    for name, weight in moved.items():
        share = (weight - weights[name]).norm() / weights[name].norm()
        assert share.item() == pytest.approx(0.05, rel=1e-4)  # float32, the difference of near numbers
    loss = torch.nn.functional.cross_entropy(model(adversarial), y)
    assert trainer.loss(batch).item() > loss.item()


def test_a_layer_that_is_frozen_unused_or_flat_stays(toys):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = toys.plain()
            self.unused = torch.nn.Linear(3, 3)
            self.flat = torch.nn.Linear(3, 3)

        def forward(self, x):
            logits = self.body(x)
            return logits + 0 * self.flat(logits)

    model = toys.build(Odd)
    model.body[0].weight.requires_grad_(False)
    trainer = AWPTrainer(toys.ours(model), gamma=0.05, **ATTACK)
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    batch = cxr.Batch(x, y, torch.arange(6), 0)
    moved = trainer.perturbed(batch.x, batch)
    assert set(moved) == {"body.2.weight", "body.5.weight", "flat.weight"}
    assert torch.equal(moved["flat.weight"], model.flat.weight)
    assert bool(torch.isfinite(trainer.loss(batch)))


def test_batchnorm_learns_once_a_step_and_from_the_perturbed_pass(toys):
    model = toys.build(toys.Bumpy)
    model.drop.p = 0.0  # the ascent is to be the same twice
    trainer = AWPTrainer(toys.ours(model), gamma=0.05, **ATTACK)
    x, y = (torch.as_tensor(v) for v in toys.images(12))
    batch = cxr.Batch(x, y, torch.arange(12), 0)
    model.train()
    adversarial = trainer.attack(batch)
    moved = trainer.perturbed(adversarial, batch)
    assert int(model.norm.num_batches_tracked) == 0
    assert not bool(model.norm.running_mean.any())
    with torch.no_grad():
        features = torch.nn.functional.conv2d(adversarial, moved["conv.weight"], model.conv.bias, padding=1)
    trainer.loss(batch)
    assert int(model.norm.num_batches_tracked) == 1
    torch.testing.assert_close(model.norm.running_mean, 0.1 * features.mean(dim=(0, 2, 3)))  # momentum 0.1 from 0


def test_without_gamma_or_before_its_time_it_is_pgd_bit_for_bit(toys):
    settings = {"eps": 0.05, "steps": 2}
    expected = trained(toys, PGDTrainer, **settings)
    assert toys.same(trained(toys, AWPTrainer, gamma=0.0, **settings), expected)
    assert toys.same(trained(toys, AWPTrainer, warmup=2, **settings), expected)
    later = trained(toys, AWPTrainer, warmup=1, **settings)
    assert not toys.same(later, expected)
    assert not toys.same(later, trained(toys, AWPTrainer, **settings))


def test_a_share_of_the_clean_loss_stands_in_both_passes(toys):
    model = toys.build(toys.plain)
    x, y = (torch.as_tensor(v) for v in toys.images(12))
    batch = cxr.Batch(x, y, torch.arange(12), 0)
    trainer = AWPTrainer(toys.ours(model), eps=0.1, steps=2, clean_weight=0.25, random_start=False, gamma=0.5)
    adversarial = trainer.attack(batch)

    def mixture() -> torch.Tensor:
        attacked, clean = (torch.nn.functional.cross_entropy(model(images), y) for images in (adversarial, x))
        return 0.75 * attacked + 0.25 * clean

    layers = {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}
    gradients = torch.autograd.grad(mixture(), list(layers.values()))
    moved = {
        name: weight.detach() + 0.5 * weight.detach().norm() / gradient.norm() * gradient
        for (name, weight), gradient in zip(layers.items(), gradients, strict=True)
    }
    for name, weight in trainer.perturbed(adversarial, batch).items():
        torch.testing.assert_close(weight.detach(), moved[name])
    found = trainer.loss(batch)
    with torch.no_grad():
        for name, weight in layers.items():
            weight.copy_(moved[name])
    torch.testing.assert_close(found.detach(), mixture().detach())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_step_is_one_step_of_arts_awp_trainer(toys, optimizer):
    x, y = toys.images(24)
    states = []
    for kind in ("art", "ours"):
        model = toys.build(toys.plain)
        start = toys.state(model)
        stepper = toys.sgd(model) if optimizer == "sgd" else torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-3)
        classifier = toys.arts(model, optimizer=stepper)
        if kind == "art":
            proxy = toys.build(toys.plain, seed=1)
            before = np.random.get_state()
            np.random.seed(0)
            attack = ProjectedGradientDescentPyTorch(
                classifier, eps=0.05, eps_step=0.02, max_iter=3, num_random_init=0, verbose=False
            )
            # the proxy's step is normalised, so its learning rate makes no difference; a large one loses fewer digits
            proxies = toys.arts(proxy, optimizer=torch.optim.SGD(proxy.parameters(), lr=1.0))
            trainer = AdversarialTrainerAWPPyTorch(classifier, proxies, attack, mode="PGD", gamma=0.05, beta=6.0, warmup=0)
            trainer.fit(x, np.eye(3, dtype=np.float32)[y], batch_size=24, nb_epochs=1)
            np.random.set_state(before)
        else:
            AWPTrainer(classifier, gamma=0.05, **ATTACK).fit(x, y, batch_size=24, nb_epochs=1)
        states.append(toys.state(model))
    model = toys.build(toys.plain)
    PGDTrainer(toys.arts(model, optimizer=toys.sgd(model)), **ATTACK).fit(x, y, batch_size=24, nb_epochs=1)
    assert not toys.same(states[0], start)
    # ART adds v and takes it away again, which rounds twice
    apart = [float((states[0][name] - states[1][name]).abs().max()) for name in start]
    assert max(apart) < 1e-6
    if optimizer == "sgd":
        assert max(float((states[0][name] - weight).abs().max()) for name, weight in model.state_dict().items()) > 1e-4


def test_bfloat16_and_channels_last_train(toys):
    training = Training(epochs=1, batch_size=7, precision="bfloat16", channels_last=True)
    state = trained(toys, AWPTrainer, training=training, gamma=0.05, **ATTACK)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    assert not toys.same(state, trained(toys, PGDTrainer, training=training, **ATTACK))
