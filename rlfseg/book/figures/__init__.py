"""Every picture of the book; the only package that imports matplotlib."""

from rlfseg.book.figures.charts import (
    COLOURS,
    bars,
    histograms,
    lines,
    miou_bars,
    paired_bars,
    sample_histograms,
    smoothed,
    stacked,
    sweeps,
)
from rlfseg.book.figures.explorer import Answered, Asked, Interactive, explorer, png_uri
from rlfseg.book.figures.learning import learning_curves
from rlfseg.book.figures.pictures import (
    as_picture,
    class_maps,
    pictures,
    refinement,
    sample_pictures,
    segmentations,
)
from rlfseg.book.figures.plane import Walked, grid, walk_explorer, walks
from rlfseg.book.figures.points import before_after, clouds, roofline
