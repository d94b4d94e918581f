"""Sets of samples: sums, subsets, resamples, files."""

from __future__ import annotations

import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.grid import BINS, EDGES
from rlfseg.evaluation.score import Evaluation


def scene(n: int = 12, size: int = 24, noise: float = 0.3) -> tuple[Tensor, Tensor, list[str]]:
    """Return scores, masks and ids of n samples, three to an image."""
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    for i in range(n):
        masks[i, 2 : 4 + i, 3 : 5 + 2 * i] = True
    scores = masks * 0.6 + 0.2 + noise * torch.randn(n, size, size)
    return scores, masks, [f"image {i // 3}" for i in range(n)]


def same(a: Counts, b: Counts) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=f.name == "ap")
        for f in fields(Counts)
    )


def test_counts_add_up() -> None:
    scores, masks, ids = scene()
    whole = count(scores, masks, ids)
    parts = [count(scores[i : i + 5], masks[i : i + 5], ids[i : i + 5]) for i in (0, 5, 10)]
    assert len(whole) == 12
    assert same(parts[0] + parts[1] + parts[2], whole)
    assert same(Counts.concatenate(parts), whole)
    assert same(Counts.empty() + whole + Counts.empty(), whole)
    assert len(Counts.concatenate([])) == 0
    backwards = Counts.concatenate(parts[::-1])
    for read in (Counts.miou, Counts.iou_fg, Counts.iou_bin):
        assert read(backwards).value == pytest.approx(read(whole).value, rel=1e-12)
        assert read(backwards).threshold == read(whole).threshold
    for ap in (Counts.ap_clipseg, Counts.ap_pooled, Counts.ap_mean):
        assert ap(backwards) == pytest.approx(ap(whole), rel=1e-12)


def test_a_subset_reads_like_a_set_of_its_own() -> None:
    scores, masks, ids = scene()
    keep = np.arange(12) % 2 == 0
    subset = count(scores, masks, ids).select(keep)
    alone = count(scores[keep], masks[keep], [i for i, k in zip(ids, keep, strict=True) if k])
    assert same(subset, alone)
    assert subset.ap_pooled() == alone.ap_pooled()
    with pytest.raises(ValueError, match="keep"):
        subset.select(np.array([0, 1]))


def test_sizes_are_shares_of_the_image() -> None:
    masks = torch.zeros(4, 20, 50, dtype=torch.bool)
    for mask, area in zip(masks, (0, 4, 5, 50), strict=True):
        mask.view(-1)[:area] = True
    small, middle, large = count(torch.rand(4, 20, 50), masks, list("abcd")).by_size()
    assert [list(part.image_id) for part in (small, middle, large)] == [["a", "b"], ["c"], ["d"]]


def test_the_interval_is_fixed_by_its_seed_and_holds_the_value() -> None:
    counts = count(*scene(n=30))
    low, high = counts.bootstrap(lambda c: c.miou().value, n=200, seed=1)
    assert low < counts.miou().value < high
    assert (low, high) == counts.bootstrap(lambda c: c.miou().value, n=200, seed=1)
    assert (low, high) != counts.bootstrap(lambda c: c.miou().value, n=200, seed=2)
    assert counts.weight.tolist() == [1] * 30
    for ap in (Counts.ap_mean, Counts.ap_pooled, Counts.ap_clipseg):
        low, high = counts.bootstrap(ap, n=100, seed=1)
        assert low < ap(counts) < high


