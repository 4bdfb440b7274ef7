"""ART's evasion attacks by class name, with ART's own settings."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import torch

import cxr_eval.api as cxr
from cxr_eval.attacks.gradient import right
from cxr_eval.attacks.seeds import batch_seed, image_seeds

EPS_STEP_SHARE = 0.25  # ART's own 0.1 for a radius of 0.3 fits no other radius


@dataclass(frozen=True)
class Facts:
    """What the attack's class does not say of itself."""

    gradient_steps: str | int = 0
    """Setting that counts steps along the loss gradient, or their number; 0 where the attack does not follow it."""
    alone: bool = False
    """Draws random numbers image by image: runs one image at a time, so that its outcome depends on no other image."""
    findings: bool = False
    """Works on findings that can stand together; the others search for another largest logit."""
    norms: tuple[cxr.Norm, ...] = ("linf", "l2")
    """Norms in which it keeps to a radius, or searches for the nearest wrong image; the first is its default."""
    minimal: bool = False
    """Has no radius: it searches for the nearest wrong image, or for one that is near."""


_L2: tuple[cxr.Norm, ...] = ("l2",)
_LINF: tuple[cxr.Norm, ...] = ("linf",)

ATTACKS: dict[str, Facts] = {
    "AutoAttack": Facts(100),  # the steps of its APGD
    "AutoConjugateGradient": Facts("max_iter"),
    "AutoProjectedGradientDescent": Facts("max_iter"),
    "BasicIterativeMethod": Facts("max_iter", findings=True, norms=_LINF),
    "BoundaryAttack": Facts(alone=True, norms=_L2, minimal=True),
    "CarliniL2Method": Facts(norms=_L2, minimal=True),
    "CarliniLInfMethod": Facts(norms=_LINF, minimal=True),
    "DeepFool": Facts(norms=_L2, minimal=True),
    "ElasticNet": Facts(norms=_L2, minimal=True),  # of L1 + L2 squared, by default
    "FastGradientMethod": Facts(1),
    "HopSkipJump": Facts(alone=True, minimal=True),
    "MomentumIterativeMethod": Facts("max_iter", findings=True),
    "NewtonFool": Facts(norms=_L2, minimal=True),
    "ProjectedGradientDescent": Facts("max_iter", findings=True),
    "ProjectedGradientDescentNumpy": Facts("max_iter"),
    "ProjectedGradientDescentPyTorch": Facts("max_iter", findings=True),
    "RescalingAutoConjugateGradient": Facts("max_iter"),
    "SignOPTAttack": Facts(alone=True, norms=_L2, minimal=True),
    "SquareAttack": Facts(),
    "ZooAttack": Facts(alone=True, norms=_L2, minimal=True),
}

_PATCH = "places a patch, which no L-inf or L2 ball holds"
_NOT_IMAGES = "is not for image classifiers"
_FEW_PIXELS = "changes few pixels without bound; cut to an L-inf or L2 ball nothing of it is left"
_OTHER_BALL = "moves, turns or recolours the whole image, which no L-inf or L2 ball holds"

LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        ("AdversarialPatch", "AdversarialPatchNumpy", "AdversarialPatchPyTorch", "AdversarialPatchTensorFlowV2"), _PATCH
    ),
    **dict.fromkeys(("AdversarialTexturePyTorch", "DPatch", "RobustDPatch", "LaserAttack"), _PATCH),
    **dict.fromkeys(("GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch"), _PATCH),
    **dict.fromkeys(("CarliniWagnerASR", "ImperceptibleASR", "ImperceptibleASRPyTorch", "MalwareGDTensorFlow"), _NOT_IMAGES),
    **dict.fromkeys(("FrameSaliencyAttack", "OverTheAirFlickeringPyTorch", "LowProFool", "DecisionTreeAttack"), _NOT_IMAGES),
    **dict.fromkeys(("OverloadPyTorch", "SNAL", "HighConfidenceLowUncertainty"), _NOT_IMAGES),
    **dict.fromkeys(("CarliniL0Method", "PixelAttack", "SaliencyMapMethod"), _FEW_PIXELS),
    **dict.fromkeys(("CompositeAdversarialAttackPyTorch", "ShadowAttack", "SpatialTransformation"), _OTHER_BALL),
    **dict.fromkeys(
        ("FeatureAdversariesNumpy", "FeatureAdversariesPyTorch", "FeatureAdversariesTensorFlowV2"),
        "imitates the features of a second image, which it would have to be given",
    ),
    **dict.fromkeys(
        ("UniversalPerturbation", "TargetedUniversalPerturbation"),
        "makes its one perturbation on the very images that are attacked; take universal, which makes it on other images",
    ),
    "BrendelBethgeAttack": "needs numba and starting points outside the decision boundary",
    "GeoDA": "reads and writes a file in the working folder, and never ends on a network with one answer",
    "ProjectedGradientDescentTensorFlowV2": "is for TensorFlow; take ProjectedGradientDescent",
    "ThresholdAttack": "searches over thresholds of its own, in grey levels; take SquareAttack",
    **dict.fromkeys(("SimBA", "VirtualAdversarialMethod"), "takes networks that give probabilities, not logits"),
    "Wasserstein": "keeps to a Wasserstein ball, not to an L-inf or L2 ball",
}

