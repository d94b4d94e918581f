"""The mini backbone's first stage: an AutoencoderKL for pictures and masks of the mini world.

Deviation: SD1.5's autoencoder never saw a mask but has seen a billion pictures; a small one must
be shown masks to carry them, so a quarter of each batch are masks.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from rlfseg.data.images import to_unit
from rlfseg.stand_ins.corpus import Corpus
from rlfseg.training.loop import Losses


def small_autoencoder(*, pixels: int) -> AutoencoderKL:
    """Make an untrained AutoencoderKL of SD1.5's layout: downsampling 8, four latent channels."""
    return AutoencoderKL(
        sample_size=pixels,
        block_out_channels=(16, 48, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
    )


class AutoencoderObjective(nn.Module):
    """Reconstruction (absolute and squared error) plus a small Kullback-Leibler term."""

    def __init__(self, vae: AutoencoderKL, *, kl_weight: float) -> None:
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight

    def forward(self, batch: tuple[Tensor, int]) -> Losses:
        """Score images [b, 3, p, p] in [-1, 1], with the seed of the posterior's noise."""
        pictures, seed = batch
        posterior = self.vae.encode(pictures).latent_dist
        generator = torch.Generator(pictures.device).manual_seed(seed)
        back = self.vae.decode(posterior.sample(generator=generator)).sample.float()
        error = back - pictures
        reconstruction = (error.abs() + error.square()).mean((1, 2, 3))
        kl = posterior.kl().float() / posterior.mean[0].numel()
        return Losses(
            reconstruction + self.kl_weight * kl,
            {"reconstruction": reconstruction, "kl": kl},
        )


def autoencoder_batch(corpus: Corpus, step: int, *, size: int, seed: int) -> tuple[Tensor, int]:
    """Make a batch: three quarters pictures, one quarter masks (-1 and +1), mirrored at random.

    Three batches of four hold `size` crops of half the side, the fourth `size / 4` whole pictures,
    so every batch has the same number of pixels: crops show more scenes in the same time (latent
    diffusion's autoencoders are trained on crops too), whole pictures keep the normalisation
    layers right at full size.
    """
    rng = np.random.default_rng([seed, step])
    side = corpus.images.shape[1]
    if rng.random() < 0.75:
        side //= 2
    else:
        size = max(2, size // 4)
    chosen = rng.integers(len(corpus.images), size=size)
    corners = rng.integers(corpus.images.shape[1] - side + 1, size=(size, 2))
    views = [
        (n, slice(y, y + side), slice(x, x + side))
        for n, (y, x) in zip(chosen, corners, strict=True)
    ]
    drawn = size - max(1, size // 4)
    images = np.stack([corpus.images[view] for view in views[:drawn]])
    masks = np.stack([corpus.masks[view] for view in views[drawn:]])
    pictures = to_unit(torch.from_numpy(images))
    shapes = torch.from_numpy(masks)[:, None].expand(-1, 3, -1, -1) * 2.0 - 1
    batch = torch.cat([pictures, shapes])
    if rng.random() < 0.5:
        batch = batch.flip(-1)
    return batch, int(rng.integers(2**31))
