"""How fast, how large, how flat: packing drawn scenes at 512 x 512, beside bare JPEG decoding.

    python benchmarks/pack.py

Everything is measured in one run, on one machine, in one process unless it says otherwise; rates
are the best of three. Scenes are drawn once, and used again under other ids where more are needed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import re
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
from PIL import Image

import rlfseg  # noqa: F401  (first, before anything that imports torchvision)
from rlfseg.data.drawn.write_phrasecut import write_phrasecut
from rlfseg.data.masks import rasterise
from rlfseg.data.packed.index import Index, Texts
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.schema import FORMAT, VERSION, index_path
from rlfseg.data.packed.shard import Chunk, append, chunks, make_shard
from rlfseg.data.packed.store import compress, created
from rlfseg.data.packed.write import write_pack
from rlfseg.data.phrasecut import read
from rlfseg.data.sample import Sample, by_image

PIXELS = 512
SCENES = 96
MEMORY = (1000, 20_000)  # images; below the first, caches of HDF5 still fill
INDEX = (70_000, 310_000)  # images, phrases
READS = 300


def examples(root: Path, images: int) -> Iterator[Example]:
    """The scenes again and again under new ids, as a data set without exact masks."""
    groups = [list(g) for _, g in itertools.groupby(_samples(root), lambda s: s.image_id)]
    for number, group in zip(range(images), itertools.cycle(groups), strict=False):
        for s in group:
            mask = partial(rasterise, s)
            yield Example(f"{number}", s.image_path, s.caption, mask, ids=(s.ids["task_id"],))


def _samples(root: Path) -> Iterator[Sample]:
    return by_image(read(root, "train"))


def seconds(work: Callable[[], object]) -> float:
    """The best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def decode(files: list[Path]) -> None:
    """What no packer can do without: each file once, to an array."""
    for file in files:
        with Image.open(file) as image:
            np.asarray(image)


def drawn(example: Example) -> np.ndarray:
    """Its mask, as bytes."""
    assert callable(example.mask)
    return np.ascontiguousarray(example.mask()).view(np.uint8)


def make_shards(some: list[Chunk], folder: Path) -> list[Path]:
    """A worker's part, from nothing."""
    for earlier in folder.glob("*.h5"):
        earlier.unlink()
    return [make_shard(chunk, folder=folder, size=PIXELS) for chunk in some]


def join(shards: list[Path], path: Path) -> None:
    """The writer's part."""
    with created(path) as file:
        for shard in shards:
            append(shard, file)


def least(some: list[Chunk], path: Path) -> None:
    """Decodes, draws, compresses, writes bytes; no names, no hashes, no HDF5, no checks."""
    with path.open("wb") as out:
        for _, group in (image for chunk in some for image in chunk.images):
            assert isinstance(group[0].image, Path)
            with Image.open(group[0].image) as image:
                out.write(np.asarray(image).data)
            for example in group:
                out.write(compress(drawn(example)))


def compressing(some: list[Chunk]) -> tuple[float, float]:
    """Milliseconds to compress a mask: our stream, put together, and zlib's own."""
    examples = [example for chunk in some for _, group in chunk.images for example in group]
    masks = [drawn(example) for example in examples]
    ours = seconds(lambda: [compress(mask) for mask in masks])
    plain = seconds(lambda: [zlib.compress(mask.data, 1) for mask in masks])
    return ours / len(masks) * 1e3, plain / len(masks) * 1e3


def peak_memory(root: Path, images: int, folder: Path, answer: Any) -> None:
    """Packs in a fresh process and tells its highest memory in MB (Linux)."""
    write_pack(examples(root, images), folder / "memory.h5", size=PIXELS)
    status = Path("/proc/self/status").read_text()
    answer.put(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1e3)


def memory(root: Path, images: int, folder: Path) -> float:
    """The peak of a fresh process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=peak_memory, args=(root, images, folder, answer))
    process.start()
    process.join()
    return answer.get()


def artificial(path: Path) -> None:
    """A file without images and an index of the largest data set's length."""
    images, phrases = INDEX
    with h5py.File(path, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, content_hash="none")
    first = np.arange(images + 1, dtype=np.int64) * phrases // images
    ids = Texts.of([f"{2_300_000 + number}" for number in range(images)])
    captions = Texts.of([f"small striped star {number}" for number in range(phrases)])
    Index("none", ids, captions, first).save(index_path(path))


