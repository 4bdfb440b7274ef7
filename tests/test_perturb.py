"""FGSM and PGD: equal to ART bit for bit, inside the ball, and without a trace in the network."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cxr_eval.criteria import MaskedBCE
from cxr_eval.perturb import fgsm, frozen, input_gradient, per_image, pgd, project, random_start

N = 17  # not a power of two, and not a multiple of the batch size below
BATCH = 7


def batched(attack, x, y, *radii):
    """Our attack in the batches that ART makes."""
    parts = [
        attack(*(torch.as_tensor(part) for part in parts))
        for parts in zip(*(torch.split(torch.as_tensor(v), BATCH) for v in (x, y, *radii)), strict=True)
    ]
    return torch.cat(parts).numpy()


@pytest.fixture(params=["bumpy", "plain"])
def pair(request, toys):
    make = {"bumpy": toys.Bumpy, "plain": toys.plain}[request.param]
    x, y = toys.images(N)
    model = toys.build(make)
    model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        model(torch.as_tensor(x))  # BatchNorm's buffers leave their start values
    # ART's own classifier lists the outputs of a Sequential's children, which its attacks do not need
    return model, toys.arts(model), x, y


@pytest.mark.parametrize("eps", [0.003, 8 / 255, 0.1, 1.0])
def test_fgsm_equals_arts_bit_for_bit(pair, eps):
    model, art, x, y = pair
    expected = FastGradientMethod(art, eps=eps, batch_size=BATCH).generate(x, y)
    found = batched(lambda x, y: fgsm(model, x, y, eps=eps), x, y)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, x)


@pytest.mark.parametrize(("eps", "step", "steps"), [(0.03, 0.01, 5), (8 / 255, 2 / 255, 7), (0.1, 0.3, 3), (0.05, 0.0125, 12)])
def test_pgd_equals_arts_bit_for_bit(pair, eps, step, steps):
    model, art, x, y = pair
    attack = ProjectedGradientDescentPyTorch(art, eps=eps, eps_step=step, max_iter=steps, batch_size=BATCH, verbose=False)
    found = batched(lambda x, y: pgd(model, x, y, eps=eps, step=step, steps=steps), x, y)
    np.testing.assert_array_equal(found, attack.generate(x, y))


@pytest.mark.parametrize(("eps", "step", "steps"), [(0.3, 0.1, 5), (2.0, 0.5, 4), (0.05, 0.2, 3)])
def test_pgd_in_an_l2_ball_equals_arts(pair, eps, step, steps):
    model, art, x, y = pair
    attack = ProjectedGradientDescentPyTorch(
        art, norm=2, eps=eps, eps_step=step, max_iter=steps, batch_size=BATCH, verbose=False
    )
    found = batched(lambda x, y: pgd(model, x, y, eps=eps, step=step, steps=steps, norm="l2"), x, y)
    # ART scales by a float64 radius: one unit in the last place a step
    np.testing.assert_allclose(found, attack.generate(x, y), atol=1e-6)
    length = np.sqrt(((found - x) ** 2).sum(axis=(1, 2, 3)))
    assert (length <= eps * (1 + 1e-6)).all()
    assert (length > 0).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_random_start_in_an_l2_ball_fills_it(toys):
    x, eps = torch.full((500, 1, 2, 2), 0.5), torch.linspace(0.01, 0.4, 500)
    moved = random_start(x, eps, torch.Generator().manual_seed(0), "l2")
    share = (moved - x).flatten(1).norm(dim=1) / eps
    assert share.max() <= 1 + 1e-6
    # the length of a uniform point of a ball in 4 dimensions has mean 4/5; five standard errors of 500 draws
    assert share.mean().item() == pytest.approx(0.8, abs=5 * 0.163 / 500**0.5)


def test_one_epsilon_an_image_equals_arts_bit_for_bit(pair):
    model, art, x, y = pair
    eps = np.linspace(0.0, 0.1, N, dtype=np.float32)
    eps[0] = 1e-4  # ART refuses a step of 0
    wide, step = eps.reshape(-1, 1, 1, 1), (eps / 4).reshape(-1, 1, 1, 1)
    expected = FastGradientMethod(art, eps=wide, eps_step=wide, batch_size=BATCH).generate(x, y)
    np.testing.assert_array_equal(batched(lambda x, y, e: fgsm(model, x, y, eps=e), x, y, eps), expected)
    expected = ProjectedGradientDescentPyTorch(
        art, eps=wide, eps_step=step, max_iter=6, batch_size=BATCH, verbose=False
    ).generate(x, y)
    found = batched(lambda x, y, e: pgd(model, x, y, eps=e, step=e / 4, steps=6), x, y, eps)
    np.testing.assert_array_equal(found, expected)


def test_images_at_the_border_of_the_pixel_range_equal_arts_bit_for_bit(pair):
    model, art, x, y = pair
    x = np.where(x > 0.5, 1, 0).astype(np.float32)
    attack = ProjectedGradientDescentPyTorch(art, eps=0.1, eps_step=0.03, max_iter=5, batch_size=BATCH, verbose=False)
    np.testing.assert_array_equal(
        batched(lambda x, y: pgd(model, x, y, eps=0.1, step=0.03, steps=5), x, y), attack.generate(x, y)
    )


def test_fgsm_is_pgd_with_one_step_as_long_as_the_radius(pair):
    model, _, x, y = pair
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    assert torch.equal(fgsm(model, x, y, eps=0.03), pgd(model, x, y, eps=0.03, step=0.03, steps=1))
    first, second = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    started = fgsm(model, x, y, eps=0.03, rng=first)
    assert torch.equal(started, pgd(model, x, y, eps=0.03, step=0.03, steps=1, rng=second))
    assert not torch.equal(started, fgsm(model, x, y, eps=0.03))


def test_epsilon_zero_changes_nothing_even_with_a_random_start(pair):
    model, _, x, y = pair
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    assert torch.equal(pgd(model, x, y, eps=0.0, step=0.1, steps=3, rng=torch.Generator().manual_seed(0)), x)
    assert torch.equal(fgsm(model, x, y, eps=torch.zeros(N)), x)


class Linear(torch.nn.Module):
    """Two logits, 0 and w x: whole numbers, so that arithmetic is exact."""

    def __init__(self, w):
        super().__init__()
        self.w = torch.nn.Parameter(torch.as_tensor(w, dtype=torch.float32))

    def forward(self, x):
        z = (x.flatten(1) * self.w).sum(dim=1, keepdim=True)
        return torch.cat((torch.zeros_like(z), z), dim=1)


def test_a_step_on_a_linear_network_goes_against_the_weights_sign():
    model = Linear([1.0, -2.0, 0.0, 4.0])
    x = torch.full((2, 1, 2, 2), 0.5)
    moved = fgsm(model, x, torch.tensor([1, 0]), eps=torch.tensor([0.25, 0.125]))
    direction = torch.tensor([1.0, -1.0, 0.0, 1.0]).view(1, 1, 2, 2)
    assert torch.equal(moved, x + direction * torch.tensor([-0.25, 0.125]).view(2, 1, 1, 1))


def test_an_input_gradient_is_the_closed_form_of_cross_entropy():
    w = torch.tensor([1.0, -2.0, 0.5, 4.0])
    x, y = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
    model = Linear(w)
    with frozen(model):
        found = input_gradient(model, x, y, loss=functional.cross_entropy)
    p = torch.sigmoid((x.flatten(1) * w).sum(dim=1))
    expected = ((p - y.float())[:, None] * w / 5).view_as(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # float32, a dozen operations
    assert not x.requires_grad


def test_an_attack_inside_no_grad_still_finds_its_gradient(pair):
    model, _, x, y = pair
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    with torch.no_grad():
        inside = fgsm(model, x, y, eps=0.03)
    assert torch.equal(inside, fgsm(model, x, y, eps=0.03))
    assert not inside.requires_grad


def test_unknown_findings_do_not_move_an_image(toys):
    model = toys.build(toys.plain)
    x, _ = toys.images(4)
    y = torch.tensor([[1.0, 0.0, 1.0], [np.nan] * 3, [np.nan, 1.0, np.nan], [0.0, 0.0, 0.0]])
    moved = pgd(model, torch.as_tensor(x), y, eps=0.1, step=0.05, steps=3, loss=MaskedBCE())
    assert np.array_equal(moved[1].numpy(), x[1])
    assert all(not np.array_equal(moved[k].numpy(), x[k]) for k in (0, 2, 3))


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_attack_leaves_no_trace_in_the_network_or_the_images(toys, attack):
    model = toys.build(toys.Bumpy)
    model.train()
    model.drop.eval()  # a mixture of modes must come back as it was
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    x.requires_grad_(True)
    before, flags, pixels = toys.state(model), toys.flags(model), x.detach().clone()
    if attack == "fgsm":
        moved = fgsm(model, x, y, eps=0.1)
    else:
        moved = pgd(model, x, y, eps=0.1, step=0.02, steps=4, rng=torch.Generator().manual_seed(0))
    assert toys.same(toys.state(model), before)
    assert toys.flags(model) == flags
    assert torch.equal(x, pixels)
    assert x.grad is None
    assert not moved.requires_grad


def test_frozen_restores_modes_and_weights_after_an_error(toys):
    model = toys.build(toys.Bumpy)
    model.norm.eval()
    flags = toys.flags(model)

    def failing():
        with frozen(model):
            assert not any(module.training for module in model.modules())
            assert not any(weight.requires_grad for weight in model.parameters())
            with frozen(model):
                pass
            assert not any(weight.requires_grad for weight in model.parameters())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        failing()
    assert toys.flags(model) == flags
    assert not model.head.bias.requires_grad  # its owner had frozen it


def test_the_attack_runs_in_evaluation_mode_whatever_the_mode_of_the_network(pair):
    model, _, x, y = pair
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    training = fgsm(model.train(), x, y, eps=0.03)
    assert torch.equal(training, fgsm(model.eval(), x, y, eps=0.03))


radii = st.floats(min_value=0.0, max_value=1.0, width=32)


@given(
    eps=st.lists(radii, min_size=3, max_size=3),
    step=st.lists(radii, min_size=3, max_size=3),
    steps=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
    start=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_attack_stays_in_the_ball_and_in_the_pixel_range(eps, step, steps, seed, start):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 1, 2, 2, generator=generator)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.0, 1.0
    model = Linear(torch.randn(4, generator=generator))
    moved = pgd(
        model,
        x,
        torch.tensor([0, 1, 0]),
        eps=torch.tensor(eps),
        step=torch.tensor(step),
        steps=steps,
        rng=generator if start else None,
    )
    assert moved.dtype == torch.float32
    assert float(moved.min()) >= -1e-7  # ART's order: the last clamp is the ball's, so x + (0 - x) may be off by one rounding
    assert float(moved.max()) <= 1 + 1e-7
    assert bool(((moved - x).abs().amax(dim=(1, 2, 3)) <= torch.tensor(eps) + 1e-6).all())  # float32 rounding of x + d - x
    if steps == 0 and not start:
        assert torch.equal(moved, x)


def test_steps_raise_the_loss_until_the_corner_of_the_ball_is_reached():
    model = Linear([3.0, -1.0, 2.0, 0.5])
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    with torch.no_grad():
        moved = [pgd(model, x, y, eps=0.1, step=0.04, steps=k) for k in range(5)]
        losses = [float(functional.cross_entropy(model(images), y)) for images in moved]
    assert losses[:4] == sorted(losses[:4])
    assert losses[3] == losses[4]  # 3 x 0.04 > 0.1


def test_a_random_start_is_uniform_in_the_ball_and_follows_from_its_generator():
    x = torch.full((2, 1, 100, 100), 0.5)
    eps = torch.tensor([0.1, 0.4])
    started = random_start(x, eps, torch.Generator().manual_seed(0))
    again = random_start(x, eps, torch.Generator().manual_seed(0))
    assert torch.equal(started, again)
    for k, radius in enumerate((0.1, 0.4)):
        moves = (started[k] - 0.5).flatten() / radius
        share, _ = torch.histogram(moves.double(), bins=10, range=(-1.0, 1.0))
        assert float(moves.abs().max()) <= 1 + 1e-6
        assert bool(((share / 1000 - 1).abs() < 0.12).all())  # 10 000 draws: 4 standard deviations of a bin are 0.12
    assert float(random_start(torch.zeros(1, 1, 9, 9), 0.5, torch.Generator().manual_seed(0)).min()) >= 0


def test_project_clips_to_the_pixel_range_and_then_to_the_ball():
    x = torch.tensor([0.0, 0.5, 1.0, 0.25]).view(1, 1, 2, 2)
    wild = torch.tensor([-3.0, 0.9, 2.0, 0.3]).view(1, 1, 2, 2)
    assert torch.equal(project(wild, x, 0.125), torch.tensor([0.0, 0.625, 1.0, 0.3]).view(1, 1, 2, 2))


def test_a_number_an_image_broadcasts_over_its_pixels():
    x = torch.zeros(3, 1, 2, 2)
    assert per_image(0.5, x).shape == ()
    assert per_image(torch.tensor([1, 2, 3]), x).shape == (3, 1, 1, 1)
    assert per_image(np.array([1.0, 2.0, 3.0]), x).dtype == torch.float32


def test_radii_of_another_number_than_images_are_refused(pair):
    model, _, x, y = pair
    with pytest.raises(RuntimeError, match="size of tensor"):
        fgsm(model, torch.as_tensor(x), torch.as_tensor(y), eps=torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_search_with_one_radius_for_all_copies_no_number_from_the_host(toys, monkeypatch, norm):
    model = toys.build(toys.plain)
    x, y = (torch.as_tensor(v) for v in toys.images(6))
    expected = pgd(model, x, y, eps=0.1, step=0.05, steps=2, norm=norm, rng=torch.Generator().manual_seed(0))

    def refuse(*arguments, **keywords):
        raise AssertionError("a number was made a tensor, for which a GPU's host would wait")

    monkeypatch.setattr(torch, "as_tensor", refuse)
    monkeypatch.setattr(torch, "tensor", refuse)
    found = pgd(model, x, y, eps=0.1, step=0.05, steps=2, norm=norm, rng=torch.Generator().manual_seed(0))
    assert torch.equal(found, expected)
