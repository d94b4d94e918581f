"""Set this machine's software and devices against what a profile asks for."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rlfseg.data.check import Line
from rlfseg.device import OLD_DRIVER, gpus
from rlfseg.preflight.plan import Plan
from rlfseg.stage import repository

_PYTHON = "3.11"


def software() -> Iterator[Line]:
    """Set Python and libraries against the lock."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Line("ok" if python.startswith(_PYTHON + ".") else "note", "Python", python, _PYTHON)
    other, missing, pins = [], [], _pins()
    for name, wanted in pins.items():
        try:
            have = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if have.split("+")[0] != wanted:
            other.append(f"{name} is {have}, {wanted} in the lock")
    said = f"{len(pins) - len(other) - len(missing)} of {len(pins)} as in the lock"
    if missing:
        advice = f"Install them: make test LOCK={lock().name}."
        yield Line("problem", "libraries", f"{len(missing)} missing", said, missing, advice)
    elif other:
        advice = "The lock is what the tests passed with; the book states these versions."
        yield Line("note", "libraries", said, "", other, advice)
    else:
        yield Line("ok", "libraries", said)


def lock() -> Path:
    """Return the lock that this environment was made from, by its torch; else the usual one."""
    usual = repository() / "requirements.lock"
    here = f"torch=={version('torch').split('+')[0]}"
    others = repository().glob("requirements-*.lock")
    return next((path for path in others if here in path.read_text().split()), usual)


def devices(plan: Plan) -> Iterator[Line]:
    """Look at GPUs and driver; a GPU is demanded by what is too large for a CPU to train."""
    count, wanted = gpus(), demanded(plan)
    names = sorted({torch.cuda.get_device_name(k) for k in range(count)})
    found = f"{count}: {', '.join(names)}" if count else "none"
    expected = f"{wanted}" if wanted else "none needed"
    if count < wanted:
        advice = (
            f"Run on a node with {wanted}, or give `machine: {{processes: ...}}` in "
            f"params/{plan.profile}/run.yml."
        )
        if torch.cuda.device_count() > count:
            advice = f"{OLD_DRIVER[0].upper()}{OLD_DRIVER[1:]}."
        yield Line("problem", "GPUs", found, expected, advice=advice)
        return
    yield Line("ok", "GPUs", found, expected)
    if count:
        yield Line("ok", "CUDA", f"{torch.version.cuda}, driver {_driver()}")


def demanded(plan: Plan) -> int:
    """Return how many GPUs a profile can't do without: its processes, if it is large and real."""
    outside = any(run.data.source != "mini" for run in plan.packed)
    return plan.processes if outside and plan.large else 0


def _pins() -> dict[str, str]:
    lines = lock().read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip(): pin.strip() for name, pin in pairs}


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.split("\n")[0].strip() or "unknown"
