"""Read a pickle that can hold data only: REFER's `refs(*.p)` are pickles, mostly of Python 2."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from rlfseg.data.files import BRIEF

_NUMBERED = ("PUT", "BINPUT", "LONG_BINPUT")


class _Refused(Exception):
    """The pickle asks for something other than plain data."""


class _Plain(pickle.Unpickler):
    """Builds what the format itself can express and looks nothing up.

    Without a lookup no class or function ever reaches the stack, so the opcodes that would call
    one or set its state find nothing to work on.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise _Refused(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"it refers to an object outside the file ({BRIEF.repr(pid)})")


def _bounded(content: bytes) -> None:
    """Refuse a pickle that asks for more memory than its own size can account for.

    The unpickler makes room for an object's number at once, and a few bytes can give any number.
    What is read, and so what is built, is bounded by the file's size.
    """
    for opcode, number, _ in pickletools.genops(content):
        if opcode.name in _NUMBERED and int(number or 0) > len(content):
            raise _Refused(f"it numbers an object {number}, and has {len(content)} bytes")


def load(path: Path) -> Any:
    """Read a pickle of lists, tuples, dicts, sets, str, bytes, numbers, bools and None.

    All protocols are read. A `str` of Python 2 comes out as `str`, taken as UTF-8: REFER's are
    ASCII, and other bytes are reported, not guessed at. What a protocol can only write by naming
    a class or a function is refused with it: sets below protocol 4, bytes of Python 3 below
    protocol 3. REFER's files have neither.

    Args:
        path: the file; it may come from anyone.

    Returns:
        The content.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the pickle names a class or function, or an object outside the file, or
            wants memory beyond its size (nothing was run: the message says what it asked for); if
            it is cut off or damaged.
    """
    content = path.read_bytes()
    try:
        _bounded(content)
        return _Plain(io.BytesIO(content), fix_imports=False, encoding="utf-8").load()
    except _Refused as error:
        raise ValueError(
            f"{path} is refused: {error}, where only lists, dicts, texts and numbers belong; "
            "nothing was run. Fetch the file from its official home"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way: the library says so
        raise ValueError(
            f"{path} is not a complete pickle ({type(error).__name__}: {error}): fetch it again"
        ) from error
