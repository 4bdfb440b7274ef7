"""ART's trainers by name: ART's own step, with its faults put right; and our trainers in plain ART code."""

import inspect
import random
from typing import Any

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval import registry
from cxr_eval.describe import pages
from cxr_eval.trainers.art import LEFT_OUT, NOT_SETTINGS, OBJECTS, TRAINERS, Art
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

import art.config  # isort: skip  # after ours, for logging
import art.defences.trainer as arts_trainers  # isort: skip
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent  # isort: skip

MADRY, TRADES, FBF = "AdversarialTrainerMadryPGD", "AdversarialTrainerTRADESPyTorch", "AdversarialTrainerFBFPyTorch"
AWP, ANY, HIDE = "AdversarialTrainerAWPPyTorch", "AdversarialTrainer", "DPInstaHideTrainer"
SEARCH = {"eps": 0.05, "max_iter": 2}
ALL: list[tuple[str, dict[str, Any]]] = [
    (ANY, SEARCH),
    (ANY, {"eps": 0.05, "attack": "FastGradientMethod", "ratio": 1.0}),
    (MADRY, SEARCH),
    (TRADES, SEARCH),
    (AWP, SEARCH),
    (AWP, {**SEARCH, "mode": "TRADES", "beta": 2.0, "warmup": 1}),
    (FBF, {"eps": 0.05}),
    (HIDE, {"scale": 0.02}),
    (HIDE, {"scale": 0.02, "num_mix": 1}),
]
everyone = pytest.mark.parametrize(("name", "settings"), ALL, ids=[f"{name}-{k}" for k, (name, _) in enumerate(ALL)])
PLAIN: list[tuple[str, dict[str, Any]]] = [
    (MADRY, {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "num_random_init": 0}),
    (TRADES, {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "num_random_init": 0, "beta": 3.0}),
    (AWP, {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "num_random_init": 0, "gamma": 0.02}),
]


def make(toys: Any, name: str, net: Any = None, seed: int = 0, training: Any = None, **settings: Any) -> cxr.Trainer:
    """One of ART's trainers around our classifier."""
    net = toys.build() if net is None else net
    return Art.member(name)(toys.ours(net), seed=seed, training=training or Training(epochs=2, batch_size=7), **settings)


def search(classifier: Any, **settings: Any) -> ProjectedGradientDescent:
    """ART's own PGD, silent."""
    return ProjectedGradientDescent(
        classifier, **({"eps": 0.05, "eps_step": 0.02, "max_iter": 3} | settings), batch_size=64, verbose=False
    )


def one_hot(y: Any, classes: int = 3) -> Any:
    return np.eye(classes, dtype=np.float32)[y]


def moved(toys: Any, net: Any, before: dict[str, torch.Tensor]) -> bool:
    return not torch.equal(net.norm.running_mean, before["norm.running_mean"])


