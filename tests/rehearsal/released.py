"""Small models with random weights, in the layouts and under the names of the released ones."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderTiny
from tiny import tiny_text, tiny_tokenizer, tiny_unet, tiny_vae

from rlfseg.baselines.clipseg import ClipsegConfig, small_clipseg
from rlfseg.models.weights import seeded
from rlfseg.stand_ins.backbone import save_backbone
from rlfseg.stand_ins.text_to_image import save_tokenizer

PIXELS = 64
_WIDTH, _TOKENS = 32, 24
_CAPTIONS = ("red star", "small blue circle", "green heart left of the red star", "man", "chair")


def write(folder: Path) -> None:
    """Write Stable Diffusion's, TAESD's and CLIPSeg's folders."""
    tokenizer = tiny_tokenizer(_CAPTIONS, _TOKENS)
    encoder = seeded(1, lambda: tiny_text(tokenizer, _WIDTH, layers=2))
    eighth = (8, 16, 16, 16)
    save_backbone(
        folder / "stable-diffusion-v1-5/stable-diffusion-v1-5",
        tokenizer,
        vae=seeded(0, lambda: tiny_vae(eighth, pixels=PIXELS, scale=0.18215)).half(),
        text_encoder=encoder.half(),
        unet=seeded(2, lambda: tiny_unet(_WIDTH)).half(),
    )
    seeded(3, _tiny_decoder).save_pretrained(folder / "madebyollin/taesd")
    home = folder / "CIDAS/clipseg-rd64-refined"
    config = ClipsegConfig(steps=1, pixels=PIXELS, width=32, layers=2)
    seeded(4, lambda: small_clipseg(config, encoder.float())).save_pretrained(home)
    save_tokenizer(tokenizer, home)


def _tiny_decoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
