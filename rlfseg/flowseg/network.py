"""A pixel neural field: a transformer writes, for each patch, a small network over pixels."""

import math

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import PatchEmbed
from diffusers.models.normalization import AdaLayerNormSingle
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, silu

from rlfseg.method.types import Latent, Time
from rlfseg.models.unet import timestep

_PATCH = 4  # pixels of a side
_WIDTH, _DEPTH, _HEADS = 64, 3, 4  # channels of a token, transformer blocks, heads of each
_FEATURES, _HIDDEN = 16, 32  # channels at a pixel, and within a patch's MLP


class PixelField(nn.Module):
    """The velocity at every pixel, without an autoencoder, after PixNerd (MCG-NJU/PixNerd).

    Trunk: patches become tokens with sinusoidal positions and pass through transformer blocks that
    time modulates (adaLN-single; diffusers' parts). Field: a linear layer makes of each token the
    normalised weights of a small residual MLP, which is fed, at each of the patch's pixels, with
    the pixel's value in zt and cosine features of its place in the patch. The last layer, shared by
    all patches, starts at zero, and with it the velocity.

    Ours: the sizes; and with `out` other than 3 the same network is a classifier.
    """

    cosines: Float[Tensor, "pixels features"]

    def __init__(self, *, pixels: int = 16, out: int = 3) -> None:
        """Build it with random weights.

        Args:
            pixels: side of the pictures, a multiple of the patch's.
            out: channels that come out.

        Raises:
            ValueError: if the pictures are no whole number of patches.
        """
        super().__init__()
        if pixels % _PATCH:
            raise ValueError(f"pixels must be a multiple of the patch's {_PATCH}, got {pixels}")
        self.embed = PatchEmbed(pixels, pixels, _PATCH, in_channels=3, embed_dim=_WIDTH)
        self.time = AdaLayerNormSingle(_WIDTH)
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(
                _WIDTH,
                _HEADS,
                _WIDTH // _HEADS,
                activation_fn="gelu-approximate",
                attention_bias=True,
                norm_elementwise_affine=False,
                norm_type="ada_norm_single",
            )
            for _ in range(_DEPTH)
        )
        self.norm = nn.LayerNorm(_WIDTH)
        self.weights = nn.Linear(_WIDTH, 2 * _FEATURES * _HIDDEN)
        self.register_buffer("cosines", cosine_features(_PATCH), persistent=False)
        self.pixel = nn.Linear(3 + _PATCH**2, _FEATURES)
        self.pixel_norm = nn.LayerNorm(_FEATURES)
        self.head = nn.Linear(_FEATURES, out)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, zt: Latent, t: Time) -> Latent:
        """Return the velocity (or classes' scores) [b, out, H, W] at zt [b, 3, H, W] and t [b]."""
        b, _, height, width = zt.shape
        rows, columns = height // _PATCH, width // _PATCH
        into, back = self.patch_weights(zt, t)
        cells = zt.unfold(2, _PATCH, _PATCH).unfold(3, _PATCH, _PATCH)
        values = cells.permute(0, 2, 3, 4, 5, 1).reshape(b, rows * columns, _PATCH**2, 3)
        places = self.cosines.expand(b, rows * columns, -1, -1)
        x = self.pixel(torch.cat([values, places], -1))
        x = x + silu(self.pixel_norm(x) @ into) @ back
        drawn = self.head(x).view(b, rows, columns, _PATCH, _PATCH, -1)
        return drawn.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height, width)

    def patch_weights(
        self, zt: Latent, t: Time
    ) -> tuple[Float[Tensor, "b n features hidden"], Float[Tensor, "b n hidden features"]]:
        """Return the two matrices of each patch's MLP; columns are of length 1."""
        x = self.embed(zt)
        modulation, _ = self.time(timestep(t), batch_size=len(zt), hidden_dtype=x.dtype)
        for block in self.blocks:
            x = block(x, timestep=modulation)
        into, back = self.weights(self.norm(x)).chunk(2, -1)
        return (
            normalize(into.unflatten(-1, (_FEATURES, _HIDDEN)), dim=-2),
            normalize(back.unflatten(-1, (_HIDDEN, _FEATURES)), dim=-2),
        )


def cosine_features(patch: int) -> Float[Tensor, "pixels features"]:
    """Return a patch's discrete cosine transform: row p holds all products of cosines at pixel p.

        f_uv(x, y) = a_u a_v cos(pi (x + 1/2) u / P) cos(pi (y + 1/2) v / P)

    a_0 = 1 and sqrt(2) otherwise, so that every feature has unit mean square over the patch.
    """
    places, order = torch.arange(patch) + 0.5, torch.arange(patch)
    waves = torch.cos(math.pi * places[:, None] * order / patch)
    waves = waves * torch.where(order == 0, 1.0, math.sqrt(2))
    return torch.einsum("yv,xu->yxvu", waves, waves).reshape(patch**2, patch**2)
