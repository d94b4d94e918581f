"""Content-addressed stages: a finished artefact with the same hash is found instead of made again.

A stage's hash covers its name, a version number bumped by hand when its meaning changes, its
settings and its inputs' hashes; not its source text and not the machine. Artefacts shipped
with the repository (`artefacts/<profile>`) are nothing but a cache filled beforehand: a folder of
`runs/<profile>/stages`, moved.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tokenize import TokenError
from typing import Any, Self
from uuid import uuid4
from zipfile import BadZipFile

from filelock import FileLock, Timeout
from safetensors import SafetensorError

RECORD = "stage.json"
_ATTEMPTS = "attempts.json"  # among the parts
PARTS = "parts"  # of a folder that is filled: what long work is resumed from, gone at the end
#: What libraries raise over a damaged file.
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    SyntaxError,  # of NumPy's headers, which are Python's
    TokenError,
    RuntimeError,  # of a zip file's compression or encryption
    AttributeError,
    BadZipFile,
    SafetensorError,
    zlib.error,
)
#: What the system says when nothing more fits, or nothing may be written at all.
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}
_LOCKLESS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
#: When something was worked on: beginnings and ends, seconds since 1970, the last one's last.
Attempts = list[tuple[float, float]]
_SOON = 10  # seconds for which another program is waited for without a word
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow")


@dataclass(frozen=True)
class Stage:
    """What an artefact is made of.

    Attributes:
        name: begins the name of its folder; `-` instead of `/`.
        version: bumped by hand when the same configuration comes to mean something else.
        config: JSON-able settings that determine the result, as they are hashed.
        inputs: the stages whose artefacts it reads, by role.
        settings: all of them, defaults included, for the record.
    """

    name: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Self] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls, name: str, version: int, settings: Any, inputs: Mapping[str, Self] | None = None
    ) -> Self:
        """Make a stage of a dataclass of settings, hashed as `hashed` says."""
        return cls(name, version, hashed(settings), inputs or {}, asdict(settings))

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that identify the result."""
        inputs = {role: stage.hash for role, stage in self.inputs.items()}
        text = json.dumps([self.name, self.version, self.config, inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """The name of its artefact's folder, among those that ship and those made here alike."""
        return f"{self.name}-{self.hash}"


def hashed(settings: Any) -> dict[str, Any]:
    """Return what of a dataclass of settings goes into a hash: this is the one policy.

    All fields do, and those of settings among them, but for those that a class lists in `UNHASHED`
    while they have their default. So a setting can be added later, listed, and what was made before
    stays current. A default that is left out must then never change: a test pins them.
    """
    quiet = {f.name: f.default for f in fields(settings) if f.name in _unhashed(settings)}
    values = asdict(settings)
    parts = {name: getattr(settings, name) for name in values}
    values |= {name: hashed(part) for name, part in parts.items() if is_dataclass(part)}
    return {name: v for name, v in values.items() if name not in quiet or v != quiet[name]}


def _unhashed(settings: Any) -> tuple[str, ...]:
    return tuple(getattr(settings, "UNHASHED", ()))


_asked: dict[str, Stage] = {}


def asked() -> dict[str, Stage]:
    """Return the stages that this process has looked for or made since it began, by folder."""
    return dict(_asked)


def forget() -> None:
    """Let `asked` begin anew."""
    _asked.clear()


def repository() -> Path:
    """Return the folder that holds `book/` and `params/`, from the working folder upwards.

    Raises:
        FileNotFoundError: if the working folder is not inside the repository.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "params").is_dir() and (folder / "book").is_dir():
            return folder
    raise FileNotFoundError(f"{here} is not inside the repository (no params/ and book/ above it)")


def kept(profile: str) -> Path:
    """Return the folder of a pass's notebooks, results and findings.

    That is `runs/<profile>/`, or `minimal/` in it where the environment says `MINIMAL=1`: such a
    pass shares the stages of a full one, and leaves its results alone.
    """
    folder = repository() / "runs" / profile
    return folder if os.environ.get("MINIMAL", "") in ("", "0") else folder / "minimal"


def shipped(profile: str, stage: Stage) -> Path:
    """Where the repository keeps this stage's artefact, if it ships one."""
    return repository() / "artefacts" / profile / stage.folder


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record that `made` wrote beside an artefact.

    Raises:
        FileNotFoundError: if the folder holds no finished artefact.
        ValueError: if the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no finished artefact here")
    with readable(path):
        record = dict(json.loads(path.read_text()))
        str(record["hash"])
        return record


@contextmanager
def readable(path: Path, *, folder: Path | None = None) -> Iterator[None]:
    """Make of whatever goes wrong in reading a file of ours one error that names it.

    Args:
        path: the file, or what is read.
        folder: that is to be deleted to have it made again; by default the one that it lies in.

    Raises:
        ValueError: if it was cut off or changed since it was written.
        OSError: if it is not there, or there is no reading it at all.
    """
    try:
        yield
    except DAMAGE as error:
        if of_the_system(error):
            raise
        raise ValueError(
            f"{path} can't be read ({type(error).__name__}: {error}): it was cut off or changed "
            f"since it was written; delete {folder or path.parent} and run the same again"
        ) from error


def of_the_system(error: Exception) -> bool:
    """Tell whether the system refused, and not a library for what it read.

    A library's own error has no number, or is of a place outside the file.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def is_current(folder: Path, stage: Stage) -> bool:
    """Tell whether the folder holds a finished artefact of exactly this stage."""
    return (folder / RECORD).is_file() and read_record(folder)["hash"] == stage.hash


def found(stage: Stage, *, profile: str) -> Path | None:
    """Return the folder of a stage's finished artefact, or None.

    It is looked for among the shipped artefacts (unless the environment says `FRESH=1`), then in
    `runs/<profile>/`.
    """
    _asked[stage.folder] = stage
    kept = shipped(profile, stage)
    if os.environ.get("FRESH", "") in ("", "0") and is_current(kept, stage):
        return kept
    final = made_at(stage, profile=profile)
    return final if is_current(final, stage) else None


def made_at(stage: Stage, *, profile: str) -> Path:
    """Where what is made for a stage lies, whether it is there or not."""
    _asked[stage.folder] = stage
    return repository() / "runs" / profile / "stages" / stage.folder


def logs_of(stage: Stage, *, profile: str) -> Path:
    """Where the logs of the processes that make a stage lie, one for each; they stay."""
    return repository() / "runs" / profile / "logs" / stage.folder


def made(stage: Stage, fill: Callable[[Path], Mapping[str, Any] | None], *, profile: str) -> Path:
    """Return the folder of a stage's artefact, making it only if it is not there.

    It is looked for as by `found`. Where several programs want it at once, one makes it and the
    others wait. `fill(folder)` fills a folder that survives an interruption, so that it can resume
    from what it finds there, and returns figures to keep in the record. In the processes of a
    launch see `rlfseg.processes.by_first` and `together`.

    Args:
        stage: what is wanted.
        fill: writes the artefact into the folder it is given.
        profile: a folder of `params/`, as `mini`.

    Returns:
        The folder, holding what `fill` wrote and `stage.json`.
    """
    if (there := found(stage, profile=profile)) is not None:
        return there
    with locked(stage, profile=profile) as draft, full_disk_named(draft):
        if (there := found(stage, profile=profile)) is not None:
            return there
        with timed(draft) as attempts:
            figures = fill(draft)
            return finished(stage, draft, figures, profile=profile, attempts=attempts())


@contextmanager
def locked(stage: Stage, *, profile: str) -> Iterator[Path]:
    """Keep other programs from making a stage; yields the folder that is filled for it."""
    draft = draft_of(stage, profile=profile)
    draft.parent.mkdir(parents=True, exist_ok=True)
    with alone(Path(f"{made_at(stage, profile=profile)}.lock")):
        yield draft


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait, and say so, until no other program is in the block of the same lock file.

    Raises:
        OSError: if the file system has no locks, saying what to do.
    """
    free = FileLock(lock, fallback_to_soft=False)  # no lock that a killed one leaves
    try:
        try:
            held = free.acquire(timeout=_SOON)
        except Timeout:
            print(f"{lock} is held: waiting for another program to end", file=sys.stderr)
            held = free.acquire()
    except OSError as error:
        if error.errno not in _LOCKLESS:
            raise
        raise OSError(
            f"{lock} can't be locked ({error}): its file system has no flock; let {lock.parent} be "
            "a link to a folder on one that has, and run the same again"
        ) from error
    with held:
        yield


def draft_of(stage: Stage, *, profile: str) -> Path:
    """Return the folder, beside its place, that is filled for a stage."""
    final = made_at(stage, profile=profile)
    return final.with_name(final.name + ".part")


@contextmanager
def timed(draft: Path) -> Iterator[Callable[[], Attempts]]:
    """Make the folder that is filled, and keep there when it was worked on.

    An attempt that an error or a signal ends leaves its time; one that is killed outright can't,
    and isn't counted.

    Yields:
        What tells the attempts, up to this very one.
    """
    left, before = draft / PARTS / _ATTEMPTS, []
    draft.mkdir(exist_ok=True)
    if left.is_file():
        with readable(left, folder=left):
            before = [(float(start), float(end)) for start, end in json.loads(left.read_text())]
    started = time.time()

    def attempts() -> Attempts:
        return [*before, (started, time.time())]

    try:
        yield attempts
    except BaseException:
        with suppress(OSError):  # the error itself is to be told
            left.parent.mkdir(exist_ok=True)
            with replaced(left) as written:
                written.write_text(json.dumps(attempts()))
        raise


def finished(
    stage: Stage,
    draft: Path,
    figures: Mapping[str, Any] | None,
    *,
    profile: str,
    attempts: Attempts,
) -> Path:
    """Write a filled folder's record and put the folder into its place, whole."""
    final = made_at(stage, profile=profile)
    record = {
        "name": stage.name,
        "hash": stage.hash,
        "version": stage.version,
        "config": dict(stage.config),
        "settings": dict(stage.settings or stage.config),
        "inputs": {role: s.hash for role, s in stage.inputs.items()},
        "figures": dict(figures or {}),
        "seconds": round(sum(end - start for start, end in attempts), 1),
        "stopped": [[round(moment, 1) for moment in attempt] for attempt in attempts[:-1]],
        **provenance(),
    }
    with replaced(draft / RECORD) as written:
        written.write_text(json.dumps(record, indent=1) + "\n")
    sweep(draft)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(draft, final)
    shutil.rmtree(final / PARTS, ignore_errors=True)  # last, for a checkpoint is hours of work
    return final


@cache
def commit() -> str:
    """Return the git commit that this package is of, or `unknown`, as where there is no git."""
    if shutil.which("git") is None:
        return "unknown"
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return git.stdout.strip() or "unknown"


def provenance() -> dict[str, Any]:
    """Commit, library versions and machine of this run."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "libraries": versions,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "device": _device(),
    }


def _device() -> str:
    """The GPU's name, or CPU; torch is only asked where something has imported it."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "CPU"


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Let a disk that is full, or may not be written, be one clear error.

    Raises:
        OSError: that names the path and says what to do; others pass as they are.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _number_in(error)
        if number not in _FULL:
            raise
        raise OSError(not_written(path, error)) from error


def _number_in(error: SafetensorError) -> int | None:
    """The system's number of an error, which safetensors says in words alone."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def not_written(path: Path, error: BaseException) -> str:
    """Return what is said where a file or folder can't be written, in one line."""
    number = error.errno if isinstance(error, OSError) else None
    said = os.strerror(number) if number else " ".join(str(error).split())  # HDF5's are long
    return (
        f"{path} can't be written ({said}): is the disk full, or the folder read-only? What is "
        "finished is kept; mend that and run the same again"
    )


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a draft beside a file, to be written whole; it then takes the file's place, or goes.

    A process that is killed leaves its draft, for `sweep`. The draft is on the disk before it takes
    the place, so that a power cut leaves one of the two.

    Yields:
        A path in the same folder; the file is as it was until the block has ended well.

    Raises:
        OSError: naming the file, if there is no such folder, or nothing can be written there.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} can't be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path} can't be written: {path.parent} is another's, or read-only")
    draft = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # no other process's, on any node
    try:
        with full_disk_named(path):
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Take away the drafts that killed processes left, when no other one writes there."""
    for draft in folder.rglob(".*.tmp"):
        draft.unlink()
