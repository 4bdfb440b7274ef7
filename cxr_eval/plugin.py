"""The contracts of every kind of plugin but trainers: readers, models, attacks, corruptions, explainers, their metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import field_validator

from cxr_eval.params import Ball, Distances, Field, Names, Severities
from cxr_eval.params import Params as Settings
from cxr_eval.types import Better, Norm, Task

if TYPE_CHECKING:
    from cxr_eval.classifier import Classifier

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Plugin(ABC):  # noqa: B024  # its kinds have the abstract methods
    """What all kinds share: described settings, and the source that the method comes from."""

    source: ClassVar[str] = ""
    """Paper with equation, standard, or web page; printed by `plugins describe` and in the report."""

    library: ClassVar[str] = ""
    """Distribution that the numbers come from; its version is part of what identifies a result."""

    Params: ClassVar[type[Settings]] = Settings

    def __init__(self, params: Settings | None = None, **settings: object) -> None:
        """Take validated settings, or validate keyword settings.

        Raises:
            pydantic.ValidationError: a setting is unknown, of another type, or out of its bounds.
        """
        self.params: Any = self.Params.model_validate(settings) if params is None else params


class Family(ABC):
    """A plugin that stands for many: `art/SquareAttack` is member `SquareAttack` of the family `art`."""

    bare: ClassVar[bool] = False
    """True if members may be named without the prefix (`resnet18` for `torchvision/resnet18`); one family a kind."""

    library: ClassVar[str] = ""
    """Distribution that the members come from; its version is part of what identifies a result."""

    @classmethod
    @abstractmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all members, without the prefix."""

    @classmethod
    @abstractmethod
    def member(cls, name: str) -> type[Plugin]:
        """The plugin class of one member, `Params` included.

        Raises:
            KeyError: there is no such member.
        """


class Reader(Plugin):
    """One dataset's layout on disk, as a table.

    `read` returns the manifest: one row an image, columns
    image (path, required), image_id (unique text, default: path relative to the root), label (class name; or one column
    `label:NAME` a finding with 0, 1 or NaN), patient (text; the unit of splitting and of intervals), split (train, val, test
    or NaN), mask:KIND (path of a mask, KIND such as lesion, lung, devices, marker), boxes (tuple of (x, y, w, h) in pixels of
    the source image), boxes:NAME (those of the finding NAME), sex (F, M), age (years), view, site, slice (of a NIfTI volume,
    along its third axis, from 0), listed_in (file and line that the row comes from, for messages), left_out (why the row is not
    used, such as `view is lateral`; such rows are counted and may lack anything else).
    Everything but image, label and patient may be missing. A mask or boxes of a KIND or NAME that is a class say where that
    finding is.
    """

    colour: ClassVar[bool] = False
    """True if pictures may be coloured; else they are made grey, also where three channels are asked for."""

    drawn: ClassVar[bool] = False
    """True for images that no patient ever had; the terminal, the report and every row then say so."""

    def check(self) -> None:
        """Refuse settings that name files which are not there; called when a run is planned, so it must be quick.

        Raises:
            DataError: and what was expected.
        """

    @abstractmethod
    def read(self, cache: Path) -> pd.DataFrame:
        """The manifest. `cache` is a folder that readers which make files may write into; others leave it alone.

        Raises:
            DataError: something on disk is not as this dataset is distributed.
        """


class ModelBuilder(Plugin):
    """Builds one network. It takes images in [0, 1]; normalisation is its first layer."""

    @abstractmethod
    def build(self, *, channels: int, classes: int, size: int) -> torch.nn.Module:
        """A network from (N, channels, size, size) in [0, 1] to logits (N, classes).

        Raises:
            PluginError: the network cannot take such images, or the weights file does not fit.
        """


class AttackParams(Ball):
    """Settings that every attack has."""

    eps: Distances = Field(description="radii tried, from small to large; pixel units of [0, 1], may be written 8/255")  # type: ignore[assignment]
    goal: str = Field(
        "any",
        description="any: a wrong answer; 'hide FINDING' and 'invent FINDING' want that finding gone or there, of several"
        " findings an image, and attack the images with or without it",
    )
    images: int | None = Field(None, ge=1, description="number of test images attacked, drawn by class; all if not given")
    splits: Names = Field(("test",), min_length=1, description="splits attacked: test, or names of outside test sets")
    skip_broken: bool = Field(
        True,
        description="do not attack again an image that is wrong already, at this radius or a smaller one; false attacks every"
        " image at every radius, which scores of all predictions under attack (precision, AUROC, average precision, mARP) need",
    )

    @field_validator("goal")
    @classmethod
    def _goal_is_one(cls, goal: str) -> str:
        what, _, finding = goal.partition(" ")
        if goal != "any" and (what not in ("hide", "invent") or not finding.strip()):
            raise ValueError(f"expected any, 'hide FINDING' or 'invent FINDING', got '{goal}'")
        return goal if goal == "any" else f"{what} {finding.strip()}"


