"""timm's networks: shapes, normalisation, weights, and what is said without timm or without a network."""

import importlib.util
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from click.testing import CliRunner

import cxr_eval.api as cxr
from cxr_eval import registry
from cxr_eval.cli import main
from cxr_eval.models.timm_zoo import Timm
from cxr_eval.models.weights import Normalised

timm = pytest.importorskip("timm")

KERAS = {"legacy_xception": 64, "resnetv2_50": 32, "tf_efficientnetv2_b0": 32, "inception_resnet_v2": 75, "nasnetalarge": 64}
"""Families of Keras that torchvision lacks, at a small size that they take."""


def build(name: str, *, channels: int = 1, size: int = 64, classes: int = 3, **settings: object) -> Normalised:
    torch.manual_seed(0)
    net = Timm.member(name)(**settings).build(channels=channels, classes=classes, size=size)
    assert isinstance(net, Normalised)
    return net


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize("channels", [1, 3])
def test_families_of_keras_take_one_and_three_channels_and_work_on_copies(name: str, channels: int) -> None:
    net = build(name, channels=channels, size=KERAS[name])
    assert net.training
    assert not any(getattr(part, "inplace", False) for part in net.modules())
    assert net(torch.rand(2, channels, KERAS[name], KERAS[name])).shape == (2, 3)


def test_normalisation_is_what_timms_weights_expect() -> None:
    assert build("legacy_xception", channels=3).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    efficient = build("tf_efficientnetv2_b0", channels=3)
    assert efficient.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert efficient.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert build("tf_efficientnetv2_b0", channels=1).mean.item() == pytest.approx(0.449)