@everyone
def test_it_trains_silently_and_leaves_random_generators_files_and_tqdm_as_they_were(
    toys, name, settings, capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr(art.config, "ART_DATA_PATH", str(tmp_path))
    x, y = toys.images(20)
    kept, net = x.copy(), toys.build()
    bars = inspect.getmodule(arts_trainers.AdversarialTrainer).trange
    numpy_state, python_state, torch_state = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    trainer = make(toys, name, net, **settings)
    trainer.fit(x, y, validation_data=(x, y))
    assert np.array_equal(x, kept)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert inspect.getmodule(arts_trainers.AdversarialTrainer).trange is bars
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert all(np.isfinite(row["train_loss"]) and np.isfinite(row["val_loss"]) for row in trainer.history)
    assert not net.head.bias.requires_grad


@everyone
def test_a_step_alone_gives_its_loss_and_leaves_images_and_training_mode(toys, name, settings):
    x, y = (torch.as_tensor(part) for part in toys.images(6))
    trainer = make(toys, name, **settings)
    trainer.model.train()
    before, kept = toys.state(trainer.model), x.clone()
    loss = trainer.step(cxr.Batch(x, y, torch.arange(6), 0), toys.sgd(trainer.model))
    assert loss.shape == ()
    assert loss > 0
    assert not loss.requires_grad
    assert all(module.training for module in trainer.model.modules())
    assert torch.equal(x, kept)
    assert not toys.same(toys.state(trainer.model), before)


def test_a_second_fit_has_the_class_weights_of_its_own_images(toys):
    x, y = toys.images(24)
    few = np.where(y == 2, 0, y)  # two thirds of one class
    few[:2] = 2
    training = Training(epochs=1, batch_size=24, class_weights="balanced", optimizer={"name": "sgd", "lr": 1e-12})
    again, fresh = (make(toys, MADRY, training=training, num_random_init=0, eps=0.05) for _ in range(2))
    again.model.drop.p = fresh.model.drop.p = 0.0
    again.fit(x, y)
    again.model.load_state_dict(fresh.model.state_dict())
    for trainer in (again, fresh):
        trainer.fit(x, few)
    assert again.history[0]["train_loss"] == pytest.approx(fresh.history[0]["train_loss"], rel=1e-6)  # float32


@everyone
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(toys, name, settings):
    x, y = toys.images(20)
    states = []
    for seed in (0, 0, 1):
        np.random.seed(seed + len(states))  # whatever the global state is
        net = toys.build()
        make(toys, name, net, seed, **settings).fit(x, y)
        states.append(toys.state(net))
    assert toys.same(states[0], states[1])
    assert not toys.same(states[0], states[2])


@everyone
def test_a_resumed_training_ends_with_the_same_weights(toys, name, settings, tmp_path):
    x, y = toys.images(20)
    whole, parts = toys.build(), toys.build()
    make(toys, name, whole, training=Training(epochs=3, batch_size=7), **settings).fit(x, y)
    for epochs in (2, 3):
        trainer = make(toys, name, parts, training=Training(epochs=epochs, batch_size=7), **settings)
        trainer.fit(x, y, checkpoint=tmp_path / "checkpoint.pt")
        with torch.no_grad():
            parts.head.weight.mul_(1.0 if epochs == 3 else 0.0)  # what is not in the checkpoint is lost
    assert toys.same(toys.state(whole), toys.state(parts))


@everyone
def test_it_learns_the_toy_images_also_in_channels_last(toys, name, settings):
    x, y = toys.images(60)
    training = Training(epochs=25, batch_size=20, optimizer={"lr": 0.02}, channels_last=name == TRADES)
    trainer = make(toys, name, toys.build(toys.plain), training=training, **settings)
    trainer.fit(x, y)
    assert (trainer.predict(x).argmax(axis=1) == y).mean() > 0.9
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]


@pytest.mark.parametrize(("name", "settings"), PLAIN, ids=[MADRY, TRADES, AWP])
def test_an_epoch_in_one_batch_is_arts_own(toys, name, settings):
    x, y = toys.images(24)
    states = []
    for mine in (False, True):
        net = toys.build()
        net.drop.p = 0.0  # its draws are from different streams
        classifier = toys.arts(net, optimizer=toys.sgd(net))
        start = toys.state(net)
        if mine:
            trainer = Art.member(name)(classifier, **settings)
            trainer.fit(x, y, batch_size=24, nb_epochs=1)
        elif name == MADRY:
            arts_trainers.AdversarialTrainerMadryPGD(classifier, nb_epochs=1, batch_size=24, **settings).fit(x, one_hot(y))
        elif name == TRADES:
            fitted = arts_trainers.AdversarialTrainerTRADESPyTorch(classifier, search(classifier), beta=settings["beta"])
            fitted.fit(x, one_hot(y), batch_size=24, nb_epochs=1)
        else:
            fitted = arts_trainers.AdversarialTrainerAWPPyTorch(
                classifier, proxy(toys), search(classifier), mode="PGD", gamma=settings["gamma"], beta=6.0, warmup=0
            )
            fitted.fit(x, one_hot(y), batch_size=24, nb_epochs=1)
        states.append(toys.state(net))
    assert not toys.same(states[0], start)
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], rtol=0, atol=1e-6)  # float32; the images' order in the sum differs


