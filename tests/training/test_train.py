"""The training loop: interruption, clipping, schedules, refusals; and the flow objective."""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import latents, texts
from together import CONFIG, Named, Pair, Regression, batch
from torch import Tensor, nn

from rlfseg.config import MachineConfig, OptimiserConfig
from rlfseg.method.flow import interpolate, l2_loss, rf_loss, select
from rlfseg.processes import StoppedError
from rlfseg.stage import commit
from rlfseg.training.flow_batch import FlowBatch, batch_items, draw_times
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import (
    Losses,
    NonFiniteLossError,
    _thread,
    fit,
    fit_in_stage,
    learning_rate,
)
from rlfseg.training.steps import Step, read_steps, recorded, rounded


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def bare(steps: list[Step]) -> list[Step]:
    """Steps without what the clock says."""
    return [replace(step, seconds=0) for step in steps]


def run(model: nn.Module, config: OptimiserConfig = CONFIG, **more: object) -> list[Step]:
    return list(fit(model, batch, config, accelerator=Accelerator(), **more))  # type: ignore[arg-type]


def test_batches_are_made_one_step_ahead_in_their_order_and_no_further() -> None:
    made: list[tuple[int, bool]] = []

    def noted(step: int) -> tuple[Tensor, Tensor]:
        made.append((step, threading.current_thread() is threading.main_thread()))
        return batch(step)

    model, whole = Regression(), Regression()
    for step in fit(model, noted, CONFIG, accelerator=Accelerator(), until=7):
        assert len(made) == min(step.step + 1, 7)  # nothing is under way meanwhile
    assert made == [(step, False) for step in range(1, 8)]
    assert bare(run(whole, until=7)) and same(weights(model), weights(whole))


def test_a_batch_that_cannot_be_made_ends_the_run_at_its_step() -> None:
    def broken(step: int) -> tuple[Tensor, Tensor]:
        if step == 4:
            raise OSError("no such picture")
        return batch(step)

    seen = []
    with pytest.raises(OSError, match="no such picture"):
        for step in fit(Regression(), broken, CONFIG, accelerator=Accelerator()):
            seen.append(step.step)
    assert seen == [1, 2, 3]


def test_batches_are_made_on_the_gpu_of_their_process(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, str]] = []
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    monkeypatch.setattr(
        "torch.cuda.set_device",
        lambda number: chosen.append((number, threading.current_thread().name)),
    )
    with _thread(torch.device("cuda")) as thread:
        name = thread.submit(lambda: threading.current_thread().name).result()
    assert chosen == [(3, name)] and name != threading.current_thread().name


