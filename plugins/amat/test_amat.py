"""AMAT: loss and margins of three images of one pixel by hand, its threshold, what it reduces to, and a state that lasts."""

import math

import numpy as np
import pytest
import torch
from cxr_eval_amat import AMATTrainer
from cxr_eval_amat.huber import EXPECTED, location_and_scale
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

import cxr_eval.api as cxr
from cxr_eval.testing import parametrize_with_checks
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

from art.data_generators import NumpyDataGenerator  # isort: skip  # after ours, for logging


@parametrize_with_checks([(AMATTrainer, {}), (AMATTrainer, {"norm": "l2", "eps": 0.15, "refine": True})])
def test_is_a_sound_trainer(check):
    check()


class Slope(torch.nn.Module):
    """Logits (0, w x) of an image of one pixel: its cross-entropy is softplus(-w x) for class 1, softplus(w x) for class 0."""

    def __init__(self, slope=4.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.0], [slope]]))

    def forward(self, x):
        return torch.nn.functional.linear(x.flatten(1), self.weight)


def softplus(z):
    return math.log1p(math.exp(z))


HAND = {"eps": 0.25, "delta": 1 / 64, "steps": 1}


def three(margins=(0.125, 0.125, 0.125), threshold=0.4, y=(1, 0, 1), task="multiclass", **settings):
    """Pixels 0.5, 0.25, 0.25 of classes 1, 0, 1; one step of four margins meets the border of the ball from any start.

    Clean losses softplus(-2) = 0.127, softplus(1) = 1.313, softplus(-1) = 0.313: the second is wrong. Attacked by 1/8 the first
    has softplus(-1.5) = 0.201 and stands; the third has softplus(-0.5) = 0.474 and falls.
    """
    classifier = cxr.Classifier(Slope(), input_shape=(1, 1, 1), nb_classes=2, device="cpu", task=task)
    trainer = AMATTrainer(classifier, reference=Slope(), **(HAND | settings))
    trainer.margins = torch.tensor(margins, dtype=torch.float64)
    trainer.threshold = torch.tensor(threshold, dtype=torch.float64)
    x = torch.tensor([0.5, 0.25, 0.25]).view(-1, 1, 1, 1)
    return trainer, cxr.Batch(x, torch.tensor(y), torch.arange(3), 0)


def trained(toys, trainer, make=None, training=None, **settings):
    x, y = toys.images(20)
    model = toys.build(make or toys.Bumpy)
    training = Training(epochs=2, batch_size=7) if training is None else training
    if trainer is AMATTrainer:
        settings = {"reference": toys.build(toys.plain, seed=1)} | settings
    trainer = trainer(toys.ours(model), training=training, **settings)
    trainer.fit(x, y)
    return toys.state(model), trainer


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_loss_over_the_subsets_by_hand(norm):
    trainer, batch = three(norm=norm, average="subset")
    wrong, right = softplus(1), (softplus(-2) + softplus(-1)) / 2
    attacked = (softplus(-1.5) + softplus(-0.5)) / 2
    expected = 0.5 * (wrong + right) + 0.5 * attacked
    assert trainer.loss(batch).item() == pytest.approx(expected, rel=1e-6)  # float32
    logged = trainer.logged()
    assert logged["correct_fraction"] == pytest.approx(2 / 3)
    assert logged["expanded_fraction"] == pytest.approx(1 / 3)


def test_the_loss_over_the_batch_by_hand():
    trainer, batch = three(beta=0.25)
    clean = (softplus(1) + softplus(-2) + softplus(-1)) / 3
    attacked = (softplus(-1.5) + softplus(-0.5)) / 3
    assert trainer.loss(batch).item() == pytest.approx(0.75 * clean + 0.25 * attacked, rel=1e-6)  # float32


def test_only_a_correct_image_that_stands_the_attack_gets_a_wider_margin():
    trainer, batch = three()
    trainer.loss(batch)
    assert trainer.margins.tolist() == [0.125 + 1 / 64, 0.125, 0.125]
    assert trainer.eps_range() == (0.125, 0.125 + 1 / 64)


