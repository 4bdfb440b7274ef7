"""Outcomes of attacks, image by image: closed form, the curve, what is carried, what is doubted."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

import cxr_eval.api as cxr
from cxr_eval.attacks.art import Art
from cxr_eval.attacks.doubts import doubts
from cxr_eval.attacks.gradient import FGSM, PGD
from cxr_eval.attacks.suite import adversarial
from cxr_eval.models.small_cnn import SmallCNN
from cxr_eval.stats.intervals import Resampling
from cxr_eval.stats.rows import Scorer
from tests.linear_networks import CLASSES, image_set, linear, outcomes_of


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_robust_accuracy_of_a_linear_network_is_exactly_the_share_of_margins_beyond_reach(seed: int) -> None:
    classifier, images, signed, reach = linear(seed)
    radii = (0.0, 0.002, 0.01, 0.05)
    for attack in (FGSM(eps=list(radii)), PGD(eps=list(radii), steps=4)):
        table = outcomes_of(classifier, images, attack)
        for eps, at in table.groupby("eps"):
            clear = ((signed - eps * reach).abs() > 1e-4).numpy()  # float32 decides the others
            assert (at["robust"].to_numpy() == (signed > eps * reach).numpy())[clear].all()


def trained_cnn() -> tuple[cxr.Classifier, cxr.ImageSet]:
    torch.manual_seed(0)
    y = torch.arange(24) % 3
    x = 0.4 + 0.1 * torch.rand(24, 1, 16, 16)
    for place, label in enumerate(y):
        x[place, :, 4 * label + 1 : 4 * label + 5] += 0.3
    net = SmallCNN(widths=[4, 8, 8, 8]).build(channels=1, classes=3, size=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    classifier = cxr.Classifier(net, input_shape=(1, 16, 16), nb_classes=3, device="cpu")
    return classifier, image_set(x, y, ("a", "b", "c"))


@pytest.fixture(scope="module")
def cnn() -> tuple[cxr.Classifier, cxr.ImageSet]:
    return trained_cnn()


RADII = [0.2, 0.02, 0.05, 0.5]


@pytest.mark.parametrize(
    "attack", [FGSM(eps=RADII), PGD(eps=RADII, steps=3), Art.member("SquareAttack")(eps=RADII, max_iter=10)]
)
def test_the_curve_never_rises_and_starts_at_clean_accuracy(
    attack: cxr.Attack, cnn: tuple[cxr.Classifier, cxr.ImageSet]
) -> None:
    classifier, images = cnn
    table = outcomes_of(classifier, images, attack)
    assert table["eps"].drop_duplicates().tolist() == sorted(RADII)
    wide = table.pivot(index="image_id", columns="eps", values="robust").astype(int)
    assert (wide.diff(axis=1).iloc[:, 1:] <= 0).all().all()
    clean = (classifier.logits(images.take(np.arange(24))).argmax(1) == images.targets()).float().mean()
    assert table[table["eps"] == 0.02]["clean_correct"].mean() == pytest.approx(clean.item())
    assert (~table["robust"] | table["clean_correct"]).all()


def test_robust_is_what_the_network_says_about_images_that_lie_in_the_ball(cnn: tuple[cxr.Classifier, cxr.ImageSet]) -> None:
    classifier, images = cnn
    table = outcomes_of(classifier, images, PGD(eps=RADII, steps=3))
    assert (table["robust"] == (table["clean_correct"] & (table["predicted"] == table["label"]))).all()
    assert (table["linf"] <= table["eps"] + 1e-6).all()  # float32
    assert (table["l2"] <= table["linf"] * 16 + 1e-6).all()
    assert table[["p_a", "p_b", "p_c"]].sum(axis=1).to_numpy() == pytest.approx(1)
    highest = table[["p_a", "p_b", "p_c"]].idxmax(axis=1).str.removeprefix("p_")
    assert (highest == table["predicted"]).all()


def test_a_broken_image_is_not_attacked_again_and_its_line_is_carried(cnn: tuple[cxr.Classifier, cxr.ImageSet]) -> None:
    classifier, images = cnn
    seen: list[tuple[float, int]] = []

    class Counting(PGD):
        def perturb(self, classifier, x, y, *, eps, seed):  # type: ignore[no-untyped-def]
            seen.append((eps, len(x)))
            return super().perturb(classifier, x, y, eps=eps, seed=seed)

    table = outcomes_of(classifier, images, Counting(eps=RADII, steps=3), batch_size=100)
    assert seen == [(eps, int((~at["carried"]).sum())) for eps, at in table.groupby("eps") if not at["carried"].all()]
    assert len(seen) < 4 or seen[-1][1] < seen[0][1]
    for _, lines in table.groupby("image_id"):
        carried = lines[lines["carried"]]
        broken = lines[~lines["robust"]].head(1)
        same = ["predicted", "p_a", "linf", "l2"]
        assert (carried[same].to_numpy() == broken[same].to_numpy()).all()


def test_an_image_that_is_wrong_without_attack_is_never_attacked() -> None:
    classifier, images, signed, _ = linear(1)
    table = outcomes_of(classifier, images, FGSM(eps=[0.01, 0.1]))
    wrong = table[~table["clean_correct"]]
    assert len(wrong) == 2 * int((signed < 0).sum()) > 0
    assert wrong["carried"].all()
    assert (wrong["linf"] == 0).all()
    assert not wrong["robust"].any()


# every image at every radius


@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_every_image_is_attacked_at_every_radius_and_robust_accuracy_stays_the_same(
    attack: type[cxr.Attack], cnn: tuple[cxr.Classifier, cxr.ImageSet]
) -> None:
    classifier, images = cnn
    skipping = outcomes_of(classifier, images, attack(eps=RADII), batch_size=100)
    every = outcomes_of(classifier, images, attack(eps=RADII, skip_broken=False), batch_size=100)
    assert every["every"].all()
    assert not every["carried"].any()
    pd.testing.assert_series_equal(every["robust"], skipping["robust"])
    pd.testing.assert_series_equal(every["clean_correct"], skipping["clean_correct"])
    attacked = ~skipping["carried"]
    # float rounding: the network sums in another order for another number of images
    np.testing.assert_allclose(every["p_a"][attacked], skipping["p_a"][attacked], rtol=1e-3, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_probabilities_of_every_image_are_those_at_the_lines_radius(seed: int) -> None:
    classifier, images, signed, reach = linear(seed)
    table = outcomes_of(classifier, images, FGSM(eps=[0.002, 0.01, 0.05], skip_broken=False))
    for eps, at in table.groupby("eps"):
        expected = torch.sigmoid(signed - eps * reach)  # each attack moves the margin of the label by its whole reach
        own = at["p_normal"].where(at["label"] == "normal", at["p_pneumonia"])
        np.testing.assert_allclose(own, expected, atol=1e-4)  # float32
        assert at["linf"].to_numpy() == pytest.approx(eps, abs=1e-6)


def test_an_image_that_a_larger_radius_mends_is_right_there_and_no_longer_robust() -> None:
    class Fickle(cxr.Attack):
        """Breaks at the smaller radius and mends at the larger."""

        def perturb(self, classifier, x, y, *, eps, seed):  # type: ignore[no-untyped-def]
            towards = 1 if eps > 0.1 else -1
            return x + towards * eps * (2 * y.view(-1, 1, 1, 1) - 1) * torch.sign(classifier.model.w).view(1, 1, 4, 4)

    classifier, images, signed, reach = linear(3)
    table = outcomes_of(classifier, images, Fickle(eps=[0.1, 0.4], skip_broken=False))
    assert (signed < 0.1 * reach).any()
    at = {eps: part.reset_index(drop=True) for eps, part in table.groupby("eps")}
    mended = (at[0.4]["predicted"] == at[0.4]["label"]) & (at[0.1]["predicted"] != at[0.1]["label"])
    assert mended.any()
    assert not at[0.4]["robust"][mended].any()


def test_radius_zero_attacks_nothing_even_where_every_image_is_attacked() -> None:
    classifier, images, _, _ = linear(1)
    table = outcomes_of(classifier, images, FGSM(eps=[0.0, 0.1], skip_broken=False))
    at = table[table["eps"] == 0]
    assert (at["linf"] == 0).all()
    assert at["robust"].tolist() == at["clean_correct"].tolist() == (at["predicted"] == at["label"]).tolist()


def test_findings_are_attacked_at_every_radius_too() -> None:
    classifier, x, y = findings()
    y[:10, 2] = 1 - y[:10, 2]
    table = outcomes_of(classifier, image_set(x, y, ("a", "b", "c")), FGSM(eps=[0.01, 0.02], skip_broken=False))
    wrong = table[~table["clean_correct"]]
    assert len(wrong) == 20
    assert wrong["linf"].to_numpy() == pytest.approx(wrong["eps"].to_numpy(), abs=1e-6)
    assert not wrong["robust"].any()


def test_scores_under_attack_are_scikit_learns_on_the_attacked_images(cnn: tuple[cxr.Classifier, cxr.ImageSet]) -> None:
    classifier, images = cnn
    fgsm = FGSM(eps=[0.02, 0.1], skip_broken=False)
    table = outcomes_of(classifier, images, fgsm, name="fgsm", batch_size=24)
    rows = Scorer("cnn", "standard", 0, images.classes, Resampling(resamples=5, min_patients=0), "").attack(table, split="test")
    at = {row.metric: row.value for row in rows if row.condition == "fgsm:0.1"}
    y = images.targets().numpy()
    attacked = adversarial(classifier, images.take(np.arange(24)), images.targets(), fgsm, 0.1, 0, 24)
    probability = classifier.logits(attacked).double().softmax(1).numpy()
    said, one_hot = probability.argmax(1), np.eye(3)[y]
    assert at["accuracy"] == pytest.approx(metrics.accuracy_score(y, said))
    assert at["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, said))
    assert at["f1_weighted"] == pytest.approx(metrics.f1_score(y, said, average="weighted"))
    assert at["mean_average_precision"] == pytest.approx(metrics.average_precision_score(one_hot, probability), abs=1e-12)
    assert at["auroc"] == pytest.approx(metrics.roc_auc_score(one_hot, probability), abs=1e-12)
    assert at["robust_accuracy"] <= at["accuracy"] < 1


class Overshooting(cxr.Attack):
    """Leaves the ball and the range of pixels on purpose."""

    def perturb(self, classifier, x, y, *, eps, seed):  # type: ignore[no-untyped-def]
        return x + 10 * (1 - 2 * y.view(-1, 1, 1, 1)) * torch.sign(classifier.model.w).view(1, 1, 4, 4)


def test_images_that_leave_the_ball_are_clipped_before_they_are_judged() -> None:
    classifier, images, _, _ = linear(2)
    ours, fgsm = (
        outcomes_of(classifier, images, attack) for attack in (Overshooting(eps=[0.01, 0.05]), FGSM(eps=[0.01, 0.05]))
    )
    assert ours["linf"].max() <= 0.05 + 1e-6  # float32
    pd.testing.assert_series_equal(ours["robust"], fgsm["robust"])


class Mending(cxr.Attack):
    """Pushes every image towards its label."""

    def perturb(self, classifier, x, y, *, eps, seed):  # type: ignore[no-untyped-def]
        return x + eps * (2 * y.view(-1, 1, 1, 1) - 1) * torch.sign(classifier.model.w).view(1, 1, 4, 4)


def test_an_attack_that_mends_wrong_images_does_not_raise_robust_accuracy() -> None:
    classifier, images, _, _ = linear(3)
    table = outcomes_of(classifier, images, Mending(eps=0.1))
    assert table["robust"].sum() == table["clean_correct"].sum() < len(table)


@pytest.mark.parametrize("attack", [FGSM(eps=[0.05, 0.1]), PGD(eps=[0.05, 0.1], steps=3, restarts=2)])
def test_an_images_line_depends_on_no_other_image(attack: cxr.Attack, cnn: tuple[cxr.Classifier, cxr.ImageSet]) -> None:
    classifier, images = cnn
    everything = outcomes_of(classifier, images, attack, batch_size=5)
    few = outcomes_of(classifier, images, attack, index=[20, 3, 11], batch_size=64)
    both = few.merge(everything, on=["image_id", "eps"], suffixes=("", "_all"))
    assert len(both) == 6
    assert (both["robust"] == both["robust_all"]).all()
    # float rounding: the network sums in another order for another number of images
    np.testing.assert_allclose(both["p_a"], both["p_a_all"], rtol=1e-3, atol=1e-4)


def test_the_table_has_one_line_an_image_and_radius_with_the_stated_columns() -> None:
    classifier, images, _, _ = linear(0)
    table = outcomes_of(classifier, images, FGSM(eps=[0.1, 0.01, 0.1]), index=[4, 2], name="my fgsm")
    assert table["image_id"].tolist() == ["i4", "i2", "i4", "i2"]
    assert table["patient"].tolist() == ["p2", "p1", "p2", "p1"]
    assert table["attack"].unique().tolist() == ["my fgsm"]
    assert table["eps"].tolist() == [0.01, 0.01, 0.1, 0.1]
    assert set(table.columns) == {
        *("image_id", "patient", "label", "attack", "eps", "steps", "clean_correct", "robust", "carried", "predicted"),
        *("p_normal", "p_pneumonia", "linf", "l2", "zero_gradient", "every", "norm", "goal", "by", "stages"),
    }
    flags = ("clean_correct", "robust", "carried", "every", "zero_gradient")
    assert {table[name].dtype for name in flags} == {np.dtype(bool)}
    assert not table["every"].any()
    assert set(table["label"]) <= set(CLASSES)


def test_an_empty_index_gives_an_empty_table_with_the_same_columns() -> None:
    classifier, images, _, _ = linear(0)
    empty = outcomes_of(classifier, images, FGSM(eps=0.1), index=[])
    assert len(empty) == 0
    assert list(empty.columns) == list(outcomes_of(classifier, images, FGSM(eps=0.1)).columns)
    assert doubts(empty) == []


def test_progress_counts_every_image_at_every_radius() -> None:
    classifier, images, _, _ = linear(0)
    told: list[tuple[int, int]] = []
    outcomes_of(
        classifier, images, FGSM(eps=[0.1, 0.01]), batch_size=25, progress=lambda done, total: told.append((done, total))
    )
    done, totals = zip(*told, strict=True)
    assert set(totals) == {120}
    assert list(done) == sorted(done)
    assert 60 in done
    assert done[-1] == 120


def test_a_training_mode_network_is_judged_in_evaluation_mode_and_given_back_in_training_mode() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(16, 2))
    classifier = cxr.Classifier(net, input_shape=(1, 4, 4), nb_classes=2, device="cpu")
    net.train()
    x = torch.rand(20, 1, 4, 4)
    images = image_set(x, classifier.logits(x).argmax(1))
    table = outcomes_of(classifier, images, FGSM(eps=0.001))
    assert table["clean_correct"].all()
    assert net.training


# exactly one radius


def test_adversarial_images_are_clipped_and_every_image_is_attacked() -> None:
    classifier, images, _, _ = linear(4)
    x, y = images.take(np.arange(60)), images.targets()
    attacked = adversarial(classifier, x, y, Overshooting(eps=0.03), 0.03, 0, 7)
    assert attacked.device.type == "cpu"
    assert (attacked - x).abs().amax((1, 2, 3)).tolist() == pytest.approx([0.03] * 60, abs=1e-6)


def test_adversarial_images_at_radius_zero_are_the_images() -> None:
    classifier, images, _, _ = linear(4)
    x = images.take(np.arange(60))
    assert torch.equal(adversarial(classifier, x, images.targets(), FGSM(eps=0.0), 0.0, 0, 7), x)


class Faulty(cxr.Attack):
    kind = "nan"

    def perturb(self, classifier, x, y, *, eps, seed):  # type: ignore[no-untyped-def]
        return x * torch.nan if self.kind == "nan" else x[:, :, :2]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"Faulty: 7 of 7 attacked images at eps 8/255 are not finite"),
        ("shape", r"expected attacked images \(7, 1, 4, 4\)"),
    ],
)
def test_an_attack_that_returns_no_images_is_refused(kind: str, message: str) -> None:
    classifier, images, _, _ = linear(4)
    attack = Faulty(eps="8/255")
    attack.kind = kind
    with pytest.raises(cxr.PluginError, match=message):
        adversarial(classifier, images.take(np.arange(7)), images.targets(np.arange(7)), attack, 8 / 255, 0, 7)


# findings


def findings() -> tuple[cxr.Classifier, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    classifier = cxr.Classifier(net, input_shape=(1, 4, 4), nb_classes=3, device="cpu", task="multilabel")
    x = 0.3 + 0.4 * torch.rand(30, 1, 4, 4)
    with torch.no_grad():
        net[1].bias -= net(x).mean(0)
    return classifier, x, (classifier.logits(x) > 0).float()


def test_one_flipped_finding_breaks_an_image_and_unknown_findings_do_not_count() -> None:
    classifier, x, y = findings()
    known = outcomes_of(classifier, image_set(x, y, ("a", "b", "c")), PGD(eps=[0.005, 0.02], steps=3))
    assert known["clean_correct"].all()
    y[:, 1:] = torch.nan
    one = outcomes_of(classifier, image_set(x, y, ("a", "b", "c")), PGD(eps=[0.005, 0.02], steps=3))
    weight = classifier.model[1].weight[0].detach().abs().sum()
    reach = classifier.logits(x)[:, 0].abs() > 0.005 * weight
    assert one[one["eps"] == 0.005]["robust"].tolist() == reach.tolist()
    assert one["robust"].sum() > known["robust"].sum()
    assert set(one["predicted"].str.split("|").explode()) <= {"", "a", "b", "c"}
    assert "label" not in one


def test_a_finding_that_is_wrong_without_attack_makes_the_image_wrong() -> None:
    classifier, x, y = findings()
    y[:10, 2] = 1 - y[:10, 2]
    table = outcomes_of(classifier, image_set(x, y, ("a", "b", "c")), FGSM(eps=0.01))
    assert table["clean_correct"].tolist() == [False] * 10 + [True] * 20


def test_an_image_without_any_known_finding_cannot_be_judged() -> None:
    classifier, x, y = findings()
    y[[3, 8]] = torch.nan
    with pytest.raises(cxr.DataError, match=r"test: 2 of 30 images to be attacked have no known label.*first: i3"):
        outcomes_of(classifier, image_set(x, y, ("a", "b", "c")), FGSM(eps=0.01))


# doubts


def test_an_honest_network_raises_no_doubt() -> None:
    classifier, images, signed, reach = linear(5)
    largest = float(2 * signed.max() / reach)
    tables = [
        outcomes_of(classifier, images, attack, name=name)
        for name, attack in (
            ("fgsm", FGSM(eps=[0.01, largest])),
            ("pgd", PGD(eps=[0.01, largest], steps=5)),
            ("square", Art.member("SquareAttack")(eps=[0.01, largest], max_iter=5, p_init=0.3)),
        )
    ]
    assert doubts(pd.concat(tables)) == []


class Misleading(torch.nn.Module):
    """A linear network whose output wobbles: one long step crosses the wobble, short steps are caught in it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = x.flatten(1).mean(1)
        margin = self.scale * (0.55 - p) + 0.02 * torch.sin(200 * (p - 0.5) + 2.0)
        return torch.stack((20 * margin, -20 * margin), dim=1)


