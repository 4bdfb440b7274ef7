"""The training loop: batches, schedule, choice of the best epoch, early stopping, and resumption bit for bit."""

import math

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.errors import TrainingError
from cxr_eval.fitting import Shuffled, build_optimizer
from cxr_eval.images import ArrayImages
from cxr_eval.seeds import stream
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Optimizer, Schedule, Training

CPU = torch.device("cpu")


class Stop(Exception):  # noqa: N818  # not an error: the machine goes down
    """An interruption in the middle of a training."""


class Scripted(cxr.Trainer):
    """Does nothing but leave, after each epoch, a network whose bias is what the script says; state that must survive."""

    script: tuple[float, ...] = ()

    def on_fit_start(self, n):
        self.seen = 0

    def loss(self, batch):
        self.seen += len(batch.x)
        return 0 * sum(weight.sum() for weight in self.model.parameters() if weight.requires_grad)

    def on_epoch_end(self, epoch):
        with torch.no_grad():
            self.model[-1].weight.zero_()
            self.model[-1].bias.copy_(torch.tensor([self.script[epoch], 0.0, 0.0]))

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def scripted(toys, losses, **select):
    """A trainer whose logit for class 0 after each epoch is scripted; all validation images are of class 0."""
    x, y = toys.images(6)
    model = toys.build(toys.plain)
    trainer = Scripted(toys.ours(model), training=Training(epochs=len(losses), batch_size=6, select=select))
    trainer.script = losses
    trainer.fit(x, y, validation_data=(x, np.zeros(6, dtype=np.int64)))
    return trainer


# batches


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (6, 3, [3, 3]),
        (7, 3, [3, 4]),  # one left over joins the batch before it
        (8, 3, [3, 3, 2]),
        (5, 8, [5]),
        (1, 8, [1]),
        (3, 2, [3]),
        (9, 8, [9]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_one_left_over_image_joins_the_batch_before_it(n, batch_size, sizes):
    batches = Shuffled(ArrayImages(torch.rand(n, 1, 2, 2)), torch.zeros(n).long(), batch_size, 0, CPU)
    found = list(batches.epoch(0))
    assert [len(batch.x) for batch in found] == sizes
    assert len(batches) == len(sizes)
    assert sorted(torch.cat([batch.index for batch in found]).tolist()) == list(range(n))


def test_batchnorm_trains_on_a_number_of_images_that_leaves_one_over(toys):
    class Flat(torch.nn.Module):
        """BatchNorm over single numbers: one image alone is an error."""

        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.BatchNorm1d(4))
            self.head = torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.net(x))

    trainer = StandardTrainer(toys.ours(toys.build(Flat)), training=Training(epochs=1, batch_size=3))
    trainer.fit(*toys.images(7))
    assert len(trainer.history) == 1