def test_no_margin_exceeds_eps():
    """Of the attacked losses softplus(-1.04), softplus(1.96) and softplus(-0.04) the second, 2.09, is the largest."""
    trainer, batch = three(margins=(0.24, 0.125, 0.24), threshold=3.0)
    trainer.loss(batch)
    assert trainer.margins.tolist() == [0.25, 0.125 + 1 / 64, 0.25]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_refined_margin_is_the_mean_of_itself_and_the_distance_to_the_boundary(norm):
    """The third image's loss is softplus(-4 x) = 0.4 at x = -ln(e^0.4 - 1) / 4 = 0.177, which is 0.073 away from 0.25."""
    trainer, batch = three(refine=True, norm=norm)
    trainer.loss(batch)
    distance = 0.25 + math.log(math.exp(0.4) - 1) / 4
    expected = [0.125 + 1 / 64, 0.125, (0.125 + distance) / 2]
    assert trainer.margins.tolist() == pytest.approx(expected, abs=0.125 / 2**11)  # ten halvings of a way of 1/8


def test_findings_have_a_loss_an_image_and_without_a_label_nothing_changes():
    """Of the findings with logits (0, 4 x) only the second is known, in the first and third image; the second has none."""
    unknown = float("nan")
    trainer, batch = three(y=((unknown, 1.0), (unknown, unknown), (unknown, 1.0)), task="multilabel", average="subset")
    right, attacked = (softplus(-2) + softplus(-1)) / 2, (softplus(-1.5) + softplus(-0.5)) / 2
    assert trainer.loss(batch).item() == pytest.approx(0.5 * right + 0.5 * attacked, rel=1e-6)  # float32
    assert trainer.margins.tolist() == [0.125 + 1 / 64, 0.125, 0.125]


def test_a_batch_of_wrong_images_has_a_clean_loss_only():
    trainer, batch = three(threshold=0.0)
    expected = 0.5 * (softplus(-2) + softplus(1) + softplus(-1)) / 3
    assert trainer.loss(batch).item() == pytest.approx(expected, rel=1e-6)  # float32
    assert trainer.margins.tolist() == [0.125] * 3


def test_the_search_starts_within_the_margin_less_delta_but_not_less_than_delta(toys):
    model = toys.build(toys.plain)
    trainer = AMATTrainer(toys.ours(model), reference=toys.build(toys.plain), eps=0.2, delta=0.04, alpha=1e-6, steps=1)
    x, y = (torch.as_tensor(v) for v in toys.images(4))
    x = x.clamp(0.3, 0.7)  # no image is clipped
    margins = torch.tensor([0.2, 0.1, 0.06, 0.02], dtype=torch.float64)
    found = (trainer.attack(cxr.Batch(x, y, torch.arange(4), 0), margins) - x).abs().flatten(1).amax(dim=1)
    for largest, radius in zip(found.tolist(), (0.16, 0.06, 0.04, 0.02), strict=True):
        assert 0.9 * radius < largest < radius + 1e-6  # the largest of 64 uniform numbers


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(margins=st.lists(st.floats(0, 0.25), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_images_stay_within_their_own_margins_and_in_range(toys, norm, margins, seed):
    trainer = AMATTrainer(
        toys.ours(toys.build(toys.plain)), reference=toys.build(toys.plain), norm=norm, eps=0.25, steps=3, seed=seed
    )
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    found = trainer.attack(cxr.Batch(x, y, torch.arange(6), 0), torch.tensor(margins, dtype=torch.float64))
    change = torch.linalg.vector_norm((found - x).flatten(1), ord=2 if norm == "l2" else float("inf"), dim=1)
    assert bool((change <= torch.tensor(margins) + 1e-6).all())  # float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_hubers_constant_is_the_mean_of_a_clipped_square():
    clipped, _ = integrate.quad(lambda z: min(z**2, 1.5**2) * stats.norm.pdf(z), -12, 12, points=[-1.5, 1.5])
    assert pytest.approx(clipped, rel=1e-9) == EXPECTED


def test_location_and_scale_are_those_of_statsmodels_documentation():
    """Its `huber` on the 24 determinations of copper of Venables & Ripley, section 5.5: 3.20549808, 0.67365260."""
    chem = [2.2, 2.2, 2.4, 2.4, 2.5, 2.7, 2.8, 2.9, 3.03, 3.03, 3.1, 3.37, 3.4, 3.4, 3.4, 3.5, 3.6]
    chem += [3.7, 3.7, 3.7, 3.7, 3.77, 5.28, 28.95]
    found = location_and_scale(torch.tensor(chem, dtype=torch.float64))
    assert found == pytest.approx((3.20549808, 0.67365260), rel=1e-7)  # both searches stop at changes of 1e-8 scales


@pytest.mark.parametrize("seed", range(4))
def test_location_and_scale_solve_hubers_two_equations(seed):
    values = np.random.default_rng(seed).exponential(size=300) ** 2  # skewed as losses are
    location, scale = location_and_scale(torch.tensor(values))
    psi = np.clip((values - location) / scale, -1.5, 1.5)
    assert psi.sum() == pytest.approx(0, abs=1e-5)
    assert (psi**2).sum() == pytest.approx(299 * EXPECTED, rel=1e-6)


@pytest.mark.parametrize(("values", "location"), [([0.7], 0.7), ([0.7, 0.7, 0.7], 0.7), ([0.0] * 20 + [5.0], 0.0)])
def test_nearly_equal_numbers_have_no_scale(values, location):
    found = location_and_scale(torch.tensor(values, dtype=torch.float64))
    assert found[0] == pytest.approx(location, abs=1e-6)
    assert found[1] == 0


def test_a_scale_is_found_where_more_than_half_of_the_numbers_are_equal():
    """The median deviation is 0 there, but 2 of 5 numbers far away are too many to be outliers."""
    values = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0])
    location, scale = location_and_scale(values)
    psi = ((values - location) / scale).clamp(-1.5, 1.5)
    assert float((psi**2).sum()) == pytest.approx(4 * EXPECTED, rel=1e-5)


