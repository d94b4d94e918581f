"""Add refined masks to a packed file: a copy with them takes the file's place when complete."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5g, h5o

from rlfseg.data.packed.read import Pack, opened, undamaged
from rlfseg.data.packed.schema import (
    IMAGE,
    MASK,
    REFINED,
    TRUTH,
    PackError,
    key_of,
    keys_of,
    text_of,
)
from rlfseg.data.packed.store import created, put_group, put_mask, put_text, sign, writing

_MADE_OF = "refined_by"


def add_refined(
    pack: Pack, masks: Iterable[np.ndarray], *, made_of: str, target: Path | None = None
) -> None:
    """Write `mask_refined` beside `mask`, with the same keys, for every item.

    The file is copied and the copy put in its place, so that an interruption at any point leaves
    the file as it was, or as it is to be; meanwhile this takes its space once more. Refined masks
    that it had before are replaced. Index and content hash stay as they are, since neither covers
    refined masks; who has the file open goes on reading it without them.

    Args:
        pack: the packed file.
        masks: bool [H, W], one for each item, in the items' order.
        made_of: identifies how they were made; `refined_by` returns it.
        target: the file that the copy becomes; None for the packed file itself.

    Raises:
        PackError: if the file can't be read, the copy not be written, or masks and items don't
            agree in number or size.
    """
    target = target or pack.path
    draft = target.with_name(f".{target.name}.refined.tmp")
    coming = iter(masks)
    with opened(pack.path) as source, created(draft) as file:
        sign(file, pack.content_hash)
        put_text(file.id, _MADE_OF, made_of)
        for number, image_id in enumerate(pack.image_ids):
            group = key_of(image_id, what="image id")
            where = f"{pack.path}: {group}"
            with undamaged(where):
                whole = source[group]
                shape = whole[IMAGE].shape[:2]
            with _copying(whole, where, draft):
                place = _copied(whole, put_group(file.id, group), image_id)
            captions = pack.captions(image_id)
            for key, caption in zip(keys_of(captions), captions, strict=True):
                mask = next(coming, None)
                if mask is None or mask.shape != shape:
                    raise PackError(
                        f"{pack.path}: image {number} ({image_id!r}), caption {caption!r:.80} has "
                        f"no refined mask of its size: got {None if mask is None else mask.shape}"
                    )
                bits = np.ascontiguousarray(mask, np.bool_).view(np.uint8)
                with writing(draft):
                    put_mask(place, key, caption, bits)
        if next(coming, None) is not None:
            raise PackError(f"{pack.path} has {len(pack)} items, and there are more refined masks")
    with writing(target):
        os.replace(draft, target)
    pack.close()


def refined_by(path: Path) -> str | None:
    """Return how a packed file's refined masks were made; None if it has none.

    Raises:
        PackError: if it can't be read.
    """
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            made_of = file.attrs.get(_MADE_OF)
        return None if made_of is None else text_of(made_of)
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"{path} can't be read ({error}): copy it again, or pack again") from error


@contextmanager
def _copying(whole: h5py.Group, where: str, draft: Path) -> Iterator[None]:
    """Name the source or the draft, whichever a copy fails of: HDF5 reads and writes in one."""
    try:
        with writing(draft):
            yield
    except PackError:
        with undamaged(where):
            whole.visititems(lambda _, each: None)  # opens everything in it
        raise


def _copied(whole: h5py.Group, group: h5g.GroupID, image_id: str) -> h5g.GroupID:
    """Copy an image's group without refined masks, compressed as it is.

    Returns:
        The group that refined masks go to.
    """
    put_text(group, "image_id", image_id)
    for name in (IMAGE, MASK, TRUTH):
        if name in whole:
            h5o.copy(whole.id, name.encode(), group, name.encode())
    return put_group(group, REFINED)
