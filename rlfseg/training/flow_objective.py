"""Eq. 2 with Eq. 4's dynamic selection, as the objective that the training loop steps on."""

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from rlfseg.method.flow import interpolate, l2_loss, rf_loss, select
from rlfseg.method.reshaping import Centroids, mixture, reshaped
from rlfseg.method.types import Chosen, Latent, PerSample, Text, Time
from rlfseg.models.unet import as_velocity
from rlfseg.training.flow_batch import FlowBatch
from rlfseg.training.loop import Losses

#: Shares of the picture that part small, medium and large masks in the record.
SIZES = (0.02, 0.1)


class RectifiedFlowObjective(nn.Module):
    """Regresses the UNet's output onto the straight path's velocity.

    Where a batch has two labels, each sample keeps the one of lower loss (Eq. 4), and
    `picked_original` records the choice, for small, medium and large masks too:

        exact   both losses at the sample's own t, without gradient, the two labels in one forward
                pass of twice the batch; then the winner is trained, whose loss is that again. Where
                all t are 1, zt = z1 and one label's work scores both, with gradient
        probe   likewise, but both losses at t = 1, where one pass scores both

    The loss itself is Eq. 2's, or one that the book compares with it:

        plain      the squared error
        l2         the distance, in the place of its square
        reshaped   the squared error from FlowSeg's reshaped velocity, whose centroids are the black
                   and the white latent; a label's place between them gives its shares of the two

    Deviation: `probe`, `l2` and `reshaped` are not in the paper; the book compares the last two
    with what is.
    """

    mu: Centroids | None

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        selection: str = "exact",
        objective: str = "plain",
        mu: Centroids | None = None,
    ) -> None:
        """Take what is trained and how.

        Args:
            unet: what is trained.
            selection: `exact` or `probe`, which matters to batches with two labels only.
            objective: `plain`, `l2` or `reshaped`.
            mu: the black and the white latent [2, c, h, w], scaled, for `reshaped`.

        Raises:
            ValueError: if the field is to be reshaped and there are no centroids.
        """
        super().__init__()
        if objective == "reshaped" and mu is None:
            raise ValueError("objective 'reshaped' needs mu, the black and the white latent")
        self.unet, self.selection, self.objective = unet, selection, objective
        self.register_buffer("mu", mu, persistent=False)

    def forward(self, batch: FlowBatch) -> Losses:
        """Return the per-sample losses of a batch."""
        if batch.z0_refined is None:
            return Losses(self._loss(z0=batch.z0, z1=batch.z1, t=batch.t, c=batch.c))
        if self.selection == "exact" and batch.at_one:
            original, refined = self._both_at_one(batch)
            loss, picked = select(loss_original=original, loss_refined=refined)
        else:
            picked = self.chosen(batch)
            z0 = torch.where(picked[:, None, None, None], batch.z0, batch.z0_refined)
            loss = self._loss(z0=z0, z1=batch.z1, t=batch.t, c=batch.c)
        values, among = {"picked_original": picked}, {}
        if batch.area is not None:
            least, most = SIZES
            large, small = batch.area >= most, batch.area < least
            sizes = {"small": small, "medium": ~(small | large), "large": large}
            among = {f"picked_original_{name}": those for name, those in sizes.items()}
            values |= dict.fromkeys(among, picked)
        return Losses(loss, values, among)

    @torch.no_grad()
    def chosen(self, batch: FlowBatch) -> Chosen:
        """Tell whether the original label has the lower loss (Eq. 4), by one pass."""
        both = self._both_at_one if self.selection == "probe" else self._both
        original, refined = both(batch)
        # an older torch would use the weights that autocast made here, without gradient, again
        torch.clear_autocast_cache()
        return select(loss_original=original, loss_refined=refined)[1]

    def _both(self, batch: FlowBatch) -> tuple[PerSample, PerSample]:
        """Return the original and the refined label's losses at the samples' own t."""
        assert batch.z0_refined is not None
        z0 = torch.cat([batch.z0, batch.z0_refined])
        z1, t, c = (torch.cat([each, each]) for each in (batch.z1, batch.t, batch.c))
        loss = self._loss(z0=z0, z1=z1, t=t, c=c)
        original, refined = loss.chunk(2)
        return original, refined

    def _both_at_one(self, batch: FlowBatch) -> tuple[PerSample, PerSample]:
        """Return the same at t = 1, where zt = z1 for either label."""
        assert batch.z0_refined is not None
        t = torch.ones_like(batch.t)
        v_pred = as_velocity(self.unet)(batch.z1, t, batch.c)
        at = {"z1": batch.z1, "zt": batch.z1, "t": t}
        original = self._measure(v_pred, z0=batch.z0, **at)
        return original, self._measure(v_pred, z0=batch.z0_refined, **at)

    def _loss(self, *, z0: Latent, z1: Latent, t: Time, c: Text) -> PerSample:
        zt = interpolate(z0=z0, z1=z1, t=t)
        v_pred = as_velocity(self.unet)(zt, t, c)
        return self._measure(v_pred, z0=z0, z1=z1, zt=zt, t=t)

    def _measure(self, v_pred: Latent, *, z0: Latent, z1: Latent, zt: Latent, t: Time) -> PerSample:
        """Return the loss of a predicted velocity at (zt, t)."""
        if self.objective == "l2":
            return l2_loss(v_pred=v_pred, z0=z0, z1=z1)
        if self.objective == "reshaped":
            assert self.mu is not None
            y = mixture(z0=z0, mu=self.mu)
            z0 = reshaped(z0=z0, v_pred=v_pred, zt=zt, t=t, y=y, mu=self.mu)
        return rf_loss(v_pred=v_pred, z0=z0, z1=z1)