def test_the_threshold_is_that_of_the_references_losses_on_the_clean_training_images(toys):
    x, y = toys.images(20)
    reference = toys.build(toys.Bumpy, seed=1)
    before, flags = toys.state(reference), toys.flags(reference)
    trainer = AMATTrainer(
        toys.ours(toys.build(toys.Bumpy)),
        training=Training(epochs=1, batch_size=7, label_smoothing=0.1),
        reference=reference,
        z=3.0,
        steps=1,
    )
    trainer.fit(x, y)
    assert toys.same(toys.state(reference), before)
    assert toys.flags(reference) == flags
    with torch.no_grad():
        logits = reference.eval()(torch.as_tensor(x))
    losses = torch.nn.functional.cross_entropy(logits, torch.as_tensor(y), reduction="none")  # smoothing does not count
    location, scale = location_and_scale(losses)
    assert trainer.threshold.item() == pytest.approx(location + 3 * scale, rel=1e-5)  # float32; another batch size
    assert trainer.history[0]["threshold"] == pytest.approx(location + 3 * scale, rel=1e-5)


@pytest.mark.parametrize("weights", [{"class_weights": "balanced", "label_smoothing": 0.1}])
def test_what_a_class_weighs_does_not_move_the_threshold(toys, weights):
    x, y = toys.images(24)
    x, y = x[(y != 0) | (np.arange(24) < 12)], y[(y != 0) | (np.arange(24) < 12)]  # fewer images of class 0
    thresholds = []
    for chosen in ({}, weights):
        training = Training(epochs=1, batch_size=8, **chosen)
        reference = toys.build(toys.plain, seed=1)
        trainer = AMATTrainer(toys.ours(toys.build(toys.plain)), training=training, reference=reference, steps=1)
        trainer.fit(x, y)
        thresholds.append(trainer.threshold.item())
    assert thresholds[0] == thresholds[1]


def test_the_threshold_leaves_out_images_without_a_label(toys):
    x, _ = toys.images(14)
    y = toys.findings(14)
    y[3] = np.nan
    reference = toys.build(toys.plain, seed=1)
    trainer = AMATTrainer(
        toys.ours(toys.build(toys.plain), task="multilabel"),
        training=Training(epochs=1, batch_size=7),
        reference=reference,
        steps=1,
    )
    trainer.fit(x, y)
    known = np.flatnonzero(~np.isnan(y).all(axis=1))
    with torch.no_grad():
        logits = reference(torch.as_tensor(x[known]))
    losses = trainer.losses(logits, torch.as_tensor(y[known]))
    location, scale = location_and_scale(losses)
    assert len(known) == 13
    assert trainer.threshold.item() == pytest.approx(location + 2 * scale, rel=1e-5)  # float32
    assert trainer.margins[3].item() == trainer.params.eps / 10  # as at the start


def test_a_reference_that_knows_nothing_calls_every_such_image_correct():
    """Logits (0, 0) everywhere: every loss is ln 2, the scale is 0, and a loss that meets the threshold is correct."""
    x = np.full((6, 1, 1, 1), 0.5, dtype=np.float32)
    classifier = cxr.Classifier(Slope(0.0), input_shape=(1, 1, 1), nb_classes=2, device="cpu")
    trainer = AMATTrainer(classifier, training=Training(epochs=1, batch_size=6), reference=Slope(0.0), steps=1)
    trainer.fit(x, np.array([0, 1, 0, 1, 0, 1]))
    assert trainer.threshold.item() == pytest.approx(math.log(2))
    assert trainer.history[0]["correct_fraction"] == 1


