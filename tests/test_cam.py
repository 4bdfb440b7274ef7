"""Class activation maps: their mean plus the bias is the logit, whatever the network's pooling is made of."""

import pytest
import torch
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.classifier import OneLogit
from cxr_eval.explain.cam import CAM
from cxr_eval.explain.methods import GradCAM
from cxr_eval.models.small_cnn import SmallCNN
from cxr_eval.models.timm_zoo import Timm
from cxr_eval.models.truncated_densenet import TruncatedDenseNet121
from cxr_eval.models.zoo import Monai, Torchvision

BUILDERS: dict[str, tuple[type[cxr.ModelBuilder], int]] = {
    "resnet18": (Torchvision.member("resnet18"), 64),
    "densenet121": (Torchvision.member("densenet121"), 64),
    "mobilenet_v2": (Torchvision.member("mobilenet_v2"), 64),
    "efficientnet_b0": (Torchvision.member("efficientnet_b0"), 64),
    "googlenet": (Torchvision.member("googlenet"), 64),
    "inception_v3": (Torchvision.member("inception_v3"), 128),
    "truncated_densenet121": (TruncatedDenseNet121, 32),
    "small_cnn": (SmallCNN, 32),
    "monai/DenseNet121": (Monai.member("DenseNet121"), 64),
    "monai/EfficientNetBN": (Monai.member("EfficientNetBN"), 64),
    "timm/tf_efficientnetv2_b0": (Timm.member("tf_efficientnetv2_b0"), 64),
}
"""Each at a size that is a whole multiple of its last map's: only then does bilinear enlargement keep the mean."""


def build(name: str, classes: int = 3) -> torch.nn.Module:
    """A network whose BatchNorm has seen something, so that no layer is the identity and no feature dies out."""
    builder, size = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = builder().build(channels=1, classes=classes, size=size)
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = None  # the plain average of what it sees
        with torch.no_grad():
            net.train()(torch.rand(4, 1, size, size))
            last_linear(net).bias.normal_()
    return net.eval()


def last_linear(net: torch.nn.Module) -> torch.nn.Linear:
    return [part for part in net.modules() if isinstance(part, torch.nn.Linear)][-1]


def images(name: str, count: int = 3) -> torch.Tensor:
    size = BUILDERS[name][1]
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", BUILDERS)
def test_mean_of_the_map_and_bias_make_the_logit(name: str) -> None:
    net, x, y = build(name), images(name), torch.tensor([2, 0, 1])
    CAM().check(net, x[:1])
    maps = CAM().explain(net, x, y)
    with torch.no_grad():
        logits = net(x).gather(1, y[:, None])[:, 0]
    assert maps.std(dim=(1, 2)).min() > 0
    # float32: sums over up to 2,048 channels
    torch.testing.assert_close(maps.mean(dim=(1, 2)) + last_linear(net).bias[y], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "truncated_densenet121"])
def test_an_image_has_the_same_map_alone(name: str) -> None:
    net, x, y = build(name), images(name), torch.tensor([2, 0, 1])
    together = CAM().explain(net, x, y)
    for index in range(len(x)):
        alone = CAM().explain(net, x[index : index + 1], y[index : index + 1])
        # one image and many take other convolution kernels
        torch.testing.assert_close(alone[0], together[index], rtol=1e-3, atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "small_cnn", "efficientnet_b0"])
