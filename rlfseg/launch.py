"""Starts several processes that work together, by torchrun: the same code as one alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState

from rlfseg.stage import repository

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
