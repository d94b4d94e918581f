"""In which precision a machine works, and with which kernels."""

import os
import shutil

import torch
from accelerate import Accelerator, PartialState

#: What to do where there are GPUs that torch can't use.
OLD_DRIVER = (
    "there are GPUs that this torch can't use, as with a driver too old for it: give make "
    "LOCK=requirements-paper.lock VENV=.venv-paper"
)


def quick_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 for a GPU and for a CPU that computes in it, float32 for any other CPU.

    Without instructions for bfloat16 a CPU emulates them, and convolutions take another path
    altogether: a training step of the mini UNet on latents of 32 x 32 then takes twenty times as
    long as in float32 (AMD Zen 3, 2 cores).
    """
    if torch.device(device).type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def gpus() -> int:
    """Return how many GPUs torch can use here: none where the driver is too old for it.

    `torch.cuda.device_count` counts those too.
    """
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def quick_accelerator() -> Accelerator:
    """Make what all training runs in: bfloat16 where this machine computes in it, else float32.

    Parameters, gradients and the optimiser's moments are float32 in both. On a GPU attention is
    left to kernels other than cuDNN's, for the whole process: on an H200 (PyTorch 2.11) both runs
    of the mini profile that were begun, and one of them taken up again, came to a gradient that was
    not finite within 250 steps, their losses unremarkable; on a CPU none did. The backward pass of
    cuDNN's attention is known for that where keys don't fill a tile (PyTorch's issue 196678), as 64
    places and a phrase don't.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    half = quick_dtype(PartialState().device) == torch.bfloat16
    return Accelerator(mixed_precision="bf16" if half else "no")


def check_compiler(backend: str = "inductor") -> None:
    """Say before hours of work, not at the first step, that nothing can be compiled here.

    Raises:
        ValueError: if the backend of `torch.compile` writes C++ and no compiler is found.
    """
    compiler = os.environ.get("CXX") or "g++"  # as inductor has it
    if backend == "inductor" and shutil.which(compiler) is None:
        raise ValueError(
            f"to compile a network, `inductor` needs a C++ compiler, and {compiler} isn't found: "
            "install one (or name it in CXX), or leave compiling out"
        )
