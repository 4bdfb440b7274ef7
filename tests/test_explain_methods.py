"""Attribution maps against closed forms, hand-written autograd and captum called image by image."""

import warnings

import captum.attr
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval.explain.cam import CAM
from cxr_eval.explain.fullgrad import FullGrad
from cxr_eval.explain.methods import GradCAM, IntegratedGradients, Saliency

ALL = [
    Saliency(),
    Saliency(absolute=False, channels="sum"),
    Saliency(clip=3.0),
    Saliency(clip=1.0, absolute=False),
    IntegratedGradients(steps=8),
    IntegratedGradients(steps=3, baseline="mean"),
    GradCAM(),
    GradCAM(relu=False),
    CAM(),
    CAM(relu=True),
    FullGrad(),
    FullGrad(variant="simple"),
    FullGrad(variant="smooth", samples=3),
]


def conv_net(channels: int = 1, classes: int = 3, seed: int = 0) -> torch.nn.Module:
    """Two convolutions, batch norm and ReLUs that work in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(inplace=True),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(4, 6, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(6, classes),
        ).eval()


def linear_net(channels: int = 1, size: int = 4, classes: int = 3) -> tuple[torch.nn.Module, torch.Tensor]:
    """A linear network and its weights, (classes, C, H, W)."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size * size, classes))
    return net.eval(), net[1].weight.detach().view(classes, channels, size, size)


def images(count: int, channels: int = 1, size: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def targets(count: int, classes: int = 3) -> torch.Tensor:
    return torch.arange(count) % classes


def test_saliency_of_a_linear_network_is_the_size_of_its_weights():
    net, weight = linear_net()
    y = torch.tensor([2, 0, 1])
    assert torch.equal(Saliency().explain(net, images(3, size=4), y), weight[y, 0].abs())


def test_signed_saliency_of_a_linear_network_is_its_weights():
    net, weight = linear_net()
    y = torch.tensor([2, 0, 1])
    assert torch.equal(Saliency(absolute=False).explain(net, images(3, size=4), y), weight[y, 0])


def test_saliency_takes_the_strongest_colour_channel_with_its_sign():
    net, weight = linear_net(channels=3)
    y = torch.tensor([1, 2])
    strongest = weight[y].abs().argmax(dim=1, keepdim=True)
    assert torch.equal(
        Saliency(absolute=False).explain(net, images(2, 3, size=4), y), weight[y].gather(1, strongest).squeeze(1)
    )
    assert torch.equal(Saliency().explain(net, images(2, 3, size=4), y), weight[y].abs().amax(dim=1))


def test_saliency_can_sum_over_colour_channels():
    net, weight = linear_net(channels=3)
    y = torch.tensor([1, 2])
    summed = Saliency(absolute=False, channels="sum").explain(net, images(2, 3, size=4), y)
    torch.testing.assert_close(summed, weight[y].sum(dim=1))


def test_clipped_saliency_is_cut_at_its_mean_plus_deviations_and_scaled_to_one():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, -1.0, 0.0, 8.0]]))
    # sizes 1, 1, 0, 8: mean 2.5, variance (1.5^2 + 1.5^2 + 2.5^2 + 5.5^2) / 4 = 10.25; limit 2.5 + 1 x 3.2016 = 5.7016
    limit = 2.5 + 10.25**0.5
    x, y = images(1, size=2), torch.tensor([0])
    expected = torch.tensor([[[1 / limit, 1 / limit], [0, 1]]])
    torch.testing.assert_close(Saliency(clip=1.0).explain(net, x, y), expected)
    signed = torch.tensor([[[1 / limit, -1 / limit], [0, 1]]])
    torch.testing.assert_close(Saliency(clip=1.0, absolute=False).explain(net, x, y), signed)
    # no size reaches 2.5 + 3 x 3.2016 = 12.1, so that three deviations only scale by the largest, 8
    torch.testing.assert_close(Saliency(clip=3.0).explain(net, x, y), Saliency().explain(net, x, y) / 8)


def test_clipped_saliency_of_a_network_that_ignores_the_image_is_zero():
    net, _ = linear_net()
    with torch.no_grad():
        net[1].weight.zero_()
    assert torch.equal(Saliency(clip=3.0).explain(net, images(2, size=4), targets(2)), torch.zeros(2, 4, 4))


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_saliency_is_clipped_above_zero_deviations_only(clip: float):
    with pytest.raises(ValueError, match="greater than 0"):
        Saliency(clip=clip)


