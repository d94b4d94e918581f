"""The Makefile, with what people give it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def places(where: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """Runs `make places` in a folder, with nothing to set up."""
    lock = {"SETUP": "", "LOCK": str(ROOT / "requirements.lock")}
    said = [f"{name}={value}" for name, value in {**lock, "PROFILE": "smoke", **given}.items()]
    command = ["make", "--silent", "--file", str(ROOT / "Makefile"), "places", *said]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["data sets", "données"])
def test_folders_may_have_spaces_in_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "coco").mkdir(parents=True)
    done = places(tmp_path, DATA=name, WEIGHTS=f"./{name}/coco")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert (tmp_path / "data").resolve() == tmp_path / name
    assert (tmp_path / "weights").resolve() == tmp_path / name / "coco"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = places(tmp_path, DATA="no where")
    assert done.returncode == 2 and done.stderr.startswith("DATA=no where is no folder\n")
    assert not (tmp_path / "data").is_symlink()
