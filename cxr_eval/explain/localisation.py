"""How far attribution maps lie on known regions (lesion, box, lung, ...), image by image and region by region.

Read every number beside the region's share of the image, which is what a map without meaning scores. An image without a
region of a kind, and a map that says nothing (constant once its signs are settled, or not finite), score NaN.

Of Quantus' localisation metrics, Focus is left out: it measures mosaics of images of several classes, so that an image's value
would depend on which others were put beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import (
    BoolArray,
    FloatArray,
    MapParams,
    in_rows,
    informative,
    library_scores,
    prepared,
    quantus_scores,
    spread,
)

FINDING = "finding"
"""Kind of region of the class explained, where findings are explained."""


class LocalisationParams(MapParams):
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
        hint = "; choose one of them by its setting, or use explain.target: finding" if kind == FINDING else ""
        raise cxr.PluginError(f"{metric}: no regions of kind '{kind}'; these images have: {have}{hint}")


class Localisation(cxr.ExplanationMetric):
    """Base: one value a region kind, named `NAME[KIND]`."""

    family = "localisation"
    better = "higher"
    unit = "fraction"
    name: ClassVar[str]
    library = "quantus"
    quantus_name: ClassVar[str]
    """Name of the class in Quantus."""

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
        """Values by `NAME[KIND]`, each (N,), in [0, 1] unless the class says otherwise.

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
            if self.params.compat == "quantus":
                settings = self.library_settings(maps.shape[1] * maps.shape[2])
                values[f"{self.name}[{kind}]"] = library_scores(self.quantus_name, explained, settings, masks=masks)
                continue
            rows = useful & masks.any(axis=(1, 2))
            values[f"{self.name}[{kind}]"] = spread(self.score(maps[rows], masks[rows]), rows)
        return values

    def library_settings(self, pixels: int) -> Mapping[str, object]:
        """What the library's class is told on top of its defaults, for maps of so many pixels."""
        return {}

    @abstractmethod
    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        """One value an image, (M,), for informative maps and masks that are not empty, both (M, H, W)."""


class RelevanceMass(Localisation):
    """Share of all relevance that lies in the region; chance level: the region's share of the image.

    Source: Arras et al., Information Fusion 2022, arXiv:2003.07258 (relevance mass accuracy); Quantus.
    """

    source = "Arras et al., CLEVR-XAI, Information Fusion 2022, arXiv:2003.07258, relevance mass accuracy; Quantus"
    name = "relevance_mass"
    quantus_name = "RelevanceMassAccuracy"

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        return quantus_scores("RelevanceMassAccuracy", {}, maps=maps, masks=masks)


class PointingGame(Localisation):
    """1 if the most relevant pixel lies in the region, else 0; of several equally relevant ones, the share that does.

    Ties are common: a map that is clipped has hundreds of largest pixels, an enlarged one a whole corner. Quantus counts a hit
    as soon as one of them lies in the region, which a map that is flat enough always reaches, and so it counts images without a
    region; its weights raise an error. Without ties the two are equal.
    Source: Zhang et al., IJCV 2018, arXiv:1608.00507 (pointing game), without its 15 pixels of tolerance.
    """

    source = "Zhang et al., Excitation Backprop, IJCV 2018, arXiv:1608.00507, pointing game, no tolerance, ties in expectation"
    name = "pointing_game"
    quantus_name = "PointingGame"

    class Params(LocalisationParams):
        weighted: bool = cxr.Field(
            False,
            description="a hit counts 1 less the region's share of the image, for large regions are easily hit; a map without"
            " meaning then scores share x (1 - share), less than the rows of `chance` say",
        )

    params: Params

    def library_settings(self, pixels: int) -> Mapping[str, object]:
        return {"weighted": self.params.weighted}

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        hits = strongest_inside(maps, masks, np.ones(len(maps), dtype=np.int64))
        return hits * (1 - masks.mean(axis=(1, 2))) if self.params.weighted else hits


class RelevanceRank(Localisation):
    """Share of the K most relevant pixels that lie in the region of K pixels; chance level: its share of the image.

    Pixels that tie at the cut count by the expected share of them in the region. Quantus lets the order of sorting decide,
    which for a Grad-CAM with many zeros is a matter of luck; without ties the two are equal.
    Source: Arras et al., Information Fusion 2022, arXiv:2003.07258 (relevance rank accuracy).
    """

    source = "Arras et al., CLEVR-XAI, Information Fusion 2022, arXiv:2003.07258, relevance rank accuracy, ties in expectation"
    name = "relevance_rank"
    quantus_name = "RelevanceRankAccuracy"

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        return strongest_inside(maps, masks, masks.sum(axis=(1, 2)))


