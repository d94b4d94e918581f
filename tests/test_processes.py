"""Two processes of one launch make what one makes: training, refinement, scores, confusions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from accelerate import Accelerator, PartialState
from safetensors.torch import load_file, save_file
from test_closed_set import NAMES, plain_cache, plain_world
from test_relabelling import CHUNK, IMAGES, Grows, results, write
from test_relabelling import CONFIG as REFINE
from test_train import bare, by_torch, run
from together import (
    CONFIG,
    Named,
    Pair,
    Regression,
    batch,
    lose,
    run_two,
    sign,
    stumble,
    tell,
    vanish,
)
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig

from rlfseg import processes
from rlfseg.config import MachineConfig, SamplerConfig
from rlfseg.evaluation import score as shared
from rlfseg.evaluation.closed_set import confusions, confusions_in_parts, given_classes
from rlfseg.evaluation.counts import Counts
from rlfseg.evaluation.score import (
    Evaluation,
    boundaries,
    boundaries_in_parts,
    evaluate,
    scored_in_parts,
)
from rlfseg.experiment import relabelling as stage
from rlfseg.experiment.relabelling import relabel
from rlfseg.processes import StoppedError, in_parts, launch, launch_for, own_cores, until
from rlfseg.stage import Stage, made
from rlfseg.training import loop
from rlfseg.training.checkpoint import save_checkpoint
from rlfseg.training.loop import fit
from rlfseg.training.steps import read_steps, recorded

pytestmark = pytest.mark.integration

PICTURES = 23  # of five phrases each
PART = 12  # phrases at least: three pictures
ONE = SamplerConfig("one")
MUON = replace(CONFIG, muon=0.02)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done all their work."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "refined").mkdir()
    write(folder / "refined" / "a.h5")
    plain_world(folder, images=PICTURES)
    run_two(everything, folder)
    return folder


def everything(folder: Path) -> None:
    train(folder)
    skip(folder)
    stop(folder)
    refine(folder)
    score(folder)


# --- training ----------------------------------------------------------------------------------


def train(folder: Path) -> None:
    model, accelerator = Regression(), Accelerator(cpu=True)
    rank = accelerator.process_index
    assert accelerator.num_processes == 2

    def share(step: int) -> tuple[Tensor, Tensor]:
        x, y = batch(step)
        return x[rank::2], y[rank::2]

    machine = MachineConfig(accumulate=3)
    steps = fit(model, share, CONFIG, accelerator=accelerator, machine=machine)
    list(recorded(steps, folder / f"steps{rank}.jsonl", total=CONFIG.steps, title="test"))
    if rank == 0:
        save_file(model.state_dict(), folder / "model.safetensors")
    if hasattr(torch.optim, "Muon"):
        by_muon = Regression()
        assert len(list(fit(by_muon, share, MUON, accelerator=Accelerator(cpu=True)))) == MUON.steps
        save_file(by_muon.state_dict(), folder / f"muon{rank}.safetensors")


def test_two_processes_train_as_one(both: Path) -> None:
    whole = Regression()
    expected = run(whole)
    steps = read_steps(both / "steps0.jsonl")
    assert bare(steps) == bare(read_steps(both / "steps1.jsonl"))  # both tell of all samples
    for a, b in zip(steps, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
        assert a.values == pytest.approx(b.values, rel=1e-5)
    state = load_file(both / "model.safetensors")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
def test_two_processes_train_by_muon_as_one(both: Path) -> None:
    """As near as its bfloat16 allows; so far its steps went a hundred times further."""
    whole, first = Regression(), Regression().free.weight.detach()
    list(fit(whole, batch, MUON, accelerator=Accelerator()))
    states = [load_file(both / f"muon{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert (whole.free.weight - first).abs().max() > 0.02
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(states[0][name], tensor, rtol=0, atol=2e-4)


def skip(folder: Path) -> None:
    """Trains on batches two of which hold a sample of the second process that is infinite."""
    model, rank = Pair(), PartialState().process_index

    def share(step: int) -> Named:
        x, y = batch(step)
        y[1] = torch.inf if step in (2, 5) else y[1]
        return Named(x[rank::2], y[rank::2], tuple(f"image {k}" for k in range(6))[rank::2])

    steps = fit(model, share, CONFIG, accelerator=Accelerator(cpu=True))
    told = {step.step: step.skipped for step in steps if step.skipped}
    assert set(told.values()) == {"the loss is inf (image 1)"}  # in the first process too
    state = {**model.state_dict(), "told": torch.tensor(list(told))}
    save_file(state, folder / f"skipped{rank}")


def test_a_sample_of_one_process_skips_the_step_in_both(both: Path) -> None:
    for rank in range(2):
        state = load_file(both / f"skipped{rank}")
        assert state["told"].tolist() == [2, 5]
        for (name, _), wanted in zip(
            Regression().named_parameters(), by_torch(without=(2, 5)), strict=True
        ):
            torch.testing.assert_close(state[name], wanted, rtol=1e-4, atol=1e-6)


def stop(folder: Path) -> None:
    """Sends the second process a signal; the first takes its time to write the checkpoint."""
    file, rank = folder / "checkpoint.safetensors", PartialState().process_index

    def slow(*state: object) -> None:
        time.sleep(0.5)
        save_checkpoint(*state)  # type: ignore[arg-type]

    loop.save_checkpoint = slow  # type: ignore[assignment]
    for asked, ended in ((3, 4), (11, 11)):
        steps = fit(Regression(), batch, CONFIG, accelerator=Accelerator(cpu=True), checkpoint=file)
        with pytest.raises(loop.StoppedError, match=f"after step {ended} of 11"):
            for step in steps:
                if rank == 1 and step.step == asked:
                    os.kill(os.getpid(), signal.SIGUSR1)
    (folder / f"stopped{rank}").write_text(str(file.exists()))


def test_no_process_ends_before_the_checkpoint_is_written(both: Path) -> None:
    assert [(both / f"stopped{rank}").read_text() for rank in range(2)] == ["True", "True"]


# --- refinement --------------------------------------------------------------------------------


def refine(folder: Path) -> None:
    stage.CHUNK, here = CHUNK, folder / "refined"
    log = here / f"log{PartialState().process_index}"
    report = relabel(here / "a.h5", Grows(log), REFINE, here / "out")
    assert report.masks == 2 * IMAGES


def test_two_processes_refine_as_one(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "CHUNK", CHUNK)
    relabel(write(tmp_path / "a.h5"), Grows(tmp_path / "log"), REFINE, tmp_path / "out")
    assert results(both / "refined") == results(tmp_path)
    sizes = [(both / "refined" / f"log{rank}").stat().st_size for rank in range(2)]
    assert sizes == [IMAGES - CHUNK, CHUNK]


# --- scores ------------------------------------------------------------------------------------


def velocity(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """A field that looks at the picture and at the phrase."""
    return z - torch.sin(5 * z.roll(1, -1) + c[:, :1, :1, None])


def score(folder: Path) -> None:
    """Scores everything in parts, into `shared/`, and keeps who has done what."""
    shared.PART = PART
    state, out = PartialState(), folder / "shared"
    with state.main_process_first():
        cache = plain_cache(folder)
    seen: list[int] = []

    def some(items: Sequence[int]) -> Evaluation:
        seen.extend(items)
        return evaluate(velocity, cache, items, ONE)

    items = range(len(cache.pack))
    found = scored_in_parts(out, cache.pack, items, some, title="test")
    measure = partial(boundaries, velocity, cache, config=ONE, threshold=0.5)
    edges = boundaries_in_parts(out, cache.pack, items, measure, title="test")
    ids = list(cache.pack.image_ids)
    asking = partial(given_classes, velocity, cache, names=NAMES, config=ONE)
    closed = confusions_in_parts(out, cache.pack, ids, NAMES, asking)
    kept = folder / f"kept{state.process_index}"
    kept.mkdir()
    found.annotation.save(kept / "counts.npz")
    np.savez(kept / "rest.npz", edges=edges, closed=[c.pixels for c in closed], seen=seen)


def test_two_processes_score_as_one(both: Path, tmp_path: Path) -> None:
    cache = plain_cache(both)
    items = range(len(cache.pack))
    alone = evaluate(velocity, cache, items, ONE).annotation
    ids = list(cache.pack.image_ids)
    asked = given_classes(velocity, cache, ids, NAMES, ONE)
    closed = [each.pixels for each in confusions(asked, cache.pack, ids, NAMES)]
    edges = boundaries(velocity, cache, items, ONE, threshold=0.5)
    seen = []
    for rank in range(2):  # both have all of it
        counts = Counts.load(both / f"kept{rank}" / "counts.npz")
        for name in ("image_id", "histogram", "ap"):
            np.testing.assert_array_equal(getattr(counts, name), getattr(alone, name))
        assert counts.miou() == alone.miou() and counts.ap_clipseg() == alone.ap_clipseg()
        with np.load(both / f"kept{rank}" / "rest.npz") as rest:
            assert np.array_equal(rest["edges"], edges) and np.array_equal(rest["closed"], closed)
            seen.append(set(rest["seen"].tolist()))
    assert not seen[0] & seen[1] and seen[0] | seen[1] == set(items)
    images = [{cache.pack.item_image[item] for item in own} for own in seen]
    assert not images[0] & images[1]  # so that each is encoded once
    assert min(map(len, images)) >= PICTURES // 3


def cut_short(content: bytes) -> bytes:
    """The beginning of a file."""
    return content[:200]


def with_a_hole(content: bytes) -> bytes:
    """A zip file whose first stream can't be decompressed."""
    begin = content.index(b".npy") + 40
    return content[:begin] + bytes([255] * 40) + content[begin + 40 :]


