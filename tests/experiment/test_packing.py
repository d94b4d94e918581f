"""The data of a run: drawn or found, packed once, refined in one copy, encoded beforehand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import DATA, given_run, with_sam

from rlfseg.config import DataConfig, RefineConfig, SamplerConfig
from rlfseg.data import phrasecut
from rlfseg.data.catalogue import DATASETS, read
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES
from rlfseg.data.drawn.write_phrasecut import read_truth
from rlfseg.data.masks import rasterise
from rlfseg.data.packed.read import Pack
from rlfseg.evaluation.boundary import boundary_f
from rlfseg.evaluation.label_quality import quality, refine_items
from rlfseg.evaluation.score import evaluate
from rlfseg.experiment import (
    Run,
    backbone_folder,
    codec,
    fill_latents,
    first_steps,
    latent_cache,
    located,
    native_masks,
    pack_report,
    packed,
    predictor,
    refined,
    source_folder,
    untrained,
)
from rlfseg.experiment.mask_records import read_records
from rlfseg.models.unet import as_velocity
from rlfseg.stage import read_record
from rlfseg.stand_ins.backbone import BackboneConfig

WRITTEN = Path("/proc/self/io")  # what this process has written, on Linux


# --- where files lie ----------------------------------------------------------------------------


def test_a_data_folder_that_is_not_there_is_named(repo: Path) -> None:
    for source in ("/no/data", "data/none"):
        run = given_run(profile="a100", data={"source": source})
        with pytest.raises(FileNotFoundError, match=f"{source} is no folder"):
            source_folder(run)


def test_folders_are_found_from_any_folder_of_the_repository(
    repo: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo / "data" / "phrases").mkdir(parents=True)
    outside = run.on(replace(run.data, source="data/phrases"))
    monkeypatch.chdir(repo / "book")
    assert source_folder(outside) == repo / "data" / "phrases"
    assert backbone_folder(outside) == repo / "tiny"
    absolute = run.on(replace(run.data, source=str(repo / "data")))
    assert source_folder(absolute) == repo / "data"


def test_a_hub_id_is_the_backbones_place_as_it_is(run: Run) -> None:
    elsewhere = replace(run, backbone=BackboneConfig("owner/other"))
    assert backbone_folder(elsewhere) == "owner/other"


def test_a_folder_of_weights_stands_for_its_hub_id(repo: Path, run: Run) -> None:
    folder = repo / "weights" / "owner" / "name"
    folder.mkdir(parents=True)
    assert backbone_folder(replace(run, backbone=BackboneConfig("owner/name"))) == folder
    assert located("owner/name") == folder


# --- packed files -------------------------------------------------------------------------------


@pytest.mark.integration
def test_packed_items_are_the_scenes_tasks(run: Run) -> None:
    root = source_folder(run)
    exact = read_truth(root)
    for split in ("train", "val", "test"):
        pack = packed(run, split)
        pack.validate()
        samples = list(phrasecut.read(root, split))
        assert len(pack) == len(samples) and len(pack.image_ids) == DATA[split]
        for number, sample in enumerate(samples):
            item = pack[number]
            assert (item.image_id, item.caption) == (sample.image_id, sample.caption)
            assert pack.ids(number) == (sample.ids["task_id"],)
            assert np.array_equal(item.mask, rasterise(sample))
            assert item.truth is not None
            assert np.array_equal(item.truth, exact[sample.ids["task_id"]].mask)
            assert item.image.shape == (16, 16, 3)
        assert pack_report(run, split)["phrases"] == len(samples)


def test_data_is_drawn_and_packed_once(run: Run) -> None:
    path = packed(run, "test").path
    made = path.stat().st_mtime_ns
    (source_folder(run) / "refer_test.json").touch()
    assert packed(run, "test").path == path and path.stat().st_mtime_ns == made


def test_phrasecuts_own_folder_has_no_exact_masks(run: Run) -> None:
    outside = run.on(replace(run.data, source=str(source_folder(run))))
    pack, ours = packed(outside, "test"), packed(run, "test")
    assert pack.path != ours.path and len(pack) == len(ours)
    assert pack[0].truth is None and np.array_equal(pack[0].mask, ours[0].mask)
    cache = latent_cache(outside, "test", codec(outside))
    v = as_velocity(untrained(outside).eval())
    scores = evaluate(v, cache, range(len(pack)), SamplerConfig(name="one"))
    assert scores.truth is None and len(scores.annotation) == len(pack)


@pytest.mark.integration
@pytest.mark.parametrize("dataset", sorted({*DATASETS} - {"phrasecut"}))  # that one is `run`'s
def test_every_data_set_is_packed_and_trained_on(run: Run, dataset: str) -> None:
    other = run.on(replace(run.data, dataset=dataset, test=12))
    assert other.train_stage.hash != run.train_stage.hash
    assert tuple(other.splits.values()) == DATASETS[dataset].splits
    for split, name in other.splits.items():
        pack = packed(other, split)
        samples = list(read(dataset, source_folder(other), name, classes=MINI_CLASSES))
        assert {pack.caption(i) for i in range(len(pack))} == {s.caption for s in samples}
        first = samples[0]
        item = pack.find(first.image_id, first.caption)
        said = [s for s in samples if (s.image_id, s.caption) == (first.image_id, first.caption)]
        assert np.array_equal(
            pack.masks(item)[0], np.logical_or.reduce([rasterise(s) for s in said])
        )
        assert pack.masks(item)[1] is None
    losses = [step.loss for step in first_steps(other, until=2)]
    assert len(losses) == 2 and np.isfinite(losses).all()


# --- latents ------------------------------------------------------------------------------------


@pytest.mark.integration
def test_latents_can_be_encoded_before_training(run: Run) -> None:
    other = run.on(replace(run.data, seed=6))
    packs = [packed(other, split) for split in ("train", "val")]
    assert fill_latents(other) == sum(len(pack) + len(pack.image_ids) for pack in packs)
    assert fill_latents(other) == 0
    assert other.latents_stage("train").hash != run.latents_stage("train").hash
    assert other.variant({"seed": 9}).latents_stage("val").hash == other.latents_stage("val").hash


# --- refined labels -----------------------------------------------------------------------------


@pytest.mark.integration
def test_refined_labels_lie_beside_the_annotations_of_a_copy(run: Run) -> None:
    folder = refined(with_sam(), "val")
    both, plain = Pack(folder / "val.h5"), packed(run, "val")
    assert both.content_hash == plain.content_hash
    for item in range(len(plain)):
        mask, truth, nothing = plain.masks(item)
        assert nothing is None
        again = both.masks(item)
        assert np.array_equal(again[0], mask) and np.array_equal(again[1], truth)
        assert again[2] is not None and again[2].any()
    records = read_records(folder / "relabel")
    assert [record.item for record in records] == list(range(len(plain)))
    assert read_record(folder)["figures"]["masks"] == len(plain)


@pytest.mark.integration
def test_the_refined_file_is_written_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refined masks go into the one copy that is made; at 340,000 phrases it is 150 GB."""
    other = with_sam().on(DataConfig(pixels=256, train=1, val=6, test=1))
    plain = packed(other, "val").path
    predictor(other)  # SAM's training is not counted
    copied, copyfile = [], shutil.copyfile  # which copy, copy2, copytree and move go through

    def copying(source: str, *more: Any, **said: Any) -> Any:
        copied.append(Path(source))
        return copyfile(source, *more, **said)

    monkeypatch.setattr(shutil, "copyfile", copying)
    before = written()
    final = refined(other, "val") / "val.h5"
    wrote = written() - before
    assert final.stat().st_size > plain.stat().st_size > 1e6
    assert not [path for path in copied if path.suffix == ".h5"]
    assert [path.name for path in final.parent.glob("**/*.h5")] == ["val.h5"]
    if WRITTEN.is_file():
        assert final.stat().st_size <= wrote < 1.3 * final.stat().st_size


