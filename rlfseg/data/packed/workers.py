"""Worker processes that are handed tasks in order, and end with whoever started them."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any, TypeVar

from rlfseg.data.packed.schema import PackError

_AHEAD = 2  # tasks for each worker that are handed out before their turn
_T = TypeVar("_T")
_R = TypeVar("_R")


@contextmanager
def ordered_map(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Give a `map(function, tasks)` that works in processes, or in this one if `workers` is 0.

    Results come in the tasks' order, and tasks are taken only a few ahead of their results. The
    processes start here, so that whoever opens HDF5 files afterwards doesn't hand them down.

    Raises:
        PackError: from the map, if a worker was killed.
    """
    if workers == 0:
        yield map
        return
    # a process of a launch would spawn them by default, and each import all anew
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, context, initializer=begin)
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
            "a worker process was killed, perhaps for want of memory: run the same again, with "
            "fewer workers if memory ran out; what was packed is kept"
        ) from error


def begin() -> None:
    """Begin in a pool: leave Ctrl-C to the parent, and end when it does, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = parent_process()  # who asked for this one, however it was started
    assert parent is not None
    parent.join()
    os._exit(1)
