"""Measure how fast this machine does a profile's work of each kind."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate import PartialState
from diffusers import UNet2DConditionModel
from PIL import Image

from rlfseg.config import OptimiserConfig
from rlfseg.data.check import Line
from rlfseg.data.packed.prepare import Example
from rlfseg.data.packed.write import write_pack
from rlfseg.device import quick_accelerator
from rlfseg.experiment import Run, codec, predictor, untrained
from rlfseg.method.flow import at_time
from rlfseg.method.refinement import refine_shown
from rlfseg.method.sampling import aos
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.sam import PromptedSam, mini_sam
from rlfseg.models.unet import as_velocity, for_sampling
from rlfseg.preflight.plan import Plan, share, training
from rlfseg.stage import found
from rlfseg.training.flow_batch import FlowBatch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit

_ROUNDS = 2  # at the least, after one that isn't counted
_PHRASES = 4  # of a picture that is packed, or that SAM refines
_PICTURES = 24  # that are packed
_SHOT = (480, 640)  # size of a photograph, about
_ASKED = 2  # rounds of Algorithm 1, about
_PHRASE = "small striped star"
_SAID = {
    "pack": "pictures packed",
    "encode": "pictures or masks encoded",
    "refine": "masks refined",
    "score": "phrases segmented (AOS)",
}


@dataclass(frozen=True)
class Rates:
    """What this machine does.

    Attributes:
        each: units of each kind of work a second, by one device.
        load: seconds that a process takes to load the networks.
        start: seconds that a fresh process takes to be ready to work.
    """

    each: Mapping[str, float]
    load: float = 0.0
    start: float = 0.0

    def seconds(self, kind: str, amount: int) -> float:
        """Return what work takes on one device; a baseline's is taken for a plain training's."""
        if kind == "baseline":
            kind = "train" if "train" in self.each else next(k for k in self.each if "train" in k)
        return amount / self.each[kind]


def lines(rates: Rates, run: Run) -> Iterator[Line]:
    """Say what was measured."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    for kind, rate in rates.each.items():
        said = _SAID.get(kind, "samples trained")
        itself = kind in ("pack", "refine") or "at a time" in kind  # says how many
        samples = "" if itself else f", {local(run)} at a time"
        at = f"{run.data.pixels} pixels{samples}, {where}"
        yield Line("ok", f"speed: {kind}", f"{rate:.3g} {said} a second", at)
    said = f"{rates.load:.1f} s to load the networks, {rates.start:.1f} s to start a process"
    yield Line("ok", "speed: start", said)


def measure(plan: Plan, seconds: float, *, start: float) -> Rates:
    """Measure on random pictures, with the weights as they are; nothing is kept.

    Args:
        plan: whose kinds of work are measured.
        seconds: for each kind of work.
        start: seconds that this program took to be ready to work.
    """
    run = plan.run
    batch, side, started = local(run), run.data.pixels, time.perf_counter()
    coder, unet = codec(run), untrained(replace(run, start=None))
    _wait()
    load = time.perf_counter() - started
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(batch, 3, side, side, generator=generator) * 2 - 1).to(coder.device)
    z1 = coder.encode(images)
    each = {"pack": _pack_rate(side, seconds)}
    each["encode"] = batch / _each(lambda: coder.encode(images), seconds)
    if plan.refining is not None:
        each["refine"] = _refine_rate(plan.refining, seconds)
    each["score"] = batch / _each(_segmenting(unet, coder, z1), seconds)
    del unet
    for kind, one in kinds(plan).items():
        here = replace(one, start=None, data=run.data, backbone=run.backbone)
        fresh = untrained(here).to(coder.device)
        some = z1[torch.arange(local(one)) % len(z1)]
        step = training_steps(fresh, coder, some, both="two labels" in kind)
        each[kind] = len(some) / _each(step, seconds)
        del fresh, step
    return Rates(each, load, start)