def test_every_margin_stays_with_its_image_through_shuffled_epochs(monkeypatch):
    """A network that does not learn: an image stands 1/64, 2/64, ... until its own attack succeeds.

    Class 1 at pixel x falls at the first margin e with softplus(-4 (x - e)) above the threshold; class 0 is always wrong.
    """
    pixels = np.linspace(0.2, 0.9, 10, dtype=np.float32)
    y = np.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1])
    classifier = cxr.Classifier(Slope(), input_shape=(1, 1, 1), nb_classes=2, device="cpu")
    training = Training(epochs=6, batch_size=3, optimizer={"name": "sgd", "lr": 1e-12, "momentum": 0.0})
    trainer = AMATTrainer(classifier, training=training, reference=Slope(), **(HAND | {"eps": 5 / 64}))
    threshold = 0.35
    trainer.threshold, trainer.margins = torch.tensor(threshold), torch.full((10,), 1 / 64, dtype=torch.float64)
    monkeypatch.setattr(trainer, "on_fit_start", lambda n: None)  # which would take another threshold
    trainer.fit(pixels.reshape(-1, 1, 1, 1), y)
    expected = []
    for pixel, label in zip(pixels.tolist(), y.tolist(), strict=True):
        margin = 1 / 64
        for _ in range(6):
            if label == 1 and softplus(-4 * (pixel - margin)) <= threshold:
                margin = min(margin + 1 / 64, 5 / 64)
        expected.append(margin)
    assert len(set(expected)) > 2
    assert trainer.margins.tolist() == expected
    row = trainer.history[-1]
    assert row["eps_mean"] == pytest.approx(np.mean(expected))
    for name, share in {"eps_q05": 0.05, "eps_q25": 0.25, "eps_median": 0.5, "eps_q75": 0.75, "eps_q95": 0.95}.items():
        assert row[name] == pytest.approx(np.quantile(expected, share))


@pytest.mark.parametrize("refine", [False, True])
def test_a_resumed_training_ends_with_the_same_weights_margins_and_threshold(toys, tmp_path, refine):
    x, y = toys.images(20)
    ends = []
    for epochs, seed, file in ((4, 1, None), (2, 1, "half.pt"), (4, 2, "half.pt")):
        model = toys.build(toys.Bumpy)
        # what the threshold was stands in the checkpoint, whatever the reference says now
        reference = toys.build(toys.plain, seed=seed)
        training = Training(epochs=epochs, batch_size=7)
        settings = {"eps": 0.1, "steps": 2, "refine": refine}
        trainer = AMATTrainer(toys.ours(model), training=training, reference=reference, **settings)
        trainer.fit(x, y, checkpoint=None if file is None else tmp_path / file)
        ends.append((toys.state(model), trainer))
    (whole, straight), _, (halves, resumed) = ends
    assert toys.same(whole, halves)
    assert torch.equal(straight.margins, resumed.margins)
    assert torch.equal(straight.threshold, resumed.threshold)
    assert len(set(straight.margins.tolist())) > 1
    assert straight.history == resumed.history


def test_with_every_image_correct_and_the_first_margin_the_last_it_is_pgd(toys):
    """All loss on attacked images, whose margin is eps from the start: Madry's training, but for the order of a sum."""
    settings = {"eps": 0.05, "steps": 4}
    training = Training(epochs=2, batch_size=7, optimizer={"name": "sgd", "lr": 0.05})
    found, _ = trained(toys, AMATTrainer, toys.plain, training, delta=0.05, beta=1.0, z=1e9, **settings)
    expected, _ = trained(toys, PGDTrainer, toys.plain, training, step=4 * 0.05 / 4, **settings)
    standard, _ = trained(toys, StandardTrainer, toys.plain, training)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)  # float32
    assert max(float((expected[name] - tensor).abs().max()) for name, tensor in standard.items()) > 1e-3


