"""What a run's masks look like while it learns: a few phrases, segmented every so many steps."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from rlfseg.config import SamplerConfig
from rlfseg.evaluation.predict import predict
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.unet import as_velocity
from rlfseg.stage import readable, replaced
from rlfseg.training.steps import Step


@dataclass(frozen=True, eq=False)
class Previews:
    """Decoded scores of the same phrases at several steps.

    Attributes:
        items: numbers [n] in the packed file.
        steps: numbers [k] of the optimiser steps.
        scores: float32 [k, n, H, W] in [0, 1].
    """

    items: np.ndarray
    steps: np.ndarray
    scores: np.ndarray


class Watch:
    """Called after every step; keeps previews in a folder, so that a resumed run has them all."""

    def __init__(
        self,
        folder: Path,
        unet: UNet2DConditionModel,
        cache: LatentCache,
        items: Sequence[int],
        *,
        every: int,
    ) -> None:
        """Take what is trained and what it is shown: `items` of the cache, `every` so often."""
        self._folder = folder / "previews"
        self._unet, self._cache, self._items, self._every = unet, cache, list(items), every

    def __call__(self, step: Step) -> None:
        """Segment the items, in one step as Eq. 5, if it is time to."""
        if step.step % self._every:
            return
        self._unet.eval()
        with torch.no_grad():
            way = SamplerConfig("one")
            found = list(predict(as_velocity(self._unet), self._cache, self._items, way))
        self._unet.train()
        scores = torch.cat([prediction.scores.cpu() for prediction in found]).clamp(0, 1)
        self._folder.mkdir(exist_ok=True)
        with replaced(self._folder / f"{step.step:08d}.npy") as draft, draft.open("wb") as file:
            np.save(file, (scores * 255).round().numpy().astype(np.uint8))

    def finish(self) -> None:
        """Put all previews into one file beside the folder, which goes, whole or not at all."""
        gone = self._folder.with_suffix(".gone")
        shutil.rmtree(gone, ignore_errors=True)
        files = sorted(self._folder.glob("*.npy"))
        if not files:
            return
        steps = [int(file.stem) for file in files]
        scores = np.stack([np.load(file) for file in files])
        with replaced(self._folder.with_suffix(".npz")) as draft, draft.open("wb") as file:
            np.savez_compressed(file, items=self._items, steps=steps, scores=scores)
        self._folder.rename(gone)
        shutil.rmtree(gone)


def read_previews(folder: Path) -> Previews | None:
    """Return the previews that a finished run left in its folder; None if it made none.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / "previews.npz"
    if not path.is_file():
        return None
    with readable(path), np.load(path) as arrays:
        scores = arrays["scores"].astype(np.float32) / 255
        return Previews(arrays["items"], arrays["steps"], scores)