def written() -> int:
    """Bytes that this process has written until now, copies in the kernel included."""
    if not WRITTEN.is_file():
        return 0
    lines = dict(line.split(": ") for line in WRITTEN.read_text().splitlines())
    return int(lines["wchar"])


def test_labels_are_scored_against_the_truth(run: Run) -> None:
    pack = packed(run, "val")
    items = list(range(len(pack)))[::-1]  # any order
    results = refine_items(pack, items, predictor(with_sam()), RefineConfig(anchors=2))
    scores = quality(pack, items, results)
    for place, item in enumerate(items):
        mask, truth, _ = pack.masks(item)
        for column, label in enumerate((mask, results[place].mask)):
            assert scores.iou[place, column] == (label & truth).sum() / (label | truth).sum()
            assert scores.boundary[place, column] == boundary_f(label, truth)
    assert np.array_equal(scores.worse, scores.iou[:, 1] < scores.iou[:, 0])


@pytest.mark.integration
@pytest.mark.parametrize("dataset", ["phrasecut", "refcoco", "cocostuff"])
def test_an_annotation_is_drawn_again_at_the_photographs_size(run: Run, dataset: str) -> None:
    drawn = run.on(replace(run.data, dataset=dataset))
    outside = run.on(replace(drawn.data, source=str(source_folder(drawn))))
    split = "val"
    draw, pack = native_masks(outside, split), packed(outside, split)  # of 16 pixels, both
    small = packed(run.on(replace(outside.data, pixels=8)), split)
    again = native_masks(run.on(replace(outside.data, pixels=8)), split)
    for item in range(len(pack)):
        assert np.array_equal(draw(item), pack.masks(item)[0])
    for item in range(len(small)):
        whole = pack.find(small.image_ids[small.item_image[item]], small.caption(item))
        assert small.masks(item)[0].shape == (8, 8)
        assert np.array_equal(again(item), pack.masks(whole)[0])
