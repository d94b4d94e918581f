"""A small training, launches of two processes, and what a launch may call."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from rlfseg.config import OptimiserConfig
from rlfseg.processes import StoppedError, joined, signals, until
from rlfseg.training.loop import Losses

CONFIG = OptimiserConfig(
    steps=11, lr=1e-2, warmup=3, schedule="cosine", weight_decay=0.1, beta2=0.95
)


class Regression(nn.Module):
    """A small network with a frozen part; its batch is (x, y)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.fixed = nn.Linear(3, 5).requires_grad_(False)
            self.free = nn.Linear(5, 2)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Losses:
        x, y = batch
        error = (self.free(torch.tanh(self.fixed(x))) - y).square().mean(1)
        return Losses(error, {"error": error, "large": error > 1})


class Named(NamedTuple):
    """A batch whose samples have names."""

    x: Tensor
    y: Tensor
    names: tuple[str, ...]


class Pair(Regression):
    """Takes a batch whose samples have names."""

    def forward(self, batch: Named) -> Losses:  # type: ignore[override]
        return super().forward((batch.x, batch.y))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator)


def run_two(work: Callable[..., None], *arguments: object) -> None:
    """Runs `work(*arguments)` in two processes of one launch, which must both end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")  # imports are not made anew each time
    processes = [
        context.Process(target=_one_of_two, args=(rank, port, work, *arguments))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        process.kill()  # where it still waits for the other
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def _one_of_two(rank: int, port: int, work: Callable[..., None], *arguments: object) -> None:
    """Tells Accelerate, by the environment that launchers set, that there are two processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)  # what earlier tests have asked for
    torch.set_num_threads(1)
    with joined():
        work(*arguments)


def tell(folder: Path, *arguments: object) -> None:
    """Write down which process this is and what it was called with; end when a signal says so."""
    state = PartialState()
    state.wait_for_everyone()
    told = f"{state.num_processes} {state.device} {arguments!r}"
    print(f"process {state.process_index} says {arguments!r}")
    os.system(f"echo a child of process {state.process_index} says more >&2")
    with signals() as asked:
        (folder / f"{state.process_index}.txt").write_text(told)
        until(lambda: asked)


def sign(folder: Path) -> None:
    """Write down that this process was called."""
    (folder / f"{PartialState().process_index}.txt").touch()


def stumble(word: str) -> None:
    """Fail in the second process alone, while the first waits for it."""
    state = PartialState()
    if state.process_index == 1:
        raise LookupError(f"there is no {word} in process {state.process_index}")
    state.wait_for_everyone()


def vanish(out: Path) -> None:
    """The second process is killed, as by a machine without memory, while the first waits for it.

    The first notices by its connection or not at all, whichever comes first.
    """
    state = PartialState()
    if state.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    state.wait_for_everyone()


def lose(out: Path) -> None:
    """A device fails in one process."""
    if PartialState().process_index == 1:
        raise torch.distributed.DistBackendError("NCCL error: unhandled system error")
    until(lambda: None)


def hold_out(out: Path) -> None:
    """Works until a signal asks for an end, and takes its time to write what it has."""
    rank = PartialState().process_index
    with signals() as asked:
        (out / f"begun{rank}").touch()
        until(lambda: asked or None)
        time.sleep(1)
        (out / f"ended{rank}").write_text(asked[0])
    raise StoppedError("as a training does")
