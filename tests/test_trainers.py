"""The built-in trainers: what they reduce to, and that one step of pgd is one step of ART's Madry trainer."""

import numpy as np
import pytest
import torch
from cxr_eval_noise import NoiseTrainer

import cxr_eval.api as cxr
from cxr_eval.perturb import fgsm, pgd
from cxr_eval.trainers.awp import AWPTrainer
from cxr_eval.trainers.fgsm import FGSMTrainer
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.trainers.trades import TRADESTrainer
from cxr_eval.training import Training

from art.defences.trainer import AdversarialTrainer, AdversarialTrainerMadryPGD  # isort: skip  # after ours, for logging

ALL = [
    (StandardTrainer, {}),
    (FGSMTrainer, {"eps": 0.05}),
    (FGSMTrainer, {"eps": 0.05, "random_start": True}),
    (FGSMTrainer, {"eps": 0.05, "eps_min": 0.01}),
    (FGSMTrainer, {"eps": 0.05, "fraction": 0.5}),
    (PGDTrainer, {"eps": 0.05, "steps": 3}),
    (PGDTrainer, {"eps": 0.05, "steps": 2, "clean_weight": 0.5}),
    (PGDTrainer, {"norm": "l2", "eps": 0.4, "steps": 2}),
    (TRADESTrainer, {"eps": 0.05, "steps": 2, "beta": 1.0}),
    (AWPTrainer, {"eps": 0.05, "steps": 2}),
    (NoiseTrainer, {"sigma": 0.1}),
]
everyone = pytest.mark.parametrize(("trainer", "settings"), ALL, ids=[f"{cls.__name__}-{k}" for k, (cls, _) in enumerate(ALL)])


def trained(toys, trainer, seed=0, model_seed=0, make=None, training=None, **settings):
    """State of a network after two epochs in batches of 7, 7 and 6."""
    x, y = toys.images(20)
    model = toys.build(make or toys.Bumpy, seed=model_seed)
    training = Training(epochs=2, batch_size=7) if training is None else training
    trainer = trainer(toys.ours(model), training=training, seed=seed, **settings)
    trainer.fit(x, y)
    return toys.state(model)


def batch_of(toys, n=6):
    x, y = (torch.as_tensor(v) for v in toys.images(n))
    return cxr.Batch(x, y, torch.arange(n), 0)


def loss_of(toys, trainer, **settings):
    """Loss and gradients of one batch, in evaluation mode so that dropout stays out of the comparison."""
    model = toys.build(toys.Bumpy)
    trainer = trainer(toys.ours(model), **settings)
    model.eval()
    loss = trainer.loss(batch_of(toys))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return loss.detach(), torch.autograd.grad(loss, weights)


@everyone
def test_the_same_seed_gives_the_same_weights(toys, trainer, settings):
    first = trained(toys, trainer, **settings)
    assert toys.same(first, trained(toys, trainer, **settings))
    assert not toys.same(first, trained(toys, trainer, seed=1, **settings))


@everyone
def test_a_loss_is_a_finite_scalar_with_gradient_and_no_trace(toys, trainer, settings):
    model = toys.build(toys.Bumpy)
    trainer = trainer(toys.ours(model), **settings)
    model.train()
    flags = toys.flags(model)
    batch = batch_of(toys)
    before = batch.x.clone()
    with torch.random.fork_rng(devices=[]):
        loss = trainer.loss(batch)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss.requires_grad
    assert toys.flags(model) == flags
    assert torch.equal(batch.x, before)


@everyone
def test_a_trainer_learns_the_toy_images(toys, trainer, settings):
    x, y = toys.images(60)
    model = toys.build(toys.plain)
    training = Training(epochs=25, batch_size=20, optimizer={"lr": 0.02})
    trainer = trainer(toys.ours(model), training=training, **settings)
    trainer.fit(x, y)
    assert (trainer.predict(x).argmax(axis=1) == y).mean() > 0.9
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]


@everyone
def test_bfloat16_and_channels_last_train(toys, trainer, settings):
    x, y = toys.images(60)
    model = toys.build(toys.plain)
    training = Training(epochs=25, batch_size=20, optimizer={"lr": 0.02}, precision="bfloat16", channels_last=True)
    trainer = trainer(toys.ours(model), training=training, **settings)
    trainer.fit(x, y)
    assert (trainer.predict(x).argmax(axis=1) == y).mean() > 0.9
    assert all(weight.dtype == torch.float32 and weight.is_contiguous() for weight in model.parameters())


