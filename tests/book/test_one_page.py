"""The one page that the PDF is printed from holds folded cells and exercises."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sphinx.application import Sphinx

EXERCISE = """# A page

:::{exercise} Why?
:label: ex-why
Say why.
:::
"""


@pytest.mark.integration
def test_folded_cells_and_exercises_stand_on_one_page(tmp_path: Path) -> None:
    said = new_output("stream", text="42 is said")
    folded = new_code_cell("print(42)", outputs=[said], metadata={"tags": ["hide-input"]})
    nbformat.write(new_notebook(cells=[new_markdown_cell(EXERCISE), folded]), tmp_path / "a.ipynb")
    more = {
        "extensions": ["myst_nb", "sphinx_exercise", "rlfseg.book.one_page"],
        "nb_execution_mode": "off",
        "myst_enable_extensions": ["colon_fence"],
        "root_doc": "a",
    }
    folders = tmp_path, None, tmp_path / "out", tmp_path / "trees"
    app = Sphinx(*folders, "singlehtml", confoverrides=more, status=None, freshenv=True)
    app.build()
    page = (tmp_path / "out" / "a.html").read_text()
    assert app.statuscode == 0 and "Say why." in page
    assert "42 is said" in page and "<details" in page
