"""Networks by name: shapes, one channel, weights, messages."""

import logging
import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import safetensors.torch
import torch

import cxr_eval.api as cxr
from cxr_eval.models.weights import Normalised, first_conv, last_layer
from cxr_eval.models.zoo import Monai, Torchvision

SMALLEST = {
    "alexnet": 63,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 33,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_0": 21,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vit_b_32": 32,
    "wide_resnet50_2": 32,
}
"""One architecture a family, at a small size that it takes."""

MONAI = ["DenseNet121", "EfficientNetBN", "resnet10", "SEResNet50", "SEResNext50"]


def build(name: str, *, channels: int = 1, size: int = 32, classes: int = 3, **settings: object) -> Normalised:
    torch.manual_seed(0)
    net = Torchvision.member(name)(**settings).build(channels=channels, classes=classes, size=size)
    assert isinstance(net, Normalised)
    return net


def first_response(net: Normalised, x: torch.Tensor) -> torch.Tensor:
    """What the first convolution gives for images."""
    seen: list[torch.Tensor] = []
    hook = net.net.get_submodule(first_conv(net.net)).register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    with torch.no_grad():
        net.eval()(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", SMALLEST)
def test_every_family_takes_one_and_three_channels_and_a_grey_image_alike(name: str) -> None:
    size = SMALLEST[name]
    grey = torch.rand(2, 1, size, size)
    one, three = build(name, size=size, channels=1), build(name, size=size, channels=3)
    assert one.training
    assert one.eval()(grey).shape == three.eval()(grey.expand(2, 3, size, size)).shape == (2, 3)
    assert not any(getattr(part, "inplace", False) for part in one.modules())
    # the same normalisation for all three channels, as one channel has it
    three.mean.fill_(one.mean.item())
    three.std.fill_(one.std.item())
    expected = first_response(three, grey.expand(2, 3, size, size))
    # float32: up to 3 x 16 x 16 products summed in another order
    torch.testing.assert_close(first_response(one, grey), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_every_torchvision_classifier_is_offered_and_nothing_else() -> None:
    names = Torchvision.names()
    assert len(names) >= 80
    assert {"resnet18", "densenet121", "efficientnet_v2_s", "convnext_tiny"} <= set(names)
    assert not {"fcn_resnet50", "r3d_18", "fasterrcnn_resnet50_fpn"} & set(names)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("classes", [3, 14])
def test_networks_with_side_outputs_give_plain_logits_in_training_mode(name: str, classes: int) -> None:
    net = build(name, size=SMALLEST[name], classes=classes)
    assert net.train()(torch.rand(2, 1, SMALLEST[name], SMALLEST[name])).shape == (2, classes)
    assert not [part for part, _ in net.net.named_children() if part.lower().startswith("aux")]
    assert "Its side outputs" in (Torchvision.member(name).__doc__ or "")
    assert "side outputs" not in (Torchvision.member("resnet18").__doc__ or "")


def test_normalisation_is_what_the_architectures_weights_expect() -> None:
    assert build("resnet18", channels=3).mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert build("resnet18", channels=1).mean.item() == pytest.approx(0.449)
    assert build("resnet18", channels=1).std.item() == pytest.approx(0.226)
    assert build("googlenet", channels=3).mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_googlenet_is_normalised_as_torchvision_does_in_two_steps() -> None:
    from torchvision import models

    net = build("googlenet", channels=3)
    theirs = models.googlenet(weights=None, num_classes=3, aux_logits=False, init_weights=False, transform_input=True)
    theirs.load_state_dict(net.net.state_dict())
    x = torch.rand(2, 3, 32, 32)
    imagenet = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(net.eval()(x), theirs.eval()(imagenet), rtol=1e-4, atol=1e-6)


def test_the_same_seed_builds_the_same_weights() -> None:
    first, again = build("resnet18").state_dict(), build("resnet18").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "size"), [("inception_v3", 74), ("vit_b_32", 40), ("maxvit_t", 100), ("vgg11", 16), ("squeezenet1_0", 16)]
)
def test_a_size_that_the_architecture_cannot_take_is_refused_with_its_size(name: str, size: int) -> None:
    with pytest.raises(cxr.PluginError, match=rf"{name}: cannot take images of {size} x {size} pixels .*at least \d+ pixels"):
        build(name, size=size)


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Torchvision.member("resnet19")
    with pytest.raises(KeyError):
        Monai.member("UNet")


def test_importing_the_zoo_imports_neither_torchvision_nor_monai() -> None:
    code = "import sys, cxr_eval.models.zoo; print([n for n in ('torchvision.models', 'monai') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"


# weights