@pytest.mark.parametrize(("baseline", "start"), [("black", 0.0), ("white", 1.0)])
def test_integrated_gradients_of_a_linear_network_are_weight_times_difference(baseline: str, start: float):
    net, weight = linear_net()
    x, y = images(3, size=4), torch.tensor([2, 0, 1])
    maps = IntegratedGradients(baseline=baseline, steps=4).explain(net, x, y)
    torch.testing.assert_close(maps, (weight[y] * (x - start))[:, 0])


def test_integrated_gradients_can_be_taken_by_size():
    net, x, y = conv_net(), images(3), targets(3)
    signed = IntegratedGradients().explain(net, x, y)
    assert (signed < 0).any()
    assert torch.equal(IntegratedGradients(absolute=True).explain(net, x, y), signed.abs())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("baseline", ["black", "mean", "white"])
def test_integrated_gradients_sum_to_the_change_of_the_logit(baseline: str, channels: int):
    net, x, y = conv_net(channels), images(4, channels), targets(4)
    method = IntegratedGradients(baseline=baseline, steps=100)
    with torch.no_grad():
        change = (net(x) - net(method.baseline(x))).gather(1, y[:, None])[:, 0]
    # the path crosses kinks of ReLU and max pooling, where quadrature converges as 1 / steps only
    torch.testing.assert_close(method.explain(net, x, y).sum(dim=(1, 2)), change, rtol=0.05, atol=5e-4)


def test_mean_baseline_is_each_images_own_mean_a_channel():
    x = images(2, 3)
    start = IntegratedGradients(baseline="mean").baseline(x)
    torch.testing.assert_close(start[1, 2], x[1, 2].mean().expand(12, 12))