def kinds(plan: Plan) -> dict[str, Run]:
    """Return a run of each kind of training that is due; the default run's kind at least."""
    tasks = [task for work in plan.works for task in work.tasks if task.kind.startswith("train")]
    known = {training(plan.run): plan.run, **{task.kind: task.of for task in tasks}}
    return {kind: known[kind] for kind in sorted(known)}


def local(run: Run) -> int:
    """Return how many samples at a time: a process's share; on a CPU one, if the UNet is large."""
    return share(run) if torch.cuda.is_available() or run.data.pixels < 512 else 1


def _segmenting(
    unet: UNet2DConditionModel, coder: LatentCodec, z1: torch.Tensor
) -> Callable[[], None]:
    """Phrases of encoded pictures, segmented."""
    v, zb = as_velocity(for_sampling(unet, coder.device)), coder.black(coder.factor * z1.shape[-1])

    def segment() -> None:
        with torch.no_grad():
            coder.decode(aos(v, z1=z1, c=coder.text([_PHRASE] * len(z1)), zb=zb, tol=0.2).z0)

    return segment


def training_steps(
    unet: UNet2DConditionModel, coder: LatentCodec, z1: torch.Tensor, *, both: bool
) -> Callable[[], object]:
    """Return what does one training step after another, on latents of random pictures.

    Args:
        unet: ready to train, on the device.
        coder: encodes the phrase.
        z1: latents of pictures [b, c, h, w].
        both: whether each has two labels.
    """
    z0 = z1.roll(1, 0) * 0.5
    batch = FlowBatch(
        z1=z1,
        z0=z0,
        c=coder.text([_PHRASE] * len(z1)),
        t=at_time(0.5, like=z1),
        z0_refined=z0 * 0.5 if both else None,
    )
    run = fit(
        RectifiedFlowObjective(unet),
        lambda step: batch,
        OptimiserConfig(steps=10**9, lr=1e-9),
        accelerator=quick_accelerator(),
    )
    return lambda: next(run)


def _refine_rate(run: Run, seconds: float) -> float:
    """Masks a second: an image with a few phrases, Algorithm 1 in as many rounds as is usual.

    Outside data are shown at a photograph's size; what is marked is as much as `_pack_rate` marks.
    """
    sam, side = _predictor(run), run.data.pixels
    shape = _SHOT if run.photographed else (side, side)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    masks = np.zeros((_PHRASES, side, side), dtype=bool)
    masks[:, side // 5 : side * 5 // 8, side // 3 : side * 5 // 8] = True
    config = replace(run.refine, iterations=_ASKED, tau=1.0)
    return _PHRASES / _each(lambda: refine_shown(image, list(masks), sam, config), seconds)


def _predictor(run: Run) -> PromptedSam:
    """Return the run's SAM; where ours is not made yet, one of random weights, as quick."""
    if run.sam.kind != "mini" or found(run.sam_stage, profile=run.profile) is not None:
        return predictor(run)
    return PromptedSam(mini_sam(pixels=run.sam.pixels).to(PartialState().device))


def _pack_rate(side: int, seconds: float) -> float:
    """Pictures a second that one process packs, of a photograph's size, with a few phrases each."""
    noise = np.random.default_rng(0).integers(0, 256, (*(n // 8 for n in _SHOT), 3), dtype=np.uint8)
    mask = np.zeros(_SHOT, dtype=bool)
    mask[100:300, 200:400] = True
    with TemporaryDirectory() as name:
        photograph = Path(name) / "photograph.jpg"
        Image.fromarray(noise).resize(_SHOT[::-1]).save(photograph)
        examples = [
            Example(f"{number}", photograph, f"phrase {k}", mask)
            for number in range(_PICTURES)
            for k in range(_PHRASES)
        ]
        return _PICTURES / _each(
            lambda: write_pack(examples, Path(name) / "some.h5", size=side), seconds
        )


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
