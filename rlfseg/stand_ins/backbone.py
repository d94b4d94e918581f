"""The mini backbone's recipe as two resumable stages, and the folder they end in.

The folder has the hub's layout (`vae/ text_encoder/ tokenizer/ unet/ scheduler/`), so it is loaded
by the code that loads Stable Diffusion 1.5.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from rlfseg.config import STRICT, Count, OptimiserConfig, Positive, Seed
from rlfseg.data.images import to_unit
from rlfseg.device import quick_dtype
from rlfseg.models.weights import save_model, seeded
from rlfseg.processes import meet, together
from rlfseg.stage import PARTS, Stage, hashed, replaced
from rlfseg.stand_ins.autoencoder import AutoencoderObjective, autoencoder_batch, small_autoencoder
from rlfseg.stand_ins.clip_batches import Gallery, draw_gallery
from rlfseg.stand_ins.corpus import draw_corpus
from rlfseg.stand_ins.mini_clip import ClipConfig, clip_gallery, clip_stage, trained_clip
from rlfseg.stand_ins.text_to_image import (
    EncodedGallery,
    Noised,
    TextToImageObjective,
    described_batch,
    noise_schedule,
    save_tokenizer,
    small_unet,
)
from rlfseg.training.loop import fit_in_stage

_SCALED = 1024  # scenes that the scaling factor is measured on
RANDOM = "random-sd15"
Width = Annotated[int, Field(gt=0, multiple_of=8)]


@dataclass(frozen=True, config=STRICT)
class BackboneConfig:
    """Which backbone, and the settings of the mini one's recipe.

    The recipe's defaults are those of the shipped backbone.

    Attributes:
        name: `mini`, `random-sd15`, a folder in the diffusers layout (absolute or from the
            repository's root), or a hub id. The other settings are of `mini` alone.
        pixels: side of the drawn scenes.
        scenes: how many are drawn for the autoencoder.
        seed: of drawing, of the initial weights, and of every batch.
        clip: the mini CLIP whose text encoder it takes, frozen, and on whose scenes the UNet is
            pretrained.
        filled: how many pictures are drawn besides that one thing fills, for half of each of the
            UNet's batches, under white noise alone; 0 for scenes alone.
        min_snr: gamma of the weights of the UNet's errors (`TextToImageObjective`); 0 for none.
        channels: of the UNet's three levels.
        heads: of the attention at each.
        layers: of each level, on the way down.
    """

    UNHASHED: ClassVar = ("name", "filled", "min_snr")

    name: Annotated[str, Field(min_length=1)] = "mini"
    pixels: Annotated[int, Field(gt=0, le=8192)] = 128
    scenes: Count = 20480
    seed: Seed = 0
    vae_steps: Count = 4500
    vae_batch: Count = 16
    vae_lr: Positive = 1.2e-3
    kl_weight: Annotated[float, Field(ge=0)] = 3e-4
    unet_steps: Count = 6500
    unet_batch: Count = 64
    unet_lr: Positive = 1e-3
    clip: ClipConfig = ClipConfig()
    filled: Annotated[int, Field(ge=0)] = 0
    min_snr: Annotated[float, Field(ge=0)] = 0.0
    channels: Annotated[tuple[Width, Width, Width], Field(strict=False)] = (48, 96, 128)
    heads: Annotated[tuple[Count, Count, Count], Field(strict=False)] = (1, 2, 4)
    layers: Count = 1

    def __post_init__(self) -> None:
        if self.name != "mini" and replace(self, name="mini") != BackboneConfig():
            raise ValueError(f"backbone {self.name} has no recipe here: give its name alone")

    def autoencoder(self) -> dict[str, Any]:
        """Return the part of the settings that determines the autoencoder."""
        other = ("unet_", "clip", "filled", "min_snr", "channels", "heads", "layers")
        return {k: v for k, v in hashed(self).items() if not k.startswith(other)}


def autoencoder_stage(config: BackboneConfig) -> Stage:
    """Return the stage that trains the autoencoder."""
    return Stage("autoencoder", 3, config.autoencoder())


def backbone_stage(config: BackboneConfig) -> Stage:
    """Return the stage that ends in the backbone's folder."""
    inputs = {"autoencoder": autoencoder_stage(config), "clip": clip_stage(config.clip)}
    return Stage.of("backbone", 3, config, inputs)


def autoencoder(config: BackboneConfig, *, profile: str) -> Path:
    """Find or train the autoencoder; return its stage's folder (the model is in `vae/`).

    Its scaling factor gives z1 - z0, which the flow predicts, the mean square of the noise, which
    the backbone predicts: 1. The UNet's last layers are frozen behind a normalisation, so adapters
    can change what it draws but hardly how strongly.

    Deviation: Stable Diffusion 1.5's factor gives pictures unit variance. Masks, all black and
    white, lie far outside; with that factor z1 - z0 was 1.7 times as strong as noise here.
    """

    def make(folder: Path) -> dict[str, Any]:
        corpus = draw_corpus(seed=config.seed, count=config.scenes, pixels=config.pixels, far=True)
        vae = seeded(config.seed, lambda: small_autoencoder(pixels=config.pixels))

        def save() -> None:
            save_model(vae.cpu().half(), folder / "vae")
            kept = _load_autoencoder(folder / "vae")
            factor = unit_difference(kept, corpus.images[:_SCALED], corpus.masks[:_SCALED])
            kept.register_to_config(scaling_factor=factor)
            save_model(kept.half(), folder / "vae")

        return fit_in_stage(
            AutoencoderObjective(vae, kl_weight=config.kl_weight),
            lambda step: autoencoder_batch(corpus, step, size=config.vae_batch, seed=config.seed),
            OptimiserConfig.from_scratch(
                steps=config.vae_steps, lr=config.vae_lr, warmup=100, weight_decay=0.0
            ),
            folder,
            title="autoencoder",
            save=save,
        )

    return together(autoencoder_stage(config), make, profile=profile)


def backbone_parts(config: BackboneConfig, *, profile: str) -> None:
    """Find or train what the backbone is made of by one process: autoencoder and CLIP."""
    autoencoder(config, profile=profile)
    trained_clip(config.clip, profile=profile)


def backbone(config: BackboneConfig, *, profile: str) -> Path:
    """Find or train the backbone; return a folder in the hub's layout.

    The weights are kept in half precision, the size in which they ship.
    """

    def make(folder: Path) -> dict[str, Any]:
        first = autoencoder(config, profile=profile)
        shutil.copy(first / "steps.jsonl", folder / "autoencoder_steps.jsonl")
        vae = _load_autoencoder(first / "vae")
        tokenizer, text_encoder, batches = _told(config, vae, folder, profile)
        side = config.pixels // 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (config.channels, config.heads, config.layers)
        unet = seeded(config.seed + 2, lambda: small_unet(side, *shape))

        def save() -> None:
            models = {"vae": vae, "text_encoder": text_encoder, "unet": unet}
            save_backbone(folder, tokenizer, **{name: m.half() for name, m in models.items()})

        return fit_in_stage(
            TextToImageObjective(unet, text_encoder, noise_schedule(), min_snr=config.min_snr),
            batches,
            OptimiserConfig.from_scratch(steps=config.unet_steps, lr=config.unet_lr, warmup=200),
            folder,
            title="text to image",
            save=save,
        )

    return together(backbone_stage(config), make, profile=profile)


def _told(
    config: BackboneConfig, vae: AutoencoderKL, folder: Path, profile: str
) -> tuple[CLIPTokenizer, CLIPTextModel, Callable[[int], Noised]]:
    """Take CLIP's tokenizer and text encoder, frozen; captions are made for each batch."""
    clip = trained_clip(config.clip, profile=profile)
    state, parts = PartialState(), folder / PARTS
    if not state.is_main_process:
        meet(folder, "encoded")
    tokenizer = CLIPTokenizer.from_pretrained(clip)

    def encoded(gallery: Gallery, name: str, **noise: float) -> EncodedGallery:
        latents = _encode(vae, torch.from_numpy(gallery.images), kept=parts / f"{name}.npy")
        scaled = latents * vae.config.scaling_factor
        return EncodedGallery(scaled, gallery.layout, tokenizer, **noise)

    scenes = clip_gallery(config.clip, kept=parts / "gallery.npz")
    galleries = [encoded(scenes, "latents")]
    if config.filled:
        size = {"count": config.filled, "pixels": config.pixels}
        filled = draw_gallery(**size, seed=config.seed, filled=True, kept=parts / "filled.npz")
        galleries.append(encoded(filled, "filled", pictures=0.0))
    if state.is_main_process:
        meet(folder, "encoded")
    text_encoder = CLIPTextModel.from_pretrained(clip, torch_dtype=torch.float32)
    batches = partial(
        described_batch,
        galleries,
        size=config.unet_batch,
        seed=config.seed,
        share=(state.process_index, state.num_processes),
    )
    return tokenizer, text_encoder.requires_grad_(False), batches


def save_backbone(
    folder: Path,
    tokenizer: CLIPTokenizer,
    *,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
) -> None:
    """Write a backbone in the hub's layout, as safetensors."""
    for name, model in (("vae", vae), ("text_encoder", text_encoder), ("unet", unet)):
        save_model(model.cpu(), folder / name)
    save_tokenizer(tokenizer, folder / "tokenizer")
    noise_schedule().save_pretrained(folder / "scheduler")
    classes = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(classes, indent=1) + "\n")


