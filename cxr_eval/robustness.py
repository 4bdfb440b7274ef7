"""Robust accuracy of any network from arrays, and the doubts about it: two functions that need neither protocol nor plugin."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.presets import Quick, Standard, Strong
from cxr_eval.attacks.suite import attack_outcomes
from cxr_eval.attacks.validity import MOST_IMAGES, Check, Verdict, battery
from cxr_eval.classifier import find_device
from cxr_eval.complaints import shown
from cxr_eval.params import parse_radius
from cxr_eval.stats.intervals import patient_weights, with_interval
from cxr_eval.types import Norm, Task, format_eps

Array = npt.NDArray[np.generic] | torch.Tensor
Radius = float | str
"""A number, or text such as `8/255`."""

PRESETS: dict[str, type[cxr.Attack]] = {"quick": Quick, "standard": Standard, "strong": Strong}
RESAMPLES = 1000
MOST_SEED = 2**32 - 1
"""What numpy's global generator takes, which attacks of libraries draw from."""
WIDTH = 120
"""Columns of a printed table."""


@dataclass(frozen=True, repr=False)
class Validity:
    """What each check of the battery found; printed as a table."""

    checks: tuple[Check, ...]
    eps: float
    norm: Norm
    n: int
    """Images that were looked at."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks' verdicts."""
        order: tuple[Verdict, ...] = ("FAIL", "WARN", "PASS")
        return next((verdict for verdict in order if any(check.verdict == verdict for check in self.checks)), "SKIP")

    def __getitem__(self, code: str) -> Check:
        """The check of that code.

        Raises:
            KeyError: there is none.
        """
        for check in self.checks:
            if check.code == code:
                return check
        raise KeyError(code)

    def __repr__(self) -> str:
        told = [f"{self.verdict}: {self.n} images, {self.norm} radius {format_eps(self.eps)}"]
        code = max(len(check.code) for check in self.checks)
        for check in self.checks:
            lead = f"{check.verdict}  {check.code:{code}}  "
            told += textwrap.wrap(
                f"{check.title}. {check.sentence}", WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead)
            )
        return "\n".join(told)


@dataclass(frozen=True)
class AtRadius:
    """Robust accuracy at one radius."""

    eps: float
    robust_accuracy: float
    low: float
    """Lower end of the 95 % interval, like `high` NaN where none can be given."""
    high: float
    n: int
    broken: dict[str, int]
    """How many images that are right without attack each attack has broken, at this radius or a smaller one."""


@dataclass(frozen=True, repr=False)
class RobustAccuracy:
    """Robust accuracy at each radius, the smallest first; printed as a table."""

    curve: tuple[AtRadius, ...]
    outcomes: pd.DataFrame
    """One line an image and radius, as `attacks.suite.attack_outcomes` gives them; `image_id` is the place in the arrays."""
    preset: str
    norm: Norm

    def __repr__(self) -> str:
        lines = [("eps", "robust accuracy", "95% interval", "n", "broken by")]
        for at in self.curve:
            broken = ", ".join(f"{name} {count}" for name, count in at.broken.items())
            interval = "-" if np.isnan(at.low) else f"{at.low:.3f} to {at.high:.3f}"
            lines.append((format_eps(at.eps), f"{at.robust_accuracy:.3f}", interval, str(at.n), broken or "-"))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join((f"{self.preset} attacks, {self.norm}", *rows))


def check_validity(
    model: torch.nn.Module,
    x: Array,
    y: Array,
    eps: Radius = 0.05,
    *,
    norm: Norm = "linf",
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    surrogate: torch.nn.Module | None = None,
    images: int = MOST_IMAGES,
    seed: int = 0,
    device: str = "auto",
) -> Validity:
    """Whether robust accuracies of a network at this radius may be believed: the checks of `attacks.validity.battery`.

    model: logits (N, K) from images in [0, 1], its normalisation inside; one logit serves two classes. It is moved to the
    device and stays there; its mode is restored. It must take batches of any size.
    x: images, (N, C, H, W) float in [0, 1]. y: class indices (N,), or findings (N, K) of 0, 1 and NaN (unknown).
    eps: radius in `norm`, pixel units; text such as `8/255` is read. classes: their names. surrogate: another network for the
    same task. images: how many are looked at, drawn by class; at most 100.

    Raises:
        ValueError: images, labels, radius or network are not as described; one line says what to do.
        DeviceError: there is no such device.
    """
    (radius,) = _radii([eps], norm)
    if radius == 0:
        raise ValueError("expected eps above 0: there is nothing to doubt about accuracy without attack")
    if not isinstance(images, (int, np.integer)) or not 1 <= images <= MOST_IMAGES:
        raise ValueError(f"expected images from 1 to {MOST_IMAGES}, got {images}")
    seed = _seed(seed)
    chosen = _image_set(x, y, task, None)
    classifier, chosen = _classifier(model, chosen, classes, device)
    other = None if surrogate is None else _classifier(surrogate, chosen, chosen.classes, device)[0]
    index = chosen.draw(images, seed=seed)
    checks = battery(classifier, chosen.take(index), chosen.targets(index), eps=radius, norm=norm, seed=seed, surrogate=other)
    return Validity(checks, radius, norm, len(index))