def test_the_loss_in_the_history_is_the_one_that_was_trained_on(toys):
    x, y = (torch.as_tensor(part) for part in toys.images(24))
    settings = {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "num_random_init": 0}
    for name, beta in ((MADRY, None), (ANY, None), (TRADES, 3.0), (AWP, 3.0)):
        net = toys.build()
        net.drop.p = 0.0
        start = toys.build()
        start.drop.p = 0.0
        attacked = cxr.pgd(start, x, y, eps=0.05, step=0.02, steps=3)
        extra: dict[str, Any] = {} if beta is None else {"beta": beta}
        extra |= {"ratio": 1.0} if name == ANY else {"mode": "TRADES", "warmup": 1} if name == AWP else {}
        trainer = make(toys, name, net, training=Training(epochs=1, batch_size=24), **settings, **extra)
        trainer.fit(x, y)
        start.train()
        clean, moved_logits = (start(x), start(attacked)) if beta is not None else (None, start(attacked))
        if beta is None:
            expected = torch.nn.functional.cross_entropy(moved_logits, y)
        else:
            # cross-entropy of the clean images + beta * mean KL(clean || attacked)
            p = clean.softmax(1)
            divergence = (p * (clean.log_softmax(1) - moved_logits.log_softmax(1))).sum(1).mean()
            expected = torch.nn.functional.cross_entropy(clean, y) + beta * divergence
        assert trainer.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)  # float32


def test_madry_on_findings_some_of_them_unknown_is_our_pgd(toys):
    x, _ = toys.images(24)
    y = toys.findings(24)
    y[3] = np.nan
    settings = {"eps": 0.05, "max_iter": 3, "num_random_init": 0}
    states = []
    for trainer in (Art.member(MADRY), PGDTrainer):
        net = toys.build()
        net.drop.p = 0.0
        given = settings if trainer is not PGDTrainer else {"eps": 0.05, "steps": 3, "random_start": False}
        training = Training(epochs=1, batch_size=24, optimizer={"name": "sgd", "lr": 0.05}, finding_weights="batch")
        trainer(toys.ours(net, task="multilabel"), training=training, **given).fit(x, y)
        states.append(toys.state(net))
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], rtol=0, atol=1e-6)  # float32; the images' order in the sum differs
    assert not toys.same(states[1], toys.state(toys.build()))


def test_half_of_a_batch_of_findings_is_attacked(toys):
    x, _ = toys.images(12)
    trainer = Art.member(ANY)(toys.ours(toys.build(), task="multilabel"), training=Training(epochs=1, batch_size=12), eps=0.1)
    seen = seen_in_training(trainer.model)
    trainer.fit(x, toys.findings(12))
    (trained,) = seen
    clean = {image.tobytes() for image in x}
    assert sum(image.numpy().tobytes() in clean for image in trained) == 6


def seen_in_training(net: torch.nn.Module) -> list[torch.Tensor]:
    """Every batch that the network meets in training mode, as it comes."""
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()) if module.training else None)
    return seen


@pytest.mark.parametrize("name", [name for name, facts in TRAINERS.items() if not facts.findings])
def test_trainers_that_take_the_largest_finding_for_the_answer_are_for_one_class_an_image(toys, name):
    assert Art.member(name).tasks == ("multiclass",)
    with pytest.raises(ValueError, match="not defined for a multilabel task"):
        Art.member(name)(toys.ours(toys.build(), task="multilabel"))


@pytest.mark.parametrize("name", [TRADES, FBF, AWP])
def test_art_itself_cannot_train_those_on_findings(toys, name):
    x, _ = toys.images(12)
    net = toys.build(classes=5)
    classifier = toys.ours(net, classes=5, task="multilabel", optimizer=toys.sgd(net))
    fitted = {
        TRADES: lambda: arts_trainers.AdversarialTrainerTRADESPyTorch(classifier, search(classifier), beta=1.0),
        FBF: lambda: arts_trainers.AdversarialTrainerFBFPyTorch(classifier, eps=0.05),
        AWP: lambda: arts_trainers.AdversarialTrainerAWPPyTorch(
            classifier, proxy(toys, 5), search(classifier), mode="PGD", gamma=0.01, beta=6.0, warmup=0
        ),
    }[name]()
    with pytest.raises(RuntimeError, match="must match the size"):
        fitted.fit(x, np.nan_to_num(toys.findings(12, 5)), batch_size=12, nb_epochs=1)


