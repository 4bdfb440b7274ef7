"""How few pixels carry a map: sparseness, entropy and the number of pixels that matter at all."""

from __future__ import annotations

from typing import Literal

import cxr_eval.api as cxr
from cxr_eval.explain.map_metric import MapMetric
from cxr_eval.explain.quantus_adapter import FloatArray, MapParams, informative, prepared, quantus_scores, spread

UnsignedSign = Literal["positive", "absolute"]

UNSIGNED = "signed maps: absolute (size) or positive (below 0 counts as 0); parts of a whole need one sign"


def by_map(metric: str, explained: cxr.Explained, sign: UnsignedSign) -> FloatArray:
    """Scores (N,) of a Quantus metric that looks at the maps alone."""
    maps = prepared(explained.maps, sign)
    rows = informative(maps)
    # abs changes nothing any more; without it Quantus prints that it is missing
    return spread(quantus_scores(metric, {"abs": True}, maps=maps[rows]), rows)


class UnsignedParams(MapParams):
    """Settings of metrics for which relevance is parts of a whole."""

    sign: UnsignedSign = cxr.Field("absolute", description=UNSIGNED)


class Sparseness(MapMetric):
    """Gini index of the map: 0 if every pixel matters alike, towards 1 if one pixel matters alone.

    Source: Chalasani et al., ICML 2020, arXiv:1810.06583; Quantus.
    """

    source = "Chalasani et al., ICML 2020, arXiv:1810.06583, Gini index; Quantus"
    family = "complexity"
    better = "higher"
    name = "sparseness"
    quantus_name = "Sparseness"

    class Params(UnsignedParams):
        pass

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        return by_map("Sparseness", explained, self.params.sign)


class Complexity(MapMetric):
    """Entropy of the map as a distribution over pixels, in nats: 0 for one pixel, log(H x W) if every pixel matters alike.

    Source: Bhatt et al., IJCAI 2020, arXiv:2005.00631, definition of complexity; Quantus.
    """

    source = "Bhatt et al., IJCAI 2020, arXiv:2005.00631, complexity; Quantus"
    family = "complexity"
    better = "lower"
    unit = "nats"
    name = "complexity"
    quantus_name = "Complexity"

    class Params(UnsignedParams):
        pass

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        return by_map("Complexity", explained, self.params.sign)


class EffectiveComplexity(MapMetric):
    """Number of pixels whose relevance is above a small share of the map's largest; lower is simpler.

    Each map is measured by its own largest size: Quantus takes that of the whole batch, beside which a weak map has no pixel
    left. For one image and the same `least` the two are equal.
    Source: Nguyen and Martinez, 2020, arXiv:2007.07584, section 3 (effective complexity), without its search for a tolerance.
    """

    source = (
        "Nguyen and Martinez, On quantitative aspects of model interpretability, 2020, arXiv:2007.07584, effective complexity"
    )
    family = "complexity"
    better = "lower"
    unit = "count"
    name = "effective_complexity"
    quantus_name = "EffectiveComplexity"

    class Params(UnsignedParams):
        least: float = cxr.Field(
            0.01,
            ge=0,
            lt=1,
            description="share of the map's largest relevance above which a pixel counts (Quantus: 0.00001, which nearly every"
            " pixel of a gradient map exceeds)",
        )

    params: Params

    def scores(self, explained: cxr.Explained) -> FloatArray:
        maps = prepared(explained.maps, self.params.sign)
        rows = informative(maps)
        return spread((maps[rows] > self.params.least).sum(axis=(1, 2)), rows)
