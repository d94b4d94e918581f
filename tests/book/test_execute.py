"""Chapters that are executed at once can't take each other's ports: they have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from papermill import PapermillExecutionError

from rlfseg.book.execute import execute

GIVEN = """count = 1
runs = {"t = 1": {}}
"""
PAGE = """
import json
from ipykernel import get_connection_info
assert count < 3, "too many"
print(count, json.loads(get_connection_info())["transport"])
"""


def page(folder: Path) -> Path:
    cells = [
        {
            "cell_type": "code",
            "id": name,
            "metadata": {"tags": tags},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for name, tags, source in (("given", ["parameters"], GIVEN), ("told", [], PAGE))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    path = folder / "page.ipynb"
    path.write_text(
        json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    )
    return path


@pytest.mark.integration
def test_a_kernel_has_the_parameters_and_no_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given, done = tmp_path / "given.yml", tmp_path / "done.ipynb"
    given.write_text("count: 2\nruns: {}\n")
    execute(page(tmp_path), done, given)
    assert not caplog.records  # papermill can't read every value, and warns of it
    (printed,) = json.loads(done.read_text())["cells"][-1]["outputs"]
    assert "".join(printed["text"]) == "2 ipc\n"
    given.write_text("count: 3\n")
    with pytest.raises(PapermillExecutionError, match="too many"):
        execute(page(tmp_path), done, given)
    assert "too many" in done.read_text()


def test_a_name_that_the_notebook_does_not_have_is_an_error(tmp_path: Path) -> None:
    given, done = tmp_path / "given.yml", tmp_path / "done.ipynb"
    given.write_text("count: 2\ncuont: 3\n")
    with pytest.raises(ValueError, match=r"given\.yml: cuont: .*no such parameter; .*count, runs"):
        execute(page(tmp_path), done, given)
    assert not done.exists()
