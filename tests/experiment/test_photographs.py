"""Labels are refined on the photographs as they are, not on the square copies that are packed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_phrasecut import task
from tiny_run import with_sam

from rlfseg.data.packed.read import Pack
from rlfseg.experiment import Run, packed, photographs, predictor, refined, source_folder
from rlfseg.experiment.mask_records import read_records
from rlfseg.method.refinement import refine_shown

pytestmark = pytest.mark.integration

SIZES = {5: (60, 25), 11: (20, 44)}
SQUARE = [[4.0, 4.0], [15.0, 4.0], [15.0, 18.0], [4.0, 18.0]]
ROTATED = 6  # EXIF's orientation of a picture that lies on its side


@pytest.fixture(scope="module")
def run(repo: Path) -> Run:
    """A run on PhraseCut's files, of pictures that are no squares, one of them with a rotation."""
    root = repo / "cut"
    (root / "images").mkdir(parents=True)
    rng, table = np.random.default_rng(4), []
    for image_id, (width, height) in SIZES.items():
        exif = Image.Exif()
        exif[0x0112] = ROTATED if image_id == 11 else 1
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        image.save(root / "images" / f"{image_id}.jpg", exif=exif)
        table.append({"image_id": image_id, "width": width, "height": height})
    (root / "image_data_split.json").write_text(json.dumps(table))
    tasks = [
        task(image_id, place, phrase=phrase, Polygons=[[SQUARE[place:]]])
        for image_id in SIZES
        for place, phrase in enumerate(("box", "corner"))
    ]
    (root / "refer_val.json").write_text(json.dumps(tasks))
    whole = with_sam()
    return whole.on(replace(whole.data, source="cut"))


def test_sam_sees_each_photograph_as_it_is_stored(run: Run) -> None:
    sam, pack = predictor(run), packed(run, "val")
    folder = refined(run, "val")
    both = Pack(folder / "val.h5")
    records = read_records(folder / "relabel")
    squashed = []
    for number, image_id in enumerate(pack.image_ids):
        photograph = np.asarray(Image.open(f"cut/images/{image_id}.jpg"))  # not turned upright
        assert photograph.shape == (*SIZES[int(image_id)][::-1], 3)
        items = np.flatnonzero(pack.item_image == number).tolist()
        masks = [pack.masks(item)[0] for item in items]
        expected = refine_shown(photograph, masks, sam, run.refine)
        on_copies = refine_shown(pack.image(number), masks, sam, run.refine)
        for item, result, other in zip(items, expected, on_copies, strict=True):
            assert np.array_equal(both.masks(item)[2], result.mask)
            assert records[item].iou_original == result.iou_original
            squashed.append(np.array_equal(result.mask, other.mask))
    assert not all(squashed)  # it makes a difference


def test_photographs_that_are_gone_are_said_so(run: Run) -> None:
    packed(run, "val")
    again = replace(run, refine=replace(run.refine, anchors=3))
    picture = Path("cut/images/5.jpg")
    picture.rename("aside.jpg")
    with pytest.raises(FileNotFoundError, match=r"5\.jpg is not there, but .*fetch the image"):
        refined(again, "val")
    Path("aside.jpg").rename(picture)
    assert refined(again, "val").is_dir()


def test_pictures_of_the_packed_size_are_refined_as_drawn_ones_are(run: Run) -> None:
    """Drawn ones are packed as they are, so what is kept of them is what it was."""
    drawn = with_sam()
    assert drawn.refined_stage("val").version == 1 != run.refined_stage("val").version
    assert photographs(drawn, "val") is None
    shutil.copytree(source_folder(drawn), "drawn")
    outside = drawn.on(replace(drawn.data, source="drawn"))
    files = photographs(outside, "val")
    assert files is not None and set(files) == set(packed(outside, "val").image_ids)
    theirs, ours = (Pack(refined(each, "val") / "val.h5") for each in (drawn, outside))
    assert len(ours) == len(theirs) > 0
    for item in range(len(ours)):
        assert np.array_equal(ours.masks(item)[2], theirs.masks(item)[2])
