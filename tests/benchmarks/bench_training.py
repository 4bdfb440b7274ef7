"""How long an epoch of training takes: every trainer against the passes that its equations need, and pgd against ART's.

Run by hand: `python tests/benchmarks/bench_training.py [rounds] [--images N] [--size PIXELS] [--gpu]`. ResNet-18 and
DenseNet-121, 1 channel, batches of 16, one thread, CPU time. Rivals take turns, first one ahead and then the other, so that a
busy machine slows both; medians of the ratios of each round. With `--gpu` also images a second on a GPU, and how often a step
there makes the host wait.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import cxr_eval.api as cxr
from cxr_eval.classifier import Classifier, PyTorchClassifier
from cxr_eval.registry import find
from cxr_eval.training import Training

from art.defences.trainer import AdversarialTrainerMadryPGD  # isort: skip  # after classifier, which keeps ART off our logging

BATCH, CLASSES, EPS, STEP = 16, 3, 8 / 255, 2 / 255
STEPS, ART_STEPS = 3, 7
SEARCH = {"eps": EPS, "steps": STEPS}
FAST = {"precision": "bfloat16", "channels_last": True}
WAITS = {"cudaStreamSynchronize", "cudaEventSynchronize", "aten::item", "aten::_local_scalar_dense"}


@dataclass(frozen=True)
class Passes:
    """What one step of a trainer needs: forward and backward passes over a whole batch, and one step of the optimizer."""

    trained: int = 1
    """Forward passes in training mode whose losses are added, and one backward pass to all weights."""
    gradients: int = 0
    """Gradients with respect to the images, in evaluation mode and with frozen weights."""
    looks: int = 0
    """Forward passes in evaluation mode without any gradient."""
    ascents: int = 0
    """Forward passes in training mode with a backward pass to all weights, which the optimizer does not follow."""


EQUATIONS: dict[str, tuple[dict[str, object], Passes]] = {
    "standard": ({}, Passes()),
    "fgsm": ({"eps": EPS}, Passes(trained=2, gradients=1)),
    "pgd": (SEARCH, Passes(gradients=STEPS)),
    "trades": (SEARCH, Passes(trained=2, gradients=STEPS, looks=1)),  # a look: the prediction that the attack leaves
    "dpaat": (SEARCH, Passes(trained=2, gradients=STEPS)),
    "amat": (SEARCH, Passes(trained=2, gradients=STEPS, looks=1)),  # a look of the reference, once a training: one epoch here
    "sg": ({}, Passes(trained=2, gradients=1)),
    "sga": ({}, Passes(trained=2, gradients=2)),
    "awp": (SEARCH, Passes(gradients=STEPS, ascents=1)),
}


def network(name):
    """A network for grey images, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(num_classes=CLASSES)
        if name == "resnet18":
            model.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        else:
            model.features.conv0 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model


def images(count, size):
    """Grey noise and labels."""
    rng = np.random.default_rng(0)
    return rng.random((count, 1, size, size), dtype=np.float32), np.arange(count) % CLASSES


def ours(name, trainer, settings, x, device="cpu", batch=BATCH, epochs=1, **extra):
    """One of our trainers around a fresh network."""
    classifier = Classifier(network(name), input_shape=x.shape[1:], nb_classes=CLASSES, device=device)
    cls = find("trainers", trainer)
    reference = {"reference": network(name).to(device)} if cls.uses_reference else {}
    return cls(classifier, training=Training(epochs=epochs, batch_size=batch, **extra), **settings, **reference)


def our_epoch(name, trainer, settings, x, y, **extra):
    """An epoch of one of our trainers."""
    made = ours(name, trainer, settings, x, **extra)
    return lambda: made.fit(x, y)


def arts_epoch(name, x, y):
    """An epoch of ART's Madry trainer."""
    model = network(name)
    classifier = PyTorchClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        x.shape[1:],
        CLASSES,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    made = AdversarialTrainerMadryPGD(classifier, nb_epochs=1, batch_size=BATCH, eps=EPS, eps_step=STEP, max_iter=ART_STEPS)
    return lambda: made.fit(x, np.eye(CLASSES, dtype=np.float32)[y])