def proxy(toys: Any, classes: int = 3) -> Any:
    net = toys.build(classes=classes)
    net.drop.p = 0.0
    return toys.ours(net, classes=classes, task="multilabel" if classes == 5 else "multiclass", optimizer=toys.sgd(net))


# Where ART itself goes wrong: ART's own behaviour, and ours


def test_arts_scheduler_steps_by_the_batch_and_ours_by_the_epoch(toys):
    x, y = toys.images(20)
    rates = []
    for mine in (False, True):
        net = toys.build()
        classifier = toys.arts(net, optimizer=toys.sgd(net, lr=0.1))
        halved = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1, gamma=0.5)
        if mine:
            Art.member(ANY)(classifier, **SEARCH).fit(x, y, batch_size=5, nb_epochs=2, scheduler=halved)
        else:
            fitted = arts_trainers.AdversarialTrainer(classifier, search(classifier))
            fitted.fit(x, one_hot(y), batch_size=5, nb_epochs=2, scheduler=halved)
        rates.append(classifier.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.1 * 0.5**8)  # 2 epochs of 4 batches
    assert rates[1] == pytest.approx(0.1 * 0.5**2)


@pytest.mark.parametrize("name", [TRADES, AWP])
def test_art_refuses_torchs_schedulers_and_ours_takes_them(toys, name):
    x, y = toys.images(12)
    net = toys.build()
    classifier = toys.arts(net, optimizer=toys.sgd(net, lr=0.1))
    halved = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1, gamma=0.5)
    extra = (search(classifier),) if name == TRADES else (proxy(toys), search(classifier))
    settings = {"beta": 1.0} if name == TRADES else {"mode": "PGD", "gamma": 0.01, "beta": 1.0, "warmup": 0}
    with pytest.raises(ValueError, match="Invalid Pytorch scheduler"):
        getattr(arts_trainers, name)(classifier, *extra, **settings).fit(x, one_hot(y), scheduler=halved)
    trainer = Art.member(name)(classifier, **SEARCH)
    trainer.fit(x, y, batch_size=6, nb_epochs=2, scheduler=halved)
    assert [row["lr"] for row in trainer.history] == [0.1, 0.05]


def test_art_trains_fbf_in_evaluation_mode_at_its_own_learning_rate_and_ours_does_not(toys):
    x, y = toys.images(20)
    net = toys.build()
    classifier = toys.arts(net, optimizer=toys.sgd(net, lr=0.01))
    before = toys.state(net)
    arts_trainers.AdversarialTrainerFBFPyTorch(classifier, eps=0.05).fit(x, one_hot(y), batch_size=10, nb_epochs=3)
    assert not moved(toys, net, before)  # BatchNorm has learnt nothing
    assert not torch.equal(net.conv.weight, before["conv.weight"])
    # at the last batch 0.21 * (3 - 3) / (3 - 1) = 0, whatever the optimizer was given
    assert classifier.optimizer.param_groups[0]["lr"] == 0.0

    net = toys.build()
    classifier = toys.arts(net, optimizer=toys.sgd(net, lr=0.01))
    trainer = Art.member(FBF)(classifier, eps=0.05)
    trainer.fit(x, y, batch_size=10, nb_epochs=3)
    assert moved(toys, net, before)
    assert classifier.optimizer.param_groups[0]["lr"] == 0.01


