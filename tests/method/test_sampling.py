"""AOS and HSS: what they mend, what they make worse, and that samples don't touch each other."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlfseg.config import SamplerConfig
from rlfseg.method import flow, sampling
from rlfseg.method.sampling import (
    aos,
    aos_signed,
    hss,
    multi_step,
    one_step,
    rescale,
    rescale_signed,
    sample,
)

SHAPE = (3, 4, 5, 6)
TEXT = torch.zeros(3, 7, 8)
FAR = 1e6
Form = Callable[..., tuple[Tensor, Tensor]]


def latents(n: int = 2, b: int = 3) -> list[Tensor]:
    return [torch.randn((b, *SHAPE[1:]), dtype=torch.float64) for _ in range(n)]


def bent(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """A field whose walk depends on the number of steps."""
    return torch.sin(3 * z) + t[:, None, None, None] * z.flip(1)


def test_one_step_goes_against_the_velocity() -> None:
    z0, z1 = latents()
    sampled = one_step(lambda z, t, c: z1 - z0, z1=z1, c=TEXT)
    torch.testing.assert_close(sampled.z0, z0)
    assert sampled.gamma.tolist() == [0, 0, 0]


def test_one_step_asks_for_the_field_at_the_image() -> None:
    (z1,) = latents(1)
    calls = []

    def field(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        calls.append((z, t, c))
        return bent(z, t, c)

    sampled = one_step(field, z1=z1, c=TEXT)
    ((z, t, c),) = calls
    assert z is z1 and c is TEXT and t.tolist() == [1, 1, 1]
    assert torch.equal(sampled.z0, z1 - bent(z1, t, c))


def test_many_steps_follow_the_bend() -> None:
    (z1,) = latents(1)
    assert torch.equal(
        multi_step(bent, z1=z1, c=TEXT, steps=1).z0, one_step(bent, z1=z1, c=TEXT).z0
    )
    half = z1 - bent(z1, torch.ones(3), TEXT) / 2
    expected = half - bent(half, torch.full((3,), 0.5), TEXT) / 2
    sampled = multi_step(bent, z1=z1, c=TEXT, steps=2)
    torch.testing.assert_close(sampled.z0, expected)
    assert sampled.gamma.tolist() == [0, 0, 0]


@given(d=st.floats(0, 5))
def test_a_short_step_is_mended_exactly(d: float) -> None:
    z_ref, z1 = latents()
    z0, gamma = rescale(z1=z1, dz=(z_ref - z1) / (1 + d), z_ref=z_ref, tol=FAR)
    torch.testing.assert_close(gamma, torch.full((3,), d, dtype=torch.float64))
    torch.testing.assert_close(z0, z_ref)


@given(d=st.floats(0.01, 5))
def test_overshoot_is_doubled_by_the_ratio_and_mended_by_least_squares(d: float) -> None:
    z_ref, z1 = latents()
    dz = (z_ref - z1) * (1 + d)
    z0, gamma = rescale(z1=z1, dz=dz, z_ref=z_ref, tol=FAR)
    torch.testing.assert_close(gamma, torch.full((3,), d / (1 + d), dtype=torch.float64))
    torch.testing.assert_close(z0 - z_ref, 2 * (z1 + dz - z_ref))
    z0, gamma = rescale_signed(z1=z1, dz=dz, z_ref=z_ref, tol=FAR)
    torch.testing.assert_close(gamma, torch.full((3,), -d / (1 + d), dtype=torch.float64))
    torch.testing.assert_close(z0, z_ref)


def test_the_signed_form_is_the_least_squares_solution() -> None:
    z_ref, z1, dz = latents(3)
    tol = 1.0
    _, gamma = rescale_signed(z1=z1, dz=dz, z_ref=z_ref, tol=tol)
    for i in range(3):
        inside = (z_ref[i] - z1[i] - dz[i]).abs() < tol
        residual = (z_ref[i] - z1[i] - dz[i])[inside]
        solution = torch.linalg.lstsq(dz[i][inside][:, None], residual[:, None]).solution
        torch.testing.assert_close(gamma[i], solution.squeeze())


def test_only_stable_entries_are_measured_but_all_are_rescaled() -> None:
    z1 = torch.zeros(1, 1, 1, 3)
    dz = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3)
    z_ref = torch.tensor([1.5, 1.0, 9.0]).reshape(1, 1, 1, 3)  # residuals 0.5, -1, 5
    z0, gamma = rescale(z1=z1, dz=dz, z_ref=z_ref, tol=2.0)
    assert gamma.item() == (0.5 + 1) / (1 + 2)
    assert z0.flatten().tolist() == [1.5, 3.0, 6.0]
    _, gamma = rescale_signed(z1=z1, dz=dz, z_ref=z_ref, tol=2.0)
    assert gamma.item() == pytest.approx((0.5 * 1 - 1 * 2) / (1 + 4))
    _, gamma = rescale(z1=z1, dz=dz, z_ref=z_ref, tol=6.0)
    assert gamma.item() == pytest.approx((0.5 + 1 + 5) / (1 + 2 + 4))
    _, gamma = rescale(z1=z1, dz=dz, z_ref=z_ref, tol=5.0)  # the bound itself is outside
    assert gamma.item() == (0.5 + 1) / (1 + 2)


@pytest.mark.parametrize("form", [rescale, rescale_signed])
def test_without_stable_entries_nothing_changes(form: Form) -> None:
    z1, dz = latents()
    z0, gamma = form(z1=z1, dz=dz, z_ref=z1 + dz + 1, tol=0.5)
    assert gamma.tolist() == [0, 0, 0]
    assert torch.equal(z0, z1 + dz)


@pytest.mark.parametrize("form", [rescale, rescale_signed])
def test_a_step_that_vanishes_on_the_stable_entries_is_left_alone(form: Form) -> None:
    z1 = torch.zeros(1, 1, 1, 2)
    dz = torch.tensor([0.0, 5.0]).reshape(1, 1, 1, 2)
    z0, gamma = form(z1=z1, dz=dz, z_ref=torch.full_like(z1, 0.1), tol=0.5)
    assert gamma.item() == 0
    assert torch.equal(z0, dz)


@given(seed=st.integers(0, 2**16), tol=st.floats(1e-3, 10))
def test_the_paper_s_form_never_shortens(seed: int, tol: float) -> None:
    torch.manual_seed(seed)
    z_ref, z1, dz = latents(3)
    z0, gamma = rescale(z1=z1, dz=dz, z_ref=z_ref, tol=tol)
    assert (gamma >= 0).all()
    torch.testing.assert_close(z0, z1 + dz * (1 + gamma[:, None, None, None]))


SAMPLERS = {
    "one": lambda z1, c, zb: one_step(bent, z1=z1, c=c),
    "multi": lambda z1, c, zb: multi_step(bent, z1=z1, c=c, steps=5),
    "aos": lambda z1, c, zb: aos(bent, z1=z1, c=c, zb=zb, tol=0.5),
    "aos_signed": lambda z1, c, zb: aos_signed(bent, z1=z1, c=c, zb=zb, tol=0.5),
    "hss": lambda z1, c, zb: hss(bent, z1=z1, c=c, tol=0.5),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    (z1,) = latents(1)
    zb = torch.randn((1, *SHAPE[1:]), dtype=torch.float64)
    whole = SAMPLERS[name](z1, TEXT, zb)
    for i in range(3):
        alone = SAMPLERS[name](z1[i : i + 1], TEXT[i : i + 1], zb)
        torch.testing.assert_close(whole.z0[i : i + 1], alone.z0)
        torch.testing.assert_close(whole.gamma[i : i + 1], alone.gamma)
    if name in ("aos", "aos_signed", "hss"):
        assert len(set(whole.gamma.tolist())) == 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_keep_no_gradient(name: str) -> None:
    (z1,) = latents(1)
    sampled = SAMPLERS[name](z1.requires_grad_(), TEXT, torch.zeros_like(z1[:1]))
    assert not sampled.z0.requires_grad and not sampled.gamma.requires_grad


def test_aos_anchors_to_black_and_hss_to_the_walk() -> None:
    (z1,) = latents(1)
    zb = torch.zeros((1, *SHAPE[1:]), dtype=torch.float64)
    dz = one_step(bent, z1=z1, c=TEXT).z0 - z1
    walk = multi_step(bent, z1=z1, c=TEXT, steps=5).z0
    black = aos(bent, z1=z1, c=TEXT, zb=zb, tol=0.5)
    hybrid = hss(bent, z1=z1, c=TEXT, tol=0.5)
    torch.testing.assert_close(
        (black.z0, black.gamma), rescale(z1=z1, dz=dz, z_ref=zb.expand_as(z1), tol=0.5)
    )
    torch.testing.assert_close(
        (hybrid.z0, hybrid.gamma), rescale(z1=z1, dz=dz, z_ref=walk, tol=0.5)
    )


@pytest.mark.parametrize("name", ["one", "steps", "aos", "aos_signed", "hss"])
def test_a_configuration_runs_the_sampler_that_it_names_with_its_numbers(name: str) -> None:
    (z1,) = latents(1)
    zb = torch.randn((1, *SHAPE[1:]), dtype=torch.float64)
    direct = {
        "one": one_step(bent, z1=z1, c=TEXT),
        "steps": multi_step(bent, z1=z1, c=TEXT, steps=3),
        "aos": aos(bent, z1=z1, c=TEXT, zb=zb, tol=0.7),
        "aos_signed": aos_signed(bent, z1=z1, c=TEXT, zb=zb, tol=0.7),
        "hss": hss(bent, z1=z1, c=TEXT, tol=0.7, steps=3),
    }
    found = sample(SamplerConfig(name, steps=3, tol=0.7), bent, z1=z1, c=TEXT, zb=zb)
    assert [each for each, made in direct.items() if torch.equal(made.z0, found.z0)] == [name]
    assert torch.equal(found.gamma, direct[name].gamma)


def test_hss_leaves_a_straight_flow_alone() -> None:
    z0, z1 = latents()
    sampled = hss(lambda z, t, c: z1 - z0, z1=z1, c=TEXT, tol=1e-3)
    torch.testing.assert_close(sampled.z0, z0)
    assert sampled.gamma.max() < 1e-12


@pytest.mark.parametrize("form", [rescale, rescale_signed])
@pytest.mark.parametrize("tol", [0.0, -1.0, float("nan")])
def test_a_tolerance_that_is_not_positive_is_refused(form: Form, tol: float) -> None:
    z1, dz = latents()
    with pytest.raises(ValueError, match="tol"):
        form(z1=z1, dz=dz, z_ref=z1, tol=tol)


@pytest.mark.parametrize("form", [rescale, rescale_signed])
@pytest.mark.parametrize(
    ("dz", "z_ref"), [((1, 4, 5, 6), SHAPE), (SHAPE, (1, 4, 1, 1)), (SHAPE, (3, 1, 5, 6))]
)
def test_what_would_broadcast_into_a_wrong_answer_is_refused(
    form: Form, dz: tuple[int, ...], z_ref: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=re.escape(str(dz))):
        form(z1=torch.zeros(SHAPE), dz=torch.ones(dz), z_ref=torch.zeros(z_ref), tol=2.0)


def test_each_equation_is_named_in_the_function_that_computes_it() -> None:
    named = defaultdict(list)
    for module in (flow, sampling):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                for number in re.findall(r"Eq\. (\d+)", function.__doc__ or ""):
                    named[int(number)].append(name)
    assert named == {
        2: ["rf_loss"],
        4: ["select"],
        5: ["one_step"],
        6: ["rescale"],
        7: ["rescale"],
        8: ["multi_step"],
        9: ["rescale"],
        10: ["rescale"],
    }
