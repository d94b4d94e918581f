"""Write the mini world as COCO-Stuff, exact to the pixel: shapes are things, grounds are stuff.

    root/stuffthingmaps/{train2017,val2017}/{image id}.png    every pixel a class of MINI_CLASSES
    root/annotations/stuff_{train2017,val2017}.json           the ground; all things are "other"
    root/images/{train2017,val2017}/{image id}.jpg

The scenes are those of `write_phrasecut`'s train and val.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rlfseg.data.cocostuff_names import Label
from rlfseg.data.drawn.chunks import Chunk, box, encode, in_chunks, save_jpeg, write_json
from rlfseg.data.drawn.scene import GROUNDS, SHAPES

_FIRST_STUFF = 10  # raw values 7-9 belong to nothing, like the ids that COCO gave up
#: The mini world's own table, for the `classes` of the readers: things 0-6, stuff 10-14.
MINI_CLASSES = {number: Label(shape, shape) for number, shape in enumerate(SHAPES)} | {
    number: Label(f"{ground}-other", ground) for number, ground in enumerate(GROUNDS, _FIRST_STUFF)
}
_OTHER = _FIRST_STUFF + len(GROUNDS) + 1  # a category id: the first after those of the table
_FOLDERS = {"train": "train2017", "val": "val2017"}


def write_cocostuff(
    root: Path, *, seed: int, counts: Mapping[str, int], pixels: int, workers: int = 2
) -> None:
    """Draw the scenes and write maps, JSON and pictures.

    The result depends on `seed`, `counts` and `pixels` alone. Read it with `classes=MINI_CLASSES`.

    Args:
        root: the folder to write to.
        seed: as for `write_phrasecut`: the same seed gives the same pictures.
        counts: the number of scenes in train and val.
        pixels: side of the pictures.
        workers: processes that draw.

    Raises:
        ValueError: if `counts` names another split.
    """
    splits = in_chunks(
        _write, root, seed=seed, counts=counts, pixels=pixels, workers=workers, splits=_FOLDERS
    )
    for folder in (_FOLDERS[split] for split in counts):
        (root / "stuffthingmaps" / folder).mkdir(parents=True, exist_ok=True)
        (root / "images" / folder).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    categories = [
        {"supercategory": "ground", "id": raw + 1, "name": label.name}
        for raw, label in MINI_CLASSES.items()
        if raw >= _FIRST_STUFF
    ] + [{"supercategory": "other", "id": _OTHER, "name": "other"}]
    for split, parts in splits:
        content = {
            "images": [image for part in parts for image in part[0]],
            "annotations": [entry for part in parts for entry in part[1]],
            "categories": categories,
        }
        write_json(root / "annotations" / f"stuff_{_FOLDERS[split]}.json", content)


def _write(chunk: Chunk) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw some scenes; return their entries under `images` and `annotations`."""
    images, annotations = [], []
    folder = _FOLDERS[chunk.split]
    for image_id, scene, _ in chunk.scenes():
        name = f"{image_id:012d}"
        save_jpeg(scene, chunk.root / "images" / folder / f"{name}.jpg")
        ground = _FIRST_STUFF + GROUNDS.index(scene.ground)
        values = np.full(scene.image.shape[:2], ground, np.uint8)
        for thing in scene.things:
            values[thing.mask] = SHAPES.index(thing.shape)
        Image.fromarray(values).save(chunk.root / "stuffthingmaps" / folder / f"{name}.png")
        images.append(
            {
                "id": image_id,
                "file_name": f"{name}.jpg",
                "width": chunk.pixels,
                "height": chunk.pixels,
            }
        )
        parts = ((ground + 1, values == ground), (_OTHER, values != ground))
        annotations += [
            {
                "id": image_id * 2 + number,
                "image_id": image_id,
                "category_id": category,
                "segmentation": encode(mask),
                "area": int(mask.sum()),
                "bbox": box(mask),
                "iscrowd": 0,
            }
            for number, (category, mask) in enumerate(parts)
        ]
    return images, annotations
