"""Doubts about a network's answers, its attacks and its corruptions, from per-image tables alone."""

from types import SimpleNamespace

import pandas as pd
import pytest

from cxr_eval.attacks.doubts import doubts
from cxr_eval.run_doubts import idle, partial_attacks, silent, unchanged
from cxr_eval.types import Row


def findings(mass: list[float], nodule: list[float]) -> pd.DataFrame:
    """Four images: two with a mass, one with a nodule, and the probabilities given to each."""
    return pd.DataFrame({"label:mass": [1, 1, 0, 0], "label:nodule": [0, 1, 0, 0], "p_mass": mass, "p_nodule": nodule})


def test_a_network_that_finds_nothing_in_any_image_is_no_robust_one():
    (doubt,) = idle(findings([0.4, 0.5, 0.1, 0.1], [0.2] * 4), "here")
    assert (doubt.code, doubt.level, doubt.scope) == ("one_answer", "fail", "here")
    assert doubt.message.startswith("The network finds nothing in any of the 4 images.")


def test_a_finding_that_is_found_in_no_image_is_said():
    (doubt,) = idle(findings([0.9, 0.5, 0.1, 0.1], [0.2] * 4), "here")
    assert (doubt.code, doubt.level) == ("class_given_up", "warn")
    assert "finds 'nodule' in no image, although 1 have it" in doubt.message


def test_findings_that_are_found_or_that_nobody_has_are_no_doubt():
    assert idle(findings([0.9] * 4, [0.2, 0.7, 0.2, 0.2]), "here") == []
    nobody = findings([0.9] * 4, [0.2] * 4).assign(**{"label:nodule": 0})
    assert idle(nobody, "here") == []


def outcomes(attack: str, radii: list[float], *, steps: int = 1, images: int = 10, broken: int = 0) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "image_id": [f"i{k}" for k in range(images)],
                    "attack": attack,
                    "eps": eps,
                    "steps": steps,
                    "clean_correct": True,
                    "robust": [k >= broken for k in range(images)],
                    "every": False,
                    "zero_gradient": False,
                }
            )
            for eps in radii
        ],
        ignore_index=True,
    )


def test_an_attack_that_stops_at_a_smaller_radius_is_said_because_worst_cases_beyond_do_not_know_it():
    found = partial_attacks([outcomes("fgsm", [0.01, 8 / 255]), outcomes("pgd", [0.01])], "here")
    assert [(doubt.code, doubt.level, doubt.scope) for doubt in found] == [("partial_attack", "note", "here, pgd")]
    assert found[0].message == ("pgd was not run beyond radius 0.01; the worst case at larger radii knows it only up to there.")
    assert partial_attacks([outcomes("fgsm", [0.01]), outcomes("pgd", [0.01])], "here") == []


def test_one_step_on_this_network_is_not_compared_with_many_on_another_or_on_what_it_left():
    tables = pd.concat([outcomes("fgsm", [0.02], broken=9), outcomes("borrowed", [0.02], steps=10)], ignore_index=True)
    assert [doubt.code for doubt in doubts(tables)] == ["single_step_wins"]
    assert doubts(tables, dependent=["borrowed"]) == []


@pytest.mark.parametrize(("ssim", "said"), [([1.0, 0.99995], True), ([1.0, 0.9998], False)])
def test_a_corruption_that_changes_nothing_is_said(ssim: list[float], said: bool):
    found = unchanged(pd.DataFrame({"ssim": ssim}), "here, blur:1")
    assert [doubt.code for doubt in found] == (["nothing_changed"] if said else [])
    if said:
        assert found[0].message == (
            "At this image size the corruption changes no image to speak of (SSIM at least 0.99995): the scores are those of"
            " clean images."
        )


def test_a_metric_that_gave_no_number_is_said():
    about = ("m", "t", 0, "test", "clean", "gradcam")
    rows = [Row(*about, name, 0.5, 0.4, 0.6, 9, "1", "higher", "p") for name in ("sparseness", "relevance_mass[lesion]")]
    metrics = [SimpleNamespace(label=label) for label in ("sparseness", "relevance_mass", "pointing_game")]
    (doubt,) = silent(metrics, rows, "here")  # type: ignore[arg-type]
    assert (doubt.code, doubt.level, doubt.scope) == ("nothing_measured", "warn", "here, pointing_game")
    assert doubt.message == (
        "pointing_game has no numbers: the images explained have no masks or boxes that it could be measured on."
    )


def test_a_class_of_which_no_image_is_recognised_is_said_even_if_others_are_called_so():
    table = pd.DataFrame({"label": ["a"] * 6 + ["b"] * 6, "predicted": ["a"] * 5 + ["b"] + ["a"] * 6})
    (doubt,) = idle(table, "here")
    assert (doubt.code, doubt.level) == ("class_given_up", "warn")
    assert doubt.message.startswith("The network recognises none of the 6 images that are 'b', and calls others so:")
    assert idle(table.iloc[:8], "here") == []  # two of them are too few to say so
