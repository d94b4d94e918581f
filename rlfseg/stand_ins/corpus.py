"""The pictures and masks that the mini autoencoder is trained on."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from rlfseg.data.drawn.chunks import in_workers, ranges
from rlfseg.data.drawn.phrases import phrases, truth
from rlfseg.data.drawn.scene import draw_scene

_STREAM = 7  # keeps these scenes apart from those of the data splits


@dataclass(frozen=True)
class Corpus:
    """Scenes without any held-out pair: images uint8 [n, p, p, 3], masks bool [n, p, p]."""

    images: np.ndarray
    masks: np.ndarray


def draw_corpus(
    *, seed: int, count: int, pixels: int, far: bool = False, workers: int = 2
) -> Corpus:
    """Draw `count` scenes, each with the exact mask of one phrase.

    With `far`, there are more things, a third smaller than the data sets draw them: an
    autoencoder that carries those carries the others.

    Scene number i depends on `seed` and i alone, so a longer corpus begins with a shorter one.
    """
    draw = partial(_draw, seed=seed, pixels=pixels, far=far)
    parts = in_workers(draw, ranges(count), workers=workers)
    return Corpus(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
    )


def _draw(numbers: range, *, seed: int, pixels: int, far: bool) -> tuple[np.ndarray, np.ndarray]:
    images, masks = [], []
    for number in numbers:
        rng = np.random.default_rng([seed, _STREAM, number])
        if far:
            scene = draw_scene(rng, pixels=pixels, held_out=False, count=(2, 5), zoom=1.0)
        else:
            scene = draw_scene(rng, pixels=pixels, held_out=False)
        images.append(scene.image)
        masks.append(truth(scene, phrases(rng, scene, most=1)[0]))
    return np.stack(images), np.stack(masks)
