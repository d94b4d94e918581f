"""Long work over many items, in parts: shared by the processes of a launch, resumed after a kill.

Part p is made by the process with index p mod (their number) and lies in a file of its own, so that
what is finished stays, whatever becomes of the run, and another number of processes can go on.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from tqdm.auto import tqdm

from rlfseg.stage import (
    Stage,
    draft_of,
    finished,
    found,
    full_disk_named,
    locked,
    logs_of,
    made,
    readable,
    replaced,
    timed,
)

_LAST = 60  # lines of a process's output that an error repeats
_POLL = 0.2  # seconds
_FIRST = "first"  # the file that says which process of a launch failed first
_UNEQUAL = timedelta(hours=2)  # by which processes may come late to each other
_PATIENCE = 900  # seconds in which the processes of a launch can write what they have and end
_ENDING = (signal.SIGTERM, signal.SIGUSR1)  # ask for an end, and leave time for a checkpoint
_LAUNCHERS_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: Errors of a device or of what joins processes, which the work itself may go on after.
_FROM_OUTSIDE = ("StoppedError", "AcceleratorError", "DistBackendError", "DistNetworkError")
_T = TypeVar("_T")
_launch = ["alone"]  # the name of the launch that this process has joined


class StoppedError(RuntimeError):
    """A signal ended the work, or a device or another node failed; it goes on from what is kept."""


@contextmanager
def signals() -> Iterator[list[str]]:
    """Collect the names of the signals that ask for an end, instead of dying of them.

    Outside the main thread, where Python allows no handlers, the list stays empty.
    """
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, _: object) -> None:
        asked.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in _ENDING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def joined() -> Iterator[None]:
    """Join the launch that this process belongs to, if any, and leave it at the end.

    It must come before anything else asks Accelerate for the device: without a GPU, processes
    share their work only if they are told from the first that it is done on the CPU.
    """
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_UNEQUAL)
    name = [uuid4().hex]
    if state.num_processes > 1:
        broadcast_object_list(name)
    _launch[:] = name
    yield
    state.destroy_process_group()


def as_first(tell: Callable[[], _T]) -> _T:
    """Return what the first process of a launch is told, in all of them; the others don't ask.

    For what each could see otherwise, such as a network.
    """
    state = PartialState()
    told = [tell() if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(told)
    return told[0]  # type: ignore[return-value]


def by_first(
    stage: Stage, fill: Callable[[Path], Mapping[str, Any] | None], *, profile: str
) -> Path:
    """Make a stage in the first process of a launch, or find it; the others wait, however long.

    Arguments and result are those of `rlfseg.stage.made`.
    """
    if PartialState().is_main_process:
        return made(stage, fill, profile=profile)
    return until(lambda: found(stage, profile=profile))


def together(
    stage: Stage, fill: Callable[[Path], Mapping[str, Any] | None], *, profile: str
) -> Path:
    """Make a stage in all processes of a launch, or find it.

    The first locks it against other programs and tells the others, by a file, that it is to be
    made; all call `fill(folder)` with the same folder; when all have ended, the first puts it into
    its place, for which the others wait.

    Arguments and result are those of `rlfseg.stage.made`.
    """
    state = PartialState()
    if state.num_processes == 1 or found(stage, profile=profile) is not None:
        return made(stage, fill, profile=profile)
    draft = draft_of(stage, profile=profile)
    tokens = _tokens(draft)
    if not state.is_main_process:
        until(lambda: tokens[0].exists() or found(stage, profile=profile))
        if tokens[0].exists():
            with full_disk_named(draft):
                fill(draft)
            tokens[state.process_index].touch()
        return until(lambda: found(stage, profile=profile))
    with locked(stage, profile=profile), full_disk_named(draft):
        if (there := found(stage, profile=profile)) is not None:
            return there
        with timed(draft) as attempts:
            tokens[0].touch()
            figures = fill(draft)
            until(lambda: all(token.exists() for token in tokens))
            return finished(stage, draft, figures, profile=profile, attempts=attempts())


def meet(folder: Path, name: str) -> None:
    """Wait in each process of a launch until all have come to this place, however long they take.

    Args:
        folder: of a stage that is made `together`, in which each process leaves a file.
        name: of the place.
    """
    tokens = _tokens(folder, name)
    tokens[PartialState().process_index].touch()
    until(lambda: all(token.exists() for token in tokens))


def launch_for(
    stage: Stage,
    verb: Callable[..., object],
    *arguments: object,
    processes: int,
    profile: str,
    before: Callable[[], object],
) -> None:
    """Call a function that makes a stage in several processes, as `launch` does, if it isn't found.

    A single process, or one that belongs to a launch, is left to make it by itself.

    Args:
        stage: that the verb makes.
        verb: as for `launch`, as are its arguments.
        arguments: of the call.
        processes: how many.
        profile: of the stage.
        before: makes what must be there when they start.

    Raises:
        RuntimeError: if one fails.
    """
    alone = PartialState().num_processes == 1
    if processes > 1 and alone and found(stage, profile=profile) is None:
        before()
        logs = logs_of(stage, profile=profile)
        launch(verb, *arguments, processes=processes, logs=logs)


def launch(verb: Callable[..., object], *arguments: object, processes: int, logs: Path) -> None:
    """Call a function in several processes of this machine, as torchrun does, and wait for them.

    What the first one prints is shown on standard error as it comes, but for notebooks. SIGUSR1
    and SIGTERM are passed on to all of them.

    Args:
        verb: of a module, so that a process can import it; its own work is told by
            `PartialState`, which it may ask from the first line.
        arguments: of the call, the same in each process.
        processes: how many; one for each GPU. Without a GPU they share the CPU's cores.
        logs: a folder; to `rank<k>.log` in it goes all that process k prints, after what is there.

    Raises:
        RuntimeError: if one fails; its last lines are in the message. What was checkpointed stays.
        StoppedError: if a signal ended one or all, or a device failed.
    """
    multiprocessing.set_forkserver_preload([verb.__module__])
    _begin_forking()
    # else it kills what has not ended in half a minute; a large checkpoint takes longer
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_PATIENCE))
    files = _begun(logs, f"{verb.__name__} in {processes} processes", processes)
    with TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="forkserver",  # which imports what all need once, for later launches too
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(folder, redirects=Std.ALL),  # until they have their own
        )
        try:
            with _own_handlers(), _script_unread(), _shown(*next(iter(files.items()))):
                elastic_launch(config, _joined_call)(verb, arguments, logs, Path(folder))
        except (ChildFailedError, SignalException) as error:
            rank, how, passing = _reason(error, Path(folder) / _FIRST)
            told = "\n".join([*_last_lines(Path(folder)), *_last_written(files, rank)])
            raise (StoppedError if passing else RuntimeError)(
                f"{verb.__name__} in {processes} processes {how}. All that they wrote is in "
                f"{logs}; its end:\n{told}"
            ) from error


def _reason(error: ChildFailedError | SignalException, first: Path) -> tuple[int, str, bool]:
    """Return whose last lines tell why a launch ended, how, and whether another may go on."""
    if isinstance(error, SignalException):
        return 0, f"was ended by {error.sigval.name}; run the same again", True
    if first.exists():
        number, kind = first.read_text().split()
        return int(number), "failed", kind in _FROM_OUTSIDE
    rank, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return rank, "failed", False
    name = signal.Signals(-failure.exitcode).name
    why = " (is the memory full?)" if name == "SIGKILL" else ""
    return rank, f"was ended by {name} to process {rank}{why}; run the same again", True


def _begin_forking() -> None:
    """Start what forks the processes, deaf to signals that a cluster sends to all at once.

    It would die of them, and its children with it, before they have written a checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    # which what is started inherits
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begun(logs: Path, what: str, processes: int) -> dict[Path, int]:
    """Begin another part of each log; return where it begins."""
    logs.mkdir(parents=True, exist_ok=True)
    files = {}
    for number in range(processes):
        path = logs / f"rank{number}.log"
        with path.open("a") as file:
            file.write(f"--- {what}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        files[path] = path.stat().st_size
    return files


@contextmanager
def _shown(log: Path, start: int) -> Iterator[None]:
    """Copy what is written to a log to standard error, where that is a terminal's or a file's.

    In a notebook, as wherever it was put in the place of Python's own, it stays silent.
    """
    if sys.stderr is None or sys.stderr is not sys.__stderr__:
        yield
        return
    print(f"the output of all processes is in {log.parent}", file=sys.stderr, flush=True)
    over = threading.Event()

    def follow() -> None:
        with log.open("rb") as file:
            file.seek(start)
            while True:
                last = over.wait(_POLL)
                sys.stderr.buffer.write(file.read())
                sys.stderr.flush()
                if last:
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tokens(folder: Path, name: str = "") -> list[Path]:
    """Files by which the processes of this very launch tell each other something."""
    numbers = range(PartialState().num_processes)
    return [folder / f".{name}{_launch[0]}-{number}.tmp" for number in numbers]


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Pass SIGUSR1 on to the processes, and put the signals' handlers back at the end.

    PyTorch's launcher passes others on, and leaves its own handlers, which raise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _LAUNCHERS_SIGNALS}

    def pass_on(number: int, _: object) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, number)

    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _script_unread() -> Iterator[None]:
    """Keep the processes from reading the script that launches them, which would launch again.

    What they call is of a module, and imported by its name.
    """
    main = sys.modules["__main__"]
    script, spec = vars(main).pop("__file__", None), main.__spec__
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if script is not None:
            main.__file__ = script


