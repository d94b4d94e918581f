"""Shared set-up: `rlfseg` first (it mends torchvision's import), few threads, fixed seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rlfseg  # noqa: F401  (first, before anything that imports torchvision)

ROOT = Path(__file__).resolve().parent.parent


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