def test_the_order_follows_from_seed_and_epoch_alone():
    images, y = ArrayImages(torch.rand(50, 1, 2, 2)), torch.zeros(50).long()

    def order(seed, epoch, batch_size=8):
        batches = Shuffled(images, y, batch_size, seed, CPU)
        return torch.cat([batch.index for batch in batches.epoch(epoch)]).tolist()

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) == order(0, 3, batch_size=5)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_random_streams_are_told_apart_by_every_part_of_their_name():
    seeds = {
        stream(*key)
        for key in [(0, "order", 0), (0, "order", 1), (1, "order", 0), (0, "noise", 0), (0, "order"), (0, "or", "der")]
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert stream(0, "order", 0) == 868375782  # fixed for good: results follow from it


# losses


class Poisoned(StandardTrainer):
    """Its loss is not finite in the given epoch and batch."""

    where = (1, 2)
    value = float("nan")

    def on_fit_start(self, n):
        self.batch = 0

    def on_epoch_end(self, epoch):
        self.batch = 0

    def loss(self, batch):
        self.batch += 1
        return super().loss(batch) * (self.value if (batch.epoch, self.batch - 1) >= self.where else 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_names_trainer_epoch_and_batch(toys, value):
    trainer = Poisoned(toys.ours(toys.build(toys.plain)), training=Training(epochs=3, batch_size=5))
    trainer.value = value
    with pytest.raises(TrainingError) as caught:
        trainer.fit(*toys.images(20))
    assert str(caught.value) == ("Poisoned: the loss is not finite at epoch 2, batch 3 of 4; lower the learning rate")


def test_a_learning_rate_far_too_high_is_a_training_error(toys):
    training = Training(epochs=5, batch_size=5, optimizer={"name": "sgd", "lr": 1e30})
    with pytest.raises(TrainingError, match="StandardTrainer: the loss is not finite at epoch"):
        StandardTrainer(toys.ours(toys.build(toys.plain)), training=training).fit(*toys.images(20))


def test_the_training_loss_is_the_mean_over_images_not_batches(toys):
    class ByIndex(StandardTrainer):
        def loss(self, batch):
            return super().loss(batch) * 0 + batch.index.float().mean()

    trainer = ByIndex(toys.ours(toys.build(toys.plain)), training=Training(epochs=1, batch_size=8))
    trainer.fit(*toys.images(10))
    assert trainer.history[0]["train_loss"] == pytest.approx(4.5)


# choice of the epoch


def test_the_epoch_with_the_lowest_validation_loss_is_kept(toys):
    trainer = scripted(toys, (0.0, 2.0, 5.0, 1.0, -3.0))
    assert trainer.model[-1].bias[0].item() == 5.0
    assert trainer.best_epoch == 2
    assert len(trainer.history) == 5
    expected = [math.log(1 + 2 * math.exp(-z)) for z in (0.0, 2.0, 5.0, 1.0, -3.0)]
    assert [row["val_loss"] for row in trainer.history] == pytest.approx(expected, rel=1e-5)  # float32


def test_the_first_of_equal_epochs_is_kept(toys):
    trainer = scripted(toys, (0.5, 1.0, 2.0), metric="accuracy")  # 1.0 each time
    assert trainer.model[-1].bias[0].item() == 0.5
    assert trainer.best_epoch == 0


def test_last_keeps_the_last_epoch(toys):
    trainer = scripted(toys, (5.0, 2.0, -1.0), metric="last")
    assert trainer.model[-1].bias[0].item() == -1.0
    assert trainer.best_epoch == 2
    assert len(trainer.history) == 3


def test_without_validation_images_the_last_epoch_is_kept(toys):
    trainer = Scripted(toys.ours(toys.build(toys.plain)), training=Training(epochs=3, batch_size=6, select={"patience": 1}))
    trainer.script = (5.0, 2.0, -1.0)
    trainer.fit(*toys.images(6))
    assert trainer.model[-1].bias[0].item() == -1.0
    assert len(trainer.history) == 3


@pytest.mark.parametrize(("patience", "epochs"), [(1, 4), (2, 7), (3, 8), (None, 8)])
def test_training_stops_after_so_many_epochs_without_improvement(toys, patience, epochs):
    # improves at epochs 1, 2, 3, then not at 4; at 5 it does, then never again
    trainer = scripted(toys, (0.0, 1.0, 2.0, 1.0, 3.0, 2.0, 1.0, 0.0), patience=patience)
    assert len(trainer.history) == epochs
    assert trainer.model[-1].bias[0].item() == (2.0 if patience == 1 else 3.0)


def test_robust_accuracy_can_select(toys):
    x, y = toys.images(30)
    training = Training(epochs=6, batch_size=10, select={"metric": "robust_accuracy", "eps": 0.05, "steps": 3})
    trainer = PGDTrainer(toys.ours(toys.build(toys.plain)), training=training, eps=0.05, steps=2)
    trainer.fit(x, y, validation_data=(x, y))
    robust = [row["val_robust_accuracy"] for row in trainer.history]
    assert trainer.best_epoch == int(np.argmax(robust))
    assert all(row["val_robust_accuracy"] <= row["val_accuracy"] for row in trainer.history)


def test_a_validation_score_that_is_not_defined_is_a_training_error(toys):
    x, y = toys.images(6)
    trainer = StandardTrainer(toys.ours(toys.build(toys.plain)), training=Training(epochs=1, select={"metric": "auroc"}))
    with pytest.raises(TrainingError, match="StandardTrainer: val_auroc, which selects the epoch, is not defined"):
        trainer.fit(x, y, validation_data=(x[:1], y[:1] * 0))


# learning rate


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup": 3}, [0.25, 0.5, 0.75, 1]),
        ({"name": "step", "step_size": 2, "gamma": 0.1}, [1, 1, 0.1, 0.1]),
        ({"name": "step", "step_size": 1, "gamma": 0.5, "warmup": 1}, [0.5, 1, 0.5, 0.25]),
        ({"name": "cosine"}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ({"name": "cosine", "warmup": 2}, [1 / 3, 2 / 3, 1, 0.5]),
        ({"name": "cosine", "warmup": 9}, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_the_schedule_by_hand_and_once_an_epoch(toys, schedule, factors):
    assert [Schedule(**schedule).factor(epoch, 4) for epoch in range(4)] == pytest.approx(factors)
    training = Training(epochs=4, batch_size=5, optimizer={"name": "sgd", "lr": 0.5}, schedule=schedule)
    trainer = StandardTrainer(toys.ours(toys.build(toys.plain)), training=training)
    trainer.fit(*toys.images(20))
    assert [row["lr"] for row in trainer.history] == pytest.approx([0.5 * factor for factor in factors])


def test_the_learning_rate_acts_in_its_own_epoch(toys):
    # with warm-up, one epoch of one batch moves the weights half as far
    moves = []
    for warmup in (0, 1):
        model = toys.build(toys.plain)
        before = model[-1].bias.detach().clone()
        settings = {"name": "sgd", "lr": 0.5, "momentum": 0.0}
        training = Training(epochs=1, batch_size=6, optimizer=settings, schedule={"warmup": warmup})
        StandardTrainer(toys.ours(model), training=training).fit(*toys.images(6))
        moves.append(model[-1].bias.detach() - before)
    torch.testing.assert_close(moves[1], moves[0] / 2, rtol=1e-3, atol=1e-7)  # float32 difference of nearby numbers


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_optimizer_is_torchs_with_the_settings_given(name):
    weight = torch.nn.Parameter(torch.zeros(1))
    built = build_optimizer(Optimizer(name=name, lr=0.3, weight_decay=0.1, momentum=0.5), [weight])
    assert type(built).__name__.lower() == name
    group = built.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.1)
    assert group.get("momentum", 0.5) == 0.5


# progress


def test_progress_tells_every_batch_and_every_epochs_scores(toys):
    seen = []
    trainer = StandardTrainer(toys.ours(toys.build(toys.plain)), training=Training(epochs=2, batch_size=5))
    trainer.fit(*toys.images(10), progress=seen.append)
    assert [(p.epoch, p.batch, bool(p.scores)) for p in seen] == [
        (1, 1, False),
        (1, 2, False),
        (1, 2, True),
        (2, 1, False),
        (2, 2, False),
        (2, 2, True),
    ]
    assert all((p.epochs, p.batches) == (2, 2) for p in seen)
    assert seen[2].scores == trainer.history[0]


# checkpoint and resume

RESUMED = {
    "adam": {"optimizer": {"name": "adam", "lr": 0.01}},
    "momentum and steps": {
        "optimizer": {"name": "sgd", "lr": 0.05},
        "schedule": {"name": "step", "step_size": 2, "gamma": 0.5},
    },
    "cosine, warm-up, decay": {
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup": 1},
    },
    "early stopping": {"optimizer": {"name": "adam", "lr": 0.005}, "select": {"metric": "accuracy", "patience": 2}},
    "bfloat16 and channels_last": {"precision": "bfloat16", "channels_last": True, "optimizer": {"name": "sgd", "lr": 0.05}},
    "balanced and smooth": {"class_weights": "balanced", "label_smoothing": 0.1},
}


def run(toys, trainer, settings, checkpoint=None, stop_after=None, seed=0, epochs=6, scheduler=False, **own):
    """One training with everything that has state: BatchNorm, dropout, augmentation, validation."""
    x, y = toys.images(20)
    val_x, val_y = toys.images(12, seed=1)
    model = toys.build(toys.Bumpy)
    training = Training(epochs=epochs, batch_size=7, **settings)
    if scheduler:
        optimizer = toys.sgd(model)
        made = trainer(toys.arts(model, optimizer=optimizer), seed=seed, **own)
        more = {"batch_size": 7, "nb_epochs": epochs}
        more["scheduler"] = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    else:
        made, more = trainer(toys.ours(model), training=training, seed=seed, **own), {}

    def watch(progress):
        if stop_after is not None and (progress.epoch, progress.batch, bool(progress.scores)) == stop_after:
            raise Stop

    made.fit(
        x,
        y,
        validation_data=(val_x, val_y),
        augment=lambda x, rng: (x + 0.05 * torch.rand(x.shape, generator=rng)).clamp(0, 1),
        checkpoint=checkpoint,
        progress=watch,
        **more,
    )
    return made


@pytest.mark.parametrize("stop_after", [(2, 3, True), (3, 1, False), (4, 3, False)], ids=["between", "within", "at the end"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_training_gives_the_weights_of_an_uninterrupted_one(toys, tmp_path, name, stop_after):
    settings = RESUMED[name]
    trainer, own = (PGDTrainer, {"eps": 0.05, "steps": 2}) if "adam" in name else (StandardTrainer, {})
    whole = run(toys, trainer, settings, **own)
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        run(toys, trainer, settings, checkpoint, stop_after, **own)
    assert checkpoint.exists()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # another process would stand elsewhere
        resumed = run(toys, trainer, settings, checkpoint, **own)
    assert toys.same(toys.state(resumed.model), toys.state(whole.model))
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]


def test_early_stopping_stops_in_the_test_above(toys):
    assert len(run(toys, StandardTrainer, RESUMED["early stopping"]).history) < 6


def test_arts_scheduler_survives_a_resume(toys, tmp_path):
    whole = run(toys, StandardTrainer, {}, scheduler=True)
    with pytest.raises(Stop):
        run(toys, StandardTrainer, {}, tmp_path / "c.pt", (3, 3, True), scheduler=True)
    resumed = run(toys, StandardTrainer, {}, tmp_path / "c.pt", scheduler=True)
    assert toys.same(toys.state(resumed.model), toys.state(whole.model))
    assert [row["lr"] for row in resumed.history] == [row["lr"] for row in whole.history]


def test_a_plugins_state_survives_a_resume(toys, tmp_path):
    x, y = toys.images(6)

    def make():
        trainer = Scripted(toys.ours(toys.build(toys.plain)), training=Training(epochs=4, batch_size=6))
        trainer.script = (1.0, 2.0, 3.0, 4.0)
        return trainer

    def watch(progress):
        if progress.epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        make().fit(x, y, checkpoint=tmp_path / "c.pt", progress=watch)
    trainer = make()
    trainer.fit(x, y, checkpoint=tmp_path / "c.pt")
    assert trainer.seen == 24


def test_a_finished_training_is_not_trained_again(toys, tmp_path):
    first = run(toys, StandardTrainer, {}, tmp_path / "c.pt")
    again = run(toys, StandardTrainer, {}, tmp_path / "c.pt", stop_after=(1, 1, False))
    assert toys.same(toys.state(first.model), toys.state(again.model))
    assert again.history == first.history


def test_a_checkpoint_does_not_change_the_training(toys, tmp_path):
    assert toys.same(
        toys.state(run(toys, StandardTrainer, {}, tmp_path / "c.pt").model), toys.state(run(toys, StandardTrainer, {}).model)
    )


def test_more_epochs_go_on_from_a_checkpoint(toys, tmp_path):
    run(toys, StandardTrainer, {}, tmp_path / "c.pt", epochs=3)
    longer = run(toys, StandardTrainer, {}, tmp_path / "c.pt", epochs=6)
    assert toys.same(toys.state(longer.model), toys.state(run(toys, StandardTrainer, {}).model))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"settings": {"optimizer": {"lr": 0.5}}},
        {"trainer": PGDTrainer},
        {"trainer": PGDTrainer, "eps": 0.01},
        {"settings": {"schedule": {"name": "cosine"}}, "epochs": 7},
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(toys, tmp_path, change):
    base = {"trainer": StandardTrainer, "settings": {}}
    if "eps" in change:
        base["trainer"] = PGDTrainer
    if "epochs" in change:
        base["settings"] = change["settings"]
    run(toys, checkpoint=tmp_path / "c.pt", **base)
    with pytest.raises(ValueError, match=r"c.pt: checkpoint of a training with other settings; delete it or name another file"):
        run(toys, checkpoint=tmp_path / "c.pt", **(base | change))


def test_a_scheduler_that_cannot_be_resumed_is_refused_before_training(toys, tmp_path):
    class Bare:
        def step(self):
            pass

    trainer = StandardTrainer(toys.ours(toys.build(toys.plain)), training=Training(epochs=1))
    trainer.fit(*toys.images(6), scheduler=Bare())
    with pytest.raises(ValueError, match="a scheduler without state_dict cannot survive a resume"):
        trainer.fit(*toys.images(6), scheduler=Bare(), checkpoint=tmp_path / "c.pt")
    assert not list(tmp_path.iterdir())


def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before(toys, tmp_path, monkeypatch):
    whole = run(toys, StandardTrainer, {})
    with pytest.raises(Stop):
        run(toys, StandardTrainer, {}, tmp_path / "c.pt", (2, 3, True))
    good = (tmp_path / "c.pt").read_bytes()

    def torn(state, file):
        file.write(b"half")
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        with pytest.raises(Stop):
            run(toys, StandardTrainer, {}, tmp_path / "c.pt")
    assert (tmp_path / "c.pt").read_bytes() == good
    resumed = run(toys, StandardTrainer, {}, tmp_path / "c.pt")
    assert toys.same(toys.state(resumed.model), toys.state(whole.model))


# precision and layout


def test_half_precision_is_for_training_steps_only(toys):
    seen = []

    class Watching(StandardTrainer):
        def loss(self, batch):
            seen.append((self.model(batch.x).dtype, batch.x.dtype, batch.x.is_contiguous(memory_format=torch.channels_last)))
            return super().loss(batch)

    x, y = toys.images(12, channels=3)
    model = toys.build(toys.plain, channels=3)
    training = Training(epochs=1, batch_size=6, precision="bfloat16", channels_last=True)
    trainer = Watching(toys.ours(model, channels=3), training=training)
    trainer.fit(x, y, validation_data=(x, y))
    assert set(seen) == {(torch.bfloat16, torch.float32, True)}
    assert all(weight.dtype == torch.float32 and weight.is_contiguous() for weight in model.parameters())
    assert torch.is_autocast_enabled("cpu") is False


def test_channels_last_is_only_a_layout(toys):
    x, y = toys.images(12, channels=3)
    states = []
    for channels_last in (False, True):
        model = toys.build(toys.plain, channels=3)
        training = Training(epochs=1, batch_size=6, optimizer={"name": "sgd", "lr": 0.1}, channels_last=channels_last)
        StandardTrainer(toys.ours(model, channels=3), training=training).fit(x, y)
        states.append(toys.state(model))
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=1e-5)  # float32; convolutions sum in another order