@pytest.mark.parametrize("spoiled", [cut_short, with_a_hole])
def test_scoring_goes_on_where_it_was_stopped(
    tmp_path: Path, spoiled: Callable[[bytes], bytes]
) -> None:
    cache, _ = plain_world(tmp_path, images=7)
    items = range(len(cache.pack))
    alone = evaluate(velocity, cache, items, ONE).annotation
    asked: list[int] = []

    def until(number: int, some: Sequence[int]) -> Evaluation:
        if len(asked) == number:
            raise KeyboardInterrupt
        asked.append(len(some))
        return evaluate(velocity, cache, some, ONE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "PART", PART)
        out = tmp_path / "parts"
        with pytest.raises(KeyboardInterrupt):
            scored_in_parts(out, cache.pack, items, partial(until, 2), title="test")
        first = sorted(out.iterdir())[0]
        first.write_bytes(spoiled(first.read_bytes()))  # as a power cut may leave it
        found = scored_in_parts(out, cache.pack, items, partial(until, -1), title="test")
    assert asked == [15, 15, 15, 5]  # the broken part again, and what was missing
    assert np.array_equal(found.annotation.histogram, alone.histogram)
    assert np.array_equal(found.annotation.image_id, alone.image_id)


def test_a_part_that_the_system_cannot_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    part = tmp_path / "0.npz"
    np.savez(part, a=np.zeros(3))
    monkeypatch.setattr(np, "load", fails)
    with pytest.raises(OSError, match="Input/output error"):
        in_parts([part], [range(3)], lambda _: pytest.fail("made again"), title="test")
    assert part.is_file()


