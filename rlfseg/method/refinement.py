"""Label refinement (section 3.3): anchors, and Algorithm 1 over any predictor of SAM's kind.

Anchors are the points inside a mask that stay fixed while SAM redraws its boundary. All phrases of
an image are refined at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional as F

from rlfseg.config import RefineConfig

#: Starts of k-means, by k-means++; scikit-learn's own choice. The best of ten differs little.
STARTS = 1
#: Why an annotation was kept: it marks nothing, or everything; it is one pixel, or too thin to be
#: seen in SAM's low-resolution map; SAM returned a mask in which nothing is marked.
Reason = Literal["empty", "full", "tiny", "nothing"]


def anchors(mask: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """Place anchors by k-means over the coordinates of the foreground (Eq. 3).

        P = KMeans({(x, y) | M0(x, y) > 0.5}, N)

    Deviation: the centre of a ring or a crescent lies outside it, where it would point SAM at
    something else; so each centre moves to the nearest pixel of its own cluster. Anchors therefore
    lie on the foreground and are distinct. A mask of no more than N pixels has each as an anchor.

    Args:
        mask: bool [H, W], the annotation.
        n: N, at least 1.
        seed: of k-means; the same mask and seed give the same anchors with any number of threads.

    Returns:
        float64 [k, 2]: x (column) and y (row) in pixels, k = min(N, foreground pixels).

    Raises:
        ValueError: if nothing is marked in the mask, it is no mask, or `n` is less than 1.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise ValueError(f"the mask is {mask.dtype} {mask.shape}; it must be bool (H, W)")
    if n < 1:
        raise ValueError(f"n must be at least 1 anchor, got {n}")
    points = np.argwhere(mask)[:, ::-1].astype(np.float64)
    if not len(points):
        raise ValueError("the mask is empty: there is no foreground to place anchors in")
    if len(points) <= n:
        return points
    from sklearn.cluster import KMeans  # half a second that no other use of the package pays

    with _threads().limit(limits=1):  # with more, sums are taken in any order
        found = KMeans(n, n_init=STARTS, random_state=seed).fit(points)
    return np.stack(
        [
            _nearest(points[found.labels_ == number], centre)
            for number, centre in enumerate(found.cluster_centers_)
        ]
    )