@everyone
def test_findings_with_unknown_ones_train(toys, trainer, settings):
    x, _ = toys.images(14)
    y = toys.findings(14)
    y[3] = np.nan
    model = toys.build(toys.Bumpy)
    before = toys.state(model)
    trainer = trainer(toys.ours(model, task="multilabel"), training=Training(epochs=1, batch_size=7), **settings)
    trainer.fit(x, y)
    assert np.isfinite(trainer.history[0]["train_loss"])
    assert not toys.same(toys.state(model), before)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def test_pgd_with_radius_zero_is_standard_bit_for_bit(toys):
    standard = trained(toys, StandardTrainer)
    for random_start in (False, True):
        assert toys.same(trained(toys, PGDTrainer, eps=0.0, steps=2, step=0.1, random_start=random_start), standard)
    assert not toys.same(trained(toys, PGDTrainer, eps=0.1), standard)


def test_pgd_with_radius_zero_is_standard_with_balanced_classes_and_smoothing(toys):
    training = Training(epochs=2, batch_size=7, class_weights="balanced", label_smoothing=0.1, schedule={"name": "cosine"})
    assert toys.same(trained(toys, PGDTrainer, eps=0.0, training=training), trained(toys, StandardTrainer, training=training))


def test_noise_without_noise_is_standard_bit_for_bit(toys):
    assert toys.same(trained(toys, NoiseTrainer, sigma=0.0), trained(toys, StandardTrainer))


def test_pgd_with_one_step_trains_on_the_fgsm_images(toys):
    model = toys.build(toys.Bumpy)
    batch = batch_of(toys)
    trainer = PGDTrainer(toys.ours(model), eps=0.05, steps=1, step=0.05, random_start=False)
    model.eval()
    moved = fgsm(model, batch.x, batch.y, eps=0.05)
    assert torch.equal(trainer.loss(batch), torch.nn.functional.cross_entropy(model(moved), batch.y))


@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_with_one_step_and_half_clean_is_half_of_fgsm_bit_for_bit(toys, random_start):
    half = {"eps": 0.05, "random_start": random_start}
    loss, gradients = loss_of(toys, PGDTrainer, steps=1, step=0.05, clean_weight=0.5, **half)
    whole, expected = loss_of(toys, FGSMTrainer, adversarial_weight=1.0, **half)
    assert torch.equal(loss, whole / 2)  # a power of two: exact
    assert all(torch.equal(a, b / 2) for a, b in zip(gradients, expected, strict=True))


def test_a_clean_weight_mixes_the_losses_and_zero_is_the_attacked_one(toys):
    clean, _ = loss_of(toys, StandardTrainer)
    settings = {"eps": 0.05, "steps": 2, "random_start": False}
    attacked, _ = loss_of(toys, PGDTrainer, **settings)
    assert torch.equal(loss_of(toys, PGDTrainer, clean_weight=0.0, **settings)[0], attacked)
    mixed = loss_of(toys, PGDTrainer, clean_weight=0.25, **settings)[0]
    assert mixed.item() == pytest.approx(0.25 * clean.item() + 0.75 * attacked.item(), rel=1e-6)  # float32
    assert attacked > clean


def test_fgsm_adds_its_weighted_loss_to_the_clean_one(toys):
    clean, _ = loss_of(toys, StandardTrainer)
    attacked, _ = loss_of(toys, PGDTrainer, eps=0.05, steps=1, step=0.05, random_start=False)
    found, _ = loss_of(toys, FGSMTrainer, eps=0.05, adversarial_weight=0.3)
    assert found.item() == pytest.approx(clean.item() + 0.3 * attacked.item(), rel=1e-6)  # float32


def test_a_step_of_pgd_is_two_and_a_half_radii_over_the_steps_if_not_given(toys):
    settings = {"eps": 0.05, "steps": 4, "random_start": False}
    assert torch.equal(loss_of(toys, PGDTrainer, **settings)[0], loss_of(toys, PGDTrainer, step=2.5 * 0.05 / 4, **settings)[0])


def test_pgd_in_an_l2_ball_trains_on_the_images_of_that_ball(toys):
    model = toys.build(toys.Bumpy).eval()
    batch = batch_of(toys)
    found = PGDTrainer(toys.ours(model), norm="l2", eps=1.5, steps=3, random_start=False).loss(batch)
    moved = pgd(model, batch.x, batch.y, eps=1.5, step=2.5 * 1.5 / 3, steps=3, norm="l2")
    assert torch.equal(found, torch.nn.functional.cross_entropy(model(moved), batch.y))
    lengths = (moved - batch.x).flatten(1).norm(dim=1)
    assert bool((lengths > 0.05).all())  # far beyond the default radius
    assert bool((lengths < 1.5 + 1e-6).all())  # float32