def test_fbf_steps_along_the_gradient_at_images_of_the_ball_shortened_to_half(toys):
    x, y = (torch.as_tensor(part) for part in toys.images(20))
    net, start = toys.build(), toys.build()
    for each in (net, start):
        each.drop.p = 0.0
        with torch.no_grad():
            each.head.weight *= 20  # so that the gradient is long
    seen = seen_in_training(net)
    training = Training(epochs=1, batch_size=20, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0})
    trainer = make(toys, FBF, net, training=training, eps=0.05)
    trainer.fit(x, y)
    (trained,) = seen
    order = (trained[:, None] - x[None]).abs().amax(dim=(2, 3, 4)).min(dim=1)
    assert (order.values <= 0.05 + 1e-6).all()  # float32
    assert (order.values > 0.05 - 1e-6).all()  # one pixel of 64 at least ends on the border of the ball
    start.train()
    loss = torch.nn.functional.cross_entropy(start(trained), y[order.indices])
    loss.backward()
    weights = [weight for weight in start.parameters() if weight.requires_grad]
    length = torch.stack([weight.grad.square().sum() for weight in weights]).sum().sqrt()
    assert length > 0.5
    for mine, weight in zip([each for each in net.parameters() if each.requires_grad], weights, strict=True):
        torch.testing.assert_close(mine, weight - 0.1 * weight.grad * 0.5 / length, rtol=0, atol=1e-5)  # float32, |weight| < 10
    assert trainer.history[0]["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-6)  # float32


def test_fbf_of_art_fails_on_class_indices_and_ours_takes_them(toys):
    x, y = toys.images(12)
    net = toys.build()
    classifier = toys.arts(net, optimizer=toys.sgd(net))
    with pytest.raises(IndexError, match="Dimension out of range"):
        arts_trainers.AdversarialTrainerFBFPyTorch(classifier, eps=0.05).fit(x, y, batch_size=12, nb_epochs=1)
    Art.member(FBF)(classifier, eps=0.05).fit(x, y, batch_size=12, nb_epochs=1)


def test_fbf_of_art_shows_the_network_pixels_outside_of_0_to_1_and_ours_does_not(toys):
    x, y = toys.images(12)
    ranges = []
    for mine in (False, True):
        net = toys.build()
        classifier = toys.arts(net, optimizer=toys.sgd(net))
        seen: list[torch.Tensor] = []
        net.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0].detach()))
        fitted = (
            Art.member(FBF)(classifier, eps=0.1) if mine else arts_trainers.AdversarialTrainerFBFPyTorch(classifier, eps=0.1)
        )
        fitted.fit(x, one_hot(y), batch_size=12, nb_epochs=1)
        ranges.append((min(float(images.min()) for images in seen), max(float(images.max()) for images in seen)))
    assert ranges[0][0] < 0
    assert ranges[1][0] >= 0
    assert ranges[1][1] <= 1


@pytest.mark.parametrize("name", [TRADES, FBF])
def test_art_fails_on_an_nn_sequential_and_ours_trains_it(toys, name):
    x, y = toys.images(12)
    net = toys.build(toys.plain)
    classifier = toys.arts(net, optimizer=toys.sgd(net))
    fitted = (
        arts_trainers.AdversarialTrainerTRADESPyTorch(classifier, search(classifier), beta=1.0)
        if name == TRADES
        else arts_trainers.AdversarialTrainerFBFPyTorch(classifier, eps=0.05)
    )
    with pytest.raises(RuntimeError, match="must match the size"):
        fitted.fit(x, one_hot(y), batch_size=12, nb_epochs=1)
    trainer = Art.member(name)(classifier, eps=0.05)
    trainer.fit(x, y, batch_size=12, nb_epochs=1)
    assert len(trainer.history) == 1


def test_madry_of_art_attacks_in_batches_of_32_and_ours_in_one(toys):
    x, y = toys.images(40)
    sizes = []
    for mine in (False, True):
        net = toys.build()
        classifier = toys.arts(net, optimizer=toys.sgd(net))
        settings = {"eps": 0.05, "eps_step": 0.02, "max_iter": 1}
        if mine:
            fit = Art.member(MADRY)(classifier, **settings).fit
        else:
            fit = arts_trainers.AdversarialTrainerMadryPGD(classifier, **settings).fit
        met: set[int] = set()
        hook = net.register_forward_pre_hook(lambda module, given, met=met: met.add(len(given[0])))
        fit(x, one_hot(y), batch_size=40, nb_epochs=1)
        hook.remove()
        sizes.append(met - {1})  # one empty image, when our classifier is made
    assert sizes == [{32, 8, 40}, {40}]


