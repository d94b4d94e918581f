"""The chain of chapters, as `make` asks for it, is one that Snakemake accepts on every machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlfseg.chapters import CHAPTERS

ROOT = Path(__file__).resolve().parents[1]
LATER = 4e9  # seconds: than anything that it is made of
MACHINES = sorted(folder.name for folder in (ROOT / "profiles").iterdir())


def ran(*command: str, where: Path = ROOT) -> str:
    """What a command that must end well says."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def copied(where: Path) -> None:
    """What a plan is made of."""
    for name in ("Snakefile", "_config.yml"):
        shutil.copy(ROOT / name, where)
    for name in ("book", "params"):
        shutil.copytree(ROOT / name, where / name)


@pytest.mark.integration
@pytest.mark.parametrize("machine", MACHINES)
def test_every_chapter_and_the_book_on_paper_are_planned(machine: str) -> None:
    if machine == "slurm":
        pytest.importorskip("snakemake_executor_plugin_slurm")
    told = ran("make", "--dry-run", "--always-make", "pdf", "PROFILE=smoke", f"MACHINE={machine}")
    (ROOT / "runs/smoke").mkdir(parents=True, exist_ok=True)  # what `make places` does
    (command,) = [line for line in told.splitlines() if line.endswith(" -- pdf")]
    said = ran("bash", "-c", command.replace(" -- pdf", " --forceall --dry-run -- pdf"))
    for notebook in (ROOT / "book").glob("*.ipynb"):
        assert f"chapter_{notebook.stem}" in said
    assert "pdf, site" in said


@pytest.mark.integration
def test_a_minimal_pass_makes_the_tables_apart_with_parameters_of_its_own() -> None:
    told = ran("make", "--dry-run", "--always-make", "tables", "PROFILE=smoke", "MINIMAL=1")
    lines = told.splitlines()
    asked, command = [line for line in lines if line.startswith("asked=") or "--keep-going" in line]
    command = command.removesuffix("\\").rstrip().removesuffix(";")
    command = asked.removesuffix("\\") + command.replace("--keep-going", "--dry-run --forceall")
    said = ran("env", "MINIMAL=1", "bash", "-c", command)
    planned = set(re.findall(r"chapter_(\w+)", said))
    tables = {name for name, chapter in CHAPTERS.items() if chapter.tables}
    assert planned == tables | {"01_data"}
    assert "runs/smoke/minimal/book/" in command and "runs/smoke/book" not in command
    assert re.search(r"\bparameters\b", said)


@pytest.mark.integration
def test_a_chapter_that_is_gone_is_executed_again_whatever_was_rendered(tmp_path: Path) -> None:
    """Snakemake takes a failed chapter away; a page that was made before must not hide that."""
    copied(tmp_path)
    made = tmp_path / "runs/smoke"
    for folder in ("book", "site"):
        (made / folder).mkdir(parents=True)
    for notebook in (tmp_path / "book").glob("*.ipynb"):
        shutil.copyfile(notebook, made / "book" / notebook.name)
    for name in ("config.yml", "site/.complete"):
        (made / name).touch()
    for path in made.rglob("*"):
        os.utime(path, (LATER, LATER))
    plan = ["snakemake", "--cores", "1", "--config", "profile=smoke", "repository="]
    plan += ["--rerun-triggers", "mtime", "--dry-run"]
    assert "Nothing to be done" in ran(*plan, where=tmp_path)
    (made / "book/04_sampling.ipynb").unlink()
    said = ran(*plan, where=tmp_path)
    assert "rule chapter_04_sampling:" in said and "rule chapter_05_phrasecut:" not in said


@pytest.mark.integration
def test_only_what_does_not_ship_is_waited_for(tmp_path: Path) -> None:
    copied(tmp_path)
    plan = ["snakemake", "--cores", "1", "--config", "profile=mini", "--dry-run"]
    plan += ["--", "runs/mini/book/04_sampling.ipynb"]
    before = set(re.findall(r"chapter_(\w+)", ran(*plan, where=tmp_path)))
    (tmp_path / "artefacts/mini").mkdir(parents=True)
    shipped = set(re.findall(r"chapter_(\w+)", ran(*plan, where=tmp_path)))
    assert before == {"01_data", "03_train", "04_sampling"}
    assert shipped == {"01_data", "04_sampling"}


@pytest.mark.integration
@pytest.mark.parametrize(("profile", "turn"), [("smoke", " "), ("preflight", " flock ")])
def test_a_chapter_is_asked_to_stop_before_its_jobs_time_is_over(profile: str, turn: str) -> None:
    plan = [
        "snakemake",
        "--cores",
        "1",
        "--config",
        f"profile={profile}",
        "--dry-run",
        "--forceall",
    ]
    plan += ["--printshellcmds", "--", f"runs/{profile}/book/01_data.ipynb"]
    without = ran(*plan)
    timed = ran(*plan[:1], "--default-resources", "runtime=10", *plan[1:])
    (line,) = [each for each in timed.splitlines() if "rlfseg.book.execute" in each]
    before = line.split("python")[0].strip() + " "
    assert before.startswith("timeout --foreground --preserve-status 540" + turn)
    assert "rlfseg.book.execute" in without and "timeout" not in without


@pytest.mark.parametrize(("status", "final"), [(75, False), (143, False), (1, True), (2, True)])
def test_only_a_chapter_s_own_error_is_not_tried_again(
    tmp_path: Path, status: int, final: bool
) -> None:
    """75 is a stop that left a checkpoint; by 143 a job's time was over before it had its turn."""
    found = re.search(r"failed\(\) \{\{.*?\n +\}\}", (ROOT / "Snakefile").read_text(), re.DOTALL)
    assert found is not None
    mark = tmp_path / "mistaken"
    script = found.group().replace("{{", "{").replace("}}", "}")
    script = re.sub(r"\{params\.(\w+)\}", lambda m: str(tmp_path / m[1]), script)
    done = subprocess.run(["bash", "-c", f"{script}\nfailed {status}"], capture_output=True)
    assert done.returncode == 1 and mark.exists() == final


@pytest.mark.parametrize("given", ["", "rehearsal"])
def test_preflight_is_of_the_paper_unless_another_is_named(given: str) -> None:
    told = ran("make", "--dry-run", "preflight", *([f"PROFILE={given}"] if given else []))
    assert f"rlfseg preflight --profile {given or 'a100'}\n" in told


@pytest.mark.parametrize("target", ["preflight", "tables", "table"])
def test_data_and_weights_are_linked_first(target: str, tmp_path: Path) -> None:
    told = ran("make", "--dry-run", target, f"DATA={tmp_path}", f"WEIGHTS={tmp_path}/w")
    lines = told.splitlines()
    links = [
        lines.index(f'ln -sfT "$(realpath "{tmp_path}")" data'),
        lines.index(f'ln -sfT "$(realpath "{tmp_path}/w")" weights'),
    ]
    work = [k for k, line in enumerate(lines) if "rlfseg preflight" in line or "snakemake" in line]
    assert max(links) < min(work)
