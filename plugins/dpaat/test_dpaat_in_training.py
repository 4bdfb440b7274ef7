"""DPAAT over whole trainings: radii that stay with their images, resumes, findings, plain ART code, refused settings."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cxr_eval_dpaat import DPAATTrainer

import cxr_eval.api as cxr
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

from art.attacks.evasion import ProjectedGradientDescentPyTorch  # isort: skip  # after ours, for logging
from art.data_generators import PyTorchDataGenerator  # isort: skip

SHORT = {"eps": 0.05, "steps": 3}
LOOP = Training(epochs=3, batch_size=7)
STATEFUL = [
    {},
    {"delta": "temporal", "average": "ema"},
    {"average": "epoch", "update": "multiplicative"},
    {"recraft": True, "delta": "temporal"},
    {"state": "batch", "average": "ema"},
]
each_state = pytest.mark.parametrize("settings", STATEFUL, ids=range(len(STATEFUL)))


class Watched(DPAATTrainer):
    """Keeps what every visit was told: rows, the radii they were attacked with, attacked and clean losses."""

    def on_fit_start(self, n):
        super().on_fit_start(n)
        self.visits = []
        visit = self.radii.visit

        def watched(rows, attacked, clean, known):
            self.visits.append([rows.tolist(), self.radii.of(rows).tolist(), attacked.numpy(), clean.numpy()])
            return visit(rows, attacked, clean, known)

        self.radii.visit = watched


def fitted(toys, kind=DPAATTrainer, training=LOOP, n=20, checkpoint=None, augment=None, **settings):
    x, y = toys.images(n)
    trainer = kind(toys.ours(toys.build(toys.Bumpy)), training=training, seed=1, **(SHORT | settings))
    trainer.fit(x, y, checkpoint=checkpoint, augment=augment)
    return trainer


def flipped(x, rng):
    flip = torch.rand(len(x), generator=rng) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)


def same_rows(first, second):
    return all(
        a.keys() == b.keys() and all(a[name] == b[name] or math.isnan(a[name] + b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("augment", [None, flipped])
def test_each_radius_follows_its_image_through_shuffled_epochs(toys, augment):
    trainer = fitted(toys, Watched, augment=augment)
    radii = dict.fromkeys(range(20), 0.05)  # the paper's rule, image by image in a dictionary
    for rows, eps, attacked, clean in trainer.visits:
        assert eps == [radii[row] for row in rows]
        delta = (attacked - clean).astype(np.float64)
        for row, value in zip(rows, delta, strict=True):
            moved = radii[row] - 0.005 if value > delta.mean() else radii[row] + 0.005
            radii[row] = min(max(moved, 0.0), 0.1)
    assert trainer.radii.eps.tolist() == [radii[row] for row in range(20)]
    orders = [[row for visit in trainer.visits[3 * k : 3 * k + 3] for row in visit[0]] for k in range(3)]
    assert [sorted(order) for order in orders] == [list(range(20))] * 3
    assert orders[0] != orders[1] != orders[2]
    assert len(set(radii.values())) > 2


@each_state
def test_a_resumed_training_ends_with_the_same_weights_and_radii(toys, tmp_path, settings):
    whole = fitted(toys, training=Training(epochs=4, batch_size=7), **settings)
    path = tmp_path / "checkpoint.pt"
    fitted(toys, training=Training(epochs=2, batch_size=7), checkpoint=path, **settings)
    resumed = fitted(toys, training=Training(epochs=4, batch_size=7), checkpoint=path, **settings)
    assert len(resumed.history) == 4
    assert toys.same(toys.state(resumed.model), toys.state(whole.model))
    assert torch.equal(resumed.radii.eps, whole.radii.eps)
    assert same_rows(resumed.history, whole.history)
    assert len(set(whole.radii.eps.tolist())) > 1


@each_state
def test_a_second_fit_starts_anew(toys, settings):
    trainer = fitted(toys, **settings)
    radii, history, state = trainer.radii.eps.clone(), trainer.history, toys.state(trainer.model)
    trainer.model.load_state_dict(toys.build(toys.Bumpy).state_dict())
    trainer.fit(*toys.images(20))
    assert torch.equal(trainer.radii.eps, radii)
    assert same_rows(trainer.history, history)
    assert toys.same(toys.state(trainer.model), state)


def test_the_history_has_a_column_for_everything_to_plot(toys):
    trainer = fitted(toys)
    shares = [f"eps_hist_{k}" for k in range(10)]
    quantiles = ["eps_q05", "eps_q25", "eps_median", "eps_q75", "eps_q95"]
    losses = ["loss_clean", "loss_adversarial", "loss_sync"]
    wanted = ["eps_mean", *quantiles, *shares, "fragile_fraction", "delta_mean", "delta_median", *losses]
    for row in trainer.history:
        assert set(wanted) <= set(row)
        assert all(math.isfinite(row[name]) for name in wanted)
        assert sum(row[name] for name in shares) == pytest.approx(1)
        assert [row[name] for name in quantiles] == sorted(row[name] for name in quantiles)
        assert 0 < row["fragile_fraction"] < 1
    assert trainer.history[-1]["eps_mean"] == pytest.approx(trainer.radii.eps.mean().item())
    low, high = trainer.eps_range()
    assert (low, high) == (trainer.radii.eps.min().item(), trainer.radii.eps.max().item())
    assert low < 0.05 < high


def test_fixed_radii_have_no_state_and_no_columns(toys, tmp_path):
    trainer = fitted(toys, dynamic=False)
    fitted(toys, dynamic=False, training=Training(epochs=2, batch_size=7), checkpoint=tmp_path / "checkpoint.pt")
    resumed = fitted(toys, dynamic=False, checkpoint=tmp_path / "checkpoint.pt")
    assert toys.same(toys.state(resumed.model), toys.state(trainer.model))
    assert trainer.state_dict() == {}
    assert not [name for row in trainer.history for name in row if name.startswith(("eps", "delta", "fragile"))]
    assert trainer.eps_range() == (0.05, 0.05)


def test_another_trainer_goes_on_from_the_state(toys):
    first = fitted(toys, delta="temporal", average="ema")
    second = DPAATTrainer(first.classifier, delta="temporal", average="ema", **SHORT)
    second.load_state_dict(first.state_dict())
    assert second.eps_range() == first.eps_range()
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


def test_before_a_fit_a_batch_is_a_first_visit(toys):
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    losses = []
    for begun in (False, True):
        trainer = DPAATTrainer(toys.ours(toys.build(toys.plain)), state="batch", **SHORT)
        if begun:
            trainer.on_fit_start(100)
        assert trainer.eps_range() == (0.05, 0.05)
        losses.append(trainer.loss(cxr.Batch(x, y, torch.arange(94, 100), 0)))
    assert torch.equal(*losses)


@each_state
def test_a_step_never_waits_for_the_host(toys, monkeypatch, settings):
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    trainer = DPAATTrainer(toys.ours(toys.build(toys.Bumpy)), **SHORT, **settings)
    trainer.on_fit_start(6)

    def refused(*args, **kwargs):
        raise AssertionError("this would wait for the device")

    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, refused)
    loss = trainer.loss(cxr.Batch(x, y, torch.arange(6), 0))
    monkeypatch.undo()
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("settings", [*STATEFUL, {"sync_weight": 0.0, "clean_weight": 0.0}, {"norm": "l2", "eps": 0.5}])
def test_every_weight_learns_in_bfloat16(toys, settings):
    trainer = fitted(toys, training=Training(epochs=2, batch_size=7, precision="bfloat16", channels_last=True), **settings)
    before = toys.build(toys.Bumpy)
    for (name, weight), old in zip(trainer.model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, old) == (not old.requires_grad), name
    assert trainer.radii.eps.isfinite().all()


@pytest.mark.parametrize("loop", [LOOP, Training(epochs=3, batch_size=7, finding_weights="batch", finding_loss="sum")])
@each_state
def test_findings_train_and_an_image_without_a_known_one_keeps_its_radius(toys, settings, loop):
    x, _ = toys.images(20)
    y = toys.findings(20)
    y[4] = np.nan
    trainer = DPAATTrainer(toys.ours(toys.build(toys.Bumpy), task="multilabel"), training=loop, **SHORT, **settings)
    trainer.fit(x, y)
    eps = trainer.radii.eps.tolist()
    assert eps.pop(4) == 0.05
    assert all(math.isfinite(row["train_loss"]) for row in trainer.history)
    assert any(value != 0.05 for value in eps)


def test_an_image_without_a_known_finding_stays_out_of_the_mean(toys):
    x, _ = toys.images(6)
    y = np.nan_to_num(toys.findings(6))
    y[5] = np.nan
    seen = []
    for n in (5, 6):
        model = toys.build(toys.plain)
        trainer = DPAATTrainer(toys.ours(model, task="multilabel"), random_start=False, **SHORT)
        trainer.on_fit_start(n)
        trainer.loss(cxr.Batch(torch.as_tensor(x[:n]), torch.as_tensor(y[:n]), torch.arange(n), 0))
        seen.append(trainer.radii.fragile[:5].tolist())
    assert seen[0] == seen[1]
    assert trainer.radii.fragile[5].isnan()


def test_what_a_class_weighs_makes_no_image_fragile(toys):
    x, y = toys.images(24)
    x, y = x[(y != 0) | (np.arange(24) < 12)], y[(y != 0) | (np.arange(24) < 12)]  # fewer images of class 0
    model = toys.build(toys.plain)
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(torch.as_tensor(x)), torch.as_tensor(y), reduction="none")
    training = Training(epochs=1, batch_size=24, class_weights="balanced", label_smoothing=0.1)
    trainer = Watched(toys.ours(model), training=training, **SHORT)
    trainer.fit(x, y)
    ((rows, _, _, clean),) = trainer.visits
    assert (trainer.criterion.weight != 1).any()
    np.testing.assert_allclose(clean, expected[rows].numpy(), rtol=1e-5)  # float32; another order of the batch


def test_radii_of_images_need_rows_that_a_generator_does_not_give(toys):
    x, y = (torch.as_tensor(v) for v in toys.images(8))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    for settings in ({"state": "batch"}, {"dynamic": False}):
        trainer = DPAATTrainer(toys.ours(toys.build(toys.plain)), **SHORT, **settings)
        trainer.fit_generator(PyTorchDataGenerator(data, 8, 4), nb_epochs=1)
        assert len(trainer.history) == 1
    with pytest.raises(ValueError, match="keeps a radius for each image; use fit, not fit_generator, or set state: batch"):
        DPAATTrainer(toys.ours(toys.build(toys.plain)), **SHORT).fit_generator(PyTorchDataGenerator(data, 8, 4), nb_epochs=1)


def test_plain_art_code_trains_it_and_attacks_what_it_trained(toys):
    x, y = toys.images(60)
    right = []
    for kind, settings in ((StandardTrainer, {}), (DPAATTrainer, {"eps": 0.1, "steps": 5})):
        model = toys.build(toys.plain)
        trainer = kind(toys.arts(model, optimizer=toys.sgd(model)), **settings)
        trainer.fit(x, y, batch_size=20, nb_epochs=25)
        classifier = trainer.get_classifier()
        attack = ProjectedGradientDescentPyTorch(classifier, eps=0.15, eps_step=0.03, max_iter=20, verbose=False)
        attacked = attack.generate(x, np.eye(3, dtype=np.float32)[y])
        assert np.abs(attacked - x).max() <= 0.15 + 1e-6
        right.append([(classifier.predict(images).argmax(axis=1) == y).mean() for images in (x, attacked)])
    assert right[1][0] > 0.9
    assert right[1][1] > right[0][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, "did you mean 8/255"),
        ({"epsilon": 0.1}, "has no setting '"),
        ({"update_factor": 1.0}, "expected a number above 1"),
        ({"average": "ema", "average_momentum": 1.0}, "expected a number below 1"),
        ({"dynamic": False, "eps_max": 0.1}, "eps_max is a setting of dynamic radii; leave it out, or set dynamic: true"),
        ({"dynamic": False, "recraft": True}, "recraft is a setting of dynamic radii"),
        ({"dynamic": False, "delta": "temporal"}, "delta is a setting of dynamic radii"),
        ({"update_factor": 1.2}, "update_factor is of update: multiplicative"),
        ({"update": "multiplicative", "update_step": 0.01}, "update_step is of update: additive"),
        ({"average_momentum": 0.5}, "average_momentum is of average: ema"),
        ({"step": 0.01, "step_factor": 4.0}, "step and step_factor both"),
        ({"sync": "mse", "sync_weight": 0.0}, "give sync_weight above 0, or leave sync out"),
        ({"state": "batch", "recraft": True}, "recraft needs radii that stay with their images"),
        ({"state": "batch", "eps_start": 0.01}, "eps_start needs radii that stay with their images"),
        ({"state": "batch", "delta": "temporal"}, "delta: temporal needs the image's loss at its last visit"),
        ({"clean_weight": 1.0, "sync_weight": 0.0}, "trains on no attacked image"),
        ({"eps": 0.0}, "give eps above 0, or set dynamic: false"),
        ({"eps": 0.02, "eps_min": 0.03}, "eps 0.02 is not between eps_min 0.03 and eps_max 0.04"),
        ({"eps": 0.02, "eps_max": 0.01}, "eps 0.02 is not between eps_min 0 and eps_max 0.01"),
        ({"eps": 0.02, "eps_start": 0.05}, "eps_start 0.05 is not between eps_min 0 and eps_max 0.04"),
        ({"update": "multiplicative", "eps_start": 0.0}, "never leaves radius 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(toys, settings, message):
    with pytest.raises(ValueError, match=message):
        DPAATTrainer(toys.ours(toys.build(toys.plain)), **settings)


def test_settings_that_state_a_default_are_no_contradiction():
    for settings in ({"dynamic": False}, {"state": "batch"}, {"sync_weight": 0.0}, {"step": 0.01}):
        params = DPAATTrainer.Params(**settings)
        assert DPAATTrainer.Params.model_validate(params.model_dump()) == params


def test_radii_may_be_written_as_fractions_and_default_to_shares_of_eps():
    params = DPAATTrainer.Params(eps="8/255", eps_max="12/255")
    assert (params.start, params.largest, params.additive) == (8 / 255, 12 / 255, 8 / 255 / 10)
    assert DPAATTrainer.Params(eps=0.75).largest == 1.0
    assert DPAATTrainer.Params(norm="l2", eps=0.75).largest == 1.5


def readme(language=None):
    """The plugin's page, or its one block of code in a language."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return text if language is None else text.partition(f"```{language}\n")[2].partition("```")[0]


def test_the_readme_names_every_setting():
    names = [name for name in DPAATTrainer.Params.model_fields if f"`{name}" not in readme()]
    assert not names
    assert all(field.description for field in DPAATTrainer.Params.model_fields.values())


def test_the_readmes_trainers_are_the_method_and_its_two_ablations():
    trainers = yaml.safe_load(readme("yaml"))["trainers"]
    given = [{key: value for key, value in trainer.items() if key not in ("name", "label")} for trainer in trainers]
    params = [DPAATTrainer.Params(**settings) for settings in given]
    assert [(p.dynamic, p.sync_weight) for p in params] == [(True, 1), (True, 0), (False, 1)]


def test_the_readmes_code_runs(toys):
    x, y = toys.images(12)
    model = toys.build(toys.plain)
    names = {"classifier": toys.arts(model, optimizer=toys.sgd(model)), "x": x, "y": y}
    exec(readme("python"), names)
    assert names["robust_classifier"].predict(x).shape == (12, 3)
    assert len(names["trainer"].history) == 2
