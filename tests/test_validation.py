"""Validation scores pick the epoch that is kept: by hand, against scikit-learn, and refused where they mean nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional

from cxr_eval.criteria import MaskedBCE
from cxr_eval.errors import TrainingError
from cxr_eval.images import ArrayImages
from cxr_eval.perturb import pgd
from cxr_eval.training import Select
from cxr_eval.validation import Validation

CPU = torch.device("cpu")


def validation(toys, n=21, task="multiclass", y=None, batch_size=8, **select):
    x, labels = toys.images(n)
    y = torch.as_tensor(labels if y is None else y)
    return Validation(ArrayImages(x), y, task, 3, Select(**select), batch_size)


def logits_of(model, x):
    with torch.no_grad():
        return model.eval()(torch.as_tensor(x))


def test_scores_equal_torchs_and_scikit_learns(toys):
    x, y = toys.images(21)
    model = toys.build(toys.Bumpy, seed=2)
    found = validation(toys).score(model, CPU)
    logits = logits_of(model, x)
    probability, predicted = logits.softmax(dim=1).double().numpy(), logits.argmax(dim=1).numpy()
    assert found["val_loss"] == pytest.approx(functional.cross_entropy(logits, torch.as_tensor(y)).item(), rel=1e-5)  # float32
    assert found["val_accuracy"] == pytest.approx(metrics.accuracy_score(y, predicted))
    assert found["val_balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, predicted))
    expected = np.mean([metrics.roc_auc_score(y == k, probability[:, k]) for k in range(3)])
    assert found["val_auroc"] == pytest.approx(expected)
    assert set(found) == {"val_loss", "val_accuracy", "val_balanced_accuracy", "val_auroc"}


def test_scores_of_findings_count_known_labels_only(toys):
    x, _ = toys.images(21)
    y = toys.findings(21)
    model = toys.build(toys.Bumpy)
    found = validation(toys, task="multilabel", y=y).score(model, CPU)
    logits = logits_of(model, x)
    assert found["val_loss"] == pytest.approx(MaskedBCE()(logits, torch.as_tensor(y)).item(), rel=1e-5)  # float32
    known = [~np.isnan(y[:, k]) for k in range(3)]
    expected = np.mean([metrics.roc_auc_score(y[known[k], k], logits[known[k], k].numpy()) for k in range(3)])
    assert found["val_auroc"] == pytest.approx(expected)
    assert set(found) == {"val_loss", "val_auroc"}


def test_the_weighted_loss_is_the_training_loss_over_all_validation_images_at_once(toys):
    x, _ = toys.images(21)
    y = torch.as_tensor(toys.findings(21))
    model = toys.build(toys.Bumpy)
    judge = validation(toys, task="multilabel", y=y, metric="weighted_loss")
    judge = dataclasses.replace(judge, weighted=MaskedBCE("image_sum", "batch"))
    found = judge.score(model, CPU)
    logits, known = logits_of(model, x), ~torch.isnan(y)
    beta = (y == 0).sum() / (y == 1).sum()  # one number over the whole label matrix, not over batches of 8
    terms = functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(y), reduction="none")
    by_hand = (terms * torch.where(y == 1, beta, 1.0) * known).sum(dim=1).mean()
    assert found["val_weighted_loss"] == pytest.approx(by_hand.item(), rel=1e-5)  # float32
    assert judge.better(found, None) == (True, -found["val_weighted_loss"])


def test_robust_accuracy_is_right_clean_and_right_under_pgd(toys):
    x, y = toys.images(21)
    model = toys.build(toys.Bumpy, seed=2)
    found = validation(toys, metric="robust_accuracy", eps=0.1, steps=5).score(model, CPU)
    right = []
    for start in range(0, 21, 8):
        images, labels = torch.as_tensor(x[start : start + 8]), torch.as_tensor(y[start : start + 8])
        moved = pgd(model, images, labels, eps=0.1, step=0.05, steps=5)
        right.append((logits_of(model, images).argmax(1) == labels) & (logits_of(model, moved).argmax(1) == labels))
    assert found["val_robust_accuracy"] == pytest.approx(torch.cat(right).float().mean().item())
    assert found["val_robust_accuracy"] <= found["val_accuracy"]


def test_robust_accuracy_at_radius_zero_is_accuracy(toys):
    found = validation(toys, metric="robust_accuracy", eps=0.0).score(toys.build(toys.Bumpy, seed=2), CPU)
    assert found["val_robust_accuracy"] == pytest.approx(found["val_accuracy"])


@pytest.mark.parametrize("settings", [{}, {"metric": "robust_accuracy", "eps": 0.1}])
def test_scoring_leaves_the_network_as_it_was(toys, settings):
    model = toys.build(toys.Bumpy)
    model.train()
    before, flags = toys.state(model), toys.flags(model)
    validation(toys, **settings).score(model, CPU)
    assert toys.same(toys.state(model), before)
    assert toys.flags(model) == flags


def test_a_lower_loss_and_a_higher_score_are_better(toys):
    by_loss, by_score = validation(toys), validation(toys, metric="accuracy")
    assert by_loss.better({"val_loss": 3.0}, None) == (True, -3.0)
    assert by_loss.better({"val_loss": 2.0}, -3.0)[0]
    assert not by_loss.better({"val_loss": 3.0}, -3.0)[0]  # the earlier of two equal epochs stays
    assert not by_loss.better({"val_loss": 4.0}, -3.0)[0]
    assert by_score.better({"val_accuracy": 0.5}, 0.4) == (True, 0.5)
    assert not by_score.better({"val_accuracy": 0.4}, 0.4)[0]


def test_a_score_that_is_not_defined_cannot_select(toys):
    one_class = validation(toys, y=np.zeros(21, dtype=np.int64), metric="balanced_accuracy")
    found = one_class.score(toys.build(toys.Bumpy), CPU)
    assert np.isnan(found["val_balanced_accuracy"])
    with pytest.raises(TrainingError) as caught:
        one_class.better(found, None)
    assert str(caught.value) == (
        "val_balanced_accuracy, which selects the epoch, is not defined on the validation images;"
        " every class needs some, or select by another metric"
    )


def test_robust_accuracy_without_a_radius_is_refused(toys):
    with pytest.raises(ValueError, match="robust_accuracy needs 'eps', the radius of its attack"):
        validation(toys, metric="robust_accuracy")


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "robust_accuracy"])
def test_scores_of_decisions_are_refused_for_findings(toys, metric):
    eps = 0.1 if metric == "robust_accuracy" else None
    with pytest.raises(
        ValueError, match=f"select: {metric} is for one label an image; for several use loss, weighted_loss or auroc"
    ):
        validation(toys, task="multilabel", y=toys.findings(21), metric=metric, eps=eps)


def test_validation_without_images_is_refused(toys):
    with pytest.raises(ValueError, match="expected at least one validation image, got none"):
        validation(toys, n=0)
