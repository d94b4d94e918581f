"""Stable Diffusion 1.5 at full size with random weights, in the hub's layout.

Its classes and sizes are the public configuration's; its output is noise. It proves memory,
throughput and the loading path before the real weights are at hand.
"""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rlfseg.models.weights import seeded
from rlfseg.processes import by_first
from rlfseg.stage import Stage
from rlfseg.stand_ins.backbone import save_backbone
from rlfseg.stand_ins.text_to_image import small_tokenizer

_WORDS = ("a photo of a red striped star left of the small blue circle on grass",)


def random_stage() -> Stage:
    """Return the stage that ends in the folder."""
    return Stage("random-sd15", 1, {"seed": 0})


def random_stable_diffusion(*, profile: str) -> Path:
    """Build and save the folder, 4.3 GB in float32, and return it.

    Deviation: the tokenizer is a byte-level one of few merges: CLIP's vocabulary is not ours to
    make. Its numbers stay below CLIP's 49,408.
    """

    def make(folder: Path) -> dict[str, Any]:
        tokenizer = small_tokenizer(_WORDS)
        tokenizer.model_max_length = 77
        parts = {
            "vae": seeded(0, _autoencoder),
            "text_encoder": seeded(1, _text_encoder),
            "unet": seeded(2, lambda: UNet2DConditionModel(**UNET)),
        }
        save_backbone(folder, tokenizer, **parts)
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    return by_first(random_stage(), make, profile=profile)


UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=512,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def _text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            projection_dim=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
        )
    )
