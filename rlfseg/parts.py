"""Long work over many items, in parts: shared by the processes of a launch, resumed after a kill.

Part p is made by the process with index p mod (their number) and lies in a file of its own, so that
what is finished stays, whatever becomes of the run, and another number of processes can go on.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState
from tqdm.auto import tqdm

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