def test_without_beta_there_is_no_attack_and_no_second_pass(toys):
    training = Training(epochs=2, batch_size=7, optimizer={"name": "sgd", "lr": 0.05})
    found, trainer = trained(toys, AMATTrainer, None, training, beta=0.0)
    expected, _ = trained(toys, StandardTrainer, None, training)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)  # float32, the order of a sum
    assert torch.equal(found["norm.num_batches_tracked"], expected["norm.num_batches_tracked"])
    assert trainer.margins.tolist() == [8 / 255 / 10] * 20
    trainer.rng.manual_seed(0)
    before = trainer.rng.get_state()
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    trainer.loss(cxr.Batch(x, y, torch.arange(6), 0))
    assert torch.equal(trainer.rng.get_state(), before)


@pytest.mark.parametrize("refine", [False, True])
def test_outside_of_fit_every_image_has_the_first_margin_and_a_loss_leaves_no_trace(toys, refine):
    model = toys.build(toys.Bumpy)
    settings = {"eps": 0.1, "steps": 2, "refine": refine}
    trainer = AMATTrainer(toys.ours(model), reference=toys.build(toys.plain), **settings)
    model.train()
    flags = toys.flags(model)
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    with torch.random.fork_rng(devices=[]):
        loss = trainer.loss(cxr.Batch(x, y, torch.arange(6), 0))
    assert loss.shape == ()
    assert loss.requires_grad
    assert toys.flags(model) == flags
    assert trainer.eps_range() == (0.01, 0.01)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_trains_with_unknown_findings_and_in_bfloat16(toys, task, precision):
    x, y = toys.images(14)
    y = toys.findings(14) if task == "multilabel" else y
    model = toys.build(toys.Bumpy)
    before = toys.state(model)
    trainer = AMATTrainer(
        toys.ours(model, task=task),
        training=Training(epochs=1, batch_size=7, precision=precision, channels_last=True),
        reference=toys.build(toys.plain, seed=1),
        steps=2,
        refine=True,
    )
    trainer.fit(x, y)
    assert np.isfinite(trainer.history[0]["train_loss"])
    assert not toys.same(toys.state(model), before)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def test_it_learns_the_toy_images_from_plain_art(toys):
    x, y = toys.images(60)
    reference = toys.build(toys.plain, seed=1)
    StandardTrainer(toys.arts(reference, optimizer=torch.optim.Adam(reference.parameters(), lr=0.02))).fit(
        x, y, batch_size=20, nb_epochs=25
    )
    model = toys.build(toys.plain)
    classifier = toys.arts(model, optimizer=torch.optim.Adam(model.parameters(), lr=0.02))
    trainer = AMATTrainer(classifier, reference=reference, eps=0.05, steps=3)
    trainer.fit(x, np.eye(3, dtype=np.float32)[y], batch_size=20, nb_epochs=25)
    assert (classifier.predict(x).argmax(axis=1) == y).mean() > 0.9
    assert trainer.eps_range()[1] > 0.005  # the first margin


def test_a_generator_is_refused_because_the_threshold_needs_all_images(toys):
    x, y = toys.images(12)
    trainer = AMATTrainer(toys.ours(toys.build(toys.plain)), training=Training(), reference=toys.build(toys.plain))
    with pytest.raises(ValueError, match="use fit, not fit_generator"):
        trainer.fit_generator(NumpyDataGenerator(x, y, batch_size=6), nb_epochs=1)


def test_a_reference_is_needed_and_must_be_finite(toys):
    classifier = toys.ours(toys.build(toys.plain))
    with pytest.raises(ValueError, match="needs reference=NETWORK"):
        AMATTrainer(classifier)
    broken = toys.build(toys.plain)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    x, y = toys.images(12)
    with pytest.raises(ValueError, match="expected finite losses of the reference"):
        AMATTrainer(classifier, training=Training(epochs=1), reference=broken).fit(x, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": 0.1, "delta": 0.2}, "delta 0.2 is above eps 0.1, the largest margin; lower delta"),
        ({"alpha": 0.0}, "greater than 0"),
        ({"beta": 1.5}, "less than or equal to 1"),
        ({"average": "sum"}, "'batch' or 'subset'"),
    ],
)
def test_wrong_settings_are_refused_before_training(settings, message):
    with pytest.raises(ValueError, match=message):
        AMATTrainer.Params(**settings)


def test_it_states_its_source_and_describes_its_settings():
    assert "arXiv:2206.01736" in AMATTrainer.source
    assert all(field.description for field in AMATTrainer.Params.model_fields.values())
    assert AMATTrainer.Params(eps="8/255").growth == 8 / 255 / 10
    assert AMATTrainer.Params(norm="l2", eps=12.0, delta=2.0).growth == 2
