"""A baseline after SemFlow: a flow without words, from a picture to a coloured map of its classes.

Source: C. Wang et al., "SemFlow: binding semantic segmentation and image synthesis via rectified
flow" (NeurIPS 2024). Left out of it: the way back, from maps to pictures, and with it the
perturbation of the colours that makes it many-valued; a decoder of its own resolution (it works at
512, here at the packed size). Its time runs from the picture, too, but is counted the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from rlfseg.cache import LatentCache
from rlfseg.closed_set import each_confusion, true_classes
from rlfseg.config import OptimiserConfig, SamplerConfig
from rlfseg.data import FlowBatch, batch_items, draw_times
from rlfseg.description import build
from rlfseg.evaluate import sample, spaced
from rlfseg.identity import Identity
from rlfseg.metrics import IGNORED, Confusion
from rlfseg.model import as_velocity, load_trained, load_unet, save_trained
from rlfseg.objective import RectifiedFlowObjective
from rlfseg.setting import Setting
from rlfseg.stage import Stage, run
from rlfseg.train import fit_in_stage
from rlfseg.types import Image, Velocity

_MAPS = "confusions.npz"


@dataclass(frozen=True)
class SemflowConfig:
    """Settings of the baseline.

    Attributes:
        steps: that all parameters of the backbone's UNet are trained for.
        scenes: that are drawn to train on, where the data are drawn ones.
        euler: steps of a sampled map.
        seed: of every batch.
    """

    steps: int
    batch: int = 16
    lr: float = 1e-3
    scenes: int = 1
    euler: int = 25
    seed: int = 42


def colours(count: int) -> np.ndarray:
    """A colour for each class and one, the last, for pixels of none: [count + 1, 3] in [-1, 1].

    They are the first points of the coarsest regular grid that has as many, so that the nearest two
    lie 2 / (levels - 1) apart.
    """
    levels = 2
    while levels**3 < count + 1:
        levels += 1
    numbers = np.arange(count + 1)
    digits = np.stack([numbers // levels**k % levels for k in range(3)], axis=1)
    return 2.0 * digits / (levels - 1) - 1


def painted(classes: np.ndarray, count: int) -> Image:
    """Class maps (b, H, W), numbers below `count` or `IGNORED`, as pictures (b, 3, H, W)."""
    known = np.where(classes == IGNORED, count, classes)
    return torch.from_numpy(colours(count)[known]).float().permute(0, 3, 1, 2)


def nearest(pictures: Image, count: int) -> np.ndarray:
    """The class (b, H, W) below `count` whose colour is nearest to each pixel (b, 3, H, W)."""
    palette = torch.from_numpy(colours(count)[:count]).to(pictures)
    pixels = pictures.permute(0, 2, 3, 1)
    # |p - m|^2 = |p|^2 - 2 p m + |m|^2, and the first is the same for all classes
    far = palette.square().sum(1) - 2 * pixels @ palette.T
    return far.argmin(-1).cpu().numpy()


def semflow_batch(
    cache: LatentCache,
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
        names: the closed set, in the order of the classes.
        step: number from 1.
        size: global batch size.
        seed: of the run.
        share: this process's number and how many there are.
    """
    rank, world = share
    pack, frozen = cache.pack, cache.frozen
    chosen = batch_items(len(pack.image_ids), size, seed=seed, step=step)[rank::world]
    ids = [pack.image_ids[k] for k in chosen]
    maps = np.stack([true_classes(pack, image_id, names) for image_id in ids])
    return FlowBatch(
        z1=cache.z1([pack.find(image_id, pack.captions(image_id)[0]) for image_id in ids]),
        z0=frozen.encode(painted(maps, len(names))),
        c=frozen.text([""]).expand(len(ids), -1, -1),
        t=draw_times(size, kind="uniform", seed=seed, step=step)[rank::world],
        names=tuple(f"image {image_id}" for image_id in ids),
    )


def named_by_colour(
    v: Velocity, cache: LatentCache, images: Sequence[str], names: Sequence[str], *, euler: int
) -> Iterator[np.ndarray]:
    """Samples a coloured map for each picture and gives every pixel the nearest colour's class.

    Yields:
        For each picture, class numbers (H, W), int64.
    """
    frozen, pack, way = cache.frozen, cache.pack, SamplerConfig("steps", steps=euler)
    c, zb = frozen.text([""]), frozen.black(cache.pixels)
    for image_id in images:
        z1 = cache.z1([pack.find(image_id, pack.captions(image_id)[0])])
        z0 = sample(way, v, z1=z1, c=c, zb=zb).z0
        yield nearest(frozen.decode_image(z0), len(names))[0]


def train_stage(of: Identity, choice: Mapping[str, Any]) -> Stage:
    """Identifies the trained baseline; `of` describes the closed set's data."""
    config = build(SemflowConfig, "semflow", choice)
    kept = {name: value for name, value in asdict(config).items() if name not in _OF_SCORING}
    learned = _to_learn(of, config)
    inputs = {"backbone": of.backbone_stage, "data": learned.source_stage}
    return Stage("semflow", 1, kept, inputs)


_OF_SCORING = ("euler", "scenes")  # the second is in the data's identity


def scores_stage(of: Identity, choice: Mapping[str, Any], *, images: int) -> Stage:
    """Identifies its confusions on evenly spaced pictures of the validation split."""
    config = build(SemflowConfig, "semflow", choice)
    inputs = {"training": train_stage(of, choice), "data": of.data_stage}
    return Stage("scores-semflow", 1, {"images": images, "euler": config.euler}, inputs)


def _to_learn(of: Any, config: SemflowConfig) -> Any:
    """The same with as many scenes as training takes; an outside data set as it is."""
    if of.data.source != "mini":
        return of
    return replace(of, data=replace(of.data, train=config.scenes, val=1))


def trained_field(setting: Setting, choice: Mapping[str, Any], names: Sequence[str]) -> Velocity:
    """The baseline's velocity field on this machine's device; trained, or found so."""
    config = build(SemflowConfig, "semflow", choice)
    frozen = setting.frozen()

    def make(folder: Path) -> dict[str, Any]:
        unet, state = load_unet(setting.backbone_location()).requires_grad_(True), PartialState()
        batch = partial(
            semflow_batch,
            _to_learn(setting, config).cache("train", frozen),
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
            save=lambda: save_trained(unet, folder),
        )

    folder = run(train_stage(setting, choice), make, profile=setting.profile)
    unet = load_trained(setting.backbone_location(), folder)
    return as_velocity(unet.to(frozen.device))


def confusions(
    setting: Setting, choice: Mapping[str, Any], names: Sequence[str], *, images: int
) -> list[Confusion]:
    """The baseline's confusions, one a picture, scored or found so.

    Args:
        setting: of the closed set's data.
        choice: fields of `SemflowConfig`.
        names: the closed set, in the order of the classes.
        images: how many pictures of the validation split, evenly spaced.
    """
    config = build(SemflowConfig, "semflow", choice)

    def make(folder: Path) -> None:
        v, cache = trained_field(setting, choice, names), setting.cache("val", setting.frozen())
        ids = cache.pack.image_ids
        chosen = [ids[k] for k in spaced(len(ids), images)]
        given = named_by_colour(v, cache, chosen, names, euler=config.euler)
        each = [one.pixels for one in each_confusion(given, cache.pack, chosen, names)]
        np.savez_compressed(folder / _MAPS, pixels=np.stack(each))

    stage = scores_stage(setting, choice, images=images)
    with np.load(run(stage, make, profile=setting.profile) / _MAPS) as kept:
        return [Confusion(pixels) for pixels in kept["pixels"]]
