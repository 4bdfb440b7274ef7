"""FullGrad against completeness, closed forms and gradients with respect to copied biases."""

import pytest
import torch
from torch.nn import functional

from cxr_eval.classifier import OneLogit
from cxr_eval.explain.fullgrad import FullGrad
from cxr_eval.models.timm_zoo import Timm
from cxr_eval.models.truncated_densenet import TruncatedDenseNet121
from cxr_eval.models.weights import Normalised
from cxr_eval.models.zoo import Torchvision


def unsettle(net: torch.nn.Module) -> torch.nn.Module:
    """Biases and running means that are not zero, as training leaves them."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.5, 1.5)
            if isinstance(getattr(part, "bias", None), torch.Tensor):
                part.bias.normal_(0, 0.1)
    return net.eval()


def zoo(name: str, channels: int = 3, size: int = 64) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return unsettle(Torchvision.member(name)().build(channels=channels, classes=3, size=size))


def small(inplace: bool = False) -> torch.nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return unsettle(
            torch.nn.Sequential(
                torch.nn.Conv2d(1, 4, 3, padding=1),
                torch.nn.BatchNorm2d(4),
                torch.nn.ReLU(inplace=inplace),
                torch.nn.MaxPool2d(2),
                torch.nn.Conv2d(4, 5, 3, padding=1, bias=False),
                torch.nn.ReLU(inplace=inplace),
                torch.nn.Conv2d(5, 6, 3, padding=1),
                torch.nn.ReLU(inplace=inplace),
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
                torch.nn.Linear(6, 3),
            )
        )


def images(count: int = 2, channels: int = 1, size: int = 8) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(2))


def logits_and_sums(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, biases = FullGrad().decompose(net, x, y)
    with torch.no_grad():
        logits = net(x).gather(1, y[:, None])[:, 0]
    return logits, sum((part.flatten(1).sum(1) for part in biases), inputs.flatten(1).sum(1))


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121", "googlenet", "mobilenet_v2", "squeezenet1_0"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_parts_sum_to_the_logit_of_networks_with_relu(name: str, channels: int) -> None:
    logits, sums = logits_and_sums(zoo(name, channels), images(2, channels, size=64), torch.tensor([2, 0]))
    torch.testing.assert_close(sums, logits, rtol=1e-4, atol=1e-5)


def test_the_parts_sum_to_the_logit_of_the_truncated_densenet_and_of_a_norm_with_its_own_relu() -> None:
    for builder in (TruncatedDenseNet121, Timm.member("resnetv2_18")):  # the latter: BatchNorm and ReLU in one layer of timm's
        net = unsettle(builder().build(channels=1, classes=3, size=64))
        logits, sums = logits_and_sums(net, images(2, size=64), torch.tensor([2, 0]))
        torch.testing.assert_close(sums, logits, rtol=1e-4, atol=1e-5)


def test_the_parts_sum_to_the_logit_when_one_logit_serves_two_classes() -> None:
    net = small()
    net[10] = torch.nn.Linear(6, 1)
    logits, sums = logits_and_sums(OneLogit(net), images(), torch.tensor([0, 1]))
    torch.testing.assert_close(sums, logits, rtol=1e-4, atol=1e-6)


def test_other_activations_have_offsets_that_no_part_holds() -> None:
    net = small()
    net[2] = torch.nn.Sigmoid()
    logits, sums = logits_and_sums(net, images(), torch.tensor([2, 0]))
    assert ((sums - logits).abs() > 1e-3).all()


def test_a_layer_that_runs_twice_gives_two_parts_and_one_that_never_runs_gives_none() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.conv, self.head = torch.nn.Linear(3, 3), torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(functional.relu(self.conv(x))).flatten(1))

    torch.manual_seed(0)
    net, x, y = unsettle(Twice()), images(size=4), torch.tensor([2, 0])
    assert [part.shape[1:] for part in FullGrad().decompose(net, x, y)[1]] == [(1, 4, 4), (1, 4, 4), (3,)]
    logits, sums = logits_and_sums(net, x, y)
    torch.testing.assert_close(sums, logits, rtol=1e-4, atol=1e-6)


def by_hand(net: torch.nn.Sequential, x: torch.Tensor, y: torch.Tensor, times_bias: bool = True) -> list[torch.Tensor]:
    """Parts of `small` with each bias written out as a tensor of its layer's output, by torch.autograd.grad."""
    x = x.clone().requires_grad_(True)
    conv, norm, third, head = net[0], net[1], net[6], net[10]
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1)
    shift = norm.bias.view(1, -1, 1, 1) - norm.running_mean.view(1, -1, 1, 1) * scale
    size = (len(x), 1, 8, 8)
    biases = [
        conv.bias.view(1, -1, 1, 1).repeat(size),
        shift.repeat(size),
        third.bias.view(1, -1, 1, 1).repeat(len(x), 1, 4, 4),
        head.bias.repeat(len(x), 1),
    ]
    biases = [bias.detach().requires_grad_(True) for bias in biases]
    out = functional.conv2d(x, conv.weight, padding=1) + biases[0]
    out = (out * scale + biases[1]).relu()
    out = functional.max_pool2d(out, 2)
    out = functional.conv2d(out, net[4].weight, padding=1).relu()
    out = (functional.conv2d(out, third.weight, padding=1) + biases[2]).relu()
    out = out.mean(dim=(2, 3)) @ head.weight.T + biases[3]
    gradients = torch.autograd.grad(out.gather(1, y[:, None]).sum(), [x, *biases])
    added = [gradient * bias if times_bias else gradient for gradient, bias in zip(gradients[1:], biases, strict=True)]
    return [(gradients[0] * x).detach(), *(part.detach() for part in added)]


