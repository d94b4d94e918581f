"""What the pixel neural field is trained for: every variant of the flow, and a plain classifier."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rlfseg.method.flow import euler, interpolate, l2_loss, rf_loss
from rlfseg.method.reshaping import Centroids, nearest, one_hot, reshaped
from rlfseg.method.types import Image, Latent, PerSample, Text, Time
from rlfseg.training.loop import Losses

#: The variants. All but `classes` predict a velocity; those in the middle reshape it.
ARMS = ("plain", "l2", "reshaped", "attraction", "repulsion", "attached", "classes")
_PARTS = {"reshaped": "both", "attached": "both"}


class FieldBatch(NamedTuple):
    """Pictures (z1), their pixels' classes, and times."""

    image: Image
    classes: Int[Tensor, "b H W"]
    t: Time


class FieldObjective(nn.Module):
    """Trains a field from the picture at t = 1 to the classes' centroids at t = 0.

    plain       the flow's squared loss
    l2          the distance in its place
    reshaped    FlowSeg's; `attraction` and `repulsion` keep one part of its correction
    attached    the same without the stop-gradient
    classes     no flow: the softmax cross-entropy of scores at t = 1
    """

    mu: Centroids

    def __init__(self, field: nn.Module, mu: Centroids, *, arm: str) -> None:
        """Take a network, the classes' centroids, and which variant.

        Raises:
            ValueError: if there is no such variant.
        """
        super().__init__()
        if arm not in ARMS:
            raise ValueError(f"objective must be one of {ARMS}, got {arm!r}")
        self.field, self.arm = field, arm
        self.register_buffer("mu", mu, persistent=False)

    def forward(self, batch: FieldBatch) -> Losses:
        """Return the per-sample losses of a batch."""
        if self.arm == "classes":
            scores = self.field(batch.image, torch.ones_like(batch.t)).float()
            return Losses(cross_entropy(scores, batch.classes, reduction="none").mean((1, 2)))
        z1, z0 = batch.image, self.mu[batch.classes][..., 0, 0].movedim(-1, 1)
        zt = interpolate(z0=z0, z1=z1, t=batch.t)
        v_pred = self.field(zt, batch.t).float()
        return Losses(self._flow(batch, v_pred=v_pred, zt=zt, z0=z0, z1=z1))

    def _flow(
        self, batch: FieldBatch, *, v_pred: Latent, zt: Latent, z0: Latent, z1: Latent
    ) -> PerSample:
        if self.arm == "l2":
            return l2_loss(v_pred=v_pred, z0=z0, z1=z1)
        if self.arm != "plain":
            z0 = reshaped(
                z0=z0,
                v_pred=v_pred,
                zt=zt,
                t=batch.t,
                y=one_hot(batch.classes, len(self.mu)),
                mu=self.mu,
                part=_PARTS.get(self.arm, self.arm),
                detach=self.arm != "attached",
            )
        return rf_loss(v_pred=v_pred, z0=z0, z1=z1)

    @torch.no_grad()
    def predict_classes(self, image: Image, *, steps: int) -> Int[Tensor, "b H W"]:
        """Give every pixel a class, by Euler steps and the nearest centroid, or by its scores."""
        if self.arm == "classes":
            return self.field(image, image.new_ones(len(image))).argmax(1)

        def v(z: Latent, t: Time, c: Text) -> Latent:
            return self.field(z, t)

        return nearest(euler(v, z1=image, c=image.new_empty(0), steps=steps), self.mu)
