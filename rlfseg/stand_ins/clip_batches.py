"""What the mini CLIP is trained on: drawn scenes, and sentences that are true of them or not."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from rlfseg.data.drawn.chunks import in_workers, ranges
from rlfseg.data.drawn.scene import FILLING, RADII, ZOOM, draw_scene
from rlfseg.data.drawn.sentences import (
    Layout,
    Sentences,
    describe,
    layout_of,
    meant,
    one_changed,
    true_of,
)
from rlfseg.data.images import to_unit
from rlfseg.stage import readable, replaced

#: Patches across a picture.
PATCHES = 8
_ARRAYS = ("images", "things", "centres", "grounds")  # of a gallery
#: Keep these scenes apart from those of the data splits and of the other stand-ins.
_STREAM, _FILLED = 9, 10
_PHRASES, _WRONG = 2, 1  # for each picture of a batch: phrases of its own, and changed ones
_RELATED = 0.2  # how often a phrase has a relation
_ALONE = 0.15  # share of pictures of one thing, after the first steps
_WINDOW = 5  # patches across
_SHIFT = 6  # pixels by which a picture is moved at most


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures uint8 [n, p, p, 3] and what is on them."""

    images: np.ndarray
    layout: Layout


class ClipBatch(NamedTuple):
    """Pictures float [b, 3, p, p] in [-1, 1], tokens of short and long sentences, and the truth.

    `true` is bool [b, t]: whether a sentence, short ones first, is true of a picture. `patches` are
    those that are seen of each picture, int64 [b, k]. `places` are where among these the things of
    a picture are, int64 [b, 4], and -1 for no thing; `meant`, bool [b, 4, s], whether a short
    sentence means it.
    """

    pictures: Tensor
    short: Tensor
    long: Tensor
    true: Tensor
    patches: Tensor
    places: Tensor
    meant: Tensor


