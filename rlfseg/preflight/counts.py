"""How many pictures and phrases the data of a profile have."""

from functools import cache

from rlfseg.config import DataConfig
from rlfseg.data.catalogue import DATASETS, read
from rlfseg.data.check import phrasecut, refer
from rlfseg.data.cocostuff import map_files
from rlfseg.stage import repository

_A_PICTURE = 4  # phrases of a picture, drawn or not, about
_AN_IMAGE = 8  # classes of a picture of COCO-Stuff, about
_COCO = {"train": 118_287, "val": 5_000}  # pictures
_SENTENCES = 2.84  # of a reference in REFER's sets, about


def phrases(data: DataConfig, split: str) -> int:
    """Return how many phrases a split has: those there, else as published or about so many."""
    if data.source == "mini":
        return _A_PICTURE * pictures(data, split)
    if there := _there(data.source, data.dataset, split):
        return there[1]
    if data.dataset == "phrasecut":
        return phrasecut.PUBLISHED[split][0][1]
    if data.dataset == "cocostuff":
        return _AN_IMAGE * _COCO[split]
    partition = "umd" if data.dataset == "refcocog" else "unc"
    return round(_SENTENCES * refer.PUBLISHED[data.dataset, partition][split])


def pictures(data: DataConfig, split: str) -> int:
    """Return how many pictures a split has, likewise."""
    if data.source == "mini":
        shared = split in ("testA", "testB")  # by the test scenes
        return (data.test + 1) // 2 if shared else int(getattr(data, split))
    if there := _there(data.source, data.dataset, split):
        return there[0]
    if data.dataset == "phrasecut":
        return phrasecut.PUBLISHED[split][0][0]
    return _COCO[split] if data.dataset == "cocostuff" else phrases(data, split) // _A_PICTURE


@cache
def _there(source: str, dataset: str, split: str) -> tuple[int, int] | None:
    """Pictures and phrases in a data set's own files; None if they can't be read as a whole.

    COCO-Stuff's maps are counted and not opened; of a split that is not there, or whose images are
    not, there are none.
    """
    root = repository() / source
    name = next(n for n in DATASETS[dataset].splits if n.removesuffix("2017") == split)
    if dataset == "cocostuff":
        try:
            maps = len(map_files(root, name)[0])
        except FileNotFoundError:
            return (0, 0) if root.is_dir() else None
        return maps, _AN_IMAGE * maps
    try:
        images = [sample.image_id for sample in read(dataset, root, name)]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return (len(set(images)), len(images)) if images else None
