"""What the base trainer gives to a method: losses by image, divergences, all images in order, a reference, its own step."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.criteria import MaskedBCE
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

from art.data_generators import PyTorchDataGenerator  # isort: skip  # after ours, for logging


def ours(toys, trainer=StandardTrainer, task="multiclass", **settings):
    return trainer(toys.ours(toys.build(toys.plain), task=task), **settings)


def logits(seed=0, classes=3):
    return torch.randn(5, classes, generator=torch.Generator().manual_seed(seed))


def test_losses_are_the_criterion_image_by_image(toys):
    x, y = toys.images(20)
    trainer = ours(toys, training=Training(epochs=1, class_weights="balanced", label_smoothing=0.1))
    trainer.fit(x, y)  # the weights follow from the labels
    z, labels = logits(), torch.tensor([0, 1, 2, 2, 1])
    found = trainer.losses(z, labels)
    assert found.shape == (5,)
    weights = trainer.criterion.weight[labels]
    # torch divides the weighted sum by the sum of the weights
    assert (found.sum() / weights.sum()).item() == pytest.approx(trainer.criterion(z, labels).item(), rel=1e-6)  # float32
    half = trainer.losses(z.bfloat16(), labels)
    assert half.dtype == torch.float32


def test_losses_of_findings_do_not_count_unknown_ones(toys):
    trainer = ours(toys, task="multilabel")
    y = torch.tensor([[1.0, float("nan"), 0.0]] * 4 + [[float("nan")] * 3])
    z = logits()
    found = trainer.losses(z, y)
    expected = functional.binary_cross_entropy_with_logits(z[:4, [0, 2]], y[:4, [0, 2]], reduction="none").mean(dim=1)
    torch.testing.assert_close(found[:4], expected)
    assert found[4] == 0


def test_positive_findings_weigh_as_the_training_settings_say(toys):
    y = torch.tensor([[1.0, 0.0, 0.0]] * 5)
    z = torch.zeros(5, 3)
    plain = ours(toys, task="multilabel").criterion(z, y)
    weighted = ours(toys, task="multilabel", training=Training(finding_weights="batch")).criterion(z, y)
    # beta is 10 negatives over 5 positives: (2 + 1 + 1) / 3 of the plain loss
    assert weighted.item() == pytest.approx(4 / 3 * plain.item(), rel=1e-6)
    summed = ours(toys, task="multilabel", training=Training(finding_weights="batch", finding_loss="sum")).criterion(z, y)
    assert summed.item() == pytest.approx(3 * weighted.item(), rel=1e-6)
    with pytest.raises(ValueError, match="finding_weights and finding_loss are for findings"):
        ours(toys, training=Training(finding_weights="batch"))


def test_a_part_of_a_batch_is_attacked_with_the_weights_of_the_whole(toys):
    trainer = ours(toys, task="multilabel", training=Training(finding_weights="per_class"))
    y = torch.tensor([[1.0, 0.0, 0.0]] + [[0.0, 0.0, 0.0]] * 4)
    fixed = trainer.batch_criterion(y)
    assert isinstance(fixed, MaskedBCE)
    z = torch.zeros(1, 3)
    # beta of the first finding is 4 / 1 in the batch, and 0 / 1 in its first image alone
    assert fixed(z, y[:1]).item() == pytest.approx((4 + 1 + 1) / 3 * np.log(2), rel=1e-6)
    assert trainer.criterion(z, y[:1]).item() == pytest.approx((0 + 1 + 1) / 3 * np.log(2), rel=1e-6)
    plain = ours(toys)
    assert plain.batch_criterion(torch.tensor([0])) is plain.criterion


def test_a_divergence_of_findings_is_averaged_as_the_loss_is(toys):
    p, q = logits(0), logits(1)
    mean, summed = (
        ours(toys, task="multilabel", training=Training(finding_loss=form)).divergence(p, q) for form in ("mean", "sum")
    )
    assert summed.item() == pytest.approx(3 * mean.item(), rel=1e-6)
    a, b = p.double().sigmoid(), q.double().sigmoid()
    expected = (a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).mean()
    assert mean.item() == pytest.approx(expected.item(), rel=1e-5)  # float32
    softmax = ours(toys).divergence(p, q)
    assert softmax.item() == pytest.approx(
        functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean").item(), rel=1e-5
    )


class Looker(cxr.Trainer):
    """Looks at all images before the first epoch."""

    def on_fit_start(self, n):
        batches = list(self.clean_batches())
        self.seen = torch.cat([batch.x for batch in batches])
        self.rows = torch.cat([batch.index for batch in batches])
        self.labels = torch.cat([batch.y for batch in batches])

    def loss(self, batch):
        return self.criterion(self.model(batch.x), batch.y)


def test_clean_batches_are_all_images_by_row_without_augmentation(toys):
    x, y = toys.images(15)
    trainer = ours(toys, Looker, training=Training(epochs=1, batch_size=7))
    trainer.fit(x, y, augment=lambda images, rng: images * 0)
    np.testing.assert_array_equal(trainer.seen.numpy(), x)
    assert trainer.rows.tolist() == list(range(15))
    assert trainer.labels.tolist() == y.tolist()


def test_looking_at_all_images_first_does_not_change_the_training(toys):
    x, y = toys.images(15)
    states = []
    for kind in (Looker, StandardTrainer):
        trainer = ours(toys, kind, training=Training(epochs=2, batch_size=7))
        trainer.fit(x, y)
        states.append(toys.state(trainer.model))
    assert toys.same(*states)


def test_a_generator_has_no_rows_to_look_at(toys):
    x, y = toys.images(8)
    data = torch.utils.data.TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
    generator = PyTorchDataGenerator(torch.utils.data.DataLoader(data, batch_size=4), 8, 4)
    with pytest.raises(ValueError, match="Looker must look at every training image first; use fit, not fit_generator"):
        ours(toys, Looker).fit_generator(generator, nb_epochs=1)


class Curious(StandardTrainer):
    uses_reference = True


def test_a_reference_is_given_to_the_methods_that_look_at_one_and_to_no_other(toys):
    other = toys.build(toys.plain, seed=1)
    assert ours(toys, Curious, reference=other).reference is other
    with pytest.raises(ValueError, match="Curious needs reference=NETWORK, one that was trained before"):
        ours(toys, Curious)
    with pytest.raises(ValueError, match="StandardTrainer has no use for a reference"):
        ours(toys, reference=other)


class OneClassOnly(StandardTrainer):
    tasks = ("multiclass",)


def test_a_task_that_the_method_is_not_defined_for_is_refused(toys):
    with pytest.raises(ValueError, match="OneClassOnly is not defined for a multilabel task, only for multiclass"):
        ours(toys, OneClassOnly, task="multilabel")
    ours(toys, OneClassOnly)


def test_radii_in_force_are_those_of_the_settings(toys):
    assert ours(toys).eps_range() is None
    assert ours(toys, PGDTrainer, eps="8/255").eps_range() == (8 / 255, 8 / 255)


class Bursts(PGDTrainer):
    """Its loss is NaN from the second batch of the second epoch on."""

    seen = 0

    def loss(self, batch):
        self.seen += 1
        return super().loss(batch) * (float("nan") if self.seen > 4 else 1)

    def eps_range(self):
        return 0.0, 8 / 255


def test_a_loss_that_is_not_finite_is_told_with_epoch_batch_and_radii_and_the_last_good_checkpoint_stays(toys, tmp_path):
    x, y = toys.images(21)
    trainer = ours(toys, Bursts, training=Training(epochs=4, batch_size=7))
    with pytest.raises(cxr.TrainingError) as caught:
        trainer.fit(x, y, checkpoint=tmp_path / "c.pt")
    assert str(caught.value) == (
        "Bursts: the loss is not finite at epoch 2, batch 2 of 3 (eps 0..0.03137); lower the learning rate or the radius"
    )
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    assert kept["epoch"] == 0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept["model"].values())


class TwoSteps(StandardTrainer):
    """Two optimizer steps a batch, which no single loss describes."""

    def step(self, batch, optimizer):
        super().step(batch, optimizer)
        return super().step(batch, optimizer)


def test_a_method_may_own_its_step(toys):
    x, y = toys.images(8)
    twice = ours(toys, TwoSteps, training=Training(epochs=1, batch_size=8))
    twice.fit(x, y)
    once = ours(toys, training=Training(epochs=2, batch_size=8))
    once.fit(x, y)
    first, second = toys.state(twice.model), toys.state(once.model)
    for name, tensor in first.items():  # the order of the images in the sums differs
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-6)
    assert twice.history[0]["train_loss"] == pytest.approx(once.history[1]["train_loss"], rel=1e-5)


class Logs(StandardTrainer):
    """Logs whatever it is told to."""

    what: tuple = ("mean", 1.0)

    def loss(self, batch):
        self.log(*self.what)
        return super().loss(batch)


@pytest.mark.parametrize("name", ["epoch", "lr", "train_loss", "model", "trainer", "seed", "val_loss"])
def test_a_column_of_the_history_cannot_be_logged_over(toys, name):
    x, y = toys.images(8)
    trainer = ours(toys, Logs)
    trainer.what = (name, 99.0)
    with pytest.raises(ValueError, match=f"'{name}' is a column of the history already; log it under another name"):
        trainer.fit(x, y, nb_epochs=1)


def test_what_is_logged_is_one_number(toys):
    x, y = toys.images(8)
    trainer = ours(toys, Logs)
    trainer.what = ("delta", torch.zeros(3))
    with pytest.raises(ValueError, match=r"log 'delta': expected one number, got a tensor of shape \(3,\); give its mean"):
        trainer.fit(x, y, nb_epochs=1)


def test_settings_come_as_params_or_by_name_and_not_both(toys):
    params = PGDTrainer.Params(eps=0.1)
    assert ours(toys, PGDTrainer, params=params).params is params
    with pytest.raises(ValueError, match="expected params, or settings by name; got params and eps, nonsense"):
        ours(toys, PGDTrainer, params=params, eps=0.3, nonsense=1)


class DrawsFirst(StandardTrainer):
    """Draws from its generator before the first epoch."""

    def on_fit_start(self, n):
        self.drawn = float(torch.rand((), generator=self.rng))
        self.rows = self.by_row


def test_a_second_fit_draws_what_the_first_one_drew(toys):
    x, y = toys.images(8)
    trainer = ours(toys, DrawsFirst, seed=3)
    drawn = []
    for _ in range(2):
        trainer.fit(x, y, nb_epochs=1)
        drawn.append(trainer.drawn)
    assert drawn[0] == drawn[1]
    assert trainer.rows
    with pytest.raises(RuntimeError, match="clean_batches are those of a fit"):
        next(trainer.clean_batches())


def test_a_generator_gives_no_rows(toys):
    x, y = toys.images(8)
    data = torch.utils.data.TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
    trainer = ours(toys, DrawsFirst)
    trainer.fit_generator(PyTorchDataGenerator(torch.utils.data.DataLoader(data, batch_size=4), 8, 4), nb_epochs=1)
    assert not trainer.rows


def test_plain_losses_have_no_weights_and_no_smoothing(toys):
    x, y = toys.images(20)
    trainer = ours(toys, training=Training(epochs=1, class_weights="balanced", label_smoothing=0.1))
    trainer.fit(x, y)
    z, labels = logits(), torch.tensor([0, 1, 2, 2, 1])
    expected = functional.cross_entropy(z, labels, reduction="none")
    assert torch.equal(trainer.losses(z, labels, weighted=False), expected)
    assert not torch.equal(trainer.losses(z, labels), expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda z: [z.mean()], "Odd.loss: expected a scalar tensor, got list; return self.criterion(logits, batch.y)"),
        (lambda z: z.mean(dim=1), "Odd.loss: expected a scalar tensor, got shape (8,); take its mean"),
        (lambda z: z.mean().view(1), "Odd.loss: expected a scalar tensor, got shape (1,); take its mean"),
        (
            lambda z: z.mean().detach(),
            "Odd.loss: expected a loss with gradient; it was detached, or computed under torch.no_grad()",
        ),
    ],
)
def test_a_loss_that_is_none_is_told_by_name(toys, value, message):
    class Odd(cxr.Trainer):
        """Gives something else than a loss."""

        def loss(self, batch):
            return value(self.model(batch.x))

    x, y = toys.images(8)
    with pytest.raises(TypeError) as caught:
        ours(toys, Odd).fit(x, y, nb_epochs=1)
    assert str(caught.value) == message


def test_a_reference_may_be_a_classifier_and_is_a_network(toys):
    other = toys.build(toys.plain, seed=1)
    assert ours(toys, Curious, reference=toys.ours(other)).reference is other
    assert ours(toys, Curious, reference=toys.arts(other)).reference is other
    with pytest.raises(ValueError, match="expected a network as reference, got str"):
        ours(toys, Curious, reference="standard")


def test_a_bare_network_is_no_classifier(toys):
    with pytest.raises(ValueError, match="expected an ART PyTorchClassifier, got Sequential; wrap a network by"):
        StandardTrainer(toys.build(toys.plain))


def test_an_l2_radius_has_no_default(toys):
    with pytest.raises(ValueError, match="norm l2 needs eps"):
        ours(toys, PGDTrainer, norm="l2")
    assert ours(toys, PGDTrainer, norm="l2", eps=2.0).eps_range() == (2.0, 2.0)