def bare_epoch(name, passes, x, y):
    """The passes alone."""
    model = network(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    weights = list(model.parameters())
    batches = list(zip(torch.from_numpy(x).split(BATCH), torch.from_numpy(y).split(BATCH), strict=True))

    def epoch():
        for clean, labels in batches:
            attacked = clean
            model.eval().requires_grad_(False)
            with torch.no_grad():
                for _ in range(passes.looks):
                    model(clean)
            for _ in range(passes.gradients):
                attacked = attacked.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(functional.cross_entropy(model(attacked), labels), attacked)
                attacked = attacked.detach() + STEP * gradient.sign()
            model.train().requires_grad_(True)
            for _ in range(passes.ascents):
                torch.autograd.grad(functional.cross_entropy(model(attacked), labels), weights)
            optimizer.zero_grad()
            loss = sum(functional.cross_entropy(model(part), labels) for part in (attacked, clean)[: passes.trained])
            loss.backward()
            optimizer.step()

    return epoch


def cpu_seconds(run):
    started = time.process_time()
    run()
    return time.process_time() - started


def duel(rounds, first, second):
    """Seconds of two makers of epochs, (rounds, 2); what makes an epoch is not timed."""
    taken = []
    for turn in range(rounds):
        order = (first, second) if turn % 2 == 0 else (second, first)
        seconds = [cpu_seconds(make()) for make in order]
        taken.append(seconds if turn % 2 == 0 else seconds[::-1])
    return np.array(taken)


def report(label, taken, target):
    ratio = statistics.median(taken[:, 0] / taken[:, 1])
    first, second = np.median(taken, axis=0)
    print(f"{label:58} {ratio:5.2f}  (target {target}; {first:.2f} s / {second:.2f} s)", flush=True)


def bookkeeping(x, y):
    """Time that dpaat's radii take of a step, as a share; the state is that of 10,000 images."""
    trainer = ours("resnet18", "dpaat", SEARCH, x)
    epoch = cpu_seconds(lambda: trainer.fit(x, y))
    trainer.on_fit_start(10_000)
    labels = torch.from_numpy(y[:BATCH])
    batch = cxr.Batch(torch.from_numpy(x[:BATCH]), labels, torch.arange(BATCH), 0)
    attacked, clean = torch.randn(2, BATCH, CLASSES)
    repeats = 200

    def update():
        for _ in range(repeats):
            trainer.radii.of(batch.index)
            trainer._visit(batch, attacked, clean, trainer.radii, batch.index)

    update()
    return cpu_seconds(update) / repeats / (epoch / (len(x) / BATCH))


def on_cpu(rounds, count, size):
    x, y = images(count, size)
    for name in ("resnet18", "densenet121"):
        print(f"\n{name}, {size} x {size} pixels, {count} images, {STEPS} steps of attacks")
        bare_epoch(name, Passes(), x, y)()  # warms up
        for trainer, (settings, passes) in EQUATIONS.items():
            taken = duel(
                rounds,
                lambda name=name, trainer=trainer, settings=settings: our_epoch(name, trainer, settings, x, y),
                lambda name=name, passes=passes: bare_epoch(name, passes, x, y),
            )
            report(f"{trainer} / the passes it needs", taken, "<= 1.08")
    print(f"\nresnet18, {ART_STEPS} steps")
    same = {"eps": EPS, "step": STEP, "steps": ART_STEPS}
    for label, extra, target in (("float32", {}, ">= 1.35"), ("bfloat16 and channels_last", FAST, ">= 2.2")):
        taken = duel(
            rounds,
            lambda: arts_epoch("resnet18", x, y),
            lambda extra=extra: our_epoch("resnet18", "pgd", same, x, y, **extra),
        )
        report(f"ART's Madry trainer / pgd, {label}", taken, target)
    print(f"\ndpaat's radii: {100 * bookkeeping(x, y):.2f} % of a step (target < 1 %)")


def waits(trainer, x, y, device):
    """How often the host waits for the device in three steps, by what it waits in; the images are on the device."""
    trainer.fit(x, y)  # what a trainer prepares before its first step is there
    batch = cxr.Batch(
        torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), torch.arange(len(x), device=device), epoch=0
    )
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1e-4)
    trainer.model.train()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    trainer.step(batch, optimizer)
    with profile(activities=activities) as watched:
        for _ in range(3):
            trainer.step(batch, optimizer)
    counts = {event.key: event.count for event in watched.key_averages() if event.key in WAITS}
    return counts or "none"


def on_gpu(device="cuda", count=2048, size=224, batch=64):
    """Images a second for every trainer and arithmetic: the second epoch of two, whose wall time holds all of the loop."""
    x, y = images(count, size)
    kinds = {"float32": {}, "bfloat16": {"precision": "bfloat16"}, "bfloat16 + channels_last": FAST}
    for name in ("resnet18", "densenet121"):
        print(f"\n{name}, {size} x {size} pixels, batches of {batch}, images a second: {', '.join(kinds)}; waits in 3 steps")
        for trainer, (settings, _) in EQUATIONS.items():
            rates = []
            for extra in kinds.values():
                made = ours(name, trainer, settings, x, device=device, batch=batch, epochs=2, **extra)
                ends = []
                # after an epoch the loop has read its losses, so the device has done all of it
                made.fit(x, y, progress=lambda at, ends=ends: ends.append(time.perf_counter()) if at.scores else None)
                rates.append(count / (ends[1] - ends[0]))
            waiting = waits(ours(name, trainer, settings, x[:batch], device=device, batch=batch), x[:batch], y[:batch], device)
            print(f"{trainer:10} {'  '.join(f'{rate:9.0f}' for rate in rates)}   waits: {waiting}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--gpu", action="store_true")
    chosen = parser.parse_args()
    if chosen.gpu and not torch.cuda.is_available():
        parser.error("--gpu: this machine has no GPU")
    torch.set_num_threads(1)
    on_cpu(chosen.rounds, chosen.images, chosen.size)
    if chosen.gpu:
        on_gpu()


if __name__ == "__main__":
    main()