# ours: the ball and its norm, the batch, the goal, the terminal; and what YAML cannot say
_NOT_SETTINGS = frozenset(
    {"norm", "eps", "eps_step", "targeted", "batch_size", "verbose", "summary_writer", "random_eps", "minimal", "mask"}
    | {"adv_criterion", "loss", "attacks", "estimator_orig", "parallel_pool_size", "eval_perform"}
)
_SETTINGS_WITHOUT_TYPE: dict[str, Any] = {
    "decay": float | None,
    "loss_type": Literal["cross_entropy", "difference_logits_ratio"] | None,
}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators, which ART draws from, seeded inside.

    BoundaryAttack and HopSkipJump make a numpy generator without a seed; inside, such a one is seeded too.
    """
    unseeded = np.random.RandomState

    class Seeded(unseeded):  # type: ignore[misc, valid-type]
        def __init__(self, chosen: Any = None) -> None:
            super().__init__(seed if chosen is None else chosen)

    with cxr.seeded(seed):
        np.random.RandomState = Seeded  # type: ignore[misc, assignment]
        try:
            yield
        finally:
            np.random.RandomState = unseeded  # type: ignore[misc]


def _class(name: str) -> Any:
    from art.attacks import evasion

    return getattr(evasion, name)


class _ArtAttack(cxr.Attack):
    """One attack of ART with its settings."""

    name: str
    facts: Facts

    @property
    def steps(self) -> int:
        """Steps along the loss gradient; 0 where the attack does not follow it."""
        counted = self.facts.gradient_steps
        return counted if isinstance(counted, int) else int(getattr(self.params, counted))

    def perturb(self, classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """ART's images for x, (N, C, H, W) on x's device, not yet clipped.

        An attack without a radius searches for the nearest wrong image, whatever eps is; where it finds none, and where the
        network is wrong anyway, the clean image comes back.

        Raises:
            PluginError: ART's attack cannot do this, and why.
        """
        if (eps == 0 and not self.minimal) or len(x) == 0:
            return x.clone()
        self.check(classifier)
        images, labels = x.detach().cpu().numpy(), y.cpu().numpy()
        with cxr.frozen(classifier.model):
            if self.facts.alone:
                parts = []
                for place, own in enumerate(image_seeds(x, seed)):
                    with _seeded(own):
                        attack = _make(self.name, self.params, classifier, eps, batch_size=None)
                        parts.append(self._generate(attack, images[place : place + 1], labels[place : place + 1]))
                attacked = np.concatenate(parts)
            else:
                with _seeded(batch_seed(x, seed)):
                    attack = _make(self.name, self.params, classifier, eps, batch_size=len(x))
                    attacked = self._generate(attack, images, labels)
        found = torch.from_numpy(np.asarray(attacked, dtype=np.float32)).to(x.device)
        if not self.minimal:
            return found
        broken = self._right(classifier, x, y) & ~self._right(classifier, found, y)
        return torch.where(broken[:, None, None, None], found, x)

    @staticmethod
    def _right(classifier: cxr.Classifier, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return right(classifier.logits(x, len(x)), y.cpu(), classifier.task).to(x.device)

    def _generate(self, attack: Any, images: npt.NDArray[np.float32], labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            generated: npt.NDArray[Any] = attack.generate(images, labels)
        except Exception as error:  # ART may fail in any way
            shape = " x ".join(map(str, images.shape[1:]))
            raise cxr.PluginError(
                f"art/{self.name}: ART fails on images of {shape}: {type(error).__name__}: {error}; change its settings, or"
                " take another attack"
            ) from error
        return generated

    def check(self, classifier: cxr.Classifier) -> None:
        """Refuse what ART's attack cannot do.

        Raises:
            PluginError: findings that can stand together, fewer than three classes for a ratio of three logits, or several
                starts of which ART keeps the wrong one.
        """
        if classifier.task == "multilabel" and not self.facts.findings:
            able = ", ".join(name for name, facts in ATTACKS.items() if facts.findings)
            raise cxr.PluginError(
                f"art/{self.name}: cannot attack findings that can stand together (ART takes the largest for the label);"
                f" use pgd, fgsm, or one of art/: {able}"
            )
        starts = getattr(self.params, "num_random_init", 0)
        if classifier.task == "multilabel" and starts > 1:
            raise cxr.PluginError(
                f"art/{self.name}: ART judges several starts by the largest finding; give num_random_init 0 or 1, or use pgd"
            )
        if self.name == "FastGradientMethod" and starts > 1:
            raise cxr.PluginError(
                "art/FastGradientMethod: where none of several starts succeeds ART gives the clean image back; give"
                " num_random_init 0 or 1"
            )
        ratio = self.name == "AutoAttack" or getattr(self.params, "loss_type", None) == "difference_logits_ratio"
        if ratio and classifier.nb_classes < 3:
            raise cxr.PluginError(
                f"art/{self.name}: ART's difference_logits_ratio needs at least 3 classes, this network has"
                f" {classifier.nb_classes}; use art/AutoProjectedGradientDescent with loss_type cross_entropy"
            )


def _make(name: str, params: cxr.AttackParams, classifier: cxr.Classifier, eps: float, *, batch_size: int | None) -> Any:
    """ART's attack object."""
    kind = _class(name)
    takes = inspect.signature(kind.__init__).parameters
    settings = params.model_dump(exclude=set(cxr.AttackParams.model_fields) | {"eps_step"})
    norm = np.inf if params.norm == "linf" else 2
    ours: dict[str, Any] = {"targeted": False, "verbose": False, "eps": float(eps), "norm": norm}
    if "eps_step" in takes:
        chosen = getattr(params, "eps_step", None)
        ours["eps_step"] = float(EPS_STEP_SHARE * eps if chosen is None else chosen)
    if batch_size is not None:
        ours["batch_size"] = batch_size
    try:
        attack = kind(classifier, **settings, **{key: value for key, value in ours.items() if key in takes})
    except (ValueError, TypeError) as error:
        raise cxr.PluginError(f"art/{name}: ART refuses these settings: {error}") from error
    for part in getattr(attack, "attacks", ()):  # AutoAttack's own four
        part.verbose = False
    return attack


