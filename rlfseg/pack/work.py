"""Worker processes that keep order, run ahead by a bounded number of tasks and end with us."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from rlfseg.pack.schema import PackError

_AHEAD = 2  # tasks for each worker that are handed out before their turn
_T = TypeVar("_T")
_R = TypeVar("_R")


@contextmanager
def ordered_map(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yields a `map(function, tasks)` that works in processes, or in this one if `workers` is 0.

    Results come in the tasks' order, and tasks are taken only a few ahead of their results. The
    processes start here, so that whoever opens HDF5 files afterwards doesn't hand them down.

    Raises:
        PackError: from the map, if a worker was killed.
    """
    if workers == 0:
        yield map
        return
    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(os.getpid(),))
    try:
        pool.submit(os.getpid).result()

        def run(function: Callable[[_T], _R], tasks: Iterable[_T]) -> Iterator[_R]:
            return _ahead(pool, workers * _AHEAD, function, tasks)

        yield run
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ProcessPoolExecutor, most: int, function: Callable[[_T], _R], tasks: Iterable[_T]
) -> Iterator[_R]:
    waiting: deque[Future[_R]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise PackError(
            "a worker process was killed, perhaps for want of memory: what is finished is kept, "
            "run the same again to go on, with fewer workers if memory ran out"
        ) from error


def _begin(parent: int) -> None:
    """Leaves Ctrl-C to the parent, and ends when the parent does, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