def test_a_single_step_that_beats_many_is_doubted() -> None:
    classifier = cxr.Classifier(Misleading(), input_shape=(1, 2, 2), nb_classes=2, device="cpu")
    images = image_set(0.5 + 0.004 * torch.rand(40, 1, 1, 1).expand(40, 1, 2, 2), torch.zeros(40).long())
    tables = [
        outcomes_of(classifier, images, attack, name=name)
        for name, attack in (
            ("fgsm", FGSM(eps=0.1)),
            ("pgd", PGD(eps=0.1, steps=10, step=0.02, random_start=False)),
        )
    ]
    found = {warning.code: warning for warning in doubts(pd.concat(tables))}
    assert found["single_step_wins"].scope == "pgd:0.1"
    assert found["single_step_wins"].level == "warn"
    assert (
        "fgsm, which takes one step, breaks 40 images that pgd leaves robust with 10 steps" in found["single_step_wins"].message
    )


def outcome_table(attack: str, steps: int, robust: list[bool], eps: float = 0.1) -> pd.DataFrame:
    n = len(robust)
    return pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(n)], "attack": attack, "eps": eps, "steps": steps, "robust": robust}
    ).assign(clean_correct=True, zero_gradient=False)


@pytest.mark.parametrize(("only_one", "doubted"), [(4, False), (5, True)])
def test_a_lead_of_one_step_that_chance_explains_is_not_doubted(only_one: int, doubted: bool) -> None:
    # sign test: 4 of 4 has probability 1/16, 5 of 5 has 1/32
    one = outcome_table("fgsm", 1, [False] * 30)
    many = outcome_table("pgd", 10, [True] * only_one + [False] * (30 - only_one))
    codes = [warning.code for warning in doubts(pd.concat((one, many)))]
    assert ("single_step_wins" in codes) is doubted


