"""The validity checks: every known trick is caught, honest networks are left alone, and searches end where arithmetic says."""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.checks_subject import Check, Subject, beyond_chance, one_finding
from cxr_eval.attacks.convergence import convergence, upward
from cxr_eval.attacks.gradient import PGD
from cxr_eval.attacks.suite import adversarial
from cxr_eval.attacks.validity import CHECKS, as_warnings, battery

_spec = importlib.util.spec_from_file_location("broken_defences", Path(__file__).with_name("broken_defences.py"))
zoo = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = zoo  # dataclasses look their module up
_spec.loader.exec_module(zoo)

QUERIES = 150
L2 = 0.6
CODES = [check.__name__ for check in CHECKS]


def checked(net, kind, norm="linf", **settings):
    x, y = zoo.data(kind)
    radius = {"eps": zoo.EPS if norm == "linf" else L2}
    found = battery(zoo.classifier(net, y), x, y, norm=norm, queries=QUERIES, **(radius | settings))
    return {check.code: check for check in found}


@cache
def judged(name, norm="linf"):
    broken = zoo.DEFENCES[name]
    return checked(broken.make(), broken.images, norm)


@cache
def honest(name, norm="linf"):
    make, kind = zoo.HONEST[name]
    return checked(make(), kind, norm)


@pytest.mark.parametrize("name", zoo.DEFENCES)
def test_every_trick_is_named_by_the_checks_that_are_made_for_it(name):
    found = judged(name)
    assert {code: found[code].verdict for code in zoo.DEFENCES[name].says} == zoo.DEFENCES[name].says


@pytest.mark.parametrize("name", ["logits x 1e4", "eight grey levels", "detached branch", "softmax answer"])
def test_tricks_are_caught_in_l2_too(name):
    found = judged(name, "l2")
    says = zoo.DEFENCES[name].says
    assert any(found[code].verdict == verdict for code, verdict in says.items())
    assert ("FAIL" in says.values()) == ("FAIL" in {check.verdict for check in found.values()})


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", zoo.HONEST)
def test_no_check_speaks_against_an_honest_network(name, norm):
    found = honest(name, norm)
    spoke = {code: check.sentence for code, check in found.items() if check.verdict in ("WARN", "FAIL")}
    assert spoke == {}
    assert found["transfer_beats_white_box"].verdict == "SKIP"


def test_every_check_has_one_code_its_own_name_and_one_sentence_with_its_numbers():
    found = honest("standard")
    assert list(found) == CODES
    assert all(check.sentence.endswith(".") and "\n" not in check.sentence for check in found.values())
    assert "breaks 0 of 100 images" in found["noise_as_strong"].sentence


def test_nothing_depends_on_the_batch_size():
    x, y = zoo.data("classes")
    x, y = x[:20], y[:20]
    classifier = zoo.classifier(zoo.trained(), y)
    first, second = (battery(classifier, x, y, eps=zoo.EPS, queries=50, batch_size=size) for size in (64, 7))
    for one, other in zip(first, second, strict=True):
        assert (one.verdict, one.code) == (other.verdict, other.code)
        assert one.numbers == pytest.approx(other.numbers, abs=1e-5)  # sums of another number of images differ in float32


def test_the_battery_costs_no_more_passes_than_it_says_and_leaves_no_trace():
    x, y = zoo.data("classes")
    net = zoo.Around(after=torch.round)  # hardly any image is broken, by whatever search
    passes, behind = [], []

    def count(_, inputs):
        (behind if torch.is_grad_enabled() else passes).append(len(inputs[0]))

    net.train()
    state, random = {name: tensor.clone() for name, tensor in net.state_dict().items()}, torch.get_rng_state()
    classifier = zoo.classifier(net, y)
    with_hook = net.register_forward_pre_hook(count)
    battery(classifier, x, y, eps=zoo.EPS, queries=QUERIES)
    with_hook.remove()
    assert 0.9 * (COST + QUERIES) < (sum(passes) + sum(behind)) / 100 <= COST + QUERIES
    assert sum(behind) / 100 <= BACKWARD
    assert net.training
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(weight.grad is None for weight in net.parameters())


COST, BACKWARD = 209, 164


