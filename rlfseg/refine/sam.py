"""SAM as Algorithm 1 asks it: the segment-anything package's own classes, in its own frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from rlfseg.checkpoint import weights_hash
from rlfseg.refine.algorithm import Predicted


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image; sizes are (H, W), scaled to the encoder's and of the image itself."""

    features: Float[Tensor, "1 c h w"]
    input_size: tuple[int, int]
    original_size: tuple[int, int]


class PromptedSam:
    """A SAM that answers points and a mask prompt with one mask each.

    Attributes:
        sam: the model; its device is where the work is done.
        side: side of its low-resolution logits, a quarter of its image size for SAM (256 of 1024),
            a half for the mini SAM.
        identity: a hash of its weights.
    """

    def __init__(self, sam: Sam) -> None:
        """Takes a model and freezes it."""
        self.sam = sam.requires_grad_(False).eval()
        self.side: int = sam.prompt_encoder.mask_input_size[0]
        self.identity = weights_hash(sam.state_dict())
        self._transform = ResizeLongestSide(sam.image_encoder.img_size)

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> Embedding:
        """Encodes an image, uint8 (H, W, 3), prepared as segment-anything's predictor does it."""
        scaled = self._transform.apply_image(image)
        pixels = torch.from_numpy(scaled).to(self.sam.device).permute(2, 0, 1)[None]
        features = self.sam.image_encoder(self.sam.preprocess(pixels))
        return Embedding(features.float(), scaled.shape[:2], image.shape[:2])

    @torch.no_grad()
    def predict(
        self, embedding: Embedding, points: Sequence[np.ndarray], logits: Tensor
    ) -> Predicted:
        """Answers b phrases of an image together.

        Phrases with the same number of points go through the decoder as one batch: filling up with
        "not a point" would change SAM's answer.

        Args:
            embedding: of the image.
            points: for each phrase float (k, 2), k >= 1, x and y in the image's pixels; all mean
                foreground.
            logits: the mask prompts, (b, 1, side, side), as `logit_map` or an earlier answer.
        """
        device = self.sam.device
        logits = logits.to(device)
        answers = torch.empty_like(logits)
        scores = torch.empty(len(points), device=device)
        counts = np.array([len(some) for some in points])
        for count in np.unique(counts):
            rows = torch.from_numpy(np.flatnonzero(counts == count)).to(device)
            stack = np.stack([points[row] for row in rows.tolist()])
            scaled = self._transform.apply_coords(stack, embedding.original_size)
            clicks = torch.as_tensor(scaled, dtype=torch.float, device=device)
            low, score = decode(self.sam, embedding.features, clicks, logits[rows])
            answers[rows], scores[rows] = low.float(), score.float()
        full = self.sam.postprocess_masks(answers, embedding.input_size, embedding.original_size)
        return Predicted(answers, full[:, 0] > self.sam.mask_threshold, scores)


def decode(
    sam: Sam,
    features: Float[Tensor, "#b c h w"],
    points: Float[Tensor, "b k 2"],
    logits: Float[Tensor, "b 1 side side"] | None,
) -> tuple[Float[Tensor, "b 1 side side"], Float[Tensor, " b"]]:
    """Runs prompt encoder and mask decoder on b prompts, of one image or of b.

    The decoder adds one image's features to the prompts' dense embeddings. Adding them beforehand,
    and zeros in their place, is the same sum and lets every prompt have an image of its own.

    Args:
        sam: the model.
        features: of the image encoder, for all prompts or for each.
        points: foreground points in the frame of the encoder's input.
        logits: mask prompts, or None.

    Returns:
        Low-resolution logits of the single-mask output, and the estimated IoU.
    """
    labels = torch.ones(points.shape[:2], dtype=torch.int, device=points.device)
    with torch.autocast(points.device.type, enabled=False):  # positions need all their digits
        sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=logits)
        pe = sam.prompt_encoder.get_dense_pe()
    low, scores = sam.mask_decoder(
        image_embeddings=torch.zeros_like(features[:1]),
        image_pe=pe,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=features + dense,
        multimask_output=False,
    )
    return low, scores[:, 0]