def test_a_gain_leaves_out_what_both_have_in_common() -> None:
    rng = np.random.default_rng(3)
    hard, n = rng.uniform(0.1, 0.7, size=300), 300
    images = np.array([str(k // 3) for k in range(n)])

    def scored(ap: NDArray[np.float64]) -> Counts:
        return Counts(images, np.zeros((n, 2, BINS), np.int32), ap, np.ones(n, np.int64))

    worse, better = scored(hard), scored(hard + 0.02 + rng.normal(0, 0.01, size=n))
    value, (low, high) = better.gain_over(worse, Counts.ap_mean, n=300, seed=1)
    assert value == pytest.approx(better.ap.mean() - worse.ap.mean())
    assert 0.017 < low < value < high < 0.023
    alone = [each.bootstrap(Counts.ap_mean, n=300, seed=1) for each in (worse, better)]
    assert alone[0][1] > alone[1][0]  # the single intervals overlap
    # the mean's own standard error, over images
    by_image = (better.ap - worse.ap).reshape(100, 3).mean(1)
    assert (high - low) / 2 == pytest.approx(1.96 * by_image.std() / 10, rel=0.15)
    assert worse.gain_over(worse, Counts.ap_mean, n=5, seed=1) == (0, (0, 0))
    with pytest.raises(ValueError, match="not of the same samples"):
        better.select(hard > 0.3).gain_over(worse, Counts.ap_mean, seed=1)


def test_a_resample_is_read_like_the_samples_it_repeats() -> None:
    images = np.array(list("abcaabbcb"))  # one image's samples need not lie together
    counts = count(*scene(n=9)[:2], list(images))
    read: list[tuple[NDArray[np.int64], list[float]]] = []

    def readings(c: Counts) -> list[float]:
        scalars = [c.oiou(0.5), c.pr_at(0.5, 0.5), c.ap_clipseg(), c.ap_pooled(), c.ap_mean()]
        return [c.miou().value, c.iou_fg().value, c.iou_bin().value, *scalars]

    def spy(c: Counts) -> float:
        read.append((c.weight, readings(c)))
        return 0.0

    counts.bootstrap(spy, n=5, seed=0)
    assert len({tuple(weight) for weight, _ in read}) > 3
    for weight, values in read:
        of_image = [set(weight[images == image].tolist()) for image in "abc"]
        assert [len(times) for times in of_image] == [1, 1, 1]  # drawn together
        assert sum(times.pop() for times in of_image) == 3
        rows = np.repeat(np.arange(9), weight)
        repeated = Counts(**{f.name: getattr(counts, f.name)[rows] for f in fields(Counts)})
        np.testing.assert_allclose(values, readings(repeated), rtol=1e-12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        n = 60
        ap = rng.uniform(size=n)  # its true mean is one half
        counts = Counts(
            image_id=np.array([str(i) for i in range(n)]),
            histogram=np.zeros((n, 2, BINS), np.int32),
            ap=ap,
            weight=np.ones(n, np.int64),
        )
        low, high = counts.bootstrap(Counts.ap_mean, n=200, seed=seed)
        covered += low <= 0.5 <= high
    assert 88 <= covered <= 99


def test_saved_counts_come_back(tmp_path: Path) -> None:
    scores, masks, ids = scene()
    masks[0] = False
    counts = count(scores, masks, ids)
    path = tmp_path / "counts.npz"
    counts.save(path)
    counts.save(path)  # an older file is replaced
    assert same(Counts.load(path), counts)
    assert Counts.load(path).miou() == counts.miou()
    Counts.empty().save(tmp_path / "empty.npz")
    assert same(Counts.load(tmp_path / "empty.npz") + counts, counts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["counts.npz", "empty.npz"]


def test_a_write_that_fails_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "counts.npz"
    counts = count(*scene())
    counts.save(path)

    def full(file: object, array: object, **more: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space"):
        (counts + counts).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["counts.npz"]
    assert same(Counts.load(path), counts)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    counts = count(*scene())
    rows = {f.name: getattr(counts, f.name) for f in fields(Counts)}
    path = tmp_path / "counts.npz"
    broken: list[dict[str, NDArray[np.generic]]] = [
        {"edges": EDGES},
        {"edges": EDGES + 1, **rows},
        {"edges": EDGES, **rows, "ap": rows["ap"][:-1]},
        {"edges": EDGES, **rows, "image_id": rows["image_id"].astype(object)},
    ]
    for arrays in broken:
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=r"counts\.npz"):
            Counts.load(path)
    counts.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:400] + bytes(100) + whole[500:])
    with pytest.raises(ValueError, match=r"counts\.npz"):
        Counts.load(path)
    path.write_bytes(whole[:-100])
    assert not zipfile.is_zipfile(path)
    with pytest.raises(ValueError, match=r"counts\.npz"):
        Counts.load(path)


def test_an_evaluation_is_kept_under_the_names_that_shipped_ones_have(tmp_path: Path) -> None:
    scores, masks, ids = scene(3)
    whole, edges = count(scores, masks, ids), np.array([0.1, 0.2, 0.3], np.float32)
    Evaluation(whole, whole.select(np.ones(3, bool)), edges).save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"counts.npz", "truth.npz", "boundary.npy"}
    back = Evaluation.load(tmp_path)
    assert same(back.annotation, whole) and back.boundary is not None
    assert back.truth is not None and same(back.truth, whole)
    assert np.array_equal(back.boundary, edges)
