"""What only images and networks show to be wrong with a protocol: each fault with its line, all of them at once."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cxr_eval import registry, runner
from cxr_eval.cli import main
from cxr_eval.errors import ProtocolError
from cxr_eval.protocol_file import load

PHANTOM = "  train: {reader: phantom, patients: 45, size: 48, seed: 3}\n"
ONE = f"name: one\ndata:\n{PHANTOM}  size: 32\nmodels: [small_cnn]\ntrainers: [standard]\n"
"""Six lines; the classes are normal, covid and pneumonia, the regions lung, lesion and marker."""

USE_ANY = "these images have one class each: use any (the direction of wrong answers is reported)"
OF_ONE = "is for one class an image; these images have several findings:"


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("CXR_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """The lines with which a protocol is refused; nothing has been written."""
    monkeypatch.chdir(tmp_path)

    def said(text: str, *sets: str) -> list[str]:
        Path("p.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ProtocolError) as refusal:
            runner.run(load(Path("p.yaml"), sets=sets), out=Path("run"), device="cpu")
        assert not Path("run").exists()
        return str(refusal.value).splitlines()

    return said


@pytest.fixture
def findings(tmp_path):
    """A protocol of two findings an image; its sixth line is empty."""
    rng = np.random.default_rng(0)
    lines = ["image,patient,effusion,mass"]
    for number in range(30):
        Image.fromarray(rng.integers(0, 255, (32, 32)).astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,p{number},{number % 2},{number // 2 % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reader = f"{{reader: table, root: {tmp_path}, image: image, labels: [effusion, mass], patient: patient}}"
    return f"name: several\ndata:\n  train: {reader}\n  size: 32\nmodels: [small_cnn]\n\n"


FLAT = "return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size * size, classes))"


def written(folder: Path, base: str, method: str, body: str) -> Path:
    """A file with one plugin, `mine`."""
    path = folder / "plugin.py"
    head = "import torch\n\nimport cxr_eval.api as cxr\n\n\n"
    path.write_text(f"{head}class Mine(cxr.{base}):\n    {method}\n        {body}\n", encoding="utf-8")
    return path


def test_every_fault_has_its_line_and_all_come_at_once(refused):
    text = ONE + (
        "train: {finding_weights: batch, finding_loss: sum}\n"  # line 7
        "attacks:\n"
        "  - {name: pgd, eps: 0.01}\n"
        "  - {name: fgsm, eps: 0.01, goal: hide covid}\n"  # 10
        "  - {name: art/FastGradientMethod, eps: 0.02, num_random_init: 2}\n"
        "explain:\n"
        "  methods:\n"
        "    - saliency\n"
        "    - {name: gradcam, layer: nowhere}\n"  # 15
        "  metrics: [{name: relevance_mass, regions: lesoin}]\n"
        "  conditions:\n"
        "    - clean\n"
        "    - {name: pgd, eps: 0.02,\n"
        "       goal: invent covid}\n"  # 20
        "evaluate:\n"
        "  no_finding: norml\n"
        "  anatomy:\n"
        "    regions: [lesoin]\n"
    )
    several = "is for several findings an image; these images have one class each: take it out"
    expected = [
        f"p.yaml:7: train.finding_weights: batch {several}",
        f"p.yaml:7: train.finding_loss: sum {several}",
        f"p.yaml:10: attacks[1]: goal: 'hide covid' is for several findings an image; {USE_ANY}",
        "p.yaml:11: attacks[2]: art/FastGradientMethod: where none of several starts succeeds ART gives the clean image back;"
        " give num_random_init 0 or 1",
        "p.yaml:15: explain.methods[1]: gradcam: Normalised has no layer 'nowhere'; leave 'layer' out to take the last"
        " convolution",
        "p.yaml:16: explain.metrics[0]: relevance_mass: no regions of kind 'lesoin'; these images have: lesion, lung, marker",
        f"p.yaml:20: explain.conditions[1]: goal: 'invent covid' is for several findings an image; {USE_ANY}",
        "p.yaml:22: evaluate.no_finding: no class is called 'norml'; did you mean 'normal'?",
        "p.yaml:24: evaluate.anatomy.regions: the kind of region 'lesoin' is in no test image; did you mean 'lesion'?",
    ]
    assert refused(text) == expected


def test_each_region_of_a_list_has_its_own_line(refused):
    text = ONE + "evaluate:\n  anatomy:\n    regions:\n      - lung\n      - hearts\n      - shadows\n"
    where, have = "evaluate.anatomy.regions: the kind of region", "is in no test image; they have: lesion, lung, marker"
    assert refused(text) == [f"p.yaml:11: {where} 'hearts' {have}", f"p.yaml:12: {where} 'shadows' {have}"]


def test_a_class_is_no_kind_of_region_to_be_audited(refused):
    assert refused(ONE + "evaluate: {anatomy: {regions: [covid]}}\n") == [
        "p.yaml:7: evaluate.anatomy.regions: the kind of region 'covid' is a class, whose regions are not audited; they have:"
        " lesion, lung, marker"
    ]


def test_an_override_is_named_as_it_was_given(refused):
    assert refused(ONE, "evaluate.no_finding=norml") == [
        "--set evaluate.no_finding=norml: evaluate.no_finding: no class is called 'norml'; did you mean 'normal'?"
    ]


def test_a_fault_of_an_included_file_has_the_line_there(refused):
    Path("attacks.yaml").write_text("- {name: pgd, eps: 0.01}\n- {name: fgsm, eps: 0.01, goal: hide x}\n", encoding="utf-8")
    assert refused(ONE + "attacks: {file: attacks.yaml}\n") == [
        f"attacks.yaml:2: attacks[1]: goal: 'hide x' is for several findings an image; {USE_ANY}"
    ]


def test_settings_for_one_class_are_refused_of_findings_each_once(refused, findings):
    text = findings + (
        "train: {class_weights: balanced, label_smoothing: 0.1, select: {metric: accuracy}}\n"  # line 7
        "trainers:\n"
        "  - standard\n"
        "  - art/AdversarialTrainerTRADESPyTorch\n"  # 10
        "attacks:\n"
        "  - {name: art/SquareAttack, eps: 0.02}\n"
        "  - {name: pgd, eps: 0.02, goal: hide masses}\n"
        "explain: {methods: [saliency], target: label}\n"
    )
    lines = refused(text)
    assert lines[:3] == [
        f"p.yaml:7: train.select.metric: accuracy {OF_ONE} use loss, weighted_loss, auroc or last",
        f"p.yaml:7: train.class_weights: balanced {OF_ONE} take it out",
        f"p.yaml:7: train.label_smoothing: 0.1 {OF_ONE} take it out",
    ]
    assert lines[3].startswith("p.yaml:10: trainers[1]: art/AdversarialTrainerTRADESPyTorch: ")
    assert lines[3].endswith("is not defined for a multilabel task, only for multiclass")
    assert lines[4].startswith("p.yaml:12: attacks[0]: art/SquareAttack: cannot attack findings that can stand together")
    assert lines[5] == "p.yaml:13: attacks[1]: goal: 'hide masses': no finding is called 'masses'; they are effusion, mass"
    assert lines[6:] == [f"p.yaml:14: explain.target: 'label' {OF_ONE} use finding or predicted"]


def test_findings_that_no_image_has_a_region_of_are_refused_with_the_line_of_the_target(refused, findings):
    lines = refused(findings + "trainers: [standard]\nexplain:\n  methods: [saliency]\n  target: finding\n")
    assert lines == [
        "p.yaml:10: explain.target: 'finding' needs boxes or masks that are named like a class (effusion, mass); the images of"
        " test have: none; use label or predicted"
    ]


def test_a_network_that_cannot_be_built_hides_no_fault_of_the_others(refused):
    text = ONE.replace("[small_cnn]", "[small_cnn, inception_v3]") + "explain: {methods: [{name: gradcam, layer: nowhere}]}\n"
    first, second = refused(text)
    assert first.startswith("p.yaml:5: models[1]: inception_v3: cannot take images of 32 x 32 pixels")
    assert second.startswith("p.yaml:7: explain.methods[0]: gradcam: Normalised has no layer 'nowhere'; ")
    assert " (on " not in second  # on every network that could be built


def test_what_one_network_of_several_does_not_allow_names_it(refused, tmp_path):
    registry.register_file(written(tmp_path, "ModelBuilder", "def build(self, *, channels, classes, size):", FLAT))
    try:
        (line,) = refused(ONE.replace("[small_cnn]", "[small_cnn, mine]") + "explain: {methods: [saliency, gradcam]}\n")
    finally:
        registry.forget_files()
    assert line.startswith("p.yaml:7: explain.methods[1]: gradcam: ")
    assert line.endswith(" (on mine)")


def test_a_model_that_no_trainer_fits_is_refused_before_images_are_read(refused):
    text = ONE.replace("[small_cnn]", "[small_cnn, {name: small_cnn, label: other}]")
    assert refused(text.replace("[standard]", "[{name: standard, models: [small_cnn]}]")) == [
        "p.yaml:5: models[1]: no trainer fits 'other'; take it out, or name it in the 'models' of a trainer"
    ]


def test_a_plugin_that_fails_instead_of_refusing_is_one_line_without_a_traceback(refused, tmp_path):
    body = "return x[:, 0]\n\n    def check(self, model, x):\n        raise KeyError('no such thing\\nat all')"
    registry.register_file(written(tmp_path, "Explainer", "def explain(self, model, x, target):", body))
    try:
        assert refused(ONE + "explain: {methods: [saliency, mine]}\n") == [
            r"p.yaml:7: explain.methods[1]: mine: plugin.py:11: KeyError: 'no such thing\nat all'"
        ]
    finally:
        registry.forget_files()


def test_a_condition_needs_an_attack_with_the_settings_of_attacks(refused, tmp_path):
    body = "return x\n\n    class Params(cxr.Params):\n        eps: tuple[float, ...]"
    written(tmp_path, "Attack", "def perturb(self, classifier, x, y, *, eps, seed):", body)
    registry.register_file(tmp_path / "plugin.py")
    try:
        lines = refused(
            ONE + "attacks:\n  - {name: mine, eps: [0.1]}\nexplain:\n  methods: [saliency]\n  conditions:\n"
            "    - {name: mine, eps: [0.1]}\n"
        )
    finally:
        registry.forget_files()
    lacks = "mine has no 'norm'; its Params must extend cxr_eval.api.AttackParams"
    assert lines == [f"p.yaml:8: attacks[0]: {lacks}", f"p.yaml:12: explain.conditions[0]: {lacks}"]


@pytest.mark.parametrize("command", [["validate"], ["run", "--device", "cpu"], ["data", "check"]])
def test_the_commands_refuse_a_protocol_in_the_same_words(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    text = ONE.replace("[standard]", "[{name: standard, epsilon: 1}]") + "explain: {methods: [gradcm], references: [edgs]}\n"
    Path("p.yaml").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(main, [*command, "p.yaml"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "p.yaml:6: trainers[0]: standard has no setting 'epsilon'; it has no settings",
        "p.yaml:7: explain.methods[0]: no explainer 'gradcm'; did you mean 'gradcam'?",
        "p.yaml:7: explain.references: expected oracle, random, centre, edges, lungs, constant, randomised, got 'edgs'; did you"
        " mean 'edges'?",
    ]


def test_the_command_ends_with_the_lines_and_no_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(ONE + "evaluate: {no_finding: norml}\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["run", "p.yaml", "--device", "cpu", "--quiet"])
    assert result.exit_code == 2
    assert result.stderr == "p.yaml:7: evaluate.no_finding: no class is called 'norml'; did you mean 'normal'?\n"