def test_awp_of_art_writes_its_weights_into_arts_folder_and_ours_does_not(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(art.config, "ART_DATA_PATH", str(tmp_path))
    x, y = toys.images(12)
    for mine in (True, False):
        net = toys.build()
        classifier = toys.arts(net, optimizer=toys.sgd(net))
        if mine:
            Art.member(AWP)(classifier, **SEARCH).fit(x, y, validation_data=(x, y), batch_size=12, nb_epochs=1)
            assert list(tmp_path.iterdir()) == []
        else:
            trainer = arts_trainers.AdversarialTrainerAWPPyTorch(
                classifier, proxy(toys), search(classifier), mode="PGD", gamma=0.01, beta=6.0, warmup=0
            )
            trainer.fit(x, one_hot(y), validation_data=(x, one_hot(y)), batch_size=12, nb_epochs=1)
            assert "awp_pgd_epoch_0.model" in {path.name for path in tmp_path.iterdir()}


def test_warmup_counts_the_epochs_of_the_loop(toys):
    x, y = toys.images(24)
    losses = []
    for warmup in (0, 1, 2):
        trainer = make(toys, AWP, training=Training(epochs=2, batch_size=24), warmup=warmup, gamma=0.5, **SEARCH)
        trainer.fit(x, y)
        losses.append([row["train_loss"] for row in trainer.history])
    assert losses[0][0] > losses[1][0] == losses[2][0]  # weights were changed for a larger loss, or not yet
    assert losses[1][1] > losses[2][1]


def test_awp_before_its_warmup_ends_is_our_pgd(toys):
    x, y = toys.images(24)
    states = []
    for trainer, settings in (
        (Art.member(AWP), {"eps": 0.05, "max_iter": 3, "num_random_init": 0, "warmup": 1}),
        (PGDTrainer, {"eps": 0.05, "steps": 3, "random_start": False}),
    ):
        net = toys.build()
        net.drop.p = 0.0
        training = Training(epochs=1, batch_size=8, optimizer={"name": "sgd", "lr": 0.05}, class_weights="balanced")
        trainer(toys.ours(net), training=training, **settings).fit(x, y)
        states.append(toys.state(net))
    assert toys.same(*states)


def test_instahide_without_noise_and_mixing_is_standard(toys):
    x, y = toys.images(24)
    states = []
    for trainer, settings in ((Art.member(HIDE), {"scale": 0.0, "num_mix": 1}), (StandardTrainer, {})):
        net = toys.build()
        net.drop.p = 0.0
        training = Training(epochs=1, batch_size=8, optimizer={"name": "sgd", "lr": 0.05}, label_smoothing=0.1)
        trainer(toys.ours(net), training=training, **settings).fit(x, y)
        states.append(toys.state(net))
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], rtol=0, atol=1e-6)  # float32; the images' order in the sum differs


def test_instahide_mixes_images(toys):
    x, y = toys.images(12)
    trainer = make(toys, HIDE, training=Training(epochs=1, batch_size=12), scale=0.0)
    seen = seen_in_training(trainer.model)
    trainer.fit(x, y)
    (mixed,) = seen
    # share a + (1 - a) of two images: each is a point on the line between two of the twelve, and most are none of them
    flat, points = torch.as_tensor(x).flatten(1), mixed.flatten(1)
    pairs = [(i, j) for i in range(12) for j in range(12)]
    far = []
    for point in points:
        ends = [(flat[i], flat[j] - flat[i]) for i, j in pairs]
        shares = [float(((point - a) @ d) / (d @ d)) if d.any() else 0.0 for a, d in ends]
        far.append(min(float((a + s * d - point).abs().max()) for s, (a, d) in zip(shares, ends, strict=True)))
    assert max(far) < 1e-5  # float32
    assert not {image.numpy().tobytes() for image in mixed} <= {image.tobytes() for image in x}


