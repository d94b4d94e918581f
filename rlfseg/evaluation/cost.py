"""What a segmentation costs: seconds and FLOPs by part, beside what the machine can do."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rlfseg.method.flow import at_time
from rlfseg.method.sampling import rescale
from rlfseg.pipeline import RLFSegPipeline

_PHRASE = "small striped star"
_TOL = 0.2


@dataclass(frozen=True)
class Cost:
    """What one part of a segmentation costs, for a whole batch.

    Attributes:
        seconds: median over the rounds.
        flop: of matrix products, convolutions and attention; two for each multiply-add.
        bytes: that must at least be moved: the weights once, what comes in and what goes out.
    """

    seconds: float
    flop: int
    bytes: int

    @property
    def rate(self) -> float:
        """FLOP a second."""
        return self.flop / self.seconds

    @property
    def intensity(self) -> float:
        """FLOP a byte, at most."""
        return self.flop / self.bytes


def costs_of(pipe: RLFSegPipeline, *, batch: int, rounds: int = 5) -> tuple[dict[str, Cost], float]:
    """Measure the parts of an AOS segmentation, and the whole of it, side by side.

    Args:
        pipe: on the device and in the precision that are to be measured.
        batch: pictures, each with one phrase.
        rounds: how often each is timed, after one warm-up; they take turns.

    Returns:
        `text`, `encode`, `UNet`, `rescale` and `decode`, in the order of their work; and the
        seconds of a call of the pipeline, which scales pictures and scores and checks what it is
        given besides.
    """
    codec, side = pipe.codec, pipe.side
    generator = torch.Generator().manual_seed(0)
    pictures = (torch.rand(batch, 3, side, side, generator=generator) * 2 - 1).to(codec.device)
    with torch.no_grad():
        z1, c, zb = codec.encode(pictures), codec.text([_PHRASE] * batch), codec.black(side)
        t = at_time(1.0, like=z1)
        dz = -pipe.velocity(z1, t, c)

        def unet() -> Any:
            return pipe.velocity(z1, t, c)

        works: dict[str, Callable[[], Any]] = {
            "text": lambda: codec.text([_PHRASE] * batch),
            "encode": lambda: codec.encode(pictures),
            "UNet": unet,
            "rescale": lambda: rescale(z1=z1, dz=dz, z_ref=zb, tol=_TOL),
            "decode": lambda: codec.decode(z1 + dz),
        }
        moved = {
            "text": _size(pipe.text_encoder, c),
            "encode": _size(pipe.vae.encoder, pictures, z1),
            "UNet": _size(pipe.unet, z1, c, dz),
            "rescale": _size(nn.Identity(), z1, dz, zb, z1),
            "decode": _size(pipe.vae.decoder, z1, pictures),
        }
        shown = [((p.movedim(0, -1) + 1) * 127.5).byte().cpu().numpy() for p in pictures]
        phrases = [[_PHRASE]] * batch
        whole = {"whole": lambda: pipe(shown, phrases, batch_size=batch)}
        taken = in_turns(works | whole, rounds=rounds, device=codec.device)
        parts = {n: Cost(taken[n], count_flop(work), moved[n]) for n, work in works.items()}
        return parts, taken["whole"]


def in_turns(
    works: Mapping[str, Callable[[], Any]], *, rounds: int, device: torch.device
) -> dict[str, float]:
    """Time several pieces of work in turns, after a warm-up; return median seconds of each.

    Raises:
        ValueError: if there is no round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in seconds.items()}


def count_flop(work: Callable[[], Any]) -> int:
    """Count the FLOPs of a piece of work, as torch's counter knows them.

    It can't see into what is compiled, so that is run as it was before; torch 2.5 has no way to
    ask for that, and counts nothing there.
    """
    ask = getattr(torch.compiler, "set_stance", lambda stance: nullcontext())
    with FlopCounterMode(display=False) as counter, ask("force_eager"):
        work()
    return int(counter.get_total_flops())


def matrix_rate(
    device: torch.device | str, dtype: torch.dtype, *, side: int | None = None, rounds: int = 5
) -> float:
    """Measure the FLOP a second of a large matrix product: the roof under which all work stays.

    In float32 it uses TensorFloat-32 where torch's convolutions do, on recent GPUs by default.

    Args:
        device: where it is measured.
        dtype: of the matrices.
        side: of the square matrices; None takes 8192 on a GPU, which less does not fill, else 2048.
        rounds: how often it is timed.
    """
    place = torch.device(device)
    if side is None:
        side = 8192 if place.type == "cuda" else 2048
    a = torch.rand(side, side, dtype=torch.float32).to(place, dtype)
    products, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    products.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        taken = in_turns({"product": lambda: a @ a}, rounds=rounds, device=place)
    finally:
        products.allow_tf32 = before
    return 2 * side**3 / taken["product"]


def copy_rate(device: torch.device | str, *, megabytes: int = 256, rounds: int = 5) -> float:
    """Measure the bytes a second that a large copy reads and writes: the slope of the roofline."""
    place = torch.device(device)
    source = torch.zeros(megabytes * 2**20, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    taken = in_turns({"copy": lambda: target.copy_(source)}, rounds=rounds, device=place)
    return 2 * source.numel() / taken["copy"]


def _size(weights: nn.Module, *tensors: Tensor) -> int:
    every = [*weights.parameters(), *tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in every)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
