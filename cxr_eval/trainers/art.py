"""ART's trainers by class name: ART's step, our loop."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import torch

import cxr_eval.api as cxr

PROXY_LR = 0.01  # any will do: the change of weights is rescaled to gamma times their length

_FIT_BY_BATCH = "ART's `scheduler` would step once a batch; the learning rate follows the schedule here, once an epoch."
_NO_TORCH_SCHEDULER = "ART takes no scheduler of torch 2; the learning rate follows the schedule here."
_SEQUENTIAL = "ART fails on an nn.Sequential; not so here."


@dataclass(frozen=True)
class Facts:
    """What the trainer's class does not say of itself."""

    notes: str
    """What is put right here, and what stays as in ART."""
    findings: bool = False
    """Works on findings that can stand together; the others take the largest logit for the answer."""
    adversarial: bool = True


TRAINERS: dict[str, Facts] = {
    "AdversarialTrainer": Facts(
        f"{_FIT_BY_BATCH} One attack only. FastGradientMethod attacks findings wrongly in ART, so they are refused with it.",
        findings=True,
    ),
    "AdversarialTrainerMadryPGD": Facts(
        f"{_FIT_BY_BATCH} Radius and step are in pixel units of [0, 1], where ART's defaults are for 0 to 255. ART attacks in"
        " batches of 32 whatever the batch size; here in one. `pgd` is the same method, faster.",
        findings=True,
    ),
    "AdversarialTrainerTRADESPyTorch": Facts(
        f"{_NO_TORCH_SCHEDULER} {_SEQUENTIAL} Left as in ART: the attack raises the cross-entropy, not the divergence that the"
        " paper raises; for the paper's method use `trades`.",
    ),
    "AdversarialTrainerAWPPyTorch": Facts(
        f"{_NO_TORCH_SCHEDULER} ART writes weights into its own data folder when it validates; here the loop validates. The"
        " copy of the network on which weights are changed is made here. Left as in ART: the attack of mode TRADES raises the"
        " cross-entropy, not the divergence, and only weights with two or more axes are changed. `awp` is written for the"
        " paper.",
    ),
    "AdversarialTrainerFBFPyTorch": Facts(
        "ART trains in evaluation mode, so that BatchNorm learns nothing and dropout is off; here in training mode. ART writes"
        " a learning rate of up to 0.21 over the optimizer's; here the schedule holds. ART fails on class indices; here they"
        f" are made one-hot. ART takes the gradient at images that may leave [0, 1]; here they are clipped. {_SEQUENTIAL} Left"
        " as in ART: the gradient's norm is clipped at 0.5.",
    ),
    "DPInstaHideTrainer": Facts(
        f"{_FIT_BY_BATCH} Of ART's augmentations there is mixup, in ART's own form. Against poisoned training images, not"
        " against attacks on the network.",
        adversarial=False,
    ),
}

_ABSTRACT = "has no training of its own; take"
_CERTIFIED = "needs a classifier of its own kind, whose layers carry bounds; no other network can be trained by it"
_OAAT = "needs a second network for perceptual distances and further ones for averages, which it would have to be given"

LEFT_OUT: dict[str, str] = {
    "AdversarialTrainerAWP": f"{_ABSTRACT} art/AdversarialTrainerAWPPyTorch or awp",
    "AdversarialTrainerCertifiedIBPPyTorch": _CERTIFIED,
    "AdversarialTrainerCertifiedPytorch": _CERTIFIED,
    "AdversarialTrainerFBF": f"{_ABSTRACT} art/AdversarialTrainerFBFPyTorch",
    "AdversarialTrainerOAAT": _OAAT,
    "AdversarialTrainerOAATPyTorch": _OAAT,
    "AdversarialTrainerTRADES": f"{_ABSTRACT} art/AdversarialTrainerTRADESPyTorch or trades",
    "Trainer": f"{_ABSTRACT} one of the others",
}