class TopKIntersection(Localisation):
    """Share of the most relevant pixels, a fixed number of them, that lie in the region; chance level: its share of the image.

    Pixels that tie at the cut count by the expected share of them in the region; Quantus lets the order of sorting decide.
    Without ties, and for the same number of pixels, the two are equal.
    Source: Theiner et al., WACV 2022, arXiv:2104.14995 (top-k intersection); k here follows the size of the image.
    """

    source = "Theiner et al., Interpretable Semantic Photo Geolocation, WACV 2022, arXiv:2104.14995, top-k, ties in expectation"
    name = "topk_intersection"
    quantus_name = "TopKIntersection"

    class Params(LocalisationParams):
        top: float = cxr.Field(
            0.05,
            gt=0,
            le=1,
            description="share of the image's pixels looked at (Quantus: 1000 of any image)",
        )

    params: Params

    def size(self, pixels: int) -> int:
        """Number of pixels looked at."""
        return max(1, round(self.params.top * pixels))

    def library_settings(self, pixels: int) -> Mapping[str, object]:
        return {"k": self.size(pixels)}

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        size = self.size(maps.shape[1] * maps.shape[2])
        return strongest_inside(maps, masks, np.full(len(maps), size, dtype=np.int64))


class AttributionLocalisation(Localisation):
    """Share of all relevance that lies in the region, over the region's share of the image: how many times more than by chance.

    1: a map without meaning; the image's size over the region's: all relevance inside. Quantus multiplies by the region's share
    where the paper divides, and takes that share of a number of pixels that depends on the batch (of two images, of none);
    `weighted: false` is its unweighted number, and relevance_mass.
    Source: Kohlbrenner et al., IJCNN 2020, arXiv:1910.09840, eq. 8 and 9.
    """

    source = "Kohlbrenner et al., Towards Best Practice in Explaining with LRP, IJCNN 2020, arXiv:1910.09840, eq. 8 and 9"
    unit = "1"
    chance = "unknown"
    name = "attribution_localisation"
    quantus_name = "AttributionLocalisation"

    class Params(LocalisationParams):
        weighted: bool = cxr.Field(True, description="divide by the region's share of the image")
        max_size: float = cxr.Field(
            1.0, gt=0, le=1, description="images whose region is a larger share than this have no value (the paper: 0.25, 0.5)"
        )

    params: Params

    def library_settings(self, pixels: int) -> Mapping[str, object]:
        return {"weighted": self.params.weighted, "max_size": self.params.max_size}

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        a, inside = in_rows(maps), in_rows(masks)
        share = inside.mean(axis=1)
        mass = (a * inside).sum(axis=1) / a.sum(axis=1)
        values = mass / share if self.params.weighted else mass
        return np.where(share > self.params.max_size, np.nan, values)


class LocalisationAUC(Localisation):
    """Chance that a pixel in the region is more relevant than one outside, ties counting half: the area under the ROC curve.

    0.5: a map without meaning. NaN where the region is the whole image. Equal to Quantus' AUC.
    Source: Fawcett, Pattern Recognition Letters 2006, doi 10.1016/j.patrec.2005.10.010.
    """

    source = "Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 2006, doi 10.1016/j.patrec.2005.10.010"
    chance = "unknown"
    name = "localisation_auc"
    quantus_name = "AUC"

    def score(self, maps: FloatArray, masks: BoolArray) -> FloatArray:
        ranks, inside = rankdata(in_rows(maps), axis=1), in_rows(masks)
        within = inside.sum(axis=1)
        pairs = within * (inside.shape[1] - within)
        above = (ranks * inside).sum(axis=1) - within * (within + 1) / 2  # Mann and Whitney's U
        values = np.full(len(maps), np.nan)
        np.divide(above, pairs, out=values, where=pairs > 0)
        return values


def strongest_inside(maps: FloatArray, masks: BoolArray, size: npt.NDArray[np.int64]) -> FloatArray:
    """Share of the `size` (N,) most relevant pixels of each map that lie in its region, (N,); maps and masks (N, H, W).

    Of pixels that tie at the cut, as many as there are places left count by the share of them inside.
    """
    a, inside = in_rows(maps), in_rows(masks)
    cut = np.take_along_axis(np.sort(a, axis=1), a.shape[1] - size[:, None], axis=1)
    above, tied = a > cut, a == cut
    open_places = size - above.sum(axis=1)
    hits = (above & inside).sum(axis=1) + open_places * (tied & inside).sum(axis=1) / tied.sum(axis=1)
    return np.asarray(hits / size, dtype=np.float64)
