"""Auto-PGD: closed forms on linear networks, the authors' search step by step, how it counts, starts and stops."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.attacks import apgd
from cxr_eval.attacks.apgd import APGD, Search, checkpoints, image_loss
from cxr_eval.attacks.gradient import FGSM, PGD, leads, margin, right
from cxr_eval.attacks.seeds import uniform_start

SIDE = 10
LOSSES = ("ce", "margin", "dlr", "targeted_margin", "targeted_dlr")
DUAL = {"linf": 1, "l2": 2}
"""The norm of the weights that says how far a linear network moves within a ball of radius 1."""


def linear(classes: int, task: str = "multiclass", seed: int = 0) -> cxr.Classifier:
    """Logits w_k.(x - 0.5) of images 4 x 4."""
    rng = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(16, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 16, generator=rng))
        layer.bias.copy_(-0.5 * layer.weight.sum(dim=1))
    net = torch.nn.Sequential(torch.nn.Flatten(), layer)
    return cxr.Classifier(net, input_shape=(1, 4, 4), nb_classes=classes, device="cpu", task=task)


def middling(n: int = 40, side: int = 4, seed: int = 0) -> torch.Tensor:
    """Images whose pixels are so far from 0 and 1 that only the ball bounds an attack."""
    return 0.4 + 0.2 * torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def drawn(n: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed pattern for each class, in noise."""
    pattern = torch.rand(classes, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    noise = torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return (0.375 + 0.25 * pattern[y] + 0.15 * noise).clamp(0.2, 0.8), y


@cache
def trained(classes: int, eps: float = 0.0) -> cxr.Classifier:
    """A small network that tells the patterns apart; trained on images attacked within eps, where it is not 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 12, 3, padding=1, stride=2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(12 * SIDE * SIDE // 4, classes),
        )
    optimizer, (x, y) = torch.optim.Adam(net.parameters(), 3e-3), drawn(1000, classes, seed=1)
    rng = torch.Generator().manual_seed(0)
    for _ in range(120):
        batch = torch.randint(len(x), (64,), generator=rng)
        images = cxr.pgd(net, x[batch], y[batch], eps=eps, step=eps / 2, steps=3 if eps else 0)
        optimizer.zero_grad()
        functional.cross_entropy(net(images), y[batch]).backward()
        optimizer.step()
    return cxr.Classifier(net, input_shape=(1, SIDE, SIDE), nb_classes=classes, device="cpu")


def robust(classifier: cxr.Classifier, attack: cxr.Attack, x: torch.Tensor, y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    (eps,) = attack.params.eps
    return right(classifier.logits(attack.perturb(classifier, x, y, eps=eps, seed=seed)), y, classifier.task)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.floats(0.001, 0.1), norm=st.sampled_from(["linf", "l2"]))
def test_two_linear_classes_an_image_falls_exactly_if_its_margin_is_within_eps_times_the_dual_norm(
    seed: int, eps: float, norm: str
) -> None:
    classifier, x = linear(2, seed=seed), middling(seed=seed)
    weight = classifier.model[1].weight.detach()
    lead = classifier.logits(x) @ torch.tensor([-1.0, 1.0])
    y = (lead > 0).long()
    reach = eps * (weight[1] - weight[0]).norm(p=DUAL[norm])
    clear = (lead.abs() - reach).abs() > 1e-4 * reach  # float32 decides the others
    for attack in (
        APGD(eps=eps, norm=norm, steps=15),
        APGD(eps=eps, norm=norm, steps=15, loss="margin"),
        APGD(eps=eps, norm=norm, steps=15, loss="targeted_margin"),
        FGSM(eps=eps, norm=norm),
        PGD(eps=eps, norm=norm, steps=10, step=1.0),  # in L2, steps of 2.5 radii / 10 end 0.5 % short
    ):
        assert torch.equal(robust(classifier, attack, x, y)[clear], (lead.abs() > reach)[clear])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["targeted_margin", "targeted_dlr"])
def test_six_linear_classes_targeted_searches_find_the_nearest_of_the_five_boundaries(norm: str, loss: str) -> None:
    classifier, x = linear(6, seed=3), middling(150)
    logits, weight = classifier.logits(x), classifier.model[1].weight.detach()
    y = logits.argmax(dim=1)
    between = (weight[y][:, None] - weight[None]).norm(p=DUAL[norm], dim=2)  # 0 at the label itself
    distance = (-leads(logits, y, "multiclass") / between).amin(dim=1)  # inf there
    eps = float(distance.median())
    found = robust(classifier, APGD(eps=eps, norm=norm, steps=40, loss=loss), x, y)
    clear = (distance - eps).abs() > 1e-3 * eps
    assert clear.sum() >= 145
    assert torch.equal(found[clear], (distance > eps)[clear])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_three_linear_findings_the_nearest_known_one_falls_exactly_at_its_distance(norm: str) -> None:
    classifier, x = linear(3, "multilabel", seed=5), middling(150)
    logits, weight = classifier.logits(x), classifier.model[1].weight.detach()
    y = (logits > 0).float()
    y[::3, 1] = torch.nan
    distance = torch.where(torch.isnan(y), torch.inf, logits.abs() / weight.norm(p=DUAL[norm], dim=1)).amin(dim=1)
    eps = float(distance.median())
    found = robust(classifier, APGD(eps=eps, norm=norm, steps=40, loss="targeted_margin"), x, y)
    clear = (distance - eps).abs() > 1e-3 * eps
    assert clear.sum() >= 145
    assert torch.equal(found[clear], (distance > eps)[clear])


def test_losses_are_those_of_the_paper_by_hand() -> None:
    logits, y, target = torch.tensor([[4.0, 1.0, 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]]), torch.tensor([0, 3]), torch.tensor([1, 2])
    by_hand = {
        "margin": [3 - 4, 4 - 2],
        "dlr": [(3 - 4) / (4 - 2), (4 - 2) / (4 - 2)],
        "targeted_margin": [1 - 4, 3 - 2],
        "targeted_dlr": [(1 - 4) / (4 - (2 + 1) / 2), (3 - 2) / (4 - (2 + 1) / 2)],
    }
    for loss, expected in by_hand.items():
        assert image_loss(loss, logits, y, target, "multiclass").tolist() == pytest.approx(expected)
    ce = image_loss("ce", logits, y, target, "multiclass")
    assert float(ce.mean()) == pytest.approx(float(functional.cross_entropy(logits, y)))


def test_losses_of_findings_by_hand_and_a_finding_that_is_unknown_does_not_count() -> None:
    logits, nan = torch.tensor([[2.0, -1.0, 9.0]]), torch.nan
    y, target = torch.tensor([[1.0, 0.0, nan]]), torch.tensor([0])
    assert leads(logits, y, "multilabel").tolist() == [[-2.0, -1.0, -torch.inf]]
    assert margin(logits, y, "multilabel").tolist() == [-1.0]
    assert image_loss("margin", logits, y, target, "multilabel").tolist() == [-1.0]
    assert image_loss("targeted_margin", logits, y, target, "multilabel").tolist() == [-2.0]
    expected = (functional.softplus(torch.tensor(-2.0)) + functional.softplus(torch.tensor(-1.0))) / 2
    assert image_loss("ce", logits, y, target, "multilabel").tolist() == pytest.approx([float(expected)])
    classifier = linear(3, "multilabel")
    assert float(classifier.loss(logits, y)) == pytest.approx(float(expected))


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.1, 1e4), shift=st.floats(-50, 50))
def test_ratios_of_logits_do_not_know_their_scale(factor: float, shift: float) -> None:
    rng = torch.Generator().manual_seed(0)
    logits, y = torch.randn(20, 5, generator=rng, dtype=torch.float64), torch.arange(20) % 5
    for loss in ("dlr", "targeted_dlr"):
        before, after = (image_loss(loss, z, y, (y + 1) % 5, "multiclass") for z in (logits, factor * logits + shift))
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-9)  # the small number below the line


def test_a_margin_above_zero_is_a_wrong_image() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, y = torch.randn(200, 4, generator=rng), torch.arange(200) % 4
    assert torch.equal(margin(logits, y, "multiclass") > 0, ~right(logits, y, "multiclass"))
    findings = torch.randint(0, 2, (200, 4), generator=rng).float()
    findings[::2, 0] = torch.nan
    assert torch.equal(margin(logits, findings, "multilabel") > 0, ~right(logits, findings, "multilabel"))


def test_checkpoints_come_closer_by_three_per_cent_until_they_are_six_apart() -> None:
    # gaps of 22, 19, 16, 13, 10, 7, 6, 6 per cent
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(50) == (11, 21, 29, 35, 40, 44, 47, 50)  # 20.5, 28.5, 43.5, 46.5 and 49.5 rounded up
    assert checkpoints(3) == (1, 2, 3)
    assert checkpoints(1) == (1,)


@pytest.fixture
def drawn_as_torchattacks_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our random starts from the global generator, in its order; seeded with 0, as it seeds it."""

    def start(x: torch.Tensor, eps: float, norm: str, *salt: int) -> torch.Tensor:
        noise = 2 * torch.rand(x.shape) - 1 if norm == "linf" else torch.randn(x.shape)
        length = torch.linalg.vector_norm(noise.flatten(1), ord=torch.inf if norm == "linf" else 2, dim=1)
        return (x + eps * noise / length[:, None, None, None]).clamp(0, 1)

    monkeypatch.setattr(apgd, "uniform_start", start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.usefixtures("drawn_as_torchattacks_draws")
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.35)])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize(("classes", "trained_with"), [(4, 0.0), (4, 0.03), (10, 0.0), (10, 0.03)])
def test_from_the_same_start_it_finds_what_the_published_search_finds(
    classes: int, trained_with: float, loss: str, norm: str, eps: float
) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    classifier, (x, y) = trained(classes, trained_with), drawn(230, classes, seed=2)
    good = right(classifier.logits(x), y, "multiclass")  # it searches for no other
    x, y = x[good][:200], y[good][:200]
    ours = APGD(eps=eps, norm=norm, loss=loss).perturb(classifier, x, y, eps=eps, seed=0)
    theirs = torchattacks.APGD(classifier.model, norm=norm.title(), eps=eps, steps=100, loss=loss)
    search = theirs.attack_single_run
    runs: list[tuple[torch.Tensor, ...]] = []
    theirs.attack_single_run = lambda *images: runs.append(search(*images)) or runs[-1]
    broken = ~right(classifier.logits(theirs(x, y)), y, "multiclass")
    fell = ~right(classifier.logits(ours), y, "multiclass")
    assert 10 < broken.sum() < 190
    assert (fell != broken).sum() <= 1
    unbroken = ~fell & ~broken
    ours_best = image_loss(loss, classifier.logits(ours), y, y, "multiclass")[unbroken]
    close = (ours_best - runs[0][2][unbroken]).abs() < 1e-3
    assert close.float().mean() > 0.95  # rounding sends a few along another way