# What is offered


def test_every_trainer_that_art_has_is_offered_or_left_out_with_a_reason() -> None:
    kinds = {name for name, kind in vars(arts_trainers).items() if isinstance(kind, type)}
    theirs = {name for name in kinds if issubclass(getattr(arts_trainers, name), arts_trainers.Trainer)}
    assert theirs == set(TRAINERS) | set(LEFT_OUT)
    assert not set(TRAINERS) & set(LEFT_OUT)
    assert set(Art.names()) == set(TRAINERS) == {name for name, _ in ALL}
    assert registry.find("trainers", f"art/{TRADES}") is Art.member(TRADES)


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_settings_are_the_arguments_of_arts_constructor_with_its_defaults(name: str) -> None:
    kind = getattr(arts_trainers, name)
    fields = Art.member(name).Params.model_fields
    arguments = [each for each in inspect.signature(kind.__init__).parameters if each not in {"self", *NOT_SETTINGS}]
    assert set(fields) == {field for each in arguments for field in OBJECTS.get(each, (each,))}
    described = [parent for parent in kind.__mro__ if "__init__" in vars(parent)]  # the abstract ones have the defaults
    for each in set(arguments) - set(OBJECTS) - {"eps", "eps_step"}:
        defaults = {
            inspect.signature(parent.__init__).parameters[each].default
            for parent in described[:2]
            if parent is not object and each in inspect.signature(parent.__init__).parameters
        } - {inspect.Parameter.empty}
        assert defaults == {fields[each].default}
    assert all(field.description for field in fields.values())
    assert Art.member(name).source.startswith(f"ART {name}, http")


def test_the_step_is_two_and_a_half_radii_over_the_steps_unless_set(toys):
    x, y = toys.images(14)
    states = []
    for settings in ({}, {"eps_step": 2.5 * 0.04 / 2}, {"eps_step": 0.01}):
        net = toys.build()
        make(toys, MADRY, net, eps=0.04, max_iter=2, **settings).fit(x, y)
        states.append(toys.state(net))
    assert toys.same(states[0], states[1])
    assert not toys.same(states[0], states[2])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (MADRY, {"eps": 8}, "did you mean 8/255"),
        (MADRY, {"eps": 0.0}, "greater than 0"),
        (MADRY, {"eps_step": 0.0}, "eps_step must be above 0; leave it out"),
        (MADRY, {"max_iter": 0}, "greater than or equal to 1"),
        (MADRY, {"batch_size": 8}, "Extra inputs are not permitted"),
        (ANY, {"ratio": 0.0}, "greater than 0"),
        (ANY, {"attack": "DeepFool"}, "'FastGradientMethod' or 'ProjectedGradientDescent'"),
        (
            ANY,
            {"attack": "FastGradientMethod", "max_iter": 3},
            "max_iter does nothing with attack FastGradientMethod; leave it",
        ),
        (ANY, {"attack": "FastGradientMethod", "num_random_init": 2}, "gives clean images back .* num_random_init: 0 or 1"),
        (AWP, {"beta": 3.0}, "beta does nothing with mode PGD"),
        (HIDE, {"noise": "exponential", "loc": 0.1}, "loc does nothing with noise exponential"),
        (HIDE, {"num_mix": 1, "alpha": 2.0}, "alpha does nothing with num_mix 1"),
    ],
)
def test_settings_that_are_wrong_or_idle_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        Art.member(name).Params(**settings)


@everyone
def test_settings_written_out_in_full_are_the_same_settings(name, settings):
    params = Art.member(name).Params(**settings)
    assert Art.member(name).Params(**params.model_dump()) == params


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_half_precision_is_refused(toys, name):
    with pytest.raises(ValueError, match=f"art/{name} trains through numpy in float32; set precision to float32, or take pgd"):
        make(toys, name, training=Training(precision="bfloat16"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": "FastGradientMethod"}, "FastGradientMethod divides findings by their sum; take fgsm"),
        ({"num_random_init": 2}, "judges several starts by the largest finding; num_random_init: 0 or 1"),
    ],
)
def test_what_art_gets_wrong_on_findings_is_refused(toys, settings, message):
    with pytest.raises(ValueError, match=message):
        Art.member(ANY)(toys.ours(toys.build(), task="multilabel"), **settings)