def test_it_is_captums_grad_cam_without_relu_times_the_maps_area(name: str) -> None:
    net, x, y = build(name), images(name), torch.tensor([2, 0, 1])
    # the gradient of the mean over H x W places is w / (H W) at each of them
    area = 4 * 4 if name == "small_cnn" else 2 * 2
    layer = "net.10" if name == "small_cnn" else None  # the ReLU that the pooling reads; the last convolution stands before it
    theirs = GradCAM(relu=False, layer=layer or None).explain(net, x, y) * area
    torch.testing.assert_close(CAM().explain(net, x, y), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_by_hand() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 1, bias=False),
        torch.nn.ReLU(inplace=True),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(2, 2),
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        net[4].weight.copy_(torch.tensor([[1.0, 0.0], [3.0, -4.0]]))
    x = torch.tensor([[[[0.0, 0.5], [0.25, 1.0]]]])
    # A_1 = x, A_2 = 2 x; class 0: x; class 1: 3 x - 4 (2 x) = -5 x
    assert torch.equal(CAM().explain(net, x, torch.tensor([0])), x[:, 0])
    assert torch.equal(CAM().explain(net, x, torch.tensor([1])), -5 * x[:, 0])
    assert torch.equal(CAM(relu=True).explain(net, x, torch.tensor([1])), torch.zeros(1, 2, 2))
    assert (CAM().sign, CAM(relu=True).sign) == ("signed", "positive")


def test_a_network_with_one_logit_for_two_classes_is_explained_for_both() -> None:
    net, x = build("small_cnn", classes=1), images("small_cnn", 2)
    maps = {target: CAM().explain(OneLogit(net), x, torch.full((2,), target)) for target in (0, 1)}
    # logits (-z/2, z/2): half of z's own map, with both signs
    torch.testing.assert_close(maps[1], CAM().explain(net, x, torch.zeros(2, dtype=torch.int64)) / 2)
    assert torch.equal(maps[0], -maps[1])


class Called(torch.nn.Module):
    """Convolution and head; everything between are calls, no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(1, 3, 3), torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.relu(self.conv(x), inplace=True).mean(dim=(2, 3)))


def test_relu_and_pooling_may_be_calls_and_not_layers() -> None:
    torch.manual_seed(0)
    net, x, y = Called(), torch.rand(2, 1, 6, 6), torch.tensor([0, 1])
    cam = torch.einsum("nc,nchw->nhw", net.head.weight[y], net.conv(x).relu())
    expected = functional.interpolate(cam[:, None], size=(6, 6), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(CAM().explain(net, x, y), expected.detach())


def test_a_black_image_does_not_mislead_it() -> None:
    net = build("small_cnn")
    with torch.no_grad():
        net.mean.zero_()  # without offsets all features of a black image are zero, and every map's mean is the head's input
    black, x, y = torch.zeros(1, 1, 32, 32), images("small_cnn", 1), torch.tensor([1, 1])
    together = CAM().explain(net, torch.cat((black, x)), y)
    assert torch.equal(together[0], torch.zeros(32, 32))
    torch.testing.assert_close(together[1:], CAM().explain(net, x, y[:1]))


class Doubled(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * 2


class Tokens(torch.nn.Module):
    """A linear layer on each place, then the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(2).mT)


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (Torchvision.member("squeezenet1_0")().build(channels=1, classes=2, size=32), "runs no linear layer; use gradcam"),
        (
            Torchvision.member("mobilenet_v3_small")().build(channels=1, classes=2, size=32),
            "gives its last linear layer 1024 values that are no feature map's spatial means; use gradcam",
        ),
        (
            Torchvision.member("resnet18")().build(channels=1, classes=2, size=32),
            "gives its last linear layer a 1 x 1 map: images of 32 x 32 pixels are too small for it, or a layer follows the"
            " pooling; raise data.size or use gradcam",
        ),
        (Doubled(Called()), "changes what its last linear layer puts out; use gradcam"),
        (Tokens(), "gives its last linear layer 3 axes; use gradcam"),
    ],
    ids=["no linear", "hidden layer", "too small", "scaled", "tokens"],
)
def test_a_network_without_such_a_head_is_refused_with_what_it_has_instead(net: torch.nn.Module, found: str) -> None:
    x = torch.rand(1, 1, 32, 32)
    with pytest.raises(cxr.PluginError) as caught:
        CAM().check(net, x)
    expected = "cam: expected logits that are one linear layer of a globally average-pooled feature map, but this network "
    assert str(caught.value) == expected + found
    with pytest.raises(cxr.PluginError):
        CAM().explain(net, x, torch.tensor([0]))
    assert not any(part._forward_hooks for part in net.modules())
