"""Eq. 2 with Eq. 4's dynamic selection, as the objective that the training loop steps on."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from rlfseg.data import FlowBatch
from rlfseg.flow import interpolate, rf_loss, select
from rlfseg.model import as_velocity
from rlfseg.train import Losses
from rlfseg.types import Chosen, Latent, PerSample, Text, Time

#: Shares of the picture that part small, medium and large masks in the record.
SIZES = (0.02, 0.1)


class RectifiedFlowObjective(nn.Module):
    """Regresses the UNet's output onto the straight path's velocity.

    Where a batch has two labels, each sample keeps the one of lower loss (Eq. 4), and
    `picked_original` records the choice, for small, medium and large masks too:

        exact   both losses with gradient, at the sample's own t, the two labels in one pass of
                twice the batch; where all t are 1, zt = z1 and one label's work scores both
        probe   one forward pass without gradient at t = 1, where zt = z1 for either label, so
                that it scores both; then the winner is trained at the sample's own t

    Deviation: `probe` is not in the paper; it is compared with `exact` in the book.
    """

    def __init__(self, unet: UNet2DConditionModel, *, selection: str = "exact") -> None:
        """Takes a UNet, and `exact` or `probe`, which matters to batches with two labels only."""
        super().__init__()
        self.unet = unet
        self.selection = selection

    def forward(self, batch: FlowBatch) -> Losses:
        """Per-sample losses of a batch."""
        if batch.z0_refined is None:
            return Losses(self._loss(batch.z0, batch.z1, batch.t, batch.c))
        if self.selection == "probe":
            picked = self.probe(batch)
            z0 = torch.where(picked[:, None, None, None], batch.z0, batch.z0_refined)
            loss = self._loss(z0, batch.z1, batch.t, batch.c)
        else:
            both = self._both_at_one if bool((batch.t == 1).all()) else self._both
            original, refined = both(batch)
            loss, picked = select(loss_original=original, loss_refined=refined)
        values = {"picked_original": picked}
        if batch.area is not None:
            size = torch.bucketize(batch.area, batch.area.new_tensor(SIZES), right=True)
            for number, name in enumerate(("small", "medium", "large")):
                values[f"picked_original_{name}"] = picked[size == number]
        return Losses(loss, values)

    @torch.no_grad()
    def probe(self, batch: FlowBatch) -> Chosen:
        """Whether the original label has the lower loss at t = 1, by one forward pass (Eq. 4)."""
        original, refined = self._both_at_one(batch)
        return select(loss_original=original, loss_refined=refined)[1]

    def _both(self, batch: FlowBatch) -> tuple[PerSample, PerSample]:
        """Losses of the original and the refined label at the samples' own t, side by side."""
        assert batch.z0_refined is not None
        z1, t, c = (torch.cat([each, each]) for each in (batch.z1, batch.t, batch.c))
        loss = self._loss(torch.cat([batch.z0, batch.z0_refined]), z1, t, c)
        original, refined = loss.chunk(2)
        return original, refined

    def _both_at_one(self, batch: FlowBatch) -> tuple[PerSample, PerSample]:
        """The same at t = 1, where zt = z1 for either label."""
        assert batch.z0_refined is not None
        v_pred = as_velocity(self.unet)(batch.z1, torch.ones_like(batch.t), batch.c).float()
        original = rf_loss(v_pred=v_pred, z0=batch.z0, z1=batch.z1)
        return original, rf_loss(v_pred=v_pred, z0=batch.z0_refined, z1=batch.z1)

    def _loss(self, z0: Latent, z1: Latent, t: Time, c: Text) -> PerSample:
        v_pred = as_velocity(self.unet)(interpolate(z0=z0, z1=z1, t=t), t, c).float()
        return rf_loss(v_pred=v_pred, z0=z0, z1=z1)
