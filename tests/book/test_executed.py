"""What an executed chapter says of itself, for its reader and for other pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlfseg.book.executed import finish, told


def cell(kind: str, source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    """A cell of a notebook."""
    given = {"cell_type": kind, "metadata": {"tags": [*tags]}, "source": source.splitlines(True)}
    return given | ({"outputs": [*outputs], "execution_count": 1} if kind == "code" else {})


def glued(name: str, value: object) -> dict:
    """What myst-nb's `glue` leaves."""
    return {
        "output_type": "display_data",
        "metadata": {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}},
        "data": {"application/papermill.record/text/plain": [repr(value)]},
    }


def written(path: Path, *cells: dict, exception: bool | None = None, duration: float = 7.0) -> Path:
    """A notebook as papermill leaves it."""
    ran = {"exception": exception, "duration": duration, "parameters": {"profile": "smoke"}}
    page = {"cells": [*cells], "metadata": {"papermill": ran}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(page))
    return path


def test_times_stand_below_the_title(tmp_path: Path) -> None:
    said = cell("markdown", "(a)=\n# Title\n\n" + "word " * 395)
    shown, folded = (cell("code", "x = 1\n" * 50, tags=t) for t in ((), ("hide-input",)))
    path = written(tmp_path / "a.ipynb", said, shown, folded, duration=130)
    finish(path)
    head = "".join(json.loads(path.read_text())["cells"][0]["source"]).splitlines()
    assert head[:4] == ["(a)=", "# Title", "", "*4 min to read; executed in 2 min (`smoke`)*"]
    assert head[5].startswith("word")


def test_a_chapter_that_failed_is_not_finished(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ipynb", cell("markdown", "# A\n\nb"), exception=True)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="a cell failed"):
        finish(path)
    assert path.read_bytes() == before


def test_what_was_glued_is_told_and_nothing_else(tmp_path: Path) -> None:
    printed = {"output_type": "stream", "name": "stdout", "text": ["nothing"]}
    first = written(
        tmp_path / "a.ipynb", cell("code", "a", printed, glued("some-name", "it's 3.1 % (2 to 4)"))
    )
    second = written(
        tmp_path / "b.ipynb", cell("markdown", "b"), cell("code", "c", glued("n", "7"))
    )
    assert told([first, second]) == {"some_name": "it's 3.1 % (2 to 4)", "n": "7"}
