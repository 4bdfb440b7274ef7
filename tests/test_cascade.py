"""A cascade over stages, radii and attacks: what is broken is not attacked again, and the table says by what it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks import suite
from cxr_eval.attacks.gradient import PGD
from cxr_eval.attacks.suite import adversarial, aimed, attack_outcomes, craft
from cxr_eval.stats.attack_rows import broken_at
from tests.linear_networks import Linear, image_set, linear, outcomes_of


class Counted(cxr.Attack):
    """Moves every image by a share of the radius along the exact direction of a linear network, and counts its images."""

    norms = ("linf", "l2")

    class Params(cxr.AttackParams):
        reach: float = cxr.Field(1.0, ge=0, le=1)

    def __init__(self, params: cxr.Params | None = None, **settings: object) -> None:
        super().__init__(params, **settings)
        self.seen: list[int] = []

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        self.seen.append(len(x))
        with cxr.frozen(classifier.model):
            gradient = cxr.input_gradient(classifier.model, x, y, loss=classifier.loss)
        moved = gradient.sign() if self.params.norm == "linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return x + self.params.reach * eps * moved


class Two(Counted):
    """A weak stage and a strong one."""

    def stages(self, classifier: cxr.Classifier) -> tuple[tuple[str, cxr.Attack], ...]:
        if not hasattr(self, "parts"):
            eps = self.params.eps
            self.parts = Counted(eps=list(eps), reach=0.5), Counted(eps=list(eps))
        return (("weak", self.parts[0]), ("strong", self.parts[1]))


class Nearest(Counted):
    """The nearest wrong image of a linear network, in closed form."""

    minimal = True

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        self.seen.append(len(x))
        w = classifier.model.w.detach()
        logits = classifier.model(x).detach()
        margin = (logits[:, 1] - logits[:, 0]) * (2 * y - 1)
        if self.params.norm == "linf":
            step, unit = margin / w.abs().sum() * 1.001, w.sign()
        else:
            step, unit = margin / w.norm() * 1.001, w / w.norm()
        return x - ((2 * y - 1) * step)[:, None, None, None] * unit.view(1, *x.shape[1:])


RADII = [0.01, 0.002, 0.03]


def test_an_image_once_broken_is_attacked_by_no_later_stage_and_at_no_larger_radius() -> None:
    classifier, images, signed, reach = linear(3)
    attack = Two(eps=RADII)
    table = outcomes_of(classifier, images, attack, batch_size=1000)
    alive = int((signed > 0).sum())
    expected_weak, expected_strong = [], []
    for eps in sorted(RADII):
        expected_weak.append(alive)
        after_weak = int((signed > max(0.5 * eps * reach, reached(RADII, eps) * reach)).sum())
        expected_strong.append(after_weak)
        alive = int((signed > eps * reach).sum())
    weak, strong = attack.parts
    assert weak.seen == expected_weak
    assert strong.seen == expected_strong
    for eps, at in table.groupby("eps"):
        assert (at["robust"].to_numpy() == (signed > eps * reach).numpy()).all()


def reached(radii: list[float], eps: float) -> float:
    """The largest radius before eps."""
    return max([radius for radius in radii if radius < eps], default=0.0)


def test_the_table_says_which_stage_broke_an_image_at_which_radius_and_distance() -> None:
    classifier, images, signed, reach = linear(3)
    table = outcomes_of(classifier, images, Two(eps=[0.01]))
    by = table["by"].to_numpy()
    margins = signed.numpy() / float(reach)
    assert (by[margins <= 0] == "").all()  # wrong without attack
    assert (by[(margins > 0) & (margins <= 0.005)] == "attack weak").all()
    assert (by[(margins > 0.005) & (margins <= 0.01)] == "attack strong").all()
    assert (by[margins > 0.01] == "").all()
    assert table.loc[table["by"] == "attack weak", "linf"].to_numpy() == pytest.approx(0.005, abs=1e-6)
    assert table.loc[table["by"] == "attack strong", "linf"].to_numpy() == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_nearest_image_is_searched_once_and_judged_at_every_radius_by_its_distance(norm: str) -> None:
    classifier, images, signed, _ = linear(5)
    w = classifier.model.w.detach()
    dual = w.abs().sum() if norm == "linf" else w.norm()
    radii = [0.004, 0.01, 0.02] if norm == "linf" else [0.02, 0.05, 0.1]
    attack = Nearest(eps=radii, norm=norm)
    table = outcomes_of(classifier, images, attack)
    assert sum(attack.seen) == int((signed > 0).sum())  # once for all three radii
    for eps, at in table.groupby("eps"):
        distance = signed * 1.001 / dual
        clear = ((distance - eps).abs() > 1e-5).numpy()
        assert (at["robust"].to_numpy() == (distance > eps).numpy())[clear].all()
        broken = at[at["clean_correct"] & ~at["robust"]]
        assert (broken["linf" if norm == "linf" else "l2"] <= eps).all()


def test_robust_accuracy_in_an_l2_ball_is_the_share_of_margins_beyond_the_weights_length() -> None:
    classifier, images, signed, _ = linear(8)
    length = classifier.model.w.detach().norm()
    table = outcomes_of(classifier, images, PGD(eps=[0.02, 0.1], norm="l2", steps=4, random_start=False))
    assert set(table["norm"]) == {"l2"}
    for eps, at in table.groupby("eps"):
        clear = ((signed - eps * length).abs() > 1e-4).numpy()
        assert (at["robust"].to_numpy() == (signed > eps * length).numpy())[clear].all()
        assert (at["l2"] <= eps + 1e-6).all()


def test_an_attack_after_another_leaves_alone_what_that_broke_and_tells_it_apart() -> None:
    classifier, images, signed, reach = linear(3)
    weak = Counted(eps=[0.002, 0.01], reach=0.5)
    first = outcomes_of(classifier, images, weak, name="weak")
    strong = Counted(eps=[0.002, 0.01])
    both = outcomes_of(classifier, images, strong, name="strong", before=first, batch_size=1000)
    alone = outcomes_of(classifier, images, Counted(eps=[0.002, 0.01]), name="strong")
    assert both["robust"].tolist() == alone["robust"].tolist()
    margins = signed.numpy() / float(reach)
    assert strong.seen == [int((margins > 0.001).sum()), int((margins > 0.005).sum())]
    at = both[both["eps"] == 0.01].reset_index(drop=True)
    theirs = (at["by"] == "weak").to_numpy()
    # an image that strong broke at the smaller radius stays its own, what weak broke is judged by weak's image
    assert (theirs == ((margins > 0) & (margins <= 0.001)) | ((margins > 0.002) & (margins <= 0.005))).all()
    judged = first[first["clean_correct"] & ~first["robust"]].drop_duplicates("image_id").set_index("image_id")
    assert at.loc[theirs, "linf"].tolist() == judged.loc[at.loc[theirs, "image_id"], "linf"].tolist()
    assert at.loc[theirs, "p_normal"].tolist() == judged.loc[at.loc[theirs, "image_id"], "p_normal"].tolist()


class Steps(Counted):
    """One that follows the gradient."""

    steps = 1


def test_which_images_have_no_gradient_is_asked_once_in_a_cascade_on_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, images, _, _ = linear(3)
    asked: list[int] = []
    original = suite.input_gradient
    monkeypatch.setattr(suite, "input_gradient", lambda *a, **k: asked.append(1) or original(*a, **k))
    first = outcomes_of(classifier, images, Steps(eps=[0.01]), name="first", batch_size=60)
    assert asked == [1]
    second = outcomes_of(classifier, images, Steps(eps=[0.01]), name="second", before=first, batch_size=60)
    assert asked == [1]
    assert second["zero_gradient"].tolist() == first["zero_gradient"].tolist()
    outcomes_of(classifier, images, Steps(eps=[0.01]), name="third", before=first.drop(columns="zero_gradient"), batch_size=60)
    assert asked == [1, 1]


def test_images_that_are_wrong_without_attack_are_not_asked_for_their_gradient_either() -> None:
    classifier, images, signed, _ = linear(3)
    asked: list[int] = []
    with classifier.model.register_forward_hook(
        lambda _, given, __: asked.append(len(given[0])) if given[0].requires_grad else None
    ):
        table = outcomes_of(classifier, images, Steps(eps=[0.0]), batch_size=60)  # radius 0 itself asks for none
    assert asked[0] == int((signed > 0).sum()) < 60
    assert not table["zero_gradient"].any()


def test_an_attack_after_one_of_fewer_images_is_refused() -> None:
    classifier, images, _, _ = linear(3)
    first = outcomes_of(classifier, images, Counted(eps=0.01), index=[0, 1, 2])
    with pytest.raises(cxr.PluginError, match=r"after: the attack before saw 57 images fewer; give both the same 'images'"):
        outcomes_of(classifier, images, Counted(eps=0.01), before=first)


def test_a_transfer_attack_sees_one_network_and_is_judged_on_the_other() -> None:
    classifier, images, signed, _ = linear(3)
    other = torch.randn(16, generator=torch.Generator().manual_seed(99))
    surrogate = cxr.Classifier(Linear(other, -0.5 * other.sum()), input_shape=(1, 4, 4), nb_classes=2, device="cpu")
    table = outcomes_of(classifier, images, Counted(eps=[0.01]), source=surrogate)
    # the change is eps sign(other), so the margin of the judged network falls by eps w . sign(other)
    fall = 0.01 * float((classifier.model.w.detach() * other.sign()).sum())
    expected = (signed > 0) & (signed > fall)
    assert table["robust"].tolist() == expected.tolist()


def test_images_that_are_attacked_at_every_radius_meet_later_stages_only_while_they_are_right() -> None:
    classifier, images, _, _ = linear(3)
    attack = Two(eps=[0.01, 0.02], skip_broken=False)
    table = outcomes_of(classifier, images, attack, batch_size=1000)
    weak, strong = attack.parts
    assert weak.seen == [60, 60]
    assert strong.seen[0] < 60
    assert table["every"].all()
    assert not table["carried"].any()


def three_findings() -> tuple[cxr.Classifier, cxr.ImageSet]:
    """Finding k is there where pixel k is bright; image i has the findings of the bits of i."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(3, 4) * 10)
        net[1].bias.fill_(-5)
    y = torch.tensor([[float(i >> k & 1) for k in range(3)] for i in range(8)])
    x = torch.cat((0.3 + 0.4 * y, torch.full((8, 1), 0.5)), dim=1).view(8, 1, 2, 2)
    classifier = cxr.Classifier(net, input_shape=(1, 2, 2), nb_classes=3, task="multilabel", device="cpu")
    return classifier, image_set(x, y, ("mass", "nodule", "large mass"))


