"""DPAAT: its equations on two images of one pixel by hand, what it reduces to, and radii that stay with their images."""

import math

import pytest
import torch
from cxr_eval_dpaat import DPAATTrainer
from cxr_eval_dpaat.radii import ImageRadii
from hypothesis import given
from hypothesis import strategies as st

import cxr_eval.api as cxr
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

CPU = torch.device("cpu")


class Slope(torch.nn.Module):
    """Logits (0, 4 x) of an image of one pixel: its cross-entropy is softplus(-4 x) for class 1, softplus(4 x) for class 0."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.0], [4.0]]))
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().flatten().tolist())
        return torch.nn.functional.linear(x.flatten(1), self.weight)


def softplus(z):
    return math.log1p(math.exp(z))


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def kl(z, attacked):
    """KL of the Bernoulli variables with these logits."""
    p, q = sigmoid(z), sigmoid(attacked)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def slope(x=(0.5, 0.25), y=(1, 0), **settings):
    """A trainer of `Slope` and a batch: pixel 0.5 of class 1 and 0.25 of class 0, attacked by one step that meets eps 1/8."""
    classifier = cxr.Classifier(Slope(), input_shape=(1, 1, 1), nb_classes=2, device="cpu")
    trainer = DPAATTrainer(classifier, **({"eps": 0.125, "random_start": False, "steps": 1} | settings))
    trainer.on_fit_start(len(x))
    trainer.model.seen.clear()
    return trainer, cxr.Batch(torch.tensor(x).view(-1, 1, 1, 1), torch.tensor(y), torch.arange(len(x)), 0)


def radii_of(n=4, **settings):
    return ImageRadii(n, DPAATTrainer.Params(**settings), CPU)


def visit(radii, rows, delta, known=None):
    """A visit of the images at these rows with these Delta: a clean loss of 0 and an attacked loss of Delta."""
    delta = torch.tensor(delta, dtype=torch.float32)
    known = torch.ones(len(delta), dtype=torch.bool) if known is None else torch.tensor(known)
    radii.visit(torch.tensor(rows), delta, torch.zeros_like(delta), known)
    return [{1.0: True, 0.0: False}.get(value) for value in radii.fragile[rows].tolist()]


def trained(toys, trainer, training=None, make=None, task="multiclass", **settings):
    """State of a network after two epochs in batches of 7, 7 and 6."""
    x, y = toys.images(20)
    y = y if task == "multiclass" else toys.findings(20)
    model = toys.build(make or toys.Bumpy)
    training = Training(epochs=2, batch_size=7) if training is None else training
    trainer(toys.ours(model, task=task), training=training, seed=3, **settings).fit(x, y)
    return toys.state(model)


def test_two_images_by_hand():
    trainer, batch = slope()
    loss = trainer.loss(batch)
    clean = (softplus(-4 * 0.5), softplus(4 * 0.25))  # 0.127 and 1.313
    attacked = (softplus(-4 * (0.5 - 0.125)), softplus(4 * (0.25 + 0.125)))  # 0.201 and 1.701: each against its class
    delta = (attacked[0] - clean[0], attacked[1] - clean[1])  # 0.075 and 0.388, of mean 0.231: the second is fragile
    sync = (kl(4 * 0.5, 4 * 0.375) + kl(4 * 0.25, 4 * 0.375)) / 2
    expected = 0.5 * sum(clean) / 2 + 0.5 * sum(attacked) / 2 + 1.0 * sync
    assert loss.item() == pytest.approx(expected, rel=1e-6)  # float32
    assert trainer.radii.fragile.tolist() == [0, 1]
    assert trainer.radii.eps.tolist() == [0.125 + 0.0125, 0.125 - 0.0125]
    trainer.on_epoch_end(0)
    row = trainer.logged()
    assert row["delta_mean"] == pytest.approx(sum(delta) / 2, rel=1e-5)  # float32, differences
    assert row["delta_median"] == pytest.approx(sum(delta) / 2, rel=1e-5)
    assert row["fragile_fraction"] == 0.5
    assert row["loss_clean"] == pytest.approx(sum(clean) / 2, rel=1e-6)
    assert row["loss_adversarial"] == pytest.approx(sum(attacked) / 2, rel=1e-6)
    assert row["loss_sync"] == pytest.approx(sync, rel=1e-5)
    assert trainer.eps_range() == (0.125 - 0.0125, 0.125 + 0.0125)


@pytest.mark.parametrize(("clean_weight", "sync_weight"), [(0.0, 1.0), (0.0, 0.3), (0.25, 0.0), (1.0, 2.0), (0.0, 0.0)])
def test_each_weight_of_the_loss_by_hand(clean_weight, sync_weight):
    trainer, batch = slope(clean_weight=clean_weight, sync_weight=sync_weight)
    clean, attacked = (softplus(-2) + softplus(1)) / 2, (softplus(-1.5) + softplus(1.5)) / 2
    sync = (kl(2, 1.5) + kl(1, 1.5)) / 2
    expected = clean_weight * clean + (1 - clean_weight) * attacked + sync_weight * sync
    assert trainer.loss(batch).item() == pytest.approx(expected, rel=1e-6)  # float32
    assert trainer.radii.fragile.tolist() == [0, 1]


def test_gradients_flow_through_both_predictions_of_the_synchronisation():
    trainer, batch = slope()

    def loss(slope):
        """The same loss for another slope of the network, on the same attacked images."""
        terms = 0.25 * (softplus(-0.5 * slope) + softplus(0.25 * slope) + softplus(-0.375 * slope) + softplus(0.375 * slope))
        return terms + 0.5 * (kl(0.5 * slope, 0.375 * slope) + kl(0.25 * slope, 0.375 * slope))

    (gradient,) = torch.autograd.grad(trainer.loss(batch), trainer.model.weight)
    assert gradient[1].item() == pytest.approx((loss(4 + 1e-5) - loss(4 - 1e-5)) / 2e-5, rel=1e-5)  # float32


def test_new_radii_hold_from_the_next_visit():
    trainer, batch = slope()
    for visits, (first, second) in enumerate([(0.125, 0.125), (0.1375, 0.1125), (0.15, 0.1)]):
        trainer.loss(batch)
        assert trainer.model.seen[-2] == pytest.approx([0.5 - first, 0.25 + second]), visits
        assert trainer.model.seen[-1] == [0.5, 0.25]


def test_recraft_attacks_the_batch_again_with_its_new_radii_before_the_loss():
    trainer, batch = slope(recraft=True)
    loss = trainer.loss(batch)
    moved = (0.5 - 0.1375, 0.25 + 0.1125)
    expected = 0.25 * (softplus(-2) + softplus(1) + softplus(-4 * moved[0]) + softplus(4 * moved[1]))
    expected += 0.5 * (kl(2, 4 * moved[0]) + kl(1, 4 * moved[1]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert trainer.radii.eps.tolist() == [0.125 + 0.0125, 0.125 - 0.0125]
    assert len(trainer.model.seen) == 6  # an attack, two looks, the second attack, two predictions


def test_radii_of_a_batch_stretch_the_change_and_are_forgotten():
    trainer, batch = slope(state="batch")
    for _ in range(2):  # nothing is remembered
        trainer.model.seen.clear()
        loss = trainer.loss(batch)
        assert trainer.radii.eps.tolist() == [0.125 + 0.03125, 0.125 - 0.03125]  # eps -/+ eps / 4
        moved = (0.5 - 0.15625, 0.25 + 0.09375)
        assert trainer.model.seen[-2] == list(moved)
        expected = 0.25 * (softplus(-2) + softplus(1) + softplus(-4 * moved[0]) + softplus(4 * moved[1]))
        expected += 0.5 * (kl(2, 4 * moved[0]) + kl(1, 4 * moved[1]))
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        assert len(trainer.model.seen) == 5  # one attack, two looks, two predictions: no second attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_stretched_change_stays_an_image_within_its_radius(toys, norm):
    eps = 0.2 if norm == "linf" else 2.0
    images = []
    model = toys.build(toys.plain)
    model.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0].detach()))
    trainer = DPAATTrainer(toys.ours(model), norm=norm, eps=eps, steps=3, state="batch")
    x, y = (torch.as_tensor(v) for v in toys.images(12))
    trainer.on_fit_start(12)
    trainer.loss(cxr.Batch(x, y, torch.arange(12), 0))
    attacked = images[-2]
    change = (attacked - x).flatten(1)
    length = change.abs().amax(dim=1) if norm == "linf" else change.norm(dim=1)
    assert set(trainer.radii.eps.tolist()) == {0.75 * eps, 1.25 * eps}
    assert (length <= trainer.radii.eps * (1 + 1e-6)).all()  # float32
    assert (length > 0.5 * eps).any()
    assert attacked.min() >= 0
    assert attacked.max() <= 1


@pytest.mark.parametrize(
    ("settings", "moved"),
    [
        ({"update_step": 0.03125}, [0.15625, 0.09375]),
        ({"update": "multiplicative"}, [0.125 * 1.1, 0.125 / 1.1]),
        ({"update": "multiplicative", "update_factor": 2.0, "eps_max": 0.5}, [0.25, 0.0625]),
        ({"update_step": 0.2}, [0.25, 0.0]),  # the bounds if none are given: 0 and 2 x eps
        ({"update_step": 0.2, "eps_min": 0.1, "eps_max": 0.15}, [0.15, 0.1]),
        ({"eps_start": 0.0625, "eps_max": 0.125}, [0.0625 + 0.0125, 0.0625 - 0.0125]),
        ({"state": "batch", "update": "multiplicative"}, [0.15625, 0.1]),
        ({"state": "batch", "eps_max": 0.125}, [0.125, 0.09375]),
    ],
)
def test_each_form_of_the_update_by_hand(settings, moved):
    trainer, batch = slope(**settings)
    trainer.loss(batch)
    assert trainer.radii.eps.tolist() == moved


@pytest.mark.parametrize(("delta", "fragile"), [("difference", [1, 0]), ("adversarial", [0, 1])])
def test_a_high_loss_is_fragile_by_itself_and_a_raised_loss_by_the_difference(delta, fragile):
    trainer, batch = slope(delta=delta, eps_max=0.25, step=0.25)
    trainer.radii.eps[:] = torch.tensor([0.25, 0.0])
    trainer.loss(batch)  # attacked losses softplus(-1) = 0.31 and softplus(1) = 1.31; raised by 0.19 and 0
    assert trainer.radii.fragile.tolist() == fragile


def test_the_temporal_change_waits_for_the_second_visit():
    trainer, batch = slope(delta="temporal")
    trainer.loss(batch)
    assert trainer.radii.fragile.isnan().all()
    assert trainer.radii.eps.tolist() == [0.125, 0.125]
    trainer.loss(cxr.Batch(torch.tensor([0.25, 0.25]).view(2, 1, 1, 1), batch.y, batch.index, 1))
    # the attacked losses moved from softplus(-1.5) to softplus(-0.5), by 0.27, and from softplus(1.5) to itself
    assert trainer.radii.delta.tolist() == pytest.approx([softplus(-0.5) - softplus(-1.5), 0.0], rel=1e-6)
    assert trainer.radii.eps.tolist() == [0.125 - 0.0125, 0.125 + 0.0125]


@pytest.mark.parametrize(
    ("average", "second", "fragile"),
    [
        ("batch", 1.2, True),  # above (0 + 1.2) / 2 = 0.6
        ("epoch", 1.2, False),  # below (1 + 3 + 0 + 1.2) / 4 = 1.3
        ("epoch", 1.5, True),  # above (1 + 3 + 0 + 1.5) / 4 = 1.375
        ("ema", 1.5, False),  # below 0.9 x 2 + 0.1 x 0.75 = 1.875
        ("ema", 2.2, True),  # above 0.9 x 2 + 0.1 x 1.1 = 1.91
    ],
)
def test_each_mean_that_decides_by_hand(average, second, fragile):
    radii = radii_of(average=average)
    assert visit(radii, [0, 1], [1.0, 3.0]) == [False, True]  # mean 2
    assert visit(radii, [2, 3], [0.0, second]) == [False, fragile]


def test_an_epochs_mean_ends_with_the_epoch_and_a_moving_one_goes_on():
    for average, fragile in (("epoch", True), ("ema", False)):
        radii = radii_of(average=average)
        visit(radii, [0, 1], [1.0, 3.0])
        radii.end_epoch()
        assert visit(radii, [2, 3], [0.0, 1.2]) == [False, fragile]


def test_a_moving_mean_with_its_own_momentum_by_hand():
    radii = radii_of(average="ema", average_momentum=0.25)
    visit(radii, [0, 1], [1.0, 3.0])
    visit(radii, [2, 3], [0.0, 1.0])
    assert radii.average.item() == 0.25 * 2 + 0.75 * 0.5


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("sync", ["mse", "mse_logits", "l1"])
def test_each_distance_of_predictions_by_hand(task, sync):
    trainer, _ = slope(sync=sync)
    trainer.task = task
    z, attacked = torch.tensor([[0.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.5], [0.0, 1.5]])
    # probabilities of the second class or finding; the first finding has 1/2 in both, the first class what is left
    apart = [sigmoid(1.5) - sigmoid(2.0), sigmoid(1.5) - sigmoid(1.0)]
    count = 2 if task == "multiclass" else 1
    expected = {
        "mse": count * sum(a**2 for a in apart) / 4,
        "mse_logits": (0.5**2 + 0.5**2) / 4,
        "l1": count * sum(map(abs, apart)) / 4,
    }
    assert trainer._sync(z, attacked).item() == pytest.approx(expected[sync], rel=1e-5)  # float32, differences


@pytest.mark.parametrize(
    ("settings", "step"), [({}, 2.5 * 0.1 / 10), ({"steps": 20, "step_factor": 4.0}, 4 * 0.1 / 20), ({"step": 0.07}, 0.07)]
)
def test_a_gradient_step_is_measured_by_the_images_own_radius(toys, monkeypatch, settings, step):
    calls = []
    monkeypatch.setattr(cxr, "pgd", lambda model, x, y, **given: calls.append(given) or x)
    trainer = DPAATTrainer(toys.ours(toys.build(toys.plain)), eps=0.1, **settings)
    x, y = (torch.as_tensor(v) for v in toys.images(2))
    trainer.on_fit_start(2)
    trainer.radii.eps[1] = 0.2
    trainer.loss(cxr.Batch(x, y, torch.arange(2), 0))
    assert calls[0]["eps"].tolist() == [0.1, 0.2]
    if "step" in settings:
        assert calls[0]["step"] == step
    else:
        assert calls[0]["step"].tolist() == pytest.approx([step, 2 * step], rel=1e-15)


FIXED = {"eps": 0.05, "steps": 3}
REDUCED = {"dynamic": False, "sync_weight": 0.0, **FIXED}
LOOPS = {
    "plain": Training(epochs=2, batch_size=7),
    "balanced": Training(epochs=2, batch_size=7, class_weights="balanced", label_smoothing=0.1),
    "bfloat16": Training(epochs=2, batch_size=7, precision="bfloat16", channels_last=True),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("clean_weight", [0.0, 0.5, 0.25])
def test_fixed_radii_without_synchronisation_are_pgd_bit_for_bit(toys, loop, random_start, clean_weight):
    same = {"training": LOOPS[loop], "random_start": random_start, "clean_weight": clean_weight}
    expected = trained(toys, PGDTrainer, **FIXED, **same)
    assert toys.same(trained(toys, DPAATTrainer, **REDUCED, **same), expected)
    assert not toys.same(expected, trained(toys, DPAATTrainer, **(REDUCED | {"eps": 0.06}), **same))


def test_fixed_radii_without_synchronisation_are_pgd_in_an_l2_ball_bit_for_bit(toys):
    ball = {"norm": "l2", "eps": 1.5}
    expected = trained(toys, PGDTrainer, **(FIXED | ball), clean_weight=0.5)
    assert toys.same(trained(toys, DPAATTrainer, **(REDUCED | ball)), expected)


def test_fixed_radii_without_synchronisation_are_pgd_on_findings_bit_for_bit(toys):
    same = {"clean_weight": 0.5, "task": "multilabel"}
    assert toys.same(trained(toys, DPAATTrainer, **REDUCED, **same), trained(toys, PGDTrainer, **FIXED, **same))


def test_radius_zero_without_synchronisation_is_standard_training_bit_for_bit(toys):
    settings = {"eps": 0.0, "step": 0.1, "steps": 2, "dynamic": False, "sync_weight": 0.0, "clean_weight": 0.0}
    assert toys.same(trained(toys, DPAATTrainer, **settings), trained(toys, StandardTrainer))


@pytest.mark.parametrize(
    "settings", [{"eps_min": 0.05, "eps_max": 0.05}, {"update_step": 0.0}, {"update_step": 0.0, "average": "epoch"}]
)
def test_dynamic_radii_that_cannot_move_are_fixed_ones_bit_for_bit(toys, settings):
    assert toys.same(trained(toys, DPAATTrainer, **FIXED, **settings), trained(toys, DPAATTrainer, dynamic=False, **FIXED))


def test_a_look_at_delta_leaves_no_trace_in_the_network(toys):
    """Without clean images in the loss, Delta is looked up beside it: neither BatchNorm nor the random streams may notice."""
    still = {"update_step": 0.0, "sync_weight": 0.0, "clean_weight": 0.0}
    assert toys.same(trained(toys, DPAATTrainer, **FIXED, **still), trained(toys, PGDTrainer, **FIXED))
    for settings in ({"recraft": True}, {"recraft": True, "delta": "adversarial"}):
        settings |= {"update_step": 0.0, "random_start": False, **FIXED}
        assert toys.same(
            trained(toys, DPAATTrainer, **settings),
            trained(toys, DPAATTrainer, dynamic=False, random_start=False, **FIXED),
        )


def test_dynamic_radii_change_what_is_learnt(toys):
    fixed = trained(toys, DPAATTrainer, dynamic=False, **FIXED)
    every = [{}, {"recraft": True}, {"state": "batch"}, {"delta": "adversarial"}, {"update": "multiplicative"}]
    states = [fixed, *(trained(toys, DPAATTrainer, **FIXED, **settings) for settings in every)]
    assert not any(toys.same(states[i], states[j]) for i in range(len(states)) for j in range(i))


@given(st.floats(-5, 5, width=32), st.integers(1, 50), st.sampled_from(["batch", "ema", "epoch"]))
def test_images_with_the_same_delta_are_all_stable(delta, n, average):
    radii = radii_of(n, average=average)
    for _ in range(3):
        assert visit(radii, list(range(n)), [delta] * n) == [False] * n


@given(
    st.lists(st.lists(st.floats(width=32), min_size=6, max_size=6), min_size=1, max_size=8),
    st.sampled_from([{}, {"update": "multiplicative", "update_factor": 3.0}, {"state": "batch"}, {"delta": "temporal"}]),
    st.sampled_from(["batch", "ema", "epoch"]),
)
def test_no_radius_leaves_its_bounds_whatever_the_losses_are(visits, settings, average):
    radii = radii_of(6, eps=0.1, eps_min=0.06, eps_max=0.15, average=average, **settings)
    for delta in visits:
        visit(radii, [5, 2, 0, 1, 3, 4], delta)
        assert ((radii.eps >= 0.06) & (radii.eps <= 0.15)).all()


@pytest.mark.parametrize("average", ["batch", "ema", "epoch"])
def test_a_delta_that_is_not_finite_is_fragile_and_stays_out_of_the_mean(average):
    radii = radii_of(average=average)
    assert visit(radii, [0, 1, 2, 3], [math.nan, math.inf, 1.0, 3.0]) == [True, True, False, True]
    assert visit(radii, [0, 1], [math.nan, -math.inf]) == [True, True]
    assert visit(radii, [2, 3], [1.0, 3.0]) == [False, True]
    assert radii.eps.isfinite().all()


def test_a_loss_that_was_not_finite_makes_the_next_temporal_change_fragile():
    radii = radii_of(delta="temporal")
    assert visit(radii, [0, 1, 2], [math.nan, 1.0, 1.0]) == [None, None, None]
    assert visit(radii, [0, 1, 2], [1.0, 2.0, 5.0]) == [True, False, True]  # not known, 1 and 4, of mean 2.5


def test_a_heavy_tail_leaves_fewer_than_half_fragile_and_raises_the_mean_radius():
    radii = radii_of(1000)
    visit(radii, list(range(1000)), torch.exp(torch.randn(1000, generator=torch.Generator().manual_seed(0))).tolist())
    columns = radii.end_epoch()
    assert columns["delta_mean"] > columns["delta_median"]
    assert columns["fragile_fraction"] < 0.45
    assert columns["eps_mean"] > 8 / 255


def test_the_history_holds_quantiles_and_shares_by_hand():
    radii = radii_of(5, eps=0.1)  # bounds 0 and 0.2
    radii.eps[:] = torch.tensor([0.2, 0.0, 0.15, 0.05, 0.1], dtype=torch.float64)
    columns = {name: value.item() for name, value in radii.end_epoch().items()}
    assert columns["eps_mean"] == pytest.approx(0.1)
    quantiles = [columns[f"eps_{name}"] for name in ("q05", "q25", "median", "q75", "q95")]
    assert quantiles == pytest.approx([0.01, 0.05, 0.1, 0.15, 0.19])  # linear between the order statistics
    assert [round(5 * columns[f"eps_hist_{k}"]) for k in range(10)] == [1, 0, 1, 0, 0, 1, 0, 1, 0, 1]
    assert math.isnan(columns["delta_mean"])  # nobody was visited


def test_the_tenths_are_not_chosen_by_rounding():
    radii = radii_of(2)
    for up in range(1, 9):
        visit(radii, [0, 1], [0.0, 1.0])  # eps +- up x eps / 10: every second one on a border of tenths of 2 x eps
        columns = radii.end_epoch()
        assert columns[f"eps_hist_{5 + up // 2}"] == 0.5
        assert columns[f"eps_hist_{5 - (up + 1) // 2}"] == 0.5