def test_a_loss_that_is_not_finite_is_named(toys):
    x, y = toys.images(20)
    net = toys.build()
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    with pytest.raises(cxr.TrainingError, match=r"AdversarialTrainerMadryPGD: .* epoch 1, batch 1 of 3 \(eps 0.05"):
        make(toys, MADRY, net, **SEARCH).fit(x, y)


@pytest.mark.parametrize(("name", "reason"), [("OAATPyTorch", "a second network"), ("CertifiedPytorch", "carry bounds")])
def test_a_trainer_that_is_left_out_says_why(name: str, reason: str) -> None:
    with pytest.raises(cxr.PluginError, match=f"art/AdversarialTrainer{name}: left out, because it .*{reason}"):
        registry.find("trainers", f"art/AdversarialTrainer{name}")


def test_an_unknown_trainer_gets_the_nearest_name() -> None:
    with pytest.raises(cxr.PluginError, match=f"no trainer 'art/{TRADES.lower()}'; did you mean '{TRADES}'"):
        registry.find("trainers", f"art/{TRADES.lower()}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (TRADES, "the attack raises the cross-entropy, not the divergence"),
        (FBF, "the gradient's norm is clipped at 0.5"),
        (AWP, "only weights with two or more axes are changed"),
        (HIDE, "not against attacks on the network"),
    ],
)
def test_its_page_says_what_stays_as_in_art(name: str, says: str) -> None:
    (page,) = pages(f"art/{name}", "trainers")
    assert says in page


def test_trades_of_art_attacks_with_cross_entropy_as_its_page_says(toys):
    x, y = (torch.as_tensor(part) for part in toys.images(12))
    net = toys.build()
    expected = cxr.pgd(toys.build(), x, y, eps=0.05, step=0.02, steps=3)
    seen = seen_in_training(net)
    settings = {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "num_random_init": 0}
    make(toys, TRADES, net, training=Training(epochs=1, batch_size=12), **settings).fit(x, y)
    _, attacked = seen
    nearest = (attacked[:, None] - expected[None]).abs().amax(dim=(2, 3, 4)).min(dim=1).values
    assert (nearest == 0).all()  # the same images in another order


# Ours as citizens of ART

CITIZENS: dict[str, dict[str, Any]] = {
    "standard": {},
    "fgsm": {"eps": 0.05},
    "pgd": {"eps": 0.05, "steps": 2},
    "trades": {"eps": 0.05, "steps": 2},
    "awp": {},
    "dpaat": {},
    "sg": {},
    "sga": {},
    "amat": {},
    "noise": {"sigma": 0.1},
}


@pytest.mark.parametrize("name", sorted(CITIZENS))
def test_our_trainers_stand_in_plain_art_code(toys, name):
    x, y = toys.images(24)
    net = toys.build(toys.plain)
    classifier = toys.arts(net, optimizer=toys.sgd(net))
    before = toys.state(net)
    cls = registry.find("trainers", name)
    reference = {"reference": toys.build(toys.plain, seed=1)} if cls.uses_reference else {}
    trainer = cls(classifier, **CITIZENS[name], **reference)
    assert isinstance(trainer, arts_trainers.Trainer)
    trainer.fit(x, one_hot(y), nb_epochs=1, batch_size=8)
    assert not toys.same(toys.state(net), before)
    trained = trainer.get_classifier()
    assert trained is classifier
    for attack in (FastGradientMethod(trained, eps=0.1), search(trained, eps=0.1)):
        attacked = attack.generate(x, one_hot(y))
        assert np.abs(attacked - x).max() <= 0.1 + 1e-6  # float32
        assert trained.predict(attacked).shape == (24, 3)
        losses = [trained.compute_loss(images, one_hot(y)).mean() for images in (x, attacked)]
        assert losses[1] > losses[0]