@pytest.mark.usefixtures("drawn_as_torchattacks_draws")
@pytest.mark.parametrize("classes", [4, 10])
def test_from_the_same_starts_targeted_ratios_break_what_the_published_search_breaks(classes: int) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    classifier, (x, y) = trained(classes, 0.03), drawn(200, classes, seed=2)
    ours = robust(classifier, APGD(eps=0.05, loss="targeted_dlr"), x, y)
    theirs = torchattacks.APGDT(classifier.model, norm="Linf", eps=0.05, steps=100, n_classes=classes)(x, y)
    assert abs(int(ours.sum()) - int(right(classifier.logits(theirs), y, "multiclass").sum())) <= 1


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.35)])
@pytest.mark.parametrize("classes", [4, 10])
def test_it_breaks_at_least_what_pgd_breaks(classes: int, norm: str, eps: float) -> None:
    classifier, (x, y) = trained(classes, 0.03), drawn(200, classes, seed=2)
    ours = robust(classifier, APGD(eps=eps, norm=norm), x, y)
    pgd = robust(classifier, PGD(eps=eps, norm=norm, steps=20), x, y)
    assert ours.sum() <= pgd.sum()
    assert (ours & ~pgd).sum() <= 1  # another random start


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_network_too_confident_for_its_gradient_is_broken_all_the_same(norm: str) -> None:
    classifier, x = linear(2, seed=2), middling(200, seed=2)
    weight, bias = classifier.model[1].weight, classifier.model[1].bias
    with torch.no_grad():
        weight[1], bias[1] = -weight[0], -bias[0]
        least = float(margin(classifier.logits(x), torch.zeros(200).long(), "multiclass").abs().median())
        weight *= 50 / least
        bias *= 50 / least
    y = classifier.logits(x).argmax(dim=1)
    lead = -margin(classifier.logits(x), y, "multiclass")
    x, y, lead = x[far := (lead > 46) & (lead < 56)], y[far], lead[far]
    assert len(x) >= 5
    # gradients of about exp(-46) or less, whose squares are 0 in float32
    eps = 1.3 * float((lead / (weight[1] - weight[0]).detach().norm(p=DUAL[norm])).max())
    for loss in ("ce", "margin"):
        assert not robust(classifier, APGD(eps=eps, norm=norm, loss=loss, steps=20), x, y).any()


