"""A finished network of one's own is evaluated as a run evaluates its own: from arrays, a checkpoint, or a protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import cxr_eval
from cxr_eval import registry
from cxr_eval.errors import CxrEvalError, DataError, PluginError, ProtocolError
from cxr_eval.own_images import own_images
from cxr_eval.own_network import fingerprint
from cxr_eval.protocol_file import load
from cxr_eval.runner import run

SIDE = 16
QUICK = {"evaluate.resamples": 100, "evaluate.validity": None, "data.audit.duplicates": False, "data.audit.probe": False}
CLASSES = ["normal", "ill"]


class Patch(torch.nn.Module):
    """Logits (0, scale x (mean of a patch - 0.4)): right on images whose patch is 0.1 brighter or darker than 0.4."""

    def __init__(self, scale: float = 50.0, softmax: bool = False) -> None:
        super().__init__()
        self.scale, self.softmax = scale, softmax
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lit = self.scale * self.weight * (x[:, 0, 4:8, 4:8].mean(dim=(1, 2)) - 0.4)
        logits = torch.stack([torch.zeros_like(lit), lit], dim=1)
        return logits.softmax(dim=1) if self.softmax else logits


def images(n: int = 40, channels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise of whole 8-bit levels; the patch is 0.3 for class 0 and 0.5 for class 1."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    levels = rng.integers(60, 160, size=(n, channels, SIDE, SIDE))
    levels[:, :, 4:8, 4:8] = np.where(y == 1, 128, 76)[:, None, None, None]
    return (levels / 255).astype(np.float32), y


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_EVAL_CACHE", str(folder))
        yield folder


def evaluate(model: Any, data: Any, out: Path | None, **given: Any) -> cxr_eval.RunResult:
    return cxr_eval.evaluate(model, data, **{"out": out, "device": "cpu", "quiet": True, "set": QUICK} | given)


def value(result: cxr_eval.RunResult, metric: str, condition: str = "clean", split: str = "test") -> float:
    rows = result.rows
    mine = rows[
        (rows["metric"] == metric) & (rows["condition"] == condition) & (rows["split"] == split) & (rows["subgroup"] == "")
    ]
    return float(mine["value"].item())


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    test, val, other = images(40), images(20, seed=1), images(20, seed=2)
    masks = np.zeros((40, SIDE, SIDE), dtype=bool)
    masks[test[1] == 1, 4:8, 4:8] = True
    patients = [f"p{k // 2}" for k in range(40)]
    return {
        "test": {"x": test[0], "y": test[1], "patient": patients, "sex": ["F", "M"] * 20, "masks": {"lesion": masks}},
        "val": {"x": val[0], "y": val[1], "patient": [f"v{k}" for k in range(20)]},
        "other clinic": other,
        "classes": CLASSES,
    }


@pytest.fixture(scope="module")
def patch(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> cxr_eval.RunResult:
    asked = {
        "attacks": [{"name": "fgsm", "eps": ["8/255", 0.15]}],
        "corruptions": [{"name": "gaussian_noise", "severity": 1}],
        "explain": {"methods": ["saliency"], "metrics": ["relevance_mass"], "images": 6, "references": ["random"]},
    }
    return evaluate(Patch(), given, tmp_path_factory.mktemp("patch") / "run", protocol=asked, name="patch reader")


def test_its_scores_are_those_that_follow_from_its_logits(patch: cxr_eval.RunResult, given: dict[str, Any]) -> None:
    assert value(patch, "accuracy") == 1.0
    assert value(patch, "accuracy", split="other clinic") == 1.0
    # FGSM moves each pixel of the patch by the radius: |0.5 - 0.4| and |0.3 - 0.4| are 0.1, above 8/255 and below 0.15
    assert value(patch, "robust_accuracy", "fgsm:8/255") == 1.0
    assert value(patch, "robust_accuracy", "fgsm:0.15") == 0.0
    # saliency of a mean over the patch is the same in all its pixels and 0 elsewhere
    assert value_of_maps(patch) == pytest.approx(1.0)


def value_of_maps(result: cxr_eval.RunResult) -> float:
    rows = result.rows
    return float(rows[(rows["metric"] == "relevance_mass[lesion]") & (rows["explainer"] == "saliency")]["value"].item())


def test_the_network_sees_the_images_bit_for_bit(given: dict[str, Any], tmp_path: Path) -> None:
    seen: set[bytes] = set()

    class Watched(Patch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.update(picture.numpy().tobytes() for picture in x.detach())
            return super().forward(x)

    data = {"test": given["test"], "val": given["val"], "classes": CLASSES}
    evaluate(Watched(), data, tmp_path / "run", protocol={})
    for part in ("test", "val"):
        assert {picture.tobytes() for picture in given[part]["x"]} <= seen


def test_patients_and_subgroups_are_those_given(patch: cxr_eval.RunResult) -> None:
    splits = patch.manifest["data"]["splits"]
    assert {name: about["patients"] for name, about in splits.items()} == {
        "train": 0,
        "val": 20,
        "test": 20,
        "other clinic": 20,
    }
    assert {"sex=F", "sex=M"} <= set(patch.rows["subgroup"])
    assert "val_from_test" not in set(patch.warnings["code"])


def test_nothing_is_said_to_be_trained(patch: cxr_eval.RunResult) -> None:
    (cell,) = patch.manifest["cells"]
    assert (cell["model"], cell["trainer"], cell["epochs"]) == ("patch reader", "as given", 0)
    assert patch.history.empty
    assert "one_seed" not in set(patch.warnings["code"])


def test_the_caller_keeps_the_network_as_it_was(given: dict[str, Any], tmp_path: Path) -> None:
    network = Patch().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluate(network, {"test": given["test"], "classes": CLASSES}, tmp_path / "run")
    assert network.training
    assert network.weight.requires_grad
    assert network.weight.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert "own_network" not in registry.installed("models")


def test_without_validation_images_some_test_patients_are_set_apart_and_a_note_says_so(
    given: dict[str, Any], tmp_path: Path
) -> None:
    result = evaluate(Patch(), {"test": given["test"], "classes": CLASSES}, tmp_path / "run")
    splits = result.manifest["data"]["splits"]
    # two images a patient, one of each class: 20 patients, 0.15 / (1 - 0.2) of them make 4
    assert (splits["val"]["patients"], splits["test"]["patients"]) == (4, 16)
    note = result.warnings.set_index("code").loc["val_from_test", "message"]
    assert note == (
        "The dataset has no validation images; 8 of its 40 test images (whole patients) were set apart for thresholds, and"
        " nothing is tested on them."
    )
    assert set(result.rows.query("split == 'val'")["metric"].str.partition("[")[0]) == {"threshold"}


def test_without_a_protocol_quick_attacks_are_made_at_two_radii_and_masks_are_looked_for(
    given: dict[str, Any], tmp_path: Path
) -> None:
    result = evaluate(Patch(), {"test": given["test"], "classes": CLASSES}, tmp_path / "run")
    conditions = set(result.rows.query("metric == 'robust_accuracy'")["condition"])
    assert {"quick:4/255", "quick:8/255"} <= conditions
    assert {"relevance_mass[lesion]", "pointing_game[lesion]"} <= set(result.rows["metric"])


def test_a_network_that_ends_in_a_softmax_is_caught_by_the_checks(given: dict[str, Any], tmp_path: Path) -> None:
    sets = {**QUICK, "evaluate.validity": {"images": 8, "steps": 4}}
    asked = {"attacks": [{"name": "fgsm", "eps": "8/255"}]}
    result = evaluate(
        Patch(2000, softmax=True), {"test": given["test"], "classes": CLASSES}, tmp_path / "run", protocol=asked, set=sets
    )
    assert "FAIL" in set(result.checks["verdict"])
    assert "fail" in set(result.warnings["level"])


def test_the_same_network_is_not_computed_again_and_another_one_is(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"attacks": [{"name": "fgsm", "eps": "8/255"}]}
    data = {"test": given["test"], "classes": CLASSES}
    first = evaluate(Patch(), data, tmp_path / "run", protocol=asked)
    kept = {path: path.stat().st_mtime_ns for path in first.folder.glob("cells/*/*/done.json")}
    assert kept
    evaluate(Patch(), data, tmp_path / "run", protocol=asked)
    assert {path: path.stat().st_mtime_ns for path in first.folder.glob("cells/*/*/done.json")} == kept
    evaluate(Patch(scale=60.0), data, tmp_path / "run", protocol=asked)  # a plain number, in no weight and no name
    assert len(list(first.folder.glob("cells/*"))) == 2


def test_two_networks_get_two_run_folders(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"test": given["test"], "classes": CLASSES}
    folders = [evaluate(Patch(scale), data, None, protocol={}, name="patch reader").folder for scale in (50.0, 60.0)]
    assert len(set(folders)) == 2
    assert all(re.fullmatch(r"runs/patch-reader-[0-9a-f]{8}", str(folder)) for folder in folders)


def test_what_makes_networks_differ_is_in_the_fingerprint() -> None:
    shape = (1, SIDE, SIDE)
    heavier = Patch()
    with torch.no_grad():
        heavier.weight.fill_(1.5)
    prints = [fingerprint(network, shape) for network in (Patch(), Patch(), Patch(60.0), Patch(softmax=True), heavier)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_tied_weights_are_kept(given: dict[str, Any], tmp_path: Path) -> None:
    class Tied(Patch):
        def __init__(self) -> None:
            super().__init__()
            self.twin = self.weight

    result = evaluate(Tied(), {"test": given["test"], "classes": CLASSES}, tmp_path / "run", protocol={})
    assert value(result, "accuracy") == 1.0


def test_one_logit_stands_for_two_classes(given: dict[str, Any], tmp_path: Path) -> None:
    class One(Patch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[:, 1:]

    result = evaluate(One(), {"test": given["test"], "classes": CLASSES}, tmp_path / "run", protocol={})
    assert value(result, "accuracy") == 1.0


def test_findings_some_of_them_unknown_are_scored_each_for_itself(tmp_path: Path) -> None:
    x, y = images(60)
    findings = np.stack([y, 1 - y], axis=1).astype(np.float32)
    findings[::7, 0] = np.nan

    class Two(Patch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lit = super().forward(x)[:, 1]
            return torch.stack([lit, -lit], dim=1)

    data = {"test": (x, findings), "classes": ["Effusion", "Mass"]}
    result = evaluate(Two(), data, tmp_path / "run", protocol={})
    assert result.manifest["task"] == "multilabel"
    assert value(result, "auroc[Effusion]") == 1.0
    assert value(result, "auroc[Mass]") == 1.0


def test_colour_images_are_kept_bit_for_bit(tmp_path: Path) -> None:
    x, y = images(40, channels=3)
    x[:, 1] = np.flip(x[:, 1], axis=-1)
    own = own_images({"test": (x, y)}, outputs=2, cache=tmp_path)
    assert own.data["channels"] == 3
    picture = np.asarray(Image.open(Path(own.data["train"]["root"]) / "main/test/000003.png"))
    np.testing.assert_array_equal(picture.astype(np.float32) / np.float32(255), np.moveaxis(x[3], 0, -1))


@pytest.mark.parametrize(
    ("levels", "dtype", "noted"), [(255, np.uint8, False), (65535, np.uint16, False), (100_000, np.uint16, True)]
)
def test_grey_values_keep_their_bits_or_a_note_says_that_they_were_rounded(
    levels: int, dtype: type, noted: bool, tmp_path: Path
) -> None:
    whole = np.random.default_rng(0).integers(0, levels, size=(8, 1, SIDE, SIDE))
    x = (whole / levels).astype(np.float32)
    own = own_images({"test": (x, np.arange(8) % 2)}, outputs=2, cache=tmp_path)
    picture = np.asarray(Image.open(Path(own.data["train"]["root"]) / "main/test/000000.png"))
    assert picture.dtype == dtype
    back = picture.astype(np.float32) / np.float32(np.iinfo(dtype).max)
    assert [doubt.code for doubt in own.doubts] == (["images_rounded"] if noted else [])
    assert np.abs(back - x[0, 0]).max() <= (1 / 131070 + 1e-7 if noted else 0)  # 1e-7: float32 near 1


def test_the_note_on_rounded_images_is_stored_with_the_run(tmp_path: Path) -> None:
    x, y = images(40)
    x[:, :, 0, 0] = 0.123456
    result = evaluate(Patch(), {"test": (x, y)}, tmp_path / "run", protocol={})
    note = result.warnings.set_index("code").loc["images_rounded"]
    assert (note["level"], note["scope"]) == ("note", "test")
    assert note["message"].startswith("The given images were rounded to 16 bits, which changes a pixel by at most 1/131070;")


def test_unsigned_bytes_and_tensors_are_taken_too(tmp_path: Path) -> None:
    x, y = images(40)
    as_bytes = own_images({"test": (np.rint(x * 255).astype(np.uint8), y)}, outputs=2, cache=tmp_path)
    as_tensor = own_images({"test": (torch.from_numpy(x), torch.from_numpy(y))}, outputs=2, cache=tmp_path)
    assert as_bytes.data == as_tensor.data == own_images({"test": (x, y)}, outputs=2, cache=tmp_path).data


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    x, y = images(40)
    classes = ["<script>alert(1)</script>", 'a "b", c;\nd']
    data = {"test": {"x": x, "y": y, "patient": [f"../../{k},\n" for k in range(40)]}, "classes": classes}
    result = evaluate(Patch(), data, tmp_path / "run", protocol={}, name="<b>ü</b>".replace("/", "_"))
    assert result.manifest["data"]["classes"] == classes
    assert value(result, "accuracy") == 1.0
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "<b>ü" not in page


X, Y = images(8)
PART: dict[str, Any] = {"x": X, "y": Y}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "data: expected a set 'test' as (x, y), or a data section with train: {reader: ...}; got nothing"),
        ({"tests": (X, Y)}, "got tests; did you mean 'test'?"),
        ({"test": (X, Y), "validation": (X, Y)}, "a set called 'validation' would be an outside test set; did you mean 'val'?"),
        (
            {"test": (X, Y), "patients": list(range(8))},
            "data.patients: belongs to one set: {'test': {'x': ..., 'y': ..., 'patient': ...}}",
        ),
        ({"test": (X, Y), "other": X}, "data.other: expected (x, y) or a dict with x and y, got ndarray"),
        ({"test": PART | {"gender": "F"}}, "data.test: nothing is called 'gender'"),
        ({"test": (X[0], Y)}, "data.test: x: expected square images (N, C, S, S) with 1 or 3 channels, got shape (1, 16, 16)"),
        ({"test": (X[:, :, 1:], Y)}, "expected square images (N, C, S, S) with 1 or 3 channels, got shape (8, 1, 15, 16)"),
        ({"test": (X * 255, Y)}, "x: expected floats in [0, 1] or uint8, got float32 from"),
        ({"test": (X - 0.5, Y)}, "the network's own normalisation belongs inside it"),
        ({"test": (np.where(X > 0.5, np.nan, X), Y)}, "x: expected floats in [0, 1] or uint8, got float32 from nan to nan"),
        (
            {"test": (np.random.default_rng(0).random((8, 3, 16, 16)), Y)},
            "colours are stored in 8 bits, and these have other values",
        ),
        ({"test": (X, Y[:5])}, "data.test: 8 images but 5 labels"),
        ({"test": (X, Y + 1)}, "data.test: y: expected class numbers 0 to 1, got 1 to 2"),
        ({"test": (X, Y - 0.5)}, "data.test: y: expected class numbers 0 to 1, got -0.5 to 0.5"),
        ({"test": (X, Y.reshape(2, 2, 2))}, "data.test: 8 images but 2 labels"),
        ({"test": (X, np.eye(3)[Y])}, "data.test: y: 3 findings for a network with 2 outputs"),
        ({"test": (X, np.eye(2)[Y] * 2)}, "data.test: y: expected 0, 1 or NaN (unknown) for each finding"),
        (
            {"test": (X, ["a", "b"] * 4)},
            "data.test: y holds names; give 'classes', their names in the order of the network's 2 outputs",
        ),
        (
            {"test": (X, ["ill", "norml"] * 4), "classes": CLASSES},
            "y: 'norml' is not one of normal, ill; did you mean 'normal'?",
        ),
        ({"test": (X, Y), "classes": ["a", "b", "c"]}, "data.classes: 3 names for a network with 2 outputs"),
        ({"test": (X, Y), "classes": ["a", "n/a"]}, "data.classes: 'n/a' cannot be a name"),
        ({"test": (X, Y), "classes": ["a", "a"]}, "data.classes: 'a' cannot be a name: it must differ from the others"),
        ({"test": PART | {"patient": [1, 2]}}, "data.test: patient: 2 values for 8 images"),
        ({"test": PART | {"masks": X}}, "data.test: masks: expected {KIND: array} such as {'lesion': ...}"),
        ({"test": PART | {"masks": {"lung": X}}}, "data.test: masks.lung: expected shape (8, 16, 16), got (8, 1, 16, 16)"),
        (
            {"test": PART | {"patient": list(range(8))}, "val": (X, Y)},
            "data.val: has no 'patient', but test has; give both or none",
        ),
        ({"test": (X, Y), "val": (X[:, :, :8, :8], Y)}, "all sets must have images of one size, got test 16 x 16, val 8 x 8"),
        (42, "data: expected a dict or the path of a YAML file, got int"),
    ],
)
def test_data_that_is_not_as_it_must_be_is_refused_in_words(data: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(said)) as refusal:
        evaluate(Patch(), data, tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


class Odd(torch.nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer(x)


class Extra(Patch):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_a_network_that_cannot_be_evaluated_is_refused_in_words(tmp_path: Path) -> None:
    def refusal(model: Any, **given: Any) -> str:
        with pytest.raises(CxrEvalError) as refused:
            evaluate(model, {"test": (X, Y)}, tmp_path / "run", **given)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert refusal(Odd(lambda x: x)) == "Odd: expected logits (1, K) for one image, got shape (1, 1, 16, 16)"
    assert refusal(Odd(lambda x: {"logits": x})) == "Odd: expected logits (1, K) for one image, got dict"
    said = refusal(torch.nn.Conv2d(3, 2, 16))
    assert said.startswith("Conv2d: cannot take images (1, 1, 16, 16): RuntimeError: ")
    assert refusal(len) == "model: expected a torch.nn.Module or the path of a checkpoint, got builtin_function_or_method"
    assert refusal(Extra()) == "Extra: its state_dict holds '_extra_state', which is no tensor and cannot be stored"
    assert refusal(Patch(), build=Patch) == "build: is for a checkpoint; the model is a network already, leave build out"
    assert refusal(Patch(), name="a/b").startswith("protocol: models[0].label: ")


def test_a_protocol_of_unknown_words_is_refused_and_a_whole_one_lends_what_it_asks(
    given: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ProtocolError, match=r"^protocol: nothing is called 'atacks'; did you mean 'attacks'\?$"):
        evaluate(Patch(), {"test": (X, Y)}, tmp_path / "run", protocol={"atacks": []})
    with pytest.raises(ProtocolError, match=r"^protocol: attacks\[0\]: no attack 'fgsmm'; did you mean 'fgsm'\?$"):
        evaluate(Patch(), given, tmp_path / "run", protocol={"attacks": ["fgsmm"]})
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: study\nmodels: [resnet18]\ntrainers: [standard]\nattacks: [{name: fgsm, eps: 8/255}]\n", encoding="utf-8"
    )
    result = evaluate(Patch(), given, tmp_path / "run", protocol=file)
    assert result.manifest["name"] == "study"
    assert [model["label"] for model in result.manifest["models"]] == ["model"]
    assert "fgsm:8/255" in set(result.rows["condition"])


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt"])
def test_a_checkpoint_gives_the_numbers_of_its_network(ending: str, given: dict[str, Any], tmp_path: Path) -> None:
    with torch.no_grad():
        (trained := Patch()).weight.fill_(-1.0)  # always wrong, as no fresh one is
    path = tmp_path / f"weights{ending}"
    state = {f"module.{name}": tensor for name, tensor in trained.state_dict().items()}
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if ending == ".pt" else state, path)
    result = evaluate(path, {"test": given["test"], "classes": CLASSES}, tmp_path / "run", protocol={}, build=Patch)
    assert value(result, "accuracy") == 0.0


def test_a_checkpoint_that_does_not_fit_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"

    def refusal(state: Mapping[str, Any] | None, **given: Any) -> str:
        if state is not None:
            torch.save(state, path)
        with pytest.raises(PluginError) as refused:
            evaluate(path, {"test": (X, Y)}, tmp_path / "run", **given)
        return str(refused.value).removeprefix(f"{path}: ")

    assert refusal(None, build=Patch) == "no such weights file; check the setting 'weights'"
    needs = "a checkpoint holds weights only; give build=, a function that returns the network for them"
    assert refusal({"weight": torch.ones(1)}) == needs
    fit = "these weights do not fit the network of build: "
    assert refusal({"wait": torch.ones(1)}, build=Patch) == (
        f"{fit}1 missing (first: weight), 1 not in the network (first: wait)"
    )
    assert refusal({"weight": torch.ones(2)}, build=Patch) == f"{fit}1 of another shape (first: weight)"
    assert refusal({"weights": 1}, build=Patch).startswith("expected a flat table of tensors, got a table with 'weights'")
    assert refusal({"weight": torch.ones(1)}, build=lambda: None).endswith("expected a torch.nn.Module, got NoneType")


PHANTOM: dict[str, Any] = {
    "train": {"reader": "phantom", "patients": 40, "size": 48},
    "size": 48,
    "audit": {"duplicates": False, "probe": False},
}
STUDY: dict[str, Any] = {
    "name": "finished",
    "data": PHANTOM,
    "trainers": ["none"],
    "attacks": [{"name": "fgsm", "eps": "8/255"}],
    "evaluate": {"resamples": 100, "validity": None, "anatomy": None},
}


def small_cnn() -> torch.nn.Module:
    torch.manual_seed(1)
    return registry.find("models", "small_cnn")().build(channels=1, classes=3, size=48)


def test_a_data_section_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({"data": PHANTOM}), encoding="utf-8")
    result = evaluate(small_cnn(), file, tmp_path / "run", protocol={"evaluate": {"validity": None, "anatomy": None}})
    assert result.manifest["drawn"] is True
    assert result.manifest["data"]["splits"]["test"]["images"] > 0


def test_weights_in_a_protocol_are_evaluated_without_training(tmp_path: Path) -> None:
    from torchvision import models as networks

    torch.manual_seed(0)
    network = networks.resnet18(num_classes=3)
    torch.save(network.state_dict(), tmp_path / "file.pth")
    study = STUDY | {"models": [{"name": "resnet18", "weights": str(tmp_path / "file.pth")}], "attacks": []}
    outcome = run(load(study), out=tmp_path / "run", device="cpu")
    assert outcome.failed == ()
    result = cxr_eval.open(outcome.folder)
    assert result.manifest["cells"][0]["epochs"] == 0
    assert result.table("accuracy").shape == (1, 1)


def test_a_network_with_layers_drawn_by_lot_is_refused_before_anything_runs(tmp_path: Path) -> None:
    from torchvision import models as networks

    torch.save(networks.resnet18(num_classes=7).state_dict(), tmp_path / "seven.pth")

    def refusal(model: Any) -> str:
        with pytest.raises(ProtocolError) as refused:
            run(load(STUDY | {"models": [model]}), out=tmp_path / "run", device="cpu")
        return str(refused.value)

    cure = "drawn by lot, and 'none' trains nothing; give 'weights', a file of this network with a head for these 3 classes"
    assert refusal("small_cnn") == f"protocol: models[0]: small_cnn: 0.weight and 5 more of 12 tensors are {cure}"
    seven = {"name": "resnet18", "weights": str(tmp_path / "seven.pth")}
    assert refusal(seven) == f"protocol: models[0]: resnet18: fc.weight and 1 more of 124 tensors are {cure}"
    assert not (tmp_path / "run" / "cells").exists()


def test_a_table_without_splits_is_all_tested_but_for_validation_where_nothing_is_trained(tmp_path: Path) -> None:
    x, y = images(40)
    for row, picture in enumerate(x):
        Image.fromarray(np.rint(picture[0] * 255).astype(np.uint8)).save(tmp_path / f"{row}.png")
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(40)], "label": y.astype(str), "patient": range(40)})
    table.to_csv(tmp_path / "labels.csv", index=False)
    data = {"train": {"reader": "table", "root": str(tmp_path)}, "size": SIDE}
    result = evaluate(Patch(), data, tmp_path / "run", protocol={})
    splits = {name: about["images"] for name, about in result.manifest["data"]["splits"].items()}
    assert splits == {"train": 0, "val": 6, "test": 34}  # 0.15 of 40
    assert value(result, "accuracy") == 1.0


def test_a_finished_network_may_stand_beside_trained_ones_and_be_their_start(tmp_path: Path) -> None:
    network = small_cnn()
    torch.save(network.state_dict(), tmp_path / "start.pth")
    plugin = tmp_path / "kept.py"
    plugin.write_text(
        "import torch\nimport cxr_eval.api as cxr\n\n\nclass KeptModel(cxr.ModelBuilder):\n    source = 'a file'\n\n"
        "    class Params(cxr.Params):\n        weights: str\n\n"
        "    def build(self, *, channels, classes, size):\n"
        "        from cxr_eval.registry import find\n\n"
        "        net = find('models', 'small_cnn')().build(channels=channels, classes=classes, size=size)\n"
        "        net.load_state_dict(torch.load(self.params.weights, weights_only=True))\n        return net\n",
        encoding="utf-8",
    )
    registry.register_file(plugin)
    try:
        study = STUDY | {
            "models": [{"name": "kept", "weights": str(tmp_path / "start.pth")}],
            "train": {"epochs": 1},
            "trainers": ["none", {"name": "standard", "warm_start": "none"}],
        }
        outcome = run(load(study), out=tmp_path / "run", device="cpu")
    finally:
        registry.forget_files()
    result = cxr_eval.open(outcome.folder)
    assert [(cell["trainer"], cell["epochs"]) for cell in result.manifest["cells"]] == [("none", 0), ("standard", 1)]
    assert set(result.history["trainer"]) == {"standard"}
    assert len(result.differences) > 0


def test_the_readmes_line_runs(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- evaluate -->\n```python\n(.*?)```\n<!-- end -->", page, re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"cxr_eval": cxr_eval, "model": Patch(), "x": given["test"]["x"], "y": given["test"]["y"]}
    exec(block.group(1), names)
    assert names["result"].folder.is_relative_to("runs")
    assert "my network" in set(names["result"].rows["model"])


@pytest.mark.slow
def test_with_every_default_doubts_are_looked_for_without_training_images(given: dict[str, Any], tmp_path: Path) -> None:
    test, val = (given[name] | {"site": ["a", "b"] * (len(given[name]["y"]) // 2)} for name in ("test", "val"))
    result = evaluate(
        Patch(), {"test": test, "val": val, "classes": CLASSES}, tmp_path / "run", set={"evaluate.resamples": 100}
    )
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert len(result.checks) > 10
    assert "source_is_label" not in set(result.warnings["code"])  # it is about what a network may learn in training
    assert "training images of" not in page
    assert value(result, "accuracy") == 1.0