def test_fgsm_draws_one_radius_a_minibatch_between_its_two(toys):
    model = toys.build(toys.Bumpy).eval()
    batch = batch_of(toys)
    trainer = FGSMTrainer(toys.ours(model), eps_min=0.02, eps=0.1, adversarial_weight=1.0)
    trainer.rng.manual_seed(3)
    found = trainer.loss(batch)
    eps = 0.02 + (0.1 - 0.02) * torch.rand((), generator=torch.Generator().manual_seed(3))
    moved = fgsm(model, batch.x, batch.y, eps=eps)
    loss = torch.nn.functional.cross_entropy
    assert torch.equal(found, loss(model(batch.x), batch.y) + loss(model(moved), batch.y))
    assert not torch.equal(trainer.loss(batch), found)  # the next minibatch has another
    assert trainer.eps_range() == (0.02, 0.1)


def test_fgsm_between_two_equal_radii_is_fgsm_bit_for_bit_and_draws_nothing(toys):
    same = trained(toys, FGSMTrainer, eps=0.05, eps_min=0.05, random_start=True)
    assert toys.same(same, trained(toys, FGSMTrainer, eps=0.05, random_start=True))


def changed_images(toys, n, **settings):
    """Which images were changed, (n,), for every batch that the network saw in training mode."""
    model = toys.build(toys.plain)
    batch = batch_of(toys, n)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    trainer = FGSMTrainer(toys.ours(model), eps=0.05, **settings)
    model.train()
    trainer.loss(batch)
    return [(x != batch.x).flatten(1).any(dim=1) for x in seen]


@pytest.mark.parametrize(("n", "fraction", "expected"), [(6, 0.5, 3), (7, 0.5, 4), (6, 0.01, 1), (6, 0.34, 2), (6, 1.0, 6)])
def test_fgsm_perturbs_the_fraction_of_every_batch_and_passes_it_once(toys, n, fraction, expected):
    changed = changed_images(toys, n, fraction=fraction)
    assert len(changed) == 1
    assert int(changed[0].sum()) == expected  # round(fraction x n), at least one


def test_fgsm_draws_another_part_of_every_batch_from_its_own_generator(toys):
    changed = [changed_images(toys, 20, fraction=0.5, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])


def test_fgsm_on_half_of_a_batch_is_the_mean_loss_of_clean_and_changed_images(toys):
    model = toys.build(toys.plain).eval()
    batch = batch_of(toys)
    trainer = FGSMTrainer(toys.ours(model), eps=0.05, fraction=0.5)
    trainer.rng.manual_seed(5)
    found = trainer.loss(batch)
    chosen = torch.randperm(6, generator=torch.Generator().manual_seed(5))[:3]
    moved = fgsm(model, batch.x, batch.y, eps=0.05)  # each image's gradient has nothing to do with the others'
    mixed = torch.stack([moved[i] if i in chosen else batch.x[i] for i in range(6)])
    assert torch.equal(found, torch.nn.functional.cross_entropy(model(mixed), batch.y))


def test_fgsm_on_all_of_a_batch_is_pgd_with_one_step_bit_for_bit(toys):
    once = trained(toys, PGDTrainer, eps=0.05, steps=1, step=0.05, random_start=False)
    assert toys.same(trained(toys, FGSMTrainer, eps=0.05, fraction=1.0), once)
    once = trained(toys, PGDTrainer, eps=0.05, steps=1, step=0.05, random_start=True)
    assert toys.same(trained(toys, FGSMTrainer, eps=0.05, fraction=1.0, random_start=True), once)


def positives_weigh(beta):
    def loss(logits, y):
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return (losses * torch.where(y == 1, beta, 1.0)).mean()

    return loss


def test_fgsm_on_part_of_a_batch_weighs_positives_by_the_whole_batch(toys):
    """1 of 8 findings is positive, so beta = 7; among the two images that are perturbed it would be 3."""
    model = toys.build(toys.plain, classes=2).eval()
    x, _ = toys.images(4)
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    batch = cxr.Batch(torch.as_tensor(x), y, torch.arange(4), 0)
    training = Training(finding_weights="batch")
    trainer = FGSMTrainer(toys.ours(model, classes=2, task="multilabel"), training=training, eps=0.05, fraction=0.5)
    trainer.rng.manual_seed(2)
    found = trainer.loss(batch)
    chosen = torch.randperm(4, generator=torch.Generator().manual_seed(2))[:2]
    assert 0 in chosen
    mixed = {beta: batch.x.clone() for beta in (3.0, 7.0)}
    for beta, images in mixed.items():
        images[chosen] = fgsm(model, batch.x[chosen], y[chosen], eps=0.05, loss=positives_weigh(beta))
    assert not torch.equal(mixed[3.0], mixed[7.0])
    expected = positives_weigh(7.0)(model(mixed[7.0]), y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)  # float32


