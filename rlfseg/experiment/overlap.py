"""What zero-shot isn't: pictures of other data that a run was trained on."""

from functools import lru_cache
from pathlib import Path

from rlfseg.config import DataConfig
from rlfseg.data import phrasecut
from rlfseg.experiment.packing import packed, source_folder
from rlfseg.experiment.run import Run
from rlfseg.stage import found


def shared_images(run: Run, on: DataConfig | None, split: str) -> str:
    """Say how many pictures of other data's split a run on PhraseCut was trained on.

    PhraseCut's pictures are Visual Genome's, some of which are COCO's too, and so in RefCOCO,
    RefCOCO+, G-Ref and COCO-Stuff. Its table of images names them.

    Args:
        run: what was trained.
        on: the other data; None for the run's own.
        split: of these.

    Returns:
        A line for below a table; nothing for the run's own data, for drawn ones, which share no
        picture, and where the split isn't packed. Nothing is packed for it.
    """
    other = run.on(on)
    if on is None or run.data.dataset != "phrasecut" or not other.photographed:
        return ""
    if found(other.packed_stage(split), profile=run.profile) is None:
        return ""
    try:
        known = _trained_on(source_folder(run))
    except FileNotFoundError as error:  # whoever was given the weights needn't have PhraseCut
        return f"shared pictures not counted: {error}"
    if known is None:
        return "shared pictures not counted: PhraseCut's table of images has no coco_id"
    asked = packed(other, split).image_ids
    both = sum(each.isdecimal() and int(each) in known for each in asked)
    return f"{both:,} of {len(asked):,} pictures are in PhraseCut's training split too"


@lru_cache(maxsize=1)
def _trained_on(root: Path) -> frozenset[int] | None:
    return phrasecut.coco_ids(root, "train")