def test_images_made_on_another_network_break_one_whose_own_gradients_mislead():
    _, y = zoo.data("classes")
    surrogate = zoo.classifier(zoo.trained(), y)
    detached = checked(zoo.Detached(), "classes", surrogate=surrogate)["transfer_beats_white_box"]
    assert detached.verdict == "FAIL"
    assert detached.numbers["missed"] > 50
    own = checked(zoo.trained(), "classes", surrogate=surrogate)["transfer_beats_white_box"]
    assert own.verdict == "PASS"


class Lying(torch.autograd.Function):
    """Passes images on, and their gradient turned round wherever they have been moved."""

    @staticmethod
    def forward(ctx, x, towards):
        ctx.save_for_backward(x, towards)
        return x

    @staticmethod
    def backward(ctx, gradient):
        x, clean = ctx.saved_tensors
        moved = (x - clean).abs().flatten(1).amax(dim=1) > 1e-6
        return torch.where(moved[:, None, None, None], -gradient, gradient), None


class OnlyTheFirst(torch.nn.Module):
    """Gradients are true at the images that it knows and false anywhere else: one step works, many go back and forth."""

    def __init__(self, net, known):
        super().__init__()
        self.net, self.known = net, known

    def forward(self, x):
        nearest = torch.cdist(x.detach().flatten(1), self.known.flatten(1)).argmin(dim=1)
        return self.net(Lying.apply(x, self.known[nearest]))


def test_one_step_that_beats_many_is_reported():
    x, _ = zoo.data("classes")
    found = checked(OnlyTheFirst(zoo.trained(), x), "classes")
    check = found["single_step_beats_many"]
    assert check.verdict == "FAIL"
    assert check.numbers["only_one"] > 20
    assert check.numbers["only_many"] == 0


class Ring(torch.nn.Module):
    """Wrong about class 0 where the mean distance from grey 0.45 is between 0.008 and 0.014, right inside and outside of it."""

    def forward(self, x):
        away = (x - 0.45).abs().flatten(1).mean(dim=1)
        lead = 100 * ((away - 0.011).abs() - 0.003)
        return torch.stack((lead, -lead), dim=1)


def test_a_search_that_does_worse_with_more_room_is_reported():
    x, y = torch.full((40, 1, 16, 16), 0.451), torch.zeros(40, dtype=torch.long)
    classifier = cxr.Classifier(Ring(), input_shape=(1, 16, 16), nb_classes=2, device="cpu")
    found = {check.code: check for check in battery(classifier, x, y, eps=0.08, queries=10)}
    # steps are a quarter of the radius: at 0.04 the first ends in the ring, at 0.08 and 0.16 it jumps over and the next back
    assert found["curve_not_monotone"].verdict == "FAIL"
    assert found["curve_not_monotone"].numbers == {"robust_half": 0.0, "robust_eps": 1.0, "robust_twice": 1.0}
    assert found["too_few_classes"].verdict == "WARN"
    assert found["too_few_classes"].numbers == {"classes": 2.0, "labels": 1.0}