@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_is_what_autograd_gives_by_hand(relu: bool):
    net, x, y = conv_net(), images(5), targets(5)
    activation = net[:5](x).detach().requires_grad_(True)
    logits = net[5:](activation.clone())
    (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), activation)
    weight = gradient.mean(dim=(2, 3), keepdim=True)  # eq. 1
    cam = (weight * activation.detach()).sum(dim=1, keepdim=True)  # eq. 2
    cam = functional.interpolate(cam.relu() if relu else cam, size=12, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(GradCAM(relu=relu).explain(net, x, y), cam)


def test_all_methods_equal_captum_called_image_by_image():
    net, x, y = conv_net(3), images(5, 3), targets(5)
    for index in range(len(x)):
        one, goal = x[index : index + 1].clone().requires_grad_(True), int(y[index])
        saliency = captum.attr.Saliency(net).attribute(one, target=goal).amax(dim=1)
        path = captum.attr.IntegratedGradients(net).attribute(one, target=goal, n_steps=32).sum(dim=1)
        cam = captum.attr.LayerGradCam(net, net[4]).attribute(one, target=goal, relu_attributions=True)
        cam = captum.attr.LayerAttribution.interpolate(cam, (12, 12), "bilinear")[:, 0]
        for explainer, alone in ((Saliency(), saliency), (IntegratedGradients(), path), (GradCAM(), cam)):
            # one image and many take other convolution kernels: float32, some hundred additions
            torch.testing.assert_close(explainer.explain(net, x, y)[index : index + 1], alone, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("explainer", ALL, ids=lambda e: f"{type(e).__name__}-{e.params}")
@settings(max_examples=8, deadline=None)
@given(
    chosen=st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 100),
)
def test_an_image_has_the_same_map_whatever_stands_beside_it(
    explainer: cxr.Explainer, chosen: list[int], channels: int, seed: int
):
    net, x, y = conv_net(channels, seed=seed), images(40, channels, size=8, seed=seed), targets(40)
    together = explainer.explain(net, x, y)
    torch.testing.assert_close(explainer.explain(net, x[chosen], y[chosen]), together[chosen], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("explainer", ALL, ids=lambda e: f"{type(e).__name__}-{e.params}")
def test_explaining_leaves_network_and_images_as_they_were(explainer: cxr.Explainer):
    net, x, y = conv_net(), images(3), targets(3)
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[9].weight.grad = torch.ones_like(net[9].weight)
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    flags = [weight.requires_grad for weight in net.parameters()]
    before = x.clone()
    random_state = torch.get_rng_state()
    with torch.no_grad():
        maps = explainer.explain(net, x, y)
    assert [module.training for module in net.modules()] == modes
    assert [weight.requires_grad for weight in net.parameters()] == flags
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters() if weight is not net[9].weight)
    assert torch.equal(net[9].weight.grad, torch.ones_like(net[9].weight))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert x.grad is None
    assert not maps.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("explainer", ALL, ids=lambda e: f"{type(e).__name__}-{e.params}")
def test_maps_are_float32_of_the_images_size_and_keep_their_sign_policy(explainer: cxr.Explainer):
    maps = explainer.explain(conv_net(), images(4, size=10)[..., :8], targets(4))
    assert maps.dtype == torch.float32
    assert maps.shape == (4, 10, 8)
    assert explainer.sign == ("positive" if (maps >= 0).all() else "signed")


@pytest.mark.parametrize("explainer", ALL, ids=lambda e: f"{type(e).__name__}-{e.params}")
def test_no_images_give_no_maps(explainer: cxr.Explainer):
    assert explainer.explain(conv_net(), images(0), targets(0)).shape == (0, 12, 12)


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "resnet18"])
def test_networks_of_torchvision_that_work_in_place_are_explained(name: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            # some torchvision versions build networks with calls that their own torch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            net = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    x, y = images(2, 3, size=64), torch.tensor([2, 0])
    for explainer in (Saliency(), GradCAM(relu=False)):
        maps = explainer.explain(net, x, y)
        alone = explainer.explain(net, x[1:], y[1:])[0]
        assert maps.abs().amax(dim=(1, 2)).min() > 0
        torch.testing.assert_close(maps[1], alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


def test_grad_cam_may_be_zero_everywhere():
    net = conv_net()
    with torch.no_grad():
        net[9].weight.copy_(-net[9].weight.abs())  # every channel speaks against every class
    net[4].bias.data.abs_()
    net[4].weight.data.abs_()
    maps = GradCAM().explain(net, images(2), targets(2))
    assert torch.equal(maps, torch.zeros(2, 12, 12))


def test_grad_cam_explains_a_named_layer():
    net, x, y = conv_net(), images(3), targets(3)
    assert torch.equal(GradCAM(layer="4").explain(net, x, y), GradCAM().explain(net, x, y))
    assert not torch.equal(GradCAM(layer="0").explain(net, x, y), GradCAM().explain(net, x, y))


def test_grad_cam_names_the_nearest_layer_when_there_is_none():
    net = torch.nn.Sequential()
    net.add_module("features", conv_net())
    with pytest.raises(cxr.PluginError, match=r"gradcam: Sequential has no layer 'feature'; did you mean 'features'\?"):
        GradCAM(layer="feature").explain(net, images(1), targets(1))
    with pytest.raises(cxr.PluginError, match=r"has no layer 'xyzzy'; leave 'layer' out to take the last convolution"):
        GradCAM(layer="xyzzy").explain(net, images(1), targets(1))


def test_grad_cam_refuses_a_layer_without_a_map():
    with pytest.raises(cxr.PluginError, match=r"layer '9' must put out \(N, C, H, W\), got 2 axes; name a convolution"):
        GradCAM(layer="9").explain(conv_net(), images(2), targets(2))


def test_grad_cam_refuses_a_layer_that_does_not_run():
    net = conv_net()
    net[0].add_module("idle", torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(cxr.PluginError, match=r"layer '0.idle' does not run when the network does; name a convolution"):
        GradCAM(layer="0.idle").explain(net, images(1), targets(1))


def test_grad_cam_refuses_a_network_without_convolution():
    with pytest.raises(cxr.PluginError, match=r"gradcam: Sequential runs no convolution .*; name a layer"):
        GradCAM().explain(linear_net()[0], images(1, size=4), targets(1))


@pytest.mark.parametrize("explainer", [Saliency, IntegratedGradients, GradCAM, CAM, FullGrad])
def test_every_setting_has_a_default_and_a_description(explainer: type[cxr.Explainer]):
    assert explainer.source
    for field in explainer.Params.model_fields.values():
        assert not field.is_required()
        assert field.description


def test_numpy_maps_are_finite_for_a_black_image():
    net = conv_net()
    for explainer in ALL:
        assert np.isfinite(explainer.explain(net, torch.zeros(1, 1, 12, 12), targets(1)).numpy()).all()
