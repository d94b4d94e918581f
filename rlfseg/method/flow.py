"""The straight path between image and mask latents, the loss that learns it, the ODE that walks it.

Orientation, everywhere: `z1` is the image at t = 1, `z0` the mask at t = 0. Swapping them cannot be
seen from shapes, so they are passed by name.
"""

import torch
from torch import Tensor

from rlfseg.method.types import Chosen, Latent, PerSample, Text, Time, Velocity


def _same_shape(**tensors: Tensor) -> None:
    """Refuse tensors that would broadcast into a wrong answer instead of failing."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes must be equal, got {shapes}")


def at_time(t: float, *, like: Latent) -> Time:
    """Return one time t for every sample of `like` [b, c, h, w], in float32 or better, as [b]."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.full((like.shape[0],), t, dtype=dtype, device=like.device)


def interpolate(*, z0: Latent, z1: Latent, t: Time) -> Latent:
    """Return the point of the straight path at time t.

        zt = t * z1 + (1 - t) * z0

    Args:
        z0: mask latents [b, c, h, w], scaled units.
        z1: image latents [b, c, h, w], scaled units.
        t: time [b] in [0, 1]; 1 is the image, 0 the mask.

    Returns:
        zt [b, c, h, w].

    Raises:
        ValueError: if shapes of z0 and z1 differ, or t is not one time a sample.
    """
    _same_shape(z0=z0, z1=z1)
    if t.shape != z1.shape[:1]:
        raise ValueError(f"t must be [{z1.shape[0]}], one time a sample, got {list(t.shape)}")
    t = t[:, None, None, None]
    return t * z1 + (1 - t) * z0


def velocity(*, z0: Latent, z1: Latent) -> Latent:
    """Return the constant velocity of the straight path, which points from the mask to the image.

        v = d zt / dt = z1 - z0

    Args:
        z0: mask latents [b, c, h, w], scaled units.
        z1: image latents [b, c, h, w], scaled units.

    Returns:
        v [b, c, h, w].

    Raises:
        ValueError: if shapes differ.
    """
    _same_shape(z0=z0, z1=z1)
    return z1 - z0


def rf_loss(*, v_pred: Latent, z0: Latent, z1: Latent) -> PerSample:
    """Return the rectified-flow loss of every sample (Eq. 2).

        L = mean_i ((z1 - z0)[i] - v_pred[i])^2

    Deviation: the mean over the entries of a latent, where the paper writes a squared norm; they
    differ by the number of entries, that is, by a constant factor. The expectation over t and the
    batch is left to the caller, because the choice between two labels is made per sample.

    Args:
        v_pred: predicted velocity [b, c, h, w] at (zt, t, c).
        z0: mask latents [b, c, h, w], scaled units.
        z1: image latents [b, c, h, w], scaled units.

    Returns:
        Loss [b], in squared latent units.

    Raises:
        ValueError: if shapes differ.
    """
    _same_shape(v_pred=v_pred, z0=z0, z1=z1)
    return (velocity(z0=z0, z1=z1) - v_pred).square().mean(dim=(1, 2, 3))


def l2_loss(*, v_pred: Latent, z0: Latent, z1: Latent) -> PerSample:
    """Return the mean distance from the true velocity, where `rf_loss` has its square.

        L = mean_p |(z1 - z0)[:, p] - v_pred[:, p]|

    The length is over the channels at a position, so its gradient doesn't vanish on the way to the
    answer.

    Deviation: ours, to be compared with the paper's loss and with the reshaped field.

    Args:
        v_pred: predicted velocity [b, c, h, w] at (zt, t, c).
        z0: mask latents [b, c, h, w], scaled units.
        z1: image latents [b, c, h, w], scaled units.

    Returns:
        Loss [b], in latent units.

    Raises:
        ValueError: if shapes differ.
    """
    _same_shape(v_pred=v_pred, z0=z0, z1=z1)
    square = (velocity(z0=z0, z1=z1) - v_pred).square().sum(dim=1)
    return (square + 1e-12).sqrt().mean(dim=(1, 2))


def select(*, loss_original: PerSample, loss_refined: PerSample) -> tuple[PerSample, Chosen]:
    """Keep, for every sample, the label that is easier to learn (Eq. 4).

        L = L(original) if L(original) < L(refined) else L(refined)

    The gradient flows through the chosen loss alone.

    Deviation: the paper does not say whether the choice is made per batch or per sample; it is made
    per sample, with both losses at the same t. A tie goes to the refined label, as the strict
    inequality says.

    Args:
        loss_original: loss [b] against the annotated masks.
        loss_refined: loss [b] against the refined masks.

    Returns:
        The chosen loss [b], and whether the original label was chosen [b].

    Raises:
        ValueError: if shapes differ.
    """
    _same_shape(loss_original=loss_original, loss_refined=loss_refined)
    original = loss_original < loss_refined
    return torch.where(original, loss_original, loss_refined), original


def euler(v: Velocity, *, z1: Latent, c: Text, steps: int) -> Latent:
    """Walk the ODE dz/dt = v(z, t, c) from the image at t = 1 to the mask at t = 0.

        z(t - 1/K) = z(t) - v(z(t), t, c) / K,    t = 1, 1 - 1/K, ..., 1/K

    Args:
        v: velocity field; called with t as a tensor [b], in float32 or better.
        z1: image latents [b, c, h, w], scaled units.
        c: text states [b, n, d].
        steps: number K of equal steps, at least 1.

    Returns:
        z0 [b, c, h, w].

    Raises:
        ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    z = z1
    for k in range(steps):
        z = z - v(z, at_time(1 - k / steps, like=z), c) / steps
    return z
