"""The mini world in REFER's and COCO-Stuff's files: the readers find what was drawn and meant."""

from __future__ import annotations

import pickletools
from pathlib import Path

import numpy as np
import pytest

from rlfseg.data import cocostuff, phrasecut, refer
from rlfseg.data.drawn.scene import COLOURS, GROUNDS, SHAPES, SIZES, TEXTURES, Scene, draw_scene
from rlfseg.data.drawn.write_cocostuff import MINI_CLASSES, write_cocostuff
from rlfseg.data.drawn.write_phrasecut import write_phrasecut
from rlfseg.data.drawn.write_refer import write_refer
from rlfseg.data.masks import rasterise
from rlfseg.data.sample import Sample

PIXELS = 64
SEED = 3
COUNTS = {"train": 66, "val": 5, "test": 20}  # the first over a chunk
SPLITS = {
    "refcoco": ("train", "val", "testA", "testB"),
    "refcoco+": ("train", "val", "testA", "testB"),
    "refcocog": ("train", "val", "test"),
}
LOCATIONS = {"left", "right", "top", "bottom", "above", "below"}
RELATIONS = ("left of", "right of", "above", "below")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refer")
    write_refer(root, seed=SEED, counts=COUNTS, pixels=PIXELS)
    return root


@pytest.fixture(scope="module")
def samples(folder: Path) -> dict[str, list[Sample]]:
    return {
        dataset: [s for split in splits for s in refer.read(folder, dataset, split)]
        for dataset, splits in SPLITS.items()
    }


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    """The scenes drawn anew from the seed, by image id."""
    drawn = {}
    for place, (split, count) in enumerate(COUNTS.items()):
        for number in range(count):
            rng = np.random.default_rng([SEED, place, number])
            scene = draw_scene(rng, pixels=PIXELS, held_out=split != "train")
            drawn[str((place + 1) * 1_000_000 + number)] = scene
    return drawn


# --- an independent reading of a sentence -----------------------------------------------------


def fitting(scene: Scene, words: list[str]) -> set[int]:
    """The things that all these words are true of."""
    assert words[-1] in SHAPES and set(words) <= {*SHAPES, *COLOURS, *SIZES, *TEXTURES}
    return {
        i
        for i, t in enumerate(scene.things)
        if all(word in (t.shape, t.colour, t.texture, t.size) for word in words)
    }


def beyond(scene: Scene, relation: str, other: int) -> set[int]:
    """The things on that side of another one."""
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[
        relation
    ]
    at = [sign * thing.centre[axis] for thing in scene.things]
    return {i for i in range(len(at)) if at[i] > at[other] + 0.08 * PIXELS}


def meant(scene: Scene, said: str) -> set[int]:
    """The things a sentence speaks of, found from its words alone."""
    said = said.removeprefix("the ").replace(" that is ", " ")
    for relation in RELATIONS:
        if f" {relation} the " in said:
            words, anchor = said.split(f" {relation} the ")
            (other,) = fitting(scene, anchor.split())  # the: there is one
            return fitting(scene, words.split()) & beyond(scene, relation, other) - {other}
    if " that lies on the " in said:
        words, ground = said.split(" that lies on the ")
        assert ground == scene.ground
        return fitting(scene, words.split())
    words = [w for w in said.split() if w not in ("on", "at", "the")]
    places = [w for w in words if w in LOCATIONS]
    found = fitting(scene, [w for w in words if w not in LOCATIONS])
    for place in places:  # the outermost in that third of the picture, and alone there
        axis, sign = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}[place]
        at = {i: sign * (scene.things[i].centre[axis] - PIXELS / 2) for i in found}
        outer = {i for i in found if at[i] > PIXELS / 6}
        assert outer <= {max(found, key=lambda i: at[i])}
        found = outer
    return found


def test_a_sentence_means_the_one_thing_its_ref_names(
    samples: dict[str, list[Sample]], scenes: dict[str, Scene]
) -> None:
    for dataset, found in samples.items():
        for sample in found:
            number = sample.ids["ann_id"] - int(sample.image_id) * 10
            assert meant(scenes[sample.image_id], sample.caption) == {number}, (
                dataset,
                sample.caption,
            )
            thing = scenes[sample.image_id].things[number]
            assert SHAPES[sample.ids["category_id"] - 1] == thing.shape


def test_each_data_set_speaks_in_its_manner(samples: dict[str, list[Sample]]) -> None:
    words = {d: [s.caption.split() for s in found] for d, found in samples.items()}
    assert all(len(found) > 100 for found in words.values())
    assert not any(LOCATIONS & set(said) for said in words["refcoco+"])
    used = [LOCATIONS & set(said) for said in words["refcoco"]]
    assert set.union(*used) == LOCATIONS and 0.4 < np.mean([bool(u) for u in used]) < 0.9
    length = {dataset: np.mean([len(said) for said in found]) for dataset, found in words.items()}
    assert length["refcoco+"] < length["refcoco"] < 0.6 * length["refcocog"]
    relations = [s.caption for s in samples["refcocog"] if " that is " in s.caption]
    assert {r for r in RELATIONS for said in relations if f" {r} " in said} == set(RELATIONS)
    for sample in samples["refcocog"]:
        assert sample.ids["raw"] == sample.caption.capitalize() + "."


