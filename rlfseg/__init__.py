"""Text-based segmentation by a rectified flow between the latents of an image and of its mask."""

from __future__ import annotations

from rlfseg import compat as compat

__version__ = "0.1.0"