def test_steps_are_halved_after_few_rises_or_no_better_best_and_only_then_the_search_goes_back() -> None:
    def column(*values: float) -> torch.Tensor:
        return torch.tensor(values)[:, None, None, None]

    # of 8 steps, 6 are the share rho; image 3 has no better best than at the last checkpoint, nor has image 4, halved there
    state = Search(
        place=torch.arange(5),
        clean=column(0, 0, 0, 0, 0),
        y=torch.zeros(5),
        target=torch.zeros(5),
        x=column(1, 1, 1, 1, 1),
        before=column(0, 0, 0, 0, 0),
        loss=torch.zeros(5),
        gradient=column(1, 1, 1, 1, 1),
        best=column(2, 2, 2, 2, 2),
        best_loss=torch.tensor([5.0, 5.0, 5.0, 5.0, 5.0]),
        best_gradient=column(3, 3, 3, 3, 3),
        step=torch.full((5,), 0.2),
        rises=torch.tensor([5.0, 6.0, 7.0, 7.0, 7.0]),
        best_then=torch.tensor([4.0, 4.0, 4.0, 5.0, 5.0]),
        halved=torch.tensor([False, False, False, False, True]),
    )
    state.reconsider_the_step(8)
    assert state.halved.tolist() == [True, True, False, True, False]
    assert state.step.tolist() == pytest.approx([0.1, 0.1, 0.2, 0.1, 0.2])
    assert state.x.flatten().tolist() == [2, 2, 1, 2, 1]
    assert state.gradient.flatten().tolist() == [3, 3, 1, 3, 1]
    assert state.rises.tolist() == [0] * 5
    assert state.best_then.tolist() == [5] * 5


