"""What a report says of references beside explainers, maps under attack, and regions."""

from __future__ import annotations

from cxr_eval.report import anatomy, bands
from cxr_eval.report.tables import explanation_table, localisation
from cxr_eval.report.verdict import verdict
from tests.evidence import (
    NAN,
    REFERENCES,
    TWO,
    both_seeds,
    cells,
    lead,
    only,
    referred,
    results_of,
    with_rows,
)


def test_references_are_no_explainers_for_the_verdict_and_the_main_table() -> None:
    results = with_rows(*REFERENCES)
    assert results.references == ("oracle", "edges", "randomised(cam)")
    assert results.labels("explainers") == ("cam", "chance")
    told = " ".join(verdict(results))
    assert "0.990" not in told
    assert "oracle" not in told
    assert {explainer for _, _, explainer, _ in localisation(results)} == {"cam", "chance"}
    table = explanation_table(results, "net")
    assert table is not None
    assert not any("oracle" in name or "edges" in name for name, _ in table.groups)


def test_references_have_a_table_in_which_none_is_best() -> None:
    table = bands.reference_table(with_rows(*REFERENCES), "net")
    found = cells(table)
    assert found["oracle", "standard", "relevance mass in lung"].text == "0.990"
    assert not any(cell.best for cell in found.values())
    assert bands.reference_table(results_of(TWO), "net") is None


def test_a_strip_shows_explainers_and_references_and_says_their_numbers() -> None:
    results = with_rows(*REFERENCES, *referred("edges", NAN, "complexity"))
    pictures = bands.strips(results, "net", "bands-0")
    (picture,) = pictures  # complexity has no reference with a number
    assert picture.title == "Relevance mass in lung"
    assert "cam on standard 0.171 [0.128, 0.214]; cam on fgsm 0.237 [0.192, 0.282];" in picture.alt
    assert (
        "reference oracle 0.990; reference edges 0.200; reference randomised(cam) 0.100; reference chance 0.150" in picture.alt
    )
    for name in ("oracle", "edges", "randomised(cam)", "cam"):
        assert f">{name}<" in picture.inline
    (part,) = bands.explanations(results)
    assert "oracle (the known region itself), edges (the edges of the image), randomised (the explainer" in part.said


def test_maps_under_attack_stand_beside_the_likeness_of_two_different_images() -> None:
    numbers = [
        *referred("cam", 0.6, "map_ssim", condition="pgd:0.02"),
        *referred("cam", 0.7, "map_ssim[kept]", condition="pgd:0.02"),
        *referred("cam", 0.3, "map_ssim[random pairs]"),
    ]
    results = with_rows(*numbers)
    table = bands.under_attack(results, "net")
    found = cells(table)
    group = "cam, pgd, radius 0.02"
    assert found[group, "standard", "SSIM of maps, all images"].text == "0.600"
    assert found[group, "standard", "SSIM of maps, answer kept"].text == "0.700"
    assert found[group, "standard", "SSIM of maps, two images drawn by lot, clean"].text == "0.300"
    assert not any("map" in name for name in results.explanation_metrics())


def test_trainers_are_ranked_by_what_they_read_inside_a_region_and_least_first_where_inside_is_worse() -> None:
    numbers = [
        *lead("lung", 0.1, "standard", "higher"),
        *lead("lung", 0.3, "fgsm", "higher"),
        *lead("marker", 0.1, "standard", "lower"),
        *lead("marker", 0.3, "fgsm", "lower"),
        *both_seeds("balanced_accuracy", 0.8, condition="only lung"),
        *both_seeds("balanced_accuracy", 0.9, condition="intact lung"),
        *both_seeds("robust_accuracy", 0.2, condition="inside lung:0.02"),
        *both_seeds("follows_marker[covid]", 0.4, condition="marker of covid", better="lower"),
        *referred("chance", 0.25),
    ]
    section = anatomy.section(with_rows(*numbers))
    lung, marker, follows = only(section).tables
    assert [line.heads[0] for _, lines in lung.groups for line in lines] == ["fgsm", "standard"]
    assert [line.heads[0] for _, lines in marker.groups for line in lines] == ["standard", "fgsm"]
    found = cells(lung)
    assert found["net", "fgsm", "Inside minus outside"].best
    assert found["net", "standard", "Balanced accuracy, only the lung"].text == "0.800"
    assert found["net", "standard", "Robust accuracy, attack inside the lung, radius 0.02"].text == "0.200"
    assert found["net", "standard", "Share of the image (relevance mass by chance)"].text == "0.250"
    assert ("net", "standard", "Relevance mass, cam") in found
    assert cells(follows)["net", "standard", "Called covid more often"].text == "0.400"


def test_a_trainer_without_a_number_is_ranked_last() -> None:
    section = anatomy.section(with_rows(*lead("lung", NAN, "standard", "higher"), *lead("lung", -0.5, "fgsm", "higher")))
    assert [line.heads[0] for _, lines in only(section).tables[0].groups for line in lines] == ["fgsm", "standard"]
