"""The scores of a run: kept, found without the weights, and the same as people's own use gives."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rlfseg.config import DataConfig, SamplerConfig
from rlfseg.data.catalogue import read
from rlfseg.data.masks import rasterise
from rlfseg.evaluation.closed_set import confusions, given_classes
from rlfseg.evaluation.predict import predict, spaced
from rlfseg.evaluation.score import boundaries, evaluate, flawless
from rlfseg.experiment import (
    ClosedSet,
    Run,
    Scoring,
    class_names,
    closed_set,
    codec,
    field_and_data,
    latent_cache,
    packed,
    pipeline,
    scored,
    scoring,
    source_folder,
    trained_unet,
)
from rlfseg.models.unet import as_velocity
from rlfseg.stage import made_at, read_record

AOS = SamplerConfig("aos", tol=0.2)


@pytest.mark.integration
def test_scores_are_kept_and_found_without_the_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Scoring("test", 4, sampler=AOS)
    exact_way, edged = replace(way, truth=True), replace(way, boundary=True)
    scores, exact = scored(run, way), scored(run, exact_way)
    assert scores.truth is None
    coder = codec(run)
    cache = latent_cache(run, "test", coder)
    items = spaced(len(cache.pack), 4)
    assert len(items) == 4
    v = as_velocity(trained_unet(run, coder.device))
    fresh = evaluate(v, cache, items, AOS)
    edges = scored(run, edged).boundary
    level = fresh.annotation.miou().threshold
    f = boundaries(v, cache, items, AOS, threshold=level)
    assert edges is not None and edges.shape == (4,)
    np.testing.assert_allclose(edges, f, rtol=1e-6)
    monkeypatch.setattr("rlfseg.experiment.scoring._model", None)  # not needed any more
    for again in (scores, exact, scored(run, way), scored(run, exact_way)):
        assert np.array_equal(again.annotation.histogram, fresh.annotation.histogram)
        assert np.array_equal(again.annotation.image_id, fresh.annotation.image_id)
    assert fresh.truth is not None
    for again in (exact, scored(run, exact_way)):
        assert np.array_equal(again.truth.histogram, fresh.truth.histogram)


def test_a_mask_without_a_fault_scores_what_the_annotation_shares_with_it(run: Run) -> None:
    pack = packed(run, "test")
    items, overlaps = spaced(len(pack), 4), []
    for annotation, exact, _ in map(pack.masks, items):
        assert exact is not None
        overlaps.append((annotation & exact).sum() / (1 + (annotation | exact).sum()))  # CLIPSeg's
    found = flawless(pack, items)
    assert found.miou().value == pytest.approx(np.mean(overlaps))
    assert 0.3 < found.miou().value < 0.99
    assert list(found.image_id) == [pack.image_ids[pack.item_image[i]] for i in items]


@pytest.mark.integration
def test_the_record_says_how_it_was_scored(run: Run) -> None:
    way = Scoring("val", 2, sampler=SamplerConfig("one"))
    scored(run, way)
    record = read_record(made_at(run.scores_stage(way), profile="smoke"))
    told = record["settings"]
    assert told["split"] == "val" and told["phrases"] == 2 and told["on"] is None
    assert told["truth"] is told["boundary"] is False
    assert told["sampler"] == {"name": "one", "steps": 5, "tol": 0.2}


@pytest.mark.integration
def test_where_the_truth_is_not_known_it_cannot_be_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = replace(run.data, source=str(source_folder(run)))
    monkeypatch.setattr(scoring, "scored_in_parts", None)  # nothing is segmented first
    with pytest.raises(ValueError, match="no exact masks: leave truth away"):
        scored(run, Scoring("test", 3, truth=True, on=outside, sampler=SamplerConfig("one")))
    with pytest.raises(ValueError, match="the exact mask of item 0 is not known"):
        flawless(packed(run.on(outside), "test"), [0])


@pytest.mark.integration
def test_a_run_is_scored_on_other_data_than_its_own(run: Run) -> None:
    on = replace(run.data, dataset="refcoco", test=12)
    way = Scoring("val", 3, on=on, sampler=SamplerConfig("one"))
    v, cache = field_and_data(run, "val", on)
    assert cache.pack.path == packed(run.on(on), "val").path
    fresh = evaluate(v, cache, spaced(len(cache.pack), 3), way.sampler).annotation
    assert np.array_equal(scored(run, way).annotation.histogram, fresh.histogram)


@pytest.mark.integration
def test_a_closed_set_is_counted_and_found_without_the_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = DataConfig(dataset="cocostuff", pixels=16, train=1, val=3)
    closed = ClosedSet(2, on, SamplerConfig("one"))
    counted = closed_set(run, closed)
    v, cache = field_and_data(run, "val", on)
    names = class_names(run.on(on))
    ids = [cache.pack.image_ids[k] for k in spaced(len(cache.pack.image_ids), 2)]
    maps = given_classes(v, cache, ids, names, closed.sampler)
    fresh = list(confusions(maps, cache.pack, ids, names))
    monkeypatch.setattr("rlfseg.experiment.scoring._model", None)  # not needed any more
    for found in (counted, closed_set(run, closed)):
        assert len(found) == 2
        for a, b in zip(found, fresh, strict=True):
            assert np.array_equal(a.pixels, b.pixels) and a.pixels.sum() > 0
    record = read_record(made_at(run.closed_stage(closed), profile="smoke"))
    assert record["settings"]["on"]["dataset"] == "cocostuff"
    assert record["settings"]["images"] == 2


def test_nothing_is_left_but_counts(run: Run) -> None:
    way = Scoring("test", 3, boundary=True, sampler=SamplerConfig("one"))
    scored(run, way)
    final = made_at(run.scores_stage(way), profile="smoke")
    assert not final.with_name(final.name + ".part").exists()
    kept = {path.name for path in final.iterdir()}
    assert {"counts.npz", "stage.json"} < kept and "parts" not in kept


@given(st.integers(1, 500), st.integers(1, 60))
def test_spaced_items_begin_at_the_first_and_keep_their_distance(count: int, most: int) -> None:
    items = spaced(count, most)
    assert items[0] == 0 and len(items) == min(count, most)
    steps = {b - a for a, b in pairwise([*items, count])}  # the last is as far from the end
    assert min(steps) >= 1 and max(steps) - min(steps) <= 1


@pytest.mark.integration
def test_the_pipeline_segments_as_the_run_does(run: Run) -> None:
    cache = latent_cache(run, "test", codec(run))
    v = as_velocity(trained_unet(run, torch.device("cpu")))
    way = SamplerConfig("aos", tol=0.15)
    (wanted,) = predict(v, cache, [0, 1], way)
    pipe = pipeline(replace(run, threshold=0.35, sampler=way))
    pipe.set_progress_bar_config(disable=True)
    pack = cache.pack
    for item, score in zip((0, 1), wanted.scores, strict=True):
        found = pipe(pack[item].image, pack.caption(item))
        # decoded in bfloat16 there, and from latents in half precision
        np.testing.assert_allclose(found.scores[0], score.numpy(), atol=0.03)
        assert np.array_equal(found.masks[0], found.scores[0] > 0.35)


@pytest.mark.integration
def test_real_pictures_are_counted_at_their_own_size_too(run: Run) -> None:
    """PhraseCut's own reading: polygons drawn in the photograph, one prediction for each."""
    root = source_folder(replace(run, data=replace(run.data, pixels=24)))
    outside = replace(run, data=replace(run.data, source=str(root)))  # packed at 16 x 16
    way = Scoring("test", sampler=SamplerConfig("one"))
    found = scored(outside, way)
    assert found.native is not None and set(found.native.pixels) == {24 * 24}
    assert set(found.annotation.pixels) == {16 * 16}
    again = scored(outside, way).native
    assert again is not None and np.array_equal(again.histogram, found.native.histogram)
    v, cache = field_and_data(outside, "test")
    pack, ious = cache.pack, []
    regions = {
        (sample.image_id, sample.caption, str(sample.ids["task_id"])): rasterise(sample)
        for sample in read("phrasecut", root, "test")
    }
    for part in predict(v, cache, range(len(pack)), way.sampler):
        for item, score in zip(part.items, part.scores, strict=True):
            place = pack.image_ids[pack.item_image[item]], pack.caption(item)
            drawn = np.any([regions[*place, name] for name in pack.ids(item)], axis=0)
            large = Image.fromarray(score.numpy()).resize((24, 24), Image.Resampling.BILINEAR)
            cut = np.asarray(large) > 0.3
            ious.append((cut & drawn).sum() / (cut | drawn).sum())
    assert found.native.miou_lavt(0.3) == pytest.approx(np.mean(ious), abs=0.01)
    assert len({*ious}) > 1 and scored(run, way).native is None  # drawn pictures are packed as is
