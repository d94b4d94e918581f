"""Chapters that are executed at once can't take each other's ports, and needn't import anew."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from papermill import PapermillExecutionError

from rlfseg.book import kernels
from rlfseg.book.execute import execute, main
from rlfseg.book.kernels import KERNELS, served_here

GIVEN = """count = 1
runs = {"t = 1": {}}
"""
PAGE = """
import json
from ipykernel import get_connection_info
assert count < 3, "too many"
print(count, json.loads(get_connection_info())["transport"])
"""


FORKED = """
import os, sys, matplotlib
before = "rlfseg.experiment" in sys.modules
import time, torch
os.system("echo said below")
print(before, os.getcwd(), os.environ["SAID"], torch.get_num_threads(), matplotlib.get_backend())
open("number", "w").write(f"{os.getpid()};")
while count == 2:
    time.sleep(0.1)
"""
# What an executing process is, with a server of its own: it says where that is, and executes.
PROGRAM = """
import os, sys
from pathlib import Path
from rlfseg.book.kernels import KERNELS, begin
begin()
print(os.environ[KERNELS], flush=True)
from rlfseg.book.execute import execute
execute(*map(Path, sys.argv[1:]))
"""
HELD = """
import signal, time
asked = []
if count == 2:
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
open("number", "w").write("1;")
while not asked:
    time.sleep(0.1)
open("written", "w").write("all")
raise RuntimeError("stopped")
"""
MAIN = """
import sys
from pathlib import Path
from rlfseg.book.execute import main
if sys.argv[1] == "forked":
    from rlfseg.book.kernels import begin
    begin()
sys.exit(main([Path(each) for each in sys.argv[2:]]))
"""


def page(folder: Path, told: str = PAGE) -> Path:
    cells = [
        {
            "cell_type": "code",
            "id": name,
            "metadata": {"tags": tags},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for name, tags, source in (("given", ["parameters"], GIVEN), ("told", [], told))
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


@pytest.mark.integration
@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("raise ValueError('wrong')", 1),
        ("from rlfseg.processes import StoppedError\nraise StoppedError('by SIGTERM')", 75),
        ("raise RuntimeError('StoppedError is a name')", 1),
        ("class AcceleratorError(RuntimeError): ...\nraise AcceleratorError('CUDA error')", 75),
        ("import os\nos.kill(os.getpid(), 9)", 75),
        ("pass", 0),
    ],
)
def test_only_what_a_signal_or_a_device_stopped_is_worth_another_attempt(
    tmp_path: Path, told: str, status: int
) -> None:
    given, done = tmp_path / "given.yml", tmp_path / "done.ipynb"
    given.write_text("count: 2\n")
    assert main([page(tmp_path, told), done, given]) == status
    assert done.exists()


def test_a_name_that_the_notebook_does_not_have_is_an_error(tmp_path: Path) -> None:
    given, done = tmp_path / "given.yml", tmp_path / "done.ipynb"
    given.write_text("count: 2\ncuont: 3\n")
    with pytest.raises(ValueError, match=r"given\.yml: cuont: .*no such parameter; .*count, runs"):
        execute(page(tmp_path), done, given)
    assert not done.exists()


def begun(folder: Path, count: int) -> subprocess.Popen[str]:
    """Begin to execute the page above by a forked kernel."""
    given = folder / "given.yml"
    given.write_text(f"count: {count}\n")
    files = map(str, (page(folder, FORKED), folder / "done.ipynb", given))
    environ = {**os.environ, "SAID": "elsewhere", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", PROGRAM, *files]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=pipe, stderr=pipe, text=True)


def by(limit: float, met: Callable[[], bool]) -> bool:
    """Wait until something is so, at most some seconds."""
    end = time.monotonic() + limit
    while not met() and time.monotonic() < end:
        time.sleep(0.05)
    return met()


def gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


def said(executed: Path) -> str:
    outputs = json.loads(executed.read_text())["cells"][-1]["outputs"]
    return "".join("".join(each["text"]) for each in outputs if each["output_type"] == "stream")


@pytest.mark.integration
def test_a_forked_kernel_is_as_one_that_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(tmp_path, count=1) as process:
        assert process.stdout is not None
        place = Path(process.stdout.readline().strip().removesuffix("@"))
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        _, complaints = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in complaints  # Jupyter interrupts a kernel before it is shut down
    forked = said(tmp_path / "done.ipynb")
    assert forked.startswith("True ")  # what chapters import was there
    assert by(10, lambda: not place.parent.exists())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KERNELS, f"{place}@")
    monkeypatch.setenv("SAID", "elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    execute(tmp_path / "page.ipynb", tmp_path / "started.ipynb", tmp_path / "given.yml")
    assert said(tmp_path / "started.ipynb") == forked.replace("True", "False", 1)


@pytest.mark.integration
def test_a_forked_kernel_ends_with_whoever_executes(tmp_path: Path) -> None:
    with begun(tmp_path, count=2) as process:
        assert process.stdout is not None
        place = Path(process.stdout.readline().strip().removesuffix("@"))
        number = tmp_path / "number"
        assert by(120, lambda: number.exists() and number.read_text().endswith(";"))
        kernel = int(number.read_text().rstrip(";"))
        assert not gone(kernel)
        process.kill()
        assert by(10, lambda: gone(kernel) and not place.parent.exists())


def test_without_its_server_a_kernel_starts_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []

    def execv(_: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise SystemExit

    monkeypatch.setattr(os, "execv", execv)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("left")  # by a server that was killed
    for place in ("left", "nowhere"):
        with pytest.raises(SystemExit):
            kernels._stand_for(place, ["-f", "a.json"])
    assert [each[1:] for each in started] == 2 * [["-m", "ipykernel_launcher", "-f", "a.json"]]


def test_a_job_of_its_own_forks_no_kernel_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("at@here")
        monkeypatch.setenv(KERNELS, "at@here@7")
        assert served_here() is None
        monkeypatch.setenv("SLURM_JOB_ID", "8")
        assert served_here() is None
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        assert served_here() == "at@here"
    (tmp_path / "at@here").unlink()
    assert served_here() is None


@pytest.mark.integration
@pytest.mark.parametrize(
    ("kernel", "number"),
    [("started", signal.SIGTERM), ("started", signal.SIGUSR1), ("forked", signal.SIGTERM)],
)
def test_a_signal_leaves_the_kernel_time_to_write(
    tmp_path: Path, kernel: str, number: signal.Signals
) -> None:
    assert stopped(tmp_path, kernel, number, count=2) == 75
    assert (tmp_path / "written").read_text() == "all"
    assert "stopped" in (tmp_path / "done.ipynb").read_text()


@pytest.mark.integration
def test_a_kernel_that_dies_of_the_signal_is_worth_another_attempt(tmp_path: Path) -> None:
    assert stopped(tmp_path, "started", signal.SIGTERM, count=1) == 75
    assert not (tmp_path / "written").exists()


def stopped(folder: Path, kernel: str, number: signal.Signals, *, count: int) -> int:
    """The status of a program that executes the page above and alone is sent a signal."""
    (folder / "given.yml").write_text(f"count: {count}\n")
    files = map(str, (page(folder, HELD), folder / "done.ipynb", folder / "given.yml"))
    with subprocess.Popen([sys.executable, "-c", MAIN, kernel, *files], cwd=folder) as process:
        assert by(60, (folder / "number").exists)
        process.send_signal(number)
        return process.wait(30)
