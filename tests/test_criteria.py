"""The loss over findings, some of them unknown, and class weights, by hand and against torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cxr_eval.criteria import MaskedBCE, balanced_weights, divergences, image_losses, plain_criterion

NAN = float("nan")


def test_a_masked_loss_and_its_gradient_by_hand():
    z = torch.tensor([[0.0, 2.0], [-1.0, 3.0]], requires_grad=True)
    y = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    loss = MaskedBCE()(z, y)
    terms = [math.log(2), math.log(1 + math.exp(-1)), math.log(1 + math.exp(-3))]
    assert loss.item() == pytest.approx(sum(terms) / 3, rel=1e-6)  # float32
    loss.backward()
    sigmoid = [1 / (1 + math.exp(-v)) for v in (0.0, -1.0, 3.0)]
    expected = [[(sigmoid[0] - 1) / 3, 0.0], [sigmoid[1] / 3, (sigmoid[2] - 1) / 3]]
    np.testing.assert_allclose(z.grad.numpy(), expected, rtol=1e-5)  # float32
    assert z.grad[0, 1] == 0


def test_reductions_of_the_masked_loss():
    z, y = torch.tensor([[0.0, 2.0], [-1.0, 3.0]]), torch.tensor([[1.0, NAN], [0.0, 1.0]])
    image = MaskedBCE("none")(z, y)
    assert image.shape == (2,)
    assert image.sum().item() == pytest.approx(MaskedBCE("sum")(z, y).item())
    assert MaskedBCE("sum")(z, y).item() / 3 == pytest.approx(MaskedBCE("mean")(z, y).item())
    assert image[0].item() == pytest.approx(math.log(2))


def test_without_any_known_label_loss_and_gradient_are_zero():
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    loss = MaskedBCE()(z, torch.full((3, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros(3, 2))


def test_positives_weigh_negatives_over_positives_of_the_batch_by_hand():
    z = torch.zeros(3, 2)  # every term is log 2
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [NAN, 0.0]])  # 1 positive, 4 negatives; of the first finding 1 and 1
    assert MaskedBCE("sum", "batch")(z, y).item() == pytest.approx((4 + 4) * math.log(2), rel=1e-6)  # float32
    assert MaskedBCE("sum", "per_class")(z, y).item() == pytest.approx((1 + 4) * math.log(2), rel=1e-6)
    assert MaskedBCE("image_sum", "batch")(z, y).item() == pytest.approx((4 + 4) / 3 * math.log(2), rel=1e-6)
    assert MaskedBCE("mean", "batch")(z, y).item() == pytest.approx((4 + 4) / 5 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("positives", ["batch", "per_class"])
def test_a_batch_without_positives_has_the_plain_loss(positives):
    z, y = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 2)
    assert torch.equal(MaskedBCE("mean", positives)(z, y), MaskedBCE()(z, y))


def test_a_part_of_a_batch_keeps_the_weights_of_the_whole():
    z, y = torch.zeros(4, 1), torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    whole = MaskedBCE("none", "batch")
    assert torch.equal(whole.of(y)(z[:2], y[:2]), whole(z, y)[:2])  # 3 log 2 for the positive, not 1
    assert not torch.equal(whole(z[:2], y[:2]), whole(z, y)[:2])


def test_the_loss_of_each_image():
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 2, 1, 1])
    weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    found = image_losses(weighted, z, y)
    for k in range(4):  # torch's mean over one image divides by its weight
        alone = torch.nn.CrossEntropyLoss(weighted.weight, label_smoothing=0.1, reduction="sum")(z[k : k + 1], y[k : k + 1])
        torch.testing.assert_close(found[k], alone)
    findings = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = image_losses(MaskedBCE(), z, findings)
    for k in (0, 2, 3):
        torch.testing.assert_close(found[k], MaskedBCE()(z[k : k + 1], findings[k : k + 1]))
    assert found[1] == 0


def test_a_divergence_by_hand():
    p, q = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])  # (1/4, 3/4) against (1/2, 1/2)
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert divergences(p, q, "multiclass").item() == pytest.approx(by_hand, rel=1e-6)  # float32
    one = torch.tensor([[math.log(3)]]), torch.tensor([[0.0]])  # one finding: 3/4 against 1/2
    assert divergences(*one, "multilabel").item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_divergence_is_zero_for_equal_predictions_and_positive_for_others(task):
    p, q = 5 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(divergences(p, p, task), torch.zeros(6))
    assert (divergences(p, q, task) > 0).all()
    far = torch.tensor([[200.0, -200.0]])
    assert torch.isfinite(divergences(far, -far, task)).all()


def test_a_divergence_agrees_with_torchs_and_has_gradients_through_both():
    p, q = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    expected = functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
    found = divergences(p, q, "multiclass").mean()
    torch.testing.assert_close(found, expected)
    for ours, torchs in zip(torch.autograd.grad(found, (p, q)), torch.autograd.grad(expected, (p, q)), strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-7, rtol=1e-5)  # float32
        assert ours.abs().max() > 0


@given(seed=st.integers(0, 10_000), reduction=st.sampled_from(["mean", "sum"]))
@settings(max_examples=30, deadline=None)
def test_with_all_labels_known_the_masked_loss_is_torchs(seed, reduction):
    generator = torch.Generator().manual_seed(seed)
    z = 20 * torch.randn(4, 3, generator=generator)
    y = torch.randint(0, 2, (4, 3), generator=generator).float()
    expected = functional.binary_cross_entropy_with_logits(z, y, reduction=reduction)
    torch.testing.assert_close(MaskedBCE(reduction)(z, y), expected, rtol=1e-6, atol=1e-7)  # float32, 12 additions


def test_integer_and_double_targets_and_bfloat16_logits_are_taken():
    z, y = torch.zeros(2, 2), torch.tensor([[0, 1], [1, 1]])
    assert MaskedBCE()(z, y).item() == pytest.approx(math.log(2))
    assert MaskedBCE()(z, y.double()).item() == pytest.approx(math.log(2))
    assert MaskedBCE()(z.bfloat16(), y.float()).item() == pytest.approx(math.log(2), rel=1e-2)  # 8 bits of mantissa


def test_the_masked_loss_is_no_bce_that_art_would_argmax():
    assert not isinstance(MaskedBCE(), (torch.nn.BCEWithLogitsLoss, torch.nn.BCELoss))
    assert isinstance(plain_criterion("multilabel"), MaskedBCE)
    assert isinstance(plain_criterion("multiclass"), torch.nn.CrossEntropyLoss)


def test_balanced_weights_by_hand():
    weights = balanced_weights(torch.tensor([0, 0, 0, 1, 2, 2]), 3)
    torch.testing.assert_close(weights, torch.tensor([6 / 9, 6 / 3, 6 / 6]))
    assert weights.dtype == torch.float32


def test_balanced_weights_give_every_class_the_same_say():
    y = torch.tensor([0] * 7 + [1] * 2 + [2])
    weights = balanced_weights(y, 3)
    shares = [float(weights[y[y == k]].sum()) for k in range(3)]
    assert shares == pytest.approx([10 / 3] * 3)


def test_a_class_without_images_cannot_be_balanced():
    with pytest.raises(ValueError, match="class 1 has no training image, so it cannot be balanced"):
        balanced_weights(torch.tensor([0, 2, 2]), 3)
