"""All readings of one set of counts, by hand and by other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import simpson
from sklearn.metrics import average_precision_score

from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.readings import FIXED, Reading, readings


def scored(seed: int, side: int = 12) -> tuple[np.ndarray, np.ndarray, Counts]:
    rng = np.random.default_rng(seed)
    masks = rng.random((6, side, side)) < 0.4
    scores = np.clip(0.5 * masks + 0.6 * rng.random(masks.shape), 0, 1).astype(np.float32)
    return scores, masks, count(torch.from_numpy(scores), torch.from_numpy(masks), list("aabbcc"))


def named(every: tuple[Reading, ...]) -> dict[str, Reading]:
    assert len({each.name for each in every}) == len(every)
    return {each.name: each for each in every}


def test_each_reading_is_its_rule_worked_out_from_the_masks() -> None:
    scores, masks, counts = scored(1)
    large, truth, native = scored(2, side=20)
    found = named(readings(counts, chosen=0.46, native=native))
    pairs = list(zip(masks.reshape(6, -1), scores.reshape(6, -1), strict=True))
    mean = np.mean([average_precision_score(m, s) for m, s in pairs])
    assert found["AP, step-wise, mean over samples"].value == pytest.approx(100 * mean)

    def ious(scores: np.ndarray, masks: np.ndarray, at: float, one: int) -> np.ndarray:
        both = (scores > at) & masks
        return both.sum((1, 2)) / (one + ((scores > at) | masks).sum((1, 2)))

    for name, at in (("chosen on validation", 0.46), ("fixed", FIXED)):
        name = f"mIoU, threshold {name}" if "chosen" in name else f"mIoU, {name} threshold"
        assert found[name].threshold == at
        assert found[name].value == pytest.approx(100 * ious(scores, masks, at, 1).mean())
    best = found["mIoU, best threshold"]
    assert best.threshold == counts.miou().threshold
    assert best.value >= found["mIoU, threshold chosen on validation"].value
    for where, (s, m) in (("", (scores, masks)), (", native size", (large, truth))):
        iou = ious(s, m, 0.46, 0)
        for whose, name in (("PhraseCut", "mean IoU"), ("LAVT", "mIoU")):
            assert found[f"{whose}'s evaluator{where}: {name}"].value == pytest.approx(
                100 * iou.mean()
            )
        overall = ((s > 0.46) & m).sum() / ((s > 0.46) | m).sum()
        for name in ("LAVT's evaluator{}: oIoU", "PhraseCut's evaluator{}: cumulative IoU"):
            assert found[name.format(where)].value == pytest.approx(100 * overall)
        reached = 100 * np.mean(iou > 0.5)
        assert found[f"PhraseCut's evaluator{where}: Pr@0.5"].value == pytest.approx(reached)


def test_one_evaluator_takes_an_iou_of_exactly_k_and_the_other_does_not() -> None:
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    counts = count(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), mask, ["a"])
    found = named(readings(counts, chosen="none", native=counts))
    assert found["LAVT's evaluator: Pr@0.5"].value == 100
    assert found["PhraseCut's evaluator: Pr@0.5"].value == 0


def reaching(*tenths: int) -> Counts:
    """Counts of samples whose IoU at any threshold is so many tenths."""
    masks, scores = torch.zeros(len(tenths), 4, 5, dtype=torch.bool), torch.zeros(len(tenths), 4, 5)
    masks[:, :2] = True
    for score, hits in zip(scores, tenths, strict=True):
        score.view(-1)[:hits] = 1
    return count(scores, masks, list(map(str, tenths)))


def test_the_share_of_samples_that_reach_each_iou_is_counted_by_both_rules() -> None:
    found = named(
        readings(reaching(5, 6, 7, 8, 9, 10), chosen=0.46, native=reaching(3, 6, 7, 7, 9))
    )
    expected = {
        ("LAVT's evaluator", "0.5"): (6 / 6, 4 / 5),
        ("LAVT's evaluator", "0.6"): (5 / 6, 4 / 5),
        ("LAVT's evaluator", "0.7"): (4 / 6, 3 / 5),
        ("LAVT's evaluator", "0.8"): (3 / 6, 1 / 5),
        ("LAVT's evaluator", "0.9"): (2 / 6, 1 / 5),
        ("PhraseCut's evaluator", "0.5"): (5 / 6, 4 / 5),
        ("PhraseCut's evaluator", "0.6"): (4 / 6, 3 / 5),
        ("PhraseCut's evaluator", "0.7"): (3 / 6, 1 / 5),
        ("PhraseCut's evaluator", "0.8"): (2 / 6, 1 / 5),
        ("PhraseCut's evaluator", "0.9"): (1 / 6, 0),
    }
    for (whose, k), shares in expected.items():
        for where, share in zip(("", ", native size"), shares, strict=True):
            reading = found[f"{whose}{where}: Pr@{k}"]
            assert reading.value == pytest.approx(100 * share) and reading.threshold == 0.46


def test_the_three_average_precisions_are_each_by_their_own_rule() -> None:
    rng = np.random.default_rng(4)
    masks, scores = rng.random((6, 12, 12)) < 0.4, rng.random((6, 12, 12))
    scores[3:] **= np.where(masks[3:], 1, 3)  # half of them are easier
    scores = ((1000 * scores // 1 + 0.5) / 1000).astype(np.float32)  # bins take nothing away
    counts = count(torch.from_numpy(scores), torch.from_numpy(masks), list("aabbcc"))
    found = named(readings(counts, chosen=0.5, native="none"))
    pairs = list(zip(masks.reshape(6, -1), scores.reshape(6, -1), strict=True))
    at = np.linspace(0, 1, 51)[1:-1, None, None, None]
    tp, fp = ((part & (scores > at)).sum((1, 2, 3))[::-1] for part in (masks, ~masks))
    precision, recall = tp / (1 + tp + fp), tp / (1 + masks.sum())
    assert (np.diff(recall) > 0).all()  # 49 points, an odd number: Simpson's rule as it stands
    expected = {
        "step-wise, mean over samples": np.mean([average_precision_score(*each) for each in pairs]),
        "step-wise, pooled": average_precision_score(masks.ravel(), scores.ravel()),
        "CLIPSeg's rule": simpson(precision, x=recall),
    }
    assert np.diff(sorted(expected.values())).min() > 0.01
    for name, value in expected.items():
        assert found[f"AP, {name}"].value == pytest.approx(100 * value), name


def test_what_is_not_known_says_why() -> None:
    _, _, counts = scored(3)
    every = readings(counts, chosen="nobody chose", native="nobody counted")
    found = named(every)
    chosen = found["mIoU, threshold chosen on validation"]
    assert (chosen.value, chosen.reason) == (None, "nobody chose")
    empty = [each for each in every if each.reason == "nobody counted"]
    assert len(empty) == 14 and all(each.value is None for each in empty)
    assert found["LAVT's evaluator: mIoU"].threshold == FIXED  # where none was chosen
    blank = count(torch.rand(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), ["a"])
    ap = named(readings(blank, chosen=0.5, native=blank))["AP, step-wise, mean over samples"]
    assert (ap.value, ap.reason) == (None, "no sample has foreground")