SETTINGS: dict[str, Any] = {
    "attack": (
        Literal["FastGradientMethod", "ProjectedGradientDescent"],
        cxr.Field("ProjectedGradientDescent", description="ART's attack; our choice, ART has no default"),
    ),
    "eps": (cxr.Radius, cxr.Field(8 / 255, gt=0, description="L-inf radius, pixel units, above 0")),
    "eps_step": (
        cxr.Radius | None,
        cxr.Field(None, description="length of a step, pixel units, above 0; 2.5 x eps / max_iter if not given"),
    ),
    "max_iter": (int, cxr.Field(7, ge=1, description="gradient steps; 7 as in ART's Madry trainer")),
    "num_random_init": (
        int,
        cxr.Field(1, ge=0, description="random starts in the ball, 1 as in ART's Madry trainer; 0 starts at the image"),
    ),
    "ratio": (float, cxr.Field(0.5, gt=0, le=1, description="share of a batch that is attacked; the rest stays clean")),
    "beta": (float, cxr.Field(6.0, ge=0, description="weight of the divergence between clean and attacked output")),
    "mode": (Literal["PGD", "TRADES"], cxr.Field("PGD", description="loss that weights are changed and trained for")),
    "gamma": (float, cxr.Field(0.01, ge=0, description="change of a layer's weights, relative to their length")),
    "warmup": (int, cxr.Field(0, ge=0, description="epochs before weights are changed")),
    "num_mix": (int, cxr.Field(2, ge=1, description="images mixed into one, 2 as in ART's MixupPyTorch; 1: none is mixed")),
    "alpha": (float, cxr.Field(1.0, gt=0, description="Dirichlet parameter of the shares, 1 as in ART's MixupPyTorch")),
    "noise": (
        Literal["gaussian", "laplacian", "exponential"],
        cxr.Field("laplacian", description="noise added to the images, which are then clipped to [0, 1]"),
    ),
    "loc": (float, cxr.Field(0.0, description="mean of the noise, pixel units")),
    "scale": (float, cxr.Field(0.03, ge=0, description="scale of the noise, pixel units")),
}
"""Settings by name, with the defaults of ART's constructors where these fit [0, 1]."""

_SEARCH = ("eps", "eps_step", "max_iter", "num_random_init")
OBJECTS: dict[str, tuple[str, ...]] = {
    "attack": _SEARCH,
    "attacks": ("attack", *_SEARCH),
    "augmentations": ("num_mix", "alpha"),
}
"""Arguments of ART's constructors that are objects, by the settings that they are made from."""

NOT_SETTINGS = frozenset({"classifier", "proxy_classifier", "nb_epochs", "batch_size", "clip_values", "use_amp"})
"""Arguments that the loop, the classifier, or nobody gives: mixed precision needs a package that is no more."""

_IDLE: tuple[tuple[str, str, Any], ...] = (
    ("max_iter", "attack", "FastGradientMethod"),
    ("eps_step", "attack", "FastGradientMethod"),
    ("beta", "mode", "PGD"),
    ("loc", "noise", "exponential"),
    ("alpha", "num_mix", 1),
)
"""Settings that do nothing when another has some value; one that states its default contradicts nothing."""


class _ArtParams(cxr.Params):
    """Settings that would do nothing, or that ART gets wrong, are refused."""

    @pydantic.model_validator(mode="after")
    def _each_has_its_use(self) -> _ArtParams:
        for name, other, value in _IDLE:
            field = type(self).model_fields.get(name)
            if field is not None and getattr(self, name) != field.default and getattr(self, other, None) == value:
                raise ValueError(f"{name} does nothing with {other} {value}; leave it out")
        if getattr(self, "eps_step", None) == 0:
            raise ValueError("eps_step must be above 0; leave it out for 2.5 x eps / max_iter")
        if getattr(self, "attack", None) == "FastGradientMethod" and getattr(self, "num_random_init", 0) > 1:
            raise ValueError(
                "ART's FastGradientMethod gives clean images back where no start of several succeeds; num_random_init: 0 or 1"
            )
        return self


@contextmanager
def _without_bars() -> Iterator[None]:
    """ART draws two progress bars a `fit`, which here is a batch; tqdm itself is left alone."""
    from art.defences.trainer import adversarial_trainer, dp_instahide_trainer

    silent = {"trange": lambda count, **_: range(count), "tqdm": lambda items, **_: items}
    noisy = [
        (module, name) for module in (adversarial_trainer, dp_instahide_trainer) for name in silent if hasattr(module, name)
    ]
    kept = [getattr(module, name) for module, name in noisy]
    for module, name in noisy:
        setattr(module, name, silent[name])
    try:
        yield
    finally:
        for (module, name), bar in zip(noisy, kept, strict=True):
            setattr(module, name, bar)


