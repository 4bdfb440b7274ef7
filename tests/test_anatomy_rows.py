"""Rows and doubts of the anatomy audit by hand, on tables small enough to count."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from cxr_eval.stats.anatomy_rows import anatomy_doubts
from cxr_eval.stats.intervals import Resampling
from cxr_eval.stats.rows import Scorer

CLASSES = ("covid", "normal")
NAN = float("nan")


def scorer(classes=CLASSES, **settings):
    return Scorer("cnn", "fgsm", 3, classes, Resampling(**{"resamples": 200, "min_patients": 0} | settings), "phantom")


def table(label, condition, predicted, classes=CLASSES, patient=None):
    n = len(label)
    about = {
        "image_id": [f"i{k}" for k in range(n)],
        "patient": [f"p{k}" for k in range(n)] if patient is None else patient,
        "label": label,
        "predicted": predicted,
    }
    return pd.DataFrame(about | {f"p_{name}": [0.8 if p == name else 0.1 for p in predicted] for name in classes}).assign(
        condition=condition
    )


def parts(kind, label, classes=CLASSES, patient=None, **predicted):
    """Tables of several conditions, `intact KIND` and so on, one after the other; `of_covid` is `KIND of covid`."""
    named = {name: f"{kind} of {name[3:]}" if name.startswith("of_") else f"{name} {kind}" for name in predicted}
    tables = [table(label, named[name], said, classes, patient) for name, said in predicted.items()]
    return pd.concat(tables, ignore_index=True)


def places(rows):
    return {(row.condition, row.metric): row for row in rows}


def audit(kind, predictions, attacks=None, eps=None, **settings):
    return scorer(**settings).anatomy(kind, predictions, pd.DataFrame() if attacks is None else attacks, split="t", eps=eps)


C, N = "covid", "normal"


def test_inside_minus_outside_is_the_balanced_accuracy_of_the_region_less_that_of_its_surroundings():
    # inside: 2 of 3 covid, 1 of 1 normal; outside: 1 of 3, 0 of 1
    shown = parts("lung", [C, C, C, N], intact=[C, C, C, N], without=[C, N, N, C], only=[C, C, N, N])
    row = places(audit("lung", shown))["intact lung", "inside_minus_outside[lung]"]
    assert row.value == pytest.approx((2 / 3 + 1) / 2 - (1 / 3 + 0) / 2)
    assert (row.n, row.unit, row.better, row.split, row.explainer) == (4, "fraction", "higher", "t", "")
    assert row.low <= row.value <= row.high


def test_inside_minus_outside_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    label, only, without = (rng.choice(CLASSES, 40) for _ in range(3))
    shown = parts("lung", label, intact=label, without=without, only=only)
    row = places(audit("lung", shown))["intact lung", "inside_minus_outside[lung]"]
    assert row.value == pytest.approx(balanced_accuracy_score(label, only) - balanced_accuracy_score(label, without))


@pytest.mark.parametrize(
    ("kind", "better"),
    [
        *(("lung", "higher"), ("lungs", "higher"), ("heart", "higher"), ("lesion", "higher"), ("box", "higher")),
        *(("marker", "lower"), ("devices", "lower"), ("clavicle", "neither")),
    ],
)
def test_it_is_better_to_read_what_is_ill_and_worse_to_read_text_and_tubes(kind, better):
    shown = parts(kind, [C, N], intact=[C, N], without=[C, N], only=[C, N])
    assert places(audit(kind, shown))[f"intact {kind}", f"inside_minus_outside[{kind}]"].better == better


def test_a_class_without_the_region_does_not_count():
    classes = (C, N, "pneumonia")
    # two of two covid inside, one of two outside; one of two pneumonias inside, none outside; nobody normal has a lesion
    label = [C, C, "pneumonia", "pneumonia"]
    shown = parts("lesion", label, classes, intact=label, without=[C, N, N, N], only=[C, C, "pneumonia", C])
    rows = places(audit("lesion", shown, classes=classes))
    assert rows["intact lesion", "inside_minus_outside[lesion]"].value == pytest.approx((1 + 0.5) / 2 - (0.5 + 0) / 2)
    assert rows["only lesion", "balanced_accuracy"].value == pytest.approx(
        (1 + 0.5) / 2
    )  # of the two classes that have lesions


def test_a_marker_that_two_of_three_classes_bear_is_doubted_beyond_the_chance_of_two():
    classes = (C, N, "pneumonia")
    label = [C, "pneumonia"] * 6
    shown = parts("marker", label, classes, intact=label, without=[N] * 12, only=label)
    rows = audit("marker", shown, classes=classes)
    (doubt,) = anatomy_doubts(rows, "marker", scope="s", classes=3)
    assert doubt.code == "reads_marker"
    assert "balanced accuracy of 1.000 where chance is 0.500" in doubt.message


def test_findings_are_compared_by_their_mean_area():
    truth = pd.DataFrame({"label:covid": [1, 1, 0, 0, NAN, 0], "label:normal": [0, NAN, 0, 1, 1, 1]})
    about = pd.DataFrame({"image_id": list("abcdef"), "patient": list("abcdef")}).join(truth)
    rng = np.random.default_rng(1)
    shown = {
        name: about.assign(p_covid=rng.random(6), p_normal=rng.random(6), condition=f"{name} lung")
        for name in ("intact", "without", "only")
    }
    rows = places(audit("lung", pd.concat(shown.values(), ignore_index=True)))

    def area(name):
        known = {finding: truth[f"label:{finding}"].notna() for finding in CLASSES}
        return np.mean([roc_auc_score(truth[f"label:{f}"][known[f]], shown[name][f"p_{f}"][known[f]]) for f in CLASSES])

    assert rows["intact lung", "inside_minus_outside[lung]"].value == pytest.approx(area("only") - area("without"))
    assert not [metric for _, metric in rows if metric.startswith("follows_marker")]


def test_following_a_marker_is_the_rise_among_images_of_other_classes():
    label = [N, N, N, N, C, C]
    shown = parts(
        "marker",
        label,
        intact=[N, N, N, C, C, N],
        without=label,
        only=label,
        of_covid=[C, C, N, C, C, C],  # of the four normal ones 1 was called covid, now 3
        of_normal=[N, N, N, N, C, C],  # of the two covid ones 1 was called normal, now none
    )
    rows = places(audit("marker", shown))
    followed = rows["marker of covid", "follows_marker[covid]"]
    assert (followed.value, followed.n, followed.better) == (3 / 4 - 1 / 4, 4, "lower")
    assert rows["marker of normal", "follows_marker[normal]"].value == 0 / 2 - 1 / 2


def test_a_marker_that_every_image_has_already_shows_nothing_and_breaks_nothing():
    shown = parts("marker", [C, C], intact=[C, C], without=[C, N], only=[C, C], of_covid=[C, C])
    row = places(audit("marker", shown))["marker of covid", "follows_marker[covid]"]
    assert (math.isnan(row.value), row.n) == (True, 0)
    assert anatomy_doubts([row], "marker", scope="here", classes=2) == []


def test_robust_accuracy_is_told_for_attacks_inside_and_outside_at_their_radius():
    shown = parts("lung", [C, N, N, N], intact=[C, N, N, N], without=[C, N, N, N], only=[C, N, N, N])
    about = table([C, N, N, N], "", [C, N, N, N]).drop(columns=["condition", "p_covid", "p_normal"])
    attacks = pd.concat(
        [
            about.assign(condition="inside lung", robust=[True, False, False, False]),
            about.assign(condition="outside lung", robust=[True, True, True, False]),
        ]
    )
    rows = places(audit("lung", shown, attacks, eps=4 / 255))
    assert rows["inside lung:4/255", "robust_accuracy"].value == 0.25
    assert rows["outside lung:4/255", "robust_accuracy"].value == 0.75
    assert rows["outside lung:4/255", "robust_accuracy"].n == 4


def test_the_order_of_images_changes_no_value():
    rng = np.random.default_rng(3)
    label, only, without, pasted = (rng.choice(CLASSES, 20) for _ in range(4))
    order = rng.permutation(20)
    values = []
    for at in (np.arange(20), order):
        shown = parts("marker", label[at], intact=label[at], without=without[at], only=only[at], of_covid=pasted[at])
        values.append({place: row.value for place, row in places(audit("marker", shown)).items()})
    assert values[0].keys() == values[1].keys()
    assert all(values[0][place] == pytest.approx(values[1][place], nan_ok=True) for place in values[0])


def test_one_patient_has_numbers_and_no_interval():
    shown = parts("lung", [C, N, N], patient=["p"] * 3, intact=[C, N, N], without=[C, C, N], only=[N, N, N])
    row = places(audit("lung", shown))["intact lung", "inside_minus_outside[lung]"]
    assert row.value == pytest.approx((0 + 1) / 2 - (1 + 0.5) / 2)
    assert math.isnan(row.low)
    assert math.isnan(row.high)


def test_numbers_of_too_few_patients_are_withheld_and_raise_no_doubt():
    shown = parts("marker", [C, N], intact=[C, N], without=[C, N], only=[C, N], of_covid=[C, C], of_normal=[N, N])
    rows = audit("marker", shown, min_patients=5)
    lead = places(rows)["intact marker", "inside_minus_outside[marker]"]
    assert math.isnan(lead.value)
    assert lead.note == "withheld: 2 patients, fewer than 5"
    assert anatomy_doubts(rows, "marker", scope="here", classes=2) == []


MANY = [C] * 20 + [N] * 20


def shifted(wrong):
    """Answers of which so many are wrong in each class."""
    return [N] * wrong + [C] * (20 - wrong) + [C] * wrong + [N] * (20 - wrong)


def doubts(kind, shown, classes=2, **settings):
    return {doubt.code: doubt for doubt in anatomy_doubts(audit(kind, shown, **settings), kind, scope="here", classes=classes)}


def test_a_network_that_does_well_without_the_lung_is_doubted():
    shown = parts("lung", MANY, intact=MANY, without=shifted(4), only=shifted(9))
    (doubt,) = doubts("lung", shown).values()
    row = places(audit("lung", shown))["without lung", "balanced_accuracy"]
    assert (doubt.code, doubt.level, doubt.scope) == ("reads_without_lung", "warn", "here, without lung")
    assert doubt.message == (
        f"With the lung taken away the network still has a balanced accuracy of 0.800 [{row.low:.3f}, {row.high:.3f}] where"
        " chance is 0.500: it reads something that is no sign of disease, or the outline that is left."
    )


def test_a_network_that_does_well_with_the_marker_alone_is_doubted():
    shown = parts("marker", MANY, intact=MANY, without=MANY, only=shifted(4))
    found = doubts("marker", shown)
    assert set(found) == {"reads_marker"}
    assert found["reads_marker"].scope == "here, only marker"
    assert found["reads_marker"].message.startswith("With nothing but the marker the network still has a balanced accuracy of")
    assert found["reads_marker"].message.endswith(" where chance is 0.500: it reads something that is no sign of disease.")


@pytest.mark.parametrize(("kind", "part"), [("lung", "without"), ("marker", "only")])
def test_a_network_that_does_perfectly_so_is_doubted_too_although_it_has_no_interval(kind, part):
    said = {"intact": MANY, "without": shifted(10), "only": shifted(10)} | {part: MANY}
    rows = audit(kind, parts(kind, MANY, **said))
    assert math.isnan(places(rows)[f"{part} {kind}", "balanced_accuracy"].low)
    (doubt,) = anatomy_doubts(rows, kind, scope="here", classes=2)
    assert "a balanced accuracy of 1.000 where chance is 0.500: it reads" in doubt.message


@pytest.mark.parametrize("kind", ["lung", "marker"])
def test_what_chance_explains_is_not_doubted(kind):
    # 11 of 20 in each class
    said = {"intact": MANY, "without": shifted(9), "only": shifted(9), "of_covid": MANY, "of_normal": MANY}
    assert doubts(kind, parts(kind, MANY, **said)) == {}


@pytest.mark.parametrize("kind", ["heart", "lesion", "clavicle"])
def test_regions_that_may_be_read_or_not_are_not_doubted(kind):
    assert doubts(kind, parts(kind, MANY, intact=MANY, without=MANY, only=MANY)) == {}


def test_a_network_that_follows_the_marker_is_doubted_class_by_class():
    turned = [C] * 20 + [C] * 15 + [N] * 5
    shown = parts("marker", MANY, intact=MANY, without=MANY, only=shifted(10), of_covid=turned, of_normal=MANY)
    (doubt,) = doubts("marker", shown).values()
    assert (doubt.code, doubt.level, doubt.scope) == ("follows_marker", "warn", "here, marker of covid")
    assert doubt.message == (
        "With the marker of another class in place of their own, 75.0% more of the images are called 'covid': the network"
        " reads the marker."
    )


def test_a_network_that_follows_the_marker_in_every_image_is_doubted_with_the_exact_interval():
    shown = parts("marker", MANY, intact=MANY, without=MANY, only=shifted(10), of_covid=[C] * 40, of_normal=[N] * 40)
    rows = audit("marker", shown)
    row = places(rows)["marker of covid", "follows_marker[covid]"]
    # all of 20 patients: Clopper and Pearson
    assert (row.value, row.low, row.high) == (1.0, pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert [doubt.code for doubt in anatomy_doubts(rows, "marker", scope="here", classes=2)] == ["follows_marker"] * 2


def test_a_finding_that_the_marker_alone_tells_is_doubted_by_its_area():
    about = pd.DataFrame({"image_id": [f"i{k}" for k in range(40)], "patient": [f"p{k}" for k in range(40)]})
    truth = np.arange(40) % 2
    about = about.assign(**{"label:covid": truth, "label:normal": 1 - truth})
    rng = np.random.default_rng(0)
    noise = rng.random(40)
    for telling, said in ((truth + 0.9 * noise, 1.0), (truth + 2 * noise, None)):
        part = about.assign(p_covid=telling, p_normal=-telling)
        shown = pd.concat([part.assign(condition=f"{name} marker") for name in ("intact", "without", "only")])
        (doubt,) = doubts("marker", shown, classes=0).values()
        assert doubt.code == "reads_marker"
        assert " AUROC of " in doubt.message
        assert "where chance is 0.500" in doubt.message
        assert (" AUROC of 1.000 where" in doubt.message) == (said is not None)
    part = about.assign(p_covid=noise, p_normal=noise)
    shown = pd.concat([part.assign(condition=f"{name} marker") for name in ("intact", "without", "only")])
    assert doubts("marker", shown, classes=0) == {}


def few_pneumonias(said):
    """Ten of each of two classes, of which so many are right inside, and one pneumonia, which is always right inside."""
    label = [C] * 10 + [N] * 10 + ["pneumonia"]
    inside = [C] * said + [N] * (10 - said) + [N] * 10 + ["pneumonia"]
    return parts("marker", label, (C, N, "pneumonia"), intact=label, without=[N] * 21, only=inside)


def test_a_class_with_too_few_patients_is_no_part_of_balanced_accuracy_and_the_row_says_so():
    rows = places(audit("marker", few_pneumonias(8), classes=(C, N, "pneumonia"), min_patients=5))
    # inside 8 of 10 and 10 of 10, outside 0 of 10 and 10 of 10; one pneumonia counts in neither
    assert rows["only marker", "balanced_accuracy"].value == pytest.approx((0.8 + 1.0) / 2)
    assert rows["intact marker", "inside_minus_outside[marker]"].value == pytest.approx((0.8 + 1.0) / 2 - (0.0 + 1.0) / 2)
    noted = {row.note for (_, metric), row in rows.items() if metric in ("balanced_accuracy", "inside_minus_outside[marker]")}
    assert noted == {"without pneumonia: fewer than 5 patients (pneumonia has 1)"}
    counted = places(audit("marker", few_pneumonias(8), classes=(C, N, "pneumonia"), min_patients=1))
    assert counted["only marker", "balanced_accuracy"].value == pytest.approx((0.8 + 1.0 + 1.0) / 3)
    assert counted["only marker", "balanced_accuracy"].note == ""


def test_chance_is_that_of_the_classes_that_count():
    rows = audit("marker", few_pneumonias(10), classes=(C, N, "pneumonia"), min_patients=5)
    (doubt,) = anatomy_doubts(rows, "marker", scope="here", classes=3)
    assert "balanced accuracy of 1.000 where chance is 0.500" in doubt.message


def test_where_only_one_class_counts_a_perfect_score_is_chance():
    label = [C] * 10 + [N]
    shown = parts("marker", label, intact=label, without=label, only=label)
    assert doubts("marker", shown, min_patients=5) == {}


def test_where_no_class_has_patients_enough_balanced_accuracy_is_withheld():
    label = [C] * 4 + [N] * 4
    row = places(audit("lung", parts("lung", label, intact=label, without=label, only=label), min_patients=5))
    for place in (("only lung", "balanced_accuracy"), ("intact lung", "inside_minus_outside[lung]")):
        assert math.isnan(row[place].value)
        assert row[place].note == "withheld: no class has as many patients as 5"
    assert row["only lung", "accuracy"].value == 1.0
