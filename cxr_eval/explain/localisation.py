"""How far attribution maps lie on known regions (lesion, box, lung, ...), image by image and region by region.

Read every number beside the region's share of the image, which is what a map without meaning scores. An image without a
region of a kind, and a map that says nothing (constant once its signs are settled, or not finite), score NaN.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import (
    BoolArray,
    FloatArray,
    in_rows,
    informative,
    prepared,
    quantus_scores,
    spread,
)

FINDING = "finding"
"""Kind of region of the class explained, where findings are explained."""


class LocalisationParams(cxr.Params):
    """Settings that every localisation metric has."""

    regions: cxr.Names | None = cxr.Field(
        None, description="kinds of region measured, such as lesion; all there are if not given"
    )
    sign: Literal["positive", "absolute"] = cxr.Field(
        "positive", description="signed maps: positive (what speaks for the target; below 0 counts as 0) or absolute (size)"
    )


def known(metric: str, kind: str, kinds: tuple[str, ...]) -> None:
    """Refuse a kind of region that the images do not have.

    Raises:
        PluginError: `kind` is none of `kinds`.
    """
    if kind not in kinds:
        have = ", ".join(kinds) or "none"
        hint = "; only explain.target: finding has that kind" if kind == FINDING else ""
        raise cxr.PluginError(f"{metric}: no regions of kind '{kind}'; these images have: {have}{hint}")


class Localisation(cxr.ExplanationMetric):
    """Base: one value a region kind, named `NAME[KIND]`."""

    family = "localisation"
    better = "higher"
    unit = "fraction"
    name: ClassVar[str]

    class Params(LocalisationParams):
        pass

    params: LocalisationParams

    def check(self, kinds: tuple[str, ...]) -> None:
        """Refuse regions that the images do not have.

        Raises:
            PluginError: the setting `regions` names another kind than these.
        """
        for kind in self.params.regions or ():
            known(self.name, kind, kinds)

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        """Values by `NAME[KIND]`, each (N,) in [0, 1].

        Raises:
            PluginError: the setting `regions` names a kind that these images do not have.
        """
        self.check(explained.kinds)
        kinds = explained.kinds if self.params.regions is None else self.params.regions
        maps = prepared(explained.maps, self.params.sign)
        useful = informative(maps)
        values = {}
        for kind in kinds:
            masks = explained.region(kind)
            rows = useful & masks.any(axis=(1, 2))
            values[f"{self.name}[{kind}]"] = spread(self.score(maps[rows], masks[rows]), rows)
        return values

    @abstractmethod
    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        """One value an image, (M,), for informative maps and masks that are not empty, both (M, H, W)."""


class RelevanceMass(Localisation):
    """Share of all relevance that lies in the region; chance level: the region's share of the image.

    Source: Arras et al., Information Fusion 2022, arXiv:2003.07258 (relevance mass accuracy); Quantus.
    """

    source = "Arras et al., CLEVR-XAI, Information Fusion 2022, arXiv:2003.07258, relevance mass accuracy; Quantus"
    name = "relevance_mass"

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        return quantus_scores("RelevanceMassAccuracy", {}, maps=maps, masks=masks)


class PointingGame(Localisation):
    """1 if the most relevant pixel lies in the region, else 0; of several equally relevant ones, the share that does.

    Ties are common: a map that is clipped has hundreds of largest pixels, an enlarged one a whole corner. Quantus counts a hit
    as soon as one of them lies in the region, which a map that is flat enough always reaches; without ties the two are equal.
    Source: Zhang et al., IJCV 2018, arXiv:1608.00507 (pointing game), without its 15 pixels of tolerance.
    """

    source = "Zhang et al., Excitation Backprop, IJCV 2018, arXiv:1608.00507, pointing game, no tolerance, ties in expectation"
    name = "pointing_game"

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        a, inside = in_rows(maps), in_rows(masks)
        top = a == a.max(axis=1, keepdims=True, initial=-np.inf)
        return np.asarray((top & inside).sum(axis=1) / top.sum(axis=1), dtype=np.float64)


class RelevanceRank(Localisation):
    """Share of the K most relevant pixels that lie in the region of K pixels; chance level: its share of the image.

    Pixels that tie at the cut count by the expected share of them in the region. Quantus lets the order of sorting decide,
    which for a Grad-CAM with many zeros is a matter of luck; without ties the two are equal.
    Source: Arras et al., Information Fusion 2022, arXiv:2003.07258 (relevance rank accuracy).
    """

    source = "Arras et al., CLEVR-XAI, Information Fusion 2022, arXiv:2003.07258, relevance rank accuracy, ties in expectation"
    name = "relevance_rank"

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        a, inside = in_rows(maps), in_rows(masks)
        size = inside.sum(axis=1)
        cut = np.take_along_axis(np.sort(a, axis=1), a.shape[1] - size[:, None], axis=1)
        above, tied = a > cut, a == cut
        open_places = size - above.sum(axis=1)
        hits = (above & inside).sum(axis=1) + open_places * (tied & inside).sum(axis=1) / tied.sum(axis=1)
        return np.asarray(hits / size, dtype=np.float64)