def test_it_is_timms_network_behind_the_normalisation() -> None:
    net = build("tf_efficientnetv2_b0", channels=3).eval()
    theirs = timm.create_model("tf_efficientnetv2_b0", num_classes=3).eval()
    theirs.load_state_dict(net.net.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(
            (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        )
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_a_transformer_of_one_size_is_made_for_the_images() -> None:
    assert build("vit_tiny_patch16_224", size=32)(torch.rand(2, 1, 32, 32)).shape == (2, 3)


def test_members_are_timms_names_behind_the_familys() -> None:
    assert set(KERAS) <= set(Timm.names())
    assert registry.find("models", "timm/resnetv2_50") is Timm.member("resnetv2_50")
    assert registry.origin("models", "timm/resnetv2_50").endswith(f", timm {timm.__version__}")
    assert registry.find("models", "resnet18") is not Timm.member("resnet18")  # a bare name stays torchvision's


def test_importing_the_family_does_not_import_timm() -> None:
    code = "import sys, cxr_eval.models.timm_zoo; print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(KeyError):
        Timm.member("resnet19")
    with pytest.raises(cxr.PluginError, match=r"^no model 'timm/legacy_exception'; did you mean 'legacy_xception'\?$"):
        registry.find("models", "timm/legacy_exception")


@pytest.mark.parametrize(("name", "size"), [("inception_resnet_v2", 32), ("vit_tiny_patch16_224", 8)])
def test_a_size_that_a_network_cannot_take_is_refused_with_its_size(name: str, size: int) -> None:
    with pytest.raises(
        cxr.PluginError, match=rf"^timm/{name}: cannot take images of {size} x {size} pixels .*timm made it for \d+ pixels"
    ):
        build(name, size=size)


def test_a_network_that_gives_no_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = timm.create_model("resnetv2_18", num_classes=0, in_chans=1)
    monkeypatch.setattr(timm, "create_model", lambda name, **settings: net)
    with pytest.raises(
        cxr.PluginError, match=r"^timm/resnetv2_18: expected logits \(1, 3\), got \(1, 512\); take another network"
    ):
        build("resnetv2_18")


# weights


def test_a_weights_file_fills_everything_but_a_head_of_other_classes(tmp_path: Path) -> None:
    saved = build("resnetv2_18", channels=3, classes=10)
    with torch.no_grad():
        for weight in saved.parameters():
            weight.add_(1.0)
    torch.save(saved.net.state_dict(), tmp_path / "w.pth")
    net = build("resnetv2_18", channels=3, weights=str(tmp_path / "w.pth"))
    fresh = build("resnetv2_18", channels=3).net.state_dict()
    for name, value in net.net.state_dict().items():
        assert torch.equal(value, fresh[name] if name.startswith("head.fc.") else saved.net.state_dict()[name]), name
    grey = build("resnetv2_18", channels=1, weights=str(tmp_path / "w.pth"))
    stem = "stem.conv"
    assert torch.equal(grey.net.get_submodule(stem).weight, saved.net.get_submodule(stem).weight.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnetv2_50", "IMAGENET1K_V1", r"expected a weights file \(.*\) or pretrained, got 'IMAGENET1K_V1'"),
        ("resnetv2_50", "nowhere/w.pth", "no such weights file: nowhere/w.pth"),
        ("botnet50ts_256", "pretrained", "timm has no trained weights of botnet50ts_256; give a weights file or leave"),
    ],
)
def test_unknown_weights_are_refused_when_the_run_is_planned(name: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timm.member(name)(weights=weights)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network: every address that is asked for, in vain."""
    addresses: list[str] = []

    def fail(request: urllib.request.Request | str, *rest: object, **settings: object) -> None:
        addresses.append(request if isinstance(request, str) else request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr("torch.hub.urlopen", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return addresses


@pytest.mark.parametrize("name", ["resnetv2_50", "legacy_xception"])
def test_without_a_network_trained_weights_fail_at_once_with_what_to_do(
    name: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *place: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(cxr.PluginError) as caught:
        build(name, weights="pretrained")
    assert str(caught.value) == (
        f"timm/{name}: its trained weights cannot be downloaded (<urlopen error no route to host>); fetch them elsewhere and"
        " give the file's path as 'weights', or leave 'weights' out"
    )
    assert len(asked) == 1


def pretend(monkeypatch: pytest.MonkeyPatch, *, classes: int = 3) -> list[dict[str, object]]:
    """timm.create_model as it is called for trained weights, without a download."""
    calls: list[dict[str, object]] = []
    create = timm.create_model

    def created(name: str, **settings: object) -> torch.nn.Module:
        calls.append({"name": name, **settings})
        return create(name, **{**settings, "pretrained": False})

    monkeypatch.setattr(timm, "create_model", created)
    return calls


def test_trained_weights_kept_from_before_need_no_network(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *place: str(tmp_path / "model.safetensors"))
    calls = pretend(monkeypatch)
    build("resnetv2_50", channels=1, weights="pretrained")
    assert asked == []
    assert calls == [{"name": "resnetv2_50", "pretrained": True, "in_chans": 1, "num_classes": 3}]


def test_a_server_that_answers_with_an_error_is_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: urllib.request.Request, **settings: object) -> None:
        raise urllib.error.HTTPError(request.full_url, 405, "Method Not Allowed", SimpleNamespace(items=list), None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *place: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    calls = pretend(monkeypatch)
    build("resnetv2_50", weights="pretrained")
    assert calls[0]["pretrained"] is True


# without timm


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "timm" else found(name, *rest))


@pytest.mark.usefixtures("without_timm")
def test_without_timm_its_networks_are_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(cxr.PluginError) as caught:
        registry.find("models", "timm/resnetv2_50")
    assert str(caught.value) == "timm/resnetv2_50: timm is not installed; pip install 'cxr-eval[timm]'"


@pytest.mark.usefixtures("without_timm")
def test_without_timm_every_other_model_is_there() -> None:
    names = registry.names("models")
    assert {"resnet18", "small_cnn", "monai/DenseNet121"} <= set(names)
    assert not [name for name in names if name.startswith("timm")]
    listed = CliRunner().invoke(main, ["plugins", "list", "models"])
    assert listed.exit_code == 0
    described = CliRunner().invoke(main, ["plugins", "describe", "timm"])
    assert described.exit_code == 0
    assert "needs the extra: pip install 'cxr-eval[timm]'" in described.stdout
    one = CliRunner().invoke(main, ["plugins", "describe", "timm/resnetv2_50"])
    assert one.exit_code == 2
    assert one.stderr == "timm/resnetv2_50: timm is not installed; pip install 'cxr-eval[timm]'\n"
