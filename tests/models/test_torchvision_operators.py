"""How torchvision is found: with stand-ins of it and of torch, each time in a new process."""

import subprocess
import sys
from pathlib import Path

import pytest

_TORCH = """
import os
made = {}
class version:
    cuda = os.environ.get("CUDA_OF_TORCH")
class library:
    class Library:
        def __init__(self, name, kind): self.name = name
        def define(self, signature): made[self.name + "::" + signature.split("(")[0]] = signature
"""
_TORCHVISION = """
import torch
if "torchvision::nms" not in torch.made:
    raise RuntimeError({message!r})
"""
_SAID = "operator torchvision::nms does not exist"


def _imported(folder: Path, message: str, program: str) -> subprocess.CompletedProcess[str]:
    for name, text in (("torch", _TORCH), ("torchvision", _TORCHVISION.format(message=message))):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); {program}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("first", ["", "import rlfseg; "])
def test_declares_what_torchvision_misses(tmp_path: Path, first: str) -> None:
    done = _imported(
        tmp_path, _SAID, f"{first}import torchvision; print(sorted(torchvision.torch.made))"
    )
    if first:
        assert done.stdout.strip() == "['torchvision::nms', 'torchvision::qnms']", done.stderr
    else:  # alone it fails, so that it is known what is mended
        assert _SAID in done.stderr


def test_leaves_other_errors_alone(tmp_path: Path) -> None:
    done = _imported(tmp_path, "no such device", "import rlfseg, torchvision")
    assert "RuntimeError: no such device" in done.stderr


def test_leaves_a_torch_for_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_OF_TORCH", "12.8")  # there the two are to match
    assert _SAID in _imported(tmp_path, _SAID, "import rlfseg, torchvision").stderr


def test_the_package_alone_imports_no_torch(tmp_path: Path) -> None:
    done = _imported(tmp_path, _SAID, "import rlfseg; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr
