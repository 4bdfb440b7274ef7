"""How much faster ART's attacks run through our classifier than through ART's own, with the same images.

Run by hand: `python tests/benchmarks/bench_attacks.py [rounds]`. ResNet-18, 64 x 64 pixels, 1 channel, 32 images, one thread.
The two classifiers take turns, so that a busy machine slows both; medians of CPU time.
"""

import statistics
import sys
import time

import numpy as np
import torch
import torchvision

from cxr_eval.classifier import Classifier, PyTorchClassifier

from art.attacks import evasion  # isort: skip  # after classifier, which keeps ART off our logging

N, SIZE, CLASSES, EPS = 32, 64, 3, 8 / 255

ATTACKS = [
    # name, settings, whether it follows gradients
    ("FastGradientMethod", {"eps": EPS}, True),
    ("ProjectedGradientDescent", {"eps": EPS, "eps_step": 2 / 255, "max_iter": 10, "verbose": False}, True),
    ("BasicIterativeMethod", {"eps": EPS, "eps_step": 2 / 255, "max_iter": 10, "verbose": False}, True),
    ("MomentumIterativeMethod", {"eps": EPS, "eps_step": 2 / 255, "max_iter": 10, "verbose": False}, True),
    ("AutoProjectedGradientDescent", {"eps": EPS, "max_iter": 10, "nb_random_init": 1, "verbose": False}, True),
    ("DeepFool", {"max_iter": 5, "verbose": False, "batch_size": N}, True),
    ("SquareAttack", {"eps": EPS, "max_iter": 20, "verbose": False}, False),
]


def network():
    """A ResNet-18 for grey images, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=CLASSES)
        model.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model


def main(rounds):
    torch.set_num_threads(1)
    x = np.random.default_rng(0).random((N, 1, SIZE, SIZE), dtype=np.float32)
    shape = (1, SIZE, SIZE)
    art = PyTorchClassifier(network(), torch.nn.CrossEntropyLoss(), shape, CLASSES, clip_values=(0.0, 1.0), device_type="cpu")
    ours = Classifier(network(), input_shape=shape, nb_classes=CLASSES, device="cpu")
    # the labels are the network's own, so that no attack finds its work done
    y = np.eye(CLASSES, dtype=np.float32)[ours.predict(x).argmax(axis=1)]
    for name, settings, gradients in ATTACKS:
        taken, found = {"ART": [], "ours": []}, {}
        for turn in range(rounds + 1):
            for who, classifier in (("ART", art), ("ours", ours)):
                np.random.seed(0)  # ART draws from the global generator
                attack = getattr(evasion, name)(classifier, **settings)
                started = time.process_time()
                found[who] = attack.generate(x, y)
                if turn:  # the first round warms up
                    taken[who].append(time.process_time() - started)
        ratio = statistics.median(a / b for a, b in zip(taken["ART"], taken["ours"], strict=True))
        same = "same images" if np.array_equal(found["ART"], found["ours"]) else "OTHER IMAGES"
        target = "target >= 1.3" if gradients else "no gradients"
        times = f"ART {statistics.median(taken['ART']):6.2f} s, ours {statistics.median(taken['ours']):6.2f} s"
        print(f"{name:30} {times}, ratio {ratio:.2f} ({target}), {same}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
