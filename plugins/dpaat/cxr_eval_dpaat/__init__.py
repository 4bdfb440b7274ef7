"""DPAAT: dynamic perturbation-adaptive adversarial training."""

from typing import Any

import torch
from torch.nn import functional

import cxr_eval.api as cxr
from cxr_eval_dpaat import settings
from cxr_eval_dpaat.radii import ImageRadii


class DPAATTrainer(cxr.Trainer):
    """PGD training with a radius of its own for each image, and a loss that keeps clean and attacked predictions together.

    An image whose loss rises more than the mean under attack is fragile: its radius falls; the others' radii rise. Outside of
    `fit` a batch is a first visit of its images.
    """

    source = (
        "Li, Ma, Jiang, Meng, 2024, arXiv:2403.06798 (rule and synchronisation loss; its formulas and numbers are not public);"
        " gaps filled after AMAT, arXiv:2206.01736, and IMA, arXiv:2005.09147"
    )
    adversarial = True
    Params = settings.Params
    radii: ImageRadii | None = None
    """State of the training images, from the start of a fit with dynamic radii."""

    def on_fit_start(self, n: int) -> None:
        """Give every image the first radius.

        Raises:
            ValueError: a radius is to stay with its image, and the images come from a generator.
        """
        if self.params.dynamic and self.params.state == "image" and not self.by_row:
            raise ValueError("DPAATTrainer keeps a radius for each image; use fit, not fit_generator, or set state: batch")
        self.radii = ImageRadii(n, self.params, self.device) if self.params.dynamic else None

    def on_epoch_end(self, epoch: int) -> None:
        if self.radii is not None:
            for name, value in self.radii.end_epoch().items():
                self.log(name, value)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.radii is None else self.radii.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.radii = ImageRadii(len(state["eps"]), self.params, self.device)
            self.radii.load_state_dict(state)

    def eps_range(self) -> tuple[float, float]:
        if self.radii is None:
            return self.params.start, self.params.start
        return float(self.radii.eps.min()), float(self.radii.eps.max())

    def loss(self, batch: cxr.Batch) -> torch.Tensor:
        p, radii, rows = self.params, self.radii, batch.index
        if p.dynamic and radii is None:
            radii, rows = ImageRadii(len(batch.x), p, self.device), torch.arange(len(batch.x), device=self.device)
        images = self._attacked(batch, p.eps if radii is None else radii.of(rows))
        needs_clean = bool(p.clean_weight or p.sync_weight)
        # the loss's own predictions give Delta for nothing, unless radii change before the loss or it has no clean predictions
        looks = p.recraft or p.state == "batch" or (p.delta == "difference" and not needs_clean)
        if radii is not None and looks:
            images = self._adapted(batch, images, radii, rows)
        attacked = self.model(images)
        clean = self.model(batch.x) if needs_clean else None
        if radii is not None and not looks:
            self._visit(batch, attacked, clean, radii, rows)
        loss: torch.Tensor = self.criterion(attacked, batch.y)
        self.log("loss_adversarial", loss)
        if clean is None:
            return loss
        clean_loss = self.criterion(clean, batch.y)
        self.log("loss_clean", clean_loss)
        if p.clean_weight:
            loss = (1 - p.clean_weight) * loss + p.clean_weight * clean_loss
        if p.sync_weight:
            sync = self._sync(clean, attacked)
            self.log("loss_sync", sync)
            loss = loss + p.sync_weight * sync
        return loss

    def _attacked(self, batch: cxr.Batch, eps: float | torch.Tensor) -> torch.Tensor:
        p = self.params
        return cxr.pgd(
            self.model,
            batch.x,
            batch.y,
            eps=eps,
            step=p.step_factor * eps / p.steps if p.step is None else p.step,
            steps=p.steps,
            loss=self.criterion,
            rng=self.rng if p.random_start else None,
            norm=p.norm,
        )

    def _visit(
        self, batch: cxr.Batch, attacked: torch.Tensor, clean: torch.Tensor | None, radii: ImageRadii, rows: torch.Tensor
    ) -> torch.Tensor:
        """New radii (B,) from the logits of the attacked and, where Delta needs them, the clean images."""
        y = batch.y
        known = torch.ones_like(y, dtype=torch.bool) if self.task == "multiclass" else ~y.isnan().all(dim=1)
        clean_losses = None
        if clean is not None and self.params.delta == "difference":
            clean_losses = self.losses(clean.detach(), y, weighted=False)  # what a class weighs makes no image fragile
        return radii.visit(rows, self.losses(attacked.detach(), y, weighted=False), clean_losses, known)

    def _adapted(self, batch: cxr.Batch, images: torch.Tensor, radii: ImageRadii, rows: torch.Tensor) -> torch.Tensor:
        """The images to train on where radii change before the loss."""
        p = self.params
        with cxr.frozen(self.model), torch.no_grad():  # evaluation mode: BatchNorm must learn only from images trained on
            clean = self.model(batch.x) if p.delta == "difference" else None
            eps = self._visit(batch, self.model(images), clean, radii, rows)
        if p.recraft:
            return self._attacked(batch, eps)
        if p.state == "image":
            return images
        stretch = (eps / p.eps).to(batch.x.dtype).view(-1, 1, 1, 1)
        return cxr.project(batch.x + stretch * (images - batch.x), batch.x, eps, p.norm)

    def _sync(self, clean: torch.Tensor, attacked: torch.Tensor) -> torch.Tensor:
        """L_syn: how far the two predictions are apart; a mean over images, and but for kl over classes."""
        p = self.params
        if p.sync == "kl":
            return self.divergence(clean, attacked)
        clean, attacked = clean.float(), attacked.float()
        if p.sync == "mse_logits":
            return functional.mse_loss(attacked, clean)
        single = self.task == "multiclass"
        clean, attacked = (z.softmax(dim=1) if single else z.sigmoid() for z in (clean, attacked))
        return functional.l1_loss(attacked, clean) if p.sync == "l1" else functional.mse_loss(attacked, clean)
