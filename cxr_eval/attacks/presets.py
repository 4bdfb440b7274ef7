"""Three strengths of attack without settings: a quick look, a standard evaluation, and the strongest."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.apgd import APGD
from cxr_eval.attacks.fmn import FMN
from cxr_eval.attacks.gradient import FGSM, PGD, margin, right
from cxr_eval.attacks.square import Square

Stages = tuple[tuple[str, cxr.Attack], ...]


class Cascade(cxr.Attack):
    """Attacks one after the other, the cheap ones first, each on the images that none before it has broken."""

    transfers = False
    norms = ("linf", "l2")

    steps: ClassVar[int]
    """Gradient steps of its longest search."""

    @abstractmethod
    def stages(self, classifier: cxr.Classifier) -> Stages:
        """The attacks by name, as the network's task and classes need them."""

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """Adversarial images for x, (N, C, H, W) on the classifier's device, all in the ball.

        An image keeps what breaks it first, or else, of what all attacks gave, the image where a wrong answer is nearest.
        """
        images, labels = x.to(classifier.device), y.to(classifier.device)
        chosen = images.clone()
        nearest = images.new_full((len(images),), -torch.inf)
        left = torch.arange(len(images), device=images.device)
        for _, attack in self.stages(classifier):
            if len(left) == 0:
                break
            clean, label = images[left], labels[left]
            found = cxr.project(attack.perturb(classifier, clean, label, eps=eps, seed=seed), clean, eps, self.params.norm)
            with cxr.frozen(classifier.model), torch.no_grad():
                logits = classifier.model(found)
            wrong = ~right(logits, label, classifier.task)
            lead = margin(logits, label, classifier.task)
            better = wrong | (lead > nearest[left])
            chosen[left[better]] = found[better]
            nearest[left] = torch.maximum(nearest[left], lead)
            left = left[~wrong]
        return chosen

    def _with(self, attack: type[cxr.Attack], **settings: Any) -> cxr.Attack:
        """An attack with this one's radii, norm, goal and images."""
        shared = {name: getattr(self.params, name) for name in cxr.AttackParams.model_fields}
        return attack(**shared, **settings)


class Quick(Cascade):
    """A first look: one gradient step, then PGD with ten. What it leaves robust often is not."""

    source = "FGSM: Goodfellow et al., ICLR 2015, arXiv:1412.6572; PGD: Madry et al., ICLR 2018, arXiv:1706.06083"
    steps = 10

    def stages(self, classifier: cxr.Classifier) -> Stages:
        """fgsm, pgd."""
        return (("fgsm", self._with(FGSM)), ("pgd", self._with(PGD, steps=self.steps)))


class Standard(Cascade):
    """Auto-PGD on two losses, 50 steps each: no setting to get wrong, and no network too confident for it."""

    source = "Croce & Hein, ICML 2020, arXiv:2003.01690, algorithm 1; which losses and steps: our choice"
    steps = 50

    def stages(self, classifier: cxr.Classifier) -> Stages:
        """apgd_ce, apgd_margin."""
        return (
            ("apgd_ce", self._with(APGD, steps=self.steps, loss="ce")),
            ("apgd_margin", self._with(APGD, steps=self.steps, loss="margin")),
        )


class Strong(Cascade):
    """AutoAttack's ensemble, made to work for two classes and for findings: parameter-free attacks of four kinds.

    Auto-PGD on the cross-entropy, on the ratio of logits, and for up to nine wrong answers in turn; the fast minimum-norm
    attack in place of FAB; the Square attack, which needs no gradient. One gradient step goes first, because it is cheap. For
    fewer than three classes and for findings margins stand in for the ratio; for fewer than four classes likewise for the
    targeted one; where there is one wrong answer only (two classes, or a goal), trying them in turn would be the same search
    again and is left out.
    """

    source = (
        "Croce & Hein, ICML 2020, arXiv:2003.01690 (AutoAttack), with FMN (Pintor et al., NeurIPS 2021,"
        " arXiv:2102.12827) for FAB, and FGSM and an untargeted second loss before them (our choice)"
    )
    steps = 100

    class Params(cxr.AttackParams):
        queries: int = cxr.Field(5000, ge=1, description="images shown to the network by the Square attack")

    def stages(self, classifier: cxr.Classifier) -> Stages:
        """fgsm, apgd_ce, apgd_dlr or apgd_margin, apgd_targeted where there are several wrong answers, fmn, square."""
        exclusive = classifier.task == "multiclass"
        second = "dlr" if exclusive and classifier.nb_classes >= 3 else "margin"
        targeted = "targeted_dlr" if exclusive and classifier.nb_classes >= 4 else "targeted_margin"
        several = classifier.nb_classes > 2 if exclusive else self.params.goal == "any"
        stages: list[tuple[str, cxr.Attack]] = [
            ("fgsm", self._with(FGSM)),
            ("apgd_ce", self._with(APGD, steps=self.steps, loss="ce")),
            (f"apgd_{second}", self._with(APGD, steps=self.steps, loss=second)),
        ]
        if several:
            stages.append(("apgd_targeted", self._with(APGD, steps=self.steps, loss=targeted)))
        stages += [("fmn", self._with(FMN, steps=self.steps)), ("square", self._with(Square, queries=self.params.queries))]
        return tuple(stages)
