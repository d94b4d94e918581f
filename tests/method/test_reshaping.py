"""FlowSeg's potential and field: closed forms, an identity, slopes, and where centroids lie."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlfseg.method.flow import interpolate
from rlfseg.method.reshaping import (
    gradient,
    grid,
    kronecker,
    mixture,
    nearest,
    one_hot,
    plastic,
    potential,
    reshaped,
    spacing,
    undecided,
    uniform,
)

MU = kronecker(20).double()


def scene(count: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Image, answer, its shares, time and a predicted velocity, in float64."""
    g = torch.Generator().manual_seed(1)
    z1 = torch.randn(count, 3, 4, 5, generator=g, dtype=torch.float64)
    classes = torch.randint(20, (count, 4, 5), generator=g)
    z0 = MU[classes][..., 0, 0].movedim(-1, 1)
    t = torch.rand(count, generator=g, dtype=torch.float64) * 0.9 + 0.1
    v = torch.randn(z1.shape, generator=g, dtype=torch.float64).requires_grad_()
    return z1, z0, one_hot(classes, 20).double(), t, v


# --- the field ------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_is_that_of_the_potential(tau: float, soft: bool) -> None:
    z1, _, y, _, _ = scene()
    if soft:
        y = (y + 0.1) / (1 + 2.0)
    z = z1.requires_grad_()
    (by_hand,) = torch.autograd.grad(potential(z, y=y, mu=MU, tau=tau).sum(), z)
    formula = gradient(z.detach(), y=y, mu=MU, tau=tau)
    torch.testing.assert_close(formula, by_hand, rtol=1e-10, atol=1e-12)


def test_reshaping_is_flow_matching_plus_a_cross_entropy_weighted_by_time() -> None:
    z1, z0, y, t, v = scene()
    zt, wide = interpolate(z0=z0, z1=z1, t=t), t[:, None, None, None]
    moved = reshaped(z0=z0, v_pred=v, zt=zt, t=t, y=y, mu=MU)
    (ours,) = torch.autograd.grad((v - (z1 - moved)).square().sum(), v)
    phi = potential(zt - wide * v, y=y, mu=MU) / t[:, None, None]
    (stated,) = torch.autograd.grad((v - (z1 - z0)).square().sum() + 2 * phi.sum(), v)
    assert (ours - stated).abs().max() < 1e-12 * stated.abs().max()


def test_without_the_stop_gradient_it_is_something_else() -> None:
    z1, z0, y, t, v = scene()
    zt = interpolate(z0=z0, z1=z1, t=t)
    grads = []
    for detach in (True, False):
        moved = reshaped(z0=z0, v_pred=v, zt=zt, t=t, y=y, mu=MU, detach=detach)
        (g,) = torch.autograd.grad((v - (z1 - moved)).square().sum(), v)
        grads.append(g.flatten())
    assert torch.cosine_similarity(*grads, dim=0) < 0.9


@pytest.mark.parametrize(("tau", "slope"), [(0.5, 3.0), (1.0, 1.0), (2.0, 0.0)])
def test_the_force_near_a_centroid_goes_as_a_power_of_the_distance(
    tau: float, slope: float
) -> None:
    r = torch.logspace(-4, -3, 5, dtype=torch.float64)
    way = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    z = MU[7, :, 0, 0] + r[:, None] * way
    y = one_hot(torch.full((5, 1, 1), 7), 20).double()
    force = gradient(z[:, :, None, None], y=y, mu=MU, eps=1e-18, tau=tau).flatten(1).norm(dim=1)
    fitted = (force[-1] / force[0]).log() / (r[-1] / r[0]).log()
    assert float(fitted) == pytest.approx(slope, abs=0.02)


def test_attraction_and_repulsion_add_up_and_point_where_they_say() -> None:
    z1, z0, y, _, _ = scene()
    parts = {p: gradient(z1, y=y, mu=MU, part=p) for p in ("both", "attraction", "repulsion")}
    torch.testing.assert_close(parts["attraction"] + parts["repulsion"], parts["both"])
    along = (parts["attraction"] * (z0 - z1)).sum(1)
    assert (along < 0).all()  # the gradient leads away, so the step leads to the centroid
    with pytest.raises(ValueError, match="part must be one of"):
        gradient(z1, y=y, mu=MU, part="none")


