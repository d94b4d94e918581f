"""A tiny decoder for the mini backbone: TAESD's class, taught by the autoencoder's own decoder."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, AutoencoderTiny
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from rlfseg.config import STRICT, Count, OptimiserConfig, Positive, Seed
from rlfseg.data.images import to_unit
from rlfseg.method.flow import interpolate
from rlfseg.method.types import Image, Latent
from rlfseg.models.latent_codec import LatentCodec, load_codec
from rlfseg.models.weights import save_model, seeded
from rlfseg.processes import together
from rlfseg.stage import Stage
from rlfseg.stand_ins.backbone import BackboneConfig, autoencoder_stage, backbone
from rlfseg.stand_ins.corpus import draw_corpus
from rlfseg.training.flow_batch import batch_items
from rlfseg.training.loop import Losses, fit_in_stage

_BATCH = 64
_FAR = 0.3  # how much of the picture may be left in a mask's latent


@dataclass(frozen=True, config=STRICT)
class TinyConfig:
    """Which decoder of TAESD's class, and the settings of the mini one's recipe.

    Attributes:
        name: `mini`, or a folder or hub id, of which the other settings say nothing.
        scenes: how many are drawn for it.
        seed: of drawing, of the initial weights, and of every batch.
    """

    UNHASHED: ClassVar = ("name",)

    name: Annotated[str, Field(min_length=1)] = "mini"
    scenes: Count = 1536
    steps: Count = 1500
    batch: Count = 16
    lr: Positive = 2e-3
    seed: Seed = 0


class Taught(NamedTuple):
    """Latents [b, 4, h, w] in scaled units and what the large decoder makes of them."""

    z: Latent
    picture: Image


class TinyObjective(nn.Module):
    """Mean squared difference from the large decoder's pictures."""

    def __init__(self, tiny: AutoencoderTiny) -> None:
        super().__init__()
        self.tiny = tiny

    def forward(self, batch: Taught) -> Losses:
        """Return the per-sample losses of a batch."""
        drawn = self.tiny.decode(batch.z).sample.float()
        return Losses((drawn - batch.picture).square().mean((1, 2, 3)))


def small_decoder() -> AutoencoderTiny:
    """Make an untrained AutoencoderTiny that magnifies by 8; its encoder is unused."""
    return AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(24, 24, 24, 24),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(2, 1, 1, 1),
    )


def tiny_stage(config: TinyConfig, recipe: BackboneConfig) -> Stage:
    """Return the stage that ends in the decoder."""
    return Stage.of("tiny-decoder", 1, config, {"autoencoder": autoencoder_stage(recipe)})


def tiny_decoder(config: TinyConfig, recipe: BackboneConfig, *, profile: str) -> Path:
    """Find or train the decoder; return the folder of an AutoencoderTiny.

    Half of its latents are masks', with up to three tenths of the picture left in them, as a step
    that is too short leaves it; half are pictures'.
    """

    def make(folder: Path) -> dict[str, Any]:
        codec = load_codec(backbone(recipe, profile=profile), device=PartialState().device)
        corpus = draw_corpus(seed=config.seed + 1, count=config.scenes, pixels=recipe.pixels)
        z = _latents(codec, corpus.images, corpus.masks, seed=config.seed)
        pictures = _decoded(codec.vae, z)
        tiny = seeded(config.seed, small_decoder)
        tiny.encoder.requires_grad_(False)

        def batch(step: int) -> Taught:
            chosen = batch_items(len(z), config.batch, seed=config.seed, step=step)
            return Taught(z[chosen], pictures[chosen].float())

        return fit_in_stage(
            TinyObjective(tiny),
            batch,
            OptimiserConfig.from_scratch(steps=config.steps, lr=config.lr, warmup=50),
            folder,
            title="tiny decoder",
            save=lambda: save_model(tiny.cpu().half(), folder),
        )

    return together(tiny_stage(config, recipe), make, profile=profile)


def _latents(codec: LatentCodec, images: np.ndarray, masks: np.ndarray, *, seed: int) -> Latent:
    """Make a latent for each scene: the first half on the way to the mask, the others at 1."""
    generator = torch.Generator().manual_seed(seed)
    half = len(images) // 2
    parts = []
    for start in range(0, len(images), _BATCH):
        some = slice(start, start + _BATCH)
        z1 = codec.encode(to_unit(torch.from_numpy(images[some])))
        z0 = codec.encode_mask(torch.from_numpy(masks[some]))
        t = _FAR * torch.rand(len(z1), generator=generator)
        t[torch.arange(start, start + len(t)) >= half] = 1.0
        parts.append(interpolate(z0=z0, z1=z1, t=t.to(z1.device)).cpu())
    return torch.cat(parts)


@torch.no_grad()
def _decoded(vae: AutoencoderKL, z: Latent) -> Image:
    """Decode by the large decoder, in half precision, so that memory holds the pictures."""
    unscaled = (z / vae.config.scaling_factor).to(vae.device).split(_BATCH)
    return torch.cat([vae.decode(some).sample.half().cpu() for some in unscaled])
