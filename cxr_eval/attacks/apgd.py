"""Auto-PGD: gradient steps with momentum that choose their own length, on four kinds of loss."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import leads, margin, right
from cxr_eval.attacks.seeds import uniform_start

MOMENTUM = 0.75
"""Share of the newest step in a move; the rest repeats the move before (the paper's alpha)."""

PROGRESS = 0.75
"""Share of the steps since the last checkpoint that must raise the loss, or else the step is halved (rho)."""

TINY = 1e-12
"""Keeps a ratio of logits finite where they are all alike; the authors' number."""

NEEDED = {"dlr": 3, "targeted_dlr": 4}
"""Classes that a loss needs, all of one image: its denominator sorts so many logits."""

TARGETED = ("targeted_margin", "targeted_dlr")

Loss = Literal["ce", "margin", "dlr", "targeted_margin", "targeted_dlr"]


def checkpoints(steps: int) -> tuple[int, ...]:
    """Steps after which the length of a step is reconsidered: ceil(p_j x steps), p in whole per cent.

    p_1 is 22 %; each gap is 3 % shorter than the one before, and at least 6 %.
    """
    at, gap, found = 22, 22, []
    while at <= 100:
        found.append(-(-at * steps // 100))
        gap = max(gap - 3, 6)
        at += gap
    return tuple(dict.fromkeys(found))  # of few steps, several checkpoints may be the same


def image_loss(kind: Loss, logits: torch.Tensor, y: torch.Tensor, target: torch.Tensor, task: cxr.Task) -> torch.Tensor:
    """The loss of each image, (N,), which rises as the image gets wrong.

    logits: (N, K). y: class indices (N,), or findings (N, K), of which NaN count for nothing. target: (N,), the class that the
    targeted losses want instead of y, or the finding that they want on its other side.

    ce: cross-entropy; of findings the mean over the known ones. margin: the largest lead of a wrong answer. dlr: that lead over
    the distance of the largest logit from the third. targeted_margin: the lead of the target. targeted_dlr: that lead over the
    distance of the largest logit from the mean of the third and fourth.
    """
    if kind == "ce":
        return cxr.image_losses(cxr.plain_criterion(task), logits, y)
    lead = leads(logits, y, task).gather(1, target[:, None])[:, 0] if kind in TARGETED else margin(logits, y, task)
    if kind not in NEEDED:
        return lead
    ordered = logits.sort(dim=1, descending=True).values
    low = ordered[:, 2] if kind == "dlr" else (ordered[:, 2] + ordered[:, 3]) / 2
    return lead / (ordered[:, 0] - low + TINY)


@dataclass
class Search:
    """Where the search stands with the images that are still right; the first axis of every tensor is the image.

    place: in the batch. clean, y, target: image, label, class wanted instead. x, before: where it is and was one move ago.
    loss, gradient: at x. best, best_loss, best_gradient: where the loss was highest so far. step: length of a step. rises: how
    often the loss rose since the last checkpoint. best_then, halved: best_loss at that checkpoint, and whether it halved.
    """

    place: torch.Tensor
    clean: torch.Tensor
    y: torch.Tensor
    target: torch.Tensor
    x: torch.Tensor
    before: torch.Tensor
    loss: torch.Tensor
    gradient: torch.Tensor
    best: torch.Tensor
    best_loss: torch.Tensor
    best_gradient: torch.Tensor
    step: torch.Tensor
    rises: torch.Tensor
    best_then: torch.Tensor
    halved: torch.Tensor

    def of(self, images: torch.Tensor) -> Search:
        """The search of some of the images, (N,) bool."""
        return Search(**{field.name: getattr(self, field.name)[images] for field in fields(self)})

    def remember_the_best(self) -> None:
        better = self.loss > self.best_loss
        self.best_loss = torch.where(better, self.loss, self.best_loss)
        self.best = torch.where(_wide(better), self.x, self.best)
        self.best_gradient = torch.where(_wide(better), self.gradient, self.best_gradient)

    def reconsider_the_step(self, interval: int) -> None:
        """Halve the steps of images that get no further, and send them back to their best point (algorithm 1)."""
        stuck = ~self.halved & (self.best_then >= self.best_loss)
        self.halved = (self.rises <= PROGRESS * interval) | stuck
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.x = torch.where(_wide(self.halved), self.best, self.x)
        self.gradient = torch.where(_wide(self.halved), self.best_gradient, self.gradient)
        self.best_then = self.best_loss
        self.rises = torch.zeros_like(self.rises)


class APGD(cxr.Attack):
    """Gradient steps with momentum in the ball, whose length each image halves for itself when it gets no further.

    Nothing needs tuning: the first step is twice the radius. An image that is found wrong on the way is kept as it is and not
    searched on; of the others, the point with the highest loss is returned. The targeted losses search once for each of the
    wrong answers that are nearest without attack. A random start follows from the seed and the image alone.

    As in the authors' code, a step is also halved if the loss rose in exactly the share rho of steps. Unlike it, images are
    clipped to [0, 1] before the L2 ball and not after, so that the whole radius is used at the edge of the range, and the first
    step counts as a rise only if the loss is above that of the start.
    """

    source = "Croce & Hein, ICML 2020, arXiv:2003.01690, algorithm 1; the DLR loss and its targeted version"
    transfers = False
    norms = ("linf", "l2")

    class Params(cxr.AttackParams):
        steps: int = cxr.Field(100, ge=1, description="gradient steps a search")
        restarts: int = cxr.Field(1, ge=1, description="searches an image (for each target), each from its own random start")
        loss: Loss = cxr.Field(
            "ce",
            description="ce: cross-entropy; margin: lead of the nearest wrong answer; dlr: that lead whatever the scale of the"
            " logits (3 classes or more); targeted_margin, targeted_dlr (4 classes or more): the same for one wrong answer"
            " after the other",
        )
        targets: int = cxr.Field(9, ge=1, le=9, description="wrong answers that targeted losses try, the nearest first")

    @property
    def steps(self) -> int:
        """Gradient steps a search."""
        steps: int = self.params.steps
        return steps

    def check(self, classifier: cxr.Classifier) -> None:
        """Refuse a loss that sorts more logits of one image than there are.

        Raises:
            PluginError: and which loss to take instead.
        """
        loss, classes, needed = self.params.loss, classifier.nb_classes, NEEDED.get(self.params.loss, 0)
        instead = "targeted_margin" if loss in TARGETED else "margin"
        if needed and classifier.task == "multilabel":
            raise cxr.PluginError(
                f"apgd: loss {loss} compares classes that exclude each other, and the network answers"
                f" {classes} findings; use loss {instead}"
            )
        if classes < needed:
            raise cxr.PluginError(f"apgd: loss {loss} needs at least {needed} classes, there are {classes}; use loss {instead}")

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """Adversarial images for x, (N, C, H, W) on the classifier's device."""
        images, labels = x.to(classifier.device), y.to(classifier.device)
        chosen = images.clone()
        highest = images.new_full((len(images),), -torch.inf)
        left = torch.arange(len(images), device=images.device)
        with cxr.frozen(classifier.model):
            targets = self._targets(classifier, images, labels)
            for rank in range(targets.shape[1]):
                for restart in range(self.params.restarts):
                    place = left[targets[left, rank] >= 0]
                    if len(place) == 0:
                        continue
                    start = uniform_start(images[place], eps, self.params.norm, seed, restart, rank)
                    found, loss, wrong = self._search(
                        classifier, images[place], labels[place], targets[place, rank], start, eps
                    )
                    better = wrong | (loss > highest[place])
                    chosen[place[better]] = found[better]
                    highest[place] = torch.maximum(highest[place], loss)
                    broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
                    broken[place[wrong]] = True
                    left = left[~broken[left]]
        return chosen

    def _targets(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The wrong answers to search for, (N, searches), nearest first; -1 where there is none."""
        if self.params.loss not in TARGETED:
            return torch.zeros(len(x), 1, dtype=torch.long, device=x.device)
        with torch.no_grad():
            lead = leads(classifier.model(x), y, classifier.task)
        count = min(self.params.targets, lead.shape[1] - (classifier.task == "multiclass"))
        nearest, targets = lead.topk(count, dim=1)
        return torch.where(nearest == -torch.inf, -1, targets)

    def _search(
        self,
        classifier: cxr.Classifier,
        clean: torch.Tensor,
        y: torch.Tensor,
        target: torch.Tensor,
        start: torch.Tensor,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One search an image: where it ends, the loss there, and whether the image is wrong there."""
        found, broken = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=start.device)
        unknown = torch.full((len(start),), -torch.inf, dtype=start.dtype, device=start.device)
        highest = unknown.clone()
        state = Search(
            place=torch.arange(len(start), device=start.device),
            clean=clean,
            y=y,
            target=target,
            x=start,
            before=start,
            loss=-unknown,  # so that the start is no rise
            gradient=torch.zeros_like(start),
            best=start,
            best_loss=unknown,
            best_gradient=torch.zeros_like(start),
            step=torch.full_like(unknown, 2 * eps),
            rises=torch.zeros_like(unknown),
            best_then=unknown,
            halved=~broken,  # so that condition 2 waits for the second checkpoint
        )
        marks, checked = checkpoints(self.params.steps), 0
        for moves in range(self.params.steps + 1):
            if moves:
                state.before, state.x = state.x, self._moved(state, eps, 1.0 if moves == 1 else MOMENTUM)
            loss, state.gradient, wrong = self._ascent(classifier, state)
            state.rises = state.rises + (loss > state.loss)
            state.loss = loss
            found[state.place[wrong]], broken[state.place[wrong]] = state.x[wrong], True
            state = state.of(~wrong)
            if len(state.place) == 0:
                break
            state.remember_the_best()
            if moves in marks:
                state.reconsider_the_step(moves - checked)
                checked = moves
        found[state.place], highest[state.place] = state.best, state.best_loss
        return found, highest, broken

    def _ascent(self, classifier: cxr.Classifier, state: Search) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each image's loss, the gradient along which it rises, and whether the network is wrong: one pass."""
        x = state.x.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = classifier.model(x)
            loss = image_loss(self.params.loss, logits, state.y, state.target, classifier.task)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        return loss.detach(), gradient, ~right(logits.detach(), state.y, classifier.task)

    def _moved(self, state: Search, eps: float, newest: float) -> torch.Tensor:
        """The next point of each image; newest: what share of the move is the gradient step."""
        norm: cxr.Norm = self.params.norm
        stepped = state.x + _wide(state.step) * cxr.direction(state.gradient, norm)
        stepped = cxr.project(stepped, state.clean, eps, norm)
        moved = state.x + newest * (stepped - state.x) + (1 - newest) * (state.x - state.before)
        return cxr.project(moved, state.clean, eps, norm)


def _wide(values: torch.Tensor) -> torch.Tensor:
    """One value an image, (N,), that broadcasts over (N, C, H, W)."""
    return values[:, None, None, None]
