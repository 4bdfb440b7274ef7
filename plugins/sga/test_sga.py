"""SG and SGA: masks and draws, as other trainers bit for bit, beside captum and ART, and trained."""

import re
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from cxr_eval_sga import SaliencyGuidedTrainer, SGATrainer

import cxr_eval.api as cxr
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent  # isort: skip  # after ours, for logging

BOTH = [SaliencyGuidedTrainer, SGATrainer]
VARIANTS = [
    (SaliencyGuidedTrainer, {}),
    (SaliencyGuidedTrainer, {"gradient": "absolute", "mask": "element", "fill": "mean"}),
    (SaliencyGuidedTrainer, {"saliency_target": "argmax", "kl_direction": "masked_clean", "detach": "clean", "fill": "corner"}),
    (SGATrainer, {}),
    (SGATrainer, {"k": 0.0}),
    (SGATrainer, {"eps": 0.03, "eps_min": 0.03, "fill": "mean"}),
]
everyone = pytest.mark.parametrize(("trainer", "settings"), VARIANTS, ids=range(len(VARIANTS)))


def batch_of(toys, n=6, channels=1):
    x, y = (torch.as_tensor(v) for v in toys.images(n, channels=channels))
    return cxr.Batch(x, y, torch.arange(n), 0)


def on_toys(toys, trainer, make=None, channels=1, seed=0, **settings):
    model = toys.build(make or toys.plain, channels=channels)
    return trainer(toys.ours(model, channels=channels), seed=seed, **settings)


def trained(toys, trainer, seed=0, **settings):
    """State of a network with BatchNorm and dropout after two epochs in batches of 7, 7 and 6."""
    x, y = toys.images(20)
    model = toys.build(toys.Bumpy)
    trainer(toys.ours(model), training=Training(epochs=2, batch_size=7), seed=seed, **settings).fit(x, y)
    return toys.state(model)


def passes(trainer, batch):
    """Mode and images of every forward pass behind one loss."""
    seen = []
    handle = trainer.model.register_forward_pre_hook(lambda model, given: seen.append((model.training, given[0].detach())))
    trainer.model.train()
    trainer.loss(batch)
    handle.remove()
    return seen


# masks and draws


@pytest.mark.parametrize("gradient", ["signed", "absolute"])
@pytest.mark.parametrize("target", ["label", "argmax"])
def test_the_mask_is_where_captums_saliency_averaged_over_channels_is_least(toys, gradient, target):
    batch = batch_of(toys, channels=3)
    trainer = on_toys(toys, SaliencyGuidedTrainer, channels=3, k=0.2, gradient=gradient, saliency_target=target)
    asked = batch.y if target == "label" else trainer.model(batch.x).argmax(dim=1)
    saliency = (
        captum.attr.Saliency(trainer.model)
        .attribute(batch.x.clone().requires_grad_(), target=asked, abs=gradient == "absolute")
        .mean(dim=1)
    )
    count = int(0.2 * toys.SIZE**2)
    limit = saliency.flatten(1).sort(dim=1).values[:, count - 1].view(-1, 1, 1)
    changed = (trainer.masked(batch) != batch.x).any(dim=1)
    assert torch.equal(changed, saliency <= limit)
    assert changed.sum(dim=(1, 2)).tolist() == [count] * 6


@pytest.mark.parametrize(("k", "count"), [(0.001, 1), (0.1, 6), (0.5, 32), (1.0, 64)])  # of 64 pixels
def test_k_is_the_share_of_pixels_replaced_rounded_down_but_at_least_one(toys, k, count):
    trainer = on_toys(toys, SaliencyGuidedTrainer, channels=3, k=k)
    batch = batch_of(toys, channels=3)
    assert (trainer.masked(batch) != batch.x).any(dim=1).sum(dim=(1, 2)).tolist() == [count] * 6
    elements = on_toys(toys, SaliencyGuidedTrainer, channels=3, k=k, mask="element")
    assert (elements.masked(batch) != batch.x).sum(dim=(1, 2, 3)).tolist() == [max(1, int(k * 3 * 64))] * 6


