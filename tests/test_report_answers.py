"""The three answers of the first screen, phrase by phrase: which trainer, how sure, what was not tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from cxr_eval.report.answers import Answer, answers
from cxr_eval.report.cautions import given_up
from cxr_eval.report.overview import overview
from cxr_eval.report.verdict import same_collection
from cxr_eval.report.words import whose
from cxr_eval.types import Row, RowWarning
from tests.evidence import TWO, both_seeds, check, difference
from tests.fake_run import Fake
from tests.report_pages import results_of

AHEAD, BEHIND = {"standard": 0.9, "fgsm": 0.8}, {"standard": 0.2, "fgsm": 0.6}
LESS = difference("accuracy", -0.1, 0.01)
MORE = difference("robust_accuracy", 0.4, 0.0001, condition="worst:0.02")


def scored(
    clean: Mapping[str, float], robust: Mapping[str, float] | None = None, far: Mapping[str, float] | None = None
) -> list[Row]:
    """Accuracy by trainer, robust accuracy in the worst case at radius 0.02, and accuracy on an outside set; all +- 0.1."""
    rows = [one for who, value in clean.items() for one in both_seeds("accuracy", value, trainer=who)]
    for who, value in (robust or {}).items():
        rows += both_seeds("robust_accuracy", value, trainer=who, condition="worst:0.02")
    for who, value in (far or {}).items():
        rows += both_seeds("accuracy", value, trainer=who, split="far")
    return rows


def asked(
    rows: Sequence[Row] | None, *lines: dict[str, Any], fake: Fake = TWO, checks: Sequence[dict[str, Any]] = ()
) -> list[Answer]:
    results, differences = results_of(fake, None if rows is None else list(rows)), pd.DataFrame(list(lines))
    return answers(results, differences, pd.DataFrame(list(checks)), overview(results, differences))


def which(*given: Any, **more: Any) -> str:
    """The answer to which trainer, the short one first."""
    answer = asked(*given, **more)[0]
    return " ".join([answer.lead, *answer.said])


def forbids(*scopes: str) -> Fake:
    return replace(TWO, warnings=tuple(RowWarning("x", "fail", scope, "?") for scope in scopes))


def test_a_trainer_that_withstands_more_and_costs_accuracy_is_not_called_best() -> None:
    assert which(scored(AHEAD, BEHIND), LESS, MORE) == (
        "No trainer is best in everything. “standard” has the highest accuracy on clean images (0.900 [0.800, 1.000]); “fgsm”"
        " withstands attacks best (robust accuracy, radius 0.02: 0.600 [0.500, 0.700]), at a cost of 0.100 accuracy against"
        " “standard” (p = 0.010)."
    )


def test_a_trainer_that_is_ahead_in_both_is_named() -> None:
    assert which(scored({"standard": 0.8, "fgsm": 0.9}, BEHIND), difference("accuracy", 0.1, 0.01), MORE) == (
        "“fgsm”. It has the highest accuracy on clean images (0.900 [0.800, 1.000]) and withstands attacks best (robust"
        " accuracy, radius 0.02: 0.600 [0.500, 0.700])."
    )


def test_a_trainer_that_is_ahead_in_one_and_not_shown_to_be_behind_in_the_other_is_named() -> None:
    assert which(scored({"standard": 0.82, "fgsm": 0.8}, BEHIND), difference("accuracy", -0.02, 0.4), MORE) == (
        "“fgsm”. It withstands attacks best (robust accuracy, radius 0.02: 0.600 [0.500, 0.700]); none is shown to have a"
        " higher accuracy on clean images (0.800 to 0.820)."
    )
    assert which(scored(AHEAD, {"standard": 0.3, "fgsm": 0.32}), LESS) == (
        "“standard”. It has the highest accuracy on clean images (0.900 [0.800, 1.000]); none is shown to withstand attacks"
        " better (robust accuracy, radius 0.02: 0.300 to 0.320)."
    )


def test_a_difference_that_is_large_but_not_shown_recommends_nobody() -> None:
    unshown = difference("robust_accuracy", 0.4, 0.08, condition="worst:0.02")
    assert which(scored(AHEAD, BEHIND), LESS, unshown) == (
        "No single trainer can be recommended. “standard” has the highest accuracy on clean images (0.900 [0.800, 1.000]);"
        " under attack “fgsm” is above “standard” (robust accuracy, radius 0.02: 0.600 [0.500, 0.700] against 0.200 [0.100,"
        " 0.300]), a difference that no corrected test shows, though the intervals are apart."
    )


def test_trainers_whose_seeds_disagree_or_whose_intervals_overlap_cannot_be_told_apart() -> None:
    alike = (
        "No trainer can be told from the others. On clean images “standard” and “fgsm” cannot be told apart (accuracy 0.900"
        " [0.800, 1.000] and 0.800 [0.700, 0.900]); under attack “fgsm” and “standard” cannot be told apart (robust accuracy,"
        " radius 0.02: 0.320 [0.220, 0.420] and 0.300 [0.200, 0.400])."
    )
    rows = scored(AHEAD, {"standard": 0.3, "fgsm": 0.32})
    assert which(rows) == alike
    assert which(rows, difference("accuracy", -0.1, 0.0001, seeds_low=-0.4, seeds_high=0.1)) == alike
    tie = which(scored({"standard": 0.8, "fgsm": 0.8}, {"standard": 0.3, "fgsm": 0.3}))
    assert tie.startswith("No trainer can be told from the others. On clean images “standard” and “fgsm” cannot be told apart")


def test_what_was_not_compared_is_apart_only_if_neither_intervals_nor_seeds_overlap() -> None:
    assert which(scored({"standard": 0.9, "fgsm": 0.5}, BEHIND)).startswith("No trainer is best in everything.")
    wide = [*scored({}, BEHIND), *both_seeds("accuracy", 0.9, low=0.88, high=0.92)]
    for seed, value in ((0, 0.5), (1, 0.95)):  # the second seed is above 0.9, though the interval ends at 0.75
        wide += [
            replace(one, value=value, low=0.7, high=0.75)
            for one in both_seeds("accuracy", 0.5, trainer="fgsm")
            if one.seed == seed
        ]
    assert which(wide).startswith("No single trainer can be recommended. On clean images “standard” is above “fgsm”")


def test_one_trainer_alone_is_no_choice() -> None:
    alone = replace(TWO, trainers=("standard",))
    assert which(scored({"standard": 0.9}, {"standard": 0.2}), fake=alone) == (
        "Only “standard” was tested. Accuracy on clean images is 0.900 [0.800, 1.000]; robust accuracy, radius 0.02, is 0.200"
        " [0.100, 0.300]."
    )


def test_a_number_that_a_failed_check_forbids_recommends_nobody() -> None:
    assert which(scored(AHEAD, BEHIND), LESS, MORE, fake=forbids("net / standard / seed 0, test, accuracy")) == (
        "No single trainer can be recommended. On clean images only the accuracy of “fgsm” can be believed (0.800 [0.700,"
        " 0.900]); “fgsm” withstands attacks best (robust accuracy, radius 0.02: 0.600 [0.500, 0.700]). Left out, because a"
        " check failed: accuracy of “standard”."
    )
    assert which(scored(AHEAD, BEHIND), LESS, MORE, fake=forbids("net / fgsm / seed 1, test, pgd")) == (
        "No single trainer can be recommended. “standard” has the highest accuracy on clean images (0.900 [0.800, 1.000]);"
        " under attack only the robust accuracy of “standard” can be believed (radius 0.02: 0.200 [0.100, 0.300]). Left out,"
        " because a check failed: robust accuracy of “fgsm”."
    )


def test_without_a_number_to_believe_none_is_recommended_and_none_is_told() -> None:
    assert which(scored(AHEAD, BEHIND), LESS, MORE, fake=forbids("net, test")) == (
        "None can be recommended: a check failed on every number that would decide it."
    )
    nothing = {"standard": math.nan, "fgsm": math.nan}
    assert which(scored(nothing)) == (
        "None can be recommended: the numbers that would decide it are not defined. Accuracy on clean images is not defined."
    )
    assert which([]) == "None: nothing was measured."
    failed = replace(TWO, failed=tuple(("net", trainer, seed) for trainer in TWO.trainers for seed in TWO.seeds))
    assert which([], fake=failed) == "None: nothing was measured. Every network failed."


def test_findings_are_ranked_by_auroc_and_without_attacks_by_clean_images_alone() -> None:
    rows = [*both_seeds("auroc", 0.9), *both_seeds("auroc", 0.7, trainer="fgsm")]
    nothing = "othing was measured under attack, so nothing says which withstands changes of the image."
    assert which(rows, difference("auroc", -0.2, 0.01)) == (
        f"“standard”, by clean images alone. It has the highest AUROC on clean images (0.900 [0.800, 1.000]); n{nothing}"
    )
    assert which(scored({"standard": 0.8, "fgsm": 0.8})) == (
        "No trainer can be told from the others. On clean images “standard” and “fgsm” cannot be told apart (accuracy 0.800"
        f" [0.700, 0.900] and 0.800 [0.700, 0.900]). N{nothing}"
    )


def test_an_outside_set_on_which_another_is_ahead_makes_that_no_trainer_is_best_in_everything() -> None:
    far = replace(TWO, outside=("far",))
    rows = scored({"standard": 0.8, "fgsm": 0.9}, BEHIND, {"standard": 0.9, "fgsm": 0.6})
    better = (difference("accuracy", 0.1, 0.01), MORE)
    said = which(rows, *better, difference("accuracy", -0.3, 0.001, split="far"), fake=far)
    assert said.startswith("No trainer is best in everything. “fgsm” has the highest accuracy on clean images (")
    assert said.endswith("; on “far” “standard” has the highest accuracy (0.900 [0.800, 1.000]).")
    assert "with 0.100 more accuracy than “standard” (p = 0.010)" in said
    alike = scored({"standard": 0.8, "fgsm": 0.9}, BEHIND, {"standard": 0.7, "fgsm": 0.7})
    assert which(alike, *better, fake=far).startswith("“fgsm”.")
    alone = which(scored({"standard": 0.5, "fgsm": 0.9}, None, {"standard": 0.9, "fgsm": 0.6}), fake=far)
    assert alone.startswith("No trainer is best in everything. “fgsm” has the highest accuracy on clean images")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (difference("accuracy", -0.02, 0.4), ", with no difference of accuracy from “standard” shown (p = 0.400); on “far”"),
        (
            difference("accuracy", -0.1, 0.01, seeds_low=-0.3, seeds_high=0.1),
            ", and the seeds disagree on what that does to accuracy (p = 0.010); on “far”",
        ),
        (difference("accuracy", math.nan, math.nan), "0.700]); on “far”"),
    ],
)
def test_what_withstanding_costs_is_said_as_far_as_it_is_shown(line: dict[str, Any], said: str) -> None:
    rows = scored({"standard": 0.82, "fgsm": 0.8}, BEHIND, {"standard": 0.9, "fgsm": 0.6})
    assert said in which(rows, line, MORE, fake=replace(TWO, outside=("far",)))


def test_of_several_models_it_is_said_in_how_many_the_trainer_withstands_more() -> None:
    fake = replace(TWO, models=("net", "deep"))
    rows = [replace(one, model=model) for model in fake.models for one in scored({"standard": 0.8, "fgsm": 0.8}, BEHIND)]
    lines = [MORE, MORE | {"model": "deep", "p_holm": 0.5}]
    said = which(rows, *lines, fake=fake)
    assert "On clean images the 4 networks cannot be told apart (accuracy 0.800)" in said
    assert said.endswith("“fgsm” withstands more than “standard” in 1 of 2 models and less in 0.")


def test_numbers_that_a_warning_names_carry_a_dagger_and_drawn_images_say_so() -> None:
    doubted = replace(TWO, warnings=(RowWarning("x", "warn", "net / standard / seed 0, test, accuracy", "?"),))
    assert "(0.900 [0.800, 1.000] †)" in which(scored(AHEAD, BEHIND), LESS, MORE, fake=doubted)
    drawn = which(scored(AHEAD, BEHIND), LESS, MORE, fake=replace(TWO, drawn=True))
    assert drawn.endswith("That says nothing about patients: the images are drawn.")


def test_how_sure_counts_patients_seeds_checks_and_differences() -> None:
    checks = [
        check("PASS"),
        check("PASS", seed=1),
        check("WARN"),
        check("FAIL"),
        check("SKIP"),
        check("PASS", kind="self_test"),
    ]
    far = difference("accuracy", -0.3, 0.001, seeds_low=-0.5, seeds_high=0.1, split="far")
    rows = scored(AHEAD, BEHIND, {"standard": 0.9, "fgsm": 0.6})
    said = asked(rows, LESS, MORE, far, fake=replace(TWO, outside=("far",)), checks=checks)[1]
    assert (said.question, said.lead) == ("How sure?", "")
    assert said.said == (
        "Numbers rest on 120 test images of 98 patients and 2 seeds; brackets are 95 % intervals.",
        "2 of 5 checks of the attacks passed, 1 doubtful, 1 failed, 1 not tried; of 3 differences from “standard” below, 2"
        " shown (p < 0.05 after Holm), 0 not shown, 1 with seeds that disagree.",
    )


def test_how_sure_says_what_was_not_done() -> None:
    one = replace(TWO, seeds=(0,))
    rows = [each for each in scored(AHEAD, BEHIND) if each.seed == 0]
    assert asked(rows, fake=one)[1].said == (
        "Numbers rest on 120 test images of 98 patients and 1 seed (chance in training is not known); brackets are 95 %"
        " intervals.",
        "No check of the attacks was run; no difference between trainers was tested.",
    )
    (_, last) = asked(scored(AHEAD, BEHIND), LESS, MORE, fake=forbids("net, test"))[1].said
    assert last.endswith("; no difference from “standard” counts, because a check failed on the numbers.")
    assert asked([])[1].said == ("There is no number to be sure of.",)


def test_what_was_not_tested_is_one_sentence_made_from_the_protocol() -> None:
    (said,) = asked(scored(AHEAD, BEHIND), LESS, MORE)[2].said
    assert said == (
        "Attacks beyond L-inf 0.02; attacks without gradients; whether the attacks were strong enough; other hospitals;"
        " localisation; whether maps depend on what was learned; calibration, decision thresholds, differences between sexes,"
        " ages, views and sites; human readers, any use on patients."
    )
    (less,) = asked(scored(AHEAD), fake=replace(TWO, attacks=(), seeds=(0,), explainers=(), corruptions=()))[2].said
    for words in ("Attacks of any kind", "chance in training", "noise, contrast and motion", "what the networks look at"):
        assert words in less


def recalls(**of: Sequence[float]) -> list[Row]:
    """Recall of covid by trainer and seed, beside an accuracy for each trainer."""
    rows = scored(AHEAD, BEHIND)
    for who, values in of.items():
        made = both_seeds("recall[covid]", 0.5, trainer=who)
        rows += [replace(row, value=value) for row, value in zip(made, values, strict=True)]
    return rows


def test_a_network_that_never_recognises_a_class_is_named_beside_the_trainer() -> None:
    assert "“fgsm” recognises no image of 'covid'." in which(recalls(fgsm=(0.0, 0.0)), LESS, MORE)
    assert "“fgsm” recognises no image of 'covid' in 1 of 2 seeds." in which(recalls(fgsm=(0.0, 0.1)), LESS, MORE)
    assert "recognises" not in which(recalls(fgsm=(0.1, 0.1)), LESS, MORE)


def test_of_many_networks_that_give_up_classes_the_number_is_said() -> None:
    names = ("a", "b", "c", "d")
    fake = replace(TWO, trainers=names)
    rows = [row for who in names for row in both_seeds("recall[covid]", 0.0, trainer=who)]
    found = given_up(results_of(fake, rows))
    assert found == ["4 of 4 networks recognise no image of some class."]


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (("view_is_label",), "The view tells a label, so a network may be right without reading the disease."),
        (
            ("source_is_label", "view_is_label"),
            "Where a picture was taken and the view tell a label, so a network may be right without reading the disease.",
        ),
        (("few_patients",), ""),
    ],
)
def test_what_tells_the_label_but_the_disease_is_part_of_how_sure_one_can_be(codes: Sequence[str], said: str) -> None:
    fake = replace(TWO, warnings=tuple(RowWarning(code, "warn", "run", "?") for code in codes))
    sure = " ".join(asked(scored(AHEAD, BEHIND), fake=fake)[1].said)
    assert said in sure
    assert ("tell" in sure) is bool(said)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"root": "a", "csv": "x.csv", "where": {"sex": "F"}}, True),  # a part of the same collection
        ({"root": "a", "csv": "y.csv"}, False),
        ({"root": "b", "csv": "x.csv"}, False),
        ({"root": "a", "csv": "x.csv", "site": "outside"}, False),
    ],
)
def test_a_part_of_the_training_collection_is_no_other_hospital(settings: dict[str, Any], same: bool) -> None:
    ours = {"name": "table", "settings": {"root": "a", "csv": "x.csv"}}
    data = {"reader": ours, "outside": {"far": [{"name": "table", "settings": settings}]}}
    assert same_collection(data, "far") is same


def test_images_are_of_lesions_where_the_data_names_no_patients() -> None:
    assert whose({"reader": {"name": "ham10000"}}) == "lesion"
    assert whose({"reader": {"name": "table"}}) == "patient"


def test_a_smoke_run_recommends_nobody() -> None:
    assert which(scored(AHEAD, BEHIND), LESS, MORE, fake=forbids_run()) == "None: this run only shows that everything runs."


def forbids_run() -> Fake:
    return replace(TWO, warnings=(RowWarning("smoke_run", "fail", "run", "?"),))


def test_differences_from_a_reference_that_a_check_failed_on_count_for_nothing() -> None:
    sure = " ".join(asked(scored(AHEAD, BEHIND), LESS, MORE, fake=forbids("net / standard / seed 0, test"))[1].said)
    assert "no difference from “standard” counts, because a check failed on the numbers" in sure
    assert "shown (p" not in sure


def test_an_outside_set_that_no_test_decided_is_not_passed_over() -> None:
    fake = replace(TWO, outside=("far",))
    clean, robust = {"standard": 0.6, "fgsm": 0.9}, {"standard": 0.2, "fgsm": 0.6}
    more = [difference("accuracy", 0.3, 0.01), MORE, difference("accuracy", -0.3, 0.2, split="far")]
    told = which(scored(clean, robust, {"standard": 0.9, "fgsm": 0.6}), *more, fake=fake)
    assert told.startswith("“fgsm”.")
    assert "far" in told
