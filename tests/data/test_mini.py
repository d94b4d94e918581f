"""The mini world: phrases mean what they say, files parse, and workers change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlfseg.data import phrasecut
from rlfseg.data.drawn.phrases import Phrase, phrases, truth
from rlfseg.data.drawn.scene import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    draw_scene,
    outline,
)
from rlfseg.data.drawn.write_phrasecut import SPLITS, annotate, read_truth, write_phrasecut
from rlfseg.data.masks import rasterise
from rlfseg.data.sample import Polygons, Sample

PIXELS = 128
COUNTS = {"train": 70, "val": 6, "test": 40}
RELATIONS = ("left of", "right of", "above", "below")


def scene(number: int, *, held_out: bool = True, pixels: int = PIXELS) -> Scene:
    return draw_scene(np.random.default_rng([99, number]), pixels=pixels, held_out=held_out)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(number) for number in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini")
    write_phrasecut(root, seed=3, counts=COUNTS, pixels=PIXELS, workers=2)
    return root


@pytest.fixture(scope="module")
def samples(folder: Path) -> dict[str, list[Sample]]:
    return {split: list(phrasecut.read(folder, split)) for split in SPLITS}


# --- an independent reading of a phrase ------------------------------------------------------


def is_a(thing: Thing, words: str) -> bool:
    """Whether a thing is what words such as "small red star" say."""
    *attributes, name = words.split()
    found = []
    for word in attributes:
        kinds = {"size": SIZES, "colour": tuple(COLOURS), "texture": TEXTURES}
        (kind,) = (kind for kind, choices in kinds.items() if word in choices)
        found.append(getattr(thing, kind) == word)
    assert name in SHAPES
    return thing.shape == name and all(found)


def stands(thing: Thing, relation: str, anchor: Thing, side: int) -> bool:
    (x, y), (ax, ay), room = thing.centre, anchor.centre, 0.08 * side
    if relation == "left of":
        return x + room < ax
    if relation == "right of":
        return x - room > ax
    return y + room < ay if relation == "above" else y - room > ay


def meant(scene: Scene, text: str) -> list[int]:
    """The things a phrase speaks of, found from its text alone."""
    for relation in RELATIONS:
        if f" {relation} the " in text:
            words, other = text.split(f" {relation} the ")
            (anchor,) = (t for t in scene.things if is_a(t, other))  # the: there is one
            side = scene.image.shape[0]
            near = [stands(t, relation, anchor, side) for t in scene.things]
            return [i for i, t in enumerate(scene.things) if near[i] and is_a(t, words)]
    return [i for i, t in enumerate(scene.things) if is_a(t, text)]


def test_a_phrase_targets_exactly_what_its_text_says(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(1)
    kinds, several = set(), 0
    for each in scenes:
        made = phrases(rng, each, most=6)
        assert made and len({phrase.text for phrase in made}) == len(made)
        for phrase in made:
            assert list(phrase.targets) == meant(each, phrase.text), phrase.text
            assert phrase.targets
            kinds.add(phrase.relation[0] if phrase.relation else phrase.kind)
            several += len(phrase.targets) > 1
    plain = {"name", "colour", "texture", "size", "colour texture", "size colour"}
    assert kinds == plain | set(RELATIONS)
    assert several > 10


def test_the_exact_mask_is_the_union_of_the_targets(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(2)
    for each in scenes:
        for phrase in phrases(rng, each):
            union = np.zeros((PIXELS, PIXELS), bool)
            for number in meant(each, phrase.text):
                union |= each.things[number].mask
            assert np.array_equal(truth(each, phrase), union) and union.any()


def test_things_hide_each_other_but_share_no_pixel(scenes: list[Scene]) -> None:
    touching = 0
    for each in scenes:
        assert 1 <= len(each.things) <= 5
        assert sum(t.mask.astype(int) for t in each.things).max() == 1  # type: ignore[union-attr]
        boxes = [np.nonzero(t.mask) for t in each.things]
        spans = [(y.min(), y.max(), x.min(), x.max()) for y, x in boxes]
        touching += sum(
            a[0] <= b[1] and b[0] <= a[1] and a[2] <= b[3] and b[2] <= a[3]
            for i, a in enumerate(spans)
            for b in spans[:i]
        )
    assert touching > 10  # scenes are crowded enough for phrases to matter
    assert np.mean([len(each.things) for each in scenes]) > 2.7


def test_a_thing_is_painted_where_its_mask_is() -> None:
    """Inside the mask, plain things have nearly their colour."""
    checked = 0
    for number in range(40):
        each = scene(number)
        for thing in each.things:
            if thing.texture == "plain":
                painted = each.image[thing.mask].astype(float).mean(0)
                assert np.abs(painted - np.array(COLOURS[thing.colour])).max() < 45
                checked += 1
    assert checked > 30


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3))
def test_the_train_world_never_draws_or_says_a_held_out_pair(seed: int, number: int) -> None:
    each = draw_scene(np.random.default_rng([seed, number]), pixels=48, held_out=False)
    assert not any((thing.colour, thing.shape) in HELD_OUT for thing in each.things)
    assert not any(p.unseen for p in phrases(np.random.default_rng(seed), each))


def test_held_out_pairs_are_marked() -> None:
    for colour, shape in HELD_OUT:
        assert Phrase(shape, ("small", colour), None, (0,), "size colour").unseen
        assert not Phrase(shape, (), None, (0,), "name").unseen


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fill_about_their_radius(shape: str) -> None:
    points = outline(shape)
    assert points.ndim == 2 and points.shape[1] == 2
    reach = np.hypot(*points.T)
    assert 0.8 < reach.max() < 1.4
    x, y = points.T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    assert 0.8 < area < np.pi


def test_an_unknown_shape_or_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'hexagon'"):
        outline("hexagon")
    with pytest.raises(ValueError, match="'dev'"):
        write_phrasecut(tmp_path, seed=0, counts={"dev": 1}, pixels=32)
    with pytest.raises(FileNotFoundError, match="mini_truth"):
        read_truth(tmp_path)


# --- the written files -----------------------------------------------------------------------


def outlines(sample: Sample) -> tuple[tuple[np.ndarray, ...], ...]:
    """The polygons of a sample, [instance][polygon]."""
    assert isinstance(sample.region, Polygons)
    return sample.region.instances


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.integration
def test_the_files_depend_on_the_seed_alone(folder: Path, tmp_path: Path) -> None:
    write_phrasecut(tmp_path / "again", seed=3, counts=COUNTS, pixels=PIXELS, workers=1)
    assert content(tmp_path / "again") == content(folder)
    small = {"train": 3, "val": 2, "test": 2}
    write_phrasecut(tmp_path / "other", seed=4, counts=small, pixels=PIXELS, workers=1)
    image = "images/1000000.jpg"
    assert content(tmp_path / "other")[image] != content(folder)[image]


def test_a_longer_split_begins_with_the_shorter_one(folder: Path, tmp_path: Path) -> None:
    small = {"test": 3, "train": 65, "val": 1}  # one over a chunk, and the splits in another order
    write_phrasecut(tmp_path, seed=3, counts=small, pixels=PIXELS, workers=2)
    for split in SPLITS:
        short, long = (
            json.loads((root / f"refer_{split}.json").read_text()) for root in (tmp_path, folder)
        )
        assert len(short) > 0 and short == long[: len(short)]
    known, more = read_truth(tmp_path), read_truth(folder)
    assert all(np.array_equal(known[task].mask, more[task].mask) for task in known)
    images = {k: v for k, v in content(tmp_path).items() if k.startswith("images")}
    assert len(images) == 69 and images.items() <= content(folder).items()


def test_phrasecuts_reader_reads_every_task(folder: Path, samples: dict[str, list[Sample]]) -> None:
    for split in SPLITS:
        tasks = json.loads((folder / f"refer_{split}.json").read_text())
        assert [s.ids["task_id"] for s in samples[split]] == [t["task_id"] for t in tasks]
        assert [s.caption for s in samples[split]] == [t["phrase"] for t in tasks]
        assert {(s.width, s.height) for s in samples[split]} == {(PIXELS, PIXELS)}
        assert [len(outlines(s)) for s in samples[split]] == [len(t["ann_ids"]) for t in tasks]
        assert len({s.image_id for s in samples[split]}) == COUNTS[split]


def test_splits_share_no_image_and_no_scene(samples: dict[str, list[Sample]]) -> None:
    ids = {split: {s.image_id for s in samples[split]} for split in SPLITS}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values()))
    pictures = [s.image_path.read_bytes() for split in SPLITS for s in samples[split]]
    assert len(set(pictures)) == sum(COUNTS.values())


def test_held_out_pairs_are_said_in_the_test_split_and_never_in_train(
    folder: Path, samples: dict[str, list[Sample]]
) -> None:
    known = read_truth(folder)
    unseen = {
        split: [s.caption for s in samples[split] if known[s.ids["task_id"]].unseen]
        for split in SPLITS
    }
    assert not unseen["train"] and unseen["test"]
    for words in unseen["test"]:
        said = words.split()
        assert any(colour in said and shape in said for colour, shape in HELD_OUT)
    for sample in samples["train"]:  # in any of its words, the relation's too
        for part in (p for r in RELATIONS for p in sample.caption.split(f" {r} the ")):
            *attributes, name = part.split()
            assert not any((word, name) in HELD_OUT for word in attributes)


def test_exact_masks_survive_their_file(folder: Path) -> None:
    """The masks in the file are those of the scene drawn anew from its seed."""
    known = read_truth(folder)
    for number in range(5):
        rng = np.random.default_rng([3, SPLITS.index("test"), number])
        each = draw_scene(rng, pixels=PIXELS, held_out=True)
        for place, phrase in enumerate(phrases(rng, each)):
            entry = known[f"{3_000_000 + number}__{place}"]
            assert entry.mask.dtype == np.bool_
            assert np.array_equal(entry.mask, truth(each, phrase))
            assert (entry.kind, entry.unseen) == (phrase.kind, phrase.unseen)


def test_boxes_hold_the_things(folder: Path) -> None:
    known = read_truth(folder)
    for task in json.loads((folder / "refer_val.json").read_text()):
        inside = np.zeros((PIXELS, PIXELS), bool)
        for x, y, width, height in task["instance_boxes"]:
            inside[y : y + height, x : x + width] = True
        assert not (known[task["task_id"]].mask & ~inside).any()


def test_the_annotation_is_coarse_but_about_the_right_thing(
    folder: Path, samples: dict[str, list[Sample]]
) -> None:
    known = read_truth(folder)
    ious = []
    for sample in samples["train"] + samples["test"]:
        drawn, exact = rasterise(sample), known[sample.ids["task_id"]].mask
        ious.append((drawn & exact).sum() / (drawn | exact).sum())
        for polygon in (p for instance in outlines(sample) for p in instance):
            assert 6 <= len(polygon) <= 12
            assert polygon.min() >= 0 and polygon.max() <= PIXELS - 1
    assert 0.7 < np.mean(ious) < 0.92
    assert min(ious) > 0.25 and max(ious) < 0.99


def test_a_speck_still_gets_a_polygon() -> None:
    mask = np.zeros((32, 32), bool)
    mask[5, 7] = True
    ((*points,),) = annotate(np.random.default_rng(0), mask)
    assert len(points) == 6 and np.abs(np.mean(points, 0) - [7, 5]).max() < 1
