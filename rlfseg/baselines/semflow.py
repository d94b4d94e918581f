"""A baseline after SemFlow: a flow without words, from a picture to a coloured map of its classes.

Source: C. Wang et al., "SemFlow: binding semantic segmentation and image synthesis via rectified
flow" (NeurIPS 2024). Left out of it: the way back, from maps to pictures, and with it the
perturbation of the colours that it is trained with; its training length and resolution. Changed:
which colours stand for the classes, and what they are compared with (`spread`, `calibrated`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from pydantic.dataclasses import dataclass as settings
from safetensors.torch import load_file, save_file

from rlfseg.baselines.palette import Palette, calibrated, spread
from rlfseg.config import STRICT, Count, OptimiserConfig, Positive, Seed
from rlfseg.evaluation.closed_set import confusions_in_parts, true_classes
from rlfseg.evaluation.confusion import Confusion
from rlfseg.evaluation.predict import spaced
from rlfseg.experiment import (
    Run,
    backbone_folder,
    check_there,
    codec,
    latent_cache,
    packed,
    ready,
)
from rlfseg.method.sampling import multi_step
from rlfseg.method.types import Velocity
from rlfseg.models.latent_cache import LatentCache
from rlfseg.models.unet import as_velocity, for_sampling, load_trained, load_unet, save_trained
from rlfseg.processes import launch_for, together, until
from rlfseg.stage import PARTS, Stage, found, hashed, readable, replaced
from rlfseg.training.flow_batch import FlowBatch, batch_items, draw_times
from rlfseg.training.flow_objective import RectifiedFlowObjective
from rlfseg.training.loop import fit_in_stage

_COUNTED, _PALETTE = "confusions.npz", "palette.safetensors"
_OF_SCORING = ("euler", "scenes")  # the second is in the data's identity
_CALIBRATED = 64  # training pictures that the returned colours are measured on


@settings(frozen=True, config=STRICT)
class SemflowConfig:
    """Settings of the baseline.

    Attributes:
        steps: that all parameters of the backbone's UNet are trained for.
        scenes: that are drawn to train on, where the data are drawn ones.
        euler: steps of a sampled map.
        seed: of every batch.
    """

    steps: Count
    batch: Count = 16
    lr: Positive = 1e-3
    scenes: Count = 1
    euler: Count = 25
    seed: Seed = 42


def semflow_batch(
    cache: LatentCache,
    palette: Palette,
    names: Sequence[str],
    step: int,
    *,
    size: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> FlowBatch:
    """One process's share of a step's batch: pictures and their painted maps, and no words.

    Args:
        cache: of the packed training split, whose captions are `names`.
        palette: that the maps are painted with.
        names: the closed set, in the order of the classes.
        step: number from 1.
        size: global batch size.
        seed: of the run.
        share: this process's number and how many there are.
    """
    rank, world = share
    pack, codec = cache.pack, cache.codec
    chosen = batch_items(len(pack.image_ids), size, seed=seed, step=step, share=share)
    ids = [pack.image_ids[k] for k in chosen]
    maps = np.stack([true_classes(pack, image_id, names) for image_id in ids])
    return FlowBatch(
        z1=cache.z1([pack.find(image_id, pack.captions(image_id)[0]) for image_id in ids]),
        z0=codec.encode(palette.paint(maps)),
        c=codec.text([""]).expand(len(ids), -1, -1),
        t=draw_times(size, kind="uniform", seed=seed, step=step)[rank::world].to(codec.device),
        names=tuple(f"image {image_id}" for image_id in ids),
    )


def named_by_colour(
    v: Velocity, cache: LatentCache, palette: Palette, images: Sequence[str], *, euler: int
) -> Iterator[np.ndarray]:
    """Sample a coloured map for each picture and give every pixel the nearest colour's class.

    Yields:
        For each picture, class numbers [H, W], int64.
    """
    codec, pack = cache.codec, cache.pack
    c = codec.text([""])
    for image_id in images:
        z1 = cache.z1([pack.find(image_id, pack.captions(image_id)[0])])
        z0 = multi_step(v, z1=z1, c=c, steps=euler).z0
        yield palette.nearest(codec.decode_image(z0))[0]


def train_stage(run: Run, config: SemflowConfig) -> Stage:
    """Identify the trained baseline; the run's data are the closed set's."""
    kept = {name: value for name, value in hashed(config).items() if name not in _OF_SCORING}
    inputs = {"backbone": run.backbone_stage, "data": to_learn(run, config).source_stage}
    return Stage("semflow", 1, kept, inputs, asdict(config))


def scores_stage(run: Run, config: SemflowConfig, *, images: int) -> Stage:
    """Identify its confusions on evenly spaced pictures of the validation split."""
    inputs = {"training": train_stage(run, config), "data": run.data_stage}
    return Stage("scores-semflow", 1, {"images": images, "euler": config.euler}, inputs)


def to_learn(run: Run, config: SemflowConfig) -> Run:
    """Return the same with as many scenes as training takes; an outside data set as it is."""
    if run.data.source != "mini":
        return run
    return run.on(replace(run.data, train=config.scenes, val=1))


def trained(run: Run, config: SemflowConfig, names: Sequence[str]) -> Path:
    """Return the folder of the trained UNet and its palette; trained, or found so.

    It is trained by `machine.processes` processes, or, in a process of a launch, by those.

    Raises:
        RuntimeError: if the processes fail.
    """
    launch_for(
        train_stage(run, config),
        trained,
        run,
        config,
        names,
        processes=run.machine.processes,
        profile=run.profile,
        before=lambda: ready(run),
    )

    def train(folder: Path) -> dict[str, Any]:
        coder, state = codec(run), PartialState()
        cache = latent_cache(to_learn(run, config), "train", coder)
        place = folder / _PALETTE  # of one process, once
        if state.is_main_process and not place.is_file():
            some = spaced(len(cache.pack.image_ids), _CALIBRATED)
            ids = [cache.pack.image_ids[k] for k in some]
            maps = np.stack([true_classes(cache.pack, image_id, names) for image_id in ids])
            with replaced(place) as draft:
                save_file(vars(calibrated(coder, spread(coder, len(names) + 1), maps)), draft)
        until(place.is_file)
        palette = _palette(place)
        unet = load_unet(backbone_folder(run)).requires_grad_(True)

        def save() -> None:
            save_trained(unet, folder)

        batch = partial(
            semflow_batch,
            cache,
            palette,
            names,
            size=config.batch,
            seed=config.seed,
            share=(state.process_index, state.num_processes),
        )
        return fit_in_stage(
            RectifiedFlowObjective(unet),
            batch,
            OptimiserConfig.from_scratch(steps=config.steps, lr=config.lr, warmup=100),
            folder,
            title="training semflow",
            save=save,
            machine=run.machine,
        )

    return together(train_stage(run, config), train, profile=run.profile)


def _palette(path: Path) -> Palette:
    with readable(path):
        return Palette(**load_file(path))


@dataclass(frozen=True)
class Named:
    """Confusions of pictures, one each: of the baseline, and of the true maps come back.

    The second is what the autoencoder alone lets through.
    """

    given: list[Confusion]
    carried: list[Confusion]


def named(run: Run, config: SemflowConfig, names: Sequence[str], *, images: int) -> Named:
    """Score the baseline in the closed set, or find it scored; processes share the pictures.

    Args:
        run: on the closed set's data.
        config: settings of the baseline.
        names: the closed set, in the order of the classes.
        images: how many pictures of the validation split, evenly spaced.
    """
    stage = scores_stage(run, config, images=images)
    if found(stage, profile=run.profile) is None:
        trained(run, config, names)
        packed(run, "val")

    def count(folder: Path) -> None:
        first, coder = trained(run, config, names), codec(run)
        unet = for_sampling(load_trained(backbone_folder(run), first), coder.device)
        palette = _palette(first / _PALETTE)
        cache = latent_cache(run, "val", coder)
        ids = cache.pack.image_ids
        chosen = [ids[k] for k in spaced(len(ids), images)]

        def given(some: Sequence[str]) -> Iterator[np.ndarray]:
            return named_by_colour(as_velocity(unet), cache, palette, some, euler=config.euler)

        def carried(some: Sequence[str]) -> Iterator[np.ndarray]:
            for image_id in some:
                classes = true_classes(cache.pack, image_id, names)[None]
                z0 = coder.encode(palette.paint(classes))
                yield palette.nearest(coder.decode_image(z0))[0]

        kept = {}
        for asking in (given, carried):
            parts = folder / PARTS / asking.__name__
            counted = confusions_in_parts(parts, cache.pack, chosen, names, asking)
            kept[asking.__name__] = np.stack([each.pixels for each in counted])
        if PartialState().is_main_process:
            np.savez_compressed(folder / _COUNTED, allow_pickle=False, **kept)

    path = together(stage, count, profile=run.profile) / _COUNTED
    with readable(path), np.load(path) as kept:
        return Named(*([Confusion(p) for p in kept[kind]] for kind in ("given", "carried")))


def named_if_there(
    run: Run, config: SemflowConfig, names: Sequence[str], *, images: int
) -> Named | None:
    """Score the baseline as `named` does; without the training split this is said, and None."""
    stages = (scores_stage(run, config, images=images), train_stage(run, config))
    if not any(found(stage, profile=run.profile) for stage in stages):
        try:
            check_there(to_learn(run, config), "train")
        except FileNotFoundError as error:
            print(f"SemFlow's idea is left out: {error}")
            return None
    return named(run, config, names, images=images)
