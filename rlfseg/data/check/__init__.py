"""Say, before hours of work, what of a data set is on disk against what should be."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rlfseg.data.catalogue import DATASETS, REFERRING
from rlfseg.data.check import cocostuff, phrasecut, refer
from rlfseg.data.check.report import Line, Report

__all__ = ["DATASETS", "Line", "Report", "check"]


def check(
    dataset: str,
    root: Path | str,
    *,
    official: bool | None = None,
    coco_ids: Sequence[Path | str] = (),
) -> Report:
    """Compare a data set's folder with what is expected of it, without decoding the images.

    Read are the annotations as a whole, of image files the header and the end, and of COCO-Stuff's
    maps a sample's pixels. What is missing or broken becomes a line of the report, and the rest
    is checked all the same.

    Args:
        dataset: one of `DATASETS`.
        root: the folder that the data set's reader takes.
        official: whether the counts should be the published ones; False for the mini world, True
            for any other, None finds out by what only the mini world has.
        coco_ids: for PhraseCut: files that name COCO images, to count the images PhraseCut shares
            with them. COCO's JSON (`images`), or REFER's `refs(*.p)`, counted by its splits.

    Returns:
        The report; `report.ok` is False if there is any problem.

    Raises:
        NotADirectoryError: if `root` is no folder.
        ValueError: if the data set is unknown, or is given `coco_ids` and is not PhraseCut.
    """
    root = Path(root)
    if dataset not in DATASETS:
        raise ValueError(f"unknown data set {dataset!r}: choose from {', '.join(DATASETS)}")
    if coco_ids and dataset != "phrasecut":
        raise ValueError(f"coco_ids are compared with PhraseCut's images only, not {dataset}'s")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder: pass the one that holds {dataset}")
    lines: Iterator[Line]
    if dataset == "phrasecut":
        lines = phrasecut.lines(root, official=official, coco_ids=[Path(p) for p in coco_ids])
    elif dataset == "cocostuff":
        lines = cocostuff.lines(root, official=official)
    else:
        assert dataset in REFERRING, f"{dataset} has no check here"
        lines = refer.lines(root, dataset, official=official)
    return Report(dataset, str(root), tuple(lines))
