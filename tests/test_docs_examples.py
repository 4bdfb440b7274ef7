"""Examples in README and docs hold as they stand: code prints what is shown, and settings are a valid part of a protocol."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cxr_eval.attacks.validity import CHECKS
from cxr_eval.classifier import Classifier
from cxr_eval.plan import plan
from cxr_eval.protocol_file import load
from cxr_eval.registry import installed
from cxr_eval.robustness import PRESETS

ROOT = Path(__file__).parents[1]
SETTINGS = re.findall(
    r"<!-- settings -->\n```yaml\n(.*?)```", (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8"), re.DOTALL
)
DRAWN: dict[str, Any] = {"reader": "phantom", "patients": 30, "size": 64}


def test_the_protocols_page_shows_settings() -> None:
    assert len(SETTINGS) == 5  # none is lost by another way of marking them


@pytest.mark.parametrize("shown", SETTINGS, ids=lambda shown: shown.partition(":")[0])
def test_settings_shown_make_a_valid_protocol(shown: str, tmp_path: Path) -> None:
    study = {
        "name": "study",
        "data": {"train": DRAWN, "outside": {"other_site": DRAWN | {"site": "outside"}}, "size": 64},
        "models": ["small_cnn"],
        "trainers": ["standard", {"name": "fgsm", "eps": 0.02}],
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study | yaml.safe_load(shown)), encoding="utf-8")
    planned = plan(load(file))
    assert planned.cells


@pytest.mark.slow
def test_the_robustness_example_prints_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- robustness -->\n```python\n(.*?)```\n\n```text\n(.*?)```\n<!-- end -->", page, re.DOTALL)
    assert block is not None
    file = tmp_path / "example.py"
    file.write_text(block.group(1), encoding="utf-8")
    runpy.run_path(str(file))
    assert capsys.readouterr().out == block.group(2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_in_the_docs_breaks_images_within_its_radius(norm: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- attack -->\n```python\n(.*?)```\n<!-- end -->", page, re.DOTALL)
    assert block is not None
    file = tmp_path / "two_steps.py"
    file.write_text(block.group(1), encoding="utf-8")
    attack = runpy.run_path(str(file))["TwoStepsAttack"](eps=0.3, norm=norm)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0] * 4, [1.0, -1.0, 0.0, 0.0]]))
    # logit 1 - logit 0 = p0 - p1 = 0.2; the change (-e, +e) takes 2e from it: 2 x 0.3 in L-inf, 2 x 0.3 / sqrt(2) in L2
    x, y = torch.tensor([0.6, 0.4, 0.5, 0.5]).view(1, 1, 2, 2), torch.tensor([1])
    classifier = Classifier(network, input_shape=(1, 2, 2), nb_classes=2, device="cpu")
    found = attack.perturb(classifier, x, y, eps=0.3, seed=0)
    length = (found - x).abs().max() if norm == "linf" else (found - x).norm()
    assert float(length) == pytest.approx(0.3, abs=1e-6)
    expected = 0.2 - (0.6 if norm == "linf" else 0.6 / 2**0.5)
    assert float(network(found).detach()[0, 1]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "methods").glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_methods_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert targets
    assert all((page.parent / target).exists() for target in targets)


def test_sections_that_links_name_are_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target, section in re.findall(r"\]\((?!https?:)([^)#]+)#([^)]+)\)", page.read_text(encoding="utf-8")):
            titles = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert section in anchors, f"{page.name}: {target}#{section}"


def test_every_corruption_preset_and_check_is_told() -> None:
    methods = (ROOT / "docs" / "methods" / "attacks.md").read_text(encoding="utf-8")
    protocols = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    for name in installed("corruptions"):
        assert f"`{name}`" in methods
        assert f"`{name}`" in protocols
    for name in (*PRESETS, *(check.__name__ for check in CHECKS)):
        assert f"`{name}`" in methods