def test_who_waits_for_parts_looks_at_each_once_it_is_there_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, looked = [tmp_path / f"{k}.npz" for k in range(9)], Counter[str]()
    for path in paths[1:]:
        np.savez(path, a=np.zeros(1))
    is_file = Path.is_file

    def noted(path: Path) -> bool:
        looked[path.name] += 1
        if looked["0.npz"] == 5:
            np.savez(paths[0], a=np.zeros(1))
        return is_file(path)

    two = SimpleNamespace(
        process_index=1, num_processes=2, is_main_process=False, wait_for_everyone=lambda: None
    )
    monkeypatch.setattr(processes, "PartialState", lambda: two)
    monkeypatch.setattr(Path, "is_file", noted)
    in_parts(paths, [range(1)] * 9, lambda _: pytest.fail("made again"), title="test")
    assert looked == {path.name: 1 if path != paths[0] else 5 for path in paths}


# --- launches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "share"), [("", 12), ("3", 4), ("8", 1), ("24", 1)])
def test_a_process_has_its_share_of_the_cores_it_may_use(
    monkeypatch: pytest.MonkeyPatch, processes: str, share: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert own_cores() == share


def test_a_launch_calls_a_function_with_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = (SamplerConfig("hss", tol=0.1), {"é": [None, 1.5]})
    out, logs = tmp_path / "out", tmp_path / "logs"
    out.mkdir()
    logs.mkdir()
    (logs / "rank0.log").write_text("of a launch before\n")
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # as where no notebook has taken its place

    def end() -> None:
        until(lambda: len(list(out.iterdir())) == 2)
        os.kill(os.getpid(), signal.SIGUSR1)  # which both must get

    before = signal.getsignal(signal.SIGUSR1)
    ending = threading.Thread(target=end)
    ending.start()
    launch(tell, out, *arguments, processes=2, logs=logs)
    ending.join()
    assert signal.getsignal(signal.SIGUSR1) is before
    said = sorted(path.read_text() for path in out.iterdir())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert len(said) == 2
    for line in said:
        assert line.startswith(f"2 {device}") and line.endswith(repr(arguments))
    written = [(logs / f"rank{k}.log").read_text() for k in range(2)]
    for number, text in enumerate(written):
        assert f"process {number} says {arguments!r}\n" in text
        assert f"a child of process {number} says more\n" in text
        assert "tell in 2 processes, 20" in text and f"process {1 - number}" not in text
    assert written[0].startswith("of a launch before\n--- tell")
    shown = capfd.readouterr().err
    assert shown.startswith(f"the output of all processes is in {logs}\n")
    assert f"process 0 says {arguments!r}\na child of process 0 says more\n" in shown
    assert "process 1" not in shown and "before" not in shown


@pytest.mark.parametrize(("verb", "word"), [(vanish, "run the same|by peer"), (lose, "NCCL error")])
def test_a_process_that_is_killed_or_loses_its_device_is_no_mistake(
    verb: Callable[[Path], None], word: str, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError, match=word):
        launch(verb, tmp_path, processes=2, logs=tmp_path / "logs")


def launching(folder: Path, name: str) -> Path:
    """A script of a few lines, without `if __name__ == "__main__"`, that launches a function."""
    script = folder / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from together import {name}\nfrom rlfseg.processes import launch\n"
        "here = Path(__file__).parent\n(here / 'out').mkdir()\n"
        f"launch({name}, here / 'out', processes=2, logs=here)\nprint('once', __file__)\n"
    )
    return script


