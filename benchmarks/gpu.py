"""What one GPU does with this project, in ten minutes, and whether it does it right.

    python benchmarks/gpu.py params/preflight/03_train.yml      full size, random weights
    python benchmarks/gpu.py params/mini/03_train.yml           small, to try the script itself

Parts follow each other, each in a process of its own and with its own limit of time:

    machine             the matrix rate that all others are set against
    steps               300 training steps of the mini profile's run: are all gradients finite?
    pipeline            segmentations of 1, 8 and 32 pictures with a phrase each
    training            steps of 1, 8 and 32 samples, and of 8 with both labels
    tests               the unit tests that need a GPU
    pipeline compiled   as before, by torch.compile; likewise training compiled

Whatever a part has told is written to the JSON at once: one that fails or is cut keeps what it had.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import PartialState

import rlfseg  # noqa: F401  (first, before anything that imports torchvision)
from rlfseg.chapters.reading import run_file
from rlfseg.device import quick_dtype
from rlfseg.evaluation.cost import copy_rate, costs_of, count_flop, in_turns, matrix_rate
from rlfseg.experiment import Run, backbone_folder, codec, first_steps, untrained
from rlfseg.pipeline import RLFSegPipeline
from rlfseg.preflight import memory
from rlfseg.preflight.plan import training as kind_of
from rlfseg.preflight.speed import training_steps
from rlfseg.stage import provenance, replaced, repository

LIMITS: dict[str, float] = {  # seconds
    "machine": 60,
    "steps": 90,
    "pipeline": 70,
    "training": 90,
    "tests": 100,
    "pipeline compiled": 95,
    "training compiled": 95,
}
BATCHES = (1, 8, 32)
STEPS, TOLD = 300, 50
ROUNDS = 5
MINI = "params/mini/03_train.yml"


def machine(run: Run) -> Iterator[dict[str, Any]]:
    """What the device can do at all; then the backbone is made, where it is of random weights."""
    device = PartialState().device
    dtype = quick_dtype(device)
    yield {
        "device": device_name(),
        "dtype": str(dtype),
        "tflop_s": matrix_rate(device, dtype) / 1e12,
        "copy_gb_s": copy_rate(device) / 1e9,
        **provenance(),
    }
    started = time.perf_counter()
    backbone_folder(run)
    yield {"backbone": run.backbone.name, "ready_in_s": time.perf_counter() - started}


def steps(run: Run) -> Iterator[dict[str, Any]]:
    """Mini steps; a row says how far it is and how many were not finite until then."""
    mini = run_file(repository() / MINI)
    mini = mini.on(replace(mini.data, train=128, val=4, test=4))  # few scenes are drawn soon
    seen = []
    for step in first_steps(mini, until=STEPS):
        seen.append(step)
        if step.step % TOLD == 0:
            finite = [each for each in seen if not each.skipped]
            yield {
                "steps": len(seen),
                "not_finite": len(seen) - len(finite),
                "loss": sum(each.loss for each in finite[-TOLD:]) / max(1, len(finite[-TOLD:])),
                "most_grad_norm": max((each.grad_norm for each in finite), default=None),
                "ms_a_step": 1e3 * median(each.seconds for each in seen),
            }


def tests(run: Run) -> Iterator[dict[str, Any]]:
    """The unit tests of a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "tests"]
    done = subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines()
    failed = [line for line in said if line.startswith("FAILED")]
    yield {"said": said[-1] if said else done.stderr[-200:], "failed": failed}


def pipeline(run: Run, *, fast: bool = False) -> Iterator[dict[str, Any]]:
    """Whole segmentations by AOS: the sum of their parts' medians, and a call of the pipeline."""
    device = PartialState().device
    dtype = quick_dtype(device)
    pipe = RLFSegPipeline.from_backbone(backbone_folder(run), device=device, fast=fast)
    pipe.to(device, dtype)
    roof = matrix_rate(device, dtype)
    for batch in BATCHES:
        forget_peak()
        costs, whole = costs_of(pipe, batch=batch, rounds=ROUNDS)
        seconds, flop = (sum(getattr(c, k) for c in costs.values()) for k in ("seconds", "flop"))
        parts = {name: 1e3 * cost.seconds / batch for name, cost in costs.items()}
        yield {
            "batch": batch,
            "ms_a_picture": 1e3 * seconds / batch,
            "ms_a_picture_called": 1e3 * whole / batch,
            "of_matrix_rate": flop / seconds / roof,
            "peak_gb": peak(),
            "ms_by_part": parts,
        }


