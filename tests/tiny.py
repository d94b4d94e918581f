"""Small models from configurations, with random weights, in the hub's layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rlfseg.models.weights import seeded
from rlfseg.stand_ins.backbone import save_backbone
from rlfseg.stand_ins.text_to_image import small_tokenizer

WIDTH = 16
TOKENS = 12
CAPTIONS = ("red star", "small blue circle", "green heart left of the red star")


def tiny_unet(width: int = WIDTH) -> UNet2DConditionModel:
    """For latents (4, 8, 8) and text of a width."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def tiny_vae(
    channels: tuple[int, ...] = (8, 16), *, pixels: int = 16, scale: float = 0.25
) -> AutoencoderKL:
    """Downsampling 2 with two of `channels`, and twice that with each more; four of latents."""
    return AutoencoderKL(
        sample_size=pixels,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=scale,
    )


def tiny_tokenizer(captions: tuple[str, ...] = CAPTIONS, tokens: int = TOKENS) -> CLIPTokenizer:
    """A tokenizer of the captions' words."""
    tokenizer = small_tokenizer(captions)
    tokenizer.model_max_length = tokens
    return tokenizer


def tiny_text(tokenizer: CLIPTokenizer, width: int = WIDTH, layers: int = 1) -> CLIPTextModel:
    """A text encoder for a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tiny_backbone(folder: Path) -> Path:
    """A folder that `load_codec` and `load_unet` read, in half precision as the recipe does."""
    tokenizer = tiny_tokenizer()
    parts = {
        "vae": seeded(0, tiny_vae),
        "text_encoder": seeded(1, lambda: tiny_text(tokenizer)),
        "unet": seeded(2, tiny_unet),
    }
    save_backbone(folder, tokenizer, **{name: part.half() for name, part in parts.items()})
    return folder


def latents(count: int, seed: int) -> torch.Tensor:
    """Random latents (count, 4, 8, 8)."""
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def texts(count: int, seed: int = 9) -> torch.Tensor:
    """Random text states (count, 12, 16)."""
    return torch.randn(count, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