def test_a_script_of_a_few_lines_may_launch(tmp_path: Path) -> None:
    """Its processes don't read it."""
    script = launching(tmp_path, "sign")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, f"once {script}\n"), ended.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_every_process_at_once_leaves_time_to_write(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As clusters send it: to the launcher, to what forks its processes, and to these."""
    script, out = launching(tmp_path, "hold_out"), tmp_path / "out"
    started = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    until(lambda: len(list(out.glob("begun*"))) == 2 or started.poll() is not None)
    every = [each for each in psutil.Process(started.pid).children(recursive=True)]
    for each in (*every, psutil.Process(started.pid)):
        each.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert [(out / f"ended{rank}").read_text() for rank in range(2)] == 2 * [number.name], said
    launchers = number == signal.SIGTERM  # it ends by itself
    told = "was ended by SIGTERM; run the same again" if launchers else "as a training does"
    assert started.returncode != 0 and told in said and "StoppedError: hold_out in 2" in said


def test_a_large_checkpoint_may_be_written_in_the_first_launch_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    found = []

    def launched(config: LaunchConfig, _: object) -> Callable[..., None]:
        found.append(config.shutdown_timeout)
        return lambda *_: None

    monkeypatch.setattr(processes, "elastic_launch", launched)
    launch(sign, tmp_path, processes=2, logs=tmp_path / "logs")
    assert found == [900]  # PyTorch's own are 30


def test_what_fails_in_a_launch_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rank1.log").write_text("of a launch before\n")
    with pytest.raises(RuntimeError, match="stumble in 2 processes failed") as failed:
        launch(stumble, "büro", processes=2, logs=tmp_path)
    told = str(failed.value)
    assert "LookupError: there is no büro in process 1" in told and str(tmp_path) in told
    assert "Traceback" in told and "in process 0" not in told
    assert "of a launch before" not in told and told.endswith("no büro in process 1")
    assert "LookupError" in (tmp_path / "rank1.log").read_text()
    assert "the output of all processes" not in capfd.readouterr().err  # as in a notebook


def test_a_launch_is_for_what_is_missing_and_for_no_process_of_a_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("book", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    asked: list[object] = []
    monkeypatch.setattr("rlfseg.processes.launch", lambda *what, **how: asked.append((what, how)))
    stage = Stage("thing", 1, {})
    how = {"profile": "smoke", "before": lambda: asked.append("before")}
    launch_for(stage, tell, 1, processes=1, **how)
    assert not asked
    launch_for(stage, tell, 1, processes=2, **how)
    logs = tmp_path / "runs" / "smoke" / "logs" / stage.folder
    assert asked == ["before", ((tell, 1), {"processes": 2, "logs": logs})]
    with monkeypatch.context() as patch:
        patch.setattr("rlfseg.processes.PartialState", lambda: SimpleNamespace(num_processes=2))
        launch_for(stage, tell, 1, processes=2, **how)
    made(stage, lambda folder: None, profile="smoke")
    launch_for(stage, tell, 1, processes=2, **how)
    assert len(asked) == 2
