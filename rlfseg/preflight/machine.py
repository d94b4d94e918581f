"""Set this machine's software, devices, disk and memory against what a profile asks for."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from rlfseg.config import DataConfig
from rlfseg.data.check import Line
from rlfseg.preflight.plan import Plan, phrases, pictures
from rlfseg.stage import made_at, repository
from rlfseg.stand_ins.backbone import RANDOM

_PYTHON = "3.11"
_GB = 1e9
_LATENT = 2 * 4 / 64  # bytes of a float16 latent for each pixel: 4 channels, 8 x 8 pixels
_MASK = 6_000  # bytes of a packed mask, about
_ADAPTER = 51e6  # bytes of a rank-64 adapter of SD1.5
_RANDOM = 4.3e9  # bytes of the random backbone's folder


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
    count, wanted = torch.cuda.device_count(), demanded(plan)
    names = sorted({torch.cuda.get_device_name(k) for k in range(count)})
    found = f"{count}: {', '.join(names)}" if count else "none"
    expected = f"{wanted}" if wanted else "none needed"
    if count < wanted:
        advice = (
            f"Run on a node with {wanted}, or give `machine: {{processes: ...}}` in "
            f"params/{plan.profile}/run.yml."
        )
        yield Line("problem", "GPUs", found, expected, advice=advice)
        return
    yield Line("ok", "GPUs", found, expected)
    if count:
        yield Line("ok", "CUDA", f"{torch.version.cuda}, driver {_driver()}")


def demanded(plan: Plan) -> int:
    """Return how many GPUs a profile can't do without: its processes, if it trains on real data."""
    outside = any(run.data.source != "mini" for run in plan.packed)
    return plan.processes if outside else 0


def disk(plan: Plan) -> Line:
    """Set free space where runs are kept against what the profile will write there."""
    folder = repository()
    free, need = shutil.disk_usage(folder).free, space(plan)
    said, wanted = f"{free / _GB:.1f} GB free", f"{need / _GB:.1f} GB"
    if free >= need:
        return Line("ok", "disk", said, wanted)
    advice = f"Free some, or make {folder / 'runs'} a link to a larger disk."
    return Line("problem", "disk", said, wanted, advice=advice)


def space(plan: Plan) -> int:
    """Return the bytes that packed files, latents and weights will take, about."""
    works, run = plan.works(), plan.run
    total = sum(_packed(each.data, split) for each in plan.packed for split in each.splits)
    total += _latents(run.data) * (2 if any(work.refined for work in works) else 1)
    total += _ADAPTER * sum(len(work.runs) for work in works)
    stage = run.backbone_stage
    if run.backbone.name == RANDOM and not made_at(stage, profile=plan.profile).is_dir():
        total += _RANDOM
    return round(total)


def memory(need: int) -> Line:
    """Set free memory of the device that trains against what training needs, in bytes."""
    if torch.cuda.is_available():
        free, what = torch.cuda.mem_get_info()[0], "GPU memory"
    else:
        free, what = psutil.virtual_memory().available, "memory"
    said, wanted = f"{free / _GB:.1f} GB free", f"about {need / _GB:.1f} GB"
    if free >= need:
        return Line("ok", what, said, wanted)
    advice = (
        "Give `machine: {recompute: true}`, which takes a third more time, a smaller batch, or "
        "more processes."
    )
    return Line("problem", what, said, wanted, advice=advice)


def _packed(data: DataConfig, split: str) -> float:
    return pictures(data, split) * data.pixels**2 * 3 + phrases(data, split) * _MASK


def _latents(data: DataConfig) -> float:
    return (phrases(data, "train") + pictures(data, "train")) * data.pixels**2 * _LATENT


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