def test_the_uniform_fill_keeps_within_its_own_image_and_channel_and_is_shared_by_none(toys):
    low = torch.linspace(0.0, 0.5, 6).view(2, 3, 1, 1)  # ranges of width 0.1, none of which meets another
    x = low + 0.1 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).mul(0.9).clamp(0, 0.9)
    batch = cxr.Batch(x, torch.tensor([0, 1]), torch.arange(2), 0)
    found = on_toys(toys, SaliencyGuidedTrainer, channels=3, k=1.0).masked(batch)
    assert bool((found >= x.amin(dim=(2, 3), keepdim=True)).all())
    assert bool((found <= x.amax(dim=(2, 3), keepdim=True)).all())
    share = (found - x.amin(dim=(2, 3), keepdim=True)) / (x.amax(dim=(2, 3), keepdim=True) - x.amin(dim=(2, 3), keepdim=True))
    rows = share.flatten(2).flatten(0, 1)  # six planes of 64 draws each
    assert float(torch.pdist(rows).min()) > 1  # 64 pairs of draws are about sqrt(64 / 6) = 3.3 apart, the same draws 0
    assert float(rows.min()) < 0.05  # 384 draws: missing an end has a chance of 0.95^384 = 3e-9
    assert float(rows.max()) > 0.95


def test_an_image_of_one_value_stays_as_it_is(toys):
    x = torch.full((2, 1, 8, 8), 0.3)
    batch = cxr.Batch(x, torch.tensor([0, 1]), torch.arange(2), 0)
    assert torch.equal(on_toys(toys, SaliencyGuidedTrainer, k=0.5).masked(batch), x)


def test_two_gradients_and_two_training_passes_are_all_there_is_and_the_radius_is_one_a_batch(toys):
    batch = batch_of(toys)
    batch = cxr.Batch(0.2 + batch.x / 2, batch.y, batch.index, 0)  # nothing to clip
    trainer = on_toys(toys, SGATrainer, make=toys.Bumpy)
    radii = []
    for _ in range(40):
        seen = passes(trainer, batch)
        assert [mode for mode, _ in seen] == [False, False, True, True]
        (_, saliency), (_, masked), (_, clean), (_, attacked) = seen
        assert torch.equal(saliency, batch.x)
        assert torch.equal(clean, batch.x)
        moved = (attacked - masked).abs().flatten(1).amax(dim=1)
        torch.testing.assert_close(moved, moved[:1].expand(6))  # one radius for all images
        radii.append(float(moved[0]))
    assert 0.01 - 1e-6 <= min(radii) < 0.02  # 40 draws: missing the lowest quarter has a chance of 1e-5
    assert 0.04 < max(radii) <= 0.05 + 1e-6  # float32


def test_sg_looks_once_for_the_gradient_and_twice_in_training_mode(toys):
    seen = passes(on_toys(toys, SaliencyGuidedTrainer, make=toys.Bumpy), batch_of(toys))
    assert [mode for mode, _ in seen] == [False, True, True]


def test_the_fill_is_drawn_first_and_then_the_radius_from_the_trainers_own_generator(toys):
    batch = batch_of(toys)
    trainer = on_toys(toys, SGATrainer, k=1.0, seed=5)
    found = trainer.counterpart(batch)
    rng = torch.Generator().manual_seed(5)
    low, high = batch.x.amin(dim=(2, 3), keepdim=True), batch.x.amax(dim=(2, 3), keepdim=True)
    masked = torch.lerp(low, high, torch.rand(batch.x.shape, generator=rng))
    eps = torch.empty(()).uniform_(0.01, 0.05, generator=rng)
    assert torch.equal(found, cxr.fgsm(trainer.model, masked, batch.y, eps=eps))


@pytest.mark.parametrize("trainer", BOTH)
def test_a_weight_of_zero_draws_nothing_and_looks_once(toys, trainer):
    weightless = on_toys(toys, trainer, lam=0.0)
    before = weightless.rng.get_state()
    assert len(passes(weightless, batch_of(toys))) == 1
    assert torch.equal(weightless.rng.get_state(), before)


def test_a_fixed_radius_and_a_fill_that_needs_no_chance_draw_nothing(toys):
    for fill in ("mean", "corner"):
        trainer = on_toys(toys, SGATrainer, fill=fill, eps=0.03, eps_min=0.03)
        before = trainer.rng.get_state()
        trainer.counterpart(batch_of(toys))
        assert torch.equal(trainer.rng.get_state(), before)


# reductions, bit for bit


