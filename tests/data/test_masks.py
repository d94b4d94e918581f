"""Annotations become pixels exactly as each data set's own tools draw them, or are refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from rlfseg.data.masks import pixel_map, rasterise
from rlfseg.data.sample import PixelMap, Polygons, Region, Sample, Segments

SQUARE = [[2, 3], [6, 3], [6, 8], [2, 8]]


def of(region: Region, width: int = 12, height: int = 10) -> Sample:
    """A sample with this region and nothing else of interest."""
    ids = {"ref_id": 3, "ann_ids": (4, 5), "raw": "long words"}
    return Sample("9", Path("1.jpg"), "a", "val", width, height, region, ids)


def sample(*instances: Sequence[Sequence[Sequence[float]]]) -> Sample:
    """A sample with these polygons [instance][polygon][[x, y], ...]."""
    polygons = (tuple(np.array(p, np.float64).reshape(-1, 2) for p in i) for i in instances)
    return of(Polygons(tuple(polygons)))


def segments(*objects: Any, width: int = 12, height: int = 10) -> Sample:
    """A sample with these COCO segmentations."""
    return of(Segments(objects), width, height)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts, written anew: runs down the columns, the first of zeros."""
    runs = [(value, len(list(run))) for value, run in itertools.groupby(mask.T.ravel().tolist())]
    return [0] * bool(runs[0][0]) + [length for _, length in runs]


# --- PhraseCut's polygons, by its own evaluator's rule ----------------------------------------


def test_a_rectangle_includes_its_border() -> None:
    expected = np.zeros((10, 12), bool)
    expected[3:9, 2:7] = True
    np.testing.assert_array_equal(rasterise(sample([SQUARE])), expected)


def test_coordinates_are_cut_towards_zero() -> None:
    moved = [[2.99, 3.5], [6.01, 3.99], [6.7, 8.2], [2.0, 8.999]]
    np.testing.assert_array_equal(rasterise(sample([moved])), rasterise(sample([SQUARE])))
    corner = rasterise(sample([[[-0.9, -0.9], [2, -0.9], [2, 2], [-0.9, 2]]]))
    assert corner[:3, :3].all() and corner.sum() == 9


def test_the_union_of_hand_drawn_polygons_is_pillows() -> None:
    bow_tie = [[0, 0], [11, 9], [11, 0], [0, 9]]
    instances = ([[[1, 1], [9, 4], [3, 8]], [[0, 9], [5, 9]]], [bow_tie, [[11, 5]], []])
    expected = np.zeros((10, 12), bool)
    for polygon in (instances[0][0], instances[0][1], bow_tie):  # not the one of a single point
        sheet = Image.new("1", (12, 10))
        ImageDraw.Draw(sheet).polygon([tuple(p) for p in polygon], outline=1, fill=1)
        expected |= np.asarray(sheet)
    found = rasterise(sample(*instances))
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("polygon", [[], [[4, 4]]])
def test_a_polygon_under_two_points_draws_nothing(polygon: list[list[float]]) -> None:
    assert not rasterise(sample([polygon])).any()


def test_two_points_draw_a_line() -> None:
    mask = rasterise(sample([[[1, 4], [5, 4]]]))
    assert mask[4, 1:6].all() and mask.sum() == 5


coordinates = st.floats(-15, 27, width=16)
any_polygon = st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=7)


@settings(max_examples=60, deadline=None)
@given(st.lists(any_polygon, max_size=3))
def test_any_polygons_are_drawn_as_phrasecuts_evaluator_does(polygons: list[Any]) -> None:
    """Self-crossing ones and those that leave the image too: one sheet each, then the union."""
    expected = np.zeros((10, 12), bool)
    for polygon in polygons:
        sheet = Image.new("L", (12, 10), 0)
        ImageDraw.Draw(sheet).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
        expected |= np.array(sheet) > 0
    np.testing.assert_array_equal(rasterise(sample(polygons)), expected)


# --- the same by CLIPSeg's rule ---------------------------------------------------------------


def test_skimages_rule_takes_centres_inside_or_on_the_border() -> None:
    found = rasterise(sample([SQUARE]), polygon_rule="skimage")
    np.testing.assert_array_equal(found, rasterise(sample([SQUARE])))
    moved = sample([[[2.4, 3.4], [6.4, 3.4], [6.4, 8.4], [2.4, 8.4]]])
    expected = np.zeros((10, 12), bool)
    expected[4:9, 3:7] = True  # Pillow's rule, which cuts, begins one earlier
    np.testing.assert_array_equal(rasterise(moved, polygon_rule="skimage"), expected)
    assert rasterise(moved).sum() > expected.sum()


