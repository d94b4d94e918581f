"""How well masks fit: from a velocity field and packed data to counts, in any number of processes.

`predict` samples and decodes, `evaluate` counts what comes of it, and `scored_in_parts` does so
over the processes of a launch, resumably. Every image is encoded once.
"""

from __future__ import annotations

from rlfseg.evaluate.items import other_captions, spaced
from rlfseg.evaluate.predict import Prediction, predict, sample
from rlfseg.evaluate.score import Evaluation, boundaries, evaluate, tally
from rlfseg.evaluate.shared import edges_in_parts, scored_in_parts

__all__ = [
    "Evaluation",
    "Prediction",
    "boundaries",
    "edges_in_parts",
    "evaluate",
    "other_captions",
    "predict",
    "sample",
    "scored_in_parts",
    "spaced",
    "tally",
]