def _joined_call(
    verb: Callable[..., object], arguments: Sequence[object], logs: Path, folder: Path
) -> None:
    """One process of a launch; the first that fails leaves its number in the folder."""
    for number in _ENDING:  # to which its parent is deaf
        signal.signal(number, signal.SIG_DFL)
    log = (logs / f"rank{os.environ['RANK']}.log").open("ab")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log.fileno(), stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(own_cores())
    with joined():
        try:
            verb(*arguments)
        except BaseException as error:
            traceback.print_exc()
            with suppress(FileExistsError), (folder / _FIRST).open("x") as file:
                # that another is gone is no mistake of this one; the other left nothing
                gone = isinstance(error, RuntimeError) and "by peer" in str(error)
                kind = StoppedError if gone else type(error)
                file.write(f"{os.environ['RANK']} {kind.__name__}")
            raise


def _last_lines(folder: Path) -> list[str]:
    """The end of what processes wrote before they had logs, as where an import failed."""
    files = [*sorted(folder.rglob("stdout.log")), *sorted(folder.rglob("stderr.log"))]
    return [
        line for file in files for line in file.read_text(errors="replace").splitlines()[-_LAST:]
    ]


def _last_written(files: Mapping[Path, int], last: int) -> list[str]:
    """The end of each log's part, that of the process whose number is `last` at the end."""
    parts = [path.read_bytes()[start:].decode(errors="replace") for path, start in files.items()]
    parts.append(parts.pop(last))
    return [line for part in parts for line in part.splitlines()[-_LAST:]]


