"""One radius an image, which falls where the image is fragile and rises where it is stable."""

from __future__ import annotations

import torch

from cxr_eval_dpaat.settings import Params

TENTHS = 10
QUANTILES = {"eps_q05": 0.05, "eps_q25": 0.25, "eps_median": 0.5, "eps_q75": 0.75, "eps_q95": 0.95}


class ImageRadii:
    """State of all n training images, on the device of training: no step waits for the host."""

    def __init__(self, n: int, params: Params, device: torch.device) -> None:
        """Give every image the first radius, as if none had been visited."""
        self.params = params
        self.eps = torch.full((n,), params.start, dtype=torch.float64, device=device)
        """Radius of each image, (n,); float64, so that the float32 of an attack is that of a fixed radius."""
        self.last = torch.full((n,), torch.nan, device=device)
        """Attacked loss of each image at its last visit, (n,); NaN before the first."""
        self.average = torch.full((), torch.nan, dtype=torch.float64, device=device)
        """Moving mean of Delta for average: ema; NaN before the first batch."""
        self.delta = torch.full_like(self.eps, torch.nan)
        """Delta of each image in this epoch, (n,); NaN where it was not measured or is not finite."""
        self.fragile = torch.full_like(self.eps, torch.nan)
        """1 where an image was fragile in this epoch, 0 where stable, NaN where that was not measured; (n,)."""

    def of(self, index: torch.Tensor) -> torch.Tensor:
        """Radii that the images at these rows are attacked with, (B,) float64."""
        if self.params.state == "batch":
            return torch.full_like(index, self.params.start, dtype=torch.float64)
        return self.eps[index]

    def visit(
        self, index: torch.Tensor, attacked: torch.Tensor, clean: torch.Tensor | None, known: torch.Tensor
    ) -> torch.Tensor:
        """Radii of the visited images from now on, (B,) float64.

        attacked, clean: loss of each image, (B,) float32, without gradient; clean only where Delta needs it.
        known: images that have a label, (B,). Without one a loss says nothing: such an image keeps its radius and stays out of
            the mean, as at its first visit for delta: temporal.
        """
        p = self.params
        if p.delta == "difference":
            assert clean is not None
            delta, measured = attacked - clean, known
        elif p.delta == "temporal":
            last = self.last[index]
            delta, measured = attacked - last, known & ~last.isnan()
            self.last[index] = torch.where(attacked.isfinite(), attacked, torch.inf)  # a NaN would be a first visit again
        else:
            delta, measured = attacked, known
        finite = delta.isfinite()
        self.delta[index] = torch.where(measured & finite, delta.double(), torch.nan)
        # Delta > mean of Delta, strictly (arXiv:2403.06798); a Delta that is not finite cannot be stable
        fragile = (delta.double() > self._mean(index)) | ~finite
        self.fragile[index] = torch.where(measured, fragile.double(), torch.nan)
        eps = self.of(index)
        if p.update == "additive":
            moved = torch.where(fragile, eps - p.additive, eps + p.additive)
        else:
            moved = torch.where(fragile, eps / p.factor, eps * p.factor)
        eps = torch.where(measured, moved.clamp(p.eps_min, p.largest), eps)
        self.eps[index] = eps
        return eps

    def _mean(self, index: torch.Tensor) -> torch.Tensor:
        """The mean that decides, after this batch; in float64 the mean of equal float32 numbers is that number."""
        scope = self.delta if self.params.average == "epoch" else self.delta[index]
        mean = torch.nanmean(scope)
        if self.params.average == "ema":
            moved = self.average + (1 - self.params.average_momentum) * (mean - self.average)
            mean = torch.where(mean.isnan(), self.average, torch.where(self.average.isnan(), mean, moved))
            self.average = mean
        return mean

    def end_epoch(self) -> dict[str, torch.Tensor]:
        """Columns of the epoch's history row; Delta and who is fragile are forgotten."""
        p = self.params
        columns = {"eps_mean": self.eps.mean()}
        levels = torch.tensor(list(QUANTILES.values()), dtype=torch.float64, device=self.eps.device)
        columns |= dict(zip(QUANTILES, torch.quantile(self.eps, levels), strict=True))
        # radii move in steps that meet the tenths' borders: rounding must not choose the tenth
        tenth = ((self.eps - p.eps_min) / ((p.largest - p.eps_min) or 1) * TENTHS + 1e-9).long().clamp(max=TENTHS - 1)
        columns |= {f"eps_hist_{k}": (tenth == k).double().mean() for k in range(TENTHS)}
        columns["fragile_fraction"] = torch.nanmean(self.fragile)
        columns["delta_mean"], columns["delta_median"] = torch.nanmean(self.delta), torch.nanquantile(self.delta, 0.5)
        self.delta.fill_(torch.nan)
        self.fragile.fill_(torch.nan)
        return columns

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What the next epoch starts from."""
        return {"eps": self.eps, "last": self.last, "average": self.average}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state_dict` gave."""
        device = self.eps.device
        self.eps, self.last, self.average = (state[name].to(device) for name in ("eps", "last", "average"))
