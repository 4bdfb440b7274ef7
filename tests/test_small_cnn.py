"""The small network: what it takes, what it gives, that it learns."""

import pytest
import torch

import cxr_eval.api as cxr
from cxr_eval.models.small_cnn import SmallCNN


@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 2, 8), (3, 5, 33), (1, 3, 64)])
def test_it_gives_one_logit_a_class_for_any_size_and_both_channel_counts(channels: int, classes: int, size: int) -> None:
    net = SmallCNN().build(channels=channels, classes=classes, size=size)
    assert net(torch.rand(2, channels, size, size)).shape == (2, classes)


def test_the_default_has_between_25_and_200_thousand_weights() -> None:
    net = SmallCNN().build(channels=1, classes=3, size=64)
    assert 25_000 < sum(weight.numel() for weight in net.parameters()) < 200_000


def test_it_has_no_batchnorm_and_no_in_place_operation() -> None:
    net = SmallCNN().build(channels=1, classes=3, size=64)
    assert not any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in net.modules())
    assert not any(getattr(part, "inplace", False) for part in net.modules())
    assert sum(isinstance(part, torch.nn.Conv2d) for part in net.modules()) == 4


def test_an_image_gets_the_same_logits_alone_and_in_a_batch_in_training_mode() -> None:
    net = SmallCNN().build(channels=1, classes=3, size=32).train()
    x = torch.rand(5, 1, 32, 32)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]), rtol=1e-5, atol=1e-6)  # float32 sums in another order


def test_the_same_seed_builds_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(SmallCNN().build(channels=1, classes=2, size=16).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_widths_may_be_written_as_a_yaml_list_and_are_used() -> None:
    net = SmallCNN(widths=[2, 3, 4, 5]).build(channels=1, classes=2, size=16)
    assert [part.out_channels for part in net.modules() if isinstance(part, torch.nn.Conv2d)] == [2, 3, 4, 5]


@pytest.mark.parametrize("widths", [[2, 3], [0, 1, 1, 1]])
def test_widths_that_are_not_four_positive_numbers_are_refused(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="widths"):
        SmallCNN(widths=widths)


def test_images_too_small_for_three_halvings_are_refused() -> None:
    with pytest.raises(cxr.PluginError, match="at least 8 x 8 pixels, got 7 x 7"):
        SmallCNN().build(channels=1, classes=2, size=7)


def test_it_learns_where_a_bright_square_is_within_sixty_steps() -> None:
    torch.manual_seed(0)
    y = torch.arange(64) % 2
    x = 0.3 + 0.1 * torch.rand(64, 1, 16, 16)
    x[y == 0, :, 2:7, 2:7] += 0.4
    x[y == 1, :, 2:5, 2:10] += 0.4
    net = SmallCNN().build(channels=1, classes=2, size=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).all()
