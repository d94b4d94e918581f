"""A discriminative yardstick: the same UNet and adapter, asked to classify pixels, not to draw.

Ours. What differs from a rectified-flow run at t = 1: the loss, binary cross-entropy by pixel; the
last convolution, which is new and gives one channel at the picture's size, so that nothing is
decoded; the labels, annotations alone, without dynamic selection; and the learning rate and the
optimiser's betas, which suit a layer that begins at random.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from rlfseg.config import STRICT, Count, Positive, Seed
from rlfseg.experiment import Run, backbone_folder
from rlfseg.method.types import Latent, Text
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import add_lora, as_velocity, load_unet
from rlfseg.models.weights import seeded
from rlfseg.stage import Stage


@dataclass(frozen=True, config=STRICT)
class UnetHeadConfig:
    """Settings of the yardstick; the defaults are those of a flow run, where there are such.

    Attributes:
        steps: that adapter and head are trained for.
        rank: of the adapter on the attention's projections.
        seed: of the initial weights and every batch.
        curve: phrases of the validation split that are scored while it trains.
    """

    UNHASHED: ClassVar = ("kind", "curve")
    outside: ClassVar[Stage | None] = None
    source: ClassVar = (
        "no: ours, after its idea",
        "A small baseline of ours in its manner (`rlfseg.baselines.unethead`)",
    )

    steps: Count
    kind: Literal["unethead"] = "unethead"
    batch: Count = 8
    lr: Positive = 1.5e-3
    rank: Annotated[int, Field(gt=0, le=4096)] = 64
    seed: Seed = 42
    curve: Annotated[int, Field(ge=0, le=10**6)] = 0

    def model(self, run: Run, coder: LatentCodec) -> "UnetHead":
        """Return the model before any training, on the backbone's UNet."""
        unet = load_unet(backbone_folder(run))
        return seeded(self.seed, partial(UnetHead, unet, self, magnify=coder.factor))


class UnetHead(nn.Module):
    """The UNet with an adapter and one channel out, asked at t = 1, where zt is the picture."""

    def __init__(self, unet: UNet2DConditionModel, config: UnetHeadConfig, *, magnify: int) -> None:
        """Take a frozen UNet, changed in place, and the pixels that a latent position spans."""
        super().__init__()
        add_lora(unet, rank=config.rank, seed=config.seed)
        last = nn.Conv2d(unet.config.block_out_channels[0], magnify**2, 3, padding=1)
        unet.conv_out = nn.Sequential(last, nn.PixelShuffle(magnify))
        self.unet = unet

    def see(self, cache: LatentCache, items: np.ndarray) -> Latent:
        """Image latents from the cache."""
        return cache.z1(items)

    def hear(self, cache: LatentCache, captions: Sequence[str]) -> Text:
        """Return the backbone's text states."""
        return cache.codec.text(captions)

    def forward(self, seen: Latent, heard: Text) -> Tensor:
        """Return logits [b, H, W]."""
        return as_velocity(self.unet)(seen, torch.ones(len(seen), device=seen.device), heard)[:, 0]
