"""The one training loop of the project: Accelerate around any objective, as a generator of steps.

An objective is a module whose `forward(batch)` returns a `Losses`; what it trains is what requires
a gradient. A batch is a function of the step's number alone, so that a run that was interrupted
and resumed sees what an uninterrupted one sees.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import find_batch_size, gather_object, recursively_apply, send_to_device
from torch import Tensor, nn

from rlfseg.config import MachineConfig, OptimiserConfig
from rlfseg.device import quick_accelerator
from rlfseg.processes import StoppedError, signals
from rlfseg.stage import PARTS
from rlfseg.training.checkpoint import load_checkpoint, save_checkpoint
from rlfseg.training.optimisers import RELATIVE, optimisers
from rlfseg.training.steps import Step, read_steps, recorded

_USUAL = MachineConfig()
_PATIENCE = 10  # steps in a row without a finite loss and gradient, before it gives up


@dataclass(frozen=True)
class Losses:
    """Per-sample losses to be averaged and stepped on, and named values to record.

    Values are averaged too, over all samples or over those that `among` marks, bool [b], by the
    value's name; one of no sample is left out of the record.
    """

    loss: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    among: Mapping[str, Tensor] = field(default_factory=dict)


class NonFiniteLossError(RuntimeError):
    """Losses or gradients were NaN or infinite for too many steps in a row; the last is named."""


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Return a step's learning rate, numbered from 1: linear warm-up, then constant or cosine."""
    warm = min(1.0, step / max(1, config.warmup))
    if config.schedule == "constant":
        return config.lr * warm
    done = min(1.0, max(0, step - config.warmup) / max(1, config.steps - config.warmup))
    return config.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def fit(
    objective: nn.Module,
    batches: Callable[[int], Any],
    config: OptimiserConfig,
    *,
    accelerator: Accelerator,
    machine: MachineConfig = _USUAL,
    checkpoint: Path | None = None,
    until: int | None = None,
) -> Iterator[Step]:
    """Train an objective and yield a record after every optimiser step, in every process.

    The next step's batch is made in a thread of its own while a step is under way. A step whose
    loss or gradient is not finite changes nothing, and says so in its record.

    SIGTERM and SIGUSR1, by which a cluster announces the end of a job's time, end the run after
    the step that is under way, with a checkpoint; in the last step too, since more is done after
    a training than its steps.

    Args:
        objective: `objective(batch) -> Losses`; parameters that require a gradient are trained by
            `optimisers` and kept in float32.
        batches: maps a step's number (from 1) to this process's share of the batch, equally large
            in every process.
        config: learning rate, steps, schedule, clipping.
        accelerator: device, precision and processes.
        machine: into how many parts a share is cut, and minutes between checkpoints.
        checkpoint: file to resume from, if it exists, and to write to every so many minutes and at
            the end; None keeps nothing.
        until: stop after this step although the schedule is made for `config.steps`.

    Yields:
        `Step` records of all processes together, starting after the last checkpointed step.

    Raises:
        ValueError: as `optimisers`.
        NonFiniteLossError: if losses or gradients are not finite in ten steps one after the other.
        StoppedError: after a signal, when the checkpoint is written.
    """
    named = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    parameters = list(named.values())  # a list: an iterator would be spent before clipping
    steppers = optimisers(objective, config)
    first = 1
    if checkpoint is not None and checkpoint.exists():
        first = load_checkpoint(checkpoint, named, steppers, config) + 1
    model, *steppers = accelerator.prepare(objective, *steppers)
    model.train()
    last = config.steps if until is None else min(until, config.steps)
    skipped = 0
    with _untied(objective, accelerator), signals() as asked, _thread(accelerator.device) as ahead:
        saved = monotonic()
        coming = [ahead.submit(batches, n) for n in range(first, last + 1)[:1]]
        for step in range(first, last + 1):
            started = perf_counter()
            lr = learning_rate(config, step)
            for group in chain(*(each.param_groups for each in steppers)):
                group["lr"] = lr * group[RELATIVE]
            batch = coming.pop().result()
            coming = [ahead.submit(batches, step + 1)] if step < last else []
            sums = _backward(model, batch, machine.accumulate, accelerator)
            means = _means(sums, bool(asked), accelerator)
            stop = means.pop("stop", 0.0) > 0
            loss = means.pop("loss")
            norm = float(accelerator.clip_grad_norm_(parameters, config.clip))
            why = _not_finite(loss, norm, partial(_broken, sums, getattr(batch, "names", ())))
            skipped = skipped + 1 if why else 0
            if skipped == _PATIENCE:
                raise NonFiniteLossError(
                    f"step {step} is the {skipped}th in a row that can't be used: {why}; lower lr "
                    f"(now {lr:g}), use float32, or look at these samples"
                )
            for stepper in steppers:
                if not why:
                    stepper.step()
                stepper.zero_grad()
            wait(coming)  # nothing else is under way while the caller looks at the step
            finite = {name: value for name, value in means.items() if math.isfinite(value)}
            yield Step(step, loss, norm, lr, perf_counter() - started, finite, why)
            due = monotonic() - saved >= 60 * machine.save_minutes
            if checkpoint is not None and (due or step == last or stop):
                if accelerator.is_main_process:
                    save_checkpoint(checkpoint, named, steppers, config, step)
                saved = monotonic()
            if step == last:  # asked while that step was watched and kept
                stop = _anywhere(bool(asked), accelerator) or stop
            if stop:
                accelerator.wait_for_everyone()  # a launch ends all when the first has ended
                raise StoppedError(
                    f"stopped by {', '.join(asked) or 'a signal'} after step {step} of {last}"
                    + ("; run the same again to go on" if checkpoint is not None else "")
                )


