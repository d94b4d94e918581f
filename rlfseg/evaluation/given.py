"""Predictions that another program made, a file for each item, and their counts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch.nn import functional
from tqdm.auto import tqdm

from rlfseg.data.images import DAMAGE, bounded
from rlfseg.data.packed.read import Pack
from rlfseg.evaluation.counting import count
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.score import Evaluation
from rlfseg.evaluation.sizes import at_size
from rlfseg.method.types import Score

SUFFIXES = (".png", ".npy")
_FULL = {"1": 1, "L": 255, "I;16": 65535}  # what is 1, by Pillow's mode
_FAR = 2.0  # from 0.5: no probability lies there, and no decoded mask, but logits do


def read_prediction(path: Path) -> np.ndarray:
    """Read one score map, float32 [h, w]: 0 background, 1 foreground.

    Args:
        path: a grey PNG of 8 or 16 bits, whose whole range is 0 to 1, or a NumPy array of floats.

    Raises:
        ValueError: naming the file, if it is neither, damaged, of another shape or type, or if its
            values are no scores.
    """
    try:
        scores = _from_array(path) if path.suffix == ".npy" else _from_png(path)
    except (*DAMAGE, TokenError) as error:
        raise ValueError(f"{path} is no prediction: {' '.join(str(error).split())}") from error
    if not np.isfinite(scores).all() or np.abs(scores - 0.5).max() > _FAR:
        raise ValueError(
            f"{path} is no prediction: its values go from {scores.min():.3g} to "
            f"{scores.max():.3g}; scores lie between 0 and 1 (of logits, take the sigmoid)"
        )
    return scores


def _from_array(path: Path) -> np.ndarray:
    with path.open("rb") as file:  # a header of the second kind tells its own length
        head, size = file.read(12), path.stat().st_size
    if head[6:7] > b"\x01" and int.from_bytes(head[8:], "little") > size:
        raise ValueError(f"its header claims more than the file's {size} bytes")
    array = np.load(path, mmap_mode="r", allow_pickle=False)  # no larger than its file
    floats = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim == 2
    if not floats or not array.size:
        kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "no array"
        raise ValueError(f"it holds {kind}; it must be floats [height, width]")
    return array.astype(np.float32)


def _from_png(path: Path) -> np.ndarray:
    with bounded(path, formats=("PNG",)) as picture:
        if picture.mode not in _FULL:
            raise ValueError(f"it is of mode {picture.mode}; it must be grey, of 8 or 16 bits")
        full, values = _FULL[picture.mode], np.asarray(picture)
    if full > 1 and values.max() == 1:
        raise ValueError(f"it holds 0 and 1 of {full}; a mask is 0 and {full}")
    return values.astype(np.float32) / np.float32(full)


def resized(scores: np.ndarray, height: int, width: int) -> Score:
    """Bring a prediction to [1, height, width]: a mask of 0 and 1 by its nearest pixel, else as
    `at_size` does.
    """
    given = torch.from_numpy(scores)[None]
    if given.shape[-2:] != (height, width) and bool(((given == 0) | (given == 1)).all()):
        return functional.interpolate(given[None], (height, width), mode="nearest-exact")[0]
    return at_size(given, height, width)


def count_given(
    folder: Path,
    names: Sequence[str],
    pack: Pack,
    *,
    native: Callable[[int], np.ndarray] | None = None,
) -> Evaluation:
    """Count the predictions of a folder as scores of our own are counted.

    A prediction is a square, of the picture squashed to one as packed pictures are, or has the
    photograph's own size.

    Args:
        folder: holds `<name>.png` or `<name>.npy` for each item.
        names: of all items of the packed file, in order.
        pack: the packed file.
        native: gives an item's annotation at its photograph's own size, bool [H, W], against which
            it is then counted too.

    Raises:
        FileNotFoundError: if the folder or a prediction is missing.
        ValueError: naming a file that is no prediction, has another size, or is there twice.
    """
    paths, annotation, photographs = _paths(folder, names), [], []
    for item, path in enumerate(tqdm(paths, desc="counting", leave=False)):
        scores, mask = read_prediction(path), pack.annotation(item)
        own = mask if native is None else native(item)
        if scores.shape[0] != scores.shape[1] and scores.shape != own.shape:
            size, wanted = (f"{each.shape[1]} x {each.shape[0]}" for each in (scores, own))
            raise ValueError(f"{path} is {size}; it must be square, or {wanted} as its photograph")
        image_id = [pack.image_ids[pack.item_image[item]]]
        annotation.append(_counted(scores, mask, image_id))
        if native is not None:
            photographs.append(_counted(scores, own, image_id))
    large = Counts.concatenate(photographs) if photographs else None
    return Evaluation(Counts.concatenate(annotation), native=large)


def _counted(scores: np.ndarray, mask: np.ndarray, image_id: Sequence[str]) -> Counts:
    return count(resized(scores, *mask.shape), torch.from_numpy(mask)[None], image_id)


def _paths(folder: Path, names: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of predictions")
    found: list[Path] = []
    missing = []
    for name in names:
        there = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
        if len(there) > 1:
            raise ValueError(f"{folder}: {name} is there twice, as .png and as .npy: remove one")
        found += there
        missing += [] if there else [name]
    if missing:
        some = ", ".join(f"{name}.png" for name in missing[:3])
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(names)} predictions are missing, such as {some} (or "
            ".npy); what nothing is predicted for needs a mask of zeros"
        )
    return found
