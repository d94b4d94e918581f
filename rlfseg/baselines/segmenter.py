"""What phrase-by-phrase baselines share: their batches, their objective, and their scores."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfseg.evaluation.score import Evaluation, tally
from rlfseg.method.types import Mask, Score
from rlfseg.models.latent_cache import LatentCache
from rlfseg.training.flow_batch import batch_items
from rlfseg.training.loop import Losses


class Segmenter(Protocol):
    """A module that maps what it sees and hears to logits [b, h, w] of a mask."""

    def see(self, cache: LatentCache, items: np.ndarray) -> Tensor:
        """Return what the model takes of some items' pictures, [b, ...]."""

    def hear(self, cache: LatentCache, captions: Sequence[str]) -> Tensor:
        """Return what it takes of captions, [b, ...]."""

    def __call__(self, seen: Tensor, heard: Tensor) -> Tensor:
        """Logits [b, h, w]."""


class PhraseBatch(NamedTuple):
    """Pictures and phrases as a segmenter takes them, and the annotated masks [b, H, W]."""

    seen: Tensor
    heard: Tensor
    mask: Mask


class MaskObjective(nn.Module):
    """Binary cross-entropy of a segmenter's logits, brought to the mask's size, by pixel."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, batch: PhraseBatch) -> Losses:
        """Per-sample losses of a batch."""
        logits = enlarged(self.segmenter(batch.seen, batch.heard), batch.mask.shape[-1])
        wanted = batch.mask.to(logits.dtype)
        loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return Losses(loss.mean((1, 2)))


def enlarged(logits: Tensor, pixels: int) -> Tensor:
    """Return logits [b, h, w] at `pixels` x `pixels` by bilinear interpolation, float32."""
    if logits.shape[-1] == pixels:
        return logits.float()
    size = (pixels, pixels)
    return functional.interpolate(logits.float()[:, None], size, mode="bilinear")[:, 0]


def phrase_batch(
    segmenter: Segmenter,
    cache: LatentCache,
    step: int,
    *,
    size: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> PhraseBatch:
    """One process's share of a step's batch; the items are those of a flow run of the same seed.

    Args:
        segmenter: which says what it takes of a sample.
        cache: of the packed training split.
        step: number from 1.
        size: global batch size.
        seed: of the run.
        share: this process's number and how many there are.
    """
    items = batch_items(len(cache.pack), size, seed=seed, step=step, share=share)
    masks = np.stack([cache.pack.annotation(int(i)) for i in items])
    captions = [cache.pack.caption(int(i)) for i in items]
    return PhraseBatch(
        segmenter.see(cache, items), segmenter.hear(cache, captions), torch.from_numpy(masks)
    )


@torch.no_grad()
def scores(
    segmenter: Segmenter,
    cache: LatentCache,
    items: Sequence[int],
    *,
    captions: Sequence[str] | None = None,
    batch: int = 32,
) -> Iterator[tuple[np.ndarray, Score]]:
    """Return item numbers and probabilities [b, H, W] at the packed size, batch by batch.

    Args:
        segmenter: in evaluation mode.
        cache: of the packed file.
        items: which of its items.
        captions: said instead of the items' own captions, one for each.
        batch: items at a time.
    """
    said = [cache.pack.caption(i) for i in items] if captions is None else captions
    for start in range(0, len(items), batch):
        some = np.asarray(items[start : start + batch])
        heard = segmenter.hear(cache, said[start : start + batch])
        logits = segmenter(segmenter.see(cache, some), heard)
        yield some, enlarged(logits, cache.pixels).sigmoid()


def evaluate_segmenter(
    segmenter: Segmenter,
    cache: LatentCache,
    items: Sequence[int],
    *,
    captions: Sequence[str] | None = None,
) -> Evaluation:
    """Score a segmenter as `rlfseg.evaluation.score.evaluate` scores a velocity field."""
    found = scores(segmenter, cache, items, captions=captions)
    return tally(found, cache.pack, total=len(items))
