"""The settings of DPAAT: the paper gives no number, so every default is our choice, with its alternatives beside it."""

from typing import Literal

from pydantic import model_validator

import cxr_eval.api as cxr

OF_DYNAMIC_RADII = (
    "state",
    "recraft",
    "eps_start",
    "eps_min",
    "eps_max",
    "update",
    "update_step",
    "update_factor",
    "delta",
    "average",
    "average_momentum",
)


class Params(cxr.Ball):
    """Radii, what moves them, the attack, and the weights of the loss."""

    eps: cxr.Distance = cxr.Field(
        8 / 255,
        description="radius of the methods with a fixed one, which the other radii are measured by (our choice)",
    )
    dynamic: bool = cxr.Field(True, description="radii change image by image, the paper's method; false keeps eps for all")
    state: Literal["image", "batch"] = cxr.Field(
        "image",
        description="image: a radius stays with its image from epoch to epoch (our choice); batch: nothing is remembered, the"
        " images are attacked at eps and their change is then stretched or shrunk to the new radius",
    )
    recraft: bool = cxr.Field(
        False, description="attack the batch again with its new radii before the loss; false: they hold from the next visit"
    )
    eps_start: cxr.Distance | None = cxr.Field(
        None, description="every image's first radius; eps if not given (our choice). The step of an update starts as AMAT does"
    )
    eps_min: cxr.Distance = cxr.Field(0.0, description="no radius falls below it (our choice)")
    eps_max: cxr.Distance | None = cxr.Field(None, description="no radius rises above it; 2 x eps if not given (our choice)")
    update: Literal["additive", "multiplicative"] = cxr.Field(
        "additive",
        description="a radius moves by update_step, or is multiplied or divided by update_factor (not published: our choice)",
    )
    update_step: cxr.Distance | None = cxr.Field(
        None, description="length of an additive update; eps / 10 if not given, eps / 4 for state: batch (our choice)"
    )
    update_factor: float | None = cxr.Field(
        None, gt=1, description="factor of a multiplicative update; 1.1 if not given, 1.25 for state: batch (our choice)"
    )
    delta: Literal["difference", "temporal", "adversarial"] = cxr.Field(
        "difference",
        description="what is compared with its mean (not published): difference: attacked loss - clean loss (our choice);"
        " temporal: attacked loss - the image's attacked loss at its last visit; adversarial: attacked loss",
    )
    average: Literal["batch", "ema", "epoch"] = cxr.Field(
        "batch",
        description="mean that decides, renewed with every batch as in the paper: of the batch (our choice); ema: moving over"
        " the batches; epoch: over all images of the epoch so far",
    )
    average_momentum: float = cxr.Field(0.9, ge=0, lt=1, description="share of the old mean in average: ema (our choice)")
    steps: int = cxr.Field(10, ge=1, description="gradient steps of the attack (our choice; 20 in IMA's code)")
    step: cxr.Distance | None = cxr.Field(
        None, description="length of a gradient step, the same for all images; step_factor x radius / steps if not given"
    )
    step_factor: float = cxr.Field(
        2.5, gt=0, description="length of a gradient step in units of radius / steps (our choice; 4 in IMA's code)"
    )
    random_start: bool = cxr.Field(True, description="start the attack from a uniform point of the image's ball (our choice)")
    sync: Literal["kl", "mse", "mse_logits", "l1"] = cxr.Field(
        "kl",
        description="synchronisation loss of clean and attacked predictions (formula not published): kl: KL(clean || attacked)"
        " (our choice); mse, l1: of probabilities; mse_logits: of logits. Gradients flow through both",
    )
    sync_weight: float = cxr.Field(1.0, ge=0, description="weight of the synchronisation loss; 0 leaves it out (our choice)")
    clean_weight: float = cxr.Field(
        0.5, ge=0, le=1, description="share of the clean loss; the attacked loss has the rest (our choice)"
    )

    @property
    def start(self) -> float:
        """Every image's first radius."""
        return self.eps if self.eps_start is None else self.eps_start

    @property
    def largest(self) -> float:
        """No radius rises above it; a change of a pixel by more than 1 would be no image."""
        if self.eps_max is not None:
            return self.eps_max
        return 2 * self.eps if self.norm == "l2" else min(2 * self.eps, 1.0)

    @property
    def additive(self) -> float:
        """Length of an additive update."""
        return self.eps / (4 if self.state == "batch" else 10) if self.update_step is None else self.update_step

    @property
    def factor(self) -> float:
        """Factor of a multiplicative update."""
        return (1.25 if self.state == "batch" else 1.1) if self.update_factor is None else self.update_factor

    def _given(self, name: str) -> bool:
        """Whether a setting differs from its default; one that states the default contradicts nothing."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> "Params":
        if not self.dynamic:
            for name in filter(self._given, OF_DYNAMIC_RADII):
                raise ValueError(f"{name} is a setting of dynamic radii; leave it out, or set dynamic: true")
        if self.update == "additive" and self.update_factor is not None:
            raise ValueError("update_factor is of update: multiplicative; leave it out, or give update_step")
        if self.update == "multiplicative" and self.update_step is not None:
            raise ValueError("update_step is of update: additive; leave it out, or give update_factor")
        if self.average != "ema" and self._given("average_momentum"):
            raise ValueError("average_momentum is of average: ema; leave it out, or set average: ema")
        if self.step is not None and self._given("step_factor"):
            raise ValueError("step and step_factor both give the length of a gradient step; leave one out")
        if not self.sync_weight and self._given("sync"):
            raise ValueError("sync chooses a loss that sync_weight 0 leaves out; give sync_weight above 0, or leave sync out")
        if self.state == "batch":
            for name in filter(self._given, ("recraft", "eps_start")):
                raise ValueError(f"{name} needs radii that stay with their images; leave it out, or set state: image")
            if self.delta == "temporal":
                raise ValueError("delta: temporal needs the image's loss at its last visit; set state: image, or another delta")
        return self

    @model_validator(mode="after")
    def _radii_can_move(self) -> "Params":
        if self.clean_weight == 1 and not self.sync_weight:
            raise ValueError("clean_weight 1 with sync_weight 0 trains on no attacked image; lower clean_weight")
        if not self.dynamic:
            return self
        if self.eps == 0:
            raise ValueError("eps 0 leaves dynamic radii nothing to be measured by; give eps above 0, or set dynamic: false")
        for name, value in (("eps", self.eps), ("eps_start", self.start)):
            if not self.eps_min <= value <= self.largest:
                raise ValueError(
                    f"{name} {value:g} is not between eps_min {self.eps_min:g} and eps_max {self.largest:g}; widen these bounds"
                )
        if self.update == "multiplicative" and self.start == 0:
            raise ValueError("a multiplicative update never leaves radius 0; give eps_start above 0, or set update: additive")
        return self
