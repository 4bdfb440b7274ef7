"""Maps that know nothing of the network, to read a metric's number beside: noise, a blob, edges, the same everywhere.

They are explainers that no protocol names as methods. `REGIONS` lists the references that are masks of the image.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

import cxr_eval.api as cxr

REGIONS: Mapping[str, tuple[str, ...]] = {"oracle": ("finding", "lesion", "box"), "lungs": ("lung",)}
"""References that are masks: the kinds of region tried in order, the first that an image has."""

WIDTH = 0.25
"""Standard deviation of the blob in the centre, as a share of each side."""


class Reference(cxr.Explainer):
    """Base: a map that is a function of the image alone."""

    @abstractmethod
    def draw(self, x: torch.Tensor) -> torch.Tensor:
        """Maps >= 0, float32 (N, H, W), of images (N, C, H, W)."""

    def explain(self, model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Maps of the images, float32 (N, H, W) >= 0, whatever the network and the target."""
        return self.draw(x.detach().float())


class Random(Reference):
    """Uniform noise, drawn for each image from its own pixels and the seed: another image, however near, gets other noise."""

    source = "uniform noise in [0, 1)"

    class Params(cxr.Params):
        seed: int = cxr.Field(0, ge=0, description="noise of another seed is other noise for the same image")

    params: Params

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        drawn = np.zeros((len(x), *x.shape[2:]), dtype=np.float32)
        for place, image in enumerate(x.cpu().numpy()):
            drawn[place] = np.random.default_rng((self.params.seed, zlib.crc32(image.tobytes()))).random(x.shape[2:])
        return torch.from_numpy(drawn).to(x.device)


class Centre(Reference):
    """A Gaussian blob in the middle of the picture, which any picture framed by hand rewards."""

    source = "centre prior; standard deviation a quarter of each side"

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        along = [torch.linspace(-0.5, 0.5, side, dtype=torch.float64) if side > 1 else torch.zeros(1) for side in x.shape[2:]]
        rows, columns = (torch.exp(-(place**2) / (2 * WIDTH**2)) for place in along)
        return (rows[:, None] * columns).to(x).expand(len(x), -1, -1).clone()


class Edges(Reference):
    """Size of the Sobel gradient of the image, its channels averaged.

    Source: Sobel and Feldman, 1968; as a reference for explanations: Adebayo et al., NeurIPS 2018, arXiv:1810.03292.
    """

    source = "Sobel and Feldman 1968; edge detector as reference: Adebayo et al., NeurIPS 2018, arXiv:1810.03292"

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(x)
        grey = functional.pad(x.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        slope = functional.conv2d(grey, torch.stack([across, across.T])[:, None])
        return slope.square().sum(dim=1).sqrt()


class Constant(Reference):
    """1 everywhere: a map that says nothing. Metrics that call such a map undefined give it no number."""

    source = "1 everywhere"

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones((len(x), *x.shape[2:]), device=x.device)


OF_THE_IMAGE: Mapping[str, type[Reference]] = {"random": Random, "centre": Centre, "edges": Edges, "constant": Constant}
"""References that are functions of the image."""