def test_one_and_many_steps_are_compared_at_equal_radii_only() -> None:
    one, many = outcome_table("fgsm", 1, [False] * 30, eps=0.2), outcome_table("pgd", 10, [True] * 30, eps=0.1)
    assert doubts(pd.concat((one, many))) == []


@pytest.mark.parametrize(("left", "noted"), [(3, False), (4, True)])
def test_a_curve_that_does_not_come_near_zero_is_noted(left: int, noted: bool) -> None:
    table = pd.concat(
        (outcome_table("pgd", 10, [True] * 30, 0.01), outcome_table("pgd", 10, [True] * left + [False] * (30 - left)))
    )
    found = doubts(table)
    assert [(warning.code, warning.level, warning.scope) for warning in found] == [
        ("end_not_shown", "note", "worst:0.1")
    ] * noted
    assert not noted or "0.1, more than 10% of the images" in found[0].message


def test_the_end_of_the_curve_is_judged_over_all_attacks() -> None:
    halves = (outcome_table("pgd", 10, [True] * 15 + [False] * 15), outcome_table("square", 0, [False] * 15 + [True] * 15))
    assert doubts(pd.concat(halves)) == []


def test_an_attack_that_finds_no_gradient_is_doubted() -> None:
    classifier, images, _, _ = linear(6)
    with torch.no_grad():
        for weight in classifier.model.parameters():
            weight.mul_(1e6)  # the softmax saturates: the loss and its gradient are exactly zero
    tables = [
        outcomes_of(classifier, images, attack, name=name)
        for name, attack in (
            ("pgd", PGD(eps=[0.0, 0.5], steps=3, random_start=False)),
            ("square", Art.member("SquareAttack")(eps=0.5, max_iter=5, p_init=0.3)),
        )
    ]
    found = [warning for warning in doubts(pd.concat(tables)) if warning.code == "no_gradient"]
    assert [warning.scope for warning in found] == ["pgd"]
    assert "50 of 50 images have no loss gradient at all, so pgd cannot find out where to go" in found[0].message
