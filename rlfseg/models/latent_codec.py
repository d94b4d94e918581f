"""The frozen parts of a latent diffusion model: autoencoder and text encoder.

Latents are always in the autoencoder's scaled units (`vae.config.scaling_factor`) and are the
posterior's mode. A mask is encoded as a picture: background black (-1), foreground white (+1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from transformers import CLIPTextModel, CLIPTokenizer

from rlfseg.method.types import Image, Latent, Mask, Score, Text
from rlfseg.models.weights import backbone_location, load_part, weights_hash, whole

_MOST = 16  # pictures that are coded together on any device: of more, a GPU's memory is too small
_AT_ONCE = 4  # pictures that a CPU decodes together: of more, its caches hold too little


@dataclass(frozen=True)
class LatentCodec:
    """Autoencoder, tokenizer and text encoder of a backbone, without gradients.

    Attributes:
        vae: between pictures in [-1, 1] and latents.
        tokenizer: of the text encoder.
        text_encoder: its last hidden state conditions the UNet.
        decoding: the decoder's arithmetic; bfloat16 takes half the time of float32 where the device
            computes in it, and moves scores in [0, 1] by 0.001 on average, 0.02 at most (mini, real
            masks).
            Encoding is in the autoencoder's own precision.
        tiny: decodes in the place of `vae`, where given (TAESD).
        place: where it computes, if weights wait elsewhere until they are needed (offloading).
    """

    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    decoding: torch.dtype = torch.float32
    tiny: AutoencoderTiny | None = None
    place: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes: where the weights are, unless told."""
        return self.place or torch.device(self.vae.device)

    @property
    def length(self) -> int:
        """How many tokens a caption is cut or filled to: no more than the text encoder has places.

        A tokenizer whose folder doesn't say gives a length beyond all reason.
        """
        most = int(self.text_encoder.config.max_position_embeddings)
        return min(int(self.tokenizer.model_max_length), most)

    @property
    def factor(self) -> int:
        """How many pixels a latent position spans in each direction."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @cached_property
    def identity(self) -> str:
        """Of what makes latents: a hash of the autoencoder's weights and scaling factor."""
        return f"{weights_hash(self.vae.state_dict())} x {self.vae.config.scaling_factor}"

    @torch.no_grad()
    def encode(self, image: Image) -> Latent:
        """Encode pictures.

        Args:
            image: [b, 3, H, W] in [-1, 1]; H and W multiples of `factor`.

        Returns:
            [b, c, H / factor, W / factor], scaled, float32.

        Raises:
            ValueError: if a side is not a multiple of `factor`.
        """
        height, width = image.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"sides must be multiples of {self.factor}, got {height} x {width}")
        parts = [
            self.vae.encode(part.to(self.device, self.vae.dtype)).latent_dist.mode().float()
            for part in image.split(_MOST)
        ]
        return torch.cat(parts) * self.vae.config.scaling_factor

    def encode_mask(self, mask: Mask) -> Latent:
        """Encode masks [b, H, W] as black and white pictures."""
        picture = mask.to(self.device, torch.float32)[:, None] * 2 - 1
        return self.encode(picture.expand(-1, 3, -1, -1))

    def decode(self, z: Latent) -> Score:
        """Decode mask latents to scores [b, H, W]: the mean of RGB mapped to [0, 1], unclamped."""
        return (self.decode_image(z).mean(1) + 1) / 2

    @torch.no_grad()
    def decode_image(self, z: Latent) -> Image:
        """Decode latents to pictures [b, 3, H, W], unclamped."""
        if self.tiny is not None:
            small = z.to(self.tiny.dtype).split(_MOST)
            return torch.cat([self.tiny.decode(part).sample.float() for part in small])
        unscaled = z.to(self.vae.dtype) / self.vae.config.scaling_factor
        some = _AT_ONCE if self.device.type == "cpu" else _MOST
        return torch.cat([self._drawn(part) for part in unscaled.split(some)])

    def _drawn(self, unscaled: Latent) -> Image:
        """Decode in the type that is asked for; in the weights' own if that overflows."""
        if self.decoding != torch.float32:
            with torch.autocast(self.device.type, self.decoding):
                picture = self.vae.decode(unscaled).sample.float()
            if picture.isfinite().all():
                return picture
        return self.vae.decode(unscaled).sample.float()

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Text:
        """Return the text encoder's last hidden state of captions, cut at n tokens: [b, n, d]."""
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(tokens.to(self.device)).last_hidden_state.float()

    def black(self, pixels: int) -> Latent:
        """Return the latent zb of a black picture, `pixels` x `pixels`: [1, c, h, w] (Sec. 3.4)."""
        return self.encode(torch.full((1, 3, pixels, pixels), -1.0))

    def white(self, pixels: int) -> Latent:
        """Return the latent of a white picture, like `black`."""
        return self.encode(torch.full((1, 3, pixels, pixels), 1.0))


def load_codec(backbone: str | Path, *, device: torch.device | str = "cpu") -> LatentCodec:
    """Load the frozen parts of a backbone in float32.

    Args:
        backbone: a folder in the diffusers layout, or a hub id of one.
        device: where the weights go.

    Raises:
        FileNotFoundError: if `backbone` looks like a folder and is not there.
        ValueError: if a file of it is damaged.
    """
    vae = load_part(AutoencoderKL, backbone, "vae")
    with whole(Path(backbone, "tokenizer")):
        where = backbone_location(backbone)
        tokenizer = CLIPTokenizer.from_pretrained(where, subfolder="tokenizer")
    text_encoder = load_part(CLIPTextModel, backbone, "text_encoder")
    for model in (vae, text_encoder):
        model.requires_grad_(False).eval().to(device)
    return LatentCodec(vae, tokenizer, text_encoder)
