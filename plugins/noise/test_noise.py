"""Gaussian-noise training keeps the contract of a trainer, and adds the noise that it says."""

import pytest
import torch
from cxr_eval_noise import NoiseTrainer

import cxr_eval.api as cxr
from cxr_eval.testing import parametrize_with_checks


@parametrize_with_checks([(NoiseTrainer, {}), (NoiseTrainer, {"sigma": 0.5})])
def test_is_a_sound_trainer(check):
    check()


class Shown(torch.nn.Module):
    """Keeps the images that it is shown; the logits are the means of the upper and the lower half."""

    def forward(self, x):
        self.images = x
        return torch.stack([half.mean(dim=(1, 2, 3)) for half in x.chunk(2, dim=2)], dim=1)


def shown(sigma, x):
    """What the network is shown of x, and the loss."""
    model = Shown()
    classifier = cxr.Classifier(model, input_shape=tuple(x.shape[1:]), nb_classes=2, device="cpu")
    trainer = NoiseTrainer(classifier, sigma=sigma, seed=3)
    loss = trainer.loss(cxr.Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)), 0))
    return model.images, loss


def test_the_noise_has_the_standard_deviation_that_was_set():
    images, _ = shown(0.05, torch.full((50, 1, 20, 20), 0.5))
    # 20,000 draws: the standard error of the mean is 0.05 / sqrt(20,000) = 0.00035, that of the deviation 0.00025
    assert float(images.mean()) == pytest.approx(0.5, abs=4 * 0.00035)
    assert float(images.std()) == pytest.approx(0.05, abs=4 * 0.00025)


def test_every_pixel_has_noise_of_its_own_and_stays_valid():
    images, _ = shown(1.0, torch.full((4, 1, 8, 8), 0.5))
    assert float(images.min()) == 0.0
    assert float(images.max()) == 1.0
    inside = images[(images > 0) & (images < 1)]
    assert len(inside.unique()) == len(inside)


def test_without_noise_the_loss_is_the_cross_entropy():
    x = torch.cat([torch.ones(2, 1, 4, 8), torch.zeros(2, 1, 4, 8)], dim=2)  # logits 1 and 0, true class 0
    images, loss = shown(0.0, x)
    assert torch.equal(images, x)
    assert float(loss) == pytest.approx(0.3132617, abs=1e-6)  # -log(e / (e + 1))
