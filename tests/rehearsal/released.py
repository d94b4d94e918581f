"""Small models with random weights, in the layouts and under the names of the released ones."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rlfseg.baselines.clipseg import ClipsegConfig, small_clipseg
from rlfseg.stand_ins.backbone import save_backbone, seeded
from rlfseg.stand_ins.text_to_image import save_tokenizer, small_tokenizer

PIXELS = 64
_WIDTH, _TOKENS = 32, 24
_CAPTIONS = ("red star", "small blue circle", "green heart left of the red star", "man", "chair")


def write(folder: Path) -> None:
    """Write Stable Diffusion's, TAESD's and CLIPSeg's folders."""
    tokenizer = small_tokenizer(_CAPTIONS)
    tokenizer.model_max_length = _TOKENS
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = seeded(1, lambda: CLIPTextModel(text))
    home = folder / "stable-diffusion-v1-5/stable-diffusion-v1-5"
    save_backbone(
        home,
        tokenizer,
        vae=seeded(0, _vae).half(),
        text_encoder=encoder.half(),
        unet=seeded(2, _unet).half(),
    )
    seeded(3, _tiny).save_pretrained(folder / "madebyollin/taesd")
    home = folder / "CIDAS/clipseg-rd64-refined"
    config = ClipsegConfig(steps=1, pixels=PIXELS, width=32, layers=2)
    seeded(4, lambda: small_clipseg(config, encoder.float())).save_pretrained(home)
    save_tokenizer(tokenizer, home)


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=PIXELS // 8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=PIXELS,
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )


def _tiny() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
