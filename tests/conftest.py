"""Shared set-up: `rlfseg` first (it mends torchvision's import), few threads, fixed seeds."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# A process that is forked from one with threads waits for them for ever.
os.environ["OMP_NUM_THREADS"] = "1"
# isort: split
import torch
from hypothesis import settings

import rlfseg  # noqa: F401  (first, before anything that imports torchvision)

# isort: split
from accelerate.state import AcceleratorState
from tiny import tiny_backbone

# How long a test takes is the machine's matter.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")

if TYPE_CHECKING:
    from rlfseg.experiment import Run

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """What libraries have made stays to the end: the search for garbage may leave it out."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def inputs() -> Path:
    """Real files that lie beside the checkout on some machines; the test skips where they don't."""
    folder = ROOT.parent / "shared" / "inputs"
    if not folder.is_dir():
        pytest.skip("the folder of real files (shared/inputs beside the checkout) is not here")
    return folder


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty repository with a small backbone in it, as the working folder."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("book", "params"):
        (root / name).mkdir()
    tiny_backbone(root / "tiny")
    before = Path.cwd()
    os.chdir(root)
    AcceleratorState._reset_state(True)  # other tests made one without mixed precision
    yield root
    AcceleratorState._reset_state(True)
    os.chdir(before)


@contextmanager
def accelerate_reset() -> Iterator[None]:
    """Accelerate keeps a process's first precision; the recipe's is not the other tests'."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def accelerate_anew() -> Iterator[None]:
    """See `accelerate_reset`."""
    with accelerate_reset():
        yield


@pytest.fixture(scope="module")
def run(repo: Path) -> Run:
    """A run of seconds in that repository."""
    from tiny_run import given_run

    return given_run()