def in_parts(
    paths: Sequence[Path],
    ranges: Sequence[range],
    make: Callable[[range], Mapping[str, np.ndarray]],
    *,
    title: str,
    unit: str = "it",
) -> None:
    """Make the parts that are missing; return when all are there, in every process.

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
    waited = list(paths)

    def there() -> bool:
        while waited and waited[-1].is_file():
            waited.pop()
        return not waited

    until(there)
    state.wait_for_everyone()


def own_cores() -> int:
    """Return this process's share of the cores that its machine lets it use, at least 1."""
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (every or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def cut(total: int, size: int) -> list[range]:
    """Cut the numbers 0 to total - 1 into consecutive ranges of a size, the last one shorter."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def until(ready: Callable[[], _T | None]) -> _T:
    """Wait for other processes, however long they take, and return what they made ready.

    A barrier would run out of time. The longer it waits, the more seldom it looks.
    """
    pause = _POLL / 20
    while not (there := ready()):
        time.sleep(pause)
        pause = min(1.5 * pause, _POLL)
    return there


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replaced(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _is_whole(path: Path) -> bool:
    """Whether a part is there and can be read; a power cut may have spoiled it.

    Raises:
        OSError: if the system can't read it: what is finished may not be taken for spoiled.
    """
    try:
        with readable(path), np.load(path) as arrays:
            return all(arrays[name] is not None for name in arrays.files)
    except (FileNotFoundError, ValueError):
        path.unlink(missing_ok=True)
        return False