@pytest.mark.parametrize(("goal", "having"), [("hide nodule", 1.0), ("invent nodule", 0.0), ("hide large mass", 1.0)])
def test_a_goal_attacks_the_images_it_is_about_and_changes_no_other_finding(goal: str, having: float) -> None:
    classifier, images = three_findings()
    place = images.classes.index(goal.partition(" ")[2])
    table = outcomes_of(classifier, images, PGD(eps=[0.1, 0.25], goal=goal, steps=5, random_start=False))
    assert set(table["image_id"]) == {f"i{i}" for i in range(8) if images.y[i, place] == having}
    assert not table[table["eps"] == 0.25]["robust"].any()  # half of the contrast is 0.2
    assert table[table["eps"] == 0.1]["robust"].all()
    at = table[table["eps"] == 0.25]
    for other, name in enumerate(images.classes):
        found = (at[f"p_{name}"] > 0.5).to_numpy()
        expected = at[f"label:{name}"].to_numpy() > 0.5
        assert (found == (~expected if other == place else expected)).all()


def test_a_goal_needs_findings_and_one_that_is_there() -> None:
    _, images = three_findings()
    with pytest.raises(cxr.PluginError, match=r"goal: 'hide tumour': no finding is called 'tumour'; they are mass, nodule"):
        aimed(images, [0], "hide tumour")
    _, one_class, _, _ = linear(0)
    with pytest.raises(cxr.PluginError, match="goal: 'hide normal' is for several findings an image"):
        aimed(one_class, [0], "hide normal")