def test_two_classes_that_cannot_be_told_apart_end_in_a_third_unless_reshaped() -> None:
    mu = kronecker(20)
    pairs = torch.tensor([(i, j) for i in range(20) for j in range(20) if i != j])
    third = {}
    for reshape in (False, True):
        found = nearest(undecided(mu, pairs, reshape=reshape), mu)[:, 0, 0]
        third[reshape] = float((found[:, None] != pairs).all(1).float().mean())
    assert third[False] > 0.5 and third[True] < 0.04, third


def test_no_start_leads_lower_than_where_undecided_ends() -> None:
    """The expected loss there, beside descents from random places, by autograd."""
    mu, odds = kronecker(12).double(), 0.6
    pairs = torch.tensor([(0, 3), (5, 1), (7, 11)])
    y = odds * one_hot(pairs[:, :1, None], 12) + (1 - odds) * one_hot(pairs[:, 1:, None], 12)
    y = y.double()

    def loss(z: Tensor) -> Tensor:
        off = (z - mu[pairs].squeeze(-1).squeeze(-1).movedim(1, 0)[..., None, None]).square()
        weights = torch.tensor([odds, 1 - odds])[:, None, None, None]
        return (weights * off.sum(2)).sum(0) + 2 * potential(z, y=y, mu=mu)

    found = undecided(mu, pairs, reshape=True, odds=odds).double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        z = (2 * torch.rand(3, 3, 1, 1, generator=generator).double() - 1).requires_grad_(True)
        optimiser = torch.optim.LBFGS([z], max_iter=200)

        def closure(z: Tensor = z, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            total = loss(z).sum()
            total.backward()
            return total

        optimiser.step(closure)
        assert (loss(found) < loss(z.detach()) + 0.02).all()


def test_undecided_without_reshaping_is_the_mean() -> None:
    pairs = torch.tensor([[0, 1], [4, 2]])
    found = undecided(MU, pairs, reshape=False, odds=0.25)
    expected = 0.25 * MU[pairs[:, 0]] + 0.75 * MU[pairs[:, 1]]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


# --- centroids ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [kronecker, plastic, grid, lambda n: uniform(n, seed=3)])
@pytest.mark.parametrize("count", [2, 8, 20, 27, 150])
def test_centroids_are_the_same_each_time_inside_the_cube_and_distinct(make, count: int) -> None:
    mu = make(count)
    assert mu.shape == (count, 3, 1, 1) and torch.equal(mu, make(count))
    assert mu.abs().max() <= 1 and spacing(mu) > 0
    assert torch.equal(nearest(mu, mu).flatten(), torch.arange(count))
    with pytest.raises(ValueError, match="at least 2"):
        make(1)


def test_spacings() -> None:
    assert spacing(grid(27)) == 1.0 and spacing(grid(8)) == 2.0
    for count, kron, plas in ((20, 0.59, 0.64), (150, 0.154, 0.226)):
        assert spacing(kronecker(count)) == pytest.approx(kron, abs=0.005)
        assert spacing(plastic(count)) == pytest.approx(plas, abs=0.005)
        random = [spacing(uniform(count, seed=s)) for s in range(10)]
        assert sum(random) / 10 < kron < spacing(grid(count))


def test_kronecker_is_the_sequence_it_names() -> None:
    mu = kronecker(5)[:, 1, 0, 0].double()
    c = [math.modf(k * 3**0.5)[0] for k in range(1, 6)]
    expected = [2 * (x - min(c)) / (max(c) - min(c)) - 1 for x in c]
    torch.testing.assert_close(mu, torch.tensor(expected), rtol=1e-6, atol=1e-6, check_dtype=False)


def test_a_mixture_tells_how_far_a_latent_lies_between_black_and_white() -> None:
    g = torch.Generator().manual_seed(2)
    mu = torch.randn(2, 4, 3, 3, generator=g)
    z0 = torch.stack([mu[0] + a * (mu[1] - mu[0]) for a in (-0.5, 0.0, 0.3, 1.0, 2.0)])
    y = mixture(z0=z0, mu=mu)
    torch.testing.assert_close(y[:, 1, 1, 2], torch.tensor([0.0, 0.0, 0.3, 1.0, 1.0]))
    torch.testing.assert_close(y.sum(1), torch.ones(5, 3, 3))
    with pytest.raises(ValueError, match="two centroids"):
        mixture(z0=z0, mu=kronecker(3))
