"""Scores at other sizes, and counts at the size of each photograph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rlfseg.evaluation.counting import count
from rlfseg.evaluation.sizes import at_size, count_at_own_size


@pytest.mark.parametrize("size", [(23, 40), (7, 5)])
def test_scores_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    score = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    for found, given in zip(at_size(score, *size), score, strict=True):
        picture = Image.fromarray(given.numpy())
        wanted = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found.numpy(), wanted, atol=2e-5)


def test_at_its_own_size_a_score_is_counted_as_it_is() -> None:
    score = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(at_size(score, 16, 16), score)
    masks = (score > 0.6).numpy()
    own, usual = count_at_own_size(score, masks, ["a", "b"]), count(score, score > 0.6, ["a", "b"])
    assert np.array_equal(own.histogram, usual.histogram) and np.array_equal(own.ap, usual.ap)


def test_each_is_counted_at_the_size_of_its_own_mask() -> None:
    score = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    masks = [np.ones((5, 9), bool), np.zeros((20, 31), bool)]
    masks[1][3:9, 4:20] = True
    counts = count_at_own_size(score, masks, ["a", "b"])
    assert counts.pixels.tolist() == [45, 620] and counts.positives.tolist() == [45, 96]
    cut = (at_size(score[1:], 20, 31)[0] > 0.5).numpy()
    wanted = (cut & masks[1]).sum() / (cut | masks[1]).sum()
    assert counts.select(np.array([False, True])).miou_lavt(0.5) == pytest.approx(wanted)