@contextmanager
def _untied(objective: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Untie in the end, on a GPU, what Accelerate ties to itself, so that it goes with its user.

    Else it would stay there beside what is trained next, until Python looks for such garbage; to
    look takes 0.3 s.
    """
    try:
        yield
    finally:
        if accelerator.device.type == "cuda":
            for name in ("forward", "_original_forward"):
                vars(objective).pop(name, None)
            accelerator.free_memory()


def _thread(device: torch.device) -> ThreadPoolExecutor:
    """A thread for the batches, on this process's GPU: by itself, one begins on the first."""
    if device.type != "cuda":
        return ThreadPoolExecutor(1)
    here = torch.cuda.current_device()
    return ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(here,))


def _not_finite(loss: float, norm: float, broken: Callable[[], list[str]]) -> str:
    """Say what of a step is not finite, with the samples' names; nothing if all is.

    `broken`, the names, is asked by all processes or by none: their loss is the same.
    """
    if not math.isfinite(loss):
        told = ", ".join(broken())
        return f"the loss is {loss}{told and f' ({told})'}"
    return "" if math.isfinite(norm) else f"the gradient is {norm}"


def _broken(sums: "_Sums", names: Sequence[str]) -> list[str]:
    """Return the names of the samples of all processes whose loss is not finite."""
    own = [names[k] for k in sums.broken() if k < len(names)]
    every: list[str] = gather_object(own)
    return every


@dataclass
class _Sums:
    """What the parts of a step's batch add up to in this process.

    `values` are (sum, count) by name, on the device; `losses` are the samples', in order.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)

    def add(self, name: str, values: Tensor, among: Tensor | None = None) -> None:
        """Add a part's values, or some of them; nothing here waits for the device."""
        each = values.detach().double()
        if among is None:
            both = torch.stack([each.sum(), each.new_full((), each.numel())])
        else:
            both = torch.stack([each.where(among, 0.0).sum(), among.sum(dtype=torch.float64)])
        self.values[name] = self.values[name] + both if name in self.values else both

    def broken(self) -> list[int]:
        """Return the numbers of the samples whose loss is not finite."""
        return torch.nonzero(~torch.isfinite(torch.cat(self.losses))).flatten().tolist()


