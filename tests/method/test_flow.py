"""The path, its loss and its ODE, against closed forms and an independent solver."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlfseg.method.flow import at_time, euler, interpolate, rf_loss, select, velocity

SHAPE = (3, 4, 5, 6)
TEXT = torch.zeros(3, 7, 8)


def pair(shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def test_t_one_is_the_image_and_t_zero_the_mask() -> None:
    z0, z1 = pair()
    assert torch.equal(interpolate(z0=z0, z1=z1, t=torch.ones(3)), z1)
    assert torch.equal(interpolate(z0=z0, z1=z1, t=torch.zeros(3)), z0)


def test_each_sample_has_its_own_time() -> None:
    z0, z1 = pair()
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    zt = interpolate(z0=z0, z1=z1, t=t)
    torch.testing.assert_close(zt[1], 0.25 * z1[1] + 0.75 * z0[1])
    assert torch.equal(zt[0], z0[0]) and torch.equal(zt[2], z1[2])


def test_the_velocity_is_the_slope_of_the_path_and_points_to_the_image() -> None:
    z0, z1 = pair()
    t = torch.rand(3, dtype=torch.float64)
    later, earlier = (interpolate(z0=z0, z1=z1, t=t + h) for h in (0.5, -0.5))
    v = velocity(z0=z0, z1=z1)
    torch.testing.assert_close(later - earlier, v)
    torch.testing.assert_close(z0 + v, z1)


@given(t=st.floats(0, 1), steps=st.integers(1, 20))
def test_the_true_field_leads_back_to_the_mask(t: float, steps: int) -> None:
    z0, z1 = pair((2, 1, 2, 2))
    zt = interpolate(z0=z0, z1=z1, t=at_time(t, like=z1))
    v = velocity(z0=z0, z1=z1)
    torch.testing.assert_close(zt - t * v, z0)
    torch.testing.assert_close(euler(lambda z, t, c: v, z1=z1, c=TEXT[:2], steps=steps), z0)


@pytest.mark.parametrize("function", [velocity, lambda **z: interpolate(**z, t=torch.ones(3))])
def test_shapes_that_would_broadcast_are_refused(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="z0"):
        function(z0=torch.zeros(1, 4, 5, 6), z1=torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="v_pred"):
        rf_loss(v_pred=torch.zeros(1, 4, 5, 6), z0=torch.zeros(SHAPE), z1=torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="one time a sample"):
        interpolate(z0=torch.zeros(SHAPE), z1=torch.zeros(SHAPE), t=torch.ones(1))


def test_the_loss_is_the_mean_square_of_each_sample() -> None:
    z0, z1 = pair()
    v = velocity(z0=z0, z1=z1)
    offset = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)[:, None, None, None]
    loss = rf_loss(v_pred=v + offset, z0=z0, z1=z1)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64))
    v_pred = torch.randn_like(v)
    expected = [torch.nn.functional.mse_loss(p, q) for p, q in zip(v_pred, z1 - z0, strict=True)]
    torch.testing.assert_close(rf_loss(v_pred=v_pred, z0=z0, z1=z1), torch.stack(expected))


def test_the_loss_tells_a_swapped_pair() -> None:
    z0, z1 = pair()
    v = velocity(z0=z0, z1=z1)
    assert (rf_loss(v_pred=v, z0=z0, z1=z1) == 0).all()
    assert (rf_loss(v_pred=v, z0=z1, z1=z0) > 1).all()


def test_the_choice_is_made_for_each_sample() -> None:
    original = torch.tensor([1.0, 3.0, 2.0])
    refined = torch.tensor([2.0, 1.0, 2.0])
    loss, picked = select(loss_original=original, loss_refined=refined)
    assert loss.tolist() == [1.0, 1.0, 2.0]
    assert picked.tolist() == [True, False, False]  # a tie goes to the refined label


def test_the_gradient_follows_the_choice() -> None:
    original = torch.tensor([1.0, 3.0], requires_grad=True)
    refined = torch.tensor([2.0, 1.0], requires_grad=True)
    loss, _ = select(loss_original=original, loss_refined=refined)
    loss.sum().backward()
    assert original.grad is not None and original.grad.tolist() == [1.0, 0.0]
    assert refined.grad is not None and refined.grad.tolist() == [0.0, 1.0]


def test_a_constant_field_needs_one_step() -> None:
    z1 = torch.randint(-8, 8, SHAPE).double()
    field = 15 * torch.randint(-8, 8, SHAPE).double()  # whole numbers: no rounding in 15 steps
    walks = [euler(lambda z, t, c: field, z1=z1, c=TEXT, steps=steps) for steps in (1, 15)]
    assert torch.equal(walks[0], walks[1])
    assert torch.equal(walks[0], z1 - field)


def test_time_runs_from_one_towards_zero_on_an_even_grid_for_every_sample() -> None:
    seen: list[Tensor] = []

    def field(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        seen.append(t)
        assert c is TEXT
        return torch.zeros_like(z)

    euler(field, z1=torch.zeros(SHAPE, dtype=torch.bfloat16), c=TEXT, steps=4)
    assert [t.tolist() for t in seen] == [[t] * 3 for t in (1.0, 0.75, 0.5, 0.25)]
    assert all(t.dtype == torch.float32 for t in seen)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_exponential_decay_in_closed_form(steps: int) -> None:
    _, z1 = pair()
    z0 = euler(lambda z, t, c: z, z1=z1, c=TEXT, steps=steps)
    torch.testing.assert_close(z0, z1 * (1 - 1 / steps) ** steps)
    assert (z0 / z1 - math.exp(-1)).abs().max() <= 0.4 / steps  # first order


@pytest.mark.parametrize("steps", [1, 2, 5, 15])
def test_parity_with_diffusers(steps: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    z1 = torch.randn(SHAPE)
    mix, drift = torch.randn(4, 4), torch.randn(4, 5, 6)

    def field(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", mix, z) + t[:, None, None, None] * drift

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    z = z1
    for timestep in scheduler.timesteps:
        t = (timestep / scheduler.config.num_train_timesteps).expand(3)
        z = scheduler.step(field(z, t, TEXT), timestep, z, return_dict=False)[0]
    torch.testing.assert_close(euler(field, z1=z1, c=TEXT, steps=steps), z, rtol=1e-4, atol=1e-4)


def test_a_walk_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps"):
        euler(lambda z, t, c: z, z1=torch.zeros(SHAPE), c=TEXT, steps=0)