@pytest.mark.parametrize("goal", ["hide", "show mass", "hide ", "Any"])
def test_a_goal_that_is_none_is_refused_with_what_was_expected(goal: str) -> None:
    with pytest.raises(ValueError, match="expected any, 'hide FINDING' or 'invent FINDING'"):
        cxr.AttackParams(eps=0.1, goal=goal)


def test_a_goal_that_no_image_is_about_gives_an_empty_table() -> None:
    classifier, images = three_findings()
    table = outcomes_of(classifier, images, PGD(eps=[0.1], goal="hide mass"), index=[0, 2])
    assert len(table) == 0
    assert "robust" in table


class Remembering(Counted):
    """Notes what it was crafted on."""

    crafted = True

    def craft(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> None:
        self.made = [*getattr(self, "made", []), (len(x), tuple(y.shape), eps)]


def test_an_attack_made_on_other_images_gets_them_once_a_radius_while_there_is_anything_left_to_attack() -> None:
    classifier, images, signed, reach = linear(0)
    _, others, _, _ = linear(1, n=12)
    attack = Remembering(eps=[0.01, 0.02, 0.0])
    attack_outcomes(classifier, images, range(60), attack, name="a", batch_size=8, seed=0, crafting=others)
    assert bool((signed > 0.02 * reach).any())
    assert attack.made == [(12, (12,), 0.01), (12, (12,), 0.02)]
    weakest = int(torch.where(signed > 0, signed, torch.inf).argmin())
    fallen = Remembering(eps=[float(2 * signed[weakest] / reach), 0.5])
    attack_outcomes(classifier, images, [weakest], fallen, name="a", batch_size=8, seed=0, crafting=others)
    assert len(fallen.made) == 1
    craft(Counted(eps=0.1), classifier, others, eps=0.1, seed=0)  # one that is not is left alone


def test_an_l2_attack_is_cut_to_its_ball_whatever_it_returns() -> None:
    classifier, images, _, _ = linear(0)
    x = images.take([0, 1])
    found = adversarial(classifier, x, images.targets([0, 1]), Far(eps=[0.3], norm="l2"), 0.3, 0, 8)
    assert (found - x).flatten(1).norm(dim=1).numpy() == pytest.approx(0.3, abs=1e-5)


class Far(Counted):
    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        return x + 0.4


def test_what_breaks_an_image_first_is_the_same_however_images_are_batched() -> None:
    classifier, images, _, _ = linear(4)
    tables = [outcomes_of(classifier, images, Two(eps=RADII), batch_size=size) for size in (1, 7, 60)]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, atol=1e-6)
    assert broken_at(tables[0]).tolist() == broken_at(tables[2]).tolist()
    assert np.isfinite(tables[0]["l2"]).all()
