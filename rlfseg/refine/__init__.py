"""Label refinement (section 3.3): anchors of Eq. 3, Algorithm 1, and SAM as what it asks."""

from __future__ import annotations

from rlfseg.refine.algorithm import Predicted, Predictor, Refined, logit_map, refine
from rlfseg.refine.anchors import anchors
from rlfseg.refine.sam import PromptedSam
from rlfseg.refine.weights import KINDS, load_sam, mini_sam, random_sam, save_sam

__all__ = [
    "KINDS",
    "Predicted",
    "Predictor",
    "PromptedSam",
    "Refined",
    "anchors",
    "load_sam",
    "logit_map",
    "mini_sam",
    "random_sam",
    "refine",
    "save_sam",
]