@cache
def _stand_in() -> cxr.Classifier:
    """A network that takes next to nothing, on which settings are tried out when a run is planned."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    return cxr.Classifier(net, input_shape=(1, 2, 2), nb_classes=3, device="cpu")


class _ArtParams(cxr.AttackParams):
    """ART's own checks of the values, before anything is trained."""

    @pydantic.model_validator(mode="after")
    def _art_takes_them(self) -> _ArtParams:
        name = type(self).__name__
        if name == "AutoAttack" and importlib.util.find_spec("multiprocess") is None:
            raise ValueError(
                "ART's AutoAttack needs the package 'multiprocess', which ART does not bring: pip install multiprocess"
            )
        with torch.random.fork_rng(devices=[]):
            try:
                for eps in filter(None, self.eps):
                    _make(name, self, _stand_in(), eps, batch_size=None)
            except cxr.PluginError as error:
                raise ValueError(str(error)) from error
        return self


def _describe(kind: Any) -> dict[str, str]:
    """ART's descriptions of the settings, one sentence each, from the constructor's docstring."""
    text = inspect.getdoc(kind.__init__) or ""
    found = re.findall(r":param (\w+):\s*(.*?)(?=\n\s*:|\Z)", text, flags=re.DOTALL)
    return {name: " ".join(words.split()).split(". ")[0].rstrip(".") for name, words in found}


def _params(name: str) -> type[cxr.AttackParams]:
    kind = _class(name)
    described = _describe(kind)
    fields: dict[str, Any] = {}
    takes = list(inspect.signature(kind.__init__).parameters.values())[2:]  # without self and the estimator
    known = {parameter.name for parameter in takes}
    for parameter in takes:
        if parameter.name in _NOT_SETTINGS:
            continue
        wants = parameter.annotation
        typed = _SETTINGS_WITHOUT_TYPE.get(parameter.name, float if wants in ("float", float) else type(parameter.default))
        words = described.get(parameter.name, "as in ART")
        fields[parameter.name] = (typed, cxr.Field(parameter.default, description=words))
    if "eps_step" in known and "minimal" not in known:  # FGSM steps only to find a minimal radius, and ours are given
        fields["eps_step"] = (
            cxr.Distance | None,
            cxr.Field(None, description="length of a step in the norm, pixel units; eps / 4 if not given"),
        )
    if "linf" not in ATTACKS[name].norms:
        words = "l2: Euclidean length of the whole change, which may exceed 1; this attack searches in no other norm"
        fields["norm"] = (cxr.Norm, cxr.Field(ATTACKS[name].norms[0], description=words))
    made: type[cxr.AttackParams] = pydantic.create_model(name, __base__=_ArtParams, __module__=__name__, **fields)
    return made


@cache
def _member(name: str) -> type[cxr.Attack]:
    kind = _class(name)
    doc = " ".join((inspect.getdoc(kind) or name).split("\n\n", 1)[0].split())
    link = re.search(r"https?://\S+", inspect.getdoc(kind) or "")
    source = f"ART {name}" + (f", {link.group().rstrip('.)')}" if link else "")
    facts = ATTACKS[name]
    about = {"__doc__": doc, "__module__": __name__, "source": source, "norms": facts.norms, "minimal": facts.minimal}
    return type(name, (_ArtAttack,), {**about, "Params": _params(name), "name": name, "facts": facts})


class Art(cxr.Family):
    """ART's evasion attacks on images that keep to an L-inf or L2 ball, or search for the nearest wrong image.

    For attacks without a radius a radius says only up to which distance their images count.

    Attacks that draw random numbers for a whole batch (SquareAttack, AutoProjectedGradientDescent) draw other numbers for an
    image when other images stand beside it; all other attacks treat an image alone.
    """

    library = "adversarial-robustness-toolbox"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Class names in art.attacks.evasion."""
        return tuple(ATTACKS)

    @classmethod
    def member(cls, name: str) -> type[cxr.Attack]:
        """One attack, with ART's settings and defaults.

        Raises:
            KeyError: ART has no such attack.
            PluginError: ART has it, and this family leaves it out; the message says why.
        """
        if name in LEFT_OUT:
            raise cxr.PluginError(f"art/{name}: left out, because it {LEFT_OUT[name]}")
        if name not in ATTACKS:
            raise KeyError(name)
        return _member(name)