def training(run: Run, *, fast: bool = False) -> Iterator[dict[str, Any]]:
    """Steps on latents of random pictures; of a batch that doesn't fit, so much is said."""
    device = PartialState().device
    roof, coder = matrix_rate(device, quick_dtype(device)), codec(run)
    alone = replace(run.machine, processes=1, accumulate=1, compile="inductor" if fast else "")
    one = replace(run, start=None, machine=alone).variant({"selection": "original"})
    ways = [(one, batch) for batch in BATCHES] + [(one.variant({"selection": "exact"}), 8)]
    for each, batch in ways:
        this = each.variant({"batch": batch, "time": "uniform"})
        both, size = kind_of(this), run.data.pixels
        row: dict[str, Any] = {"batch": batch, "kind": both}
        row["predicted_gb"] = memory.needed(this, gpu=device.type == "cuda") / 1e9
        z1 = coder.encode(torch.rand(batch, 3, size, size) * 2 - 1)
        forget_peak()
        try:
            step = training_steps(untrained(this).to(device), coder, z1, both="two" in both)
            flop = count_flop(step)
            seconds = in_turns({"step": step}, rounds=ROUNDS, device=device)["step"]
        except torch.OutOfMemoryError as error:
            yield row | {"failed": str(error).splitlines()[0]}
            continue
        row |= {"ms_a_sample": 1e3 * seconds / batch, "of_matrix_rate": flop / seconds / roof}
        yield row | {"peak_gb": peak()}
        del step


PARTS = {
    "machine": machine,
    "steps": steps,
    "tests": tests,
    "pipeline": pipeline,
    "training": training,
    "pipeline compiled": lambda run: pipeline(run, fast=True),
    "training compiled": lambda run: training(run, fast=True),
}


def device_name() -> str:
    """The name of the GPU, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def forget_peak() -> None:
    """Begin to count memory anew."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float | None:
    """The most memory since, in GB; None without a GPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def gathered(commands: dict[str, Sequence[str]], limits: dict[str, float], out: Path) -> bool:
    """Run each part's command within its limit; keep its lines of JSON as they come.

    Returns:
        Whether all parts came to their end.
    """
    found: dict[str, Any] = {}
    for name, command in commands.items():
        started = time.perf_counter()
        part = found[name] = {"status": "cut", "limit_s": limits[name], "rows": []}
        log = out.with_name(f"{out.stem}_{name.replace(' ', '_')}.log")
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            ending = threading.Timer(limits[name], end, [process])
            ending.start()
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if line.startswith("{"):
                        part["rows"].append(json.loads(line))
                        print(f"{name}: {line.strip()}", flush=True)
                        write(out, found)
                code = process.wait()
                cut = not ending.is_alive()
            finally:
                ending.cancel()
                end(process)
        part["status"] = "cut" if cut else "done" if code == 0 else f"failed, see {log.name}"
        part["seconds"] = round(time.perf_counter() - started, 1)
        print(f"{name}: {part['status']}, {part['seconds']} s of {limits[name]}", flush=True)
        write(out, found)
    return all(part["status"] == "done" for part in found.values())


def end(process: subprocess.Popen[str]) -> None:
    """Kill a part and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def write(path: Path, found: dict[str, Any]) -> None:
    """Put what is found into the file, whole."""
    with replaced(path) as draft:
        draft.write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    """Runs the parts, or the one that it is told to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parameters", type=Path, help="a chapter's YAML file, of the size")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"))
    parser.add_argument("--part", choices=tuple(PARTS), help="this one alone, as lines of JSON")
    given = parser.parse_args()
    if given.part:
        for row in PARTS[given.part](run_file(given.parameters)):
            print(json.dumps(row), flush=True)
        return 0
    given.out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, str(given.parameters), "--part"]
    whole = gathered({name: [*command, name] for name in LIMITS}, LIMITS, given.out)
    print(f"{given.out} has all of it")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