def test_a_weights_file_of_a_bare_network_fills_everything_but_a_head_of_other_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = build("resnet18", channels=3, classes=10)
    with torch.no_grad():
        for weight in saved.parameters():
            weight.add_(1.0)
    torch.save(saved.net.state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        net = build("resnet18", channels=3, classes=3, weights=str(tmp_path / "w.pth"))
    fresh = build("resnet18", channels=3, classes=3)
    for name, value in net.net.state_dict().items():
        expected = fresh.net.state_dict()[name] if name.startswith("fc.") else saved.net.state_dict()[name]
        assert torch.equal(value, expected), name
    assert "the classification head fc starts anew" in caplog.text


def test_a_file_of_a_whole_network_brings_head_and_normalisation_back(tmp_path: Path) -> None:
    saved = build("resnet18", classes=3)
    with torch.no_grad():
        saved.mean.fill_(0.3)
        saved.net.fc.bias.fill_(2.0)
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "w.safetensors")
    net = build("resnet18", classes=3, weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in net.state_dict().items())


def test_three_channel_weights_are_summed_for_one_channel(tmp_path: Path) -> None:
    saved = build("mobilenet_v2", channels=3)
    torch.save(saved.net.state_dict(), tmp_path / "w.pt")
    net = build("mobilenet_v2", channels=1, weights=str(tmp_path / "w.pt"))
    assert torch.equal(net.net.features[0][0].weight, saved.net.features[0][0].weight.sum(1, keepdim=True))


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_weights_of_another_architecture_are_refused_with_the_first_names(name: str, tmp_path: Path) -> None:
    torch.save(build("mobilenet_v2", channels=3).net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(cxr.PluginError, match=r"w\.pth: these weights do not fit .* missing \(first: .*unexpected \(first: "):
        build(name, channels=3, weights=str(tmp_path / "w.pth"))


def test_one_weight_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    state = build("resnet18", channels=3).net.state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 5, 5)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(cxr.PluginError, match=r"layer1\.0\.conv1\.weight, expected \(64, 64, 3, 3\), got \(64, 64, 5, 5\)"):
        build("resnet18", channels=3, weights=str(tmp_path / "w.pth"))


def test_one_missing_weight_outside_the_head_is_refused(tmp_path: Path) -> None:
    state = build("resnet18", channels=3).net.state_dict()
    del state["bn1.running_mean"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(cxr.PluginError, match=r"1 missing \(first: bn1\.running_mean\)"):
        build("resnet18", channels=3, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_side_outputs_in_a_weights_file_are_passed_over(name: str, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(1)
    state = models.get_model(name, weights=None, num_classes=3, aux_logits=True, init_weights=False).state_dict()
    assert [key for key in state if key.lower().startswith("aux")]
    for file, stored in (("bare", state), ("whole", {f"net.{key}": value for key, value in state.items()})):
        if file == "whole":
            stored |= {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.5)}
        torch.save(stored, tmp_path / f"{file}.pth")
        net = build(name, channels=3, size=SMALLEST[name], weights=str(tmp_path / f"{file}.pth"))
        assert all(torch.equal(value, state[key]) for key, value in net.net.state_dict().items())


def test_densenet_weights_with_the_names_of_2017_are_understood(tmp_path: Path) -> None:
    state = build("densenet121", channels=3).net.state_dict()
    old = {}
    for key, value in state.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if ".denselayer" in key:
                key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    net = build("densenet121", channels=3, weights=str(tmp_path / "w.pth"))
    assert all(torch.equal(value, state[key]) for key, value in net.net.state_dict().items())


def test_a_transformers_position_table_is_resized_to_the_images(tmp_path: Path) -> None:
    torch.save(build("vit_b_32", channels=3, size=64).net.state_dict(), tmp_path / "w.pth")
    net = build("vit_b_32", channels=3, size=96, weights=str(tmp_path / "w.pth"))
    assert net.net.encoder.pos_embedding.shape == (1, 10, 768)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not weights", "expected tensors of safetensors or torch.save"), (b"", "expected tensors of safetensors or torch.save")],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_weights_file_is_refused(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(cxr.PluginError, match=message):
        build("resnet18", weights=str(path))


def test_a_checkpoint_that_is_not_a_flat_table_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(cxr.PluginError, match=r"expected a flat table of tensors, got a table with 'state_dict', 'epoch'"):
        build("resnet18", weights=str(tmp_path / "w.pth"))


def test_code_in_a_weights_file_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    torch.save(Evil(), tmp_path / "w.pth")
    with pytest.raises(cxr.PluginError, match="UnpicklingError"):
        build("resnet18", weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "touched").exists()


def test_a_weights_file_that_vanished_after_planning_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"")
    builder = Torchvision.member("resnet18")(weights=str(path))
    path.unlink()
    with pytest.raises(cxr.PluginError, match=r"w\.pth: no such weights file"):
        builder.build(channels=1, classes=2, size=32)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("IMAGENET", "expected a weights file .* or one of IMAGENET1K_V1, DEFAULT, got 'IMAGENET'"),
        ("nowhere/w.pth", "no such weights file: nowhere/w.pth"),
    ],
)
def test_unknown_weights_are_refused_when_the_run_is_planned(weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Torchvision.member("resnet18")(weights=weights)


def test_vgg_weights_without_a_trained_classifier_are_not_offered() -> None:
    with pytest.raises(ValueError, match="IMAGENET1K_V1, DEFAULT, got 'IMAGENET1K_FEATURES'"):
        Torchvision.member("vgg16")(weights="IMAGENET1K_FEATURES")


def test_weights_by_name_are_put_in_and_their_head_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    stored = models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda self, **kw: stored)
    net = build("resnet18", channels=3, weights="IMAGENET1K_V1")
    assert torch.equal(net.net.conv1.weight, stored["conv1.weight"])
    assert net.net.fc.weight.shape == (3, 512)


