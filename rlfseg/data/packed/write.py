"""Write a packed file (A.3.2) from a stream of examples, with worker processes and one writer.

Workers turn chunks of examples into shards; the writer copies finished shards, in order, into a
draft, which becomes the packed file when it is complete. Shards are kept until then: while it
works, this takes twice the file's space and writes each byte twice, and for that it can be killed
at any point, and the next run of the same takes up all finished shards, at the speed of a copy.
A shard takes no `fsync`: after a power cut, unlike after a kill, run `Pack.validate`.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from rlfseg.data.packed.index import Index, Texts
from rlfseg.data.packed.prepare import Example, LeftOut
from rlfseg.data.packed.schema import (
    PackError,
    content_hash,
    index_path,
    next_index_path,
    report_path,
)
from rlfseg.data.packed.shard import Packed, append, chunks, make_shard
from rlfseg.data.packed.store import created, sign, writing
from rlfseg.data.packed.workers import ordered_map


@dataclass(frozen=True)
class PackReport:
    """What was written; also beside the file, as `{file}.report.json`.

    Attributes:
        images: number of images.
        phrases: number of items, after merging.
        merged: number of examples that were united with an earlier one of the same caption.
        left_out: the phrases that were not packed, because their annotation can't be drawn, marks
            nothing, or nothing that is left at this size.
        images_left_out: number of images that were not packed, because no phrase of theirs was.
        content_hash: SHA-256 of the decoded content, also in the file's attributes.
        bytes: size of the HDF5 file.
    """

    images: int
    phrases: int
    merged: int
    left_out: tuple[LeftOut, ...]
    images_left_out: int
    content_hash: str
    bytes: int


@dataclass
class _Tally:
    """What the shards say, gathered as they are copied; texts and digests only, no pixels."""

    image_ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    first: list[int] = field(default_factory=lambda: [0])
    digests: list[bytes] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    merged: int = 0
    images_left_out: int = 0

    def add(self, image: Packed) -> None:
        self.merged += image.merged
        self.left_out += image.left_out
        if not image.captions:
            self.images_left_out += 1
            return
        self.image_ids.append(image.image_id)
        self.captions += image.captions
        self.first.append(len(self.captions))
        self.digests.append(bytes.fromhex(image.digest))


def write_pack(
    examples: Iterable[Example], path: Path | str, *, size: int | None, workers: int = 0
) -> PackReport:
    """Pack examples into one HDF5 file and its index, in memory that doesn't grow with pixels.

    Where several examples of an image have the same caption and the same `item`, their masks are
    united, their exact masks too, and their ids are joined; the report counts them. A phrase whose
    mask is empty, or becomes so by resizing, is left out and listed in the report; so is one of
    which an annotation can't be drawn (`AnnotationError`), or whose caption no file can keep.

    A run that was interrupted is taken up by the same call again (see `shard.fingerprint` for what
    "same" covers), and the content is what an uninterrupted run would have written. An earlier
    file of this name stays whole until the new one takes its place.

    Deviation: the paper gives 512 x 512 and not how it gets there. Both sides are scaled to `size`
    without regard to the aspect; the image by antialiased bilinear, masks by nearest neighbour.

    Args:
        examples: at least one; the examples of an image one after another.
        path: the file to write; it and its index appear only when complete.
        size: side of the stored images and masks in pixels; None keeps each image's own.
        workers: processes that load, draw, resize and compress; 0 does it all in this one.

    Raises:
        ValueError: if an example can't be stored: see `Example` and `key_of`; if a mask and its
            image differ in size; if an image returns after another; if there is nothing to pack.
        PackError: if an image file can't be read, a file can't be written, a worker was killed, or
            another process is packing the same file.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size}; it must be at least 1 pixel, or None")
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 or more")
    path = Path(path).absolute()
    with _workplace(path) as part, ordered_map(workers) as run:
        make = partial(make_shard, folder=part, size=size)
        return _merge(run(make, chunks(examples)), part, path)


def make_shards(
    examples: Iterable[Example],
    path: Path | str,
    *,
    size: int | None,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Make one process's share of the shards that `write_pack` finds and puts together.

    Several processes may do it at once, but none of them while one writes the packed file.

    Args:
        examples: as for `write_pack`, as the next three.
        path: the file that is to be written.
        size: side of the stored images and masks in pixels.
        workers: processes that this one starts.
        share: this process's number and how many there are.

    Raises:
        ValueError, PackError: as `write_pack`.
    """
    part, (rank, world) = _part(Path(path).absolute()), share
    with writing(part):
        part.mkdir(parents=True, exist_ok=True)
    own = (chunk for chunk in chunks(examples) if chunk.number % world == rank)
    title = f"making shards of {Path(path).name}"
    with ordered_map(workers) as run, tqdm(desc=title, leave=False, disable=rank > 0) as bar:
        for _ in run(partial(make_shard, folder=part, size=size), own):
            bar.update()


def _part(path: Path) -> Path:
    """The folder of what is not finished of a packed file."""
    return path.with_name(f".{path.name}.part")


def _merge(shards: Iterable[Path], part: Path, path: Path) -> PackReport:
    """Copy the shards into a draft and put it in the place of the packed file."""
    draft = part / "draft.tmp"
    tally = _Tally()
    with created(draft) as file, tqdm(desc=f"packing {path.name}", unit="img", leave=False) as bar:
        for shard in shards:
            try:
                with writing(draft):
                    images = append(shard, file)
            except PackError:
                shard.unlink(missing_ok=True)  # perhaps it is the shard that is broken
                raise
            for image in images:
                tally.add(image)
            bar.update(len(images))
        if not tally.captions:
            why = next((f": {each.why}" for each in tally.left_out if each.why), "")
            raise ValueError(f"no record to pack into {path}, {len(tally.left_out)} left out{why}")
        content = content_hash(tally.digests)
        with writing(draft):
            sign(file, content)
    with writing(path):
        report = PackReport(
            images=len(tally.image_ids),
            phrases=len(tally.captions),
            merged=tally.merged,
            left_out=tuple(tally.left_out),
            images_left_out=tally.images_left_out,
            content_hash=content,
            bytes=draft.stat().st_size,
        )
        _finish(draft, path, _index(tally, content), report)
    return report


def _index(tally: _Tally, content: str) -> Index:
    first = np.array(tally.first, np.int64)
    return Index(content, Texts.of(tally.image_ids), Texts.of(tally.captions), first)


def _finish(draft: Path, path: Path, index: Index, report: PackReport) -> None:
    """Rename what is complete; between any two steps, file and index that lie there agree.

    A new index first waits beside the earlier one, and a reader takes the one that fits the file.
    """
    index.save(draft.with_name("index.npz"))
    draft.with_name("report.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    os.replace(draft.with_name("index.npz"), next_index_path(path))
    os.replace(draft, path)
    os.replace(next_index_path(path), index_path(path))
    os.replace(draft.with_name("report.json"), report_path(path))


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Give the folder for what is not finished; on failure it is kept if it has a shard."""
    part = _part(path)
    with writing(path.parent):
        part.mkdir(parents=True, exist_ok=True)
        lock = (part / "lock").open("w")
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise PackError(f"{path} is being packed by another process") from error
            raise  # where files can't be locked, two would write at once
        for leftover in part.glob("*.tmp"):
            leftover.unlink()
        try:
            yield part
        except BaseException:
            if not any(part.glob("*.h5")):
                shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(part, ignore_errors=True)