def mapped(parts: list[torch.Tensor], size: int) -> torch.Tensor:
    """Map of one image from its parts, written out: psi, enlargement, sum over channels and parts."""
    total = torch.zeros(1, size, size)
    for part in parts:
        if part.ndim == 4:
            psi = part.abs()
            psi = psi - psi.min()
            psi = psi / (psi.max() + 1e-6)
            total += functional.interpolate(psi, size=(size, size), mode="bilinear", align_corners=True).sum(dim=1)
    return total


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("variant", ["full", "simple"])
def test_parts_and_map_are_what_copied_biases_give(variant: str, inplace: bool) -> None:
    net, x, y = small(inplace), images(3), torch.tensor([2, 0, 1])
    method = FullGrad(variant=variant)
    expected = by_hand(net, x, y, times_bias=variant == "full")
    inputs, biases = method.decompose(net, x, y)
    for ours, theirs in zip([inputs, *biases], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    maps = method.explain(net, x, y)
    for index in range(3):
        alone = mapped([part[index : index + 1] for part in expected], 8)
        torch.testing.assert_close(maps[index : index + 1], alone, rtol=1e-3, atol=1e-3)


def test_the_input_is_the_image_behind_the_normalisation() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(2.0)
        net[0].bias.fill_(0.5)
        net[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]]))
    x = torch.tensor([[[[0.0, 0.2], [0.4, 1.0]]]])
    inputs, biases = FullGrad().decompose(Normalised(net, (0.4,), (0.2,)), x, torch.tensor([0]))
    # n = (x - 0.4) / 0.2 = -2, -1, 0, 3; gradient = 2 x (1, 2, 3, 4); bias part = 0.5 x (1, 2, 3, 4)
    torch.testing.assert_close(inputs, torch.tensor([[[[-4.0, -4.0], [0.0, 24.0]]]]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(biases[0], torch.tensor([[[[0.5, 1.0], [1.5, 2.0]]]]))
    assert len(biases) == 1
    # psi: sizes 4, 4, 0, 24 over 24, and (0.5, 1, 1.5, 2) - 0.5 over 1.5
    expected = torch.tensor([[[4 / 24, 4 / 24 + 1 / 3], [2 / 3, 1 + 1]]])
    made = FullGrad().explain(Normalised(net, (0.4,), (0.2,)), x, torch.tensor([0]))
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=2e-6)  # psi adds 1e-6 below the fraction line


def test_a_batch_norm_without_running_statistics_gives_no_part() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(1, track_running_stats=False), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    assert [part.shape for part in FullGrad().decompose(net, images(size=4), torch.tensor([0, 1]))[1]] == [(2, 2)]


def test_a_part_that_the_target_does_not_reach_is_zero() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            unused = self.second(x.flatten(1))
            return torch.cat((self.first(x.flatten(1)), torch.zeros_like(unused)), dim=1)

    net = Two()
    _, biases = FullGrad().decompose(net, images(1, size=2), torch.tensor([0]))
    assert [float(part) for part in biases] == [0.0, pytest.approx(net.first.bias.item())]


def test_smooth_with_hardly_any_noise_is_full() -> None:
    net, x, y = small(), images(), torch.tensor([2, 0])
    smooth = FullGrad(variant="smooth", samples=2, spread=1e-7).explain(net, x, y)
    torch.testing.assert_close(smooth, FullGrad().explain(net, x, y), rtol=1e-3, atol=1e-3)


def test_smooth_averages_signed_parts_before_their_size_is_taken() -> None:
    net, x, y = small(), images(1), torch.tensor([2])
    rng = torch.Generator().manual_seed(0)
    scale = 0.15 * (x.max() - x.min())
    runs = [by_hand(net, x + scale * torch.randn(x.shape[1:], generator=rng), y) for _ in range(4)]
    averaged = [torch.stack(parts).mean(0) for parts in zip(*runs, strict=True)]
    made = FullGrad(variant="smooth", samples=4).explain(net, x, y)
    torch.testing.assert_close(made, mapped(averaged, 8), rtol=1e-3, atol=1e-3)


def test_smooth_takes_the_noises_own_range_of_each_image() -> None:
    net, x, y = small(), images(), torch.tensor([2, 0])
    x[1] *= 0.1
    method = FullGrad(variant="smooth", samples=2)
    torch.testing.assert_close(method.explain(net, x[1:], y[1:])[0], method.explain(net, x, y)[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("setting", "value"), [("variant", "fast"), ("samples", 0), ("spread", 0.0)])
def test_settings_out_of_their_bounds_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting):
        FullGrad(**{setting: value})
