"""A discriminative yardstick: the same UNet and adapter, asked to classify pixels, not to draw.

Ours. Two things differ from a rectified-flow run at t = 1: the loss, binary cross-entropy by pixel,
and the last convolution, which is new and gives one channel at the picture's size, so that nothing
is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from rlfseg.method.types import Latent, Text
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.unet import add_lora, as_velocity


@dataclass(frozen=True)
class UnetHeadConfig:
    """Settings of the yardstick; the defaults are those of a flow run, where there are such.

    Attributes:
        steps: that adapter and head are trained for.
        rank: of the adapter on the attention's projections.
        seed: of the initial weights and every batch.
    """

    steps: int
    batch: int = 8
    lr: float = 1.5e-3
    rank: int = 64
    seed: int = 42


class UnetHead(nn.Module):
    """The UNet with an adapter and one channel out, asked at t = 1, where zt is the picture."""

    def __init__(self, unet: UNet2DConditionModel, config: UnetHeadConfig, *, magnify: int) -> None:
        """Takes a frozen UNet, changed in place, and the pixels that a latent position spans."""
        super().__init__()
        add_lora(unet, rank=config.rank, seed=config.seed)
        last = nn.Conv2d(unet.config.block_out_channels[0], magnify**2, 3, padding=1)
        unet.conv_out = nn.Sequential(last, nn.PixelShuffle(magnify))
        self.unet = unet

    def see(self, cache: LatentCache, items: np.ndarray) -> Latent:
        """Image latents from the cache."""
        return cache.z1(items)

    def hear(self, cache: LatentCache, captions: Sequence[str]) -> Text:
        """The backbone's text states."""
        return cache.codec.text(captions)

    def forward(self, seen: Latent, heard: Text) -> Tensor:
        """Logits (b, H, W)."""
        return as_velocity(self.unet)(seen, torch.ones(len(seen), device=seen.device), heard)[:, 0]
