"""How much of a map survives changes of the image that no one sees and that change no prediction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

import cxr_eval.api as cxr
from cxr_eval.explain.quantus_adapter import FloatArray, Sign, chunks, device_of, informative, settled
from cxr_eval.explain.similarity import TOP, map_top_overlap

LARGEST, SMALLEST = 0.5, 0.1
"""Sides of the first and of the last square that is tried, as shares of the image's shorter side."""


class ExplanationAttack(cxr.ExplanationMetric):
    """Share of the most relevant pixels that the worst image found within eps leaves where they were; higher is more robust.

    Searched for by lot, so that maps without gradients are judged too: each query sets one square of the change to +eps or -eps
    in every channel and is kept if the prediction stays and fewer of the most relevant pixels do. The squares are the same for
    every image. Prediction: the likeliest class, or, for findings, the side of 0.5 of the one explained. A search that finds
    little proves little: the value is an upper bound. Costs at most `queries` explanations and forward passes an image.
    Source: goal as in Ghorbani et al., AAAI 2019, arXiv:1710.10547 (top-k attack); the search is ours, with squares as in
    Andriushchenko et al., ECCV 2020, arXiv:1912.00049.
    """

    source = "goal: Ghorbani et al., AAAI 2019, arXiv:1710.10547, top-k attack; random search with squares, without gradients"
    family = "robustness"
    better = "higher"
    unit = "fraction"

    class Params(cxr.Params):
        sign: Sign = cxr.Field("signed", description="maps compared: signed (as the method made them), positive or absolute")
        eps: cxr.Radius = cxr.Field(0.02, gt=0, description="L-inf radius of the change, pixel units of [0, 1]")
        queries: int = cxr.Field(50, ge=1, le=10000, description="changes tried an image, one explanation each")
        share: float = cxr.Field(TOP, gt=0, lt=1, description="share of the pixels that count as the most relevant")

    params: Params

    def measure(self, explained: cxr.Explained) -> dict[str, FloatArray]:
        """The share left, (N,) in [0, 1]; NaN where the map of the clean image says nothing."""
        return {"explanation_attack": self.search(explained)[0]}

    def search(self, explained: cxr.Explained) -> tuple[FloatArray, npt.NDArray[np.float32]]:
        """The share left (N,), and the images that leave it, (N, C, H, W): the clean ones where none leaves less than all."""
        clean = settled(explained.maps, self.params.sign)
        values, worst = np.full(len(clean), np.nan), explained.x.copy()
        for index in chunks(informative(clean)):
            values[index], worst[index] = self._searched(explained, clean[index], index)
        return values, worst

    def _searched(
        self, explained: cxr.Explained, clean: FloatArray, index: npt.NDArray[np.int64]
    ) -> tuple[FloatArray, npt.NDArray[np.float32]]:
        device = device_of(explained.model)
        x, target = torch.from_numpy(explained.x[index]).to(device), torch.from_numpy(explained.target[index]).to(device)
        predicted = self._predicted(explained, x, target)
        left, change = np.ones(len(index)), torch.zeros_like(x)
        for rows, columns, signs in self._squares(x, explained.seed):
            tried = change.clone()
            tried[:, :, rows, columns] = self.params.eps * signs
            images = (x + tried).clamp(0, 1)
            stays = torch.nonzero(self._predicted(explained, images, target) == predicted).flatten()
            if not len(stays):
                continue
            found = explained.explain(explained.model, images[stays], target[stays]).float().cpu().numpy()
            here = stays.cpu().numpy()
            overlap = map_top_overlap(clean[here], settled(found, self.params.sign), share=self.params.share)
            fewer = overlap < left[here]  # NaN, where the new map says nothing, is not fewer
            left[here[fewer]] = overlap[fewer]
            taken = stays[torch.from_numpy(fewer).to(device)]
            change[taken] = tried[taken]
        return left, (x + change).clamp(0, 1).cpu().numpy()

    def _squares(self, x: torch.Tensor, seed: int) -> list[tuple[slice, slice, torch.Tensor]]:
        """Rows, columns and signs (C, 1, 1) of each query's square, from large to small."""
        _, channels, height, width = x.shape
        rng = np.random.default_rng(seed)
        squares = []
        for share in np.linspace(LARGEST, SMALLEST, self.params.queries):
            side = max(1, round(share * min(height, width)))
            top, first = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
            signs = torch.from_numpy(rng.choice([-1.0, 1.0], (channels, 1, 1))).to(x)
            squares.append((slice(top, top + side), slice(first, first + side), signs))
        return squares

    def _predicted(self, explained: cxr.Explained, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(N,): what must not change."""
        with cxr.frozen(explained.model), torch.no_grad():
            logits: torch.Tensor = explained.model(x)
        if explained.task == "multiclass":
            return logits.argmax(dim=1)
        return logits.gather(1, target[:, None])[:, 0] > 0
