"""SG and SGA on images of four pixels and a linear network, where every number follows with pencil and paper."""

import math

import pytest
import torch
from cxr_eval_sga import SaliencyGuidedTrainer, SGATrainer

import cxr_eval.api as cxr
from cxr_eval.classifier import OneLogit


def linear(rows):
    """A network whose logit j is the sum of pixels times row j; the gradient of logit j is row j."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(len(rows[0]), len(rows)))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(rows))
        model[1].bias.zero_()
    return model


def on_four_pixels(trainer, rows, task="multiclass", classes=0, **settings):
    """The trainer of a linear network for images of 2 x 2 pixels."""
    classifier = cxr.Classifier(linear(rows), input_shape=(1, 2, 2), nb_classes=classes or len(rows), task=task, device="cpu")
    return trainer(classifier, **settings)


def four_pixels(*images, y):
    """A batch of images of 2 x 2 pixels."""
    x = torch.tensor(images).view(-1, 1, 2, 2)
    return cxr.Batch(x, torch.tensor(y), torch.arange(len(x)), 0)


# by hand: logits z0 = a - 2b + d and z1 = b - c + 2d of pixels a, b, c, d

ROWS = [[1.0, -2.0, 0.0, 1.0], [0.0, 1.0, -1.0, 2.0]]
PAIR = {"images": [[0.2, 0.4, 0.6, 0.8], [1.0, 0.3, 0.5, 0.0]], "y": [0, 1]}
# least gradient of z0: pixel b; of z1: pixel c; means of the images: 2.0 / 4 = 0.5 and 1.8 / 4 = 0.45
MASKED = [[0.2, 0.5, 0.6, 0.8], [1.0, 0.3, 0.45, 0.0]]
# the loss rises along z1 - z0 = -a + 3b - c + d for label 0 and against it for label 1; 1 + 0.1 and 0 - 0.1 are clipped
ATTACKED = [[0.1, 0.6, 0.5, 0.9], [1.0, 0.2, 0.55, 0.0]]
BY_HAND = {"k": 0.25, "fill": "mean"}
FIXED = {"eps": 0.1, "eps_min": 0.1}


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def kl(z, w):
    """KL of two classes with logits that differ by z and by w."""
    p, q = sigmoid(z), sigmoid(w)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_the_least_salient_pixel_of_the_label_is_replaced_and_the_loss_is_that_of_pencil_and_paper():
    batch = four_pixels(*PAIR["images"], y=PAIR["y"])
    trainer = on_four_pixels(SaliencyGuidedTrainer, ROWS, lam=2.0, **BY_HAND)
    torch.testing.assert_close(trainer.masked(batch).view(2, 4), torch.tensor(MASKED))
    # clean: z0 = 0.2 - 0.8 + 0.8 = 0.2, z1 = 0.4 - 0.6 + 1.6 = 1.4; second image 1 - 0.6 + 0 = 0.4, 0.3 - 0.5 + 0 = -0.2
    cross_entropy = (math.log(1 + math.exp(1.4 - 0.2)) + math.log(1 + math.exp(0.4 + 0.2))) / 2
    # masked: 0.2 - 1.0 + 0.8 = 0, 0.5 - 0.6 + 1.6 = 1.5; second image 1 - 0.6 + 0 = 0.4, 0.3 - 0.45 + 0 = -0.15
    divergence = (kl(0.2 - 1.4, 0 - 1.5) + kl(0.4 + 0.2, 0.4 + 0.15)) / 2
    assert trainer.loss(batch).item() == pytest.approx(cross_entropy + 2.0 * divergence, rel=1e-5)  # float32
    assert trainer.logged() == {"divergence": pytest.approx(divergence, rel=1e-4)}  # a difference of logarithms near 1


def test_sga_attacks_the_masked_image_of_the_true_label_and_adds_no_loss_on_it():
    batch = four_pixels(*PAIR["images"], y=PAIR["y"])
    trainer = on_four_pixels(SGATrainer, ROWS, lam=2.0, **BY_HAND, **FIXED)
    torch.testing.assert_close(trainer.counterpart(batch).view(2, 4), torch.tensor(ATTACKED))
    cross_entropy = (math.log(1 + math.exp(1.4 - 0.2)) + math.log(1 + math.exp(0.4 + 0.2))) / 2
    # attacked: 0.1 - 1.2 + 0.9 = -0.2, 0.6 - 0.5 + 1.8 = 1.9; second image 1 - 0.4 + 0 = 0.6, 0.2 - 0.55 + 0 = -0.35
    divergence = (kl(0.2 - 1.4, -0.2 - 1.9) + kl(0.4 + 0.2, 0.6 + 0.35)) / 2
    assert trainer.loss(batch).item() == pytest.approx(cross_entropy + 2.0 * divergence, rel=1e-5)  # float32


@pytest.mark.parametrize(
    ("direction", "detach"),
    [("clean_masked", "none"), ("clean_masked", "clean"), ("masked_clean", "none"), ("masked_clean", "clean")],
)
def test_the_gradient_flows_through_the_predictions_that_the_settings_name(direction, detach):
    batch = four_pixels(*PAIR["images"], y=PAIR["y"])
    trainer = on_four_pixels(SGATrainer, ROWS, lam=2.0, kl_direction=direction, detach=detach, **BY_HAND, **FIXED)
    trainer.loss(batch).backward()
    weight = torch.tensor(ROWS, dtype=torch.float64)
    clean, attacked = (torch.tensor(rows, dtype=torch.float64) for rows in (PAIR["images"], ATTACKED))
    p, q = (clean @ weight.T).softmax(dim=1), (attacked @ weight.T).softmax(dim=1)

    def first(p, q):  # d KL(p || q) / d logits of p = p (log p/q - KL)
        ratio = (p / q).log()
        return p * (ratio - (p * ratio).sum(dim=1, keepdim=True))

    def second(p, q):  # d KL(p || q) / d logits of q = q - p
        return q - p

    of_clean, of_attacked = first(p, q), second(p, q)
    if direction == "masked_clean":
        of_attacked, of_clean = first(q, p), second(q, p)
    if detach == "clean":
        of_clean = torch.zeros_like(p)
    on_clean = p - torch.eye(2, dtype=torch.float64)[batch.y] + 2.0 * of_clean  # the first two terms: cross-entropy
    expected = (on_clean.T @ clean + 2.0 * of_attacked.T @ attacked) / 2
    torch.testing.assert_close(trainer.model[1].weight.grad.double(), expected, rtol=1e-5, atol=1e-6)  # float32


def test_smallest_means_most_negative_unless_absolute_values_are_asked_for():
    batch = four_pixels([0.2, 0.4, 0.6, 0.8], y=[1])  # gradient 0, 1, -1, 2
    signed = on_four_pixels(SaliencyGuidedTrainer, ROWS, **BY_HAND).masked(batch)
    absolute = on_four_pixels(SaliencyGuidedTrainer, ROWS, gradient="absolute", **BY_HAND).masked(batch)
    assert (signed != batch.x).flatten().tolist() == [False, False, True, False]
    assert (absolute != batch.x).flatten().tolist() == [True, False, False, False]


def test_the_prediction_may_be_asked_instead_of_the_label():
    batch = four_pixels([0.2, 0.4, 0.6, 0.8], y=[0])  # z0 = 0.2, z1 = 1.4: class 1 is predicted
    label = on_four_pixels(SaliencyGuidedTrainer, ROWS, **BY_HAND).masked(batch)
    argmax = on_four_pixels(SaliencyGuidedTrainer, ROWS, saliency_target="argmax", **BY_HAND).masked(batch)
    assert (label != batch.x).flatten().tolist() == [False, True, False, False]
    assert (argmax != batch.x).flatten().tolist() == [False, False, True, False]


def test_the_corner_fill_copies_the_top_left_pixel():
    batch = four_pixels(*PAIR["images"], y=PAIR["y"])
    found = on_four_pixels(SaliencyGuidedTrainer, ROWS, k=0.25, fill="corner").masked(batch)
    assert torch.equal(found.view(2, 4), torch.tensor([[0.2, 0.2, 0.6, 0.8], [1.0, 0.3, 1.0, 0.0]]))


def test_channels_are_masked_together_by_their_mean_gradient_or_each_for_itself():
    # two pixels of two channels: gradients (1, 4) and (3, -2), means 2 and 1
    classifier = cxr.Classifier(linear([[1.0, 4.0, 3.0, -2.0], [0.0] * 4]), input_shape=(2, 1, 2), nb_classes=2, device="cpu")
    x = torch.tensor([0.1, 0.3, 0.9, 0.5]).view(1, 2, 1, 2)
    batch = cxr.Batch(x, torch.tensor([0]), torch.arange(1), 0)
    pixel = SaliencyGuidedTrainer(classifier, k=0.5, fill="mean").masked(batch)
    element = SaliencyGuidedTrainer(classifier, k=0.5, fill="mean", mask="element").masked(batch)
    corner = SaliencyGuidedTrainer(classifier, k=0.5, fill="corner").masked(batch)
    # channel means 0.2 and 0.7, corners 0.1 and 0.9; one of two pixels, or two of four values
    torch.testing.assert_close(pixel.flatten(), torch.tensor([0.1, 0.2, 0.9, 0.7]))
    assert torch.equal(corner.flatten(), torch.tensor([0.1, 0.1, 0.9, 0.9]))
    torch.testing.assert_close(element.flatten(), torch.tensor([0.2, 0.3, 0.9, 0.7]))


def test_the_pixels_of_findings_are_ranked_by_the_evidence_for_all_known_labels():
    rows = [[1.0, 0.0, 0.0, 3.0], [-9.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 4.0]]
    batch = four_pixels([0.2, 0.4, 0.6, 0.8], [0.2, 0.4, 0.6, 0.8], y=[[1.0, math.nan, 0.0], [0.0, 0.0, 1.0]])
    found = on_four_pixels(SaliencyGuidedTrainer, rows, task="multilabel", **BY_HAND).masked(batch)
    # row 0 - row 2 = (1, -1, 0, -1): a tie; torch's topk decides. -row 0 + 9 + row 2 = (8, 1, 0, 1): the third pixel
    changed = (found != batch.x).flatten(1)
    assert changed.sum(dim=1).tolist() == [1, 1]
    assert changed[0].tolist() in ([False, True, False, False], [False, False, False, True])
    assert changed[1].tolist() == [False, False, True, False]
    # predictions 2.6, -1.8 and 3.6: row 0 - row 1 + row 2 = (10, 1, 0, 7) for both images, whatever is known
    asked = on_four_pixels(SaliencyGuidedTrainer, rows, task="multilabel", saliency_target="argmax", **BY_HAND).masked(batch)
    assert (asked != batch.x).flatten(1).tolist() == [[False, False, True, False]] * 2


def test_the_loss_of_findings_is_masked_and_its_divergence_is_that_of_bernoulli_variables():
    rows = [[1.0, 0.0, 0.0, 2.0], [0.0, 1.0, -1.0, 0.0]]
    batch = four_pixels([0.2, 0.4, 0.6, 0.8], y=[[1.0, math.nan]])
    trainer = on_four_pixels(SaliencyGuidedTrainer, rows, task="multilabel", k=0.5, fill="mean")
    # the gradient of the known finding is (1, 0, 0, 2): pixels b and c become 0.5; logits 1.8 and -0.2, then 1.8 and 0
    torch.testing.assert_close(trainer.masked(batch).flatten(), torch.tensor([0.2, 0.5, 0.5, 0.8]))
    expected = math.log(1 + math.exp(-1.8)) + (0 + kl(-0.2, 0.0)) / 2
    assert trainer.loss(batch).item() == pytest.approx(expected, rel=1e-5)  # float32


def test_of_a_network_with_one_logit_both_classes_have_a_gradient():
    batch = four_pixels([0.2, 0.4, 0.6, 0.8], [0.2, 0.4, 0.6, 0.8], y=[0, 1])
    trainer = on_four_pixels(SaliencyGuidedTrainer, [[3.0, 0.0, -2.0, 1.0]], classes=2, **BY_HAND)
    assert isinstance(trainer.model, OneLogit)
    # logits -z/2 and z/2: the least gradient of class 0 is where z has its largest weight, of class 1 where its smallest
    assert (trainer.masked(batch) != batch.x).flatten(1).tolist() == [[True, False, False, False], [False, False, True, False]]
