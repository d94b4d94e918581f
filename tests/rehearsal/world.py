"""Draws the rehearsal's world: PYTHONPATH=tests python tests/rehearsal/world.py FOLDER"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import official
import released
from transformers.utils.logging import disable_progress_bar


def draw(folder: Path) -> None:
    """Write data and weights below a folder, unless they are there."""
    if folder.is_dir():
        return
    draft = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    official.write(draft / "data")
    released.write(draft / "weights")
    draft.rename(folder)


if __name__ == "__main__":
    disable_progress_bar()
    draw(Path(sys.argv[1]))