class Attack(Plugin):
    """An evasion attack. It only searches; the suite clips its images to the ball and to [0, 1] and judges success.

    A goal reaches it as labels: of several findings an image, those that do not matter are NaN.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    """Norms in which it can keep to a radius."""

    minimal: bool = False
    """True if `perturb` returns the nearest wrong images that it finds in `params.norm`, whatever eps is (the clean image where
    it finds none): the suite runs it once for all radii and compares distances. May follow from the settings."""

    crafted: ClassVar[bool] = False
    """True if it is made on other images: the suite calls `craft` with those of the validation split, once a radius."""

    class Params(AttackParams):
        pass

    transfers: ClassVar[bool] = True
    """False if it stops as soon as the network that it sees is wrong: such images hardly mislead another one."""

    def craft(self, classifier: Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> None:
        """Prepare one radius from images x (N, C, H, W) with labels y, which are not those to be attacked."""

    def stages(self, classifier: Classifier) -> tuple[tuple[str, Attack], ...]:
        """Attacks that are run one after the other, each on the images that none before it has broken, with their names.

        The attack itself, without a name of its own, unless overridden.
        """
        return (("", self),)

    def check(self, classifier: Classifier) -> None:
        """Refuse a network or task that the attack cannot do, before anything is trained.

        Raises:
            PluginError: and why.
        """

    @abstractmethod
    def perturb(self, classifier: Classifier, x: torch.Tensor, y: torch.Tensor, *, eps: float, seed: int) -> torch.Tensor:
        """Adversarial images for x (N, C, H, W) with true labels y, of the same shape.

        eps: radius in pixel units. seed: everything random follows from it.
        """


class CorruptionParams(Settings):
    """Settings that every corruption has."""

    severity: Severities = Field((1, 2, 3, 4, 5), description="severities tried, 1 (hardly visible) to 5 (severe)")
    splits: Names = Field(("test",), min_length=1, description="splits corrupted: test, or names of outside test sets")


class Corruption(Plugin):
    """A change that no one intended: noise, contrast, motion. Severities run from 1 to 5."""

    class Params(CorruptionParams):
        pass

    @abstractmethod
    def corrupt(self, x: torch.Tensor, *, severity: int, seed: int) -> torch.Tensor:
        """Corrupted images, (N, C, H, W) in [0, 1] like x."""


class Explainer(Plugin):
    """Says how much each pixel mattered for one output of a network."""

    @property
    def sign(self) -> Literal["positive", "signed"]:
        """positive: maps are >= 0; signed: below 0 speaks against the target. May follow from the settings."""
        return "positive"

    def check(self, model: torch.nn.Module, x: torch.Tensor) -> None:
        """Refuse a network that cannot be explained so, before anything is trained. x: any image, (1, C, H, W).

        Raises:
            PluginError: and why.
        """

    @abstractmethod
    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Attribution maps, float32 (N, H, W), high = important.

        model: logits from images in [0, 1]. x: (N, C, H, W). target: (N,) class indices. Each image gets the same map alone
        and in a batch; the model's mode and its weights' `grad` are left as they were.
        """


@dataclass(frozen=True)
class Explained:
    """What an explanation metric may look at.

    x (N, C, H, W) float32 numpy in [0, 1]; target (N,) int64, the explained class; maps (N, H, W) float32; `explain` makes
    maps for other images or networks in the same way; region(kind) gives masks (N, H, W) bool, all False where absent;
    task says whether the classes exclude each other. Where findings are explained (`explain.target: finding`), an image stands
    here once for each class that it has a region of, and the kind `finding` is the region of the class explained.
    """

    model: torch.nn.Module
    x: npt.NDArray[np.float32]
    target: npt.NDArray[np.int64]
    maps: npt.NDArray[np.float32]
    explain: Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    region: Callable[[str], BoolArray]
    kinds: tuple[str, ...]
    classes: int
    seed: int
    task: Task = "multiclass"


class ExplanationMetric(Plugin):
    """Measures attribution maps, image by image.

    `measure` sees one batch of images after another. A metric that needs all of them, as one whose threshold is tuned on a
    part of them does, returns what it has of each image from `measure`, and its values from `settle`.
    """

    better: ClassVar[Better] = "higher"
    unit: ClassVar[str] = "1"
    family: ClassVar[Literal["localisation", "faithfulness", "robustness", "randomisation", "complexity", "axiomatic"]]

    chance: ClassVar[Literal["share", "unknown"]] = "share"
    """What a map without meaning scores in a localisation metric: the region's share of the image, or no simple number."""

    scale_free: ClassVar[bool] = True
    """False if a map ten times as large may score otherwise, as where its sum is compared with the network's output."""

    tuned_on: ClassVar[str] = ""
    """Split on whose images `tune` is called before anything is measured, such as val; none by default."""

    chosen: ClassVar[tuple[str, ...]] = ()
    """How what stands in brackets begins where a value is a setting that was chosen, as a tuned threshold is, and no score.

    `("threshold of ",)` for `NAME[threshold of CLASS]`. Trainers are not compared in it.
    """

    tuned: Mapping[str, float] = MappingProxyType({})
    """What `tune` said, for `measure` and `settle`; empty where nothing is tuned."""

    def check(self, kinds: tuple[str, ...]) -> None:
        """Refuse images without the regions that the settings name, before anything is trained. kinds: those there are.

        Raises:
            PluginError: and why.
        """

    def tune(self, batches: Iterable[Explained]) -> Mapping[str, float]:
        """What is chosen on the images of the split `tuned_on`, explained in the same way: finite numbers by name.

        Called once for each network and explainer, on clean images; kept with the evaluation and put into `tuned`.
        """
        return {}

    @abstractmethod
    def measure(self, explained: Explained) -> dict[str, FloatArray]:
        """Values by metric name, each (N,), NaN where the metric is not defined for an image (no mask, constant map).

        The name is the one that the plugin is registered by; a localisation metric returns one a region kind,
        `relevance_mass[lesion]`.
        """

    def settle(
        self,
        values: dict[str, FloatArray],
        *,
        targets: npt.NDArray[np.int64],
        patients: Sequence[str],
        classes: tuple[str, ...],
    ) -> dict[str, FloatArray]:
        """Values by metric name, `NAME` or `NAME[...]`, each (N,): what is kept of `values`; all of it unless overridden.

        Called once, with what `measure` said of all N images together, each name (N,). targets: (N,), the explained class, a
        place in `classes`. patients: whose image each is; one patient may have several.
        """
        return values