@settings(max_examples=40, deadline=None)
@given(any_polygon)
def test_skimages_rule_agrees_with_the_winding_of_each_pixel(polygon: list[Any]) -> None:
    """Off the border, a pixel is inside where a ray from it crosses the outline an odd number."""
    found = rasterise(sample([polygon]), polygon_rule="skimage")
    ends = [*polygon[1:], polygon[0]]
    for (y, x), inside in np.ndenumerate(found):
        crossings, near = 0, False
        for (ax, ay), (bx, by) in zip(polygon, ends, strict=True):
            length = np.hypot(bx - ax, by - ay)
            along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / max(length**2, 1e-30)
            along = min(max(along, 0), 1)
            near |= np.hypot(ax + along * (bx - ax) - x, ay + along * (by - ay) - y) < 1e-6
            if (ay > y) != (by > y):
                crossings += x < ax + (y - ay) / (by - ay) * (bx - ax)
        assert near or inside == crossings % 2


def test_skimages_rule_passes_over_a_polygon_without_points() -> None:
    found = rasterise(sample([[], SQUARE]), polygon_rule="skimage")
    np.testing.assert_array_equal(found, rasterise(sample([SQUARE]), polygon_rule="skimage"))


@pytest.mark.parametrize("rule", ["pillow", "skimage"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 70_000.0, -1e300])
def test_coordinates_that_no_filler_can_count_are_refused(rule: Any, number: float) -> None:
    bad = sample([SQUARE], [SQUARE, [[1, 1], [number, 2], [3, 3]]])
    named = r"val, image 9, ref_id 3, ann_ids \(4, 5\): Polygons, instance 1, polygon 1: a coord"
    with pytest.raises(ValueError, match=named):
        rasterise(bad, polygon_rule=rule)


@pytest.mark.parametrize("options", [{"polygon_rule": "opencv"}, {"overlap": "first"}])
def test_an_unknown_rule_is_named(options: Any) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options))} is .*: choose"):
        rasterise(sample([SQUARE]), **options)


# --- COCO's segments --------------------------------------------------------------------------


masks = arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@settings(max_examples=80, deadline=None)
@given(masks)
def test_rle_of_every_form_gives_the_mask_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    size = [height, width]
    for counts in (rle["counts"], rle["counts"].decode(), run_lengths(mask)):
        found = rasterise(segments({"size": size, "counts": counts}, width=width, height=height))
        assert found.dtype == np.bool_
        np.testing.assert_array_equal(found, mask)


def test_long_runs_and_jumps_survive_compression() -> None:
    mask = np.zeros((700, 900), bool)
    mask[:, 300:500] = True
    mask[5, ::7] ^= True
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = rasterise(segments(rle, width=900, height=700))
    np.testing.assert_array_equal(found, mask)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(coordinates, min_size=6, max_size=12), min_size=1, max_size=3))
def test_any_coco_polygons_are_drawn_as_pycocotools_does(polygons: list[list[float]]) -> None:
    """Self-crossing ones and those that leave the image too."""
    even = [polygon[: len(polygon) // 2 * 2] for polygon in polygons]
    rles = coco_mask.frPyObjects(even, 10, 12)
    np.testing.assert_array_equal(
        rasterise(segments(even)), coco_mask.decode(coco_mask.merge(rles)).astype(bool)
    )
    once = coco_mask.decode(rles).sum(-1) == 1
    np.testing.assert_array_equal(rasterise(segments(even), overlap="legacy"), once)
    apart = segments(*([polygon] for polygon in even))
    np.testing.assert_array_equal(rasterise(apart, overlap="legacy"), once)


def test_the_legacy_rule_makes_a_hole_where_polygons_overlap() -> None:
    left, right = [1, 1, 6, 1, 6, 6, 1, 6], [4, 1, 9, 1, 9, 6, 4, 6]
    union, legacy = np.zeros((2, 10, 12), bool)
    union[1:6, 1:9] = True
    legacy[1:6, 1:4] = legacy[1:6, 6:9] = True
    np.testing.assert_array_equal(rasterise(segments([left, right])), union)
    np.testing.assert_array_equal(rasterise(segments([left, right]), overlap="legacy"), legacy)


def test_nothing_annotated_is_an_empty_mask() -> None:
    for region in (Segments(()), Segments(([],)), Polygons(())):
        assert rasterise(of(region)).shape == (10, 12) and not rasterise(of(region)).any()


FULL = {"size": [10, 12], "counts": [20, 100]}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 5, 1]], "polygon 0 has 4 numbers"),  # pycocotools would take it for a box
        ([[1, 1, 5, 1, 5, 5], [1, 1, 5, 1, 5, 5, 2]], "polygon 1 has 7 numbers"),
        ([1, 1, 5, 1, 5, 5], "polygon 0 is not a list of numbers"),
        ([[1, 1, 5, 1, 5, "5"]], "polygon 0 is not a list of numbers"),
        ([[1, 1, 5, 1, 5, None]], "polygon 0 is not a list of numbers"),
        ([[1, 1, 5, 1, 5, float("nan")]], "polygon 0: a coordinate is no finite number"),
        ([[1, 1, 5, 1, 5, 1e9]], "polygon 0: a coordinate is no finite number"),
        ([[1, 1, 5, 1, 5, 10**400]], "polygon 0: a coordinate is no finite number"),
        ("SQk", "is a str, not a list or an RLE"),
        ({**FULL, "size": [12, 10]}, r"size is \[12, 10\], the annotated image's is \[10, 12\]"),
        ({"counts": [120]}, "size is None"),
        ({"size": [10, 12]}, "counts holds something"),
        ({**FULL, "counts": [20, 99]}, "counts tells of 119 pixels, the image has 120"),
        ({**FULL, "counts": [20, 101]}, "counts tells of 121 pixels"),
        ({**FULL, "counts": [130, -10]}, "counts holds something"),
        ({**FULL, "counts": [20.0, 100.0]}, "counts holds something"),
        ({**FULL, "counts": []}, "counts holds something"),
        ({**FULL, "counts": [[20, 100]]}, "counts holds something"),
        ({**FULL, "counts": ""}, "counts is cut off"),
        ({**FULL, "counts": "d0T"}, "counts is cut off"),
        ({**FULL, "counts": "d0\x01"}, "counts is cut off"),
        ({**FULL, "counts": "é0"}, "counts is cut off"),
        ({**FULL, "counts": "o" * 40 + "0"}, "counts is no compressed run lengths"),
    ],
)
def test_a_broken_segmentation_is_named(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"val, image 9, ref_id 3, .*object 1.*({message})"):
        rasterise(segments(FULL, segmentation))


