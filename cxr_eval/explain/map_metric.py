"""The base of explanation metrics that have one value an image: as stated here, or as Quantus has it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import FloatArray, MapParams, library_scores


class MapMetric(cxr.ExplanationMetric):
    """Base: the value named `NAME`; with `compat: quantus` that of the library's class."""

    name: ClassVar[str]
    """What the metric is registered as."""

    library = "quantus"
    quantus_name: ClassVar[str]
    """Name of the class in Quantus."""

    class Params(MapParams):
        pass

    params: MapParams

    def library_settings(self, explained: cxr.Explained) -> Mapping[str, object]:
        """What the library's class is told on top of its defaults: how much is computed, and what it cannot know."""
        return {}

    @abstractmethod
    def scores(self, explained: cxr.Explained) -> FloatArray:
        """One value an image, (N,); NaN where the metric is not defined."""

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        """The values under the metric's name, (N,)."""
        if self.params.compat == "quantus":
            return {self.name: library_scores(self.quantus_name, explained, self.library_settings(explained))}
        return {self.name: self.scores(explained)}