def robust_accuracy(
    model: torch.nn.Module,
    x: Array,
    y: Array,
    eps: Radius | Sequence[Radius] = (0.01, 0.02, 0.05),
    norm: Norm = "linf",
    preset: str = "strong",
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "auto",
) -> RobustAccuracy:
    """Share of images that stay right under every attack of a preset, for each radius.

    model, x, y, norm, task, classes, device: as in `check_validity`. eps: one radius or several; 0 gives the accuracy without
    attack. preset: quick, standard or strong (`attacks.presets`). patients: whose image each is, (N,); intervals then resample
    patients, else images. images: how many are attacked, drawn by class; all if not given.
    Findings: an image is right if every known finding is.

    Raises:
        ValueError: images, labels, radii, preset or network are not as described; one line says what to do.
        DeviceError: there is no such device.
    """
    several = (
        eps if isinstance(eps, Sequence) and not isinstance(eps, str) else np.ravel(np.asarray(eps, dtype=object)).tolist()
    )
    radii = _radii(several, norm)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset '{preset}': expected {', '.join(PRESETS)}")
    for what, number in (("images", images), ("batch_size", batch_size)):
        if number is not None and (not isinstance(number, (int, np.integer)) or number < 1):
            raise ValueError(f"{what}: expected a whole number of at least 1, got {number}")
    seed = _seed(seed)
    chosen = _image_set(x, y, task, patients)
    classifier, chosen = _classifier(model, chosen, classes, device)
    _follows_gradients(classifier, chosen)
    attack = PRESETS[preset](eps=list(radii), norm=norm)
    outcomes = attack_outcomes(
        classifier, chosen, chosen.draw(images, seed=seed), attack, name=preset, batch_size=batch_size, seed=seed
    )
    curve = tuple(_at_radius(radius, outcomes[outcomes["eps"] == radius], seed) for radius in sorted(set(radii)))
    return RobustAccuracy(curve, outcomes, preset, norm)


def _at_radius(eps: float, at: pd.DataFrame, seed: int) -> AtRadius:
    robust, patients = at["robust"].to_numpy(dtype=float), at["patient"].tolist()
    count = len(set(patients))
    found = with_interval(
        lambda weights: {"robust": weights @ robust / weights.sum(axis=1)},
        patient_weights(patients, resamples=RESAMPLES, seed=seed),
        patients=count,
        proportions={"robust": count},
    )
    by = at.loc[at["clean_correct"] & ~at["robust"], "by"].value_counts()
    return AtRadius(eps, *found["robust"], len(at), {str(name): int(number) for name, number in by.items()})


def _seed(seed: int) -> int:
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed: expected a whole number from 0 to {MOST_SEED}, got {shown(seed)}")
    return int(seed)


def _radii(values: Sequence[Radius], norm: Norm) -> tuple[float, ...]:
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm '{norm}': expected linf or l2")
    if len(values) == 0:
        raise ValueError("expected at least one radius, got none")
    radii = []
    for value in values:
        try:
            radius = float(parse_radius(value))
        except (TypeError, RuntimeError):  # nothing, a list, a tensor of several
            raise ValueError(f"expected a radius as a number or text such as 8/255, got {value}") from None
        if not 0 <= radius < np.inf:
            raise ValueError(f"expected a radius of at least 0, got {value}")
        if norm == "linf" and radius > 1:
            meant = f"; did you mean {radius:g}/255?" if radius <= 255 else ""
            raise ValueError(f"eps {radius:g} is in pixel units of [0, 1] and cannot exceed 1{meant}")
        radii.append(radius)
    return tuple(radii)


def _tensor(values: Array, what: str) -> torch.Tensor:
    try:
        return torch.as_tensor(np.array(values) if isinstance(values, np.ndarray) else values).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"expected {what} as an array or a tensor of numbers, got {type(values).__name__}") from None


def _image_set(x: Array, y: Array, task: Task | None, patients: Sequence[str] | None) -> cxr.ImageSet:
    """The arrays as images of one split, with the numbers of classes for names."""
    if task not in (None, "multiclass", "multilabel"):
        raise ValueError(f"task '{task}': expected multiclass or multilabel")
    pixels, labels = _tensor(x, "images"), _tensor(y, "labels")
    if not pixels.is_floating_point():
        raise ValueError(f"expected images as floats in [0, 1], got {pixels.dtype}; divide by their largest value, such as 255")
    if pixels.ndim != 4 or len(pixels) == 0:
        raise ValueError(f"expected images (N, C, H, W) with N at least 1, got {tuple(pixels.shape)}")
    if not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):  # also where one is NaN
        raise ValueError(
            f"expected images in [0, 1], got {float(pixels.min()):g} to {float(pixels.max()):g}; scale them, and make"
            " normalisation the model's first layer"
        )
    kind: Task = "multiclass" if labels.ndim == 1 else "multilabel"
    if labels.ndim not in (1, 2) or len(labels) != len(pixels) or (task is not None and task != kind):
        wanted = {"multiclass": "(N,)", "multilabel": "(N, K)", None: "(N,) or (N, K)"}[task]
        raise ValueError(f"expected labels {wanted} for {len(pixels)} images, got {tuple(labels.shape)}")
    if patients is not None and len(patients) != len(pixels):
        raise ValueError(f"expected a patient for each of {len(pixels)} images, got {len(patients)}")
    y_array = _classes(labels) if kind == "multiclass" else _findings(labels)
    numbers = [str(place) for place in range(len(pixels))]
    table = pd.DataFrame({"image_id": numbers, "patient": numbers if patients is None else [str(one) for one in patients]})
    names = tuple(str(k) for k in range(int(y_array.max()) + 1 if y_array.ndim == 1 else y_array.shape[1]))
    return cxr.ImageSet(pixels.float().numpy(), np.arange(len(pixels)), y_array, table, names, "images")


def _classes(labels: torch.Tensor) -> npt.NDArray[np.int64]:
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"expected class indices as whole numbers, got {labels.dtype}; findings are (N, K)")
    indices: npt.NDArray[np.int64] = labels.to(torch.int64).numpy()
    if indices.min() < 0:
        raise ValueError(f"expected class indices from 0 on, got {indices.min()}")
    return indices


def _findings(labels: torch.Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = labels.to(torch.float32).numpy()
    known = ~np.isnan(found)
    if not np.isin(found[known], (0, 1)).all():
        raise ValueError("expected findings of 0, 1 and NaN (unknown), got other numbers")
    if not known.any(axis=1).all():
        raise ValueError(f"{int((~known.any(axis=1)).sum())} of {len(found)} images have no known finding; leave them out")
    return found


def _classifier(
    model: torch.nn.Module, images: cxr.ImageSet, classes: Sequence[str] | None, device: str
) -> tuple[cxr.Classifier, cxr.ImageSet]:
    """The network as attacks need it, and the images with the names of all its classes."""
    task: Task = "multiclass" if images.y.ndim == 1 else "multilabel"
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"expected a torch.nn.Module as the model, got {type(model).__name__}; put a function into one's forward"
        )
    target = find_device(device)
    model.to(target)
    outputs = _answer(model, images.take([0]).to(target), "one image")
    _answer(model, images.take([0, 0]).to(target), "two images")
    if outputs.dtype != torch.float32:
        raise ValueError(f"expected logits as float32, the model gives {outputs.dtype}; end its forward with .float()")
    if not bool(outputs.isfinite().all()):
        raise ValueError("expected finite logits, the model gives NaN or infinity for the first image without attack")
    count = 2 if outputs.shape[1] == 1 and task == "multiclass" else outputs.shape[1]
    if task == "multiclass" and int(images.y.max()) >= count:
        raise ValueError(f"expected labels from 0 to {count - 1}, which the model has logits for, got {images.y.max()}")
    if count < 2 or (task == "multilabel" and images.y.shape[1] != count):
        raise ValueError(f"expected labels ({len(images)}, {count}), at least two findings, got {images.y.shape}")
    names = tuple(str(k) for k in range(count)) if classes is None else tuple(str(name) for name in classes)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"expected {count} different class names, got {', '.join(names)}")
    classifier = cxr.Classifier(model, input_shape=images.shape, nb_classes=count, task=task, device=device)
    named = cxr.ImageSet(images.pixels, images.rows, images.y, images.table, names, images.name)
    return classifier, named


def _answer(model: torch.nn.Module, x: torch.Tensor, what: str) -> torch.Tensor:
    """Logits (N, K) of images x (N, C, H, W), called `what` in messages; the model must be on their device."""
    alone = "" if len(x) == 1 else "; attacks change many at once, so let its forward take a batch of any size"
    try:
        with cxr.frozen(model), torch.no_grad():
            outputs = model(x)
    except Exception as error:  # whatever a network of someone else raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"the model cannot take images {tuple(x.shape)}: {reason}{alone}") from None
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
        got = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ValueError(f"expected logits ({len(x)}, K) for {what}, the model gives {got}{alone}")
    return outputs


def _follows_gradients(classifier: cxr.Classifier, images: cxr.ImageSet) -> None:
    image = images.take([0]).to(classifier.device).requires_grad_(True)
    with cxr.frozen(classifier.model), torch.enable_grad():
        if not classifier.model(image).requires_grad:
            raise ValueError(
                "the model's answer has no gradient at all, so no attack that follows it can be run; take out the step"
                " that cuts it (rounding, argmax, no_grad), and see check_validity"
            )