class Attacked(cxr.Trainer):
    """The paper's AT, written by itself: cross-entropy, and KL to the prediction of FGSM images of one radius a batch."""

    def loss(self, batch):
        eps = torch.empty(()).uniform_(0.01, 0.05, generator=self.rng)
        moved = cxr.fgsm(self.model, batch.x, batch.y, eps=eps, loss=self.criterion)
        p = self.model(batch.x)
        return self.criterion(p, batch.y) + 1.5 * self.divergence(p, self.model(moved))


@pytest.mark.parametrize("trainer", BOTH)
def test_without_weight_it_is_standard_training(toys, trainer):
    assert toys.same(trained(toys, trainer, lam=0.0), trained(toys, StandardTrainer))
    assert not toys.same(trained(toys, trainer), trained(toys, StandardTrainer))


def test_without_mask_sga_is_the_adversarial_training_of_its_paper(toys):
    assert toys.same(trained(toys, SGATrainer, k=0.0, lam=1.5), trained(toys, Attacked))
    assert not toys.same(trained(toys, SGATrainer, k=0.1, lam=1.5), trained(toys, Attacked))


@pytest.mark.parametrize("settings", [{}, {"k": 0.0}, {"mask": "element", "detach": "clean"}])
def test_with_radius_zero_sga_is_sg(toys, settings):
    plain = trained(toys, SaliencyGuidedTrainer, **settings)
    assert toys.same(trained(toys, SGATrainer, eps=0.0, eps_min=0.0, **settings), plain)
    assert not toys.same(trained(toys, SGATrainer, **settings), plain)


def test_sg_without_mask_is_standard_training(toys):
    assert toys.same(trained(toys, SaliencyGuidedTrainer, k=0.0), trained(toys, StandardTrainer))


def test_detaching_changes_the_weights_and_not_the_loss(toys):
    batch = batch_of(toys)
    losses = [on_toys(toys, SGATrainer, detach=detach).loss(batch) for detach in ("none", "clean")]
    assert torch.equal(losses[0], losses[1])
    assert not toys.same(trained(toys, SGATrainer, detach="clean"), trained(toys, SGATrainer))


# other implementations


def test_the_attacked_images_are_arts_fgsm_images_of_the_masked_ones(toys):
    batch = batch_of(toys, channels=3)
    trainer = on_toys(toys, SGATrainer, channels=3, fill="mean", eps=0.04, eps_min=0.04)
    attack = FastGradientMethod(toys.arts(trainer.model, channels=3), eps=0.04)
    expected = attack.generate(trainer.masked(batch).numpy(), np.eye(3, dtype=np.float32)[batch.y])
    assert np.array_equal(trainer.counterpart(batch).numpy(), expected)


def test_the_loss_is_that_of_ismails_code_in_plain_torch(toys):
    batch = batch_of(toys, channels=3)
    trainer = on_toys(toys, SaliencyGuidedTrainer, channels=3, fill="mean", lam=0.7)
    model, x = trainer.model, batch.x.clone().requires_grad_()
    saliency = captum.attr.Saliency(model).attribute(x, target=batch.y, abs=False).mean(dim=1)
    masked = batch.x.clone()
    for image, order in zip(masked, saliency.flatten(1).argsort(dim=1), strict=True):
        for channel in image:
            channel.view(-1)[order[: int(0.1 * 64)]] = channel.mean()
    clean = model(batch.x)
    divergence = torch.nn.KLDivLoss(reduction="batchmean")(model(masked).log_softmax(dim=1), clean.softmax(dim=1))
    expected = torch.nn.functional.cross_entropy(clean, batch.y) + 0.7 * divergence
    assert trainer.loss(batch).item() == pytest.approx(expected.item(), rel=1e-6)  # float32


def test_a_stock_art_classifier_trains_and_is_then_attacked_by_art(toys):
    x, y = toys.images(60)
    found = {}
    for trainer in (StandardTrainer, SGATrainer):
        model = toys.build(toys.plain)
        classifier = toys.arts(model, optimizer=torch.optim.Adam(model.parameters(), lr=0.02))
        trainer(classifier).fit(x, np.eye(3, dtype=np.float32)[y], batch_size=20, nb_epochs=25)
        assert (classifier.predict(x).argmax(axis=1) == y).mean() > 0.9
        attack = ProjectedGradientDescent(classifier, eps=0.12, eps_step=0.03, max_iter=10, verbose=False)
        found[trainer] = (classifier.predict(attack.generate(x, y)).argmax(axis=1) == y).mean()
    assert found[SGATrainer] > found[StandardTrainer]


