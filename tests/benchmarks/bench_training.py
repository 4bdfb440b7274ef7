"""How long an epoch of training takes: our pgd against ART's Madry trainer, and our trainers against the passes they need.

Run by hand: `python tests/benchmarks/bench_training.py [rounds]`. ResNet-18, 64 x 64 pixels, 1 channel, 96 images, batches of
32, PGD with 7 steps, one thread. The candidates take turns, so that a busy machine slows all of them; medians of CPU time.
"""

import statistics
import sys
import time

import numpy as np
import torch
import torchvision
from torch.nn import functional

from cxr_eval.classifier import Classifier, PyTorchClassifier
from cxr_eval.trainers.fgsm import FGSMTrainer
from cxr_eval.trainers.pgd import PGDTrainer
from cxr_eval.trainers.standard import StandardTrainer
from cxr_eval.training import Training

from art.defences.trainer import AdversarialTrainerMadryPGD  # isort: skip  # after classifier, which keeps ART off our logging

N, BATCH, SIZE, CLASSES, EPS, STEP, STEPS = 96, 32, 64, 3, 8 / 255, 2 / 255, 7
PGD = {"eps": EPS, "step": STEP, "steps": STEPS}


def network():
    """A ResNet-18 for grey images, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=CLASSES)
        model.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model


def images():
    """Grey noise and labels."""
    rng = np.random.default_rng(0)
    return rng.random((N, 1, SIZE, SIZE), dtype=np.float32), rng.integers(0, CLASSES, N)


X, Y = images()


def ours(trainer, **settings):
    """An epoch of one of our trainers; what `prepare` gives is not timed."""
    fast = settings.pop("fast", False)
    extra = {"precision": "bfloat16", "channels_last": True} if fast else {}

    def prepare():
        classifier = Classifier(network(), input_shape=(1, SIZE, SIZE), nb_classes=CLASSES, device="cpu")
        made = trainer(classifier, training=Training(epochs=1, batch_size=BATCH, **extra), **settings)
        return lambda: made.fit(X, Y)

    return prepare


def arts():
    """An epoch of ART's Madry trainer."""

    def prepare():
        model = network()
        classifier = PyTorchClassifier(
            model,
            torch.nn.CrossEntropyLoss(),
            (1, SIZE, SIZE),
            CLASSES,
            optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        made = AdversarialTrainerMadryPGD(classifier, nb_epochs=1, batch_size=BATCH, eps=EPS, eps_step=STEP, max_iter=STEPS)
        return lambda: made.fit(X, np.eye(CLASSES, dtype=np.float32)[Y])

    return prepare


def bare(steps, clean):
    """The forward and backward passes alone: `steps` input gradients, one training step over `clean` + attacked images."""

    def prepare():
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x, y = torch.from_numpy(X), torch.from_numpy(Y)

        def epoch():
            for start in range(0, N, BATCH):
                images, labels = x[start : start + BATCH], y[start : start + BATCH]
                attacked = images
                model.eval().requires_grad_(False)
                for _ in range(steps):
                    attacked = attacked.detach().requires_grad_(True)
                    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(attacked), labels), attacked)
                    attacked = attacked.detach() + STEP * gradient.sign()
                model.train().requires_grad_(True)
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(attacked.detach()), labels)
                if clean:
                    loss = loss + functional.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()

        return epoch

    return prepare


CANDIDATES = {
    "ART Madry": arts(),
    "ours pgd": ours(PGDTrainer, **PGD),
    "ours pgd, bfloat16 + channels_last": ours(PGDTrainer, fast=True, **PGD),
    "bare pgd": bare(STEPS, clean=False),
    "ours fgsm": ours(FGSMTrainer, eps=EPS),
    "bare fgsm": bare(1, clean=True),
    "ours standard": ours(StandardTrainer),
    "bare standard": bare(0, clean=False),
}
RATIOS = [
    ("ART Madry", "ours pgd", ">= 1.35"),
    ("ART Madry", "ours pgd, bfloat16 + channels_last", ">= 2.2"),
    ("ours pgd", "bare pgd", "<= 1.10"),
    ("ours fgsm", "bare fgsm", "<= 1.10"),
    ("ours standard", "bare standard", "<= 1.10"),
]


def main(rounds):
    torch.set_num_threads(1)
    seconds = {name: [] for name in CANDIDATES}
    for turn in range(rounds + 1):
        for name, prepare in CANDIDATES.items():
            run = prepare()
            started = time.process_time()
            run()
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - started)
    for name, taken in seconds.items():
        print(f"{name:40} {statistics.median(taken):7.2f} s  ({min(taken):.2f} to {max(taken):.2f})")
    for first, second, target in RATIOS:
        by_round = [a / b for a, b in zip(seconds[first], seconds[second], strict=True)]
        print(f"{first} / {second}: {statistics.median(by_round):.2f} (target {target})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