@settings(max_examples=40, deadline=None)
@given(masks, st.data())
def test_a_compressed_rle_that_is_cut_off_never_passes(mask: np.ndarray, data: Any) -> None:
    """Every run counts, so no prefix fills the image; pycocotools would not notice."""
    height, width = mask.shape
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(ValueError, match="counts"):
        rasterise(segments({"size": [height, width], "counts": cut}, width=width, height=height))


# --- pixel maps -------------------------------------------------------------------------------


def test_a_pixel_map_gives_the_pixels_of_its_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, (10, 12)).astype(np.uint8)
    for mode in ("L", "P"):
        path = tmp_path / f"{mode}.png"
        picture = Image.fromarray(values)
        if mode == "P":
            picture.putpalette(bytes(range(255, -1, -1)) * 3)  # colours don't matter, indices do
        picture.save(path)
        assert Image.open(path).mode == mode
        found = rasterise(of(PixelMap(path, (1, 4))))
        np.testing.assert_array_equal(found, (values == 1) | (values == 4))
        assert not rasterise(of(PixelMap(path, (77,)))).any()


def test_a_pixel_map_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for value in (1, 2):
        Image.new("L", (12, 10 * value), value).save(path)
        assert (pixel_map(path) == value).all()


def test_a_broken_pixel_map_is_named(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    with pytest.raises(FileNotFoundError, match=r"map\.png"):
        rasterise(of(PixelMap(path, (1,))))
    Image.new("L", (10, 12)).save(path)
    with pytest.raises(ValueError, match=r"image 9, .*map\.png is 10 x 12 .* image 12 x 10"):
        rasterise(of(PixelMap(path, (1,))))
    Image.new("RGB", (12, 10)).save(path)
    with pytest.raises(ValueError, match=r"image 9, .*map\.png is of mode RGB"):
        rasterise(of(PixelMap(path, (1,))))
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (10, 12), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"image 9, .*map\.png is not a complete image"):
        rasterise(of(PixelMap(path, (1,))))


# --- real annotations -------------------------------------------------------------------------


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("coco_train2017/instances_train2017.json", {"polygons": 929, "list": 10}),
        ("cocostuff/stuff_examples.json", {"str": 17}),
    ],
)
def test_every_real_annotation_equals_pycocotools(
    inputs: Path, name: str, kinds: dict[str, int]
) -> None:
    """Polygons, crowd RLE and stuff RLE, pixel for pixel."""
    coco = COCO(inputs / name)
    found = dict.fromkeys(kinds, 0)
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        told = annotation["segmentation"]
        kind = "polygons" if isinstance(told, list) else type(told["counts"]).__name__
        drawn = rasterise(segments(told, width=image["width"], height=image["height"]))
        assert np.array_equal(drawn, coco.annToMask(annotation).astype(bool)), annotation["id"]
        found[kind] += 1
    assert found == kinds


@pytest.mark.inputs
def test_every_real_result_equals_pycocotools(inputs: Path) -> None:
    (path,) = (inputs / "coco_results").glob("*.json")
    results = json.loads(path.read_text())
    assert len(results) == 734
    for result in results:
        height, width = result["segmentation"]["size"]
        drawn = rasterise(segments(result["segmentation"], width=width, height=height))
        theirs = coco_mask.decode(result["segmentation"]).astype(bool)
        assert np.array_equal(drawn, theirs), result["image_id"]
