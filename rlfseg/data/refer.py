"""REFER's own files: RefCOCO, RefCOCO+ and G-Ref, over images of COCO's train2014.

    root/{refcoco,refcoco+,refcocog}/refs({unc,google,umd}).p    who is spoken of, and how
    root/{refcoco,refcoco+,refcocog}/instances.json              COCO's annotations
    root/images/mscoco/images/train2014/                         as REFER has it

The images may also lie in root/images/train2014/ or root/train2014/.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlfseg.data.files import ImageFile, check_there, coco_images, field, load_json
from rlfseg.data.safe_pickle import load
from rlfseg.data.sample import Sample, Segments

#: The partitions of each data set, the usual one first.
PARTITIONS = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
}
IMAGE_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "train2014")


def read(root: Path | str, dataset: str, split: str) -> Iterator[Sample]:
    """Read one split of the usual partition, a sample for each sentence, in the refs file's order.

    The caption is the sentence as REFER cleaned it (`sent`). The image file is the one that
    `instances.json` names: a ref's own `file_name` carries the annotation's id. Refs and
    annotations are read at once, so that a missing or broken file is reported by this call; image
    files are looked up one by one. A segmentation is taken as it is: `rasterise` checks it.

    Args:
        root: the folder that holds the data set's folder.
        dataset: refcoco, refcoco+ or refcocog.
        split: train, val, testA or testB; train, val or test for G-Ref.

    Returns:
        An iterator of samples; `ids` holds `ref_id`, `ann_id`, `sent_id`, `category_id` and the
        sentence as it was typed (`raw`).

    Raises:
        FileNotFoundError: if a folder, a file or an image is missing.
        ValueError: if the data set or split is unknown, if a file is incomplete or not of the
            expected form, if the pickle is refused (see `safe_pickle.load`), if refs and
            annotations don't fit each other, or if a file name leaves the folder of images.
    """
    root = Path(root)
    if dataset not in PARTITIONS:
        raise ValueError(f"unknown data set {dataset!r}: choose from {', '.join(PARTITIONS)}")
    pickle = root / dataset / f"refs({PARTITIONS[dataset][0]}).p"
    if not pickle.is_file():
        found = ", ".join(sorted(p.name for p in pickle.parent.glob("refs(*).p"))) or "none"
        raise FileNotFoundError(f"{pickle} is not there; partitions found beside it: {found}")
    instances = pickle.with_name("instances.json")
    if not instances.is_file():
        raise FileNotFoundError(f"{instances} is not there: it comes with {pickle.name}")
    folder = _image_folder(root)
    refs = load(pickle)
    if not isinstance(refs, list):
        raise ValueError(f"{pickle} holds a {type(refs).__name__}, not a list")
    splits = {
        field(ref, "split", str, f"{pickle}, ref number {number}"): None
        for number, ref in enumerate(refs)
    }
    if split not in splits:
        found = ", ".join(splits) or "none"
        raise ValueError(f"{pickle} has no split {split!r}; splits found: {found}")
    content = load_json(instances, dict)
    files = coco_images(content, folder=folder, where=str(instances))
    annotations = {
        field(entry, "id", int, f"{instances}, annotation number {number}"): entry
        for number, entry in enumerate(field(content, "annotations", list, str(instances)))
    }
    return _samples(pickle, refs, files, annotations, instances, split)


def _image_folder(root: Path) -> Path:
    choices = [root / name for name in IMAGE_FOLDERS]
    for folder in choices:
        if folder.is_dir():
            return folder
    looked = ", ".join(map(str, choices))
    raise FileNotFoundError(f"COCO's train2014 images are not there; looked for {looked}")


def _samples(
    pickle: Path,
    refs: list[Any],
    files: Mapping[int, ImageFile],
    annotations: Mapping[int, Any],
    instances: Path,
    split: str,
) -> Iterator[Sample]:
    seen: set[Path] = set()
    for number, ref in enumerate(refs):
        if ref["split"] != split:
            continue
        where = f"{pickle}, ref number {number}"
        ids = {key: field(ref, key, int, where) for key in ("ref_id", "ann_id", "category_id")}
        image_id = field(ref, "image_id", int, where)
        if ids["ann_id"] not in annotations:
            raise ValueError(f"{where}: ann_id {ids['ann_id']} is not in {instances}")
        if image_id not in files:
            raise ValueError(f"{where}: image_id {image_id} is not in {instances}")
        annotation, image = annotations[ids["ann_id"]], files[image_id]
        at = f"{instances}, annotation {ids['ann_id']}"
        other = field(annotation, "image_id", int, at)
        if other != image_id:
            raise ValueError(f"{where}: image_id is {image_id}, but {other} in {at}")
        check_there(image.path, seen, where)
        for place, sentence in enumerate(field(ref, "sentences", list, where)):
            spoken = f"{where}, sentence number {place}"
            yield Sample(
                image_id=str(image_id),
                image_path=image.path,
                caption=field(sentence, "sent", str, spoken),
                split=split,
                width=image.width,
                height=image.height,
                region=Segments((annotation.get("segmentation"),)),
                ids={
                    **ids,
                    "sent_id": field(sentence, "sent_id", int, spoken),
                    "raw": field(sentence, "raw", str, spoken),
                },
            )