def test_masks_are_coarse_but_of_the_right_thing(
    samples: dict[str, list[Sample]], scenes: dict[str, Scene]
) -> None:
    ious = []
    kinds = set()
    for sample in samples["refcocog"]:
        number = sample.ids["ann_id"] - int(sample.image_id) * 10
        drawn, exact = rasterise(sample), scenes[sample.image_id].things[number].mask
        ious.append((drawn & exact).sum() / (drawn | exact).sum())
        kinds.add(type(sample.region.objects[0]).__name__)  # type: ignore[union-attr]
    assert 0.65 < np.mean(ious) < 0.95 and min(ious) > 0.2
    assert kinds == {"list", "dict"}


def test_splits_part_the_scenes(folder: Path, scenes: dict[str, Scene]) -> None:
    held = {}
    for dataset, splits in SPLITS.items():
        ids = {split: {s.image_id for s in refer.read(folder, dataset, split)} for split in splits}
        assert sum(map(len, ids.values())) == len(set.union(*ids.values()))
        held[dataset] = ids
    for split, circle in (("testA", True), ("testB", False)):
        assert len(held["refcoco"][split]) > 3
        for image_id in held["refcoco"][split]:
            shapes = {thing.shape for thing in scenes[image_id].things}
            assert ("circle" in shapes) is circle
    with pytest.raises(ValueError, match="'testA'"):
        write_refer(folder / "x", seed=0, counts={"testA": 1}, pixels=32)
    assert not (folder / "x").exists()


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.integration
def test_refers_files_depend_on_the_seed_alone(folder: Path, tmp_path: Path) -> None:
    write_refer(tmp_path, seed=SEED, counts=COUNTS, pixels=PIXELS, workers=1)
    assert content(tmp_path) == content(folder)


def test_the_pickle_is_of_protocol_2_and_names_no_class(folder: Path) -> None:
    codes = {
        code.name: arg
        for code, arg, _ in pickletools.genops((folder / "refcoco" / "refs(unc).p").read_bytes())
    }
    assert codes["PROTO"] == 2
    assert not {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ"} & set(codes)


# --- COCO-Stuff -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stuff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stuff")
    write_cocostuff(root, seed=SEED, counts={"train": 8, "val": 4}, pixels=PIXELS)
    return root


def test_maps_give_every_class_its_exact_pixels(stuff: Path, scenes: dict[str, Scene]) -> None:
    covered: dict[str, np.ndarray] = {}
    said = set()
    for split in ("train2017", "val2017"):
        for sample in cocostuff.read_maps(stuff, split, classes=MINI_CLASSES):
            scene, mask = scenes[sample.image_id], rasterise(sample)
            things = [t.mask for t in scene.things if t.shape == sample.caption]
            ground = ~np.any([t.mask for t in scene.things], axis=0)
            expected = ground if sample.caption in GROUNDS else np.any(things, axis=0)
            np.testing.assert_array_equal(mask, expected)
            covered[sample.image_id] = covered.get(sample.image_id, 0) + mask.astype(int)
            said.add(sample.caption)
            assert 0 <= sample.ids["train_id"] < len(SHAPES) + len(GROUNDS)
    assert len(covered) == 12 and all((each == 1).all() for each in covered.values())
    assert said <= {*SHAPES, *GROUNDS} and len(said) > 9


def test_json_and_maps_agree_on_stuff(stuff: Path) -> None:
    maps = {
        (s.image_id, s.caption): rasterise(s)
        for s in cocostuff.read_maps(stuff, "val2017", classes=MINI_CLASSES)
    }
    told = list(cocostuff.read_json(stuff, "val2017", classes=MINI_CLASSES))
    assert len(told) == 4
    for sample in told:
        assert sample.caption in GROUNDS and sample.ids["name"] == f"{sample.caption}-other"
        np.testing.assert_array_equal(rasterise(sample), maps[sample.image_id, sample.caption])


def test_cocostuffs_files_depend_on_the_seed_alone(stuff: Path, tmp_path: Path) -> None:
    counts = {"train": 8, "val": 4}
    write_cocostuff(tmp_path, seed=SEED, counts=counts, pixels=PIXELS, workers=1)
    assert content(tmp_path) == content(stuff)
    with pytest.raises(ValueError, match="'test'"):
        write_cocostuff(tmp_path, seed=SEED, counts={"test": 1}, pixels=PIXELS)


def test_the_three_formats_show_the_same_pictures(
    stuff: Path, samples: dict[str, list[Sample]], tmp_path: Path
) -> None:
    write_phrasecut(tmp_path, seed=SEED, counts={"val": 4}, pixels=PIXELS, workers=1)
    of_phrasecut = {s.image_id: s.image_path for s in phrasecut.read(tmp_path, "val")}
    of_stuff = {
        s.image_id: s.image_path
        for s in cocostuff.read_maps(stuff, "val2017", classes=MINI_CLASSES)
    }
    of_refer = {s.image_id: s.image_path for s in samples["refcoco"]}
    assert set(of_phrasecut) == set(of_stuff) and set(of_phrasecut) <= set(of_refer)
    for image_id, path in of_phrasecut.items():
        picture = path.read_bytes()
        assert picture == of_stuff[image_id].read_bytes() == of_refer[image_id].read_bytes()
