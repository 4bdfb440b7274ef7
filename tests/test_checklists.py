"""Checklists and cards: what a run answers, what it answers in part, and what it leaves to the authors."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_eval.attacks.validity import CHECKS
from cxr_eval.report.checklists import of_attacks, of_data, of_explanations, of_results, of_training
from cxr_eval.report.checklists.answers import PLACES, SIGNS, Answer, listed
from cxr_eval.report.checklists.cards import as_words
from cxr_eval.report.checklists.checklist import FILES, RULES, Checklist, Item, answer, checklists, content
from cxr_eval.report.checklists.known import Known, known
from cxr_eval.report.checklists.page import Section, section
from cxr_eval.report.environment import environment
from cxr_eval.report.render import render
from cxr_eval.report.results import Results
from cxr_eval.report.tables import main_table
from cxr_eval.store import Run
from cxr_eval.types import RowWarning
from tests.evidence import TWO, both_seeds, check
from tests.fake_run import HOSTILE, Fake
from tests.report_pages import Page

REAL = replace(TWO, seeds=(0, 1))


def facts(fake: Fake, **changes: Any) -> Known:
    """What is known of a made-up run, without its folder."""
    results = Results(pd.DataFrame(fake.rows()), fake.manifest(), fake.warnings)
    later = {name: fake.later.get(name, pd.DataFrame()) for name in ("checks", "differences", "gaps")}
    checks = [{str(name): value for name, value in line.items()} for line in later["checks"].to_dict("records")]
    made = Known(results, checks, later["differences"], later["gaps"], fake.counts(), pd.DataFrame(), None)
    return replace(made, **changes)


def data_with(fake: Fake, **changes: Any) -> Fake:
    """The same run with other facts about its data."""
    return replace(fake, changes=fake.changes | {"data": fake.manifest()["data"] | changes})


def audit(**tables: Any) -> dict[str, Any]:
    """Content of audit.json."""
    return {"loaded": [], "warnings": [], "skipped": [], "suspects": [], "tables": tables}


def apart(*sets: str, **shared: int) -> list[dict[str, Any]]:
    """Patients in two sets: none, unless `a_b` says how many."""
    return [{"split": a, "other": b, "patients": shared.get(f"{a}_{b}", 0)} for i, a in enumerate(sets) for b in sets[i + 1 :]]


def items_of(key: str) -> list[dict[str, Any]]:
    return [item for group in content(key)["groups"] for item in group["items"]]


# the data files


@pytest.mark.parametrize("key", FILES)
def test_an_item_has_known_keys_and_one_way_to_be_answered(key: str) -> None:
    known_keys = {"item", "asks", "rule", "checks", "stated", "said", "lacks", "add"}
    for item in items_of(key):
        assert set(item) <= known_keys, item
        assert isinstance(item["asks"], str), item
        assert not re.search(r"\b(rule|add|stated|said|checks):", item["asks"]), item
        assert ("rule" in item) + ("checks" in item) + ("add" in item) == 1, item


def test_every_rule_that_items_name_exists_and_every_rule_is_used() -> None:
    named = {item["rule"] for key in FILES for item in items_of(key) if "rule" in item}
    assert named == set(RULES)


def test_checks_that_items_name_are_checks_of_the_validity_gate() -> None:
    named = {code for item in items_of("adversarial") for code in item.get("checks", ())}
    assert named <= {check.__name__ for check in CHECKS}


def test_statements_that_items_quote_are_those_that_cards_quote() -> None:
    keys = {"intended_use", "out_of_scope", "users", "data_source", "licence", "ethics", "consent", "annotation"}
    keys |= {"limitations", "contact", "funding", "registration"}
    named = {key for file in FILES for item in items_of(file) for key in item.get("stated", ())}
    assert named <= keys


def test_claim_has_its_42_items_in_order() -> None:
    assert [item["item"] for item in items_of("claim")] == list(range(1, 43))


def test_tripod_ai_has_27_items_of_52_parts_in_order() -> None:
    numbers = [str(item["item"]) for item in items_of("tripod_ai")]
    assert len(numbers) == len(set(numbers)) == 52
    main = [int(re.match(r"\d+", number)[0]) for number in numbers]  # type: ignore[index]
    assert main == sorted(main)
    assert set(main) == set(range(1, 28))


def test_future_ai_has_its_30_recommendations() -> None:
    numbers = Counter(str(item["item"]).split()[0] for item in items_of("future_ai"))
    sizes = {"Fairness": 3, "Universality": 4, "Traceability": 6, "Usability": 5, "Robustness": 3, "Explainability": 2}
    assert numbers == sizes | {"General": 7}  # 3 + 4 + 6 + 5 + 3 + 2 + 7 = 30


def test_the_adversarial_list_prints_no_numbers_for_it_has_none() -> None:
    assert not any("item" in item for item in items_of("adversarial"))


# counting


def test_the_summary_counts_every_item_once() -> None:
    answers = [Answer("answered", "a", "how")] * 2 + [Answer("partly", "b", "how")] + [Answer("not provided", "c")] * 3
    list_ = Checklist("x", "X", "s", "n", tuple(Item(str(k), "g", "asks", each) for k, each in enumerate(answers)))
    assert list_.summary == "answered 2, partly 1, not provided 3 (of 6)"  # 2 + 1 + 3


def test_names_in_a_sentence_are_listed_and_cut() -> None:
    assert listed([]) == "none"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"


# what a run may answer: outside data


OUT = replace(REAL, outside=("far",))


def test_external_data_are_not_provided_without_an_outside_set() -> None:
    assert of_results.external(facts(REAL)) == Answer(
        "not provided",
        "There is no outside test set. For the authors to add: a test on images of another hospital.",
    )


def test_an_outside_set_that_shares_patients_with_the_test_images_is_not_external() -> None:
    shared = audit(patients_across=apart("train", "val", "test", "far", test_far=34))
    found = of_results.external(facts(OUT, audit=shared))
    assert found.state == "not provided"
    assert "“far” shares patients with “test”, so it is not external" in found.said


def test_an_outside_set_without_an_audit_is_not_called_external() -> None:
    found = of_results.external(facts(OUT))
    assert found.state == "not provided"
    assert "was not counted" in found.said


def test_an_outside_set_from_the_training_images_collection_is_not_external() -> None:
    reader = {"name": "table", "settings": {"root": "a", "csv": "b"}}
    same = data_with(OUT, reader=reader, outside={"far": [reader]})
    found = of_results.external(facts(same, audit=audit(patients_across=apart("train", "val", "test", "far"))))
    assert found.state == "not provided"
    assert "same collection" in found.said


def test_an_outside_set_of_unnamed_patients_is_not_called_external() -> None:
    unnamed = replace(OUT, warnings=(RowWarning("patients_unknown", "warn", "far", "No patients."),))
    found = of_results.external(facts(unnamed, audit=audit(patients_across=apart("train", "val", "test", "far"))))
    assert found.state == "not provided"
    assert "is unknown" in found.said


def test_an_outside_set_of_other_patients_from_another_reader_is_external() -> None:
    found = of_results.external(facts(OUT, audit=audit(patients_across=apart("train", "val", "test", "far"))))
    assert found.state == "answered"
    assert "“far” (120 images of 98 patients)" in found.said


def test_one_external_set_beside_one_in_doubt_answers_in_part() -> None:
    both = replace(REAL, outside=("far", "near"))
    tables = audit(patients_across=apart("train", "val", "test", "far", "near", test_near=2))
    found = of_results.external(facts(both, audit=tables))
    assert found.state == "partly"
    assert "“far”" in found.said
    assert "“near” shares patients with “test”" in found.said


def test_drawn_outside_sets_are_not_external() -> None:
    drawn = replace(OUT, drawn=True)
    found = of_results.external(facts(drawn, audit=audit(patients_across=apart("train", "val", "test", "far"))))
    assert found.state == "not provided"


# uncertainty


def some_differences() -> pd.DataFrame:
    return pd.DataFrame([{"model": "net", "trainer": "fgsm", "against": "standard"}])


def test_uncertainty_is_answered_by_intervals_and_tests_of_differences() -> None:
    found = of_results.uncertainty(facts(replace(REAL, later={"differences": some_differences()})))
    assert found.state == "answered"
    assert found.said.startswith("2 of 2 numbers of accuracy on “test” have a 95 % interval")


def test_uncertainty_without_tests_of_differences_is_partly_answered() -> None:
    found = of_results.uncertainty(facts(REAL))
    assert found.state == "partly"
    assert "tests of the differences between trainers" in found.said


def test_uncertainty_of_one_seed_is_partly_answered() -> None:
    found = of_results.uncertainty(facts(replace(REAL, seeds=(0,), later={"differences": some_differences()})))
    assert found.state == "partly"
    assert "there is one seed" in found.said


def test_uncertainty_of_unnamed_patients_is_partly_answered() -> None:
    unnamed = (RowWarning("patients_unknown", "warn", "test", "No patients."),)
    found = of_results.uncertainty(facts(replace(REAL, warnings=unnamed, later={"differences": some_differences()})))
    assert found.state == "partly"


def test_uncertainty_is_not_provided_without_intervals() -> None:
    fake = replace(REAL, undefined=("accuracy",))
    assert of_results.uncertainty(facts(fake)).state == "not provided"


# robustness and its checks


def checked(*lines: dict[str, Any]) -> Fake:
    return replace(REAL, later={"checks": pd.DataFrame(lines)})


def of_check(verdict: str, code: str = "single_step_beats_many", **given: Any) -> dict[str, Any]:
    return check(verdict, title="Many steps beat one", **given) | {"check": code, "sentence": f"It says {verdict}."}


STEPS = ("single_step_beats_many",)


def test_a_check_that_passed_on_all_networks_answers_its_item() -> None:
    found = of_attacks.checked(facts(checked(of_check("PASS"), of_check("PASS", seed=1))), STEPS)
    assert found == Answer("answered", "“Many steps beat one” passed on 2 of 2 (networks and sets).", "validity")


@pytest.mark.parametrize("verdict", ["FAIL", "WARN"])
def test_a_check_that_one_network_did_not_pass_answers_in_part_and_says_what_was_found(verdict: str) -> None:
    found = of_attacks.checked(facts(checked(of_check("PASS"), of_check(verdict, seed=1))), STEPS)
    assert found.state == "partly"
    assert "passed on 1 of 2" in found.said
    assert f"It says {verdict}." in found.said


def test_a_check_that_was_not_tried_on_some_networks_answers_in_part() -> None:
    found = of_attacks.checked(facts(checked(of_check("PASS"), of_check("SKIP", seed=1))), STEPS)
    assert found.state == "partly"
    assert "where it was not tried" in found.said


def test_a_check_that_was_tried_on_no_network_is_not_provided() -> None:
    found = of_attacks.checked(facts(checked(of_check("SKIP"))), STEPS)
    assert found.state == "not provided"
    assert "It says SKIP." in found.said


def test_items_about_attacks_are_not_provided_without_attacks() -> None:
    none = facts(replace(REAL, attacks=()))
    rules = set(of_attacks.RULES) - {of_attacks.clean_accuracy, of_attacks.broader, of_attacks.prior_work}
    assert {rule.__name__: rule(none).state for rule in rules} == {rule.__name__: "not provided" for rule in rules}
    assert of_attacks.checked(none, STEPS).state == "not provided"


def test_items_about_checks_are_not_provided_without_checks() -> None:
    found = of_attacks.checked(facts(REAL), STEPS)
    assert found.state == "not provided"
    assert "were not run" in found.said


def test_attacks_made_for_one_defence_are_never_claimed() -> None:
    assert of_attacks.adaptive(facts(REAL)).state == "not provided"
    assert of_attacks.randomness(facts(REAL)).state == "not provided"


def test_robustness_is_answered_by_checked_attacks_and_corruptions() -> None:
    found = of_results.robustness(facts(checked(of_check("PASS"))))
    assert found.state == "answered"
    assert "attacks (pgd and pgd_l2) on “test” and corruptions (blur)" in found.said


@pytest.mark.parametrize(
    ("fake", "lacks"),
    [
        (REAL, "checks of the attacks"),
        (replace(checked(of_check("PASS")), corruptions=()), "changes that no one intended"),
        (replace(REAL, attacks=()), "attacks"),
        (checked(of_check("SKIP")), "none could be tried"),
    ],
)
def test_robustness_is_partly_answered_where_something_lacks(fake: Fake, lacks: str) -> None:
    found = of_results.robustness(facts(fake))
    assert found.state == "partly"
    assert lacks in found.said.partition("What lacks: ")[2]


def test_robustness_is_partly_answered_where_a_failed_check_forbids_a_number() -> None:
    forbidden = RowWarning("x", "fail", "net / standard / seed 0, test, worst:0.02", "A check failed.")
    found = of_results.robustness(facts(replace(checked(of_check("PASS"), of_check("FAIL", seed=1)), warnings=(forbidden,))))
    assert found.state == "partly"
    assert "1 of 2 checks of the attacks failed" in found.said
    assert "no failed check forbids" in found.said


def test_robustness_is_not_provided_where_nothing_was_changed() -> None:
    assert of_results.robustness(facts(replace(REAL, attacks=(), corruptions=()))).state == "not provided"


def test_the_curve_is_answered_only_if_every_image_breaks_at_its_end() -> None:
    """TWO leaves some images right; with rows of 0 at the largest radius none is left."""
    left = of_attacks.curve(facts(REAL))
    assert left.state == "partly"
    assert "still right" in left.said
    one = replace(REAL, attacks=("pgd",), radii=("1",))  # accuracy * exp(-1 * 120 / 2.6) is 0.000 and yet above 0
    assert "still right 0.000" in of_attacks.curve(facts(one)).said


def test_numbers_under_a_failed_check_are_marked_in_sentences() -> None:
    forbidden = RowWarning("x", "fail", "net / standard / seed 0, test, clean, accuracy", "A check failed.")
    found = of_attacks.clean_accuracy(facts(replace(REAL, warnings=(forbidden,))))
    assert "(a check failed on some)" in found.said


def test_the_step_that_no_setting_gives_is_named_as_lacking() -> None:
    given: dict[str, dict[str, Any]] = {"pgd": {"step": None}, "pgd_l2": {"norm": "l2", "step": 0.1}}
    found = of_attacks.described(facts(replace(REAL, attack_settings=given)))
    assert found.state == "partly"
    assert "the step of pgd," in found.said
    assert of_attacks.described(facts(REAL)).state == "answered"


def test_goals_of_attacks_are_told_apart() -> None:
    aimed = {"pgd": {"goal": "hide covid"}, "pgd_l2": {"norm": "l2", "goal": "any"}}
    assert of_attacks.targeted(facts(REAL)).state == "partly"
    assert of_attacks.targeted(facts(replace(REAL, attack_settings=aimed))).state == "answered"
    assert of_attacks.targeted(facts(replace(REAL, attacks=("pgd",), attack_settings=aimed))).state == "partly"


def test_corruptions_without_rotations_and_shifts_are_a_part_of_the_broader_threats() -> None:
    assert of_attacks.broader(facts(REAL)).state == "partly"
    assert of_attacks.broader(facts(replace(REAL, corruptions=("rotation",)))).state == "answered"
    assert of_attacks.broader(facts(replace(REAL, corruptions=()))).state == "not provided"


def test_published_numbers_on_clean_images_are_no_prior_work_on_attacks() -> None:
    def with_quote(**where: str) -> Fake:
        quote = {"values": {"accuracy": 0.5}} | where
        return replace(REAL, changes={"published": [{"source": "S", "short": "S 2020", "data": "d", "numbers": [quote]}]})

    assert of_attacks.prior_work(facts(with_quote())).state == "not provided"
    assert of_attacks.prior_work(facts(with_quote(condition="pgd:0.02"))).state == "partly"


# explanations


def test_explanations_are_validated_by_known_regions() -> None:
    found = of_explanations.explainability(facts(REAL))
    assert found.state == "answered"
    assert "measured against known regions (relevance mass in lung" in found.said


def test_explanations_are_validated_by_reference_maps() -> None:
    rows = both_seeds("complexity", 0.4, explainer="edges", better="lower")
    found = of_explanations.explainability(facts(replace(REAL, metrics=("complexity",), more_rows=rows)))
    assert found.state == "answered"
    assert "reference maps (edges)" in found.said


def test_explanations_with_neither_are_not_called_validated() -> None:
    found = of_explanations.explainability(facts(replace(REAL, metrics=("complexity",))))
    assert found.state == "partly"
    assert "a measure against known regions and comparison with reference maps" in found.said


def test_maps_without_any_metric_validate_nothing() -> None:
    found = of_explanations.explainability(facts(replace(REAL, metrics=())))
    assert found.state == "partly"
    assert "pictures alone validate nothing" in found.said


def test_a_localisation_that_is_defined_for_no_image_validates_nothing() -> None:
    found = of_explanations.explainability(facts(replace(REAL, undefined=("relevance_mass[lung]",))))
    assert found.state == "partly"


def test_a_poor_result_of_the_validation_is_said_beside_it() -> None:
    poor = tuple(
        RowWarning("not_better_than_edges", "warn", f"net / standard / seed {k}, test, clean, cam", "No.") for k in (0, 1)
    )
    found = of_explanations.explainability(facts(replace(REAL, warnings=poor)))
    assert "not better than edges in 2 of the comparisons" in found.said


def test_users_are_never_claimed_to_have_judged_the_maps() -> None:
    assert of_explanations.with_users(facts(REAL)).state == "partly"
    assert of_explanations.with_users(facts(replace(REAL, explainers=()))).state == "not provided"


# data


def test_disjoint_sets_need_an_audit_of_patients_and_copies() -> None:
    sets = apart("train", "val", "test")
    looked = [{"compared": 1363, "candidates": 9, "pairs": 0}]
    assert of_data.disjoint(facts(REAL)).state == "not provided"
    assert of_data.disjoint(facts(REAL, audit=audit(patients_across=sets))).state == "partly"
    assert of_data.disjoint(facts(REAL, audit=audit(patients_across=sets, duplicates=looked))) == Answer(
        "answered",
        "No patient is in two of train, val and test. 1,363 pictures were compared: no pair shows the same scene under two"
        " patients.",
        "audit",
    )
    pairs = [looked[0] | {"pairs": 2}]
    assert of_data.disjoint(facts(REAL, audit=audit(patients_across=sets, duplicates=pairs))).state == "partly"


def test_sets_that_share_patients_are_not_called_disjoint() -> None:
    found = of_data.disjoint(facts(REAL, audit=audit(patients_across=apart("train", "val", "test", train_test=1))))
    assert found.state == "partly"
    assert "The sets are not disjoint: train and test share 1 patient." in found.said


def test_demographics_name_what_lacks() -> None:
    sex: list[dict[str, Any]] = [
        {"column": "sex", "value": v, "split": s, "images": 5, "patients": 4, "classes": {}}
        for v in "FM"
        for s in ("train", "val", "test")
    ]
    found = of_data.demographics(facts(REAL, audit=audit(counts=sex)))
    assert found.state == "partly"
    assert "age, and clinical state" in found.said
    unknown = [row | {"value": "not known"} for row in sex]
    assert of_data.demographics(facts(REAL, audit=audit(counts=unknown))).state == "not provided"
    assert of_data.demographics(facts(REAL)).state == "not provided"


def test_shares_of_the_sets_are_of_their_images() -> None:
    splits = {
        "train": {"images": 60, "patients": 6},
        "val": {"images": 15, "patients": 2},
        "test": {"images": 25, "patients": 3},
    }
    found = of_data.partitions(facts(data_with(REAL, splits=splits)))
    assert "Of 100 images: train 60.0%, val 15.0% and test 25.0%" in found.said  # 60, 15 and 25 of 100


def test_drawn_images_are_called_drawn_and_have_no_patients() -> None:
    drawn = facts(replace(REAL, drawn=True))
    assert "drawn by a program" in of_data.data_source(drawn).said
    for rule in (of_data.demographics, of_data.eligibility, of_data.flow, of_data.representative):
        assert rule(drawn).state == "not provided"


def test_what_a_reader_took_is_told_and_never_the_whole_answer() -> None:
    reader = {"name": "table", "settings": {"where": {"label": ["covid", "normal"]}, "split": "fold"}}
    fake = data_with(REAL, reader=reader)
    assert "only images whose label is covid or normal" in of_data.eligibility(facts(fake)).said
    assert of_data.subsets(facts(fake)).state == "partly"
    assert "the column “fold” of the labels divides the images" in of_data.partitions(facts(fake)).said


# training


def test_training_settings_that_the_folder_does_not_hold_are_lacking() -> None:
    assert of_training.training(facts(REAL)).state == "partly"
    optimizer = {"optimizer": {"name": "adam"}, "schedule": {"name": "cosine"}, "epochs": 3, "batch_size": 8}
    assert of_training.training(facts(replace(REAL, changes={"train": optimizer}))).state == "answered"


def test_the_kept_epoch_is_told() -> None:
    assert of_training.selection(facts(REAL)).state == "not provided"
    last = facts(replace(REAL, changes={"train": {"select": {"metric": "last"}}}))
    best = facts(replace(REAL, changes={"train": {"select": {"metric": "balanced_accuracy"}}}))
    assert of_training.selection(last).said.startswith("The last epoch was kept")
    assert of_training.selection(best).said.startswith("The epoch with the best validation balanced accuracy was kept")


def test_what_models_of_other_packages_start_from_is_not_known() -> None:
    models = REAL.manifest()["models"]
    foreign = [models[0] | {"origin": "my-nets 1.0"}]
    assert of_training.initialisation(facts(REAL)).state == "answered"
    assert of_training.initialisation(facts(replace(REAL, changes={"models": foreign}))).state == "partly"


# statements of the authors


STATED = {"funding": "Nobody <b>paid</b>.", "intended_use": "Research\nonly."}


def test_what_the_authors_stated_is_quoted_as_theirs() -> None:
    stated = facts(replace(REAL, changes={"about": STATED}))
    found = answer({"asks": "funding", "stated": ["funding"], "add": "funding"}, stated)
    assert found == Answer("answered", "Stated by the authors: “Nobody <b>paid</b>.”.", "checklists")
    part = answer({"asks": "use", "stated": ["intended_use", "users"], "lacks": "the users", "add": "all"}, stated)
    assert part == Answer("partly", "Stated by the authors: “Research only.”. What lacks: the users.", "checklists")


def test_what_the_authors_did_not_state_is_left_to_them() -> None:
    found = answer({"asks": "funding", "stated": ["funding"], "add": "who paid"}, facts(REAL))
    assert found == Answer("not provided", "For the authors to add: who paid.")


def test_an_empty_statement_is_none() -> None:
    assert facts(replace(REAL, changes={"about": {"funding": "  ", "ethics": None}})).about == {}


# the page, Markdown and files


def made(fake: Fake, folder: Path) -> tuple[Section, Run]:
    run = fake.write(folder)
    return section(run, Results(run.rows(), run.manifest(), run.warnings())), run


def pages(shown: Section) -> tuple[str, str]:
    html, md = (environment(name).get_template(f"checklists.{name}.j2").render(checklists=shown) for name in ("html", "md"))
    return html, md


def rich() -> Fake:
    lines = [of_check("PASS"), of_check("FAIL", seed=1)]
    return replace(REAL, outside=("far",), images=1, later={"checks": pd.DataFrame(lines)}, changes={"about": STATED})


BARE = replace(REAL, attacks=(), corruptions=(), explainers=(), conditions=(), metrics=(), seeds=(0,))
FAILED = replace(BARE, failed=(("net", "standard", 0), ("net", "fgsm", 0)))


@pytest.mark.parametrize("fake", [rich(), BARE, FAILED, replace(rich(), drawn=True)], ids=["rich", "bare", "failed", "drawn"])
def test_every_link_leads_to_a_section_of_the_report(fake: Fake, tmp_path: Path) -> None:
    shown, run = made(fake, tmp_path)
    html, _ = pages(shown)
    there = {
        attributes.get("id") for text in (render(run)["html"].read_text("utf-8"), html) for _, attributes in Page(text).tags
    }
    links = {(attributes["href"] or "")[1:] for tag, attributes in Page(html).tags if tag == "a"}
    assert links <= there
    assert links <= set(PLACES)


def test_states_are_words_and_signs_are_hidden_from_screen_readers(tmp_path: Path) -> None:
    shown, _ = made(rich(), tmp_path)
    html, _ = pages(shown)
    for sign in SIGNS.values():
        assert f'<span aria-hidden="true">{sign}</span>' in html
    cells = re.findall(r'<td class="state"><span aria-hidden="true">.</span> ([a-z ]+)</td>', html)
    assert len(cells) == sum(len(each.items) for each in shown.lists)
    assert set(cells) == set(SIGNS)


def test_the_page_shows_every_item_under_its_checklist(tmp_path: Path) -> None:
    shown, _ = made(rich(), tmp_path)
    tables = Page(pages(shown)[0]).tables
    for each in shown.lists:
        lines = [line for line in tables[each.title][1:] if len(line) > 1]
        assert len(lines) == len(each.items)
        assert [line[-2] for line in lines] == [" ".join(item.answer.said.split()) for item in each.items]
        if each.numbered:
            assert [line[0] for line in lines] == [item.number for item in each.items]


def test_markdown_has_as_many_cells_in_every_line_of_a_table(tmp_path: Path) -> None:
    fake = replace(rich(), changes={"about": {"funding": "a | b\nc"}})
    for text in (pages(made(fake, tmp_path)[0])[1], *(data.decode() for data in made(fake, tmp_path)[0].files.values())):
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_hostile_names_are_text(tmp_path: Path) -> None:
    names = tuple(name.replace("\ud800", "") for name in HOSTILE)
    fake = Fake(
        models=names[:2],
        trainers=names[1:3],
        seeds=(0,),
        attacks=names[3:],
        explainers=names[4:],
        outside=names[4:],
        classes=names[:3],
        corruptions=names[:1],
        conditions=("clean",),
        title=names[0],
        drawn=False,
        images=0,
        warnings=tuple(RowWarning(name, "warn", name, name) for name in names),
        changes={"about": dict(zip(("funding", "ethics", "licence", "annotation", "users"), names, strict=True))},
    )
    shown, _ = made(fake, tmp_path)
    html, _ = pages(shown)
    assert {tag for tag, _ in Page(html).tags} & {"script", "b"} == set()
    assert not re.search("[\x00-\x08\x1b\u202e]", html)
    for data in shown.files.values():
        assert "<script" not in data.decode()


# cards


HEADINGS = [
    *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data", "Quantitative analyses"),
    *("Ethical considerations", "Caveats and recommendations"),
]


def test_a_model_card_has_its_nine_headings_and_one_card_a_model(tmp_path: Path) -> None:
    shown, _ = made(Fake(images=0, drawn=False), tmp_path)
    assert [card.title for card in shown.models] == ["Model card: resnet18", "Model card: densenet121"]
    assert all([heading.title for heading in card.headings] == HEADINGS for card in shown.models)


def test_numbers_of_a_model_card_are_those_of_the_main_table(tmp_path: Path) -> None:
    shown, run = made(replace(rich(), outside=()), tmp_path)
    results = Results(run.rows(), run.manifest(), run.warnings())
    table = main_table(results, "test")
    assert table is not None
    written = next(heading for heading in shown.models[0].headings if heading.title == "Quantitative analyses").numbers[0]
    (_, lines), *_ = table.groups
    assert written.heads == ("Measure", "standard", "fgsm")
    assert len(written.rows) == len(table.columns)
    for k, row in enumerate(written.rows):
        for line, shown_cell in zip(lines, row[1:], strict=True):
            assert shown_cell.startswith(f"{line.cells[k].text} {line.cells[k].interval}".strip())
            assert (" ★" in shown_cell) == line.cells[k].best
            assert (" †" in shown_cell) == line.cells[k].doubt
    assert as_words(table, "another model") is None


def test_cards_quote_the_authors_and_name_what_they_did_not_state(tmp_path: Path) -> None:
    card = made(rich(), tmp_path)[0].files["model_card.md"].decode()
    assert "Intended use, stated by the authors: Research only." in card
    assert "Users and Out of scope: not stated." in card


def test_the_data_card_counts_images_and_patients_by_class_and_set(tmp_path: Path) -> None:
    card = made(replace(REAL, images=0), tmp_path)[0].files["data_card.md"].decode()
    assert "| Class | train | val | test |" in card
    assert "| covid | 40 (33) | 40 (33) | 40 (33) |" in card
    assert "The images were not audited." in card
    assert "Data source and Licence: not stated." in card


def test_cards_of_drawn_images_begin_with_the_notice(tmp_path: Path) -> None:
    run = replace(REAL, drawn=True).write(tmp_path)
    shown = section(run, Results(run.rows(), run.manifest(), run.warnings()), notice="DEMONSTRATION: no patient.")
    assert all(data.startswith(b"**DEMONSTRATION: no patient.**") for data in shown.files.values())


def test_the_same_folder_gives_the_same_checklists_and_cards(tmp_path: Path) -> None:
    (first, _), (second, _) = made(rich(), tmp_path / "a"), made(rich(), tmp_path / "b")
    assert pages(first) == pages(second)
    assert first.files == second.files


def test_a_run_in_which_every_network_failed_claims_no_numbers(tmp_path: Path) -> None:
    run = FAILED.write(tmp_path)
    found = known(run, Results(run.rows(), run.manifest(), run.warnings()))
    for rule in (
        of_results.metrics,
        of_results.measures,
        of_results.uncertainty,
        of_results.precision,
        of_results.by_partition,
    ):
        assert rule(found).state == "not provided"
    claim = next(each for each in checklists(found) if each.key == "claim")
    states = {item.number: item.answer.state for item in claim.items}
    assert {states[number] for number in ("28", "29", "30", "31", "32", "35", "36", "37")} == {"not provided"}
