"""The plane's field is what Eq. 2 is smallest for, and walking it shows what a flow does."""

from __future__ import annotations

import pytest
import torch

from rlfseg.method.flow import at_time, interpolate, rf_loss, velocity
from rlfseg.method.sampling import aos, one_step
from rlfseg.stand_ins.plane import Plane, nothing_said, walk

CROSSING = Plane(pictures=((1.0, 1.0), (1.0, -1.0)), masks=((0.0, -1.0), (0.0, 1.0)))
PARALLEL = Plane(pictures=CROSSING.pictures, masks=CROSSING.masks[::-1])
TWO_ANSWERS = Plane(pictures=((1.0, 0.0), (1.0, 0.0)), masks=((0.0, 1.0), (0.0, -1.0)))
ALL = (CROSSING, PARALLEL, TWO_ANSWERS)


@pytest.mark.parametrize("plane", ALL)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_no_affine_correction_lowers_the_loss(plane: Plane, t: float) -> None:
    """What is left of a conditional mean is uncorrelated with any function of the point."""
    pairs = plane.draw(200_000, seed=0)
    times = at_time(t, like=pairs.z1)
    zt = interpolate(z0=pairs.z0, z1=pairs.z1, t=times)
    left = (velocity(z0=pairs.z0, z1=pairs.z1) - plane.v(zt, times)).flatten(1)
    at = zt.flatten(1) - zt.flatten(1).mean(0)
    probes = torch.cat([torch.ones(len(at), 1), at, at**2, at**3, torch.sin(9 * at)], dim=1)
    probes = probes / probes.square().mean(0).sqrt()
    for entry in left.T:
        bound = 6 * entry.std() / len(at) ** 0.5 + 1e-4
        assert (probes * entry[:, None]).mean(0).abs().max() < bound


def test_another_field_has_a_higher_loss() -> None:
    pairs = CROSSING.draw(20_000, seed=1)
    t = torch.rand(20_000, generator=torch.Generator().manual_seed(2))
    zt = interpolate(z0=pairs.z0, z1=pairs.z1, t=t)
    best = rf_loss(v_pred=CROSSING.v(zt, t), z0=pairs.z0, z1=pairs.z1).mean()
    for other in (0.8 * CROSSING.v(zt, t), PARALLEL.v(zt, t), CROSSING.v(zt, 1 - t)):
        assert rf_loss(v_pred=other, z0=pairs.z0, z1=pairs.z1).mean() > best + 0.01


@pytest.mark.parametrize("plane", ALL)
def test_one_step_lands_on_the_mean_of_the_masks(plane: Plane) -> None:
    pairs = plane.draw(64, seed=3)
    end = one_step(plane.v, z1=pairs.z1, c=nothing_said(pairs.z1)).z0[:, :, 0, 0]
    masks = torch.tensor(plane.masks)
    means = masks.mean(0).expand(64, 2) if plane is TWO_ANSWERS else masks[pairs.kind]
    assert torch.allclose(end, means, atol=1e-4)


@pytest.mark.parametrize("plane", ALL)
def test_many_steps_bring_the_masks_own_spread_but_not_each_pictures_own_mask(plane: Plane) -> None:
    pairs = plane.draw(400, seed=4)
    ends = walk(plane.v, z1=pairs.z1, steps=400)[-1]
    masks = torch.tensor(plane.masks)
    off = torch.cdist(ends, masks)
    near = off.argmin(1)
    assert off.min(1).values.median() < 3 * plane.widths[1]
    assert 0.4 < near.float().mean() < 0.6  # each answer is as frequent as among the masks
    own = (near == pairs.kind).float().mean()
    if plane is TWO_ANSWERS:
        assert 0.3 < own < 0.7
    else:
        assert own == (1 if plane is PARALLEL else 0)  # paths that cross are never walked across


def test_a_walk_is_that_of_the_sampler() -> None:
    z1 = CROSSING.draw(8, seed=5).z1
    ends = walk(CROSSING.v, z1=z1, steps=1)
    assert torch.equal(ends[0], z1[:, :, 0, 0])
    step = one_step(CROSSING.v, z1=z1, c=nothing_said(z1)).z0
    assert torch.allclose(ends[1], step[:, :, 0, 0])
    assert walk(CROSSING.v, z1=z1, steps=7).shape == (8, 8, 2)


def test_aos_mends_a_short_step_by_its_background() -> None:
    """Where the background's entry is black in every mask, gamma is what the step is short by."""
    pairs = CROSSING.draw(32, seed=6)
    c, zb = nothing_said(pairs.z1), torch.tensor([0.0, -3.0])[None, :, None, None]

    def short(z: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return 0.7 * CROSSING.v(z, t)

    mended = aos(short, z1=pairs.z1, c=c, zb=zb, tol=0.5)
    whole = one_step(CROSSING.v, z1=pairs.z1, c=c).z0
    assert torch.allclose(mended.gamma, torch.full((32,), 1 / 0.7 - 1), atol=1e-4)
    assert torch.allclose(mended.z0, whole, atol=1e-4)


def test_pictures_without_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="2 pictures and 1 masks"):
        Plane(pictures=((1.0, 0.0), (1.0, 1.0)), masks=((0.0, 0.0),))
