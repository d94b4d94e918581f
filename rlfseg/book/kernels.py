"""Kernels that have imported already: forked, for the chain, from one process that did it once.

What chapters import takes a kernel nine seconds of a core (Zen 3), and there are seventeen. Jupyter
begins, watches, interrupts and kills a go-between in a kernel's place; the two end together.

python rlfseg/book/kernels.py serve NUMBER         forks kernels; NUMBER is that of the open socket
python rlfseg/book/kernels.py SOCKET -f FILE       the go-between, which imports next to nothing
"""

import gc
import json
import os
import pkgutil
import shutil
import signal
import socket
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from subprocess import Popen
from tempfile import mkdtemp

#: The variable of the environment that names the socket, and the Slurm job that may use it.
KERNELS = "RLFSEG_KERNELS"
#: How this file is run: its folder is not one to import from.
PROGRAM = (sys.executable, "-P", __file__)
_POLL = 1.0  # seconds


def begin() -> None:
    """Serve forked kernels to all that this process starts, until it has ended."""
    place = Path(mkdtemp(prefix="rlfseg-"), "kernels")  # a folder that is closed to other users
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        number = listener.fileno()
        Popen([*PROGRAM, "serve", str(number)], pass_fds=[number], start_new_session=True)
    os.environ[KERNELS] = f"{place}@{_job()}"


def served_here() -> str | None:
    """Return the socket, if there is one that this process may use.

    There is none if its chain has ended, or is on another node; nor in a job of its own, from whose
    cores and time a forked kernel would escape.
    """
    place, _, job = os.environ.get(KERNELS, "").rpartition("@")
    return place if job == _job() and Path(place).is_socket() else None


def _job() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


def _serve(listener: socket.socket) -> socket.socket:
    """Fork a process for each go-between that calls; return in such a process, with the line."""
    parent, place, loaded = os.getppid(), Path(listener.getsockname()), False
    listener.settimeout(_POLL)
    while os.getppid() == parent:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            line, _ = listener.accept()
        except TimeoutError:
            continue
        if not loaded:
            _load()
            loaded = True
        if os.fork() == 0:
            return line
        line.close()
    shutil.rmtree(place.parent, ignore_errors=True)
    sys.exit()


def _load() -> None:
    """Import all of the package, and with it the libraries."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # read at import
    import_module("ipykernel.kernelapp")
    package = import_module("rlfseg")
    with warnings.catch_warnings(action="ignore"):  # they would be said to nobody's notebook
        for module in pkgutil.walk_packages(package.__path__, "rlfseg."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    gc.collect()
    gc.freeze()  # so that no kernel searches it, and the pages stay shared


def _become_kernel(line: socket.socket) -> None:
    """Take the place in which the go-between was started, and be a kernel there."""
    import torch
    from ipykernel.kernelapp import IPKernelApp

    length, streams, *_ = socket.recv_fds(line, 4, 2)
    order = json.loads(line.recv(int.from_bytes(length), socket.MSG_WAITALL))
    for own, given in zip((1, 2), streams, strict=True):
        os.dup2(given, own)
        os.close(given)
    sys.argv[1:] = order["arguments"]
    os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    threading.Thread(target=_follow, args=(line,), daemon=True).start()
    IPKernelApp.launch_instance(order["arguments"], parent_handle=os.getppid())


def _follow(line: socket.socket) -> None:
    """Have the signals that the go-between has, and end with it."""
    while number := line.recv(1):
        os.kill(os.getpid(), ord(number))
    os.killpg(os.getpid(), signal.SIGKILL)


def _stand_for(place: str, arguments: list[str]) -> None:
    """Have a kernel forked, hand on signals, and end with it or with whoever began this.

    Where the server has died, this process becomes a kernel as any is.
    """
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(place)
        except OSError:
            os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
        order = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        sent = json.dumps(order).encode()
        socket.send_fds(line, [len(sent).to_bytes(4)], [1, 2])
        line.sendall(sent)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda number, _: line.send(bytes([number])))
        line.settimeout(_POLL)
        while os.getppid() == parent:
            with suppress(TimeoutError):
                with suppress(ConnectionResetError):  # of a kernel that left something unread
                    line.recv(1)
                return


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _become_kernel(_serve(socket.socket(fileno=int(sys.argv[2]))))
    else:
        _stand_for(sys.argv[1], sys.argv[2:])
