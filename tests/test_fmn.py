"""FMN: closed forms on linear networks, no image that is not wrong, PGD with other means, batches."""

import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.fmn import FMN, ROUNDING
from cxr_eval.attacks.gradient import margin, right
from tests.toys import build, findings, images, ours, plain

NORMS = ("linf", "l2")


class Linear(torch.nn.Module):
    """Logits w_k . x + b_k, with b_k such that grey images lie near every boundary."""

    def __init__(self, classes: int = 2, pixels: int = 64, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.w = torch.nn.Parameter(torch.randn(classes, pixels, generator=rng))
        self.b = torch.nn.Parameter(-0.5 * self.w.detach().sum(dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.w.T + self.b


def grey(n: int = 30, seed: int = 0) -> torch.Tensor:
    """Images so far from 0 and 1 that only the distance bounds the attack."""
    return 0.35 + 0.3 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def lengths(change: torch.Tensor, norm: str) -> torch.Tensor:
    return change.flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)


def dual_length(w: torch.Tensor, norm: str) -> torch.Tensor:
    return w.norm(p=1 if norm == "linf" else 2, dim=-1)


def attacked(classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, norm: str, **settings: object) -> torch.Tensor:
    return FMN(eps=0.1, norm=norm, **settings).perturb(classifier, x, y, eps=0.1, seed=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_with_two_linear_classes_the_distance_is_the_margin_over_the_dual_length_of_the_weights(norm: str, seed: int) -> None:
    net, x = Linear(seed=seed), grey(seed=seed)
    classifier = ours(net, classes=2)
    y = net(x).argmax(1)
    lead = -margin(net(x), y, "multiclass").detach()
    nearest = lead / dual_length((net.w[0] - net.w[1]).detach(), norm)
    found = attacked(classifier, x, y, norm)
    assert not right(classifier.logits(found), y, "multiclass").any()
    torch.testing.assert_close(lengths(found - x, norm), nearest, rtol=0.01, atol=1e-5)  # measured: 0.2 %


@pytest.mark.parametrize("norm", NORMS)
def test_with_several_linear_classes_the_nearest_boundary_is_found(norm: str) -> None:
    net, x = Linear(5), grey()
    y = net(x).argmax(1)
    ways = []
    for k in range(5):
        lead = (net(x).gather(1, y[:, None])[:, 0] - net(x)[:, k]).detach()
        distance = lead / dual_length((net.w[y] - net.w[k]).detach(), norm)
        ways.append(torch.where(y == k, torch.inf, distance))
    nearest = torch.stack(ways).amin(dim=0)
    distance = lengths(attacked(ours(net, classes=5), x, y, norm) - x, norm)
    assert (distance >= nearest - 1e-5).all()  # float32
    assert (distance <= 1.05 * nearest + 1e-5).float().mean() >= 0.9  # a search may follow another class to its boundary


@pytest.mark.parametrize("norm", NORMS)
def test_with_findings_the_nearest_known_one_is_flipped_and_unknown_ones_do_not_count(norm: str) -> None:
    net, x = Linear(3), grey()
    classifier = ours(net, classes=3, task="multilabel")
    logits = net(x).detach()
    y = (logits > 0).float()
    y[torch.isnan(torch.as_tensor(findings(len(x))))] = torch.nan
    y[0] = torch.nan
    known = ~torch.isnan(y)
    distance = torch.where(known, logits.abs() / dual_length(net.w.detach(), norm), torch.inf).amin(dim=1)
    found = attacked(classifier, x, y, norm)
    some = known.any(dim=1)
    assert torch.equal(found[~some], x[~some])
    assert not right(classifier.logits(found), y, "multilabel")[some].any()
    reached = lengths(found - x, norm)[some]
    assert (reached >= distance[some] - 1e-5).all()  # float32
    assert (reached <= 1.05 * distance[some] + 1e-5).float().mean() >= 0.9


def trained() -> tuple[cxr.Classifier, torch.Tensor, torch.Tensor]:
    """A small network that is right about nearly all images, 40 other images, and their labels."""
    net = build(plain)
    x, y = (torch.as_tensor(part) for part in images(200))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    x, y = (torch.as_tensor(part) for part in images(40, seed=1))
    return ours(net), x, y


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_breaks_few_images_just_below_the_distance_found_and_nearly_all_above(norm: str) -> None:
    classifier, x, y = trained()
    distance = lengths(attacked(classifier, x, y, norm) - x, norm)
    broken = {}
    for share in (0.8, 1.05):
        eps = share * distance
        moved = cxr.pgd(classifier.model, x, y, eps=eps, step=eps / 10, steps=50, norm=norm)
        broken[share] = float((~right(classifier.logits(moved), y, "multiclass")).float().mean())
    assert broken[0.8] <= 0.05
    assert broken[1.05] >= 0.95


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 3, 30])
def test_what_comes_back_is_the_clean_image_or_wrong_by_more_than_rounding(norm: str, steps: int) -> None:
    classifier, x, y = trained()
    found = attacked(classifier, x, y, norm, steps=steps)
    moved = (found != x).flatten(1).any(dim=1)
    slack = ROUNDING * classifier.logits(x).abs().amax(dim=1)
    lead = margin(classifier.logits(found), y, "multiclass")
    assert (lead[moved] > 0.5 * slack[moved]).all()  # half: the batch is another one here
    assert right(classifier.logits(x), y, "multiclass")[moved].all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert moved.any() or steps == 1


def test_more_steps_never_lead_farther_on_average() -> None:
    classifier, x, y = trained()
    distance = [float(lengths(attacked(classifier, x, y, "l2", steps=steps) - x, "l2").mean()) for steps in (20, 100)]
    assert distance[1] <= distance[0]


def test_an_image_that_is_wrong_without_attack_comes_back_as_it_is() -> None:
    classifier, x, y = trained()
    other = (y + 1) % 3
    assert torch.equal(attacked(classifier, x, other, "linf"), x)
    mixed = torch.where(torch.arange(len(y)) % 2 == 0, y, other)
    found = attacked(classifier, x, mixed, "linf")
    assert torch.equal(found[1::2], x[1::2])
    assert (found[::2] != x[::2]).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_gets_the_same_alone_and_in_any_batch(norm: str) -> None:
    classifier, x, y = trained()
    together = attacked(classifier, x[:8], y[:8], norm, steps=20)
    alone = torch.cat([attacked(classifier, x[i : i + 1], y[i : i + 1], norm, steps=20) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)  # float32 sums in another order, 20 steps
    turned = attacked(classifier, x[:8].flip(0), y[:8].flip(0), norm, steps=20).flip(0)
    torch.testing.assert_close(together, turned, rtol=0, atol=1e-4)


def test_neither_the_radius_nor_the_seed_matters_and_everything_is_left_as_it_was() -> None:
    classifier, x, y = trained()
    classifier.model.train()
    state, before = torch.get_rng_state(), x.clone()
    first = FMN(eps=0.01, steps=5).perturb(classifier, x, y, eps=0.01, seed=0)
    again = FMN(eps=0.5, steps=5).perturb(classifier, x, y, eps=0.5, seed=1)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert classifier.model.training
    assert all(weight.requires_grad and weight.grad is None for weight in classifier.model.parameters())


class Flat(torch.nn.Module):
    """Always the first class, without any gradient; or not a number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack((0 * x.flatten(1).sum(dim=1) + self.value, 0 * x.flatten(1).sum(dim=1)), dim=1)


@pytest.mark.parametrize("value", [1.0, 0.0, torch.nan, torch.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_and_for_broken_outputs_the_clean_image_comes_back(value: float, norm: str) -> None:
    x = grey(3)
    assert torch.equal(attacked(ours(Flat(value), classes=2), x, torch.zeros(3).long(), norm), x)


def test_no_images_give_no_images() -> None:
    x = torch.empty(0, 1, 8, 8)
    assert attacked(ours(Linear(), classes=2), x, torch.empty(0).long(), "linf").shape == x.shape


def test_it_says_that_it_looks_for_nearest_images_and_how_many_steps_it_takes() -> None:
    attack = FMN(eps=0.1, steps=7)
    assert attack.minimal
    assert attack.norms == NORMS
    assert attack.steps == 7


@pytest.mark.parametrize("settings", [{"steps": 0}, {"gamma_initial": 1.0}, {"alpha_final": 0.0}, {"norm": "l1"}])
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        FMN(eps=0.1, **settings)
