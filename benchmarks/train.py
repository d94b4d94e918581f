"""What a training step costs: the naive loop beside the cached ones, in turns, in one run.

    python benchmarks/train.py params/mini/03_train.yml --batch 8
    python benchmarks/train.py params/preflight/03_train.yml --batch 1 --rounds 3
    python benchmarks/train.py params/preflight/03_train.yml --batch 8 --compile inductor \
        --only "cached, one label"

The naive loop does what the equations say, as they stand: it encodes the images and both masks of
every batch anew, and asks the UNet for one label after the other. All ways train one and the same
UNet, and the medians of their steps are compared. Rates are set against a large matrix product in
the same precision and run.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

import rlfseg  # noqa: F401  (first, before anything that imports torchvision)
from rlfseg.chapters.reading import run_file
from rlfseg.config import MachineConfig, OptimiserConfig
from rlfseg.data.packed.read import Pack
from rlfseg.data.packed.refined import add_refined
from rlfseg.data.packed.schema import index_path
from rlfseg.device import quick_accelerator, quick_dtype
from rlfseg.evaluation.cost import count_flop, matrix_rate
from rlfseg.experiment import codec, packed, untrained
from rlfseg.method.types import Latent, PerSample
from rlfseg.models.latent_cache import LatentCache, _Rows
from rlfseg.training.flow_batch import FlowBatch, batch_items, flow_batch
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit

WAYS = {
    "naive, exact": ("exact", "uniform"),
    "encoding, exact": ("exact", "uniform"),
    "cached, exact": ("exact", "uniform"),
    "cached, probe": ("probe", "uniform"),
    "cached, exact, t = 1": ("exact", "one"),
    "cached, one label": ("original", "uniform"),
    "cached, one label, t = 1": ("original", "one"),
}


class Uncached(LatentCache):
    """Encodes whatever it is asked for, each time."""

    def _filled(
        self, kept: _Rows, rows: np.ndarray, encode: Callable[[np.ndarray], Latent]
    ) -> Latent:
        return encode(rows)


class OneByOne(RectifiedFlowObjective):
    """Both labels' losses by two passes."""

    def _both(self, batch: FlowBatch) -> tuple[PerSample, PerSample]:
        assert batch.z0_refined is not None
        original, refined = (
            self._loss(z0=z0, z1=batch.z1, t=batch.t, c=batch.c)
            for z0 in (batch.z0, batch.z0_refined)
        )
        return original, refined


def with_refined(pack: Pack, folder: Path) -> Pack:
    """A copy whose refined masks are the exact ones."""
    for source in (index_path(pack.path), pack.path):
        shutil.copy(source, folder)
    copy = Pack(folder / pack.path.name)
    truths = (copy.masks(item)[1] for item in range(len(copy)))
    add_refined(copy, [truth for truth in truths if truth is not None], made_of="truth")
    return Pack(folder / pack.path.name)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parameters", type=Path, help="a chapter's YAML file")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", default="", help="a backend of torch.compile, as inductor")
    parser.add_argument("--only", choices=tuple(WAYS), help="this way alone")
    given = parser.parse_args()
    run = run_file(given.parameters)
    run = replace(run, machine=MachineConfig(compile=given.compile))
    ways = [given.only] if given.only else list(WAYS)
    coder, unet = codec(run), untrained(run)
    with TemporaryDirectory() as name:
        folder = Path(name)
        pack = with_refined(packed(run, "val"), folder)
        cached = LatentCache(folder / "cache", pack, coder)
        anew = Uncached(folder / "none", pack, coder)
        for step in range(1, given.rounds + 3):
            items = batch_items(len(pack), given.batch, seed=0, step=step)
            for each in (cached.z1, cached.z0, cached.z0_refined):
                each(items)
        trainings, batches = {}, {}
        for way in ways:
            selection, time = WAYS[way]
            cache = cached if way.startswith("cached") else anew
            kind = OneByOne if way.startswith("naive") else RectifiedFlowObjective
            how = {"size": given.batch, "time": time, "selection": selection, "seed": 0}
            batches[way] = partial(flow_batch, cache, **how)
            trainings[way] = fit(
                kind(unet, selection=selection),
                batches[way],
                OptimiserConfig(steps=given.rounds + 2, lr=1e-6),
                accelerator=quick_accelerator(),
            )
        flop = {
            way: count_flop(partial(next, each)) + count_flop(partial(batches[way], 1))
            for way, each in trainings.items()  # batches are made in a thread, where none is seen
        }
        _, *turns = zip(*trainings.values(), strict=True)  # the first are slow: they compile
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    dtype = quick_dtype(coder.device)
    where = f"batch {given.batch}, {dtype}, {device}"
    print(f"{run.backbone.name}, {run.data.pixels} pixels, {where}")
    roof = matrix_rate(coder.device, dtype)
    print(f"a matrix product runs at {roof / 1e9:.0f} GFLOP/s")
    naive = None
    for way, steps in zip(ways, zip(*turns, strict=True), strict=True):
        seconds = median(step.seconds for step in steps)
        naive = naive or seconds
        print(
            f"{way:26}{seconds:8.3f} s a step{naive / seconds:6.1f} times as fast"
            f"{flop[way] / 1e9:10.1f} GFLOP{flop[way] / seconds / roof:6.0%} of that rate"
        )


if __name__ == "__main__":
    main()
