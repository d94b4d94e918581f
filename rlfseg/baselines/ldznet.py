"""A baseline after LD-ZNet: masks read off the features of the frozen text-to-image UNet.

Source: K. PNVR et al., "LD-ZNet: a latent diffusion approach for text-based image segmentation"
(ICCV 2023). Left out of it: its second UNet (ZNet), which starts from Stable Diffusion's weights
and takes the features in by cross-attention at its own resolutions, here a few convolutions and
one attention to the words; the features of the way down; several draws of the noise, here one,
the same for every picture; its resolution of 384, here the packed one.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from rlfseg.config import STRICT, Count, Positive, Seed
from rlfseg.experiment import Run, backbone_folder
from rlfseg.method.types import Latent, Text
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import load_unet
from rlfseg.models.weights import seeded
from rlfseg.stage import Stage
from rlfseg.stand_ins.text_to_image import noise_schedule

_HEADS = 4  # of the attention to the words, and groups of the normalisation before it


@dataclass(frozen=True, config=STRICT)
class LdznetConfig:
    """Settings of the baseline.

    Attributes:
        steps: that the head is trained for.
        width: channels of the head.
        timestep: of the noise schedule, 0 to 999, at which the UNet is asked.
        seed: of the head's initial weights, the noise and every batch.
        curve: phrases of the validation split that are scored while it trains.
    """

    UNHASHED: ClassVar = ("kind", "curve")
    outside: ClassVar[Stage | None] = None
    source: ClassVar = (
        "no: ours, after its idea",
        "A small baseline of ours in its manner (`rlfseg.baselines.ldznet`)",
    )

    steps: Count
    kind: Literal["ldznet"] = "ldznet"
    batch: Count = 16
    lr: Positive = 1e-3
    width: Annotated[int, Field(gt=0, le=4096, multiple_of=4)] = 64
    timestep: Annotated[int, Field(ge=0, le=999)] = 200
    seed: Seed = 42
    curve: Annotated[int, Field(ge=0, le=10**6)] = 0

    def model(self, run: Run, coder: LatentCodec) -> "Ldznet":
        """Return the model before any training, on the backbone's frozen UNet."""
        unet, words = load_unet(backbone_folder(run)), coder.text_encoder.config.hidden_size
        return seeded(self.seed, partial(Ldznet, unet, self, magnify=coder.factor, words=words))


class Ldznet(nn.Module):
    """A frozen UNet, asked once, and the head that reads its features.

    The picture's latent is noised to one timestep, with one draw of noise for all pictures, and the
    UNet is asked as for that noise. What its blocks on the way up put out, and the latent as it
    was, go to the head.
    """

    def __init__(
        self, unet: UNet2DConditionModel, config: LdznetConfig, *, magnify: int, words: int
    ) -> None:
        """Take a UNet, the pixels that a latent position spans, and the width of the text."""
        super().__init__()
        self.unet = unet.requires_grad_(False).eval()
        self.timestep, self.seed = config.timestep, config.seed
        channels = list(reversed(unet.config.block_out_channels))
        self.head = Head(
            (int(unet.config.in_channels), *channels),
            width=config.width,
            words=words,
            doublings=magnify.bit_length() - 1,
        )

    def see(self, cache: LatentCache, items: np.ndarray) -> Latent:
        """Image latents from the cache."""
        return cache.z1(items)

    def hear(self, cache: LatentCache, captions: Sequence[str]) -> Text:
        """Return the backbone's text states."""
        return cache.codec.text(captions)

    def forward(self, seen: Latent, heard: Text) -> Tensor:
        """Return logits [b, H, W]."""
        return self.head([seen, *self.features(seen, heard)], heard)

    @torch.no_grad()
    def features(self, z1: Latent, c: Text) -> list[Tensor]:
        """Return what the UNet's blocks put out on the way up, [b, channels, h, w] each."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(z1.shape[1:], generator=generator).to(z1.device).expand_as(z1)
        t = torch.full((len(z1),), self.timestep, device=z1.device)
        kept: list[Tensor] = []

        def keep(module: nn.Module, given: Any, out: Tensor) -> None:
            kept.append(out)

        hooks = [block.register_forward_hook(keep) for block in self.unet.up_blocks]
        try:
            self.unet(noise_schedule().add_noise(z1, noise, t), t, c)
        finally:
            for hook in hooks:
                hook.remove()
        return kept


class Head(nn.Module):
    """Features at several resolutions and the words become logits at the picture's size."""

    def __init__(self, channels: Sequence[int], *, width: int, words: int, doublings: int) -> None:
        """Take the features' channels, its own width, the text's, and log2 of the enlargement."""
        super().__init__()
        self.into = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.norm = nn.GroupNorm(_HEADS, width)
        self.attend = nn.MultiheadAttention(
            width, _HEADS, kdim=words, vdim=words, batch_first=True, bias=False
        )
        self.blocks = nn.ModuleList(_convolutions(width, width) for _ in range(2))
        wide = [max(8, width >> k) for k in range(doublings + 1)]
        self.up = nn.ModuleList(_convolutions(a, b) for a, b in pairwise(wide))
        self.out = nn.Conv2d(wide[-1], 1, 3, padding=1)

    def forward(self, features: Sequence[Tensor], c: Text) -> Tensor:
        """Return logits [b, H, W] from features [b, channels, h, w], the largest of them first."""
        size = features[0].shape[-2:]
        same = [
            functional.interpolate(into(each), size, mode="bilinear")
            for into, each in zip(self.into, features, strict=True)
        ]
        x = torch.stack(same).sum(0)
        queries = self.norm(x).flatten(2).transpose(1, 2)
        heard = self.attend(queries, c, c, need_weights=False)[0]
        x = x + heard.transpose(1, 2).unflatten(2, size)
        for block in self.blocks:
            x = x + block(x)
        for block in self.up:
            x = functional.interpolate(block(x), scale_factor=2.0, mode="nearest")
        return self.out(x)[:, 0]


def _convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(4, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1), nn.SiLU()
    )
