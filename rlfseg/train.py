"""The one training loop of the project: Accelerate around any objective, as a generator of steps.

An objective is a module whose `forward(batch)` returns a `Losses`; what it trains is what requires
a gradient. A batch is a function of the step's number alone, so that a run that was interrupted
and resumed sees what an uninterrupted one sees.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm

from rlfseg.checkpoint import load_checkpoint, save_checkpoint
from rlfseg.config import OptimiserConfig


@dataclass(frozen=True)
class Losses:
    """Per-sample losses to be averaged and stepped on, and named values to record.

    Values are averaged too, over all samples or over those they are given for; one that is given
    for none is left out of the record.
    """

    loss: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What one optimiser step was: number from 1, mean loss, gradient norm before clipping, ..."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float
    values: Mapping[str, float] = field(default_factory=dict)


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient was NaN or infinite; the message names the step."""


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """The learning rate of a step, numbered from 1: linear warm-up, then constant or cosine."""
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
    checkpoint: Path | None = None,
    until: int | None = None,
) -> Iterator[Step]:
    """Trains an objective and yields a record after every optimiser step.

    Args:
        objective: `objective(batch) -> Losses`; parameters that require a gradient are trained
            with AdamW and kept in float32.
        batches: maps a step's number (from 1) to this process's batch.
        config: learning rate, steps, schedule, clipping, checkpoint interval.
        accelerator: device, precision and processes.
        checkpoint: file to resume from, if it exists, and to write to every `config.save_every`
            steps and at the end; None keeps nothing.
        until: stop after this step although the schedule is made for `config.steps`.

    Yields:
        `Step` records, starting after the last checkpointed step.

    Raises:
        ValueError: if nothing requires a gradient.
        NonFiniteLossError: if a loss or gradient is not finite; parameters are as before.
    """
    named = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("nothing to train: no parameter of the objective requires a gradient")
    parameters = list(named.values())  # a list: an iterator would be spent before clipping
    optimiser = torch.optim.AdamW(
        parameters, lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay
    )
    first = 1
    if checkpoint is not None and checkpoint.exists():
        first = load_checkpoint(checkpoint, named, optimiser, config) + 1
    model, optimiser = accelerator.prepare(objective, optimiser)
    model.train()
    last = config.steps if until is None else min(until, config.steps)
    for step in range(first, last + 1):
        started = time.perf_counter()
        lr = learning_rate(config, step)
        for group in optimiser.param_groups:
            group["lr"] = lr
        batch = send_to_device(batches(step), accelerator.device)
        losses: Losses = model(batch)
        loss = losses.loss.float().mean()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"step {step}: the loss is {loss.item()}; lower lr (now {lr:g}) or use float32"
            )
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(parameters, config.clip)
        if not torch.isfinite(norm):
            raise NonFiniteLossError(f"step {step}: the gradient is not finite; lower lr")
        optimiser.step()
        optimiser.zero_grad()
        values = {k: v.float().mean().item() for k, v in losses.values.items() if v.numel()}
        seconds = time.perf_counter() - started
        yield Step(step, loss.item(), float(norm), lr, seconds, values)
        due = step % config.save_every == 0 or step == last
        if checkpoint is not None and due and accelerator.is_main_process:
            save_checkpoint(checkpoint, named, optimiser, config, step)


def recorded(steps: Iterator[Step], path: Path, *, total: int, title: str) -> Iterator[Step]:
    """Passes steps on, appending each to a file of JSON lines, with a progress bar.

    Lines of steps that are now done again (a resumed run goes back to its last checkpoint) are
    dropped, so the file always holds each step once, in order.
    """
    kept = read_steps(path)
    with tqdm(total=total, desc=title, leave=False) as bar:
        file = None
        for step in steps:
            if file is None:
                kept = [k for k in kept if k.step < step.step]
                path.write_text("".join(json.dumps(asdict(k)) + "\n" for k in kept))
                file = path.open("a", buffering=1)
                bar.update(step.step - 1)
            file.write(json.dumps(asdict(step)) + "\n")
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
            yield step
        if file is not None:
            file.close()


def fit_in_stage(
    objective: nn.Module,
    batches: Callable[[int], Any],
    config: OptimiserConfig,
    folder: Path,
    *,
    title: str,
    save: Callable[[], None],
    watch: Callable[[int], None] = lambda step: None,
) -> dict[str, float]:
    """Trains to the end in a stage's folder, in bf16, resuming from what is found there.

    Args:
        objective: as for `fit`.
        batches: as for `fit`.
        config: as for `fit`.
        folder: keeps `checkpoint.safetensors` until the end, and the record `steps.jsonl`.
        title: of the progress bar.
        save: writes the result; the checkpoint goes only when that is done.
        watch: called with the number of every step that is done.

    Returns:
        `loss_last_100` and `<value>_last_100`: means over the last hundred steps.
    """
    checkpoint, record = folder / "checkpoint.safetensors", folder / "steps.jsonl"
    accelerator = Accelerator(mixed_precision="bf16")
    steps = fit(objective, batches, config, accelerator=accelerator, checkpoint=checkpoint)
    for step in recorded(steps, record, total=config.steps, title=title):
        watch(step.step)
    save()
    checkpoint.unlink()
    recent = [{"loss": step.loss, **step.values} for step in read_steps(record)[-100:]]
    names = sorted({name for values in recent for name in values})
    known = {name: [values[name] for values in recent if name in values] for name in names}
    return {f"{name}_last_100": sum(each) / len(each) for name, each in known.items()}


def read_steps(path: Path) -> list[Step]:
    """The steps that `recorded` wrote to a file; none if there is no file."""
    if not path.exists():
        return []
    return [Step(**json.loads(line)) for line in path.read_text().splitlines()]
