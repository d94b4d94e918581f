"""Long work over many items, in parts: shared by the processes of a launch, resumed after a kill.

Part p is made by the process with index p mod (their number) and lies in a file of its own, so that
what is finished stays, whatever becomes of the run, and another number of processes can go on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from rlfseg.stage import repository


@contextmanager
def signals() -> Iterator[list[str]]:
    """Collects the names of the signals that ask for an end, instead of dying of them.

    Outside the main thread, where Python allows no handlers, the list stays empty.
    """
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    wanted = (signal.SIGTERM, signal.SIGUSR1)

    def note(number: int, _: object) -> None:
        asked.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_LAST = 60  # lines of the processes' output that an error repeats; torchrun adds 30


@contextmanager
def joined() -> Iterator[None]:
    """Joins the launch that this process belongs to, if any, and leaves it at the end.

    It must come before anything else asks Accelerate for the device: without a GPU, processes
    share their work only if they are told from the first that it is done on the CPU.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    yield
    state.destroy_process_group()


def launch(command: str, parameters: Mapping[str, Any], *, processes: int) -> None:
    """Runs `python -m rlfseg COMMAND` in several processes of this machine and waits for them.

    Args:
        command: `train` or `evaluate`.
        parameters: of a run, as `Description.parameters` gives them, and what else the command
            reads.
        processes: how many; one for each GPU. Without a GPU they share the CPU's cores.

    Raises:
        RuntimeError: if one fails; its last lines are in the message. What was checkpointed stays.
    """
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment["OMP_NUM_THREADS"] = str(threads)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        file.write_text(json.dumps(parameters))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun += ["--nproc_per_node", str(processes)]
        done = subprocess.run(
            [*torchrun, "-m", "rlfseg", command, str(file)],
            cwd=repository(),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        told = "\n".join(done.stdout.splitlines()[-_LAST:])
        what = f"rlfseg {command} in {processes} processes"
        raise RuntimeError(f"{what} failed ({done.returncode}):\n{told}")


_POLL = 0.2  # seconds
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def in_parts(
    paths: Sequence[Path],
    ranges: Sequence[range],
    make: Callable[[range], Mapping[str, np.ndarray]],
    *,
    title: str,
    unit: str = "it",
) -> None:
    """Makes the parts that are missing; returns when all are there, in every process.

    Args:
        paths: an .npz for each part, in one folder, the same in every process.
        ranges: the numbers of the items that each part is of.
        make: gives the arrays of one part.
        title: of the progress bar.
        unit: what an item is called there.
    """
    state = PartialState()
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    own = range(state.process_index, len(paths), state.num_processes)
    missing = [number for number in own if not _is_whole(paths[number])]
    state.wait_for_everyone()  # the first to end may take the parts away: all have looked by then
    total = sum(len(ranges[number]) for number in own)
    done = total - sum(len(ranges[number]) for number in missing)
    quiet = not state.is_main_process
    with tqdm(total=total, initial=done, desc=title, unit=unit, leave=False, disable=quiet) as bar:
        for number in missing:
            _write(paths[number], make(ranges[number]))
            bar.update(len(ranges[number]))
    until(lambda: all(path.is_file() for path in paths))
    state.wait_for_everyone()


def cut(total: int, size: int) -> list[range]:
    """Numbers 0 to total - 1 in consecutive ranges of a size, the last one shorter."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def until(ready: Callable[[], bool]) -> None:
    """Waits for other processes, however long they take: a barrier would run out of time."""
    while not ready():
        time.sleep(_POLL)


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    with draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(draft, path)


def _is_whole(path: Path) -> bool:
    """Whether a part is there and can be read; a power cut may have spoiled it."""
    try:
        with np.load(path) as arrays:
            return all(arrays[name] is not None for name in arrays.files)
    except _BROKEN:
        path.unlink(missing_ok=True)
        return False
