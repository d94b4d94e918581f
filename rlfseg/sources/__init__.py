"""One reader per data set; each yields the same `Sample`."""

from __future__ import annotations

from rlfseg.sources.sample import Sample, by_image

__all__ = ["Sample", "by_image"]
