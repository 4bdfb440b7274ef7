"""The base trainer: an ART trainer by every door, that refuses what it cannot train on and changes nothing of the caller's."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import cxr_eval.api as cxr
from cxr_eval.criteria import MaskedBCE
from cxr_eval.images import ArrayImages, ImageSet
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

from art.data_generators import DataGenerator, PyTorchDataGenerator  # isort: skip  # after ours, for logging
from art.defences.preprocessor import FeatureSqueezing  # isort: skip
from art.defences.trainer import Trainer as ArtTrainer  # isort: skip


class Recorder(cxr.Trainer):
    """The standard loss; it remembers what it saw, and it may draw noise."""

    class Params(cxr.Params):
        draws: int = cxr.Field(0, description="numbers drawn from the trainer's generator and the global one each step")

    def on_fit_start(self, n):
        self.n, self.indices, self.images, self.labels, self.epochs, self.modes = n, [], [], [], [], []

    def on_epoch_end(self, epoch):
        self.epochs.append(epoch)

    def loss(self, batch):
        torch.rand(self.params.draws, generator=self.rng)
        torch.rand(self.params.draws)
        self.indices.append(batch.index.clone())
        self.images.append(batch.x.clone())
        self.labels.append(batch.y.clone())
        self.modes.append(self.model.training)
        self.log("mean", batch.x.mean())
        self.log("epoch_number", batch.epoch)
        return self.criterion(self.model(batch.x), batch.y)


def fitted(toys, n=20, trainer=Recorder, model=None, training=None, seed=0, settings=None, **keywords):
    x, y = toys.images(n)
    model = toys.build(toys.Bumpy) if model is None else model
    training = Training(epochs=2, batch_size=7) if training is None else training
    trainer = trainer(toys.ours(model), training=training, seed=seed, **(settings or {}))
    trainer.fit(x, y, **keywords)
    return trainer


def refused(toys, x, y, task="multiclass", training=None, **keywords):
    trainer = StandardTrainer(toys.ours(toys.build(toys.plain), task=task), training=training)
    before = toys.state(trainer.model)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared whole
        trainer.fit(x, y, **keywords)
    assert toys.same(toys.state(trainer.model), before)
    return str(caught.value)


# what a loss sees


def test_a_loss_sees_every_image_once_an_epoch_with_its_row_and_label(toys):
    x, y = toys.images(20)
    trainer = fitted(toys)
    assert trainer.n == 20
    assert [len(index) for index in trainer.indices] == [7, 7, 6] * 2
    for first in (0, 3):
        assert sorted(torch.cat(trainer.indices[first : first + 3]).tolist()) == list(range(20))
    assert not torch.equal(torch.cat(trainer.indices[:3]), torch.cat(trainer.indices[3:]))
    for index, images, labels in zip(trainer.indices, trainer.images, trainer.labels, strict=True):
        assert torch.equal(images, torch.as_tensor(x)[index])
        assert torch.equal(labels, torch.as_tensor(y)[index])
    assert trainer.epochs == [0, 1]
    assert all(trainer.modes)


def jitter(x, rng):
    return (x + 0.1 * torch.rand(x.shape, generator=rng)).clamp(0, 1)


def test_different_trainers_see_the_same_batches_and_augmentations_for_one_seed(toys):
    quiet = fitted(toys, augment=jitter)
    loud = fitted(toys, augment=jitter, settings={"draws": 5}, model=toys.build(toys.plain, seed=3))
    other = fitted(toys, augment=jitter, seed=1)
    for first, second in zip(quiet.images, loud.images, strict=True):
        assert torch.equal(first, second)
    assert [index.tolist() for index in quiet.indices] == [index.tolist() for index in loud.indices]
    assert [index.tolist() for index in quiet.indices] != [index.tolist() for index in other.indices]
    assert not torch.equal(quiet.images[0], torch.as_tensor(toys.images(20)[0])[quiet.indices[0]])
    first_epoch = torch.cat(quiet.images[:3])[torch.cat(quiet.indices[:3]).argsort()]
    second_epoch = torch.cat(quiet.images[3:])[torch.cat(quiet.indices[3:]).argsort()]
    assert not torch.equal(first_epoch, second_epoch)  # augmented anew


def test_a_plugins_noise_does_not_move_dropout(toys):
    # the draws come from the trainer's generator alone, so the dropout stream and the weights are the same
    class Noisy(Recorder):
        def loss(self, batch):
            torch.rand(7, generator=self.rng)
            return super().loss(batch)

    assert toys.same(toys.state(fitted(toys).model), toys.state(fitted(toys, trainer=Noisy).model))


def test_dropout_is_drawn_anew_each_epoch_and_follows_from_the_seed(toys):
    class Dropping(Recorder):
        def loss(self, batch):
            mask = functional.dropout(torch.ones(60)) > 0
            self.masks = [*getattr(self, "masks", []), tuple(mask.tolist())]
            return super().loss(batch)

    first, again, other = (fitted(toys, trainer=Dropping, seed=seed).masks for seed in (0, 0, 1))
    assert len(set(first)) == 6  # three batches in two epochs
    assert first == again
    assert not set(first) & set(other)


def test_what_is_logged_is_in_the_history_as_its_mean_over_the_batches(toys):
    trainer = fitted(toys)
    assert [row["epoch_number"] for row in trainer.history] == [0, 1]
    expected = torch.stack([images.mean() for images in trainer.images[:3]]).mean()
    assert trainer.history[0]["mean"] == pytest.approx(float(expected), rel=1e-6)
    assert set(trainer.history[0]) == {"epoch", "lr", "train_loss", "mean", "epoch_number"}


def test_what_a_failed_fit_logged_is_forgotten(toys):
    x, y = toys.images(6)

    class Failing(Recorder):
        broken = True

        def loss(self, batch):
            loss = super().loss(batch)
            self.log("broken", 100.0 if self.broken else 0.0)
            if self.broken:
                raise KeyError("plugin")
            return loss

    trainer = Failing(toys.ours(toys.build(toys.plain)), training=Training(epochs=1, batch_size=6))
    with pytest.raises(KeyError):
        trainer.fit(x, y)
    trainer.broken = False
    trainer.fit(x, y)
    assert trainer.history[0]["broken"] == 0


def test_after_fit_the_network_is_in_evaluation_mode_and_the_callers_data_is_as_it_was(toys):
    x, y = toys.images(20)
    pixels, labels = x.copy(), y.copy()

    class Vandal(Recorder):
        def loss(self, batch):
            loss = super().loss(cxr.Batch(batch.x.clone(), batch.y.clone(), batch.index, batch.epoch))
            batch.x.zero_()
            batch.y.zero_()
            return loss

    trainer = Vandal(toys.ours(toys.build(toys.plain)), training=Training(epochs=1, batch_size=7))
    trainer.fit(x, y, validation_data=(x, y))
    np.testing.assert_array_equal(x, pixels)
    np.testing.assert_array_equal(y, labels)
    trainer.fit(torch.as_tensor(x), torch.as_tensor(y))
    np.testing.assert_array_equal(x, pixels)
    np.testing.assert_array_equal(y, labels)
    assert not any(module.training for module in trainer.model.modules())


def test_weights_that_their_owner_froze_stay_as_they_are(toys):
    model = toys.build(toys.Bumpy)
    before = model.head.bias.clone()
    training = Training(epochs=2, batch_size=7, optimizer={"name": "adamw", "lr": 0.1, "weight_decay": 0.5})
    fitted(toys, model=model, training=training)
    assert torch.equal(model.head.bias, before)
    assert not model.head.bias.requires_grad


def test_fit_leaves_the_global_random_states_alone(toys):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    fitted(toys, trainer=PGDTrainer)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_a_training_does_not_follow_from_the_global_random_state(toys):
    states = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            states.append(toys.state(fitted(toys).model))
    assert toys.same(*states)


# labels and images in every form


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y,
        lambda y: y.astype(np.int32),
        lambda y: y.astype(np.uint8),
        lambda y: np.eye(3)[y],
        lambda y: np.eye(3, dtype=np.int64)[y],
        lambda y: np.eye(3, dtype=bool)[y],
        torch.as_tensor,
        lambda y: torch.eye(3)[torch.as_tensor(y)],
        lambda y: y.tolist(),
        lambda y: pd.DataFrame({"y": y})["y"].to_numpy(),  # read-only
        lambda y: y[::-1][::-1],
    ],
    ids=[
        "int64",
        "int32",
        "uint8",
        "one-hot",
        "int one-hot",
        "bool one-hot",
        "tensor",
        "tensor one-hot",
        "list",
        "pandas",
        "view",
    ],
)
def test_labels_in_every_form_train_to_the_same_weights(toys, form):
    x, y = toys.images(20)
    expected = toys.state(fitted(toys).model)
    model = toys.build(toys.Bumpy)
    Recorder(toys.ours(model), training=Training(epochs=2, batch_size=7)).fit(x, form(y))
    assert toys.same(toys.state(model), expected)


def test_arrays_tensors_and_image_sets_train_to_the_same_weights(toys):
    x, y = toys.images(20)
    expected = toys.state(fitted(toys).model)
    table = pd.DataFrame({"image_id": [str(k) for k in range(20)]})
    images = ImageSet(x[::-1].copy(), np.arange(20)[::-1].copy(), y, table, ("a", "b", "c"), "train")
    for source in (torch.as_tensor(x), images, ArrayImages(x)):
        model = toys.build(toys.Bumpy)
        Recorder(toys.ours(model), training=Training(epochs=2, batch_size=7)).fit(source, y)
        assert toys.same(toys.state(model), expected)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2, 0, 1], "expected 6 labels, one an image, got 5"),
        ([0, 1, 2, 0, 1, 3], "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        ([0, 1, 2, 0, 1, -1], "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        ([0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        (np.array([[0], [1], [2], [0], [1], [2]]), "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        (np.eye(4)[[0, 1, 2, 0, 1, 2]], "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        (np.ones((6, 3)), "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        (np.full((6, 3), 1 / 3), "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        (np.full((6, 3), np.nan), "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
        (np.zeros((6, 3, 1)), "expected class indices (N,) from 0 to 2, or one-hot rows (N, 3)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(toys, y, message):
    x, _ = toys.images(6)
    assert refused(toys, x, y) == message
    good = toys.images(6)
    assert refused(toys, *good, validation_data=(x, y)) == message


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(6), "expected findings (N, 3), got shape (6,)"),
        (np.zeros((6, 2)), "expected findings (N, 3), got shape (6, 2)"),
        (np.where(np.eye(6, 3) == 1, -1.0, 0.0), "expected findings 0, 1 or NaN (unknown), got -1"),
        (np.full((6, 3), 0.5), "expected findings 0, 1 or NaN (unknown), got 0.5"),
        (np.full((6, 3), np.inf), "expected findings 0, 1 or NaN (unknown), got inf"),
        (np.zeros((5, 3)), "expected 6 labels, one an image, got 5"),
    ],
)
def test_findings_that_are_none_are_refused(toys, y, message):
    x, _ = toys.images(6)
    assert refused(toys, x, y, task="multilabel") == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), "expected images (N, C, H, W) float32 in [0, 1], got (6, 1, 8, 8) torch.float64"),
        (lambda x: (x * 255).astype(np.uint8), "expected images (N, C, H, W) float32 in [0, 1], got (6, 1, 8, 8) torch.uint8"),
        (lambda x: x[:, 0], "expected images (N, C, H, W) float32 in [0, 1], got (6, 8, 8) torch.float32"),
        (lambda x: np.float32(x - 1), "expected images in [0, 1], got {low:g} to {high:g}"),
        (lambda x: np.float32(x * 255), "expected images in [0, 1], got {low:g} to {high:g}"),
        (lambda x: np.where(x == x.max(), np.float32(np.nan), x), "expected images in [0, 1], got nan to nan"),
        (lambda x: x.tolist(), "expected images as an array, a tensor or an ImageSet, got list"),
        (lambda x: None, "expected images as an array, a tensor or an ImageSet, got NoneType"),
    ],
)
def test_images_of_another_type_shape_or_range_are_refused(toys, change, message):
    x, y = toys.images(6)
    wrong = change(x)
    if isinstance(wrong, np.ndarray):
        message = message.format(low=float(wrong.min()), high=float(wrong.max()))
    assert refused(toys, wrong, y) == message
    assert refused(toys, x, y, validation_data=(wrong, y)) == message


def test_no_images_are_refused(toys):
    x, y = toys.images(6)
    assert refused(toys, x[:0], y[:0]) == "expected at least one training image, got none"
    assert refused(toys, x, y, validation_data=(x[:0], y[:0])) == "expected at least one validation image, got none"


@pytest.mark.parametrize("keywords", [{"batch_size": 0}, {"nb_epochs": 0}, {"batch_size": 2.5}])
def test_a_batch_size_or_epochs_out_of_bounds_are_refused(toys, keywords):
    assert next(iter(keywords)).removeprefix("nb_") in refused(toys, *toys.images(6), **keywords)


def test_arts_keywords_override_the_training_settings(toys):
    trainer = fitted(toys, batch_size=5, nb_epochs=3)
    assert [len(index) for index in trainer.indices] == [5] * 12
    assert trainer.training.epochs == 2


# criteria


def test_balanced_classes_weigh_in_the_training_loss(toys):
    x, _ = toys.images(6)
    y = np.array([0, 0, 0, 1, 2, 2])
    model = toys.build(toys.plain)
    trainer = StandardTrainer(toys.ours(model), training=Training(epochs=1, batch_size=6, class_weights="balanced"))
    with torch.no_grad():
        logits = model(torch.as_tensor(x))
    expected = functional.cross_entropy(logits, torch.as_tensor(y), weight=torch.tensor([6 / 9, 2.0, 1.0]))
    trainer.fit(x, y)
    assert trainer.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)  # float32; another order of images
    message = refused(toys, x, np.array([0, 0, 0, 0, 2, 2]), training=Training(class_weights="balanced"))
    assert message == "class 1 has no training image, so it cannot be balanced"


def test_label_smoothing_is_in_the_training_loss(toys):
    x, y = toys.images(6)
    model = toys.build(toys.plain)
    trainer = StandardTrainer(toys.ours(model), training=Training(epochs=1, batch_size=6, label_smoothing=0.2))
    with torch.no_grad():
        expected = functional.cross_entropy(model(torch.as_tensor(x)), torch.as_tensor(y), label_smoothing=0.2)
    trainer.fit(x, y)
    assert trainer.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)  # float32; another order of images


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}])
def test_settings_for_one_label_an_image_are_refused_for_findings(toys, settings):
    with pytest.raises(ValueError, match="class_weights and label_smoothing are for one label an image; leave them out"):
        StandardTrainer(toys.ours(toys.build(toys.plain), task="multilabel"), training=Training(**settings))


def test_findings_train_on_the_known_labels_only(toys):
    x, _ = toys.images(6)
    y = toys.findings(6)
    model = toys.build(toys.plain)
    trainer = StandardTrainer(toys.ours(model, task="multilabel"), training=Training(epochs=1, batch_size=6))
    with torch.no_grad():
        expected = MaskedBCE()(model(torch.as_tensor(x)), torch.as_tensor(y))
    trainer.fit(x, y)
    assert trainer.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)  # float32; another order of images


def test_a_network_with_one_logit_trains_like_bce(toys):
    x, y = toys.images(12, classes=2)
    wrapped, bare = toys.build(toys.plain, classes=1), toys.build(toys.plain, classes=1)
    training = Training(epochs=3, batch_size=12, optimizer={"name": "sgd", "lr": 0.1})
    StandardTrainer(toys.ours(wrapped, classes=2), training=training).fit(x, y)
    stepper = toys.sgd(bare, lr=0.1)
    for _ in range(3):
        stepper.zero_grad()
        logits = bare(torch.as_tensor(x))[:, 0]
        functional.binary_cross_entropy_with_logits(logits, torch.as_tensor(y).float()).backward()
        stepper.step()
    for name, tensor in bare.state_dict().items():
        torch.testing.assert_close(tensor, wrapped.state_dict()[name], rtol=0, atol=1e-6)  # float32, three steps


# ART's side


@pytest.mark.parametrize("make", ["plain", "Bumpy"])
def test_a_stock_art_classifier_trains_with_its_own_optimizer(toys, make):
    x, y = toys.images(12)
    model = toys.build(getattr(toys, make))
    optimizer = toys.sgd(model)
    trainer = StandardTrainer(toys.arts(model, optimizer=optimizer))
    assert isinstance(trainer, ArtTrainer)
    before = toys.state(model)
    trainer.fit(x, np.eye(3)[y], batch_size=4, nb_epochs=2)
    assert len(trainer.history) == 2
    assert optimizer.state  # it stepped
    assert not toys.same(toys.state(model), before)
    assert trainer.predict(x).shape == (12, 3)
    assert trainer.get_classifier().model is model


def test_given_training_settings_bring_their_own_optimizer(toys):
    x, y = toys.images(12)
    model = toys.build(toys.plain)
    optimizer = toys.sgd(model)
    StandardTrainer(toys.arts(model, optimizer=optimizer), training=Training(epochs=1)).fit(x, y)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preprocessing": (0.5, 0.25)}, "the classifier changes images before the network; make normalisation the network's"),
        (
            {"preprocessing_defences": FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=2)},
            "the classifier changes images before the network; make normalisation the network's first layer",
        ),
        ({"clip_values": (0.0, 255.0)}, r"expected a classifier with clip_values \(0, 1\), got \[  0. 255.\]"),
        ({"clip_values": None}, r"expected a classifier with clip_values \(0, 1\), got None"),
        ({"loss": torch.nn.NLLLoss()}, r"expected a classifier whose loss is CrossEntropyLoss\(\), got NLLLoss\(\)"),
        ({"loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1)}, "for class weights and smoothing the training's settings"),
        ({"loss": torch.nn.CrossEntropyLoss(weight=torch.ones(3))}, "for class weights and smoothing the training's settings"),
    ],
)
def test_a_stock_classifier_that_would_train_on_something_else_is_refused(toys, settings, message):
    with pytest.raises(ValueError, match=message):
        StandardTrainer(toys.arts(toys.build(toys.plain), **settings))


def test_arts_scheduler_steps_once_an_epoch(toys):
    x, y = toys.images(12)
    model = toys.build(toys.plain)
    optimizer = toys.sgd(model, lr=0.08)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    trainer = StandardTrainer(toys.arts(model, optimizer=optimizer))
    trainer.fit(x, y, batch_size=4, nb_epochs=3, scheduler=scheduler)
    assert [row["lr"] for row in trainer.history] == [0.08, 0.04, 0.02]
    assert scheduler.get_last_lr() == [0.01]


def test_a_scheduler_of_another_optimizer_is_refused(toys):
    model = toys.build(toys.plain)
    scheduler = torch.optim.lr_scheduler.StepLR(toys.sgd(model), step_size=1)
    trainer = StandardTrainer(toys.ours(model), training=Training(epochs=1))
    with pytest.raises(ValueError, match="the scheduler is of another optimizer than the one that trains"):
        trainer.fit(*toys.images(6), scheduler=scheduler)


def generator_of(toys, n, batch_size):
    x, y = toys.images(n)
    loader = DataLoader(TensorDataset(torch.as_tensor(x), torch.as_tensor(y)), batch_size=batch_size, shuffle=False)
    return x, y, PyTorchDataGenerator(loader, size=n, batch_size=batch_size)


def test_fit_generator_trains_with_arts_data_generator(toys):
    x, y, generator = generator_of(toys, 20, 5)
    seen = []
    trainer = Recorder(toys.ours(toys.build(toys.plain)), training=Training(epochs=3))
    trainer.fit_generator(generator, nb_epochs=2, progress=seen.append)
    assert len(trainer.history) == 2
    assert [index.tolist() for index in trainer.indices[:4]] == [list(range(k, k + 5)) for k in (0, 5, 10, 15)]
    assert torch.equal(torch.cat(trainer.images[:4]), torch.as_tensor(x))
    assert torch.equal(torch.cat(trainer.labels[4:]), torch.as_tensor(y))
    assert seen[-1].batches == 4
    assert not trainer.model.training
    trainer.fit_generator(generator)
    assert len(trainer.history) == 3  # the training's own epochs


class OneHot(DataGenerator):
    """A generator with one-hot labels and one batch an epoch."""

    def __init__(self, toys):
        super().__init__(size=3, batch_size=3)
        self.batch = toys.images(3)

    def get_batch(self):
        return self.batch[0], np.eye(3)[self.batch[1]]


def test_fit_generator_takes_one_hot_labels_and_a_scheduler(toys):
    model = toys.build(toys.plain)
    optimizer = toys.sgd(model, lr=0.08)
    trainer = Recorder(toys.arts(model, optimizer=optimizer))
    trainer.fit_generator(
        OneHot(toys), nb_epochs=2, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    )
    assert [row["lr"] for row in trainer.history] == [0.08, 0.04]
    assert [len(index) for index in trainer.indices] == [3, 3]


def test_fit_generator_refuses_what_it_cannot_do(toys):
    _, _, generator = generator_of(toys, 20, 5)
    trainer = Recorder(toys.ours(toys.build(toys.plain)), training=Training(class_weights="balanced"))
    with pytest.raises(ValueError, match="class_weights: balanced needs all labels at once; use fit instead of fit_generator"):
        trainer.fit_generator(generator)
    with pytest.raises(TypeError, match="validation_data"):
        Recorder(toys.ours(toys.build(toys.plain))).fit_generator(generator, validation_data=None)


def test_balanced_weights_of_an_earlier_fit_do_not_stay_for_a_generator(toys):
    x, y, generator = generator_of(toys, 20, 5)
    trainer = Recorder(toys.ours(toys.build(toys.plain)), training=Training(epochs=1, class_weights="balanced"))
    trainer.fit(x, y)
    assert trainer.criterion.weight is not None
    trainer.training = Training(epochs=1)
    trainer.fit_generator(generator)
    assert trainer.criterion.weight is None


def test_a_trainer_without_a_loss_cannot_be_made(toys):
    class Empty(cxr.Trainer):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?loss"):
        Empty(toys.ours(toys.build(toys.plain)))


def test_settings_come_by_name_or_validated(toys):
    classifier = toys.ours(toys.build(toys.plain))
    assert Recorder(classifier, draws=3).params.draws == 3
    assert Recorder(classifier, params=Recorder.Params(draws=4)).params.draws == 4
    with pytest.raises(ValueError, match="has no setting '"):
        Recorder(classifier, drawn=3)
    with pytest.raises(ValueError, match="draws: expected a whole number, got text '3'"):
        Recorder(classifier, draws="3")
