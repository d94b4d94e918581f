"""The Makefile, with what people give it."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def make(target: str, where: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """Runs a target in a folder that has the profile `smoke`, with nothing to set up."""
    run = where / "params" / "smoke" / "run.yml"
    run.parent.mkdir(parents=True, exist_ok=True)
    run.touch()
    lock = {"SETUP": "", "LOCK": str(ROOT / "requirements.lock")}
    said = [f"{name}={value}" for name, value in {**lock, "PROFILE": "smoke", **given}.items()]
    command = ["make", "--silent", "--file", str(ROOT / "Makefile"), target, *said]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)


def places(where: Path, **given: str) -> subprocess.CompletedProcess[str]:
    return make("places", where, **given)


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


@pytest.mark.parametrize("target", ["places", "clean"])
@pytest.mark.parametrize("name", ["", "moni"])
def test_a_profile_that_is_none_is_refused(tmp_path: Path, target: str, name: str) -> None:
    (tmp_path / "runs" / "mini").mkdir(parents=True)
    done = make(target, tmp_path, PROFILE=name)
    assert done.returncode == 2 and done.stderr.startswith(f"PROFILE={name} is none of: smoke\n")
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["mini"]


def test_clean_removes_one_profile_unless_it_is_being_built(tmp_path: Path) -> None:
    for name in ("smoke", "mini"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    with (tmp_path / "runs" / "smoke" / ".building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        kept = make("clean", tmp_path)
    assert kept.returncode == 2 and "is being built" in kept.stderr
    assert (tmp_path / "runs" / "smoke").is_dir()
    for _ in range(2):  # what isn't there is no error
        assert make("clean", tmp_path).returncode == 0
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["mini"]


@pytest.mark.parametrize("number", ["12", "A1", ""])
def test_a_table_that_is_none_makes_nothing(tmp_path: Path, number: str) -> None:
    """Without a target Snakemake would make the whole book."""
    done = make("table", tmp_path, N=number)
    assert done.returncode == 2
    assert done.stderr.startswith(f"N={number} is no table of the paper: they are 1 to 9\n")


def test_a_copied_checkout_sets_up_an_environment_of_its_own(tmp_path: Path) -> None:
    """What is installed in one names its place, and would run the other's package."""
    marks = set()
    for name in ("one", "two", "link"):
        where = tmp_path / name
        where.symlink_to(tmp_path / "two") if name == "link" else where.mkdir()
        command = [
            "make",
            "--file",
            str(ROOT / "Makefile"),
            "--print-data-base",
            "--dry-run",
            "help",
        ]
        lock = f"LOCK={ROOT / 'requirements.lock'}"
        told = subprocess.run(
            [*command, lock], cwd=where, capture_output=True, text=True, check=True
        )
        marks |= {line for line in told.stdout.splitlines() if line.startswith("SETUP := ")}
    assert len(marks) == 2, marks
