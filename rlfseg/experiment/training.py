"""The training of a run, found or made."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError

from rlfseg.config import MachineConfig, OptimiserConfig, SamplerConfig, TrainConfig
from rlfseg.data.files import digest
from rlfseg.device import check_compiler, quick_accelerator
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.score import evaluate
from rlfseg.experiment.curves import Curve, Learning, kept_curve
from rlfseg.experiment.packing import latent_cache
from rlfseg.experiment.previews import Watch
from rlfseg.experiment.run import GivenWeights, Run
from rlfseg.experiment.weights import backbone_folder, codec, ready
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.latent_codec import LatentCodec
from rlfseg.models.unet import (
    ATTENTION,
    EVERYTHING,
    add_lora,
    as_velocity,
    for_sampling,
    fresh_unet,
    load_trained,
    load_unet,
    save_trained,
)
from rlfseg.processes import launch, launch_for, together
from rlfseg.stage import found, logs_of
from rlfseg.training.flow_batch import FlowBatch, flow_batch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit, fit_in_stage
from rlfseg.training.steps import Step, Tracked, read_steps, recorded

_PREVIEWED, _PREVIEWS = 4, 8  # validation phrases, and how often they are looked at


def base(run: Run) -> Path | str:
    """Return where the UNet lies that training starts from: the backbone's, or the first run's."""
    first = run.first()
    return backbone_folder(run) if first is None else trained(first)


def untrained(run: Run) -> UNet2DConditionModel:
    """Return the UNet of `base`, ready to train: with adapters, or all parameters free.

    With random weights it is of the same make.
    """
    unet = load_unet(base(run))
    if run.train.weights == "random":
        unet = fresh_unet(unet, seed=run.train.seed)
    return ready_to_train(unet, run.train, run.machine)


def ready_to_train(
    unet: UNet2DConditionModel, train: TrainConfig, machine: MachineConfig
) -> UNet2DConditionModel:
    """Free what of a frozen UNet is trained, in place, and set it up for the machine."""
    if train.rank == 0:
        unet.requires_grad_(True)
    else:
        targets = ATTENTION if train.targets == "attention" else EVERYTHING
        add_lora(unet, rank=train.rank, targets=targets, seed=train.seed)
    if machine.recompute:
        unet.enable_gradient_checkpointing()
    if machine.compile:
        check_compiler(machine.compile)
        unet.compile(backend=machine.compile)
    return unet


def first_steps(run: Run, *, until: int) -> list[Step]:
    """Train for the first steps of the run, as `trained` does; no weights are kept.

    Raises:
        RuntimeError: if the processes fail.
    """
    with TemporaryDirectory() as folder:
        record = Path(folder) / "steps.jsonl"
        if run.machine.processes > 1 and PartialState().num_processes == 1:
            _prepare(run)
            logs = logs_of(run.train_stage, profile=run.profile)
            launch(_record, run, until, record, processes=run.machine.processes, logs=logs)
        else:
            _record(run, until, record)
        return read_steps(record)


def _record(run: Run, until: int, path: Path) -> None:
    """Train for the first steps of the run; the first process writes them down."""
    parts = work(run, untrained(run), codec(run))
    steps = fit(*parts, accelerator=quick_accelerator(), machine=run.machine, until=until)
    if PartialState().is_main_process:
        steps = recorded(steps, path, total=until, title="first steps")
    deque(steps, maxlen=0)


def is_trained(run: Run) -> bool:
    """Tell whether `trained` would find what it is asked for rather than train it."""
    return run.given is not None or found(run.train_stage, profile=run.profile) is not None


def trained(run: Run) -> Path:
    """Return the folder of the trained adapter or UNet, its `steps.jsonl` and its previews.

    It is trained by `machine.processes` processes, or, in a process of a launch, by those. Where
    weights are given, it is their folder.

    Raises:
        RuntimeError: if the processes fail.
    """
    if run.given is not None:
        return Path(run.given.folder)
    launch_for(
        run.train_stage,
        trained,
        run,
        processes=run.machine.processes,
        profile=run.profile,
        before=lambda: _prepare(run),
    )

    def train(folder: Path) -> dict[str, Any]:
        unet, coder = untrained(run), codec(run)
        cache = latent_cache(run, "val", coder)
        places = np.linspace(0, len(cache.pack) - 1, _PREVIEWED)
        items = np.unique(places.round().astype(int)).tolist()
        every = max(1, run.train.steps // _PREVIEWS)
        ended: list[Watch | Tracked] = [Watch(folder, unet, cache, items, every=every)]
        if run.machine.tracker:
            ended.append(Tracked(folder))
        watches: list[Callable[[Step], None]] = [*ended]
        if run.train.curve:
            scores = partial(_counts, unet, cache)
            asked = {name: getattr(run.train, name) for name in ("steps", "batch")}
            watches.append(Learning(folder, scores, cache, phrases=run.train.curve, **asked))

        def watch(step: Step) -> None:
            for each in watches:
                each(step)

        def save() -> None:
            for each in ended:
                each.finish()
            save_trained(unet, folder)

        return fit_in_stage(
            *work(run, unet, coder),
            folder,
            title=f"training {run.train_stage.name}",
            save=save,
            watch=watch,
            machine=run.machine,
        )

    return together(run.train_stage, train, profile=run.profile)


def learned(run: Run) -> Curve:
    """Return the learning curve of a run, found by itself or left by its training.

    Raises:
        ValueError: if the run has no `curve`.
    """
    return kept_curve(run.train_stage, partial(trained, run), profile=run.profile)


def _counts(
    unet: UNet2DConditionModel, cache: LatentCache, items: Sequence[int], captions: Sequence[str]
) -> Counts:
    """Count what a UNet that is being trained segments in one step."""
    unet.eval()
    with torch.no_grad():
        way = SamplerConfig("one")
        found = evaluate(as_velocity(unet), cache, items, way, captions=captions)
    unet.train()
    return found.annotation


def with_weights(run: Run, folder: Path) -> Run:
    """Return a run that has given weights in the place of what its training would end in.

    Args:
        run: whose backbone they belong to.
        folder: as for `load_trained`.

    Raises:
        ValueError: if they can't be loaded on that backbone; it names the folder.
        FileNotFoundError: if there are none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of weights")
    try:
        load_trained(base(run), folder)
    except (RuntimeError, ValueError, LookupError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: no weights of this run's UNet: {said}") from error
    return replace(run, given=GivenWeights(str(folder.resolve()), digest(folder)))


def trained_unet(run: Run, device: torch.device) -> UNet2DConditionModel:
    """Return the trained UNet, as `for_sampling` puts it on a device."""
    return for_sampling(load_trained(base(run), trained(run)), device)


def _prepare(run: Run) -> None:
    """Train what the run starts from, before it is shared by several processes."""
    ready(run)
    base(run)


def work(
    run: Run, unet: UNet2DConditionModel, coder: LatentCodec
) -> tuple[RectifiedFlowObjective, Callable[[int], FlowBatch], OptimiserConfig]:
    """Return a training's objective, this process's batches by step, and the optimiser's settings.

    They are what `fit` takes; `unet` is what is trained, as `untrained` gives it.
    """
    train, state = run.train, PartialState()
    cache = latent_cache(run, "train", coder, with_refined=run.uses_refined)
    optimiser = OptimiserConfig(
        steps=train.steps, lr=train.lr, warmup=train.warmup, schedule=train.schedule
    )
    batch = partial(
        flow_batch,
        cache,
        size=train.batch,
        time=train.time,
        selection=train.selection,
        seed=train.seed,
        share=(state.process_index, state.num_processes),
    )
    mu = None
    if train.objective == "reshaped":
        mu = torch.cat([coder.black(cache.pixels), coder.white(cache.pixels)])
    objective = RectifiedFlowObjective(
        unet, selection=train.selection, objective=train.objective, mu=mu
    )
    return objective, batch, optimiser
