"""How networks are evaluated, as settings: intervals, comparisons, thresholds, subgroups, checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from cxr_eval.errors import nearest
from cxr_eval.params import Field, Labels, Names, Numbers, Params, Radius

if TYPE_CHECKING:
    from cxr_eval.stats.intervals import Resampling


class Validity(Params):
    """The checks that doubt robust accuracies: whether attacks can be believed on this network."""

    images: int = Field(64, ge=8, description="test images on which each network is checked, drawn by class")
    eps: Radius | None = Field(
        None, gt=0, description="L-inf radius of the checks; the middle one of all that attacks try if not given"
    )
    steps: int = Field(40, ge=4, description="gradient steps of the curve over iterations")
    restarts: int = Field(3, ge=1, description="searches of the curve over restarts")


class Anatomy(Params):
    """Which parts of the picture a network reads: parts blacked out, and attacks that may change one part only."""

    regions: Labels | None = Field(
        None,
        min_length=1,
        description="kinds of masks, such as lung, lesion, marker, devices; all that test images have if not given",
    )
    images: int | None = Field(200, ge=1, description="images with a mask of the kind, drawn by class; all of them for null")
    eps: Radius | None = Field(
        None, description="L-inf radius of attacks inside and outside of a region; that of the validity checks if not given"
    )
    steps: int = Field(10, ge=1, description="gradient steps of these attacks")
    fill: Literal["black", "mean"] = Field(
        "black",
        description="what stands where a part is taken away; mean: the image's own mean",
    )


class OperatingPoint(Params):
    """How the threshold of a class is chosen on validation images; it is frozen for everything else."""

    rule: Literal["youden", "sensitivity", "specificity"] = Field(
        "youden", description="largest sum of sensitivity and specificity, or the first threshold that reaches `at_least`"
    )
    at_least: float = Field(0.9, gt=0, lt=1, description="sensitivity or specificity wanted, for those two rules")

    @model_validator(mode="after")
    def _used(self) -> OperatingPoint:
        if self.rule == "youden" and self.at_least != type(self).model_fields["at_least"].default:
            raise ValueError("at_least is for the rules sensitivity and specificity; name one of them, or take it out")
        return self


SUBGROUPS = ("sex", "age", "view", "site")


class Evaluate(Params):
    """How networks are evaluated."""

    batch_size: int = Field(64, ge=1, description="images a forward pass")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples of patients behind each interval and p-value")
    interval: Literal["percentile", "bca"] = Field(
        "percentile", description="kind of the bootstrap interval; bca corrects bias and skewness, for one more pass a patient"
    )
    stratified: bool = Field(True, description="resamples keep how many patients each class has, where images have one class")
    min_patients: int = Field(5, ge=1, description="patients below which a number is withheld")
    against: Names | None = Field(
        None,
        min_length=1,
        description="labels of trainers that the others are compared with, on the same images, or all; the first if not given",
    )
    operating_point: OperatingPoint = Field(OperatingPoint(), description="how decision thresholds are chosen")
    no_finding: str | None = Field(
        None, description="class that means nothing was found; one called normal, no finding or negative if not given"
    )
    net_benefit: Numbers = Field(
        (0.1, 0.3, 0.5), description="threshold probabilities at which net benefit is given, between 0 and 1"
    )
    subgroups: Labels = Field(SUBGROUPS, description="columns whose values are scored apart: sex, age, view, site")
    age_bands: Numbers = Field((18, 40, 65), description="ages in years at which bands begin")
    validity: Validity | None = Field(Validity(), description="checks that doubt robust accuracies; null leaves them out")
    anatomy: Anatomy | None = Field(Anatomy(), description="audit of the parts that networks read; null leaves it out")

    @property
    def resampling(self) -> Resampling:
        """How patients are drawn."""
        from cxr_eval.stats.intervals import Resampling  # here, not above: reading a protocol needs no numpy

        return Resampling(
            resamples=self.resamples, kind=self.interval, stratified=self.stratified, min_patients=self.min_patients
        )

    def radius_of_checks(self, attacks: Iterable[Mapping[str, Any]]) -> float | None:
        """The L-inf radius of the checks: as it is set, or the middle one of all that attacks try; None without any.

        attacks: settings of each attack.
        """
        if self.validity is not None and self.validity.eps is not None:
            return self.validity.eps
        tried = {eps for attack in attacks if attack["norm"] == "linf" for eps in attack["eps"] if eps > 0}
        return sorted(tried)[len(tried) // 2] if tried else None

    @field_validator("subgroups")
    @classmethod
    def _columns(cls, subgroups: tuple[str, ...]) -> tuple[str, ...]:
        for name in subgroups:
            if name not in SUBGROUPS:
                raise ValueError(f"expected {', '.join(SUBGROUPS)}, got '{name}'{nearest(name, SUBGROUPS)}")
        return subgroups

    @field_validator("net_benefit")
    @classmethod
    def _probabilities(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if wrong := [each for each in thresholds if not 0 < each < 1]:
            raise ValueError(f"expected probabilities between 0 and 1, got {wrong[0]:g}")
        return thresholds

    @field_validator("age_bands")
    @classmethod
    def _rising(cls, ages: tuple[float, ...]) -> tuple[float, ...]:
        if list(ages) != sorted(set(ages)) or any(age <= 0 for age in ages):
            raise ValueError("expected ages above 0 from small to large")
        return ages
