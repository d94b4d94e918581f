"""Learning curves: when they are measured, what is asked, and what a kill leaves of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TRAIN, given_run

from rlfseg.baselines import phrases
from rlfseg.baselines.clipseg import ClipsegConfig
from rlfseg.baselines.ldznet import LdznetConfig
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.predict import other_captions
from rlfseg.evaluation.score import evaluate
from rlfseg.experiment import (
    Curve,
    Learning,
    Run,
    codec,
    curve_stage,
    field_and_data,
    latent_cache,
    learned,
    trained,
)
from rlfseg.models.latent_cache import LatentCache
from rlfseg.training.steps import Step

DATA = {"source": "mini", "pixels": 16, "train": 6, "val": 4, "test": 3, "seed": 5}


@pytest.fixture(scope="module")
def cache(repo: Path) -> LatentCache:
    run = given_run(data=DATA)
    return latent_cache(run, "val", codec(run))


def step(number: int) -> Step:
    return Step(number, 1.0, 1.0, 1e-3, 0.1)


@pytest.mark.integration
def test_scores_are_taken_at_doubled_lengths(tmp_path: Path, cache: LatentCache) -> None:
    """One who draws the phrase's mask scores 1, and with another phrase what the two share."""
    pack, asked = cache.pack, []

    def draws(items: Sequence[int], captions: Sequence[str]) -> Counts:
        asked.append(list(captions))
        pictures = [pack.image_ids[pack.item_image[item]] for item in items]
        drawn = [pack.masks(pack.find(*of))[0] for of in zip(pictures, captions, strict=True)]
        masks = np.stack([pack.masks(item)[0] for item in items])
        return count(torch.from_numpy(np.stack(drawn)).float(), torch.from_numpy(masks), pictures)

    learning = Learning(tmp_path, draws, cache, phrases=9, steps=100, batch=4)
    for number in range(1, 101):
        learning(step(number))
    curve = Curve.load(tmp_path)
    assert curve is not None
    assert curve.samples.tolist() == [4 * n for n in (1, 3, 6, 12, 25, 50, 100)]
    items, others = other_captions(cache, [k * len(pack) // 9 for k in range(9)])
    own = torch.from_numpy(np.stack([pack.masks(item)[0] for item in items]))
    exact = count(own.float(), own, [str(item) for item in items]).miou().value
    assert curve.phrase == pytest.approx(np.full(7, exact)) and exact > 0.95
    assert (curve.another < 0.7).all()
    assert asked[0] == [pack.caption(item) for item in items] and asked[1] == others


def test_what_a_killed_run_measured_later_goes(tmp_path: Path, cache: LatentCache) -> None:
    masks, calls = torch.zeros(1, 4, 4, dtype=torch.bool), iter(range(99))
    masks[:, 0] = True

    def scores(items: Sequence[int], captions: Sequence[str]) -> Counts:
        level = 1.0 if next(calls) < 6 else 0.0
        return count(torch.where(masks, level, 0.5), masks, ["1"])

    learning = Learning(tmp_path, scores, cache, phrases=9, steps=4, batch=1)
    for number in (1, 2, 3, 4, 2, 3, 4):  # killed after the fourth, begun again after the first
        learning(step(number))
    curve = Curve.load(tmp_path)
    assert curve is not None and curve.samples.tolist() == [1, 2, 4]
    assert curve.phrase[0] > 0.7 and (curve.phrase[1:] < 0.4).all()


def test_a_steady_pace_goes_on() -> None:
    """Of the odds for it: here they double with the samples, but for the first two points."""
    samples = np.array([10, 20, 40, 80, 160, 320])
    phrase = np.array([0.0, 0.05, 1 / 9, 1 / 5, 1 / 3, 1 / 2])  # 1 : 8, 1 : 4, 1 : 2, 1 : 1
    curve = Curve(samples, phrase, np.zeros(6))
    assert curve.after(1) == pytest.approx(1 / 2) and curve.after(4) == pytest.approx(4 / 5)
    assert 0.999 < curve.after(2**20) < 1  # no score is above that
    assert Curve(samples[:1], phrase[:1], phrase[:1]).after(10) == 0
    assert 0.998 < Curve(samples, np.ones(6), np.zeros(6)).after(10) < 1


def test_a_curve_is_looked_at_up_to_a_length() -> None:
    curve = Curve(np.array([10, 20, 40]), np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1]))
    early = curve.until(39)
    assert early.samples.tolist() == [10, 20]
    assert early.phrase.tolist() == [0.1, 0.2] and early.another.tolist() == [0.3, 0.2]
    assert curve.until(40).samples[-1] == 40 and not len(curve.until(9).samples)


def test_a_damaged_curve_is_named(tmp_path: Path) -> None:
    assert Curve.load(tmp_path) is None
    (tmp_path / "curve.json").write_text('[{"samples": 3}]')
    with pytest.raises(ValueError, match=r"curve\.json can't be read"):
        Curve.load(tmp_path)


@pytest.mark.integration
def test_a_run_and_a_baseline_keep_theirs(repo: Path, cache: LatentCache) -> None:
    """The last point is the finished run, scored as any is."""
    run: Run = given_run(data=DATA, train={**TRAIN, "curve": 9})
    curve = Curve.load(trained(run))
    assert curve is not None and curve.samples.tolist() == [4, 8, 16]
    v, there = field_and_data(run, "val")
    items, others = other_captions(there, [k * len(there.pack) // 9 for k in range(9)])
    way = replace(run.sampler, name="one")
    last = evaluate(v, there, items, way, captions=others).annotation.miou().value
    assert curve.another[-1] == pytest.approx(last, abs=0.01)
    plain = given_run(data=DATA)
    assert Curve.load(trained(plain)) is None
    assert (
        json.loads((trained(run) / "stage.json").read_text())["figures"]["loss_last_100"]
        == (json.loads((trained(plain) / "stage.json").read_text())["figures"]["loss_last_100"])
    )  # being watched changes nothing

    ldznet = LdznetConfig(steps=4, batch=2, width=8, curve=9)
    phrases.trained_model(run, ldznet)
    folder = repo / "runs/smoke/stages" / phrases.train_stage(run, ldznet).folder
    curve = Curve.load(folder)
    assert curve is not None and curve.samples.tolist() == [2, 4, 8]

    assert phrases.learned(run, ldznet).phrase.tolist() == curve.phrase.tolist()


@pytest.mark.integration
def test_a_curve_is_kept_without_the_weights(repo: Path) -> None:
    run = given_run(data=DATA, train={**TRAIN, "curve": 8})
    weights = trained(run)
    curve = learned(run)
    assert (repo / "runs/smoke/stages" / curve_stage(run.train_stage).folder).is_dir()
    shutil.rmtree(weights)
    again = learned(run)
    assert again.samples.tolist() == curve.samples.tolist()
    assert again.another.tolist() == curve.another.tolist() and not weights.exists()


@pytest.mark.integration
def test_what_was_trained_without_a_curve_says_so(repo: Path) -> None:
    with pytest.raises(ValueError, match=r"has no curve\.json: its training had no `curve`"):
        learned(given_run(data=DATA))
    released = ClipsegConfig(checkpoint="none")
    with pytest.raises(ValueError, match="released weights are not trained, so they have no curve"):
        replace(released, curve=3)