def test_a_random_start_comes_from_the_trainers_own_generator(toys):
    model = toys.build(toys.Bumpy).eval()
    batch = batch_of(toys)
    trainer = PGDTrainer(toys.ours(model), eps=0.05, steps=2, seed=4)
    trainer.rng.manual_seed(11)
    found = trainer.loss(batch)
    moved = pgd(model, batch.x, batch.y, eps=0.05, step=2.5 * 0.05 / 2, steps=2, rng=torch.Generator().manual_seed(11))
    assert torch.equal(found, torch.nn.functional.cross_entropy(model(moved), batch.y))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_step_of_pgd_is_one_step_of_arts_madry_trainer(toys, optimizer):
    x, y = toys.images(24)
    states = []
    for kind in ("art", "ours"):
        model = toys.build(toys.Bumpy)
        model.drop.p = 0.0  # its draws are from different streams
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        stepper = toys.sgd(model) if optimizer == "sgd" else torch.optim.Adam(weights, lr=1e-3, eps=1e-3)
        start = toys.state(model)
        classifier = toys.arts(model, optimizer=stepper)
        if kind == "art":
            before = np.random.get_state()
            np.random.seed(0)
            AdversarialTrainerMadryPGD(
                classifier, nb_epochs=1, batch_size=24, eps=0.05, eps_step=0.02, max_iter=4, num_random_init=0
            ).fit(x, np.eye(3, dtype=np.float32)[y])
            np.random.set_state(before)
        else:
            trainer = PGDTrainer(classifier, eps=0.05, step=0.02, steps=4, random_start=False)
            trainer.fit(x, y, batch_size=24, nb_epochs=1)
        states.append(toys.state(model))
    assert not toys.same(states[0], start)
    assert "norm.running_mean" in start
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=1e-6)  # float32; the images' order in the sum differs


def test_the_trainers_are_art_trainers_and_train_beside_arts(toys):
    x, y = toys.images(12)
    model = toys.build(toys.plain)
    trainer = StandardTrainer(toys.arts(model, optimizer=toys.sgd(model)))
    assert isinstance(trainer, AdversarialTrainer.__mro__[1])
    assert trainer.get_classifier() is trainer.classifier
    trainer.fit(x, y, batch_size=4, nb_epochs=1)
    assert len(trainer.history) == 1


@pytest.mark.parametrize(
    ("trainer", "settings", "message"),
    [
        (FGSMTrainer, {"eps": 8}, "did you mean 8/255"),
        (FGSMTrainer, {"epsilon": 0.1}, "has no setting '"),
        (FGSMTrainer, {"adversarial_weight": 0.0}, "expected a number above 0"),
        (FGSMTrainer, {"eps": 0.02, "eps_min": 0.03}, "eps_min 0.03 is above eps 0.02; exchange them, or leave eps_min out"),
        (FGSMTrainer, {"fraction": 0.0}, "expected a number above 0"),
        (FGSMTrainer, {"fraction": 0.5, "adversarial_weight": 1.0}, "leave adversarial_weight out"),
        (PGDTrainer, {"eps": 8}, "did you mean 8/255"),
        (PGDTrainer, {"norm": "l1"}, "'linf' or 'l2'"),
        (TRADESTrainer, {"beta": -1.0}, "expected a number of at least 0"),
        (TRADESTrainer, {"start": "zero"}, "'gaussian' or 'uniform'"),
        (AWPTrainer, {"gamma": -0.1}, "expected a number of at least 0"),
        (AWPTrainer, {"warmup": -1}, "expected a number of at least 0"),
        (PGDTrainer, {"steps": 0}, "expected a number of at least 1"),
        (PGDTrainer, {"clean_weight": 1.0}, "expected a number below 1"),
        (PGDTrainer, {"eps": float("nan")}, "finite number"),
        (NoiseTrainer, {"sigma": -0.1}, "expected a number of at least 0"),
    ],
)
def test_wrong_settings_are_refused_before_training(toys, trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(toys.ours(toys.build(toys.plain)), **settings)


def test_a_radius_may_be_written_as_a_fraction(toys):
    assert PGDTrainer(toys.ours(toys.build(toys.plain)), eps="8/255").params.eps == 8 / 255


@everyone
def test_every_trainer_states_its_source_and_describes_its_settings(trainer, settings):
    assert trainer.source
    assert trainer.__doc__
    assert all(field.description for field in trainer.Params.model_fields.values())
