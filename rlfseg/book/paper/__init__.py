"""This run's results beside the paper's Tables 1-9.

`render` sets `Result`s beside what the paper prints, for the book; `save_results` and
`load_results` keep them as JSON.
"""

from rlfseg.book.paper.cells import baseline_cells, keep_results, run_cells, semflow_cell
from rlfseg.book.paper.predicted import predicted_cells
from rlfseg.book.paper.render import render
from rlfseg.book.paper.results import (
    NOT_RUN,
    Missing,
    Result,
    Results,
    difference,
    measured,
)
from rlfseg.book.paper.saved import Saved, load_results, save_results
