"""Counting and the IoU readings, against plain loops and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index

from rlfseg.evaluation.counting import count, histogram
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.grid import BINS, EDGES, THRESHOLD_BINS, THRESHOLDS


def scene(n: int = 12, size: int = 24, noise: float = 0.3) -> tuple[Tensor, Tensor, list[str]]:
    """Return scores, masks and ids of n samples, three to an image."""
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    for i in range(n):
        masks[i, 2 : 4 + i, 3 : 5 + 2 * i] = True
    scores = masks * 0.6 + 0.2 + noise * torch.randn(n, size, size)
    return scores, masks, [f"image {i // 3}" for i in range(n)]


def looped(scores: Tensor, masks: Tensor) -> dict[str, NDArray[np.int64]]:
    """Return tp, fp, fn, tn [n, 49] by comparing every pixel with every threshold."""
    rows: dict[str, list[list[int]]] = {"tp": [], "fp": [], "fn": [], "tn": []}
    for score, mask in zip(scores, masks, strict=True):
        hits = [score > t for t in THRESHOLDS]
        rows["tp"].append([int((hit & mask).sum()) for hit in hits])
        rows["fp"].append([int((hit & ~mask).sum()) for hit in hits])
        rows["fn"].append([int((~hit & mask).sum()) for hit in hits])
        rows["tn"].append([int((~hit & ~mask).sum()) for hit in hits])
    return {name: np.array(row) for name, row in rows.items()}


HARD = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
ADVERSARIAL = {
    "empty mask": (torch.rand(1, 5, 5), torch.zeros(1, 5, 5, dtype=torch.bool)),
    "full mask": (torch.rand(1, 5, 5), torch.ones(1, 5, 5, dtype=torch.bool)),
    "nothing predicted": (torch.full((1, 5, 5), -3.0), torch.eye(5, dtype=torch.bool)[None]),
    "everything predicted": (torch.full((1, 5, 5), 7.0), torch.eye(5, dtype=torch.bool)[None]),
    "one pixel": (torch.tensor([[[0.5]]]), torch.ones(1, 1, 1, dtype=torch.bool)),
    "at a threshold": (torch.full((1, 2, 2), 0.5), HARD[None] > 0.5),
    "at every threshold": (
        torch.tensor(THRESHOLDS, dtype=torch.float32).reshape(1, 7, 7),
        (torch.arange(49) % 3 == 0).reshape(1, 7, 7),
    ),
    "next to every threshold": (
        torch.tensor(np.nextafter(THRESHOLDS.astype(np.float32), np.float32(2))).reshape(1, 7, 7),
        (torch.arange(49) % 3 == 0).reshape(1, 7, 7),
    ),
    "hard": (HARD[None], torch.tensor([[[True, False], [True, False]]])),
    "half precision": (torch.rand(1, 9, 9).half(), torch.rand(1, 9, 9) > 0.5),
}


def test_the_thresholds_are_edges_of_the_bins_to_the_bit() -> None:
    assert len(THRESHOLDS) == 49 and THRESHOLDS[24] == 0.5
    assert np.array_equal(EDGES[THRESHOLD_BINS - 1], THRESHOLDS.astype(np.float32))
    assert len(EDGES) == BINS - 1
    np.testing.assert_allclose(np.diff(EDGES), 0.001, atol=1e-6)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_masks_are_counted_like_a_plain_loop(name: str) -> None:
    scores, masks = ADVERSARIAL[name]
    counts, plain = count(scores, masks, ["a"]), looped(scores.float(), masks)
    assert np.array_equal(counts.tp, plain["tp"])
    assert np.array_equal(counts.fp, plain["fp"])
    assert np.array_equal(counts.positives - counts.tp[:, 0], plain["fn"][:, 0])
    assert counts.pixels.tolist() == [masks.numel()]


EDGE_SCORES = np.concatenate(
    [EDGES, *(np.nextafter(EDGES, np.float32(way)) for way in (-9, 9)), [-3, 7, -0.0]]
).astype(np.float32)


def test_scores_next_to_every_edge_fall_into_the_bin_that_a_search_finds() -> None:
    inside = np.arange(len(EDGE_SCORES)) % 3 == 0
    found = histogram(EDGE_SCORES[None], inside[None])[0]
    bins = np.searchsorted(EDGES, EDGE_SCORES, side="left")
    for row, kind in enumerate((~inside, inside)):
        assert np.array_equal(found[row], np.bincount(bins[kind], minlength=BINS))


@given(st.lists(st.floats(-1, 2, width=32), min_size=1, max_size=50), st.integers(0, 2**16))
def test_any_scores_fall_into_the_bin_that_a_search_finds(scores: list[float], seed: int) -> None:
    values = np.array(scores, np.float32)
    inside = np.random.default_rng(seed).random(len(values)) < 0.5
    found = histogram(values[None], inside[None])[0]
    bins = np.searchsorted(EDGES, values, side="left")
    assert np.array_equal(found[1], np.bincount(bins[inside], minlength=BINS))
    assert np.array_equal(found[0], np.bincount(bins[~inside], minlength=BINS))


def test_a_score_at_a_threshold_is_not_above_it() -> None:
    tp = count(torch.tensor([[[0.5]]]), torch.ones(1, 1, 1, dtype=torch.bool), ["a"]).tp[0]
    assert tp.tolist() == [1] * 24 + [0] * 25


@given(seed=st.integers(0, 2**16), n=st.integers(1, 4), levels=st.sampled_from([1, 10, 50, 0]))
def test_counts_equal_a_plain_loop(seed: int, n: int, levels: int) -> None:
    torch.manual_seed(seed)
    scores = torch.randn(n, 6, 7)
    scores = (scores * levels).round() / levels if levels else scores  # many ties, or none
    masks = torch.rand(n, 6, 7) > torch.rand(n, 1, 1)
    counts, plain = count(scores, masks, ["a"] * n), looped(scores, masks)
    assert np.array_equal(counts.tp, plain["tp"]) and np.array_equal(counts.fp, plain["fp"])
    assert np.array_equal(counts.union, plain["tp"] + plain["fp"] + plain["fn"])


def test_iou_is_torchmetrics() -> None:
    scores, masks, ids = scene()
    counts = count(scores, masks, ids)
    for at, threshold in ((0, 0.02), (14, 0.3), (48, 0.98)):
        expected = [
            binary_jaccard_index((score > threshold).int(), mask.int()).item()
            for score, mask in zip(scores, masks, strict=True)
        ]
        np.testing.assert_allclose(counts.iou[:, at], expected, rtol=1e-6)
        assert counts.miou_lavt(threshold) == pytest.approx(np.mean(expected), rel=1e-6)
        pooled = binary_jaccard_index((scores > threshold).int(), masks.int()).item()
        assert counts.oiou(threshold) == pytest.approx(pooled, rel=1e-6)


def test_the_clipseg_readings_follow_their_definitions() -> None:
    scores, masks, ids = scene()
    counts, plain = count(scores, masks, ids), looped(scores, masks)
    tp, fp, fn, tn = (plain[name] for name in ("tp", "fp", "fn", "tn"))
    miou = (tp / (1 + tp + fp + fn)).mean(0)
    best = counts.miou()
    assert best.value == pytest.approx(miou.max(), rel=1e-12)
    assert best.threshold == THRESHOLDS[miou.argmax()] and 0.1 < best.threshold < 0.9
    assert counts.miou_at(best.threshold) == best.value
    assert counts.miou_at(0.3) == pytest.approx(miou[14], rel=1e-12)
    tp, fp, fn, tn = (row.sum(0) for row in (tp, fp, fn, tn))
    foreground = tp / (1 + tp + fp + fn)
    assert counts.iou_fg().value == pytest.approx(foreground.max(), rel=1e-12)
    both = (foreground + tn / (1 + tn + fn + fp)) / 2
    assert counts.iou_bin().value == pytest.approx(both.max(), rel=1e-12)
    assert counts.iou_bin().threshold == THRESHOLDS[both.argmax()]


def test_the_plus_one_matters_for_one_pixel() -> None:
    counts = count(torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool), ["a"])
    assert counts.miou().value == 0.5 and counts.miou_lavt(0.5) == 1


def test_the_lowest_of_equal_thresholds_is_reported() -> None:
    assert count(HARD[None], HARD[None] > 0.5, ["a"]).miou().threshold == THRESHOLDS[0]


def test_an_empty_union_counts_as_zero() -> None:
    counts = count(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), ["a"])
    assert counts.miou_lavt(0.5) == counts.oiou(0.5) == counts.miou().value == 0


def test_precision_at_k_knows_both_comparisons() -> None:
    mask = torch.tensor([[[True, True]]])
    counts = count(torch.tensor([[[1.0, 0.0]]]), mask, ["a"]) + count(mask.float(), mask, ["b"])
    assert counts.pr_at(0.5, 0.5) == 1.0
    assert counts.pr_at(0.5, 0.5, strict=True) == 0.5
    assert counts.pr_at(0.5, 0.9) == 0.5


def test_a_threshold_that_was_not_counted_is_refused() -> None:
    counts = count(*scene())
    assert counts.miou_at(0.1 + 0.2) == counts.miou_at(0.3)
    for threshold in (0.35, 0.0, 1.0):
        with pytest.raises(ValueError, match="not counted"):
            counts.miou_at(threshold)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused_by_the_image_s_name(value: float) -> None:
    scores, masks, ids = scene()
    scores[4, 0, 0] = value
    with pytest.raises(ValueError, match=r"image\(s\) 'image 1' are not finite"):
        count(scores, masks, ids)


def test_inputs_that_do_not_match_are_refused() -> None:
    scores, masks, ids = scene()
    with pytest.raises(ValueError, match="b, H, W"):
        count(scores[:, None], masks, ids)
    with pytest.raises(ValueError, match="bool"):
        count(scores, masks.float(), ids)
    with pytest.raises(ValueError, match="11 image ids for 12"):
        count(scores, masks, ids[:-1])
    with pytest.raises(ValueError, match="no sample"):
        Counts.empty().miou()


def test_all_ones_score_what_is_said_of_them() -> None:
    """Who marks every pixel is not above them; who draws well is, by an interval."""
    scores, masks, ids = scene(n=40)
    ones = count(torch.ones_like(scores), masks, ids)
    assert ones.miou().value == pytest.approx(ones.miou_of_all_ones(), abs=1e-12)
    expected = (masks.sum((1, 2)) / (1 + masks[0].numel())).double().mean()
    assert ones.miou_of_all_ones() == pytest.approx(float(expected), abs=1e-6)
    assert ones.above_all_ones() == pytest.approx((0, 0), abs=1e-12)
    low, high = count(masks.float(), masks, ids).above_all_ones()
    assert 0.2 < low < high < 1
