"""Whether explainers and explanation metrics do what they say, tried before they are used: one record a plugin and check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cxr_eval.classifier import Classifier
from cxr_eval.errors import PluginError, raised_at
from cxr_eval.explain.methods import IntegratedGradients
from cxr_eval.perturb import frozen
from cxr_eval.planned import PlannedPlugin
from cxr_eval.plugin import Explained, Explainer, ExplanationMetric
from cxr_eval.types import Task

Verdict = Literal["PASS", "FAIL", "SKIP"]
Finding = tuple[Verdict, dict[str, float], str]
FloatArray = npt.NDArray[np.float64]

IMAGES = 4
"""Images on which an explainer is tried with the network itself."""

ROUNDING = 1e-3
"""Relative difference that is put down to float32: a network may sum in another order for another number of images."""

SMALL = 0.01
"""Size of a value below which its differences are no longer relative: 0 is never met exactly."""

CONTRAST = 0.1
"""How much higher a map must be on the patch that decides than beside it, as a share of its mean sizes on both."""

SIZE, PATCH, TOYS = 16, 4, 12
"""Sides of the toy images and of their patch in pixels, and how many images: more than folds that a metric deals out."""

FEW = 3
"""Toy images for checks in which a metric is run once an image."""

TOP, LEFT = 3, 9
"""Upper left corner of the patch: off the centre and off the borders, which some maps prefer by themselves."""

LOGIT = 4.0
"""The toy's logit for the patch: sure, and not so sure that its probability no longer moves."""


@dataclass(frozen=True)
class SelfTest:
    """What came of one check of one plugin."""

    plugin: str
    """Its kind: explainers or explanation_metrics."""
    label: str
    check: str
    """maps, batch, scale or polarity."""
    verdict: Verdict
    numbers: dict[str, float]
    sentence: str
    kind: str = "self_test"


class Textured(torch.nn.Module):
    """A linear network that a chequered patch alone decides: each of its pixels, kept as it is, adds the same to logit 1.

    The weights sum to 0, so that a patch filled with any one grey, darker or brighter, says nothing.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.same = torch.nn.Conv2d(channels, 1, 1, bias=False)
        self.head = torch.nn.Linear(SIZE * SIZE, classes)
        with torch.no_grad():
            self.same.weight.fill_(1 / channels)
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[1] = torch.from_numpy(_weights()).flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.same(x).flatten(1))
        return logits


class Bright(torch.nn.Module):
    """A network that averages what is brighter than 0.5 over the picture, for methods that need such a head."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.above = torch.nn.Conv2d(channels, 1, 1)
        self.head = torch.nn.Linear(1, classes)
        with torch.no_grad():
            self.above.weight.fill_(1 / channels)
            self.above.bias.fill_(-0.5)  # type: ignore[union-attr]
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[1] = LOGIT * SIZE * SIZE / PATCH**2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.above(x)).mean(dim=(2, 3)))
        return logits


def self_tests(
    explainers: Sequence[PlannedPlugin],
    metrics: Sequence[PlannedPlugin],
    classifier: Classifier,
    x: torch.Tensor,
    *,
    kinds: tuple[str, ...] = (),
) -> list[SelfTest]:
    """What came of all checks of all plugins; a plugin that raises has failed.

    Explainers: `maps` (shape and finite numbers) and `batch` (an image alone and among others) on the classifier with at most 4
    of the images x (N, C, H, W); `polarity` on toy networks of which it is known what decides (high = important). Metrics, all
    on a toy: `polarity` (the right map against its reverse; localisation and faithfulness only), `scale` (a map ten times as
    large) and `batch`. kinds: of region that the images explained have.
    """
    images = x[:IMAGES].to(classifier.device)
    found = []
    for planned in explainers:
        found += [*_tried(planned, "explainers", _explainer_checks(planned, classifier, images))]
    for planned in metrics:
        found += [*_tried(planned, "explanation_metrics", _metric_checks(planned, classifier.task, x.shape[1], kinds))]
    return found