class OnePixel(torch.nn.Module):
    """Class 1 where the first pixel is above 0.5."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        lead = self.weight * (x[:, 0, 0, 0] - 0.5)
        return torch.stack((-lead, lead), dim=1)


class OneAfterTheOther(torch.nn.Module):
    """Seven pixels that count only once the pixel before them is at the edge of the ball; all must be there."""

    def forward(self, x):
        moved = (x.flatten(1)[:, :7] - 0.5) / zoo.EPS
        counts = torch.cat((torch.ones(len(x), 1), (moved[:, :-1].detach() > 0.99).float().cumprod(dim=1)), dim=1)
        lead = 6.99 - (counts * moved).sum(dim=1)
        return torch.stack((lead, -lead), dim=1)


def spoken(net, x, y, eps=zoo.EPS, queries=10):
    classifier = cxr.Classifier(net, input_shape=(1, 16, 16), nb_classes=2, device="cpu")
    return {check.code: check for check in battery(classifier, x, y, eps=eps, queries=queries)}


def test_a_search_that_goes_on_finding_images_is_reported():
    x, y = torch.full((30, 1, 16, 16), 0.5), torch.zeros(30, dtype=torch.long)
    classifier = cxr.Classifier(OneAfterTheOther(), input_shape=(1, 16, 16), nb_classes=2, device="cpu")
    found = convergence(classifier, x, y, eps=zoo.EPS, steps=40, restarts=1)
    assert (found.first_step == 7 * 4).all()  # seven pixels, four steps of a quarter of the radius each
    check = spoken(OneAfterTheOther(), x, y)["more_iterations_help"]
    assert check.verdict == "WARN"
    assert check.numbers == {"late": 30.0, "images": 30.0, "short": 1.0, "long": 0.0}


def test_noise_that_breaks_what_the_search_leaves_is_reported():
    check = checked(zoo.Around(after=torch.round), "classes", eps=0.9)["noise_as_strong"]
    assert check.verdict == "FAIL"
    assert check.numbers["missed"] >= 5


def test_a_search_that_does_no_more_than_noise_is_reported():
    x, y = torch.full((30, 1, 16, 16), 0.9), torch.arange(30) % 2
    x[:, 0, 0, 0] = torch.where(torch.arange(30) < 10, 0.01, 0.4) * (2 * y - 1) + 0.5
    check = spoken(OnePixel(), x, y)["noise_as_strong"]  # ten images are within reach, one pixel away, and no other is
    assert check.verdict == "WARN"
    assert check.numbers == {"noise": 10.0, "search": 10.0, "missed": 0.0, "images": 30.0}
    assert "no better than chance" in check.sentence


def test_a_network_that_noise_alone_breaks_is_reported():
    check = checked(zoo.trained(), "classes", eps=0.9)["noise_as_strong"]
    assert check.verdict == "WARN"
    assert "needs no attacker" in check.sentence


def test_a_few_images_without_gradient_are_a_warning():
    x, _ = zoo.data("classes")
    grey = x[:100].mean(dim=(1, 2, 3)).sort().values
    dark = float((grey[3] + grey[4]) / 2)  # four images below

    def some_cut(shown):
        return torch.where(shown.mean(dim=(1, 2, 3), keepdim=True) < dark, shown.detach(), shown)

    check = checked(zoo.Around(before=some_cut), "classes")["zero_gradients"]
    assert check.verdict == "WARN"
    assert check.numbers == {"blind": 4.0, "images": 100.0, "share": 0.04}


def test_noise_that_changes_no_answer_is_a_warning():
    net = zoo.Around(after=lambda z: z * (1 + 1e-3 * torch.randn(len(z), 1)))
    check = checked(net, "classes")["random_predictions"]
    assert check.verdict == "WARN"
    assert check.numbers["flips"] == 0


def test_a_network_that_is_far_too_sure_is_left_alone_where_attacks_on_its_loss_find_everything():
    sure = zoo.Around(after=lambda z: 10 * z, net=zoo.trained(outputs=1, kind="one logit"))
    check = checked(sure, "two")["vanishing_gradients"]  # logits (-z/2, z/2): what rounding leaves points the same way
    assert check.numbers["rounded"] >= 10
    assert check.verdict == "PASS"
    assert "no more than chance" in check.sentence


def test_outputs_that_are_no_logits_are_not_compared_over_preparations():
    assert judged("sigmoid of one logit")["preprocessing_outside"].verdict == "SKIP"
    assert judged("one-hot answer")["vanishing_gradients"].verdict == "SKIP"


def test_first_steps_and_restarts_of_a_search_follow_from_the_definition():
    x, y = zoo.data("classes")
    classifier = zoo.classifier(zoo.trained(), y)
    y = y.clone()
    y[:3] = (y[:3] + 1) % 4
    found = convergence(classifier, x, y, eps=zoo.EPS, steps=10, restarts=3)
    assert not found.clean_correct[:3].any()
    assert found.clean_correct[3:].all()
    assert (found.first_step[~found.clean_correct] == 0).all()
    assert (found.first_restart[~found.clean_correct] == 0).all()
    assert (found.first_restart[np.isfinite(found.first_step) & found.clean_correct] == 1).all()
    assert found.after_steps()[0] == found.clean_correct.mean()
    assert found.after_restarts()[0] == found.clean_correct.mean()
    assert found.after_restarts()[1] == found.after_steps()[-1]
    assert (np.diff(found.after_steps()) <= 0).all()
    assert (np.diff(found.after_restarts()) <= 0).all()


def test_a_loss_gradient_too_small_to_square_still_leads_the_way_in_l2():
    gradient = torch.full((1, 1, 2, 2), 1e-30)  # its square is 0 in float32
    assert torch.allclose(upward(gradient, "l2"), torch.full((1, 1, 2, 2), 0.5))
    assert torch.equal(upward(torch.tensor([[[[torch.nan, 0.0]]]]), "l2"), torch.zeros(1, 1, 1, 2))


def test_one_step_of_a_search_is_one_step_of_pgd():
    x, y = zoo.data("classes")
    classifier = zoo.classifier(zoo.trained(), y)
    found = convergence(classifier, x, y, eps=zoo.EPS, steps=1, restarts=1, step=1.0)
    attacked = adversarial(classifier, x, y, PGD(eps=zoo.EPS, steps=1, step=1.0, random_start=False), zoo.EPS, 0, 64)
    wrong = classifier.logits(attacked).argmax(dim=1) != y
    assert (np.isfinite(found.first_step) == wrong.numpy()).all()
    assert 0 < wrong.sum() < len(y)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_search_on_a_plane_breaks_exactly_the_images_within_reach(norm):
    net = zoo.trained(zoo.linear, outputs=2)
    x, y = zoo.data("two")
    eps = 0.05 if norm == "linf" else 0.6
    found = convergence(zoo.classifier(net, y), x, y, eps=eps, norm=norm, steps=20, restarts=1)
    with torch.no_grad():
        weight, logits = (net[1].weight[1] - net[1].weight[0]).double(), net(x).double()
    lead = torch.where(y == 1, logits[:, 1] - logits[:, 0], logits[:, 0] - logits[:, 1])
    reach = eps * (weight.abs().sum() if norm == "linf" else weight.norm())
    clear = ((lead - reach).abs() > 1e-3).numpy()  # float32, sums of 256 products
    assert (np.isfinite(found.first_step) == (lead < reach).numpy())[clear].all()
    assert 0 < np.isfinite(found.first_step).sum() < len(y)


def test_a_search_of_one_image_ends_as_it_does_among_others():
    x, y = zoo.data("findings")
    classifier = zoo.classifier(zoo.trained(outputs=3, kind="findings"), y)
    together = convergence(classifier, x[:12], y[:12], eps=0.03, steps=8, restarts=3, norm="linf")
    for place in range(12):
        alone = convergence(classifier, x[place : place + 1], y[place : place + 1], eps=0.03, steps=8, restarts=3)
        assert alone.first_step[0] == together.first_step[place]
        assert alone.first_restart[0] == together.first_restart[place]


def test_a_search_without_images_gives_empty_records_and_shares_that_are_no_numbers():
    x, y = zoo.data("classes")
    found = convergence(zoo.classifier(zoo.trained(), y), x[:0], y[:0], eps=0.1, steps=3, restarts=2)
    assert found.first_step.shape == (0,)
    assert np.isnan(found.after_steps()).all()
    assert len(found.after_restarts()) == 3


@pytest.mark.parametrize(
    ("one", "other", "n", "expected"),
    [
        (5, 0, 100, True),  # 0.5^5 = 0.031
        (4, 0, 10, False),  # 0.5^4 = 0.063
        (5, 0, 101, False),  # fewer than 5 %
        (8, 2, 100, False),  # 56 / 1024 = 0.055
        (12, 4, 100, True),  # 2517 / 65536 = 0.038
        (3, 3, 10, False),
        (0, 0, 0, False),
    ],
)
def test_a_difference_speaks_only_beyond_chance_and_five_per_cent(one, other, n, expected):
    assert beyond_chance(one, other, n) is expected


def test_a_network_that_gets_nothing_right_or_hardly_anything_is_not_compared():
    x, y = zoo.data("classes")
    classifier = zoo.classifier(zoo.trained(), y)
    none = {check.code: check for check in battery(classifier, x, (y + 1) % 4, eps=zoo.EPS)}
    skipped = {code for code, check in none.items() if check.verdict == "SKIP"}
    assert skipped == {*CODES[3:6], *CODES[7:]}
    assert "no image right" in none["zero_gradients"].sentence
    wrong = (y + 1) % 4
    wrong[:4] = y[:4]
    few = {check.code: check for check in battery(classifier, x, wrong, eps=zoo.EPS)}
    assert {few[code].verdict for code in CODES[7:]} == {"SKIP"}
    assert "Only 4 images are right" in few["noise_as_strong"].sentence


def test_black_white_and_single_images_crash_nothing():
    _, y = zoo.data("classes")
    classifier = zoo.classifier(zoo.trained(), y)
    for x in (torch.zeros(6, 1, 16, 16), torch.ones(6, 1, 16, 16), torch.zeros(1, 1, 16, 16)):
        assert len(battery(classifier, x, y[: len(x)], eps=zoo.EPS, queries=5)) == len(CHECKS)


@pytest.mark.parametrize(("n", "eps", "norm"), [(0, 0.1, "linf"), (2, 0.0, "linf"), (2, 1.5, "linf"), (2, -1.0, "l2")])
def test_images_and_radii_that_cannot_be_checked_are_refused(n, eps, norm):
    x, y = zoo.data("classes")
    with pytest.raises(ValueError, match=r"expected at least one image|expected a radius above 0"):
        battery(zoo.classifier(zoo.trained(), y), x[:n], y[:n], eps=eps, norm=norm)


def test_failed_checks_become_failures_and_then_warnings_of_the_rows():
    verdicts = {"a": "PASS", "b": "WARN", "c": "FAIL", "d": "SKIP"}
    checks = [Check(code, "Title", verdict, {}, f"{verdict} it is.") for code, verdict in verdicts.items()]
    found = as_warnings(checks, "fgsm, seed 0")
    assert [(one.code, one.level, one.scope, one.message) for one in found] == [
        ("c", "fail", "fgsm, seed 0", "FAIL it is."),
        ("b", "warn", "fgsm, seed 0", "WARN it is."),
    ]


def test_only_images_that_are_right_are_searched():
    x, y = zoo.data("classes")
    y = y.clone()
    y[::2] = (y[::2] + 1) % 4
    subject = Subject(zoo.classifier(zoo.trained(), y), x, y, zoo.EPS, "linf", 0, 64, None, 10)
    assert subject.n == 60
    assert len(subject.broken) == 60
    assert subject.search.clean_correct.all()


class ManyFindings(torch.nn.Module):
    """Ten findings, each there where its column is bright; the answers stand for the wrong one of two in every third."""

    def __init__(self, times=1.0):
        super().__init__()
        self.times = times

    def forward(self, x):
        return self.times * 40 * (x.mean(dim=(1, 2)) - 0.5)


def many(count=60):
    rng = np.random.default_rng(0)
    there = rng.random((count, 10)) < 0.5
    x = torch.from_numpy(np.repeat(np.where(there, 0.6, 0.4)[:, None, None], 8, axis=2).astype(np.float32))
    wrong = rng.random((count, 10)) < 0.3  # labels that no network could tell: hardly an image has all ten right
    return x, torch.from_numpy((there ^ wrong).astype(np.float32))


def test_many_findings_are_judged_one_an_image_since_no_image_has_all_of_them_right():
    x, y = many()
    classifier = cxr.Classifier(ManyFindings(), input_shape=(1, 8, 10), nb_classes=10, task="multilabel", device="cpu")
    assert int(((classifier.logits(x) > 0) == (y > 0.5)).all(dim=1).sum()) < 5
    checks = {check.code: check for check in battery(classifier, x, y, eps=0.2, queries=50)}
    searched = ("zero_gradients", "more_iterations_help", "black_box_beats_white_box", "large_eps_not_zero")
    assert {code: checks[code].verdict for code in searched} == dict.fromkeys(searched, "PASS")
    assert checks["zero_gradients"].numbers["images"] == 60


def test_a_network_that_hides_the_gradients_of_many_findings_is_caught():
    x, y = many()
    sure = cxr.Classifier(ManyFindings(1e5), input_shape=(1, 8, 10), nb_classes=10, task="multilabel", device="cpu")
    checks = {check.code: check.verdict for check in battery(sure, x, y, eps=0.2, queries=50)}
    assert checks["vanishing_gradients"] == "FAIL"


def test_the_finding_kept_is_answered_rightly_where_one_is_and_follows_from_the_image_alone():
    x, y = many(6)
    y[0] = torch.nan
    y[1, 2:] = torch.nan
    logits = torch.where(y > 0.5, 1.0, -1.0)
    logits[2] = -logits[2]  # all wrong
    kept = one_finding(x, y, logits, seed=3)
    known = ~torch.isnan(kept)
    assert known.sum(dim=1).tolist() == [0, 1, 1, 1, 1, 1]
    assert not known[1, 2:].any()
    assert (kept[known] == y[known]).all()
    alone = one_finding(x[4:5], y[4:5], logits[4:5], seed=3)
    assert torch.equal(alone.nan_to_num(-1), kept[4:5].nan_to_num(-1))
