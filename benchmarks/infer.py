"""What a segmentation costs by parts, at the size of a chapter's backbone.

    python benchmarks/infer.py params/mini/05_phrasecut.yml
    python benchmarks/infer.py params/preflight/05_phrasecut.yml --batch 1 --rounds 2 --bf16
    python benchmarks/infer.py params/preflight/05_phrasecut.yml --batch 32 --fast

The weights are the backbone's own, since training doesn't change the cost; those of the tiny
decoder, which is of TAESD's published size, are random. Rates are set against a large matrix
product in the same precision, in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

import rlfseg  # noqa: F401  (first, before anything that imports torchvision)

# isort: split
from diffusers import AutoencoderTiny

from rlfseg.chapters.reading import run_file
from rlfseg.evaluation.cost import costs_of, in_turns, matrix_rate
from rlfseg.experiment import backbone_folder
from rlfseg.pipeline import RLFSegPipeline

WALK = 25  # steps of the sampler that one step is set against


def ask(
    pipe: RLFSegPipeline, picture: Tensor, asked: Sequence[str | list[str]], decoder: str
) -> None:
    """One call of the pipeline for each phrase, or each list of phrases."""
    for phrases in asked:
        pipe(picture, phrases, decoder=decoder)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parameters", type=Path, help="a chapter's YAML file")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 in the place of float32")
    parser.add_argument(
        "--fast", action="store_true", help="compiled, in bfloat16; parts alone, not whole calls"
    )
    given = parser.parse_args()
    run, device = run_file(given.parameters), PartialState().device
    dtype = torch.bfloat16 if given.bf16 or given.fast else torch.float32
    backbone = backbone_folder(run)
    pipe = RLFSegPipeline.from_backbone(backbone, device=device, fast=given.fast)
    pipe.register_modules(tiny_vae=AutoencoderTiny().eval())
    pipe.to(device, dtype)
    pipe.set_progress_bar_config(disable=True)
    roof = matrix_rate(device, dtype)
    costs, _ = costs_of(pipe, batch=given.batch, rounds=given.rounds)
    picture = torch.rand(3, pipe.side, pipe.side)
    phrases = ["small striped star", "red circle", "moon", "the left heart"]
    ways: dict[str, Sequence[str | list[str]]] = {
        "one phrase": [phrases[0]],
        "four phrases at once": [phrases],
        "four phrases in four calls": phrases,
    }
    calls = {
        f"{way}, {decoder}": partial(ask, pipe, picture, asked, decoder)
        for decoder in ("vae", "taesd")
        for way, asked in ways.items()
    }
    # compiled parts would be compiled again for every other number of phrases
    whole = {} if given.fast else in_turns(calls, rounds=given.rounds, device=device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{run.backbone.name}, {pipe.side} pixels, batch {given.batch}, {dtype}, {name}")
    print(f"a matrix product runs at {roof / 1e9:.0f} GFLOP/s")
    for part, cost in costs.items():
        print(
            f"{part:10}{1e3 * cost.seconds / given.batch:10.1f} ms a picture"
            f"{cost.flop / given.batch / 1e9:10.1f} GFLOP{cost.rate / roof:8.0%} of that rate"
        )
    once = sum(cost.seconds for cost in costs.values())
    walk = once + (WALK - 1) * costs["UNet"].seconds - costs["rescale"].seconds
    print(
        f"one step: {1e3 * once / given.batch:.1f} ms a picture; {WALK} steps: {walk / once:.1f}x"
    )
    for call, seconds in whole.items():
        four = whole[f"four phrases in four calls, {call.rsplit(', ')[-1]}"]
        print(f"{call:34}{1e3 * seconds:10.1f} ms{seconds / four:8.2f} of four calls")


if __name__ == "__main__":
    main()
