"""A chapter opened by itself, in a fresh kernel in `book/`, runs from top to bottom."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "01_data"


@pytest.mark.slow
def test_a_chapter_runs_in_its_folder(tmp_path: Path) -> None:
    for folder in ("book", "params/smoke"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    notebook = nbformat.read(tmp_path / "book" / f"{CHAPTER}.ipynb", 4)
    given = yaml.safe_load((tmp_path / "params" / "smoke" / f"{CHAPTER}.yml").read_text())
    source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    (at,) = (k for k, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(source))
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "book")}},
    )
    client.execute()
    made = [path.parent.name for path in tmp_path.glob("runs/smoke/stages/*/stage.json")]
    assert any(name.startswith("data-") for name in made)