def _backward(model: nn.Module, batch: Any, count: int, accelerator: Accelerator) -> _Sums:
    """Run forward and backward on a batch in equal parts; gradients meet at the last one.

    There are at least `count` parts, as far as there are samples: none is larger than asked for.
    """
    sums = _Sums()
    batch = send_to_device(batch, accelerator.device)
    if count > 1:
        size = int(find_batch_size(batch))
        count = next(n for n in range(min(count, size), size + 1) if size % n == 0)
    for number in range(count):
        part = batch if count == 1 else recursively_apply(_MicroBatch(number, count), batch)
        with nullcontext() if number == count - 1 else accelerator.no_sync(model):
            losses: Losses = model(part)
            accelerator.backward(losses.loss.float().mean() / count)
        sums.losses.append(losses.loss.detach())
        sums.add("loss", losses.loss)
        for name, values in losses.values.items():
            sums.add(name, values, losses.among.get(name))
    return sums


@dataclass(frozen=True)
class _MicroBatch:
    """One of the equal parts of a batch; called with a tensor, it takes that part of it."""

    number: int
    count: int

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.chunk(self.count)[self.number]


def _means(sums: _Sums, stop: bool, accelerator: Accelerator) -> dict[str, float]:
    """Average over all processes, without a value that no sample has; `stop` if any was asked."""
    first = sums.values["loss"]
    flat = torch.stack([*sums.values.values(), first.new_tensor((float(stop), 1.0))])
    if accelerator.num_processes > 1:
        flat = accelerator.reduce(flat, "sum")
    names = [*sums.values, "stop"]
    pairs = zip(names, flat.tolist(), strict=True)
    return {name: total / count for name, (total, count) in pairs if count}


def _anywhere(said: bool, accelerator: Accelerator) -> bool:
    """Whether any process of the launch says so; all of them must ask."""
    count = torch.tensor(float(said), device=accelerator.device)
    return float(accelerator.reduce(count, "sum")) > 0


def fit_in_stage(
    objective: nn.Module,
    batches: Callable[[int], Any],
    config: OptimiserConfig,
    folder: Path,
    *,
    title: str,
    save: Callable[[], None],
    watch: Callable[[Step], None] = lambda step: None,
    machine: MachineConfig = _USUAL,
) -> dict[str, float]:
    """Train to the end in a stage's folder, resuming from what is found there.

    Called in every process of a launch, it trains in all and writes in the first.

    Args:
        objective: as for `fit`.
        batches: as for `fit`.
        config: as for `fit`.
        folder: keeps the record `steps.jsonl` and, among its parts, the checkpoint: until the stage
            is finished, since an end between the last step and that would cost the whole training.
        title: of the progress bar.
        save: writes the result.
        watch: called in the first process with every step that is done.
        machine: as for `fit`.

    Returns:
        `loss_last_100` and `<value>_last_100`: means over the last hundred steps that were not
        skipped, and `skipped_steps`, how many were.
    """
    checkpoint, record = folder / PARTS / "checkpoint.safetensors", folder / "steps.jsonl"
    checkpoint.parent.mkdir(exist_ok=True)
    accelerator = quick_accelerator()
    steps = fit(
        objective, batches, config, accelerator=accelerator, machine=machine, checkpoint=checkpoint
    )
    if accelerator.is_main_process:
        for step in recorded(steps, record, total=config.steps, title=title):
            watch(step)
        save()
    else:
        deque(steps, maxlen=0)
    accelerator.wait_for_everyone()
    done = read_steps(record)
    used = [step for step in done if not step.skipped]
    recent = [{"loss": step.loss, **step.values} for step in used[-100:]]
    names = sorted({name for values in recent for name in values})
    known = {name: [values[name] for values in recent if name in values] for name in names}
    means = {f"{name}_last_100": sum(each) / len(each) for name, each in known.items()}
    return {**means, "skipped_steps": len(done) - len(used)}
