"""Drawn scenes with a class at every pixel: grounds, and things by place and colour."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from rlfseg.data.drawn.scene import COLOURS, GROUNDS, draw_scene
from rlfseg.data.images import to_unit
from rlfseg.method.types import Image

PLACES = ("left", "middle", "right")
#: The classes in the order of their numbers: five grounds, then things by the third of the picture
#: and their colour, which can be told where a thing has few pixels. A thing on a border is parted.
NAMES = (*GROUNDS, *(f"{place} {colour}" for place in PLACES for colour in COLOURS))
_STREAM = 11  # keeps these scenes apart from those of the other data
_ZOOM = 1.8  # things are larger than in the other data: scenes have few pixels


class Labelled(NamedTuple):
    """Pictures and the number of each pixel's class."""

    image: Image
    classes: Int[Tensor, "b H W"]


def draw_labelled(*, seed: int, split: int, count: int, pixels: int) -> Labelled:
    """Draw scenes with two to four things; scene number i depends on seed, split and i alone.

    Args:
        seed: of the drawing.
        split: number of the split, so that splits share no scene.
        count: how many.
        pixels: side of the pictures.
    """
    images = np.empty((count, pixels, pixels, 3), np.uint8)
    classes = np.empty((count, pixels, pixels), np.int64)
    for number in range(count):
        rng = np.random.default_rng([seed, _STREAM, split, number])
        scene = draw_scene(rng, pixels=pixels, held_out=True, zoom=_ZOOM)
        images[number] = scene.image
        classes[number] = GROUNDS.index(scene.ground)
        for thing in scene.things:
            first = NAMES.index(f"{PLACES[0]} {thing.colour}")
            place = np.arange(pixels) * len(PLACES) // pixels
            named = np.broadcast_to(first + place * len(COLOURS), thing.mask.shape)
            classes[number][thing.mask] = named[thing.mask]
    return Labelled(to_unit(torch.from_numpy(images)), torch.from_numpy(classes))
