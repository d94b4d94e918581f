"""FlowSeg in miniature: a pixel neural field on drawn scenes of many classes, in every variant."""

from rlfseg.flowseg.network import PixelField
from rlfseg.flowseg.objective import ARMS, FieldObjective
from rlfseg.flowseg.recipe import Curves, FieldConfig, arm, arm_stage, gains
from rlfseg.flowseg.scenes import NAMES, Labelled, draw_labelled

__all__ = [
    "ARMS",
    "NAMES",
    "Curves",
    "FieldConfig",
    "FieldObjective",
    "Labelled",
    "PixelField",
    "arm",
    "arm_stage",
    "draw_labelled",
    "gains",
]