def failed_labels(records: Iterable[SelfTest]) -> frozenset[tuple[str, str]]:
    """Kind and label of the plugins that failed a check, for `Explanations.failed`."""
    return frozenset((record.plugin, record.label) for record in records if record.verdict == "FAIL")


def _tried(planned: PlannedPlugin, kind: str, checks: Iterable[tuple[str, Callable[[], Finding]]]) -> Iterator[SelfTest]:
    for check, run in checks:
        try:
            verdict, numbers, sentence = run()
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; the others are tried all the same
            said = str(error).partition("\n")[0]
            verdict, numbers = "FAIL", {}
            sentence = f"it stopped with {raised_at(error)}{type(error).__name__}: {said}"
        yield SelfTest(kind, planned.label, check, verdict, numbers, f"{planned.label}: {sentence}")


def _explainer_checks(
    planned: PlannedPlugin, classifier: Classifier, x: torch.Tensor
) -> Iterator[tuple[str, Callable[[], Finding]]]:
    method: Explainer = planned.cls(planned.params)
    yield "maps", partial(_maps, method, classifier, x)
    yield "batch", partial(_explainer_batch, method, classifier, x)
    yield "polarity", partial(_explainer_polarity, method, x.shape[1], classifier.nb_classes)


def _maps(method: Explainer, classifier: Classifier, x: torch.Tensor) -> Finding:
    maps = method.explain(classifier.model, x, _targets(classifier, x))
    expected = (len(x), *x.shape[2:])
    if tuple(maps.shape) != expected:
        return "FAIL", {}, f"its maps have shape {tuple(maps.shape)}, expected {expected}."
    finite = float(torch.isfinite(maps).float().mean())
    if finite < 1:
        return "FAIL", {"finite": finite}, f"{finite:.1%} of the numbers in its maps are finite, expected all."
    return "PASS", {"finite": finite}, f"its maps of {len(x)} images are finite and as large as the images."