def _nearest(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return points[np.square(points - centre).sum(1).argmin()]


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a predictor says of b phrases.

    Attributes:
        logits: low resolution, over the image padded to a square; may be fed back as they are.
        masks: at the image's size.
        scores: the predictor's own estimate of each mask's IoU.
    """

    logits: Float[Tensor, "b 1 side side"]
    masks: Bool[Tensor, "b H W"]
    scores: Float[Tensor, " b"]


class Predictor(Protocol):
    """SAM, or what stands in for it."""

    @property
    def identity(self) -> str:
        """Tells predictors apart that answer differently."""

    @property
    def side(self) -> int:
        """Side of the low-resolution logits."""

    def embed(self, image: np.ndarray) -> Any:
        """Encode an image, uint8 [H, W, 3]; once, however many phrases it has."""

    def predict(self, embedding: Any, points: Sequence[np.ndarray], logits: Tensor) -> Predicted:
        """Answer b phrases: `points[i]` is [k_i, 2] in pixels, `logits` [b, 1, side, side]."""


@dataclass(frozen=True, eq=False)
class Refined:
    """What Algorithm 1 made of one mask.

    Attributes:
        mask: bool [H, W], the refined mask, or the annotation if there is a `reason`.
        anchors: float [k, 2], x and y in pixels.
        steps: the masks M_1 to M_t.
        ious: IoU(M_i, M_{i-1}) of each step.
        converged: whether the last of them reached tau.
        iou_original: IoU of `mask` with the annotation.
        score: SAM's own estimate of the last step's IoU; None if there is none.
        reason: why the annotation was kept; None if it wasn't.
    """

    mask: np.ndarray
    anchors: np.ndarray
    steps: tuple[np.ndarray, ...]
    ious: tuple[float, ...]
    converged: bool
    iou_original: float
    score: float | None
    reason: Reason | None

    @property
    def iterations(self) -> int:
        """How often SAM was asked."""
        return len(self.steps)


@dataclass
class _Track:
    """One mask on its way."""

    anchors: np.ndarray
    steps: list[np.ndarray] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    score: float | None = None


def logit_map(
    masks: Bool[Tensor, "b H W"], *, side: int, scale: float
) -> Float[Tensor, "b 1 side side"]:
    """Turn masks into the low-resolution logits that SAM takes as a prompt.

        logit = scale * (2 c - 1),    c = the covered share of a cell

    Deviation: Algorithm 1 feeds back M_{t-1}; SAM takes logits, and M_0 has none. Inside is +scale,
    outside and in the padding -scale. The frame is SAM's: padded to a square, right and below.
    """
    height, width = masks.shape[1:]
    longest = max(height, width)
    square = F.pad(masks[:, None].float(), (0, longest - width, 0, longest - height))
    return scale * (2 * F.interpolate(square, (side, side), mode="area") - 1)


def refine(
    image: np.ndarray, masks: Sequence[np.ndarray], predictor: Predictor, config: RefineConfig
) -> list[Refined]:
    """Refine the masks of one image (Algorithm 1).

        for t = 1 .. T_max until IoU(M_t, M_{t-1}) >= tau:  M_t = SAM(P, M_{t-1})

    The image is embedded once; in every iteration the phrases that have not converged are asked
    for together. What is fed back are the previous iteration's low-resolution logits.

    Deviation: the algorithm's line says "until IoU < tau", which would stop at the first large
    change and never at convergence, which its text asks for.

    Args:
        image: uint8 [H, W, 3].
        masks: the annotations, bool [H, W].
        predictor: SAM.
        config: N, T_max, tau, the scale of the first logits, the seed of k-means.

    Returns:
        One result a mask, in order; none is lost: see `Reason` for when the annotation is kept.

    Raises:
        ValueError: if image or masks have the wrong type or shape.
    """
    _check(image, masks)
    if not masks:
        return []
    originals = torch.from_numpy(np.stack(masks))
    logits = logit_map(originals, side=predictor.side, scale=config.logit)
    reasons = [_unfit(mask, map_) for mask, map_ in zip(masks, logits, strict=True)]
    active = [number for number, reason in enumerate(reasons) if reason is None]
    tracks = {
        number: _Track(anchors(masks[number], n=config.anchors, seed=config.seed))
        for number in active
    }
    previous, logits = originals[active], logits[active]
    embedding = predictor.embed(image) if active else None
    for _ in range(config.iterations):
        if not active:
            break
        predicted = predictor.predict(embedding, [tracks[i].anchors for i in active], logits)
        ious = iou(predicted.masks, previous.to(predicted.masks.device))
        found = predicted.masks.flatten(1).any(1)
        for row, number in enumerate(active):
            track = tracks[number]
            track.steps.append(predicted.masks[row].cpu().numpy())
            track.ious.append(float(ious[row]))
            score = float(predicted.scores[row])
            track.score = score if np.isfinite(score) else None
        rows = torch.nonzero(found & (ious < config.tau))[:, 0]
        active = [active[row] for row in rows.tolist()]
        previous, logits = predicted.masks[rows], predicted.logits[rows]
    return [
        _kept(mask, reason) if reason else _result(mask, tracks[number], config.tau)
        for number, (mask, reason) in enumerate(zip(masks, reasons, strict=True))
    ]


def refine_shown(
    photograph: np.ndarray,
    masks: Sequence[np.ndarray],
    predictor: Predictor,
    config: RefineConfig,
) -> list[Refined]:
    """Refine masks that are kept at another size than the photograph that they are of.

    The predictor is shown the photograph as it is. The masks are brought to its size and aspect and
    refined there (`refine`); what comes of it is brought back: masks by nearest neighbour, anchors
    in proportion. Where both have one size this is `refine`, bit for bit.

    Deviation: Algorithm 1 doesn't say what SAM sees, and A.3.2 packs 512 x 512. A square copy of a
    photograph is squashed, and SAM has learned from pictures that are not. The mini SAM has
    learned from squares alone, and loses by it: see LOG.md.

    Args:
        photograph: uint8 [H, W, 3], at its own size.
        masks: the annotations, bool [h, w], all of one size.
        predictor: SAM.
        config: as for `refine`.

    Returns:
        One result a mask, in order, at the masks' size; but `ious` are those of the photograph's.

    Raises:
        ValueError: if image or masks have the wrong type or shape.
    """
    shape = photograph.shape[:2]
    if all(mask.shape == shape for mask in masks):
        return refine(photograph, masks, predictor, config)
    results = refine(photograph, [_nearest_at(m, shape) for m in masks], predictor, config)
    pairs = zip(results, masks, strict=True)
    return [_brought_back(result, mask, shape, config.tau) for result, mask in pairs]


def _brought_back(
    result: Refined, original: np.ndarray, shape: tuple[int, int], tau: float
) -> Refined:
    """A result at the size of its annotation, of one at another size."""
    scale = np.array(original.shape[::-1]) / np.array(shape[::-1])
    track = _Track(
        (result.anchors + 0.5) * scale - 0.5,
        [_nearest_at(step, original.shape) for step in result.steps],
        list(result.ious),
        result.score,
    )
    if result.reason:
        return _kept(original, result.reason, track)
    return _result(original, track, tau)


def _nearest_at(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask at another size [H, W], as packing resizes masks."""
    height, width = shape
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def iou(a: Bool[Tensor, "b H W"], b: Bool[Tensor, "b H W"]) -> Float[Tensor, " b"]:
    """Return the IoU of pairs of masks, float64, of which one at least is not empty."""
    shared, joint = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return shared.double() / joint


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two masks, bool [H, W]; 1 if both are empty."""
    joint = (a | b).sum()
    return float((a & b).sum() / joint) if joint else 1.0


def _result(original: np.ndarray, track: _Track, tau: float) -> Refined:
    mask = track.steps[-1]
    if not mask.any():
        return _kept(original, "nothing", track)
    return Refined(
        mask,
        track.anchors,
        tuple(track.steps),
        tuple(track.ious),
        track.ious[-1] >= tau,
        mask_iou(mask, original),
        track.score,
        None,
    )


def _kept(original: np.ndarray, reason: Reason, track: _Track | None = None) -> Refined:
    track = track or _Track(np.empty((0, 2)))
    steps, ious = tuple(track.steps), tuple(track.ious)
    return Refined(original, track.anchors, steps, ious, False, 1.0, track.score, reason)


def _unfit(mask: np.ndarray, logits: Tensor) -> Reason | None:
    count = int(mask.sum())
    if count == 0:
        return "empty"
    if count == mask.size:
        return "full"
    if count == 1 or not bool((logits > 0).any()):
        return "tiny"
    return None


def _check(image: np.ndarray, masks: Sequence[np.ndarray]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image is {image.dtype} {image.shape}; it must be uint8 (H, W, 3)")
    for mask in masks:
        if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
            raise ValueError(
                f"a mask is {mask.dtype} {mask.shape}; it must be bool {image.shape[:2]}, "
                "like its image"
            )