def clip_batch(
    gallery: Gallery, tokenizer: CLIPTokenizer, step: int, *, size: int, seed: int, alone: int
) -> ClipBatch:
    """Make the batch of a step, a function of `seed` and `step`.

    Pictures are mirrored and moved by a few pixels at random. Those of the first `alone` steps have
    one thing, and are seen through a window around it: what a shape is shows there first, and at a
    third of the cost. Sentences never name the pairs that are held out: they would always be wrong.
    """
    rng = np.random.default_rng([seed, step])
    single = gallery.layout.counts == 1
    of_one = rng.random(size) < (1.0 if step <= alone else _ALONE)
    chosen = np.where(
        of_one,
        rng.choice(np.flatnonzero(single), size),
        rng.choice(np.flatnonzero(~single), size),
    )
    mirrored = rng.random(size) < 0.5
    images = gallery.images[chosen]
    images[mirrored] = images[mirrored, :, ::-1]
    scenes = gallery.layout[chosen].mirrored(mirrored)
    own = [describe(rng, scenes, whole=False, related=_RELATED) for _ in range(_PHRASES)]
    wrong = [one_changed(rng, phrases, scenes)[0] for phrases in own[:_WRONG]]
    short = Sentences.joined([*own, *wrong]).unique()
    told = scenes[: size // 2]
    caption = describe(rng, told, whole=True, related=0.3, ground=0.5)
    other = one_changed(rng, caption, told)[0][: size // 4]
    long = Sentences.joined([caption, other]).unique()
    short, long = short[~short.unseen], long[~long.unseen]
    places = places_of(scenes)
    patches = np.tile(np.arange(PATCHES**2), (size, 1))
    if step <= alone:
        patches = _window(rng, scenes)
        places[:, 0] = (patches == places[:, :1]).argmax(1)
    return ClipBatch(
        to_unit(torch.from_numpy(_moved(rng, images))),
        tokens(tokenizer, short.texts()),
        tokens(tokenizer, long.texts()),
        torch.from_numpy(true_of(Sentences.joined([short, long]), scenes).T),
        torch.from_numpy(patches),
        torch.from_numpy(places),
        torch.from_numpy(meant(short, scenes).transpose(1, 2, 0)),
    )


def places_of(scenes: Layout) -> np.ndarray:
    """Return the number of the patch at each thing's centre, int64 [n, 4], -1 for no thing."""
    where = np.minimum(scenes.centres * PATCHES, PATCHES - 1).astype(np.int64)
    return np.where(scenes.there, where[..., 1] * PATCHES + where[..., 0], -1)


def _window(rng: np.random.Generator, scenes: Layout) -> np.ndarray:
    """Choose 5 x 5 patches around the first thing of each scene, int64 [n, 25]."""
    middle = scenes.centres[:, 0] * PATCHES + rng.uniform(-0.5, 0.5, (len(scenes.centres), 2))
    first = np.rint(middle - _WINDOW / 2).clip(0, PATCHES - _WINDOW).astype(np.int64)
    x, y = (first[:, axis, None] + np.arange(_WINDOW) for axis in (0, 1))
    return (y[:, :, None] * PATCHES + x[:, None]).reshape(len(first), -1)


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return the token numbers of texts, int64 [t, k], padded to the longest of them."""
    return tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids


def _moved(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Move each picture by up to `_SHIFT` pixels both ways; its rim fills the gap."""
    side = images.shape[1]
    wide = np.pad(images, ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), "edge")
    corners = rng.integers(2 * _SHIFT + 1, size=(len(images), 2))
    cut = [w[y : y + side, x : x + side] for w, (y, x) in zip(wide, corners, strict=True)]
    return np.stack(cut)


def draw_gallery(
    *,
    seed: int,
    count: int,
    pixels: int,
    filled: bool = False,
    workers: int = 2,
    kept: Path | None = None,
) -> Gallery:
    """Draw `count` scenes without any held-out pair, every fourth with one thing alone.

    Scene number i depends on `seed` and i alone, so a longer gallery begins with a shorter one.

    Args:
        seed: of the drawing.
        count: how many.
        pixels: side of a picture.
        filled: whether each has one thing alone instead, which fills the picture.
        workers: processes that draw.
        kept: an .npz of the very gallery, read if it is there and else written.
    """
    if kept is not None and kept.is_file():
        with readable(kept), np.load(kept) as arrays:
            images, *layout = (arrays[name] for name in _ARRAYS)
        return Gallery(images, Layout(*layout))
    draw = partial(_draw, seed=seed, pixels=pixels, filled=filled)
    parts = in_workers(draw, ranges(count), workers=workers)
    layouts = [layout for _, layout in parts]
    gallery = Gallery(
        np.concatenate([images for images, _ in parts]),
        Layout(*(np.concatenate([vars(each)[name] for each in layouts]) for name in _ARRAYS[1:])),
    )
    if kept is not None:
        kept.parent.mkdir(exist_ok=True)
        with replaced(kept) as draft, draft.open("wb") as file:
            np.savez(file, images=gallery.images, **vars(gallery.layout))
    return gallery


def _draw(numbers: range, *, seed: int, pixels: int, filled: bool) -> tuple[np.ndarray, Layout]:
    zoom, radii = (1.0, FILLING) if filled else (ZOOM, RADII)
    scenes = []
    for number in numbers:
        rng = np.random.default_rng([seed, _FILLED if filled else _STREAM, number])
        count = (1, 1) if filled or number % 4 == 0 else (2, 4)
        each = draw_scene(rng, pixels=pixels, held_out=False, count=count, zoom=zoom, radii=radii)
        scenes.append(each)
    return np.stack([scene.image for scene in scenes]), layout_of(scenes)


def vocabulary(layout: Layout, *, seed: int) -> tuple[str, ...]:
    """Sentences that hold every word, for the tokenizer."""
    rng = np.random.default_rng([seed, _STREAM])
    said = [describe(rng, layout, whole=True, related=0.3, ground=0.5) for _ in range(2)]
    return tuple(text for sentences in said for text in sentences.texts())