def random_reads(path: Path) -> tuple[float, float, float]:
    """Milliseconds for a random mask, a random image and an item found by its texts."""
    pack = Pack(path)
    rng = np.random.default_rng(0)
    items, images = (
        rng.integers(len(pack), size=READS),
        rng.integers(len(pack.image_ids), size=READS),
    )
    names = [(pack.image_ids[pack.item_image[i]], pack.caption(int(i))) for i in items]
    masks = seconds(lambda: [pack.masks(int(i)) for i in items])
    pictures = seconds(lambda: [pack.image(int(k)) for k in images])
    found = seconds(lambda: [pack[pack.find(*name)] for name in names])
    return masks / READS * 1e3, pictures / READS * 1e3, found / READS * 1e3


def main() -> None:
    """Measures and prints a table."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "scenes"
        write_phrasecut(root, seed=0, counts={"train": SCENES}, pixels=PIXELS)
        files = sorted((root / "images").iterdir())
        some = list(chunks(examples(root, SCENES)))
        phrases = sum(len(group) for chunk in some for _, group in chunk.images)
        bare = seconds(partial(decode, files)) / SCENES * 1e3
        drawing = seconds(lambda: [rasterise(s) for s in _samples(root)]) / SCENES * 1e3
        ours, plain = compressing(some)
        floor = seconds(partial(least, some, folder / "bytes")) / SCENES * 1e3
        (folder / "shards").mkdir()
        worker = seconds(partial(make_shards, some, folder / "shards")) / SCENES * 1e3
        shards = make_shards(some, folder / "shards")
        writer = seconds(partial(join, shards, folder / "joined.h5")) / SCENES * 1e3
        path = folder / "a.h5"
        report = write_pack(examples(root, SCENES), path, size=PIXELS)
        raw = SCENES * PIXELS**2 * 3 + report.phrases * PIXELS**2
        compressed = report.bytes - SCENES * PIXELS**2 * 3
        mask, picture, item = random_reads(path)
        low, high = (memory(root, images, folder) for images in MEMORY)
        artificial(folder / "index.h5")
        opening = seconds(lambda: Pack(folder / "index.h5"))
    rows = [
        (f"scenes, {PIXELS} x {PIXELS}", f"{SCENES}, with {phrases} phrases"),
        ("bare JPEG decoding", f"{bare:.2f} ms an image, {1e3 / bare:.0f} a second and core"),
        ("a worker, all in all", f"{worker:.2f} ms an image, {1e3 / worker:.0f} a second and core"),
        ("  of bare decoding", f"{bare / worker:.0%}"),
        ("  reading JSON, drawing masks", f"{drawing:.2f} ms an image"),
        ("  compressing a mask", f"{ours:.3f} ms; {plain:.3f} by zlib.compress"),
        ("decode, draw, compress, write", f"{floor:.2f} ms an image"),
        ("  bare decoding of that", f"{bare / floor:.0%}"),
        ("  that of a worker", f"{floor / worker:.0%}"),
        ("the one writer", f"{writer:.2f} ms an image, at most {1e3 / writer:.0f} a second"),
        ("both in one process", f"{bare / (worker + writer):.0%} of bare decoding"),
        ("file", f"{report.bytes / 1e6:.1f} MB; raw layout {raw / 1e6:.1f} MB"),
        ("  a mask", f"{compressed / report.phrases / 1e3:.1f} KB with its name; raw 262.1 KB"),
        (f"peak memory, {MEMORY[0]} images", f"{low:.0f} MB"),
        (f"peak memory, {MEMORY[1]} images", f"{high:.0f} MB"),
        (f"opening {INDEX[0]:,} images, {INDEX[1]:,} phrases", f"{opening:.2f} s"),
        ("random mask / image / item by texts", f"{mask:.2f} / {picture:.2f} / {item:.2f} ms"),
    ]
    print("\n".join(f"{what:46}{value}" for what, value in rows))


if __name__ == "__main__":
    main()
