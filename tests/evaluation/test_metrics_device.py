"""Counting by torch, for scores on a GPU: what NumPy counts, to the last pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from rlfseg.evaluation import counting_on_device as device
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.grid import EDGES, THRESHOLDS

NEAR = [*EDGES[[0, 3, 999, 1998]], *THRESHOLDS[:3], 0.0, -0.0, -0.7, 1.5, 3.0, 1e-30]


def agrees(scores: torch.Tensor, masks: torch.Tensor) -> None:
    """Both ways of counting say the same."""
    numpy = count(scores, masks, [str(k) for k in range(len(scores))])
    flat = scores.flatten(1), masks.flatten(1)
    found = device.histogram(*flat)
    assert found.dtype == torch.int32
    assert np.array_equal(found.numpy(), numpy.histogram)
    ap = device.average_precision(*flat).numpy()
    np.testing.assert_allclose(ap, numpy.ap, rtol=1e-12, atol=0, equal_nan=True)


@settings(max_examples=40)
@given(
    st.lists(st.floats(-3, 3, width=32) | st.sampled_from(NEAR), min_size=2, max_size=40),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_any_scores_are_counted_alike(values: list[float], seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice(np.float32(values), size=(3, 4, 5))
    masks = rng.random(scores.shape) < share
    agrees(torch.from_numpy(scores), torch.from_numpy(masks))


@pytest.mark.parametrize("name", ["all", "none", "one pixel", "all ties"])
def test_adversarial_masks_are_counted_alike(name: str) -> None:
    scores = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(2, 6, 7, dtype=torch.bool)
    if name == "all":
        masks[:] = True
    elif name == "one pixel":
        masks[:, 3, 2] = True
    elif name == "all ties":
        masks[0, :3] = True
        scores[:] = 0.5
    agrees(scores, masks)


def test_the_average_precision_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 30, size=(4, 200)).astype(np.float32) / 30
    masks = rng.random(scores.shape) < 0.3
    ap = device.average_precision(torch.from_numpy(scores), torch.from_numpy(masks))
    theirs = [average_precision_score(m, s) for m, s in zip(masks, scores, strict=True)]
    np.testing.assert_allclose(ap.numpy(), theirs, rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to count on")
def test_a_gpu_counts_what_the_cpu_counts() -> None:
    scores = torch.randn(8, 64, 64) * 0.4 + 0.4
    masks = scores + 0.3 * torch.randn_like(scores) > 0.6
    ids = [str(k) for k in range(8)]
    here, there = count(scores, masks, ids), count(scores.cuda(), masks, ids)
    assert np.array_equal(here.histogram, there.histogram)
    np.testing.assert_allclose(here.ap, there.ap, rtol=1e-12)