class _Classifier(cxr.Classifier):
    """Takes input gradients at images in [0, 1] only; FBF asks for them outside."""

    def loss_gradient(self, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        return super().loss_gradient(x.clip(0, 1), y, *args, **kwargs)


class _ArtTrainer(cxr.Trainer):
    """One trainer of ART with its settings; the loop gives it batch after batch."""

    name: str
    facts: Facts

    def __init__(self, classifier: Any, **given: Any) -> None:
        """As for every trainer.

        Raises:
            ValueError: half precision, or findings with an attack that ART gets wrong on them.
        """
        super().__init__(classifier, **given)
        if self.training.precision != "float32":
            raise ValueError(
                f"art/{self.name} trains through numpy in float32; set precision to float32, or take pgd, trades or awp"
            )
        if self.task == "multilabel":
            if getattr(self.params, "attack", None) == "FastGradientMethod":
                raise ValueError(
                    f"art/{self.name}: ART's FastGradientMethod divides findings by their sum; take fgsm, or another attack"
                )
            if getattr(self.params, "num_random_init", 0) > 1:
                raise ValueError(
                    f"art/{self.name}: ART judges several starts by the largest finding; num_random_init: 0 or 1 for findings"
                )
        self._art: Any = None

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        """The loss on clean images, for checks only; what ART trains on is inside `step`."""
        return self.criterion(self.model(batch.x), batch.y)

    def on_fit_start(self, n: int) -> None:
        """Make ART's trainer anew: the criterion has the weights of these training images."""
        self._art = self._make()

    def step(self, batch: cxr.Batch, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """One step of ART's trainer on this batch; the loss that it trained on.

        ART works on numpy arrays, so every step waits for the device.
        """
        if self._art is None:
            self._art = self._make()
        self._art.get_classifier()._optimizer = optimizer
        labels = batch.y if self.task == "multilabel" else torch.nn.functional.one_hot(batch.y, self.classes)
        x = np.ascontiguousarray(batch.x.cpu().numpy())
        y = labels.float().cpu().numpy()
        seed = int(torch.randint(2**31, (), generator=self.rng, device=self.device))
        with cxr.seeded(seed), _without_bars():  # ART draws from the global generators
            if hasattr(self._art, "_batch_process"):
                found = self._process(x, y, batch.epoch, optimizer)
            else:
                found = self._fit_batch(x, y)
        self.model.train()  # some of ART's steps end in evaluation mode
        return found

    def _process(
        self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], epoch: int, optimizer: torch.optim.Optimizer
    ) -> torch.Tensor:
        """One batch of the trainers whose `fit` does more than batches: it sets learning rates, or counts epochs anew."""
        attack = getattr(self._art, "_attack", None)
        if attack is None:  # FBF, which would write another learning rate over the optimizer's
            total, _, count = self._art._batch_process(x, y, optimizer.param_groups[0]["lr"])
        else:
            attack.set_params(batch_size=len(x))
            self._art._apply_wp = epoch >= getattr(self.params, "warmup", 0)
            total, _, count = self._art._batch_process(x, y)
        return torch.tensor(total / count, device=self.device)

    def _fit_batch(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> torch.Tensor:
        """One batch of the trainers that end in the classifier's own `fit`, which returns nothing."""
        for attack in getattr(getattr(self._art, "trainer", self._art), "attacks", ()):
            attack.set_params(batch_size=len(x))
        seen: list[torch.Tensor] = []

        def listen(_: torch.nn.Module, __: Any, loss: torch.Tensor) -> None:
            if self.model.training:  # not in the attack
                seen.append(loss.detach())

        assert isinstance(self.criterion, torch.nn.Module)
        hook = self.criterion.register_forward_hook(listen)
        try:
            self._art.fit(x, y, batch_size=len(x), nb_epochs=1)
        finally:
            hook.remove()
        (loss,) = seen
        return loss

    def _make(self) -> Any:
        """ART's trainer around our classifier, which trains the same network with the training's own loss."""
        classifier = self._around(self.model)
        kind = _class(self.name)
        takes = inspect.signature(kind.__init__).parameters
        settings = {name: value for name, value in self.params if name in takes and name != "eps_step"}
        made: dict[str, Callable[[], Any]] = {
            "eps_step": self._eps_step,
            "attack": lambda: self._attack(classifier),
            "attacks": lambda: self._attack(classifier),
            "augmentations": self._augmentations,
            "proxy_classifier": self._proxy,
        }
        return kind(classifier, **settings, **{name: make() for name, make in made.items() if name in takes})

    def _around(self, model: torch.nn.Module) -> cxr.Classifier:
        assert isinstance(self.criterion, torch.nn.Module)
        return _Classifier(
            model,
            self.criterion,
            input_shape=self._classifier.input_shape,
            nb_classes=self.classes,
            task=self.task,
            device=str(self.device),
        )

    def _eps_step(self) -> float:
        p = self.params
        return float(2.5 * p.eps / p.max_iter if p.eps_step is None else p.eps_step)

    def _attack(self, classifier: cxr.Classifier) -> Any:
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

        p = self.params
        if getattr(p, "attack", None) == "FastGradientMethod":
            return FastGradientMethod(classifier, eps=p.eps, num_random_init=p.num_random_init)
        return ProjectedGradientDescent(
            classifier,
            eps=p.eps,
            eps_step=self._eps_step(),
            max_iter=p.max_iter,
            num_random_init=p.num_random_init,
            verbose=False,
        )

    def _augmentations(self) -> list[Any]:
        from art.defences.preprocessor import MixupPyTorch

        p = self.params
        if p.num_mix == 1:
            return []
        return [MixupPyTorch(self.classes, alpha=p.alpha, num_mix=p.num_mix, device_type="cpu")]

    def _proxy(self) -> cxr.Classifier:
        proxy = self._around(copy.deepcopy(self.model))
        weights = [weight for weight in proxy.model.parameters() if weight.requires_grad]
        proxy._optimizer = torch.optim.SGD(weights, lr=PROXY_LR)
        return proxy


def _class(name: str) -> Any:
    from art.defences import trainer

    return getattr(trainer, name)


@cache
def _member(name: str) -> type[cxr.Trainer]:
    facts, kind = TRAINERS[name], _class(name)
    arguments = [name for name in inspect.signature(kind.__init__).parameters if name not in {"self", *NOT_SETTINGS}]
    fields: dict[str, Any] = {field: SETTINGS[field] for name in arguments for field in OBJECTS.get(name, (name,))}
    params = pydantic.create_model(name, __base__=_ArtParams, __module__=__name__, **fields)
    text = inspect.getdoc(kind) or name
    link = re.search(r"https?://\S+", text)
    doc = " ".join(text.split("\n\n", 1)[0].split()) + "\n\n" + facts.notes
    about: dict[str, Any] = {
        "__doc__": doc,
        "__module__": __name__,
        "Params": params,
        "name": name,
        "facts": facts,
        "adversarial": facts.adversarial,
        "source": f"ART {name}" + (f", {link.group().rstrip('.),')}" if link else ""),
        "tasks": ("multiclass", "multilabel") if facts.findings else ("multiclass",),
    }
    return type(name, (_ArtTrainer,), about)


class Art(cxr.Family):
    """ART's own trainers of image classifiers, one batch at a time inside the loop that all trainers share.

    So batch order, augmentation, schedule, validation, best epoch, checkpoint and resume are as everywhere, and everything
    random follows from the seed. They train in float32.
    """

    library = "adversarial-robustness-toolbox"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Class names in art.defences.trainer."""
        return tuple(TRAINERS)

    @classmethod
    def member(cls, name: str) -> type[cxr.Trainer]:
        """One trainer, with ART's settings in pixel units of [0, 1].

        Raises:
            KeyError: ART has no such trainer.
            PluginError: ART has it, and this family leaves it out; the message says why.
        """
        if name in LEFT_OUT:
            raise cxr.PluginError(f"art/{name}: left out, because it {LEFT_OUT[name]}")
        return _member(name)
