"""Eq. 2 with Eq. 4's dynamic selection, as the objective that the training loop steps on."""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from torch import nn

from rlfseg.data import FlowBatch
from rlfseg.flow import interpolate, rf_loss, select
from rlfseg.model import as_velocity
from rlfseg.train import Losses
from rlfseg.types import Latent, PerSample


class RectifiedFlowObjective(nn.Module):
    """Regresses the UNet's output onto the straight path's velocity.

    With refined labels, both candidates are scored with gradient at the same t and each sample
    keeps the lower loss; `picked_original` records the choice. Without, it is the plain loss.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, batch: FlowBatch) -> Losses:
        """Per-sample losses of a batch."""
        original = self._loss(batch, batch.z0)
        if batch.z0_refined is None:
            return Losses(original)
        refined = self._loss(batch, batch.z0_refined)
        loss, picked = select(loss_original=original, loss_refined=refined)
        return Losses(loss, {"picked_original": picked})

    def _loss(self, batch: FlowBatch, z0: Latent) -> PerSample:
        zt = interpolate(z0=z0, z1=batch.z1, t=batch.t)
        v_pred = as_velocity(self.unet)(zt, batch.t, batch.c).float()
        return rf_loss(v_pred=v_pred, z0=z0, z1=batch.z1)
