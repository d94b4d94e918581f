"""The data sets by name: titles, homes, splits, and one way to read any of them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlfseg.data import cocostuff, phrasecut, refer
from rlfseg.data.cocostuff_names import COCO_STUFF, Label
from rlfseg.data.sample import Sample


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set without its files.

    Attributes:
        title: the name in print.
        home: where its authors hand it out.
        splits: the names of its splits.
    """

    title: str
    home: str
    splits: tuple[str, ...]


#: Whose items are sentences, each about the object of its ref.
REFERRING = ("refcoco", "refcoco+", "refcocog")
_REFER = "https://github.com/lichengunc/refer"
DATASETS = {
    "phrasecut": DataSet(
        "PhraseCut",
        "https://github.com/ChenyunWu/PhraseCutDataset",
        ("train", "val", "test", "miniv"),
    ),
    "refcoco": DataSet("RefCOCO", _REFER, ("train", "val", "testA", "testB")),
    "refcoco+": DataSet("RefCOCO+", _REFER, ("train", "val", "testA", "testB")),
    "refcocog": DataSet("G-Ref", _REFER, ("train", "val", "test")),
    "cocostuff": DataSet(
        "COCO-Stuff", "https://github.com/nightrome/cocostuff", ("train2017", "val2017")
    ),
}


def read(
    dataset: str,
    root: Path | str,
    split: str,
    *,
    classes: Mapping[int, Label] = COCO_STUFF,
    leave_out: Collection[str] = (),
) -> Iterator[Sample]:
    """Read one split of any data set, in the partition and form that papers report.

    These are UNC's partition of RefCOCO and RefCOCO+, UMD's of G-Ref, and COCO-Stuff's pixel maps.

    Args:
        dataset: one of `DATASETS`.
        root: the folder that the data set's own reader takes.
        split: one of the data set's splits.
        classes: COCO-Stuff's table of classes; the mini world has its own.
        leave_out: ids of PhraseCut's images to pass over.

    Raises:
        ValueError: if the data set is unknown, and as its reader does.
        FileNotFoundError: as its reader does.
    """
    if dataset not in DATASETS:
        raise ValueError(f"unknown data set {dataset!r}: choose from {', '.join(DATASETS)}")
    if dataset == "phrasecut":
        return phrasecut.read(root, split, leave_out=leave_out)
    if dataset == "cocostuff":
        return cocostuff.read_maps(root, split, classes=classes)
    assert dataset in REFERRING, f"{dataset} has no reader here"
    return refer.read(root, dataset, split)
