"""When each image breaks: at which step of one search, and at which of several restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import margin, right
from cxr_eval.attacks.seeds import uniform_start
from cxr_eval.perturb import direction, per_image, project

STEP = 0.25
"""Length of a step as a share of the radius: ten steps reach 2.5 radii (Madry et al., section 5), and later ones can still
move, so that the first steps of a long search are the short search."""

Loss = Literal["ce", "margin"]
"""What a search raises: the classifier's own loss, or the logit lead of the nearest wrong answer, which cannot underflow."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Convergence:
    """How long a search took to break each of N images."""

    first_step: FloatArray
    """(N,) gradient steps of the first restart after which the image is wrong; 0 without attack, inf if never."""
    first_restart: FloatArray
    """(N,) number of the restart, from 1, that makes the image wrong; 0 without attack, inf if none does."""
    clean_correct: npt.NDArray[np.bool_]
    """(N,) whether the image is right without attack."""
    steps: int
    restarts: int

    def after_steps(self) -> FloatArray:
        """Robust accuracy after 0, 1, ... `steps` steps of the first restart, (steps + 1,); NaN without images."""
        return _share_left(self.first_step, self.steps)

    def after_restarts(self) -> FloatArray:
        """Robust accuracy after 0, 1, ... `restarts` restarts, (restarts + 1,); NaN without images."""
        return _share_left(self.first_restart, self.restarts)


def _share_left(first: FloatArray, most: int) -> FloatArray:
    if len(first) == 0:
        return np.full(most + 1, np.nan)
    shares: FloatArray = (first[None, :] > np.arange(most + 1)[:, None]).mean(axis=1)
    return shares


def logits_and_gradient(
    classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K) and the gradient of each image's loss, shaped like x; call it inside `frozen`.

    Zeros where the logits do not come from the images by differentiable steps.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = classifier.model(x)
        # times N: the mean over a batch would make an image's gradient smaller the more images there are
        value = classifier.loss(logits, y) * len(y) if loss == "ce" else margin(logits, y, classifier.task).sum()
    gradient = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    return logits.detach().float(), torch.zeros_like(x) if gradient is None else gradient.detach()


def upward(gradient: torch.Tensor, norm: cxr.Norm) -> torch.Tensor:
    """The change of length 1 along which each image's loss rises fastest; none where the gradient is 0 or no number."""
    return direction(torch.nan_to_num(gradient, posinf=0.0, neginf=0.0), norm)


def convergence(
    classifier: cxr.Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    norm: cxr.Norm = "linf",
    steps: int = 100,
    restarts: int = 5,
    seed: int = 0,
    loss: Loss = "ce",
    step: float = STEP,
    batch_size: int = 64,
) -> Convergence:
    """The step and the restart at which projected gradient steps break each image; one run for both curves.

    x: images, (N, C, H, W) float32 in [0, 1]. y: class indices (N,) or findings (N, K), NaN unknown. eps: radius in `norm`,
    pixel units. step: length of a step as a share of eps.
    The first restart starts at the image itself, so that its step 0 is the image without attack; the others at a point of the
    ball that follows from the image and the seed. An image is judged after every step and leaves the search once it is wrong:
    at most restarts x (steps + 1) forward passes an image, and restarts x steps backward.

    Source: Carlini et al., arXiv:1902.06705, section 4.3 (convergence); Madry et al., ICLR 2018, arXiv:1706.06083, eq. 2.1.
    """
    parts = [
        _one_batch(classifier, images, labels, eps, norm, steps, restarts, seed, loss, step)
        for images, labels in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
        if len(images)
    ]
    first_step, first_restart = (np.concatenate([part[which] for part in parts]) if parts else np.empty(0) for which in (0, 1))
    return Convergence(first_step, first_restart, first_restart > 0, steps, restarts)


def _one_batch(
    classifier: cxr.Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float,
    norm: cxr.Norm,
    steps: int,
    restarts: int,
    seed: int,
    loss: Loss,
    step: float,
) -> tuple[FloatArray, FloatArray]:
    images, labels = x.to(classifier.device, torch.float32), y.to(classifier.device)
    first_step, first_restart = np.full(len(x), np.inf), np.full(len(x), np.inf)
    length = per_image(step * eps, images)
    with cxr.frozen(classifier.model):
        for restart in range(restarts):
            left = np.flatnonzero(np.isinf(first_restart))
            if len(left) == 0:
                break
            clean, label = images[left], labels[left]
            current = clean if restart == 0 else uniform_start(clean, eps, norm, seed, restart)
            for taken in range(steps + 1):
                logits, gradient = _looked_at(classifier, current, label, loss, last=taken == steps)
                stays = right(logits, label, classifier.task)
                wrong = left[~stays.cpu().numpy()]
                first_restart[wrong] = 0 if restart == taken == 0 else restart + 1
                if restart == 0:
                    first_step[wrong] = taken
                left, clean, label = left[stays.cpu().numpy()], clean[stays], label[stays]
                if taken == steps or len(left) == 0:
                    break
                current = project(current[stays] + length * upward(gradient[stays], norm), clean, eps, norm)
    return first_step, first_restart


def _looked_at(
    classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, loss: Loss, *, last: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and gradient; after the last step no gradient is needed."""
    if not last:
        return logits_and_gradient(classifier, x, y, loss)
    with torch.no_grad():
        return classifier.model(x).float(), torch.zeros_like(x)
