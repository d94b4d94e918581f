"""Names for the tensors that travel through the package, with their shapes.

`b` is the batch, `c h w` a latent, `H W` pixels, `n d` the tokens of a caption and their width.
Shapes are documentation here: nothing is checked at run time unless a checker is switched on.
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

Latent = Float[Tensor, "b c h w"]
"""Latents in the autoencoder's scaled units."""

Image = Float[Tensor, "b 3 H W"]
"""RGB in [-1, 1]."""

Score = Float[Tensor, "b H W"]
"""Decoded masks: 0 background, 1 foreground, not clamped."""

Mask = Bool[Tensor, "b H W"]
"""True on the foreground."""

Time = Float[Tensor, " b"]
"""Flow time in [0, 1]: 1 is the image, 0 the mask."""

Text = Float[Tensor, "b n d"]
"""Hidden states of the text encoder."""

PerSample = Float[Tensor, " b"]
"""One number for each sample: a loss, a step's lengthening."""

Chosen = Bool[Tensor, " b"]
"""One decision for each sample."""

Velocity = Callable[[Latent, Time, Text], Latent]
"""The field `v(z, t, c)`, an estimate of `z1 - z0`."""
