"""Small models from configurations, with random weights, in the hub's layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rlfseg.stand_ins.backbone import save_backbone, seeded
from rlfseg.stand_ins.text_to_image import small_tokenizer

WIDTH = 16
TOKENS = 12
CAPTIONS = ("red star", "small blue circle", "green heart left of the red star")


def tiny_unet() -> UNet2DConditionModel:
    """For latents (4, 8, 8) and text of width 16."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def tiny_vae() -> AutoencoderKL:
    """Downsampling 2, four latent channels, a scaling factor that isn't 1."""
    return AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.25,
    )


def tiny_backbone(folder: Path) -> Path:
    """A folder that `load_codec` and `load_unet` read, in half precision as the recipe does."""
    tokenizer = small_tokenizer(CAPTIONS)
    tokenizer.model_max_length = TOKENS
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    parts = {
        "vae": seeded(0, tiny_vae),
        "text_encoder": seeded(1, lambda: CLIPTextModel(text)),
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