def _explainer_batch(method: Explainer, classifier: Classifier, x: torch.Tensor) -> Finding:
    if len(x) < 2:
        return "SKIP", {}, "there is one image only, so nothing to compare its map among others with."
    target = _targets(classifier, x)
    together = method.explain(classifier.model, x, target).double()
    alone = torch.cat([method.explain(classifier.model, x[k : k + 1], target[k : k + 1]) for k in range(len(x))]).double()
    size = together.abs().amax(dim=(1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    difference = float(((together - alone).abs().amax(dim=(1, 2)) / size).max())
    if not difference <= ROUNDING:  # also where it is NaN
        return "FAIL", {"difference": difference}, f"a map changes by {difference:.2g} of its size when images stand beside it."
    return "PASS", {"difference": difference}, "an image has the same map alone and among others."


def _explainer_polarity(method: Explainer, channels: int, classes: int) -> Finding:
    """PASS if on one toy the map is higher where the network looks: no toy suits every method and baseline."""
    inside, contrasts, refusals = _inside(), dict[str, float](), list[str]()
    target = torch.ones(TOYS, dtype=torch.int64)
    for name, network, x in (
        ("textured", _built(Textured, channels, classes), _textured(channels)),
        ("bright", _built(Bright, channels, classes), _bright(channels)),
    ):
        try:
            method.check(network, x[:1])
        except PluginError as error:
            refusals.append(str(error))
            continue
        maps = method.explain(network, x, target).detach().double().numpy()
        on, beside = maps[:, inside], maps[:, ~inside]
        size = float(np.abs(on).mean() + np.abs(beside).mean())
        contrasts[name] = float(on.mean() - beside.mean()) / size if size > 0 else 0.0
    if not contrasts:
        return "SKIP", {}, f"it does not take the toy networks ({refusals[0]}), so that where it looks is not known."
    best = max(contrasts.values())
    if not best >= CONTRAST:
        return (
            "FAIL",
            contrasts,
            "its maps are not higher on the one patch that decides than beside it: high must be important.",
        )
    return "PASS", contrasts, "its maps are higher on the one patch that decides than beside it."


def _metric_checks(
    planned: PlannedPlugin, task: Task, channels: int, kinds: tuple[str, ...]
) -> Iterator[tuple[str, Callable[[], Finding]]]:
    if planned.settings.get("compat") == "quantus":
        skipped: Finding = ("SKIP", {}, "compat: quantus asks for the library's numbers, with its faults; they are not judged.")
        for check in ("polarity", "scale", "batch"):
            yield check, lambda: skipped
        return
    toy = _Toy(planned, task, channels, kinds or ("lesion",))
    yield "polarity", toy.polarity
    yield "scale", toy.scale
    yield "batch", toy.batch


@dataclass(frozen=True)
class _Toy:
    """One metric on the textured toy."""

    planned: PlannedPlugin
    task: Task
    channels: int
    kinds: tuple[str, ...]

    def metric(self, maps: FloatArray | None = None) -> ExplanationMetric:
        """The metric, tuned on the toy's own maps if it is one that is tuned."""
        made: ExplanationMetric = self.planned.cls(self.planned.params)
        if made.tuned_on:
            made.tuned = made.tune([self.explained(maps)])
        return made

    def explained(self, maps: FloatArray | None = None, rows: slice = slice(None), factor: float = 1.0) -> Explained:
        """The toy images `rows` with the maps given (TOYS, SIZE, SIZE), by default integrated gradients, times a factor."""
        x, network = _textured(self.channels)[rows], _built(Textured, self.channels, 2)
        target, method = torch.ones(len(x), dtype=torch.int64), IntegratedGradients(steps=2)  # exact: the toy is linear

        def explain(model: torch.nn.Module, images: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                return factor * method.explain(model, images, goal)

        made = explain(network, x, target).numpy() if maps is None else (factor * maps[rows]).astype(np.float32)
        return Explained(
            model=network,
            x=x.numpy(),
            target=target.numpy(),
            maps=made,
            explain=explain,
            region=lambda kind: np.repeat(_inside()[None], len(x), axis=0),
            kinds=self.kinds,
            classes=2,
            seed=0,
            task=self.task,
        )

    def polarity(self) -> Finding:
        cls = self.planned.cls
        if cls.family not in ("localisation", "faithfulness") or cls.better == "neither":
            return "SKIP", {}, f"no map is known that must score better in a metric of {cls.family}."
        # what each pixel adds to the logit: right also for metrics that compare sizes
        share = _inside() * (LOGIT / PATCH**2)
        right, wrong = (np.repeat(each[None].astype(np.float64), TOYS, axis=0) for each in (share, share.max() - share))
        scores = [self._mean(maps) for maps in (right, wrong)]
        sign = 1.0 if cls.better == "higher" else -1.0
        gains = {name: sign * (value - scores[1].get(name, np.nan)) for name, value in scores[0].items()}
        gains = {name: gain for name, gain in gains.items() if np.isfinite(gain)}
        if any(gain > 0 for gain in gains.values()):
            return "PASS", gains, "the map of what decides scores better than its reverse."
        if not any(gain < 0 for gain in gains.values()):
            return (
                "SKIP",
                gains,
                "it does not tell the map of what decides from its reverse on the toy, or is not defined there.",
            )
        return "FAIL", gains, f"the map of what decides scores worse than its reverse, where {cls.better} is better."

    def _mean(self, maps: FloatArray) -> dict[str, float]:
        """Means over images, without thresholds that the metric reports of itself."""
        metric = self.metric(maps)
        settled = metric.settle(
            metric.measure(self.explained(maps)),
            targets=np.ones(TOYS, dtype=np.int64),
            patients=[f"p{k}" for k in range(TOYS)],
            classes=("absent", "present"),
        )
        kept = {name: values[np.isfinite(values)] for name, values in settled.items() if "[threshold" not in name}
        return {name: float(values.mean()) if len(values) else float("nan") for name, values in kept.items()}

    def scale(self) -> Finding:
        if not self.planned.cls.scale_free:
            return "SKIP", {}, "by its definition the size of a map counts."
        difference = _difference(
            *(self.metric().measure(self.explained(rows=slice(FEW), factor=factor)) for factor in (1.0, 10.0))
        )
        if not difference <= ROUNDING:
            return "FAIL", {"difference": difference}, f"a map ten times as large changes its value by {difference:.2g}."
        return "PASS", {"difference": difference}, "a map ten times as large has the same value."

    def batch(self) -> Finding:
        together = self.metric().measure(self.explained(rows=slice(FEW)))
        parts = [self.metric().measure(self.explained(rows=slice(k, k + 1))) for k in range(FEW)]
        if any(part.keys() != together.keys() for part in parts):
            return "FAIL", {}, "it gives other names for an image alone than among others."
        alone = {name: np.concatenate([part[name] for part in parts]) for name in together}
        difference = _difference(together, alone)
        if not difference <= ROUNDING:
            return "FAIL", {"difference": difference}, f"a value changes by {difference:.2g} when images stand beside it."
        return "PASS", {"difference": difference}, "an image has the same value alone and among others."


def _difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Largest relative difference of values by name; inf where only one of two is defined. Values below `SMALL` count as it."""
    largest = 0.0 if first.keys() == second.keys() else float("inf")
    for name in first.keys() & second.keys():
        a, b = (np.asarray(values[name], dtype=np.float64) for values in (first, second))
        if a.shape != b.shape or (np.isfinite(a) != np.isfinite(b)).any():
            return float("inf")
        both = np.isfinite(a)
        apart = np.abs(a[both] - b[both]) / np.maximum(SMALL, np.abs(a[both]))
        largest = max(largest, float(apart.max(initial=0.0)))
    return largest


def _targets(classifier: Classifier, x: torch.Tensor) -> torch.Tensor:
    """The likeliest class of each image: the one that is sure to be there."""
    with frozen(classifier.model), torch.no_grad():
        logits: torch.Tensor = classifier.model(x)
        return logits.argmax(dim=1)


def _built(kind: type[Textured] | type[Bright], channels: int, classes: int) -> torch.nn.Module:
    """A toy network; its layers draw weights, which are replaced, and the global generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        return kind(channels, classes).eval()


def _inside() -> npt.NDArray[np.bool_]:
    """The patch, (SIZE, SIZE)."""
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    inside[TOP : TOP + PATCH, LEFT : LEFT + PATCH] = True
    return inside


def _weights() -> npt.NDArray[np.float32]:
    """Weights of the textured toy, (SIZE, SIZE): a chequered patch, 0 beside it, `LOGIT` in all for its own image."""
    chequered = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 2.0 - 1
    return np.asarray(_inside() * chequered * LOGIT / (0.3 * PATCH**2), dtype=np.float32)


def _textured(channels: int) -> torch.Tensor:
    """Images (TOYS, C, SIZE, SIZE) for `Textured`: grey with faint noise of their own, and the chequered patch."""
    rng = np.random.default_rng(0)
    x = 0.5 + rng.uniform(-0.05, 0.05, (TOYS, 1, SIZE, SIZE))
    x[:, 0] += 0.3 * np.sign(_weights())
    return torch.from_numpy(np.repeat(x, channels, axis=1).astype(np.float32))


def _bright(channels: int) -> torch.Tensor:
    """Images (TOYS, C, SIZE, SIZE) for `Bright`: dark with faint noise of their own, and a bright patch."""
    rng = np.random.default_rng(0)
    x = 0.2 + rng.uniform(-0.05, 0.05, (TOYS, 1, SIZE, SIZE))
    x[:, 0] += 0.6 * _inside()
    return torch.from_numpy(np.repeat(x, channels, axis=1).astype(np.float32))