def test_what_was_trained_on_a_gpu_goes_with_its_user(
    accelerate_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Regression()
    steps = fit(model, batch, CONFIG, accelerator=Accelerator(mixed_precision="bf16"))
    next(steps)
    monkeypatch.setattr(Accelerator, "device", torch.device("cuda"))
    steps.close()
    there = weakref.ref(model)
    gc.disable()
    try:
        del model, steps
        assert there() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("stop", [1, 4, 6, 10])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    whole = Regression()
    expected = run(whole)
    file = tmp_path / "checkpoint.safetensors"
    first = run(Regression(), checkpoint=file, until=stop)
    second_model = Regression()
    second = run(second_model, checkpoint=file)
    assert bare(first + second) == bare(expected)
    assert same(weights(second_model), weights(whole))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


class Clock:
    """The time that the loop reads; it goes on only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.minutes = 0.0
        monkeypatch.setattr("rlfseg.training.loop.monotonic", lambda: 60 * self.minutes)


def test_checkpoints_are_written_every_so_many_minutes_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saved = Clock(monkeypatch), []

    def save(path: Path, *state: object) -> None:
        saved.append(state[-1])
        clock.minutes += 100  # writing it is not counted
        path.touch()

    monkeypatch.setattr("rlfseg.training.loop.save_checkpoint", save)
    for minutes, wanted in ((10, [4, 8, 11]), (1e-9, [*range(1, 12)]), (1e9, [11])):
        path = tmp_path / f"{minutes}"
        steps = fit(
            Regression(),
            batch,
            CONFIG,
            accelerator=Accelerator(),
            machine=MachineConfig(save_minutes=minutes),
            checkpoint=path,
        )
        for _ in steps:
            clock.minutes += 3
        assert saved == wanted
        saved.clear()


def test_a_killed_run_goes_back_to_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    expected = [rounded(step) for step in run(Regression())]
    file, record = tmp_path / "checkpoint.safetensors", tmp_path / "steps.jsonl"

    def steps() -> Iterator[Step]:
        made = fit(Regression(), batch, CONFIG, accelerator=Accelerator(), checkpoint=file)
        return recorded(made, record, total=CONFIG.steps, title="test")

    for step in steps():
        clock.minutes += 11 * (step.step == 4)
        if step.step == 7:  # the last checkpoint is of step 4
            break
    assert [step.step for step in read_steps(record)] == [1, 2, 3, 4, 5, 6, 7]
    again = list(steps())
    assert [step.step for step in again] == list(range(5, 12))
    assert bare(read_steps(record)) == bare(expected)
    assert list(steps()) == []  # a finished run has nothing left to do, and its record stays
    assert bare(read_steps(record)) == bare(expected)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    whole = [step.loss for step in run(Regression())]
    run(Regression(), checkpoint=path, until=4)
    kept = path.read_bytes()

    def full(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rlfseg.training.checkpoint.save_file", full)
        with pytest.raises(OSError, match=r"checkpoint\.safetensors can't be written .*No space"):
            run(Regression(), checkpoint=path)
    assert path.read_bytes() == kept and list(tmp_path.iterdir()) == [path]
    assert [step.loss for step in run(Regression(), checkpoint=path)] == whole[4:]


def test_a_checkpoint_says_what_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run(Regression(), checkpoint=path, until=3)
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
    assert meta["step"] == "3" and json.loads(meta["config"])["lr"] == CONFIG.lr
    assert meta["commit"] == commit() and (meta["commit"] == "unknown" or len(commit()) == 40)


def test_the_record_holds_what_happened(tmp_path: Path) -> None:
    record = tmp_path / "steps.jsonl"
    model = Regression()
    with torch.no_grad():
        losses = model(batch(1))
    made = recorded(run(model), record, total=11, title="test")  # type: ignore[arg-type]
    steps = list(made)
    kept = read_steps(record)
    assert kept == [rounded(step) for step in steps]
    for step, line in zip(steps, kept, strict=True):
        for name in ("step", "loss", "grad_norm", "lr", "seconds"):
            assert getattr(line, name) == pytest.approx(getattr(step, name), rel=1e-5)
        assert dict(line.values) == pytest.approx(dict(step.values), rel=1e-5)
    assert steps[0].loss == pytest.approx(losses.loss.mean().item())
    assert steps[0].values["large"] == pytest.approx((losses.loss > 1).float().mean().item())
    assert [step.lr for step in steps] == [learning_rate(CONFIG, n) for n in range(1, 12)]
    assert read_steps(tmp_path / "none.jsonl") == []


def test_the_record_is_closed_on_the_way_out_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[IO[str]] = []
    opened = Path.open

    def noted(*given: object, **more: object) -> IO[str]:
        made.append(opened(*given, **more))  # type: ignore[arg-type, call-overload]
        return made[-1]

    def fails() -> Iterator[Step]:
        yield run(Regression(), until=1)[0]
        raise RuntimeError("no more")

    monkeypatch.setattr(Path, "open", noted)
    with pytest.raises(RuntimeError, match="no more"):
        list(recorded(fails(), tmp_path / "steps.jsonl", total=2, title="test"))
    assert made and all(file.closed for file in made)


@pytest.mark.parametrize("end", ["", '{"step": 8, "lo', "\0" * 40, "\0" * 9 + "\n"])
def test_a_torn_last_line_of_the_record_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    clock, record = Clock(monkeypatch), tmp_path / "steps.jsonl"
    whole = [rounded(step) for step in bare(run(Regression()))]

    def steps() -> Iterator[Step]:
        made = fit(
            Regression(),
            batch,
            CONFIG,
            accelerator=Accelerator(),
            checkpoint=tmp_path / "checkpoint.safetensors",
        )
        return recorded(made, record, total=CONFIG.steps, title="test")

    for step in steps():
        clock.minutes += 11 * (step.step == 4)
        if step.step == 7:
            break
    record.write_text(record.read_text() + end)
    assert bare(read_steps(record)) == whole[:7]
    list(steps())
    assert bare(read_steps(record)) == whole


def test_a_line_of_the_record_that_is_no_step_is_named(tmp_path: Path) -> None:
    record = tmp_path / "steps.jsonl"
    list(recorded(iter(run(Regression())), record, total=11, title="test"))
    lines = record.read_text().splitlines(keepends=True)
    for bad in ('{"step": 2, "lo\n', "7\n", '{"step": 2}\n', "\n"):
        record.write_text("".join([lines[0], bad, *lines[2:]]))
        with pytest.raises(ValueError, match=r"steps\.jsonl, line 2, is no step .*: take it out"):
            read_steps(record)


def test_a_linear_layer_learns_a_known_value() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.zeros(2))

        def forward(self, batch: Tensor) -> Losses:
            return Losses((self.value - batch).square().sum(1))

    model = Constant()
    config = OptimiserConfig(steps=400, lr=0.05, schedule="cosine", weight_decay=0.0, clip=10.0)
    target = torch.tensor([[3.0, -1.0], [1.0, 2.0]])  # least squares: the mean, (2, 0.5)
    steps = list(fit(model, lambda step: target, config, accelerator=Accelerator()))
    torch.testing.assert_close(model.value.data, torch.tensor([2.0, 0.5]), atol=1e-3, rtol=0)
    assert steps[0].loss == pytest.approx(7.5) and steps[-1].loss == pytest.approx(3.25, abs=1e-4)
    assert steps[0].grad_norm == pytest.approx(math.hypot(4, 1))  # before clipping


@pytest.mark.parametrize(("parts", "most"), [(2, 3), (3, 2), (4, 1), (6, 1), (99, 1)])
def test_a_batch_in_parts_trains_as_one_in_a_piece(
    parts: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut, sizes = Regression(), Regression(), set()
    forward = cut.forward
    monkeypatch.setattr(cut, "forward", lambda x: sizes.add(len(x[0])) or forward(x))
    expected = run(whole)
    steps = run(cut, machine=MachineConfig(accumulate=parts))
    for a, b in zip(steps, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
        assert a.values == pytest.approx(b.values, rel=1e-5)
    for a, b in zip(weights(cut), weights(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert sizes == {most}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(("asked", "ended"), [(5, 6), (10, 11), (11, 11)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    tmp_path: Path, number: signal.Signals, asked: int, ended: int
) -> None:
    """In the last step too: what comes after a training may be much longer."""
    whole, second = Regression(), Regression()
    expected = run(whole)
    file, seen = tmp_path / "checkpoint.safetensors", []
    before = signal.getsignal(number)

    with pytest.raises(StoppedError, match=f"{number.name} after step {ended} of 11; run the"):
        for step in fit(Regression(), batch, CONFIG, accelerator=Accelerator(), checkpoint=file):
            seen.append(step)
            if step.step == asked:
                os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert bare(seen + run(second, checkpoint=file)) == bare(expected)
    assert len(seen) == ended and same(weights(second), weights(whole))


def large_in(named: Named) -> float:
    """The share of a batch's samples whose error is large, before anything is learned."""
    with torch.no_grad():
        return float((Pair()(named).loss > 1).float().mean())


def test_a_step_that_is_skipped_names_its_samples() -> None:
    def named(step: int) -> Named:
        x, y = batch(step)
        y[4] = float("nan") if step == 2 else y[4]
        return Named(x, y, tuple(f"image {k}" for k in range(6)))

    for parts in (1, 3):
        machine = MachineConfig(accumulate=parts)
        steps = list(fit(Pair(), named, CONFIG, accelerator=Accelerator(), machine=machine))
        told = [step.skipped for step in steps]
        assert told == ["", "the loss is nan (image 4)", *[""] * 9]
        assert math.isnan(steps[1].loss)
        assert steps[1].values == {"large": pytest.approx(large_in(named(2)))}  # nan is not large


def test_only_what_requires_a_gradient_is_trained() -> None:
    model = Regression()
    fixed, free = weights(model.fixed), weights(model.free)
    run(model)
    assert same(weights(model.fixed), fixed) and not same(weights(model.free), free)
    with pytest.raises(ValueError, match="nothing to train"):
        run(Regression().requires_grad_(False))


def by_torch(*, without: Sequence[int]) -> list[Tensor]:
    """The weights after a plain loop that leaves some steps' batches out."""
    model = Regression()
    free = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(free, betas=(0.9, CONFIG.beta2), weight_decay=CONFIG.weight_decay)
    for step in (n for n in range(1, CONFIG.steps + 1) if n not in without):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(CONFIG, step)
        optimiser.zero_grad()
        model(batch(step)).loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(free, CONFIG.clip)
        optimiser.step()
    return weights(model)


class Spoilt(Regression):
    """Its loss, or the loss's gradient alone, is not finite at the steps of `bad`."""

    def __init__(self, bad: Sequence[int], how: str) -> None:
        super().__init__()
        self.bad, self.how, self.step = bad, how, 0

    def forward(self, batch: tuple[Tensor, Tensor]) -> Losses:
        self.step += 1
        x, y = batch
        if self.step in self.bad and self.how == "gradient":
            zero = self.free(torch.tanh(self.fixed(x))).sum() * 0
            return Losses(super().forward(batch).loss + zero.abs().sqrt())  # its slope at 0 is inf
        return super().forward((x, y * float(self.how)) if self.step in self.bad else batch)


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_steps_that_are_not_finite_leave_no_trace(tmp_path: Path, how: str) -> None:
    bad, model = (3, 4, 9), Spoilt((3, 4, 9), how)
    record = tmp_path / "steps.jsonl"
    steps = list(recorded(iter(run(model)), record, total=11, title="test"))
    for a, b in zip(weights(model), by_torch(without=bad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert [step.step for step in steps if step.skipped] == list(bad)
    told = "the gradient is nan" if how == "gradient" else "the loss is "
    assert all(step.skipped.startswith(told) for step in steps if step.step in bad)
    for step, kept in zip(steps, read_steps(record), strict=True):
        assert kept.skipped == step.skipped and kept.step == step.step
        assert step.skipped or kept == rounded(step)
        assert math.isfinite(kept.grad_norm) == (not step.skipped)
    assert "NaN" not in record.read_text() and "Infinity" not in record.read_text()


def test_the_report_counts_the_steps_that_were_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlfseg.training.loop.quick_accelerator", Accelerator)
    model, kept = Spoilt((2, 3), "nan"), []
    figures = fit_in_stage(
        model, batch, CONFIG, tmp_path, title="test", save=lambda: kept.append(weights(model))
    )
    steps = [step for step in read_steps(tmp_path / "steps.jsonl") if not step.skipped]
    assert figures["skipped_steps"] == 2 and len(steps) == 9
    assert figures["loss_last_100"] == pytest.approx(np.mean([step.loss for step in steps]))
    assert all(torch.isfinite(tensor).all() for tensor in kept[0])


def test_the_report_means_the_last_hundred_steps_that_were_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlfseg.training.loop.quick_accelerator", Accelerator)
    config, model = replace(CONFIG, steps=150), Spoilt((120,), "nan")
    figures = fit_in_stage(model, batch, config, tmp_path, title="test", save=lambda: None)
    recent = [step for step in read_steps(tmp_path / "steps.jsonl")[49:] if step.step != 120]
    assert len(recent) == 100
    assert figures["loss_last_100"] == pytest.approx(np.mean([step.loss for step in recent]))
    large = np.mean([step.values["large"] for step in recent])
    assert figures["large_last_100"] == pytest.approx(large)


def test_an_end_before_the_stages_record_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlfseg.training.loop.quick_accelerator", Accelerator)
    kept = []

    def make(asked: list[int]) -> dict[str, float]:
        model = Regression()

        def batches(step: int) -> tuple[Tensor, Tensor]:
            asked.append(step)
            return batch(step)

        return fit_in_stage(
            model, batches, CONFIG, tmp_path, title="test", save=lambda: kept.append(weights(model))
        )

    first: list[int] = []
    again: list[int] = []
    assert make(first) == make(again)
    assert len(first) == CONFIG.steps and not again and same(*kept)


def test_ten_steps_in_a_row_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    model = Spoilt((1, *range(2, 11)), "inf")
    before = weights(model)
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(NonFiniteLossError, match=r"step 10 is the 10th in a row .*inf; lower lr"):
        run(model, checkpoint=file)
    assert same(weights(model), before) and not file.exists()
    rest = Spoilt((1, *range(3, 12)), "inf")  # nine in a row, twice
    assert len(run(rest)) == 11


def test_a_checkpoint_of_other_settings_says_which(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    run(Regression(), checkpoint=file, until=2)
    other = replace(CONFIG, lr=0.5, warmup=1)
    with pytest.raises(ValueError, match=r"lr: 0.01 -> 0.5; warmup: 3 -> 1") as error:
        run(Regression(), other, checkpoint=file)
    assert str(file) in str(error.value) and "schedule" not in str(error.value)


def test_a_setting_added_since_a_checkpoint_had_its_default_then(tmp_path: Path) -> None:
    file, whole = tmp_path / "checkpoint.safetensors", Regression()
    expected = run(whole)
    run(Regression(), checkpoint=file, until=4)
    with safe_open(file, framework="pt") as there:
        tensors = {key: there.get_tensor(key) for key in there.keys()}  # noqa: SIM118
        meta = there.metadata()
    older = json.loads(meta["config"])
    del older["muon"]
    save_file(tensors, file, metadata=meta | {"config": json.dumps(older)})
    with pytest.raises(ValueError, match=r"other settings \(muon: 0.0 -> 0.5\); delete it"):
        run(Regression(), replace(CONFIG, muon=0.5), checkpoint=file)
    model = Regression()
    assert bare(run(model, checkpoint=file)) == bare(expected[4:])
    assert same(weights(model), weights(whole))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    run(Regression(), checkpoint=file, until=2)
    model = Regression()
    model.more = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"more\.weight"):
        run(model, checkpoint=file)
    narrow = Regression()
    narrow.free = nn.Linear(5, 1)  # the same names: weights would be broadcast or cut
    with pytest.raises(ValueError, match=r"free\.weight"):
        run(narrow, checkpoint=file)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.98])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "checkpoint.safetensors"
    run(Regression(), checkpoint=file, until=2)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: not .*; delete it"):
        run(Regression(), checkpoint=file)


def test_a_checkpoint_that_the_system_cannot_read_is_not_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "checkpoint.safetensors"
    run(Regression(), checkpoint=file, until=2)

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("rlfseg.training.checkpoint.safe_open", fails)
        with pytest.raises(OSError, match=r"Stale file handle$"):
            run(Regression(), checkpoint=file)
    with pytest.raises(IsADirectoryError):  # of which safetensors tells no number
        run(Regression(), checkpoint=tmp_path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    save_file({"x": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: not .*; delete it"):
        run(Regression(), checkpoint=file)
    save_file({"x": torch.zeros(2)}, file, metadata={"config": "{", "step": "3"})
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: not .*; delete it"):
        run(Regression(), checkpoint=file)


def test_the_schedules_begin_and_end_where_they_should() -> None:
    cosine = OptimiserConfig(steps=100, lr=2.0, warmup=10, schedule="cosine")
    assert learning_rate(cosine, 1) == pytest.approx(0.2)
    assert learning_rate(cosine, 10) == 2.0
    assert learning_rate(cosine, 55) == pytest.approx(2 * (0.02 + 0.49))
    assert learning_rate(cosine, 100) == pytest.approx(0.04)
    falling = [learning_rate(cosine, n) for n in range(10, 101)]
    assert falling == sorted(falling, reverse=True)
    constant = OptimiserConfig(steps=100, lr=2.0, warmup=4)
    assert [learning_rate(constant, n) for n in (1, 2, 4, 100)] == [0.5, 1.0, 2.0, 2.0]
    assert learning_rate(OptimiserConfig(steps=5, lr=2.0), 1) == 2.0


def test_from_scratch_the_warm_up_is_short_where_the_training_is() -> None:
    small = OptimiserConfig.from_scratch(steps=50, lr=2e-3, warmup=200)
    usual = {"schedule": "cosine", "beta2": 0.99, "clip": 1.0}
    assert small == OptimiserConfig(steps=50, lr=2e-3, warmup=6, weight_decay=0.01, **usual)
    long = OptimiserConfig.from_scratch(steps=5000, lr=1e-3, warmup=200, weight_decay=0.1)
    assert long == OptimiserConfig(steps=5000, lr=1e-3, warmup=200, weight_decay=0.1, **usual)


class Field(nn.Module):
    """In a UNet's place: a field that depends on position, timestep and text."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.dtype = torch.float32

    def forward(self, z: Tensor, t: Tensor, c: Tensor) -> SimpleNamespace:
        shift = (t / 999)[:, None, None, None] + c.mean((1, 2))[:, None, None, None]
        return SimpleNamespace(sample=self.scale * z + shift)


def flow_batch(*, refined: bool) -> FlowBatch:
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    other = latents(5, 3) * torch.tensor([0.1, 2, 0.1, 2, 1])[:, None, None, None]
    return FlowBatch(latents(5, 1), latents(5, 2), texts(5), t, other if refined else None)


def by_hand(batch: FlowBatch, z0: Tensor, scale: Tensor) -> Tensor:
    """The loss of each sample, in a loop."""
    losses = []
    for k, t in enumerate(batch.t):
        zt = t * batch.z1[k] + (1 - t) * z0[k]
        v = scale * zt + t + batch.c[k].mean()
        losses.append(rf_loss(v_pred=v[None], z0=z0[k][None], z1=batch.z1[k][None])[0])
    return torch.stack(losses)


def test_without_refined_labels_the_objective_is_equation_2() -> None:
    batch = flow_batch(refined=False)
    losses = RectifiedFlowObjective(Field())(batch)
    torch.testing.assert_close(losses.loss, by_hand(batch, batch.z0, torch.tensor(0.7)))
    assert not losses.values


def objective_gradient(batch: FlowBatch, **how: object) -> Tensor:
    objective = RectifiedFlowObjective(Field(), **how)  # type: ignore[arg-type]
    objective(batch).loss.sum().backward()
    return objective.unet.scale.grad


def test_the_distance_in_the_place_of_its_square() -> None:
    batch = flow_batch(refined=False)
    losses = RectifiedFlowObjective(Field(), objective="l2")(batch).loss
    zt = interpolate(z0=batch.z0, z1=batch.z1, t=batch.t)
    v = 0.7 * zt + (batch.t + batch.c.mean((1, 2)))[:, None, None, None]
    far = torch.linalg.vector_norm(v - (batch.z1 - batch.z0), dim=1)
    torch.testing.assert_close(losses, far.mean((1, 2)))
    torch.testing.assert_close(l2_loss(v_pred=v, z0=batch.z0, z1=batch.z1), losses)


def test_the_reshaped_objective_is_equation_2_and_a_pull_to_black_or_white() -> None:
    batch = flow_batch(refined=False)
    mu = torch.stack([latents(1, 7)[0], latents(1, 8)[0]])
    got = objective_gradient(batch, objective="reshaped", mu=mu)
    field, t = Field(), batch.t[:, None, None, None]
    zt = interpolate(z0=batch.z0, z1=batch.z1, t=batch.t)
    v = field(zt, 999 * batch.t, batch.c).sample
    z0_hat = zt - t * v
    away = mu[1] - mu[0]
    a = (((batch.z0 - mu[0]) * away).sum(1) / away.square().sum(0)).clamp(0, 1)
    near = [-((z0_hat - m).square().sum(1) + 1e-2).log() for m in mu]
    p = torch.stack(near).log_softmax(0)
    phi = -((1 - a) * p[0] + a * p[1])
    moved = torch.autograd.grad(phi.sum(), z0_hat, retain_graph=True)[0]
    loss = rf_loss(v_pred=v, z0=(batch.z0 - moved).detach(), z1=batch.z1).sum()
    loss.backward()
    torch.testing.assert_close(got, field.scale.grad, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got, objective_gradient(batch))
    with pytest.raises(ValueError, match="needs mu, the black and the white latent"):
        RectifiedFlowObjective(Field(), objective="reshaped")


def test_at_one_both_labels_are_measured_by_the_objective_that_is_asked_for() -> None:
    batch = flow_batch(refined=True)._replace(t=torch.ones(5), at_one=True)
    mu = torch.stack([latents(1, 7)[0], latents(1, 8)[0]])
    for name in ("plain", "l2", "reshaped"):
        objective = RectifiedFlowObjective(Field(), objective=name, mu=mu)
        each = [
            objective(batch._replace(z0=z0, z0_refined=None)).loss
            for z0 in (batch.z0, batch.z0_refined)
        ]
        torch.testing.assert_close(objective(batch).loss, torch.minimum(*each))


@pytest.mark.parametrize(("t", "asked"), [(None, [10, 5]), (torch.ones(5), [5])])
def test_with_refined_labels_each_sample_and_its_gradient_take_the_lower_loss(
    t: Tensor | None, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = flow_batch(refined=True)
    batch = batch if t is None else batch._replace(t=t, at_one=True)
    assert batch.z0_refined is not None
    objective = RectifiedFlowObjective(Field())
    calls, forward = [], objective.unet.forward
    monkeypatch.setattr(objective.unet, "forward", lambda *a: calls.append(a) or forward(*a))
    losses = objective(batch)
    assert [len(z) for z, *_ in calls] == asked  # at t = 1 both labels ask the same of it
    scale = torch.tensor(0.7, requires_grad=True)
    both = [by_hand(batch, z0, scale) for z0 in (batch.z0, batch.z0_refined)]
    wanted, picked = select(loss_original=both[0], loss_refined=both[1])
    assert 0 < picked.sum() < 5  # the case decides something
    assert torch.equal(losses.values["picked_original"], picked)
    torch.testing.assert_close(losses.loss, wanted)
    losses.loss.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(objective.unet.scale.grad, scale.grad)


def test_the_probe_chooses_as_the_exact_way_does_at_t_1() -> None:
    batch = flow_batch(refined=True)
    at_one = batch._replace(t=torch.ones(5), at_one=True)
    probed = RectifiedFlowObjective(Field(), selection="probe")
    chosen = probed.chosen(batch)
    assert 0 < chosen.sum() < 5  # the case decides something
    exact = RectifiedFlowObjective(Field())(at_one)
    assert torch.equal(exact.values["picked_original"], chosen)
    torch.testing.assert_close(probed(at_one).loss, exact.loss)


def test_the_probe_trains_its_winner_at_the_samples_own_t() -> None:
    batch = flow_batch(refined=True)
    assert batch.z0_refined is not None
    objective = RectifiedFlowObjective(Field(), selection="probe")
    losses = objective(batch)
    scale = torch.tensor(0.7, requires_grad=True)
    chosen = objective.chosen(batch)
    winner = torch.where(chosen[:, None, None, None], batch.z0, batch.z0_refined)
    wanted = by_hand(batch, winner, scale)
    torch.testing.assert_close(losses.loss, wanted)
    losses.loss.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(objective.unet.scale.grad, scale.grad)


@pytest.mark.parametrize("selection", ["exact", "probe"])
def test_choices_are_recorded_by_the_masks_size(selection: str) -> None:
    area = torch.tensor([0.3, 0.01, 0.1, 0.5, 0.019])  # large, small, large, large, small
    batch = flow_batch(refined=True)._replace(area=area)
    losses = RectifiedFlowObjective(Field(), selection=selection)(batch)
    among = {"small": [1, 4], "large": [0, 2, 3], "medium": []}
    for size, those in among.items():
        name = f"picked_original_{size}"
        assert torch.equal(losses.values[name], losses.values["picked_original"])
        assert torch.nonzero(losses.among[name]).flatten().tolist() == those


def test_a_value_that_is_given_for_no_sample_is_left_out_of_the_record() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, step: int) -> Losses:
            values = {"even": torch.tensor([5.0, math.nan, 7.0])}  # of two of them, or of none
            among = {"even": torch.tensor([step % 2 == 0, False, step % 2 == 0])}
            return Losses(self.weight.square().expand(3), values, among)

    steps = fit(Once(), lambda n: n, OptimiserConfig(steps=3, lr=0.1), accelerator=Accelerator())
    assert [dict(step.values) for step in steps] == [{}, {"even": 6.0}, {}]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99), st.integers(1, 200))
def test_an_epoch_shows_each_item_at_most_once(count: int, size: int, seed: int, step: int) -> None:
    if count < size:
        with pytest.raises(ValueError, match=f"{count} items do not fill a batch of {size}"):
            batch_items(count, size, seed=seed, step=step)
        return
    steps = count // size
    start = (step - 1) // steps * steps + 1
    epoch = [batch_items(count, size, seed=seed, step=start + k) for k in range(steps)]
    seen = np.concatenate(epoch)
    assert len(set(seen.tolist())) == len(seen) == steps * size
    assert seen.min() >= 0 and seen.max() < count
    again = batch_items(count, size, seed=seed, step=step)
    assert np.array_equal(again, epoch[step - start])


def test_seed_and_epoch_change_the_order() -> None:
    def draw(seed: int, step: int) -> list[int]:
        return batch_items(50, 50, seed=seed, step=step).tolist()

    orders = [draw(0, 1), draw(0, 2), draw(1, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({json.dumps(order) for order in orders}) == 3


def test_times_fill_the_unit_interval() -> None:
    drawn = torch.cat([draw_times(500, kind="uniform", seed=1, step=step) for step in range(1, 9)])
    assert drawn.dtype == torch.float32 and drawn.min() >= 0 and drawn.max() <= 1
    for batch_times in drawn.split(500):  # one in each of 500 equal parts, in any order
        places = (batch_times.double() * 500).floor().clamp(max=499)
        assert places.unique().numel() >= 498 and not torch.equal(places, places.sort().values)
    first = torch.stack([draw_times(8, kind="uniform", seed=1, step=k)[0] for k in range(1, 2001)])
    counts = torch.histc(first, 10, 0, 1)  # each place of the batch is uniform by itself
    assert counts.min() > 150 and counts.max() < 250  # 200 each on average, deviation 13
    assert torch.equal(drawn[:500], draw_times(500, kind="uniform", seed=1, step=1))
    assert not torch.equal(drawn[:500], drawn[500:1000])
    assert draw_times(3, kind="one", seed=1, step=1).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="'often'"):
        draw_times(3, kind="often", seed=1, step=1)
