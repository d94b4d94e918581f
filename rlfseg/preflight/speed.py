"""Measure how fast this machine does a profile's work of each kind; predict what all takes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel

from rlfseg.config import OptimiserConfig
from rlfseg.data.check import Line
from rlfseg.device import quick_accelerator
from rlfseg.experiment import Run, backbone_folder, codec, predictor, untrained
from rlfseg.method.flow import at_time
from rlfseg.method.refinement import refine
from rlfseg.method.sampling import aos
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import ATTENTION, as_velocity, for_sampling
from rlfseg.preflight.plan import Plan, Work, phrases, pictures
from rlfseg.training.flow_batch import FlowBatch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit

_ROUNDS = 2  # at the least, after one that isn't counted
_PHRASES = 4  # of a picture that SAM refines
_ASKED = 2  # rounds of Algorithm 1, about
_PHRASE = "small striped star"
_MASTER = 4 + 4 + 8  # bytes of a trained parameter: itself, its gradient, AdamW's two moments


@dataclass(frozen=True)
class Rates:
    """Samples a second of one device; `refine` is None where no SAM is asked for."""

    encode: float
    train: float
    score: float
    refine: float | None

    def seconds(self, work: Work, *, encoded: int, processes: int) -> float:
        """Return what a chapter's work takes on so many devices; its baselines use one."""
        taken = encoded / self.encode + work.trained / self.train + work.scored / self.score
        taken += work.refined / self.refine if self.refine else 0.0
        return taken / processes + work.baselines / self.train


def lines(plan: Plan, seconds: float) -> Iterator[Line]:
    """Measure rates, and predict from them the time of every table."""
    run, batch = plan.run, local_batch(plan)
    rates = measure(run, batch=batch, seconds=seconds, refining=plan.refining)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    at = f"{run.data.pixels} pixels, batch {batch}, {where}"
    for name, said in (
        ("encode", "pictures or masks encoded"),
        ("train", "samples trained"),
        ("score", "phrases segmented (AOS)"),
        ("refine", "masks refined"),
    ):
        rate = getattr(rates, name)
        if rate:
            yield Line("ok", f"speed: {name}", f"{rate:.3g} {said} a second", at)
    processes, first, total = _processes(plan), True, 0.0
    for work in plan.works():
        encoded = (
            phrases(run.data, "train") + pictures(run.data, "train") if work.runs and first else 0
        )
        first = first and not work.runs
        taken = rates.seconds(work, encoded=encoded, processes=processes)
        total += taken
        yield Line("ok", work.table, _said(taken, processes), _counted(work))
    yield Line("ok", "all chapters", _said(total, processes))


def untimed(plan: Plan, reason: str) -> Iterator[Line]:
    """Say what every table asks for, where it can't be said how long that takes."""
    yield Line("note", "speed", f"not measured: {reason}")
    for work in plan.works():
        yield Line("note", work.table, _counted(work))


def measure(run: Run, *, batch: int, seconds: float, refining: Run | None) -> Rates:
    """Measure on random pictures, with the weights as they are; nothing is kept.

    Args:
        run: the default one; what it would go on from is left away.
        batch: samples at a time.
        seconds: for each kind of work.
        refining: whose SAM refines, or None.
    """
    coder, side = codec(run), run.data.pixels
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(batch, 3, side, side, generator=generator) * 2 - 1).to(coder.device)
    z1, zb = coder.encode(images), coder.black(side)
    encode = batch / _each(lambda: coder.encode(images), seconds)
    unet = untrained(replace(run, start=None)).to(coder.device)
    train = batch / _each(_steps(unet, coder, z1), seconds)
    v = as_velocity(for_sampling(unet, coder.device))

    def segment() -> None:
        with torch.no_grad():
            z0 = aos(v, z1=z1, c=coder.text([_PHRASE] * batch), zb=zb, tol=0.2).z0
            coder.decode(z0)

    score = batch / _each(segment, seconds)
    return Rates(encode, train, score, _refine_rate(refining, seconds) if refining else None)