def unit_difference(vae: AutoencoderKL, images: np.ndarray, masks: np.ndarray) -> float:
    """Return the scaling factor that gives z1 - z0 a mean square of 1, to four digits.

    Args:
        vae: in evaluation mode.
        images: uint8 [n, p, p, 3].
        masks: bool [n, p, p], drawn in black and white.
    """
    drawn = np.repeat(masks[..., None] * np.uint8(255), 3, axis=-1)
    z1, z0 = _modes(vae, torch.from_numpy(images)), _modes(vae, torch.from_numpy(drawn))
    return round(float((z1 - z0).square().mean().rsqrt()), 4)


def _load_autoencoder(folder: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()


@torch.no_grad()
def _modes(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Return the posterior modes [n, 4, h, w] of uint8 pictures [n, p, p, 3], unscaled."""
    device = PartialState().device
    half = quick_dtype(device) == torch.bfloat16
    vae.to(device)
    parts = []
    for some in tqdm(images.split(64), desc="encoding", leave=False):
        pictures = to_unit(some.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            parts.append(vae.encode(pictures).latent_dist.mode().float().cpu())
    return torch.cat(parts)


def _encode(vae: AutoencoderKL, images: torch.Tensor, *, kept: Path) -> torch.Tensor:
    """Encode as `_modes`, and keep it until the stage is finished, for when it is interrupted."""
    if kept.is_file():
        return torch.from_numpy(np.load(kept))
    latents = _modes(vae, images)
    kept.parent.mkdir(exist_ok=True)
    with replaced(kept) as draft, draft.open("wb") as file:
        np.save(file, latents.numpy())
    return latents