def test_a_download_that_fails_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    def fail(self: object, **settings: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(
        cxr.PluginError, match=r"resnet18: weights DEFAULT cannot be downloaded .*no route.*fetch https://.*\.pth"
    ):
        build("resnet18", weights="DEFAULT")


@pytest.mark.real_data
def test_the_real_mobilenet_weights_give_their_origins_features(shared_data: Path) -> None:
    from torchvision import models

    path = shared_data / "weights" / "mobilenet_v2_imagenet_features.pth"
    net = build("mobilenet_v2", channels=3, size=224, weights=str(path)).eval()
    origin = models.mobilenet_v2(weights=None)
    missing = origin.load_state_dict(torch.load(path, weights_only=True), strict=False).missing_keys
    assert missing == ["classifier.1.weight", "classifier.1.bias"]
    x = torch.rand(2, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        ours, theirs = net.net.features((x - net.mean) / net.std), origin.eval().features((x - mean) / std)
    assert torch.equal(ours, theirs)
    assert ours.std() > 0.1  # trained features, not random ones that die out


@pytest.mark.real_data
def test_the_real_mobilenet_weights_see_a_grey_image_alike_in_one_and_three_channels(shared_data: Path) -> None:
    path = str(shared_data / "weights" / "mobilenet_v2_imagenet_features.pth")
    one, three = (build("mobilenet_v2", channels=channels, size=96, weights=path).eval() for channels in (1, 3))
    x = torch.rand(2, 1, 96, 96)
    three.mean.fill_(one.mean.item())
    three.std.fill_(one.std.item())
    with torch.no_grad():
        torch.testing.assert_close(one(x), three(x.expand(2, 3, 96, 96)), rtol=1e-4, atol=1e-5)  # 52 layers in float32


# MONAI


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MONAI)
def test_monai_networks_classify_2d_images(name: str, channels: int) -> None:
    net = Monai.member(name)().build(channels=channels, classes=3, size=32)
    out = net(torch.rand(2, channels, 32, 32))
    assert type(out) is torch.Tensor
    assert out.shape == (2, 3)


def test_every_listed_monai_network_is_there() -> None:
    from monai.networks import nets

    assert all(callable(getattr(nets, name)) for name in Monai.names())
    assert {"DenseNet121", "SEResNet50", "EfficientNetBN", "resnet18"} <= set(Monai.names())


def test_monais_resnet_starts_with_stride_2_as_in_the_paper_unless_told() -> None:
    strides = []
    for settings in ({}, {"conv1_t_stride": 1}):
        net = Monai.member("resnet10")(**settings).build(channels=1, classes=2, size=32)
        strides.append(net.get_submodule(first_conv(net)).stride)
    assert strides == [(2, 2), (1, 1)]


def test_monais_resnet18_has_the_weights_of_torchvisions() -> None:
    monai = Monai.member("resnet18")().build(channels=1, classes=3, size=32)
    shapes = {tuple(weight.shape) for name, weight in monai.named_parameters() if not name.endswith("bias")}
    assert shapes == {tuple(weight.shape) for name, weight in build("resnet18").named_parameters() if not name.endswith("bias")}


def test_monai_settings_reach_the_network_and_others_are_refused() -> None:
    net = Monai.member("DenseNet121")(dropout_prob=0.4).build(channels=1, classes=2, size=32)
    assert {part.p for part in net.modules() if isinstance(part, torch.nn.Dropout2d)} == {0.4}
    with pytest.raises(ValueError, match="pretrained"):
        Monai.member("DenseNet121")(pretrained=True)
    with pytest.raises(ValueError, match="efficientnet-b0"):
        Monai.member("EfficientNetBN")(model_name="efficientnet-b9")


def test_monai_loads_its_own_weights_and_refuses_names(tmp_path: Path) -> None:
    saved = Monai.member("resnet10")().build(channels=1, classes=3, size=32)
    torch.save(saved.state_dict(), tmp_path / "w.pth")
    net = Monai.member("resnet10")(weights=str(tmp_path / "w.pth")).build(channels=1, classes=3, size=32)
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match=r"expected a weights file .* got 'DEFAULT'"):
        Monai.member("resnet10")(weights="DEFAULT")


def test_a_size_that_a_monai_network_cannot_take_is_refused() -> None:
    with pytest.raises(cxr.PluginError, match="DenseNet121: cannot take images of 16 x 16 pixels"):
        Monai.member("DenseNet121")().build(channels=1, classes=2, size=16)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "fc"), ("squeezenet1_0", "classifier.1"), ("vit_b_32", "heads.head")])
def test_the_head_is_found_whatever_it_is_called(name: str, layer: str) -> None:
    assert last_layer(build(name).net) == layer
