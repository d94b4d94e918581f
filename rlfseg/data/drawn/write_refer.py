"""Write the mini world as RefCOCO, RefCOCO+ and G-Ref, in the files that `refer` reads.

    root/{refcoco,refcoco+}/refs(unc).p, root/refcocog/refs(umd).p, root/.../instances.json
    root/images/mscoco/images/train2014/COCO_train2014_{image id}.jpg

The scenes are those of `write_phrasecut`. RefCOCO's two test sets part by what is in the picture,
people or not; here testA are the test scenes with a circle, testB those without. G-Ref has one
test set. Annotations are as coarse as PhraseCut's; those of small things are kept as RLE.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from rlfseg.data.drawn.chunks import Chunk, as_json, box, in_chunks, save_jpeg, write_json
from rlfseg.data.drawn.expressions import expressions
from rlfseg.data.drawn.scene import SHAPES, Scene, Thing
from rlfseg.data.drawn.write_phrasecut import annotate
from rlfseg.data.refer import IMAGE_FOLDERS, PARTITIONS
from rlfseg.stage import replaced


def write_refer(
    root: Path, *, seed: int, counts: Mapping[str, int], pixels: int, workers: int = 2
) -> None:
    """Draw the scenes and write the three data sets over one folder of images.

    The result depends on `seed`, `counts` and `pixels` alone. A thing that no sentence singles
    out has an annotation and no ref.

    Args:
        root: the folder to write to.
        seed: as for `write_phrasecut`: the same seed gives the same pictures.
        counts: the number of scenes in train, val and test.
        pixels: side of the pictures.
        workers: processes that draw.

    Raises:
        ValueError: if `counts` names another split.
    """
    splits = in_chunks(_write, root, seed=seed, counts=counts, pixels=pixels, workers=workers)
    (root / IMAGE_FOLDERS[0]).mkdir(parents=True, exist_ok=True)
    pictures = [picture for _, parts in splits for part in parts for picture in part]
    instances = {
        "images": [picture["image"] for picture in pictures],
        "annotations": [entry for picture in pictures for entry in picture["annotations"]],
        "categories": [
            {"id": number, "name": shape, "supercategory": "shape"}
            for number, shape in enumerate(SHAPES, 1)
        ],
    }
    for dataset, partitions in PARTITIONS.items():
        refs = [ref for picture in pictures for ref in picture["refs"][dataset]]
        (root / dataset).mkdir(exist_ok=True)
        write_json(root / dataset / "instances.json", instances)
        _write_pickle(root / dataset / f"refs({partitions[0]}).p", refs)


def _write_pickle(path: Path, content: object) -> None:
    """Write a pickle whose bytes depend on the content alone, not on which texts share memory."""
    with replaced(path) as draft:
        draft.write_bytes(pickle.dumps(json.loads(json.dumps(content)), protocol=2))


def _write(chunk: Chunk) -> list[dict[str, Any]]:
    """Draw some scenes; return for each its image, its annotations and the refs to them."""
    pictures = []
    for image_id, scene, rng in chunk.scenes():
        name = f"COCO_train2014_{image_id:012d}"
        save_jpeg(scene, chunk.root / IMAGE_FOLDERS[0] / f"{name}.jpg")
        annotations = [
            _annotation(rng, thing, image_id, number) for number, thing in enumerate(scene.things)
        ]
        refs = {
            dataset: [
                _ref(said, annotation, name, _split(dataset, chunk.split, scene))
                for said, annotation in zip(
                    expressions(rng, scene, dataset), annotations, strict=True
                )
                if said
            ]
            for dataset in PARTITIONS
        }
        image = {
            "id": image_id,
            "file_name": f"{name}.jpg",
            "width": chunk.pixels,
            "height": chunk.pixels,
        }
        pictures.append({"image": image, "annotations": annotations, "refs": refs})
    return pictures


def _split(dataset: str, split: str, scene: Scene) -> str:
    if split != "test" or dataset == "refcocog":
        return split
    return "testA" if any(thing.shape == "circle" for thing in scene.things) else "testB"


def _annotation(
    rng: np.random.Generator, thing: Thing, image_id: int, number: int
) -> dict[str, Any]:
    """Make one entry of `instances.json`."""
    outlines = annotate(rng, thing.mask)
    segmentation: Any = [[c for point in outline for c in point] for outline in outlines]
    if thing.size == "small":
        segmentation = as_json(coco.merge(coco.frPyObjects(segmentation, *thing.mask.shape)))
    return {
        "id": image_id * 10 + number,
        "image_id": image_id,
        "category_id": SHAPES.index(thing.shape) + 1,
        "segmentation": segmentation,
        "area": int(thing.mask.sum()),
        "bbox": box(thing.mask),
        "iscrowd": 0,
    }


def _ref(said: list[str], annotation: Mapping[str, Any], name: str, split: str) -> dict[str, Any]:
    """Make one entry of the refs: an object and the sentences about it."""
    ann_id = annotation["id"]
    sentences = [
        {
            "sent_id": ann_id * 10 + place,
            "sent": sentence,
            "raw": f"{sentence.capitalize()}.",
            "tokens": sentence.split(),
        }
        for place, sentence in enumerate(said)
    ]
    return {
        "ref_id": ann_id,
        "ann_id": ann_id,
        "category_id": annotation["category_id"],
        "image_id": annotation["image_id"],
        "file_name": f"{name}_{ann_id}.jpg",  # as RefCOCO's: not the name of a file
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }
