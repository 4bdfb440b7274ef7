"""The truncated DenseNet-121: shapes of its maps, weights of the full one, images that it takes."""

import logging
from pathlib import Path

import pytest
import torch
from torchvision import models

import cxr_eval.api as cxr
from cxr_eval.models.truncated_densenet import TruncatedDenseNet121
from cxr_eval.models.weights import Normalised


def build(*, channels: int = 3, classes: int = 14, size: int = 64, **settings: object) -> Normalised:
    torch.manual_seed(0)
    net = TruncatedDenseNet121(**settings).build(channels=channels, classes=classes, size=size)
    assert isinstance(net, Normalised)
    return net


def full(classes: int = 1000) -> dict[str, torch.Tensor]:
    """Weights of torchvision's whole DenseNet-121, none of them as they are when new."""
    torch.manual_seed(1)
    net = models.densenet121(weights=None, num_classes=classes)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01)
    return net.state_dict()


def test_maps_have_the_sizes_of_the_two_blocks_that_are_kept() -> None:
    net, shapes = build(size=224).eval(), {}
    for name in ("denseblock1", "transition1", "denseblock2", "norm5"):
        net.net.features.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: shapes.__setitem__(name, tuple(output.shape[1:]))
        )
    with torch.no_grad():
        assert net(torch.rand(1, 3, 224, 224)).shape == (1, 14)
    # 224 / 2 / 2 = 56 and 64 + 6 x 32 = 256 channels; halved to 28 and 128; 128 + 12 x 32 = 512
    assert shapes == {
        "denseblock1": (256, 56, 56),
        "transition1": (128, 28, 28),
        "denseblock2": (512, 28, 28),
        "norm5": (512, 28, 28),
    }
    assert net.net.classifier.weight.shape == (14, 512)


def test_it_is_torchvisions_layers_one_after_the_other() -> None:
    state, x = full(), torch.rand(2, 3, 64, 64)
    net = build(classes=5).eval()
    theirs = models.densenet121(weights=None)
    theirs.load_state_dict(state)
    kept = {name: value for name, value in state.items() if name in net.net.state_dict() and "norm5" not in name}
    net.net.load_state_dict({name: value for name, value in kept.items() if "classifier" not in name}, strict=False)
    layers = dict(theirs.eval().features.named_children())
    with torch.no_grad():
        out = (x - net.mean) / net.std
        for name in ("conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1", "denseblock2"):
            out = layers[name](out)
        out = net.net.features.norm5(out).relu().mean(dim=(2, 3)) @ net.net.classifier.weight.T + net.net.classifier.bias
    torch.testing.assert_close(net(x), out, rtol=1e-4, atol=1e-5)


def test_weights_of_the_full_network_fill_what_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = full()
    torch.save(state, tmp_path / "full.pth")
    with caplog.at_level(logging.INFO):
        net = build(weights=str(tmp_path / "full.pth")).net
    fresh = build().net.state_dict()
    anew = ("features.norm5.", "classifier.")
    for name, value in net.state_dict().items():
        expected = fresh[name] if name.startswith(anew) else state[name]
        assert torch.equal(value, expected), name
    assert sum(not name.startswith(anew) for name in net.state_dict()) > 200
    assert (
        "features.denseblock3, features.denseblock4, features.transition2, features.transition3 are left out,"
        " features.norm5 starts anew"
    ) in caplog.text
    assert "the classification head classifier starts anew" in caplog.text


def test_a_stored_full_network_behind_its_normalisation_serves_too(tmp_path: Path) -> None:
    state = full()
    stored = {f"net.{name}": value for name, value in state.items()}
    stored |= {"mean": torch.full((3, 1, 1), 0.3), "std": torch.full((3, 1, 1), 0.2)}
    torch.save(stored, tmp_path / "full.pth")
    net = build(weights=str(tmp_path / "full.pth"))
    assert torch.equal(net.net.features.conv0.weight, state["features.conv0.weight"])
    assert net.mean.flatten().tolist() == pytest.approx([0.3] * 3)


def test_torchvisions_weights_by_name_are_those_of_the_full_network(monkeypatch: pytest.MonkeyPatch) -> None:
    state = full()
    monkeypatch.setattr(models.DenseNet121_Weights, "get_state_dict", lambda self, **settings: state)
    net = build(channels=1, weights="IMAGENET1K_V1").net
    assert torch.equal(
        net.features.denseblock2.denselayer12.conv2.weight, state["features.denseblock2.denselayer12.conv2.weight"]
    )
    assert torch.equal(net.features.conv0.weight, state["features.conv0.weight"].sum(dim=1, keepdim=True))


def test_its_own_file_brings_everything_back(tmp_path: Path) -> None:
    saved = build()
    with torch.no_grad():
        for weight in saved.parameters():
            weight.add_(1.0)
    torch.save(saved.state_dict(), tmp_path / "own.pth")
    net = build(weights=str(tmp_path / "own.pth"))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_file_that_lacks_a_kept_layer_is_refused(tmp_path: Path) -> None:
    state = full()
    del state["features.denseblock2.denselayer3.conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        cxr.PluginError, match=r"w\.pth: .* 1 missing \(first: features\.denseblock2\.denselayer3\.conv1\.weight"
    ):
        build(weights=str(tmp_path / "w.pth"))


def test_unknown_weights_are_refused_when_the_run_is_planned() -> None:
    with pytest.raises(ValueError, match=r"expected a weights file .* or one of IMAGENET1K_V1, DEFAULT, got 'IMAGENET'"):
        TruncatedDenseNet121(weights="IMAGENET")


def test_a_grey_image_is_answered_alike_in_one_and_three_channels() -> None:
    grey = torch.rand(2, 1, 64, 64)
    one, three = build(channels=1).eval(), build(channels=3).eval()
    three.mean.fill_(one.mean.item())
    three.std.fill_(one.std.item())
    with torch.no_grad():
        seen = one.net.features.conv0((grey - one.mean) / one.std)
        expected = three.net.features.conv0(((grey - one.mean) / one.std).expand(2, 3, 64, 64))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    assert one(grey).shape == (2, 14)


def test_images_that_vanish_on_the_way_are_refused() -> None:
    # 5 pixels: 3 after conv0, 2 after pool0, 1 after transition1; of 4 pixels nothing is left there
    assert build(size=5)(torch.rand(2, 3, 5, 5)).shape == (2, 14)
    with pytest.raises(
        cxr.PluginError, match=r"^truncated_densenet121: cannot take images of 4 x 4 pixels .*5 pixels at least"
    ):
        build(size=4)