def memory(run: Run) -> int:
    """Return about the bytes that training a sample at a time, or a GPU's share of a batch, needs.

    The UNet is run on tensors without storage, in bfloat16, and what its backward pass would keep
    is counted; weights are held in float32.
    """
    batch = run.train.batch // run.machine.processes if torch.cuda.is_available() else 1
    config = UNet2DConditionModel.load_config(backbone_folder(run), subfolder="unet")
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config)
    unet = unet.to("meta", torch.bfloat16)
    for name, parameter in unet.named_parameters():
        parts = name.rsplit(".", 1)[0]
        parameter.requires_grad_(run.train.rank == 0 or parts.endswith(tuple(ATTENTION)))
    kept: dict[int, int] = {}
    weights = {id(p) for p in unet.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in weights:
            kept[id(tensor)] = tensor.numel() * tensor.element_size()
            held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    side = int(config["sample_size"])
    width = int(config["cross_attention_dim"])
    z = torch.empty(1, 4, side, side, device="meta", dtype=torch.bfloat16)
    text = torch.empty(1, 77, width, device="meta", dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet(z, torch.ones(1, device="meta"), text)
    count = sum(parameter.numel() for parameter in unet.parameters())
    trained = count if run.train.rank == 0 else _adapter(unet, run.train.rank)
    return 4 * count + _MASTER * trained + batch * sum(kept.values())


def local_batch(plan: Plan) -> int:
    """Return how many samples at a time: a GPU's share of a batch; on a CPU one, unless mini."""
    run = plan.run
    if torch.cuda.is_available():
        return max(1, run.train.batch // _processes(plan))
    return run.train.batch if run.backbone.name == "mini" else 1


def _processes(plan: Plan) -> int:
    return max(1, min(plan.processes, torch.cuda.device_count()))


def _steps(
    unet: UNet2DConditionModel, coder: LatentCodec, z1: torch.Tensor
) -> Callable[[], object]:
    """One training step after another, on latents of random pictures."""
    batch = FlowBatch(
        z1=z1, z0=z1.roll(1, 0) * 0.5, c=coder.text([_PHRASE] * len(z1)), t=at_time(0.5, like=z1)
    )
    run = fit(
        RectifiedFlowObjective(unet),
        lambda step: batch,
        OptimiserConfig(steps=10**9, lr=1e-9),
        accelerator=quick_accelerator(),
    )
    return lambda: next(run)


def _refine_rate(run: Run, seconds: float) -> float:
    """Masks a second: an image with a few phrases, Algorithm 1 in as many rounds as is usual."""
    sam, side = predictor(run), run.data.pixels
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    masks = np.zeros((_PHRASES, side, side), dtype=bool)
    masks[:, side // 4 : side // 2, side // 4 : side // 2] = True
    config = replace(run.refine, iterations=_ASKED, tau=1.0)
    return _PHRASES / _each(lambda: refine(image, list(masks), sam, config), seconds)


def _each(work: Callable[[], object], seconds: float) -> float:
    """Seconds that a piece of work takes: the mean of at least two rounds, after a warm-up."""
    work()
    _wait()
    started, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - started < seconds:
        work()
        _wait()
        rounds += 1
    return (time.perf_counter() - started) / rounds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _adapter(unet: UNet2DConditionModel, rank: int) -> int:
    """Parameters of a LoRA on the attention projections."""
    layers = [m for name, m in unet.named_modules() if name.endswith(tuple(ATTENTION))]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def _said(seconds: float, processes: int) -> str:
    if seconds < 5_400:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" + (f", {hours * processes:.0f} GPU-hours" if processes > 1 else "")


def _counted(work: Work) -> str:
    trained = f"{len(work.runs)} runs, {work.trained:,} samples; " if work.runs else ""
    refined = f"{work.refined:,} masks; " if work.refined else ""
    others = f"{work.baselines:,} samples of baselines; " if work.baselines else ""
    return f"{trained}{refined}{others}{work.scored:,} phrases"
