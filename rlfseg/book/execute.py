"""Executes a chapter for the chain: by papermill, with a kernel that is spoken to through files.

python -m rlfseg.book.execute NOTEBOOK EXECUTED PARAMETERS    and writes times below its title

Its status says whether a failure is worth another attempt: see `main`.

For one chapter at a time `papermill NOTEBOOK EXECUTED -f PARAMETERS` does. Of several kernels that
begin at once, two may choose the same TCP port; one dies of it, and papermill waits for ever.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from rlfseg.book.executed import finish
from rlfseg.book.kernels import PROGRAM, served_here
from rlfseg.chapters import assigned
from rlfseg.config import read_yaml

STOPPED = 75  # BSD's status of a temporary failure
#: `rlfseg.processes`'s, which would be imported for its name alone, and PyTorch's of a GPU.
_FROM_OUTSIDE = ("StoppedError", "AcceleratorError")


class _KernelManager(AsyncKernelManager):
    """Has kernels forked, where `rlfseg.book.kernels` serves them."""

    begun: ClassVar[list[AsyncKernelManager]] = []

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        self.begun.append(self)
        command, place = super().format_kernel_cmd(extra_arguments), served_here()
        return command if place is None else [*PROGRAM, place, *command[command.index("-f") :]]


def execute(notebook: Path, executed: Path, parameters: Path) -> None:
    """Execute a notebook with the parameters of a YAML file; write it, cell by cell, to `executed`.

    Raises:
        ValueError: if the file is no YAML of parameters, or the notebook doesn't have one of them;
            nothing is executed.
        papermill.PapermillExecutionError: if a cell fails; what was executed is kept.
    """
    given, known = read_yaml(parameters), _known(notebook)
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"{parameters}: {', '.join(unknown)}: {notebook} has no such parameter; "
            f"it has {', '.join(known)}"
        )
    # of what it can't read of a parameters cell it says that it is unknown
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}  # a file's name, for the latter
        papermill.execute_notebook(
            notebook,
            executed,
            given,
            config=Config({"KernelManager": sockets}),
            kernel_manager_class=_KernelManager,
        )


def _known(notebook: Path) -> list[str]:
    """Return the names that the cell of the parameters sets."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    given = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return [name for cell in given for name in assigned("".join(cell["source"]))]


@contextmanager
def _handed_on() -> Iterator[list[int]]:
    """Hand SIGTERM and SIGUSR1 on to the kernel, and stay for what it still writes.

    Yields:
        The signals that came. A kernel that loses its parent is gone within a second.
    """
    asked: list[int] = []

    def hand_on(number: int, _: object) -> None:
        asked.append(number)
        for manager in _KernelManager.begun:
            if pid := getattr(manager.provisioner, "pid", None):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)  # itself alone, that it may end what it began

    before = {each: signal.signal(each, hand_on) for each in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(places: Sequence[Path]) -> int:
    """Execute and finish a chapter; say why not on standard error.

    Returns:
        0; `STOPPED` where a signal ended it, as at the end of a job's time, or a device failed; 1
        for what would only happen again.
    """
    with _handed_on() as asked:
        try:
            execute(*places)
        except (ValueError, papermill.PapermillExecutionError) as error:
            print(error, file=sys.stderr)
            return STOPPED if asked or getattr(error, "ename", "") in _FROM_OUTSIDE else 1
        except RuntimeError as error:
            # a kernel dies of a signal; one that comes each time, as without memory, is counted
            if not asked and not isinstance(error, DeadKernelError):
                raise
            print(error, file=sys.stderr)
            return STOPPED
    finish(places[1])
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(each) for each in sys.argv[1:]]))