@contextmanager
def counted(classifier: cxr.Classifier) -> Iterator[list[torch.Tensor]]:
    """The logits of every pass inside."""
    seen: list[torch.Tensor] = []
    with classifier.model.register_forward_hook(lambda _, __, logits: seen.append(logits.detach().clone())):
        yield seen


@pytest.mark.parametrize(("loss", "passes"), [("ce", 2 * 13), ("dlr", 2 * 13), ("targeted_margin", 1 + 3 * 2 * 13)])
def test_a_search_takes_one_pass_a_step_and_one_for_the_start(loss: str, passes: int) -> None:
    classifier, x = linear(4), middling()
    y = classifier.logits(x).argmax(dim=1)
    with counted(classifier) as seen:
        # targeted: one pass to rank the 3 wrong classes; 2 restarts of 12 steps
        APGD(eps=1e-4, steps=12, restarts=2, loss=loss).perturb(classifier, x, y, eps=1e-4, seed=0)
    assert len(seen) == passes


def test_an_image_is_looked_at_until_it_is_wrong_and_returned_as_it_is_then() -> None:
    classifier, x = linear(3), middling()
    y = (classifier.logits(x).argmax(dim=1) + torch.arange(len(x)) % 2) % 3  # every other one is wrong already
    with counted(classifier) as seen:
        attacked = APGD(eps=0.02, steps=20).perturb(classifier, x, y, eps=0.02, seed=0)
    sizes = [len(logits) for logits in seen]
    assert sizes[0] == 40
    assert sizes[1] <= 25  # the start is in a small ball, so nearly all wrong images are wrong there
    assert sizes == sorted(sizes, reverse=True)
    wrong = ~right(classifier.logits(attacked), y, "multiclass")
    assert int(wrong.sum()) == 40 - sizes[-1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_an_image_that_stays_right_ends_where_its_loss_was_highest_of_all_steps(loss: str, norm: str) -> None:
    eps = 0.002 if norm == "linf" else 0.01
    classifier, (x, y) = trained(4), drawn(60, 4, seed=2)
    safe = margin(classifier.logits(x), y, "multiclass") < -1
    x, y = x[safe], y[safe]
    with counted(classifier) as seen:
        attacked = APGD(eps=eps, norm=norm, steps=30, loss=loss).perturb(classifier, x, y, eps=eps, seed=0)
    assert all(len(logits) == len(x) for logits in seen)
    losses = torch.stack([image_loss(loss, logits, y, y, "multiclass") for logits in seen])
    ended = image_loss(loss, classifier.logits(attacked), y, y, "multiclass")
    torch.testing.assert_close(ended, losses.amax(dim=0), rtol=1e-5, atol=1e-7)
    assert (ended > losses[0]).all()


def test_more_restarts_never_break_less_nor_end_lower() -> None:
    classifier, (x, y) = trained(4, 0.03), drawn(60, 4, seed=2)
    lowest, standing = torch.full((60,), -torch.inf), torch.ones(60, dtype=torch.bool)
    for restarts in (1, 2, 4):
        attack = APGD(eps=0.05, steps=15, restarts=restarts, loss="margin")
        attacked = attack.perturb(classifier, x, y, eps=0.05, seed=0)
        left = robust(classifier, attack, x, y)
        ended = margin(classifier.logits(attacked), y, "multiclass")
        assert not (left & ~standing).any()
        assert (ended[left] >= lowest[left] - 1e-6).all()  # float32
        lowest, standing = ended, left


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_gets_the_same_attack_alone_in_a_batch_and_in_another_order(loss: str, norm: str) -> None:
    eps = 0.02 if norm == "linf" else 0.1
    classifier, (x, y) = trained(4), drawn(20, 4, seed=2)
    classifier.model.double()  # so that the order in which a batch is summed does not decide about signs
    try:
        x, attack = x.double(), APGD(eps=eps, norm=norm, steps=20, loss=loss)
        together = attack.perturb(classifier, x, y, eps=eps, seed=3)
        alone = torch.cat([attack.perturb(classifier, x[i : i + 1], y[i : i + 1], eps=eps, seed=3) for i in range(20)])
        turned = attack.perturb(classifier, x.flip(0), y.flip(0), eps=eps, seed=3).flip(0)
        with torch.no_grad():
            answers = [classifier.model(images).argmax(dim=1) for images in (together, alone, turned)]
    finally:
        classifier.model.float()
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    torch.testing.assert_close(turned, together, rtol=0, atol=1e-6)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_l2_starts_fill_the_ball_evenly_and_follow_from_the_image_alone() -> None:
    x = 0.5 + 1e-3 * torch.rand(4000, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    start = uniform_start(x, 0.2, "l2", 7)
    length = (start - x).flatten(1).norm(dim=1)
    assert length.max() <= 0.2 + 1e-6
    # in a disc the share within half the radius is a quarter; 4 standard errors of 4000 draws
    assert float((length < 0.1).float().mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    assert (start - x).mean(dim=0).abs().max() < 4 * 0.1 / 4000**0.5  # each coordinate has standard deviation radius / 2
    assert torch.equal(uniform_start(x[5:6], 0.2, "l2", 7), start[5:6])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [FGSM, PGD, APGD])
def test_images_stay_in_the_ball_and_in_0_1_and_everything_else_is_left_as_it_was(make: type[cxr.Attack], norm: str) -> None:
    eps = 0.1 if norm == "linf" else 0.8
    classifier, (x, y) = linear(3), (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)
    classifier.model.train()
    state, before = torch.get_rng_state(), x.clone()
    attacked, again, other = (
        make(eps=eps, norm=norm).perturb(classifier, x, y, eps=eps, seed=seed).detach() for seed in (1, 1, 2)
    )
    change = (attacked - x).flatten(1)
    assert (change.abs().amax(dim=1) if norm == "linf" else change.norm(dim=1)).max() <= eps + 1e-6  # float32
    assert attacked.min() >= 0
    assert attacked.max() <= 1 + 1e-6  # float32
    assert torch.equal(attacked, again)
    assert torch.equal(attacked, other) == (make is FGSM)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert classifier.model.training
    assert all(weight.requires_grad and weight.grad is None for weight in classifier.model.parameters())


@pytest.mark.parametrize("loss", ["ce", "margin", "targeted_margin"])
def test_findings_that_are_unknown_are_not_attacked_and_an_image_without_any_is_returned(loss: str) -> None:
    classifier, x = linear(3, "multilabel"), middling(6)
    y = torch.full((6, 3), torch.nan)
    y[:3, 1] = (classifier.logits(x) > 0).float()[:3, 1]
    attacked = APGD(eps=0.01, steps=10, loss=loss).perturb(classifier, x, y, eps=0.01, seed=0)
    moved = (classifier.logits(attacked) - classifier.logits(x))[:3, 1]
    assert (moved * (1 - 2 * y[:3, 1]) > 0).all()  # away from the label
    assert torch.isfinite(attacked).all()
    if loss != "ce":  # cross-entropy of nothing is 0, so any point of the ball is as good
        assert torch.equal(attacked[3:], x[3:])


def test_logits_that_are_no_numbers_are_wrong_and_end_the_search() -> None:
    class NotANumber(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4] * torch.nan

    classifier = cxr.Classifier(NotANumber(), input_shape=(1, 2, 2), nb_classes=4, device="cpu")
    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    with counted(classifier) as seen:
        for loss in LOSSES:
            assert torch.isfinite(APGD(eps=0.1, loss=loss).perturb(classifier, x, y, eps=0.1, seed=0)).all()
    assert len(seen) == 3 * 1 + 2 * 2  # the targeted ones look at the clean images first


def test_images_of_one_grey_and_a_network_without_gradient_come_back_finite() -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * x.flatten(1)[:, :4] + torch.tensor([1.0, 0.0, 0.0, 0.0])

    classifier = cxr.Classifier(Constant(), input_shape=(1, 4, 4), nb_classes=4, device="cpu")
    x, y = torch.stack((torch.zeros(1, 4, 4), torch.ones(1, 4, 4))), torch.zeros(2, dtype=torch.long)
    for loss in LOSSES:
        for norm in ("linf", "l2"):
            attacked = APGD(eps=0.1, norm=norm, steps=5, loss=loss).perturb(classifier, x, y, eps=0.1, seed=0)
            assert torch.isfinite(attacked).all()


@pytest.mark.parametrize(
    ("loss", "classes", "task", "message"),
    [
        ("dlr", 2, "multiclass", "apgd: loss dlr needs at least 3 classes, there are 2; use loss margin"),
        (
            "targeted_dlr",
            3,
            "multiclass",
            "apgd: loss targeted_dlr needs at least 4 classes, there are 3; use loss targeted_margin",
        ),
        (
            "dlr",
            5,
            "multilabel",
            "apgd: loss dlr compares classes that exclude each other, and the network answers 5 findings; use",
        ),
        ("targeted_dlr", 5, "multilabel", "answers 5 findings; use loss targeted_margin"),
    ],
)
def test_ratios_without_enough_classes_are_refused(loss: str, classes: int, task: str, message: str) -> None:
    with pytest.raises(cxr.PluginError, match=message):
        APGD(eps=0.1, loss=loss).check(linear(classes, task))


def test_losses_that_a_network_has_enough_classes_for_are_taken() -> None:
    for loss, classes, task in (("dlr", 3, "multiclass"), ("targeted_dlr", 4, "multiclass"), ("margin", 2, "multilabel")):
        classifier = linear(classes, task)
        attack = APGD(eps=0.1, steps=3, loss=loss)
        attack.check(classifier)
        y = torch.zeros(5, dtype=torch.long) if task == "multiclass" else torch.zeros(5, classes)
        assert attack.perturb(classifier, middling(5), y, eps=0.1, seed=0).shape == (5, 1, 4, 4)


def test_it_says_how_many_steps_it_takes() -> None:
    assert APGD(eps=0.1).steps == 100
    assert APGD(eps=0.1, steps=7).steps == 7
