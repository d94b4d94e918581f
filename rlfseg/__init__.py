"""Text-based segmentation by a rectified flow between the latents of an image and of its mask."""

from typing import Any

from rlfseg.models import torchvision_operators as torchvision_operators

__version__ = "0.1.0"
__all__ = ["RLFSegPipeline"]


def __getattr__(name: str) -> Any:
    """Loads the pipeline, and with it diffusers, when it is asked for."""
    if name != "RLFSegPipeline":
        raise AttributeError(f"module 'rlfseg' has no attribute {name!r}")
    from rlfseg.pipeline import RLFSegPipeline

    return RLFSegPipeline
