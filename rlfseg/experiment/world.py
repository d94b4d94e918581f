"""The mini world in the files of any data set, drawn once."""

from __future__ import annotations

from pathlib import Path

from rlfseg.data.drawn.write_cocostuff import write_cocostuff
from rlfseg.data.drawn.write_phrasecut import write_phrasecut
from rlfseg.data.drawn.write_refer import write_refer
from rlfseg.stage import Stage, repository, run


def data_folder(dataset: str, given: str, *, scenes: int, pixels: int, profile: str) -> Path:
    """Where a data set's files are: the given folder, or drawn scenes.

    Args:
        dataset: a name of `catalogue.DATASETS`; RefCOCO, RefCOCO+ and G-Ref share a folder.
        given: `mini`, or a folder, absolute or from the repository's root.
        scenes: how many to draw for each split.
        pixels: side of the drawn scenes.
        profile: whose artefacts they are.

    Raises:
        FileNotFoundError: if the given folder is not there.
    """
    if given != "mini":
        folder = repository() / given
        if not folder.is_dir():
            raise FileNotFoundError(f"{dataset}: {folder} is no folder: give its files', or 'mini'")
        return folder
    family = dataset if dataset in ("phrasecut", "cocostuff") else "refer"
    splits = ("train", "val") if family == "cocostuff" else ("train", "val", "test")
    counts = dict.fromkeys(splits, scenes)
    write = {"phrasecut": write_phrasecut, "refer": write_refer, "cocostuff": write_cocostuff}

    def make(folder: Path) -> None:
        write[family](folder, seed=0, counts=counts, pixels=pixels)

    stage = Stage(f"world-{family}", 1, {"seed": 0, "counts": counts, "pixels": pixels})
    return run(stage, make, profile=profile)