# training


@everyone
def test_the_same_seed_gives_the_same_weights(toys, trainer, settings):
    first = trained(toys, trainer, **settings)
    assert toys.same(first, trained(toys, trainer, **settings))
    assert not toys.same(first, trained(toys, trainer, seed=1, **settings))


@everyone
def test_a_loss_leaves_no_trace_in_the_network_and_in_the_batch(toys, trainer, settings):
    model = toys.build(toys.Bumpy)
    trainer = trainer(toys.ours(model), **settings)
    model.train()
    flags, batch = toys.flags(model), batch_of(toys)
    before = batch.x.clone()
    with torch.random.fork_rng(devices=[]):
        assert torch.isfinite(trainer.loss(batch))
    assert toys.flags(model) == flags
    assert torch.equal(batch.x, before)
    changed = trainer.counterpart(batch)
    assert not changed.requires_grad
    assert bool(((changed >= 0) & (changed <= 1)).all())


@everyone
def test_findings_train_also_where_nothing_is_known_of_an_image(toys, trainer, settings):
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


@everyone
def test_it_learns_the_toy_images_in_bfloat16_and_channels_last(toys, trainer, settings):
    x, y = toys.images(60, channels=3)
    training = Training(epochs=25, batch_size=20, optimizer={"lr": 0.02}, precision="bfloat16", channels_last=True)
    trainer = on_toys(toys, trainer, channels=3, training=training, **settings)
    trainer.fit(x, y)
    assert (trainer.predict(x).argmax(axis=1) == y).mean() > 0.9
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]
    assert all(row["divergence"] > -1e-6 for row in trainer.history)  # float32 around 0


@pytest.mark.parametrize("trainer", BOTH)
def test_a_resumed_training_gives_the_weights_of_an_uninterrupted_one(toys, tmp_path, trainer):
    x, y = toys.images(20)
    whole = on_toys(toys, trainer, make=toys.Bumpy)
    whole.fit(x, y, batch_size=7, nb_epochs=4)
    for epochs in (2, 4):
        part = on_toys(toys, trainer, make=toys.Bumpy)
        part.fit(x, y, batch_size=7, nb_epochs=epochs, checkpoint=tmp_path / "c.pt")
    assert toys.same(toys.state(part.model), toys.state(whole.model))
    assert part.history == whole.history


@pytest.mark.parametrize(
    ("trainer", "settings", "message"),
    [
        (SGATrainer, {"eps": 0.005}, "eps_min 0.01 is larger than eps 0.005; lower it, to 0.005 for one fixed radius"),
        (SGATrainer, {"eps": 8}, "did you mean 8/255"),
        (SaliencyGuidedTrainer, {"eps": 0.1}, "has no setting '"),
        (SaliencyGuidedTrainer, {"k": 10}, "expected a number of at most 1"),
        (SaliencyGuidedTrainer, {"lam": -1.0}, "expected a number of at least 0"),
        (SaliencyGuidedTrainer, {"fill": "blur"}, "'uniform', 'mean' or 'corner'"),
    ],
)
def test_wrong_settings_are_refused_before_training(toys, trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        on_toys(toys, trainer, **settings)


def test_images_stay_within_the_radius_only_where_none_is_masked(toys):
    assert on_toys(toys, SGATrainer, k=0.0).stays_within_eps
    assert not on_toys(toys, SGATrainer).stays_within_eps
    assert on_toys(toys, SGATrainer, eps="8/255").eps_range() == (0.01, 8 / 255)
    assert on_toys(toys, SaliencyGuidedTrainer).eps_range() is None


@pytest.mark.parametrize("trainer", BOTH)
def test_source_and_settings_are_described(trainer):
    assert trainer.source
    assert trainer.__doc__
    assert all(field.description for field in trainer.Params.model_fields.values())


def test_the_readme_runs_and_its_table_names_every_setting_with_its_default(toys):
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    x, y = toys.images(12)
    names = {"classifier": toys.ours(toys.build(toys.plain)), "x": x, "y": y}
    before = toys.state(names["classifier"].model)
    exec(code, names)
    assert not toys.same(toys.state(names["classifier"].model), before)
    table = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert table == [(name, str(field.default)) for name, field in SGATrainer.Params.model_fields.items()]
